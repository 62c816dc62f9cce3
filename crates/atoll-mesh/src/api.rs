//! The local API on a unix socket: `GET /v1/status` and `GET /metrics`.

use std::{os::unix::fs::PermissionsExt as _, path::Path};

use atoll_api::{Problem, mesh::MeshStatus};
use axum::{Json, Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
};

use crate::{
    MeshError,
    metrics::{self, Snapshot},
};

/// A question to the task that owns the mesh.
pub(crate) type Request = oneshot::Sender<Snapshot>;

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
    Router::new().route("/v1/status", get(status)).route("/metrics", get(prometheus)).with_state(requests)
}

async fn status(State(requests): State<mpsc::Sender<Request>>) -> Result<Json<MeshStatus>, Refusal> {
    Ok(Json(snapshot(&requests).await?.status))
}

async fn prometheus(State(requests): State<mpsc::Sender<Request>>) -> Result<String, Refusal> {
    metrics::render(&snapshot(&requests).await?).map_err(|_| Refusal)
}

async fn snapshot(requests: &mpsc::Sender<Request>) -> Result<Snapshot, Refusal> {
    let (answer, snapshot) = oneshot::channel();
    requests.send(answer).await.map_err(|_| Refusal)?;
    snapshot.await.map_err(|_| Refusal)
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
