//! Fast snapshot restore: volumes of these snapshots, in these zones, are filled before they are
//! available.
//!
//! ```text
//!  EnableFastSnapshotRestores ──► enabling ──► optimizing ──► enabled
//!                                    └─────────────┴─────────────┴── DisableFastSnapshotRestores
//!                                                                          ▼
//!                              (no longer shown) ◄── disabled ◄── disabling
//! ```
//!
//! The states follow the region's clock; optimizing takes 60 minutes a TiB (EBS User Guide, "Amazon
//! EBS fast snapshot restore").

use super::{attribute, key_of, prefix};
use crate::record::snapshot::FastRestore;
use crate::record::{Snapshot, SnapshotState};
use crate::region;
use base::Timestamp;
use model::ec2::{self as api, op};
use service::filter::{Field, Filters};
use service::page::page;
use service::{Call, Error, Operation, operation};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) const OPERATIONS: &[Operation] = &[
    operation!(
        op::EnableFastSnapshotRestores,
        enable_fast_snapshot_restores,
        Write,
        ["AvailabilityZoneIds", "AvailabilityZones", "SourceSnapshotIds"]
    ),
    operation!(
        op::DisableFastSnapshotRestores,
        disable_fast_snapshot_restores,
        Write,
        ["AvailabilityZoneIds", "AvailabilityZones", "SourceSnapshotIds"]
    ),
    operation!(
        op::DescribeFastSnapshotRestores,
        describe_fast_snapshot_restores,
        Read,
        ["Filters.*", "MaxResults", "NextToken"]
    ),
];

/// How long enabling and disabling take.
const SWITCH_MILLIS: i64 = 1_000;
/// How long optimizing takes, a GiB: 60 minutes a TiB.
const OPTIMIZING_MILLIS_PER_GIB: i64 = 3_600_000 / 1_024;
/// How long a disabled one is shown.
const VISIBLE_MILLIS: i64 = 3_600_000;
/// Most snapshots with fast snapshot restore (EBS quotas).
const MAX_SNAPSHOTS: usize = 5;

/// Whether a volume that is made of the snapshot in this zone is filled first.
pub(crate) fn is_fast(snapshot: &Snapshot, zone: &str) -> bool {
    snapshot
        .fast_restores
        .get(zone)
        .is_some_and(|fast| fast.enabled.is_some() && fast.disabling.is_none())
}

fn state(fast: &FastRestore) -> &'static str {
    match fast {
        FastRestore { disabled: Some(_), .. } => "disabled",
        FastRestore { disabling: Some(_), .. } => "disabling",
        FastRestore { enabled: Some(_), .. } => "enabled",
        FastRestore { optimizing: Some(_), .. } => "optimizing",
        FastRestore { .. } => "enabling",
    }
}

/// When the state changes next by itself.
fn next_of(fast: &FastRestore, size_gib: u32) -> Option<Timestamp> {
    match fast {
        FastRestore { disabled: Some(at), .. } => Some(at.plus_millis(VISIBLE_MILLIS)),
        FastRestore { disabling: Some(at), .. } => Some(at.plus_millis(SWITCH_MILLIS)),
        FastRestore { enabled: Some(_), .. } => None,
        FastRestore { optimizing: Some(at), .. } => {
            Some(at.plus_millis(i64::from(size_gib) * OPTIMIZING_MILLIS_PER_GIB))
        }
        FastRestore { enabling, .. } => Some(enabling.plus_millis(SWITCH_MILLIS)),
    }
}

/// When the next zone of a snapshot changes its state.
pub(crate) fn next_time(snapshot: &Snapshot) -> Option<Timestamp> {
    snapshot.fast_restores.values().filter_map(|fast| next_of(fast, snapshot.size_gib)).min()
}

/// What time has made of a snapshot's zones; `None` if nothing.
pub(crate) fn advance(snapshot: &Snapshot, now: Timestamp) -> Option<Snapshot> {
    let mut next = snapshot.clone();
    let size = snapshot.size_gib;
    next.fast_restores.retain(|_, fast| {
        while let Some(at) = next_of(fast, size).filter(|at| *at <= now) {
            match state(fast) {
                "enabling" => fast.optimizing = Some(at),
                "optimizing" => fast.enabled = Some(at),
                "disabling" => fast.disabled = Some(at),
                _ => return false,
            }
        }
        true
    });
    (next.fast_restores != snapshot.fast_restores).then_some(next)
}

/// Zone names of a request, by name or by id.
fn zones(
    call: &Call<'_>,
    names: Option<Vec<String>>,
    ids: Option<Vec<String>>,
) -> Result<Vec<region::Zone>, Error> {
    let known = region::zones(call.region);
    let (names, ids) = (names.unwrap_or_default(), ids.unwrap_or_default());
    if names.is_empty() && ids.is_empty() {
        return Err(Error::missing_parameter("AvailabilityZones"));
    }
    if !names.is_empty() && !ids.is_empty() {
        return Err(Error::invalid_parameter_combination(
            "The parameter availabilityZones cannot be used with the parameter availabilityZoneIds",
        ));
    }
    let mut found = Vec::new();
    for wanted in names.iter().chain(&ids) {
        let zone = known.iter().find(|zone| zone.name == *wanted || zone.id == *wanted);
        found.push(zone.cloned().ok_or_else(|| {
            Error::invalid_parameter_value(format!("Invalid availability zone: [{wanted}]"))
        })?);
    }
    Ok(found)
}

/// The snapshot that the caller may use, whoever's it is, with its key.
fn usable(call: &mut Call<'_>, id: &str) -> Result<(String, Arc<Snapshot>), Error> {
    let region = call.region;
    let snapshot = super::find(call, region, id)?;
    Ok((key_of(region, &snapshot.owner_id, id), snapshot))
}

pub(super) fn enable_fast_snapshot_restores(
    call: &mut Call<'_>,
    input: api::EnableFastSnapshotRestoresRequest,
) -> Result<api::EnableFastSnapshotRestoresResult, Error> {
    let zones = zones(call, input.availability_zones, input.availability_zone_ids)?;
    let mut enabled: Vec<String> = call
        .scan::<Snapshot>(&key_of(call.region, call.account(), ""))?
        .iter()
        .filter(|s| s.fast_restores.values().any(|fast| fast.disabling.is_none()))
        .map(|s| s.id.clone())
        .collect();
    let (mut successful, mut unsuccessful) = (Vec::new(), Vec::new());
    for id in input.source_snapshot_ids.unwrap_or_default() {
        let found = usable(call, &id).and_then(|(at, snapshot)| {
            super::usable(&snapshot)?;
            if !enabled.contains(&id) && enabled.len() >= MAX_SNAPSHOTS {
                return Err(Error::client(
                    "FastSnapshotRestoreLimitExceeded",
                    format!(
                        "You have reached the maximum of {MAX_SNAPSHOTS} snapshots that are \
                         enabled for fast snapshot restore."
                    ),
                ));
            }
            Ok((at, snapshot))
        });
        let (at, snapshot) = match found {
            Ok(found) => found,
            Err(error) => {
                let errors =
                    zones.iter().map(|zone| api::EnableFastSnapshotRestoreStateErrorItem {
                        availability_zone: Some(zone.name.clone()),
                        availability_zone_id: Some(zone.id.clone()),
                        error: Some(api::EnableFastSnapshotRestoreStateError {
                            code: Some(error.code.clone().into_owned()),
                            message: Some(error.message.clone()),
                        }),
                    });
                unsuccessful.push(api::EnableFastSnapshotRestoreErrorItem {
                    snapshot_id: Some(id),
                    fast_snapshot_restore_state_errors: Some(errors.collect()),
                });
                continue;
            }
        };
        enabled.push(id);
        let mut snapshot = Snapshot::clone(&snapshot);
        for zone in &zones {
            let fast = snapshot
                .fast_restores
                .entry(zone.name.clone())
                .and_modify(|fast| {
                    if fast.disabling.is_some() {
                        *fast = new(call.now);
                    }
                })
                .or_insert_with(|| new(call.now));
            successful.push(api::EnableFastSnapshotRestoreSuccessItem {
                snapshot_id: Some(snapshot.id.clone()),
                availability_zone: Some(zone.name.clone()),
                availability_zone_id: Some(zone.id.clone()),
                state: Some(state(fast).to_owned()),
                state_transition_reason: Some(reason(fast).to_owned()),
                owner_id: Some(snapshot.owner_id.clone()),
                enabling_time: Some(fast.enabling),
                optimizing_time: fast.optimizing,
                enabled_time: fast.enabled,
                ..Default::default()
            });
        }
        call.put(&at, snapshot);
    }
    Ok(api::EnableFastSnapshotRestoresResult {
        successful: Some(successful),
        unsuccessful: Some(unsuccessful),
    })
}

fn new(now: Timestamp) -> FastRestore {
    FastRestore { enabling: now, optimizing: None, enabled: None, disabling: None, disabled: None }
}

fn reason(fast: &FastRestore) -> &'static str {
    match state(fast) {
        "enabling" | "disabling" => "Client.UserInitiated",
        _ => "Client.UserInitiated - Lifecycle state transition",
    }
}

pub(super) fn disable_fast_snapshot_restores(
    call: &mut Call<'_>,
    input: api::DisableFastSnapshotRestoresRequest,
) -> Result<api::DisableFastSnapshotRestoresResult, Error> {
    let zones = zones(call, input.availability_zones, input.availability_zone_ids)?;
    let (mut successful, mut unsuccessful) = (Vec::new(), Vec::new());
    for id in input.source_snapshot_ids.unwrap_or_default() {
        let mut errors = Vec::new();
        let mut refuse = |zone: &region::Zone, error: &Error| {
            errors.push(api::DisableFastSnapshotRestoreStateErrorItem {
                availability_zone: Some(zone.name.clone()),
                availability_zone_id: Some(zone.id.clone()),
                error: Some(api::DisableFastSnapshotRestoreStateError {
                    code: Some(error.code.clone().into_owned()),
                    message: Some(error.message.clone()),
                }),
            });
        };
        match usable(call, &id) {
            Err(error) => zones.iter().for_each(|zone| refuse(zone, &error)),
            Ok((at, snapshot)) => {
                let mut snapshot = Snapshot::clone(&snapshot);
                for zone in &zones {
                    let fast = snapshot.fast_restores.get_mut(&zone.name);
                    let Some(fast) = fast.filter(|fast| fast.disabling.is_none()) else {
                        refuse(
                            zone,
                            &Error::client(
                                "InvalidFastSnapshotRestore.NotFound",
                                format!(
                                    "Fast snapshot restore is not enabled for the snapshot '{id}' \
                                     in {}.",
                                    zone.name
                                ),
                            ),
                        );
                        continue;
                    };
                    fast.disabling = Some(call.now);
                    successful.push(api::DisableFastSnapshotRestoreSuccessItem {
                        snapshot_id: Some(id.clone()),
                        availability_zone: Some(zone.name.clone()),
                        availability_zone_id: Some(zone.id.clone()),
                        state: Some(state(fast).to_owned()),
                        state_transition_reason: Some(reason(fast).to_owned()),
                        owner_id: Some(snapshot.owner_id.clone()),
                        enabling_time: Some(fast.enabling),
                        optimizing_time: fast.optimizing,
                        enabled_time: fast.enabled,
                        disabling_time: fast.disabling,
                        ..Default::default()
                    });
                }
                call.put(&at, snapshot);
            }
        }
        if !errors.is_empty() {
            unsuccessful.push(api::DisableFastSnapshotRestoreErrorItem {
                snapshot_id: Some(id),
                fast_snapshot_restore_state_errors: Some(errors),
            });
        }
    }
    Ok(api::DisableFastSnapshotRestoresResult {
        successful: Some(successful),
        unsuccessful: Some(unsuccessful),
    })
}

/// One zone of one snapshot.
struct Row {
    /// The order of the pages.
    place: String,
    snapshot: Arc<Snapshot>,
    zone: String,
    zone_id: String,
    fast: FastRestore,
}

const FILTERS: &[Field<Row>] = &[
    ("availability-zone", |row| vec![row.zone.as_str().into()]),
    ("availability-zone-id", |row| vec![row.zone_id.as_str().into()]),
    ("owner-id", |row| vec![row.snapshot.owner_id.as_str().into()]),
    ("snapshot-id", |row| vec![row.snapshot.id.as_str().into()]),
    ("state", |row| vec![state(&row.fast).into()]),
];

pub(super) fn describe_fast_snapshot_restores(
    call: &mut Call<'_>,
    input: api::DescribeFastSnapshotRestoresRequest,
) -> Result<api::DescribeFastSnapshotRestoresResult, Error> {
    let filters = Filters::new(crate::filters(input.filters), FILTERS)?;
    let mut rows = Vec::new();
    for snapshot in call.scan::<Snapshot>(&prefix(call.region))? {
        if snapshot.state != SnapshotState::Completed
            || !attribute::may_use(call, &snapshot, call.account())?
        {
            continue;
        }
        for (zone, fast) in &snapshot.fast_restores {
            rows.push(Row {
                place: format!("{}/{zone}", snapshot.id),
                snapshot: Arc::clone(&snapshot),
                zone: zone.clone(),
                zone_id: region::zone_id(call.region, zone).unwrap_or_default(),
                fast: fast.clone(),
            });
        }
    }
    rows.retain(|row| filters.accept(row, &BTreeMap::new()));
    rows.sort_by(|a, b| a.place.cmp(&b.place));
    let page = page(
        rows,
        |row| row.place.as_str(),
        input.max_results.filter(|most| *most > 0),
        input.next_token.as_deref(),
        1..=200,
    )?;
    let shown = page.items.into_iter().map(|row| api::DescribeFastSnapshotRestoreSuccessItem {
        snapshot_id: Some(row.snapshot.id.clone()),
        availability_zone: Some(row.zone),
        availability_zone_id: Some(row.zone_id),
        state: Some(state(&row.fast).to_owned()),
        state_transition_reason: Some(reason(&row.fast).to_owned()),
        owner_id: Some(row.snapshot.owner_id.clone()),
        owner_alias: row.snapshot.owner_alias.clone(),
        enabling_time: Some(row.fast.enabling),
        optimizing_time: row.fast.optimizing,
        enabled_time: row.fast.enabled,
        disabling_time: row.fast.disabling,
        disabled_time: row.fast.disabled,
    });
    Ok(api::DescribeFastSnapshotRestoresResult {
        fast_snapshot_restores: Some(shown.collect()),
        next_token: page.next_token,
    })
}
