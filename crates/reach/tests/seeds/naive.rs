//! The network as a toy: machines that send packets, a world that moves them, state where the real
//! one has it. It shares nothing with the crate but the types; addresses are numbers here, and the
//! answer is simply another packet that the receiver sends.

use base::Cidr;
use base::network::*;
use reach::{Packet, Traffic};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// An address as a number, with its family.
type Number = (bool, u128);

fn number(address: IpAddr) -> Number {
    match address {
        IpAddr::V4(a) => (false, u128::from(u32::from(a))),
        IpAddr::V6(a) => (true, u128::from(a)),
    }
}

fn covers(cidr: &Cidr, address: IpAddr) -> bool {
    let (network, width) = match cidr {
        Cidr::V4(c) => (number(c.network().into()), 32),
        Cidr::V6(c) => (number(c.network().into()), 128),
    };
    let address = number(address);
    let rest = width - u32::from(cidr.length());
    let cut = |n: u128| n.checked_shr(rest).unwrap_or(0);
    network.0 == address.0 && cut(network.1) == cut(address.1)
}

/// Source, destination, protocol, two ports or type and code.
type Wire = (IpAddr, IpAddr, u8, u16, u16);

fn wire(packet: Packet) -> Wire {
    let (a, b) = match packet.traffic {
        Traffic::Tcp { source, destination } | Traffic::Udp { source, destination } => {
            (source, destination)
        }
        Traffic::Icmp { kind, code } | Traffic::Icmpv6 { kind, code } => {
            (u16::from(kind), u16::from(code))
        }
        Traffic::Other(_) => (0, 0),
    };
    (packet.source, packet.destination, packet.traffic.number(), a, b)
}

/// Echoes are the only ICMP here.
fn answer((source, destination, protocol, a, b): Wire) -> Wire {
    match (protocol, a) {
        (1, 8) => (destination, source, 1, 0, b),
        (1, 0) => (destination, source, 1, 8, b),
        (58, 128) => (destination, source, 58, 129, b),
        (58, 129) => (destination, source, 58, 128, b),
        _ => (destination, source, protocol, b, a),
    }
}

fn speaks(rule: Protocol, (_, _, protocol, a, b): Wire) -> bool {
    let like = |want: Option<u8>, have: u16| match want {
        None => true,
        Some(want) => u16::from(want) == have,
    };
    match rule {
        Protocol::All => true,
        Protocol::Number(n) => n == protocol,
        Protocol::Tcp { from, to } => protocol == 6 && from <= b && b <= to,
        Protocol::Udp { from, to } => protocol == 17 && from <= b && b <= to,
        Protocol::Icmp { kind, code } => protocol == 1 && like(kind, a) && like(code, b),
        Protocol::Icmpv6 { kind, code } => protocol == 58 && like(kind, a) && like(code, b),
    }
}

/// Who got a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Receiver {
    Interface(String),
    Service(String),
    Outside,
}

pub struct World<'p> {
    plan: &'p Plan,
    /// Packets that an interface has sent or received, for its groups.
    seen: HashSet<(String, bool, Wire)>,
    /// NAT gateways: what comes back, and as what it goes on.
    nat: HashMap<(String, Wire), Wire>,
    /// Answers that an egress-only gateway lets in.
    invited: HashSet<(String, Wire)>,
    left: u32,
}

pub enum From<'p> {
    Subnet(&'p Subnet),
    Elsewhere,
}

impl<'p> World<'p> {
    pub fn new(plan: &'p Plan) -> Self {
        World {
            plan,
            seen: HashSet::new(),
            nat: HashMap::new(),
            invited: HashSet::new(),
            left: 200,
        }
    }

    fn groups_pass(&mut self, vpc: &Vpc, nic: &Interface, into: bool, packet: Wire) -> bool {
        if let Holder::NatGateway(_) = nic.holder {
            return true;
        }
        // What I sent is answered into me, what I got I may answer.
        let mut pass = self.seen.contains(&(nic.id.clone(), !into, answer(packet)));
        let peer = if into { packet.0 } else { packet.1 };
        for group in &vpc.groups {
            if nic.groups.iter().all(|id| *id != group.id) {
                continue;
            }
            for rule in if into { &group.ingress } else { &group.egress } {
                let known = match &rule.peer {
                    Peer::Cidr(cidr) => covers(cidr, peer),
                    Peer::PrefixList(id) => vpc
                        .prefix_lists
                        .iter()
                        .filter(|list| list.id == *id)
                        .any(|list| list.cidrs.iter().any(|cidr| covers(cidr, peer))),
                    Peer::Group(id) => {
                        let mut members: Vec<IpAddr> = Vec::new();
                        for other in &vpc.interfaces {
                            if other.groups.contains(id) {
                                members.push(other.private_ip.into());
                                members.extend(
                                    other.secondary.iter().map(|a| IpAddr::from(a.private_ip)),
                                );
                                members.extend(other.ipv6.iter().map(|a| IpAddr::from(*a)));
                            }
                        }
                        for group in &vpc.peer_groups {
                            if group.id == *id {
                                members.extend(&group.members);
                            }
                        }
                        members.contains(&peer)
                    }
                };
                pass |= known && speaks(rule.protocol, packet);
            }
        }
        if pass {
            self.seen.insert((nic.id.clone(), into, packet));
        }
        pass
    }

    fn acl_passes(&self, vpc: &Vpc, subnet: &Subnet, into: bool, packet: Wire) -> bool {
        for acl in &vpc.network_acls {
            if acl.id != subnet.network_acl {
                continue;
            }
            let mut rules = if into { acl.ingress.clone() } else { acl.egress.clone() };
            rules.sort_by_key(|rule| rule.number);
            for rule in rules {
                let peer = if into { packet.0 } else { packet.1 };
                if covers(&rule.cidr, peer) && speaks(rule.protocol, packet) {
                    return rule.allow;
                }
            }
        }
        false
    }

    fn holds(nic: &Interface, address: IpAddr) -> bool {
        let mut own: Vec<IpAddr> = vec![nic.private_ip.into()];
        own.extend(nic.secondary.iter().map(|a| IpAddr::from(a.private_ip)));
        own.extend(nic.ipv6.iter().map(|a| IpAddr::from(*a)));
        own.contains(&address)
    }

    /// An interface sends a packet.
    pub fn send(&mut self, id: &str, packet: Wire) -> Option<(Receiver, Wire)> {
        self.left = self.left.checked_sub(1)?;
        let plan = self.plan;
        for vpc in &plan.vpcs {
            for nic in &vpc.interfaces {
                if nic.id == id {
                    let nat = matches!(nic.holder, Holder::NatGateway(_));
                    if nic.source_dest_check && !nat && !Self::holds(nic, packet.0) {
                        return None;
                    }
                    if !self.groups_pass(vpc, nic, false, packet) {
                        return None;
                    }
                    let subnet = vpc.subnets.iter().find(|s| s.id == nic.subnet_id)?;
                    return self.route(vpc, From::Subnet(subnet), &subnet.route_table, packet);
                }
            }
        }
        None
    }

    /// A packet in a VPC that has to be routed.
    fn route(
        &mut self,
        vpc: &'p Vpc,
        from: From<'p>,
        table: &str,
        packet: Wire,
    ) -> Option<(Receiver, Wire)> {
        self.left = self.left.checked_sub(1)?;
        let to = packet.1;
        if let From::Subnet(subnet) = &from {
            let four = Cidr::V4(subnet.cidr);
            let six = subnet.ipv6_cidr.map(Cidr::V6);
            if covers(&four, to) || six.is_some_and(|six| covers(&six, to)) {
                return self.local(vpc, from, packet);
            }
        }
        // Link-local addresses stay on their link.
        let link_local = ["169.254.0.0/16", "fe80::/10", "224.0.0.0/4", "ff00::/8"];
        if link_local.iter().any(|text| covers(&text.parse().unwrap(), to)) {
            return None;
        }
        let mut routes: Vec<(u8, Target)> = Vec::new();
        for block in &vpc.cidrs {
            if covers(&Cidr::V4(*block), to) {
                routes.push((block.length(), Target::Local));
            }
        }
        for block in &vpc.ipv6_cidrs {
            if covers(&Cidr::V6(*block), to) {
                routes.push((block.length(), Target::Local));
            }
        }
        for table in vpc.route_tables.iter().filter(|t| t.id == table) {
            for route in &table.routes {
                if covers(&route.destination, to) {
                    routes.push((route.destination.length(), route.target.clone()));
                }
            }
        }
        routes.sort_by_key(|(length, _)| *length);
        let (_, target) = routes.pop()?;
        let leaves = |from: &From<'p>, world: &Self, same: Option<&str>| match from {
            From::Subnet(subnet) if same != Some(&subnet.id) => {
                world.acl_passes(vpc, subnet, false, packet)
            }
            _ => true,
        };
        match target {
            Target::Blackhole => None,
            Target::Local => {
                let there = vpc.interfaces.iter().find(|nic| Self::holds(nic, to))?;
                if !leaves(&from, self, Some(&there.subnet_id)) {
                    return None;
                }
                self.local(vpc, from, packet)
            }
            Target::Interface(id) => {
                let nic = vpc.interfaces.iter().find(|nic| nic.id == id)?;
                let checks = match nic.holder {
                    Holder::NatGateway(_) => false,
                    Holder::Machine(_) => nic.source_dest_check,
                    Holder::Endpoint(_) => true,
                };
                // Who has no IPv6 address is no neighbour to send IPv6 to.
                let deaf = to.is_ipv6() && nic.ipv6.is_empty();
                if checks || deaf || !leaves(&from, self, Some(&nic.subnet_id)) {
                    return None;
                }
                self.arrive(vpc, from, nic, packet)
            }
            other => {
                if !leaves(&from, self, None) {
                    return None;
                }
                self.gateway(vpc, other, packet)
            }
        }
    }

    fn gateway(&mut self, vpc: &'p Vpc, target: Target, packet: Wire) -> Option<(Receiver, Wire)> {
        let plan = self.plan;
        let own = vpc.interfaces.iter().any(|nic| Self::holds(nic, packet.0));
        let blocks = |vpc: &Vpc, address: IpAddr| {
            vpc.cidrs.iter().any(|c| covers(&Cidr::V4(*c), address))
                || vpc.ipv6_cidrs.iter().any(|c| covers(&Cidr::V6(*c), address))
        };
        match target {
            Target::InternetGateway if vpc.internet_gateway => {
                let mut packet = packet;
                match packet.0 {
                    IpAddr::V4(private) => {
                        let mut public = None;
                        for nic in &vpc.interfaces {
                            if nic.private_ip == private {
                                public = nic.public_ip;
                            }
                            for more in nic.secondary.iter().filter(|a| a.private_ip == private) {
                                public = more.public_ip;
                            }
                        }
                        packet.0 = public?.into();
                    }
                    IpAddr::V6(_) if own => {
                        self.invited.insert((vpc.id.clone(), answer(packet)));
                    }
                    IpAddr::V6(_) => return None,
                }
                self.outside(packet)
            }
            Target::EgressOnlyInternetGateway if own && packet.0.is_ipv6() => {
                self.invited.insert((vpc.id.clone(), answer(packet)));
                self.outside(packet)
            }
            Target::Peering(id) => {
                let peering = plan.peerings.iter().find(|peering| peering.id == id)?;
                let mine = peering.sides.iter().position(|side| side.vpc_id == vpc.id)?;
                let theirs = &peering.sides[1 - mine].vpc_id;
                let other = plan.vpcs.iter().find(|vpc| vpc.id == *theirs)?;
                if !blocks(vpc, packet.0) || !blocks(other, packet.1) {
                    return None;
                }
                self.local(other, From::Elsewhere, packet)
            }
            Target::TransitGateway(id) => {
                let gateway = plan.transit_gateways.iter().find(|gateway| gateway.id == id)?;
                let attachment = gateway.attachments.iter().find(|a| match &a.resource {
                    AttachedResource::Vpc { vpc_id, .. } => *vpc_id == vpc.id,
                    AttachedResource::Peering { .. } => false,
                })?;
                let table = attachment.route_table.clone()?;
                let table = gateway.route_tables.iter().find(|t| t.id == table)?;
                let mut best: Option<&TransitGatewayRoute> = None;
                for route in &table.routes {
                    let longer =
                        best.is_none_or(|b| b.destination.length() < route.destination.length());
                    if covers(&route.destination, packet.1) && longer {
                        best = Some(route);
                    }
                }
                let next = best?.attachment.clone()?;
                let next = gateway.attachments.iter().find(|a| a.id == next)?;
                let AttachedResource::Vpc { vpc_id, route_table } = &next.resource else {
                    return None;
                };
                let other = plan.vpcs.iter().find(|vpc| vpc.id == *vpc_id)?;
                self.route(other, From::Elsewhere, route_table, packet)
            }
            Target::GatewayEndpoint(id) => {
                let endpoint = vpc.gateway_endpoints.iter().find(|endpoint| endpoint.id == id)?;
                let there = endpoint.addresses.iter().any(|a| IpAddr::from(*a) == packet.1);
                let spoken = packet.2 == 6 || (packet.2 == 1 && packet.3 == 8);
                (there && spoken && blocks(vpc, packet.0))
                    .then(|| (Receiver::Service(vpc.id.clone()), packet))
            }
            _ => None,
        }
    }

    /// A packet in the internet.
    pub fn outside(&mut self, packet: Wire) -> Option<(Receiver, Wire)> {
        let plan = self.plan;
        for vpc in &plan.vpcs {
            for nic in &vpc.interfaces {
                let mut pairs = vec![(nic.private_ip, nic.public_ip)];
                pairs.extend(nic.secondary.iter().map(|a| (a.private_ip, a.public_ip)));
                for (private, public) in pairs {
                    if public.map(IpAddr::from) == Some(packet.1) {
                        let mut packet = packet;
                        packet.1 = private.into();
                        if !vpc.internet_gateway {
                            return None;
                        }
                        return self.arrive(vpc, From::Elsewhere, nic, packet);
                    }
                }
                if packet.1.is_ipv6() && Self::holds(nic, packet.1) {
                    let invited = self.invited.contains(&(vpc.id.clone(), packet));
                    if !vpc.internet_gateway && !invited {
                        return None;
                    }
                    return self.arrive(vpc, From::Elsewhere, nic, packet);
                }
            }
        }
        Some((Receiver::Outside, packet))
    }

    /// To the interface of the VPC that has the address.
    pub fn local(
        &mut self,
        vpc: &'p Vpc,
        from: From<'p>,
        packet: Wire,
    ) -> Option<(Receiver, Wire)> {
        let nic = vpc.interfaces.iter().find(|nic| Self::holds(nic, packet.1))?;
        self.arrive(vpc, from, nic, packet)
    }

    fn arrive(
        &mut self,
        vpc: &'p Vpc,
        from: From<'p>,
        nic: &'p Interface,
        packet: Wire,
    ) -> Option<(Receiver, Wire)> {
        let subnet = vpc.subnets.iter().find(|s| s.id == nic.subnet_id)?;
        let crosses = match from {
            From::Subnet(from) => from.id != subnet.id,
            From::Elsewhere => true,
        };
        if crosses && !self.acl_passes(vpc, subnet, true, packet) {
            return None;
        }
        if !self.groups_pass(vpc, nic, true, packet) {
            return None;
        }
        let mine = Self::holds(nic, packet.1);
        match &nic.holder {
            Holder::NatGateway(_) => {
                if let Some(inner) = self.nat.get(&(nic.id.clone(), packet)).copied() {
                    return self.send(&nic.id.clone(), inner);
                }
                if mine || packet.1.is_ipv6() || ![1, 6, 17].contains(&packet.2) {
                    return None;
                }
                let mut out = packet;
                out.0 = nic.private_ip.into();
                self.nat.insert((nic.id.clone(), answer(out)), answer(packet));
                self.send(&nic.id.clone(), out)
            }
            _ if mine => Some((Receiver::Interface(nic.id.clone()), packet)),
            Holder::Machine(_) if !nic.source_dest_check => self.send(&nic.id.clone(), packet),
            _ => None,
        }
    }
}

/// Whether a flow comes about, and who got the first packet.
pub fn flows(plan: &Plan, sender: Option<&str>, packet: Packet) -> (bool, Option<Receiver>) {
    let mut world = World::new(plan);
    let first = wire(packet);
    let got = match sender {
        Some(id) => world.send(id, first),
        None => world.outside(first).filter(|(receiver, _)| *receiver != Receiver::Outside),
    };
    let Some((receiver, there)) = got else { return (false, None) };
    let back = answer(there);
    world.left = 200;
    let returned = match &receiver {
        Receiver::Interface(id) => world.send(id, back),
        Receiver::Outside => world.outside(back),
        Receiver::Service(vpc_id) => {
            let vpc = plan.vpcs.iter().find(|vpc| vpc.id == *vpc_id).unwrap();
            world.local(vpc, From::Elsewhere, back)
        }
    };
    let home = match sender {
        Some(id) => Receiver::Interface(id.to_owned()),
        None => Receiver::Outside,
    };
    (returned == Some((home, answer(first))), Some(receiver))
}
