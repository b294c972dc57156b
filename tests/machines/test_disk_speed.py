"""Limits of volumes as Debian's own fio sees them in a guest. Not a measurement of the data path: cargo xtask bench has that."""

import json
import os
import time

import pytest
from conftest import DATA, REGION, build
from faulty import Region
from lesson import create_group, create_key, launch
from support import wait_for
from test_disks import attach, volume

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="real machines need root"),
    pytest.mark.skipif(
        os.environ.get("GUREUM_SLOW_TESTS") != "1", reason="GUREUM_SLOW_TESTS=1 runs it: seven minutes, and Debian's mirror"
    ),
]

SECONDS = 30
FIO = (
    f"sudo fio --name=limit --filename=/dev/sdf --direct=1 --ioengine=libaio --iodepth=32 --time_based --runtime={SECONDS}"
    " --size=1G --output-format=json"
)


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    build("debian-12")
    directory = tmp_path_factory.mktemp("speed")
    with Region(directory, "v", [DATA / "images/debian-12"]) as region:
        ec2 = region.client("ec2", REGION)
        named = [{"Name": "name", "Values": ["debian-12-*"]}]
        wait_for(lambda: ec2.describe_images(Filters=named)["Images"], "the image", 240, 0.2)
        key, group = create_key(ec2, directory, "speed"), create_group(ec2, "speed", 22)
        zone = {"AvailabilityZone": f"{REGION}a"}
        begun = time.monotonic()
        machine = launch(ec2, key, [group], pattern="debian-12-*", user="admin", Placement=zone)
        machine.wait_state("running")
        machine.ssh("sudo apt-get -qq update && sudo DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends fio")
        print(f"from run-instances to an installed fio: {time.monotonic() - begun:.0f} s")
        # gp3 as it comes: 3,000 IOPS and 125 MiB/s.
        disk = volume(ec2, 2)
        attach(ec2, machine, disk, "/dev/sdf")
        yield machine


def fio(machine, words):
    done = json.loads(machine.ssh(f"{FIO} {words}"))["jobs"][0]
    assert done["error"] == 0
    return done


@pytest.mark.parametrize("kind", ["read", "write"])
def test_a_gp3_volume_gives_3000_operations_a_second_and_no_more(machine, kind):
    rate = fio(machine, f"--rw=rand{kind} --bs=4k")[kind]["iops"]
    print(f"random {kind}: {rate:.0f} operations a second")
    assert rate <= 3000 * 1.05
    # Emulated processors may be slower than the limit; a limit that is far too low is none of theirs.
    assert rate >= 1000


def test_a_gp3_volume_gives_125_mib_a_second_and_no_more(machine):
    rate = fio(machine, "--rw=read --bs=1M")["read"]["bw_bytes"] / (1 << 20)
    print(f"sequential read: {rate:.0f} MiB a second")
    assert rate <= 125 * 1.05
    assert rate >= 40
