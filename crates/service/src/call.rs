//! One request in the making: a snapshot to read, and the transaction that the handler builds.
//!
//! A handler is a synchronous function of its [`Call`] and its input. It reads records, stages
//! writes and returns an answer; the dispatcher commits the staged writes as ONE transaction and
//! answers after it is durable. Everything that [`Call::get`] read and everything written is
//! compared with the snapshot at commit; when another request was faster, the handler runs again
//! on a newer snapshot. So a handler never sees a race, and must have no effect but its staging.
//!
//! Reconcilers use the same type.

use crate::error::Error;
use crate::identity::Identity;
use base::Timestamp;
use base::machine::{Driver, Spec};
use base::volume;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::mem;
use std::sync::Arc;
use store::{Compare, KeyValue, Op, Revision, Snapshot, Txn};

/// What handlers may know of the region beside its records. Fixed while the daemon runs.
pub struct Environment {
    /// The account that the root access key belongs to, 12 digits.
    pub account_id: String,
    /// Where public addresses come from.
    pub public_pool: base::Ipv4Cidr,
    /// Runs the machines. Handlers only read from it (console output); reconcilers drive it.
    pub driver: Arc<dyn Driver>,
    /// The region's clock.
    pub clock: base::Clock,
    /// Master keys.
    pub keys: Arc<dyn base::key::Keys>,
    /// Blocks of snapshots, for the EBS direct APIs.
    pub blocks: Arc<dyn base::volume::Blocks>,
    /// What services ask of each other.
    pub services: crate::invoke::Table,
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("account_id", &self.account_id)
            .field("public_pool", &self.public_pool)
            .field("driver", &self.driver.name())
            .finish_non_exhaustive()
    }
}

/// A value kept in the store as JSON.
pub trait Record: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {}

impl<T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> Record for T {}

/// A request in the making.
pub struct Call<'a> {
    /// The region's time at which the request is judged.
    pub now: Timestamp,
    /// Region name, such as `us-east-1`.
    pub region: &'a str,
    /// Who asks.
    pub identity: &'a Identity,
    /// The request id that the answer carries.
    pub request_id: &'a str,
    /// Randomness for identifiers and choices.
    pub rng: fastrand::Rng,
    /// The region's fixed facts.
    pub environment: &'a Environment,
    snapshot: Snapshot,
    reads: BTreeMap<String, Revision>,
    /// Prefixes below which nothing may be newer than the snapshot.
    ranges: BTreeSet<String>,
    writes: BTreeMap<String, Op>,
    effects: Vec<Effect>,
    /// [`Call::applied`].
    applied: Option<u64>,
    /// A record that has no JSON form: the transaction must not be committed without it.
    unwritable: Option<Error>,
    /// What the caller is told although the transaction is committed.
    partial: Option<Error>,
    /// What the answer waits for.
    awaited: Vec<Awaited>,
}

/// A record that an answer waits for: its key, and whether it is as it should be.
#[derive(Clone, Debug)]
pub struct Awaited {
    /// The record's key.
    pub key: String,
    /// Whether the wait is over; asked with the record as it is, `None` when there is none.
    pub until: fn(Option<&KeyValue>) -> bool,
}

/// What happens after the transaction is durable. Only reconcilers stage effects.
#[derive(Debug)]
pub enum Effect {
    /// Hand a machine's wanted state to the driver. The fingerprint of what the spec was made of,
    /// if there is one, is what [`Call::applied`] says from then on.
    Apply(Box<Spec>, Option<u64>),
    /// Let the driver forget a machine that is gone.
    Forget(String),
    /// Hand a volume's wanted state to the driver; the fingerprint is as for a machine. From then
    /// on what the driver announces of the volume wakes this key.
    Volume(Box<volume::Spec>, Option<u64>),
    /// Let the driver forget a volume that is gone.
    ForgetVolume(String),
    /// Hand a task to the driver. From then on what it announces of the task wakes this key.
    Task(Box<volume::Task>),
    /// Let the driver end and forget a task.
    ForgetTask(String),
    /// Wake this key too when the driver announces this machine, volume or task. When it did not
    /// listen before, it runs once more, so that nothing announced in between is lost.
    Listen(String),
    /// Listen no longer.
    Unlisten(String),
    /// Listen to nothing any more: what the key was about is gone.
    UnlistenAll,
    /// Hand the wanted network to the driver.
    Network(Box<base::network::Plan>),
    /// Run the reconciler for this key again at this time of the region.
    Again(Timestamp),
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("region", &self.region)
            .field("request_id", &self.request_id)
            .field("revision", &self.snapshot.revision())
            .finish_non_exhaustive()
    }
}

impl<'a> Call<'a> {
    /// A call on `snapshot` with nothing staged.
    pub fn new(
        environment: &'a Environment,
        snapshot: Snapshot,
        region: &'a str,
        identity: &'a Identity,
        request_id: &'a str,
    ) -> Self {
        Call {
            now: environment.clock.now(),
            region,
            identity,
            request_id,
            rng: fastrand::Rng::new(),
            environment,
            snapshot,
            reads: BTreeMap::new(),
            ranges: BTreeSet::new(),
            writes: BTreeMap::new(),
            effects: Vec::new(),
            applied: None,
            unwritable: None,
            partial: None,
            awaited: Vec::new(),
        }
    }

    /// The account whose resources the request is about, 12 digits.
    pub fn account(&self) -> &'a str {
        &self.identity.account_id
    }

    /// The state that this call reads, without what it staged itself.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// A new resource id, such as `i-0123456789abcdef0` for prefix `i`.
    pub fn new_id(&mut self, prefix: &str) -> String {
        base::id::generate(prefix, &mut self.rng)
    }

    /// Reads a record and makes the commit depend on it staying as it is. Staged writes are seen.
    ///
    /// # Errors
    /// The stored value is not a `T`: an internal error.
    pub fn get<T: Record>(&mut self, key: &str) -> Result<Option<Arc<T>>, Error> {
        match self.writes.get(key) {
            Some(Op::Delete { .. }) => return Ok(None),
            Some(Op::Put { value, decoded, .. }) => {
                if let Some(typed) =
                    decoded.as_ref().and_then(|any| Arc::clone(any).downcast::<T>().ok())
                {
                    return Ok(Some(typed));
                }
                return serde_json::from_slice(value)
                    .map(|record| Some(Arc::new(record)))
                    .map_err(|e| Error::internal(format!("record {key}: {e}")));
            }
            _ => {}
        }
        let found = self.snapshot.get(key);
        self.depend_on(key, found.as_ref());
        found.map(|kv| decode(&kv)).transpose()
    }

    /// Whether a key exists, the commit depending on it staying so.
    pub fn exists(&mut self, key: &str) -> bool {
        match self.writes.get(key) {
            Some(Op::Delete { .. }) => false,
            Some(_) => true,
            None => {
                let found = self.snapshot.get(key);
                self.depend_on(key, found.as_ref());
                found.is_some()
            }
        }
    }

    fn depend_on(&mut self, key: &str, found: Option<&KeyValue>) {
        if !self.reads.contains_key(key) {
            self.reads.insert(key.to_owned(), found.map_or(0, KeyValue::mod_revision));
        }
    }

    /// Reads a record of the snapshot without making the commit depend on it: for describing.
    ///
    /// # Errors
    /// The stored value is not a `T`.
    pub fn peek<T: Record>(&self, key: &str) -> Result<Option<Arc<T>>, Error> {
        self.snapshot.get(key).map(|kv| decode(&kv)).transpose()
    }

    /// Every record under a prefix in key order, as the snapshot has them; staged writes are not
    /// seen, and the commit does not depend on the result.
    ///
    /// # Errors
    /// A stored value is not a `T`.
    pub fn scan<T: Record>(&self, prefix: &str) -> Result<Vec<Arc<T>>, Error> {
        self.snapshot.scan(prefix).map(|kv| decode(&kv)).collect()
    }

    /// [`scan`](Self::scan), the commit depending on no record being added or changed there: for a
    /// deletion that is refused while something hangs on what is to go.
    ///
    /// # Errors
    /// A stored value is not a `T`.
    pub fn get_all<T: Record>(&mut self, prefix: &str) -> Result<Vec<Arc<T>>, Error> {
        self.ranges.insert(prefix.to_owned());
        self.scan(prefix)
    }

    /// Stages a record: created or replaced, provided that the key is still as in the snapshot.
    pub fn put<T: Record>(&mut self, key: &str, record: T) -> Arc<T> {
        let found = self.snapshot.get(key);
        self.depend_on(key, found.as_ref());
        let record = Arc::new(record);
        match Op::put_record(key, Arc::clone(&record)) {
            Ok(op) => {
                self.writes.insert(key.to_owned(), op);
            }
            Err(error) => self.unwritable = Some(Error::internal(error)),
        }
        record
    }

    /// Stages a deletion.
    pub fn delete(&mut self, key: &str) {
        let found = self.snapshot.get(key);
        self.depend_on(key, found.as_ref());
        self.writes.insert(key.to_owned(), Op::Delete { key: key.to_owned() });
    }

    /// Tells a reconciler's call what [`Call::applied`] is to say.
    pub fn set_applied(&mut self, fingerprint: Option<u64>) {
        self.applied = fingerprint;
    }

    /// Fingerprint of the spec that this key's reconciler handed to the driver last; `None` after a
    /// start of the daemon. So a reconciler that finds it unchanged, and the machine as it should
    /// be, need not hand it over again.
    pub fn applied(&self) -> Option<u64> {
        self.applied
    }

    /// A call of another principal inside this one, possibly in another region: it sees what is
    /// staged, and what it stages is staged here unless `work` refuses altogether.
    pub(crate) fn nested<T>(
        &mut self,
        identity: &Identity,
        region: &str,
        work: impl FnOnce(&mut Call<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let before = self.writes.clone();
        let mut inner = Call {
            now: self.now,
            rng: self.rng.fork(),
            reads: mem::take(&mut self.reads),
            ranges: mem::take(&mut self.ranges),
            writes: mem::take(&mut self.writes),
            effects: mem::take(&mut self.effects),
            unwritable: self.unwritable.take(),
            ..Call::new(self.environment, self.snapshot.clone(), region, identity, self.request_id)
        };
        let result = work(&mut inner);
        self.reads = inner.reads;
        self.ranges = inner.ranges;
        self.writes = inner.writes;
        self.effects = inner.effects;
        self.unwritable = inner.unwritable;
        match (result, inner.partial) {
            (Ok(_), Some(refusal)) => Err(refusal),
            (Ok(done), None) => Ok(done),
            (Err(refusal), _) => {
                self.writes = before;
                Err(refusal)
            }
        }
    }

    /// Stages an effect that happens after the commit.
    pub fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Refuses the request with `error` after what is staged was committed: for the few operations
    /// of AWS that report a failure and have done a part nevertheless.
    pub fn refuse_partly(&mut self, error: Error) {
        self.partial = Some(error);
    }

    /// The refusal of [`Call::refuse_partly`].
    pub fn partial_refusal(&mut self) -> Option<Error> {
        self.partial.take()
    }

    /// Holds the answer back after the commit until `until` says yes to the record at `key`, for a
    /// few seconds at most: for what AWS has done when it answers, although a reconciler does it.
    /// The answer itself is what the handler returned.
    pub fn answer_when(&mut self, key: &str, until: fn(Option<&KeyValue>) -> bool) {
        self.awaited.push(Awaited { key: key.to_owned(), until });
    }

    /// What [`Call::answer_when`] was told.
    pub fn awaited(&mut self) -> Vec<Awaited> {
        std::mem::take(&mut self.awaited)
    }

    /// Whether nothing is staged.
    pub fn is_read_only(&self) -> bool {
        self.writes.is_empty() && self.unwritable.is_none()
    }

    /// The staged transaction and the effects that follow it.
    ///
    /// # Errors
    /// A staged record has no JSON form: an internal error.
    pub fn into_parts(self) -> Result<(Txn, Vec<Effect>), Error> {
        if let Some(error) = self.unwritable {
            return Err(error);
        }
        let than = self.snapshot.revision();
        let ranges = self.ranges.into_iter();
        let compares = ranges
            .map(|prefix| Compare::NothingNewer { prefix, than })
            .chain(self.reads.into_iter().map(|(key, is)| Compare::ModRevision { key, is }))
            .collect();
        let txn =
            Txn { compares, success: self.writes.into_values().collect(), failure: Vec::new() };
        Ok((txn, self.effects))
    }
}

fn decode<T: Record>(kv: &KeyValue) -> Result<Arc<T>, Error> {
    kv.decode().map_err(|e| Error::internal(format!("record {}: {e}", kv.key())))
}
