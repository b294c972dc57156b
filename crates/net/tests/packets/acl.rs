//! Network ACLs at the borders of subnets, and groups on the way through a machine that forwards.

use crate::guest::{Guest, Outcome, datagram, echo, ethernet, icmp, ipv4, shell};
use crate::guest::{ROUTER, Raw};
use crate::world::{VPC, World, all, anywhere, prefix, subnet, table, tcp};
use base::network::{AclRule, Holder, NetworkAcl, Peer, PrefixList, Protocol, Rule, Target};
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

const OPEN: &str = "sg-0000000000000000a";
const ROUTERS: &str = "sg-0000000000000000b";
const SERVERS: &str = "sg-0000000000000000c";

fn rule(number: u16, allow: bool, protocol: Protocol, cidr: &str) -> AclRule {
    AclRule { number, allow, protocol, cidr: cidr.parse().unwrap() }
}

fn port(from: u16, to: u16) -> Protocol {
    Protocol::Tcp { from, to }
}

/// Two subnets: 172.31.0.0/25 and 172.31.0.128/25; the second has the ACL `acl-2`.
fn two_subnets() -> Option<World> {
    let mut world = World::new()?;
    world.group(OPEN, &[all(anywhere())], &[all(anywhere())]);
    let mut second = subnet("subnet-2", "172.31.0.128/25", "rtb-1");
    second.network_acl = "acl-2".into();
    let vpc = world.vpc(VPC);
    vpc.subnets = vec![subnet("subnet-1", "172.31.0.0/25", "rtb-1"), second];
    vpc.network_acls.push(NetworkAcl { id: "acl-2".into(), ..NetworkAcl::default() });
    Some(world)
}

fn guest(world: &mut World, number: u8, subnet: &str, groups: &[&str]) -> Guest {
    let mut interface = world.interface(VPC, number, groups);
    interface.subnet_id = subnet.into();
    *world.vpc(VPC).interfaces.last_mut().unwrap() = interface.clone();
    world.apply();
    let tap = world.network.open_tap(VPC, &interface.id).unwrap();
    Guest::start(tap, &format!("a{number}"), &interface)
}

#[test]
fn acls_are_asked_at_the_border_for_every_packet() {
    let Some(mut world) = two_subnets() else { return };
    let inward = [
        rule(90, false, port(80, 80), "172.31.0.11/32"),
        rule(100, true, port(80, 81), "172.31.0.0/25"),
    ];
    let back = rule(100, true, port(1024, 65535), "0.0.0.0/0");
    world.vpc(VPC).network_acls[1].ingress = inward.to_vec();
    world.vpc(VPC).network_acls[1].egress = vec![back.clone()];
    let client = guest(&mut world, 10, "subnet-1", &[OPEN]);
    let denied = guest(&mut world, 11, "subnet-1", &[OPEN]);
    let server = guest(&mut world, 200, "subnet-2", &[OPEN]);
    let neighbour = guest(&mut world, 201, "subnet-2", &[OPEN]);
    let (_web, _other) = (server.listen(80), client.listen(80));
    assert_eq!(client.connect(server.address, 80), Outcome::Connected);
    assert_eq!(client.connect(server.address, 81), Outcome::Refused, "nobody listens");
    assert_eq!(client.connect(server.address, 82), Outcome::TimedOut, "no rule");
    assert_eq!(denied.connect(server.address, 80), Outcome::TimedOut, "the lower number decides");
    assert_eq!(denied.connect(server.address, 81), Outcome::Refused);
    assert_eq!(neighbour.connect(server.address, 82), Outcome::Refused, "not within the subnet");
    assert_eq!(server.connect(client.address, 80), Outcome::TimedOut, "no way out to port 80");

    // Nobody remembers a flow: what goes back needs a rule as well.
    let mut open = client.stream(server.address, 80);
    assert!(echo(&mut open));
    world.vpc(VPC).network_acls[1].egress.clear();
    world.apply();
    assert!(!echo(&mut open));
    assert_eq!(client.connect(server.address, 80), Outcome::TimedOut);
    world.vpc(VPC).network_acls[1].egress = vec![back];
    world.apply();
    assert_eq!(client.connect(server.address, 80), Outcome::Connected);

    // An ACL that nobody knows lets nothing pass, one that allows everything everything.
    world.vpc(VPC).subnets[1].network_acl = "acl-9".into();
    world.apply();
    assert_eq!(client.connect(server.address, 80), Outcome::TimedOut);
    world.vpc(VPC).subnets[1].network_acl = "acl-1".into();
    world.apply();
    assert_eq!(denied.connect(server.address, 80), Outcome::Connected);
}

#[test]
fn acls_know_types_and_numbers() {
    let Some(mut world) = two_subnets() else { return };
    let echo_request = Protocol::Icmp { kind: Some(8), code: None };
    world.vpc(VPC).network_acls[1].ingress = vec![
        rule(1, true, echo_request, "172.31.0.0/16"),
        rule(2, true, Protocol::Number(17), "172.31.0.0/16"),
        rule(3, true, Protocol::All, "::/0"),
    ];
    world.vpc(VPC).network_acls[1].egress = vec![rule(1, true, Protocol::All, "0.0.0.0/0")];
    let server = guest(&mut world, 200, "subnet-2", &[OPEN]);
    let interface = world.interface(VPC, 12, &[OPEN]);
    world.apply();
    let raw = Raw::new(world.network.open_tap(VPC, &interface.id).unwrap(), &interface);
    let send = |protocol: u8, payload: &[u8]| {
        let packet = ipv4(raw.address, server.address, protocol, payload);
        raw.send(&[ethernet(ROUTER, raw.mac, 0x0800), packet].concat());
    };
    let answered = |kind: u8, answer: u8| {
        send(1, &icmp(kind, 0));
        raw.receive(|frame| frame.len() > 34 && frame[23] == 1 && frame[34] == answer).is_some()
    };
    assert!(answered(8, 0));
    assert!(!answered(13, 14), "a timestamp has no rule");
    let heard = server.run(|| UdpSocket::bind((server.address, 7)).unwrap());
    heard.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    send(17, &datagram(9, 7, b"seventeen"));
    assert_eq!(heard.recv(&mut [0; 16]).unwrap(), 9);
    assert_eq!(server.connect(raw.address, 80), Outcome::TimedOut, "the answer is TCP");
}

#[test]
fn services_are_above_acls() {
    let Some(mut world) = two_subnets() else { return };
    let metadata = world.network.listen_metadata(VPC).unwrap();
    let _server = crate::guest::Server::start(metadata);
    let guest = guest(&mut world, 200, "subnet-2", &[OPEN]);
    assert_eq!(guest.connect(Ipv4Addr::new(169, 254, 169, 254), 80), Outcome::Connected);
}

/// An endpoint in a subnet with a machine that forwards: calls and answers cross the border by the
/// ACL, and need no rule within the subnet.
#[test]
fn acls_know_endpoints() {
    let Some(mut world) = two_subnets() else { return };
    world.vpc(VPC).network_acls[1].ingress =
        vec![rule(100, true, port(443, 443), "172.31.0.10/32")];
    let back = rule(100, true, port(1024, 65535), "0.0.0.0/0");
    world.vpc(VPC).network_acls[1].egress = vec![back];
    let mut service = world.interface(VPC, 210, &[OPEN]);
    service.subnet_id = "subnet-2".into();
    service.holder = Holder::Endpoint("vpce-1".into());
    *world.vpc(VPC).interfaces.last_mut().unwrap() = service.clone();
    let client = guest(&mut world, 10, "subnet-1", &[OPEN]);
    let denied = guest(&mut world, 11, "subnet-1", &[OPEN]);
    let inside = guest(&mut world, 200, "subnet-2", &[OPEN]);
    world.vpc(VPC).interfaces.last_mut().unwrap().source_dest_check = false;
    world.apply();
    let address = service.private_ip;
    let listener = world.network.listen_service(VPC, address.into(), 443).unwrap();
    let _server = crate::guest::Server::start(listener);
    assert_eq!(client.connect(address, 443), Outcome::Connected);
    assert_eq!(denied.connect(address, 443), Outcome::TimedOut);
    assert_eq!(inside.connect(address, 443), Outcome::Connected);
    let mut open = client.stream(address, 443);
    assert!(echo(&mut open));
    world.vpc(VPC).network_acls[1].egress.clear();
    world.apply();
    assert!(!echo(&mut open), "an answer needs a rule");
    assert_eq!(client.connect(address, 443), Outcome::TimedOut);
    assert_eq!(inside.connect(address, 443), Outcome::Connected);
    // And the endpoint's groups.
    world.group(OPEN, &[], &[all(anywhere())]);
    world.apply();
    assert_eq!(inside.connect(address, 443), Outcome::TimedOut);
}

#[test]
fn prefix_lists_are_read_anew() {
    let Some(mut world) = World::new() else { return };
    let list = |cidrs: &[&str]| PrefixList {
        id: "pl-1".into(),
        cidrs: cidrs.iter().map(|text| text.parse().unwrap()).collect(),
    };
    world.vpc(VPC).prefix_lists = vec![list(&["10.0.0.0/8", "172.31.0.11/32", "2001:db8::/32"])];
    world.group(OPEN, &[all(anywhere())], &[all(anywhere())]);
    world.group(SERVERS, &[tcp(80, Peer::PrefixList("pl-1".into()))], &[]);
    let server = world.guest(VPC, 10, &[SERVERS]);
    let one = world.guest(VPC, 11, &[OPEN]);
    let two = world.guest(VPC, 12, &[OPEN]);
    let _web = server.listen(80);
    assert_eq!(one.connect(server.address, 80), Outcome::Connected);
    assert_eq!(two.connect(server.address, 80), Outcome::TimedOut);
    // Intervals that overlap old ones, in one step.
    world.vpc(VPC).prefix_lists = vec![list(&["10.0.0.0/7", "172.31.0.12/30", "172.31.0.12/32"])];
    world.apply();
    assert_eq!(one.connect(server.address, 80), Outcome::TimedOut);
    assert_eq!(two.connect(server.address, 80), Outcome::Connected);
    world.vpc(VPC).prefix_lists = vec![list(&[])];
    world.apply();
    assert_eq!(two.connect(server.address, 80), Outcome::TimedOut);
    world.vpc(VPC).prefix_lists = vec![list(&["0.0.0.0/0"])];
    world.restart();
    assert_eq!(two.connect(server.address, 80), Outcome::Connected);
}

/// Many different rules become a set of prefixes with ports; nested prefixes add up.
#[test]
fn many_rules_of_a_group() {
    let Some(mut world) = World::new() else { return };
    let mut rules: Vec<_> =
        (0..60).map(|n| tcp(2000 + n, prefix(&format!("10.{n}.0.0/16")))).collect();
    rules.extend([
        tcp(80, prefix("172.31.0.0/16")),
        tcp(81, prefix("172.31.0.8/29")),
        Rule { protocol: port(80, 83), peer: prefix("172.31.0.11/32") },
        Rule { protocol: Protocol::Udp { from: 90, to: 91 }, peer: prefix("172.31.0.12/32") },
    ]);
    world.group(OPEN, &[all(anywhere())], &[all(anywhere())]);
    world.group(SERVERS, &rules, &[]);
    let server = world.guest(VPC, 10, &[SERVERS]);
    let one = world.guest(VPC, 11, &[OPEN]);
    let two = world.guest(VPC, 20, &[OPEN]);
    for (port, narrow, wide) in
        [(80, true, true), (81, true, false), (83, true, false), (84, false, false)]
    {
        let outcome = |passes| if passes { Outcome::Refused } else { Outcome::TimedOut };
        assert_eq!(one.connect(server.address, port), outcome(narrow), "{port}");
        assert_eq!(two.connect(server.address, port), outcome(wide), "{port}");
    }
    // One rule goes, one comes.
    world.group(SERVERS, &rules[..62], &[]);
    world.apply();
    assert_eq!(one.connect(server.address, 83), Outcome::TimedOut);
    assert_eq!(one.connect(server.address, 81), Outcome::Refused);
}

/// A client, a machine that forwards and a server, each in a subnet whose routes lead over the
/// second. Groups are asked at all four interfaces that a packet passes.
#[test]
fn groups_judge_every_hop() {
    let Some(mut world) = World::new() else { return };
    let inner = || prefix("172.31.0.0/24");
    let open = [tcp(80, inner())];
    world.group(OPEN, &[], &open);
    world.group(ROUTERS, &open, &open);
    world.group(SERVERS, &open, &[]);
    let middle = world.interface(VPC, 70, &[ROUTERS]);
    let vpc = world.vpc(VPC);
    vpc.subnets = vec![
        subnet("subnet-1", "172.31.0.0/26", "rtb-1"),
        subnet("subnet-2", "172.31.0.128/25", "rtb-2"),
        subnet("subnet-3", "172.31.0.64/26", "rtb-3"),
    ];
    let over = || Target::Interface(middle.id.clone());
    vpc.route_tables = vec![
        table("rtb-1", &[("172.31.0.128/25", over())]),
        table("rtb-2", &[("172.31.0.0/26", over())]),
        table("rtb-3", &[]),
    ];
    let interface = vpc.interfaces.last_mut().unwrap();
    interface.subnet_id = "subnet-3".into();
    interface.source_dest_check = false;
    world.apply();
    let tap = world.network.open_tap(VPC, &middle.id).unwrap();
    let router = Guest::start(tap, "a70", &middle);
    shell(&format!(
        "ip netns exec {} sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward;
         echo 0 > /proc/sys/net/ipv4/conf/all/send_redirects;
         echo 0 > /proc/sys/net/ipv4/conf/eth0/send_redirects'",
        router.name
    ));
    let client = guest(&mut world, 10, "subnet-1", &[OPEN]);
    let server = guest(&mut world, 200, "subnet-2", &[SERVERS]);
    let _web = server.listen(80);
    let mut flow = client.stream(server.address, 80);
    assert!(echo(&mut flow));
    for (id, ingress, egress) in [
        (OPEN, &open[..], &[][..]),
        (ROUTERS, &[], &open),
        (ROUTERS, &open, &[]),
        (SERVERS, &[], &open),
    ] {
        let whole = world.vpc(VPC).groups.clone();
        world.group(id, ingress, egress);
        world.apply();
        assert_eq!(client.connect(server.address, 80), Outcome::TimedOut, "{id} says no");
        assert!(echo(&mut flow), "a tracked flow survives");
        world.vpc(VPC).groups = whole;
        world.apply();
        assert_eq!(client.connect(server.address, 80), Outcome::Connected);
    }
    // The routes lead over a machine that has gone: the flow ends.
    drop(router);
    assert_eq!(client.connect(server.address, 80), Outcome::TimedOut);
}
