"""What goes wrong on real machines, and what instances and people are told of it."""

import base64
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile
import time

import pytest
from botocore.exceptions import ClientError
from conftest import DATA, REGION, build
from faulty import Region
from lesson import create_group, create_key, launch
from support import binary, free_port, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="real machines need root")

BLANK = 1 << 20


def spoiled_image(directory, key, **changes):
    """An image that is whole, but of empty files: like micro, with `changes` in its manifest."""
    manifest = json.loads((DATA / "images/micro/manifest.json").read_text())
    manifest |= {"key": key, "name": f"spoiled-{key}", "disk": "disk"} | changes
    manifest["boot"] = {"kernel": {"kernel": "vmlinuz", "initrd": "initrd", "command_line": "quiet"}}
    image = directory / key
    image.mkdir(parents=True)
    for name in ("disk", "vmlinuz", "initrd"):
        (image / name).write_bytes(bytes(BLANK))
    (image / "manifest.json").write_text(json.dumps(manifest))
    return image


@pytest.fixture(scope="module", autouse=True)
def micro():
    build("micro")


@pytest.fixture(scope="module")
def spoiled(micro, tmp_path_factory):
    directory = tmp_path_factory.mktemp("spoiled")
    images = {key: spoiled_image(directory, key) for key in ("no-kernel", "no-initrd", "odd-kernel")}
    images["no-qcow2"] = spoiled_image(directory, "no-qcow2", disk_format="qcow2")
    disk = spoiled_image(directory, "torn-qcow2", disk_format="qcow2") / "disk"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "1G"], check=True)
    with open(disk, "r+b") as file:
        file.seek(40)  # Where the table of clusters begins (docs/interop/qcow2.txt).
        file.write(bytes([0xff] * 8))
    micro = json.loads((DATA / "images/micro/manifest.json").read_text())["boot"]["kernel"]
    for name, found in (("vmlinuz", micro["kernel"]), ("initrd", micro["initrd"])):
        shutil.copy(DATA / "images/micro" / found, disk.parent / name)
    images["torn-qcow2"] = disk.parent
    return images


@pytest.fixture(scope="module")
def region(tmp_path_factory, spoiled):
    images = [DATA / "images/micro", *spoiled.values()]
    with Region(tmp_path_factory.mktemp("faults"), "h", images) as region:
        yield region


@pytest.fixture(scope="module")
def ec2(region):
    return region.client("ec2", REGION)


@pytest.fixture(scope="module")
def key(ec2, tmp_path_factory):
    return create_key(ec2, tmp_path_factory.mktemp("keys"), "faults")


@pytest.fixture(scope="module")
def group(ec2):
    return create_group(ec2, "faults", 22)


# What a guest is told of itself.

USER_DATA = "#!/bin/sh\nexit 0\n# ünïcödé\n"


@pytest.fixture(scope="module")
def guest(ec2, key, group):
    """A machine that also takes the first version of the metadata service's protocol."""
    machine = launch(ec2, key, [group], USER_DATA, MetadataOptions={"HttpTokens": "optional"})
    machine.wait_state("running")
    return machine


class Answer:
    """An HTTP answer."""

    def __init__(self, raw):
        head, _, self.body = raw.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines[1:])}

    @property
    def text(self):
        return self.body.decode()


def ask(machine, *requests):
    """What the metadata service answers inside the machine to each of (method, path, headers)."""
    script = []
    for method, path, *headers in requests:
        lines = [f"{method} {path} HTTP/1.1", "Host: 169.254.169.254", "Connection: close", *headers, "", ""]
        encoded = base64.b64encode("\r\n".join(lines).encode()).decode()
        script.append(f"echo {encoded} | base64 -d | nc -w 10 169.254.169.254 80 | base64 | tr -d '\\n'; echo")
    answers = machine.ssh("\n".join(script)).split("\n")
    assert len(answers) == len(requests)
    return [Answer(base64.b64decode(answer)) for answer in answers]


def openssl(*arguments):
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
    return done.returncode == 0, done.stdout + done.stderr


def test_identity_document_is_verified_by_openssl(region, guest, tmp_path):
    base = "/latest/dynamic/instance-identity"
    names = ("document", "signature", "rsa2048", "pkcs7")
    parts = dict(zip(names, ask(guest, *(("GET", f"{base}/{name}") for name in names))))
    assert {part.status for part in parts.values()} == {200}
    document = parts["document"].body
    described = guest.describe()
    said = json.loads(document)
    assert said["instanceId"] == guest.id and said["privateIp"] == described["PrivateIpAddress"]
    assert (said["region"], said["accountId"]) == (REGION, "123456789012")
    assert said["imageId"] == described["ImageId"]

    certificate = tmp_path / "certificate.pem"
    command = [binary(), "certificate", "--data-dir", str(region.directory)]
    certificate.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    assert openssl("x509", "-in", certificate, "-noout", "-pubkey", "-out", tmp_path / "public.pem")[0]
    (tmp_path / "document").write_bytes(document)
    (tmp_path / "forged").write_bytes(document.replace(guest.id.encode(), b"i-00000000000000000"))
    (tmp_path / "signature").write_bytes(base64.b64decode(parts["signature"].body))
    verify = ("dgst", "-sha256", "-verify", tmp_path / "public.pem", "-signature", tmp_path / "signature")
    assert openssl(*verify, tmp_path / "document") == (True, "Verified OK\n")
    assert not openssl(*verify, tmp_path / "forged")[0]

    # The commands of the EC2 User Guide, "Verify the instance identity document".
    for name in ("rsa2048", "pkcs7"):
        message = f"-----BEGIN PKCS7-----\n{parts[name].text}\n-----END PKCS7-----\n"
        (tmp_path / name).write_text(message)
        found = ("smime", "-verify", "-in", tmp_path / name, "-inform", "PEM", "-certfile", certificate, "-noverify")
        good, said = openssl(*found, "-out", tmp_path / "content")
        assert good, said
        assert (tmp_path / "content").read_bytes() == document


def test_certificate_needs_a_region(tmp_path):
    done = subprocess.run([binary(), "certificate", "--data-dir", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1 and "start the region once" in done.stderr
    assert not list(tmp_path.iterdir())


def test_metadata_as_a_guest_asks_for_it(ec2, guest):
    dated, old, missing, long, token, user_data = ask(
        guest,
        ("GET", "/2021-03-23/meta-data/instance-id"),
        ("GET", "/latest/meta-data/nothing"),
        ("PUT", "/latest/api/token"),
        ("PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 21601"),
        ("PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 60"),
        ("GET", "/latest/user-data"),
    )
    assert (dated.status, dated.text) == (200, guest.id), "without a token, where that is allowed"
    assert (old.status, missing.status, long.status) == (404, 400, 400)
    assert token.status == 200 and token.headers["x-aws-ec2-metadata-token-ttl-seconds"] == "60"
    assert user_data.text == USER_DATA
    # What the API says counts at once, for a machine that runs.
    ec2.modify_instance_metadata_options(InstanceId=guest.id, HttpTokens="required")
    path = "/latest/meta-data/instance-id"
    (refused,) = wait_for(lambda: [a for a in ask(guest, ("GET", path)) if a.status == 401], "401", 20)
    assert "401 - Unauthorized" in refused.text
    held = f"X-aws-ec2-metadata-token: {token.text}"
    with_token, forged = ask(guest, ("GET", path, held), ("GET", path, held[:-4] + "AAAA"))
    assert (with_token.status, with_token.text, forged.status) == (200, guest.id, 401)
    ec2.modify_instance_metadata_options(InstanceId=guest.id, HttpEndpoint="disabled")
    wait_for(lambda: ask(guest, ("GET", path, held))[0].status == 403, "the service to be off", 20)


# Images that are not what they say.


@pytest.mark.parametrize(
    ("image", "lost", "words"),
    [
        ("no-kernel", "vmlinuz", ["no-kernel", "vmlinuz", "build or import it again"]),
        ("no-initrd", "initrd", ["no-initrd", "initrd", "build or import it again"]),
        ("odd-kernel", None, ["odd-kernel", "vmlinuz: it is empty", "build or import it again"]),
    ],
)
def test_image_that_cannot_boot(region, ec2, key, group, spoiled, image, lost, words):
    if lost:
        (spoiled[image] / lost).unlink()
    if image == "odd-kernel":
        (spoiled[image] / "vmlinuz").write_bytes(b"")
    before = region.residue(ec2)
    machine = launch(ec2, key, [group], pattern=f"spoiled-{image}")
    machine.wait_state("terminated", 60)
    instance = machine.describe()
    reason = instance["StateReason"]
    assert reason["Code"] == "Server.InternalError"
    for word in words:
        assert word in reason["Message"], reason
    assert "PublicIpAddress" not in instance and not instance["BlockDeviceMappings"]
    region.wait_residue(ec2, before)


def test_image_whose_disk_cannot_be_read_is_not_offered(region, ec2):
    names = {image["Name"] for image in ec2.describe_images()["Images"]}
    assert "spoiled-odd-kernel" in names
    assert not names & {"spoiled-no-qcow2", "spoiled-torn-qcow2"}
    log = (region.directory / "daemon.log").read_text(errors="replace")
    assert "not every image is published: image no-qcow2" in log


# The daemon is killed.


def test_killed_daemon_finishes_its_work(region, ec2, key, group):
    seed = int(os.environ.get("GUREUM_TEST_SEED", time.time_ns() % 1_000_000))
    print(f"GUREUM_TEST_SEED={seed}")
    chance = random.Random(seed)
    before = region.residue(ec2)

    def interrupt(longest):
        time.sleep(chance.uniform(0, longest))  # The moment of the kill, not a wait for something.
        region.kill()
        region.start()

    machines = []
    for _ in range(5):
        machine = launch(ec2, key, [group])
        machines.append(machine)
        interrupt(0.5)
        machine.wait_state("running")
        turn = chance.choice(["terminate", "stop", "force"])
        if turn != "terminate":
            ec2.stop_instances(InstanceIds=[machine.id], Force=turn == "force")
            interrupt(0.3)
            machine.wait_state("stopped")
            assert machine.describe()["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
            ec2.start_instances(InstanceIds=[machine.id])
            interrupt(0.5)
            machine.wait_state("running")
        ec2.terminate_instances(InstanceIds=[machine.id])
        interrupt(0.2)
    for machine in machines:
        machine.wait_state("terminated")
        assert machine.describe()["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    # Terminated before it runs.
    machine = launch(ec2, key, [group])
    ec2.terminate_instances(InstanceIds=[machine.id])
    interrupt(0.1)
    machine.wait_state("terminated")
    region.wait_residue(ec2, before)


def test_machines_that_end_unwatched(region, ec2, key, group):
    before = region.residue(ec2)
    killed, off = (launch(ec2, key, [group], InstanceInitiatedShutdownBehavior="terminate") for _ in range(2))
    killed.wait_state("running")
    power_off = off.ssh_command("sudo poweroff")
    off.ssh("true")
    region.kill()
    (process,) = region.processes(killed.id)
    os.kill(process, signal.SIGKILL)
    subprocess.run(power_off, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    region.start()
    killed.wait_state("stopped", 20)
    reason = killed.describe()["StateReason"]
    assert reason["Code"] == "Server.InternalError" and "no daemon was watching" in reason["Message"], reason
    off.wait_state("terminated", 60)
    assert off.describe()["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    ec2.terminate_instances(InstanceIds=[killed.id])
    killed.wait_state("terminated")
    region.wait_residue(ec2, before)


def test_second_daemon_changes_nothing(region, ec2):
    def serve(port, directory):
        options = ["--driver", "qemu", "--listen", f"127.0.0.1:{port}", "--data-dir", str(directory)]
        options += ["--network-prefix", region.prefix, "--public-pool", region.pool]
        done = subprocess.run([binary(), "serve", *options], capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        return done.stderr

    def settled():
        """The routes to the machines of the tests before go a moment after them."""
        instances = [i for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
        routes = {line.split()[0] for line in region.kernel_objects() if " via 169.254.255.2 " in line}
        return routes == {i["PublicIpAddress"] for i in instances if i.get("PublicIpAddress")}

    wait_for(settled, "the routes to be those of the machines", 20, 0.1)
    before = region.kernel_objects()
    assert "cannot listen on" in serve(region.port, region.directory)
    said = serve(free_port(), region.directory)
    assert "another" in said and str(region.directory) in said, said
    assert region.kernel_objects() == before and region.health()["status"] == "ok"


# The disk is full.


@pytest.fixture
def small_disk(tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=755", "gureum-test", str(mount)], check=True)
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def fill(path):
    """Takes all the room there is."""
    with open(path, "wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass


def test_full_disk(small_disk):
    directory = small_disk / "region"
    with Region(directory, "m", [DATA / "images/micro"]) as region:
        ec2 = region.client("ec2", REGION)
        key = create_key(ec2, small_disk, "full")
        group = create_group(ec2, "full", 22)
        running = launch(ec2, key, [group])
        running.wait_state("running")
        running.ssh("true")
        fill(small_disk / "ballast")
        attempts = []
        for _ in range(3):
            try:
                attempts.append(launch(ec2, key, [group]))
            except ClientError as error:
                answer = error.response
                assert answer["ResponseMetadata"]["HTTPStatusCode"] >= 500, answer
                assert "full" in answer["Error"]["Message"].lower(), answer
        assert region.process.poll() is None and region.health()["status"] == "ok"
        assert running.state() == "running", "nothing has happened to it"
        (small_disk / "ballast").unlink()
        for machine in attempts:
            wait_for(lambda: machine.state() in ("running", "terminated"), "the launch to be decided", 60, 0.1)
            if machine.state() == "terminated":
                assert "full" in machine.describe()["StateReason"]["Message"]
        shown = [i["InstanceId"] for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
        assert sorted(shown) == sorted([running.id, *(machine.id for machine in attempts)])
        later = launch(ec2, key, [group])
        later.wait_state("running")
        later.ssh("sync")  # Its power goes off soon; the host keys are seconds old.

        # A guest that writes more than there is room for.
        fill(small_disk / "ballast")
        later.start("dd if=/dev/zero of=/home/ec2-user/big bs=1M count=64; sync")
        later.wait_state("stopped", 60)
        reason = later.describe()["StateReason"]
        assert reason["Code"] == "Server.InternalError" and "free space there" in reason["Message"], reason
        (small_disk / "ballast").unlink()
        ec2.start_instances(InstanceIds=[later.id])
        later.wait_state("running")
        later.ssh("true")


# A daemon without privilege.


@pytest.fixture
def nobody():
    """A copy of the program that anybody may run, and a directory that belongs to nobody."""
    with tempfile.TemporaryDirectory() as home:
        yield as_nobody(pathlib.Path(home))


def as_nobody(home):
    program = home / "gureum"
    shutil.copy(binary(), program)
    home.chmod(0o755)
    data = home / "data"
    data.mkdir()
    os.chown(data, 65534, 65534)
    prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--", str(program), "serve"]
    return prefix + ["--data-dir", str(data), "--listen", f"127.0.0.1:{free_port()}"]


def test_without_privilege_real_machines_are_refused(nobody):
    done = subprocess.run([*nobody, "--driver", "qemu"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "root" in done.stderr and "qemu driver" in done.stderr, done.stderr


def test_without_privilege_auto_simulates(nobody):
    process = subprocess.Popen([*nobody, "--driver", "auto"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said = []
        while not said or "http://" not in said[-1]:
            line = process.stdout.readline()
            assert line, said
            said.append(line)
        assert "driver sim" in said[-1]
        assert any("simulated" in line and "root" in line for line in said), said
    finally:
        process.terminate()
        process.wait(10)
