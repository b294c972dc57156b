"""The gureum command, and the lesson's commands through aws-cli."""

import json
import os
import re
import stat
import subprocess

import pytest
from support import Daemon, binary


def gureum(*arguments, code=0, **more):
    done = subprocess.run([binary(), *arguments], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, **more)
    assert done.returncode == code, done
    return done


class TestCommand:
    def test_help(self):
        text = gureum("--help").stdout
        for command in ("serve", "doctor", "env", "image", "down"):
            assert re.search(rf"^  {command} ", text, re.M), command
        text = gureum("serve", "--help").stdout
        for option in ("--driver", "--listen", "--data-dir", "--auth", "--time-scale", "--throttle", "--account-id", "--sim-launch-time"):
            assert option in text
        assert re.fullmatch(r"gureum \d+\.\d+\.\d+\n", gureum("--version").stdout)

    @pytest.mark.parametrize(
        "arguments",
        [
            (),
            ("fly",),
            ("serve", "--driver", "magic"),
            ("serve", "--listen", "nowhere"),
            ("serve", "--time-scale", "0"),
            ("serve", "--account-id", "12"),
            ("serve", "--account-id", "12345678901x"),
            ("serve", "--auth", "none"),
            ("serve", "--public-pool", "300.0.0.0/8"),
            ("image", "build"),
        ],
    )
    def test_wrong_use(self, arguments, tmp_path):
        done = gureum(*arguments, code=2, cwd=tmp_path)
        assert ("error: " in done.stderr or "Usage" in done.stderr) and list(tmp_path.iterdir()) == []

    def test_doctor(self, tmp_path):
        lines = gureum("doctor", "--data-dir", str(tmp_path)).stdout.splitlines()
        assert len(lines) >= 5
        assert all(re.match(r"\S+ +\S+", line) for line in lines)
        assert any("qemu" in line.lower() for line in lines) and any("nft" in line.lower() for line in lines)

    def test_env_before_the_first_start(self, tmp_path):
        done = gureum("env", "--data-dir", str(tmp_path), code=1)
        assert "start the region once" in done.stderr and done.stdout == ""

    def test_env(self, daemon):
        lines = gureum("env", "--data-dir", str(daemon.directory), "--listen", f"127.0.0.1:{daemon.port}").stdout.splitlines()
        assert [line.split("=")[0] for line in lines] == [
            "export AWS_ENDPOINT_URL",
            "export AWS_ACCESS_KEY_ID",
            "export AWS_SECRET_ACCESS_KEY",
            "export AWS_DEFAULT_REGION",
        ]
        assert stat.S_IMODE(os.stat(daemon.directory / "credentials").st_mode) == 0o600

    def test_the_key_outlives_a_restart(self, tmp_path):
        with Daemon(binary(), tmp_path, ["--driver", "sim"]) as daemon:
            before = daemon.environment()
            daemon.stop()
            daemon.start()
            assert daemon.environment() == before
            daemon.client("sts", "us-east-1").get_caller_identity()

    def test_images(self, tmp_path):
        assert gureum("image", "list", "--data-dir", str(tmp_path)).stdout == ""
        done = gureum("image", "import", str(tmp_path / "missing.qcow2"), "--data-dir", str(tmp_path), code=1)
        assert "missing.qcow2" in done.stderr
        rubbish = tmp_path / "rubbish.qcow2"
        rubbish.write_bytes(b"this is not a disk")
        assert gureum("image", "import", str(rubbish), "--data-dir", str(tmp_path), code=1).stderr.startswith("gureum: ")
        assert gureum("image", "build", "windows-95", "--data-dir", str(tmp_path), code=1).stderr.startswith("gureum: ")
        assert gureum("image", "list", "--data-dir", str(tmp_path)).stdout == ""

    def test_stopping(self, tmp_path):
        daemon = Daemon(binary(), tmp_path, ["--driver", "sim"])
        with daemon:
            assert (tmp_path / "gureum.pid").read_text() == f"{daemon.process.pid}\n"
            daemon.process.terminate()
            assert daemon.process.wait(10) == 0
            assert not (tmp_path / "gureum.pid").exists()


def test_the_lesson(aws, tmp_path):
    image = aws(
        "ec2", "describe-images", "--owners", "amazon", "--filters", "Name=name,Values=amzn2-ami-hvm-*",
        "--query", "sort_by(Images,&CreationDate)[-1].ImageId", "--output", "text",
    )  # fmt: skip
    material = aws("ec2", "create-key-pair", "--key-name", "lesson", "--query", "KeyMaterial", "--output", "text")
    key = tmp_path / "lesson.pem"
    key.write_text(material + "\n")
    key.chmod(0o600)
    subprocess.run(["ssh-keygen", "-y", "-f", str(key)], check=True, capture_output=True)
    group = aws("ec2", "create-security-group", "--group-name", "web", "--description", "web", "--query", "GroupId", "--output", "text")
    for port in ("22", "80"):
        aws("ec2", "authorize-security-group-ingress", "--group-id", group, "--protocol", "tcp", "--port", port, "--cidr", "0.0.0.0/0")
    script = tmp_path / "user-data.sh"
    script.write_text("#!/bin/bash\nyum install -y httpd\necho \"<h1>Hello World from $(hostname -f)</h1>\" > /var/www/html/index.html\n")
    name = aws(
        "ec2", "run-instances", "--image-id", image, "--instance-type", "t2.micro", "--key-name", "lesson",
        "--security-group-ids", group, "--user-data", f"file://{script}",
        "--tag-specifications", "ResourceType=instance,Tags=[{Key=Name,Value=web}]",
        "--query", "Instances[0].InstanceId", "--output", "text",
    )  # fmt: skip
    aws("ec2", "wait", "instance-running", "--instance-ids", name)
    aws("ec2", "wait", "instance-status-ok", "--instance-ids", name)
    (found,) = json.loads(aws("ec2", "describe-instances", "--instance-ids", name, "--query", "Reservations[].Instances[]"))
    assert found["PublicIpAddress"] and found["KeyName"] == "lesson" and found["Tags"] == [{"Key": "Name", "Value": "web"}]
    data = aws("ec2", "describe-instance-attribute", "--instance-id", name, "--attribute", "userData", "--query", "UserData.Value", "--output", "text")
    import base64

    assert base64.b64decode(data).decode() == script.read_text()
    aws("ec2", "reboot-instances", "--instance-ids", name)
    aws("ec2", "get-console-output", "--instance-id", name, "--latest")
    aws("ec2", "stop-instances", "--instance-ids", name)
    aws("ec2", "wait", "instance-stopped", "--instance-ids", name)
    aws("ec2", "start-instances", "--instance-ids", name)
    aws("ec2", "wait", "instance-running", "--instance-ids", name)
    refused = aws("ec2", "delete-security-group", "--group-id", group, check=False)
    assert refused.returncode in (254, 255) and "DependencyViolation" in refused.stderr
    aws("ec2", "terminate-instances", "--instance-ids", name)
    aws("ec2", "wait", "instance-terminated", "--instance-ids", name)
    aws("ec2", "delete-security-group", "--group-id", group)
    aws("ec2", "delete-key-pair", "--key-name", "lesson")
    assert aws("ec2", "describe-key-pairs", "--query", "KeyPairs", "--output", "text") == ""


def test_output_forms(aws):
    table = aws("ec2", "describe-vpcs", "--output", "table")
    assert "172.31.0.0/16" in table
    assert json.loads(aws("sts", "get-caller-identity"))["Account"] == "123456789012"
    refused = aws("ec2", "terminate-instances", "--instance-ids", "i-0123456789abcdef0", check=False)
    assert refused.returncode in (254, 255) and "(InvalidInstanceID.NotFound)" in refused.stderr
