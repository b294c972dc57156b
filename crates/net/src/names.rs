//! What things are called in the kernel, and which names a plan may use.
//!
//! Every text of a plan that ends up in a command or a rule passes [`check`] first, so no identifier
//! can smuggle in a word of nft's or ip's language.

use crate::Error;
use base::Ipv4Cidr;
use base::network::{Plan, Vpc};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

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

/// Instance metadata.
pub const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The VPC's resolver, at its link-local address.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 253);
/// Time.
pub const TIME: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 123);

/// The namespace of a VPC.
pub fn namespace(prefix: &str, vpc_id: &str) -> String {
    format!("{prefix}-{vpc_id}")
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

fn tail(id: &str, length: usize) -> &str {
    let digits = id.split_once('-').map_or(id, |(_, digits)| digits);
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

fn is_id(id: &str) -> bool {
    id.split_once('-').is_some_and(|(kind, digits)| {
        (1..=10).contains(&kind.len())
            && kind.bytes().all(|b| b.is_ascii_lowercase())
            && (1..=40).contains(&digits.len())
            && digits.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    })
}

fn is_mac(mac: &str) -> bool {
    let first = u8::from_str_radix(mac.get(..2).unwrap_or("ff"), 16).unwrap_or(0xff);
    mac.len() == 17
        && first & 1 == 0
        && mac.split(':').count() == 6
        && mac.split(':').all(|part| {
            part.len() == 2
                && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        })
}

fn is_host_name(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
}

/// Refuses a plan that the kernel could not hold, before anything is touched.
pub fn check(plan: &Plan, pool: &Ipv4Cidr) -> Result<(), Error> {
    let mut links = BTreeMap::new();
    let mut public = BTreeMap::new();
    for vpc in &plan.vpcs {
        require(is_id(&vpc.id), || format!("{:?} is not an id", vpc.id))?;
        if let Some(other) = links.insert(host_link("", &vpc.id), &vpc.id) {
            return Err(Error::Plan(format!("{} and {other} end in the same digits", vpc.id)));
        }
        check_vpc(vpc)?;
        for interface in &vpc.interfaces {
            let Some(address) = interface.public_ip else { continue };
            require(pool.contains(address), || {
                format!("{address} of {} is not in the public pool {pool}", interface.id)
            })?;
            if let Some(other) = public.insert(address, &interface.id) {
                return Err(Error::Plan(format!(
                    "{} and {other} have the same public address {address}",
                    interface.id
                )));
            }
        }
    }
    Ok(())
}

fn check_vpc(vpc: &Vpc) -> Result<(), Error> {
    let id = &vpc.id;
    require(is_host_name(&vpc.region), || format!("{id}: {:?} is no region", vpc.region))?;
    require(vpc.cidrs.first().is_some_and(|cidr| cidr.size() >= 16), || {
        format!("{id} has no address block of /28 or larger")
    })?;
    let mut subnets = BTreeMap::new();
    for subnet in &vpc.subnets {
        require(is_id(&subnet.id), || format!("{:?} is not an id", subnet.id))?;
        require(vpc.cidrs.iter().any(|c| c.contains(subnet.cidr.network())), || {
            format!("{} is outside of {id}", subnet.id)
        })?;
        require(subnet.cidr.size() >= 16, || format!("{} is smaller than /28", subnet.id))?;
        subnets.insert(&subnet.id, subnet.cidr);
    }
    for group in &vpc.groups {
        require(is_id(&group.id), || format!("{:?} is not an id", group.id))?;
        for rule in group.ingress.iter().chain(&group.egress) {
            if let base::network::Peer::Group(peer) = &rule.peer {
                require(is_id(peer), || format!("{peer:?} is not an id"))?;
            }
        }
    }
    let (mut taps, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    for interface in &vpc.interfaces {
        let name = &interface.id;
        require(is_id(name), || format!("{name:?} is not an id"))?;
        require(is_mac(&interface.mac), || {
            format!("{name}: {:?} is no unicast hardware address", interface.mac)
        })?;
        require(is_host_name(&interface.hostname), || {
            format!("{name}: {:?} is no host name", interface.hostname)
        })?;
        require(taps.insert(tap(name)), || format!("two interfaces end in the digits of {name}"))?;
        require(addresses.insert(interface.private_ip), || {
            format!("{} belongs to two interfaces of {id}", interface.private_ip)
        })?;
        let subnet = subnets.get(&interface.subnet_id);
        require(subnet.is_some_and(|cidr| cidr.contains(interface.private_ip)), || {
            format!("{name}: {} is not in {}", interface.private_ip, interface.subnet_id)
        })?;
        for group in &interface.groups {
            require(is_id(group), || format!("{group:?} is not an id"))?;
        }
    }
    Ok(())
}

fn require(condition: bool, message: impl FnOnce() -> String) -> Result<(), Error> {
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
        assert!(is_mac("0a:00:00:00:00:01"));
        assert!(
            !is_prefix("gureum7") && !is_prefix("a-b") && !is_prefix("") && is_prefix("gureum")
        );
    }
}
