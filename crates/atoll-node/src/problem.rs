//! Errors as the APIs tell them.

use atoll_api::Problem;
use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::StatusCode;

/// A refusal.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    problem: Problem,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, problem: Problem { error: error.into(), cure: None } }
    }

    /// What to do about it.
    pub(crate) fn cure(mut self, cure: impl Into<String>) -> Self {
        self.problem.cure = Some(cure.into());
        self
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(self.problem)).into_response()
    }
}

/// An error and all that caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}

/// The beginning of an HTTP client for other parts of the region. They are reached over the mesh, which encrypts, so no
/// certificate authorities are loaded: a machine without any (a bare Debian has none) must work, too.
pub(crate) fn http_client() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .connect_timeout(crate::limits::LEDGER_CONNECT)
        .redirect(reqwest::redirect::Policy::none())
}
