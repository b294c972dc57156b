"""What the network itself serves, as a machine sees it: IPv6 addresses, names, the region's API inside the VPC, flow logs."""

import os
import re
import time

import boto3
import pytest
from conftest import REGION
from lesson import Machine, create_key, image, permission
from support import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="real machines need root")

API = f"ec2.{REGION}.amazonaws.com"


class Network:
    """A VPC with IPv6, an endpoint of the EC2 API and flow logs, and a machine in it."""

    def __init__(self, ec2, directory):
        self.ec2 = ec2
        key = create_key(ec2, directory, "services")
        made = ec2.create_vpc(CidrBlock="10.30.0.0/16", AmazonProvidedIpv6CidrBlock=True)["Vpc"]
        self.vpc = made["VpcId"]
        ec2.modify_vpc_attribute(VpcId=self.vpc, EnableDnsHostnames={"Value": True})
        gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=self.vpc)
        self.options = ec2.create_dhcp_options(
            DhcpConfigurations=[
                {"Key": "domain-name", "Values": ["example.internal"]},
                {"Key": "domain-name-servers", "Values": ["AmazonProvidedDNS"]},
            ]
        )["DhcpOptions"]["DhcpOptionsId"]
        ec2.associate_dhcp_options(DhcpOptionsId=self.options, VpcId=self.vpc)
        block = self.describe()["Ipv6CidrBlockAssociationSet"][0]["Ipv6CidrBlock"]
        subnet = ec2.create_subnet(VpcId=self.vpc, CidrBlock="10.30.0.0/24", Ipv6CidrBlock=block.replace("/56", "/64"))
        self.subnet = subnet["Subnet"]["SubnetId"]
        tables = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [self.vpc]}])["RouteTables"]
        ec2.create_route(RouteTableId=tables[0]["RouteTableId"], DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
        self.group = ec2.create_security_group(GroupName="services", Description="services", VpcId=self.vpc)["GroupId"]
        ec2.authorize_security_group_ingress(GroupId=self.group, IpPermissions=permission(22) + permission(80))
        interface = {"DeviceIndex": 0, "SubnetId": self.subnet, "Groups": [self.group], "AssociatePublicIpAddress": True, "Ipv6AddressCount": 1}
        launched = ec2.run_instances(
            ImageId=image(ec2, "gureum-micro-*"), InstanceType="t3.micro", MinCount=1, MaxCount=1,
            KeyName=key.stem, NetworkInterfaces=[interface],
        )["Instances"][0]
        self.machine = Machine(ec2, launched["InstanceId"], key)

    def describe(self):
        return self.ec2.describe_vpcs(VpcIds=[self.vpc])["Vpcs"][0]


@pytest.fixture(scope="module")
def network(ec2, tmp_path_factory):
    network = Network(ec2, tmp_path_factory.mktemp("services"))
    network.machine.wait_state("running")
    network.machine.ssh("true")
    return network


def test_dhcp_tells_what_the_options_say(network):
    assert "search example.internal\nnameserver 10.30.0.2" in network.machine.ssh("cat /etc/resolv.conf")


def test_a_machine_gets_its_ipv6_address(network):
    machine = network.machine
    interface = machine.describe()["NetworkInterfaces"][0]
    first = interface["Ipv6Addresses"][0]["Ipv6Address"]
    wait_for(lambda: f"inet6 {first}/128" in machine.ssh("ip -6 address show dev eth0"), first, 60, 0.5)
    assert "default via fe80::67:75ff:fe72:1" in machine.ssh("ip -6 route")
    # It reaches the resolver by it.
    assert machine.private in machine.ssh(f"busybox nslookup -type=a {machine.describe()['PrivateDnsName']} fd00:ec2::253")


def test_names(network):
    machine = network.machine
    instance = machine.describe()
    name = instance["PublicDnsName"]
    assert name.startswith("ec2-")
    assert machine.private in machine.ssh(f"busybox nslookup -type=a {name}"), "inside it is the private address"
    assert instance["PrivateDnsName"] in machine.ssh(f"busybox nslookup {machine.private}")


def get(machine, url):
    """What a machine gets from a service; busybox's wget asks no name server."""
    path = url.removeprefix(f"http://{API}")
    request = f"GET {path} HTTP/1.0\\r\\nHost: {API}\\r\\n\\r\\n"
    return machine.ssh(f"bash -c \"exec 3<>/dev/tcp/{API}/80 && printf '{request.replace('%', '%%')}' >&3 && cat <&3\"", check=False)


def test_the_regions_api_answers_inside(network, daemon):
    ec2, machine = network.ec2, network.machine
    endpoint = ec2.create_vpc_endpoint(
        VpcId=network.vpc, VpcEndpointType="Interface", ServiceName=f"com.amazonaws.{REGION}.ec2",
        SubnetIds=[network.subnet], SecurityGroupIds=[network.group], PrivateDnsEnabled=True,
    )["VpcEndpoint"]["VpcEndpointId"]

    def described():
        return ec2.describe_vpc_endpoints(VpcEndpointIds=[endpoint])["VpcEndpoints"][0]

    wait_for(lambda: described()["State"] == "available", "the endpoint", 60)
    eni = described()["NetworkInterfaceIds"][0]
    address = ec2.describe_network_interfaces(NetworkInterfaceIds=[eni])["NetworkInterfaces"][0]["PrivateIpAddress"]
    wait_for(lambda: address in machine.ssh(f"busybox nslookup -type=a {API}", check=False), "its name", 30, 0.5)
    environment = daemon.environment(REGION)
    inside = boto3.client(
        "ec2", region_name=REGION, endpoint_url=f"http://{API}",
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"], aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )
    signed = inside.generate_presigned_url("describe_vpcs", Params={"VpcIds": [network.vpc]}, HttpMethod="GET")
    answer = wait_for(lambda: get(machine, signed), "an answer", 30, 0.5)
    assert " 200 " in answer and f"<vpcId>{network.vpc}</vpcId>" in answer
    forged = re.sub("Signature=[^&]*", "Signature=" + "0" * 64, signed)
    assert "<Code>SignatureDoesNotMatch</Code>" in get(machine, forged)
    ec2.delete_vpc_endpoints(VpcEndpointIds=[endpoint])


def test_flow_logs_are_true(network, daemon):
    ec2, machine = network.ec2, network.machine
    made = ec2.create_flow_logs(
        ResourceType="VPC", ResourceIds=[network.vpc], TrafficType="ALL", MaxAggregationInterval=60,
        LogDestinationType="s3", LogDestination="arn:aws:s3:::flow-logs",
    )
    assert not made["Unsuccessful"], made
    log = made["FlowLogIds"][0]
    interface = machine.describe()["NetworkInterfaces"][0]["NetworkInterfaceId"]
    files = daemon.directory / "flow-logs"
    wait_for(lambda: (files / ".state" / f"{log}.json").exists(), "the log", 30)
    begun, private = time.time(), machine.private
    # Datagrams to nobody: seven of 100 bytes, with 28 bytes of headers each.
    machine.ssh("bash -c 'for i in 1 2 3 4 5 6 7; do head -c 100 /dev/zero >/dev/udp/10.30.9.9/9999; done'")

    def lines():
        found = files.glob(f"*/{REGION}/{log}/*/{interface}.log")
        return [line.split() for path in sorted(found) for line in path.read_text().splitlines()]

    def counted():
        mine = [line for line in lines() if line[3:5] == [private, "10.30.9.9"] and line[6:8] == ["9999", "17"]]
        return mine if sum(int(line[8]) for line in mine) >= 7 else None

    mine = wait_for(counted, f"the datagrams in {lines()}", 150, 0.5)
    assert sum(int(line[9]) for line in mine) == 7 * 128
    for line in mine:
        assert line[0] == "2" and line[2] == interface and line[12:] == ["ACCEPT", "OK"]
        assert begun - 120 < int(line[10]) <= int(line[11]) <= time.time() + 1
    # Somebody who knocks where no group lets him in.
    assert any(line[12] == "ACCEPT" and line[6] == "22" for line in lines())
    ec2.delete_flow_logs(FlowLogIds=[log])
    wait_for(lambda: not (files / ".state" / f"{log}.json").exists(), "the log to end", 30)
