"""What a learner does with an instance, as functions."""

import pathlib
import socket
import subprocess
import time

from support import wait_for

# Generous: under emulation on a busy machine a boot may take many times what it takes alone.
BOOT_SECONDS = 240


class Machine:
    """An instance with a way in."""

    def __init__(self, ec2, instance_id, key, user="ec2-user"):
        self.ec2, self.id, self.key, self.user = ec2, instance_id, key, user

    def describe(self):
        return self.ec2.describe_instances(InstanceIds=[self.id])["Reservations"][0]["Instances"][0]

    def state(self):
        return self.describe()["State"]["Name"]

    def wait_state(self, state, seconds=BOOT_SECONDS):
        def reached():
            instance = self.describe()
            now = instance["State"]["Name"]
            assert now in (state, "pending", "running", "stopping", "shutting-down"), instance.get("StateReason")
            return now == state

        wait_for(reached, f"{self.id} to be {state}", seconds, 0.1)

    @property
    def public(self):
        return self.describe()["PublicIpAddress"]

    @property
    def private(self):
        return self.describe()["PrivateIpAddress"]

    def console(self):
        return self.ec2.get_console_output(InstanceId=self.id, Latest=True).get("Output", "")

    def ssh_command(self, command):
        """The words that run a command there; asks the daemon for the address."""
        return [
            "ssh", "-i", str(self.key), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
            "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=30", "-o", "BatchMode=yes", f"{self.user}@{self.public}", command,
        ]

    def ssh(self, command, check=True):
        """Runs a command; tries again while the machine is still on its way up."""

        def attempt():
            done = subprocess.run(
                self.ssh_command(command), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300
            )
            return done if done.returncode != 255 else None

        done = wait_for(attempt, f"ssh to {self.id}; its console:\n{self.console()[-3000:]}", BOOT_SECONDS, 0.5)
        if check:
            assert done.returncode == 0, f"{command!r}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def start(self, command):
        """Starts a command and does not wait for its end."""
        self.ssh(f"({command}) </dev/null >/dev/null 2>&1 &")

    def power_off(self):
        """Powers the machine off from inside; the connection may end before the command answers."""
        self.ssh("true")
        subprocess.run(self.ssh_command("sudo poweroff"), stdin=subprocess.DEVNULL, capture_output=True, timeout=60)

    def page(self, seconds=BOOT_SECONDS):
        """The web page, once it is there."""
        return wait_for(lambda: fetch(self.public), f"the page of {self.id}; its console:\n{self.console()[-3000:]}", seconds, 0.2)

    def host_key(self):
        """The ssh host key that the machine shows."""

        def scan():
            done = subprocess.run(["ssh-keyscan", "-T", "10", "-t", "ed25519", self.public], capture_output=True, text=True)
            return done.stdout.split()[-1] if done.stdout.strip() else None

        return wait_for(scan, "a host key", BOOT_SECONDS, 0.5)


def fetch(address, port=80, timeout=3):
    """The body of http://address:port/, or None."""
    done = subprocess.run(
        ["curl", "-fsS", "-m", str(timeout), "--noproxy", "*", f"http://{address}:{port}/"], capture_output=True, text=True
    )
    return done.stdout.strip() if done.returncode == 0 else None


def knock(address, port, timeout=3.0):
    """What a TCP connection attempt meets: open, refused or timeout; and after how many seconds."""
    begun = time.monotonic()
    try:
        socket.create_connection((address, port), timeout).close()
        answer = "open"
    except ConnectionRefusedError:
        answer = "refused"
    except TimeoutError:
        answer = "timeout"
    return answer, time.monotonic() - begun


def create_key(ec2, directory, name, kind="ed25519"):
    material = ec2.create_key_pair(KeyName=name, KeyType=kind)["KeyMaterial"]
    path = pathlib.Path(directory) / f"{name}.pem"
    path.write_text(material + "\n")
    path.chmod(0o400)
    return path


def create_group(ec2, name, *ports, cidr="0.0.0.0/0"):
    group = ec2.create_security_group(GroupName=name, Description=name)["GroupId"]
    for port in ports:
        allow(ec2, group, port, cidr)
    return group


def permission(port, cidr="0.0.0.0/0"):
    return [{"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "IpRanges": [{"CidrIp": cidr}]}]


def allow(ec2, group, port, cidr="0.0.0.0/0"):
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=permission(port, cidr))


def revoke(ec2, group, port, cidr="0.0.0.0/0"):
    ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=permission(port, cidr))


def image(ec2, pattern):
    return ec2.describe_images(Filters=[{"Name": "name", "Values": [pattern]}])["Images"][0]["ImageId"]


def launch(ec2, key, groups, user_data=None, pattern="gureum-micro-*", user="ec2-user", **arguments):
    if user_data is not None:
        arguments["UserData"] = user_data
    instance = ec2.run_instances(
        ImageId=image(ec2, pattern), InstanceType="t3.micro", MinCount=1, MaxCount=1,
        KeyName=key.stem, SecurityGroupIds=groups, **arguments,
    )["Instances"][0]
    assert instance["State"]["Name"] == "pending"
    return Machine(ec2, instance["InstanceId"], key, user)
