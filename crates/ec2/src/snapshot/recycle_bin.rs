//! The recycle bin: a snapshot that a retention rule keeps is not deleted but hidden, and comes back
//! unless its time is over.
//!
//! The rules are records of the Recycle Bin service ([`crate::recycle_bin`]); here is what they mean to
//! snapshots.

use super::{check_id, key_of, not_found, progress};
use crate::record::{Snapshot, SnapshotState};
use model::ec2::{self as api, op};
use service::page::page;
use service::{Call, Error, Operation, operation};

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(
        op::ListSnapshotsInRecycleBin,
        list_snapshots_in_recycle_bin,
        Read,
        ["MaxResults", "NextToken", "SnapshotIds"]
    ),
    operation!(
        op::RestoreSnapshotFromRecycleBin,
        restore_snapshot_from_recycle_bin,
        Write,
        ["SnapshotId"]
    ),
];

pub(super) fn list_snapshots_in_recycle_bin(
    call: &mut Call<'_>,
    input: api::ListSnapshotsInRecycleBinRequest,
) -> Result<api::ListSnapshotsInRecycleBinResult, Error> {
    let ids = input.snapshot_ids.unwrap_or_default();
    for id in &ids {
        check_id(id)?;
    }
    let mut found = call.scan::<Snapshot>(&key_of(call.region, call.account(), ""))?;
    found.retain(|s| s.recycled.is_some() && (ids.is_empty() || ids.contains(&s.id)));
    if let Some(missing) = ids.iter().find(|id| !found.iter().any(|s| s.id == **id)) {
        return Err(not_found(missing));
    }
    let page = page(
        found,
        |snapshot| snapshot.id.as_str(),
        input.max_results,
        input.next_token.as_deref(),
        5..=1000,
    )?;
    let shown = page.items.iter().map(|snapshot| {
        let recycled = snapshot.recycled.as_ref();
        api::SnapshotRecycleBinInfo {
            snapshot_id: Some(snapshot.id.clone()),
            recycle_bin_enter_time: recycled.map(|stay| stay.entered),
            recycle_bin_exit_time: recycled.map(|stay| stay.exits),
            description: Some(snapshot.description.clone()),
            volume_id: Some(snapshot.volume_id.clone()),
        }
    });
    Ok(api::ListSnapshotsInRecycleBinResult {
        snapshots: Some(shown.collect()),
        next_token: page.next_token,
    })
}

pub(super) fn restore_snapshot_from_recycle_bin(
    call: &mut Call<'_>,
    input: api::RestoreSnapshotFromRecycleBinRequest,
) -> Result<api::RestoreSnapshotFromRecycleBinResult, Error> {
    let id = input.snapshot_id.unwrap_or_default();
    check_id(&id)?;
    let at = key_of(call.region, call.account(), &id);
    let snapshot = call
        .get::<Snapshot>(&at)?
        .filter(|snapshot| snapshot.recycled.is_some())
        .ok_or_else(|| not_found(&id))?;
    let mut snapshot = Snapshot::clone(&snapshot);
    snapshot.recycled = None;
    snapshot.state = SnapshotState::Completed;
    let snapshot = call.put(&at, snapshot);
    Ok(api::RestoreSnapshotFromRecycleBinResult {
        snapshot_id: Some(snapshot.id.clone()),
        description: Some(snapshot.description.clone()),
        encrypted: Some(snapshot.key.is_some()),
        owner_id: Some(snapshot.owner_id.clone()),
        progress: Some(progress(&snapshot)),
        start_time: Some(snapshot.started),
        state: Some(snapshot.state.name().to_owned()),
        volume_id: Some(snapshot.volume_id.clone()),
        volume_size: i32::try_from(snapshot.size_gib).ok(),
        ..Default::default()
    })
}
