"""Terraform's AWS provider and Reachability Analyzer: apply, an empty plan, destroy."""

import json

CONFIGURATION = """
data "aws_ami" "micro" {
  most_recent = true
  owners      = ["self"]
  filter {
    name   = "name"
    values = ["gureum-micro-*"]
  }
}

data "aws_vpc" "default" { default = true }

data "aws_internet_gateway" "default" {
  filter {
    name   = "attachment.vpc-id"
    values = [data.aws_vpc.default.id]
  }
}

resource "aws_security_group" "web" {
  name   = "web"
  vpc_id = data.aws_vpc.default.id
  ingress {
    protocol    = "tcp"
    from_port   = 443
    to_port     = 443
    cidr_blocks = ["0.0.0.0/0"]
  }
}

resource "aws_instance" "web" {
  ami                    = data.aws_ami.micro.id
  instance_type          = "t3.micro"
  vpc_security_group_ids = [aws_security_group.web.id]
}

resource "aws_ec2_network_insights_path" "web" {
  source           = data.aws_internet_gateway.default.id
  destination      = aws_instance.web.primary_network_interface_id
  protocol         = "tcp"
  destination_port = var.port
  tags             = { Name = "web" }
}

resource "aws_ec2_network_insights_analysis" "web" {
  network_insights_path_id = aws_ec2_network_insights_path.web.id
  tags                     = { Name = "web" }
}

variable "port" { default = 443 }

output "found" { value = aws_ec2_network_insights_analysis.web.path_found }
output "status" { value = aws_ec2_network_insights_analysis.web.status }
output "way" { value = aws_ec2_network_insights_analysis.web.forward_path_components[*].component[0].id }
output "why" { value = aws_ec2_network_insights_analysis.web.explanations[*].explanation_code }
"""


def output(workspace, name):
    return json.loads(workspace.run("output", "-json", name).stdout)


def test_a_path_and_its_analysis(workspace):
    workspace.write(CONFIGURATION)
    workspace.apply()
    workspace.empty_plan()
    assert output(workspace, "status") == "succeeded"
    assert output(workspace, "found") is True
    way = output(workspace, "way")
    assert way[0].startswith("igw-") and way[-1].startswith("i-")
    workspace.apply("-var", "port=22")
    workspace.empty_plan("-var", "port=22")
    assert output(workspace, "found") is False
    assert output(workspace, "why") == ["ENI_SG_RULES_MISMATCH"]
    workspace.destroy("-var", "port=22")
    ec2 = workspace.client("ec2")
    assert ec2.describe_network_insights_paths()["NetworkInsightsPaths"] == []
    assert ec2.describe_network_insights_analyses()["NetworkInsightsAnalyses"] == []
