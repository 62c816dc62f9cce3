//! What this node serves to other nodes, over the mesh: blobs of images, and logs to their owners.

use std::{io::SeekFrom, sync::Arc};

use atoll_api::node::LogsRequest;
use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Path, State},
    response::Response,
    routing::{get, post},
};
use futures::TryStreamExt as _;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncSeekExt as _},
    net::TcpListener,
};
use tokio_util::io::ReaderStream;

use crate::{
    board::Shared,
    images::{Digest, ImageStore},
    limits::{PEER_CONNECTIONS_MAX, REQUEST_BYTES_MAX},
    logs,
    metrics::Metrics,
    problem::Refusal,
};

/// What other nodes may have of this one.
pub(crate) struct Blobs {
    pub(crate) store: ImageStore,
    pub(crate) metrics: Metrics,
}

/// Serves other nodes for ever.
pub(crate) async fn serve(listener: TcpListener, shared: Shared, blobs: Blobs) -> std::io::Result<()> {
    let router = Router::new()
        .route("/v1/logs", post(log))
        .with_state(Arc::new(shared))
        .merge(blob_router(blobs))
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .layer(tower::limit::GlobalConcurrencyLimitLayer::new(PEER_CONNECTIONS_MAX));
    axum::serve(listener, router).await
}

/// `GET /v1/blobs/<digest>`, from any byte on.
pub(crate) fn blob_router(blobs: Blobs) -> Router {
    Router::new().route("/v1/blobs/{digest}", get(blob)).with_state(Arc::new(blobs))
}

async fn blob(
    State(peer): State<Arc<Blobs>>,
    Path(digest): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let digest: Digest =
        digest.parse().map_err(|e: crate::images::ImageError| Refusal::new(StatusCode::BAD_REQUEST, e.to_string()))?;
    let absent = |_| Refusal::new(StatusCode::NOT_FOUND, "this node does not have that blob");
    let mut file = File::open(peer.store.path(digest)).await.map_err(absent)?;
    let size = file.metadata().await.map_err(absent)?.len();
    let from = range(&headers);
    let mut response = Response::new(Body::empty());
    let head = response.headers_mut();
    head.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    head.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let from = match from {
        Some(from) if from >= size => {
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            return Ok(response);
        }
        Some(from) => {
            if let Ok(value) = HeaderValue::from_str(&format!("bytes {from}-{}/{size}", size - 1)) {
                head.insert(header::CONTENT_RANGE, value);
            }
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            from
        }
        None => 0,
    };
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(size - from));
    file.seek(SeekFrom::Start(from)).await.map_err(absent)?;
    let sent = peer.metrics.blob_bytes.clone();
    let pieces = ReaderStream::with_capacity(file.take(size - from), 64 * 1024);
    *response.body_mut() = Body::from_stream(pieces.inspect_ok(move |piece| {
        sent.inc_by(piece.len() as u64);
    }));
    Ok(response)
}

/// The start of a range `bytes=N-`; other forms are answered with everything, as RFC 9110 allows.
fn range(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::RANGE)?.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

async fn log(State(shared): State<Arc<Shared>>, Json(request): Json<LogsRequest>) -> Result<Response, Refusal> {
    logs::answer(&shared, None, &request).await
}
