"""What the client tests and the machine tests share: a daemon under test, and waiting."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time
import urllib.request

import boto3
import botocore.config

ROOT = pathlib.Path(__file__).resolve().parent.parent


def binary():
    """The gureum binary: GUREUM, or the debug build."""
    return os.environ.get("GUREUM", str(ROOT / "target/debug/gureum"))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, what, seconds=30.0, pause=0.02):
    """Waits until condition() is true (gives its value); fails naming `what`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(pause)


class Daemon:
    """A `gureum serve` on a port of its own."""

    def __init__(self, program, directory, arguments, port=None):
        self.program = program
        self.directory = pathlib.Path(directory)
        self.arguments = arguments
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        self.directory.mkdir(parents=True, exist_ok=True)
        log = open(self.directory / "daemon.log", "ab")
        self.process = subprocess.Popen(
            [self.program, "serve", "--listen", f"127.0.0.1:{self.port}", "--data-dir", str(self.directory), *self.arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        log.close()
        wait_for(self._answers, f"the daemon to answer; its log:\n{self.log()}", 60)

    def _answers(self):
        assert self.process.poll() is None, f"the daemon ended ({self.process.returncode}):\n{self.log()}"
        try:
            return self.health()["status"] == "ok"
        except OSError:
            return False

    def health(self):
        with urllib.request.urlopen(f"{self.url}/_gureum/health", timeout=5) as answer:
            return json.load(answer)

    def log(self):
        path = self.directory / "daemon.log"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    def kill(self):
        """kill -9, as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def environment(self, region="us-east-1"):
        """What `gureum env` exports, for this region."""
        output = subprocess.run(
            [self.program, "env", "--listen", f"127.0.0.1:{self.port}", "--data-dir", str(self.directory), "--region", region],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        pairs = (line.removeprefix("export ").split("=", 1) for line in output.splitlines())
        return {name: value for name, value in pairs}

    def client(self, service, region, **arguments):
        environment = self.environment(region)
        settings = {
            "aws_access_key_id": environment["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": environment["AWS_SECRET_ACCESS_KEY"],
            "config": botocore.config.Config(retries={"total_max_attempts": 1}),
        } | arguments
        return boto3.client(service, region_name=region, endpoint_url=self.url, **settings)


def terraform():
    """The terraform program and its environment (a provider mirror where there is one), or None and why."""
    program = shutil.which("terraform")
    if program is None:
        return None, "terraform is not installed"
    for mirror in ("/opt/tf-plugins", "/usr/share/terraform/plugins", "/usr/local/share/terraform/plugins"):
        found = list(pathlib.Path(mirror).glob("registry.terraform.io/hashicorp/aws/*/*/terraform-provider-aws*"))
        if found:
            return program, mirror
    return program, None
