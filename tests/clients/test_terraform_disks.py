"""Terraform's AWS provider and disks: volumes, attachments, snapshots, images, policies; apply, an empty plan, a change, an
empty plan, destroy."""

import json

import pytest
from test_terraform import run  # noqa: F401

REGION = "eu-north-1"

CONFIGURATION = """
terraform {
  required_providers {
    aws = { source = "hashicorp/aws", version = "5.100.0" }
  }
}

provider "aws" {
  region = "%(region)s"
  endpoints {
    dlm = "%(url)s"
    ec2 = "%(url)s"
    sts = "%(url)s"
  }
}

variable "size" { default = 8 }
variable "type" { default = "gp2" }
variable "hours" { default = 24 }
variable "encrypt" { default = true }

data "aws_ami" "micro" {
  most_recent = true
  owners      = ["self"]
  filter {
    name   = "name"
    values = ["gureum-micro-*"]
  }
}

resource "aws_ebs_encryption_by_default" "on" { enabled = var.encrypt }

resource "aws_ebs_volume" "data" {
  availability_zone = "%(region)sa"
  size              = var.size
  type              = var.type
  encrypted         = true
  tags              = { Name = "data", Type = var.type }
}

resource "aws_ebs_volume" "shared" {
  availability_zone    = "%(region)sa"
  size                 = 4
  type                 = "io2"
  iops                 = 100
  multi_attach_enabled = true
  encrypted            = false
  depends_on           = [aws_ebs_volume.of_copy]
}

resource "aws_instance" "plain" {
  ami               = data.aws_ami.micro.id
  instance_type     = "t3.micro"
  availability_zone = "%(region)sa"
}

resource "aws_volume_attachment" "data" {
  device_name = "/dev/sdf"
  instance_id = aws_instance.plain.id
  volume_id   = aws_ebs_volume.data.id
}

resource "aws_volume_attachment" "shared" {
  device_name = "/dev/sdg"
  instance_id = aws_instance.plain.id
  volume_id   = aws_ebs_volume.shared.id
}

resource "aws_ebs_snapshot" "data" {
  volume_id   = aws_ebs_volume.data.id
  description = "of data"
  tags        = { Name = "data" }
}

resource "aws_ebs_snapshot_copy" "copy" {
  source_snapshot_id = aws_ebs_snapshot.data.id
  source_region      = "%(region)s"
  description        = "a copy"
  encrypted          = true
}

resource "aws_ebs_volume" "of_copy" {
  availability_zone = "%(region)sb"
  snapshot_id       = aws_ebs_snapshot_copy.copy.id
  type              = "gp3"
  throughput        = 200
}

resource "aws_ami" "of_snapshot" {
  name                = "of-snapshot"
  virtualization_type = "hvm"
  root_device_name    = "/dev/xvda"
  ena_support         = true
  ebs_block_device {
    device_name = "/dev/xvda"
    snapshot_id = aws_ebs_snapshot.data.id
    volume_size = 8
  }
}

resource "aws_ami_copy" "copy" {
  name              = "copied"
  source_ami_id     = aws_ami.of_snapshot.id
  source_ami_region = "%(region)s"
}

resource "aws_instance" "disks" {
  ami               = data.aws_ami.micro.id
  instance_type     = "c3.large"
  availability_zone = "%(region)sa"
  root_block_device {
    volume_size           = var.size
    volume_type           = "gp3"
    delete_on_termination = true
  }
  ebs_block_device {
    device_name = "/dev/sdf"
    volume_size = 2
    encrypted   = true
  }
  ebs_block_device {
    device_name           = "/dev/sdg"
    snapshot_id           = aws_ebs_snapshot.data.id
    volume_type           = "gp3"
    delete_on_termination = true
  }
  ephemeral_block_device {
    device_name  = "/dev/sdb"
    virtual_name = "ephemeral0"
  }
  volume_tags = { Owner = "disks" }
}

resource "aws_dlm_lifecycle_policy" "daily" {
  description        = "daily snapshots"
  execution_role_arn = "arn:aws:iam::123456789012:role/dlm"
  state              = "ENABLED"
  policy_details {
    resource_types = ["VOLUME"]
    schedule {
      name = "daily"
      create_rule {
        interval      = var.hours
        interval_unit = "HOURS"
        times         = ["23:45"]
      }
      retain_rule { count = 14 }
      copy_tags = true
    }
    target_tags = { Snapshot = "true" }
  }
}

output "data" { value = aws_ebs_volume.data.id }
output "shared" { value = aws_ebs_volume.shared.id }
output "of_copy" { value = aws_ebs_volume.of_copy.id }
output "plain" { value = aws_instance.plain.id }
output "disks" { value = aws_instance.disks.id }
"""


def test_disks(daemon, run, tmp_path):  # noqa: F811
    (tmp_path / "main.tf").write_text(CONFIGURATION % {"url": daemon.url, "region": REGION})
    if run("init", "-input=false", codes=(0, 1)).returncode == 1:
        pytest.skip("the AWS provider is not in a mirror and cannot be downloaded")
    run("apply", "-auto-approve", "-input=false")
    ids = {name: output["value"] for name, output in json.loads(run("output", "-json").stdout).items()}
    ec2 = daemon.client("ec2", REGION)

    def volume(name):
        (found,) = ec2.describe_volumes(VolumeIds=[ids[name]])["Volumes"]
        return found

    def empty_plan(*arguments):
        done = run("plan", "-detailed-exitcode", "-input=false", *arguments, codes=(0, 2))
        assert done.returncode == 0, done.stdout

    data = volume("data")
    assert (data["Size"], data["VolumeType"], data["Encrypted"]) == (8, "gp2", True)
    (place,) = data["Attachments"]
    assert (place["InstanceId"], place["Device"], place["State"]) == (ids["plain"], "/dev/sdf", "attached")
    assert volume("shared")["MultiAttachEnabled"] is True
    copied = volume("of_copy")
    assert (copied["Size"], copied["Throughput"], copied["Encrypted"]) == (8, 200, True)
    (reservation,) = ec2.describe_instances(InstanceIds=[ids["disks"]])["Reservations"]
    devices = {m["DeviceName"] for m in reservation["Instances"][0]["BlockDeviceMappings"]}
    assert devices == {"/dev/xvda", "/dev/sdf", "/dev/sdg"}
    empty_plan()

    change = ("-var", "size=10", "-var", "type=gp3", "-var", "hours=12", "-var", "encrypt=false")
    run("apply", "-auto-approve", "-input=false", *change)
    data = volume("data")
    assert (data["Size"], data["VolumeType"], data["VolumeId"]) == (10, "gp3", ids["data"]), "grown in its place"
    empty_plan(*change)

    run("destroy", "-auto-approve", "-input=false", *change)
    states = {i["State"]["Name"] for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]}
    assert states == {"terminated"}
    assert ec2.describe_volumes()["Volumes"] == []
    assert ec2.describe_snapshots(OwnerIds=["self"], Filters=[{"Name": "volume-size", "Values": ["8"]}, {"Name": "description", "Values": ["of data", "a copy"]}])["Snapshots"] == []
