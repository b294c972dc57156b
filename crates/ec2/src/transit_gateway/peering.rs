//! Peering attachments: two gateways of different regions or accounts, a record of the same id at
//! each. What happens to one happens to the other in the same transaction.

use super::describe;
use super::{ATTACHMENT, Live, TRANSIT_GATEWAY, attachment, invalid_state};
use crate::record::{Progress, Tags, TransitGateway, TransitGatewayAttachment, key};
use crate::{region, tag};
use model::ec2::{self as api, op};
use service::{Call, Error, Operation, operation};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) const OPERATIONS: &[Operation] = &[
    operation!(
        op::CreateTransitGatewayPeeringAttachment,
        create,
        Write,
        [
            "TransitGatewayId",
            "PeerTransitGatewayId",
            "PeerAccountId",
            "PeerRegion",
            "Options.DynamicRouting",
            "TagSpecifications.*",
        ]
    ),
    operation!(
        op::AcceptTransitGatewayPeeringAttachment,
        accept,
        Write,
        ["TransitGatewayAttachmentId"]
    ),
    operation!(
        op::RejectTransitGatewayPeeringAttachment,
        reject,
        Write,
        ["TransitGatewayAttachmentId"]
    ),
    operation!(
        op::DeleteTransitGatewayPeeringAttachment,
        delete,
        Write,
        ["TransitGatewayAttachmentId"]
    ),
    operation!(
        op::DescribeTransitGatewayPeeringAttachments,
        describe::describe_peering_attachments,
        Read,
        ["TransitGatewayAttachmentIds", "Filters.*", "MaxResults", "NextToken"]
    ),
];

/// The two ends of a peering: the caller's and the other one, with the key of the other.
struct Ends {
    own: Arc<TransitGatewayAttachment>,
    other: Arc<TransitGatewayAttachment>,
    other_key: String,
}

fn find(call: &mut Call<'_>, id: &str) -> Result<Ends, Error> {
    let own = ATTACHMENT.find::<TransitGatewayAttachment>(call, id)?;
    let (Some(region), Some(account)) = (&own.peer_region, &own.peer_account) else {
        return Err(ATTACHMENT.not_found(id));
    };
    let other_key = key::of(region, key::TRANSIT_GATEWAY_ATTACHMENT, account, id);
    let other = call.get::<TransitGatewayAttachment>(&other_key)?;
    let other = other.ok_or_else(|| {
        // The records of one that ended go one after the other.
        if own.is_there() {
            Error::internal(format!("{id} has one end only"))
        } else {
            ATTACHMENT.not_found(id)
        }
    })?;
    Ok(Ends { own, other, other_key })
}

/// Stages the same change of both ends; gives the caller's.
fn change(
    call: &mut Call<'_>,
    ends: &Ends,
    with: impl Fn(&mut TransitGatewayAttachment),
) -> Arc<TransitGatewayAttachment> {
    let (mut own, mut other) = (ends.own.as_ref().clone(), ends.other.as_ref().clone());
    with(&mut own);
    with(&mut other);
    call.put(&ends.other_key, other);
    call.put(&ATTACHMENT.key(call, &own.id.clone()), own)
}

pub(super) fn create(
    call: &mut Call<'_>,
    input: api::CreateTransitGatewayPeeringAttachmentRequest,
) -> Result<api::CreateTransitGatewayPeeringAttachmentResult, Error> {
    const TYPE: &str = "transit-gateway-attachment";
    let tags = tag::from_specifications(input.tag_specifications.as_deref(), TYPE, &[TYPE])?;
    let options = input.options.unwrap_or_default();
    super::keep("DynamicRouting", false, &options.dynamic_routing)?;
    let gateway_id = input.transit_gateway_id.unwrap_or_default();
    TRANSIT_GATEWAY.available::<TransitGateway>(call, &gateway_id)?;
    let peer_id = input.peer_transit_gateway_id.unwrap_or_default();
    TRANSIT_GATEWAY.check(&peer_id)?;
    let peer_region = input.peer_region.unwrap_or_default();
    let peer_account = input.peer_account_id.unwrap_or_default();
    if !region::is_name(&peer_region) {
        return Err(Error::invalid_parameter_value(format!(
            "Value ({peer_region}) for parameter peerRegion is invalid."
        )));
    }
    if peer_region == call.region && peer_account == call.account() {
        return Err(Error::unsupported(
            "A peering of two transit gateways of one account in one region is not built in \
             gureum yet.",
        ));
    }
    let at = key::of(&peer_region, key::TRANSIT_GATEWAY, &peer_account, &peer_id);
    let peer = call.get::<TransitGateway>(&at)?.filter(|peer| peer.is_available());
    peer.ok_or_else(|| TRANSIT_GATEWAY.not_found(&peer_id))?;
    let attachments = ATTACHMENT.key(call, "");
    let known = call.get_all::<TransitGatewayAttachment>(&attachments)?;
    if known.iter().any(|other| {
        other.transit_gateway_id == gateway_id && other.resource_id == peer_id && other.is_there()
    }) {
        return Err(Error::client(
            "DuplicateTransitGatewayAttachment",
            format!("{gateway_id} has a non-deleted peering attachment with {peer_id}."),
        ));
    }
    let id = call.new_id("tgw-attach");
    let own = TransitGatewayAttachment {
        v: 1,
        id: id.clone(),
        transit_gateway_id: gateway_id.clone(),
        resource_id: peer_id.clone(),
        peer_region: Some(peer_region.clone()),
        peer_account: Some(peer_account.clone()),
        is_accepter: false,
        state: Progress::Pending,
        pending_acceptance: true,
        subnet_ids: Vec::new(),
        interface_ids: Vec::new(),
        options: BTreeMap::new(),
        association: None,
        propagations: Vec::new(),
        created: call.now,
        deleted: None,
        tags,
    };
    let other = TransitGatewayAttachment {
        transit_gateway_id: peer_id,
        resource_id: gateway_id,
        peer_region: Some(call.region.to_owned()),
        peer_account: Some(call.account().to_owned()),
        is_accepter: true,
        tags: Tags::new(),
        ..own.clone()
    };
    let other_key = key::of(&peer_region, key::TRANSIT_GATEWAY_ATTACHMENT, &peer_account, &id);
    call.put(&other_key, other);
    let own = call.put(&ATTACHMENT.key(call, &id), own);
    Ok(api::CreateTransitGatewayPeeringAttachmentResult {
        transit_gateway_peering_attachment: Some(describe::peering(
            call.region,
            call.account(),
            &own,
        )),
    })
}

/// The ends of a peering that waits for the caller.
fn waiting(call: &mut Call<'_>, id: &str) -> Result<Ends, Error> {
    let ends = find(call, id)?;
    if ends.own.is_accepter && ends.own.pending_acceptance && ends.own.state == Progress::Pending {
        return Ok(ends);
    }
    Err(invalid_state(id))
}

pub(super) fn accept(
    call: &mut Call<'_>,
    input: api::AcceptTransitGatewayPeeringAttachmentRequest,
) -> Result<api::AcceptTransitGatewayPeeringAttachmentResult, Error> {
    let ends = waiting(call, &input.transit_gateway_attachment_id.unwrap_or_default())?;
    let own = change(call, &ends, |end| end.pending_acceptance = false);
    Ok(api::AcceptTransitGatewayPeeringAttachmentResult {
        transit_gateway_peering_attachment: Some(describe::peering(
            call.region,
            call.account(),
            &own,
        )),
    })
}

pub(super) fn reject(
    call: &mut Call<'_>,
    input: api::RejectTransitGatewayPeeringAttachmentRequest,
) -> Result<api::RejectTransitGatewayPeeringAttachmentResult, Error> {
    let ends = waiting(call, &input.transit_gateway_attachment_id.unwrap_or_default())?;
    let now = call.now;
    let own = change(call, &ends, |end| {
        end.state = Progress::Failed;
        end.deleted = Some(now);
    });
    Ok(api::RejectTransitGatewayPeeringAttachmentResult {
        transit_gateway_peering_attachment: Some(describe::peering(
            call.region,
            call.account(),
            &own,
        )),
    })
}

pub(super) fn delete(
    call: &mut Call<'_>,
    input: api::DeleteTransitGatewayPeeringAttachmentRequest,
) -> Result<api::DeleteTransitGatewayPeeringAttachmentResult, Error> {
    let id = input.transit_gateway_attachment_id.unwrap_or_default();
    let ends = find(call, &id)?;
    if !matches!(ends.own.state, Progress::Pending | Progress::Available) {
        return Err(invalid_state(&id));
    }
    let own = change(call, &ends, |end| *end = attachment::leaving(end));
    Ok(api::DeleteTransitGatewayPeeringAttachmentResult {
        transit_gateway_peering_attachment: Some(describe::peering(
            call.region,
            call.account(),
            &own,
        )),
    })
}
