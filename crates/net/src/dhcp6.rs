//! DHCPv6 (RFC 8415): one client a link, one address a client.
//!
//! ```text
//!  SOLICIT ─► ADVERTISE       SOLICIT with rapid commit, REQUEST, RENEW, REBIND ─► REPLY
//!  CONFIRM ─► REPLY: is it your address?     RELEASE, DECLINE, INFORMATION-REQUEST ─► REPLY
//!  a message to another server, or anything else ─► silence
//! ```
//!
//! As with IPv4 there is no lease state: an interface has its address for as long as it is in the
//! plan. The link says who asks, and the guard of the rules says that it is its owner. Prefixes are
//! not delegated this way (EC2 tells them by instance metadata). Pure: bytes and a [`Lease`] in,
//! bytes out.

use crate::dns;
use std::net::Ipv6Addr;

/// Port of servers.
pub const SERVER_PORT: u16 = 547;
/// Port of clients.
pub const CLIENT_PORT: u16 = 546;
/// Where clients look for servers.
pub const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// The preferred lifetime that EC2 gives unless the options say another, seconds.
pub const PREFERRED_SECONDS: u32 = 140;
/// How much longer an address is valid than preferred; as on EC2, seconds.
const GRACE: u32 = 310;
/// Associations of one message that are answered; a client has one.
const ASSOCIATIONS: usize = 8;

const CLIENT: u16 = 1;
const SERVER: u16 = 2;
const ASSOCIATION: u16 = 3;
const ADDRESS: u16 = 5;
const STATUS: u16 = 13;
const RAPID_COMMIT: u16 = 14;
const RESOLVERS: u16 = 23;
const DOMAINS: u16 = 24;
const PREFIXES: u16 = 25;
const TIME: u16 = 56;

/// What the client on a link is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The interface's first IPv6 address.
    pub address: Ipv6Addr,
    /// Preferred lifetime, seconds.
    pub preferred: u32,
    /// Resolvers; empty tells none.
    pub resolvers: Vec<Ipv6Addr>,
    /// Time servers; empty tells none.
    pub time_servers: Vec<Ipv6Addr>,
    /// Domain name.
    pub domain: Option<String>,
    /// This server: its hardware address.
    pub server: [u8; 6],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Solicit,
    Request,
    Confirm,
    Renew,
    Rebind,
    Release,
    Decline,
    Inform,
}

#[derive(Clone, Copy, Debug)]
enum Status {
    Success = 0,
    NoAddress = 2,
    NotOnLink = 4,
    NoPrefix = 6,
}

#[derive(Debug)]
struct Request<'a> {
    kind: Kind,
    transaction: &'a [u8],
    client: Option<&'a [u8]>,
    server: Option<&'a [u8]>,
    rapid: bool,
    /// Identity associations: identifier and the addresses that the client has or wants.
    associations: Vec<(&'a [u8], Vec<Ipv6Addr>)>,
    /// Identifiers of those for prefixes.
    prefixes: Vec<&'a [u8]>,
}

/// The answer to a datagram on the link that `lease` is for; `None` is silence.
pub fn answer(datagram: &[u8], lease: &Lease) -> Option<Vec<u8>> {
    let request = parse(datagram)?;
    let ours = server_identifier(lease);
    // Who must name a server, and who must not (RFC 8415, section 16).
    let addressed = match request.kind {
        Kind::Solicit | Kind::Confirm | Kind::Rebind => request.server.is_none(),
        Kind::Inform => request.server.is_none_or(|server| server == ours),
        Kind::Request | Kind::Renew | Kind::Release | Kind::Decline => {
            request.server == Some(&ours[..])
        }
    };
    if !addressed || request.client.is_none() && request.kind != Kind::Inform {
        return None;
    }
    let wanted: Vec<Ipv6Addr> =
        request.associations.iter().flat_map(|(_, addresses)| addresses.clone()).collect();
    if request.kind == Kind::Confirm && wanted.is_empty() {
        return None;
    }
    let advertise = request.kind == Kind::Solicit && !request.rapid;
    let mut bytes = vec![if advertise { 2 } else { 7 }];
    bytes.extend(request.transaction);
    if let Some(client) = request.client {
        option(&mut bytes, CLIENT, client);
    }
    option(&mut bytes, SERVER, &ours);
    match request.kind {
        Kind::Confirm => {
            let all = wanted.iter().all(|address| *address == lease.address);
            status(&mut bytes, if all { Status::Success } else { Status::NotOnLink });
        }
        Kind::Release | Kind::Decline => status(&mut bytes, Status::Success),
        Kind::Inform => {}
        Kind::Solicit | Kind::Request | Kind::Renew | Kind::Rebind => {
            if request.kind == Kind::Solicit && request.rapid {
                option(&mut bytes, RAPID_COMMIT, &[]);
            }
            for (number, (identifier, addresses)) in request.associations.iter().enumerate() {
                association(&mut bytes, identifier, addresses, (number == 0).then_some(lease));
            }
            for identifier in &request.prefixes {
                let mut value = [identifier, &[0; 8][..]].concat();
                status(&mut value, Status::NoPrefix);
                option(&mut bytes, PREFIXES, &value);
            }
        }
    }
    if !matches!(request.kind, Kind::Confirm | Kind::Release | Kind::Decline) {
        settings(&mut bytes, lease);
    }
    Some(bytes)
}

/// An identifier of the kind that is made of a hardware address (section 11.4).
fn server_identifier(lease: &Lease) -> [u8; 10] {
    let [a, b, c, d, e, f] = lease.server;
    [0, 3, 0, 1, a, b, c, d, e, f]
}

/// `lease` goes to the first association; others get nothing.
fn association(
    bytes: &mut Vec<u8>,
    identifier: &[u8],
    addresses: &[Ipv6Addr],
    lease: Option<&Lease>,
) {
    let mut value = identifier.to_vec();
    let Some(lease) = lease else {
        value.extend([0; 8]);
        status(&mut value, Status::NoAddress);
        option(bytes, ASSOCIATION, &value);
        return;
    };
    value.extend((lease.preferred / 2).to_be_bytes());
    value.extend((lease.preferred / 5 * 4).to_be_bytes());
    let mut put = |address: &Ipv6Addr, preferred: u32, valid: u32| {
        let times = [preferred.to_be_bytes(), valid.to_be_bytes()].concat();
        option(&mut value, ADDRESS, &[&address.octets()[..], &times].concat());
    };
    put(&lease.address, lease.preferred, lease.preferred.saturating_add(GRACE));
    // What the client had and may not keep.
    for address in addresses.iter().filter(|address| **address != lease.address) {
        put(address, 0, 0);
    }
    option(bytes, ASSOCIATION, &value);
}

fn settings(bytes: &mut Vec<u8>, lease: &Lease) {
    let list = |addresses: &[Ipv6Addr]| -> Vec<u8> {
        addresses.iter().flat_map(Ipv6Addr::octets).collect()
    };
    if !lease.resolvers.is_empty() {
        option(bytes, RESOLVERS, &list(&lease.resolvers));
    }
    if let Some(domain) = &lease.domain {
        let mut value = Vec::new();
        domain.split_whitespace().for_each(|domain| dns::name(&mut value, domain));
        option(bytes, DOMAINS, &value);
    }
    if !lease.time_servers.is_empty() {
        let mut value = Vec::new();
        for address in &lease.time_servers {
            // Suboption 1: an address (RFC 5908).
            option(&mut value, 1, &address.octets());
        }
        option(bytes, TIME, &value);
    }
}

fn status(bytes: &mut Vec<u8>, status: Status) {
    option(bytes, STATUS, &(status as u16).to_be_bytes());
}

fn option(bytes: &mut Vec<u8>, code: u16, value: &[u8]) {
    if let Ok(length) = u16::try_from(value.len()) {
        bytes.extend(code.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes.extend(value);
    }
}

fn parse(datagram: &[u8]) -> Option<Request<'_>> {
    let (head, options) = datagram.split_at_checked(4)?;
    let kind = match head[0] {
        1 => Kind::Solicit,
        3 => Kind::Request,
        4 => Kind::Confirm,
        5 => Kind::Renew,
        6 => Kind::Rebind,
        8 => Kind::Release,
        9 => Kind::Decline,
        11 => Kind::Inform,
        _ => return None,
    };
    let mut request = Request {
        kind,
        transaction: &head[1..],
        client: None,
        server: None,
        rapid: false,
        associations: Vec::new(),
        prefixes: Vec::new(),
    };
    for (code, value) in read_options(options)? {
        match code {
            // The longest identifier there may be (section 11.1).
            CLIENT if (3..=130).contains(&value.len()) => request.client = Some(value),
            CLIENT => return None,
            SERVER => request.server = Some(value),
            RAPID_COMMIT => request.rapid = true,
            ASSOCIATION if request.associations.len() < ASSOCIATIONS => {
                let (fixed, inner) = value.split_at_checked(12)?;
                let inner = read_options(inner)?;
                let addresses = inner.iter().filter(|(code, _)| *code == ADDRESS);
                let addresses = addresses
                    .filter_map(|(_, value)| Some(Ipv6Addr::from(*value.first_chunk::<16>()?)));
                request.associations.push((&fixed[..4], addresses.take(ASSOCIATIONS).collect()));
            }
            PREFIXES if request.prefixes.len() < ASSOCIATIONS => {
                request.prefixes.push(value.get(..4)?);
            }
            _ => {}
        }
    }
    Some(request)
}

fn read_options(mut bytes: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut options = Vec::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let (value, rest) = rest.split_at_checked(length)?;
        options.push((u16::from_be_bytes([head[0], head[1]]), value));
        bytes = rest;
    }
    Some(options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OURS: [u8; 10] = [0, 3, 0, 1, 2, 0x67, 0x75, 0x72, 0, 1];
    const THEIRS: [u8; 10] = [0, 3, 0, 1, 10, 0, 0, 0, 0, 1];

    fn lease() -> Lease {
        Lease {
            address: "fd00:1::5".parse().unwrap(),
            preferred: PREFERRED_SECONDS,
            resolvers: vec!["fd00:ec2::253".parse().unwrap()],
            time_servers: Vec::new(),
            domain: Some("ec2.internal".into()),
            server: [2, 0x67, 0x75, 0x72, 0, 1],
        }
    }

    /// A message with a client identifier and one association.
    fn message(kind: u8, server: Option<&[u8]>, address: Option<&str>, more: &[u16]) -> Vec<u8> {
        let mut bytes = vec![kind, 1, 2, 3];
        option(&mut bytes, CLIENT, &THEIRS);
        if let Some(server) = server {
            option(&mut bytes, SERVER, server);
        }
        let mut value = vec![0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0];
        if let Some(address) = address {
            let address = address.parse::<Ipv6Addr>().unwrap().octets();
            option(&mut value, ADDRESS, &[&address[..], &[0; 8]].concat());
        }
        option(&mut bytes, ASSOCIATION, &value);
        more.iter().for_each(|code| option(&mut bytes, *code, &[]));
        bytes
    }

    fn find(bytes: &[u8], wanted: u16) -> Option<Vec<u8>> {
        let options = read_options(bytes).unwrap();
        options.iter().find(|(code, _)| *code == wanted).map(|(_, value)| value.to_vec())
    }

    #[test]
    fn an_address_is_given() {
        let advertise = answer(&message(1, None, None, &[]), &lease()).unwrap();
        assert_eq!(advertise[..4], [2, 1, 2, 3]);
        let options = &advertise[4..];
        assert_eq!(find(options, CLIENT).unwrap(), THEIRS);
        assert_eq!(find(options, SERVER).unwrap(), OURS);
        assert_eq!(find(options, RAPID_COMMIT), None);
        assert_eq!(find(options, RESOLVERS).unwrap(), lease().resolvers[0].octets());
        assert_eq!(find(options, DOMAINS).unwrap(), b"\x03ec2\x08internal\0");
        let association = find(options, ASSOCIATION).unwrap();
        assert_eq!(association[..12], [0, 0, 0, 9, 0, 0, 0, 70, 0, 0, 0, 112]);
        let address = find(&association[12..], ADDRESS).unwrap();
        assert_eq!(address[..16], lease().address.octets());
        assert_eq!(address[16..], [0, 0, 0, 140, 0, 0, 1, 194]);

        let rapid = answer(&message(1, None, None, &[RAPID_COMMIT]), &lease()).unwrap();
        assert_eq!(rapid[0], 7);
        assert!(find(&rapid[4..], RAPID_COMMIT).is_some());
        for (kind, server) in [(3, Some(&OURS[..])), (5, Some(&OURS[..])), (6, None)] {
            let reply = answer(&message(kind, server, Some("fd00:1::9"), &[]), &lease()).unwrap();
            assert_eq!(reply[0], 7);
            let association = find(&reply[4..], ASSOCIATION).unwrap();
            let addresses = read_options(&association[12..]).unwrap();
            assert_eq!(addresses.len(), 2, "the right one, and that the other is over");
            assert_eq!(addresses[0].1[..16], lease().address.octets());
            assert_eq!(addresses[1].1[16..], [0; 8]);
        }
    }

    #[test]
    fn addresses_are_confirmed_and_given_back() {
        let told = |kind, server, address| {
            let reply = answer(&message(kind, server, address, &[]), &lease())?;
            find(&reply[4..], STATUS)
        };
        assert_eq!(told(4, None, Some("fd00:1::5")).unwrap(), [0, 0]);
        assert_eq!(told(4, None, Some("fd00:1::6")).unwrap(), [0, 4]);
        assert_eq!(told(4, None, None), None);
        assert_eq!(told(8, Some(&OURS), Some("fd00:1::5")).unwrap(), [0, 0]);
        assert_eq!(told(9, Some(&OURS), Some("fd00:1::5")).unwrap(), [0, 0]);
    }

    #[test]
    fn a_second_association_and_prefixes_get_nothing() {
        let mut bytes = message(1, None, None, &[]);
        option(&mut bytes, ASSOCIATION, &[0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0]);
        option(&mut bytes, PREFIXES, &[0, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0, 0]);
        let advertise = answer(&bytes, &lease()).unwrap();
        let options = read_options(&advertise[4..]).unwrap();
        let status = |code, number: usize| {
            let value = options.iter().filter(|(other, _)| *other == code).nth(number).unwrap().1;
            find(&value[12..], STATUS)
        };
        assert_eq!(status(ASSOCIATION, 0), None);
        assert_eq!(status(ASSOCIATION, 1).unwrap(), [0, 2]);
        assert_eq!(status(PREFIXES, 0).unwrap(), [0, 6]);
    }

    #[test]
    fn what_is_not_for_us_is_not_answered() {
        for kind in 0..=255 {
            let known = [1, 4, 6].contains(&kind);
            let silent = answer(&message(kind, None, Some("fd00:1::5"), &[]), &lease()).is_none();
            assert_eq!(silent, !known && kind != 11, "{kind}");
            let other = message(kind, Some(&THEIRS), Some("fd00:1::5"), &[]);
            assert_eq!(answer(&other, &lease()), None, "{kind}");
        }
        let nobody = [1, 1, 2, 3];
        assert_eq!(answer(&nobody, &lease()), None);
        let inform = answer(&[11, 1, 2, 3], &lease()).unwrap();
        assert!(find(&inform[4..], RESOLVERS).is_some());
        assert_eq!(find(&inform[4..], ASSOCIATION), None);
        let good = message(1, None, None, &[]);
        for length in 5..good.len() {
            let _ = answer(&good[..length], &lease());
        }
    }

    #[test]
    fn corpus() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/dhcp6");
        let mut count = 0;
        for entry in std::fs::read_dir(directory).unwrap() {
            let _ = answer(&std::fs::read(entry.unwrap().path()).unwrap(), &lease());
            count += 1;
        }
        assert!(count >= 5, "{directory} is empty");
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>, kind in 0u8..13) {
            let _ = answer(&bytes, &lease());
            let _ = answer(&[&[kind, 0, 0, 0][..], &bytes].concat(), &lease());
        }

        #[test]
        fn damaged_messages_never_panic(kind in 1u8..12, at: usize, byte: u8) {
            let mut bytes = message(kind, Some(&OURS), Some("fd00:1::5"), &[RAPID_COMMIT]);
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = answer(&bytes, &lease());
        }
    }
}
