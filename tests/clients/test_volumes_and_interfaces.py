"""Volumes and network interfaces that launches make, and the subnets they stand in."""

import re

import pytest
from asking import filtered, instance, refusal, running, stopped, until, waiter


def test_volume(ec2, image_id):
    it = running(ec2, image_id)
    (mapping,) = it["BlockDeviceMappings"]
    name = mapping["Ebs"]["VolumeId"]
    assert re.fullmatch("vol-[0-9a-f]{17}", name) and mapping["DeviceName"] == it["RootDeviceName"]
    waiter(ec2, "volume_in_use", VolumeIds=[name])
    (volume,) = ec2.describe_volumes(VolumeIds=[name])["Volumes"]
    assert volume["State"] == "in-use" and volume["Encrypted"] is False
    assert volume["AvailabilityZone"] == it["Placement"]["AvailabilityZone"]
    (attachment,) = volume["Attachments"]
    assert (attachment["InstanceId"], attachment["Device"], attachment["State"]) == (it["InstanceId"], it["RootDeviceName"], "attached")
    assert attachment["DeleteOnTermination"] is True
    (image,) = ec2.describe_images(ImageIds=[image_id])["Images"]
    assert volume["SnapshotId"] == image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    assert volume["Size"] == image["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"]
    ec2.terminate_instances(InstanceIds=[it["InstanceId"]])
    waiter(ec2, "volume_deleted", VolumeIds=[name])


def test_volume_filters(ec2, image_id):
    it = running(ec2, image_id, BlockDeviceMappings=[{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 33, "VolumeType": "gp3"}}])
    (root,) = [m["Ebs"]["VolumeId"] for m in it["BlockDeviceMappings"] if m["DeviceName"] == it["RootDeviceName"]]
    (extra,) = {m["Ebs"]["VolumeId"] for m in it["BlockDeviceMappings"]} - {root}
    for name, value, expected in [
        ("attachment.instance-id", it["InstanceId"], {root, extra}),
        ("attachment.device", "/dev/sdf", {extra}),
        ("attachment.status", "attached", {root, extra}),
        ("attachment.delete-on-termination", "true", {root}),
        ("availability-zone", it["Placement"]["AvailabilityZone"], {root, extra}),
        ("encrypted", "false", {root, extra}),
        ("size", "33", {extra}),
        ("status", "in-use", {root, extra}),
        ("status", "available", set()),
        ("volume-id", root, {root}),
        ("volume-type", "gp3", {extra}),
    ]:
        found = ec2.describe_volumes(Filters=[{"Name": name, "Values": [value]}])["Volumes"]
        if name == "volume-type":
            found = [v for v in found if v["VolumeId"] != root]
        assert {v["VolumeId"] for v in found} == expected, name
    ghost = "vol-0123456789abcdef0"
    code, message, status = refusal(ec2.describe_volumes, VolumeIds=[ghost])
    assert (code, message, status) == ("InvalidVolume.NotFound", f"The volume '{ghost}' does not exist.", 400)


def test_interface(ec2, image_id):
    it = running(ec2, image_id)
    (within,) = it["NetworkInterfaces"]
    (interface,) = ec2.describe_network_interfaces(NetworkInterfaceIds=[within["NetworkInterfaceId"]])["NetworkInterfaces"]
    assert interface["Status"] == "in-use" and interface["InterfaceType"] == "interface"
    assert re.fullmatch("([0-9a-f]{2}:){5}[0-9a-f]{2}", interface["MacAddress"])
    assert int(interface["MacAddress"][:2], 16) & 3 == 2, "a unicast address that is locally administered"
    assert interface["PrivateIpAddress"] == it["PrivateIpAddress"]
    assert interface["Association"]["PublicIp"] == it["PublicIpAddress"]
    assert interface["Attachment"]["InstanceId"] == it["InstanceId"] and interface["Attachment"]["DeviceIndex"] == 0
    assert interface["SourceDestCheck"] is True and interface["RequesterManaged"] is False
    assert interface["Groups"] == it["SecurityGroups"]
    for name, value in {
        "attachment.instance-id": it["InstanceId"],
        "mac-address": interface["MacAddress"],
        "private-ip-address": it["PrivateIpAddress"],
        "addresses.private-ip-address": it["PrivateIpAddress"],
        "association.public-ip": it["PublicIpAddress"],
        "subnet-id": it["SubnetId"],
        "vpc-id": it["VpcId"],
        "group-id": it["SecurityGroups"][0]["GroupId"],
        "status": "in-use",
    }.items():
        found = ec2.describe_network_interfaces(Filters=[{"Name": name, "Values": [value]}])["NetworkInterfaces"]
        assert found == [interface], name
        assert ec2.describe_network_interfaces(Filters=[{"Name": name, "Values": ["nothing"]}])["NetworkInterfaces"] == []
    ghost = "eni-0123456789abcdef0"
    assert refusal(ec2.describe_network_interfaces, NetworkInterfaceIds=[ghost])[:2] == (
        "InvalidNetworkInterfaceID.NotFound",
        f"The networkInterface ID '{ghost}' does not exist",
    )


def test_interface_of_a_stopped_instance(ec2, image_id):
    it = stopped(ec2, image_id)
    (interface,) = ec2.describe_network_interfaces()["NetworkInterfaces"]
    assert "Association" not in interface and interface["PrivateIpAddress"] == it["PrivateIpAddress"]
    assert interface["Attachment"]["InstanceId"] == it["InstanceId"]
    ec2.terminate_instances(InstanceIds=[it["InstanceId"]])
    until(ec2, "terminated", it["InstanceId"])
    assert ec2.describe_network_interfaces()["NetworkInterfaces"] == []


def test_groups_of_an_interface(ec2, image_id):
    it = running(ec2, image_id)
    interface = it["NetworkInterfaces"][0]["NetworkInterfaceId"]
    group = ec2.create_security_group(GroupName="g", Description="g")["GroupId"]
    ec2.modify_network_interface_attribute(NetworkInterfaceId=interface, Groups=[group])
    assert instance(ec2, it["InstanceId"])["SecurityGroups"] == [{"GroupId": group, "GroupName": "g"}]
    ec2.modify_network_interface_attribute(NetworkInterfaceId=interface, Description={"Value": "new"})
    answer = ec2.describe_network_interface_attribute(NetworkInterfaceId=interface, Attribute="description")
    assert answer["Description"] == {"Value": "new"}


def test_subnets(ec2, image_id):
    for subnet in ec2.describe_subnets()["Subnets"]:
        assert subnet["MapPublicIpOnLaunch"] is True and subnet["DefaultForAz"] is True and subnet["State"] == "available"
        for name, value in {
            "subnet-id": subnet["SubnetId"],
            "availability-zone": subnet["AvailabilityZone"],
            "availability-zone-id": subnet["AvailabilityZoneId"],
            "cidr-block": subnet["CidrBlock"],
        }.items():
            assert ec2.describe_subnets(Filters=[{"Name": name, "Values": [value]}])["Subnets"] == [subnet], name
    assert ec2.describe_subnets(Filters=filtered(default_for_az="false"))["Subnets"] == []
    assert refusal(ec2.describe_subnets, SubnetIds=["subnet-0123456789abcdef0"])[0] == "InvalidSubnetID.NotFound"


@pytest.mark.parametrize("attribute, member", [("enableDnsSupport", "EnableDnsSupport"), ("enableDnsHostnames", "EnableDnsHostnames")])
def test_vpc_attributes(ec2, attribute, member):
    (vpc,) = ec2.describe_vpcs(Filters=filtered(is_default="true"))["Vpcs"]
    assert ec2.describe_vpc_attribute(VpcId=vpc["VpcId"], Attribute=attribute)[member] == {"Value": True}
    assert refusal(ec2.describe_vpcs, VpcIds=["vpc-0123456789abcdef0"])[0] == "InvalidVpcID.NotFound"
