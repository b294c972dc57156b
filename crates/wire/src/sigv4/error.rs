//! Why a request is refused, and what AWS answers to it.

use super::date;
use base::Timestamp;
use std::borrow::Cow;

/// Why a request is not believed. Holds no secret, token or signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no signature at all.
    #[error("Request is missing Authentication Token")]
    MissingAuthenticationToken,
    /// Part of the signature is missing, doubled or malformed; the text says which.
    #[error("{0}")]
    Incomplete(String),
    /// Signature Version 2 or 3.
    #[error(
        "The authorization mechanism you have provided is not supported. Please use \
         AWS4-HMAC-SHA256."
    )]
    SignatureVersion2,
    /// Another algorithm, such as SigV4A's.
    #[error("Unsupported AWS 'algorithm': '{0}'. Please use AWS4-HMAC-SHA256.")]
    UnsupportedAlgorithm(String),
    /// The lifetime of a presigned URL is no number of seconds from 1 to 604800.
    #[error("X-Amz-Expires must be a number of seconds from 1 to 604800 (a week).")]
    ExpiresOutOfRange,
    /// The access key, or the session token that must come with it, is not one of ours. For the
    /// caller, who looks both up.
    #[error("The security token included in the request is invalid.")]
    UnknownAccessKey,
    /// The temporary credentials have run out. For the caller, as above.
    #[error("The security token included in the request is expired")]
    ExpiredToken,
    /// The signature is another one than ours.
    #[error(
        "The request signature we calculated does not match the signature you provided. Check your \
         AWS Secret Access Key and signing method. Consult the service documentation for details."
    )]
    SignatureDoesNotMatch,
    /// The signature cannot be right, for a reason that can be named.
    #[error("{0}")]
    Refused(String),
    /// Signed too long ago.
    #[error(
        "Signature expired: {} is now earlier than {} ({} - {minutes} min.)",
        text(*signed), text(now.plus_millis(-minutes * 60_000)), text(*now)
    )]
    Expired {
        /// When the request was signed.
        signed: Timestamp,
        /// The wall clock.
        now: Timestamp,
        /// The skew that would have been allowed, in minutes.
        minutes: i64,
    },
    /// Signed in the future.
    #[error(
        "Signature not yet current: {} is still later than {} ({} + {minutes} min.)",
        text(*signed), text(now.plus_millis(minutes * 60_000)), text(*now)
    )]
    NotYetCurrent {
        /// When the request was signed.
        signed: Timestamp,
        /// The wall clock.
        now: Timestamp,
        /// The skew that would have been allowed, in minutes.
        minutes: i64,
    },
    /// A presigned URL has outlived its X-Amz-Expires.
    #[error("Request has expired.")]
    PresignedExpired,
    /// A header of this name must be signed and is not.
    #[error("There were headers present in the request which were not signed: {0}")]
    HeaderNotSigned(String),
    /// `x-amz-content-sha256` is not the hash of the body.
    #[error("The provided 'x-amz-content-sha256' header does not match what was computed.")]
    ContentHashMismatch,
    /// `x-amz-content-sha256` is nothing that it may be, or there are two.
    #[error("x-amz-content-sha256 must be UNSIGNED-PAYLOAD or a valid sha256 value.")]
    ContentHashInvalid,
    /// `UNSIGNED-PAYLOAD` where the service needs the body to be signed.
    #[error("x-amz-content-sha256 is UNSIGNED-PAYLOAD, but this service needs a signed payload.")]
    UnsignedPayload,
    /// The body is signed chunk by chunk.
    #[error("Payloads signed in chunks (x-amz-content-sha256: STREAMING-…) are not implemented.")]
    StreamingPayload,
}

/// In whose words a service refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flavour {
    /// The services of the ec2 protocol.
    Ec2,
    /// The services of the query protocol, and REST in XML except object storage.
    Query,
    /// The services whose errors are JSON or CBOR.
    Json,
    /// Object storage.
    ObjectStorage,
}

/// What AWS answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The error code.
    pub code: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// The message.
    pub message: Cow<'static, str>,
}

impl Error {
    /// The answer of a service of that flavour.
    ///
    /// EC2's API reference lists AuthFailure, RequestExpired, MissingAuthenticationToken,
    /// IncompleteSignature and SignatureDoesNotMatch among its common client errors; the JSON and
    /// query forms are as STS, IAM, ECS and DynamoDB are seen to send them.
    pub fn answer(&self, flavour: Flavour) -> Answer {
        use Flavour::{Ec2, Json, ObjectStorage, Query};
        let (code, status) = match (self, flavour) {
            (Error::MissingAuthenticationToken, Ec2 | Query) => ("MissingAuthenticationToken", 403),
            (Error::MissingAuthenticationToken, Json) => {
                ("MissingAuthenticationTokenException", 400)
            }
            (Error::MissingAuthenticationToken, ObjectStorage) => ("AccessDenied", 403),

            (Error::SignatureVersion2, ObjectStorage) => ("InvalidRequest", 400),
            (Error::ExpiresOutOfRange, ObjectStorage) => ("AuthorizationQueryParametersError", 400),
            (Error::ContentHashInvalid, ObjectStorage) => ("InvalidArgument", 400),
            (
                Error::Incomplete(_)
                | Error::SignatureVersion2
                | Error::UnsupportedAlgorithm(_)
                | Error::ExpiresOutOfRange
                | Error::ContentHashInvalid,
                _,
            ) => match flavour {
                Ec2 | Query => ("IncompleteSignature", 400),
                Json => ("IncompleteSignatureException", 400),
                ObjectStorage => ("AuthorizationHeaderMalformed", 400),
            },

            (Error::UnknownAccessKey, Ec2) => ("AuthFailure", 401),
            (Error::UnknownAccessKey, Query) => ("InvalidClientTokenId", 403),
            (Error::UnknownAccessKey, Json) => ("UnrecognizedClientException", 400),
            (Error::UnknownAccessKey, ObjectStorage) => ("InvalidAccessKeyId", 403),

            (Error::ExpiredToken, Query) => ("ExpiredToken", 403),
            (Error::ExpiredToken, Json) => ("ExpiredTokenException", 400),
            (Error::ExpiredToken, ObjectStorage) => ("ExpiredToken", 400),

            (
                Error::ExpiredToken
                | Error::Expired { .. }
                | Error::NotYetCurrent { .. }
                | Error::PresignedExpired,
                Ec2,
            ) => ("RequestExpired", 400),
            (Error::Expired { .. } | Error::NotYetCurrent { .. }, ObjectStorage) => {
                ("RequestTimeTooSkewed", 403)
            }
            (Error::PresignedExpired | Error::HeaderNotSigned(_), ObjectStorage) => {
                ("AccessDenied", 403)
            }
            (Error::ContentHashMismatch, ObjectStorage) => ("XAmzContentSHA256Mismatch", 400),
            (Error::StreamingPayload, _) => ("NotImplemented", 501),

            (
                Error::SignatureDoesNotMatch
                | Error::Refused(_)
                | Error::Expired { .. }
                | Error::NotYetCurrent { .. }
                | Error::PresignedExpired
                | Error::HeaderNotSigned(_)
                | Error::ContentHashMismatch
                | Error::UnsignedPayload,
                _,
            ) => match flavour {
                Ec2 | Query | ObjectStorage => ("SignatureDoesNotMatch", 403),
                Json => ("InvalidSignatureException", 400),
            },
        };
        Answer { code, status, message: self.message(flavour) }
    }

    fn message(&self, flavour: Flavour) -> Cow<'static, str> {
        use Flavour::{Ec2, ObjectStorage};
        Cow::Borrowed(match (self, flavour) {
            (Error::UnknownAccessKey, Ec2) => {
                "AWS was not able to validate the provided access credentials"
            }
            (
                Error::ExpiredToken
                | Error::Expired { .. }
                | Error::NotYetCurrent { .. }
                | Error::PresignedExpired,
                Ec2,
            ) => "Request has expired.",
            (Error::MissingAuthenticationToken, ObjectStorage) => "Access Denied",
            (Error::UnknownAccessKey, ObjectStorage) => {
                "The AWS Access Key Id you provided does not exist in our records."
            }
            (Error::ExpiredToken, ObjectStorage) => "The provided token has expired.",
            (Error::SignatureDoesNotMatch, ObjectStorage) => {
                "The request signature we calculated does not match the signature you provided. \
                 Check your key and signing method."
            }
            (Error::Expired { .. } | Error::NotYetCurrent { .. }, ObjectStorage) => {
                "The difference between the request time and the current time is too large."
            }
            (Error::PresignedExpired, ObjectStorage) => "Request has expired",
            _ => return Cow::Owned(self.to_string()),
        })
    }
}

fn text(at: Timestamp) -> String {
    String::from_utf8_lossy(&date::basic(at)).into_owned()
}
