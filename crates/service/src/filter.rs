//! EC2's filters: named, valued, `*` and `?` as wildcards, values or-ed, filters and-ed.
//!
//! Each operation has a table of the filters that its documentation names; an unknown name is
//! `InvalidParameterValue`, as in AWS. `tag:KEY`, `tag-key` and `tag-value` come with every table.
//! (EC2 API Reference, "Filter"; EC2 User Guide, "List and filter your resources".)

use crate::error::Error;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Most filters in one request, and most values in one filter (EC2 API Reference).
pub const MAX_FILTERS: usize = 50;
/// Most values over all filters of one request.
pub const MAX_VALUES: usize = 200;

/// The texts by which an item matches a filter.
pub type Values<'a> = Vec<Cow<'a, str>>;

/// One row of an operation's filter table: the documented name and what it looks at.
pub type Field<T> = (&'static str, for<'a> fn(&'a T) -> Values<'a>);

/// A filter of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Name, such as `instance-state-name` or `tag:Name`.
    pub name: String,
    /// Accepted values with wildcards.
    pub values: Vec<String>,
}

/// A checked set of filters over items of type `T`.
#[derive(Debug)]
pub struct Filters<'t, T> {
    checks: Vec<Check<'t, T>>,
}

#[derive(Debug)]
struct Check<'t, T> {
    kind: Kind<'t, T>,
    patterns: Vec<String>,
}

#[derive(Debug)]
enum Kind<'t, T> {
    Field(&'t Field<T>),
    Tag(String),
    TagKey,
    TagValue,
}

impl<'t, T> Filters<'t, T> {
    /// Checks the filters of a request against an operation's table.
    ///
    /// # Errors
    /// `InvalidParameterValue` for an unknown filter, `FilterLimitExceeded` for too many.
    pub fn new(requested: Vec<Filter>, table: &'t [Field<T>]) -> Result<Self, Error> {
        if requested.len() > MAX_FILTERS {
            return Err(Error::client(
                "FilterLimitExceeded",
                format!("The maximum number of filters specified exceeded. Maximum: {MAX_FILTERS}"),
            ));
        }
        if requested.iter().map(|f| f.values.len()).sum::<usize>() > MAX_VALUES {
            return Err(Error::client(
                "FilterLimitExceeded",
                format!(
                    "The maximum number of filter values specified on a single call is {MAX_VALUES}"
                ),
            ));
        }
        let checks = requested
            .into_iter()
            .map(|filter| {
                if filter.name.is_empty() {
                    return Err(Error::missing_parameter("Filter.Name"));
                }
                if filter.values.is_empty() {
                    return Err(Error::invalid_parameter_value(
                        "The filter 'null' is invalid".to_owned(),
                    ));
                }
                let kind = if let Some(field) = table.iter().find(|(name, _)| *name == filter.name)
                {
                    Kind::Field(field)
                } else if let Some(key) = filter.name.strip_prefix("tag:") {
                    Kind::Tag(key.to_owned())
                } else if filter.name == "tag-key" {
                    Kind::TagKey
                } else if filter.name == "tag-value" {
                    Kind::TagValue
                } else {
                    return Err(Error::invalid_parameter_value(format!(
                        "The filter '{}' is invalid",
                        filter.name
                    )));
                };
                Ok(Check { kind, patterns: filter.values })
            })
            .collect::<Result<_, Error>>()?;
        Ok(Filters { checks })
    }

    /// Whether an item with these tags passes every filter.
    pub fn accept(&self, item: &T, tags: &BTreeMap<String, String>) -> bool {
        self.checks.iter().all(|check| {
            let any = |text: &str| check.patterns.iter().any(|p| matches(p, text));
            match &check.kind {
                Kind::Field((_, values)) => values(item).iter().any(|text| any(text)),
                Kind::Tag(key) => tags.get(key).is_some_and(|value| any(value)),
                Kind::TagKey => tags.keys().any(|key| any(key)),
                Kind::TagValue => tags.values().any(|value| any(value)),
            }
        })
    }

    /// The values of the one filter with this name when it has no wildcard: lets a handler look
    /// records up instead of scanning.
    pub fn exact(&self, name: &str) -> Option<&[String]> {
        let mut found = self
            .checks
            .iter()
            .filter(|check| matches!(&check.kind, Kind::Field((field, _)) if *field == name));
        let check = found.next()?;
        let plain = check.patterns.iter().all(|p| !p.contains(['*', '?', '\\']));
        (plain && found.next().is_none()).then_some(check.patterns.as_slice())
    }
}

/// Whether `text` matches `pattern`: `*` is any run, `?` any one character, `\` takes the next
/// character literally. Linear in the product of the lengths at worst, never exponential.
pub fn matches(pattern: &str, text: &str) -> bool {
    if !pattern.contains(['*', '?', '\\']) {
        return pattern == text;
    }
    let mut tokens: Vec<(char, bool)> = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => tokens.push((chars.next().unwrap_or('\\'), false)),
            '*' | '?' => tokens.push((c, true)),
            _ => tokens.push((c, false)),
        }
    }
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match tokens.get(p) {
            Some(('*', true)) => {
                star = Some((p, t));
                p += 1;
            }
            Some(('?', true)) => {
                p += 1;
                t += 1;
            }
            Some((c, false)) if *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((star_p, star_t)) => {
                    p = star_p + 1;
                    t = star_t + 1;
                    star = Some((star_p, star_t + 1));
                }
                None => return false,
            },
        }
    }
    tokens[p..].iter().all(|token| *token == ('*', true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wildcards() {
        for (pattern, text, expected) in [
            ("web", "web", true),
            ("web", "Web", false),
            ("w*", "web", true),
            ("*b", "web", true),
            ("*e*", "web", true),
            ("w?b", "web", true),
            ("w?", "web", false),
            ("*", "", true),
            ("?", "", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("amzn2-ami-hvm-*", "amzn2-ami-hvm-2.0-x86_64-gp2", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn a_pattern_of_its_own_text_matches(text in "[a-z*?\\\\]{0,12}") {
            let escaped: String = text.chars().flat_map(|c| ['\\', c]).collect();
            prop_assert!(matches(&escaped, &text));
            let stars = format!("*{}*", escaped);
            let around = format!("xx{}yy", text);
            prop_assert!(matches(&stars, &around));
        }
    }

    #[derive(Debug)]
    struct Thing {
        state: &'static str,
    }

    const TABLE: &[Field<Thing>] = &[("state", |t| vec![t.state.into()])];

    fn filter(name: &str, values: &[&str]) -> Filter {
        Filter { name: name.into(), values: values.iter().map(|v| (*v).to_owned()).collect() }
    }

    #[test]
    fn values_are_alternatives_and_filters_add_up() {
        let tags = BTreeMap::from([("Name".to_owned(), "web".to_owned())]);
        let thing = Thing { state: "running" };
        let accept = |f: Vec<Filter>| Filters::new(f, TABLE).unwrap().accept(&thing, &tags);
        assert!(accept(vec![filter("state", &["stopped", "running"])]));
        assert!(accept(vec![filter("state", &["run*"]), filter("tag:Name", &["web"])]));
        assert!(!accept(vec![filter("state", &["running"]), filter("tag:Name", &["db"])]));
        assert!(accept(vec![filter("tag-key", &["Name"])]));
        assert!(!accept(vec![filter("tag-value", &["Name"])]));
    }

    #[test]
    fn unknown_filters_are_refused() {
        let error = Filters::new(vec![filter("colour", &["red"])], TABLE).unwrap_err();
        assert_eq!(error.code, "InvalidParameterValue");
        assert_eq!(error.message, "The filter 'colour' is invalid");
        let many = (0..10_001).map(|_| filter("state", &["x"])).collect();
        assert_eq!(Filters::new(many, TABLE).unwrap_err().code, "FilterLimitExceeded");
    }
}
