"""Terraform's AWS provider and VPCs: blocks, subnets, reservations, DHCP options, network ACLs, and what every region has by
itself; apply, an empty plan, a change, an empty plan, destroy."""

import json

import pytest

NETWORK = """
variable "hostnames" { default = true }
variable "public" { default = true }
variable "secondary" { default = "10.1.0.0/16" }
variable "name" { default = "first" }
variable "reserved" { default = "10.0.1.64/28" }

data "aws_availability_zones" "all" {}

resource "aws_vpc" "main" {
  cidr_block                       = "10.2.0.0/16"
  assign_generated_ipv6_cidr_block = true
  enable_dns_hostnames             = var.hostnames
  tags                             = { Name = var.name }
}

resource "aws_vpc_ipv4_cidr_block_association" "more" {
  vpc_id     = aws_vpc.main.id
  cidr_block = var.secondary
}

resource "aws_subnet" "public" {
  vpc_id                             = aws_vpc.main.id
  cidr_block                         = cidrsubnet(aws_vpc.main.cidr_block, 8, 1)
  ipv6_cidr_block                    = cidrsubnet(aws_vpc.main.ipv6_cidr_block, 8, 1)
  availability_zone                  = data.aws_availability_zones.all.names[0]
  map_public_ip_on_launch            = var.public
  private_dns_hostname_type_on_launch= "resource-name"
  assign_ipv6_address_on_creation    = var.public
  tags                               = { Name = "public", Step = var.name }
}

resource "aws_subnet" "more" {
  vpc_id               = aws_vpc_ipv4_cidr_block_association.more.vpc_id
  cidr_block           = cidrsubnet(aws_vpc_ipv4_cidr_block_association.more.cidr_block, 8, 0)
  availability_zone_id = data.aws_availability_zones.all.zone_ids[1]
}

resource "aws_ec2_subnet_cidr_reservation" "prefix" {
  subnet_id        = aws_subnet.public.id
  cidr_block       = replace(var.reserved, "10.0.", "10.2.")
  reservation_type = "prefix"
  description      = "for prefixes"
}

data "aws_vpc" "found" {
  id         = aws_vpc.main.id
  depends_on = [aws_vpc_ipv4_cidr_block_association.more]
}

data "aws_subnets" "found" {
  filter {
    name   = "vpc-id"
    values = [aws_vpc.main.id]
  }
  depends_on = [aws_subnet.public, aws_subnet.more]
}

output "vpc" { value = aws_vpc.main.id }
output "public" { value = aws_subnet.public.id }
output "cidrs" { value = sort([for it in data.aws_vpc.found.cidr_block_associations : it.cidr_block]) }
output "subnets" { value = length(data.aws_subnets.found.ids) }
"""


def outputs(workspace):
    return {name: output["value"] for name, output in json.loads(workspace.run("output", "-json").stdout).items()}


def only_the_default_vpc(ec2):
    (vpc,) = ec2.describe_vpcs()["Vpcs"]
    assert vpc["IsDefault"]
    return vpc


def test_vpc_and_subnets(workspace):
    workspace.write(NETWORK)
    workspace.apply()
    ids, ec2 = outputs(workspace), workspace.client("ec2")
    assert ids["subnets"] == 2
    (vpc,) = ec2.describe_vpcs(VpcIds=[ids["vpc"]])["Vpcs"]
    assert {b["CidrBlock"] for b in vpc["CidrBlockAssociationSet"]} == {"10.2.0.0/16", "10.1.0.0/16"}
    (subnet,) = ec2.describe_subnets(SubnetIds=[ids["public"]])["Subnets"]
    assert (subnet["MapPublicIpOnLaunch"], subnet["AssignIpv6AddressOnCreation"]) == (True, True)
    assert subnet["AvailableIpAddressCount"] == 251 - 16
    workspace.empty_plan()
    change = []
    for variable in ("hostnames=false", "public=false", "secondary=10.3.0.0/16", "name=second", "reserved=10.0.1.128/27"):
        change += ["-var", variable]
    workspace.apply(*change)
    ids = outputs(workspace)
    (subnet,) = ec2.describe_subnets(SubnetIds=[ids["public"]])["Subnets"]
    assert (subnet["MapPublicIpOnLaunch"], subnet["AssignIpv6AddressOnCreation"]) == (False, False)
    assert subnet["AvailableIpAddressCount"] == 251 - 32
    (vpc,) = ec2.describe_vpcs(VpcIds=[ids["vpc"]])["Vpcs"]
    assert {b["CidrBlock"] for b in vpc["CidrBlockAssociationSet"]} == {"10.2.0.0/16", "10.3.0.0/16"}
    workspace.empty_plan(*change)
    workspace.destroy(*change)
    only_the_default_vpc(ec2)


OPTIONS = """
variable "servers" {
  type    = list(string)
  default = ["AmazonProvidedDNS"]
}
# The provider gives tags to the set that it finds with an update, not with the first apply.
variable "tags" {
  type    = map(string)
  default = {}
}

resource "aws_vpc" "main" {
  cidr_block = "10.0.0.0/16"
}

resource "aws_vpc_dhcp_options" "corp" {
  domain_name                       = "corp.example"
  domain_name_servers               = var.servers
  ntp_servers                       = ["127.0.0.1"]
  netbios_name_servers              = ["127.0.0.1"]
  netbios_node_type                 = 2
  ipv6_address_preferred_lease_time = 1440
  tags                              = { Name = join(",", var.servers) }
}

resource "aws_vpc_dhcp_options_association" "corp" {
  vpc_id          = aws_vpc.main.id
  dhcp_options_id = aws_vpc_dhcp_options.corp.id
}

resource "aws_default_vpc_dhcp_options" "default" {
  tags = var.tags
}

output "vpc" { value = aws_vpc.main.id }
output "corp" { value = aws_vpc_dhcp_options.corp.id }
output "default" { value = aws_default_vpc_dhcp_options.default.id }
"""


def test_dhcp_options(workspace):
    workspace.write(OPTIONS)
    workspace.apply()
    ids, ec2 = outputs(workspace), workspace.client("ec2")

    def used():
        return ec2.describe_vpcs(VpcIds=[ids["vpc"]])["Vpcs"][0]["DhcpOptionsId"]

    assert used() == ids["corp"]
    workspace.empty_plan()
    change = ("-var", 'servers=["10.0.0.10", "10.0.0.11"]', "-var", 'tags={ Name = "own" }')
    workspace.apply(*change)
    before, ids = ids["corp"], outputs(workspace)
    assert used() == ids["corp"] != before, "a set never changes"
    (default,) = ec2.describe_dhcp_options(DhcpOptionsIds=[ids["default"]])["DhcpOptions"]
    assert default["Tags"] == [{"Key": "Name", "Value": "own"}]
    workspace.empty_plan(*change)
    workspace.destroy(*change)
    only_the_default_vpc(ec2)
    assert [o["DhcpOptionsId"] for o in ec2.describe_dhcp_options()["DhcpOptions"]] == [ids["default"]]


ACLS = """
variable "port" { default = 443 }
variable "name" { default = "first" }

resource "aws_vpc" "main" {
  cidr_block = "10.0.0.0/16"
}

resource "aws_subnet" "web" {
  vpc_id     = aws_vpc.main.id
  cidr_block = "10.0.1.0/24"
}

resource "aws_subnet" "data" {
  vpc_id     = aws_vpc.main.id
  cidr_block = "10.0.2.0/24"
}

resource "aws_network_acl" "web" {
  vpc_id     = aws_vpc.main.id
  subnet_ids = [aws_subnet.web.id]
  ingress {
    protocol   = "tcp"
    rule_no    = 100
    action     = "allow"
    cidr_block = "0.0.0.0/0"
    from_port  = var.port
    to_port    = var.port
  }
  ingress {
    protocol        = "tcp"
    rule_no         = 101
    action          = "allow"
    ipv6_cidr_block = "::/0"
    from_port       = var.port
    to_port         = var.port
  }
  ingress {
    protocol   = "icmp"
    rule_no    = 110
    action     = "deny"
    cidr_block = "192.0.2.0/24"
    icmp_type  = 8
    icmp_code  = -1
    from_port  = 0
    to_port    = 0
  }
  egress {
    protocol   = "-1"
    rule_no    = 200
    action     = "allow"
    cidr_block = "0.0.0.0/0"
    from_port  = 0
    to_port    = 0
  }
  tags = { Name = var.name }
}

resource "aws_network_acl" "data" {
  vpc_id = aws_vpc.main.id
}

resource "aws_network_acl_association" "data" {
  network_acl_id = aws_network_acl.data.id
  subnet_id      = aws_subnet.data.id
}

resource "aws_network_acl_rule" "in" {
  network_acl_id = aws_network_acl.data.id
  rule_number    = 200
  protocol       = "tcp"
  rule_action    = "allow"
  cidr_block     = aws_subnet.web.cidr_block
  from_port      = var.port
  to_port        = 5432
}

resource "aws_network_acl_rule" "out" {
  network_acl_id = aws_network_acl.data.id
  rule_number    = 200
  egress         = true
  protocol       = "udp"
  rule_action    = "allow"
  cidr_block     = "0.0.0.0/0"
  from_port      = 1024
  to_port        = 65535
}

resource "aws_network_acl_rule" "ping" {
  network_acl_id  = aws_network_acl.data.id
  rule_number     = 300
  protocol        = "58"
  rule_action     = "allow"
  ipv6_cidr_block = "::/0"
  icmp_type       = 128
  icmp_code       = -1
}

resource "aws_default_network_acl" "default" {
  default_network_acl_id = aws_vpc.main.default_network_acl_id
  ingress {
    protocol   = -1
    rule_no    = 100
    action     = "allow"
    cidr_block = aws_vpc.main.cidr_block
    from_port  = 0
    to_port    = 0
  }
  egress {
    protocol   = -1
    rule_no    = 100
    action     = "allow"
    cidr_block = "0.0.0.0/0"
    from_port  = 0
    to_port    = 0
  }
  tags = { Name = var.name }
}

output "web" { value = aws_network_acl.web.id }
output "data" { value = aws_network_acl.data.id }
output "default" { value = aws_default_network_acl.default.id }
"""


def test_network_acls(workspace):
    workspace.write(ACLS)
    workspace.apply()
    ids, ec2 = outputs(workspace), workspace.client("ec2")

    def entries(name):
        (acl,) = ec2.describe_network_acls(NetworkAclIds=[ids[name]])["NetworkAcls"]
        found = [e for e in acl["Entries"] if e["RuleNumber"] < 32767]
        return {(e["Egress"], e["RuleNumber"]): e for e in found}

    web = entries("web")
    assert set(web) == {(False, 100), (False, 101), (False, 110), (True, 200)}
    assert web[False, 100]["PortRange"] == {"From": 443, "To": 443}
    assert web[False, 110]["IcmpTypeCode"] == {"Type": 8, "Code": -1}
    assert set(entries("data")) == {(False, 200), (True, 200), (False, 300)}
    assert entries("default")[False, 100]["CidrBlock"] == "10.0.0.0/16"
    assert set(entries("default")) == {(False, 100), (True, 100)}
    workspace.empty_plan()
    change = ("-var", "port=80", "-var", "name=second")
    workspace.apply(*change)
    assert entries("web")[False, 101]["PortRange"] == {"From": 80, "To": 80}
    assert entries("data")[False, 200]["PortRange"] == {"From": 80, "To": 5432}
    workspace.empty_plan(*change)
    workspace.destroy(*change)
    only_the_default_vpc(ec2)


DEFAULTS = """
variable "hostnames" { default = true }
variable "public" { default = true }

data "aws_availability_zones" "all" {}

resource "aws_default_vpc" "default" {
  enable_dns_hostnames = var.hostnames
  tags                 = { Name = "default" }
}

resource "aws_default_subnet" "first" {
  availability_zone       = data.aws_availability_zones.all.names[0]
  map_public_ip_on_launch = var.public
  tags                    = { Name = "default" }
  depends_on              = [aws_default_vpc.default]
}

output "vpc" { value = aws_default_vpc.default.id }
output "subnet" { value = aws_default_subnet.first.id }
"""


def remove_the_default_vpc(ec2):
    vpc = only_the_default_vpc(ec2)["VpcId"]
    for subnet in ec2.describe_subnets()["Subnets"]:
        ec2.delete_subnet(SubnetId=subnet["SubnetId"])
    for gateway in ec2.describe_internet_gateways()["InternetGateways"]:
        ec2.detach_internet_gateway(InternetGatewayId=gateway["InternetGatewayId"], VpcId=vpc)
        ec2.delete_internet_gateway(InternetGatewayId=gateway["InternetGatewayId"])
    ec2.delete_vpc(VpcId=vpc)


@pytest.mark.parametrize("removed", [False, True], ids=["adopted", "made anew"])
def test_default_vpc_and_subnet(workspace, removed):
    ec2 = workspace.client("ec2")
    before = only_the_default_vpc(ec2)["VpcId"]
    if removed:
        remove_the_default_vpc(ec2)
    workspace.write(DEFAULTS)
    workspace.apply()
    ids = outputs(workspace)
    assert (ids["vpc"] == before) is not removed
    workspace.empty_plan()
    change = ("-var", "hostnames=false", "-var", "public=false")
    workspace.apply(*change)
    answer = ec2.describe_vpc_attribute(VpcId=ids["vpc"], Attribute="enableDnsHostnames")
    assert answer["EnableDnsHostnames"]["Value"] is False
    (subnet,) = ec2.describe_subnets(SubnetIds=[ids["subnet"]])["Subnets"]
    assert (subnet["MapPublicIpOnLaunch"], subnet["DefaultForAz"]) == (False, True)
    workspace.empty_plan(*change)
    workspace.destroy(*change)
    assert only_the_default_vpc(ec2)["VpcId"] == ids["vpc"], "Terraform lets go of it"
