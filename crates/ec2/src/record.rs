//! What the store keeps about EC2: plain JSON with a version number, one record a resource.
//!
//! Keys are `/<region>/<kind>/<account>/<id>`. Fields that a later version adds come with
//! `#[serde(default)]`; a change of meaning raises the record's `v` and brings an upgrade function.
//! Records are not API shapes: each resource's module turns them into those.

pub mod insights;
pub mod network;
pub mod snapshot;

pub use self::insights::{
    InsightsAnalysis, InsightsExplanation, InsightsFilter, InsightsOutcome, InsightsPacket,
    InsightsPath, InsightsRule, InsightsStep,
};
pub use self::network::{
    Association, CidrAssociation, CidrReservation, Destination, DhcpOptions,
    EgressOnlyInternetGateway, ElasticAddress, ElasticAssociation, ElasticPart, FlowLog,
    InterfaceKind, InternetGateway, NameOptions, NatGateway, NatGatewayAddress, NetworkAcl,
    NetworkAclEntry, PeeringSide, PrefixList, PrefixListEntry, Progress, Route, RouteOrigin,
    RouteTable, SecondaryAddress, Subnet, TransitGateway, TransitGatewayAttachment,
    TransitGatewayRouteTable, Vpc, VpcEndpoint, VpcPeering,
};
pub use self::snapshot::{EbsSettings, RecycleBinRule, Snapshot, SnapshotState};
pub use crate::image::record::{Image, ImageState, MappedDisk, MappedVolume, Mapping, Protection};
pub use crate::kept::Kept;
use base::key::WrappedKey;
use base::volume::Content;
use base::{Ipv4Cidr, Ipv6Cidr, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Tags of a resource.
pub type Tags = BTreeMap<String, String>;

/// Keys of the records.
pub mod key {
    /// `/<region>/<kind>/<account>/<id>`; with an empty id, the prefix of all.
    pub fn of(region: &str, kind: &str, account: &str, id: &str) -> String {
        format!("/{region}/{kind}/{account}/{id}")
    }

    /// Region, kind, account and id of a record key; the inverse of [`of`].
    pub(crate) fn parts(record_key: &str) -> Option<(&str, &str, &str, &str)> {
        let mut parts = record_key.strip_prefix('/')?.splitn(4, '/');
        Some((parts.next()?, parts.next()?, parts.next()?, parts.next()?))
    }

    /// Marks an account's region as set up (default VPC and its parts).
    pub const REGION: &str = "region";
    /// [`super::Vpc`].
    pub const VPC: &str = "vpc";
    /// [`super::Subnet`].
    pub const SUBNET: &str = "subnet";
    /// [`super::SecurityGroup`].
    pub const SECURITY_GROUP: &str = "security-group";
    /// Claims a group name in a VPC: `<vpc-id>/<name>` → group id.
    pub const SECURITY_GROUP_NAME: &str = "security-group-name";
    /// [`super::Instance`].
    pub const INSTANCE: &str = "instance";
    /// [`super::Interface`].
    pub const INTERFACE: &str = "network-interface";
    /// Claims a private address or prefix, IPv4 or IPv6: `<vpc-id>/<address>` → interface id.
    pub const PRIVATE_ADDRESS: &str = "private-address";
    /// [`super::Volume`].
    pub const VOLUME: &str = "volume";
    /// [`super::KeyPair`], by name.
    pub const KEY_PAIR: &str = "key-pair";
    /// [`super::Image`]; account is the owner's.
    pub const IMAGE: &str = "image";
    /// Claims an image's name among its owner's: `<name>` → image id.
    pub const IMAGE_NAME: &str = "image-name";

    /// [`super::Snapshot`]; account is the owner's.
    pub const SNAPSHOT: &str = "snapshot";
    /// [`super::EbsSettings`]; the id is empty.
    pub const EBS_SETTINGS: &str = "ebs-settings";
    /// [`super::RecycleBinRule`].
    pub const RECYCLE_BIN_RULE: &str = "recycle-bin-rule";
    /// [`super::DhcpOptions`].
    pub const DHCP_OPTIONS: &str = "dhcp-options";
    /// [`super::RouteTable`].
    pub const ROUTE_TABLE: &str = "route-table";
    /// [`super::NetworkAcl`].
    pub const NETWORK_ACL: &str = "network-acl";
    /// [`super::InternetGateway`].
    pub const INTERNET_GATEWAY: &str = "internet-gateway";
    /// [`super::EgressOnlyInternetGateway`].
    pub const EGRESS_ONLY_INTERNET_GATEWAY: &str = "egress-only-internet-gateway";
    /// [`super::NatGateway`].
    pub const NAT_GATEWAY: &str = "nat-gateway";
    /// [`super::PrefixList`].
    pub const PREFIX_LIST: &str = "prefix-list";
    /// [`super::ElasticAddress`].
    pub const ELASTIC_ADDRESS: &str = "elastic-address";
    /// [`super::VpcEndpoint`].
    pub const VPC_ENDPOINT: &str = "vpc-endpoint";
    /// [`super::TransitGateway`].
    pub const TRANSIT_GATEWAY: &str = "transit-gateway";
    /// [`super::TransitGatewayAttachment`].
    pub const TRANSIT_GATEWAY_ATTACHMENT: &str = "transit-gateway-attachment";
    /// [`super::TransitGatewayRouteTable`].
    pub const TRANSIT_GATEWAY_ROUTE_TABLE: &str = "transit-gateway-route-table";
    /// [`super::FlowLog`].
    pub const FLOW_LOG: &str = "flow-log";
    /// [`super::InsightsPath`].
    pub const INSIGHTS_PATH: &str = "network-insights-path";
    /// [`super::InsightsAnalysis`].
    pub const INSIGHTS_ANALYSIS: &str = "network-insights-analysis";
    /// [`super::VpcPeering`], which belongs to two accounts and regions: [`vpc_peering`].
    pub const VPC_PEERING: &str = "vpc-peering-connection";

    /// The key of a peering connection; with an empty id, the prefix of all.
    pub fn vpc_peering(id: &str) -> String {
        format!("/{VPC_PEERING}/{id}")
    }

    /// The key of a claim of kind [`PRIVATE_ADDRESS`].
    pub fn private_address(
        region: &str,
        account: &str,
        vpc_id: &str,
        address: impl std::fmt::Display,
    ) -> String {
        format!("/{region}/{PRIVATE_ADDRESS}/{account}/{vpc_id}/{address}")
    }

    /// Claims an IPv6 block of a VPC, for all regions and accounts of this cloud.
    pub fn ipv6_block(block: base::Ipv6Cidr) -> String {
        format!("/ipv6-block/{block}")
    }

    /// Claims a public address, for all regions and accounts of this cloud.
    pub fn public_address(address: std::net::Ipv4Addr) -> String {
        format!("/public-address/{address}")
    }
}

/// A security group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityGroup {
    /// Record version, 1.
    pub v: u16,
    /// `sg-…`.
    pub id: String,
    /// Name, unique in the VPC.
    pub name: String,
    /// Description.
    pub description: String,
    /// Its VPC.
    pub vpc_id: String,
    /// Rules of both directions.
    pub rules: Vec<SecurityGroupRule>,
    /// Tags.
    pub tags: Tags,
}

/// One permission: one protocol range with one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecurityGroupRule {
    /// `sgr-…`.
    pub id: String,
    /// Outbound instead of inbound.
    pub egress: bool,
    /// `-1`, `tcp`, `udp`, `icmp`, `icmpv6`, or a protocol number.
    pub protocol: String,
    /// First port, ICMP type, or -1. `None` with protocol -1 and numbers without ports.
    pub from_port: Option<i32>,
    /// Last port, ICMP code, or -1.
    pub to_port: Option<i32>,
    /// With whom.
    pub peer: RulePeer,
    /// Description.
    pub description: Option<String>,
    /// Tags.
    pub tags: Tags,
}

/// The other side of a permission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RulePeer {
    /// An IPv4 prefix.
    Ipv4(Ipv4Cidr),
    /// An IPv6 prefix.
    Ipv6(Ipv6Cidr),
    /// A group of the same VPC.
    Group(String),
    /// A group of a peered VPC.
    PeerGroup {
        /// Its account.
        account: String,
        /// `vpc-…`.
        vpc_id: String,
        /// `pcx-…` by which it was found.
        peering_id: String,
        /// `sg-…`.
        group_id: String,
    },
    /// A prefix list, `pl-…`.
    PrefixList(String),
}

/// A key pair; the private key is given once and never kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPair {
    /// Record version, 1.
    pub v: u16,
    /// `key-…`.
    pub id: String,
    /// Name.
    pub name: String,
    /// `rsa` or `ed25519`.
    pub kind: String,
    /// As DescribeKeyPairs shows it.
    pub fingerprint: String,
    /// OpenSSH public key with the name as comment: `ssh-ed25519 AAAA… name`.
    pub public_key: String,
    /// When it was made.
    pub created: Timestamp,
    /// Tags.
    pub tags: Tags,
}

/// The life of an instance, as its state code says it (EC2 API Reference, "InstanceState").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceState {
    /// 0: being launched or started.
    Pending,
    /// 16.
    Running,
    /// 32: being terminated.
    ShuttingDown,
    /// 48.
    Terminated,
    /// 64: being stopped.
    Stopping,
    /// 80.
    Stopped,
}

impl InstanceState {
    /// The low byte of the state code.
    pub fn code(self) -> i32 {
        match self {
            InstanceState::Pending => 0,
            InstanceState::Running => 16,
            InstanceState::ShuttingDown => 32,
            InstanceState::Terminated => 48,
            InstanceState::Stopping => 64,
            InstanceState::Stopped => 80,
        }
    }

    /// The state's name in the API.
    pub fn name(self) -> &'static str {
        match self {
            InstanceState::Pending => "pending",
            InstanceState::Running => "running",
            InstanceState::ShuttingDown => "shutting-down",
            InstanceState::Terminated => "terminated",
            InstanceState::Stopping => "stopping",
            InstanceState::Stopped => "stopped",
        }
    }
}

/// An instance: what is wanted of it, and the state that the caller sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Record version, 1.
    pub v: u16,
    /// `i-…`.
    pub id: String,
    /// `r-…`.
    pub reservation_id: String,
    /// Place in its reservation.
    pub launch_index: u32,
    /// The image.
    pub image_id: String,
    /// The node's image key.
    pub image_key: String,
    /// The image's architecture at launch.
    #[serde(default = "crate::record::x86_64")]
    pub architecture: String,
    /// `t3.micro`.
    pub instance_type: String,
    /// Key pair name.
    pub key_name: Option<String>,
    /// The key pair's public key at launch, for IMDS.
    pub public_key: Option<String>,
    /// `us-east-1a`.
    pub availability_zone: String,
    /// `subnet-…`.
    pub subnet_id: String,
    /// `vpc-…`.
    pub vpc_id: String,
    /// Primary private address.
    pub private_ip: Ipv4Addr,
    /// Whether it gets a public address at every start.
    pub wants_public_ip: bool,
    /// The public address it has now.
    pub public_ip: Option<Ipv4Addr>,
    /// Primary interface.
    pub interface_id: String,
    /// Further interfaces by device index, ascending.
    #[serde(default, skip_serializing_if = "is_default")]
    pub more_interfaces: Vec<AttachedInterface>,
    /// PrivateDnsNameOptions.
    #[serde(default, skip_serializing_if = "is_default")]
    pub name_options: NameOptions,
    /// Attached volumes, root first.
    pub volumes: Vec<AttachedVolume>,
    /// Disks of the instance store that its launch mapped. Those with NVMe are there unmapped.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ephemeral: Vec<MappedLocalDisk>,
    /// `/dev/xvda`.
    pub root_device_name: String,
    /// Decoded user data.
    #[serde(default, with = "crate::record::base64_bytes")]
    pub user_data: Option<Vec<u8>>,
    /// The state that the caller sees.
    pub state: InstanceState,
    /// Times started, 1 at launch ([`base::machine::Wanted::Running`]).
    pub start: u32,
    /// Reboots asked for.
    pub reboots: u32,
    /// Stop without asking the guest.
    pub force_stop: bool,
    /// When the current start was asked for (launchTime).
    pub launched: Timestamp,
    /// When the instance was first launched.
    pub created: Timestamp,
    /// When the state last changed.
    pub state_changed: Timestamp,
    /// StateReason code and message.
    pub state_reason: Option<StateReason>,
    /// StateTransitionReason, such as `User initiated (2026-11-21 10:00:23 GMT)`.
    pub transition_reason: String,
    /// Whether the guest's network answers; `None` while the check initialises.
    pub reachable: Option<bool>,
    /// instanceInitiatedShutdownBehavior: terminate instead of stop.
    pub terminate_on_shutdown: bool,
    /// disableApiTermination.
    pub disable_api_termination: bool,
    /// disableApiStop.
    pub disable_api_stop: bool,
    /// ebsOptimized.
    pub ebs_optimized: bool,
    /// Detailed monitoring.
    pub monitoring: bool,
    /// sourceDestCheck.
    pub source_dest_check: bool,
    /// IMDS options.
    pub metadata_options: MetadataOptions,
    /// The client token of the launch.
    pub client_token: Option<String>,
    /// CPU credits: `standard` or `unlimited`; burstable types only.
    pub cpu_credits: Option<String>,
    /// Tags.
    pub tags: Tags,
    /// Its description as last encoded; not stored.
    #[serde(skip)]
    pub kept: Kept<Shown>,
}

/// What an instance's description is made of beside its record.
#[derive(Debug)]
pub struct Shown {
    /// The interfaces, the primary one first, in the versions that were shown.
    pub interfaces: Vec<Arc<Interface>>,
    /// Ids and names of each interface's groups.
    pub groups: Vec<Vec<model::ec2::GroupIdentifier>>,
    /// Name of the public address.
    pub public_dns_name: String,
}

/// Why an instance is in its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateReason {
    /// `Client.UserInitiatedShutdown`, `Server.InternalError`, …
    pub code: String,
    /// The message.
    pub message: String,
}

/// A volume's place at an instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AttachedVolume {
    /// `vol-…`.
    pub volume_id: String,
    /// `/dev/xvda`.
    pub device_name: String,
    /// DeleteOnTermination.
    pub delete_on_termination: bool,
    /// When it was attached.
    pub attached: Timestamp,
    /// How far. A launch's volumes are `Attached` from the start and show as the instance does.
    #[serde(default, skip_serializing_if = "is_default")]
    pub state: AttachmentState,
    /// Detached with Force: it is taken away although the guest does not let go.
    #[serde(default, skip_serializing_if = "is_default")]
    pub forced: bool,
}

/// A further interface's place at an instance; how far it is stands in the interface's record.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AttachedInterface {
    /// `eni-…`.
    pub interface_id: String,
    /// 1 or more.
    pub device_index: u32,
}

/// A disk of the instance store in a launch's block device mapping.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MappedLocalDisk {
    /// `/dev/sdb`.
    pub device_name: String,
    /// `ephemeral0`.
    pub name: String,
}

/// The life of an attachment. `busy`, a guest that does not let go, shows as `detaching` does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachmentState {
    /// The guest cannot see it yet.
    Attaching,
    /// It is the instance's.
    #[default]
    Attached,
    /// The guest is to let go of it.
    Detaching,
}

/// IMDS options of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MetadataOptions {
    /// HttpTokens=required.
    pub tokens_required: bool,
    /// HttpPutResponseHopLimit, 1 to 64.
    pub hop_limit: u8,
    /// HttpEndpoint=enabled.
    pub enabled: bool,
    /// InstanceMetadataTags=enabled.
    pub tags: bool,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Interface {
    /// Record version, 1.
    pub v: u16,
    /// `eni-…`.
    pub id: String,
    /// Its subnet.
    pub subnet_id: String,
    /// Its VPC.
    pub vpc_id: String,
    /// Its zone.
    pub availability_zone: String,
    /// Description.
    pub description: String,
    /// `0a:…`.
    pub mac: String,
    /// Primary private address.
    pub private_ip: Ipv4Addr,
    /// Public address of the primary private one, its own or elastic.
    pub public_ip: Option<Ipv4Addr>,
    /// The elastic address that `public_ip` is, if it is one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub elastic: Option<ElasticPart>,
    /// Further private addresses.
    #[serde(default, skip_serializing_if = "is_default")]
    pub secondary: Vec<SecondaryAddress>,
    /// Delegated prefixes, /28.
    #[serde(default, skip_serializing_if = "is_default")]
    pub prefixes: Vec<Ipv4Cidr>,
    /// IPv6 addresses, the primary one first.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ipv6: Vec<Ipv6Addr>,
    /// Delegated IPv6 prefixes, /80.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ipv6_prefixes: Vec<Ipv6Cidr>,
    /// The first IPv6 address stays the first (PrimaryIpv6).
    #[serde(default, skip_serializing_if = "is_default")]
    pub primary_ipv6: bool,
    /// What made it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub kind: InterfaceKind,
    /// Security groups.
    pub groups: Vec<String>,
    /// sourceDestCheck.
    pub source_dest_check: bool,
    /// Where it is attached.
    pub attachment: Option<InterfaceAttachment>,
    /// Where it was, and when that ended: clients wait for `detached`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub detached: Option<(InterfaceAttachment, Timestamp)>,
    /// Tags.
    pub tags: Tags,
}

/// An interface's place at an instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct InterfaceAttachment {
    /// `eni-attach-…`.
    pub id: String,
    /// The instance.
    pub instance_id: String,
    /// 0 is the primary interface.
    pub device_index: u32,
    /// Deleted with the instance.
    pub delete_on_termination: bool,
    /// When.
    pub attached: Timestamp,
    /// How far. A launch's interfaces are `Attached` from the start.
    #[serde(default, skip_serializing_if = "is_default")]
    pub state: AttachmentState,
    /// Detached with Force: it is taken away although the guest does not let go.
    #[serde(default, skip_serializing_if = "is_default")]
    pub forced: bool,
}

/// A volume. What is shown is [`VolumeState`], `in-use` while there are attachments.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Volume {
    /// Record version, 1.
    pub v: u16,
    /// `vol-…`.
    pub id: String,
    /// GiB.
    pub size_gib: u32,
    /// `gp2`, `gp3`, `io1`, `io2`, `st1`, `sc1`, `standard`.
    pub kind: String,
    /// Provisioned or included IOPS.
    pub iops: Option<u32>,
    /// MiB/s, gp3.
    pub throughput: Option<u32>,
    /// `snap-…` it was made from.
    pub snapshot_id: Option<String>,
    /// Its zone.
    pub availability_zone: String,
    /// When it was made.
    pub created: Timestamp,
    /// The instances it is attached to, from `attaching` to `detaching`; the places are in the
    /// instances' records. Several with Multi-Attach.
    #[serde(
        default,
        alias = "instance_id",
        deserialize_with = "one_or_several",
        skip_serializing_if = "is_default"
    )]
    pub attachments: Vec<String>,
    /// How far it is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub state: VolumeState,
    /// The key of its data; `None` is not encrypted. Never changes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub key: Option<WrappedKey>,
    /// What it starts from. Never changes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub source: Option<Content>,
    /// Multi-Attach.
    #[serde(default, skip_serializing_if = "is_default")]
    pub multi_attach: bool,
    /// VolumeInitializationRate, MiB/s.
    #[serde(default, skip_serializing_if = "is_default")]
    pub initialization_rate: Option<u32>,
    /// Made from a snapshot with fast snapshot restore in its zone: filled before it is available.
    #[serde(default, skip_serializing_if = "is_default")]
    pub filled_first: bool,
    /// It holds all of its source, or has none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub is_filled: bool,
    /// The source is an image's of the node, which keeps it: that the volume has filled matters to
    /// nobody and is not written.
    #[serde(default, skip_serializing_if = "is_default")]
    pub source_is_published: bool,
    /// [`Snapshot::image_key`] of what it was made from.
    #[serde(default, skip_serializing_if = "is_default")]
    pub image_key: String,
    /// Snapshots of it that are not completed, in the order of their calls. CreateSnapshot adds
    /// here; the snapshot's reconciler removes.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pending_snapshots: Vec<String>,
    /// Content of its newest completed snapshot, the next one's parent. A snapshot's reconciler
    /// writes it with the removal from `pending_snapshots`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub last_content: Option<Content>,
    /// Modifications, oldest first: the newest and those that began less than a day before it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub modifications: Vec<VolumeModification>,
    /// autoEnableIO.
    #[serde(default, skip_serializing_if = "is_default")]
    pub auto_enable_io: bool,
    /// Its input and output fail.
    #[serde(default, skip_serializing_if = "is_default")]
    pub impaired: Option<Impairment>,
    /// Tags.
    pub tags: Tags,
}

/// How far a volume is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeState {
    /// Being made. A launch's volumes begin as `Available`: they show `in-use`.
    Creating,
    /// There; `in-use` while it is attached.
    #[default]
    Available,
    /// Being removed.
    Deleting,
    /// It could not be made.
    Error,
}

/// What ModifyVolume changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VolumeShape {
    /// GiB.
    pub size_gib: u32,
    /// `gp3`, …
    pub kind: String,
    /// As in [`Volume::iops`].
    pub iops: Option<u32>,
    /// As in [`Volume::throughput`].
    pub throughput: Option<u32>,
    /// Multi-Attach.
    pub multi_attach: bool,
}

/// A modification of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VolumeModification {
    /// What it was. The volume's record says so until the node has made the change.
    pub original: VolumeShape,
    /// What it becomes.
    pub target: VolumeShape,
    /// How far.
    pub state: ModificationState,
    /// When it was asked for.
    pub started: Timestamp,
    /// Since when it is `optimizing`.
    pub optimizing: Option<Timestamp>,
    /// When it was completed or failed.
    pub ended: Option<Timestamp>,
    /// Why it failed.
    pub message: Option<String>,
}

/// How far a modification is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModificationState {
    /// The node is not done.
    Modifying,
    /// The volume is what it is to be; it may not be fast yet.
    Optimizing,
    /// Done.
    Completed,
    /// It stays as it was.
    Failed,
}

/// Why a volume does not work.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Impairment {
    /// `evol-…`, the event of DescribeVolumeStatus.
    pub event_id: String,
    /// What the node said.
    pub message: String,
    /// Since when.
    pub since: Timestamp,
    /// When EnableVolumeIO, or autoEnableIO, enabled input and output again.
    pub io_enabled: Option<Timestamp>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A list that was an `Option` once.
fn one_or_several<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Attachments {
        Several(Vec<String>),
        One(Option<String>),
    }
    Ok(match Attachments::deserialize(from)? {
        Attachments::Several(ids) => ids,
        Attachments::One(id) => id.into_iter().collect(),
    })
}

/// The architecture of instances whose record does not say it.
pub(crate) fn x86_64() -> String {
    "x86_64".to_owned()
}

/// `Option<Vec<u8>>` as base64 text.
pub(crate) mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        bytes: &Option<Vec<u8>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        bytes.as_ref().map(|b| STANDARD.encode(b)).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Vec<u8>>, D::Error> {
        Option::<String>::deserialize(deserializer)?
            .map(|text| STANDARD.decode(text).map_err(serde::de::Error::custom))
            .transpose()
    }
}
