//! Describing gateways, attachments, route tables and what ties them together.

use super::{ATTACHMENT, Live, ROUTE_TABLE, TRANSIT_GATEWAY, arn, is_on, state_name, switch};
use crate::record::{
    Progress, Tags, TransitGateway, TransitGatewayAttachment, TransitGatewayRouteTable,
};
use crate::tag;
use model::ec2 as api;
use service::filter::{Field, Filters, Values};
use service::page::{Page, page};
use service::{Call, Error};
use std::borrow::Cow;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// A gateway as the API shows it.
pub(super) fn gateway(
    region: &str,
    account: &str,
    gateway: &TransitGateway,
) -> api::TransitGateway {
    let on = |name: &str| switch(is_on(&gateway.options, name));
    api::TransitGateway {
        creation_time: Some(gateway.created),
        description: Some(gateway.description.clone()),
        options: Some(api::TransitGatewayOptions {
            amazon_side_asn: Some(gateway.asn),
            association_default_route_table_id: gateway.association_table_id.clone(),
            auto_accept_shared_attachments: on("AutoAcceptSharedAttachments"),
            default_route_table_association: on("DefaultRouteTableAssociation"),
            default_route_table_propagation: on("DefaultRouteTablePropagation"),
            dns_support: on("DnsSupport"),
            multicast_support: on("MulticastSupport"),
            propagation_default_route_table_id: gateway.propagation_table_id.clone(),
            security_group_referencing_support: on("SecurityGroupReferencingSupport"),
            transit_gateway_cidr_blocks: (!gateway.cidrs.is_empty())
                .then(|| gateway.cidrs.iter().map(ToString::to_string).collect()),
            vpn_ecmp_support: on("VpnEcmpSupport"),
            ..Default::default()
        }),
        owner_id: Some(account.to_owned()),
        state: Some(state_name(gateway.state).to_owned()),
        tags: tag::to_model(&gateway.tags),
        transit_gateway_arn: Some(arn(region, account, &gateway.id)),
        transit_gateway_id: Some(gateway.id.clone()),
    }
}

/// A record with the account that it belongs to.
struct View<T> {
    account: Rc<str>,
    record: Arc<T>,
}

/// Those that the filters accept, as views, cut to a page.
fn chosen<T>(
    call: &Call<'_>,
    records: Vec<Arc<T>>,
    filters: &Filters<'_, View<T>>,
    parts: fn(&T) -> (&str, &Tags),
    max_results: Option<i32>,
    next_token: Option<&str>,
) -> Result<Page<View<T>>, Error> {
    let account: Rc<str> = call.account().into();
    let views = records
        .into_iter()
        .map(|record| View { account: Rc::clone(&account), record })
        .filter(|view| filters.accept(view, parts(&view.record).1))
        .collect();
    page(views, |view| parts(&view.record).0, max_results, next_token, 5..=1000)
}

fn optional(text: &Option<String>) -> Values<'_> {
    text.iter().map(|text| text.as_str().into()).collect()
}

fn option<'a>(view: &'a View<TransitGateway>, name: &str) -> Values<'a> {
    vec![if is_on(&view.record.options, name) { "enable" } else { "disable" }.into()]
}

const GATEWAY_FILTERS: &[Field<View<TransitGateway>>] = &[
    ("options.amazon-side-asn", |v| vec![v.record.asn.to_string().into()]),
    ("options.association-default-route-table-id", |v| optional(&v.record.association_table_id)),
    ("options.auto-accept-shared-attachments", |v| option(v, "AutoAcceptSharedAttachments")),
    ("options.default-route-table-association", |v| option(v, "DefaultRouteTableAssociation")),
    ("options.default-route-table-propagation", |v| option(v, "DefaultRouteTablePropagation")),
    ("options.dns-support", |v| option(v, "DnsSupport")),
    ("options.propagation-default-route-table-id", |v| optional(&v.record.propagation_table_id)),
    ("options.vpn-ecmp-support", |v| option(v, "VpnEcmpSupport")),
    ("owner-id", |v| vec![v.account.as_ref().into()]),
    ("state", |v| vec![state_name(v.record.state).into()]),
    ("transit-gateway-id", |v| vec![v.record.id.as_str().into()]),
];

fn of_gateway(gateway: &TransitGateway) -> (&str, &Tags) {
    (&gateway.id, &gateway.tags)
}

pub(super) fn describe_transit_gateways(
    call: &mut Call<'_>,
    input: api::DescribeTransitGatewaysRequest,
) -> Result<api::DescribeTransitGatewaysResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), GATEWAY_FILTERS)?;
    let found = TRANSIT_GATEWAY.described::<TransitGateway>(call, input.transit_gateway_ids)?;
    let page =
        chosen(call, found, &filters, of_gateway, input.max_results, input.next_token.as_deref())?;
    let shown = page.items.iter().map(|v| gateway(call.region, &v.account, &v.record)).collect();
    Ok(api::DescribeTransitGatewaysResult {
        transit_gateways: Some(shown),
        next_token: page.next_token,
    })
}

/// The state of an attachment in the API.
fn attachment_state(attachment: &TransitGatewayAttachment) -> &'static str {
    match attachment.state {
        Progress::Pending if attachment.pending_acceptance => "pendingAcceptance",
        // Nothing else fails here.
        Progress::Failed => "rejected",
        state => state_name(state),
    }
}

/// `vpc` or `peering`.
pub(super) fn resource_type(attachment: &TransitGatewayAttachment) -> &'static str {
    if attachment.peer_region.is_some() { "peering" } else { "vpc" }
}

fn resource_owner<'a>(view: &'a View<TransitGatewayAttachment>) -> Cow<'a, str> {
    view.record.peer_account.as_deref().unwrap_or(&view.account).into()
}

/// An attachment of a VPC as the API shows it.
pub(super) fn vpc_attachment(
    account: &str,
    attachment: &TransitGatewayAttachment,
) -> api::TransitGatewayVpcAttachment {
    let on = |name: &str| switch(is_on(&attachment.options, name));
    api::TransitGatewayVpcAttachment {
        creation_time: Some(attachment.created),
        options: Some(api::TransitGatewayVpcAttachmentOptions {
            appliance_mode_support: on("ApplianceModeSupport"),
            dns_support: on("DnsSupport"),
            ipv6_support: on("Ipv6Support"),
            security_group_referencing_support: on("SecurityGroupReferencingSupport"),
        }),
        state: Some(attachment_state(attachment).to_owned()),
        subnet_ids: Some(attachment.subnet_ids.clone()),
        tags: tag::to_model(&attachment.tags),
        transit_gateway_attachment_id: Some(attachment.id.clone()),
        transit_gateway_id: Some(attachment.transit_gateway_id.clone()),
        vpc_id: Some(attachment.resource_id.clone()),
        vpc_owner_id: Some(account.to_owned()),
    }
}

/// A peering attachment as the API shows it to the owner of one end.
pub(super) fn peering(
    region: &str,
    account: &str,
    attachment: &TransitGatewayAttachment,
) -> api::TransitGatewayPeeringAttachment {
    let own = api::PeeringTgwInfo {
        owner_id: Some(account.to_owned()),
        region: Some(region.to_owned()),
        transit_gateway_id: Some(attachment.transit_gateway_id.clone()),
        ..Default::default()
    };
    let other = api::PeeringTgwInfo {
        owner_id: attachment.peer_account.clone(),
        region: attachment.peer_region.clone(),
        transit_gateway_id: Some(attachment.resource_id.clone()),
        ..Default::default()
    };
    let (requester, accepter) = if attachment.is_accepter { (other, own) } else { (own, other) };
    let state = attachment_state(attachment);
    api::TransitGatewayPeeringAttachment {
        accepter_tgw_info: Some(accepter),
        accepter_transit_gateway_attachment_id: Some(attachment.id.clone()),
        creation_time: Some(attachment.created),
        options: Some(api::TransitGatewayPeeringAttachmentOptions {
            dynamic_routing: switch(false),
        }),
        requester_tgw_info: Some(requester),
        state: Some(state.to_owned()),
        status: Some(api::PeeringAttachmentStatus { code: Some(state.to_owned()), message: None }),
        tags: tag::to_model(&attachment.tags),
        transit_gateway_attachment_id: Some(attachment.id.clone()),
    }
}

fn attachment_id<'a>(view: &'a View<TransitGatewayAttachment>) -> Values<'a> {
    vec![view.record.id.as_str().into()]
}

fn gateway_id<'a>(view: &'a View<TransitGatewayAttachment>) -> Values<'a> {
    vec![view.record.transit_gateway_id.as_str().into()]
}

fn resource_id<'a>(view: &'a View<TransitGatewayAttachment>) -> Values<'a> {
    vec![view.record.resource_id.as_str().into()]
}

fn kind<'a>(view: &'a View<TransitGatewayAttachment>) -> Values<'a> {
    vec![resource_type(&view.record).into()]
}

fn state<'a>(view: &'a View<TransitGatewayAttachment>) -> Values<'a> {
    vec![attachment_state(&view.record).into()]
}

fn owner<'a>(view: &'a View<TransitGatewayAttachment>) -> Values<'a> {
    vec![view.account.as_ref().into()]
}

const VPC_ATTACHMENT_FILTERS: &[Field<View<TransitGatewayAttachment>>] = &[
    ("state", state),
    ("transit-gateway-attachment-id", attachment_id),
    ("transit-gateway-id", gateway_id),
    ("vpc-id", resource_id),
];

const PEERING_FILTERS: &[Field<View<TransitGatewayAttachment>>] = &[
    ("local-owner-id", owner),
    ("remote-owner-id", |v| vec![resource_owner(v)]),
    ("state", state),
    ("transit-gateway-attachment-id", attachment_id),
    ("transit-gateway-id", gateway_id),
];

const ATTACHMENT_FILTERS: &[Field<View<TransitGatewayAttachment>>] = &[
    ("association.state", |v| v.record.association.iter().map(|_| "associated".into()).collect()),
    ("association.transit-gateway-route-table-id", |v| optional(&v.record.association)),
    ("resource-id", resource_id),
    ("resource-owner-id", |v| vec![resource_owner(v)]),
    ("resource-type", kind),
    ("state", state),
    ("transit-gateway-attachment-id", attachment_id),
    ("transit-gateway-id", gateway_id),
    ("transit-gateway-owner-id", owner),
];

fn of_attachment(attachment: &TransitGatewayAttachment) -> (&str, &Tags) {
    (&attachment.id, &attachment.tags)
}

pub(super) fn describe_vpc_attachments(
    call: &mut Call<'_>,
    input: api::DescribeTransitGatewayVpcAttachmentsRequest,
) -> Result<api::DescribeTransitGatewayVpcAttachmentsResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), VPC_ATTACHMENT_FILTERS)?;
    let ids = input.transit_gateway_attachment_ids;
    let mut found = ATTACHMENT.described::<TransitGatewayAttachment>(call, ids)?;
    found.retain(|attachment| attachment.peer_region.is_none());
    let next_token = input.next_token.as_deref();
    let page = chosen(call, found, &filters, of_attachment, input.max_results, next_token)?;
    let shown = page.items.iter().map(|view| vpc_attachment(&view.account, &view.record));
    Ok(api::DescribeTransitGatewayVpcAttachmentsResult {
        transit_gateway_vpc_attachments: Some(shown.collect()),
        next_token: page.next_token,
    })
}

pub(super) fn describe_peering_attachments(
    call: &mut Call<'_>,
    input: api::DescribeTransitGatewayPeeringAttachmentsRequest,
) -> Result<api::DescribeTransitGatewayPeeringAttachmentsResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), PEERING_FILTERS)?;
    let ids = input.transit_gateway_attachment_ids;
    let mut found = ATTACHMENT.described::<TransitGatewayAttachment>(call, ids)?;
    found.retain(|attachment| attachment.peer_region.is_some());
    let next_token = input.next_token.as_deref();
    let page = chosen(call, found, &filters, of_attachment, input.max_results, next_token)?;
    let shown = page.items.iter().map(|view| peering(call.region, &view.account, &view.record));
    Ok(api::DescribeTransitGatewayPeeringAttachmentsResult {
        transit_gateway_peering_attachments: Some(shown.collect()),
        next_token: page.next_token,
    })
}

pub(super) fn describe_attachments(
    call: &mut Call<'_>,
    input: api::DescribeTransitGatewayAttachmentsRequest,
) -> Result<api::DescribeTransitGatewayAttachmentsResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), ATTACHMENT_FILTERS)?;
    let ids = input.transit_gateway_attachment_ids;
    let found = ATTACHMENT.described::<TransitGatewayAttachment>(call, ids)?;
    let next_token = input.next_token.as_deref();
    let page = chosen(call, found, &filters, of_attachment, input.max_results, next_token)?;
    let shown = page.items.iter().map(|view| {
        let attachment = &view.record;
        api::TransitGatewayAttachment {
            association: attachment.association.as_ref().map(|table_id| {
                api::TransitGatewayAttachmentAssociation {
                    state: Some("associated".to_owned()),
                    transit_gateway_route_table_id: Some(table_id.clone()),
                }
            }),
            creation_time: Some(attachment.created),
            resource_id: Some(attachment.resource_id.clone()),
            resource_owner_id: Some(resource_owner(view).into_owned()),
            resource_type: Some(resource_type(attachment).to_owned()),
            state: Some(attachment_state(attachment).to_owned()),
            tags: tag::to_model(&attachment.tags),
            transit_gateway_attachment_id: Some(attachment.id.clone()),
            transit_gateway_id: Some(attachment.transit_gateway_id.clone()),
            transit_gateway_owner_id: Some(view.account.to_string()),
        }
    });
    Ok(api::DescribeTransitGatewayAttachmentsResult {
        transit_gateway_attachments: Some(shown.collect()),
        next_token: page.next_token,
    })
}

/// Whether a table is its gateway's default one for associations, and for propagations.
fn defaults(table: &TransitGatewayRouteTable, gateway: Option<&TransitGateway>) -> [bool; 2] {
    let is = |default: &Option<String>| default.as_deref() == Some(table.id.as_str());
    gateway.map_or([false; 2], |gateway| {
        [is(&gateway.association_table_id), is(&gateway.propagation_table_id)]
    })
}

/// A route table as the API shows it.
pub(super) fn route_table(
    table: &TransitGatewayRouteTable,
    gateway: Option<&TransitGateway>,
) -> api::TransitGatewayRouteTable {
    let [associates, propagates] = defaults(table, gateway);
    api::TransitGatewayRouteTable {
        creation_time: Some(table.created),
        default_association_route_table: Some(associates),
        default_propagation_route_table: Some(propagates),
        state: Some(state_name(table.state).to_owned()),
        tags: tag::to_model(&table.tags),
        transit_gateway_id: Some(table.transit_gateway_id.clone()),
        transit_gateway_route_table_id: Some(table.id.clone()),
    }
}

/// A route table with its gateway.
struct Table {
    table: Arc<TransitGatewayRouteTable>,
    gateway: Option<Arc<TransitGateway>>,
}

impl Table {
    fn default(&self, index: usize) -> Values<'_> {
        vec![defaults(&self.table, self.gateway.as_deref())[index].to_string().into()]
    }
}

const TABLE_FILTERS: &[Field<Table>] = &[
    ("default-association-route-table", |t| t.default(0)),
    ("default-propagation-route-table", |t| t.default(1)),
    ("state", |t| vec![state_name(t.table.state).into()]),
    ("transit-gateway-id", |t| vec![t.table.transit_gateway_id.as_str().into()]),
    ("transit-gateway-route-table-id", |t| vec![t.table.id.as_str().into()]),
];

pub(super) fn describe_route_tables(
    call: &mut Call<'_>,
    input: api::DescribeTransitGatewayRouteTablesRequest,
) -> Result<api::DescribeTransitGatewayRouteTablesResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), TABLE_FILTERS)?;
    let gateways: HashMap<String, Arc<TransitGateway>> = call
        .scan::<TransitGateway>(&TRANSIT_GATEWAY.key(call, ""))?
        .into_iter()
        .map(|gateway| (gateway.id.clone(), gateway))
        .collect();
    let ids = input.transit_gateway_route_table_ids;
    let tables = ROUTE_TABLE
        .described::<TransitGatewayRouteTable>(call, ids)?
        .into_iter()
        .map(|table| Table { gateway: gateways.get(&table.transit_gateway_id).cloned(), table })
        .filter(|table| filters.accept(table, &table.table.tags))
        .collect();
    let page = page(
        tables,
        |table| &table.table.id,
        input.max_results,
        input.next_token.as_deref(),
        5..=1000,
    )?;
    let shown = page.items.iter().map(|table| route_table(&table.table, table.gateway.as_deref()));
    Ok(api::DescribeTransitGatewayRouteTablesResult {
        transit_gateway_route_tables: Some(shown.collect()),
        next_token: page.next_token,
    })
}

const TIE_FILTERS: &[Field<View<TransitGatewayAttachment>>] = &[
    ("resource-id", resource_id),
    ("resource-type", kind),
    ("transit-gateway-attachment-id", attachment_id),
];

/// The attachments that are tied to a table in one way or the other.
fn tied(
    call: &mut Call<'_>,
    table_id: &str,
    is_tied: impl Fn(&TransitGatewayAttachment) -> bool,
) -> Result<Vec<Arc<TransitGatewayAttachment>>, Error> {
    ROUTE_TABLE.find::<TransitGatewayRouteTable>(call, table_id)?;
    let mut found = call.scan::<TransitGatewayAttachment>(&ATTACHMENT.key(call, ""))?;
    found.retain(|attachment| attachment.is_there() && is_tied(attachment));
    Ok(found)
}

pub(super) fn get_associations(
    call: &mut Call<'_>,
    input: api::GetTransitGatewayRouteTableAssociationsRequest,
) -> Result<api::GetTransitGatewayRouteTableAssociationsResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), TIE_FILTERS)?;
    let id = input.transit_gateway_route_table_id.unwrap_or_default();
    let found = tied(call, &id, |a| a.association.as_deref() == Some(&id))?;
    let next_token = input.next_token.as_deref();
    let page = chosen(call, found, &filters, of_attachment, input.max_results, next_token)?;
    let shown = page.items.iter().map(|view| api::TransitGatewayRouteTableAssociation {
        resource_id: Some(view.record.resource_id.clone()),
        resource_type: Some(resource_type(&view.record).to_owned()),
        state: Some("associated".to_owned()),
        transit_gateway_attachment_id: Some(view.record.id.clone()),
    });
    Ok(api::GetTransitGatewayRouteTableAssociationsResult {
        associations: Some(shown.collect()),
        next_token: page.next_token,
    })
}

pub(super) fn get_table_propagations(
    call: &mut Call<'_>,
    input: api::GetTransitGatewayRouteTablePropagationsRequest,
) -> Result<api::GetTransitGatewayRouteTablePropagationsResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), TIE_FILTERS)?;
    let id = input.transit_gateway_route_table_id.unwrap_or_default();
    let found = tied(call, &id, |attachment| attachment.propagations.contains(&id))?;
    let next_token = input.next_token.as_deref();
    let page = chosen(call, found, &filters, of_attachment, input.max_results, next_token)?;
    let shown = page.items.iter().map(|view| api::TransitGatewayRouteTablePropagation {
        resource_id: Some(view.record.resource_id.clone()),
        resource_type: Some(resource_type(&view.record).to_owned()),
        state: Some("enabled".to_owned()),
        transit_gateway_attachment_id: Some(view.record.id.clone()),
        ..Default::default()
    });
    Ok(api::GetTransitGatewayRouteTablePropagationsResult {
        transit_gateway_route_table_propagations: Some(shown.collect()),
        next_token: page.next_token,
    })
}

const PROPAGATION_FILTERS: &[Field<String>] =
    &[("transit-gateway-route-table-id", |id| vec![id.as_str().into()])];

pub(super) fn get_attachment_propagations(
    call: &mut Call<'_>,
    input: api::GetTransitGatewayAttachmentPropagationsRequest,
) -> Result<api::GetTransitGatewayAttachmentPropagationsResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), PROPAGATION_FILTERS)?;
    let id = input.transit_gateway_attachment_id.unwrap_or_default();
    let attachment = ATTACHMENT.find::<TransitGatewayAttachment>(call, &id)?;
    let mut ids = attachment.propagations.clone();
    ids.sort();
    ids.retain(|id| filters.accept(id, &Tags::new()));
    let page = page(ids, |id| id, input.max_results, input.next_token.as_deref(), 5..=1000)?;
    let shown = page.items.into_iter().map(|id| api::TransitGatewayAttachmentPropagation {
        state: Some("enabled".to_owned()),
        transit_gateway_route_table_id: Some(id),
    });
    Ok(api::GetTransitGatewayAttachmentPropagationsResult {
        transit_gateway_attachment_propagations: Some(shown.collect()),
        next_token: page.next_token,
    })
}
