//! What the network of the node must be: compiled from the records, and kept so.
//!
//! [`compile`] is the plan: pure, a function of the records of every region. A VPC is in it as long
//! as an interface in it belongs to a machine. Machines that are stopped keep theirs, so that they
//! find their place again without a new plan; one that is shutting down keeps it until it is gone,
//! so that its last words are heard; a terminated instance has none.
//!
//! The reconciler has one key for the whole node, since a plan replaces the one before it: plans of
//! two runs can never overtake each other.
//!
//! Not here: IPv6, whose rules are kept and shown but let nothing pass; how a plan becomes kernel
//! state, which is the `net` crate's business.

use crate::interface::private_dns_name;
use crate::record::{
    Instance, InstanceState, Interface, RulePeer, SecurityGroup, SecurityGroupRule, Subnet, Vpc,
    key,
};
use crate::region;
use base::network::{self, Peer, Plan, Protocol, Rule};
use service::call::Record;
use service::reconcile::Reconciler;
use service::{Call, Effect, Error};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// The reconciler of the node's network.
pub(crate) const RECONCILER: Reconciler =
    Reconciler { name: "network", for_network: true, work_key, run };

/// The one work key.
const NODE: &str = "/node-network";

/// The kinds of record that a plan is made of.
const KINDS: &[&str] = &[key::VPC, key::SUBNET, key::SECURITY_GROUP, key::INTERFACE, key::INSTANCE];

fn work_key(record_key: &str) -> Option<String> {
    let mut parts = record_key.strip_prefix('/')?.split('/');
    let (region, kind) = (parts.next()?, parts.next()?);
    (KINDS.contains(&kind) && region::is_name(region)).then(|| NODE.to_owned())
}

fn run(call: &mut Call<'_>, _: &str) -> Result<(), Error> {
    if !call.environment.driver.has_network() {
        return Ok(());
    }
    let regions =
        names(call).iter().map(|name| Records::read(call, name)).collect::<Result<Vec<_>, _>>()?;
    call.effect(Effect::Network(Box::new(compile(&regions))));
    Ok(())
}

/// The regions that have records, found by leaping from one to the next.
fn names(call: &Call<'_>) -> Vec<String> {
    let mut names = Vec::new();
    let mut from = "/".to_owned();
    loop {
        let next = call.snapshot().scan_from("/", &from).next();
        let Some(top) = next.and_then(|kv| kv.key().split('/').nth(1).map(str::to_owned)) else {
            return names;
        };
        // '0' is the character after '/': the first key behind all of this region's.
        from = format!("/{top}0");
        if region::is_name(&top) {
            names.push(top);
        }
    }
}

/// What a plan is made of, of one region.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) region: String,
    pub(crate) vpcs: Vec<Arc<Vpc>>,
    pub(crate) subnets: Vec<Arc<Subnet>>,
    pub(crate) groups: Vec<Arc<SecurityGroup>>,
    pub(crate) interfaces: Vec<Arc<Interface>>,
    pub(crate) instances: Vec<Arc<Instance>>,
}

impl Records {
    fn read(call: &Call<'_>, region: &str) -> Result<Self, Error> {
        fn all<T: Record>(call: &Call<'_>, region: &str, kind: &str) -> Result<Vec<Arc<T>>, Error> {
            call.scan(&format!("/{region}/{kind}/"))
        }
        Ok(Records {
            region: region.to_owned(),
            vpcs: all(call, region, key::VPC)?,
            subnets: all(call, region, key::SUBNET)?,
            groups: all(call, region, key::SECURITY_GROUP)?,
            interfaces: all(call, region, key::INTERFACE)?,
            instances: all(call, region, key::INSTANCE)?,
        })
    }
}

/// The network that the records want.
pub(crate) fn compile(regions: &[Records]) -> Plan {
    Plan { vpcs: regions.iter().flat_map(vpcs).collect() }
}

fn vpcs(records: &Records) -> Vec<network::Vpc> {
    let states: HashMap<&str, InstanceState> =
        records.instances.iter().map(|i| (i.id.as_str(), i.state)).collect();
    let mut interfaces: BTreeMap<&str, Vec<network::Interface>> = BTreeMap::new();
    for interface in &records.interfaces {
        let Some(attachment) = &interface.attachment else { continue };
        match states.get(attachment.instance_id.as_str()) {
            None | Some(InstanceState::Terminated) => {}
            Some(_) => interfaces.entry(interface.vpc_id.as_str()).or_default().push(to_plan(
                &records.region,
                interface,
                &attachment.instance_id,
            )),
        }
    }
    let groups: HashMap<&str, &SecurityGroup> =
        records.groups.iter().map(|group| (group.id.as_str(), group.as_ref())).collect();
    records
        .vpcs
        .iter()
        .filter_map(|vpc| {
            let interfaces = interfaces.remove(vpc.id.as_str())?;
            let subnets = records.subnets.iter().filter(|subnet| subnet.vpc_id == vpc.id);
            Some(network::Vpc {
                id: vpc.id.clone(),
                region: records.region.clone(),
                cidrs: vec![vpc.cidr],
                subnets: subnets
                    .map(|subnet| network::Subnet { id: subnet.id.clone(), cidr: subnet.cidr })
                    .collect(),
                groups: used_groups(&interfaces, &groups),
                interfaces,
            })
        })
        .collect()
}

fn to_plan(region: &str, interface: &Interface, instance_id: &str) -> network::Interface {
    network::Interface {
        id: interface.id.clone(),
        instance_id: instance_id.to_owned(),
        subnet_id: interface.subnet_id.clone(),
        mac: interface.mac.clone(),
        private_ip: interface.private_ip,
        public_ip: interface.public_ip,
        hostname: private_dns_name(region, interface.private_ip),
        groups: interface.groups.clone(),
        source_dest_check: interface.source_dest_check,
    }
}

/// The groups of the interfaces with their rules, and those that a rule names: of these only the
/// members matter, so they come without rules.
fn used_groups(
    interfaces: &[network::Interface],
    groups: &HashMap<&str, &SecurityGroup>,
) -> Vec<network::SecurityGroup> {
    let mut used: BTreeMap<String, network::SecurityGroup> = BTreeMap::new();
    for id in interfaces.iter().flat_map(|interface| &interface.groups) {
        // A group that is gone allows nothing.
        let Some(group) = groups.get(id.as_str()).filter(|_| !used.contains_key(id)) else {
            continue;
        };
        let compiled = network::SecurityGroup {
            id: id.clone(),
            ingress: rules(group, false, groups),
            egress: rules(group, true, groups),
        };
        used.insert(id.clone(), compiled);
    }
    let named: BTreeSet<String> = used
        .values()
        .flat_map(|group| group.ingress.iter().chain(&group.egress))
        .filter_map(|rule| match &rule.peer {
            Peer::Group(id) => Some(id.clone()),
            Peer::Cidr(_) => None,
        })
        .collect();
    for id in named {
        used.entry(id.clone()).or_insert(network::SecurityGroup {
            id,
            ingress: Vec::new(),
            egress: Vec::new(),
        });
    }
    used.into_values().collect()
}

fn rules(group: &SecurityGroup, egress: bool, groups: &HashMap<&str, &SecurityGroup>) -> Vec<Rule> {
    let rules: BTreeSet<Rule> = group
        .rules
        .iter()
        .filter(|rule| rule.egress == egress)
        .filter_map(|rule| {
            let peer = match &rule.peer {
                RulePeer::Ipv4(cidr) => Peer::Cidr(*cidr),
                RulePeer::Group(id) if groups.contains_key(id.as_str()) => Peer::Group(id.clone()),
                RulePeer::Group(_) | RulePeer::Ipv6(_) => return None,
            };
            Some(Rule { protocol: protocol(rule)?, peer })
        })
        .collect();
    rules.into_iter().collect()
}

/// What traffic a rule means; `None` when IPv4 never carries it.
fn protocol(rule: &SecurityGroupRule) -> Option<Protocol> {
    let port = |port: Option<i32>, otherwise: u16| {
        port.and_then(|port| u16::try_from(port).ok()).unwrap_or(otherwise)
    };
    let range = || (port(rule.from_port, 0), port(rule.to_port, u16::MAX));
    let octet = |number: Option<i32>| number.and_then(|number| u8::try_from(number).ok());
    Some(match rule.protocol.as_str() {
        "-1" => Protocol::All,
        "tcp" => {
            let (from, to) = range();
            Protocol::Tcp { from, to }
        }
        "udp" => {
            let (from, to) = range();
            Protocol::Udp { from, to }
        }
        "icmp" => Protocol::Icmp { kind: octet(rule.from_port), code: octet(rule.to_port) },
        "icmpv6" => return None,
        number => Protocol::Number(number.parse().ok()?),
    })
}

#[cfg(test)]
mod tests;
