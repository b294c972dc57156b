//! Rules with prefix lists and with groups of peered VPCs.

use super::*;
use crate::record::{PeeringSide, PrefixList, Tags, VpcPeering, key as keys};
use crate::security_group::describe::get_security_groups_for_vpc;
use crate::security_group::reference::{
    describe_security_group_references, describe_stale_security_groups,
};
use crate::testing::ACCOUNT;
use crate::vpc;
use base::Timestamp;
use std::collections::BTreeMap;

const OTHER: &str = "210987654321";
const LIST: &str = "pl-0123456789abcdef0";
const CONNECTION: &str = "pcx-0123456789abcdef0";

fn put_list(region: &Region, max_entries: u32, ipv6: bool) {
    let list = PrefixList {
        v: 1,
        id: LIST.to_owned(),
        name: "offices".to_owned(),
        ipv6,
        max_entries,
        state: "create-complete".to_owned(),
        versions: BTreeMap::from([(1, Vec::new())]),
        tags: Tags::new(),
    };
    region
        .run(|call| {
            call.put(&keys::of(call.region, keys::PREFIX_LIST, ACCOUNT, LIST), list);
            Ok(())
        })
        .unwrap();
}

fn from_list(port: i32) -> api::IpPermission {
    api::IpPermission {
        prefix_list_ids: Some(vec![api::PrefixListId {
            description: text("offices"),
            prefix_list_id: text(LIST),
        }]),
        ..permission("tcp", port, port, &[])
    }
}

#[test]
fn a_prefix_list_counts_as_many_rules_as_it_may_have_entries() {
    let region = Region::new();
    let id = create(&region, "web");
    assert_eq!(
        region.refused(change::authorize_ingress, ingress(&id, vec![from_list(80)])),
        "InvalidPrefixListID.NotFound: The prefix list ID 'pl-0123456789abcdef0' does not exist"
    );
    put_list(&region, 30, false);
    region.ok(change::authorize_ingress, ingress(&id, vec![from_list(80), from_list(81)]));
    let too_many = |cidr: &[&str]| ingress(&id, vec![permission("tcp", 1, 1, cidr)]);
    let refusal = region.refused(change::authorize_ingress, too_many(&["10.0.0.0/8"]));
    assert!(refusal.starts_with("RulesPerSecurityGroupLimitExceeded: "), "{refusal}");
    // Nor may the list grow that much, as the groups see it that name it.
    let grown = region.run(|call| {
        let group = crate::security_group::find(call, &id)?;
        let at = keys::of(call.region, keys::PREFIX_LIST, ACCOUNT, LIST);
        let list = PrefixList::clone(&*call.get::<PrefixList>(&at)?.unwrap());
        change::check_count(call, &group, false)?;
        call.put(&at, PrefixList { max_entries: 31, ..list });
        change::check_count(call, &group, false)
    });
    assert!(grown.unwrap_err().to_string().contains("rules per security group"));
    // The other family has room.
    let ipv6 = api::IpPermission {
        ipv6_ranges: Some(vec![api::Ipv6Range {
            cidr_ipv6: text("2001:db8::/32"),
            description: None,
        }]),
        ..permission("tcp", 1, 1, &[])
    };
    region.ok(change::authorize_ingress, ingress(&id, vec![ipv6]));
    let shown = show(&region, &id).ip_permissions.unwrap();
    let lists: Vec<_> = shown.iter().flat_map(|p| p.prefix_list_ids.clone().unwrap()).collect();
    assert_eq!(lists.len(), 2);
    assert_eq!(lists[0].prefix_list_id.as_deref(), Some(LIST));
    assert_eq!(names(&region, vec![filter("ip-permission.prefix-list-id", &[LIST])]), ["web"]);
    let duplicate = region.refused(change::authorize_ingress, ingress(&id, vec![from_list(80)]));
    assert!(duplicate.starts_with("InvalidPermission.Duplicate: "), "{duplicate}");
    region.ok(change::revoke_ingress, revocation(&id, vec![from_list(80)]));
    region.ok(change::authorize_ingress, too_many(&["10.0.0.0/8"]));
}

/// Another VPC of an account with a group in it.
fn other_vpc(region: &Region, account: &str) -> (String, String) {
    region
        .run_as(region.name, account, |call| {
            let vpc = vpc::stage(call, "10.9.0.0/16".parse().unwrap(), "default", Tags::new());
            Ok((vpc.id, vpc.default_group_id))
        })
        .unwrap()
}

fn put_connection(region: &Region, account: &str, vpc_id: &str, status: &str) {
    let own = region.run(|call| Ok(vpc::default_vpc(call)?.id.clone())).unwrap();
    let side = |account: &str, vpc_id: &str| PeeringSide {
        account: account.to_owned(),
        region: region.name.to_owned(),
        vpc_id: vpc_id.to_owned(),
        resolved_by_other: false,
    };
    let peering = VpcPeering {
        v: 1,
        id: CONNECTION.to_owned(),
        requester: side(account, vpc_id),
        accepter: side(ACCOUNT, &own),
        status: status.to_owned(),
        message: String::new(),
        expires: Timestamp::default(),
        ended: None,
        tags: Tags::new(),
        accepter_tags: Tags::new(),
    };
    region
        .run(|call| {
            call.put(&keys::vpc_peering(CONNECTION), peering);
            Ok(())
        })
        .unwrap();
}

fn from_peer(account: Option<&str>, group: &str) -> api::IpPermission {
    api::IpPermission {
        ip_protocol: text("-1"),
        user_id_group_pairs: Some(vec![api::UserIdGroupPair {
            group_id: text(group),
            user_id: account.map(str::to_owned),
            ..Default::default()
        }]),
        ..Default::default()
    }
}

#[test]
fn a_group_of_a_peered_vpc_is_named_as_long_as_the_connection_is_active() {
    let region = Region::new();
    let id = create(&region, "web");
    let (vpc_id, group_id) = other_vpc(&region, ACCOUNT);
    let rule = || ingress(&id, vec![from_peer(None, &group_id)]);
    assert_eq!(
        region.refused(change::authorize_ingress, rule()),
        "InvalidGroup.NotFound: You have specified two resources that belong to different networks."
    );
    put_connection(&region, ACCOUNT, &vpc_id, "pending-acceptance");
    region.refused(change::authorize_ingress, rule());
    put_connection(&region, ACCOUNT, &vpc_id, "active");
    region.ok(change::authorize_ingress, rule());
    let pair = show(&region, &id).ip_permissions.unwrap()[0].user_id_group_pairs.clone().unwrap();
    assert_eq!(pair[0].vpc_peering_connection_id.as_deref(), Some(CONNECTION));
    assert_eq!(pair[0].peering_status.as_deref(), Some("active"));
    assert_eq!(pair[0].vpc_id.as_deref(), Some(vpc_id.as_str()));
    let references = api::DescribeSecurityGroupReferencesRequest {
        group_id: list(&[&group_id]),
        ..Default::default()
    };
    let seen = region.ok(describe_security_group_references, references);
    let seen = seen.security_group_reference_set.unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].vpc_peering_connection_id.as_deref(), Some(CONNECTION));

    let own = region.run(|call| Ok(vpc::default_vpc(call)?.id.clone())).unwrap();
    let stale = || {
        let input = api::DescribeStaleSecurityGroupsRequest {
            vpc_id: Some(own.clone()),
            ..Default::default()
        };
        region.ok(describe_stale_security_groups, input).stale_security_group_set.unwrap()
    };
    assert_eq!(stale(), []);
    put_connection(&region, ACCOUNT, &vpc_id, "deleted");
    let found = stale();
    assert_eq!(found.len(), 1);
    let permission = &found[0].stale_ip_permissions.as_ref().unwrap()[0];
    let pair = &permission.user_id_group_pairs.as_ref().unwrap()[0];
    assert_eq!(pair.peering_status.as_deref(), Some("deleted"));
    // A stale rule can be taken away as it is shown.
    let shown = show(&region, &id).ip_permissions.unwrap();
    region.ok(change::revoke_ingress, revocation(&id, shown));
    assert_eq!(stale(), []);
}

#[test]
fn a_group_of_another_account_needs_the_account_and_a_connection() {
    let region = Region::new();
    let id = create(&region, "web");
    let (vpc_id, group_id) = other_vpc(&region, OTHER);
    put_connection(&region, OTHER, &vpc_id, "active");
    let unnamed = ingress(&id, vec![from_peer(None, &group_id)]);
    let refusal = region.refused(change::authorize_ingress, unnamed);
    assert_eq!(
        refusal,
        format!("InvalidGroup.NotFound: The security group '{group_id}' does not exist")
    );
    let named = ingress(&id, vec![from_peer(Some(OTHER), &group_id)]);
    let rules = region.ok(change::authorize_ingress, named).security_group_rules.unwrap();
    let info = rules[0].referenced_group_info.clone().unwrap();
    assert_eq!(info.user_id.as_deref(), Some(OTHER));
    let shown = names(&region, vec![filter("ip-permission.user-id", &[OTHER])]);
    assert_eq!(shown, ["web"]);
    // Who is named sees by whom.
    let references = region
        .run_as(region.name, OTHER, |call| {
            let input = api::DescribeSecurityGroupReferencesRequest {
                group_id: list(&[&group_id]),
                ..Default::default()
            };
            describe_security_group_references(call, input)
        })
        .unwrap();
    assert_eq!(references.security_group_reference_set.unwrap().len(), 1);
    // And may delete the group nevertheless; the rule is stale then.
    let at = keys::of(region.name, keys::SECURITY_GROUP, OTHER, &group_id);
    region
        .run(|call| {
            call.delete(&at);
            Ok(())
        })
        .unwrap();
    let own = region.run(|call| Ok(vpc::default_vpc(call)?.id.clone())).unwrap();
    let input = api::DescribeStaleSecurityGroupsRequest { vpc_id: Some(own), ..Default::default() };
    let stale = region.ok(describe_stale_security_groups, input);
    assert_eq!(stale.stale_security_group_set.unwrap().len(), 1);
}

#[test]
fn the_groups_of_a_vpc() {
    let region = Region::new();
    let id = create(&region, "web");
    other_vpc(&region, ACCOUNT);
    let own = region.run(|call| Ok(vpc::default_vpc(call)?.id.clone())).unwrap();
    let groups = |filters| {
        let input = api::GetSecurityGroupsForVpcRequest {
            vpc_id: Some(own.clone()),
            filters,
            ..Default::default()
        };
        region.ok(get_security_groups_for_vpc, input).security_group_for_vpcs.unwrap()
    };
    assert_eq!(groups(None).len(), 2);
    let found = groups(Some(vec![filter("group-name", &["w*"])]));
    assert_eq!(found[0].group_id.as_deref(), Some(id.as_str()));
    assert_eq!(found[0].primary_vpc_id.as_deref(), Some(own.as_str()));
}

#[test]
#[should_panic(expected = "a request alone cannot meet a conflict")]
fn a_group_that_another_request_names_meanwhile_is_not_deleted() {
    let region = Region::new();
    let (db, web) = (create(&region, "db"), create(&region, "web"));
    let deletion = api::DeleteSecurityGroupRequest { group_id: text(&web), ..Default::default() };
    region.ok(
        |call, deletion| {
            let done = delete_security_group(call, deletion);
            // It was not there when the deletion looked, and it is when that is to be committed.
            region.ok(change::authorize_ingress, ingress(&db, vec![from_group(&web)]));
            done
        },
        deletion,
    );
}
