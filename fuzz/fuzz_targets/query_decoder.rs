//! See `checks/query_decoder.rs`.
#![no_main]

#[path = "../checks/query_decoder.rs"]
mod query_decoder;

libfuzzer_sys::fuzz_target!(|data: &[u8]| query_decoder::check(data));
