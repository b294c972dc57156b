//! What a request says about its own signature, from the `Authorization` header or the query.
//! Nothing here is proven yet.

use super::canonical::{decode, query_pairs};
use super::{ALGORITHM, Error, RequestParts, TERMINATOR, date};
use base::Timestamp;
use std::borrow::Cow;
use std::fmt;

/// A week, the longest life of a presigned URL, in seconds.
const LONGEST_EXPIRY: u32 = 604_800;

/// What a request claims; [`super::verify`] proves it.
#[derive(Clone)]
pub struct Claim<'a> {
    /// Whose key: what the secret is looked up by.
    pub access_key_id: Cow<'a, str>,
    /// The token that temporary credentials come with. The caller compares it with the one it gave
    /// out together with that access key.
    pub session_token: Option<Cow<'a, str>>,
    /// When the request says it was signed.
    pub date: Timestamp,
    /// The region of the credential scope.
    pub region: Cow<'a, str>,
    /// The service of the credential scope, in its signing name: `ec2`, `sts`…
    pub service: Cow<'a, str>,
    /// The names of the signed headers, lower case, sorted, joined by `;`.
    pub signed_headers: Cow<'a, str>,
    /// How long a presigned URL is good for; `None` if the request was signed by header.
    pub expires_seconds: Option<u32>,
    pub(super) stamp: [u8; 16],
    signature: Cow<'a, str>,
}

impl Claim<'_> {
    /// Whether the signature came in the query.
    pub fn is_presigned(&self) -> bool {
        self.expires_seconds.is_some()
    }

    /// The day of the credential scope, `YYYYMMDD`.
    pub fn day(&self) -> &str {
        std::str::from_utf8(&self.stamp[..8]).unwrap_or_default()
    }

    pub(super) fn day_bytes(&self) -> [u8; 8] {
        let mut day = [0; 8];
        day.copy_from_slice(&self.stamp[..8]);
        day
    }

    pub(super) fn signature(&self) -> &str {
        &self.signature
    }
}

impl fmt::Debug for Claim<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim")
            .field("access_key_id", &self.access_key_id)
            .field("session_token", &self.session_token.as_ref().map(|_| ".."))
            .field("date", &self.date)
            .field("region", &self.region)
            .field("service", &self.service)
            .field("signed_headers", &self.signed_headers)
            .field("expires_seconds", &self.expires_seconds)
            .finish_non_exhaustive()
    }
}

/// Reads the claim. An error means that the request is not signed, or not in a way that can be
/// checked.
pub fn parse<'a>(parts: &RequestParts<'a>) -> Result<Claim<'a>, Error> {
    let mut headers = parts.values("authorization");
    let header = headers.next();
    if headers.next().is_some() {
        return Err(Error::Incomplete("The request has two 'Authorization' headers.".to_owned()));
    }
    let is_presigned = query_pairs(parts.query)
        .any(|(name, _)| matches!(name, "X-Amz-Algorithm" | "X-Amz-Signature"));
    match (header, is_presigned) {
        (Some(_), true) => Err(Error::Incomplete(
            "Only one auth mechanism allowed: the Authorization header or the X-Amz-Signature \
             query parameter."
                .to_owned(),
        )),
        (Some(value), false) => from_header(parts, value),
        (None, true) => from_query(parts),
        (None, false) if has_version_2_query(parts) => Err(Error::SignatureVersion2),
        (None, false) => Err(Error::MissingAuthenticationToken),
    }
}

fn from_header<'a>(parts: &RequestParts<'a>, value: &'a [u8]) -> Result<Claim<'a>, Error> {
    let Ok(value) = std::str::from_utf8(value) else {
        return Err(Error::Incomplete("The Authorization header is not UTF-8.".to_owned()));
    };
    let (algorithm, rest) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
    check_algorithm(algorithm)?;
    let (mut credential, mut signed_headers, mut signature) = (None, None, None);
    for field in rest.split(',').map(str::trim).filter(|f| !f.is_empty()) {
        let Some((name, value)) = field.split_once('=') else {
            return Err(Error::Incomplete(
                "A part of the Authorization header is not a valid key=value pair (missing \
                 equal-sign)."
                    .to_owned(),
            ));
        };
        let slot = match name {
            "Credential" => &mut credential,
            "SignedHeaders" => &mut signed_headers,
            "Signature" => &mut signature,
            // AWS ignores names that it does not know.
            _ => continue,
        };
        if slot.replace(value).is_some() {
            return Err(Error::Incomplete(format!(
                "Authorization header has more than one '{name}' parameter."
            )));
        }
    }
    let date = header_date(parts).transpose()?;
    let (Some(credential), Some(signed_headers), Some(signature), Some(date)) =
        (credential, signed_headers, signature, date)
    else {
        let requires = |name: &str| format!("Authorization header requires '{name}' parameter.");
        let texts = [
            credential.is_none().then(|| requires("Credential")),
            signature.is_none().then(|| requires("Signature")),
            signed_headers.is_none().then(|| requires("SignedHeaders")),
            date.is_none().then(|| {
                "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' \
                 header."
                    .to_owned()
            }),
        ];
        return Err(Error::Incomplete(texts.into_iter().flatten().collect::<Vec<_>>().join(" ")));
    };
    let mut tokens = parts.values("x-amz-security-token");
    let session_token = match tokens.next().map(|t| std::str::from_utf8(t.trim_ascii())) {
        None => None,
        Some(Ok(token)) => Some(Cow::Borrowed(token)),
        Some(Err(_)) => return Err(Error::UnknownAccessKey),
    };
    if tokens.next().is_some() {
        let text = "The request has two 'X-Amz-Security-Token' headers.";
        return Err(Error::Incomplete(text.to_owned()));
    }
    let fields = Fields {
        credential: Cow::Borrowed(credential),
        signed_headers: Cow::Borrowed(signed_headers),
        signature: Cow::Borrowed(signature),
        session_token,
        expires_seconds: None,
    };
    fields.into_claim(date)
}

fn from_query<'a>(parts: &RequestParts<'a>) -> Result<Claim<'a>, Error> {
    const NAMES: [&str; 7] = [
        "X-Amz-Algorithm",
        "X-Amz-Credential",
        "X-Amz-Signature",
        "X-Amz-SignedHeaders",
        "X-Amz-Date",
        "X-Amz-Expires",
        "X-Amz-Security-Token",
    ];
    let mut values = [const { None }; 7];
    for (name, value) in query_pairs(parts.query) {
        let Some(index) = NAMES.iter().position(|n| *n == name) else { continue };
        let value = match decode(value, true) {
            Cow::Borrowed(_) => Cow::Borrowed(value),
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8(bytes).map_err(|_| {
                Error::Incomplete(format!("The query parameter '{name}' is not UTF-8."))
            })?),
        };
        if values[index].replace(value).is_some() {
            return Err(Error::Incomplete(format!(
                "The query string has more than one '{name}' parameter."
            )));
        }
    }
    let mut take = |index: usize| {
        values[index].take().ok_or_else(|| {
            Error::Incomplete(format!(
                "AWS query-string parameters must include '{}'. Re-examine the query-string \
                 parameters.",
                NAMES[index]
            ))
        })
    };
    check_algorithm(&take(0)?)?;
    let fields = Fields {
        credential: take(1)?,
        signature: take(2)?,
        signed_headers: take(3)?,
        expires_seconds: None,
        session_token: None,
    };
    let stamp = take(4)?;
    let date = date::parse_basic(stamp.as_bytes()).ok_or_else(|| bad_date(stamp.as_bytes()))?;
    // Without an expiry a leaked URL would be good until the day's key changes.
    let seconds = take(5)?.parse().ok().filter(|s| (1..=LONGEST_EXPIRY).contains(s));
    let expires_seconds = Some(seconds.ok_or(Error::ExpiresOutOfRange)?);
    Fields { expires_seconds, session_token: take(6).ok(), ..fields }.into_claim(date)
}

/// The time of a request that was signed by header: `X-Amz-Date` before `Date`; `None` if it has
/// neither.
fn header_date(parts: &RequestParts<'_>) -> Option<Result<Timestamp, Error>> {
    let stated = parts.values("x-amz-date").next().or_else(|| parts.values("date").next())?;
    let value = stated.trim_ascii();
    let date = date::parse_basic(value).or_else(|| date::parse_http(value));
    Some(date.ok_or_else(|| bad_date(value)))
}

fn bad_date(value: &[u8]) -> Error {
    Error::Incomplete(format!(
        "Date must be in ISO-8601 'basic format'. Got '{}'. See \
         http://en.wikipedia.org/wiki/ISO_8601",
        printable(value)
    ))
}

struct Fields<'a> {
    credential: Cow<'a, str>,
    signed_headers: Cow<'a, str>,
    signature: Cow<'a, str>,
    session_token: Option<Cow<'a, str>>,
    expires_seconds: Option<u32>,
}

impl<'a> Fields<'a> {
    fn into_claim(self, date: Timestamp) -> Result<Claim<'a>, Error> {
        let [access_key_id, day, region, service, terminator] = split_scope(self.credential)?;
        if terminator != TERMINATOR {
            return Err(Error::Refused(format!(
                "Credential should be scoped with a valid terminator: '{TERMINATOR}', not '{}'.",
                printable(terminator.as_bytes())
            )));
        }
        let stamp = date::basic(date);
        if day.as_bytes() != &stamp[..8] {
            let (day, stamp) = (printable(day.as_bytes()), printable(&stamp));
            return Err(Error::Refused(format!(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date \
                 from HTTP: '{day}' != '{}', from '{stamp}'.",
                &stamp[..8]
            )));
        }
        check_header_list(&self.signed_headers)?;
        Ok(Claim {
            access_key_id,
            session_token: self.session_token,
            date,
            region,
            service,
            signed_headers: self.signed_headers,
            expires_seconds: self.expires_seconds,
            stamp,
            signature: self.signature,
        })
    }
}

/// `key/day/region/service/terminator`, none of them empty.
fn split_scope(credential: Cow<'_, str>) -> Result<[Cow<'_, str>; 5], Error> {
    let parts = match credential {
        Cow::Borrowed(text) => split_5(text).map(|parts| parts.map(Cow::Borrowed)),
        Cow::Owned(text) => split_5(&text).map(|parts| parts.map(|p| Cow::Owned(p.to_owned()))),
    };
    parts.ok_or_else(|| {
        Error::Incomplete(
            "Credential must have exactly 5 slash-delimited elements, e.g. \
             keyid/date/region/service/term."
                .to_owned(),
        )
    })
}

fn split_5(text: &str) -> Option<[&str; 5]> {
    let mut split = text.split('/');
    let mut parts = [""; 5];
    for part in &mut parts {
        *part = split.next().filter(|p| !p.is_empty())?;
    }
    split.next().is_none().then_some(parts)
}

/// A list that is not sorted, or names a header twice, would let two different requests have one
/// canonical form.
fn check_header_list(list: &str) -> Result<(), Error> {
    let is_lower = !list.bytes().any(|b| b.is_ascii_uppercase() || b.is_ascii_whitespace());
    let is_sorted = list.split(';').zip(list.split(';').skip(1)).all(|(a, b)| a < b);
    if is_lower && is_sorted && list.split(';').all(|name| !name.is_empty()) {
        return Ok(());
    }
    let text = "SignedHeaders must be lower case, sorted, separated by ';' and without duplicates.";
    Err(Error::Incomplete(text.to_owned()))
}

/// Signature Version 2 sends `AWSAccessKeyId` and `SignatureVersion` in the query or the form.
fn has_version_2_query(parts: &RequestParts<'_>) -> bool {
    let is_form = parts
        .values("content-type")
        .any(|v| v.to_ascii_lowercase().starts_with(b"application/x-www-form-urlencoded"));
    let form = if is_form { std::str::from_utf8(parts.body).unwrap_or("") } else { "" };
    query_pairs(parts.query).chain(query_pairs(form)).any(|(name, _)| name == "AWSAccessKeyId")
}

/// Enough of what the client sent to recognise it by.
fn printable(text: &[u8]) -> String {
    String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).take(64).collect()
}

fn check_algorithm(algorithm: &str) -> Result<(), Error> {
    match algorithm {
        ALGORITHM => Ok(()),
        "AWS" | "AWS3" | "AWS3-HTTPS" => Err(Error::SignatureVersion2),
        _ => Err(Error::UnsupportedAlgorithm(printable(algorithm.as_bytes()))),
    }
}
