use super::describe::{describe_security_group_rules, describe_security_groups};
use super::{change, create_security_group, delete_security_group};
use crate::testing::{Region, filter, list};
use model::ec2 as api;
use proptest::prelude::*;

mod peers;

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn create(region: &Region, name: &str) -> String {
    let input = api::CreateSecurityGroupRequest {
        group_name: text(name),
        description: text("for a test"),
        ..Default::default()
    };
    region.ok(create_security_group, input).group_id.unwrap()
}

fn range(cidr: &str) -> api::IpRange {
    api::IpRange { cidr_ip: text(cidr), description: None }
}

fn permission(protocol: &str, from: i32, to: i32, cidrs: &[&str]) -> api::IpPermission {
    api::IpPermission {
        ip_protocol: text(protocol),
        from_port: Some(from),
        to_port: Some(to),
        ip_ranges: Some(cidrs.iter().map(|cidr| range(cidr)).collect()),
        ..Default::default()
    }
}

fn from_group(id: &str) -> api::IpPermission {
    api::IpPermission {
        ip_protocol: text("-1"),
        user_id_group_pairs: Some(vec![api::UserIdGroupPair {
            group_id: text(id),
            ..Default::default()
        }]),
        ..Default::default()
    }
}

fn ingress(
    group: &str,
    permissions: Vec<api::IpPermission>,
) -> api::AuthorizeSecurityGroupIngressRequest {
    api::AuthorizeSecurityGroupIngressRequest {
        group_id: text(group),
        ip_permissions: Some(permissions),
        ..Default::default()
    }
}

fn revocation(
    group: &str,
    permissions: Vec<api::IpPermission>,
) -> api::RevokeSecurityGroupIngressRequest {
    api::RevokeSecurityGroupIngressRequest {
        group_id: text(group),
        ip_permissions: Some(permissions),
        ..Default::default()
    }
}

fn show(region: &Region, id: &str) -> api::SecurityGroup {
    let input = api::DescribeSecurityGroupsRequest { group_ids: list(&[id]), ..Default::default() };
    region.ok(describe_security_groups, input).security_groups.unwrap().remove(0)
}

fn names(region: &Region, filters: Vec<api::Filter>) -> Vec<String> {
    let input = api::DescribeSecurityGroupsRequest { filters: Some(filters), ..Default::default() };
    let groups = region.ok(describe_security_groups, input).security_groups.unwrap();
    let mut names: Vec<String> = groups.into_iter().filter_map(|g| g.group_name).collect();
    names.sort();
    names
}

#[test]
fn a_new_group_lets_everything_out_and_nothing_in() {
    let region = Region::new();
    let id = create(&region, "web");
    let group = show(&region, &id);
    assert_eq!(group.group_name.as_deref(), Some("web"));
    assert_eq!(group.ip_permissions, Some(vec![]));
    let egress = &group.ip_permissions_egress.unwrap()[0];
    assert_eq!(egress.ip_protocol.as_deref(), Some("-1"));
    assert_eq!((egress.from_port, egress.to_port), (None, None));
    assert_eq!(egress.ip_ranges, Some(vec![range("0.0.0.0/0")]));
    assert_eq!(
        group.security_group_arn,
        Some(format!("arn:aws:ec2:us-east-1:123456789012:security-group/{id}"))
    );
}

#[test]
fn names_are_checked_and_unique_in_their_vpc() {
    let region = Region::new();
    create(&region, "web");
    let input = |name: &str| api::CreateSecurityGroupRequest {
        group_name: text(name),
        description: text("for a test"),
        ..Default::default()
    };
    let duplicate = region.refused(create_security_group, input("WEB"));
    assert!(
        duplicate.starts_with(
            "InvalidGroup.Duplicate: The security group 'WEB' already exists for VPC 'vpc-"
        ),
        "{duplicate}"
    );
    create(&region, "Db");
    region.refused(create_security_group, input("db"));
    let both = api::DeleteSecurityGroupRequest { group_name: text("Db"), ..Default::default() };
    region.ok(delete_security_group, both);
    create(&region, "db");
    for (name, message) in [
        ("sg-web", "Group names may not be in the format sg-*."),
        ("default", "Cannot use reserved security group name: default"),
        ("caf\u{e9}", "Invalid security group name."),
        (&"x".repeat(256), "Invalid security group name."),
    ] {
        let error = region.refused(create_security_group, input(name));
        assert!(error.starts_with("InvalidParameterValue: ") && error.contains(message), "{error}");
    }
    let elsewhere =
        api::CreateSecurityGroupRequest { vpc_id: text("vpc-00000000000000000"), ..input("other") };
    assert_eq!(
        region.refused(create_security_group, elsewhere),
        "InvalidVpcID.NotFound: The vpc ID 'vpc-00000000000000000' does not exist"
    );
}

#[test]
fn rules_are_brought_into_one_form() {
    let region = Region::new();
    let id = create(&region, "web");
    let mut open = permission("6", 80, 80, &["100.68.0.18/18"]);
    open.ipv6_ranges =
        Some(vec![api::Ipv6Range { cidr_ipv6: text("2001:DB8::1/32"), description: text("ours") }]);
    let answer = region.ok(change::authorize_ingress, ingress(&id, vec![open]));
    let rules = answer.security_group_rules.unwrap();
    assert_eq!(rules[0].ip_protocol.as_deref(), Some("tcp"));
    assert_eq!(rules[0].cidr_ipv4.as_deref(), Some("100.68.0.0/18"));
    assert_eq!(rules[1].cidr_ipv6.as_deref(), Some("2001:db8::/32"));
    assert_eq!(rules[1].description.as_deref(), Some("ours"));
    let shown = show(&region, &id).ip_permissions.unwrap();
    assert_eq!(shown.len(), 1, "one permission with two peers");
    assert_eq!(shown[0].ip_ranges, Some(vec![range("100.68.0.0/18")]));
    assert_eq!(shown[0].prefix_list_ids, Some(vec![]));
}

#[test]
fn the_same_rule_twice_is_refused_in_awss_words() {
    let region = Region::new();
    let id = create(&region, "web");
    for (permission, described) in [
        (
            permission("tcp", 22, 22, &["0.0.0.0/0"]),
            "peer: 0.0.0.0/0, TCP, from port: 22, to port: 22, ALLOW",
        ),
        (permission("-1", 0, 0, &["10.0.0.0/8"]), "peer: 10.0.0.0/8, ALL, ALLOW"),
        (permission("50", 1, 2, &["0.0.0.0/0"]), "peer: 0.0.0.0/0, protocol: 50, ALLOW"),
        (
            permission("icmp", -1, -1, &["0.0.0.0/0"]),
            "peer: 0.0.0.0/0, ICMP, type: ALL, code: ALL, ALLOW",
        ),
    ] {
        region.ok(change::authorize_ingress, ingress(&id, vec![permission.clone()]));
        assert_eq!(
            region.refused(change::authorize_ingress, ingress(&id, vec![permission])),
            format!(
                "InvalidPermission.Duplicate: the specified rule \"{described}\" already exists"
            )
        );
    }
    let twice = vec![
        permission("tcp", 80, 80, &["10.1.2.3/8"]),
        permission("tcp", 80, 80, &["10.0.0.0/8"]),
    ];
    assert_eq!(
        region.refused(change::authorize_ingress, ingress(&id, twice)),
        "InvalidParameterValue: The same permission must not appear multiple times"
    );
}

#[test]
fn bad_rules_are_refused() {
    let region = Region::new();
    let id = create(&region, "web");
    for (permission, error) in [
        (
            permission("tcp", 80, 80, &["10.0.0.0"]),
            "InvalidParameterValue: CIDR block 10.0.0.0 is malformed",
        ),
        (
            permission("tcp", 80, 70_000, &["10.0.0.0/8"]),
            "InvalidParameterValue: TCP/UDP port (70000) out of range",
        ),
        (
            permission("udp", 443, 80, &["10.0.0.0/8"]),
            "InvalidParameterValue: Invalid TCP/UDP port range (443:80)",
        ),
        (
            permission("icmp", 300, -1, &["10.0.0.0/8"]),
            "InvalidParameterValue: ICMP type (300) out of range",
        ),
        (
            permission("smtp", 1, 2, &["10.0.0.0/8"]),
            "InvalidParameterValue: Invalid value 'smtp' for IP protocol. Unknown protocol.",
        ),
        (
            from_group("sg-00000000000000000"),
            "InvalidGroup.NotFound: The security group 'sg-00000000000000000' does not exist",
        ),
    ] {
        assert_eq!(
            region.refused(change::authorize_ingress, ingress(&id, vec![permission])),
            error
        );
    }
    assert_eq!(show(&region, &id).ip_permissions, Some(vec![]));
}

#[test]
fn sixty_rules_and_no_more() {
    let region = Region::new();
    let id = create(&region, "web");
    let ports = (1..=60).map(|port| permission("tcp", port, port, &["0.0.0.0/0"])).collect();
    region.ok(change::authorize_ingress, ingress(&id, ports));
    let more = vec![permission("tcp", 61, 61, &["0.0.0.0/0"])];
    assert!(
        region
            .refused(change::authorize_ingress, ingress(&id, more))
            .starts_with("RulesPerSecurityGroupLimitExceeded: ")
    );
    let ipv6 = api::IpPermission {
        ip_protocol: text("-1"),
        ipv6_ranges: Some(vec![api::Ipv6Range { cidr_ipv6: text("::/0"), description: None }]),
        ..Default::default()
    };
    region.ok(change::authorize_ingress, ingress(&id, vec![ipv6]));
}

#[test]
fn the_flat_form_means_the_same() {
    let region = Region::new();
    let id = create(&region, "web");
    let flat = api::AuthorizeSecurityGroupIngressRequest {
        group_name: text("web"),
        ip_protocol: text("tcp"),
        from_port: Some(22),
        to_port: Some(22),
        cidr_ip: text("0.0.0.0/0"),
        ..Default::default()
    };
    region.ok(change::authorize_ingress, flat);
    let source = api::AuthorizeSecurityGroupIngressRequest {
        group_id: text(&id),
        source_security_group_name: text("web"),
        ..Default::default()
    };
    region.ok(change::authorize_ingress, source);
    let shown = show(&region, &id).ip_permissions.unwrap();
    let protocols: Vec<_> =
        shown.iter().map(|p| (p.ip_protocol.as_deref().unwrap(), p.from_port, p.to_port)).collect();
    assert_eq!(
        protocols,
        [
            ("tcp", Some(22), Some(22)),
            ("tcp", Some(0), Some(65_535)),
            ("udp", Some(0), Some(65_535)),
            ("icmp", Some(-1), Some(-1)),
        ]
    );
    let revoke = api::RevokeSecurityGroupIngressRequest {
        group_id: text(&id),
        ip_protocol: text("tcp"),
        from_port: Some(22),
        to_port: Some(22),
        cidr_ip: text("0.0.0.0/0"),
        ..Default::default()
    };
    let revoked = region.ok(change::revoke_ingress, revoke.clone());
    assert_eq!(revoked.revoked_security_group_rules.unwrap().len(), 1);
    assert_eq!(
        region.refused(change::revoke_ingress, revoke),
        "InvalidPermission.NotFound: The specified rule does not exist in this security group."
    );
}

#[test]
fn rules_are_revoked_all_or_none() {
    let region = Region::new();
    let id = create(&region, "web");
    let rules = vec![permission("tcp", 80, 80, &["10.0.0.0/8", "0.0.0.0/0"])];
    let answer = region.ok(change::authorize_ingress, ingress(&id, rules.clone()));
    let ids: Vec<String> = answer
        .security_group_rules
        .unwrap()
        .into_iter()
        .filter_map(|rule| rule.security_group_rule_id)
        .collect();
    let too_many = vec![permission("tcp", 80, 80, &["10.0.0.0/8", "11.0.0.0/8"])];
    region.refused(change::revoke_ingress, revocation(&id, too_many));
    let by_id = |ids: Vec<String>| api::RevokeSecurityGroupIngressRequest {
        group_id: text(&id),
        security_group_rule_ids: Some(ids),
        ..Default::default()
    };
    let unknown = vec![ids[0].clone(), "sgr-00000000000000000".to_owned()];
    assert_eq!(
        region.refused(change::revoke_ingress, by_id(unknown)),
        "InvalidSecurityGroupRuleId.NotFound: The security group rule ID \
         'sgr-00000000000000000' does not exist"
    );
    assert_eq!(show(&region, &id).ip_permissions.unwrap()[0].ip_ranges.as_ref().unwrap().len(), 2);
    region.ok(change::revoke_ingress, by_id(ids));
    assert_eq!(show(&region, &id).ip_permissions, Some(vec![]));
}

#[test]
fn a_default_egress_rule_is_revoked_as_terraform_does_it() {
    let region = Region::new();
    let id = create(&region, "web");
    let everything = api::IpPermission {
        ip_protocol: text("-1"),
        from_port: Some(0),
        to_port: Some(0),
        ip_ranges: Some(vec![range("0.0.0.0/0")]),
        ..Default::default()
    };
    let input = api::RevokeSecurityGroupEgressRequest {
        group_id: text(&id),
        ip_permissions: Some(vec![everything]),
        ..Default::default()
    };
    region.ok(change::revoke_egress, input);
    assert_eq!(show(&region, &id).ip_permissions_egress, Some(vec![]));
}

#[test]
fn rules_are_modified_and_described_anew() {
    let region = Region::new();
    let id = create(&region, "web");
    let rules = vec![permission("tcp", 80, 80, &["0.0.0.0/0"])];
    let answer = region.ok(change::authorize_ingress, ingress(&id, rules.clone()));
    let rule_id = answer.security_group_rules.unwrap()[0].security_group_rule_id.clone();
    let update = api::SecurityGroupRuleUpdate {
        security_group_rule_id: rule_id.clone(),
        security_group_rule: Some(api::SecurityGroupRuleRequest {
            ip_protocol: text("tcp"),
            from_port: Some(443),
            to_port: Some(443),
            cidr_ipv4: text("10.0.0.0/8"),
            ..Default::default()
        }),
    };
    let input = api::ModifySecurityGroupRulesRequest {
        group_id: text(&id),
        security_group_rules: Some(vec![update]),
        ..Default::default()
    };
    region.ok(change::modify_rules, input);
    let mut changed = permission("tcp", 443, 443, &[]);
    changed.ip_ranges =
        Some(vec![api::IpRange { cidr_ip: text("10.0.0.0/8"), description: text("office") }]);
    let input = api::UpdateSecurityGroupRuleDescriptionsIngressRequest {
        group_id: text(&id),
        ip_permissions: Some(vec![changed]),
        ..Default::default()
    };
    region.ok(change::update_descriptions_ingress, input);
    let input = api::DescribeSecurityGroupRulesRequest {
        filters: Some(vec![filter("group-id", &[&id])]),
        ..Default::default()
    };
    let rules = region.ok(describe_security_group_rules, input).security_group_rules.unwrap();
    let rule = rules.iter().find(|rule| rule.security_group_rule_id == rule_id).unwrap();
    assert_eq!((rule.from_port, rule.description.as_deref()), (Some(443), Some("office")));
    assert_eq!(rule.cidr_ipv4.as_deref(), Some("10.0.0.0/8"));
    assert_eq!(rules.len(), 2, "the egress rule is one too");
}

#[test]
fn groups_in_use_and_default_groups_stay() {
    let region = Region::new();
    let (web, db) = (create(&region, "web"), create(&region, "db"));
    region.ok(change::authorize_ingress, ingress(&db, vec![from_group(&web)]));
    let delete =
        |id: &str| api::DeleteSecurityGroupRequest { group_id: text(id), ..Default::default() };
    assert_eq!(
        region.refused(delete_security_group, delete(&web)),
        format!("DependencyViolation: resource {web} has a dependent object")
    );
    region.ok(change::revoke_ingress, revocation(&db, vec![from_group(&web)]));
    region.ok(delete_security_group, delete(&web));
    assert_eq!(
        region.refused(delete_security_group, delete(&web)),
        format!("InvalidGroup.NotFound: The security group '{web}' does not exist")
    );
    create(&region, "web");
    let default =
        api::DeleteSecurityGroupRequest { group_name: text("default"), ..Default::default() };
    assert!(region.refused(delete_security_group, default).starts_with("CannotDelete: "));
    assert!(
        region
            .refused(delete_security_group, delete("sg-xyz"))
            .starts_with("InvalidGroupId.Malformed: ")
    );
}

#[test]
fn filters_look_at_the_rules() {
    let region = Region::new();
    let web = create(&region, "web");
    let db = create(&region, "db");
    let open = vec![permission("tcp", 80, 80, &["0.0.0.0/0"])];
    region.ok(change::authorize_ingress, ingress(&web, open));
    region.ok(change::authorize_ingress, ingress(&db, vec![from_group(&web)]));
    assert_eq!(names(&region, vec![filter("ip-permission.cidr", &["0.0.0.0/0"])]), ["web"]);
    assert_eq!(names(&region, vec![filter("ip-permission.from-port", &["80"])]), ["web"]);
    assert_eq!(names(&region, vec![filter("ip-permission.group-id", &[&web])]), ["db"]);
    assert_eq!(names(&region, vec![filter("ip-permission.group-name", &["w*"])]), ["db"]);
    assert_eq!(
        names(&region, vec![filter("egress.ip-permission.cidr", &["0.0.0.0/0"])]),
        ["db", "default", "web"]
    );
    assert_eq!(names(&region, vec![filter("group-id", &[&web])]), ["web"]);
    let input =
        api::DescribeSecurityGroupsRequest { group_names: list(&["nobody"]), ..Default::default() };
    assert!(
        region
            .refused(describe_security_groups, input)
            .starts_with("InvalidGroup.NotFound: The security group 'nobody' does not exist in")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What is described can be revoked: both forms are the same rule.
    #[test]
    fn what_is_shown_can_be_revoked(
        protocol in prop::sample::select(vec!["tcp", "UDP", "icmp", "58", "-1", "47"]),
        low in 0i32..200, span in 0i32..50, address: u32, length in 0u8..=32,
    ) {
        let region = Region::new();
        let id = create(&region, "web");
        let cidr = format!("{}/{length}", std::net::Ipv4Addr::from(address));
        let rule = permission(protocol, low, low + span, &[&cidr]);
        region.ok(change::authorize_ingress, ingress(&id, vec![rule]));
        let shown = show(&region, &id).ip_permissions.unwrap();
        region.ok(change::revoke_ingress, revocation(&id, shown));
        prop_assert_eq!(show(&region, &id).ip_permissions, Some(vec![]));
    }
}
