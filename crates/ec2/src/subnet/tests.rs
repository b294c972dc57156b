use super::*;
use crate::testing::{ACCOUNT, Region, filter, list};
use model::ec2 as api;

fn subnets(region: &Region, filters: Vec<api::Filter>) -> Vec<api::Subnet> {
    let input = api::DescribeSubnetsRequest { filters: Some(filters), ..Default::default() };
    region.ok(describe::describe_subnets, input).subnets.unwrap()
}

/// A VPC of 10.0.0.0/16 with an IPv6 block.
fn new_vpc(region: &Region) -> Arc<Vpc> {
    region
        .run(|call| {
            let cidr = "10.0.0.0/16".parse().unwrap();
            let mut vpc = vpc::stage(call, cidr, "default", Tags::new());
            vpc.ipv6_cidrs.push(crate::record::CidrAssociation {
                id: call.new_id("vpc-cidr-assoc"),
                cidr: "fd12:3456:7800:100::/56".parse().unwrap(),
            });
            Ok(call.put(&vpc::ID.key(call, &vpc.id), vpc))
        })
        .unwrap()
}

fn request(vpc: &Vpc, cidr: &str) -> api::CreateSubnetRequest {
    api::CreateSubnetRequest {
        vpc_id: Some(vpc.id.clone()),
        cidr_block: Some(cidr.to_owned()),
        ..Default::default()
    }
}

fn create(region: &Region, input: api::CreateSubnetRequest) -> String {
    region.ok(create::create_subnet, input).subnet.unwrap().subnet_id.unwrap()
}

fn claim(region: &Region, vpc_id: &str, addresses: &[&str]) {
    region
        .run(|call| {
            for address in addresses {
                let claim = key::private_address(call.region, ACCOUNT, vpc_id, address);
                call.put(&claim, "eni-1".to_owned());
            }
            Ok(())
        })
        .unwrap();
}

fn available(region: &Region, id: &str) -> i32 {
    subnets(region, vec![filter("subnet-id", &[id])])[0].available_ip_address_count.unwrap()
}

#[test]
fn available_addresses_are_counted() {
    let region = Region::new();
    let found = subnets(&region, vec![filter("availability-zone", &["us-east-1b"])]);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].available_ip_address_count, Some(4091));
    let vpc_id = found[0].vpc_id.clone().unwrap();
    // Two in the subnet, one in another.
    claim(&region, &vpc_id, &["172.31.16.4", "172.31.31.254", "172.31.32.4"]);
    let counted = filter("available-ip-address-count", &["4089"]);
    let found = subnets(&region, vec![counted]);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].availability_zone.as_deref(), Some("us-east-1b"));
}

#[test]
fn launches_find_the_default_subnet() {
    let region = Region::new();
    let choose = |zone: Option<&str>| {
        region.run(|call| default_subnet(call, zone)).map(|s| s.availability_zone.clone())
    };
    assert_eq!(choose(Some("us-east-1c")).unwrap(), "us-east-1c");
    assert!(choose(None).unwrap().starts_with("us-east-1"));
    assert_eq!(
        choose(Some("us-east-1x")).unwrap_err().to_string(),
        "InvalidParameterValue: Invalid availability zone: [us-east-1x]"
    );
}

#[test]
fn filters_and_ids() {
    let region = Region::new();
    assert_eq!(subnets(&region, vec![filter("default-for-az", &["true"])]).len(), 6);
    assert_eq!(subnets(&region, vec![filter("defaultForAz", &["false"])]).len(), 0);
    assert_eq!(subnets(&region, vec![filter("availability-zone-id", &["use1-az*"])]).len(), 6);
    let describe = |ids: &[&str]| {
        let input = api::DescribeSubnetsRequest { subnet_ids: list(ids), ..Default::default() };
        region.refused(describe::describe_subnets, input)
    };
    assert_eq!(
        describe(&["subnet-00000001", "subnet-00000002"]),
        "InvalidSubnetID.NotFound: The subnet IDs 'subnet-00000001, subnet-00000002' do not exist"
    );
    assert_eq!(
        describe(&["x"]),
        "InvalidSubnetID.Malformed: Invalid id: \"x\" (expecting \"subnet-...\")"
    );
}

#[test]
fn a_subnet_is_made_and_deleted() {
    let region = Region::new();
    let vpc = new_vpc(&region);
    let input = api::CreateSubnetRequest {
        availability_zone_id: Some("use1-az3".to_owned()),
        ipv6_cidr_block: Some("fd12:3456:7800:101::/64".to_owned()),
        ..request(&vpc, "10.0.1.9/24")
    };
    let made = region.ok(create::create_subnet, input).subnet.unwrap();
    assert_eq!(made.cidr_block.as_deref(), Some("10.0.1.0/24"));
    assert_eq!(made.availability_zone.as_deref(), Some("us-east-1c"));
    assert_eq!(made.available_ip_address_count, Some(251));
    assert_eq!(made.map_public_ip_on_launch, Some(false));
    let id = made.subnet_id.unwrap();
    let by_block =
        filter("ipv6-cidr-block-association.ipv6-cidr-block", &["fd12:3456:7800:101::/64"]);
    assert_eq!(subnets(&region, vec![by_block])[0].subnet_id.as_ref(), Some(&id));
    let acl = |region: &Region| {
        let at = key::of("us-east-1", key::NETWORK_ACL, ACCOUNT, &vpc.default_network_acl_id);
        region.run(|call| call.get::<NetworkAcl>(&at)).unwrap().unwrap()
    };
    assert_eq!(acl(&region).associations[0].subnet_id, id);
    let delete = || api::DeleteSubnetRequest { subnet_id: Some(id.clone()), dry_run: None };
    claim(&region, &vpc.id, &["10.0.1.77"]);
    assert_eq!(
        region.refused(delete::delete_subnet, delete()),
        format!("DependencyViolation: The subnet '{id}' has dependencies and cannot be deleted.")
    );
    region
        .run(|call| {
            call.delete(&key::private_address(call.region, ACCOUNT, &vpc.id, "10.0.1.77"));
            Ok(())
        })
        .unwrap();
    claim(&region, &vpc.id, &["10.0.2.77"]);
    region.ok(delete::delete_subnet, delete());
    assert_eq!(acl(&region).associations, []);
    let gone = region.refused(delete::delete_subnet, delete());
    assert_eq!(gone, format!("InvalidSubnetID.NotFound: The subnet ID '{id}' does not exist"));
}

#[test]
fn blocks_and_zones_are_checked() {
    let region = Region::new();
    let vpc = new_vpc(&region);
    create(&region, request(&vpc, "10.0.0.0/24"));
    let error = |input| region.refused(create::create_subnet, input);
    for (cidr, expected) in [
        (
            "10.0.0.128/25",
            "InvalidSubnet.Conflict: The CIDR '10.0.0.128/25' conflicts with another",
        ),
        ("10.0.0.0/16", "InvalidSubnet.Conflict: "),
        ("10.1.0.0/24", "InvalidSubnet.Range: The CIDR '10.1.0.0/24' is invalid."),
        ("10.0.2.0/29", "InvalidSubnet.Range: "),
        ("10.0.0.0/15", "InvalidSubnet.Range: "),
        ("10.0.2.0", "InvalidParameterValue: Value (10.0.2.0) for parameter cidrBlock is invalid."),
        ("", "MissingParameter: "),
    ] {
        let error = error(request(&vpc, cidr));
        assert!(error.starts_with(expected), "{cidr}: {error}");
    }
    let nowhere = api::CreateSubnetRequest {
        availability_zone: Some("us-east-1z".to_owned()),
        ..request(&vpc, "10.0.1.0/24")
    };
    assert!(error(nowhere).starts_with(
        "InvalidParameterValue: Value (us-east-1z) for parameter availabilityZone is invalid. \
         Subnets can currently only be created in the following availability zones: us-east-1a, "
    ));
    for (block, code) in [
        ("fd12:3456:7800:200::/64", "InvalidSubnet.Range: "),
        ("fd12:3456:7800:100::/52", "InvalidSubnet.Range: "),
        ("fd12:3456:7800:100::/65", "InvalidSubnet.Range: "),
        ("10.0.1.0/24", "InvalidParameterValue: "),
    ] {
        let error = error(api::CreateSubnetRequest {
            ipv6_cidr_block: Some(block.to_owned()),
            ..request(&vpc, "10.0.1.0/24")
        });
        assert!(error.starts_with(code), "{block}: {error}");
    }
    let ghost = api::CreateSubnetRequest {
        vpc_id: Some("vpc-00000000000000000".to_owned()),
        ..request(&vpc, "10.0.1.0/24")
    };
    assert!(error(ghost).starts_with("InvalidVpcID.NotFound: "));
    assert_eq!(subnets(&region, vec![filter("vpc-id", &[&vpc.id])]).len(), 1);
}

#[test]
fn a_vpc_has_so_many_subnets() {
    let region = Region::new();
    let vpc = new_vpc(&region);
    region
        .run(|call| {
            for index in 0..200 {
                let network = vpc.cidr.nth(index << 4).unwrap();
                let cidr = Ipv4Cidr::containing(network, 28);
                let subnet = new(call, &vpc, cidr, "us-east-1a", Tags::new());
                stage(call, subnet)?;
            }
            Ok(())
        })
        .unwrap();
    let error = region.refused(create::create_subnet, request(&vpc, "10.0.255.0/24"));
    assert!(error.starts_with("SubnetLimitExceeded: "), "{error}");
}

#[test]
fn an_ipv6_block_comes_and_goes() {
    let region = Region::new();
    let vpc = new_vpc(&region);
    let first = create(&region, request(&vpc, "10.0.0.0/24"));
    let second = create(&region, request(&vpc, "10.0.1.0/24"));
    let associate = |id: &str, block: &str| api::AssociateSubnetCidrBlockRequest {
        subnet_id: Some(id.to_owned()),
        ipv6_cidr_block: Some(block.to_owned()),
        ..Default::default()
    };
    let handler = ipv6::associate_subnet_cidr_block;
    let on = Some(api::AttributeBooleanValue { value: Some(true) });
    let assign = || api::ModifySubnetAttributeRequest {
        subnet_id: Some(first.clone()),
        assign_ipv6_address_on_creation: on.clone(),
        ..Default::default()
    };
    let early = region.refused(attribute::modify_subnet_attribute, assign());
    assert!(early.starts_with("InvalidParameterValue: "), "{early}");
    let made = region.ok(handler, associate(&first, "fd12:3456:7800:101::/64"));
    let id = made.ipv6_cidr_block_association.unwrap().association_id.unwrap();
    region.ok(attribute::modify_subnet_attribute, assign());
    let taken = region.refused(handler, associate(&second, "fd12:3456:7800:101::/64"));
    assert!(taken.starts_with("InvalidSubnet.Conflict: "), "{taken}");
    let more = region.refused(handler, associate(&first, "fd12:3456:7800:102::/64"));
    assert!(more.starts_with("SubnetIpv6CidrBlockLimitExceeded: "), "{more}");
    let remove = || api::DisassociateSubnetCidrBlockRequest { association_id: Some(id.clone()) };
    claim(&region, &vpc.id, &["fd12:3456:7800:101::5"]);
    let used = region.refused(ipv6::disassociate_subnet_cidr_block, remove());
    assert!(used.starts_with("InvalidCidrBlock.InUse: "), "{used}");
    region
        .run(|call| {
            let claim =
                key::private_address(call.region, ACCOUNT, &vpc.id, "fd12:3456:7800:101::5");
            call.delete(&claim);
            Ok(())
        })
        .unwrap();
    region.ok(ipv6::disassociate_subnet_cidr_block, remove());
    let gone = region.refused(ipv6::disassociate_subnet_cidr_block, remove());
    assert!(gone.starts_with("InvalidSubnetCidrBlockAssociationID.NotFound: "), "{gone}");
    let subnet = region.run(|call| find_subnet(call, &first)).unwrap();
    assert!(subnet.ipv6_cidr.is_none() && !subnet.assign_ipv6_address_on_creation);
}

#[test]
fn attributes_are_changed_one_at_a_time() {
    let region = Region::new();
    let vpc = new_vpc(&region);
    let id = create(&region, request(&vpc, "10.0.0.0/24"));
    let on = || Some(api::AttributeBooleanValue { value: Some(true) });
    let input =
        || api::ModifySubnetAttributeRequest { subnet_id: Some(id.clone()), ..Default::default() };
    let modify = attribute::modify_subnet_attribute;
    region
        .ok(modify, api::ModifySubnetAttributeRequest { map_public_ip_on_launch: on(), ..input() });
    region.ok(
        modify,
        api::ModifySubnetAttributeRequest {
            private_dns_hostname_type_on_launch: Some("resource-name".to_owned()),
            ..input()
        },
    );
    region.ok(
        modify,
        api::ModifySubnetAttributeRequest {
            enable_resource_name_dns_a_record_on_launch: on(),
            ..input()
        },
    );
    let found = subnets(
        &region,
        vec![
            filter("map-public-ip-on-launch", &["true"]),
            filter("private-dns-name-options-on-launch.hostname-type", &["resource-name"]),
            filter(
                "private-dns-name-options-on-launch.enable-resource-name-dns-a-record",
                &["true"],
            ),
        ],
    );
    assert_eq!(found.len(), 1);
    let dns64 = api::ModifySubnetAttributeRequest { enable_dns64: on(), ..input() };
    assert!(region.refused(modify, dns64).starts_with("UnsupportedOperation: "));
    let aaaa = api::ModifySubnetAttributeRequest {
        enable_resource_name_dns_aaaa_record_on_launch: on(),
        ..input()
    };
    assert!(region.refused(modify, aaaa).starts_with("InvalidParameterValue: "));
    let two = api::ModifySubnetAttributeRequest {
        map_public_ip_on_launch: on(),
        private_dns_hostname_type_on_launch: Some("ip-name".to_owned()),
        ..input()
    };
    for refused in [two, input()] {
        assert!(region.refused(modify, refused).starts_with("InvalidParameterCombination: "));
    }
}

#[test]
fn reservations_keep_addresses_free() {
    let region = Region::new();
    let vpc = new_vpc(&region);
    let input = api::CreateSubnetRequest {
        ipv6_cidr_block: Some("fd12:3456:7800:101::/64".to_owned()),
        ..request(&vpc, "10.0.0.0/24")
    };
    let id = create(&region, input);
    assert_eq!(available(&region, &id), 251);
    let reserve = |cidr: &str, kind: &str| api::CreateSubnetCidrReservationRequest {
        subnet_id: Some(id.clone()),
        cidr: Some(cidr.to_owned()),
        reservation_type: Some(kind.to_owned()),
        ..Default::default()
    };
    let handler = reservation::create_subnet_cidr_reservation;
    region.ok(handler, reserve("10.0.0.0/28", "explicit"));
    // Four of the sixteen are AWS's anyway.
    assert_eq!(available(&region, &id), 239);
    let prefix = region.ok(handler, reserve("10.0.0.64/26", "prefix"));
    let prefix = prefix.subnet_cidr_reservation.unwrap().subnet_cidr_reservation_id.unwrap();
    assert_eq!(available(&region, &id), 175);
    region.ok(handler, reserve("fd12:3456:7800:101:1::/80", "prefix"));
    // Taken in a reservation: counted once. Taken outside: counted.
    claim(&region, &vpc.id, &["10.0.0.70", "10.0.0.9", "10.0.0.200"]);
    assert_eq!(available(&region, &id), 174);
    for (cidr, kind, code) in [
        ("10.0.0.96/28", "prefix", "InvalidCidr.InUse: "),
        ("10.0.1.0/28", "prefix", "InvalidCidr.NotWithinSubnetCidr: "),
        ("10.0.0.0/23", "prefix", "InvalidCidr.NotWithinSubnetCidr: "),
        ("x", "prefix", "InvalidParameterValue: "),
        ("", "prefix", "MissingParameter: "),
        ("10.0.0.128/28", "", "MissingParameter: "),
    ] {
        let error = region.refused(handler, reserve(cidr, kind));
        assert!(error.starts_with(code), "{cidr}: {error}");
    }
    let subnet = region.run(|call| find_subnet(call, &id)).unwrap();
    for (address, reserved) in
        [("10.0.0.15", true), ("10.0.0.16", false), ("fd12:3456:7800:101:1::9", true)]
    {
        assert_eq!(is_reserved(&subnet, address.parse().unwrap()), reserved, "{address}");
    }
    let ranges: Vec<String> = prefix_reservations(&subnet).map(|cidr| cidr.to_string()).collect();
    assert_eq!(ranges, ["10.0.0.64/26", "fd12:3456:7800:101:1::/80"]);
    let get = |filters| {
        let input = api::GetSubnetCidrReservationsRequest {
            subnet_id: Some(id.clone()),
            filters,
            ..Default::default()
        };
        region.ok(reservation::get_subnet_cidr_reservations, input)
    };
    assert_eq!(get(None).subnet_ipv4_cidr_reservations.unwrap().len(), 2);
    assert_eq!(get(None).subnet_ipv6_cidr_reservations.unwrap().len(), 1);
    let explicit = get(Some(vec![filter("reservationType", &["explicit"])]));
    assert_eq!(explicit.subnet_ipv4_cidr_reservations.unwrap().len(), 1);
    let delete = || api::DeleteSubnetCidrReservationRequest {
        subnet_cidr_reservation_id: Some(prefix.clone()),
        ..Default::default()
    };
    region.ok(reservation::delete_subnet_cidr_reservation, delete());
    assert_eq!(available(&region, &id), 237, "its taken address counts again");
    let gone = region.refused(reservation::delete_subnet_cidr_reservation, delete());
    assert!(gone.starts_with("InvalidSubnetCidrReservationID.NotFound: "), "{gone}");
}

#[test]
fn a_default_subnet_is_made_anew() {
    let region = Region::new();
    let request = |zone: &str| api::CreateDefaultSubnetRequest {
        availability_zone: Some(zone.to_owned()),
        ..Default::default()
    };
    let handler = create::create_default_subnet;
    let b = subnets(&region, vec![filter("availability-zone", &["us-east-1b"])]);
    let b = b[0].subnet_id.clone().unwrap();
    assert_eq!(
        region.refused(handler, request("us-east-1b")),
        format!(
            "DefaultSubnetAlreadyExistsInAvailabilityZone: '{b}' is already the default subnet in \
             us-east-1b."
        )
    );
    region
        .ok(delete::delete_subnet, api::DeleteSubnetRequest { subnet_id: Some(b), dry_run: None });
    let made = region.ok(handler, request("us-east-1b")).subnet.unwrap();
    assert_eq!(made.cidr_block.as_deref(), Some("172.31.16.0/20"));
    assert_eq!((made.default_for_az, made.map_public_ip_on_launch), (Some(true), Some(true)));
    assert!(region.refused(handler, request("")).starts_with("MissingParameter: "));
    region
        .run(|call| {
            let vpc = vpc::default_vpc(call)?;
            call.delete(&vpc::ID.key(call, &vpc.id));
            Ok(())
        })
        .unwrap();
    assert!(region.refused(handler, request("us-east-1b")).starts_with("DefaultVpcDoesNotExist: "));
}
