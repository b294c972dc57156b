//! Who reaches whom: a packet walks through a [`base::network::Plan`] on paper.
//!
//! Pure and total: a plan and a packet go in, every step of the way and of the way back come out, or
//! the reason why not. The plan is the one that the `net` crate turns into kernel state, so what is
//! said here is what packets do. What a packet meets:
//!
//! ```text
//!  leaves an interface   source check ─ egress groups ─ (ACL out of the subnet) ─ route table
//!    local                 ─► an interface of the VPC
//!    interface             ─► that one: a machine sends it on, a NAT gateway as its own
//!    internet gateway      ─► public source ─ outside ─ or in again by another public address
//!    peering               ─► an interface of the other VPC, nothing beyond it
//!    transit gateway       ─► its tables ─► the attachment's route table in the next VPC
//!    gateway endpoint      ─► arrived
//!  enters an interface   (ACL into the subnet) ─ ingress groups ─ destination check
//! ```
//!
//! ACLs are asked only where a packet crosses a subnet's edge. Groups remember flows and ACLs do not,
//! so [`reach`] also walks the answer back, and a pair is reachable when both arrive. A packet that a
//! group or an ACL refuses is walked on, so that every such refusal on the way is told; any other
//! refusal is the end of the way.
//!
//! The outside is whatever the node reaches, private networks as well: unlike AWS's, its internet
//! gateways carry packets to private addresses (RFC 1918).
//!
//! Not here: link-local services (DNS, metadata, time), which no group and no ACL filters; whether
//! anybody listens; how a machine routes among its own interfaces: one that forwards is taken to send
//! a packet out where it came in, unchanged.

#![forbid(unsafe_code)]

mod code;
mod find;
mod packet;
mod walk;

pub use code::Code;
pub use packet::{Packet, Traffic};

use base::Cidr;
use base::network::{AclRule, Plan, Rule, Target};
use std::net::IpAddr;

/// Where a packet comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `eni-…`: what holds the interface sends.
    Interface(String),
    /// The outside, by an internet gateway.
    Outside,
}

/// Where a packet ends that is not refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// `eni-…`: it is handed to what holds the interface.
    Interface(String),
    /// `vpce-…`, a gateway endpoint of a VPC.
    GatewayEndpoint { vpc_id: String, id: String },
    /// It left by a gateway to an address that is not in the plan.
    Outside,
}

/// From an interface's or a subnet's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Into it.
    Ingress,
    /// Out of it.
    Egress,
}

impl Direction {
    /// `ingress` or `egress`.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }
    }

    fn reverse(self) -> Direction {
        match self {
            Direction::Ingress => Direction::Egress,
            Direction::Egress => Direction::Ingress,
        }
    }

    /// The address that rules of this direction name.
    fn peer(self, packet: Packet) -> IpAddr {
        match self {
            Direction::Ingress => packet.source,
            Direction::Egress => packet.destination,
        }
    }
}

/// A thing that a packet passes or that refuses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Component {
    /// `eni-…`.
    Interface(String),
    /// Groups of an interface. When they let a packet pass, the one that did, with its rule; none for
    /// a packet of a flow that they know.
    SecurityGroups {
        /// Of which interface.
        interface_id: String,
        /// `sg-…`.
        ids: Vec<String>,
        /// Which of their rules.
        direction: Direction,
        /// The rule that applied.
        rule: Option<Rule>,
    },
    /// A subnet's network ACL.
    NetworkAcl {
        /// `acl-…`.
        id: String,
        /// Which of its rules.
        direction: Direction,
        /// The rule that applied; none for the last one, which denies.
        rule: Option<AclRule>,
    },
    /// A route table and its route.
    RouteTable {
        /// `rtb-…`.
        id: String,
        /// The route that applied, if any.
        route: Option<(Cidr, Target)>,
    },
    /// The internet gateway of a VPC.
    InternetGateway,
    /// The egress-only internet gateway of a VPC.
    EgressOnlyInternetGateway,
    /// `nat-…`.
    NatGateway(String),
    /// `pcx-…`.
    Peering(String),
    /// `vpce-…`, a gateway endpoint.
    GatewayEndpoint(String),
    /// `tgw-…`.
    TransitGateway(String),
    /// `tgw-attach-…`.
    TransitGatewayAttachment(String),
    /// A transit gateway's route table and its route.
    TransitGatewayRouteTable {
        /// `tgw-…`.
        transit_gateway_id: String,
        /// `tgw-rtb-…`.
        id: String,
        /// The route that applied: where to, and by which attachment.
        route: Option<(Cidr, Option<String>)>,
    },
}

/// One step of a way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// What the packet passes.
    pub component: Component,
    /// `vpc-…`, unless it is between VPCs.
    pub vpc_id: Option<String>,
    /// `subnet-…`, at an interface or a subnet's edge.
    pub subnet_id: Option<String>,
    /// The packet as it comes.
    pub before: Packet,
    /// The packet as it goes on.
    pub after: Packet,
}

/// Why a packet gets no further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason.
    pub code: Code,
    /// What refuses it.
    pub component: Component,
    /// `vpc-…`, unless it is between VPCs.
    pub vpc_id: Option<String>,
    /// `subnet-…`, at an interface or a subnet's edge.
    pub subnet_id: Option<String>,
    /// The packet that it refuses.
    pub packet: Packet,
}

/// The way of one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// What it passed, in order.
    pub hops: Vec<Hop>,
    /// What refused it; nothing for a packet that arrives.
    pub refusals: Vec<Refusal>,
    /// Where the way ends; a packet that something refused is not there.
    pub end: Option<End>,
    /// The packet at the end.
    pub packet: Packet,
}

impl Walk {
    /// Whether nothing refused the packet.
    pub fn arrives(&self) -> bool {
        self.end.is_some() && self.refusals.is_empty()
    }
}

/// Whether a packet and its answer arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// There.
    pub forward: Walk,
    /// And back; `None` when the packet did not arrive, or nobody answers such a packet.
    pub back: Option<Walk>,
}

impl Answer {
    /// Whether a flow that begins with this packet comes about.
    pub fn reachable(&self) -> bool {
        self.forward.arrives() && self.back.as_ref().is_none_or(Walk::arrives)
    }

    /// What refused the packet or its answer.
    pub fn refusals(&self) -> impl Iterator<Item = &Refusal> {
        self.forward.refusals.iter().chain(self.back.iter().flat_map(|back| &back.refusals))
    }
}

/// Walks the first packet of a flow to its end, and its answer back to where it came from.
pub fn reach(plan: &Plan, origin: &Origin, packet: Packet) -> Answer {
    let mut flow = walk::Flow::default();
    let forward = walk::forward(plan, origin, packet, &mut flow);
    let back =
        if forward.arrives() { walk::back(plan, origin, packet, &forward, &flow) } else { None };
    Answer { forward, back }
}
