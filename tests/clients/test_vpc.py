"""VPCs, subnets and DHCP options."""

import re

import pytest
from asking import filtered, launch, refusal, waiter

GHOSTS = {
    "vpc": "vpc-0123456789abcdef0",
    "subnet": "subnet-0123456789abcdef0",
    "dopt": "dopt-0123456789abcdef0",
}


@pytest.fixture
def vpc(ec2):
    made = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]
    waiter(ec2, "vpc_available", VpcIds=[made["VpcId"]])
    return made["VpcId"]


@pytest.fixture
def subnet(ec2, vpc):
    made = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]
    waiter(ec2, "subnet_available", SubnetIds=[made["SubnetId"]])
    return made["SubnetId"]


def the_vpc(ec2, vpc):
    (found,) = ec2.describe_vpcs(VpcIds=[vpc])["Vpcs"]
    return found


def the_subnet(ec2, subnet):
    (found,) = ec2.describe_subnets(SubnetIds=[subnet])["Subnets"]
    return found


def attribute(ec2, vpc, name):
    answer = ec2.describe_vpc_attribute(VpcId=vpc, Attribute=name)
    return answer[name[0].upper() + name[1:]]["Value"]


class TestVpc:
    def test_comes_with_table_acl_and_group(self, ec2):
        tags = [{"ResourceType": "vpc", "Tags": [{"Key": "Name", "Value": "net"}]}]
        made = ec2.create_vpc(CidrBlock="10.1.0.5/16", TagSpecifications=tags)["Vpc"]
        assert (made["State"], made["CidrBlock"], made["IsDefault"]) == ("pending", "10.1.0.0/16", False)
        vpc = made["VpcId"]
        assert re.fullmatch("vpc-[0-9a-f]{17}", vpc)
        shown = the_vpc(ec2, vpc)
        assert (shown["State"], shown["InstanceTenancy"], shown["OwnerId"]) == ("available", "default", "123456789012")
        assert shown["Tags"] == [{"Key": "Name", "Value": "net"}]
        (block,) = shown["CidrBlockAssociationSet"]
        assert (block["CidrBlock"], block["CidrBlockState"]["State"]) == ("10.1.0.0/16", "associated")
        default = next(v for v in ec2.describe_vpcs()["Vpcs"] if v["IsDefault"])
        assert shown["DhcpOptionsId"] == default["DhcpOptionsId"]
        (table,) = ec2.describe_route_tables(Filters=filtered(**{"vpc_id": [vpc], "association.main": ["true"]}))["RouteTables"]
        assert [r["DestinationCidrBlock"] for r in table["Routes"]] == ["10.1.0.0/16"]
        (acl,) = ec2.describe_network_acls(Filters=filtered(vpc_id=[vpc]))["NetworkAcls"]
        assert acl["IsDefault"]
        (group,) = ec2.describe_security_groups(Filters=filtered(vpc_id=[vpc]))["SecurityGroups"]
        assert group["GroupName"] == "default"
        ec2.delete_vpc(VpcId=vpc)
        assert ec2.describe_network_acls(Filters=filtered(vpc_id=[vpc]))["NetworkAcls"] == []
        assert ec2.describe_route_tables(Filters=filtered(vpc_id=[vpc]))["RouteTables"] == []
        assert ec2.describe_security_groups(Filters=filtered(vpc_id=[vpc]))["SecurityGroups"] == []
        code, message, status = refusal(ec2.describe_vpcs, VpcIds=[vpc])
        assert (code, message, status) == ("InvalidVpcID.NotFound", f"The vpc ID '{vpc}' does not exist", 400)

    @pytest.mark.parametrize(
        "cidr, code",
        [
            ("10.0.0.0/15", "InvalidVpc.Range"),
            ("10.0.0.0/29", "InvalidVpc.Range"),
            ("127.0.0.0/16", "InvalidVpc.Range"),
            ("169.254.0.0/16", "InvalidVpc.Range"),
            ("10.0.0/16", "InvalidParameterValue"),
            ("fd00::/56", "InvalidParameterValue"),
        ],
    )
    def test_bad_block(self, ec2, cidr, code):
        assert refusal(ec2.create_vpc, CidrBlock=cidr)[0] == code
        assert len(ec2.describe_vpcs()["Vpcs"]) == 1

    def test_what_is_not_there_is_refused_by_name(self, ec2):
        for name, value in [("Ipv4IpamPoolId", "ipam-pool-0123456789abcdef0"), ("Ipv6Pool", "p"), ("Ipv6IpamPoolId", "x")]:
            code, message, _ = refusal(ec2.create_vpc, CidrBlock="10.0.0.0/16", **{name: value})
            assert code == "UnsupportedOperation" and name in message
        code, _, _ = refusal(ec2.create_carrier_gateway, VpcId=GHOSTS["vpc"])
        assert code == "UnsupportedOperation"

    def test_quota(self, ec2):
        for number in range(4):
            ec2.create_vpc(CidrBlock=f"10.{number}.0.0/16")
        code, message, _ = refusal(ec2.create_vpc, CidrBlock="10.9.0.0/16")
        assert (code, message) == ("VpcLimitExceeded", "The maximum number of VPCs has been reached.")

    def test_overlapping_vpcs(self, ec2):
        ids = {ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"] for _ in range(2)}
        found = ec2.describe_vpcs(Filters=filtered(cidr=["10.0.0.0/16"]))["Vpcs"]
        assert {v["VpcId"] for v in found} == ids

    def test_filters(self, ec2, vpc):
        made = ec2.associate_vpc_cidr_block(VpcId=vpc, CidrBlock="100.64.0.0/16")["CidrBlockAssociation"]
        ipv6 = ec2.associate_vpc_cidr_block(VpcId=vpc, AmazonProvidedIpv6CidrBlock=True)["Ipv6CidrBlockAssociation"]
        options = ec2.create_dhcp_options(DhcpConfigurations=[{"Key": "domain-name", "Values": ["a.example"]}])
        options = options["DhcpOptions"]["DhcpOptionsId"]
        ec2.associate_dhcp_options(DhcpOptionsId=options, VpcId=vpc)
        ec2.create_tags(Resources=[vpc], Tags=[{"Key": "Name", "Value": "net"}])
        for name, value in [
            ("cidr", "10.0.0.0/16"),
            ("cidr-block-association.cidr-block", "100.64.0.0/16"),
            ("cidr-block-association.association-id", made["AssociationId"]),
            ("dhcp-options-id", options),
            ("ipv6-cidr-block-association.ipv6-cidr-block", ipv6["Ipv6CidrBlock"]),
            ("ipv6-cidr-block-association.association-id", ipv6["AssociationId"]),
            ("ipv6-cidr-block-association.ipv6-pool", "Amazon"),
            ("ipv6-cidr-block-association.state", "associated"),
            ("is-default", "false"),
            ("tag:Name", "net"),
            ("tag-key", "Name"),
            ("vpc-id", vpc),
        ]:
            found = ec2.describe_vpcs(Filters=[{"Name": name, "Values": [value]}])["Vpcs"]
            assert [v["VpcId"] for v in found] == [vpc], name
        for name, value in [("owner-id", "123456789012"), ("state", "available"), ("cidr-block-association.state", "associated")]:
            assert len(ec2.describe_vpcs(Filters=[{"Name": name, "Values": [value]}])["Vpcs"]) == 2, name
        assert refusal(ec2.describe_vpcs, Filters=filtered(colour=["red"]))[0] == "InvalidParameterValue"

    def test_unknown_ids(self, ec2):
        ghost = GHOSTS["vpc"]
        for call, arguments in [
            (ec2.delete_vpc, {}),
            (ec2.describe_vpc_attribute, {"Attribute": "enableDnsSupport"}),
            (ec2.modify_vpc_attribute, {"EnableDnsSupport": {"Value": True}}),
            (ec2.modify_vpc_tenancy, {"InstanceTenancy": "default"}),
            (ec2.associate_vpc_cidr_block, {"CidrBlock": "10.0.0.0/16"}),
            (ec2.create_subnet, {"CidrBlock": "10.0.0.0/24"}),
        ]:
            assert refusal(call, VpcId=ghost, **arguments)[0] == "InvalidVpcID.NotFound"
            assert refusal(call, VpcId="vpc-x", **arguments)[0] == "InvalidVpcID.Malformed"
        two = [ghost, "vpc-0123456789abcdef1"]
        assert refusal(ec2.describe_vpcs, VpcIds=two)[1] == f"The vpc IDs '{', '.join(two)}' do not exist"


class TestDelete:
    def violated(self, ec2, vpc):
        code, message, status = refusal(ec2.delete_vpc, VpcId=vpc)
        assert (code, status) == ("DependencyViolation", 400)
        assert message == f"The vpc '{vpc}' has dependencies and cannot be deleted."

    def test_subnet(self, ec2, vpc, subnet):
        self.violated(ec2, vpc)
        ec2.delete_subnet(SubnetId=subnet)
        ec2.delete_vpc(VpcId=vpc)

    def test_security_group(self, ec2, vpc):
        group = ec2.create_security_group(GroupName="web", Description="web", VpcId=vpc)["GroupId"]
        self.violated(ec2, vpc)
        ec2.delete_security_group(GroupId=group)
        ec2.delete_vpc(VpcId=vpc)

    def test_network_acl(self, ec2, vpc):
        acl = ec2.create_network_acl(VpcId=vpc)["NetworkAcl"]["NetworkAclId"]
        self.violated(ec2, vpc)
        ec2.delete_network_acl(NetworkAclId=acl)
        ec2.delete_vpc(VpcId=vpc)

    def test_route_table(self, ec2, vpc):
        table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
        self.violated(ec2, vpc)
        ec2.delete_route_table(RouteTableId=table)
        ec2.delete_vpc(VpcId=vpc)

    def test_internet_gateway(self, ec2, vpc):
        gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
        self.violated(ec2, vpc)
        ec2.detach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
        ec2.delete_vpc(VpcId=vpc)

    def test_egress_only_internet_gateway(self, ec2, vpc):
        made = ec2.create_egress_only_internet_gateway(VpcId=vpc)["EgressOnlyInternetGateway"]
        self.violated(ec2, vpc)
        ec2.delete_egress_only_internet_gateway(EgressOnlyInternetGatewayId=made["EgressOnlyInternetGatewayId"])
        ec2.delete_vpc(VpcId=vpc)

    def test_peering(self, ec2, vpc):
        other = ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
        peering = ec2.create_vpc_peering_connection(VpcId=vpc, PeerVpcId=other)["VpcPeeringConnection"]
        waiter(ec2, "vpc_peering_connection_exists", VpcPeeringConnectionIds=[peering["VpcPeeringConnectionId"]])
        self.violated(ec2, vpc)
        self.violated(ec2, other)

    def test_gateway_endpoint(self, ec2, vpc):
        service = f"com.amazonaws.{ec2.meta.region_name}.s3"
        ec2.create_vpc_endpoint(VpcId=vpc, ServiceName=service)
        self.violated(ec2, vpc)

    def test_default_group_table_and_acl_cannot_go_alone(self, ec2, vpc):
        (group,) = ec2.describe_security_groups(Filters=filtered(vpc_id=[vpc]))["SecurityGroups"]
        assert refusal(ec2.delete_security_group, GroupId=group["GroupId"])[0] == "CannotDelete"
        (acl,) = ec2.describe_network_acls(Filters=filtered(vpc_id=[vpc]))["NetworkAcls"]
        assert refusal(ec2.delete_network_acl, NetworkAclId=acl["NetworkAclId"])[0] == "InvalidParameterValue"


class TestBlocks:
    def test_added_and_removed(self, ec2, vpc):
        answer = ec2.associate_vpc_cidr_block(VpcId=vpc, CidrBlock="10.2.0.0/16")
        made = answer["CidrBlockAssociation"]
        assert (answer["VpcId"], made["CidrBlockState"]["State"]) == (vpc, "associating")
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.2.1.0/24")["Subnet"]["SubnetId"]
        code, message, _ = refusal(ec2.disassociate_vpc_cidr_block, AssociationId=made["AssociationId"])
        assert code == "InvalidCidrBlock.InUse"
        assert message == f"The vpc {vpc} currently has a subnet within CIDR block 10.2.0.0/16"
        ec2.delete_subnet(SubnetId=subnet)
        gone = ec2.disassociate_vpc_cidr_block(AssociationId=made["AssociationId"])["CidrBlockAssociation"]
        assert gone["CidrBlockState"]["State"] == "disassociating"
        assert len(the_vpc(ec2, vpc)["CidrBlockAssociationSet"]) == 1
        code, _, _ = refusal(ec2.create_subnet, VpcId=vpc, CidrBlock="10.2.1.0/24")
        assert code == "InvalidSubnet.Range"
        code, message, _ = refusal(ec2.disassociate_vpc_cidr_block, AssociationId=made["AssociationId"])
        assert code == "InvalidVpcCidrBlockAssociationID.NotFound" and made["AssociationId"] in message

    @pytest.mark.parametrize(
        "cidr, text",
        [
            ("10.0.1.0/24", "conflicts"),
            ("10.0.0.0/16", "conflicts"),
            ("172.16.0.0/16", "is restricted"),
            ("192.168.0.0/16", "is restricted"),
            ("198.19.0.0/16", "is restricted"),
            ("10.2.0.0/15", "is invalid"),
        ],
    )
    def test_refused(self, ec2, vpc, cidr, text):
        code, message, _ = refusal(ec2.associate_vpc_cidr_block, VpcId=vpc, CidrBlock=cidr)
        assert code == "InvalidVpc.Range" and text in message and f"'{cidr}'" in message
        assert len(the_vpc(ec2, vpc)["CidrBlockAssociationSet"]) == 1

    def test_route_in_the_way(self, ec2, vpc):
        gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
        (table,) = ec2.describe_route_tables(Filters=filtered(vpc_id=[vpc]))["RouteTables"]
        ec2.create_route(RouteTableId=table["RouteTableId"], DestinationCidrBlock="10.5.1.0/24", GatewayId=gateway)
        assert refusal(ec2.associate_vpc_cidr_block, VpcId=vpc, CidrBlock="10.5.0.0/16")[0] == "InvalidVpc.Range"
        ec2.associate_vpc_cidr_block(VpcId=vpc, CidrBlock="10.5.1.0/25")

    def test_limit_and_primary(self, ec2, vpc):
        for number in range(2, 6):
            ec2.associate_vpc_cidr_block(VpcId=vpc, CidrBlock=f"10.{number}.0.0/16")
        code, message, _ = refusal(ec2.associate_vpc_cidr_block, VpcId=vpc, CidrBlock="10.6.0.0/16")
        assert code == "CidrLimitExceeded"
        assert message == f"This network '{vpc}' has met its maximum number of allowed CIDRs: 5"
        primary = the_vpc(ec2, vpc)["CidrBlockAssociationSet"][0]["AssociationId"]
        assert refusal(ec2.disassociate_vpc_cidr_block, AssociationId=primary)[0] == "OperationNotPermitted"

    def test_ipv6(self, ec2):
        made = ec2.create_vpc(CidrBlock="10.0.0.0/16", AmazonProvidedIpv6CidrBlock=True)["Vpc"]
        vpc = made["VpcId"]
        (block,) = the_vpc(ec2, vpc)["Ipv6CidrBlockAssociationSet"]
        assert block["Ipv6CidrBlockState"]["State"] == "associated"
        assert (block["Ipv6Pool"], block["NetworkBorderGroup"]) == ("Amazon", ec2.meta.region_name)
        cidr = block["Ipv6CidrBlock"]
        assert re.fullmatch("fd[0-9a-f:]+::/56", cidr)
        (acl,) = ec2.describe_network_acls(Filters=filtered(vpc_id=[vpc]))["NetworkAcls"]
        assert sorted(e["RuleNumber"] for e in acl["Entries"] if e["Egress"]) == [100, 101, 32767, 32768]
        inside = cidr.replace("::/56", "::/64")
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24", Ipv6CidrBlock=inside)["Subnet"]
        (of_subnet,) = the_subnet(ec2, subnet["SubnetId"])["Ipv6CidrBlockAssociationSet"]
        assert (of_subnet["Ipv6CidrBlock"], of_subnet["Ipv6CidrBlockState"]["State"]) == (inside, "associated")
        code, _, _ = refusal(ec2.disassociate_vpc_cidr_block, AssociationId=block["AssociationId"])
        assert code == "InvalidCidrBlock.InUse"
        code, _, _ = refusal(ec2.create_subnet, VpcId=vpc, CidrBlock="10.0.1.0/24", Ipv6CidrBlock=inside)
        assert code == "InvalidSubnet.Conflict"
        code, _, _ = refusal(ec2.create_subnet, VpcId=vpc, CidrBlock="10.0.1.0/24", Ipv6CidrBlock="fd00:1::/64")
        assert code == "InvalidSubnet.Range"
        ec2.disassociate_subnet_cidr_block(AssociationId=of_subnet["AssociationId"])
        ec2.disassociate_vpc_cidr_block(AssociationId=block["AssociationId"])
        assert not the_vpc(ec2, vpc).get("Ipv6CidrBlockAssociationSet")


class TestAttributes:
    def test_dns(self, ec2, vpc):
        names = ("enableDnsSupport", "enableDnsHostnames", "enableNetworkAddressUsageMetrics")
        assert [attribute(ec2, vpc, name) for name in names] == [True, False, False]
        ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})
        ec2.modify_vpc_attribute(VpcId=vpc, EnableNetworkAddressUsageMetrics={"Value": True})
        assert [attribute(ec2, vpc, name) for name in names] == [True, True, True]
        ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": False})
        ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsSupport={"Value": False})
        on = {"EnableDnsHostnames": {"Value": True}}
        assert refusal(ec2.modify_vpc_attribute, VpcId=vpc, **on)[0] == "InvalidParameterCombination"
        both = on | {"EnableDnsSupport": {"Value": True}}
        assert refusal(ec2.modify_vpc_attribute, VpcId=vpc, **both)[0] == "InvalidParameterCombination"
        assert [attribute(ec2, vpc, name) for name in names] == [False, False, True]

    def test_tenancy(self, ec2):
        assert refusal(ec2.create_vpc, CidrBlock="10.0.0.0/16", InstanceTenancy="dedicated")[0] == "UnsupportedOperation"
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16", InstanceTenancy="default")["Vpc"]["VpcId"]
        assert ec2.modify_vpc_tenancy(VpcId=vpc, InstanceTenancy="default")["ReturnValue"] is True
        assert the_vpc(ec2, vpc)["InstanceTenancy"] == "default"
        assert refusal(ec2.create_vpc, CidrBlock="10.0.0.0/16", InstanceTenancy="host")[0] == "InvalidParameterValue"


class TestDefaults:
    def test_default_vpc_made_anew(self, ec2, image_id):
        code, message, _ = refusal(ec2.create_default_vpc)
        assert code == "DefaultVpcAlreadyExists"
        assert message == "A Default VPC already exists for this account in this region."
        (old,) = ec2.describe_vpcs()["Vpcs"]
        for subnet in ec2.describe_subnets()["Subnets"]:
            ec2.delete_subnet(SubnetId=subnet["SubnetId"])
        (gateway,) = ec2.describe_internet_gateways()["InternetGateways"]
        ec2.detach_internet_gateway(InternetGatewayId=gateway["InternetGatewayId"], VpcId=old["VpcId"])
        ec2.delete_internet_gateway(InternetGatewayId=gateway["InternetGatewayId"])
        ec2.delete_vpc(VpcId=old["VpcId"])
        assert ec2.describe_vpcs()["Vpcs"] == []
        zone = ec2.describe_availability_zones()["AvailabilityZones"][0]["ZoneName"]
        assert refusal(ec2.create_default_subnet, AvailabilityZone=zone)[0] == "DefaultVpcDoesNotExist"
        assert refusal(launch, ec2=ec2, image_id=image_id)[0] == "VPCIdNotSpecified"
        made = ec2.create_default_vpc()["Vpc"]
        assert (made["IsDefault"], made["CidrBlock"]) == (True, "172.31.0.0/16")
        assert attribute(ec2, made["VpcId"], "enableDnsHostnames") is True
        zones = {s["AvailabilityZone"] for s in ec2.describe_subnets()["Subnets"]}
        assert len(zones) == len(ec2.describe_availability_zones()["AvailabilityZones"])
        (table,) = ec2.describe_route_tables()["RouteTables"]
        assert {r["DestinationCidrBlock"] for r in table["Routes"]} == {"172.31.0.0/16", "0.0.0.0/0"}
        assert launch(ec2, image_id)["VpcId"] == made["VpcId"]

    def test_default_subnet_made_anew(self, ec2):
        first = ec2.describe_subnets()["Subnets"][0]
        zone = first["AvailabilityZone"]
        code, message, _ = refusal(ec2.create_default_subnet, AvailabilityZone=zone)
        assert code == "DefaultSubnetAlreadyExistsInAvailabilityZone"
        assert message == f"'{first['SubnetId']}' is already the default subnet in {zone}."
        ec2.delete_subnet(SubnetId=first["SubnetId"])
        made = ec2.create_default_subnet(AvailabilityZone=zone)["Subnet"]
        assert made["SubnetId"] != first["SubnetId"]
        assert (made["CidrBlock"], made["DefaultForAz"], made["MapPublicIpOnLaunch"]) == (first["CidrBlock"], True, True)
        assert refusal(ec2.create_default_subnet, AvailabilityZone="xx-none-1z")[0] == "InvalidParameterValue"


class TestSubnet:
    def test_made_and_deleted(self, ec2, vpc):
        zone = ec2.describe_availability_zones()["AvailabilityZones"][1]
        tags = [{"ResourceType": "subnet", "Tags": [{"Key": "Name", "Value": "web"}]}]
        made = ec2.create_subnet(
            VpcId=vpc, CidrBlock="10.0.3.7/24", AvailabilityZoneId=zone["ZoneId"], TagSpecifications=tags
        )["Subnet"]
        subnet = made["SubnetId"]
        assert re.fullmatch("subnet-[0-9a-f]{17}", subnet)
        shown = the_subnet(ec2, subnet)
        assert (shown["CidrBlock"], shown["AvailableIpAddressCount"], shown["State"]) == ("10.0.3.0/24", 251, "available")
        assert (shown["AvailabilityZone"], shown["AvailabilityZoneId"]) == (zone["ZoneName"], zone["ZoneId"])
        assert (shown["MapPublicIpOnLaunch"], shown["DefaultForAz"], shown["Ipv6Native"]) == (False, False, False)
        assert shown["SubnetArn"] == f"arn:aws:ec2:{ec2.meta.region_name}:123456789012:subnet/{subnet}"
        assert shown["Tags"] == [{"Key": "Name", "Value": "web"}]
        ec2.delete_subnet(SubnetId=subnet)
        code, message, _ = refusal(ec2.delete_subnet, SubnetId=subnet)
        assert (code, message) == ("InvalidSubnetID.NotFound", f"The subnet ID '{subnet}' does not exist")
        assert refusal(ec2.delete_subnet, SubnetId="subnet-x")[0] == "InvalidSubnetID.Malformed"

    @pytest.mark.parametrize(
        "arguments, code",
        [
            ({"CidrBlock": "10.0.0.128/25"}, "InvalidSubnet.Conflict"),
            ({"CidrBlock": "10.0.0.0/16"}, "InvalidSubnet.Conflict"),
            ({"CidrBlock": "10.1.0.0/24"}, "InvalidSubnet.Range"),
            ({"CidrBlock": "10.0.1.0/29"}, "InvalidSubnet.Range"),
            ({"CidrBlock": "10.0.1"}, "InvalidParameterValue"),
            ({}, "MissingParameter"),
            ({"CidrBlock": "10.0.1.0/24", "AvailabilityZone": "xx-none-1z"}, "InvalidParameterValue"),
            ({"CidrBlock": "10.0.1.0/24", "AvailabilityZoneId": "none-az1"}, "InvalidParameterValue"),
            ({"CidrBlock": "10.0.1.0/24", "Ipv6Native": True}, "UnsupportedOperation"),
            ({"CidrBlock": "10.0.1.0/24", "OutpostArn": "arn:aws:outposts:x:1:outpost/op-1"}, "UnsupportedOperation"),
        ],
    )
    def test_refused(self, ec2, vpc, subnet, arguments, code):
        assert refusal(ec2.create_subnet, VpcId=vpc, **arguments)[0] == code
        assert len(ec2.describe_subnets(Filters=filtered(vpc_id=[vpc]))["Subnets"]) == 1

    def test_kept_by_an_instance(self, ec2, vpc, subnet, image_id):
        before = the_subnet(ec2, subnet)["AvailableIpAddressCount"]
        made = launch(ec2, image_id, SubnetId=subnet)
        assert made["VpcId"] == vpc and made["PrivateIpAddress"].startswith("10.0.0.")
        assert "PublicIpAddress" not in made
        assert the_subnet(ec2, subnet)["AvailableIpAddressCount"] == before - 1
        code, message, _ = refusal(ec2.delete_subnet, SubnetId=subnet)
        assert code == "DependencyViolation"
        assert message == f"The subnet '{subnet}' has dependencies and cannot be deleted."
        ec2.terminate_instances(InstanceIds=[made["InstanceId"]])
        waiter(ec2, "instance_terminated", InstanceIds=[made["InstanceId"]])
        ec2.delete_subnet(SubnetId=subnet)
        ec2.delete_vpc(VpcId=vpc)

    def test_attributes(self, ec2, subnet):
        ec2.modify_subnet_attribute(SubnetId=subnet, MapPublicIpOnLaunch={"Value": True})
        ec2.modify_subnet_attribute(SubnetId=subnet, PrivateDnsHostnameTypeOnLaunch="resource-name")
        ec2.modify_subnet_attribute(SubnetId=subnet, EnableResourceNameDnsARecordOnLaunch={"Value": True})
        shown = the_subnet(ec2, subnet)
        assert shown["MapPublicIpOnLaunch"] is True
        assert shown["PrivateDnsNameOptionsOnLaunch"] == {
            "HostnameType": "resource-name",
            "EnableResourceNameDnsARecord": True,
            "EnableResourceNameDnsAAAARecord": False,
        }
        for arguments, code in [
            ({"AssignIpv6AddressOnCreation": {"Value": True}}, "InvalidParameterValue"),
            ({"EnableDns64": {"Value": True}}, "UnsupportedOperation"),
            ({}, "InvalidParameterCombination"),
            ({"PrivateDnsHostnameTypeOnLaunch": "x"}, "InvalidParameterValue"),
        ]:
            assert refusal(ec2.modify_subnet_attribute, SubnetId=subnet, **arguments)[0] == code, arguments
        assert the_subnet(ec2, subnet) == shown

    def test_public_address_on_launch(self, ec2, subnet, image_id):
        ec2.modify_subnet_attribute(SubnetId=subnet, MapPublicIpOnLaunch={"Value": True})
        made = launch(ec2, image_id, SubnetId=subnet)
        (reservation,) = ec2.describe_instances(InstanceIds=[made["InstanceId"]])["Reservations"]
        assert reservation["Instances"][0]["PublicIpAddress"]

    def test_reservations(self, ec2, subnet):
        def reserve(cidr, kind):
            arguments = {"SubnetId": subnet, "Cidr": cidr, "ReservationType": kind, "Description": "kept"}
            return ec2.create_subnet_cidr_reservation(**arguments)["SubnetCidrReservation"]

        explicit = reserve("10.0.0.64/26", "explicit")
        assert re.fullmatch("scr-[0-9a-f]{17}", explicit["SubnetCidrReservationId"])
        assert the_subnet(ec2, subnet)["AvailableIpAddressCount"] == 251 - 64
        reserve("10.0.0.128/28", "prefix")
        found = ec2.get_subnet_cidr_reservations(SubnetId=subnet)["SubnetIpv4CidrReservations"]
        assert {r["ReservationType"] for r in found} == {"explicit", "prefix"}
        for cidr, code in [
            ("10.0.0.96/28", "InvalidCidr.InUse"),
            ("10.0.1.0/28", "InvalidCidr.NotWithinSubnetCidr"),
            ("x", "InvalidParameterValue"),
        ]:
            arguments = {"SubnetId": subnet, "Cidr": cidr, "ReservationType": "prefix"}
            assert refusal(ec2.create_subnet_cidr_reservation, **arguments)[0] == code
        name = explicit["SubnetCidrReservationId"]
        ec2.create_tags(Resources=[name], Tags=[{"Key": "Name", "Value": "kept"}])
        (tag,) = ec2.describe_tags(Filters=filtered(resource_id=[name]))["Tags"]
        assert (tag["Value"], tag["ResourceType"]) == ("kept", "subnet-cidr-reservation")
        (tagged,) = ec2.get_subnet_cidr_reservations(SubnetId=subnet, Filters=[{"Name": "tag:Name", "Values": ["kept"]}])[
            "SubnetIpv4CidrReservations"
        ]
        assert tagged["SubnetCidrReservationId"] == name
        gone = ec2.delete_subnet_cidr_reservation(SubnetCidrReservationId=name)["DeletedSubnetCidrReservation"]
        assert gone["Cidr"] == "10.0.0.64/26"
        code, _, _ = refusal(ec2.delete_subnet_cidr_reservation, SubnetCidrReservationId=name)
        assert code == "InvalidSubnetCidrReservationID.NotFound"

    def test_reserved_addresses_are_not_chosen(self, ec2, vpc, image_id):
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.9.0/28")["Subnet"]["SubnetId"]
        ec2.create_subnet_cidr_reservation(SubnetId=subnet, Cidr="10.0.9.8/29", ReservationType="explicit")
        assert the_subnet(ec2, subnet)["AvailableIpAddressCount"] == 4
        chosen = {launch(ec2, image_id, SubnetId=subnet)["PrivateIpAddress"] for _ in range(4)}
        assert chosen == {f"10.0.9.{n}" for n in range(4, 8)}
        code, _, _ = refusal(launch, ec2=ec2, image_id=image_id, SubnetId=subnet)
        assert code == "InsufficientFreeAddressesInSubnet"
        asked = launch(ec2, image_id, SubnetId=subnet, PrivateIpAddress="10.0.9.9")
        assert asked["PrivateIpAddress"] == "10.0.9.9", "who asks for it gets it"


def option(key, *values):
    return {"Key": key, "Values": list(values)}


class TestDhcpOptions:
    def test_made_used_and_deleted(self, ec2, vpc):
        given = [
            option("domain-name", "corp.example"),
            option("domain-name-servers", "10.0.0.10,10.0.0.11", "AmazonProvidedDNS"),
            option("ntp-servers", "10.0.0.12", "fd00::12"),
            option("netbios-name-servers", "10.0.0.13"),
            option("netbios-node-type", "2"),
            option("ipv6-address-preferred-lease-time", "1000"),
        ]
        tags = [{"ResourceType": "dhcp-options", "Tags": [{"Key": "Name", "Value": "corp"}]}]
        made = ec2.create_dhcp_options(DhcpConfigurations=given, TagSpecifications=tags)["DhcpOptions"]
        name = made["DhcpOptionsId"]
        assert re.fullmatch("dopt-[0-9a-f]{17}", name)
        for key, value in [("key", "netbios-node-type"), ("value", "10.0.0.11"), ("tag:Name", "corp"), ("dhcp-options-id", name)]:
            (found,) = ec2.describe_dhcp_options(Filters=[{"Name": key, "Values": [value]}])["DhcpOptions"]
            assert found == made, key
        ec2.associate_dhcp_options(DhcpOptionsId=name, VpcId=vpc)
        assert the_vpc(ec2, vpc)["DhcpOptionsId"] == name
        code, message, _ = refusal(ec2.delete_dhcp_options, DhcpOptionsId=name)
        assert (code, message) == ("DependencyViolation", f"The dhcpOptions '{name}' has dependencies and cannot be deleted.")
        ec2.associate_dhcp_options(DhcpOptionsId="default", VpcId=vpc)
        assert the_vpc(ec2, vpc)["DhcpOptionsId"] == "default"
        ec2.delete_dhcp_options(DhcpOptionsId=name)
        for call, arguments in [
            (ec2.delete_dhcp_options, {"DhcpOptionsId": name}),
            (ec2.associate_dhcp_options, {"DhcpOptionsId": name, "VpcId": vpc}),
            (ec2.describe_dhcp_options, {"DhcpOptionsIds": [name]}),
        ]:
            code, message, _ = refusal(call, **arguments)
            assert (code, message) == ("InvalidDhcpOptionID.NotFound", f"The dhcpOption ID '{name}' does not exist")
        assert refusal(ec2.delete_dhcp_options, DhcpOptionsId="x")[0] == "InvalidDhcpOptionsId.Malformed"
        code, _, _ = refusal(ec2.associate_dhcp_options, DhcpOptionsId="default", VpcId=GHOSTS["vpc"])
        assert code == "InvalidVpcID.NotFound"

    @pytest.mark.parametrize(
        "given",
        [
            option("domain-name", "..x"),
            option("domain-name-servers", "x"),
            option("domain-name-servers", "10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4,10.0.0.5"),
            option("ntp-servers", "AmazonProvidedDNS"),
            option("netbios-name-servers", "fd00::1"),
            option("netbios-node-type", "3"),
            option("ipv6-address-preferred-lease-time", "100"),
            option("routers", "10.0.0.1"),
        ],
    )
    def test_refused(self, ec2, given):
        assert refusal(ec2.create_dhcp_options, DhcpConfigurations=[given])[0] == "InvalidParameterValue"
        assert len(ec2.describe_dhcp_options()["DhcpOptions"]) == 1
