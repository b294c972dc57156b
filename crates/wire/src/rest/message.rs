//! A shape to the parts of an HTTP message, and back.

use super::text::{TextDecoder, Texts, join_header, split_header, texts};
use crate::schema::{Kind, Location, Member, Type};
use crate::shape::{Encoder, List, Map, Shape, Slot};
use crate::tree::{Tree, TreeDecoder, json};
use crate::xml::{self, XmlDecoder, XmlEncoder, XmlStyle};
use crate::{DecodeError, Document};
use base::Timestamp;

/// What a body is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Xml,
}

/// The parts of an HTTP message, written.
#[derive(Debug, Default)]
pub(crate) struct Message {
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) status: Option<u16>,
    /// `None` if the shape has nothing that travels in a body.
    pub(crate) content_type: Option<&'static str>,
    pub(crate) body: Vec<u8>,
}

/// The parts of an HTTP message, as they came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    pub(crate) labels: &'a [(String, String)],
    pub(crate) query: &'a [(String, String)],
    pub(crate) headers: &'a [(&'a str, &'a [u8])],
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
    /// A request, in which what the shape does not have is refused; else an answer.
    pub(crate) is_request: bool,
}

fn payload(schema: &'static Type) -> Option<(usize, &'static Member)> {
    let name = schema.traits.map_or("", |traits| traits.payload);
    let mut members = schema.members().iter().enumerate();
    members.find(|(_, member)| member.name == name)
}

/// Where a member travels: an answer has no path and no query.
fn location(member: &Member, is_request: bool) -> Location {
    match member.location {
        Location::Uri | Location::QueryString if !is_request => Location::Body,
        location => location,
    }
}

/// Writes a message. `root` is how the operation refers to the shape.
pub(crate) fn write(
    format: Format,
    is_request: bool,
    root: &'static Member,
    namespace: &str,
    shape: &dyn Shape,
) -> Message {
    let schema = shape.schema();
    let payload = payload(schema);
    let mut message = Message::default();
    let mut has_body = false;
    let mut maps = Vec::new();
    for (index, member) in schema.members().iter().enumerate() {
        if location(member, is_request) == Location::Body {
            has_body |= payload.is_none();
            continue;
        }
        let Some(found) = texts(shape.slot(index), member) else { continue };
        if !found.entries.is_empty() && member.location == Location::QueryString {
            maps.push(found.entries);
        } else {
            write_member(&mut message, member, found);
        }
    }
    for (key, values) in maps.into_iter().flatten() {
        // A member of its own wins over an entry of a map.
        if message.query.iter().all(|(name, _)| *name != key) {
            message.query.extend(values.into_iter().map(|value| (key.clone(), value)));
        }
    }
    match payload {
        Some((index, member)) => write_payload(&mut message, format, member, shape.slot(index)),
        None if has_body => {
            let body = Body { shape, is_request };
            message.body = match format {
                Format::Json => json::encode(&body, Vec::new()),
                Format::Xml => xml_body(root, namespace, &body),
            };
            message.content_type = Some(content_type(format));
        }
        None => {}
    }
    message
}

fn content_type(format: Format) -> &'static str {
    match format {
        Format::Json => "application/json",
        Format::Xml => "application/xml",
    }
}

fn write_member(message: &mut Message, member: &'static Member, found: Texts) {
    let name = member.wire_name();
    let Texts { values, entries } = found;
    match member.location {
        Location::Uri => message.labels.push((member.wire_name().to_owned(), values.concat())),
        Location::StatusCode => message.status = values.first().and_then(|text| text.parse().ok()),
        Location::Header => {
            let is_list = matches!(member.target.kind, Kind::List(_));
            let value = if is_list { join_header(member, &values) } else { values.concat() };
            message.headers.push((name.to_owned(), value));
        }
        Location::Headers => {
            for (key, values) in entries {
                message.headers.push((format!("{}{key}", member.location_name), values.join(", ")));
            }
        }
        Location::QueryString => {
            message.query.extend(values.into_iter().map(|value| (name.to_owned(), value)));
        }
        Location::Body => {}
    }
}

fn write_payload(message: &mut Message, format: Format, member: &'static Member, slot: &dyn Slot) {
    message.content_type = match member.target.kind {
        Kind::Blob => slot.is_present().then_some("application/octet-stream"),
        Kind::String => slot.is_present().then_some("text/plain"),
        _ => Some(content_type(format)),
    };
    let mut encoder = PayloadEncoder { format, body: Vec::new() };
    slot.put(member, &mut encoder);
    message.body = encoder.body;
    if message.body.is_empty() && format == Format::Json && message.content_type.is_some() {
        match member.target.kind {
            Kind::Structure(_) if !member.target.traits.is_some_and(|traits| traits.union) => {
                message.body = b"{}".to_vec();
            }
            _ => message.content_type = None,
        }
    } else if message.body.is_empty() && format == Format::Xml {
        message.content_type = None;
    }
}

/// The root element's name, and the namespace that it declares.
fn xml_body(root: &'static Member, namespace: &str, shape: &dyn Shape) -> Vec<u8> {
    let traits = shape.schema().traits;
    let name = match (root.location_name, traits.map_or("", |traits| traits.location_name)) {
        ("", "") => shape.schema().name,
        ("", name) | (name, _) => name,
    };
    let declared = root.namespace.or(traits.and_then(|traits| traits.namespace));
    let (uri, prefix) = declared.map_or((namespace, ""), |found| (found.uri, found.prefix));
    let mut encoder = XmlEncoder::new(XmlStyle::Plain);
    encoder.root(name, uri, prefix, shape);
    encoder.out
}

/// Only the members of the body.
struct Body<'a> {
    shape: &'a dyn Shape,
    is_request: bool,
}

impl Shape for Body<'_> {
    fn schema(&self) -> &'static Type {
        self.shape.schema()
    }
    fn slot(&self, index: usize) -> &dyn Slot {
        self.shape.slot(index)
    }
    fn slot_mut(&mut self, _: usize) -> Option<&mut dyn Slot> {
        None
    }
    fn encode(&self, out: &mut dyn Encoder) {
        for (index, member) in self.schema().members().iter().enumerate() {
            if location(member, self.is_request) == Location::Body {
                self.slot(index).put(member, out);
            }
        }
    }
}

/// Writes one value as the whole body.
struct PayloadEncoder {
    format: Format,
    body: Vec<u8>,
}

impl Encoder for PayloadEncoder {
    fn string(&mut self, _: &'static Member, value: &str) {
        self.body = value.as_bytes().to_vec();
    }
    fn integer(&mut self, _: &'static Member, _: i64) {}
    fn boolean(&mut self, _: &'static Member, _: bool) {}
    fn double(&mut self, _: &'static Member, _: f64) {}
    fn float(&mut self, _: &'static Member, _: f32) {}
    fn blob(&mut self, _: &'static Member, value: &[u8]) {
        self.body = value.to_vec();
    }
    fn timestamp(&mut self, _: &'static Member, _: Timestamp) {}
    fn document(&mut self, _: &'static Member, value: &Document) {
        json::push_document(&mut self.body, value);
    }
    fn structure(&mut self, member: &'static Member, value: &dyn Shape) {
        self.body = match self.format {
            Format::Json => json::encode(value, Vec::new()),
            Format::Xml => {
                // The member's name is that of the element only if the model says so.
                xml_body(member, "", value)
            }
        };
    }
    fn list(&mut self, _: &'static Member, _: &dyn List) {}
    fn map(&mut self, _: &'static Member, _: &dyn Map) {}
    fn key(&mut self, _: &str) {}
}

/// Reads a message.
pub(crate) fn read(
    format: Format,
    source: Source<'_>,
    into: &mut dyn Shape,
) -> Result<(), DecodeError> {
    let schema = into.schema();
    let mut known = Vec::new();
    let others = schema.members();
    let mut takes_all = false;
    for (index, member) in schema.members().iter().enumerate() {
        if location(member, source.is_request) == Location::QueryString {
            takes_all |= matches!(member.target.kind, Kind::Map(..));
            known.push(member.wire_name());
        }
        if let Some(found) = find(member, others, source)? {
            into.decode(index, &mut TextDecoder::new(member, &found))?;
        }
    }
    if source.is_request && !takes_all {
        for (name, _) in source.query {
            let signature = name.get(..6).is_some_and(|p| p.eq_ignore_ascii_case("X-Amz-"));
            if !known.contains(&name.as_str()) && !signature && name != "x-id" {
                return Err(DecodeError::UnknownParameter(name.clone()));
            }
        }
    }
    match payload(schema) {
        Some((index, member)) => read_payload(format, source, index, member, into),
        None if others.iter().any(|m| location(m, source.is_request) == Location::Body) => {
            read_body(format, source, into)
        }
        None => Ok(()),
    }
}

fn read_body(format: Format, source: Source<'_>, into: &mut dyn Shape) -> Result<(), DecodeError> {
    if source.body.iter().all(u8::is_ascii_whitespace) {
        return Ok(());
    }
    match format {
        Format::Json => {
            let tree = json::parse(source.body)?;
            TreeDecoder::json(&tree, source.is_request).read(into)
        }
        Format::Xml => XmlDecoder::new(&xml::parse(source.body)?).read(into),
    }
}

fn read_payload(
    format: Format,
    source: Source<'_>,
    index: usize,
    member: &'static Member,
    into: &mut dyn Shape,
) -> Result<(), DecodeError> {
    if source.body.is_empty() {
        return Ok(());
    }
    match member.target.kind {
        Kind::Blob | Kind::String => into.decode(index, &mut Raw { body: source.body }),
        _ if format == Format::Json => {
            let tree = json::parse(source.body)?;
            // A structure that is absent is written as `{}`.
            if matches!(&tree, Tree::Map(entries) if entries.is_empty()) && source.is_request {
                return Ok(());
            }
            into.decode(index, &mut TreeDecoder::json(&tree, source.is_request))
        }
        _ => into.decode(index, &mut XmlDecoder::new(&xml::parse(source.body)?)),
    }
}

/// The texts of one member.
fn find(
    member: &'static Member,
    others: &[Member],
    source: Source<'_>,
) -> Result<Option<Texts>, DecodeError> {
    let name = member.wire_name();
    let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(DecodeError::Malformed(format!("header {name} is not UTF-8"))),
    };
    let mut found = Texts::default();
    match location(member, source.is_request) {
        Location::Body => return Ok(None),
        Location::Uri => {
            found.values.extend(pick(source.labels, name));
        }
        Location::StatusCode => found.values.push(source.status.to_string()),
        Location::Header => {
            for (key, value) in source.headers {
                if key.eq_ignore_ascii_case(name) {
                    found.values.extend(split_header(member, &text(value)?));
                }
            }
        }
        Location::Headers => {
            for (key, value) in source.headers {
                let prefix = key.get(..member.location_name.len());
                if prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(member.location_name)) {
                    let key = key[member.location_name.len()..].to_owned();
                    found.entries.push((key, vec![text(value)?]));
                }
            }
        }
        Location::QueryString if matches!(member.target.kind, Kind::Map(..)) => {
            // What no member of its own takes.
            let own = |name: &str| {
                let mut named = others.iter().filter(|other| other.wire_name() == name);
                named.any(|other| {
                    other.location == Location::QueryString
                        && !matches!(other.target.kind, Kind::Map(..))
                })
            };
            for (key, value) in source.query.iter().filter(|(key, _)| !own(key)) {
                match found.entries.iter_mut().find(|(name, _)| name == key) {
                    Some((_, values)) => values.push(value.clone()),
                    None => found.entries.push((key.clone(), vec![value.clone()])),
                }
            }
        }
        Location::QueryString => found.values.extend(pick(source.query, name)),
    }
    Ok((found != Texts::default()).then_some(found))
}

fn pick<'a>(pairs: &'a [(String, String)], name: &'a str) -> impl Iterator<Item = String> + 'a {
    pairs.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.clone())
}

/// A body that is the value itself.
struct Raw<'a> {
    body: &'a [u8],
}

impl Raw<'_> {
    fn refuse<T>(&self, member: &'static Member) -> Result<T, DecodeError> {
        Err(DecodeError::invalid(member, "(the body)"))
    }
}

impl crate::Decoder for Raw<'_> {
    fn string(&mut self, _: &'static Member) -> Result<String, DecodeError> {
        let text = std::str::from_utf8(self.body);
        text.map(str::to_owned).map_err(|error| DecodeError::Malformed(error.to_string()))
    }
    fn integer(&mut self, member: &'static Member, _: i64, _: i64) -> Result<i64, DecodeError> {
        self.refuse(member)
    }
    fn boolean(&mut self, member: &'static Member) -> Result<bool, DecodeError> {
        self.refuse(member)
    }
    fn double(&mut self, member: &'static Member) -> Result<f64, DecodeError> {
        self.refuse(member)
    }
    fn blob(&mut self, _: &'static Member) -> Result<Vec<u8>, DecodeError> {
        Ok(self.body.to_vec())
    }
    fn timestamp(&mut self, member: &'static Member) -> Result<Timestamp, DecodeError> {
        self.refuse(member)
    }
    fn document(&mut self, member: &'static Member) -> Result<Document, DecodeError> {
        self.refuse(member)
    }
    fn structure(&mut self, m: &'static Member, _: &mut dyn Shape) -> Result<(), DecodeError> {
        self.refuse(m)
    }
    fn list(
        &mut self,
        member: &'static Member,
        _: &mut crate::shape::TakeItem<'_>,
    ) -> Result<(), DecodeError> {
        self.refuse(member)
    }
    fn map(
        &mut self,
        member: &'static Member,
        _: &mut crate::shape::TakeEntry<'_>,
    ) -> Result<(), DecodeError> {
        self.refuse(member)
    }
}
