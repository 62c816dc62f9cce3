//! The local API on a unix socket: `GET /v1/status`, `GET /v1/choices/ADDRESS`, `POST /v1/members`, `POST /v1/peers`,
//! `POST /v1/trace`, `POST /v1/capture`, `POST /v1/reload` and `GET /metrics`.

use std::{
    net::{Ipv6Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::Arc,
};

use atoll_api::{
    Problem,
    mesh::{CaptureRequest, Captured, Choice, MeshStatus, PUBLISHED_PEERS_MAX, PublishedPeer, Trace, TraceRequest},
};
use atoll_base::NodeId;
use atoll_mesh_core::ProbeError;
use axum::{
    Json, Router,
    body::Body,
    extract::{self, State},
    http::StatusCode,
    response::IntoResponse,
    routing::{get, post},
};
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
};

use crate::{
    MeshError,
    daemon::Change,
    limits::{CAPTURED_AT_ONCE, MEMBERS_MAX, TRACES_MAX},
    metrics::{self, Snapshot},
    reload::{self, Reloader},
    trace::{self, Answered},
};

/// A question to the task that owns the mesh.
pub(crate) enum Request {
    /// Where it stands.
    Snapshot(oneshot::Sender<Snapshot>),
    /// All routes to the node that has this address.
    Choices(Ipv6Addr, oneshot::Sender<Vec<Choice>>),
    /// Who else may join a closed region; whether this one is closed.
    Members(Vec<NodeId>, oneshot::Sender<bool>),
    /// Where which other nodes can be called.
    Peers(Vec<PublishedPeer>, oneshot::Sender<()>),
    /// How many links the way to the node of this address has, if one is known.
    Links(Ipv6Addr, oneshot::Sender<Option<u8>>),
    /// Who answers a probe to the node of this address that may take so many links; told when somebody does.
    Probe(Ipv6Addr, u8, ProbeAnswer),
    /// What goes through from now on; nothing if another capture runs.
    Capture(CaptureRequest, oneshot::Sender<Option<mpsc::Receiver<Captured>>>),
    /// Go on with another configuration.
    Reload(Box<Change>, oneshot::Sender<Result<(), MeshError>>),
}

/// Where to tell what became of a probe.
pub(crate) type ProbeAnswer = oneshot::Sender<Result<Answered, ProbeError>>;

/// What the handlers share.
#[derive(Clone)]
struct Api {
    requests: mpsc::Sender<Request>,
    traces: Arc<Semaphore>,
}

impl Api {
    fn new(requests: mpsc::Sender<Request>) -> Self {
        Self { requests, traces: Arc::new(Semaphore::new(TRACES_MAX)) }
    }
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

/// Opens the TCP socket for metrics, if there is to be one.
pub(crate) async fn listen_metrics(listen: Option<SocketAddr>) -> Result<Option<TcpListener>, MeshError> {
    let Some(listen) = listen else { return Ok(None) };
    match TcpListener::bind(listen).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(MeshError::MetricsInUse { listen }),
        Err(source) => Err(MeshError::Metrics { listen, source }),
    }
}

/// What that answers: nothing but metrics, as everybody who reaches the port may ask.
pub(crate) fn metrics_router(requests: mpsc::Sender<Request>) -> Router {
    Router::new().route("/metrics", get(prometheus)).with_state(Api::new(requests))
}

/// What the socket answers.
pub(crate) fn router(requests: mpsc::Sender<Request>, reloader: Arc<Reloader>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/choices/{address}", get(choices))
        .route("/v1/members", post(members))
        .route("/v1/peers", post(peers))
        .route("/v1/trace", post(trace))
        .route("/v1/capture", post(capture))
        .route("/v1/reload", post(reload::handle).with_state(reloader))
        .route("/metrics", get(prometheus))
        .with_state(Api::new(requests))
}

async fn status(State(api): State<Api>) -> Result<Json<MeshStatus>, Refusal> {
    Ok(Json(snapshot(&api.requests).await?.status))
}

async fn choices(
    State(api): State<Api>,
    extract::Path(address): extract::Path<Ipv6Addr>,
) -> Result<Json<Vec<Choice>>, Refusal> {
    ask(&api.requests, |answer| Request::Choices(address, answer)).await.map(Json)
}

/// Replaces what was told before. What the configuration names are members in any case.
async fn members(State(api): State<Api>, Json(members): Json<Vec<NodeId>>) -> Result<Json<()>, Refusal> {
    if members.len() > MEMBERS_MAX {
        return Err(Refusal::TooMany(members.len()));
    }
    match ask(&api.requests, |answer| Request::Members(members, answer)).await? {
        true => Ok(Json(())),
        false => Err(Refusal::Open),
    }
}

/// Replaces what was told before.
async fn peers(State(api): State<Api>, Json(peers): Json<Vec<PublishedPeer>>) -> Result<Json<()>, Refusal> {
    if peers.len() > PUBLISHED_PEERS_MAX {
        return Err(Refusal::TooManyPeers(peers.len()));
    }
    ask(&api.requests, |answer| Request::Peers(peers, answer)).await.map(Json)
}

async fn trace(State(api): State<Api>, Json(request): Json<TraceRequest>) -> Result<Json<Trace>, Refusal> {
    let Ok(_permit) = api.traces.try_acquire() else { return Err(Refusal::TooManyTraces) };
    trace::run(&api.requests, &request).await.map(Json)
}

async fn capture(State(api): State<Api>, Json(request): Json<CaptureRequest>) -> Result<Body, Refusal> {
    let captured = ask(&api.requests, |answer| Request::Capture(request, answer)).await?;
    let captured = captured.ok_or(Refusal::Captures)?;
    Ok(Body::from_stream(futures::stream::unfold(captured, async |mut captured| {
        let mut some = Vec::new();
        captured.recv_many(&mut some, CAPTURED_AT_ONCE).await;
        let mut lines = Vec::new();
        for one in &some {
            if let Err(error) = serde_json::to_writer(&mut lines, one) {
                return Some((Err(error), captured));
            }
            lines.push(b'\n');
        }
        (!some.is_empty()).then_some((Ok(lines), captured))
    })))
}

async fn prometheus(State(api): State<Api>) -> Result<String, Refusal> {
    metrics::render(&snapshot(&api.requests).await?).map_err(|_| Refusal::Stopping)
}

async fn snapshot(requests: &mpsc::Sender<Request>) -> Result<Snapshot, Refusal> {
    ask(requests, Request::Snapshot).await
}

/// Asks the task that owns the mesh.
pub(crate) async fn ask<T>(
    requests: &mpsc::Sender<Request>,
    question: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> Result<T, Refusal> {
    let (sender, answer) = oneshot::channel();
    requests.send(question(sender)).await.map_err(|_| Refusal::Stopping)?;
    answer.await.map_err(|_| Refusal::Stopping)
}

/// Why a question is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The daemon is on its way out.
    Stopping,
    /// Nobody is refused here.
    Open,
    /// More members than there may be.
    TooMany(usize),
    /// More published peers than are kept.
    TooManyPeers(usize),
    /// As many traces as there may be are under way.
    TooManyTraces,
    /// A capture runs already.
    Captures,
    /// The request of a trace has a number that it cannot have.
    WrongTrace,
    /// No probe can be sent.
    Probe(ProbeError),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> axum::response::Response {
        let (status, error, cure) = match self {
            Self::Stopping => {
                (StatusCode::SERVICE_UNAVAILABLE, "the mesh daemon is stopping".to_owned(), "ask again when it runs")
            }
            Self::Open => (
                StatusCode::CONFLICT,
                "everybody may join this mesh".to_owned(),
                "close it by `members` in its configuration",
            ),
            Self::TooMany(count) => (
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("{count} members are more than the {MEMBERS_MAX} that a node keeps"),
                "name fewer",
            ),
            Self::TooManyPeers(count) => (
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("{count} peers are more than the {PUBLISHED_PEERS_MAX} that a node keeps"),
                "name fewer",
            ),
            Self::TooManyTraces => (
                StatusCode::TOO_MANY_REQUESTS,
                format!("{TRACES_MAX} traces are under way already"),
                "try again when one is done",
            ),
            Self::Captures => {
                (StatusCode::CONFLICT, "another capture runs already".to_owned(), "end that one, and try again")
            }
            Self::WrongTrace => (
                StatusCode::BAD_REQUEST,
                "a trace cannot have so many probes, or such a time to wait".to_owned(),
                "ask for 1 to 100 probes, and a time of 10 to 10000 milliseconds",
            ),
            Self::Probe(error) => {
                let cure = match error {
                    ProbeError::Own => "name another node",
                    ProbeError::Outside => "name an address that begins like this node's own, see `atoll mesh status`",
                    ProbeError::NoRoute => "`atoll mesh peers` says whether this node has a neighbour that answers",
                    ProbeError::NoKeys => "check that it runs, and that its members include this node",
                };
                (StatusCode::NOT_FOUND, error.to_string(), cure)
            }
        };
        (status, Json(Problem { error, cure: Some(cure.to_owned()) })).into_response()
    }
}
