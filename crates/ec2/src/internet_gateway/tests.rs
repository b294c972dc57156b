//! Internet gateways as their handlers make them.

use super::*;
use crate::record::Tags;
use crate::testing::{ACCOUNT, Region, filter, list};

const NOBODY: &str = "igw-00000000000000000";

fn network(region: &Region) -> String {
    let made = region.run(|call| {
        let vpc = vpc::stage(call, "10.0.0.0/16".parse().unwrap(), "default", Tags::new());
        Ok(vpc.id)
    });
    made.unwrap()
}

fn gateway(region: &Region) -> String {
    let made = region.ok(create_internet_gateway, api::CreateInternetGatewayRequest::default());
    made.internet_gateway.unwrap().internet_gateway_id.unwrap()
}

fn attach(gateway: &str, vpc: &str) -> api::AttachInternetGatewayRequest {
    api::AttachInternetGatewayRequest {
        internet_gateway_id: Some(gateway.to_owned()),
        vpc_id: Some(vpc.to_owned()),
        ..Default::default()
    }
}

fn detach(gateway: &str, vpc: &str) -> api::DetachInternetGatewayRequest {
    api::DetachInternetGatewayRequest {
        internet_gateway_id: Some(gateway.to_owned()),
        vpc_id: Some(vpc.to_owned()),
        ..Default::default()
    }
}

fn delete(gateway: &str) -> api::DeleteInternetGatewayRequest {
    api::DeleteInternetGatewayRequest {
        internet_gateway_id: Some(gateway.to_owned()),
        ..Default::default()
    }
}

#[test]
fn a_gateway_and_a_vpc_belong_to_each_other() {
    let region = Region::new();
    let (vpc, other) = (network(&region), network(&region));
    let (one, two) = (gateway(&region), gateway(&region));
    region.ok(attach_internet_gateway, attach(&one, &vpc));
    assert_eq!(
        region.refused(attach_internet_gateway, attach(&one, &other)),
        format!("Resource.AlreadyAssociated: resource {one} is already attached to network {vpc}")
    );
    assert_eq!(
        region.refused(attach_internet_gateway, attach(&two, &vpc)),
        format!("InvalidParameterValue: Network {vpc} already has an internet gateway attached")
    );
    assert_eq!(
        region.refused(detach_internet_gateway, detach(&one, &other)),
        format!("Gateway.NotAttached: resource {one} is not attached to network {other}")
    );
    assert_eq!(
        region.refused(delete_internet_gateway, delete(&one)),
        format!(
            "DependencyViolation: The internetGateway '{one}' has dependencies and cannot be \
             deleted."
        )
    );
    let asked = |name: &str, value: &str| {
        let input = api::DescribeInternetGatewaysRequest {
            filters: Some(vec![filter(name, &[value])]),
            ..Default::default()
        };
        region.ok(describe_internet_gateways, input).internet_gateways.unwrap()
    };
    let found = asked("attachment.vpc-id", &vpc);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].internet_gateway_id.as_ref(), Some(&one));
    // The default VPC's too.
    assert_eq!(asked("attachment.state", "available").len(), 2);
    assert_eq!(asked("owner-id", ACCOUNT).len(), 3);
    region.ok(detach_internet_gateway, detach(&one, &vpc));
    region.ok(attach_internet_gateway, attach(&two, &vpc));
    region.ok(delete_internet_gateway, delete(&one));
    let input = api::DescribeInternetGatewaysRequest {
        internet_gateway_ids: list(&[&one]),
        ..Default::default()
    };
    assert_eq!(
        region.refused(describe_internet_gateways, input),
        format!("InvalidInternetGatewayID.NotFound: The internetGateway ID '{one}' does not exist")
    );
}

#[test]
fn a_gateway_stays_while_public_addresses_are_mapped() {
    let region = Region::new();
    let request = crate::instance::tests::request(&region);
    region.ok(crate::launch::run_instances, request);
    let vpc = region.run(|call| vpc::default_vpc(call)).unwrap();
    let gateway = vpc.internet_gateway_id.clone().unwrap();
    assert_eq!(
        region.refused(detach_internet_gateway, detach(&gateway, &vpc.id)),
        format!(
            "DependencyViolation: Network {} has some mapped public address(es). Please unmap \
             those public address(es) before detaching the gateway.",
            vpc.id
        )
    );
}

#[test]
fn a_region_has_so_many_gateways() {
    let region = Region::new();
    // One is the default VPC's.
    for _ in 1..MAX_GATEWAYS {
        gateway(&region);
    }
    assert_eq!(
        region.refused(create_internet_gateway, api::CreateInternetGatewayRequest::default()),
        "InternetGatewayLimitExceeded: The maximum number of internet gateways has been reached."
    );
    assert_eq!(
        region.refused(delete_internet_gateway, delete(NOBODY)),
        format!(
            "InvalidInternetGatewayID.NotFound: The internetGateway ID '{NOBODY}' does not exist"
        )
    );
    assert_eq!(
        region.refused(delete_internet_gateway, delete("x")),
        "InvalidInternetGatewayId.Malformed: Invalid id: \"x\" (expecting \"igw-...\")"
    );
}

#[test]
fn an_egress_only_gateway_stays_in_its_vpc() {
    let region = Region::new();
    let vpc = network(&region);
    let make = || api::CreateEgressOnlyInternetGatewayRequest {
        vpc_id: Some(vpc.clone()),
        ..Default::default()
    };
    let with_token = |vpc: &str| api::CreateEgressOnlyInternetGatewayRequest {
        vpc_id: Some(vpc.to_owned()),
        client_token: Some("once".to_owned()),
        ..Default::default()
    };
    let made = region.ok(create_egress_only, with_token(&vpc));
    let made = made.egress_only_internet_gateway.unwrap();
    let again = region.ok(create_egress_only, with_token(&vpc));
    assert_eq!(again.egress_only_internet_gateway.as_ref(), Some(&made));
    let refusal = region.refused(create_egress_only, with_token(&network(&region)));
    assert!(refusal.starts_with("IdempotentParameterMismatch: "), "{refusal}");
    let id = made.egress_only_internet_gateway_id.unwrap();
    let describe = || api::DescribeEgressOnlyInternetGatewaysRequest {
        egress_only_internet_gateway_ids: list(&[&id]),
        ..Default::default()
    };
    let found = region.ok(describe_egress_only, describe()).egress_only_internet_gateways.unwrap();
    let attachment = &found[0].attachments.as_ref().unwrap()[0];
    assert_eq!(
        (attachment.state.as_deref(), attachment.vpc_id.as_ref()),
        (Some("attached"), Some(&vpc))
    );
    let delete = || api::DeleteEgressOnlyInternetGatewayRequest {
        egress_only_internet_gateway_id: Some(id.clone()),
        ..Default::default()
    };
    region.ok(delete_egress_only, delete());
    let missing = format!("InvalidGatewayID.NotFound: The eigw ID '{id}' does not exist");
    assert_eq!(region.refused(delete_egress_only, delete()), missing);
    // Describing one that is gone is no error.
    let found = region.ok(describe_egress_only, describe()).egress_only_internet_gateways;
    assert_eq!(found, Some(Vec::new()));
    region.ok(create_egress_only, with_token(&vpc));
    for _ in 1..MAX_GATEWAYS {
        region.ok(create_egress_only, make());
    }
    let refusal = region.refused(create_egress_only, make());
    assert!(refusal.starts_with("EgressOnlyInternetGatewayLimitExceeded: "), "{refusal}");
}
