//! Object stores to test against: a small one of our own, which verifies signatures and fails when
//! told to, and moto's.

use base::Timestamp;
use block::S3Config;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use wire::sigv4::{RequestParts, Rules, SigningKey, parse, verify};

const SECRET: &str = "the secret";

/// How the next requests are treated, first things first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// As is right.
    Serve,
    /// This status.
    Status(u16),
    /// The connection is closed without an answer.
    HangUp,
    /// Half of the body that was announced, then the end.
    Half,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Vec<u8>>,
    treatments: Vec<Treatment>,
    requests: usize,
}

/// A bucket `blobs` on a port of this machine.
#[derive(Clone, Debug)]
pub struct Bucket {
    state: Arc<Mutex<State>>,
    endpoint: String,
}

impl Bucket {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let bucket = Bucket { state: Arc::default(), endpoint };
        let served = bucket.clone();
        // Ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let bucket = served.clone();
                std::thread::spawn(move || bucket.serve(stream.unwrap()));
            }
        });
        bucket
    }

    pub fn config(&self) -> S3Config {
        config(&self.endpoint, "a prefix/")
    }

    pub fn treat(&self, treatments: &[Treatment]) {
        self.state.lock().unwrap().treatments = treatments.iter().rev().copied().collect();
    }

    pub fn requests(&self) -> usize {
        self.state.lock().unwrap().requests
    }

    /// Changes the bytes of every object.
    pub fn damage(&self) {
        for bytes in self.state.lock().unwrap().objects.values_mut() {
            bytes[0] ^= 1;
        }
    }

    pub fn add(&self, name: &str, bytes: &[u8]) {
        self.state.lock().unwrap().objects.insert(name.to_owned(), bytes.to_vec());
    }

    fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut stream = stream;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
            let mut words = line.split(' ');
            let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
            let mut headers = Vec::new();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).ok()?;
                let Some((name, value)) = line.trim_end().split_once(':') else { break };
                headers.push((name.to_owned(), value.trim().to_owned()));
            }
            let length = headers
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .map_or(0, |(_, value)| value.parse().unwrap());
            let mut body = vec![0; length];
            reader.read_exact(&mut body).ok()?;
            let treatment = {
                let mut state = self.state.lock().unwrap();
                state.requests += 1;
                state.treatments.pop().unwrap_or(Treatment::Serve)
            };
            let (status, answer) = match treatment {
                Treatment::HangUp => return None,
                Treatment::Status(status) => (status, b"<Error><Code>Busy</Code></Error>".to_vec()),
                Treatment::Serve | Treatment::Half => {
                    match check_signature(&method, &target, &headers, &body) {
                        Err(why) => (403, format!("<Error><Code>{why}</Code></Error>").into()),
                        Ok(()) => self.answer(&method, &target, body),
                    }
                }
            };
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", answer.len());
            stream.write_all(head.as_bytes()).ok()?;
            if treatment == Treatment::Half {
                stream.write_all(&answer[..answer.len() / 2]).ok()?;
                return None;
            }
            if method != "HEAD" {
                stream.write_all(&answer).ok()?;
            }
        }
    }

    fn answer(&self, method: &str, target: &str, body: Vec<u8>) -> (u16, Vec<u8>) {
        let mut state = self.state.lock().unwrap();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = decoded(path);
        let Some(name) = path.strip_prefix("/blobs") else {
            return (404, b"<Error><Code>NoSuchBucket</Code></Error>".to_vec());
        };
        let name = name.trim_start_matches('/');
        let missing = (404, b"<Error><Code>NoSuchKey</Code></Error>".to_vec());
        match method {
            "GET" if name.is_empty() => (200, list(&state.objects, query).into()),
            "GET" | "HEAD" => state.objects.get(name).map_or(missing, |o| (200, o.clone())),
            "PUT" => {
                state.objects.insert(name.to_owned(), body);
                (200, Vec::new())
            }
            "DELETE" => {
                state.objects.remove(name);
                (204, Vec::new())
            }
            _ => (405, Vec::new()),
        }
    }
}

/// Two objects a page, so that every listing goes on.
fn list(objects: &BTreeMap<String, Vec<u8>>, query: &str) -> String {
    let query: BTreeMap<_, _> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name, decoded(value)))
        .collect();
    assert_eq!(query["list-type"], "2");
    let from = query.get("continuation-token").map(|token| token.trim_start_matches("after/+ "));
    let mut found: Vec<_> = objects
        .iter()
        .filter(|(name, _)| name.starts_with(&query["prefix"]))
        .filter(|(name, _)| from.is_none_or(|from| name.as_str() > from))
        .take(3)
        .collect();
    let more = found.len() > 2;
    found.truncate(2);
    let mut text = format!("<ListBucketResult><IsTruncated>{more}</IsTruncated>");
    for (name, bytes) in &found {
        text += &format!("<Contents><Key>{name}</Key><Size>{}</Size></Contents>", bytes.len());
    }
    if let (true, Some((name, _))) = (more, found.last()) {
        text += &format!("<NextContinuationToken>after/+ {name}</NextContinuationToken>");
    }
    text + "</ListBucketResult>"
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).unwrap()
}

fn check_signature(
    method: &str,
    target: &str,
    headers: &[(String, String)],
    body: &[u8],
) -> Result<(), String> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers: Vec<(&str, &[u8])> =
        headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let parts = RequestParts { method, path, query, headers: &headers, body };
    let claim = parse(&parts).map_err(|error| error.to_string())?;
    let day = Timestamp::wall().format("%Y%m%d");
    let key = SigningKey::derive(SECRET, &day, "us-east-1", "s3");
    verify(&parts, &claim, &key, Rules::OBJECT_STORAGE, Timestamp::wall())
        .map_err(|error| error.to_string())
}

fn config(endpoint: &str, prefix: &str) -> S3Config {
    S3Config {
        endpoint: endpoint.to_owned(),
        bucket: "blobs".to_owned(),
        region: "us-east-1".to_owned(),
        access_key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
        secret_access_key: SECRET.to_owned(),
        prefix: prefix.to_owned(),
    }
}

/// moto's server with a bucket; ends when dropped.
pub struct Moto {
    child: Child,
    pub config: S3Config,
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Python that has moto's server: the tests' environments first.
fn python() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    [
        target.join("test-venv/bin/python"),
        target.join("bench-venv/bin/python"),
        PathBuf::from("python3"),
    ]
    .into_iter()
    .find(|python| {
        let mut command = Command::new(python);
        command.args(["-c", "import moto.server, flask"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    })
}

/// `None`, with a word why, when moto is not here.
pub fn moto() -> Option<Moto> {
    let Some(python) = python() else {
        println!(
            "skipped: no Python with moto[server] in target/test-venv, bench-venv or the PATH"
        );
        return None;
    };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let child = Command::new(python)
        .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let moto = Moto { child, config: config(&format!("http://127.0.0.1:{port}"), "gureum/") };
    let deadline = Instant::now() + Duration::from_secs(60);
    while !make_bucket(port) {
        assert!(Instant::now() < deadline, "moto did not answer");
        std::thread::sleep(Duration::from_millis(50));
    }
    Some(moto)
}

/// moto asks nobody for a signature.
fn make_bucket(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let request = format!(
        "PUT /blobs HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20261121/us-east-1/s3/aws4_request, \
         SignedHeaders=host, Signature=0\r\nConnection: close\r\n\r\n"
    );
    let mut answer = String::new();
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer.starts_with("HTTP/1.1 200")
}
