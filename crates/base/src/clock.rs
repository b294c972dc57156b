//! Time as a value. Handlers and plans are given a [`Timestamp`]; only [`Clock`] reads the wall.
//!
//! A region's clock may run faster than the wall (`--time-scale`), so a month's bill takes a
//! minute. It is a pure function of the wall clock and a stored pair of times, so a restarted region never
//! goes back in time. Signatures are judged by the wall clock, never by the region's.

use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Milliseconds since the Unix epoch, UTC.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The wall clock.
    pub fn wall() -> Self {
        Timestamp(jiff::Timestamp::now().as_millisecond())
    }

    /// ISO 8601 with milliseconds, as EC2 prints it: `2026-11-21T10:00:23.000Z`.
    pub fn iso_millis(self) -> String {
        self.format("%Y-%m-%dT%H:%M:%S.%3fZ")
    }

    /// ISO 8601 with seconds, as IMDS and the query services print it: `2026-11-21T10:00:23Z`.
    pub fn iso_seconds(self) -> String {
        self.format("%Y-%m-%dT%H:%M:%SZ")
    }

    /// Formats in UTC with strftime directives.
    pub fn format(self, pattern: &str) -> String {
        let at = jiff::Timestamp::from_millisecond(self.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        at.strftime(pattern).to_string()
    }

    /// Parses ISO 8601 / RFC 3339; `None` if it is not one.
    pub fn parse_iso(text: &str) -> Option<Self> {
        text.parse::<jiff::Timestamp>().ok().map(|t| Timestamp(t.as_millisecond()))
    }

    /// This time plus `millis` milliseconds.
    pub fn plus_millis(self, millis: i64) -> Self {
        Timestamp(self.0.saturating_add(millis))
    }

    /// Milliseconds from `earlier` to this time; negative if `earlier` is later.
    pub fn millis_since(self, earlier: Timestamp) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The region's clock.
#[derive(Clone, Debug)]
pub enum Clock {
    /// `region + (now - wall) * scale`.
    Scaled {
        /// A moment of the wall clock.
        wall: Timestamp,
        /// What the region's clock showed at that moment.
        region: Timestamp,
        /// Region seconds per wall second, at least 1.
        scale: u32,
    },
    /// Moves only when told; for tests and simulations.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The wall clock itself.
    pub fn wall() -> Self {
        Clock::Scaled { wall: Timestamp(0), region: Timestamp(0), scale: 1 }
    }

    /// The region's time now.
    pub fn now(&self) -> Timestamp {
        match self {
            Clock::Scaled { wall, region, scale } => {
                let elapsed = Timestamp::wall().millis_since(*wall);
                region.plus_millis(elapsed.saturating_mul(i64::from(*scale)))
            }
            Clock::Manual(millis) => Timestamp(millis.load(Ordering::SeqCst)),
        }
    }

    /// Wall milliseconds until the region's clock shows `at`; 0 if it already does. A manual clock
    /// answers a short poll interval, since nobody can know when it will be moved.
    pub fn wall_millis_until(&self, at: Timestamp) -> u64 {
        let region = at.millis_since(self.now()).max(0);
        match self {
            Clock::Scaled { scale, .. } => {
                u64::try_from(region).unwrap_or(0).div_ceil(u64::from((*scale).max(1)))
            }
            Clock::Manual(_) => u64::from(region > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iso_forms() {
        let at = Timestamp(1_795_255_223_045);
        assert_eq!(at.iso_millis(), "2026-11-21T10:00:23.045Z");
        assert_eq!(at.iso_seconds(), "2026-11-21T10:00:23Z");
        assert_eq!(Timestamp::parse_iso("2026-11-21T10:00:23.045Z"), Some(at));
        assert_eq!(Timestamp::parse_iso("yesterday"), None);
    }

    #[test]
    fn scaled_clock_runs_faster_than_the_wall() {
        let origin = Timestamp::wall().plus_millis(-1_000);
        let clock = Clock::Scaled { wall: origin, region: origin, scale: 60 };
        let ahead = clock.now().millis_since(Timestamp::wall());
        assert!((59_000..120_000).contains(&ahead), "{ahead}");
        let wait = clock.wall_millis_until(clock.now().plus_millis(60_000));
        assert!((900..=1_000).contains(&wait), "{wait}");
    }
}
