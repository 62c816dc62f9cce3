//! What HTTP clients need around JSON-RPC: browsers' cross-origin rules, and metrics.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use jsonrpsee::server::{HttpBody, HttpRequest, HttpResponse};
use tower::{BoxError, Layer, Service};

use super::Rpc;
use crate::metrics;

/// Adds the headers that let pages of any origin ask: everything here is public, and only signatures move money.
#[derive(Clone)]
pub(super) struct WebLayer {
    metrics: Option<Arc<Rpc>>,
}

impl WebLayer {
    /// `metrics` are shown at `GET /metrics` when there are any.
    pub(super) fn new(metrics: Option<Arc<Rpc>>) -> Self {
        Self { metrics }
    }
}

impl<S> Layer<S> for WebLayer {
    type Service = Web<S>;

    fn layer(&self, inner: S) -> Web<S> {
        Web { inner, metrics: self.metrics.clone() }
    }
}

/// See [`WebLayer`].
#[derive(Clone)]
pub(super) struct Web<S> {
    inner: S,
    metrics: Option<Arc<Rpc>>,
}

type Answer = Pin<Box<dyn Future<Output = Result<HttpResponse, BoxError>> + Send>>;

impl<S> Service<HttpRequest> for Web<S>
where
    S: Service<HttpRequest, Response = HttpResponse>,
    S::Error: Into<BoxError> + 'static,
    S::Future: Send + 'static,
{
    type Response = HttpResponse;
    type Error = BoxError;
    type Future = Answer;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: HttpRequest) -> Answer {
        let preflight = request.method() == "OPTIONS";
        let metrics = self.metrics.as_ref().filter(|_| request.method() == "GET" && request.uri().path() == "/metrics");
        if preflight || metrics.is_some() {
            let text = metrics.map(|rpc| metrics::text(rpc));
            return Box::pin(async move { Ok(with_headers(plain(text))) });
        }
        let answer = self.inner.call(request);
        Box::pin(async move { answer.await.map(with_headers).map_err(Into::into) })
    }
}

/// Text, or nothing at all.
fn plain(text: Option<String>) -> HttpResponse {
    let mut response = HttpResponse::new(text.map_or_else(HttpBody::empty, HttpBody::from));
    let kind = http_value("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert("content-type", kind);
    response
}

fn with_headers(mut response: HttpResponse) -> HttpResponse {
    let headers = response.headers_mut();
    headers.insert("access-control-allow-origin", http_value("*"));
    headers.insert("access-control-allow-methods", http_value("POST, GET, OPTIONS"));
    headers.insert("access-control-allow-headers", http_value("content-type"));
    headers.insert("access-control-max-age", http_value("86400"));
    response
}

fn http_value(text: &'static str) -> http::HeaderValue {
    http::HeaderValue::from_static(text)
}
