"""Regions, identity and the default VPC, as boto3 sees them."""

import datetime

import botocore
import pytest
from botocore.exceptions import ClientError


def code_of(call, **arguments):
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    error = caught.value.response
    return error["Error"]["Code"], error["ResponseMetadata"]["HTTPStatusCode"]


def test_caller_identity(client):
    identity = client("sts").get_caller_identity()
    assert identity["Account"] == "123456789012"
    assert identity["Arn"] == "arn:aws:iam::123456789012:root"
    assert identity["UserId"] == "123456789012"


def test_default_vpc(ec2, region):
    (vpc,) = ec2.describe_vpcs()["Vpcs"]
    assert vpc["IsDefault"] and vpc["CidrBlock"] == "172.31.0.0/16" and vpc["State"] == "available"
    subnets = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc["VpcId"]]}])["Subnets"]
    zones = ec2.describe_availability_zones()["AvailabilityZones"]
    assert {s["AvailabilityZone"] for s in subnets} == {z["ZoneName"] for z in zones}
    assert all(s["CidrBlock"].endswith("/20") and s["AvailableIpAddressCount"] == 4091 for s in subnets)
    (group,) = ec2.describe_security_groups()["SecurityGroups"]
    assert group["GroupName"] == "default"
    assert group["IpPermissions"][0]["UserIdGroupPairs"][0]["GroupId"] == group["GroupId"]


def test_us_east_1_has_six_zones(client):
    zones = client(region_name="us-east-1").describe_availability_zones()["AvailabilityZones"]
    assert [z["ZoneName"] for z in zones] == [f"us-east-1{letter}" for letter in "abcdef"]


def test_regions_are_apart(client):
    here, there = client(region_name="eu-west-1"), client(region_name="eu-central-1")
    here.create_key_pair(KeyName="only-here")
    assert [k["KeyName"] for k in here.describe_key_pairs()["KeyPairs"]] == ["only-here"]
    assert there.describe_key_pairs()["KeyPairs"] == []
    here.delete_key_pair(KeyName="only-here")


class TestSignatures:
    def test_wrong_secret(self, client):
        forged = client(aws_secret_access_key="not-the-secret")
        code, status = code_of(forged.describe_vpcs)
        assert (code, status) in [("SignatureDoesNotMatch", 403), ("AuthFailure", 401)]
        assert code_of(client("sts", aws_secret_access_key="x").get_caller_identity) == ("SignatureDoesNotMatch", 403)

    def test_unknown_key(self, client):
        assert code_of(client(aws_access_key_id="AKIAAAAAAAAAAAAAAAAA").describe_vpcs) == ("AuthFailure", 401)
        stranger = client("sts", aws_access_key_id="AKIAAAAAAAAAAAAAAAAA")
        assert code_of(stranger.get_caller_identity) == ("InvalidClientTokenId", 403)

    def test_skewed_clock(self, client, monkeypatch):
        for module in (botocore.auth,):
            real = module.get_current_datetime
            monkeypatch.setattr(
                module, "get_current_datetime", lambda *a, **k: real(*a, **k) - datetime.timedelta(minutes=20)
            )
        assert code_of(client().describe_vpcs)[0] == "RequestExpired"

    def test_unsigned(self, client):
        unsigned = client(config=botocore.config.Config(signature_version=botocore.UNSIGNED))
        assert code_of(unsigned.describe_vpcs) == ("MissingAuthenticationToken", 403)


def test_dry_run(ec2):
    assert code_of(ec2.describe_vpcs, DryRun=True) == ("DryRunOperation", 412)


def test_what_is_not_built_says_so(ec2):
    with pytest.raises(ClientError) as caught:
        ec2.create_carrier_gateway(VpcId="vpc-0123456789abcdef0")
    assert caught.value.response["Error"]["Code"] == "UnsupportedOperation"
    assert "CreateCarrierGateway" in caught.value.response["Error"]["Message"]
