"""The real clients against a simulated region: one daemon a session, an account's state shared, a region a test."""

import itertools
import os
import pathlib
import shutil
import subprocess
import sys

import boto3
import botocore.config
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from support import Daemon, binary, terraform  # noqa: E402

REGIONS = itertools.count(1)


@pytest.fixture(scope="session")
def daemon(tmp_path_factory):
    with Daemon(binary(), tmp_path_factory.mktemp("region"), ["--driver", "sim"]) as daemon:
        yield daemon


@pytest.fixture
def region():
    """A region that no other test uses: its state is apart."""
    number = next(REGIONS)
    return f"xx-{chr(97 + number // 26 % 26)}{chr(97 + number % 26)}-{1 + number // 676}"


@pytest.fixture
def client(daemon, region):
    """Makes boto3 clients of this test's region."""

    def make(service="ec2", region_name=region, **arguments):
        return daemon.client(service, region_name, **arguments)

    return make


@pytest.fixture
def ec2(client):
    return client("ec2")


@pytest.fixture
def image_id(ec2):
    images = ec2.describe_images(Filters=[{"Name": "name", "Values": ["gureum-micro-*"]}])["Images"]
    return images[0]["ImageId"]


@pytest.fixture
def aws(daemon, region):
    """Runs aws-cli; gives its standard output."""
    program = shutil.which("aws")
    if program is None:
        pytest.skip("aws-cli is not installed")

    def run(*arguments, check=True):
        completed = subprocess.run(
            [program, *arguments],
            env=os.environ | daemon.environment(region) | {"AWS_PAGER": "", "HOME": str(daemon.directory)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if check:
            assert completed.returncode == 0, completed.stderr
            return completed.stdout.strip()
        return completed

    return run


class Workspace:
    """A Terraform configuration of this test's region."""

    def __init__(self, daemon, region, directory, program, mirror):
        self.daemon, self.region, self.directory, self.program = daemon, region, directory, program
        self.environment = os.environ | daemon.environment(region) | {"TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1"}
        if mirror:
            rc = directory / "terraform.rc"
            rc.write_text(f'provider_installation {{\n  filesystem_mirror {{\n    path = "{mirror}"\n  }}\n}}\n')
            self.environment["TF_CLI_CONFIG_FILE"] = str(rc)

    def write(self, configuration, *services, others=()):
        """The configuration, below the provider for this region (and aliased ones for `others`), and what init needs."""
        endpoints = "".join(f'    {service} = "{self.daemon.url}"\n' for service in ("ec2", "sts", *services))

        def provider(region, alias=""):
            return f"""provider "aws" {{
{alias}  region                 = "{region}"
  skip_region_validation = true
  endpoints {{
{endpoints}  }}
}}
"""

        head = 'terraform {\n  required_providers {\n    aws = { source = "hashicorp/aws", version = "5.100.0" }\n  }\n}\n'
        head += provider(self.region)
        head += "".join(provider(name, f'  alias = "{alias}"\n') for alias, name in dict(others).items())
        (self.directory / "main.tf").write_text(head + configuration)
        if self.run("init", "-input=false", codes=(0, 1)).returncode == 1:
            pytest.skip("the AWS provider is not in a mirror and cannot be downloaded")

    def run(self, *arguments, codes=(0,)):
        done = subprocess.run(
            [self.program, *arguments],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode in codes, f"terraform {arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def apply(self, *variables):
        self.run("apply", "-auto-approve", "-input=false", *variables)

    def empty_plan(self, *variables):
        planned = self.run("plan", "-detailed-exitcode", "-input=false", *variables, codes=(0, 2))
        assert planned.returncode == 0, planned.stdout

    def destroy(self, *variables):
        self.run("destroy", "-auto-approve", "-input=false", *variables)

    def client(self, service):
        return self.daemon.client(service, self.region)


@pytest.fixture
def workspace(daemon, region, tmp_path):
    program, mirror = terraform()
    if program is None:
        pytest.skip(mirror)
    return Workspace(daemon, region, tmp_path, program, mirror)
