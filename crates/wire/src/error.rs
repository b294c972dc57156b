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
    /// Further members of the exception with their names in the model, such as `Reason`. Only
    /// protocols that answer in JSON or CBOR have them.
    pub members: Vec<(&'static str, Detail)>,
}

/// The value of a further member of an exception.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detail {
    /// A string or an enum.
    Text(String),
    /// A list of strings.
    List(Vec<String>),
}

impl From<&str> for Detail {
    fn from(text: &str) -> Self {
        Detail::Text(text.to_owned())
    }
}

impl From<String> for Detail {
    fn from(text: String) -> Self {
        Detail::Text(text)
    }
}

impl From<Vec<String>> for Detail {
    fn from(list: Vec<String>) -> Self {
        Detail::List(list)
    }
}

impl Error {
    /// An error that the client can correct; status 400.
    pub fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Error { code: code.into(), message: message.into(), status: 400, members: Vec::new() }
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
    /// Indexes of a list are 1, 2, 3…
    #[error("index {expected} is missing before {path}")]
    BadIndex {
        /// The parameter.
        path: String,
        /// The index that should have come.
        expected: usize,
    },
    /// More items, parameters or levels than any operation accepts.
    #[error("too many {0}")]
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
        let is_ec2 = protocol == Protocol::Ec2;
        if !matches!(protocol, Protocol::Ec2 | Protocol::Query) {
            return match self {
                DecodeError::MissingAction | DecodeError::InvalidAction { .. } => {
                    Error::new("UnknownOperationException", "The requested operation is unknown.")
                }
                _ => Error::new("SerializationException", self.to_string()),
            };
        }
        match self {
            DecodeError::Malformed(why) => {
                Error::new("MalformedQueryString", format!("The query string is malformed: {why}."))
            }
            DecodeError::MissingAction => {
                Error::new("MissingAction", "The request must contain the parameter Action")
            }
            DecodeError::InvalidAction { action, .. } if is_ec2 => Error::new(
                "InvalidAction",
                format!("The action {action} is not valid for this web service."),
            ),
            DecodeError::InvalidAction { action, version } => Error::new(
                "InvalidAction",
                format!("Could not find operation {action} for version {version}"),
            ),
            DecodeError::UnknownParameter(name) if is_ec2 => {
                Error::new("UnknownParameter", format!("The parameter {name} is not recognized"))
            }
            DecodeError::UnknownParameter(name) => Error::new(
                "InvalidQueryParameter",
                format!("The parameter {name} is not recognized"),
            ),
            DecodeError::Duplicate(name) => Error::new(
                "InvalidQueryParameter",
                format!("The parameter {name} is given more than once"),
            ),
            DecodeError::BadIndex { path, expected } => Error::new(
                "InvalidQueryParameter",
                format!("The parameter {path} is out of sequence: index {expected} is missing"),
            ),
            DecodeError::InvalidValue { path, value, expected } if is_ec2 => Error::new(
                "InvalidParameterValue",
                format!(
                    "Value ({value}) for parameter {path} is invalid. Expected a value of type \
                     {expected}."
                ),
            ),
            DecodeError::InvalidValue { path, value, expected } => Error::new(
                "MalformedInput",
                format!("Value '{value}' at '{path}' is not a valid {expected}"),
            ),
            DecodeError::TooMany(what) => {
                Error::new("InvalidQueryParameter", format!("The request has too many {what}."))
            }
        }
    }
}
