//! The wanted network of one node: which interfaces exist and which packets may pass.
//!
//! Compiled by the control plane from VPCs, subnets, interfaces and security groups; the `net`
//! crate turns it into namespaces, taps, routes and one atomic nftables batch.

use crate::Ipv4Cidr;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// Everything the node's network must be. Applying a plan replaces the one before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// One namespace each. VPCs may overlap in addresses.
    pub vpcs: Vec<Vpc>,
}

/// A VPC with what of it lives on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vpc {
    /// `vpc-…`.
    pub id: String,
    /// Region name; DNS names depend on it.
    pub region: String,
    /// Address blocks.
    pub cidrs: Vec<Ipv4Cidr>,
    /// Subnets.
    pub subnets: Vec<Subnet>,
    /// Interfaces of machines.
    pub interfaces: Vec<Interface>,
    /// Every security group that an interface has or that a rule names.
    pub groups: Vec<SecurityGroup>,
}

/// A subnet. Its router is the address +1, its resolver the VPC's +2.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// `subnet-…`.
    pub id: String,
    /// Address block.
    pub cidr: Ipv4Cidr,
}

/// An elastic network interface: a tap with routes to its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// `eni-…`.
    pub id: String,
    /// `i-…` of the machine that it is attached to.
    pub instance_id: String,
    /// `subnet-…`.
    pub subnet_id: String,
    /// `0a:…`, lower case, colons.
    pub mac: String,
    /// Primary private address, given by DHCP.
    pub private_ip: Ipv4Addr,
    /// Public address that is translated 1:1 to the private one.
    pub public_ip: Option<Ipv4Addr>,
    /// Host name given by DHCP and DNS, fully qualified: `ip-172-31-5-7.ec2.internal`.
    pub hostname: String,
    /// Security group ids.
    pub groups: Vec<String>,
    /// Whether packets from and to addresses that are not the interface's are dropped.
    pub source_dest_check: bool,
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
    /// ICMP of a type and code; `None` is any.
    Icmp { kind: Option<u8>, code: Option<u8> },
    /// Another IP protocol by number.
    Number(u8),
}

/// The other side of a permitted flow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Peer {
    /// Addresses in a prefix.
    Cidr(Ipv4Cidr),
    /// Private addresses of the members of a group.
    Group(String),
}
