//! Peering connections as their handlers make them, seen from both sides.

use super::*;
use crate::testing::{ACCOUNT, Region, filter, list};

const OTHER: &str = "210987654321";

/// A VPC of an account in a region.
fn network(region: &Region, name: &str, account: &str, block: &str) -> String {
    let made = region.run_as(name, account, |call| {
        let vpc = vpc::stage(call, block.parse().unwrap(), "default", Tags::new());
        Ok(vpc.id)
    });
    made.unwrap()
}

fn request(vpc: &str, peer: &str) -> api::CreateVpcPeeringConnectionRequest {
    api::CreateVpcPeeringConnectionRequest {
        vpc_id: Some(vpc.to_owned()),
        peer_vpc_id: Some(peer.to_owned()),
        ..Default::default()
    }
}

fn made(region: &Region, input: api::CreateVpcPeeringConnectionRequest) -> String {
    let made = region.ok(create, input).vpc_peering_connection.unwrap();
    assert_eq!(made.status.unwrap().code.as_deref(), Some("initiating-request"));
    made.vpc_peering_connection_id.unwrap()
}

macro_rules! ask {
    ($shape:ident, $id:expr) => {
        api::$shape { vpc_peering_connection_id: Some($id.to_owned()), ..Default::default() }
    };
}

/// The connections that an account sees in a region.
fn seen(region: &Region, name: &str, account: &str) -> Vec<api::VpcPeeringConnection> {
    let input = api::DescribeVpcPeeringConnectionsRequest::default();
    let found = region.run_as(name, account, |call| describe(call, input)).unwrap();
    found.vpc_peering_connections.unwrap()
}

fn status(region: &Region, name: &str, account: &str) -> String {
    let mut seen = seen(region, name, account);
    assert_eq!(seen.len(), 1);
    let status = seen.remove(0).status.unwrap();
    format!("{}: {}", status.code.unwrap(), status.message.unwrap())
}

fn reconcile(region: &Region, id: &str) {
    region.run(|call| (RECONCILER.run)(call, &key::vpc_peering(id))).unwrap();
}

#[test]
fn two_networks_of_an_account() {
    let region = Region::new();
    let one = network(&region, region.name, ACCOUNT, "10.0.0.0/16");
    let two = network(&region, region.name, ACCOUNT, "10.1.0.0/16");
    let id = made(&region, request(&one, &two));
    assert_eq!(
        status(&region, region.name, ACCOUNT),
        format!("pending-acceptance: Pending Acceptance by {ACCOUNT}")
    );
    // Asked for in either direction, it is the same connection.
    for (from, to) in [(&one, &two), (&two, &one)] {
        assert_eq!(
            region.refused(create, request(from, to)),
            format!(
                "VpcPeeringConnectionAlreadyExists: A VPC peering connection between the VPCs \
                 already exists: {id}."
            )
        );
    }
    let options = |allow| api::ModifyVpcPeeringConnectionOptionsRequest {
        accepter_peering_connection_options: Some(api::PeeringConnectionOptionsRequest {
            allow_dns_resolution_from_remote_vpc: Some(allow),
            ..Default::default()
        }),
        ..ask!(ModifyVpcPeeringConnectionOptionsRequest, id)
    };
    assert_eq!(
        region.refused(modify_options, options(true)),
        format!(
            "OperationNotPermitted: Peering {id} is not active. Peering options can be added only \
             to active peerings."
        )
    );
    let accepted = region.ok(accept, ask!(AcceptVpcPeeringConnectionRequest, id));
    let accepted = accepted.vpc_peering_connection.unwrap();
    assert_eq!(accepted.expiration_time, None);
    assert_eq!(accepted.accepter_vpc_info.unwrap().cidr_block.as_deref(), Some("10.1.0.0/16"));
    assert_eq!(status(&region, region.name, ACCOUNT), "active: Active");
    region.ok(modify_options, options(true));
    let shown = seen(&region, region.name, ACCOUNT).remove(0);
    let allowed = |info: Option<api::VpcPeeringConnectionVpcInfo>| {
        info.unwrap().peering_options.unwrap().allow_dns_resolution_from_remote_vpc
    };
    assert_eq!(allowed(shown.accepter_vpc_info), Some(true));
    assert_eq!(allowed(shown.requester_vpc_info), Some(false));
    for (refusal, to) in [
        (region.refused(accept, ask!(AcceptVpcPeeringConnectionRequest, id)), "provisioning"),
        (region.refused(reject, ask!(RejectVpcPeeringConnectionRequest, id)), "rejected"),
    ] {
        assert_eq!(
            refusal,
            format!(
                "InvalidStateTransition: Invalid state transition for {id}, attempted to \
                 transition from active to {to}"
            )
        );
    }
    region.ok(delete, ask!(DeleteVpcPeeringConnectionRequest, id));
    assert_eq!(status(&region, region.name, ACCOUNT), format!("deleted: Deleted by {ACCOUNT}"));
    assert!(
        region
            .refused(delete, ask!(DeleteVpcPeeringConnectionRequest, id))
            .ends_with("attempted to transition from deleted to deleting")
    );
    region.pass(SHOWN_SHORT);
    assert_eq!(seen(&region, region.name, ACCOUNT), []);
    // The same pair can connect again.
    made(&region, request(&one, &two));
    region.pass(SHOWN_LONG);
    reconcile(&region, &id);
    assert!(region.run(|call| call.peek::<VpcPeering>(&key::vpc_peering(&id))).unwrap().is_none());
}

#[test]
fn accounts_and_regions_see_the_same() {
    let region = Region::new();
    let far = "eu-west-1";
    let one = network(&region, region.name, ACCOUNT, "10.0.0.0/16");
    let two = network(&region, far, OTHER, "10.1.0.0/16");
    let id = made(
        &region,
        api::CreateVpcPeeringConnectionRequest {
            peer_owner_id: Some(OTHER.to_owned()),
            peer_region: Some(far.to_owned()),
            ..request(&one, &two)
        },
    );
    let pending = format!("pending-acceptance: Pending Acceptance by {OTHER}");
    assert_eq!(status(&region, region.name, ACCOUNT), pending);
    assert_eq!(status(&region, far, OTHER), pending);
    assert_eq!(seen(&region, region.name, OTHER), []);
    // Nobody shows a stranger his blocks.
    let shown = seen(&region, region.name, ACCOUNT).remove(0);
    assert_eq!(shown.accepter_vpc_info.unwrap().cidr_block, None);
    assert_eq!(
        region.refused(accept, ask!(AcceptVpcPeeringConnectionRequest, id)),
        format!("OperationNotPermitted: User {ACCOUNT} cannot accept peering {id}")
    );
    let there = |work: fn(&mut Call<'_>, &str) -> Result<(), Error>| {
        region.run_as(far, OTHER, |call| work(call, &id))
    };
    let refusal =
        there(|call, id| delete(call, ask!(DeleteVpcPeeringConnectionRequest, id)).map(|_| ()));
    assert_eq!(refusal.unwrap_err().code, "OperationNotPermitted");
    there(|call, id| accept(call, ask!(AcceptVpcPeeringConnectionRequest, id)).map(|_| ()))
        .unwrap();
    assert_eq!(status(&region, region.name, ACCOUNT), "active: Active");
    let shown = seen(&region, region.name, ACCOUNT).remove(0);
    assert_eq!(shown.accepter_vpc_info.unwrap().cidr_block.as_deref(), Some("10.1.0.0/16"));
    // Each side changes its own options only.
    let options = api::ModifyVpcPeeringConnectionOptionsRequest {
        accepter_peering_connection_options: Some(api::PeeringConnectionOptionsRequest {
            allow_dns_resolution_from_remote_vpc: Some(true),
            ..Default::default()
        }),
        ..ask!(ModifyVpcPeeringConnectionOptionsRequest, id)
    };
    assert_eq!(
        region.refused(modify_options, options.clone()),
        format!(
            "OperationNotPermitted: User {ACCOUNT} cannot modify accepter peering options for {id}"
        )
    );
    region.run_as(far, OTHER, |call| modify_options(call, options)).unwrap();
    // Each side has its own tags.
    let tags = |name: &str, account: &str, value: &str| {
        let input = api::CreateTagsRequest {
            resources: list(&[&id]),
            tags: Some(vec![api::Tag {
                key: Some("Name".to_owned()),
                value: Some(value.to_owned()),
            }]),
            ..Default::default()
        };
        region.run_as(name, account, |call| crate::tag::create_tags(call, input)).unwrap();
    };
    tags(region.name, ACCOUNT, "ours");
    tags(far, OTHER, "theirs");
    for (name, account, value) in [(region.name, ACCOUNT, "ours"), (far, OTHER, "theirs")] {
        let shown = seen(&region, name, account).remove(0);
        assert_eq!(shown.tags.unwrap()[0].value.as_deref(), Some(value));
    }
    // Who deleted it sees it shorter.
    there(|call, id| delete(call, ask!(DeleteVpcPeeringConnectionRequest, id)).map(|_| ()))
        .unwrap();
    region.pass(SHOWN_SHORT);
    assert_eq!(seen(&region, far, OTHER), []);
    assert_eq!(status(&region, region.name, ACCOUNT), format!("deleted: Deleted by {OTHER}"));
}

#[test]
fn what_cannot_be_connected_fails() {
    let region = Region::new();
    let one = network(&region, region.name, ACCOUNT, "10.0.0.0/16");
    let inside = network(&region, region.name, ACCOUNT, "10.0.128.0/20");
    for peer in [inside.as_str(), one.as_str(), "vpc-00000000000000000"] {
        let id = made(&region, request(&one, peer));
        assert_eq!(
            status(&region, region.name, ACCOUNT),
            "failed: Failed due to incorrect VPC-ID, Account ID, or overlapping CIDR range"
        );
        assert_eq!(
            region.refused(delete, ask!(DeleteVpcPeeringConnectionRequest, id)),
            format!(
                "InvalidStateTransition: Invalid state transition for {id}, attempted to \
                 transition from failed to deleting"
            )
        );
        region.pass(SHOWN_SHORT);
        assert_eq!(seen(&region, region.name, ACCOUNT), []);
    }
    let missing =
        api::CreateVpcPeeringConnectionRequest { peer_vpc_id: None, ..request(&one, &one) };
    assert_eq!(
        region.refused(create, missing),
        "MissingParameter: The request must contain the parameter peerVpcId"
    );
    assert_eq!(
        region.refused(create, request("vpc-00000000000000000", &one)),
        "InvalidVpcID.NotFound: The vpc ID 'vpc-00000000000000000' does not exist"
    );
    let nobody = "pcx-00000000000000000";
    assert_eq!(
        region.refused(accept, ask!(AcceptVpcPeeringConnectionRequest, nobody)),
        format!(
            "InvalidVpcPeeringConnectionID.NotFound: The vpcPeeringConnection ID '{nobody}' does \
             not exist"
        )
    );
    assert_eq!(
        region.refused(reject, ask!(RejectVpcPeeringConnectionRequest, "x")),
        "InvalidVpcPeeringConnectionID.Malformed: Invalid id: \"x\" (expecting \"pcx-...\")"
    );
}

#[test]
fn a_request_is_rejected_or_expires() {
    let region = Region::new();
    let one = network(&region, region.name, ACCOUNT, "10.0.0.0/16");
    let two = network(&region, region.name, ACCOUNT, "10.1.0.0/16");
    let id = made(&region, request(&one, &two));
    region.ok(reject, ask!(RejectVpcPeeringConnectionRequest, id));
    assert_eq!(status(&region, region.name, ACCOUNT), format!("rejected: Rejected by {ACCOUNT}"));
    region.pass(SHOWN_LONG);
    let id = made(&region, request(&one, &two));
    reconcile(&region, &id);
    assert!(status(&region, region.name, ACCOUNT).starts_with("pending-acceptance: "));
    region.pass(PENDING);
    let refusal = region.refused(accept, ask!(AcceptVpcPeeringConnectionRequest, id));
    assert!(refusal.contains("from expired to provisioning"), "{refusal}");
    reconcile(&region, &id);
    assert_eq!(status(&region, region.name, ACCOUNT), "expired: Expired");
    let asked = |name: &str, value: &str| {
        let input = api::DescribeVpcPeeringConnectionsRequest {
            filters: Some(vec![filter(name, &[value])]),
            ..Default::default()
        };
        region.ok(describe, input).vpc_peering_connections.unwrap().len()
    };
    assert_eq!(asked("status-code", "expired"), 1);
    assert_eq!(asked("status-code", "active"), 0);
    assert_eq!(asked("requester-vpc-info.vpc-id", &one), 1);
    assert_eq!(asked("accepter-vpc-info.cidr-block", "10.1.0.0/16"), 1);
    assert_eq!(asked("accepter-vpc-info.owner-id", ACCOUNT), 1);
    assert_eq!(asked("vpc-peering-connection-id", &id), 1);
}

#[test]
fn connections_are_counted() {
    let region = Region::new();
    let hub = network(&region, region.name, ACCOUNT, "10.255.0.0/16");
    let spoke =
        |number: usize| network(&region, region.name, ACCOUNT, &format!("10.{number}.0.0/16"));
    for number in 0..MAX_ACTIVE {
        let id = made(&region, request(&spoke(number), &hub));
        region.ok(accept, ask!(AcceptVpcPeeringConnectionRequest, id));
    }
    let id = made(&region, request(&spoke(MAX_ACTIVE), &hub));
    assert_eq!(
        region.refused(accept, ask!(AcceptVpcPeeringConnectionRequest, id)),
        format!(
            "VpcPeeringConnectionsPerVpcLimitExceeded: The maximum number of VPC peering \
             connections has been reached for the VPC {hub}."
        )
    );
    for number in 1..MAX_PENDING {
        made(&region, request(&spoke(MAX_ACTIVE + number), &hub));
    }
    let more = request(&spoke(MAX_ACTIVE + MAX_PENDING), &hub);
    assert_eq!(
        region.refused(create, more.clone()),
        "OutstandingVpcPeeringConnectionLimitExceeded: The maximum number of outstanding VPC \
         peering connection requests has been reached."
    );
    // What has expired does not wait any more.
    region.pass(PENDING);
    made(&region, more);
}
