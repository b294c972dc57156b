//! Any request text: the verifier must not panic, and believes only what our key signed.

#![no_main]

use base::Timestamp;
use libfuzzer_sys::fuzz_target;
use wire::sigv4::{Rules, SigningKey, canonical_texts, parse, verify};

#[path = "../../crates/wire/tests/request_text/mod.rs"]
mod request_text;

fuzz_target!(|text: &[u8]| {
    request_text::with(text, |parts| {
        let Ok(claim) = parse(parts) else { return };
        let secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
        let key = SigningKey::derive(secret, claim.day(), &claim.region, &claim.service);
        for rules in [Rules::STANDARD, Rules::OBJECT_STORAGE] {
            let _ = verify(parts, &claim, &key, rules, Timestamp(1_440_938_160_000));
            let _ = canonical_texts(parts, &claim, rules);
        }
    });
});
