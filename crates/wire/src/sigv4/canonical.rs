//! The canonical request: the one spelling of a request that signer and verifier both hash.
//!
//! Written straight into one buffer; only a query or an unusual header allocates.

use super::{ALGORITHM, RequestParts, Rules, TERMINATOR};
use std::borrow::Cow;

/// A header that the signature names is not in the request.
pub(super) struct MissingHeader;

/// Writes the canonical request into `out`, which is cleared first.
pub(super) fn request(
    out: &mut Vec<u8>,
    parts: &RequestParts<'_>,
    signed_headers: &str,
    payload: &[u8],
    rules: Rules,
) -> Result<(), MissingHeader> {
    out.clear();
    out.extend_from_slice(parts.method.as_bytes());
    out.push(b'\n');
    path(out, parts.path, rules);
    out.push(b'\n');
    query(out, parts.query);
    out.push(b'\n');
    for name in signed_headers.split(';') {
        header(out, parts, name)?;
    }
    out.push(b'\n');
    out.extend_from_slice(signed_headers.as_bytes());
    out.push(b'\n');
    out.extend_from_slice(payload);
    Ok(())
}

/// Writes the string to sign into `out`, which is cleared first. `stamp` is the request's time,
/// `20150830T123600Z`.
pub(super) fn string_to_sign(
    out: &mut Vec<u8>,
    stamp: &[u8; 16],
    region: &str,
    service: &str,
    request_hash: &[u8; 64],
) {
    out.clear();
    for part in [ALGORITHM.as_bytes(), b"\n", stamp, b"\n", &stamp[..8], b"/"] {
        out.extend_from_slice(part);
    }
    for part in [region, "/", service, "/", TERMINATOR, "\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    out.extend_from_slice(request_hash);
}

fn path(out: &mut Vec<u8>, raw: &str, rules: Rules) {
    if raw.is_empty() || raw == "/" {
        out.push(b'/');
    } else if rules.normalise_path {
        // What the client encoded is encoded again: the signer saw the encoded path as text.
        for segment in normal_segments(raw) {
            out.push(b'/');
            encode(out, segment.as_bytes());
        }
        if raw.ends_with('/') || out.last() == Some(&b'\n') {
            out.push(b'/');
        }
    } else {
        for (index, segment) in raw.split('/').enumerate() {
            if index > 0 {
                out.push(b'/');
            }
            // An encoded slash is a slash to the signer, who encodes the key and leaves slashes.
            for (index, part) in decode(segment, false).split(|b| *b == b'/').enumerate() {
                if index > 0 {
                    out.push(b'/');
                }
                encode(out, part);
            }
        }
    }
}

/// RFC 3986 5.2.4, and empty segments removed, as botocore's `normalize_url_path` does it.
fn normal_segments(raw: &str) -> Vec<&str> {
    let mut segments = Vec::new();
    for segment in raw.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    segments
}

/// Sorted by encoded name, then by encoded value; without the signature itself.
fn query(out: &mut Vec<u8>, raw: &str) {
    if raw.is_empty() {
        return;
    }
    let mut encoded = Vec::with_capacity(raw.len() + 64);
    // (start of name, end of name = start of value, end of value)
    let mut pairs = Vec::new();
    for (name, value) in query_pairs(raw) {
        if name == "X-Amz-Signature" {
            continue;
        }
        let start = encoded.len();
        encode(&mut encoded, &decode(name, true));
        let middle = encoded.len();
        encode(&mut encoded, &decode(value, true));
        pairs.push((start, middle, encoded.len()));
    }
    let bytes = |&(start, middle, end): &(usize, usize, usize)| {
        (&encoded[start..middle], &encoded[middle..end])
    };
    pairs.sort_by(|a, b| bytes(a).cmp(&bytes(b)));
    for (index, pair) in pairs.iter().enumerate() {
        let (name, value) = bytes(pair);
        if index > 0 {
            out.push(b'&');
        }
        out.extend_from_slice(name);
        out.push(b'=');
        out.extend_from_slice(value);
    }
}

/// The pairs of a query as sent; empty ones are left out.
pub(super) fn query_pairs(raw: &str) -> impl Iterator<Item = (&str, &str)> {
    raw.split('&').filter(|p| !p.is_empty()).map(|p| p.split_once('=').unwrap_or((p, "")))
}

/// `name:value,value\n`, each value trimmed and its inner white space made one space.
fn header(out: &mut Vec<u8>, parts: &RequestParts<'_>, name: &str) -> Result<(), MissingHeader> {
    out.extend_from_slice(name.as_bytes());
    out.push(b':');
    let mut is_first = true;
    for value in parts.values(name) {
        if !is_first {
            out.push(b',');
        }
        is_first = false;
        let value = value.trim_ascii();
        if value.windows(2).any(|w| w[0].is_ascii_whitespace() && w[1].is_ascii_whitespace())
            || value.contains(&b'\t')
        {
            let words = value.split(u8::is_ascii_whitespace).filter(|w| !w.is_empty());
            for (index, word) in words.enumerate() {
                if index > 0 {
                    out.push(b' ');
                }
                out.extend_from_slice(word);
            }
        } else {
            out.extend_from_slice(value);
        }
    }
    out.push(b'\n');
    if is_first { Err(MissingHeader) } else { Ok(()) }
}

/// Percent-encodes all but RFC 3986's unreserved characters, with upper-case digits.
pub(super) fn encode(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(*byte);
        } else {
            let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
            out.extend_from_slice(&[b'%', DIGITS[high], DIGITS[low]]);
        }
    }
}

/// Undoes percent-encoding; a `%` without two digits stands for itself. In a query, `+` is a space.
pub(super) fn decode(text: &str, in_query: bool) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if !bytes.iter().any(|b| *b == b'%' || (in_query && *b == b'+')) {
        return Cow::Borrowed(bytes);
    }
    let digit = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let escaped = if *byte == b'%' { digit(at + 1).zip(digit(at + 2)) } else { None };
        match escaped.and_then(|(high, low)| u8::try_from(high * 16 + low).ok()) {
            Some(value) => {
                decoded.push(value);
                at += 3;
            }
            None => {
                decoded.push(if in_query && *byte == b'+' { b' ' } else { *byte });
                at += 1;
            }
        }
    }
    Cow::Owned(decoded)
}
