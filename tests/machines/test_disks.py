"""Disks of real machines: plugged, grown, snapshotted, encrypted, and never lost."""

import contextlib
import os
import subprocess
import threading
import time

import pytest
from botocore.exceptions import ClientError
from conftest import DATA, REGION, build
from faulty import Region
from lesson import create_group, create_key, launch
from support import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="real machines need root")

MiB = 1 << 20
BLOCK = 512 << 10


@pytest.fixture(scope="module")
def region(tmp_path_factory):
    build("micro")
    with Region(tmp_path_factory.mktemp("disks"), "d", [DATA / "images/micro"]) as region:
        yield region


@pytest.fixture(scope="module")
def ec2(region):
    ec2 = region.client("ec2", REGION)
    wait_for(lambda: ec2.describe_images()["Images"], "the image", 60, 0.1)
    return ec2


@pytest.fixture(scope="module")
def ebs(region):
    return region.client("ebs", REGION)


@pytest.fixture(scope="module")
def key(ec2, tmp_path_factory):
    return create_key(ec2, tmp_path_factory.mktemp("keys"), "disks")


@pytest.fixture(scope="module")
def group(ec2):
    return create_group(ec2, "disks", 22)


@pytest.fixture(scope="module")
def pair(ec2, key, group):
    """Two machines in one zone."""
    zone = {"Placement": {"AvailabilityZone": f"{REGION}a"}}
    machines = [launch(ec2, key, [group], **zone) for _ in range(2)]
    for machine in machines:
        machine.wait_state("running")
    return machines


@pytest.fixture(autouse=True)
def clean(request, ec2):
    """One test that fails leaves nothing to the next."""
    yield
    for found in ec2.describe_volumes(Filters=[{"Name": "tag:made-by", "Values": ["test"]}])["Volumes"]:
        if found["State"] == "in-use":
            with contextlib.suppress(ClientError):
                ec2.detach_volume(VolumeId=found["VolumeId"], Force=True)
            wait_volume(ec2, found["VolumeId"], "available")
        if found["State"] != "deleting":
            ec2.delete_volume(VolumeId=found["VolumeId"])


def volume(ec2, size=1, **arguments):
    tags = [{"ResourceType": "volume", "Tags": [{"Key": "made-by", "Value": "test"}]}]
    arguments = {"AvailabilityZone": f"{REGION}a", "VolumeType": "gp3", "TagSpecifications": tags} | arguments
    if size is not None:
        arguments["Size"] = size
    made = ec2.create_volume(**arguments)["VolumeId"]
    wait_volume(ec2, made, "available")
    return made


def describe(ec2, volume_id):
    return ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"][0]


def wait_volume(ec2, volume_id, state, seconds=120):
    def reached():
        found = describe(ec2, volume_id)
        attachments = [attachment["State"] for attachment in found["Attachments"]]
        return found["State"] == state and all(s == "attached" for s in attachments)

    wait_for(reached, f"{volume_id} to be {state}", seconds, 0.05)


def attach(ec2, machine, volume_id, device):
    """Attaches a volume and waits until the guest has its link."""
    answer = ec2.attach_volume(InstanceId=machine.id, VolumeId=volume_id, Device=device)
    assert (answer["State"], answer["Device"]) == ("attaching", device)
    wait_volume(ec2, volume_id, "in-use")
    wait_guest(machine, f"[ -b {device} ]", f"{device} in the guest")


def detach(ec2, volume_id, **arguments):
    answer = ec2.detach_volume(VolumeId=volume_id, **arguments)
    assert answer["State"] == "detaching"
    wait_volume(ec2, volume_id, "available")


def wait_guest(machine, condition, what, seconds=60):
    wait_for(lambda: machine.ssh(f"{condition} && echo yes || true") == "yes", what, seconds, 0.2)


def snapshot(ec2, volume_id, **arguments):
    made = ec2.create_snapshot(VolumeId=volume_id, **arguments)
    assert made["State"] == "pending"
    return made["SnapshotId"]


def wait_snapshot(ec2, *snapshot_ids, seconds=240):
    def done():
        found = ec2.describe_snapshots(SnapshotIds=list(snapshot_ids))["Snapshots"]
        failed = [s for s in found if s["State"] == "error"]
        assert not failed, failed
        return all(s["State"] == "completed" for s in found)

    wait_for(done, f"{len(snapshot_ids)} snapshots to be completed", seconds, 0.1)


def stored(region):
    """Bytes of all blobs."""
    blobs = region.directory / "blobs"
    return sum(path.stat().st_size for path in blobs.rglob("*") if path.is_file())


def test_a_disk_moves_between_machines(ec2, pair):
    one, two = pair
    disk = volume(ec2)
    attach(ec2, one, disk, "/dev/sdf")
    serial = one.ssh("cat /sys/block/$(basename $(readlink -f /dev/sdf))/serial")
    assert serial == disk.replace("-", "")
    one.ssh("sudo mkfs.ext4 -q /dev/sdf && sudo mkdir -p /mnt && sudo mount /dev/sdf /mnt")
    one.ssh("echo moved | sudo tee /mnt/file && sudo umount /mnt")
    found = describe(ec2, disk)["Attachments"][0]
    assert (found["InstanceId"], found["Device"], found["DeleteOnTermination"]) == (one.id, "/dev/sdf", False)
    with pytest.raises(ClientError, match="VolumeInUse"):
        ec2.delete_volume(VolumeId=disk)
    detach(ec2, disk)
    wait_guest(one, "[ ! -e /dev/sdf ]", "the link to go")
    attach(ec2, two, disk, "/dev/sdg")
    assert two.ssh("sudo mkdir -p /mnt && sudo mount /dev/sdg /mnt && cat /mnt/file && sudo umount /mnt") == "moved"
    detach(ec2, disk)
    ec2.delete_volume(VolumeId=disk)
    with pytest.raises(ClientError, match="InvalidVolume.NotFound"):
        wait_for(lambda: describe(ec2, disk)["State"] not in ("deleting", "available"), "the volume to be gone", 30)


def test_a_file_system_grows_in_use(ec2, pair):
    machine = pair[0]
    disk = volume(ec2)
    attach(ec2, machine, disk, "/dev/sdf")
    machine.ssh("sudo mkfs.ext4 -q /dev/sdf && sudo mkdir -p /mnt && sudo mount /dev/sdf /mnt")
    machine.ssh("echo stays | sudo tee /mnt/file")
    changed = ec2.modify_volume(VolumeId=disk, Size=3, Throughput=200)["VolumeModification"]
    assert (changed["ModificationState"], changed["TargetSize"]) == ("modifying", 3)
    wait_guest(machine, "[ $(cat /sys/block/$(basename $(readlink -f /dev/sdf))/size) = 6291456 ]", "the new size")
    machine.ssh("sudo resize2fs /dev/sdf")
    kilobytes = int(machine.ssh("df -k /mnt | tail -n 1 | awk '{print $2}'"))
    assert kilobytes > 2_800_000
    assert machine.ssh("cat /mnt/file") == "stays"
    states = lambda: ec2.describe_volumes_modifications(VolumeIds=[disk])["VolumesModifications"]  # noqa: E731
    wait_for(lambda: states()[0]["ModificationState"] in ("optimizing", "completed"), "the modification", 60, 0.2)
    machine.ssh("sudo umount /mnt")
    detach(ec2, disk)
    ec2.delete_volume(VolumeId=disk)


# A database in small: a record, fsync, then the header that names it, fsync; then it is acknowledged.
WRITER = r"""
i=0
while [ ! -e /tmp/stop ]; do
  i=$((i + 1))
  printf '%012d' $i | sudo dd of=DEVICE bs=4096 seek=$((i % 16 + 1)) conv=notrunc,fsync 2>/dev/null || exit 1
  printf '%012d' $i | sudo dd of=DEVICE bs=4096 count=1 conv=notrunc,fsync 2>/dev/null || exit 1
  echo $i
done
"""


class Writer(threading.Thread):
    """Runs the writer in a guest and knows what it has acknowledged."""

    def __init__(self, machine, script):
        super().__init__(daemon=True)
        machine.ssh("rm -f /tmp/stop")
        self.machine, self.acknowledged = machine, 0
        self.process = subprocess.Popen(
            machine.ssh_command(script), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        self.start()

    def run(self):
        for line in self.process.stdout:
            self.acknowledged = int(line)

    def wait_more(self, count=1):
        goal = self.acknowledged + count
        wait_for(lambda: self.acknowledged >= goal, "the writer to go on", 60)

    def stop(self):
        self.machine.ssh("touch /tmp/stop")
        assert self.process.wait(60) == 0
        self.join(10)


def block(ebs, snapshot_id, index=0):
    """A block of a snapshot through the EBS direct APIs."""
    listed = ebs.list_snapshot_blocks(SnapshotId=snapshot_id)["Blocks"]
    token = next(b["BlockToken"] for b in listed if b["BlockIndex"] == index)
    return ebs.get_snapshot_block(SnapshotId=snapshot_id, BlockIndex=index, BlockToken=token)["BlockData"].read()


def test_snapshots_hold_what_a_writer_was_told(region, ec2, ebs, pair):
    count = int(os.environ.get("GUREUM_SNAPSHOTS", "50"))
    machine, other = pair
    disk = volume(ec2)
    attach(ec2, machine, disk, "/dev/sdf")
    writer = Writer(machine, WRITER.replace("DEVICE", "/dev/sdf"))
    writer.wait_more(3)
    taken = []
    for _ in range(count):
        before = writer.acknowledged

        def take():
            try:
                return snapshot(ec2, disk)
            except ClientError as error:
                # Five may be pending (EBS User Guide).
                assert error.response["Error"]["Code"] == "ConcurrentSnapshotLimitExceeded", error
                return None

        made = wait_for(take, "a snapshot to be allowed", 120, 0.05)
        # One write may be under way when the answer leaves, and its acknowledgement on its way here.
        taken.append((made, before, writer.acknowledged + 3))
        writer.wait_more()
    writer.stop()
    wait_snapshot(ec2, *[made for made, *_ in taken])
    for made, least, most in taken:
        data = block(ebs, made)
        header = int(data[:12])
        assert least <= header <= most, (made, least, header, most)
        slot = (header % 16 + 1) * 4096
        assert int(data[slot : slot + 12]) == header, f"{made}: the header names a record that is not there"
    # And as a disk again.
    made, least, _ = taken[count // 2]
    restored = volume(ec2, None, SnapshotId=made)
    attach(ec2, other, restored, "/dev/sdf")
    assert int(other.ssh("sudo dd if=/dev/sdf bs=12 count=1 2>/dev/null")) >= least
    detach(ec2, restored)
    detach(ec2, disk)
    for gone in (disk, restored):
        ec2.delete_volume(VolumeId=gone)
    for made, *_ in taken:
        ec2.delete_snapshot(SnapshotId=made)


def test_disks_of_an_instance_are_snapshotted_at_one_instant(ec2, ebs, pair):
    machine = pair[0]
    disks = [volume(ec2) for _ in range(2)]
    for disk, device in zip(disks, ("/dev/sdf", "/dev/sdg")):
        attach(ec2, machine, disk, device)
    step = "printf '%012d' $i | sudo dd of={} bs=4096 count=1 conv=notrunc,fsync 2>/dev/null || exit 1"
    script = "i=0; while [ ! -e /tmp/stop ]; do i=$((i + 1)); {}; {}; echo $i; done"
    writer = Writer(machine, script.format(step.format("/dev/sdf"), step.format("/dev/sdg")))
    writer.wait_more(3)
    groups = []
    for _ in range(3):
        made = ec2.create_snapshots(
            InstanceSpecification={"InstanceId": machine.id, "ExcludeBootVolume": True}, Description="both"
        )["Snapshots"]
        assert len(made) == 2
        groups.append({s["VolumeId"]: s["SnapshotId"] for s in made})
        writer.wait_more()
    writer.stop()
    for group in groups:
        wait_snapshot(ec2, *group.values())
        first, second = (int(block(ebs, group[disk])[:12]) for disk in disks)
        assert first - second in (0, 1), (first, second)
    for disk in disks:
        detach(ec2, disk)
        ec2.delete_volume(VolumeId=disk)


def test_an_unchanged_snapshot_stores_nothing(region, ec2, pair):
    machine = pair[0]
    disk = volume(ec2, 4)
    attach(ec2, machine, disk, "/dev/sdf")
    machine.ssh("sudo dd if=/dev/urandom of=/dev/sdf bs=1M count=16 conv=fsync 2>/dev/null")
    first = snapshot(ec2, disk)
    wait_snapshot(ec2, first)
    before = stored(region)
    assert before >= 16 * MiB
    second = snapshot(ec2, disk)
    wait_snapshot(ec2, second)
    assert stored(region) - before < 64 << 10, "an unchanged snapshot may store its root"
    machine.ssh("sudo dd if=/dev/urandom of=/dev/sdf bs=1M seek=100 count=2 conv=fsync 2>/dev/null")
    third = snapshot(ec2, disk)
    wait_snapshot(ec2, third)
    assert 2 * MiB <= stored(region) - before <= 2 * MiB * 1.1
    machine.ssh("sudo dd if=/dev/zero of=/dev/sdf bs=1M seek=200 count=4 conv=fsync 2>/dev/null")
    fourth = snapshot(ec2, disk)
    wait_snapshot(ec2, fourth)
    assert stored(region) - before <= 2 * MiB * 1.1 + (128 << 10), "zeros are not stored"
    detach(ec2, disk)
    ec2.delete_volume(VolumeId=disk)
    for made in (first, second, third, fourth):
        ec2.delete_snapshot(SnapshotId=made)
    wait_for(lambda: stored(region) <= before - 15 * MiB, "what nothing uses to be freed", 60, 0.5)


def test_nothing_encrypted_is_readable_on_the_host(region, ec2, pair):
    machine = pair[0]
    canary = "canary-" + os.urandom(12).hex()
    disk = volume(ec2, Encrypted=True)
    assert describe(ec2, disk)["Encrypted"] and describe(ec2, disk)["KmsKeyId"].startswith("arn:aws:kms:")
    attach(ec2, machine, disk, "/dev/sdf")
    write = f"yes {canary} | head -n 1000 | sudo dd of=/dev/sdf bs=4096 conv=fsync 2>/dev/null"
    machine.ssh(write)
    made = snapshot(ec2, disk)
    wait_snapshot(ec2, made)
    assert ec2.describe_snapshots(SnapshotIds=[made])["Snapshots"][0]["Encrypted"]
    machine.ssh(write)
    detach(ec2, disk)
    found = subprocess.run(["grep", "-rl", "--binary-files=text", canary, str(region.directory)], capture_output=True, text=True)
    assert found.stdout == "", "in the clear"
    restored = volume(ec2, None, SnapshotId=made)
    assert describe(ec2, restored)["Encrypted"]
    attach(ec2, machine, restored, "/dev/sdf")
    assert machine.ssh(f"sudo head -c 4096 /dev/sdf | grep -c {canary}") != "0"
    detach(ec2, restored)
    for gone in (disk, restored):
        ec2.delete_volume(VolumeId=gone)
    ec2.delete_snapshot(SnapshotId=made)


def test_a_disk_that_is_held_can_be_taken_away(ec2, pair):
    one, two = pair
    disk = volume(ec2)
    attach(ec2, one, disk, "/dev/sdf")
    one.ssh("sudo mkfs.ext4 -q /dev/sdf && sudo mkdir -p /mnt && sudo mount /dev/sdf /mnt")
    one.ssh("echo held | sudo tee /mnt/file && sync")
    detach(ec2, disk, Force=True)
    attach(ec2, two, disk, "/dev/sdh")
    assert two.ssh("sudo mkdir -p /mnt && sudo mount /dev/sdh /mnt && cat /mnt/file && sudo umount /mnt") == "held"
    detach(ec2, disk)
    ec2.delete_volume(VolumeId=disk)


def test_an_image_of_a_machine_boots(ec2, key, group, pair):
    machine = pair[1]
    machine.ssh("echo inherited | sudo tee /kept && sync")
    made = ec2.create_image(InstanceId=machine.id, Name="inherited", NoReboot=True)["ImageId"]
    wait_for(
        lambda: ec2.describe_images(ImageIds=[made])["Images"][0]["State"] == "available", "the image", 240, 0.2
    )
    mapping = ec2.describe_images(ImageIds=[made])["Images"][0]["BlockDeviceMappings"][0]
    with pytest.raises(ClientError, match="InvalidSnapshot.InUse"):
        ec2.delete_snapshot(SnapshotId=mapping["Ebs"]["SnapshotId"])
    heir = launch(ec2, key, [group], pattern="inherited")
    heir.wait_state("running")
    assert heir.ssh("cat /kept") == "inherited"
    ec2.terminate_instances(InstanceIds=[heir.id])
    heir.wait_state("terminated")
    ec2.deregister_image(ImageId=made)
    ec2.delete_snapshot(SnapshotId=mapping["Ebs"]["SnapshotId"])


def test_a_volume_outlives_its_daemon_and_its_machine(region, ec2, pair):
    machine = pair[0]
    disk = volume(ec2)
    attach(ec2, machine, disk, "/dev/sdf")
    machine.ssh("echo durable | sudo dd of=/dev/sdf bs=512 count=1 conv=sync,fsync 2>/dev/null")
    region.kill()
    region.start()
    assert machine.ssh("sudo head -c 7 /dev/sdf") == "durable"
    later = snapshot(ec2, disk)
    wait_snapshot(ec2, later)
    for process in region.processes(machine.id):
        os.kill(process, 9)
    machine.wait_state("stopped")
    ec2.start_instances(InstanceIds=[machine.id])
    machine.wait_state("running")
    wait_guest(machine, "[ -b /dev/sdf ]", "the disk after the start")
    assert machine.ssh("sudo head -c 7 /dev/sdf") == "durable"
    detach(ec2, disk)
    ec2.delete_volume(VolumeId=disk)
    ec2.delete_snapshot(SnapshotId=later)


def test_local_disks_live_as_long_as_the_machine_runs(ec2, key, group):
    with pytest.raises(ClientError, match="InvalidBlockDeviceMapping"):
        launch(
            ec2, key, [group], BlockDeviceMappings=[{"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"}]
        )
    image = ec2.describe_images(Owners=["self"])["Images"][0]["ImageId"]
    instance = ec2.run_instances(
        ImageId=image, InstanceType="c5d.large", MinCount=1, MaxCount=1, KeyName=key.stem, SecurityGroupIds=[group]
    )["Instances"][0]["InstanceId"]
    from lesson import Machine

    machine = Machine(ec2, instance, key)
    machine.wait_state("running")
    find = "for d in /sys/block/vd*; do grep -q ephemeral0 $d/serial && echo /dev/${d##*/}; done"
    disk = machine.ssh(find)
    assert int(machine.ssh(f"cat /sys/block/{disk[5:]}/size")) * 512 == 50 * 10**9
    machine.ssh(f"echo scratch | sudo dd of={disk} bs=512 count=1 conv=sync,fsync 2>/dev/null")
    boot = machine.ssh("cat /proc/sys/kernel/random/boot_id")
    ec2.reboot_instances(InstanceIds=[instance])
    wait_for(lambda: machine.ssh("cat /proc/sys/kernel/random/boot_id") != boot, "the reboot", 240, 0.5)
    assert machine.ssh(f"sudo head -c 7 $({find})") == "scratch"
    ec2.stop_instances(InstanceIds=[instance])
    machine.wait_state("stopped")
    ec2.start_instances(InstanceIds=[instance])
    machine.wait_state("running")
    assert machine.ssh(f"sudo head -c 7 $({find}) | tr -d '\\0'") == ""
    ec2.terminate_instances(InstanceIds=[instance])
    machine.wait_state("terminated")


def test_speed_is_what_was_paid_for(ec2, pair):
    """Not a measurement (cargo xtask bench has that): a slow disk is slow, and faster after a change."""
    machine = pair[0]
    disk = volume(ec2, 125, VolumeType="sc1")
    attach(ec2, machine, disk, "/dev/sdf")
    # sc1 of 125 GiB: 80 MiB/s/TiB in a burst, so 10 MiB/s.
    begun = time.monotonic()
    machine.ssh("sudo dd if=/dev/zero of=/dev/sdf bs=1M count=40 oflag=direct 2>/dev/null")
    assert time.monotonic() - begun > 3
    detach(ec2, disk)
    ec2.delete_volume(VolumeId=disk)
