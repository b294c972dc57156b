//! A disk that is full, really: a tmpfs of a few MiB.

use crate::backend::{Backend, block_on, options};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use store::{Options, Revision};

struct Mount(PathBuf);

impl Mount {
    fn tmpfs(path: &Path) -> Self {
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("gureum-test", path, "tmpfs", flags, Some(c"size=6m")).unwrap();
        Mount(path.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Fills the disk to the last byte.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    while file.write_all(&[0]).is_ok() {}
}

#[test]
fn a_full_disk_is_reported_and_the_store_goes_on_when_there_is_space() {
    if std::env::var_os("GUREUM_PRIVILEGED_TESTS").is_none() {
        println!("skipped: mounting a tmpfs needs root and GUREUM_PRIVILEGED_TESTS=1");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let _mount = Mount::tmpfs(directory.path());
    let path = directory.path().join("store");
    let filler = directory.path().join("filler");
    let now = Arc::new(AtomicI64::new(0));
    let options = Options { segment_bytes: 128 << 10, ..options(&now) };
    let open = || Backend {
        store: store::redb_with(&path, &options).unwrap(),
        now: Arc::clone(&now),
        directory: None,
    };
    block_on(async {
        let b = open();
        b.put("before", "1").await;
        for round in 0..3 {
            fill(&filler);
            let mut last: Revision = b.store.snapshot().revision();
            let error = loop {
                let op = store::Op::put_bytes("k", vec![b'x'; 30_000]);
                match b.txn(store::Txn::write(vec![op])).await {
                    Ok(result) => last = result.revision,
                    Err(error) => break error,
                }
            };
            assert!(error.is_storage_full(), "{error:?}");
            assert!(error.to_string().contains("is full"), "{error}");
            // Nothing of it is seen, and reading goes on.
            assert_eq!(b.store.snapshot().revision(), last);
            assert_eq!(b.value("before").as_deref(), Some("1"));
            fs::remove_file(&filler).unwrap();
            assert_eq!(b.put("after", &format!("{round}")).await, last + 1);
        }
        let before: Vec<_> = b.store.snapshot().scan("").collect();
        drop(b);
        let b = open();
        assert_eq!(b.store.snapshot().scan("").collect::<Vec<_>>(), before);
    });
}
