"""kill -9 of the daemon, of QEMU and of the storage process while disks and snapshots are made, filled, copied and
deleted: nothing acknowledged is lost, no snapshot is damaged, and `gureum fsck` finds neither damage nor leaks."""

import hashlib
import base64
import os
import pathlib
import random
import signal
import subprocess
import threading
import time

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from conftest import DATA, REGION, build
from faulty import Region
from lesson import create_group, create_key, launch
from support import wait_for
from test_disks import WRITER, Writer, attach, volume, wait_snapshot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="real disks need root")

ROUNDS = int(os.environ.get("GUREUM_DISK_CRASH_ROUNDS", "300"))
# Of them, so many with a machine, which has to boot again.
MACHINE_ROUNDS = max(1, ROUNDS // 25)
BLOCK = 512 << 10
ZONE = f"{REGION}a"


def seed():
    value = int(os.environ.get("GUREUM_SEED", random.randrange(1 << 32)))
    print(f"GUREUM_SEED={value}")
    return random.Random(value)


def helpers(region, *names):
    """Processes of the region that serve disks: they work in its directory."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            here = (process / "cwd").resolve() == region.directory.resolve()
            words = (process / "cmdline").read_bytes().split(b"\0")
            if here and any(name.encode() in words[0] or name.encode() in words[1:2] for name in names):
                found.append(int(process.name))
        except OSError:
            pass  # It has ended.
    return found


def fsck(region, *options):
    command = [region.program, "fsck", "--data-dir", str(region.directory), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def check_store(region):
    """Stops the region and has fsck prove that nothing is damaged, and nothing leaked: what was deleted just before a
    stop is swept at the next start."""
    deadline = time.monotonic() + 60
    while True:
        region.stop()
        code, said = fsck(region, "--deep")
        if code == 0:
            return
        assert "0 damaged" in said and time.monotonic() < deadline, said
        region.start()


class Worker(threading.Thread):
    """Makes, copies and deletes snapshots and volumes; remembers what was acknowledged."""

    def __init__(self, region, number, chance, up):
        super().__init__(daemon=True)
        self.ec2, self.ebs = region.client("ec2", REGION), region.client("ebs", REGION)
        self.number, self.random, self.up = number, random.Random(chance), up
        # Snapshot to its blocks (index to SHA-256); volume to the blocks that it was made with.
        self.snapshots, self.volumes, self.deleted = {}, {}, set()
        self.ended, self.failure, self.count = False, None, 0

    def run(self):
        steps = [self.upload, self.make_volume, self.snapshot, self.copy, self.delete_snapshot, self.delete_volume]
        while not self.ended:
            try:
                self.random.choice(steps)()
            except (BotoCoreError, OSError):
                self.up.wait(10)  # The daemon is down: this was not acknowledged.
            except ClientError as error:
                code = error.response["Error"]["Code"]
                # What is still under way after a crash may refuse for a moment.
                if code not in ("IncorrectState", "ConcurrentSnapshotLimitExceeded", "ResourceLimitExceeded"):
                    self.failure = error
                    return
                time.sleep(0.02)

    def completed(self):
        known = sorted(self.snapshots)
        if not known:
            return None
        chosen = self.random.choice(known)
        state = self.ec2.describe_snapshots(SnapshotIds=[chosen])["Snapshots"][0]["State"]
        assert state in ("pending", "completed"), state
        return chosen if state == "completed" else None

    def upload(self):
        if len(self.snapshots) > 12:
            return
        made = self.ebs.start_snapshot(VolumeSize=1, Description=f"worker {self.number}")["SnapshotId"]
        blocks = {}
        for index in sorted(self.random.sample(range(2048), self.random.randint(1, 4))):
            data = self.random.randbytes(BLOCK)
            digest = hashlib.sha256(data).digest()
            self.ebs.put_snapshot_block(
                SnapshotId=made, BlockIndex=index, BlockData=data, DataLength=BLOCK,
                Checksum=base64.b64encode(digest).decode(), ChecksumAlgorithm="SHA256",
            )
            blocks[index] = digest
        self.ebs.complete_snapshot(SnapshotId=made, ChangedBlocksCount=len(blocks))
        self.snapshots[made] = blocks

    def make_volume(self):
        source = self.completed()
        if source is None or len(self.volumes) > 6:
            return
        made = self.ec2.create_volume(SnapshotId=source, AvailabilityZone=ZONE, VolumeType="gp3")["VolumeId"]
        self.volumes[made] = self.snapshots[source]

    def snapshot(self):
        if not self.volumes or len(self.snapshots) > 12:
            return
        chosen = self.random.choice(sorted(self.volumes))
        made = self.ec2.create_snapshot(VolumeId=chosen)["SnapshotId"]
        self.snapshots[made] = self.volumes[chosen]

    def copy(self):
        source = self.completed()
        if source is None or len(self.snapshots) > 12:
            return
        encrypted = {"Encrypted": True} if self.random.random() < 0.5 else {}
        made = self.ec2.copy_snapshot(SourceSnapshotId=source, SourceRegion=REGION, **encrypted)["SnapshotId"]
        self.snapshots[made] = self.snapshots[source]

    def delete_snapshot(self):
        if len(self.snapshots) > 6:
            gone = self.random.choice(sorted(self.snapshots))
            # Until the answer comes it may be there or not.
            del self.snapshots[gone]
            self.ec2.delete_snapshot(SnapshotId=gone)
            self.deleted.add(gone)

    def delete_volume(self):
        if len(self.volumes) > 3:
            gone = self.random.choice(sorted(self.volumes))
            del self.volumes[gone]
            self.ec2.delete_volume(VolumeId=gone)


def test_nothing_acknowledged_is_lost(tmp_path):
    chance = seed()
    with Region(tmp_path, "j", []) as region:
        up = threading.Event()
        workers = [Worker(region, number, chance.random(), up) for number in range(3)]
        for worker in workers:
            worker.start()
        up.set()
        for _ in range(ROUNDS - MACHINE_ROUNDS):
            time.sleep(chance.uniform(0.005, 0.4))  # The random moment, not a wait.
            victims = helpers(region, "storage", "qemu-nbd", "qemu-storage-daemon", "qemu-img")
            if victims and chance.random() < 0.3:
                try:
                    os.kill(chance.choice(victims), signal.SIGKILL)
                except ProcessLookupError:
                    pass
            else:
                up.clear()
                region.kill()
                region.start()
                up.set()
        for worker in workers:
            worker.ended = True
        for worker in workers:
            worker.join(60)
            assert worker.failure is None, worker.failure
        ec2, ebs = region.client("ec2", REGION), region.client("ebs", REGION)
        check(ec2, ebs, workers)
        check_store(region)
        region.start()
        check(ec2, ebs, workers)
        clean_up(region, ec2)
        check_store(region)


def check(ec2, ebs, workers):
    expected = {made: blocks for worker in workers for made, blocks in worker.snapshots.items()}
    wait_snapshot(ec2, *expected)
    for made, blocks in expected.items():
        found = {}
        for listed in ebs.list_snapshot_blocks(SnapshotId=made)["Blocks"]:
            got = ebs.get_snapshot_block(
                SnapshotId=made, BlockIndex=listed["BlockIndex"], BlockToken=listed["BlockToken"]
            )
            found[listed["BlockIndex"]] = hashlib.sha256(got["BlockData"].read()).digest()
        assert found == blocks, made
    there = {s["SnapshotId"] for s in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]}
    for worker in workers:
        assert not worker.deleted & there, f"came back: {worker.deleted & there}"
    volumes = {v["VolumeId"]: v["State"] for v in ec2.describe_volumes()["Volumes"]}
    for worker in workers:
        for made in worker.volumes:
            wait_for(
                lambda: ec2.describe_volumes(VolumeIds=[made])["Volumes"][0]["State"] == "available",
                f"{made} ({volumes.get(made)})", 60, 0.1,
            )


def clean_up(region, ec2):
    """Deletes everything; the blob store must then be empty."""
    for found in ec2.describe_volumes()["Volumes"]:
        if found["State"] != "deleting":
            ec2.delete_volume(VolumeId=found["VolumeId"])
    for found in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]:
        ec2.delete_snapshot(SnapshotId=found["SnapshotId"])
    wait_for(lambda: not ec2.describe_volumes()["Volumes"], "the volumes to go", 60, 0.1)
    blobs = region.directory / "blobs"
    wait_for(
        lambda: sum(path.is_file() and path.stat().st_size >= 4096 for path in blobs.rglob("*")) == 0,
        "every block to be freed", 60, 0.2,
    )


def test_a_machine_keeps_what_it_was_told(tmp_path):
    """The same with a writer in a machine: QEMU, the storage process and the daemon are killed under it."""
    chance = seed()
    build("micro")
    with Region(tmp_path, "k", [DATA / "images/micro"]) as region:
        ec2 = region.client("ec2", REGION)
        wait_for(lambda: ec2.describe_images()["Images"], "the image", 60, 0.1)
        key, group = create_key(ec2, tmp_path, "crash"), create_group(ec2, "crash", 22)
        first = volume(ec2)
        machine = launch(ec2, key, [group], Placement={"AvailabilityZone": ZONE})
        machine.wait_state("running")
        attach(ec2, machine, first, "/dev/sdf")
        # The disk that is written is one that fills from a snapshot meanwhile.
        machine.ssh("sudo dd if=/dev/urandom of=/dev/sdf bs=1M seek=8 count=64 conv=fsync 2>/dev/null")
        digest = "sudo dd if=/dev/sdX bs=1M skip=8 count=64 2>/dev/null | sha256sum"
        expected = machine.ssh(digest.replace("sdX", "sdf"))
        source = ec2.create_snapshot(VolumeId=first)["SnapshotId"]
        wait_snapshot(ec2, source)
        disk = volume(ec2, None, SnapshotId=source)
        attach(ec2, machine, disk, "/dev/sdg")
        least, taken = 0, []
        for _ in range(MACHINE_ROUNDS):
            writer = Writer(machine, WRITER.replace("DEVICE", "/dev/sdg").replace("i=0", f"i={least + 1000}"))
            writer.wait_more()
            if chance.random() < 0.7:
                try:
                    before = writer.acknowledged
                    taken.append((ec2.create_snapshot(VolumeId=disk)["SnapshotId"], before))
                except ClientError as error:
                    assert error.response["Error"]["Code"] == "ConcurrentSnapshotLimitExceeded"
            time.sleep(chance.uniform(0, 0.3))  # The random moment.
            victim = chance.choice(["daemon", "machine", "storage"])
            print(f"kills the {victim} after {writer.acknowledged}")
            if victim == "daemon":
                region.kill()
                time.sleep(chance.uniform(0, 0.3))
                region.start()
                writer.stop()
            elif victim == "storage":
                for process in helpers(region, "storage"):
                    os.kill(process, signal.SIGKILL)
                writer.wait_more(2)
                writer.stop()
            else:
                for process in region.processes(machine.id):
                    os.kill(process, signal.SIGKILL)
                machine.wait_state("stopped")
                # Its connection hangs: nobody is there to end it.
                writer.process.kill()
                writer.process.wait()
                writer.join(10)
                ec2.start_instances(InstanceIds=[machine.id])
                machine.wait_state("running")
            wait_for(lambda: machine.ssh("[ -b /dev/sdg ] && echo yes || true") == "yes", "the disk", 60, 0.2)
            header = int(machine.ssh("sudo dd if=/dev/sdg bs=12 count=1 2>/dev/null"))
            assert header >= writer.acknowledged, "an acknowledged write is lost"
            least = header
        assert machine.ssh(digest.replace("sdX", "sdg")) == expected
        wait_snapshot(ec2, *[made for made, _ in taken])
        ebs = region.client("ebs", REGION)
        for made, before in taken:
            token = ebs.list_snapshot_blocks(SnapshotId=made)["Blocks"][0]
            assert token["BlockIndex"] == 0
            data = ebs.get_snapshot_block(SnapshotId=made, BlockIndex=0, BlockToken=token["BlockToken"])
            assert int(data["BlockData"].read(12)) >= before
        ec2.terminate_instances(InstanceIds=[machine.id])
        machine.wait_state("terminated")
        check_store(region)
