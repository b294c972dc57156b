//! Requests as text, in the form of AWS's SigV4 test vectors: request line, headers, an empty line,
//! body. For the vectors, the fuzz target and its corpus.

use wire::sigv4::RequestParts;

/// Splits `text` and hands over the request; `None` if it has no request line. What is not UTF-8
/// can only be in the header values and the body, as on the wire.
pub(crate) fn with<T>(text: &[u8], then: impl FnOnce(&RequestParts<'_>) -> T) -> Option<T> {
    let (head, body) = match text.windows(2).position(|w| w == b"\n\n") {
        Some(end) => (&text[..end], &text[end + 2..]),
        None => (text, &b""[..]),
    };
    let mut lines: Vec<Vec<u8>> = Vec::new();
    for line in head.split(|b| *b == b'\n') {
        // A line that starts with white space goes on with the one before (RFC 9112 5.2).
        match lines.last_mut() {
            Some(last) if line.starts_with(b" ") || line.starts_with(b"\t") => {
                last.push(b' ');
                last.extend_from_slice(line.trim_ascii());
            }
            _ => lines.push(line.to_vec()),
        }
    }
    let request_line = std::str::from_utf8(lines.first()?).ok()?;
    let (method, rest) = request_line.split_once(' ')?;
    let target = rest.strip_suffix(" HTTP/1.1").unwrap_or(rest);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut headers = Vec::new();
    for line in &lines[1..] {
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        let Ok(name) = std::str::from_utf8(&line[..colon]) else { continue };
        headers.push((name, &line[colon + 1..]));
    }
    Some(then(&RequestParts { method, path, query, headers: &headers, body }))
}
