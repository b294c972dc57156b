//! Route tables as kernel tables.
//!
//! A table is written once and never changed: its number is a hash of what is in it, so a drawn
//! table that changes gets another number. The new one is put beside the old one, the packet rules
//! turn to it in the same transaction in which they change themselves, and then the old one goes. A
//! daemon that died in between leaves a table that nobody asks, which its successor finds.
//!
//! ```text
//!  packet from a link ── mark of the link (packet rules) ── table with that number
//!       throw: the VPC's own blocks ── main: a host route for every address that somebody has
//!       everything else: what is drawn, or it vanishes
//! ```
//!
//! So a drawn prefix inside of the VPC's block wins if it is longer, as the kernel does it.

use crate::layout::{Layout, MAIN, Route, Rule, everything, host};
use crate::names::{
    HOST_ADDRESS, HOST_ADDRESS_V6, NEXT_HOP, NEXT_HOP_V6, UPLINK, fabric_link, peering_link,
    resolver, router, tap, transit_link,
};
use base::network::{AttachedResource, Holder, Interface, Plan, Subnet, Target, Vpc};
use base::{Cidr, Ipv4Cidr, Ipv6Cidr};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Before the namespace's own addresses, which a route can hide.
const PRIORITY: u32 = 100;
/// Set in every number: none of the kernel's own is so large.
const MARK: u32 = 0x4000_0000;

/// What is in a table.
pub(crate) type Table = BTreeMap<Cidr, Route>;

/// The tables of one namespace, and which links are sent to which.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tables {
    tables: BTreeMap<u32, Table>,
    /// Input link to number: packets get it as their mark.
    pub marks: BTreeMap<String, u32>,
    /// Hardware address to number, for packets that another node sends to an interface of this one
    /// that passes them on.
    pub by_station: BTreeMap<String, u32>,
}

impl Tables {
    /// Those of a VPC.
    pub(crate) fn of_vpc(plan: &Plan, vpc: &Vpc) -> Tables {
        let mut tables = Tables::default();
        let view = View { plan, vpc };
        let mut numbers = BTreeMap::new();
        for subnet in &vpc.subnets {
            numbers.insert(&subnet.id, tables.add(view.table(&subnet.route_table, Some(subnet))));
        }
        for interface in vpc.interfaces.iter().filter(|interface| has_link(interface)) {
            if let Some(number) = numbers.get(&interface.subnet_id) {
                tables.marks.insert(tap(&interface.id), *number);
            }
            if plan.fabric.is_some() && passes_on(interface) {
                let number = tables.add(view.to_interface(interface));
                tables.by_station.insert(interface.mac.clone(), number);
            }
        }
        for (gateway, table) in attachments(plan, vpc) {
            let number = tables.add(view.table(table, None));
            tables.marks.insert(transit_link(gateway), number);
        }
        tables
    }

    /// Adds a table; its number.
    pub(crate) fn add(&mut self, table: Table) -> u32 {
        let mut number = MARK | hash(&table) & (MARK - 1);
        while self.tables.get(&number).is_some_and(|other| *other != table) {
            number = MARK | (number + 1) & (MARK - 1);
        }
        self.tables.insert(number, table);
        number
    }

    /// Writes them down as routes, with a rule a mark.
    pub(crate) fn enter(&self, layout: &mut Layout, with_v6: bool) {
        for (number, table) in &self.tables {
            for (destination, route) in table {
                if with_v6 || matches!(destination, Cidr::V4(_)) {
                    layout.routes.insert((*number, *destination), route.clone());
                }
            }
            layout.rules.extend(Rule::both(PRIORITY, Some(*number), None, *number));
        }
    }

    /// Writes them down as routes, with a rule a link: for namespaces without packet rules.
    pub(crate) fn enter_by_link(&self, layout: &mut Layout) {
        for (number, table) in &self.tables {
            let routes = table.iter();
            layout.routes.extend(routes.map(|(to, route)| ((*number, *to), route.clone())));
        }
        for (link, number) in &self.marks {
            layout.rules.extend(Rule::both(PRIORITY, None, Some(link), *number));
        }
    }
}

/// FNV-1a: stable over builds and machines, unlike the standard library's.
fn hash(table: &Table) -> u32 {
    let text = format!("{table:?}");
    text.bytes()
        .fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Whether an interface has a link in the namespace of its VPC on this node.
pub(crate) fn has_link(interface: &Interface) -> bool {
    interface.node.is_none() && !matches!(interface.holder, Holder::Endpoint(_))
}

/// Whether packets that are not for an interface may go through it.
pub(crate) fn passes_on(interface: &Interface) -> bool {
    match interface.holder {
        Holder::Machine(_) => !interface.source_dest_check,
        Holder::NatGateway(_) => true,
        Holder::Endpoint(_) => false,
    }
}

/// The transit gateways of a VPC, with the route table of each attachment.
pub(crate) fn attachments<'a>(
    plan: &'a Plan,
    vpc: &'a Vpc,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    plan.transit_gateways.iter().filter_map(|gateway| {
        gateway.attachments.iter().find_map(|attachment| match &attachment.resource {
            AttachedResource::Vpc { vpc_id, route_table } if *vpc_id == vpc.id => {
                Some((gateway.id.as_str(), route_table.as_str()))
            }
            _ => None,
        })
    })
}

/// The peering connections of a VPC, each with the VPC on its other side.
pub(crate) fn peerings<'a>(
    plan: &'a Plan,
    vpc: &'a Vpc,
) -> impl Iterator<Item = (&'a str, &'a Vpc)> {
    plan.peerings.iter().filter_map(|peering| {
        let [one, other] = &peering.sides;
        let other = match () {
            () if one.vpc_id == vpc.id => &other.vpc_id,
            () if other.vpc_id == vpc.id => &one.vpc_id,
            () => return None,
        };
        let other = plan.vpcs.iter().find(|vpc| vpc.id == *other)?;
        Some((peering.id.as_str(), other))
    })
}

/// Link-local addresses, the services' and those of many.
fn always_here() -> [Cidr; 4] {
    [
        Ipv4Cidr::containing(Ipv4Addr::new(169, 254, 0, 0), 16).into(),
        Ipv6Cidr::containing(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0), 32).into(),
        Ipv6Cidr::containing(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10).into(),
        Ipv6Cidr::containing(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8).into(),
    ]
}

/// The blocks of a VPC.
pub(crate) fn blocks(vpc: &Vpc) -> impl Iterator<Item = Cidr> {
    let v4 = vpc.cidrs.iter().copied().map(Cidr::from);
    v4.chain(vpc.ipv6_cidrs.iter().copied().map(Cidr::from))
}

fn is_within(destination: &Cidr, subnet: &Subnet) -> bool {
    match destination {
        Cidr::V4(inner) => {
            inner.length() >= subnet.cidr.length() && subnet.cidr.contains(inner.network())
        }
        Cidr::V6(inner) => subnet.ipv6_cidr.is_some_and(|outer| {
            inner.length() >= outer.length() && outer.contains(inner.network())
        }),
    }
}

struct View<'a> {
    plan: &'a Plan,
    vpc: &'a Vpc,
}

impl View<'_> {
    /// A drawn table as the kernel's: for packets from a subnet, or from an attachment. One that
    /// nobody has drawn has local routes only.
    fn table(&self, id: &str, subnet: Option<&Subnet>) -> Table {
        let mut table = Table::new();
        table.extend(everything().map(|all| (all, Route::blackhole())));
        table.extend(blocks(self.vpc).map(|block| (block, Route::throw())));
        let drawn = self.vpc.route_tables.iter().find(|table| table.id == id);
        let mut inside = false;
        let within = |route: &&base::network::Route| {
            subnet.is_some_and(|subnet| is_within(&route.destination, subnet))
        };
        let routes = drawn.into_iter().flat_map(|table| &table.routes);
        // What is within a subnet never asks its route table.
        for route in routes.filter(|route| !within(route)) {
            let way = self.way(&route.target, &route.destination);
            inside |= way.kind != "throw "
                && blocks(self.vpc).any(|block| block.overlaps(&route.destination))
                && route.destination.length() > 0;
            table.insert(route.destination, way);
        }
        if inside {
            // Nor does a route around it change that, and the services stay in reach.
            let own = subnet.map(|s| [Some(Cidr::from(s.cidr)), s.ipv6_cidr.map(Cidr::from)]);
            for block in own.into_iter().flatten().flatten() {
                table.entry(block).or_insert_with(Route::throw);
            }
            let routers = self.vpc.subnets.iter().filter_map(|subnet| router(&subnet.cidr));
            for address in routers.chain(resolver(self.vpc)) {
                table.insert(host(address.into()), Route::throw());
            }
        }
        table.extend(always_here().map(|block| (block, Route::throw())));
        table
    }

    fn way(&self, target: &Target, destination: &Cidr) -> Route {
        let v6 = matches!(destination, Cidr::V6(_));
        let vpc = self.vpc;
        let hop = if v6 { IpAddr::from(NEXT_HOP_V6) } else { NEXT_HOP.into() };
        let host = if v6 { IpAddr::from(HOST_ADDRESS_V6) } else { HOST_ADDRESS.into() };
        let way = match target {
            Target::Local => Some(Route::throw()),
            Target::InternetGateway => vpc.internet_gateway.then(|| Route::via(host, UPLINK)),
            Target::EgressOnlyInternetGateway => v6.then(|| Route::via(host, UPLINK)),
            Target::Interface(id) => {
                let interface = vpc.interfaces.iter().find(|interface| interface.id == *id);
                interface.and_then(|interface| self.through(interface, v6))
            }
            Target::Peering(id) => peerings(self.plan, vpc)
                .any(|(peering, _)| peering == id)
                .then(|| Route::via(hop, &peering_link(id))),
            Target::TransitGateway(id) => attachments(self.plan, vpc)
                .any(|(gateway, _)| gateway == id)
                .then(|| Route::via(hop, &transit_link(id))),
            // Its addresses are the namespace's own.
            Target::GatewayEndpoint(id) => {
                vpc.gateway_endpoints.iter().any(|own| own.id == *id).then(Route::throw)
            }
            Target::Blackhole => None,
        };
        way.unwrap_or_else(Route::blackhole)
    }

    fn through(&self, interface: &Interface, v6: bool) -> Option<Route> {
        if !passes_on(interface) {
            return None;
        }
        let hop = match v6 {
            true => IpAddr::from(*interface.ipv6.first()?),
            false => interface.private_ip.into(),
        };
        let link = match &interface.node {
            None => tap(&interface.id),
            Some(node) if self.plan.fabric.as_ref()?.nodes.contains_key(node) => {
                fabric_link(&self.vpc.id)
            }
            Some(_) => return None,
        };
        Some(Route::via(hop, &link))
    }

    /// Everything to one interface of this node.
    fn to_interface(&self, interface: &Interface) -> Table {
        let [v4, v6] = everything();
        let way = |v6| self.through(interface, v6).unwrap_or_else(Route::blackhole);
        Table::from([(v4, way(false)), (v6, way(true))])
    }
}

/// What is not to go on from main when no host route says where.
pub(crate) fn ends(layout: &mut Layout, vpc: &Vpc) {
    let own = blocks(vpc).chain(always_here().into_iter().take(2)).chain(everything());
    layout.routes.extend(own.map(|block| ((MAIN, block), Route::blackhole())));
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::network::RouteTable;

    fn vpc(routes: &[(&str, Target)]) -> Vpc {
        let mut subnet = Subnet::new("subnet-1", "10.0.1.0/24".parse().unwrap());
        subnet.route_table = "rtb-1".into();
        let routes = routes.iter().map(|(destination, target)| base::network::Route {
            destination: destination.parse().unwrap(),
            target: target.clone(),
        });
        Vpc {
            id: "vpc-1".into(),
            cidrs: vec!["10.0.0.0/16".parse().unwrap()],
            internet_gateway: true,
            subnets: vec![subnet],
            route_tables: vec![RouteTable { id: "rtb-1".into(), routes: routes.collect() }],
            ..Vpc::default()
        }
    }

    fn table(vpc: &Vpc) -> BTreeMap<String, String> {
        let plan = Plan { vpcs: vec![vpc.clone()], ..Plan::default() };
        let tables = Tables::of_vpc(&plan, vpc);
        assert_eq!(tables.tables.len(), 1);
        let table = tables.tables.into_values().next().unwrap();
        let line = |route: Route| format!("{}{}", route.kind, route.rest);
        table.into_iter().map(|(to, route)| (to.to_string(), line(route))).collect()
    }

    #[test]
    fn what_is_not_drawn_vanishes() {
        let drawn = table(&vpc(&[]));
        assert_eq!(drawn["0.0.0.0/0"], "blackhole ");
        assert_eq!(drawn["10.0.0.0/16"], "throw ");
        let drawn = table(&vpc(&[("0.0.0.0/0", Target::InternetGateway)]));
        assert_eq!(drawn["0.0.0.0/0"], "via 169.254.255.1 dev uplink onlink");
        let mut detached = vpc(&[("0.0.0.0/0", Target::InternetGateway)]);
        detached.internet_gateway = false;
        assert_eq!(table(&detached)["0.0.0.0/0"], "blackhole ");
        let dead = vpc(&[
            ("10.9.0.0/16", Target::Peering("pcx-1".into())),
            ("10.8.0.0/16", Target::TransitGateway("tgw-1".into())),
            ("10.7.0.0/16", Target::Interface("eni-1".into())),
            ("10.6.0.0/16", Target::GatewayEndpoint("vpce-1".into())),
            ("10.5.0.0/16", Target::EgressOnlyInternetGateway),
        ]);
        for block in 5..=9 {
            assert_eq!(table(&dead)[&format!("10.{block}.0.0/16")], "blackhole ", "{block}");
        }
    }

    #[test]
    fn a_prefix_inside_of_the_vpc_leaves_the_subnet_and_the_services_alone() {
        let drawn = table(&vpc(&[
            ("10.0.0.0/16", Target::Blackhole),
            ("10.0.1.128/25", Target::Blackhole),
        ]));
        assert!(!drawn.contains_key("10.0.1.128/25"));
        assert_eq!(drawn["10.0.0.0/16"], "blackhole ");
        for own in ["10.0.1.0/24", "10.0.1.1/32", "10.0.0.2/32"] {
            assert_eq!(drawn[own], "throw ", "{own}");
        }
    }

    #[test]
    fn a_number_is_that_of_the_contents() {
        let number = |vpc: &Vpc| {
            let plan = Plan { vpcs: vec![vpc.clone()], ..Plan::default() };
            *Tables::of_vpc(&plan, vpc).tables.keys().next().unwrap()
        };
        let (one, other) = (vpc(&[]), vpc(&[("0.0.0.0/0", Target::InternetGateway)]));
        assert_eq!(number(&one), number(&one));
        assert_ne!(number(&one), number(&other));
        let mut renamed = one.clone();
        renamed.route_tables[0].id = "rtb-2".into();
        renamed.subnets[0].route_table = "rtb-2".into();
        assert_eq!(number(&one), number(&renamed));
    }

    #[test]
    fn two_tables_never_share_a_number() {
        let mut tables = Tables::default();
        let one = Table::from([("10.0.0.0/8".parse().unwrap(), Route::blackhole())]);
        let number = tables.add(one.clone());
        // As if the hash were the same.
        let mut crowded = Tables::default();
        crowded.tables.insert(number, Table::new());
        assert_ne!(crowded.add(one.clone()), number);
        assert_eq!(tables.add(one), number);
        assert_eq!(tables.tables.len(), 1);
    }
}
