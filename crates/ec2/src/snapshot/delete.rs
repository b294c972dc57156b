//! DeleteSnapshot, and what the end of a snapshot means to those that know of it.
//!
//! The blocks are not touched here: what no record names any more is collected later.

use super::{create, key_of, lock, own};
use crate::record::{Snapshot, SnapshotState, Volume, key};
use crate::recycle_bin;
use model::ec2::{self as api, op};
use service::{Call, Error, Operation, operation};

pub(crate) const OPERATIONS: &[Operation] =
    &[operation!(op::DeleteSnapshot, delete_snapshot, Write, ["SnapshotId"], create::RATE)];

pub(super) fn delete_snapshot(
    call: &mut Call<'_>,
    input: api::DeleteSnapshotRequest,
) -> Result<wire::Empty, Error> {
    let id = input.snapshot_id.unwrap_or_default();
    let (at, snapshot) = own(call, &id)?;
    if let Some(image) = snapshot.images.first() {
        return Err(Error::client(
            "InvalidSnapshot.InUse",
            format!("The snapshot {id} is currently in use by {image}"),
        ));
    }
    discard(call, &at, &snapshot)?;
    Ok(wire::Empty)
}

/// Stages the deletion of a snapshot that no image uses: into the recycle bin, if a rule says so.
///
/// # Errors
/// `OperationNotPermitted` when it is locked.
pub(crate) fn discard(call: &mut Call<'_>, at: &str, snapshot: &Snapshot) -> Result<(), Error> {
    if lock::is_locked(snapshot, call.now) {
        return Err(Error::client(
            "OperationNotPermitted",
            format!("The snapshot '{}' is locked and cannot be deleted.", snapshot.id),
        ));
    }
    if snapshot.state == SnapshotState::Completed
        && let Some(stay) = recycle_bin::recycled(call, "EBS_SNAPSHOT", &snapshot.tags)?
    {
        let mut snapshot = snapshot.clone();
        snapshot.state = SnapshotState::Recoverable;
        // Fast snapshot restore ends with the deletion.
        snapshot.fast_restores.clear();
        snapshot.recycled = Some(stay);
        call.put(at, snapshot);
        return Ok(());
    }
    remove(call, snapshot)
}

/// Stages the end of a snapshot. Whether it may go is for the caller to know.
///
/// # Errors
/// A record cannot be read.
pub(crate) fn remove(call: &mut Call<'_>, snapshot: &Snapshot) -> Result<(), Error> {
    call.delete(&key_of(call.region, &snapshot.owner_id, &snapshot.id));
    let at = key::of(call.region, key::VOLUME, &snapshot.owner_id, &snapshot.volume_id);
    if snapshot.state == SnapshotState::Pending {
        unlink(call, snapshot, None)?;
    } else if let Some(volume) = call.get::<Volume>(&at)?
        && snapshot.content.is_some()
        && volume.last_content == snapshot.content
    {
        // The volume's next snapshot cannot count on blocks that nobody holds.
        let mut volume = Volume::clone(&volume);
        volume.last_content = None;
        call.put(&at, volume);
    }
    Ok(())
}

/// Takes a snapshot that is no longer pending off its volume and its group, and gives its parent to
/// the volume's next one: its own content if it was `completed`, else what it would have shared.
///
/// # Errors
/// A record cannot be read.
pub(crate) fn unlink(
    call: &mut Call<'_>,
    snapshot: &Snapshot,
    completed: Option<&base::volume::Content>,
) -> Result<(), Error> {
    let (region, owner) = (call.region, &snapshot.owner_id);
    let at = key::of(region, key::VOLUME, owner, &snapshot.volume_id);
    if let Some(volume) = call.get::<Volume>(&at)?
        && let Some(place) = volume.pending_snapshots.iter().position(|id| *id == snapshot.id)
    {
        let mut volume = Volume::clone(&volume);
        volume.pending_snapshots.remove(place);
        if completed.is_some() {
            volume.last_content = completed.cloned();
        }
        let next = volume.pending_snapshots.get(place).filter(|_| place == 0).cloned();
        call.put(&at, volume);
        if let Some(next) = next {
            let at = key_of(region, owner, &next);
            if let Some(next) = call.get::<Snapshot>(&at)? {
                let mut next = Snapshot::clone(&next);
                next.parent = completed.or(snapshot.parent.as_ref()).cloned();
                call.put(&at, next);
            }
        }
    }
    if snapshot.cut || completed.is_some() {
        return Ok(());
    }
    // The others of its group do not wait for it.
    for (volume, id) in &snapshot.together {
        let at = key_of(region, owner, id);
        let Some(other) = call.get::<Snapshot>(&at)?.filter(|other| !other.cut) else { continue };
        if *volume != snapshot.volume_id {
            let mut other = Snapshot::clone(&other);
            other.together.retain(|(_, id)| *id != snapshot.id);
            call.put(&at, other);
        }
    }
    Ok(())
}
