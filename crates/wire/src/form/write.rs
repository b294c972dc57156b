//! A shape to a form, as a client writes it.

use super::FormStyle;
use crate::schema::{Kind, Member};
use crate::shape::{Encoder, List, Map, Shape};
use crate::xml::{item_name, map_names};
use crate::{Document, text};
use base::Timestamp;

/// The body of a request.
pub fn encode(style: FormStyle, action: &str, version: &str, input: &dyn Shape) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(b"Action=");
    text::push_percent(&mut out, action.as_bytes(), b"");
    out.extend_from_slice(b"&Version=");
    text::push_percent(&mut out, version.as_bytes(), b"");
    let mut encoder = FormEncoder { style, out, path: String::new(), place: Place::Structure };
    input.encode(&mut encoder);
    encoder.out
}

/// How the next value extends the path.
enum Place {
    Structure,
    /// In a list: the index of the last item.
    Item(usize),
    /// In a map: the index of the last entry, and the names of its parts.
    Entry(usize, [&'static str; 2]),
}

struct FormEncoder {
    style: FormStyle,
    out: Vec<u8>,
    path: String,
    place: Place,
}

impl FormEncoder {
    /// Extends the path by the member's name or the item's index, runs `inside`, and goes back.
    fn below(&mut self, member: &'static Member, inside: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        match &mut self.place {
            Place::Structure => {
                let name = super::request_name(self.style, member);
                self.push(&name);
            }
            Place::Item(index) => {
                *index += 1;
                let index = index.to_string();
                self.push(&index);
            }
            Place::Entry(index, [_, value]) => {
                let (index, value) = (index.to_string(), *value);
                self.push(&index);
                self.push(value);
            }
        }
        inside(self);
        self.path.truncate(length);
    }

    fn push(&mut self, segment: &str) {
        if !self.path.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(segment);
    }

    fn write(&mut self, value: &[u8]) {
        self.out.push(b'&');
        text::push_percent(&mut self.out, self.path.as_bytes(), b"");
        self.out.push(b'=');
        text::push_percent(&mut self.out, value, b"");
    }

    fn scalar(&mut self, member: &'static Member, value: &[u8]) {
        self.below(member, |encoder| encoder.write(value));
    }

    fn within(&mut self, place: Place, inside: impl FnOnce(&mut Self)) {
        let outer = std::mem::replace(&mut self.place, place);
        inside(self);
        self.place = outer;
    }
}

impl Encoder for FormEncoder {
    fn string(&mut self, member: &'static Member, value: &str) {
        self.scalar(member, value.as_bytes());
    }
    fn integer(&mut self, member: &'static Member, value: i64) {
        self.scalar(member, value.to_string().as_bytes());
    }
    fn boolean(&mut self, member: &'static Member, value: bool) {
        self.scalar(member, if value { b"true" } else { b"false" });
    }
    fn double(&mut self, member: &'static Member, value: f64) {
        let mut text = Vec::new();
        text::push_double(&mut text, value);
        self.scalar(member, &text);
    }
    fn float(&mut self, member: &'static Member, value: f32) {
        let value = value.to_string().parse().unwrap_or(f64::from(value));
        self.double(member, value);
    }
    fn blob(&mut self, member: &'static Member, value: &[u8]) {
        let mut text = Vec::new();
        text::push_base64(&mut text, value);
        self.scalar(member, &text);
    }
    fn timestamp(&mut self, member: &'static Member, value: Timestamp) {
        let mut text = Vec::new();
        text::push_time(&mut text, member.timestamp, value);
        self.scalar(member, &text);
    }
    fn document(&mut self, _: &'static Member, _: &Document) {
        // No form protocol has documents.
    }
    fn structure(&mut self, member: &'static Member, value: &dyn Shape) {
        self.below(member, |encoder| {
            encoder.within(Place::Structure, |encoder| value.encode(encoder));
        });
    }
    fn list(&mut self, member: &'static Member, value: &dyn List) {
        let Kind::List(item) = member.target.kind else { return };
        self.below(member, |encoder| {
            if value.is_empty() {
                // EC2 has no way to say that a list is empty.
                if encoder.style == FormStyle::Query {
                    encoder.write(b"");
                }
                return;
            }
            if !encoder.style.is_flattened(member) {
                encoder.push(item_name(item));
            }
            encoder.within(Place::Item(0), |encoder| value.encode_items(item, encoder));
        });
    }
    fn map(&mut self, member: &'static Member, value: &dyn Map) {
        let Kind::Map(key, item) = member.target.kind else { return };
        self.below(member, |encoder| {
            if !encoder.style.is_flattened(member) {
                encoder.push("entry");
            }
            let place = Place::Entry(0, map_names(key, item));
            encoder.within(place, |encoder| value.encode_entries(item, encoder));
        });
    }
    fn key(&mut self, key: &str) {
        let Place::Entry(index, [name, _]) = &mut self.place else { return };
        *index += 1;
        let (index, name) = (index.to_string(), *name);
        let length = self.path.len();
        self.push(&index);
        self.push(name);
        self.write(key.as_bytes());
        self.path.truncate(length);
    }
}
