//! What a path asks, and what packets answer.
//!
//! A path leaves some things open: ports, an address outside. AWS says that the destination is
//! reachable when one packet exists that gets there, and back its answer. Groups and ACLs tell packets
//! apart only at the edges of their ranges, so it is enough to try those.

use crate::network_plan::Records;
use crate::record::{
    InsightsAnalysis, InsightsExplanation, InsightsFilter, InsightsOutcome, InsightsPacket,
    InsightsPath, InsightsRule, InsightsStep, InstanceState,
};
use base::Cidr;
use base::network::{AclRule, Holder, Interface, Peer, Plan, Protocol, Rule, Target, Vpc};
use reach::{
    Answer, Component, Direction, End, Hop, Origin, Packet, Refusal, Traffic, Walk, reach,
};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

/// Most packets that are tried for one analysis.
const MOST_PACKETS: usize = 2000;
/// Most values of a port or an address that are tried.
const MOST_VALUES: usize = 64;

/// An address outside (RFC 5737) when a path names none.
const SOMEBODY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The port that a caller has when a path names none: the first dynamic one (RFC 6335).
const CALLER_PORT: u16 = 49_152;
/// The port that is called when a path names none and no rule does.
const CALLED_PORT: u16 = 80;

/// One end of a path.
enum Side<'p> {
    /// Interfaces of one machine or endpoint.
    Interfaces(Vec<(&'p Vpc, &'p Interface)>),
    /// Beyond the internet gateway of a VPC.
    Outside(&'p str),
    /// A gateway endpoint of a VPC.
    Service(&'p Vpc, Vec<Ipv4Addr>),
    /// Whoever has the address.
    Anybody,
}

/// Looks at one path.
pub(super) struct Analyzer<'p> {
    /// The records of the path's region.
    pub(super) records: &'p Records,
    /// The whole plan.
    pub(super) plan: &'p Plan,
    pub(super) path: &'p InsightsPath,
}

impl<'p> Analyzer<'p> {
    /// What is found.
    pub(super) fn run(&self, analysis: &InsightsAnalysis) -> InsightsOutcome {
        let source = self.side(&self.path.source);
        let destination = match &self.path.destination {
            Some(id) => self.side(id),
            None => Ok(Side::Anybody),
        };
        let (source, destination) = match (source, destination) {
            (Ok(source), Ok(destination)) => (source, destination),
            (source, destination) => {
                let refused = [source.err(), destination.err()];
                return InsightsOutcome {
                    explanations: refused.into_iter().flatten().map(|why| *why).collect(),
                    ..InsightsOutcome::default()
                };
            }
        };
        let mut best: Option<(usize, InsightsOutcome)> = None;
        for (origin, packet) in self.packets(&source, &destination) {
            let answer = reach(self.plan, &origin, packet);
            let (rank, outcome) = self.judge(analysis, &destination, &answer);
            if outcome.found {
                return outcome;
            }
            // The first of those that came furthest tells why.
            if best.as_ref().is_none_or(|(other, _)| rank < *other) {
                best = Some((rank, outcome));
            }
        }
        best.map(|(_, outcome)| outcome).unwrap_or_default()
    }

    fn side(&self, id: &str) -> Result<Side<'p>, Box<InsightsExplanation>> {
        let bad = |code: &str, id: &str| {
            let at = InsightsStep { id: id.to_owned(), ..InsightsStep::default() };
            Box::new(InsightsExplanation { code: code.to_owned(), at })
        };
        let all =
            || self.plan.vpcs.iter().flat_map(|vpc| vpc.interfaces.iter().map(move |i| (vpc, i)));
        let runs = |instance_id: &str| {
            let mut instances = self.records.instances.iter();
            instances.any(|i| i.id == instance_id && i.state == InstanceState::Running)
        };
        match id.split_once('-').map_or(id, |(prefix, _)| prefix) {
            "i" => {
                let own: Vec<_> = all().filter(|(_, i)| i.instance_id() == Some(id)).collect();
                if own.is_empty() || !runs(id) {
                    return Err(bad("BAD_STATE", id));
                }
                Ok(Side::Interfaces(own))
            }
            "eni" => {
                let Some(own) = all().find(|(_, interface)| interface.id == id) else {
                    return Err(bad("BAD_STATE", id));
                };
                match own.1.instance_id() {
                    Some(instance_id) if !runs(instance_id) => Err(bad("BAD_STATE", instance_id)),
                    _ => Ok(Side::Interfaces(vec![own])),
                }
            }
            "igw" => {
                let vpc = self
                    .records
                    .vpcs
                    .iter()
                    .find(|vpc| vpc.internet_gateway_id.as_deref() == Some(id));
                vpc.map(|vpc| Side::Outside(vpc.id.as_str()))
                    .ok_or_else(|| bad("BAD_STATE_ATTACHMENT", id))
            }
            _ => {
                let gateway = self.plan.vpcs.iter().find_map(|vpc| {
                    let endpoint = vpc.gateway_endpoints.iter().find(|e| e.id == id)?;
                    Some(Side::Service(vpc, endpoint.addresses.clone()))
                });
                let own: Vec<_> =
                    all().filter(|(_, i)| i.holder == Holder::Endpoint(id.to_owned())).collect();
                match gateway {
                    Some(side) => Ok(side),
                    None if own.is_empty() => Err(bad("BAD_STATE", id)),
                    None => Ok(Side::Interfaces(own)),
                }
            }
        }
    }

    /// The packets that are tried, the plainest first.
    fn packets(&self, source: &Side<'_>, destination: &Side<'_>) -> Vec<(Origin, Packet)> {
        let path = self.path;
        let here = path.at_source.clone().unwrap_or_default();
        let there = path.at_destination.clone().unwrap_or_default();
        let (rules, acls) = self.rules(&[source, destination]);
        let outside = matches!(source, Side::Outside(_));
        let given = path.source_ip.or(here.source_address);
        let from: Vec<(Origin, Vec<Ipv4Addr>)> = match source {
            Side::Interfaces(own) => own
                .iter()
                .map(|(_, interface)| {
                    let addresses = interface.addresses().map(|address| address.private_ip);
                    let addresses = given.map_or_else(|| addresses.collect(), |ip| vec![ip]);
                    (Origin::Interface(interface.id.clone()), addresses)
                })
                .collect(),
            _ => {
                let given = given.or(there.source_address);
                let addresses = given.map_or_else(|| strangers(&rules, &acls), |ip| vec![ip]);
                vec![(Origin::Outside, addresses)]
            }
        };
        let given = path.destination_ip.or(here.destination_address);
        let to: Vec<Ipv4Addr> = match (given, destination) {
            (Some(ip), _) => vec![ip],
            (None, Side::Interfaces(own)) => {
                let addresses = || own.iter().flat_map(|(_, interface)| interface.addresses());
                let public: Vec<_> = addresses().filter_map(|address| address.public_ip).collect();
                if outside && !public.is_empty() {
                    public
                } else {
                    addresses().map(|address| address.private_ip).collect()
                }
            }
            (None, Side::Outside(_)) => {
                there.destination_address.map_or_else(|| strangers(&rules, &acls), |ip| vec![ip])
            }
            (None, Side::Service(_, addresses)) => addresses.clone(),
            (None, Side::Anybody) => there.destination_address.into_iter().collect(),
        };
        let called = path.destination_port.map(|port| (port, port));
        let called = called.or(here.destination_ports).or(there.destination_ports);
        let edges = edges(path.udp, &rules, &acls);
        let called = ports(called.unwrap_or((1, u16::MAX)), CALLED_PORT, &edges);
        let caller = here.source_ports.or(there.source_ports).unwrap_or((1024, u16::MAX));
        let caller = ports(caller, CALLER_PORT, &edges);
        let mut packets = Vec::new();
        for (origin, sources) in &from {
            for source in sources {
                for destination in &to {
                    for called in &called {
                        for caller in &caller {
                            let (source_port, destination_port) = (*caller, *called);
                            let traffic = if path.udp {
                                Traffic::Udp { source: source_port, destination: destination_port }
                            } else {
                                Traffic::Tcp { source: source_port, destination: destination_port }
                            };
                            packets.push((
                                origin.clone(),
                                Packet {
                                    source: (*source).into(),
                                    destination: (*destination).into(),
                                    traffic,
                                },
                            ));
                            if packets.len() == MOST_PACKETS {
                                return packets;
                            }
                        }
                    }
                }
            }
        }
        packets
    }

    /// The rules at the ends of a path.
    fn rules(&self, sides: &[&Side<'_>]) -> (Vec<Rule>, Vec<AclRule>) {
        let (mut rules, mut acls) = (Vec::new(), Vec::new());
        for side in sides {
            let Side::Interfaces(own) = side else { continue };
            for (vpc, interface) in own {
                let groups = vpc.groups.iter().filter(|g| interface.groups.contains(&g.id));
                rules.extend(groups.flat_map(|g| g.ingress.iter().chain(&g.egress)).cloned());
                let subnet = vpc.subnets.iter().find(|s| s.id == interface.subnet_id);
                let acl = subnet.and_then(|subnet| {
                    vpc.network_acls.iter().find(|a| a.id == subnet.network_acl)
                });
                let both = acl.into_iter().flat_map(|acl| acl.ingress.iter().chain(&acl.egress));
                acls.extend(both.cloned());
                for list in &vpc.prefix_lists {
                    let named = rules.iter().any(|r| r.peer == Peer::PrefixList(list.id.clone()));
                    let protocol = Protocol::All;
                    let entries = list.cidrs.iter().filter(|_| named);
                    rules.extend(
                        entries
                            .map(|cidr| Rule { protocol, peer: Peer::Cidr(*cidr) })
                            .collect::<Vec<_>>(),
                    );
                }
            }
        }
        (rules, acls)
    }

    /// What a packet's way says of the path, and how far it is from it.
    fn judge(
        &self,
        analysis: &InsightsAnalysis,
        destination: &Side<'_>,
        answer: &Answer,
    ) -> (usize, InsightsOutcome) {
        let mut explanations: Vec<InsightsExplanation> =
            answer.refusals().map(|refusal| self.explanation(refusal)).collect();
        let forward = self.steps(&answer.forward);
        let back = answer.back.as_ref().map(|back| self.steps(back)).unwrap_or_default();
        let rank = match (answer.reachable(), answer.forward.arrives()) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => 2 + explanations.len() * 100 + 99_usize.saturating_sub(forward.len()),
        };
        if explanations.is_empty() {
            let last = forward.last().cloned().unwrap_or_default();
            let code = if !self.is_there(destination, &answer.forward) {
                Some("NO_POSSIBLE_DESTINATION")
            } else if !passes_filters(analysis, &forward) {
                Some("COMPONENT_FILTER_RESTRICTION")
            } else {
                None
            };
            let at = InsightsStep { id: last.id, vpc_id: last.vpc_id, ..InsightsStep::default() };
            explanations.extend(code.map(|code| InsightsExplanation { code: code.to_owned(), at }));
        }
        let found = explanations.is_empty();
        (rank, InsightsOutcome { found, forward, back, explanations })
    }

    /// Whether a way ends at the destination, with a packet that the path asks for.
    fn is_there(&self, destination: &Side<'_>, walk: &Walk) -> bool {
        let at_end = match (destination, &walk.end) {
            (Side::Interfaces(own), Some(End::Interface(id))) => {
                own.iter().any(|(_, interface)| interface.id == *id)
            }
            (Side::Outside(vpc_id), Some(End::Outside)) => walk.hops.last().is_some_and(|hop| {
                hop.component == Component::InternetGateway && hop.vpc_id.as_deref() == Some(vpc_id)
            }),
            (Side::Service(vpc, _), Some(End::GatewayEndpoint { vpc_id, .. })) => vpc.id == *vpc_id,
            (Side::Anybody, Some(_)) => true,
            _ => false,
        };
        let filter = self.path.at_destination.as_ref();
        at_end && filter.is_none_or(|filter| is_like(filter, walk.packet))
    }

    fn steps(&self, walk: &Walk) -> Vec<InsightsStep> {
        let mut steps: Vec<InsightsStep> = walk.hops.iter().map(|hop| self.step(hop)).collect();
        // What holds the interfaces at the ends.
        let machine = |step: Option<&InsightsStep>| {
            let holder = step.and_then(|step| step.attached_to.clone());
            let holder = holder.filter(|holder| holder.starts_with("i-"));
            holder.map(|id| InsightsStep { id, ..InsightsStep::default() })
        };
        let (first, last) = (machine(steps.first()), machine(steps.last()));
        if walk.arrives() {
            steps.extend(last);
        }
        if let Some(first) = first {
            steps.insert(0, first);
        }
        steps
    }

    fn step(&self, hop: &Hop) -> InsightsStep {
        let mut step = self.component(&hop.component, hop.vpc_id.as_deref());
        step.vpc_id.clone_from(&hop.vpc_id);
        step.subnet_id.clone_from(&hop.subnet_id);
        step.before = Some(packet(hop.before));
        step.after = Some(packet(hop.after));
        step
    }

    fn explanation(&self, refusal: &Refusal) -> InsightsExplanation {
        let mut at = self.component(&refusal.component, refusal.vpc_id.as_deref());
        at.vpc_id.clone_from(&refusal.vpc_id);
        at.subnet_id.clone_from(&refusal.subnet_id);
        at.before = Some(packet(refusal.packet));
        InsightsExplanation { code: refusal.code.name().to_owned(), at }
    }

    /// The id of a component, and what of it applied.
    fn component(&self, component: &Component, vpc_id: Option<&str>) -> InsightsStep {
        let egress = |direction: &Direction| *direction == Direction::Egress;
        let (id, applied) = match component {
            Component::Interface(id) => {
                let mut all = self.plan.vpcs.iter().flat_map(|vpc| &vpc.interfaces);
                let found = all.find(|interface| interface.id == *id);
                let attached_to = found.map(|interface| match &interface.holder {
                    Holder::Machine(id) | Holder::NatGateway(id) | Holder::Endpoint(id) => {
                        id.clone()
                    }
                });
                return InsightsStep { id: id.clone(), attached_to, ..InsightsStep::default() };
            }
            Component::SecurityGroups { interface_id, ids, direction, rule } => (
                ids.first().cloned().unwrap_or_default(),
                InsightsRule::Groups {
                    egress: egress(direction),
                    interface_id: interface_id.clone(),
                    ids: ids.clone(),
                    rule: rule.clone(),
                },
            ),
            Component::NetworkAcl { id, direction, rule } => {
                let rule = rule.clone();
                (id.clone(), InsightsRule::Acl { egress: egress(direction), rule })
            }
            Component::RouteTable { id, route } => {
                let route = route.as_ref().map(|(destination, target)| InsightsRule::Route {
                    destination: *destination,
                    target: self.target(target, vpc_id),
                });
                (id.clone(), route.unwrap_or_default())
            }
            Component::InternetGateway => {
                (self.internet_gateway(vpc_id).unwrap_or_default(), InsightsRule::None)
            }
            Component::EgressOnlyInternetGateway => {
                (self.egress_only(vpc_id).unwrap_or_default(), InsightsRule::None)
            }
            Component::NatGateway(id)
            | Component::Peering(id)
            | Component::GatewayEndpoint(id)
            | Component::TransitGateway(id)
            | Component::TransitGatewayAttachment(id) => (id.clone(), InsightsRule::None),
            Component::TransitGatewayRouteTable { transit_gateway_id, id, route } => (
                id.clone(),
                InsightsRule::TransitRoute {
                    gateway_id: transit_gateway_id.clone(),
                    route: route.clone(),
                },
            ),
        };
        InsightsStep { id, applied, ..InsightsStep::default() }
    }

    fn internet_gateway(&self, vpc_id: Option<&str>) -> Option<String> {
        let vpc = self.records.vpcs.iter().find(|vpc| Some(vpc.id.as_str()) == vpc_id);
        // From outside to an address that nobody has: by the gateway that was asked about.
        let asked = Some(self.path.source.clone()).filter(|id| id.starts_with("igw-"));
        vpc.and_then(|vpc| vpc.internet_gateway_id.clone()).or(asked)
    }

    fn egress_only(&self, vpc_id: Option<&str>) -> Option<String> {
        let mut gateways = self.records.egress_only.iter();
        gateways.find(|gateway| Some(gateway.vpc_id.as_str()) == vpc_id).map(|g| g.id.clone())
    }

    fn target(&self, target: &Target, vpc_id: Option<&str>) -> Option<String> {
        match target {
            Target::Local => Some("local".to_owned()),
            Target::InternetGateway => self.internet_gateway(vpc_id),
            Target::EgressOnlyInternetGateway => self.egress_only(vpc_id),
            Target::Interface(id) => {
                let mut all = self.plan.vpcs.iter().flat_map(|vpc| &vpc.interfaces);
                match all.find(|interface| interface.id == *id).map(|i| &i.holder) {
                    Some(Holder::NatGateway(nat)) => Some(nat.clone()),
                    _ => Some(id.clone()),
                }
            }
            Target::Peering(id) | Target::TransitGateway(id) | Target::GatewayEndpoint(id) => {
                Some(id.clone())
            }
            Target::Blackhole => None,
        }
    }
}

fn packet(packet: Packet) -> InsightsPacket {
    let ports = match packet.traffic {
        Traffic::Tcp { source, destination } | Traffic::Udp { source, destination } => {
            Some((source, destination))
        }
        _ => None,
    };
    InsightsPacket {
        source: packet.source,
        destination: packet.destination,
        ports,
        protocol: packet.traffic.number(),
    }
}

fn passes_filters(analysis: &InsightsAnalysis, steps: &[InsightsStep]) -> bool {
    let passed = |arn: &String| {
        let id = super::id_of(arn);
        steps.iter().any(|step| step.id == id)
    };
    analysis.filter_in.iter().all(passed) && !analysis.filter_out.iter().any(passed)
}

fn is_like(filter: &InsightsFilter, packet: Packet) -> bool {
    let (Traffic::Tcp { source, destination } | Traffic::Udp { source, destination }) =
        packet.traffic
    else {
        return false;
    };
    let address =
        |wanted: Option<Ipv4Addr>, is: IpAddr| wanted.is_none_or(|ip| IpAddr::V4(ip) == is);
    let port = |wanted: Option<(u16, u16)>, is: u16| {
        wanted.is_none_or(|(from, to)| (from..=to).contains(&is))
    };
    address(filter.source_address, packet.source)
        && address(filter.destination_address, packet.destination)
        && port(filter.source_ports, source)
        && port(filter.destination_ports, destination)
}

/// The edges of the port ranges of a protocol in rules, and what lies just beyond.
fn edges(udp: bool, rules: &[Rule], acls: &[AclRule]) -> BTreeSet<u16> {
    let protocols = rules.iter().map(|r| r.protocol).chain(acls.iter().map(|r| r.protocol));
    let ranges = protocols.filter_map(|protocol| match protocol {
        Protocol::Tcp { from, to } if !udp => Some((from, to)),
        Protocol::Udp { from, to } if udp => Some((from, to)),
        _ => None,
    });
    ranges.flat_map(|(from, to)| [from, to, from.saturating_sub(1), to.saturating_add(1)]).collect()
}

/// The ports of a range that are worth trying, the usual one first.
fn ports((from, to): (u16, u16), usual: u16, edges: &BTreeSet<u16>) -> Vec<u16> {
    let first = if (from..=to).contains(&usual) { usual } else { from };
    let mut ports = vec![first];
    for port in edges.range(from..=to).chain([&from, &to]) {
        if !ports.contains(port) && ports.len() < MOST_VALUES {
            ports.push(*port);
        }
    }
    ports
}

/// Addresses outside that are worth trying: somebody's, and those that rules name.
fn strangers(rules: &[Rule], acls: &[AclRule]) -> Vec<Ipv4Addr> {
    let named = rules.iter().filter_map(|rule| match &rule.peer {
        Peer::Cidr(Cidr::V4(cidr)) => Some(*cidr),
        _ => None,
    });
    let listed = acls.iter().filter_map(|rule| match rule.cidr {
        Cidr::V4(cidr) => Some(cidr),
        Cidr::V6(_) => None,
    });
    let mut strangers = vec![SOMEBODY];
    for cidr in named.chain(listed) {
        // An internet gateway lets no private address in (RFC 1918).
        let address = if cidr.length() < 31 { cidr.nth(1) } else { cidr.nth(0) };
        let address = address.filter(|a| !a.is_private() && cidr.length() > 0);
        if let Some(address) = address
            && !strangers.contains(&address)
            && strangers.len() < MOST_VALUES
        {
            strangers.push(address);
        }
    }
    strangers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_worth_trying_are_the_edges() {
        let rule = |from, to| Rule {
            protocol: Protocol::Tcp { from, to },
            peer: Peer::Cidr("0.0.0.0/0".parse().unwrap()),
        };
        let edges = edges(false, &[rule(443, 450), rule(0, 65535)], &[]);
        assert_eq!(Vec::from_iter(&edges), [&0, &442, &443, &450, &451, &65535]);
        assert_eq!(ports((1, u16::MAX), 80, &edges), [80, 442, 443, 450, 451, 65535, 1]);
        assert_eq!(ports((444, 449), 80, &edges), [444, 449]);
        assert_eq!(ports((22, 22), 80, &edges), [22]);
    }

    #[test]
    fn strangers_are_outside() {
        let rule =
            |cidr: &str| Rule { protocol: Protocol::All, peer: Peer::Cidr(cidr.parse().unwrap()) };
        let rules = ["0.0.0.0/0", "10.0.0.0/8", "203.0.113.7/32", "192.0.2.0/24", "::/0"].map(rule);
        let named: [Ipv4Addr; 3] =
            ["198.51.100.1", "203.0.113.7", "192.0.2.1"].map(|text| text.parse().unwrap());
        assert_eq!(strangers(&rules, &[]), named);
    }
}
