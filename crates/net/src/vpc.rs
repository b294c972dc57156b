//! What the namespace of a VPC must hold.
//!
//! Every interface of this node is a link with a host route to each of its addresses; those of other
//! nodes are behind one VXLAN link. A blackhole for every block of the VPC stands behind the host
//! routes: the kernel answers ARP for an address only if it has a route to it, and a packet to an
//! address that nobody has vanishes.

use crate::layout::{Kind, LOCAL, Layout, Link, MAIN, Route, Rule, host};
use crate::names::{
    GATEWAY_LINK, HOST_ADDRESS, HOST_ADDRESS_V6, HOST_MAC, METADATA, NEXT_HOP, NEXT_HOP_V6,
    RESOLVER, ROUTER_MAC, SERVICES_V6, TIME, UPLINK, UPLINK_MAC, attachment_link, fabric_link,
    namespace, node_mac, peering_link, resolver, router, tap, transit_link,
};
use crate::surroundings::Surroundings;
use crate::tables::{self, has_link, passes_on, peerings};
use base::Cidr;
use base::network::{AttachedResource, Fabric, Holder, Interface, Plan, Vpc};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// After the drawn tables, which may hide an address of the namespace, and before main.
const OWN_ADDRESSES: u32 = 200;

/// Mtu of the links that do not end in a guest.
const ETHERNET: u16 = 1500;

/// The layout of a VPC. `prefix` is that of the names of namespaces.
pub(crate) fn layout(plan: &Plan, vpc: &Vpc, around: &Surroundings, prefix: &str) -> Layout {
    let mut layout = Layout::default();
    let v6 = !vpc.ipv6_cidrs.is_empty();
    own_addresses(vpc, v6, &mut layout);
    tables::ends(&mut layout, vpc);
    around.tables.enter(&mut layout, v6);
    layout.rules.extend(Rule::both(OWN_ADDRESSES, None, None, LOCAL));
    link(&mut layout, UPLINK, Kind::Uplink, UPLINK_MAC, ETHERNET);
    layout.routes.insert((MAIN, host(HOST_ADDRESS.into())), Route::on(UPLINK));
    neighbour(&mut layout, UPLINK, HOST_ADDRESS.into(), HOST_MAC);
    neighbour(&mut layout, UPLINK, HOST_ADDRESS_V6.into(), HOST_MAC);
    for interface in &vpc.interfaces {
        if has_link(interface) {
            own_interface(interface, around.mtu, prefix, &mut layout);
        }
    }
    for (id, other) in peerings(plan, vpc) {
        let name = peering_link(id);
        pair(&mut layout, &name, namespace(prefix, &other.id), name.clone());
    }
    for gateway in &plan.transit_gateways {
        let attachment = gateway.attachments.iter().find(|attachment| {
            matches!(&attachment.resource, AttachedResource::Vpc { vpc_id, .. } if *vpc_id == vpc.id)
        });
        if let Some(attachment) = attachment {
            let space = namespace(prefix, &gateway.id);
            pair(&mut layout, &transit_link(&gateway.id), space, attachment_link(&attachment.id));
        }
    }
    if let Some(fabric) = &plan.fabric {
        other_nodes(fabric, vpc, around.mtu, &mut layout);
    }
    if !v6 {
        layout.addresses.retain(IpAddr::is_ipv4);
        layout.routes.retain(|(_, destination), _| matches!(destination, Cidr::V4(_)));
        layout.neighbours.retain(|(_, address), _| address.is_ipv4());
    }
    layout
}

fn own_addresses(vpc: &Vpc, v6: bool, layout: &mut Layout) {
    let own = vpc.subnets.iter().filter_map(|subnet| router(&subnet.cidr)).chain(resolver(vpc));
    layout.addresses.extend(own.chain([METADATA, RESOLVER, TIME]).map(IpAddr::from));
    if v6 {
        layout.addresses.extend(SERVICES_V6.map(IpAddr::from));
    }
    for interface in &vpc.interfaces {
        if interface.node.is_none() && matches!(interface.holder, Holder::Endpoint(_)) {
            layout.addresses.extend(addresses(interface));
        }
    }
    let endpoints = vpc.gateway_endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
    layout.addresses.extend(endpoints.copied().map(IpAddr::from));
}

/// Each address of an interface.
fn addresses(interface: &Interface) -> impl Iterator<Item = IpAddr> {
    let v4 = interface.addresses().map(|address| IpAddr::from(address.private_ip));
    v4.chain(interface.ipv6.iter().copied().map(IpAddr::from))
}

/// Each prefix of an interface.
fn prefixes(interface: &Interface) -> impl Iterator<Item = Cidr> {
    let v4 = interface.prefixes.iter().copied().map(Cidr::from);
    v4.chain(interface.ipv6_prefixes.iter().copied().map(Cidr::from))
}

fn link(layout: &mut Layout, name: &str, kind: Kind, mac: &str, mtu: u16) {
    layout.links.insert(name.to_owned(), Link { kind, mac: mac.to_owned(), mtu });
}

fn neighbour(layout: &mut Layout, link: &str, address: IpAddr, mac: &str) {
    layout.neighbours.insert((link.to_owned(), address), mac.to_owned());
}

/// A link to another of our namespaces.
pub(crate) fn pair(layout: &mut Layout, name: &str, space: String, other: String) {
    let kind = Kind::Pair { space, link: other, mac: ROUTER_MAC.to_owned() };
    link(layout, name, kind, ROUTER_MAC, ETHERNET);
    neighbour(layout, name, NEXT_HOP.into(), ROUTER_MAC);
    neighbour(layout, name, NEXT_HOP_V6.into(), ROUTER_MAC);
}

fn own_interface(interface: &Interface, mtu: u16, prefix: &str, layout: &mut Layout) {
    let name = tap(&interface.id);
    let kind = match &interface.holder {
        Holder::NatGateway(id) => Kind::Pair {
            space: namespace(prefix, id),
            link: GATEWAY_LINK.to_owned(),
            mac: interface.mac.clone(),
        },
        _ => Kind::Tap,
    };
    link(layout, &name, kind, ROUTER_MAC, mtu);
    for address in addresses(interface) {
        layout.routes.insert((MAIN, host(address)), Route::on(&name));
        neighbour(layout, &name, address, &interface.mac);
    }
    for block in prefixes(interface) {
        // The guest has its whole prefix at its own address.
        let hop = match block {
            Cidr::V4(_) => Some(IpAddr::from(interface.private_ip)),
            Cidr::V6(_) => interface.ipv6.first().copied().map(IpAddr::from),
        };
        let way = hop.map_or_else(Route::blackhole, |hop| Route::via(hop, &name));
        layout.routes.insert((MAIN, block), way);
    }
}

/// The next hop that stands for a node.
fn node_hop(address: Ipv4Addr, v6: bool) -> IpAddr {
    if !v6 {
        return address.into();
    }
    let [a, b, c, d] = address.octets();
    let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 1, high, low).into()
}

fn other_nodes(fabric: &Fabric, vpc: &Vpc, mtu: u16, layout: &mut Layout) {
    let name = fabric_link(&vpc.id);
    let kind = Kind::Fabric { vni: vpc.vni, address: fabric.address };
    link(layout, &name, kind, &node_mac(fabric.address), mtu);
    for address in fabric.nodes.values() {
        let mac = node_mac(*address);
        for v6 in [false, true] {
            neighbour(layout, &name, node_hop(*address, v6), &mac);
        }
        layout.stations.insert((name.clone(), mac), *address);
    }
    let nodes = &fabric.nodes;
    for interface in &vpc.interfaces {
        let Some(node) = interface.node.as_ref().and_then(|node| nodes.get(node)) else {
            continue;
        };
        let blocks = addresses(interface).map(host).chain(prefixes(interface));
        for block in blocks {
            let hop = node_hop(*node, matches!(block, Cidr::V6(_)));
            layout.routes.insert((MAIN, block), Route::via(hop, &name));
        }
        if passes_on(interface) {
            // Called by its own hardware address, so that the other node knows whom it is for.
            for hop in
                [Some(interface.private_ip.into()), interface.ipv6.first().map(|a| (*a).into())]
            {
                hop.into_iter().for_each(|hop| neighbour(layout, &name, hop, &interface.mac));
            }
            layout.stations.insert((name.clone(), interface.mac.clone()), *node);
        }
    }
}

/// The packets from other nodes that are for an interface which passes them on: a hook of its own,
/// since the frames are not for this link's address.
pub(crate) fn stations(around: &Surroundings) -> Option<(String, String)> {
    let link = around.fabric.clone()?;
    let elements = around.tables.by_station.iter().map(|(mac, mark)| format!("{mac} : {mark}"));
    let elements = elements.collect::<Vec<_>>().join(", ");
    let mut text = "add table netdev fabric\ndelete table netdev fabric\n".to_owned();
    if !elements.is_empty() {
        text += &format!(
            "add table netdev fabric\n\
             add map netdev fabric stations {{ type ether_addr : mark; elements = {{ {elements} }}; }}\n\
             add chain netdev fabric enter {{ type filter hook ingress device \"{link}\" priority 0; policy accept; }}\n\
             add rule netdev fabric enter meta mark set ether daddr map @stations meta pkttype set unicast\n"
        );
    }
    Some((link, text))
}
