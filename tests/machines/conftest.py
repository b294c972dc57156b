"""The real clients against real machines: one daemon, few machines, well used. Needs root and QEMU."""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from support import ROOT, Daemon, binary  # noqa: E402

REGION = "us-east-1"
DATA = pathlib.Path(os.environ.get("GUREUM_TEST_DATA", ROOT / "target/test-data"))
# Two runs on one machine share neither names nor addresses.
PREFIX = f"g{os.getpid() & 0xFFFF:04x}"
POOL = f"198.19.{os.getpid() % 250}.0/24"
OPTIONS = ["--driver", "qemu", "--vm-memory-max", "512", "--public-pool", POOL, "--network-prefix", PREFIX]


def kernel_state():
    """Every namespace, link, table and route of this region."""
    commands = (["ip", "netns"], ["ip", "-o", "link"], ["nft", "list", "tables"], ["ip", "-4", "route"])
    outputs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for command in commands]
    lines = [line for output in outputs for line in output.splitlines()]
    return [line for line in lines if PREFIX in line or POOL in line]


def recipe():
    """A digest of what images are made by."""
    sources = [path for part in ("crates/node/src/image", "crates/guest/src") for path in (ROOT / part).rglob("*.rs")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(sources))).hexdigest()


def build(image):
    """Builds an image, unless it was built by these sources."""
    stamp = DATA / f"images/.recipe-{image}"
    if not stamp.exists() or stamp.read_text() != recipe():
        shutil.rmtree(DATA / "images" / image, ignore_errors=True)
    subprocess.run(
        [binary(), "image", "build", image, "--if-missing", "--data-dir", str(DATA)],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    stamp.write_text(recipe())


@pytest.fixture(scope="session")
def daemon(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("real machines need root")
    build("micro")
    directory = tmp_path_factory.mktemp("region")
    (directory / "images").symlink_to(DATA / "images")
    daemon = Daemon(binary(), directory, OPTIONS)
    try:
        with daemon:
            yield daemon
            assert kernel_state() != []
    finally:
        subprocess.run(
            [binary(), "down", "--data-dir", str(directory), "--network-prefix", PREFIX], check=True
        )
    assert kernel_state() == [], "gureum down left something behind"


@pytest.fixture(scope="session")
def ec2(daemon):
    return daemon.client("ec2", REGION)
