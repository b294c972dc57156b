//! The whole backend on a journal that fails.

use super::*;
use crate::faults::{Fault, FaultyDisk};
use crate::txn::{Op, Txn, TxnResult};
use crate::{Revision, Store};
use tempfile::TempDir;

struct Fixture {
    directory: TempDir,
    disk: FaultyDisk,
    runtime: tokio::runtime::Runtime,
}

impl Fixture {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let directory = tempfile::tempdir().unwrap();
        Fixture { directory, disk: FaultyDisk::default(), runtime }
    }

    fn open(&self) -> Engine {
        let checkpoint = Checkpoint::open(self.directory.path().join("state.redb")).unwrap();
        let lock = lock(self.directory.path()).unwrap();
        let options = Options { segment_bytes: 4096, ..Options::standard() };
        open_on(checkpoint, Arc::new(self.disk.clone()), lock, &options).unwrap()
    }

    fn put(&self, store: &Engine, key: &str, value: &str) -> Result<TxnResult, Error> {
        self.runtime.block_on(store.txn(Txn::write(vec![Op::put_bytes(key, value)])))
    }
}

fn content(store: &Engine) -> (Revision, Vec<crate::KeyValue>) {
    let snapshot = store.snapshot();
    (snapshot.revision(), snapshot.scan("").collect())
}

#[test]
fn a_failed_batch_leaves_no_trace_and_the_next_one_succeeds() {
    let fixture = Fixture::new();
    let mut store = fixture.open();
    fixture.put(&store, "a", "1").unwrap();
    for fault in [Fault::Sync, Fault::Write, Fault::Sync, Fault::Write] {
        let before = content(&store);
        let mut watch = store.watch("", before.0 + 1).unwrap();
        fixture.disk.set(fault);
        let error = fixture.put(&store, "a", "2").unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        let lease = fixture.runtime.block_on(store.grant(Duration::from_secs(60)));
        assert!(matches!(lease, Err(Error::Io { .. })), "{lease:?}");
        assert_eq!(content(&store), before);
        fixture.disk.set(Fault::None);
        let result = fixture.put(&store, "a", "3").unwrap();
        assert_eq!(result.revision, before.0 + 1, "the failed one left no gap");
        let events = fixture.runtime.block_on(watch.next()).unwrap();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].value.as_ref().unwrap().value(), b"3");
        let before = content(&store);
        drop(store);
        store = fixture.open();
        assert_eq!(content(&store), before);
    }
}

#[test]
fn a_full_disk_fails_all_of_a_batch_until_there_is_space() {
    let fixture = Fixture::new();
    let store = fixture.open();
    fixture.disk.set(Fault::Full);
    let mut last = 0;
    let error = loop {
        match fixture.put(&store, "k", &"x".repeat(500)) {
            Ok(result) => last = result.revision,
            Err(error) => break error,
        }
    };
    assert!(error.is_storage_full(), "{error}");
    assert!(last > 0, "the segments that were there were used");
    assert_eq!(store.snapshot().revision(), last);
    // Many at once: whatever batches they come in, each is answered with the error.
    let large = |i| Txn::write(vec![Op::put_bytes(format!("{i}"), "x".repeat(3_000))]);
    let futures: Vec<_> = (0..20).map(|i| store.txn(large(i))).collect();
    for answer in fixture.runtime.block_on(all(futures)) {
        assert!(answer.unwrap_err().is_storage_full());
    }
    assert_eq!(store.snapshot().revision(), last);
    fixture.disk.set(Fault::None);
    assert_eq!(fixture.put(&store, "k", "small").unwrap().revision, last + 1);
    let before = content(&store);
    drop(store);
    assert_eq!(content(&fixture.open()), before);
}

/// Polls all, so that all are queued, and waits for all.
async fn all<T>(mut futures: Vec<crate::BoxFuture<'_, T>>) -> Vec<T> {
    let mut answers: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, answer) in futures.iter_mut().zip(&mut answers) {
            if answer.is_none()
                && let std::task::Poll::Ready(ready) = future.as_mut().poll(context)
            {
                *answer = Some(ready);
            }
        }
        match answers.iter().all(Option::is_some) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    answers.into_iter().flatten().collect()
}
