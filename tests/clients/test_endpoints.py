"""VPC endpoints by routes and by interfaces."""

import re

import pytest
from asking import filtered, refusal
from support import wait_for

GHOST = "vpce-0123456789abcdef0"
FULL = '{"Statement":[{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*"}]}'


@pytest.fixture
def vpc(ec2):
    return ec2.describe_vpcs()["Vpcs"][0]["VpcId"]


@pytest.fixture
def table(ec2, vpc):
    (table,) = ec2.describe_route_tables(Filters=filtered(vpc_id=vpc))["RouteTables"]
    return table["RouteTableId"]


@pytest.fixture
def subnets(ec2):
    return [subnet["SubnetId"] for subnet in ec2.describe_subnets()["Subnets"]]


@pytest.fixture
def s3(region):
    return f"com.amazonaws.{region}.s3"


@pytest.fixture
def own(region):
    return f"com.amazonaws.{region}.ec2"


def shown(ec2, name):
    (endpoint,) = ec2.describe_vpc_endpoints(VpcEndpointIds=[name])["VpcEndpoints"]
    return endpoint


def until(ec2, state, name):
    return wait_for(lambda: shown(ec2, name) if shown(ec2, name)["State"] == state else None, f"{name} to be {state}")


def routes(ec2, table):
    (found,) = ec2.describe_route_tables(RouteTableIds=[table])["RouteTables"]
    return {r.get("DestinationPrefixListId"): r.get("GatewayId") for r in found["Routes"] if "DestinationPrefixListId" in r}


class TestGateway:
    def test_routes_come_and_go_with_it(self, ec2, vpc, table, s3):
        endpoint = ec2.create_vpc_endpoint(VpcId=vpc, ServiceName=s3, RouteTableIds=[table])["VpcEndpoint"]
        name = endpoint["VpcEndpointId"]
        assert re.fullmatch("vpce-[0-9a-f]{17}", name)
        assert (endpoint["VpcEndpointType"], endpoint["State"], endpoint["ServiceName"]) == ("Gateway", "available", s3)
        assert endpoint["RouteTableIds"] == [table] and '"Allow"' in endpoint["PolicyDocument"]
        (prefix_list,) = ec2.describe_prefix_lists(Filters=filtered(prefix_list_name=s3))["PrefixLists"]
        assert routes(ec2, table) == {prefix_list["PrefixListId"]: name}
        code, message, status = refusal(ec2.create_vpc_endpoint, VpcId=vpc, ServiceName=s3, RouteTableIds=[table])
        assert (code, status) == ("RouteAlreadyExists", 400)
        assert message == f"route table {table} already has a route with destination-prefix-list-id {prefix_list['PrefixListId']}"
        other = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
        ec2.modify_vpc_endpoint(VpcEndpointId=name, AddRouteTableIds=[other], RemoveRouteTableIds=[table])
        assert routes(ec2, table) == {} and len(routes(ec2, other)) == 1
        assert shown(ec2, name)["RouteTableIds"] == [other]
        ec2.delete_route_table(RouteTableId=other)
        assert shown(ec2, name)["RouteTableIds"] == []
        assert ec2.delete_vpc_endpoints(VpcEndpointIds=[name])["Unsuccessful"] == []
        wait_for(lambda: not ec2.describe_vpc_endpoints()["VpcEndpoints"], "the endpoint to be gone")

    def test_policy(self, ec2, vpc, s3):
        name = ec2.create_vpc_endpoint(VpcId=vpc, ServiceName=s3, PolicyDocument=FULL)["VpcEndpoint"]["VpcEndpointId"]
        assert shown(ec2, name)["PolicyDocument"] == FULL
        narrow = FULL.replace('"Action":"*"', '"Action":"s3:GetObject"')
        code, message, _ = refusal(ec2.modify_vpc_endpoint, VpcEndpointId=name, PolicyDocument=narrow)
        assert code == "UnsupportedOperation" and "PolicyDocument" in message
        ec2.modify_vpc_endpoint(VpcEndpointId=name, ResetPolicy=True)
        assert '"Allow"' in shown(ec2, name)["PolicyDocument"]
        assert refusal(ec2.modify_vpc_endpoint, VpcEndpointId=name, PolicyDocument="{")[0] == "InvalidPolicyDocument"

    def test_no_table(self, ec2, vpc, s3):
        ghost = "rtb-0123456789abcdef0"
        code, message, _ = refusal(ec2.create_vpc_endpoint, VpcId=vpc, ServiceName=s3, RouteTableIds=[ghost])
        assert (code, message) == ("InvalidRouteTableId.NotFound", f"The routeTable ID '{ghost}' does not exist")
        assert ec2.describe_vpc_endpoints()["VpcEndpoints"] == []

    def test_table_of_another_vpc(self, ec2, vpc, s3):
        other = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        (table,) = ec2.describe_route_tables(Filters=filtered(vpc_id=other))["RouteTables"]
        assert refusal(ec2.create_vpc_endpoint, VpcId=vpc, ServiceName=s3, RouteTableIds=[table["RouteTableId"]])[0] == "InvalidParameter"


class TestInterface:
    @pytest.fixture
    def endpoint(self, ec2, vpc, subnets, own):
        made = ec2.create_vpc_endpoint(VpcId=vpc, ServiceName=own, VpcEndpointType="Interface", SubnetIds=subnets[:2])["VpcEndpoint"]
        return until(ec2, "available", made["VpcEndpointId"])

    def test_an_interface_a_subnet(self, ec2, region, subnets, endpoint):
        name = endpoint["VpcEndpointId"]
        assert endpoint["SubnetIds"] == subnets[:2] and len(endpoint["NetworkInterfaceIds"]) == 2
        assert [group["GroupName"] for group in endpoint["Groups"]] == ["default"]
        interfaces = ec2.describe_network_interfaces(NetworkInterfaceIds=endpoint["NetworkInterfaceIds"])["NetworkInterfaces"]
        assert {i["InterfaceType"] for i in interfaces} == {"vpc_endpoint"}
        assert all(i["RequesterManaged"] and i["Description"] == f"VPC Endpoint Interface {name}" for i in interfaces)
        names = [entry["DnsName"] for entry in endpoint["DnsEntries"]]
        assert names[0].startswith(name) and names[0].endswith(f".ec2.{region}.vpce.amazonaws.com")
        assert names[-1] == f"ec2.{region}.amazonaws.com" and len(names) == 4
        code, message, _ = refusal(ec2.delete_security_group, GroupId=endpoint["Groups"][0]["GroupId"])
        assert code == "CannotDelete", message

    def test_changed_and_deleted(self, ec2, vpc, subnets, endpoint):
        name = endpoint["VpcEndpointId"]
        group = ec2.create_security_group(GroupName="endpoint", Description="x", VpcId=vpc)["GroupId"]
        default = endpoint["Groups"][0]["GroupId"]
        ec2.modify_vpc_endpoint(
            VpcEndpointId=name,
            AddSubnetIds=[subnets[2]],
            RemoveSubnetIds=[subnets[0]],
            AddSecurityGroupIds=[group],
            RemoveSecurityGroupIds=[default],
            PrivateDnsEnabled=False,
        )
        changed = shown(ec2, name)
        assert changed["SubnetIds"] == subnets[1:3] and changed["PrivateDnsEnabled"] is False
        interfaces = ec2.describe_network_interfaces(NetworkInterfaceIds=changed["NetworkInterfaceIds"])["NetworkInterfaces"]
        assert [[g["GroupId"] for g in i["Groups"]] for i in interfaces] == [[group], [group]]
        assert refusal(ec2.delete_security_group, GroupId=group)[0] == "DependencyViolation"
        assert refusal(ec2.modify_vpc_endpoint, VpcEndpointId=name, RemoveSecurityGroupIds=[group])[0] == "InvalidParameter"
        ec2.delete_vpc_endpoints(VpcEndpointIds=[name])
        until(ec2, "deleted", name)
        assert ec2.describe_network_interfaces()["NetworkInterfaces"] == []
        ec2.delete_security_group(GroupId=group)

    def test_its_interfaces_belong_to_it(self, ec2, endpoint):
        interface = endpoint["NetworkInterfaceIds"][0]
        assert refusal(ec2.delete_network_interface, NetworkInterfaceId=interface)[0] in ("OperationNotPermitted", "InvalidParameterValue")

    def test_private_dns(self, ec2, vpc, subnets, own, region, endpoint):
        arguments = {"VpcId": vpc, "ServiceName": own, "VpcEndpointType": "Interface", "SubnetIds": subnets[:1]}
        code, message, _ = refusal(ec2.create_vpc_endpoint, **arguments)
        assert code == "InvalidParameter" and f"conflicting DNS domain for ec2.{region}.amazonaws.com" in message
        ec2.create_vpc_endpoint(**arguments, PrivateDnsEnabled=False)
        other = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        code, message, _ = refusal(ec2.create_vpc_endpoint, VpcId=other, ServiceName=own, VpcEndpointType="Interface")
        assert code == "InvalidParameter" and "requires both enableDnsSupport and enableDnsHostnames" in message

    def test_subnets(self, ec2, vpc, subnets, own):
        other = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        outside = ec2.create_subnet(VpcId=other, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
        zone = ec2.describe_subnets(SubnetIds=subnets[:1])["Subnets"][0]["AvailabilityZone"]
        block = ec2.describe_vpcs(VpcIds=[vpc])["Vpcs"][0]["CidrBlock"]
        assert block == "172.31.0.0/16"
        twin = ec2.create_subnet(VpcId=vpc, CidrBlock="172.31.128.0/24", AvailabilityZone=zone)["Subnet"]["SubnetId"]
        make = {"VpcId": vpc, "ServiceName": own, "VpcEndpointType": "Interface"}
        for ids, code in [
            ([outside], "InvalidParameter"),
            ([subnets[0], twin], "DuplicateSubnetsInSameZone"),
            (["subnet-0123456789abcdef0"], "InvalidSubnetID.NotFound"),
        ]:
            assert refusal(ec2.create_vpc_endpoint, **make, SubnetIds=ids)[0] == code
        assert ec2.describe_network_interfaces()["NetworkInterfaces"] == []

    def test_a_chosen_address(self, ec2, vpc, subnets, own):
        (subnet,) = ec2.describe_subnets(SubnetIds=subnets[:1])["Subnets"]
        address = subnet["CidrBlock"].split("/")[0].rsplit(".", 1)[0] + ".77"
        made = ec2.create_vpc_endpoint(
            VpcId=vpc,
            ServiceName=own,
            VpcEndpointType="Interface",
            SubnetIds=subnets[:1],
            SubnetConfigurations=[{"SubnetId": subnets[0], "Ipv4": address}],
        )["VpcEndpoint"]
        (interface,) = ec2.describe_network_interfaces(NetworkInterfaceIds=made["NetworkInterfaceIds"])["NetworkInterfaces"]
        assert interface["PrivateIpAddress"] == address


def test_services(ec2, region, s3, own):
    answer = ec2.describe_vpc_endpoint_services()
    assert {s3, own, f"com.amazonaws.{region}.sts"} <= set(answer["ServiceNames"])
    (detail,) = ec2.describe_vpc_endpoint_services(ServiceNames=[own])["ServiceDetails"]
    assert detail["ServiceType"] == [{"ServiceType": "Interface"}] and detail["PrivateDnsName"] == f"ec2.{region}.amazonaws.com"
    found = ec2.describe_vpc_endpoint_services(Filters=filtered(service_type="Gateway"))["ServiceNames"]
    assert found == [f"com.amazonaws.{region}.dynamodb", s3]
    assert refusal(ec2.describe_vpc_endpoint_services, ServiceNames=["com.x"])[0] == "InvalidServiceName"


def test_filters(ec2, vpc, s3, own):
    name = ec2.create_vpc_endpoint(VpcId=vpc, ServiceName=s3)["VpcEndpoint"]["VpcEndpointId"]
    ec2.create_vpc_endpoint(VpcId=vpc, ServiceName=own, VpcEndpointType="Interface", PrivateDnsEnabled=False)
    ec2.create_tags(Resources=[name], Tags=[{"Key": "Name", "Value": "s3"}])
    for filters in [
        filtered(service_name=s3),
        filtered(vpc_endpoint_type="Gateway"),
        filtered(vpc_endpoint_id=name),
        [{"Name": "tag:Name", "Values": ["s3"]}],
        filtered(vpc_id=vpc, vpc_endpoint_state="available", vpc_endpoint_type="G*"),
    ]:
        assert [e["VpcEndpointId"] for e in ec2.describe_vpc_endpoints(Filters=filters)["VpcEndpoints"]] == [name], filters


def test_refused(ec2, vpc, table, subnets, s3, own):
    make = ec2.create_vpc_endpoint
    group = ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
    for arguments, code in [
        ({"ServiceName": "com.amazonaws.nowhere.s3"}, "InvalidServiceName"),
        ({"ServiceName": own}, "InvalidParameter"),
        ({"ServiceName": s3, "VpcEndpointType": "Interface"}, "InvalidParameter"),
        ({"ServiceName": s3, "SubnetIds": subnets[:1]}, "InvalidParameter"),
        ({"ServiceName": s3, "SecurityGroupIds": [group]}, "InvalidParameter"),
        ({"ServiceName": s3, "PrivateDnsEnabled": True}, "InvalidParameter"),
        ({"ServiceName": own, "VpcEndpointType": "Interface", "RouteTableIds": [table]}, "InvalidParameter"),
        ({"ServiceName": own, "VpcEndpointType": "Interface", "SecurityGroupIds": ["sg-0123456789abcdef0"]}, "InvalidGroup.NotFound"),
        ({"ServiceName": own, "VpcEndpointType": "Interface", "IpAddressType": "dualstack"}, "UnsupportedOperation"),
        ({"ServiceName": own, "VpcEndpointType": "GatewayLoadBalancer"}, "UnsupportedOperation"),
    ]:
        assert refusal(make, VpcId=vpc, **arguments)[0] == code, arguments
    assert refusal(make, VpcId="vpc-0123456789abcdef0", ServiceName=s3)[0] == "InvalidVpcID.NotFound"
    code, message, _ = refusal(ec2.describe_vpc_endpoints, VpcEndpointIds=[GHOST])
    assert (code, message) == ("InvalidVpcEndpointId.NotFound", f"The Vpc Endpoint Id '{GHOST}' does not exist")
    assert refusal(ec2.modify_vpc_endpoint, VpcEndpointId=GHOST)[0] == "InvalidVpcEndpointId.NotFound"
    assert refusal(ec2.describe_vpc_endpoints, VpcEndpointIds=["x"])[0] == "InvalidVpcEndpointId.Malformed"
    (failed,) = ec2.delete_vpc_endpoints(VpcEndpointIds=[GHOST])["Unsuccessful"]
    assert failed["ResourceId"] == GHOST and failed["Error"]["Code"] == "InvalidVpcEndpointId.NotFound"


def test_a_vpc_with_an_endpoint_stays(ec2, region):
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    name = ec2.create_vpc_endpoint(VpcId=vpc, ServiceName=f"com.amazonaws.{region}.s3")["VpcEndpoint"]["VpcEndpointId"]
    assert refusal(ec2.delete_vpc, VpcId=vpc)[0] == "DependencyViolation"
    ec2.delete_vpc_endpoints(VpcEndpointIds=[name])
    wait_for(lambda: not ec2.describe_vpc_endpoints()["VpcEndpoints"], "the endpoint to be gone")
    ec2.delete_vpc(VpcId=vpc)


def test_a_client_token_makes_one(ec2, vpc, table, s3):
    arguments = {"VpcId": vpc, "ServiceName": s3, "RouteTableIds": [table], "ClientToken": "once"}
    first, second = (ec2.create_vpc_endpoint(**arguments)["VpcEndpoint"]["VpcEndpointId"] for _ in range(2))
    assert first == second and len(ec2.describe_vpc_endpoints()["VpcEndpoints"]) == 1
    assert refusal(ec2.create_vpc_endpoint, **(arguments | {"RouteTableIds": []}))[0] == "IdempotentParameterMismatch"
