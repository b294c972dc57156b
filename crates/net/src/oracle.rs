//! Security groups told a second time, in the words of EC2's documentation, and a reader of compiled
//! rules: for random plans and packets both must say the same.

use crate::names::tap;
use crate::rules::{Direction, RECEIVER, SENDER, compile, is_anywhere};
use crate::ruleset::{Family, Ruleset};
use base::Ipv4Cidr;
use base::network::{Holder, Interface, Peer, Protocol, Rule, SecurityGroup, Subnet, Vpc};
use proptest::prelude::*;
use std::net::Ipv4Addr;

/// The first packet of a flow.
#[derive(Clone, Copy, Debug)]
struct Packet {
    from: Ipv4Addr,
    to: Ipv4Addr,
    protocol: u8,
    /// Destination port, or type and code of ICMP.
    port: u16,
}

impl Packet {
    fn peer(&self, direction: Direction) -> Ipv4Addr {
        if direction == Direction::Ingress { self.from } else { self.to }
    }
}

fn speaks(protocol: Protocol, packet: Packet) -> bool {
    let [kind, code] = packet.port.to_be_bytes();
    match protocol {
        Protocol::All => true,
        Protocol::Tcp { from, to } => packet.protocol == 6 && (from..=to).contains(&packet.port),
        Protocol::Udp { from, to } => packet.protocol == 17 && (from..=to).contains(&packet.port),
        Protocol::Icmp { kind: k, code: c } => {
            packet.protocol == 1 && k.is_none_or(|k| k == kind) && c.is_none_or(|c| c == code)
        }
        Protocol::Icmpv6 { .. } => false,
        Protocol::Number(number) => packet.protocol == number,
    }
}

fn groups<'a>(vpc: &'a Vpc, interface: &Interface) -> Vec<&'a SecurityGroup> {
    vpc.groups.iter().filter(|group| interface.groups.contains(&group.id)).collect()
}

/// What the rules of an interface say to a packet: `None` is denied, else the tracking.
fn allows(
    vpc: &Vpc,
    interface: &Interface,
    direction: Direction,
    packet: Packet,
) -> Option<Tracking> {
    let groups = groups(vpc, interface);
    let rules = |direction: Direction| groups.iter().flat_map(move |g| direction.rules(g));
    let peer = packet.peer(direction);
    let is_peer = |rule: &&Rule| match &rule.peer {
        Peer::Cidr(cidr) => cidr.contains(peer.into()),
        Peer::PrefixList(_) => false,
        Peer::Group(id) => {
            vpc.interfaces.iter().any(|i| i.private_ip == peer && i.groups.contains(id))
        }
    };
    let matching: Vec<&Rule> =
        rules(direction).filter(is_peer).filter(|rule| speaks(rule.protocol, packet)).collect();
    if matching.is_empty() {
        return None;
    }
    // "…TCP or UDP flows for all traffic (0.0.0.0/0)… and a corresponding rule in the other
    // direction that permits all response traffic (0.0.0.0/0) for any port (0-65535)"
    // Enough of the ports: the edges of the ranges below, and what lies between them.
    let ports = [0, 1, 22, 23, 79, 80, 81, 82, u16::MAX - 1, u16::MAX];
    let every_port = ports.into_iter().all(|port| {
        rules(direction.reverse())
            .filter(|rule| is_anywhere(&rule.peer))
            .any(|rule| speaks(rule.protocol, Packet { port, ..packet }))
    });
    let open = matching.iter().any(|rule| is_anywhere(&rule.peer));
    if matches!(packet.protocol, 6 | 17) && open && every_port {
        Some(Tracking::Untracked)
    } else {
        Some(Tracking::Tracked)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tracking {
    Tracked,
    Untracked,
}

/// Reads compiled chains as the kernel would.
struct Reader<'a> {
    rules: &'a Ruleset,
    packet: Packet,
    mark: u32,
}

impl Reader<'_> {
    fn judge(&mut self, direction: Direction, interface: &Interface) -> bool {
        let name = if direction == Direction::Ingress { "ingress" } else { "egress" };
        let map = &self.rules.sets[&(Family::Inet, format!("{name}_by_tap"))];
        let verdict = &map.elements[&format!("\"{}\"", tap(&interface.id))];
        let chain = verdict.strip_prefix("goto ").unwrap();
        self.chain(chain).expect("an interface's chain ends with a verdict")
    }

    fn chain(&mut self, name: &str) -> Option<bool> {
        let chain = &self.rules.chains[&(Family::Inet, name.to_owned())];
        chain.rules.iter().find_map(|rule| self.rule(rule))
    }

    fn rule(&mut self, text: &str) -> Option<bool> {
        let mut words = text.split_whitespace();
        while let Some(word) = words.next() {
            let matched = match word {
                "accept" => return Some(true),
                "drop" => return Some(false),
                "jump" => return self.chain(words.next().unwrap()),
                "ct" => match words.next().unwrap() {
                    "state" => words.next() == Some("new"),
                    "mark" => {
                        let bit = words.next_back().unwrap().strip_prefix("0x").unwrap();
                        self.mark |= u32::from_str_radix(bit, 16).unwrap();
                        return None;
                    }
                    other => panic!("ct {other}"),
                },
                "meta" => {
                    assert_eq!(words.next(), Some("l4proto"));
                    let protocol = u32::from(self.packet.protocol);
                    list(&mut words).iter().any(|item| number(item).0 == protocol)
                }
                "tcp" | "udp" => {
                    assert_eq!(words.next(), Some("dport"));
                    let ports = list(&mut words);
                    let port = u32::from(self.packet.port);
                    u32::from(self.packet.protocol) == number(word).0
                        && ports.iter().any(|item| {
                            let (from, to) = number(item);
                            (from..=to).contains(&port)
                        })
                }
                "icmp" => {
                    let [kind, code] = self.packet.port.to_be_bytes();
                    let field = if words.next() == Some("type") { kind } else { code };
                    self.packet.protocol == 1 && number(words.next().unwrap()).0 == u32::from(field)
                }
                "ip" => {
                    let field = words.next();
                    let packet = self.packet;
                    let address = if field == Some("saddr") { packet.from } else { packet.to };
                    list(&mut words).iter().any(|item| match item.strip_prefix('@') {
                        Some(set) => self.rules.sets[&(Family::Inet, set.to_owned())]
                            .elements
                            .contains_key(&address.to_string()),
                        None => item.parse::<Ipv4Cidr>().unwrap().contains(address),
                    })
                }
                other => panic!("{other} in {text}"),
            };
            if !matched {
                return None;
            }
        }
        panic!("no verdict in {text}")
    }
}

/// One word or `{ a, b }`.
fn list<'a>(words: &mut impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    match words.next().unwrap() {
        "{" => words.take_while(|word| *word != "}").map(|w| w.trim_end_matches(',')).collect(),
        word => vec![word],
    }
}

/// A number, a range or the name of a protocol.
fn number(text: &str) -> (u32, u32) {
    match text {
        "icmp" => (1, 1),
        "tcp" => (6, 6),
        "udp" => (17, 17),
        text => {
            let (from, to) = text.split_once('-').unwrap_or((text, text));
            (from.parse().unwrap(), to.parse().unwrap())
        }
    }
}

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 31, 0, number)
}

fn protocol() -> impl Strategy<Value = Protocol> {
    let port = || prop_oneof![Just(0_u16), Just(22), Just(79), Just(80), Just(81), Just(u16::MAX)];
    let byte = || prop_oneof![Just(None), Just(Some(0_u8)), Just(Some(8))];
    prop_oneof![
        Just(Protocol::All),
        (port(), port()).prop_map(|(a, b)| Protocol::Tcp { from: a.min(b), to: a.max(b) }),
        (port(), port()).prop_map(|(a, b)| Protocol::Udp { from: a.min(b), to: a.max(b) }),
        Just(Protocol::Tcp { from: 0, to: u16::MAX }),
        (byte(), byte()).prop_map(|(kind, code)| Protocol::Icmp { kind, code }),
        prop_oneof![Just(1_u8), Just(6), Just(17), Just(47), Just(50)].prop_map(Protocol::Number),
    ]
}

fn rule() -> impl Strategy<Value = Rule> {
    let cidr = (0_u8..4, prop_oneof![Just(0_u8), Just(0), Just(16), Just(30), Just(32)]).prop_map(
        |(number, length)| Peer::Cidr(Ipv4Cidr::containing(address(number), length).into()),
    );
    let group = (0_u8..4).prop_map(|number| Peer::Group(format!("sg-{number}")));
    (protocol(), prop_oneof![3 => cidr, 1 => group])
        .prop_map(|(protocol, peer)| Rule { protocol, peer })
}

prop_compose! {
    fn group(number: u8)(
        ingress in prop::collection::vec(rule(), 0..5),
        egress in prop::collection::vec(rule(), 0..5),
    ) -> SecurityGroup {
        SecurityGroup { id: format!("sg-{number}"), ingress, egress }
    }
}

prop_compose! {
    fn interface(number: u8)(members in prop::collection::btree_set(0_u8..4, 0..3)) -> Interface {
        Interface {
            id: format!("eni-{number}"),
            holder: Holder::Machine(format!("i-{number}")),
            secondary: Vec::new(),
            prefixes: Vec::new(),
            ipv6: Vec::new(),
            ipv6_prefixes: Vec::new(),
            node: None,
            subnet_id: "subnet-1".into(),
            mac: format!("0a:00:00:00:00:{number:02x}"),
            private_ip: address(number),
            public_ip: None,
            hostname: format!("ip-172-31-0-{number}.ec2.internal"),
            groups: members.into_iter().map(|group| format!("sg-{group}")).collect(),
            source_dest_check: true,
        }
    }
}

prop_compose! {
    /// sg-3 is named by rules and interfaces and does not exist.
    fn any_vpc()(
        groups in (group(0), group(1), group(2)),
        interfaces in (interface(0), interface(1), interface(2)),
    ) -> Vpc {
        Vpc {
            id: "vpc-1".into(),
            region: "us-east-1".into(),
            cidrs: vec!["172.31.0.0/16".parse().unwrap()],
            subnets: vec![Subnet::new("subnet-1", "172.31.0.0/20".parse().unwrap())],
            interfaces: vec![interfaces.0, interfaces.1, interfaces.2],
            groups: vec![groups.0, groups.1, groups.2], ..Vpc::default() }
    }
}

/// As the oracle has no members of a group that does not exist, neither may the compiler.
fn without_strangers(mut vpc: Vpc) -> Vpc {
    for interface in &mut vpc.interfaces {
        interface.groups.retain(|id| id != "sg-3");
    }
    vpc
}

proptest! {
    #[test]
    fn compiled_rules_say_what_the_groups_say(
        vpc in any_vpc(),
        protocol in prop_oneof![Just(6_u8), Just(17), Just(1), Just(47)],
        port in prop_oneof![Just(0_u16), Just(22), Just(80), Just(81), Just(8 << 8), Just(u16::MAX)],
        other in prop_oneof![Just(address(1)), Just(address(2)), Just(Ipv4Addr::new(8, 8, 8, 8))],
    ) {
        let vpc = without_strangers(vpc);
        let rules = compile(&vpc);
        let interface = &vpc.interfaces[0];
        for (direction, bit) in [(Direction::Ingress, RECEIVER), (Direction::Egress, SENDER)] {
            let (from, to) = match direction {
                Direction::Ingress => (other, interface.private_ip),
                Direction::Egress => (interface.private_ip, other),
            };
            let packet = Packet { from, to, protocol, port };
            let mut reader = Reader { rules: &rules, packet, mark: 0 };
            let passes = reader.judge(direction, interface);
            let said = allows(&vpc, interface, direction, packet);
            prop_assert_eq!(passes, said.is_some(), "{:?} {:?}", direction, packet);
            if let Some(tracking) = said {
                let mark = if tracking == Tracking::Tracked { bit } else { 0 };
                prop_assert_eq!(reader.mark, mark, "{:?} {:?}", direction, packet);
            }
        }
    }

    #[test]
    fn a_batch_refers_to_what_is_there(before in any_vpc(), after in any_vpc()) {
        use crate::ruleset::Before;
        let (before, after) = (compile(&before), compile(&after));
        let batch = after.batch(Before::Known(&before));
        prop_assert!(!batch.contains("add table"));
        for (family, name) in after.chains.keys().filter(|key| !before.chains.contains_key(*key)) {
            let declaration = format!("add chain {} vpc {name}\n", family.name());
            prop_assert!(batch.contains(&declaration), "{}", declaration);
        }
        prop_assert_eq!(after.batch(Before::Known(&after)), "");
    }
}
