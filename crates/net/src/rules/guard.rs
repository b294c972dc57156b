//! The spoof guard: who a packet may say that it comes from.
//!
//! A guest sends as itself: its hardware address with one of its addresses or an address in one of
//! its prefixes. One without source check sends as anybody but the router and its services. What
//! comes from a peering, a transit gateway or another node is believed only for addresses that can
//! live there. IPv6 link-local addresses are for talking with the router alone; of neighbour
//! discovery a guest may ask, and answer for itself: never advertise a router or redirect.

use super::{Compiler, braces, forwards, lines, quoted};
use crate::names::UPLINK;
use crate::protocols::Version;
use crate::ruleset::{Chain, Family};
use base::Cidr;
use base::network::Interface;
use std::collections::{BTreeMap, BTreeSet};

const HOOK: &str = "filter hook prerouting priority -300";

/// Router solicitation, router advertisement, neighbour solicitation and advertisement, redirect.
pub(super) const DISCOVERY: &str = "{ 133, 134, 135, 136, 137 }";

impl Compiler<'_> {
    pub(super) fn guard(&mut self) {
        self.senders();
        let mut rules: Vec<String> = self.marks().into_iter().collect();
        rules.push("iifname . ether saddr . ip saddr @senders accept".into());
        if self.six {
            rules.push("meta nfproto ipv6 goto guard6".into());
        }
        rules.push(format!("iifname {{ \"lo\", \"{UPLINK}\" }} accept"));
        let foreign = self.foreign_senders();
        if foreign {
            rules.push("iifname vmap @guard_by_link".into());
        }
        rules.extend(lines([
            "iifname . ether saddr @stations ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept",
            // Only we speak as the services.
            "ip saddr @local_addresses drop",
        ]));
        let prefixes = self.here.iter().any(|(i, _)| !i.prefixes.is_empty());
        if prefixes {
            rules.push("iifname vmap @prefixes_by_link".into());
        }
        rules.extend(lines(["meta nfproto ipv4 iifname . ether saddr @forwarders accept", "drop"]));
        self.base("guard", HOOK, rules);
        if self.six {
            self.guard_six(foreign);
        }
        self.guard_arp();
    }

    fn senders(&mut self) {
        for family in [Family::Inet, Family::Arp] {
            self.set_in(family, "senders", "type ifname . ether_addr . ipv4_addr;");
            self.set_in(family, "stations", "type ifname . ether_addr;");
            self.set_in(family, "forwarders", "type ifname . ether_addr;");
        }
        if self.six {
            self.set("senders6", "type ifname . ether_addr . ipv6_addr;");
            self.set("targets6", "typeof iifname . ether saddr . @th,64,128;");
        }
        let (mut senders, mut stations, mut forwarders) = <(Vec<_>, Vec<_>, Vec<_>)>::default();
        let (mut senders_six, mut targets_six) = <(Vec<_>, Vec<_>)>::default();
        let mut prefixes: BTreeMap<Version6, BTreeMap<String, String>> = BTreeMap::new();
        let mut chains = Vec::new();
        for (interface, link) in &self.here {
            let station = format!("{} . {}", quoted(link), interface.mac);
            for address in interface.addresses() {
                senders.push(format!("{station} . {}", address.private_ip));
            }
            for address in interface.ipv6.iter().filter(|_| self.six) {
                senders_six.push(format!("{station} . {address}"));
                targets_six.push(format!("{station} . {:#034x}", u128::from(*address)));
            }
            for (six, list) in prefixes_of(interface, self.six) {
                let name = format!("prefixes{}_{link}", if six { "6" } else { "" });
                prefixes.entry(six).or_default().insert(quoted(link), format!("jump {name}"));
                chains.push((six, name, interface.mac.clone(), list));
            }
            if forwards(interface) {
                forwarders.push(station.clone());
            }
            stations.push(station);
        }
        let mut fill = |family: Family, name: &str, elements: Vec<String>| {
            if let Some(set) = self.rules.sets.get_mut(&(family, name.to_owned())) {
                set.elements = elements.into_iter().map(|e| (e, String::new())).collect();
            }
        };
        fill(Family::Arp, "senders", senders.clone());
        fill(Family::Arp, "stations", stations.clone());
        fill(Family::Arp, "forwarders", forwarders.clone());
        fill(Family::Inet, "senders", senders);
        fill(Family::Inet, "stations", stations);
        fill(Family::Inet, "forwarders", forwarders);
        fill(Family::Inet, "senders6", senders_six);
        fill(Family::Inet, "targets6", targets_six);
        for (six, name, mac, list) in chains {
            let header = if six { "ip6" } else { "ip" };
            if !six {
                let rule = format!("arp saddr ether {mac} arp saddr ip {list} accept");
                let chain = Chain { hook: None, rules: vec![rule] };
                self.rules.chains.insert((Family::Arp, name.clone()), chain);
            }
            self.chain(name, vec![format!("ether saddr {mac} {header} saddr {list} accept")]);
        }
        for (six, elements) in prefixes {
            if !six {
                self.set_in(Family::Arp, "prefixes_by_link", "type ifname : verdict;");
                let key = (Family::Arp, "prefixes_by_link".to_owned());
                if let Some(set) = self.rules.sets.get_mut(&key) {
                    set.elements = elements.clone();
                }
            }
            let name = if six { "prefixes_by_link6" } else { "prefixes_by_link" };
            self.map(name, "type ifname : verdict;", elements);
        }
    }

    /// Whether there are links to other routers; their chains end with a verdict.
    fn foreign_senders(&mut self) -> bool {
        let around = self.around;
        let mut links = BTreeMap::new();
        for (link, blocks) in &around.peers {
            let mut rules = self.link_discovery();
            rules.extend(self.sent_from(blocks));
            rules.push("drop".into());
            links.insert(quoted(link), format!("goto guard_{link}"));
            self.chain(format!("guard_{link}"), rules);
        }
        for link in &around.transits {
            let mut rules = self.link_discovery();
            rules.extend(self.not_ours());
            rules.push("accept".into());
            links.insert(quoted(link), format!("goto guard_{link}"));
            self.chain(format!("guard_{link}"), rules);
        }
        if let Some(link) = &around.fabric {
            self.elsewhere();
            let mut rules = self.link_discovery();
            rules.extend(lines(["ip saddr @local_addresses drop", "ip saddr @elsewhere accept"]));
            if self.six {
                rules.push("ip6 saddr @local_addresses6 drop".into());
                rules.push("ip6 saddr @elsewhere6 accept".into());
            }
            let elsewhere = self.vpc.interfaces.iter().filter(|i| i.node.is_some());
            if elsewhere.clone().any(forwards) {
                // Somebody there sends what others have written.
                rules.push("accept".into());
            } else if !around.transits.is_empty() {
                rules.extend(self.not_ours());
                rules.push("accept".into());
            }
            for blocks in around.peers.values() {
                // A peer's packet may come in on another node.
                rules.extend(self.sent_from(blocks));
            }
            rules.push("drop".into());
            links.insert(quoted(link), format!("goto guard_{link}"));
            self.chain(format!("guard_{link}"), rules);
        }
        let any = !links.is_empty();
        if any {
            self.map("guard_by_link", "type ifname : verdict;", links);
        }
        any
    }

    /// Addresses and prefixes of interfaces on other nodes.
    fn elsewhere(&mut self) {
        let (mut four, mut six): (BTreeSet<Cidr>, BTreeSet<Cidr>) = Default::default();
        for interface in self.vpc.interfaces.iter().filter(|i| i.node.is_some()) {
            let own = interface.addresses().map(|a| a.private_ip);
            four.extend(own.map(|a| Cidr::V4(base::Ipv4Cidr::containing(a, 32))));
            four.extend(interface.prefixes.iter().map(|prefix| Cidr::V4(*prefix)));
            let own = interface.ipv6.iter();
            six.extend(own.map(|a| Cidr::V6(base::Ipv6Cidr::containing(*a, 128))));
            six.extend(interface.ipv6_prefixes.iter().map(|prefix| Cidr::V6(*prefix)));
        }
        for (version, list) in [(Version::Four, four), (Version::Six, six)] {
            if version == Version::Six && !self.six {
                continue;
            }
            let name = format!("elsewhere{}", version.suffix());
            let list = crate::protocols::normalise(list.into_iter().collect());
            let kind = format!("type {}; flags interval;", version.address());
            self.filled(name, kind, list.iter().map(super::groups::interval).collect::<Vec<_>>());
        }
    }

    fn link_discovery(&self) -> Vec<String> {
        if !self.six {
            return Vec::new();
        }
        lines(["icmpv6 type { 135, 136 } ip6 saddr fe80::/10 accept", "ip6 saddr fe80::/10 drop"])
    }

    fn sent_from(&self, blocks: &[Cidr]) -> Vec<String> {
        let mut rules = Vec::new();
        for version in self.versions() {
            let own = blocks.iter().filter(|block| Version::of(block) == *version);
            if let Some(list) = braces(own) {
                rules.push(format!("{} saddr {list} accept", version.header()));
            }
        }
        rules
    }

    /// Nobody else has the VPC's addresses.
    fn not_ours(&self) -> Vec<String> {
        let mut rules = lines(["ip saddr @local_addresses drop"]);
        if let Some(list) = braces(&self.vpc.cidrs) {
            rules.push(format!("ip saddr {list} drop"));
        }
        if self.six {
            rules.push("ip6 saddr @local_addresses6 drop".into());
        }
        if let Some(list) = braces(&self.vpc.ipv6_cidrs) {
            rules.push(format!("ip6 saddr {list} drop"));
        }
        rules
    }

    fn guard_six(&mut self, foreign: bool) {
        let mut rules = lines(["iifname . ether saddr . ip6 saddr @senders6 goto guard6_own"]);
        rules.push(format!("iifname {{ \"lo\", \"{UPLINK}\" }} accept"));
        if foreign {
            rules.push("iifname vmap @guard_by_link".into());
        }
        rules.push(format!("icmpv6 type {DISCOVERY} goto discovery"));
        // DHCPv6, and whether the router is there.
        rules.extend(lines([
            "iifname . ether saddr @stations ip6 saddr fe80::/10 ip6 daddr { fe80::/10, ff02::1:2 } udp sport 546 udp dport 547 accept",
            "iifname . ether saddr @stations ip6 saddr fe80::/10 ip6 daddr { fe80::/10, ff02::/16 } icmpv6 type { 128, 129 } accept",
            "ip6 saddr { ::/128, ::1/128, fe80::/10, ff00::/8 } drop",
            "ip6 saddr @local_addresses6 drop",
        ]));
        if self.here.iter().any(|(i, _)| !i.ipv6_prefixes.is_empty()) {
            rules.push("iifname vmap @prefixes_by_link6".into());
        }
        rules.extend(lines(["iifname . ether saddr @forwarders accept", "drop"]));
        self.chain("guard6", rules);
        self.chain(
            "guard6_own",
            vec![format!("icmpv6 type {DISCOVERY} goto discovery"), "accept".into()],
        );
        self.chain(
            "discovery",
            lines([
                "icmpv6 type { 134, 137 } drop",
                "ip6 hoplimit != 255 drop",
                "iifname . ether saddr != @stations drop",
                "ip6 saddr fe80::/10 icmpv6 type { 133, 135 } accept",
                // "Is this address free?" comes from nobody.
                "ip6 saddr :: icmpv6 type 133 accept",
                "ip6 saddr :: icmpv6 type 135 iifname . ether saddr . @th,64,128 @targets6 accept",
                "ip6 saddr :: icmpv6 type 135 @th,64,10 0x3fa accept",
                "ip6 saddr :: drop",
                "iifname . ether saddr . ip6 saddr @senders6 icmpv6 type { 133, 135 } accept",
                "ip6 saddr != fe80::/10 iifname . ether saddr . ip6 saddr != @senders6 drop",
                "icmpv6 type 136 iifname . ether saddr . @th,64,128 @targets6 accept",
                "icmpv6 type 136 @th,64,10 0x3fa accept",
                "drop",
            ]),
        );
    }

    fn guard_arp(&mut self) {
        let mut links = vec![quoted(UPLINK)];
        links.extend(self.foreign_links().into_iter().map(quoted));
        let links = braces(links).unwrap_or_default();
        let mut rules = vec![
            "iifname . arp saddr ether . arp saddr ip @senders accept".to_owned(),
            format!("iifname {links} accept"),
            // "Does anybody have my address?" (RFC 5227) comes from nobody.
            "iifname . arp saddr ether @stations arp saddr ip 0.0.0.0 accept".to_owned(),
        ];
        if self.here.iter().any(|(i, _)| !i.prefixes.is_empty()) {
            rules.push("iifname vmap @prefixes_by_link".into());
        }
        rules.extend(lines(["iifname . arp saddr ether @forwarders accept", "drop"]));
        let chain = Chain { hook: Some("filter hook input priority 0"), rules };
        self.rules.chains.insert((Family::Arp, "guard".into()), chain);
    }
}

/// Whether it is of IPv6.
type Version6 = bool;

fn prefixes_of(interface: &Interface, six: bool) -> Vec<(Version6, String)> {
    let four = braces(&interface.prefixes).map(|list| (false, list));
    let six = braces(interface.ipv6_prefixes.iter().filter(|_| six)).map(|list| (true, list));
    four.into_iter().chain(six).collect()
}
