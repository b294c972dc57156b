//! Where routes lead: route tables, peering connections and transit gateways.

use super::Records;
use crate::record::{self, Destination, PrefixList, Progress, RouteTable, Vpc, VpcPeering};
use base::Cidr;
use base::network::{
    AttachedResource, Interface, Peering, PeeringSide, Plan, Route, Target, TransitGateway,
    TransitGatewayAttachment, TransitGatewayRoute, TransitGatewayRouteTable,
};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// The connections that carry packets: active, and both sides are in the plan.
pub(super) fn peerings(records: &[Arc<VpcPeering>], vpcs: &HashSet<&str>) -> Vec<Peering> {
    let side = |side: &record::PeeringSide| PeeringSide {
        vpc_id: side.vpc_id.clone(),
        resolved_by_other: side.resolved_by_other,
    };
    records
        .iter()
        .filter(|peering| peering.status == "active")
        .map(|peering| Peering {
            id: peering.id.clone(),
            sides: [side(&peering.requester), side(&peering.accepter)],
        })
        .filter(|peering| peering.sides.iter().all(|side| vpcs.contains(side.vpc_id.as_str())))
        .collect()
}

/// The route tables of a VPC, each route with what it leads to now.
pub(super) fn tables(
    records: &Records,
    vpc: &Vpc,
    interfaces: &[Interface],
    plan: &Plan,
) -> Vec<base::network::RouteTable> {
    let present: HashSet<&str> = interfaces.iter().map(|i| i.id.as_str()).collect();
    let lists: HashMap<&str, &PrefixList> =
        records.prefix_lists.iter().map(|list| (list.id.as_str(), list.as_ref())).collect();
    let target = |id: &str, to: &Cidr| {
        let is_barred = id.starts_with("tgw-")
            && records.attachments.iter().any(|it| {
                !it.carries(to)
                    && it.transit_gateway_id == id
                    && it.resource_id == vpc.id
                    && it.state == Progress::Available
            });
        if is_barred {
            return Target::Blackhole;
        }
        target(records, vpc, &present, plan, id)
    };
    let table = |table: &RouteTable| {
        let mut routes: BTreeMap<Cidr, Target> = BTreeMap::new();
        // A route to a block is more specific than one to a list that holds the same block.
        for route in &table.routes {
            if let Destination::PrefixList(id) = &route.destination {
                let entries = lists.get(id.as_str()).map(|list| list.entries());
                for entry in entries.unwrap_or_default() {
                    routes.insert(entry.cidr, target(&route.target, &entry.cidr));
                }
            }
        }
        for route in &table.routes {
            if let Destination::Cidr(cidr) = &route.destination {
                routes.insert(*cidr, target(&route.target, cidr));
            }
        }
        let routes = routes.into_iter();
        base::network::RouteTable {
            id: table.id.clone(),
            routes: routes.map(|(destination, target)| Route { destination, target }).collect(),
        }
    };
    let own = records.route_tables.iter().filter(|table| table.vpc_id == vpc.id);
    own.map(|own| table(own)).collect()
}

fn target(records: &Records, vpc: &Vpc, present: &HashSet<&str>, plan: &Plan, id: &str) -> Target {
    let interface = |id: &str| {
        if present.contains(id) { Target::Interface(id.to_owned()) } else { Target::Blackhole }
    };
    match id.split_once('-').map(|(kind, _)| kind) {
        None if id == "local" => Target::Local,
        Some("igw") if vpc.internet_gateway_id.as_deref() == Some(id) => Target::InternetGateway,
        Some("eigw") if records.egress_only.iter().any(|gateway| gateway.id == id) => {
            Target::EgressOnlyInternetGateway
        }
        Some("nat") => {
            let gateway = records.nat_gateways.iter().find(|gateway| gateway.id == id);
            match gateway.filter(|gateway| gateway.state == Progress::Available) {
                Some(gateway) => interface(&gateway.interface_id),
                None => Target::Blackhole,
            }
        }
        Some("eni") => interface(id),
        Some("pcx") if plan.peerings.iter().any(|peering| peering.id == id) => {
            Target::Peering(id.to_owned())
        }
        Some("tgw") if attached(plan, id, &vpc.id) => Target::TransitGateway(id.to_owned()),
        Some("vpce") => {
            let endpoint = records.endpoints.iter().find(|endpoint| endpoint.id == id);
            match endpoint.filter(|endpoint| endpoint.state == Progress::Available) {
                Some(endpoint) if endpoint.gateway => Target::GatewayEndpoint(id.to_owned()),
                _ => Target::Blackhole,
            }
        }
        _ => Target::Blackhole,
    }
}

fn attached(plan: &Plan, gateway_id: &str, vpc_id: &str) -> bool {
    let gateway = plan.transit_gateways.iter().find(|gateway| gateway.id == gateway_id);
    gateway.is_some_and(|gateway| {
        gateway.attachments.iter().any(|attachment| {
            matches!(&attachment.resource, AttachedResource::Vpc { vpc_id: id, .. } if id == vpc_id)
        })
    })
}

/// Transit gateways with what is attached to them.
pub(super) fn transit_gateways(regions: &[Records], vpcs: &HashSet<&str>) -> Vec<TransitGateway> {
    let gateways = regions.iter().flat_map(|records| {
        let available =
            records.transit_gateways.iter().filter(|gateway| gateway.state == Progress::Available);
        available.map(move |gateway| transit_gateway(records, &gateway.id, vpcs))
    });
    let mut gateways: Vec<TransitGateway> = gateways.collect();
    // A peering needs its other side.
    let known: HashSet<(String, String)> = gateways
        .iter()
        .flat_map(|gateway| {
            let attachments = gateway.attachments.iter();
            attachments.map(|attachment| (gateway.id.clone(), attachment.id.clone()))
        })
        .collect();
    for gateway in &mut gateways {
        gateway.attachments.retain(|attachment| match &attachment.resource {
            AttachedResource::Vpc { .. } => true,
            AttachedResource::Peering { transit_gateway_id } => {
                known.contains(&(transit_gateway_id.clone(), attachment.id.clone()))
            }
        });
        let present: HashSet<&str> = gateway.attachments.iter().map(|a| a.id.as_str()).collect();
        for route in gateway.route_tables.iter_mut().flat_map(|table| &mut table.routes) {
            route.attachment = route.attachment.take().filter(|id| present.contains(id.as_str()));
        }
    }
    gateways.retain(|gateway| !gateway.attachments.is_empty());
    gateways
}

fn transit_gateway(records: &Records, id: &str, vpcs: &HashSet<&str>) -> TransitGateway {
    let vpc = |id: &str| records.vpcs.iter().find(|vpc| vpc.id == id);
    let available: Vec<_> = records
        .attachments
        .iter()
        .filter(|a| {
            a.transit_gateway_id == id && a.state == Progress::Available && !a.pending_acceptance
        })
        .collect();
    let attachments = available.iter().filter_map(|attachment| {
        let resource = if attachment.resource_id.starts_with("tgw-") {
            let transit_gateway_id = attachment.resource_id.clone();
            AttachedResource::Peering { transit_gateway_id }
        } else {
            let vpc = vpc(&attachment.resource_id).filter(|vpc| vpcs.contains(vpc.id.as_str()))?;
            let entry = attachment.subnet_ids.first()?;
            let subnet = records.subnets.iter().find(|subnet| subnet.id == *entry)?;
            AttachedResource::Vpc {
                vpc_id: vpc.id.clone(),
                route_table: subnet
                    .route_table_id
                    .clone()
                    .unwrap_or_else(|| vpc.main_route_table_id.clone()),
            }
        };
        Some(TransitGatewayAttachment {
            id: attachment.id.clone(),
            resource,
            route_table: attachment.association.clone(),
        })
    });
    let route_tables = records
        .transit_route_tables
        .iter()
        .filter(|table| table.transit_gateway_id == id && table.state == Progress::Available)
        .map(|table| {
            let mut routes: BTreeMap<Cidr, Option<String>> = BTreeMap::new();
            for attachment in &available {
                let propagates = attachment.propagations.contains(&table.id);
                let Some(vpc) = vpc(&attachment.resource_id).filter(|_| propagates) else {
                    continue;
                };
                let blocks = vpc.cidrs().map(Cidr::V4);
                let blocks = blocks.chain(vpc.ipv6_cidrs.iter().map(|b| Cidr::V6(b.cidr)));
                for block in blocks.filter(|block| attachment.carries(block)) {
                    routes.insert(block, Some(attachment.id.clone()));
                }
            }
            // A static route wins over one of a prefix list, and that over a propagated one.
            for (list_id, attachment) in &table.prefix_lists {
                let list = records.prefix_lists.iter().find(|list| list.id == *list_id);
                for entry in list.map(|list| list.entries()).unwrap_or_default() {
                    routes.insert(entry.cidr, attachment.clone());
                }
            }
            routes.extend(table.routes.iter().cloned());
            for (block, to) in &mut routes {
                *to = to.take().filter(|id| {
                    !available.iter().any(|other| other.id == *id && !other.carries(block))
                });
            }
            TransitGatewayRouteTable {
                id: table.id.clone(),
                routes: routes
                    .into_iter()
                    .map(|(destination, attachment)| TransitGatewayRoute {
                        destination,
                        attachment,
                    })
                    .collect(),
            }
        })
        .collect();
    TransitGateway { id: id.to_owned(), attachments: attachments.collect(), route_tables }
}
