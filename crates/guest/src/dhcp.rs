//! A DHCP client (RFC 2131): one DISCOVER–OFFER–REQUEST–ACK, or one REQUEST–ACK to renew.
//!
//! It talks through a packet socket, since the interface has no address yet. It does not probe for
//! conflicts or release: the region decides addresses, and one belongs to a machine for life.

use crate::sys::PacketSocket;
use std::io;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;

const COOKIE: [u8; 4] = [0x63, 0x82, 0x53, 0x63];
/// Bytes of a DHCP message before its options, cookie included.
const FIXED: usize = 240;

/// What a server gave us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) address: Ipv4Addr,
    pub(crate) mask: Ipv4Addr,
    pub(crate) router: Option<Ipv4Addr>,
    pub(crate) resolvers: Vec<Ipv4Addr>,
    pub(crate) domain: Option<String>,
    pub(crate) hostname: Option<String>,
    pub(crate) mtu: Option<u16>,
    pub(crate) server: Ipv4Addr,
    pub(crate) duration: Duration,
}

/// A message from a server.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    kind: u8,
    lease: Lease,
}

/// Asks until a server answers or `patience` is over.
///
/// # Errors
/// `TimedOut` when nobody answered, `ConnectionRefused` when the server withdrew its offer, and what
/// the socket reports.
pub(crate) fn acquire(
    socket: &PacketSocket,
    hardware: [u8; 6],
    transaction: u32,
    patience: Duration,
) -> io::Result<Lease> {
    let end = Instant::now() + patience;
    let discover = message(hardware, transaction, DISCOVER, None);
    let offer = exchange(socket, &discover, hardware, transaction, OFFER, end)?;
    request(socket, hardware, transaction, &offer, end)
}

/// Confirms a lease that was offered or is held.
///
/// # Errors
/// As [`acquire`].
pub(crate) fn request(
    socket: &PacketSocket,
    hardware: [u8; 6],
    transaction: u32,
    lease: &Lease,
    end: Instant,
) -> io::Result<Lease> {
    let request = message(hardware, transaction, REQUEST, Some((lease.address, lease.server)));
    exchange(socket, &request, hardware, transaction, ACK, end)
}

/// Sends `packet` until the wanted answer comes: after 100 ms at first, since a boot waits for it,
/// then less and less often.
fn exchange(
    socket: &PacketSocket,
    packet: &[u8],
    hardware: [u8; 6],
    transaction: u32,
    wanted: u8,
    end: Instant,
) -> io::Result<Lease> {
    let mut pause = Duration::from_millis(100);
    let mut buffer = [0; 2048];
    loop {
        socket.broadcast(packet)?;
        let resend = (Instant::now() + pause).min(end);
        while let Some(left) = resend.checked_duration_since(Instant::now()) {
            let Some(size) = socket.receive(&mut buffer, left)? else { break };
            match parse(&buffer[..size], hardware, transaction) {
                Some(answer) if answer.kind == wanted => return Ok(answer.lease),
                Some(answer) if answer.kind == NAK => {
                    return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
                }
                _ => {}
            }
        }
        if Instant::now() >= end {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        pause = (pause * 2).min(Duration::from_secs(4));
    }
}

/// An IPv4 packet with a client's message, broadcast flag set.
fn message(
    hardware: [u8; 6],
    transaction: u32,
    kind: u8,
    wanted: Option<(Ipv4Addr, Ipv4Addr)>,
) -> Vec<u8> {
    let mut dhcp = vec![0; FIXED];
    dhcp[..4].copy_from_slice(&[1, 1, 6, 0]);
    dhcp[4..8].copy_from_slice(&transaction.to_be_bytes());
    dhcp[10] = 0x80;
    dhcp[28..34].copy_from_slice(&hardware);
    dhcp[236..FIXED].copy_from_slice(&COOKIE);
    dhcp.extend([53, 1, kind]);
    if let Some((address, server)) = wanted {
        dhcp.extend([50, 4]);
        dhcp.extend(address.octets());
        dhcp.extend([54, 4]);
        dhcp.extend(server.octets());
    }
    // Mask, router, resolvers, host name, domain, MTU.
    dhcp.extend([55, 6, 1, 3, 6, 12, 15, 26]);
    dhcp.push(255);

    let length = 28 + dhcp.len() as u16;
    let mut packet = vec![0; 28];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[8] = 64;
    packet[9] = 17;
    packet[16..20].fill(255);
    let sum = checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet[20..22].copy_from_slice(&68u16.to_be_bytes());
    packet[22..24].copy_from_slice(&67u16.to_be_bytes());
    // The UDP checksum stays zero, which means none.
    packet[24..26].copy_from_slice(&(length - 20).to_be_bytes());
    packet.extend(dhcp);
    packet
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Reads an IPv4 packet; `None` if it is not a server's answer to this transaction.
fn parse(packet: &[u8], hardware: [u8; 6], transaction: u32) -> Option<Answer> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    if packet[0] >> 4 != 4 || header < 20 || *packet.get(9)? != 17 {
        return None;
    }
    let udp = packet.get(header..)?;
    if udp.get(..4)? != [0, 67, 0, 68] {
        return None;
    }
    let dhcp = udp.get(8..)?;
    if dhcp.len() < FIXED
        || dhcp[0] != 2
        || dhcp[4..8] != transaction.to_be_bytes()
        || dhcp[28..34] != hardware
        || dhcp[236..FIXED] != COOKIE
    {
        return None;
    }
    let mut kind = None;
    let mut lease = Lease {
        address: address(&dhcp[16..20])?,
        mask: Ipv4Addr::new(255, 255, 255, 0),
        router: None,
        resolvers: Vec::new(),
        domain: None,
        hostname: None,
        mtu: None,
        server: address(&dhcp[20..24])?,
        duration: Duration::from_secs(3600),
    };
    let mut options = &dhcp[FIXED..];
    while let [code, rest @ ..] = options {
        match code {
            0 => {
                options = rest;
                continue;
            }
            255 => break,
            _ => {}
        }
        let (length, rest) = rest.split_first()?;
        let (value, rest) = rest.split_at_checked(usize::from(*length))?;
        options = rest;
        match code {
            1 => lease.mask = address(value)?,
            3 => lease.router = address(value),
            6 => lease.resolvers = value.chunks_exact(4).filter_map(address).collect(),
            12 => lease.hostname = name(value),
            15 => lease.domain = name(value),
            26 => {
                lease.mtu = value.try_into().ok().map(u16::from_be_bytes).filter(|mtu| *mtu >= 576)
            }
            51 => {
                let seconds = u32::from_be_bytes(value.try_into().ok()?);
                lease.duration = Duration::from_secs(u64::from(seconds));
            }
            53 => kind = value.first().copied(),
            54 => lease.server = address(value)?,
            _ => {}
        }
    }
    Some(Answer { kind: kind?, lease })
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
    Some(Ipv4Addr::from(octets))
}

/// A host or domain name; anything that is not one is ignored, because it ends up in files.
fn name(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?.trim_end_matches('\0');
    crate::network::is_name(text).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HARDWARE: [u8; 6] = [0x0a, 1, 2, 3, 4, 5];

    fn answer(options: &[u8]) -> Vec<u8> {
        let mut packet = message(HARDWARE, 7, DISCOVER, None);
        packet[20..24].copy_from_slice(&[0, 67, 0, 68]);
        packet[28] = 2;
        packet[28 + 16..28 + 20].copy_from_slice(&[172, 31, 5, 7]);
        packet.truncate(28 + FIXED);
        packet.extend(options);
        packet
    }

    #[test]
    fn a_full_answer_is_read() {
        let packet = answer(&[
            53, 1, OFFER, 0, 1, 4, 255, 255, 240, 0, 3, 4, 172, 31, 0, 1, 6, 4, 172, 31, 0, 2, 51,
            4, 0, 0, 14, 16, 54, 4, 172, 31, 0, 1, 26, 2, 5, 220, 12, 3, b'a', b'-', b'b', 15, 12,
            b'e', b'c', b'2', b'.', b'i', b'n', b't', b'e', b'r', b'n', b'a', b'l', 255, 9, 9,
        ]);
        let answer = parse(&packet, HARDWARE, 7).unwrap();
        assert_eq!(answer.kind, OFFER);
        assert_eq!(
            answer.lease,
            Lease {
                address: Ipv4Addr::new(172, 31, 5, 7),
                mask: Ipv4Addr::new(255, 255, 240, 0),
                router: Some(Ipv4Addr::new(172, 31, 0, 1)),
                resolvers: vec![Ipv4Addr::new(172, 31, 0, 2)],
                domain: Some("ec2.internal".into()),
                hostname: Some("a-b".into()),
                mtu: Some(1500),
                server: Ipv4Addr::new(172, 31, 0, 1),
                duration: Duration::from_secs(3600),
            }
        );
    }

    #[test]
    fn what_is_not_for_us_is_ignored() {
        let good = answer(&[53, 1, ACK, 255]);
        assert!(parse(&good, HARDWARE, 7).is_some());
        assert!(parse(&good, HARDWARE, 8).is_none(), "another transaction");
        assert!(parse(&good, [0; 6], 7).is_none(), "another machine");
        assert!(parse(&message(HARDWARE, 7, DISCOVER, None), HARDWARE, 7).is_none(), "a client");
        assert!(parse(&answer(&[255]), HARDWARE, 7).is_none(), "no message type");
    }

    #[test]
    fn truncated_packets_and_hostile_names_do_no_harm() {
        let packet =
            answer(&[53, 1, ACK, 12, 6, b'a', b'\n', b'b', b' ', b'c', b'd', 1, 4, 255, 255]);
        for end in 0..packet.len() {
            let _ = parse(&packet[..end], HARDWARE, 7);
        }
        let packet = answer(&[53, 1, ACK, 12, 3, b'a', b'\n', b'b', 255]);
        assert_eq!(parse(&packet, HARDWARE, 7).unwrap().lease.hostname, None);
    }

    #[test]
    fn a_message_has_a_right_header_checksum() {
        let packet =
            message(HARDWARE, 1, REQUEST, Some((Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST)));
        assert_eq!(checksum(&packet[..20]), 0);
        assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len());
    }
}
