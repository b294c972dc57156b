//! XML out: everything is appended to one buffer, nothing is allocated for an element.

use crate::schema::{Kind, Member, TimestampFormat, Type, flag};
use crate::shape::{Encoder, List, Map, Shape};
use crate::{Document, text};
use base::Timestamp;

/// What differs between the protocols that write XML.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XmlStyle {
    /// Times always have milliseconds: `2026-11-21T10:00:23.000Z`.
    Ec2,
    /// Times have milliseconds if they are not zero.
    Plain,
}

/// Where the encoder stands, and so how the next value's element is called.
#[derive(Clone, Copy)]
enum Place {
    /// In a structure: the member's own name.
    Structure,
    /// In a list.
    Item(&'static str),
    /// In a map, between a key and its value.
    Value(&'static str),
}

/// A map that is being written.
#[derive(Clone, Copy)]
struct OpenMap {
    entry: &'static str,
    key_name: &'static str,
    /// An entry's element is open.
    in_entry: bool,
}

/// Writes shapes as XML.
#[allow(missing_debug_implementations)]
pub struct XmlEncoder {
    /// What has been written.
    pub out: Vec<u8>,
    style: XmlStyle,
    place: Place,
    /// The maps around, innermost last.
    maps: Vec<OpenMap>,
    /// Only attributes are written, not elements.
    attributes: bool,
}

impl XmlEncoder {
    /// An encoder with an empty buffer.
    pub fn new(style: XmlStyle) -> Self {
        let maps = Vec::new();
        XmlEncoder { out: Vec::new(), style, place: Place::Structure, maps, attributes: false }
    }

    /// `<name>`
    pub fn open(&mut self, name: &str) {
        self.out.reserve(name.len() + 2);
        self.out.push(b'<');
        self.out.extend_from_slice(name.as_bytes());
        self.out.push(b'>');
    }

    /// `</name>`
    pub fn close(&mut self, name: &str) {
        self.out.reserve(name.len() + 3);
        self.out.extend_from_slice(b"</");
        self.out.extend_from_slice(name.as_bytes());
        self.out.push(b'>');
    }

    /// `<name>text</name>`
    pub fn element(&mut self, name: &str, text: &str) {
        self.open(name);
        escape(&mut self.out, text);
        self.close(name);
    }

    /// A whole document: `shape` in an element of that name, which declares a namespace unless
    /// `uri` is empty.
    pub(crate) fn root(&mut self, name: &str, uri: &str, prefix: &str, shape: &dyn Shape) {
        self.start(name, uri, prefix, Some(shape));
        shape.encode(self);
        self.close(name);
    }

    fn name(&self, member: &'static Member) -> &'static str {
        match self.place {
            Place::Structure => member.wire_name(),
            Place::Item(name) | Place::Value(name) => name,
        }
    }

    /// `<name xmlns="…" attribute="…">`
    fn open_member(&mut self, name: &str, member: &'static Member, value: Option<&dyn Shape>) {
        let declared = member.namespace.or(member.target.traits.and_then(|t| t.namespace));
        let (uri, prefix) = declared.map_or(("", ""), |found| (found.uri, found.prefix));
        self.start(name, uri, prefix, value);
    }

    fn start(&mut self, name: &str, uri: &str, prefix: &str, value: Option<&dyn Shape>) {
        self.out.push(b'<');
        self.out.extend_from_slice(name.as_bytes());
        if !uri.is_empty() {
            self.out.extend_from_slice(b" xmlns");
            if !prefix.is_empty() {
                self.out.push(b':');
                self.out.extend_from_slice(prefix.as_bytes());
            }
            self.out.extend_from_slice(b"=\"");
            escape(&mut self.out, uri);
            self.out.push(b'"');
        }
        if let Some(value) = value.filter(|value| has_attributes(value.schema())) {
            let place = std::mem::replace(&mut self.place, Place::Structure);
            self.attributes = true;
            value.encode(self);
            self.attributes = false;
            self.place = place;
        }
        self.out.push(b'>');
    }

    #[inline]
    fn scalar(&mut self, member: &'static Member, write: impl FnOnce(&mut Vec<u8>, XmlStyle)) {
        let is_attribute = member.has(flag::XML_ATTRIBUTE);
        if self.attributes || is_attribute {
            if self.attributes && is_attribute {
                self.out.push(b' ');
                self.out.extend_from_slice(member.wire_name().as_bytes());
                self.out.extend_from_slice(b"=\"");
                write(&mut self.out, self.style);
                self.out.push(b'"');
            }
            return;
        }
        let name = self.name(member);
        if member.namespace.is_some() {
            self.open_member(name, member, None);
        } else {
            self.open(name);
        }
        write(&mut self.out, self.style);
        self.close(name);
    }
}

fn has_attributes(schema: &Type) -> bool {
    schema.members().iter().any(|member| member.has(flag::XML_ATTRIBUTE))
}

/// The names of a map's key and value elements.
pub(crate) fn map_names(key: &'static Member, value: &'static Member) -> [&'static str; 2] {
    let name = |member: &'static Member, default| match member.location_name {
        "" => default,
        name => name,
    };
    [name(key, "key"), name(value, "value")]
}

/// The name of a list's items.
pub(crate) fn item_name(item: &'static Member) -> &'static str {
    if item.location_name.is_empty() { "member" } else { item.location_name }
}

/// Appends `text`, escaped for element content and attribute values.
pub fn escape(out: &mut Vec<u8>, text: &str) {
    const PLAIN: [bool; 256] = {
        let mut plain = [true; 256];
        let mut byte = 0;
        while byte < 0x20 {
            plain[byte] = byte == b'\t' as usize || byte == b'\n' as usize;
            byte += 1;
        }
        plain[b'&' as usize] = false;
        plain[b'<' as usize] = false;
        plain[b'>' as usize] = false;
        plain[b'"' as usize] = false;
        plain
    };
    let bytes = text.as_bytes();
    let mut done = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if PLAIN[usize::from(byte)] {
            continue;
        }
        out.extend_from_slice(&bytes[done..at]);
        out.extend_from_slice(match byte {
            b'&' => b"&amp;",
            b'<' => b"&lt;",
            b'>' => b"&gt;",
            b'"' => b"&quot;",
            // A bare CR would be read as a line feed.
            b'\r' => b"&#xD;",
            // XML has no way to write any other control character.
            _ => "\u{FFFD}".as_bytes(),
        });
        done = at + 1;
    }
    out.extend_from_slice(&bytes[done..]);
}

impl Encoder for XmlEncoder {
    // Of EC2 answers alone, all of which have one style.
    fn written(&self) -> Option<&[u8]> {
        (self.style == XmlStyle::Ec2).then_some(&self.out)
    }
    fn paste(&mut self, piece: &[u8]) -> bool {
        let fits = self.style == XmlStyle::Ec2;
        if fits {
            self.out.extend_from_slice(piece);
        }
        fits
    }
    fn string(&mut self, member: &'static Member, value: &str) {
        self.scalar(member, |out, _| escape(out, value));
    }
    fn integer(&mut self, member: &'static Member, value: i64) {
        self.scalar(member, |out, _| text::push_integer(out, value));
    }
    fn boolean(&mut self, member: &'static Member, value: bool) {
        let value: &[u8] = if value { b"true" } else { b"false" };
        self.scalar(member, |out, _| out.extend_from_slice(value));
    }
    fn double(&mut self, member: &'static Member, value: f64) {
        self.scalar(member, |out, _| text::push_double(out, value));
    }
    fn float(&mut self, member: &'static Member, value: f32) {
        // The shortest text of the float, not of the double next to it.
        let value = value.to_string().parse().unwrap_or(f64::from(value));
        self.double(member, value);
    }
    fn blob(&mut self, member: &'static Member, value: &[u8]) {
        self.scalar(member, |out, _| text::push_base64(out, value));
    }
    fn timestamp(&mut self, member: &'static Member, value: Timestamp) {
        self.scalar(member, |out, style| match member.timestamp {
            TimestampFormat::Default | TimestampFormat::Iso8601 => {
                let fraction = style == XmlStyle::Ec2 || value.0 % 1_000 != 0;
                text::push_iso(out, value, fraction);
            }
            TimestampFormat::Rfc822 => text::push_rfc822(out, value),
            TimestampFormat::UnixTimestamp => text::push_unix(out, value),
        });
    }
    fn document(&mut self, _: &'static Member, _: &Document) {
        // No XML protocol has documents.
    }
    fn structure(&mut self, member: &'static Member, value: &dyn Shape) {
        if self.attributes {
            return;
        }
        let name = self.name(member);
        self.open_member(name, member, Some(value));
        let place = std::mem::replace(&mut self.place, Place::Structure);
        value.encode(self);
        self.place = place;
        self.close(name);
    }
    fn list(&mut self, member: &'static Member, value: &dyn List) {
        let Kind::List(item) = member.target.kind else { return };
        if self.attributes {
            return;
        }
        let name = self.name(member);
        let flattened = member.is_flattened();
        if !flattened {
            if value.is_empty() {
                // As AWS writes it: <groupSet/>
                self.open_member(name, member, None);
                self.out.truncate(self.out.len() - 1);
                self.out.extend_from_slice(b"/>");
                return;
            }
            self.open_member(name, member, None);
        }
        let inner = Place::Item(if flattened { name } else { item_name(item) });
        let place = std::mem::replace(&mut self.place, inner);
        value.encode_items(item, self);
        self.place = place;
        if !flattened {
            self.close(name);
        }
    }
    fn map(&mut self, member: &'static Member, value: &dyn Map) {
        let Kind::Map(key, item) = member.target.kind else { return };
        if self.attributes {
            return;
        }
        let name = self.name(member);
        let [key_name, value_name] = map_names(key, item);
        let flattened = member.is_flattened();
        if !flattened {
            self.open_member(name, member, None);
        }
        let entry = if flattened { name } else { "entry" };
        self.maps.push(OpenMap { entry, key_name, in_entry: false });
        let place = std::mem::replace(&mut self.place, Place::Value(value_name));
        value.encode_entries(item, self);
        self.place = place;
        if self.maps.pop().is_some_and(|map| map.in_entry) {
            self.close(entry);
        }
        if !flattened {
            self.close(name);
        }
    }
    fn key(&mut self, key: &str) {
        let Some(map) = self.maps.last_mut() else { return };
        let OpenMap { entry, key_name, in_entry } = *map;
        map.in_entry = true;
        if in_entry {
            self.close(entry);
        }
        self.open(entry);
        self.element(key_name, key);
    }
}
