"""Terraform's AWS provider and what routes lead to: route tables in every way it draws them, gateways, NAT gateways, prefix
lists, peering connections in a region and between two; apply, an empty plan, a change, an empty plan, destroy."""

import json

ROUTES = """
variable "owner" { default = "one" }
variable "inline" { default = "192.0.2.0/24" }
variable "to_nat" { default = true }
variable "second_main" { default = false }

resource "aws_vpc" "one" {
  cidr_block                       = "10.0.0.0/16"
  assign_generated_ipv6_cidr_block = true
}

resource "aws_vpc" "two" { cidr_block = "10.1.0.0/16" }

resource "aws_subnet" "public" {
  vpc_id     = aws_vpc.one.id
  cidr_block = "10.0.0.0/24"
}

resource "aws_subnet" "private" {
  vpc_id     = aws_vpc.one.id
  cidr_block = "10.0.1.0/24"
}

resource "aws_subnet" "loose" {
  vpc_id     = aws_vpc.two.id
  cidr_block = "10.1.0.0/24"
}

resource "aws_internet_gateway" "one" {
  vpc_id = aws_vpc.one.id
  tags   = { Owner = var.owner }
}

resource "aws_internet_gateway" "two" {}

resource "aws_internet_gateway_attachment" "two" {
  internet_gateway_id = aws_internet_gateway.two.id
  vpc_id              = aws_vpc.two.id
}

resource "aws_egress_only_internet_gateway" "one" {
  vpc_id = aws_vpc.one.id
  tags   = { Owner = var.owner }
}

resource "aws_route_table" "public" {
  vpc_id = aws_vpc.one.id
  route {
    cidr_block = "0.0.0.0/0"
    gateway_id = aws_internet_gateway.one.id
  }
  route {
    cidr_block = var.inline
    gateway_id = aws_internet_gateway.one.id
  }
  route {
    ipv6_cidr_block        = "::/0"
    egress_only_gateway_id = aws_egress_only_internet_gateway.one.id
  }
  tags = { Owner = var.owner }
}

resource "aws_route_table_association" "public" {
  subnet_id      = aws_subnet.public.id
  route_table_id = aws_route_table.public.id
}

resource "aws_eip" "nat" {
  count      = 2
  domain     = "vpc"
  depends_on = [aws_internet_gateway.one]
}

resource "aws_nat_gateway" "public" {
  allocation_id            = aws_eip.nat[0].id
  secondary_allocation_ids = var.to_nat ? [aws_eip.nat[1].id] : []
  subnet_id                = aws_subnet.public.id
  tags                     = { Owner = var.owner }
  depends_on               = [aws_internet_gateway.one]
}

resource "aws_nat_gateway" "private" {
  connectivity_type                  = "private"
  subnet_id                          = aws_subnet.private.id
  private_ip                         = "10.0.1.50"
  secondary_private_ip_address_count = 2
}

resource "aws_route_table" "private" { vpc_id = aws_vpc.one.id }

resource "aws_route" "private" {
  route_table_id         = aws_route_table.private.id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = var.to_nat ? aws_nat_gateway.public.id : aws_nat_gateway.private.id
}

resource "aws_route" "listed" {
  route_table_id             = aws_route_table.private.id
  destination_prefix_list_id = aws_ec2_managed_prefix_list.offices.id
  gateway_id                 = aws_internet_gateway.one.id
}

resource "aws_route_table_association" "private" {
  subnet_id      = aws_subnet.private.id
  route_table_id = aws_route_table.private.id
}

resource "aws_network_interface" "router" {
  subnet_id         = aws_subnet.loose.id
  source_dest_check = false
}

# The VPC's own route, first as it is, then through the router.
resource "aws_route_table" "middle" {
  vpc_id = aws_vpc.two.id
  route {
    cidr_block           = "10.1.0.0/16"
    gateway_id           = var.to_nat ? "local" : null
    network_interface_id = var.to_nat ? null : aws_network_interface.router.id
  }
  route {
    cidr_block           = "192.0.2.0/24"
    network_interface_id = aws_network_interface.router.id
  }
}

resource "aws_default_route_table" "one" {
  default_route_table_id = aws_vpc.one.default_route_table_id
  route {
    cidr_block = "198.51.100.0/24"
    gateway_id = aws_internet_gateway.one.id
  }
  tags = { Owner = var.owner }
}

resource "aws_route_table" "main" {
  count  = 2
  vpc_id = aws_vpc.two.id
}

resource "aws_main_route_table_association" "two" {
  vpc_id         = aws_vpc.two.id
  route_table_id = aws_route_table.main[var.second_main ? 1 : 0].id
}

resource "aws_ec2_managed_prefix_list" "offices" {
  name           = "offices"
  address_family = "IPv4"
  max_entries    = var.to_nat ? 3 : 5
  entry {
    cidr        = "203.0.113.0/25"
    description = "first"
  }
  entry {
    cidr        = var.inline
    description = "second"
  }
  tags = { Owner = var.owner }
}

resource "aws_ec2_managed_prefix_list" "empty" {
  name           = "empty-${var.owner}"
  address_family = "IPv4"
  max_entries    = 2
}

resource "aws_ec2_managed_prefix_list_entry" "alone" {
  cidr           = var.inline
  description    = var.owner
  prefix_list_id = aws_ec2_managed_prefix_list.empty.id
}

data "aws_ec2_managed_prefix_list" "s3" { name = "com.amazonaws.%(region)s.s3" }

data "aws_route_table" "public" {
  subnet_id  = aws_subnet.public.id
  depends_on = [aws_route_table_association.public]
}

output "private" { value = aws_route_table.private.id }
output "nat" { value = aws_nat_gateway.public.id }
output "middle" { value = aws_route_table.middle.id }
output "router" { value = aws_network_interface.router.id }
output "main" { value = aws_route_table.main[*].id }
output "vpc" { value = aws_vpc.two.id }
output "s3" { value = data.aws_ec2_managed_prefix_list.s3.id }
"""

PEERING = """
variable "resolve" { default = true }
variable "owner" { default = "one" }

resource "aws_vpc" "one" {
  cidr_block           = "10.0.0.0/16"
  enable_dns_hostnames = true
}

resource "aws_vpc" "two" {
  cidr_block           = "10.1.0.0/16"
  enable_dns_hostnames = true
}

resource "aws_vpc" "far" {
  provider             = aws.far
  cidr_block           = "10.2.0.0/16"
  enable_dns_hostnames = true
}

resource "aws_vpc_peering_connection" "near" {
  vpc_id      = aws_vpc.one.id
  peer_vpc_id = aws_vpc.two.id
  auto_accept = true
  accepter { allow_remote_vpc_dns_resolution = var.resolve }
  requester { allow_remote_vpc_dns_resolution = true }
  tags = { Owner = var.owner }
}

resource "aws_vpc_peering_connection" "far" {
  vpc_id      = aws_vpc.one.id
  peer_vpc_id = aws_vpc.far.id
  peer_region = "%(far)s"
  tags        = { Side = "requester", Owner = var.owner }
}

resource "aws_vpc_peering_connection_accepter" "far" {
  provider                  = aws.far
  vpc_peering_connection_id = aws_vpc_peering_connection.far.id
  auto_accept               = true
  tags                      = { Side = "accepter", Owner = var.owner }
}

resource "aws_vpc_peering_connection_options" "requester" {
  vpc_peering_connection_id = aws_vpc_peering_connection_accepter.far.id
  requester { allow_remote_vpc_dns_resolution = var.resolve }
}

resource "aws_vpc_peering_connection_options" "accepter" {
  provider                  = aws.far
  vpc_peering_connection_id = aws_vpc_peering_connection_accepter.far.id
  accepter { allow_remote_vpc_dns_resolution = true }
}

resource "aws_route" "near" {
  route_table_id            = aws_vpc.one.default_route_table_id
  destination_cidr_block    = "10.1.0.0/16"
  vpc_peering_connection_id = aws_vpc_peering_connection.near.id
}

output "near" { value = aws_vpc_peering_connection.near.id }
output "far" { value = aws_vpc_peering_connection.far.id }
output "table" { value = aws_vpc.one.default_route_table_id }
"""


def outputs(workspace):
    return {name: output["value"] for name, output in json.loads(workspace.run("output", "-json").stdout).items()}


def routes(ec2, table):
    (found,) = ec2.describe_route_tables(RouteTableIds=[table])["RouteTables"]
    return {route.get("DestinationCidrBlock") or route.get("DestinationPrefixListId"): route for route in found["Routes"]}


def test_routes_and_gateways(workspace):
    workspace.write(ROUTES % {"region": workspace.region})
    workspace.apply()
    workspace.empty_plan()
    made = outputs(workspace)
    ec2 = workspace.client("ec2")
    assert routes(ec2, made["private"])["0.0.0.0/0"]["NatGatewayId"] == made["nat"]
    assert {route["State"] for route in routes(ec2, made["private"]).values()} == {"active"}
    (nat,) = ec2.describe_nat_gateways(NatGatewayIds=[made["nat"]])["NatGateways"]
    assert len(nat["NatGatewayAddresses"]) == 2
    (list_of_s3,) = ec2.describe_prefix_lists(PrefixListIds=[made["s3"]])["PrefixLists"]
    assert list_of_s3["PrefixListName"] == f"com.amazonaws.{workspace.region}.s3"

    change = ("-var", "owner=two", "-var", "inline=192.0.2.128/25", "-var", "to_nat=false", "-var", "second_main=true")
    workspace.apply(*change)
    workspace.empty_plan(*change)
    assert routes(ec2, made["private"])["0.0.0.0/0"]["NatGatewayId"] != made["nat"]
    (nat,) = ec2.describe_nat_gateways(NatGatewayIds=[made["nat"]])["NatGateways"]
    assert len(nat["NatGatewayAddresses"]) == 1
    assert routes(ec2, made["middle"])["10.1.0.0/16"]["NetworkInterfaceId"] == made["router"]
    mains = [{"Name": "vpc-id", "Values": [made["vpc"]]}, {"Name": "association.main", "Values": ["true"]}]
    (main,) = ec2.describe_route_tables(Filters=mains)["RouteTables"]
    assert main["RouteTableId"] == made["main"][1]

    workspace.destroy(*change)
    states = [{"Name": "state", "Values": ["pending", "available", "deleting"]}]
    assert ec2.describe_nat_gateways(Filters=states)["NatGateways"] == []
    # What is left is the default VPC's.
    assert len(ec2.describe_route_tables()["RouteTables"]) == 1
    assert len(ec2.describe_internet_gateways()["InternetGateways"]) == 1
    assert ec2.describe_egress_only_internet_gateways()["EgressOnlyInternetGateways"] == []
    assert ec2.describe_addresses()["Addresses"] == []


def test_peering_connections(workspace):
    far = workspace.region + "1"
    workspace.write(PEERING % {"far": far}, others={"far": far})
    workspace.apply()
    workspace.empty_plan()
    made = outputs(workspace)
    ec2 = workspace.client("ec2")

    def options(ident, side, region=None):
        of = workspace.daemon.client("ec2", region) if region else ec2
        (found,) = of.describe_vpc_peering_connections(VpcPeeringConnectionIds=[ident])["VpcPeeringConnections"]
        assert found["Status"]["Code"] == "active"
        return found[f"{side}VpcInfo"]["PeeringOptions"]["AllowDnsResolutionFromRemoteVpc"]

    assert options(made["near"], "Accepter") and options(made["near"], "Requester")
    assert options(made["far"], "Requester") and options(made["far"], "Accepter", far)
    assert routes(ec2, made["table"])["10.1.0.0/16"]["State"] == "active"
    change = ("-var", "resolve=false", "-var", "owner=two")
    workspace.apply(*change)
    workspace.empty_plan(*change)
    assert not options(made["near"], "Accepter") and options(made["near"], "Requester")
    assert not options(made["far"], "Requester") and options(made["far"], "Accepter", far)
    workspace.destroy(*change)
    found = ec2.describe_vpc_peering_connections()["VpcPeeringConnections"]
    assert {one["Status"]["Code"] for one in found} == {"deleted"}
