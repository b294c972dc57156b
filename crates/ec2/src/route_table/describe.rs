//! DescribeRouteTables: the local routes are shown for every block of the VPC, and each route's
//! state is what its target makes of it now.

use super::{ID, associated};
use crate::record::{
    Destination, EgressOnlyInternetGateway, Interface, InterfaceKind, NatGateway, Progress, Route,
    RouteOrigin, RouteTable, TransitGatewayAttachment, Vpc, VpcEndpoint, VpcPeering, key,
};
use crate::{region, tag};
use base::Cidr;
use model::ec2 as api;
use service::filter::{Field, Filters, Values};
use service::page::page;
use service::{Call, Error};

/// What a filter looks at.
struct View {
    shown: api::RouteTable,
    tags: crate::record::Tags,
}

fn routes<'a>(view: &'a View, of: fn(&api::Route) -> &Option<String>) -> Values<'a> {
    let routes = view.shown.routes.iter().flatten();
    routes.filter_map(|route| of(route).as_deref()).map(Into::into).collect()
}

fn associations<'a>(
    view: &'a View,
    of: fn(&api::RouteTableAssociation) -> &Option<String>,
) -> Values<'a> {
    let associations = view.shown.associations.iter().flatten();
    associations.filter_map(|association| of(association).as_deref()).map(Into::into).collect()
}

const FILTERS: &[Field<View>] = &[
    ("association.gateway-id", |v| associations(v, |a| &a.gateway_id)),
    ("association.main", |v| {
        let associations = v.shown.associations.iter().flatten();
        associations.filter_map(|a| a.main).map(|main| main.to_string().into()).collect()
    }),
    ("association.route-table-association-id", |v| {
        associations(v, |a| &a.route_table_association_id)
    }),
    ("association.route-table-id", |v| associations(v, |a| &a.route_table_id)),
    ("association.subnet-id", |v| associations(v, |a| &a.subnet_id)),
    ("owner-id", |v| region::text(&v.shown.owner_id)),
    ("route-table-id", |v| region::text(&v.shown.route_table_id)),
    ("route.carrier-gateway-id", |v| routes(v, |r| &r.carrier_gateway_id)),
    ("route.destination-cidr-block", |v| routes(v, |r| &r.destination_cidr_block)),
    ("route.destination-ipv6-cidr-block", |v| routes(v, |r| &r.destination_ipv6_cidr_block)),
    ("route.destination-prefix-list-id", |v| routes(v, |r| &r.destination_prefix_list_id)),
    ("route.egress-only-internet-gateway-id", |v| {
        routes(v, |r| &r.egress_only_internet_gateway_id)
    }),
    ("route.gateway-id", |v| routes(v, |r| &r.gateway_id)),
    ("route.instance-id", |v| routes(v, |r| &r.instance_id)),
    ("route.local-gateway-id", |v| routes(v, |r| &r.local_gateway_id)),
    ("route.nat-gateway-id", |v| routes(v, |r| &r.nat_gateway_id)),
    ("route.network-interface-id", |v| routes(v, |r| &r.network_interface_id)),
    ("route.origin", |v| routes(v, |r| &r.origin)),
    ("route.state", |v| routes(v, |r| &r.state)),
    ("route.transit-gateway-id", |v| routes(v, |r| &r.transit_gateway_id)),
    ("route.vpc-peering-connection-id", |v| routes(v, |r| &r.vpc_peering_connection_id)),
    ("vpc-id", |v| region::text(&v.shown.vpc_id)),
];

pub(super) fn describe_route_tables(
    call: &mut Call<'_>,
    input: api::DescribeRouteTablesRequest,
) -> Result<api::DescribeRouteTablesResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
    let mut views = Vec::new();
    for table in ID.described::<RouteTable>(call, input.route_table_ids)? {
        let view = View { shown: to_model(call, &table)?, tags: table.tags.clone() };
        if filters.accept(&view, &view.tags) {
            views.push(view);
        }
    }
    let page = page(
        views,
        |view| view.shown.route_table_id.as_deref().unwrap_or_default(),
        input.max_results,
        input.next_token.as_deref(),
        5..=100,
    )?;
    Ok(api::DescribeRouteTablesResult {
        next_token: page.next_token,
        route_tables: Some(page.items.into_iter().map(|view| view.shown).collect()),
    })
}

/// A table as the API shows it.
pub(super) fn to_model(call: &Call<'_>, table: &RouteTable) -> Result<api::RouteTable, Error> {
    let main = table.main_association_id.iter().map(|id| (id, None));
    let explicit = table.associations.iter().map(|a| (&a.id, Some(a.subnet_id.clone())));
    let associations = main.chain(explicit).map(|(id, subnet_id)| api::RouteTableAssociation {
        association_state: associated(),
        main: Some(subnet_id.is_none()),
        route_table_association_id: Some(id.clone()),
        route_table_id: Some(table.id.clone()),
        subnet_id,
        ..Default::default()
    });
    let associations = associations.collect();
    let at = key::of(call.region, key::VPC, call.account(), &table.vpc_id);
    let vpc = call.peek::<Vpc>(&at)?;
    let blocks: Vec<Cidr> = vpc.iter().flat_map(|vpc| blocks(vpc)).collect();
    let mut shown = Vec::new();
    for block in &blocks {
        let leads_elsewhere =
            table.routes.iter().any(|route| route.destination == Destination::Cidr(*block));
        if !leads_elsewhere {
            let mut route = destination(&Destination::Cidr(*block));
            route.gateway_id = Some("local".to_owned());
            route.origin = Some("CreateRouteTable".to_owned());
            route.state = Some("active".to_owned());
            shown.push(route);
        }
    }
    for route in &table.routes {
        let is_local = matches!(&route.destination, Destination::Cidr(c) if blocks.contains(c));
        let origin = match route.origin {
            _ if is_local => "CreateRouteTable",
            RouteOrigin::CreateRoute => "CreateRoute",
            RouteOrigin::Propagated => "EnableVgwRoutePropagation",
        };
        let mut model = target(call, vpc.as_deref(), route)?;
        model.origin = Some(origin.to_owned());
        shown.push(model);
    }
    let propagating = table.propagating_gateways.iter();
    Ok(api::RouteTable {
        associations: Some(associations),
        owner_id: Some(call.account().to_owned()),
        propagating_vgws: Some(
            propagating.map(|id| api::PropagatingVgw { gateway_id: Some(id.clone()) }).collect(),
        ),
        route_table_id: Some(table.id.clone()),
        routes: Some(shown),
        tags: tag::to_model(&table.tags),
        vpc_id: Some(table.vpc_id.clone()),
    })
}

/// All blocks of a VPC.
pub(super) fn blocks(vpc: &Vpc) -> impl Iterator<Item = Cidr> + '_ {
    vpc.cidrs().map(Cidr::V4).chain(vpc.ipv6_cidrs.iter().map(|block| Cidr::V6(block.cidr)))
}

fn destination(destination: &Destination) -> api::Route {
    let mut route = api::Route::default();
    match destination {
        Destination::Cidr(Cidr::V4(cidr)) => route.destination_cidr_block = Some(cidr.to_string()),
        Destination::Cidr(Cidr::V6(cidr)) => {
            route.destination_ipv6_cidr_block = Some(cidr.to_string());
        }
        Destination::PrefixList(id) => route.destination_prefix_list_id = Some(id.clone()),
    }
    route
}

/// A stored route with what its target says of it.
fn target(call: &Call<'_>, vpc: Option<&Vpc>, route: &Route) -> Result<api::Route, Error> {
    let mut model = destination(&route.destination);
    let id = route.target.as_str();
    let at = |kind: &str| key::of(call.region, kind, call.account(), id);
    let shown = Some(id.to_owned());
    let active = match id.split_once('-').map_or(id, |(kind, _)| kind) {
        "local" => {
            model.gateway_id = shown;
            true
        }
        "eigw" => {
            model.egress_only_internet_gateway_id = shown;
            let at = at(key::EGRESS_ONLY_INTERNET_GATEWAY);
            call.peek::<EgressOnlyInternetGateway>(&at)?.is_some()
        }
        "nat" => {
            model.nat_gateway_id = shown;
            let gateway = call.peek::<NatGateway>(&at(key::NAT_GATEWAY))?;
            gateway.is_some_and(|g| matches!(g.state, Progress::Pending | Progress::Available))
        }
        "eni" => {
            model.network_interface_id = shown;
            match call.peek::<Interface>(&at(key::INTERFACE))? {
                Some(interface) => {
                    let attachment = interface.attachment.as_ref();
                    model.instance_id = attachment.map(|a| a.instance_id.clone());
                    model.instance_owner_id = attachment.map(|_| call.account().to_owned());
                    attachment.is_some() || interface.kind != InterfaceKind::Interface
                }
                None => false,
            }
        }
        "pcx" => {
            model.vpc_peering_connection_id = shown;
            let peering = call.peek::<VpcPeering>(&key::vpc_peering(id))?;
            peering.is_some_and(|peering| peering.status == "active")
        }
        "tgw" => {
            model.transit_gateway_id = shown;
            vpc.map(|vpc| is_attached(call, id, &vpc.id)).transpose()?.unwrap_or(false)
        }
        "vpce" => {
            model.gateway_id = shown;
            let endpoint = call.peek::<VpcEndpoint>(&at(key::VPC_ENDPOINT))?;
            endpoint.is_some_and(|endpoint| endpoint.state == Progress::Available)
        }
        _ => {
            model.gateway_id = shown;
            vpc.is_some_and(|vpc| vpc.internet_gateway_id.as_deref() == Some(id))
        }
    };
    model.state = Some(if active { "active" } else { "blackhole" }.to_owned());
    Ok(model)
}

/// Whether a VPC has an attachment to a transit gateway that works.
pub(super) fn is_attached(
    call: &Call<'_>,
    transit_gateway_id: &str,
    vpc_id: &str,
) -> Result<bool, Error> {
    let at = key::of(call.region, key::TRANSIT_GATEWAY_ATTACHMENT, call.account(), "");
    let attachments = call.scan::<TransitGatewayAttachment>(&at)?;
    Ok(attachments.iter().any(|attachment| {
        attachment.transit_gateway_id == transit_gateway_id
            && attachment.resource_id == vpc_id
            && matches!(attachment.state, Progress::Pending | Progress::Available)
            && !attachment.pending_acceptance
    }))
}
