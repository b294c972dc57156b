//! The error that a caller sees: AWS's code, message and HTTP status.
//!
//! The codes that belong to no single operation stand here, with the source of their text:
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html> ("Common client
//! error codes"). Those of a resource stand beside its handlers.

use std::borrow::Cow;
use std::fmt;
use wire::error::Detail;

/// An answer that is a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// AWS's error code, such as `InvalidParameterValue`.
    pub code: Cow<'static, str>,
    /// The message, as AWS words it.
    pub message: String,
    /// HTTP status: 4xx for the caller's faults, 5xx for ours.
    pub status: u16,
    /// Further members of the exception, such as `Reason` ([`wire::Error::members`]).
    pub members: Vec<(&'static str, Detail)>,
}

impl Error {
    /// The caller's fault, status 400.
    pub fn client(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Error { code: code.into(), message: message.into(), status: 400, members: Vec::new() }
    }

    /// Our fault. The detail goes to the log; the caller learns only that it happened.
    pub fn internal(detail: impl fmt::Display) -> Self {
        tracing::error!(%detail, "internal error");
        Error {
            code: "InternalError".into(),
            message: "An internal error has occurred".into(),
            status: 500,
            members: Vec::new(),
        }
    }

    /// The same error with another HTTP status.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// The same error with a further member of its exception.
    #[must_use]
    pub fn with_member(mut self, name: &'static str, value: impl Into<Detail>) -> Self {
        self.members.push((name, value.into()));
        self
    }

    /// The same error in the words of an operation: what belongs to no single operation is, in most
    /// services, an exception of their model with a name of its own.
    #[must_use]
    pub fn in_words_of(mut self, operation: &wire::OperationModel) -> Self {
        const WORDS: [(&str, &[&str]); 3] = [
            ("IdempotentParameterMismatch", &["ConflictException"]),
            ("InternalError", &["InternalServerException"]),
            ("RequestLimitExceeded", &["RequestThrottledException"]),
        ];
        let names = WORDS.iter().find(|(code, _)| *code == self.code).map_or(&[][..], |(_, n)| n);
        for exception in operation.errors {
            let traits = exception.traits.and_then(|traits| traits.error.as_ref());
            if names.contains(&exception.name) {
                self.code = exception.name.into();
                self.status = traits.map_or(self.status, |traits| traits.status);
            }
        }
        self
    }

    /// `InvalidParameterValue`.
    pub fn invalid_parameter_value(message: impl Into<String>) -> Self {
        Self::client("InvalidParameterValue", message)
    }

    /// `MissingParameter`, naming the parameter.
    pub fn missing_parameter(name: &str) -> Self {
        Self::client("MissingParameter", format!("The request must contain the parameter {name}"))
    }

    /// `InvalidParameterCombination`.
    pub fn invalid_parameter_combination(message: impl Into<String>) -> Self {
        Self::client("InvalidParameterCombination", message)
    }

    /// `UnsupportedOperation`: the model knows it, this region does not do it yet.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::client("UnsupportedOperation", message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Error {}

impl From<wire::Error> for Error {
    fn from(error: wire::Error) -> Self {
        Error {
            code: error.code,
            message: error.message,
            status: error.status,
            members: error.members,
        }
    }
}

impl From<Error> for wire::Error {
    fn from(error: Error) -> Self {
        wire::Error {
            code: error.code,
            message: error.message,
            status: error.status,
            members: error.members,
        }
    }
}
