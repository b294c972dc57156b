//! Router advertisements (RFC 4861): where IPv6 goes, and that addresses come by DHCPv6.
//!
//! There is no prefix in them: an address is on no link but its own, so that a guest sends
//! everything to the router, and makes up no address. Pure: bytes in, bytes out; the kernel adds the
//! checksum.

use std::net::Ipv6Addr;

/// All nodes of a link.
pub(crate) const NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// How long a guest may use this router without hearing of it again, seconds.
const LIFETIME: u16 = 1800;

/// Type of a solicitation.
pub(crate) const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
/// Addresses are managed.
const MANAGED: u8 = 0x80;

/// Whether an ICMPv6 message asks for an advertisement.
pub(crate) fn is_solicitation(message: &[u8]) -> bool {
    message.len() >= 8 && message[..2] == [SOLICITATION, 0]
}

/// An advertisement of the router with this hardware address on a link with this MTU, bytes.
pub(crate) fn advertisement(router: [u8; 6], mtu: u16) -> Vec<u8> {
    // No checksum yet, the hop limit that guests shall use.
    let mut bytes = vec![ADVERTISEMENT, 0, 0, 0, 64, MANAGED];
    bytes.extend(LIFETIME.to_be_bytes());
    // Nothing said about reachability and retransmission.
    bytes.extend([0; 8]);
    // Our hardware address.
    bytes.extend([1, 1]);
    bytes.extend(router);
    bytes.extend([5, 1, 0, 0]);
    bytes.extend(u32::from(mtu).to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advertisement_says_managed_and_no_prefix() {
        let bytes = advertisement([2, 0, 0, 0, 0, 1], 1500);
        assert_eq!(bytes[..8], [134, 0, 0, 0, 64, 0x80, 7, 8]);
        let options: Vec<u8> = bytes[16..].chunks(8).map(|option| option[0]).collect();
        assert_eq!(options, [1, 5]);
        assert!(bytes.ends_with(&[0, 0, 5, 220]));
    }

    #[test]
    fn only_solicitations_are_answered() {
        assert!(is_solicitation(&[133, 0, 0, 0, 0, 0, 0, 0]));
        for other in [&[133, 0, 0, 0][..], &[134, 0, 0, 0, 0, 0, 0, 0], &[133, 1, 0, 0, 0, 0, 0, 0]]
        {
            assert!(!is_solicitation(other));
        }
    }
}
