use super::*;
use crate::record::Vpc;
use crate::testing::{Region, filter};

fn default_vpc(region: &Region) -> Arc<Vpc> {
    region.run(|call| vpc::default_vpc(call)).unwrap()
}

fn create(region: &Region, vpc_id: &str) -> String {
    let input =
        api::CreateNetworkAclRequest { vpc_id: Some(vpc_id.to_owned()), ..Default::default() };
    region.ok(create_network_acl, input).network_acl.unwrap().network_acl_id.unwrap()
}

fn described(region: &Region, filters: Vec<api::Filter>) -> Vec<api::NetworkAcl> {
    let input = api::DescribeNetworkAclsRequest { filters: Some(filters), ..Default::default() };
    region.ok(describe::describe_network_acls, input).network_acls.unwrap()
}

/// An entry that allows SSH from everywhere.
fn ssh(acl: &str, number: i32) -> api::CreateNetworkAclEntryRequest {
    api::CreateNetworkAclEntryRequest {
        network_acl_id: Some(acl.to_owned()),
        rule_number: Some(number),
        egress: Some(false),
        protocol: Some("6".to_owned()),
        rule_action: Some("allow".to_owned()),
        cidr_block: Some("0.0.0.0/0".to_owned()),
        port_range: Some(api::PortRange { from: Some(22), to: Some(22) }),
        ..Default::default()
    }
}

fn numbers(acl: &api::NetworkAcl) -> Vec<(bool, i32)> {
    let entries = acl.entries.iter().flatten();
    entries.map(|entry| (entry.egress.unwrap(), entry.rule_number.unwrap())).collect()
}

#[test]
fn the_default_acl_lets_everything_pass() {
    let region = Region::new();
    let found = described(&region, vec![filter("default", &["true"])]);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].associations.as_ref().unwrap().len(), 6);
    assert_eq!(numbers(&found[0]), [(true, 100), (true, 32767), (false, 100), (false, 32767)]);
    let delete = api::DeleteNetworkAclRequest {
        network_acl_id: found[0].network_acl_id.clone(),
        ..Default::default()
    };
    let error = region.refused(delete_network_acl, delete);
    assert!(error.starts_with("InvalidParameterValue: cannot delete default network ACL"));
}

#[test]
fn entries_are_made_replaced_and_deleted() {
    let region = Region::new();
    let acl = create(&region, &default_vpc(&region).id);
    region.ok(entry::create_network_acl_entry, ssh(&acl, 100));
    assert_eq!(
        region.refused(entry::create_network_acl_entry, ssh(&acl, 100)),
        "NetworkAclEntryAlreadyExists: The network acl entry identified by 100 already exists."
    );
    let out = api::CreateNetworkAclEntryRequest { egress: Some(true), ..ssh(&acl, 100) };
    region.ok(entry::create_network_acl_entry, out);
    let found = described(
        &region,
        vec![
            filter("entry.port-range.from", &["22"]),
            filter("entry.protocol", &["6"]),
            filter("entry.rule-action", &["allow"]),
            filter("entry.cidr", &["0.0.0.0/0"]),
            filter("default", &["false"]),
        ],
    );
    assert_eq!(numbers(&found[0]), [(true, 100), (true, 32767), (false, 100), (false, 32767)]);
    let replacement = |number| api::ReplaceNetworkAclEntryRequest {
        network_acl_id: Some(acl.clone()),
        rule_number: Some(number),
        egress: Some(false),
        protocol: Some("58".to_owned()),
        rule_action: Some("deny".to_owned()),
        ipv6_cidr_block: Some("fd00::5/64".to_owned()),
        icmp_type_code: Some(api::IcmpTypeCode { code: Some(-1), type_: Some(128) }),
        ..Default::default()
    };
    region.ok(entry::replace_network_acl_entry, replacement(100));
    let found = described(
        &region,
        vec![
            filter("entry.icmp.type", &["128"]),
            filter("entry.icmp.code", &["-1"]),
            filter("entry.ipv6-cidr", &["fd00::/64"]),
        ],
    );
    assert_eq!(found.len(), 1);
    let delete = |number| api::DeleteNetworkAclEntryRequest {
        network_acl_id: Some(acl.clone()),
        rule_number: Some(number),
        egress: Some(false),
        ..Default::default()
    };
    region.ok(entry::delete_network_acl_entry, delete(100));
    let missing = "InvalidNetworkAclEntry.NotFound: no ingress entry with number 100";
    assert_eq!(region.refused(entry::delete_network_acl_entry, delete(100)), missing);
    assert_eq!(region.refused(entry::replace_network_acl_entry, replacement(100)), missing);
    let reserved = region.refused(entry::delete_network_acl_entry, delete(32_767));
    assert!(reserved.starts_with("InvalidParameterValue: "), "{reserved}");
}

#[test]
fn entries_are_checked() {
    type Change = fn(&mut api::CreateNetworkAclEntryRequest);
    let region = Region::new();
    let acl = create(&region, &default_vpc(&region).id);
    let cases: &[(&str, Change)] = &[
        ("InvalidParameterValue", |r| r.rule_number = Some(0)),
        ("InvalidParameterValue", |r| r.rule_number = Some(32_767)),
        ("InvalidParameterValue", |r| r.protocol = Some("tcp".to_owned())),
        ("InvalidParameterValue", |r| r.protocol = Some("256".to_owned())),
        ("InvalidParameterValue", |r| r.cidr_block = Some("10.0.0.0".to_owned())),
        ("InvalidParameterValue", |r| r.cidr_block = Some("fd00::/64".to_owned())),
        ("InvalidParameterCombination", |r| r.ipv6_cidr_block = Some("fd00::/64".to_owned())),
        ("MissingParameter", |r| r.cidr_block = None),
        ("MissingParameter", |r| r.port_range = None),
        ("InvalidParameterValue", |r| {
            r.port_range = Some(api::PortRange { from: Some(23), to: Some(22) });
        }),
        ("InvalidParameterValue", |r| {
            r.port_range = Some(api::PortRange { from: Some(0), to: Some(65_536) });
        }),
        ("MissingParameter", |r| r.protocol = Some("1".to_owned())),
        ("InvalidParameterValue", |r| {
            r.protocol = Some("1".to_owned());
            r.icmp_type_code = Some(api::IcmpTypeCode { code: Some(3), type_: Some(-1) });
        }),
        ("InvalidNetworkAclID.NotFound", |r| {
            r.network_acl_id = Some("acl-00000000000000000".to_owned());
        }),
        ("InvalidNetworkAclId.Malformed", |r| r.network_acl_id = Some("x".to_owned())),
    ];
    for (index, (code, change)) in cases.iter().enumerate() {
        let mut input = ssh(&acl, 100);
        change(&mut input);
        let error = region.refused(entry::create_network_acl_entry, input);
        assert!(error.starts_with(&format!("{code}: ")), "{index}: {error}");
    }
    // Ports mean nothing to all protocols together.
    let all = api::CreateNetworkAclEntryRequest { protocol: Some("-1".to_owned()), ..ssh(&acl, 1) };
    region.ok(entry::create_network_acl_entry, all);
    let found = region.run(|call| find(call, &acl)).unwrap();
    assert_eq!((found.entries.len(), found.entries[0].ports), (1, None));
}

#[test]
fn an_acl_has_so_many_entries_and_a_vpc_so_many_acls() {
    let region = Region::new();
    let vpc = default_vpc(&region);
    let acl = create(&region, &vpc.id);
    for number in 1..=20 {
        region.ok(entry::create_network_acl_entry, ssh(&acl, number));
    }
    let error = region.refused(entry::create_network_acl_entry, ssh(&acl, 21));
    assert!(error.starts_with("NetworkAclEntryLimitExceeded: "), "{error}");
    let other_direction = api::CreateNetworkAclEntryRequest { egress: Some(true), ..ssh(&acl, 21) };
    region.ok(entry::create_network_acl_entry, other_direction);
    let other_family = api::CreateNetworkAclEntryRequest {
        cidr_block: None,
        ipv6_cidr_block: Some("::/0".to_owned()),
        ..ssh(&acl, 21)
    };
    region.ok(entry::create_network_acl_entry, other_family);
    region
        .run(|call| {
            for _ in 0..198 {
                let id = call.new_id("acl");
                let record = NetworkAcl {
                    v: 1,
                    id: id.clone(),
                    vpc_id: vpc.id.clone(),
                    is_default: false,
                    entries: Vec::new(),
                    associations: Vec::new(),
                    tags: Default::default(),
                };
                call.put(&ID.key(call, &id), record);
            }
            Ok(())
        })
        .unwrap();
    let input = api::CreateNetworkAclRequest { vpc_id: Some(vpc.id.clone()), ..Default::default() };
    assert_eq!(
        region.refused(create_network_acl, input),
        "NetworkAclLimitExceeded: The maximum number of network acls has been reached."
    );
}

#[test]
fn a_subnet_moves_to_another_acl() {
    let region = Region::new();
    let vpc = default_vpc(&region);
    let old = region.run(|call| find(call, &vpc.default_network_acl_id)).unwrap();
    let new = create(&region, &vpc.id);
    let replace = |association: &str, acl: &str| api::ReplaceNetworkAclAssociationRequest {
        association_id: Some(association.to_owned()),
        network_acl_id: Some(acl.to_owned()),
        ..Default::default()
    };
    let (association, subnet_id) =
        (old.associations[0].id.clone(), old.associations[0].subnet_id.clone());
    let moved = region.ok(replace_network_acl_association, replace(&association, &new));
    let moved = moved.new_association_id.unwrap();
    let subnet = region.run(|call| subnet::find_subnet(call, &subnet_id)).unwrap();
    assert_eq!(subnet.network_acl_id, new);
    let record = region.run(|call| find(call, &new)).unwrap();
    assert_eq!(record.associations, [Association { id: moved.clone(), subnet_id }]);
    assert_eq!(region.run(|call| find(call, &old.id)).unwrap().associations.len(), 5);
    // To where it is already: a new association all the same.
    let again = region.ok(replace_network_acl_association, replace(&moved, &new));
    assert_ne!(again.new_association_id.as_ref(), Some(&moved));
    assert_eq!(region.run(|call| find(call, &new)).unwrap().associations.len(), 1);
    let gone = region.refused(replace_network_acl_association, replace(&association, &new));
    assert!(gone.starts_with("InvalidAssociationID.NotFound: "), "{gone}");
    let delete =
        api::DeleteNetworkAclRequest { network_acl_id: Some(new.clone()), ..Default::default() };
    assert_eq!(
        region.refused(delete_network_acl, delete),
        format!(
            "DependencyViolation: The networkAcl '{new}' has dependencies and cannot be deleted."
        )
    );
    let other = region
        .run(|call| {
            let cidr = "10.0.0.0/16".parse().unwrap();
            Ok(vpc::stage(call, cidr, "default", Default::default()))
        })
        .unwrap();
    let foreign = replace(&again.new_association_id.unwrap(), &other.default_network_acl_id);
    let error = region.refused(replace_network_acl_association, foreign);
    assert!(error.starts_with("InvalidParameterValue: Network ACL acl-"), "{error}");
}
