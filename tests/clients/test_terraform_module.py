"""The network that people really write: what the published VPC module makes of its complete example (subnets of every
kind in three zones, one NAT gateway, endpoints, flow log, DHCP options, managed defaults), in our own words from its
documented inputs: apply, an empty plan, a change, an empty plan, destroy."""

import ipaddress
import json

MODULE = """
variable "single_nat_gateway" { default = true }
variable "ntp" {
  type    = list(string)
  default = ["10.0.0.2"]
}
variable "public_inbound" { default = 80 }

locals {
  name = "complete"
  zones = ["%(region)sa", "%(region)sb", "%(region)sc"]
  kinds = {
    private     = { first = 1,  outside = true,  public = false }
    public      = { first = 11, outside = true,  public = true }
    database    = { first = 21, outside = false, public = false }
    elasticache = { first = 31, outside = false, public = false }
    intra       = { first = 51, outside = false, public = false }
  }
  subnets = merge([for kind, of in local.kinds : {
    for index, zone in local.zones : "${kind}-${index}" => {
      kind = kind, zone = zone, cidr = "10.0.${of.first + index}.0/24", index = index, public = of.public
    }
  }]...)
  nat_count = var.single_nat_gateway ? 1 : length(local.zones)
}

resource "aws_vpc" "this" {
  cidr_block                       = "10.0.0.0/16"
  enable_dns_hostnames             = true
  enable_dns_support               = true
  assign_generated_ipv6_cidr_block = true
  tags                             = { Name = local.name }
}

resource "aws_vpc_ipv4_cidr_block_association" "secondary" {
  vpc_id     = aws_vpc.this.id
  cidr_block = "10.1.0.0/16"
}

resource "aws_vpc_dhcp_options" "this" {
  domain_name         = "service.consul"
  domain_name_servers = ["127.0.0.1", "10.10.0.2"]
  ntp_servers         = var.ntp
  tags                = { Name = local.name }
}

resource "aws_vpc_dhcp_options_association" "this" {
  vpc_id          = aws_vpc.this.id
  dhcp_options_id = aws_vpc_dhcp_options.this.id
}

resource "aws_default_security_group" "this" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = "${local.name}-default" }
}

resource "aws_default_network_acl" "this" {
  default_network_acl_id = aws_vpc.this.default_network_acl_id
  ingress {
    rule_no    = 100
    action     = "allow"
    from_port  = 0
    to_port    = 0
    protocol   = "-1"
    cidr_block = "0.0.0.0/0"
  }
  ingress {
    rule_no         = 101
    action          = "allow"
    from_port       = 0
    to_port         = 0
    protocol        = "-1"
    ipv6_cidr_block = "::/0"
  }
  egress {
    rule_no    = 100
    action     = "allow"
    from_port  = 0
    to_port    = 0
    protocol   = "-1"
    cidr_block = "0.0.0.0/0"
  }
  egress {
    rule_no         = 101
    action          = "allow"
    from_port       = 0
    to_port         = 0
    protocol        = "-1"
    ipv6_cidr_block = "::/0"
  }
  tags = { Name = "${local.name}-default" }
  lifecycle { ignore_changes = [subnet_ids] }
}

resource "aws_default_route_table" "default" {
  default_route_table_id = aws_vpc.this.default_route_table_id
  tags                   = { Name = "${local.name}-default" }
}

resource "aws_subnet" "this" {
  for_each                                       = local.subnets
  vpc_id                                         = aws_vpc.this.id
  availability_zone                              = each.value.zone
  cidr_block                                     = each.value.cidr
  ipv6_cidr_block                                = each.value.public ? cidrsubnet(aws_vpc.this.ipv6_cidr_block, 8, each.value.index) : null
  assign_ipv6_address_on_creation                = each.value.public
  map_public_ip_on_launch                        = each.value.public
  private_dns_hostname_type_on_launch            = "ip-name"
  enable_resource_name_dns_a_record_on_launch    = false
  enable_resource_name_dns_aaaa_record_on_launch = each.value.public
  tags                                           = { Name = "${local.name}-${each.key}" }
}

resource "aws_internet_gateway" "this" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = local.name }
}

resource "aws_egress_only_internet_gateway" "this" {
  vpc_id = aws_vpc.this.id
}

resource "aws_eip" "nat" {
  count      = local.nat_count
  domain     = "vpc"
  tags       = { Name = "${local.name}-${local.zones[count.index]}" }
  depends_on = [aws_internet_gateway.this]
}

resource "aws_nat_gateway" "this" {
  count         = local.nat_count
  allocation_id = aws_eip.nat[count.index].id
  subnet_id     = aws_subnet.this["public-${count.index}"].id
  tags          = { Name = "${local.name}-${local.zones[count.index]}" }
  depends_on    = [aws_internet_gateway.this]
}

resource "aws_route_table" "public" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = "${local.name}-public" }
}

resource "aws_route" "public" {
  route_table_id         = aws_route_table.public.id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.this.id
  timeouts { create = "5m" }
}

resource "aws_route" "public_ipv6" {
  route_table_id              = aws_route_table.public.id
  destination_ipv6_cidr_block = "::/0"
  gateway_id                  = aws_internet_gateway.this.id
}

resource "aws_route_table" "private" {
  count  = local.nat_count
  vpc_id = aws_vpc.this.id
  tags   = { Name = "${local.name}-private-${count.index}" }
}

resource "aws_route" "private" {
  count                  = local.nat_count
  route_table_id         = aws_route_table.private[count.index].id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = aws_nat_gateway.this[count.index].id
}

resource "aws_route" "private_ipv6" {
  count                       = local.nat_count
  route_table_id              = aws_route_table.private[count.index].id
  destination_ipv6_cidr_block = "::/0"
  egress_only_gateway_id      = aws_egress_only_internet_gateway.this.id
}

resource "aws_route_table" "intra" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = "${local.name}-intra" }
}

resource "aws_route_table_association" "this" {
  for_each  = local.subnets
  subnet_id = aws_subnet.this[each.key].id
  route_table_id = (
    each.value.kind == "public" ? aws_route_table.public.id :
    each.value.kind == "intra" ? aws_route_table.intra.id :
    aws_route_table.private[var.single_nat_gateway ? 0 : each.value.index].id
  )
}

resource "aws_network_acl" "public" {
  vpc_id     = aws_vpc.this.id
  subnet_ids = [for key, subnet in local.subnets : aws_subnet.this[key].id if subnet.public]
  tags       = { Name = "${local.name}-public" }
}

resource "aws_network_acl_rule" "public_inbound" {
  for_each       = { web = var.public_inbound, ssh = 22 }
  network_acl_id = aws_network_acl.public.id
  egress         = false
  rule_number    = each.key == "web" ? 100 : 110
  rule_action    = "allow"
  from_port      = each.value
  to_port        = each.value
  protocol       = "tcp"
  cidr_block     = "0.0.0.0/0"
}

resource "aws_network_acl_rule" "public_outbound" {
  network_acl_id = aws_network_acl.public.id
  egress         = true
  rule_number    = 100
  rule_action    = "allow"
  protocol       = "-1"
  cidr_block     = "0.0.0.0/0"
}

resource "aws_flow_log" "this" {
  log_destination_type     = "cloud-watch-logs"
  log_destination          = "arn:aws:logs:%(region)s:123456789012:log-group:/aws/vpc-flow-log/${aws_vpc.this.id}"
  iam_role_arn             = "arn:aws:iam::123456789012:role/vpc-flow-log"
  traffic_type             = "ALL"
  vpc_id                   = aws_vpc.this.id
  max_aggregation_interval = 60
  tags                     = { Name = local.name }
}

resource "aws_security_group" "endpoints" {
  name_prefix = "${local.name}-endpoints-"
  description = "VPC endpoint security group"
  vpc_id      = aws_vpc.this.id
  lifecycle { create_before_destroy = true }
}

resource "aws_security_group_rule" "endpoints" {
  security_group_id = aws_security_group.endpoints.id
  type              = "ingress"
  description       = "HTTPS from VPC"
  protocol          = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_blocks       = [aws_vpc.this.cidr_block]
}

resource "aws_vpc_endpoint" "s3" {
  vpc_id            = aws_vpc.this.id
  service_name      = "com.amazonaws.%(region)s.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = concat([aws_route_table.intra.id, aws_route_table.public.id], aws_route_table.private[*].id)
  tags              = { Name = "s3-vpc-endpoint" }
}

resource "aws_vpc_endpoint" "ec2" {
  vpc_id              = aws_vpc.this.id
  service_name        = "com.amazonaws.%(region)s.ec2"
  vpc_endpoint_type   = "Interface"
  private_dns_enabled = true
  subnet_ids          = [for key, subnet in local.subnets : aws_subnet.this[key].id if subnet.kind == "private"]
  security_group_ids  = [aws_security_group.endpoints.id]
}

data "aws_availability_zones" "available" {}

output "vpc" { value = aws_vpc.this.id }
output "private_route_tables" { value = aws_route_table.private[*].id }
output "nat_public_ips" { value = aws_eip.nat[*].public_ip }
output "ipv6" { value = aws_vpc.this.ipv6_cidr_block }
output "zones" { value = data.aws_availability_zones.available.names }
"""


def outputs(workspace):
    return {name: output["value"] for name, output in json.loads(workspace.run("output", "-json").stdout).items()}


def test_the_complete_network_of_the_module(workspace):
    workspace.write(MODULE % {"region": workspace.region})
    workspace.apply()
    ec2, ids = workspace.client("ec2"), outputs(workspace)
    of_vpc = [{"Name": "vpc-id", "Values": [ids["vpc"]]}]
    subnets = ec2.describe_subnets(Filters=of_vpc)["Subnets"]
    assert len(subnets) == 15
    assert {subnet["AvailableIpAddressCount"] for subnet in subnets} == {251, 250}
    assert ipaddress.ip_network(ids["ipv6"]).prefixlen == 56
    (table,) = ec2.describe_route_tables(RouteTableIds=ids["private_route_tables"])["RouteTables"]
    assert all(route["State"] == "active" for route in table["Routes"])
    assert len(table["Associations"]) == 9
    workspace.empty_plan()

    change = ("-var", "single_nat_gateway=false", "-var", 'ntp=["10.0.0.3","10.0.0.4"]', "-var", "public_inbound=443")
    workspace.apply(*change)
    ids = outputs(workspace)
    tables = ec2.describe_route_tables(RouteTableIds=ids["private_route_tables"])["RouteTables"]
    assert [len(table["Associations"]) for table in tables] == [3, 3, 3]
    assert len(set(ids["nat_public_ips"])) == 3
    workspace.empty_plan(*change)

    workspace.destroy(*change)
    assert ec2.describe_vpcs(VpcIds=[], Filters=of_vpc)["Vpcs"] == []
    assert ec2.describe_addresses()["Addresses"] == []
