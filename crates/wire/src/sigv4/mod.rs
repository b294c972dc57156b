//! AWS Signature Version 4: is this request from the holder of that secret?
//!
//! Pure: no IO and no clock. A request is [`parse`]d first, because the credential scope names the
//! service, the region and the access key that the caller needs to look the secret up; then it is
//! [`verify`]d with the derived key and the wall clock's time:
//!
//! ```text
//! request ──parse──▶ Claim ──look up the secret──▶ SigningKeyCache::get ──verify──▶ Ok
//!            │                      │                                        │
//!       nothing or half        UnknownAccessKey                 SignatureDoesNotMatch, Expired,
//!       a signature            ExpiredToken                     unsigned header, wrong body hash…
//! ```
//!
//! The principle: everything that may change what a request means is under the signature (method,
//! path, query, body, host, every `x-amz-*` header), and what is not signed is refused. Signatures
//! are compared in constant time. No secret, session token or signature is in an error or in
//! `Debug`.
//!
//! What differs between services ([`Rules`], [`Flavour`]) is an argument: this module knows no
//! service. Checked against AWS's own test vectors (`tests/sigv4.rs`).
//!
//! Deliberately not here: Signature Version 2 and SigV4A (refused by name), POST policies, and
//! payloads signed chunk by chunk (recognised and refused by name).
//!
//! Sources: IAM User Guide, "Create a signed AWS API request" and "Troubleshoot signed requests";
//! S3 API Reference, "Authenticating Requests"; botocore 1.43.11 `auth.py`.

mod canonical;
mod claim;
mod date;
mod error;
mod key;
mod sign;
#[cfg(test)]
mod tests;

pub use claim::{Claim, parse};
pub use error::{Answer, Error, Flavour};
pub use key::{SigningKey, SigningKeyCache};
pub use sign::{Credentials, Signer};

use aws_lc_rs::{constant_time, digest};
use base::Timestamp;

/// The only algorithm there is.
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// What every credential scope ends with.
const TERMINATOR: &str = "aws4_request";
const UNSIGNED_PAYLOAD: &str = "UNSIGNED-PAYLOAD";

/// A request as it came over the wire. Nothing is decoded.
#[derive(Clone, Copy)]
pub struct RequestParts<'a> {
    /// `GET`, `POST`…
    pub method: &'a str,
    /// The path as sent, percent-encoding and all, without the query.
    pub path: &'a str,
    /// What follows the `?`, as sent; empty if there is none.
    pub query: &'a str,
    /// Names (in any case) and values, in the order received. HTTP/2's `:authority` comes as `host`.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The whole body.
    pub body: &'a [u8],
}

impl std::fmt::Debug for RequestParts<'_> {
    /// Without query, headers and body, which may hold tokens, signatures and user data.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestParts")
            .field("method", &self.method)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl<'a> RequestParts<'a> {
    /// The values of the headers of that name, in order.
    fn values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers
            .iter()
            .filter(move |(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| *value)
    }
}

/// What a service lets differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Remove `.`, `..` and empty segments from the path and encode what was encoded once more.
    /// Object storage takes the path as it is, because keys may hold such segments.
    pub normalise_path: bool,
    /// Whether the body may be left out of the signature (`UNSIGNED-PAYLOAD`, and presigned URLs).
    pub unsigned_payload: bool,
    /// How far the signer's clock may be from ours, in minutes.
    pub skew_minutes: i64,
}

impl Rules {
    /// Every service but object storage.
    pub const STANDARD: Rules =
        Rules { normalise_path: true, unsigned_payload: false, skew_minutes: 5 };
    /// S3 and its relatives.
    pub const OBJECT_STORAGE: Rules =
        Rules { normalise_path: false, unsigned_payload: true, skew_minutes: 15 };

    fn skew_millis(self) -> i64 {
        self.skew_minutes * 60_000
    }
}

/// Checks that the holder of `key`'s secret signed this request, and recently enough. `claim` is
/// what [`parse`] found in the same request, `now` the wall clock.
pub fn verify(
    parts: &RequestParts<'_>,
    claim: &Claim<'_>,
    key: &SigningKey,
    rules: Rules,
    now: Timestamp,
) -> Result<(), Error> {
    check_signed_headers(parts, claim)?;
    check_time(claim, rules, now)?;
    let mut hash = [0; 64];
    let payload = payload(parts, claim, rules, &mut hash)?;
    // One buffer for both texts: they are never needed together.
    let mut text = Vec::with_capacity(1024);
    canonical::request(&mut text, parts, &claim.signed_headers, payload, rules)
        .map_err(|canonical::MissingHeader| Error::SignatureDoesNotMatch)?;
    let hashed = sha256_hex(&text);
    canonical::string_to_sign(&mut text, &claim.stamp, &claim.region, &claim.service, &hashed);
    let expected = key.signature_hex(&text);
    constant_time::verify_slices_are_equal(&expected, claim.signature().as_bytes())
        .map_err(|_| Error::SignatureDoesNotMatch)
}

/// The canonical request and the string to sign, for whoever has to find out why a signature does
/// not match. Neither holds a secret, but the first holds the session token.
pub fn canonical_texts(
    parts: &RequestParts<'_>,
    claim: &Claim<'_>,
    rules: Rules,
) -> Result<(String, String), Error> {
    let mut hash = [0; 64];
    let payload = payload(parts, claim, rules, &mut hash)?;
    let mut text = Vec::new();
    canonical::request(&mut text, parts, &claim.signed_headers, payload, rules)
        .map_err(|canonical::MissingHeader| Error::SignatureDoesNotMatch)?;
    let request = String::from_utf8_lossy(&text).into_owned();
    let hashed = sha256_hex(&text);
    canonical::string_to_sign(&mut text, &claim.stamp, &claim.region, &claim.service, &hashed);
    Ok((request, String::from_utf8_lossy(&text).into_owned()))
}

/// `host` and all of `x-amz-*` must be signed: they say where a request goes and what it means.
fn check_signed_headers(parts: &RequestParts<'_>, claim: &Claim<'_>) -> Result<(), Error> {
    let is_signed =
        |name: &str| claim.signed_headers.split(';').any(|s| s.eq_ignore_ascii_case(name));
    if !is_signed("host") {
        let text = "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.";
        return Err(Error::Refused(text.to_owned()));
    }
    // A proxy may add a second Host that another layer routes by.
    if parts.values("host").count() > 1 {
        return Err(Error::Refused("The request has more than one Host header.".to_owned()));
    }
    for (name, _) in parts.headers {
        let prefix = name.as_bytes().get(..6);
        if prefix.is_some_and(|p| p.eq_ignore_ascii_case(b"x-amz-")) && !is_signed(name) {
            return Err(Error::HeaderNotSigned(name.to_ascii_lowercase()));
        }
    }
    Ok(())
}

fn check_time(claim: &Claim<'_>, rules: Rules, now: Timestamp) -> Result<(), Error> {
    let skew = rules.skew_millis();
    let age = now.millis_since(claim.date);
    if age < -skew {
        let minutes = rules.skew_minutes;
        return Err(Error::NotYetCurrent { signed: claim.date, now, minutes });
    }
    match claim.expires_seconds {
        Some(seconds) if age > i64::from(seconds) * 1000 => Err(Error::PresignedExpired),
        None if age > skew => {
            Err(Error::Expired { signed: claim.date, now, minutes: rules.skew_minutes })
        }
        _ => Ok(()),
    }
}

/// The last line of the canonical request, after checking that it is true of the body.
fn payload<'b>(
    parts: &RequestParts<'b>,
    claim: &Claim<'b>,
    rules: Rules,
    hash: &'b mut [u8; 64],
) -> Result<&'b [u8], Error> {
    let mut stated = parts.values("x-amz-content-sha256");
    let value = stated.next();
    if stated.next().is_some() {
        return Err(Error::ContentHashInvalid);
    }
    let value = value.map(|v| v.trim_ascii());
    match value {
        None if claim.is_presigned() && rules.unsigned_payload => Ok(UNSIGNED_PAYLOAD.as_bytes()),
        None => {
            *hash = sha256_hex(parts.body);
            Ok(hash)
        }
        Some(v) if v == UNSIGNED_PAYLOAD.as_bytes() => {
            if rules.unsigned_payload {
                Ok(v)
            } else {
                Err(Error::UnsignedPayload)
            }
        }
        Some(v) if v.starts_with(b"STREAMING-") => Err(Error::StreamingPayload),
        Some(v) if v.len() == 64 && v.iter().all(u8::is_ascii_hexdigit) => {
            *hash = sha256_hex(parts.body);
            if v.eq_ignore_ascii_case(hash) { Ok(v) } else { Err(Error::ContentHashMismatch) }
        }
        Some(_) => Err(Error::ContentHashInvalid),
    }
}

fn sha256_hex(data: &[u8]) -> [u8; 64] {
    hex(digest::digest(&digest::SHA256, data).as_ref())
}

/// 32 bytes as 64 lower-case hexadecimal digits.
fn hex(bytes: &[u8]) -> [u8; 64] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'0'; 64];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    text
}
