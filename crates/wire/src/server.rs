//! A service's side of a protocol: which operation does this request ask for, what is its input,
//! and how is the answer written.
//!
//! ```text
//! RequestParts ──open──▶ Call ──decode──▶ input ──▶ (handler) ──▶ output ──encode──▶ Response
//!                          │                                          Error ──encode_error──▶
//!                     DecodeError::to_api
//! ```
//!
//! An answer carries the request's id somewhere in its body. [`Response`] keeps what comes before
//! and after it apart, so that an answer can be kept and given again under another id.

use crate::error::Detail;
use crate::form::{Form, FormStyle};
use crate::rest::{self, Found};
use crate::schema::{OperationModel, Protocol, ServiceModel};
use crate::shape::Shape;
use crate::sigv4::RequestParts;
use crate::tree::{TreeDecoder, cbor, json};
use crate::xml::{XmlEncoder, XmlStyle, escape};
use crate::{DecodeError, Error};

/// A request whose operation is known.
#[derive(Debug)]
pub struct Call<'a> {
    /// What is asked for.
    pub operation: &'static OperationModel,
    /// How, and so how to answer.
    pub protocol: Protocol,
    input: Input<'a>,
}

/// Where the input is.
#[derive(Debug)]
enum Input<'a> {
    Form(Form<'a>),
    Body(&'a [u8]),
    Everywhere(Box<Found>, RequestParts<'a>),
}

/// Reads a request as far as is needed to know its operation.
pub fn open<'a>(
    service: &'static ServiceModel,
    request: &RequestParts<'a>,
) -> Result<Call<'a>, DecodeError> {
    let protocol = protocol(service, request);
    let named = |action: &str, version: &str| {
        service.operation(action).ok_or_else(|| DecodeError::InvalidAction {
            action: action.to_owned(),
            version: version.to_owned(),
        })
    };
    match protocol {
        Protocol::Ec2 | Protocol::Query => {
            // A body that does not say that it is a form says nothing (a form without a type is
            // what the simplest clients send).
            const FORM: &[u8] = b"application/x-www-form-urlencoded";
            let content_type = header(request, "content-type");
            let is_form = content_type.is_empty()
                || content_type.get(..FORM.len()).is_some_and(|t| t.eq_ignore_ascii_case(FORM));
            let form = Form::parse(request.query, if is_form { request.body } else { b"" })?;
            let action = form.get("Action").filter(|action| !action.is_empty());
            let action = action.ok_or(DecodeError::MissingAction)?;
            let operation = named(action, form.get("Version").unwrap_or_default())?;
            Ok(Call { operation, protocol, input: Input::Form(form) })
        }
        Protocol::Json10 | Protocol::Json11 => {
            let target = std::str::from_utf8(header(request, "x-amz-target")).unwrap_or_default();
            if target.is_empty() {
                return Err(DecodeError::MissingAction);
            }
            let action = target.strip_prefix(service.target_prefix);
            let action = action.and_then(|action| action.strip_prefix('.')).unwrap_or(target);
            let operation = named(action, service.api_version)?;
            Ok(Call { operation, protocol, input: Input::Body(request.body) })
        }
        Protocol::RpcV2Cbor => {
            // A prefix may stand before: /prefix/service/NAME/operation/NAME
            let action = request.path.rsplit_once("/operation/").map(|(_, action)| action);
            let operation = named(action.ok_or(DecodeError::MissingAction)?, service.api_version)?;
            Ok(Call { operation, protocol, input: Input::Body(request.body) })
        }
        Protocol::RestJson | Protocol::RestXml => {
            let (operation, found) = rest::find(service, request)?;
            let input = Input::Everywhere(Box::new(found), *request);
            Ok(Call { operation, protocol, input })
        }
    }
}

fn header<'a>(request: &RequestParts<'a>, name: &str) -> &'a [u8] {
    let found = request.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map_or(&b""[..], |(_, value)| value)
}

/// The protocol in which a request is written, and in which even its errors are answered.
pub fn protocol(service: &ServiceModel, request: &RequestParts<'_>) -> Protocol {
    let speaks = |protocol| service.protocols.contains(&protocol);
    if let [only] = service.protocols {
        return *only;
    }
    if speaks(Protocol::RpcV2Cbor) && header(request, "smithy-protocol") == b"rpc-v2-cbor" {
        return Protocol::RpcV2Cbor;
    }
    let by_target = [Protocol::Json10, Protocol::Json11].into_iter().find(|json| speaks(*json));
    match by_target {
        Some(json) if !header(request, "x-amz-target").is_empty() => json,
        _ if speaks(Protocol::Query) => Protocol::Query,
        _ => service.protocols.first().copied().unwrap_or(Protocol::Query),
    }
}

impl Call<'_> {
    /// Reads the input. What the operation does not have is an error.
    pub fn decode(&self, into: &mut dyn Shape) -> Result<(), DecodeError> {
        match (&self.input, self.protocol) {
            (Input::Form(form), Protocol::Ec2) => form.decode(FormStyle::Ec2, into),
            (Input::Form(form), _) => form.decode(FormStyle::Query, into),
            (Input::Body(body), Protocol::RpcV2Cbor) => {
                TreeDecoder::cbor(&cbor::parse(body)?, true).read(into)
            }
            (Input::Body(body), _) => TreeDecoder::json(&json::parse(body)?, true).read(into),
            (Input::Everywhere(found, request), protocol) => {
                let format = match protocol {
                    Protocol::RestXml => rest::Format::Xml,
                    _ => rest::Format::Json,
                };
                let source = rest::Source {
                    labels: &found.labels,
                    query: &found.query,
                    headers: request.headers,
                    status: 0,
                    body: request.body,
                    is_request: true,
                };
                rest::read(format, source, into)
            }
        }
    }
}

/// An answer: the body is `head`, the request's id if `id_in_body`, and `tail`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// `Content-Type`; empty if there is no body.
    pub content_type: &'static str,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// The body up to the request's id.
    pub head: Vec<u8>,
    /// Whether the request's id stands between head and tail.
    pub id_in_body: bool,
    /// The body after the request's id.
    pub tail: Vec<u8>,
}

impl Response {
    /// The whole body.
    pub fn body(&self, request_id: &str) -> Vec<u8> {
        let id = if self.id_in_body { request_id.as_bytes() } else { b"" };
        [&self.head, id, &self.tail].concat()
    }
}

const XML: &str = "text/xml;charset=UTF-8";
const JSON_1_0: &str = "application/x-amz-json-1.0";
const JSON_1_1: &str = "application/x-amz-json-1.1";
const DECLARATION: &[u8] = b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

/// Writes a successful answer. `size_hint` is the expected size of the body in bytes, such as that
/// of the last answer; 0 if it is not known.
pub fn encode(
    service: &ServiceModel,
    protocol: Protocol,
    operation: &OperationModel,
    output: &dyn Shape,
    size_hint: usize,
) -> Response {
    let buffer = || Vec::with_capacity(size_hint.max(256));
    let whole = |content_type, tail| Response {
        status: operation.status,
        content_type,
        tail,
        ..Response::default()
    };
    match protocol {
        Protocol::Ec2 => encode_ec2(service, operation, output, size_hint),
        Protocol::Query => encode_query(service, operation, output, size_hint),
        Protocol::Json10 => whole(JSON_1_0, json::encode(output, buffer())),
        Protocol::Json11 => whole(JSON_1_1, json::encode(output, buffer())),
        Protocol::RpcV2Cbor => {
            let mut response = match operation.output {
                Some(_) => whole("application/cbor", cbor::encode(output, buffer())),
                None => whole("", Vec::new()),
            };
            response.headers.push(("smithy-protocol".to_owned(), "rpc-v2-cbor".to_owned()));
            response
        }
        Protocol::RestJson => encode_rest(rest::Format::Json, service, operation, output),
        Protocol::RestXml => encode_rest(rest::Format::Xml, service, operation, output),
    }
}

fn encode_rest(
    format: rest::Format,
    service: &ServiceModel,
    operation: &OperationModel,
    output: &dyn Shape,
) -> Response {
    let Some(root) = operation.output else {
        return Response { status: operation.status, ..Response::default() };
    };
    let mut message = rest::write(format, false, root, service.xml_namespace, output);
    let has_payload = output.schema().traits.is_some_and(|traits| !traits.payload.is_empty());
    if format == rest::Format::Json && !has_payload && message.body.is_empty() {
        message.body = b"{}".to_vec();
        message.content_type = Some("application/json");
    }
    Response {
        status: message.status.unwrap_or(operation.status),
        content_type: message.content_type.unwrap_or_default(),
        headers: message.headers,
        tail: message.body,
        ..Response::default()
    }
}

fn root(out: &mut Vec<u8>, operation: &OperationModel, service: &ServiceModel) {
    out.extend_from_slice(DECLARATION);
    out.extend_from_slice(b"<");
    out.extend_from_slice(operation.name.as_bytes());
    out.extend_from_slice(b"Response xmlns=\"");
    escape(out, service.xml_namespace);
    out.extend_from_slice(b"\">");
}

fn encode_ec2(
    service: &ServiceModel,
    operation: &OperationModel,
    output: &dyn Shape,
    size_hint: usize,
) -> Response {
    let mut head = Vec::with_capacity(256);
    root(&mut head, operation, service);
    head.extend_from_slice(b"<requestId>");
    let mut xml = XmlEncoder::new(XmlStyle::Ec2);
    xml.out.reserve(size_hint.max(256));
    xml.close("requestId");
    output.encode(&mut xml);
    xml.out.extend_from_slice(b"</");
    xml.out.extend_from_slice(operation.name.as_bytes());
    xml.out.extend_from_slice(b"Response>");
    Response {
        status: operation.status,
        content_type: XML,
        headers: Vec::new(),
        head,
        id_in_body: true,
        tail: xml.out,
    }
}

fn encode_query(
    service: &ServiceModel,
    operation: &OperationModel,
    output: &dyn Shape,
    size_hint: usize,
) -> Response {
    let mut xml = XmlEncoder::new(XmlStyle::Plain);
    xml.out.reserve(size_hint.max(256));
    root(&mut xml.out, operation, service);
    if !operation.result_wrapper.is_empty() {
        xml.open(operation.result_wrapper);
        output.encode(&mut xml);
        xml.close(operation.result_wrapper);
    } else {
        output.encode(&mut xml);
    }
    xml.out.extend_from_slice(b"<ResponseMetadata><RequestId>");
    let mut tail = b"</RequestId></ResponseMetadata></".to_vec();
    tail.extend_from_slice(operation.name.as_bytes());
    tail.extend_from_slice(b"Response>");
    Response {
        status: operation.status,
        content_type: XML,
        headers: Vec::new(),
        head: xml.out,
        id_in_body: true,
        tail,
    }
}

/// Writes an error.
pub fn encode_error(service: &ServiceModel, protocol: Protocol, error: &Error) -> Response {
    let status = error.status;
    match protocol {
        Protocol::Ec2 => {
            let mut xml = XmlEncoder::new(XmlStyle::Plain);
            xml.out.extend_from_slice(DECLARATION);
            xml.open("Response");
            xml.open("Errors");
            xml.open("Error");
            xml.element("Code", &error.code);
            xml.element("Message", &error.message);
            xml.close("Error");
            xml.close("Errors");
            xml.open("RequestID");
            let tail = b"</RequestID></Response>".to_vec();
            let (head, headers) = (xml.out, Vec::new());
            Response { status, content_type: XML, headers, head, id_in_body: true, tail }
        }
        Protocol::Query | Protocol::RestXml => {
            let mut xml = XmlEncoder::new(XmlStyle::Plain);
            xml.out.extend_from_slice(DECLARATION);
            xml.out.extend_from_slice(b"<ErrorResponse xmlns=\"");
            escape(&mut xml.out, service.xml_namespace);
            xml.out.extend_from_slice(b"\">");
            xml.open("Error");
            xml.element("Type", if error.is_sender() { "Sender" } else { "Receiver" });
            xml.element("Code", &error.code);
            xml.element("Message", &error.message);
            xml.close("Error");
            xml.open("RequestId");
            let tail = b"</RequestId></ErrorResponse>".to_vec();
            let (head, headers) = (xml.out, Vec::new());
            let content_type = if protocol == Protocol::Query { XML } else { "application/xml" };
            Response { status, content_type, headers, head, id_in_body: true, tail }
        }
        Protocol::Json10 | Protocol::Json11 | Protocol::RestJson => {
            let mut tail = b"{".to_vec();
            let mut headers = Vec::new();
            if protocol == Protocol::RestJson {
                headers.push(("x-amzn-errortype".to_owned(), error.code.clone().into_owned()));
            } else {
                tail.extend_from_slice(b"\"__type\":");
                json::push_string(&mut tail, &error.code);
                tail.push(b',');
            }
            tail.extend_from_slice(b"\"message\":");
            json::push_string(&mut tail, &error.message);
            for (name, value) in &error.members {
                tail.push(b',');
                json::push_string(&mut tail, name);
                tail.push(b':');
                match value {
                    Detail::Text(text) => json::push_string(&mut tail, text),
                    Detail::List(texts) => {
                        tail.push(b'[');
                        for (index, text) in texts.iter().enumerate() {
                            if index > 0 {
                                tail.push(b',');
                            }
                            json::push_string(&mut tail, text);
                        }
                        tail.push(b']');
                    }
                }
            }
            tail.push(b'}');
            let content_type = match protocol {
                Protocol::Json10 => JSON_1_0,
                Protocol::Json11 => JSON_1_1,
                _ => "application/json",
            };
            Response { status, content_type, headers, tail, ..Response::default() }
        }
        Protocol::RpcV2Cbor => {
            // A map of so many pairs; no exception has more than a few.
            let members = &error.members[..error.members.len().min(20)];
            let mut tail = vec![0xa2 + u8::try_from(members.len()).unwrap_or(0)];
            for (name, value) in [("__type", &*error.code), ("message", &error.message)] {
                cbor::push_text(&mut tail, name);
                cbor::push_text(&mut tail, value);
            }
            for (name, value) in members {
                cbor::push_text(&mut tail, name);
                match value {
                    Detail::Text(text) => cbor::push_text(&mut tail, text),
                    Detail::List(texts) => {
                        // A list of any length, up to a break.
                        tail.push(0x9f);
                        texts.iter().for_each(|text| cbor::push_text(&mut tail, text));
                        tail.push(0xff);
                    }
                }
            }
            let headers = vec![("smithy-protocol".to_owned(), "rpc-v2-cbor".to_owned())];
            Response {
                status,
                content_type: "application/cbor",
                headers,
                tail,
                ..Response::default()
            }
        }
    }
}
