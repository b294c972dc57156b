"""Snapshots of volumes that no machine has, on real disks: what they hold, what they store, what is freed in the end."""

import base64
import hashlib
import os
import pathlib
import subprocess
import sys

import pytest
from conftest import OPTIONS, PREFIX, REGION

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from support import Daemon, binary, wait_for  # noqa: E402

BLOCK = 512 * 1024


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A region of its own, without images: its blob store holds nothing but what a test puts there."""
    if os.geteuid() != 0:
        pytest.skip("real disks need root")
    directory = tmp_path_factory.mktemp("store")
    # Beside the other region of this run.
    prefix, pool = f"s{PREFIX[1:]}", f"198.18.{os.getpid() % 250}.0/24"
    replaced = {"--network-prefix": prefix, "--public-pool": pool}
    options = [replaced.get(before, option) for before, option in zip(["", *OPTIONS], OPTIONS, strict=False)]
    try:
        with Daemon(binary(), directory, options) as daemon:
            yield daemon
    finally:
        subprocess.run([binary(), "down", "--data-dir", str(directory), "--network-prefix", prefix], check=True)


@pytest.fixture
def ec2(store):
    return store.client("ec2", REGION)


@pytest.fixture
def ebs(store):
    return store.client("ebs", REGION)


def blobs(store):
    """The names of the blobs: each says what it holds."""
    return {path.name for path in (store.directory / "blobs").rglob("*") if len(path.name) == 64}


def completed(ec2, name):
    def reached():
        (found,) = ec2.describe_snapshots(SnapshotIds=[name])["Snapshots"]
        assert found["State"] != "error", found
        return found["State"] == "completed"

    wait_for(reached, f"{name} to be complete", 120)
    return name


def write(ec2, ebs, blocks, **arguments):
    name = ebs.start_snapshot(VolumeSize=1, **arguments)["SnapshotId"]
    for index, block in blocks.items():
        ebs.put_snapshot_block(
            SnapshotId=name,
            BlockIndex=index,
            BlockData=block,
            DataLength=BLOCK,
            Checksum=base64.b64encode(hashlib.sha256(block).digest()).decode(),
            ChecksumAlgorithm="SHA256",
        )
    ebs.complete_snapshot(SnapshotId=name, ChangedBlocksCount=len(blocks))
    return completed(ec2, name)


def read(ebs, name):
    listed = ebs.list_snapshot_blocks(SnapshotId=name)["Blocks"]
    return {b["BlockIndex"]: ebs.get_snapshot_block(SnapshotId=name, **b)["BlockData"].read() for b in listed}


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_blocks_are_stored_once_and_freed(store, ec2, ebs, encrypted):
    wait_for(lambda: blobs(store) == set(), "the blobs of the test before to go", 60)
    blocks = {0: b"\1" * BLOCK, 7: os.urandom(BLOCK), 2000: b"\3" * BLOCK}
    first = write(ec2, ebs, blocks, Encrypted=encrypted)
    stored = blobs(store)
    volume = ec2.create_volume(AvailabilityZone=f"{REGION}a", SnapshotId=first)["VolumeId"]

    def available():
        (found,) = ec2.describe_volumes(VolumeIds=[volume])["Volumes"]
        return found["State"] == "available"

    wait_for(available, f"{volume} to be available", 60)
    # What a volume was made from, and what its last snapshot held, is stored once.
    names = [completed(ec2, ec2.create_snapshot(VolumeId=volume)["SnapshotId"]) for _ in range(2)]
    assert all(read(ebs, name) == blocks for name in names)
    assert blobs(store) == stored
    changed = ebs.list_changed_blocks(FirstSnapshotId=names[0], SecondSnapshotId=names[1])
    assert changed["ChangedBlocks"] == []
    # Five at once, one of them deleted before it is complete: the others know nothing of it.
    five = [ec2.create_snapshot(VolumeId=volume)["SnapshotId"] for _ in range(5)]
    ec2.delete_snapshot(SnapshotId=five.pop(2))
    names += [completed(ec2, name) for name in five]
    assert all(read(ebs, name) == blocks for name in five)
    sealed = ec2.copy_snapshot(SourceRegion=REGION, SourceSnapshotId=first, Encrypted=True)["SnapshotId"]
    assert read(ebs, completed(ec2, sealed)) == blocks
    # One holds them all.
    for name in [first, *names, *([sealed] if not encrypted else [])]:
        ec2.delete_snapshot(SnapshotId=name)
    ec2.delete_volume(VolumeId=volume)
    last = sealed
    if not encrypted:
        last = write(ec2, ebs, {3: blocks[7]})
        wait_for(lambda: len(blobs(store)) == 3, "all blobs but those of the last snapshot to go", 60)
        assert read(ebs, last) == {3: blocks[7]}
    else:
        assert read(ebs, last) == blocks
    ec2.delete_snapshot(SnapshotId=last)
    wait_for(lambda: blobs(store) == set(), "every blob to go", 60)
    wait_for(lambda: os.listdir(store.directory / "volumes") == [], "the volume's files to go", 60)
    assert os.listdir(store.directory / "uploads") == []
    checked = [binary(), "fsck", "--deep", "--data-dir", str(store.directory)]
    store.stop()
    try:
        subprocess.run(checked, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    finally:
        store.start()
