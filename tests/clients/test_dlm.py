"""Data Lifecycle Manager: policies, and a scheduler that runs by the region's clock."""

import datetime
import json

import pytest
from asking import refusal, running
from support import Daemon, binary, wait_for

ROLE = "arn:aws:iam::123456789012:role/AWSDataLifecycleManagerDefaultRole"
POLICY = "aws:dlm:lifecycle-policy-id"
SCHEDULE = "aws:dlm:lifecycle-schedule-name"


def schedule(name="hourly", **changes):
    return {
        "Name": name,
        "CreateRule": {"Interval": 1, "IntervalUnit": "HOURS", "Times": ["00:00"]},
        "RetainRule": {"Count": 2},
    } | changes


def details(*schedules, **changes):
    return {
        "PolicyType": "EBS_SNAPSHOT_MANAGEMENT",
        "ResourceTypes": ["VOLUME"],
        "TargetTags": [{"Key": "backup", "Value": "yes"}],
        "Schedules": list(schedules) or [schedule()],
    } | changes


def create(dlm, state="ENABLED", description="test", **arguments):
    settings = {"ExecutionRoleArn": ROLE, "Description": description, "State": state} | arguments
    return dlm.create_lifecycle_policy(**settings)["PolicyId"]


def volume(ec2, region, **tags):
    tagged = [{"Key": key, "Value": value} for key, value in ({"backup": "yes"} | tags).items()]
    made = ec2.create_volume(
        AvailabilityZone=f"{region}a",
        Size=1,
        VolumeType="gp3",
        TagSpecifications=[{"ResourceType": "volume", "Tags": tagged}],
    )["VolumeId"]
    ec2.get_waiter("volume_available").wait(VolumeIds=[made], WaiterConfig={"Delay": 0.05, "MaxAttempts": 400})
    return made


def made_by(ec2, policy):
    filters = [{"Name": f"tag:{POLICY}", "Values": [policy]}]
    return ec2.describe_snapshots(OwnerIds=["self"], Filters=filters)["Snapshots"]


def tags_of(resource):
    return {tag["Key"]: tag["Value"] for tag in resource["Tags"]}


@pytest.fixture
def dlm(client):
    return client("dlm")


def test_a_policy_is_made_changed_and_deleted(dlm):
    policy = create(dlm, PolicyDetails=details(), Tags={"team": "a"})
    shown = dlm.get_lifecycle_policy(PolicyId=policy)["Policy"]
    assert shown["State"] == shown["StatusMessage"] == "ENABLED"
    assert shown["PolicyDetails"]["Schedules"][0]["CreateRule"]["Times"] == ["00:00"]
    assert shown["PolicyDetails"]["ResourceLocations"] == ["CLOUD"]
    assert shown["Tags"] == {"team": "a"}
    assert abs((shown["DateCreated"] - datetime.datetime.now(datetime.timezone.utc)).total_seconds()) < 60
    dlm.tag_resource(ResourceArn=shown["PolicyArn"], Tags={"more": "b"})
    dlm.untag_resource(ResourceArn=shown["PolicyArn"], TagKeys=["team"])
    assert dlm.list_tags_for_resource(ResourceArn=shown["PolicyArn"])["Tags"] == {"more": "b"}
    dlm.update_lifecycle_policy(PolicyId=policy, State="DISABLED", Description="other")
    (summary,) = dlm.get_lifecycle_policies(State="DISABLED", TargetTags=["backup=yes"])["Policies"]
    assert (summary["PolicyId"], summary["Description"]) == (policy, "other")
    dlm.delete_lifecycle_policy(PolicyId=policy)
    code, _, status = refusal(dlm.get_lifecycle_policy, PolicyId=policy)
    assert (code, status) == ("ResourceNotFoundException", 404)


def test_refusals(dlm):
    code, message, status = refusal(create, dlm=dlm, PolicyDetails={"PolicyType": "EBS_SNAPSHOT_MANAGEMENT", "ResourceTypes": ["VOLUME"]})
    assert (code, message, status) == (
        "InvalidRequestException",
        "The following required parameter(s) are missing: {TargetTags, Schedules}",
        400,
    )
    with pytest.raises(dlm.exceptions.InvalidRequestException) as caught:
        create(dlm, PolicyDetails={"PolicyType": "EBS_SNAPSHOT_MANAGEMENT", "ResourceTypes": ["VOLUME"]})
    assert caught.value.response["RequiredParameters"] == ["TargetTags", "Schedules"]
    with pytest.raises(dlm.exceptions.InvalidRequestException) as caught:
        create(dlm, PolicyDetails=details(), DefaultPolicy="VOLUME")
    assert caught.value.response["MutuallyExclusiveParameters"] == ["DefaultPolicy", "PolicyDetails"]
    with pytest.raises(dlm.exceptions.ResourceNotFoundException) as caught:
        dlm.get_lifecycle_policy(PolicyId="policy-0123456789abcdef0")
    assert caught.value.response["ResourceIds"] == ["policy-0123456789abcdef0"]
    event = {
        "PolicyType": "EVENT_BASED_POLICY",
        "EventSource": {
            "Type": "MANAGED_CWE",
            "Parameters": {"EventType": "shareSnapshot", "SnapshotOwner": ["123456789012"], "DescriptionRegex": ".*"},
        },
        "Actions": [{"Name": "copy", "CrossRegionCopy": [{"Target": "eu-west-1", "EncryptionConfiguration": {"Encrypted": False}}]}],
    }
    code, message, _ = refusal(create, dlm=dlm, PolicyDetails=event)
    assert code == "UnsupportedOperation" and "EVENT_BASED_POLICY" in message
    scripts = schedule()
    scripts["CreateRule"] = scripts["CreateRule"] | {"Scripts": [{"ExecutionHandler": "AWS_VSS_BACKUP"}]}
    code, message, _ = refusal(create, dlm=dlm, PolicyDetails=details(scripts))
    assert code == "UnsupportedOperation" and "Scripts" in message
    for number in range(100):
        create(dlm, "DISABLED", f"policy {number}", PolicyDetails=details())
    code, _, status = refusal(create, dlm=dlm, PolicyDetails=details())
    assert (code, status) == ("LimitExceededException", 429)


def test_users_cannot_pretend(ec2, region):
    made = volume(ec2, region)
    code, _, _ = refusal(ec2.create_tags, Resources=[made], Tags=[{"Key": POLICY, "Value": "policy-1"}])
    assert code == "InvalidParameterValue"


@pytest.fixture
def fast(tmp_path):
    """A region in which an hour takes a second."""
    with Daemon(binary(), tmp_path, ["--driver", "sim", "--time-scale", "3600"]) as daemon:
        yield daemon


def test_snapshots_appear_and_old_ones_go(fast):
    ec2, dlm = fast.client("ec2", "us-east-1"), fast.client("dlm", "us-east-1")
    first, second = volume(ec2, "us-east-1", Name="first"), volume(ec2, "us-east-1")
    untagged = volume(ec2, "us-east-1", backup="no")
    rules = schedule(CopyTags=True, TagsToAdd=[{"Key": "kind", "Value": "dlm"}])
    policy = create(dlm, PolicyDetails=details(rules))
    seen = {}

    def enough():
        for snapshot in made_by(ec2, policy):
            seen[snapshot["SnapshotId"]] = snapshot
        return len(seen) >= 8

    wait_for(enough, "four hours of snapshots", 60)
    assert {snapshot["VolumeId"] for snapshot in seen.values()} == {first, second}
    assert untagged not in {snapshot["VolumeId"] for snapshot in seen.values()}
    # The hour that has just begun may not have been tidied up yet.
    assert len(made_by(ec2, policy)) <= 6
    wait_for(lambda: len(made_by(ec2, policy)) <= 4, "the old ones to go", 20, 0.005)
    one = next(snapshot for snapshot in seen.values() if snapshot["VolumeId"] == first)
    tags = tags_of(one)
    assert tags == {POLICY: policy, SCHEDULE: "hourly", "dlm:managed": "true", "kind": "dlm", "backup": "yes", "Name": "first"}
    assert policy in one["Description"]
    assert dlm.get_lifecycle_policy(PolicyId=policy)["Policy"]["State"] == "ENABLED"
    for one_volume in (first, second):
        hours = [s["StartTime"].replace(minute=0, second=0, microsecond=0) for s in seen.values() if s["VolumeId"] == one_volume]
        assert len(set(hours)) == len(hours), "each hour once"
    dlm.update_lifecycle_policy(PolicyId=policy, State="DISABLED")
    left = {snapshot["SnapshotId"] for snapshot in made_by(ec2, policy)}
    begun = fast.health()["time"]
    wait_for(lambda: fast.health()["time"][:13] > begun[:13], "an hour to pass")
    assert {snapshot["SnapshotId"] for snapshot in made_by(ec2, policy)} == left


def test_a_crash_neither_repeats_nor_loses_a_run(fast):
    ec2, dlm = fast.client("ec2", "us-east-1"), fast.client("dlm", "us-east-1")
    volumes = {volume(ec2, "us-east-1") for _ in range(20)}
    policy = create(dlm, PolicyDetails=details(schedule(RetainRule={"Count": 1000})))
    for round in range(4):
        before = len(made_by(ec2, policy))
        wait_for(lambda: len(made_by(ec2, policy)) > before, "the next run to begin", 30, 0.001)
        fast.kill()
        fast.start()

    def whole():
        found = made_by(ec2, policy)
        return found if len(found) % 20 == 0 else None

    found = wait_for(whole, "the run to be finished", 30)
    runs = {}
    for snapshot in found:
        runs.setdefault(snapshot["StartTime"].replace(minute=0, second=0, microsecond=0), []).append(snapshot["VolumeId"])
    # A run that was cut off may be finished in the next hour of this fast clock; nothing is made twice or left out.
    counts = [sum(run.count(one) for run in runs.values()) for one in volumes]
    assert len(set(counts)) == 1, counts
    assert dlm.get_lifecycle_policy(PolicyId=policy)["Policy"]["State"] == "ENABLED"


def test_images_of_instances(fast):
    ec2, dlm = fast.client("ec2", "us-east-1"), fast.client("dlm", "us-east-1")
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    name = running(ec2, image, TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "backup", "Value": "yes"}]}])["InstanceId"]
    rules = schedule("images", VariableTags=[{"Key": "from", "Value": "$(instance-id)"}])
    policy = create(dlm, PolicyDetails=details(rules, PolicyType="IMAGE_MANAGEMENT", ResourceTypes=["INSTANCE"]))
    seen = {}

    def found():
        images = ec2.describe_images(Owners=["self"], Filters=[{"Name": f"tag:{POLICY}", "Values": [policy]}])["Images"]
        seen.update({image["ImageId"]: image for image in images})
        return images

    def error():
        return dlm.get_lifecycle_policy(PolicyId=policy)["Policy"]["StatusMessage"]

    wait_for(lambda: found() and len(seen) >= 4, f"four images: {error()}", 60)
    assert {tags_of(image)["from"] for image in seen.values()} == {name}
    wait_for(lambda: len(found()) <= 2, "the old images to go", 20, 0.005)
    kept = {mapping["Ebs"]["SnapshotId"] for image in found() for mapping in image["BlockDeviceMappings"] if "Ebs" in mapping}
    wait_for(lambda: {s["SnapshotId"] for s in made_by(ec2, policy)} <= kept or found() is None, "their snapshots to go", 20)


def test_all_volumes_of_an_instance_and_copies(fast):
    ec2, dlm = fast.client("ec2", "us-east-1"), fast.client("dlm", "us-east-1")
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    started = running(
        ec2,
        image,
        Placement={"AvailabilityZone": "us-east-1a"},
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "backup", "Value": "yes"}]}],
    )
    extra = volume(ec2, "us-east-1", backup="no")
    ec2.attach_volume(VolumeId=extra, InstanceId=started["InstanceId"], Device="/dev/sdf")
    (root,) = [m["Ebs"]["VolumeId"] for m in started["BlockDeviceMappings"]]
    rules = schedule(
        CrossRegionCopyRules=[{"Target": "eu-west-1", "Encrypted": False, "RetainRule": {"Interval": 1, "IntervalUnit": "DAYS"}}],
        ShareRules=[{"TargetAccounts": ["111122223333"], "UnshareInterval": 1, "UnshareIntervalUnit": "DAYS"}],
    )
    policy = create(dlm, PolicyDetails=details(rules, ResourceTypes=["INSTANCE"]))

    def error():
        return dlm.get_lifecycle_policy(PolicyId=policy)["Policy"]["StatusMessage"]

    wait_for(lambda: {s["VolumeId"] for s in made_by(ec2, policy)} == {root, extra}, f"both volumes: {error()}", 60)
    europe = fast.client("ec2", "eu-west-1")
    copies = wait_for(lambda: made_by(europe, policy), f"copies: {error()}", 60)
    assert "aws:dlm:expirationTime" in tags_of(copies[0])
    assert error() == "ENABLED"


@pytest.fixture
def faster(tmp_path):
    """A region in which a day takes two seconds."""
    with Daemon(binary(), tmp_path, ["--driver", "sim", "--time-scale", "43200"]) as daemon:
        yield daemon


def test_the_default_policy(faster):
    ec2, dlm = faster.client("ec2", "us-east-1"), faster.client("dlm", "us-east-1")
    kept, excluded = volume(ec2, "us-east-1"), volume(ec2, "us-east-1", skip="me")
    exclusions = {"ExcludeTags": [{"Key": "skip", "Value": "me"}]}
    policy = create(dlm, DefaultPolicy="VOLUME", CreateInterval=1, RetainInterval=2, Exclusions=exclusions)
    seen = set()

    def days():
        found = made_by(ec2, policy)
        seen.update((s["SnapshotId"], s["VolumeId"]) for s in found)
        return len(seen) >= 3

    wait_for(days, "three days", 120)
    assert {of for _, of in seen} == {kept}
    assert excluded
    wait_for(lambda: len(made_by(ec2, policy)) <= 2, "the first to go", 60)


def test_terraform(workspace):
    workspace.write(
        """
variable "count_" { default = 3 }
variable "state" { default = "ENABLED" }

resource "aws_dlm_lifecycle_policy" "volumes" {
  description        = "volumes of Terraform"
  execution_role_arn = "arn:aws:iam::123456789012:role/dlm"
  state              = var.state
  tags               = { made = "by terraform" }
  policy_details {
    resource_types = ["VOLUME"]
    target_tags    = { backup = "yes" }
    schedule {
      name      = "daily"
      copy_tags = true
      create_rule {
        interval      = 24
        interval_unit = "HOURS"
        times         = ["23:45"]
      }
      retain_rule { count = var.count_ }
      tags_to_add = { SnapshotCreator = "DLM" }
    }
    schedule {
      name = "weekly"
      create_rule { cron_expression = "cron(0 17 ? * FRI *)" }
      retain_rule { count = 5 }
      cross_region_copy_rule {
        target    = "eu-west-1"
        encrypted = false
        copy_tags = true
        retain_rule {
          interval      = 1
          interval_unit = "MONTHS"
        }
      }
      share_rule { target_accounts = ["111122223333"] }
    }
  }
}

resource "aws_dlm_lifecycle_policy" "images" {
  description        = "AMIs of Terraform"
  execution_role_arn = "arn:aws:iam::123456789012:role/dlm"
  policy_details {
    policy_type    = "IMAGE_MANAGEMENT"
    resource_types = ["INSTANCE"]
    target_tags    = { backup = "yes" }
    parameters { no_reboot = true }
    schedule {
      name = "half-daily"
      create_rule { interval = 12 }
      retain_rule {
        interval      = 10
        interval_unit = "DAYS"
      }
      deprecate_rule {
        interval      = 5
        interval_unit = "DAYS"
      }
      variable_tags = { from = "$(instance-id)" }
    }
  }
}

output "id" { value = aws_dlm_lifecycle_policy.volumes.id }
""",
        "dlm",
    )
    workspace.apply()
    dlm = workspace.client("dlm")
    policy = json.loads(workspace.run("output", "-json").stdout)["id"]["value"]
    assert dlm.get_lifecycle_policy(PolicyId=policy)["Policy"]["Tags"] == {"made": "by terraform"}
    workspace.empty_plan()
    change = ("-var", "count_=7", "-var", "state=DISABLED")
    workspace.apply(*change)
    changed = dlm.get_lifecycle_policy(PolicyId=policy)["Policy"]
    assert changed["PolicyDetails"]["Schedules"][0]["RetainRule"]["Count"] == 7
    assert changed["State"] == "DISABLED"
    workspace.empty_plan(*change)
    workspace.destroy(*change)
    assert dlm.get_lifecycle_policies()["Policies"] == []
