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
from support import Daemon, binary  # noqa: E402

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
