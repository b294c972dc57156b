//! Reading what the rules have counted for flow logs.
//!
//! The rules keep a set of flows for each direction and verdict, a counter in each element
//! ([`crate::rules`]). This module dumps them over netlink, in the kernel's own words: nft's text
//! forms cannot say what a key of six fields is. Counters only grow; an element that nobody used for
//! a while is gone and begins at zero when it comes back. Nothing is reset here, so that a reader
//! that dies loses nothing: whoever reads keeps the last reading and takes the difference.

use crate::conntrack::{attributes, messages};
use crate::{Error, Network, names, namespace, system};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::time::Duration;

/// Elements that a set of flows can hold; the flows beyond are not counted.
const CAPACITY: usize = 65_536;

const GET_ELEMENTS: u16 = 10 << 8 | 13;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const INET: u8 = 1;

const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_EXPRESSION: u16 = 7;
const ELEMENT_EXPRESSIONS: u16 = 11;
const DATA_VALUE: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const COUNTER_BYTES: u16 = 1;
const COUNTER_PACKETS: u16 = 2;

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// `eni-…`.
    pub interface_id: String,
    /// From the interface, not to it.
    pub egress: bool,
    /// Groups and ACLs let it pass.
    pub accepted: bool,
    /// IP protocol number.
    pub protocol: u8,
    /// Source address, as the interface sees it.
    pub source: IpAddr,
    /// Destination address, as the interface sees it.
    pub destination: IpAddr,
    /// 0 where the protocol has no ports.
    pub source_port: u16,
    /// 0 where the protocol has no ports.
    pub destination_port: u16,
}

/// Packets and bytes since the kernel began to count, IP headers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// The counters of a VPC at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Counters of different epochs have nothing to do with each other.
    pub epoch: String,
    /// Every flow that is counted.
    pub flows: BTreeMap<Key, Count>,
    /// Some flows were too many to be counted.
    pub full: bool,
}

/// One of the sets.
#[derive(Clone, Copy, Debug)]
struct Set {
    egress: bool,
    accepted: bool,
    six: bool,
    /// Of protocols without ports.
    plain: bool,
}

impl Set {
    fn all() -> impl Iterator<Item = Set> {
        (0..16_u8).map(|bits| Set {
            egress: bits & 1 != 0,
            accepted: bits & 2 != 0,
            six: bits & 4 != 0,
            plain: bits & 8 != 0,
        })
    }

    fn name(self) -> String {
        let direction = if self.egress { "out" } else { "in" };
        let verdict = if self.accepted { "accept" } else { "reject" };
        let family = if self.six { "6" } else { "4" };
        format!("flow_{direction}_{verdict}_{family}{}", if self.plain { "_plain" } else { "" })
    }

    /// Link and flow of an element's key: fields one after the other, each filled up to 4 bytes.
    fn key(self, bytes: &[u8]) -> Option<(String, Key)> {
        let (link, rest) = bytes.split_first_chunk::<16>()?;
        let link = link.split(|byte| *byte == 0).next()?;
        let (protocol, rest) = rest.split_first_chunk::<4>()?;
        let (source, rest) = address(self.six, rest)?;
        let (destination, rest) = address(self.six, rest)?;
        let port = |at: usize| Some(u16::from_be_bytes([*rest.get(at)?, *rest.get(at + 1)?]));
        let (source_port, destination_port) =
            if self.plain { (0, 0) } else { (port(0)?, port(4)?) };
        let key = Key {
            interface_id: String::new(),
            egress: self.egress,
            accepted: self.accepted,
            protocol: protocol[0],
            source,
            destination,
            source_port,
            destination_port,
        };
        Some((String::from_utf8_lossy(link).into_owned(), key))
    }
}

fn address(six: bool, bytes: &[u8]) -> Option<(IpAddr, &[u8])> {
    if six {
        let (address, rest) = bytes.split_first_chunk::<16>()?;
        Some((Ipv6Addr::from(*address).into(), rest))
    } else {
        let (address, rest) = bytes.split_first_chunk::<4>()?;
        Some((Ipv4Addr::from(*address).into(), rest))
    }
}

impl Network {
    /// What the flow logs' sets of a VPC have counted so far.
    ///
    /// Blocking, for some milliseconds for every thousand flows.
    pub fn flows(&self, vpc_id: &str) -> Result<Reading, Error> {
        const BOOT: &str = "/proc/sys/kernel/random/boot_id";
        let vpc = self.find(vpc_id)?;
        let space = self.namespace(vpc_id);
        let number = namespace::number(&space)?;
        let interfaces = vpc.interfaces.iter();
        let interfaces = interfaces.map(|i| (names::tap(&i.id), i.id.clone())).collect();
        let boot = std::fs::read_to_string(BOOT).map_err(Error::io(format!("read {BOOT}")))?;
        let mut reading = namespace::within(&space, || read(&interfaces))?;
        reading.epoch = format!("{}/{number}", boot.trim());
        Ok(reading)
    }
}

/// Reads the sets of the namespace in which the caller's thread stands; sets that do not exist count
/// nothing. `interfaces` names the interface of each link; what other links have counted is left
/// out. The epoch is for the caller to fill in.
pub(crate) fn read(interfaces: &BTreeMap<String, String>) -> Result<Reading, Error> {
    let mut reading = Reading::default();
    for set in Set::all() {
        let mut count = 0;
        let dumped = dump(&set.name(), |body| {
            for (key, value) in elements(body) {
                count += 1;
                let Some((link, mut key)) = set.key(key) else { continue };
                let Some(interface) = interfaces.get(&link) else { continue };
                key.interface_id.clone_from(interface);
                reading.flows.insert(key, value);
            }
        });
        dumped.map_err(|error| Error::io(format!("read the set {}", set.name()))(error.into()))?;
        reading.full |= count >= CAPACITY;
    }
    Ok(reading)
}

/// Gives the body of every message of a set's elements to `each`.
fn dump(set: &str, mut each: impl FnMut(&[u8])) -> rustix::io::Result<()> {
    let socket = system::netfilter_socket().map_err(|error| {
        rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO)
    })?;
    rustix::net::sockopt::set_socket_timeout(
        socket.as_fd(),
        rustix::net::sockopt::Timeout::Recv,
        Some(Duration::from_secs(2)),
    )?;
    rustix::io::write(&socket, &question(set))?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = rustix::io::read(&socket, &mut buffer)?;
        for (kind, body) in messages(&buffer[..length]) {
            match kind {
                NLMSG_DONE => return Ok(()),
                // Its number stands where other messages have family and attributes.
                NLMSG_ERROR => return error(&buffer[..length]),
                _ => each(body),
            }
        }
    }
}

fn error(message: &[u8]) -> rustix::io::Result<()> {
    let number = message.get(16..20).and_then(|bytes| bytes.try_into().ok());
    match i32::from_ne_bytes(number.unwrap_or_default()).wrapping_neg() {
        0 | libc::ENOENT => Ok(()),
        number @ 1..4096 => Err(rustix::io::Errno::from_raw_os_error(number)),
        _ => Err(rustix::io::Errno::IO),
    }
}

fn question(set: &str) -> Vec<u8> {
    let mut body = vec![INET, 0, 0, 0];
    for (kind, text) in [(LIST_TABLE, names::TABLE), (LIST_SET, set)] {
        let length = u16::try_from(4 + text.len() + 1).unwrap_or(0);
        body.extend(length.to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(text.as_bytes());
        body.push(0);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let mut bytes = u32::try_from(16 + body.len()).unwrap_or(0).to_ne_bytes().to_vec();
    bytes.extend(GET_ELEMENTS.to_ne_bytes());
    bytes.extend((REQUEST | DUMP).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

/// Keys and counters of the elements in a message's attributes.
fn elements(body: &[u8]) -> Vec<(&[u8], Count)> {
    let lists = attributes(body).into_iter().filter(|(kind, ..)| *kind == LIST_ELEMENTS);
    let elements = lists.flat_map(|(_, _, list)| attributes(list));
    elements.filter_map(|(_, _, element)| element_of(element)).collect()
}

fn element_of(element: &[u8]) -> Option<(&[u8], Count)> {
    let (mut key, mut count) = (None, None);
    for (kind, _, value) in attributes(element) {
        match kind {
            ELEMENT_KEY => key = find(value, DATA_VALUE),
            ELEMENT_EXPRESSION => count = count.or_else(|| counter(value)),
            ELEMENT_EXPRESSIONS => {
                let list = attributes(value);
                count = count.or_else(|| list.iter().find_map(|(_, _, value)| counter(value)));
            }
            _ => {}
        }
    }
    Some((key?, count?))
}

fn counter(expression: &[u8]) -> Option<Count> {
    if find(expression, EXPRESSION_NAME)? != b"counter\0" {
        return None;
    }
    let data = find(expression, EXPRESSION_DATA)?;
    let number = |kind| Some(u64::from_be_bytes(find(data, kind)?.try_into().ok()?));
    Some(Count { packets: number(COUNTER_PACKETS)?, bytes: number(COUNTER_BYTES)? })
}

fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).into_iter().find(|(kind, ..)| *kind == wanted).map(|(_, _, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(4 + value.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn element(key: &[u8], packets: u64, bytes: u64) -> Vec<u8> {
        let data = [
            attribute(COUNTER_BYTES, &bytes.to_be_bytes()),
            attribute(COUNTER_PACKETS, &packets.to_be_bytes()),
        ];
        let counter = [attribute(1, b"counter\0"), attribute(0x8002, &data.concat())].concat();
        let key = attribute(0x8001, &attribute(DATA_VALUE, key));
        attribute(0x8001, &[key, attribute(0x8007, &counter)].concat())
    }

    #[test]
    fn elements_are_read() {
        let mut key = b"tap1\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
        key.extend([6, 0, 0, 0, 10, 0, 0, 5, 10, 0, 0, 6, 0x9c, 0x40, 0, 0, 0, 80, 0, 0]);
        let body = attribute(0x8003, &element(&key, 3, 180));
        let found = elements(&body);
        assert_eq!(found, [(&key[..], Count { packets: 3, bytes: 180 })]);
        let set = Set { egress: true, accepted: false, six: false, plain: false };
        assert_eq!(set.name(), "flow_out_reject_4");
        let (link, flow) = set.key(found[0].0).unwrap();
        assert_eq!(link, "tap1");
        let wanted = Key {
            interface_id: String::new(),
            egress: true,
            accepted: false,
            protocol: 6,
            source: "10.0.0.5".parse().unwrap(),
            destination: "10.0.0.6".parse().unwrap(),
            source_port: 40_000,
            destination_port: 80,
        };
        assert_eq!(flow, wanted);
        for length in 0..body.len() {
            elements(&body[..length]);
        }
        for length in 0..key.len() - 2 {
            assert_eq!(set.key(&key[..length]), None, "{length}");
        }
        let plain = Set { plain: true, ..set };
        assert_eq!(plain.key(&key[..28]).unwrap().1.source_port, 0);
        assert_eq!(plain.name(), "flow_out_reject_4_plain");
    }

    #[test]
    fn a_set_that_is_not_there_counts_nothing() {
        let answer = |number: i32| [&[0; 16][..], &(-number).to_ne_bytes()].concat();
        assert!(error(&answer(libc::ENOENT)).is_ok());
        assert!(error(&answer(libc::EPERM)).is_err());
        assert!(error(&answer(-7)).is_err(), "no error has such a number");
        assert!(error(&[]).is_ok());
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>, bits in 0usize..16) {
            let set = Set::all().nth(bits).unwrap();
            elements(&bytes);
            set.key(&bytes);
            let _ = error(&bytes);
        }
    }
}
