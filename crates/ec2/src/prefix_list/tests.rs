//! Prefix lists as their handlers make them.

use super::*;
use crate::record::{Route, RouteOrigin};
use crate::testing::{ACCOUNT, Region, filter, list};

const NOBODY: &str = "pl-00000000000000000";

fn add(blocks: &[&str]) -> Option<Vec<api::AddPrefixListEntry>> {
    let entry = |block: &&str| api::AddPrefixListEntry {
        cidr: Some((*block).to_owned()),
        description: None,
    };
    Some(blocks.iter().map(entry).collect())
}

fn remove(blocks: &[&str]) -> Option<Vec<api::RemovePrefixListEntry>> {
    let entry = |block: &&str| api::RemovePrefixListEntry { cidr: Some((*block).to_owned()) };
    Some(blocks.iter().map(entry).collect())
}

fn request(max: i32, blocks: &[&str]) -> api::CreateManagedPrefixListRequest {
    api::CreateManagedPrefixListRequest {
        prefix_list_name: Some("offices".to_owned()),
        max_entries: Some(max),
        address_family: Some("IPv4".to_owned()),
        entries: add(blocks),
        ..Default::default()
    }
}

fn made(region: &Region, max: i32, blocks: &[&str]) -> String {
    let made = region.ok(create, request(max, blocks)).prefix_list.unwrap();
    made.prefix_list_id.unwrap()
}

fn change(id: &str) -> api::ModifyManagedPrefixListRequest {
    api::ModifyManagedPrefixListRequest {
        prefix_list_id: Some(id.to_owned()),
        ..Default::default()
    }
}

fn blocks(region: &Region, id: &str, version: Option<i64>) -> Vec<String> {
    let input = api::GetManagedPrefixListEntriesRequest {
        prefix_list_id: Some(id.to_owned()),
        target_version: version,
        ..Default::default()
    };
    let found = region.ok(entries, input).entries.unwrap();
    found.into_iter().filter_map(|entry| entry.cidr).collect()
}

#[test]
fn every_change_of_entries_is_a_version() {
    let region = Region::new();
    let id = made(&region, 3, &["10.1.2.3/16", "192.0.2.0/24"]);
    // Host bits are cleared.
    assert_eq!(blocks(&region, &id, None), ["10.1.0.0/16", "192.0.2.0/24"]);
    let input = api::ModifyManagedPrefixListRequest {
        current_version: Some(1),
        add_entries: add(&["198.51.100.0/24"]),
        remove_entries: remove(&["10.1.0.0/16"]),
        ..change(&id)
    };
    let changed = region.ok(modify, input.clone()).prefix_list.unwrap();
    assert_eq!((changed.version, changed.state.as_deref()), (Some(2), Some("modify-complete")));
    assert_eq!(
        region.refused(modify, input),
        "PrefixListVersionMismatch: The prefix list has the incorrect version number."
    );
    // A new name is no new version.
    let input = api::ModifyManagedPrefixListRequest {
        prefix_list_name: Some("homes".to_owned()),
        ..change(&id)
    };
    assert_eq!(region.ok(modify, input).prefix_list.unwrap().version, Some(2));
    let input = api::RestoreManagedPrefixListVersionRequest {
        prefix_list_id: Some(id.clone()),
        previous_version: Some(1),
        current_version: Some(2),
        ..Default::default()
    };
    let restored = region.ok(restore, input.clone()).prefix_list.unwrap();
    assert_eq!((restored.version, restored.state.as_deref()), (Some(3), Some("restore-complete")));
    assert_eq!(blocks(&region, &id, None), ["10.1.0.0/16", "192.0.2.0/24"]);
    assert_eq!(blocks(&region, &id, Some(2)), ["192.0.2.0/24", "198.51.100.0/24"]);
    assert!(region.refused(restore, input).starts_with("PrefixListVersionMismatch: "));
    let input = api::RestoreManagedPrefixListVersionRequest {
        prefix_list_id: Some(id.clone()),
        previous_version: Some(9),
        current_version: Some(3),
        ..Default::default()
    };
    assert_eq!(
        region.refused(restore, input),
        format!("InvalidPrefixListVersion.NotFound: The prefix list {id} has no version 9.")
    );
}

#[test]
fn changes_are_checked() {
    let region = Region::new();
    let id = made(&region, 2, &["10.0.0.0/8"]);
    let cases = [
        (
            api::ModifyManagedPrefixListRequest {
                add_entries: add(&["10.1.0.0/16", "10.2.0.0/16"]),
                ..change(&id)
            },
            "PrefixListMaxEntriesExceeded: You've reached the maximum number of entries for the \
             prefix list."
                .to_owned(),
        ),
        (
            api::ModifyManagedPrefixListRequest {
                add_entries: add(&["10.1.0.0/16"]),
                max_entries: Some(5),
                ..change(&id)
            },
            "InvalidParameterCombination: You cannot modify the entries and the maximum entries \
             for the prefix list in the same request."
                .to_owned(),
        ),
        (
            api::ModifyManagedPrefixListRequest {
                add_entries: add(&["10.0.0.0/8"]),
                remove_entries: remove(&["10.0.0.0/8"]),
                ..change(&id)
            },
            "InvalidRequest: The request received was invalid.".to_owned(),
        ),
        (
            api::ModifyManagedPrefixListRequest {
                remove_entries: remove(&["10.9.0.0/16"]),
                ..change(&id)
            },
            format!(
                "InvalidPrefixListModification: The CIDR 10.9.0.0/16 is not in the prefix list \
                 {id}."
            ),
        ),
        (
            api::ModifyManagedPrefixListRequest { add_entries: add(&["fd00::/8"]), ..change(&id) },
            "InvalidParameterValue: The CIDR (fd00::/8) is not of the address family of the prefix \
             list: IPv4."
                .to_owned(),
        ),
        (
            api::ModifyManagedPrefixListRequest { add_entries: add(&["x"]), ..change(&id) },
            "InvalidParameterValue: The CIDR (x) is invalid.".to_owned(),
        ),
        (
            api::ModifyManagedPrefixListRequest {
                add_entries: add(&["10.1.0.0/16", "10.1.0.9/16"]),
                ..change(&id)
            },
            "InvalidParameterValue: You cannot specify the same CIDR more than once: 10.1.0.0/16."
                .to_owned(),
        ),
        (
            api::ModifyManagedPrefixListRequest { max_entries: Some(1_001), ..change(&id) },
            "InvalidParameterValue: Value (1001) for parameter MaxEntries is invalid. Must specify \
             a max size between 1 and 1000."
                .to_owned(),
        ),
        (
            change(NOBODY),
            format!("InvalidPrefixListID.NotFound: The prefix list ID '{NOBODY}' does not exist"),
        ),
        (
            change("x"),
            "InvalidPrefixListId.Malformed: Invalid id: \"x\" (expecting \"pl-...\")".to_owned(),
        ),
    ];
    for (input, error) in cases {
        assert_eq!(region.refused(modify, input), error);
    }
    assert_eq!(blocks(&region, &id, None), ["10.0.0.0/8"]);
    let many: Vec<String> = (0..101).map(|n| format!("10.{n}.0.0/16")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(
        region.refused(create, request(200, &many)),
        "InvalidParameterValue: The number of entries per request cannot exceeds limit (100)."
    );
    let named = api::CreateManagedPrefixListRequest {
        prefix_list_name: Some("com.amazonaws.mine".to_owned()),
        ..request(1, &[])
    };
    assert!(region.refused(create, named).contains("cannot start with com.amazonaws"));
    let family = api::CreateManagedPrefixListRequest {
        address_family: Some("IPv5".to_owned()),
        ..request(1, &[])
    };
    assert!(region.refused(create, family).starts_with("InvalidParameterValue: Value (IPv5)"));
}

#[test]
fn a_description_is_changed_by_adding_the_block_again() {
    let region = Region::new();
    let id = made(&region, 1, &["10.0.0.0/8"]);
    let input = api::ModifyManagedPrefixListRequest {
        add_entries: Some(vec![api::AddPrefixListEntry {
            cidr: Some("10.0.0.0/8".to_owned()),
            description: Some("all of it".to_owned()),
        }]),
        ..change(&id)
    };
    assert_eq!(region.ok(modify, input).prefix_list.unwrap().version, Some(2));
    assert_eq!(blocks(&region, &id, None), ["10.0.0.0/8"]);
}

#[test]
fn a_list_that_is_used_stays() {
    let region = Region::new();
    let id = made(&region, 2, &["10.0.0.0/8"]);
    let (table, group) = region
        .run(|call| {
            let vpc = crate::vpc::default_vpc(call)?;
            let at = key::of(call.region, key::ROUTE_TABLE, ACCOUNT, &vpc.main_route_table_id);
            let mut table = RouteTable::clone(&*call.get::<RouteTable>(&at)?.unwrap());
            table.routes.push(Route {
                destination: Destination::PrefixList(id.clone()),
                target: vpc.internet_gateway_id.clone().unwrap(),
                origin: RouteOrigin::CreateRoute,
            });
            call.put(&at, table);
            let at = key::of(call.region, key::SECURITY_GROUP, ACCOUNT, &vpc.default_group_id);
            let mut group = SecurityGroup::clone(&*call.get::<SecurityGroup>(&at)?.unwrap());
            group.rules[0].peer = RulePeer::PrefixList(id.clone());
            call.put(&at, group);
            Ok((vpc.main_route_table_id.clone(), vpc.default_group_id.clone()))
        })
        .unwrap();
    let input = api::DeleteManagedPrefixListRequest {
        prefix_list_id: Some(id.clone()),
        ..Default::default()
    };
    assert_eq!(
        region.refused(delete, input),
        format!(
            "DependencyViolation: The prefix list '{id}' has dependencies and cannot be deleted: \
             {table}, {group}."
        )
    );
    let input = api::GetManagedPrefixListAssociationsRequest {
        prefix_list_id: Some(id.clone()),
        ..Default::default()
    };
    let used = region.ok(associations, input).prefix_list_associations.unwrap();
    let used: Vec<String> = used.into_iter().filter_map(|one| one.resource_id).collect();
    assert_eq!(used, [table, group]);
    // The table has no room for a longer one.
    let input = api::ModifyManagedPrefixListRequest { max_entries: Some(50), ..change(&id) };
    assert_eq!(
        region.refused(modify, input),
        "RouteLimitExceeded: The maximum number of routes has been reached."
    );
    let input = api::ModifyManagedPrefixListRequest { max_entries: Some(49), ..change(&id) };
    assert_eq!(region.ok(modify, input).prefix_list.unwrap().max_entries, Some(49));
}

#[test]
fn lists_of_aws_are_there_and_cannot_be_changed() {
    let region = Region::new();
    let id = id_of_service("com.amazonaws.us-east-1.s3");
    let found = region.ok(describe_of_aws, api::DescribePrefixListsRequest::default());
    let found = found.prefix_lists.unwrap();
    assert_eq!(found.len(), 2);
    let s3 = found.iter().find(|list| list.prefix_list_id.as_ref() == Some(&id)).unwrap();
    assert_eq!(s3.prefix_list_name.as_deref(), Some("com.amazonaws.us-east-1.s3"));
    assert_eq!(s3.cidrs, list(&["203.0.113.1/32"]));
    assert_eq!(blocks(&region, &id, None), ["203.0.113.1/32"]);
    let asked = |name: &str, value: &str| {
        let input = api::DescribeManagedPrefixListsRequest {
            filters: Some(vec![filter(name, &[value])]),
            ..Default::default()
        };
        region.ok(describe, input).prefix_lists.unwrap()
    };
    let own = made(&region, 1, &[]);
    let found = asked("owner-id", "AWS");
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|list| list.version.is_none() && list.max_entries.is_none()));
    let found = asked("owner-id", ACCOUNT);
    assert_eq!(found[0].prefix_list_id.as_ref(), Some(&own));
    assert_eq!(
        found[0].prefix_list_arn,
        Some(format!("arn:aws:ec2:us-east-1:{ACCOUNT}:prefix-list/{own}"))
    );
    assert_eq!(asked("prefix-list-name", "com.amazonaws.us-east-1.s3").len(), 1);
    let input = api::DeleteManagedPrefixListRequest {
        prefix_list_id: Some(id.clone()),
        ..Default::default()
    };
    assert!(region.refused(delete, input).starts_with("OperationNotPermitted: "));
    // Another region's has another id.
    assert_ne!(id, id_of_service("com.amazonaws.us-east-2.s3"));
    assert!(base::id::is_valid("pl", &id));
}

#[test]
fn a_route_to_a_list_of_aws_leads_its_packets() {
    let region = Region::new();
    region.driver.with_network();
    region.ok(crate::launch::run_instances, crate::instance::tests::request(&region));
    let id = id_of_service("com.amazonaws.us-east-1.s3");
    let main = region.run(|call| crate::vpc::default_vpc(call)).unwrap();
    region
        .run(|call| {
            let at = key::of(call.region, key::ROUTE_TABLE, ACCOUNT, &main.main_route_table_id);
            let mut table = RouteTable::clone(&*call.get::<RouteTable>(&at)?.unwrap());
            table.routes = vec![Route {
                destination: Destination::PrefixList(id),
                target: main.internet_gateway_id.clone().unwrap(),
                origin: RouteOrigin::CreateRoute,
            }];
            call.put(&at, table);
            Ok(())
        })
        .unwrap();
    region.run(|call| (crate::network_plan::RECONCILER.run)(call, "/node-network")).unwrap();
    let plan = region.driver.network().unwrap();
    let table = &plan.vpcs[0].route_tables[0];
    assert_eq!(table.id, main.main_route_table_id);
    let routes: Vec<String> = table.routes.iter().map(|r| r.destination.to_string()).collect();
    assert_eq!(routes, ["203.0.113.1/32"]);
    assert_eq!(table.routes[0].target, base::network::Target::InternetGateway);
}

#[test]
fn a_region_has_so_many_lists() {
    let region = Region::new();
    for _ in 0..MAX_LISTS {
        made(&region, 1, &[]);
    }
    assert_eq!(
        region.refused(create, request(1, &[])),
        "PrefixListLimitExceeded: The maximum number of prefix lists has been reached."
    );
}

#[test]
fn a_long_list_keeps_fewer_versions() {
    let entries = |count: u32, mark: &str| -> Vec<PrefixListEntry> {
        let entry = |index: u32| PrefixListEntry {
            cidr: Cidr::V4(Ipv4Cidr::containing((0x0a00_0000 + index).into(), 32)),
            description: Some(mark.repeat(MAX_TEXT)),
        };
        (0..count).map(entry).collect()
    };
    let [mut list, _] = of_aws("us-east-1", None);
    for turn in 0..20 {
        add_version(&mut list, entries(MAX_ENTRIES, if turn % 2 == 0 { "\u{1f600}" } else { "x" }));
        assert_eq!(list.entries().len(), MAX_ENTRIES as usize);
        let bytes = serde_json::to_vec(&list).unwrap().len();
        assert!(bytes <= 2 * MAX_HISTORY, "version {} of {bytes} bytes", version(&list));
    }
    assert_eq!(version(&list), 21);
    // Short ones stay until there are too many.
    let [mut list, _] = of_aws("us-east-1", None);
    for _ in 0..MAX_VERSIONS {
        add_version(&mut list, entries(1, ""));
    }
    assert_eq!(list.versions.len(), MAX_VERSIONS);
    assert_eq!(list.versions.first_key_value().map(|(version, _)| *version), Some(2));
}
