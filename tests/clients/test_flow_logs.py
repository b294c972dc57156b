"""Flow logs as the API keeps them; what they say is the machine tests' business."""

import re

import pytest
from asking import filtered, refusal

ROLE = "arn:aws:iam::123456789012:role/flows"


@pytest.fixture
def vpc(ec2):
    return ec2.describe_vpcs()["Vpcs"][0]["VpcId"]


def to_group(vpc, **more):
    return {
        "ResourceIds": [vpc],
        "ResourceType": "VPC",
        "TrafficType": "ALL",
        "LogGroupName": "flows",
        "DeliverLogsPermissionArn": ROLE,
    } | more


def to_bucket(vpc, **more):
    return {
        "ResourceIds": [vpc],
        "ResourceType": "VPC",
        "TrafficType": "ALL",
        "LogDestinationType": "s3",
        "LogDestination": "arn:aws:s3:::bucket/flows/",
    } | more


def test_made_described_and_deleted(ec2, vpc):
    answer = ec2.create_flow_logs(
        **to_group(vpc, TagSpecifications=[{"ResourceType": "vpc-flow-log", "Tags": [{"Key": "Name", "Value": "all"}]}])
    )
    (name,) = answer["FlowLogIds"]
    assert re.fullmatch("fl-[0-9a-f]{17}", name) and answer["Unsuccessful"] == []
    (log,) = ec2.describe_flow_logs(FlowLogIds=[name])["FlowLogs"]
    assert (log["ResourceId"], log["TrafficType"], log["LogGroupName"]) == (vpc, "ALL", "flows")
    assert (log["FlowLogStatus"], log["LogDestinationType"], log["MaxAggregationInterval"]) == ("ACTIVE", "cloud-watch-logs", 600)
    assert log["LogFormat"].startswith("${version} ${account-id} ${interface-id} ${srcaddr}")
    assert log["Tags"] == [{"Key": "Name", "Value": "all"}]
    assert log["DeliverLogsPermissionArn"] == ROLE
    ec2.create_tags(Resources=[name], Tags=[{"Key": "Name", "Value": "other"}])
    assert len(ec2.describe_flow_logs(Filters=[{"Name": "tag:Name", "Values": ["other"]}])["FlowLogs"]) == 1
    assert ec2.delete_flow_logs(FlowLogIds=[name])["Unsuccessful"] == []
    assert ec2.describe_flow_logs()["FlowLogs"] == []


def test_of_subnets_and_interfaces(ec2, vpc):
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    interface = ec2.create_network_interface(SubnetId=subnet)["NetworkInterface"]["NetworkInterfaceId"]
    for kind, resource in [("Subnet", subnet), ("NetworkInterface", interface)]:
        ec2.create_flow_logs(**to_bucket(resource, ResourceType=kind, MaxAggregationInterval=60))
        (log,) = ec2.describe_flow_logs(Filters=filtered(resource_id=resource))["FlowLogs"]
        assert log["MaxAggregationInterval"] == 60 and log["DestinationOptions"]["FileFormat"] == "plain-text"


def test_filters(ec2, vpc):
    ec2.create_flow_logs(**to_group(vpc))
    (name,) = ec2.create_flow_logs(**to_bucket(vpc, TrafficType="REJECT"))["FlowLogIds"]
    for filters in [
        filtered(log_destination_type="s3"),
        filtered(traffic_type="REJECT"),
        filtered(flow_log_id=name),
        filtered(deliver_log_status="SUCCESS", traffic_type="REJ*"),
    ]:
        assert [log["FlowLogId"] for log in ec2.describe_flow_logs(Filters=filters)["FlowLogs"]] == [name], filters
    assert len(ec2.describe_flow_logs(Filters=filtered(log_group_name="flows"))["FlowLogs"]) == 1
    assert refusal(ec2.describe_flow_logs, Filters=filtered(color="red"))[0] == "InvalidParameterValue"


def test_a_resource_that_is_not_there(ec2, vpc):
    ghosts = {"VPC": "vpc-0123456789abcdef0", "Subnet": "subnet-0123456789abcdef0", "NetworkInterface": "eni-0123456789abcdef0"}
    codes = {"VPC": "InvalidVpcID.NotFound", "Subnet": "InvalidSubnetID.NotFound", "NetworkInterface": "InvalidNetworkInterfaceID.NotFound"}
    for kind, ghost in ghosts.items():
        answer = ec2.create_flow_logs(**to_group(ghost, ResourceType=kind))
        (failed,) = answer["Unsuccessful"]
        assert answer["FlowLogIds"] == [] and (failed["ResourceId"], failed["Error"]["Code"]) == (ghost, codes[kind])


def test_the_same_twice_and_too_many(ec2, vpc):
    ec2.create_flow_logs(**to_group(vpc))
    code, message, status = refusal(ec2.create_flow_logs, **to_group(vpc))
    assert (code, status) == ("FlowLogAlreadyExists", 400)
    assert message == "Error. There is an existing Flow Log with the same configuration and log destination."
    ec2.create_flow_logs(**to_bucket(vpc))
    assert refusal(ec2.create_flow_logs, **to_bucket(vpc, TrafficType="REJECT"))[0] == "FlowLogsLimitExceeded"


def test_ids(ec2):
    ghost = "fl-0123456789abcdef0"
    for call in (ec2.describe_flow_logs, ec2.delete_flow_logs):
        code, message, _ = refusal(call, FlowLogIds=[ghost])
        assert code == "InvalidFlowLogId.NotFound" and ghost in message
        assert refusal(call, FlowLogIds=["vpc-1"])[0] == "InvalidFlowLogId.Malformed"


@pytest.mark.parametrize(
    "changes, code",
    [
        ({"LogGroupName": ""}, "InvalidParameter"),
        ({"DeliverLogsPermissionArn": ""}, "InvalidParameter"),
        ({"DeliverLogsPermissionArn": "flows"}, "InvalidParameter"),
        ({"LogDestination": "arn:aws:s3:::bucket"}, "InvalidParameter"),
        ({"LogDestinationType": "s3"}, "InvalidParameter"),
        ({"LogDestinationType": "kinesis-data-firehose"}, "UnsupportedOperation"),
        ({"MaxAggregationInterval": 61}, "InvalidParameter"),
        ({"LogFormat": "${version} ${color}"}, "InvalidParameter"),
        ({"LogFormat": "${bytes} ${bytes}"}, "InvalidParameter"),
        ({"LogFormat": "version"}, "InvalidParameter"),
        ({"TrafficType": "SOME"}, "InvalidParameterValue"),
        ({"ResourceType": "TransitGateway"}, "UnsupportedOperation"),
        ({"DestinationOptions": {"FileFormat": "parquet"}}, "UnsupportedOperation"),
        ({"DeliverCrossAccountRole": ROLE}, "UnsupportedOperation"),
    ],
)
def test_refused(ec2, vpc, changes, code):
    assert refusal(ec2.create_flow_logs, **to_group(vpc, **changes))[0] == code
    assert ec2.describe_flow_logs()["FlowLogs"] == []
