//! Request throttling: EC2's token buckets, one per account, region and operation.
//!
//! Sizes and refills are those of the EC2 API Reference, "Request throttling for the Amazon EC2
//! API". Off unless the region is started with `--throttle on`. Resource tokens (so many instances
//! a second) are a second set of buckets; both must pass. Time is the wall's: a client's pace does
//! not scale with the region's clock.

use crate::error::Error;
use base::Timestamp;
use std::collections::HashMap;
use std::sync::Mutex;

/// Size and refill of a bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Most tokens that it holds.
    pub capacity: f64,
    /// Tokens added a second.
    pub refill_per_second: f64,
}

impl Rate {
    /// A bucket of `capacity` tokens, refilled at `refill_per_second`.
    pub const fn new(capacity: f64, refill_per_second: f64) -> Self {
        Rate { capacity, refill_per_second }
    }
}

/// Non-mutating actions: `Describe*`, `List*`, `Search*`, `Get*`.
pub const NON_MUTATING: Rate = Rate::new(100.0, 20.0);
/// Non-mutating ones called without filter and pagination, where AWS says so.
pub const UNFILTERED: Rate = Rate::new(50.0, 10.0);
/// Mutating actions and resource-intensive ones.
pub const MUTATING: Rate = Rate::new(50.0, 5.0);

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Timestamp,
}

/// All buckets of a process.
#[derive(Debug, Default)]
pub struct Throttle {
    buckets: Mutex<HashMap<String, Bucket>>,
}

impl Throttle {
    /// Takes `tokens` from the bucket named `key`, which has this `rate`.
    ///
    /// # Errors
    /// `RequestLimitExceeded` (status 503) when the bucket holds fewer; nothing is taken.
    pub fn take(&self, key: &str, rate: Rate, tokens: f64, now: Timestamp) -> Result<(), Error> {
        let mut buckets = self.buckets.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let bucket = buckets
            .entry(key.to_owned())
            .or_insert_with(|| Bucket { tokens: rate.capacity, at: now });
        #[expect(
            clippy::cast_precision_loss,
            reason = "milliseconds between two requests are small"
        )]
        let seconds = now.millis_since(bucket.at).max(0) as f64 / 1000.0;
        bucket.tokens = (bucket.tokens + seconds * rate.refill_per_second).min(rate.capacity);
        bucket.at = now;
        if bucket.tokens < tokens {
            return Err(
                Error::client("RequestLimitExceeded", "Request limit exceeded.").with_status(503)
            );
        }
        bucket.tokens -= tokens;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_refills() {
        let throttle = Throttle::default();
        let rate = Rate::new(5.0, 2.0);
        let at = Timestamp(1_000_000);
        for _ in 0..5 {
            throttle.take("k", rate, 1.0, at).unwrap();
        }
        let refused = throttle.take("k", rate, 1.0, at).unwrap_err();
        assert_eq!((refused.code.as_ref(), refused.status), ("RequestLimitExceeded", 503));
        assert!(throttle.take("k", rate, 1.0, at.plus_millis(499)).is_err());
        throttle.take("k", rate, 1.0, at.plus_millis(500)).unwrap();
        throttle.take("other", rate, 1.0, at).unwrap();
        for _ in 0..5 {
            throttle.take("k", rate, 1.0, at.plus_millis(1_000_000)).unwrap();
        }
        assert!(throttle.take("k", rate, 1.0, at.plus_millis(1_000_000)).is_err());
    }
}
