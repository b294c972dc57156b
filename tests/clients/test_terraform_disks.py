"""Terraform's AWS provider and disks: volumes, attachments, snapshots, their copies, images, and instances with disks of all
kinds; apply, an empty plan, a change, an empty plan, destroy."""

import json

MICRO = """
data "aws_ami" "micro" {
  most_recent = true
  owners      = ["self"]
  filter {
    name   = "name"
    values = ["gureum-micro-*"]
  }
}

data "aws_availability_zones" "all" {}

locals { zones = data.aws_availability_zones.all.names }
"""

VOLUMES = """
variable "size" { default = 8 }
variable "throughput" { default = 125 }
variable "device" { default = "/dev/sdg" }

resource "aws_ebs_volume" "data" {
  availability_zone = local.zones[0]
  size              = var.size
  type              = "gp3"
  throughput        = var.throughput
  encrypted         = true
  tags              = { Name = "data", Throughput = var.throughput }
}

resource "aws_ebs_volume" "shared" {
  availability_zone    = local.zones[0]
  size                 = 4
  type                 = "io2"
  iops                 = 100
  multi_attach_enabled = true
}

resource "aws_instance" "plain" {
  ami               = data.aws_ami.micro.id
  instance_type     = "t3.micro"
  availability_zone = local.zones[0]
}

resource "aws_volume_attachment" "data" {
  device_name = "/dev/sdf"
  instance_id = aws_instance.plain.id
  volume_id   = aws_ebs_volume.data.id
}

resource "aws_volume_attachment" "shared" {
  device_name = var.device
  instance_id = aws_instance.plain.id
  volume_id   = aws_ebs_volume.shared.id
}

output "data" { value = aws_ebs_volume.data.id }
output "shared" { value = aws_ebs_volume.shared.id }
output "plain" { value = aws_instance.plain.id }
"""


def outputs(workspace):
    return {name: output["value"] for name, output in json.loads(workspace.run("output", "-json").stdout).items()}


def volume(ec2, name):
    (found,) = ec2.describe_volumes(VolumeIds=[name])["Volumes"]
    return found


def gone(ec2):
    """Nothing is left but instances that ended and what the region has by itself."""
    states = {i["State"]["Name"] for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]}
    assert states <= {"terminated"}
    assert ec2.describe_volumes()["Volumes"] == []
    published = {m["Ebs"]["SnapshotId"] for i in ec2.describe_images()["Images"] for m in i["BlockDeviceMappings"]}
    assert {s["SnapshotId"] for s in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]} <= published


def test_volumes_and_attachments(workspace):
    workspace.write(MICRO + VOLUMES)
    workspace.apply()
    ids, ec2 = outputs(workspace), workspace.client("ec2")
    data = volume(ec2, ids["data"])
    assert (data["Size"], data["Throughput"], data["Encrypted"]) == (8, 125, True)
    (place,) = data["Attachments"]
    assert (place["InstanceId"], place["Device"], place["State"]) == (ids["plain"], "/dev/sdf", "attached")
    assert volume(ec2, ids["shared"])["MultiAttachEnabled"] is True
    workspace.empty_plan()
    change = ("-var", "size=10", "-var", "throughput=250", "-var", "device=/dev/sdh")
    workspace.apply(*change)
    data = volume(ec2, ids["data"])
    assert (data["Size"], data["Throughput"], data["State"]) == (10, 250, "in-use"), "grown where it is"
    assert volume(ec2, ids["shared"])["Attachments"][0]["Device"] == "/dev/sdh"
    workspace.empty_plan(*change)
    workspace.destroy(*change)
    gone(ec2)


SNAPSHOTS = """
variable "encrypt" { default = true }
variable "size" { default = 9 }
variable "name" { default = "first" }

resource "aws_ebs_encryption_by_default" "on" { enabled = var.encrypt }

resource "aws_ebs_volume" "data" {
  availability_zone = local.zones[0]
  size              = 8
  encrypted         = true
}

resource "aws_ebs_snapshot" "data" {
  volume_id   = aws_ebs_volume.data.id
  description = "of data"
  tags        = { Name = var.name }
}

resource "aws_ebs_snapshot_copy" "copy" {
  source_snapshot_id = aws_ebs_snapshot.data.id
  source_region      = "%(region)s"
  description        = "a copy"
  encrypted          = true
  # The provider takes a key that it did not choose for a difference.
  kms_key_id         = aws_ebs_volume.data.kms_key_id
  tags               = { Name = var.name }
}

resource "aws_ebs_volume" "of_copy" {
  availability_zone = local.zones[1]
  snapshot_id       = aws_ebs_snapshot_copy.copy.id
  type              = "gp3"
  throughput        = 200
}

resource "aws_instance" "disks" {
  ami               = data.aws_ami.micro.id
  instance_type     = "c3.large"
  availability_zone = local.zones[0]
  root_block_device {
    volume_size = var.size
    volume_type = "gp3"
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
  volume_tags = { Owner = var.name }
}

output "of_copy" { value = aws_ebs_volume.of_copy.id }
output "disks" { value = aws_instance.disks.id }
"""


def test_snapshots_and_disks_of_all_kinds(workspace):
    workspace.write(MICRO + SNAPSHOTS % {"region": workspace.region})
    workspace.apply()
    ids, ec2 = outputs(workspace), workspace.client("ec2")
    copied = volume(ec2, ids["of_copy"])
    assert (copied["Size"], copied["Throughput"], copied["Encrypted"]) == (8, 200, True)

    def disks():
        (reservation,) = ec2.describe_instances(InstanceIds=[ids["disks"]])["Reservations"]
        mappings = reservation["Instances"][0]["BlockDeviceMappings"]
        return {m["DeviceName"]: volume(ec2, m["Ebs"]["VolumeId"]) for m in mappings}

    found = disks()
    assert {device: v["Size"] for device, v in found.items()} == {"/dev/xvda": 9, "/dev/sdf": 2, "/dev/sdg": 8}
    assert found["/dev/sdf"]["Encrypted"] and found["/dev/sdg"]["Encrypted"]
    assert {tag["Value"] for v in found.values() for tag in v["Tags"]} == {"first"}
    workspace.empty_plan()
    change = ("-var", "encrypt=false", "-var", "size=12", "-var", "name=second")
    workspace.apply(*change)
    found = disks()
    assert found["/dev/xvda"]["Size"] == 12, "the root grew where it is"
    assert {tag["Value"] for v in found.values() for tag in v["Tags"]} == {"second"}
    assert ec2.get_ebs_encryption_by_default()["EbsEncryptionByDefault"] is False
    workspace.empty_plan(*change)
    workspace.destroy(*change)
    gone(ec2)


IMAGES = """
variable "name" { default = "first" }

resource "aws_instance" "source" {
  ami               = data.aws_ami.micro.id
  instance_type     = "t3.micro"
  ebs_block_device {
    device_name = "/dev/sdf"
    volume_size = 2
  }
}

resource "aws_ami_from_instance" "whole" {
  name               = "whole"
  source_instance_id = aws_instance.source.id
  tags               = { Name = var.name }
}

resource "aws_ebs_volume" "data" {
  availability_zone = local.zones[0]
  size              = 8
}

resource "aws_ebs_snapshot" "data" { volume_id = aws_ebs_volume.data.id }

resource "aws_ami" "of_snapshot" {
  name                = "of-snapshot"
  virtualization_type = "hvm"
  root_device_name    = "/dev/xvda"
  ena_support         = true
  tags                = { Name = var.name }
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
  tags              = { Name = var.name }
}

resource "aws_instance" "of_image" {
  ami           = aws_ami_from_instance.whole.id
  instance_type = "t3.micro"
}

output "of_image" { value = aws_instance.of_image.id }
"""


def test_images(workspace):
    workspace.write(MICRO + IMAGES % {"region": workspace.region})
    workspace.apply()
    ids, ec2 = outputs(workspace), workspace.client("ec2")
    (reservation,) = ec2.describe_instances(InstanceIds=[ids["of_image"]])["Reservations"]
    assert len(reservation["Instances"][0]["BlockDeviceMappings"]) == 2, "the image has both disks"
    workspace.empty_plan()
    change = ("-var", "name=second")
    workspace.apply(*change)
    own = {i["Name"]: i for i in ec2.describe_images(Owners=["self"])["Images"]}
    for name in ("whole", "of-snapshot", "copied"):
        assert own[name]["Tags"] == [{"Key": "Name", "Value": "second"}]
    workspace.empty_plan(*change)
    workspace.destroy(*change)
    gone(ec2)
