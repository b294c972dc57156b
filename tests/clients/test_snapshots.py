"""Snapshots as boto3 and aws-cli see them: taken, found, copied, shared, locked, archived, kept, deleted."""

import json

import pytest
from asking import filtered, refusal, running, waiter
from support import Daemon, binary, wait_for

MISSING = "snap-00000000000000001"


@pytest.fixture
def zone(ec2):
    return ec2.describe_availability_zones()["AvailabilityZones"][0]["ZoneName"]


@pytest.fixture
def volume(ec2, zone):
    """Makes a volume that is available; gives its id."""

    def make(size=2, kind="gp3", **arguments):
        settings = {"AvailabilityZone": zone, "Size": size, "VolumeType": kind} | arguments
        name = ec2.create_volume(**settings)["VolumeId"]
        waiter(ec2, "volume_available", VolumeIds=[name])
        return name

    return make


@pytest.fixture
def taken(ec2, volume):
    """Takes a snapshot of a new volume and waits until it is complete; gives its id."""

    def take(**arguments):
        return completed(ec2, ec2.create_snapshot(VolumeId=volume(**arguments))["SnapshotId"])

    return take


def completed(ec2, name):
    waiter(ec2, "snapshot_completed", SnapshotIds=[name])
    return name


def shown(ec2, name):
    (found,) = ec2.describe_snapshots(SnapshotIds=[name])["Snapshots"]
    return found


def test_one_is_taken_and_completes(ec2, volume):
    name = volume(2)
    tags = [{"ResourceType": "snapshot", "Tags": [{"Key": "Name", "Value": "nightly"}]}]
    answer = ec2.create_snapshot(VolumeId=name, Description="before the change", TagSpecifications=tags)
    assert answer["State"] == "pending" and answer["Progress"] == ""
    assert answer["VolumeSize"] == 2 and answer["Encrypted"] is False and answer["VolumeId"] == name
    snapshot = shown(ec2, completed(ec2, answer["SnapshotId"]))
    assert snapshot["Progress"] == "100%" and snapshot["StorageTier"] == "standard"
    assert snapshot["FullSnapshotSizeInBytes"] == 0 and snapshot["CompletionTime"] >= snapshot["StartTime"]
    assert snapshot["Tags"] == [{"Key": "Name", "Value": "nightly"}]
    ec2.create_tags(Resources=[snapshot["SnapshotId"]], Tags=[{"Key": "a", "Value": "b"}])
    found = ec2.describe_tags(Filters=filtered(resource_type="snapshot"))["Tags"]
    assert {(t["Key"], t["Value"]) for t in found} == {("Name", "nightly"), ("a", "b")}
    # A volume from it.
    other = volume(3, SnapshotId=snapshot["SnapshotId"])
    assert ec2.describe_volumes(VolumeIds=[other])["Volumes"][0]["SnapshotId"] == snapshot["SnapshotId"]


def test_all_disks_of_an_instance(ec2, image_id, zone, volume):
    machine = running(ec2, image_id, Placement={"AvailabilityZone": zone})
    data = volume(2, TagSpecifications=[{"ResourceType": "volume", "Tags": [{"Key": "disk", "Value": "data"}]}])
    ec2.attach_volume(VolumeId=data, InstanceId=machine["InstanceId"], Device="/dev/sdf")
    waiter(ec2, "volume_in_use", VolumeIds=[data])
    specification = {"InstanceId": machine["InstanceId"]}
    both = ec2.create_snapshots(InstanceSpecification=specification, CopyTagsFromSource="volume")["Snapshots"]
    assert len(both) == 2
    (of_data,) = [s for s in both if s["VolumeId"] == data]
    assert of_data["Tags"] == [{"Key": "disk", "Value": "data"}]
    for snapshot in both:
        completed(ec2, snapshot["SnapshotId"])
    (one,) = ec2.create_snapshots(InstanceSpecification=specification | {"ExcludeBootVolume": True})["Snapshots"]
    assert one["VolumeId"] == data
    (one,) = ec2.create_snapshots(InstanceSpecification=specification | {"ExcludeDataVolumeIds": [data]})["Snapshots"]
    assert one["VolumeId"] != data
    unknown = {"InstanceId": "i-00000000000000001"}
    assert refusal(ec2.create_snapshots, InstanceSpecification=unknown)[0] == "InvalidInstanceID.NotFound"


@pytest.mark.parametrize(
    "name, arguments, code, message",
    [
        ("create_snapshot", {"VolumeId": "vol-00000000000000001"}, "InvalidVolume.NotFound", "does not exist"),
        ("create_snapshot", {"VolumeId": "x"}, "InvalidParameterValue", "Expected: 'vol-...'"),
        ("delete_snapshot", {"SnapshotId": MISSING}, "InvalidSnapshot.NotFound", f"The snapshot '{MISSING}' does not exist."),
        ("delete_snapshot", {"SnapshotId": "snap-1"}, "InvalidSnapshotID.Malformed", 'Invalid id: "snap-1"'),
        ("delete_snapshot", {"SnapshotId": "x"}, "InvalidParameterValue", "Expected: 'snap-...'"),
        ("describe_snapshots", {"SnapshotIds": [MISSING]}, "InvalidSnapshot.NotFound", MISSING),
        ("describe_snapshots", {"Filters": filtered(colour="red")}, "InvalidParameterValue", "The filter 'colour' is invalid"),
        ("describe_snapshots", {"MaxResults": 4}, "InvalidParameterValue", "maxResults"),
        ("copy_snapshot", {"SourceRegion": "eu-west-1", "SourceSnapshotId": MISSING}, "InvalidSnapshot.NotFound", MISSING),
        ("lock_snapshot", {"SnapshotId": MISSING, "LockMode": "governance", "LockDuration": 1}, "InvalidSnapshot.NotFound", MISSING),
        ("restore_snapshot_tier", {"SnapshotId": MISSING, "PermanentRestore": True}, "InvalidSnapshot.NotFound", MISSING),
        ("restore_snapshot_from_recycle_bin", {"SnapshotId": MISSING}, "InvalidSnapshot.NotFound", MISSING),
        ("modify_ebs_default_kms_key_id", {"KmsKeyId": "alias/none"}, "InvalidKMSKey.NotFound", "does not exist"),
    ],
)
def test_refusals(ec2, name, arguments, code, message):
    found, text, status = refusal(getattr(ec2, name), **arguments)
    assert (found, status) == (code, 400) and message in text, text


def test_filters_and_pages(ec2, volume):
    names = []
    disk = volume(2)
    for number in range(7):
        made = ec2.create_snapshot(VolumeId=disk, Description=f"number {number}")["SnapshotId"]
        names.append(completed(ec2, made))

    def found(**filters):
        return {s["SnapshotId"] for s in ec2.describe_snapshots(Filters=filtered(**filters))["Snapshots"]}

    assert found(volume_id=disk) == set(names)
    assert found(description="number 3") == {names[3]}
    assert found(volume_id=disk, status="completed", encrypted="false", volume_size="2") == set(names)
    assert found(volume_id=disk, status="pending") == set()
    pages = ec2.get_paginator("describe_snapshots").paginate(
        OwnerIds=["self"], Filters=filtered(volume_id=disk), PaginationConfig={"PageSize": 5}
    )
    sizes = [len(page["Snapshots"]) for page in pages]
    assert sizes == [5, 2]
    # Those of the images belong to others, and can be used by all.
    assert all(s["OwnerId"] != "self" for s in ec2.describe_snapshots(RestorableByUserIds=["all"])["Snapshots"])


def test_a_copy_in_another_region(client, ec2, region, taken):
    source = taken()
    other = client("ec2", region_name="yy-copies-1")
    copy = other.copy_snapshot(SourceRegion=region, SourceSnapshotId=source, Description="far away")["SnapshotId"]
    found = shown(other, completed(other, copy))
    assert found["VolumeId"] == "vol-ffffffff" and found["Description"] == "far away"
    assert found["TransferType"] == "standard"
    assert refusal(ec2.describe_snapshots, SnapshotIds=[copy])[0] == "InvalidSnapshot.NotFound"
    # It stands alone.
    ec2.delete_snapshot(SnapshotId=source)
    assert shown(other, copy)["State"] == "completed"


def test_encryption_is_added_and_never_removed(client, ec2, region, taken):
    source = taken()
    sealed = ec2.copy_snapshot(SourceRegion=region, SourceSnapshotId=source, Encrypted=True)["SnapshotId"]
    found = shown(ec2, completed(ec2, sealed))
    assert found["Encrypted"] is True and f":kms:{region}:" in found["KmsKeyId"]
    again = ec2.copy_snapshot(SourceRegion=region, SourceSnapshotId=sealed)["SnapshotId"]
    assert shown(ec2, completed(ec2, again))["Encrypted"] is True
    far = client("ec2", region_name="yy-sealed-1")
    copy = far.copy_snapshot(SourceRegion=region, SourceSnapshotId=sealed)["SnapshotId"]
    assert ":kms:yy-sealed-1:" in shown(far, completed(far, copy))["KmsKeyId"]
    share = {"Attribute": "createVolumePermission", "OperationType": "add", "UserIds": ["111122223333"]}
    assert refusal(ec2.modify_snapshot_attribute, SnapshotId=sealed, **share)[:2] == (
        "OperationNotPermitted",
        "Encrypted snapshots with EBS default key cannot be shared",
    )
    # By the account's default.
    assert ec2.enable_ebs_encryption_by_default()["EbsEncryptionByDefault"] is True
    assert ec2.get_ebs_encryption_by_default()["EbsEncryptionByDefault"] is True
    plain = ec2.copy_snapshot(SourceRegion=region, SourceSnapshotId=source)["SnapshotId"]
    assert shown(ec2, completed(ec2, plain))["Encrypted"] is True
    of_new = taken()
    assert shown(ec2, of_new)["Encrypted"] is True
    ec2.disable_ebs_encryption_by_default()
    assert ec2.get_ebs_default_kms_key_id()["KmsKeyId"] == "alias/aws/ebs"


def test_sharing(ec2, taken):
    name = taken()
    ec2.modify_snapshot_attribute(
        SnapshotId=name,
        Attribute="createVolumePermission",
        CreateVolumePermission={"Add": [{"UserId": "111122223333"}, {"Group": "all"}]},
    )

    def permissions():
        answer = ec2.describe_snapshot_attribute(SnapshotId=name, Attribute="createVolumePermission")
        return answer["CreateVolumePermissions"]

    assert permissions() == [{"Group": "all"}, {"UserId": "111122223333"}]
    assert ec2.enable_snapshot_block_public_access(State="block-new-sharing")["State"] == "block-new-sharing"
    change = {"SnapshotId": name, "CreateVolumePermission": {"Add": [{"Group": "all"}]}}
    assert refusal(ec2.modify_snapshot_attribute, **change)[0] == "OperationNotPermitted"
    assert ec2.get_snapshot_block_public_access_state()["State"] == "block-new-sharing"
    assert ec2.disable_snapshot_block_public_access()["State"] == "unblocked"
    ec2.reset_snapshot_attribute(SnapshotId=name, Attribute="createVolumePermission")
    assert permissions() == []


def test_a_locked_one_stays(ec2, taken):
    name = taken()
    locked = ec2.lock_snapshot(SnapshotId=name, LockMode="governance", LockDuration=1)
    assert locked["LockState"] == "governance" and locked["LockDuration"] == 1
    assert refusal(ec2.delete_snapshot, SnapshotId=name)[0] == "OperationNotPermitted"
    (found,) = ec2.describe_locked_snapshots(Filters=filtered(lock_state="governance"))["Snapshots"]
    assert found["SnapshotId"] == name
    ec2.unlock_snapshot(SnapshotId=name)
    ec2.lock_snapshot(SnapshotId=name, LockMode="compliance", LockDuration=1)
    assert refusal(ec2.unlock_snapshot, SnapshotId=name)[0] == "OperationNotPermitted"


def test_the_clock_moves_tiers_and_fast_restores(tmp_path):
    with Daemon(binary(), tmp_path, ["--driver", "sim", "--time-scale", "20000"]) as daemon:
        ec2 = daemon.client("ec2", "us-east-1")
        disk = ec2.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]
        waiter(ec2, "volume_available", VolumeIds=[disk])
        name = completed(ec2, ec2.create_snapshot(VolumeId=disk)["SnapshotId"])
        fast = {"SourceSnapshotIds": [name], "AvailabilityZones": ["us-east-1a"]}
        (enabling,) = ec2.enable_fast_snapshot_restores(**fast)["Successful"]
        assert enabling["State"] == "enabling"

        def state():
            found = ec2.describe_fast_snapshot_restores(Filters=filtered(snapshot_id=name))
            return [zone["State"] for zone in found["FastSnapshotRestores"]]

        wait_for(lambda: state() == ["enabled"], "fast snapshot restore to be enabled")
        assert refusal(ec2.modify_snapshot_tier, SnapshotId=name, StorageTier="archive")[0] == "IncorrectState"
        ec2.disable_fast_snapshot_restores(**fast)
        wait_for(lambda: state() == [], "the disabled one to be forgotten")
        ec2.modify_snapshot_tier(SnapshotId=name, StorageTier="archive")

        def status():
            (found,) = ec2.describe_snapshot_tier_status(Filters=filtered(snapshot_id=name))["SnapshotTierStatuses"]
            return found["LastTieringOperationStatus"]

        wait_for(lambda: status() == "archival-completed", "the snapshot to be archived")
        assert shown(ec2, name)["StorageTier"] == "archive"
        use = {"AvailabilityZone": "us-east-1a", "SnapshotId": name}
        assert refusal(ec2.create_volume, **use)[0] == "IncorrectState"
        ec2.restore_snapshot_tier(SnapshotId=name, TemporaryRestoreDays=1)
        wait_for(lambda: status() == "temporary-restore-completed", "the snapshot to be back")
        wait_for(lambda: shown(ec2, name)["StorageTier"] == "archive", "its day to be over")
        ec2.restore_snapshot_tier(SnapshotId=name, PermanentRestore=True)
        wait_for(lambda: status() == "permanent-restore-completed", "the snapshot to be back")
        ec2.create_volume(**use)


def test_one_that_an_image_uses_stays(ec2, image_id):
    (image,) = ec2.describe_images(ImageIds=[image_id])["Images"]
    name = image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    code, message, _ = refusal(ec2.delete_snapshot, SnapshotId=name)
    assert (code, message) == ("InvalidSnapshot.InUse", f"The snapshot {name} is currently in use by {image_id}")


def test_with_aws_cli(aws, ec2, volume):
    disk = volume(1)
    made = json.loads(aws("ec2", "create-snapshot", "--volume-id", disk, "--description", "by hand"))
    aws("ec2", "wait", "snapshot-completed", "--snapshot-ids", made["SnapshotId"])
    found = json.loads(aws("ec2", "describe-snapshots", "--owner-ids", "self", "--filters", f"Name=volume-id,Values={disk}"))
    assert [s["Description"] for s in found["Snapshots"]] == ["by hand"]
    aws("ec2", "delete-snapshot", "--snapshot-id", made["SnapshotId"])
    assert refusal(ec2.describe_snapshots, SnapshotIds=[made["SnapshotId"]])[0] == "InvalidSnapshot.NotFound"


def test_the_recycle_bin(tmp_path):
    with Daemon(binary(), tmp_path, ["--driver", "sim", "--time-scale", "20000"]) as daemon:
        ec2, rbin = daemon.client("ec2", "us-east-1"), daemon.client("rbin", "us-east-1")
        rule = rbin.create_rule(
            ResourceType="EBS_SNAPSHOT",
            RetentionPeriod={"RetentionPeriodValue": 10, "RetentionPeriodUnit": "DAYS"},
            ResourceTags=[{"ResourceTagKey": "keep", "ResourceTagValue": "yes"}],
            Tags=[{"Key": "a", "Value": "b"}],
        )
        assert rule["Status"] == "available" and rule["LockState"] == "unlocked"
        assert rbin.list_tags_for_resource(ResourceArn=rule["RuleArn"])["Tags"] == [{"Key": "a", "Value": "b"}]
        disk = ec2.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]
        waiter(ec2, "volume_available", VolumeIds=[disk])

        def deleted(*tags):
            name = completed(ec2, ec2.create_snapshot(VolumeId=disk)["SnapshotId"])
            if tags:
                ec2.create_tags(Resources=[name], Tags=[{"Key": key, "Value": value} for key, value in tags])
            ec2.delete_snapshot(SnapshotId=name)
            return name

        deleted()
        kept = deleted(("keep", "yes"))

        def in_bin():
            return [snapshot["SnapshotId"] for snapshot in ec2.list_snapshots_in_recycle_bin()["Snapshots"]]

        assert in_bin() == [kept]
        assert refusal(ec2.describe_snapshots, SnapshotIds=[kept])[0] == "InvalidSnapshot.NotFound"
        assert ec2.restore_snapshot_from_recycle_bin(SnapshotId=kept)["State"] == "completed"
        assert shown(ec2, kept)["State"] == "completed" and in_bin() == []
        rbin.update_rule(
            Identifier=rule["Identifier"],
            RetentionPeriod={"RetentionPeriodValue": 1, "RetentionPeriodUnit": "DAYS"},
        )
        ec2.delete_snapshot(SnapshotId=kept)
        wait_for(lambda: in_bin() == [], "the day in the bin to be over")
        assert refusal(ec2.restore_snapshot_from_recycle_bin, SnapshotId=kept)[0] == "InvalidSnapshot.NotFound"
        rbin.delete_rule(Identifier=rule["Identifier"])
        (code, _, status) = refusal(rbin.get_rule, Identifier=rule["Identifier"])
        assert (code, status) == ("ResourceNotFoundException", 404)
