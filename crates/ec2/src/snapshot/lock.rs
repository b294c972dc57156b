//! LockSnapshot, UnlockSnapshot, DescribeLockedSnapshots: a locked snapshot is not deleted.
//!
//! ```text
//!  governance ◄──► compliance-cooloff ──► compliance       a lock's end comes with the region's clock:
//!      └── UnlockSnapshot ──┘  cool-off is over             any of them ──► expired
//! ```
//!
//! A lock's state is a function of its record and the time, so nothing has to wake for it.

use super::{check_id, key_of, own};
use crate::record::snapshot::Lock;
use crate::record::{Snapshot, SnapshotState};
use base::Timestamp;
use model::ec2::{self as api, op};
use service::filter::{Field, Filters};
use service::page::page;
use service::{Call, Error, Operation, operation};
use std::collections::BTreeMap;

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(
        op::LockSnapshot,
        lock_snapshot,
        Write,
        ["CoolOffPeriod", "ExpirationDate", "LockDuration", "LockMode", "SnapshotId"]
    ),
    operation!(op::UnlockSnapshot, unlock_snapshot, Write, ["SnapshotId"]),
    operation!(
        op::DescribeLockedSnapshots,
        describe_locked_snapshots,
        Live,
        ["Filters.*", "MaxResults", "NextToken", "SnapshotIds"]
    ),
];

const HOUR_MILLIS: i64 = 3_600_000;
const DAY_MILLIS: i64 = 24 * HOUR_MILLIS;
/// Longest lock, days.
const MAX_DAYS: u32 = 36_500;

/// Whether a snapshot may not be deleted now.
pub(super) fn is_locked(snapshot: &Snapshot, now: Timestamp) -> bool {
    snapshot.lock.as_ref().is_some_and(|lock| now < lock.expires)
}

/// The lock's state now.
fn state(lock: &Lock, now: Timestamp) -> &'static str {
    if now >= lock.expires {
        "expired"
    } else if !lock.compliance {
        "governance"
    } else if lock.cool_off_expires.is_some_and(|end| now < end) {
        "compliance-cooloff"
    } else {
        "compliance"
    }
}

/// The end of a lock that a request asks for, and its length in days.
fn term(
    days: Option<i32>,
    date: Option<Timestamp>,
    starts: Timestamp,
) -> Result<(Timestamp, u32), Error> {
    match (days, date) {
        (Some(days), None) => {
            let days = days.unsigned_abs();
            Ok((starts.plus_millis(i64::from(days) * DAY_MILLIS), days))
        }
        (None, Some(end)) => {
            let millis = end.millis_since(starts);
            // At least a day ahead (EBS User Guide, "Lock duration").
            if !(DAY_MILLIS..=i64::from(MAX_DAYS) * DAY_MILLIS).contains(&millis) {
                return Err(Error::invalid_parameter_value(
                    "Value for parameter expirationDate is invalid. The date must be at least 1 \
                     day and at most 36500 days in the future.",
                ));
            }
            let days = u32::try_from(millis / DAY_MILLIS).unwrap_or(MAX_DAYS);
            Ok((end, days))
        }
        (Some(_), Some(_)) => Err(Error::invalid_parameter_combination(
            "The parameter lockDuration cannot be used with the parameter expirationDate",
        )),
        (None, None) => Err(Error::missing_parameter("lockDuration or expirationDate")),
    }
}

pub(super) fn lock_snapshot(
    call: &mut Call<'_>,
    input: api::LockSnapshotRequest,
) -> Result<api::LockSnapshotResult, Error> {
    let (at, snapshot) = own(call, &input.snapshot_id.unwrap_or_default())?;
    if snapshot.state == SnapshotState::Error {
        return Err(super::wrong_state(&snapshot));
    }
    let compliance = input.lock_mode.as_deref() == Some("compliance");
    if !compliance && input.cool_off_period.is_some() {
        return Err(Error::invalid_parameter_combination(
            "The parameter coolOffPeriod cannot be used with the lock mode governance",
        ));
    }
    let now = call.now;
    let old = snapshot.lock.as_ref().filter(|lock| now < lock.expires);
    let (expires, days) = term(input.lock_duration, input.expiration_date, now)?;
    let fixed = old.filter(|lock| state(lock, now) == "compliance");
    if let Some(fixed) = fixed
        && (!compliance || input.cool_off_period.is_some() || expires < fixed.expires)
    {
        return Err(Error::client(
            "OperationNotPermitted",
            format!(
                "The snapshot '{}' is locked in compliance mode and its cooling-off period is \
                 over: its lock can only be extended.",
                snapshot.id
            ),
        ));
    }
    let cool_off_hours = input.cool_off_period.map(i32::unsigned_abs);
    let lock = Lock {
        compliance,
        days,
        created: old.map_or(now, |lock| lock.created),
        starts: now,
        expires,
        cool_off_hours,
        cool_off_expires: cool_off_hours
            .map(|hours| now.plus_millis(i64::from(hours) * HOUR_MILLIS)),
    };
    let mut snapshot = Snapshot::clone(&snapshot);
    snapshot.lock = Some(lock.clone());
    let snapshot = call.put(&at, snapshot);
    Ok(api::LockSnapshotResult {
        snapshot_id: Some(snapshot.id.clone()),
        lock_state: Some(state(&lock, now).to_owned()),
        lock_duration: i32::try_from(lock.days).ok(),
        cool_off_period: lock.cool_off_hours.and_then(|hours| i32::try_from(hours).ok()),
        cool_off_period_expires_on: lock.cool_off_expires,
        lock_created_on: Some(lock.created),
        lock_expires_on: Some(lock.expires),
        lock_duration_start_time: Some(lock.starts),
    })
}

pub(super) fn unlock_snapshot(
    call: &mut Call<'_>,
    input: api::UnlockSnapshotRequest,
) -> Result<api::UnlockSnapshotResult, Error> {
    let (at, snapshot) = own(call, &input.snapshot_id.unwrap_or_default())?;
    let now = call.now;
    let Some(lock) = snapshot.lock.as_ref().filter(|lock| now < lock.expires) else {
        return Err(Error::client(
            "IncorrectState",
            format!("The snapshot '{}' is not locked.", snapshot.id),
        ));
    };
    if state(lock, now) == "compliance" {
        return Err(Error::client(
            "OperationNotPermitted",
            format!(
                "The snapshot '{}' is locked in compliance mode and cannot be unlocked.",
                snapshot.id
            ),
        ));
    }
    let mut snapshot = Snapshot::clone(&snapshot);
    snapshot.lock = None;
    let snapshot = call.put(&at, snapshot);
    Ok(api::UnlockSnapshotResult { snapshot_id: Some(snapshot.id.clone()) })
}

/// A locked snapshot at the time of a request.
struct Row {
    id: String,
    owner: String,
    lock: Lock,
    state: &'static str,
}

const FILTERS: &[Field<Row>] = &[("lock-state", |row| vec![row.state.into()])];

pub(super) fn describe_locked_snapshots(
    call: &mut Call<'_>,
    input: api::DescribeLockedSnapshotsRequest,
) -> Result<api::DescribeLockedSnapshotsResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
    let ids = input.snapshot_ids.unwrap_or_default();
    for id in &ids {
        check_id(id)?;
    }
    let now = call.now;
    let rows: Vec<Row> = call
        .scan::<Snapshot>(&key_of(call.region, call.account(), ""))?
        .iter()
        .filter(|snapshot| ids.is_empty() || ids.contains(&snapshot.id))
        .filter_map(|snapshot| {
            let lock = snapshot.lock.clone()?;
            let (id, owner) = (snapshot.id.clone(), snapshot.owner_id.clone());
            Some(Row { id, owner, state: state(&lock, now), lock })
        })
        .filter(|row| filters.accept(row, &BTreeMap::new()))
        .collect();
    let page = page(
        rows,
        |row| row.id.as_str(),
        input.max_results,
        input.next_token.as_deref(),
        5..=1000,
    )?;
    let shown = page.items.into_iter().map(|row| api::LockedSnapshotsInfo {
        owner_id: Some(row.owner),
        snapshot_id: Some(row.id),
        lock_state: Some(row.state.to_owned()),
        lock_duration: i32::try_from(row.lock.days).ok(),
        cool_off_period: row.lock.cool_off_hours.and_then(|hours| i32::try_from(hours).ok()),
        cool_off_period_expires_on: row.lock.cool_off_expires,
        lock_created_on: Some(row.lock.created),
        lock_duration_start_time: Some(row.lock.starts),
        lock_expires_on: Some(row.lock.expires),
    });
    Ok(api::DescribeLockedSnapshotsResult {
        snapshots: Some(shown.collect()),
        next_token: page.next_token,
    })
}
