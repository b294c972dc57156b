//! Looking things up in a plan.

use crate::{Direction, Packet};
use base::network::{AclRule, Interface, Peer, Plan, Route, Rule, SecurityGroup, Subnet, Vpc};
use base::{Cidr, network};
use std::net::IpAddr;

/// An interface in its VPC.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'p> {
    pub(crate) vpc: &'p Vpc,
    pub(crate) interface: &'p Interface,
}

pub(crate) fn interface<'p>(plan: &'p Plan, id: &str) -> Option<Place<'p>> {
    plan.vpcs.iter().find_map(|vpc| {
        let interface = vpc.interfaces.iter().find(|interface| interface.id == id)?;
        Some(Place { vpc, interface })
    })
}

pub(crate) fn vpc<'p>(plan: &'p Plan, id: &str) -> Option<&'p Vpc> {
    plan.vpcs.iter().find(|vpc| vpc.id == id)
}

pub(crate) fn subnet<'p>(place: Place<'p>) -> Option<&'p Subnet> {
    place.vpc.subnets.iter().find(|subnet| subnet.id == place.interface.subnet_id)
}

/// The interface of a VPC that has an address.
pub(crate) fn owner(vpc: &Vpc, address: IpAddr) -> Option<Place<'_>> {
    let interface = vpc.interfaces.iter().find(|interface| interface.has(address))?;
    Some(Place { vpc, interface })
}

/// The public address that a private one of the VPC is translated to.
pub(crate) fn public_of(vpc: &Vpc, private: IpAddr) -> Option<IpAddr> {
    let addresses = vpc.interfaces.iter().flat_map(Interface::addresses);
    let found = addresses.into_iter().find(|own| IpAddr::V4(own.private_ip) == private)?;
    found.public_ip.map(IpAddr::V4)
}

/// Who is called from outside by an address, and by which address of its own.
pub(crate) fn called(plan: &Plan, public: IpAddr) -> Option<(Place<'_>, IpAddr)> {
    plan.vpcs.iter().find_map(|vpc| {
        vpc.interfaces.iter().find_map(|interface| {
            let own = match public {
                IpAddr::V4(public) => {
                    let address = interface.addresses().find(|a| a.public_ip == Some(public))?;
                    IpAddr::V4(address.private_ip)
                }
                IpAddr::V6(_) => Some(public).filter(|address| interface.has(*address))?,
            };
            Some((Place { vpc, interface }, own))
        })
    })
}

/// The VPC's own blocks.
pub(crate) fn blocks(vpc: &Vpc) -> impl Iterator<Item = Cidr> + '_ {
    vpc.cidrs.iter().map(|c| Cidr::V4(*c)).chain(vpc.ipv6_cidrs.iter().map(|c| Cidr::V6(*c)))
}

pub(crate) fn is_local(vpc: &Vpc, address: IpAddr) -> bool {
    blocks(vpc).any(|block| block.contains(address))
}

/// Whether an address lies in a subnet.
pub(crate) fn is_within(subnet: &Subnet, address: IpAddr) -> bool {
    Cidr::V4(subnet.cidr).contains(address)
        || subnet.ipv6_cidr.is_some_and(|cidr| Cidr::V6(cidr).contains(address))
}

/// The route that applies: the longest prefix. One to a block of the VPC is in place of the local one.
pub(crate) fn route(vpc: &Vpc, table_id: &str, destination: IpAddr) -> Option<Route> {
    let local = blocks(vpc)
        .map(|block| Route { destination: block, target: network::Target::Local })
        .filter(|route| route.destination.contains(destination))
        .max_by_key(|route| route.destination.length());
    let table = vpc.route_tables.iter().find(|table| table.id == table_id);
    let drawn = table
        .into_iter()
        .flat_map(|table| &table.routes)
        .filter(|route| route.destination.contains(destination))
        .max_by_key(|route| route.destination.length());
    match (local, drawn) {
        (Some(local), Some(drawn)) if local.destination.length() > drawn.destination.length() => {
            Some(local)
        }
        (local, drawn) => drawn.cloned().or(local),
    }
}

/// The rule of an ACL that decides; `None` is the last one, which denies.
pub(crate) fn acl_rule(
    vpc: &Vpc,
    acl_id: &str,
    direction: Direction,
    packet: Packet,
) -> Option<AclRule> {
    let acl = vpc.network_acls.iter().find(|acl| acl.id == acl_id)?;
    let rules = match direction {
        Direction::Ingress => &acl.ingress,
        Direction::Egress => &acl.egress,
    };
    let matches = |rule: &&AclRule| {
        rule.cidr.contains(direction.peer(packet)) && packet.traffic.is(rule.protocol)
    };
    rules.iter().filter(matches).min_by_key(|rule| rule.number).cloned()
}

/// The group of an interface and its rule that let a packet pass.
pub(crate) fn group_rule(
    place: Place<'_>,
    direction: Direction,
    packet: Packet,
) -> Option<(String, Rule)> {
    let groups = place.vpc.groups.iter().filter(|g| place.interface.groups.contains(&g.id));
    groups.into_iter().find_map(|group| {
        let rule = rules(group, direction).iter().find(|rule| {
            packet.traffic.is(rule.protocol)
                && is_peer(place.vpc, &rule.peer, direction.peer(packet))
        })?;
        Some((group.id.clone(), rule.clone()))
    })
}

fn rules(group: &SecurityGroup, direction: Direction) -> &[Rule] {
    match direction {
        Direction::Ingress => &group.ingress,
        Direction::Egress => &group.egress,
    }
}

fn is_peer(vpc: &Vpc, peer: &Peer, address: IpAddr) -> bool {
    match peer {
        Peer::Cidr(cidr) => cidr.contains(address),
        Peer::Group(id) => {
            let mut members = vpc.interfaces.iter().filter(|i| i.groups.contains(id));
            let mut abroad = vpc.peer_groups.iter().filter(|group| group.id == *id);
            members.any(|member| member.has(address))
                || abroad.any(|group| group.members.contains(&address))
        }
        Peer::PrefixList(id) => {
            let mut lists = vpc.prefix_lists.iter().filter(|list| list.id == *id);
            lists.any(|list| list.cidrs.iter().any(|cidr| cidr.contains(address)))
        }
    }
}
