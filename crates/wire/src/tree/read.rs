//! A tree to a shape.

use super::Tree;
use crate::schema::{Kind, Member};
use crate::shape::{Decoder, Shape, TakeEntry, TakeItem};
use crate::{DecodeError, Document, text};
use base::Timestamp;

/// Stands on a value of a tree.
pub(crate) struct TreeDecoder<'a> {
    tree: &'a Tree,
    /// Members are called by `locationName` (JSON) or by their own name (CBOR).
    by_location: bool,
    /// Members that the shape does not have are refused.
    strict: bool,
    path: String,
}

impl<'a> TreeDecoder<'a> {
    pub(crate) fn json(tree: &'a Tree, strict: bool) -> Self {
        TreeDecoder { tree, by_location: true, strict, path: String::new() }
    }

    pub(crate) fn cbor(tree: &'a Tree, strict: bool) -> Self {
        TreeDecoder { tree, by_location: false, strict, path: String::new() }
    }

    /// Reads the members of a structure.
    pub(crate) fn read(&mut self, into: &mut dyn Shape) -> Result<(), DecodeError> {
        let schema = into.schema();
        let Tree::Map(entries) = self.tree else { return Err(self.invalid("structure")) };
        let mut chosen = None;
        for (name, value) in entries {
            let is_named = |member: &Member| {
                *name == if self.by_location { member.wire_name() } else { member.name }
            };
            if *value == Tree::Null || name == "__type" {
                continue;
            }
            let Some(index) = schema.members().iter().position(is_named) else {
                if self.strict {
                    return Err(DecodeError::UnknownParameter(self.path_of(name)));
                }
                continue;
            };
            if schema.traits.is_some_and(|traits| traits.union)
                && chosen.replace(index).is_some_and(|other| other != index)
            {
                return Err(self.invalid("union with one member"));
            }
            self.below(name, value, |decoder| into.decode(index, decoder))?;
        }
        Ok(())
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn below<T>(&mut self, name: &str, tree: &'a Tree, inside: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        self.path = self.path_of(name);
        let above = std::mem::replace(&mut self.tree, tree);
        let result = inside(self);
        self.tree = above;
        self.path.truncate(length);
        result
    }

    fn invalid(&self, expected: &'static str) -> DecodeError {
        let path = self.path.clone();
        DecodeError::InvalidValue { path, value: self.tree.describe(), expected }
    }
}

impl Decoder for TreeDecoder<'_> {
    fn string(&mut self, _: &'static Member) -> Result<String, DecodeError> {
        self.tree.text().map(str::to_owned).ok_or_else(|| self.invalid("string"))
    }
    fn integer(&mut self, _: &'static Member, min: i64, max: i64) -> Result<i64, DecodeError> {
        let value = match self.tree {
            Tree::Integer(value) => Some(*value),
            // `1.0` is an integer to JavaScript.
            Tree::Double(value) if value.fract() == 0.0 && value.abs() < 9e15 => {
                Some(*value as i64)
            }
            _ => None,
        };
        value.filter(|value| (min..=max).contains(value)).ok_or_else(|| self.invalid("integer"))
    }
    fn boolean(&mut self, _: &'static Member) -> Result<bool, DecodeError> {
        match self.tree {
            Tree::Boolean(value) => Ok(*value),
            _ => Err(self.invalid("boolean")),
        }
    }
    fn double(&mut self, _: &'static Member) -> Result<f64, DecodeError> {
        match self.tree {
            Tree::Double(value) => Ok(*value),
            Tree::Integer(value) => Ok(*value as f64),
            Tree::String(text) if matches!(&**text, "NaN" | "Infinity" | "-Infinity") => {
                text::parse_double(text).ok_or_else(|| self.invalid("number"))
            }
            _ => Err(self.invalid("number")),
        }
    }
    fn blob(&mut self, _: &'static Member) -> Result<Vec<u8>, DecodeError> {
        match self.tree {
            Tree::Bytes(bytes) => Ok(bytes.clone()),
            Tree::String(text) => text::parse_base64(text).ok_or_else(|| self.invalid("base64")),
            _ => Err(self.invalid("blob")),
        }
    }
    fn timestamp(&mut self, _: &'static Member) -> Result<Timestamp, DecodeError> {
        let value = match self.tree {
            Tree::Integer(seconds) => text::unix_seconds(*seconds as f64),
            Tree::Double(seconds) => text::unix_seconds(*seconds),
            Tree::String(text) => text::parse_time(text),
            _ => None,
        };
        value.ok_or_else(|| self.invalid("timestamp"))
    }
    fn document(&mut self, _: &'static Member) -> Result<Document, DecodeError> {
        Ok(self.tree.document())
    }
    fn structure(&mut self, _: &'static Member, into: &mut dyn Shape) -> Result<(), DecodeError> {
        self.read(into)
    }
    fn list(
        &mut self,
        member: &'static Member,
        take: &mut TakeItem<'_>,
    ) -> Result<(), DecodeError> {
        let Kind::List(item) = member.target.kind else { return Ok(()) };
        let Tree::List(all) = self.tree else { return Err(self.invalid("list")) };
        for (index, value) in all.iter().enumerate() {
            // Our lists are dense.
            if *value != Tree::Null {
                self.below(&(index + 1).to_string(), value, |decoder| take(item, decoder))?;
            }
        }
        Ok(())
    }
    fn map(
        &mut self,
        member: &'static Member,
        take: &mut TakeEntry<'_>,
    ) -> Result<(), DecodeError> {
        let Kind::Map(_, item) = member.target.kind else { return Ok(()) };
        let Tree::Map(all) = self.tree else { return Err(self.invalid("map")) };
        for (key, value) in all {
            if *value != Tree::Null {
                self.below(key, value, |decoder| take(key.clone(), item, decoder))?;
            }
        }
        Ok(())
    }
}
