//! Percent-decoding and order.

use crate::DecodeError;
use crate::text::percent_decode;
use std::borrow::Cow;
use std::cmp::Ordering;

/// No operation takes as many; a form that has more is refused before it is sorted. 10,001 filters,
/// which EC2 refuses by name, are 20,002 parameters.
const MAX_PARAMETERS: usize = 50_000;

/// A parsed form: parameters sorted by the segments of their names.
#[derive(Clone, Debug, Default)]
pub struct Form<'a> {
    pub(super) entries: Vec<Entry<'a>>,
}

#[derive(Clone, Debug)]
pub(super) struct Entry<'a> {
    pub(super) name: Cow<'a, str>,
    pub(super) value: Cow<'a, str>,
}

impl<'a> Form<'a> {
    /// Reads the query string and the body of a request.
    pub fn parse(query: &'a str, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut entries = Vec::new();
        for part in [query.as_bytes(), body] {
            for pair in part.split(|byte| *byte == b'&') {
                if pair.is_empty() {
                    continue;
                }
                if entries.len() == MAX_PARAMETERS {
                    return Err(DecodeError::TooMany("parameters".to_owned()));
                }
                let equals = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
                let name = percent_decode(&pair[..equals], true)?;
                if name.is_empty() {
                    return Err(DecodeError::Malformed("a parameter has no name".to_owned()));
                }
                let value = percent_decode(pair.get(equals + 1..).unwrap_or_default(), true)?;
                entries.push(Entry { name, value });
            }
        }
        entries.sort_by(|a, b| compare(&a.name, &b.name));
        Ok(Form { entries })
    }

    /// The value of a parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.entries.binary_search_by(|entry| compare(&entry.name, name));
        found.ok().map(|index| &*self.entries[index].value)
    }

    /// How many parameters there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// By segment; numbers by value. `A` < `A.1` < `A.2` < `A.10` < `A.B` < `A1`.
pub(super) fn compare(a: &str, b: &str) -> Ordering {
    let mut left = a.split('.');
    let mut right = b.split('.');
    loop {
        match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(a), Some(b)) => match compare_segments(a, b) {
                Ordering::Equal => {}
                other => return other,
            },
        }
    }
}

fn compare_segments(a: &str, b: &str) -> Ordering {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match (is_number(a), is_number(b)) {
        // Without leading zeros (refused later) a longer number is a larger one.
        (true, true) => a.len().cmp(&b.len()).then_with(|| a.cmp(b)),
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => a.cmp(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_by_segment_and_numbers_by_value() {
        let names = ["A", "A.1", "A.1.B", "A.2", "A.10", "A.B", "A1", "B"];
        for pair in names.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
        }
    }

    #[test]
    fn escapes() {
        let form = Form::parse("a=%e2%82%AC+1&b", b"c=d=e&&").expect("well-formed");
        assert_eq!(form.get("a"), Some("€ 1"));
        assert_eq!(form.get("b"), Some(""));
        assert_eq!(form.get("c"), Some("d=e"));
        for bad in ["a=%", "a=%4", "a=%zz", "a=%ff", "=b", "%ff=1"] {
            assert!(matches!(Form::parse(bad, b""), Err(DecodeError::Malformed(_))), "{bad}");
        }
        assert!(matches!(Form::parse("", b"a=\xff"), Err(DecodeError::Malformed(_))));
    }

    #[test]
    fn a_huge_form_is_refused() {
        let body = "a=&".repeat(MAX_PARAMETERS + 1);
        assert!(matches!(Form::parse("", body.as_bytes()), Err(DecodeError::TooMany(_))));
    }
}
