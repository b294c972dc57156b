"""Security groups and their rules."""

import re

import pytest
from asking import filtered, instance, launch, refusal, running, until, waiter
from support import wait_for

ANYWHERE = [{"CidrIp": "0.0.0.0/0"}]


def tcp(port, ranges=ANYWHERE, **more):
    return {"IpProtocol": "tcp", "FromPort": port, "ToPort": port, "IpRanges": ranges} | more


@pytest.fixture
def group(ec2):
    return ec2.create_security_group(GroupName="web", Description="web servers")["GroupId"]


def shown(ec2, group):
    return ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]


def test_a_new_group(ec2, group):
    waiter(ec2, "security_group_exists", GroupIds=[group])
    it = shown(ec2, group)
    assert re.fullmatch("sg-[0-9a-f]{17}", group)
    assert (it["GroupName"], it["Description"], it["OwnerId"]) == ("web", "web servers", "123456789012")
    assert it["VpcId"] == ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    assert it["IpPermissions"] == []
    (everything,) = it["IpPermissionsEgress"]
    assert everything["IpProtocol"] == "-1" and everything["IpRanges"] == ANYWHERE
    assert "FromPort" not in everything
    assert it["SecurityGroupArn"] == f"arn:aws:ec2:{ec2.meta.region_name}:123456789012:security-group/{group}"


class TestNames:
    def test_duplicate(self, ec2, group):
        vpc = shown(ec2, group)["VpcId"]
        code, message, status = refusal(ec2.create_security_group, GroupName="web", Description="again")
        assert (code, status) == ("InvalidGroup.Duplicate", 400)
        assert message == f"The security group 'web' already exists for VPC '{vpc}'"

    @pytest.mark.parametrize(
        "name, description",
        [("sg-web", "x"), ("x" * 256, "x"), ("ok", "x" * 256), ("ok", "snow ☃"), ("", "x"), ("ok", "")],
    )
    def test_bad(self, ec2, name, description):
        code, _, status = refusal(ec2.create_security_group, GroupName=name, Description=description)
        assert status == 400 and code in ("InvalidParameterValue", "MissingParameter")
        assert len(ec2.describe_security_groups()["SecurityGroups"]) == 1

    def test_default_is_reserved(self, ec2):
        code, _, _ = refusal(ec2.create_security_group, GroupName="default", Description="x")
        assert code in ("InvalidGroup.Reserved", "InvalidGroup.Duplicate", "InvalidParameterValue")

    def test_unknown(self, ec2):
        ghost = "sg-0123456789abcdef0"
        code, message, _ = refusal(ec2.describe_security_groups, GroupIds=[ghost])
        assert (code, message) == ("InvalidGroup.NotFound", f"The security group '{ghost}' does not exist")
        assert refusal(ec2.describe_security_groups, GroupNames=["ghost"])[0] == "InvalidGroup.NotFound"
        assert refusal(ec2.delete_security_group, GroupId=ghost)[0] == "InvalidGroup.NotFound"
        assert refusal(ec2.describe_security_groups, GroupIds=["web"])[0] in ("InvalidGroupId.Malformed", "InvalidGroupID.Malformed")
        assert refusal(ec2.create_security_group, GroupName="a", Description="a", VpcId="vpc-0123456789abcdef0")[0] == "InvalidVpcID.NotFound"


class TestRules:
    def test_authorize_and_revoke(self, ec2, group):
        answer = ec2.authorize_security_group_ingress(
            GroupId=group,
            IpPermissions=[
                tcp(22, [{"CidrIp": "0.0.0.0/0", "Description": "ssh"}]),
                tcp(80, [{"CidrIp": "10.0.0.0/8"}, {"CidrIp": "192.168.0.0/16"}]),
                {"IpProtocol": "icmp", "FromPort": -1, "ToPort": -1, "IpRanges": ANYWHERE},
                {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "Ipv6Ranges": [{"CidrIpv6": "::/0"}]},
            ],
        )
        assert answer["Return"] is True and len(answer["SecurityGroupRules"]) == 5
        rules = {r["SecurityGroupRuleId"]: r for r in answer["SecurityGroupRules"]}
        assert all(re.fullmatch("sgr-[0-9a-f]{17}", name) for name in rules)
        assert all(not r["IsEgress"] and r["GroupId"] == group for r in rules.values())
        described = ec2.describe_security_group_rules(Filters=filtered(group_id=group))["SecurityGroupRules"]
        assert {r["SecurityGroupRuleId"] for r in described if not r["IsEgress"]} == rules.keys()
        permissions = {(p["IpProtocol"], p.get("FromPort")): p for p in shown(ec2, group)["IpPermissions"]}
        assert permissions["tcp", 22]["IpRanges"] == [{"CidrIp": "0.0.0.0/0", "Description": "ssh"}]
        assert sorted(r["CidrIp"] for r in permissions["tcp", 80]["IpRanges"]) == ["10.0.0.0/8", "192.168.0.0/16"]
        assert permissions["tcp", 443]["Ipv6Ranges"] == [{"CidrIpv6": "::/0"}]
        ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[tcp(80, [{"CidrIp": "10.0.0.0/8"}])])
        (left,) = [p for p in shown(ec2, group)["IpPermissions"] if p.get("FromPort") == 80]
        assert left["IpRanges"] == [{"CidrIp": "192.168.0.0/16"}]
        ssh = next(name for name, r in rules.items() if r["FromPort"] == 22)
        ec2.revoke_security_group_ingress(GroupId=group, SecurityGroupRuleIds=[ssh])
        assert ssh not in {r["SecurityGroupRuleId"] for r in ec2.describe_security_group_rules()["SecurityGroupRules"]}

    def test_short_form(self, ec2, group):
        ec2.authorize_security_group_ingress(GroupName="web", IpProtocol="tcp", FromPort=80, ToPort=80, CidrIp="0.0.0.0/0")
        assert shown(ec2, group)["IpPermissions"][0]["FromPort"] == 80
        ec2.revoke_security_group_ingress(GroupName="web", IpProtocol="tcp", FromPort=80, ToPort=80, CidrIp="0.0.0.0/0")
        assert shown(ec2, group)["IpPermissions"] == []

    def test_duplicate(self, ec2, group):
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[tcp(80)])
        code, message, status = refusal(ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=[tcp(81), tcp(80)])
        assert (code, status) == ("InvalidPermission.Duplicate", 400)
        assert message == 'the specified rule "peer: 0.0.0.0/0, TCP, from port: 80, to port: 80, ALLOW" already exists'
        assert len(shown(ec2, group)["IpPermissions"]) == 1

    def test_revoking_what_is_not_there(self, ec2, group):
        assert refusal(ec2.revoke_security_group_ingress, GroupId=group, IpPermissions=[tcp(81)])[0] == "InvalidPermission.NotFound"
        rule = "sgr-0123456789abcdef0"
        assert refusal(ec2.revoke_security_group_ingress, GroupId=group, SecurityGroupRuleIds=[rule])[0] == "InvalidSecurityGroupRuleId.NotFound"

    def test_group_as_source(self, ec2, group):
        pair = {"UserIdGroupPairs": [{"GroupId": group}]}
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[{"IpProtocol": "-1"} | pair])
        (permission,) = shown(ec2, group)["IpPermissions"]
        assert permission["IpProtocol"] == "-1"
        assert permission["UserIdGroupPairs"] == [{"GroupId": group, "UserId": "123456789012"}]
        other = ec2.create_security_group(GroupName="db", Description="db")["GroupId"]
        ec2.authorize_security_group_ingress(GroupId=other, IpPermissions=[tcp(5432, []) | pair])
        code, message, _ = refusal(ec2.delete_security_group, GroupId=group)
        assert code == "DependencyViolation" and group in message
        ec2.delete_security_group(GroupId=other)
        ec2.delete_security_group(GroupId=group)
        ghost = {"UserIdGroupPairs": [{"GroupId": "sg-0123456789abcdef0"}]}
        default = ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
        assert refusal(ec2.authorize_security_group_ingress, GroupId=default, IpPermissions=[tcp(1, []) | ghost])[0] == "InvalidGroup.NotFound"

    def test_egress(self, ec2, group):
        ec2.revoke_security_group_egress(GroupId=group, IpPermissions=[{"IpProtocol": "-1", "IpRanges": ANYWHERE}])
        assert shown(ec2, group)["IpPermissionsEgress"] == []
        (rule,) = ec2.authorize_security_group_egress(GroupId=group, IpPermissions=[tcp(443)])["SecurityGroupRules"]
        assert rule["IsEgress"] is True and shown(ec2, group)["IpPermissionsEgress"][0]["FromPort"] == 443

    @pytest.mark.parametrize(
        "permission",
        [
            tcp(80, [{"CidrIp": "0.0.0.0/33"}]),
            tcp(80, [{"CidrIp": "300.0.0.0/8"}]),
            tcp(80, [{"CidrIp": "10.0.0.0"}]),
            tcp(70000),
            {"IpProtocol": "tcp", "FromPort": 90, "ToPort": 80, "IpRanges": ANYWHERE},
            {"IpProtocol": "carrier-pigeon", "FromPort": 1, "ToPort": 1, "IpRanges": ANYWHERE},
            {"IpProtocol": "tcp", "IpRanges": ANYWHERE},
            tcp(80, [{"CidrIp": "0.0.0.0/0", "Description": "x" * 256}]),
        ],
    )
    def test_bad(self, ec2, group, permission):
        code, _, status = refusal(ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=[permission])
        assert status == 400 and code in ("InvalidParameterValue", "InvalidPermission.Malformed", "InvalidPermission", "MissingParameter")
        assert shown(ec2, group)["IpPermissions"] == []

    def test_limit(self, ec2, group):
        ranges = [{"CidrIp": f"10.0.{n}.0/24"} for n in range(60)]
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[tcp(80, ranges)])
        code, _, _ = refusal(ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=[tcp(81)])
        assert code == "RulesPerSecurityGroupLimitExceeded"

    def test_descriptions_and_modify(self, ec2, group):
        (rule,) = ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[tcp(80)])["SecurityGroupRules"]
        ec2.update_security_group_rule_descriptions_ingress(
            GroupId=group, IpPermissions=[tcp(80, [{"CidrIp": "0.0.0.0/0", "Description": "http"}])]
        )
        assert shown(ec2, group)["IpPermissions"][0]["IpRanges"][0]["Description"] == "http"
        changed = {"IpProtocol": "tcp", "FromPort": 8080, "ToPort": 8080, "CidrIpv4": "10.0.0.0/8"}
        ec2.modify_security_group_rules(
            GroupId=group,
            SecurityGroupRules=[{"SecurityGroupRuleId": rule["SecurityGroupRuleId"], "SecurityGroupRule": changed}],
        )
        (seen,) = ec2.describe_security_group_rules(SecurityGroupRuleIds=[rule["SecurityGroupRuleId"]])["SecurityGroupRules"]
        assert (seen["FromPort"], seen["CidrIpv4"]) == (8080, "10.0.0.0/8")


class TestDelete:
    def test_in_use(self, ec2, image_id, group):
        name = running(ec2, image_id, SecurityGroupIds=[group])["InstanceId"]
        code, message, status = refusal(ec2.delete_security_group, GroupId=group)
        assert (code, status) == ("DependencyViolation", 400)
        assert message == f"resource {group} has a dependent object"
        ec2.terminate_instances(InstanceIds=[name])
        until(ec2, "terminated", name)
        answer = ec2.delete_security_group(GroupId=group)
        assert answer["Return"] is True and answer["GroupId"] == group

    def test_default(self, ec2):
        default = ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
        code, message, _ = refusal(ec2.delete_security_group, GroupId=default)
        assert code == "CannotDelete"
        assert message == f'the specified group: "{default}" name: "default" cannot be deleted by a user'

    def test_by_name(self, ec2, group):
        ec2.delete_security_group(GroupName="web")
        assert refusal(ec2.describe_security_groups, GroupIds=[group])[0] == "InvalidGroup.NotFound"


def test_filters(ec2, group):
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[tcp(80, [{"CidrIp": "10.1.0.0/16"}])])
    for name, value in {
        "group-name": "we?",
        "group-id": group,
        "description": "web servers",
        "ip-permission.from-port": "80",
        "ip-permission.to-port": "80",
        "ip-permission.protocol": "tcp",
        "ip-permission.cidr": "10.1.0.0/16",
    }.items():
        found = ec2.describe_security_groups(Filters=[{"Name": name, "Values": [value]}])["SecurityGroups"]
        assert [g["GroupId"] for g in found] == [group], name
    assert ec2.describe_security_groups(Filters=filtered(group_name="nothing"))["SecurityGroups"] == []


def test_pages(ec2):
    made = {ec2.create_security_group(GroupName=f"g{n}", Description="x")["GroupId"] for n in range(11)}
    pages = list(ec2.get_paginator("describe_security_groups").paginate(PaginationConfig={"PageSize": 5}))
    seen = [g["GroupId"] for page in pages for g in page["SecurityGroups"]]
    assert len(seen) == len(set(seen)) == 12 and made < set(seen)


def test_five_on_an_interface(ec2, image_id):
    groups = [ec2.create_security_group(GroupName=f"g{n}", Description="x")["GroupId"] for n in range(6)]
    code, _, _ = refusal(launch, ec2=ec2, image_id=image_id, SecurityGroupIds=groups)
    assert code == "SecurityGroupsPerInterfaceLimitExceeded"
    found = launch(ec2, image_id, SecurityGroupIds=groups[:5])
    assert {g["GroupId"] for g in instance(ec2, found["InstanceId"])["SecurityGroups"]} == set(groups[:5])


class TestPeers:
    @pytest.fixture
    def offices(self, ec2):
        made = ec2.create_managed_prefix_list(
            PrefixListName="offices", AddressFamily="IPv4", MaxEntries=30, Entries=[{"Cidr": "192.0.2.0/24"}]
        )
        return made["PrefixList"]["PrefixListId"]

    def test_prefix_list(self, ec2, group, offices):
        from_list = {"PrefixListIds": [{"PrefixListId": offices, "Description": "offices"}]}
        rules = ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[tcp(80, []) | from_list])["SecurityGroupRules"]
        assert [rule["PrefixListId"] for rule in rules] == [offices]
        assert shown(ec2, group)["IpPermissions"][0]["PrefixListIds"] == from_list["PrefixListIds"]
        found = ec2.describe_security_groups(Filters=[{"Name": "ip-permission.prefix-list-id", "Values": [offices]}])
        assert [g["GroupId"] for g in found["SecurityGroups"]] == [group]
        # It counts as many rules as it may have entries.
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[tcp(81, []) | from_list])
        assert refusal(ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=[tcp(82)])[0] == (
            "RulesPerSecurityGroupLimitExceeded"
        )
        change = {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "CidrIpv4": "10.0.0.0/8"}
        name = rules[0]["SecurityGroupRuleId"]
        ec2.modify_security_group_rules(
            GroupId=group, SecurityGroupRules=[{"SecurityGroupRuleId": name, "SecurityGroupRule": change}]
        )
        ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[tcp(81, []) | from_list])
        assert [p["FromPort"] for p in shown(ec2, group)["IpPermissions"]] == [443]
        ghost = {"PrefixListIds": [{"PrefixListId": "pl-0123456789abcdef0"}]}
        code, message, _ = refusal(ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=[tcp(1, []) | ghost])
        assert code == "InvalidPrefixListID.NotFound" and "pl-0123456789abcdef0" in message

    def test_group_of_a_peered_vpc(self, ec2, group):
        own = shown(ec2, group)["VpcId"]
        other = ec2.create_vpc(CidrBlock="10.77.0.0/16")["Vpc"]["VpcId"]
        theirs = ec2.create_security_group(GroupName="theirs", Description="x", VpcId=other)["GroupId"]
        rule = tcp(5432, []) | {"UserIdGroupPairs": [{"GroupId": theirs, "UserId": "123456789012"}]}
        code, message, _ = refusal(ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=[rule])
        assert (code, message) == (
            "InvalidGroup.NotFound",
            "You have specified two resources that belong to different networks.",
        )
        peering = ec2.create_vpc_peering_connection(VpcId=own, PeerVpcId=other)["VpcPeeringConnection"]["VpcPeeringConnectionId"]
        assert refusal(ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=[rule])[0] == "InvalidGroup.NotFound"
        waiter(ec2, "vpc_peering_connection_exists", VpcPeeringConnectionIds=[peering])
        ec2.accept_vpc_peering_connection(VpcPeeringConnectionId=peering)

        def status():
            return ec2.describe_vpc_peering_connections(VpcPeeringConnectionIds=[peering])["VpcPeeringConnections"][0]["Status"]["Code"]

        wait_for(lambda: status() == "active", "the connection to be active")
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
        (pair,) = shown(ec2, group)["IpPermissions"][0]["UserIdGroupPairs"]
        assert (pair["VpcId"], pair["VpcPeeringConnectionId"], pair["PeeringStatus"]) == (other, peering, "active")
        (reference,) = ec2.describe_security_group_references(GroupId=[theirs])["SecurityGroupReferenceSet"]
        assert (reference["ReferencingVpcId"], reference["VpcPeeringConnectionId"]) == (own, peering)
        assert ec2.describe_stale_security_groups(VpcId=own)["StaleSecurityGroupSet"] == []
        ec2.delete_vpc_peering_connection(VpcPeeringConnectionId=peering)
        (stale,) = ec2.describe_stale_security_groups(VpcId=own)["StaleSecurityGroupSet"]
        assert stale["GroupId"] == group and stale["StaleIpPermissions"][0]["UserIdGroupPairs"][0]["GroupId"] == theirs
        ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=shown(ec2, group)["IpPermissions"])
        assert ec2.describe_stale_security_groups(VpcId=own)["StaleSecurityGroupSet"] == []

    def test_groups_for_vpc(self, ec2, group):
        own = shown(ec2, group)["VpcId"]
        found = ec2.get_security_groups_for_vpc(VpcId=own)["SecurityGroupForVpcs"]
        assert {g["GroupName"] for g in found} == {"web", "default"} and {g["PrimaryVpcId"] for g in found} == {own}
        (web,) = ec2.get_security_groups_for_vpc(VpcId=own, Filters=filtered(group_name="web"))["SecurityGroupForVpcs"]
        assert web["GroupId"] == group
        ghost = "vpc-0123456789abcdef0"
        assert refusal(ec2.get_security_groups_for_vpc, VpcId=ghost)[0] == "InvalidVpcID.NotFound"
        assert refusal(ec2.describe_stale_security_groups, VpcId=ghost)[0] == "InvalidVpcID.NotFound"
        assert refusal(ec2.describe_security_group_references, GroupId=["sg-0123456789abcdef0"])[0] == "InvalidGroup.NotFound"

    def test_groups_of_several_vpcs_are_not_built(self, ec2, group):
        other = ec2.create_vpc(CidrBlock="10.77.0.0/16")["Vpc"]["VpcId"]
        assert refusal(ec2.associate_security_group_vpc, GroupId=group, VpcId=other)[0] == "UnsupportedOperation"


def test_sixty_rules_a_direction_and_family(ec2, group):
    def rules(start, count):
        return [tcp(start + n, [{"CidrIp": "10.0.0.0/8"}]) for n in range(count)]

    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=rules(1, 60))
    code, _, status = refusal(ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=rules(100, 1))
    assert (code, status) == ("RulesPerSecurityGroupLimitExceeded", 400)
    by_ipv6 = {"IpProtocol": "tcp", "FromPort": 1, "ToPort": 1, "Ipv6Ranges": [{"CidrIpv6": "2001:db8::/32"}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[by_ipv6])
    ec2.authorize_security_group_egress(GroupId=group, IpPermissions=rules(1, 59))
    assert refusal(ec2.authorize_security_group_egress, GroupId=group, IpPermissions=rules(100, 1))[0] == (
        "RulesPerSecurityGroupLimitExceeded"
    )


def test_icmp_and_protocol_numbers(ec2, group):
    for protocol, low, high, shown_as in [
        ("icmp", 8, -1, ("icmp", 8, -1)),
        ("icmp", 3, 4, ("icmp", 3, 4)),
        ("icmpv6", 128, 0, ("icmpv6", 128, 0)),
        ("58", 129, 0, ("icmpv6", 129, 0)),
        ("6", 22, 22, ("tcp", 22, 22)),
        ("17", 53, 53, ("udp", 53, 53)),
        ("50", 1, 2, ("50", -1, -1)),
        ("132", -1, -1, ("132", -1, -1)),
    ]:
        permission = {"IpProtocol": protocol, "FromPort": low, "ToPort": high, "IpRanges": ANYWHERE}
        (rule,) = ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[permission])["SecurityGroupRules"]
        assert (rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) == shown_as
    for protocol, low, high in [("icmp", 256, -1), ("icmp", -1, 4), ("256", 1, 1), ("ospf!", 1, 1)]:
        permission = {"IpProtocol": protocol, "FromPort": low, "ToPort": high, "IpRanges": ANYWHERE}
        assert refusal(ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=[permission])[0] == "InvalidParameterValue"


def test_a_group_in_a_vpc_with_ipv6_lets_everything_out_by_both(ec2):
    vpc = ec2.create_vpc(CidrBlock="10.77.0.0/16", AmazonProvidedIpv6CidrBlock=True)["Vpc"]["VpcId"]
    made = ec2.create_security_group(GroupName="both", Description="x", VpcId=vpc)["GroupId"]
    (everything,) = shown(ec2, made)["IpPermissionsEgress"]
    assert everything["IpRanges"] == ANYWHERE and everything["Ipv6Ranges"] == [{"CidrIpv6": "::/0"}]
