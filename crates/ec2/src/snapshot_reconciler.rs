//! Moves snapshots on: compares each record with what the driver says of its volume or its task, and
//! with the clock.
//!
//! ```text
//!             cut: its instant is fixed, CreateSnapshot answers
//!  pending ───► pending, 0 % … 99 % ──► completed ──► (tier, fast restore, recycle bin: by the clock)
//!     │                 │                               │
//!     └─────────────────┴──► error                      └──► no record, when the bin's time is over
//! ```
//!
//! [`step`] is the plan: pure, a function of record, observation and time. Who makes the content
//! depends on [`Origin`]: a volume's own state has its snapshots, anything else is a task. A copy with
//! its source's key needs nobody.
//!
//! The end of a pending snapshot is written together with what follows from it: the volume's list of
//! pending ones, the content that its next one shares.

use crate::record::snapshot::Origin;
use crate::record::{Snapshot, SnapshotState, Volume, key};
use crate::snapshot;
use base::Timestamp;
use base::volume::{Content, SnapshotState as Made, State, Task, Work};
use service::reconcile::Reconciler;
use service::{Call, Effect, Error};

/// The reconciler of snapshots.
pub(crate) const RECONCILER: Reconciler =
    Reconciler { name: "snapshot", for_network: false, work_key, run };

const MINUTE_MILLIS: i64 = 60_000;

/// A snapshot's own record is its work.
fn work_key(record_key: &str) -> Option<String> {
    let (_, kind, ..) = key::parts(record_key)?;
    (kind == key::SNAPSHOT).then(|| record_key.to_owned())
}

/// What is known of the making of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Observed {
    /// Nobody has begun.
    Nothing,
    /// It cannot be made any more.
    Lost(String),
    /// So far.
    Made(Made),
}

/// The plan of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Somebody must make it, or be listened to.
    Drive,
    /// Write down how far it is.
    Progress {
        /// Its instant is fixed.
        cut: bool,
        /// Percent.
        percent: u8,
    },
    /// It is complete.
    Complete {
        /// What it holds.
        content: Content,
        /// Bytes of all its blocks, if they are known.
        full_bytes: Option<u64>,
    },
    /// It cannot be completed.
    Fail(String),
    /// Time has changed it.
    Become(Box<Snapshot>),
    /// Its time in the recycle bin is over.
    Expire,
    /// Nothing before this time.
    Wait(Timestamp),
    /// Nothing at all.
    Rest,
}

/// What to do about a snapshot.
pub(crate) fn step(snapshot: &Snapshot, observed: &Observed, now: Timestamp) -> Step {
    if snapshot.state != SnapshotState::Pending {
        return settled(snapshot, now);
    }
    match (&snapshot.origin, observed) {
        (Origin::Copy { from, .. }, _) if from.key == snapshot.key => {
            Step::Complete { content: from.clone(), full_bytes: snapshot.full_bytes }
        }
        (Origin::Direct { sealed: false, touched, timeout_minutes }, _) => {
            let end = touched.plus_millis(i64::from(*timeout_minutes) * MINUTE_MILLIS);
            if now >= end {
                Step::Fail(format!(
                    "No block was put for {timeout_minutes} minutes before the snapshot was \
                     completed."
                ))
            } else {
                Step::Wait(end)
            }
        }
        (Origin::Published, _) => {
            Step::Fail("The image that it was published with is gone.".to_owned())
        }
        (_, Observed::Made(Made::Completed { content, full_bytes, .. })) => {
            Step::Complete { content: content.clone(), full_bytes: Some(*full_bytes) }
        }
        (_, Observed::Made(Made::Failed { message }) | Observed::Lost(message)) => {
            Step::Fail(message.clone())
        }
        (_, Observed::Made(Made::Pending { cut, done, total })) => {
            let percent = (*done).min(*total) * 100 / (*total).max(1);
            let percent = u8::try_from(percent.min(99)).unwrap_or(99);
            let cut = *cut || snapshot.cut;
            if cut != snapshot.cut || percent > snapshot.progress {
                Step::Progress { cut, percent: percent.max(snapshot.progress) }
            } else {
                Step::Drive
            }
        }
        (_, Observed::Nothing) => Step::Drive,
    }
}

/// What the clock does to a snapshot that is not pending.
fn settled(snapshot: &Snapshot, now: Timestamp) -> Step {
    if let Some(stay) = &snapshot.recycled {
        return if now >= stay.exits { Step::Expire } else { Step::Wait(stay.exits) };
    }
    let changed = snapshot::advance_tier(snapshot, now)
        .or_else(|| snapshot::advance_fast_restores(snapshot, now));
    if let Some(changed) = changed {
        return Step::Become(Box::new(changed));
    }
    let next = [snapshot::next_tier_time(snapshot), snapshot::next_fast_restore_time(snapshot)];
    match next.into_iter().flatten().min() {
        Some(at) => Step::Wait(at),
        None => Step::Rest,
    }
}

/// What the driver says of the making of a pending snapshot.
fn observe(call: &Call<'_>, snapshot: &Snapshot) -> Result<Observed, Error> {
    let driver = &call.environment.driver;
    if snapshot.state != SnapshotState::Pending {
        return Ok(Observed::Nothing);
    }
    if snapshot.origin != Origin::Volume {
        return Ok(driver.task_state(&snapshot.id).map_or(Observed::Nothing, Observed::Made));
    }
    let gone = || Observed::Lost("The volume was deleted.".to_owned());
    Ok(match driver.volume_state(&snapshot.volume_id) {
        State::Ready(ready) => {
            ready.snapshots.get(&snapshot.id).cloned().map_or(Observed::Nothing, Observed::Made)
        }
        State::Deleting { snapshots } => {
            snapshots.get(&snapshot.id).cloned().map_or(Observed::Nothing, Observed::Made)
        }
        State::Failed { message } => Observed::Lost(message),
        State::Gone => gone(),
        State::Creating => Observed::Nothing,
        State::Absent => {
            let at = key::of(call.region, key::VOLUME, &snapshot.owner_id, &snapshot.volume_id);
            // A driver that was started a moment ago knows of no volume yet.
            if call.peek::<Volume>(&at)?.is_some() { Observed::Nothing } else { gone() }
        }
    })
}

/// The task that makes a snapshot's content; `None` when no task does.
fn task(snapshot: &Snapshot) -> Option<Task> {
    let key = snapshot.key.clone();
    let work = match &snapshot.origin {
        Origin::Copy { from, .. } => Work::Copy { from: from.clone(), key },
        Origin::Direct { sealed: true, .. } => {
            Work::Complete { parent: snapshot.parent.clone(), size_gib: snapshot.size_gib, key }
        }
        Origin::Import { file, format } => {
            Work::Import { file: file.clone(), format: format.clone(), key }
        }
        Origin::Volume | Origin::Direct { .. } | Origin::Published => return None,
    };
    Some(Task { id: snapshot.id.clone(), work })
}

/// Nobody makes the snapshot any more, or needs to.
fn let_go(call: &mut Call<'_>, snapshot: &Snapshot) {
    call.effect(match snapshot.origin {
        Origin::Volume => Effect::Unlisten(snapshot.volume_id.clone()),
        _ => Effect::ForgetTask(snapshot.id.clone()),
    });
}

/// Drops the blocks that were put for a snapshot that needs them no more.
fn drop_upload(call: &Call<'_>, id: &str) -> Result<(), Error> {
    call.environment.blocks.drop_upload(id).map_err(Error::internal)
}

/// One run for one snapshot.
fn run(call: &mut Call<'_>, work_key: &str) -> Result<(), Error> {
    let Some(snapshot) = call.get::<Snapshot>(work_key)? else {
        // Deleted. Its volume's reconciler takes it off the volume's spec.
        let id = work_key.rsplit('/').next().unwrap_or_default();
        if call.environment.driver.task_state(id).is_some() {
            call.effect(Effect::ForgetTask(id.to_owned()));
        }
        call.effect(Effect::UnlistenAll);
        return drop_upload(call, id);
    };
    let observed = observe(call, &snapshot)?;
    match step(&snapshot, &observed, call.now) {
        Step::Drive => match task(&snapshot) {
            // Handed over again when the driver does not know it; then its announcements wake us.
            Some(task) if observed == Observed::Nothing => {
                call.effect(Effect::Task(Box::new(task)))
            }
            Some(_) => {}
            None => call.effect(Effect::Listen(snapshot.volume_id.clone())),
        },
        Step::Progress { cut, percent } => {
            let mut next = Snapshot::clone(&snapshot);
            next.cut = cut;
            next.progress = percent;
            call.put(work_key, next);
            if snapshot.origin == Origin::Volume {
                call.effect(Effect::Listen(snapshot.volume_id.clone()));
            }
        }
        Step::Complete { content, full_bytes } => {
            let mut next = Snapshot::clone(&snapshot);
            next.state = SnapshotState::Completed;
            next.cut = true;
            next.progress = 100;
            next.size_gib = content.size_gib;
            next.key.clone_from(&content.key);
            next.full_bytes = full_bytes;
            next.completed = Some(call.now);
            // What it holds, it holds itself now.
            next.parent = None;
            next.together.clear();
            next.content = Some(content.clone());
            call.put(work_key, next);
            snapshot::unlink(call, &snapshot, Some(&content))?;
            let_go(call, &snapshot);
        }
        Step::Fail(message) => {
            let mut next = Snapshot::clone(&snapshot);
            next.state = SnapshotState::Error;
            next.message = Some(message);
            next.parent = None;
            call.put(work_key, next);
            snapshot::unlink(call, &snapshot, None)?;
            let_go(call, &snapshot);
        }
        Step::Become(next) => {
            call.put(work_key, *next);
        }
        Step::Expire => snapshot::remove(call, &snapshot)?,
        Step::Wait(at) => call.effect(Effect::Again(at)),
        Step::Rest => {}
    }
    if matches!(snapshot.origin, Origin::Direct { .. }) && snapshot.state != SnapshotState::Pending
    {
        drop_upload(call, &snapshot.id)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
