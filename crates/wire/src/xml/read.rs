//! XML in: a tree of elements, and a decoder that walks it.
//!
//! Bodies are small (a request of a REST service; answers only in a client), so a tree is simpler
//! than a stream and lets members come in any order. There are no document types and no entities
//! but the five of XML itself; depth is bounded.

use crate::schema::{Kind, Member, flag};
use crate::shape::{Decoder, Shape, TakeEntry, TakeItem};
use crate::xml::write::{item_name, map_names};
use crate::{DecodeError, Document, text};
use base::Timestamp;
use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// Deeper documents are refused. The deepest answer of EC2 has 12 levels.
const MAX_DEPTH: usize = 64;

/// An element.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// Name without prefix.
    pub name: String,
    /// Attributes, names with their prefixes.
    pub attributes: Vec<(String, String)>,
    /// Character data of the element itself.
    pub text: String,
    /// Child elements in order.
    pub children: Vec<Node>,
}

impl Node {
    /// The first child of that name.
    pub fn child(&self, name: &str) -> Option<&Node> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The node below, by the names on the way to it.
    pub fn path(&self, names: &[&str]) -> Option<&Node> {
        names.iter().try_fold(self, |node, name| node.child(name))
    }
}

fn malformed(why: impl std::fmt::Display) -> DecodeError {
    DecodeError::Malformed(why.to_string())
}

/// Reads a document.
pub fn parse(bytes: &[u8]) -> Result<Node, DecodeError> {
    let text = std::str::from_utf8(bytes).map_err(malformed)?;
    let mut reader = Reader::from_str(text);
    // The first is not an element: it collects the root.
    let mut open = vec![Node::default()];
    loop {
        match reader.read_event().map_err(malformed)? {
            Event::Start(start) => {
                if open.len() > MAX_DEPTH {
                    return Err(DecodeError::TooMany("levels of elements".to_owned()));
                }
                open.push(element(&start)?);
            }
            Event::Empty(start) => {
                let node = element(&start)?;
                last(&mut open)?.children.push(node);
            }
            Event::End(_) => {
                let node = open.pop().ok_or_else(|| malformed("an element ends twice"))?;
                last(&mut open)?.children.push(node);
            }
            Event::Text(text) => {
                last(&mut open)?.text.push_str(&text);
            }
            Event::CData(text) => {
                last(&mut open)?.text.push_str(&text);
            }
            Event::GeneralRef(reference) => {
                let character = match reference.resolve_char_ref().map_err(malformed)? {
                    Some(character) => character,
                    None => match &*reference {
                        "amp" => '&',
                        "lt" => '<',
                        "gt" => '>',
                        "quot" => '"',
                        "apos" => '\'',
                        other => return Err(malformed(format!("unknown entity {other}"))),
                    },
                };
                last(&mut open)?.text.push(character);
            }
            Event::DocType(_) => return Err(malformed("document types are not accepted")),
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
            Event::Eof => break,
        }
    }
    let mut top = open.pop().unwrap_or_default();
    if !open.is_empty() {
        return Err(malformed(format!("<{}> does not end", top.name)));
    }
    match (top.children.pop(), top.children.is_empty()) {
        (Some(root), true) => Ok(root),
        _ => Err(malformed("a document has one element")),
    }
}

fn last(open: &mut [Node]) -> Result<&mut Node, DecodeError> {
    open.last_mut().ok_or_else(|| malformed("an element ends twice"))
}

fn element(start: &BytesStart<'_>) -> Result<Node, DecodeError> {
    let name = start.local_name().into_inner().to_owned();
    let mut attributes = Vec::new();
    for attribute in start.attributes() {
        let attribute = attribute.map_err(malformed)?;
        let name = attribute.key.into_inner();
        let value = quick_xml::escape::unescape(&attribute.value).map_err(malformed)?;
        attributes.push((name.to_owned(), value.into_owned()));
    }
    Ok(Node { name, attributes, ..Node::default() })
}

/// Reads shapes from a tree. Elements that the shape does not have are skipped: an answer of a
/// newer service must not break a client.
#[allow(missing_debug_implementations)]
pub struct XmlDecoder<'a> {
    /// Every node of the value: one, or all items of a flattened list.
    nodes: Vec<&'a Node>,
    /// The value is an attribute.
    attribute: Option<&'a str>,
}

impl<'a> XmlDecoder<'a> {
    /// A decoder that stands on `node`.
    pub fn new(node: &'a Node) -> Self {
        XmlDecoder { nodes: vec![node], attribute: None }
    }

    /// Reads the members of a structure, whatever the element is called.
    pub fn read(&mut self, into: &mut dyn Shape) -> Result<(), DecodeError> {
        let Some(&node) = self.nodes.last() else { return Ok(()) };
        let here = self.at(Vec::new());
        for (index, member) in into.schema().members().iter().enumerate() {
            if member.has(flag::XML_ATTRIBUTE) {
                let name = member.wire_name();
                let found = node.attributes.iter().find(|(key, _)| key == name);
                if let Some((_, value)) = found {
                    self.attribute = Some(value);
                    let result = into.decode(index, self);
                    self.attribute = None;
                    result?;
                }
                continue;
            }
            let name = member.wire_name();
            let nodes: Vec<_> = node.children.iter().filter(|child| child.name == name).collect();
            if !nodes.is_empty() {
                self.at(nodes);
                into.decode(index, self)?;
            }
        }
        self.at(here);
        Ok(())
    }

    fn text(&self) -> &'a str {
        match self.attribute {
            Some(text) => text,
            None => self.nodes.last().map_or("", |node| &node.text),
        }
    }

    fn at(&mut self, nodes: Vec<&'a Node>) -> Vec<&'a Node> {
        std::mem::replace(&mut self.nodes, nodes)
    }
}

impl Decoder for XmlDecoder<'_> {
    fn string(&mut self, _: &'static Member) -> Result<String, DecodeError> {
        Ok(self.text().to_owned())
    }
    fn integer(&mut self, member: &'static Member, min: i64, max: i64) -> Result<i64, DecodeError> {
        let value = self.text().trim().parse().ok().filter(|value| (min..=max).contains(value));
        value.ok_or_else(|| DecodeError::invalid(member, self.text()))
    }
    fn boolean(&mut self, member: &'static Member) -> Result<bool, DecodeError> {
        match self.text().trim() {
            "true" => Ok(true),
            "false" => Ok(false),
            other => Err(DecodeError::invalid(member, other)),
        }
    }
    fn double(&mut self, member: &'static Member) -> Result<f64, DecodeError> {
        let value = text::parse_double(self.text().trim());
        value.ok_or_else(|| DecodeError::invalid(member, self.text()))
    }
    fn blob(&mut self, member: &'static Member) -> Result<Vec<u8>, DecodeError> {
        let value = text::parse_base64(self.text());
        value.ok_or_else(|| DecodeError::invalid(member, self.text()))
    }
    fn timestamp(&mut self, member: &'static Member) -> Result<Timestamp, DecodeError> {
        let value = text::parse_time(self.text());
        value.ok_or_else(|| DecodeError::invalid(member, self.text()))
    }
    fn document(&mut self, member: &'static Member) -> Result<Document, DecodeError> {
        Err(DecodeError::invalid(member, self.text()))
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
        let here = self.at(Vec::new());
        let items: Vec<_> = if member.is_flattened() {
            here.clone()
        } else {
            let name = item_name(item);
            let all = here.iter().flat_map(|node| &node.children);
            all.filter(|child| child.name == name).collect()
        };
        for node in items {
            self.at(vec![node]);
            take(item, self)?;
        }
        self.at(here);
        Ok(())
    }
    fn map(
        &mut self,
        member: &'static Member,
        take: &mut TakeEntry<'_>,
    ) -> Result<(), DecodeError> {
        let Kind::Map(key, item) = member.target.kind else { return Ok(()) };
        let [key_name, value_name] = map_names(key, item);
        let here = self.at(Vec::new());
        let entries: Vec<_> = if member.is_flattened() {
            here.clone()
        } else {
            let all = here.iter().flat_map(|node| &node.children);
            all.filter(|child| child.name == "entry").collect()
        };
        for entry in entries {
            let Some(key) = entry.child(key_name) else { continue };
            let Some(value) = entry.child(value_name) else { continue };
            self.at(vec![value]);
            take(key.text.clone(), item, self)?;
        }
        self.at(here);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_document_is_refused() {
        let root = parse(b"<a x='1 &amp; 2'>&lt;b&#xD;<!-- c --><![CDATA[<]]></a>").expect("XML");
        assert_eq!(root.text, "<b\r<");
        assert_eq!(root.attributes, [("x".to_owned(), "1 & 2".to_owned())]);
        for bad in [
            "",
            "text",
            "<a>",
            "</a>",
            "<a></b>",
            "<a/><b/>",
            "<a>&unknown;</a>",
            "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(parse(b"<a>\xff</a>").is_err());
        assert!(matches!(parse("<a>".repeat(1_000).as_bytes()), Err(DecodeError::TooMany(_))));
    }
}
