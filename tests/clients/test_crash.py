"""kill -9 at random moments under a load of writes: what was acknowledged is there, nothing is half made."""

import os
import random
import threading
import time

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from support import Daemon, binary, wait_for

ROUNDS = int(os.environ.get("GUREUM_CRASH_ROUNDS", "200"))
# So many regions share the rounds: a start takes as long as there is state.
PARTS = 5
REGION = "eu-north-1"


class Writer(threading.Thread):
    """Makes, tags and terminates instances and key pairs until told to stop; remembers what was acknowledged."""

    def __init__(self, daemon, image, number, seed, up):
        super().__init__(daemon=True)
        self.ec2 = daemon.client("ec2", REGION)
        self.image, self.number, self.random = image, number, random.Random(seed)
        self.instances, self.tags, self.terminated, self.keys = set(), {}, set(), set()
        self.deleted, self.up, self.ended, self.failure = set(), up, False, None

    def run(self):
        count = 0
        while not self.ended:
            count += 1
            try:
                self.write(count)
            except (BotoCoreError, OSError):
                self.up.wait(10)  # the daemon is down: this write was not acknowledged
            except ClientError as error:
                self.failure = error
                return

    def write(self, count):
        kind = self.random.choice(["run", "tag", "key", "delete", "terminate"])
        live = sorted(self.instances - self.terminated)
        if kind == "run":
            answer = self.ec2.run_instances(ImageId=self.image, InstanceType="t3.micro", MinCount=1, MaxCount=1)
            self.instances.add(answer["Instances"][0]["InstanceId"])
        elif kind == "tag" and live:
            instance, value = self.random.choice(live), str(count)
            # Until an answer comes every value since the last answer is legal.
            self.tags[instance] = self.tags.get(instance, (None,)) + (value,)
            self.ec2.create_tags(Resources=[instance], Tags=[{"Key": "count", "Value": value}])
            self.tags[instance] = (value,)
        elif kind == "key":
            name = f"key-{self.number}-{count}"
            self.ec2.import_key_pair(
                KeyName=name,
                PublicKeyMaterial=b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2yg3zqmJtbpHVeqJhN5sUa1P3wWfVPnwS0HfWYbVQJ x",
            )
            self.keys.add(name)
        elif kind == "delete" and self.keys:
            # Until the answer comes it may be there or not.
            name = self.keys.pop()
            self.ec2.delete_key_pair(KeyName=name)
            self.deleted.add(name)
        elif kind == "terminate" and len(live) > 20:
            instance = live[0]
            self.ec2.terminate_instances(InstanceIds=[instance])
            self.terminated.add(instance)


@pytest.mark.parametrize("part", range(PARTS))
def test_acknowledged_writes_survive(tmp_path, part):
    seed = int(os.environ.get("GUREUM_SEED", random.randrange(1 << 32)))
    print(f"GUREUM_SEED={seed}")
    chance = random.Random(seed)
    with Daemon(binary(), tmp_path, ["--driver", "sim"]) as daemon:
        ec2 = daemon.client("ec2", REGION)
        image = ec2.describe_images()["Images"][0]["ImageId"]
        up = threading.Event()
        writers = [Writer(daemon, image, number, chance.random(), up) for number in range(3)]
        for writer in writers:
            writer.start()
        up.set()
        for _ in range(part, ROUNDS, PARTS):
            time.sleep(chance.uniform(0.005, 0.15))  # the random moment, not a wait
            daemon.kill()
            up.clear()
            daemon.start()
            up.set()
        for writer in writers:
            writer.ended = True
        for writer in writers:
            writer.join(60)
            assert writer.failure is None, writer.failure
        check(ec2, writers)
        daemon.kill()
        daemon.start()
        check(ec2, writers)


def check(ec2, writers):
    def settled():
        instances = {
            i["InstanceId"]: i
            for page in ec2.get_paginator("describe_instances").paginate()
            for r in page["Reservations"]
            for i in r["Instances"]
        }
        moving = {"pending", "shutting-down", "stopping"}
        return None if any(i["State"]["Name"] in moving for i in instances.values()) else instances

    instances = wait_for(settled, "every instance to settle", 60, 0.2)
    keys = {key["KeyName"] for key in ec2.describe_key_pairs()["KeyPairs"]}
    for writer in writers:
        assert writer.keys <= keys, f"lost key pairs: {writer.keys - keys}"
        assert not writer.deleted & keys, f"key pairs that came back: {writer.deleted & keys}"
        assert writer.instances <= instances.keys(), f"lost instances: {writer.instances - instances.keys()}"
        for instance in writer.terminated:
            assert instances[instance]["State"]["Name"] == "terminated"
        for instance in writer.instances - writer.terminated:
            state = instances[instance]["State"]["Name"]
            # A terminate that was cut off may have been done or not.
            assert state in ("running", "terminated"), (instance, state)
        for instance, legal in writer.tags.items():
            if instances[instance]["State"]["Name"] == "running":
                tags = {tag["Key"]: tag["Value"] for tag in instances[instance].get("Tags", [])}
                assert tags.get("count") in legal, (instance, tags, legal)
    running = {i for i, it in instances.items() if it["State"]["Name"] == "running"}
    interfaces = [
        i for page in ec2.get_paginator("describe_network_interfaces").paginate() for i in page["NetworkInterfaces"]
    ]
    assert sorted(i["Attachment"]["InstanceId"] for i in interfaces) == sorted(running), "interfaces do not match instances"
    volumes = [v for page in ec2.get_paginator("describe_volumes").paginate() for v in page["Volumes"]]
    assert sorted(v["Attachments"][0]["InstanceId"] for v in volumes) == sorted(running), "volumes do not match instances"
    subnets = ec2.describe_subnets()["Subnets"]
    used = sum(4091 - subnet["AvailableIpAddressCount"] for subnet in subnets)
    assert used == len(running), "addresses leak"


@pytest.mark.parametrize("driver", ["sim"])
def test_a_busy_port_is_said_plainly(tmp_path, driver):
    import subprocess

    with Daemon(binary(), tmp_path / "first", ["--driver", driver]) as daemon:
        second = subprocess.run(
            [binary(), "serve", "--driver", driver, "--listen", f"127.0.0.1:{daemon.port}", "--data-dir", str(tmp_path / "second")],
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert second.returncode != 0 and "cannot listen on" in second.stderr
        same = subprocess.run(
            [binary(), "serve", "--driver", driver, "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "first")],
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert same.returncode != 0 and "store" in same.stderr


def test_a_retried_launch_is_one(tmp_path):
    """A client token is kept with what it made: the same request after a crash makes nothing twice."""
    chance = random.Random(int(os.environ.get("GUREUM_SEED", "7")))
    with Daemon(binary(), tmp_path, ["--driver", "sim"]) as daemon:
        ec2 = daemon.client("ec2", REGION)
        image = ec2.describe_images()["Images"][0]["ImageId"]
        answers = {}

        def ask(token):
            try:
                answer = ec2.run_instances(ImageId=image, InstanceType="t3.micro", MinCount=2, MaxCount=2, ClientToken=token)
            except BotoCoreError:
                return
            names = sorted(i["InstanceId"] for i in answer["Instances"])
            assert answers.setdefault(token, names) == names

        for number in range(10):
            token = f"token-{number}"
            asking = threading.Thread(target=ask, args=(token,))
            asking.start()
            time.sleep(chance.uniform(0, 0.02))  # the random moment, not a wait
            daemon.kill()
            asking.join()
            daemon.start()
            ask(token)
        seen = sorted(
            i["InstanceId"] for page in ec2.get_paginator("describe_instances").paginate() for r in page["Reservations"] for i in r["Instances"]
        )
        assert len(seen) == 20 and seen == sorted(name for names in answers.values() for name in names)
