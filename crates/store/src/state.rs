//! The state machine: what a transaction does to the map. Pure; durability is someone else's.
//!
//! All parts are persistent maps, so a copy is constant time and going back after a failed write
//! is an assignment.

use crate::record::{KeyValue, Snapshot, Version, scan};
use crate::txn::{Compare, Op, Txn, TxnResult};
use crate::watch::{Commit, Event};
use crate::{Error, LeaseId, Revision};
use imbl::{OrdMap, OrdSet};
use std::ops::Bound;
use std::sync::{Arc, OnceLock};

/// A lease that is alive.
#[derive(Clone, Default)]
pub(crate) struct Lease {
    pub(crate) ttl_seconds: u64,
    /// The keys that go with it.
    pub(crate) keys: OrdSet<Arc<str>>,
}

/// Everything that survives a restart.
#[derive(Clone, Default)]
pub(crate) struct State {
    pub(crate) snapshot: Snapshot,
    pub(crate) leases: OrdMap<LeaseId, Lease>,
    /// The number of the last lease that was granted; never reused.
    pub(crate) last_lease: u64,
}

/// One durable step. A batch of them is written with one fsync.
#[derive(Clone)]
pub(crate) enum Step {
    /// A transaction changed keys.
    Commit(Arc<Commit>),
    /// A lease was granted.
    Grant(LeaseId, u64),
    /// A lease is gone; its keys went with a commit before.
    Revoke(LeaseId),
}

impl State {
    /// Judges the compares and runs a branch. The commit is `None` if nothing changed.
    pub(crate) fn run(&mut self, txn: Txn) -> Result<(TxnResult, Option<Arc<Commit>>), Error> {
        let succeeded = txn.compares.iter().all(|c: &Compare| c.holds(&self.snapshot));
        let commit = self.apply(if succeeded { txn.success } else { txn.failure })?;
        Ok((TxnResult { succeeded, revision: self.snapshot.revision }, commit))
    }

    fn apply(&mut self, ops: Vec<Op>) -> Result<Option<Arc<Commit>>, Error> {
        // All that can fail comes before the first change.
        for op in &ops {
            if let Op::Put { lease: Some(id), .. } = op
                && !self.leases.contains_key(id)
            {
                return Err(Error::LeaseNotFound(*id));
            }
        }
        let revision = self.snapshot.revision + 1;
        let mut events = Vec::with_capacity(ops.len());
        for op in ops {
            match op {
                Op::Put { key, value, lease, decoded } => {
                    let before = self.snapshot.entries.get(key.as_str());
                    let key = before.map_or_else(|| key.into(), |e| Arc::clone(e.shared_key()));
                    let entry = KeyValue::new(Version {
                        key,
                        value: value.into_boxed_slice(),
                        create_revision: before.map_or(revision, KeyValue::create_revision),
                        mod_revision: revision,
                        version: before.map_or(0, KeyValue::version) + 1,
                        lease,
                        decoded: decoded.map_or_else(OnceLock::new, OnceLock::from),
                    });
                    events.push(self.put(entry));
                }
                Op::Delete { key } => events.extend(self.delete(&key, revision)),
                Op::DeletePrefix { prefix } => {
                    let start = Bound::Included(prefix.as_str());
                    let doomed: Vec<Arc<str>> = scan(&self.snapshot.entries, &prefix, start)
                        .map(|entry| Arc::clone(entry.shared_key()))
                        .collect();
                    events.extend(doomed.iter().filter_map(|key| self.delete(key, revision)));
                }
            }
        }
        if events.is_empty() {
            return Ok(None);
        }
        self.snapshot.revision = revision;
        Ok(Some(Arc::new(Commit { revision, events })))
    }

    /// Writes a finished version; also how the journal is replayed.
    pub(crate) fn put(&mut self, entry: KeyValue) -> Event {
        let key = Arc::clone(entry.shared_key());
        let previous = self.snapshot.entries.insert(Arc::clone(&key), entry.clone());
        let before = previous.as_ref().and_then(KeyValue::lease);
        if before != entry.lease() {
            self.detach(before, &key);
            if let Some(lease) = entry.lease().and_then(|id| self.leases.get_mut(&id)) {
                lease.keys.insert(Arc::clone(&key));
            }
        }
        Event { revision: entry.mod_revision(), key, value: Some(entry), previous }
    }

    /// Removes a key, if it exists; also how the journal is replayed.
    pub(crate) fn delete(&mut self, key: &str, revision: Revision) -> Option<Event> {
        let previous = self.snapshot.entries.remove(key)?;
        self.detach(previous.lease(), key);
        let key = Arc::clone(previous.shared_key());
        Some(Event { revision, key, value: None, previous: Some(previous) })
    }

    fn detach(&mut self, lease: Option<LeaseId>, key: &str) {
        if let Some(lease) = lease.and_then(|id| self.leases.get_mut(&id)) {
            lease.keys.remove(key);
        }
    }

    /// Makes a lease.
    pub(crate) fn grant(&mut self, ttl_seconds: u64) -> LeaseId {
        let id = LeaseId(self.last_lease + 1);
        self.insert_lease(id, ttl_seconds);
        id
    }

    /// Makes a lease that was granted before: on loading.
    pub(crate) fn insert_lease(&mut self, id: LeaseId, ttl_seconds: u64) {
        self.leases.insert(id, Lease { ttl_seconds, keys: OrdSet::new() });
        self.last_lease = self.last_lease.max(id.0);
    }

    /// Ends a lease and deletes its keys in one commit; `None` if there were no keys.
    pub(crate) fn revoke(&mut self, id: LeaseId) -> Result<Option<Arc<Commit>>, Error> {
        let lease = self.leases.get(&id).ok_or(Error::LeaseNotFound(id))?;
        let keys = lease.keys.iter();
        let ops = keys.map(|key| Op::Delete { key: key.to_string() }).collect();
        let commit = self.apply(ops)?;
        self.leases.remove(&id);
        Ok(commit)
    }
}
