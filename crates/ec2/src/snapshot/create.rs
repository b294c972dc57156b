//! CreateSnapshot and CreateSnapshots: snapshots of volumes, alone or at one instant.

use super::{key_of, to_model};
use crate::record::snapshot::{Origin, Permissions, Tiering};
use crate::record::{Instance, Snapshot, SnapshotState, Tags, Volume, VolumeState, key};
use crate::tag;
use base::volume::Content;
use model::ec2::{self as api, op};
use service::throttle::Rate;
use service::{Call, Error, Operation, operation};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// EC2 API Reference, "Request throttling".
pub(crate) const RATE: Rate = Rate::new(100.0, 5.0);

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(
        op::CreateSnapshot,
        create_snapshot,
        Write,
        ["Description", "VolumeId", "TagSpecifications.*", "TagSpecifications.Tags.*", "Location"],
        RATE
    ),
    operation!(
        op::CreateSnapshots,
        create_snapshots,
        Write,
        [
            "CopyTagsFromSource",
            "Description",
            "InstanceSpecification.ExcludeBootVolume",
            "InstanceSpecification.ExcludeDataVolumeIds",
            "InstanceSpecification.InstanceId",
            "Location",
            "TagSpecifications.*",
            "TagSpecifications.Tags.*",
        ],
        RATE
    ),
];

/// Longest description, in characters.
const MAX_DESCRIPTION: usize = 255;
/// Most snapshots of one volume that are pending, and of one on platters (EBS User Guide, "Create
/// Amazon EBS snapshots").
const MAX_PENDING: usize = 5;
const MAX_PENDING_HDD: usize = 1;

/// A snapshot to be taken of a volume.
#[derive(Clone, Debug)]
pub(crate) struct Take {
    /// `vol-…`.
    pub(crate) volume_id: String,
    /// Description.
    pub(crate) description: String,
    /// Tags.
    pub(crate) tags: Tags,
}

/// A record of a snapshot that starts now and is not completed.
pub(crate) fn pending(call: &mut Call<'_>, origin: Origin, size_gib: u32) -> Snapshot {
    Snapshot {
        v: 1,
        id: call.new_id("snap"),
        volume_id: crate::record::snapshot::NO_VOLUME.to_owned(),
        size_gib,
        owner_id: call.account().to_owned(),
        owner_alias: None,
        cut: !matches!(origin, Origin::Volume),
        origin,
        state: SnapshotState::Pending,
        message: None,
        progress: 0,
        content: None,
        key: None,
        full_bytes: None,
        parent: None,
        parent_id: None,
        started: call.now,
        completed: None,
        description: String::new(),
        tags: Tags::new(),
        together: Vec::new(),
        during_reboot: None,
        images: BTreeSet::new(),
        image_key: String::new(),
        permissions: Permissions::default(),
        lock: None,
        tiering: Tiering::default(),
        fast_restores: BTreeMap::new(),
        recycled: None,
    }
}

/// Stages snapshots of these volumes at one instant: now, and then the answer waits until it is
/// fixed, or while their machine is off during the reboot with this count.
///
/// # Errors
/// `InvalidVolume.NotFound`, `IncorrectState`, `ConcurrentSnapshotLimitExceeded`.
pub(crate) fn take(
    call: &mut Call<'_>,
    takes: Vec<Take>,
    during_reboot: Option<u32>,
) -> Result<Vec<Arc<Snapshot>>, Error> {
    let mut taken = Vec::with_capacity(takes.len());
    for take in takes {
        let at = key::of(call.region, key::VOLUME, call.account(), &take.volume_id);
        let volume = call.get::<Volume>(&at)?.ok_or_else(|| volume_not_found(&take.volume_id))?;
        check_volume(&volume)?;
        let mut snapshot = pending(call, Origin::Volume, volume.size_gib);
        snapshot.volume_id.clone_from(&volume.id);
        snapshot.description = take.description;
        snapshot.tags = take.tags;
        snapshot.key.clone_from(&volume.key);
        snapshot.image_key.clone_from(&volume.image_key);
        snapshot.parent = parent(call, &volume)?;
        snapshot.during_reboot = during_reboot;
        let mut volume = Volume::clone(&volume);
        volume.pending_snapshots.push(snapshot.id.clone());
        call.put(&at, volume);
        taken.push(snapshot);
    }
    let together: Vec<_> = match taken.len() {
        0 | 1 => Vec::new(),
        _ => taken.iter().map(|s| (s.volume_id.clone(), s.id.clone())).collect(),
    };
    let staged = taken.into_iter().map(|mut snapshot| {
        snapshot.together.clone_from(&together);
        let at = key_of(call.region, &snapshot.owner_id, &snapshot.id);
        if during_reboot.is_none() {
            call.answer_when(&at, is_fixed);
        }
        call.put(&at, snapshot)
    });
    Ok(staged.collect())
}

/// Whether a snapshot's instant is fixed, or there will be none.
fn is_fixed(record: Option<&store::KeyValue>) -> bool {
    record
        .and_then(|kv| kv.decode::<Snapshot>().ok())
        .is_none_or(|snapshot| snapshot.cut || snapshot.state != SnapshotState::Pending)
}

/// What a new snapshot's unchanged blocks are shared with; `None` while an earlier one is pending.
fn parent(call: &mut Call<'_>, volume: &Volume) -> Result<Option<Content>, Error> {
    if !volume.pending_snapshots.is_empty() {
        return Ok(None);
    }
    if volume.last_content.is_some() {
        return Ok(volume.last_content.clone());
    }
    let Some(source) = volume.source.as_ref().filter(|source| source.key == volume.key) else {
        return Ok(None);
    };
    // The blocks of the source are there as long as somebody needs them: the volume while it fills,
    // or the snapshot that it was made from.
    let is_held = !volume.is_filled
        || match &volume.snapshot_id {
            // The commit depends on it: a deletion at the same time comes before or after.
            Some(id) => {
                let at = key_of(call.region, call.account(), id);
                let found = call.get::<Snapshot>(&at)?;
                found.is_some_and(|snapshot| snapshot.content.as_ref() == Some(source))
            }
            None => false,
        };
    Ok(is_held.then(|| source.clone()))
}

fn check_volume(volume: &Volume) -> Result<(), Error> {
    match volume.state {
        VolumeState::Available => {}
        VolumeState::Creating => return Err(wrong_volume_state(volume, "creating")),
        VolumeState::Error => return Err(wrong_volume_state(volume, "error")),
        VolumeState::Deleting => return Err(volume_not_found(&volume.id)),
    }
    let most = match volume.kind.as_str() {
        "st1" | "sc1" => MAX_PENDING_HDD,
        _ => MAX_PENDING,
    };
    if volume.pending_snapshots.len() >= most {
        return Err(Error::client(
            "ConcurrentSnapshotLimitExceeded",
            "Maximum allowed in-progress snapshots for a single volume exceeded.",
        ));
    }
    Ok(())
}

fn wrong_volume_state(volume: &Volume, state: &str) -> Error {
    Error::client("IncorrectState", format!("The volume '{}' is '{state}'.", volume.id))
}

fn volume_not_found(id: &str) -> Error {
    Error::client("InvalidVolume.NotFound", format!("The volume '{id}' does not exist."))
}

/// Checks a description.
///
/// # Errors
/// `InvalidParameterValue`.
pub(crate) fn check_description(description: Option<String>) -> Result<String, Error> {
    let description = description.unwrap_or_default();
    if description.chars().count() > MAX_DESCRIPTION {
        return Err(Error::invalid_parameter_value(format!(
            "Character sets beyond {MAX_DESCRIPTION} characters are not supported for parameter \
             description."
        )));
    }
    Ok(description)
}

/// Snapshots stay in the Region: there is nothing else.
fn check_location(location: Option<&str>) -> Result<(), Error> {
    match location {
        None | Some("regional") => Ok(()),
        Some(other) => Err(Error::unsupported(format!(
            "The value {other} of the parameter Location is not built in gureum yet."
        ))),
    }
}

pub(super) fn create_snapshot(
    call: &mut Call<'_>,
    input: api::CreateSnapshotRequest,
) -> Result<api::Snapshot, Error> {
    check_location(input.location.as_deref())?;
    let volume_id = input.volume_id.unwrap_or_default();
    if !base::id::is_valid("vol", &volume_id) {
        return Err(Error::invalid_parameter_value(format!(
            "Value ({volume_id}) for parameter volumeId is invalid. Expected: 'vol-...'."
        )));
    }
    let tags =
        tag::for_caller(call, input.tag_specifications.as_deref(), "snapshot", &["snapshot"])?;
    let description = check_description(input.description)?;
    let taken = take(call, vec![Take { volume_id, description, tags }], None)?;
    let snapshot = taken.first().ok_or_else(|| Error::internal("no snapshot was staged"))?;
    // Nothing is said of the progress yet.
    Ok(api::Snapshot { progress: Some(String::new()), ..to_model(snapshot) })
}

pub(super) fn create_snapshots(
    call: &mut Call<'_>,
    input: api::CreateSnapshotsRequest,
) -> Result<api::CreateSnapshotsResult, Error> {
    check_location(input.location.as_deref())?;
    let specification = input.instance_specification.unwrap_or_default();
    let instance_id = specification.instance_id.unwrap_or_default();
    if !base::id::is_valid("i", &instance_id) {
        return Err(Error::client(
            "InvalidInstanceID.Malformed",
            format!("Invalid id: \"{instance_id}\""),
        ));
    }
    let instance = call
        .get::<Instance>(&key::of(call.region, key::INSTANCE, call.account(), &instance_id))?
        .ok_or_else(|| {
            Error::client(
                "InvalidInstanceID.NotFound",
                format!("The instance ID '{instance_id}' does not exist"),
            )
        })?;
    let excluded = specification.exclude_data_volume_ids.unwrap_or_default();
    let is_root = |device: &str| device == instance.root_device_name;
    for id in &excluded {
        let place = instance.volumes.iter().find(|place| place.volume_id == *id);
        if place.is_none_or(|place| is_root(&place.device_name)) {
            return Err(Error::invalid_parameter_value(format!(
                "The volume '{id}' is not a data volume of the instance '{instance_id}'."
            )));
        }
    }
    let without_root = specification.exclude_boot_volume == Some(true);
    let description = check_description(input.description)?;
    let given =
        tag::for_caller(call, input.tag_specifications.as_deref(), "snapshot", &["snapshot"])?;
    let mut takes = Vec::new();
    for place in &instance.volumes {
        if excluded.contains(&place.volume_id) || (without_root && is_root(&place.device_name)) {
            continue;
        }
        let mut tags = Tags::new();
        if input.copy_tags_from_source.as_deref() == Some("volume") {
            let at = key::of(call.region, key::VOLUME, call.account(), &place.volume_id);
            tags.extend(call.get::<Volume>(&at)?.into_iter().flat_map(|v| v.tags.clone()));
            // Those of AWS's own are not copied.
            tags.retain(|key, _| !key.starts_with("aws:"));
        }
        tags.extend(given.clone());
        let (volume_id, description) = (place.volume_id.clone(), description.clone());
        takes.push(Take { volume_id, description, tags });
    }
    if takes.is_empty() {
        return Err(Error::invalid_parameter_combination(format!(
            "No volume of the instance '{instance_id}' is left to take a snapshot of."
        )));
    }
    let taken = take(call, takes, None)?;
    let shown = taken.iter().map(|snapshot| api::SnapshotInfo {
        description: Some(snapshot.description.clone()),
        encrypted: Some(snapshot.key.is_some()),
        owner_id: Some(snapshot.owner_id.clone()),
        progress: Some(String::new()),
        snapshot_id: Some(snapshot.id.clone()),
        start_time: Some(snapshot.started),
        state: Some(snapshot.state.name().to_owned()),
        tags: tag::to_model(&snapshot.tags),
        volume_id: Some(snapshot.volume_id.clone()),
        volume_size: i32::try_from(snapshot.size_gib).ok(),
        ..Default::default()
    });
    Ok(api::CreateSnapshotsResult { snapshots: Some(shown.collect()) })
}
