//! A fresh store of each kind, with a clock that the test moves.

use base::Clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use store::{Error, Event, Op, Options, Revision, Store, Txn, TxnResult, Watch};
use tempfile::TempDir;

/// Longer than anything here takes; reached only by a failure.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Backend {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) now: Arc<AtomicI64>,
    /// Where the files are, if there are any.
    pub(crate) directory: Option<TempDir>,
}

/// Options with small limits, so that a test reaches them.
pub(crate) fn options(now: &Arc<AtomicI64>) -> Options {
    Options {
        clock: Clock::Manual(Arc::clone(now)),
        log_events: 1_000,
        log_bytes: 64 << 10,
        segment_bytes: 16 << 10,
    }
}

impl Backend {
    pub(crate) fn memory() -> Self {
        let now = Arc::new(AtomicI64::new(1_000_000));
        Backend { store: store::memory_with(&options(&now)), now, directory: None }
    }

    pub(crate) fn redb() -> Self {
        let now = Arc::new(AtomicI64::new(1_000_000));
        let directory = tempfile::tempdir().unwrap();
        let store = store::redb_with(directory.path(), &options(&now)).unwrap();
        Backend { store, now, directory: Some(directory) }
    }

    pub(crate) fn advance(&self, by: Duration) {
        let millis = i64::try_from(by.as_millis()).unwrap();
        self.now.fetch_add(millis, Ordering::SeqCst);
    }

    /// Closes the store and opens it again.
    pub(crate) fn reopened(self) -> Self {
        let Backend { store, now, directory } = self;
        drop(store);
        let path = directory.as_ref().unwrap().path();
        let store = store::redb_with(path, &options(&now)).unwrap();
        Backend { store, now, directory }
    }

    pub(crate) async fn txn(&self, txn: Txn) -> Result<TxnResult, Error> {
        tokio::time::timeout(DEADLINE, self.store.txn(txn)).await.expect("an answer in time")
    }

    /// Writes unconditionally; the revision.
    pub(crate) async fn write(&self, ops: Vec<Op>) -> Revision {
        self.txn(Txn::write(ops)).await.unwrap().revision
    }

    pub(crate) async fn put(&self, key: &str, value: &str) -> Revision {
        self.write(vec![Op::put_bytes(key, value)]).await
    }

    pub(crate) fn value(&self, key: &str) -> Option<String> {
        let entry = self.store.snapshot().get(key)?;
        Some(String::from_utf8(entry.value().to_vec()).unwrap())
    }

    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        self.store.snapshot().scan(prefix).map(|e| e.key().to_owned()).collect()
    }
}

pub(crate) async fn next(watch: &mut Watch) -> Option<Vec<Event>> {
    tokio::time::timeout(DEADLINE, watch.next()).await.expect("events in time")
}

/// Reads until the watch has told of `last`.
pub(crate) async fn events_until(watch: &mut Watch, last: Revision) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    while events.last().is_none_or(|e| e.revision < last) {
        events.extend(next(watch).await.expect("the watch goes on"));
    }
    events
}

/// Makes a test of each function on each backend.
macro_rules! on_every_backend {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[test] fn $name() {
                $crate::backend::block_on(super::$name($crate::backend::Backend::memory()));
            })*
        }
        mod redb {
            $(#[test] fn $name() {
                $crate::backend::block_on(super::$name($crate::backend::Backend::redb()));
            })*
        }
    };
}
pub(crate) use on_every_backend;

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
