//! Routes of transit gateways: static ones, those of prefix lists, and those that follow from
//! propagations. For one block a static route wins over a list's, and that over a propagated one
//! (Transit Gateways guide, "Route evaluation order").

use super::{ATTACHMENT, Live, ROUTE_TABLE, attachment, block, describe};
use crate::prefix_list;
use crate::record::{
    PrefixList, Tags, TransitGatewayAttachment, TransitGatewayRouteTable, Vpc, key,
};
use base::Cidr;
use model::ec2 as api;
use service::filter::{Field, Filter, Filters, Values};
use service::page::page;
use service::{Call, Error};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most static routes of a gateway, over all of its tables (Transit Gateways guide, "Quotas").
const MAX_ROUTES: usize = 10_000;

/// What an answer or a filter says of a route.
struct View {
    cidr: Cidr,
    /// Address family, network and length: the order of the pages.
    place: String,
    is_static: bool,
    prefix_list_id: Option<String>,
    /// None for a blackhole.
    attachment: Option<Arc<TransitGatewayAttachment>>,
    /// The attachment that it names, also one that is gone.
    attachment_id: Option<String>,
}

impl View {
    fn state(&self) -> &'static str {
        if self.attachment.as_ref().is_some_and(|a| a.is_available()) {
            "active"
        } else {
            "blackhole"
        }
    }

    fn to_model(&self) -> api::TransitGatewayRoute {
        api::TransitGatewayRoute {
            destination_cidr_block: Some(self.cidr.to_string()),
            prefix_list_id: self.prefix_list_id.clone(),
            state: Some(self.state().to_owned()),
            transit_gateway_attachments: self.attachment.as_ref().map(|attachment| {
                vec![api::TransitGatewayRouteAttachment {
                    resource_id: Some(attachment.resource_id.clone()),
                    resource_type: Some(describe::resource_type(attachment).to_owned()),
                    transit_gateway_attachment_id: Some(attachment.id.clone()),
                }]
            }),
            type_: Some(if self.is_static { "static" } else { "propagated" }.to_owned()),
            ..Default::default()
        }
    }
}

fn place(cidr: &Cidr) -> String {
    match cidr {
        Cidr::V4(cidr) => format!("4{:08x}/{:03}", u32::from(cidr.network()), cidr.length()),
        Cidr::V6(cidr) => format!("6{:032x}/{:03}", u128::from(cidr.network()), cidr.length()),
    }
}

/// The one target of a route: an attachment, or none with Blackhole.
fn target(
    call: &mut Call<'_>,
    table_id: &str,
    attachment_id: Option<String>,
    blackhole: Option<bool>,
) -> Result<(Arc<TransitGatewayRouteTable>, Option<Arc<TransitGatewayAttachment>>), Error> {
    let attachment_id = attachment_id.filter(|id| !id.is_empty());
    match (attachment_id, blackhole.unwrap_or(false)) {
        (Some(id), false) => {
            let (attachment, table) = attachment::with_table(call, &id, table_id)?;
            Ok((table, Some(attachment)))
        }
        (None, true) => Ok((ROUTE_TABLE.available(call, table_id)?, None)),
        (Some(_), true) => Err(Error::invalid_parameter_combination(
            "A route has a transit gateway attachment or is a blackhole, not both.",
        )),
        (None, false) => Err(Error::missing_parameter("TransitGatewayAttachmentId")),
    }
}

fn shown(
    cidr: Cidr,
    attachment: Option<Arc<TransitGatewayAttachment>>,
) -> api::TransitGatewayRoute {
    let attachment_id = attachment.as_ref().map(|attachment| attachment.id.clone());
    let place = place(&cidr);
    View { cidr, place, is_static: true, prefix_list_id: None, attachment, attachment_id }
        .to_model()
}

fn no_route(cidr: &Cidr, table_id: &str) -> Error {
    Error::client(
        "InvalidRoute.NotFound",
        format!("Route {cidr} was not found in Transit Gateway Route Table {table_id}."),
    )
}

/// Checks that a gateway's tables can take more static routes; a prefix list counts as its most
/// entries, in each table that refers to it.
fn check_room(call: &mut Call<'_>, gateway_id: &str, more: usize) -> Result<(), Error> {
    let tables = ROUTE_TABLE.key(call, "");
    let tables = call.get_all::<TransitGatewayRouteTable>(&tables)?;
    let mut count = more;
    for table in tables.iter().filter(|it| it.transit_gateway_id == gateway_id && it.is_there()) {
        count = count.saturating_add(table.routes.len());
        for (list_id, _) in &table.prefix_lists {
            let list = prefix_list::find(call, list_id)?;
            count = count.saturating_add(entries(&list));
        }
    }
    if count > MAX_ROUTES {
        return Err(Error::client(
            "RouteLimitExceeded",
            format!("The maximum number of static routes of {gateway_id} has been reached."),
        ));
    }
    Ok(())
}

/// What a prefix list counts as.
fn entries(list: &PrefixList) -> usize {
    usize::try_from(list.max_entries).unwrap_or(usize::MAX)
}

pub(super) fn create(
    call: &mut Call<'_>,
    input: api::CreateTransitGatewayRouteRequest,
) -> Result<api::CreateTransitGatewayRouteResult, Error> {
    let id = input.transit_gateway_route_table_id.unwrap_or_default();
    let cidr = block(&input.destination_cidr_block.unwrap_or_default())?;
    let (table, attachment) =
        target(call, &id, input.transit_gateway_attachment_id, input.blackhole)?;
    if table.routes.iter().any(|(known, _)| *known == cidr) {
        return Err(Error::client(
            "RouteAlreadyExists",
            format!("The route {cidr} already exists in Transit Gateway Route Table {id}."),
        ));
    }
    check_room(call, &table.transit_gateway_id, 1)?;
    let mut changed = TransitGatewayRouteTable::clone(&table);
    changed.routes.push((cidr, attachment.as_ref().map(|attachment| attachment.id.clone())));
    call.put(&ROUTE_TABLE.key(call, &id), changed);
    Ok(api::CreateTransitGatewayRouteResult { route: Some(shown(cidr, attachment)) })
}

pub(super) fn replace(
    call: &mut Call<'_>,
    input: api::ReplaceTransitGatewayRouteRequest,
) -> Result<api::ReplaceTransitGatewayRouteResult, Error> {
    let id = input.transit_gateway_route_table_id.unwrap_or_default();
    let cidr = block(&input.destination_cidr_block.unwrap_or_default())?;
    let (table, attachment) =
        target(call, &id, input.transit_gateway_attachment_id, input.blackhole)?;
    let mut changed = TransitGatewayRouteTable::clone(&table);
    let route = changed.routes.iter_mut().find(|(known, _)| *known == cidr);
    let (_, leads_to) = route.ok_or_else(|| no_route(&cidr, &id))?;
    *leads_to = attachment.as_ref().map(|attachment| attachment.id.clone());
    call.put(&ROUTE_TABLE.key(call, &id), changed);
    Ok(api::ReplaceTransitGatewayRouteResult { route: Some(shown(cidr, attachment)) })
}

pub(super) fn delete(
    call: &mut Call<'_>,
    input: api::DeleteTransitGatewayRouteRequest,
) -> Result<api::DeleteTransitGatewayRouteResult, Error> {
    let id = input.transit_gateway_route_table_id.unwrap_or_default();
    let cidr = block(&input.destination_cidr_block.unwrap_or_default())?;
    let table = ROUTE_TABLE.available::<TransitGatewayRouteTable>(call, &id)?;
    let mut changed = TransitGatewayRouteTable::clone(&table);
    let index = changed.routes.iter().position(|(known, _)| *known == cidr);
    let (_, attachment_id) = changed.routes.remove(index.ok_or_else(|| no_route(&cidr, &id))?);
    call.put(&ROUTE_TABLE.key(call, &id), changed);
    let attachment = match attachment_id {
        Some(id) => call.peek::<TransitGatewayAttachment>(&ATTACHMENT.key(call, &id))?,
        None => None,
    };
    let mut route = shown(cidr, attachment);
    route.state = Some("deleted".to_owned());
    Ok(api::DeleteTransitGatewayRouteResult { route: Some(route) })
}

/// The routes of a table, one a block.
fn routes(call: &mut Call<'_>, table: &TransitGatewayRouteTable) -> Result<Vec<View>, Error> {
    // By id, as in the plan: the last one that propagates a block has it.
    let attachments: BTreeMap<String, Arc<TransitGatewayAttachment>> = call
        .scan::<TransitGatewayAttachment>(&ATTACHMENT.key(call, ""))?
        .into_iter()
        .filter(|attachment| attachment.transit_gateway_id == table.transit_gateway_id)
        .map(|attachment| (attachment.id.clone(), attachment))
        .collect();
    let view =
        |cidr: Cidr, attachment_id: Option<&String>, list: Option<&String>, is_static| View {
            cidr,
            place: place(&cidr),
            is_static,
            prefix_list_id: list.cloned(),
            attachment: attachment_id.and_then(|id| attachments.get(id)).cloned(),
            attachment_id: attachment_id.cloned(),
        };
    let mut found: BTreeMap<Cidr, View> = BTreeMap::new();
    for attachment in attachments.values().filter(|a| a.propagations.contains(&table.id)) {
        let at = key::of(call.region, key::VPC, call.account(), &attachment.resource_id);
        let Some(vpc) = call.peek::<Vpc>(&at)?.filter(|_| attachment.is_available()) else {
            continue;
        };
        let ipv6 = vpc.ipv6_cidrs.iter().map(|block| Cidr::V6(block.cidr));
        for cidr in vpc.cidrs().map(Cidr::V4).chain(ipv6).filter(|it| attachment.carries(it)) {
            found.insert(cidr, view(cidr, Some(&attachment.id), None, false));
        }
    }
    for (list_id, attachment_id) in &table.prefix_lists {
        let list = prefix_list::find(call, list_id)?;
        for entry in list.entries() {
            found.insert(entry.cidr, view(entry.cidr, attachment_id.as_ref(), Some(list_id), true));
        }
    }
    for (cidr, attachment_id) in &table.routes {
        found.insert(*cidr, view(*cidr, attachment_id.as_ref(), None, true));
    }
    let mut routes: Vec<View> = found.into_values().collect();
    routes.sort_by(|a, b| a.place.cmp(&b.place));
    Ok(routes)
}

fn named(view: &View) -> Values<'_> {
    view.attachment_id.iter().map(|id| id.as_str().into()).collect()
}

const FILTERS: &[Field<View>] = &[
    ("attachment.resource-id", |view| {
        view.attachment.iter().map(|a| a.resource_id.as_str().into()).collect()
    }),
    ("attachment.resource-type", |view| {
        view.attachment.iter().map(|a| describe::resource_type(a).into()).collect()
    }),
    ("attachment.transit-gateway-attachment-id", named),
    ("prefix-list-id", |view| view.prefix_list_id.iter().map(|id| id.as_str().into()).collect()),
    ("state", |view| vec![view.state().into()]),
    ("type", |view| vec![if view.is_static { "static" } else { "propagated" }.into()]),
];

/// `a` lies in `b`.
fn within(a: &Cidr, b: &Cidr) -> bool {
    a.overlaps(b) && a.length() >= b.length()
}

/// Leaves the routes that a filter by block asks for.
fn search_by_block(routes: &mut Vec<View>, filter: &Filter) -> Result<bool, Error> {
    let Some(how) = filter.name.strip_prefix("route-search.") else { return Ok(false) };
    let wanted = filter
        .values
        .iter()
        .map(|text| {
            // A single address is a block of one.
            let whole = if text.contains(':') { "/128" } else { "/32" };
            block(&if text.contains('/') { text.clone() } else { format!("{text}{whole}") })
        })
        .collect::<Result<Vec<Cidr>, Error>>()?;
    match how {
        "exact-match" => routes.retain(|route| wanted.contains(&route.cidr)),
        "subnet-of-match" => routes.retain(|r| wanted.iter().any(|w| within(&r.cidr, w))),
        "supernet-of-match" => routes.retain(|r| wanted.iter().any(|w| within(w, &r.cidr))),
        "longest-prefix-match" => {
            let longest: Vec<Cidr> = wanted
                .iter()
                .filter_map(|wanted| {
                    let cover = routes.iter().map(|r| r.cidr).filter(|cidr| within(wanted, cidr));
                    cover.max_by_key(Cidr::length)
                })
                .collect();
            routes.retain(|route| longest.contains(&route.cidr));
        }
        _ => return Ok(false),
    }
    Ok(true)
}

pub(super) fn search(
    call: &mut Call<'_>,
    input: api::SearchTransitGatewayRoutesRequest,
) -> Result<api::SearchTransitGatewayRoutesResult, Error> {
    let id = input.transit_gateway_route_table_id.unwrap_or_default();
    let table = ROUTE_TABLE.find::<TransitGatewayRouteTable>(call, &id)?;
    let mut routes = routes(call, &table)?;
    let mut others = Vec::new();
    for filter in crate::filters(input.filters) {
        if !search_by_block(&mut routes, &filter)? {
            others.push(filter);
        }
    }
    let filters = Filters::new(others, FILTERS)?;
    routes.retain(|route| filters.accept(route, &Tags::new()));
    let page = page(
        routes,
        |route| &route.place,
        input.max_results,
        input.next_token.as_deref(),
        5..=1000,
    )?;
    Ok(api::SearchTransitGatewayRoutesResult {
        additional_routes_available: Some(page.next_token.is_some()),
        routes: Some(page.items.iter().map(View::to_model).collect()),
        next_token: page.next_token,
    })
}

/// A table's reference to a prefix list.
struct Reference {
    table_id: String,
    list: Arc<PrefixList>,
    owner: String,
    attachment: Option<Arc<TransitGatewayAttachment>>,
    is_blackhole: bool,
}

impl Reference {
    fn to_model(&self, state: &str) -> api::TransitGatewayPrefixListReference {
        api::TransitGatewayPrefixListReference {
            blackhole: Some(self.is_blackhole),
            prefix_list_id: Some(self.list.id.clone()),
            prefix_list_owner_id: Some(self.owner.clone()),
            state: Some(state.to_owned()),
            transit_gateway_attachment: self.attachment.as_ref().map(|attachment| {
                api::TransitGatewayPrefixListAttachment {
                    resource_id: Some(attachment.resource_id.clone()),
                    resource_type: Some(describe::resource_type(attachment).to_owned()),
                    transit_gateway_attachment_id: Some(attachment.id.clone()),
                }
            }),
            transit_gateway_route_table_id: Some(self.table_id.clone()),
        }
    }
}

fn reference(
    call: &mut Call<'_>,
    table_id: &str,
    list_id: &str,
    attachment_id: Option<&String>,
) -> Result<Reference, Error> {
    let attachment = match attachment_id {
        Some(id) => call.peek::<TransitGatewayAttachment>(&ATTACHMENT.key(call, id))?,
        None => None,
    };
    Ok(Reference {
        table_id: table_id.to_owned(),
        list: prefix_list::find(call, list_id)?,
        owner: call.account().to_owned(),
        attachment,
        is_blackhole: attachment_id.is_none(),
    })
}

fn no_reference(list_id: &str, table_id: &str) -> Error {
    Error::client(
        "InvalidPrefixListId.NotFound",
        format!("Prefix list {list_id} is not referenced by {table_id}."),
    )
}

pub(super) fn create_reference(
    call: &mut Call<'_>,
    input: api::CreateTransitGatewayPrefixListReferenceRequest,
) -> Result<api::CreateTransitGatewayPrefixListReferenceResult, Error> {
    let id = input.transit_gateway_route_table_id.unwrap_or_default();
    let list = prefix_list::find(call, &input.prefix_list_id.unwrap_or_default())?;
    let (table, attachment) =
        target(call, &id, input.transit_gateway_attachment_id, input.blackhole)?;
    if table.prefix_lists.iter().any(|(known, _)| *known == list.id) {
        return Err(Error::client(
            "RouteAlreadyExists",
            format!("The prefix list {} is already referenced by {id}.", list.id),
        ));
    }
    check_room(call, &table.transit_gateway_id, entries(&list))?;
    let attachment_id = attachment.map(|attachment| attachment.id.clone());
    let mut changed = TransitGatewayRouteTable::clone(&table);
    changed.prefix_lists.push((list.id.clone(), attachment_id.clone()));
    call.put(&ROUTE_TABLE.key(call, &id), changed);
    let made = reference(call, &id, &list.id, attachment_id.as_ref())?.to_model("pending");
    Ok(api::CreateTransitGatewayPrefixListReferenceResult {
        transit_gateway_prefix_list_reference: Some(made),
    })
}

pub(super) fn modify_reference(
    call: &mut Call<'_>,
    input: api::ModifyTransitGatewayPrefixListReferenceRequest,
) -> Result<api::ModifyTransitGatewayPrefixListReferenceResult, Error> {
    let id = input.transit_gateway_route_table_id.unwrap_or_default();
    let list_id = input.prefix_list_id.unwrap_or_default();
    let (table, attachment) =
        target(call, &id, input.transit_gateway_attachment_id, input.blackhole)?;
    let mut changed = TransitGatewayRouteTable::clone(&table);
    let known = changed.prefix_lists.iter_mut().find(|(known, _)| *known == list_id);
    let (_, leads_to) = known.ok_or_else(|| no_reference(&list_id, &id))?;
    let attachment_id = attachment.map(|attachment| attachment.id.clone());
    leads_to.clone_from(&attachment_id);
    call.put(&ROUTE_TABLE.key(call, &id), changed);
    let changed = reference(call, &id, &list_id, attachment_id.as_ref())?.to_model("modifying");
    Ok(api::ModifyTransitGatewayPrefixListReferenceResult {
        transit_gateway_prefix_list_reference: Some(changed),
    })
}

pub(super) fn delete_reference(
    call: &mut Call<'_>,
    input: api::DeleteTransitGatewayPrefixListReferenceRequest,
) -> Result<api::DeleteTransitGatewayPrefixListReferenceResult, Error> {
    let id = input.transit_gateway_route_table_id.unwrap_or_default();
    let list_id = input.prefix_list_id.unwrap_or_default();
    let table = ROUTE_TABLE.available::<TransitGatewayRouteTable>(call, &id)?;
    let mut changed = TransitGatewayRouteTable::clone(&table);
    let index = changed.prefix_lists.iter().position(|(known, _)| *known == list_id);
    let index = index.ok_or_else(|| no_reference(&list_id, &id))?;
    let (_, attachment_id) = changed.prefix_lists.remove(index);
    call.put(&ROUTE_TABLE.key(call, &id), changed);
    let gone = reference(call, &id, &list_id, attachment_id.as_ref())?.to_model("deleting");
    Ok(api::DeleteTransitGatewayPrefixListReferenceResult {
        transit_gateway_prefix_list_reference: Some(gone),
    })
}

const REFERENCE_FILTERS: &[Field<Reference>] = &[
    ("attachment.resource-id", |r| {
        r.attachment.iter().map(|a| a.resource_id.as_str().into()).collect()
    }),
    ("attachment.resource-type", |r| {
        r.attachment.iter().map(|a| describe::resource_type(a).into()).collect()
    }),
    ("attachment.transit-gateway-attachment-id", |r| {
        r.attachment.iter().map(|a| a.id.as_str().into()).collect()
    }),
    ("is-blackhole", |r| vec![r.is_blackhole.to_string().into()]),
    ("prefix-list-id", |r| vec![r.list.id.as_str().into()]),
    ("prefix-list-owner-id", |r| vec![r.owner.as_str().into()]),
    ("state", |_| vec!["available".into()]),
];

pub(super) fn get_references(
    call: &mut Call<'_>,
    input: api::GetTransitGatewayPrefixListReferencesRequest,
) -> Result<api::GetTransitGatewayPrefixListReferencesResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), REFERENCE_FILTERS)?;
    let id = input.transit_gateway_route_table_id.unwrap_or_default();
    let table = ROUTE_TABLE.find::<TransitGatewayRouteTable>(call, &id)?;
    let mut found = Vec::new();
    for (list_id, attachment_id) in &table.prefix_lists {
        found.push(reference(call, &id, list_id, attachment_id.as_ref())?);
    }
    found.retain(|reference| filters.accept(reference, &Tags::new()));
    found.sort_by(|a, b| a.list.id.cmp(&b.list.id));
    let page = page(
        found,
        |reference| &reference.list.id,
        input.max_results,
        input.next_token.as_deref(),
        5..=1000,
    )?;
    Ok(api::GetTransitGatewayPrefixListReferencesResult {
        transit_gateway_prefix_list_references: Some(
            page.items.iter().map(|reference| reference.to_model("available")).collect(),
        ),
        next_token: page.next_token,
    })
}
