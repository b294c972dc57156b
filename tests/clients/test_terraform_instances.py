"""Terraform's AWS provider and what stands on disks: instances with every kind of block device, images of them, copies in
another region, permissions, the account's settings, data sources; apply, an empty plan, a change, an empty plan, destroy."""

import json

INSTANCES = """
variable "root" { default = 12 }
variable "throughput" { default = 125 }
variable "keep" { default = false }
variable "owner" { default = "one" }

data "aws_ami" "micro" {
  most_recent = true
  owners      = ["self"]
  filter {
    name   = "name"
    values = ["gureum-micro-*"]
  }
}

resource "aws_ebs_encryption_by_default" "on" { enabled = true }

data "aws_ebs_default_kms_key" "of_account" {}

resource "aws_instance" "all" {
  ami               = data.aws_ami.micro.id
  instance_type     = "m5d.large"
  availability_zone = "%(region)sa"
  root_block_device {
    volume_size           = var.root
    volume_type           = "gp3"
    iops                  = 3000
    throughput            = var.throughput
    delete_on_termination = !var.keep
    tags                  = { Name = "root", Owner = var.owner }
  }
  ebs_block_device {
    device_name = "/dev/sdf"
    volume_size = 4
    volume_type = "io1"
    iops        = 100
    tags        = { Name = "fast" }
  }
  ebs_block_device {
    device_name           = "/dev/sdg"
    volume_size           = 125
    volume_type           = "st1"
    delete_on_termination = false
    tags                  = { Name = "slow" }
  }
  ephemeral_block_device {
    device_name  = "/dev/sdb"
    virtual_name = "ephemeral0"
  }
  depends_on = [aws_ebs_encryption_by_default.on]
}

resource "aws_instance" "plain" {
  ami               = data.aws_ami.micro.id
  instance_type     = "t3.micro"
  availability_zone = "%(region)sb"
  volume_tags       = { Owner = var.owner }
  depends_on        = [aws_ebs_encryption_by_default.on]
}

resource "aws_ami_from_instance" "of_plain" {
  name                    = "of-plain"
  source_instance_id      = aws_instance.plain.id
  snapshot_without_reboot = true
  tags                    = { Owner = var.owner }
}

resource "aws_instance" "from_image" {
  ami               = aws_ami_from_instance.of_plain.id
  instance_type     = "t3.micro"
  availability_zone = "%(region)sb"
}

output "all" { value = aws_instance.all.id }
output "image" { value = aws_ami_from_instance.of_plain.id }
output "key" { value = data.aws_ebs_default_kms_key.of_account.key_arn }
"""

COPIES = """
variable "description" { default = "first" }
variable "account" { default = "111122223333" }

resource "aws_ebs_volume" "source" {
  availability_zone = "%(region)sa"
  size              = 2
  type              = "gp3"
  tags              = { Name = "source" }
}

resource "aws_ebs_snapshot" "source" {
  volume_id   = aws_ebs_volume.source.id
  description = "of the source"
  tags        = { Name = "source", About = var.description }
}

resource "aws_snapshot_create_volume_permission" "other" {
  snapshot_id = aws_ebs_snapshot.source.id
  account_id  = var.account
}

resource "aws_ebs_fast_snapshot_restore" "fast" {
  availability_zone = "%(region)sa"
  snapshot_id       = aws_ebs_snapshot.source.id
}

resource "aws_ami" "source" {
  name                = "source"
  description         = var.description
  virtualization_type = "hvm"
  root_device_name    = "/dev/xvda"
  ena_support         = true
  imds_support        = "v2.0"
  ebs_block_device {
    device_name           = "/dev/xvda"
    snapshot_id           = aws_ebs_snapshot.source.id
    volume_size           = 4
    volume_type           = "gp3"
    delete_on_termination = true
  }
  ebs_block_device {
    device_name = "/dev/sdf"
    volume_size = 1
    volume_type = "gp2"
  }
  ephemeral_block_device {
    device_name  = "/dev/sdb"
    virtual_name = "ephemeral0"
  }
}

resource "aws_ami_launch_permission" "other" {
  image_id   = aws_ami.source.id
  account_id = var.account
}

# Gives the far region's own key: the provider reads a copy's key, and plans anew where none was named.
resource "aws_ebs_volume" "key" {
  provider          = aws.far
  availability_zone = "%(far)sa"
  size              = 1
  encrypted         = true
}

resource "aws_ebs_snapshot_copy" "far" {
  provider           = aws.far
  kms_key_id         = aws_ebs_volume.key.kms_key_id
  source_snapshot_id = aws_ebs_snapshot.source.id
  source_region      = "%(region)s"
  encrypted          = true
  tags               = { About = var.description }
}

resource "aws_ami_copy" "far" {
  provider          = aws.far
  name              = "far"
  description       = var.description
  source_ami_id     = aws_ami.source.id
  source_ami_region = "%(region)s"
  encrypted         = true
}

resource "aws_ebs_volume" "far" {
  provider          = aws.far
  availability_zone = "%(far)sa"
  snapshot_id       = aws_ebs_snapshot_copy.far.id
  size              = 3
}

resource "aws_ebs_snapshot_block_public_access" "all" { state = "block-all-sharing" }
resource "aws_ec2_image_block_public_access" "all" { state = "block-new-sharing" }

data "aws_ebs_snapshot" "source" {
  most_recent = true
  owners      = ["self"]
  filter {
    name   = "volume-id"
    values = [aws_ebs_volume.source.id]
  }
  depends_on = [aws_ebs_snapshot.source]
}

data "aws_ebs_volumes" "named" {
  filter {
    name   = "tag:Name"
    values = ["source"]
  }
  depends_on = [aws_ebs_volume.source]
}

data "aws_ebs_volume" "source" {
  filter {
    name   = "volume-id"
    values = [aws_ebs_volume.source.id]
  }
}

output "snapshot" { value = aws_ebs_snapshot.source.id }
output "found" { value = data.aws_ebs_snapshot.source.id }
output "volumes" { value = data.aws_ebs_volumes.named.ids }
output "copy" { value = aws_ebs_snapshot_copy.far.id }
"""


def outputs(workspace):
    return {name: output["value"] for name, output in json.loads(workspace.run("output", "-json").stdout).items()}


def test_instances_with_every_kind_of_disk(workspace):
    workspace.write(INSTANCES % {"region": workspace.region})
    workspace.apply()
    ids = outputs(workspace)
    ec2 = workspace.client("ec2")
    assert ids["key"].startswith("arn:aws:kms:") or ids["key"] == "alias/aws/ebs"

    def volumes():
        filters = [{"Name": "attachment.instance-id", "Values": [ids["all"]]}]
        found = ec2.describe_volumes(Filters=filters)["Volumes"]
        return {volume["Attachments"][0]["Device"]: volume for volume in found}

    disks = volumes()
    assert set(disks) == {"/dev/xvda", "/dev/sdf", "/dev/sdg"}
    assert all(volume["Encrypted"] for volume in disks.values())
    assert (disks["/dev/xvda"]["Size"], disks["/dev/xvda"]["Throughput"]) == (12, 125)
    assert (disks["/dev/sdf"]["VolumeType"], disks["/dev/sdf"]["Iops"]) == ("io1", 100)
    assert (disks["/dev/sdg"]["VolumeType"], disks["/dev/sdg"]["Size"]) == ("st1", 125)
    (image,) = ec2.describe_images(ImageIds=[ids["image"]])["Images"]
    assert image["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] is True
    workspace.empty_plan()

    change = ("-var", "root=16", "-var", "throughput=250", "-var", "keep=true", "-var", "owner=two")
    workspace.apply(*change)
    root = volumes()["/dev/xvda"]
    assert root["VolumeId"] == disks["/dev/xvda"]["VolumeId"], "grown in place"
    assert (root["Size"], root["Throughput"]) == (16, 250)
    assert root["Attachments"][0]["DeleteOnTermination"] is False
    workspace.empty_plan(*change)

    workspace.destroy(*change)
    left = {volume["VolumeId"]: volume for volume in ec2.describe_volumes()["Volumes"]}
    assert set(left) == {root["VolumeId"], disks["/dev/sdg"]["VolumeId"]}
    assert ec2.get_ebs_encryption_by_default()["EbsEncryptionByDefault"] is False
    assert ec2.describe_snapshots(OwnerIds=["self"], Filters=[{"Name": "tag:Owner", "Values": ["*"]}])["Snapshots"] == []


def test_copies_permissions_and_data_sources(workspace):
    far = "eu-south-9"
    workspace.write(COPIES % {"region": workspace.region, "far": far}, others={"far": far})
    workspace.apply()
    ids = outputs(workspace)
    ec2 = workspace.client("ec2")
    assert ids["found"] == ids["snapshot"]
    assert len(ids["volumes"]) == 1
    (copy,) = workspace.daemon.client("ec2", far).describe_snapshots(SnapshotIds=[ids["copy"]])["Snapshots"]
    assert copy["Encrypted"] is True and copy["State"] == "completed"
    permissions = ec2.describe_snapshot_attribute(SnapshotId=ids["snapshot"], Attribute="createVolumePermission")
    assert permissions["CreateVolumePermissions"] == [{"UserId": "111122223333"}]
    workspace.empty_plan()

    change = ("-var", "description=second", "-var", "account=444455556666")
    workspace.apply(*change)
    permissions = ec2.describe_snapshot_attribute(SnapshotId=ids["snapshot"], Attribute="createVolumePermission")
    assert permissions["CreateVolumePermissions"] == [{"UserId": "444455556666"}]
    workspace.empty_plan(*change)

    workspace.destroy(*change)
    assert ec2.describe_volumes()["Volumes"] == []
    assert workspace.daemon.client("ec2", far).describe_volumes()["Volumes"] == []
    assert ec2.get_snapshot_block_public_access_state()["State"] == "unblocked"
