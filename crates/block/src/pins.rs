//! What must not be collected although no record names it yet.
//!
//! An upload pins every blob that it puts or finds *before* it looks whether the store has it, and
//! the root of its parent, whose blocks it shares. The pins last until the result is recorded, and
//! are dropped then. A pass of the collection ([`crate::collect`]) reads the records while uploads
//! go on, so a pin that is released during a pass counts until the pass ends: whatever was pinned
//! at any time of the pass stays.
//!
//! ```text
//!             pin                    release, no pass
//!   absent ────────► held ─────────────────────────────► absent
//!                     ▲ │ release during a pass             ▲
//!                 pin │ ▼                                   │
//!                   retired ───────── end of the pass ──────┘
//! ```
//!
//! Deleting and pinning one blob exclude each other: [`Pins::delete_unless_pinned`].

use crate::blob::{Id, Result};
use crate::sync::lock;
use std::collections::{HashMap, HashSet};
use std::mem;
use std::sync::{Arc, Mutex};

/// Locks to share the load of many threads, by the first byte of a name.
const SHARDS: usize = 64;

/// The pins of one store. In memory: a process that dies has no uploads.
#[derive(Debug)]
pub(crate) struct Pins {
    blobs: Vec<Mutex<Shard>>,
    roots: Mutex<Shard>,
}

#[derive(Debug, Default)]
struct Shard {
    held: HashMap<Id, u32>,
    /// Released during the pass that runs.
    retired: HashSet<Id>,
    pass: bool,
}

impl Shard {
    fn release(&mut self, id: Id) {
        let Some(count) = self.held.get_mut(&id) else { return };
        *count -= 1;
        if *count == 0 {
            self.held.remove(&id);
            if self.pass {
                self.retired.insert(id);
            }
        }
    }

    fn has(&self, id: Id) -> bool {
        self.held.contains_key(&id) || self.retired.contains(&id)
    }
}

impl Pins {
    pub(crate) fn new() -> Self {
        Pins { blobs: (0..SHARDS).map(|_| Mutex::default()).collect(), roots: Mutex::default() }
    }

    fn shard(&self, id: Id) -> &Mutex<Shard> {
        &self.blobs[usize::from(id.0[0]) % SHARDS]
    }

    fn every_shard(&self) -> impl Iterator<Item = &Mutex<Shard>> {
        self.blobs.iter().chain([&self.roots])
    }

    /// A pass begins; it ends when the guard is dropped. One at a time, which the caller sees to.
    pub(crate) fn begin_pass(&self) -> Pass<'_> {
        for shard in self.every_shard() {
            lock(shard).pass = true;
        }
        Pass(self)
    }

    /// Calls `delete` unless the blob is pinned; nobody can pin it before that has returned. Gives
    /// whether it was called.
    pub(crate) fn delete_unless_pinned(
        &self,
        id: Id,
        delete: impl FnOnce() -> Result<()>,
    ) -> Result<bool> {
        let shard = lock(self.shard(id));
        if shard.has(id) {
            return Ok(false);
        }
        delete()?;
        drop(shard);
        Ok(true)
    }
}

/// A pass that runs.
#[derive(Debug)]
pub(crate) struct Pass<'a>(&'a Pins);

impl Pass<'_> {
    /// Roots that are or were pinned since the pass began.
    pub(crate) fn roots(&self) -> Vec<Id> {
        let roots = lock(&self.0.roots);
        roots.held.keys().chain(&roots.retired).copied().collect()
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        for shard in self.0.every_shard() {
            let mut shard = lock(shard);
            shard.pass = false;
            drop(mem::take(&mut shard.retired));
        }
    }
}

/// Pins that are released when this is dropped.
#[derive(Debug)]
pub struct Pinned {
    pins: Arc<Pins>,
    blobs: Mutex<HashSet<Id>>,
    roots: Mutex<HashSet<Id>>,
}

impl Pinned {
    pub(crate) fn new(pins: Arc<Pins>) -> Self {
        Pinned { pins, blobs: Mutex::default(), roots: Mutex::default() }
    }

    /// Pins a blob.
    pub(crate) fn blob(&self, id: Id) {
        if lock(&self.blobs).insert(id) {
            *lock(self.pins.shard(id)).held.entry(id).or_default() += 1;
        }
    }

    /// Pins a tree with all that it refers to. Something else must keep it when this is called.
    pub(crate) fn root(&self, id: Id) {
        if lock(&self.roots).insert(id) {
            *lock(&self.pins.roots).held.entry(id).or_default() += 1;
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        for id in lock(&self.blobs).drain() {
            lock(self.pins.shard(id)).release(id);
        }
        for id in lock(&self.roots).drain() {
            lock(&self.pins.roots).release(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_deleted(pins: &Pins, id: Id) -> bool {
        pins.delete_unless_pinned(id, || Ok(())).unwrap()
    }

    #[test]
    fn a_pin_counts_until_released_and_in_a_pass_until_its_end() {
        let pins = Arc::new(Pins::new());
        let id = Id::of(b"a");
        let (first, second) = (Pinned::new(Arc::clone(&pins)), Pinned::new(Arc::clone(&pins)));
        assert!(is_deleted(&pins, id));
        first.blob(id);
        first.blob(id);
        second.blob(id);
        drop(first);
        assert!(!is_deleted(&pins, id));
        let pass = pins.begin_pass();
        drop(second);
        assert!(!is_deleted(&pins, id), "released during the pass");
        drop(pass);
        assert!(is_deleted(&pins, id));
    }

    #[test]
    fn roots_released_during_a_pass_are_still_walked() {
        let pins = Arc::new(Pins::new());
        let (before, during) = (Id::of(b"before"), Id::of(b"during"));
        let held = Pinned::new(Arc::clone(&pins));
        held.root(before);
        drop(held);
        let pass = pins.begin_pass();
        assert!(pass.roots().is_empty());
        let held = Pinned::new(Arc::clone(&pins));
        held.root(during);
        assert_eq!(pass.roots(), [during]);
        drop(held);
        assert_eq!(pass.roots(), [during]);
        drop(pass);
        assert!(pins.begin_pass().roots().is_empty());
    }
}
