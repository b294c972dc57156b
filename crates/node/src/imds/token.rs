//! Session tokens of IMDSv2: opaque to the guest, self-proving to us.
//!
//! A token is base64 of a version, its expiry, a nonce and an HMAC over these and the instance id
//! under the instance's own key, 56 characters as AWS's are. Nothing is remembered, so a guest may
//! have as many as it likes, and a restarted daemon still knows them.

use aws_lc_rs::{constant_time, hmac, rand};
use base::Timestamp;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE as BASE64;

const VERSION: u8 = 1;
/// Version, expiry, nonce.
const HEAD: usize = 1 + 8 + 8;
const TAG: usize = 25;

/// The lifetimes that may be asked for, in seconds.
pub const TTL: std::ops::RangeInclusive<u32> = 1..=21_600;

/// A new key of one instance.
pub fn new_key() -> [u8; 32] {
    let mut key = [0; 32];
    fill(&mut key);
    key
}

fn fill(bytes: &mut [u8]) {
    // Fails only if the kernel has no randomness to give, when nothing here could be trusted.
    rand::fill(bytes).expect("the system's random generator works");
}

fn tag(key: &[u8], instance_id: &str, head: &[u8]) -> [u8; TAG] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    context.update(head);
    context.update(instance_id.as_bytes());
    let full = context.sign();
    let mut tag = [0; TAG];
    tag.copy_from_slice(&full.as_ref()[..TAG]);
    tag
}

/// A token of `instance_id` that holds from `now` for `ttl` seconds.
pub fn mint(key: &[u8], instance_id: &str, now: Timestamp, ttl: u32) -> String {
    let mut token = Vec::with_capacity(HEAD + TAG);
    token.push(VERSION);
    token.extend(now.plus_millis(i64::from(ttl) * 1_000).0.to_be_bytes());
    let mut nonce = [0; 8];
    fill(&mut nonce);
    token.extend(nonce);
    let tag = tag(key, instance_id, &token);
    token.extend(tag);
    BASE64.encode(token)
}

/// Whether `token` is one that [`mint`] made for `instance_id` and that has not expired.
pub fn is_valid(key: &[u8], instance_id: &str, token: &[u8], now: Timestamp) -> bool {
    let Ok(token) = BASE64.decode(token) else { return false };
    if token.len() != HEAD + TAG || token[0] != VERSION {
        return false;
    }
    let (head, theirs) = token.split_at(HEAD);
    let ours = tag(key, instance_id, head);
    if constant_time::verify_slices_are_equal(&ours, theirs).is_err() {
        return false;
    }
    let mut expiry = [0; 8];
    expiry.copy_from_slice(&head[1..9]);
    now.0 < i64::from_be_bytes(expiry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_795_255_223_045);

    #[test]
    fn tokens_hold_for_their_instance_and_time_only() {
        let key = new_key();
        let token = mint(&key, "i-1", NOW, 60);
        assert_eq!(token.len(), 56);
        assert!(is_valid(&key, "i-1", token.as_bytes(), NOW));
        assert!(is_valid(&key, "i-1", token.as_bytes(), NOW.plus_millis(59_999)));
        assert!(!is_valid(&key, "i-1", token.as_bytes(), NOW.plus_millis(60_000)));
        assert!(!is_valid(&key, "i-2", token.as_bytes(), NOW), "another instance");
        assert!(!is_valid(&new_key(), "i-1", token.as_bytes(), NOW), "another key");
        assert_ne!(token, mint(&key, "i-1", NOW, 60));
    }

    proptest! {
        #[test]
        fn a_changed_token_is_void(place in 0usize..42, bit in 0u8..8) {
            let key = [7; 32];
            let mut bytes = BASE64.decode(mint(&key, "i-1", NOW, 60)).unwrap();
            bytes[place] ^= 1 << bit;
            let token = BASE64.encode(bytes);
            prop_assert!(!is_valid(&key, "i-1", token.as_bytes(), NOW));
        }

        #[test]
        fn rubbish_is_void(token in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(!is_valid(&[7; 32], "i-1", &token, NOW));
        }
    }
}
