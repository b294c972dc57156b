//! Sets of protocols and ports, and lists of prefixes, in their shortest form.

use base::Ipv4Cidr;
use base::network::Protocol;
use std::collections::BTreeSet;

/// What a peer may speak: the union of the protocols of several rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Protocols {
    all: bool,
    tcp: Ports,
    udp: Ports,
    icmp: BTreeSet<(Option<u8>, Option<u8>)>,
    numbers: BTreeSet<u8>,
}

/// Disjoint inclusive ranges, not adjacent, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Ports(Vec<(u16, u16)>);

impl Ports {
    fn insert(&mut self, from: u16, to: u16) {
        if from > to {
            return;
        }
        self.0.push((from, to));
        self.0.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::with_capacity(self.0.len());
        for &(from, to) in &self.0 {
            match merged.last_mut() {
                Some(last) if u32::from(from) <= u32::from(last.1) + 1 => last.1 = last.1.max(to),
                _ => merged.push((from, to)),
            }
        }
        self.0 = merged;
    }

    fn is_every_port(&self) -> bool {
        self.0 == [(0, u16::MAX)]
    }

    fn text(&self, protocol: &str) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        if self.is_every_port() {
            return Some(format!("meta l4proto {protocol}"));
        }
        let ranges: Vec<String> = self
            .0
            .iter()
            .map(|(from, to)| if from == to { from.to_string() } else { format!("{from}-{to}") })
            .collect();
        Some(format!("{protocol} dport {{ {} }}", ranges.join(", ")))
    }
}

impl Protocols {
    pub(crate) fn insert(&mut self, protocol: Protocol) {
        match protocol {
            Protocol::All => self.all = true,
            Protocol::Tcp { from, to } => self.tcp.insert(from, to),
            Protocol::Udp { from, to } => self.udp.insert(from, to),
            Protocol::Icmp { kind, code } => {
                self.icmp.insert((kind, code));
            }
            // Guests have no IPv6 yet.
            Protocol::Icmpv6 { .. } => {}
            Protocol::Number(6) => self.tcp.insert(0, u16::MAX),
            Protocol::Number(17) => self.udp.insert(0, u16::MAX),
            Protocol::Number(1) => {
                self.icmp.insert((None, None));
            }
            Protocol::Number(number) => {
                self.numbers.insert(number);
            }
        }
    }

    /// Whether every port of the protocol is in it.
    pub(crate) fn contains_all(&self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Tcp { .. } => self.all || self.tcp.is_every_port(),
            Protocol::Udp { .. } => self.all || self.udp.is_every_port(),
            _ => self.all,
        }
    }

    /// The part that is TCP or UDP; everything stays everything.
    pub(crate) fn transport_only(&self) -> Protocols {
        Protocols { icmp: BTreeSet::new(), numbers: BTreeSet::new(), ..self.clone() }
    }

    /// nft matches; each one alone is enough. An empty text matches every packet.
    pub(crate) fn matches(&self) -> Vec<String> {
        if self.all {
            return vec![String::new()];
        }
        let mut matches: Vec<String> =
            self.tcp.text("tcp").into_iter().chain(self.udp.text("udp")).collect();
        if self.icmp.contains(&(None, None)) {
            matches.push("meta l4proto icmp".into());
        } else {
            matches.extend(self.icmp.iter().map(|icmp| match icmp {
                (Some(kind), Some(code)) => format!("icmp type {kind} icmp code {code}"),
                (Some(kind), None) => format!("icmp type {kind}"),
                (None, Some(code)) => format!("icmp code {code}"),
                (None, None) => "meta l4proto icmp".into(),
            }));
        }
        if !self.numbers.is_empty() {
            let numbers: Vec<String> = self.numbers.iter().map(u8::to_string).collect();
            matches.push(format!("meta l4proto {{ {} }}", numbers.join(", ")));
        }
        matches
    }
}

/// The same addresses in the fewest of these prefixes: nft refuses intervals that overlap.
pub(crate) fn normalise(mut prefixes: Vec<Ipv4Cidr>) -> Vec<Ipv4Cidr> {
    prefixes.sort_unstable_by_key(|prefix| (prefix.network(), prefix.length()));
    let mut kept: Vec<Ipv4Cidr> = Vec::with_capacity(prefixes.len());
    for prefix in prefixes {
        // Prefixes nest or are disjoint, and the wider one sorts first.
        if !kept.last().is_some_and(|last| last.contains(prefix.network())) {
            kept.push(prefix);
        }
    }
    kept
}
