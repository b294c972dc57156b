//! Route tables of transit gateways: which attachments they serve and which they know.

use super::describe;
use super::{
    ATTACHMENT, Live, ROUTE_TABLE, TRANSIT_GATEWAY, attachment, incorrect_state, invalid_state,
    route,
};
use crate::record::{
    Progress, Tags, TransitGateway, TransitGatewayAttachment, TransitGatewayRouteTable,
};
use crate::tag;
use model::ec2::{self as api, op};
use service::{Call, Error, Operation, operation};
use std::sync::Arc;

/// Most route tables of a gateway (Transit Gateways guide, "Quotas").
const MAX_TABLES: usize = 20;

pub(super) const OPERATIONS: &[Operation] = &[
    operation!(
        op::CreateTransitGatewayRouteTable,
        create,
        Write,
        ["TransitGatewayId", "TagSpecifications.*"]
    ),
    operation!(op::DeleteTransitGatewayRouteTable, delete, Write, ["TransitGatewayRouteTableId"]),
    operation!(
        op::DescribeTransitGatewayRouteTables,
        describe::describe_route_tables,
        Read,
        ["TransitGatewayRouteTableIds", "Filters.*", "MaxResults", "NextToken"]
    ),
    operation!(
        op::AssociateTransitGatewayRouteTable,
        associate,
        Write,
        ["TransitGatewayRouteTableId", "TransitGatewayAttachmentId"]
    ),
    operation!(
        op::DisassociateTransitGatewayRouteTable,
        disassociate,
        Write,
        ["TransitGatewayRouteTableId", "TransitGatewayAttachmentId"]
    ),
    operation!(
        op::GetTransitGatewayRouteTableAssociations,
        describe::get_associations,
        Read,
        ["TransitGatewayRouteTableId", "Filters.*", "MaxResults", "NextToken"]
    ),
    operation!(
        op::EnableTransitGatewayRouteTablePropagation,
        enable_propagation,
        Write,
        ["TransitGatewayRouteTableId", "TransitGatewayAttachmentId"]
    ),
    operation!(
        op::DisableTransitGatewayRouteTablePropagation,
        disable_propagation,
        Write,
        ["TransitGatewayRouteTableId", "TransitGatewayAttachmentId"]
    ),
    operation!(
        op::GetTransitGatewayRouteTablePropagations,
        describe::get_table_propagations,
        Read,
        ["TransitGatewayRouteTableId", "Filters.*", "MaxResults", "NextToken"]
    ),
    operation!(
        op::GetTransitGatewayAttachmentPropagations,
        describe::get_attachment_propagations,
        Read,
        ["TransitGatewayAttachmentId", "Filters.*", "MaxResults", "NextToken"]
    ),
    operation!(
        op::CreateTransitGatewayRoute,
        route::create,
        Write,
        [
            "TransitGatewayRouteTableId",
            "DestinationCidrBlock",
            "TransitGatewayAttachmentId",
            "Blackhole",
        ]
    ),
    operation!(
        op::ReplaceTransitGatewayRoute,
        route::replace,
        Write,
        [
            "TransitGatewayRouteTableId",
            "DestinationCidrBlock",
            "TransitGatewayAttachmentId",
            "Blackhole",
        ]
    ),
    operation!(
        op::DeleteTransitGatewayRoute,
        route::delete,
        Write,
        ["TransitGatewayRouteTableId", "DestinationCidrBlock"]
    ),
    operation!(
        op::SearchTransitGatewayRoutes,
        route::search,
        Read,
        ["TransitGatewayRouteTableId", "Filters.*", "MaxResults", "NextToken"]
    ),
    operation!(
        op::CreateTransitGatewayPrefixListReference,
        route::create_reference,
        Write,
        ["TransitGatewayRouteTableId", "PrefixListId", "TransitGatewayAttachmentId", "Blackhole",]
    ),
    operation!(
        op::ModifyTransitGatewayPrefixListReference,
        route::modify_reference,
        Write,
        ["TransitGatewayRouteTableId", "PrefixListId", "TransitGatewayAttachmentId", "Blackhole",]
    ),
    operation!(
        op::DeleteTransitGatewayPrefixListReference,
        route::delete_reference,
        Write,
        ["TransitGatewayRouteTableId", "PrefixListId"]
    ),
    operation!(
        op::GetTransitGatewayPrefixListReferences,
        route::get_references,
        Read,
        ["TransitGatewayRouteTableId", "Filters.*", "MaxResults", "NextToken"]
    ),
];

/// Stages a new table of a gateway.
pub(super) fn stage(
    call: &mut Call<'_>,
    gateway_id: &str,
    tags: Tags,
) -> Arc<TransitGatewayRouteTable> {
    let table = TransitGatewayRouteTable {
        v: 1,
        id: call.new_id("tgw-rtb"),
        transit_gateway_id: gateway_id.to_owned(),
        state: Progress::Pending,
        routes: Vec::new(),
        prefix_lists: Vec::new(),
        created: call.now,
        deleted: None,
        tags,
    };
    call.put(&ROUTE_TABLE.key(call, &table.id.clone()), table)
}

/// Stages the deletion of a table.
pub(super) fn stage_deletion(
    call: &mut Call<'_>,
    table: &TransitGatewayRouteTable,
) -> Arc<TransitGatewayRouteTable> {
    let changed = TransitGatewayRouteTable {
        state: Progress::Deleting,
        routes: Vec::new(),
        prefix_lists: Vec::new(),
        ..table.clone()
    };
    call.put(&ROUTE_TABLE.key(call, &table.id), changed)
}

/// The available table with this id, which must be one of a gateway.
pub(super) fn of_gateway(
    call: &mut Call<'_>,
    id: &str,
    gateway_id: &str,
) -> Result<Arc<TransitGatewayRouteTable>, Error> {
    let table = ROUTE_TABLE.available::<TransitGatewayRouteTable>(call, id)?;
    if table.transit_gateway_id == gateway_id { Ok(table) } else { Err(ROUTE_TABLE.not_found(id)) }
}

pub(super) fn create(
    call: &mut Call<'_>,
    input: api::CreateTransitGatewayRouteTableRequest,
) -> Result<api::CreateTransitGatewayRouteTableResult, Error> {
    const TYPE: &str = "transit-gateway-route-table";
    let given = input.tag_specifications.as_deref();
    let tags = tag::from_specifications(given, TYPE, &[TYPE])?;
    let gateway_id = input.transit_gateway_id.unwrap_or_default();
    let gateway = TRANSIT_GATEWAY.available::<TransitGateway>(call, &gateway_id)?;
    let tables = ROUTE_TABLE.key(call, "");
    let known = call.get_all::<TransitGatewayRouteTable>(&tables)?;
    let of_gateway = known.iter().filter(|t| t.transit_gateway_id == gateway_id && t.is_there());
    if of_gateway.count() >= MAX_TABLES {
        return Err(Error::client(
            "TransitGatewayRouteTableLimitExceeded",
            format!("The maximum number of route tables of {gateway_id} has been reached."),
        ));
    }
    let table = stage(call, &gateway_id, tags);
    Ok(api::CreateTransitGatewayRouteTableResult {
        transit_gateway_route_table: Some(describe::route_table(&table, Some(&gateway))),
    })
}

pub(super) fn delete(
    call: &mut Call<'_>,
    input: api::DeleteTransitGatewayRouteTableRequest,
) -> Result<api::DeleteTransitGatewayRouteTableResult, Error> {
    let id = input.transit_gateway_route_table_id.unwrap_or_default();
    let table = ROUTE_TABLE.available::<TransitGatewayRouteTable>(call, &id)?;
    let gateway_key = TRANSIT_GATEWAY.key(call, &table.transit_gateway_id);
    let gateway = call.get::<TransitGateway>(&gateway_key)?;
    let is_default = gateway.as_ref().is_some_and(|gateway| {
        [&gateway.association_table_id, &gateway.propagation_table_id]
            .iter()
            .any(|default| default.as_deref() == Some(id.as_str()))
    });
    if is_default {
        return Err(incorrect_state(format!(
            "{id} is a default route table of {} and cannot be deleted",
            table.transit_gateway_id
        )));
    }
    let attachments = ATTACHMENT.key(call, "");
    let attachments = call.get_all::<TransitGatewayAttachment>(&attachments)?;
    if attachments.iter().any(|attachment| attachment.association.as_deref() == Some(&id)) {
        return Err(incorrect_state(format!("{id} has associated attachments")));
    }
    for attachment in attachments.iter().filter(|a| a.propagations.contains(&id)) {
        let mut changed = TransitGatewayAttachment::clone(attachment);
        changed.propagations.retain(|table_id| *table_id != id);
        call.put(&ATTACHMENT.key(call, &attachment.id), changed);
    }
    let table = stage_deletion(call, &table);
    Ok(api::DeleteTransitGatewayRouteTableResult {
        transit_gateway_route_table: Some(describe::route_table(&table, gateway.as_deref())),
    })
}

fn association(
    attachment: &TransitGatewayAttachment,
    table_id: &str,
    state: &str,
) -> api::TransitGatewayAssociation {
    api::TransitGatewayAssociation {
        resource_id: Some(attachment.resource_id.clone()),
        resource_type: Some(describe::resource_type(attachment).to_owned()),
        state: Some(state.to_owned()),
        transit_gateway_attachment_id: Some(attachment.id.clone()),
        transit_gateway_route_table_id: Some(table_id.to_owned()),
    }
}

pub(super) fn associate(
    call: &mut Call<'_>,
    input: api::AssociateTransitGatewayRouteTableRequest,
) -> Result<api::AssociateTransitGatewayRouteTableResult, Error> {
    let table_id = input.transit_gateway_route_table_id.unwrap_or_default();
    let attachment_id = input.transit_gateway_attachment_id.unwrap_or_default();
    let (attachment, table) = attachment::with_table(call, &attachment_id, &table_id)?;
    if attachment.association.is_some() {
        return Err(Error::client(
            "Resource.AlreadyAssociated",
            format!(
                "Transit Gateway Attachment {attachment_id} is already associated to a route table."
            ),
        ));
    }
    let mut changed = TransitGatewayAttachment::clone(&attachment);
    changed.association = Some(table.id.clone());
    call.put(&ATTACHMENT.key(call, &attachment_id), changed);
    Ok(api::AssociateTransitGatewayRouteTableResult {
        association: Some(association(&attachment, &table_id, "associating")),
    })
}

pub(super) fn disassociate(
    call: &mut Call<'_>,
    input: api::DisassociateTransitGatewayRouteTableRequest,
) -> Result<api::DisassociateTransitGatewayRouteTableResult, Error> {
    let table_id = input.transit_gateway_route_table_id.unwrap_or_default();
    let attachment_id = input.transit_gateway_attachment_id.unwrap_or_default();
    let (attachment, _) = attachment::with_table(call, &attachment_id, &table_id)?;
    if attachment.association.as_deref() != Some(&table_id) {
        return Err(Error::client(
            "InvalidAssociation.NotFound",
            format!(
                "Association of Transit Gateway Attachment {attachment_id} to Transit Gateway \
                 Route Table {table_id} does not exist."
            ),
        ));
    }
    let mut changed = TransitGatewayAttachment::clone(&attachment);
    changed.association = None;
    call.put(&ATTACHMENT.key(call, &attachment_id), changed);
    Ok(api::DisassociateTransitGatewayRouteTableResult {
        association: Some(association(&attachment, &table_id, "disassociating")),
    })
}

fn propagation(
    attachment: &TransitGatewayAttachment,
    table_id: &str,
    state: &str,
) -> api::TransitGatewayPropagation {
    api::TransitGatewayPropagation {
        resource_id: Some(attachment.resource_id.clone()),
        resource_type: Some(describe::resource_type(attachment).to_owned()),
        state: Some(state.to_owned()),
        transit_gateway_attachment_id: Some(attachment.id.clone()),
        transit_gateway_route_table_id: Some(table_id.to_owned()),
        ..Default::default()
    }
}

pub(super) fn enable_propagation(
    call: &mut Call<'_>,
    input: api::EnableTransitGatewayRouteTablePropagationRequest,
) -> Result<api::EnableTransitGatewayRouteTablePropagationResult, Error> {
    let table_id = input.transit_gateway_route_table_id.unwrap_or_default();
    let attachment_id = given(input.transit_gateway_attachment_id)?;
    let (attachment, table) = attachment::with_table(call, &attachment_id, &table_id)?;
    if attachment.peer_region.is_some() {
        return Err(invalid_state(&attachment_id));
    }
    if attachment.propagations.contains(&table_id) {
        return Err(Error::client(
            "TransitGatewayRouteTablePropagation.Duplicate",
            format!("Propagation of {attachment_id} to {table_id} already exists."),
        ));
    }
    let mut changed = TransitGatewayAttachment::clone(&attachment);
    changed.propagations.push(table.id.clone());
    call.put(&ATTACHMENT.key(call, &attachment_id), changed);
    Ok(api::EnableTransitGatewayRouteTablePropagationResult {
        propagation: Some(propagation(&attachment, &table_id, "enabled")),
    })
}

pub(super) fn disable_propagation(
    call: &mut Call<'_>,
    input: api::DisableTransitGatewayRouteTablePropagationRequest,
) -> Result<api::DisableTransitGatewayRouteTablePropagationResult, Error> {
    let table_id = input.transit_gateway_route_table_id.unwrap_or_default();
    let attachment_id = given(input.transit_gateway_attachment_id)?;
    let (attachment, _) = attachment::with_table(call, &attachment_id, &table_id)?;
    if !attachment.propagations.contains(&table_id) {
        return Err(Error::client(
            "TransitGatewayRouteTablePropagation.NotFound",
            format!("Propagation of {attachment_id} to {table_id} does not exist."),
        ));
    }
    let mut changed = TransitGatewayAttachment::clone(&attachment);
    changed.propagations.retain(|known| *known != table_id);
    call.put(&ATTACHMENT.key(call, &attachment_id), changed);
    Ok(api::DisableTransitGatewayRouteTablePropagationResult {
        propagation: Some(propagation(&attachment, &table_id, "disabled")),
    })
}

fn given(id: Option<String>) -> Result<String, Error> {
    let id = id.filter(|id| !id.is_empty());
    id.ok_or_else(|| Error::missing_parameter("TransitGatewayAttachmentId"))
}
