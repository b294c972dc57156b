//! Security groups, network ACLs, spoof guard, marks and address translation of one VPC, compiled to
//! nftables objects.
//!
//! Pure: a [`Vpc`] and its [`Surroundings`] go in, a [`Ruleset`] comes out. What a packet meets:
//!
//! ```text
//!  from a tap, the uplink, a peering, a transit gateway or another node
//!    prerouting -300  guard          mark of the route table; is the sender who it says? (ARP: the
//!                                    same, in table arp)
//!    prerouting -290  zones          of connection tracking                     [with forwarders]
//!    prerouting -250  acl_out        network ACL of the subnet it leaves        [if not all pass]
//!    prerouting -200  (conntrack)
//!    prerouting -150  egress         link-local services: 1,024 packets/s, no group asked;
//!                                    egress_…: may this interface send that?
//!    prerouting -140  log_out        flow logs                                  [if there are any]
//!    prerouting -100  translate_in   public destination → private               [if there are any]
//!    (routing)   input   0  local    services and endpoints only
//!    postrouting 100  translate_out  private source → public                    [if there are any]
//!    postrouting 140  acl_in         network ACL of the subnet it enters        [if not all pass]
//!    postrouting 150  ingress        ingress_…: may this interface receive that?
//!    postrouting 160  log_in         flow logs                                  [if there are any]
//! ```
//!
//! So egress is judged by the address that the guest wrote and ingress by the address that the
//! receiver will see, before and after translation, as on EC2: traffic to a public address never
//! matches a rule that names a group.
//!
//! **Tracked and untracked** (EC2 User Guide, "Security group connection tracking"): a TCP or UDP
//! flow that a 0.0.0.0/0 or ::/0 rule allows, where the other direction allows every port to
//! anywhere, is not tracked and breaks when the rule goes; any other flow survives. The kernel tracks
//! all flows; the connection mark says which ones EC2 would have tracked: bit [`SENDER`] on the side
//! of the interface that opened the flow, bit [`RECEIVER`] on the other side. A packet of a marked
//! flow passes; a packet of an unmarked one is judged again, in its direction.
//!
//! What costs nothing where it is not used: IPv6 in a VPC without IPv6 blocks, ACLs that allow
//! everything, flow logs, tracking zones. What a packet costs does not grow with the number of
//! interfaces and groups: links lead to their rules by a map, and interfaces with the same groups
//! share one chain. A denied packet is dropped without an answer.

mod acl;
mod flows;
mod groups;
mod guard;
mod paths;
mod zones;

use crate::names::{METADATA, RESOLVER, TIME, resolver, router, tap};
use crate::protocols::Version;
use crate::ruleset::{Chain, Family, Ruleset, Set};
use crate::surroundings::Surroundings;
use base::network::{Holder, Interface, Subnet, Vpc};
pub(crate) use groups::Direction;
#[cfg(test)]
pub(crate) use groups::is_anywhere;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The flow is tracked for the interface that opened it.
pub const SENDER: u32 = 1;
/// The flow is tracked for the interface that was called.
pub const RECEIVER: u32 = 2;

/// Instance metadata, resolver and time over IPv6 (EC2 User Guide, "Instance metadata"; VPC User
/// Guide, "Amazon DNS server"; EC2 User Guide, "Amazon Time Sync Service").
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
const RESOLVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x253);
const TIME_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x123);
/// All DHCPv6 servers of a link (RFC 8415).
const DHCP_SERVERS_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// Compiles a VPC that passed the checks of a plan.
pub fn compile(vpc: &Vpc, around: &Surroundings) -> Ruleset {
    let mut compiler = Compiler::new(vpc, around);
    compiler.addresses();
    compiler.guard();
    compiler.zones();
    compiler.acls();
    compiler.paths();
    compiler.groups();
    compiler.flow_logs();
    compiler.rules
}

struct Compiler<'a> {
    vpc: &'a Vpc,
    around: &'a Surroundings,
    /// Whether the VPC has IPv6 at all.
    six: bool,
    /// Interfaces with a link on this node, and its name.
    here: Vec<(&'a Interface, String)>,
    /// Interfaces whose addresses are the namespace's own.
    endpoints: Vec<&'a Interface>,
    subnets: BTreeMap<&'a str, &'a Subnet>,
    rules: Ruleset,
}

impl<'a> Compiler<'a> {
    fn new(vpc: &'a Vpc, around: &'a Surroundings) -> Compiler<'a> {
        let local = || vpc.interfaces.iter().filter(|interface| interface.node.is_none());
        Compiler {
            vpc,
            around,
            six: !vpc.ipv6_cidrs.is_empty(),
            here: local().filter(|i| !is_endpoint(i)).map(|i| (i, tap(&i.id))).collect(),
            endpoints: local().filter(|i| is_endpoint(i)).collect(),
            subnets: vpc.subnets.iter().map(|subnet| (subnet.id.as_str(), subnet)).collect(),
            rules: Ruleset::default(),
        }
    }

    fn versions(&self) -> &'static [Version] {
        if self.six { &Version::BOTH } else { &[Version::Four] }
    }

    /// Links that lead to other routers: peerings, transit gateways, other nodes.
    fn foreign_links(&self) -> Vec<&'a str> {
        let around = self.around;
        let links = around.peers.keys().chain(&around.transits).chain(&around.fabric);
        links.map(String::as_str).collect()
    }

    fn set(&mut self, name: impl Into<String>, kind: impl Into<String>) {
        self.set_in(Family::Inet, name, kind);
    }

    fn set_in(&mut self, family: Family, name: impl Into<String>, kind: impl Into<String>) {
        let set = Set { kind: kind.into(), elements: BTreeMap::new() };
        self.rules.sets.insert((family, name.into()), set);
    }

    fn filled(
        &mut self,
        name: impl Into<String>,
        kind: impl Into<String>,
        elements: impl IntoIterator<Item = String>,
    ) {
        let elements = elements.into_iter().map(|element| (element, String::new())).collect();
        self.rules.sets.insert((Family::Inet, name.into()), Set { kind: kind.into(), elements });
    }

    fn map(
        &mut self,
        name: impl Into<String>,
        kind: impl Into<String>,
        elements: BTreeMap<String, String>,
    ) {
        self.rules.sets.insert((Family::Inet, name.into()), Set { kind: kind.into(), elements });
    }

    fn chain(&mut self, name: impl Into<String>, rules: Vec<String>) {
        self.rules.chains.insert((Family::Inet, name.into()), Chain { hook: None, rules });
    }

    fn base(&mut self, name: &str, hook: &'static str, rules: Vec<String>) {
        let chain = Chain { hook: Some(hook), rules };
        self.rules.chains.insert((Family::Inet, name.into()), chain);
    }

    /// Sets of addresses and services that several chains ask for.
    fn addresses(&mut self) {
        let mut services: Vec<(Ipv4Addr, &str, u16)> = vec![
            (Ipv4Addr::BROADCAST, "udp", 67),
            (METADATA, "tcp", 80),
            (RESOLVER, "udp", 53),
            (RESOLVER, "tcp", 53),
            (TIME, "udp", 123),
        ];
        services.extend(resolver(self.vpc).iter().flat_map(|a| [(*a, "udp", 53), (*a, "tcp", 53)]));
        let routers = self.vpc.subnets.iter().filter_map(|subnet| router(&subnet.cidr));
        services.extend(routers.map(|address| (address, "udp", 67)));
        let local = services.iter().filter(|(address, ..)| *address != Ipv4Addr::BROADCAST);
        let local: Vec<String> = local.map(|(address, ..)| address.to_string()).collect();
        self.filled("local_addresses", "type ipv4_addr;", local);
        let services =
            services.iter().map(|(a, protocol, port)| format!("{a} . {protocol} . {port}"));
        let kind = "type ipv4_addr . inet_proto . inet_service;";
        self.filled("services", kind, services.collect::<Vec<_>>());
        if self.six {
            let services = [
                (METADATA_V6, "tcp", 80),
                (RESOLVER_V6, "udp", 53),
                (RESOLVER_V6, "tcp", 53),
                (TIME_V6, "udp", 123),
                (DHCP_SERVERS_V6, "udp", 547),
            ];
            let texts = services.map(|(a, protocol, port)| format!("{a} . {protocol} . {port}"));
            self.filled("services6", "type ipv6_addr . inet_proto . inet_service;", texts);
            let local = [METADATA_V6, RESOLVER_V6, TIME_V6].map(|address| address.to_string());
            self.filled("local_addresses6", "type ipv6_addr;", local);
        }
        let links = self.here.iter().filter(|(interface, _)| !is_nat_gateway(interface));
        let links: Vec<String> = links.map(|(_, link)| quoted(link)).collect();
        self.filled("machines", "type ifname;", links);
        let (mut public, mut inward, mut outward) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        for address in self.here.iter().flat_map(|(interface, _)| interface.addresses()) {
            let Some(outside) = address.public_ip.map(|address| address.to_string()) else {
                continue;
            };
            let inside = address.private_ip.to_string();
            public.push(outside.clone());
            inward.insert(outside.clone(), inside.clone());
            outward.insert(inside, outside);
        }
        self.filled("public_addresses", "type ipv4_addr;", public);
        self.map("to_private", "type ipv4_addr : ipv4_addr;", inward);
        self.map("to_public", "type ipv4_addr : ipv4_addr;", outward);
    }
}

fn is_endpoint(interface: &Interface) -> bool {
    matches!(interface.holder, Holder::Endpoint(_))
}

fn is_nat_gateway(interface: &Interface) -> bool {
    matches!(interface.holder, Holder::NatGateway(_))
}

/// Whether packets of other people come out of it.
fn forwards(interface: &Interface) -> bool {
    !interface.source_dest_check || is_nat_gateway(interface)
}

fn quoted(link: &str) -> String {
    format!("\"{link}\"")
}

fn lines<const N: usize>(list: [&str; N]) -> Vec<String> {
    list.iter().map(|line| (*line).to_owned()).collect()
}

/// `{ a, b }` of what is not empty.
fn braces<T: ToString>(list: impl IntoIterator<Item = T>) -> Option<String> {
    let list: Vec<String> = list.into_iter().map(|item| item.to_string()).collect();
    (!list.is_empty()).then(|| format!("{{ {} }}", list.join(", ")))
}
