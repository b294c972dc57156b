//! Sets of protocols and ports, and lists of prefixes, in their shortest form.

use base::Cidr;
use base::network::Protocol;
use std::collections::{BTreeMap, BTreeSet};

/// IPv4 or IPv6: rules of one say nothing of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Four,
    Six,
}

impl Version {
    pub(crate) const BOTH: [Version; 2] = [Version::Four, Version::Six];

    /// The word for its header in rules.
    pub(crate) fn header(self) -> &'static str {
        match self {
            Version::Four => "ip",
            Version::Six => "ip6",
        }
    }

    /// What names of chains and sets end in.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Version::Four => "",
            Version::Six => "6",
        }
    }

    /// The type of its addresses in sets.
    pub(crate) fn address(self) -> &'static str {
        match self {
            Version::Four => "ipv4_addr",
            Version::Six => "ipv6_addr",
        }
    }

    pub(crate) fn of(cidr: &Cidr) -> Version {
        match cidr {
            Cidr::V4(_) => Version::Four,
            Cidr::V6(_) => Version::Six,
        }
    }
}

/// A protocol with ports that rules name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    pub(crate) const BOTH: [Transport; 2] = [Transport::Tcp, Transport::Udp];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        }
    }
}

/// What a peer may speak: the union of the protocols of several rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Protocols {
    all: bool,
    tcp: Ports,
    udp: Ports,
    icmp: BTreeSet<(Option<u8>, Option<u8>)>,
    icmpv6: BTreeSet<(Option<u8>, Option<u8>)>,
    numbers: BTreeSet<u8>,
}

/// Disjoint inclusive ranges, not adjacent, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ports(Vec<(u16, u16)>);

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

    /// Those that are not in `other`.
    fn without(&self, other: &Ports) -> Ports {
        let mut left = Vec::new();
        for &(from, to) in &self.0 {
            let mut start = u32::from(from);
            for &(low, high) in &other.0 {
                if u32::from(high) < start || low > to {
                    continue;
                }
                if u32::from(low) > start {
                    // `start` is at most `to` here, and below `low`.
                    left.push((u16::try_from(start).unwrap_or(u16::MAX), low - 1));
                }
                start = u32::from(high) + 1;
            }
            if start <= u32::from(to) {
                left.push((u16::try_from(start).unwrap_or(u16::MAX), to));
            }
        }
        Ports(left)
    }

    fn ranges(&self) -> impl Iterator<Item = String> + '_ {
        let text = |(from, to): &(u16, u16)| {
            if from == to { from.to_string() } else { format!("{from}-{to}") }
        };
        self.0.iter().map(text)
    }

    fn text(&self, protocol: &str) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        if self.is_every_port() {
            return Some(format!("meta l4proto {protocol}"));
        }
        let ranges: Vec<String> = self.ranges().collect();
        Some(format!("{protocol} dport {{ {} }}", ranges.join(", ")))
    }
}

impl Protocols {
    /// One protocol alone.
    pub(crate) fn only(protocol: Protocol) -> Protocols {
        let mut protocols = Protocols::default();
        protocols.insert(protocol);
        protocols
    }

    pub(crate) fn insert(&mut self, protocol: Protocol) {
        match protocol {
            Protocol::All => self.all = true,
            Protocol::Tcp { from, to } => self.tcp.insert(from, to),
            Protocol::Udp { from, to } => self.udp.insert(from, to),
            Protocol::Icmp { kind, code } => {
                self.icmp.insert((kind, code));
            }
            Protocol::Icmpv6 { kind, code } => {
                self.icmpv6.insert((kind, code));
            }
            Protocol::Number(6) => self.tcp.insert(0, u16::MAX),
            Protocol::Number(17) => self.udp.insert(0, u16::MAX),
            Protocol::Number(1) => {
                self.icmp.insert((None, None));
            }
            Protocol::Number(58) => {
                self.icmpv6.insert((None, None));
            }
            Protocol::Number(number) => {
                self.numbers.insert(number);
            }
        }
    }

    /// Whether every port of the protocol is in it.
    pub(crate) fn contains_all(&self, transport: Transport) -> bool {
        self.all || self.ports(transport).is_every_port()
    }

    fn ports(&self, transport: Transport) -> &Ports {
        match transport {
            Transport::Tcp => &self.tcp,
            Transport::Udp => &self.udp,
        }
    }

    /// The part that is TCP or UDP; everything stays everything.
    pub(crate) fn transport_only(&self) -> Protocols {
        Protocols { all: self.all, tcp: self.tcp.clone(), udp: self.udp.clone(), ..Self::default() }
    }

    /// The part that names no ports.
    pub(crate) fn without_ports(&self) -> Protocols {
        Protocols { tcp: Ports::default(), udp: Ports::default(), ..self.clone() }
    }

    /// nft matches; each one alone is enough. An empty text matches every packet.
    pub(crate) fn matches(&self, version: Version) -> Vec<String> {
        if self.all {
            return vec![String::new()];
        }
        let mut matches: Vec<String> =
            self.tcp.text("tcp").into_iter().chain(self.udp.text("udp")).collect();
        let (word, icmp) = match version {
            Version::Four => ("icmp", &self.icmp),
            Version::Six => ("icmpv6", &self.icmpv6),
        };
        if icmp.contains(&(None, None)) {
            matches.push(format!("meta l4proto {word}"));
        } else {
            matches.extend(icmp.iter().map(|entry| match entry {
                (Some(kind), Some(code)) => format!("{word} type {kind} {word} code {code}"),
                (Some(kind), None) => format!("{word} type {kind}"),
                (None, Some(code)) => format!("{word} code {code}"),
                (None, None) => format!("meta l4proto {word}"),
            }));
        }
        if !self.numbers.is_empty() {
            let numbers: Vec<String> = self.numbers.iter().map(u8::to_string).collect();
            matches.push(format!("meta l4proto {{ {} }}", numbers.join(", ")));
        }
        matches
    }
}

fn covers(wide: &Cidr, narrow: &Cidr) -> bool {
    wide.length() <= narrow.length() && wide.overlaps(narrow)
}

/// The same addresses in the fewest of these prefixes: nft refuses intervals that overlap.
pub(crate) fn normalise(mut prefixes: Vec<Cidr>) -> Vec<Cidr> {
    prefixes.sort_unstable();
    let mut kept: Vec<Cidr> = Vec::with_capacity(prefixes.len());
    for prefix in prefixes {
        // Prefixes nest or are disjoint, and the wider one sorts first.
        if !kept.last().is_some_and(|last| covers(last, &prefix)) {
            kept.push(prefix);
        }
    }
    kept
}

/// `prefix . ports` for what the prefixes may speak over a transport: boxes that do not overlap, as
/// a set of concatenated intervals wants them.
pub(crate) fn boxes(peers: &BTreeMap<Cidr, Protocols>, transport: Transport) -> Vec<String> {
    let mut boxes = Vec::new();
    // The prefixes around the one in hand, with all ports that they and theirs have.
    let mut around: Vec<(Cidr, Ports)> = Vec::new();
    for (prefix, protocols) in peers {
        while around.last().is_some_and(|(wide, _)| !covers(wide, prefix)) {
            around.pop();
        }
        let mut known = around.last().map(|(_, ports)| ports.clone()).unwrap_or_default();
        let ports = protocols.ports(transport);
        boxes.extend(ports.without(&known).ranges().map(|range| format!("{prefix} . {range}")));
        for &(from, to) in &ports.0 {
            known.insert(from, to);
        }
        around.push((*prefix, known));
    }
    boxes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(list: &[(u16, u16)]) -> Ports {
        let mut ports = Ports::default();
        list.iter().for_each(|&(from, to)| ports.insert(from, to));
        ports
    }

    #[test]
    fn ports_are_subtracted() {
        let all = ports(&[(0, u16::MAX)]);
        assert_eq!(all.without(&all), Ports::default());
        assert_eq!(all.without(&ports(&[(0, 0), (80, 90)])).0, [(1, 79), (91, u16::MAX)]);
        assert_eq!(ports(&[(10, 20)]).without(&ports(&[(15, u16::MAX)])).0, [(10, 14)]);
        assert_eq!(
            ports(&[(10, 20), (30, 40)]).without(&ports(&[(18, 32)])).0,
            [(10, 17), (33, 40)]
        );
    }

    #[test]
    fn boxes_do_not_overlap() {
        let tcp = |from, to| Protocols::only(Protocol::Tcp { from, to });
        let peers = BTreeMap::from([
            ("10.0.0.0/8".parse().unwrap(), tcp(80, 90)),
            ("10.1.0.0/16".parse().unwrap(), tcp(85, 95)),
            ("10.1.1.0/24".parse().unwrap(), tcp(70, 100)),
            ("10.2.0.0/16".parse().unwrap(), tcp(80, 80)),
            ("11.0.0.0/8".parse().unwrap(), tcp(22, 22)),
        ]);
        assert_eq!(
            boxes(&peers, Transport::Tcp),
            [
                "10.0.0.0/8 . 80-90",
                "10.1.0.0/16 . 91-95",
                "10.1.1.0/24 . 70-79",
                "10.1.1.0/24 . 96-100",
                "11.0.0.0/8 . 22",
            ]
        );
        assert!(boxes(&peers, Transport::Udp).is_empty());
    }

    #[test]
    fn prefixes_are_merged() {
        let list = ["10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32", "2001:db8:1::/48", "11.0.0.0/8"];
        let list = list.iter().map(|text| text.parse().unwrap()).collect();
        let texts: Vec<String> = normalise(list).iter().map(Cidr::to_string).collect();
        assert_eq!(texts, ["10.0.0.0/8", "11.0.0.0/8", "2001:db8::/32"]);
    }
}
