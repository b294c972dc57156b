//! Revisions, compares, transactions, limits, scans and records.

use crate::backend::{Backend, on_every_backend};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use store::{Compare, Error, MAX_OPS, MAX_TXN_BYTES, Op, Txn};

on_every_backend!(
    revisions_count_the_transactions_that_write,
    a_key_has_a_history,
    compares_judge_one_instant,
    the_failure_branch_happens_if_one_compare_fails,
    a_transaction_happens_whole_or_not,
    limits_are_enforced,
    a_key_is_written_once_in_a_transaction,
    scans_are_ordered_by_bytes_and_end_with_the_prefix,
    pages_follow_each_other,
    prefixes_are_deleted_whole,
    snapshots_do_not_change,
    writes_are_read_after_the_answer,
    records_are_decoded_once,
    a_dropped_request_does_no_harm,
);

async fn revisions_count_the_transactions_that_write(b: Backend) {
    assert_eq!(b.store.snapshot().revision(), 0);
    assert_eq!(b.put("a", "1").await, 1);
    assert_eq!(b.write(vec![Op::put_bytes("a", "2"), Op::put_bytes("b", "1")]).await, 2);
    // Nothing to do, nothing there to delete, a branch without operations: no revision.
    assert_eq!(b.write(vec![]).await, 2);
    assert_eq!(b.write(vec![Op::delete("c"), Op::delete_prefix("x/")]).await, 2);
    let refused =
        b.txn(Txn::when(vec![Compare::absent("a")], vec![Op::delete("a")])).await.unwrap();
    assert_eq!((refused.succeeded, refused.revision), (false, 2));
    assert_eq!(b.write(vec![Op::delete("a")]).await, 3);
    assert_eq!(b.store.snapshot().revision(), 3);
}

async fn a_key_has_a_history(b: Backend) {
    b.put("other", "").await;
    b.put("k", "one").await;
    b.put("k", "two").await;
    let entry = b.store.snapshot().get("k").unwrap();
    assert_eq!((entry.create_revision(), entry.mod_revision(), entry.version()), (2, 3, 2));
    assert_eq!((entry.key(), entry.value(), entry.lease()), ("k", b"two".as_slice(), None));
    b.write(vec![Op::delete("k")]).await;
    assert_eq!(b.store.snapshot().get("k"), None);
    b.put("k", "three").await;
    let entry = b.store.snapshot().get("k").unwrap();
    assert_eq!((entry.create_revision(), entry.mod_revision(), entry.version()), (5, 5, 1));
}

async fn compares_judge_one_instant(b: Backend) {
    b.put("k", "one").await;
    b.put("k", "two").await;
    let key = || "k".to_owned();
    let gone = || "gone".to_owned();
    let value = |is: &str| Compare::Value { key: key(), is: is.into() };
    for (compare, holds) in [
        (Compare::ModRevision { key: key(), is: 2 }, true),
        (Compare::ModRevision { key: key(), is: 1 }, false),
        (Compare::ModRevision { key: key(), is: 0 }, false),
        (Compare::ModRevision { key: gone(), is: 0 }, true),
        (Compare::ModRevision { key: gone(), is: 1 }, false),
        (Compare::CreateRevision { key: key(), is: 1 }, true),
        (Compare::CreateRevision { key: key(), is: 2 }, false),
        (Compare::CreateRevision { key: gone(), is: 0 }, true),
        (Compare::Version { key: key(), is: 2 }, true),
        (Compare::Version { key: key(), is: 1 }, false),
        (Compare::Version { key: gone(), is: 0 }, true),
        (value("two"), true),
        (value("one"), false),
        (Compare::Value { key: gone(), is: Vec::new() }, false),
        (Compare::unchanged(&b.store.snapshot().get("k").unwrap()), true),
        (Compare::NothingNewer { prefix: "k".into(), than: 2 }, true),
        (Compare::NothingNewer { prefix: "k".into(), than: 1 }, false),
        (Compare::NothingNewer { prefix: "g".into(), than: 0 }, true),
    ] {
        let result = b.txn(Txn::when(vec![compare.clone()], vec![])).await.unwrap();
        assert_eq!(result.succeeded, holds, "{compare:?}");
    }
    // They see the state before the transaction's own operations.
    let txn = Txn::when(vec![value("two")], vec![Op::put_bytes("k", "three")]);
    assert!(b.txn(txn.clone()).await.unwrap().succeeded);
    assert!(!b.txn(txn).await.unwrap().succeeded);
}

async fn the_failure_branch_happens_if_one_compare_fails(b: Backend) {
    b.put("a", "1").await;
    let txn = Txn {
        compares: vec![Compare::Version { key: "a".into(), is: 1 }, Compare::absent("a")],
        success: vec![Op::put_bytes("yes", "")],
        failure: vec![Op::put_bytes("no", ""), Op::delete("a")],
    };
    let result = b.txn(txn).await.unwrap();
    assert_eq!((result.succeeded, result.revision), (false, 2));
    assert_eq!(b.keys(""), ["no"]);
}

async fn a_transaction_happens_whole_or_not(b: Backend) {
    b.put("a", "1").await;
    let lease = store::LeaseId(77);
    let ops = vec![
        Op::put_bytes("a", "2"),
        Op::put_bytes("b", "2").with_lease(lease),
        Op::put_bytes("c", "2"),
    ];
    let error = b.txn(Txn::write(ops)).await.unwrap_err();
    assert!(matches!(error, Error::LeaseNotFound(id) if id == lease), "{error}");
    assert_eq!(b.keys(""), ["a"]);
    assert_eq!(b.value("a").as_deref(), Some("1"));
    assert_eq!(b.store.snapshot().revision(), 1);
}

async fn limits_are_enforced(b: Backend) {
    let puts = |n: usize| (0..n).map(|i| Op::put_bytes(format!("k{i}"), "")).collect::<Vec<_>>();
    let compares = |n: usize| vec![Compare::absent("absent"); n];
    let full = Txn { compares: compares(MAX_OPS), success: puts(MAX_OPS), failure: puts(MAX_OPS) };
    assert!(b.txn(full).await.unwrap().succeeded);
    for txn in [
        Txn::write(puts(MAX_OPS + 1)),
        Txn { failure: puts(MAX_OPS + 1), ..Txn::default() },
        Txn::when(compares(MAX_OPS + 1), vec![]),
    ] {
        let error = b.txn(txn).await.unwrap_err();
        assert!(
            matches!(error, Error::TooManyOps { count, .. } if count == MAX_OPS + 1),
            "{error}"
        );
    }
    let large = |bytes: usize| Txn::write(vec![Op::put_bytes("k", vec![b'x'; bytes])]);
    assert!(b.txn(large(MAX_TXN_BYTES - 1)).await.is_ok());
    let error = b.txn(large(MAX_TXN_BYTES)).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    for txn in [
        Txn::write(vec![Op::put_bytes("", "x")]),
        Txn::write(vec![Op::delete("")]),
        Txn::when(vec![Compare::absent("")], vec![]),
    ] {
        assert!(matches!(b.txn(txn).await.unwrap_err(), Error::EmptyKey));
    }
    assert_eq!(b.store.snapshot().revision(), 2);
}

async fn a_key_is_written_once_in_a_transaction(b: Backend) {
    let put = |key: &str| Op::put_bytes(key, "x");
    for ops in [
        vec![put("a/1"), put("a/2"), put("a/1")],
        vec![put("a/1"), Op::delete("a/1")],
        vec![Op::delete("a/1"), put("a/1")],
        vec![put("a/1"), Op::delete_prefix("a/")],
        vec![Op::delete_prefix(""), put("a/1")],
    ] {
        let error = b.txn(Txn { failure: ops.clone(), ..Txn::default() }).await.unwrap_err();
        assert!(matches!(error, Error::DuplicateKey { ref key } if key == "a/1"), "{ops:?}");
        assert!(b.txn(Txn::write(ops)).await.is_err());
    }
    // Deleting twice is no contradiction, nor is a put in both branches.
    b.put("a/1", "x").await;
    let ops = vec![Op::delete("a/1"), Op::delete("a/1"), Op::delete_prefix("a"), put("b")];
    b.txn(Txn { success: ops, failure: vec![put("b")], ..Txn::default() }).await.unwrap();
    assert_eq!(b.keys(""), ["b"]);
}

/// In the order of their bytes.
const AWKWARD: [&str; 12] = [
    "\0",
    "/",
    "/a",
    "/a/",
    "/a/1",
    "/a/\u{ff}",
    "/a/\u{10ffff}",
    "/a/\u{10ffff}\u{10ffff}",
    "/a0",
    "/b",
    "\u{ff}",
    "\u{10ffff}",
];

async fn scans_are_ordered_by_bytes_and_end_with_the_prefix(b: Backend) {
    for key in AWKWARD.iter().rev() {
        b.put(key, "").await;
    }
    assert_eq!(b.keys(""), AWKWARD);
    assert_eq!(b.keys("/a"), AWKWARD[2..9]);
    assert_eq!(b.keys("/a/"), AWKWARD[3..8]);
    assert_eq!(b.keys("/a/\u{10ffff}"), AWKWARD[6..8]);
    assert_eq!(b.keys("\u{10ffff}"), AWKWARD[11..]);
    assert_eq!(b.keys("nothing"), [""; 0]);
    let snapshot = b.store.snapshot();
    for prefix in ["", "/a", "/a/", "/a/\u{10ffff}", "nothing"] {
        assert_eq!(snapshot.count(prefix), snapshot.scan(prefix).count(), "{prefix:?}");
    }
}

async fn pages_follow_each_other(b: Backend) {
    for key in AWKWARD {
        b.put(key, "").await;
    }
    let snapshot = b.store.snapshot();
    let after = |prefix: &str, key: &str| {
        snapshot.scan_from(prefix, key).map(|e| e.key().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(after("/a/", ""), AWKWARD[3..8]);
    assert_eq!(after("/a/", "/a/"), AWKWARD[4..8]);
    assert_eq!(after("/a/", "/a/2"), AWKWARD[5..8]);
    assert_eq!(after("/a/", "/a/\u{10ffff}\u{10ffff}"), [""; 0]);
    assert_eq!(after("/a/", "/z"), [""; 0]);
    let mut pages = Vec::new();
    let mut last = String::new();
    while let Some(entry) = snapshot.scan_from("/", &last).next() {
        last = entry.key().to_owned();
        pages.push(last.clone());
    }
    assert_eq!(pages, AWKWARD[1..10]);
}

async fn prefixes_are_deleted_whole(b: Backend) {
    for key in AWKWARD {
        b.put(key, "").await;
    }
    let before = b.store.snapshot().revision();
    assert_eq!(b.write(vec![Op::delete_prefix("/a/")]).await, before + 1);
    let left: Vec<&str> = AWKWARD[..3].iter().chain(&AWKWARD[8..]).copied().collect();
    assert_eq!(b.keys(""), left);
    b.write(vec![Op::delete_prefix("")]).await;
    assert_eq!(b.store.snapshot().count(""), 0);
}

async fn snapshots_do_not_change(b: Backend) {
    b.put("a", "1").await;
    let before = b.store.snapshot();
    b.write(vec![Op::delete("a"), Op::put_bytes("b", "")]).await;
    let keys: Vec<String> = before.scan("").map(|e| e.key().to_owned()).collect();
    assert_eq!(keys, ["a"]);
    assert_eq!(before.revision(), 1);
    assert_eq!(before.get("a").unwrap().value(), b"1");
}

async fn writes_are_read_after_the_answer(b: Backend) {
    for round in 0..300 {
        let revision = b.put("k", &round.to_string()).await;
        let snapshot = b.store.snapshot();
        assert!(snapshot.revision() >= revision);
        assert_eq!(snapshot.get("k").unwrap().value(), round.to_string().as_bytes());
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Volume {
    size: u32,
}

async fn records_are_decoded_once(b: Backend) {
    let record = Arc::new(Volume { size: 8 });
    b.write(vec![
        Op::put_record("kept", Arc::clone(&record)).unwrap(),
        Op::put("written", &Volume { size: 9 }).unwrap(),
        Op::put_bytes("broken", "{"),
    ])
    .await;
    let snapshot = b.store.snapshot();
    let kept = snapshot.get("kept").unwrap();
    assert_eq!(kept.value(), br#"{"size":8}"#);
    assert!(Arc::ptr_eq(&kept.decode::<Volume>().unwrap(), &record));
    let first = snapshot.get("written").unwrap().decode::<Volume>().unwrap();
    let again = b.store.snapshot().get("written").unwrap().decode::<Volume>().unwrap();
    assert_eq!(first.size, 9);
    assert!(Arc::ptr_eq(&first, &again));
    // Another type is decoded beside it.
    let value = kept.decode::<serde_json::Value>().unwrap();
    assert_eq!(value["size"], 8);
    let error = snapshot.get("broken").unwrap().decode::<Volume>().unwrap_err();
    assert!(matches!(error, Error::Decode { ref key, .. } if key == "broken"), "{error}");
}

async fn a_dropped_request_does_no_harm(b: Backend) {
    for i in 0..50 {
        let txn = Txn::write(vec![Op::put_bytes(format!("dropped/{i}"), "")]);
        let mut future = b.store.txn(txn);
        // Polled once, so it is queued; then nobody waits.
        let waker = std::task::Waker::noop();
        let _ = future.as_mut().poll(&mut std::task::Context::from_waker(waker));
        drop(future);
        drop(b.store.txn(Txn::write(vec![Op::put_bytes("never-polled", "")])));
    }
    b.put("last", "").await; // Behind them all in the queue.
    assert_eq!(b.store.snapshot().count("dropped/"), 50);
    assert_eq!(b.value("never-polled"), None);
}
