//! Security groups and the spoof guard.

use crate::guest::{Outcome, ROUTER, Raw, datagram, echo, ethernet, icmp, ipv4};
use crate::world::{OTHER_VPC, VPC, World, all, anywhere, prefix, tcp, udp, vpc};
use base::network::{Peer, Protocol, Rule};
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

const WEB: &str = "sg-0000000000000000a";
const INNER: &str = "sg-0000000000000000b";

#[test]
fn allowed_refused_dropped_revoked() {
    let Some(mut world) = World::new() else { return };
    world.group(WEB, &[tcp(80, anywhere()), tcp(81, anywhere())], &[all(anywhere())]);
    world.group(INNER, &[], &[all(anywhere())]);
    let server = world.guest(VPC, 10, &[WEB]);
    let client = world.guest(VPC, 11, &[INNER]);
    let _web = server.listen(80);
    let _secret = server.listen(22);
    assert_eq!(client.connect(server.address, 80), Outcome::Connected);
    assert_eq!(client.connect(server.address, 81), Outcome::Refused);
    assert_eq!(client.connect(server.address, 22), Outcome::TimedOut);
    // Nobody has this address.
    assert_ne!(client.connect(Ipv4Addr::new(172, 31, 0, 99), 80), Outcome::Connected);

    let mut open = client.stream(server.address, 80);
    assert!(echo(&mut open));
    world.group(WEB, &[tcp(81, anywhere())], &[all(anywhere())]);
    world.apply();
    assert_eq!(client.connect(server.address, 80), Outcome::TimedOut);
    assert!(!echo(&mut open), "an untracked flow breaks when its rule goes");
}

#[test]
fn a_tracked_flow_survives_its_rule() {
    let Some(mut world) = World::new() else { return };
    world.group(WEB, &[tcp(80, prefix("172.31.0.0/16"))], &[all(anywhere())]);
    world.group(INNER, &[], &[tcp(80, anywhere())]);
    let server = world.guest(VPC, 10, &[WEB]);
    let client = world.guest(VPC, 11, &[INNER]);
    let _web = server.listen(80);
    let mut open = client.stream(server.address, 80);
    assert!(echo(&mut open));
    world.group(WEB, &[], &[]);
    world.group(INNER, &[], &[]);
    world.apply();
    assert!(echo(&mut open));
    assert_eq!(client.connect(server.address, 80), Outcome::TimedOut);
}

#[test]
fn a_group_that_names_itself() {
    let Some(mut world) = World::new() else { return };
    world.group(WEB, &[all(Peer::Group(WEB.into()))], &[all(anywhere())]);
    world.group(INNER, &[], &[all(anywhere())]);
    let one = world.guest(VPC, 10, &[WEB]);
    let two = world.guest(VPC, 11, &[WEB]);
    let third = world.guest(VPC, 12, &[INNER]);
    let _server = one.listen(5432);
    assert_eq!(two.connect(one.address, 5432), Outcome::Connected);
    assert_eq!(third.connect(one.address, 5432), Outcome::TimedOut);
    // Membership is read anew.
    world.vpc(VPC).interfaces[2].groups.push(WEB.into());
    world.apply();
    assert_eq!(third.connect(one.address, 5432), Outcome::Connected);
    assert_eq!(third.connect(one.address, 5433), Outcome::Refused);
    world.vpc(VPC).interfaces[2].groups.pop();
    world.apply();
    assert_eq!(third.connect(one.address, 5432), Outcome::TimedOut);
}

#[test]
fn egress_and_other_protocols() {
    let Some(mut world) = World::new() else { return };
    let ping = Rule { protocol: Protocol::Icmp { kind: Some(8), code: None }, peer: anywhere() };
    world.group(WEB, &[all(anywhere())], &[]);
    world.group(INNER, &[], &[udp(53, prefix("172.31.0.10/32")), ping]);
    let server = world.guest(VPC, 10, &[WEB]);
    let client = world.guest(VPC, 11, &[INNER]);
    let interface = world.interface(VPC, 12, &[INNER]);
    world.apply();
    let raw = Raw::new(world.network.open_tap(VPC, &interface.id).unwrap(), &interface);
    let _web = server.listen(80);
    assert_eq!(client.connect(server.address, 80), Outcome::TimedOut);
    let answered = |kind: u8, answer: u8| {
        let packet = ipv4(raw.address, server.address, 1, &icmp(kind, 0));
        raw.send(&[ethernet(ROUTER, raw.mac, 0x0800), packet].concat());
        raw.receive(|frame| frame.len() > 34 && frame[23] == 1 && frame[34] == answer).is_some()
    };
    assert!(answered(8, 0), "echo may leave, and its answer come back");
    assert!(!answered(13, 14), "timestamps may not leave");
    let target = server.run(|| UdpSocket::bind((server.address, 53)).unwrap());
    target.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let source = client.run(|| UdpSocket::bind((client.address, 0)).unwrap());
    source.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    source.send_to(b"ask", (server.address, 53)).unwrap();
    let (length, from) = target.recv_from(&mut [0; 16]).unwrap();
    assert_eq!((length, from.ip()), (3, client.address.into()));
    target.send_to(b"tell", from).unwrap();
    assert_eq!(source.recv_from(&mut [0; 16]).unwrap().0, 4);
}

/// While rules are replaced, by the same daemon and by new ones, nothing slips through and nothing
/// that is allowed breaks.
#[test]
fn rules_are_replaced_at_once() {
    let Some(mut world) = World::new() else { return };
    let rules = [tcp(80, anywhere()), tcp(81, anywhere()), tcp(82, prefix("172.31.0.0/16"))];
    world.group(WEB, &rules[..2], &[all(anywhere())]);
    world.group(INNER, &[], &[all(anywhere())]);
    let server = world.guest(VPC, 10, &[WEB]);
    let client = world.guest(VPC, 11, &[INNER]);
    let _web = server.listen(80);
    let denied = server.run(|| UdpSocket::bind((server.address, 9)).unwrap());
    denied.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut open = client.stream(server.address, 80);
    let knocking = std::sync::atomic::AtomicBool::new(true);
    let knock = || {
        let socket = UdpSocket::bind((client.address, 0)).unwrap();
        let (start, mut count) = (Instant::now(), 0_u32);
        let patience = Duration::from_secs(60);
        while knocking.load(std::sync::atomic::Ordering::Relaxed) && start.elapsed() < patience {
            // The queue may be full.
            count += u32::from(socket.send_to(b"knock", (server.address, 9)).is_ok());
            // Not so fast that the wire has no room for the other flow.
            std::thread::sleep(Duration::from_micros(500));
        }
        count
    };
    let knocks = std::thread::scope(|scope| {
        let thread = scope.spawn(|| crate::guest::within(&client.name, knock));
        let mut broken = None;
        for round in 0..20 {
            world.group(WEB, &rules[..2 + round % 2], &[all(anywhere())]);
            if round % 5 == 4 {
                world.restart();
            } else {
                world.apply();
            }
            if !echo(&mut open) {
                broken = Some(round);
                break;
            }
        }
        knocking.store(false, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(broken, None, "an allowed flow broke");
        thread.join().unwrap()
    });
    assert!(knocks > 100, "{knocks}");
    assert!(denied.recv(&mut [0; 16]).is_err(), "a denied packet passed");
}

#[test]
fn spoofed_senders_are_dropped() {
    let Some(mut world) = World::new() else { return };
    world.group(WEB, &[all(anywhere())], &[all(anywhere())]);
    let victim = world.guest(VPC, 10, &[WEB]);
    let interface = world.interface(VPC, 11, &[WEB]);
    world.apply();
    let raw = Raw::new(world.network.open_tap(VPC, &interface.id).unwrap(), &interface);
    let heard = victim.run(|| UdpSocket::bind((victim.address, 7)).unwrap());
    heard.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    let deliver = |mac: [u8; 6], from: Ipv4Addr, payload: &[u8]| {
        let packet = ipv4(from, victim.address, 17, &datagram(9, 7, payload));
        raw.send(&[ethernet(ROUTER, mac, 0x0800), packet].concat());
    };
    let mut buffer = [0; 64];
    deliver(raw.mac, raw.address, b"true");
    assert_eq!(heard.recv(&mut buffer).unwrap(), 4, "an honest packet passes");
    let liar = [0x0a, 0, 0, 0, 0, 0x66];
    deliver(raw.mac, Ipv4Addr::new(172, 31, 0, 12), b"wrong source");
    deliver(raw.mac, Ipv4Addr::new(8, 8, 8, 8), b"wrong source");
    deliver(raw.mac, Ipv4Addr::new(169, 254, 169, 254), b"a service's source");
    deliver(raw.mac, Ipv4Addr::new(172, 31, 0, 1), b"the router's source");
    deliver(liar, raw.address, b"wrong hardware address");
    assert!(heard.recv(&mut buffer).is_err(), "{:?}", String::from_utf8_lossy(&buffer));

    // ARP: the router answers only the owner, and learns nothing from a liar.
    assert!(raw.ask(victim.address, raw.mac, raw.address).is_some());
    assert!(raw.ask(victim.address, liar, raw.address).is_none());
    assert!(raw.ask(victim.address, raw.mac, Ipv4Addr::new(172, 31, 0, 12)).is_none());

    // There is no IPv6 to pass.
    let mut six = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
    six.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0xff, 0xfe, 0, 0, 0x0b]);
    six.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    six.extend(datagram(9, 7, b""));
    raw.send(&[ethernet([0x33, 0x33, 0, 0, 0, 1], raw.mac, 0x86dd), six].concat());
    assert!(raw.receive(|frame| frame[12..14] == [0x86, 0xdd]).is_none());

    // With the source check off, only the hardware address counts.
    world.vpc(VPC).interfaces[1].source_dest_check = false;
    world.apply();
    deliver(raw.mac, Ipv4Addr::new(10, 9, 8, 7), b"forwarded");
    assert_eq!(heard.recv(&mut buffer).unwrap(), 9);
    deliver(liar, Ipv4Addr::new(10, 9, 8, 7), b"wrong hardware address");
    deliver(raw.mac, Ipv4Addr::new(172, 31, 0, 1), b"the router's source");
    assert!(heard.recv(&mut buffer).is_err(), "{:?}", String::from_utf8_lossy(&buffer));
}

#[test]
fn a_rogue_dhcp_server_is_not_heard() {
    let Some(mut world) = World::new() else { return };
    world.group(WEB, &[all(anywhere())], &[all(anywhere())]);
    let victim = world.guest(VPC, 10, &[WEB]);
    let interface = world.interface(VPC, 11, &[WEB]);
    world.apply();
    let raw = Raw::new(world.network.open_tap(VPC, &interface.id).unwrap(), &interface);
    let heard = victim.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 68)).unwrap());
    heard.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    let deliver = |to: Ipv4Addr, port: u16| {
        let packet = ipv4(raw.address, to, 17, &datagram(port, 68, b"offer"));
        raw.send(&[ethernet([0xff; 6], raw.mac, 0x0800), packet.clone()].concat());
        raw.send(&[ethernet(ROUTER, raw.mac, 0x0800), packet].concat());
    };
    deliver(victim.address, 1067);
    assert!(heard.recv(&mut [0; 16]).is_ok(), "the path works from another port");
    deliver(victim.address, 67);
    deliver(Ipv4Addr::BROADCAST, 67);
    deliver(Ipv4Addr::new(172, 31, 15, 255), 67);
    assert!(heard.recv(&mut [0; 16]).is_err());
}

#[test]
fn arp_answers_only_for_those_who_exist() {
    let Some(mut world) = World::new() else { return };
    world.interface(VPC, 10, &[]);
    let interface = world.interface(VPC, 11, &[]);
    world.apply();
    let raw = Raw::new(world.network.open_tap(VPC, &interface.id).unwrap(), &interface);
    let ask = |text: &str| raw.ask(text.parse().unwrap(), raw.mac, raw.address);
    for answered in
        ["172.31.0.1", "172.31.0.2", "172.31.0.10", "169.254.169.254", "169.254.169.253"]
    {
        assert_eq!(ask(answered), Some(ROUTER), "{answered}");
    }
    for silent in ["172.31.0.11", "172.31.0.12", "172.31.9.9", "169.254.1.1", "172.31.15.255"] {
        assert_eq!(ask(silent), None, "{silent}");
    }
    let probe = |text: &str| raw.ask(text.parse().unwrap(), raw.mac, Ipv4Addr::UNSPECIFIED);
    assert_eq!(probe("172.31.0.11"), None, "the address that DHCP gave is free");
}

#[test]
fn vpcs_with_the_same_addresses_are_apart() {
    let Some(mut world) = World::new() else { return };
    world.plan.vpcs.push(vpc(OTHER_VPC));
    world.group(WEB, &[all(anywhere())], &[all(anywhere())]);
    let client = world.guest(VPC, 11, &[WEB]);
    let server = world.guest(OTHER_VPC, 10, &[WEB]);
    let _web = server.listen(80);
    assert_ne!(client.connect(server.address, 80), Outcome::Connected);
    let same = world.guest(VPC, 10, &[WEB]);
    assert_eq!(client.connect(same.address, 80), Outcome::Refused);
    let neighbour = world.guest(OTHER_VPC, 12, &[WEB]);
    assert_eq!(neighbour.connect(server.address, 80), Outcome::Connected);
}
