"""Terraform's AWS provider and what stands between networks: security groups in all forms, endpoints, flow logs, transit
gateways; apply, an empty plan, a change, an empty plan, destroy."""

import json

NETWORK = """
data "aws_availability_zones" "all" {}

locals { zones = data.aws_availability_zones.all.names }

resource "aws_vpc" "main" {
  cidr_block           = "10.20.0.0/16"
  enable_dns_support   = true
  enable_dns_hostnames = true
}

resource "aws_subnet" "a" {
  vpc_id            = aws_vpc.main.id
  cidr_block        = "10.20.1.0/24"
  availability_zone = local.zones[0]
}

resource "aws_subnet" "b" {
  vpc_id            = aws_vpc.main.id
  cidr_block        = "10.20.2.0/24"
  availability_zone = local.zones[1]
}
"""

GROUPS = """
variable "port" { default = 80 }

resource "aws_ec2_managed_prefix_list" "offices" {
  name           = "offices"
  address_family = "IPv4"
  max_entries    = 5
  entry {
    cidr        = "192.0.2.0/24"
    description = "one"
  }
}

resource "aws_default_security_group" "default" {
  vpc_id = aws_vpc.main.id
  ingress {
    protocol  = -1
    self      = true
    from_port = 0
    to_port   = 0
  }
  tags = { Name = "closed" }
}

resource "aws_security_group" "inline" {
  name        = "inline"
  description = "rules inside"
  vpc_id      = aws_vpc.main.id
  ingress {
    description      = "web"
    from_port        = var.port
    to_port          = var.port
    protocol         = "tcp"
    cidr_blocks      = ["10.0.0.0/8", "192.168.0.0/16"]
    ipv6_cidr_blocks = ["2001:db8::/32"]
    prefix_list_ids  = [aws_ec2_managed_prefix_list.offices.id]
  }
  ingress {
    from_port   = 8
    to_port     = 0
    protocol    = "icmp"
    cidr_blocks = ["0.0.0.0/0"]
  }
  ingress {
    from_port   = 0
    to_port     = 0
    protocol    = "50"
    cidr_blocks = ["10.9.0.0/16"]
  }
  egress {
    from_port        = 0
    to_port          = 0
    protocol         = "-1"
    cidr_blocks      = ["0.0.0.0/0"]
    ipv6_cidr_blocks = ["::/0"]
  }
  tags = { Port = var.port }
}

resource "aws_security_group" "outside" {
  name_prefix = "outside-"
  vpc_id      = aws_vpc.main.id
}

resource "aws_security_group_rule" "ssh" {
  type              = "ingress"
  security_group_id = aws_security_group.outside.id
  protocol          = "tcp"
  from_port         = 22
  to_port           = 22
  cidr_blocks       = ["10.0.0.0/8"]
  description       = "ssh on ${var.port}"
}

resource "aws_security_group_rule" "group" {
  type                     = "ingress"
  security_group_id        = aws_security_group.outside.id
  protocol                 = "tcp"
  from_port                = var.port
  to_port                  = var.port
  source_security_group_id = aws_security_group.inline.id
}

resource "aws_security_group" "single" {
  name   = "single"
  vpc_id = aws_vpc.main.id
}

resource "aws_vpc_security_group_ingress_rule" "web" {
  security_group_id = aws_security_group.single.id
  ip_protocol       = "tcp"
  from_port         = var.port
  to_port           = var.port
  cidr_ipv4         = "10.0.0.0/8"
  description       = "port ${var.port}"
  tags              = { Name = "web" }
}

resource "aws_vpc_security_group_ingress_rule" "web6" {
  security_group_id = aws_security_group.single.id
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv6         = "2001:db8::/32"
}

resource "aws_vpc_security_group_ingress_rule" "list" {
  security_group_id = aws_security_group.single.id
  ip_protocol       = "udp"
  from_port         = 53
  to_port           = 53
  prefix_list_id    = aws_ec2_managed_prefix_list.offices.id
}

resource "aws_vpc_security_group_ingress_rule" "self" {
  security_group_id            = aws_security_group.single.id
  ip_protocol                  = "-1"
  referenced_security_group_id = aws_security_group.single.id
}

resource "aws_vpc_security_group_egress_rule" "all" {
  security_group_id = aws_security_group.single.id
  ip_protocol       = "-1"
  cidr_ipv4         = "0.0.0.0/0"
}

output "single" { value = aws_security_group.single.id }
output "default" { value = aws_default_security_group.default.id }
"""


def outputs(workspace):
    return {name: output["value"] for name, output in json.loads(workspace.run("output", "-json").stdout).items()}


def test_security_groups(workspace):
    workspace.write(NETWORK + GROUPS)
    workspace.apply()
    workspace.empty_plan()
    ec2 = workspace.client("ec2")
    made = outputs(workspace)

    def rules(group):
        found = ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [group]}])["SecurityGroupRules"]
        return sorted((r["IsEgress"], r["IpProtocol"], r["FromPort"]) for r in found)

    assert rules(made["single"]) == [
        (False, "-1", -1),
        (False, "tcp", 80),
        (False, "tcp", 443),
        (False, "udp", 53),
        (True, "-1", -1),
    ]
    assert rules(made["default"]) == [(False, "-1", -1)]
    change = ("-var", "port=8080")
    workspace.apply(*change)
    assert (False, "tcp", 8080) in rules(made["single"])
    workspace.empty_plan(*change)
    workspace.destroy(*change)
    names = {g["GroupName"] for g in ec2.describe_security_groups()["SecurityGroups"]}
    assert names == {"default"}


ENDPOINTS = """
variable "private" { default = true }
variable "interval" { default = 600 }

resource "aws_route_table" "one" { vpc_id = aws_vpc.main.id }

resource "aws_route_table" "two" { vpc_id = aws_vpc.main.id }

resource "aws_vpc_endpoint" "s3" {
  vpc_id            = aws_vpc.main.id
  service_name      = "com.amazonaws.REGION.s3"
  route_table_ids   = [aws_route_table.one.id]
  tags              = { Name = "s3" }
}

resource "aws_vpc_endpoint" "dynamodb" {
  vpc_id            = aws_vpc.main.id
  service_name      = "com.amazonaws.REGION.dynamodb"
  vpc_endpoint_type = "Gateway"
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Principal = "*", Action = "*", Resource = "*" }]
  })
}

resource "aws_vpc_endpoint_route_table_association" "dynamodb" {
  route_table_id  = aws_route_table.two.id
  vpc_endpoint_id = aws_vpc_endpoint.dynamodb.id
}

resource "aws_security_group" "endpoint" {
  name   = "endpoint"
  vpc_id = aws_vpc.main.id
}

resource "aws_vpc_endpoint" "ec2" {
  vpc_id              = aws_vpc.main.id
  service_name        = "com.amazonaws.REGION.ec2"
  vpc_endpoint_type   = "Interface"
  subnet_ids          = var.private ? [aws_subnet.a.id, aws_subnet.b.id] : [aws_subnet.b.id]
  security_group_ids  = [aws_security_group.endpoint.id]
  private_dns_enabled = var.private
}

data "aws_vpc_endpoint_service" "sts" {
  service      = "sts"
  service_type = "Interface"
}

resource "aws_flow_log" "bucket" {
  vpc_id                   = aws_vpc.main.id
  traffic_type             = "ALL"
  log_destination_type     = "s3"
  log_destination          = "arn:aws:s3:::flows/main"
  max_aggregation_interval = var.interval
  tags                     = { Name = "flows" }
}

resource "aws_flow_log" "group" {
  subnet_id       = aws_subnet.a.id
  traffic_type    = "REJECT"
  iam_role_arn    = "arn:aws:iam::123456789012:role/flows"
  log_destination = "arn:aws:logs:us-east-1:123456789012:log-group:flows"
  log_format      = "$${version} $${interface-id} $${srcaddr} $${dstaddr} $${action}"
}

output "prefix_list" { value = aws_vpc_endpoint.s3.prefix_list_id }
output "ec2" { value = aws_vpc_endpoint.ec2.id }
output "sts" { value = data.aws_vpc_endpoint_service.sts.service_name }
"""


def test_endpoints_and_flow_logs(workspace):
    workspace.write(NETWORK + ENDPOINTS.replace("REGION", workspace.region))
    workspace.apply()
    workspace.empty_plan()
    made = outputs(workspace)
    ec2 = workspace.client("ec2")
    assert made["prefix_list"].startswith("pl-")
    (endpoint,) = ec2.describe_vpc_endpoints(VpcEndpointIds=[made["ec2"]])["VpcEndpoints"]
    assert endpoint["State"] == "available" and len(endpoint["NetworkInterfaceIds"]) == 2
    assert made["sts"] == f"com.amazonaws.{workspace.region}.sts"
    (log,) = ec2.describe_flow_logs(Filters=[{"Name": "log-destination-type", "Values": ["s3"]}])["FlowLogs"]
    assert log["MaxAggregationInterval"] == 600
    change = ("-var", "private=false", "-var", "interval=60")
    workspace.apply(*change)
    (log,) = ec2.describe_flow_logs(Filters=[{"Name": "log-destination-type", "Values": ["s3"]}])["FlowLogs"]
    assert log["MaxAggregationInterval"] == 60
    (endpoint,) = ec2.describe_vpc_endpoints(VpcEndpointIds=[made["ec2"]])["VpcEndpoints"]
    assert endpoint["PrivateDnsEnabled"] is False and len(endpoint["SubnetIds"]) == 1
    workspace.empty_plan(*change)
    workspace.destroy(*change)
    assert {e["State"] for e in ec2.describe_vpc_endpoints()["VpcEndpoints"]} <= {"deleted"}
    assert ec2.describe_flow_logs()["FlowLogs"] == []


TRANSIT = """
variable "description" { default = "first" }
variable "blackhole" { default = true }

resource "aws_vpc" "other" { cidr_block = "10.30.0.0/16" }

resource "aws_subnet" "other" {
  vpc_id            = aws_vpc.other.id
  cidr_block        = "10.30.1.0/24"
  availability_zone = local.zones[0]
}

resource "aws_ec2_transit_gateway" "hub" {
  description                     = var.description
  default_route_table_association = "disable"
  default_route_table_propagation = "disable"
  tags                            = { Name = "hub", Description = var.description }
}

resource "aws_ec2_transit_gateway_vpc_attachment" "main" {
  transit_gateway_id                              = aws_ec2_transit_gateway.hub.id
  vpc_id                                          = aws_vpc.main.id
  subnet_ids                                      = var.blackhole ? [aws_subnet.a.id] : [aws_subnet.a.id, aws_subnet.b.id]
  transit_gateway_default_route_table_association = false
  transit_gateway_default_route_table_propagation = false
}

resource "aws_ec2_transit_gateway_vpc_attachment" "other" {
  transit_gateway_id                              = aws_ec2_transit_gateway.hub.id
  vpc_id                                          = aws_vpc.other.id
  subnet_ids                                      = [aws_subnet.other.id]
  transit_gateway_default_route_table_association = false
  transit_gateway_default_route_table_propagation = false
}

resource "aws_ec2_transit_gateway_route_table" "spokes" {
  transit_gateway_id = aws_ec2_transit_gateway.hub.id
  tags               = { Name = "spokes" }
}

resource "aws_ec2_transit_gateway_route_table_association" "main" {
  transit_gateway_attachment_id  = aws_ec2_transit_gateway_vpc_attachment.main.id
  transit_gateway_route_table_id = aws_ec2_transit_gateway_route_table.spokes.id
}

resource "aws_ec2_transit_gateway_route_table_propagation" "other" {
  transit_gateway_attachment_id  = aws_ec2_transit_gateway_vpc_attachment.other.id
  transit_gateway_route_table_id = aws_ec2_transit_gateway_route_table.spokes.id
}

resource "aws_ec2_transit_gateway_route" "default" {
  destination_cidr_block         = "0.0.0.0/0"
  transit_gateway_attachment_id  = aws_ec2_transit_gateway_vpc_attachment.other.id
  transit_gateway_route_table_id = aws_ec2_transit_gateway_route_table.spokes.id
}

resource "aws_ec2_transit_gateway_route" "hole" {
  count                          = var.blackhole ? 1 : 0
  destination_cidr_block         = "10.99.0.0/16"
  blackhole                      = true
  transit_gateway_route_table_id = aws_ec2_transit_gateway_route_table.spokes.id
}

resource "aws_ec2_managed_prefix_list" "offices" {
  name           = "offices"
  address_family = "IPv4"
  max_entries    = 5
  entry { cidr = "192.0.2.0/24" }
}

resource "aws_ec2_transit_gateway_prefix_list_reference" "offices" {
  prefix_list_id                 = aws_ec2_managed_prefix_list.offices.id
  transit_gateway_attachment_id  = aws_ec2_transit_gateway_vpc_attachment.other.id
  transit_gateway_route_table_id = aws_ec2_transit_gateway_route_table.spokes.id
}

# With AWS's defaults: one table for all.
resource "aws_ec2_transit_gateway" "plain" {}

resource "aws_ec2_transit_gateway_vpc_attachment" "plain" {
  transit_gateway_id = aws_ec2_transit_gateway.plain.id
  vpc_id             = aws_vpc.other.id
  subnet_ids         = [aws_subnet.other.id]
}

resource "aws_route" "through" {
  route_table_id         = aws_vpc.main.main_route_table_id
  destination_cidr_block = "10.30.0.0/16"
  transit_gateway_id     = aws_ec2_transit_gateway_vpc_attachment.main.transit_gateway_id
}

output "table" { value = aws_ec2_transit_gateway_route_table.spokes.id }
output "plain" { value = aws_ec2_transit_gateway.plain.association_default_route_table_id }
"""


def test_transit_gateway(workspace):
    workspace.write(NETWORK + TRANSIT)
    workspace.apply()
    workspace.empty_plan()
    made = outputs(workspace)
    ec2 = workspace.client("ec2")

    def routes(table):
        found = ec2.search_transit_gateway_routes(
            TransitGatewayRouteTableId=table, Filters=[{"Name": "state", "Values": ["active", "blackhole"]}]
        )["Routes"]
        return {(r["DestinationCidrBlock"], r["Type"], r["State"]) for r in found}

    always = {
        ("0.0.0.0/0", "static", "active"),
        ("10.30.0.0/16", "propagated", "active"),
        ("192.0.2.0/24", "static", "active"),
    }
    assert routes(made["table"]) == always | {("10.99.0.0/16", "static", "blackhole")}
    assert routes(made["plain"]) == {("10.30.0.0/16", "propagated", "active")}
    change = ("-var", "description=second", "-var", "blackhole=false")
    workspace.apply(*change)
    assert routes(made["table"]) == always
    workspace.empty_plan(*change)
    workspace.destroy(*change)
    assert {g["State"] for g in ec2.describe_transit_gateways()["TransitGateways"]} <= {"deleted"}
    assert ec2.describe_network_interfaces()["NetworkInterfaces"] == []
