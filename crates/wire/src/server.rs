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

use crate::form::{Form, FormStyle};
use crate::schema::{OperationModel, Protocol, ServiceModel};
use crate::shape::Shape;
use crate::sigv4::RequestParts;
use crate::xml::{XmlEncoder, XmlStyle, escape};
use crate::{DecodeError, Error};

/// A request whose operation is known.
#[derive(Debug)]
pub struct Call<'a> {
    /// What is asked for.
    pub operation: &'static OperationModel,
    /// How, and so how to answer.
    pub protocol: Protocol,
    form: Form<'a>,
}

/// Reads a request as far as is needed to know its operation.
pub fn open<'a>(
    service: &'static ServiceModel,
    request: &RequestParts<'a>,
) -> Result<Call<'a>, DecodeError> {
    let protocol = protocol(service, request);
    match protocol {
        Protocol::Ec2 | Protocol::Query => {
            let form = Form::parse(request.query, request.body)?;
            let action = form.get("Action").filter(|action| !action.is_empty());
            let action = action.ok_or(DecodeError::MissingAction)?;
            let Some(operation) = service.operation(action) else {
                let action = action.to_owned();
                let version = form.get("Version").unwrap_or_default().to_owned();
                return Err(DecodeError::InvalidAction { action, version });
            };
            Ok(Call { operation, protocol, form })
        }
        other => Err(DecodeError::NotYet(other)),
    }
}

/// The protocol in which a request is written, and in which even its errors are answered.
pub fn protocol(service: &ServiceModel, request: &RequestParts<'_>) -> Protocol {
    let header = |name: &str| {
        let found = request.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map_or(&b""[..], |(_, value)| value)
    };
    let speaks = |protocol| service.protocols.contains(&protocol);
    if let [only] = service.protocols {
        return *only;
    }
    if speaks(Protocol::RpcV2Cbor) && header("smithy-protocol") == b"rpc-v2-cbor" {
        return Protocol::RpcV2Cbor;
    }
    let by_target = [Protocol::Json10, Protocol::Json11].into_iter().find(|json| speaks(*json));
    match by_target {
        Some(json) if !header("x-amz-target").is_empty() => json,
        _ if speaks(Protocol::Query) => Protocol::Query,
        _ => service.protocols.first().copied().unwrap_or(Protocol::Query),
    }
}

impl Call<'_> {
    /// Reads the input. What the operation does not have is an error.
    pub fn decode(&self, into: &mut dyn Shape) -> Result<(), DecodeError> {
        match self.protocol {
            Protocol::Ec2 => self.form.decode(FormStyle::Ec2, into),
            Protocol::Query => self.form.decode(FormStyle::Query, into),
            other => Err(DecodeError::NotYet(other)),
        }
    }
}

/// An answer: the body is `head`, the request's id if `id_in_body`, and `tail`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// `Content-Type`.
    pub content_type: &'static str,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
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
const DECLARATION: &[u8] = b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

/// Writes a successful answer. `size_hint` is the expected size of the body in bytes, such as that
/// of the last answer; 0 if it is not known.
pub fn encode(
    service: &ServiceModel,
    protocol: Protocol,
    operation: &OperationModel,
    output: &dyn Shape,
    size_hint: usize,
) -> Result<Response, Error> {
    match protocol {
        Protocol::Ec2 => Ok(encode_ec2(service, operation, output, size_hint)),
        Protocol::Query => Ok(encode_query(service, operation, output, size_hint)),
        other => Err(DecodeError::NotYet(other).to_api(other)),
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
    let mut xml = XmlEncoder::new(XmlStyle::Plain);
    xml.out.extend_from_slice(DECLARATION);
    let (content_type, tail): (_, &[u8]) = match protocol {
        Protocol::Ec2 => {
            xml.open("Response");
            xml.open("Errors");
            xml.open("Error");
            xml.element("Code", &error.code);
            xml.element("Message", &error.message);
            xml.close("Error");
            xml.close("Errors");
            xml.open("RequestID");
            (XML, b"</RequestID></Response>")
        }
        _ => {
            xml.out.extend_from_slice(b"<ErrorResponse xmlns=\"");
            escape(&mut xml.out, service.xml_namespace);
            xml.out.extend_from_slice(b"\">");
            xml.open("Error");
            xml.element("Type", if error.is_sender() { "Sender" } else { "Receiver" });
            xml.element("Code", &error.code);
            xml.element("Message", &error.message);
            xml.close("Error");
            xml.open("RequestId");
            (XML, b"</RequestId></ErrorResponse>")
        }
    };
    Response {
        status: error.status,
        content_type,
        headers: Vec::new(),
        head: xml.out,
        id_in_body: true,
        tail: tail.to_vec(),
    }
}
