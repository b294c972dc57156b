//! Snapshots of a volume: cut, uploaded, remembered until the control plane has recorded them.
//!
//! ```text
//!  due ──► layer made, cut recorded ──► owner's transaction ──► recorded ──► uploading ──► Completed
//!                     │                      │                     ▲           └─ again ─┘   Failed
//!                     └── crash or error ────┴── ask the owner ────┘
//!                                                (nobody owns it: the cut counts)
//! ```

use super::directory::{self, IDLE_USER, Outcome, Record};
use super::host::{Chain, Cut, Host, JobKind, Layer, Throttle};
use super::task::{TICK, Uploading, Volume, blocking};
use super::upload::{Plan, Problem, Progress, upload};
use base::volume::{Content, SnapshotState, Spec, State};
use block::Finished;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often data is read that cannot be read.
const READINGS: u32 = 4;

/// How often the others of a group are waited for that nothing is known of.
const GROUP_TRIES: u32 = 3;

/// How long what the volume fills from may take to answer before a cut.
const SOURCE_ANSWERS: Duration = Duration::from_secs(3);

/// When it is asked again.
const SOURCE_AGAIN: Duration = Duration::from_secs(5);

impl Volume {
    /// Forgets the snapshots that the spec does not name any more.
    pub(super) async fn forget_snapshots(&mut self, spec: &Spec) -> bool {
        let Some(record) = &mut self.record else { return false };
        let dropped: Vec<String> = record
            .snapshots
            .keys()
            .filter(|id| !spec.snapshots.iter().any(|snapshot| snapshot.id == **id))
            .cloned()
            .collect();
        if dropped.is_empty() || self.unsaved {
            return false;
        }
        for id in &dropped {
            record.snapshots.remove(id);
            self.attempts.remove(id);
            self.group_tries.remove(id);
        }
        if self.uploading.as_ref().is_some_and(|upload| dropped.contains(&upload.snapshot)) {
            self.uploading = None;
        }
        self.save().await;
        for id in &dropped {
            // Whoever dropped it has recorded its content.
            self.pins.remove(id);
        }
        true
    }

    /// Begins the upload of the oldest snapshot that is cut and not uploaded.
    pub(super) async fn start_upload(&mut self, spec: &Spec) -> bool {
        let Some(record) = &self.record else { return false };
        let merging = self.job == Some(JobKind::Commit)
            || self.work.as_ref().is_some_and(|work| work.merges());
        if self.uploading.is_some() || merging || self.unsaved || !self.is_due("upload") {
            return false;
        }
        let pending =
            |id: &str| record.snapshots.get(id).is_some_and(|taken| taken.result.is_none());
        // In order, since each is the next one's parent.
        let Some(snapshot) = spec.snapshots.iter().find(|snapshot| pending(&snapshot.id)) else {
            return false;
        };
        let attempts = self.attempts.get(&snapshot.id).copied().unwrap_or_default();
        if attempts.after.is_some_and(|after| after > Instant::now()) {
            return false;
        }
        let id = snapshot.id.clone();
        let plan = match self.plan(spec, snapshot, attempts.whole).await {
            Ok(plan) => plan,
            Err(message) => {
                tracing::warn!(id = self.handle.id, message, "a snapshot cannot be uploaded yet");
                self.put_off("upload", Duration::from_secs(5));
                return false;
            }
        };
        let progress = Arc::new(Progress::default());
        let (shared, directory) = (Arc::clone(&self.shared), self.directory.clone());
        let followed = Arc::clone(&progress);
        let task = tokio::spawn(async move {
            // Never closed.
            let _permit = Arc::clone(&shared.uploads).acquire_owned().await;
            let config = &shared.config;
            upload(&config.data_dir, &directory, &config.blobs, plan, &followed).await
        });
        self.uploading = Some(Uploading { snapshot: id, progress, task });
        true
    }

    /// What is uploaded for a snapshot.
    pub(super) async fn plan(
        &mut self,
        spec: &Spec,
        snapshot: &base::volume::Snapshot,
        whole: bool,
    ) -> Result<Plan, String> {
        let user = self.record.as_ref().map_or(IDLE_USER, Record::user);
        self.ensure_server(user).await?;
        let record = self.record.as_ref().ok_or("the volume is not there")?;
        let taken = record.snapshots.get(&snapshot.id).ok_or("the snapshot is not cut")?;
        let at = record
            .layers
            .iter()
            .position(|layer| layer.number == taken.layer)
            .ok_or("the snapshot's layer is not there")?;
        // What is still sure to be in the blob store: what the control plane names, and what was
        // uploaded and is pinned here.
        let named = |content: &Content| {
            snapshot.parent.as_ref() == Some(content)
                || spec.snapshots.iter().any(|other| {
                    let result = record.snapshots.get(&other.id).and_then(|t| t.result.as_ref());
                    matches!(result, Some(Outcome::Completed { content: c, .. }) if c == content)
                })
        };
        let parent = record.layers[..=at].iter().enumerate().rev().find_map(|(index, layer)| {
            let content = layer.content.as_ref()?;
            (content.key == record.key && named(content)).then(|| (index, content.clone()))
        });
        let parent = parent.filter(|_| !whole);
        // While layer 0 is being filled the source itself is read.
        let lowest = usize::from(!record.filled);
        let numbers = record.layers[lowest.min(at)..=at].iter().map(|layer| layer.number);
        Ok(Plan {
            chain: Chain {
                volume: self.handle.id.clone(),
                layers: self.layers(numbers),
                source: (!record.filled).then(|| self.served()),
                passphrase: self.shared.passphrase(record.key.as_ref()).await?,
                throttle: Throttle::default(),
            },
            user: record.user(),
            newer: parent.as_ref().map_or(0, |(index, _)| at - index),
            parent: parent.map(|(_, content)| content),
            size_gib: taken.size_gib,
            key: self.shared.data_key(record.key.as_ref()).await?,
        })
    }

    pub(super) async fn on_uploaded(&mut self, result: Result<Finished, Problem>) {
        let Some(uploading) = self.uploading.take() else { return };
        let id = uploading.snapshot.clone();
        let Some(record) = &mut self.record else { return };
        let key = record.key.clone();
        let Some(taken) = record.snapshots.get_mut(&id) else { return };
        let attempts = self.attempts.entry(id.clone()).or_default();
        attempts.count += 1;
        attempts.unreadable += u32::from(matches!(result, Err(Problem::Unreadable(_))));
        let failed = match result {
            Ok(finished) => {
                let content = finished.content(key);
                tracing::info!(
                    id,
                    volume = self.handle.id,
                    new_bytes = finished.new_bytes,
                    stored_bytes = finished.stored_bytes,
                    "uploaded a snapshot"
                );
                let layer = taken.layer;
                taken.result = Some(Outcome::Completed {
                    content: content.clone(),
                    new_bytes: finished.new_bytes,
                    full_bytes: finished.full_bytes,
                });
                if let Some(layer) = record.layers.iter_mut().find(|l| l.number == layer) {
                    layer.content = Some(content);
                }
                self.pins.insert(id.clone(), finished.pinned);
                self.attempts.remove(&id);
                None
            }
            Err(Problem::Final(message)) => Some(message),
            Err(Problem::Unreadable(message)) if attempts.unreadable >= READINGS => Some(message),
            Err(problem) => {
                tracing::warn!(id, ?problem, "the upload of a snapshot is tried again");
                attempts.whole |= matches!(problem, Problem::Parent(_));
                let delay = Duration::from_secs((1 << attempts.count.min(6)).min(60));
                attempts.after = Some(Instant::now() + delay);
                self.spare_server().await;
                return;
            }
        };
        if let Some(message) = failed {
            tracing::error!(id, message, "a snapshot cannot be uploaded");
            taken.result = Some(Outcome::Failed { message });
            self.attempts.remove(&id);
        }
        self.save().await;
        self.spare_server().await;
    }

    /// A cut that may have happened before a crash or an error: whether something was found out.
    pub(super) async fn recover_cut(&mut self) -> bool {
        let Some(record) = &self.record else { return false };
        let Some(cutting) = record.cutting.clone() else { return false };
        if !self.is_due("cut") {
            return false;
        }
        let happened = if record.holders.is_empty() && self.keeper.is_none() {
            true
        } else {
            let Some(owner) = self.owner() else { return false };
            match owner.layers(&self.handle.id).await {
                Ok(layers) => match has_happened(&layers, record.active(), cutting.new) {
                    Some(happened) => happened,
                    None => {
                        self.put_off("cut", TICK);
                        return false;
                    }
                },
                Err(error) => {
                    tracing::warn!(id = self.handle.id, %error, "whether a cut was made is open");
                    self.put_off("cut", TICK);
                    return false;
                }
            }
        };
        if let Some(record) = &mut self.record {
            match happened {
                true => record.finish_cut(),
                false => record.cutting = None,
            }
        }
        if self.save().await && !happened {
            let directory = self.directory.clone();
            // What stays is removed at the next start.
            let _ = blocking(move || directory.remove_layer(cutting.new)).await;
        }
        true
    }

    /// Snapshots that are to be cut now.
    pub(super) fn due<'a>(&self, spec: &'a Spec) -> Vec<&'a base::volume::Snapshot> {
        let Some(record) = &self.record else { return Vec::new() };
        let is_due = |snapshot: &&base::volume::Snapshot| {
            if record.snapshots.contains_key(&snapshot.id) {
                return false;
            }
            match snapshot.during_reboot {
                None => true,
                Some(_) if record.holders.is_empty() => true,
                Some(wanted) => record.reboots.as_ref().is_some_and(|(machine, reboots)| {
                    *reboots >= wanted && record.holders.contains_key(machine)
                }),
            }
        };
        spec.snapshots.iter().filter(is_due).collect()
    }

    pub(super) fn answer_reboots(&mut self, spec: &Spec) {
        if self.due(spec).is_empty() {
            for answer in self.rebooting.drain(..) {
                // Nobody may wait any more.
                let _ = answer.send(());
            }
        }
    }

    pub(super) async fn cut_due(&mut self, spec: &Spec) -> bool {
        let Some(record) = &self.record else { return false };
        if record.cutting.is_some() || self.unsaved || !self.is_due("cut") {
            return false;
        }
        let owner = self.owner();
        if self.is_owned() && owner.is_none() {
            return false;
        }
        let due = self.due(spec);
        let Some(first) = due.first() else { return false };
        // Those that stand alone share a cut; a group has its own.
        let group = self.group(first);
        let ids: Vec<String> = match group.is_empty() {
            false => vec![first.id.clone()],
            true => {
                let alone =
                    due.iter().filter(|other| other.id == first.id || other.together.len() < 2);
                alone.map(|snapshot| snapshot.id.clone()).collect()
            }
        };
        if owner.is_some() && !self.source_answers().await {
            let message = "the blob store does not answer";
            tracing::warn!(id = self.handle.id, message, "a snapshot could not be cut yet");
            self.put_off("cut", SOURCE_AGAIN);
            return false;
        }
        let began = Instant::now();
        if let Err(message) = self.cut(ids.clone(), &group, owner).await {
            for id in ids.iter().filter(|_| !group.is_empty()) {
                *self.group_tries.entry(id.clone()).or_default() += 1;
            }
            tracing::warn!(id = self.handle.id, message, "a snapshot could not be cut yet");
            self.put_off("cut", TICK);
            return false;
        }
        tracing::info!(id = self.handle.id, ?ids, elapsed = ?began.elapsed(), "cut");
        self.publish();
        true
    }

    /// Whether what the volume fills from answers. A cut waits for every read under way, and the
    /// machine stands still meanwhile: none is made while a read may wait for minutes.
    async fn source_answers(&self) -> bool {
        let source = self.record.as_ref().filter(|record| !record.filled);
        let Some(content) = source.and_then(|record| record.source.clone()) else { return true };
        let blobs = self.shared.config.blobs.clone();
        let asked = tokio::task::spawn_blocking(move || blobs.answers(&content));
        matches!(tokio::time::timeout(SOURCE_ANSWERS, asked).await, Ok(Ok(true)))
    }

    /// The others that are still to be cut together with a snapshot of this volume, and itself;
    /// nothing if there are none.
    fn group(&self, snapshot: &base::volume::Snapshot) -> Vec<(String, String)> {
        let tries = self.group_tries.get(&snapshot.id).copied().unwrap_or(0);
        let is_waited_for = |(volume, snapshot): &&(String, String)| {
            if *volume == self.handle.id {
                return true;
            }
            let handle = super::locked(&self.shared.volumes).get(volume).cloned();
            let state = handle.map(|handle| super::locked(&handle.state).clone());
            let snapshots = match &state {
                Some(State::Ready(ready)) => &ready.snapshots,
                Some(State::Deleting { snapshots }) => snapshots,
                Some(State::Gone | State::Failed { .. }) => return false,
                // Not told of it yet, or for good.
                _ => return tries < GROUP_TRIES,
            };
            match snapshots.get(snapshot) {
                Some(SnapshotState::Pending { cut, .. }) => !cut,
                // A crash came between its cut and ours.
                Some(_) => false,
                None => tries < GROUP_TRIES,
            }
        };
        let group: Vec<_> = snapshot.together.iter().filter(is_waited_for).cloned().collect();
        if group.len() < 2 { Vec::new() } else { group }
    }

    /// Freezes the active layer as `snapshots`.
    pub(super) async fn cut(
        &mut self,
        snapshots: Vec<String>,
        group: &[(String, String)],
        owner: Option<Host>,
    ) -> Result<(), String> {
        let record = self.record.as_mut().ok_or("the volume is not there")?;
        let (new, active, user) = (record.next, record.active(), record.user());
        let (directory, owned) = (self.directory.clone(), owner.is_some());
        let made = blocking(move || {
            if owned {
                directory.sync_layer(active);
            }
            directory.add_layer(new, user)
        });
        made.await.map_err(|error| error.to_string())?;
        let record = self.record.as_mut().ok_or("the volume is not there")?;
        record.next += 1;
        record.cutting = Some(directory::Cutting { new, snapshots });
        let encrypted = record.key.is_some();
        let name = match record.multi_attach {
            true => self.handle.id.clone(),
            false => record.holders.keys().next().cloned().unwrap_or_default(),
        };
        let part = match owner {
            Some(host) => {
                if !self.save().await {
                    // Written before anything else happens; then it is found not to have happened.
                    return Err("the volume's record cannot be written".to_owned());
                }
                let layer =
                    Layer { number: new, file: directory::layer_file(&self.handle.id, new) };
                let volume = self.handle.id.clone();
                Some((name, host, Cut { volume, active, new: layer, encrypted }))
            }
            None => None,
        };
        let done = match (group.is_empty(), part) {
            (true, None) => Ok(()),
            (true, Some((_, host, cut))) => {
                host.cut(&[cut]).await.map_err(|error| error.to_string())
            }
            (false, part) => {
                let owned = part.is_some();
                let joined = self.shared.groups.join(group, &self.handle.id, part).await;
                if joined.is_err() && !owned {
                    // It has not happened, and the record on the disk does not know of it.
                    if let Some(record) = &mut self.record {
                        record.cutting = None;
                    }
                }
                joined
            }
        };
        done?;
        if let Some(record) = &mut self.record {
            record.finish_cut();
        }
        // In memory it has happened, and on the disk the record and the owner say so.
        self.save().await;
        Ok(())
    }
}

/// Whether an owner that has these layers has made the layer `new` above `active`; `None` if it has
/// let go of the volume: it may have been written to, and whoever releases it settles that.
fn has_happened(layers: &[u32], active: u32, new: u32) -> Option<bool> {
    match layers.contains(&new) {
        true => Some(true),
        false => layers.contains(&active).then_some(false),
    }
}

#[cfg(test)]
mod tests {
    use super::has_happened;

    #[test]
    fn a_cut_is_not_undone_when_the_owner_has_let_go() {
        assert_eq!(has_happened(&[0, 1, 2], 1, 2), Some(true));
        assert_eq!(has_happened(&[0, 1], 1, 2), Some(false));
        assert_eq!(has_happened(&[], 1, 2), None, "detached: layer 2 may hold what was written");
    }
}
