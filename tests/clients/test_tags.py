"""Tags of everything that has them."""

import pytest
from asking import filtered, instance, launch, refusal


def tag(key, value=""):
    return {"Key": key, "Value": value}


def as_map(tags):
    return {t["Key"]: t["Value"] for t in tags}


@pytest.fixture
def name(ec2, image_id):
    return launch(ec2, image_id)["InstanceId"]


def test_create_change_and_delete(ec2, name):
    ec2.create_tags(Resources=[name], Tags=[tag("Name", "web"), tag("empty"), tag("Stage", "öäü <&>")])
    assert as_map(instance(ec2, name)["Tags"]) == {"Name": "web", "empty": "", "Stage": "öäü <&>"}
    ec2.create_tags(Resources=[name], Tags=[tag("Name", "db")])
    assert as_map(instance(ec2, name)["Tags"])["Name"] == "db"
    # With a value, only a tag that has it is deleted; without, any.
    ec2.delete_tags(Resources=[name], Tags=[tag("Name", "web")])
    assert as_map(instance(ec2, name)["Tags"])["Name"] == "db"
    ec2.delete_tags(Resources=[name], Tags=[tag("Name", "db"), {"Key": "Stage"}])
    assert as_map(instance(ec2, name)["Tags"]) == {"empty": ""}
    ec2.delete_tags(Resources=[name])
    assert "Tags" not in instance(ec2, name)


def test_at_launch(ec2, image_id):
    specifications = [
        {"ResourceType": "instance", "Tags": [tag("of", "instance")]},
        {"ResourceType": "volume", "Tags": [tag("of", "volume")]},
        {"ResourceType": "network-interface", "Tags": [tag("of", "interface")]},
    ]
    made = launch(ec2, image_id, TagSpecifications=specifications)
    assert made["Tags"] == [tag("of", "instance")]
    assert ec2.describe_volumes()["Volumes"][0]["Tags"] == [tag("of", "volume")]
    assert ec2.describe_network_interfaces()["NetworkInterfaces"][0]["TagSet"] == [tag("of", "interface")]
    wrong = [{"ResourceType": "vpc", "Tags": [tag("a")]}]
    assert refusal(launch, ec2=ec2, image_id=made["ImageId"], TagSpecifications=wrong)[0] == "InvalidParameterValue"


def test_of_every_resource(ec2, image_id, name):
    found = instance(ec2, name)
    ids = {
        "instance": name,
        "volume": found["BlockDeviceMappings"][0]["Ebs"]["VolumeId"],
        "network-interface": found["NetworkInterfaces"][0]["NetworkInterfaceId"],
        "vpc": found["VpcId"],
        "subnet": found["SubnetId"],
        "security-group": found["SecurityGroups"][0]["GroupId"],
        "image": image_id,
        "key-pair": ec2.create_key_pair(KeyName="k", KeyType="ed25519")["KeyPairId"],
    }
    ec2.create_tags(Resources=list(ids.values()), Tags=[tag("all", "of them")])
    seen = {t["ResourceType"]: t["ResourceId"] for t in ec2.describe_tags(Filters=filtered(key="all"))["Tags"]}
    assert seen == ids
    for describe, plural in [
        (ec2.describe_vpcs, "Vpcs"),
        (ec2.describe_subnets, "Subnets"),
        (ec2.describe_security_groups, "SecurityGroups"),
        (ec2.describe_images, "Images"),
        (ec2.describe_key_pairs, "KeyPairs"),
        (ec2.describe_volumes, "Volumes"),
        (ec2.describe_network_interfaces, "NetworkInterfaces"),
    ]:
        (one,) = describe(Filters=[{"Name": "tag:all", "Values": ["of*"]}])[plural]
        assert tag("all", "of them") in one.get("Tags", one.get("TagSet")), plural


def test_describe(ec2, image_id, name):
    other = launch(ec2, image_id)["InstanceId"]
    ec2.create_tags(Resources=[name, other], Tags=[tag("a", "1"), tag("b", "2"), tag("c", "3")])
    assert len(ec2.describe_tags()["Tags"]) == 6
    for filters, expected in [
        (filtered(resource_id=name), 3),
        (filtered(resource_type="instance"), 6),
        (filtered(resource_type="volume"), 0),
        (filtered(key="a"), 2),
        (filtered(value=["1", "2"]), 4),
        ([{"Name": "tag:a", "Values": ["1"]}], 2),
        (filtered(key="a", resource_id=other), 1),
    ]:
        assert len(ec2.describe_tags(Filters=filters)["Tags"]) == expected, filters
    pages = list(ec2.get_paginator("describe_tags").paginate(PaginationConfig={"PageSize": 5}))
    seen = [(t["ResourceId"], t["Key"]) for page in pages for t in page["Tags"]]
    assert len(pages) == 2 and len(seen) == len(set(seen)) == 6


class TestRefusals:
    @pytest.mark.parametrize("key, value", [("x" * 128, "y" * 256), ("a:b/c=d+e-f@g h_i.j", "1 2")])
    def test_not(self, ec2, name, key, value):
        ec2.create_tags(Resources=[name], Tags=[tag(key, value)])
        assert as_map(instance(ec2, name)["Tags"]) == {key: value}

    @pytest.mark.parametrize("key, value", [("x" * 129, ""), ("k", "y" * 257), ("aws:mine", "x"), ("AWS:mine", "x"), ("", "x")])
    def test_bad(self, ec2, name, key, value):
        code, _, status = refusal(ec2.create_tags, Resources=[name], Tags=[tag("good", "1"), tag(key, value)])
        assert status == 400 and code in ("InvalidParameterValue", "MissingParameter")
        assert "Tags" not in instance(ec2, name)

    def test_fifty(self, ec2, name):
        ec2.create_tags(Resources=[name], Tags=[tag(f"k{n}") for n in range(50)])
        code, _, _ = refusal(ec2.create_tags, Resources=[name], Tags=[tag("one-more")])
        assert code == "TagLimitExceeded"
        ec2.create_tags(Resources=[name], Tags=[tag("k7", "changed")])
        assert len(instance(ec2, name)["Tags"]) == 50

    def test_twice(self, ec2, name):
        assert refusal(ec2.create_tags, Resources=[name], Tags=[tag("a", "1"), tag("a", "2")])[0] == "InvalidParameterValue"

    def test_unknown_resources(self, ec2, name):
        ghost = "i-0123456789abcdef0"
        code, _, status = refusal(ec2.create_tags, Resources=[name, ghost], Tags=[tag("a")])
        assert (code, status) == ("InvalidInstanceID.NotFound", 400)
        assert "Tags" not in instance(ec2, name)
        assert refusal(ec2.create_tags, Resources=["nonsense"], Tags=[tag("a")])[0] == "InvalidID"
        assert refusal(ec2.create_tags, Resources=["vol-0123456789abcdef0"], Tags=[tag("a")])[0] == "InvalidVolume.NotFound"

    def test_dry_run(self, ec2, name):
        assert refusal(ec2.create_tags, Resources=[name], Tags=[tag("a")], DryRun=True)[0] == "DryRunOperation"
        assert "Tags" not in instance(ec2, name)
