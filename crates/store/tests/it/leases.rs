//! Leases: keys that go when their holder is silent.

use crate::backend::{Backend, events_until, on_every_backend};
use std::time::Duration;
use store::{Error, LeaseId, Op, Txn};

on_every_backend!(
    keys_go_with_their_lease_in_one_transaction,
    a_lease_lasts_as_long_as_it_is_kept_alive,
    a_key_without_its_lease_stays,
    a_revoked_lease_is_gone,
    lives_are_whole_seconds_and_numbers_are_new,
    only_the_lease_that_is_over_ends,
);

const TTL: Duration = Duration::from_secs(10);

async fn grant(b: &Backend) -> LeaseId {
    b.store.grant(TTL).await.unwrap()
}

/// Waits until the store did, by itself, what follows from the time.
async fn expired(b: &Backend, revision: u64) {
    let mut watch = b.store.watch("", revision).unwrap();
    events_until(&mut watch, revision).await;
}

async fn keys_go_with_their_lease_in_one_transaction(b: Backend) {
    let lease = grant(&b).await;
    assert_eq!(b.store.snapshot().revision(), 0, "a lease is no change of a key");
    b.write(vec![
        Op::put_bytes("node/1", "").with_lease(lease),
        Op::put_bytes("node/2", "").with_lease(lease),
        Op::put_bytes("other", ""),
    ])
    .await;
    assert_eq!(b.store.snapshot().get("node/1").unwrap().lease(), Some(lease));
    let mut watch = b.store.watch("", 2).unwrap();
    b.advance(TTL);
    let events = events_until(&mut watch, 2).await;
    let seen: Vec<_> = events.iter().map(|e| (e.revision, &*e.key, e.value.is_none())).collect();
    assert_eq!(seen, [(2, "node/1", true), (2, "node/2", true)]);
    assert_eq!(b.keys(""), ["other"]);
    let error = b.store.keep_alive(lease).await.unwrap_err();
    assert!(matches!(error, Error::LeaseNotFound(id) if id == lease), "{error}");
}

async fn a_lease_lasts_as_long_as_it_is_kept_alive(b: Backend) {
    let lease = grant(&b).await;
    b.write(vec![Op::put_bytes("k", "").with_lease(lease)]).await;
    for _ in 0..5 {
        b.advance(TTL - Duration::from_millis(1));
        assert_eq!(b.store.keep_alive(lease).await.unwrap(), TTL);
    }
    b.put("other", "").await;
    assert_eq!(b.keys(""), ["k", "other"]);
    b.advance(TTL);
    expired(&b, 3).await;
    assert_eq!(b.keys(""), ["other"]);
}

async fn a_key_without_its_lease_stays(b: Backend) {
    let (first, second) = (grant(&b).await, grant(&b).await);
    let put = |key: &str, lease| Op::put_bytes(key, "").with_lease(lease);
    b.write(vec![put("freed", first), put("moved", first), put("deleted", first)]).await;
    b.write(vec![put("goes", first)]).await;
    b.write(vec![Op::put_bytes("freed", ""), put("moved", second), Op::delete("deleted")]).await;
    b.put("deleted", "").await;
    assert_eq!(b.store.snapshot().get("freed").unwrap().lease(), None);
    b.store.revoke(first).await.unwrap();
    assert_eq!(b.keys(""), ["deleted", "freed", "moved"]);
    b.store.revoke(second).await.unwrap();
    assert_eq!(b.keys(""), ["deleted", "freed"]);
}

async fn a_revoked_lease_is_gone(b: Backend) {
    let lease = grant(&b).await;
    b.store.revoke(lease).await.unwrap();
    assert!(matches!(b.store.revoke(lease).await, Err(Error::LeaseNotFound(_))));
    assert!(matches!(b.store.keep_alive(lease).await, Err(Error::LeaseNotFound(_))));
    let put = Txn::write(vec![Op::put_bytes("k", "").with_lease(lease)]);
    assert!(matches!(b.txn(put).await, Err(Error::LeaseNotFound(_))));
    assert_eq!(b.store.snapshot().revision(), 0);
}

async fn lives_are_whole_seconds_and_numbers_are_new(b: Backend) {
    let short = b.store.grant(Duration::ZERO).await.unwrap();
    let odd = b.store.grant(Duration::from_millis(1_001)).await.unwrap();
    assert_eq!(b.store.keep_alive(short).await.unwrap(), Duration::from_secs(1));
    assert_eq!(b.store.keep_alive(odd).await.unwrap(), Duration::from_secs(2));
    b.store.revoke(odd).await.unwrap();
    let next = grant(&b).await;
    assert!(next > odd && odd > short);
}

async fn only_the_lease_that_is_over_ends(b: Backend) {
    let short = b.store.grant(Duration::from_secs(1)).await.unwrap();
    let long = grant(&b).await;
    let put = |key: &str, lease| Op::put_bytes(key, "").with_lease(lease);
    b.write(vec![put("short", short), put("long", long)]).await;
    b.advance(Duration::from_secs(1));
    expired(&b, 2).await;
    assert_eq!(b.keys(""), ["long"]);
    assert_eq!(b.store.keep_alive(long).await.unwrap(), TTL);
}
