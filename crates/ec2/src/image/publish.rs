//! Publishing the node's images: each becomes an AMI in every region that is used, and its disk a
//! completed snapshot with the same owner.
//!
//! The principle: an AMI's id is a hash of region and name, so that it is the same on every
//! machine and after every rebuild, and a script may keep it. [`sync`] compares what is published
//! with the node's images and stages the difference; it may be called at any time. What a caller
//! changed of a published AMI (tags, permissions, deprecation) stays over a rebuild; one that its
//! owner deregistered comes back with the next build only.

use super::{claim_name, key_of, name_claim, prefix};
use crate::record::snapshot::{NO_VOLUME, Origin, Permissions};
use crate::record::{
    Image, ImageState, MappedDisk, MappedVolume, Mapping, Snapshot, SnapshotState, Tags, key,
};
use aws_lc_rs::digest;
use base::Timestamp;
use base::image::{Boot, Manifest, Published};
#[cfg(test)]
use base::volume::Content;
use service::{Call, Error};
use std::collections::{BTreeMap, BTreeSet};

/// The account under which Amazon publishes Amazon Linux.
const AMAZON: &str = "137112412989";
/// The account under which Debian publishes its images.
const DEBIAN: &str = "136693071363";

/// The images of a region that has no files: what `gureum image build` can make, for the simulated
/// driver.
pub fn built_in() -> Vec<Manifest> {
    let manifest = |key: &str, name: &str, description: &str| Manifest {
        v: 1,
        key: key.to_owned(),
        name: name.to_owned(),
        also_named: Vec::new(),
        description: description.to_owned(),
        architecture: "x86_64".to_owned(),
        root_device_name: "/dev/xvda".to_owned(),
        size_gib: 8,
        disk: "disk.raw".to_owned(),
        disk_format: "raw".to_owned(),
        boot: Boot::Firmware,
        owner_id: Some(AMAZON.to_owned()),
        owner_alias: Some("amazon".to_owned()),
        login_user: Some("ec2-user".to_owned()),
        imds_v2: true,
        created: BUILT,
    };
    vec![
        Manifest {
            size_gib: 1,
            owner_id: None,
            owner_alias: None,
            ..manifest(
                "micro",
                "gureum-micro-x86_64",
                "BusyBox on Debian's cloud kernel (simulated)",
            )
        },
        Manifest {
            owner_id: Some(DEBIAN.to_owned()),
            owner_alias: None,
            login_user: Some("admin".to_owned()),
            ..manifest("debian-12", "debian-12-amd64-20261101-2287", "Debian 12 (simulated)")
        },
        Manifest {
            also_named: vec!["al2023-ami-2023.9.20261101.0-kernel-6.1-x86_64".to_owned()],
            imds_v2: false,
            ..manifest(
                "al2-compat",
                "amzn2-ami-hvm-2.0.20261101.0-x86_64-gp2",
                "Debian 12 in which yum, dnf and httpd map to apt-get and apache2. It is not \
                 Amazon Linux (simulated)",
            )
        },
    ]
}

/// When the built-in images were made: 2026-11-01T00:00:00Z, so that they are the same everywhere.
const BUILT: Timestamp = Timestamp(1_793_491_200_000);

/// An id that depends on the texts alone.
fn stable_id(prefix: &str, parts: &[&str]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part.as_bytes());
        context.update(b"/");
    }
    let hash = context.finish();
    let hex: String = hash.as_ref().iter().take(9).map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}-{}", &hex[..17])
}

/// The id of the AMI that is published under this name.
pub(super) fn ami_id(region: &str, name: &str) -> String {
    stable_id("ami", &[region, name])
}

/// Whether the image is one of the node's.
pub(super) fn is_published(region: &str, image: &Image) -> bool {
    image.id == ami_id(region, &image.name)
}

/// Remembers the build of a published image that its owner deregistered.
fn farewell(region: &str, id: &str) -> String {
    format!("/{region}/image-deregistered/{id}")
}

/// Keeps a published image that is deregistered from coming back before it is built again.
pub(super) fn bid_farewell(call: &mut Call<'_>, image: &Image) {
    call.put(&farewell(call.region, &image.id), image.created);
}

/// An AMI and the snapshot that it stands on.
pub(super) struct Pair {
    pub(super) image: Image,
    pub(super) snapshot: Snapshot,
}

/// What the node's images are in a region; `account_id` owns those that name no owner.
pub(super) fn publish(images: &[Published], region: &str, account_id: &str) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for published in images {
        let manifest = &published.manifest;
        for name in std::iter::once(&manifest.name).chain(&manifest.also_named) {
            pairs.push(pair(published, name, region, account_id));
        }
    }
    pairs
}

fn pair(published: &Published, name: &str, region: &str, account_id: &str) -> Pair {
    let manifest = &published.manifest;
    let id = ami_id(region, name);
    let snapshot_id = stable_id("snap", &[region, name]);
    let owner_id = manifest.owner_id.clone().unwrap_or_else(|| account_id.to_owned());
    let public = manifest.owner_id.is_some();
    let image_key = match manifest.boot {
        Boot::Kernel { .. } => manifest.key.clone(),
        Boot::Firmware => String::new(),
    };
    let snapshot = Snapshot {
        v: 1,
        id: snapshot_id.clone(),
        volume_id: NO_VOLUME.to_owned(),
        size_gib: manifest.size_gib,
        owner_id: owner_id.clone(),
        owner_alias: manifest.owner_alias.clone(),
        origin: Origin::Published,
        state: SnapshotState::Completed,
        message: None,
        cut: true,
        progress: 100,
        content: Some(published.content.clone()),
        key: None,
        full_bytes: None,
        parent: None,
        parent_id: None,
        started: manifest.created,
        completed: Some(manifest.created),
        description: format!("The disk of {name}"),
        tags: Tags::new(),
        together: Vec::new(),
        during_reboot: None,
        images: BTreeSet::from([id.clone()]),
        image_key: image_key.clone(),
        permissions: Permissions { all: public, accounts: BTreeSet::new() },
        lock: None,
        tiering: Default::default(),
        fast_restores: BTreeMap::new(),
        recycled: None,
    };
    // The volume type is what the name promises.
    let gp2 = name.ends_with("-gp2");
    let root = MappedVolume {
        snapshot_id: Some(snapshot_id),
        size_gib: manifest.size_gib,
        kind: if gp2 { "gp2" } else { "gp3" }.to_owned(),
        iops: (!gp2).then_some(3000),
        throughput: (!gp2).then_some(125),
        encrypted: false,
        delete_on_termination: true,
    };
    let image = Image {
        v: 1,
        id,
        key: image_key,
        name: name.to_owned(),
        description: manifest.description.clone(),
        architecture: manifest.architecture.clone(),
        root_device_name: manifest.root_device_name.clone(),
        mappings: vec![Mapping {
            device_name: manifest.root_device_name.clone(),
            disk: MappedDisk::Volume(root),
        }],
        owner_id,
        owner_alias: manifest.owner_alias.clone(),
        state: ImageState::Available,
        state_reason: None,
        public,
        launch_accounts: BTreeSet::new(),
        imds_v2: manifest.imds_v2,
        boot_mode: None,
        tpm_support: None,
        ena_support: true,
        sriov_net_support: Some("simple".to_owned()),
        source_instance_id: None,
        source_image_id: None,
        source_image_region: None,
        deprecation_time: None,
        protection: None,
        created: manifest.created,
        recycled: None,
        tags: Tags::new(),
    };
    Pair { image, snapshot }
}

/// Makes the AMIs of the call's region those of the node's images: stages new, changed and vanished
/// ones, and nothing when all is as it should be.
///
/// # Errors
/// A record cannot be read.
pub fn sync(call: &mut Call<'_>, images: &[Published]) -> Result<(), Error> {
    let region = call.region;
    let mut wanted: BTreeMap<String, Pair> = publish(images, region, &call.environment.account_id)
        .into_iter()
        .map(|pair| (key_of(region, &pair.image), pair))
        .collect();
    for known in call.scan::<Image>(&prefix(region))? {
        let record_key = key_of(region, &known);
        match wanted.remove(&record_key) {
            Some(pair) => renew(call, &known, pair)?,
            // Only what was published goes with its file.
            None if is_published(region, &known) => withdraw(call, &known)?,
            None => {}
        }
    }
    for (record_key, Pair { image, snapshot }) in wanted {
        let left = call.peek::<Timestamp>(&farewell(region, &image.id))?;
        if left.is_some_and(|build| *build == image.created) {
            continue;
        }
        claim_name(call, &image);
        put_snapshot(call, snapshot)?;
        call.put(&record_key, image);
    }
    Ok(())
}

/// Stages what changed of an AMI that was published before.
fn renew(call: &mut Call<'_>, known: &Image, pair: Pair) -> Result<(), Error> {
    let Pair { mut image, snapshot } = pair;
    if image.created == known.created {
        image.description.clone_from(&known.description);
        image.imds_v2 |= known.imds_v2;
    }
    image.public = known.public;
    image.launch_accounts.clone_from(&known.launch_accounts);
    image.state = known.state;
    image.deprecation_time = known.deprecation_time;
    image.protection = known.protection;
    image.recycled.clone_from(&known.recycled);
    image.tags.clone_from(&known.tags);
    if image != *known {
        claim_name(call, &image);
        call.put(&key_of(call.region, &image), image);
    }
    put_snapshot(call, snapshot)
}

/// Stages the snapshot of a published AMI if it is not as it should be. What its owner changed of
/// it stays.
fn put_snapshot(call: &mut Call<'_>, mut snapshot: Snapshot) -> Result<(), Error> {
    let at = key::of(call.region, key::SNAPSHOT, &snapshot.owner_id, &snapshot.id);
    // Without depending on it: nothing is written as a rule, and then it does not matter.
    if let Some(known) = call.peek::<Snapshot>(&at)? {
        snapshot.images.extend(known.images.iter().cloned());
        snapshot.permissions.clone_from(&known.permissions);
        snapshot.full_bytes = known.full_bytes;
        snapshot.lock.clone_from(&known.lock);
        snapshot.tiering.clone_from(&known.tiering);
        snapshot.fast_restores.clone_from(&known.fast_restores);
        snapshot.description.clone_from(&known.description);
        snapshot.tags.clone_from(&known.tags);
        if snapshot == *known {
            return Ok(());
        }
    }
    call.put(&at, snapshot);
    Ok(())
}

/// Stages the end of an AMI whose image is not on the node any more. Its snapshot stays while
/// another AMI stands on it.
fn withdraw(call: &mut Call<'_>, image: &Image) -> Result<(), Error> {
    for id in image.snapshots() {
        let at = key::of(call.region, key::SNAPSHOT, &image.owner_id, id);
        let Some(snapshot) = call.get::<Snapshot>(&at)? else { continue };
        let mut snapshot = Snapshot::clone(&snapshot);
        snapshot.images.remove(&image.id);
        if snapshot.images.is_empty() {
            call.delete(&at);
        } else {
            call.put(&at, snapshot);
        }
    }
    let claim = name_claim(call.region, &image.owner_id, &image.name);
    if call.get::<String>(&claim)?.is_some_and(|id| *id == image.id) {
        call.delete(&claim);
    }
    call.delete(&key_of(call.region, image));
    Ok(())
}

/// The simulated images as tests publish them, with content that is nowhere.
#[cfg(test)]
pub(crate) fn for_tests() -> Vec<Published> {
    built_in()
        .into_iter()
        .map(|manifest| Published {
            content: Content { root: "0".repeat(64), size_gib: manifest.size_gib, key: None },
            manifest,
        })
        .collect()
}

/// The id of the first of them.
#[cfg(test)]
pub(crate) fn id_for_tests(region: &str) -> String {
    ami_id(region, &built_in()[0].name)
}
