use super::*;
use crate::record::{PeeringSide, VpcPeering};
use crate::subnet;
use crate::testing::{Region, filter, list};

fn create(region: &Region, cidr: &str) -> api::Vpc {
    let input = api::CreateVpcRequest { cidr_block: Some(cidr.to_owned()), ..Default::default() };
    region.ok(create_vpc, input).vpc.unwrap()
}

fn refused(region: &Region, cidr: &str) -> String {
    let input = api::CreateVpcRequest { cidr_block: Some(cidr.to_owned()), ..Default::default() };
    region.refused(create_vpc, input)
}

fn described(region: &Region, filters: Vec<api::Filter>) -> Vec<api::Vpc> {
    let input = api::DescribeVpcsRequest { filters: Some(filters), ..Default::default() };
    region.ok(describe::describe_vpcs, input).vpcs.unwrap()
}

fn associate(id: &str, cidr: Option<&str>) -> api::AssociateVpcCidrBlockRequest {
    api::AssociateVpcCidrBlockRequest {
        vpc_id: Some(id.to_owned()),
        cidr_block: cidr.map(str::to_owned),
        amazon_provided_ipv6_cidr_block: cidr.is_none().then_some(true),
        ..Default::default()
    }
}

fn delete(id: &str) -> api::DeleteVpcRequest {
    api::DeleteVpcRequest { vpc_id: Some(id.to_owned()), ..Default::default() }
}

/// The number of records that are about a VPC.
fn records(region: &Region, id: &str) -> usize {
    region
        .run(|call| {
            let snapshot = call.snapshot();
            let about = |kv: &store::KeyValue| {
                kv.key().contains(id) || String::from_utf8_lossy(kv.value()).contains(id)
            };
            Ok(snapshot.scan("/").filter(about).count())
        })
        .unwrap()
}

#[test]
fn the_default_vpc_is_described() {
    let region = Region::new();
    let found = described(
        &region,
        vec![
            filter("is-default", &["true"]),
            filter("cidr-block-association.state", &["associated"]),
            filter("owner-id", &["123456789012"]),
        ],
    );
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].cidr_block.as_deref(), Some("172.31.0.0/16"));
    assert_eq!(described(&region, vec![filter("cidr", &["10.0.0.0/16"])]), []);
    let id = found[0].vpc_id.clone().unwrap();
    let attribute = |name: &str| {
        let input = api::DescribeVpcAttributeRequest {
            attribute: Some(name.to_owned()),
            vpc_id: Some(id.clone()),
            ..Default::default()
        };
        region.ok(attribute::describe_vpc_attribute, input)
    };
    let on = Some(api::AttributeBooleanValue { value: Some(true) });
    assert_eq!(attribute("enableDnsHostnames").enable_dns_hostnames, on);
    assert_eq!(attribute("enableDnsSupport").enable_dns_support, on);
}

#[test]
fn unknown_ids_are_named() {
    let region = Region::new();
    for (id, error) in [
        (
            "vpc-00000000000000000",
            "InvalidVpcID.NotFound: The vpc ID 'vpc-00000000000000000' does not exist",
        ),
        ("x", "InvalidVpcID.Malformed: Invalid id: \"x\" (expecting \"vpc-...\")"),
    ] {
        let input = api::DescribeVpcsRequest { vpc_ids: list(&[id]), ..Default::default() };
        assert_eq!(region.refused(describe::describe_vpcs, input), error);
    }
}

#[test]
fn a_vpc_is_made_and_deleted_with_what_every_vpc_has() {
    let region = Region::new();
    let made = create(&region, "10.1.2.3/16");
    assert_eq!(made.cidr_block.as_deref(), Some("10.1.0.0/16"), "in its canonical form");
    assert_eq!(made.state.as_deref(), Some("pending"));
    let id = made.vpc_id.unwrap();
    let shown = described(&region, vec![filter("vpc-id", &[&id])]);
    assert_eq!(shown[0].state.as_deref(), Some("available"));
    region.ok(associate_for_test, (id.clone(), None));
    // VPC, route table, ACL, group, the claim of its name, IPv6 block.
    assert_eq!(records(&region, &id), 6);
    region.ok(delete::delete_vpc, delete(&id));
    assert_eq!(records(&region, &id), 0);
    let gone = region.refused(delete::delete_vpc, delete(&id));
    assert_eq!(gone, format!("InvalidVpcID.NotFound: The vpc ID '{id}' does not exist"));
}

fn associate_for_test(
    call: &mut Call<'_>,
    (id, cidr): (String, Option<&str>),
) -> Result<api::AssociateVpcCidrBlockResult, Error> {
    block::associate_vpc_cidr_block(call, associate(&id, cidr))
}

#[test]
fn a_vpc_that_something_hangs_on_stays() {
    let region = Region::new();
    let id = create(&region, "10.0.0.0/16").vpc_id.unwrap();
    let violation =
        format!("DependencyViolation: The vpc '{id}' has dependencies and cannot be deleted.");
    let vpc = region.run(|call| find_vpc(call, &id)).unwrap();
    let cidr = "10.0.0.0/24".parse().unwrap();
    let subnet_id = region
        .run(|call| {
            let subnet = subnet::new(call, &vpc, cidr, "us-east-1a", Tags::new());
            let id = subnet.id.clone();
            subnet::stage(call, subnet)?;
            Ok(id)
        })
        .unwrap();
    assert_eq!(region.refused(delete::delete_vpc, delete(&id)), violation);
    region
        .run(|call| {
            call.delete(&subnet::ID.key(call, &subnet_id));
            Ok(())
        })
        .unwrap();
    // Another table than the main one.
    let table = |id: &str| RouteTable {
        v: 1,
        id: id.to_owned(),
        vpc_id: vpc.id.clone(),
        main_association_id: None,
        associations: Vec::new(),
        propagating_gateways: Vec::new(),
        routes: Vec::new(),
        tags: Tags::new(),
    };
    let at = key::of("us-east-1", key::ROUTE_TABLE, crate::testing::ACCOUNT, "rtb-1");
    region.run(|call| Ok(call.put(&at, table("rtb-1")))).unwrap();
    assert_eq!(region.refused(delete::delete_vpc, delete(&id)), violation);
    region
        .run(|call| {
            call.delete(&at);
            Ok(())
        })
        .unwrap();
    // A peering that its owner asked for; not one that somebody else asks him for.
    let side = |account: &str, vpc_id: &str| PeeringSide {
        account: account.to_owned(),
        region: "us-east-1".to_owned(),
        vpc_id: vpc_id.to_owned(),
        resolved_by_other: false,
    };
    let (own, other) =
        (side(crate::testing::ACCOUNT, &id), side("210987654321", "vpc-0123456789abcdef0"));
    let put = |requester: &PeeringSide, accepter: &PeeringSide, status: &str| {
        let peering = VpcPeering {
            v: 1,
            id: "pcx-0123456789abcdef0".to_owned(),
            requester: requester.clone(),
            accepter: accepter.clone(),
            status: status.to_owned(),
            message: String::new(),
            expires: base::Timestamp(i64::MAX),
            ended: None,
            tags: Tags::new(),
            accepter_tags: Tags::new(),
        };
        region.run(|call| Ok(call.put(&key::vpc_peering(&peering.id), peering.clone()))).unwrap();
    };
    for (requester, accepter, status) in
        [(&own, &other, "pending-acceptance"), (&own, &other, "active"), (&other, &own, "active")]
    {
        put(requester, accepter, status);
        assert_eq!(region.refused(delete::delete_vpc, delete(&id)), violation, "{status}");
    }
    put(&other, &own, "pending-acceptance");
    region.ok(delete::delete_vpc, delete(&id));
    let default = region.run(|call| Ok(default_vpc(call)?.id.clone())).unwrap();
    assert!(region.refused(delete::delete_vpc, delete(&default)).contains("has dependencies"));
}

#[test]
fn blocks_of_a_new_vpc_are_checked() {
    let region = Region::new();
    for (cidr, code) in [
        ("", "MissingParameter: "),
        ("10.0.0.0", "InvalidParameterValue: Value (10.0.0.0) for parameter cidrBlock is invalid."),
        ("10.0.0.0/33", "InvalidParameterValue: "),
        ("10.0.0.0/15", "InvalidVpc.Range: The CIDR '10.0.0.0/15' is invalid."),
        ("10.0.0.0/29", "InvalidVpc.Range: "),
        ("127.0.0.0/16", "InvalidVpc.Range: "),
        ("169.254.0.0/20", "InvalidVpc.Range: "),
        ("224.0.0.0/16", "InvalidVpc.Range: "),
    ] {
        let error = refused(&region, cidr);
        assert!(error.starts_with(code), "{cidr}: {error}");
    }
    let host = api::CreateVpcRequest {
        cidr_block: Some("10.0.0.0/16".to_owned()),
        instance_tenancy: Some("host".to_owned()),
        ..Default::default()
    };
    assert!(region.refused(create_vpc, host).starts_with("InvalidParameterValue: Value (host)"));
    for number in 1..MAX_VPCS {
        create(&region, &format!("10.{number}.0.0/28"));
    }
    assert_eq!(
        refused(&region, "10.9.0.0/16"),
        "VpcLimitExceeded: The maximum number of VPCs has been reached."
    );
}

#[test]
fn blocks_are_added_within_the_rules() {
    let region = Region::new();
    let id = create(&region, "10.0.0.0/16").vpc_id.unwrap();
    let error = |cidr| region.refused(block::associate_vpc_cidr_block, associate(&id, Some(cidr)));
    for cidr in ["172.16.0.0/16", "192.168.0.0/24", "198.19.0.0/16"] {
        assert!(
            error(cidr).starts_with(&format!("InvalidVpc.Range: The CIDR '{cidr}' is restricted.")),
            "{}",
            error(cidr)
        );
    }
    for (cidr, text) in [
        ("10.0.128.0/20", "conflicts with the CIDR '10.0.0.0/16' of the VPC"),
        ("10.2.0.0/15", "is invalid"),
        ("169.254.0.0/16", "is invalid"),
    ] {
        assert!(error(cidr).contains(text), "{cidr}: {}", error(cidr));
    }
    let mut added = Vec::new();
    for cidr in ["10.2.0.0/16", "100.64.0.0/16", "203.0.113.0/24", "10.1.0.0/16"] {
        let result = region.ok(block::associate_vpc_cidr_block, associate(&id, Some(cidr)));
        let association = result.cidr_block_association.unwrap();
        assert_eq!(association.cidr_block.as_deref(), Some(cidr));
        added.push(association.association_id.unwrap());
    }
    assert_eq!(
        error("10.3.0.0/16"),
        format!(
            "CidrLimitExceeded: This network '{id}' has met its maximum number of allowed CIDRs: 5"
        )
    );
    let with = filter("cidr-block-association.cidr-block", &["100.64.0.0/16"]);
    let shown = described(&region, vec![with]);
    assert_eq!(shown[0].cidr_block_association_set.as_ref().unwrap().len(), 5);
    let remove =
        |id: &str| api::DisassociateVpcCidrBlockRequest { association_id: Some(id.to_owned()) };
    region.ok(block::disassociate_vpc_cidr_block, remove(&added[1]));
    let gone = region.refused(block::disassociate_vpc_cidr_block, remove(&added[1]));
    assert!(gone.starts_with("InvalidVpcCidrBlockAssociationID.NotFound: "), "{gone}");
    let vpc = region.run(|call| find_vpc(call, &id)).unwrap();
    let primary =
        region.refused(block::disassociate_vpc_cidr_block, remove(&vpc.cidr_association_id));
    assert!(primary.starts_with("OperationNotPermitted: "), "{primary}");
    // A subnet keeps its block; a route to a part of it does, too.
    let cidr = "10.2.3.0/24".parse().unwrap();
    region
        .run(|call| {
            let subnet = subnet::new(call, &vpc, cidr, "us-east-1a", Tags::new());
            subnet::stage(call, subnet)
        })
        .unwrap();
    let used = region.refused(block::disassociate_vpc_cidr_block, remove(&added[0]));
    assert_eq!(
        used,
        format!(
            "InvalidCidrBlock.InUse: The vpc {id} currently has a subnet within CIDR block \
             10.2.0.0/16"
        )
    );
}

#[test]
fn restrictions_are_those_of_the_user_guide() {
    let restricted = |primary: &str, new: &str| {
        let (primary, new) = (primary.parse().unwrap(), new.parse().unwrap());
        block::is_restricted(primary, &[primary], new)
    };
    for (primary, new, expected) in [
        ("10.0.0.0/24", "10.0.1.0/24", true),
        ("10.1.0.0/16", "10.0.0.0/24", true),
        ("10.2.0.0/16", "10.0.0.0/16", false),
        ("10.2.0.0/16", "172.20.0.0/16", true),
        ("172.20.0.0/16", "172.21.0.0/16", false),
        ("172.20.0.0/16", "172.31.0.0/16", true),
        ("172.20.0.0/16", "10.0.0.0/16", true),
        ("192.168.0.0/24", "192.168.1.0/24", false),
        ("192.168.0.0/24", "10.0.0.0/24", true),
        ("192.168.0.0/24", "100.64.0.0/16", false),
        ("100.64.0.0/16", "10.0.0.0/16", true),
        ("100.64.0.0/16", "100.65.0.0/16", false),
        ("203.0.113.0/24", "198.51.100.0/24", false),
        ("203.0.113.0/24", "198.19.1.0/24", true),
    ] {
        assert_eq!(restricted(primary, new), expected, "{primary} {new}");
    }
}

#[test]
fn ipv6_blocks_are_the_regions_own_and_nobody_elses() {
    for name in ["us-east-1", "eu-west-1", "my-lab-1"] {
        let range = block::ipv6_range(name);
        assert_eq!(range.length(), 40);
        assert_eq!(range.network().octets()[0], 0xfd, "unique local");
        assert!(!range.overlaps(&"fd00:ec2::/32".parse().unwrap()));
    }
    assert_ne!(block::ipv6_range("us-east-1"), block::ipv6_range("us-east-2"));
    let region = Region::new();
    let id = create(&region, "10.0.0.0/16").vpc_id.unwrap();
    for _ in 0..5 {
        region.ok(block::associate_vpc_cidr_block, associate(&id, None));
    }
    let sixth = region.refused(block::associate_vpc_cidr_block, associate(&id, None));
    assert!(sixth.starts_with("CidrLimitExceeded: "), "{sixth}");
    let vpc = region.run(|call| find_vpc(call, &id)).unwrap();
    let blocks: std::collections::BTreeSet<_> = vpc.ipv6_cidrs.iter().map(|b| b.cidr).collect();
    assert_eq!(blocks.len(), 5);
    let range = block::ipv6_range("us-east-1");
    assert!(blocks.iter().all(|b| b.length() == 56 && range.contains(b.network())));
    // What was open for IPv4 is open for IPv6 now, once.
    let acl = region
        .run(|call| {
            let at =
                key::of(call.region, key::NETWORK_ACL, call.account(), &vpc.default_network_acl_id);
            Ok(call.get::<NetworkAcl>(&at)?.unwrap())
        })
        .unwrap();
    let numbers: Vec<_> = acl.entries.iter().map(|e| (e.egress, e.number)).collect();
    assert_eq!(numbers, [(false, 100), (true, 100), (false, 101), (true, 101)]);
    let group =
        region.run(|call| crate::security_group::find(call, &vpc.default_group_id)).unwrap();
    assert_eq!(group.rules.len(), 3);
    let filtered = described(
        &region,
        vec![
            filter("ipv6-cidr-block-association.ipv6-pool", &["Amazon"]),
            filter("ipv6-cidr-block-association.association-id", &[&vpc.ipv6_cidrs[2].id]),
        ],
    );
    assert_eq!(filtered.len(), 1);
    let input =
        api::DisassociateVpcCidrBlockRequest { association_id: Some(vpc.ipv6_cidrs[2].id.clone()) };
    region.ok(block::disassociate_vpc_cidr_block, input);
    assert_eq!(region.run(|call| find_vpc(call, &id)).unwrap().ipv6_cidrs.len(), 4);
}

#[test]
fn attributes_are_changed_one_at_a_time() {
    let region = Region::new();
    let id = create(&region, "10.0.0.0/16").vpc_id.unwrap();
    let value = |value| Some(api::AttributeBooleanValue { value: Some(value) });
    let input =
        || api::ModifyVpcAttributeRequest { vpc_id: Some(id.clone()), ..Default::default() };
    let modify = attribute::modify_vpc_attribute;
    let off = api::ModifyVpcAttributeRequest { enable_dns_support: value(false), ..input() };
    region.ok(modify, off);
    let names = api::ModifyVpcAttributeRequest { enable_dns_hostnames: value(true), ..input() };
    assert!(region.refused(modify, names).starts_with("InvalidParameterCombination: "));
    let usage = api::ModifyVpcAttributeRequest {
        enable_network_address_usage_metrics: value(true),
        ..input()
    };
    region.ok(modify, usage.clone());
    let two = api::ModifyVpcAttributeRequest { enable_dns_support: value(true), ..usage };
    for refused in [two, input()] {
        let error = region.refused(modify, refused);
        assert!(error.starts_with("InvalidParameterCombination: "), "{error}");
    }
    let vpc = region.run(|call| find_vpc(call, &id)).unwrap();
    assert!(!vpc.dns_support && !vpc.dns_hostnames && vpc.address_usage_metrics);
}

#[test]
fn dedicated_tenancy_is_refused() {
    let region = Region::new();
    let input = api::CreateVpcRequest {
        cidr_block: Some("10.0.0.0/16".to_owned()),
        instance_tenancy: Some("dedicated".to_owned()),
        ..Default::default()
    };
    assert_eq!(
        region.refused(create_vpc, input),
        "UnsupportedOperation: InstanceTenancy=dedicated is not built in gureum yet."
    );
    let made = create(&region, "10.0.0.0/16");
    assert_eq!(made.instance_tenancy.as_deref(), Some("default"));
    let modify = |tenancy: &str| api::ModifyVpcTenancyRequest {
        vpc_id: made.vpc_id.clone(),
        instance_tenancy: Some(tenancy.to_owned()),
        ..Default::default()
    };
    let error = region.refused(attribute::modify_vpc_tenancy, modify("dedicated"));
    assert!(error.starts_with("InvalidParameterValue: "), "{error}");
    region.ok(attribute::modify_vpc_tenancy, modify("default"));
}

#[test]
fn a_default_vpc_is_made_anew() {
    let region = Region::new();
    let request = api::CreateDefaultVpcRequest::default;
    assert_eq!(
        region.refused(create_default_vpc, request()),
        "DefaultVpcAlreadyExists: A Default VPC already exists for this account in this region."
    );
    let old = region.run(|call| default_vpc(call)).unwrap();
    region
        .run(|call| {
            // As a user does before: gateway off, subnets away.
            let vpc = Vpc { internet_gateway_id: None, ..Vpc::clone(&old) };
            call.put(&ID.key(call, &old.id), vpc);
            for subnet in call.scan::<crate::record::Subnet>(&subnet::ID.key(call, ""))? {
                call.delete(&subnet::ID.key(call, &subnet.id));
            }
            // Its options may be deleted, too.
            call.delete(&key::of(
                call.region,
                key::DHCP_OPTIONS,
                call.account(),
                &old.dhcp_options_id,
            ));
            Ok(())
        })
        .unwrap();
    region.ok(delete::delete_vpc, delete(&old.id));
    let made = region.ok(create_default_vpc, request()).vpc.unwrap();
    assert_eq!(made.is_default, Some(true));
    assert_ne!(made.dhcp_options_id.as_deref(), Some(old.dhcp_options_id.as_str()));
    let subnets = region.run(|call| call.scan::<crate::record::Subnet>("/us-east-1/subnet/"));
    assert_eq!(subnets.unwrap().len(), 6);
}
