"""Names of disks in the built images: what was asked for is a link to the disk, at boot and while the machine runs."""

import os

import pytest
from conftest import DATA, REGION, build
from faulty import Region
from lesson import create_group, create_key, launch
from support import wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="real machines need root")

IMAGES = {"micro": ("gureum-micro-*", "ec2-user"), "debian-12": ("debian-12-*", "admin")}
SLOW = pytest.mark.skipif(os.environ.get("GUREUM_SLOW_TESTS") != "1", reason="GUREUM_SLOW_TESTS=1 runs it: two minutes")

# Every link of ours with its target, then every disk with its bytes.
LIST = """
for link in /dev/sd* /dev/xvd*; do echo $link $(readlink $link); done
for disk in /sys/block/vd*; do echo ${disk##*/} $(($(cat $disk/size) * 512)); done
"""


@pytest.mark.parametrize("image", ["micro", pytest.param("debian-12", marks=SLOW)])
def test_names_are_links(tmp_path, image):
    build(image)
    pattern, user = IMAGES[image]
    with Region(tmp_path / "region", "n", [DATA / "images" / image]) as region:
        ec2 = region.client("ec2", REGION)
        named = [{"Name": "name", "Values": [pattern]}]
        wait_for(lambda: ec2.describe_images(Filters=named)["Images"], "the image", 120, 0.2)
        key = create_key(ec2, tmp_path, "names")
        # Two disks whose names are not in the order of their attachment.
        mappings = [
            {"DeviceName": "/dev/sdh", "Ebs": {"VolumeSize": 1}},
            {"DeviceName": "/dev/xvdf", "Ebs": {"VolumeSize": 2}},
        ]
        machine = launch(
            ec2, key, [create_group(ec2, "names", 22)], pattern=pattern, user=user, BlockDeviceMappings=mappings,
            Placement={"AvailabilityZone": f"{REGION}a"},
        )
        machine.wait_state("running")

        def names():
            words = [line.split() for line in machine.ssh(LIST).splitlines()]
            words = [pair for pair in words if len(pair) == 2]
            targets = {link: target for link, target in words if link.startswith("/dev/") and target.startswith("vd")}
            sizes = {disk: int(size) >> 30 for disk, size in words if disk.startswith("vd")}
            return {link: sizes[target] for link, target in targets.items()}

        def wait_names(wanted):
            wait_for(lambda: names() == wanted, f"{wanted} in {image}, not {names()}", 60, 0.5)

        at_boot = {"/dev/sda": 8, "/dev/xvda": 8, "/dev/sdh": 1, "/dev/xvdh": 1, "/dev/sdf": 2, "/dev/xvdf": 2}
        wait_names(at_boot)

        # Comes and goes.
        plugged = ec2.create_volume(AvailabilityZone=f"{REGION}a", Size=3)["VolumeId"]
        ec2.get_waiter("volume_available").wait(VolumeIds=[plugged], WaiterConfig={"Delay": 1})
        ec2.attach_volume(InstanceId=machine.id, VolumeId=plugged, Device="/dev/sdg")
        wait_names(at_boot | {"/dev/sdg": 3, "/dev/xvdg": 3})
        by_id = machine.ssh(f"readlink /dev/disk/by-id/virtio-{plugged.replace('-', '')}")
        assert by_id.startswith("../../vd"), by_id
        ec2.detach_volume(VolumeId=plugged)
        wait_names(at_boot)
        # The same volume under another name.
        ec2.get_waiter("volume_available").wait(VolumeIds=[plugged], WaiterConfig={"Delay": 1})
        ec2.attach_volume(InstanceId=machine.id, VolumeId=plugged, Device="/dev/xvdp")
        wait_names(at_boot | {"/dev/sdp": 3, "/dev/xvdp": 3})
