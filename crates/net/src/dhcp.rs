//! DHCP (RFC 2131, 2132): one client a link, one address a client.
//!
//! ```text
//!  DISCOVER ─► OFFER      REQUEST for our address ─► ACK      REQUEST for another ─► NAK
//!  INFORM   ─► ACK without a lease                  DECLINE, RELEASE, anything else ─► silence
//! ```
//!
//! There is no lease state: an interface has its address for as long as it is in the plan, and the
//! lease time only makes guests ask again. Pure: bytes and a [`Lease`] in, an [`Answer`] out.

use std::net::Ipv4Addr;

/// How long a guest may use its address before it asks again, seconds; as EC2 says.
pub const LEASE_SECONDS: u32 = 3600;

/// Port of servers.
pub const SERVER_PORT: u16 = 67;
/// Port of clients.
pub const CLIENT_PORT: u16 = 68;

const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Length of the fixed part and the cookie.
const FIXED: usize = 240;

/// What the client on a link is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Hardware address; no other client on the link is answered.
    pub mac: [u8; 6],
    /// The interface's private address.
    pub address: Ipv4Addr,
    /// Of the subnet.
    pub netmask: Ipv4Addr,
    /// The subnet's router, which is also the name of this server.
    pub router: Ipv4Addr,
    /// Resolvers; empty tells none.
    pub resolvers: Vec<Ipv4Addr>,
    /// Time servers; empty tells none.
    pub time_servers: Vec<Ipv4Addr>,
    /// NetBIOS name servers; empty tells none.
    pub netbios_servers: Vec<Ipv4Addr>,
    /// NetBIOS node type, 1, 2, 4 or 8.
    pub netbios_kind: Option<u8>,
    /// Short host name.
    pub host: String,
    /// Domain name.
    pub domain: Option<String>,
    /// Largest IP packet, bytes.
    pub mtu: u16,
}

/// What a client asks, of the message types that exist for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Discover,
    Request,
    Decline,
    Release,
    Inform,
}

/// What the server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reply {
    Offer = 2,
    Ack = 5,
    Nak = 6,
}

#[derive(Debug)]
struct Request {
    kind: Kind,
    transaction: [u8; 4],
    flags: [u8; 2],
    /// Address that the client uses already; zero if none.
    client: Ipv4Addr,
    mac: [u8; 6],
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    /// Client identifier, to be repeated (RFC 6842).
    identifier: Option<Vec<u8>>,
}

/// A datagram to send from the server's port to the client's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Address of the client, or broadcast on its link.
    pub to: Ipv4Addr,
    /// The message.
    pub bytes: Vec<u8>,
}

/// The answer to a datagram on the link that `lease` is for; `None` is silence.
pub fn answer(datagram: &[u8], lease: &Lease) -> Option<Answer> {
    let request = parse(datagram)?;
    if request.mac != lease.mac {
        return None;
    }
    if request.server.is_some_and(|server| server != lease.router) {
        // The client chose another server: it will find out.
        return None;
    }
    let claimed = request.requested.unwrap_or(request.client);
    let reply = match request.kind {
        Kind::Discover => Reply::Offer,
        Kind::Request if claimed == lease.address => Reply::Ack,
        Kind::Request => Reply::Nak,
        Kind::Inform => Reply::Ack,
        Kind::Decline | Kind::Release => return None,
    };
    let inform = request.kind == Kind::Inform;
    if inform && request.client != lease.address {
        return None;
    }
    let broadcast = request.flags[0] & 0x80 != 0;
    let to = match reply {
        Reply::Nak => Ipv4Addr::BROADCAST,
        _ if request.client == lease.address => request.client,
        _ if broadcast => Ipv4Addr::BROADCAST,
        _ => lease.address,
    };
    Some(Answer { to, bytes: write(&request, reply, lease, inform) })
}

fn parse(datagram: &[u8]) -> Option<Request> {
    let (fixed, mut options) = datagram.split_at_checked(FIXED)?;
    // A request, Ethernet, six bytes of address, no relay.
    if fixed[..3] != [1, 1, 6] || fixed[24..28] != [0; 4] || fixed[236..] != COOKIE {
        return None;
    }
    let mut kind = None;
    let (mut requested, mut server, mut identifier) = (None, None, None);
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
            50 => requested = Some(address(value)?),
            53 => {
                kind = Some(match value {
                    [1] => Kind::Discover,
                    [3] => Kind::Request,
                    [4] => Kind::Decline,
                    [7] => Kind::Release,
                    [8] => Kind::Inform,
                    _ => return None,
                });
            }
            54 => server = Some(address(value)?),
            61 => identifier = Some(value.to_owned()),
            _ => {}
        }
    }
    Some(Request {
        kind: kind?,
        transaction: fixed[4..8].try_into().ok()?,
        flags: fixed[10..12].try_into().ok()?,
        client: address(&fixed[12..16])?,
        mac: fixed[28..34].try_into().ok()?,
        requested,
        server,
        identifier,
    })
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}

fn write(request: &Request, reply: Reply, lease: &Lease, inform: bool) -> Vec<u8> {
    let mut bytes = vec![0; FIXED];
    bytes[..3].copy_from_slice(&[2, 1, 6]);
    bytes[4..8].copy_from_slice(&request.transaction);
    bytes[10..12].copy_from_slice(&request.flags);
    if reply != Reply::Nak {
        bytes[12..16].copy_from_slice(&request.client.octets());
    }
    if reply != Reply::Nak && !inform {
        bytes[16..20].copy_from_slice(&lease.address.octets());
    }
    bytes[28..34].copy_from_slice(&request.mac);
    bytes[236..240].copy_from_slice(&COOKIE);
    let mut option = |code: u8, value: &[u8]| {
        if let Ok(length) = u8::try_from(value.len()) {
            bytes.extend([code, length]);
            bytes.extend(value);
        }
    };
    option(53, &[reply as u8]);
    option(54, &lease.router.octets());
    if let Some(identifier) = &request.identifier {
        option(61, identifier);
    }
    if reply != Reply::Nak {
        if !inform {
            option(51, &LEASE_SECONDS.to_be_bytes());
            option(58, &(LEASE_SECONDS / 2).to_be_bytes());
            option(59, &(LEASE_SECONDS / 8 * 7).to_be_bytes());
        }
        option(1, &lease.netmask.octets());
        option(3, &lease.router.octets());
        let domain = lease.domain.as_deref().unwrap_or_default();
        let told = [
            (6, list(&lease.resolvers)),
            (12, lease.host.as_bytes().to_vec()),
            (15, domain.as_bytes().to_vec()),
            (26, lease.mtu.to_be_bytes().to_vec()),
            (42, list(&lease.time_servers)),
            (44, list(&lease.netbios_servers)),
            (46, Vec::from_iter(lease.netbios_kind)),
        ];
        told.iter().filter(|(_, value)| !value.is_empty()).for_each(|(code, value)| {
            option(*code, value);
        });
    }
    bytes.push(255);
    // Some clients drop what is shorter than BOOTP's 300 bytes.
    bytes.resize(bytes.len().max(300), 0);
    bytes
}

fn list(addresses: &[Ipv4Addr]) -> Vec<u8> {
    addresses.iter().flat_map(Ipv4Addr::octets).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lease() -> Lease {
        Lease {
            mac: [10, 0, 0, 0, 0, 1],
            address: Ipv4Addr::new(172, 31, 0, 5),
            netmask: Ipv4Addr::new(255, 255, 240, 0),
            router: Ipv4Addr::new(172, 31, 0, 1),
            resolvers: vec![Ipv4Addr::new(172, 31, 0, 2)],
            time_servers: Vec::new(),
            netbios_servers: Vec::new(),
            netbios_kind: None,
            host: "ip-172-31-0-5".into(),
            domain: Some("ec2.internal".into()),
            mtu: 1500,
        }
    }

    fn request(kind: u8, client: [u8; 4], options: &[(u8, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; FIXED];
        bytes[..3].copy_from_slice(&[1, 1, 6]);
        bytes[4..8].copy_from_slice(&[1, 2, 3, 4]);
        bytes[12..16].copy_from_slice(&client);
        bytes[28..34].copy_from_slice(&lease().mac);
        bytes[236..].copy_from_slice(&COOKIE);
        bytes.extend([53, 1, kind]);
        for (code, value) in options {
            bytes.extend([*code, u8::try_from(value.len()).unwrap()]);
            bytes.extend(*value);
        }
        bytes.push(255);
        bytes
    }

    fn option(bytes: &[u8], wanted: u8) -> Option<Vec<u8>> {
        let mut rest = &bytes[FIXED..];
        while let [code, length, tail @ ..] = rest {
            if *code == 255 {
                break;
            }
            let (value, tail) = tail.split_at(usize::from(*length));
            if *code == wanted {
                return Some(value.to_owned());
            }
            rest = tail;
        }
        None
    }

    #[test]
    fn discover_is_offered_everything() {
        let Answer { to, bytes } = answer(&request(1, [0; 4], &[]), &lease()).unwrap();
        assert_eq!(to, lease().address);
        assert_eq!(bytes[..8], [2, 1, 6, 0, 1, 2, 3, 4]);
        assert_eq!(bytes[16..20], [172, 31, 0, 5]);
        assert_eq!(option(&bytes, 53).unwrap(), [2]);
        assert_eq!(option(&bytes, 54).unwrap(), [172, 31, 0, 1]);
        assert_eq!(option(&bytes, 51).unwrap(), [0, 0, 14, 16]);
        assert_eq!(option(&bytes, 1).unwrap(), [255, 255, 240, 0]);
        assert_eq!(option(&bytes, 3).unwrap(), [172, 31, 0, 1]);
        assert_eq!(option(&bytes, 6).unwrap(), [172, 31, 0, 2]);
        assert_eq!(option(&bytes, 12).unwrap(), b"ip-172-31-0-5");
        assert_eq!(option(&bytes, 15).unwrap(), b"ec2.internal");
        assert_eq!(option(&bytes, 26).unwrap(), [5, 220]);
        assert!(bytes.len() >= 300);
        assert!([42, 44, 46].iter().all(|code| option(&bytes, *code).is_none()));
    }

    #[test]
    fn what_the_options_say_is_told() {
        let lease = Lease {
            resolvers: vec![Ipv4Addr::new(10, 2, 5, 1), Ipv4Addr::new(10, 2, 5, 2)],
            time_servers: vec![Ipv4Addr::new(10, 2, 5, 1)],
            netbios_servers: vec![Ipv4Addr::new(10, 2, 5, 3)],
            netbios_kind: Some(2),
            domain: None,
            ..lease()
        };
        let Answer { bytes, .. } = answer(&request(1, [0; 4], &[]), &lease).unwrap();
        assert_eq!(option(&bytes, 6).unwrap(), [10, 2, 5, 1, 10, 2, 5, 2]);
        assert_eq!(option(&bytes, 42).unwrap(), [10, 2, 5, 1]);
        assert_eq!(option(&bytes, 44).unwrap(), [10, 2, 5, 3]);
        assert_eq!(option(&bytes, 46).unwrap(), [2]);
        assert_eq!(option(&bytes, 15), None);
        let silent = Lease { resolvers: Vec::new(), ..lease };
        let Answer { bytes, .. } = answer(&request(1, [0; 4], &[]), &silent).unwrap();
        assert_eq!(option(&bytes, 6), None);
    }

    #[test]
    fn requests_are_acknowledged_or_refused() {
        let said = |bytes: &[u8]| {
            let answer = answer(bytes, &lease())?;
            Some((option(&answer.bytes, 53).unwrap()[0], answer.to))
        };
        let ours = &[172u8, 31, 0, 5][..];
        let server = &[172u8, 31, 0, 1][..];
        let other = &[10u8, 0, 0, 1][..];
        let (unicast, all) = (lease().address, Ipv4Addr::BROADCAST);
        // Selecting, rebooting, renewing.
        assert_eq!(said(&request(3, [0; 4], &[(50, ours), (54, server)])), Some((5, unicast)));
        assert_eq!(said(&request(3, [0; 4], &[(50, ours)])), Some((5, unicast)));
        assert_eq!(said(&request(3, [172, 31, 0, 5], &[])), Some((5, unicast)));
        // Wrong address, wrong server.
        assert_eq!(said(&request(3, [0; 4], &[(50, other), (54, server)])), Some((6, all)));
        assert_eq!(said(&request(3, [10, 0, 0, 1], &[])), Some((6, all)));
        assert_eq!(said(&request(3, [0; 4], &[])), Some((6, all)));
        assert_eq!(said(&request(3, [0; 4], &[(50, ours), (54, other)])), None);
        // Inform, decline, release, server's words.
        assert_eq!(said(&request(8, [172, 31, 0, 5], &[])), Some((5, unicast)));
        for kind in [0, 2, 4, 5, 6, 7, 9] {
            assert_eq!(said(&request(kind, [172, 31, 0, 5], &[])), None, "{kind}");
        }
        let mut loud = request(1, [0; 4], &[]);
        loud[10] = 0x80;
        assert_eq!(said(&loud), Some((2, all)));
        let mut stranger = request(1, [0; 4], &[]);
        stranger[33] = 9;
        assert_eq!(said(&stranger), None);
        let mut relayed = request(1, [0; 4], &[]);
        relayed[24] = 10;
        assert_eq!(said(&relayed), None);
    }

    #[test]
    fn corpus() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/dhcp");
        let mut count = 0;
        for entry in std::fs::read_dir(directory).unwrap() {
            let _ = answer(&std::fs::read(entry.unwrap().path()).unwrap(), &lease());
            count += 1;
        }
        assert!(count >= 5, "{directory} is empty");
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes: Vec<u8>) {
            let _ = answer(&bytes, &lease());
        }

        #[test]
        fn random_options_never_panic(options: Vec<u8>, at in 0usize..240, byte: u8) {
            let mut bytes = request(1, [0; 4], &[]);
            bytes.truncate(FIXED);
            bytes.extend(options);
            let _ = answer(&bytes, &lease());
            bytes[at] = byte;
            let _ = answer(&bytes, &lease());
        }
    }
}
