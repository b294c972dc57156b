"""--throttle on: AWS's token buckets, one an operation, an account and a region."""

import pytest
from asking import instances, launch, refusal
from support import Daemon, binary, wait_for


@pytest.fixture(scope="module")
def throttled(tmp_path_factory):
    with Daemon(binary(), tmp_path_factory.mktemp("throttled"), ["--driver", "sim", "--throttle", "on"]) as daemon:
        yield daemon


@pytest.fixture
def ec2(throttled, region):
    return throttled.client("ec2", region)


def refused_after(call, most, **arguments):
    """How many calls pass before one is refused, of at most `most`; and the refusal."""
    from botocore.exceptions import ClientError

    for passed in range(most):
        try:
            call(**arguments)
        except ClientError as error:
            answer = error.response
            if answer["Error"]["Code"] == "RequestLimitExceeded":
                assert answer["ResponseMetadata"]["HTTPStatusCode"] == 503
                assert answer["Error"]["Message"] == "Request limit exceeded."
                return passed
    return None


def test_run_instances(throttled, ec2, image_id_of):
    image = image_id_of(ec2)
    passed = refused_after(ec2.run_instances, 40, ImageId=image, InstanceType="t3.micro", MinCount=1, MaxCount=1)
    # Five, and two more for every second that they took.
    assert passed is not None and passed >= 5
    assert len(instances(ec2)) == passed
    # Other operations and other regions have buckets of their own.
    ec2.describe_vpcs()
    ec2.create_key_pair(KeyName="k", KeyType="ed25519")
    other = throttled.client("ec2", "xx-other-1")
    launch(other, image_id_of(other))

    def again():
        return refused_after(ec2.run_instances, 1, ImageId=image, InstanceType="t3.micro", MinCount=1, MaxCount=1) is None

    wait_for(again, "the bucket to have a token again", 10, 0.1)


@pytest.fixture
def image_id_of():
    return lambda ec2: ec2.describe_images()["Images"][0]["ImageId"]


def test_reading(ec2):
    # Fifty unfiltered, with ten more a second; a hundred with a filter.
    passed = refused_after(ec2.describe_instances, 400)
    assert passed is not None and passed >= 50
    bounded = refused_after(ec2.describe_instances, 60, Filters=[{"Name": "instance-state-name", "Values": ["running"]}])
    assert bounded is None or bounded >= 45


def test_resources(ec2, image_id_of):
    image = image_id_of(ec2)
    wish = {"ImageId": image, "InstanceType": "t3.micro", "MinCount": 600, "MaxCount": 600}
    ec2.run_instances(**wish)
    # The request's bucket has tokens, the instances' has 400 left.
    assert refusal(ec2.run_instances, **wish)[0] == "RequestLimitExceeded"
    launch(ec2, image)


def test_off_by_default(daemon, region):
    ec2 = daemon.client("ec2", region)
    image = ec2.describe_images()["Images"][0]["ImageId"]
    assert refused_after(ec2.run_instances, 12, ImageId=image, InstanceType="t3.micro", MinCount=1, MaxCount=1) is None
