"""Terraform's AWS provider: apply, an empty plan, a change, an empty plan, destroy."""

import json
import os
import pathlib
import subprocess

import pytest
from support import terraform

CONFIGURATION = """
terraform {
  required_providers {
    aws = { source = "hashicorp/aws", version = "5.100.0" }
  }
}

provider "aws" {
  region = "us-west-2"
  endpoints {
    ec2 = "%(url)s"
    sts = "%(url)s"
  }
}

variable "type" { default = "t3.micro" }
variable "port" { default = 80 }

data "aws_ami" "al2" {
  most_recent = true
  owners      = ["amazon"]
  filter {
    name   = "name"
    values = ["amzn2-ami-hvm-*"]
  }
}

data "aws_vpc" "default" { default = true }

resource "aws_key_pair" "key" {
  key_name   = "terraform"
  public_key = "%(public_key)s"
  tags       = { made = "by terraform" }
}

resource "aws_security_group" "web" {
  name        = "terraform-web"
  description = "web"
  vpc_id      = data.aws_vpc.default.id
  ingress {
    description = "http"
    from_port   = var.port
    to_port     = var.port
    protocol    = "tcp"
    cidr_blocks = ["0.0.0.0/0"]
  }
  ingress {
    from_port = 0
    to_port   = 0
    protocol  = "-1"
    self      = true
  }
  egress {
    from_port   = 0
    to_port     = 0
    protocol    = "-1"
    cidr_blocks = ["0.0.0.0/0"]
  }
}

resource "aws_instance" "web" {
  ami                    = data.aws_ami.al2.id
  instance_type          = var.type
  key_name               = aws_key_pair.key.key_name
  vpc_security_group_ids = [aws_security_group.web.id]
  user_data              = "#!/bin/sh\\necho hello\\n"
  tags                   = { Name = "web", Type = var.type }
  root_block_device {
    volume_size = 12
    volume_type = "gp3"
  }
  metadata_options {
    http_tokens = "required"
  }
}

output "id" { value = aws_instance.web.id }
output "public_ip" { value = aws_instance.web.public_ip }
"""


@pytest.fixture
def run(daemon, tmp_path):
    program, mirror = terraform()
    if program is None:
        pytest.skip(mirror)
    environment = os.environ | daemon.environment("us-west-2") | {"TF_IN_AUTOMATION": "1", "CHECKPOINT_DISABLE": "1"}
    if mirror:
        rc = tmp_path / "terraform.rc"
        rc.write_text(f'provider_installation {{\n  filesystem_mirror {{\n    path = "{mirror}"\n  }}\n}}\n')
        environment["TF_CLI_CONFIG_FILE"] = str(rc)

    def run(*arguments, codes=(0,)):
        done = subprocess.run(
            [program, *arguments], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert done.returncode in codes, f"terraform {arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return run


def test_instance_key_pair_and_security_group(daemon, run, tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    public_key = (tmp_path / "key.pub").read_text().strip()
    (tmp_path / "main.tf").write_text(CONFIGURATION % {"url": daemon.url, "public_key": public_key})
    initialised = run("init", "-input=false", codes=(0, 1))
    if initialised.returncode == 1:
        pytest.skip("the AWS provider is not in a mirror and cannot be downloaded")
    run("apply", "-auto-approve", "-input=false")
    outputs = json.loads(run("output", "-json").stdout)
    ec2 = daemon.client("ec2", "us-west-2")
    (reservation,) = ec2.describe_instances(InstanceIds=[outputs["id"]["value"]])["Reservations"]
    (instance,) = reservation["Instances"]
    assert instance["State"]["Name"] == "running"
    assert instance["PublicIpAddress"] == outputs["public_ip"]["value"]
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    (volume,) = ec2.describe_volumes(VolumeIds=[instance["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]])["Volumes"]
    assert (volume["Size"], volume["VolumeType"]) == (12, "gp3")

    def empty_plan(*arguments):
        assert run("plan", "-detailed-exitcode", "-input=false", *arguments, codes=(0, 2)).returncode == 0, run("plan", *arguments).stdout

    empty_plan()
    change = ("-var", "type=t3.small", "-var", "port=8080")
    run("apply", "-auto-approve", "-input=false", *change)
    (instance,) = ec2.describe_instances(InstanceIds=[outputs["id"]["value"]])["Reservations"][0]["Instances"]
    assert instance["InstanceType"] == "t3.small"
    empty_plan(*change)
    run("destroy", "-auto-approve", "-input=false", *change)
    states = [
        i["State"]["Name"]
        for r in ec2.describe_instances()["Reservations"]
        for i in r["Instances"]
    ]
    assert set(states) == {"terminated"}
    assert ec2.describe_key_pairs()["KeyPairs"] == []
