//! Who reaches whom in random networks, told twice: by the crate and by a toy of the network.
//!
//! `REACH_SEED=n` draws one network only.

#![allow(unreachable_pub, missing_debug_implementations)]

mod naive;
mod random;

use base::network::{Holder, Plan};
use naive::Receiver;
use reach::{End, Origin, Packet, Traffic, reach};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

const SEEDS: u64 = 200;

/// Every sender with the addresses that it sends from; none is the outside.
fn senders(plan: &Plan) -> Vec<(Option<String>, IpAddr)> {
    let mut senders = Vec::new();
    for interface in plan.vpcs.iter().flat_map(|vpc| &vpc.interfaces) {
        if !matches!(interface.holder, Holder::Machine(_)) {
            continue;
        }
        let id = Some(interface.id.clone());
        senders.extend(interface.addresses().map(|a| (id.clone(), IpAddr::V4(a.private_ip))));
        senders.extend(interface.ipv6.iter().map(|a| (id.clone(), IpAddr::V6(*a))));
    }
    // And one that lies.
    let first = senders.first().and_then(|(id, _)| id.clone());
    senders.push((first, "10.0.1.77".parse().unwrap()));
    senders.push((None, "198.51.100.9".parse().unwrap()));
    senders.push((None, "2001:db8:ffff::9".parse().unwrap()));
    senders
}

fn destinations(plan: &Plan) -> BTreeSet<IpAddr> {
    let mut to = BTreeSet::new();
    for interface in plan.vpcs.iter().flat_map(|vpc| &vpc.interfaces) {
        for address in interface.addresses() {
            to.insert(IpAddr::V4(address.private_ip));
            to.extend(address.public_ip.map(IpAddr::V4));
        }
        to.extend(interface.ipv6.iter().map(|a| IpAddr::V6(*a)));
    }
    to.insert(random::SERVICE.into());
    for text in ["198.51.100.7", "2001:db8:ffff::7", "10.0.0.99", "10.200.0.1", "169.254.1.1"] {
        to.insert(text.parse().unwrap());
    }
    to
}

fn traffic(six: bool) -> [Traffic; 4] {
    [
        Traffic::Tcp { source: 40_000, destination: 80 },
        Traffic::Tcp { source: 500, destination: 22 },
        Traffic::Udp { source: 40_000, destination: 53 },
        if six {
            Traffic::Icmpv6 { kind: 128, code: 0 }
        } else {
            Traffic::Icmp { kind: 8, code: 0 }
        },
    ]
}

#[test]
fn the_matrix_is_the_same_told_twice() {
    let only = std::env::var("REACH_SEED").ok().and_then(|text| text.parse().ok());
    let seeds = only.map_or(0..SEEDS, |seed: u64| seed..seed + 1);
    let (mut reached, mut refused) = (0_u32, BTreeMap::<&str, u32>::new());
    let mut ends = BTreeMap::<&str, u32>::new();
    for seed in seeds {
        println!("seed {seed}");
        let plan = random::Drawer::plan(seed, 0, &mut 0);
        for (sender, source) in senders(&plan) {
            let origin = sender.clone().map_or(Origin::Outside, Origin::Interface);
            for destination in destinations(&plan) {
                if source.is_ipv4() != destination.is_ipv4() {
                    continue;
                }
                for traffic in traffic(source.is_ipv6()) {
                    let packet = Packet { source, destination, traffic };
                    let answer = reach(&plan, &origin, packet);
                    let (flows, receiver) = naive::flows(&plan, sender.as_deref(), packet);
                    let place = || format!("seed {seed}: {origin:?} {packet}\n{}", told(&answer));
                    assert_eq!(answer.reachable(), flows, "{}", place());
                    if answer.forward.arrives() || receiver.is_some() {
                        let end = answer.forward.end.clone().map(|end| match end {
                            End::Interface(id) => Receiver::Interface(id),
                            End::GatewayEndpoint { vpc_id, .. } => Receiver::Service(vpc_id),
                            End::Outside => Receiver::Outside,
                        });
                        assert_eq!(end, receiver, "{}", place());
                    }
                    // A refusal is always told, and what is told is a refusal.
                    assert_eq!(answer.refusals().next().is_none(), flows, "{}", place());
                    if flows {
                        reached += 1;
                        let passed = answer.forward.hops.iter().map(|hop| name(&hop.component));
                        for name in passed.collect::<BTreeSet<_>>() {
                            *ends.entry(name).or_default() += 1;
                        }
                    }
                    for refusal in answer.refusals() {
                        *refused.entry(refusal.code.name()).or_default() += 1;
                    }
                }
            }
        }
    }
    println!("{reached} flows reach; by {ends:?}; refusals: {refused:?}");
    if only.is_none() {
        // Nothing of the model is left out.
        for name in ["igw", "eigw", "nat", "pcx", "tgw", "vpce", "acl", "sg", "rtb"] {
            assert!(ends.get(name).is_some_and(|count| *count > 20), "{name} {ends:?}");
        }
        assert!(refused.len() >= 14, "{refused:?}");
    }
}

fn told(answer: &reach::Answer) -> String {
    let walks = std::iter::once(&answer.forward).chain(&answer.back);
    let lines = walks.flat_map(|walk| {
        let hops = walk.hops.iter().map(|hop| format!("  {:?} {}", hop.component, hop.after));
        let refusals = walk.refusals.iter().map(|refusal| format!("  {refusal:?}"));
        let end = std::iter::once(format!("  {:?}", walk.end));
        hops.chain(refusals).chain(end).collect::<Vec<_>>()
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn name(component: &reach::Component) -> &'static str {
    use reach::Component as C;
    match component {
        C::Interface(_) => "eni",
        C::SecurityGroups { .. } => "sg",
        C::NetworkAcl { .. } => "acl",
        C::RouteTable { .. } => "rtb",
        C::InternetGateway => "igw",
        C::EgressOnlyInternetGateway => "eigw",
        C::NatGateway(_) => "nat",
        C::Peering(_) => "pcx",
        C::GatewayEndpoint(_) => "vpce",
        C::TransitGateway(_) => "tgw",
        C::TransitGatewayAttachment(_) => "attachment",
        C::TransitGatewayRouteTable { .. } => "tgw-rtb",
    }
}
