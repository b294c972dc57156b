"""Terraform's AWS provider and network interfaces: interfaces with addresses of every kind, attachments, security groups,
elastic addresses and their associations, instances with given interfaces; apply, an empty plan, a change, an empty plan,
destroy."""

INTERFACES = """
variable "description" { default = "first" }
variable "check" { default = true }
variable "secondary" {
  type    = list(string)
  default = ["10.7.1.20", "10.7.1.21"]
}
variable "owner" { default = "one" }
variable "target" { default = "a" }

data "aws_ami" "micro" {
  most_recent = true
  owners      = ["self"]
  filter {
    name   = "name"
    values = ["gureum-micro-*"]
  }
}

resource "aws_vpc" "all" {
  cidr_block                       = "10.7.0.0/16"
  assign_generated_ipv6_cidr_block = true
  enable_dns_hostnames             = true
}

resource "aws_internet_gateway" "all" { vpc_id = aws_vpc.all.id }

resource "aws_subnet" "one" {
  vpc_id            = aws_vpc.all.id
  cidr_block        = "10.7.1.0/24"
  ipv6_cidr_block   = cidrsubnet(aws_vpc.all.ipv6_cidr_block, 8, 1)
  availability_zone = "%(region)sa"
}

# Automatic addresses are elsewhere than those that are named below.
resource "aws_ec2_subnet_cidr_reservation" "named" {
  subnet_id        = aws_subnet.one.id
  cidr_block       = "10.7.1.0/26"
  reservation_type = "explicit"
}

resource "aws_security_group" "one" {
  name   = "one"
  vpc_id = aws_vpc.all.id
}

resource "aws_security_group" "two" {
  name   = "two"
  vpc_id = aws_vpc.all.id
}

resource "aws_network_interface" "many" {
  subnet_id         = aws_subnet.one.id
  private_ips       = concat(["10.7.1.10"], var.secondary)
  security_groups   = [aws_security_group.one.id]
  description       = var.description
  source_dest_check = var.check
  tags              = { Owner = var.owner }
}

resource "aws_network_interface" "six" {
  subnet_id          = aws_ec2_subnet_cidr_reservation.named.subnet_id
  ipv6_address_count = 2
}

resource "aws_network_interface" "prefixes" {
  subnet_id         = aws_ec2_subnet_cidr_reservation.named.subnet_id
  ipv4_prefix_count = 1
}

resource "aws_instance" "a" {
  ami                    = data.aws_ami.micro.id
  instance_type          = "t3.medium"
  subnet_id              = aws_ec2_subnet_cidr_reservation.named.subnet_id
  vpc_security_group_ids = [aws_security_group.one.id]
  secondary_private_ips  = ["10.7.1.31"]
  ipv6_address_count     = 1
}

resource "aws_network_interface" "primary" {
  subnet_id = aws_ec2_subnet_cidr_reservation.named.subnet_id
}

resource "aws_instance" "b" {
  ami           = data.aws_ami.micro.id
  instance_type = "t3.medium"
  network_interface {
    network_interface_id = aws_network_interface.primary.id
    device_index         = 0
  }
}

resource "aws_network_interface" "extra" {
  subnet_id = aws_ec2_subnet_cidr_reservation.named.subnet_id
  lifecycle { ignore_changes = [security_groups] }
}

resource "aws_network_interface_attachment" "extra" {
  instance_id          = var.target == "a" ? aws_instance.a.id : aws_instance.b.id
  network_interface_id = aws_network_interface.extra.id
  device_index         = 1
}

resource "aws_network_interface_sg_attachment" "extra" {
  security_group_id    = aws_security_group.two.id
  network_interface_id = aws_network_interface.extra.id
  depends_on           = [aws_network_interface_attachment.extra]
}

resource "aws_eip" "on_interface" {
  domain                    = "vpc"
  network_interface         = aws_network_interface.many.id
  associate_with_private_ip = "10.7.1.10"
  tags                      = { Owner = var.owner }
  depends_on                = [aws_internet_gateway.all]
}

resource "aws_eip" "free" {
  domain     = "vpc"
  depends_on = [aws_internet_gateway.all]
}

resource "aws_eip_association" "free" {
  allocation_id        = aws_eip.free.id
  network_interface_id = aws_network_interface.primary.id
  depends_on           = [aws_instance.b]
}

resource "aws_eip" "named" {
  domain = "vpc"
}

resource "aws_eip_domain_name" "named" {
  allocation_id = aws_eip.named.allocation_id
  domain_name   = "${var.description}.example.com"
}

data "aws_network_interface" "many" { id = aws_network_interface.many.id }

data "aws_eip" "free" { id = aws_eip.free.id }

output "many" { value = aws_network_interface.many.id }
output "extra" { value = aws_network_interface.extra.id }
output "a" { value = aws_instance.a.id }
output "b" { value = aws_instance.b.id }
output "free" { value = data.aws_eip.free.public_ip }
"""


def test_interfaces(workspace, region):
    workspace.write(INTERFACES % {"region": region})
    workspace.apply()
    workspace.empty_plan()
    ec2 = workspace.client("ec2")
    names = {key: workspace.run("output", "-raw", key).stdout for key in ("many", "extra", "a", "b", "free")}

    def interface(key):
        (found,) = ec2.describe_network_interfaces(NetworkInterfaceIds=[names[key]])["NetworkInterfaces"]
        return found

    def instance(key):
        return ec2.describe_instances(InstanceIds=[names[key]])["Reservations"][0]["Instances"][0]

    many = interface("many")
    assert [a["PrivateIpAddress"] for a in many["PrivateIpAddresses"]] == ["10.7.1.10", "10.7.1.20", "10.7.1.21"]
    assert interface("extra")["Attachment"]["InstanceId"] == names["a"] and len(interface("extra")["Groups"]) == 2
    assert instance("b")["PublicIpAddress"] == names["free"]
    assert len(instance("a")["NetworkInterfaces"][0]["PrivateIpAddresses"]) == 2 and instance("a")["Ipv6Address"]

    change = ["description=second", "check=false", 'secondary=["10.7.1.21"]', "owner=two", "target=b"]
    change = [word for one in change for word in ("-var", one)]
    workspace.apply(*change)
    workspace.empty_plan(*change)
    many = interface("many")
    assert (many["Description"], many["SourceDestCheck"]) == ("second", False)
    assert sorted(a["PrivateIpAddress"] for a in many["PrivateIpAddresses"]) == ["10.7.1.10", "10.7.1.21"]
    assert interface("extra")["Attachment"]["InstanceId"] == names["b"]
    workspace.destroy(*change)
    assert ec2.describe_addresses()["Addresses"] == []
    left = ec2.describe_network_interfaces(Filters=[{"Name": "vpc-id", "Values": [many["VpcId"]]}])
    assert left["NetworkInterfaces"] == []
