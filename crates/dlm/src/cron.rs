//! Cron expressions as AWS has them: six fields in UTC, minute first, year last (Amazon
//! EventBridge User Guide, "Setting a schedule pattern").
//!
//! ```text
//!   cron(0 17 ? * FRI *)
//!        │ │  │ │  │  └ year          1970-2199              , - * /
//!        │ │  │ │  └─── day of week   1-7 or SUN-SAT         , - * ? L #
//!        │ │  │ └────── month         1-12 or JAN-DEC        , - * /
//!        │ │  └──────── day of month  1-31                   , - * ? / L W
//!        │ └─────────── hour          0-23                   , - * /
//!        └───────────── minute        0-59                   , - * /
//! ```
//!
//! One of the two days is `?`: they cannot both choose. A field is a set of numbers; the few words
//! that depend on the month (`L`, `15W`, `6#3`) are resolved for each month.

use base::Timestamp;
use jiff::civil::{Date, DateTime, Weekday};
use jiff::tz::TimeZone;

/// First and last year that an expression can name.
const YEARS: (u16, u16) = (1970, 2199);
const MONTHS: [&str; 12] =
    ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// A parsed expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cron {
    minutes: Vec<u16>,
    hours: Vec<u16>,
    days: Days,
    months: Vec<u16>,
    years: Vec<u16>,
}

/// Which days of a month.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Days {
    /// Of these numbers, where the month has them.
    OfMonth(Vec<u16>),
    /// The last one.
    Last,
    /// The weekday nearest to this number, in the same month.
    NearestWeekday(u16),
    /// The last Monday to Friday.
    LastWeekday,
    /// Those of these weekdays, 1 = Sunday.
    OfWeek(Vec<u16>),
    /// The n-th of a weekday.
    Nth(u16, u16),
    /// The last of a weekday.
    LastOfWeek(u16),
}

impl Cron {
    /// Parses `cron(…)`; the error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let inside = text.strip_prefix("cron(").and_then(|rest| rest.strip_suffix(')'));
        let fields: Vec<&str> =
            inside.ok_or("it is not of the form cron(…)")?.split_whitespace().collect();
        let [minute, hour, day, month, weekday, year] = fields[..] else {
            return Err(format!("it has {} fields instead of six", fields.len()));
        };
        let days = match (day, weekday) {
            ("?", "?") => return Err("both days are ?".to_owned()),
            (day, "?") => days_of_month(day)?,
            ("?", weekday) => days_of_week(weekday)?,
            _ => return Err("one of the two days must be ?".to_owned()),
        };
        Ok(Cron {
            minutes: numbers(minute, "minute", 0, 59, &[])?,
            hours: numbers(hour, "hour", 0, 23, &[])?,
            days,
            months: numbers(month, "month", 1, 12, &MONTHS)?,
            years: numbers(year, "year", YEARS.0, YEARS.1, &[])?,
        })
    }

    /// How many times an hour it fires in an hour in which it does.
    pub(crate) fn per_hour(&self) -> usize {
        self.minutes.len()
    }

    /// The first time after `after`; `None` when its years are over.
    pub(crate) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let begun = jiff::Timestamp::from_millisecond(after.0).ok()?;
        let begun = TimeZone::UTC.to_datetime(begun);
        let first = (i32::from(begun.year()), i32::from(begun.month()));
        for &year in &self.years {
            for &month in &self.months {
                if (i32::from(year), i32::from(month)) < first {
                    continue;
                }
                for day in self.days_in(year, month) {
                    if day < begun.date() {
                        continue;
                    }
                    for &hour in &self.hours {
                        for &minute in &self.minutes {
                            let at = instant(day, hour, minute)?;
                            if at > after {
                                return Some(at);
                            }
                        }
                    }
                }
            }
        }
        None
    }

    /// The chosen days of a month, in order.
    fn days_in(&self, year: u16, month: u16) -> Vec<Date> {
        let all = || (1..=31).filter_map(move |day| date(year, month, day));
        match &self.days {
            Days::OfMonth(days) => all().filter(|day| holds(days, day.day())).collect(),
            Days::OfWeek(days) => all().filter(|day| holds(days, weekday(*day))).collect(),
            Days::Last => all().next_back().into_iter().collect(),
            Days::LastWeekday => all().rfind(is_working_day).into_iter().collect(),
            Days::LastOfWeek(wanted) => {
                all().rfind(|day| number(weekday(*day)) == *wanted).into_iter().collect()
            }
            Days::Nth(wanted, nth) => {
                let mut matching = all().filter(|day| number(weekday(*day)) == *wanted);
                matching.nth(usize::from(*nth) - 1).into_iter().collect()
            }
            Days::NearestWeekday(wanted) => {
                let Some(wanted) = date(year, month, *wanted) else { return Vec::new() };
                let distance = |day: &Date| {
                    let days = i32::from(day.day()) - i32::from(wanted.day());
                    // A Saturday's Friday and a Sunday's Monday are equally near to neither.
                    (days.abs(), days)
                };
                all().filter(is_working_day).min_by_key(distance).into_iter().collect()
            }
        }
    }
}

fn number(value: i8) -> u16 {
    u16::try_from(value).unwrap_or_default()
}

fn holds(set: &[u16], value: i8) -> bool {
    set.contains(&number(value))
}

/// 1 = Sunday.
fn weekday(day: Date) -> i8 {
    day.weekday().to_sunday_one_offset()
}

fn is_working_day(day: &Date) -> bool {
    !matches!(day.weekday(), Weekday::Saturday | Weekday::Sunday)
}

fn date(year: u16, month: u16, day: u16) -> Option<Date> {
    Date::new(i16::try_from(year).ok()?, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()
}

fn instant(day: Date, hour: u16, minute: u16) -> Option<Timestamp> {
    let (hour, minute) = (i8::try_from(hour).ok()?, i8::try_from(minute).ok()?);
    let at = DateTime::from_parts(day, jiff::civil::Time::new(hour, minute, 0, 0).ok()?);
    Some(Timestamp(TimeZone::UTC.to_timestamp(at).ok()?.as_millisecond()))
}

fn days_of_month(field: &str) -> Result<Days, String> {
    match field {
        "L" => Ok(Days::Last),
        "LW" => Ok(Days::LastWeekday),
        _ => match field.strip_suffix('W') {
            Some(day) => Ok(Days::NearestWeekday(value(day, "day of month", 1, 31, &[])?)),
            None => Ok(Days::OfMonth(numbers(field, "day of month", 1, 31, &[])?)),
        },
    }
}

fn days_of_week(field: &str) -> Result<Days, String> {
    let weekday = |text: &str| value(text, "day of week", 1, 7, &WEEKDAYS);
    if field == "L" {
        return Ok(Days::OfWeek(vec![7]));
    }
    if let Some((day, nth)) = field.split_once('#') {
        return Ok(Days::Nth(weekday(day)?, value(nth, "week of month", 1, 5, &[])?));
    }
    if let Some(day) = field.strip_suffix('L').filter(|day| !day.is_empty()) {
        return Ok(Days::LastOfWeek(weekday(day)?));
    }
    Ok(Days::OfWeek(numbers(field, "day of week", 1, 7, &WEEKDAYS)?))
}

/// The numbers that a field names, in order.
fn numbers(
    field: &str,
    name: &str,
    least: u16,
    most: u16,
    names: &[&str],
) -> Result<Vec<u16>, String> {
    let mut set = Vec::new();
    for part in field.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(value(step, name, 1, most.max(1), &[])?)),
            None => (part, None),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (least, most),
            Some((from, to)) => {
                (value(from, name, least, most, names)?, value(to, name, least, most, names)?)
            }
            None => {
                let from = value(range, name, least, most, names)?;
                (from, if step.is_some() { most } else { from })
            }
        };
        if from > to {
            return Err(format!("the {name} {part} goes backwards"));
        }
        set.extend((from..=to).step_by(usize::from(step.unwrap_or(1))));
    }
    set.sort_unstable();
    set.dedup();
    Ok(set)
}

fn value(text: &str, name: &str, least: u16, most: u16, names: &[&str]) -> Result<u16, String> {
    if let Some(index) = names.iter().position(|word| word.eq_ignore_ascii_case(text)) {
        return Ok(least + u16::try_from(index).unwrap_or_default());
    }
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|number| digits && (least..=most).contains(number))
        .ok_or_else(|| format!("{text:?} is not a {name}"))
}

#[cfg(test)]
mod tests;
