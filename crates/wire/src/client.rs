//! A client's side of a protocol: a typed input to a request, an answer to a typed output. For
//! tests, the load generator and calls to ourselves; signing is [`crate::sigv4`]'s.

use crate::form::{self, FormStyle};
use crate::rest;
use crate::schema::{OperationModel, Protocol, ServiceModel};
use crate::shape::Shape;
use crate::tree::{TreeDecoder, cbor, json};
use crate::xml::{self, Node, XmlDecoder};
use crate::{DecodeError, Error};

/// A request without host and signature.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// HTTP method.
    pub method: String,
    /// Path and query.
    pub uri: String,
    /// Headers that the protocol needs.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// An answer as it came.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// HTTP status.
    pub status: u16,
    /// Headers, names in any case.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The whole body.
    pub body: &'a [u8],
}

/// Why there is no output.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The service answered with an error.
    #[error(transparent)]
    Api(Error),
    /// The answer could not be read.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// Writes a request.
pub fn request(
    service: &ServiceModel,
    protocol: Protocol,
    operation: &OperationModel,
    input: &dyn Shape,
) -> Result<Request, DecodeError> {
    let post = |uri: String, headers: &[(&str, &str)], body| Request {
        method: "POST".to_owned(),
        uri,
        headers: headers.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
        body,
    };
    let form = |style| {
        let headers = [("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")];
        let body = form::encode(style, operation.name, service.api_version, input);
        post("/".to_owned(), &headers, body)
    };
    let target = format!("{}.{}", service.target_prefix, operation.name);
    let json = |content_type: &str| {
        let headers = [("Content-Type", content_type), ("X-Amz-Target", target.as_str())];
        post("/".to_owned(), &headers, json::encode(input, Vec::new()))
    };
    match protocol {
        Protocol::Ec2 => Ok(form(FormStyle::Ec2)),
        Protocol::Query => Ok(form(FormStyle::Query)),
        Protocol::Json10 => Ok(json("application/x-amz-json-1.0")),
        Protocol::Json11 => Ok(json("application/x-amz-json-1.1")),
        Protocol::RpcV2Cbor => {
            let uri = format!("/service/{}/operation/{}", service.target_prefix, operation.name);
            let mut headers =
                vec![("smithy-protocol", "rpc-v2-cbor"), ("Accept", "application/cbor")];
            if operation.input.is_none() {
                return Ok(post(uri, &headers, Vec::new()));
            }
            headers.push(("Content-Type", "application/cbor"));
            Ok(post(uri, &headers, cbor::encode(input, Vec::new())))
        }
        Protocol::RestJson | Protocol::RestXml => rest_request(service, protocol, operation, input),
    }
}

fn rest_format(protocol: Protocol) -> rest::Format {
    if protocol == Protocol::RestXml { rest::Format::Xml } else { rest::Format::Json }
}

fn rest_request(
    service: &ServiceModel,
    protocol: Protocol,
    operation: &OperationModel,
    input: &dyn Shape,
) -> Result<Request, DecodeError> {
    let mut message = match operation.input {
        Some(root) => rest::write(rest_format(protocol), true, root, service.xml_namespace, input),
        None => rest::Message::default(),
    };
    if let Some(content_type) = message.content_type
        && !message.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"))
    {
        message.headers.push(("Content-Type".to_owned(), content_type.to_owned()));
    }
    Ok(Request {
        method: operation.method.to_owned(),
        uri: rest::fill(operation.uri, &message.labels, &message.query)?,
        headers: message.headers,
        body: message.body,
    })
}

/// Reads an answer.
pub fn response(
    protocol: Protocol,
    operation: &OperationModel,
    reply: Reply<'_>,
    into: &mut dyn Shape,
) -> Result<(), Failure> {
    if reply.status >= 300 {
        return Err(Failure::Api(error(protocol, reply)?));
    }
    if operation.output.is_none() {
        return Ok(());
    }
    match protocol {
        Protocol::Ec2 | Protocol::Query => {
            let root = xml::parse(reply.body)?;
            let node = match operation.result_wrapper {
                "" => Some(&root),
                wrapper => root.child(wrapper),
            };
            if let Some(node) = node {
                XmlDecoder::new(node).read(into)?;
            }
            Ok(())
        }
        _ => Ok(members(protocol, reply, into)?),
    }
}

/// Reads the members of a modelled error.
pub fn error_members(
    protocol: Protocol,
    reply: Reply<'_>,
    into: &mut dyn Shape,
) -> Result<(), DecodeError> {
    match protocol {
        Protocol::Ec2 | Protocol::Query | Protocol::RestXml => {
            let root = xml::parse(reply.body)?;
            if let Some(node) = error_node(&root) {
                XmlDecoder::new(node).read(into)?;
            }
            if protocol == Protocol::RestXml {
                return members(protocol, Reply { body: b"", ..reply }, into);
            }
            Ok(())
        }
        _ => members(protocol, reply, into),
    }
}

fn members(protocol: Protocol, reply: Reply<'_>, into: &mut dyn Shape) -> Result<(), DecodeError> {
    match protocol {
        Protocol::RpcV2Cbor => TreeDecoder::cbor(&cbor::parse(reply.body)?, false).read(into),
        Protocol::RestJson | Protocol::RestXml => {
            let source = rest::Source {
                labels: &[],
                query: &[],
                headers: reply.headers,
                status: reply.status,
                body: reply.body,
                is_request: false,
            };
            rest::read(rest_format(protocol), source, into)
        }
        _ => TreeDecoder::json(&json::parse(reply.body)?, false).read(into),
    }
}

/// The element with the members of a modelled error.
fn error_node(root: &Node) -> Option<&Node> {
    let found = root.path(&["Errors", "Error"]).or_else(|| root.child("Error"));
    found.or((root.name == "Error").then_some(root))
}

fn error(protocol: Protocol, reply: Reply<'_>) -> Result<Error, DecodeError> {
    let status = reply.status;
    let header = |name: &str| {
        let found = reply.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.and_then(|(_, value)| std::str::from_utf8(value).ok())
    };
    let tree = match protocol {
        Protocol::Ec2 | Protocol::Query | Protocol::RestXml => {
            let root = xml::parse(reply.body)?;
            let node = error_node(&root);
            let text = |names: [&str; 2]| {
                let found = names.iter().find_map(|name| node?.child(name));
                found.map(|node| node.text.clone()).unwrap_or_default()
            };
            let (code, message) = (text(["Code", "code"]), text(["Message", "message"]));
            return Ok(Error { code: code.into(), message, status, members: Vec::new() });
        }
        Protocol::RpcV2Cbor => cbor::parse(reply.body)?,
        _ => json::parse(reply.body)?,
    };
    let text = |names: &[&str]| names.iter().find_map(|name| tree.get(name)?.text());
    let code = header("x-amzn-query-error").and_then(|text| text.split(';').next());
    let code = code.or_else(|| header("x-amzn-errortype"));
    let code = code.or_else(|| text(&["__type", "code", "Code"])).unwrap_or_default();
    // `aws.protocoltests#FooError:http://…` is FooError.
    let code = code.split(':').next().unwrap_or_default();
    let code = code.rsplit('#').next().unwrap_or_default().to_owned();
    let message = text(&["message", "Message", "errorMessage"]).unwrap_or_default().to_owned();
    Ok(Error { code: code.into(), message, status, members: Vec::new() })
}
