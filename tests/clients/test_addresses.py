"""Elastic addresses: allocated, associated, moved, transferred, brought along."""

import ipaddress

import pytest
from asking import filtered, instance, refusal, running, stopped, until
from support import wait_for

GHOST = "eipalloc-0123456789abcdef0"
OTHER = "111122223333"


@pytest.fixture(autouse=True)
def release(client):
    """The public pool is one for all regions: what a test took goes back."""
    yield
    ec2 = client("ec2")
    for instance_id in [i["InstanceId"] for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]:
        ec2.terminate_instances(InstanceIds=[instance_id])
    for address in ec2.describe_addresses()["Addresses"]:
        if "AssociationId" in address:
            ec2.disassociate_address(AssociationId=address["AssociationId"])
        ec2.release_address(AllocationId=address["AllocationId"])


def show(ec2, allocation):
    (found,) = ec2.describe_addresses(AllocationIds=[allocation])["Addresses"]
    return found


def interface(ec2, name):
    (found,) = ec2.describe_network_interfaces(NetworkInterfaceIds=[name])["NetworkInterfaces"]
    return found


@pytest.fixture
def subnet(ec2):
    (found,) = ec2.describe_subnets(Filters=filtered(availability_zone=ec2.meta.region_name + "a"))["Subnets"]
    return found["SubnetId"]


def test_life(ec2):
    made = ec2.allocate_address(Domain="vpc", TagSpecifications=[{"ResourceType": "elastic-ip", "Tags": [{"Key": "Name", "Value": "web"}]}])
    assert made["Domain"] == "vpc" and made["PublicIpv4Pool"] == "amazon" and made["NetworkBorderGroup"] == ec2.meta.region_name
    found = show(ec2, made["AllocationId"])
    assert found["PublicIp"] == made["PublicIp"] and found["Tags"] == [{"Key": "Name", "Value": "web"}] and "AssociationId" not in found
    for name, value in [("allocation-id", made["AllocationId"]), ("public-ip", made["PublicIp"]), ("tag:Name", "web"), ("domain", "vpc"), ("network-border-group", ec2.meta.region_name)]:
        assert len(ec2.describe_addresses(Filters=[{"Name": name, "Values": [value]}])["Addresses"]) == 1, name
        assert ec2.describe_addresses(Filters=[{"Name": name, "Values": ["nothing"]}])["Addresses"] == []
    ec2.create_tags(Resources=[made["AllocationId"]], Tags=[{"Key": "More", "Value": "1"}])
    assert {t["Key"] for t in show(ec2, made["AllocationId"])["Tags"]} == {"Name", "More"}
    ec2.release_address(AllocationId=made["AllocationId"])
    code, message, status = refusal(ec2.release_address, AllocationId=made["AllocationId"])
    assert (code, message, status) == ("InvalidAllocationID.NotFound", f"The allocation ID '{made['AllocationId']}' does not exist", 400)
    # The address that was just lost, by its name.
    again = ec2.allocate_address(Address=made["PublicIp"])
    assert again["PublicIp"] == made["PublicIp"] and again["AllocationId"] != made["AllocationId"]
    assert refusal(ec2.allocate_address, Address=made["PublicIp"])[0] == "InvalidIPAddress.InUse"
    assert refusal(ec2.allocate_address, Address="192.0.2.77")[0] == "InvalidAddress.NotFound"


def test_quota(ec2):
    for _ in range(5):
        ec2.allocate_address()
    code, message, _ = refusal(ec2.allocate_address)
    assert (code, message) == ("AddressLimitExceeded", "The maximum number of addresses has been reached.")


def test_association(ec2, image_id, subnet):
    it = running(ec2, image_id, SubnetId=subnet)
    automatic = it["PublicIpAddress"]
    own = it["NetworkInterfaces"][0]["NetworkInterfaceId"]
    made = ec2.allocate_address()
    association = ec2.associate_address(AllocationId=made["AllocationId"], InstanceId=it["InstanceId"])["AssociationId"]
    now = instance(ec2, it["InstanceId"])
    assert now["PublicIpAddress"] == made["PublicIp"] != automatic
    shown = interface(ec2, own)
    assert shown["Association"]["AllocationId"] == made["AllocationId"] and shown["Association"]["AssociationId"] == association
    assert shown["Association"]["IpOwnerId"] == shown["OwnerId"] == now["NetworkInterfaces"][0]["Association"]["IpOwnerId"]
    found = show(ec2, made["AllocationId"])
    assert (found["InstanceId"], found["NetworkInterfaceId"], found["PrivateIpAddress"]) == (it["InstanceId"], own, it["PrivateIpAddress"])
    for name, value in [("instance-id", it["InstanceId"]), ("association-id", association), ("network-interface-id", own), ("private-ip-address", it["PrivateIpAddress"])]:
        assert len(ec2.describe_addresses(Filters=[{"Name": name, "Values": [value]}])["Addresses"]) == 1, name
    # The automatic address went back to the pool.
    assert ec2.allocate_address(Address=automatic)["PublicIp"] == automatic
    # Saying it twice changes nothing.
    assert ec2.associate_address(AllocationId=made["AllocationId"], InstanceId=it["InstanceId"])["AssociationId"] == association
    code, message, _ = refusal(ec2.release_address, AllocationId=made["AllocationId"])
    assert (code, message) == ("InvalidIPAddress.InUse", f"Address {made['PublicIp']} is in use.")
    # It stays over stop and start; without it there is none until the next start.
    ec2.stop_instances(InstanceIds=[it["InstanceId"]])
    assert until(ec2, "stopped", it["InstanceId"])["PublicIpAddress"] == made["PublicIp"]
    ec2.start_instances(InstanceIds=[it["InstanceId"]])
    assert until(ec2, "running", it["InstanceId"])["PublicIpAddress"] == made["PublicIp"]
    ec2.disassociate_address(AssociationId=association)
    assert "PublicIpAddress" not in instance(ec2, it["InstanceId"]) and "Association" not in interface(ec2, own)
    assert "AssociationId" not in show(ec2, made["AllocationId"])
    ec2.stop_instances(InstanceIds=[it["InstanceId"]])
    assert "PublicIpAddress" not in until(ec2, "stopped", it["InstanceId"])
    ec2.start_instances(InstanceIds=[it["InstanceId"]])
    assert until(ec2, "running", it["InstanceId"])["PublicIpAddress"] not in (made["PublicIp"], automatic)
    # Termination lets it go.
    ec2.associate_address(AllocationId=made["AllocationId"], InstanceId=it["InstanceId"])
    ec2.terminate_instances(InstanceIds=[it["InstanceId"]])
    until(ec2, "terminated", it["InstanceId"])
    assert "AssociationId" not in show(ec2, made["AllocationId"])


def test_reassociation(ec2, image_id, subnet):
    one, other = (running(ec2, image_id, SubnetId=subnet) for _ in range(2))
    made = ec2.allocate_address()["AllocationId"]
    first = ec2.associate_address(AllocationId=made, InstanceId=one["InstanceId"])["AssociationId"]
    code, message, _ = refusal(ec2.associate_address, AllocationId=made, InstanceId=other["InstanceId"], AllowReassociation=False)
    assert (code, message) == ("Resource.AlreadyAssociated", f"resource {made} is already associated with associate-id {first}")
    second = ec2.associate_address(AllocationId=made, InstanceId=other["InstanceId"])["AssociationId"]
    assert second != first and "PublicIpAddress" not in instance(ec2, one["InstanceId"])
    # The target's own elastic address gives way too.
    more = ec2.allocate_address()["AllocationId"]
    assert refusal(ec2.associate_address, AllocationId=more, InstanceId=other["InstanceId"], AllowReassociation=False)[0] == "Resource.AlreadyAssociated"
    ec2.associate_address(AllocationId=more, InstanceId=other["InstanceId"])
    assert "AssociationId" not in show(ec2, made)


def test_one_for_each_private_address(ec2, image_id, subnet):
    name = ec2.create_network_interface(SubnetId=subnet, SecondaryPrivateIpAddressCount=1)["NetworkInterface"]["NetworkInterfaceId"]
    primary, secondary = (a["PrivateIpAddress"] for a in interface(ec2, name)["PrivateIpAddresses"])
    made = [ec2.allocate_address() for _ in range(2)]
    ec2.associate_address(AllocationId=made[0]["AllocationId"], NetworkInterfaceId=name)
    ec2.associate_address(AllocationId=made[1]["AllocationId"], NetworkInterfaceId=name, PrivateIpAddress=secondary)
    shown = interface(ec2, name)["PrivateIpAddresses"]
    assert [a["Association"]["PublicIp"] for a in shown] == [m["PublicIp"] for m in made]
    assert show(ec2, made[1]["AllocationId"])["PrivateIpAddress"] == secondary and "InstanceId" not in show(ec2, made[0]["AllocationId"])
    assert refusal(ec2.associate_address, AllocationId=made[0]["AllocationId"], NetworkInterfaceId=name, PrivateIpAddress="10.1.1.1")[0] == "InvalidParameterValue"
    # An address that moves takes its elastic one along; one that is given up leaves it.
    other = ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
    ec2.assign_private_ip_addresses(NetworkInterfaceId=other, PrivateIpAddresses=[secondary], AllowReassignment=True)
    assert show(ec2, made[1]["AllocationId"])["NetworkInterfaceId"] == other
    ec2.unassign_private_ip_addresses(NetworkInterfaceId=other, PrivateIpAddresses=[secondary])
    assert "AssociationId" not in show(ec2, made[1]["AllocationId"])
    # So does an interface.
    it = running(ec2, image_id, SubnetId=subnet)
    attachment = ec2.attach_network_interface(NetworkInterfaceId=name, InstanceId=it["InstanceId"], DeviceIndex=1)["AttachmentId"]
    assert show(ec2, made[0]["AllocationId"])["InstanceId"] == it["InstanceId"]
    code, message, _ = refusal(ec2.associate_address, AllocationId=made[1]["AllocationId"], InstanceId=it["InstanceId"])
    assert code == "InvalidInstanceID" and "multiple interfaces" in message
    wait_for(lambda: interface(ec2, name)["Attachment"]["Status"] == "attached", "the attachment")
    ec2.detach_network_interface(AttachmentId=attachment)
    wait_for(lambda: interface(ec2, name)["Status"] == "available", "the detachment")
    assert show(ec2, made[0]["AllocationId"])["PrivateIpAddress"] == primary
    ec2.delete_network_interface(NetworkInterfaceId=name)
    assert "AssociationId" not in show(ec2, made[0]["AllocationId"])


def test_refusals(ec2, image_id, subnet):
    made = ec2.allocate_address()["AllocationId"]
    name = ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
    ghost = "i-0123456789abcdef0"
    for call, expected, arguments in [
        (ec2.associate_address, "InvalidAllocationID.NotFound", {"AllocationId": GHOST, "NetworkInterfaceId": name}),
        (ec2.associate_address, "InvalidNetworkInterfaceID.NotFound", {"AllocationId": made, "NetworkInterfaceId": "eni-0123456789abcdef0"}),
        (ec2.associate_address, "InvalidInstanceID.NotFound", {"AllocationId": made, "InstanceId": ghost}),
        (ec2.associate_address, "InvalidParameterCombination", {"AllocationId": made, "InstanceId": ghost, "NetworkInterfaceId": name}),
        (ec2.associate_address, "MissingParameter", {"AllocationId": made}),
        (ec2.associate_address, "MissingParameter", {"NetworkInterfaceId": name}),
        (ec2.associate_address, "InvalidAddress.NotFound", {"PublicIp": "192.0.2.1", "NetworkInterfaceId": name}),
        (ec2.disassociate_address, "InvalidAssociationID.NotFound", {"AssociationId": "eipassoc-0123456789abcdef0"}),
        (ec2.disassociate_address, "MissingParameter", {}),
        (ec2.release_address, "MissingParameter", {}),
        (ec2.describe_addresses, "InvalidAllocationID.NotFound", {"AllocationIds": [GHOST]}),
        (ec2.describe_addresses, "InvalidAddress.NotFound", {"PublicIps": ["192.0.2.1"]}),
        (ec2.allocate_address, "InvalidParameterValue", {"NetworkBorderGroup": "elsewhere"}),
        (ec2.allocate_address, "InvalidPublicIpv4PoolID.NotFound", {"PublicIpv4Pool": "ipv4pool-ec2-0123456789abcdef0"}),
    ]:
        assert refusal(call, **arguments)[0] == expected, arguments
    vpc = ec2.create_vpc(CidrBlock="10.8.0.0/16")["Vpc"]["VpcId"]
    lonely = ec2.create_subnet(VpcId=vpc, CidrBlock="10.8.0.0/24")["Subnet"]["SubnetId"]
    lonely = ec2.create_network_interface(SubnetId=lonely)["NetworkInterface"]["NetworkInterfaceId"]
    code, message, _ = refusal(ec2.associate_address, AllocationId=made, NetworkInterfaceId=lonely)
    assert (code, message) == ("Gateway.NotAttached", f"Network {vpc} is not attached to any internet gateway")


def test_reverse_names(ec2):
    made = ec2.allocate_address()["AllocationId"]
    changed = ec2.modify_address_attribute(AllocationId=made, DomainName="mail.example.com")["Address"]
    assert changed["PtrRecordUpdate"]["Value"] == "mail.example.com."
    ask = lambda: ec2.describe_addresses_attribute(AllocationIds=[made], Attribute="domain-name")["Addresses"]  # noqa: E731
    assert ask()[0]["PtrRecord"] == "mail.example.com."
    assert refusal(ec2.modify_address_attribute, AllocationId=made, DomainName="no name")[0] == "InvalidParameterValue"
    assert refusal(ec2.enable_address_transfer, AllocationId=made, TransferAccountId=OTHER)[0] == "InvalidTransfer.AddressCustomPtrSet"
    ec2.reset_address_attribute(AllocationId=made, Attribute="domain-name")
    assert ask() == []


def test_transfer(ec2, subnet):
    made = ec2.allocate_address()
    name = made["AllocationId"]
    offered = ec2.enable_address_transfer(AllocationId=name, TransferAccountId=OTHER)["AddressTransfer"]
    assert (offered["AddressTransferStatus"], offered["TransferAccountId"], offered["PublicIp"]) == ("pending", OTHER, made["PublicIp"])
    (shown,) = ec2.describe_address_transfers()["AddressTransfers"]
    assert shown["AllocationId"] == name
    assert refusal(ec2.accept_address_transfer, Address=made["PublicIp"])[0] == "InvalidAddress.NotFound", "it is not for this account"
    assert ec2.disable_address_transfer(AllocationId=name)["AddressTransfer"]["AddressTransferStatus"] == "disabled"
    assert ec2.describe_address_transfers()["AddressTransfers"] == []
    assert refusal(ec2.disable_address_transfer, AllocationId=name)[0] == "InvalidAddressTransfer.NotFound"
    assert refusal(ec2.enable_address_transfer, AllocationId=name, TransferAccountId="me")[0] == "InvalidParameterValue"
    target = ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
    ec2.associate_address(AllocationId=name, NetworkInterfaceId=target)
    assert refusal(ec2.enable_address_transfer, AllocationId=name, TransferAccountId=OTHER)[0] == "InvalidTransfer.AddressAssociated"


def test_a_range_of_ones_own(ec2, subnet):
    # Somewhere in the pool where nobody is.
    pool = ipaddress.ip_network(ec2.allocate_address()["PublicIp"] + "/24", strict=False)
    for block in list(pool.subnets(new_prefix=29))[1:-1]:
        try:
            made = ec2.provision_byoip_cidr(Cidr=str(block), Description="mine")["ByoipCidr"]
            break
        except ec2.exceptions.ClientError as error:
            assert error.response["Error"]["Code"] == "IncorrectState"
    assert (made["State"], made["Description"]) == ("pending-provision", "mine")
    (shown,) = ec2.describe_byoip_cidrs(MaxResults=10)["ByoipCidrs"]
    assert shown["State"] == "provisioned"
    (brought,) = ec2.describe_public_ipv4_pools()["PublicIpv4Pools"]
    assert brought["TotalAddressCount"] == brought["TotalAvailableAddressCount"] == 8
    assert refusal(ec2.provision_byoip_cidr, Cidr=str(block))[0] == "InvalidByoipCidr.Conflict"
    assert refusal(ec2.provision_byoip_cidr, Cidr="192.0.2.0/24")[0] == "InvalidParameterValue"
    assert ec2.advertise_byoip_cidr(Cidr=str(block))["ByoipCidr"]["State"] == "advertised"
    own = ec2.allocate_address(PublicIpv4Pool=brought["PoolId"])
    assert own["PublicIpv4Pool"] == brought["PoolId"] and ipaddress.ip_address(own["PublicIp"]) in block
    assert refusal(ec2.allocate_address, Address=str(block[0] if str(block[0]) != own["PublicIp"] else block[1]))[0] == "InvalidAddress.NotFound"
    assert ec2.describe_public_ipv4_pools(PoolIds=[brought["PoolId"]])["PublicIpv4Pools"][0]["TotalAvailableAddressCount"] == 7
    target = ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
    ec2.associate_address(AllocationId=own["AllocationId"], NetworkInterfaceId=target)
    ec2.delete_network_interface(NetworkInterfaceId=target)
    assert refusal(ec2.deprovision_byoip_cidr, Cidr=str(block))[0] == "IncorrectState", "it is advertised"
    ec2.withdraw_byoip_cidr(Cidr=str(block))
    assert refusal(ec2.withdraw_byoip_cidr, Cidr=str(block))[0] == "IncorrectState"
    assert refusal(ec2.deprovision_byoip_cidr, Cidr=str(block))[0] == "IncorrectState", "one is allocated"
    ec2.release_address(AllocationId=own["AllocationId"])
    ec2.deprovision_byoip_cidr(Cidr=str(block))
    assert ec2.describe_byoip_cidrs(MaxResults=10)["ByoipCidrs"] == []
    assert refusal(ec2.advertise_byoip_cidr, Cidr=str(block))[0] == "InvalidByoipCidr.NotFound"


def test_a_stopped_instance_gets_one(ec2, image_id, subnet):
    it = stopped(ec2, image_id, SubnetId=subnet)["InstanceId"]
    made = ec2.allocate_address()
    ec2.associate_address(PublicIp=made["PublicIp"], InstanceId=it)
    assert instance(ec2, it)["PublicIpAddress"] == made["PublicIp"]
    ec2.disassociate_address(PublicIp=made["PublicIp"])
    assert "PublicIpAddress" not in instance(ec2, it)
