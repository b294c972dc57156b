//! DHCP, DNS, time, metadata and the status check, as a guest sees them.

use crate::guest::{Outcome, PATIENCE, ROUTER, Raw, datagram, echo, ethernet, ipv4, syn};
use crate::world::{OTHER_VPC, VPC, World, all, anywhere, prefix, tcp, udp, vpc};
use base::network::{FlowLog, Holder, NameServer, Peering, PeeringSide};
use net::flow::{Count, Key};
use net::{Error, Network, Owner};
use std::io::{Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6, TcpListener, TcpStream, ToSocketAddrs, UdpSocket,
};
use std::time::{Duration, Instant};

const WEB: &str = "sg-0000000000000000a";
const RESOLVER: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 2);

fn raw(world: &mut World, number: u8) -> Raw {
    let interface = world.interface(VPC, number, &[]);
    world.apply();
    Raw::new(world.network.open_tap(VPC, &interface.id).unwrap(), &interface)
}

fn message(raw: &Raw, kind: u8, client: Ipv4Addr, options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 240];
    bytes[..3].copy_from_slice(&[1, 1, 6]);
    bytes[4..8].copy_from_slice(&[9, 8, 7, kind]);
    bytes[12..16].copy_from_slice(&client.octets());
    bytes[28..34].copy_from_slice(&raw.mac);
    bytes[236..].copy_from_slice(&[99, 130, 83, 99]);
    bytes.extend([53, 1, kind]);
    bytes.extend(options);
    bytes.push(255);
    bytes
}

/// Sends a DHCP message; the answer is its type and its bytes from the IP header on.
fn exchange(
    raw: &Raw,
    mac: [u8; 6],
    from: Ipv4Addr,
    to: Ipv4Addr,
    message: &[u8],
) -> Option<(u8, Vec<u8>)> {
    let hardware = if to.is_broadcast() { [0xff; 6] } else { ROUTER };
    let packet = ipv4(from, to, 17, &datagram(68, 67, message));
    raw.send(&[ethernet(hardware, mac, 0x0800), packet].concat());
    let frame = raw.receive(|frame| {
        frame.len() > 14 + 28 + 243 && frame[23] == 17 && frame[34..38] == [0, 67, 0, 68]
    })?;
    assert_eq!(frame[6..12], ROUTER);
    Some((frame[14 + 28 + 242], frame[14..].to_vec()))
}

#[test]
fn dhcp_gives_the_interface_its_address() {
    let Some(mut world) = World::new() else { return };
    let options = &mut world.vpc(VPC).dhcp;
    options.domain_name = Some("ec2.internal".into());
    options.domain_name_servers.push(NameServer::Address(IpAddr::from([10, 2, 5, 1])));
    options.ntp_servers = vec![IpAddr::from([169, 254, 169, 123])];
    let raw = raw(&mut world, 20);
    let stranger = world.interface(VPC, 21, &[]);
    world.apply();
    let other = Raw::new(world.network.open_tap(VPC, &stranger.id).unwrap(), &stranger);
    let (zero, all) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
    let router = Ipv4Addr::new(172, 31, 0, 1);

    let (kind, offer) = exchange(&raw, raw.mac, zero, all, &message(&raw, 1, zero, &[])).unwrap();
    assert_eq!(kind, 2);
    assert_eq!(offer[12..20], [172, 31, 0, 1, 172, 31, 0, 20], "from the router to the address");
    assert_eq!(offer[28 + 16..28 + 20], raw.address.octets());
    let text = String::from_utf8_lossy(&offer);
    assert!(text.contains("ip-172-31-0-20") && text.contains("ec2.internal"));
    let has = |option: &[u8]| offer.windows(option.len()).any(|window| window == option);
    assert!(has(&[6, 8, 172, 31, 0, 2, 10, 2, 5, 1]) && has(&[42, 4, 169, 254, 169, 123]));

    let choose = [50, 4, 172, 31, 0, 20, 54, 4, 172, 31, 0, 1];
    let chosen = message(&raw, 3, zero, &choose);
    assert_eq!(exchange(&raw, raw.mac, zero, all, &chosen).unwrap().0, 5);
    let renewal = message(&raw, 3, raw.address, &[]);
    assert_eq!(exchange(&raw, raw.mac, raw.address, router, &renewal).unwrap().0, 5);
    assert_eq!(exchange(&raw, raw.mac, raw.address, all, &renewal).map(|a| a.0), Some(5));
    let wrong = message(&raw, 3, zero, &[50, 4, 172, 31, 0, 99]);
    let (kind, nak) = exchange(&raw, raw.mac, zero, all, &wrong).unwrap();
    assert_eq!((kind, &nak[16..20]), (6, &[255; 4][..]));
    // Not the client of this link: by its frame, by its message.
    let mac = [0x0a, 0, 0, 0, 0, 0x77];
    assert_eq!(exchange(&raw, mac, zero, all, &message(&raw, 1, zero, &[])), None);
    assert_eq!(exchange(&other, other.mac, zero, all, &message(&raw, 1, zero, &[])), None);
    assert!(exchange(&other, other.mac, zero, all, &message(&other, 1, zero, &[])).is_some());
}

fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, kind.to_be_bytes()[1], 0, 1]);
    bytes
}

fn ask(server: impl Into<IpAddr>, query: &[u8]) -> Option<Vec<u8>> {
    let server = server.into();
    let any: IpAddr = match server {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(6))).unwrap();
    socket.connect((server, 53)).unwrap();
    socket.send(query).ok()?;
    let mut answer = vec![0; 4096];
    let length = socket.recv(&mut answer).ok()?;
    answer.truncate(length);
    Some(answer)
}

fn ask_by_tcp(server: Ipv4Addr, query: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect((server, 53)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(6))).unwrap();
    let length = u16::try_from(query.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length, query].concat()).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer).unwrap();
    answer
}

/// Answers every question with `name → 192.0.2.7`, the first one after a forged answer.
fn upstream() -> (UdpSocket, TcpListener) {
    loop {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()) {
            return (udp, tcp);
        }
    }
}

fn reply(query: &[u8]) -> Vec<u8> {
    let mut answer = query.to_vec();
    answer[2..4].copy_from_slice(&[0x81, 0x80]);
    answer[7] = 1;
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
    answer
}

#[test]
fn dns_knows_its_own_and_asks_for_the_rest() {
    let Some(mut world) = World::new() else { return };
    let (udp_socket, tcp_listener) = upstream();
    let mut config = world.config.clone();
    config.upstream_dns = vec![udp_socket.local_addr().unwrap()];
    world.network = Network::start(config).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = udp_socket.recv_from(&mut buffer) {
            let query = &buffer[..length];
            let mut forged = reply(query);
            forged[0] ^= 1;
            *forged.last_mut().unwrap() = 66;
            udp_socket.send_to(&forged, from).unwrap();
            udp_socket.send_to(&reply(query), from).unwrap();
        }
    });
    std::thread::spawn(move || {
        for stream in tcp_listener.incoming() {
            let mut stream = stream.unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut query = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut query).unwrap();
            let answer = reply(&query);
            let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
            stream.write_all(&[&length[..], &answer].concat()).unwrap();
        }
    });
    // A group that allows nothing: the resolver is reached all the same.
    world.group(WEB, &[], &[]);
    let guest = world.guest(VPC, 10, &[WEB]);
    let public = world.public(VPC, 10);
    world.apply();
    let [a, b, c, d] = public.octets();
    let public_name = format!("ec2-{a}-{b}-{c}-{d}.compute-1.amazonaws.com");
    for server in [RESOLVER, Ipv4Addr::new(169, 254, 169, 253)] {
        for name in ["ip-172-31-0-10.ec2.internal", &public_name] {
            let query = question(name, 1);
            let answer = guest.run(|| ask(server, &query)).unwrap();
            assert_eq!(answer[..4], [0x12, 0x34, 0x85, 0x80], "{name}");
            assert!(answer.ends_with(&guest.address.octets()), "{name}");
            assert_eq!(guest.run(|| ask_by_tcp(server, &query)), answer);
        }
        let answer = guest.run(|| ask(server, &question("10.0.31.172.in-addr.arpa", 12))).unwrap();
        assert!(String::from_utf8_lossy(&answer).contains("ip-172-31-0-10"));
        let nobody = question("ip-172-31-0-99.ec2.internal", 1);
        assert_eq!(guest.run(|| ask(server, &nobody)).unwrap()[3] & 15, 3);
        let outside = question("example.com", 1);
        assert_eq!(guest.run(|| ask(server, &outside)).unwrap(), reply(&outside));
        assert_eq!(guest.run(|| ask_by_tcp(server, &outside)), reply(&outside));
    }
    // Names follow the plan.
    world.vpc(VPC).interfaces[0].hostname = "other.ec2.internal".into();
    world.apply();
    let answer = guest.run(|| ask(RESOLVER, &question("other.ec2.internal", 1))).unwrap();
    assert!(answer.ends_with(&guest.address.octets()));
    // A peer's names are its public addresses until it lets them be private ones.
    let side = |id: &str, resolved_by_other| PeeringSide { vpc_id: id.into(), resolved_by_other };
    world.plan.vpcs.push(vpc(OTHER_VPC));
    world.vpc(OTHER_VPC).cidrs = vec!["10.9.0.0/16".parse().unwrap()];
    world.vpc(OTHER_VPC).subnets[0].cidr = "10.9.0.0/20".parse().unwrap();
    let mut theirs = world.interface(OTHER_VPC, 30, &[]);
    theirs.private_ip = Ipv4Addr::new(10, 9, 0, 30);
    theirs.public_ip = Some(Ipv4Addr::new(100, 127, 77, 30));
    world.vpc(OTHER_VPC).interfaces = vec![theirs.clone()];
    for (allowed, wanted) in [(false, theirs.public_ip.unwrap()), (true, theirs.private_ip)] {
        let sides = [side(VPC, false), side(OTHER_VPC, allowed)];
        world.plan.peerings = vec![Peering { id: "pcx-00000000000000001".into(), sides }];
        world.apply();
        let query = question("ec2-100-127-77-30.compute-1.amazonaws.com", 1);
        let answer = guest.run(|| ask(RESOLVER, &query)).unwrap();
        assert!(answer.ends_with(&wanted.octets()), "{allowed}");
    }
    // Without support there is no resolver, although it listens.
    world.vpc(VPC).dns.support = false;
    world.apply();
    let silent = guest.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send_to(&question("other.ec2.internal", 1), (RESOLVER, 53)).unwrap();
        socket.recv(&mut [0; 512]).is_err()
    });
    assert!(silent);
}

#[test]
fn dns_without_resolvers_says_so() {
    let Some(mut world) = World::new() else { return };
    let guest = world.guest(VPC, 10, &[]);
    let answer = guest.run(|| ask(RESOLVER, &question("example.com", 1))).unwrap();
    assert_eq!(answer[3] & 15, 2);
}

#[test]
fn metadata_knows_who_asks() {
    let Some(mut world) = World::new() else { return };
    world.plan.vpcs.push(vpc(OTHER_VPC));
    let one = world.guest(VPC, 10, &[]);
    let other = world.guest(OTHER_VPC, 10, &[]);
    let missing = world.network.listen_metadata("vpc-9");
    assert!(matches!(missing, Err(Error::NotInPlan(_))));
    let metadata = Ipv4Addr::new(169, 254, 169, 254);
    let door = world.network.listen_metadata(VPC).unwrap();
    let waiting = std::thread::spawn(move || door.accept().unwrap().1.ip());
    assert_eq!(other.connect(metadata, 80), Outcome::Refused, "its VPC has no listener");
    assert_eq!(one.connect(metadata, 80), Outcome::Connected);
    assert_eq!(waiting.join().unwrap(), one.address);
    let owner = |instance: &str, interface: &str| {
        Some(Owner { interface_id: interface.into(), instance_id: instance.into() })
    };
    assert_eq!(
        world.network.interface_of(VPC, one.address),
        owner("i-0000000000000000a", "eni-0000000000000000a")
    );
    assert_eq!(world.network.interface_of(VPC, RESOLVER), None);
    // Nothing else of the router can be reached.
    assert_eq!(one.connect(metadata, 22), Outcome::TimedOut);
    assert_eq!(one.connect(Ipv4Addr::new(172, 31, 0, 1), 80), Outcome::TimedOut);
}

#[test]
fn time_is_told() {
    let Some(mut world) = World::new() else { return };
    let guest = world.guest(VPC, 10, &[]);
    let answer = guest.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut query = [0; 48];
        query[0] = 0x23;
        socket.send_to(&query, "169.254.169.123:123").unwrap();
        let mut answer = [0; 64];
        assert_eq!(socket.recv(&mut answer).unwrap(), 48);
        answer
    });
    assert_eq!(answer[0], 0x24);
}

/// Nobody listens for metadata here, so the kernel itself answers each question with a reset.
#[test]
fn a_guest_that_asks_too_fast_is_slowed() {
    let Some(mut world) = World::new() else { return };
    let raw = raw(&mut world, 20);
    let metadata = Ipv4Addr::new(169, 254, 169, 254);
    let start = Instant::now();
    let mut answers = 0_u32;
    for port in 10_000..14_000 {
        let packet = ipv4(raw.address, metadata, 6, &syn(raw.address, metadata, (port, 80)));
        raw.send(&[ethernet(ROUTER, raw.mac, 0x0800), packet].concat());
        if port % 20 == 0 {
            answers += raw.drain(is_reset);
        }
    }
    while raw.receive(is_reset).is_some() {
        answers += 1;
    }
    let limit = 1024.0 * (1.0 + start.elapsed().as_secs_f64());
    assert!(f64::from(answers) <= limit, "{answers} answers, limit {limit}");
    assert!(answers >= 1000, "{answers} answers");
}

fn is_reset(frame: &[u8]) -> bool {
    frame.len() >= 54 && frame[23] == 6 && frame[34..36] == [0, 80] && frame[47] & 4 != 0
}

#[test]
fn reachable_is_who_answers() {
    let Some(mut world) = World::new() else { return };
    let guest = world.guest(VPC, 10, &[]);
    let silent = world.interface(VPC, 11, &[]);
    world.apply();
    assert!(world.network.reachable("eni-0000000000000000a").unwrap());
    let start = Instant::now();
    assert!(!world.network.reachable(&silent.id).unwrap());
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(matches!(world.network.reachable("eni-9"), Err(Error::NotInPlan(_))));
    // A guest with another address is not the one that is asked for.
    crate::guest::shell(&format!("ip -n {} address flush dev eth0", guest.name));
    assert!(!world.network.reachable("eni-0000000000000000a").unwrap());
}

#[test]
fn a_new_owner_inherits_no_connection() {
    let Some(mut world) = World::new() else { return };
    // Tracked: it would survive the change of any rule.
    world.group(WEB, &[tcp(80, prefix("172.31.0.0/16"))], &[all(anywhere())]);
    let server = world.guest(VPC, 10, &[WEB]);
    let client = world.guest(VPC, 11, &[WEB]);
    let _web = server.listen(80);
    let mut open = client.stream(server.address, 80);
    assert!(echo(&mut open));
    drop(server);
    let space = format!("{}-{VPC}", crate::world::PREFIX);
    let tracked = || {
        let read = || std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap();
        crate::guest::within(&space, read).contains("dst=172.31.0.10")
    };
    assert!(tracked());
    world.vpc(VPC).interfaces.remove(0);
    world.apply();
    assert!(!tracked());
}

/// A VPC with IPv6 and a guest that has an address in the plan, but not yet of itself.
fn with_ipv6(world: &mut World) -> (crate::guest::Guest, Ipv6Addr) {
    let vpc = world.vpc(VPC);
    vpc.ipv6_cidrs = vec!["fd77::/56".parse().unwrap()];
    vpc.subnets[0].ipv6_cidr = Some("fd77::/64".parse().unwrap());
    vpc.dhcp.domain_name = Some("ec2.internal".into());
    let guest = world.guest(VPC, 10, &[]);
    let address: Ipv6Addr = "fd77::10".parse().unwrap();
    world.vpc(VPC).interfaces[0].ipv6 = vec![address];
    world.apply();
    (guest, address)
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_guest_gets_its_ipv6_router_and_address() {
    let Some(mut world) = World::new() else { return };
    let (guest, address) = with_ipv6(&mut world);
    let name = guest.name.clone();
    // The kernel believes the advertisement that a new address brings.
    let route = || crate::guest::shell(&format!("ip -n {name} -6 route show default"));
    wait_for("there is no router", || route().contains("via fe80::67:75ff:fe72:1"));
    assert!(!crate::guest::shell(&format!("ip -n {name} -6 address")).contains("fd77"));

    let mac = [0x0a, 0, 0, 0, 0, 10];
    let exchange = |message: &[u8], source: &str| -> Option<Vec<u8>> {
        guest.run(|| {
            let index = std::fs::read_to_string("/proc/thread-self/net/dev_mcast").unwrap();
            let index = index.lines().find(|line| line.contains("eth0")).unwrap();
            let index = index.split_whitespace().next().unwrap().parse().unwrap();
            let socket =
                UdpSocket::bind(format!("{source}:546").to_socket_addrs().unwrap().next()?);
            let socket = socket.unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let servers = "ff02::1:2".parse().unwrap();
            let mut answer = vec![0; 1500];
            // The guest's own link-local address may be a moment away.
            for _ in 0..10 {
                let _ = socket.send_to(message, SocketAddrV6::new(servers, 547, 0, index));
                if let Ok(length) = socket.recv(&mut answer) {
                    answer.truncate(length);
                    return Some(answer);
                }
            }
            None
        })
    };
    let mut solicit = vec![1, 7, 7, 7, 0, 1, 0, 10, 0, 3, 0, 1];
    solicit.extend(mac);
    solicit.extend([0, 14, 0, 0, 0, 3, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    let reply = exchange(&solicit, "[::]").unwrap();
    assert_eq!(reply[..4], [7, 7, 7, 7]);
    let has = |part: &[u8]| reply.windows(part.len()).any(|window| window == part);
    let resolver: Ipv6Addr = "fd00:ec2::253".parse().unwrap();
    assert!(has(&address.octets()) && has(&resolver.octets()) && has(b"\x03ec2\x08internal\0"));

    // With the address it reaches the services.
    crate::guest::shell(&format!("ip -n {name} address add {address}/128 dev eth0 nodad"));
    let query = question("ip-172-31-0-10.ec2.internal", 1);
    let answer = guest.run(|| ask(resolver, &query)).unwrap();
    assert!(answer.ends_with(&guest.address.octets()));
    let reverse = "0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.7.7.d.f.ip6.arpa";
    let unnamed = guest.run(|| ask(resolver, &question(reverse, 12))).unwrap();
    assert_eq!(unnamed[3] & 15, 3);
}

#[test]
fn an_endpoint_is_served_inside_of_the_vpc() {
    let Some(mut world) = World::new() else { return };
    world.group(WEB, &[tcp(80, prefix("172.31.0.0/24"))], &[all(anywhere())]);
    let guest = world.guest(VPC, 10, &[WEB]);
    let mut endpoint = world.interface(VPC, 40, &[WEB]);
    world.vpc(VPC).interfaces[1].holder = Holder::Endpoint("vpce-1".into());
    endpoint.holder = Holder::Endpoint("vpce-1".into());
    world.apply();
    let listener = world.network.listen_service(VPC, endpoint.private_ip.into(), 80).unwrap();
    let _server = crate::guest::Server::start(listener);
    let mut stream = guest.stream(endpoint.private_ip, 80);
    assert!(echo(&mut stream));
    assert_eq!(guest.connect(endpoint.private_ip, 443), Outcome::TimedOut, "no group allows it");
    let nobody = world.network.listen_service(VPC, guest.address.into(), 80);
    assert!(matches!(nobody, Err(Error::NotInPlan(_))), "it is the guest's");
}

#[test]
fn flows_are_counted_to_the_byte() {
    let Some(mut world) = World::new() else { return };
    world.group(WEB, &[udp(7000, prefix("172.31.0.0/16"))], &[all(anywhere())]);
    let one = world.guest(VPC, 10, &[WEB]);
    let other = world.guest(VPC, 11, &[WEB]);
    let ids: Vec<String> = world.vpc(VPC).interfaces.iter().map(|i| i.id.clone()).collect();
    world.plan.flow_logs = vec![FlowLog {
        id: "fl-1".into(),
        account: "123456789012".into(),
        region: "us-east-1".into(),
        interfaces: ids.clone(),
        accepted: true,
        rejected: true,
        interval: 60,
        fields: Vec::new(),
    }];
    world.apply();
    assert_eq!(world.network.flows(VPC).unwrap().flows.len(), 0);
    let from = one.run(|| {
        let socket = UdpSocket::bind((one.address, 0)).unwrap();
        for (port, count) in [(7000, 5), (7001, 3)] {
            for _ in 0..count {
                socket.send_to(&[0; 100], (other.address, port)).unwrap();
            }
        }
        socket.local_addr().unwrap().port()
    });
    let key = |interface: usize, egress, accepted, port| Key {
        interface_id: ids[interface].clone(),
        egress,
        accepted,
        protocol: 17,
        source: one.address.into(),
        destination: other.address.into(),
        source_port: from,
        destination_port: port,
    };
    let wanted = [
        (key(0, true, true, 7000), 5),
        (key(0, true, true, 7001), 3),
        (key(1, false, true, 7000), 5),
        (key(1, false, false, 7001), 3),
    ];
    let count = |world: &World, key: &Key| {
        world.network.flows(VPC).unwrap().flows.get(key).copied().unwrap_or_default()
    };
    for (key, packets) in &wanted {
        let all = Count { packets: *packets, bytes: packets * 128 };
        wait_for(&format!("{key:?}"), || count(&world, key) == all);
    }
    let reading = world.network.flows(VPC).unwrap();
    let unknown: Vec<&Key> =
        reading.flows.keys().filter(|key| key.source == IpAddr::from(one.address)).collect();
    assert_eq!(unknown.len(), wanted.len(), "{unknown:?}");
    // Other changes and the death of the daemon leave the counters alone.
    world.group(WEB, &[udp(7002, prefix("172.31.0.0/16"))], &[all(anywhere())]);
    world.apply();
    world.restart();
    let again = world.network.flows(VPC).unwrap();
    assert_eq!(again.epoch, reading.epoch);
    for (key, packets) in &wanted {
        assert_eq!(again.flows[key].packets, *packets);
    }
}
