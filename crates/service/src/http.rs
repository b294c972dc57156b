//! The one port: HTTP/1.1 in front of the dispatcher.
//!
//! A request is read whole (at most [`MAX_BODY`] bytes), dispatched, and answered with a known
//! length. The answer's body is made of chunks that are shared, not copied.

use crate::dispatch::{self, Answer, Dispatcher, Request};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// Most bytes of a request body. RunInstances with its user data stays far below.
pub const MAX_BODY: usize = 2 << 20;

const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");

/// Serves connections until the listener fails for good.
pub async fn serve(listener: TcpListener, dispatcher: Arc<Dispatcher>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let dispatcher = Arc::clone(&dispatcher);
                tokio::spawn(connection(stream, dispatcher));
            }
            Err(error) => {
                // Out of descriptors, most likely: others must close first.
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, dispatcher: Arc<Dispatcher>) {
    let _ = stream.set_nodelay(true);
    let handler = service_fn(move |request| {
        let dispatcher = Arc::clone(&dispatcher);
        async move { Ok::<_, Infallible>(respond(request, &dispatcher).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), handler)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "connection");
    }
}

async fn respond(
    request: hyper::Request<Incoming>,
    dispatcher: &Dispatcher,
) -> hyper::Response<Chunks> {
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => {
            let mut response = response(dispatch::too_large(MAX_BODY));
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            return response;
        }
    };
    let headers: Vec<(&str, &[u8])> =
        head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let answer = dispatcher
        .dispatch(&Request {
            method: head.method.as_str(),
            path: head.uri.path(),
            query: head.uri.query().unwrap_or_default(),
            headers: &headers,
            body: &body,
        })
        .await;
    response(answer)
}

fn response(answer: Answer) -> hyper::Response<Chunks> {
    let mut response = hyper::Response::new(Chunks::of(answer.body));
    *response.status_mut() = hyper::StatusCode::from_u16(answer.status)
        .unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    if let Ok(content_type) = HeaderValue::from_str(&answer.content_type) {
        headers.insert(CONTENT_TYPE, content_type);
    }
    for (name, value) in answer.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.append(name, value);
        }
    }
    if let Ok(id) = HeaderValue::from_maybe_shared(answer.request_id) {
        headers.insert(REQUEST_ID, id);
    }
    response
}

/// A body of shared chunks.
#[derive(Debug)]
pub struct Chunks {
    chunks: VecDeque<Bytes>,
}

impl Chunks {
    /// Small chunks are joined: one write costs less than three.
    fn of(chunks: [Bytes; 3]) -> Self {
        const SMALL: usize = 8 << 10;
        let size = chunks.iter().map(Bytes::len).sum::<usize>();
        if (1..=SMALL).contains(&size) {
            return Chunks { chunks: [Bytes::from(chunks.concat())].into() };
        }
        Chunks { chunks: chunks.into_iter().filter(|chunk| !chunk.is_empty()).collect() }
    }
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.chunks.pop_front().map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.chunks.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.chunks.iter().map(|chunk| chunk.len() as u64).sum())
    }
}
