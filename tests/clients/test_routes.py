"""Route tables and what routes lead to: gateways, NAT gateways, prefix lists, peering connections; each documented refusal."""

import pytest
from asking import filtered, refusal, running, waiter
from support import wait_for

NOBODY = "00000000000000000"


@pytest.fixture
def network(ec2):
    """A VPC 10.0.0.0/16 with a subnet 10.0.0.0/24."""
    return make_network(ec2, "10.0.0.0/16", "10.0.0.0/24")


def make_network(ec2, block, inside):
    vpc = ec2.create_vpc(CidrBlock=block)["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock=inside)["Subnet"]["SubnetId"]
    return vpc, subnet


def table_of(ec2, vpc, **arguments):
    return ec2.create_route_table(VpcId=vpc, **arguments)["RouteTable"]["RouteTableId"]


def gateway_of(ec2, vpc=None):
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    if vpc:
        ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    return gateway


def routes(ec2, table):
    """Target and state of the routes by destination."""
    (found,) = ec2.describe_route_tables(RouteTableIds=[table])["RouteTables"]
    targets = ("GatewayId", "NatGatewayId", "NetworkInterfaceId", "VpcPeeringConnectionId", "EgressOnlyInternetGatewayId")
    shown = {}
    for route in found["Routes"]:
        to = route.get("DestinationCidrBlock") or route.get("DestinationIpv6CidrBlock") or route["DestinationPrefixListId"]
        shown[to] = next(route[name] for name in targets if name in route), route["State"]
    return shown


def main_table(ec2, vpc):
    (table,) = ec2.describe_route_tables(Filters=filtered(vpc_id=vpc, **{"association.main": "true"}))["RouteTables"]
    return table


def test_a_route_table_from_first_to_last(ec2, network):
    vpc, subnet = network
    tags = [{"ResourceType": "route-table", "Tags": [{"Key": "Name", "Value": "public"}]}]
    made = ec2.create_route_table(VpcId=vpc, TagSpecifications=tags)["RouteTable"]
    table = made["RouteTableId"]
    assert made["Routes"] == [
        {"DestinationCidrBlock": "10.0.0.0/16", "GatewayId": "local", "Origin": "CreateRouteTable", "State": "active"}
    ]
    assert (made["Associations"], made["PropagatingVgws"]) == ([], [])
    assert ec2.describe_route_tables(Filters=filtered(**{"tag:Name": "public"}))["RouteTables"] == [made]
    gateway = gateway_of(ec2, vpc)
    assert ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)["Return"] is True
    assert routes(ec2, table)["0.0.0.0/0"] == (gateway, "active")
    association = ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
    assert association["AssociationState"] == {"State": "associated"}
    (found,) = ec2.describe_route_tables(Filters=filtered(**{"association.subnet-id": subnet}))["RouteTables"]
    assert found["Associations"] == [
        {
            "Main": False,
            "RouteTableAssociationId": association["AssociationId"],
            "RouteTableId": table,
            "SubnetId": subnet,
            "AssociationState": {"State": "associated"},
        }
    ]
    assert refusal(ec2.delete_route_table, RouteTableId=table) == (
        "DependencyViolation",
        f"The routeTable '{table}' has dependencies and cannot be deleted.",
        400,
    )
    ec2.disassociate_route_table(AssociationId=association["AssociationId"])
    ec2.delete_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0")
    ec2.delete_route_table(RouteTableId=table)
    assert refusal(ec2.describe_route_tables, RouteTableIds=[table])[0] == "InvalidRouteTableID.NotFound"


def test_a_vpc_has_one_main_table(ec2, network):
    vpc, _ = network
    old = main_table(ec2, vpc)
    (association,) = old["Associations"]
    new = table_of(ec2, vpc)
    replaced = ec2.replace_route_table_association(
        AssociationId=association["RouteTableAssociationId"], RouteTableId=new
    )
    assert replaced["NewAssociationId"] != association["RouteTableAssociationId"]
    assert main_table(ec2, vpc)["RouteTableId"] == new
    code, message, _ = refusal(ec2.disassociate_route_table, AssociationId=replaced["NewAssociationId"])
    assert (code, "main route table" in message) == ("InvalidParameterValue", True)
    assert refusal(ec2.delete_route_table, RouteTableId=new)[0] == "DependencyViolation"
    ec2.delete_route_table(RouteTableId=old["RouteTableId"])


def test_route_tables_are_refused(ec2, network):
    vpc, subnet = network
    one, two = table_of(ec2, vpc), table_of(ec2, vpc)
    assert refusal(ec2.create_route_table, VpcId=f"vpc-{NOBODY}")[0] == "InvalidVpcID.NotFound"
    assert refusal(ec2.delete_route_table, RouteTableId="rtb-x")[0] == "InvalidRouteTableId.Malformed"
    assert refusal(ec2.associate_route_table, RouteTableId=one, SubnetId=f"subnet-{NOBODY}")[0] == "InvalidSubnetID.NotFound"
    ec2.associate_route_table(RouteTableId=one, SubnetId=subnet)
    assert refusal(ec2.associate_route_table, RouteTableId=two, SubnetId=subnet)[0] == "Resource.AlreadyAssociated"
    _, elsewhere = make_network(ec2, "10.1.0.0/16", "10.1.0.0/24")
    assert refusal(ec2.associate_route_table, RouteTableId=two, SubnetId=elsewhere) == (
        "InvalidParameterValue",
        f"route table {two} and subnet {elsewhere} belong to different networks",
        400,
    )
    gone = f"rtbassoc-{NOBODY}"
    assert refusal(ec2.disassociate_route_table, AssociationId=gone)[0] == "InvalidAssociationID.NotFound"
    assert refusal(ec2.replace_route_table_association, AssociationId=gone, RouteTableId=two)[0] == "InvalidAssociationID.NotFound"
    # Tables of gateways are not served, and say so.
    code, message, _ = refusal(ec2.associate_route_table, RouteTableId=one, GatewayId=f"igw-{NOBODY}")
    assert (code, "GatewayId" in message) == ("UnsupportedOperation", True)
    for call in (ec2.enable_vgw_route_propagation, ec2.disable_vgw_route_propagation):
        assert refusal(call, RouteTableId=one, GatewayId=f"vgw-{NOBODY}")[0] == "InvalidVpnGatewayID.NotFound"


def test_routes_are_refused(ec2, network, image_id):
    vpc, subnet = network
    table = table_of(ec2, vpc)
    gateway = gateway_of(ec2, vpc)
    loose = gateway_of(ec2)
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)

    def refused(call=ec2.create_route, **arguments):
        return refusal(call, **{"RouteTableId": table, "DestinationCidrBlock": "192.0.2.0/24"} | arguments)[:2]

    assert refused(DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway) == (
        "RouteAlreadyExists",
        "The route identified by 0.0.0.0/0 already exists.",
    )
    assert refused(DestinationCidrBlock="10.0.0.0/16", GatewayId=gateway)[0] == "RouteAlreadyExists"
    assert refused(GatewayId=loose) == (
        "InvalidParameterValue",
        f"route table {table} and network gateway {loose} belong to different networks",
    )
    assert refused()[0] == "MissingParameter"
    assert refused(GatewayId=gateway, NatGatewayId=f"nat-{NOBODY}")[0] == "InvalidParameterCombination"
    for arguments, code in [
        ({"GatewayId": f"igw-{NOBODY}"}, "InvalidInternetGatewayID.NotFound"),
        ({"GatewayId": f"vgw-{NOBODY}"}, "InvalidVpnGatewayID.NotFound"),
        ({"NatGatewayId": f"nat-{NOBODY}"}, "InvalidNatGatewayID.NotFound"),
        ({"NetworkInterfaceId": f"eni-{NOBODY}"}, "InvalidNetworkInterfaceID.NotFound"),
        ({"InstanceId": f"i-{NOBODY}"}, "InvalidInstanceID.NotFound"),
        ({"VpcPeeringConnectionId": f"pcx-{NOBODY}"}, "InvalidVpcPeeringConnectionID.NotFound"),
        ({"TransitGatewayId": f"tgw-{NOBODY}"}, "InvalidTransitGatewayID.NotFound"),
        ({"EgressOnlyInternetGatewayId": f"eigw-{NOBODY}"}, "InvalidGatewayID.NotFound"),
        ({"VpcEndpointId": f"vpce-{NOBODY}"}, "InvalidVpcEndpointId.NotFound"),
        ({"CarrierGatewayId": f"cagw-{NOBODY}"}, "UnsupportedOperation"),
        ({"GatewayId": gateway, "DestinationCidrBlock": "nowhere"}, "InvalidParameterValue"),
        ({"GatewayId": gateway, "RouteTableId": f"rtb-{NOBODY}"}, "InvalidRouteTableID.NotFound"),
    ]:
        assert refused(**arguments)[0] == code, arguments
    assert refusal(ec2.delete_route, RouteTableId=table, DestinationCidrBlock="192.0.2.0/24")[:2] == (
        "InvalidRoute.NotFound",
        f"no route with destination-cidr-block 192.0.2.0/24 in route table {table}",
    )
    assert refusal(ec2.delete_route, RouteTableId=table, DestinationCidrBlock="10.0.0.0/16")[0] == "InvalidParameterValue"
    code, message = refused(ec2.replace_route, GatewayId=gateway)
    assert (code, "Use CreateRoute instead" in message) == ("InvalidParameterValue", True)
    # The route to an instance is one to its interface, and nowhere when it is gone.
    machine = running(ec2, image_id, SubnetId=subnet)
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="192.0.2.0/24", InstanceId=machine["InstanceId"])
    interface = machine["NetworkInterfaces"][0]["NetworkInterfaceId"]
    assert routes(ec2, table)["192.0.2.0/24"] == (interface, "active")
    ec2.terminate_instances(InstanceIds=[machine["InstanceId"]])
    waiter(ec2, "instance_terminated", InstanceIds=[machine["InstanceId"]])
    wait_for(lambda: routes(ec2, table)["192.0.2.0/24"] == (interface, "blackhole"), "the route to lead nowhere")


def test_a_table_has_fifty_routes(ec2, network):
    vpc, _ = network
    table = table_of(ec2, vpc)
    gateway = gateway_of(ec2, vpc)
    for number in range(50):
        ec2.create_route(RouteTableId=table, DestinationCidrBlock=f"192.168.{number}.0/24", GatewayId=gateway)
    more = {"RouteTableId": table, "DestinationCidrBlock": "0.0.0.0/0", "GatewayId": gateway}
    assert refusal(ec2.create_route, **more)[0] == "RouteLimitExceeded"
    assert len(routes(ec2, table)) == 51


def test_internet_gateways(ec2, network, image_id):
    vpc, subnet = network
    other, _ = make_network(ec2, "10.1.0.0/16", "10.1.0.0/24")
    gateway, second = gateway_of(ec2, vpc), gateway_of(ec2)
    (found,) = ec2.describe_internet_gateways(Filters=filtered(**{"attachment.vpc-id": vpc}))["InternetGateways"]
    assert (found["InternetGatewayId"], found["Attachments"]) == (gateway, [{"State": "available", "VpcId": vpc}])
    assert refusal(ec2.attach_internet_gateway, InternetGatewayId=gateway, VpcId=other)[0] == "Resource.AlreadyAssociated"
    assert refusal(ec2.attach_internet_gateway, InternetGatewayId=second, VpcId=vpc)[0] == "InvalidParameterValue"
    assert refusal(ec2.detach_internet_gateway, InternetGatewayId=gateway, VpcId=other)[:2] == (
        "Gateway.NotAttached",
        f"resource {gateway} is not attached to network {other}",
    )
    assert refusal(ec2.delete_internet_gateway, InternetGatewayId=gateway)[0] == "DependencyViolation"
    assert refusal(ec2.delete_internet_gateway, InternetGatewayId=f"igw-{NOBODY}")[0] == "InvalidInternetGatewayID.NotFound"
    specification = [{"DeviceIndex": 0, "SubnetId": subnet, "AssociatePublicIpAddress": True}]
    machine = running(ec2, image_id, NetworkInterfaces=specification)["InstanceId"]
    assert refusal(ec2.detach_internet_gateway, InternetGatewayId=gateway, VpcId=vpc)[:2] == (
        "DependencyViolation",
        f"Network {vpc} has some mapped public address(es). Please unmap those public address(es) before detaching the gateway.",
    )
    ec2.terminate_instances(InstanceIds=[machine])
    waiter(ec2, "instance_terminated", InstanceIds=[machine])
    ec2.detach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    ec2.delete_internet_gateway(InternetGatewayId=gateway)
    # The default VPC has one, `second` is one.
    for _ in range(3):
        gateway_of(ec2)
    assert refusal(ec2.create_internet_gateway)[0] == "InternetGatewayLimitExceeded"


def test_egress_only_internet_gateways(ec2, network):
    vpc, _ = network
    made = ec2.create_egress_only_internet_gateway(VpcId=vpc)["EgressOnlyInternetGateway"]
    gateway = made["EgressOnlyInternetGatewayId"]
    assert made["Attachments"] == [{"State": "attached", "VpcId": vpc}]
    table = table_of(ec2, vpc)
    ec2.create_route(RouteTableId=table, DestinationIpv6CidrBlock="::/0", EgressOnlyInternetGatewayId=gateway)
    assert routes(ec2, table)["::/0"] == (gateway, "active")
    arguments = {"RouteTableId": table, "DestinationCidrBlock": "0.0.0.0/0", "EgressOnlyInternetGatewayId": gateway}
    assert refusal(ec2.create_route, **arguments)[0] == "InvalidParameterValue"
    assert ec2.delete_egress_only_internet_gateway(EgressOnlyInternetGatewayId=gateway)["ReturnCode"] is True
    assert routes(ec2, table)["::/0"] == (gateway, "blackhole")
    assert refusal(ec2.delete_egress_only_internet_gateway, EgressOnlyInternetGatewayId=gateway)[0] == "InvalidGatewayID.NotFound"
    assert refusal(ec2.create_egress_only_internet_gateway, VpcId=f"vpc-{NOBODY}")[0] == "InvalidVpcID.NotFound"


def nat(ec2, gateway):
    (found,) = ec2.describe_nat_gateways(NatGatewayIds=[gateway])["NatGateways"]
    return found


def nat_until(ec2, gateway, state):
    return wait_for(lambda: (found := nat(ec2, gateway))["State"] == state and found, f"{gateway} to be {state}")


def allocate(ec2):
    return ec2.allocate_address(Domain="vpc")["AllocationId"]


def test_a_public_nat_gateway(ec2, network):
    vpc, subnet = network
    gateway_of(ec2, vpc)
    first, second = allocate(ec2), allocate(ec2)
    tags = [{"ResourceType": "natgateway", "Tags": [{"Key": "Name", "Value": "out"}]}]
    asked = {"SubnetId": subnet, "AllocationId": first, "TagSpecifications": tags, "ClientToken": "once"}
    made = ec2.create_nat_gateway(**asked)["NatGateway"]
    gateway = made["NatGatewayId"]
    assert ec2.create_nat_gateway(**asked)["NatGateway"]["NatGatewayId"] == gateway
    assert (made["State"], made["ConnectivityType"]) == ("pending", "public")
    waiter(ec2, "nat_gateway_available", NatGatewayIds=[gateway])
    (address,) = nat(ec2, gateway)["NatGatewayAddresses"]
    assert (address["AllocationId"], address["IsPrimary"], address["Status"]) == (first, True, "succeeded")
    (interface,) = ec2.describe_network_interfaces(NetworkInterfaceIds=[address["NetworkInterfaceId"]])["NetworkInterfaces"]
    assert interface["Description"] == f"Interface for NAT Gateway {gateway}"
    assert (interface["InterfaceType"], interface["RequesterManaged"]) == ("nat_gateway", True)
    assert (interface["SourceDestCheck"], interface["Groups"], interface["Status"]) == (False, [], "in-use")
    assert interface["Association"]["PublicIp"] == address["PublicIp"]
    (elastic,) = ec2.describe_addresses(AllocationIds=[first])["Addresses"]
    assert elastic["NetworkInterfaceId"] == address["NetworkInterfaceId"]

    more = ec2.associate_nat_gateway_address(NatGatewayId=gateway, AllocationIds=[second], PrivateIpAddresses=["10.0.0.77"])
    (added,) = more["NatGatewayAddresses"]
    assert (added["PrivateIp"], added["AllocationId"], added["IsPrimary"]) == ("10.0.0.77", second, False)
    assert refusal(ec2.associate_nat_gateway_address, NatGatewayId=gateway, AllocationIds=[second])[0] == "Resource.AlreadyAssociated"
    assert len(nat(ec2, gateway)["NatGatewayAddresses"]) == 2
    kept = [address["AssociationId"]]
    assert refusal(ec2.disassociate_nat_gateway_address, NatGatewayId=gateway, AssociationIds=kept)[0] == "OperationNotPermitted"
    ec2.disassociate_nat_gateway_address(NatGatewayId=gateway, AssociationIds=[added["AssociationId"]])
    assert len(nat(ec2, gateway)["NatGatewayAddresses"]) == 1
    assert "AssociationId" not in ec2.describe_addresses(AllocationIds=[second])["Addresses"][0]
    assert refusal(ec2.assign_private_nat_gateway_address, NatGatewayId=gateway, PrivateIpAddressCount=1)[0] == "InvalidParameter"

    table = table_of(ec2, vpc)
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", NatGatewayId=gateway)
    assert routes(ec2, table)["0.0.0.0/0"] == (gateway, "active")
    assert ec2.delete_nat_gateway(NatGatewayId=gateway)["NatGatewayId"] == gateway
    waiter(ec2, "nat_gateway_deleted", NatGatewayIds=[gateway])
    assert "DeleteTime" in nat(ec2, gateway)
    assert routes(ec2, table)["0.0.0.0/0"] == (gateway, "blackhole")
    gone = [address["NetworkInterfaceId"]]
    assert refusal(ec2.describe_network_interfaces, NetworkInterfaceIds=gone)[0] == "InvalidNetworkInterfaceID.NotFound"
    ec2.release_address(AllocationId=first)
    assert refusal(ec2.delete_nat_gateway, NatGatewayId=gateway)[0] == "NatGatewayNotFound"


def test_a_private_nat_gateway(ec2, network):
    _, subnet = network
    made = ec2.create_nat_gateway(
        SubnetId=subnet, ConnectivityType="private", PrivateIpAddress="10.0.0.50", SecondaryPrivateIpAddresses=["10.0.0.51"]
    )["NatGateway"]
    gateway = made["NatGatewayId"]
    nat_until(ec2, gateway, "available")
    ec2.assign_private_nat_gateway_address(NatGatewayId=gateway, PrivateIpAddressCount=2)
    addresses = nat(ec2, gateway)["NatGatewayAddresses"]
    assert [address["PrivateIp"] for address in addresses[:2]] == ["10.0.0.50", "10.0.0.51"]
    assert len(addresses) == 4 and not any("PublicIp" in address for address in addresses)
    ec2.unassign_private_nat_gateway_address(NatGatewayId=gateway, PrivateIpAddresses=["10.0.0.51"])
    assert len(nat(ec2, gateway)["NatGatewayAddresses"]) == 3
    primary = ["10.0.0.50"]
    assert refusal(ec2.unassign_private_nat_gateway_address, NatGatewayId=gateway, PrivateIpAddresses=primary)[0] == "OperationNotPermitted"
    taken = {"SubnetId": subnet, "ConnectivityType": "private", "PrivateIpAddress": "10.0.0.50"}
    assert refusal(ec2.create_nat_gateway, **taken)[0] == "InvalidIPAddress.InUse"
    for _ in range(4):
        ec2.create_nat_gateway(SubnetId=subnet, ConnectivityType="private")
    assert refusal(ec2.create_nat_gateway, SubnetId=subnet, ConnectivityType="private")[0] == "NatGatewayLimitExceeded"


def test_nat_gateways_that_fail(ec2, network):
    vpc, subnet = network
    allocation = allocate(ec2)

    def failed(**arguments):
        made = ec2.create_nat_gateway(**{"SubnetId": subnet, "AllocationId": allocation} | arguments)["NatGateway"]
        found = nat_until(ec2, made["NatGatewayId"], "failed")
        return found["FailureCode"], found["FailureMessage"]

    assert failed() == ("Gateway.NotAttached", f"Network {vpc} has no Internet gateway attached")
    gateway_of(ec2, vpc)
    good = ec2.create_nat_gateway(SubnetId=subnet, AllocationId=allocation)["NatGateway"]["NatGatewayId"]
    nat_until(ec2, good, "available")
    assert failed() == ("Resource.AlreadyAssociated", f"Elastic IP address {allocation} is already associated")
    small = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.9.0/28")["Subnet"]["SubnetId"]
    # Eleven addresses: eight and three.
    for count in (7, 2):
        ec2.create_nat_gateway(SubnetId=small, ConnectivityType="private", SecondaryPrivateIpAddressCount=count)
    assert failed(SubnetId=small, AllocationId=allocate(ec2)) == (
        "InsufficientFreeAddressesInSubnet",
        "Subnet has insufficient free addresses to create this NAT gateway",
    )
    states = filtered(state="failed", vpc_id=vpc)
    assert len(ec2.describe_nat_gateways(Filters=states)["NatGateways"]) == 3


def test_nat_gateways_are_refused(ec2, network):
    _, subnet = network
    assert refusal(ec2.create_nat_gateway, SubnetId=f"subnet-{NOBODY}", AllocationId="x")[0] == "InvalidSubnetID.NotFound"
    assert refusal(ec2.create_nat_gateway, SubnetId=subnet)[0] == "MissingParameter"
    for arguments, code in [
        ({"ConnectivityType": "private", "AllocationId": "eipalloc-1"}, "InvalidParameterCombination"),
        ({"AllocationId": "eipalloc-1", "SecondaryPrivateIpAddressCount": 1}, "InvalidParameterCombination"),
        ({"AllocationId": "eipalloc-1", "SecondaryPrivateIpAddresses": ["10.0.0.9"]}, "InvalidParameterCombination"),
        ({"ConnectivityType": "private", "PrivateIpAddress": "10.0.1.9"}, "InvalidParameterValue"),
        ({"ConnectivityType": "private", "PrivateIpAddress": "10.0.0.1"}, "InvalidParameterValue"),
        ({"AvailabilityMode": "regional", "AllocationId": "eipalloc-1"}, "UnsupportedOperation"),
    ]:
        assert refusal(ec2.create_nat_gateway, SubnetId=subnet, **arguments)[0] == code, arguments
    assert refusal(ec2.describe_nat_gateways, NatGatewayIds=[f"nat-{NOBODY}"])[:2] == (
        "NatGatewayNotFound",
        f"The Nat Gateway nat-{NOBODY} was not found",
    )
    assert refusal(ec2.delete_nat_gateway, NatGatewayId="x")[0] == "NatGatewayMalformed"


def test_prefix_lists(ec2, network, region):
    vpc, _ = network
    made = ec2.create_managed_prefix_list(
        PrefixListName="offices",
        AddressFamily="IPv4",
        MaxEntries=2,
        Entries=[{"Cidr": "198.51.100.0/24", "Description": "one"}],
    )["PrefixList"]
    prefixes = made["PrefixListId"]
    assert (made["State"], made["Version"]) == ("create-complete", 1)
    change = {"PrefixListId": prefixes, "CurrentVersion": 1, "AddEntries": [{"Cidr": "192.0.2.0/24"}]}
    assert ec2.modify_managed_prefix_list(**change)["PrefixList"]["Version"] == 2
    assert refusal(ec2.modify_managed_prefix_list, **change)[0] == "PrefixListVersionMismatch"
    change = {"PrefixListId": prefixes, "CurrentVersion": 2, "AddEntries": [{"Cidr": "203.0.113.0/24"}]}
    assert refusal(ec2.modify_managed_prefix_list, **change)[0] == "PrefixListMaxEntriesExceeded"
    assert refusal(ec2.modify_managed_prefix_list, MaxEntries=3, **change)[0] == "InvalidParameterCombination"
    entries = ec2.get_managed_prefix_list_entries(PrefixListId=prefixes)["Entries"]
    assert entries == [{"Cidr": "192.0.2.0/24"}, {"Cidr": "198.51.100.0/24", "Description": "one"}]
    restored = ec2.restore_managed_prefix_list_version(PrefixListId=prefixes, PreviousVersion=1, CurrentVersion=2)["PrefixList"]
    assert (restored["Version"], restored["State"]) == (3, "restore-complete")
    gateway = gateway_of(ec2, vpc)
    table = table_of(ec2, vpc)
    ec2.create_route(RouteTableId=table, DestinationPrefixListId=prefixes, GatewayId=gateway)
    assert routes(ec2, table)[prefixes] == (gateway, "active")
    used = ec2.get_managed_prefix_list_associations(PrefixListId=prefixes)["PrefixListAssociations"]
    assert [one["ResourceId"] for one in used] == [table]
    assert refusal(ec2.delete_managed_prefix_list, PrefixListId=prefixes)[0] == "DependencyViolation"
    ec2.delete_route(RouteTableId=table, DestinationPrefixListId=prefixes)
    ec2.delete_managed_prefix_list(PrefixListId=prefixes)
    assert refusal(ec2.get_managed_prefix_list_entries, PrefixListId=prefixes)[0] == "InvalidPrefixListID.NotFound"
    assert refusal(ec2.delete_managed_prefix_list, PrefixListId="x")[0] == "InvalidPrefixListId.Malformed"
    # AWS's own.
    name = f"com.amazonaws.{region}.s3"
    (of_aws,) = ec2.describe_managed_prefix_lists(Filters=filtered(prefix_list_name=name))["PrefixLists"]
    assert of_aws["OwnerId"] == "AWS"
    (shown,) = ec2.describe_prefix_lists(Filters=filtered(prefix_list_name=name))["PrefixLists"]
    assert shown["PrefixListId"] == of_aws["PrefixListId"] and len(shown["Cidrs"]) == 1
    assert refusal(ec2.delete_managed_prefix_list, PrefixListId=of_aws["PrefixListId"])[0] == "OperationNotPermitted"


def test_a_peering_connection_between_regions(client, ec2, region, network):
    there = client(region_name=region + "1")
    one, _ = network
    two, _ = make_network(there, "10.1.0.0/16", "10.1.0.0/24")
    made = ec2.create_vpc_peering_connection(VpcId=one, PeerVpcId=two, PeerRegion=region + "1")["VpcPeeringConnection"]
    peering = made["VpcPeeringConnectionId"]
    assert made["Status"]["Code"] == "initiating-request"

    def status(of):
        (found,) = of.describe_vpc_peering_connections(VpcPeeringConnectionIds=[peering])["VpcPeeringConnections"]
        return found["Status"]["Code"]

    assert status(ec2) == status(there) == "pending-acceptance"
    table = table_of(ec2, one)
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="10.1.0.0/16", VpcPeeringConnectionId=peering)
    assert routes(ec2, table)["10.1.0.0/16"] == (peering, "blackhole")
    ident = {"VpcPeeringConnectionId": peering}
    options = {"RequesterPeeringConnectionOptions": {"AllowDnsResolutionFromRemoteVpc": True}}
    assert refusal(ec2.modify_vpc_peering_connection_options, **ident, **options)[0] == "OperationNotPermitted"
    code, message, _ = refusal(ec2.accept_vpc_peering_connection, **ident)
    assert (code, f"must be accepted in region {region}1" in message) == ("OperationNotPermitted", True)
    assert there.accept_vpc_peering_connection(**ident)["VpcPeeringConnection"]["Status"]["Code"] == "active"
    assert routes(ec2, table)["10.1.0.0/16"] == (peering, "active")
    changed = ec2.modify_vpc_peering_connection_options(**ident, **options)
    assert changed["RequesterPeeringConnectionOptions"]["AllowDnsResolutionFromRemoteVpc"] is True
    assert refusal(there.modify_vpc_peering_connection_options, **ident, **options)[0] == "OperationNotPermitted"
    # Each side has its own tags.
    for of, value in ((ec2, "here"), (there, "there")):
        of.create_tags(Resources=[peering], Tags=[{"Key": "Side", "Value": value}])
    for of, value in ((ec2, "here"), (there, "there")):
        (found,) = of.describe_vpc_peering_connections(Filters=filtered(**{"tag:Side": value}))["VpcPeeringConnections"]
        assert found["Tags"] == [{"Key": "Side", "Value": value}]
        (tag,) = of.describe_tags(Filters=filtered(resource_id=peering))["Tags"]
        assert tag["Value"] == value
    assert refusal(there.reject_vpc_peering_connection, **ident)[:2] == (
        "InvalidStateTransition",
        f"Invalid state transition for {peering}, attempted to transition from active to rejected",
    )
    there.delete_vpc_peering_connection(**ident)
    assert status(ec2) == "deleted"
    assert routes(ec2, table)["10.1.0.0/16"] == (peering, "blackhole")
    assert refusal(ec2.delete_vpc_peering_connection, **ident)[0] == "InvalidStateTransition"


def test_peering_connections_are_refused(ec2, network):
    one, _ = network
    overlapping, _ = make_network(ec2, "10.0.128.0/17", "10.0.128.0/24")
    two, _ = make_network(ec2, "10.1.0.0/16", "10.1.0.0/24")

    def made(peer):
        return ec2.create_vpc_peering_connection(VpcId=one, PeerVpcId=peer)["VpcPeeringConnection"]["VpcPeeringConnectionId"]

    for peer in (overlapping, f"vpc-{NOBODY}"):
        (found,) = ec2.describe_vpc_peering_connections(VpcPeeringConnectionIds=[made(peer)])["VpcPeeringConnections"]
        assert found["Status"]["Code"] == "failed"
        assert "overlapping CIDR range" in found["Status"]["Message"]
    peering = made(two)
    again = {"VpcId": two, "PeerVpcId": one}
    assert refusal(ec2.create_vpc_peering_connection, **again)[0] == "VpcPeeringConnectionAlreadyExists"
    assert refusal(ec2.create_vpc_peering_connection, VpcId=one)[0] == "MissingParameter"
    assert refusal(ec2.create_vpc_peering_connection, VpcId=f"vpc-{NOBODY}", PeerVpcId=one)[0] == "InvalidVpcID.NotFound"
    gone = f"pcx-{NOBODY}"
    for call in (
        ec2.accept_vpc_peering_connection,
        ec2.reject_vpc_peering_connection,
        ec2.delete_vpc_peering_connection,
    ):
        assert refusal(call, VpcPeeringConnectionId=gone)[0] == "InvalidVpcPeeringConnectionID.NotFound"
    assert ec2.reject_vpc_peering_connection(VpcPeeringConnectionId=peering)["Return"] is True
    assert refusal(ec2.accept_vpc_peering_connection, VpcPeeringConnectionId=peering)[0] == "InvalidStateTransition"
