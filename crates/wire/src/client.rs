//! A client's side of a protocol: a typed input to a request, an answer to a typed output. For
//! tests, the load generator and calls to ourselves; signing is [`crate::sigv4`]'s.

use crate::form::{self, FormStyle};
use crate::schema::{OperationModel, Protocol, ServiceModel};
use crate::shape::Shape;
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
    let style = match protocol {
        Protocol::Ec2 => FormStyle::Ec2,
        Protocol::Query => FormStyle::Query,
        other => return Err(DecodeError::NotYet(other)),
    };
    let content_type = "application/x-www-form-urlencoded; charset=utf-8";
    Ok(Request {
        method: "POST".to_owned(),
        uri: "/".to_owned(),
        headers: vec![("Content-Type".to_owned(), content_type.to_owned())],
        body: form::encode(style, operation.name, service.api_version, input),
    })
}

/// Reads an answer.
pub fn response(
    protocol: Protocol,
    operation: &OperationModel,
    reply: Reply<'_>,
    into: &mut dyn Shape,
) -> Result<(), Failure> {
    match protocol {
        Protocol::Ec2 | Protocol::Query if reply.status >= 300 => {
            let root = xml::parse(reply.body)?;
            Err(Failure::Api(xml_error(&root, reply.status)))
        }
        Protocol::Ec2 | Protocol::Query => {
            if operation.output.is_none() {
                return Ok(());
            }
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
        other => Err(DecodeError::NotYet(other).into()),
    }
}

/// The element with the members of a modelled error.
fn error_node(root: &Node) -> Option<&Node> {
    root.path(&["Errors", "Error"]).or_else(|| root.child("Error"))
}

fn xml_error(root: &Node, status: u16) -> Error {
    let node = error_node(root);
    let text = |names: [&str; 2]| {
        let found = names.iter().find_map(|name| node?.child(name));
        found.map(|node| node.text.clone()).unwrap_or_default()
    };
    Error { code: text(["Code", "Code"]).into(), message: text(["Message", "message"]), status }
}

/// Reads the members of a modelled error.
pub fn error_members(
    protocol: Protocol,
    reply: Reply<'_>,
    into: &mut dyn Shape,
) -> Result<(), DecodeError> {
    match protocol {
        Protocol::Ec2 | Protocol::Query => {
            let root = xml::parse(reply.body)?;
            match error_node(&root) {
                Some(node) => XmlDecoder::new(node).read(into),
                None => Ok(()),
            }
        }
        other => Err(DecodeError::NotYet(other)),
    }
}
