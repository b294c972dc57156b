//! Numbers, times and escapes as text, without an allocation: what an answer with 1,000 instances writes
//! tens of thousands of times.

use crate::DecodeError;
use crate::schema::TimestampFormat;
use base::Timestamp;
use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use std::borrow::Cow;

/// Appends a decimal integer.
pub(crate) fn push_integer(out: &mut Vec<u8>, value: i64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = value.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends a number of a fixed width.
fn push_padded(out: &mut Vec<u8>, value: i64, width: u32) {
    for place in (0..width).rev() {
        out.push(b'0' + (value / 10_i64.pow(place) % 10) as u8);
    }
}

/// Appends a double as XML and query strings spell it (`NaN`, `Infinity`).
pub(crate) fn push_double(out: &mut Vec<u8>, value: f64) {
    if value.is_nan() {
        out.extend_from_slice(b"NaN");
    } else if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 { b"Infinity" } else { b"-Infinity" });
    } else {
        out.extend_from_slice(format!("{value:?}").as_bytes());
    }
}

/// A double as XML and query strings spell it.
pub(crate) fn parse_double(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        // Rust would take "inf" and "nan" as well.
        _ if text.bytes().any(|b| b.is_ascii_alphabetic() && !matches!(b, b'e' | b'E')) => None,
        _ => text.parse().ok(),
    }
}

/// Decodes percent escapes, and `+` as a space in forms and queries.
pub(crate) fn percent_decode(bytes: &[u8], plus: bool) -> Result<Cow<'_, str>, DecodeError> {
    let malformed = |why: &str| DecodeError::Malformed(why.to_owned());
    if !bytes.iter().any(|byte| *byte == b'%' || plus && *byte == b'+') {
        let text = std::str::from_utf8(bytes).map_err(|_| malformed("not UTF-8"))?;
        return Ok(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'+' if plus => out.push(b' '),
            b'%' => {
                let digit = |index: usize| {
                    tail.get(index).and_then(|digit| char::from(*digit).to_digit(16))
                };
                let (Some(high), Some(low)) = (digit(0), digit(1)) else {
                    return Err(malformed("a % without two hexadecimal digits"));
                };
                out.push((high * 16 + low) as u8);
                rest = &tail[2..];
            }
            byte => out.push(*byte),
        }
    }
    String::from_utf8(out).map(Cow::Owned).map_err(|_| malformed("not UTF-8"))
}

/// Percent-encodes all but RFC 3986's unreserved characters and `keep`.
pub(crate) fn push_percent(out: &mut Vec<u8>, bytes: &[u8], keep: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in bytes {
        let unreserved = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
        if unreserved || keep.contains(&byte) {
            out.push(byte);
        } else {
            out.push(b'%');
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        }
    }
}

/// Appends standard base64 with padding.
pub(crate) fn push_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
}

/// Standard base64, with or without padding.
pub(crate) fn parse_base64(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    LENIENT.decode(text.trim()).ok()
}

/// Year, month, day, hour, minute, second, millisecond, and the day of the week (0 is Sunday).
struct Civil {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    millis: i64,
    weekday: i64,
}

impl Civil {
    /// After Howard Hinnant's `civil_from_days`.
    fn new(at: Timestamp) -> Self {
        let (days, of_day) = (at.0.div_euclid(86_400_000), at.0.rem_euclid(86_400_000));
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let of_era = shifted.rem_euclid(146_097);
        let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        Civil {
            year: year + era * 400 + i64::from(month <= 2),
            month,
            day,
            hour: of_day / 3_600_000,
            minute: of_day / 60_000 % 60,
            second: of_day / 1_000 % 60,
            millis: of_day % 1_000,
            weekday: (days + 4).rem_euclid(7),
        }
    }
}

/// Milliseconds since 1970 of a date; after Howard Hinnant's `days_from_civil`.
fn millis_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * shifted + 2) / 5 + day - 1;
    let of_era_days = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    (era * 146_097 + of_era_days - 719_468) * 86_400_000
}

/// Appends `2026-11-21T10:00:23.045Z`, or without the fraction.
pub(crate) fn push_iso(out: &mut Vec<u8>, at: Timestamp, fraction: bool) {
    let civil = Civil::new(at);
    for (value, width, after) in [
        (civil.year, 4, b'-'),
        (civil.month, 2, b'-'),
        (civil.day, 2, b'T'),
        (civil.hour, 2, b':'),
        (civil.minute, 2, b':'),
    ] {
        push_padded(out, value, width);
        out.push(after);
    }
    push_padded(out, civil.second, 2);
    if fraction {
        out.push(b'.');
        push_padded(out, civil.millis, 3);
    }
    out.push(b'Z');
}

const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Appends `Sat, 21 Nov 2026 10:00:23 GMT`.
pub(crate) fn push_rfc822(out: &mut Vec<u8>, at: Timestamp) {
    let civil = Civil::new(at);
    let weekday = WEEKDAYS[usize::try_from(civil.weekday).unwrap_or(0) % 7];
    let month = MONTHS[usize::try_from(civil.month - 1).unwrap_or(0) % 12];
    out.extend_from_slice(weekday.as_bytes());
    out.extend_from_slice(b", ");
    push_padded(out, civil.day, 2);
    out.push(b' ');
    out.extend_from_slice(month.as_bytes());
    out.push(b' ');
    push_padded(out, civil.year, 4);
    for (value, before) in [(civil.hour, b' '), (civil.minute, b':'), (civil.second, b':')] {
        out.push(before);
        push_padded(out, value, 2);
    }
    out.extend_from_slice(b" GMT");
}

/// Appends seconds since 1970, with a fraction only if there is one.
pub(crate) fn push_unix(out: &mut Vec<u8>, at: Timestamp) {
    if at.0 < 0 && at.0 > -1_000 {
        out.push(b'-');
    }
    push_integer(out, at.0 / 1_000);
    let millis = (at.0 % 1_000).abs();
    if millis != 0 {
        out.push(b'.');
        push_padded(out, millis, 3);
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
}

/// Appends a time in the given form; ISO 8601 by default, with a fraction if it is not zero.
pub(crate) fn push_time(out: &mut Vec<u8>, format: TimestampFormat, at: Timestamp) {
    match format {
        TimestampFormat::Default | TimestampFormat::Iso8601 => {
            push_iso(out, at, at.0 % 1_000 != 0);
        }
        TimestampFormat::Rfc822 => push_rfc822(out, at),
        TimestampFormat::UnixTimestamp => push_unix(out, at),
    }
}

/// Any of the three forms; ISO 8601 with or without a fraction, an offset, or a time of day.
pub(crate) fn parse_time(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if let Some(at) = Timestamp::parse_iso(text) {
        return Some(at);
    }
    let is_number = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+' | b'e' | b'E');
    if text.bytes().all(is_number)
        && let Some(at) = text.parse::<f64>().ok().and_then(unix_seconds)
    {
        return Some(at);
    }
    if text.len() == 10 {
        return Timestamp::parse_iso(&format!("{text}T00:00:00Z"));
    }
    if text.len() >= 19 && text.as_bytes()[10] == b'T' {
        return Timestamp::parse_iso(&format!("{text}Z"));
    }
    parse_rfc822(text)
}

/// Seconds since 1970, if a timestamp can hold them.
pub(crate) fn unix_seconds(seconds: f64) -> Option<Timestamp> {
    // Year 9999, where ISO 8601's four digits end.
    (seconds.abs() < 253_402_300_800.0).then(|| Timestamp((seconds * 1_000.0).round() as i64))
}

fn parse_rfc822(text: &str) -> Option<Timestamp> {
    let mut words = text.split_once(", ")?.1.split(' ');
    let number = |text: &str, limit: i64| {
        let value = text.parse::<i64>().ok()?;
        (0..=limit).contains(&value).then_some(value)
    };
    let day = number(words.next()?, 31)?;
    let month = words.next()?;
    let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
    let year = number(words.next()?, 9_999)?;
    let mut clock = words.next()?.split(':');
    let hour = number(clock.next()?, 23)?;
    let minute = number(clock.next()?, 59)?;
    let second = clock.next()?.parse::<f64>().ok().filter(|s| (0.0..61.0).contains(s))?;
    (words.next()? == "GMT").then(|| {
        let minutes = hour * 60 + minute;
        let millis = (second * 1_000.0).round() as i64;
        Timestamp(millis_from_civil(year, month, day) + minutes * 60_000 + millis)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(write: impl Fn(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn forms_of_a_time() {
        let at = Timestamp(1_795_255_223_045);
        assert_eq!(text(|out| push_iso(out, at, true)), "2026-11-21T10:00:23.045Z");
        assert_eq!(text(|out| push_iso(out, at, false)), "2026-11-21T10:00:23Z");
        assert_eq!(text(|out| push_rfc822(out, at)), "Sat, 21 Nov 2026 10:00:23 GMT");
        assert_eq!(text(|out| push_unix(out, at)), "1795255223.045");
        assert_eq!(text(|out| push_unix(out, Timestamp(-500))), "-0.5");
        assert_eq!(parse_time("2026-11-21"), Some(Timestamp(1_795_219_200_000)));
        assert_eq!(parse_time("2026-11-21T10:00:23"), Some(Timestamp(1_795_255_223_000)));
        assert_eq!(parse_time("tomorrow"), None);
        assert_eq!(parse_time("1e300"), None);
        assert_eq!(text(|out| push_double(out, 1.0)), "1.0");
        assert_eq!(parse_double("inf"), None);
    }

    proptest! {
        #[test]
        fn integers_are_decimal(value: i64) {
            prop_assert_eq!(text(|out| push_integer(out, value)), value.to_string());
        }

        #[test]
        fn times_come_back(millis in -62_135_596_800_000_i64..253_402_300_799_999) {
            let at = Timestamp(millis);
            prop_assert_eq!(text(|out| push_iso(out, at, true)), at.iso_millis());
            prop_assert_eq!(parse_time(&text(|out| push_iso(out, at, true))), Some(at));
            prop_assert_eq!(parse_time(&text(|out| push_unix(out, at))), Some(at));
            let seconds = Timestamp(millis.div_euclid(1_000) * 1_000);
            prop_assert_eq!(parse_time(&text(|out| push_rfc822(out, seconds))), Some(seconds));
        }

        #[test]
        fn any_text_is_a_time_or_none(text in ".{0,40}") {
            let _ = parse_time(&text);
        }
    }
}
