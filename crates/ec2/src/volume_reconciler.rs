//! Moves volumes on: compares each record with what the driver says of its volume.
//!
//! ```text
//!   CreateVolume                 RunInstances                    ModifyVolume
//!        │                            │                               │
//!        ▼        it is there         ▼                               ▼     the node has done it
//!     creating ───────────────►  available ◄─► in-use            modifying ─────────► optimizing
//!        │                        │      (attachments: instance        ▲                  │ a while
//!        │ it cannot be made      │       reconciler)                  └── completed ◄────┘
//!        ▼                        ▼
//!      error ◄───────────────────►┤        DeleteVolume, an instance with DeleteOnTermination ends
//!        │                        ▼
//!        └─────────────────► deleting ── files are gone, snapshots uploaded ──► no record
//! ```
//!
//! [`step`] is the plan: pure, a function of record, observation and time. [`run`] reads, asks it,
//! stages its change and tells the driver what is wanted of the volume, unless it was told since the
//! records that this is made of last changed. So a volume of a launch costs no transaction here: it is `available`
//! from the start, its spec goes to the driver, and what the driver announces changes nothing.
//!
//! Attaching and detaching are the instance's reconciler's; snapshots are written down by
//! [`crate::snapshot_reconciler`], from the same state of the volume.

use crate::record::{
    Impairment, ModificationState, Snapshot, Volume, VolumeModification, VolumeShape, VolumeState,
    key,
};
use crate::volume::{OPTIMIZING_MILLIS, limits, shape_of};
use base::Timestamp;
use base::volume::{self, Ready, Spec, State, Wanted};
use service::reconcile::Reconciler;
use service::{Call, Effect, Error};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// The reconciler of volumes.
pub(crate) const RECONCILER: Reconciler =
    Reconciler { name: "volume", for_network: false, work_key, run };

/// A volume's own record is its work.
fn work_key(record_key: &str) -> Option<String> {
    let (_, kind, ..) = key::parts(record_key)?;
    (kind == key::VOLUME).then(|| record_key.to_owned())
}

/// What an observation makes of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is there.
    Made,
    /// It could not be made.
    Failed,
    /// It holds all of its source.
    Filled,
    /// It is as the modification wants it.
    Modified,
    /// The modification is over.
    Optimized,
    /// Its input and output fail, for this reason, or do so no longer.
    Impaired(Option<String>),
    /// It is gone.
    Gone,
}

/// The plan of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Change the record, then do as the record says.
    Change(Change),
    /// Tell the driver what the record wants, and look again at this time, if there is one.
    Drive(Option<Timestamp>),
}

/// What to do about a volume of which the driver says `observed`.
pub(crate) fn step(volume: &Volume, observed: &State, now: Timestamp) -> Step {
    use VolumeState as Is;
    match (volume.state, observed) {
        (Is::Deleting, State::Gone) => Step::Change(Change::Gone),
        // Also one that could be made in the end: after a full disk, say.
        (Is::Creating | Is::Error, State::Ready(_)) => Step::Change(Change::Made),
        (Is::Creating | Is::Available, State::Failed { .. } | State::Gone) => {
            Step::Change(Change::Failed)
        }
        (Is::Available, State::Ready(ready)) => ready_step(volume, ready, now),
        _ => Step::Drive(None),
    }
}

fn ready_step(volume: &Volume, ready: &Ready, now: Timestamp) -> Step {
    let known = volume.impaired.as_ref().map(|impairment| &impairment.message);
    if known != ready.impaired.as_ref() {
        return Step::Change(Change::Impaired(ready.impaired.clone()));
    }
    if !volume.is_filled && !volume.source_is_published && ready.filled_percent >= 100 {
        return Step::Change(Change::Filled);
    }
    match volume.modifications.last() {
        Some(VolumeModification { state: ModificationState::Modifying, target, .. })
            if ready.size_gib >= target.size_gib && ready.limits == limits(target) =>
        {
            Step::Change(Change::Modified)
        }
        Some(VolumeModification {
            state: ModificationState::Optimizing,
            optimizing: Some(since),
            ..
        }) => {
            let until = since.plus_millis(OPTIMIZING_MILLIS);
            if now >= until { Step::Change(Change::Optimized) } else { Step::Drive(Some(until)) }
        }
        _ => Step::Drive(None),
    }
}

/// What the volume is to be: what it is, or what its modification makes of it.
fn wanted_shape(volume: &Volume) -> VolumeShape {
    match volume.modifications.last() {
        Some(newest) if newest.state == ModificationState::Modifying => newest.target.clone(),
        _ => shape_of(volume),
    }
}

/// The volume as the driver is to make it; `snapshots` are those that are pending, in order.
pub(crate) fn spec(region: &str, volume: &Volume, snapshots: &[Arc<Snapshot>]) -> Spec {
    let shape = wanted_shape(volume);
    Spec {
        id: volume.id.clone(),
        region: region.to_owned(),
        wanted: match volume.state {
            VolumeState::Deleting => Wanted::Deleted,
            VolumeState::Creating | VolumeState::Available | VolumeState::Error => Wanted::Present,
        },
        size_gib: shape.size_gib,
        source: volume.source.clone(),
        key: volume.key.clone(),
        limits: limits(&shape),
        initialization_rate: volume.initialization_rate,
        filled_first: volume.filled_first,
        multi_attach: shape.multi_attach,
        snapshots: snapshots
            .iter()
            .map(|snapshot| volume::Snapshot {
                id: snapshot.id.clone(),
                together: snapshot.together.clone(),
                during_reboot: snapshot.during_reboot,
                parent: snapshot.parent.clone(),
            })
            .collect(),
    }
}

/// The wish that a volume without a record be gone.
fn orphan(id: &str, region: &str) -> Spec {
    Spec {
        id: id.to_owned(),
        region: region.to_owned(),
        wanted: Wanted::Deleted,
        size_gib: 1,
        source: None,
        key: None,
        limits: volume::Limits::default(),
        initialization_rate: None,
        filled_first: false,
        multi_attach: false,
        snapshots: Vec::new(),
    }
}

/// One run for one volume.
fn run(call: &mut Call<'_>, work_key: &str) -> Result<(), Error> {
    let Some((region, _, account, id)) = key::parts(work_key) else { return Ok(()) };
    let observed = call.environment.driver.volume_state(id);
    // What is staged depends on the record; what is only read wakes this reconciler when it changes.
    let Some(volume) = call.peek::<Volume>(work_key)? else {
        // Deleted, in the regular course of things or with the whole state.
        match observed {
            State::Absent => {}
            State::Gone => call.effect(Effect::ForgetVolume(id.to_owned())),
            _ => call.effect(Effect::Volume(Box::new(orphan(id, region)), None)),
        }
        return Ok(());
    };
    match step(&volume, &observed, call.now) {
        // The commit wakes this reconciler again, which then tells the driver.
        Step::Change(change) => {
            apply(call, work_key, &volume, change);
            Ok(())
        }
        Step::Drive(until) => {
            if let Some(until) = until {
                call.effect(Effect::Again(until));
            }
            drive(call, work_key, region, account, &volume, &observed)
        }
    }
}

/// Stages a change.
fn apply(call: &mut Call<'_>, work_key: &str, volume: &Volume, change: Change) {
    let mut next = volume.clone();
    match change {
        Change::Made => next.state = VolumeState::Available,
        Change::Failed => next.state = VolumeState::Error,
        Change::Filled => next.is_filled = true,
        Change::Modified => {
            let now = call.now;
            if let Some(newest) = next.modifications.last_mut() {
                newest.state = ModificationState::Optimizing;
                newest.optimizing = Some(now);
                let VolumeShape { size_gib, kind, iops, throughput, multi_attach } =
                    newest.target.clone();
                next = Volume { size_gib, kind, iops, throughput, multi_attach, ..next };
            }
            call.effect(Effect::Again(now.plus_millis(OPTIMIZING_MILLIS)));
        }
        Change::Optimized => {
            if let Some(newest) = next.modifications.last_mut() {
                newest.state = ModificationState::Completed;
                newest.ended = Some(crate::instance::whole_second(call.now));
            }
        }
        Change::Impaired(None) => next.impaired = None,
        Change::Impaired(Some(message)) => {
            let known = next.impaired.take();
            let enabled = next.auto_enable_io.then_some(call.now);
            next.impaired = Some(match known {
                Some(known) => Impairment { message, ..known },
                None => Impairment {
                    event_id: call.new_id("evol"),
                    message,
                    since: call.now,
                    io_enabled: enabled,
                },
            });
        }
        Change::Gone => {
            call.delete(work_key);
            call.effect(Effect::ForgetVolume(volume.id.clone()));
            return;
        }
    }
    call.put(work_key, next);
}

/// Tells the driver what a record wants, unless it was told since.
fn drive(
    call: &mut Call<'_>,
    work_key: &str,
    region: &str,
    account: &str,
    volume: &Volume,
    observed: &State,
) -> Result<(), Error> {
    let snapshot_keys =
        volume.pending_snapshots.iter().map(|id| key::of(region, key::SNAPSHOT, account, id));
    let snapshot_keys: Vec<String> = snapshot_keys.collect();
    let fingerprint = fingerprint(call, work_key, &snapshot_keys);
    // A driver that was started anew knows nothing.
    if call.applied() == Some(fingerprint) && !matches!(observed, State::Absent) {
        return Ok(());
    }
    let mut snapshots = Vec::with_capacity(snapshot_keys.len());
    for at in &snapshot_keys {
        snapshots.extend(call.peek::<Snapshot>(at)?);
    }
    let spec = spec(region, volume, &snapshots);
    call.effect(Effect::Volume(Box::new(spec), Some(fingerprint)));
    Ok(())
}

/// A number that is another one when a record of those that a spec is made of has changed: their
/// revisions. It is found without making the spec.
fn fingerprint(call: &Call<'_>, work_key: &str, snapshot_keys: &[String]) -> u64 {
    let mut hash = DefaultHasher::new();
    for at in std::iter::once(work_key).chain(snapshot_keys.iter().map(String::as_str)) {
        call.snapshot().get(at).map(|kv| kv.mod_revision()).hash(&mut hash);
    }
    hash.finish()
}

#[cfg(test)]
pub(crate) mod tests;
