//! Content: what was uploaded is what is read, and only what changed is stored.

use crate::common::{KEY, OTHER_KEY, TestKeys, block, memory, silent, wrapped};
use base::key::{DataKey, Keys};
use base::volume::{BLOCK_BYTES, Content};
use block::check::{self, Fault};
use block::faulty::{self, Faulty};
use block::ingest::ingest;
use block::upload::{copy, empty};
use block::{BlobStore, Blobs, Config, Error, Finished, Id, Reader, Roots, Upload};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const BLOCK: u64 = BLOCK_BYTES as u64;
static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

fn upload(
    blobs: &Blobs,
    parent: Option<&Content>,
    size_gib: u32,
    key: Option<&DataKey>,
    blocks: &[(u64, Vec<u8>)],
) -> Finished {
    let upload = Upload::begin(blobs, parent, size_gib, key).unwrap();
    for (index, block) in blocks {
        upload.put(*index, block).unwrap();
    }
    upload.finish().unwrap()
}

#[test]
fn what_was_put_is_read() {
    let (_, blobs) = memory();
    for key in [None, Some(&KEY)] {
        let blocks = [(0, block(1)), (4095, block(2)), (4096, block(3)), (8191, block(4))];
        let content = upload(&blobs, None, 4, key, &blocks).content(None);
        let reader = Reader::open(&blobs, &content, key).unwrap();
        assert_eq!(reader.size_bytes(), 4 << 30);
        assert_eq!(reader.block_now(0), None, "nothing is in memory");
        for (index, expected) in &blocks {
            assert_eq!(*reader.block(*index).unwrap().unwrap(), *expected);
            assert_eq!(*reader.block_now(*index).unwrap().unwrap(), *expected);
            assert!(reader.holds(*index).unwrap());
        }
        assert_eq!(reader.block(1).unwrap(), None);
        assert_eq!(reader.block_now(1), Some(None));
        assert_eq!(reader.block_now(8192), None, "beyond the end");
        assert!(!reader.holds(1).unwrap());
        assert!(matches!(reader.block(8192), Err(Error::Invalid(_))));
        assert_eq!(reader.indexes(1, 2).unwrap(), [4095, 4096]);
        assert_eq!(reader.indexes(8191, 9).unwrap(), [8191]);
        let mut bytes = vec![9; BLOCK_BYTES + 20];
        reader.read_at(4095 * BLOCK - 10, &mut bytes).unwrap();
        assert_eq!(bytes, [&ZEROS[..10], &block(2), &block(3)[..10]].concat());
        reader.read_at(4 << 30, &mut []).unwrap();
        assert!(reader.read_at((4 << 30) - 1, &mut [0; 2]).is_err());
        assert!(reader.read_at(u64::MAX, &mut [0; 2]).is_err());
    }
}

#[test]
fn a_second_snapshot_stores_what_changed_and_nothing_else() {
    let (memory, blobs) = memory();
    for key in [None, Some(&KEY)] {
        let blocks: Vec<_> = (0..40).map(|n| (n * 200, block(n))).collect();
        let first = upload(&blobs, None, 8, key, &blocks);
        assert_eq!((first.new_bytes, first.full_bytes), (40 * BLOCK, 40 * BLOCK));
        assert!(first.stored_bytes >= 40 * BLOCK && first.stored_bytes < 41 * BLOCK);
        let content = first.content(None);
        let before = memory.usage().unwrap();

        let same = upload(&blobs, Some(&content), 8, key, &blocks[3..9]);
        assert_eq!((same.root, same.new_bytes, same.stored_bytes), (first.root, 0, 0));
        assert_eq!(memory.usage().unwrap(), before, "an unchanged snapshot stores nothing");

        let changed =
            [(200, block(77)), (201, block(5)), (400, ZEROS.to_vec()), (5, ZEROS.to_vec())];
        let second = upload(&blobs, Some(&content), 9, key, &changed);
        assert_eq!((second.new_bytes, second.full_bytes), (2 * BLOCK, 40 * BLOCK));
        let after = memory.usage().unwrap();
        // Block 77 and the changed page and the root; block 5 is there, and the page of 4096…
        assert_eq!(after.blobs - before.blobs, 3);
        assert_eq!(after.bytes - before.bytes, second.stored_bytes);
        let reader = Reader::open(&blobs, &second.content(None), key).unwrap();
        assert_eq!(reader.block(400).unwrap(), None);
        assert_eq!(*reader.block(201).unwrap().unwrap(), block(5));
        assert_eq!(*reader.block(600).unwrap().unwrap(), block(3), "of the parent");
        assert_eq!(*reader.block(5000).unwrap().unwrap(), block(25), "of the parent");
    }
}

#[test]
fn content_of_zeros_is_a_root() {
    let (memory, blobs) = memory();
    let nothing = empty(&blobs, 100, None).unwrap();
    assert_eq!(memory.usage().unwrap().blobs, 1);
    let zeros = upload(&blobs, None, 100, None, &[(7, ZEROS.to_vec())]);
    assert_eq!(zeros.root, nothing.root);
    assert_ne!(empty(&blobs, 100, Some(&KEY)).unwrap().root, nothing.root);
    let one = upload(&blobs, None, 100, None, &[(7, block(1))]).content(None);
    let removed = upload(&blobs, Some(&one), 100, None, &[(7, ZEROS.to_vec())]);
    assert_eq!(removed.root, nothing.root, "a page without blocks is dropped");
    for size in [0, (64 << 10) + 1] {
        assert!(matches!(empty(&blobs, size, None), Err(Error::Invalid(_))));
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let (_, blobs) = memory();
    let upload = Upload::begin(&blobs, None, 1, None).unwrap();
    assert!(matches!(upload.put(2048, &block(1)), Err(Error::Invalid(_))));
    assert!(matches!(upload.put(0, &block(1)[1..]), Err(Error::Invalid(_))));
    let content = self::upload(&blobs, None, 2, Some(&KEY), &[(0, block(1))]).content(None);
    for key in [None, Some(&OTHER_KEY)] {
        assert!(matches!(Reader::open(&blobs, &content, key), Err(Error::WrongKey)));
        assert!(matches!(Upload::begin(&blobs, Some(&content), 2, key), Err(Error::WrongKey)));
    }
    let smaller = Upload::begin(&blobs, Some(&content), 1, Some(&KEY));
    assert!(matches!(smaller, Err(Error::Invalid(_))));
    let nonsense = Content { root: "root".to_owned(), ..content.clone() };
    assert!(matches!(Reader::open(&blobs, &nonsense, None), Err(Error::Invalid(_))));
    let absent = Content { root: Id::of(b"").to_string(), ..content.clone() };
    assert!(matches!(Reader::open(&blobs, &absent, None), Err(Error::NotFound(_))));
    // A blob that is there and is no root.
    let page = Reader::open(&blobs, &content, Some(&KEY)).unwrap().tree().root().pages[0].id;
    let page = Content { root: page.to_string(), ..content };
    assert!(matches!(Reader::open(&blobs, &page, None), Err(Error::Malformed { .. })));
}

#[test]
fn many_threads_upload_and_read() {
    let (_, blobs) = memory();
    let upload = Upload::begin(&blobs, None, 8, Some(&KEY)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let upload = &upload;
            scope.spawn(move || {
                for n in 0..20 {
                    upload.put(thread + n * 300, &block(thread * 100 + n)).unwrap();
                }
            });
        }
    });
    let content = upload.finish().unwrap().content(None);
    let reader = Reader::open(&blobs, &content, Some(&KEY)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let reader = &reader;
            scope.spawn(move || {
                for n in 0..20 {
                    let read = reader.block(thread + n * 300).unwrap().unwrap();
                    assert_eq!(*read, block(thread * 100 + n));
                }
            });
        }
    });
}

#[test]
fn a_copy_under_another_key_holds_the_same_and_shares_nothing() {
    let (memory, blobs) = memory();
    let blocks: Vec<_> = (0..10).map(|n| (n * 700, block(n))).collect();
    let from = upload(&blobs, None, 5, None, &blocks).content(None);
    let before = memory.usage().unwrap();
    let done = AtomicU64::new(0);
    let progress = |now, total| {
        assert_eq!(total, 10 * BLOCK);
        done.fetch_max(now, Ordering::Relaxed);
        ControlFlow::Continue(())
    };
    let made = copy(&blobs, &from, None, Some(&KEY), 3, &progress).unwrap();
    assert_eq!((made.new_bytes, made.full_bytes), (10 * BLOCK, 10 * BLOCK));
    assert_eq!(done.into_inner(), 10 * BLOCK);
    assert_eq!(memory.usage().unwrap().bytes - before.bytes, made.stored_bytes);
    let to = made.content(Some(wrapped(7)));
    let reader = Reader::open(&blobs, &to, Some(&KEY)).unwrap();
    for (index, block) in &blocks {
        assert_eq!(*reader.block(*index).unwrap().unwrap(), *block);
    }
    let same = copy(&blobs, &to, Some(&KEY), Some(&KEY), 3, &silent).unwrap();
    assert_eq!((same.root, same.new_bytes, same.stored_bytes), (made.root, 0, 0));
    let stop = |_, _| ControlFlow::Break(());
    let stopped = copy(&blobs, &to, Some(&KEY), None, 2, &stop);
    assert!(matches!(stopped, Err(Error::Stopped)));
    assert!(matches!(copy(&blobs, &to, None, None, 1, &silent), Err(Error::WrongKey)));
}

fn local(directory: &Path) -> Blobs {
    Blobs::open(&Config::Local { directory: directory.to_owned() }).unwrap()
}

/// Every file below, with its bytes.
fn files(directory: &Path) -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.push(fs::read(path).unwrap());
        }
    }
    files
}

#[test]
fn nothing_of_encrypted_content_is_readable_in_the_store() {
    let canary = b"the canary sings at dawn";
    let mut block = block(1);
    block[100_000..100_000 + canary.len()].copy_from_slice(canary);
    let found = |key: Option<&DataKey>| {
        let directory = tempfile::tempdir().unwrap();
        drop(upload(&local(directory.path()), None, 1, key, &[(0, block.clone())]));
        let plain = Id::of(&block).0;
        files(directory.path()).iter().any(|bytes| {
            bytes.windows(canary.len()).any(|part| part == canary)
                || bytes.windows(32).any(|part| part == plain)
        })
    };
    assert!(found(None), "the test can fail");
    assert!(!found(Some(&KEY)));
}

#[test]
fn a_sparse_image_becomes_content_and_its_holes_are_not_read() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = local(&directory.path().join("blobs"));
    let image = directory.path().join("disk.raw");
    let file = File::create(&image).unwrap();
    // 3 GiB and a bit, of which little is there; the end is no end of a block.
    let length = (3 << 30) + 5000;
    file.set_len(length).unwrap();
    let parts = [(0, 100), (BLOCK - 3, 6), (10 * BLOCK, 3 * BLOCK as usize), (length - 9, 9)];
    for (offset, bytes) in parts {
        file.write_all_at(&vec![0xEE; bytes], offset).unwrap();
    }
    let read = AtomicU64::new(0);
    let progress = |done, total| {
        assert!(done <= total && total < 64 * BLOCK, "the holes are not looked at");
        read.fetch_max(done, Ordering::Relaxed);
        ControlFlow::Continue(())
    };
    let made = ingest(&blobs, &image, None, Some(&KEY), 3, &progress).unwrap();
    assert_eq!(made.size_gib, 4);
    // Blocks 10 to 12 are equal: stored once.
    assert_eq!(made.full_bytes, 6 * BLOCK);
    assert!(made.stored_bytes < 5 * BLOCK && read.into_inner() >= 6 * BLOCK);
    let reader = Reader::open(&blobs, &made.content(None), Some(&KEY)).unwrap();
    let mut index = 0;
    let (mut expected, mut found) = (vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]);
    while index * BLOCK < length {
        let held = BLOCK.min(length - index * BLOCK) as usize;
        file_read(&image, index * BLOCK, &mut expected[..held]);
        reader.read_at(index * BLOCK, &mut found[..held]).unwrap();
        assert!(expected[..held] == found[..held], "block {index}");
        index += if index < 20 { 1 } else { 61 };
    }
    reader.read_at(length - 9, &mut found[..20]).unwrap();
    assert_eq!(found[..20], [[0xEE; 9].as_slice(), &[0; 11]].concat());
    assert!(matches!(ingest(&blobs, &image, Some(3), None, 1, &silent), Err(Error::Invalid(_))));
    assert_eq!(ingest(&blobs, &image, Some(5), None, 1, &silent).unwrap().size_gib, 5);
}

fn file_read(path: &Path, offset: u64, buffer: &mut [u8]) {
    File::open(path).unwrap().read_exact_at(buffer, offset).unwrap();
}

#[test]
fn an_empty_file_is_an_empty_disk_and_one_that_is_not_there_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let (_, blobs) = memory();
    let image = directory.path().join("disk.raw");
    assert!(matches!(ingest(&blobs, &image, None, None, 1, &silent), Err(Error::Io(_))));
    File::create(&image).unwrap();
    let made = ingest(&blobs, &image, None, None, 1, &silent).unwrap();
    assert_eq!(made.root, empty(&blobs, 1, None).unwrap().root);
}

#[test]
fn errors_of_the_store_are_those_of_the_upload() {
    let (memory, _) = memory();
    let faulty = Arc::new(Faulty::new(memory));
    let blobs = Blobs::new(Arc::clone(&faulty) as Arc<dyn BlobStore>);
    let upload = Upload::begin(&blobs, None, 1, None).unwrap();
    faulty.fail(faulty::Operation::Put, 1, faulty::Fault::Full);
    upload.put(0, &block(1)).unwrap();
    assert!(matches!(upload.put(1, &block(2)), Err(Error::Full)));
    faulty.heal();
    upload.put(1, &block(2)).unwrap();
    let content = upload.finish().unwrap().content(None);
    let reader = Reader::open(&blobs, &content, None).unwrap();
    faulty.fail(faulty::Operation::Get, 0, faulty::Fault::Disk);
    assert!(matches!(reader.block(0), Err(Error::Io(_))));
    faulty.heal();
    assert_eq!(*reader.block(0).unwrap().unwrap(), block(1), "it recovers");
}

fn checked(blobs: &Blobs, roots: &Roots, deep: bool) -> check::Report {
    check::check(blobs, roots, deep, 2, &silent).unwrap()
}

#[test]
fn a_check_finds_what_is_missing_damaged_and_left_over() {
    let directory = tempfile::tempdir().unwrap();
    let blobs = local(directory.path());
    let key = Some(&KEY);
    let first = upload(&blobs, None, 4, key, &[(0, block(1)), (5000, block(2))]);
    let second = upload(&blobs, Some(&first.content(None)), 4, key, &[(1, block(3))]);
    let both = Roots { contents: vec![first.root, second.root, first.root], blobs: Vec::new() };
    let report = checked(&blobs, &both, true);
    assert!(report.is_whole() && report.unreferenced.is_empty(), "{report:?}");
    assert_eq!((report.contents, report.pages, report.blocks, report.stored), (2, 3, 3, 8));
    assert_eq!(report.stored_bytes, blobs.store().usage().unwrap().bytes);

    // Without the second, its root, page and block are left over; an upload's blob is not.
    let one = Roots { contents: vec![first.root], blobs: Vec::new() };
    let report = checked(&blobs, &one, false);
    assert!(report.is_whole());
    assert_eq!(report.unreferenced.len(), 3);
    assert!(report.unreferenced_bytes > BLOCK);
    let reader = Reader::open(&blobs, &second.content(None), key).unwrap();
    let third = reader.tree().block(1).unwrap().unwrap();
    let uploading = Roots { blobs: vec![third], ..one.clone() };
    assert_eq!(checked(&blobs, &uploading, true).unreferenced.len(), 2);

    // One block with a flipped bit, which only a deep check reads; one cut short; one missing.
    let path = |id: Id| directory.path().join(&id.to_string()[..2]).join(id.to_string());
    let blocks: Vec<Id> = reader.tree().list(0, 9).unwrap().into_iter().map(|(_, id)| id).collect();
    let mut bytes = fs::read(path(blocks[0])).unwrap();
    bytes[77] ^= 4;
    fs::write(path(blocks[0]), &bytes).unwrap();
    assert!(checked(&blobs, &both, false).is_whole());
    let report = checked(&blobs, &both, true);
    let faults = |report: &check::Report| -> BTreeMap<Id, Fault> {
        report.problems.iter().map(|problem| (problem.id, problem.fault.clone())).collect()
    };
    assert_eq!(faults(&report), BTreeMap::from([(blocks[0], Fault::Damaged)]));
    assert!(report.problems[0].to_string().contains("is damaged, needed by content"));
    fs::write(path(blocks[1]), b"short").unwrap();
    fs::remove_file(path(blocks[2])).unwrap();
    let found = faults(&checked(&blobs, &both, false));
    assert_eq!(found, BTreeMap::from([(blocks[1], Fault::Damaged), (blocks[2], Fault::Missing)]));

    // A damaged page and a missing root.
    let page = reader.tree().root().pages[0].id;
    fs::write(path(page), b"no page").unwrap();
    fs::remove_file(path(first.root)).unwrap();
    let found = faults(&checked(&blobs, &both, false));
    assert_eq!(found.get(&page), Some(&Fault::Damaged));
    assert_eq!(found.get(&first.root), Some(&Fault::Missing));
}

#[test]
fn a_configuration_is_read_from_json_and_hides_its_secret() {
    let directory = tempfile::tempdir().unwrap();
    let text = format!(r#"{{"local":{{"directory":{:?}}}}}"#, directory.path());
    let config: Config = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string(&config).unwrap(), text);
    drop(empty(&Blobs::open(&config).unwrap(), 1, None).unwrap());
    let read_only = Blobs::open_read_only(&config).unwrap();
    assert!(empty(&read_only, 2, None).is_err());
    let text = r#"{"s3":{"endpoint":"http://h:1","bucket":"b","region":"r","access_key_id":"a",
        "secret_access_key":"hush"}}"#;
    let config: Config = serde_json::from_str(text).unwrap();
    assert!(!format!("{config:?}").contains("hush"));
    assert!(TestKeys.unwrap(&wrapped(7)).unwrap() == KEY);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// A chain of snapshots against a plain map.
    #[test]
    fn any_chain_reads_as_a_map_would(
        chain in prop::collection::vec(
            prop::collection::vec((0..3_u64, 0..3_u64, 0..4_u64), 0..5), 1..5),
        sealed in any::<bool>(),
        from in 0..10_000_u64,
        length in 0..1_500_000_usize,
    ) {
        let (_, blobs) = memory();
        let key = sealed.then_some(&KEY);
        let mut model: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let mut parent = None;
        let mut kept = Vec::new();
        for changes in chain {
            let changes: Vec<_> = changes.into_iter().map(|(page, offset, seed)| {
                let data = if seed == 0 { ZEROS.to_vec() } else { block(seed) };
                (page * 4096 + offset, data)
            }).collect();
            let made = upload(&blobs, parent.as_ref(), 6, key, &changes);
            let before = model.clone();
            for (index, data) in changes {
                if data == ZEROS { model.remove(&index); } else { model.insert(index, data); }
            }
            let new = model.iter().filter(|(index, data)| before.get(index) != Some(data)).count();
            prop_assert_eq!(made.new_bytes, new as u64 * BLOCK);
            prop_assert_eq!(made.full_bytes, model.len() as u64 * BLOCK);
            let content = made.content(None);
            let reader = Reader::open(&blobs, &content, key).unwrap();
            let indexes: Vec<u64> = model.keys().copied().collect();
            prop_assert_eq!(reader.indexes(0, 99).unwrap(), indexes);
            for index in 0..3 {
                let found = reader.block(index).unwrap();
                prop_assert!(found.as_deref() == model.get(&index));
            }
            let mut found = vec![1; length];
            reader.read_at(from, &mut found).unwrap();
            let mut expected = Vec::new();
            for index in 0..4 {
                expected.extend_from_slice(model.get(&index).map_or(&ZEROS[..], |b| b));
            }
            let from = from as usize;
            prop_assert!(found == expected[from..from + length]);
            parent = Some(content);
            kept.push(made);
        }
    }
}
