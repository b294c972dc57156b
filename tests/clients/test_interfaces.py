"""Network interfaces: made, attached to running and stopped instances, moved, with all their addresses."""

import ipaddress

import pytest
from asking import filtered, instance, refusal, running, stopped, until, waiter
from support import wait_for

GHOST = "eni-0123456789abcdef0"


@pytest.fixture
def subnet(ec2):
    (found,) = ec2.describe_subnets(Filters=filtered(availability_zone=ec2.meta.region_name + "a"))["Subnets"]
    return found


@pytest.fixture
def dual(ec2):
    """A subnet with IPv6 that nobody else uses."""
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16", AmazonProvidedIpv6CidrBlock=True)["Vpc"]["VpcId"]

    def block():
        (found,) = ec2.describe_vpcs(VpcIds=[vpc])["Vpcs"]
        blocks = [b for b in found.get("Ipv6CidrBlockAssociationSet", []) if b["Ipv6CidrBlockState"]["State"] == "associated"]
        return blocks[0]["Ipv6CidrBlock"] if blocks else None

    whole = ipaddress.ip_network(wait_for(block, "the IPv6 block"))
    own = next(whole.subnets(new_prefix=64))
    return ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.1.0/24", Ipv6CidrBlock=str(own), AvailabilityZone=ec2.meta.region_name + "a")["Subnet"]


def make(ec2, subnet, **arguments):
    return ec2.create_network_interface(SubnetId=subnet["SubnetId"], **arguments)["NetworkInterface"]


def shown(ec2, interface):
    (found,) = ec2.describe_network_interfaces(NetworkInterfaceIds=[interface["NetworkInterfaceId"]])["NetworkInterfaces"]
    return found


def attached(ec2, interface):
    def there():
        found = shown(ec2, interface)
        return found if found.get("Attachment", {}).get("Status") == "attached" and found["Status"] == "in-use" else None

    return wait_for(there, "the interface to be attached")


def available(ec2, interface):
    waiter(ec2, "network_interface_available", NetworkInterfaceIds=[interface["NetworkInterfaceId"]])
    return shown(ec2, interface)


def test_life(ec2, subnet):
    made = make(ec2, subnet, Description="mine", TagSpecifications=[{"ResourceType": "network-interface", "Tags": [{"Key": "Name", "Value": "x"}]}])
    assert made["Status"] == "pending"
    found = shown(ec2, made)
    assert (found["Status"], found["Description"], found["TagSet"]) == ("available", "mine", [{"Key": "Name", "Value": "x"}])
    assert found["SubnetId"] == subnet["SubnetId"] and found["VpcId"] == subnet["VpcId"] and "Attachment" not in found
    assert [g["GroupName"] for g in found["Groups"]] == ["default"]
    assert ipaddress.ip_address(found["PrivateIpAddress"]) in ipaddress.ip_network(subnet["CidrBlock"])
    free = lambda: ec2.describe_subnets(SubnetIds=[subnet["SubnetId"]])["Subnets"][0]["AvailableIpAddressCount"]  # noqa: E731
    before = free()
    ec2.delete_network_interface(NetworkInterfaceId=found["NetworkInterfaceId"])
    assert free() == before + 1
    code, message, status = refusal(ec2.delete_network_interface, NetworkInterfaceId=found["NetworkInterfaceId"])
    assert (code, status) == ("InvalidNetworkInterfaceID.NotFound", 400)
    assert message == f"The networkInterface ID '{found['NetworkInterfaceId']}' does not exist"


def test_what_cannot_be_made(ec2, subnet):
    network = ipaddress.ip_network(subnet["CidrBlock"])
    taken = shown(ec2, make(ec2, subnet))["PrivateIpAddress"]
    for expected, arguments in [
        ("InvalidSubnetID.NotFound", {"SubnetId": "subnet-0123456789abcdef0"}),
        ("InvalidSubnetID.Malformed", {"SubnetId": "net-1"}),
        ("InvalidGroup.NotFound", {"Groups": ["sg-0123456789abcdef0"]}),
        ("InvalidIPAddress.InUse", {"PrivateIpAddress": taken}),
        ("InvalidParameterValue", {"PrivateIpAddress": "10.99.0.5"}),
        ("InvalidParameterValue", {"PrivateIpAddress": str(network[1])}),
        ("InvalidParameterValue", {"PrivateIpAddress": "no address"}),
        ("InvalidParameterValue", {"Ipv6AddressCount": 1}),
        ("InvalidParameterValue", {"Ipv4Prefixes": [{"Ipv4Prefix": "10.99.0.0/28"}]}),
        ("InvalidParameterCombination", {"SecondaryPrivateIpAddressCount": 1, "PrivateIpAddresses": [{"PrivateIpAddress": str(network[77]), "Primary": False}]}),
        ("PrivateIpAddressLimitExceeded", {"SecondaryPrivateIpAddressCount": 50}),
        ("UnsupportedOperation", {"InterfaceType": "efa"}),
    ]:
        code, _, status = refusal(ec2.create_network_interface, **({"SubnetId": subnet["SubnetId"]} | arguments))
        assert (code, status) == (expected, 400), arguments


def test_attach_and_detach_while_it_runs(ec2, image_id, subnet):
    it = running(ec2, image_id, SubnetId=subnet["SubnetId"])
    extra = make(ec2, subnet)
    name = extra["NetworkInterfaceId"]
    attachment = ec2.attach_network_interface(NetworkInterfaceId=name, InstanceId=it["InstanceId"], DeviceIndex=1)["AttachmentId"]
    found = attached(ec2, extra)
    assert found["Attachment"]["AttachmentId"] == attachment and found["Attachment"]["DeviceIndex"] == 1
    assert found["Attachment"]["DeleteOnTermination"] is False and found["Attachment"]["InstanceId"] == it["InstanceId"]
    both = instance(ec2, it["InstanceId"])["NetworkInterfaces"]
    assert [i["Attachment"]["DeviceIndex"] for i in both] == [0, 1] and both[1]["NetworkInterfaceId"] == name
    for filters in ({"attachment.instance-id": it["InstanceId"]}, {"attachment.status": "attached", "subnet-id": subnet["SubnetId"]}):
        names = [i["NetworkInterfaceId"] for i in ec2.describe_network_interfaces(Filters=filtered(**filters))["NetworkInterfaces"]]
        assert name in names
    (found,) = ec2.describe_network_interfaces(Filters=filtered(**{"attachment.attachment-id": attachment}))["NetworkInterfaces"]
    assert found["NetworkInterfaceId"] == name

    other = make(ec2, subnet)["NetworkInterfaceId"]
    far = ec2.describe_subnets(Filters=filtered(availability_zone=ec2.meta.region_name + "b"))["Subnets"][0]
    far = make(ec2, far)["NetworkInterfaceId"]
    for expected, arguments in [
        (("InvalidNetworkInterface.InUse", f"Interface: [{name}] in use."), {"NetworkInterfaceId": name, "DeviceIndex": 2}),
        (("InvalidParameterValue", f"Instance '{it['InstanceId']}' already has an interface attached at device index '1'."), {"NetworkInterfaceId": other, "DeviceIndex": 1}),
        (("AttachmentLimitExceeded", "Interface count 3 exceeds the limit for t3.micro"), {"NetworkInterfaceId": other, "DeviceIndex": 2}),
        (
            ("InvalidParameterCombination", "You may not attach a network interface to an instance if they are not in the same availability zone"),
            {"NetworkInterfaceId": far, "DeviceIndex": 2},
        ),
        (("InvalidNetworkInterfaceID.NotFound", f"The networkInterface ID '{GHOST}' does not exist"), {"NetworkInterfaceId": GHOST, "DeviceIndex": 2}),
    ]:
        code, message, _ = refusal(ec2.attach_network_interface, InstanceId=it["InstanceId"], **arguments)
        assert (code, message) == expected
    code, _, _ = refusal(ec2.attach_network_interface, InstanceId="i-0123456789abcdef0", NetworkInterfaceId=other, DeviceIndex=1)
    assert code == "InvalidInstanceID.NotFound"
    code, message, _ = refusal(ec2.delete_network_interface, NetworkInterfaceId=name)
    assert (code, message) == ("InvalidParameterValue", f"Network interface '{name}' is currently in use.")
    code, message, _ = refusal(ec2.detach_network_interface, AttachmentId=both[0]["Attachment"]["AttachmentId"])
    assert (code, message) == ("OperationNotPermitted", "The network interface at device index 0 cannot be detached.")
    code, _, _ = refusal(ec2.detach_network_interface, AttachmentId="eni-attach-0123456789abcdef0")
    assert code == "InvalidAttachmentID.NotFound"

    ec2.detach_network_interface(AttachmentId=attachment)
    assert "Attachment" not in available(ec2, extra)
    # Who waits for the end of an attachment asks for it.
    (ended,) = ec2.describe_network_interfaces(Filters=filtered(**{"attachment.attachment-id": attachment}))["NetworkInterfaces"]
    assert ended["Attachment"]["Status"] == "detached" and ended["Status"] == "available"
    assert len(instance(ec2, it["InstanceId"])["NetworkInterfaces"]) == 1
    # To another instance, with its address and its hardware address.
    second = running(ec2, image_id, SubnetId=subnet["SubnetId"])
    ec2.attach_network_interface(NetworkInterfaceId=name, InstanceId=second["InstanceId"], DeviceIndex=1)
    moved = attached(ec2, extra)
    assert (moved["MacAddress"], moved["PrivateIpAddress"]) == (found["MacAddress"], found["PrivateIpAddress"])
    # By force, and with a flag that outlives nothing.
    ec2.detach_network_interface(AttachmentId=moved["Attachment"]["AttachmentId"], Force=True)
    available(ec2, extra)


def test_attach_to_a_stopped_instance(ec2, image_id, subnet):
    it = stopped(ec2, image_id, SubnetId=subnet["SubnetId"])["InstanceId"]
    extra = make(ec2, subnet)
    attachment = ec2.attach_network_interface(NetworkInterfaceId=extra["NetworkInterfaceId"], InstanceId=it, DeviceIndex=1)["AttachmentId"]
    assert shown(ec2, extra)["Attachment"]["Status"] == "attached"
    ec2.start_instances(InstanceIds=[it])
    now = until(ec2, "running", it)
    assert "PublicIpAddress" not in now, "with two interfaces it gets no public address"
    ec2.modify_network_interface_attribute(NetworkInterfaceId=extra["NetworkInterfaceId"], Attachment={"AttachmentId": attachment, "DeleteOnTermination": True})
    ec2.terminate_instances(InstanceIds=[it])
    until(ec2, "terminated", it)
    assert refusal(ec2.describe_network_interfaces, NetworkInterfaceIds=[extra["NetworkInterfaceId"]])[0] == "InvalidNetworkInterfaceID.NotFound"


def test_termination_leaves_what_it_is_told_to_leave(ec2, image_id, subnet):
    mine = make(ec2, subnet)
    it = running(
        ec2,
        image_id,
        NetworkInterfaces=[
            {"DeviceIndex": 0, "NetworkInterfaceId": mine["NetworkInterfaceId"]},
            {"DeviceIndex": 1, "SubnetId": subnet["SubnetId"], "SecondaryPrivateIpAddressCount": 1, "Description": "second"},
        ],
    )
    first, second = it["NetworkInterfaces"]
    assert first["NetworkInterfaceId"] == mine["NetworkInterfaceId"] and it["PrivateIpAddress"] == mine["PrivateIpAddress"]
    assert [a["Primary"] for a in second["PrivateIpAddresses"]] == [True, False] and second["Description"] == "second"
    assert "PublicIpAddress" not in it
    ec2.terminate_instances(InstanceIds=[it["InstanceId"]])
    until(ec2, "terminated", it["InstanceId"])
    assert available(ec2, mine)["Status"] == "available"
    assert refusal(ec2.describe_network_interfaces, NetworkInterfaceIds=[second["NetworkInterfaceId"]])[0] == "InvalidNetworkInterfaceID.NotFound"


def test_what_a_launch_refuses(ec2, image_id, subnet):
    mine = make(ec2, subnet)["NetworkInterfaceId"]
    new = {"SubnetId": subnet["SubnetId"]}
    for expected, arguments in [
        ("InvalidParameterCombination", {"NetworkInterfaces": [{"DeviceIndex": 1, **new}]}),
        ("InvalidParameterCombination", {"NetworkInterfaces": [{"DeviceIndex": 0, **new}, {"DeviceIndex": 0, **new}]}),
        ("InvalidParameterCombination", {"NetworkInterfaces": [{"DeviceIndex": 0, "AssociatePublicIpAddress": True, **new}, {"DeviceIndex": 1, **new}]}),
        ("InvalidParameterCombination", {"NetworkInterfaces": [{"DeviceIndex": 0, "NetworkInterfaceId": mine, **new}]}),
        ("InvalidParameterCombination", {"NetworkInterfaces": [{"DeviceIndex": 0, "NetworkInterfaceId": mine}], "MaxCount": 2}),
        ("InvalidParameterCombination", {"NetworkInterfaces": [{"DeviceIndex": 0, **new}], "SubnetId": subnet["SubnetId"]}),
        ("InvalidNetworkInterfaceID.NotFound", {"NetworkInterfaces": [{"DeviceIndex": 0, "NetworkInterfaceId": GHOST}]}),
        ("AttachmentLimitExceeded", {"NetworkInterfaces": [{"DeviceIndex": n, **new} for n in range(3)]}),
        ("PrivateIpAddressLimitExceeded", {"NetworkInterfaces": [{"DeviceIndex": 0, "SecondaryPrivateIpAddressCount": 2, **new}]}),
        ("InvalidParameterValue", {"SubnetId": subnet["SubnetId"], "Ipv6AddressCount": 1}),
    ]:
        arguments = {"ImageId": image_id, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1} | arguments
        assert refusal(ec2.run_instances, **arguments)[0] == expected, arguments


def test_secondary_addresses(ec2, image_id, subnet):
    network = ipaddress.ip_network(subnet["CidrBlock"])
    one, other = make(ec2, subnet), make(ec2, subnet)
    name = one["NetworkInterfaceId"]
    chosen = str(network[300])
    answer = ec2.assign_private_ip_addresses(NetworkInterfaceId=name, PrivateIpAddresses=[chosen])
    assert [a["PrivateIpAddress"] for a in answer["AssignedPrivateIpAddresses"]] == [chosen]
    automatic = ec2.assign_private_ip_addresses(NetworkInterfaceId=name, SecondaryPrivateIpAddressCount=2)["AssignedPrivateIpAddresses"]
    assert len(automatic) == 2
    found = shown(ec2, one)
    assert [a["Primary"] for a in found["PrivateIpAddresses"]] == [True, False, False, False]
    (by_address,) = ec2.describe_network_interfaces(Filters=filtered(**{"addresses.private-ip-address": chosen}))["NetworkInterfaces"]
    assert by_address["NetworkInterfaceId"] == name
    # The failover of textbooks: the address goes to another interface.
    code, message, _ = refusal(ec2.assign_private_ip_addresses, NetworkInterfaceId=other["NetworkInterfaceId"], PrivateIpAddresses=[chosen])
    assert (code, message) == ("InvalidParameterValue", f"[{chosen}] assigned, but move is not allowed.")
    ec2.assign_private_ip_addresses(NetworkInterfaceId=other["NetworkInterfaceId"], PrivateIpAddresses=[chosen], AllowReassignment=True)
    assert chosen in [a["PrivateIpAddress"] for a in shown(ec2, other)["PrivateIpAddresses"]]
    assert chosen not in [a["PrivateIpAddress"] for a in shown(ec2, one)["PrivateIpAddresses"]]
    primary = found["PrivateIpAddress"]
    for arguments in [
        {"NetworkInterfaceId": other["NetworkInterfaceId"], "PrivateIpAddresses": [primary], "AllowReassignment": True},
        {"NetworkInterfaceId": name, "PrivateIpAddresses": ["10.99.0.1"]},
    ]:
        assert refusal(ec2.assign_private_ip_addresses, **arguments)[0] == "InvalidParameterValue"
    assert refusal(ec2.assign_private_ip_addresses, NetworkInterfaceId=name)[0] == "MissingParameter"
    assert refusal(ec2.assign_private_ip_addresses, NetworkInterfaceId=name, SecondaryPrivateIpAddressCount=50)[0] == "PrivateIpAddressLimitExceeded"
    for address in (chosen, primary):
        assert refusal(ec2.unassign_private_ip_addresses, NetworkInterfaceId=name, PrivateIpAddresses=[address])[0] == "InvalidParameterValue"
    ec2.unassign_private_ip_addresses(NetworkInterfaceId=name, PrivateIpAddresses=[a["PrivateIpAddress"] for a in automatic])
    assert len(shown(ec2, one)["PrivateIpAddresses"]) == 1
    # An instance's type limits them.
    it = running(ec2, image_id, SubnetId=subnet["SubnetId"])
    own = it["NetworkInterfaces"][0]["NetworkInterfaceId"]
    ec2.assign_private_ip_addresses(NetworkInterfaceId=own, SecondaryPrivateIpAddressCount=1)
    code, message, _ = refusal(ec2.assign_private_ip_addresses, NetworkInterfaceId=own, SecondaryPrivateIpAddressCount=1)
    assert (code, message) == ("PrivateIpAddressLimitExceeded", "Number of private addresses will exceed limit.")
    assert len(instance(ec2, it["InstanceId"])["NetworkInterfaces"][0]["PrivateIpAddresses"]) == 2


def test_prefixes(ec2, subnet):
    free = lambda: ec2.describe_subnets(SubnetIds=[subnet["SubnetId"]])["Subnets"][0]["AvailableIpAddressCount"]  # noqa: E731
    before = free()
    one = make(ec2, subnet, Ipv4PrefixCount=1)
    name = one["NetworkInterfaceId"]
    (prefix,) = shown(ec2, one)["Ipv4Prefixes"]
    block = ipaddress.ip_network(prefix["Ipv4Prefix"])
    assert block.prefixlen == 28 and free() == before - 17
    assert refusal(ec2.create_network_interface, SubnetId=subnet["SubnetId"], PrivateIpAddress=str(block[3]))[0] == "InvalidIPAddress.InUse"
    assert refusal(ec2.assign_private_ip_addresses, NetworkInterfaceId=name, Ipv4Prefixes=[str(block)])[0] == "InvalidIPAddress.InUse"
    ec2.unassign_private_ip_addresses(NetworkInterfaceId=name, Ipv4Prefixes=[str(block)])
    assert "Ipv4Prefixes" not in shown(ec2, one) and free() == before - 1
    ec2.assign_private_ip_addresses(NetworkInterfaceId=name, Ipv4Prefixes=[str(block)])
    assert shown(ec2, one)["Ipv4Prefixes"] == [prefix]


def test_ipv6(ec2, image_id, dual):
    block = ipaddress.ip_network(dual["Ipv6CidrBlockAssociationSet"][0]["Ipv6CidrBlock"])
    one = make(ec2, dual, Ipv6AddressCount=2)
    name = one["NetworkInterfaceId"]
    addresses = [a["Ipv6Address"] for a in shown(ec2, one)["Ipv6Addresses"]]
    assert len(set(addresses)) == 2 and all(ipaddress.ip_address(a) in block for a in addresses)
    chosen = str(block[0x99])
    assert ec2.assign_ipv6_addresses(NetworkInterfaceId=name, Ipv6Addresses=[chosen])["AssignedIpv6Addresses"] == [chosen]
    other = make(ec2, dual)["NetworkInterfaceId"]
    assert refusal(ec2.assign_ipv6_addresses, NetworkInterfaceId=other, Ipv6Addresses=[chosen])[0] == "InvalidIPAddress.InUse"
    for wrong in (str(block[1]), "2001:db8::1", "nothing"):
        assert refusal(ec2.assign_ipv6_addresses, NetworkInterfaceId=name, Ipv6Addresses=[wrong])[0] == "InvalidParameterValue"
    assert refusal(ec2.unassign_ipv6_addresses, NetworkInterfaceId=other, Ipv6Addresses=[chosen])[0] == "InvalidParameterValue"
    (prefix,) = ec2.assign_ipv6_addresses(NetworkInterfaceId=name, Ipv6PrefixCount=1)["AssignedIpv6Prefixes"]
    inside = ipaddress.ip_network(prefix)
    assert inside.prefixlen == 80 and inside.subnet_of(block)
    assert refusal(ec2.assign_ipv6_addresses, NetworkInterfaceId=other, Ipv6Addresses=[str(inside[5])])[0] == "InvalidIPAddress.InUse"
    gone = ec2.unassign_ipv6_addresses(NetworkInterfaceId=name, Ipv6Addresses=[chosen], Ipv6Prefixes=[prefix])
    assert gone["UnassignedIpv6Addresses"] == [chosen] and gone["UnassignedIpv6Prefixes"] == [prefix]
    ec2.modify_network_interface_attribute(NetworkInterfaceId=name, EnablePrimaryIpv6=True)
    assert [a["IsPrimaryIpv6"] for a in shown(ec2, one)["Ipv6Addresses"]] == [True, False]
    assert refusal(ec2.unassign_ipv6_addresses, NetworkInterfaceId=name, Ipv6Addresses=[addresses[0]])[0] == "OperationNotPermitted"
    it = running(ec2, image_id, SubnetId=dual["SubnetId"], Ipv6AddressCount=1)
    (address,) = it["NetworkInterfaces"][0]["Ipv6Addresses"]
    assert it["Ipv6Address"] == address["Ipv6Address"]
    (found,) = ec2.describe_instances(Filters=filtered(ipv6_address=it["Ipv6Address"]))["Reservations"]
    assert found["Instances"][0]["InstanceId"] == it["InstanceId"]
    ec2.modify_subnet_attribute(SubnetId=dual["SubnetId"], AssignIpv6AddressOnCreation={"Value": True})
    assert len(shown(ec2, make(ec2, dual))["Ipv6Addresses"]) == 1
    assert shown(ec2, make(ec2, dual, Ipv6AddressCount=0))["Ipv6Addresses"] == []


def test_reservations(ec2, dual):
    ec2.create_subnet_cidr_reservation(SubnetId=dual["SubnetId"], Cidr="10.9.1.64/26", ReservationType="prefix")
    ec2.create_subnet_cidr_reservation(SubnetId=dual["SubnetId"], Cidr="10.9.1.128/25", ReservationType="explicit")
    one = shown(ec2, make(ec2, dual, SecondaryPrivateIpAddressCount=20, Ipv4PrefixCount=1))
    assert all(ipaddress.ip_address(a["PrivateIpAddress"]) < ipaddress.ip_address("10.9.1.64") for a in one["PrivateIpAddresses"])
    assert ipaddress.ip_network(one["Ipv4Prefixes"][0]["Ipv4Prefix"]).subnet_of(ipaddress.ip_network("10.9.1.64/26"))
    assert make(ec2, dual, PrivateIpAddress="10.9.1.200")["PrivateIpAddress"] == "10.9.1.200"


def test_attributes(ec2, image_id, subnet):
    it = running(ec2, image_id, SubnetId=subnet["SubnetId"])
    (own,) = it["NetworkInterfaces"]
    name = own["NetworkInterfaceId"]
    ask = lambda attribute: ec2.describe_network_interface_attribute(NetworkInterfaceId=name, Attribute=attribute)  # noqa: E731
    ec2.modify_network_interface_attribute(NetworkInterfaceId=name, Description={"Value": "new"})
    assert ask("description")["Description"]["Value"] == "new"
    ec2.modify_network_interface_attribute(NetworkInterfaceId=name, SourceDestCheck={"Value": False})
    assert ask("sourceDestCheck")["SourceDestCheck"]["Value"] is False and instance(ec2, it["InstanceId"])["SourceDestCheck"] is False
    ec2.reset_network_interface_attribute(NetworkInterfaceId=name, SourceDestCheck="true")
    assert ask("sourceDestCheck")["SourceDestCheck"]["Value"] is True
    group = ec2.create_security_group(GroupName="second", Description="second", VpcId=subnet["VpcId"])["GroupId"]
    ec2.modify_network_interface_attribute(NetworkInterfaceId=name, Groups=[group])
    assert [g["GroupId"] for g in ask("groupSet")["Groups"]] == [group]
    assert [g["GroupId"] for g in instance(ec2, it["InstanceId"])["SecurityGroups"]] == [group]
    assert ask("attachment")["Attachment"]["AttachmentId"] == own["Attachment"]["AttachmentId"]
    for expected, arguments in [
        ("InvalidParameterCombination", {}),
        ("InvalidParameterCombination", {"Description": {"Value": "x"}, "SourceDestCheck": {"Value": True}}),
        ("InvalidAttachmentID.NotFound", {"Attachment": {"AttachmentId": "eni-attach-0123456789abcdef0", "DeleteOnTermination": True}}),
        ("InvalidGroup.NotFound", {"Groups": ["sg-0123456789abcdef0"]}),
        ("InvalidParameterValue", {"EnablePrimaryIpv6": True}),
    ]:
        assert refusal(ec2.modify_network_interface_attribute, NetworkInterfaceId=name, **arguments)[0] == expected
    # With two, the instance does not say which is meant.
    extra = make(ec2, subnet)
    ec2.attach_network_interface(NetworkInterfaceId=extra["NetworkInterfaceId"], InstanceId=it["InstanceId"], DeviceIndex=1)
    for arguments in ({"Groups": [group]}, {"SourceDestCheck": {"Value": False}}):
        assert refusal(ec2.modify_instance_attribute, InstanceId=it["InstanceId"], **arguments)[0] == "InvalidInstanceID"


def test_host_names(ec2, image_id, subnet):
    it = running(
        ec2,
        image_id,
        SubnetId=subnet["SubnetId"],
        PrivateDnsNameOptions={"HostnameType": "resource-name", "EnableResourceNameDnsARecord": True},
    )
    assert it["PrivateDnsName"].split(".")[0] == it["InstanceId"]
    assert it["PrivateDnsNameOptions"] == {"HostnameType": "resource-name", "EnableResourceNameDnsARecord": True, "EnableResourceNameDnsAAAARecord": False}
    assert refusal(ec2.modify_private_dns_name_options, InstanceId=it["InstanceId"], PrivateDnsHostnameType="ip-name")[0] == "IncorrectInstanceState"
    ec2.modify_private_dns_name_options(InstanceId=it["InstanceId"], EnableResourceNameDnsARecord=False)
    assert instance(ec2, it["InstanceId"])["PrivateDnsNameOptions"]["EnableResourceNameDnsARecord"] is False


def test_services_keep_theirs(ec2, subnet):
    gateway = ec2.create_nat_gateway(SubnetId=subnet["SubnetId"], ConnectivityType="private")["NatGateway"]

    def made():
        found = ec2.describe_network_interfaces(Filters=filtered(interface_type="nat_gateway"))["NetworkInterfaces"]
        return found[0] if found else None

    own = wait_for(made, "the NAT gateway's interface")
    assert own["RequesterManaged"] is True and own["Status"] == "in-use" and gateway["NatGatewayId"] in own["Description"]
    name = own["NetworkInterfaceId"]
    for call, arguments in [
        (ec2.delete_network_interface, {}),
        (ec2.modify_network_interface_attribute, {"Description": {"Value": "mine"}}),
        (ec2.assign_private_ip_addresses, {"SecondaryPrivateIpAddressCount": 1}),
    ]:
        assert refusal(call, NetworkInterfaceId=name, **arguments)[0] == "OperationNotPermitted"


def test_a_launch_token_and_pages(ec2, subnet):
    answers = [make(ec2, subnet, ClientToken="once")["NetworkInterfaceId"] for _ in range(2)]
    assert answers[0] == answers[1]
    for _ in range(6):
        make(ec2, subnet)
    pages = list(ec2.get_paginator("describe_network_interfaces").paginate(PaginationConfig={"PageSize": 5}))
    assert [len(page["NetworkInterfaces"]) for page in pages] == [5, 2]
