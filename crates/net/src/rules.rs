//! Security groups, spoof guard and address translation of one VPC, compiled to nftables objects.
//!
//! Pure: a [`Vpc`] goes in, a [`Ruleset`] comes out. What a packet meets:
//!
//! ```text
//!  from a tap or the uplink
//!    prerouting -300  guard          is the sender who it says? (ARP: the same, in table arp)
//!    prerouting -200  (conntrack)
//!    prerouting -150  egress         link-local services: 1,024 packets/s, no group asked;
//!                                    egress_TAP: may this interface send that?
//!    prerouting -100  translate_in   public destination → private
//!    (routing)   input   0  local    only the services
//!    postrouting 100  translate_out  private source → public
//!    postrouting 150  ingress        ingress_TAP: may this interface receive that?
//! ```
//!
//! So egress is judged by the address that the guest wrote and ingress by the address that the
//! receiver will see, before and after translation, as on EC2: traffic to a public address never
//! matches a rule that names a group.
//!
//! **Tracked and untracked** (EC2 User Guide, "Security group connection tracking"): a TCP or UDP
//! flow that a 0.0.0.0/0 rule allows, where the other direction allows every port to 0.0.0.0/0, is
//! not tracked and breaks when the rule goes; any other flow survives. The kernel tracks all flows;
//! the connection mark says which ones EC2 would have tracked: bit [`SENDER`] on the side of the
//! interface that opened the flow, bit [`RECEIVER`] on the other side. A packet of a marked flow
//! passes; a packet of an unmarked one is judged again, in its direction.
//!
//! A denied packet is dropped without an answer.

use crate::names::{METADATA, RESOLVER, TIME, UPLINK, resolver, router, tap};
use crate::protocols::{Protocols, normalise};
use crate::ruleset::{Chain, Family, Ruleset, Set};
use base::network::{Interface, Peer, Protocol, Rule, SecurityGroup, Vpc};
use base::{Cidr, Ipv4Cidr};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// The flow is tracked for the interface that opened it.
pub const SENDER: u32 = 1;
/// The flow is tracked for the interface that was called.
pub const RECEIVER: u32 = 2;

/// Packets per second of one interface to link-local services (VPC quotas, "DNS"; EC2 User Guide,
/// "Instance metadata").
const SERVICE_RATE: u32 = 1024;

/// From an interface's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }
    }

    /// The header field that holds the peer.
    fn peer(self) -> &'static str {
        match self {
            Direction::Ingress => "ip saddr",
            Direction::Egress => "ip daddr",
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

/// Compiles a VPC that passed [`crate::names::check`].
pub fn compile(vpc: &Vpc) -> Ruleset {
    let mut rules = Ruleset::default();
    let groups: BTreeMap<&str, &SecurityGroup> =
        vpc.groups.iter().map(|group| (group.id.as_str(), group)).collect();
    sets(vpc, &mut rules);
    base_chains(&mut rules);
    let used: BTreeSet<&str> = vpc
        .interfaces
        .iter()
        .flat_map(|interface| &interface.groups)
        .map(String::as_str)
        .filter(|id| groups.contains_key(id))
        .collect();
    for id in used {
        for direction in [Direction::Ingress, Direction::Egress] {
            group_chains(vpc, groups[id], direction, &mut rules);
        }
    }
    for interface in &vpc.interfaces {
        let member_of: Vec<&SecurityGroup> = interface
            .groups
            .iter()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .filter_map(|id| groups.get(id.as_str()).copied())
            .collect();
        interface_chains(interface, &member_of, &mut rules);
    }
    rules
}

fn set(rules: &mut Ruleset, family: Family, name: &str, kind: &'static str) {
    rules.sets.insert((family, name.into()), Set { kind, elements: BTreeMap::new() });
}

fn element(rules: &mut Ruleset, family: Family, name: &str, key: String, value: String) {
    if let Some(set) = rules.sets.get_mut(&(family, name.to_owned())) {
        set.elements.insert(key, value);
    }
}

fn chain(rules: &mut Ruleset, name: String, lines: Vec<String>) {
    rules.chains.insert((Family::Inet, name), Chain { hook: None, rules: lines });
}

fn base(rules: &mut Ruleset, name: &str, hook: &'static str, lines: &[&str]) {
    base_in(rules, Family::Inet, name, hook, lines);
}

fn base_in(rules: &mut Ruleset, family: Family, name: &str, hook: &'static str, lines: &[&str]) {
    let lines = lines.iter().map(|line| line.replace("UPLINK", UPLINK)).collect();
    rules.chains.insert((family, name.into()), Chain { hook: Some(hook), rules: lines });
}

fn sets(vpc: &Vpc, rules: &mut Ruleset) {
    use Family::{Arp, Inet};
    set(rules, Inet, "local_addresses", "ipv4_addr");
    set(rules, Inet, "services", "ipv4_addr . inet_proto . inet_service");
    set(rules, Inet, "public_addresses", "ipv4_addr");
    set(rules, Inet, "to_private", "ipv4_addr : ipv4_addr");
    set(rules, Inet, "to_public", "ipv4_addr : ipv4_addr");
    for name in ["egress_by_tap", "ingress_by_tap", "services_by_tap"] {
        set(rules, Inet, name, "ifname : verdict");
    }
    for family in [Inet, Arp] {
        set(rules, family, "senders", "ifname . ether_addr . ipv4_addr");
        set(rules, family, "stations", "ifname . ether_addr");
        set(rules, family, "forwarders", "ifname . ether_addr");
    }
    let mut services: Vec<(Ipv4Addr, &str, u16)> = vec![
        (Ipv4Addr::BROADCAST, "udp", 67),
        (METADATA, "tcp", 80),
        (RESOLVER, "udp", 53),
        (RESOLVER, "tcp", 53),
        (TIME, "udp", 123),
    ];
    services.extend(resolver(vpc).iter().flat_map(|a| [(*a, "udp", 53), (*a, "tcp", 53)]));
    services.extend(
        vpc.subnets.iter().filter_map(|subnet| router(&subnet.cidr)).map(|a| (a, "udp", 67)),
    );
    for (address, protocol, port) in services {
        element(rules, Inet, "services", format!("{address} . {protocol} . {port}"), String::new());
        if address != Ipv4Addr::BROADCAST {
            element(rules, Inet, "local_addresses", address.to_string(), String::new());
        }
    }
}

/// Packets of established flows that are tracked on their side pass in the first rule of each chain:
/// what costs a lookup here costs it for every packet.
fn base_chains(rules: &mut Ruleset) {
    const GUARD: &str = "filter hook prerouting priority -300";
    base(
        rules,
        "guard",
        GUARD,
        &[
            "iifname . ether saddr . ip saddr @senders accept",
            "iifname { \"lo\", \"UPLINK\" } accept",
            "iifname . ether saddr @stations ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept",
            // Only we speak as the services.
            "ip saddr @local_addresses drop",
            "meta nfproto ipv4 iifname . ether saddr @forwarders accept",
            "drop",
        ],
    );
    base_in(
        rules,
        Family::Arp,
        "guard",
        "filter hook input priority 0",
        &[
            "iifname . arp saddr ether . arp saddr ip @senders accept",
            "iifname \"UPLINK\" accept",
            // "Does anybody have my address?" (RFC 5227) comes from nobody.
            "iifname . arp saddr ether @stations arp saddr ip 0.0.0.0 accept",
            "iifname . arp saddr ether @forwarders accept",
            "drop",
        ],
    );
    base(
        rules,
        "egress",
        "filter hook prerouting priority -150",
        &[
            "ct state established ct direction . ct mark { original . 0x1, original . 0x3, reply . 0x2, reply . 0x3 } accept",
            "ip daddr . meta l4proto . th dport @services iifname vmap @services_by_tap",
            // Only we answer DHCP.
            "udp sport 67 udp dport 68 drop",
            "ct state vmap { invalid : drop, related : accept }",
            "iifname vmap @egress_by_tap",
            "drop",
        ],
    );
    element(rules, Family::Inet, "egress_by_tap", "\"lo\"".into(), "accept".into());
    let uplink = format!("\"{UPLINK}\"");
    element(rules, Family::Inet, "egress_by_tap", uplink.clone(), "goto from_outside".into());
    chain(
        rules,
        "from_outside".into(),
        vec!["ip daddr @public_addresses accept".into(), "drop".into()],
    );
    base(
        rules,
        "translate_in",
        "nat hook prerouting priority -100",
        &["dnat ip to ip daddr map @to_private"],
    );
    base(
        rules,
        "local",
        "filter hook input priority 0",
        &["iifname \"lo\" accept", "ip daddr . meta l4proto . th dport @services accept", "drop"],
    );
    base(
        rules,
        "translate_out",
        "nat hook postrouting priority 100",
        &[
            "oifname \"UPLINK\" snat ip to ip saddr map @to_public",
            // A public address called from inside: the way out and in again, as through the
            // internet gateway.
            "iifname != \"UPLINK\" ct status dnat snat ip to ip saddr map @to_public",
        ],
    );
    base(
        rules,
        "ingress",
        "filter hook postrouting priority 150",
        &[
            "ct state established ct direction . ct mark { original . 0x2, original . 0x3, reply . 0x1, reply . 0x3 } accept",
            "ct state vmap { invalid : drop, related : accept }",
            "ip saddr @local_addresses accept",
            // Who has no public address cannot call one.
            "ct status dnat iifname != \"UPLINK\" ip saddr != @public_addresses drop",
            "oifname vmap @ingress_by_tap",
            "drop",
        ],
    );
    element(rules, Family::Inet, "ingress_by_tap", "\"lo\"".into(), "accept".into());
    element(rules, Family::Inet, "ingress_by_tap", uplink, "goto to_outside".into());
    chain(
        rules,
        "to_outside".into(),
        vec![
            format!("iifname \"{UPLINK}\" drop"),
            // The host may call from its end of the link, but nobody calls it there.
            "ct direction original ip daddr 169.254.0.0/16 drop".into(),
            "ip saddr @public_addresses accept".into(),
            "drop".into(),
        ],
    );
}

/// `sg-…_ingress` holds every rule, `sg-…_ingress_open` those that may be untracked.
fn group_chains(vpc: &Vpc, group: &SecurityGroup, direction: Direction, rules: &mut Ruleset) {
    let mut peers: BTreeMap<Option<&Peer>, Protocols> = BTreeMap::new();
    for rule in direction.rules(group) {
        let peer = Some(&rule.peer).filter(|peer| !is_anywhere(peer));
        peers.entry(peer).or_default().insert(rule.protocol);
    }
    let open = peers.get(&None).cloned().unwrap_or_default();
    let mut lines: Vec<String> = open.matches().iter().map(|text| accept(text, "")).collect();
    let mut prefixes: BTreeMap<Protocols, Vec<Ipv4Cidr>> = BTreeMap::new();
    let mut by_group = Vec::new();
    for (peer, protocols) in peers {
        match peer {
            None => {}
            Some(Peer::Cidr(Cidr::V4(cidr))) => prefixes.entry(protocols).or_default().push(*cidr),
            Some(Peer::Cidr(Cidr::V6(_)) | Peer::PrefixList(_)) => {}
            Some(Peer::Group(id)) => by_group.push((id, protocols)),
        }
    }
    for (protocols, list) in prefixes {
        let list: Vec<String> = normalise(list).iter().map(Ipv4Cidr::to_string).collect();
        let peer = format!("{} {{ {} }}", direction.peer(), list.join(", "));
        lines.extend(protocols.matches().iter().map(|text| accept(&peer, text)));
    }
    for (id, protocols) in by_group {
        let members = format!("{id}_members");
        set(rules, Family::Inet, &members, "ipv4_addr");
        for interface in vpc.interfaces.iter().filter(|i| i.groups.contains(id)) {
            let address = interface.private_ip.to_string();
            element(rules, Family::Inet, &members, address, String::new());
        }
        let peer = format!("{} @{members}", direction.peer());
        lines.extend(protocols.matches().iter().map(|text| accept(&peer, text)));
    }
    if !lines.is_empty() {
        chain(rules, format!("{}_{}", group.id, direction.name()), lines);
    }
    let open: Vec<String> =
        open.transport_only().matches().iter().map(|text| accept(text, "")).collect();
    if !open.is_empty() {
        chain(rules, format!("{}_{}_open", group.id, direction.name()), open);
    }
}

fn accept(first: &str, second: &str) -> String {
    let words = [first, second, "accept"];
    words.iter().filter(|word| !word.is_empty()).copied().collect::<Vec<_>>().join(" ")
}

pub(crate) fn is_anywhere(peer: &Peer) -> bool {
    matches!(peer, Peer::Cidr(Cidr::V4(cidr)) if cidr.length() == 0)
}

/// Whether the groups together allow every port of TCP or UDP to or from anywhere.
fn allows_every_port(groups: &[&SecurityGroup], direction: Direction, protocol: Protocol) -> bool {
    let mut anywhere = Protocols::default();
    for rule in groups.iter().flat_map(|group| direction.rules(group)) {
        if is_anywhere(&rule.peer) {
            anywhere.insert(rule.protocol);
        }
    }
    anywhere.contains_all(protocol)
}

fn interface_chains(interface: &Interface, groups: &[&SecurityGroup], rules: &mut Ruleset) {
    let tap = tap(&interface.id);
    for direction in [Direction::Ingress, Direction::Egress] {
        let mut lines = Vec::new();
        let exists = |rules: &Ruleset, name: &str| {
            rules.chains.contains_key(&(Family::Inet, name.to_owned()))
        };
        let every_port = [
            ("tcp", Protocol::Tcp { from: 0, to: u16::MAX }),
            ("udp", Protocol::Udp { from: 0, to: u16::MAX }),
        ];
        for (word, protocol) in every_port {
            if !allows_every_port(groups, direction.reverse(), protocol) {
                continue;
            }
            for group in groups {
                let name = format!("{}_{}_open", group.id, direction.name());
                if exists(rules, &name) {
                    lines.push(format!("meta l4proto {word} jump {name}"));
                }
            }
        }
        // A packet that is dropped below takes its mark with it: its flow is never confirmed.
        let bit = if direction == Direction::Ingress { RECEIVER } else { SENDER };
        lines.push(format!("ct state new ct mark set ct mark | {bit:#x}"));
        for group in groups {
            let name = format!("{}_{}", group.id, direction.name());
            if exists(rules, &name) {
                lines.push(format!("jump {name}"));
            }
        }
        lines.push("drop".into());
        let name = format!("{}_{tap}", direction.name());
        let map = format!("{}_by_tap", direction.name());
        element(rules, Family::Inet, &map, format!("\"{tap}\""), format!("goto {name}"));
        chain(rules, name, lines);
    }
    let limit = vec![
        format!("limit rate over {SERVICE_RATE}/second burst {SERVICE_RATE} packets drop"),
        "accept".into(),
    ];
    let name = format!("services_{tap}");
    element(rules, Family::Inet, "services_by_tap", format!("\"{tap}\""), format!("goto {name}"));
    chain(rules, name, limit);
    let (address, mac) = (interface.private_ip, &interface.mac);
    for family in [Family::Inet, Family::Arp] {
        let sender = format!("\"{tap}\" . {mac} . {address}");
        element(rules, family, "senders", sender, String::new());
        let station = format!("\"{tap}\" . {mac}");
        element(rules, family, "stations", station.clone(), String::new());
        if !interface.source_dest_check {
            element(rules, family, "forwarders", station, String::new());
        }
    }
    if let Some(public) = interface.public_ip {
        let (public, private) = (public.to_string(), address.to_string());
        element(rules, Family::Inet, "public_addresses", public.clone(), String::new());
        element(rules, Family::Inet, "to_private", public.clone(), private.clone());
        element(rules, Family::Inet, "to_public", private, public);
    }
}
