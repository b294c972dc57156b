//! IPv6 beside IPv4: groups, discovery of neighbours, and guests that lie.

use crate::guest::{
    Guest, Outcome, PATIENCE, ROUTER, Raw, Server, datagram, echo, ethernet, shell,
};
use crate::world::{OTHER_VPC, VPC, World, table, vpc};
use base::network::{Interface, Peer, Protocol, Rule, Target};
use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

const WEB: &str = "sg-0000000000000000a";
const INNER: &str = "sg-0000000000000000b";
/// The link-local address of every router.
const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x67, 0x75ff, 0xfe72, 1);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

fn six(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x77, 0, 0, 0, 0, u16::from(number))
}

fn world() -> Option<World> {
    let mut world = World::new()?;
    let vpc = world.vpc(VPC);
    vpc.ipv6_cidrs = vec!["2001:db8:77::/56".parse().unwrap()];
    vpc.subnets[0].ipv6_cidr = Some("2001:db8:77::/64".parse().unwrap());
    Some(world)
}

fn interface(world: &mut World, number: u8, groups: &[&str]) -> Interface {
    world.interface(VPC, number, groups);
    let interface = world.vpc(VPC).interfaces.last_mut().unwrap();
    interface.ipv6 = vec![six(number)];
    let interface = interface.clone();
    world.apply();
    interface
}

/// A guest that has its IPv6 address as DHCPv6 would give it, and the router's as it is advertised.
fn guest(world: &mut World, number: u8, groups: &[&str]) -> Guest {
    let interface = interface(world, number, groups);
    run(world, VPC, &interface)
}

fn run(world: &World, vpc: &str, interface: &Interface) -> Guest {
    let tap = world.network.open_tap(vpc, &interface.id).unwrap();
    let number = interface.private_ip.octets()[3];
    let guest = Guest::start(tap, &format!("s{number}"), interface);
    let (name, own) = (&guest.name, interface.ipv6[0]);
    shell(&format!(
        "ip -n {name} -6 address add {own}/128 dev eth0 nodad
         ip -n {name} -6 route replace default via {GATEWAY} dev eth0"
    ));
    guest
}

fn connect(guest: &Guest, to: Ipv6Addr, port: u16) -> Outcome {
    match attempt(guest, to, port) {
        Ok(_) => Outcome::Connected,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Outcome::Refused,
        Err(error) if error.kind() == ErrorKind::TimedOut => Outcome::TimedOut,
        Err(error) => Outcome::Other(error.to_string()),
    }
}

fn attempt(guest: &Guest, to: Ipv6Addr, port: u16) -> std::io::Result<TcpStream> {
    guest.run(|| {
        let stream = TcpStream::connect_timeout(&SocketAddr::from((to, port)), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    })
}

/// The first connection waits for the guest's own link-local address to be free.
fn stream(guest: &Guest, to: Ipv6Addr, port: u16) -> TcpStream {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match attempt(guest, to, port) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "{to}: {error}"),
        }
    }
}

fn listen(guest: &Guest, port: u16) -> Server {
    Server::start(guest.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap()))
}

fn tcp(port: u16, peer: &str) -> Rule {
    let protocol = Protocol::Tcp { from: port, to: port };
    Rule { protocol, peer: Peer::Cidr(peer.parse().unwrap()) }
}

fn all(peer: &str) -> Rule {
    Rule { protocol: Protocol::All, peer: Peer::Cidr(peer.parse().unwrap()) }
}

#[test]
fn groups_know_both_versions_apart() {
    let Some(mut world) = world() else { return };
    world.group(WEB, &[tcp(80, "::/0"), tcp(81, "0.0.0.0/0")], &[all("::/0"), all("0.0.0.0/0")]);
    world.group(INNER, &[], &[all("::/0")]);
    let server = guest(&mut world, 10, &[WEB]);
    let client = guest(&mut world, 11, &[INNER]);
    let _web = listen(&server, 80);
    let mut open = stream(&client, six(10), 80);
    assert!(echo(&mut open));
    assert_eq!(connect(&client, six(10), 81), Outcome::TimedOut, "a rule of IPv4");
    assert_eq!(client.connect(server.address, 81), Outcome::TimedOut, "nothing leaves by IPv4");
    // Members of a group by their IPv6 addresses; and an untracked flow breaks.
    let members = Rule { protocol: Protocol::All, peer: Peer::Group(INNER.into()) };
    world.group(WEB, &[members], &[all("::/0")]);
    world.apply();
    assert_eq!(connect(&client, six(10), 81), Outcome::Refused);
    let mut tracked = stream(&client, six(10), 80);
    assert!(echo(&mut tracked));
    world.group(WEB, &[], &[]);
    world.apply();
    assert!(echo(&mut tracked), "a tracked flow survives its rule");
    assert!(!echo(&mut open), "an untracked flow breaks when its rule goes");
    assert_eq!(connect(&client, six(10), 80), Outcome::TimedOut);
}

#[test]
fn many_rules_of_a_group() {
    let Some(mut world) = world() else { return };
    let mut rules: Vec<Rule> =
        (0..60).map(|n| tcp(2000 + n, &format!("2001:db8:{n:x}::/48"))).collect();
    rules.extend([tcp(80, "2001:db8:77::/64"), tcp(81, "2001:db8:77::b/128")]);
    world.group(WEB, &rules, &[]);
    world.group(INNER, &[], &[all("::/0")]);
    let server = guest(&mut world, 10, &[WEB]);
    let one = guest(&mut world, 11, &[INNER]);
    let two = guest(&mut world, 12, &[INNER]);
    let _web = listen(&server, 80);
    stream(&one, six(10), 80);
    stream(&two, six(10), 80);
    assert_eq!(connect(&one, six(10), 81), Outcome::Refused);
    assert_eq!(connect(&two, six(10), 81), Outcome::TimedOut);
    assert_eq!(connect(&one, six(10), 2007), Outcome::TimedOut);
}

#[test]
fn icmp_has_types() {
    let Some(mut world) = world() else { return };
    let ping = Protocol::Icmpv6 { kind: Some(128), code: None };
    let from = |text: &str| Rule { protocol: ping, peer: Peer::Cidr(text.parse().unwrap()) };
    world.group(WEB, &[from("2001:db8:77::b/128")], &[]);
    world.group(INNER, &[], &[all("::/0")]);
    let _server = guest(&mut world, 10, &[WEB]);
    let answered = |raw: &Raw, own: Ipv6Addr, kind: u8| {
        let packet = packet(own, six(10), 58, 64, &[kind, 0, 0, 0, 0, 1, 0, 1]);
        // The server's kernel may still be coming up.
        (0..3).any(|_| {
            raw.send(&[ethernet(ROUTER, raw.mac, 0x86dd), packet.clone()].concat());
            raw.receive(|frame| frame.len() > 54 && frame[20] == 58 && frame[54] == 129).is_some()
        })
    };
    for (number, expected) in [(11, true), (12, false)] {
        let interface = interface(&mut world, number, &[INNER]);
        let raw = Raw::new(world.network.open_tap(VPC, &interface.id).unwrap(), &interface);
        assert_eq!(answered(&raw, six(number), 128), expected, "{number}");
    }
}

/// An IPv6 packet with a right checksum.
fn packet(from: Ipv6Addr, to: Ipv6Addr, next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(length.to_be_bytes());
    bytes.extend([next, hops]);
    bytes.extend(from.octets());
    bytes.extend(to.octets());
    let mut payload = payload.to_vec();
    let field = if next == 58 { 2 } else { 6 };
    payload[field..field + 2].fill(0);
    let mut pseudo = [&from.octets()[..], &to.octets()[..]].concat();
    pseudo.extend(u32::from(length).to_be_bytes());
    pseudo.extend([0, 0, 0, next]);
    pseudo.extend(&payload);
    pseudo.resize(pseudo.len().next_multiple_of(2), 0);
    let mut sum: u32 =
        pseudo.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !u16::try_from(sum).unwrap();
    payload[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A solicitation or advertisement for `target` with the sender's hardware address.
fn neighbour(kind: u8, target: Ipv6Addr, mac: [u8; 6]) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0, if kind == 136 { 0x60 } else { 0 }, 0, 0, 0];
    bytes.extend(target.octets());
    bytes.extend([if kind == 136 { 2 } else { 1 }, 1]);
    bytes.extend(mac);
    bytes
}

fn solicited(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    let low = u16::from_be_bytes([b, c]);
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), low)
}

#[test]
fn liars_are_not_heard() {
    let Some(mut world) = world() else { return };
    world.group(WEB, &[all("::/0")], &[all("::/0")]);
    let victim = guest(&mut world, 10, &[WEB]);
    let _web = listen(&victim, 80);
    let honest = guest(&mut world, 12, &[WEB]);
    stream(&honest, six(10), 80);
    let interface = interface(&mut world, 11, &[WEB]);
    let raw = Raw::new(world.network.open_tap(VPC, &interface.id).unwrap(), &interface);
    let own_link = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x800, 0xff, 0xfe00, 0xb);
    let liar = [0x0a, 0, 0, 0, 0, 0x66];
    let ask = |mac: [u8; 6], from: Ipv6Addr, hops: u8| {
        raw.drain(|_| true);
        let question = packet(from, solicited(GATEWAY), 58, hops, &neighbour(135, GATEWAY, mac));
        let [.., a, b, c] = GATEWAY.octets();
        let to = [0x33, 0x33, 0xff, a, b, c];
        raw.send(&[ethernet(to, mac, 0x86dd), question].concat());
        raw.receive(|frame| frame.len() > 54 && frame[20] == 58 && frame[54] == 136).is_some()
    };
    let found = (0..10).any(|_| ask(raw.mac, own_link, 255));
    assert!(found, "the router answers an honest question");
    assert!(ask(raw.mac, six(11), 255));
    assert!(!ask(raw.mac, six(10), 255), "another's source");
    assert!(!ask(liar, own_link, 255), "another's hardware address");
    assert!(!ask(raw.mac, own_link, 64), "from beyond the link");

    // What the victim must never see: advertisements of routers, redirects, lies about neighbours,
    // sources that are not the sender's, link-local ones.
    let heard = victim.run(|| UdpSocket::bind((six(10), 7)).unwrap());
    heard.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    let deliver = |mac: [u8; 6], from: Ipv6Addr, payload: &[u8]| {
        let packet = packet(from, six(10), 17, 64, &datagram(9, 7, payload));
        raw.send(&[ethernet(ROUTER, mac, 0x86dd), packet].concat());
    };
    let mut buffer = [0; 64];
    deliver(raw.mac, six(11), b"true");
    assert_eq!(heard.recv(&mut buffer).unwrap(), 4, "an honest packet passes");
    deliver(raw.mac, six(12), b"wrong source");
    deliver(raw.mac, own_link, b"link-local source");
    deliver(raw.mac, GATEWAY, b"the router's source");
    deliver(raw.mac, "fd00:ec2::254".parse().unwrap(), b"a service's source");
    deliver(liar, six(11), b"wrong hardware address");
    assert!(heard.recv(&mut buffer).is_err(), "{:?}", String::from_utf8_lossy(&buffer));

    let advertisement = [&[134, 0, 0, 0, 64, 0, 7, 8][..], &[0; 8]].concat();
    let redirect = [&[137, 0, 0, 0, 0, 0, 0, 0][..], &six(11).octets(), &six(12).octets()].concat();
    for (from, to) in [(own_link, ALL_NODES), (own_link, six(10)), (six(11), six(10))] {
        for lie in [&advertisement, &redirect, &neighbour(136, six(12), raw.mac)] {
            let packet = packet(from, to, 58, 255, lie);
            raw.send(&[ethernet(ROUTER, raw.mac, 0x86dd), packet.clone()].concat());
            raw.send(&[ethernet([0x33, 0x33, 0, 0, 0, 1], raw.mac, 0x86dd), packet].concat());
        }
    }
    deliver(raw.mac, six(11), b"end");
    assert_eq!(heard.recv(&mut buffer).unwrap(), 3, "after the lies came");
    let routes = shell(&format!("ip -n {} -6 route show default", victim.name));
    let via = format!("via {GATEWAY}");
    assert!(routes.lines().all(|route| route.contains(&via)), "{routes}");
    assert!(!shell(&format!("ip -n {} -6 neighbour", victim.name)).contains(&interface.mac));
    assert_eq!(connect(&honest, six(10), 80), Outcome::Connected);
}

#[test]
fn a_rogue_dhcp_server_is_not_heard() {
    let Some(mut world) = world() else { return };
    world.group(WEB, &[all("::/0")], &[all("::/0")]);
    let victim = guest(&mut world, 10, &[WEB]);
    let _web = listen(&victim, 80);
    let honest = guest(&mut world, 12, &[WEB]);
    stream(&honest, six(10), 80);
    let interface = interface(&mut world, 11, &[WEB]);
    let raw = Raw::new(world.network.open_tap(VPC, &interface.id).unwrap(), &interface);
    let heard = victim.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 546)).unwrap());
    heard.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    let deliver = |port: u16| {
        let packet = packet(six(11), six(10), 17, 64, &datagram(port, 546, b"reply"));
        raw.send(&[ethernet(ROUTER, raw.mac, 0x86dd), packet].concat());
    };
    deliver(1547);
    assert!(heard.recv(&mut [0; 16]).is_ok(), "the path works from another port");
    deliver(547);
    assert!(heard.recv(&mut [0; 16]).is_err());
}

#[test]
fn an_egress_only_gateway_lets_nothing_begin_outside() {
    let Some(mut world) = world() else { return };
    world.plan.vpcs.push(vpc(OTHER_VPC));
    let outside = world.vpc(OTHER_VPC);
    outside.ipv6_cidrs = vec!["2001:db8:88::/56".parse().unwrap()];
    outside.subnets[0].ipv6_cidr = Some("2001:db8:88::/64".parse().unwrap());
    outside.route_tables = vec![table("rtb-1", &[("::/0", Target::InternetGateway)])];
    world.group(WEB, &[all("::/0")], &[all("::/0")]);
    world.interface(OTHER_VPC, 20, &[WEB]);
    let theirs = Ipv6Addr::new(0x2001, 0xdb8, 0x88, 0, 0, 0, 0, 20);
    let far = world.vpc(OTHER_VPC).interfaces.last_mut().unwrap();
    far.ipv6 = vec![theirs];
    let far = far.clone();
    let egress = |target: Target| vec![table("rtb-1", &[("::/0", target)])];
    world.vpc(VPC).route_tables = egress(Target::EgressOnlyInternetGateway);
    let inner = guest(&mut world, 10, &[WEB]);
    let outer = run(&world, OTHER_VPC, &far);
    let _servers = (listen(&inner, 80), listen(&outer, 80));
    // With another gateway for others, and without one.
    for internet_gateway in [true, false] {
        world.vpc(VPC).internet_gateway = internet_gateway;
        world.apply();
        let mut open = stream(&inner, theirs, 80);
        assert!(echo(&mut open));
        assert_ne!(connect(&outer, six(10), 80), Outcome::Connected);
    }
    world.vpc(VPC).internet_gateway = true;
    world.vpc(VPC).route_tables = egress(Target::InternetGateway);
    world.apply();
    assert_eq!(connect(&outer, six(10), 80), Outcome::Connected);
    // The longest prefix decides for which senders.
    let routes = [
        ("::/0", Target::InternetGateway),
        ("2001:db8:88::/64", Target::EgressOnlyInternetGateway),
    ];
    world.vpc(VPC).route_tables = vec![table("rtb-1", &routes)];
    world.apply();
    assert_ne!(connect(&outer, six(10), 80), Outcome::Connected);
    assert_eq!(connect(&inner, theirs, 80), Outcome::Connected);
}
