//! What every blob store does, on each there is; and what only one can do.

use crate::common;
use crate::object_store::{self, Bucket, Treatment};
use block::local::Local;
use block::s3::S3;
use block::{Blob, BlobStore, Error, Id, Usage};
use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

fn listed(store: &dyn BlobStore) -> BTreeMap<Id, u64> {
    let mut all = BTreeMap::new();
    store
        .list(&mut |id, bytes| {
            assert_eq!(all.insert(id, bytes), None, "{id} is listed twice");
            ControlFlow::Continue(())
        })
        .unwrap();
    all
}

/// What the trait promises. The store is empty.
fn conforms(store: &dyn BlobStore) {
    assert_eq!(store.usage().unwrap(), Usage::default());
    let absent = Id::of(b"absent");
    assert!(matches!(store.get(absent), Err(Error::NotFound(id)) if id == absent));
    assert_eq!(store.stored(absent).unwrap(), None);
    assert!(!store.exists(absent).unwrap());
    store.delete(absent).unwrap();

    let large = common::block(1);
    let contents: [&[u8]; 4] = [b"", b"one", b"two", &large];
    for bytes in contents {
        let blob = Blob::of(bytes);
        assert!(store.put(&blob).unwrap(), "new");
        assert!(!store.put(&blob).unwrap(), "there already");
        assert_eq!(store.get(blob.id()).unwrap(), bytes);
        assert_eq!(store.stored(blob.id()).unwrap(), Some(bytes.len() as u64));
        assert!(store.exists(blob.id()).unwrap());
    }
    let expected: BTreeMap<_, _> =
        contents.iter().map(|bytes| (Id::of(bytes), bytes.len() as u64)).collect();
    assert_eq!(listed(store), expected);
    let bytes = expected.values().sum();
    assert_eq!(store.usage().unwrap(), Usage { blobs: 4, bytes });
    let mut seen = 0;
    store
        .list(&mut |_, _| {
            seen += 1;
            ControlFlow::Break(())
        })
        .unwrap();
    assert_eq!(seen, 1, "the visitor breaks off");

    store.delete(Id::of(b"one")).unwrap();
    store.delete(Id::of(b"one")).unwrap();
    assert!(matches!(store.get(Id::of(b"one")), Err(Error::NotFound(_))));
    assert!(store.put(&Blob::of(b"one")).unwrap(), "new again");

    let too_long = vec![1; block::blob::MOST_BYTES + 1];
    assert!(matches!(store.put(&Blob::of(&too_long)), Err(Error::Invalid(_))));

    // Many threads, some with the same blob.
    std::thread::scope(|scope| {
        for thread in 0..8_u8 {
            scope.spawn(move || {
                for number in 0..6_u8 {
                    let bytes = [9, thread % 4, number];
                    store.put(&Blob::of(&bytes)).unwrap();
                    assert_eq!(store.get(Id::of(&bytes)).unwrap(), bytes);
                }
            });
        }
    });
    assert_eq!(listed(store).len(), 4 + 24);
}

#[test]
fn a_directory_conforms() {
    let directory = tempfile::tempdir().unwrap();
    conforms(&Local::open(&directory.path().join("blobs")).unwrap());
}

#[test]
fn an_object_store_that_verifies_signatures_conforms() {
    conforms(&S3::open(&Bucket::start().config()).unwrap());
}

#[test]
fn motos_object_store_conforms() {
    if let Some(moto) = object_store::moto() {
        conforms(&S3::open(&moto.config).unwrap());
    }
}

fn file(directory: &Path, id: Id) -> PathBuf {
    let name = id.to_string();
    directory.join(&name[..2]).join(name)
}

#[test]
fn a_damaged_file_is_never_served_and_healed_by_a_put() {
    let directory = tempfile::tempdir().unwrap();
    let store = Local::open(directory.path()).unwrap();
    let bytes = common::block(3);
    let blob = Blob::of(&bytes);
    let path = file(directory.path(), blob.id());
    let damages: [fn(&mut Vec<u8>); 4] = [
        |bytes| bytes[300_000] ^= 0x10,
        |bytes| bytes.truncate(4096),
        |bytes| bytes.clear(),
        |bytes| bytes.resize(5 << 20, 0),
    ];
    for damage in damages {
        store.put(&blob).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        fs::write(&path, &bytes).unwrap();
        assert!(matches!(store.get(blob.id()), Err(Error::Damaged(id)) if id == blob.id()));
        assert!(store.put(&blob).unwrap(), "written again");
        assert_eq!(store.get(blob.id()).unwrap(), blob.bytes());
    }
}

#[test]
fn a_read_error_is_an_error_and_not_a_missing_blob() {
    let directory = tempfile::tempdir().unwrap();
    let store = Local::open(directory.path()).unwrap();
    let id = Id::of(b"blob");
    // A directory under the name cannot be read, also by root.
    fs::create_dir(file(directory.path(), id)).unwrap();
    assert!(matches!(store.get(id), Err(Error::Io(_))));
    assert!(store.put(&Blob::of(b"blob")).unwrap(), "a put heals that too");
    assert_eq!(store.get(id).unwrap(), b"blob");
    let other = Id::of(b"other");
    fs::create_dir(file(directory.path(), other)).unwrap();
    store.delete(other).unwrap();
    assert_eq!(store.stored(other).unwrap(), None);
}

#[test]
fn what_was_half_written_is_removed_and_other_files_are_no_blobs() {
    let directory = tempfile::tempdir().unwrap();
    let store = Local::open(directory.path()).unwrap();
    store.put(&Blob::of(b"blob")).unwrap();
    assert_eq!(fs::read_dir(directory.path().join("tmp")).unwrap().count(), 0);
    fs::write(directory.path().join("tmp/left"), b"half").unwrap();
    fs::write(directory.path().join("00/readme"), b"text").unwrap();
    let read_only = Local::open_read_only(directory.path()).unwrap();
    assert!(directory.path().join("tmp/left").exists(), "a reader touches nothing");
    assert!(read_only.put(&Blob::of(b"other")).is_err());
    assert!(read_only.delete(Id::of(b"blob")).is_err());
    assert_eq!(read_only.get(Id::of(b"blob")).unwrap(), b"blob");
    let store = Local::open(directory.path()).unwrap();
    assert!(!directory.path().join("tmp/left").exists());
    assert_eq!(listed(&store), BTreeMap::from([(Id::of(b"blob"), 4)]));
    assert!(Local::open_read_only(&directory.path().join("none")).is_err());
}

/// Unmounts when dropped.
struct Small(tempfile::TempDir);

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_told_and_keeps_what_it_has() {
    if std::env::var_os("GUREUM_PRIVILEGED_TESTS").is_none() {
        println!("skipped: GUREUM_PRIVILEGED_TESTS is not set, and mounting needs root");
        return;
    }
    let small = Small(tempfile::tempdir().unwrap());
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
        .arg(small.0.path())
        .status()
        .unwrap();
    assert!(mounted.success());
    let store = Local::open(&small.0.path().join("blobs")).unwrap();
    let mut kept = Vec::new();
    let error = loop {
        let bytes = common::block(kept.len() as u64);
        match store.put(&Blob::of(&bytes)) {
            Ok(_) => kept.push(Id::of(&bytes)),
            Err(error) => break error,
        }
        assert!(kept.len() < 10, "4 MiB take no more than 7 blocks");
    };
    assert!(matches!(error, Error::Full), "{error}");
    assert_eq!(fs::read_dir(small.0.path().join("blobs/tmp")).unwrap().count(), 0);
    for id in &kept {
        store.get(*id).unwrap();
    }
    store.delete(kept[0]).unwrap();
    assert!(store.put(&Blob::of(&common::block(99))).unwrap(), "there is space again");
}

#[test]
fn what_fails_on_the_way_is_tried_again() {
    let bucket = Bucket::start();
    let store = S3::open(&bucket.config()).unwrap();
    let blob = Blob::of(b"blob");
    bucket.treat(&[
        Treatment::Status(503),
        Treatment::HangUp,
        Treatment::Status(500),
        Treatment::Serve,
        Treatment::HangUp,
        Treatment::Status(429),
    ]);
    assert!(store.put(&blob).unwrap());
    bucket.treat(&[Treatment::Half, Treatment::Status(502)]);
    assert_eq!(store.get(blob.id()).unwrap(), b"blob");
}

#[test]
fn what_does_not_end_is_an_error_and_what_is_refused_is_not_tried_again() {
    let bucket = Bucket::start();
    let store = S3::open(&bucket.config()).unwrap();
    bucket.treat(&[Treatment::Status(503); 6]);
    assert!(matches!(store.get(Id::of(b"")), Err(Error::Remote(why)) if why.contains("503")));
    let before = bucket.requests();
    bucket.treat(&[Treatment::Status(403), Treatment::Status(507)]);
    assert!(matches!(store.get(Id::of(b"")), Err(Error::Remote(why)) if why.contains("Busy")));
    assert!(matches!(store.put(&Blob::of(b"")), Err(Error::Full)));
    assert_eq!(bucket.requests(), before + 2);
    let wrong = block::S3Config { secret_access_key: "wrong".to_owned(), ..bucket.config() };
    assert!(matches!(S3::open(&wrong), Err(Error::Remote(why)) if why.contains("403")));
    let none = block::S3Config { bucket: "none".to_owned(), ..bucket.config() };
    assert!(matches!(S3::open(&none), Err(Error::Remote(why)) if why.contains("NoSuchBucket")));
}

#[test]
fn a_damaged_object_is_never_served_and_healed_by_a_put() {
    let bucket = Bucket::start();
    let store = S3::open(&bucket.config()).unwrap();
    let blob = Blob::of(b"blob");
    store.put(&blob).unwrap();
    bucket.damage();
    assert!(matches!(store.get(blob.id()), Err(Error::Damaged(_))));
    assert!(store.put(&blob).unwrap(), "written again");
    assert_eq!(store.get(blob.id()).unwrap(), b"blob");
    bucket.add("a prefix/readme", b"text");
    bucket.add("elsewhere", b"text");
    assert_eq!(listed(&store), BTreeMap::from([(blob.id(), 4)]));
    let read_only = S3::open_read_only(&bucket.config()).unwrap();
    assert!(read_only.put(&blob).is_err() && read_only.delete(blob.id()).is_err());
}

/// Tasks of a runtime may call it, whatever that runtime is, and may drop it.
#[test]
fn an_object_store_can_be_used_within_a_runtime() {
    let bucket = Bucket::start();
    for mut builder in
        [tokio::runtime::Builder::new_current_thread(), tokio::runtime::Builder::new_multi_thread()]
    {
        let runtime = builder.enable_all().build().unwrap();
        runtime.block_on(async {
            let store = S3::open(&bucket.config()).unwrap();
            store.put(&Blob::of(b"blob")).unwrap();
            tokio::task::yield_now().await;
        });
    }
}
