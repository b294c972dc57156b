//! What things are called in the kernel, and which names a plan may use.
//!
//! Every text of a plan that ends up in a command or a rule passes [`crate::check`] first, so no
//! identifier can smuggle in a word of nft's or ip's language.

use crate::Error;
use base::Ipv4Cidr;
use base::network::Vpc;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The VPC's end of the link to the host.
pub const UPLINK: &str = "uplink";
/// nftables table inside a VPC's namespace, in the families inet and arp.
pub const TABLE: &str = "vpc";
/// The group of all links of a namespace.
pub const LINK_GROUP: &str = "77";
/// Hardware address of every router side of a tap: guests keep it in their ARP caches, so it must
/// not change when a tap is made again.
pub const ROUTER_MAC: &str = "02:67:75:72:00:01";
/// Hardware addresses of a link between host and VPC.
pub const HOST_MAC: &str = "02:67:75:72:00:02";
/// See [`HOST_MAC`].
pub const UPLINK_MAC: &str = "02:67:75:72:00:03";
/// Host side and VPC side of that link; the same on every link, since only the link uses them.
pub const HOST_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 255, 1);
/// See [`HOST_ADDRESS`].
pub const UPLINK_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 255, 2);

/// The next hop of every link between two of our namespaces, in either direction: only the link uses
/// it, and its neighbour is permanent.
pub const NEXT_HOP: Ipv4Addr = Ipv4Addr::new(169, 254, 255, 3);
/// See [`NEXT_HOP`].
pub const NEXT_HOP_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 3);
/// Next hop from a VPC to the host. Nobody has the address; a permanent neighbour leads to the host.
pub const HOST_ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// Next hop from the host to a VPC, likewise.
pub const UPLINK_ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
/// What VXLAN over IPv4 puts around a guest's packet, bytes (RFC 7348).
pub const VXLAN_HEADERS: u16 = 50;
/// The only link of a NAT gateway's namespace.
pub const GATEWAY_LINK: &str = "eth0";

/// The services' addresses over IPv6: metadata, resolver, time.
pub const SERVICES_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x253),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x123),
];

/// Instance metadata.
pub const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The VPC's resolver, at its link-local address.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 253);
/// Time.
pub const TIME: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 123);

/// The namespace of a VPC or of a gateway.
pub fn namespace(prefix: &str, id: &str) -> String {
    format!("{prefix}-{id}")
}

/// The host's end of the link to a VPC; 15 characters at most (IFNAMSIZ).
pub fn host_link(prefix: &str, vpc_id: &str) -> String {
    format!("{prefix}-{}", tail(vpc_id, 8))
}

/// The host's nftables table.
pub fn host_table(prefix: &str) -> String {
    format!("{prefix}-host")
}

/// The tap of an interface inside its VPC's namespace.
pub fn tap(interface_id: &str) -> String {
    format!("tap{}", tail(interface_id, 12))
}

/// The link of a peering connection, in both VPCs.
pub fn peering_link(peering_id: &str) -> String {
    format!("pcx{}", tail(peering_id, 12))
}

/// The link to a transit gateway in the namespace of a VPC.
pub fn transit_link(transit_gateway_id: &str) -> String {
    format!("tgw{}", tail(transit_gateway_id, 12))
}

/// The link of an attachment in the namespace of a transit gateway.
pub fn attachment_link(attachment_id: &str) -> String {
    format!("att{}", tail(attachment_id, 12))
}

/// The link of a VPC to the other nodes.
pub fn fabric_link(vpc_id: &str) -> String {
    format!("vx{}", tail(vpc_id, 12))
}

/// The hardware address of a node's routers among the nodes.
pub fn node_mac(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:67:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

fn tail(id: &str, length: usize) -> &str {
    let digits = id.rsplit_once('-').map_or(id, |(_, digits)| digits);
    &digits[digits.len().saturating_sub(length)..]
}

/// The router of a subnet: its address +1.
pub fn router(subnet: &Ipv4Cidr) -> Option<Ipv4Addr> {
    subnet.nth(1)
}

/// The resolver of a VPC: the address +2 of its first block.
pub fn resolver(vpc: &Vpc) -> Option<Ipv4Addr> {
    vpc.cidrs.first()?.nth(2)
}

/// Whether `prefix` is 1 to 6 lower-case letters and digits that start with a letter.
pub fn is_prefix(prefix: &str) -> bool {
    (1..=6).contains(&prefix.len())
        && prefix.starts_with(|c: char| c.is_ascii_lowercase())
        && prefix.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

pub(crate) fn is_id(id: &str) -> bool {
    id.rsplit_once('-').is_some_and(|(kind, digits)| {
        (1..=10).contains(&kind.len())
            && kind.starts_with(|c: char| c.is_ascii_lowercase())
            && kind.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
            && (1..=40).contains(&digits.len())
            && digits.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    })
}

pub(crate) fn is_mac(mac: &str) -> bool {
    let first = u8::from_str_radix(mac.get(..2).unwrap_or("ff"), 16).unwrap_or(0xff);
    mac.len() == 17
        && first & 1 == 0
        && mac.split(':').count() == 6
        && mac.split(':').all(|part| {
            part.len() == 2
                && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        })
}

pub(crate) fn is_host_name(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
}

pub(crate) fn require(condition: bool, message: impl FnOnce() -> String) -> Result<(), Error> {
    if condition { Ok(()) } else { Err(Error::Plan(message())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel() {
        assert_eq!(tap("eni-0123456789abcdef0"), "tap56789abcdef0");
        assert_eq!(host_link("gureum", "vpc-0123456789abcdef0"), "gureum-9abcdef0");
        assert_eq!(tap("eni-1"), "tap1");
    }

    #[test]
    fn bad_words_are_refused() {
        for bad in ["", "vpc", "vpc-", "vpc-1;", "vpc-1 2", "VPC-1", "-1", "vpc-{", "vpc-é"] {
            assert!(!is_id(bad), "{bad}");
        }
        for bad in ["", "0a:00:00:00:00", "0A:00:00:00:00:00", "01:00:00:00:00:00", "é:00"] {
            assert!(!is_mac(bad), "{bad}");
        }
        assert!(is_id("tgw-attach-0123456789abcdef0") && !is_id("-a-1"));
        assert!(is_mac("0a:00:00:00:00:01"));
        assert!(
            !is_prefix("gureum7") && !is_prefix("a-b") && !is_prefix("") && is_prefix("gureum")
        );
    }
}
