//! Runs the corpus of the fuzz targets, so that a finding stays found.

#[path = "../../../fuzz/checks/nbd.rs"]
mod nbd;
#[path = "../../../fuzz/checks/tree.rs"]
mod tree;

use std::path::Path;

fn replay(target: &str, check: fn(&[u8])) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&root).expect("the corpus is there") {
        let bytes = std::fs::read(entry.expect("a directory entry").path()).expect("readable");
        check(&bytes);
        // A seed of what a fuzzer does first: every prefix, every byte changed.
        for at in 0..bytes.len() {
            check(&bytes[..at]);
            let mut changed = bytes.clone();
            for flip in [0x01, 0x80, 0xff] {
                changed[at] = bytes[at] ^ flip;
                check(&changed);
            }
        }
        count += 1;
    }
    assert!(count >= 8, "the corpus went away");
}

#[test]
fn nbd_corpus() {
    replay("nbd", nbd::check);
}

#[test]
fn tree_corpus() {
    replay("tree", tree::check);
}
