//! A form to a shape.

use super::FormStyle;
use super::parse::{Entry, Form};
use crate::schema::{Kind, Member};
use crate::shape::{Decoder, Shape, TakeEntry, TakeItem};
use crate::xml::{item_name, map_names};
use crate::{DecodeError, Document, text};
use base::Timestamp;

/// Deeper requests are refused. EC2's deepest input has 8 levels.
const MAX_DEPTH: usize = 32;

impl Form<'_> {
    /// Reads an input. Names that every request may have (`Action`, `Version`, the parameters of a
    /// presigned URL and of old signatures) are skipped unless the shape has such a member.
    pub fn decode(&self, style: FormStyle, into: &mut dyn Shape) -> Result<(), DecodeError> {
        let mut decoder = FormDecoder { style, entries: &self.entries, used: 0, depth: 0 };
        decoder.members(into.schema().members(), into)
    }
}

/// Stands on a value: the entries whose names begin with its own, of which `used` bytes are read.
struct FormDecoder<'a> {
    style: FormStyle,
    entries: &'a [Entry<'a>],
    used: usize,
    depth: usize,
}

fn is_common(name: &str) -> bool {
    matches!(
        name,
        "Action"
            | "Version"
            | "AWSAccessKeyId"
            | "SecurityToken"
            | "Signature"
            | "SignatureMethod"
            | "SignatureVersion"
            | "Timestamp"
            | "Expires"
    ) || name.get(..6).is_some_and(|prefix| prefix.eq_ignore_ascii_case("X-Amz-"))
}

impl<'a> FormDecoder<'a> {
    /// The next segment of an entry's name; `None` if the name ends here.
    fn segment(&self, entry: &'a Entry<'_>) -> Option<&'a str> {
        let rest = entry.name.get(self.used..).filter(|rest| !rest.is_empty())?;
        let rest = if self.used == 0 { rest } else { rest.strip_prefix('.')? };
        Some(rest.split('.').next().unwrap_or(rest))
    }

    /// The groups of entries by next segment, each with a decoder that stands on it.
    fn groups(&self) -> Result<impl Iterator<Item = (&'a str, FormDecoder<'a>)>, DecodeError> {
        if self.depth == MAX_DEPTH {
            return Err(DecodeError::TooMany("levels of names".to_owned()));
        }
        let (style, used, depth) = (self.style, self.used, self.depth);
        let stand = FormDecoder { style, entries: &[], used, depth };
        let mut rest = self.entries;
        Ok(std::iter::from_fn(move || {
            let segment = stand.segment(rest.first()?).unwrap_or_default();
            let same = |entry: &Entry<'_>| stand.segment(entry).unwrap_or_default() == segment;
            let (group, after) = rest.split_at(rest.partition_point(same));
            rest = after;
            let used = used + usize::from(used > 0) + segment.len();
            Some((segment, FormDecoder { style, entries: group, used, depth: depth + 1 }))
        }))
    }

    /// The name that was sent for this value, or for the first below it.
    fn path(&self) -> String {
        self.entries.first().map_or_else(String::new, |entry| entry.name.clone().into_owned())
    }

    /// Whether the only thing that is said is that the value is empty: `Name=`.
    fn is_empty_value(&self) -> bool {
        matches!(self.entries, [entry] if entry.name.len() == self.used && entry.value.is_empty())
    }

    fn members(
        &mut self,
        members: &'static [Member],
        into: &mut dyn Shape,
    ) -> Result<(), DecodeError> {
        if self.used > 0 && self.is_empty_value() {
            return Ok(());
        }
        for (segment, mut group) in self.groups()? {
            let matches = |member: &Member| {
                // Compared as the name is written, without building it.
                let (name, capital) = self.style.segment(member);
                name == segment
                    || capital
                        && name.len() == segment.len()
                        && name[..1].eq_ignore_ascii_case(&segment[..1])
                        && segment.as_bytes()[0].is_ascii_uppercase()
                        && name.as_bytes()[1..] == segment.as_bytes()[1..]
            };
            match members.iter().position(matches) {
                Some(index) if !segment.is_empty() => into.decode(index, &mut group)?,
                _ if self.used == 0 && is_common(&group.path()) => {
                    // Two actions in one request: which was meant?
                    if group.entries.len() > 1 {
                        return Err(DecodeError::Duplicate(group.path()));
                    }
                }
                _ => return Err(DecodeError::UnknownParameter(group.path())),
            }
        }
        Ok(())
    }

    fn text(&self) -> Result<&'a str, DecodeError> {
        match self.entries {
            [entry, rest @ ..] if entry.name.len() == self.used => match rest.first() {
                None => Ok(&entry.value),
                Some(next) if next.name.len() == self.used => {
                    Err(DecodeError::Duplicate(self.path()))
                }
                Some(next) => Err(DecodeError::UnknownParameter(next.name.to_string())),
            },
            _ => Err(DecodeError::UnknownParameter(self.path())),
        }
    }

    fn invalid(&self, member: &'static Member, value: &str) -> DecodeError {
        match DecodeError::invalid(member, value) {
            DecodeError::InvalidValue { value, expected, .. } => {
                DecodeError::InvalidValue { path: self.path(), value, expected }
            }
            other => other,
        }
    }

    fn parsed<T>(
        &self,
        member: &'static Member,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, DecodeError> {
        let text = self.text()?;
        parse(text).ok_or_else(|| self.invalid(member, text))
    }

    /// The items of a list or map in the order of their indexes, which must be 1, 2, 3…
    fn indexed(&mut self) -> Result<Vec<FormDecoder<'a>>, DecodeError> {
        let mut items = Vec::new();
        if self.is_empty_value() {
            return Ok(items);
        }
        for (segment, group) in self.groups()? {
            let expected = items.len() + 1;
            let is_number = !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_digit());
            if !is_number {
                return Err(DecodeError::UnknownParameter(group.path()));
            }
            if segment.starts_with('0') || segment.parse() != Ok(expected) {
                return Err(DecodeError::BadIndex { path: group.path(), expected });
            }
            items.push(group);
        }
        Ok(items)
    }

    /// Steps into the element around the items (`.member`, `.entry`).
    fn wrapped(&mut self, name: &str) -> Result<Option<FormDecoder<'a>>, DecodeError> {
        if self.is_empty_value() {
            return Ok(None);
        }
        let mut found = None;
        for (segment, group) in self.groups()? {
            if segment != name {
                return Err(DecodeError::UnknownParameter(group.path()));
            }
            found = Some(group);
        }
        Ok(found)
    }
}

impl Decoder for FormDecoder<'_> {
    fn string(&mut self, _: &'static Member) -> Result<String, DecodeError> {
        self.text().map(str::to_owned)
    }
    fn integer(&mut self, member: &'static Member, min: i64, max: i64) -> Result<i64, DecodeError> {
        let in_range = |value: &i64| (min..=max).contains(value);
        self.parsed(member, |text| text.parse().ok().filter(in_range))
    }
    fn boolean(&mut self, member: &'static Member) -> Result<bool, DecodeError> {
        // EC2 takes any case, and the command line tools of old sent "True".
        self.parsed(member, |text| match text {
            _ if text.eq_ignore_ascii_case("true") => Some(true),
            _ if text.eq_ignore_ascii_case("false") => Some(false),
            "1" => Some(true),
            "0" => Some(false),
            _ => None,
        })
    }
    fn double(&mut self, member: &'static Member) -> Result<f64, DecodeError> {
        self.parsed(member, text::parse_double)
    }
    fn blob(&mut self, member: &'static Member) -> Result<Vec<u8>, DecodeError> {
        self.parsed(member, text::parse_base64)
    }
    fn timestamp(&mut self, member: &'static Member) -> Result<Timestamp, DecodeError> {
        self.parsed(member, text::parse_time)
    }
    fn document(&mut self, member: &'static Member) -> Result<Document, DecodeError> {
        Err(self.invalid(member, ""))
    }
    fn structure(
        &mut self,
        member: &'static Member,
        into: &mut dyn Shape,
    ) -> Result<(), DecodeError> {
        self.members(member.target.members(), into)
    }
    fn list(
        &mut self,
        member: &'static Member,
        take: &mut TakeItem<'_>,
    ) -> Result<(), DecodeError> {
        let Kind::List(item) = member.target.kind else { return Ok(()) };
        let items = if self.style.is_flattened(member) {
            self.indexed()?
        } else {
            match self.wrapped(item_name(item))? {
                Some(mut inner) => inner.indexed()?,
                None => Vec::new(),
            }
        };
        for mut decoder in items {
            take(item, &mut decoder)?;
        }
        Ok(())
    }
    fn map(
        &mut self,
        member: &'static Member,
        take: &mut TakeEntry<'_>,
    ) -> Result<(), DecodeError> {
        let Kind::Map(key, item) = member.target.kind else { return Ok(()) };
        let [key_name, value_name] = map_names(key, item);
        let entries = if self.style.is_flattened(member) {
            self.indexed()?
        } else {
            match self.wrapped("entry")? {
                Some(mut inner) => inner.indexed()?,
                None => Vec::new(),
            }
        };
        for entry in entries {
            let (mut name, mut value) = (None, None);
            for (segment, group) in entry.groups()? {
                match segment {
                    _ if segment == key_name => name = Some(group.text()?.to_owned()),
                    _ if segment == value_name => value = Some(group),
                    _ => return Err(DecodeError::UnknownParameter(group.path())),
                }
            }
            let (Some(name), Some(mut value)) = (name, value) else {
                return Err(DecodeError::InvalidValue {
                    path: entry.path(),
                    value: String::new(),
                    expected: "key and value",
                });
            };
            take(name, item, &mut value)?;
        }
        Ok(())
    }
}
