"""A region of a test's own, which may be broken, and what it leaves on the machine."""

import os
import pathlib
import subprocess

from support import Daemon, binary, wait_for


class Region(Daemon):
    """A daemon on real machines with its own directory, images, network and public addresses."""

    def __init__(self, directory, letter, images):
        """`letter` tells the regions of one run apart; each run has its own names and addresses."""
        directory = pathlib.Path(directory)
        (directory / "images").mkdir(parents=True, exist_ok=True)
        for image in images:
            (directory / "images" / image.name).symlink_to(image)
        self.prefix = f"{letter}{os.getpid() & 0xFFFF:04x}"
        self.pool = f"198.19.{(os.getpid() + 10 * ord(letter)) % 250}.0/24"
        network = ["--network-prefix", self.prefix, "--public-pool", self.pool]
        super().__init__(binary(), directory, ["--driver", "qemu", "--vm-memory-max", "512", *network])

    def kernel_objects(self):
        """What this region has in the kernel; others of this machine may come and go meanwhile."""
        commands = (["ip", "netns"], ["ip", "-o", "link"], ["nft", "list", "tables"], ["ip", "-4", "route"])
        outputs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for command in commands]
        lines = [line for output in outputs for line in output.splitlines()]
        return [line for line in lines if self.prefix in line or self.pool in line]

    def __enter__(self):
        assert not self.kernel_objects()
        try:
            return super().__enter__()
        except BaseException:
            self.down()
            raise

    def __exit__(self, *_):
        self.down()
        assert not self.kernel_objects(), "gureum down left something behind"
        assert not self.processes()

    def down(self):
        if self.process is not None:
            self.stop()
        options = ["--data-dir", str(self.directory), "--network-prefix", self.prefix]
        subprocess.run([self.program, "down", *options], check=True)

    def processes(self, instance_id=""):
        """The region's QEMU processes, or the one of an instance: they work in the data directory."""
        found = set()
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                is_qemu = (process / "comm").read_text().startswith("qemu")
                here = is_qemu and (process / "cwd").resolve() == self.directory.resolve()
                if here and instance_id in (process / "cmdline").read_text():
                    found.add(int(process.name))
            except OSError:
                pass  # It has ended.
        return found

    def taps(self):
        names = set()
        listing = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
        for line in listing.splitlines():
            if line.startswith(self.prefix):
                namespace = line.split()[0]
                links = ["ip", "-n", namespace, "-o", "link", "show", "type", "tun"]
                output = subprocess.run(links, capture_output=True, text=True).stdout
                names |= {link.split(": ")[1] for link in output.splitlines()}
        return names

    def residue(self, ec2):
        """Everything that a launch makes, by name."""
        return {
            "volume files": {path.name for path in (self.directory / "volumes").iterdir()},
            "machine directories": {path.name for path in (self.directory / "machines").iterdir()},
            "processes": self.processes(),
            "taps": self.taps(),
            "volumes": {volume["VolumeId"] for volume in ec2.describe_volumes()["Volumes"]},
            "interfaces": {
                interface["NetworkInterfaceId"]
                for interface in ec2.describe_network_interfaces()["NetworkInterfaces"]
            },
        }

    def wait_residue(self, ec2, before):
        """Waits until only `before` is left: what the kernel holds goes a moment after the state says so."""
        left = {}

        def clean():
            left.update({kind: names - before[kind] for kind, names in self.residue(ec2).items()})
            return not any(left.values())

        try:
            wait_for(clean, "everything to be gone", 20, 0.1)
        except AssertionError as error:
            raise AssertionError(f"left behind: {left}") from error
