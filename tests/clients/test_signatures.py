"""Signatures beyond test_region's: presigned URLs, tampering, session tokens."""

import urllib.error
import urllib.request

import boto3
import pytest
from asking import refusal
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials


@pytest.fixture
def credentials(daemon):
    environment = daemon.environment()
    return Credentials(environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"])


def fetch(url, data=None, headers=None):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=data, headers=headers or {}), timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def presign(credentials, service, url, region="us-east-1", expires=60):
    request = AWSRequest("GET", url)
    SigV4QueryAuth(credentials, service, region, expires=expires).add_auth(request)
    return request.url


class TestPresigned:
    def test_by_the_client(self, client):
        url = client("sts", region_name="us-east-1").generate_presigned_url("get_caller_identity")
        # botocore signs the query of a POST; STS is asked by GET, as kubectl's tokens are.
        assert "X-Amz-Signature=" in url
        url = client("sts", region_name="us-east-1").generate_presigned_url("get_caller_identity", HttpMethod="GET")
        status, body = fetch(url)
        assert status == 200 and "<Account>123456789012</Account>" in body

    def test_ec2(self, client):
        url = client("ec2", region_name="us-east-1").generate_presigned_url("describe_regions", HttpMethod="GET")
        status, body = fetch(url)
        assert status == 200 and "<regionName>us-east-1</regionName>" in body

    def test_twice(self, daemon, credentials):
        url = presign(credentials, "ec2", f"{daemon.url}/?Action=DescribeVpcs&Version=2016-11-15")
        assert [fetch(url)[0], fetch(url)[0]] == [200, 200]

    def test_tampered(self, daemon, credentials):
        url = presign(credentials, "ec2", f"{daemon.url}/?Action=DescribeVpcs&Version=2016-11-15")
        for changed in (
            url.replace("DescribeVpcs", "DescribeSubnets"),
            url + "&DryRun=true",
            url.replace("X-Amz-Expires=60", "X-Amz-Expires=61"),
            url[:-1] + ("0" if url[-1] != "0" else "1"),
        ):
            status, body = fetch(changed)
            assert status in (401, 403) and ("AuthFailure" in body or "SignatureDoesNotMatch" in body), changed

    def test_expired(self, daemon, credentials, monkeypatch):
        import botocore.auth

        real = botocore.auth.get_current_datetime
        import datetime

        monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *a, **k: real(*a, **k) - datetime.timedelta(minutes=5))
        late = presign(credentials, "ec2", f"{daemon.url}/?Action=DescribeVpcs&Version=2016-11-15")
        status, body = fetch(late)
        assert status in (400, 403) and "RequestExpired" in body
        identity = presign(credentials, "sts", f"{daemon.url}/?Action=GetCallerIdentity&Version=2011-06-15")
        status, body = fetch(identity)
        assert status in (400, 403) and "Expired" in body or "expired" in body

    @pytest.mark.parametrize("expires", [0, -1, 604801, "soon"])
    def test_a_bad_life(self, daemon, credentials, expires):
        url = presign(credentials, "ec2", f"{daemon.url}/?Action=DescribeVpcs&Version=2016-11-15", expires=expires)
        status, body = fetch(url)
        assert 400 <= status < 500 and "<Error>" in body


class TestHeaders:
    def signed(self, daemon, credentials, body=b"Action=DescribeVpcs&Version=2016-11-15", service="ec2", region="us-east-1"):
        request = AWSRequest(
            "POST", daemon.url + "/", data=body, headers={"Content-Type": "application/x-www-form-urlencoded"}
        )
        SigV4Auth(credentials, service, region).add_auth(request)
        return dict(request.headers.items()), body

    def test_it_works(self, daemon, credentials):
        headers, body = self.signed(daemon, credentials)
        assert fetch(daemon.url + "/", body, headers)[0] == 200

    def test_a_tampered_body(self, daemon, credentials):
        headers, _ = self.signed(daemon, credentials)
        status, answer = fetch(daemon.url + "/", b"Action=CreateKeyPair&KeyName=stolen", headers)
        assert status in (401, 403) and ("AuthFailure" in answer or "SignatureDoesNotMatch" in answer)

    @pytest.mark.parametrize("region", ["US-EAST-1", "nowhere", "../us", "us-east-1/x"])
    def test_a_region_that_is_none(self, daemon, credentials, region):
        headers, body = self.signed(daemon, credentials, region=region)
        assert 400 <= fetch(daemon.url + "/", body, headers)[0] < 500

    def test_another_service(self, daemon, credentials):
        headers, body = self.signed(daemon, credentials, service="s3")
        assert fetch(daemon.url + "/", body, headers)[0] == 403

    @pytest.mark.parametrize(
        "value",
        ["", "Bearer x", "AWS4-HMAC-SHA256", "AWS4-HMAC-SHA256 Credential=", "AWS4-HMAC-SHA256 Credential=a/b/c/d/e, SignedHeaders=, Signature=zz"],
    )
    def test_a_broken_header(self, daemon, credentials, value):
        headers, body = self.signed(daemon, credentials)
        status, answer = fetch(daemon.url + "/", body, headers | {"Authorization": value})
        assert 400 <= status < 500 and "<Error>" in answer


def test_a_session_token_is_nobody_here(daemon, credentials):
    for service, call, code in [("ec2", "describe_vpcs", "AuthFailure"), ("sts", "get_caller_identity", "InvalidClientTokenId")]:
        client = boto3.client(
            service,
            region_name="us-east-1",
            endpoint_url=daemon.url,
            aws_access_key_id=credentials.access_key,
            aws_secret_access_key=credentials.secret_key,
            aws_session_token="a-token",
        )
        assert refusal(getattr(client, call))[0] == code
