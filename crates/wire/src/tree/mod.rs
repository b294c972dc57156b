//! JSON and CBOR: a body is read into a tree of values, and a shape is filled from the tree.
//!
//! The two formats differ in bytes, not in structure, so one decoder serves both. Trees are bounded
//! in depth. A server refuses members that a shape does not have; a client skips them.

pub(crate) mod cbor;
pub(crate) mod json;
mod read;

pub(crate) use read::TreeDecoder;

use crate::Document;

/// A value of JSON or CBOR.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tree {
    Null,
    Boolean(bool),
    Integer(i64),
    Double(f64),
    String(String),
    /// CBOR only.
    Bytes(Vec<u8>),
    List(Vec<Tree>),
    Map(Vec<(String, Tree)>),
}

/// Deeper bodies are refused.
pub(crate) const MAX_DEPTH: usize = 100;

impl Tree {
    /// The entry of that name, unless it is null.
    pub(crate) fn get(&self, name: &str) -> Option<&Tree> {
        let Tree::Map(entries) = self else { return None };
        let found = entries.iter().find(|(key, value)| key == name && *value != Tree::Null);
        found.map(|(_, value)| value)
    }

    /// The text of a string.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Tree::String(text) => Some(text),
            _ => None,
        }
    }

    fn document(&self) -> Document {
        match self {
            Tree::Null | Tree::Bytes(_) => Document::Null,
            Tree::Boolean(value) => Document::Boolean(*value),
            Tree::Integer(value) => Document::Integer(*value),
            Tree::Double(value) => Document::Double(*value),
            Tree::String(value) => Document::String(value.clone()),
            Tree::List(all) => Document::List(all.iter().map(Tree::document).collect()),
            Tree::Map(all) => Document::Map(
                all.iter().map(|(key, value)| (key.clone(), value.document())).collect(),
            ),
        }
    }

    /// For an error message.
    fn describe(&self) -> String {
        match self {
            Tree::Null => "null".to_owned(),
            Tree::Boolean(value) => value.to_string(),
            Tree::Integer(value) => value.to_string(),
            Tree::Double(value) => value.to_string(),
            Tree::String(value) => value.chars().take(100).collect(),
            Tree::Bytes(_) => "(bytes)".to_owned(),
            Tree::List(_) => "(list)".to_owned(),
            Tree::Map(_) => "(map)".to_owned(),
        }
    }
}
