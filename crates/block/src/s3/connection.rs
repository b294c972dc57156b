//! Connections to the endpoint: kept while idle, each used for one request at a time.

use super::{MOST_ANSWER_BYTES, S3Config};
use crate::blob::{Error, Result};
use crate::sync::lock;
use base::Timestamp;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_LENGTH, HOST};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use std::sync::Mutex;
use std::time::Duration;
use tokio::net::TcpStream;
use wire::sigv4::{Credentials, RequestParts, Rules, Signer};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For a whole request and its answer: half a MiB each at most.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Idle connections that are kept.
const IDLE: usize = 32;

/// A request before it is signed. Path and query are percent-encoded.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) body: Bytes,
}

/// What came back, all of it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Content-Length, which a HEAD has without a body.
    pub(super) length: Option<u64>,
    pub(super) body: Bytes,
}

impl Answer {
    /// Whether the same request may be answered otherwise a little later.
    pub(super) fn is_temporary(&self) -> bool {
        matches!(self.status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
    }

    /// Whether it is the S3 error `code`.
    pub(super) fn means(&self, code: &str) -> bool {
        wire::xml::parse(&self.body)
            .is_ok_and(|error| error.child("Code").is_some_and(|node| node.text == code))
    }
}

/// Nothing came back; why.
#[derive(Debug)]
pub(super) struct Failure(pub(super) String);

#[derive(Debug)]
pub(super) struct Connections {
    authority: String,
    host: String,
    port: u16,
    config: S3Config,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Connections {
    pub(super) fn new(config: &S3Config) -> Result<Self> {
        let refuse = |why: &str| Error::Invalid(format!("endpoint {}: {why}", config.endpoint));
        let uri: Uri = config.endpoint.parse().map_err(|_| refuse("it is not http://host:port"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(refuse("TLS is not supported; put a proxy in front and use http://"));
            }
            _ => return Err(refuse("it is not http://host:port")),
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(refuse("it must not have a path"));
        }
        let authority = uri.authority().ok_or_else(|| refuse("it names no host"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        Ok(Connections {
            authority: authority.as_str().to_owned(),
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(80),
            config: config.clone(),
            idle: Mutex::default(),
        })
    }

    /// One attempt.
    pub(super) async fn send(&self, question: &Question) -> Result<Answer, Failure> {
        match tokio::time::timeout(REQUEST_TIMEOUT, self.attempt(question)).await {
            Ok(result) => result,
            Err(_) => Err(Failure(format!("{} did not answer in time", self.authority))),
        }
    }

    async fn attempt(&self, question: &Question) -> Result<Answer, Failure> {
        let failed = |error: hyper::Error| Failure(format!("{}: {error}", self.authority));
        let mut connection = self.connection().await?;
        let request = self.signed(question)?;
        let answer = connection.send_request(request).await.map_err(failed)?;
        let status = answer.status();
        let length = answer
            .headers()
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let body = Limited::new(answer.into_body(), MOST_ANSWER_BYTES)
            .collect()
            .await
            .map_err(|error| Failure(format!("{}: {error}", self.authority)))?
            .to_bytes();
        let mut idle = lock(&self.idle);
        if idle.len() < IDLE {
            idle.push(connection);
        }
        Ok(Answer { status, length, body })
    }

    async fn connection(&self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        loop {
            let Some(mut idle) = lock(&self.idle).pop() else { break };
            if !idle.is_closed() && idle.ready().await.is_ok() {
                return Ok(idle);
            }
        }
        let failed =
            |error: &dyn std::fmt::Display| Failure(format!("{}: {error}", self.authority));
        let connect = TcpStream::connect((&*self.host, self.port));
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect)
            .await
            .map_err(|_| failed(&"no connection in time"))?
            .map_err(|error| failed(&error))?;
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
        // Ends with the sender; its error is the request's.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn signed(&self, question: &Question) -> Result<Request<Full<Bytes>>, Failure> {
        let parts = RequestParts {
            method: question.method.as_str(),
            path: &question.path,
            query: &question.query,
            headers: &[("host", self.authority.as_bytes())],
            body: &question.body,
        };
        let signer = Signer {
            credentials: Credentials {
                access_key_id: &self.config.access_key_id,
                secret_access_key: &self.config.secret_access_key,
                session_token: None,
            },
            region: &self.config.region,
            service: "s3",
            rules: Rules::OBJECT_STORAGE,
        };
        let target = match &*question.query {
            "" => question.path.clone(),
            query => format!("{}?{query}", question.path),
        };
        let mut request = Request::builder()
            .method(question.method.clone())
            .uri(target)
            .header(HOST, &self.authority);
        for (name, value) in signer.headers(&parts, Timestamp::wall()) {
            request = request.header(name, value);
        }
        request
            .body(Full::new(question.body.clone()))
            .map_err(|error| Failure(format!("the request cannot be spelt: {error}")))
    }
}
