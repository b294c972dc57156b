"""AMIs: what courses and Terraform search for is found; and how they are made, copied, shared, kept and given up."""

import datetime

import pytest
from asking import filtered, instance, launch, refusal, running, waiter
from support import wait_for


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


OTHER = "210987654321"


def image(ec2, name, **arguments):
    (found,) = images(ec2, ImageIds=[name], **arguments)
    return found


def snapshots(found):
    return [d["Ebs"]["SnapshotId"] for d in found["BlockDeviceMappings"] if "SnapshotId" in d.get("Ebs", {})]


@pytest.fixture
def machine(ec2, image_id):
    """The id of a running instance with a root and a data volume."""
    disk = {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 4, "VolumeType": "gp3"}}
    return running(ec2, image_id, BlockDeviceMappings=[disk])["InstanceId"]


@pytest.fixture
def make(ec2, machine):
    """Makes an image of the machine that is available; gives its id."""

    def make(name="mine", **arguments):
        made = ec2.create_image(InstanceId=machine, Name=name, **({"NoReboot": True} | arguments))["ImageId"]
        waiter(ec2, "image_available", ImageIds=[made])
        return made

    return make


def test_create(ec2, machine, make):
    tags = [{"ResourceType": kind, "Tags": [{"Key": "of", "Value": kind}]} for kind in ("image", "snapshot")]
    made = image(ec2, make(Description="two disks", TagSpecifications=tags))
    assert (made["Name"], made["Description"], made["State"], made["Public"]) == ("mine", "two disks", "available", False)
    assert (made["SourceInstanceId"], made["Tags"]) == (machine, [{"Key": "of", "Value": "image"}])
    root, data = made["BlockDeviceMappings"]
    assert root["DeviceName"] == made["RootDeviceName"] and data["DeviceName"] == "/dev/sdf"
    assert (data["Ebs"]["VolumeSize"], data["Ebs"]["VolumeType"], data["Ebs"]["DeleteOnTermination"]) == (4, "gp3", False)
    for found in ec2.describe_snapshots(SnapshotIds=snapshots(made))["Snapshots"]:
        assert found["State"] == "completed" and found["Tags"] == [{"Key": "of", "Value": "snapshot"}]
        assert found["Description"] == f"Created by CreateImage({machine}) for {made['ImageId']}"
        code, message, _ = refusal(ec2.delete_snapshot, SnapshotId=found["SnapshotId"])
        assert code == "InvalidSnapshot.InUse" and message.endswith(f"is currently in use by {made['ImageId']}")
    # What is launched from it has its disks.
    child = launch(ec2, made["ImageId"])["InstanceId"]
    waiter(ec2, "instance_running", InstanceIds=[child])
    devices = {d["DeviceName"]: d["Ebs"]["VolumeId"] for d in instance(ec2, child)["BlockDeviceMappings"]}
    assert set(devices) == {made["RootDeviceName"], "/dev/sdf"}
    (volume,) = ec2.describe_volumes(VolumeIds=[devices["/dev/sdf"]])["Volumes"]
    assert (volume["SnapshotId"], volume["Size"]) == (data["Ebs"]["SnapshotId"], 4)


def test_create_reboots_unless_told(ec2, machine, make):
    make("with a reboot", NoReboot=False)
    assert instance(ec2, machine)["State"]["Name"] == "running"
    mappings = [{"DeviceName": "/dev/sdf", "NoDevice": ""}, {"DeviceName": "/dev/sdg", "Ebs": {"VolumeSize": 7}}]
    made = image(ec2, make("other disks", BlockDeviceMappings=mappings))
    assert [d["DeviceName"] for d in made["BlockDeviceMappings"]] == [made["RootDeviceName"], "/dev/sdg"]


def test_create_refusals(ec2, machine, make):
    taken = make("taken")
    asked = {"InstanceId": machine, "Name": "free", "NoReboot": True}
    code, message, _ = refusal(ec2.create_image, **asked | {"Name": "taken"})
    assert (code, message) == ("InvalidAMIName.Duplicate", f"AMI name taken is already in use by AMI {taken}")
    assert refusal(ec2.create_image, **asked | {"Name": "no:colon"})[0] == "InvalidAMIName.Malformed"
    assert refusal(ec2.create_image, **asked | {"InstanceId": "i-0123456789abcdef0"})[0] == "InvalidInstanceID.NotFound"
    assert refusal(ec2.create_image, **asked, SnapshotLocation="local")[0] == "UnsupportedOperation"
    assert refusal(ec2.create_image, **asked, DryRun=True)[0] == "DryRunOperation"
    ec2.terminate_instances(InstanceIds=[machine])
    code, message, _ = refusal(ec2.create_image, **asked)
    assert code == "InvalidParameterValue" and message.startswith(f"Invalid value '{machine}' for instanceId.")


def test_register_and_deregister(ec2, make):
    first = image(ec2, make("first"))
    root = snapshots(first)[0]
    mapping = {"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": root, "VolumeSize": 9, "VolumeType": "gp3"}}
    registration = dict(
        Name="second",
        Architecture="x86_64",
        RootDeviceName="/dev/sda1",
        VirtualizationType="hvm",
        EnaSupport=True,
        ImdsSupport="v2.0",
        BlockDeviceMappings=[mapping],
    )
    second = ec2.register_image(**registration)["ImageId"]
    found = image(ec2, second)
    assert (found["State"], found["ImdsSupport"], found["RootDeviceName"]) == ("available", "v2.0", "/dev/sda1")
    assert found["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] == 9
    results = ec2.deregister_image(ImageId=first["ImageId"], DeleteAssociatedSnapshots=True)["DeleteSnapshotResults"]
    assert [r["ReturnCode"] for r in results] == ["skipped", "success"]
    assert refusal(ec2.describe_images, ImageIds=[first["ImageId"]])[0] == "InvalidAMIID.NotFound"
    ec2.deregister_image(ImageId=second)
    ec2.delete_snapshot(SnapshotId=root)
    assert refusal(ec2.register_image, **registration)[0] == "InvalidSnapshot.NotFound"
    assert refusal(ec2.deregister_image, ImageId=second)[0] == "InvalidAMIID.NotFound"
    amazon = images(ec2, Owners=["amazon"])[0]["ImageId"]
    assert refusal(ec2.deregister_image, ImageId=amazon)[:2] == ("AuthFailure", f"Not authorized for image:{amazon}")


def test_copy_to_another_region(ec2, client, region, make):
    source = make("source")
    there = client(region_name="eu-south-1")
    name = f"copy to {region}"
    copied = there.copy_image(SourceRegion=region, SourceImageId=source, Name=name, ClientToken=region)["ImageId"]
    assert there.copy_image(SourceRegion=region, SourceImageId=source, Name=name, ClientToken=region)["ImageId"] == copied
    waiter(there, "image_available", ImageIds=[copied])
    ec2.deregister_image(ImageId=source, DeleteAssociatedSnapshots=True)
    found = image(there, copied)
    assert (found["SourceImageId"], found["SourceImageRegion"]) == (source, region)
    child = launch(there, copied)["InstanceId"]
    waiter(there, "instance_running", InstanceIds=[child])
    there.terminate_instances(InstanceIds=[child])


def test_copy_encrypted(ec2, region, make):
    copied = ec2.copy_image(SourceRegion=region, SourceImageId=make("plain"), Name="secret", Encrypted=True)["ImageId"]
    waiter(ec2, "image_available", ImageIds=[copied])
    found = image(ec2, copied)
    assert all(d["Ebs"]["Encrypted"] for d in found["BlockDeviceMappings"])
    again = dict(SourceRegion=region, SourceImageId=copied, Name="plain again", Encrypted=False)
    inherits = ec2.copy_image(**again)["ImageId"]
    assert all(d["Ebs"]["Encrypted"] for d in image(ec2, inherits)["BlockDeviceMappings"]), "never less than its source"
    assert refusal(ec2.modify_image_attribute, ImageId=copied, LaunchPermission={"Add": [{"Group": "all"}]})[0] == "InvalidParameterValue"


def test_launch_permissions(ec2, make):
    made = make()
    permission = lambda: ec2.describe_image_attribute(ImageId=made, Attribute="launchPermission")["LaunchPermissions"]  # noqa: E731
    ec2.modify_image_attribute(ImageId=made, LaunchPermission={"Add": [{"UserId": OTHER}]})
    assert permission() == [{"UserId": OTHER}]
    assert [i["ImageId"] for i in images(ec2, ExecutableUsers=[OTHER])] == [made]
    ec2.modify_image_attribute(ImageId=made, Attribute="launchPermission", OperationType="add", UserGroups=["all"])
    assert permission() == [{"Group": "all"}, {"UserId": OTHER}] and image(ec2, made)["Public"]
    ec2.modify_image_attribute(ImageId=made, LaunchPermission={"Remove": [{"UserId": OTHER}]})
    ec2.reset_image_attribute(ImageId=made, Attribute="launchPermission")
    assert permission() == [] and not image(ec2, made)["Public"]
    bad = {"Add": [{"UserId": "me"}]}
    assert refusal(ec2.modify_image_attribute, ImageId=made, LaunchPermission=bad)[0] == "InvalidAMIAttributeItemValue"
    ec2.enable_image_block_public_access(ImageBlockPublicAccessState="block-new-sharing")
    assert ec2.get_image_block_public_access_state()["ImageBlockPublicAccessState"] == "block-new-sharing"
    public = {"Add": [{"Group": "all"}]}
    assert refusal(ec2.modify_image_attribute, ImageId=made, LaunchPermission=public)[0] == "OperationNotPermitted"
    ec2.disable_image_block_public_access()
    ec2.modify_image_attribute(ImageId=made, LaunchPermission=public)


def test_disable_deprecate_protect(ec2, make):
    made = make()
    ec2.disable_image(ImageId=made)
    assert images(ec2, ImageIds=[made]) == [] and image(ec2, made, IncludeDisabled=True)["State"] == "disabled"
    assert refusal(launch, ec2=ec2, image_id=made)[0] == "InvalidAMIID.Unavailable"
    ec2.enable_image(ImageId=made)
    soon = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0) + datetime.timedelta(days=30)
    ec2.enable_image_deprecation(ImageId=made, DeprecateAt=soon)
    shown = datetime.datetime.fromisoformat(image(ec2, made)["DeprecationTime"].replace("Z", "+00:00"))
    assert abs(shown - soon) <= datetime.timedelta(seconds=30) and shown.second == 0
    past = soon - datetime.timedelta(days=60)
    assert refusal(ec2.enable_image_deprecation, ImageId=made, DeprecateAt=past)[0] == "InvalidParameterValue"
    ec2.disable_image_deprecation(ImageId=made)
    assert "DeprecationTime" not in image(ec2, made)
    ec2.enable_image_deregistration_protection(ImageId=made)
    assert image(ec2, made)["DeregistrationProtection"] == "enabled-without-cooldown"
    assert refusal(ec2.deregister_image, ImageId=made)[0] == "OperationNotPermitted"
    ec2.disable_image_deregistration_protection(ImageId=made)
    ec2.deregister_image(ImageId=made)
    assert ec2.list_images_in_recycle_bin()["Images"] == []


def test_recycle_bin(ec2, client, make):
    rule = client("rbin").create_rule(
        RetentionPeriod={"RetentionPeriodValue": 1, "RetentionPeriodUnit": "DAYS"},
        ResourceType="EC2_IMAGE",
        ResourceTags=[{"ResourceTagKey": "keep", "ResourceTagValue": "yes"}],
    )
    kept = make("kept", TagSpecifications=[{"ResourceType": "image", "Tags": [{"Key": "keep", "Value": "yes"}]}])
    gone = make("gone")
    for made in (kept, gone):
        ec2.deregister_image(ImageId=made)
        assert refusal(ec2.describe_images, ImageIds=[made])[0] == "InvalidAMIID.NotFound"
    (listed,) = ec2.list_images_in_recycle_bin()["Images"]
    assert (listed["ImageId"], listed["Name"]) == (kept, "kept")
    assert listed["RecycleBinExitTime"] - listed["RecycleBinEnterTime"] == datetime.timedelta(days=1)
    assert refusal(launch, ec2=ec2, image_id=kept)[0] == "InvalidAMIID.NotFound"
    ec2.restore_image_from_recycle_bin(ImageId=kept)
    launch(ec2, image(ec2, kept)["ImageId"])
    assert refusal(ec2.restore_image_from_recycle_bin, ImageId=gone)[0] == "InvalidAMIID.NotFound"
    client("rbin").delete_rule(Identifier=rule["Identifier"])


def test_references_and_ancestry(ec2, image_id, machine, make):
    made = make()
    child = launch(ec2, made)["InstanceId"]
    (reference,) = ec2.describe_image_references(ImageIds=[made], IncludeAllResourceTypes=True)["ImageReferences"]
    assert reference["ResourceType"] == "ec2:Instance" and reference["Arn"].endswith(f":instance/{child}")
    ancestry = ec2.get_image_ancestry(ImageId=made)["ImageAncestryEntries"]
    assert [entry["ImageId"] for entry in ancestry] == [made, image_id]


def disk_file(daemon, bucket, name, mib=1):
    """A raw disk in a bucket of the node."""
    path = daemon.directory / "buckets" / bucket / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(510) + b"\x55\xaa" + bytes((mib << 20) - 512))
    return {"S3Bucket": bucket, "S3Key": name}


def ended(describe, which, pick):
    """Waits until a task is not active any more; gives it."""

    def look():
        task = pick(describe(**which))
        return task if task["Status"] != "active" else None

    return wait_for(look, "the task to end")


def test_import_snapshot(daemon, ec2):
    place = disk_file(daemon, "disks", "vms/web.raw")
    task = ec2.import_snapshot(Description="a disk", DiskContainer={"Format": "RAW", "UserBucket": place})["ImportTaskId"]
    which = {"ImportTaskIds": [task]}
    pick = lambda answer: answer["ImportSnapshotTasks"][0]["SnapshotTaskDetail"]  # noqa: E731
    done = ended(ec2.describe_import_snapshot_tasks, which, pick)
    assert (done["Status"], done["UserBucket"]) == ("completed", place)
    (made,) = ec2.describe_snapshots(SnapshotIds=[done["SnapshotId"]])["Snapshots"]
    assert (made["State"], made["VolumeSize"]) == ("completed", 1)
    missing = {"Format": "RAW", "UserBucket": place | {"S3Key": "vms/none.raw"}}
    task = ec2.import_snapshot(DiskContainer=missing)["ImportTaskId"]
    failed = ended(ec2.describe_import_snapshot_tasks, {"ImportTaskIds": [task]}, pick)
    assert failed["Status"] == "deleted" and failed["StatusMessage"].startswith("ClientError: Disk validation failed [")
    escape = {"Format": "RAW", "UserBucket": place | {"S3Key": "../../region.redb"}}
    assert refusal(ec2.import_snapshot, DiskContainer=escape)[0] == "InvalidParameterValue"


def test_import_and_export_image(daemon, ec2):
    place = disk_file(daemon, "disks", "vms/root.raw")
    task = ec2.import_image(Description="a machine", DiskContainers=[{"Format": "RAW", "UserBucket": place}])["ImportTaskId"]
    pick = lambda answer: answer["ImportImageTasks"][0]  # noqa: E731
    done = ended(ec2.describe_import_image_tasks, {"ImportTaskIds": [task]}, pick)
    assert done["Status"] == "completed", done
    found = image(ec2, done["ImageId"])
    assert (found["Name"], found["State"], found["RootDeviceName"]) == (task, "available", "/dev/sda1")
    assert refusal(ec2.cancel_import_task, ImportTaskId=task)[0] == "IncorrectState"
    location = {"S3Bucket": "exports", "S3Prefix": "vms/"}
    (daemon.directory / "buckets" / "exports").mkdir(parents=True, exist_ok=True)
    task = ec2.export_image(ImageId=done["ImageId"], DiskImageFormat="RAW", S3ExportLocation=location)["ExportImageTaskId"]
    pick = lambda answer: answer["ExportImageTasks"][0]  # noqa: E731
    exported = ended(ec2.describe_export_image_tasks, {"ExportImageTaskIds": [task]}, pick)
    assert exported["Status"] == "completed", exported
    written = daemon.directory / "buckets" / "exports" / "vms" / f"{task}.raw"
    with written.open("rb") as file:
        assert file.read(512)[510:] == b"\x55\xaa"
    assert refusal(ec2.cancel_export_task, ExportTaskId=task)[0] == "IncorrectState"


def test_terraform(workspace):
    configuration = """
variable "description" { default = "one" }
variable "deprecate" { default = null }

data "aws_ami" "micro" {
  most_recent = true
  owners      = ["self"]
  filter {
    name   = "name"
    values = ["gureum-micro-*"]
  }
}

resource "aws_instance" "source" {
  ami           = data.aws_ami.micro.id
  instance_type = "t3.micro"
  ebs_block_device {
    device_name = "/dev/sdf"
    volume_size = 3
  }
}

resource "aws_ami_from_instance" "made" {
  name                    = "terraform made"
  description             = var.description
  source_instance_id      = aws_instance.source.id
  snapshot_without_reboot = true
  tags                    = { Name = "made" }
}

resource "aws_ebs_snapshot" "root" {
  volume_id = aws_instance.source.root_block_device[0].volume_id
}

resource "aws_ami" "registered" {
  name                = "terraform registered"
  description         = var.description
  architecture        = "x86_64"
  virtualization_type = "hvm"
  root_device_name    = "/dev/xvda"
  ena_support         = true
  imds_support        = "v2.0"
  deprecation_time    = var.deprecate
  ebs_block_device {
    device_name = "/dev/xvda"
    snapshot_id = aws_ebs_snapshot.root.id
    volume_size = 2
    volume_type = "gp3"
  }
  ephemeral_block_device {
    device_name  = "/dev/sdb"
    virtual_name = "ephemeral0"
  }
}

resource "aws_ami_launch_permission" "other" {
  image_id   = aws_ami.registered.id
  account_id = "210987654321"
}

resource "aws_ami_copy" "copied" {
  name              = "terraform copied"
  source_ami_id     = aws_ami_from_instance.made.id
  source_ami_region = "%s"
  encrypted         = true
}
"""
    workspace.write(configuration % workspace.region)
    workspace.apply()
    workspace.empty_plan()
    changed = ("-var=description=two", "-var=deprecate=2027-11-21T10:00:00Z")
    workspace.apply(*changed)
    workspace.empty_plan(*changed)
    ec2 = workspace.client("ec2")
    shown = {i["Name"]: i for i in images(ec2, Owners=["self"])}
    assert shown["terraform registered"]["Description"] == shown["terraform made"]["Description"] == "two"
    assert shown["terraform registered"]["DeprecationTime"] == "2027-11-21T10:00:00.000Z"
    workspace.destroy(*changed)
    assert [i["Name"] for i in images(ec2, Owners=["self"])] == ["gureum-micro-x86_64"]
    assert [s for s in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"] if s["VolumeId"] != "vol-ffffffff"] == []
