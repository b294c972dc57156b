"""The region's clock: --time-scale and --sim-launch-time."""

import datetime

from asking import instance, instances, launch, until
from support import Daemon, binary, wait_for


def image_of(ec2):
    return ec2.describe_images()["Images"][0]["ImageId"]


def region_time(daemon):
    return datetime.datetime.fromisoformat(daemon.health()["time"].replace("Z", "+00:00"))


def test_an_hour_in_a_second(tmp_path):
    with Daemon(binary(), tmp_path, ["--driver", "sim", "--time-scale", "3600"]) as daemon:
        ec2 = daemon.client("ec2", "us-east-1")
        name = launch(ec2, image_of(ec2))["InstanceId"]
        until(ec2, "running", name)
        ec2.terminate_instances(InstanceIds=[name])
        wait_for(lambda: instances(ec2) == [], "the terminated instance to be forgotten", 20)


def test_it_never_goes_back(tmp_path):
    daemon = Daemon(binary(), tmp_path, ["--driver", "sim", "--time-scale", "100000"])
    with daemon:
        before = region_time(daemon)
        wait_for(lambda: region_time(daemon) > before + datetime.timedelta(hours=3), "three hours to pass")
        seen = region_time(daemon)
        daemon.kill()
        daemon.start()
        assert region_time(daemon) >= seen
        for scale in ("1", "50", "1"):
            seen = region_time(daemon)
            daemon.stop()
            daemon.arguments = ["--driver", "sim", "--time-scale", scale]
            daemon.start()
            now = region_time(daemon)
            assert seen <= now < seen + datetime.timedelta(days=30), scale
        seen = region_time(daemon)
        assert seen > datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=2)


def test_a_launch_takes_its_time(tmp_path):
    with Daemon(binary(), tmp_path, ["--driver", "sim", "--sim-launch-time", "1500"]) as daemon:
        ec2 = daemon.client("ec2", "us-east-1")
        image = image_of(ec2)
        begun = region_time(daemon)
        name = launch(ec2, image)["InstanceId"]
        while instance(ec2, name)["State"]["Name"] == "pending":
            assert region_time(daemon) < begun + datetime.timedelta(seconds=30)
        assert instance(ec2, name)["State"]["Name"] == "running"
        assert region_time(daemon) >= begun + datetime.timedelta(seconds=1.4)


def test_a_launch_goes_on_after_a_crash(tmp_path):
    with Daemon(binary(), tmp_path, ["--driver", "sim", "--sim-launch-time", "1000"]) as daemon:
        ec2 = daemon.client("ec2", "us-east-1")
        names = [launch(ec2, image_of(ec2))["InstanceId"] for _ in range(3)]
        ec2.terminate_instances(InstanceIds=names[:1])
        daemon.kill()
        daemon.start()
        until(ec2, "running", *names[1:])
        until(ec2, "terminated", names[0])
