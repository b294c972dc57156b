"""Requests that no SDK sends: every answer is AWS's XML error, and nothing is changed by any."""

import http.client
import re
import urllib.parse
import xml.etree.ElementTree as xml

import pytest
from asking import launch, refusal
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from support import Daemon, binary

FORM = "application/x-www-form-urlencoded; charset=utf-8"


def send(port, method, target, body=b"", headers=None):
    """One request, as raw as http.client lets it be; gives the status and the body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        try:
            connection.send(body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has answered already
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def error_of(answer):
    """The code and message of an EC2 error; fails when the answer is anything else."""
    status, body = answer
    assert 400 <= status < 500, answer
    root = xml.fromstring(body)
    assert root.tag == "Response" and [child.tag for child in root] == ["Errors", "RequestID"], body
    assert re.fullmatch("[0-9a-f-]{36}", root.findtext("RequestID"))
    (error,) = root.findall("Errors/Error")
    return error.findtext("Code"), error.findtext("Message")


@pytest.fixture
def post(daemon, region):
    """Posts a body, signed; gives the status and the answer."""
    environment = daemon.environment(region)
    credentials = Credentials(environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"])

    def post(body, content_type=FORM):
        body = body if isinstance(body, bytes) else body.encode()
        request = AWSRequest("POST", daemon.url + "/", data=body, headers={"Content-Type": content_type} if content_type else {})
        SigV4Auth(credentials, "ec2", region).add_auth(request)
        return send(daemon.port, "POST", "/", body, {"Host": f"127.0.0.1:{daemon.port}"} | dict(request.headers.items()))

    return post


@pytest.fixture
def unchanged(ec2, image_id):
    """An instance, a group and a key pair; what is described of them is the same after the test."""
    launched = launch(ec2, image_id)["InstanceId"]
    ec2.create_key_pair(KeyName="kept", KeyType="ed25519")
    ec2.get_waiter("instance_running").wait(InstanceIds=[launched], WaiterConfig={"Delay": 0.05, "MaxAttempts": 200})

    def state():
        answers = [
            ec2.describe_instances(),
            ec2.describe_key_pairs(),
            ec2.describe_security_groups(),
            ec2.describe_tags(),
            ec2.describe_volumes(),
            ec2.describe_network_interfaces(),
        ]
        for answer in answers:
            del answer["ResponseMetadata"]
        return answers

    before = state()
    yield launched
    assert state() == before


RUN = "Action=RunInstances&Version=2016-11-15&InstanceType=t3.micro&MinCount=1&MaxCount=1"
GROUPS = "Action=DescribeSecurityGroups&Version=2016-11-15"


@pytest.mark.parametrize(
    "body, codes",
    [
        ("", "MissingAction"),
        ("Action=", "MissingAction"),
        ("Version=2016-11-15", "MissingAction"),
        ("=&=&==", "MissingAction MalformedQueryString"),
        ("Action=LaunchRockets&Version=2016-11-15", "InvalidAction"),
        ("Action=describeinstances&Version=2016-11-15", "InvalidAction"),
        ("Action=Describe%00Instances", "InvalidAction"),
        ("Action=CreateCarrierGateway&VpcId=vpc-0123456789abcdef0&Version=2016-11-15", "UnsupportedOperation"),
        ("Action=DescribeInstances&Colour=red", "UnknownParameter"),
        ("Action=DescribeInstances&Filter.1.Colour=red", "UnknownParameter"),
        ("Action=DescribeInstances&MaxResults=ten", "InvalidParameterValue"),
        ("Action=DescribeInstances&MaxResults=5.5", "InvalidParameterValue"),
        ("Action=DescribeInstances&MaxResults=", "InvalidParameterValue"),
        ("Action=DescribeInstances&MaxResults=99999999999999999999", "InvalidParameterValue"),
        ("Action=DescribeInstances&DryRun=perhaps", "InvalidParameterValue"),
        ("Action=DescribeInstances&MaxResults=5&MaxResults=6", "InvalidQueryParameter InvalidParameterValue"),
        ("Action=DescribeInstances&InstanceId.0=i-1", "InvalidQueryParameter InvalidParameterValue"),
        ("Action=DescribeInstances&InstanceId.2=i-1", "InvalidQueryParameter InvalidParameterValue"),
        ("Action=DescribeInstances&InstanceId.-1=i-1", "UnknownParameter InvalidQueryParameter"),
        ("Action=DescribeInstances&InstanceId.18446744073709551616=i-1", "InvalidQueryParameter"),
        ("Action=DescribeInstances&InstanceId.1.Name=i-1", "UnknownParameter"),
        ("Action=DescribeInstances&InstanceId.1=%", "MalformedQueryString"),
        ("Action=DescribeInstances&InstanceId.1=%4", "MalformedQueryString"),
        ("Action=DescribeInstances&InstanceId.1=%zz", "MalformedQueryString"),
        ("Action=DescribeInstances&InstanceId.1=%ff%fe", "MalformedQueryString"),
        (b"Action=DescribeInstances&InstanceId.1=\xff\xfe", "MalformedQueryString"),
        (b"\x00\x01\x02\xff", "MissingAction MalformedQueryString"),
        ("Action=DescribeInstances&InstanceId.1=i-" + "f" * 10000, "InvalidInstanceID.Malformed"),
        ("Action=DescribeInstances&Filter.1.Name=instance-id", "InvalidParameterValue MissingParameter FilterLimitExceeded"),
        ("Action=DescribeInstances&Filter.1.Value.1=x", "InvalidParameterValue MissingParameter"),
        ("Action=TerminateInstances", "MissingParameter"),
        ("Action=StopInstances&InstanceId.1=", "InvalidInstanceID.Malformed MissingParameter"),
        ("Action=CreateKeyPair", "MissingParameter"),
        ("Action=CreateKeyPair&KeyName=x&KeyType=dsa", "InvalidParameterValue"),
        ("Action=CreateKeyPair&KeyName=x&KeyFormat=pdf", "InvalidParameterValue"),
        ("Action=CreateSecurityGroup&GroupName=x", "MissingParameter"),
        ("Action=CreateTags&ResourceId.1=i-0123456789abcdef0", "MissingParameter"),
        ("Action=AuthorizeSecurityGroupIngress&IpProtocol=tcp&FromPort=80&ToPort=80&CidrIp=0.0.0.0/0", "MissingParameter"),
        (RUN, "MissingParameter"),
        (RUN.replace("MinCount=1", "MinCount=one") + "&ImageId=ami-1", "InvalidParameterValue"),
        (RUN.replace("&MinCount=1", "") + "&ImageId=ami-1", "MissingParameter"),
        (RUN + "&ImageId=%s&InstanceInitiatedShutdownBehavior=explode", "InvalidParameterValue"),
        (RUN + "&ImageId=%s&MetadataOptions.HttpTokens=maybe", "InvalidParameterValue"),
        (RUN + "&ImageId=%s&UserData=%%%%", "MalformedQueryString"),
        (RUN + "&ImageId=%s&UserData=***", "InvalidParameterValue"),
        (RUN + "&ImageId=%s&UserData=" + "QUFB" * 5800, "InvalidParameterValue"),
        (RUN + "&ImageId=%s&Monitoring=true", "UnknownParameter InvalidParameterValue"),
        (RUN + "&ImageId=%s&Placement.Tenancy=host", "UnsupportedOperation"),
        (RUN + "&ImageId=%s&ClientToken=" + "x" * 65, "InvalidParameterValue"),
        (RUN + "&ImageId=%s&ClientToken=a/b%%0a%%2f", "InvalidParameterValue"),
        (RUN + "&ImageId=%s&TagSpecification.1.Tag.1.Key=a", "InvalidParameterValue MissingParameter"),
        (RUN + "&ImageId=%s&TagSpecification.1.ResourceType=rocket&TagSpecification.1.Tag.1.Key=a", "InvalidParameterValue"),
        (RUN + "&ImageId=%s&BlockDeviceMapping.1.Ebs.VolumeType=floppy&BlockDeviceMapping.1.DeviceName=/dev/sdf", "InvalidParameterValue"),
    ],
)
def test_bodies(post, unchanged, image_id, body, codes):
    if isinstance(body, str) and "%s" in body:
        body %= image_id
    code, message = error_of(post(body))
    assert code in codes.split(), (code, message)
    assert message


def test_too_many_filters(post, unchanged):
    body = GROUPS + "".join(f"&Filter.{n}.Name=group-name&Filter.{n}.Value.1=x" for n in range(1, 10002))
    assert error_of(post(body))[0] == "FilterLimitExceeded"


def test_too_many_values(post, unchanged):
    body = GROUPS + "&Filter.1.Name=group-name" + "".join(f"&Filter.1.Value.{n}=x" for n in range(1, 202))
    assert error_of(post(body))[0] in ("FilterLimitExceeded", "InvalidParameterValue")


def test_too_many_ids(post, unchanged):
    body = "Action=DescribeInstances" + "".join(f"&InstanceId.{n}=i-{n:017x}" for n in range(1, 1002))
    assert error_of(post(body))[0] in ("InvalidParameterValue", "InvalidInstanceID.NotFound")


def test_deep_names(post, unchanged):
    code, _ = error_of(post("Action=DescribeInstances&" + ".".join(["Filter", "1"] * 5000) + "=x"))
    assert code in ("UnknownParameter", "InvalidQueryParameter")


def test_a_wrong_content_type(post, unchanged):
    for content_type in ("application/json", "text/xml", "multipart/form-data; boundary=x"):
        assert error_of(post("Action=DescribeInstances", content_type))[0] == "MissingAction", content_type
    status, _ = post("Action=DescribeInstances", None)
    assert status == 200


def test_a_huge_body(daemon, unchanged):
    body = b"Action=DescribeInstances&x=" + b"y" * (3 << 20)
    answer = send(daemon.port, "POST", "/", body, {"Host": "x", "Content-Type": FORM})
    assert answer[0] == 413 and error_of(answer)[0] == "RequestEntityTooLarge"


def test_a_body_that_is_cut_off(daemon, unchanged):
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)
    connection.putrequest("POST", "/")
    connection.putheader("Content-Length", "1000")
    connection.endheaders()
    connection.send(b"Action=TerminateInstances")
    connection.close()
    assert daemon.health()["status"] == "ok"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "HEAD", "BREW"])
def test_other_methods(daemon, unchanged, method):
    status, _ = send(daemon.port, method, "/", b"", {"Host": "x"})
    assert 400 <= status < 500


@pytest.fixture(scope="module")
def get(tmp_path_factory):
    with Daemon(binary(), tmp_path_factory.mktemp("open"), ["--driver", "sim", "--auth", "open"]) as daemon:
        yield lambda query: send(daemon.port, "GET", f"/?{query}", b"", {"Host": "x"})


class TestQueryStrings:
    """Unsigned, to a region that takes any caller: query strings may be as broken as they like."""

    def test_get_works(self, get):
        status, body = get("Action=DescribeRegions&Version=2016-11-15")
        assert status == 200 and b"<regionName>us-east-1</regionName>" in body
        status, body = get("Action=GetCallerIdentity&Version=2011-06-15")
        assert status == 200 and b"<Account>123456789012</Account>" in body

    @pytest.mark.parametrize(
        "query, code",
        [
            ("", "MissingAction"),
            ("Action", "MissingAction"),
            ("&&&", "MissingAction"),
            ("?Action=DescribeRegions", "MissingAction"),
            ("Action=DescribeRegions&RegionName.1=%", "MalformedQueryString"),
            ("Action=DescribeRegions&RegionName.1=%c3%28", "MalformedQueryString"),
            ("Action=DescribeRegions&=x", "MalformedQueryString"),
            ("Action=DescribeRegions&%00=x", "UnknownParameter"),
            ("Action=DescribeRegions&RegionName=x", "UnknownParameter InvalidParameterValue InvalidQueryParameter"),
            ("Action=DescribeRegions&Action=DescribeVpcs", "InvalidQueryParameter"),
            ("Action=" + urllib.parse.quote("<b>&'\""), "InvalidAction"),
        ],
    )
    def test_broken(self, get, query, code):
        assert error_of(get(query))[0] in code.split()


def test_refused_writes_do_nothing(ec2, image_id):
    """One bad item of many: none is done."""
    good = launch(ec2, image_id)["InstanceId"]
    ec2.get_waiter("instance_running").wait(InstanceIds=[good], WaiterConfig={"Delay": 0.05, "MaxAttempts": 200})
    for call, arguments in [
        (ec2.terminate_instances, {"InstanceIds": [good, "i-0123456789abcdef0"]}),
        (ec2.stop_instances, {"InstanceIds": [good, "nonsense"]}),
        (ec2.create_tags, {"Resources": [good, "vol-0123456789abcdef0"], "Tags": [{"Key": "a", "Value": "b"}]}),
    ]:
        assert refusal(call, **arguments)[2] == 400
    (found,) = [i for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
    assert found["State"]["Name"] == "running" and "Tags" not in found
