//! Refuses a plan that the kernel could not hold, before anything is touched.

use crate::Error;
use crate::names::{
    VXLAN_HEADERS, attachment_link, fabric_link, host_link, is_host_name, is_id, is_mac,
    peering_link, require, tap, transit_link,
};
use base::network::{
    AttachedResource, Fabric, Holder, Interface, NetworkAcl, Peer, Plan, SecurityGroup, Target,
    TransitGateway, Vpc,
};
use base::{Cidr, Ipv4Cidr, Ipv6Cidr};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

/// Every id that becomes a word of nft or ip is one; nothing that must be unique is there twice.
pub(crate) fn plan(plan: &Plan, pool: &Ipv4Cidr) -> Result<(), Error> {
    let mut names = BTreeMap::new();
    let mut unique = |name: String, id: &str| match names.insert(name, id.to_owned()) {
        Some(other) => Err(Error::Plan(format!("{id} and {other} end in the same digits"))),
        None => Ok(()),
    };
    let mut public = BTreeMap::new();
    for vpc in &plan.vpcs {
        id(&vpc.id)?;
        unique(host_link("", &vpc.id), &vpc.id)?;
        unique(fabric_link(&vpc.id), &vpc.id)?;
        check_vpc(vpc)?;
        for interface in &vpc.interfaces {
            for address in interface.addresses().filter_map(|address| address.public_ip) {
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
            if let Holder::NatGateway(gateway) = &interface.holder {
                unique(gateway.clone(), &interface.id)?;
            }
        }
    }
    for peering in &plan.peerings {
        id(&peering.id)?;
        unique(peering_link(&peering.id), &peering.id)?;
        let [one, other] = &peering.sides;
        require(one.vpc_id != other.vpc_id, || format!("{} leads to itself", peering.id))?;
    }
    for gateway in &plan.transit_gateways {
        unique(transit_link(&gateway.id), &gateway.id)?;
        transit_gateway(gateway)?;
    }
    plan.fabric.as_ref().map_or(Ok(()), |fabric| check_fabric(fabric, plan))
}

fn id(text: &str) -> Result<(), Error> {
    require(is_id(text), || format!("{text:?} is not an id"))
}

fn transit_gateway(gateway: &TransitGateway) -> Result<(), Error> {
    id(&gateway.id)?;
    let (mut links, mut vpcs) = (BTreeSet::new(), BTreeSet::new());
    for attachment in &gateway.attachments {
        id(&attachment.id)?;
        require(links.insert(attachment_link(&attachment.id)), || {
            format!("two attachments end in the digits of {}", attachment.id)
        })?;
        if let AttachedResource::Vpc { vpc_id, .. } = &attachment.resource {
            require(vpcs.insert(vpc_id), || {
                format!("{vpc_id} is attached to {} twice", gateway.id)
            })?;
        }
    }
    Ok(())
}

fn check_fabric(fabric: &Fabric, plan: &Plan) -> Result<(), Error> {
    // The least that IPv6 needs (RFC 8200), and VXLAN's headers around it.
    require(fabric.mtu >= 1280 + VXLAN_HEADERS, || {
        format!("the nodes carry only {} bytes", fabric.mtu)
    })?;
    let mut numbers = BTreeSet::new();
    for vpc in &plan.vpcs {
        require(vpc.vni < 1 << 24, || format!("{}: {} is no VXLAN identifier", vpc.id, vpc.vni))?;
        require(numbers.insert(vpc.vni), || {
            format!("{}: another VPC has the VXLAN identifier {}", vpc.id, vpc.vni)
        })?;
    }
    let mut addresses = BTreeSet::from([fabric.address]);
    for (node, address) in &fabric.nodes {
        require(addresses.insert(*address), || format!("{node} has another node's {address}"))?;
    }
    Ok(())
}

fn check_vpc(vpc: &Vpc) -> Result<(), Error> {
    let id_of_vpc = &vpc.id;
    require(is_host_name(&vpc.region), || format!("{id_of_vpc}: {:?} is no region", vpc.region))?;
    require(vpc.cidrs.first().is_some_and(|cidr| cidr.size() >= 16), || {
        format!("{id_of_vpc} has no address block of /28 or larger")
    })?;
    let mut subnets = BTreeMap::new();
    for subnet in &vpc.subnets {
        id(&subnet.id)?;
        require(vpc.cidrs.iter().any(|c| c.contains(subnet.cidr.network())), || {
            format!("{} is outside of {id_of_vpc}", subnet.id)
        })?;
        require(subnet.cidr.size() >= 16, || format!("{} is smaller than /28", subnet.id))?;
        let v6 = subnet.ipv6_cidr.as_ref();
        require(v6.is_none_or(|own| vpc.ipv6_cidrs.iter().any(|c| c.overlaps(own))), || {
            format!("{}: the IPv6 block is outside of {id_of_vpc}", subnet.id)
        })?;
        subnets.insert(&subnet.id, (subnet.cidr, subnet.ipv6_cidr));
    }
    vpc.groups.iter().try_for_each(group)?;
    vpc.network_acls.iter().try_for_each(network_acl)?;
    for peer in &vpc.peer_groups {
        id(&peer.id)?;
    }
    for list in &vpc.prefix_lists {
        id(&list.id)?;
    }
    for endpoint in &vpc.gateway_endpoints {
        id(&endpoint.id)?;
    }
    for table in &vpc.route_tables {
        id(&table.id)?;
        let mut destinations = BTreeSet::new();
        for route in &table.routes {
            require(destinations.insert(route.destination), || {
                format!("{} has two routes to {}", table.id, route.destination)
            })?;
            match &route.target {
                Target::Interface(other)
                | Target::Peering(other)
                | Target::TransitGateway(other)
                | Target::GatewayEndpoint(other) => id(other)?,
                _ => {}
            }
        }
    }
    let mut seen = Seen::default();
    vpc.interfaces.iter().try_for_each(|interface| {
        let subnet = subnets.get(&interface.subnet_id).copied();
        seen.interface(interface, subnet, id_of_vpc)
    })
}

fn group(group: &SecurityGroup) -> Result<(), Error> {
    id(&group.id)?;
    for rule in group.ingress.iter().chain(&group.egress) {
        match &rule.peer {
            Peer::Group(peer) | Peer::PrefixList(peer) => id(peer)?,
            Peer::Cidr(_) => {}
        }
    }
    Ok(())
}

fn network_acl(acl: &NetworkAcl) -> Result<(), Error> {
    id(&acl.id)
}

#[derive(Default)]
struct Seen {
    taps: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
    prefixes: BTreeSet<Cidr>,
}

impl Seen {
    fn interface(
        &mut self,
        interface: &Interface,
        subnet: Option<(Ipv4Cidr, Option<Ipv6Cidr>)>,
        vpc: &str,
    ) -> Result<(), Error> {
        let name = &interface.id;
        id(name)?;
        require(is_mac(&interface.mac), || {
            format!("{name}: {:?} is no unicast hardware address", interface.mac)
        })?;
        require(is_host_name(&interface.hostname), || {
            format!("{name}: {:?} is no host name", interface.hostname)
        })?;
        if let Holder::NatGateway(holder) = &interface.holder {
            id(holder)?;
        }
        require(self.taps.insert(tap(name)), || {
            format!("two interfaces end in the digits of {name}")
        })?;
        let (v4, v6) = subnet.ok_or_else(|| {
            Error::Plan(format!("{name} is in {}, which is not in {vpc}", interface.subnet_id))
        })?;
        let own: Vec<Ipv4Addr> = interface.addresses().map(|address| address.private_ip).collect();
        for address in &own {
            require(v4.contains(*address), || {
                format!("{name}: {address} is not in {}", interface.subnet_id)
            })?;
        }
        let all = own.into_iter().map(IpAddr::from);
        for address in all.chain(interface.ipv6.iter().copied().map(IpAddr::from)) {
            require(self.addresses.insert(address), || {
                format!("{address} belongs to two interfaces of {vpc}")
            })?;
        }
        for address in &interface.ipv6 {
            require(v6.is_some_and(|block| block.contains(*address)), || {
                format!("{name}: {address} is not in {}", interface.subnet_id)
            })?;
        }
        let prefixes = interface.prefixes.iter().copied().map(Cidr::from);
        for prefix in prefixes.chain(interface.ipv6_prefixes.iter().copied().map(Cidr::from)) {
            require(self.prefixes.insert(prefix), || {
                format!("{prefix} belongs to two interfaces of {vpc}")
            })?;
        }
        interface.groups.iter().try_for_each(|group| id(group))
    }
}
