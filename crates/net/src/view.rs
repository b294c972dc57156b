//! What the servers of a VPC know: compiled from the plan, replaced as a whole by every apply.

use crate::dns::Zone;
use crate::names::{self, ROUTER_MAC};
use crate::{arp, dhcp, dhcp6};
use base::Ipv4Cidr;
use base::network::{Holder, Interface, NameServer, Vpc};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What the servers of a VPC know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    /// By index of the tap.
    pub leases: BTreeMap<u32, dhcp::Lease>,
    /// By index of the tap: of those that have an IPv6 address.
    pub leases6: BTreeMap<u32, dhcp6::Lease>,
    pub zone: Zone,
    /// Largest IP packet of a guest, bytes.
    pub mtu: u16,
}

impl View {
    pub(crate) fn new(vpc: &Vpc, pool: Ipv4Cidr, links: &BTreeMap<String, u32>, mtu: u16) -> View {
        let machines = || {
            let here = |interface: &&Interface| {
                matches!(interface.holder, Holder::Machine(_)) && interface.node.is_none()
            };
            vpc.interfaces
                .iter()
                .filter(here)
                .filter_map(|interface| Some((*links.get(&names::tap(&interface.id))?, interface)))
        };
        let leases =
            machines().filter_map(|(link, interface)| Some((link, lease(vpc, interface, mtu)?)));
        let leases6 =
            machines().filter_map(|(link, interface)| Some((link, lease6(vpc, interface)?)));
        View {
            leases: leases.collect(),
            leases6: leases6.collect(),
            zone: Zone::new(vpc, pool),
            mtu,
        }
    }
}

fn lease(vpc: &Vpc, interface: &Interface, mtu: u16) -> Option<dhcp::Lease> {
    let subnet = vpc.subnets.iter().find(|subnet| subnet.id == interface.subnet_id)?;
    let host = interface.hostname.split('.').next().unwrap_or_default();
    let v4 = |address: &IpAddr| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    };
    let own = names::resolver(vpc).filter(|_| vpc.dns.support).map(IpAddr::V4);
    Some(dhcp::Lease {
        mac: arp::octets(&interface.mac),
        address: interface.private_ip,
        netmask: subnet.cidr.netmask(),
        router: names::router(&subnet.cidr)?,
        resolvers: resolvers(vpc, own).iter().filter_map(v4).collect(),
        time_servers: vpc.dhcp.ntp_servers.iter().filter_map(v4).collect(),
        netbios_servers: vpc.dhcp.netbios_name_servers.clone(),
        netbios_kind: vpc.dhcp.netbios_node_type,
        host: host.to_owned(),
        domain: vpc.dhcp.domain_name.clone(),
        mtu,
    })
}

fn lease6(vpc: &Vpc, interface: &Interface) -> Option<dhcp6::Lease> {
    let v6 = |address: &IpAddr| match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(*address),
    };
    let own = vpc.dns.support.then_some(IpAddr::V6(RESOLVER));
    Some(dhcp6::Lease {
        address: *interface.ipv6.first()?,
        preferred: vpc.dhcp.ipv6_preferred_lease_time.unwrap_or(dhcp6::PREFERRED_SECONDS),
        resolvers: resolvers(vpc, own).iter().filter_map(v6).collect(),
        time_servers: vpc.dhcp.ntp_servers.iter().filter_map(v6).collect(),
        domain: vpc.dhcp.domain_name.clone(),
        server: arp::octets(ROUTER_MAC),
    })
}

/// The resolvers that the options name, `own` in the place of AmazonProvidedDNS.
fn resolvers(vpc: &Vpc, own: Option<IpAddr>) -> Vec<IpAddr> {
    let servers = vpc.dhcp.domain_name_servers.iter();
    servers
        .filter_map(|server| match server {
            NameServer::Amazon => own,
            NameServer::Address(address) => Some(*address),
        })
        .collect()
}

/// The resolver of a VPC with IPv6.
pub(crate) const RESOLVER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x253);
/// Time for a VPC with IPv6.
pub(crate) const TIME: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x123);

/// Where a VPC's resolver listens on IPv4.
pub(crate) fn resolver_addresses(vpc: &Vpc) -> impl Iterator<Item = Ipv4Addr> {
    names::resolver(vpc).into_iter().chain([names::RESOLVER])
}
