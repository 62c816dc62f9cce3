//! The page to look at: `http://localhost:8088/` shows the region live.
//!
//! Rendered on the server and readable without JavaScript; a small script replaces the content every two seconds. The page
//! only reads, asks at most once a second for all its viewers together, and loads nothing from anywhere else: its
//! Content-Security-Policy forbids it. Everything that comes from the ledger or the nodes is text of strangers: `maud` escapes
//! it, and links are made of checked names only.

mod page;
mod snapshot;
mod source;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};

pub(crate) use source::Source;

/// What every answer carries. Only our own style, script and picture; no frames, no forms.
const HEADERS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// The page and what it needs.
pub(crate) fn router(source: Source) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/style.css", get(async || file("text/css; charset=utf-8", include_str!("style.css"))))
        .route("/live.js", get(async || file("text/javascript; charset=utf-8", include_str!("live.js"))))
        .route("/icon.svg", get(async || file("image/svg+xml", include_str!("icon.svg"))))
        .fallback(async || {
            answer(StatusCode::NOT_FOUND, "text/html; charset=utf-8", page::not_found().into_string(), "no-store")
        })
        .with_state(Arc::new(source))
}

async fn index(State(source): State<Arc<Source>>, headers: HeaderMap) -> Response {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let snapshot = source.snapshot().await;
    let links = page::Links::of(host, &snapshot.name);
    answer(StatusCode::OK, "text/html; charset=utf-8", page::render(&snapshot, &links).into_string(), "no-store")
}

fn file(kind: &'static str, text: &'static str) -> Response {
    answer(StatusCode::OK, kind, text.to_owned(), "max-age=300")
}

fn answer(status: StatusCode, kind: &'static str, text: String, cache: &'static str) -> Response {
    let mut response = (status, text).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
