"""--auth open: what suites written against emulators expect."""

import json
import subprocess
import urllib.error
import urllib.request

import boto3
import botocore.config
import pytest
from asking import instances, launch, until
from support import Daemon, binary, free_port


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    arguments = ["--driver", "sim", "--auth", "open", "--account-id", "000000000001"]
    with Daemon(binary(), tmp_path_factory.mktemp("open"), arguments) as daemon:
        yield daemon


def anybody(daemon, service="ec2", region="us-east-1", **arguments):
    settings = {"aws_access_key_id": "test", "aws_secret_access_key": "test"} | arguments
    return boto3.client(service, region_name=region, endpoint_url=daemon.url, **settings)


def post(url):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_any_key(emulator):
    identity = anybody(emulator, "sts").get_caller_identity()
    assert identity["Account"] == "000000000001" and identity["Arn"] == "arn:aws:iam::000000000001:root"
    assert anybody(emulator, aws_session_token="x").describe_vpcs()["Vpcs"][0]["OwnerId"] == "000000000001"


def test_unsigned(emulator):
    unsigned = botocore.config.Config(signature_version=botocore.UNSIGNED)
    assert anybody(emulator, config=unsigned).describe_vpcs()["Vpcs"]
    assert anybody(emulator, "sts", config=unsigned).get_caller_identity()["Account"] == "000000000001"


def test_the_scope_names_the_region(emulator):
    here, there = anybody(emulator, region="ca-west-1"), anybody(emulator, region="ca-west-2")
    here.create_key_pair(KeyName="here", KeyType="ed25519")
    assert len(here.describe_key_pairs()["KeyPairs"]) == 1 and there.describe_key_pairs()["KeyPairs"] == []


def test_reset(emulator):
    ec2 = anybody(emulator)
    image = ec2.describe_images()["Images"][0]["ImageId"]
    first = launch(ec2, image)["InstanceId"]
    until(ec2, "running", first)
    ec2.create_key_pair(KeyName="gone", KeyType="ed25519")
    assert post(f"{emulator.url}/_gureum/reset") == (200, {"status": "reset"})
    assert instances(ec2) == [] and ec2.describe_key_pairs()["KeyPairs"] == []
    assert ec2.describe_volumes()["Volumes"] == [] and len(ec2.describe_security_groups()["SecurityGroups"]) == 1
    # The region is as new: it has its VPC and its images, and launches.
    image = ec2.describe_images()["Images"][0]["ImageId"]
    second = launch(ec2, image)["InstanceId"]
    until(ec2, "running", second)
    emulator.kill()
    emulator.start()
    assert [i["InstanceId"] for i in instances(ec2)] == [second]
    assert post(f"{emulator.url}/_gureum/reset")[0] == 200


def test_reset_is_refused_where_signatures_count(daemon):
    status, answer = post(f"{daemon.url}/_gureum/reset")
    assert status == 403 and "--auth open" in answer["error"]


def test_health(emulator, daemon):
    for one, account in ((emulator, "000000000001"), (daemon, "123456789012")):
        health = one.health()
        assert health["status"] == "ok" and health["driver"] == "sim" and health["account"] == account
        assert {"ec2", "sts"} <= set(health["services"]) and health["version"] and health["time"].endswith("Z")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{daemon.url}/_gureum/nonsense", timeout=5)
    assert caught.value.code == 404


@pytest.mark.parametrize("address", ["0.0.0.0", "[::]", "192.0.2.1"])
def test_not_beyond_loopback(tmp_path, address):
    done = subprocess.run(
        [binary(), "serve", "--driver", "sim", "--auth", "open", "--listen", f"{address}:{free_port()}", "--data-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode != 0 and "loopback" in done.stderr
    assert list(tmp_path.iterdir()) == []
