//! Records of Reachability Analyzer: paths, and what was found of them.

use super::{Tags, is_default};
use base::network::{AclRule, Rule};
use base::{Cidr, Timestamp};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};

/// A path: who is to reach whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InsightsPath {
    /// Record version, 1.
    pub v: u16,
    /// `nip-…`.
    pub id: String,
    /// `i-…`, `eni-…` or `igw-…`.
    pub source: String,
    /// As the source, or `vpce-…`; without one the address is the destination.
    pub destination: Option<String>,
    /// SourceIp.
    pub source_ip: Option<Ipv4Addr>,
    /// DestinationIp.
    pub destination_ip: Option<Ipv4Addr>,
    /// Protocol `udp`; else `tcp`.
    pub udp: bool,
    /// DestinationPort.
    pub destination_port: Option<u16>,
    /// FilterAtSource.
    #[serde(default, skip_serializing_if = "is_default")]
    pub at_source: Option<InsightsFilter>,
    /// FilterAtDestination.
    #[serde(default, skip_serializing_if = "is_default")]
    pub at_destination: Option<InsightsFilter>,
    /// When it was made.
    pub created: Timestamp,
    /// Tags.
    pub tags: Tags,
}

/// What packets at one end of a path look like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InsightsFilter {
    /// Source address.
    pub source_address: Option<Ipv4Addr>,
    /// First and last source port.
    pub source_ports: Option<(u16, u16)>,
    /// Destination address.
    pub destination_address: Option<Ipv4Addr>,
    /// First and last destination port.
    pub destination_ports: Option<(u16, u16)>,
}

/// An analysis of a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InsightsAnalysis {
    /// Record version, 1.
    pub v: u16,
    /// `nia-…`.
    pub id: String,
    /// `nip-…`.
    pub path_id: String,
    /// ARNs of what the path must pass.
    #[serde(default, skip_serializing_if = "is_default")]
    pub filter_in: Vec<String>,
    /// ARNs of what the path must not pass.
    #[serde(default, skip_serializing_if = "is_default")]
    pub filter_out: Vec<String>,
    /// When it began.
    pub started: Timestamp,
    /// What was found; none while it runs.
    pub outcome: Option<InsightsOutcome>,
    /// Tags.
    pub tags: Tags,
}

/// What an analysis found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InsightsOutcome {
    /// The destination is reachable.
    pub found: bool,
    /// The way there.
    #[serde(default, skip_serializing_if = "is_default")]
    pub forward: Vec<InsightsStep>,
    /// The way back.
    #[serde(default, skip_serializing_if = "is_default")]
    pub back: Vec<InsightsStep>,
    /// Why not.
    #[serde(default, skip_serializing_if = "is_default")]
    pub explanations: Vec<InsightsExplanation>,
}

/// A component of a way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InsightsStep {
    /// Its id.
    pub id: String,
    /// `i-…`, `nat-…`: what an interface is attached to.
    #[serde(default, skip_serializing_if = "is_default")]
    pub attached_to: Option<String>,
    /// `vpc-…`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub vpc_id: Option<String>,
    /// `subnet-…`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub subnet_id: Option<String>,
    /// The packet as it came.
    #[serde(default, skip_serializing_if = "is_default")]
    pub before: Option<InsightsPacket>,
    /// The packet as it went on.
    #[serde(default, skip_serializing_if = "is_default")]
    pub after: Option<InsightsPacket>,
    /// What of it applied.
    #[serde(default, skip_serializing_if = "is_default")]
    pub applied: InsightsRule,
}

/// The rule or route of a component that applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InsightsRule {
    /// None.
    #[default]
    None,
    /// Of a network ACL; none is the last one, which denies.
    Acl {
        /// Out of the subnet.
        egress: bool,
        /// The rule.
        rule: Option<AclRule>,
    },
    /// Of security groups; none for a flow that they know, or when none applies.
    Groups {
        /// From the interface.
        egress: bool,
        /// `eni-…`.
        interface_id: String,
        /// The groups that were asked.
        ids: Vec<String>,
        /// The rule.
        rule: Option<Rule>,
    },
    /// Of a route table: where to, and the target's id, if it still has one.
    Route {
        /// Where to.
        destination: Cidr,
        /// `local`, `igw-…`, …
        target: Option<String>,
    },
    /// Of a transit gateway's route table.
    TransitRoute {
        /// `tgw-…`.
        gateway_id: String,
        /// Where to, and `tgw-attach-…`; none is a blackhole.
        route: Option<(Cidr, Option<String>)>,
    },
}

/// A packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InsightsPacket {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source and destination port.
    pub ports: Option<(u16, u16)>,
    /// Protocol number.
    pub protocol: u8,
}

/// Why a packet gets no further.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InsightsExplanation {
    /// ExplanationCode.
    pub code: String,
    /// What refused it.
    pub at: InsightsStep,
}
