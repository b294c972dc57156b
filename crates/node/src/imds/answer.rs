//! What the metadata service answers: a pure function.
//!
//! Sources of the rules: EC2 User Guide, "Retrieve instance metadata" and "How IMDSv2 works"; the
//! shape of listings is what cloud-init's crawler needs (`cloudinit/sources/helpers/ec2.py`): names
//! that end in `/` are directories, `0=name` below `public-keys` is the directory `0`, and every
//! name that is listed answers 200.

use super::{Subject, identity, token};
use base::Timestamp;
use base::machine::Metadata;
use std::borrow::Cow;
use std::collections::BTreeSet;

/// A request, as far as it matters.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// HTTP method.
    pub method: &'a str,
    /// Path, still percent-encoded.
    pub path: &'a str,
    /// X-aws-ec2-metadata-token.
    pub token: Option<&'a [u8]>,
    /// X-aws-ec2-metadata-token-ttl-seconds.
    pub ttl: Option<&'a [u8]>,
    /// Whether X-Forwarded-For is there: a proxy stands between, which must get no token.
    pub forwarded: bool,
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Content-Type.
    pub content_type: &'static str,
    /// Body.
    pub body: Vec<u8>,
    /// Lifetime of the token in the body, if it is one: a header of the answer, which must travel
    /// no further than the hop limit.
    pub token_ttl: Option<u32>,
}

impl Answer {
    fn text(body: impl Into<Vec<u8>>) -> Self {
        Answer { status: 200, content_type: "text/plain", body: body.into(), token_ttl: None }
    }

    /// AWS's page for an error.
    pub fn error(status: u16) -> Self {
        let reason = match status {
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            _ => "Internal Server Error",
        };
        let body = format!(
            r#"<?xml version="1.0" encoding="iso-8859-1"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN"
	"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en" lang="en">
 <head>
  <title>{status} - {reason}</title>
 </head>
 <body>
  <h1>{status} - {reason}</h1>
 </body>
</html>
"#
        );
        Answer { status, content_type: "text/html", body: body.into_bytes(), token_ttl: None }
    }
}

/// The versions, oldest first; all answer the same tree.
pub const VERSIONS: [&str; 29] = [
    "1.0",
    "2007-01-19",
    "2007-03-01",
    "2007-08-29",
    "2007-10-10",
    "2007-12-15",
    "2008-02-01",
    "2008-09-01",
    "2009-04-04",
    "2011-01-01",
    "2011-05-01",
    "2012-01-12",
    "2014-02-25",
    "2014-11-05",
    "2015-10-20",
    "2016-04-19",
    "2016-06-30",
    "2016-09-02",
    "2018-03-28",
    "2018-08-17",
    "2018-09-24",
    "2019-10-01",
    "2020-10-27",
    "2021-01-03",
    "2021-03-23",
    "2021-07-15",
    "2022-09-24",
    "2024-04-11",
    "latest",
];

/// The document and what is derived from it.
const DOCUMENT: &str = "dynamic/instance-identity/document";
const SIGNATURES: [&str; 3] = ["pkcs7", "rsa2048", "signature"];

/// Answers one request of `subject`. `now` is the wall's time, which guests live by.
pub fn answer(
    request: &Request<'_>,
    subject: &Subject,
    identity: &identity::Signer,
    now: Timestamp,
) -> Answer {
    let metadata = &subject.spec.metadata;
    if !metadata.enabled {
        return Answer::error(403);
    }
    let Some(path) = segments(request.path) else { return Answer::error(404) };
    let is_token = path.len() == 3 && path[1] == "api" && path[2] == "token";
    match request.method {
        "PUT" if is_token => return new_token(request, &path[0], subject, now),
        "GET" | "HEAD" if !is_token => {}
        _ => return Answer::error(405),
    }
    match request.token {
        None if metadata.tokens_required => return Answer::error(401),
        Some(token) if !token::is_valid(&subject.token_key, &subject.spec.id, token, now) => {
            return Answer::error(401);
        }
        _ => {}
    }
    let Some((version, path)) = path.split_first() else {
        return Answer::text(VERSIONS.join("\n"));
    };
    if !VERSIONS.contains(&version.as_ref()) {
        return Answer::error(404);
    }
    find(&path.join("/"), metadata, identity)
}

fn new_token(request: &Request<'_>, version: &str, subject: &Subject, now: Timestamp) -> Answer {
    // A proxy that was tricked into forwarding adds this header.
    if request.forwarded || version != "latest" {
        return Answer::error(403);
    }
    let ttl = request.ttl.and_then(|ttl| std::str::from_utf8(ttl).ok());
    let ttl = ttl.filter(|ttl| ttl.bytes().all(|b| b.is_ascii_digit()));
    let ttl = ttl.and_then(|ttl| ttl.parse().ok()).filter(|ttl| token::TTL.contains(ttl));
    let Some(ttl) = ttl else { return Answer::error(400) };
    let token = token::mint(&subject.token_key, &subject.spec.id, now, ttl);
    Answer { token_ttl: Some(ttl), ..Answer::text(token) }
}

/// The parts of a path, decoded; superfluous slashes do not count. `None` if it cannot be decoded.
fn segments(path: &str) -> Option<Vec<Cow<'_, str>>> {
    path.split('/').filter(|part| !part.is_empty()).map(decode).collect()
}

/// Undoes percent-encoding.
fn decode(part: &str) -> Option<Cow<'_, str>> {
    if !part.contains('%') {
        return Some(part.into());
    }
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = tail;
            continue;
        }
        let digits = tail.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// What stands at `path` below a version: a leaf or a listing.
fn find(path: &str, metadata: &Metadata, identity: &identity::Signer) -> Answer {
    if path == "user-data" {
        return match &metadata.user_data {
            Some(data) => {
                Answer { content_type: "application/octet-stream", ..Answer::text(data.clone()) }
            }
            None => Answer::error(404),
        };
    }
    if let Some(leaf) = metadata.leaves.get(path) {
        return Answer::text(leaf.as_str());
    }
    if let Some(name) = path.strip_prefix("dynamic/instance-identity/")
        && SIGNATURES.contains(&name)
        && let Some(document) = metadata.leaves.get(DOCUMENT)
    {
        let signed = match name {
            "signature" => identity.signature(document),
            _ => identity.pkcs7(document),
        };
        return signed.map_or_else(|_| Answer::error(500), Answer::text);
    }
    let listing = list(path, metadata);
    if listing.is_empty() {
        return Answer::error(404);
    }
    Answer::text(listing.into_iter().collect::<Vec<_>>().join("\n"))
}

/// The names in a directory.
fn list(path: &str, metadata: &Metadata) -> BTreeSet<String> {
    let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
    let below = metadata.leaves.range(prefix.clone()..);
    let below = below.map_while(|(leaf, text)| Some((leaf.strip_prefix(&prefix)?, text)));
    let mut names: BTreeSet<String> = below
        .map(|(rest, text)| match rest.split_once('/') {
            // Version directories list their children without slashes, as AWS's do.
            Some((name, _)) if path.is_empty() => name.to_owned(),
            Some((index, _)) if path == "meta-data/public-keys" => {
                format!("{index}={}", key_name(text))
            }
            Some((name, _)) => format!("{name}/"),
            None => rest.to_owned(),
        })
        .collect();
    if path.is_empty() && metadata.user_data.is_some() {
        names.insert("user-data".to_owned());
    }
    if prefix == "dynamic/instance-identity/" && metadata.leaves.contains_key(DOCUMENT) {
        names.extend(SIGNATURES.map(str::to_owned));
    }
    names
}

/// The name of a key pair is the comment of its public key, which is how EC2 writes `openssh-key`.
fn key_name(public_key: &str) -> &str {
    public_key.trim().splitn(3, ' ').nth(2).unwrap_or("key")
}

/// Reads arbitrary bytes as a request and answers it: the entry point of the fuzz target. The first
/// line is method and path; then token, lifetime and, if it is not empty, the forwarding header.
pub fn fuzz(bytes: &[u8], subject: &Subject, identity: &identity::Signer) -> Answer {
    let mut parts = bytes.split(|byte| *byte == b'\n');
    let first = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let (method, path) = first.split_once(' ').unwrap_or(("GET", &first));
    let token = parts.next().filter(|part| !part.is_empty());
    let ttl = parts.next().filter(|part| !part.is_empty());
    let forwarded = parts.next().is_some_and(|part| !part.is_empty());
    let request = Request { method, path, token, ttl, forwarded };
    answer(&request, subject, identity, Timestamp(1_795_255_223_045))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::machine::{Spec, Wanted};
    use proptest::prelude::*;
    use std::sync::{Arc, OnceLock};

    const NOW: Timestamp = Timestamp(1_795_255_223_045);

    fn signer() -> &'static identity::Signer {
        static SIGNER: OnceLock<identity::Signer> = OnceLock::new();
        SIGNER.get_or_init(|| {
            let data = tempfile::tempdir().unwrap();
            identity::Signer::open(data.path()).unwrap()
        })
    }

    fn subject() -> Subject {
        let mut metadata = Metadata { enabled: true, hop_limit: 2, ..Metadata::default() };
        for (path, text) in [
            ("meta-data/ami-id", "ami-1"),
            ("meta-data/instance-id", "i-1"),
            ("meta-data/block-device-mapping/root", "/dev/xvda"),
            ("meta-data/network/interfaces/macs/0a:00:00:00:00:01/device-number", "0"),
            ("meta-data/public-keys/0/openssh-key", "ssh-ed25519 AAAA my key"),
            ("meta-data/services/domain", "amazonaws.com"),
            ("meta-data/tags/instance/a b", "tagged"),
            ("dynamic/instance-identity/document", "{}"),
        ] {
            metadata.leaves.insert(path.to_owned(), text.to_owned());
        }
        metadata.user_data = Some(b"#!/bin/sh\n\xff".to_vec());
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
        Subject { spec: Arc::new(spec), token_key: vec![7; 32] }
    }

    fn with(change: impl FnOnce(&mut Metadata)) -> Subject {
        let mut subject = subject();
        change(&mut Arc::make_mut(&mut subject.spec).metadata);
        subject
    }

    fn request<'a>(method: &'a str, path: &'a str) -> Request<'a> {
        Request { method, path, token: None, ttl: None, forwarded: false }
    }

    fn ask(subject: &Subject, request: Request<'_>) -> Answer {
        answer(&request, subject, signer(), NOW)
    }

    fn get(path: &str) -> (u16, String) {
        let answer = ask(&subject(), request("GET", path));
        (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
    }

    fn body(path: &str) -> String {
        let (status, body) = get(path);
        assert_eq!(status, 200, "{path}");
        body
    }

    #[test]
    fn leaves_and_listings() {
        assert!(body("/").starts_with("1.0\n2007-01-19\n") && body("/").ends_with("\nlatest"));
        assert_eq!(body("/latest"), "dynamic\nmeta-data\nuser-data");
        assert_eq!(body("/latest/"), body("/1.0/"));
        let top = body("/latest/meta-data/");
        assert_eq!(
            top,
            "ami-id\nblock-device-mapping/\ninstance-id\nnetwork/\npublic-keys/\nservices/\ntags/"
        );
        assert_eq!(body("/2021-03-23/meta-data"), top);
        assert_eq!(body("/latest/meta-data/instance-id/"), "i-1");
        assert_eq!(body("//latest//meta-data/instance-id"), "i-1");
        assert_eq!(body("/latest/meta-data/public-keys/"), "0=my key");
        assert_eq!(body("/latest/meta-data/public-keys/0/"), "openssh-key");
        assert_eq!(body("/latest/meta-data/tags/instance/a%20b"), "tagged");
        assert_eq!(
            body("/latest/dynamic/instance-identity/"),
            "document\npkcs7\nrsa2048\nsignature"
        );
        let data = ask(&subject(), request("GET", "/latest/user-data"));
        assert_eq!(data.body, b"#!/bin/sh\n\xff");
        assert_eq!(data.content_type, "application/octet-stream");
        for absent in [
            "/x",
            "/2020-01-01/meta-data/",
            "/latest/meta-data/spot/instance-action",
            "/latest/meta-data/spot/",
            "/latest/meta-data/instance-id/x",
            "/latest/meta-data/inst",
            "/latest/meta-data/%",
            "/latest/meta-data/%zz",
            "/latest/meta-data/%ff",
            "/latest/../latest",
            "/latest/dynamic/instance-identity/other",
        ] {
            let (status, page) = get(absent);
            assert_eq!(status, 404, "{absent}");
            assert!(page.contains("<title>404 - Not Found</title>"), "{page}");
        }
        let bare = with(|metadata| {
            metadata.user_data = None;
            metadata.leaves.remove(DOCUMENT);
        });
        assert_eq!(ask(&bare, request("GET", "/latest/user-data")).status, 404);
        assert_eq!(ask(&bare, request("GET", "/latest")).body, b"meta-data");
        let signature = request("GET", "/latest/dynamic/instance-identity/signature");
        assert_eq!(ask(&bare, signature).status, 404);
    }

    #[test]
    fn tokens() {
        let put = |ttl: &'static str| Request {
            ttl: Some(ttl.as_bytes()),
            ..request("PUT", "/latest/api/token")
        };
        let made = ask(&subject(), put("21600"));
        assert_eq!((made.status, made.token_ttl), (200, Some(21_600)));
        for bad in ["0", "21601", "", "+5", "5 ", "abc", "99999999999", "-1"] {
            assert_eq!(ask(&subject(), put(bad)).status, 400, "{bad}");
        }
        assert_eq!(ask(&subject(), request("PUT", "/latest/api/token")).status, 400);
        assert_eq!(ask(&subject(), Request { forwarded: true, ..put("60") }).status, 403);
        assert_eq!(
            ask(&subject(), Request { path: "/2021-03-23/api/token", ..put("60") }).status,
            403
        );

        let required = with(|metadata| metadata.tokens_required = true);
        let get = |token: &[u8], at: Timestamp, subject: &Subject| {
            let request = request("GET", "/latest/meta-data/instance-id");
            answer(&Request { token: Some(token), ..request }, subject, signer(), at).status
        };
        assert_eq!(ask(&required, request("GET", "/latest/meta-data/")).status, 401);
        assert_eq!(ask(&required, put("60")).status, 200, "a token needs no token");
        assert_eq!(get(&made.body, NOW, &required), 200);
        assert_eq!(get(&made.body, NOW.plus_millis(21_600_000), &required), 401);
        assert_eq!(get(b"rubbish", NOW, &subject()), 401, "a bad token is worse than none");
        let mut other = required.clone();
        Arc::make_mut(&mut other.spec).id = "i-2".to_owned();
        assert_eq!(get(&made.body, NOW, &other), 401);
    }

    #[test]
    fn methods_and_switches() {
        for (method, path) in [
            ("POST", "/latest/meta-data/"),
            ("DELETE", "/latest/api/token"),
            ("GET", "/latest/api/token"),
            ("PUT", "/latest/meta-data/instance-id"),
            ("OPTIONS", "/"),
        ] {
            assert_eq!(ask(&subject(), request(method, path)).status, 405, "{method} {path}");
        }
        let off = with(|metadata| metadata.enabled = false);
        for (method, path) in
            [("GET", "/"), ("GET", "/latest/user-data"), ("PUT", "/latest/api/token")]
        {
            assert_eq!(ask(&off, request(method, path)).status, 403);
        }
    }

    /// Walks as cloud-init does: everything that is listed must be there.
    #[test]
    fn every_listed_name_answers() {
        fn crawl(base: &str, seen: &mut Vec<String>) {
            for line in body(base).lines() {
                let name = match line.split_once('=') {
                    Some((index, _)) if base.ends_with("public-keys/") => format!("{index}/"),
                    _ => line.to_owned(),
                };
                let path = format!("{base}{name}");
                if name.ends_with('/') {
                    crawl(&path, seen);
                } else {
                    body(&path);
                    seen.push(path);
                }
            }
        }
        for version in ["2021-03-23", "latest"] {
            let mut seen = Vec::new();
            crawl(&format!("/{version}/meta-data/"), &mut seen);
            crawl(&format!("/{version}/dynamic/"), &mut seen);
            assert_eq!(seen.len(), 7 + 4, "{seen:?}");
        }
    }

    #[test]
    fn the_fuzz_corpus_is_answered() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/imds");
        let mut count = 0;
        for entry in std::fs::read_dir(corpus).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            let answer = fuzz(&bytes, &subject(), signer());
            assert!([200, 400, 401, 403, 404, 405].contains(&answer.status));
            count += 1;
        }
        assert!(count >= 5, "{count} files in {corpus}");
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let answer = fuzz(&bytes, &subject(), signer());
            prop_assert!([200, 400, 401, 403, 404, 405].contains(&answer.status));
        }

        #[test]
        fn no_path_panics(path in "(/?(latest|meta-data|%[0-9a-g]{0,2}|public-keys|0|[a-z.]{0,3}))*") {
            let status = ask(&subject(), request("GET", &path)).status;
            prop_assert!(matches!(status, 200 | 404 | 405), "{} {}", path, status);
        }
    }
}
