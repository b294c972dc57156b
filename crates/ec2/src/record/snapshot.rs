//! Records of snapshots, and of what stands around them: an account's settings, retention rules.

use super::Tags;
use base::Timestamp;
use base::key::WrappedKey;
use base::volume::Content;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// VolumeId of a snapshot that was not taken of a volume (EC2 API Reference, "CopySnapshot").
pub const NO_VOLUME: &str = "vol-ffffffff";

/// A snapshot, from its request until it is deleted; in the recycle bin it is still this record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Record version, 1.
    pub v: u16,
    /// `snap-…`.
    pub id: String,
    /// `vol-…`, or [`NO_VOLUME`].
    pub volume_id: String,
    /// GiB.
    pub size_gib: u32,
    /// Whose it is, 12 digits.
    pub owner_id: String,
    /// `amazon`.
    #[serde(default)]
    pub owner_alias: Option<String>,
    /// Where it comes from, and thereby who completes it.
    pub origin: Origin,
    /// The state that the caller sees.
    pub state: SnapshotState,
    /// StateMessage of a failed one.
    #[serde(default)]
    pub message: Option<String>,
    /// Its instant is fixed: what is written to the volume from now on is not in it. True for
    /// whatever is not taken of a volume.
    pub cut: bool,
    /// Percent.
    pub progress: u8,
    /// What it holds, once it is completed.
    pub content: Option<Content>,
    /// The key of its content, known from the start; its ARN is what KmsKeyId shows.
    pub key: Option<WrappedKey>,
    /// Bytes of all its blocks.
    #[serde(default)]
    pub full_bytes: Option<u64>,
    /// What its unchanged blocks are shared with: the content of the volume's snapshot before this
    /// one, or of the parent that StartSnapshot named. `None` while an earlier snapshot of the
    /// volume is pending: whoever ends that one writes it here.
    #[serde(default)]
    pub parent: Option<Content>,
    /// ParentSnapshotId.
    #[serde(default)]
    pub parent_id: Option<String>,
    /// When it was asked for.
    pub started: Timestamp,
    /// When it was completed.
    pub completed: Option<Timestamp>,
    /// Description.
    pub description: String,
    /// Tags.
    pub tags: Tags,
    /// Volumes that are cut at the same instant and their snapshots, this one among them; empty when
    /// it stands alone ([`base::volume::Snapshot::together`]).
    #[serde(default)]
    pub together: Vec<(String, String)>,
    /// [`base::volume::Snapshot::during_reboot`].
    #[serde(default)]
    pub during_reboot: Option<u32>,
    /// Images that use it: it is not deleted while there is one.
    #[serde(default)]
    pub images: BTreeSet<String>,
    /// The node's image whose kernel boots what it holds ([`crate::record::Image::key`]), handed on
    /// from image to volume to snapshot; empty when the firmware does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image_key: String,
    /// createVolumePermission.
    #[serde(default)]
    pub permissions: Permissions,
    /// LockSnapshot.
    #[serde(default)]
    pub lock: Option<Lock>,
    /// Storage tier.
    #[serde(default)]
    pub tiering: Tiering,
    /// Fast snapshot restore, by zone.
    #[serde(default)]
    pub fast_restores: BTreeMap<String, FastRestore>,
    /// It is in the recycle bin.
    #[serde(default)]
    pub recycled: Option<Recycled>,
}

/// Where a snapshot comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Taken of its volume. The driver's state of the volume completes it.
    Volume,
    /// CopySnapshot or CopyImage. A task completes it if it is encrypted anew.
    Copy {
        /// Region of the source.
        region: String,
        /// The source.
        snapshot_id: String,
        /// What is copied.
        from: Content,
        /// CompletionDurationMinutes.
        minutes: Option<u32>,
    },
    /// StartSnapshot. Its task starts with CompleteSnapshot.
    Direct {
        /// Minutes after the last PutSnapshotBlock at which it fails.
        timeout_minutes: u32,
        /// The last StartSnapshot or PutSnapshotBlock.
        touched: Timestamp,
        /// CompleteSnapshot was called.
        sealed: bool,
    },
    /// ImportSnapshot or ImportImage: a task completes it.
    Import {
        /// Below the node's bucket directory.
        file: String,
        /// As the request said.
        format: Option<String>,
    },
    /// Published with an image of the node; complete from its first moment.
    Published,
}

/// State of a snapshot (EC2 API Reference, "Snapshot").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotState {
    /// Being taken, copied or written.
    Pending,
    /// There.
    Completed,
    /// Could not be completed.
    Error,
    /// In the recycle bin.
    Recoverable,
    /// Leaving the recycle bin.
    Recovering,
}

impl SnapshotState {
    /// The state's name in the API.
    pub fn name(self) -> &'static str {
        match self {
            SnapshotState::Pending => "pending",
            SnapshotState::Completed => "completed",
            SnapshotState::Error => "error",
            SnapshotState::Recoverable => "recoverable",
            SnapshotState::Recovering => "recovering",
        }
    }
}

/// Who may make volumes of a snapshot beside its owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permissions {
    /// Everybody.
    pub all: bool,
    /// Accounts.
    pub accounts: BTreeSet<String>,
}

/// A lock (EBS User Guide, "Amazon EBS snapshot lock").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lock {
    /// Compliance mode; otherwise governance.
    pub compliance: bool,
    /// LockDuration, days.
    pub days: u32,
    /// When it was locked.
    pub created: Timestamp,
    /// When its duration starts.
    pub starts: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
    /// CoolOffPeriod, hours.
    pub cool_off_hours: Option<u32>,
    /// When the cool-off ends.
    pub cool_off_expires: Option<Timestamp>,
}

/// The storage tier of a snapshot (EBS User Guide, "Archive Amazon EBS snapshots").
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tiering {
    /// It is in the archive: no volume is made of it.
    pub archived: bool,
    /// The last move and when it began.
    pub last: Option<(TierMove, Timestamp)>,
    /// When the move that goes on ends.
    pub ends: Option<Timestamp>,
    /// When it was archived.
    pub archival_completed: Option<Timestamp>,
    /// When a temporary restore ends.
    pub restore_expires: Option<Timestamp>,
    /// Days of the temporary restore that goes on.
    pub restore_days: Option<u32>,
}

/// A move between tiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TierMove {
    /// To the archive.
    Archival,
    /// Back, for some days.
    TemporaryRestore,
    /// Back for good.
    PermanentRestore,
}

/// Fast snapshot restore in one zone; the moments at which its states began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FastRestore {
    /// enabling.
    pub enabling: Timestamp,
    /// optimizing.
    pub optimizing: Option<Timestamp>,
    /// enabled.
    pub enabled: Option<Timestamp>,
    /// disabling.
    pub disabling: Option<Timestamp>,
    /// disabled; shown for a while.
    pub disabled: Option<Timestamp>,
}

/// A stay in the recycle bin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recycled {
    /// When it was deleted.
    pub entered: Timestamp,
    /// When it is gone for good.
    pub exits: Timestamp,
    /// The rule that keeps it.
    pub rule_id: String,
}

/// What an account has chosen for its volumes and snapshots in a region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EbsSettings {
    /// Record version, 1.
    pub v: u16,
    /// Encryption by default.
    pub encrypt: bool,
    /// ARN of the default key; `None` is `alias/aws/ebs`.
    pub key_arn: Option<String>,
    /// Snapshot block public access.
    pub block_public_access: BlockPublicAccess,
}

/// Whether snapshots may be shared with everybody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockPublicAccess {
    /// They may.
    #[default]
    Unblocked,
    /// Those that are stay so.
    BlockNewSharing,
    /// None is, whatever its permissions say.
    BlockAllSharing,
}

impl BlockPublicAccess {
    /// The state's name in the API.
    pub fn name(self) -> &'static str {
        match self {
            BlockPublicAccess::Unblocked => "unblocked",
            BlockPublicAccess::BlockNewSharing => "block-new-sharing",
            BlockPublicAccess::BlockAllSharing => "block-all-sharing",
        }
    }
}

/// A retention rule of the recycle bin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecycleBinRule {
    /// Record version, 1.
    pub v: u16,
    /// Eleven letters and digits.
    pub id: String,
    /// `EBS_SNAPSHOT` or `EC2_IMAGE`.
    pub resource_type: String,
    /// Description.
    pub description: String,
    /// How long what is deleted is kept, days.
    pub retention_days: u32,
    /// A tag-level rule: resources with one of these tags; a value of `None` is any. Empty for a
    /// Region-level rule.
    pub resource_tags: Vec<(String, Option<String>)>,
    /// A Region-level rule: not resources with one of these tags.
    pub exclude_tags: Vec<(String, Option<String>)>,
    /// Its lock: the days after which it can be changed when it is unlocked.
    pub unlock_delay_days: Option<u32>,
    /// When an unlocked one can be changed.
    pub unlock_expires: Option<Timestamp>,
    /// Its tags.
    pub tags: Tags,
}
