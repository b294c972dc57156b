//! When a schedule is due.

use crate::cron::Cron;
use crate::record::CreateRule;
use base::Timestamp;
use jiff::tz::TimeZone;
use jiff::{Span, ToSpan as _};

pub(crate) const MINUTE: i64 = 60_000;
pub(crate) const HOUR: i64 = 60 * MINUTE;
pub(crate) const DAY: i64 = 24 * HOUR;

/// The hours between two runs that the API knows; each divides a day, so that a schedule is due at
/// the same times every day (API Reference, "CreateRule").
pub(crate) const INTERVALS: [i32; 8] = [1, 2, 3, 4, 6, 8, 12, 24];

/// Units of retention with their most, 100 years each (API Reference, "RetainRule").
pub(crate) const UNITS: [(&str, i32); 4] =
    [("DAYS", 36_500), ("WEEKS", 5_200), ("MONTHS", 1_200), ("YEARS", 100)];

/// A creation rule in the form that can be asked.
#[derive(Clone, Debug)]
pub(crate) enum When {
    /// Every so many milliseconds, counted from a time of the day.
    Every { interval: i64, from: i64 },
    /// By expression.
    Cron(Cron),
}

impl When {
    /// Of a rule that was checked; the error says what a checked rule cannot have.
    pub(crate) fn of(rule: &CreateRule) -> Result<Self, String> {
        if let Some(expression) = &rule.cron_expression {
            return Cron::parse(expression).map(When::Cron);
        }
        let hours = rule.interval.ok_or("it has neither an interval nor an expression")?;
        let from = rule.times.as_ref().and_then(|times| times.first());
        let from = from.map_or(Some(0), |time| time_of_day(time)).ok_or("its time is none")?;
        Ok(When::Every { interval: i64::from(hours.max(1)) * HOUR, from })
    }

    /// The first time after `after`.
    pub(crate) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match self {
            When::Every { interval, from } => {
                let since = after.0.saturating_sub(*from).div_euclid(*interval);
                Some(Timestamp((since + 1).saturating_mul(*interval).saturating_add(*from)))
            }
            When::Cron(cron) => cron.next(after),
        }
    }

    /// The last time up to `now`, given one that is not after `now`: what a scheduler that slept
    /// through several times makes good.
    pub(crate) fn latest(&self, known: Timestamp, now: Timestamp) -> Timestamp {
        match self {
            When::Every { interval, .. } => {
                let missed = now.millis_since(known).max(0) / interval;
                known.plus_millis(missed * interval)
            }
            When::Cron(cron) => {
                let mut latest = known;
                while let Some(next) = cron.next(latest).filter(|next| *next <= now) {
                    latest = next;
                }
                latest
            }
        }
    }

    /// The shortest and the longest time between two runs among those after `from`, in
    /// milliseconds; `None` when there is at most one run.
    pub(crate) fn gaps(&self, from: Timestamp) -> Option<(i64, i64)> {
        /// Four years of a yearly expression, and of a weekly one a leap February.
        const RUNS: usize = 220;
        let mut gaps: Option<(i64, i64)> = None;
        let mut last = self.next(from)?;
        for _ in 0..RUNS {
            let Some(next) = self.next(last) else { break };
            let gap = next.millis_since(last);
            let (least, most) = gaps.unwrap_or((gap, gap));
            gaps = Some((least.min(gap), most.max(gap)));
            last = next;
        }
        gaps
    }
}

/// Milliseconds from midnight of `hh:mm`.
pub(crate) fn time_of_day(text: &str) -> Option<i64> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str, most: i64| {
        let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<i64>().ok().filter(|number| digits && *number <= most)
    };
    Some(number(hour, 23)? * HOUR + number(minute, 59)? * MINUTE)
}

/// `from` plus a retention interval, by the calendar.
pub(crate) fn after(from: Timestamp, interval: i32, unit: Option<&str>) -> Timestamp {
    let most =
        UNITS.iter().find(|(name, _)| Some(*name) == unit).map_or(UNITS[0].1, |(_, most)| *most);
    let interval = i64::from(interval.clamp(0, most));
    let span: Span = match unit {
        Some("YEARS") => interval.years(),
        Some("MONTHS") => interval.months(),
        Some("WEEKS") => interval.weeks(),
        _ => interval.days(),
    };
    let begun = jiff::Timestamp::from_millisecond(from.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let then = begun.to_zoned(TimeZone::UTC).saturating_add(span);
    Timestamp(then.timestamp().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_iso(text).unwrap()
    }

    fn every(hours: i32, time: &str) -> When {
        let rule = CreateRule {
            interval: Some(hours),
            times: Some(vec![time.to_owned()]),
            ..CreateRule::default()
        };
        When::of(&rule).unwrap()
    }

    #[test]
    fn intervals_are_anchored_at_a_time_of_day() {
        let six = every(6, "03:30");
        let mut now = at("2026-01-01T00:00:00Z");
        let mut shown = Vec::new();
        for _ in 0..5 {
            now = six.next(now).unwrap();
            shown.push(now.format("%d %H:%M"));
        }
        assert_eq!(shown, ["01 03:30", "01 09:30", "01 15:30", "01 21:30", "02 03:30"]);
    }

    #[test]
    fn many_missed_times_are_one() {
        let known = at("2026-01-01T03:30:00Z");
        let now = at("2026-01-09T10:00:00Z");
        assert_eq!(every(6, "03:30").latest(known, now), at("2026-01-09T09:30:00Z"));
        assert_eq!(every(6, "03:30").latest(known, known), known);
        let cron = When::Cron(Cron::parse("cron(30 3 ? * MON *)").unwrap());
        assert_eq!(cron.latest(known, now), at("2026-01-05T03:30:00Z"));
    }

    #[test]
    fn retention_follows_the_calendar() {
        let from = at("2026-01-31T03:00:00Z");
        assert_eq!(after(from, 1, Some("DAYS")), at("2026-02-01T03:00:00Z"));
        assert_eq!(after(from, 2, Some("WEEKS")), at("2026-02-14T03:00:00Z"));
        assert_eq!(after(from, 1, Some("MONTHS")), at("2026-02-28T03:00:00Z"));
        assert_eq!(after(from, 2, Some("YEARS")), at("2028-01-31T03:00:00Z"));
        assert_eq!(after(from, 0, Some("DAYS")), from);
        assert!(after(from, i32::MAX, Some("YEARS")) > from);
    }

    #[test]
    fn gaps_of_expressions() {
        let gaps = |text: &str| {
            let when = When::Cron(Cron::parse(text).unwrap());
            when.gaps(at("2026-01-01T00:00:00Z")).map(|(least, most)| (least / DAY, most / DAY))
        };
        assert_eq!(gaps("cron(0 0 1 * ? *)"), Some((28, 31)));
        assert_eq!(gaps("cron(0 0 1 1 ? *)"), Some((365, 366)));
        assert_eq!(gaps("cron(0 0 29 2 ? *)"), Some((1461, 2921)));
        assert_eq!(gaps("cron(0 0 1 1 ? 2027)"), None);
    }

    #[test]
    fn times_of_day() {
        assert_eq!(time_of_day("23:59"), Some(DAY - MINUTE));
        for wrong in ["24:00", "3:00", "03:60", "0300", "+3:00", ""] {
            assert_eq!(time_of_day(wrong), None, "{wrong}");
        }
    }
}
