//! Which protocol a request speaks, and the framing of its answer.

use crate::dispatch::Request;
use crate::error::Error;
use bytes::Bytes;
use std::borrow::Cow;
use wire::form::{Form, FormStyle};
use wire::sigv4::Flavour;
use wire::xml::{XmlEncoder, XmlStyle};
use wire::{DecodeError, OperationModel, Protocol, ServiceModel, Shape};

const XML_DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";

/// How a service's answers are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writer {
    model: Option<&'static ServiceModel>,
}

impl Writer {
    /// Before the service is known: errors are written as EC2 does.
    pub(crate) fn unknown() -> Self {
        Writer { model: None }
    }

    /// From now on in the protocol of this service.
    pub(crate) fn speak(&mut self, model: &'static ServiceModel) {
        self.model = Some(model);
    }

    fn is_query(self) -> bool {
        self.model.is_some_and(|model| protocol(model) == Protocol::Query)
    }

    /// In whose words signatures are refused.
    pub(crate) fn flavour(self) -> Flavour {
        if self.is_query() { Flavour::Query } else { Flavour::Ec2 }
    }

    pub(crate) fn content_type(self) -> &'static str {
        if self.is_query() { "text/xml" } else { "text/xml;charset=UTF-8" }
    }

    /// The whole body of a refusal.
    pub(crate) fn error(self, error: &Error, request_id: &str) -> Bytes {
        let mut xml = XmlEncoder::new(XmlStyle::Ec2);
        match self.model.filter(|_| self.is_query()) {
            Some(model) => {
                xml.out.extend_from_slice(b"<ErrorResponse xmlns=\"");
                xml.out.extend_from_slice(model.xml_namespace.as_bytes());
                xml.out.extend_from_slice(b"\">\n<Error>");
                xml.element("Type", if error.status < 500 { "Sender" } else { "Receiver" });
                xml.element("Code", &error.code);
                xml.element("Message", &error.message);
                xml.close("Error");
                xml.element("RequestId", request_id);
                xml.close("ErrorResponse");
            }
            None => {
                xml.out.extend_from_slice(XML_DECLARATION.as_bytes());
                xml.open("Response");
                xml.open("Errors");
                xml.open("Error");
                xml.element("Code", &error.code);
                xml.element("Message", &error.message);
                xml.close("Error");
                xml.close("Errors");
                xml.element("RequestID", request_id);
                xml.close("Response");
            }
        }
        Bytes::from(xml.out)
    }
}

fn protocol(model: &ServiceModel) -> Protocol {
    *model.protocols.first().unwrap_or(&Protocol::Query)
}

fn style(model: &ServiceModel) -> FormStyle {
    if protocol(model) == Protocol::Ec2 { FormStyle::Ec2 } else { FormStyle::Query }
}

fn is_form(request: &Request<'_>) -> bool {
    request
        .headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("content-type"))
        .is_none_or(|(_, value)| value.starts_with(b"application/x-www-form-urlencoded"))
}

fn form<'a>(request: &Request<'a>) -> Result<Form<'a>, Error> {
    let body = if is_form(request) { request.body } else { &[] };
    Form::parse(request.query, body).map_err(|error| refuse(&error, None))
}

/// The operation that a request names.
pub(crate) fn action<'a>(request: &Request<'a>) -> Result<Cow<'a, str>, Error> {
    // The common case without parsing everything: botocore puts the action first.
    let first = request.body.split(|b| *b == b'&').next().unwrap_or_default();
    if request.query.is_empty()
        && let Some(name) = first.strip_prefix(b"Action=")
        && !name.is_empty()
        && name.iter().all(u8::is_ascii_alphanumeric)
        && let Ok(name) = std::str::from_utf8(name)
    {
        return Ok(Cow::Borrowed(name));
    }
    match form(request)?.get("Action") {
        Some(action) if !action.is_empty() => Ok(Cow::Owned(action.to_owned())),
        _ => Err(Error::client("MissingAction", "The request must contain the parameter Action")),
    }
}

/// What of a request's query string asks something: all of it, but for a presigned URL, whose
/// signature changes with every request and which is not worth keeping answers for.
pub(crate) fn question<'a>(request: &Request<'a>) -> &'a [u8] {
    request.query.as_bytes()
}

/// Fills an input from a request and checks it against the model.
pub(crate) fn decode(
    model: &'static ServiceModel,
    operation: &'static OperationModel,
    request: &Request<'_>,
    into: &mut dyn Shape,
) -> Result<(), Error> {
    let _ = operation;
    form(request)?.decode(style(model), into).map_err(|error| refuse(&error, Some(protocol(model))))
}

fn refuse(error: &DecodeError, spoken: Option<Protocol>) -> Error {
    let answer = error.to_api(spoken.unwrap_or(Protocol::Ec2));
    Error::client(answer.code, answer.message).with_status(answer.status)
}

/// What stands before the request id of an operation's answer, and what ends it.
fn frame(model: &'static ServiceModel, operation: &'static OperationModel) -> (Bytes, Bytes) {
    let name = operation.name;
    let namespace = model.xml_namespace;
    if protocol(model) == Protocol::Ec2 {
        (
            Bytes::from(format!(
                "{XML_DECLARATION}<{name}Response xmlns=\"{namespace}\"><requestId>"
            )),
            Bytes::from(format!("</{name}Response>")),
        )
    } else {
        (
            Bytes::from(format!("<{name}Response xmlns=\"{namespace}\">")),
            Bytes::from(format!("</RequestId></ResponseMetadata></{name}Response>")),
        )
    }
}

/// An answer without its request id.
pub(crate) fn encode(
    model: &'static ServiceModel,
    operation: &'static OperationModel,
    output: &dyn Shape,
) -> (Bytes, Bytes) {
    let (head, end) = frame(model, operation);
    let mut xml = XmlEncoder::new(XmlStyle::Ec2);
    if protocol(model) == Protocol::Ec2 {
        xml.out.extend_from_slice(b"</requestId>");
        output.encode(&mut xml);
        xml.out.extend_from_slice(&end);
        (head, Bytes::from(xml.out))
    } else {
        xml.out.extend_from_slice(&head);
        if !operation.result_wrapper.is_empty() {
            xml.open(operation.result_wrapper);
            output.encode(&mut xml);
            xml.close(operation.result_wrapper);
        }
        xml.out.extend_from_slice(b"<ResponseMetadata><RequestId>");
        (Bytes::from(xml.out), end)
    }
}
