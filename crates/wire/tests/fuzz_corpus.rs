//! Runs the corpus of the fuzz targets, so that a finding stays found.

#[path = "../../../fuzz/checks/query_decoder.rs"]
mod query_decoder;

use proptest::prelude::*;
use std::path::Path;

#[test]
fn query_decoder_corpus() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/query_decoder");
    let mut count = 0;
    for entry in std::fs::read_dir(&root).expect("the corpus is there") {
        let path = entry.expect("a directory entry").path();
        query_decoder::check(&std::fs::read(&path).expect("readable"));
        count += 1;
    }
    assert!(count >= 10, "the corpus went away");
}

proptest! {
    #[test]
    fn query_decoder_on_anything(body in prop::collection::vec(any::<u8>(), 0..200)) {
        query_decoder::check(&body);
    }

    #[test]
    fn query_decoder_on_forms(
        body in "(ImageId|Filter|Tags|\\.|[0-3]|member|Name|Value|=|&|%4|%41|a){0,40}"
    ) {
        query_decoder::check(body.as_bytes());
    }
}
