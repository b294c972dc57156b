//! Conformance from outside: botocore's protocol cases, in both directions.
//!
//! They are written for clients. So an input case is encoded and compared with the request that
//! botocore sends, and that request is decoded as a server does and compared with the parameters;
//! an output case is decoded as a client does, and encoded as a server does, where the comparison is
//! with the tree of the answer. The archive is downloaded, never committed.

#[path = "botocore/mod.rs"]
mod botocore;
#[path = "protocols/dynamic.rs"]
mod dynamic;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dynamic::{Builder, DynamicShape};
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;
use wire::schema::{Kind, Location, OperationModel, Protocol, ServiceModel};
use wire::sigv4::RequestParts;
use wire::xml::{self, Node};
use wire::{client, server};

/// Cases that we do not pass, by the end of their name, each with the reason.
const EXPECTED_FAILURES: &[(&str, &str)] = &[
    ("Ec2QueryHostWithPath", ENDPOINT),
    ("QueryHostWithPath", ENDPOINT),
    ("AwsJson10HostWithPath", ENDPOINT),
    ("AwsJson11HostWithPath", ENDPOINT),
    ("RestJsonHostWithPath", ENDPOINT),
    ("SDKAppliedContentEncoding_ec2Query", GZIP),
    ("SDKAppliedContentEncoding_awsQuery", GZIP),
    ("SDKAppliedContentEncoding_awsJson1_0", GZIP),
    ("SDKAppliedContentEncoding_awsJson1_1", GZIP),
    ("SDKAppliedContentEncoding_restJson1", GZIP),
    ("SDKAppliedContentEncoding_restXml", GZIP),
    ("SDKAppendsGzipAndIgnoresHttpProvidedEncoding_ec2Query", GZIP),
    ("SDKAppendsGzipAndIgnoresHttpProvidedEncoding_awsQuery", GZIP),
    ("SDKAppendsGzipAndIgnoresHttpProvidedEncoding_awsJson1_0", GZIP),
    ("SDKAppendsGzipAndIgnoresHttpProvidedEncoding_awsJson1_1", GZIP),
    ("SDKAppendedGzipAfterProvidedEncoding_restJson1", GZIP),
    ("SDKAppendedGzipAfterProvidedEncoding_restXml", GZIP),
    ("Ec2ProtocolIdempotencyTokenAutoFill", TOKEN),
    ("QueryProtocolIdempotencyTokenAutoFill", TOKEN),
    ("RestJsonQueryIdempotencyTokenAutoFill", TOKEN),
    ("rest-xml/input/QueryIdempotencyTokenAutoFill", TOKEN),
    ("QueryCompatibleAwsJson10CborSendsQueryModeHeader", QUERY_MODE),
    ("QueryCompatibleRpcV2CborSendsQueryModeHeader", QUERY_MODE),
    ("RestJsonHttpChecksumRequired", "checksums of bodies belong to who sends them"),
    ("rest-json/output/HttpPrefixHeadersResponse", "an empty prefix takes our Content-Type too"),
    ("rest-xml/input/BodyWithXmlName", ROOT),
    ("rest-xml/input/RestXmlHttpPayloadWithUnion", ROOT),
    ("rest-xml/input/HttpPayloadWithXmlName", ROOT),
    ("rest-xml/input/HttpPayloadWithXmlNamespace", ROOT),
    ("rest-xml/input/HttpPayloadWithXmlNamespaceAndPrefix", ROOT),
    ("rest-xml/input/XmlAttributesOnPayload", ROOT),
    ("rest-xml/output/RestXmlHttpPayloadWithUnion", ROOT),
    ("rest-xml/output/HttpPayloadWithXmlName", ROOT),
    ("rest-xml/output/HttpPayloadWithXmlNamespace", ROOT),
    ("rest-xml/output/HttpPayloadWithXmlNamespaceAndPrefix", ROOT),
];
const ENDPOINT: &str = "the path of an endpoint is added by who sends the request, not by a codec";
const GZIP: &str = "no request is compressed, and no compressed request is accepted";
const TOKEN: &str = "a codec is pure: whoever calls fills in random tokens";
const QUERY_MODE: &str = "our client has no use for query-compatible error codes";
const ROOT: &str =
    "the root is called by the reference, not by the shape, as botocore does and S3 needs";

/// Answers with parts that a client must skip and a server has no reason to write.
const NOT_WRITTEN: &[&str] = &[
    "handles_unexpected_json_output",
    "AwsJson10HandlesUnexpectedJsonOutput",
    "AwsJson10DeserializeIgnoreType",
    "AwsJson11DeserializeIgnoreType",
    "RestJsonDeserializeIgnoreType",
    "SimpleScalarPropertiesWithXMLPreamble",
];

fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn leak_text(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

fn text<'a>(body: &'a Json, key: &str) -> &'a str {
    body[key].as_str().unwrap_or_default()
}

/// A case, with its suite's facts made into models.
struct Case<'a> {
    protocol: Protocol,
    service: &'static ServiceModel,
    operation: &'static OperationModel,
    errors: Vec<&'static wire::Member>,
    body: &'a Json,
}

impl<'a> Case<'a> {
    fn new(suite: &'a Json, body: &'a Json) -> Self {
        let metadata = &suite["metadata"];
        let protocol = match (text(metadata, "protocol"), text(metadata, "jsonVersion")) {
            ("ec2", _) => Protocol::Ec2,
            ("query", _) => Protocol::Query,
            ("json", "1.0") => Protocol::Json10,
            ("json", _) => Protocol::Json11,
            ("rest-json", _) => Protocol::RestJson,
            ("rest-xml", _) => Protocol::RestXml,
            ("smithy-rpc-v2-cbor", _) => Protocol::RpcV2Cbor,
            (other, _) => panic!("unknown protocol {other}"),
        };
        let none = Map::new();
        let builder = Builder { shapes: suite["shapes"].as_object().unwrap_or(&none) };
        let given = &body["given"];
        let root = |key: &str| given.get(key).map(|reference| builder.root(reference));
        let output = root("output");
        let name = leak_text(match text(given, "name") {
            "" => "OperationName",
            name => name,
        });
        let has_members = output.is_some_and(|output| !output.target.members().is_empty());
        let operation = leak(OperationModel {
            name,
            method: leak_text(text(&given["http"], "method")),
            uri: leak_text(text(&given["http"], "requestUri")),
            status: given["http"]["responseCode"].as_u64().unwrap_or(200) as u16,
            input: root("input"),
            output,
            result_wrapper: match protocol {
                Protocol::Query if has_members => leak_text(&format!("{name}Result")),
                _ => "",
            },
            paginator: None,
            idempotency_token: "",
            has_dry_run: false,
            errors: &[],
        });
        let service = leak(ServiceModel {
            name: "test",
            service_id: leak_text(text(metadata, "serviceId")),
            protocols: vec![protocol].leak(),
            api_version: leak_text(text(metadata, "apiVersion")),
            xml_namespace: match &metadata["xmlNamespace"] {
                Json::String(uri) => leak_text(uri),
                other => leak_text(text(other, "uri")),
            },
            signing_name: "test",
            endpoint_prefix: "test",
            target_prefix: leak_text(text(metadata, "targetPrefix")),
            operations: vec![operation].leak(),
        });
        let errors = given["errors"].as_array().into_iter().flatten();
        let errors = errors.map(|reference| builder.root(reference)).collect();
        Case { protocol, service, operation, errors, body }
    }

    fn encodes_input(&self) -> Result<(), String> {
        let input = self.input(&self.body["params"]);
        let request = client::request(self.service, self.protocol, self.operation, &input)
            .map_err(|error| format!("client::request: {error}"))?;
        let expected = &self.body["serialized"];
        same("method", text(expected, "method"), &request.method)?;
        same("uri", &normal_uri(text(expected, "uri")), &normal_uri(&request.uri))?;
        for (name, value) in expected["headers"].as_object().into_iter().flatten() {
            let found = request.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            let found = found.map(|(_, value)| value.as_str()).unwrap_or("(absent)");
            let found = found.strip_suffix("; charset=utf-8").unwrap_or(found);
            same(name, value.as_str().unwrap_or_default(), found)?;
        }
        for name in expected["forbidHeaders"].as_array().into_iter().flatten() {
            let name = name.as_str().unwrap_or_default();
            if request.headers.iter().any(|(key, _)| key.eq_ignore_ascii_case(name)) {
                return Err(format!("header {name} must not be sent"));
            }
        }
        if let Some(body) = expected["body"].as_str() {
            let body = self.bytes(body);
            same("body", &self.normal_body(&body)?, &self.normal_body(&request.body)?)?;
        }
        // What we write, we read.
        let mut headers = Map::new();
        for (key, value) in &request.headers {
            headers.insert(key.clone(), json!(value));
        }
        self.serves(&request.method, &request.uri, &Json::Object(headers), &request.body)
    }

    fn decodes_input(&self) -> Result<(), String> {
        let sent = &self.body["serialized"];
        let body = self.bytes(text(sent, "body"));
        let has_target = pairs(&sent["headers"])
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("x-amz-target"));
        if matches!(self.protocol, Protocol::Json10 | Protocol::Json11) && !has_target {
            // The case leaves the header out that names the operation.
            return Ok(());
        }
        self.serves(text(sent, "method"), text(sent, "uri"), &sent["headers"], &body)
    }

    /// Reads a request as a server does and compares it with the parameters of the case.
    fn serves(&self, method: &str, uri: &str, headers: &Json, body: &[u8]) -> Result<(), String> {
        let headers = pairs(headers);
        let headers: Vec<(&str, &[u8])> =
            headers.iter().map(|(key, value)| (key.as_str(), value.as_bytes())).collect();
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let parts = RequestParts { method, path, query, headers: &headers, body };
        let call = server::open(self.service, &parts).map_err(|e| format!("server::open: {e}"))?;
        same("operation", self.operation.name, call.operation.name)?;
        let mut input = self.input(&json!({}));
        call.decode(&mut input).map_err(|error| format!("decode: {error}"))?;
        let expected = self.input(&self.body["params"]).to_json();
        let normal = |value| drop_what_cannot_be_said(self.protocol, self.operation.input, value);
        same("input", &normal(expected), &normal(input.to_json()))
    }

    fn decodes_output(&self) -> Result<(), String> {
        let response = &self.body["response"];
        let empty = if self.protocol == Protocol::Query { "<xml/>" } else { "" };
        let body = self.bytes(response["body"].as_str().unwrap_or(empty));
        let status = response["status_code"].as_u64().unwrap_or(200) as u16;
        let headers = pairs(&response["headers"]);
        let headers: Vec<(&str, &[u8])> =
            headers.iter().map(|(key, value)| (key.as_str(), value.as_bytes())).collect();
        self.reads_error_members(client::Reply { status, headers: &headers, body: &body })?;
        self.reads(status, &response["headers"], &body)
    }

    /// Reads an answer as a client does and compares it with what the case says.
    fn reads(&self, status: u16, headers: &Json, body: &[u8]) -> Result<(), String> {
        let headers = pairs(headers);
        let headers: Vec<(&str, &[u8])> =
            headers.iter().map(|(key, value)| (key.as_str(), value.as_bytes())).collect();
        let reply = client::Reply { status, headers: &headers, body };
        let mut output = self.output(&json!({}));
        let result = client::response(self.protocol, self.operation, reply, &mut output);
        if self.body.get("error").is_none() {
            result.map_err(|error| format!("client::response: {error}"))?;
            let expected = self.output(&self.body["result"]).to_json();
            let root = self.operation.output;
            let normal = |value| match self.protocol {
                // Answers that are forms do not exist.
                Protocol::Ec2 | Protocol::Query => value,
                protocol => drop_what_cannot_be_said(protocol, root, value),
            };
            return same("output", &normal(expected), &normal(output.to_json()));
        }
        let Err(client::Failure::Api(error)) = result else {
            return Err(format!("an error is read as {result:?}"));
        };
        same("error code", text(self.body, "errorCode"), &error.code)?;
        if let Some(message) = self.body["errorMessage"].as_str() {
            same("error message", message, &error.message)?;
        }
        Ok(())
    }

    /// The members of a modelled error. A server of ours writes none but the message.
    fn reads_error_members(&self, reply: client::Reply<'_>) -> Result<(), String> {
        let (Some(expected), Some(shape)) = (self.body.get("error"), self.errors.first()) else {
            return Ok(());
        };
        let mut members = DynamicShape::new(shape.target);
        client::error_members(self.protocol, reply, &mut members)
            .map_err(|error| format!("error_members: {error}"))?;
        let expected = DynamicShape::from_json(shape.target, expected).to_json();
        same("error members", &expected, &members.to_json())
    }

    fn encodes_output(&self) -> Result<(), String> {
        let response = &self.body["response"];
        let encoded = if self.body.get("error").is_some() {
            let error = wire::Error {
                code: text(self.body, "errorCode").to_owned().into(),
                message: text(self.body, "errorMessage").to_owned(),
                status: response["status_code"].as_u64().unwrap_or(400) as u16,
                members: Vec::new(),
            };
            server::encode_error(self.service, self.protocol, &error)
        } else {
            let output = self.output(&self.body["result"]);
            server::encode(self.service, self.protocol, self.operation, &output, 0)
        };
        let body = encoded.body("requestid");
        let mut headers = Map::new();
        for (key, value) in &encoded.headers {
            headers.insert((*key).to_owned(), json!(value));
        }
        if !encoded.content_type.is_empty() {
            headers.insert("content-type".to_owned(), json!(encoded.content_type));
        }
        // What a client reads in our answer is what the case says…
        if self.body.get("error").is_none() || self.has_plain_error() {
            self.reads(encoded.status, &Json::Object(headers), &body)?;
        }
        // …and the bytes have the same structure.
        let expected = text(response, "body");
        if expected.is_empty()
            || self.body.get("error").is_some()
            || NOT_WRITTEN.contains(&text(self.body, "id"))
        {
            return Ok(());
        }
        let expected = self.normal_body(&self.bytes(expected))?;
        same("body", &expected, &self.normal_body(&body)?)
    }

    /// A body as it stands in a case: text, or base64 of CBOR.
    fn bytes(&self, text: &str) -> Vec<u8> {
        match self.protocol {
            Protocol::RpcV2Cbor => STANDARD.decode(text).expect("base64"),
            _ => text.as_bytes().to_vec(),
        }
    }

    /// Whether the error has no members but the message.
    fn has_plain_error(&self) -> bool {
        let members = self.body["error"].as_object();
        members.is_none_or(|all| all.keys().all(|key| key.eq_ignore_ascii_case("message")))
    }

    fn input(&self, value: &Json) -> DynamicShape {
        from_json(self.operation.input, value)
    }

    fn output(&self, value: &Json) -> DynamicShape {
        from_json(self.operation.output, value)
    }

    /// A body in which what means the same is the same.
    fn normal_body(&self, body: &[u8]) -> Result<String, String> {
        if self.protocol == Protocol::RpcV2Cbor {
            // One value can be written in many ways; what it means is compared elsewhere.
            return Ok(String::new());
        }
        let text = String::from_utf8(body.to_vec()).map_err(|error| error.to_string())?;
        match (self.protocol, text.trim_start().starts_with('<')) {
            (Protocol::Ec2 | Protocol::Query, false) => {
                let mut pairs: Vec<&str> = text.split('&').collect();
                pairs.sort_unstable();
                Ok(pairs.join("&\n"))
            }
            (_, true) => {
                let root = xml::parse(text.trim().as_bytes()).map_err(|error| error.to_string())?;
                let mut out = String::new();
                print_node(&root, 0, &mut out);
                Ok(out)
            }
            _ => match serde_json::from_str::<Json>(&text) {
                Ok(value) => Ok(normal_json(value).to_string()),
                Err(_) => Ok(text),
            },
        }
    }
}

/// JSON without nulls, every number a double.
fn normal_json(value: Json) -> Json {
    match value {
        Json::Number(number) => json!(number.as_f64()),
        Json::String(text) => json!(wire_time(&text).unwrap_or(text)),
        Json::Array(all) => all.into_iter().map(normal_json).collect(),
        Json::Object(all) => {
            let all = all.into_iter().filter(|(_, value)| !value.is_null());
            Json::Object(all.map(|(key, value)| (key, normal_json(value))).collect())
        }
        other => other,
    }
}

/// A URI with its parameters in order.
fn normal_uri(uri: &str) -> String {
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let mut pairs: Vec<&str> = query.split('&').collect();
    pairs.sort_unstable();
    format!("{path}?{}", pairs.join("&"))
}

/// The headers of a case.
fn pairs(headers: &Json) -> Vec<(String, String)> {
    let all = headers.as_object().into_iter().flatten();
    all.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

fn from_json(root: Option<&'static wire::Member>, value: &Json) -> DynamicShape {
    static EMPTY: wire::Type = wire::Type::structure("Empty", &[]);
    DynamicShape::from_json(root.map_or(&EMPTY, |root| root.target), value)
}

/// Forms cannot say that a map is empty, and EC2's not that a list is; headers and queries neither.
fn drop_what_cannot_be_said(
    protocol: Protocol,
    root: Option<&'static wire::Member>,
    mut value: Json,
) -> Json {
    let members = root.map_or(&[][..], |root| root.target.members());
    let in_query = |member: &&wire::Member| member.location == Location::QueryString;
    let Some(all) = value.as_object_mut() else { return value };
    for member in members.iter().filter(in_query) {
        // Whether a parameter was meant as a member of its own or as an entry of the map of all is
        // not to be seen.
        if let (Kind::Map(..), Some(Json::Object(map))) =
            (&member.target.kind, all.get_mut(member.name))
        {
            map.retain(|key, _| !members.iter().filter(in_query).any(|m| m.wire_name() == key));
        }
    }
    all.retain(|name, value| {
        let member = members.iter().find(|member| member.name == name);
        let in_body = member.is_none_or(|member| member.location == Location::Body);
        let (list, map) = (*value == json!([]), *value == json!({}));
        match protocol {
            Protocol::Ec2 => !list && !map,
            Protocol::Query => !map,
            Protocol::RestJson | Protocol::RestXml => in_body || !list && !map,
            _ => true,
        }
    });
    value
}

/// Prints a tree, children of different names sorted, without request ids and metadata.
fn print_node(node: &Node, depth: usize, out: &mut String) {
    if matches!(&*node.name, "requestId" | "RequestId" | "ResponseMetadata") {
        return;
    }
    let has_children = !node.children.is_empty();
    let blank = has_children || node.text.trim().is_empty();
    let text = if blank { node.text.trim() } else { &node.text };
    let text = match wire_time(text) {
        Some(time) => time,
        None => text.to_owned(),
    };
    *out += &format!("{:depth$}{} {text:?}\n", "", node.name, depth = depth * 2);
    let mut groups: BTreeMap<&str, Vec<&Node>> = BTreeMap::new();
    for child in &node.children {
        groups.entry(&child.name).or_default().push(child);
    }
    for (_, group) in groups {
        let print = |child: &&Node| {
            let mut text = String::new();
            print_node(child, depth + 1, &mut text);
            text
        };
        let mut texts: Vec<String> = group.iter().map(print).collect();
        // Entries of a map have no order; items of a list do.
        if group.iter().all(|child| is_map_entry(child)) {
            texts.sort();
        }
        out.extend(texts);
    }
}

fn is_map_entry(node: &Node) -> bool {
    let names: Vec<&str> = node.children.iter().map(|child| &*child.name).collect();
    let keys = ["key", "Attribute", "K", "OuterKey", "InnerKey", "Name"];
    node.name == "entry" || matches!(names[..], [key, _] if keys.contains(&key))
}

/// A time in one form: with and without a fraction of zero it is the same.
fn wire_time(text: &str) -> Option<String> {
    let at = base::Timestamp::parse_iso(text)?;
    Some(at.iso_millis())
}

fn same<T: PartialEq + std::fmt::Display + ?Sized>(
    what: &str,
    expected: &T,
    found: &T,
) -> Result<(), String> {
    if expected == found {
        return Ok(());
    }
    Err(format!("{what}\n  expected: {expected}\n  found:    {found}"))
}

/// A name on the list is the whole id or its last part.
fn is_expected(id: &str) -> bool {
    let last = id.rsplit('/').next().unwrap_or(id);
    EXPECTED_FAILURES.iter().any(|(name, _)| *name == id || *name == last)
}

#[derive(Default)]
struct Tally {
    passed: usize,
    expected: usize,
}

#[test]
fn botocore_protocol_cases() {
    let Some(root) = botocore::sdist() else { return };
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    let mut failures = Vec::new();
    let mut total = 0;
    for direction in ["input", "output"] {
        let directory = root.join("tests/unit/protocols").join(direction);
        let mut files: Vec<_> = std::fs::read_dir(&directory)
            .expect("the archive has protocol cases")
            .map(|entry| entry.expect("a directory entry").path())
            .collect();
        files.sort();
        for file in files {
            let stem = file.file_stem().and_then(|stem| stem.to_str()).expect("a name");
            let suites = std::fs::read_to_string(&file).expect("readable");
            let suites: Json = serde_json::from_str(&suites).expect("JSON");
            for suite in suites.as_array().expect("a list of suites") {
                for body in suite["cases"].as_array().expect("a list of cases") {
                    total += 1;
                    let id = format!("{stem}/{direction}/{}", text(body, "id"));
                    let case = Case::new(suite, body);
                    let results = match direction {
                        "input" => [case.encodes_input(), case.decodes_input()],
                        _ => [case.decodes_output(), case.encodes_output()],
                    };
                    let failed: Vec<String> = results.into_iter().filter_map(Result::err).collect();
                    let tally = tallies.entry(format!("{:?} {direction}", case.protocol));
                    let tally = tally.or_default();
                    if is_expected(&id) {
                        tally.expected += 1;
                        if failed.is_empty() {
                            failures.push(format!("{id} passes: take it off the list"));
                        }
                    } else if failed.is_empty() {
                        tally.passed += 1;
                    } else {
                        failures.push(format!("{id}: {}", failed.join("\n  and ")));
                    }
                }
            }
        }
    }
    for (name, tally) in &tallies {
        let Tally { passed, expected } = tally;
        println!("{name:20} {passed:4} passed {expected:3} known");
    }
    println!("{total} cases, {} failures", failures.len());
    for (id, reason) in EXPECTED_FAILURES {
        println!("known: {id}: {reason}");
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    assert_eq!(total, 732, "cases went away");
}
