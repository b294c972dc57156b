//! The load generator: keep-alive connections, requests that were signed beforehand, one thread.
//!
//! It shares two cores with the server that it measures, so it does as little as it can: one
//! `poll` a round, no task switching, bodies counted and not kept.

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long an answer may take, in seconds: a peer with a thousand instances needs some.
const PATIENCE: i64 = 120;

/// What a slice of load came to.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    /// Answers with status 200.
    pub completed: u64,
    /// Other answers.
    pub failed: u64,
    /// From the first request to the last answer.
    pub seconds: f64,
    /// The first of the other answers, for the report.
    pub complaint: Option<String>,
}

impl Outcome {
    /// Good answers a second.
    pub(super) fn rate(&self) -> f64 {
        self.completed as f64 / self.seconds.max(1e-9)
    }
}

/// Sends `requests` in turn, over and over, on `connections` connections for `duration`, then waits
/// for the answers under way.
///
/// # Errors
/// The server does not accept connections, or does not answer.
pub(super) fn run(
    address: SocketAddr,
    connections: usize,
    requests: &[Vec<u8>],
    duration: Duration,
) -> Result<Outcome> {
    if requests.is_empty() {
        bail!("no requests to send");
    }
    let mut turn = requests.iter().cycle();
    let mut next = || turn.next().map_or(&[][..], Vec::as_slice);
    let mut busy =
        (0..connections).map(|_| Connection::open(address)).collect::<Result<Vec<_>>>()?;
    let mut buffer = vec![0; 256 * 1024];
    let mut outcome = Outcome::default();
    let begun = Instant::now();
    for connection in &mut busy {
        connection.stream.write_all(next())?;
    }
    let mut ready = Vec::with_capacity(connections);
    while !busy.is_empty() {
        wait(&busy, &mut ready).with_context(|| format!("load on {address}"))?;
        // From the end, so that removing one does not move those that are still to be read.
        for index in ready.drain(..).rev() {
            let connection = &mut busy[index];
            let Some(answer) = connection.receive(&mut buffer)? else { continue };
            if answer.status == 200 {
                outcome.completed += 1;
            } else {
                outcome.failed += 1;
                outcome.complaint.get_or_insert(answer.start);
            }
            if begun.elapsed() >= duration {
                busy.swap_remove(index);
                continue;
            }
            if answer.closes {
                *connection = Connection::open(address)?;
            }
            connection.stream.write_all(next())?;
        }
    }
    outcome.seconds = begun.elapsed().as_secs_f64();
    Ok(outcome)
}

/// Sends one request and gives the status and the body.
///
/// # Errors
/// The server does not answer.
pub(super) fn call(address: SocketAddr, request: &[u8]) -> Result<(u16, String)> {
    let mut connection = Connection::open(address)?;
    connection.stream.write_all(request)?;
    let mut kept = Vec::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        if let Some(answer) = connection.receive_into(&mut buffer, Some(&mut kept))? {
            return Ok((answer.status, String::from_utf8_lossy(&kept).into_owned()));
        }
    }
}

/// Fills `ready` with the indices, ascending, of the connections that have something to read.
fn wait(busy: &[Connection], ready: &mut Vec<usize>) -> Result<()> {
    let mut polled: Vec<PollFd<'_>> =
        busy.iter().map(|c| PollFd::new(&c.stream, PollFlags::IN)).collect();
    if poll(&mut polled, Some(&Timespec { tv_sec: PATIENCE, tv_nsec: 0 }))? == 0 {
        bail!("no answer within {PATIENCE} s");
    }
    ready.extend((0..polled.len()).filter(|index| !polled[*index].revents().is_empty()));
    Ok(())
}

/// Sockets stay blocking: they are read only when `poll` says so, and a request is smaller than the
/// socket's buffer.
struct Connection {
    stream: TcpStream,
    /// What came of the answer's head so far.
    head: Vec<u8>,
    body: Body,
    answer: Answer,
}

#[derive(Clone, Default)]
struct Answer {
    status: u16,
    closes: bool,
    /// The first bytes of a body that is not a good answer.
    start: String,
}

/// How far the body has come.
#[derive(Clone, Copy)]
enum Body {
    /// The head is not complete.
    None,
    /// Bytes to come.
    Length(usize),
    /// A chunked body; bytes to come of this chunk with its line end, and the size read so far.
    Chunk {
        left: usize,
    },
    ChunkSize {
        size: usize,
        ignored: bool,
    },
    /// After the last chunk: ends with an empty line.
    Trailer {
        is_line_empty: bool,
    },
    /// Until the server closes.
    UntilClosed,
}

impl Connection {
    fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("connect {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Connection {
            stream,
            head: Vec::with_capacity(1024),
            body: Body::None,
            answer: Answer::default(),
        })
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<Answer>> {
        self.receive_into(buffer, None)
    }

    /// Reads once; gives the answer when it is complete.
    fn receive_into(
        &mut self,
        buffer: &mut [u8],
        keep: Option<&mut Vec<u8>>,
    ) -> Result<Option<Answer>> {
        let count = self.stream.read(buffer)?;
        if count == 0 {
            if matches!(self.body, Body::UntilClosed) {
                return Ok(Some(self.finish(true)));
            }
            bail!("the server closed a connection in the middle of an answer");
        }
        let mut data = &buffer[..count];
        if matches!(self.body, Body::None) {
            let before = self.head.len();
            let end = if before == 0 {
                head_end(data)
            } else {
                self.head.extend_from_slice(data);
                head_end(&self.head)
            };
            let Some(end) = end else {
                if before == 0 {
                    self.head.extend_from_slice(data);
                }
                return Ok(None);
            };
            // Almost always the head comes whole, and is read where it lies.
            let head = if before == 0 { &data[..end] } else { &self.head[..end] };
            (self.answer, self.body) = read_head(head)?;
            data = &data[end - before..];
        }
        if let Some(kept) = keep {
            kept.extend_from_slice(data);
        }
        if self.answer.status != 200 && self.answer.start.len() < 300 {
            self.answer.start.push_str(&String::from_utf8_lossy(&data[..data.len().min(300)]));
        }
        Ok(self.consume(data).then(|| self.finish(false)))
    }

    /// Takes body bytes; whether the body is complete.
    fn consume(&mut self, mut data: &[u8]) -> bool {
        loop {
            match &mut self.body {
                Body::None | Body::UntilClosed => return false,
                Body::Length(left) => {
                    *left -= data.len().min(*left);
                    return *left == 0;
                }
                Body::Chunk { left } => {
                    let taken = data.len().min(*left);
                    *left -= taken;
                    data = &data[taken..];
                    if *left > 0 {
                        return false;
                    }
                    self.body = Body::ChunkSize { size: 0, ignored: false };
                }
                Body::ChunkSize { size, ignored } => {
                    let Some((byte, rest)) = data.split_first() else { return false };
                    data = rest;
                    match char::from(*byte).to_digit(16) {
                        _ if *byte == b'\n' => {
                            self.body = match *size {
                                0 => Body::Trailer { is_line_empty: true },
                                size => Body::Chunk { left: size + 2 },
                            };
                        }
                        Some(digit) if !*ignored => *size = *size * 16 + digit as usize,
                        _ => *ignored = true,
                    }
                }
                Body::Trailer { is_line_empty } => {
                    let Some((byte, rest)) = data.split_first() else { return false };
                    data = rest;
                    match byte {
                        b'\n' if *is_line_empty => return true,
                        b'\n' => *is_line_empty = true,
                        b'\r' => {}
                        _ => *is_line_empty = false,
                    }
                }
            }
        }
    }

    fn finish(&mut self, closed: bool) -> Answer {
        self.head.clear();
        self.body = Body::None;
        let mut answer = std::mem::take(&mut self.answer);
        answer.closes |= closed;
        answer
    }
}

/// Where the body begins.
fn head_end(data: &[u8]) -> Option<usize> {
    let mut from = 0;
    // The head's lines are few and its bytes many: from line end to line end.
    while let Some(at) = data[from..].iter().position(|b| *b == b'\n') {
        let next = from + at + 1;
        if data[next..].starts_with(b"\r\n") {
            return Some(next + 2);
        }
        from = next;
    }
    None
}

fn read_head(head: &[u8]) -> Result<(Answer, Body)> {
    let head = std::str::from_utf8(head).context("an answer's head")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok());
    let status = status.with_context(|| format!("no status line in {head:?}"))?;
    let mut answer = Answer { status, ..Answer::default() };
    let mut body = Body::UntilClosed;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            body = Body::Length(value.parse().context("content-length")?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            body = Body::ChunkSize { size: 0, ignored: false };
        } else if name.eq_ignore_ascii_case("connection") {
            answer.closes = value.eq_ignore_ascii_case("close");
        }
    }
    Ok((answer, body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Serves each answer to one request, in pieces of `piece` bytes, on one connection.
    fn serve(answers: Vec<&'static str>, piece: usize) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_nodelay(true).unwrap();
            let mut request = [0; 64];
            for answer in answers {
                let _ = stream.read(&mut request).unwrap();
                for bytes in answer.as_bytes().chunks(piece) {
                    stream.write_all(bytes).unwrap();
                }
            }
        });
        address
    }

    #[test]
    fn answers_are_read_whole_however_they_come() {
        let length = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                       a;x=1\r\n0123456789\r\n2\r\nab\r\n0\r\nX: y\r\n\r\n";
        let refused = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nno";
        for piece in [1, 7, 4096] {
            let address = serve(vec![length, chunked, length, refused], piece);
            let mut connection = Connection::open(address).unwrap();
            let mut buffer = [0; 4096];
            let mut statuses = Vec::new();
            while statuses.len() < 4 {
                connection.stream.write_all(b"x").unwrap();
                let answer = loop {
                    if let Some(answer) = connection.receive(&mut buffer).unwrap() {
                        break answer;
                    }
                };
                statuses.push((answer.status, answer.closes));
            }
            assert_eq!(statuses, [(200, false), (200, false), (200, false), (400, true)]);
        }
    }
}
