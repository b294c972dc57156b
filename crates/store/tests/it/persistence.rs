//! What is on the disk: found again, guarded, and refused if it is not ours.

use crate::backend::{Backend, block_on, events_until, options};
use std::fs;
use std::time::{Duration, Instant};
use store::{Error, Op};

#[test]
fn all_is_there_after_a_restart() {
    block_on(async {
        let mut b = Backend::redb();
        let lease = b.store.grant(Duration::from_secs(10)).await.unwrap();
        b.write(vec![Op::put_bytes("leased", "").with_lease(lease)]).await;
        // Enough for several segments, so that both the checkpoint and the journal are read.
        for round in 0..4 {
            for i in 0..40 {
                let key = format!("k{}", i % 7);
                let op =
                    if i % 11 == 3 { Op::delete(key) } else { Op::put_bytes(key, vec![b'x'; 600]) };
                b.write(vec![op, Op::put_bytes("count", format!("{round} {i}"))]).await;
            }
            let before: Vec<_> = b.store.snapshot().scan("").collect();
            let revision = b.store.snapshot().revision();
            b = b.reopened();
            assert_eq!(b.store.snapshot().scan("").collect::<Vec<_>>(), before);
            assert_eq!(b.store.snapshot().revision(), revision);
            let error = b.store.watch("", revision).unwrap_err();
            assert!(matches!(error, Error::Compacted { oldest } if oldest == revision + 1));
            assert_eq!(b.put("next", "").await, revision + 1);
        }
        let next = b.store.grant(Duration::from_secs(1)).await.unwrap();
        assert!(next > lease, "numbers of leases are not used again");
    });
}

/// Waits, with a deadline, until the checkpointer has taken over all full segments.
fn checkpointed(b: &Backend) {
    let journal = b.directory.as_ref().unwrap().path().join("journal");
    let begun = Instant::now();
    while fs::read_dir(&journal)
        .unwrap()
        .filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|x| x == "journal"))
        .count()
        > 1
    {
        assert!(begun.elapsed() < crate::backend::DEADLINE, "the journal is not taken over");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn the_journal_does_not_grow_for_ever() {
    block_on(async {
        let b = Backend::redb();
        let lease = b.store.grant(Duration::from_secs(10)).await.unwrap();
        b.write(vec![Op::put_bytes("leased", "").with_lease(lease)]).await;
        for i in 0..300 {
            b.put(&format!("k{}", i % 10), &"x".repeat(1_000)).await;
        }
        checkpointed(&b);
        let journal = b.directory.as_ref().unwrap().path().join("journal");
        let files: Vec<_> =
            fs::read_dir(journal).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(files.len() <= 6, "{files:?}");
        let before: Vec<_> = b.store.snapshot().scan("").collect();
        let b = b.reopened();
        assert_eq!(b.store.snapshot().scan("").collect::<Vec<_>>(), before);
        // The lease came out of the checkpoint, with its key.
        b.store.revoke(lease).await.unwrap();
        assert_eq!(b.store.snapshot().get("leased"), None);
    });
}

#[test]
fn a_record_larger_than_a_segment_is_kept() {
    block_on(async {
        let b = Backend::redb();
        b.put("small", "1").await;
        b.put("large", &"x".repeat(100_000)).await;
        b.put("small", "2").await;
        let b = b.reopened();
        assert_eq!(b.value("large").unwrap().len(), 100_000);
        assert_eq!(b.value("small").as_deref(), Some("2"));
    });
}

#[test]
fn the_time_of_a_lease_starts_again_with_the_store() {
    block_on(async {
        let b = Backend::redb();
        let lease = b.store.grant(Duration::from_secs(10)).await.unwrap();
        b.write(vec![Op::put_bytes("k", "").with_lease(lease)]).await;
        b.advance(Duration::from_secs(9));
        let b = b.reopened();
        b.advance(Duration::from_secs(9));
        assert_eq!(b.put("other", "").await, 2, "18 s old, but 9 s in this process");
        let mut watch = b.store.watch("", 3).unwrap();
        b.advance(Duration::from_secs(1));
        assert_eq!(&*events_until(&mut watch, 3).await[0].key, "k");
        let b = b.reopened();
        assert!(matches!(b.store.keep_alive(lease).await, Err(Error::LeaseNotFound(_))));
        assert_eq!(b.keys(""), ["other"]);
    });
}

#[test]
fn a_second_opener_is_refused() {
    let b = Backend::redb();
    let path = b.directory.as_ref().unwrap().path();
    let error = store::redb_with(path, &options(&b.now)).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    assert!(error.to_string().contains("in use by another process"), "{error}");
}

#[test]
fn a_newer_format_is_refused() {
    let b = Backend::redb();
    let Backend { store, now, directory } = b;
    drop(store);
    let path = directory.as_ref().unwrap().path();
    let segment = path.join("journal/0000000000000001.journal");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[8] = 2;
    fs::write(&segment, &bytes).unwrap();
    let error = store::redb_with(path, &options(&now)).unwrap_err();
    assert!(matches!(error, Error::NewerFormat { found: 2, supported: 1, .. }), "{error}");

    let database = redb::Database::open(path.join("state.redb")).unwrap();
    let txn = database.begin_write().unwrap();
    let meta = redb::TableDefinition::<&str, u64>::new("meta");
    txn.open_table(meta).unwrap().insert("format", 7).unwrap();
    txn.open_table(redb::TableDefinition::<&str, &[u8]>::new("record")).unwrap();
    txn.open_table(redb::TableDefinition::<u64, u64>::new("lease")).unwrap();
    txn.commit().unwrap();
    drop(database);
    let error = store::redb_with(path, &options(&now)).unwrap_err();
    assert!(matches!(error, Error::NewerFormat { found: 7, supported: 1, .. }), "{error}");
}

#[test]
fn missing_parts_are_noticed() {
    block_on(async {
        let b = Backend::redb();
        for i in 0..100 {
            b.put(&format!("k{i}"), &"x".repeat(1_000)).await;
        }
        checkpointed(&b);
        let Backend { store, now, directory } = b;
        drop(store);
        // Without the checkpoint, the journal's beginning is missing.
        let path = directory.as_ref().unwrap().path();
        fs::remove_file(path.join("state.redb")).unwrap();
        let error = store::redb_with(path, &options(&now)).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    });
}

#[test]
fn a_path_that_is_a_file_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = store::redb(file.path()).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[test]
fn files_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let b = Backend::redb();
    let root = b.directory.as_ref().unwrap().path();
    let mut all = vec![root.join("lock"), root.join("state.redb")];
    all.extend(fs::read_dir(root.join("journal")).unwrap().map(|e| e.unwrap().path()));
    for path in all {
        // The checkpointer may rename a file while we look.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        assert_eq!(metadata.permissions().mode() & 0o077, 0, "{}", path.display());
    }
}
