//! The wanted state of one volume, its snapshots, and what the node observed.
//!
//! As with machines ([`crate::machine`]), the control plane writes [`Spec`]s and a [`Driver`] makes
//! them so; both are level-triggered. Which machine a volume is attached to stands in the machine's
//! spec; the volume's [`Ready::attached`] says which machines really have it.
//!
//! ```text
//!            apply(Present)                made (empty: at once; from a snapshot: usable at once,
//!  Absent ──────────────────► Creating ──► Ready      filling behind; `filled_first`: when filled)
//!                                │          │  ▲
//!                                ▼          │  └─ attach, detach, resize, limits, snapshots
//!                              Failed       │
//!  any ── apply(Deleted) ──► Deleting ──► Gone (files and processes are no more)
//! ```
//!
//! **Content** is what a snapshot holds: a tree of content-addressed blocks of [`BLOCK_BYTES`] in
//! the blob store, named by its root. It never changes. A snapshot of a volume is cut at one instant
//! ([`SnapshotState::Pending`] with `cut`), then uploaded, then it is content.

use crate::key::WrappedKey;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;

/// Size of a snapshot's blocks, bytes (EBS direct APIs: 512 KiB).
pub const BLOCK_BYTES: usize = 512 << 10;

/// What a snapshot holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Content {
    /// SHA-256 of the root of the tree of blocks, 64 lower-case hexadecimal digits.
    pub root: String,
    /// Size of the volume it was taken of, GiB.
    pub size_gib: u32,
    /// The key that the blocks are encrypted with.
    pub key: Option<WrappedKey>,
}

/// Everything a driver must know of one volume.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Spec {
    /// `vol-…`; without the dash it is the disk's serial.
    pub id: String,
    /// Region name.
    pub region: String,
    /// What is wanted now.
    pub wanted: Wanted,
    /// Size, GiB. Only grows.
    pub size_gib: u32,
    /// What it is made from; `None` is an empty disk. Never changes.
    pub source: Option<Content>,
    /// The key that its data is encrypted with on this node's disk and in its snapshots. Never
    /// changes. A source with the same key shares its blocks.
    pub key: Option<WrappedKey>,
    /// How fast it may be.
    pub limits: Limits,
    /// How fast it fills from its source, MiB/s; `None` leaves it to the driver.
    pub initialization_rate: Option<u32>,
    /// It is [`State::Ready`] only when it has filled (fast snapshot restore).
    pub filled_first: bool,
    /// Several machines may have it at once (Multi-Attach).
    pub multi_attach: bool,
    /// Snapshots that are to be taken of it, in the order of their calls. One that is completed
    /// is dropped here by the control plane, and the driver forgets it then.
    pub snapshots: Vec<Snapshot>,
}

/// Whether a volume is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// Be there.
    Present,
    /// Be gone. Snapshots that are cut are uploaded first.
    Deleted,
}

/// A snapshot that is to be taken.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Snapshot {
    /// `snap-…`.
    pub id: String,
    /// Volumes that are cut at the same instant, with their snapshots, this one among them; empty
    /// when it stands alone. All are attached to one machine.
    pub together: Vec<(String, String)>,
    /// Cut while the machine is off during this reboot (count as in
    /// [`crate::machine::Wanted::Running`]); `None` cuts at once. CreateImage without NoReboot.
    pub during_reboot: Option<u32>,
    /// Content of the volume's snapshot before this one, whose unchanged blocks it shares; `None`
    /// for the first.
    pub parent: Option<Content>,
}

/// How fast a volume may be. `None` is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Limits {
    /// Operations a second.
    pub operations: Option<Rate>,
    /// Bytes a second.
    pub bytes: Option<Rate>,
    /// An operation larger than this counts as several, bytes; 0 counts each as one. 256 KiB for
    /// SSD, 1 MiB for HDD types (EBS User Guide, "I/O characteristics").
    pub operation_bytes: u32,
}

/// A rate, perhaps with a bucket of credits for bursts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rate {
    /// What is always given, a second; credits accrue at this rate.
    pub base: u64,
    /// What is given while there are credits.
    pub burst: Option<Burst>,
}

/// A bucket of credits (EBS User Guide, "gp2 burst", "st1 burst").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Burst {
    /// The rate while the bucket is not empty.
    pub rate: u64,
    /// Credits in the full bucket, in operations or bytes. A new volume's is full.
    pub bucket: u64,
}

/// What a driver knows of one volume.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Never heard of it.
    Absent,
    /// Being made.
    Creating,
    /// It is there.
    Ready(Ready),
    /// It could not be made: volume state `error`.
    Failed {
        /// What happened and what to do.
        message: String,
    },
    /// Being removed; its cut snapshots are still uploaded.
    Deleting {
        /// As in [`Ready::snapshots`].
        snapshots: BTreeMap<String, SnapshotState>,
    },
    /// Removed.
    Gone,
}

/// A volume that is there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ready {
    /// Size that a guest sees, GiB.
    pub size_gib: u32,
    /// Limits in force.
    pub limits: Limits,
    /// Machines that have it, by instance id: from the time that the guest can see it until the
    /// guest has let go.
    pub attached: Vec<String>,
    /// How much of its source it holds, percent; 100 without a source.
    pub filled_percent: u8,
    /// Credits left, percent; `None` for a type without bursts.
    pub burst_balance: Option<f64>,
    /// Why input and output fail, if they do: volume status `impaired`.
    pub impaired: Option<String>,
    /// What became of [`Spec::snapshots`].
    pub snapshots: BTreeMap<String, SnapshotState>,
}

/// How far a snapshot, a copy or an import is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotState {
    /// Not complete.
    Pending {
        /// Its instant is fixed: what is written from now on is not in it.
        cut: bool,
        /// Bytes looked at so far.
        done: u64,
        /// Bytes to look at.
        total: u64,
    },
    /// All of it is in the blob store, durably.
    Completed {
        /// What it holds.
        content: Content,
        /// Bytes of blocks that it holds and no parent shares (FullSnapshotSizeInBytes is the sum
        /// over all its blocks).
        new_bytes: u64,
        /// Bytes of all its blocks.
        full_bytes: u64,
    },
    /// It cannot be completed: snapshot state `error`.
    Failed {
        /// For StateMessage.
        message: String,
    },
}

/// Work on content that belongs to no volume. Level-triggered like the rest: applied until its
/// result is recorded, then forgotten. A daemon that starts again begins it anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// What it makes, `snap-…`, or an export task's id.
    pub id: String,
    /// What is to be done.
    pub work: Work,
}

/// See [`Task`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Encrypt content anew with another key: CopySnapshot. With the same key nothing is done.
    Copy {
        /// What is copied.
        from: Content,
        /// The key of the copy.
        key: Option<WrappedKey>,
    },
    /// Complete what EBS direct put: [`Blocks::put`] under this task's id.
    Complete {
        /// The parent that StartSnapshot named.
        parent: Option<Content>,
        /// Size, GiB.
        size_gib: u32,
        /// The key.
        key: Option<WrappedKey>,
    },
    /// Read a disk image file: ImportSnapshot, ImportImage.
    Import {
        /// Below the node's bucket directory: `<bucket>/<key>`.
        file: String,
        /// `raw`, `qcow2`, `vmdk`, `vhd`, `vhdx` as the request said; `None` finds out.
        format: Option<String>,
        /// The key.
        key: Option<WrappedKey>,
    },
    /// Write a disk image file: ExportImage.
    Export {
        /// What is exported.
        from: Content,
        /// Below the node's bucket directory.
        file: String,
        /// `raw`, `qcow2`, `vmdk`, `vhd`.
        format: String,
    },
}

/// Keeps volumes. No method blocks; every change of a state is announced through
/// [`crate::machine::Driver::listen`] with the id of the volume or the task.
pub trait Driver: Send + Sync {
    /// Makes `spec` the wanted state of its volume. Called at every change and once for every
    /// volume when the daemon starts. Idempotent.
    fn apply_volume(&self, spec: Spec);

    /// What is known of the volume.
    fn volume_state(&self, id: &str) -> State;

    /// Drops what is remembered of a volume that is [`State::Gone`].
    fn forget_volume(&self, id: &str);

    /// Starts a task unless it is known.
    fn apply_task(&self, task: Task);

    /// How far a task is; `None` if it is not known. An export is complete with its source.
    fn task_state(&self, id: &str) -> Option<SnapshotState>;

    /// Ends a task if it runs and drops what is remembered of it.
    fn forget_task(&self, id: &str);
}

/// Reads and writes the blocks of snapshots for the EBS direct APIs. Methods block for as long as the
/// blob store takes for one block.
pub trait Blocks: Send + Sync {
    /// Blocks of `content` from index `from` on, at most `most`, in order of index: index and
    /// identity (a hash that equal blocks of equal keys share).
    ///
    /// # Errors
    /// The blob store cannot be read or is damaged.
    fn list(&self, content: &Content, from: u64, most: usize) -> io::Result<Vec<(u64, String)>>;

    /// Indexes from `from` on, at most `most`, at which two contents differ, with the identities in
    /// the first and the second; `None` is a block of zeros.
    ///
    /// # Errors
    /// As for [`Blocks::list`].
    #[allow(clippy::type_complexity)]
    fn changed(
        &self,
        first: &Content,
        second: &Content,
        from: u64,
        most: usize,
    ) -> io::Result<Vec<(u64, Option<String>, Option<String>)>>;

    /// The [`BLOCK_BYTES`] at an index, decrypted; `None` when the content has no such block.
    ///
    /// # Errors
    /// As for [`Blocks::list`].
    fn read(&self, content: &Content, index: u64) -> io::Result<Option<Vec<u8>>>;

    /// Keeps a block of the upload `id`, durably; the same index again replaces it.
    ///
    /// # Errors
    /// The blob store cannot be written.
    fn put(&self, id: &str, key: Option<&WrappedKey>, index: u64, data: &[u8]) -> io::Result<()>;

    /// How many blocks the upload `id` has.
    ///
    /// # Errors
    /// The upload cannot be read.
    fn uploaded(&self, id: &str) -> io::Result<u64>;

    /// SHA-256 of the SHA-256s of the upload's blocks in the clear, in order of index: the checksum
    /// of CompleteSnapshot with the aggregation LINEAR.
    ///
    /// # Errors
    /// The upload cannot be read.
    fn checksum(&self, _id: &str) -> io::Result<[u8; 32]> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Drops the upload `id`: its snapshot was deleted or is completed.
    ///
    /// # Errors
    /// The upload cannot be removed.
    fn drop_upload(&self, id: &str) -> io::Result<()>;
}
