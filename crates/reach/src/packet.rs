//! A packet, as much of it as anything in a network decides by.

use base::network::Protocol;
use std::fmt;
use std::net::IpAddr;

/// A packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// What is in it.
    pub traffic: Traffic,
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Traffic {
    /// TCP between two ports.
    Tcp { source: u16, destination: u16 },
    /// UDP between two ports.
    Udp { source: u16, destination: u16 },
    /// ICMP of IPv4.
    Icmp { kind: u8, code: u8 },
    /// ICMP of IPv6.
    Icmpv6 { kind: u8, code: u8 },
    /// Another protocol, by number.
    Other(u8),
}

impl Traffic {
    /// The protocol's number.
    pub fn number(self) -> u8 {
        match self {
            Traffic::Tcp { .. } => 6,
            Traffic::Udp { .. } => 17,
            Traffic::Icmp { .. } => 1,
            Traffic::Icmpv6 { .. } => 58,
            Traffic::Other(number) => number,
        }
    }

    /// What answers it; `None` for an ICMP message that nobody answers.
    pub fn reply(self) -> Option<Traffic> {
        Some(match self {
            Traffic::Tcp { source, destination } => {
                Traffic::Tcp { source: destination, destination: source }
            }
            Traffic::Udp { source, destination } => {
                Traffic::Udp { source: destination, destination: source }
            }
            // Echo, timestamp, information, address mask (RFC 792, RFC 950).
            Traffic::Icmp { kind: 8, code } => Traffic::Icmp { kind: 0, code },
            Traffic::Icmp { kind: kind @ (13 | 15 | 17), code } => {
                Traffic::Icmp { kind: kind + 1, code }
            }
            Traffic::Icmp { .. } => return None,
            Traffic::Icmpv6 { kind: 128, code } => Traffic::Icmpv6 { kind: 129, code },
            Traffic::Icmpv6 { .. } => return None,
            Traffic::Other(number) => Traffic::Other(number),
        })
    }

    /// Whether a rule for `protocol` speaks of it. Ports are those of the destination.
    pub fn is(self, protocol: Protocol) -> bool {
        match (protocol, self) {
            (Protocol::All, _) => true,
            (Protocol::Tcp { from, to }, Traffic::Tcp { destination, .. })
            | (Protocol::Udp { from, to }, Traffic::Udp { destination, .. }) => {
                (from..=to).contains(&destination)
            }
            (Protocol::Icmp { kind, code }, Traffic::Icmp { kind: k, code: c })
            | (Protocol::Icmpv6 { kind, code }, Traffic::Icmpv6 { kind: k, code: c }) => {
                kind.is_none_or(|kind| kind == k) && code.is_none_or(|code| code == c)
            }
            (Protocol::Number(number), traffic) => number == traffic.number(),
            _ => false,
        }
    }
}

impl Packet {
    /// What the receiver answers; `None` when it does not.
    pub fn reply(self) -> Option<Packet> {
        let traffic = self.traffic.reply()?;
        Some(Packet { source: self.destination, destination: self.source, traffic })
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {} {:?}", self.source, self.destination, self.traffic)
    }
}
