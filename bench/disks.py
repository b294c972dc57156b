"""Measures disks on real machines for `cargo xtask bench`: one line `key value` for each row that is asked for.

Data path rows need no guest: the chain of block nodes that gureum gave to QEMU, word for word from QEMU's command line
but over copies of its (empty) layers, and the peer are each exported by a qemu-storage-daemon and loaded by fio in turn.
Guest rows are seen from inside a machine."""

import base64
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/machines")]
from conftest import DATA, REGION, build  # noqa: E402
from faulty import Region  # noqa: E402
from lesson import create_group, create_key, launch  # noqa: E402
from support import wait_for  # noqa: E402

# The machine's disk and processors are shared with others: many short rounds, and the middle one.
ROUNDS = 11
SECONDS = 2
FILE_MIB = 512
BLOCK = 512 << 10
ZONE = {"AvailabilityZone": f"{REGION}a"}
LOADS = {
    "random-read": ("randread", "4k"),
    "random-write": ("randwrite", "4k"),
    "sequential-read": ("read", "1M"),
    "sequential-write": ("write", "1M"),
}


@contextlib.contextmanager
def export(directory, node, objects=()):
    """A qemu-storage-daemon that exports a block node; gives the NBD address."""
    socket, monitor = directory / "export.sock", directory / "export.pid"
    command = ["qemu-storage-daemon", "--pidfile", str(monitor)]
    for text in objects:
        command += ["--object", text]
    command += ["--blockdev", json.dumps(node), "--nbd-server", f"addr.type=unix,addr.path={socket}"]
    command += ["--export", f"type=nbd,id=e,node-name={node['node-name']},name=v,writable=on"]
    process = subprocess.Popen(command)
    try:
        wait_for(socket.exists, "the export", 10)
        yield f"nbd+unix:///v?socket={socket}"
    finally:
        process.terminate()
        process.wait()
        for path in (socket, monitor):
            path.unlink(missing_ok=True)


def fio(address, rw, bs, seconds=SECONDS, *more):
    """Operations a second."""
    done = subprocess.run(
        ["fio", "--name=load", "--ioengine=nbd", f"--uri={address}", f"--rw={rw}", f"--bs={bs}", "--iodepth=16",
         f"--size={FILE_MIB}M", "--time_based", f"--runtime={seconds}", "--output-format=json", *more],
        capture_output=True, text=True, check=True,
    ).stdout
    job = json.loads(done[done.index("{") :])["jobs"][0]
    return job["read"]["iops"] + job["write"]["iops"]


def fill(address):
    """Every block is there before anything is measured."""
    subprocess.run(
        ["fio", "--name=fill", "--ioengine=nbd", f"--uri={address}", "--rw=write", "--bs=1M", "--iodepth=8",
         f"--size={FILE_MIB}M", "--output-format=json"],
        capture_output=True, check=True,
    )


class Bench:
    def __init__(self, work, program):
        self.work = work
        build("micro")
        self.region = Region(work / "region", "b", [DATA / "images/micro"])
        self.region.arguments += ["--volume-throttle", "off"]

    def __enter__(self):
        self.region.__enter__()
        self.ec2 = self.region.client("ec2", REGION)
        self.ebs = self.region.client("ebs", REGION)
        wait_for(lambda: self.ec2.describe_images()["Images"], "the image", 60, 0.1)
        self.key = create_key(self.ec2, self.work, "bench")
        self.group = create_group(self.ec2, "bench", 22)
        self.machine = self.launch()
        return self

    def __exit__(self, *_):
        self.region.__exit__()

    def launch(self):
        machine = launch(self.ec2, self.key, [self.group], Placement=ZONE)
        machine.wait_state("running")
        machine.ssh("true")
        return machine

    def volume(self, size=None, **arguments):
        if size is not None:
            arguments["Size"] = size
        made = self.ec2.create_volume(VolumeType="gp3", **ZONE, **arguments)["VolumeId"]
        self.wait(made, "available")
        return made

    def wait(self, volume, state):
        def reached():
            found = self.ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]
            return found["State"] == state and all(a["State"] == "attached" for a in found["Attachments"])

        wait_for(reached, f"{volume} to be {state}", 120, 0.02)

    def attach(self, volume, device="/dev/sdf"):
        self.ec2.attach_volume(InstanceId=self.machine.id, VolumeId=volume, Device=device)
        self.wait(volume, "in-use")

    def detach(self, volume):
        self.ec2.detach_volume(VolumeId=volume)
        self.wait(volume, "available")

    def snapshot(self, size_gib, blocks):
        """A snapshot with random blocks at these indexes, through the EBS direct APIs."""
        made = self.ebs.start_snapshot(VolumeSize=size_gib)["SnapshotId"]
        for index in blocks:
            data = os.urandom(BLOCK)
            self.ebs.put_snapshot_block(
                SnapshotId=made, BlockIndex=index, BlockData=data, DataLength=BLOCK, ChecksumAlgorithm="SHA256",
                Checksum=base64.b64encode(hashlib.sha256(data).digest()).decode(),
            )
        self.ebs.complete_snapshot(SnapshotId=made, ChangedBlocksCount=len(blocks))
        self.completed(made)
        return made

    def completed(self, snapshot):
        def done():
            return self.ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]["State"] == "completed"

        wait_for(done, snapshot, 120, 0.02)

    def chain(self, volume):
        """Objects and block node of a volume of a machine that was just launched with it, over copies of its layers."""
        (process,) = self.region.processes(self.holder.id)
        words = pathlib.Path(f"/proc/{process}/cmdline").read_bytes().decode().split("\0")
        serial = volume.replace("-", "", 1)
        options = list(zip(words, words[1:]))
        (node,) = [json.loads(v) for o, v in options if o == "-blockdev" and json.loads(v).get("node-name") == serial]
        objects = [value for option, value in options if option == "-object" and serial in value]
        copies = self.work / "copies"
        shutil.rmtree(copies, ignore_errors=True)
        copies.mkdir()

        def move(value):
            if isinstance(value, dict):
                if value.get("driver") == "file":
                    source = self.region.directory / value["filename"]
                    target = copies / source.name
                    subprocess.run(["cp", "--sparse=always", str(source), str(target)], check=True)
                    value["filename"] = str(target)
                if value.get("driver") == "nbd":
                    value["server"]["path"] = str(self.region.directory / value["server"]["path"])
                for part in value.values():
                    move(part)

        move(node)
        return node, objects

    def launch_with(self, volume_arguments):
        """A machine that has a volume from its launch on; its id."""
        mapping = {"DeviceName": "/dev/sdf", "Ebs": {"VolumeType": "gp3", "DeleteOnTermination": True} | volume_arguments}
        self.holder = launch(self.ec2, self.key, [self.group], Placement=ZONE, BlockDeviceMappings=[mapping])
        self.holder.wait_state("running")
        described = self.holder.describe()["BlockDeviceMappings"]
        return next(m["Ebs"]["VolumeId"] for m in described if m["DeviceName"] == "/dev/sdf")

    def end_holder(self):
        self.ec2.terminate_instances(InstanceIds=[self.holder.id])
        self.holder.wait_state("terminated")

    def compare(self, prefix, node, objects, wanted):
        """Ratios to the same drive on a bare qcow2."""
        bare = self.work / "bare.qcow2"
        bare.unlink(missing_ok=True)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(bare), "2G"], check=True)
        peer = {
            "driver": "qcow2", "node-name": "bare", "discard": "unmap",
            "file": {"driver": "file", "filename": str(bare), "discard": "unmap"},
        }
        (self.work / "ours").mkdir(exist_ok=True)
        (self.work / "peer").mkdir(exist_ok=True)
        with export(self.work / "ours", node, objects) as ours, export(self.work / "peer", peer) as theirs:
            fill(ours)
            fill(theirs)
            for name, load in LOADS.items():
                if f"{prefix}-{name}" not in wanted:
                    continue
                ratios = []
                for number in range(ROUNDS):
                    order = (ours, theirs) if number % 2 else (theirs, ours)
                    rates = {address: fio(address, *load) for address in order}
                    ratios.append(rates[ours] / rates[theirs])
                yield f"{prefix}-{name}", statistics.median(ratios)

    def data_path(self, wanted):
        if any(key.startswith("disk-") for key in wanted):
            volume = self.launch_with({"VolumeSize": 2})
            node, objects = self.chain(volume)
            yield from self.compare("disk", node, objects, wanted)
            self.end_holder()
        if any(key.startswith("filling-") for key in wanted):
            source = self.snapshot(2, range(0, 4096, 64))
            volume = self.launch_with({"SnapshotId": source})
            node, objects = self.chain(volume)
            yield from self.compare("filling", node, objects, wanted)
            self.end_holder()

    def second_snapshot(self):
        """Bytes stored for a second snapshot after 1 % of the blocks changed, to the bytes of those blocks."""
        volume = self.volume(1)
        self.attach(volume)
        device = "/dev/sdf"
        wait_for(lambda: self.machine.ssh(f"[ -b {device} ] && echo yes || true") == "yes", device, 60, 0.1)
        self.machine.ssh(f"sudo dd if=/dev/urandom of={device} bs=1M count=200 conv=fsync 2>/dev/null")
        self.completed(self.ec2.create_snapshot(VolumeId=volume)["SnapshotId"])
        stored = lambda: sum(p.stat().st_size for p in (self.region.directory / "blobs").rglob("*") if p.is_file())  # noqa: E731
        before = stored()
        for index in (7, 101, 203, 299):
            self.machine.ssh(f"sudo dd if=/dev/urandom of={device} bs=512k count=1 seek={index} conv=notrunc,fsync 2>/dev/null")
        self.completed(self.ec2.create_snapshot(VolumeId=volume)["SnapshotId"])
        self.detach(volume)
        return (stored() - before) / (4 * BLOCK)

    def first_read(self, size_gib):
        """Seconds from the call of CreateVolume to the guest's first read."""
        source = self.snapshot(size_gib, range(0, size_gib * 2048, size_gib * 32))
        poll = "while ! sudo dd if=/dev/sdf of=/dev/null bs=4096 count=1 2>/dev/null; do usleep 20000; done; echo read"
        times = []
        for _ in range(3):
            guest = subprocess.Popen(self.machine.ssh_command(f"echo ready; {poll}"), stdout=subprocess.PIPE, text=True)
            assert guest.stdout.readline().strip() == "ready"
            begun = time.monotonic()
            volume = self.volume(SnapshotId=source)
            self.ec2.attach_volume(InstanceId=self.machine.id, VolumeId=volume, Device="/dev/sdf")
            assert guest.stdout.readline().strip() == "read"
            times.append(time.monotonic() - begun)
            guest.wait()
            self.wait(volume, "in-use")
            self.detach(volume)
        return statistics.median(times)

    # Writes 4 KiB durably, over and over; when each began and ended, in seconds of the guest's clock (which tells
    # hundredths).
    WRITES = (
        "i=0; while [ ! -e /tmp/enough ]; do read begun rest < /proc/uptime; "
        "dd if=/dev/zero of=/dev/sdf bs=4096 count=1 seek=$((i % 1000)) conv=notrunc,fsync 2>/dev/null; "
        "read ended rest < /proc/uptime; echo $begun $ended; i=$((i + 1)); done"
    )

    def pause(self, size_gib, count=6):
        """While snapshots are taken: milliseconds that a guest's durable write takes longer than usual, at worst; and
        milliseconds from each call to its answer, which leaves when writes flow again."""
        volume = self.volume(size_gib)
        self.attach(volume)
        wait_for(lambda: self.machine.ssh("[ -b /dev/sdf ] && echo yes || true") == "yes", "the disk", 60, 0.1)
        self.machine.ssh("rm -f /tmp/enough")
        guest = subprocess.Popen(
            self.machine.ssh_command(f"sudo sh -c '{self.WRITES}'"), stdout=subprocess.PIPE, text=True
        )
        guest.stdout.readline()
        calls = []
        for _ in range(count):
            begun = time.monotonic()
            made = self.ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
            calls.append((time.monotonic() - begun) * 1000)
            self.completed(made)
        self.machine.ssh("touch /tmp/enough")
        lines = guest.stdout.read().splitlines()
        guest.wait()
        self.detach(volume)
        times = [float(ended) - float(begun) for begun, ended in (line.split() for line in lines)]
        return (max(times) - statistics.median(times)) * 1000, calls

    def enforced(self, wanted):
        """What a throttled volume gives over 30 s, to what was configured: the worse of too much and too little."""
        region = self.region
        region.stop()
        region.arguments = [a for a in region.arguments if a not in ("--volume-throttle", "off")]
        region.start()
        volume = self.launch_with({"VolumeSize": 2, "Iops": 3000, "Throughput": 125})
        node, objects = self.chain(volume)
        (self.work / "ours").mkdir(exist_ok=True)
        with export(self.work / "ours", node, objects) as ours:
            fill(ours)
            time.sleep(1)
            if "enforced-iops" in wanted:
                yield "enforced-iops", abs(fio(ours, "randread", "4k", 30) / 3000 - 1) * 100
            if "enforced-throughput" in wanted:
                yield "enforced-throughput", abs(fio(ours, "read", "256k", 30) / (125 * 4) - 1) * 100
        self.end_holder()


def main():
    work, wanted = pathlib.Path(sys.argv[1]).resolve(), set(sys.argv[2:])
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    with Bench(work, None) as bench:
        def say(key, value):
            print(key, value, flush=True)

        for key, value in bench.data_path(wanted):
            say(key, value)
        if "second-snapshot" in wanted:
            say("second-snapshot", bench.second_snapshot())
        if "first-read" in wanted or "first-read-size" in wanted:
            large = bench.first_read(10)
            say("first-read", large)
            say("first-read-size", large / bench.first_read(1))
        if "pause" in wanted or "pause-size" in wanted:
            small, large = [], []
            for _ in range(3):
                small.append(bench.pause(1))
                large.append(bench.pause(64))
            say("pause", max(longest for longest, _ in small + large))
            middle = [statistics.median(call for _, calls in side for call in calls) for side in (small, large)]
            say("pause-size", middle[1] / middle[0])
        if wanted & {"enforced-iops", "enforced-throughput"}:
            for key, value in bench.enforced(wanted):
                say(key, value)


if __name__ == "__main__":
    main()
