//! The instance metadata service, as a guest sees it at 169.254.169.254.
//!
//! [`answer`] decides, purely: a request, what the machine is, and the time go in, a response comes
//! out. This module carries it over HTTP: one server per VPC on a listener inside its namespace,
//! where the peer's address says which machine asks. The network drops spoofed addresses, so a
//! machine can only ask about itself.
//!
//! What it deliberately does not do: remember anything. Tokens carry their own proof ([`token`]),
//! so they are unlimited in number and outlive a restart of the daemon.

pub mod answer;
pub mod identity;
pub mod token;

use answer::{Answer, Request};
use base::Timestamp;
use base::machine::Spec;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

pub use token::new_key as new_token_key;

/// The machine that a request comes from.
#[derive(Clone, Debug)]
pub struct Subject {
    /// What is wanted of it, with its metadata.
    pub spec: Arc<Spec>,
    /// Secret behind its tokens.
    pub token_key: Vec<u8>,
}

/// Connections that one machine may have open; more are closed at once.
const CONNECTIONS: usize = 32;

/// How long a guest may take to send a request's head.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// IP TTL of everything but the answer to a token request.
const NORMAL_TTL: u32 = 64;

/// Header of a token's lifetime, in request and answer.
const TTL_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";

/// Serves until it is dropped. `find` says which machine has an address.
pub async fn serve<F>(listener: std::net::TcpListener, find: F, identity: Arc<identity::Signer>)
where
    F: Fn(Ipv4Addr) -> Option<Subject> + Send + Sync + 'static,
{
    let listener = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener));
    let listener = match listener {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the metadata service cannot listen");
            return;
        }
    };
    let find = Arc::new(find);
    let open: Arc<Mutex<HashMap<Ipv4Addr, usize>>> = Arc::default();
    // Connections end with their server.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: others must end first.
                tracing::warn!(%error, "the metadata service could not accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let IpAddr::V4(peer) = peer.ip().to_canonical() else { continue };
        let Some(place) = Place::take(&open, peer) else { continue };
        let (find, identity) = (Arc::clone(&find), Arc::clone(&identity));
        connections.spawn(async move {
            let _place = place;
            converse(stream, move || find(peer), &identity).await;
        });
    }
}

/// One of the connections that a peer may have.
struct Place {
    open: Arc<Mutex<HashMap<Ipv4Addr, usize>>>,
    peer: Ipv4Addr,
}

impl Place {
    fn take(open: &Arc<Mutex<HashMap<Ipv4Addr, usize>>>, peer: Ipv4Addr) -> Option<Place> {
        let mut counts = open.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let count = counts.entry(peer).or_default();
        if *count >= CONNECTIONS {
            return None;
        }
        *count += 1;
        Some(Place { open: Arc::clone(open), peer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.open.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(count) = counts.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.peer);
            }
        }
    }
}

async fn converse(
    stream: TcpStream,
    find: impl Fn() -> Option<Subject>,
    identity: &identity::Signer,
) {
    let socket = match stream.as_fd().try_clone_to_owned() {
        Ok(socket) => socket,
        Err(error) => {
            tracing::warn!(%error, "the metadata service is out of descriptors");
            return;
        }
    };
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let subject = find();
        let response = respond(&request, subject.as_ref(), identity, &socket);
        async move { Ok::<_, Infallible>(response) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(16 << 10)
        // A script that pipes its request into nc ends its side before the answer.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a metadata connection ended early");
    }
}

fn respond(
    request: &hyper::Request<Incoming>,
    subject: Option<&Subject>,
    identity: &identity::Signer,
    socket: &OwnedFd,
) -> hyper::Response<Full<Bytes>> {
    let headers = request.headers();
    let question = Request {
        method: request.method().as_str(),
        path: request.uri().path(),
        token: one(headers, "x-aws-ec2-metadata-token"),
        ttl: one(headers, TTL_HEADER),
        forwarded: headers.contains_key("x-forwarded-for"),
    };
    let answer = match subject {
        Some(subject) => answer::answer(&question, subject, identity, Timestamp::wall()),
        None => Answer::error(404),
    };
    let id = subject.map_or("", |subject| subject.spec.id.as_str());
    // The bench reads the first of these of an instance.
    tracing::debug!(id, question.method, question.path, answer.status, "metadata request");
    // The hop limit holds for the answer that carries a token; what came before it is sent.
    let hops = subject.map(|subject| u32::from(subject.spec.metadata.hop_limit.clamp(1, 64)));
    let ttl = hops.filter(|_| answer.token_ttl.is_some()).unwrap_or(NORMAL_TTL);
    if let Err(error) = rustix::net::sockopt::set_ip_ttl(socket, ttl) {
        tracing::warn!(%error, "the hop limit could not be set");
        return http(Answer::error(500));
    }
    http(answer)
}

/// A header's value, as bytes; what is there twice counts as rubbish.
fn one<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    Some(if values.next().is_some() { b"" } else { first.as_bytes() })
}

fn http(answer: Answer) -> hyper::Response<Full<Bytes>> {
    let mut response = hyper::Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = hyper::StatusCode::from_u16(answer.status)
        .unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::SERVER, HeaderValue::from_static("EC2ws"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    if let Some(ttl) = answer.token_ttl {
        headers.insert(TTL_HEADER, HeaderValue::from(ttl));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::machine::{Metadata, Wanted};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn subject() -> Subject {
        let mut metadata =
            Metadata { enabled: true, tokens_required: true, hop_limit: 1, ..Metadata::default() };
        metadata.leaves.insert("meta-data/instance-id".to_owned(), "i-1".to_owned());
        let spec = Spec {
            id: "i-1".to_owned(),
            region: "us-east-1".to_owned(),
            wanted: Wanted::Running { start: 1, reboots: 0 },
            image: "micro".to_owned(),
            vcpus: 1,
            memory_mib: 512,
            volumes: Vec::new(),
            forced_off: Vec::new(),
            forced_off_interfaces: Vec::new(),
            local_disks: Vec::new(),
            interfaces: Vec::new(),
            metadata,
        };
        Subject { spec: Arc::new(spec), token_key: new_token_key().to_vec() }
    }

    /// Sends a request and returns head and body of its answer.
    async fn ask(stream: &mut TcpStream, request: &str) -> (String, String) {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        loop {
            let mut bytes = [0; 4096];
            let count = stream.read(&mut bytes).await.unwrap();
            text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if body.len() == length.unwrap().parse::<usize>().unwrap() {
                    return (head.to_owned(), body.to_owned());
                }
            }
            assert!(count > 0, "the answer ended early: {text}");
        }
    }

    #[tokio::test]
    async fn over_http() {
        let data = tempfile::tempdir().unwrap();
        let signer = Arc::new(identity::Signer::open(data.path()).unwrap());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let subject = subject();
        let find = move |peer: Ipv4Addr| (peer == Ipv4Addr::LOCALHOST).then(|| subject.clone());
        let server = tokio::spawn(serve(listener, find, signer));

        let mut stream = TcpStream::connect(address).await.unwrap();
        let get = "GET /latest/meta-data/instance-id HTTP/1.1\r\nHost: x\r\n";
        let (head, _) = ask(&mut stream, &format!("{get}\r\n")).await;
        assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
        let put = "PUT /latest/api/token HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\
                   X-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n";
        let (head, token) = ask(&mut stream, put).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.contains("x-aws-ec2-metadata-token-ttl-seconds: 60"), "{head}");
        let with_token = format!("{get}X-aws-ec2-metadata-token: {token}\r\n");
        let (head, body) = ask(&mut stream, &format!("{with_token}\r\n")).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.contains("server: EC2ws"), "{head}");
        assert_eq!(body, "i-1");
        let twice = format!("{with_token}X-aws-ec2-metadata-token: {token}\r\n\r\n");
        assert!(ask(&mut stream, &twice).await.0.starts_with("HTTP/1.1 401 "));

        // Another address is nobody.
        let from = tokio::net::TcpSocket::new_v4().unwrap();
        from.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut stranger = from.connect(address).await.unwrap();
        let (head, _) = ask(&mut stranger, &format!("{get}\r\n")).await;
        assert!(head.starts_with("HTTP/1.1 404 "), "{head}");

        // A machine that hoards connections gets no more; others do.
        let mut hoard = Vec::new();
        for _ in 1..CONNECTIONS {
            hoard.push(TcpStream::connect(address).await.unwrap());
        }
        let mut surplus = TcpStream::connect(address).await.unwrap();
        assert_eq!(surplus.read(&mut [0; 1]).await.unwrap_or(0), 0, "it is closed");
        assert!(ask(&mut stranger, &format!("{get}\r\n")).await.0.starts_with("HTTP/1.1 404 "));
        server.abort();
    }

    /// Has the kernel drop what arrives with fewer hops left than this (ip(7), IP_MINTTL).
    fn take_from(stream: &TcpStream, ttl: libc::c_int) {
        let length = libc::socklen_t::try_from(size_of_val(&ttl)).unwrap();
        let value = (&raw const ttl).cast();
        let socket = std::os::fd::AsRawFd::as_raw_fd(stream);
        // SAFETY: `value` points to `ttl`, which lives on, and `length` is its size.
        let result =
            unsafe { libc::setsockopt(socket, libc::IPPROTO_IP, libc::IP_MINTTL, value, length) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }

    #[tokio::test]
    async fn a_token_travels_no_further_than_the_hop_limit() {
        let data = tempfile::tempdir().unwrap();
        let signer = Arc::new(identity::Signer::open(data.path()).unwrap());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let subject = subject();
        let server = tokio::spawn(serve(listener, move |_| Some(subject.clone()), signer));
        let mut stream = TcpStream::connect(address).await.unwrap();
        let put = "PUT /latest/api/token HTTP/1.1\r\nHost: x\r\n\
                   X-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n";
        let get = "GET /latest/ HTTP/1.1\r\nHost: x\r\n\r\n";
        // Two hops away it does not arrive; next door it does, when it is sent again.
        take_from(&stream, 2);
        let far = tokio::time::timeout(Duration::from_millis(300), ask(&mut stream, put)).await;
        assert!(far.is_err(), "{far:?}");
        take_from(&stream, 1);
        let (head, _) = ask(&mut stream, "").await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        // Everything else travels as far as anything.
        take_from(&stream, 64);
        let (head, _) = ask(&mut stream, get).await;
        assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
        server.abort();
    }
}
