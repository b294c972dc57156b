//! Path templates such as `/{Bucket}/{Key+}?acl`: which operation has this path, and back.

use crate::schema::{Location, OperationModel, ServiceModel, flag};
use crate::text::{percent_decode, push_percent};
use crate::{DecodeError, sigv4::RequestParts};

/// What a path and query say.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The labels of the path, decoded.
    pub(crate) labels: Vec<(String, String)>,
    /// The query, decoded, without what the template fixes.
    pub(crate) query: Vec<(String, String)>,
}

/// The operation that a request asks for. Of many that match, the one that says most about the
/// query, then about the path, then the one whose required headers and parameters are all there.
pub(crate) fn find(
    service: &'static ServiceModel,
    request: &RequestParts<'_>,
) -> Result<(&'static OperationModel, Found), DecodeError> {
    let query = parse_query(request.query)?;
    let mut best: Option<((usize, usize, usize), &'static OperationModel, Found)> = None;
    for operation in service.operations {
        if operation.method != request.method {
            continue;
        }
        let (path, fixed) = operation.uri.split_once('?').unwrap_or((operation.uri, ""));
        let fixed = parse_query(fixed)?;
        if !fixed.iter().all(|pair| query.contains(pair)) {
            continue;
        }
        let Some((literals, labels)) = match_path(path, request.path)? else { continue };
        let score = (fixed.len(), literals, required(operation, request, &query));
        if best.as_ref().is_none_or(|(other, ..)| score > *other) {
            let query = query.iter().filter(|pair| !fixed.contains(pair)).cloned().collect();
            best = Some((score, operation, Found { labels, query }));
        }
    }
    let (_, operation, found) = best.ok_or_else(|| DecodeError::InvalidAction {
        action: format!("{} {}", request.method, request.path),
        version: service.api_version.to_owned(),
    })?;
    Ok((operation, found))
}

/// One more than the number of required headers and parameters, 0 if one of them is missing.
fn required(
    operation: &OperationModel,
    request: &RequestParts<'_>,
    query: &[(String, String)],
) -> usize {
    let mut count = 1;
    for member in operation.input.map_or(&[][..], |input| input.target.members()) {
        let name = member.wire_name();
        let is_there = match member.location {
            _ if !member.has(flag::REQUIRED) => continue,
            Location::Header => {
                request.headers.iter().any(|(key, _)| key.eq_ignore_ascii_case(name))
            }
            Location::QueryString => query.iter().any(|(key, _)| key == name),
            _ => continue,
        };
        if !is_there {
            return 0;
        }
        count += 1;
    }
    count
}

/// Decoded names and values.
fn parse_query(query: &str) -> Result<Vec<(String, String)>, DecodeError> {
    let mut pairs = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decode = |text: &str| percent_decode(text.as_bytes(), true).map(|t| t.into_owned());
        pairs.push((decode(name)?, decode(value)?));
    }
    Ok(pairs)
}

/// The label of a template's segment, and whether it takes all segments that follow.
fn label(segment: &str) -> Option<(&str, bool)> {
    let name = segment.strip_prefix('{')?.strip_suffix('}')?;
    Some(name.strip_suffix('+').map_or((name, false), |name| (name, true)))
}

/// The number of literal segments, and the labels; `None` if the path does not match. A slash at
/// the end makes no difference, except in a label that takes everything.
#[allow(clippy::type_complexity)]
fn match_path(
    template: &str,
    path: &str,
) -> Result<Option<(usize, Vec<(String, String)>)>, DecodeError> {
    let template = template.trim_start_matches('/').trim_end_matches('/');
    let mut rest = Some(path.strip_prefix('/').unwrap_or(path));
    let (mut literals, mut labels) = (0, Vec::new());
    for segment in template.split('/').filter(|_| !template.is_empty()) {
        let Some(here) = rest else { return Ok(None) };
        let (first, after) = match here.split_once('/') {
            Some((first, after)) => (first, Some(after)),
            None => (here, None),
        };
        match label(segment) {
            Some((name, true)) if !here.is_empty() => {
                let value = percent_decode(here.as_bytes(), false)?.into_owned();
                labels.push((name.to_owned(), value));
                return Ok(Some((literals, labels)));
            }
            Some((name, false)) if !first.is_empty() => {
                let value = percent_decode(first.as_bytes(), false)?.into_owned();
                labels.push((name.to_owned(), value));
            }
            None if first == segment => literals += 1,
            _ => return Ok(None),
        }
        rest = after;
    }
    let at_end = rest.is_none_or(str::is_empty);
    Ok(at_end.then_some((literals, labels)))
}

/// Path and query of a request.
pub(crate) fn fill(
    template: &str,
    labels: &[(String, String)],
    query: &[(String, String)],
) -> Result<String, DecodeError> {
    let (path, fixed) = template.split_once('?').unwrap_or((template, ""));
    let mut out = Vec::new();
    for (index, segment) in path.split('/').enumerate() {
        if index > 0 {
            out.push(b'/');
        }
        let Some((name, greedy)) = label(segment) else {
            out.extend_from_slice(segment.as_bytes());
            continue;
        };
        let value = labels.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value);
        if value.is_empty() {
            return Err(DecodeError::InvalidValue {
                path: name.to_owned(),
                value: String::new(),
                expected: "path label",
            });
        }
        push_percent(&mut out, value.as_bytes(), if greedy { b"/" } else { b"" });
    }
    let mut separator = b'?';
    let mut separate = |out: &mut Vec<u8>| out.push(std::mem::replace(&mut separator, b'&'));
    if !fixed.is_empty() {
        separate(&mut out);
        out.extend_from_slice(fixed.as_bytes());
    }
    for (name, value) in query {
        separate(&mut out);
        push_percent(&mut out, name.as_bytes(), b"");
        out.push(b'=');
        push_percent(&mut out, value.as_bytes(), b"");
    }
    String::from_utf8(out).map_err(|error| DecodeError::Malformed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates() {
        let labels = |template, path| {
            let found = match_path(template, path).expect("well-formed");
            found.map(|(literals, labels)| {
                let labels = labels.into_iter().map(|(name, value)| format!("{name}={value}"));
                (literals, labels.collect::<Vec<_>>().join(" "))
            })
        };
        let found = |literals, labels: &str| Some((literals, labels.to_owned()));
        assert_eq!(labels("/{Bucket}/{Key+}", "/b/a%20c/d/"), found(0, "Bucket=b Key=a c/d/"));
        assert_eq!(labels("/{Bucket}", "/b/"), found(0, "Bucket=b"));
        assert_eq!(labels("/{Bucket}", "/b/c"), None);
        assert_eq!(labels("/{Bucket}/{Key+}", "/b/"), None);
        assert_eq!(labels("/", "/"), found(0, ""));
        assert_eq!(labels("/v1/functions/", "/v1/functions"), found(2, ""));
        assert_eq!(labels("/v1/functions/{Name}/url", "/v1/functions/f/url"), found(3, "Name=f"));
        assert!(match_path("/{Bucket}", "/%ff").is_err());
    }

    #[test]
    fn a_path_is_filled() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let labels = [pair("Bucket", "b"), pair("Key", "a b/ü")];
        let filled = fill("/{Bucket}/{Key+}?acl", &labels, &[pair("v", "1/2")]);
        assert_eq!(filled.as_deref(), Ok("/b/a%20b/%C3%BC?acl&v=1%2F2"));
        assert!(fill("/{Bucket}/{Missing}", &labels, &[]).is_err());
    }
}
