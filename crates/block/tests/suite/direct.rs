//! The blocks of EBS direct.

use crate::common::{KEY, TestKeys, block, memory, wrapped};
use base::volume::{BLOCK_BYTES, Blocks, Content};
use block::{Blobs, Direct, Error, Reader, Roots, Upload};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

fn direct(blobs: &Blobs, directory: &Path) -> Direct {
    Direct::open(blobs.clone(), Arc::new(TestKeys), directory).unwrap()
}

fn content(blobs: &Blobs, parent: Option<&Content>, blocks: &[(u64, u64)]) -> Content {
    let upload = Upload::begin(blobs, parent, 20, None).unwrap();
    for (index, seed) in blocks {
        let data = if *seed == 0 { vec![0; BLOCK_BYTES] } else { block(*seed) };
        upload.put(*index, &data).unwrap();
    }
    upload.finish().unwrap().content(None)
}

#[test]
fn an_upload_survives_a_crash_and_becomes_content() {
    let directory = tempfile::tempdir().unwrap();
    let (_, blobs) = memory();
    let key = Some(wrapped(7));
    let put = |direct: &Direct, index, data: &[u8]| direct.put("snap-1", key.as_ref(), index, data);
    let first = direct(&blobs, directory.path());
    put(&first, 3, &block(1)).unwrap();
    put(&first, 4000, &block(2)).unwrap();
    put(&first, 3, &block(3)).unwrap();
    assert_eq!(first.uploaded("snap-1").unwrap(), 2);
    assert_eq!(first.uploaded("snap-2").unwrap(), 0);
    drop(first);
    // Another process: no pins, only the log.
    let second = direct(&blobs, directory.path());
    assert_eq!(second.uploaded("snap-1").unwrap(), 2);
    block::collect::collect(&blobs, || {
        Ok(Roots { contents: Vec::new(), blobs: second.referenced()? })
    })
    .unwrap();
    put(&second, 5, &block(4)).unwrap();
    put(&second, 4000, &vec![0; BLOCK_BYTES]).unwrap();
    // Of what was put, in the clear, in order of index (3, 5, 4000).
    let blocks = [block(3), block(4), vec![0; BLOCK_BYTES]];
    let sums: Vec<u8> = blocks.iter().flat_map(|block| block::Id::of(block).0).collect();
    assert_eq!(second.checksum("snap-1").unwrap(), block::Id::of(&sums).0);
    let made = second.complete("snap-1", None, 4, key.as_ref()).unwrap();
    assert_eq!(made.full_bytes, 2 * BLOCK_BYTES as u64);
    let content = made.content(key.clone());
    let reader = Reader::open(&blobs, &content, Some(&KEY)).unwrap();
    assert_eq!(reader.indexes(0, 9).unwrap(), [3, 5]);
    assert_eq!(second.read(&content, 3).unwrap(), Some(block(3)));
    assert_eq!(second.read(&content, 4).unwrap(), None);
    assert_eq!(second.read(&content, 1 << 40).unwrap(), None);
    // Again, as a daemon does that was killed before it recorded the result.
    assert_eq!(second.complete("snap-1", None, 4, key.as_ref()).unwrap().root, made.root);
    second.drop_upload("snap-1").unwrap();
    assert_eq!(second.uploaded("snap-1").unwrap(), 0);

    let child = [Some(&content)].map(|parent| {
        second.put("snap-2", key.as_ref(), 3, &vec![0; BLOCK_BYTES]).unwrap();
        second.complete("snap-2", parent, 5, key.as_ref()).unwrap()
    });
    assert_eq!(child[0].full_bytes, BLOCK_BYTES as u64, "zeros over the parent's block");
}

#[test]
fn wrong_puts_and_keys_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (_, blobs) = memory();
    let direct = direct(&blobs, directory.path());
    let kind = |result: std::io::Result<()>| result.unwrap_err().kind();
    assert_eq!(kind(direct.put("snap-1", None, 0, b"short")), ErrorKind::InvalidInput);
    assert_eq!(kind(direct.put("../up", None, 0, &block(1))), ErrorKind::InvalidInput);
    let damaged = base::key::WrappedKey { ciphertext: String::new(), ..wrapped(1) };
    let refused = direct.put("snap-1", Some(&damaged), 0, &block(1));
    assert_eq!(kind(refused), ErrorKind::PermissionDenied);
    assert_eq!(direct.uploaded("snap-1").unwrap(), 0);
    direct.put("snap-1", None, 5000, &block(1)).unwrap();
    let beyond = direct.complete("snap-1", None, 1, None);
    assert!(matches!(beyond, Err(Error::Invalid(_))));
    let other_key = Content { key: Some(wrapped(9)), ..content(&blobs, None, &[(0, 1)]) };
    let refused = direct.read(&other_key, 0).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
}

#[test]
fn lists_and_differences_are_those_of_the_blocks() {
    let directory = tempfile::tempdir().unwrap();
    let (_, blobs) = memory();
    let direct = direct(&blobs, directory.path());
    let first = content(&blobs, None, &[(0, 1), (7, 2), (4096, 3), (20000, 4)]);
    let second = content(&blobs, Some(&first), &[(7, 9), (8, 1), (4096, 0), (30000, 5)]);
    let names = direct.list(&first, 0, 9).unwrap();
    assert_eq!(names.iter().map(|(i, _)| *i).collect::<Vec<_>>(), [0, 7, 4096, 20000]);
    assert_eq!(direct.list(&first, 7, 2).unwrap(), names[1..3]);
    let other = direct.list(&second, 0, 9).unwrap();
    assert_eq!(names[0], other[0]);
    assert_eq!(other[2].1, names[0].1, "equal blocks have one identity");
    let changed = direct.changed(&first, &second, 0, 9).unwrap();
    let expected = [
        (7, Some(names[1].1.clone()), Some(other[1].1.clone())),
        (8, None, Some(names[0].1.clone())),
        (4096, Some(names[2].1.clone()), None),
        (30000, None, Some(other[4].1.clone())),
    ];
    assert_eq!(changed, expected);
    assert_eq!(direct.changed(&first, &second, 8, 2).unwrap(), expected[1..3]);
    assert_eq!(direct.changed(&first, &second, 4097, 9).unwrap(), expected[3..]);
    assert_eq!(direct.changed(&first, &first, 0, 9).unwrap(), []);
    let nothing = direct.changed(&second, &first, 30000, 9).unwrap();
    assert_eq!(nothing, [(30000, expected[3].2.clone(), None)]);
}

#[test]
fn tasks_of_any_runtime_may_call() {
    let directory = tempfile::tempdir().unwrap();
    let (_, blobs) = memory();
    let direct = Arc::new(direct(&blobs, directory.path()));
    for mut builder in
        [tokio::runtime::Builder::new_current_thread(), tokio::runtime::Builder::new_multi_thread()]
    {
        let direct = Arc::clone(&direct);
        let runtime = builder.build().unwrap();
        let put = async move { direct.put("snap-1", None, 0, &block(1)) };
        runtime.block_on(runtime.spawn(put)).unwrap().unwrap();
    }
}
