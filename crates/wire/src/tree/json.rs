//! JSON: text to tree, and shape to text.

use super::Tree;
use crate::schema::{Kind, Member, TimestampFormat};
use crate::shape::{Encoder, List, Map, Shape};
use crate::{DecodeError, Document, text};
use base::Timestamp;
use serde_json::Value;

/// Reads a body; an empty one is an empty object.
pub(crate) fn parse(body: &[u8]) -> Result<Tree, DecodeError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Tree::Map(Vec::new()));
    }
    // The parser refuses what is nested more than 128 deep.
    let value: Value =
        serde_json::from_slice(body).map_err(|error| DecodeError::Malformed(error.to_string()))?;
    Ok(tree(value))
}

fn tree(value: Value) -> Tree {
    match value {
        Value::Null => Tree::Null,
        Value::Bool(value) => Tree::Boolean(value),
        Value::Number(value) => match value.as_i64() {
            Some(value) => Tree::Integer(value),
            None => Tree::Double(value.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(value) => Tree::String(value),
        Value::Array(all) => Tree::List(all.into_iter().map(tree).collect()),
        Value::Object(all) => {
            Tree::Map(all.into_iter().map(|(key, value)| (key, tree(value))).collect())
        }
    }
}

/// Writes a structure as an object.
pub(crate) fn encode(shape: &dyn Shape, out: Vec<u8>) -> Vec<u8> {
    let mut encoder = JsonEncoder { out, place: Place::Structure, first: true };
    encoder.out.push(b'{');
    shape.encode(&mut encoder);
    encoder.out.push(b'}');
    encoder.out
}

/// Writes free-form JSON.
pub(crate) fn push_document(out: &mut Vec<u8>, value: &Document) {
    match value {
        Document::Null => out.extend_from_slice(b"null"),
        Document::Boolean(value) => {
            out.extend_from_slice(if *value { b"true" } else { b"false" });
        }
        Document::Integer(value) => text::push_integer(out, *value),
        Document::Double(value) => push_number(out, *value),
        Document::String(value) => push_string(out, value),
        Document::List(all) => {
            out.push(b'[');
            for (index, value) in all.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                push_document(out, value);
            }
            out.push(b']');
        }
        Document::Map(all) => {
            out.push(b'{');
            for (index, (key, value)) in all.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                push_string(out, key);
                out.push(b':');
                push_document(out, value);
            }
            out.push(b'}');
        }
    }
}

fn push_number(out: &mut Vec<u8>, value: f64) {
    if value.is_finite() {
        text::push_double(out, value);
    } else {
        out.push(b'"');
        text::push_double(out, value);
        out.push(b'"');
    }
}

/// Writes a string with its quotes.
pub(crate) fn push_string(out: &mut Vec<u8>, value: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = value.as_bytes();
    out.push(b'"');
    let mut done = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[done..at]);
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => {
                let [high, low] = [byte >> 4, byte & 15].map(|digit| HEX[usize::from(digit)]);
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
        }
        done = at + 1;
    }
    out.extend_from_slice(&bytes[done..]);
    out.push(b'"');
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Structure,
    List,
    Map,
}

struct JsonEncoder {
    out: Vec<u8>,
    place: Place,
    /// Nothing has been written in this place yet.
    first: bool,
}

impl JsonEncoder {
    fn separate(&mut self) {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
    }

    /// Writes what stands before a value.
    fn lead(&mut self, member: &'static Member) {
        match self.place {
            Place::Structure => {
                self.separate();
                push_string(&mut self.out, member.wire_name());
                self.out.push(b':');
            }
            Place::List => self.separate(),
            // The key is written.
            Place::Map => {}
        }
    }

    fn nested(&mut self, place: Place, brackets: [u8; 2], inside: impl FnOnce(&mut Self)) {
        self.out.push(brackets[0]);
        let place = std::mem::replace(&mut self.place, place);
        self.first = true;
        inside(self);
        self.first = false;
        self.place = place;
        self.out.push(brackets[1]);
    }
}

impl Encoder for JsonEncoder {
    fn string(&mut self, member: &'static Member, value: &str) {
        self.lead(member);
        push_string(&mut self.out, value);
    }
    fn integer(&mut self, member: &'static Member, value: i64) {
        self.lead(member);
        text::push_integer(&mut self.out, value);
    }
    fn boolean(&mut self, member: &'static Member, value: bool) {
        self.lead(member);
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
    }
    fn double(&mut self, member: &'static Member, value: f64) {
        self.lead(member);
        push_number(&mut self.out, value);
    }
    fn float(&mut self, member: &'static Member, value: f32) {
        let value = value.to_string().parse().unwrap_or(f64::from(value));
        self.double(member, value);
    }
    fn blob(&mut self, member: &'static Member, value: &[u8]) {
        self.lead(member);
        self.out.push(b'"');
        text::push_base64(&mut self.out, value);
        self.out.push(b'"');
    }
    fn timestamp(&mut self, member: &'static Member, value: Timestamp) {
        self.lead(member);
        if matches!(member.timestamp, TimestampFormat::Default | TimestampFormat::UnixTimestamp) {
            return text::push_unix(&mut self.out, value);
        }
        self.out.push(b'"');
        text::push_time(&mut self.out, member.timestamp, value);
        self.out.push(b'"');
    }
    fn document(&mut self, member: &'static Member, value: &Document) {
        self.lead(member);
        push_document(&mut self.out, value);
    }
    fn structure(&mut self, member: &'static Member, value: &dyn Shape) {
        self.lead(member);
        self.nested(Place::Structure, *b"{}", |encoder| value.encode(encoder));
    }
    fn list(&mut self, member: &'static Member, value: &dyn List) {
        let Kind::List(item) = member.target.kind else { return };
        self.lead(member);
        self.nested(Place::List, *b"[]", |encoder| value.encode_items(item, encoder));
    }
    fn map(&mut self, member: &'static Member, value: &dyn Map) {
        let Kind::Map(_, item) = member.target.kind else { return };
        self.lead(member);
        self.nested(Place::Map, *b"{}", |encoder| value.encode_entries(item, encoder));
    }
    fn key(&mut self, key: &str) {
        self.separate();
        push_string(&mut self.out, key);
        self.out.push(b':');
    }
}
