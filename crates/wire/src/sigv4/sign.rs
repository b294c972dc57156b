//! The client's side: signs requests, for tests, the load generator and calls of our own.

use super::canonical;
use super::{ALGORITHM, RequestParts, Rules, SigningKey, TERMINATOR, UNSIGNED_PAYLOAD};
use super::{date, sha256_hex};
use base::Timestamp;
use std::fmt;

/// What a signer holds.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// `AKIA…` or, for temporary ones, `ASIA…`.
    pub access_key_id: &'a str,
    /// The secret.
    pub secret_access_key: &'a str,
    /// Comes with temporary credentials.
    pub session_token: Option<&'a str>,
}

impl fmt::Debug for Credentials<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

/// Headers that proxies change, which therefore stay unsigned (botocore's
/// `SIGNED_HEADERS_BLACKLIST`).
const UNSIGNABLE: [&str; 12] = [
    "authorization",
    "connection",
    "expect",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "x-amzn-trace-id",
];

/// Signs for one service in one region.
#[derive(Clone, Copy, Debug)]
pub struct Signer<'a> {
    /// Whose signature.
    pub credentials: Credentials<'a>,
    /// Region of the credential scope.
    pub region: &'a str,
    /// Signing name of the service.
    pub service: &'a str,
    /// What the service lets differ.
    pub rules: Rules,
}

impl Signer<'_> {
    /// The headers to add to a request to sign it. `parts` must have a `host` header, and none of
    /// those that this adds.
    pub fn headers(&self, parts: &RequestParts<'_>, at: Timestamp) -> Vec<(&'static str, String)> {
        let stamp = date::basic(at);
        let mut added = vec![("x-amz-date", text(&stamp))];
        if let Some(token) = self.credentials.session_token {
            added.push(("x-amz-security-token", token.to_owned()));
        }
        let payload = sha256_hex(parts.body);
        if self.rules.unsigned_payload {
            added.push(("x-amz-content-sha256", text(&payload)));
        }
        let mut headers = parts.headers.to_vec();
        headers.extend(added.iter().map(|(name, value)| (*name, value.as_bytes())));
        let parts = RequestParts { headers: &headers, ..*parts };
        let signed = signed_headers(&parts);
        let signature = self.signature(&parts, &stamp, &signed, &payload);
        let scope = self.scope(&stamp);
        let authorization = format!(
            "{ALGORITHM} Credential={}/{scope}, SignedHeaders={signed}, Signature={signature}",
            self.credentials.access_key_id
        );
        added.push(("authorization", authorization));
        added
    }

    /// The whole query of a presigned URL, `parts.query` included. `parts` must have a `host`
    /// header; every header that it has must be sent with the URL.
    pub fn presign(&self, parts: &RequestParts<'_>, at: Timestamp, expires_seconds: u32) -> String {
        let stamp = date::basic(at);
        let signed = signed_headers(parts);
        let credential = format!("{}/{}", self.credentials.access_key_id, self.scope(&stamp));
        let expires = expires_seconds.to_string();
        let stamp_text = text(&stamp);
        let mut query = parts.query.as_bytes().to_vec();
        let mut add = |name: &str, value: &str| {
            if !query.is_empty() {
                query.push(b'&');
            }
            query.extend_from_slice(name.as_bytes());
            query.push(b'=');
            canonical::encode(&mut query, value.as_bytes());
        };
        add("X-Amz-Algorithm", ALGORITHM);
        add("X-Amz-Credential", &credential);
        add("X-Amz-Date", &stamp_text);
        add("X-Amz-Expires", &expires);
        add("X-Amz-SignedHeaders", &signed);
        if let Some(token) = self.credentials.session_token {
            add("X-Amz-Security-Token", token);
        }
        let query = String::from_utf8_lossy(&query).into_owned();
        let hash = sha256_hex(parts.body);
        let payload: &[u8] =
            if self.rules.unsigned_payload { UNSIGNED_PAYLOAD.as_bytes() } else { &hash };
        let parts = RequestParts { query: &query, ..*parts };
        let signature = self.signature(&parts, &stamp, &signed, payload);
        format!("{query}&X-Amz-Signature={signature}")
    }

    fn scope(&self, stamp: &[u8; 16]) -> String {
        format!("{}/{}/{}/{TERMINATOR}", text(&stamp[..8]), self.region, self.service)
    }

    fn signature(
        &self,
        parts: &RequestParts<'_>,
        stamp: &[u8; 16],
        signed: &str,
        payload: &[u8],
    ) -> String {
        let mut buffer = Vec::new();
        // Cannot fail: the list was made from these headers.
        let _ = canonical::request(&mut buffer, parts, signed, payload, self.rules);
        let hash = sha256_hex(&buffer);
        canonical::string_to_sign(&mut buffer, stamp, self.region, self.service, &hash);
        let secret = self.credentials.secret_access_key;
        let key = SigningKey::derive(secret, &text(&stamp[..8]), self.region, self.service);
        text(&key.signature_hex(&buffer))
    }
}

fn signed_headers(parts: &RequestParts<'_>) -> String {
    let mut names: Vec<_> = parts.headers.iter().map(|(n, _)| n.to_ascii_lowercase()).collect();
    names.retain(|name| !UNSIGNABLE.contains(&name.as_str()));
    names.sort_unstable();
    names.dedup();
    names.join(";")
}

fn text(ascii: &[u8]) -> String {
    String::from_utf8_lossy(ascii).into_owned()
}
