//! Watches: from any revision that is known, in order, whole, without gaps; and never in the way.

use crate::backend::{Backend, events_until, next, on_every_backend};
use std::collections::BTreeMap;
use std::sync::Arc;
use store::{Error, Op};

on_every_backend!(
    the_past_is_told_from_a_revision_on,
    the_present_is_told_as_it_happens,
    a_watch_sees_its_prefix_alone,
    revisions_are_told_whole,
    following_a_watch_gives_the_state,
    what_was_told_is_in_the_snapshot,
    zero_means_from_now_and_the_future_is_waited_for,
    compacted_revisions_are_refused,
    a_watch_that_nobody_reads_ends_and_holds_nobody_up,
    a_watch_ends_with_its_store,
);

async fn the_past_is_told_from_a_revision_on(b: Backend) {
    b.put("a", "1").await;
    b.put("a", "2").await;
    b.write(vec![Op::delete("a")]).await;
    let mut watch = b.store.watch("", 2).unwrap();
    let events = events_until(&mut watch, 3).await;
    let seen: Vec<_> = events.iter().map(|e| (e.revision, &*e.key)).collect();
    assert_eq!(seen, [(2, "a"), (3, "a")]);
    let value = |e: &Option<store::KeyValue>| e.as_ref().map(|e| e.value().to_vec());
    assert_eq!(value(&events[0].previous), Some(b"1".to_vec()));
    assert_eq!(value(&events[0].value), Some(b"2".to_vec()));
    assert_eq!(value(&events[1].previous), Some(b"2".to_vec()));
    assert_eq!(value(&events[1].value), None);
}

async fn the_present_is_told_as_it_happens(b: Backend) {
    let mut watch = b.store.watch("k", 1).unwrap();
    let store = Arc::clone(&b.store);
    let writer = tokio::spawn(async move {
        for i in 0..20 {
            let op = Op::put_bytes("k", format!("{i}"));
            store.txn(store::Txn::write(vec![op])).await.unwrap();
        }
    });
    let events = events_until(&mut watch, 20).await;
    writer.await.unwrap();
    let revisions: Vec<_> = events.iter().map(|e| e.revision).collect();
    assert_eq!(revisions, (1..=20).collect::<Vec<_>>());
}

async fn a_watch_sees_its_prefix_alone(b: Backend) {
    let mut watch = b.store.watch("/a/", 1).unwrap();
    b.write(vec![Op::put_bytes("/a", ""), Op::put_bytes("/a/1", ""), Op::put_bytes("/b", "")])
        .await;
    b.put("/a0", "").await;
    b.put("/a/\u{10ffff}", "").await;
    let events = events_until(&mut watch, 3).await;
    let seen: Vec<_> = events.iter().map(|e| (e.revision, &*e.key)).collect();
    assert_eq!(seen, [(1, "/a/1"), (3, "/a/\u{10ffff}")]);
}

async fn revisions_are_told_whole(b: Backend) {
    let mut watch = b.store.watch("", 1).unwrap();
    let mut tasks = Vec::new();
    for task in 0..4 {
        let store = Arc::clone(&b.store);
        tasks.push(tokio::spawn(async move {
            for i in 0..20 {
                let key = |part: u8| Op::put_bytes(format!("{task}/{part}"), format!("{i}"));
                store.txn(store::Txn::write(vec![key(0), key(1), key(2)])).await.unwrap();
            }
        }));
    }
    let mut expected = 1;
    while expected <= 80 {
        let events = next(&mut watch).await.unwrap();
        for revision in events.chunk_by(|a, b| a.revision == b.revision) {
            assert_eq!(revision[0].revision, expected);
            let keys: Vec<_> = revision.iter().map(|e| e.key.split_once('/').unwrap()).collect();
            assert_eq!(keys.iter().map(|k| k.1).collect::<Vec<_>>(), ["0", "1", "2"]);
            assert!(keys.iter().all(|k| k.0 == keys[0].0));
            expected += 1;
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
}

async fn following_a_watch_gives_the_state(b: Backend) {
    let random = fastrand::Rng::with_seed(7);
    let mut random = random.clone();
    let mut watch = b.store.watch("", 1).unwrap();
    let mut last = 0;
    for _ in 0..120 {
        let key = format!("k{}", random.u8(..6));
        let op = match random.u8(..4) {
            0 => Op::delete(key),
            1 => Op::delete_prefix(&key[..1 + random.usize(..2)]),
            _ => Op::put_bytes(key, random.u32(..).to_string()),
        };
        last = b.write(vec![op]).await;
    }
    let mut copy = BTreeMap::new();
    for event in events_until(&mut watch, last).await {
        let before = match event.value {
            Some(entry) => copy.insert(event.key, entry),
            None => copy.remove(&event.key),
        };
        assert_eq!(before, event.previous);
    }
    let state: Vec<_> = b.store.snapshot().scan("").collect();
    assert_eq!(copy.into_values().collect::<Vec<_>>(), state);
}

async fn what_was_told_is_in_the_snapshot(b: Backend) {
    let mut watch = b.store.watch("", 1).unwrap();
    let store = Arc::clone(&b.store);
    let writer = std::thread::spawn(move || {
        crate::backend::block_on(async {
            for i in 0..200 {
                let op = Op::put_bytes("k", format!("{i}"));
                store.txn(store::Txn::write(vec![op])).await.unwrap();
            }
        });
    });
    let mut told = 0;
    while told < 200 {
        told = next(&mut watch).await.unwrap().last().unwrap().revision;
        assert!(b.store.snapshot().revision() >= told);
    }
    writer.join().unwrap();
}

async fn zero_means_from_now_and_the_future_is_waited_for(b: Backend) {
    b.put("a", "1").await;
    let mut now = b.store.watch("", 0).unwrap();
    let mut future = b.store.watch("", 4).unwrap();
    for _ in 2..=5 {
        b.put("a", "").await;
    }
    assert_eq!(events_until(&mut now, 5).await[0].revision, 2);
    assert_eq!(events_until(&mut future, 5).await[0].revision, 4);
}

async fn compacted_revisions_are_refused(b: Backend) {
    for _ in 0..10 {
        b.put("a", "").await;
    }
    let mut behind = b.store.watch("", 3).unwrap();
    let mut ahead = b.store.watch("", 7).unwrap();
    b.store.compact(7).await.unwrap();
    let error = b.store.watch("", 6).unwrap_err();
    assert!(matches!(error, Error::Compacted { oldest: 7 }), "{error}");
    assert_eq!(events_until(&mut b.store.watch("", 7).unwrap(), 10).await.len(), 4);
    assert_eq!(events_until(&mut ahead, 10).await.len(), 4);
    assert_eq!(next(&mut behind).await, None);
    assert!(matches!(behind.ended(), Some(Error::Compacted { oldest: 7 })));
    assert_eq!(next(&mut behind).await, None);
    // What is forgotten can be forgotten again; what is not there yet cannot.
    b.store.compact(2).await.unwrap();
    let error = b.store.compact(11).await.unwrap_err();
    assert!(matches!(error, Error::FutureRevision { asked: 11, current: 10 }), "{error}");
    // The state is not touched.
    assert_eq!(b.store.snapshot().get("a").unwrap().version(), 10);
}

async fn a_watch_that_nobody_reads_ends_and_holds_nobody_up(b: Backend) {
    let mut watch = b.store.watch("", 1).unwrap();
    // The log holds 1,000 events and 64 KiB of replaced values; this is twice the latter.
    let value = "x".repeat(8 << 10);
    let mut last = 0;
    for _ in 0..16 {
        last = b.put("a", &value).await;
    }
    assert_eq!(next(&mut watch).await, None);
    let Some(Error::Compacted { oldest }) = watch.ended() else { panic!("{watch:?}") };
    assert!((2..=last).contains(oldest), "{oldest}");
    // It lists again, and goes on.
    let snapshot = b.store.snapshot();
    let mut watch = b.store.watch("", snapshot.revision() + 1).unwrap();
    let last = b.put("a", "small").await;
    assert_eq!(events_until(&mut watch, last).await.len(), 1);
    // The other bound: events.
    let mut watch = b.store.watch("", last + 1).unwrap();
    for i in 0..12 {
        let ops = (0..100).map(|k| Op::put_bytes(format!("{k}"), format!("{i}"))).collect();
        b.write(ops).await;
    }
    assert_eq!(next(&mut watch).await, None);
    assert!(matches!(watch.ended(), Some(Error::Compacted { .. })));
}

async fn a_watch_ends_with_its_store(b: Backend) {
    let mut watch = b.store.watch("", 1).unwrap();
    b.put("a", "").await;
    drop(b);
    assert_eq!(next(&mut watch).await.unwrap().len(), 1);
    assert_eq!(next(&mut watch).await, None);
    assert!(matches!(watch.ended(), Some(Error::Closed)));
}
