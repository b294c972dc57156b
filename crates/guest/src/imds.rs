//! A client of the instance metadata service, version 2 only: HTTP/1.1, one connection a request.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

const SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(169, 254, 169, 254), 80);
/// Longer than any answer; user data is at most 16 KiB.
const LARGEST_ANSWER: u64 = 1 << 20;

/// Why there is no value.
#[derive(Debug)]
pub(crate) enum Error {
    /// Nobody answered, or not HTTP.
    Io(io::Error),
    /// The service answered, but not with the value.
    Status(u16),
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(formatter, "the metadata service does not answer: {error}"),
            Self::Status(403) => write!(formatter, "the metadata service is off (HTTP 403)"),
            Self::Status(404) => write!(formatter, "no such item (HTTP 404)"),
            Self::Status(status) => write!(formatter, "the metadata service said HTTP {status}"),
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A session with the service.
#[derive(Debug)]
pub(crate) struct Client {
    token: String,
}

impl Client {
    /// Gets a token, trying until `patience` is over: at boot the address may not work at once.
    ///
    /// # Errors
    /// [`Error::Status`] at once if the service refuses, [`Error::Io`] after `patience`.
    pub(crate) fn connect(patience: Duration) -> Result<Self, Error> {
        let end = Instant::now() + patience;
        let header = "X-aws-ec2-metadata-token-ttl-seconds: 21600";
        loop {
            match call("PUT", "/latest/api/token", header) {
                Ok(token) => {
                    return Ok(Self { token: String::from_utf8_lossy(&token).trim().to_owned() });
                }
                Err(Error::Io(_)) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The item at `path`, such as `meta-data/instance-id`.
    ///
    /// # Errors
    /// As [`Error`]; an item that does not exist is `Status(404)`.
    pub(crate) fn get(&self, path: &str) -> Result<Vec<u8>, Error> {
        let header = format!("X-aws-ec2-metadata-token: {}", self.token);
        call("GET", &format!("/latest/{path}"), &header)
    }

    /// The item as trimmed text; `None` if it does not exist.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(crate) fn text(&self, path: &str) -> Result<Option<String>, Error> {
        match self.get(path) {
            Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).trim().to_owned())),
            Err(Error::Status(404)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn call(method: &str, path: &str, header: &str) -> Result<Vec<u8>, Error> {
    let mut stream = TcpStream::connect_timeout(&SERVICE.into(), Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let length = if method == "PUT" { "Content-Length: 0\r\n" } else { "" };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: 169.254.169.254\r\nAccept: */*\r\n\
         Connection: close\r\n{header}\r\n{length}\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(LARGEST_ANSWER).read_to_end(&mut answer)?;
    match parse(&answer) {
        Some((200, body)) => Ok(body),
        Some((status, _)) => Err(Error::Status(status)),
        None => Err(Error::Io(io::Error::new(io::ErrorKind::InvalidData, "not an HTTP answer"))),
    }
}

/// Status and body of a whole HTTP/1.1 answer; `None` if it is not one or was cut off.
fn parse(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let body = &answer[end + 4..];
    let mut lines = head.split("\r\n");
    let mut status = lines.next()?.split(' ');
    if !status.next()?.starts_with("HTTP/1.") {
        return None;
    }
    let status = status.next()?.parse().ok()?;
    let mut length = None;
    let mut chunked = false;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.trim().parse::<usize>().ok()?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = value.trim().eq_ignore_ascii_case("chunked");
        }
    }
    let body = match length {
        _ if chunked => unchunk(body)?,
        Some(length) => body.get(..length)?.to_vec(),
        None => body.to_vec(),
    };
    Some((status, body))
}

fn unchunk(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&body[..end]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        body = &body[end + 2..];
        if size == 0 {
            return Some(whole);
        }
        whole.extend(body.get(..size)?);
        body = body.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn answers_are_read() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nServer: x\r\n\r\ni-01extra";
        assert_eq!(parse(answer), Some((200, b"i-01".to_vec())));
        let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length:0\r\n\r\n";
        assert_eq!(parse(answer), Some((404, Vec::new())));
        let answer = b"HTTP/1.0 200 OK\r\n\r\nuntil the end";
        assert_eq!(parse(answer), Some((200, b"until the end".to_vec())));
        let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n";
        assert_eq!(parse(answer), Some((200, b"abcde".to_vec())));
    }

    #[test]
    fn broken_answers_are_not_values() {
        for answer in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\n",
            b"SSH-2.0-x\r\n\r\n",
            b"HTTP/1.1 two OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
        ] {
            assert_eq!(parse(answer), None, "{}", String::from_utf8_lossy(answer));
        }
    }
}
