//! Security groups: one chain a group, direction and IP version, and one for every combination of
//! groups that some interface has.
//!
//! Rules of one group for the same traffic are one rule with a set of prefixes; many different ones
//! are one set of prefixes with ports. Members of groups and prefix lists are sets of their own, so
//! that a member more is an element more and nothing else.

use super::{Compiler, RECEIVER, SENDER, is_nat_gateway, quoted};
use crate::names::UPLINK;
use crate::protocols::{Protocols, Transport, Version, boxes, normalise};
use crate::ruleset::Family;
use base::Cidr;
use base::network::{Interface, Peer, Rule, SecurityGroup};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// More different rules than these are worth a set with ports.
const FEW: usize = 3;

/// From an interface's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    pub(crate) const BOTH: [Direction; 2] = [Direction::Ingress, Direction::Egress];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }
    }

    /// The header field that holds the peer.
    pub(crate) fn peer(self) -> &'static str {
        match self {
            Direction::Ingress => "saddr",
            Direction::Egress => "daddr",
        }
    }

    pub(crate) fn rules(self, group: &SecurityGroup) -> &[Rule] {
        match self {
            Direction::Ingress => &group.ingress,
            Direction::Egress => &group.egress,
        }
    }

    pub(crate) fn reverse(self) -> Direction {
        match self {
            Direction::Ingress => Direction::Egress,
            Direction::Egress => Direction::Ingress,
        }
    }
}

/// Whether the peer is everybody of an IP version.
pub(crate) fn is_anywhere(peer: &Peer, version: Version) -> bool {
    matches!(peer, Peer::Cidr(cidr) if cidr.length() == 0 && Version::of(cidr) == version)
}

/// An element of an interval set; a single address has no length.
pub(super) fn interval(cidr: &Cidr) -> String {
    match cidr {
        Cidr::V4(cidr) if cidr.length() == 32 => cidr.network().to_string(),
        Cidr::V6(cidr) if cidr.length() == 128 => cidr.network().to_string(),
        cidr => cidr.to_string(),
    }
}

/// Sets that hold a peer's addresses; empty for one that is not known.
#[derive(Default)]
struct Peers {
    by_group: BTreeMap<(String, Version6), Vec<String>>,
    by_list: BTreeMap<(String, Version6), String>,
}

type Version6 = bool;

impl<'a> Compiler<'a> {
    pub(super) fn groups(&mut self) {
        let vpc = self.vpc;
        let groups: BTreeMap<&'a str, &'a SecurityGroup> =
            vpc.groups.iter().map(|group| (group.id.as_str(), group)).collect();
        let mut combinations: HashMap<Vec<&str>, Arc<str>> = HashMap::new();
        let mut chain_of = |interface: &'a Interface| {
            let ids = combination(interface, &groups);
            let name = combinations.entry(ids).or_insert_with_key(|ids| name_of(ids).into());
            name.clone()
        };
        let links: Vec<Option<Arc<str>>> = self
            .here
            .iter()
            .map(|(interface, _)| (!is_nat_gateway(interface)).then(|| chain_of(interface)))
            .collect();
        let endpoints: Vec<Arc<str>> = self.endpoints.iter().map(|i| chain_of(i)).collect();
        let combinations: BTreeMap<Vec<&str>, Arc<str>> = combinations.into_iter().collect();
        let used: BTreeSet<&str> = combinations.keys().flatten().copied().collect();
        let mut peers = Peers::default();
        self.peers(&used, &groups, &mut peers);
        let mut open = BTreeSet::new();
        for id in &used {
            for direction in Direction::BOTH {
                for version in self.versions() {
                    self.group(groups[id], direction, *version, &peers, &mut open);
                }
            }
        }
        for (ids, name) in &combinations {
            let members: Vec<&SecurityGroup> = ids.iter().map(|id| groups[id]).collect();
            for direction in Direction::BOTH {
                for version in self.versions() {
                    self.combination(name, &members, direction, *version);
                }
            }
        }
        self.dispatch(&links, &endpoints);
    }

    /// Maps from links, and from addresses of endpoints, to rules.
    fn dispatch(&mut self, links: &[Option<Arc<str>>], endpoints: &[Arc<str>]) {
        let uplink = quoted(UPLINK);
        for version in self.versions() {
            let suffix = version.suffix();
            for direction in Direction::BOTH {
                let mut map = vec![("\"lo\"".to_owned(), "accept".to_owned())];
                let outside = match direction {
                    Direction::Egress => "goto from_outside",
                    Direction::Ingress => "goto to_outside",
                };
                map.push((uplink.clone(), outside.to_owned()));
                for link in self.foreign_links() {
                    let verdict = match direction {
                        Direction::Egress if self.around.peers.contains_key(link) => {
                            "goto from_peer"
                        }
                        Direction::Egress => "goto from_router",
                        Direction::Ingress => "accept",
                    };
                    map.push((quoted(link), verdict.to_owned()));
                }
                let word = direction.name();
                map.extend(self.here.iter().zip(links).map(|((_, link), chain)| {
                    let verdict = match chain {
                        Some(chain) => format!("goto {word}{suffix}_{chain}"),
                        // A NAT gateway has no groups.
                        None => "accept".to_owned(),
                    };
                    (quoted(link), verdict)
                }));
                let name = format!("{}_by_link{suffix}", direction.name());
                self.map(name, "type ifname : verdict;", map.into_iter().collect());
            }
            if self.endpoints.is_empty() {
                continue;
            }
            let mut map = BTreeMap::new();
            for (endpoint, chain) in self.endpoints.iter().zip(endpoints) {
                let verdict = format!("goto ingress{suffix}_{chain}");
                for address in addresses(endpoint, *version) {
                    map.insert(address, verdict.clone());
                }
            }
            self.map(
                format!("endpoints{suffix}"),
                format!("type {} : verdict;", version.address()),
                map,
            );
        }
    }

    /// Declares and fills the sets that rules of these groups name.
    fn peers(
        &mut self,
        used: &BTreeSet<&str>,
        groups: &BTreeMap<&str, &SecurityGroup>,
        peers: &mut Peers,
    ) {
        let (mut named, mut lists) = (BTreeSet::new(), BTreeSet::new());
        for rule in used.iter().flat_map(|id| groups[id].ingress.iter().chain(&groups[id].egress)) {
            match &rule.peer {
                Peer::Group(id) => drop(named.insert(id.as_str())),
                Peer::PrefixList(id) => drop(lists.insert(id.as_str())),
                Peer::Cidr(_) => {}
            }
        }
        let mut members: BTreeMap<&str, Vec<&Interface>> = BTreeMap::new();
        for interface in &self.vpc.interfaces {
            for id in interface.groups.iter().filter(|id| named.contains(id.as_str())) {
                members.entry(id).or_default().push(interface);
            }
        }
        for version in self.versions() {
            let (suffix, kind) = (version.suffix(), version.address());
            let six = *version == Version::Six;
            for id in &named {
                let members = members.get(id).map(Vec::as_slice).unwrap_or_default();
                let mut addresses: Vec<String> =
                    members.iter().flat_map(|interface| addresses(interface, *version)).collect();
                let elsewhere = self.vpc.peer_groups.iter().filter(|group| group.id == *id);
                let elsewhere = elsewhere.flat_map(|group| &group.members);
                addresses.extend(elsewhere.filter(|a| a.is_ipv6() == six).map(ToString::to_string));
                let name = format!("{id}_members{suffix}");
                self.filled(&name, format!("type {kind};"), addresses);
                let mut sets = vec![name];
                let prefixes = members.iter().flat_map(|i| prefixes(i, *version)).collect();
                let prefixes = normalise(prefixes);
                if !prefixes.is_empty() {
                    let name = format!("{id}_prefixes{suffix}");
                    let elements: Vec<String> = prefixes.iter().map(interval).collect();
                    self.filled(&name, format!("type {kind}; flags interval;"), elements);
                    sets.push(name);
                }
                peers.by_group.insert(((*id).to_owned(), six), sets);
            }
            for list in self.vpc.prefix_lists.iter().filter(|l| lists.contains(l.id.as_str())) {
                let cidrs = list.cidrs.iter().filter(|c| Version::of(c) == *version).copied();
                let cidrs = normalise(cidrs.collect());
                let name = format!("{}_list{suffix}", list.id);
                let elements: Vec<String> = cidrs.iter().map(interval).collect();
                self.filled(&name, format!("type {kind}; flags interval;"), elements);
                peers.by_list.insert((list.id.clone(), six), name);
            }
        }
    }

    /// `sg-…_ingress` holds every rule, `sg-…_ingress_open` those that may be untracked.
    fn group(
        &mut self,
        group: &SecurityGroup,
        direction: Direction,
        version: Version,
        peers: &Peers,
        open_chains: &mut BTreeSet<String>,
    ) {
        let field = format!("{} {}", version.header(), direction.peer());
        let six = version == Version::Six;
        let mut open = Protocols::default();
        let mut prefixes: BTreeMap<Cidr, Protocols> = BTreeMap::new();
        let mut sets: BTreeMap<&str, Protocols> = BTreeMap::new();
        for rule in direction.rules(group) {
            match &rule.peer {
                peer if is_anywhere(peer, version) => open.insert(rule.protocol),
                Peer::Cidr(cidr) if Version::of(cidr) != version => {}
                Peer::Cidr(cidr) => prefixes.entry(*cidr).or_default().insert(rule.protocol),
                Peer::Group(id) => {
                    for set in peers.by_group.get(&(id.clone(), six)).into_iter().flatten() {
                        sets.entry(set).or_default().insert(rule.protocol);
                    }
                }
                Peer::PrefixList(id) => {
                    if let Some(set) = peers.by_list.get(&(id.clone(), six)) {
                        sets.entry(set).or_default().insert(rule.protocol);
                    }
                }
            }
        }
        let mut lines: Vec<String> =
            open.matches(version).iter().map(|text| accept(text, "")).collect();
        prefix_lines(&field, prefixes, version, &mut lines);
        for (set, protocols) in sets {
            let peer = format!("{field} @{set}");
            lines.extend(protocols.matches(version).iter().map(|text| accept(&peer, text)));
        }
        let name = format!("{}_{}{}", group.id, direction.name(), version.suffix());
        if !lines.is_empty() {
            self.chain(&name, lines);
        }
        let open: Vec<String> =
            open.transport_only().matches(version).iter().map(|text| accept(text, "")).collect();
        if !open.is_empty() {
            let name = format!("{name}_open");
            self.chain(&name, open);
            open_chains.insert(name);
        }
    }

    /// What interfaces with these groups let through; ends with a verdict.
    fn combination(
        &mut self,
        name: &str,
        groups: &[&SecurityGroup],
        direction: Direction,
        version: Version,
    ) {
        let (word, suffix) = (direction.name(), version.suffix());
        let mut lines = Vec::new();
        let exists =
            |chain: &String| self.rules.chains.contains_key(&(Family::Inet, chain.clone()));
        for transport in Transport::BOTH {
            if !allows_every_port(groups, direction.reverse(), transport, version) {
                continue;
            }
            for group in groups {
                let chain = format!("{}_{word}{suffix}_open", group.id);
                if exists(&chain) {
                    lines.push(format!("meta l4proto {} jump {chain}", transport.name()));
                }
            }
        }
        // A packet that is dropped below takes its mark with it: its flow is never confirmed.
        let bit = if direction == Direction::Ingress { RECEIVER } else { SENDER };
        lines.push(format!("ct state new ct mark set ct mark | {bit:#x}"));
        for group in groups {
            let chain = format!("{}_{word}{suffix}", group.id);
            if exists(&chain) {
                lines.push(format!("jump {chain}"));
            }
        }
        lines.push(self.denial(direction));
        self.chain(format!("{word}{suffix}_{name}"), lines);
    }
}

/// Rules of a group for peers that are prefixes.
fn prefix_lines(
    field: &str,
    mut prefixes: BTreeMap<Cidr, Protocols>,
    version: Version,
    lines: &mut Vec<String>,
) {
    let kinds: BTreeSet<&Protocols> = prefixes.values().collect();
    if kinds.len() > FEW {
        for transport in Transport::BOTH {
            let boxes = boxes(&prefixes, transport);
            if !boxes.is_empty() {
                let (name, boxes) = (transport.name(), boxes.join(", "));
                lines.push(format!("{field} . {name} dport {{ {boxes} }} accept"));
            }
        }
        prefixes.values_mut().for_each(|protocols| *protocols = protocols.without_ports());
    }
    let mut by_protocols: BTreeMap<Protocols, Vec<Cidr>> = BTreeMap::new();
    for (cidr, protocols) in prefixes {
        by_protocols.entry(protocols).or_default().push(cidr);
    }
    for (protocols, list) in by_protocols {
        let list: Vec<String> = normalise(list).iter().map(Cidr::to_string).collect();
        let peer = format!("{field} {{ {} }}", list.join(", "));
        lines.extend(protocols.matches(version).iter().map(|text| accept(&peer, text)));
    }
}

fn accept(first: &str, second: &str) -> String {
    let words = [first, second, "accept"];
    words.iter().filter(|word| !word.is_empty()).copied().collect::<Vec<_>>().join(" ")
}

/// Whether the groups together allow every port of a transport to or from anywhere.
fn allows_every_port(
    groups: &[&SecurityGroup],
    direction: Direction,
    transport: Transport,
    version: Version,
) -> bool {
    let mut anywhere = Protocols::default();
    for rule in groups.iter().flat_map(|group| direction.rules(group)) {
        if is_anywhere(&rule.peer, version) {
            anywhere.insert(rule.protocol);
        }
    }
    anywhere.contains_all(transport)
}

/// The known groups of an interface, in order.
fn combination<'a>(
    interface: &'a Interface,
    groups: &BTreeMap<&str, &SecurityGroup>,
) -> Vec<&'a str> {
    let mut ids: Vec<&str> = interface.groups.iter().map(String::as_str).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.retain(|id| groups.contains_key(id));
    ids
}

/// What the chains of a combination are called: readable where there is one group, else short enough
/// for the kernel and the same for ever (FNV-1a of the ids).
fn name_of(ids: &[&str]) -> String {
    match ids {
        [] => "none".into(),
        [id] => (*id).to_owned(),
        ids => {
            let bytes = ids.iter().flat_map(|id| id.bytes().chain([b',']));
            let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
            format!("{}_groups_{hash:016x}", ids.len())
        }
    }
}

pub(super) fn addresses(interface: &Interface, version: Version) -> Vec<String> {
    match version {
        Version::Four => interface.addresses().map(|a| a.private_ip.to_string()).collect(),
        Version::Six => interface.ipv6.iter().map(ToString::to_string).collect(),
    }
}

fn prefixes(interface: &Interface, version: Version) -> Vec<Cidr> {
    match version {
        Version::Four => interface.prefixes.iter().map(|prefix| Cidr::V4(*prefix)).collect(),
        Version::Six => interface.ipv6_prefixes.iter().map(|prefix| Cidr::V6(*prefix)).collect(),
    }
}
