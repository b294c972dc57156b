//! Signing keys: derived from a secret for one day, region and service, and kept, because deriving
//! one costs four HMACs and every request needs it.

use super::{Claim, TERMINATOR, hex};
use aws_lc_rs::{constant_time, hmac};
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

/// A secret bound to a day, a region and a service.
#[derive(Clone)]
pub struct SigningKey(hmac::Key);

impl SigningKey {
    /// Derives the key; `day` is `YYYYMMDD` in UTC.
    pub fn derive(secret: &str, day: &str, region: &str, service: &str) -> Self {
        let mut start = Vec::with_capacity(4 + secret.len());
        start.extend_from_slice(b"AWS4");
        start.extend_from_slice(secret.as_bytes());
        let mut key = hmac::Key::new(hmac::HMAC_SHA256, &start);
        for part in [day, region, service, TERMINATOR] {
            key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref());
        }
        SigningKey(key)
    }

    pub(super) fn signature_hex(&self, string_to_sign: &[u8]) -> [u8; 64] {
        hex(hmac::sign(&self.0, string_to_sign).as_ref())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

/// Locks to share the load of many threads.
const SHARDS: usize = 16;

/// A bounded store of derived keys. An entry answers only for the very secret that it was made
/// from, so a key whose secret was replaced needs no invalidation.
pub struct SigningKeyCache {
    shards: [Mutex<HashMap<u64, Entry>>; SHARDS],
    hasher: RandomState,
    capacity: usize,
}

struct Entry {
    access_key_id: Box<str>,
    secret: Box<str>,
    day: [u8; 8],
    region: Box<str>,
    service: Box<str>,
    key: Arc<SigningKey>,
}

impl SigningKeyCache {
    /// Keeps about `capacity` keys, and at least 16.
    pub fn new(capacity: usize) -> Self {
        SigningKeyCache {
            shards: Default::default(),
            hasher: RandomState::new(),
            capacity: capacity.div_ceil(SHARDS).max(1),
        }
    }

    /// The key of `secret` for the claim's day, region and service.
    pub fn get(&self, claim: &Claim<'_>, secret: &str) -> Arc<SigningKey> {
        let hash = self.hasher.hash_one((
            &*claim.access_key_id,
            claim.day(),
            &*claim.region,
            &*claim.service,
        ));
        let shard = &self.shards[usize::try_from(hash >> 60).unwrap_or(0) % SHARDS];
        // A panic between two lines here cannot leave a map half-changed.
        let entries = || shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries().get(&hash)
            && entry.is_for(claim, secret)
        {
            return Arc::clone(&entry.key);
        }
        // Derived without the lock: others need not wait for it.
        let key = Arc::new(SigningKey::derive(secret, claim.day(), &claim.region, &claim.service));
        let entry = Entry {
            access_key_id: (&*claim.access_key_id).into(),
            secret: secret.into(),
            day: claim.day_bytes(),
            region: (&*claim.region).into(),
            service: (&*claim.service).into(),
            key: Arc::clone(&key),
        };
        let mut entries = entries();
        if entries.len() >= self.capacity && !entries.contains_key(&hash) {
            // Yesterday's keys are dead; else any will do, for the loser is derived again.
            let today = claim.day_bytes();
            entries.retain(|_, e| e.day >= today);
            if entries.len() >= self.capacity
                && let Some(victim) = entries.keys().next().copied()
            {
                entries.remove(&victim);
            }
        }
        entries.insert(hash, entry);
        key
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|s| s.lock().unwrap().len()).sum()
    }
}

impl Entry {
    fn is_for(&self, claim: &Claim<'_>, secret: &str) -> bool {
        let same =
            constant_time::verify_slices_are_equal(self.secret.as_bytes(), secret.as_bytes());
        *self.access_key_id == *claim.access_key_id
            && self.day == claim.day_bytes()
            && *self.region == *claim.region
            && *self.service == *claim.service
            && same.is_ok()
    }
}

impl fmt::Debug for SigningKeyCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKeyCache").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}
