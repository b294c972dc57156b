//! How fast a volume may be: credits for bursts, and what QEMU is told.
//!
//! QEMU enforces two rates, operations and bytes. For a type with bursts the rate follows a bucket
//! of credits: it fills with `base` a second and empties with what the guest did. Each tick allows
//! what cannot overdraw the bucket before the next: `base + credits / tick`, at most the burst's
//! rate. The model is pure; time and counters come in, a rate comes out.
//!
//! What it does not do: it is no schedule of single operations, which is QEMU's.

use super::host::{Bucket, Statistics, Throttle};
use base::volume::{Limits, Rate};
use serde::{Deserialize, Serialize};

/// Seconds between two looks at the counters.
pub(crate) const TICK: f64 = 1.0;

/// Credits and the counters up to which they are charged.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Balance {
    /// Credits in operations and bytes; `None`: full.
    operations: Option<f64>,
    bytes: Option<f64>,
    /// Seconds since the epoch.
    at: f64,
    /// Counters of the process that had the volume then.
    counted_operations: u64,
    counted_bytes: u64,
}

impl Balance {
    /// A new volume's: full.
    pub(crate) fn new(now: f64) -> Self {
        Balance { operations: None, bytes: None, at: now, counted_operations: 0, counted_bytes: 0 }
    }

    /// Credits what accrued since the last call and charges what the counters say; `None` while
    /// nobody has the volume.
    pub(crate) fn advance(&mut self, limits: &Limits, counters: Option<&Statistics>, now: f64) {
        let elapsed = (now - self.at).max(0.0);
        self.at = now;
        let (mut operations, mut bytes) = (0, 0);
        match counters {
            Some(counters) => {
                let all = counters.read_operations + counters.write_operations;
                let moved = counters.read_bytes + counters.written_bytes;
                // A new process counts from zero.
                operations = all.checked_sub(self.counted_operations).unwrap_or(all);
                bytes = moved.checked_sub(self.counted_bytes).unwrap_or(moved);
                (self.counted_operations, self.counted_bytes) = (all, moved);
                if limits.operation_bytes > 0 {
                    // Large operations count as several. Which were large is not known, so a mix
                    // of large and small ones is charged a little less than it was.
                    operations = operations.max(bytes.div_ceil(u64::from(limits.operation_bytes)));
                }
            }
            None => (self.counted_operations, self.counted_bytes) = (0, 0),
        }
        self.operations = credit(self.operations, limits.operations, operations, elapsed);
        self.bytes = credit(self.bytes, limits.bytes, bytes, elapsed);
    }

    /// The rates until the next tick.
    pub(crate) fn throttle(&self, limits: &Limits) -> Throttle {
        let bucket =
            |credits, rate| Bucket { average: rate_of(credits, rate), ..Bucket::default() };
        Throttle {
            operations: bucket(self.operations, limits.operations),
            bytes: bucket(self.bytes, limits.bytes),
            operation_bytes: u64::from(limits.operation_bytes),
        }
    }

    /// The lower of the two balances, percent; `None` without a bucket.
    pub(crate) fn percent(&self, limits: &Limits) -> Option<f64> {
        let percent = |credits: Option<f64>, rate: Option<Rate>| {
            let bucket = rate?.burst?.bucket as f64;
            let credits = credits.unwrap_or(bucket).clamp(0.0, bucket);
            Some(if bucket > 0.0 { 100.0 * credits / bucket } else { 0.0 })
        };
        let operations = percent(self.operations, limits.operations);
        let bytes = percent(self.bytes, limits.bytes);
        operations.into_iter().chain(bytes).reduce(f64::min)
    }
}

fn credit(credits: Option<f64>, rate: Option<Rate>, used: u64, elapsed: f64) -> Option<f64> {
    let rate = rate?;
    let full = rate.burst?.bucket as f64;
    let accrued = credits.unwrap_or(full).min(full) + rate.base as f64 * elapsed;
    Some((accrued - used as f64).min(full))
}

/// Units a second that the credits allow for a tick; 0 is no limit.
fn rate_of(credits: Option<f64>, rate: Option<Rate>) -> u64 {
    let Some(rate) = rate else { return 0 };
    let Some(burst) = rate.burst else { return rate.base.max(1) };
    let credits = credits.unwrap_or(burst.bucket as f64).max(0.0);
    // As a float it saturates.
    let allowed = rate.base.saturating_add((credits / TICK) as u64);
    allowed.min(burst.rate.max(rate.base)).max(1)
}

/// Whether the difference is worth telling QEMU.
pub(crate) fn differ(told: &Throttle, wanted: &Throttle) -> bool {
    let far = |a: u64, b: u64| a.abs_diff(b) > a.min(b) / 100 || (a == 0) != (b == 0);
    told.operation_bytes != wanted.operation_bytes
        || far(told.operations.average, wanted.operations.average)
        || far(told.bytes.average, wanted.bytes.average)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::volume::Burst;
    use proptest::prelude::*;

    /// gp2 of 100 GiB.
    fn gp2() -> Limits {
        let burst = Some(Burst { rate: 3000, bucket: 5_400_000 });
        Limits {
            operations: Some(Rate { base: 300, burst }),
            bytes: Some(Rate { base: 128 << 20, burst: None }),
            operation_bytes: 256 << 10,
        }
    }

    fn counters(operations: u64, bytes: u64) -> Statistics {
        Statistics { read_operations: operations, read_bytes: bytes, ..Statistics::default() }
    }

    #[test]
    fn gp2_bursts_for_half_an_hour_and_rests() {
        let limits = gp2();
        let mut balance = Balance::new(0.0);
        assert_eq!(balance.percent(&limits), Some(100.0));
        let mut done = 0;
        let mut now = 0.0;
        let mut bursting = 0;
        for _ in 0..4000 {
            let rate = balance.throttle(&limits).operations.average;
            bursting += u64::from(rate == 3000);
            done += rate;
            now += TICK;
            balance.advance(&limits, Some(&counters(done, done * 4096)), now);
        }
        // 5.4 million credits at 2700 a second net (EBS User Guide: 3000 IOPS for 2000 s at 300).
        assert_eq!(bursting, 2000);
        assert_eq!(balance.throttle(&limits).operations.average, 300);
        assert_eq!(balance.percent(&limits), Some(0.0));
        balance.advance(&limits, None, now + 1800.0);
        let percent = balance.percent(&limits).unwrap();
        assert!((percent - 10.0).abs() < 0.01, "{percent}");
    }

    #[test]
    fn large_operations_count_as_several_and_new_processes_from_zero() {
        let limits = gp2();
        let mut balance = Balance::new(0.0);
        balance.advance(&limits, Some(&counters(10, 10 << 20)), 0.0);
        assert_eq!(balance.operations, Some(5_400_000.0 - 40.0));
        balance.advance(&limits, Some(&counters(7, 7 * 4096)), 0.0);
        assert_eq!(balance.operations, Some(5_400_000.0 - 47.0));
    }

    #[test]
    fn without_bursts_the_rate_stands() {
        let limits = Limits {
            operations: Some(Rate { base: 4000, burst: None }),
            bytes: None,
            operation_bytes: 0,
        };
        let balance = Balance::new(5.0);
        let throttle = balance.throttle(&limits);
        assert_eq!((throttle.operations.average, throttle.bytes.average), (4000, 0));
        assert_eq!(balance.percent(&limits), None);
        let none = Throttle::default();
        assert!(differ(&none, &throttle) && !differ(&throttle, &throttle));
    }

    proptest! {
        /// Whatever a guest does within what it is allowed, it gets at most the bucket and the
        /// base rate, and at least the base rate if it asks for that.
        #[test]
        fn never_more_than_the_bucket(
            base in 1u64..1000,
            more in 0u64..5000,
            bucket in 0u64..100_000,
            demands in prop::collection::vec(0.0f64..=1.0, 1..300),
        ) {
            let burst = Some(Burst { rate: base + more, bucket });
            let rate = Rate { base, burst };
            let limits = Limits { operations: Some(rate), bytes: None, operation_bytes: 0 };
            let mut balance = Balance::new(0.0);
            let (mut done, mut now) = (0u64, 0.0);
            for demand in demands {
                let allowed = balance.throttle(&limits).operations.average;
                prop_assert!(allowed >= base && allowed <= base + more);
                done += (allowed as f64 * demand) as u64;
                now += TICK;
                balance.advance(&limits, Some(&counters(done, 0)), now);
                prop_assert!(done as f64 <= bucket as f64 + base as f64 * now + 1.0);
                let percent = balance.percent(&limits).unwrap();
                prop_assert!((0.0..=100.0).contains(&percent));
            }
        }

        #[test]
        fn an_idle_bucket_fills(base in 1u64..1000, bucket in 1u64..100_000) {
            let rate = Rate { base, burst: Some(Burst { rate: base * 2, bucket }) };
            let limits = Limits { operations: Some(rate), bytes: None, operation_bytes: 0 };
            let mut balance = Balance::new(0.0);
            balance.advance(&limits, Some(&counters(bucket, 0)), 0.0);
            prop_assert_eq!(balance.percent(&limits), Some(0.0));
            balance.advance(&limits, None, bucket as f64 / base as f64 + 1.0);
            prop_assert_eq!(balance.percent(&limits), Some(100.0));
        }
    }
}
