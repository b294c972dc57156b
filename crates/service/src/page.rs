//! Pagination as EC2 does it: `MaxResults` items, then an opaque `NextToken`.
//!
//! The token is the key of the last item shown, so a page goes on correctly while items come and
//! go. A token that this region did not issue for the operation is refused.

use crate::error::Error;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A page of items and the token of the next one.
#[derive(Debug)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Token of the next page; `None` on the last.
    pub next_token: Option<String>,
}

/// Cuts a page out of `items`, which are ordered by `key`.
///
/// # Errors
/// `InvalidParameterValue` when `max_results` is outside `range` or the token is not one.
pub fn page<T>(
    mut items: Vec<T>,
    key: impl Fn(&T) -> &str,
    max_results: Option<i32>,
    next_token: Option<&str>,
    range: std::ops::RangeInclusive<i32>,
) -> Result<Page<T>, Error> {
    let limit = match max_results {
        None => usize::MAX,
        Some(n) if range.contains(&n) => usize::try_from(n).unwrap_or(0),
        Some(n) => {
            return Err(Error::invalid_parameter_value(format!(
                "Value ( {n} ) for parameter maxResults is invalid. Expecting a value between {} and {}.",
                range.start(),
                range.end()
            )));
        }
    };
    if let Some(token) = next_token.filter(|t| !t.is_empty()) {
        let after = decode(token)?;
        items.retain(|item| key(item) > after.as_str());
    }
    let mut next_token = None;
    if items.len() > limit {
        items.truncate(limit);
        next_token = items.last().map(|item| encode(key(item)));
    }
    Ok(Page { items, next_token })
}

fn encode(key: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("1:{key}"))
}

fn decode(token: &str) -> Result<String, Error> {
    URL_SAFE_NO_PAD
        .decode(token)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .and_then(|text| text.strip_prefix("1:").map(str::to_owned))
        .ok_or_else(|| Error::invalid_parameter_value("Unable to parse pagination token"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_cover_everything_once() {
        let all: Vec<String> = (0..23).map(|n| format!("i-{n:03}")).collect();
        let mut seen = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let page =
                page(all.clone(), |s| s.as_str(), Some(5), token.as_deref(), 5..=1000).unwrap();
            seen.extend(page.items);
            token = page.next_token;
            if token.is_none() {
                break;
            }
        }
        assert_eq!(seen, all);
    }

    #[test]
    fn bad_tokens_and_sizes_are_refused() {
        let items = || vec!["a".to_owned()];
        assert!(page(items(), |s| s.as_str(), Some(4), None, 5..=10).is_err());
        assert!(page(items(), |s| s.as_str(), None, Some("%%"), 5..=10).is_err());
        assert!(page(items(), |s| s.as_str(), None, Some(""), 5..=10).is_ok());
    }
}
