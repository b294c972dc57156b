//! The two forms in which a request states its time, without a calendar library: this runs on
//! every request.

use base::Timestamp;

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// ISO 8601 basic format in UTC, `20150830T123600Z`, and nothing else.
pub(super) fn parse_basic(text: &[u8]) -> Option<Timestamp> {
    let text: &[u8; 16] = text.try_into().ok()?;
    if text[8] != b'T' || text[15] != b'Z' {
        return None;
    }
    let n = |from: usize, to: usize| number(&text[from..to]);
    timestamp([n(0, 4)?, n(4, 6)?, n(6, 8)?], [n(9, 11)?, n(11, 13)?, n(13, 15)?])
}

/// The form of HTTP's `Date` header (RFC 9110 5.6.7), `Sun, 30 Aug 2015 12:36:00 GMT`.
pub(super) fn parse_http(text: &[u8]) -> Option<Timestamp> {
    let text: &[u8; 29] = text.try_into().ok()?;
    let month = MONTHS.iter().position(|m| m.as_bytes() == &text[8..11])?;
    let marks = [(3, b','), (4, b' '), (7, b' '), (11, b' '), (16, b' '), (19, b':'), (22, b':')];
    if marks.iter().any(|(at, mark)| text[*at] != *mark) || &text[25..] != b" GMT" {
        return None;
    }
    let n = |from: usize, to: usize| number(&text[from..to]);
    let month = i64::try_from(month).ok()? + 1;
    timestamp([n(12, 16)?, month, n(5, 7)?], [n(17, 19)?, n(20, 22)?, n(23, 25)?])
}

/// `20150830T123600Z`. Years outside 0 to 9999 are clamped.
pub(super) fn basic(at: Timestamp) -> [u8; 16] {
    let seconds = at.0.div_euclid(1000).clamp(-62_167_219_200, 253_402_300_799);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let [year, month, day] = civil_from_days(days);
    let mut text = *b"00000000T000000Z";
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    let fields = [(0, 4, year), (4, 6, month), (6, 8, day), (9, 11, h), (11, 13, m), (13, 15, s)];
    for (from, to, mut value) in fields {
        for digit in text[from..to].iter_mut().rev() {
            *digit = b"0123456789"[usize::try_from(value % 10).unwrap_or(0)];
            value /= 10;
        }
    }
    text
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |value, digit| {
        digit.is_ascii_digit().then(|| value * 10 + i64::from(digit - b'0'))
    })
}

fn timestamp(date: [i64; 3], time: [i64; 3]) -> Option<Timestamp> {
    let [hour, minute, second] = time;
    let days = days_from_civil(date);
    // 30 February becomes 2 March on the way through days, and so betrays itself.
    if civil_from_days(days) != date || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    Some(Timestamp((days * 86_400 + hour * 3600 + minute * 60 + second) * 1000))
}

/// Days since 1970-01-01 of year, month, day (Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms").
fn days_from_civil([year, month, day]: [i64; 3]) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> [i64; 3] {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    [year_of_era + era * 400 + i64::from(month <= 2), month, day]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_forms_name_the_same_second() {
        let at = Some(Timestamp(1_440_938_160_000));
        assert_eq!(parse_basic(b"20150830T123600Z"), at);
        assert_eq!(parse_http(b"Sun, 30 Aug 2015 12:36:00 GMT"), at);
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in ["20150230T123600Z", "20150830T243600Z", "20151330T123600Z", "20150830 123600Z"]
        {
            assert_eq!(parse_basic(text.as_bytes()), None, "{text}");
        }
        for text in ["2015-08-30T12:36:00Z", "20150830T123600", "2015083\u{663}T12360Z", ""] {
            assert_eq!(parse_basic(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse_http(b"Sun, 30 Foo 2015 12:36:00 GMT"), None);
        assert_eq!(parse_http(b"Sun, 30 Aug 2015 12:36:00 CET"), None);
    }

    proptest! {
        #[test]
        fn agrees_with_the_calendar(seconds in 0i64..253_402_300_799) {
            let at = Timestamp(seconds * 1000);
            let text = at.format("%Y%m%dT%H%M%SZ");
            prop_assert_eq!(&basic(at)[..], text.as_bytes());
            prop_assert_eq!(parse_basic(text.as_bytes()), Some(at));
            let http = at.format("%a, %d %b %Y %H:%M:%S GMT");
            prop_assert_eq!(parse_http(http.as_bytes()), Some(at));
        }
    }
}
