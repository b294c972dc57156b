"""Network ACLs and their entries."""

import re

import pytest
from asking import filtered, refusal


@pytest.fixture
def vpc(ec2):
    return ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]


@pytest.fixture
def acl(ec2, vpc):
    return ec2.create_network_acl(VpcId=vpc)["NetworkAcl"]["NetworkAclId"]


GHOST = "acl-0123456789abcdef0"


def entry(acl, number=100, **changes):
    base = {
        "NetworkAclId": acl,
        "RuleNumber": number,
        "Egress": False,
        "Protocol": "6",
        "RuleAction": "allow",
        "CidrBlock": "0.0.0.0/0",
        "PortRange": {"From": 22, "To": 22},
    }
    return {name: value for name, value in (base | changes).items() if value is not None}


def shown(ec2, acl):
    (found,) = ec2.describe_network_acls(NetworkAclIds=[acl])["NetworkAcls"]
    return found


def entries(ec2, acl, egress):
    return [e for e in shown(ec2, acl)["Entries"] if e["Egress"] is egress]


def test_default_acl(ec2, vpc):
    (default,) = ec2.describe_network_acls(Filters=filtered(vpc_id=[vpc], default=["true"]))["NetworkAcls"]
    assert (default["OwnerId"], default["Associations"]) == ("123456789012", [])
    for egress in (True, False):
        first, last = [e for e in default["Entries"] if e["Egress"] is egress]
        assert (first["RuleNumber"], first["RuleAction"], first["CidrBlock"], first["Protocol"]) == (100, "allow", "0.0.0.0/0", "-1")
        assert (last["RuleNumber"], last["RuleAction"], last["CidrBlock"]) == (32767, "deny", "0.0.0.0/0")
    code, message, _ = refusal(ec2.delete_network_acl, NetworkAclId=default["NetworkAclId"])
    assert (code, message) == ("InvalidParameterValue", f"cannot delete default network ACL {default['NetworkAclId']}")


def test_a_new_acl_denies_everything(ec2, vpc):
    tags = [{"ResourceType": "network-acl", "Tags": [{"Key": "Name", "Value": "closed"}]}]
    made = ec2.create_network_acl(VpcId=vpc, TagSpecifications=tags)["NetworkAcl"]
    name = made["NetworkAclId"]
    assert re.fullmatch("acl-[0-9a-f]{17}", name)
    assert (made["IsDefault"], made["VpcId"], made["Tags"]) == (False, vpc, [{"Key": "Name", "Value": "closed"}])
    assert {(e["RuleNumber"], e["RuleAction"]) for e in made["Entries"]} == {(32767, "deny")}
    assert shown(ec2, name)["Entries"] == made["Entries"]
    ec2.delete_network_acl(NetworkAclId=name)
    code, message, _ = refusal(ec2.describe_network_acls, NetworkAclIds=[name])
    assert (code, message) == ("InvalidNetworkAclID.NotFound", f"The networkAcl ID '{name}' does not exist")


def test_entries(ec2, acl):
    ec2.create_network_acl_entry(**entry(acl))
    code, message, _ = refusal(ec2.create_network_acl_entry, **entry(acl))
    assert (code, message) == ("NetworkAclEntryAlreadyExists", "The network acl entry identified by 100 already exists.")
    ec2.create_network_acl_entry(**entry(acl, Egress=True))
    ec2.create_network_acl_entry(**entry(acl, 50, Protocol="1", PortRange=None, IcmpTypeCode={"Type": 8, "Code": -1}))
    first, second, last = entries(ec2, acl, False)
    assert [first["RuleNumber"], second["RuleNumber"], last["RuleNumber"]] == [50, 100, 32767]
    assert first["IcmpTypeCode"] == {"Type": 8, "Code": -1}
    assert second["PortRange"] == {"From": 22, "To": 22}
    v6 = {"CidrBlock": None, "Ipv6CidrBlock": "2001:db8::7/64", "RuleAction": "deny", "Protocol": "17"}
    ec2.replace_network_acl_entry(**entry(acl, **v6))
    replaced = entries(ec2, acl, False)[1]
    assert (replaced["Ipv6CidrBlock"], replaced["RuleAction"], replaced["Protocol"]) == ("2001:db8::/64", "deny", "17")
    assert "CidrBlock" not in replaced
    ec2.delete_network_acl_entry(NetworkAclId=acl, RuleNumber=100, Egress=False)
    assert [e["RuleNumber"] for e in entries(ec2, acl, False)] == [50, 32767]
    assert [e["RuleNumber"] for e in entries(ec2, acl, True)] == [100, 32767]
    code, _, _ = refusal(ec2.delete_network_acl_entry, NetworkAclId=acl, RuleNumber=100, Egress=False)
    assert code == "InvalidNetworkAclEntry.NotFound"
    assert refusal(ec2.replace_network_acl_entry, **entry(acl))[0] == "InvalidNetworkAclEntry.NotFound"


@pytest.mark.parametrize(
    "changes, code",
    [
        ({"RuleNumber": 0}, "InvalidParameterValue"),
        ({"RuleNumber": 32767}, "InvalidParameterValue"),
        ({"Protocol": "tcp"}, "InvalidParameterValue"),
        ({"Protocol": "256"}, "InvalidParameterValue"),
        ({"RuleAction": "maybe"}, "InvalidParameterValue"),
        ({"CidrBlock": "10.0.0.0"}, "InvalidParameterValue"),
        ({"CidrBlock": "2001:db8::/64"}, "InvalidParameterValue"),
        ({"CidrBlock": None}, "MissingParameter"),
        ({"Ipv6CidrBlock": "2001:db8::/64"}, "InvalidParameterCombination"),
        ({"PortRange": None}, "MissingParameter"),
        ({"PortRange": {"From": 23, "To": 22}}, "InvalidParameterValue"),
        ({"PortRange": {"From": 0, "To": 65536}}, "InvalidParameterValue"),
        ({"Protocol": "1"}, "MissingParameter"),
        ({"Protocol": "1", "IcmpTypeCode": {"Type": -1, "Code": 3}}, "InvalidParameterValue"),
        ({"NetworkAclId": GHOST}, "InvalidNetworkAclID.NotFound"),
        ({"NetworkAclId": "x"}, "InvalidNetworkAclId.Malformed"),
    ],
)
def test_entry_refused(ec2, acl, changes, code):
    given = entry(acl, **changes)
    assert refusal(ec2.create_network_acl_entry, **given)[0] == code
    assert refusal(ec2.replace_network_acl_entry, **given)[0] == code
    assert len(shown(ec2, acl)["Entries"]) == 2


def test_limits(ec2, vpc, acl):
    for number in range(1, 21):
        ec2.create_network_acl_entry(**entry(acl, number))
    assert refusal(ec2.create_network_acl_entry, **entry(acl, 21))[0] == "NetworkAclEntryLimitExceeded"
    ec2.create_network_acl_entry(**entry(acl, 21, Egress=True))
    ec2.create_network_acl_entry(**entry(acl, 21, CidrBlock=None, Ipv6CidrBlock="::/0"))
    assert len(entries(ec2, acl, False)) == 22


def test_association(ec2, vpc, acl):
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")["Subnet"]["SubnetId"]
    (default,) = ec2.describe_network_acls(Filters=[{"Name": "association.subnet-id", "Values": [subnet]}])["NetworkAcls"]
    (old,) = default["Associations"]
    new = ec2.replace_network_acl_association(AssociationId=old["NetworkAclAssociationId"], NetworkAclId=acl)["NewAssociationId"]
    assert re.fullmatch("aclassoc-[0-9a-f]{17}", new) and new != old["NetworkAclAssociationId"]
    assert shown(ec2, acl)["Associations"] == [{"NetworkAclAssociationId": new, "NetworkAclId": acl, "SubnetId": subnet}]
    assert shown(ec2, default["NetworkAclId"])["Associations"] == []
    code, message, _ = refusal(ec2.delete_network_acl, NetworkAclId=acl)
    assert (code, message) == ("DependencyViolation", f"The networkAcl '{acl}' has dependencies and cannot be deleted.")
    for association, target, code in [
        (old["NetworkAclAssociationId"], acl, "InvalidAssociationID.NotFound"),
        ("x", acl, "InvalidAssociationID.Malformed"),
        (new, GHOST, "InvalidNetworkAclID.NotFound"),
    ]:
        arguments = {"AssociationId": association, "NetworkAclId": target}
        assert refusal(ec2.replace_network_acl_association, **arguments)[0] == code
    other = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    (foreign,) = ec2.describe_network_acls(Filters=filtered(vpc_id=[other]))["NetworkAcls"]
    code, message, _ = refusal(ec2.replace_network_acl_association, AssociationId=new, NetworkAclId=foreign["NetworkAclId"])
    assert code == "InvalidParameterValue" and "belong to different networks" in message
    ec2.delete_subnet(SubnetId=subnet)
    assert shown(ec2, acl)["Associations"] == []
    ec2.delete_network_acl(NetworkAclId=acl)


def test_filters(ec2, vpc, acl):
    ec2.create_network_acl_entry(**entry(acl, 7, CidrBlock="192.0.2.0/24", PortRange={"From": 1024, "To": 65535}))
    ec2.create_network_acl_entry(**entry(acl, 8, CidrBlock=None, Ipv6CidrBlock="2001:db8::/32", RuleAction="deny"))
    icmp = {"Protocol": "1", "PortRange": None, "IcmpTypeCode": {"Type": 3, "Code": 4}}
    ec2.create_network_acl_entry(**entry(acl, 9, Egress=True, **icmp))
    for name, value in [
        ("entry.cidr", "192.0.2.0/24"),
        ("entry.ipv6-cidr", "2001:db8::/32"),
        ("entry.port-range.from", "1024"),
        ("entry.port-range.to", "65535"),
        ("entry.icmp.type", "3"),
        ("entry.icmp.code", "4"),
        ("entry.protocol", "1"),
        ("entry.rule-number", "9"),
        ("network-acl-id", acl),
    ]:
        found = ec2.describe_network_acls(Filters=[{"Name": name, "Values": [value]}])["NetworkAcls"]
        assert [a["NetworkAclId"] for a in found] == [acl], name
    for name, value in [("vpc-id", vpc), ("entry.egress", "true"), ("entry.rule-action", "deny"), ("owner-id", "123456789012")]:
        found = ec2.describe_network_acls(Filters=[{"Name": name, "Values": [value]}])["NetworkAcls"]
        assert acl in [a["NetworkAclId"] for a in found], name
