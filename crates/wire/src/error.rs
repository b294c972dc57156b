//! The two errors of this crate: [`Error`], what a client is told, and [`DecodeError`], why a
//! request could not be read.

use crate::schema::{Member, Protocol};
use std::borrow::Cow;

/// An error of an AWS API, as the client sees it. Every protocol has its own way to write it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Error {
    /// Such as `InvalidInstanceID.NotFound`.
    pub code: Cow<'static, str>,
    /// For a person.
    pub message: String,
    /// HTTP status.
    pub status: u16,
}

impl Error {
    /// An error that the client can correct; status 400.
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Error { code: code.into(), message: message.into(), status: 400 }
    }

    /// Sets the HTTP status.
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Whether the client is to blame.
    pub fn is_sender(&self) -> bool {
        self.status < 500
    }
}

/// Why a message could not be read. Paths are written as in the request (`Filter.1.Name`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The form, JSON, XML or CBOR itself is broken.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// The request names no operation.
    #[error("missing action")]
    MissingAction,
    /// The service has no such operation.
    #[error("no action {action} for version {version}")]
    InvalidAction {
        /// What the request asked for.
        action: String,
        /// The version it gave.
        version: String,
    },
    /// The operation has no such parameter.
    #[error("unknown parameter {0}")]
    UnknownParameter(String),
    /// The parameter occurs twice.
    #[error("duplicate parameter {0}")]
    Duplicate(String),
    /// The value is not of the parameter's type.
    #[error("invalid value for {path}: {value}")]
    InvalidValue {
        /// The parameter.
        path: String,
        /// What was given.
        value: String,
        /// The kind of value that was expected, such as `integer`.
        expected: &'static str,
    },
    /// More items, parameters or levels than any operation accepts.
    #[error("too many: {0}")]
    TooMany(String),
}

impl DecodeError {
    /// The value given is not one that `member` can have.
    pub fn invalid(member: &'static Member, value: &str) -> Self {
        DecodeError::InvalidValue {
            path: member.name.to_owned(),
            value: value.to_owned(),
            expected: crate::schema::kind_name(&member.target.kind),
        }
    }

    /// What a service that speaks `protocol` answers.
    pub fn to_api(&self, protocol: Protocol) -> Error {
        let text = self.to_string();
        match (protocol, self) {
            (Protocol::Ec2 | Protocol::Query, DecodeError::Malformed(_)) => {
                Error::new("MalformedQueryString", text)
            }
            _ => Error::new("SerializationException", text),
        }
    }
}
