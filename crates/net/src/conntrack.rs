//! Forgetting connections (ctnetlink): an address that has a new owner must not inherit the flows of
//! the old one.

use crate::{Error, system};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_ERROR: u16 = 2;
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;

const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const ZONE: u16 = 18;
const TYPE: u16 = 0x3fff;

/// Netlink header and nfgenmsg.
const HEADER: usize = 20;

/// Forgets every connection of the caller's namespace, in whatever zone, in which one of the
/// addresses takes part.
pub(crate) fn forget(addresses: &BTreeSet<IpAddr>) -> Result<(), Error> {
    if addresses.is_empty() {
        return Ok(());
    }
    let work = || -> rustix::io::Result<()> {
        let socket = system::netfilter_socket().map_err(|error| {
            rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO)
        })?;
        let timeout = std::time::Duration::from_secs(2);
        rustix::net::sockopt::set_socket_timeout(
            socket.as_fd(),
            rustix::net::sockopt::Timeout::Recv,
            Some(timeout),
        )?;
        rustix::io::write(&socket, &message(GET, REQUEST | DUMP, Family::Any, &[]))?;
        let mut doomed = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        'dump: loop {
            let length = rustix::io::read(&socket, &mut buffer)?;
            for (kind, body) in messages(&buffer[..length]) {
                if matches!(kind, NLMSG_DONE | NLMSG_ERROR) {
                    break 'dump;
                }
                doomed.extend(tuple_of(body, addresses));
            }
        }
        for (family, tuple) in doomed {
            // No answer is asked for: the connection may have ended by itself.
            rustix::io::write(&socket, &message(DELETE, REQUEST, family, &tuple))?;
        }
        Ok(())
    };
    work().map_err(|error| Error::io("forget connections")(error.into()))
}

/// As netfilter numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Any = 0,
    Four = 2,
    Six = 10,
}

fn message(kind: u16, flags: u16, family: Family, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + attributes.len()).unwrap_or(0);
    let mut bytes = Vec::with_capacity(HEADER + attributes.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    // Version 0, no resource.
    bytes.extend([family as u8, 0, 0, 0]);
    bytes.extend(attributes);
    bytes
}

pub(crate) fn messages(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut list = Vec::new();
    while let Some(head) = bytes.get(..8) {
        let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let kind = u16::from_ne_bytes([head[4], head[5]]);
        let Some(whole) = bytes.get(..length.max(16)) else { break };
        list.push((kind, whole.get(HEADER..).unwrap_or_default()));
        bytes = bytes.get(length.max(16).next_multiple_of(4)..).unwrap_or_default();
    }
    list
}

/// Attributes: type without flags, the whole attribute, its value.
pub(crate) fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8], &[u8])> {
    let mut list = Vec::new();
    while let Some(head) = bytes.get(..4) {
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & TYPE;
        let Some(value) = bytes.get(4..length) else { break };
        let padded = length.next_multiple_of(4).min(bytes.len());
        list.push((kind, &bytes[..padded], value));
        bytes = &bytes[padded..];
    }
    list
}

/// The original tuple and the zone of a connection in which one of the addresses takes part, before
/// or after translation.
fn tuple_of(body: &[u8], addresses: &BTreeSet<IpAddr>) -> Option<(Family, Vec<u8>)> {
    let list = attributes(body);
    let ends: Vec<IpAddr> = list
        .iter()
        .filter(|(kind, ..)| matches!(*kind, TUPLE_ORIG | TUPLE_REPLY))
        .flat_map(|(_, _, tuple)| attributes(tuple))
        .filter(|(kind, ..)| *kind == TUPLE_IP)
        .flat_map(|(_, _, ip)| attributes(ip))
        .filter_map(|(_, _, value)| address(value))
        .collect();
    let original = list.iter().find(|(kind, ..)| *kind == TUPLE_ORIG)?;
    let zone = list.iter().find(|(kind, ..)| *kind == ZONE).map(|zone| zone.1);
    let family = if ends.iter().any(IpAddr::is_ipv6) { Family::Six } else { Family::Four };
    let takes_part = ends.iter().any(|end| addresses.contains(end));
    takes_part.then(|| (family, [original.1, zone.unwrap_or_default()].concat()))
}

fn address(value: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(value).map(|octets| Ipv4Addr::from(octets).into());
    let six = <[u8; 16]>::try_from(value).map(|octets| Ipv6Addr::from(octets).into());
    four.or(six).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(4 + value.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn the_tuple_is_found_by_any_address() {
        let ip = |a: [u8; 4], b: [u8; 4]| {
            attribute(0x8001, &[attribute(1, &a), attribute(2, &b)].concat())
        };
        let original = attribute(0x8001, &ip([10, 0, 0, 1], [203, 0, 113, 7]));
        let body =
            [original.clone(), attribute(0x8002, &ip([172, 31, 0, 5], [10, 0, 0, 1]))].concat();
        let find = |text: &str| tuple_of(&body, &BTreeSet::from([text.parse().unwrap()]));
        for address in ["10.0.0.1", "203.0.113.7", "172.31.0.5"] {
            assert_eq!(find(address), Some((Family::Four, original.clone())), "{address}");
        }
        assert_eq!(find("10.0.0.2"), None);
        // The zone goes with it: the same tuple may be in several.
        let zone = attribute(ZONE, &[0, 7]);
        let zoned = [body.clone(), zone.clone()].concat();
        let found = tuple_of(&zoned, &BTreeSet::from(["10.0.0.1".parse().unwrap()]));
        assert_eq!(found, Some((Family::Four, [original, zone].concat())));
        let six = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
        let ip = [attribute(3, &six("2001:db8::1")), attribute(4, &six("2001:db8::2"))].concat();
        let tuple = attribute(0x8001, &attribute(0x8001, &ip));
        let found = tuple_of(&tuple, &BTreeSet::from(["2001:db8::2".parse().unwrap()]));
        assert_eq!(found, Some((Family::Six, tuple)));
        let packet = message(GET, 0, Family::Four, &body);
        assert_eq!(messages(&packet), [(GET, &body[..])]);
        for length in 0..packet.len() {
            messages(&packet[..length]);
            attributes(&packet[..length]);
        }
    }
}
