//! The walk itself: one step after another until the packet arrives, is refused, or has gone round in
//! a circle.
//!
//! ```text
//!  Leaving ──► Crossing ──► Entering ──► end | Leaving (a forwarder)
//!                 │  ▲
//!                 ▼  │
//!             Transit  Abroad ──► Entering | end
//! ```

use crate::find::{self, Place};
use crate::{Code, Component, Direction, End, Hop, Origin, Packet, Refusal, Traffic, Walk};
use base::network::{
    AttachedResource, Holder, Interface, Plan, Subnet, Target, TransitGateway,
    TransitGatewayAttachment, Vpc,
};
use std::net::IpAddr;

/// Steps after which a packet has gone round in a circle; its time to live would be over as well.
const MOST_STEPS: usize = 64;

/// What groups and gateways remember of a flow.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// Answers that groups let pass: at which interface, in which direction.
    awaited: Vec<(String, Direction, Packet)>,
    /// What NAT gateways translate back: at which interface, from what, to what.
    translated: Vec<(String, Packet, Packet)>,
    /// Answers that come in by a gateway that a VPC has for the outside.
    abroad: Vec<(String, Packet)>,
}

/// Walks the first packet of a flow, which begins to be remembered in `flow`.
pub(crate) fn forward(plan: &Plan, origin: &Origin, packet: Packet, flow: &mut Flow) -> Walk {
    let mut walker = Walker::new(plan, packet, flow, false);
    let start = match origin {
        Origin::Outside => Ok(At::Abroad { back: false }),
        Origin::Interface(id) => match find::interface(plan, id) {
            Some(place) => Ok(At::Leaving(place)),
            None => Err(Walker::refusal(Code::BadState, Component::Interface(id.clone()), packet)),
        },
    };
    walker.run(start)
}

/// Walks the answer to `packet`, whose way there was `forward`; `None` when nobody answers it.
pub(crate) fn back(
    plan: &Plan,
    origin: &Origin,
    packet: Packet,
    forward: &Walk,
    flow: &Flow,
) -> Option<Walk> {
    let answer = forward.packet.reply()?;
    let wanted = packet.reply()?;
    let mut known = Flow {
        awaited: flow.awaited.clone(),
        translated: flow.translated.clone(),
        abroad: flow.abroad.clone(),
    };
    let mut walker = Walker::new(plan, answer, &mut known, true);
    let lost = |component| Err(Walker::refusal(Code::BadState, component, answer));
    let start = match forward.end.as_ref()? {
        End::Outside => Ok(At::Abroad { back: true }),
        End::Interface(id) => match find::interface(plan, id) {
            Some(place) => Ok(At::Leaving(place)),
            None => lost(Component::Interface(id.clone())),
        },
        End::GatewayEndpoint { vpc_id, id } => match find::vpc(plan, vpc_id) {
            Some(vpc) => Ok(At::Handing { vpc, from: None }),
            None => lost(Component::GatewayEndpoint(id.clone())),
        },
    };
    let mut walk = walker.run(start);
    let home = match origin {
        Origin::Interface(id) => End::Interface(id.clone()),
        Origin::Outside => End::Outside,
    };
    if walk.arrives() && (walk.end != Some(home) || walk.packet != wanted) {
        // It reached somebody, but not as an answer to what was sent.
        let component = walk.hops.last().map(|hop| hop.component.clone());
        let component = component.unwrap_or(Component::InternetGateway);
        walk.refusals.push(*Walker::refusal(Code::NoPossibleDestination, component, walk.packet));
    }
    Some(walk)
}

/// Where the packet is.
#[derive(Clone, Copy)]
enum At<'p> {
    /// At an interface, on its way out.
    Leaving(Place<'p>),
    /// Before a route table, from a subnet or from a transit gateway.
    Crossing { vpc: &'p Vpc, table: &'p str, subnet: Option<&'p Subnet> },
    /// In a VPC where its destination is.
    Handing { vpc: &'p Vpc, from: Option<&'p Subnet> },
    /// Before an interface.
    Entering { place: Place<'p>, from: Option<&'p Subnet> },
    /// In a transit gateway.
    Transit { gateway: &'p TransitGateway, attachment: &'p TransitGatewayAttachment },
    /// Outside of every VPC.
    Abroad { back: bool },
    /// There.
    End(Arrival<'p>),
}

#[derive(Clone, Copy)]
enum Arrival<'p> {
    Interface(&'p Interface),
    GatewayEndpoint(&'p Vpc, &'p str),
    Outside,
}

type Step<'p> = Result<At<'p>, Box<Refusal>>;

struct Walker<'p, 'f> {
    plan: &'p Plan,
    packet: Packet,
    flow: &'f mut Flow,
    /// This is the answer: nothing new is remembered.
    answer: bool,
    hops: Vec<Hop>,
    refusals: Vec<Refusal>,
}

impl<'p, 'f> Walker<'p, 'f> {
    fn new(plan: &'p Plan, packet: Packet, flow: &'f mut Flow, answer: bool) -> Self {
        Walker { plan, packet, flow, answer, hops: Vec::new(), refusals: Vec::new() }
    }

    fn refusal(code: Code, component: Component, packet: Packet) -> Box<Refusal> {
        Box::new(Refusal { code, component, vpc_id: None, subnet_id: None, packet })
    }

    fn run(&mut self, mut step: Step<'p>) -> Walk {
        let mut end = None;
        for count in 0.. {
            let at = match step {
                Ok(at) => at,
                Err(refusal) => {
                    self.refusals.push(*refusal);
                    break;
                }
            };
            if count == MOST_STEPS {
                let component = self.hops.last().map(|hop| hop.component.clone());
                let component = component.unwrap_or(Component::InternetGateway);
                let code = Code::NoPossibleDestination;
                self.refusals.push(*Self::refusal(code, component, self.packet));
                break;
            }
            step = match at {
                At::Leaving(place) => self.leave(place),
                At::Crossing { vpc, table, subnet } => self.cross(vpc, table, subnet),
                At::Handing { vpc, from } => self.hand(vpc, from),
                At::Entering { place, from } => self.enter(place, from),
                At::Transit { gateway, attachment } => self.transit(gateway, attachment),
                At::Abroad { back } => self.abroad(back),
                At::End(arrival) => {
                    end = Some(match arrival {
                        Arrival::Interface(interface) => End::Interface(interface.id.clone()),
                        Arrival::GatewayEndpoint(vpc, id) => {
                            End::GatewayEndpoint { vpc_id: vpc.id.clone(), id: id.to_owned() }
                        }
                        Arrival::Outside => End::Outside,
                    });
                    break;
                }
            };
        }
        Walk {
            hops: std::mem::take(&mut self.hops),
            refusals: std::mem::take(&mut self.refusals),
            end,
            packet: self.packet,
        }
    }

    fn hop(&mut self, component: Component, vpc: Option<&Vpc>, subnet: Option<&str>) {
        self.translating(component, vpc, subnet, self.packet);
    }

    /// Passes a component that makes another packet of this one.
    fn translating(
        &mut self,
        component: Component,
        vpc: Option<&Vpc>,
        subnet: Option<&str>,
        after: Packet,
    ) {
        self.hops.push(Hop {
            component,
            vpc_id: vpc.map(|vpc| vpc.id.clone()),
            subnet_id: subnet.map(str::to_owned),
            before: self.packet,
            after,
        });
        self.packet = after;
    }

    fn refused(
        &self,
        code: Code,
        component: Component,
        vpc: &Vpc,
        subnet: Option<&str>,
    ) -> Box<Refusal> {
        Box::new(Refusal {
            code,
            component,
            vpc_id: Some(vpc.id.clone()),
            subnet_id: subnet.map(str::to_owned),
            packet: self.packet,
        })
    }

    fn at_interface(&self, code: Code, place: Place<'_>) -> Box<Refusal> {
        let component = Component::Interface(place.interface.id.clone());
        self.refused(code, component, place.vpc, Some(&place.interface.subnet_id))
    }

    fn leave(&mut self, place: Place<'p>) -> Step<'p> {
        let Place { vpc, interface } = place;
        let is_gateway = matches!(interface.holder, Holder::NatGateway(_));
        if !is_gateway && interface.source_dest_check && !interface.has(self.packet.source) {
            return Err(self.at_interface(Code::EniSourceDestCheckRestriction, place));
        }
        let component = Component::Interface(interface.id.clone());
        self.hop(component, Some(vpc), Some(&interface.subnet_id));
        self.groups(place, Direction::Egress);
        let Some(subnet) = find::subnet(place) else {
            return Err(self.at_interface(Code::BadState, place));
        };
        Ok(At::Crossing { vpc, table: &subnet.route_table, subnet: Some(subnet) })
    }

    /// Asks the groups of an interface. A refusal is told and walked past.
    fn groups(&mut self, place: Place<'p>, direction: Direction) {
        let Place { vpc, interface } = place;
        if matches!(interface.holder, Holder::NatGateway(_)) {
            return;
        }
        let subnet = Some(interface.subnet_id.as_str());
        let component = |ids, rule| Component::SecurityGroups {
            interface_id: interface.id.clone(),
            ids,
            direction,
            rule,
        };
        let known = (interface.id.clone(), direction, self.packet);
        if self.answer && self.flow.awaited.contains(&known) {
            self.hop(component(interface.groups.clone(), None), Some(vpc), subnet);
            return;
        }
        match find::group_rule(place, direction, self.packet) {
            Some((id, rule)) => self.hop(component(vec![id], Some(rule)), Some(vpc), subnet),
            None => {
                let groups = component(interface.groups.clone(), None);
                let refusal = self.refused(Code::EniSgRulesMismatch, groups, vpc, subnet);
                self.refusals.push(*refusal);
            }
        }
        if !self.answer
            && let Some(reply) = self.packet.reply()
        {
            self.flow.awaited.push((interface.id.clone(), direction.reverse(), reply));
        }
    }

    /// Asks the ACL of a subnet whose edge is crossed. A refusal is told and walked past.
    fn acl(&mut self, vpc: &'p Vpc, subnet: &'p Subnet, direction: Direction) {
        let id = subnet.network_acl.clone();
        let rule = find::acl_rule(vpc, &id, direction, self.packet);
        let allowed = rule.as_ref().is_some_and(|rule| rule.allow);
        let component = Component::NetworkAcl { id, direction, rule };
        if allowed {
            self.hop(component, Some(vpc), Some(&subnet.id));
        } else {
            let code = Code::SubnetAclRestriction;
            let refusal = self.refused(code, component, vpc, Some(&subnet.id));
            self.refusals.push(*refusal);
        }
    }

    fn cross(&mut self, vpc: &'p Vpc, table: &'p str, subnet: Option<&'p Subnet>) -> Step<'p> {
        let destination = self.packet.destination;
        // Within a subnet nothing is routed and no ACL is asked.
        if subnet.is_some_and(|subnet| find::is_within(subnet, destination)) {
            return self.hand(vpc, subnet);
        }
        let route = find::route(vpc, table, destination).filter(|_| is_routed(destination));
        let target = route.as_ref().map(|route| route.target.clone());
        let component = Component::RouteTable {
            id: table.to_owned(),
            route: route.map(|route| (route.destination, route.target)),
        };
        let subnet_id = subnet.map(|subnet| subnet.id.as_str());
        let Some(target) = target else {
            return Err(self.refused(Code::NoRouteToDestination, component, vpc, subnet_id));
        };
        let next = match &target {
            Target::Interface(id) => {
                match vpc.interfaces.iter().find(|interface| interface.id == *id) {
                    Some(interface) => Some(Place { vpc, interface }),
                    None => {
                        return Err(self.refused(Code::BadStateRoute, component, vpc, subnet_id));
                    }
                }
            }
            Target::Local => find::owner(vpc, destination),
            _ => None,
        };
        if let Some(subnet) = subnet
            && next.is_none_or(|next| next.interface.subnet_id != subnet.id)
        {
            self.acl(vpc, subnet, Direction::Egress);
        }
        // IPv6 is sent on to a neighbour's IPv6 address.
        let is_neighbour =
            |next: Place<'_>| destination.is_ipv4() || !next.interface.ipv6.is_empty();
        let is_dead = match &target {
            Target::Interface(_) => !next.is_some_and(is_neighbour),
            other => *other == Target::Blackhole,
        };
        if is_dead {
            return Err(self.refused(Code::BadStateRoute, component, vpc, subnet_id));
        }
        self.hop(component, Some(vpc), subnet_id);
        match target {
            Target::Local => self.hand(vpc, subnet),
            Target::Interface(_) => match next {
                Some(place) if is_checked(place.interface) => {
                    Err(self.at_interface(Code::EniSourceDestCheckRestriction, place))
                }
                Some(place) => Ok(At::Entering { place, from: subnet }),
                None => Ok(At::Handing { vpc, from: subnet }),
            },
            Target::InternetGateway => self.internet(vpc),
            Target::EgressOnlyInternetGateway => self.egress_only(vpc),
            Target::Peering(id) => self.peering(vpc, &id),
            Target::TransitGateway(id) => self.attach(vpc, &id),
            Target::GatewayEndpoint(id) => self.endpoint(vpc, &id),
            Target::Blackhole => Ok(At::Handing { vpc, from: subnet }),
        }
    }

    fn hand(&mut self, vpc: &'p Vpc, from: Option<&'p Subnet>) -> Step<'p> {
        match find::owner(vpc, self.packet.destination) {
            Some(place) => Ok(At::Entering { place, from }),
            None => {
                let table = from.map(|subnet| subnet.route_table.clone()).unwrap_or_default();
                let component = Component::RouteTable { id: table, route: None };
                let subnet = from.map(|subnet| subnet.id.as_str());
                Err(self.refused(Code::NoPossibleDestination, component, vpc, subnet))
            }
        }
    }

    fn enter(&mut self, place: Place<'p>, from: Option<&'p Subnet>) -> Step<'p> {
        let Place { vpc, interface } = place;
        let Some(subnet) = find::subnet(place) else {
            return Err(self.at_interface(Code::BadState, place));
        };
        if from.is_none_or(|from| from.id != subnet.id) {
            self.acl(vpc, subnet, Direction::Ingress);
        }
        self.groups(place, Direction::Ingress);
        if let Holder::NatGateway(id) = &interface.holder {
            return self.nat(place, id);
        }
        let component = Component::Interface(interface.id.clone());
        self.hop(component, Some(vpc), Some(&interface.subnet_id));
        if interface.has(self.packet.destination) {
            return Ok(At::End(Arrival::Interface(interface)));
        }
        if is_checked(interface) {
            return Err(self.at_interface(Code::EniSourceDestCheckRestriction, place));
        }
        // A machine that forwards: what it was given goes out again.
        Ok(At::Leaving(place))
    }

    fn nat(&mut self, place: Place<'p>, id: &str) -> Step<'p> {
        let Place { vpc, interface } = place;
        let component = Component::NatGateway(id.to_owned());
        let subnet = Some(interface.subnet_id.as_str());
        if self.answer {
            let known = self.flow.translated.iter();
            let found =
                known.rev().find(|(at, from, _)| *at == interface.id && *from == self.packet);
            if let Some((_, _, to)) = found.cloned() {
                self.translating(component, Some(vpc), subnet, to);
                return Ok(At::Leaving(place));
            }
        }
        // Nobody calls a NAT gateway, and an answer that it does not know is nobody's.
        if self.answer || interface.has(self.packet.destination) {
            return Err(self.refused(Code::NoPossibleDestination, component, vpc, subnet));
        }
        let carried = matches!(
            self.packet.traffic,
            Traffic::Tcp { .. } | Traffic::Udp { .. } | Traffic::Icmp { .. }
        );
        if !carried || self.packet.destination.is_ipv6() {
            return Err(self.refused(Code::ProtocolRestriction, component, vpc, subnet));
        }
        let after = Packet { source: interface.private_ip.into(), ..self.packet };
        if let (Some(outer), Some(inner)) = (after.reply(), self.packet.reply()) {
            self.flow.translated.push((interface.id.clone(), outer, inner));
        }
        self.translating(component, Some(vpc), subnet, after);
        Ok(At::Leaving(place))
    }

    /// Out by the internet gateway.
    fn internet(&mut self, vpc: &'p Vpc) -> Step<'p> {
        let component = Component::InternetGateway;
        if !vpc.internet_gateway {
            return Err(self.refused(Code::BadStateRoute, component, vpc, None));
        }
        let source = self.packet.source;
        let public = match source {
            IpAddr::V4(_) => find::public_of(vpc, source),
            IpAddr::V6(_) => find::owner(vpc, source).map(|_| source),
        };
        let Some(public) = public else {
            let code = match source {
                IpAddr::V4(_) => Code::IgwPublicIpAssociationForEgress,
                IpAddr::V6(_) => Code::GatewayRejectsSpoofedTraffic,
            };
            return Err(self.refused(code, component, vpc, None));
        };
        let after = Packet { source: public, ..self.packet };
        self.translating(component, Some(vpc), None, after);
        self.remember_abroad(vpc);
        Ok(At::Abroad { back: false })
    }

    fn egress_only(&mut self, vpc: &'p Vpc) -> Step<'p> {
        let component = Component::EgressOnlyInternetGateway;
        let own = self.packet.source.is_ipv6() && find::owner(vpc, self.packet.source).is_some();
        if !own {
            let code = Code::GatewayRejectsSpoofedTraffic;
            return Err(self.refused(code, component, vpc, None));
        }
        self.hop(component, Some(vpc), None);
        self.remember_abroad(vpc);
        Ok(At::Abroad { back: false })
    }

    fn remember_abroad(&mut self, vpc: &Vpc) {
        if !self.answer
            && let Some(reply) = self.packet.reply()
        {
            self.flow.abroad.push((vpc.id.clone(), reply));
        }
    }

    /// From the outside in, or out for good.
    fn abroad(&mut self, back: bool) -> Step<'p> {
        let destination = self.packet.destination;
        let from_outside = self.hops.is_empty();
        let Some((place, private)) = find::called(self.plan, destination) else {
            if from_outside && !back {
                let code = Code::IgwPrivateIpAssociationForIngress;
                return Err(Self::refusal(code, Component::InternetGateway, self.packet));
            }
            return Ok(At::End(Arrival::Outside));
        };
        let vpc = place.vpc;
        let known = (vpc.id.clone(), self.packet);
        let awaited = self.answer && self.flow.abroad.contains(&known);
        // By an egress-only gateway come answers alone.
        let open = vpc.internet_gateway || awaited && destination.is_ipv6();
        if !open {
            let code = Code::IgwPrivateIpAssociationForIngress;
            return Err(self.refused(code, Component::InternetGateway, vpc, None));
        }
        let component = if vpc.internet_gateway {
            Component::InternetGateway
        } else {
            Component::EgressOnlyInternetGateway
        };
        let after = Packet { destination: private, ..self.packet };
        self.translating(component, Some(vpc), None, after);
        Ok(At::Entering { place, from: None })
    }

    fn peering(&mut self, vpc: &'p Vpc, id: &str) -> Step<'p> {
        let component = Component::Peering(id.to_owned());
        let peering = self.plan.peerings.iter().find(|peering| peering.id == id);
        let other = peering.and_then(|peering| {
            let [one, other] = &peering.sides;
            match (one.vpc_id == vpc.id, other.vpc_id == vpc.id) {
                (true, _) => find::vpc(self.plan, &other.vpc_id),
                (false, true) => find::vpc(self.plan, &one.vpc_id),
                (false, false) => None,
            }
        });
        let Some(other) = other else {
            return Err(self.refused(Code::BadStateRoute, component, vpc, None));
        };
        let Packet { source, destination, .. } = self.packet;
        if !find::is_local(vpc, source) || !find::is_local(other, destination) {
            let code = Code::PcxRequiresAddressInVpcCidr;
            return Err(self.refused(code, component, vpc, None));
        }
        self.hop(component, None, None);
        Ok(At::Handing { vpc: other, from: None })
    }

    fn attach(&mut self, vpc: &'p Vpc, id: &str) -> Step<'p> {
        let gateway = self.plan.transit_gateways.iter().find(|gateway| gateway.id == id);
        let attached = gateway.and_then(|gateway| {
            let attachment = gateway.attachments.iter().find(|attachment| {
                matches!(&attachment.resource,
                    AttachedResource::Vpc { vpc_id, .. } if *vpc_id == vpc.id)
            })?;
            Some((gateway, attachment))
        });
        let Some((gateway, attachment)) = attached else {
            let component = Component::TransitGateway(id.to_owned());
            return Err(self.refused(Code::BadStateRoute, component, vpc, None));
        };
        let component = Component::TransitGatewayAttachment(attachment.id.clone());
        self.hop(component, Some(vpc), None);
        Ok(At::Transit { gateway, attachment })
    }

    fn transit(
        &mut self,
        gateway: &'p TransitGateway,
        attachment: &'p TransitGatewayAttachment,
    ) -> Step<'p> {
        self.hop(Component::TransitGateway(gateway.id.clone()), None, None);
        let table = attachment.route_table.as_ref();
        let table = table.and_then(|id| gateway.route_tables.iter().find(|t| t.id == *id));
        let Some(table) = table else {
            let component = Component::TransitGatewayAttachment(attachment.id.clone());
            let code = Code::TgwAttachMissingTgwRtbAssociation;
            return Err(Self::refusal(code, component, self.packet));
        };
        let matching =
            table.routes.iter().filter(|r| r.destination.contains(self.packet.destination));
        let route = matching.max_by_key(|route| route.destination.length());
        let component = Component::TransitGatewayRouteTable {
            transit_gateway_id: gateway.id.clone(),
            id: table.id.clone(),
            route: route.map(|route| (route.destination, route.attachment.clone())),
        };
        let Some(route) = route else {
            let code = Code::TgwRtbNoRouteToTgwAttachment;
            return Err(Self::refusal(code, component, self.packet));
        };
        let to = route.attachment.as_ref();
        let Some(next) = to.and_then(|id| gateway.attachments.iter().find(|a| a.id == *id)) else {
            return Err(Self::refusal(Code::TgwRtbBadStateRoute, component, self.packet));
        };
        self.hop(component, None, None);
        let out = Component::TransitGatewayAttachment(next.id.clone());
        match &next.resource {
            AttachedResource::Vpc { vpc_id, route_table } => {
                let Some(vpc) = find::vpc(self.plan, vpc_id) else {
                    return Err(Self::refusal(Code::TgwRtbBadStateRoute, out, self.packet));
                };
                self.hop(out, Some(vpc), None);
                Ok(At::Crossing { vpc, table: route_table, subnet: None })
            }
            AttachedResource::Peering { transit_gateway_id } => {
                let mut gateways = self.plan.transit_gateways.iter();
                let other = gateways.find(|gateway| gateway.id == *transit_gateway_id);
                let there = other.and_then(|other| {
                    let attachment = other.attachments.iter().find(|a| a.id == next.id)?;
                    Some((other, attachment))
                });
                let Some((gateway, attachment)) = there else {
                    return Err(Self::refusal(Code::TgwRtbBadStateRoute, out, self.packet));
                };
                self.hop(out, None, None);
                Ok(At::Transit { gateway, attachment })
            }
        }
    }

    fn endpoint(&mut self, vpc: &'p Vpc, id: &str) -> Step<'p> {
        let component = Component::GatewayEndpoint(id.to_owned());
        let endpoint = vpc.gateway_endpoints.iter().find(|endpoint| endpoint.id == id);
        let Some(endpoint) = endpoint else {
            return Err(self.refused(Code::BadStateRoute, component, vpc, None));
        };
        if !endpoint.addresses.iter().any(|own| IpAddr::V4(*own) == self.packet.destination) {
            return Err(self.refused(Code::NoPossibleDestination, component, vpc, None));
        }
        if !matches!(self.packet.traffic, Traffic::Tcp { .. } | Traffic::Icmp { kind: 8, .. }) {
            return Err(self.refused(Code::VpceGatewayProtocolRestriction, component, vpc, None));
        }
        // It serves its own VPC (AWS PrivateLink guide, "Gateway endpoints").
        if !find::is_local(vpc, self.packet.source) {
            return Err(self.refused(Code::GatewayRejectsSpoofedTraffic, component, vpc, None));
        }
        self.hop(component, Some(vpc), None);
        Ok(At::End(Arrival::GatewayEndpoint(vpc, &endpoint.id)))
    }
}

/// Whether an interface takes only packets to its own addresses.
fn is_checked(interface: &Interface) -> bool {
    match interface.holder {
        Holder::Machine(_) => interface.source_dest_check,
        Holder::NatGateway(_) => false,
        Holder::Endpoint(_) => true,
    }
}

/// Whether route tables lead packets to an address at all: link-local ones and groups stay where
/// they are.
fn is_routed(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !(address.is_link_local() || address.is_multicast()),
        IpAddr::V6(address) => !(address.is_unicast_link_local() || address.is_multicast()),
    }
}
