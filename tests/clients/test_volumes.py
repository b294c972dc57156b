"""Volumes as boto3 and aws-cli see them: their life, their attachments, their modifications, and every refusal."""

import json
import re
import urllib.error
import urllib.request

import pytest
from asking import filtered, instance, launch, refusal, running, stopped, until, waiter
from support import wait_for


@pytest.fixture
def zone(ec2):
    return ec2.describe_availability_zones()["AvailabilityZones"][0]["ZoneName"]


@pytest.fixture
def make(ec2, zone):
    """Makes a volume that is available; gives its id."""

    def make(size=8, kind="gp3", **arguments):
        settings = {"AvailabilityZone": zone, "Size": size, "VolumeType": kind} | arguments
        name = ec2.create_volume(**settings)["VolumeId"]
        waiter(ec2, "volume_available", VolumeIds=[name])
        return name

    return make


@pytest.fixture
def machine(ec2, image_id, zone):
    """The id of an instance that runs in the volumes' zone."""
    return running(ec2, image_id, Placement={"AvailabilityZone": zone})["InstanceId"]


def volume(ec2, name):
    (found,) = ec2.describe_volumes(VolumeIds=[name])["Volumes"]
    return found


def attachment(ec2, name):
    (found,) = volume(ec2, name)["Attachments"]
    return found


def attached(ec2, name):
    return wait_for(
        lambda: [a for a in volume(ec2, name)["Attachments"] if a["State"] == "attached"],
        f"{name} to be attached",
    )[0]


def modification(ec2, name):
    (found,) = ec2.describe_volumes_modifications(VolumeIds=[name])["VolumesModifications"]
    return found


def completed(ec2, name):
    def reached():
        found = modification(ec2, name)
        return found if found["ModificationState"] == "completed" else None

    return wait_for(reached, f"the modification of {name}")


def status(ec2, name):
    (found,) = ec2.describe_volume_status(VolumeIds=[name])["VolumeStatuses"]
    return found


def test_a_life(ec2, zone, machine):
    made = ec2.create_volume(
        AvailabilityZone=zone,
        Size=8,
        VolumeType="gp3",
        TagSpecifications=[{"ResourceType": "volume", "Tags": [{"Key": "Name", "Value": "data"}]}],
    )
    name = made["VolumeId"]
    assert re.fullmatch("vol-[0-9a-f]{17}", name)
    assert made["State"] == "creating" and made["SnapshotId"] == "" and made["Encrypted"] is False
    assert (made["Size"], made["Iops"], made["Throughput"], made["VolumeType"]) == (8, 3000, 125, "gp3")
    assert made["AvailabilityZone"] == zone and made["MultiAttachEnabled"] is False
    waiter(ec2, "volume_available", VolumeIds=[name])
    assert volume(ec2, name)["Attachments"] == []
    checked = status(ec2, name)
    assert checked["VolumeStatus"]["Status"] == "ok" and checked["Events"] == [] and checked["Actions"] == []
    assert {d["Name"]: d["Status"] for d in checked["VolumeStatus"]["Details"]} == {"io-enabled": "passed", "io-performance": "normal"}

    answer = ec2.attach_volume(VolumeId=name, InstanceId=machine, Device="/dev/sdf")
    assert (answer["State"], answer["Device"], answer["InstanceId"]) == ("attaching", "/dev/sdf", machine)
    assert answer["DeleteOnTermination"] is False
    waiter(ec2, "volume_in_use", VolumeIds=[name])
    place = attached(ec2, name)
    assert (place["Device"], place["InstanceId"], place["DeleteOnTermination"]) == ("/dev/sdf", machine, False)
    mapped = {m["DeviceName"]: m["Ebs"] for m in instance(ec2, machine)["BlockDeviceMappings"]}
    assert mapped["/dev/sdf"]["VolumeId"] == name and mapped["/dev/sdf"]["Status"] == "attached"

    ec2.modify_instance_attribute(
        InstanceId=machine, BlockDeviceMappings=[{"DeviceName": "/dev/sdf", "Ebs": {"DeleteOnTermination": True}}]
    )
    assert attachment(ec2, name)["DeleteOnTermination"] is True

    answer = ec2.detach_volume(VolumeId=name)
    assert (answer["State"], answer["InstanceId"]) == ("detaching", machine)
    waiter(ec2, "volume_available", VolumeIds=[name])
    assert "/dev/sdf" not in {m["DeviceName"] for m in instance(ec2, machine)["BlockDeviceMappings"]}
    ec2.delete_volume(VolumeId=name)
    waiter(ec2, "volume_deleted", VolumeIds=[name])


def test_volumes_of_an_ended_instance(ec2, image_id, zone, make):
    it = running(
        ec2,
        image_id,
        Placement={"AvailabilityZone": zone},
        BlockDeviceMappings=[
            {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1, "DeleteOnTermination": True}},
            {"DeviceName": "/dev/sdg", "Ebs": {"VolumeSize": 2}},
        ],
    )
    ids = {m["DeviceName"]: m["Ebs"]["VolumeId"] for m in it["BlockDeviceMappings"]}
    own = make(1)
    ec2.attach_volume(VolumeId=own, InstanceId=it["InstanceId"], Device="/dev/sdh")
    attached(ec2, own)
    ec2.terminate_instances(InstanceIds=[it["InstanceId"]])
    until(ec2, "terminated", it["InstanceId"])
    waiter(ec2, "volume_deleted", VolumeIds=[ids["/dev/sdf"]])
    waiter(ec2, "volume_deleted", VolumeIds=[ids[it["RootDeviceName"]]])
    waiter(ec2, "volume_available", VolumeIds=[ids["/dev/sdg"], own])


def test_a_stopped_instance(ec2, image_id, zone, make):
    it = stopped(ec2, image_id, Placement={"AvailabilityZone": zone})["InstanceId"]
    name = make(1)
    ec2.attach_volume(VolumeId=name, InstanceId=it, Device="/dev/sdf")
    assert attachment(ec2, name)["State"] == "attached", "at once: nobody has to see it"
    root = instance(ec2, it)["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    device = instance(ec2, it)["RootDeviceName"]
    ec2.detach_volume(VolumeId=root, InstanceId=it)
    assert volume(ec2, root)["State"] == "available"
    code, message, _ = refusal(ec2.start_instances, InstanceIds=[it])
    assert (code, message) == (
        "InvalidParameterValue",
        f"Invalid value '{it}' for instanceId. Instance does not have a volume attached at root ({device})",
    )
    ec2.attach_volume(VolumeId=root, InstanceId=it, Device=device)
    ec2.start_instances(InstanceIds=[it])
    again = until(ec2, "running", it)
    assert {m["DeviceName"] for m in again["BlockDeviceMappings"]} == {device, "/dev/sdf"}
    attached(ec2, name)


def test_encrypted_volumes(ec2, zone, image_id, make):
    name = make(1, Encrypted=True)
    found = volume(ec2, name)
    assert found["Encrypted"] is True and ":key/" in found["KmsKeyId"]
    plain = make(1)
    assert "KmsKeyId" not in volume(ec2, plain)
    found = ec2.describe_volumes(Filters=filtered(encrypted="true"))["Volumes"]
    assert {v["VolumeId"] for v in found} == {name}
    ec2.enable_ebs_encryption_by_default()
    by_default = make(1)
    assert volume(ec2, by_default)["Encrypted"] is True
    it = running(ec2, image_id)
    assert volume(ec2, it["BlockDeviceMappings"][0]["Ebs"]["VolumeId"])["Encrypted"] is True
    ec2.disable_ebs_encryption_by_default()
    it = running(
        ec2,
        image_id,
        BlockDeviceMappings=[{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1, "Encrypted": True}}],
    )
    by_device = {m["DeviceName"]: volume(ec2, m["Ebs"]["VolumeId"])["Encrypted"] for m in it["BlockDeviceMappings"]}
    assert by_device == {it["RootDeviceName"]: False, "/dev/sdf": True}
    code, _, _ = refusal(ec2.create_volume, AvailabilityZone=zone, Size=1, KmsKeyId=found[0]["KmsKeyId"])
    assert code == "InvalidParameterDependency"
    code, _, _ = refusal(ec2.create_volume, AvailabilityZone=zone, Size=1, Encrypted=True, KmsKeyId="alias/none")
    assert code == "InvalidKMSKey.NotFound"


def test_multi_attach(ec2, image_id, zone, make):
    name = make(4, "io2", Iops=100, MultiAttachEnabled=True)
    machines = [launch(ec2, image_id, Placement={"AvailabilityZone": zone})["InstanceId"] for _ in range(2)]
    until(ec2, "running", *machines)
    for it in machines:
        ec2.attach_volume(VolumeId=name, InstanceId=it, Device="/dev/sdf")
    wait_for(lambda: [a["State"] for a in volume(ec2, name)["Attachments"]] == ["attached"] * 2, "two attachments")
    statuses = status(ec2, name)["AttachmentStatuses"]
    assert {s["InstanceId"] for s in statuses} == set(machines)
    assert {s["IoPerformance"] for s in statuses} == {"normal"}
    code, message, _ = refusal(ec2.detach_volume, VolumeId=name)
    assert (code, message) == ("MissingParameter", "The request must contain the parameter instanceId")
    code, message, _ = refusal(ec2.attach_volume, VolumeId=name, InstanceId=machines[0], Device="/dev/sdg")
    assert (code, message) == ("VolumeInUse", f"{name} is already attached to an instance")
    ec2.detach_volume(VolumeId=name, InstanceId=machines[0])
    wait_for(lambda: len(volume(ec2, name)["Attachments"]) == 1, "one attachment")
    ec2.terminate_instances(InstanceIds=machines)
    waiter(ec2, "volume_available", VolumeIds=[name])


def test_modifications(ec2, make, machine):
    name = make(8, "gp2")
    ec2.attach_volume(VolumeId=name, InstanceId=machine, Device="/dev/sdf")
    attached(ec2, name)
    code, _, _ = refusal(ec2.describe_volumes_modifications, VolumeIds=[name])
    assert code == "InvalidVolumeModification.NotFound"
    asked = ec2.modify_volume(VolumeId=name, Size=10, VolumeType="gp3", Iops=4000, Throughput=250)["VolumeModification"]
    assert asked["ModificationState"] == "modifying" and asked["Progress"] == 0
    assert (asked["OriginalSize"], asked["OriginalIops"], asked["OriginalVolumeType"]) == (8, 100, "gp2")
    assert (asked["TargetSize"], asked["TargetIops"], asked["TargetThroughput"], asked["TargetVolumeType"]) == (10, 4000, 250, "gp3")
    wait_for(lambda: modification(ec2, name)["ModificationState"] != "modifying", "the node")
    code, message, _ = refusal(ec2.modify_volume, VolumeId=name, Size=11)
    assert (code, message) == ("IncorrectModificationState", f"Volume {name} cannot be modified in modification state OPTIMIZING")
    ended = completed(ec2, name)
    assert ended["Progress"] == 100 and ended["EndTime"] >= ended["StartTime"]
    now = volume(ec2, name)
    assert (now["Size"], now["Iops"], now["Throughput"], now["VolumeType"], now["State"]) == (10, 4000, 250, "gp3", "in-use")
    found = ec2.describe_volumes_modifications(Filters=filtered(target_size="10", modification_state="completed"))
    assert [m["VolumeId"] for m in found["VolumesModifications"]] == [name]
    code, message, _ = refusal(ec2.modify_volume, VolumeId=name, Size=9)
    assert (code, message) == ("InvalidParameterValue", "New size cannot be smaller than existing size")


def test_attributes(ec2, make):
    name = make()
    ask = lambda attribute: ec2.describe_volume_attribute(VolumeId=name, Attribute=attribute)  # noqa: E731
    assert ask("autoEnableIO")["AutoEnableIO"] == {"Value": False}
    assert ask("productCodes")["ProductCodes"] == []
    ec2.modify_volume_attribute(VolumeId=name, AutoEnableIO={"Value": True})
    assert ask("autoEnableIO")["AutoEnableIO"] == {"Value": True}
    ec2.enable_volume_io(VolumeId=name)
    assert status(ec2, name)["VolumeStatus"]["Status"] == "ok"


def test_instance_store(ec2, image_id, daemon):
    stored = [{"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"}]
    it = running(ec2, image_id, InstanceType="m5d.large")
    assert [m["DeviceName"] for m in it["BlockDeviceMappings"]] == [it["RootDeviceName"]], "no volume: it is not EBS"
    running(ec2, image_id, InstanceType="m3.medium", BlockDeviceMappings=stored)
    code, message, _ = refusal(
        ec2.run_instances,
        ImageId=image_id,
        InstanceType="t3.micro",
        MinCount=1,
        MaxCount=1,
        BlockDeviceMappings=stored,
    )
    assert code == "InvalidBlockDeviceMapping" and "t3.micro" in message


def test_burst_balance(ec2, make, daemon):
    name = make(8, "gp2")
    with urllib.request.urlopen(f"{daemon.url}/_gureum/volumes/{name}", timeout=5) as answer:
        known = json.load(answer)
    assert known["burst_balance"] == 100.0 and known["filled_percent"] == 100
    assert known["limits"]["operations"] == {"base": 100, "burst": {"rate": 3000, "bucket": 5400000}}
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{daemon.url}/_gureum/volumes/vol-0123456789abcdef0", timeout=5)
    assert caught.value.code == 404


GHOST = "vol-0123456789abcdef0"
GONE = ("InvalidVolume.NotFound", f"The volume '{GHOST}' does not exist.")


@pytest.mark.parametrize(
    "operation, arguments",
    [
        ("delete_volume", {}),
        ("detach_volume", {}),
        ("enable_volume_io", {}),
        ("describe_volume_attribute", {"Attribute": "autoEnableIO"}),
        ("modify_volume_attribute", {"AutoEnableIO": {"Value": True}}),
        ("modify_volume", {"Size": 9}),
        ("attach_volume", {"InstanceId": "i-0123456789abcdef0", "Device": "/dev/sdf"}),
    ],
)
def test_volumes_that_do_not_exist(ec2, operation, arguments):
    code, message, http = refusal(getattr(ec2, operation), VolumeId=GHOST, **arguments)
    assert ((code, message), http) == (GONE, 400)
    code, message, _ = refusal(getattr(ec2, operation), VolumeId="disk", **arguments)
    assert code == "InvalidParameterValue" and "vol-..." in message


def test_volumes_that_cannot_be(ec2, zone):
    for arguments, code in [
        ({}, "MissingParameter"),
        ({"Size": 1, "AvailabilityZone": "nowhere"}, "InvalidZone.NotFound"),
        ({"Size": 1, "AvailabilityZoneId": "use1-az1"}, "InvalidParameterCombination"),
        ({"Size": 0, "VolumeType": "gp3"}, "InvalidParameterValue"),
        ({"Size": 124, "VolumeType": "st1"}, "InvalidParameterValue"),
        ({"Size": 8, "VolumeType": "io1"}, "MissingParameter"),
        ({"Size": 8, "VolumeType": "io1", "Iops": 401}, "InvalidParameterValue"),
        ({"Size": 8, "VolumeType": "io2", "Iops": 4001}, "InvalidParameterValue"),
        ({"Size": 8, "VolumeType": "gp3", "Iops": 4001}, "InvalidParameterValue"),
        ({"Size": 8, "VolumeType": "gp3", "Throughput": 751}, "InvalidParameterValue"),
        ({"Size": 8, "VolumeType": "gp2", "Iops": 100}, "InvalidParameterCombination"),
        ({"Size": 8, "VolumeType": "gp2", "Throughput": 125}, "InvalidParameterCombination"),
        ({"Size": 8, "VolumeType": "gp3", "MultiAttachEnabled": True}, "InvalidParameterCombination"),
        ({"Size": 8, "VolumeType": "gp3", "VolumeInitializationRate": 100}, "InvalidParameterCombination"),
        ({"Size": 8, "SnapshotId": "snap-0123456789abcdef0"}, "InvalidSnapshot.NotFound"),
        ({"Size": 8, "OutpostArn": "arn:aws:outposts:us-east-1:123456789012:outpost/op-1"}, "UnsupportedOperation"),
        ({"Size": 8, "Operator": {"Principal": "eks.amazonaws.com"}}, "UnsupportedOperation"),
    ]:
        assert refusal(ec2.create_volume, **{"AvailabilityZone": zone} | arguments)[0] == code, arguments


def test_attachments_that_cannot_be(ec2, make, machine, image_id, zone):
    name = make(1)
    attach = lambda **arguments: refusal(  # noqa: E731
        ec2.attach_volume, **{"VolumeId": name, "InstanceId": machine, "Device": "/dev/sdf"} | arguments
    )
    device = instance(ec2, machine)["RootDeviceName"]
    assert attach(Device=device)[:2] == (
        "InvalidParameterValue",
        f"Invalid value '{device}' for unixDevice. Attachment point {device} is already in use",
    )
    assert attach(Device="/dev/nvme1n1")[:2] == (
        "InvalidParameterValue",
        "Value (/dev/nvme1n1) for parameter device is invalid. /dev/nvme1n1 is not a valid EBS device name.",
    )
    assert attach(InstanceId="i-0123456789abcdef0")[0] == "InvalidInstanceID.NotFound"
    other_zone = ec2.describe_availability_zones()["AvailabilityZones"][1]["ZoneName"]
    elsewhere = make(1, AvailabilityZone=other_zone)
    assert attach(VolumeId=elsewhere)[:2] == (
        "InvalidVolume.ZoneMismatch",
        f"The volume '{elsewhere}' is not in the same availability zone as instance '{machine}'",
    )
    assert refusal(ec2.detach_volume, VolumeId=name)[:2] == ("IncorrectState", f"Volume '{name}' is in the 'available' state.")
    ec2.attach_volume(VolumeId=name, InstanceId=machine, Device="/dev/sdf")
    attached(ec2, name)
    assert attach()[:2] == ("VolumeInUse", f"{name} is already attached to an instance")
    assert refusal(ec2.delete_volume, VolumeId=name)[:2] == ("VolumeInUse", f"Volume {name} is currently attached to {machine}")
    root = instance(ec2, machine)["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    assert refusal(ec2.detach_volume, VolumeId=root)[:2] == (
        "OperationNotPermitted",
        f"Unable to detach root volume '{root}' from instance '{machine}'",
    )
    assert refusal(ec2.detach_volume, VolumeId=name, Device="/dev/sdg")[0] == "InvalidAttachment.NotFound"
    assert refusal(ec2.detach_volume, VolumeId=name, InstanceId="i-0123456789abcdef0")[0] == "InvalidAttachment.NotFound"
    ec2.detach_volume(VolumeId=name, Force=True)
    waiter(ec2, "volume_available", VolumeIds=[name])


def test_pages_and_filters(ec2, make, zone):
    names = sorted(make(size) for size in range(1, 8))
    pages = ec2.get_paginator("describe_volumes").paginate(PaginationConfig={"PageSize": 5})
    assert [v["VolumeId"] for page in pages for v in page["Volumes"]] == names
    pages = ec2.get_paginator("describe_volume_status").paginate(PaginationConfig={"PageSize": 5})
    assert [v["VolumeId"] for page in pages for v in page["VolumeStatuses"]] == names
    code, _, _ = refusal(ec2.describe_volumes, VolumeIds=names, MaxResults=5)
    assert code == "InvalidParameterCombination"
    found = ec2.describe_volumes(Filters=filtered(size=["3", "4"], availability_zone=zone))["Volumes"]
    assert {v["Size"] for v in found} == {3, 4}
    found = ec2.describe_volume_status(Filters=[{"Name": "volume-status.status", "Values": ["ok"]}])["VolumeStatuses"]
    assert len(found) == 7
    code, message, _ = refusal(ec2.describe_volume_status, Filters=filtered(colour="red"))
    assert (code, message) == ("InvalidParameterValue", "The filter 'colour' is invalid")


def test_volumes_outlive_the_daemon(ec2, make, machine, daemon):
    name, free = make(1), make(2, "gp2")
    ec2.attach_volume(VolumeId=name, InstanceId=machine, Device="/dev/sdf")
    attached(ec2, name)
    ec2.modify_volume(VolumeId=free, Size=3)
    ec2.detach_volume(VolumeId=name)
    daemon.kill()
    daemon.start()
    waiter(ec2, "volume_available", VolumeIds=[name, free])
    assert completed(ec2, free)["TargetSize"] == 3
    assert volume(ec2, free)["Size"] == 3


def test_a_client_token(ec2, zone):
    made = [ec2.create_volume(AvailabilityZone=zone, Size=1, ClientToken="once")["VolumeId"] for _ in range(2)]
    assert made[0] == made[1]
    code, _, _ = refusal(ec2.create_volume, AvailabilityZone=zone, Size=2, ClientToken="once")
    assert code == "IdempotentParameterMismatch"


def test_aws_cli(aws, ec2, zone, image_id):
    name = aws(
        "ec2", "create-volume", "--availability-zone", zone, "--size", "1", "--volume-type", "gp3",
        "--query", "VolumeId", "--output", "text",
    )  # fmt: skip
    aws("ec2", "wait", "volume-available", "--volume-ids", name)
    it = running(ec2, image_id, Placement={"AvailabilityZone": zone})["InstanceId"]
    aws("ec2", "attach-volume", "--volume-id", name, "--instance-id", it, "--device", "/dev/sdf")
    attached(ec2, name)
    aws("ec2", "detach-volume", "--volume-id", name)
    aws("ec2", "wait", "volume-available", "--volume-ids", name)
    aws("ec2", "delete-volume", "--volume-id", name)
    aws("ec2", "wait", "volume-deleted", "--volume-ids", name)
