//! Snapshots: the operations on them, and what others need to find, make and remove one.
//!
//! The principle: a request writes a record that says where the snapshot's content comes from
//! ([`Origin`]); the reconciler ([`crate::snapshot_reconciler`]) sees to it that somebody makes that
//! content, and writes down how far it is. CreateSnapshot's answer waits until the instant is fixed.
//!
//! ```text
//!  CreateSnapshot(s), CopySnapshot, StartSnapshot, imports
//!        │
//!        ▼     content is in the blob store
//!     pending ─────────────────────────────► completed ◄── RestoreSnapshotFromRecycleBin ──┐
//!        │  │ it cannot be made                  │                                         │
//!        │  └──────► error                       ├── DeleteSnapshot under a retention rule ► recoverable
//!        │             │ DeleteSnapshot          │ DeleteSnapshot                          │ its time is over
//!        └─────────────┴─────────────────────────┴──────────────► no record ◄──────────────┘
//! ```
//!
//! Not here: Outposts, Local Zones, product codes.

mod attribute;
mod copy;
mod create;
mod delete;
mod describe;
mod fast_restore;
mod lock;
mod recycle_bin;
#[cfg(test)]
pub(crate) mod tests;
mod tier;

pub(crate) use copy::{Copy, copy};
pub(crate) use create::{Take, pending, take};
pub(crate) use delete::{discard, remove, unlink};
pub(crate) use fast_restore::{
    advance as advance_fast_restores, is_fast, next_time as next_fast_restore_time,
};
pub(crate) use tier::{advance as advance_tier, next_time as next_tier_time};

use crate::record::snapshot::Origin;
use crate::record::{Snapshot, SnapshotState, key};
use crate::tag;
use model::ec2 as api;
use service::{Call, Error, Operation};
use std::sync::Arc;

/// The tables of operations.
pub(crate) const OPERATIONS: &[&[Operation]] = &[
    attribute::OPERATIONS,
    copy::OPERATIONS,
    create::OPERATIONS,
    delete::OPERATIONS,
    describe::OPERATIONS,
    fast_restore::OPERATIONS,
    lock::OPERATIONS,
    recycle_bin::OPERATIONS,
    tier::OPERATIONS,
];

/// The key of a snapshot's record; with an empty id, the prefix of an account's.
pub(crate) fn key_of(region: &str, owner: &str, id: &str) -> String {
    key::of(region, key::SNAPSHOT, owner, id)
}

/// The prefix of all snapshots of a region, whoever owns them.
pub(crate) fn prefix(region: &str) -> String {
    format!("/{region}/{}/", key::SNAPSHOT)
}

/// Whether a text can be a snapshot's id.
///
/// # Errors
/// `InvalidParameterValue` or `InvalidSnapshotID.Malformed`, as EC2 tells them apart.
pub(crate) fn check_id(id: &str) -> Result<(), Error> {
    if base::id::is_valid("snap", id) {
        return Ok(());
    }
    if id.starts_with("snap-") {
        return Err(Error::client(
            "InvalidSnapshotID.Malformed",
            format!("Invalid id: \"{id}\" (expecting \"snap-...\")"),
        ));
    }
    Err(Error::invalid_parameter_value(format!(
        "Value ({id}) for parameter snapshotId is invalid. Expected: 'snap-...'."
    )))
}

/// `InvalidSnapshot.NotFound`.
pub(crate) fn not_found(id: &str) -> Error {
    Error::client("InvalidSnapshot.NotFound", format!("The snapshot '{id}' does not exist."))
}

/// `IncorrectState` of a snapshot that is to be used before it is completed.
pub(crate) fn wrong_state(snapshot: &Snapshot) -> Error {
    Error::client(
        "IncorrectState",
        format!("Snapshot is in invalid state - {}", snapshot.state.name()),
    )
}

/// The caller's own snapshot with its record key; the commit depends on it.
///
/// # Errors
/// The id is none; `InvalidSnapshot.NotFound`, also in the recycle bin; `AuthFailure` for somebody
/// else's that the caller may see.
pub(crate) fn own(call: &mut Call<'_>, id: &str) -> Result<(String, Arc<Snapshot>), Error> {
    check_id(id)?;
    let at = key_of(call.region, call.account(), id);
    if let Some(snapshot) = call.get::<Snapshot>(&at)?.filter(|s| s.recycled.is_none()) {
        return Ok((at, snapshot));
    }
    let region = call.region;
    Err(match foreign(call, region, id)? {
        Some(_) => Error::client("AuthFailure", format!("Not authorized for resource {id}")),
        None => not_found(id),
    })
}

/// A snapshot of a region of which the caller may make volumes; the commit depends on it.
///
/// # Errors
/// The id is none; `InvalidSnapshot.NotFound`.
pub(crate) fn find(call: &mut Call<'_>, region: &str, id: &str) -> Result<Arc<Snapshot>, Error> {
    check_id(id)?;
    let at = key_of(region, call.account(), id);
    match call.get::<Snapshot>(&at)?.filter(|s| s.recycled.is_none()) {
        Some(snapshot) => Ok(snapshot),
        None => foreign(call, region, id)?.ok_or_else(|| not_found(id)),
    }
}

/// Somebody else's snapshot of which the caller may make volumes.
fn foreign(call: &mut Call<'_>, region: &str, id: &str) -> Result<Option<Arc<Snapshot>>, Error> {
    let suffix = format!("/{id}");
    let found = call
        .snapshot()
        .scan(&prefix(region))
        .find(|kv| kv.key().ends_with(&suffix))
        .map(|kv| kv.key().to_owned());
    let Some(at) = found else { return Ok(None) };
    let Some(snapshot) = call.get::<Snapshot>(&at)? else { return Ok(None) };
    let account = call.account();
    Ok(attribute::may_use(call, &snapshot, account)?.then_some(snapshot))
}

/// The snapshot that a volume is to be made from; it has content. The commit depends on it.
///
/// # Errors
/// As for [`find`]; `IncorrectState` when it is not completed or in the archive.
pub(crate) fn source(call: &mut Call<'_>, id: &str) -> Result<Arc<Snapshot>, Error> {
    let region = call.region;
    let snapshot = find(call, region, id)?;
    usable(&snapshot)?;
    Ok(snapshot)
}

/// Whether a snapshot can be read.
///
/// # Errors
/// `IncorrectState`.
pub(crate) fn usable(snapshot: &Snapshot) -> Result<(), Error> {
    if snapshot.state != SnapshotState::Completed || snapshot.content.is_none() {
        return Err(wrong_state(snapshot));
    }
    if snapshot.tiering.archived {
        return Err(Error::client(
            "IncorrectState",
            format!(
                "The snapshot '{}' is in the archive storage tier. Restore it before you use it.",
                snapshot.id
            ),
        ));
    }
    Ok(())
}

/// The progress as DescribeSnapshots shows it.
pub(crate) fn progress(snapshot: &Snapshot) -> String {
    format!("{}%", snapshot.progress)
}

fn tier_name(snapshot: &Snapshot) -> &'static str {
    if snapshot.tiering.archived { "archive" } else { "standard" }
}

fn transfer_type(snapshot: &Snapshot) -> Option<&'static str> {
    match &snapshot.origin {
        Origin::Copy { minutes: Some(_), .. } => Some("time-based"),
        Origin::Copy { .. } => Some("standard"),
        _ => None,
    }
}

/// A snapshot as the API shows it.
pub(crate) fn to_model(snapshot: &Snapshot) -> api::Snapshot {
    let minutes = match &snapshot.origin {
        Origin::Copy { minutes, .. } => *minutes,
        _ => None,
    };
    api::Snapshot {
        completion_duration_minutes: minutes.and_then(|minutes| i32::try_from(minutes).ok()),
        completion_time: snapshot.completed,
        description: Some(snapshot.description.clone()),
        encrypted: Some(snapshot.key.is_some()),
        full_snapshot_size_in_bytes: snapshot.full_bytes.and_then(|n| i64::try_from(n).ok()),
        kms_key_id: snapshot.key.as_ref().map(|key| key.key_arn.clone()),
        owner_alias: snapshot.owner_alias.clone(),
        owner_id: Some(snapshot.owner_id.clone()),
        progress: Some(progress(snapshot)),
        restore_expiry_time: snapshot.tiering.restore_expires,
        snapshot_id: Some(snapshot.id.clone()),
        start_time: Some(snapshot.started),
        state: Some(snapshot.state.name().to_owned()),
        state_message: snapshot.message.clone(),
        storage_tier: Some(tier_name(snapshot).to_owned()),
        tags: tag::to_model(&snapshot.tags),
        transfer_type: transfer_type(snapshot).map(str::to_owned),
        volume_id: Some(snapshot.volume_id.clone()),
        volume_size: i32::try_from(snapshot.size_gib).ok(),
        ..Default::default()
    }
}
