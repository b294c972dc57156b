//! ModifySnapshotTier, RestoreSnapshotTier, DescribeSnapshotTierStatus: the archive.
//!
//! ```text
//!             ModifySnapshotTier              RestoreSnapshotTier (for good)
//!  standard ───────────────────► archived ───────────────────────────────► standard
//!     ▲      archival-in-progress    │  ▲                                     ▲
//!     │                              │  └──────── its days are over ────┐     │ RestoreSnapshotTier
//!     │                              └────────► restored for some days ─┴─────┘ (for good)
//!     └ a move that goes on ends with the region's clock ([`advance`])
//! ```
//!
//! What is archived makes no volumes. Its blocks stay where they are: this region's blob store has one
//! tier, so only the time that a move takes is the cloud's.

use super::{key_of, own, tier_name};
use crate::record::snapshot::TierMove;
use crate::record::{Snapshot, SnapshotState};
use crate::tag;
use base::Timestamp;
use model::ec2::{self as api, op};
use service::filter::{Field, Filters};
use service::page::page;
use service::{Call, Error, Operation, operation};
use std::sync::Arc;

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(op::ModifySnapshotTier, modify_snapshot_tier, Write, ["SnapshotId", "StorageTier"]),
    operation!(
        op::RestoreSnapshotTier,
        restore_snapshot_tier,
        Write,
        ["PermanentRestore", "SnapshotId", "TemporaryRestoreDays"]
    ),
    operation!(
        op::DescribeSnapshotTierStatus,
        describe_snapshot_tier_status,
        Live,
        ["Filters.*", "MaxResults", "NextToken"]
    ),
];

const DAY_MILLIS: i64 = 24 * 3_600_000;
/// How long a move to the archive or back takes. AWS says up to 24 to 72 hours, by size; here an hour
/// of the region's clock.
const MOVE_MILLIS: i64 = 3_600_000;
/// Longest temporary restore, days (EBS User Guide, "Restore an archived snapshot").
const MAX_DAYS: i32 = 180;

/// When a move or a temporary restore ends; `None` while neither goes on.
pub(crate) fn next_time(snapshot: &Snapshot) -> Option<Timestamp> {
    let tiering = &snapshot.tiering;
    tiering.ends.or(tiering.restore_expires)
}

/// What time has made of a snapshot's tier; `None` if nothing.
pub(crate) fn advance(snapshot: &Snapshot, now: Timestamp) -> Option<Snapshot> {
    let mut next = snapshot.clone();
    let tiering = &mut next.tiering;
    if let (Some(end), Some((last, _))) = (tiering.ends, tiering.last)
        && now >= end
    {
        tiering.ends = None;
        match last {
            TierMove::Archival => {
                tiering.archived = true;
                tiering.archival_completed = Some(end);
            }
            TierMove::TemporaryRestore => {
                tiering.archived = false;
                let days = i64::from(tiering.restore_days.take().unwrap_or(1));
                tiering.restore_expires = Some(end.plus_millis(days * DAY_MILLIS));
            }
            TierMove::PermanentRestore => {
                tiering.archived = false;
                tiering.archival_completed = None;
                tiering.restore_expires = None;
            }
        }
    }
    if tiering.ends.is_none() && tiering.restore_expires.is_some_and(|end| now >= end) {
        tiering.restore_expires = None;
        tiering.archived = true;
    }
    (next.tiering != snapshot.tiering).then_some(next)
}

/// LastTieringOperationStatus.
fn status(snapshot: &Snapshot) -> Option<&'static str> {
    let (last, _) = snapshot.tiering.last?;
    Some(match (last, snapshot.tiering.ends.is_some()) {
        (TierMove::Archival, true) => "archival-in-progress",
        (TierMove::Archival, false) => "archival-completed",
        (TierMove::TemporaryRestore, true) => "temporary-restore-in-progress",
        (TierMove::TemporaryRestore, false) => "temporary-restore-completed",
        (TierMove::PermanentRestore, true) => "permanent-restore-in-progress",
        (TierMove::PermanentRestore, false) => "permanent-restore-completed",
    })
}

fn incorrect(snapshot: &Snapshot, what: &str) -> Error {
    Error::client("IncorrectState", format!("The snapshot '{}' {what}.", snapshot.id))
}

pub(super) fn modify_snapshot_tier(
    call: &mut Call<'_>,
    input: api::ModifySnapshotTierRequest,
) -> Result<api::ModifySnapshotTierResult, Error> {
    let (at, snapshot) = own(call, &input.snapshot_id.unwrap_or_default())?;
    if input.storage_tier.as_deref().is_none_or(|tier| tier != "archive") {
        return Err(Error::missing_parameter("storageTier"));
    }
    if snapshot.state != SnapshotState::Completed {
        return Err(super::wrong_state(&snapshot));
    }
    if snapshot.tiering.ends.is_some() {
        return Err(incorrect(&snapshot, "is being moved between storage tiers"));
    }
    if snapshot.tiering.archived || snapshot.tiering.restore_expires.is_some() {
        return Err(incorrect(&snapshot, "is already archived"));
    }
    // EBS User Guide, "Considerations for archiving".
    if !snapshot.images.is_empty() {
        return Err(incorrect(&snapshot, "is associated with an AMI and cannot be archived"));
    }
    if snapshot.fast_restores.values().any(|zone| zone.disabling.is_none()) {
        return Err(incorrect(
            &snapshot,
            "is enabled for fast snapshot restore and cannot be archived",
        ));
    }
    let mut snapshot = Snapshot::clone(&snapshot);
    snapshot.tiering.last = Some((TierMove::Archival, call.now));
    snapshot.tiering.ends = Some(call.now.plus_millis(MOVE_MILLIS));
    let snapshot = call.put(&at, snapshot);
    Ok(api::ModifySnapshotTierResult {
        snapshot_id: Some(snapshot.id.clone()),
        tiering_start_time: Some(call.now),
    })
}

pub(super) fn restore_snapshot_tier(
    call: &mut Call<'_>,
    input: api::RestoreSnapshotTierRequest,
) -> Result<api::RestoreSnapshotTierResult, Error> {
    let (at, snapshot) = own(call, &input.snapshot_id.unwrap_or_default())?;
    let permanent = input.permanent_restore == Some(true);
    let days = match (permanent, input.temporary_restore_days) {
        (true, None) => None,
        (true, Some(_)) => {
            return Err(Error::invalid_parameter_combination(
                "The parameter temporaryRestoreDays cannot be used with the parameter \
                 permanentRestore",
            ));
        }
        (false, Some(days)) if (1..=MAX_DAYS).contains(&days) => Some(days.unsigned_abs()),
        (false, Some(days)) => {
            return Err(Error::invalid_parameter_value(format!(
                "Value ({days}) for parameter temporaryRestoreDays is invalid. Expected a value \
                 between 1 and {MAX_DAYS}."
            )));
        }
        (false, None) => {
            return Err(Error::missing_parameter("temporaryRestoreDays or permanentRestore"));
        }
    };
    let mut next = Snapshot::clone(&snapshot);
    let tiering = &mut next.tiering;
    if tiering.ends.is_some() {
        return Err(incorrect(&snapshot, "is being moved between storage tiers"));
    }
    let kind = if permanent { TierMove::PermanentRestore } else { TierMove::TemporaryRestore };
    if tiering.archived {
        tiering.ends = Some(call.now.plus_millis(MOVE_MILLIS));
        tiering.restore_days = days;
    } else if tiering.restore_expires.is_some() {
        // It is there already: only how long it stays changes.
        tiering.restore_expires =
            days.map(|days| call.now.plus_millis(i64::from(days) * DAY_MILLIS));
        if permanent {
            tiering.archival_completed = None;
        }
    } else {
        return Err(incorrect(&snapshot, "is not archived"));
    }
    tiering.last = Some((kind, call.now));
    let snapshot = call.put(&at, next);
    Ok(api::RestoreSnapshotTierResult {
        snapshot_id: Some(snapshot.id.clone()),
        restore_start_time: Some(call.now),
        restore_duration: days.and_then(|days| i32::try_from(days).ok()),
        is_permanent_restore: Some(permanent),
    })
}

const FILTERS: &[Field<Arc<Snapshot>>] = &[
    ("last-tiering-operation", |s| status(s).into_iter().map(Into::into).collect()),
    ("snapshot-id", |s| vec![s.id.as_str().into()]),
    ("volume-id", |s| vec![s.volume_id.as_str().into()]),
];

pub(super) fn describe_snapshot_tier_status(
    call: &mut Call<'_>,
    input: api::DescribeSnapshotTierStatusRequest,
) -> Result<api::DescribeSnapshotTierStatusResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
    let now = call.now;
    let mut found = call.scan::<Snapshot>(&key_of(call.region, call.account(), ""))?;
    found.retain(|s| s.recycled.is_none() && filters.accept(s, &s.tags));
    let page = page(
        found,
        |snapshot| snapshot.id.as_str(),
        input.max_results,
        input.next_token.as_deref(),
        5..=1000,
    )?;
    let shown = page.items.iter().map(|snapshot| {
        let tiering = &snapshot.tiering;
        // How much of the move's time is over.
        let progress = tiering.last.map(|(_, began)| match tiering.ends {
            Some(end) => {
                let whole = end.millis_since(began).max(1);
                i32::try_from(now.millis_since(began).clamp(0, whole) * 100 / whole).unwrap_or(0)
            }
            None => 100,
        });
        api::SnapshotTierStatus {
            snapshot_id: Some(snapshot.id.clone()),
            volume_id: Some(snapshot.volume_id.clone()),
            status: Some(snapshot.state.name().to_owned()),
            owner_id: Some(snapshot.owner_id.clone()),
            tags: tag::to_model(&snapshot.tags),
            storage_tier: Some(tier_name(snapshot).to_owned()),
            last_tiering_start_time: tiering.last.map(|(_, began)| began),
            last_tiering_progress: progress,
            last_tiering_operation_status: status(snapshot).map(str::to_owned),
            archival_complete_time: tiering.archival_completed,
            restore_expiry_time: tiering.restore_expires,
            ..Default::default()
        }
    });
    Ok(api::DescribeSnapshotTierStatusResult {
        snapshot_tier_statuses: Some(shown.collect()),
        next_token: page.next_token,
    })
}
