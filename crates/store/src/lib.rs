//! The store: one ordered, versioned, watchable map from keys to JSON records. The semantics are
//! etcd's, the strongest that every backend can give:
//!
//! - One global revision. A transaction that changes something adds one to it; one that changes
//!   nothing (its branch is empty, or deletes what is not there) does not.
//! - A [`Txn`] compares, then writes, all in one instant and at one revision. Transactions are
//!   linearizable: each takes effect at one moment between its call and its answer.
//! - Acknowledged means durable: the future of [`Store::txn`] resolves after the fsync, and a
//!   [`Snapshot`] shows only what would survive the loss of power. A snapshot taken after the answer
//!   includes the write.
//! - A [`Watch`] tells every change from a revision on, in whole revisions, without gaps; or it says
//!   that it cannot, and the caller lists again.
//! - A lease deletes its keys when its holder is silent for too long. Leases survive a restart and
//!   their time starts again, as in etcd.
//!
//! All reads come from an immutable snapshot in memory and block nobody; there is one writer, which
//! commits in groups. [`memory`] and [`redb`] give the backends; one conformance suite (`tests/`)
//! runs on both.
//!
//! Not here: metrics, logs, messages, objects, console output. They are append-only files owned by
//! one node. Nor does the store know what a record means: it keeps the typed record beside its JSON
//! ([`Op::put_record`], [`KeyValue::decode`]) and does not look inside.

#![forbid(unsafe_code)]

mod checksum;
mod disk;
mod durable;
mod encoding;
mod engine;
mod error;
#[cfg(test)]
mod faults;
mod journal;
mod record;
mod state;
mod txn;
mod watch;

pub use error::Error;
pub use record::{Decoded, KeyValue, Snapshot};
pub use txn::{Compare, MAX_OPS, MAX_TXN_BYTES, Op, Txn, TxnResult};
pub use watch::{Event, Watch};

use base::Clock;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// The number of a change of the whole store. 0 is before the first.
pub type Revision = u64;

/// A boxed future, as a trait object's methods return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The name of a lease. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One map for all; see the crate's documentation for what it promises.
pub trait Store: Send + Sync + fmt::Debug {
    /// Everything, now. Constant time; never waits for a write.
    fn snapshot(&self) -> Snapshot;

    /// Runs a transaction. Resolves when it is durable. Nothing is sent before the first poll;
    /// dropping the future after it leaves open whether the transaction happens.
    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<TxnResult, Error>>;

    /// The changes of the keys that start with `prefix`, of revision `from` and later; 0 means from
    /// now on. A reader lists a snapshot, then watches from its revision + 1.
    fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error>;

    /// Makes a lease that ends `ttl` (rounded up to seconds, at least one) after its last
    /// [`keep_alive`](Self::keep_alive).
    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, Error>>;

    /// Starts the lease's time again; answers with its length.
    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<Duration, Error>>;

    /// Ends the lease and deletes its keys in one transaction.
    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), Error>>;

    /// Forgets the changes before `revision`; a watch can then start at `revision` at the earliest.
    /// The backends here also forget by themselves, so nobody has to call this.
    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), Error>>;
}

/// What can be chosen about a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// What leases are measured with. The wall clock, unless a test moves it.
    pub clock: Clock,
    /// How many events watches can be behind before they have to list again.
    pub log_events: usize,
    /// How many bytes of replaced values the change log may keep alive.
    pub log_bytes: usize,
    /// The size of a journal segment, in bytes. Two to six of them are on the disk.
    pub segment_bytes: u64,
}

impl Options {
    /// What a region runs with.
    pub fn standard() -> Self {
        Options {
            clock: Clock::wall(),
            log_events: 32_768,
            log_bytes: 8 << 20,
            segment_bytes: 8 << 20,
        }
    }
}

/// A store that lasts as long as the process.
pub fn memory() -> Arc<dyn Store> {
    memory_with(&Options::standard())
}

/// [`memory`] with other options.
///
/// # Panics
/// If the system cannot start a thread.
pub fn memory_with(options: &Options) -> Arc<dyn Store> {
    let engine = engine::Engine::start(state::State::default(), engine::Volatile, options);
    Arc::new(engine.expect("a process that cannot start a thread can do nothing else either"))
}

/// Opens the store in the directory `path`, which is made if it is missing.
pub fn redb(path: &Path) -> Result<Arc<dyn Store>, Error> {
    redb_with(path, &Options::standard())
}

/// [`redb`] with other options.
pub fn redb_with(path: &Path, options: &Options) -> Result<Arc<dyn Store>, Error> {
    Ok(Arc::new(durable::open(path, options)?))
}
