//! What a built machine image is: a directory with a manifest, a disk and perhaps a kernel.

use crate::Timestamp;
use crate::volume::Content;
use serde::{Deserialize, Serialize};

/// `manifest.json` of `<data-dir>/images/<name>/`. `gureum image build|import` writes it last, so a
/// directory without one is not an image. The region publishes each manifest as an AMI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format of this file; 1.
    pub v: u16,
    /// Directory name and key of the image: `micro`, `debian-12`, `al2-compat`, or an imported name.
    pub key: String,
    /// The AMI's name as DescribeImages shows it.
    pub name: String,
    /// More names: the region publishes one AMI for each, otherwise the same.
    #[serde(default)]
    pub also_named: Vec<String>,
    /// The AMI's description: says plainly what it is.
    pub description: String,
    /// `x86_64`.
    pub architecture: String,
    /// Root device name shown by the API, such as `/dev/xvda`.
    pub root_device_name: String,
    /// Smallest root volume, GiB.
    pub size_gib: u32,
    /// The disk file beside the manifest.
    pub disk: String,
    /// Format of the disk file, as qemu-img names it: `raw` or `qcow2`.
    pub disk_format: String,
    /// How the machine starts.
    pub boot: Boot,
    /// The account that is shown as owner; `None` is the region's own account.
    pub owner_id: Option<String>,
    /// The owner's alias, such as `amazon`.
    pub owner_alias: Option<String>,
    /// Login user for people: `ec2-user`, `admin`.
    pub login_user: Option<String>,
    /// Whether instances get HttpTokens=required by default (AMI ImdsSupport v2.0).
    pub imds_v2: bool,
    /// When it was built.
    pub created: Timestamp,
}

/// An image whose disk is in the blob store: the record `/node-image/<key>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// Its manifest. Kernel and initrd stay beside it on the node.
    pub manifest: Manifest,
    /// What its disk holds.
    pub content: Content,
}

/// How a machine starts from an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Boot {
    /// QEMU loads this kernel and initrd (files beside the manifest) itself.
    Kernel {
        /// Kernel file name.
        kernel: String,
        /// Initrd file name.
        initrd: String,
        /// Kernel command line.
        command_line: String,
    },
    /// The firmware (SeaBIOS) boots the disk.
    Firmware,
}
