//! The local API on a unix socket: `GET /v1/status`, `GET /v1/choices/ADDRESS`, `POST /v1/members` and `GET /metrics`.

use std::{net::Ipv6Addr, os::unix::fs::PermissionsExt as _, path::Path};

use atoll_api::{
    Problem,
    mesh::{Choice, MeshStatus},
};
use atoll_base::NodeId;
use axum::{
    Json, Router,
    extract::{self, State},
    http::StatusCode,
    response::IntoResponse,
    routing::{get, post},
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
};

use crate::{
    MeshError,
    limits::MEMBERS_MAX,
    metrics::{self, Snapshot},
};

/// A question to the task that owns the mesh.
pub(crate) enum Request {
    /// Where it stands.
    Snapshot(oneshot::Sender<Snapshot>),
    /// All routes to the node that has this address.
    Choices(Ipv6Addr, oneshot::Sender<Vec<Choice>>),
    /// Who else may join a closed region; whether this one is closed.
    Members(Vec<NodeId>, oneshot::Sender<bool>),
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
        .route("/v1/members", post(members))
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

/// Replaces what was told before. What the configuration names are members in any case.
async fn members(
    State(requests): State<mpsc::Sender<Request>>,
    Json(members): Json<Vec<NodeId>>,
) -> Result<Json<()>, Refusal> {
    if members.len() > MEMBERS_MAX {
        return Err(Refusal::TooMany(members.len()));
    }
    match ask(&requests, |answer| Request::Members(members, answer)).await? {
        true => Ok(Json(())),
        false => Err(Refusal::Open),
    }
}

async fn prometheus(State(requests): State<mpsc::Sender<Request>>) -> Result<String, Refusal> {
    metrics::render(&snapshot(&requests).await?).map_err(|_| Refusal::Stopping)
}

async fn snapshot(requests: &mpsc::Sender<Request>) -> Result<Snapshot, Refusal> {
    ask(requests, Request::Snapshot).await
}

async fn ask<T>(
    requests: &mpsc::Sender<Request>,
    question: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> Result<T, Refusal> {
    let (sender, answer) = oneshot::channel();
    requests.send(question(sender)).await.map_err(|_| Refusal::Stopping)?;
    answer.await.map_err(|_| Refusal::Stopping)
}

/// Why there is no answer.
enum Refusal {
    /// The daemon is on its way out.
    Stopping,
    /// Nobody is refused here.
    Open,
    /// More members than there may be.
    TooMany(usize),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> axum::response::Response {
        let (status, error, cure) = match self {
            Self::Stopping => (
                StatusCode::SERVICE_UNAVAILABLE,
                "the mesh daemon is stopping".to_owned(),
                "ask again when it runs".to_owned(),
            ),
            Self::Open => (
                StatusCode::CONFLICT,
                "everybody may join this mesh".to_owned(),
                "close it by `members` in its configuration".to_owned(),
            ),
            Self::TooMany(count) => (
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("{count} members are more than a node keeps"),
                format!("name {MEMBERS_MAX} at most"),
            ),
        };
        (status, Json(Problem { error, cure: Some(cure) })).into_response()
    }
}
