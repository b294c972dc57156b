"""AMIs: what courses and Terraform search for is found."""

import datetime

import pytest
from asking import filtered, refusal


def images(ec2, **arguments):
    return ec2.describe_images(**arguments)["Images"]


def test_shape(ec2):
    for image in images(ec2):
        assert image["ImageId"].startswith("ami-") and len(image["ImageId"]) == 21
        assert image["State"] == "available"
        assert (image["RootDeviceType"], image["VirtualizationType"], image["ImageType"]) == ("ebs", "hvm", "machine")
        (device,) = [d for d in image["BlockDeviceMappings"] if d["DeviceName"] == image["RootDeviceName"]]
        assert device["Ebs"]["SnapshotId"].startswith("snap-") and device["Ebs"]["VolumeSize"] >= 1
        datetime.datetime.fromisoformat(image["CreationDate"].replace("Z", "+00:00"))
        assert image["Description"]


@pytest.mark.parametrize(
    "owner, pattern",
    [
        ("amazon", "amzn2-ami-hvm-*"),
        ("amazon", "amzn2-ami-hvm-*-x86_64-gp2"),
        ("amazon", "al2023-ami-*"),
        ("amazon", "al2023-ami-*-x86_64"),
        ("self", "gureum-micro-*"),
        ("136693071363", "debian-12-*"),
    ],
)
def test_what_people_search(ec2, owner, pattern):
    found = images(ec2, Owners=[owner], Filters=filtered(name=pattern, state="available", architecture="x86_64"))
    assert found, pattern
    newest = sorted(found, key=lambda image: image["CreationDate"])[-1]
    made = ec2.run_instances(ImageId=newest["ImageId"], InstanceType="t2.micro", MinCount=1, MaxCount=1)["Instances"][0]
    assert made["ImageId"] == newest["ImageId"]


def test_owners(ec2):
    def ids(**arguments):
        return {image["ImageId"] for image in images(ec2, **arguments)}

    amazon, own = ids(Owners=["amazon"]), ids(Owners=["self"])
    debian = ids(Owners=["136693071363"])
    assert amazon and own and debian and not amazon & own
    assert ids() == ids(Owners=["self", "amazon", "136693071363"]) == amazon | own | debian
    assert ids(Owners=["123456789012"]) == own == ids(Filters=filtered(owner_id="123456789012"))
    assert ids(Filters=filtered(owner_alias="amazon")) == amazon
    assert ids(Filters=filtered(is_public="true")) == amazon | debian
    assert ids(Owners=["210987654321"]) == set()


def test_ids(ec2):
    first = images(ec2)[0]
    assert images(ec2, ImageIds=[first["ImageId"]]) == [first]
    ghost = "ami-0123456789abcdef0"
    code, message, status = refusal(ec2.describe_images, ImageIds=[ghost])
    assert (code, message, status) == ("InvalidAMIID.NotFound", f"The image id '[{ghost}]' does not exist", 400)
    assert refusal(ec2.describe_images, ImageIds=["nonsense"])[0] == "InvalidAMIID.Malformed"


def test_filters(ec2):
    image = images(ec2, Filters=filtered(name="al2023-ami-*"))[0]
    for name, value in {
        "image-id": image["ImageId"],
        "name": image["Name"],
        "block-device-mapping.snapshot-id": image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"],
    }.items():
        assert images(ec2, Filters=[{"Name": name, "Values": [value]}]) == [image], name
    for name, value in {
        "state": "available",
        "is-public": "true",
        "root-device-type": "ebs",
        "virtualization-type": "hvm",
        "architecture": image["Architecture"],
        "owner-alias": "amazon",
        "image-type": "machine",
    }.items():
        found = images(ec2, Filters=[{"Name": name, "Values": [value]}])
        assert image in found, name
    assert images(ec2, Filters=filtered(architecture="arm64")) == [] or image["Architecture"] != "arm64"
    assert refusal(ec2.describe_images, Filters=filtered(colour="red"))[0] == "InvalidParameterValue"


def test_the_same_in_every_region_and_after_a_launch(client):
    here, there = client(region_name="eu-south-1"), client(region_name="eu-south-2")
    names = lambda ec2: sorted(image["Name"] for image in images(ec2))  # noqa: E731
    assert names(here) == names(there) != []
    assert not {i["ImageId"] for i in images(here)} & {i["ImageId"] for i in images(there)}
