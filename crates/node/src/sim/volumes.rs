//! Simulated volumes: there at once, attached at once, never written to.
//!
//! Since nothing writes to a simulated volume, a snapshot of it holds what the volume was made from.
//! That content is real: it lies in the blob store, and what the EBS direct APIs put into a snapshot
//! is read back from a snapshot of a volume made from it. Snapshots are taken one after the other by a
//! thread of their own, because the blob store may block.

use super::{Listener, locked};
use base::key::{Keys, WrappedKey};
use base::volume::{Ready, Snapshot, SnapshotState, Spec, State, Wanted};
use block::{Blobs, Finished, Upload, upload};
use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, OnceLock, Weak, mpsc};

/// Takes a snapshot of a volume that holds what it was made from. May block. What comes with the
/// state is kept as long as the snapshot is wanted: it keeps blobs from being collected.
pub type Cut = Box<dyn Fn(&Spec) -> (SnapshotState, Option<Finished>) + Send + Sync>;

/// Takes snapshots into a blob store.
pub fn cut_into(blobs: Blobs, keys: Arc<dyn Keys>) -> Cut {
    let cut = move |spec: &Spec| -> Result<(SnapshotState, Finished), Box<dyn Error>> {
        let open = |key: &Option<WrappedKey>| key.as_ref().map(|key| keys.unwrap(key)).transpose();
        let key = open(&spec.key)?;
        let finished = match &spec.source {
            None => upload::empty(&blobs, spec.size_gib, key.as_ref())?,
            Some(source) => {
                let of_source = open(&source.key)?;
                let copied =
                    upload::copy(&blobs, source, of_source.as_ref(), key.as_ref(), 1, &|_, _| {
                        ControlFlow::Continue(())
                    })?;
                let content = copied.content(spec.key.clone());
                // As large as the volume has become.
                Upload::begin(&blobs, Some(&content), spec.size_gib, key.as_ref())?.finish()?
            }
        };
        let state = SnapshotState::Completed {
            content: finished.content(spec.key.clone()),
            new_bytes: finished.new_bytes,
            full_bytes: finished.full_bytes,
        };
        Ok((state, finished))
    };
    Box::new(move |spec| match cut(spec) {
        Ok((state, finished)) => (state, Some(finished)),
        Err(error) => (SnapshotState::Failed { message: error.to_string() }, None),
    })
}

pub(super) struct Volumes {
    inner: Mutex<Inner>,
    cut: Cut,
    /// Made when the first snapshot is asked for.
    cuts: OnceLock<mpsc::Sender<(Box<Spec>, Snapshot)>>,
}

#[derive(Default)]
struct Inner {
    volumes: HashMap<Box<str>, Volume>,
    /// The volumes of each machine that runs.
    machines: HashMap<Box<str>, Vec<Box<str>>>,
    /// The machines of volumes that are not there yet: machines may be told first.
    early: HashMap<Box<str>, Vec<String>>,
    /// What completed snapshots need until they are recorded.
    finished: HashMap<String, Finished>,
}

/// What is kept of one volume.
#[derive(Debug)]
enum Volume {
    Present(Box<Spec>, Ready),
    /// Gone when its snapshots are taken.
    Deleting(BTreeMap<String, SnapshotState>),
}

impl Volume {
    fn snapshots(&mut self) -> &mut BTreeMap<String, SnapshotState> {
        match self {
            Volume::Present(_, ready) => &mut ready.snapshots,
            Volume::Deleting(snapshots) => snapshots,
        }
    }
}

const ASKED: SnapshotState = SnapshotState::Pending { cut: true, done: 0, total: 0 };

impl Volumes {
    pub(super) fn new(cut: Cut) -> Self {
        Volumes { inner: Mutex::default(), cut, cuts: OnceLock::new() }
    }

    /// Makes `spec` so; whether anything changed.
    pub(super) fn apply(self: &Arc<Self>, spec: Spec, listener: &Arc<OnceLock<Listener>>) -> bool {
        let mut inner = locked(&self.inner);
        let Inner { volumes, early, finished, .. } = &mut *inner;
        let id = spec.id.as_str();
        // Nothing here may look at every machine or volume: thousands are launched a second.
        let (mut snapshots, attached) = match volumes.get_mut(id) {
            Some(Volume::Present(known, _)) if **known == spec => return false,
            Some(Volume::Present(_, ready)) => {
                (std::mem::take(&mut ready.snapshots), std::mem::take(&mut ready.attached))
            }
            Some(Volume::Deleting(snapshots)) => (std::mem::take(snapshots), Vec::new()),
            None => (BTreeMap::new(), early.remove(id).unwrap_or_default()),
        };
        snapshots.retain(|id, _| {
            let wanted = spec.snapshots.iter().any(|wanted| wanted.id == *id);
            if !wanted {
                finished.remove(id);
            }
            wanted
        });
        for wanted in &spec.snapshots {
            if !snapshots.contains_key(&wanted.id) {
                snapshots.insert(wanted.id.clone(), ASKED);
                self.ask(Box::new(spec.clone()), wanted.clone(), listener);
            }
        }
        let volume = match spec.wanted {
            Wanted::Deleted => Volume::Deleting(snapshots),
            Wanted::Present => {
                let bursts = [spec.limits.operations, spec.limits.bytes];
                let bursts = bursts.iter().flatten().any(|rate| rate.burst.is_some());
                let ready = Ready {
                    size_gib: spec.size_gib,
                    limits: spec.limits,
                    attached,
                    filled_percent: 100,
                    burst_balance: bursts.then_some(100.0),
                    impaired: None,
                    snapshots,
                };
                Volume::Present(Box::new(spec.clone()), ready)
            }
        };
        volumes.insert(spec.id.as_str().into(), volume);
        true
    }

    fn ask(
        self: &Arc<Self>,
        spec: Box<Spec>,
        snapshot: Snapshot,
        listener: &Arc<OnceLock<Listener>>,
    ) {
        let queue = self.cuts.get_or_init(|| {
            let (sender, receiver) = mpsc::channel();
            let (volumes, listener) = (Arc::downgrade(self), Arc::clone(listener));
            let cutter = std::thread::Builder::new().name("sim-snapshots".to_owned());
            if let Err(error) = cutter.spawn(move || take(&volumes, &listener, &receiver)) {
                tracing::error!(%error, "simulated snapshots will not complete");
            }
            sender
        });
        // Fails only if the thread could not be made, which was reported then.
        let _ = queue.send((spec, snapshot));
    }

    pub(super) fn state(&self, id: &str) -> State {
        match locked(&self.inner).volumes.get(id) {
            None => State::Absent,
            Some(Volume::Present(_, ready)) => State::Ready(ready.clone()),
            Some(Volume::Deleting(snapshots))
                if snapshots.values().any(|s| matches!(s, SnapshotState::Pending { .. })) =>
            {
                State::Deleting { snapshots: snapshots.clone() }
            }
            Some(Volume::Deleting(_)) => State::Gone,
        }
    }

    pub(super) fn forget(&self, id: &str) {
        let mut inner = locked(&self.inner);
        if matches!(inner.volumes.get(id), Some(Volume::Deleting(_))) {
            inner.volumes.remove(id);
        }
    }

    /// Gives a machine these volumes and no others; returns those for which that is new.
    pub(super) fn attach<'a>(
        &self,
        machine: &str,
        wanted: impl Iterator<Item = &'a str>,
    ) -> Vec<String> {
        let wanted: Vec<Box<str>> = wanted.map(Box::from).collect();
        let mut inner = locked(&self.inner);
        let Inner { volumes, machines, early, .. } = &mut *inner;
        let before = match wanted.is_empty() {
            true => machines.remove(machine),
            false => machines.insert(machine.into(), wanted.clone()),
        };
        // Whoever waits for a volume of a machine that was not up asks again after telling it.
        let is_new = before.is_none();
        let before = before.unwrap_or_default();
        let mut changed = Vec::new();
        for id in before.iter().filter(|id| !wanted.contains(id)) {
            if let Some(Volume::Present(_, ready)) = volumes.get_mut(id) {
                ready.attached.retain(|holder| holder != machine);
                changed.push(id.to_string());
            } else if let Some(holders) = early.get_mut(id) {
                holders.retain(|holder| holder != machine);
                if holders.is_empty() {
                    early.remove(id);
                }
            }
        }
        for id in wanted.iter().filter(|id| !before.contains(id)) {
            if let Some(Volume::Present(_, ready)) = volumes.get_mut(id) {
                ready.attached.push(machine.to_owned());
                if !is_new {
                    changed.push(id.to_string());
                }
            } else {
                early.entry(id.clone()).or_default().push(machine.to_owned());
            }
        }
        changed
    }
}

/// Takes snapshots until the driver is dropped.
fn take(
    volumes: &Weak<Volumes>,
    listener: &OnceLock<Listener>,
    asked: &mpsc::Receiver<(Box<Spec>, Snapshot)>,
) {
    for (spec, snapshot) in asked {
        let Some(volumes) = volumes.upgrade() else { return };
        let (state, finished) = (volumes.cut)(&spec);
        let mut inner = locked(&volumes.inner);
        if let Some(volume) = inner.volumes.get_mut(spec.id.as_str())
            && let Some(known) = volume.snapshots().get_mut(&snapshot.id)
        {
            *known = state;
            inner.finished.extend(finished.map(|finished| (snapshot.id, finished)));
        }
        drop(inner);
        if let Some(listener) = listener.get() {
            listener(&spec.id);
        }
    }
}
