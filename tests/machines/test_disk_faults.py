"""The disk under the blob store fills up, lies, fails and hangs: nothing wrong is ever served, the region goes on, and
all recovers."""

import base64
import contextlib
import hashlib
import json
import os
import pathlib
import random
import socket
import statistics
import subprocess
import sys
import threading
import time

import boto3
import pytest
from botocore.exceptions import BotoCoreError, ClientError
from conftest import DATA, REGION, build
from faulty import Region
from lesson import create_group, create_key, launch
from support import free_port, wait_for
from test_disk_crash import fsck
from test_disks import attach, describe, detach, snapshot, volume, wait_snapshot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="real disks need root")

MiB = 1 << 20
BLOCK = 512 << 10
ZONE = f"{REGION}a"
# More than the pauses between an upload's tries add up to.
RECOVERY = 120


def random_blocks(*indexes):
    return {index: random.randbytes(BLOCK) for index in indexes}


def put(ebs, snapshot_id, index, data):
    checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
    ebs.put_snapshot_block(
        SnapshotId=snapshot_id, BlockIndex=index, BlockData=data, DataLength=BLOCK, Checksum=checksum,
        ChecksumAlgorithm="SHA256",
    )


def complete(ebs, snapshot_id, blocks):
    """Completes an upload with the checksum over all its blocks, as coldsnap does."""
    digests = b"".join(hashlib.sha256(blocks[index]).digest() for index in sorted(blocks))
    ebs.complete_snapshot(
        SnapshotId=snapshot_id, ChangedBlocksCount=len(blocks), ChecksumAlgorithm="SHA256",
        Checksum=base64.b64encode(hashlib.sha256(digests).digest()).decode(), ChecksumAggregationMethod="LINEAR",
    )


def upload(ec2, ebs, blocks):
    """A completed snapshot of 1 GiB with these blocks."""
    made = ebs.start_snapshot(VolumeSize=1)["SnapshotId"]
    for index, data in blocks.items():
        put(ebs, made, index, data)
    complete(ebs, made, blocks)
    wait_snapshot(ec2, made)
    return made


def read(ebs, snapshot_id, index):
    listed = ebs.list_snapshot_blocks(SnapshotId=snapshot_id, StartingBlockIndex=index)["Blocks"][0]
    assert listed["BlockIndex"] == index
    got = ebs.get_snapshot_block(SnapshotId=snapshot_id, BlockIndex=index, BlockToken=listed["BlockToken"])
    return got["BlockData"].read()


def read_all(ebs, snapshot_id):
    listed = ebs.list_snapshot_blocks(SnapshotId=snapshot_id)["Blocks"]
    return {block["BlockIndex"]: read(ebs, snapshot_id, block["BlockIndex"]) for block in listed}


def states(ec2, *snapshot_ids):
    found = ec2.describe_snapshots(SnapshotIds=list(snapshot_ids))["Snapshots"]
    return {snapshot["State"] for snapshot in found}


def wait_log(region, *words):
    """Waits until one line of the daemon's log has all these words."""
    log = region.directory / "daemon.log"

    def said():
        lines = log.read_text(errors="replace").splitlines()
        return any(all(word in line for word in words) for line in lines)

    wait_for(said, f"{words} in {log}", 60, 0.1)


def refused(call):
    """The code of the error that a call answers."""
    with pytest.raises(ClientError) as caught:
        call()
    return caught.value.response["Error"]["Code"]


@contextlib.contextmanager
def small_disk(directory, mib):
    """A disk of this size; gives a function that makes it larger."""
    directory.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(directory)], check=True)
    try:
        yield lambda mib: subprocess.run(["mount", "-o", f"remount,size={mib}m", str(directory)], check=True)
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def test_a_full_disk_makes_snapshots_wait_and_nothing_else(tmp_path):
    with small_disk(tmp_path / "blobs", 12) as resize, Region(tmp_path, "f", []) as region:
        ec2, ebs = region.client("ec2", REGION), region.client("ebs", REGION)
        blocks = random_blocks(*range(16))
        source = upload(ec2, ebs, blocks)
        # Another key: neither shares a block with the source, and neither fits.
        copy = ec2.copy_snapshot(SourceSnapshotId=source, SourceRegion=REGION, Encrypted=True)["SnapshotId"]
        disk = volume(ec2, None, SnapshotId=source, Encrypted=True)
        taken = snapshot(ec2, disk)
        wait_log(region, "a task is tried again", "full", copy)
        wait_log(region, "the upload of a snapshot is tried again", "full", taken)
        direct, put_there = ebs.start_snapshot(VolumeSize=1)["SnapshotId"], {}

        def fill():
            for index, data in random_blocks(*range(32)).items():
                put(ebs, direct, index, data)
                put_there[index] = data

        assert refused(fill) == "InternalServerException"
        # The region goes on.
        assert states(ec2, copy, taken, direct) == {"pending"}
        assert read_all(ebs, source) == blocks
        volume(ec2)
        assert refused(lambda: ec2.describe_volumes(VolumeIds=["vol-0123456789abcdef0"])) == "InvalidVolume.NotFound"
        # It survives a start on the full disk too.
        region.kill()
        region.start()
        assert states(ec2, copy, taken, direct) == {"pending"}
        assert read_all(ebs, source) == blocks
        resize(64)
        wait_snapshot(ec2, copy, taken, seconds=RECOVERY)
        assert read_all(ebs, copy) == blocks
        assert read_all(ebs, taken) == blocks
        more = random_blocks(100)
        put(ebs, direct, 100, more[100])
        complete(ebs, direct, put_there | more)
        wait_snapshot(ec2, direct)
        assert read_all(ebs, direct) == put_there | more
        region.stop()
        code, said = fsck(region, "--deep")
        assert code == 0, said


class Guest:
    """A machine that reads disks, with the daemon that it runs on."""

    def __init__(self, region, directory):
        self.region = region
        self.ec2, self.ebs = region.client("ec2", REGION), region.client("ebs", REGION)
        wait_for(lambda: self.ec2.describe_images()["Images"], "the image", 240, 0.1)
        key, group = create_key(self.ec2, directory, "faults"), create_group(self.ec2, "faults", 22)
        self.machine = launch(self.ec2, key, [group], Placement={"AvailabilityZone": ZONE})
        self.machine.wait_state("running")

    def command(self, device, index):
        return f"sudo dd if={device} bs={BLOCK} skip={index} count=1 2>/dev/null | sha256sum"

    def digest(self, device, index):
        """SHA-256 of a block as the guest reads it; of nothing if it cannot be read."""
        return self.machine.ssh(self.command(device, index)).split()[0]

    def health(self, disk):
        status = self.ec2.describe_volume_status(VolumeIds=[disk])["VolumeStatuses"][0]["VolumeStatus"]
        return status["Status"]


def digest(data):
    return hashlib.sha256(data).hexdigest()


def flip(path):
    data = bytearray(path.read_bytes())
    data[300_000] ^= 0x10
    path.write_bytes(data)


def make_directory(path):
    path.unlink()
    path.mkdir()


def test_what_the_disk_lost_is_never_served_and_can_be_put_again(tmp_path):
    build("micro")
    damages = {3: flip, 40: pathlib.Path.unlink, 80: make_directory}
    with Region(tmp_path, "w", [DATA / "images/micro"]) as region:
        guest = Guest(region, tmp_path)
        ec2, ebs = guest.ec2, guest.ebs
        blocks = random_blocks(0, *damages)
        source = upload(ec2, ebs, blocks)

        def path(index):
            return region.directory / "blobs" / digest(blocks[index])[:2] / digest(blocks[index])

        for index, damage in damages.items():
            damage(path(index))
        for index in damages:
            assert refused(lambda: read(ebs, source, index)) == "InternalServerException"
        assert read(ebs, source, 0) == blocks[0]
        # A guest is told, and reads the rest.
        disk = volume(ec2, None, SnapshotId=source)
        assert guest.health(disk) == "ok"
        attach(ec2, guest.machine, disk, "/dev/sdf")
        for index in damages:
            assert guest.digest("/dev/sdf", index) == digest(b"")
        assert guest.digest("/dev/sdf", 0) == digest(blocks[0])
        wait_for(lambda: guest.health(disk) == "impaired", "the volume to be impaired", 30, 0.1)
        # A copy that has to read it fails, for good and with a reason.
        copy = ec2.copy_snapshot(SourceSnapshotId=source, SourceRegion=REGION, Encrypted=True)["SnapshotId"]
        wait_for(lambda: states(ec2, copy) == {"error"}, "the copy to fail", 60, 0.1)
        assert "blob" in ec2.describe_snapshots(SnapshotIds=[copy])["Snapshots"][0]["StateMessage"]
        # It cannot fill, so it is not well however much else is read.
        wait_log(region, "a job of a volume failed", disk)
        assert guest.health(disk) == "impaired"
        region.stop()
        code, said = fsck(region, "--deep")
        assert code != 0
        for index in damages:
            assert any(digest(blocks[index]) in line and source in line for line in said.splitlines()), said
        assert digest(blocks[0]) not in said
        region.start()
        # Whoever has the blocks puts them again.
        upload(ec2, ebs, {index: blocks[index] for index in damages})
        assert read_all(ebs, source) == blocks
        for index, data in blocks.items():
            assert guest.digest("/dev/sdf", index) == digest(data)

        def healthy():
            guest.digest("/dev/sdf", 0)
            return guest.health(disk) == "ok"

        wait_for(healthy, "the volume to be well", RECOVERY, 0.5)
        detach(ec2, disk)
        ec2.delete_snapshot(SnapshotId=copy)
        region.stop()
        code, said = fsck(region, "--deep")
        assert code == 0, said


class Proxy:
    """In front of a server: lets through all, only so much a second, or nothing, fails, or is away."""

    def __init__(self, target):
        self.target, self.port = target, free_port()
        self.rate = None
        self.open, self.failing = threading.Event(), False
        self.open.set()
        self.pace, self.connections, self.requests = threading.Lock(), set(), 0
        self.up()

    def up(self):
        self.listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def down(self):
        """As when the server's machine has lost its power."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()

    def cut(self):
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def fail(self, failing):
        self.failing = failing
        self.cut()

    def accept(self, listener):
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            serve = self.answer if self.failing else self.connect
            threading.Thread(target=serve, args=(client,), daemon=True).start()

    def answer(self, client):
        """Says 503 to what is asked."""
        with client, contextlib.suppress(OSError):
            client.recv(1 << 20)
            self.requests += 1
            client.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    def connect(self, client):
        with contextlib.suppress(OSError):
            server = socket.create_connection(("127.0.0.1", self.target))
            self.connections |= {client, server}
            back = threading.Thread(target=self.forward, args=(server, client), daemon=True)
            back.start()
            self.forward(client, server)
            back.join()
            for end in (client, server):
                self.connections.discard(end)
                end.close()

    def forward(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(64 << 10):
                self.requests += 1
                self.open.wait()
                if self.rate is not None:
                    with self.pace:
                        time.sleep(len(data) / self.rate)  # The fault itself.
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Remote:
    """An S3 server, the proxy before it, and a region whose blobs are there."""

    def __init__(self, directory):
        port = free_port()
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        self.server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        keys = {"aws_access_key_id": "AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key": "secret"}
        self.s3 = boto3.client("s3", region_name=REGION, endpoint_url=f"http://127.0.0.1:{port}", **keys)

        def made():
            try:
                return self.s3.create_bucket(Bucket="blobs")
            except BotoCoreError:
                return None

        wait_for(made, "moto to serve", 60, 0.1)
        self.proxy = Proxy(port)
        self.file = directory / "store.json"
        self.write(self.file, "blobs")
        self.region = Region(directory, "o", [DATA / "images/micro"])
        self.region.arguments += ["--blob-store", str(self.file)]

    def write(self, file, bucket):
        config = {
            "endpoint": f"http://127.0.0.1:{self.proxy.port}", "bucket": bucket, "region": REGION, "prefix": "gureum/",
            "access_key_id": "AKIAIOSFODNN7EXAMPLE", "secret_access_key": "secret",
        }
        file.write_text(json.dumps({"s3": config}))
        file.chmod(0o600)

    def names(self):
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket="blobs", Prefix="gureum/")
        return {item["Key"].removeprefix("gureum/") for page in pages for item in page.get("Contents", [])}


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    build("micro")
    remote = Remote(tmp_path_factory.mktemp("remote"))
    try:
        with remote.region as region:
            remote.ec2, remote.ebs = region.client("ec2", REGION), region.client("ebs", REGION)
            ready = lambda: remote.ec2.describe_images()["Images"]  # noqa: E731
            wait_for(ready, "the image, which is in the object store", 240, 0.2)
            yield remote
    finally:
        remote.server.terminate()
        remote.server.wait(20)


def test_a_life_in_an_object_store(remote, tmp_path):
    region, ec2, ebs = remote.region, remote.ec2, remote.ebs
    assert not (region.directory / "blobs").exists()
    before = remote.names()
    assert before, "the image's disk is in the bucket"
    blocks = random_blocks(0, 7, 2047)
    source = upload(ec2, ebs, blocks)
    assert {digest(data) for data in blocks.values()} <= remote.names()
    assert read_all(ebs, source) == blocks
    disk = volume(ec2, None, SnapshotId=source)
    encrypted = volume(ec2, None, SnapshotId=source, Encrypted=True)
    made = [snapshot(ec2, disk), snapshot(ec2, encrypted)]
    made.append(ec2.copy_snapshot(SourceSnapshotId=source, SourceRegion=REGION, Encrypted=True)["SnapshotId"])
    wait_snapshot(ec2, *made)
    for one in made:
        assert read_all(ebs, one) == blocks
    # Without the option it is where it was, and fsck finds it too.
    option, region.arguments = region.arguments[-2:], region.arguments[:-2]
    region.stop()
    code, said = fsck(region, "--deep")
    assert code == 0, said
    assert (region.directory / "blob-store.json").stat().st_mode & 0o777 == 0o600
    # A region does not leave its snapshots behind.
    remote.s3.create_bucket(Bucket="other")
    remote.write(tmp_path / "other.json", "other")
    command = [region.program, "serve", "--listen", "127.0.0.1:0", "--data-dir", str(region.directory)]
    done = subprocess.run(
        [*command, "--driver", "sim", "--blob-store", str(tmp_path / "other.json")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0 and "are not in this blob store" in done.stderr
    region.start()
    region.arguments += option
    assert read_all(ebs, source) == blocks
    for gone in (disk, encrypted):
        ec2.delete_volume(VolumeId=gone)
    for gone in (source, *made):
        ec2.delete_snapshot(SnapshotId=gone)
    wait_for(lambda: remote.names() == before, "what nothing names to be freed", 60, 0.2)
    region.stop()
    code, said = fsck(region, "--deep")
    assert code == 0, said
    region.start()


def api_seconds(ec2):
    """How long the API takes for a question that has nothing to do with blobs."""

    def ask():
        begun = time.monotonic()
        ec2.describe_volumes()
        return time.monotonic() - begun

    return statistics.median(ask() for _ in range(9))


def test_a_slow_object_store_slows_snapshots_and_not_the_api(remote):
    ec2, ebs, proxy = remote.ec2, remote.ebs, remote.proxy
    blocks = random_blocks(*range(8))
    source = upload(ec2, ebs, blocks)
    disk = volume(ec2, None, SnapshotId=source, Encrypted=True)
    try:
        proxy.rate = 1 * MiB
        taken = snapshot(ec2, disk)
        copies = [
            ec2.copy_snapshot(SourceSnapshotId=source, SourceRegion=REGION, Encrypted=True)["SnapshotId"] for _ in range(2)
        ]
        assert api_seconds(ec2) < 1
        assert states(ec2, *copies) == {"pending"}
        wait_snapshot(ec2, taken, *copies)
        # Nothing comes back at all.
        proxy.open.clear()
        stuck = [
            ec2.copy_snapshot(SourceSnapshotId=source, SourceRegion=REGION, Encrypted=True)["SnapshotId"] for _ in range(2)
        ]
        stuck.append(snapshot(ec2, disk))
        direct, failures = ebs.start_snapshot(VolumeSize=1)["SnapshotId"], []

        def write(index):
            try:
                put(remote.region.client("ebs", REGION), direct, index, blocks[index])
            except (ClientError, BotoCoreError) as error:
                failures.append(error)

        # More than the daemon has threads for its API.
        writers = [threading.Thread(target=write, args=(index,), daemon=True) for index in blocks]
        asked = proxy.requests
        for writer in writers:
            writer.start()
        wait_for(lambda: proxy.requests >= asked + len(writers), "every writer to wait for the store", 60, 0.05)
        assert api_seconds(ec2) < 1
        assert ec2.delete_volume(VolumeId=volume(ec2))
        assert states(ec2, *stuck, direct) == {"pending"}
        assert all(writer.is_alive() for writer in writers)
        proxy.rate = None
        proxy.open.set()
        for writer in writers:
            writer.join(60)
        assert not failures
        complete(ebs, direct, blocks)
        wait_snapshot(ec2, direct, *stuck, seconds=RECOVERY)
    finally:
        proxy.rate = None
        proxy.open.set()
    assert read_all(ebs, direct) == blocks
    assert read_all(ebs, stuck[0]) == blocks
    assert read_all(ebs, stuck[-1]) == blocks


@pytest.mark.parametrize("fault", ["away", "failing"])
def test_an_object_store_that_is_away_is_waited_for(remote, fault):
    region, ec2, ebs, proxy = remote.region, remote.ec2, remote.ebs, remote.proxy
    blocks = random_blocks(*range(4))
    source = upload(ec2, ebs, blocks)
    disk = volume(ec2, None, SnapshotId=source, Encrypted=True)
    begin, end = (proxy.down, proxy.up) if fault == "away" else (lambda: proxy.fail(True), lambda: proxy.fail(False))
    begin()
    try:
        copy = ec2.copy_snapshot(SourceSnapshotId=source, SourceRegion=REGION, Encrypted=True)["SnapshotId"]
        taken = snapshot(ec2, disk)
        assert refused(lambda: read(ebs, source, 0)) == "InternalServerException"
        wait_log(region, "a task is tried again", copy)
        # Its source cannot be opened.
        wait_log(region, "a snapshot cannot be uploaded yet", disk)
        assert api_seconds(ec2) < 1
        assert states(ec2, copy, taken) == {"pending"}
        # A daemon that starts meanwhile serves, and knows what is to be done.
        region.kill()
        region.start()
        assert states(ec2, copy, taken) == {"pending"}
        volume(ec2)
    finally:
        end()
    wait_snapshot(ec2, copy, taken, seconds=RECOVERY)
    for made in (source, copy, taken):
        assert read_all(ebs, made) == blocks


def test_a_guest_waits_for_what_is_not_there_yet(remote, tmp_path):
    region, ec2, ebs, proxy = remote.region, remote.ec2, remote.ebs, remote.proxy
    guest = Guest(region, tmp_path)
    # So many that it has not filled, at this pace, before the read.
    last = 63
    blocks = random_blocks(*range(last + 1))
    source = upload(ec2, ebs, blocks)
    disk = volume(ec2, None, SnapshotId=source)
    proxy.rate = 1 * MiB
    attach(ec2, guest.machine, disk, "/dev/sdf")
    log = region.directory / "volumes" / disk / "source.log"
    # Slow: it takes a while and is right.
    assert guest.digest("/dev/sdf", 20) == digest(blocks[20])
    proxy.down()
    try:
        waiting = subprocess.Popen(
            guest.machine.ssh_command(guest.command("/dev/sdf", last)),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )
        said = lambda: "a read waits for the object store" in log.read_text(errors="replace")  # noqa: E731
        wait_for(said, f"the guest's read to reach {log}", 120, 0.1)
        assert waiting.poll() is None
        # A snapshot would have to wait for that read, and the machine with it: it is not cut.
        taken = snapshot(ec2, disk)
        wait_log(region, disk, "the blob store does not answer")
        assert guest.machine.ssh("echo it runs") == "it runs"
        assert api_seconds(ec2) < 1
        region.kill()
        region.start()
        assert describe(ec2, disk)["State"] == "in-use"
        assert waiting.poll() is None
    finally:
        proxy.rate = None
        proxy.up()
    assert waiting.communicate(timeout=120)[0].split()[0] == digest(blocks[last])
    assert guest.digest("/dev/sdf", 40) == digest(blocks[40])
    wait_snapshot(ec2, taken)
    assert read_all(ebs, taken) == blocks
    assert guest.health(disk) == "ok"
    ec2.terminate_instances(InstanceIds=[guest.machine.id])
    guest.machine.wait_state("terminated")
