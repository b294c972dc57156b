//! Which packets may pass: security groups with what their rules name, and network ACLs.

use super::{Named, Present, Records};
use crate::record::{NetworkAclEntry, PrefixList, RulePeer, SecurityGroup, SecurityGroupRule, Vpc};
use base::Cidr;
use base::network::{
    self, AclRule, Interface, NetworkAcl, Peer, PeerGroup, Peering, Protocol, Rule,
};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

/// Members of groups that rules of peered VPCs name, by the peering connection and the group.
pub(crate) type PeerMembers = HashMap<(String, String), Vec<IpAddr>>;

/// The members of every group that a rule of another VPC names by an active connection.
pub(super) fn peer_members(
    regions: &[Records],
    present: &[Present<'_>],
    peerings: &[Peering],
) -> PeerMembers {
    let mut named: HashSet<(&str, &str, &str)> = HashSet::new();
    for rule in regions.iter().flat_map(|r| &r.groups).flat_map(|group| &group.rules) {
        if let RulePeer::PeerGroup { vpc_id, peering_id, group_id, .. } = &rule.peer {
            named.insert((peering_id, vpc_id, group_id));
        }
    }
    let is_active = |peering_id: &str, vpc_id: &str| {
        peerings.iter().any(|peering| {
            peering.id == peering_id && peering.sides.iter().any(|side| side.vpc_id == vpc_id)
        })
    };
    let named = named.into_iter().filter(|(peering_id, vpc_id, _)| is_active(peering_id, vpc_id));
    named
        .map(|(peering_id, vpc_id, group_id)| {
            let interfaces = present.iter().filter_map(|of| of.get(vpc_id)).flatten();
            let members = interfaces.filter(|i| i.groups.iter().any(|id| id == group_id));
            let addresses = members.flat_map(addresses).collect();
            ((peering_id.to_owned(), group_id.to_owned()), addresses)
        })
        .collect()
}

fn addresses(interface: &Interface) -> impl Iterator<Item = IpAddr> + '_ {
    let ipv4 = interface.addresses().map(|address| IpAddr::V4(address.private_ip));
    ipv4.chain(interface.ipv6.iter().copied().map(IpAddr::V6))
}

/// The groups of a VPC's interfaces, and what their rules name.
pub(super) struct Compiled {
    pub(super) groups: Vec<network::SecurityGroup>,
    pub(super) peer_groups: Vec<PeerGroup>,
    pub(super) prefix_lists: Vec<network::PrefixList>,
}

impl Compiled {
    pub(super) fn new(
        records: &Records,
        vpc: &Vpc,
        interfaces: &[Interface],
        members: &PeerMembers,
    ) -> Compiled {
        let groups: HashMap<&str, &SecurityGroup> = records
            .groups
            .iter()
            .filter(|group| group.vpc_id == vpc.id)
            .map(|group| (group.id.as_str(), group.as_ref()))
            .collect();
        let lists: HashMap<&str, &PrefixList> =
            records.prefix_lists.iter().map(|list| (list.id.as_str(), list.as_ref())).collect();
        let mut peer_groups: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        let mut peer = |peer: &RulePeer| match peer {
            RulePeer::Ipv4(cidr) => Some(Peer::Cidr(Cidr::V4(*cidr))),
            RulePeer::Ipv6(cidr) => Some(Peer::Cidr(Cidr::V6(*cidr))),
            RulePeer::Group(id) => {
                groups.contains_key(id.as_str()).then(|| Peer::Group(id.clone()))
            }
            RulePeer::PeerGroup { peering_id, group_id, .. } => {
                let members = members.get(&(peering_id.clone(), group_id.clone()))?;
                peer_groups.entry(group_id.clone()).or_insert_with(|| members.clone());
                Some(Peer::Group(group_id.clone()))
            }
            RulePeer::PrefixList(id) => {
                lists.contains_key(id.as_str()).then(|| Peer::PrefixList(id.clone()))
            }
        };
        let mut used: BTreeMap<String, network::SecurityGroup> = BTreeMap::new();
        for id in interfaces.iter().flat_map(|interface| &interface.groups) {
            // A group that is gone allows nothing.
            let Some(group) = groups.get(id.as_str()).filter(|_| !used.contains_key(id)) else {
                continue;
            };
            let compiled = network::SecurityGroup {
                id: id.clone(),
                ingress: rules(group, false, &mut peer),
                egress: rules(group, true, &mut peer),
            };
            used.insert(id.clone(), compiled);
        }
        let (mut named, mut named_lists) = (Named::new(), Named::new());
        for rule in used.values().flat_map(|group| group.ingress.iter().chain(&group.egress)) {
            match &rule.peer {
                Peer::Group(id) if !peer_groups.contains_key(id) => {
                    named.insert(id.clone());
                }
                Peer::PrefixList(id) => {
                    named_lists.insert(id.clone());
                }
                Peer::Group(_) | Peer::Cidr(_) => {}
            }
        }
        // Of those that are only named the members matter, so they come without rules.
        for id in named {
            used.entry(id.clone()).or_insert(network::SecurityGroup {
                id,
                ingress: Vec::new(),
                egress: Vec::new(),
            });
        }
        let named_lists = named_lists.into_iter().filter_map(|id| {
            let list = lists.get(id.as_str())?;
            let cidrs = list.entries().iter().map(|entry| entry.cidr).collect();
            Some(network::PrefixList { id, cidrs })
        });
        Compiled {
            groups: used.into_values().collect(),
            prefix_lists: named_lists.collect(),
            peer_groups: peer_groups
                .into_iter()
                .map(|(id, members)| PeerGroup { id, members })
                .collect(),
        }
    }
}

fn rules(
    group: &SecurityGroup,
    egress: bool,
    peer: &mut impl FnMut(&RulePeer) -> Option<Peer>,
) -> Vec<Rule> {
    let rules: BTreeSet<Rule> = group
        .rules
        .iter()
        .filter(|rule| rule.egress == egress)
        .filter_map(|rule| Some(Rule { protocol: protocol(rule)?, peer: peer(&rule.peer)? }))
        .collect();
    rules.into_iter().collect()
}

/// What traffic a rule means; `None` for a text that is no protocol.
fn protocol(rule: &SecurityGroupRule) -> Option<Protocol> {
    let port = |port: Option<i32>, otherwise: u16| {
        port.and_then(|port| u16::try_from(port).ok()).unwrap_or(otherwise)
    };
    let range = || (port(rule.from_port, 0), port(rule.to_port, u16::MAX));
    let (kind, code) = (octet(rule.from_port), octet(rule.to_port));
    Some(match rule.protocol.as_str() {
        "-1" => Protocol::All,
        "tcp" => {
            let (from, to) = range();
            Protocol::Tcp { from, to }
        }
        "udp" => {
            let (from, to) = range();
            Protocol::Udp { from, to }
        }
        "icmp" => Protocol::Icmp { kind, code },
        "icmpv6" => Protocol::Icmpv6 { kind, code },
        number => Protocol::Number(number.parse().ok()?),
    })
}

fn octet(number: Option<i32>) -> Option<u8> {
    number.and_then(|number| u8::try_from(number).ok())
}

/// The network ACLs of a VPC.
pub(super) fn network_acls(records: &Records, vpc: &Vpc) -> Vec<NetworkAcl> {
    let own = records.network_acls.iter().filter(|acl| acl.vpc_id == vpc.id);
    own.map(|acl| {
        let direction = |egress: bool| {
            let entries = acl.entries.iter().filter(|entry| entry.egress == egress);
            let mut rules: Vec<AclRule> = entries.filter_map(acl_rule).collect();
            rules.sort_by_key(|rule| rule.number);
            rules
        };
        NetworkAcl { id: acl.id.clone(), ingress: direction(false), egress: direction(true) }
    })
    .collect()
}

fn acl_rule(entry: &NetworkAclEntry) -> Option<AclRule> {
    let (from, to) = entry.ports.unwrap_or((0, u16::MAX));
    let (kind, code) = entry.icmp.unwrap_or((-1, -1));
    let (kind, code) = (octet(Some(kind)), octet(Some(code)));
    let protocol = match entry.protocol.as_str() {
        "-1" => Protocol::All,
        "6" => Protocol::Tcp { from, to },
        "17" => Protocol::Udp { from, to },
        "1" => Protocol::Icmp { kind, code },
        "58" => Protocol::Icmpv6 { kind, code },
        number => Protocol::Number(number.parse().ok()?),
    };
    Some(AclRule { number: entry.number, allow: entry.allow, protocol, cidr: entry.cidr })
}
