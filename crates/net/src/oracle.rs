//! Security groups and network ACLs told a second time, in the words of EC2's documentation, and a
//! reader of compiled rules: for random plans and packets both must say the same.

mod model;

use crate::names::tap;
use crate::protocols::Version;
use crate::rules::{Direction, RECEIVER, SENDER, compile, is_anywhere};
use crate::ruleset::{Family, Ruleset};
use crate::surroundings::Surroundings;
use base::network::{
    AclRule, Holder, Interface, NetworkAcl, Peer, PeerGroup, PrefixList, Protocol, Rule,
    SecurityGroup, Subnet, Vpc,
};
use base::{Cidr, Ipv4Cidr, Ipv6Cidr};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The first packet of a flow.
#[derive(Clone, Copy, Debug)]
struct Packet {
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    /// Destination port, or type and code of ICMP.
    port: u16,
}

impl Packet {
    fn peer(&self, direction: Direction) -> IpAddr {
        if direction == Direction::Ingress { self.from } else { self.to }
    }

    fn version(&self) -> Version {
        if self.from.is_ipv4() { Version::Four } else { Version::Six }
    }
}

fn speaks(protocol: Protocol, packet: Packet) -> bool {
    let [kind, code] = packet.port.to_be_bytes();
    let icmp =
        |k: Option<u8>, c: Option<u8>| k.is_none_or(|k| k == kind) && c.is_none_or(|c| c == code);
    match protocol {
        Protocol::All => true,
        Protocol::Tcp { from, to } => packet.protocol == 6 && (from..=to).contains(&packet.port),
        Protocol::Udp { from, to } => packet.protocol == 17 && (from..=to).contains(&packet.port),
        Protocol::Icmp { kind, code } => {
            packet.protocol == 1 && packet.from.is_ipv4() && icmp(kind, code)
        }
        Protocol::Icmpv6 { kind, code } => {
            packet.protocol == 58 && packet.from.is_ipv6() && icmp(kind, code)
        }
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
        Peer::Cidr(cidr) => cidr.contains(peer),
        Peer::PrefixList(id) => {
            let lists = vpc.prefix_lists.iter().filter(|list| list.id == *id);
            lists.flat_map(|list| &list.cidrs).any(|cidr| cidr.contains(peer))
        }
        Peer::Group(id) => {
            let far = vpc.peer_groups.iter().filter(|group| group.id == *id);
            vpc.interfaces.iter().any(|i| i.has(peer) && i.groups.contains(id))
                || far.flat_map(|group| &group.members).any(|member| *member == peer)
        }
    };
    let matching: Vec<&Rule> =
        rules(direction).filter(is_peer).filter(|rule| speaks(rule.protocol, packet)).collect();
    if matching.is_empty() {
        return None;
    }
    // "…TCP or UDP flows for all traffic (0.0.0.0/0 or ::/0)… and a corresponding rule in the other
    // direction that permits all response traffic for any port (0-65535)"
    // Enough of the ports: the edges of the ranges below, and what lies between them.
    let version = packet.version();
    let ports = [0, 1, 22, 23, 79, 80, 81, 82, u16::MAX - 1, u16::MAX];
    let every_port = ports.into_iter().all(|port| {
        rules(direction.reverse())
            .filter(|rule| is_anywhere(&rule.peer, version))
            .any(|rule| speaks(rule.protocol, Packet { port, ..packet }))
    });
    let open = matching.iter().any(|rule| is_anywhere(&rule.peer, version));
    if matches!(packet.protocol, 6 | 17) && open && every_port {
        Some(Tracking::Untracked)
    } else {
        Some(Tracking::Tracked)
    }
}

/// Whether the ACL of the interface's subnet lets a packet cross its border.
fn crosses(vpc: &Vpc, interface: &Interface, direction: Direction, packet: Packet) -> bool {
    let subnet = vpc.subnets.iter().find(|s| s.id == interface.subnet_id).unwrap();
    let peer = packet.peer(direction);
    let within = match peer {
        IpAddr::V4(address) => subnet.cidr.contains(address),
        IpAddr::V6(address) => subnet.ipv6_cidr.is_some_and(|cidr| cidr.contains(address)),
    };
    if within {
        return true;
    }
    let Some(acl) = vpc.network_acls.iter().find(|acl| acl.id == subnet.network_acl) else {
        return false;
    };
    let rules = if direction == Direction::Ingress { &acl.ingress } else { &acl.egress };
    let matches = |rule: &&AclRule| rule.cidr.contains(peer) && speaks(rule.protocol, packet);
    rules.iter().filter(matches).min_by_key(|rule| rule.number).is_some_and(|rule| rule.allow)
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
    /// Where it came in.
    link: String,
    mark: u32,
}

impl Reader<'_> {
    fn elements(&self, set: &str) -> impl Iterator<Item = (&String, &String)> {
        self.rules.sets[&(Family::Inet, set.to_owned())].elements.iter()
    }

    /// Where a map sends the packet.
    fn dispatch(&mut self, map: &str, link: &str) -> Option<bool> {
        let link = format!("\"{link}\"");
        let verdict = self.elements(map).find(|(key, _)| **key == link)?.1.clone();
        let chain = verdict.strip_prefix("goto ").unwrap();
        Some(self.chain(chain).expect("a chain of a map ends with a verdict"))
    }

    fn judge(&mut self, direction: Direction, interface: &Interface) -> bool {
        let suffix = self.packet.version().suffix();
        let map = format!("{}_by_link{suffix}", direction.name());
        self.dispatch(&map, &tap(&interface.id)).unwrap()
    }

    fn crosses(&mut self, direction: Direction, interface: &Interface) -> bool {
        let map = format!("acl_{}_by_link", direction.name());
        if !self.rules.sets.contains_key(&(Family::Inet, map.clone())) {
            return true;
        }
        self.dispatch(&map, &tap(&interface.id)).unwrap_or(true)
    }

    fn chain(&mut self, name: &str) -> Option<bool> {
        let chain = &self.rules.chains[&(Family::Inet, name.to_owned())];
        chain.rules.iter().find_map(|rule| self.rule(rule))
    }

    fn has(&self, item: &str, address: IpAddr) -> bool {
        let Some(set) = item.strip_prefix('@') else {
            return match item.parse::<Cidr>() {
                Ok(cidr) => cidr.contains(address),
                Err(_) => item.parse() == Ok(address),
            };
        };
        self.elements(set).any(|(element, _)| self.has(element, address))
    }

    fn rule(&mut self, text: &str) -> Option<bool> {
        let packet = self.packet;
        let [kind, code] = packet.port.to_be_bytes();
        let mut words = text.split_whitespace().peekable();
        while let Some(word) = words.next() {
            let matched = match word {
                "accept" => return Some(true),
                "drop" => return Some(false),
                "jump" | "goto" => return self.chain(words.next().unwrap()),
                "ct" => match words.next().unwrap() {
                    "state" => words.next() == Some("new"),
                    "mark" => {
                        let bit = words.last().unwrap().strip_prefix("0x").unwrap();
                        self.mark |= u32::from_str_radix(bit, 16).unwrap();
                        return None;
                    }
                    other => panic!("ct {other}"),
                },
                "iifname" => {
                    let set = words.next().unwrap().strip_prefix('@').unwrap();
                    let link = format!("\"{}\"", self.link);
                    self.elements(set).any(|(element, _)| *element == link)
                }
                "meta" => match words.next().unwrap() {
                    "nfproto" => (words.next() == Some("ipv4")) == packet.from.is_ipv4(),
                    "l4proto" => {
                        let protocol = u32::from(packet.protocol);
                        list(&mut words).iter().any(|item| number(item).0 == protocol)
                    }
                    other => panic!("meta {other}"),
                },
                "tcp" | "udp" => {
                    assert_eq!(words.next(), Some("dport"));
                    let ports = list(&mut words);
                    u32::from(packet.protocol) == number(word).0
                        && ports.iter().any(|item| within(packet.port, item))
                }
                "icmp" | "icmpv6" => {
                    let field = if words.next() == Some("type") { kind } else { code };
                    u32::from(packet.protocol) == number(word).0
                        && list(&mut words).iter().any(|item| number(item).0 == u32::from(field))
                }
                "ip" | "ip6" => {
                    let from = words.next() == Some("saddr");
                    let address = if from { packet.from } else { packet.to };
                    let version = (word == "ip") == packet.from.is_ipv4();
                    if words.peek() == Some(&".") {
                        words.next();
                        let protocol = words.next().unwrap();
                        if protocol == "meta" {
                            // The services; packets of these tests go elsewhere.
                            return None;
                        }
                        assert_eq!(words.next(), Some("dport"));
                        let boxes = words.by_ref().take_while(|word| *word != "}");
                        let boxes: Vec<&str> = boxes.collect();
                        let boxes = boxes[1..].join(" ");
                        version
                            && u32::from(packet.protocol) == number(protocol).0
                            && boxes.split(", ").any(|item| {
                                let (prefix, ports) = item.split_once(" . ").unwrap();
                                self.has(prefix, address) && within(packet.port, ports)
                            })
                    } else {
                        let items = list(&mut words);
                        version && items.iter().any(|item| self.has(item, address))
                    }
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

fn within(port: u16, item: &str) -> bool {
    let (from, to) = number(item);
    (from..=to).contains(&u32::from(port))
}

/// A number, a range or the name of a protocol.
fn number(text: &str) -> (u32, u32) {
    match text {
        "icmp" => (1, 1),
        "tcp" => (6, 6),
        "udp" => (17, 17),
        "icmpv6" => (58, 58),
        text => {
            let (from, to) = text.split_once('-').unwrap_or((text, text));
            (from.parse().unwrap(), to.parse().unwrap())
        }
    }
}

/// Odd numbers live in the second subnet; the router and resolver are elsewhere.
fn four(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 31, 16 * (number % 2), number + 20)
}

fn six(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, u16::from(number % 2), 0, 0, 0, u16::from(number))
}

fn protocol() -> impl Strategy<Value = Protocol> {
    let port = || prop_oneof![Just(0_u16), Just(22), Just(79), Just(80), Just(81), Just(u16::MAX)];
    let byte = || prop_oneof![Just(None), Just(Some(0_u8)), Just(Some(8)), Just(Some(128))];
    prop_oneof![
        Just(Protocol::All),
        (port(), port()).prop_map(|(a, b)| Protocol::Tcp { from: a.min(b), to: a.max(b) }),
        (port(), port()).prop_map(|(a, b)| Protocol::Tcp { from: a.min(b), to: a.max(b) }),
        (port(), port()).prop_map(|(a, b)| Protocol::Udp { from: a.min(b), to: a.max(b) }),
        Just(Protocol::Tcp { from: 0, to: u16::MAX }),
        (byte(), byte()).prop_map(|(kind, code)| Protocol::Icmp { kind, code }),
        (byte(), byte()).prop_map(|(kind, code)| Protocol::Icmpv6 { kind, code }),
        prop_oneof![Just(1_u8), Just(6), Just(17), Just(47), Just(58)].prop_map(Protocol::Number),
    ]
}

fn cidr() -> impl Strategy<Value = Cidr> {
    let length = prop_oneof![2 => Just(0_u8), 1 => Just(16), 1 => Just(30), 1 => Just(32)];
    (0_u8..4, length, any::<bool>()).prop_map(|(number, length, version)| {
        if version {
            Ipv4Cidr::containing(four(number), length).into()
        } else {
            Ipv6Cidr::containing(six(number), length * 4).into()
        }
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let peer = prop_oneof![
        6 => cidr().prop_map(Peer::Cidr),
        2 => (0_u8..4).prop_map(|number| Peer::Group(format!("sg-{number}"))),
        1 => (0_u8..3).prop_map(|number| Peer::PrefixList(format!("pl-{number}"))),
    ];
    (protocol(), peer).prop_map(|(protocol, peer)| Rule { protocol, peer })
}

fn acl_rules() -> impl Strategy<Value = Vec<AclRule>> {
    let rule = (0_u16..100, prop_oneof![3 => Just(true), 1 => Just(false)], protocol(), cidr());
    prop::collection::vec(rule, 0..6).prop_map(|list| {
        let numbered = list.into_iter().enumerate();
        numbered
            .map(|(index, (number, allow, protocol, cidr))| AclRule {
                number: number * 10 + u16::try_from(index).unwrap(),
                allow,
                protocol,
                cidr,
            })
            .collect()
    })
}

prop_compose! {
    fn group(number: u8)(
        ingress in prop::collection::vec(rule(), 0..9),
        egress in prop::collection::vec(rule(), 0..5),
    ) -> SecurityGroup {
        SecurityGroup { id: format!("sg-{number}"), ingress, egress }
    }
}

prop_compose! {
    fn acl(number: u8)(ingress in acl_rules(), egress in acl_rules()) -> NetworkAcl {
        NetworkAcl { id: format!("acl-{number}"), ingress, egress }
    }
}

prop_compose! {
    fn interface(number: u8)(
        members in prop::collection::btree_set(0_u8..4, 0..3),
        delegated: bool,
    ) -> Interface {
        let host = u16::from(number);
        Interface {
            id: format!("eni-{number}"),
            holder: Holder::Machine(format!("i-{number}")),
            secondary: Vec::new(),
            prefixes: delegated
                .then(|| Ipv4Cidr::containing(four(number + 16 * (number + 1)), 28))
                .into_iter()
                .collect(),
            ipv6: vec![six(number)],
            ipv6_prefixes: delegated
                .then(|| {
                    let block = Ipv6Addr::new(0x2001, 0xdb8, 0, host % 2, 1 + host, 0, 0, 0);
                    Ipv6Cidr::containing(block, 80)
                })
                .into_iter()
                .collect(),
            node: None,
            subnet_id: format!("subnet-{}", number % 2),
            mac: format!("0a:00:00:00:00:{number:02x}"),
            private_ip: four(number),
            public_ip: None,
            hostname: format!("ip-172-31-0-{number}.ec2.internal"),
            groups: members.into_iter().map(|group| format!("sg-{group}")).collect(),
            source_dest_check: true,
        }
    }
}

prop_compose! {
    /// sg-3 is named by rules and interfaces and does not exist here, pl-2 and acl-2 nowhere.
    fn any_vpc()(
        groups in (group(0), group(1), group(2)),
        interfaces in (interface(0), interface(1), interface(2)),
        lists in prop::collection::vec(prop::collection::vec(cidr(), 0..4), 2),
        acls in (acl(0), acl(1)),
        chosen in (0_u8..3, 0_u8..3),
        far: bool,
    ) -> Vpc {
        let block = |number: u8| Ipv6Cidr::containing(six(number), 64);
        let subnet = |number: u8, acl: u8| {
            let cidr = Ipv4Cidr::containing(four(number), 20);
            let mut subnet = Subnet::new(format!("subnet-{number}"), cidr);
            subnet.ipv6_cidr = Some(block(number));
            subnet.network_acl = format!("acl-{acl}");
            subnet
        };
        let lists = lists.into_iter().enumerate();
        Vpc {
            id: "vpc-1".into(),
            region: "us-east-1".into(),
            cidrs: vec!["172.31.0.0/16".parse().unwrap()],
            ipv6_cidrs: vec!["2001:db8::/56".parse().unwrap()],
            subnets: vec![subnet(0, chosen.0), subnet(1, chosen.1)],
            interfaces: vec![interfaces.0, interfaces.1, interfaces.2],
            groups: vec![groups.0, groups.1, groups.2],
            network_acls: vec![acls.0, acls.1],
            prefix_lists: lists
                .map(|(number, cidrs)| PrefixList { id: format!("pl-{number}"), cidrs })
                .collect(),
            peer_groups: far
                .then(|| PeerGroup {
                    id: "sg-3".into(),
                    members: vec![Ipv4Addr::new(8, 8, 8, 8).into(), far_six().into()],
                })
                .into_iter()
                .collect(),
            ..Vpc::default()
        }
    }
}

fn far_six() -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0x4860, 0, 0, 0, 0, 0, 8)
}

/// As the oracle has no members of a group that does not exist, neither may the compiler.
fn without_strangers(mut vpc: Vpc) -> Vpc {
    for interface in &mut vpc.interfaces {
        interface.groups.retain(|group| group != "sg-3");
    }
    vpc
}

fn compiled(vpc: &Vpc) -> Ruleset {
    compile(vpc, &Surroundings::default())
}

fn any_other() -> impl Strategy<Value = (IpAddr, Option<u8>)> {
    prop_oneof![
        Just((four(1).into(), Some(1))),
        Just((four(2).into(), Some(2))),
        Just((four(2 + 16 * 3).into(), Some(2))),
        Just((Ipv4Addr::new(8, 8, 8, 8).into(), None)),
        Just((six(1).into(), Some(1))),
        Just((six(2).into(), Some(2))),
        Just((Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 2, 0, 0, 9).into(), Some(1))),
        Just((far_six().into(), None)),
    ]
}

prop_compose! {
    fn any_packet()(
        protocol in prop_oneof![Just(6_u8), Just(17), Just(1), Just(58), Just(47)],
        port in prop_oneof![
            Just(0_u16), Just(22), Just(80), Just(81), Just(8 << 8), Just(128 << 8), Just(u16::MAX)
        ],
        other in any_other(),
    ) -> (u8, u16, IpAddr, Option<u8>) {
        (protocol, port, other.0, other.1)
    }
}

fn packet(
    interface: &Interface,
    direction: Direction,
    (protocol, port, other, _): (u8, u16, IpAddr, Option<u8>),
) -> Packet {
    let own: IpAddr =
        if other.is_ipv4() { interface.private_ip.into() } else { interface.ipv6[0].into() };
    // Each version has its ICMP.
    let protocol = match (protocol, other.is_ipv4()) {
        (1 | 58, true) => 1,
        (1 | 58, false) => 58,
        (protocol, _) => protocol,
    };
    let (from, to) = if direction == Direction::Ingress { (other, own) } else { (own, other) };
    Packet { from, to, protocol, port }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn compiled_rules_say_what_the_groups_say(vpc in any_vpc(), words in any_packet()) {
        let vpc = without_strangers(vpc);
        let rules = compiled(&vpc);
        let interface = &vpc.interfaces[0];
        for (direction, bit) in [(Direction::Ingress, RECEIVER), (Direction::Egress, SENDER)] {
            let packet = packet(interface, direction, words);
            let mut reader = Reader { rules: &rules, packet, link: String::new(), mark: 0 };
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
    fn compiled_rules_say_what_the_acls_say(vpc in any_vpc(), words in any_packet()) {
        let rules = compiled(&vpc);
        let interface = &vpc.interfaces[0];
        for direction in Direction::BOTH {
            let packet = packet(interface, direction, words);
            let link = words.3.map_or("uplink".to_owned(), |n| tap(&format!("eni-{n}")));
            let mut reader = Reader { rules: &rules, packet, link, mark: 0 };
            prop_assert_eq!(
                reader.crosses(direction, interface),
                crosses(&vpc, interface, direction, packet),
                "{:?} {:?}", direction, packet
            );
        }
    }

    #[test]
    fn a_batch_refers_to_what_is_there(before in any_vpc(), after in any_vpc()) {
        use crate::ruleset::Before;
        let (before, after) = (compiled(&before), compiled(&after));
        let batch = after.batch(Before::Known(&before));
        prop_assert!(!batch.contains("add table"));
        for (family, name) in after.chains.keys().filter(|key| !before.chains.contains_key(*key)) {
            let declaration = format!("add chain {} vpc {name}", family.name());
            prop_assert!(batch.contains(&declaration), "{}", declaration);
        }
        for chain in after.chains.values() {
            for word in chain.rules.iter().flat_map(|rule| rule.split_whitespace()) {
                let Some(set) = word.strip_prefix('@').filter(|s| !s.starts_with("th,")) else {
                    continue;
                };
                let known = |family| after.sets.contains_key(&(family, set.to_owned()));
                prop_assert!(known(Family::Inet) || known(Family::Arp), "{}", set);
            }
        }
        prop_assert_eq!(after.batch(Before::Known(&after)), "");
    }
}
