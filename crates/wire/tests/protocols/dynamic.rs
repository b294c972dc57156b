//! Shapes that are described at run time: botocore's protocol cases define their own. They
//! implement the same traits as the generated ones, so the codecs under test are the product's.

use base::Timestamp;
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;
use wire::schema::{
    ErrorTraits, Kind, Location, Member, Namespace, StructureTraits, TimestampFormat, Type, flag,
};
use wire::shape::Slot;
use wire::{DecodeError, Decoder, Document, Encoder, List, Map as WireMap, Shape};

/// How often a recursive shape is unrolled.
const MAX_RECURSION: usize = 6;

fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn leak_text(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

/// Builds descriptions from the `shapes` of a case.
pub(crate) struct Builder<'a> {
    pub(crate) shapes: &'a Map<String, Json>,
}

fn text<'a>(body: &'a Json, key: &str) -> &'a str {
    body[key].as_str().unwrap_or_default()
}

fn is(body: &Json, key: &str) -> bool {
    body[key].as_bool().unwrap_or_default()
}

impl Builder<'_> {
    /// The reference to an input, output or error.
    pub(crate) fn root(&self, reference: &Json) -> &'static Member {
        leak(self.member(text(reference, "shape"), reference, false, &mut Vec::new()))
    }

    fn member(&self, name: &str, body: &Json, required: bool, path: &mut Vec<String>) -> Member {
        let target = text(body, "shape");
        let shape = &self.shapes[target];
        let mut member = Member::new(leak_text(name), self.shape(target, path))
            .at(leak_text(text(body, "locationName")))
            .query(leak_text(text(body, "queryName")))
            .in_(match text(body, "location") {
                "header" => Location::Header,
                "headers" => Location::Headers,
                "querystring" => Location::QueryString,
                "uri" => Location::Uri,
                "statusCode" => Location::StatusCode,
                _ => Location::Body,
            });
        let format = match text(body, "timestampFormat") {
            "" => text(shape, "timestampFormat"),
            format => format,
        };
        member.timestamp = match format {
            "iso8601" => TimestampFormat::Iso8601,
            "rfc822" => TimestampFormat::Rfc822,
            "unixTimestamp" => TimestampFormat::UnixTimestamp,
            _ => TimestampFormat::Default,
        };
        member.namespace = namespace(body);
        for (set, bit) in [
            (required, flag::REQUIRED),
            (is(body, "flattened"), flag::FLATTENED),
            (is(body, "xmlAttribute"), flag::XML_ATTRIBUTE),
            (is(body, "streaming") || is(shape, "streaming"), flag::STREAMING),
            (is(body, "jsonvalue"), flag::JSON_VALUE),
            (is(body, "eventpayload"), flag::EVENT_PAYLOAD),
            (is(body, "idempotencyToken"), flag::IDEMPOTENCY_TOKEN),
            (is(body, "hostLabel"), flag::HOST_LABEL),
        ] {
            if set {
                member = member.flags(bit);
            }
        }
        member
    }

    fn shape(&self, name: &str, path: &mut Vec<String>) -> &'static Type {
        let body = &self.shapes[name];
        let static_name = leak_text(name);
        if path.iter().filter(|above| *above == name).count() == MAX_RECURSION {
            return leak(Type::structure(static_name, &[]));
        }
        path.push(name.to_owned());
        let kind = match text(body, "type") {
            "structure" if is(body, "document") => Kind::Document,
            "structure" => {
                let mut members = Vec::new();
                for (member, reference) in body["members"].as_object().into_iter().flatten() {
                    let required = body["required"].as_array().into_iter().flatten();
                    let required = required.into_iter().any(|name| name == member.as_str());
                    members.push(self.member(member, reference, required, path));
                }
                Kind::Structure(Vec::leak(members))
            }
            "list" => Kind::List(leak(self.member("member", &body["member"], false, path))),
            "map" => Kind::Map(
                leak(self.member("key", &body["key"], false, path)),
                leak(self.member("value", &body["value"], false, path)),
            ),
            "integer" => Kind::Integer,
            "long" => Kind::Long,
            "boolean" => Kind::Boolean,
            "double" => Kind::Double,
            "float" => Kind::Float,
            "blob" => Kind::Blob,
            "timestamp" => Kind::Timestamp,
            "string" | "character" => Kind::String,
            // Smithy's small integers.
            "byte" | "short" => Kind::Integer,
            other => panic!("{name} is of unknown type {other}"),
        };
        path.pop();
        let mut shape = Type::simple(static_name, kind);
        shape.flattened = is(body, "flattened");
        let error = body.get("error").filter(|error| error.is_object());
        shape.traits = Some(leak(StructureTraits {
            payload: leak_text(text(body, "payload")),
            location_name: leak_text(text(body, "locationName")),
            namespace: namespace(body),
            union: is(body, "union"),
            event_stream: is(body, "eventstream"),
            error: (is(body, "exception") || error.is_some()).then(|| ErrorTraits {
                code: leak_text(error.map_or("", |error| text(error, "code"))),
                status: 0,
                sender: true,
            }),
        }));
        leak(shape)
    }
}

fn namespace(body: &Json) -> Option<&'static Namespace> {
    match &body["xmlNamespace"] {
        Json::String(uri) => Some(leak(Namespace { uri: leak_text(uri), prefix: "" })),
        Json::Object(_) => {
            let body = &body["xmlNamespace"];
            let (uri, prefix) = (leak_text(text(body, "uri")), leak_text(text(body, "prefix")));
            Some(leak(Namespace { uri, prefix }))
        }
        _ => None,
    }
}

/// A structure whose members are values.
#[derive(Clone, Debug)]
pub(crate) struct DynamicShape {
    schema: &'static Type,
    slots: Vec<DynamicSlot>,
}

#[derive(Clone, Debug, Default)]
struct DynamicSlot(Option<Dynamic>);

#[derive(Clone, Debug)]
enum Dynamic {
    String(String),
    Integer(i64),
    Boolean(bool),
    Double(f64),
    Float(f32),
    Blob(Vec<u8>),
    Timestamp(Timestamp),
    Document(Document),
    Structure(DynamicShape),
    List(Vec<Dynamic>),
    Map(BTreeMap<String, Dynamic>),
}

impl DynamicShape {
    pub(crate) fn new(schema: &'static Type) -> Self {
        DynamicShape { schema, slots: vec![DynamicSlot::default(); schema.members().len()] }
    }

    /// Fills a shape from a case's `params` or `result`.
    pub(crate) fn from_json(schema: &'static Type, value: &Json) -> Self {
        let mut shape = DynamicShape::new(schema);
        for (slot, member) in shape.slots.iter_mut().zip(schema.members()) {
            if let Some(value) = value.get(member.name).filter(|value| !value.is_null()) {
                slot.0 = Some(Dynamic::from_json(member.target, value));
            }
        }
        shape
    }

    pub(crate) fn to_json(&self) -> Json {
        let mut out = Map::new();
        for (slot, member) in self.slots.iter().zip(self.schema.members()) {
            if let Some(value) = &slot.0 {
                out.insert(member.name.to_owned(), value.to_json());
            }
        }
        Json::Object(out)
    }
}

fn number(value: &Json) -> f64 {
    match value.as_str() {
        Some("NaN") => f64::NAN,
        Some("Infinity") => f64::INFINITY,
        Some("-Infinity") => f64::NEG_INFINITY,
        Some(other) => other.parse().expect("a number"),
        None => value.as_f64().expect("a number"),
    }
}

pub(crate) fn document(value: &Json) -> Document {
    match value {
        Json::Null => Document::Null,
        Json::Bool(value) => Document::Boolean(*value),
        Json::Number(value) => match value.as_i64() {
            Some(value) => Document::Integer(value),
            None => Document::Double(value.as_f64().expect("a number")),
        },
        Json::String(value) => Document::String(value.clone()),
        Json::Array(all) => Document::List(all.iter().map(document).collect()),
        Json::Object(all) => {
            Document::Map(all.iter().map(|(key, value)| (key.clone(), document(value))).collect())
        }
    }
}

fn document_json(value: &Document) -> Json {
    match value {
        Document::Null => Json::Null,
        Document::Boolean(value) => json!(value),
        Document::Integer(value) => json!(value),
        Document::Double(value) => json!(value),
        Document::String(value) => json!(value),
        Document::List(all) => all.iter().map(document_json).collect(),
        Document::Map(all) => {
            let all = all.iter().map(|(key, value)| (key.clone(), document_json(value)));
            Json::Object(all.collect())
        }
    }
}

impl Dynamic {
    fn from_json(target: &'static Type, value: &Json) -> Self {
        match &target.kind {
            Kind::String => Dynamic::String(match value {
                Json::String(text) => text.clone(),
                other => other.to_string(),
            }),
            Kind::Integer | Kind::Long => {
                Dynamic::Integer(value.as_i64().unwrap_or_else(|| number(value) as i64))
            }
            Kind::Boolean => Dynamic::Boolean(value.as_bool().expect("a boolean")),
            Kind::Double => Dynamic::Double(number(value)),
            Kind::Float => Dynamic::Float(number(value) as f32),
            Kind::Blob => Dynamic::Blob(value.as_str().expect("text").as_bytes().to_vec()),
            Kind::Timestamp => {
                Dynamic::Timestamp(Timestamp((number(value) * 1_000.0).round() as i64))
            }
            Kind::Document => Dynamic::Document(document(value)),
            Kind::Structure(_) => Dynamic::Structure(DynamicShape::from_json(target, value)),
            Kind::List(item) => {
                let all = value.as_array().expect("a list").iter().filter(|item| !item.is_null());
                Dynamic::List(all.map(|value| Dynamic::from_json(item.target, value)).collect())
            }
            Kind::Map(_, item) => {
                let all = value.as_object().expect("a map").iter();
                let all = all.filter(|(_, value)| !value.is_null());
                let entry = |(key, value): (&String, _)| {
                    (key.clone(), Dynamic::from_json(item.target, value))
                };
                Dynamic::Map(all.map(entry).collect())
            }
        }
    }

    fn to_json(&self) -> Json {
        match self {
            Dynamic::String(value) => json!(value),
            Dynamic::Integer(value) => json!(value),
            Dynamic::Boolean(value) => json!(value),
            Dynamic::Double(value) => json!(format!("{value:?}")),
            Dynamic::Float(value) => json!(format!("{value:?}")),
            Dynamic::Blob(value) => json!(String::from_utf8_lossy(value)),
            Dynamic::Timestamp(value) => json!(value.0 as f64 / 1_000.0),
            Dynamic::Document(value) => document_json(value),
            Dynamic::Structure(value) => value.to_json(),
            Dynamic::List(all) => all.iter().map(Dynamic::to_json).collect(),
            Dynamic::Map(all) => Json::Object(
                all.iter().map(|(key, value)| (key.clone(), value.to_json())).collect(),
            ),
        }
    }

    fn encode(&self, member: &'static Member, out: &mut dyn Encoder) {
        match self {
            Dynamic::String(value) => out.string(member, value),
            Dynamic::Integer(value) => out.integer(member, *value),
            Dynamic::Boolean(value) => out.boolean(member, *value),
            Dynamic::Double(value) => out.double(member, *value),
            Dynamic::Float(value) => out.float(member, *value),
            Dynamic::Blob(value) => out.blob(member, value),
            Dynamic::Timestamp(value) => out.timestamp(member, *value),
            Dynamic::Document(value) => out.document(member, value),
            Dynamic::Structure(value) => out.structure(member, value),
            Dynamic::List(value) => out.list(member, &Items(value)),
            Dynamic::Map(value) => out.map(member, &Entries(value)),
        }
    }

    fn decode(member: &'static Member, from: &mut dyn Decoder) -> Result<Self, DecodeError> {
        Ok(match &member.target.kind {
            Kind::String => Dynamic::String(from.string(member)?),
            Kind::Integer => {
                Dynamic::Integer(from.integer(member, i32::MIN.into(), i32::MAX.into())?)
            }
            Kind::Long => Dynamic::Integer(from.integer(member, i64::MIN, i64::MAX)?),
            Kind::Boolean => Dynamic::Boolean(from.boolean(member)?),
            Kind::Double => Dynamic::Double(from.double(member)?),
            Kind::Float => Dynamic::Float(from.double(member)? as f32),
            Kind::Blob => Dynamic::Blob(from.blob(member)?),
            Kind::Timestamp => Dynamic::Timestamp(from.timestamp(member)?),
            Kind::Document => Dynamic::Document(from.document(member)?),
            Kind::Structure(_) => {
                let mut shape = DynamicShape::new(member.target);
                from.structure(member, &mut shape)?;
                Dynamic::Structure(shape)
            }
            Kind::List(_) => {
                let mut items = Vec::new();
                from.list(member, &mut |item, from| {
                    items.push(Dynamic::decode(item, from)?);
                    Ok(())
                })?;
                Dynamic::List(items)
            }
            Kind::Map(..) => {
                let mut entries = BTreeMap::new();
                from.map(member, &mut |key, value, from| {
                    entries.insert(key, Dynamic::decode(value, from)?);
                    Ok(())
                })?;
                Dynamic::Map(entries)
            }
        })
    }
}

struct Items<'a>(&'a [Dynamic]);

impl List for Items<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn encode_items(&self, item: &'static Member, out: &mut dyn Encoder) {
        for value in self.0 {
            value.encode(item, out);
        }
    }
}

struct Entries<'a>(&'a BTreeMap<String, Dynamic>);

impl WireMap for Entries<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn encode_entries(&self, value: &'static Member, out: &mut dyn Encoder) {
        for (key, item) in self.0 {
            out.key(key);
            item.encode(value, out);
        }
    }
}

impl Shape for DynamicShape {
    fn schema(&self) -> &'static Type {
        self.schema
    }
    fn slot(&self, index: usize) -> &dyn Slot {
        &self.slots[index]
    }
    fn slot_mut(&mut self, index: usize) -> Option<&mut dyn Slot> {
        self.slots.get_mut(index).map(|slot| slot as &mut dyn Slot)
    }
}

impl Slot for DynamicSlot {
    fn is_present(&self) -> bool {
        self.0.is_some()
    }
    fn equals(&self, _: &dyn Slot) -> bool {
        unreachable!("cases are compared as JSON")
    }
    fn put(&self, member: &'static Member, out: &mut dyn Encoder) {
        if let Some(value) = &self.0 {
            value.encode(member, out);
        }
    }
    fn take(&mut self, member: &'static Member, from: &mut dyn Decoder) -> Result<(), DecodeError> {
        self.0 = Some(Dynamic::decode(member, from)?);
        Ok(())
    }
}
