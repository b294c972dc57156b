//! `Debug` for shapes, from the schema: present members only, secrets left out.
//!
//! A derive for 2,400 structures would be a third of the model's compile time, and would print
//! passwords into logs.

use crate::Document;
use crate::schema::Member;
use crate::shape::{Encoder, List, Map, Shape};
use base::Timestamp;
use std::fmt::{self, Write};

/// Writes `shape` as `Name { Member: value, … }`.
pub fn debug(shape: &dyn Shape, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut printer = Printer { text: String::new(), levels: vec![Level::Structure], first: true };
    let _ = write!(printer.text, "{} {{", shape.schema().name);
    shape.encode(&mut printer);
    printer.text.push_str(if printer.first { "}" } else { " }" });
    f.write_str(&printer.text)
}

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Structure,
    List,
    Map,
}

struct Printer {
    text: String,
    levels: Vec<Level>,
    first: bool,
}

impl Printer {
    /// Writes what precedes a value; false if the value must not be shown.
    fn lead(&mut self, member: &'static Member) -> bool {
        match self.levels.last().copied() {
            Some(Level::Map) => {}
            level => {
                self.separate();
                if level == Some(Level::Structure) {
                    let _ = write!(self.text, "{}: ", member.name);
                }
            }
        }
        if member.is_sensitive() {
            self.text.push_str("<sensitive>");
        }
        !member.is_sensitive()
    }

    fn separate(&mut self) {
        self.text.push_str(if self.first { " " } else { ", " });
        self.first = false;
    }

    fn show(&mut self, member: &'static Member, value: &dyn fmt::Debug) {
        if self.lead(member) {
            let _ = write!(self.text, "{value:?}");
        }
    }

    fn nested(&mut self, level: Level, brackets: [&str; 2], inside: &mut dyn FnMut(&mut Self)) {
        self.text.push_str(brackets[0]);
        self.levels.push(level);
        self.first = true;
        inside(self);
        self.levels.pop();
        self.text.push_str(if self.first { "" } else { " " });
        self.text.push_str(brackets[1]);
        self.first = false;
    }
}

impl Encoder for Printer {
    fn string(&mut self, member: &'static Member, value: &str) {
        self.show(member, &value);
    }
    fn integer(&mut self, member: &'static Member, value: i64) {
        self.show(member, &value);
    }
    fn boolean(&mut self, member: &'static Member, value: bool) {
        self.show(member, &value);
    }
    fn double(&mut self, member: &'static Member, value: f64) {
        self.show(member, &value);
    }
    fn float(&mut self, member: &'static Member, value: f32) {
        self.show(member, &value);
    }
    fn blob(&mut self, member: &'static Member, value: &[u8]) {
        self.show(member, &format_args!("<{} bytes>", value.len()));
    }
    fn timestamp(&mut self, member: &'static Member, value: Timestamp) {
        self.show(member, &format_args!("{}", value.iso_millis()));
    }
    fn document(&mut self, member: &'static Member, value: &Document) {
        self.show(member, value);
    }
    fn structure(&mut self, member: &'static Member, value: &dyn Shape) {
        if self.lead(member) {
            self.nested(Level::Structure, ["{", "}"], &mut |printer| value.encode(printer));
        }
    }
    fn list(&mut self, member: &'static Member, value: &dyn List) {
        if let (true, crate::Kind::List(item)) = (self.lead(member), &member.target.kind) {
            self.nested(Level::List, ["[", "]"], &mut |p| value.encode_items(item, p));
        }
    }
    fn map(&mut self, member: &'static Member, value: &dyn Map) {
        if let (true, crate::Kind::Map(_, item)) = (self.lead(member), &member.target.kind) {
            self.nested(Level::Map, ["{", "}"], &mut |p| value.encode_entries(item, p));
        }
    }
    fn key(&mut self, key: &str) {
        self.separate();
        let _ = write!(self.text, "{key:?}: ");
    }
}
