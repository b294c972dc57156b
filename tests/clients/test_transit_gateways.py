"""Transit gateways, what is attached to them, and their route tables."""

import re

import pytest
from asking import filtered, refusal
from support import wait_for

TAGS = [{"Key": "Name", "Value": "hub"}]


def one(answer):
    """The only item of a describing answer."""
    (items,) = [value for value in answer.values() if isinstance(value, list)]
    (item,) = items
    return item


def gateway_shown(ec2, name):
    return one(ec2.describe_transit_gateways(TransitGatewayIds=[name]))


def until(describe, state, what="State"):
    return wait_for(lambda: describe() if describe()[what] == state else None, f"{what} to be {state}")


def make_gateway(ec2, **arguments):
    name = ec2.create_transit_gateway(**arguments)["TransitGateway"]["TransitGatewayId"]
    return until(lambda: gateway_shown(ec2, name), "available")


def attachment_shown(ec2, name):
    return one(ec2.describe_transit_gateway_vpc_attachments(TransitGatewayAttachmentIds=[name]))


def attach(ec2, gateway, vpc, subnets):
    made = ec2.create_transit_gateway_vpc_attachment(TransitGatewayId=gateway, VpcId=vpc, SubnetIds=subnets)
    name = made["TransitGatewayVpcAttachment"]["TransitGatewayAttachmentId"]
    return until(lambda: attachment_shown(ec2, name), "available")


def make_table(ec2, gateway):
    made = ec2.create_transit_gateway_route_table(TransitGatewayId=gateway)["TransitGatewayRouteTable"]
    name = made["TransitGatewayRouteTableId"]
    until(lambda: one(ec2.describe_transit_gateway_route_tables(TransitGatewayRouteTableIds=[name])), "available")
    return name


def routes(ec2, table, **filters):
    wanted = filtered(**filters) or filtered(state=["active", "blackhole"])
    found = ec2.search_transit_gateway_routes(TransitGatewayRouteTableId=table, Filters=wanted)["Routes"]
    return {(r["DestinationCidrBlock"], r["Type"], r["State"]) for r in found}


@pytest.fixture
def vpc(ec2):
    return ec2.describe_vpcs()["Vpcs"][0]["VpcId"]


@pytest.fixture
def subnets(ec2):
    return [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"]]


@pytest.fixture
def gateway(ec2):
    return make_gateway(ec2)["TransitGatewayId"]


@pytest.fixture
def table(ec2, gateway):
    return gateway_shown(ec2, gateway)["Options"]["AssociationDefaultRouteTableId"]


@pytest.fixture
def attachment(ec2, gateway, vpc, subnets):
    return attach(ec2, gateway, vpc, subnets[:2])["TransitGatewayAttachmentId"]


class TestGateway:
    def test_life(self, ec2):
        tags = [{"ResourceType": "transit-gateway", "Tags": TAGS}]
        made = ec2.create_transit_gateway(Description="hub", TagSpecifications=tags)["TransitGateway"]
        name = made["TransitGatewayId"]
        assert re.fullmatch("tgw-[0-9a-f]{17}", name) and made["State"] == "pending"
        shown = until(lambda: gateway_shown(ec2, name), "available")
        assert (shown["Description"], shown["Tags"], shown["OwnerId"]) == ("hub", TAGS, "123456789012")
        assert shown["TransitGatewayArn"] == f"arn:aws:ec2:{ec2.meta.region_name}:123456789012:transit-gateway/{name}"
        options = shown["Options"]
        assert options["AmazonSideAsn"] == 64512 and options["AutoAcceptSharedAttachments"] == "disable"
        assert options["AssociationDefaultRouteTableId"] == options["PropagationDefaultRouteTableId"]
        default = one(ec2.describe_transit_gateway_route_tables(Filters=filtered(transit_gateway_id=name)))
        assert default["DefaultAssociationRouteTable"] and default["DefaultPropagationRouteTable"]
        ec2.delete_transit_gateway(TransitGatewayId=name)
        until(lambda: gateway_shown(ec2, name), "deleted")
        code, message, _ = refusal(ec2.delete_transit_gateway, TransitGatewayId=name)
        assert code == "InvalidTransitGatewayID.NotFound"
        assert message == f"Transit Gateway {name} was deleted or does not exist."

    def test_modified(self, ec2, gateway, table):
        options = {"DefaultRouteTableAssociation": "disable", "DnsSupport": "enable"}
        changed = ec2.modify_transit_gateway(TransitGatewayId=gateway, Description="new", Options=options)["TransitGateway"]
        assert changed["Description"] == "new" and changed["Options"]["DnsSupport"] == "enable"
        assert "AssociationDefaultRouteTableId" not in changed["Options"]
        on = {"DefaultRouteTableAssociation": "enable"}
        assert refusal(ec2.modify_transit_gateway, TransitGatewayId=gateway, Options=on)[0] == "MissingParameter"
        ghost = on | {"AssociationDefaultRouteTableId": "tgw-rtb-0123456789abcdef0"}
        assert refusal(ec2.modify_transit_gateway, TransitGatewayId=gateway, Options=ghost)[0] == "InvalidRouteTableID.NotFound"
        ec2.modify_transit_gateway(TransitGatewayId=gateway, Options=on | {"AssociationDefaultRouteTableId": table})

    @pytest.mark.parametrize(
        "options, code",
        [
            ({"AmazonSideAsn": 7224}, "InvalidParameterValue"),
            ({"TransitGatewayCidrBlocks": ["10.0.0.0/25"]}, "InvalidParameterValue"),
            ({"MulticastSupport": "enable"}, "UnsupportedOperation"),
            ({"SecurityGroupReferencingSupport": "enable"}, "UnsupportedOperation"),
            ({"AutoAcceptSharedAttachments": "enable"}, "UnsupportedOperation"),
            ({"DnsSupport": "disable"}, "UnsupportedOperation"),
            ({"VpnEcmpSupport": "disable"}, "UnsupportedOperation"),
            ({"DnsSupport": "perhaps"}, "InvalidParameterValue"),
        ],
    )
    def test_refused(self, ec2, options, code):
        assert refusal(ec2.create_transit_gateway, Options=options)[0] == code
        assert ec2.describe_transit_gateways()["TransitGateways"] == []

    def test_five(self, ec2):
        for _ in range(5):
            ec2.create_transit_gateway()
        assert refusal(ec2.create_transit_gateway)[0] == "TransitGatewayLimitExceeded"

    def test_filters(self, ec2, gateway):
        make_gateway(ec2, Options={"AmazonSideAsn": 65000, "DefaultRouteTablePropagation": "disable"})
        for filters in [
            [{"Name": "options.amazon-side-asn", "Values": ["64512"]}],
            [{"Name": "options.default-route-table-propagation", "Values": ["enable"]}],
            filtered(transit_gateway_id=gateway),
        ]:
            assert one(ec2.describe_transit_gateways(Filters=filters))["TransitGatewayId"] == gateway
        assert refusal(ec2.describe_transit_gateways, TransitGatewayIds=["tgw-x"])[0] == "InvalidTransitGatewayID.Malformed"


class TestVpcAttachment:
    def test_life(self, ec2, gateway, vpc, subnets, table, attachment):
        shown = attachment_shown(ec2, attachment)
        assert (shown["VpcId"], shown["SubnetIds"]) == (vpc, subnets[:2])
        assert shown["Options"]["DnsSupport"] == "enable" and shown["Options"]["ApplianceModeSupport"] == "disable"
        every = one(ec2.describe_transit_gateway_attachments(Filters=filtered(resource_type="vpc")))
        assert every["Association"] == {"TransitGatewayRouteTableId": table, "State": "associated"}
        interfaces = ec2.describe_network_interfaces(Filters=filtered(interface_type="transit_gateway"))["NetworkInterfaces"]
        assert {i["SubnetId"] for i in interfaces} == set(subnets[:2])
        assert routes(ec2, table) == {("172.31.0.0/16", "propagated", "active")}
        code, message, _ = refusal(ec2.delete_transit_gateway, TransitGatewayId=gateway)
        assert code == "IncorrectState"
        assert message == f"{gateway} has non-deleted Transit Gateway Attachments: {attachment}."
        ec2.modify_transit_gateway_vpc_attachment(
            TransitGatewayAttachmentId=attachment, AddSubnetIds=[subnets[2]], RemoveSubnetIds=[subnets[0]]
        )
        assert attachment_shown(ec2, attachment)["SubnetIds"] == subnets[1:3]
        ec2.delete_transit_gateway_vpc_attachment(TransitGatewayAttachmentId=attachment)
        until(lambda: attachment_shown(ec2, attachment), "deleted")
        assert ec2.describe_network_interfaces()["NetworkInterfaces"] == [] and routes(ec2, table) == set()
        assert refusal(ec2.delete_transit_gateway_vpc_attachment, TransitGatewayAttachmentId=attachment)[0] == (
            "InvalidTransitGatewayAttachmentID.NotFound"
        )

    def test_once(self, ec2, gateway, vpc, subnets, attachment):
        code, message, _ = refusal(
            ec2.create_transit_gateway_vpc_attachment, TransitGatewayId=gateway, VpcId=vpc, SubnetIds=subnets[:1]
        )
        assert code == "DuplicateTransitGatewayAttachment"
        assert message == f"{gateway} has non-deleted Transit Gateway Attachments with same VPC ID."

    def test_refused(self, ec2, gateway, vpc, subnets):
        make = ec2.create_transit_gateway_vpc_attachment
        zone = ec2.describe_subnets(SubnetIds=subnets[:1])["Subnets"][0]["AvailabilityZone"]
        twin = ec2.create_subnet(VpcId=vpc, CidrBlock="172.31.128.0/24", AvailabilityZone=zone)["Subnet"]["SubnetId"]
        good = {"TransitGatewayId": gateway, "VpcId": vpc, "SubnetIds": subnets[:1]}
        for changes, code in [
            ({"TransitGatewayId": "tgw-0123456789abcdef0"}, "InvalidTransitGatewayID.NotFound"),
            ({"VpcId": "vpc-0123456789abcdef0"}, "InvalidVpcID.NotFound"),
            ({"SubnetIds": ["subnet-0123456789abcdef0"]}, "InvalidSubnetID.NotFound"),
            ({"SubnetIds": [subnets[0], twin]}, "DuplicateSubnetsInSameZone"),
            ({"Options": {"ApplianceModeSupport": "enable"}}, "UnsupportedOperation"),
            ({"Options": {"DnsSupport": "disable"}}, "UnsupportedOperation"),
            ({"Options": {"SecurityGroupReferencingSupport": "disable"}}, "UnsupportedOperation"),
        ]:
            assert refusal(make, **(good | changes))[0] == code, changes
        assert ec2.describe_network_interfaces()["NetworkInterfaces"] == []

    def test_nobody_waits_for_acceptance(self, ec2, attachment):
        for call in (ec2.accept_transit_gateway_vpc_attachment, ec2.reject_transit_gateway_vpc_attachment):
            assert refusal(call, TransitGatewayAttachmentId=attachment)[0] == "IncorrectState"

    def test_a_vpc_that_is_attached_stays(self, ec2, gateway):
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
        attach(ec2, gateway, vpc, [subnet])
        assert refusal(ec2.delete_subnet, SubnetId=subnet)[0] == "DependencyViolation"
        assert refusal(ec2.delete_vpc, VpcId=vpc)[0] == "DependencyViolation"


class TestRouteTables:
    def test_associations(self, ec2, gateway, table, attachment):
        other = make_table(ec2, gateway)
        pair = {"TransitGatewayAttachmentId": attachment}
        code, message, _ = refusal(ec2.associate_transit_gateway_route_table, TransitGatewayRouteTableId=other, **pair)
        assert code == "Resource.AlreadyAssociated" and attachment in message
        assert refusal(ec2.disassociate_transit_gateway_route_table, TransitGatewayRouteTableId=other, **pair)[0] == "InvalidAssociation.NotFound"
        answer = ec2.disassociate_transit_gateway_route_table(TransitGatewayRouteTableId=table, **pair)
        assert answer["Association"]["State"] == "disassociating"
        answer = ec2.associate_transit_gateway_route_table(TransitGatewayRouteTableId=other, **pair)
        assert answer["Association"]["State"] == "associating"
        found = one(ec2.get_transit_gateway_route_table_associations(TransitGatewayRouteTableId=other))
        assert (found["State"], found["TransitGatewayAttachmentId"]) == ("associated", attachment)
        assert refusal(ec2.delete_transit_gateway_route_table, TransitGatewayRouteTableId=other)[0] == "IncorrectState"
        ec2.disassociate_transit_gateway_route_table(TransitGatewayRouteTableId=other, **pair)
        ec2.delete_transit_gateway_route_table(TransitGatewayRouteTableId=other)
        until(lambda: one(ec2.describe_transit_gateway_route_tables(TransitGatewayRouteTableIds=[other])), "deleted")
        assert refusal(ec2.delete_transit_gateway_route_table, TransitGatewayRouteTableId=table)[0] == "IncorrectState"

    def test_propagations(self, ec2, gateway, table, attachment):
        other = make_table(ec2, gateway)
        both = {"TransitGatewayAttachmentId": attachment, "TransitGatewayRouteTableId": other}
        assert refusal(ec2.disable_transit_gateway_route_table_propagation, **both)[0] == "TransitGatewayRouteTablePropagation.NotFound"
        ec2.enable_transit_gateway_route_table_propagation(**both)
        assert refusal(ec2.enable_transit_gateway_route_table_propagation, **both)[0] == "TransitGatewayRouteTablePropagation.Duplicate"
        assert one(ec2.get_transit_gateway_route_table_propagations(TransitGatewayRouteTableId=other))["State"] == "enabled"
        found = ec2.get_transit_gateway_attachment_propagations(TransitGatewayAttachmentId=attachment)
        found = found["TransitGatewayAttachmentPropagations"]
        assert {p["TransitGatewayRouteTableId"] for p in found} == {table, other}
        assert routes(ec2, other) == {("172.31.0.0/16", "propagated", "active")}
        ec2.disable_transit_gateway_route_table_propagation(**both)
        assert routes(ec2, other) == set()

    def test_routes(self, ec2, table, attachment):
        at = {"TransitGatewayRouteTableId": table}
        made = ec2.create_transit_gateway_route(DestinationCidrBlock="10.0.0.0/8", TransitGatewayAttachmentId=attachment, **at)["Route"]
        assert (made["Type"], made["State"]) == ("static", "active")
        ec2.create_transit_gateway_route(DestinationCidrBlock="10.1.0.0/16", Blackhole=True, **at)
        code, message, _ = refusal(ec2.create_transit_gateway_route, DestinationCidrBlock="10.0.0.0/8", Blackhole=True, **at)
        assert code == "RouteAlreadyExists" and "10.0.0.0/8" in message
        hole = ("10.1.0.0/16", "static", "blackhole")
        assert routes(ec2, table, **{"route-search.longest-prefix-match": "10.1.2.3"}) == {hole}
        assert len(routes(ec2, table, **{"route-search.subnet-of-match": "10.0.0.0/8"})) == 2
        assert routes(ec2, table, type="static", state="blackhole") == {hole}
        ec2.replace_transit_gateway_route(DestinationCidrBlock="10.1.0.0/16", TransitGatewayAttachmentId=attachment, **at)
        assert routes(ec2, table, **{"route-search.exact-match": "10.1.0.0/16"}) == {("10.1.0.0/16", "static", "active")}
        assert ec2.delete_transit_gateway_route(DestinationCidrBlock="10.1.0.0/16", **at)["Route"]["State"] == "deleted"
        for call in (ec2.delete_transit_gateway_route, ec2.replace_transit_gateway_route):
            more = {"Blackhole": True} if call == ec2.replace_transit_gateway_route else {}
            assert refusal(call, DestinationCidrBlock="10.1.0.0/16", **at, **more)[0] == "InvalidRoute.NotFound"
        for bad, code in [
            ({"DestinationCidrBlock": "10.0.0.1/8", "Blackhole": True}, "InvalidParameterValue"),
            ({"DestinationCidrBlock": "10.2.0.0/16"}, "MissingParameter"),
            ({"DestinationCidrBlock": "10.2.0.0/16", "Blackhole": True, "TransitGatewayAttachmentId": attachment}, "InvalidParameterCombination"),
            ({"DestinationCidrBlock": "10.2.0.0/16", "TransitGatewayAttachmentId": "tgw-attach-0123456789abcdef0"}, "InvalidTransitGatewayAttachmentID.NotFound"),
        ]:
            assert refusal(ec2.create_transit_gateway_route, **at, **bad)[0] == code, bad
        ec2.delete_transit_gateway_vpc_attachment(TransitGatewayAttachmentId=attachment)
        assert routes(ec2, table) == {("10.0.0.0/8", "static", "blackhole")}

    def test_prefix_lists(self, ec2, table, attachment):
        made = ec2.create_managed_prefix_list(
            PrefixListName="offices", AddressFamily="IPv4", MaxEntries=5, Entries=[{"Cidr": "192.0.2.0/24"}]
        )["PrefixList"]["PrefixListId"]
        both = {"TransitGatewayRouteTableId": table, "PrefixListId": made}
        ec2.create_transit_gateway_prefix_list_reference(Blackhole=True, **both)
        assert refusal(ec2.create_transit_gateway_prefix_list_reference, Blackhole=True, **both)[0] == "RouteAlreadyExists"
        assert routes(ec2, table, prefix_list_id=made) == {("192.0.2.0/24", "static", "blackhole")}
        ec2.modify_transit_gateway_prefix_list_reference(TransitGatewayAttachmentId=attachment, **both)
        found = one(ec2.get_transit_gateway_prefix_list_references(TransitGatewayRouteTableId=table))
        assert found["State"] == "available" and found["TransitGatewayAttachment"]["TransitGatewayAttachmentId"] == attachment
        ec2.delete_transit_gateway_prefix_list_reference(**both)
        assert routes(ec2, table, prefix_list_id=made) == set()
        ghost = both | {"PrefixListId": "pl-0123456789abcdef0"}
        assert refusal(ec2.create_transit_gateway_prefix_list_reference, Blackhole=True, **ghost)[0].endswith(".NotFound")


def test_peering(ec2, client, region):
    other_name = region[:-1] + "9"
    other = client(region_name=other_name)
    near, far = make_gateway(ec2)["TransitGatewayId"], make_gateway(other)["TransitGatewayId"]

    def ask():
        made = ec2.create_transit_gateway_peering_attachment(
            TransitGatewayId=near, PeerTransitGatewayId=far, PeerAccountId="123456789012", PeerRegion=other_name
        )
        return made["TransitGatewayPeeringAttachment"]["TransitGatewayAttachmentId"]

    def shown(where, name):
        return one(where.describe_transit_gateway_peering_attachments(TransitGatewayAttachmentIds=[name]))

    name = ask()
    assert shown(other, name)["State"] == "pendingAcceptance"
    assert refusal(ec2.accept_transit_gateway_peering_attachment, TransitGatewayAttachmentId=name)[0] == "IncorrectState"
    other.accept_transit_gateway_peering_attachment(TransitGatewayAttachmentId=name)
    for where in (ec2, other):
        found = until(lambda where=where: shown(where, name), "available")
        assert found["RequesterTgwInfo"]["TransitGatewayId"] == near
        assert found["AccepterTgwInfo"] == {"TransitGatewayId": far, "Region": other_name, "OwnerId": "123456789012"}
    code, message, _ = refusal(ec2.delete_transit_gateway, TransitGatewayId=near)
    assert code == "IncorrectState" and "Cross Region Peering Attachments" in message
    table = gateway_shown(ec2, near)["Options"]["AssociationDefaultRouteTableId"]
    ec2.create_transit_gateway_route(TransitGatewayRouteTableId=table, DestinationCidrBlock="10.0.0.0/8", TransitGatewayAttachmentId=name)
    ec2.delete_transit_gateway_peering_attachment(TransitGatewayAttachmentId=name)
    until(lambda: shown(other, name), "deleted")
    rejected = ask()
    other.reject_transit_gateway_peering_attachment(TransitGatewayAttachmentId=rejected)
    assert shown(ec2, rejected)["State"] == "rejected"


def test_tags(ec2, gateway, table, attachment):
    for name in (gateway, table, attachment):
        ec2.create_tags(Resources=[name], Tags=TAGS)
    found = ec2.describe_tags(Filters=filtered(key="Name"))["Tags"]
    kinds = {t["ResourceType"] for t in found}
    assert kinds == {"transit-gateway", "transit-gateway-route-table", "transit-gateway-attachment"}
    assert one(ec2.describe_transit_gateway_route_tables(Filters=[{"Name": "tag:Name", "Values": ["hub"]}]))["Tags"] == TAGS
