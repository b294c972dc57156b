"""kill -9 of the daemon between any two steps of a change of the network: packets go on under the last complete rules,
and the next daemon converges and removes what is stale."""

import os
import random
import subprocess
import threading
import time

import pytest
from conftest import DATA, REGION, build
from faulty import Region
from lesson import create_key, fetch, image, knock, permission, Machine
from support import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="real machines need root")

ROUNDS = int(os.environ.get("GUREUM_NETWORK_CRASH_ROUNDS", "25"))
ANYWHERE = "0.0.0.0/0"
PAGE = "#!/bin/sh\nmkdir -p /tmp/www; echo here > /tmp/www/index.html; busybox httpd -p 80 -h /tmp/www\n"


def picture(region):
    """What the kernel holds of a region, in an order of its own."""
    listing = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    spaces = sorted(line.split()[0] for line in listing.splitlines() if line.startswith(region.prefix))
    commands = (["ip", "rule"], ["ip", "-6", "rule"], ["ip", "route", "show", "table", "all"], ["nft", "-s", "list", "ruleset"])
    lines = []
    for space in spaces:
        for command in commands:
            shown = subprocess.run(["ip", "netns", "exec", space, *command], capture_output=True, text=True)
            # Elements come in the order of their hashes.
            words = shown.stdout.replace("elements = {", "").replace(", ", "\n").splitlines()
            lines += [f"{space} {command[-1]}: {' '.join(line.split())}" for line in words]
    return sorted(lines)


class Watch(threading.Thread):
    """Looks at what is allowed and at what is not, all the time."""

    def __init__(self, address):
        super().__init__()
        self.address, self.enough, self.open, self.gaps = address, threading.Event(), [], []

    def run(self):
        last = time.monotonic()
        while not self.enough.is_set():
            if fetch(self.address, timeout=2) == "here":
                now = time.monotonic()
                self.gaps.append(now - last)
                last = now
            answer, _ = knock(self.address, 81, 0.3)
            if answer != "timeout":
                self.open.append(answer)

    def __exit__(self, *_):
        self.enough.set()
        self.join()

    def __enter__(self):
        self.start()
        return self


class Changes:
    """Changes of the network, and the way back."""

    def __init__(self, ec2, vpc, subnet, group, rng):
        self.ec2, self.vpc, self.subnet, self.group, self.rng = ec2, vpc, subnet, group, rng
        self.undo = []

    def rule(self):
        port = self.rng.randrange(1000, 60000)
        self.ec2.authorize_security_group_ingress(GroupId=self.group, IpPermissions=permission(port))
        self.undo.append(lambda: self.ec2.revoke_security_group_ingress(GroupId=self.group, IpPermissions=permission(port)))

    def route(self):
        (table,) = self.ec2.describe_route_tables(Filters=[{"Name": "association.subnet-id", "Values": [self.subnet]}])["RouteTables"]
        cidr = f"192.168.{self.rng.randrange(256)}.0/24"
        gateway = next(r["GatewayId"] for r in table["Routes"] if r["DestinationCidrBlock"] == ANYWHERE)
        if any(r["DestinationCidrBlock"] == cidr for r in table["Routes"]):
            return
        self.ec2.create_route(RouteTableId=table["RouteTableId"], DestinationCidrBlock=cidr, GatewayId=gateway)
        self.undo.append(lambda: self.ec2.delete_route(RouteTableId=table["RouteTableId"], DestinationCidrBlock=cidr))

    def acl(self):
        acls = self.ec2.describe_network_acls(Filters=[{"Name": "association.subnet-id", "Values": [self.subnet]}])["NetworkAcls"]
        acl, number = acls[0]["NetworkAclId"], self.rng.randrange(200, 32000)
        self.ec2.create_network_acl_entry(
            NetworkAclId=acl, RuleNumber=number, Protocol="6", RuleAction="deny", Egress=False, CidrBlock="198.51.100.0/24",
            PortRange={"From": 22, "To": 22},
        )
        self.undo.append(lambda: self.ec2.delete_network_acl_entry(NetworkAclId=acl, RuleNumber=number, Egress=False))
        if len([e for e in acls[0]["Entries"] if not e["Egress"]]) > 15:
            self.undo.pop()()

    def gateway(self):
        made = self.ec2.create_nat_gateway(SubnetId=self.subnet, ConnectivityType="private")["NatGateway"]["NatGatewayId"]
        self.undo.append(lambda: self.ec2.delete_nat_gateway(NatGatewayId=made))
        if self.rng.random() < 0.5:
            self.undo.pop()()

    def back(self):
        if self.undo:
            self.undo.pop(self.rng.randrange(len(self.undo)))()

    def one(self):
        self.rng.choice([self.rule, self.rule, self.route, self.acl, self.gateway, self.back])()


def test_packets_go_on_while_daemons_are_killed(tmp_path):
    build("micro")
    seed = int(os.environ.get("GUREUM_SEED", random.randrange(1 << 32)))
    print(f"seed {seed}")
    rng = random.Random(seed)
    with Region(tmp_path / "region", "n", [DATA / "images/micro"]) as region:
        ec2 = region.client("ec2", REGION)
        wait_for(lambda: ec2.describe_images()["Images"], "the image", 60, 0.1)
        key = create_key(ec2, tmp_path, "crash")
        vpc = ec2.create_vpc(CidrBlock="10.30.0.0/16")["Vpc"]["VpcId"]
        gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
        subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.30.0.0/24")["Subnet"]["SubnetId"]
        table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
        ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
        ec2.create_route(RouteTableId=table, DestinationCidrBlock=ANYWHERE, GatewayId=gateway)
        group = ec2.create_security_group(GroupName="web", Description="web", VpcId=vpc)["GroupId"]
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=permission(80))
        interface = {"DeviceIndex": 0, "SubnetId": subnet, "Groups": [group], "AssociatePublicIpAddress": True}
        made = ec2.run_instances(
            ImageId=image(ec2, "gureum-micro-*"), InstanceType="t3.micro", MinCount=1, MaxCount=1, KeyName=key.stem,
            NetworkInterfaces=[interface], UserData=PAGE,
        )["Instances"][0]
        machine = Machine(ec2, made["InstanceId"], key)
        machine.wait_state("running")
        machine.page()
        changes = Changes(ec2, vpc, subnet, group, rng)
        before = picture(region)
        with Watch(machine.public) as watch:
            for _ in range(ROUNDS):
                killer = threading.Timer(rng.random() * 0.15, region.kill)
                killer.start()
                try:
                    for _ in range(3):
                        changes.one()
                except Exception as error:  # noqa: BLE001 The daemon died under the call; anything else is told below.
                    killer.join()
                    assert region.process.poll() is not None, error
                killer.join()
                region.start()
            # The daemon may have died before or after a change that it did not answer: all that is there goes.
            restore(ec2, changes, vpc, subnet, group, table)
        assert not watch.open, f"a port that is denied answered: {watch.open}"
        assert max(watch.gaps) < 2, f"the page was gone for {max(watch.gaps):.1f} s"
        now = []

        def same():
            now[:] = picture(region)
            return now == before

        try:
            wait_for(same, "the kernel to hold what it held before", 60, 0.5)
        except AssertionError:
            lost, stale = sorted(set(before) - set(now)), sorted(set(now) - set(before))
            raise AssertionError(f"seed {seed}; lost: {lost[:20]}; stale: {stale[:20]}") from None


def restore(ec2, changes, vpc, subnet, group, table):
    for rule in ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [group]}])["SecurityGroupRules"]:
        if not rule["IsEgress"] and rule["FromPort"] != 80:
            ec2.revoke_security_group_ingress(GroupId=group, SecurityGroupRuleIds=[rule["SecurityGroupRuleId"]])
    for route in ec2.describe_route_tables(RouteTableIds=[table])["RouteTables"][0]["Routes"]:
        if route["DestinationCidrBlock"].startswith("192.168."):
            ec2.delete_route(RouteTableId=table, DestinationCidrBlock=route["DestinationCidrBlock"])
    acls = ec2.describe_network_acls(Filters=[{"Name": "association.subnet-id", "Values": [subnet]}])["NetworkAcls"]
    for entry in acls[0]["Entries"]:
        if 200 <= entry["RuleNumber"] < 32767:
            ec2.delete_network_acl_entry(NetworkAclId=acls[0]["NetworkAclId"], RuleNumber=entry["RuleNumber"], Egress=entry["Egress"])
    gateways = lambda: [  # noqa: E731
        g for g in ec2.describe_nat_gateways(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["NatGateways"] if g["State"] != "deleted"
    ]
    for gateway in gateways():
        if gateway["State"] not in ("deleting", "failed"):
            ec2.delete_nat_gateway(NatGatewayId=gateway["NatGatewayId"])
    wait_for(lambda: not gateways(), "the NAT gateways to be gone", 60, 0.2)
