"""Short ways to ask a region for things."""

import pytest
from botocore.exceptions import ClientError
from support import wait_for


def refusal(call, **arguments):
    """The code, the message and the HTTP status with which a call is refused."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    answer = caught.value.response
    return answer["Error"]["Code"], answer["Error"]["Message"], answer["ResponseMetadata"]["HTTPStatusCode"]


def launch(ec2, image_id, **arguments):
    """Launches one t3.micro; gives RunInstances' answer for it."""
    settings = {"ImageId": image_id, "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1} | arguments
    return ec2.run_instances(**settings)["Instances"][0]


def instance(ec2, instance_id):
    (reservation,) = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"]
    (found,) = reservation["Instances"]
    return found


def instances(ec2, **arguments):
    return [i for r in ec2.describe_instances(**arguments)["Reservations"] for i in r["Instances"]]


def until(ec2, state, *instance_ids):
    """Waits until the instances are in a state; gives the last one."""

    def reached():
        found = instances(ec2, InstanceIds=list(instance_ids))
        return found[-1] if {i["State"]["Name"] for i in found} == {state} else None

    return wait_for(reached, f"{', '.join(instance_ids)} to be {state}")


def running(ec2, image_id, **arguments):
    """Launches one instance and waits until it runs."""
    return until(ec2, "running", launch(ec2, image_id, **arguments)["InstanceId"])


def stopped(ec2, image_id, **arguments):
    """An instance that has run and is stopped."""
    found = running(ec2, image_id, **arguments)["InstanceId"]
    ec2.stop_instances(InstanceIds=[found])
    return until(ec2, "stopped", found)


def waiter(ec2, name, **arguments):
    """botocore's own waiter, at a test's pace."""
    ec2.get_waiter(name).wait(WaiterConfig={"Delay": 0.05, "MaxAttempts": 400}, **arguments)


def filtered(**filters):
    """Filters: a keyword a filter, an underscore for a dash."""
    return [
        {"Name": name.replace("_", "-"), "Values": [value] if isinstance(value, str) else value}
        for name, value in filters.items()
    ]
