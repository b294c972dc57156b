//! The wanted network of one node: which interfaces exist, where routes lead and which packets may
//! pass.
//!
//! Compiled by the control plane from what the API draws; the `net` crate turns it into namespaces,
//! taps, routes and one atomic nftables batch a VPC, and `reach` walks a packet through it. A plan
//! is complete: whatever a rule, a route or an option names is in it, or it has no effect.

use crate::{Cidr, Ipv4Cidr, Ipv6Cidr, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Everything the node's network must be. Applying a plan replaces the one before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// One namespace each. VPCs may overlap in addresses.
    pub vpcs: Vec<Vpc>,
    /// Active peering connections between VPCs of this plan.
    #[serde(default)]
    pub peerings: Vec<Peering>,
    /// Transit gateways.
    #[serde(default)]
    pub transit_gateways: Vec<TransitGateway>,
    /// Flow logs that are written.
    #[serde(default)]
    pub flow_logs: Vec<FlowLog>,
    /// The other nodes; `None` when this node is all there is.
    #[serde(default)]
    pub fabric: Option<Fabric>,
}

/// How the nodes reach each other: VXLAN (RFC 7348) over IPv4.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fabric {
    /// This node's address among the nodes.
    pub address: Ipv4Addr,
    /// Largest IP packet that the nodes carry, bytes; guests get 50 less.
    pub mtu: u16,
    /// The other nodes by name, with their addresses.
    pub nodes: BTreeMap<String, Ipv4Addr>,
}

/// A VPC with what of it concerns this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vpc {
    /// `vpc-…`.
    pub id: String,
    /// Region name; DNS names depend on it.
    pub region: String,
    /// IPv4 blocks, the primary one first.
    pub cidrs: Vec<Ipv4Cidr>,
    /// IPv6 blocks.
    #[serde(default)]
    pub ipv6_cidrs: Vec<Ipv6Cidr>,
    /// VXLAN network identifier, 24 bits; only used with a [`Fabric`].
    #[serde(default)]
    pub vni: u32,
    /// An internet gateway is attached.
    #[serde(default)]
    pub internet_gateway: bool,
    /// What the resolver knows.
    #[serde(default)]
    pub dns: Dns,
    /// What DHCP hands out.
    #[serde(default)]
    pub dhcp: Dhcp,
    /// Subnets.
    pub subnets: Vec<Subnet>,
    /// Route tables that a subnet or a transit gateway's attachment uses.
    #[serde(default)]
    pub route_tables: Vec<RouteTable>,
    /// Network ACLs that a subnet uses.
    #[serde(default)]
    pub network_acls: Vec<NetworkAcl>,
    /// Interfaces.
    pub interfaces: Vec<Interface>,
    /// Every security group that an interface has or that a rule names.
    pub groups: Vec<SecurityGroup>,
    /// Members of groups in peered VPCs that a rule names.
    #[serde(default)]
    pub peer_groups: Vec<PeerGroup>,
    /// Prefix lists that a rule names. In routes they are already resolved.
    #[serde(default)]
    pub prefix_lists: Vec<PrefixList>,
    /// Gateway endpoints: services that routes lead to.
    #[serde(default)]
    pub gateway_endpoints: Vec<GatewayEndpoint>,
}

/// What a VPC's resolver knows beside the names that follow from addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// enableDnsSupport: there is a resolver.
    pub support: bool,
    /// enableDnsHostnames: public addresses have names.
    pub hostnames: bool,
    /// Names of this VPC only, lower case, without a final dot: of resources, of endpoints.
    pub records: BTreeMap<String, Vec<IpAddr>>,
}

impl Default for Dns {
    fn default() -> Self {
        Dns { support: true, hostnames: true, records: BTreeMap::new() }
    }
}

/// DHCP options (VPC User Guide, "DHCP option sets").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dhcp {
    /// Domain name; `None` tells none.
    pub domain_name: Option<String>,
    /// Resolvers, at most 4; empty tells none.
    pub domain_name_servers: Vec<NameServer>,
    /// Time servers, at most 4; empty is none told.
    pub ntp_servers: Vec<IpAddr>,
    /// NetBIOS name servers, at most 4.
    pub netbios_name_servers: Vec<Ipv4Addr>,
    /// NetBIOS node type, 1, 2, 4 or 8.
    pub netbios_node_type: Option<u8>,
    /// Lease time of IPv6 addresses, seconds; 140 unless told.
    pub ipv6_preferred_lease_time: Option<u32>,
}

impl Default for Dhcp {
    fn default() -> Self {
        Dhcp {
            domain_name: None,
            domain_name_servers: vec![NameServer::Amazon],
            ntp_servers: Vec::new(),
            netbios_name_servers: Vec::new(),
            netbios_node_type: None,
            ipv6_preferred_lease_time: None,
        }
    }
}

/// A resolver that DHCP tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NameServer {
    /// AmazonProvidedDNS: the VPC's own.
    Amazon,
    /// Another one.
    Address(IpAddr),
}

/// A subnet. Its router is the address +1, its resolver the VPC's +2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// `subnet-…`.
    pub id: String,
    /// Address block.
    pub cidr: Ipv4Cidr,
    /// IPv6 block, /64 or what the subnet asked for.
    #[serde(default)]
    pub ipv6_cidr: Option<Ipv6Cidr>,
    /// [`RouteTable::id`].
    #[serde(default)]
    pub route_table: String,
    /// [`NetworkAcl::id`].
    #[serde(default)]
    pub network_acl: String,
}

impl Subnet {
    /// A subnet whose tables nobody has drawn: it has local routes only, and no packet passes its
    /// ACL.
    pub fn new(id: impl Into<String>, cidr: Ipv4Cidr) -> Self {
        Subnet {
            id: id.into(),
            cidr,
            ipv6_cidr: None,
            route_table: String::new(),
            network_acl: String::new(),
        }
    }
}

/// A route table. The VPC's own blocks are local routes in every table; a longer prefix wins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTable {
    /// `rtb-…`.
    pub id: String,
    /// Static and propagated routes, one a destination.
    pub routes: Vec<Route>,
}

/// One route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub destination: Cidr,
    /// By what.
    pub target: Target,
}

/// What a route leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Within the VPC.
    Local,
    /// The internet gateway: an IPv4 address leaves as the interface's public one or not at all.
    InternetGateway,
    /// The egress-only internet gateway: IPv6 flows that begin inside.
    EgressOnlyInternetGateway,
    /// `eni-…` of this VPC: an instance's, a NAT gateway's. It must not check destinations.
    Interface(String),
    /// `pcx-…`.
    Peering(String),
    /// `tgw-…`.
    TransitGateway(String),
    /// `vpce-…`, a gateway endpoint.
    GatewayEndpoint(String),
    /// The target is no more: packets vanish.
    Blackhole,
}

/// A network ACL: stateless; the first rule that matches decides, none is a denial. Applied to
/// packets that enter or leave the subnet, not to those within it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkAcl {
    /// `acl-…`.
    pub id: String,
    /// Into the subnet, in the order of their numbers.
    pub ingress: Vec<AclRule>,
    /// Out of the subnet.
    pub egress: Vec<AclRule>,
}

/// One rule of a network ACL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AclRule {
    /// 1 to 32766.
    pub number: u16,
    /// Allow instead of deny.
    pub allow: bool,
    /// What traffic.
    pub protocol: Protocol,
    /// With whom. IPv4 and IPv6 are apart: a prefix of one says nothing of the other.
    pub cidr: Cidr,
}

/// An elastic network interface: a tap with routes to its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// `eni-…`.
    pub id: String,
    /// What sends and receives through it.
    pub holder: Holder,
    /// `subnet-…`.
    pub subnet_id: String,
    /// `0a:…`, lower case, colons.
    pub mac: String,
    /// Primary private address, given by DHCP.
    pub private_ip: Ipv4Addr,
    /// Public address that is translated 1:1 to the primary private one.
    pub public_ip: Option<Ipv4Addr>,
    /// Further private addresses.
    #[serde(default)]
    pub secondary: Vec<Address>,
    /// Delegated prefixes, /28.
    #[serde(default)]
    pub prefixes: Vec<Ipv4Cidr>,
    /// IPv6 addresses; the first is given by DHCPv6.
    #[serde(default)]
    pub ipv6: Vec<Ipv6Addr>,
    /// Delegated IPv6 prefixes, /80.
    #[serde(default)]
    pub ipv6_prefixes: Vec<Ipv6Cidr>,
    /// Host name given by DHCP and DNS, fully qualified: `ip-172-31-5-7.ec2.internal`.
    pub hostname: String,
    /// Security group ids. A NAT gateway has none and is not filtered.
    pub groups: Vec<String>,
    /// Whether packets from and to addresses that are not the interface's are dropped.
    pub source_dest_check: bool,
    /// The node that has it; `None` is this one.
    #[serde(default)]
    pub node: Option<String>,
}

impl Interface {
    /// The machine that it is attached to.
    pub fn instance_id(&self) -> Option<&str> {
        match &self.holder {
            Holder::Machine(id) => Some(id),
            _ => None,
        }
    }

    /// Its IPv4 addresses, the primary one first, each with the public one it is translated to.
    pub fn addresses(&self) -> impl Iterator<Item = Address> + '_ {
        let primary = Address { private_ip: self.private_ip, public_ip: self.public_ip };
        std::iter::once(primary).chain(self.secondary.iter().copied())
    }

    /// Whether `address` is one of its private ones or in one of its prefixes.
    pub fn has(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => {
                self.addresses().any(|own| own.private_ip == address)
                    || self.prefixes.iter().any(|prefix| prefix.contains(address))
            }
            IpAddr::V6(address) => {
                self.ipv6.contains(&address)
                    || self.ipv6_prefixes.iter().any(|prefix| prefix.contains(address))
            }
        }
    }
}

/// A private address and the public one that is translated 1:1 to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// In the subnet.
    pub private_ip: Ipv4Addr,
    /// In the public pool.
    pub public_ip: Option<Ipv4Addr>,
}

/// What an interface belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// `i-…`: a machine opens the tap.
    Machine(String),
    /// `nat-…`: a namespace that translates what is routed to it to the interface's private
    /// addresses; public or not follows from these having public addresses.
    NatGateway(String),
    /// `vpce-…`, an interface endpoint: the addresses are the node's own, which serves there.
    Endpoint(String),
}

/// A security group's rules; what no rule allows is dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityGroup {
    /// `sg-…`.
    pub id: String,
    /// Traffic to members.
    pub ingress: Vec<Rule>,
    /// Traffic from members.
    pub egress: Vec<Rule>,
}

/// A security group of another VPC, named by a rule of this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerGroup {
    /// `sg-…`.
    pub id: String,
    /// Private addresses of its members.
    pub members: Vec<IpAddr>,
}

/// A prefix list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixList {
    /// `pl-…`.
    pub id: String,
    /// Its entries.
    pub cidrs: Vec<Cidr>,
}

/// One permission.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// What traffic.
    pub protocol: Protocol,
    /// With whom.
    pub peer: Peer,
}

/// A protocol match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Everything (`-1`).
    All,
    /// TCP to ports `from` to `to`, both included.
    Tcp { from: u16, to: u16 },
    /// UDP to ports `from` to `to`, both included.
    Udp { from: u16, to: u16 },
    /// ICMP of a type and code; `None` is any. IPv4 only.
    Icmp { kind: Option<u8>, code: Option<u8> },
    /// ICMPv6 of a type and code; `None` is any. IPv6 only.
    Icmpv6 { kind: Option<u8>, code: Option<u8> },
    /// Another IP protocol by number.
    Number(u8),
}

/// The other side of a permitted flow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    /// Addresses in a prefix.
    Cidr(Cidr),
    /// Private addresses of the members of a group: of [`Vpc::groups`] or [`Vpc::peer_groups`].
    Group(String),
    /// Addresses in a prefix list.
    PrefixList(String),
}

/// A gateway endpoint: an address of the cloud's own services, reached without leaving the VPC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayEndpoint {
    /// `vpce-…`.
    pub id: String,
    /// The service's addresses; the node serves there inside the VPC.
    pub addresses: Vec<Ipv4Addr>,
}

/// A peering connection: packets between the blocks of two VPCs, and nothing beyond them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peering {
    /// `pcx-…`.
    pub id: String,
    /// The two sides.
    pub sides: [PeeringSide; 2],
}

/// One side of a peering connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeeringSide {
    /// `vpc-…`.
    pub vpc_id: String,
    /// AllowDnsResolutionFromRemoteVpc: public names of this side resolve to private addresses on
    /// the other.
    pub resolved_by_other: bool,
}

/// A transit gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransitGateway {
    /// `tgw-…`.
    pub id: String,
    /// Attachments that are available.
    pub attachments: Vec<TransitGatewayAttachment>,
    /// Route tables.
    pub route_tables: Vec<TransitGatewayRouteTable>,
}

/// What is attached to a transit gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransitGatewayAttachment {
    /// `tgw-attach-…`.
    pub id: String,
    /// The other end.
    pub resource: AttachedResource,
    /// [`TransitGatewayRouteTable::id`] that packets from here are looked up in; without one they
    /// vanish.
    pub route_table: Option<String>,
}

/// The other end of a transit gateway's attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachedResource {
    /// A VPC.
    Vpc {
        /// `vpc-…`.
        vpc_id: String,
        /// [`RouteTable::id`] of the attachment's subnet, for packets that come into the VPC.
        route_table: String,
    },
    /// Another transit gateway; the attachment has the same id there.
    Peering {
        /// `tgw-…`.
        transit_gateway_id: String,
    },
}

/// A transit gateway's route table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransitGatewayRouteTable {
    /// `tgw-rtb-…`.
    pub id: String,
    /// Static and propagated routes, one a destination.
    pub routes: Vec<TransitGatewayRoute>,
}

/// One route of a transit gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransitGatewayRoute {
    /// Where to.
    pub destination: Cidr,
    /// [`TransitGatewayAttachment::id`]; `None` is a blackhole.
    pub attachment: Option<String>,
}

/// A flow log: the flows of some interfaces, written as lines of text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowLog {
    /// `fl-…`.
    pub id: String,
    /// The account whose interfaces these are.
    pub account: String,
    /// Region name.
    pub region: String,
    /// Interfaces: those of the resource that the log was made for.
    pub interfaces: Vec<String>,
    /// Accepted flows are written.
    pub accepted: bool,
    /// Rejected flows are written.
    pub rejected: bool,
    /// Maximum aggregation interval, seconds: 60 or 600.
    pub interval: u32,
    /// The names of the fields of a line, in order: `version`, `account-id`, …
    pub fields: Vec<String>,
}

/// Packets of one direction between two ends as one interface saw them in one interval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// `eni-…`.
    pub interface_id: String,
    /// From the interface, not to it.
    pub egress: bool,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// 0 where the protocol has no ports.
    pub source_port: u16,
    /// 0 where the protocol has no ports.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Packets.
    pub packets: u64,
    /// Bytes, IP headers included.
    pub bytes: u64,
    /// First packet of the interval, or the interval's start.
    pub start: Timestamp,
    /// Last packet of the interval, or its end.
    pub end: Timestamp,
    /// Groups and ACLs let it pass.
    pub accepted: bool,
}
