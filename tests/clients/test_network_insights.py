"""Reachability Analyzer: paths, analyses, and what they say of a network that somebody drew."""

import re

import pytest
from asking import launch, refusal, running, stopped, until
from support import wait_for

ANYWHERE = [{"CidrIp": "0.0.0.0/0"}]


def group(ec2, name, *ports):
    made = ec2.create_security_group(GroupName=name, Description=name)["GroupId"]
    for port in ports:
        rule = {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "IpRanges": ANYWHERE}
        ec2.authorize_security_group_ingress(GroupId=made, IpPermissions=[rule])
    return made


def path(ec2, source, **arguments):
    settings = {"Protocol": "tcp"} | arguments
    return ec2.create_network_insights_path(Source=source, **settings)["NetworkInsightsPath"]


def analysed(ec2, path_id, **arguments):
    started = ec2.start_network_insights_analysis(NetworkInsightsPathId=path_id, **arguments)["NetworkInsightsAnalysis"]
    assert started["Status"] == "running"

    def done():
        ids = [started["NetworkInsightsAnalysisId"]]
        (found,) = ec2.describe_network_insights_analyses(NetworkInsightsAnalysisIds=ids)["NetworkInsightsAnalyses"]
        return found if found["Status"] != "running" else None

    found = wait_for(done, "the analysis to end")
    assert found["Status"] == "succeeded"
    return found


def ids(components):
    return [component["Component"]["Id"] for component in components]


def codes(analysis):
    return [explanation["ExplanationCode"] for explanation in analysis["Explanations"]]


@pytest.fixture
def gateway(ec2):
    return ec2.describe_internet_gateways()["InternetGateways"][0]["InternetGatewayId"]


@pytest.fixture
def web(ec2, image_id):
    """An instance that anybody may call at port 80."""
    return running(ec2, image_id, SecurityGroupIds=[group(ec2, "web", 80)])


def test_from_outside(ec2, gateway, web):
    open_path = path(ec2, gateway, Destination=web["InstanceId"], DestinationPort=80)
    assert re.fullmatch("nip-[0-9a-f]{17}", open_path["NetworkInsightsPathId"])
    region = ec2.meta.region_name
    assert open_path["SourceArn"] == f"arn:aws:ec2:{region}:123456789012:internet-gateway/{gateway}"
    assert open_path["DestinationArn"].endswith(f":instance/{web['InstanceId']}")
    found = analysed(ec2, open_path["NetworkInsightsPathId"])
    assert found["NetworkPathFound"] and "Explanations" not in found
    (interface,) = web["NetworkInterfaces"]
    way = found["ForwardPathComponents"]
    assert [c["SequenceNumber"] for c in way] == list(range(1, len(way) + 1))
    assert ids(way)[0] == gateway and ids(way)[-2:] == [interface["NetworkInterfaceId"], web["InstanceId"]]
    assert way[-2]["AttachedTo"]["Id"] == web["InstanceId"]
    rule = next(c["SecurityGroupRule"] for c in way if "SecurityGroupRule" in c)
    assert (rule["Direction"], rule["Protocol"], rule["PortRange"]) == ("ingress", "tcp", {"From": 80, "To": 80})
    assert way[0]["InboundHeader"]["DestinationAddresses"] == [f"{web['PublicIpAddress']}/32"]
    assert way[0]["OutboundHeader"]["DestinationAddresses"] == [f"{web['PrivateIpAddress']}/32"]
    back = found["ReturnPathComponents"]
    assert ids(back)[0] == web["InstanceId"] and ids(back)[-1] == gateway
    (route,) = [c["RouteTableRoute"] for c in back if "RouteTableRoute" in c]
    assert (route["DestinationCidr"], route["GatewayId"], route["State"]) == ("0.0.0.0/0", gateway, "active")

    closed = analysed(ec2, path(ec2, gateway, Destination=web["InstanceId"], DestinationPort=22)["NetworkInsightsPathId"])
    assert not closed["NetworkPathFound"]
    (why,) = closed["Explanations"]
    assert (why["ExplanationCode"], why["Direction"]) == ("ENI_SG_RULES_MISMATCH", "ingress")
    assert why["NetworkInterface"]["Id"] == interface["NetworkInterfaceId"]
    assert [g["Id"] for g in why["SecurityGroups"]] == [g["GroupId"] for g in web["SecurityGroups"]]


def test_what_a_path_leaves_open(ec2, gateway, web):
    """Without a port, one that a rule names is found."""
    found = analysed(ec2, path(ec2, gateway, Destination=web["InstanceId"])["NetworkInsightsPathId"])
    assert found["NetworkPathFound"]
    header = found["ForwardPathComponents"][0]["OutboundHeader"]
    assert header["DestinationPortRanges"] == [{"From": 80, "To": 80}]
    narrow = {"DestinationPortRange": {"FromPort": 81, "ToPort": 90}}
    other = analysed(ec2, path(ec2, gateway, Destination=web["InstanceId"], FilterAtSource=narrow)["NetworkInsightsPathId"])
    assert codes(other) == ["ENI_SG_RULES_MISMATCH"]


def test_between_machines(ec2, image_id, web):
    client = running(ec2, image_id)
    source = client["NetworkInterfaces"][0]["NetworkInterfaceId"]
    target = web["NetworkInterfaces"][0]["NetworkInterfaceId"]
    made = path(ec2, source, Destination=target, DestinationPort=80)
    found = analysed(ec2, made["NetworkInsightsPathId"])
    assert found["NetworkPathFound"]
    assert ids(found["ForwardPathComponents"])[:2] == [client["InstanceId"], source]
    # A filter that the path cannot pass.
    arn = f"arn:aws:ec2:{ec2.meta.region_name}:123456789012:internet-gateway/igw-0123456789abcdef0"
    through = analysed(ec2, made["NetworkInsightsPathId"], FilterInArns=[arn])
    assert codes(through) == ["COMPONENT_FILTER_RESTRICTION"] and through["FilterInArns"] == [arn]
    # The ACL of another subnet, and every refusal on the way.
    zones = {s["AvailabilityZone"]: s for s in ec2.describe_subnets()["Subnets"]}
    elsewhere = next(s for z, s in zones.items() if z != client["Placement"]["AvailabilityZone"])
    far = launch(ec2, image_id, SubnetId=elsewhere["SubnetId"], SecurityGroupIds=[group(ec2, "far", 22)])["InstanceId"]
    until(ec2, "running", far)
    acl = ec2.create_network_acl(VpcId=elsewhere["VpcId"])["NetworkAcl"]["NetworkAclId"]
    acls = ec2.describe_network_acls()["NetworkAcls"]
    (before,) = [
        a["NetworkAclAssociationId"] for n in acls for a in n["Associations"] if a["SubnetId"] == elsewhere["SubnetId"]
    ]
    ec2.replace_network_acl_association(AssociationId=before, NetworkAclId=acl)
    far_path = path(ec2, client["InstanceId"], Destination=far, DestinationPort=80)["NetworkInsightsPathId"]
    denied = analysed(ec2, far_path)
    assert sorted(codes(denied)) == ["ENI_SG_RULES_MISMATCH", "SUBNET_ACL_RESTRICTION"]
    by_acl = next(e for e in denied["Explanations"] if e["ExplanationCode"] == "SUBNET_ACL_RESTRICTION")
    assert by_acl["Acl"]["Id"] == acl and by_acl["Direction"] == "ingress"


def test_out(ec2, gateway, image_id, web):
    assert analysed(ec2, path(ec2, web["InstanceId"], Destination=gateway)["NetworkInsightsPathId"])["NetworkPathFound"]
    by_address = path(ec2, web["InstanceId"], DestinationIp="192.0.2.9", DestinationPort=443)
    assert analysed(ec2, by_address["NetworkInsightsPathId"])["NetworkPathFound"]
    subnet = web["SubnetId"]
    hidden = {"DeviceIndex": 0, "SubnetId": subnet, "AssociatePublicIpAddress": False}
    private = running(ec2, image_id, NetworkInterfaces=[hidden])["InstanceId"]
    refused = analysed(ec2, path(ec2, private, Destination=gateway)["NetworkInsightsPathId"])
    assert codes(refused) == ["IGW_PUBLIC_IP_ASSOCIATION_FOR_EGRESS"]
    assert refused["Explanations"][0]["InternetGateway"]["Id"] == gateway


def test_what_does_not_run(ec2, gateway, image_id):
    still = stopped(ec2, image_id)["InstanceId"]
    found = analysed(ec2, path(ec2, gateway, Destination=still, DestinationPort=80)["NetworkInsightsPathId"])
    assert codes(found) == ["BAD_STATE"] and found["Explanations"][0]["Component"]["Id"] == still


def test_describing_and_deleting(ec2, gateway, web):
    tags = [{"ResourceType": "network-insights-path", "Tags": [{"Key": "Name", "Value": "web"}]}]
    one = path(ec2, gateway, Destination=web["InstanceId"], DestinationPort=80, TagSpecifications=tags)
    path_id = one["NetworkInsightsPathId"]
    path(ec2, web["InstanceId"], DestinationIp="192.0.2.1", Protocol="udp")
    for filters in (
        {"source": [gateway]},
        {"destination": [web["InstanceId"]]},
        {"protocol": ["tcp"]},
        {"tag:Name": ["web"]},
    ):
        asked = [{"Name": name, "Values": values} for name, values in filters.items()]
        (found,) = ec2.describe_network_insights_paths(Filters=asked)["NetworkInsightsPaths"]
        assert found["NetworkInsightsPathId"] == path_id, filters
    first = ec2.describe_network_insights_paths(MaxResults=1)
    rest = ec2.describe_network_insights_paths(MaxResults=1, NextToken=first["NextToken"])
    assert "NextToken" not in rest and rest["NetworkInsightsPaths"] != first["NetworkInsightsPaths"]
    analysis = analysed(ec2, path_id)
    analysis_id = analysis["NetworkInsightsAnalysisId"]
    assert re.fullmatch("nia-[0-9a-f]{17}", analysis_id)
    for arguments, count in (
        ({"NetworkInsightsPathId": path_id}, 1),
        ({"Filters": [{"Name": "path-found", "Values": ["true"]}]}, 1),
        ({"Filters": [{"Name": "status", "Values": ["failed"]}]}, 0),
        ({"AnalysisStartTime": analysis["StartDate"]}, 1),
    ):
        assert len(ec2.describe_network_insights_analyses(**arguments)["NetworkInsightsAnalyses"]) == count, arguments
    ec2.create_tags(Resources=[analysis_id, path_id], Tags=[{"Key": "Owner", "Value": "me"}])
    found = ec2.describe_network_insights_analyses(Filters=[{"Name": "tag:Owner", "Values": ["me"]}])
    assert found["NetworkInsightsAnalyses"][0]["Tags"] == [{"Key": "Owner", "Value": "me"}]
    code, *_ = refusal(ec2.delete_network_insights_path, NetworkInsightsPathId=path_id)
    assert code == "AnalysisExistsForNetworkInsightsPath"
    assert ec2.delete_network_insights_analysis(NetworkInsightsAnalysisId=analysis_id)["NetworkInsightsAnalysisId"] == analysis_id
    assert ec2.delete_network_insights_path(NetworkInsightsPathId=path_id)["NetworkInsightsPathId"] == path_id
    assert refusal(ec2.delete_network_insights_path, NetworkInsightsPathId=path_id)[0] == "InvalidNetworkInsightsPathId.NotFound"
    assert (
        refusal(ec2.delete_network_insights_analysis, NetworkInsightsAnalysisId=analysis_id)[0]
        == "InvalidNetworkInsightsAnalysisId.NotFound"
    )


def test_bad_input(ec2, gateway, web):
    here = {"Source": gateway, "Protocol": "tcp"}
    for more, code in (
        ({}, "MissingParameter"),
        ({"Destination": "i-0123456789abcdef0"}, "InvalidInstanceID.NotFound"),
        ({"Destination": "eni-0123456789abcdef0"}, "InvalidNetworkInterfaceID.NotFound"),
        ({"Destination": "subnet-0123456789abcdef0"}, "InvalidParameterValue"),
        ({"Destination": gateway}, "InvalidParameterValue"),
        ({"DestinationIp": "300.1.1.1"}, "InvalidParameterValue"),
        (
            {"Destination": web["InstanceId"], "DestinationPort": 80, "FilterAtSource": {"SourceAddress": "192.0.2.1"}},
            "InvalidParameterCombination",
        ),
        (
            {"DestinationIp": "192.0.2.1", "FilterAtDestination": {"SourceAddress": "192.0.2.1"}},
            "InvalidParameterCombination",
        ),
        (
            {"Destination": web["InstanceId"], "FilterAtSource": {"SourcePortRange": {"FromPort": 9, "ToPort": 8}}},
            "InvalidParameterValue",
        ),
    ):
        assert refusal(ec2.create_network_insights_path, **here | more)[0] == code, more
    assert ec2.describe_network_insights_paths()["NetworkInsightsPaths"] == []
    missing = {"NetworkInsightsPathId": "nip-0123456789abcdef0"}
    assert refusal(ec2.start_network_insights_analysis, **missing)[0] == "InvalidNetworkInsightsPathId.NotFound"
    odd = {"NetworkInsightsPathId": "nip-x"}
    assert refusal(ec2.start_network_insights_analysis, **odd)[0] == "InvalidNetworkInsightsPathId.Malformed"
    good = path(ec2, gateway, Destination=web["InstanceId"])["NetworkInsightsPathId"]
    odd = {"NetworkInsightsPathId": good, "FilterInArns": ["igw-1"]}
    assert refusal(ec2.start_network_insights_analysis, **odd)[0] == "InvalidParameterValue"
