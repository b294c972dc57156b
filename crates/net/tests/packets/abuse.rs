//! A guest that does what it can to harm its neighbours.

use crate::guest::{Outcome, ROUTER, Raw, datagram, ethernet, ipv4, syn};
use crate::world::{VPC, World, all, anywhere};
use base::network::Peer;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

const WEB: &str = "sg-1";
const INNER: &str = "sg-2";

/// What a bad guest has: a raw tap, and a victim that listens on UDP port 7.
fn villain(world: &mut World, number: u8, group: &str) -> Raw {
    let interface = world.interface(VPC, number, &[group]);
    world.apply();
    Raw::new(world.network.open_tap(VPC, &interface.id).unwrap(), &interface)
}

#[test]
fn tags_and_strange_frames_go_nowhere() {
    let Some(mut world) = World::new() else { return };
    world.group(WEB, &[all(anywhere())], &[all(anywhere())]);
    let victim = world.guest(VPC, 10, &[WEB]);
    let raw = villain(&mut world, 11, WEB);
    let heard = victim.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 7)).unwrap());
    heard.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    let packet = ipv4(raw.address, victim.address, 17, &datagram(9, 7, b"hello"));
    raw.send(&[ethernet(ROUTER, raw.mac, 0x0800), packet.clone()].concat());
    assert_eq!(heard.recv(&mut [0; 16]).unwrap(), 5, "the path works");
    // IEEE 802.1Q and 802.1ad, also nested, also with priority only.
    for (kind, tag) in [(0x8100_u16, 5_u16), (0x88a8, 5), (0x8100, 1)] {
        let tagged = [&tag.to_be_bytes()[..], &0x0800_u16.to_be_bytes(), &packet].concat();
        raw.send(&[ethernet(ROUTER, raw.mac, kind), tagged.clone()].concat());
        let nested = [&tag.to_be_bytes()[..], &0x8100_u16.to_be_bytes(), &tagged].concat();
        raw.send(&[ethernet(ROUTER, raw.mac, kind), nested].concat());
    }
    // To everybody, to a neighbour's hardware address, from nobody.
    let to = |to: [u8; 6]| raw.send(&[ethernet(to, raw.mac, 0x0800), packet.clone()].concat());
    to([0x0a, 0, 0, 0, 0, 10]);
    to([0x01, 0, 0x5e, 0, 0, 1]);
    let broadcast = ipv4(raw.address, Ipv4Addr::BROADCAST, 17, &datagram(9, 7, b"all"));
    raw.send(&[ethernet([0xff; 6], raw.mac, 0x0800), broadcast].concat());
    let multicast = ipv4(raw.address, Ipv4Addr::new(224, 0, 0, 1), 17, &datagram(9, 7, b"all"));
    raw.send(&[ethernet([0x01, 0, 0x5e, 0, 0, 1], raw.mac, 0x0800), multicast].concat());
    // Shorter than their headers say.
    for length in [0, 1, 13, 14, 20, 33] {
        let whole = [ethernet(ROUTER, raw.mac, 0x0800), packet.clone()].concat();
        raw.send(&whole[..length.max(14)]);
    }
    assert!(heard.recv(&mut [0; 16]).is_err(), "a frame that is not a packet of ours passed");
}

/// A datagram in fragments arrives whole where the whole may, and no fragment where it may not.
#[test]
fn fragments_are_judged_as_the_whole() {
    let Some(mut world) = World::new() else { return };
    world.group(WEB, &[crate::world::udp(7, anywhere())], &[all(anywhere())]);
    let victim = world.guest(VPC, 10, &[WEB]);
    let raw = villain(&mut world, 11, WEB);
    let listen = |port| {
        let socket = victim.run(|| UdpSocket::bind((victim.address, port)).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
        socket
    };
    let (allowed, denied) = (listen(7), listen(8));
    let send = |port: u16, id: u8, order: [usize; 2]| {
        let whole = datagram(9, port, &[0x55; 64]);
        let pieces = [(&whole[..32], 0_u16, true), (&whole[32..], 4, false)];
        for index in order {
            let (payload, offset, more) = pieces[index];
            let mut packet = ipv4(raw.address, victim.address, 17, payload);
            let flags = offset | if more { 0x2000 } else { 0 };
            packet[4..6].copy_from_slice(&[0, id]);
            packet[6..8].copy_from_slice(&flags.to_be_bytes());
            packet[10..12].fill(0);
            let sum = crate::guest::checksum(&packet[..20]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            raw.send(&[ethernet(ROUTER, raw.mac, 0x0800), packet].concat());
        }
    };
    send(7, 1, [0, 1]);
    assert_eq!(allowed.recv(&mut [0; 128]).unwrap(), 64);
    send(7, 2, [1, 0]);
    assert_eq!(allowed.recv(&mut [0; 128]).unwrap(), 64, "the other way round");
    send(8, 3, [0, 1]);
    send(8, 4, [1, 0]);
    assert!(denied.recv(&mut [0; 128]).is_err());
}

/// One guest opens connections as fast as it can: its neighbours still open theirs.
#[test]
fn a_hundred_thousand_connections_harm_nobody_else() {
    let Some(mut world) = World::new() else { return };
    // Named by a group, so every one of them is tracked.
    let members = || Peer::Group(INNER.into());
    world.group(WEB, &[all(members())], &[all(anywhere())]);
    world.group(INNER, &[all(anywhere())], &[all(anywhere())]);
    let server = world.guest(VPC, 10, &[WEB]);
    let client = world.guest(VPC, 12, &[INNER]);
    let target = world.guest(VPC, 13, &[WEB]);
    let raw = villain(&mut world, 11, INNER);
    let _server = server.listen(80);
    let mut before = client.stream(server.address, 80);
    assert!(crate::guest::echo(&mut before));
    // More than the kernel tracks in all, 262,144 unless told.
    for number in 0..300_000_u32 {
        let round = u16::try_from(number / 60_000).unwrap();
        let ports = (u16::try_from(1024 + number % 60_000).unwrap(), 1000 + round);
        let packet = ipv4(raw.address, target.address, 6, &syn(raw.address, target.address, ports));
        raw.send(&[ethernet(ROUTER, raw.mac, 0x0800), packet].concat());
        if number % 1000 == 0 {
            raw.drain(|_| false);
        }
    }
    assert!(crate::guest::echo(&mut before), "a flow from before goes on");
    assert_eq!(client.connect(server.address, 80), Outcome::Connected, "and a new one begins");
}
