"""EBS direct APIs as boto3 sees them: blocks are written, completed, listed, compared and read, and a volume holds them."""

import base64
import hashlib
import itertools
import urllib.error
import urllib.request

import pytest
from asking import waiter
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from support import Daemon, binary, wait_for

BLOCK = 512 * 1024


@pytest.fixture
def ebs(client):
    return client("ebs")


def data(number):
    return bytes([number]) * BLOCK


def checksum(block):
    return base64.b64encode(hashlib.sha256(block).digest()).decode()


def put(ebs, name, index, block, **arguments):
    settings = {
        "SnapshotId": name,
        "BlockIndex": index,
        "BlockData": block,
        "DataLength": len(block),
        "Checksum": checksum(block),
        "ChecksumAlgorithm": "SHA256",
    } | arguments
    return ebs.put_snapshot_block(**settings)


def write(ec2, ebs, blocks, size=1, **arguments):
    """Writes a snapshot of these blocks and waits until it is complete; gives its id."""
    name = ebs.start_snapshot(VolumeSize=size, **arguments)["SnapshotId"]
    for index, block in blocks.items():
        put(ebs, name, index, block)
    sums = b"".join(hashlib.sha256(blocks[index]).digest() for index in sorted(blocks))
    answer = ebs.complete_snapshot(
        SnapshotId=name,
        ChangedBlocksCount=len(blocks),
        Checksum=base64.b64encode(hashlib.sha256(sums).digest()).decode(),
        ChecksumAlgorithm="SHA256",
        ChecksumAggregationMethod="LINEAR",
    )
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 202
    waiter(ec2, "snapshot_completed", SnapshotIds=[name])
    return name


def pages(call, **arguments):
    token = {}
    while True:
        page = call(**arguments, **token)
        yield page
        if "NextToken" not in page:
            return
        token = {"NextToken": page["NextToken"]}


def read(ebs, name):
    """All blocks of a snapshot, by index."""
    found = {}
    for page in pages(ebs.list_snapshot_blocks, SnapshotId=name):
        for block in page["Blocks"]:
            answer = ebs.get_snapshot_block(SnapshotId=name, **block)
            content = answer["BlockData"].read()
            assert answer["Checksum"] == checksum(content) and answer["DataLength"] == BLOCK
            found[block["BlockIndex"]] = content
    return found


def refused(call, **arguments):
    """Exception, status and Reason of a refusal."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    answer = caught.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"], answer.get("Reason")


def test_blocks_come_back(ec2, ebs):
    blocks = {0: data(1), 5: data(2), 2047: data(3)}
    started = ebs.start_snapshot(VolumeSize=1, Description="by hand", Tags=[{"Key": "a", "Value": "b"}])
    assert started["Status"] == "pending" and started["BlockSize"] == BLOCK and started["VolumeSize"] == 1
    assert started["ResponseMetadata"]["HTTPStatusCode"] == 201
    name = write(ec2, ebs, blocks, Description="by hand", Tags=[{"Key": "a", "Value": "b"}])
    assert read(ebs, name) == blocks
    (found,) = ec2.describe_snapshots(SnapshotIds=[name])["Snapshots"]
    assert found["Description"] == "by hand" and found["Tags"] == [{"Key": "a", "Value": "b"}]
    assert found["FullSnapshotSizeInBytes"] == 3 * BLOCK


def test_an_encrypted_one(ec2, ebs):
    blocks = {1: data(7), 3: data(8)}
    name = write(ec2, ebs, blocks, Encrypted=True)
    assert read(ebs, name) == blocks
    assert ec2.describe_snapshots(SnapshotIds=[name])["Snapshots"][0]["Encrypted"] is True


def test_a_volume_holds_what_was_written(ec2, ebs):
    blocks = {0: data(1), 9: data(2)}
    name = write(ec2, ebs, blocks)
    zone = ec2.describe_availability_zones()["AvailabilityZones"][0]["ZoneName"]
    disk = ec2.create_volume(AvailabilityZone=zone, SnapshotId=name)["VolumeId"]
    waiter(ec2, "volume_available", VolumeIds=[disk])
    again = ec2.create_snapshot(VolumeId=disk)["SnapshotId"]
    waiter(ec2, "snapshot_completed", SnapshotIds=[again])
    assert read(ebs, again) == blocks
    answer = ebs.list_changed_blocks(FirstSnapshotId=name, SecondSnapshotId=again)
    assert answer["ChangedBlocks"] == []


def test_a_child_and_its_changes(ec2, ebs):
    parent = write(ec2, ebs, {0: data(1), 1: data(1), 2: data(1)})
    child = write(ec2, ebs, {1: data(9), 4: data(4)}, ParentSnapshotId=parent)
    assert read(ebs, child) == {0: data(1), 1: data(9), 2: data(1), 4: data(4)}
    answer = ebs.list_changed_blocks(FirstSnapshotId=parent, SecondSnapshotId=child)
    changed = {b["BlockIndex"]: ("FirstBlockToken" in b, "SecondBlockToken" in b) for b in answer["ChangedBlocks"]}
    assert changed == {1: (True, True), 4: (False, True)}
    stranger = write(ec2, ebs, {0: data(1)})
    assert refused(ebs.list_changed_blocks, FirstSnapshotId=parent, SecondSnapshotId=stranger) == (
        "ValidationException",
        400,
        "UNRELATED_SNAPSHOTS",
    )


def test_lists_come_in_pages(ec2, ebs):
    name = write(ec2, ebs, {index: data(1 + index % 3) for index in range(0, 240, 2)})
    found = list(pages(ebs.list_snapshot_blocks, SnapshotId=name, MaxResults=100))
    assert [len(page["Blocks"]) for page in found] == [100, 20]
    indexes = [block["BlockIndex"] for block in itertools.chain(*(page["Blocks"] for page in found))]
    assert indexes == list(range(0, 240, 2))
    later = ebs.list_snapshot_blocks(SnapshotId=name, StartingBlockIndex=231)
    assert [block["BlockIndex"] for block in later["Blocks"]] == [232, 234, 236, 238]


def test_tokens_open_their_block_alone(ec2, ebs):
    one, other = write(ec2, ebs, {0: data(1), 1: data(2)}), write(ec2, ebs, {0: data(1), 1: data(2)})
    first, second = ebs.list_snapshot_blocks(SnapshotId=one)["Blocks"]
    invalid = ("ValidationException", 400, "INVALID_BLOCK_TOKEN")
    token = first["BlockToken"]
    assert refused(ebs.get_snapshot_block, SnapshotId=one, BlockIndex=1, BlockToken=token) == invalid
    assert refused(ebs.get_snapshot_block, SnapshotId=other, BlockIndex=0, BlockToken=token) == invalid
    swapped = ("A" if token[20] != "A" else "B").join([token[:20], token[21:]])
    assert refused(ebs.get_snapshot_block, SnapshotId=one, BlockIndex=0, BlockToken=swapped) == invalid
    assert refused(ebs.list_snapshot_blocks, SnapshotId=one, NextToken=token)[2] == "INVALID_PAGE_TOKEN"


def test_what_is_refused(ec2, ebs):
    missing = "snap-00000000000000001"
    assert refused(ebs.list_snapshot_blocks, SnapshotId=missing) == (
        "ResourceNotFoundException",
        404,
        "SNAPSHOT_NOT_FOUND",
    )
    assert refused(ebs.start_snapshot, VolumeSize=70_000)[2] == "INVALID_VOLUME_SIZE"
    name = ebs.start_snapshot(VolumeSize=1)["SnapshotId"]
    assert refused(ebs.list_snapshot_blocks, SnapshotId=name)[2] == "INVALID_SNAPSHOT_ID"
    wrong = checksum(data(2))
    bad = {"SnapshotId": name, "BlockIndex": 0, "ChecksumAlgorithm": "SHA256"}
    good = {"BlockData": data(1), "DataLength": BLOCK, "Checksum": checksum(data(1))}
    for change in (
        {"Checksum": wrong},
        {"DataLength": 512},
        {"BlockIndex": 2048},
        {"BlockData": b"short", "Checksum": checksum(b"short")},
    ):
        assert refused(ebs.put_snapshot_block, **(bad | good | change)) == ("ValidationException", 400, "INVALID_BLOCK")
    put(ebs, name, 0, data(1))
    assert refused(ebs.complete_snapshot, SnapshotId=name, ChangedBlocksCount=2)[2] == "INVALID_PARAMETER_VALUE"
    ebs.complete_snapshot(SnapshotId=name, ChangedBlocksCount=1)
    waiter(ec2, "snapshot_completed", SnapshotIds=[name])
    assert refused(put, ebs=ebs, name=name, index=1, block=data(1))[2] == "INVALID_SNAPSHOT_ID"


def test_the_same_token_starts_one(ec2, ebs):
    first = ebs.start_snapshot(VolumeSize=1, ClientToken="t" * 100)
    again = ebs.start_snapshot(VolumeSize=1, ClientToken="t" * 100)
    assert first["SnapshotId"] == again["SnapshotId"]
    assert refused(ebs.start_snapshot, VolumeSize=2, ClientToken="t" * 100)[:2] == ("ConflictException", 409)


def test_a_deleted_one_takes_its_blocks_with_it(daemon, ec2, ebs):
    name = ebs.start_snapshot(VolumeSize=1)["SnapshotId"]
    put(ebs, name, 0, data(1))
    upload = daemon.directory / "uploads" / name
    assert upload.exists()
    ec2.delete_snapshot(SnapshotId=name)
    wait_for(lambda: not upload.exists(), "the upload to be dropped")


def test_a_block_may_be_left_out_of_the_signature(daemon, region, ebs):
    """As SDKs do behind TLS: the checksum says what the body is. Other services want it signed."""
    environment = daemon.environment(region)
    credentials = Credentials(environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"])

    def status(service, method, path, body, **headers):
        request = AWSRequest(method, daemon.url + path, data=body, headers=headers)
        request.headers["X-Amz-Content-SHA256"] = "UNSIGNED-PAYLOAD"
        SigV4Auth(credentials, service, region).add_auth(request)
        sent = urllib.request.Request(request.url, body, dict(request.headers.items()), method=method)
        try:
            with urllib.request.urlopen(sent, timeout=30) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    name = ebs.start_snapshot(VolumeSize=1)["SnapshotId"]
    headers = {
        "Content-Type": "application/octet-stream",
        "x-amz-Data-Length": str(BLOCK),
        "x-amz-Checksum": checksum(data(1)),
        "x-amz-Checksum-Algorithm": "SHA256",
    }
    path = f"/snapshots/{name}/blocks/0"
    assert status("ebs", "PUT", path, data(1), **headers) == 201
    assert status("ebs", "PUT", path, data(2), **headers) == 400
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert status("ec2", "POST", "/", b"Action=DescribeRegions&Version=2016-11-15", **form) == 403


def test_what_was_answered_outlives_the_daemon(tmp_path):
    blocks = {0: data(1), 3: data(2), 8: data(3)}
    with Daemon(binary(), tmp_path, ["--driver", "sim"]) as daemon:
        ec2, ebs = daemon.client("ec2", "us-east-1"), daemon.client("ebs", "us-east-1")

        def restart():
            daemon.kill()
            daemon.start()

        name = ebs.start_snapshot(VolumeSize=1, Encrypted=True)["SnapshotId"]
        for index, block in blocks.items():
            put(ebs, name, index, block)
            restart()
        ebs.complete_snapshot(SnapshotId=name, ChangedBlocksCount=3)
        restart()
        waiter(ec2, "snapshot_completed", SnapshotIds=[name])
        copy = ec2.copy_snapshot(SourceRegion="us-east-1", SourceSnapshotId=name)["SnapshotId"]
        sealed = ec2.copy_snapshot(SourceRegion="us-east-1", SourceSnapshotId=write(ec2, ebs, {1: data(4)}), Encrypted=True)
        restart()
        for snapshot in (copy, sealed["SnapshotId"]):
            waiter(ec2, "snapshot_completed", SnapshotIds=[snapshot])
        assert read(ebs, name) == read(ebs, copy) == blocks
        # Tokens are the region's, not the daemon's.
        (listed,) = ebs.list_snapshot_blocks(SnapshotId=sealed["SnapshotId"])["Blocks"]
        restart()
        answer = ebs.get_snapshot_block(SnapshotId=sealed["SnapshotId"], **listed)
        assert answer["BlockData"].read() == data(4)
