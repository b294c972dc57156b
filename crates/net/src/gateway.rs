//! Gateways that are namespaces of their own: NAT gateways and transit gateways.
//!
//! ```text
//!  VPC ── tap… ─ eth0 ── gureum-nat-…        comes in, is translated, leaves by the way it came;
//!                                            then the route table of its subnet says where to
//!  VPC ── tgw… ─ att… ── gureum-tgw-…        looked up in the table of the attachment it came by
//!  VPC ── tgw… ─ att… ──┘      └── att… ─ att… ── another transit gateway
//! ```
//!
//! A NAT gateway (VPC User Guide, "NAT gateway basics"): TCP, UDP and ICMP; 55,000 flows of each
//! address to one destination; who sends on after 350 s of silence gets a reset. Whether it is public
//! follows from its private addresses being translated again by the internet gateway. What is not
//! done: NAT64.

use crate::layout::{Kind, Layout, Link, MAIN, Route, Rule, everything};
use crate::names::{
    GATEWAY_LINK, NEXT_HOP, NEXT_HOP_V6, ROUTER_MAC, attachment_link, namespace, tap, transit_link,
};
use crate::ruleset::{Chain, Family, Ruleset};
use crate::tables::{Table, Tables, has_link};
use crate::vpc::pair;
use base::network::{AttachedResource, Holder, Interface, Plan, TransitGateway, Vpc};
use std::net::IpAddr;

/// Flows of one address to one destination (VPC User Guide, "NAT gateway basics").
const FLOWS: u16 = 55_000;
/// The ports that they use begin here (the same page).
const FIRST_PORT: u16 = 1024;

/// How long a flow may be silent, by the page "Troubleshoot NAT gateways"; a packet in the middle of
/// an unknown flow begins none.
pub(crate) const NAT_TRACKING: [(&str, &str); 6] = [
    ("netfilter/nf_conntrack_tcp_timeout_established", "350"),
    ("netfilter/nf_conntrack_udp_timeout", "350"),
    ("netfilter/nf_conntrack_udp_timeout_stream", "350"),
    ("netfilter/nf_conntrack_icmp_timeout", "350"),
    ("netfilter/nf_conntrack_tcp_loose", "0"),
    ("netfilter/nf_conntrack_generic_timeout", "350"),
];

/// A gateway's namespace.
#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    /// `nat-…` or `tgw-…`.
    pub id: String,
    pub layout: Layout,
    pub ruleset: Ruleset,
    /// It translates.
    pub nat: bool,
}

/// The gateways of this node.
pub(crate) fn all(plan: &Plan, prefix: &str) -> Vec<Gateway> {
    let mut gateways = Vec::new();
    for vpc in &plan.vpcs {
        for interface in vpc.interfaces.iter().filter(|interface| has_link(interface)) {
            if let Holder::NatGateway(id) = &interface.holder {
                gateways.push(nat(id, vpc, interface, prefix));
            }
        }
    }
    gateways.extend(plan.transit_gateways.iter().map(|gateway| transit(plan, gateway, prefix)));
    gateways
}

/// What is asked first, as the kernel has it.
fn own_addresses_first(layout: &mut Layout) {
    layout.rules.extend(Rule::both(0, None, None, crate::layout::LOCAL));
}

fn nat(id: &str, vpc: &Vpc, interface: &Interface, prefix: &str) -> Gateway {
    let mut layout = Layout::default();
    let kind = Kind::Pair {
        space: namespace(prefix, &vpc.id),
        link: tap(&interface.id),
        mac: ROUTER_MAC.to_owned(),
    };
    let link = Link { kind, mac: interface.mac.clone(), mtu: 1500 };
    layout.links.insert(GATEWAY_LINK.to_owned(), link);
    let [v4, _] = everything();
    layout.routes.insert((MAIN, v4), Route::via(NEXT_HOP, GATEWAY_LINK));
    layout.neighbours.insert((GATEWAY_LINK.into(), NEXT_HOP.into()), ROUTER_MAC.into());
    // A packet to it that belongs to no flow ends here, instead of being sent back.
    layout.addresses.extend(interface.addresses().map(|own| IpAddr::from(own.private_ip)));
    own_addresses_first(&mut layout);
    Gateway { id: id.to_owned(), layout, ruleset: translation(interface), nat: true }
}

fn translation(interface: &Interface) -> Ruleset {
    let mut rules = Ruleset::default();
    let mut add = |name: &str, hook: Option<&'static str>, lines: Vec<String>| {
        rules.chains.insert((Family::Inet, name.to_owned()), Chain { hook, rules: lines });
    };
    add("enter", Some("filter hook input priority 0"), vec!["drop".into()]);
    let through = [
        "meta nfproto ipv6 drop",
        "ct state established,related accept",
        "meta l4proto tcp tcp flags & (fin | syn | rst | ack) != syn reject with tcp reset",
        "ct state invalid drop",
        "meta l4proto { tcp, udp, icmp } accept",
        "drop",
    ];
    add("through", Some("filter hook forward priority 0"), through.map(str::to_owned).into());
    let addresses: Vec<_> = interface.addresses().map(|address| address.private_ip).collect();
    let last = FIRST_PORT + FLOWS - 1;
    let mut choice = Vec::new();
    for (number, address) in addresses.iter().enumerate() {
        let name = format!("address_{number}");
        let lines = vec![
            format!("meta l4proto {{ tcp, udp }} snat ip to {address}:{FIRST_PORT}-{last}"),
            format!("meta l4proto icmp snat ip to {address}"),
        ];
        add(&name, None, lines);
        choice.push(format!("{number} : goto {name}"));
    }
    let line = match addresses.len() {
        0 | 1 => "goto address_0".to_owned(),
        count => format!("numgen inc mod {count} vmap {{ {} }}", choice.join(", ")),
    };
    add("translate", Some("nat hook postrouting priority 100"), vec![line]);
    rules
}

fn transit(plan: &Plan, gateway: &TransitGateway, prefix: &str) -> Gateway {
    let mut layout = Layout::default();
    let mut tables = Tables::default();
    let mut alive = Vec::new();
    for attachment in &gateway.attachments {
        let other = match &attachment.resource {
            AttachedResource::Vpc { vpc_id, .. } => plan
                .vpcs
                .iter()
                .any(|vpc| vpc.id == *vpc_id)
                .then(|| (namespace(prefix, vpc_id), transit_link(&gateway.id))),
            AttachedResource::Peering { transit_gateway_id } => plan
                .transit_gateways
                .iter()
                .any(|other| {
                    other.id == *transit_gateway_id
                        && other.attachments.iter().any(|end| end.id == attachment.id)
                })
                .then(|| (namespace(prefix, transit_gateway_id), attachment_link(&attachment.id))),
        };
        if let Some((space, link)) = other {
            pair(&mut layout, &attachment_link(&attachment.id), space, link);
            alive.push(attachment);
        }
    }
    for attachment in &alive {
        let drawn = gateway
            .route_tables
            .iter()
            .filter(|table| attachment.route_table.as_ref() == Some(&table.id));
        let mut table = Table::from(everything().map(|all| (all, Route::blackhole())));
        for route in drawn.flat_map(|table| &table.routes) {
            let v6 = matches!(route.destination, base::Cidr::V6(_));
            let hop = if v6 { IpAddr::from(NEXT_HOP_V6) } else { NEXT_HOP.into() };
            let to = route.attachment.as_ref();
            let way = to.filter(|to| alive.iter().any(|attachment| attachment.id == **to));
            let way = way.map_or_else(Route::blackhole, |to| Route::via(hop, &attachment_link(to)));
            table.insert(route.destination, way);
        }
        let number = tables.add(table);
        tables.marks.insert(attachment_link(&attachment.id), number);
    }
    tables.enter_by_link(&mut layout);
    layout.routes.extend(everything().map(|all| ((MAIN, all), Route::blackhole())));
    own_addresses_first(&mut layout);
    Gateway { id: gateway.id.clone(), layout, ruleset: Ruleset::default(), nat: false }
}
