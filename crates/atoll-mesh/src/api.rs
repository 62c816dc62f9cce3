//! The local API on a unix socket: `GET /v1/status`, `GET /v1/choices/ADDRESS` and `GET /metrics`.

use std::{net::Ipv6Addr, os::unix::fs::PermissionsExt as _, path::Path};

use atoll_api::{
    Problem,
    mesh::{Choice, MeshStatus},
};
use axum::{
    Json, Router,
    extract::{self, State},
    http::StatusCode,
    response::IntoResponse,
    routing::get,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
};

use crate::{
    MeshError,
    metrics::{self, Snapshot},
};

/// A question to the task that owns the mesh.
pub(crate) enum Request {
    /// Where it stands.
    Snapshot(oneshot::Sender<Snapshot>),
    /// All routes to the node that has this address.
    Choices(Ipv6Addr, oneshot::Sender<Vec<Choice>>),
}

/// Opens the socket; one that a dead daemon left behind is replaced.
pub(crate) async fn listen(path: &Path) -> Result<UnixListener, MeshError> {
    if UnixStream::connect(path).await.is_ok() {
        return Err(MeshError::AlreadyRuns(path.to_owned()));
    }
    let open = || {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        Ok(listener)
    };
    open().map_err(|source| MeshError::Socket { path: path.to_owned(), source })
}

/// What the socket answers.
pub(crate) fn router(requests: mpsc::Sender<Request>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/choices/{address}", get(choices))
        .route("/metrics", get(prometheus))
        .with_state(requests)
}

async fn status(State(requests): State<mpsc::Sender<Request>>) -> Result<Json<MeshStatus>, Refusal> {
    Ok(Json(snapshot(&requests).await?.status))
}

async fn choices(
    State(requests): State<mpsc::Sender<Request>>,
    extract::Path(address): extract::Path<Ipv6Addr>,
) -> Result<Json<Vec<Choice>>, Refusal> {
    ask(&requests, |answer| Request::Choices(address, answer)).await.map(Json)
}

async fn prometheus(State(requests): State<mpsc::Sender<Request>>) -> Result<String, Refusal> {
    metrics::render(&snapshot(&requests).await?).map_err(|_| Refusal)
}

async fn snapshot(requests: &mpsc::Sender<Request>) -> Result<Snapshot, Refusal> {
    ask(requests, Request::Snapshot).await
}

async fn ask<T>(
    requests: &mpsc::Sender<Request>,
    question: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> Result<T, Refusal> {
    let (sender, answer) = oneshot::channel();
    requests.send(question(sender)).await.map_err(|_| Refusal)?;
    answer.await.map_err(|_| Refusal)
}

/// The daemon is on its way out.
struct Refusal;

impl IntoResponse for Refusal {
    fn into_response(self) -> axum::response::Response {
        let problem = Problem {
            error: "the mesh daemon is stopping".to_owned(),
            cure: Some("ask again when it runs".to_owned()),
        };
        (StatusCode::SERVICE_UNAVAILABLE, Json(problem)).into_response()
    }
}
