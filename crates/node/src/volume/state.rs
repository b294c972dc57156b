//! What the rest of the region is told of a volume.

use super::directory::{GIB, Outcome};
use super::locked;
use super::task::{Volume, now};
use base::volume::{Ready, SnapshotState, State, Wanted};
use std::collections::BTreeMap;

impl Volume {
    fn state(&self) -> State {
        if self.gone {
            return State::Gone;
        }
        let spec = self.inbox.borrow().clone();
        let Some(record) = &self.record else {
            return match (&self.failed, spec) {
                (Some(message), _) => State::Failed { message: message.clone() },
                (None, Some(_)) => State::Creating,
                (None, None) => State::Absent,
            };
        };
        let snapshots = self.snapshots();
        if spec.as_ref().is_some_and(|spec| spec.wanted == Wanted::Deleted) {
            return State::Deleting { snapshots };
        }
        let filled_percent = match (record.filled, &self.work) {
            // Whoever reads 100 lets the source's blocks go, which a daemon that starts again
            // needs unless the record on the disk says so too.
            (true, _) if self.unsaved() => 99,
            (true, _) => 100,
            (false, Some(work)) => work.percent().unwrap_or(self.filled_percent),
            (false, None) => self.filled_percent,
        };
        if let Some(spec) = &spec
            && spec.filled_first
            && !record.filled
        {
            return State::Creating;
        }
        let wanted = spec.as_ref().map(|spec| spec.limits).unwrap_or_default();
        let limits = match self.is_owned() {
            true => self.in_force.unwrap_or(wanted),
            false => wanted,
        };
        let balance = record.balance.map(|mut balance| {
            if !self.is_owned() {
                balance.advance(&limits, None, now());
            }
            balance
        });
        // Each change wakes whoever listens.
        let coarse = |percent: f64| (percent * 10.0).round() / 10.0;
        State::Ready(Ready {
            size_gib: record.size_gib,
            limits,
            attached: record
                .holders
                .iter()
                .filter(|(_, holder)| holder.held)
                .map(|(machine, _)| machine.clone())
                .collect(),
            filled_percent,
            burst_balance: balance.and_then(|balance| balance.percent(&limits)).map(coarse),
            impaired: self
                .impaired
                .as_ref()
                .map(|impaired| impaired.reason.clone())
                .or_else(|| self.unfilled.clone()),
            snapshots,
        })
    }

    fn snapshots(&self) -> BTreeMap<String, SnapshotState> {
        let mut states = BTreeMap::new();
        let Some(record) = &self.record else { return states };
        let spec = self.inbox.borrow().clone();
        for snapshot in spec.iter().flat_map(|spec| &spec.snapshots) {
            let total = u64::from(record.size_gib) * GIB;
            let pending = SnapshotState::Pending { cut: false, done: 0, total };
            states.insert(snapshot.id.clone(), pending);
        }
        for (id, taken) in &record.snapshots {
            let state = match &taken.result {
                None => {
                    let uploading = self.uploading.as_ref().filter(|u| u.snapshot == *id);
                    let (done, total) = uploading.map_or((0, 0), |u| u.progress.read());
                    let size = u64::from(taken.size_gib) * GIB;
                    let total = if total == 0 { size } else { total };
                    SnapshotState::Pending { cut: true, done: done.min(total), total }
                }
                Some(Outcome::Completed { content, new_bytes, full_bytes }) => {
                    SnapshotState::Completed {
                        content: content.clone(),
                        new_bytes: *new_bytes,
                        full_bytes: *full_bytes,
                    }
                }
                Some(Outcome::Failed { message }) => {
                    SnapshotState::Failed { message: message.clone() }
                }
            };
            states.insert(id.clone(), state);
        }
        states
    }

    /// Tells whoever listens if something has changed.
    pub(super) fn publish(&self) {
        let state = self.state();
        let changed = {
            let mut known = locked(&self.handle.state);
            let changed = *known != state;
            *known = state;
            changed
        };
        if changed {
            (self.shared.announce)(&self.handle.id);
        }
    }
}
