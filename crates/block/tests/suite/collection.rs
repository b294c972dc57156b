//! The collection: nothing that is named is ever lost, nothing that is not is kept for good.

use crate::common::{Memory, TestKeys, block, memory, silent};
use crate::object_store::{Bucket, Treatment};
use base::volume::{Blocks, Content};
use block::check::check;
use block::collect::{Report, collect};
use block::faulty::{self, Faulty};
use block::{Blob, BlobStore, Blobs, Config, Direct, Error, Id, Result, Roots, Upload};
use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

fn made(blobs: &Blobs, parent: Option<&Content>, blocks: &[(u64, u64)]) -> block::Finished {
    let upload = Upload::begin(blobs, parent, 8, None).unwrap();
    for (index, seed) in blocks {
        upload.put(*index, &block(*seed)).unwrap();
    }
    upload.finish().unwrap()
}

fn pass(blobs: &Blobs, contents: &[&Content]) -> Result<Report> {
    collect(blobs, || Ok(Roots::of(contents.iter().copied())?))
}

/// Nothing is missing, and what is not named is exactly `left` blobs.
fn assert_whole(blobs: &Blobs, contents: &[&Content], left: usize) {
    let report = check(blobs, &Roots::of(contents.iter().copied()).unwrap(), true, 1, &silent);
    let report = report.unwrap();
    assert!(report.is_whole(), "{:?}", report.problems);
    assert_eq!(report.unreferenced.len(), left);
}

#[test]
fn a_pass_frees_what_no_root_reaches() {
    let (_, blobs) = memory();
    let first = made(&blobs, None, &[(0, 1), (5000, 2)]).content(None);
    let second = made(&blobs, Some(&first), &[(0, 3)]).content(None);
    assert_eq!(pass(&blobs, &[&first, &second]).unwrap().freed, 0);
    // The first's root, page of index 0 and block 1 are its own.
    let report = pass(&blobs, &[&second]).unwrap();
    assert_eq!((report.marked, report.pinned, report.freed), (5, 0, 3));
    assert!(report.freed_bytes > base::volume::BLOCK_BYTES as u64);
    assert_whole(&blobs, &[&second], 0);
    pass(&blobs, &[]).unwrap();
    assert_eq!(blobs.store().usage().unwrap().blobs, 0);
}

#[test]
fn what_an_upload_has_put_or_found_stays_until_it_is_dropped() {
    let (_, blobs) = memory();
    let old = made(&blobs, None, &[(0, 1)]).content(None);
    let upload = Upload::begin(&blobs, None, 8, None).unwrap();
    upload.put(3, &block(1)).unwrap();
    upload.put(4, &block(2)).unwrap();
    let report = pass(&blobs, &[]).unwrap();
    assert_eq!((report.pinned, report.freed), (2, 2), "the old root and page go");
    let finished = upload.finish().unwrap();
    assert_eq!(pass(&blobs, &[]).unwrap().pinned, 4);
    let content = finished.content(None);
    assert_whole(&blobs, &[&content], 0);
    drop(finished);
    assert_eq!(pass(&blobs, &[]).unwrap().freed, 4);
    let gone = check(&blobs, &Roots::of([&old]).unwrap(), false, 1, &silent).unwrap();
    assert!(!gone.is_whole());
}

#[test]
fn the_parent_of_an_upload_stays_whole_although_its_record_is_deleted() {
    let (_, blobs) = memory();
    let parent = made(&blobs, None, &[(0, 1), (1, 2), (9000, 3)]).content(None);
    let upload = Upload::begin(&blobs, Some(&parent), 8, None).unwrap();
    assert_eq!(pass(&blobs, &[]).unwrap().freed, 0);
    upload.put(1, &block(4)).unwrap();
    let finished = upload.finish().unwrap();
    assert_eq!(pass(&blobs, &[]).unwrap().freed, 0);
    let child = finished.content(None);
    drop(finished);
    pass(&blobs, &[&child]).unwrap();
    assert_whole(&blobs, &[&child], 0);
    let held = blobs.hold(&child).unwrap();
    assert_eq!(pass(&blobs, &[]).unwrap().freed, 0);
    drop(held);
    assert!(pass(&blobs, &[]).unwrap().freed > 0);
}

#[test]
fn what_is_not_there_cannot_be_held_and_does_not_stop_a_pass() {
    let (_, blobs) = memory();
    let content = made(&blobs, None, &[(0, 1)]).content(None);
    pass(&blobs, &[]).unwrap();
    assert!(matches!(blobs.hold(&content), Err(Error::NotFound(_))));
    assert!(matches!(Upload::begin(&blobs, Some(&content), 8, None), Err(Error::NotFound(_))));
    pass(&blobs, &[]).unwrap();
}

/// The same life in a bucket that fails now and then.
#[test]
fn a_life_in_an_object_store_loses_and_leaks_nothing() {
    let bucket = Bucket::start();
    let blobs = Blobs::open(&Config::S3(bucket.config())).unwrap();
    bucket.treat(&[Treatment::Serve, Treatment::Status(503), Treatment::HangUp].repeat(5));
    let mut records = Vec::new();
    life(&blobs, &mut records).unwrap();
    let roots: Vec<_> = records.iter().collect();
    assert_eq!(roots.len(), 1);
    assert_whole(&blobs, &roots, 0);
    bucket.damage();
    assert!(matches!(pass(&blobs, &roots), Err(Error::Damaged(_))));
}

/// An upload that ends and is recorded between the reading of the records and the sweep.
#[test]
fn what_is_recorded_during_a_pass_stays() {
    let (_, blobs) = memory();
    let parent = made(&blobs, None, &[(0, 1)]).content(None);
    let upload = Upload::begin(&blobs, Some(&parent), 8, None).unwrap();
    upload.put(1, &block(2)).unwrap();
    let mut recorded = None;
    collect(&blobs, || {
        // After the roots were read the upload ends; its pins are dropped before the sweep.
        recorded = Some(upload.finish().unwrap().content(None));
        Ok(Roots::default())
    })
    .unwrap();
    // The root and the page of the parent are left to the next pass.
    assert_whole(&blobs, &[&recorded.unwrap()], 2);
}

#[test]
fn a_pass_that_cannot_read_a_root_or_a_page_deletes_nothing() {
    let (memory, _) = memory();
    let faulty = Arc::new(Faulty::new(Arc::clone(&memory) as Arc<dyn BlobStore>));
    let blobs = Blobs::new(Arc::clone(&faulty) as Arc<dyn BlobStore>);
    let kept = made(&blobs, None, &[(0, 1), (5000, 2)]).content(None);
    drop(made(&blobs, None, &[(0, 3)]));
    let before = memory.usage().unwrap();
    for nth in 0..3 {
        faulty.fail(faulty::Operation::Get, nth, faulty::Fault::Disk);
        assert!(matches!(pass(&blobs, &[&kept]), Err(Error::Io(_))));
        faulty.heal();
    }
    faulty.fail(faulty::Operation::List, 0, faulty::Fault::Remote);
    assert!(matches!(pass(&blobs, &[&kept]), Err(Error::Remote(_))));
    faulty.heal();
    let unreadable = collect(&blobs, || Err(io::Error::other("no records")));
    assert!(matches!(unreadable, Err(Error::Io(_))));
    let absent = Content { root: Id::of(b"none").to_string(), ..kept.clone() };
    assert!(matches!(pass(&blobs, &[&kept, &absent]), Err(Error::NotFound(_))));
    assert_eq!(memory.usage().unwrap(), before);
    assert_eq!(pass(&blobs, &[&kept]).unwrap().freed, 3);
    assert_whole(&blobs, &[&kept], 0);
}

/// Dies before its change number `left`: nothing changes any more.
#[derive(Debug)]
struct Dying {
    inner: Arc<Memory>,
    left: AtomicU64,
}

impl Dying {
    fn live(&self) -> Result<()> {
        let live = |left: u64| left.checked_sub(1);
        match self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, live) {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Remote("dead".to_owned())),
        }
    }
}

impl BlobStore for Dying {
    fn put(&self, blob: &Blob<'_>) -> Result<bool> {
        self.live()?;
        self.inner.put(blob)
    }

    fn get(&self, id: Id) -> Result<Vec<u8>> {
        self.inner.get(id)
    }

    fn stored(&self, id: Id) -> Result<Option<u64>> {
        self.inner.stored(id)
    }

    fn list(&self, visit: &mut dyn FnMut(Id, u64) -> ControlFlow<()>) -> Result<()> {
        self.inner.list(visit)
    }

    fn delete(&self, id: Id) -> Result<()> {
        self.live()?;
        self.inner.delete(id)
    }
}

/// A life with uploads, deletions and passes, up to the first error. `records` is what survives.
fn life(blobs: &Blobs, records: &mut Vec<Content>) -> Result<()> {
    let upload = |parent: Option<&Content>, blocks: &[(u64, u64)]| {
        let upload = Upload::begin(blobs, parent, 8, None)?;
        for (index, seed) in blocks {
            upload.put(*index, &block(*seed))?;
        }
        upload.finish()
    };
    let first = upload(None, &[(0, 1), (1, 2), (5000, 3)])?;
    records.push(first.content(None));
    drop(first);
    let second = upload(records.first(), &[(0, 4), (6000, 1)])?;
    records.push(second.content(None));
    drop(second);
    records.remove(0);
    pass(blobs, &records.iter().collect::<Vec<_>>())?;
    let third = upload(records.first(), &[(1, 1), (5000, 5)])?;
    records.push(third.content(None));
    drop(third);
    records.remove(0);
    pass(blobs, &records.iter().collect::<Vec<_>>())?;
    Ok(())
}

#[test]
fn a_crash_before_any_change_of_the_store_loses_and_leaks_nothing() {
    let mut changes = 0;
    loop {
        let inner = Arc::new(Memory::default());
        let store = Dying { inner: Arc::clone(&inner), left: AtomicU64::new(changes) };
        let mut records = Vec::new();
        let ended = life(&Blobs::new(Arc::new(store)), &mut records);
        // The next process, without any pin.
        let blobs = Blobs::new(Arc::clone(&inner) as Arc<dyn BlobStore>);
        let roots: Vec<_> = records.iter().collect();
        let report = check(&blobs, &Roots::of(roots.iter().copied()).unwrap(), true, 1, &silent);
        assert!(report.unwrap().is_whole(), "after {changes} changes");
        pass(&blobs, &roots).unwrap();
        assert_whole(&blobs, &roots, 0);
        if ended.is_ok() {
            break;
        }
        changes += 1;
    }
    assert!(changes > 20, "the life has many changes: {changes}");
}

/// The records of a region: which content is named. Every access is one transaction.
type Records = Mutex<BTreeMap<u64, Content>>;

/// Threads that upload, record, drop, delete and put through EBS direct while passes run one after
/// the other: after each pass all that is recorded is whole; in the end nothing else is there.
#[test]
fn uploads_and_passes_at_once() {
    const UPLOADERS: u64 = 3;
    const ROUNDS: u64 = 60;
    let seed = std::env::var("GUREUM_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("GUREUM_TEST_SEED={seed}");
    let (memory, blobs) = memory();
    let logs = tempfile::tempdir().unwrap();
    let direct = Direct::open(blobs.clone(), Arc::new(TestKeys), logs.path()).unwrap();
    let records = Records::default();
    let numbers = AtomicU64::new(0);
    let working = AtomicU64::new(UPLOADERS + 1);
    let failed = AtomicBool::new(false);
    let record = |content: Content| {
        records.lock().unwrap().insert(numbers.fetch_add(1, Ordering::SeqCst), content);
    };
    let pass = || {
        collect(&blobs, || {
            let mut roots = Roots::of(records.lock().unwrap().values())?;
            roots.blobs = direct.referenced()?;
            Ok(roots)
        })
        .unwrap()
    };
    // Few different blocks and indexes: what one drops another finds.
    let change = |random: &mut fastrand::Rng| {
        (random.u64(..3) * 4096 + random.u64(..2), block(random.u64(..6)))
    };
    let upload = |random: &mut fastrand::Rng| {
        let upload = {
            let records = records.lock().unwrap();
            let mut parents = records.values();
            let parent = match records.len() {
                0 => None,
                length => parents.nth(random.usize(..length + 1)),
            };
            // With the lock, as the reconciler that begins it knows that the record is there.
            Upload::begin(&blobs, parent, 8, None).unwrap()
        };
        for _ in 0..random.u8(..4) {
            let (index, data) = change(random);
            upload.put(index, &data).unwrap();
        }
        match random.u8(..4) {
            0 => drop(upload),
            1 => drop(upload.finish().unwrap()),
            _ => {
                let finished = upload.finish().unwrap();
                std::thread::yield_now();
                record(finished.content(None));
                drop(finished);
            }
        }
        if random.bool() {
            let mut records = records.lock().unwrap();
            if let Some(number) = records.keys().next().copied() {
                records.remove(&number);
            }
        }
    };
    let put = |random: &mut fastrand::Rng, round: u64| {
        let id = format!("snap-{}", round / 4);
        let (index, data) = change(random);
        direct.put(&id, None, index, &data).unwrap();
        if round % 4 == 3 {
            if random.bool() {
                let finished = direct.complete(&id, None, 8, None).unwrap();
                record(finished.content(None));
                direct.drop_upload(&id).unwrap();
            } else {
                direct.drop_upload(&id).unwrap();
            }
        }
    };
    /// Counts down however its thread ends.
    struct Ended<'a>(&'a AtomicU64, &'a AtomicBool);
    impl Drop for Ended<'_> {
        fn drop(&mut self) {
            self.1.fetch_or(std::thread::panicking(), Ordering::SeqCst);
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let (passes, freed) = std::thread::scope(|scope| {
        for thread in 0..UPLOADERS {
            let (upload, working, failed) = (&upload, &working, &failed);
            scope.spawn(move || {
                let _ended = Ended(working, failed);
                let mut random = fastrand::Rng::with_seed(seed + thread);
                (0..ROUNDS).for_each(|_| upload(&mut random));
            });
        }
        scope.spawn(|| {
            let _ended = Ended(&working, &failed);
            let mut random = fastrand::Rng::with_seed(seed + UPLOADERS);
            (0..ROUNDS).for_each(|round| put(&mut random, round));
        });
        let (mut passes, mut freed) = (0, 0);
        while working.load(Ordering::SeqCst) > 0 {
            freed += pass().freed;
            passes += 1;
            let records = records.lock().unwrap();
            let roots = Roots {
                blobs: direct.referenced().unwrap(),
                ..Roots::of(records.values()).unwrap()
            };
            let report = check(&blobs, &roots, false, 1, &silent).unwrap();
            assert!(report.is_whole(), "seed {seed}: {:?}", report.problems);
        }
        (passes, freed)
    });
    assert!(!failed.into_inner());
    println!(
        "{passes} passes freed {freed} blobs, {} contents stay",
        records.lock().unwrap().len()
    );
    pass();
    let contents: Vec<_> = records.lock().unwrap().values().cloned().collect();
    assert_whole(&blobs, &contents.iter().collect::<Vec<_>>(), 0);
    assert_eq!(direct.referenced().unwrap(), []);
    records.lock().unwrap().clear();
    pass();
    assert_eq!(memory.usage().unwrap().blobs, 0);
}
