//! IPv6 addresses (RFC 8415), for interfaces whose router says that addresses are managed.
//!
//! The kernel asks for routers and follows what they say; here an address is asked for whenever a
//! router speaks, which it does when it is asked, when something changed, and every few minutes. So
//! advertisements drive everything: there is no timer and no lease to renew. One exchange with rapid
//! commit, SOLICIT–REPLY; the region decides addresses, so nothing is probed for.

use crate::init::say;
use crate::sys;
use std::collections::HashMap;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
const ADVERTISEMENT: u8 = 134;
const MANAGED: u8 = 0x80;
const SOLICIT: u8 = 1;
const REPLY: u8 = 7;

const CLIENT: u16 = 1;
const ASSOCIATION: u16 = 3;
const ADDRESS: u16 = 5;
const RAPID_COMMIT: u16 = 14;

/// How long a server may take, all tries together.
const PATIENCE: Duration = Duration::from_secs(10);

/// Listens to routers as long as the machine runs.
pub(crate) fn run() -> i32 {
    match listen() {
        Ok(()) => 0,
        Err(error) => {
            // A kernel without IPv6.
            say(&format!("no IPv6: {error}"));
            1
        }
    }
}

fn listen() -> io::Result<()> {
    let routers = sys::icmpv6_socket(ADVERTISEMENT)?;
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 546))?;
    let mut known: HashMap<u32, Ipv6Addr> = HashMap::new();
    let mut buffer = [0; 1500];
    loop {
        let (length, from) = routers.recv_from(&mut buffer)?;
        let SocketAddr::V6(from) = from else { continue };
        if !is_managed(&buffer[..length]) {
            continue;
        }
        let index = from.scope_id();
        let Some(interface) = sys::interface_name(index) else { continue };
        let done = (|| {
            let (_, hardware) = sys::interface_identity(&interface)?;
            let address = acquire(&socket, index, hardware)?;
            let before = known.get(&index).copied();
            if before != Some(address) {
                sys::set_interface_address6(index, address, true)?;
                if let Some(before) = before {
                    sys::set_interface_address6(index, before, false)?;
                }
                known.insert(index, address);
                say(&format!("{interface} has {address}"));
            }
            Ok::<_, io::Error>(())
        })();
        if let Err(error) = done {
            say(&format!("no IPv6 address for {interface}: {error}"));
        }
    }
}

fn is_managed(advertisement: &[u8]) -> bool {
    advertisement.len() >= 16
        && advertisement[0] == ADVERTISEMENT
        && advertisement[5] & MANAGED != 0
}

/// Asks until a server answers: soon again at first, then less and less often.
fn acquire(socket: &UdpSocket, index: u32, hardware: [u8; 6]) -> io::Result<Ipv6Addr> {
    let clock = sys::uptime().subsec_nanos().to_be_bytes();
    let transaction = [clock[1], clock[2] ^ hardware[4], clock[3] ^ hardware[5]];
    let question = solicit(transaction, hardware);
    let servers = SocketAddrV6::new(SERVERS, 547, 0, index);
    let end = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(100);
    let mut buffer = [0; 1500];
    while Instant::now() < end {
        socket.send_to(&question, servers)?;
        let resend = Instant::now() + pause;
        while let Some(left) = resend.checked_duration_since(Instant::now()) {
            // A timeout of zero would be none.
            socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { break };
            let here = matches!(from, SocketAddr::V6(from) if from.scope_id() == index);
            match parse(&buffer[..length], transaction, hardware) {
                Some(address) if here => return Ok(address),
                _ => {}
            }
        }
        pause = (pause * 2).min(Duration::from_secs(4));
    }
    Err(io::Error::from(io::ErrorKind::TimedOut))
}

/// An identifier of the kind that is made of a hardware address.
fn identifier(hardware: [u8; 6]) -> Vec<u8> {
    [&[0, 3, 0, 1][..], &hardware].concat()
}

fn solicit(transaction: [u8; 3], hardware: [u8; 6]) -> Vec<u8> {
    let mut bytes = vec![SOLICIT];
    bytes.extend(transaction);
    let association = [&hardware[2..], &[0; 8]].concat();
    // No time has passed yet (option 8).
    let options: [(u16, &[u8]); 4] = [
        (CLIENT, &identifier(hardware)),
        (RAPID_COMMIT, &[]),
        (8, &[0, 0]),
        (ASSOCIATION, &association),
    ];
    for (code, value) in options {
        bytes.extend(code.to_be_bytes());
        bytes.extend((value.len() as u16).to_be_bytes());
        bytes.extend(value);
    }
    bytes
}

/// The address in a server's reply to this transaction.
fn parse(bytes: &[u8], transaction: [u8; 3], hardware: [u8; 6]) -> Option<Ipv6Addr> {
    let (head, options) = bytes.split_at_checked(4)?;
    if head[0] != REPLY || head[1..] != transaction {
        return None;
    }
    if option(options, CLIENT)? != identifier(hardware) {
        return None;
    }
    let address = option(option(options, ASSOCIATION)?.get(12..)?, ADDRESS)?;
    // One that is not valid any more is not given but taken.
    let valid = address.get(20..24)?;
    let octets: [u8; 16] = address.get(..16)?.try_into().ok()?;
    (valid != [0; 4]).then(|| Ipv6Addr::from(octets))
}

fn option(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (head, rest) = bytes.split_at_checked(4)?;
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let (value, rest) = rest.split_at_checked(length)?;
        if head[..2] == wanted.to_be_bytes() {
            return Some(value);
        }
        bytes = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HARDWARE: [u8; 6] = [0x0a, 1, 2, 3, 4, 5];

    fn reply(valid: u8) -> Vec<u8> {
        let mut bytes = vec![REPLY, 1, 2, 3, 0, 1, 0, 10, 0, 3, 0, 1, 0x0a, 1, 2, 3, 4, 5];
        bytes.extend([0, 14, 0, 0, 0, 3, 0, 40, 2, 3, 4, 5, 0, 0, 0, 70, 0, 0, 0, 112]);
        bytes.extend([0, 5, 0, 24, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        bytes.extend([0, 0, 0, 140, 0, 0, 1, valid]);
        if valid == 0 {
            let end = bytes.len() - 2;
            bytes[end] = 0;
        }
        bytes
    }

    #[test]
    fn a_reply_is_read() {
        let good = reply(194);
        assert_eq!(parse(&good, [1, 2, 3], HARDWARE), Some("fd00::7".parse().unwrap()));
        assert_eq!(parse(&good, [1, 2, 4], HARDWARE), None, "another transaction");
        assert_eq!(parse(&good, [1, 2, 3], [0; 6]), None, "another machine");
        assert_eq!(parse(&reply(0), [1, 2, 3], HARDWARE), None, "an address that is over");
        assert_eq!(parse(&solicit([1, 2, 3], HARDWARE), [1, 2, 3], HARDWARE), None, "a client");
        for end in 0..good.len() {
            assert_eq!(parse(&good[..end], [1, 2, 3], HARDWARE), None, "{end}");
        }
    }

    #[test]
    fn only_managed_addresses_are_asked_for() {
        let mut advertisement = [0; 16];
        advertisement[0] = ADVERTISEMENT;
        assert!(!is_managed(&advertisement));
        advertisement[5] = MANAGED;
        assert!(is_managed(&advertisement));
        assert!(!is_managed(&advertisement[..15]));
    }
}
