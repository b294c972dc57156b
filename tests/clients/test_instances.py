"""Instances as boto3 sees them: their life, their attributes, their filters, and every refusal."""

import base64
import re

import pytest
from asking import filtered, instance, instances, launch, refusal, running, stopped, until, waiter


def test_a_life(ec2, image_id):
    answer = ec2.run_instances(ImageId=image_id, InstanceType="t3.micro", MinCount=1, MaxCount=1)
    assert re.fullmatch("r-[0-9a-f]{17}", answer["ReservationId"]) and answer["OwnerId"] == "123456789012"
    (launched,) = answer["Instances"]
    name = launched["InstanceId"]
    assert re.fullmatch("i-[0-9a-f]{17}", name)
    assert launched["State"] == {"Code": 0, "Name": "pending"}
    assert launched["StateReason"] == {"Code": "pending", "Message": "pending"}
    waiter(ec2, "instance_exists", InstanceIds=[name])
    waiter(ec2, "instance_running", InstanceIds=[name])
    waiter(ec2, "instance_status_ok", InstanceIds=[name])
    waiter(ec2, "system_status_ok", InstanceIds=[name])
    first = instance(ec2, name)
    assert first["State"] == {"Code": 16, "Name": "running"} and "StateReason" not in first
    assert first["PrivateIpAddress"].startswith("172.31.")
    assert first["PrivateDnsName"] == f"ip-{first['PrivateIpAddress'].replace('.', '-')}.{ec2.meta.region_name}.compute.internal"
    assert first["PublicDnsName"] == f"ec2-{first['PublicIpAddress'].replace('.', '-')}.{ec2.meta.region_name}.compute.amazonaws.com"
    assert first["StateTransitionReason"] == ""
    (status,) = ec2.describe_instance_status(InstanceIds=[name])["InstanceStatuses"]
    assert status["InstanceStatus"] == {"Details": [{"Name": "reachability", "Status": "passed"}], "Status": "ok"}

    ec2.reboot_instances(InstanceIds=[name])
    rebooted = instance(ec2, name)
    assert rebooted["State"]["Name"] == "running" and rebooted["PublicIpAddress"] == first["PublicIpAddress"]

    (change,) = ec2.stop_instances(InstanceIds=[name])["StoppingInstances"]
    assert change == {
        "InstanceId": name,
        "CurrentState": {"Code": 64, "Name": "stopping"},
        "PreviousState": {"Code": 16, "Name": "running"},
    }
    waiter(ec2, "instance_stopped", InstanceIds=[name])
    second = instance(ec2, name)
    assert second["State"] == {"Code": 80, "Name": "stopped"} and "PublicIpAddress" not in second
    assert second["PublicDnsName"] == "" and second["PrivateIpAddress"] == first["PrivateIpAddress"]
    assert second["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    assert re.fullmatch(r"User initiated \(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d GMT\)", second["StateTransitionReason"])
    assert ec2.describe_instance_status(InstanceIds=[name])["InstanceStatuses"] == []
    (status,) = ec2.describe_instance_status(InstanceIds=[name], IncludeAllInstances=True)["InstanceStatuses"]
    assert status["InstanceStatus"]["Status"] == "not-applicable" and status["InstanceState"]["Name"] == "stopped"

    (change,) = ec2.start_instances(InstanceIds=[name])["StartingInstances"]
    assert (change["PreviousState"]["Name"], change["CurrentState"]["Name"]) == ("stopped", "pending")
    waiter(ec2, "instance_running", InstanceIds=[name])
    third = instance(ec2, name)
    assert third["PrivateIpAddress"] == first["PrivateIpAddress"]
    assert third["PublicIpAddress"] != first["PublicIpAddress"]
    assert third["BlockDeviceMappings"] == first["BlockDeviceMappings"]

    (change,) = ec2.terminate_instances(InstanceIds=[name])["TerminatingInstances"]
    assert (change["PreviousState"]["Code"], change["CurrentState"]["Code"]) == (16, 32)
    waiter(ec2, "instance_terminated", InstanceIds=[name])
    last = instance(ec2, name)
    assert last["State"] == {"Code": 48, "Name": "terminated"}
    assert "PrivateIpAddress" not in last and "VpcId" not in last and last["BlockDeviceMappings"] == []
    assert ec2.describe_volumes()["Volumes"] == [] and ec2.describe_network_interfaces()["NetworkInterfaces"] == []
    again = ec2.terminate_instances(InstanceIds=[name])["TerminatingInstances"][0]
    assert again["CurrentState"]["Name"] == again["PreviousState"]["Name"] == "terminated"


def test_names_in_us_east_1(client):
    ec2 = client(region_name="us-east-1")
    image = ec2.describe_images(Filters=filtered(name="gureum-micro-*"))["Images"][0]["ImageId"]
    found = running(ec2, image)
    assert found["PrivateDnsName"] == f"ip-{found['PrivateIpAddress'].replace('.', '-')}.ec2.internal"
    assert found["PublicDnsName"] == f"ec2-{found['PublicIpAddress'].replace('.', '-')}.compute-1.amazonaws.com"
    ec2.terminate_instances(InstanceIds=[found["InstanceId"]])


class TestStates:
    def test_of_a_terminated_one(self, ec2, image_id):
        name = running(ec2, image_id)["InstanceId"]
        ec2.terminate_instances(InstanceIds=[name])
        until(ec2, "terminated", name)
        code, message, status = refusal(ec2.start_instances, InstanceIds=[name])
        assert (code, status) == ("IncorrectInstanceState", 400)
        assert message == f"The instance '{name}' is not in a state from which it can be started."
        code, message, _ = refusal(ec2.stop_instances, InstanceIds=[name])
        assert code == "IncorrectInstanceState" and "not in a state from which it can be stopped" in message
        ec2.reboot_instances(InstanceIds=[name])
        code, _, _ = refusal(ec2.modify_instance_attribute, InstanceId=name, DisableApiStop={"Value": True})
        assert code == "IncorrectInstanceState"

    def test_of_a_stopped_one(self, ec2, image_id):
        name = stopped(ec2, image_id)["InstanceId"]
        assert refusal(ec2.reboot_instances, InstanceIds=[name])[0] == "IncorrectInstanceState"
        (change,) = ec2.stop_instances(InstanceIds=[name])["StoppingInstances"]
        assert change["CurrentState"]["Name"] == change["PreviousState"]["Name"] == "stopped"
        ec2.terminate_instances(InstanceIds=[name])
        until(ec2, "terminated", name)

    def test_starting_a_running_one_changes_nothing(self, ec2, image_id):
        found = running(ec2, image_id)
        (change,) = ec2.start_instances(InstanceIds=[found["InstanceId"]])["StartingInstances"]
        assert change["CurrentState"]["Name"] == change["PreviousState"]["Name"] == "running"
        assert instance(ec2, found["InstanceId"]) == found

    def test_one_bad_id_fails_all(self, ec2, image_id):
        name, ghost = running(ec2, image_id)["InstanceId"], "i-0123456789abcdef0"
        code, message, status = refusal(ec2.stop_instances, InstanceIds=[name, ghost])
        assert (code, status) == ("InvalidInstanceID.NotFound", 400)
        assert message == f"The instance ID '{ghost}' does not exist"
        code, message, _ = refusal(ec2.terminate_instances, InstanceIds=[name, "i-xyz"])
        assert code == "InvalidInstanceID.Malformed" and message == 'Invalid id: "i-xyz"'
        assert instance(ec2, name)["State"]["Name"] == "running"
        ghosts = [ghost, "i-0123456789abcdef1"]
        code, message, _ = refusal(ec2.describe_instances, InstanceIds=ghosts)
        assert (code, message) == ("InvalidInstanceID.NotFound", f"The instance IDs '{', '.join(ghosts)}' do not exist")


class TestProtection:
    def test_termination(self, ec2, image_id):
        name = running(ec2, image_id, DisableApiTermination=True)["InstanceId"]
        code, message, status = refusal(ec2.terminate_instances, InstanceIds=[name])
        assert (code, status) == ("OperationNotPermitted", 400)
        assert message == (
            f"The instance '{name}' may not be terminated. "
            "Modify its 'disableApiTermination' instance attribute and try again."
        )
        ec2.modify_instance_attribute(InstanceId=name, DisableApiTermination={"Value": False})
        ec2.terminate_instances(InstanceIds=[name])

    def test_stop(self, ec2, image_id):
        name = running(ec2, image_id, DisableApiStop=True)["InstanceId"]
        code, message, _ = refusal(ec2.stop_instances, InstanceIds=[name])
        assert code == "OperationNotPermitted" and "'disableApiStop'" in message
        # What cannot be stopped can be terminated: AWS protects the two apart.
        assert refusal(ec2.stop_instances, InstanceIds=[name], Force=True)[0] == "OperationNotPermitted"
        ec2.modify_instance_attribute(InstanceId=name, DisableApiStop={"Value": False})
        ec2.stop_instances(InstanceIds=[name])
        until(ec2, "stopped", name)


class TestUserData:
    def read(self, ec2, name):
        answer = ec2.describe_instance_attribute(InstanceId=name, Attribute="userData")
        return answer["UserData"].get("Value")

    def test_round_trip(self, ec2, image_id):
        text = "#!/bin/sh\necho 'öäü & <b>' > /tmp/x\n"
        name = launch(ec2, image_id, UserData=text)["InstanceId"]
        assert base64.b64decode(self.read(ec2, name)).decode() == text
        bare = launch(ec2, image_id)["InstanceId"]
        assert self.read(ec2, bare) is None

    def test_every_byte(self, ec2, image_id):
        data = bytes(range(256)) * 64
        name = launch(ec2, image_id, UserData=data)["InstanceId"]
        assert base64.b64decode(self.read(ec2, name)) == data

    def test_limit(self, ec2, image_id):
        code, message, status = refusal(launch, ec2=ec2, image_id=image_id, UserData="x" * 16385)
        assert (code, status) == ("InvalidParameterValue", 400) and "16384 bytes" in message
        assert instances(ec2) == []

    def test_only_while_stopped(self, ec2, image_id):
        name = running(ec2, image_id)["InstanceId"]
        change = {"InstanceId": name, "UserData": {"Value": b"new"}}
        assert refusal(ec2.modify_instance_attribute, **change)[0] == "IncorrectInstanceState"
        ec2.stop_instances(InstanceIds=[name])
        until(ec2, "stopped", name)
        ec2.modify_instance_attribute(**change)
        assert base64.b64decode(self.read(ec2, name)) == b"new"
        assert refusal(ec2.modify_instance_attribute, InstanceId=name, UserData={"Value": b"x" * 16385})[0] == "InvalidParameterValue"
        assert base64.b64decode(self.read(ec2, name)) == b"new"


def test_filters(ec2, image_id):
    key = ec2.create_key_pair(KeyName="filters")["KeyName"]
    group = ec2.create_security_group(GroupName="filters", Description="for filters")["GroupId"]
    elsewhere, zone = ec2.describe_availability_zones()["AvailabilityZones"][:2]
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "web-1"}, {"Key": "a*b", "Value": ""}]}]
    name = launch(
        ec2,
        image_id,
        KeyName=key,
        SecurityGroupIds=[group],
        Placement={"AvailabilityZone": zone["ZoneName"]},
        TagSpecifications=tags,
        ClientToken="filters",
        Monitoring={"Enabled": True},
        InstanceInitiatedShutdownBehavior="terminate",
    )["InstanceId"]
    there = {"AvailabilityZone": elsewhere["ZoneName"]}
    other = stopped(ec2, image_id, InstanceType="t3.small", Placement=there)["InstanceId"]
    until(ec2, "running", name)
    it = instance(ec2, name)
    (interface,) = it["NetworkInterfaces"]
    reservation = ec2.describe_instances(InstanceIds=[name])["Reservations"][0]["ReservationId"]
    volume = it["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    only_it = {
        "availability-zone": zone["ZoneName"],
        "availability-zone-id": zone["ZoneId"],
        "block-device-mapping.volume-id": volume,
        "client-token": "filters",
        "dns-name": it["PublicDnsName"],
        "group-id": group,
        "group-name": "filters",
        "instance.group-id": group,
        "instance.group-name": "filters",
        "instance-id": name,
        "instance-state-code": "16",
        "instance-state-name": "running",
        "instance-type": "t3.micro",
        "ip-address": it["PublicIpAddress"],
        "key-name": "filters",
        "monitoring-state": "enabled",
        "network-interface.addresses.association.public-ip": it["PublicIpAddress"],
        "network-interface.addresses.private-ip-address": it["PrivateIpAddress"],
        "network-interface.attachment.attachment-id": interface["Attachment"]["AttachmentId"],
        "network-interface.attachment.instance-id": name,
        "network-interface.group-id": group,
        "network-interface.mac-address": interface["MacAddress"],
        "network-interface.network-interface-id": interface["NetworkInterfaceId"],
        "private-dns-name": it["PrivateDnsName"],
        "private-ip-address": it["PrivateIpAddress"],
        "reservation-id": reservation,
        "subnet-id": it["SubnetId"],
        "tag:Name": "web-*",
        "tag:a*b": "",
        "tag-key": "Name",
    }
    for filter_name, value in only_it.items():
        found = instances(ec2, Filters=[{"Name": filter_name, "Values": [value]}])
        assert [i["InstanceId"] for i in found] == [name], filter_name
    both = {
        "architecture": "x86_64",
        "hypervisor": "xen",
        "image-id": image_id,
        "network-interface.vpc-id": it["VpcId"],
        "owner-id": "123456789012",
        "root-device-name": it["RootDeviceName"],
        "root-device-type": "ebs",
        "tenancy": "default",
        "virtualization-type": "hvm",
        "vpc-id": it["VpcId"],
        "source-dest-check": "true",
        "metadata-options.http-endpoint": "enabled",
    }
    for filter_name, value in both.items():
        found = instances(ec2, Filters=[{"Name": filter_name, "Values": [value]}])
        assert {i["InstanceId"] for i in found} == {name, other}, filter_name
        assert instances(ec2, Filters=[{"Name": filter_name, "Values": ["no-such-thing"]}]) == [], filter_name
    assert {i["InstanceId"] for i in instances(ec2, Filters=filtered(instance_state_name=["running", "stopped"]))} == {name, other}
    assert instances(ec2, Filters=filtered(instance_type="t3.micro", instance_state_name="stopped")) == []
    assert [i["InstanceId"] for i in instances(ec2, Filters=filtered(instance_type="t?.sm*"))] == [other]
    assert [i["InstanceId"] for i in instances(ec2, Filters=filtered(reason="*User initiated*"))] == [other]
    assert [i["InstanceId"] for i in instances(ec2, Filters=filtered(state_reason_code="Client.UserInitiatedShutdown"))] == [other]
    code, message, status = refusal(ec2.describe_instances, Filters=filtered(colour="red"))
    assert (code, message, status) == ("InvalidParameterValue", "The filter 'colour' is invalid", 400)


def test_every_documented_filter_is_known(ec2, image_id):
    """Those that the installed botocore documents."""
    running(ec2, image_id)
    documentation = ec2.meta.service_model.operation_model("DescribeInstances").input_shape.members["Filters"].documentation
    names = re.findall(r"<li>\s*<p>\s*<code>([a-z0-9.-]+)</code>", documentation)
    assert len(names) > 80
    for name in names:
        ec2.describe_instances(Filters=[{"Name": name, "Values": ["nothing-has-this"]}])


@pytest.mark.parametrize(
    "operation",
    [
        "DescribeInstanceStatus",
        "DescribeImages",
        "DescribeKeyPairs",
        "DescribeSecurityGroups",
        "DescribeSecurityGroupRules",
        "DescribeVpcs",
        "DescribeSubnets",
        "DescribeNetworkInterfaces",
        "DescribeVolumes",
        "DescribeTags",
        "DescribeInstanceTypes",
        "DescribeInstanceTypeOfferings",
        "DescribeAvailabilityZones",
        "DescribeRegions",
    ],
)
def test_filters_of(ec2, operation):
    """Every filter that botocore documents is taken; another is refused."""
    import botocore

    call = getattr(ec2, botocore.xform_name(operation))
    documentation = ec2.meta.service_model.operation_model(operation).input_shape.members["Filters"].documentation
    names = set(re.findall(r"<li>\s*<p>\s*<code>([a-zA-Z0-9.-]+)</code>", documentation)) - {"tag"}  # it is tag:KEY
    assert names
    for name in names:
        call(Filters=[{"Name": name, "Values": ["nothing-has-this"]}])
    assert refusal(call, Filters=[{"Name": "colour", "Values": ["red"]}])[:2] == (
        "InvalidParameterValue",
        "The filter 'colour' is invalid",
    )


class TestPages:
    def test_all_once(self, ec2, image_id):
        made = set()
        for _ in range(6):
            answer = ec2.run_instances(ImageId=image_id, InstanceType="t3.micro", MinCount=2, MaxCount=2)
            made |= {i["InstanceId"] for i in answer["Instances"]}
        pages = list(ec2.get_paginator("describe_instances").paginate(PaginationConfig={"PageSize": 5}))
        seen = [i["InstanceId"] for page in pages for r in page["Reservations"] for i in r["Instances"]]
        assert len(pages) == 3 and len(seen) == 12 and set(seen) == made
        pages = ec2.get_paginator("describe_instance_status").paginate(IncludeAllInstances=True, PaginationConfig={"PageSize": 5})
        assert {s["InstanceId"] for page in pages for s in page["InstanceStatuses"]} == made

    def test_bounds(self, ec2):
        for size in (0, 1, 4, 1001):
            code, _, _ = refusal(ec2.describe_instances, MaxResults=size)
            assert code == "InvalidParameterValue", size
        ec2.describe_instances(MaxResults=1000)
        assert refusal(ec2.describe_instances, NextToken="nonsense!")[0] in ("InvalidParameterValue", "InvalidNextToken")

    def test_not_with_ids(self, ec2, image_id):
        name = launch(ec2, image_id)["InstanceId"]
        code, message, _ = refusal(ec2.describe_instances, InstanceIds=[name], MaxResults=5)
        assert code == "InvalidParameterCombination"
        assert message == "The parameter instancesSet cannot be used with the parameter maxResults"


class TestClientToken:
    def test_same_answer(self, ec2, image_id):
        first = launch(ec2, image_id, ClientToken="once")
        assert first["ClientToken"] == "once"
        until(ec2, "running", first["InstanceId"])
        assert launch(ec2, image_id, ClientToken="once")["InstanceId"] == first["InstanceId"]
        assert len(instances(ec2)) == 1

    def test_mismatch(self, ec2, image_id):
        launch(ec2, image_id, ClientToken="once")
        code, _, status = refusal(launch, ec2=ec2, image_id=image_id, ClientToken="once", InstanceType="t3.small")
        assert (code, status) == ("IdempotentParameterMismatch", 400)
        assert len(instances(ec2)) == 1

    def test_too_long(self, ec2, image_id):
        assert refusal(launch, ec2=ec2, image_id=image_id, ClientToken="x" * 65)[0] == "InvalidParameterValue"


def test_dry_run(ec2, image_id):
    wish = {"ImageId": image_id, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1, "DryRun": True}
    code, message, status = refusal(ec2.run_instances, **wish)
    assert (code, status) == ("DryRunOperation", 412)
    assert message == "Request would have succeeded, but DryRun flag is set."
    assert refusal(ec2.run_instances, **(wish | {"InstanceType": "t3.none"}))[0] == "InvalidInstanceType"
    name = running(ec2, image_id)["InstanceId"]
    assert refusal(ec2.terminate_instances, InstanceIds=[name], DryRun=True)[0] == "DryRunOperation"
    assert [i["State"]["Name"] for i in instances(ec2)] == ["running"]


class TestCount:
    def test_several(self, ec2, image_id):
        answer = ec2.run_instances(ImageId=image_id, InstanceType="t3.micro", MinCount=2, MaxCount=7)
        made = answer["Instances"]
        assert [i["AmiLaunchIndex"] for i in made] == list(range(7))
        assert len({i["PrivateIpAddress"] for i in made}) == 7
        (reservation,) = ec2.describe_instances()["Reservations"]
        assert len(reservation["Instances"]) == 7 and reservation["ReservationId"] == answer["ReservationId"]
        until(ec2, "running", *(i["InstanceId"] for i in made))
        changes = ec2.terminate_instances(InstanceIds=[i["InstanceId"] for i in made])["TerminatingInstances"]
        assert len(changes) == 7

    def test_bounds(self, ec2, image_id):
        for least, most, expected in [(2, 1, "InvalidParameterCombination"), (0, 1, "InvalidParameterValue"), (1, 0, "InvalidParameterValue")]:
            code, _, _ = refusal(ec2.run_instances, ImageId=image_id, InstanceType="t3.micro", MinCount=least, MaxCount=most)
            assert code in (expected, "InvalidParameterValue"), (least, most)
        assert instances(ec2) == []


class TestBlockDevices:
    def volumes(self, ec2, name):
        found = ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [name]}])["Volumes"]
        return {v["Attachments"][0]["Device"]: v for v in found}

    def test_overrides(self, ec2, image_id):
        root = ec2.describe_images(ImageIds=[image_id])["Images"][0]["RootDeviceName"]
        mappings = [
            {"DeviceName": root, "Ebs": {"VolumeSize": 20, "VolumeType": "gp3", "Iops": 4000, "Throughput": 250, "DeleteOnTermination": False}},
            {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 5}},
        ]
        name = running(ec2, image_id, BlockDeviceMappings=mappings)["InstanceId"]
        volumes = self.volumes(ec2, name)
        assert volumes.keys() == {root, "/dev/sdf"}
        first, second = volumes[root], volumes["/dev/sdf"]
        assert (first["Size"], first["VolumeType"], first["Iops"], first["Throughput"]) == (20, "gp3", 4000, 250)
        assert (second["Size"], second["VolumeType"], second["Iops"]) == (5, "gp2", 100)
        assert first["State"] == "in-use" and first["Attachments"][0]["DeleteOnTermination"] is False
        ec2.terminate_instances(InstanceIds=[name])
        until(ec2, "terminated", name)
        states = {v["VolumeId"]: v["State"] for v in ec2.describe_volumes()["Volumes"]}
        assert states == {first["VolumeId"]: "available", second["VolumeId"]: "available"}

    def test_change_of_delete_on_termination(self, ec2, image_id):
        found = running(ec2, image_id)
        name, root = found["InstanceId"], found["RootDeviceName"]
        ec2.modify_instance_attribute(InstanceId=name, BlockDeviceMappings=[{"DeviceName": root, "Ebs": {"DeleteOnTermination": False}}])
        answer = ec2.describe_instance_attribute(InstanceId=name, Attribute="blockDeviceMapping")
        assert answer["BlockDeviceMappings"][0]["Ebs"]["DeleteOnTermination"] is False
        ec2.terminate_instances(InstanceIds=[name])
        until(ec2, "terminated", name)
        assert len(ec2.describe_volumes()["Volumes"]) == 1

    @pytest.mark.parametrize(
        "mapping",
        [
            {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 0}},
            {"DeviceName": "/dev/sdf", "Ebs": {"VolumeType": "gp2"}},
            {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 8, "VolumeType": "gp3", "Iops": 99}},
            {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 20000, "VolumeType": "gp2"}},
            {"DeviceName": "../etc", "Ebs": {"VolumeSize": 8}},
            {"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": "snap-0123456789abcdef0"}},
        ],
    )
    def test_refused(self, ec2, image_id, mapping):
        code, _, status = refusal(launch, ec2=ec2, image_id=image_id, BlockDeviceMappings=[mapping])
        assert status == 400 and code in (
            "InvalidParameterValue",
            "MissingParameter",
            "InvalidParameterCombination",
            "InvalidBlockDeviceMapping",
            "InvalidSnapshot.NotFound",
        )
        assert instances(ec2) == []

    def test_smaller_than_the_image(self, ec2):
        image = ec2.describe_images(Filters=filtered(name="amzn2-ami-hvm-*"))["Images"][0]
        size = image["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"]
        mapping = {"DeviceName": image["RootDeviceName"], "Ebs": {"VolumeSize": size - 1}}
        code, message, _ = refusal(launch, ec2=ec2, image_id=image["ImageId"], BlockDeviceMappings=[mapping])
        assert code == "InvalidBlockDeviceMapping" and f"expect size >= {size}GB" in message


class TestMetadataOptions:
    def test_at_launch_and_later(self, ec2, image_id):
        options = {"HttpTokens": "required", "HttpPutResponseHopLimit": 3, "HttpEndpoint": "enabled", "InstanceMetadataTags": "enabled"}
        name = running(ec2, image_id, MetadataOptions=options)["InstanceId"]
        assert instance(ec2, name)["MetadataOptions"] == options | {"State": "applied", "HttpProtocolIpv6": "disabled"}
        changed = ec2.modify_instance_metadata_options(InstanceId=name, HttpTokens="optional", HttpEndpoint="disabled")
        assert changed["InstanceId"] == name and changed["InstanceMetadataOptions"]["HttpTokens"] == "optional"
        seen = instance(ec2, name)["MetadataOptions"]
        assert (seen["HttpTokens"], seen["HttpEndpoint"], seen["HttpPutResponseHopLimit"]) == ("optional", "disabled", 3)

    @pytest.mark.parametrize("options", [{"HttpTokens": "maybe"}, {"HttpPutResponseHopLimit": 65}, {"HttpEndpoint": "on"}])
    def test_refused(self, ec2, image_id, options):
        assert refusal(launch, ec2=ec2, image_id=image_id, MetadataOptions=options)[0] == "InvalidParameterValue"


class TestAttributes:
    def test_each(self, ec2, image_id):
        name = running(ec2, image_id)["InstanceId"]

        def read(attribute):
            answer = ec2.describe_instance_attribute(InstanceId=name, Attribute=attribute)
            del answer["ResponseMetadata"]
            assert answer.pop("InstanceId") == name
            return answer

        assert read("instanceType") == {"InstanceType": {"Value": "t3.micro"}}
        assert read("disableApiTermination") == {"DisableApiTermination": {"Value": False}}
        assert read("disableApiStop") == {"DisableApiStop": {"Value": False}}
        assert read("instanceInitiatedShutdownBehavior") == {"InstanceInitiatedShutdownBehavior": {"Value": "stop"}}
        assert read("sourceDestCheck") == {"SourceDestCheck": {"Value": True}}
        assert read("ebsOptimized") == {"EbsOptimized": {"Value": False}}
        assert read("enaSupport") == {"EnaSupport": {"Value": True}}
        assert read("groupSet")["Groups"][0]["GroupId"].startswith("sg-")
        assert read("rootDeviceName")["RootDeviceName"]["Value"].startswith("/dev/")
        ec2.modify_instance_attribute(InstanceId=name, InstanceInitiatedShutdownBehavior={"Value": "terminate"})
        ec2.modify_instance_attribute(InstanceId=name, SourceDestCheck={"Value": False})
        assert read("instanceInitiatedShutdownBehavior") == {"InstanceInitiatedShutdownBehavior": {"Value": "terminate"}}
        assert read("sourceDestCheck") == {"SourceDestCheck": {"Value": False}}
        seen = instance(ec2, name)
        assert seen["SourceDestCheck"] is False and seen["NetworkInterfaces"][0]["SourceDestCheck"] is False
        ec2.reset_instance_attribute(InstanceId=name, Attribute="sourceDestCheck")
        assert read("sourceDestCheck") == {"SourceDestCheck": {"Value": True}}
        group = ec2.create_security_group(GroupName="other", Description="other")["GroupId"]
        ec2.modify_instance_attribute(InstanceId=name, Groups=[group])
        assert read("groupSet") == {"Groups": [{"GroupId": group, "GroupName": "other"}]}
        assert instance(ec2, name)["SecurityGroups"] == [{"GroupId": group, "GroupName": "other"}]

    def test_type_only_while_stopped(self, ec2, image_id):
        name = running(ec2, image_id)["InstanceId"]
        change = {"InstanceId": name, "InstanceType": {"Value": "m5.large"}}
        assert refusal(ec2.modify_instance_attribute, **change)[0] == "IncorrectInstanceState"
        ec2.stop_instances(InstanceIds=[name])
        until(ec2, "stopped", name)
        ec2.modify_instance_attribute(**change)
        assert instance(ec2, name)["InstanceType"] == "m5.large"
        assert refusal(ec2.modify_instance_attribute, InstanceId=name, InstanceType={"Value": "q9.huge"})[0] in (
            "InvalidInstanceType",
            "InvalidInstanceAttributeValue",
            "InvalidParameterValue",
        )

    def test_one_at_a_time(self, ec2, image_id):
        name = launch(ec2, image_id)["InstanceId"]
        code, _, _ = refusal(
            ec2.modify_instance_attribute, InstanceId=name, DisableApiStop={"Value": True}, SourceDestCheck={"Value": False}
        )
        assert code == "InvalidParameterCombination"
        assert refusal(ec2.modify_instance_attribute, InstanceId=name)[0] in ("InvalidParameterCombination", "MissingParameter")
        assert refusal(ec2.describe_instance_attribute, InstanceId=name, Attribute="colour")[0] == "InvalidParameterValue"
        assert refusal(ec2.reset_instance_attribute, InstanceId=name, Attribute="userData")[0] == "InvalidParameterValue"


class TestPlace:
    def test_subnet_and_address(self, ec2, image_id):
        subnet = ec2.describe_subnets()["Subnets"][2]
        base = subnet["CidrBlock"].rsplit(".", 1)[0]
        address = f"{base}.77"
        found = launch(ec2, image_id, SubnetId=subnet["SubnetId"], PrivateIpAddress=address)
        assert (found["SubnetId"], found["PrivateIpAddress"]) == (subnet["SubnetId"], address)
        assert found["Placement"]["AvailabilityZone"] == subnet["AvailabilityZone"]
        where = {"ec2": ec2, "image_id": image_id, "SubnetId": subnet["SubnetId"]}
        code, message, _ = refusal(launch, **where, PrivateIpAddress=address)
        assert (code, message) == ("InvalidIPAddress.InUse", f"Address {address} is in use.")
        assert refusal(launch, **where, PrivateIpAddress="10.0.0.1")[0] == "InvalidParameterValue"
        assert refusal(launch, **where, PrivateIpAddress=f"{base}.3")[0] == "InvalidParameterValue"
        free = {s["SubnetId"]: s["AvailableIpAddressCount"] for s in ec2.describe_subnets()["Subnets"]}
        assert free.pop(subnet["SubnetId"]) == 4090 and set(free.values()) == {4091}
        until(ec2, "running", found["InstanceId"])
        ec2.terminate_instances(InstanceIds=[found["InstanceId"]])
        until(ec2, "terminated", found["InstanceId"])
        assert launch(ec2, image_id, SubnetId=subnet["SubnetId"], PrivateIpAddress=address)["PrivateIpAddress"] == address

    def test_zone(self, ec2, image_id):
        for zone in ec2.describe_availability_zones()["AvailabilityZones"]:
            found = launch(ec2, image_id, Placement={"AvailabilityZone": zone["ZoneName"]})
            assert found["Placement"]["AvailabilityZone"] == zone["ZoneName"]
            (subnet,) = ec2.describe_subnets(SubnetIds=[found["SubnetId"]])["Subnets"]
            assert subnet["AvailabilityZoneId"] == zone["ZoneId"]
        code, _, _ = refusal(launch, ec2=ec2, image_id=image_id, Placement={"AvailabilityZone": "mars-1a"})
        assert code == "InvalidParameterValue"

    def test_network_interface(self, ec2, image_id):
        subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
        group = ec2.create_security_group(GroupName="nic", Description="nic")["GroupId"]
        given = {"DeviceIndex": 0, "SubnetId": subnet, "Groups": [group], "AssociatePublicIpAddress": False, "Description": "mine"}
        found = running(ec2, image_id, NetworkInterfaces=[given])
        assert "PublicIpAddress" not in found
        (interface,) = found["NetworkInterfaces"]
        assert interface["Description"] == "mine" and interface["Groups"] == [{"GroupId": group, "GroupName": "nic"}]


class TestRefusals:
    @pytest.mark.parametrize(
        "wish, code, message",
        [
            ({"ImageId": "ami-0123456789abcdef0"}, "InvalidAMIID.NotFound", "The image id '[ami-0123456789abcdef0]' does not exist"),
            ({"ImageId": "nonsense"}, "InvalidAMIID.Malformed", 'Invalid id: "nonsense" (expecting "ami-...")'),
            ({"InstanceType": "t3.colossal"}, "InvalidInstanceType", None),
            ({"KeyName": "ghost"}, "InvalidKeyPair.NotFound", "The key pair 'ghost' does not exist"),
            ({"SecurityGroupIds": ["sg-0123456789abcdef0"]}, "InvalidGroup.NotFound", "The security group 'sg-0123456789abcdef0' does not exist"),
            ({"SecurityGroups": ["ghost"]}, "InvalidGroup.NotFound", None),
            ({"SubnetId": "subnet-0123456789abcdef0"}, "InvalidSubnetID.NotFound", "The subnet ID 'subnet-0123456789abcdef0' does not exist"),
            ({"InstanceType": "t4g.micro"}, "InvalidParameterValue", None),
            ({"IamInstanceProfile": {"Name": "role"}}, "UnsupportedOperation", None),
            ({"InstanceInitiatedShutdownBehavior": "explode"}, "InvalidParameterValue", None),
        ],
    )
    def test_launch(self, ec2, image_id, wish, code, message):
        seen = refusal(ec2.run_instances, **({"ImageId": image_id, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1} | wish))
        assert (seen[0], seen[2]) == (code, 400), seen
        if message:
            assert seen[1] == message
        assert instances(ec2) == []
        assert ec2.describe_network_interfaces()["NetworkInterfaces"] == [] and ec2.describe_volumes()["Volumes"] == []


class TestTypes:
    def test_one(self, ec2):
        (found,) = ec2.describe_instance_types(InstanceTypes=["t3.micro"])["InstanceTypes"]
        assert found["VCpuInfo"]["DefaultVCpus"] == 2 and found["MemoryInfo"]["SizeInMiB"] == 1024
        assert found["FreeTierEligible"] in (True, False) and found["Hypervisor"] == "nitro"
        assert found["ProcessorInfo"]["SupportedArchitectures"] == ["x86_64"]
        assert found["NetworkInfo"]["MaximumNetworkInterfaces"] == 2

    def test_unknown(self, ec2):
        code, message, _ = refusal(ec2.describe_instance_types, InstanceTypes=["t3.colossal"])
        assert code == "InvalidInstanceType"
        assert message == "The following supplied instance types do not exist: [t3.colossal]"

    def test_pages_and_filters(self, ec2):
        pages = ec2.get_paginator("describe_instance_types").paginate()
        everything = [t["InstanceType"] for page in pages for t in page["InstanceTypes"]]
        assert len(everything) > 300 and len(set(everything)) == len(everything)
        assert refusal(ec2.describe_instance_types, MaxResults=101)[0] == "InvalidParameterValue"
        arm = ec2.describe_instance_types(Filters=filtered(instance_type="t4g.*"))["InstanceTypes"]
        assert {t["InstanceType"] for t in arm} == {f"t4g.{s}" for s in ("nano", "micro", "small", "medium", "large", "xlarge", "2xlarge")}

    def test_offerings(self, ec2):
        offered = ec2.describe_instance_type_offerings(Filters=filtered(instance_type="t3.micro"))["InstanceTypeOfferings"]
        assert offered == [{"InstanceType": "t3.micro", "LocationType": "region", "Location": ec2.meta.region_name}]
        zones = {z["ZoneName"] for z in ec2.describe_availability_zones()["AvailabilityZones"]}
        offered = ec2.describe_instance_type_offerings(
            LocationType="availability-zone", Filters=filtered(instance_type="t3.micro")
        )["InstanceTypeOfferings"]
        assert {o["Location"] for o in offered} == zones


def test_console_of_a_simulated_instance(ec2, image_id):
    name = running(ec2, image_id)["InstanceId"]
    answer = ec2.get_console_output(InstanceId=name)
    assert answer["InstanceId"] == name and "Timestamp" in answer
    assert isinstance(answer.get("Output", ""), str)


def test_monitoring(ec2, image_id):
    name = running(ec2, image_id)["InstanceId"]
    (change,) = ec2.monitor_instances(InstanceIds=[name])["InstanceMonitorings"]
    assert change["Monitoring"]["State"] in ("pending", "enabled")
    assert instance(ec2, name)["Monitoring"]["State"] == "enabled"
    ec2.unmonitor_instances(InstanceIds=[name])
    assert instance(ec2, name)["Monitoring"]["State"] == "disabled"


def test_account_attributes(ec2):
    found = {a["AttributeName"]: [v["AttributeValue"] for v in a["AttributeValues"]] for a in ec2.describe_account_attributes()["AccountAttributes"]}
    assert found["supported-platforms"] == ["VPC"]
    assert found["default-vpc"] == [ec2.describe_vpcs()["Vpcs"][0]["VpcId"]]
    assert refusal(ec2.describe_account_attributes, AttributeNames=["colour"])[0] == "InvalidParameterValue"
