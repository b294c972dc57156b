//! Attachments of VPCs: an interface in one subnet a zone.

use super::describe;
use super::{
    ATTACHMENT, Live, ROUTE_TABLE, TRANSIT_GATEWAY, incorrect_state, invalid_state, keep, set,
};
use crate::record::{
    InterfaceKind, Progress, Subnet, Tags, TransitGateway, TransitGatewayAttachment,
    TransitGatewayRouteTable,
};
use crate::{interface, subnet, tag, vpc};
use model::ec2::{self as api, op};
use service::{Call, Error, Operation, operation};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Most gateways that a VPC is attached to (Transit Gateways guide, "Quotas").
const MAX_OF_VPC: usize = 5;

pub(super) const OPERATIONS: &[Operation] = &[
    operation!(
        op::CreateTransitGatewayVpcAttachment,
        create,
        Write,
        [
            "TransitGatewayId",
            "VpcId",
            "SubnetIds",
            "Options.ApplianceModeSupport",
            "Options.DnsSupport",
            "Options.Ipv6Support",
            "Options.SecurityGroupReferencingSupport",
            "TagSpecifications.*",
        ]
    ),
    operation!(
        op::ModifyTransitGatewayVpcAttachment,
        modify,
        Write,
        [
            "TransitGatewayAttachmentId",
            "AddSubnetIds",
            "RemoveSubnetIds",
            "Options.ApplianceModeSupport",
            "Options.DnsSupport",
            "Options.Ipv6Support",
            "Options.SecurityGroupReferencingSupport",
        ]
    ),
    operation!(
        op::DeleteTransitGatewayVpcAttachment,
        delete,
        Write,
        ["TransitGatewayAttachmentId"]
    ),
    operation!(
        op::AcceptTransitGatewayVpcAttachment,
        accept,
        Write,
        ["TransitGatewayAttachmentId"]
    ),
    operation!(
        op::RejectTransitGatewayVpcAttachment,
        reject,
        Write,
        ["TransitGatewayAttachmentId"]
    ),
    operation!(
        op::DescribeTransitGatewayVpcAttachments,
        describe::describe_vpc_attachments,
        Read,
        ["TransitGatewayAttachmentIds", "Filters.*", "MaxResults", "NextToken"]
    ),
    operation!(
        op::DescribeTransitGatewayAttachments,
        describe::describe_attachments,
        Read,
        ["TransitGatewayAttachmentIds", "Filters.*", "MaxResults", "NextToken"]
    ),
];

/// The attachment of a VPC with this id.
fn find_vpc_attachment(
    call: &mut Call<'_>,
    id: &str,
) -> Result<Arc<TransitGatewayAttachment>, Error> {
    let found = ATTACHMENT.find::<TransitGatewayAttachment>(call, id)?;
    if found.peer_region.is_some() { Err(ATTACHMENT.not_found(id)) } else { Ok(found) }
}

/// Subnets of a VPC, all in different zones.
fn check_subnets(
    call: &mut Call<'_>,
    vpc_id: &str,
    ids: &[String],
) -> Result<Vec<Arc<Subnet>>, Error> {
    let mut zones = BTreeSet::new();
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        let subnet = subnet::find_subnet(call, id)?;
        if subnet.vpc_id != vpc_id {
            return Err(Error::invalid_parameter_value(format!(
                "The subnet ID '{id}' does not belong to the VPC '{vpc_id}'"
            )));
        }
        if !zones.insert(subnet.availability_zone.clone()) {
            return Err(Error::client(
                "DuplicateSubnetsInSameZone",
                "Duplicate Subnets for same AZ",
            ));
        }
        found.push(subnet);
    }
    Ok(found)
}

/// Stages the interface of an attachment in a subnet; gives its id.
fn stage_interface(
    call: &mut Call<'_>,
    attachment_id: &str,
    subnet: &Subnet,
) -> Result<String, Error> {
    let new = interface::New {
        subnet,
        groups: Vec::new(),
        kind: InterfaceKind::TransitGateway(attachment_id.to_owned()),
        description: format!("Network Interface for Transit Gateway Attachment {attachment_id}"),
        source_dest_check: false,
        wanted: interface::Wanted::default(),
        tags: Tags::new(),
    };
    let account = call.account();
    Ok(interface::create(call, account, new)?.id.clone())
}

pub(super) fn create(
    call: &mut Call<'_>,
    input: api::CreateTransitGatewayVpcAttachmentRequest,
) -> Result<api::CreateTransitGatewayVpcAttachmentResult, Error> {
    const TYPE: &str = "transit-gateway-attachment";
    let tags = tag::from_specifications(input.tag_specifications.as_deref(), TYPE, &[TYPE])?;
    let gateway_id = input.transit_gateway_id.unwrap_or_default();
    let gateway = TRANSIT_GATEWAY.available::<TransitGateway>(call, &gateway_id)?;
    let vpc = vpc::find_vpc(call, input.vpc_id.as_deref().unwrap_or_default())?;
    let subnet_ids = input.subnet_ids.unwrap_or_default();
    if subnet_ids.is_empty() {
        return Err(Error::missing_parameter("SubnetIds"));
    }
    let subnets = check_subnets(call, &vpc.id, &subnet_ids)?;
    let attachments = ATTACHMENT.key(call, "");
    let known = call.get_all::<TransitGatewayAttachment>(&attachments)?;
    let of_vpc = || known.iter().filter(|other| other.resource_id == vpc.id && other.is_there());
    if of_vpc().any(|other| other.transit_gateway_id == gateway_id) {
        return Err(Error::client(
            "DuplicateTransitGatewayAttachment",
            format!("{gateway_id} has non-deleted Transit Gateway Attachments with same VPC ID."),
        ));
    }
    if of_vpc().count() >= MAX_OF_VPC {
        return Err(Error::client(
            "TransitGatewayAttachmentLimitExceeded",
            format!(
                "The maximum number of transit gateway attachments of {} has been reached.",
                vpc.id
            ),
        ));
    }
    let asked = input.options.unwrap_or_default();
    let mut options: BTreeMap<String, bool> = [
        ("ApplianceModeSupport", false),
        ("DnsSupport", true),
        ("Ipv6Support", false),
        ("SecurityGroupReferencingSupport", true),
    ]
    .into_iter()
    .map(|(name, on)| (name.to_owned(), on))
    .collect();
    keep("ApplianceModeSupport", false, &asked.appliance_mode_support)?;
    keep("DnsSupport", true, &asked.dns_support)?;
    let referencing = &asked.security_group_referencing_support;
    keep("SecurityGroupReferencingSupport", true, referencing)?;
    set(&mut options, "Ipv6Support", &asked.ipv6_support);
    let id = call.new_id("tgw-attach");
    let mut interface_ids = Vec::with_capacity(subnets.len());
    for subnet in &subnets {
        interface_ids.push(stage_interface(call, &id, subnet)?);
    }
    let attachment = TransitGatewayAttachment {
        v: 1,
        id: id.clone(),
        transit_gateway_id: gateway_id,
        resource_id: vpc.id.clone(),
        peer_region: None,
        peer_account: None,
        is_accepter: false,
        state: Progress::Pending,
        pending_acceptance: false,
        subnet_ids,
        interface_ids,
        options,
        association: gateway.association_table_id.clone(),
        propagations: gateway.propagation_table_id.iter().cloned().collect(),
        created: call.now,
        deleted: None,
        tags,
    };
    let attachment = call.put(&ATTACHMENT.key(call, &id), attachment);
    Ok(api::CreateTransitGatewayVpcAttachmentResult {
        transit_gateway_vpc_attachment: Some(describe::vpc_attachment(call.account(), &attachment)),
    })
}

pub(super) fn modify(
    call: &mut Call<'_>,
    input: api::ModifyTransitGatewayVpcAttachmentRequest,
) -> Result<api::ModifyTransitGatewayVpcAttachmentResult, Error> {
    let id = input.transit_gateway_attachment_id.unwrap_or_default();
    let attachment = find_vpc_attachment(call, &id)?;
    if !attachment.is_available() {
        return Err(invalid_state(&id));
    }
    let mut changed = TransitGatewayAttachment::clone(&attachment);
    let asked = input.options.unwrap_or_default();
    keep("ApplianceModeSupport", false, &asked.appliance_mode_support)?;
    keep("DnsSupport", true, &asked.dns_support)?;
    let referencing = &asked.security_group_referencing_support;
    keep("SecurityGroupReferencingSupport", true, referencing)?;
    set(&mut changed.options, "Ipv6Support", &asked.ipv6_support);
    for subnet_id in input.remove_subnet_ids.unwrap_or_default() {
        let Some(index) = changed.subnet_ids.iter().position(|known| *known == subnet_id) else {
            return Err(Error::client(
                "InvalidSubnetID.NotFound",
                format!("The subnet ID '{subnet_id}' is not in {id}"),
            ));
        };
        changed.subnet_ids.remove(index);
        let interface_id = changed.interface_ids.remove(index);
        interface::delete_by_id(call, call.account(), &interface_id)?;
    }
    let added = input.add_subnet_ids.unwrap_or_default();
    changed.subnet_ids.extend(added.iter().cloned());
    if changed.subnet_ids.is_empty() {
        return Err(Error::invalid_parameter_value("An attachment needs at least one subnet."));
    }
    let subnets = check_subnets(call, &changed.resource_id, &changed.subnet_ids)?;
    for subnet in subnets.iter().filter(|subnet| added.contains(&subnet.id)) {
        changed.interface_ids.push(stage_interface(call, &id, subnet)?);
    }
    let attachment = call.put(&ATTACHMENT.key(call, &id), changed);
    Ok(api::ModifyTransitGatewayVpcAttachmentResult {
        transit_gateway_vpc_attachment: Some(describe::vpc_attachment(call.account(), &attachment)),
    })
}

pub(super) fn delete(
    call: &mut Call<'_>,
    input: api::DeleteTransitGatewayVpcAttachmentRequest,
) -> Result<api::DeleteTransitGatewayVpcAttachmentResult, Error> {
    let id = input.transit_gateway_attachment_id.unwrap_or_default();
    let attachment = find_vpc_attachment(call, &id)?;
    if !attachment.is_available() {
        return Err(invalid_state(&id));
    }
    let attachment = call.put(&ATTACHMENT.key(call, &id), leaving(&attachment));
    Ok(api::DeleteTransitGatewayVpcAttachmentResult {
        transit_gateway_vpc_attachment: Some(describe::vpc_attachment(call.account(), &attachment)),
    })
}

/// An attachment that is being deleted: no route table knows it any more.
pub(super) fn leaving(attachment: &TransitGatewayAttachment) -> TransitGatewayAttachment {
    TransitGatewayAttachment {
        state: Progress::Deleting,
        pending_acceptance: false,
        association: None,
        propagations: Vec::new(),
        ..attachment.clone()
    }
}

/// An attachment of another account's VPC waits for its gateway's owner. Since no gateway is shared
/// here, none does.
fn waiting(call: &mut Call<'_>, id: &str) -> Result<Arc<TransitGatewayAttachment>, Error> {
    let attachment = find_vpc_attachment(call, id)?;
    if attachment.pending_acceptance { Ok(attachment) } else { Err(invalid_state(id)) }
}

pub(super) fn accept(
    call: &mut Call<'_>,
    input: api::AcceptTransitGatewayVpcAttachmentRequest,
) -> Result<api::AcceptTransitGatewayVpcAttachmentResult, Error> {
    let id = input.transit_gateway_attachment_id.unwrap_or_default();
    let mut changed = TransitGatewayAttachment::clone(&*waiting(call, &id)?);
    changed.pending_acceptance = false;
    let attachment = call.put(&ATTACHMENT.key(call, &id), changed);
    Ok(api::AcceptTransitGatewayVpcAttachmentResult {
        transit_gateway_vpc_attachment: Some(describe::vpc_attachment(call.account(), &attachment)),
    })
}

pub(super) fn reject(
    call: &mut Call<'_>,
    input: api::RejectTransitGatewayVpcAttachmentRequest,
) -> Result<api::RejectTransitGatewayVpcAttachmentResult, Error> {
    let id = input.transit_gateway_attachment_id.unwrap_or_default();
    let attachment = waiting(call, &id)?;
    for interface_id in &attachment.interface_ids {
        interface::delete_by_id(call, call.account(), interface_id)?;
    }
    let mut changed = TransitGatewayAttachment::clone(&attachment);
    changed.interface_ids.clear();
    changed.state = Progress::Failed;
    changed.deleted = Some(call.now);
    let attachment = call.put(&ATTACHMENT.key(call, &id), changed);
    Ok(api::RejectTransitGatewayVpcAttachmentResult {
        transit_gateway_vpc_attachment: Some(describe::vpc_attachment(call.account(), &attachment)),
    })
}

/// An available attachment with an available route table of the same gateway.
pub(super) fn with_table(
    call: &mut Call<'_>,
    attachment_id: &str,
    table_id: &str,
) -> Result<(Arc<TransitGatewayAttachment>, Arc<TransitGatewayRouteTable>), Error> {
    let table = ROUTE_TABLE.available::<TransitGatewayRouteTable>(call, table_id)?;
    let attachment = ATTACHMENT.available::<TransitGatewayAttachment>(call, attachment_id)?;
    if attachment.transit_gateway_id != table.transit_gateway_id {
        return Err(incorrect_state(format!(
            "{attachment_id} and {table_id} belong to different transit gateways"
        )));
    }
    Ok((attachment, table))
}
