//! What the packet rules of a VPC must know of its surroundings: which links there are beside the
//! taps, and with which mark each is looked up.

use crate::names::{VXLAN_HEADERS, fabric_link, peering_link, transit_link};
use crate::tables::{Tables, attachments, blocks, peerings};
use base::Cidr;
use base::network::{Plan, Vpc};
use std::collections::{BTreeMap, BTreeSet};

/// What a guest's packet may measure on one node, bytes.
const ETHERNET: u16 = 1500;

/// A VPC's surroundings, from the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// Input link to packet mark, which is the number of a routing table. Other links are looked up
    /// among the VPC's own addresses.
    pub marks: BTreeMap<String, u32>,
    /// Links of peering connections, each with the blocks of the other VPC.
    pub peers: BTreeMap<String, Vec<Cidr>>,
    /// Links of transit gateways.
    pub transits: BTreeSet<String>,
    /// The link to the other nodes, if there are any.
    pub fabric: Option<String>,
    /// Largest IP packet of a guest, bytes: told by DHCP and router advertisements.
    pub mtu: u16,
    /// Interfaces, by id, whose flows are counted.
    pub logged: BTreeSet<String>,
    pub(crate) tables: Tables,
}

impl Default for Surroundings {
    fn default() -> Self {
        Surroundings {
            marks: BTreeMap::new(),
            peers: BTreeMap::new(),
            transits: BTreeSet::new(),
            fabric: None,
            mtu: ETHERNET,
            logged: BTreeSet::new(),
            tables: Tables::default(),
        }
    }
}

impl Surroundings {
    /// Those of a VPC of the plan.
    pub fn of(plan: &Plan, vpc: &Vpc) -> Surroundings {
        let tables = Tables::of_vpc(plan, vpc);
        let own: BTreeSet<&str> = vpc.interfaces.iter().map(|i| i.id.as_str()).collect();
        let logged = plan.flow_logs.iter().flat_map(|log| &log.interfaces);
        let fabric = plan.fabric.as_ref();
        Surroundings {
            marks: tables.marks.clone(),
            peers: peerings(plan, vpc)
                .map(|(id, other)| (peering_link(id), blocks(other).collect()))
                .collect(),
            transits: attachments(plan, vpc).map(|(id, _)| transit_link(id)).collect(),
            fabric: fabric.map(|_| fabric_link(&vpc.id)),
            mtu: fabric.map_or(ETHERNET, |fabric| fabric.mtu - VXLAN_HEADERS),
            logged: logged.filter(|id| own.contains(id.as_str())).cloned().collect(),
            tables,
        }
    }
}
