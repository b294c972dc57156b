"""The network of the textbooks on real machines: what is drawn is reached, and nothing else.

One VPC with a public, a private and a database subnet in two zones, a bastion, a NAT gateway; then an interface with its
elastic address moves from one machine to another while somebody looks."""

import os
import socket
import subprocess
import threading
import time

import pytest
from conftest import REGION
from lesson import Machine, create_key, fetch, image, knock, permission
from support import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="real machines need root")

ANYWHERE = "0.0.0.0/0"
# Its own name, so that who asks knows who answered; port 8080 listens to nobody.
PAGE = "#!/bin/sh\nmkdir -p /tmp/www; echo {name} > /tmp/www/index.html; busybox httpd -p 80 -h /tmp/www; busybox httpd -p 5432 -h /tmp/www\n"


class Network:
    """The drawing."""

    def __init__(self, ec2, directory):
        self.ec2 = ec2
        self.key = create_key(ec2, directory, "network")
        self.vpc = ec2.create_vpc(CidrBlock="10.20.0.0/16")["Vpc"]["VpcId"]
        ec2.modify_vpc_attribute(VpcId=self.vpc, EnableDnsHostnames={"Value": True})
        self.gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        ec2.attach_internet_gateway(InternetGatewayId=self.gateway, VpcId=self.vpc)
        self.public = self.subnet("10.20.0.0/24", "a")
        self.private = self.subnet("10.20.1.0/24", "a")
        self.database = self.subnet("10.20.2.0/24", "b")
        outside = self.table(self.public)
        ec2.create_route(RouteTableId=outside, DestinationCidrBlock=ANYWHERE, GatewayId=self.gateway)
        self.address = ec2.allocate_address(Domain="vpc")
        self.nat = ec2.create_nat_gateway(SubnetId=self.public, AllocationId=self.address["AllocationId"])["NatGateway"]["NatGatewayId"]
        ec2.get_waiter("nat_gateway_available").wait(NatGatewayIds=[self.nat], WaiterConfig={"Delay": 1})
        through = self.table(self.private)
        ec2.create_route(RouteTableId=through, DestinationCidrBlock=ANYWHERE, NatGatewayId=self.nat)
        self.table(self.database)
        self.bastion_group = self.group("bastion", permission(22))
        self.web_group = self.group("web", permission(80) + permission(8080) + self.from_group(22, self.bastion_group))
        self.data_group = self.group("data", self.from_group(5432, self.web_group) + self.from_group(22, self.bastion_group))

    def subnet(self, cidr, zone):
        made = self.ec2.create_subnet(VpcId=self.vpc, CidrBlock=cidr, AvailabilityZone=REGION + zone)
        return made["Subnet"]["SubnetId"]

    def table(self, subnet):
        made = self.ec2.create_route_table(VpcId=self.vpc)["RouteTable"]["RouteTableId"]
        self.ec2.associate_route_table(RouteTableId=made, SubnetId=subnet)
        return made

    def group(self, name, permissions):
        made = self.ec2.create_security_group(GroupName=name, Description=name, VpcId=self.vpc)["GroupId"]
        self.ec2.authorize_security_group_ingress(GroupId=made, IpPermissions=permissions)
        return made

    def from_group(self, port, group):
        return [{"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "UserIdGroupPairs": [{"GroupId": group}]}]

    def launch(self, name, subnet, group, public=False):
        interface = {"DeviceIndex": 0, "SubnetId": subnet, "Groups": [group], "AssociatePublicIpAddress": public}
        made = self.ec2.run_instances(
            ImageId=image(self.ec2, "gureum-micro-*"), InstanceType="t3.micro", MinCount=1, MaxCount=1,
            KeyName=self.key.stem, NetworkInterfaces=[interface], UserData=PAGE.format(name=name),
        )["Instances"][0]
        return Inside(self, made["InstanceId"])


class Inside(Machine):
    """A machine that is reached through the bastion, if it is not that."""

    def __init__(self, network, instance_id):
        super().__init__(network.ec2, instance_id, network.key)
        self.network = network

    def ssh_command(self, command):
        if self is self.network.bastion:
            return super().ssh_command(command)
        options = f"ssh -i {self.key} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        through = f"{options} -W %h:%p {self.user}@{self.network.bastion.public}"
        return [*options.split(), "-o", "ConnectTimeout=30", "-o", "BatchMode=yes", "-o", f"ProxyCommand={through}", f"{self.user}@{self.private}", command]

    def meets(self, address, port):
        """What a connection from here meets: open, refused or timeout."""
        done = self.ssh(f"busybox nc -w 3 {address} {port} </dev/null >/dev/null 2>/tmp/why; echo $?; cat /tmp/why", check=False)
        code, *why = done.split("\n")
        if code == "0":
            return "open"
        return "refused" if "refused" in " ".join(why) else "timeout"


@pytest.fixture(scope="module")
def network(ec2, tmp_path_factory):
    network = Network(ec2, tmp_path_factory.mktemp("network"))
    network.bastion = network.launch("bastion", network.public, network.bastion_group, public=True)
    network.web = network.launch("web", network.public, network.web_group, public=True)
    network.worker = network.launch("worker", network.private, network.web_group)
    network.data = network.launch("data", network.database, network.data_group)
    for machine in (network.bastion, network.web, network.worker, network.data):
        machine.wait_state("running")
        machine.ssh("true")
    return network


def test_three_tiers(network):
    web, worker, data, bastion = network.web, network.worker, network.data, network.bastion
    wait_for(lambda: fetch(web.public) == "web", "the page", 60)
    # From outside: what is allowed is open, what nobody listens to is refused, all else is silence.
    assert knock(web.public, 8080)[0] == "refused"
    assert knock(web.public, 22)[0] == "timeout"
    assert knock(bastion.public, 80)[0] == "timeout"
    # Inside: only the web tier reaches the data, and the data reaches nobody outside.
    wait_for(lambda: web.meets(data.private, 5432) == "open", "the database", 60)
    assert worker.meets(data.private, 5432) == "open"
    assert bastion.meets(data.private, 5432) == "timeout"
    assert web.meets(data.private, 80) == "timeout"
    host = host_address()
    with listener(host) as world:
        # The private subnet gets out through the NAT gateway; the data subnet does not.
        assert worker.meets(host, world.port) == "open"
        assert bastion.meets(host, world.port) == "open"
        assert data.meets(host, world.port) == "timeout"
        assert set(world.callers) == {network.address["PublicIp"], bastion.public}
    addresses = network.ec2.describe_nat_gateways(NatGatewayIds=[network.nat])["NatGateways"][0]["NatGatewayAddresses"]
    assert addresses[0]["PublicIp"] == network.address["PublicIp"]


def test_a_changed_rule_and_a_changed_route_are_obeyed(network):
    ec2, web, data = network.ec2, network.web, network.data
    assert web.meets(data.private, 5432) == "open"
    rule = network.from_group(5432, network.web_group)
    ec2.revoke_security_group_ingress(GroupId=network.data_group, IpPermissions=rule)
    wait_for(lambda: web.meets(data.private, 5432) == "timeout", "the revoked rule to be obeyed", 30)
    ec2.authorize_security_group_ingress(GroupId=network.data_group, IpPermissions=rule)
    wait_for(lambda: web.meets(data.private, 5432) == "open", "the rule again", 30)
    acl = ec2.create_network_acl(VpcId=network.vpc)["NetworkAcl"]["NetworkAclId"]
    old = subnet_association(ec2, network.database)
    new = ec2.replace_network_acl_association(AssociationId=old["NetworkAclAssociationId"], NetworkAclId=acl)["NewAssociationId"]
    wait_for(lambda: web.meets(data.private, 5432) == "timeout", "an ACL without rules denies", 30)
    ec2.replace_network_acl_association(AssociationId=new, NetworkAclId=old["NetworkAclId"])
    wait_for(lambda: web.meets(data.private, 5432) == "open", "the default ACL again", 30)
    ec2.delete_network_acl(NetworkAclId=acl)


def subnet_association(ec2, subnet):
    acls = ec2.describe_network_acls(Filters=[{"Name": "association.subnet-id", "Values": [subnet]}])["NetworkAcls"]
    return next(a for a in acls[0]["Associations"] if a["SubnetId"] == subnet)


def test_an_interface_with_its_address_moves_while_a_client_looks(network):
    ec2 = network.ec2
    made = ec2.create_network_interface(SubnetId=network.public, Groups=[network.web_group], Description="failover")
    interface = made["NetworkInterface"]["NetworkInterfaceId"]
    private = made["NetworkInterface"]["PrivateIpAddress"]
    address = ec2.allocate_address(Domain="vpc")
    ec2.associate_address(AllocationId=address["AllocationId"], NetworkInterfaceId=interface)
    first, second = network.bastion, network.web
    attachment = attach(ec2, interface, first)
    configure(first, private)
    wait_for(lambda: fetch(address["PublicIp"]) == "bastion", "the first machine", 60)
    seen, enough = [], threading.Event()

    def look():
        while not enough.is_set():
            seen.append((time.monotonic(), fetch(address["PublicIp"], timeout=1)))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        wait_for(lambda: any(page == "bastion" for _, page in seen), "a look", 30)
        ec2.detach_network_interface(AttachmentId=attachment)
        ec2.get_waiter("network_interface_available").wait(NetworkInterfaceIds=[interface], WaiterConfig={"Delay": 1})
        attach(ec2, interface, second)
        configure(second, private)
        wait_for(lambda: seen and seen[-1][1] == "web", "the second machine", 60)
    finally:
        enough.set()
        looking.join()
    lost = next(at for at, page in seen if page == "web") - max(at for at, page in seen if page == "bastion")
    print(f"an interface moved to another machine: {lost:.1f} s of loss")
    moved = ec2.describe_network_interfaces(NetworkInterfaceIds=[interface])["NetworkInterfaces"][0]
    assert moved["MacAddress"] == made["NetworkInterface"]["MacAddress"]
    assert moved["Association"]["PublicIp"] == address["PublicIp"]
    assert moved["PrivateIpAddress"] == private
    ec2.detach_network_interface(AttachmentId=moved["Attachment"]["AttachmentId"])
    ec2.get_waiter("network_interface_available").wait(NetworkInterfaceIds=[interface], WaiterConfig={"Delay": 1})
    ec2.delete_network_interface(NetworkInterfaceId=interface)
    ec2.release_address(AllocationId=address["AllocationId"])


def attach(ec2, interface, machine):
    attached = ec2.attach_network_interface(NetworkInterfaceId=interface, InstanceId=machine.id, DeviceIndex=1)

    def there():
        found = ec2.describe_network_interfaces(NetworkInterfaceIds=[interface])["NetworkInterfaces"][0]
        return found["Attachment"]["Status"] == "attached"

    wait_for(there, f"{interface} at {machine.id}", 60)
    return attached["AttachmentId"]


def configure(machine, private):
    """What cloud images do by themselves for a second interface: address, and a table of routes for it."""
    link = wait_for(lambda: machine.ssh("ls /sys/class/net | grep -v -e lo -e eth0 -e sit | head -1"), "the link in the guest", 60)
    machine.ssh(
        f"sudo ip link set {link} up && sudo ip address add {private}/24 dev {link} && "
        f"sudo ip route add default via 10.20.0.1 dev {link} table 101 && sudo ip rule add from {private} table 101"
    )


def host_address():
    """An address of this machine that is not of the region: where guests go out to."""
    routes = subprocess.run(["ip", "-4", "-o", "address", "show", "scope", "global"], capture_output=True, text=True, check=True)
    return routes.stdout.split()[3].split("/")[0]


class listener:
    """Something of the world that answers: it says from where it was called, and hangs up."""

    def __init__(self, address):
        self.socket = socket.create_server((address, 0), backlog=64)
        self.callers = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, (caller, _) = self.socket.accept()
            except OSError:
                return  # Closed.
            self.callers.append(caller)
            connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    @property
    def port(self):
        return self.socket.getsockname()[1]
