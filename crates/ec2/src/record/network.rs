//! Records of the network: VPCs and what is drawn in them.
//!
//! A relation is kept where its deletion is refused: a route table knows its subnets, and each
//! subnet its table; both are written in one transaction. What a resource only names (a route its
//! target) is looked up when the plan is compiled.

use super::{Tags, is_default};
use base::{Cidr, Ipv4Cidr, Ipv6Cidr, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// A virtual private cloud.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vpc {
    /// Record version, 2.
    pub v: u16,
    /// `vpc-…`.
    pub id: String,
    /// Primary address block.
    pub cidr: Ipv4Cidr,
    /// The region's default VPC.
    pub is_default: bool,
    /// enableDnsSupport.
    pub dns_support: bool,
    /// enableDnsHostnames.
    pub dns_hostnames: bool,
    /// enableNetworkAddressUsageMetrics.
    #[serde(default, skip_serializing_if = "is_default")]
    pub address_usage_metrics: bool,
    /// `dopt-…`, or `default`: no options at all.
    pub dhcp_options_id: String,
    /// `vpc-cidr-assoc-…` of the primary block.
    pub cidr_association_id: String,
    /// Further address blocks.
    #[serde(default, skip_serializing_if = "is_default")]
    pub secondary_cidrs: Vec<CidrAssociation<Ipv4Cidr>>,
    /// IPv6 blocks.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ipv6_cidrs: Vec<CidrAssociation<Ipv6Cidr>>,
    /// Default security group.
    pub default_group_id: String,
    /// Main route table. Version 1 has none ([`crate::region::set_up`] draws it).
    #[serde(default)]
    pub main_route_table_id: String,
    /// Default network ACL; not in version 1.
    #[serde(default)]
    pub default_network_acl_id: String,
    /// The internet gateway that is attached.
    #[serde(default, skip_serializing_if = "is_default")]
    pub internet_gateway_id: Option<String>,
    /// Tags.
    pub tags: Tags,
}

impl Vpc {
    /// Its IPv4 blocks, the primary one first.
    pub fn cidrs(&self) -> impl Iterator<Item = Ipv4Cidr> + '_ {
        std::iter::once(self.cidr).chain(self.secondary_cidrs.iter().map(|block| block.cidr))
    }
}

/// A block of a VPC or subnet beside the primary one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CidrAssociation<T> {
    /// `vpc-cidr-assoc-…` or `subnet-cidr-assoc-…`.
    pub id: String,
    /// The block.
    pub cidr: T,
}

/// DHCP options.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DhcpOptions {
    /// Record version, 1.
    pub v: u16,
    /// `dopt-…`.
    pub id: String,
    /// The options as given: `domain-name`, `domain-name-servers`, `ntp-servers`,
    /// `netbios-name-servers`, `netbios-node-type`, `ipv6-address-preferred-lease-time`.
    pub options: BTreeMap<String, Vec<String>>,
    /// Tags.
    pub tags: Tags,
}

/// A subnet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// Record version, 2.
    pub v: u16,
    /// `subnet-…`.
    pub id: String,
    /// Its VPC.
    pub vpc_id: String,
    /// Address block.
    pub cidr: Ipv4Cidr,
    /// IPv6 block.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ipv6_cidr: Option<CidrAssociation<Ipv6Cidr>>,
    /// `us-east-1a`.
    pub availability_zone: String,
    /// Default subnet of its zone.
    pub default_for_az: bool,
    /// Instances get a public address unless they say otherwise.
    pub map_public_ip_on_launch: bool,
    /// Interfaces get an IPv6 address unless they say otherwise.
    #[serde(default, skip_serializing_if = "is_default")]
    pub assign_ipv6_address_on_creation: bool,
    /// PrivateDnsNameOptionsOnLaunch.
    #[serde(default, skip_serializing_if = "is_default")]
    pub name_options: NameOptions,
    /// Explicitly associated route table; the VPC's main one when `None`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub route_table_id: Option<String>,
    /// Its network ACL; not in version 1.
    #[serde(default)]
    pub network_acl_id: String,
    /// Ranges that are kept free or are only given as prefixes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reservations: Vec<CidrReservation>,
    /// Tags.
    pub tags: Tags,
}

/// A range of a subnet that is set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CidrReservation {
    /// `scr-…`.
    pub id: String,
    /// The range.
    pub cidr: Cidr,
    /// `explicit`: given only to who asks for an address in it; else `prefix`: given as prefixes.
    pub explicit: bool,
    /// Description.
    pub description: Option<String>,
    /// Tags.
    pub tags: Tags,
}

/// PrivateDnsNameOptions of an instance or a subnet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NameOptions {
    /// The host name is made of the instance's id, not of its address.
    pub resource_name: bool,
    /// The resource name has an A record.
    pub resource_name_a: bool,
    /// The resource name has an AAAA record.
    pub resource_name_aaaa: bool,
}

/// A route table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTable {
    /// Record version, 1.
    pub v: u16,
    /// `rtb-…`.
    pub id: String,
    /// Its VPC.
    pub vpc_id: String,
    /// `rtbassoc-…` with the VPC as its main table, if it is that.
    pub main_association_id: Option<String>,
    /// Explicit associations.
    pub associations: Vec<Association>,
    /// Gateways whose routes are propagated: `tgw-…` is not among them, `vgw-…` is not served.
    #[serde(default, skip_serializing_if = "is_default")]
    pub propagating_gateways: Vec<String>,
    /// Routes, without the local ones.
    pub routes: Vec<Route>,
    /// Tags.
    pub tags: Tags,
}

/// An association with a subnet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Association {
    /// `rtbassoc-…`, `aclassoc-…`.
    pub id: String,
    /// `subnet-…`.
    pub subnet_id: String,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub destination: Destination,
    /// What it leads to, by id: `igw-…`, `eigw-…`, `nat-…`, `eni-…`, `pcx-…`, `tgw-…`, `vpce-…`, or
    /// `local`. A route to an instance holds its primary interface's id.
    pub target: String,
    /// Made by a gateway endpoint or a propagation, not by CreateRoute.
    #[serde(default, skip_serializing_if = "is_default")]
    pub origin: RouteOrigin,
}

/// Where a route leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Destination {
    /// A block.
    Cidr(Cidr),
    /// `pl-…`: every block of a prefix list.
    PrefixList(String),
}

/// Who made a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RouteOrigin {
    /// CreateRoute, or an endpoint.
    #[default]
    CreateRoute,
    /// EnableVgwRoutePropagation.
    Propagated,
}

/// An internet gateway. It is attached to the VPC whose record names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InternetGateway {
    /// Record version, 1.
    pub v: u16,
    /// `igw-…`.
    pub id: String,
    /// The VPC that it is attached to.
    pub vpc_id: Option<String>,
    /// Tags.
    pub tags: Tags,
}

/// An egress-only internet gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressOnlyInternetGateway {
    /// Record version, 1.
    pub v: u16,
    /// `eigw-…`.
    pub id: String,
    /// Its VPC.
    pub vpc_id: String,
    /// Tags.
    pub tags: Tags,
}

/// How far a resource of the network is that is not made or removed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Progress {
    /// Being made.
    Pending,
    /// There.
    Available,
    /// Being removed.
    Deleting,
    /// Gone; shown for a while.
    Deleted,
    /// It could not be made.
    Failed,
}

/// A NAT gateway. Its interface ([`super::Interface`]) carries its private addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatGateway {
    /// Record version, 1.
    pub v: u16,
    /// `nat-…`.
    pub id: String,
    /// Its VPC.
    pub vpc_id: String,
    /// Its subnet.
    pub subnet_id: String,
    /// ConnectivityType `public`; else `private`.
    pub public: bool,
    /// How far.
    pub state: Progress,
    /// Its interface; none before it is made and after it is removed.
    pub interface_id: String,
    /// Its addresses as shown, the primary one first. They stay here after the deletion.
    pub addresses: Vec<NatGatewayAddress>,
    /// When it was asked for.
    pub created: Timestamp,
    /// When it was deleted.
    pub deleted: Option<Timestamp>,
    /// Why it failed: code and message.
    pub failure: Option<(String, String)>,
    /// Tags.
    pub tags: Tags,
}

/// An address of a NAT gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatGatewayAddress {
    /// Private address.
    pub private_ip: Ipv4Addr,
    /// Elastic address.
    pub public_ip: Option<Ipv4Addr>,
    /// `eipalloc-…`.
    pub allocation_id: Option<String>,
    /// `eipassoc-…`.
    pub association_id: Option<String>,
}

/// A VPC peering connection, one record for both sides: [`super::key::vpc_peering`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VpcPeering {
    /// Record version, 1.
    pub v: u16,
    /// `pcx-…`.
    pub id: String,
    /// Who asked.
    pub requester: PeeringSide,
    /// Who is asked.
    pub accepter: PeeringSide,
    /// `initiating-request`, `pending-acceptance`, `active`, `rejected`, `failed`, `expired`,
    /// `deleting`, `deleted`.
    pub status: String,
    /// The status in words.
    pub message: String,
    /// When a request that nobody accepts expires.
    pub expires: Timestamp,
    /// When it ended; shown for a while.
    pub ended: Option<Timestamp>,
    /// The requester's tags.
    pub tags: Tags,
    /// The accepter's tags.
    #[serde(default, skip_serializing_if = "is_default")]
    pub accepter_tags: Tags,
}

/// One side of a peering connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeeringSide {
    /// Account.
    pub account: String,
    /// Region name.
    pub region: String,
    /// `vpc-…`.
    pub vpc_id: String,
    /// AllowDnsResolutionFromRemoteVpc.
    pub resolved_by_other: bool,
}

/// A managed prefix list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixList {
    /// Record version, 1.
    pub v: u16,
    /// `pl-…`.
    pub id: String,
    /// Name.
    pub name: String,
    /// AddressFamily `IPv6`; else `IPv4`.
    pub ipv6: bool,
    /// MaxEntries: what it counts as in a rule or a route.
    pub max_entries: u32,
    /// `create-complete`, `modify-complete`, `restore-complete`.
    pub state: String,
    /// Entries by version, the last one is in force.
    pub versions: BTreeMap<u64, Vec<PrefixListEntry>>,
    /// Tags.
    pub tags: Tags,
}

impl PrefixList {
    /// The entries in force.
    pub fn entries(&self) -> &[PrefixListEntry] {
        self.versions.last_key_value().map(|(_, entries)| entries.as_slice()).unwrap_or_default()
    }
}

/// An entry of a prefix list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixListEntry {
    /// The block.
    pub cidr: Cidr,
    /// Description.
    pub description: Option<String>,
}

/// A network ACL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkAcl {
    /// Record version, 1.
    pub v: u16,
    /// `acl-…`.
    pub id: String,
    /// Its VPC.
    pub vpc_id: String,
    /// The VPC's default ACL.
    pub is_default: bool,
    /// Entries without the last ones, which deny what is left.
    pub entries: Vec<NetworkAclEntry>,
    /// Subnets.
    pub associations: Vec<Association>,
    /// Tags.
    pub tags: Tags,
}

/// An entry of a network ACL. Direction and number are unique in the ACL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkAclEntry {
    /// 1 to 32766.
    pub number: u16,
    /// Out of the subnet.
    pub egress: bool,
    /// Allow instead of deny.
    pub allow: bool,
    /// Protocol number as text, or `-1`.
    pub protocol: String,
    /// The block.
    pub cidr: Cidr,
    /// First and last port, TCP and UDP.
    pub ports: Option<(u16, u16)>,
    /// ICMP type and code, -1 is any.
    pub icmp: Option<(i32, i32)>,
}

/// An elastic address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElasticAddress {
    /// Record version, 1.
    pub v: u16,
    /// `eipalloc-…`.
    pub allocation_id: String,
    /// The address.
    pub public_ip: Ipv4Addr,
    /// `amazon`, or a pool of one's own.
    pub pool: String,
    /// What it leads to. The interface's record says the same.
    pub association: Option<ElasticAssociation>,
    /// Host name of its reverse record (ModifyAddressAttribute).
    #[serde(default, skip_serializing_if = "is_default")]
    pub domain_name: Option<String>,
    /// A transfer that is offered: account, when it was offered, when the offer ends.
    #[serde(default, skip_serializing_if = "is_default")]
    pub transfer: Option<(String, Timestamp, Timestamp)>,
    /// Who made it for itself, `nat-…`; it cannot be released by hand.
    #[serde(default, skip_serializing_if = "is_default")]
    pub service_managed: Option<String>,
    /// Tags.
    pub tags: Tags,
}

/// Where an elastic address leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElasticAssociation {
    /// `eipassoc-…`.
    pub id: String,
    /// `eni-…`.
    pub interface_id: String,
    /// Which of the interface's private addresses.
    pub private_ip: Ipv4Addr,
}

/// A further private address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SecondaryAddress {
    /// In the subnet.
    pub private_ip: Ipv4Addr,
    /// The elastic address.
    #[serde(default, skip_serializing_if = "is_default")]
    pub elastic: Option<ElasticPart>,
}

/// The elastic address of one private address, as the interface knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ElasticPart {
    /// The address.
    pub public_ip: Ipv4Addr,
    /// `eipalloc-…`.
    pub allocation_id: String,
    /// `eipassoc-…`.
    pub association_id: String,
}

/// What made an interface and keeps it (InterfaceType, RequesterManaged).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InterfaceKind {
    /// A user.
    #[default]
    Interface,
    /// `nat-…`.
    NatGateway(String),
    /// `vpce-…`.
    VpcEndpoint(String),
    /// `tgw-attach-…`.
    TransitGateway(String),
}

/// A VPC endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VpcEndpoint {
    /// Record version, 1.
    pub v: u16,
    /// `vpce-…`.
    pub id: String,
    /// Its VPC.
    pub vpc_id: String,
    /// `com.amazonaws.us-east-1.s3`.
    pub service_name: String,
    /// A gateway endpoint: routes in `route_table_ids`; else an interface endpoint.
    pub gateway: bool,
    /// How far.
    pub state: Progress,
    /// Policy document.
    pub policy: String,
    /// Route tables of a gateway endpoint.
    pub route_table_ids: Vec<String>,
    /// Subnets of an interface endpoint, one a zone.
    pub subnet_ids: Vec<String>,
    /// Security groups of its interfaces.
    pub group_ids: Vec<String>,
    /// Its interfaces, one a subnet.
    pub interface_ids: Vec<String>,
    /// PrivateDnsEnabled: the service's own name leads to it.
    pub private_dns: bool,
    /// When it was made.
    pub created: Timestamp,
    /// When it was deleted.
    pub deleted: Option<Timestamp>,
    /// Tags.
    pub tags: Tags,
}

/// A transit gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransitGateway {
    /// Record version, 1.
    pub v: u16,
    /// `tgw-…`.
    pub id: String,
    /// Description.
    pub description: String,
    /// How far.
    pub state: Progress,
    /// AmazonSideAsn.
    pub asn: i64,
    /// Options that are on or off, by the member's name in the model: `AutoAcceptSharedAttachments`,
    /// `DefaultRouteTableAssociation`, `DefaultRouteTablePropagation`, `VpnEcmpSupport`,
    /// `DnsSupport`, `SecurityGroupReferencingSupport`, `MulticastSupport`.
    pub options: BTreeMap<String, bool>,
    /// Blocks for Connect attachments.
    #[serde(default, skip_serializing_if = "is_default")]
    pub cidrs: Vec<Cidr>,
    /// `tgw-rtb-…` that new attachments are associated with.
    pub association_table_id: Option<String>,
    /// `tgw-rtb-…` that new attachments propagate to.
    pub propagation_table_id: Option<String>,
    /// When it was made.
    pub created: Timestamp,
    /// When it was deleted.
    pub deleted: Option<Timestamp>,
    /// Tags.
    pub tags: Tags,
}

/// An attachment of a transit gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransitGatewayAttachment {
    /// Record version, 1.
    pub v: u16,
    /// `tgw-attach-…`.
    pub id: String,
    /// `tgw-…`.
    pub transit_gateway_id: String,
    /// `vpc-…`, or `tgw-…` for a peering.
    pub resource_id: String,
    /// Region of the other end of a peering.
    #[serde(default, skip_serializing_if = "is_default")]
    pub peer_region: Option<String>,
    /// Account of the other end of a peering.
    #[serde(default, skip_serializing_if = "is_default")]
    pub peer_account: Option<String>,
    /// The other end of this peering asked for it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub is_accepter: bool,
    /// How far; a peering that waits for its other side is `pending_acceptance`.
    pub state: Progress,
    /// The other side has not accepted yet.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pending_acceptance: bool,
    /// Subnets, one a zone; packets come into the VPC through the first one's route table.
    pub subnet_ids: Vec<String>,
    /// Its interfaces in those subnets.
    #[serde(default, skip_serializing_if = "is_default")]
    pub interface_ids: Vec<String>,
    /// Options that are on or off: `DnsSupport`, `Ipv6Support`, `ApplianceModeSupport`,
    /// `SecurityGroupReferencingSupport`.
    pub options: BTreeMap<String, bool>,
    /// `tgw-rtb-…` that its packets are looked up in.
    pub association: Option<String>,
    /// `tgw-rtb-…` that know its VPC's blocks.
    pub propagations: Vec<String>,
    /// When it was made.
    pub created: Timestamp,
    /// When it was deleted.
    pub deleted: Option<Timestamp>,
    /// Tags.
    pub tags: Tags,
}

impl TransitGatewayAttachment {
    /// Whether packets to this block may pass: IPv6 does not pass the attachment of a VPC without
    /// Ipv6Support.
    pub fn carries(&self, block: &Cidr) -> bool {
        matches!(block, Cidr::V4(_))
            || self.peer_region.is_some()
            || self.options.get("Ipv6Support").copied().unwrap_or(false)
    }
}

/// A transit gateway's route table. Propagated routes follow from the attachments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransitGatewayRouteTable {
    /// Record version, 1.
    pub v: u16,
    /// `tgw-rtb-…`.
    pub id: String,
    /// `tgw-…`.
    pub transit_gateway_id: String,
    /// How far.
    pub state: Progress,
    /// Static routes: where to, and `tgw-attach-…`, or none for a blackhole.
    pub routes: Vec<(Cidr, Option<String>)>,
    /// References to prefix lists: `pl-…`, and `tgw-attach-…`, or none for a blackhole.
    #[serde(default, skip_serializing_if = "is_default")]
    pub prefix_lists: Vec<(String, Option<String>)>,
    /// When it was made.
    pub created: Timestamp,
    /// When it was deleted.
    pub deleted: Option<Timestamp>,
    /// Tags.
    pub tags: Tags,
}

/// A flow log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowLog {
    /// Record version, 1.
    pub v: u16,
    /// `fl-…`.
    pub id: String,
    /// `vpc-…`, `subnet-…` or `eni-…`.
    pub resource_id: String,
    /// `ALL`, `ACCEPT` or `REJECT`.
    pub traffic_type: String,
    /// `cloud-watch-logs` or `s3`; lines go to files of the node in either case.
    pub destination_type: String,
    /// LogDestination.
    pub destination: Option<String>,
    /// LogGroupName.
    pub group_name: Option<String>,
    /// DeliverLogsPermissionArn.
    pub role_arn: Option<String>,
    /// LogFormat.
    pub format: String,
    /// Maximum aggregation interval, seconds: 60 or 600.
    pub interval: u32,
    /// When it was made.
    pub created: Timestamp,
    /// Tags.
    pub tags: Tags,
}
