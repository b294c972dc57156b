//! Records of images. See [`crate::record`].

use crate::record::snapshot::Recycled;
use crate::record::{StateReason, Tags};
use base::Timestamp;
use base::volume::Content;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// An Amazon machine image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Record version, 1.
    pub v: u16,
    /// `ami-…`.
    pub id: String,
    /// The node's image key ([`base::image::Manifest::key`]), whose kernel and initrd boot it. Empty:
    /// the firmware boots the root disk. Images made from an instance have their instance's.
    pub key: String,
    /// Name, unique among the owner's.
    pub name: String,
    /// Description.
    pub description: String,
    /// `x86_64`.
    pub architecture: String,
    /// `/dev/xvda`.
    pub root_device_name: String,
    /// Disks of its instances. The root is among them.
    #[serde(default)]
    pub mappings: Vec<Mapping>,
    /// Whose it is.
    pub owner_id: String,
    /// `amazon`.
    pub owner_alias: Option<String>,
    /// The state that callers see.
    #[serde(default)]
    pub state: ImageState,
    /// Why it is in that state.
    #[serde(default)]
    pub state_reason: Option<StateReason>,
    /// Launch permission for all.
    pub public: bool,
    /// Accounts that may launch it, beside its owner.
    #[serde(default)]
    pub launch_accounts: BTreeSet<String>,
    /// Instances default to HttpTokens=required (ImdsSupport v2.0).
    pub imds_v2: bool,
    /// `legacy-bios`, `uefi`, `uefi-preferred`.
    #[serde(default)]
    pub boot_mode: Option<String>,
    /// `v2.0`.
    #[serde(default)]
    pub tpm_support: Option<String>,
    /// EnaSupport.
    #[serde(default = "yes")]
    pub ena_support: bool,
    /// SriovNetSupport: `simple`.
    #[serde(default = "simple")]
    pub sriov_net_support: Option<String>,
    /// The instance that it was made from.
    #[serde(default)]
    pub source_instance_id: Option<String>,
    /// The image that it was copied from, or that its instance was launched from.
    #[serde(default)]
    pub source_image_id: Option<String>,
    /// That image's region.
    #[serde(default)]
    pub source_image_region: Option<String>,
    /// From then on it is deprecated.
    #[serde(default)]
    pub deprecation_time: Option<Timestamp>,
    /// Deregistration protection, if it has any.
    #[serde(default)]
    pub protection: Option<Protection>,
    /// When it was made.
    pub created: Timestamp,
    /// It is in the recycle bin.
    #[serde(default)]
    pub recycled: Option<Recycled>,
    /// Tags.
    pub tags: Tags,
}

impl Image {
    /// Whether an account may launch it.
    pub fn is_usable_by(&self, account: &str) -> bool {
        self.recycled.is_none()
            && (self.public || self.owner_id == account || self.launch_accounts.contains(account))
    }

    /// The disk that it boots from.
    pub fn root(&self) -> Option<&MappedVolume> {
        self.mappings.iter().find(|mapping| mapping.device_name == self.root_device_name)?.volume()
    }

    /// Its snapshots.
    pub fn snapshots(&self) -> impl Iterator<Item = &str> {
        self.mappings.iter().filter_map(|mapping| mapping.volume()?.snapshot_id.as_deref())
    }
}

/// What an image has at a device name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// `/dev/xvda`.
    pub device_name: String,
    /// What is there.
    pub disk: MappedDisk,
}

impl Mapping {
    /// The volume that is made of it.
    pub fn volume(&self) -> Option<&MappedVolume> {
        match &self.disk {
            MappedDisk::Volume(volume) => Some(volume),
            _ => None,
        }
    }
}

/// See [`Mapping`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MappedDisk {
    /// A volume.
    Volume(MappedVolume),
    /// A disk of the instance store, by its virtual name: `ephemeral0`.
    Ephemeral(String),
    /// Nothing, although the instance would have something there (NoDevice).
    Nothing,
}

/// A volume that an image's instances get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedVolume {
    /// The snapshot that it is made from; `None` is an empty disk.
    pub snapshot_id: Option<String>,
    /// GiB.
    pub size_gib: u32,
    /// Volume type: `gp3`.
    pub kind: String,
    /// Provisioned or included IOPS; what DescribeImages shows.
    pub iops: Option<u32>,
    /// MiB/s, gp3.
    pub throughput: Option<u32>,
    /// Encrypted: its snapshot is, or an empty disk is to be.
    pub encrypted: bool,
    /// DeleteOnTermination.
    pub delete_on_termination: bool,
}

/// The life of an image (EC2 API Reference, "Image"). A deregistered one has no record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageState {
    /// Its snapshots are not completed.
    Pending,
    /// Can be launched.
    #[default]
    Available,
    /// One of its snapshots failed.
    Failed,
    /// DisableImage.
    Disabled,
}

impl ImageState {
    /// The state's name in the API.
    pub fn name(self) -> &'static str {
        match self {
            ImageState::Pending => "pending",
            ImageState::Available => "available",
            ImageState::Failed => "failed",
            ImageState::Disabled => "disabled",
        }
    }
}

/// Protection against deregistration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protection {
    /// It lasts a day after it was disabled.
    pub cooldown: bool,
    /// When it ends; `None` while it is enabled.
    pub ends: Option<Timestamp>,
}

fn yes() -> bool {
    true
}

fn simple() -> Option<String> {
    Some("simple".to_owned())
}

/// An import of disks: ImportSnapshot, ImportImage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImportTask {
    /// Record version, 1.
    pub(crate) v: u16,
    /// `import-snap-…`, `import-ami-…`; an imported image has it as its name.
    pub(crate) id: String,
    /// Whose it is.
    pub(crate) owner_id: String,
    /// Description.
    pub(crate) description: String,
    /// What is imported; its snapshots make the progress.
    pub(crate) disks: Vec<ImportedDisk>,
    /// The image that the disks become; `None` for ImportSnapshot.
    pub(crate) image: Option<ImportedImage>,
    /// How far it is.
    pub(crate) state: TaskState,
    /// StatusMessage of one that has ended.
    pub(crate) message: Option<String>,
    /// When it ended.
    pub(crate) ended: Option<Timestamp>,
    /// The request's client token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) asked_with: Option<AskedWith>,
    /// Tags.
    pub(crate) tags: Tags,
}

/// A client token, and what was asked for with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AskedWith {
    /// The token.
    pub(crate) token: String,
    /// SHA-256 of the request, hexadecimal.
    pub(crate) asked: String,
}

/// A disk of an [`ImportTask`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImportedDisk {
    /// What it becomes.
    pub(crate) snapshot_id: String,
    /// `/dev/sda1`; empty for ImportSnapshot.
    pub(crate) device_name: String,
    /// Description.
    pub(crate) description: Option<String>,
    /// As the request said: `VMDK`.
    pub(crate) format: Option<String>,
    /// S3 bucket and key.
    pub(crate) object: Option<(String, String)>,
    /// The request named the object by a URL.
    pub(crate) url: Option<String>,
    /// ARN of the key that it is encrypted with.
    pub(crate) key_arn: Option<String>,
}

/// What an [`ImportTask`] says of its image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImportedImage {
    /// Once it is there.
    pub(crate) image_id: Option<String>,
    /// `x86_64`.
    pub(crate) architecture: String,
    /// `legacy-bios`.
    pub(crate) boot_mode: Option<String>,
    /// `BYOL`.
    pub(crate) license_type: Option<String>,
}

/// An export of an image's disk: ExportImage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExportTask {
    /// Record version, 1.
    pub(crate) v: u16,
    /// `export-ami-…`.
    pub(crate) id: String,
    /// The image.
    pub(crate) image_id: String,
    /// Description.
    pub(crate) description: String,
    /// `VMDK`, `RAW`, `VHD`.
    pub(crate) format: String,
    /// S3 bucket.
    pub(crate) bucket: String,
    /// Prefix of the object's key.
    pub(crate) prefix: String,
    /// RoleName.
    pub(crate) role: Option<String>,
    /// What is exported, as long as the task is active.
    pub(crate) content: Option<Content>,
    /// How far it is.
    pub(crate) state: TaskState,
    /// Percent.
    pub(crate) progress: u8,
    /// StatusMessage.
    pub(crate) message: Option<String>,
    /// When it ended.
    pub(crate) ended: Option<Timestamp>,
    /// Tags.
    pub(crate) tags: Tags,
}

/// The life of a task (EC2 API Reference, "ImportImageTask").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum TaskState {
    /// At work.
    Active,
    /// Done.
    Completed,
    /// Being cancelled.
    Deleting,
    /// Cancelled or failed; the message says why.
    Deleted,
}

impl TaskState {
    /// The state's name in the API.
    pub(crate) fn name(self) -> &'static str {
        match self {
            TaskState::Active => "active",
            TaskState::Completed => "completed",
            TaskState::Deleting => "deleting",
            TaskState::Deleted => "deleted",
        }
    }
}
