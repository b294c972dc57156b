"""The images that people start from, and those that they bring."""

import os
import subprocess
import time

import pytest
from conftest import DATA, REGION, build
from faulty import Region
from lesson import create_group, create_key, fetch, launch
from support import binary, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="real machines need root")


def slow(why):
    return pytest.mark.skipif(os.environ.get("GUREUM_SLOW_TESTS") != "1", reason=f"GUREUM_SLOW_TESTS=1 runs it: {why}")


ONCE = """#!/bin/sh
echo run >> /root/user-data-runs
hostname -f > /root/name-at-boot
"""

# As the course has it.
COURSE = """#!/bin/bash
yum update -y
yum install -y httpd
systemctl start httpd
systemctl enable httpd
echo "<h1>Hello World from $(hostname -f)</h1>" > /var/www/html/index.html
"""


def timed_build(image):
    begun = time.monotonic()
    build(image)
    print(f"gureum image build {image}: {time.monotonic() - begun:.0f} s")


@pytest.fixture(scope="module")
def region(tmp_path_factory):
    """A region that begins without any image: they are published while it runs."""
    with Region(tmp_path_factory.mktemp("images"), "s", []) as region:
        yield region


@pytest.fixture(scope="module")
def ec2(region):
    return region.client("ec2", REGION)


@pytest.fixture(scope="module")
def key(ec2, tmp_path_factory):
    return create_key(ec2, tmp_path_factory.mktemp("keys"), "images")


@pytest.fixture(scope="module")
def group(ec2):
    return create_group(ec2, "images", 22, 80)


@pytest.fixture(scope="module")
def published(region, ec2):
    """Makes an image of the test data the region's."""

    def publish(key, pattern):
        timed_build(key)
        (region.directory / "images" / key).symlink_to(DATA / "images" / key)
        found = [{"Name": "name", "Values": [pattern]}]
        wait_for(lambda: ec2.describe_images(Filters=found)["Images"], f"an AMI {pattern}", 120)

    return publish


@pytest.fixture(scope="module")
def begun():
    return time.monotonic()


@pytest.fixture(scope="module")
def machines(ec2, key, group, published, begun):
    """Debian and the course's machine, which boot side by side: each keeps one processor busy."""
    published("debian-12", "debian-12-amd64-*")
    published("al2-compat", "amzn2-ami-hvm-*")
    debian = launch(ec2, key, [group], ONCE, pattern="debian-12-amd64-*", user="admin")
    course = launch(ec2, key, [group], COURSE, pattern="amzn2-ami-hvm-*")
    yield debian, course
    for machine in (debian, course):
        ec2.terminate_instances(InstanceIds=[machine.id])
    for machine in (debian, course):
        machine.wait_state("terminated")


@pytest.fixture(scope="module")
def debian(machines, begun):
    machine = machines[0]
    machine.wait_state("running")
    machine.ssh("true")
    print(f"debian-12 from run-instances to a login: {time.monotonic() - begun:.0f} s")
    return machine


def test_debian_boots_with_cloud_init(debian):
    status = debian.ssh("cloud-init status --wait --long")
    assert "status: done" in status, status
    assert "DataSourceEc2" in status, status
    assert debian.ssh("id -un; hostname -f; . /etc/os-release; echo $ID-$VERSION_ID").split() == [
        "admin", debian.describe()["PrivateDnsName"], "debian-12",
    ]
    assert debian.ssh("sudo cat /root/user-data-runs /root/name-at-boot").split() == [
        "run", debian.describe()["PrivateDnsName"],
    ]


def test_debian_has_its_key_from_metadata(debian, key):
    public = subprocess.run(["ssh-keygen", "-y", "-f", str(key)], check=True, capture_output=True, text=True).stdout
    query = "sudo cloud-init query --format '{{instance_id}} {{ds.meta_data.public_keys}}'"
    installed, queried = debian.ssh(f"tail -n 1 ~/.ssh/authorized_keys; {query}").split("\n", 1)
    assert installed.split()[:2] == public.split()[:2]
    assert queried.startswith(debian.id) and public.split()[1] in queried


@slow("a reboot of Debian under emulation takes a minute")
def test_debian_runs_its_user_data_once(ec2, debian):
    boot = debian.ssh("cat /proc/sys/kernel/random/boot_id")
    ec2.reboot_instances(InstanceIds=[debian.id])
    wait_for(lambda: debian.ssh("cat /proc/sys/kernel/random/boot_id") != boot, "a new boot", 240, 0.5)
    assert "status: done" in debian.ssh("cloud-init status --wait")
    assert debian.ssh("sudo cat /root/user-data-runs") == "run"


def test_the_courses_script_runs_as_written(ec2, machines, begun):
    machine = machines[1]
    machine.wait_state("running")
    wait_for(lambda: fetch(machine.public), f"the page; the console:\n{machine.console()[-3000:]}", 600, 1)
    page = f"<h1>Hello World from {machine.describe()['PrivateDnsName']}</h1>"
    # Apache serves its own page until the script's last line.
    wait_for(lambda: fetch(machine.public) == page, "the course's page", 120, 0.5)
    print(f"al2-compat from run-instances to the page: {time.monotonic() - begun:.0f} s")
    assert machine.ssh("id -un; systemctl is-enabled httpd").split() == ["ec2-user", "enabled"]
    described = ec2.describe_images(ImageIds=[machine.describe()["ImageId"]])["Images"][0]
    assert "not Amazon Linux" in described["Description"]


# Disks that people bring.


def boot_sector(text):
    """A master boot record that writes `text` to the first serial port and stops there."""
    code = bytes.fromhex(
        "fa fc"  # cli; cld
        "31c0 8ed8"  # xor ax, ax; mov ds, ax
        "be0000"  # mov si, text: filled in below
        "bafd03"  # next: mov dx, 0x3fd
        "ec a820 74fb"  # wait: in al, dx; test al, 0x20; jz wait
        "ac 84c0 7406"  # lodsb; test al, al; jz end
        "baf803 ee"  # mov dx, 0x3f8; out dx, al
        "ebed"  # jmp next
        "f4 ebfd"  # end: hlt; jmp end
    )
    code = code.replace(bytes.fromhex("be0000"), b"\xbe" + (0x7C00 + len(code)).to_bytes(2, "little"))
    return (code + text.encode() + b"\0").ljust(510, b"\0") + b"\x55\xaa"


def image_import(region, file, *options):
    command = [binary(), "image", "import", str(file), "--data-dir", str(region.directory), *options]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def raw_disk(path, start):
    path.write_bytes(start)
    os.truncate(path, 2 << 20)
    return path


@pytest.mark.parametrize("disk_format", ["qcow2", "raw"])
def test_disk_that_somebody_brings_is_booted_by_firmware(region, ec2, key, group, tmp_path, disk_format):
    said = f"Hello from the first sector of a {disk_format} disk"
    file = raw = raw_disk(tmp_path / "disk.raw", boot_sector(said + "\r\n"))
    if disk_format == "qcow2":
        file = tmp_path / "disk.qcow2"
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(file)], check=True)
    name = f"brought-{disk_format}"
    done = image_import(region, file, "--name", name)
    assert done.returncode == 0, done.stderr
    file.unlink()
    listing = [binary(), "image", "list", "--data-dir", str(region.directory)]
    assert name in subprocess.run(listing, check=True, capture_output=True, text=True).stdout
    found = [{"Name": "name", "Values": [name]}]
    wait_for(lambda: ec2.describe_images(Filters=found)["Images"], "the AMI", 60)
    machine = launch(ec2, key, [group], pattern=name)
    machine.wait_state("running")
    wait_for(lambda: said in machine.console(), "its words on the console", 60, 0.1)
    # It has no operating system that could follow the power button.
    ec2.terminate_instances(InstanceIds=[machine.id])
    machine.wait_state("terminated", 30)


@pytest.mark.parametrize("kind", ["text", "blank", "backing", "data-file", "torn"])
def test_what_is_no_disk_or_reaches_beyond_itself_is_refused(region, tmp_path, kind):
    file = tmp_path / "brought.img"
    if kind == "text":
        file.write_text("This is not a disk.\n" * 1000)
        words = ["brought.img", "not a disk image"]
    elif kind == "blank":
        raw_disk(file, b"")
        words = ["brought.img", "no boot sector"]
    elif kind == "backing":
        secret = raw_disk(tmp_path / "secret", boot_sector("secret"))
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(secret), str(file)], check=True)
        words = ["backing file", "qemu-img convert"]
    elif kind == "data-file":
        options = f"data_file={tmp_path / 'secret'},data_file_raw=on"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, str(file), "2M"], check=True)
        words = ["another file", "qemu-img convert"]
    else:
        raw = raw_disk(tmp_path / "disk.raw", boot_sector("torn"))
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(file)], check=True)
        os.truncate(file, 1 << 16)
        words = ["brought.img"]
    before = sorted((region.directory / "images").rglob("*"))
    done = image_import(region, file)
    assert done.returncode == 1, done.stdout
    for word in words:
        assert word in done.stderr, done.stderr
    assert sorted((region.directory / "images").rglob("*")) == before
    assert file.exists()


# Images that people make.


def task(describe, list_name, id_name, name):
    """An import or export that has ended well."""

    def ended():
        (found,) = describe(**{id_name: [name]})[list_name]
        return found if found["Status"] != "active" else None

    done = wait_for(ended, name, 240, 0.2)
    assert done["Status"] == "completed", done
    return done


@pytest.mark.parametrize("disk_format, as_qemu", [("RAW", "raw"), ("VMDK", "vmdk"), ("VHD", "vpc"), ("QCOW2", "qcow2")])
def test_disks_come_and_go_through_buckets(region, ec2, key, group, tmp_path, disk_format, as_qemu):
    said = f"Hello from the first sector of a {disk_format} disk"
    raw = raw_disk(tmp_path / "disk.raw", boot_sector(said + "\r\n"))
    bucket = region.directory / "buckets" / "disks"
    (bucket / "in").mkdir(parents=True, exist_ok=True)
    command = ["qemu-img", "convert", "-f", "raw", "-O", as_qemu, str(raw), str(bucket / "in" / as_qemu)]
    subprocess.run(command, check=True)
    disk = {"Format": disk_format, "UserBucket": {"S3Bucket": "disks", "S3Key": f"in/{as_qemu}"}}
    imported = ec2.import_image(DiskContainers=[disk])["ImportTaskId"]
    made = task(ec2.describe_import_image_tasks, "ImportImageTasks", "ImportTaskIds", imported)["ImageId"]
    (bucket / "in" / as_qemu).unlink()
    machine = launch(ec2, key, [group], pattern=imported)
    machine.wait_state("running")
    wait_for(lambda: said in machine.console(), "its words on the console", 120, 0.1)
    ec2.terminate_instances(InstanceIds=[machine.id])
    if disk_format == "QCOW2":
        return  # AWS exports none.
    exported = ec2.export_image(
        ImageId=made, DiskImageFormat=disk_format, S3ExportLocation={"S3Bucket": "disks", "S3Prefix": "out/"}
    )["ExportImageTaskId"]
    task(ec2.describe_export_image_tasks, "ExportImageTasks", "ExportImageTaskIds", exported)
    written = bucket / "out" / f"{exported}.{disk_format.lower()}"
    back = tmp_path / "back.raw"
    subprocess.run(["qemu-img", "convert", "-f", as_qemu, "-O", "raw", str(written), str(back)], check=True)
    with back.open("rb") as file:
        assert file.read(512) == boot_sector(said + "\r\n")
    machine.wait_state("terminated", 60)
    ec2.deregister_image(ImageId=made, DeleteAssociatedSnapshots=True)


def test_images_made_of_a_machine_boot_as_it_does(ec2, published, key, group):
    published("micro", "gureum-micro-*")
    source = launch(ec2, key, [group])
    source.wait_state("running")
    boot = source.ssh("cat /proc/sys/kernel/random/boot_id")
    # Not synchronised: what is in memory is written by the reboot before the disks are cut.
    source.ssh("echo written | sudo tee /kept")
    made = ec2.create_image(InstanceId=source.id, Name="with a reboot")["ImageId"]

    def state(name):
        return ec2.describe_images(ImageIds=[name])["Images"][0]["State"]

    wait_for(lambda: state(made) == "available", "the image", 300, 0.2)
    wait_for(lambda: source.ssh("cat /proc/sys/kernel/random/boot_id") != boot, "the reboot", 240, 0.5)
    ec2.terminate_instances(InstanceIds=[source.id])
    root = ec2.describe_images(ImageIds=[made])["Images"][0]["BlockDeviceMappings"][0]
    secret = ec2.copy_image(SourceRegion=REGION, SourceImageId=made, Name="secret", Encrypted=True)["ImageId"]
    ec2.deregister_image(ImageId=made)
    mapping = {"DeviceName": root["DeviceName"], "Ebs": {"SnapshotId": root["Ebs"]["SnapshotId"]}}
    registered = ec2.register_image(
        Name="registered",
        Architecture="x86_64",
        VirtualizationType="hvm",
        EnaSupport=True,
        RootDeviceName=root["DeviceName"],
        BlockDeviceMappings=[mapping],
    )["ImageId"]
    wait_for(lambda: state(secret) == "available", "the copy", 300, 0.2)
    for name in ("registered", "secret"):
        child = launch(ec2, key, [group], pattern=name)
        child.wait_state("running")
        assert child.ssh("cat /kept") == "written", name
        ec2.terminate_instances(InstanceIds=[child.id])
    ec2.deregister_image(ImageId=secret, DeleteAssociatedSnapshots=True)
    ec2.deregister_image(ImageId=registered, DeleteAssociatedSnapshots=True)
