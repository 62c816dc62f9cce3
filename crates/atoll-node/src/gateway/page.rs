//! What people see when there is nothing to forward to: what happened, why, and what to do.

use std::fmt::Write as _;

use atoll_base::schema::{DeploymentRecord, LeaseRecord, LeaseState};
use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};

use super::proxy::ForwardError;
use crate::ledger::Verified;

/// Names listed on the page of an unknown app.
const NAMES_MAX: usize = 20;

/// A page for people.
#[derive(Debug)]
pub(crate) struct Page {
    status: StatusCode,
    title: String,
    /// Paragraphs of plain text.
    text: Vec<String>,
    /// Whether it is worth looking again soon.
    again: bool,
}

impl Page {
    /// The answer with this page.
    pub(crate) fn response(&self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.html()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.again {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        response
    }

    fn html(&self) -> String {
        let refresh = if self.again { "<meta http-equiv=\"refresh\" content=\"2\">" } else { "" };
        let mut html = format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">{refresh}<title>{title}</title>\
             <style>body{{font:1.1rem/1.6 system-ui,sans-serif;max-width:38rem;margin:12vh auto;padding:0 1rem;\
             color:#1d2a33;background:#f7f9fa}}h1{{font-size:1.6rem}}p{{margin:.8rem 0}}footer{{margin-top:3rem;\
             color:#5b6b75;font-size:.9rem}}@media(prefers-color-scheme:dark){{body{{background:#10181d;color:#e4edf2}}\
             footer{{color:#93a4ae}}}}</style></head><body><main><h1>{title}</h1>",
            title = escape(&self.title)
        );
        for paragraph in &self.text {
            let _infallible = write!(html, "<p>{}</p>", escape(paragraph));
        }
        html.push_str("</main><footer>Atoll gateway</footer></body></html>\n");
        html
    }

    /// The page on `localhost` of a daemon that was given no dashboard.
    pub(crate) fn no_dashboard(verified: &Verified, region: &str) -> Self {
        Self {
            status: StatusCode::OK,
            title: format!("Region {region}"),
            text: vec![
                format!("This gateway has verified the ledger up to height {}.", verified.height),
                "Apps are at http://<app>.localhost with this page's port.".into(),
            ],
            again: false,
        }
    }
}

/// No app has this name.
pub(crate) fn unknown(name: &str, verified: &Verified) -> Page {
    let mut names: Vec<String> = verified.view().deployments.iter().map(|d| d.name.clone()).collect();
    names.truncate(NAMES_MAX);
    let known = if names.is_empty() {
        "No app is deployed in this region yet: `atoll deploy FILE` deploys one.".to_owned()
    } else {
        format!("Apps in this region: {}.", names.join(", "))
    };
    Page {
        status: StatusCode::NOT_FOUND,
        title: format!("There is no app named “{name}” here"),
        text: vec![known],
        again: verified.problem.is_some(),
    }
}

/// Nothing is known yet.
pub(crate) fn no_view(name: &str, verified: &Verified) -> Page {
    let why = verified.problem.clone().unwrap_or_else(|| "the node has only just started".into());
    Page {
        status: StatusCode::SERVICE_UNAVAILABLE,
        title: format!("Looking for “{name}”"),
        text: vec![
            format!("This node does not know the region's apps yet: {why}."),
            "This page looks again by itself.".into(),
        ],
        again: true,
    }
}

/// The app has no web server.
pub(crate) fn no_web(name: &str) -> Page {
    Page {
        status: StatusCode::NOT_FOUND,
        title: format!("“{name}” has no web page"),
        text: vec![
            "None of its services has a web port. If one should have, name it in the deployment file under \
                    `x-atoll: {http: PORT}` and deploy again."
                .into(),
        ],
        again: false,
    }
}

/// The app is there, but no replica is healthy.
pub(crate) fn not_running(name: &str, deployment: &DeploymentRecord, leases: &[&LeaseRecord]) -> Page {
    let has = |state: LeaseState| leases.iter().find(|lease| lease.state() == state);
    let (title, why, hint) = if deployment.suspended || has(LeaseState::Suspended).is_some() {
        (
            format!("“{name}” is suspended"),
            "Its escrow is empty.".to_owned(),
            "Its data is kept. Anyone can add to the escrow, then it starts again by itself.",
        )
    } else if let Some(lease) = has(LeaseState::Failed) {
        let hint = "The node tries again by itself. `atoll logs` shows what the app said.";
        (format!("“{name}” has failed"), lease.why.clone(), hint)
    } else if let Some(lease) = has(LeaseState::Waiting) {
        let hint = "It starts as soon as a node has room for it.";
        (format!("“{name}” waits for a node"), lease.why.clone(), hint)
    } else {
        let why = leases.first().map(|lease| lease.why.clone()).unwrap_or_default();
        (format!("“{name}” is starting"), why, "This page looks again by itself.")
    };
    let text = [why, hint.to_owned()].into_iter().filter(|text| !text.is_empty()).collect();
    Page { status: StatusCode::SERVICE_UNAVAILABLE, title, text, again: true }
}

/// The app should answer, but does not.
pub(crate) fn failed(name: &str, error: &ForwardError) -> Page {
    let status = match error {
        ForwardError::Silent => StatusCode::GATEWAY_TIMEOUT,
        ForwardError::Unreachable { .. } | ForwardError::Broken { .. } => StatusCode::BAD_GATEWAY,
    };
    Page {
        status,
        title: format!("“{name}” does not answer"),
        text: vec![
            format!("{error}."),
            "If its node is gone the ledger moves the app to another one within seconds; this page looks again by \
             itself."
                .into(),
        ],
        again: true,
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
