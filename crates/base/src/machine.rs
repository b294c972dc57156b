//! The wanted state of one virtual machine, and what its driver observed.
//!
//! The control plane writes [`Spec`]s; a [`Driver`] makes them so and reports [`State`]s. Both are
//! level-triggered: applying the same spec twice changes nothing, and whoever is told that
//! something changed reads the state again.
//!
//! ```text
//!            apply(Running{start: n})
//!  Absent ──────────────────────────► Launching ──► Running ──► Exited ──► (start n+1) Launching …
//!                                        │                        ▲
//!                                        └──► Failed              │ guest power-off, stop, death
//!  any ── apply(Terminated) ──► Gone (process, disks to delete and directory are no more)
//! ```

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;

/// Everything a driver must know to run one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Instance id, `i-…`.
    pub id: String,
    /// Region name.
    pub region: String,
    /// What is wanted now.
    pub wanted: Wanted,
    /// Key of the image ([`crate::image::Manifest::key`]) that the machine boots from.
    pub image: String,
    /// Nominal vCPUs; a driver may cap them.
    pub vcpus: u32,
    /// Nominal memory, MiB; a driver may cap it.
    pub memory_mib: u64,
    /// Disks in attachment order; the root comes first. One that is not here any more is detached.
    pub volumes: Vec<Volume>,
    /// Volumes to be taken away although the guest does not let go of them: detached with Force.
    #[serde(default)]
    pub forced_off: Vec<String>,
    /// Instance store: empty at each start, kept over a reboot, gone when the machine is off.
    #[serde(default)]
    pub local_disks: Vec<LocalDisk>,
    /// Network interfaces by device index; the primary comes first. One that is not here any more
    /// is detached.
    pub interfaces: Vec<Interface>,
    /// Interfaces to be taken away although the guest does not let go of them.
    #[serde(default)]
    pub forced_off_interfaces: Vec<String>,
    /// What IMDS answers to this machine.
    pub metadata: Metadata,
}

/// The power state that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// Run. `start` counts the times the user started the instance (1 at launch): a machine that
    /// exited in start n runs again only for a start greater than n. `reboots` counts the reboots
    /// asked for since launch; a driver performs one when the number has grown.
    Running { start: u32, reboots: u32 },
    /// Be off, disks kept. Without `force` the guest gets an ACPI power button first.
    Stopped { force: bool },
    /// Be gone: process and directory; its volumes are let go of.
    Terminated,
}

/// One disk; what it is stands in its [`crate::volume::Spec`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// `vol-…`; becomes the disk's serial, without the dash (20 bytes).
    pub id: String,
    /// Name that the API shows: `/dev/xvda`, `/dev/sdf`.
    pub device_name: String,
}

/// One disk of the instance store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalDisk {
    /// Its name in block device mappings, `ephemeral0`; the disk's serial.
    pub name: String,
    /// Name that the API shows: `/dev/sdb`.
    pub device_name: String,
    /// Size, GB of 10^9 bytes as instance types give it.
    pub size_gb: u32,
}

/// One network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// `eni-…`; the same interface stands in the [`crate::network::Plan`].
    pub id: String,
    /// `0a:…`, lower case, colons.
    pub mac: String,
    /// VPC whose namespace holds the tap.
    pub vpc_id: String,
    /// Primary private address.
    pub private_ip: Ipv4Addr,
}

/// What the instance metadata service answers to one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Leaf path below a version, such as `meta-data/instance-id` or
    /// `dynamic/instance-identity/document`, to its text. Directories are derived from the paths;
    /// the node adds the signatures beside the identity document.
    pub leaves: BTreeMap<String, String>,
    /// Decoded user data; `None` answers 404.
    pub user_data: Option<Vec<u8>>,
    /// HttpEndpoint: false answers 403 to everything.
    pub enabled: bool,
    /// HttpTokens=required: version 1 requests get 401.
    pub tokens_required: bool,
    /// HttpPutResponseHopLimit, 1 to 64: IP TTL of the token answer.
    pub hop_limit: u8,
}

/// What a driver knows of one machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Never heard of it.
    Absent,
    /// On its way up.
    Launching {
        /// The start being made so.
        start: u32,
    },
    /// The machine's processors run.
    Running {
        /// The start that runs.
        start: u32,
        /// Reboots done since launch.
        reboots: u32,
        /// Whether the guest's network answers (ARP to the NIC); `None` until first checked.
        reachable: Option<bool>,
    },
    /// It ran and does not any more; its disks are kept.
    Exited {
        /// The start that ended.
        start: u32,
        /// Why.
        cause: ExitCause,
    },
    /// It could not be started; its disks, if any, are kept.
    Failed {
        /// The start that failed.
        start: u32,
        /// For StateReason: what happened and what to do.
        message: String,
    },
    /// Terminated and cleaned up.
    Gone,
}

/// How far a running machine is with one of its interfaces beside the primary one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterfaceState {
    /// The guest has not got it, and its tap is not open.
    Out,
    /// On its way in or out, or not known yet.
    Unsettled,
    /// The guest has it.
    In,
}

/// Why a machine stopped running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitCause {
    /// A spec asked for it.
    Requested,
    /// The guest powered itself off.
    GuestShutdown,
    /// The process died; the text says how.
    Died(String),
}

/// Serial console output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Console {
    /// The most recent bytes, at most 64 KiB.
    pub bytes: Vec<u8>,
    /// When the last byte was written.
    pub modified: crate::Timestamp,
}

/// Runs machines. No method blocks on a machine: each returns at once, work goes on behind it, and
/// every change of a [`State`] is announced through the listener.
pub trait Driver: crate::volume::Driver {
    /// `qemu` or `sim`.
    fn name(&self) -> &'static str;

    /// Makes `spec` the wanted state of its machine. Called at every change and once for every live
    /// instance when the daemon starts (which adopts running machines). Idempotent.
    fn apply(&self, spec: Spec);

    /// What is known of the machine.
    fn state(&self, id: &str) -> State;

    /// How far the machine is with an interface of its spec, or with one that was: the listener is
    /// called with the machine's id when it changes. [`InterfaceState::Out`] for a machine that does
    /// not run.
    fn interface_state(&self, machine: &str, interface: &str) -> InterfaceState;

    /// Drops what is remembered of a machine that is [`State::Gone`].
    fn forget(&self, id: &str);

    /// The machine's console, kept for an hour after termination; `None` if it has none.
    ///
    /// # Errors
    /// Reading the console file failed.
    fn console(&self, id: &str) -> io::Result<Option<Console>>;

    /// Makes `plan` the wanted network of this node. Called at every change, before the
    /// [`Driver::apply`] of machines whose interfaces it adds.
    fn apply_network(&self, plan: crate::network::Plan);

    /// Whether [`Driver::apply_network`] does anything; the simulation has no packets.
    fn has_network(&self) -> bool;

    /// Sets the function that is called with a machine's id when its state changed. It is called
    /// from any thread and must return quickly. Set once, before the first `apply`.
    fn listen(&self, listener: Box<dyn Fn(&str) + Send + Sync>);
}
