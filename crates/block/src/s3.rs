//! Blobs as objects of a bucket behind an S3-compatible endpoint.
//!
//! Path-style requests over HTTP/1.1, signed with Signature Version 4, by a runtime of its own: the
//! calling thread waits, whether it belongs to another runtime or to none. All requests are
//! idempotent, so what fails on the way or with a 5xx is tried again, later each time.
//!
//! Deliberately not here: TLS (an `https://` endpoint is refused; a proxy beside the daemon can add
//! it), making the bucket, storage classes, multipart uploads (a blob is small).

mod connection;

use crate::blob::{Blob, BlobStore, Error, Id, MOST_BYTES, Result, check_length, verified};
use crate::sync::lock;
use connection::{Answer, Connections, Failure, Question};
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use tokio::runtime::Runtime;

/// How often a request is sent before its error is the caller's.
const ATTEMPTS: u32 = 6;
/// The pause before the second attempt; it doubles each time. All pauses together: about 3 s.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// Where the bucket is and who asks.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Config {
    /// `http://host:port`.
    pub endpoint: String,
    /// The bucket, which must be there.
    pub bucket: String,
    /// Region of the signatures.
    pub region: String,
    /// Access key.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: String,
    /// What the names of the objects begin with, such as `gureum/`.
    #[serde(default)]
    pub prefix: String,
}

impl fmt::Debug for S3Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Config")
            .field("endpoint", &self.endpoint)
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// See the module.
pub struct S3 {
    connections: Arc<Connections>,
    /// Always there but in `drop`.
    runtime: Option<Runtime>,
    bucket: String,
    prefix: String,
    writable: bool,
    /// Found damaged: the next put of the same content replaces them.
    damaged: Mutex<HashSet<Id>>,
}

/// A page of a listing.
struct Listing {
    /// Names and sizes, bytes.
    objects: Vec<(String, u64)>,
    /// Where the next page begins, if there is one.
    next: Option<String>,
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3")
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        // Not waited for: this may be a thread of another runtime, which must not block.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl S3 {
    /// Connects, and proves that the bucket can be listed.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a configuration that makes no sense, [`Error::Remote`].
    pub fn open(config: &S3Config) -> Result<Self> {
        let store = S3::connect(config, true)?;
        store.page(1, None)?;
        Ok(store)
    }

    /// The same without a proof: the endpoint may be away.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn open_again(config: &S3Config) -> Result<Self> {
        S3::connect(config, true)
    }

    /// As [`S3::open`], to read only: puts and deletes answer an error.
    ///
    /// # Errors
    /// As [`S3::open`].
    pub fn open_read_only(config: &S3Config) -> Result<Self> {
        let store = S3::connect(config, false)?;
        store.page(1, None)?;
        Ok(store)
    }

    fn connect(config: &S3Config, writable: bool) -> Result<Self> {
        if config.bucket.is_empty() {
            return Err(Error::Invalid("the object store has no bucket".to_owned()));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("object-store")
            .enable_all()
            .build()?;
        Ok(S3 {
            connections: Arc::new(Connections::new(config)?),
            runtime: Some(runtime),
            bucket: config.bucket.clone(),
            prefix: config.prefix.clone(),
            writable,
            damaged: Mutex::default(),
        })
    }

    fn check_writable(&self) -> Result<()> {
        if self.writable {
            return Ok(());
        }
        Err(Error::Remote("the object store was opened to read only".to_owned()))
    }

    fn object(&self, method: Method, id: Id, body: &[u8]) -> Result<Answer> {
        let name = format!("{}{id}", self.prefix);
        self.send(Question {
            method,
            path: format!("/{}/{}", encoded(&self.bucket, false), encoded(&name, false)),
            query: String::new(),
            body: body.to_vec().into(),
        })
    }

    /// Sends until there is an answer that another attempt would not better.
    fn send(&self, question: Question) -> Result<Answer> {
        let Some(runtime) = &self.runtime else {
            return Err(Error::Remote("the object store is closed".to_owned()));
        };
        let (tell, told) = mpsc::sync_channel(1);
        let connections = Arc::clone(&self.connections);
        runtime.spawn(async move {
            let _ = tell.send(send_again(&connections, &question).await);
        });
        match told.recv() {
            Ok(result) => result,
            Err(mpsc::RecvError) => Err(Error::Remote("the request was dropped".to_owned())),
        }
    }

    /// A page of the listing, from where the page before said.
    fn page(&self, most: u32, from: Option<&str>) -> Result<Listing> {
        let mut query = format!("list-type=2&max-keys={most}");
        if let Some(token) = from {
            query.push_str("&continuation-token=");
            query.push_str(&encoded(token, true));
        }
        query.push_str("&prefix=");
        query.push_str(&encoded(&self.prefix, true));
        let path = format!("/{}", encoded(&self.bucket, false));
        let answer =
            self.send(Question { method: Method::GET, path, query, body: Default::default() })?;
        if answer.status != StatusCode::OK {
            return Err(refused(&answer));
        }
        let bad = |why: &str| Error::Remote(format!("the listing cannot be read: {why}"));
        let list = wire::xml::parse(&answer.body).map_err(|error| bad(&error.to_string()))?;
        let mut objects = Vec::new();
        for node in list.children.iter().filter(|node| node.name == "Contents") {
            let name = node.child("Key").ok_or_else(|| bad("no key"))?.text.clone();
            let size = node.child("Size").and_then(|size| size.text.trim().parse().ok());
            objects.push((name, size.ok_or_else(|| bad("no size"))?));
        }
        let more = list.child("IsTruncated").is_some_and(|node| node.text.trim() == "true");
        let token = list.child("NextContinuationToken").map(|node| node.text.clone());
        match (more, token) {
            (true, None) => Err(bad("no continuation token")),
            (true, next) => Ok(Listing { objects, next }),
            (false, _) => Ok(Listing { objects, next: None }),
        }
    }
}

async fn send_again(connections: &Connections, question: &Question) -> Result<Answer> {
    let mut pause = FIRST_PAUSE;
    let mut attempt = 1;
    loop {
        let why = match connections.send(question).await {
            Ok(answer) if answer.status == StatusCode::INSUFFICIENT_STORAGE => {
                return Err(Error::Full);
            }
            Ok(answer) if answer.is_temporary() && attempt == ATTEMPTS => {
                return Err(refused(&answer));
            }
            Ok(answer) if answer.is_temporary() => answer.status.to_string(),
            Ok(answer) => return Ok(answer),
            Err(Failure(why)) if attempt == ATTEMPTS => return Err(Error::Remote(why)),
            Err(Failure(why)) => why,
        };
        tracing::warn!(attempt, why, "the object store did not answer: once more");
        // Between half and all of it, so that many threads do not come back as one.
        tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        pause *= 2;
        attempt += 1;
    }
}

/// The error of an answer that is none that we asked for.
fn refused(answer: &Answer) -> Error {
    let text = |names: &[&str]| {
        wire::xml::parse(&answer.body)
            .ok()
            .and_then(|node| node.path(names).map(|node| node.text.clone()))
            .unwrap_or_default()
    };
    Error::Remote(format!("{} {} {}", answer.status, text(&["Code"]), text(&["Message"])))
}

/// Percent-encoded as S3 signs it; a path keeps its slashes.
fn encoded(text: &str, slash: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b'/' if !slash => out.push('/'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

impl BlobStore for S3 {
    fn put(&self, blob: &Blob<'_>) -> Result<bool> {
        self.check_writable()?;
        check_length(blob)?;
        let id = blob.id();
        let whole = self.stored(id)? == Some(blob.bytes().len() as u64);
        if whole && !lock(&self.damaged).contains(&id) {
            return Ok(false);
        }
        let answer = self.object(Method::PUT, id, blob.bytes())?;
        if answer.status != StatusCode::OK {
            return Err(refused(&answer));
        }
        lock(&self.damaged).remove(&id);
        Ok(true)
    }

    fn get(&self, id: Id) -> Result<Vec<u8>> {
        let answer = self.object(Method::GET, id, b"")?;
        match answer.status {
            StatusCode::OK => {
                let bytes = verified(id, answer.body.into());
                if bytes.is_err() {
                    lock(&self.damaged).insert(id);
                }
                bytes
            }
            StatusCode::NOT_FOUND if answer.means("NoSuchKey") => Err(Error::NotFound(id)),
            _ => Err(refused(&answer)),
        }
    }

    fn stored(&self, id: Id) -> Result<Option<u64>> {
        let answer = self.object(Method::HEAD, id, b"")?;
        match answer.status {
            StatusCode::OK => answer
                .length
                .map(Some)
                .ok_or_else(|| Error::Remote("an object without a length".to_owned())),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(refused(&answer)),
        }
    }

    fn list(&self, visit: &mut dyn FnMut(Id, u64) -> ControlFlow<()>) -> Result<()> {
        let mut from = None;
        loop {
            let page = self.page(1000, from.as_deref())?;
            for (name, size) in page.objects {
                let id = name.strip_prefix(&*self.prefix).and_then(|name| name.parse().ok());
                // Other objects below the prefix are not ours.
                if let Some(id) = id
                    && visit(id, size).is_break()
                {
                    return Ok(());
                }
            }
            match page.next {
                Some(token) => from = Some(token),
                None => return Ok(()),
            }
        }
    }

    fn delete(&self, id: Id) -> Result<()> {
        self.check_writable()?;
        let answer = self.object(Method::DELETE, id, b"")?;
        match answer.status {
            StatusCode::OK | StatusCode::NO_CONTENT => Ok(()),
            StatusCode::NOT_FOUND if answer.means("NoSuchKey") => Ok(()),
            _ => Err(refused(&answer)),
        }
    }
}

/// The longest answer: a blob, or a page of a listing.
const MOST_ANSWER_BYTES: usize = MOST_BYTES + (1 << 20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_as_they_are_signed() {
        assert_eq!(encoded("a b/c+é", false), "a%20b/c%2B%C3%A9");
        assert_eq!(encoded("a/b=", true), "a%2Fb%3D");
    }

    #[test]
    fn the_secret_is_not_shown() {
        let config = config("http://127.0.0.1:1");
        assert!(!format!("{config:?}").contains("secret"));
    }

    #[test]
    fn endpoints_that_cannot_be_are_refused() {
        for (endpoint, why) in [
            ("https://s3.example", "TLS"),
            ("ftp://host", "http://"),
            ("host:80", "http://"),
            ("http://host/path", "path"),
        ] {
            let error = S3::open(&config(endpoint)).unwrap_err();
            assert!(matches!(error, Error::Invalid(_)), "{endpoint}: {error}");
            assert!(error.to_string().contains(why), "{endpoint}: {error}");
        }
    }

    pub(super) fn config(endpoint: &str) -> S3Config {
        S3Config {
            endpoint: endpoint.to_owned(),
            bucket: "blobs".to_owned(),
            region: "us-east-1".to_owned(),
            access_key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_access_key: "secret".to_owned(),
            prefix: "a prefix/".to_owned(),
        }
    }
}
