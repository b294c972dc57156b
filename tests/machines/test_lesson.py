"""The first lesson of every EC2 course, on real machines. Tests run in order and share three machines."""

import os
import pathlib
import re
import signal
import subprocess
import time

import pytest
from botocore.exceptions import ClientError
from lesson import create_group, create_key, fetch, knock, allow, launch, revoke
from support import wait_for

USER_DATA = """#!/bin/sh
echo run >> /root/user-data-runs
mkdir -p /var/www
echo "<h1>Hello World from $(hostname -f)</h1>" > /var/www/index.html
httpd -p 80 -h /var/www
"""


@pytest.fixture(scope="module")
def key(ec2, tmp_path_factory):
    return create_key(ec2, tmp_path_factory.mktemp("keys"), "lesson")


@pytest.fixture(scope="module")
def group(ec2):
    return create_group(ec2, "lesson", 22, 80, 81)


@pytest.fixture(scope="module")
def inner(ec2):
    """A group whose members may reach each other's port 8080."""
    group = create_group(ec2, "inner")
    ec2.authorize_security_group_ingress(
        GroupId=group,
        IpPermissions=[{"IpProtocol": "tcp", "FromPort": 8080, "ToPort": 8080, "UserIdGroupPairs": [{"GroupId": group}]}],
    )
    return group


@pytest.fixture(scope="module")
def machines(ec2, key, group, inner):
    """web and peer share `inner`; outsider does not."""
    web = launch(ec2, key, [group, inner], USER_DATA)
    peer = launch(ec2, key, [group, inner], InstanceInitiatedShutdownBehavior="terminate")
    outsider = launch(ec2, key, [group])
    for machine in (web, peer, outsider):
        machine.wait_state("running")
    return web, peer, outsider


@pytest.fixture(scope="module")
def web(machines):
    return machines[0]


def test_the_page(web):
    private = web.private
    assert private.startswith("172.31.")
    name = f"ip-{private.replace('.', '-')}.ec2.internal"
    assert web.page() == f"<h1>Hello World from {name}</h1>"
    assert web.describe()["PrivateDnsName"] == name


def test_status_becomes_ok(ec2, web):
    def status():
        answer = ec2.describe_instance_status(InstanceIds=[web.id])["InstanceStatuses"]
        return answer and answer[0]["InstanceStatus"]["Status"] == answer[0]["SystemStatus"]["Status"] == "ok"

    wait_for(status, "status ok", 60, 0.2)


def test_login(web):
    assert web.ssh("hostname -f") == f"ip-{web.private.replace('.', '-')}.ec2.internal"
    assert web.ssh("id -un") == "ec2-user"


def test_security_group_decides(ec2, web, group):
    address = web.public
    answer, seconds = knock(address, 81)
    assert answer == "refused" and seconds < 2
    assert knock(address, 82)[0] == "timeout"
    revoke(ec2, group, 80)
    wait_for(lambda: knock(address, 80, 1.0)[0] == "timeout", "the page to close", 10)
    allow(ec2, group, 80)
    wait_for(lambda: fetch(address), "the page to open again", 10)


def test_a_group_that_names_itself(machines):
    web, peer, outsider = machines
    web.ssh("mkdir -p /tmp/w && echo inside > /tmp/w/index.html && (httpd -p 8080 -h /tmp/w </dev/null >/dev/null 2>&1 &) ; true")
    probe = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {web.private} 8080"
    assert "inside" in wait_for(lambda: peer.ssh(probe, check=False), "the peer to get through", 30, 0.5)
    assert "inside" not in outsider.ssh(probe, check=False)


def test_metadata_is_only_ones_own(machines):
    web, peer, _ = machines
    assert web.ssh("ec2-metadata instance-id") == web.id
    assert peer.ssh("ec2-metadata instance-id") == peer.id


def test_console(web):
    wait_for(lambda: "Linux version" in web.console() or web.console(), "a console", 30)
    assert web.console()


def test_machines_outlive_the_daemon(daemon, web):
    address, boot = web.public, web.ssh("cat /proc/sys/kernel/random/boot_id")
    daemon.kill()
    assert "Hello World" in wait_for(lambda: fetch(address), "the page without a daemon", 10)
    daemon.start()
    assert web.state() == "running" and web.public == address
    assert web.ssh("cat /proc/sys/kernel/random/boot_id") == boot


def test_reboot_keeps_everything(ec2, web):
    before = web.describe()
    boot = web.ssh("echo kept > /home/ec2-user/kept; sync; cat /proc/sys/kernel/random/boot_id")
    ec2.reboot_instances(InstanceIds=[web.id])
    wait_for(lambda: web.ssh("cat /proc/sys/kernel/random/boot_id") != boot, "a new boot", 120, 0.5)
    assert web.ssh("cat /home/ec2-user/kept") == "kept"
    after = web.describe()
    for same in ("PublicIpAddress", "PrivateIpAddress", "InstanceId"):
        assert after[same] == before[same]
    assert after["State"]["Name"] == "running"


def test_stop_and_start(ec2, web):
    before, host_key = web.describe(), web.host_key()
    ec2.stop_instances(InstanceIds=[web.id])
    web.wait_state("stopped")
    stopped = web.describe()
    assert "PublicIpAddress" not in stopped and stopped["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    ec2.start_instances(InstanceIds=[web.id])
    web.wait_state("running")
    after = web.describe()
    assert after["PrivateIpAddress"] == before["PrivateIpAddress"]
    assert after["PublicIpAddress"] != before["PublicIpAddress"]
    assert web.host_key() == host_key
    assert web.ssh("cat /home/ec2-user/kept") == "kept"
    assert web.ssh("sudo cat /root/user-data-runs").split() == ["run"]


def test_a_machine_that_dies_is_reported(ec2, daemon, machines):
    outsider = machines[2]
    (pid,) = [
        int(found)
        for found in subprocess.run(["pgrep", "-f", f"qemu-system.*{outsider.id}"], capture_output=True, text=True).stdout.split()
    ]
    os.kill(pid, signal.SIGKILL)
    outsider.wait_state("stopped", 10)
    reason = outsider.describe()["StateReason"]
    assert reason["Code"] == "Server.InternalError" and "signal" in reason["Message"].lower()
    ec2.start_instances(InstanceIds=[outsider.id])
    outsider.wait_state("running")


def test_power_off_inside_follows_the_behaviour(machines):
    _, peer, outsider = machines
    outsider.power_off()
    outsider.wait_state("stopped")
    assert outsider.describe()["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    peer.power_off()
    peer.wait_state("terminated")


def test_terminate_deletes_the_root_volume(ec2, daemon, web):
    volume = web.describe()["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    assert list(pathlib.Path(daemon.directory, "volumes").glob(f"{volume}*"))
    ec2.terminate_instances(InstanceIds=[web.id])
    web.wait_state("terminated")
    with pytest.raises(ClientError) as caught:
        ec2.describe_volumes(VolumeIds=[volume])
    assert caught.value.response["Error"]["Code"] == "InvalidVolume.NotFound"
    assert not list(pathlib.Path(daemon.directory, "volumes").glob(f"{volume}*"))
    assert web.state() == "terminated"
