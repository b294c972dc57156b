//! See `checks/nbd.rs`.
#![no_main]

#[path = "../checks/nbd.rs"]
mod nbd;

libfuzzer_sys::fuzz_target!(|data: &[u8]| nbd::check(data));
