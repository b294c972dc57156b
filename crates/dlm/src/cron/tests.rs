//! [`Cron`] against an oracle that looks at every minute and reads the expression's text anew.

use super::*;
use proptest::prelude::*;

fn at(text: &str) -> Timestamp {
    Timestamp::parse_iso(text).unwrap()
}

fn times(expression: &str, from: &str, count: usize) -> Vec<String> {
    let cron = Cron::parse(expression).unwrap();
    let mut now = at(from);
    let mut times = Vec::new();
    while times.len() < count {
        let Some(next) = cron.next(now) else { break };
        times.push(next.format("%a %Y-%m-%d %H:%M"));
        now = next;
    }
    times
}

#[test]
fn examples_of_the_guide() {
    let from = "2026-01-01T12:00:00Z";
    assert_eq!(
        times("cron(0 10 * * ? *)", from, 2),
        ["Fri 2026-01-02 10:00", "Sat 2026-01-03 10:00"]
    );
    assert_eq!(times("cron(15 12 * * ? *)", from, 1), ["Thu 2026-01-01 12:15"]);
    assert_eq!(
        times("cron(0 18 ? * MON-FRI *)", from, 3),
        ["Thu 2026-01-01 18:00", "Fri 2026-01-02 18:00", "Mon 2026-01-05 18:00"]
    );
    assert_eq!(
        times("cron(0 8 1 * ? *)", from, 2),
        ["Sun 2026-02-01 08:00", "Sun 2026-03-01 08:00"]
    );
    assert_eq!(
        times("cron(0/15 * * * ? *)", from, 2),
        ["Thu 2026-01-01 12:15", "Thu 2026-01-01 12:30"]
    );
    assert_eq!(
        times("cron(0/5 8-17 ? * MON-FRI *)", "2026-01-02T17:52:00Z", 2),
        ["Fri 2026-01-02 17:55", "Mon 2026-01-05 08:00"]
    );
    assert_eq!(
        times("cron(0 9 ? * 2#1 *)", from, 2),
        ["Mon 2026-01-05 09:00", "Mon 2026-02-02 09:00"]
    );
    assert_eq!(
        times("cron(0 0 L * ? *)", from, 2),
        ["Sat 2026-01-31 00:00", "Sat 2026-02-28 00:00"]
    );
    assert_eq!(
        times("cron(0 0 LW * ? *)", from, 2),
        ["Fri 2026-01-30 00:00", "Fri 2026-02-27 00:00"]
    );
    assert_eq!(times("cron(0 0 ? * 6L *)", from, 1), ["Fri 2026-01-30 00:00"]);
    assert_eq!(
        times("cron(0 0 31W * ? *)", from, 2),
        ["Fri 2026-01-30 00:00", "Tue 2026-03-31 00:00"]
    );
    assert_eq!(times("cron(0 0 1W * ? *)", "2026-01-02T00:00:00Z", 1), ["Mon 2026-02-02 00:00"]);
    assert_eq!(times("cron(0 0 29 2 ? *)", from, 1), ["Tue 2028-02-29 00:00"]);
    assert_eq!(times("cron(0 0 1 1 ? 2027)", from, 2), ["Fri 2027-01-01 00:00"]);
    assert_eq!(times("cron(0 0 1 1 ? 2020)", from, 2), [""; 0]);
}

#[test]
fn what_is_no_expression() {
    for (expression, why) in [
        ("0 10 * * ? *", "it is not of the form cron(…)"),
        ("cron(0 10 * * ?)", "it has 5 fields instead of six"),
        ("cron(0 0 17 ? * FRI *)", "it has 7 fields instead of six"),
        ("cron(60 10 * * ? *)", "\"60\" is not a minute"),
        ("cron(0 24 * * ? *)", "\"24\" is not a hour"),
        ("cron(0 10 0 * ? *)", "\"0\" is not a day of month"),
        ("cron(0 10 * 13 ? *)", "\"13\" is not a month"),
        ("cron(0 10 ? * 8 *)", "\"8\" is not a day of week"),
        ("cron(0 10 ? * MON#6 *)", "\"6\" is not a week of month"),
        ("cron(0 10 * * ? 1969)", "\"1969\" is not a year"),
        ("cron(0 10 * * * *)", "one of the two days must be ?"),
        ("cron(0 10 ? * ? *)", "both days are ?"),
        ("cron(30-10 10 * * ? *)", "the minute 30-10 goes backwards"),
        ("cron(0/0 10 * * ? *)", "\"0\" is not a minute"),
        ("cron(+5 10 * * ? *)", "\"+5\" is not a minute"),
        ("cron(, 10 * * ? *)", "\"\" is not a minute"),
    ] {
        assert_eq!(Cron::parse(expression).unwrap_err(), why, "{expression}");
    }
}

/// Whether a part-list matches a number, read from the text each time.
fn matches(field: &str, number: u16, least: u16, names: &[&str]) -> bool {
    let read = |text: &str| -> u16 {
        let word = names.iter().position(|name| *name == text);
        word.map_or_else(|| text.parse().unwrap(), |index| least + u16::try_from(index).unwrap())
    };
    field.split(',').any(|part| {
        let (range, step) = part.split_once('/').unwrap_or((part, ""));
        let (from, to) = match range.split_once('-') {
            Some((from, to)) => (read(from), read(to)),
            None if range == "*" => (least, u16::MAX),
            None => (read(range), if step.is_empty() { read(range) } else { u16::MAX }),
        };
        let step = if step.is_empty() { 1 } else { step.parse().unwrap() };
        number >= from && number <= to && (number - from).is_multiple_of(step)
    })
}

fn day_matches(day: &str, weekday: &str, date: Date) -> bool {
    let (of_month, of_week) = (date.day() as u16, date.weekday().to_sunday_one_offset() as u16);
    let last = date.days_in_month() as u16;
    if weekday != "?" {
        if let Some((name, nth)) = weekday.split_once('#') {
            return matches(name, of_week, 1, &WEEKDAYS)
                && (of_month - 1) / 7 + 1 == nth.parse::<u16>().unwrap();
        }
        if weekday == "L" {
            return of_week == 7;
        }
        if let Some(name) = weekday.strip_suffix('L') {
            return matches(name, of_week, 1, &WEEKDAYS) && of_month + 7 > last;
        }
        return matches(weekday, of_week, 1, &WEEKDAYS);
    }
    let working = |day: u16| {
        let there =
            date.first_of_month().saturating_add(jiff::Span::new().days(i64::from(day) - 1));
        !matches!(there.weekday(), Weekday::Saturday | Weekday::Sunday)
    };
    if day == "L" {
        return of_month == last;
    }
    if day == "LW" {
        return working(of_month) && (of_month + 1..=last).all(|later| !working(later));
    }
    if let Some(wanted) = day.strip_suffix('W') {
        let wanted: u16 = wanted.parse().unwrap();
        if wanted > last || !working(of_month) {
            return false;
        }
        if working(wanted) {
            return of_month == wanted;
        }
        let saturday = wanted == last || !working(wanted + 1);
        let nearest = match (saturday, wanted) {
            (true, 1) => 3,
            (true, _) if wanted > 1 && working(wanted - 1) => wanted - 1,
            (_, wanted) if wanted < last && working(wanted + 1) => wanted + 1,
            // A Sunday that ends the month.
            _ => wanted - 2,
        };
        return of_month == nearest;
    }
    matches(day, of_month, 1, &[])
}

fn oracle(fields: &[String; 6], at: Timestamp) -> bool {
    let time = TimeZone::UTC.to_datetime(jiff::Timestamp::from_millisecond(at.0).unwrap());
    matches(&fields[0], time.minute() as u16, 0, &[])
        && matches(&fields[1], time.hour() as u16, 0, &[])
        && matches(&fields[3], time.month() as u16, 1, &MONTHS)
        && matches(&fields[5], time.year() as u16, 1970, &[])
        && day_matches(&fields[2], &fields[4], time.date())
}

fn set(least: u16, most: u16) -> impl Strategy<Value = String> {
    let range =
        (least..=most, least..=most).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b)));
    let part = prop_oneof![
        3 => Just("*".to_owned()),
        2 => (least..=most).prop_map(|n| n.to_string()),
        1 => range.clone(),
        1 => (range, 1..=5_u16).prop_map(|(range, step)| format!("{range}/{step}")),
        1 => (least..=most, 1..=7_u16).prop_map(|(from, step)| format!("{from}/{step}")),
    ];
    prop::collection::vec(part, 1..3).prop_map(|parts| parts.join(","))
}

fn days() -> impl Strategy<Value = (String, String)> {
    let of_month = prop_oneof![
        4 => set(1, 31),
        1 => Just("L".to_owned()),
        1 => Just("LW".to_owned()),
        2 => (1..=31_u16).prop_map(|day| format!("{day}W")),
    ];
    let of_week = prop_oneof![
        4 => set(1, 7),
        1 => Just("L".to_owned()),
        1 => Just("MON-FRI,SUN".to_owned()),
        1 => (0..7_usize, 1..=5).prop_map(|(day, nth)| format!("{}#{nth}", WEEKDAYS[day])),
        1 => (1..=7).prop_map(|day| format!("{day}L")),
    ];
    prop_oneof![
        of_month.prop_map(|day| (day, "?".to_owned())),
        of_week.prop_map(|day| ("?".to_owned(), day)),
    ]
}

fn month() -> impl Strategy<Value = String> {
    prop_oneof![3 => Just("*".to_owned()), 1 => set(1, 12), 1 => Just("JAN-MAR,OCT".to_owned())]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_next_time_is_the_first_that_matches(
        minute in set(0, 59),
        hour in set(0, 23),
        days in days(),
        month in month(),
        begun in 0..4_000_000_000_i64,
        rest in 0..60_000_i64,
    ) {
        let fields = [minute, hour, days.0, month, days.1, "*".to_owned()];
        let cron = Cron::parse(&format!("cron({})", fields.join(" "))).unwrap();
        let after = Timestamp(begun / 60 * 60_000 + rest);
        let mut minute = Timestamp(begun / 60 * 60_000 + 60_000);
        // Five days of minutes, then only the answer itself.
        let end = minute.plus_millis(5 * 86_400_000);
        let next = cron.next(after).unwrap_or(Timestamp(i64::MAX));
        while minute < end && minute < next {
            prop_assert!(!oracle(&fields, minute), "{:?} {}", fields, minute.iso_seconds());
            minute = minute.plus_millis(60_000);
        }
        if next.0 < i64::MAX {
            prop_assert!(next > after);
            prop_assert!(oracle(&fields, next), "{:?} {}", fields, next.iso_seconds());
        }
    }
}
