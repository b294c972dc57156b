//! Values as texts: labels, query parameters and headers.

use crate::schema::{Kind, Location, Member, TimestampFormat, flag};
use crate::shape::{Decoder, Encoder, List, Map, Shape, Slot, TakeEntry, TakeItem};
use crate::{DecodeError, Document, text};
use base::Timestamp;

/// A value as texts: one, the items of a list, or the entries of a map.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Texts {
    pub(super) values: Vec<String>,
    pub(super) entries: Vec<(String, Vec<String>)>,
}

/// The texts of a member's value; `None` if it is absent.
pub(super) fn texts(slot: &dyn Slot, member: &'static Member) -> Option<Texts> {
    if !slot.is_present() {
        return None;
    }
    let mut encoder = TextEncoder { root: member, found: Texts::default(), in_map: false };
    slot.put(member, &mut encoder);
    Some(encoder.found)
}

struct TextEncoder {
    root: &'static Member,
    found: Texts,
    in_map: bool,
}

impl TextEncoder {
    fn push(&mut self, value: String) {
        match self.found.entries.last_mut() {
            Some((_, values)) if self.in_map => values.push(value),
            _ => self.found.values.push(value),
        }
    }

    fn written(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut out = Vec::new();
        write(&mut out);
        self.push(String::from_utf8(out).unwrap_or_default());
    }
}

/// Headers write times as HTTP does; everything else as ISO 8601.
fn format(member: &Member, root: &Member) -> TimestampFormat {
    match (member.timestamp, root.location) {
        (TimestampFormat::Default, Location::Header | Location::Headers) => TimestampFormat::Rfc822,
        (format, _) => format,
    }
}

impl Encoder for TextEncoder {
    fn string(&mut self, member: &'static Member, value: &str) {
        if member.has(flag::JSON_VALUE) && self.root.location == Location::Header {
            return self.blob(member, value.as_bytes());
        }
        self.push(value.to_owned());
    }
    fn integer(&mut self, _: &'static Member, value: i64) {
        self.push(value.to_string());
    }
    fn boolean(&mut self, _: &'static Member, value: bool) {
        self.push(value.to_string());
    }
    fn double(&mut self, _: &'static Member, value: f64) {
        self.written(|out| text::push_double(out, value));
    }
    fn float(&mut self, member: &'static Member, value: f32) {
        let value = value.to_string().parse().unwrap_or(f64::from(value));
        self.double(member, value);
    }
    fn blob(&mut self, _: &'static Member, value: &[u8]) {
        self.written(|out| text::push_base64(out, value));
    }
    fn timestamp(&mut self, member: &'static Member, value: Timestamp) {
        let format = format(member, self.root);
        self.written(|out| text::push_time(out, format, value));
    }
    fn document(&mut self, _: &'static Member, _: &Document) {
        // No location but the body takes one.
    }
    fn structure(&mut self, _: &'static Member, _: &dyn Shape) {
        // As above.
    }
    fn list(&mut self, member: &'static Member, value: &dyn List) {
        if let Kind::List(item) = member.target.kind {
            value.encode_items(item, self);
        }
    }
    fn map(&mut self, member: &'static Member, value: &dyn Map) {
        if let Kind::Map(_, item) = member.target.kind {
            self.in_map = true;
            value.encode_entries(item, self);
            self.in_map = false;
        }
    }
    fn key(&mut self, key: &str) {
        self.found.entries.push((key.to_owned(), Vec::new()));
    }
}

/// A list as one header: items with a comma or a quote are quoted, but for times.
pub(super) fn join_header(member: &'static Member, values: &[String]) -> String {
    let Kind::List(item) = member.target.kind else { return values.join(",") };
    let quote = |value: &String| {
        let plain = !value.contains([',', '"']) && !value.is_empty();
        if plain || !matches!(item.target.kind, Kind::String) {
            return value.clone();
        }
        format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
    };
    values.iter().map(quote).collect::<Vec<_>>().join(", ")
}

/// The items of a list in one header.
pub(super) fn split_header(member: &'static Member, header: &str) -> Vec<String> {
    let Kind::List(item) = member.target.kind else { return vec![header.to_owned()] };
    let is_http_date = matches!(item.target.kind, Kind::Timestamp)
        && matches!(item.timestamp, TimestampFormat::Default | TimestampFormat::Rfc822);
    let mut items = Vec::new();
    let mut rest = header.trim();
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut value = String::new();
            let mut escaped = false;
            let mut end = quoted.len();
            for (at, letter) in quoted.char_indices() {
                match letter {
                    _ if escaped => {
                        value.push(letter);
                        escaped = false;
                    }
                    '\\' => escaped = true,
                    '"' => {
                        end = at + 1;
                        break;
                    }
                    _ => value.push(letter),
                }
            }
            items.push(value);
            rest = quoted[end..].trim_start().trim_start_matches(',').trim_start();
            continue;
        }
        // `Mon, 16 Dec 2019 23:48:18 GMT` has a comma itself.
        let skip = if is_http_date { rest.find(',').map_or(0, |comma| comma + 1) } else { 0 };
        let end = rest[skip..].find(',').map_or(rest.len(), |comma| skip + comma);
        items.push(rest[..end].trim().to_owned());
        rest = rest[end..].trim_start_matches(',').trim_start();
    }
    items
}

/// Reads a value from its texts.
pub(super) struct TextDecoder<'a> {
    root: &'static Member,
    values: &'a [String],
    entries: &'a [(String, Vec<String>)],
}

impl<'a> TextDecoder<'a> {
    pub(super) fn new(root: &'static Member, texts: &'a Texts) -> Self {
        TextDecoder { root, values: &texts.values, entries: &texts.entries }
    }

    fn text(&self) -> &'a str {
        self.values.first().map_or("", String::as_str)
    }

    fn invalid(&self, expected: &'static str) -> DecodeError {
        let path = self.root.wire_name().to_owned();
        DecodeError::InvalidValue { path, value: self.text().to_owned(), expected }
    }

    fn parsed<T>(
        &self,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, DecodeError> {
        if self.values.len() > 1 {
            return Err(DecodeError::Duplicate(self.root.wire_name().to_owned()));
        }
        parse(self.text().trim()).ok_or_else(|| self.invalid(expected))
    }
}

impl Decoder for TextDecoder<'_> {
    fn string(&mut self, member: &'static Member) -> Result<String, DecodeError> {
        if member.has(flag::JSON_VALUE) && self.root.location == Location::Header {
            let bytes = self.parsed("base64", text::parse_base64)?;
            return String::from_utf8(bytes).map_err(|_| self.invalid("base64 of JSON"));
        }
        self.parsed("string", |_| Some(()))?;
        Ok(self.text().to_owned())
    }
    fn integer(&mut self, _: &'static Member, min: i64, max: i64) -> Result<i64, DecodeError> {
        let in_range = |value: &i64| (min..=max).contains(value);
        self.parsed("integer", |text| text.parse().ok().filter(in_range))
    }
    fn boolean(&mut self, _: &'static Member) -> Result<bool, DecodeError> {
        self.parsed("boolean", |text| match text {
            "true" | "True" => Some(true),
            "false" | "False" => Some(false),
            _ => None,
        })
    }
    fn double(&mut self, _: &'static Member) -> Result<f64, DecodeError> {
        self.parsed("number", text::parse_double)
    }
    fn blob(&mut self, _: &'static Member) -> Result<Vec<u8>, DecodeError> {
        self.parsed("base64", text::parse_base64)
    }
    fn timestamp(&mut self, _: &'static Member) -> Result<Timestamp, DecodeError> {
        self.parsed("timestamp", text::parse_time)
    }
    fn document(&mut self, _: &'static Member) -> Result<Document, DecodeError> {
        Err(self.invalid("text"))
    }
    fn structure(&mut self, _: &'static Member, _: &mut dyn Shape) -> Result<(), DecodeError> {
        Err(self.invalid("text"))
    }
    fn list(
        &mut self,
        member: &'static Member,
        take: &mut TakeItem<'_>,
    ) -> Result<(), DecodeError> {
        let Kind::List(item) = member.target.kind else { return Ok(()) };
        for value in self.values {
            let values = std::slice::from_ref(value);
            take(item, &mut TextDecoder { root: self.root, values, entries: &[] })?;
        }
        Ok(())
    }
    fn map(
        &mut self,
        member: &'static Member,
        take: &mut TakeEntry<'_>,
    ) -> Result<(), DecodeError> {
        let Kind::Map(_, item) = member.target.kind else { return Ok(()) };
        for (key, values) in self.entries {
            take(key.clone(), item, &mut TextDecoder { root: self.root, values, entries: &[] })?;
        }
        Ok(())
    }
}
