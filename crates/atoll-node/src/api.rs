//! The daemon's own API on its unix socket.

use std::{path::PathBuf, sync::Arc};

use atoll_api::node::{
    ClaimRequest, FetchImage, ImportImage, ImportedImage, LogsRequest, NodeStatus, PlanStep, SignedClaim,
};
use atoll_base::{
    claim::NodeClaim,
    spec::{ImageRef, ImageSource},
};
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    response::Response,
    routing::{get, post},
};
use http::StatusCode;
use tokio::net::UnixListener;

use crate::{
    board::Shared,
    images::{
        Digest, ImageError, ImageStore,
        fetch::{Fetcher, blocking},
        import,
    },
    ledger::send::signer,
    limits::REQUEST_BYTES_MAX,
    logs,
    metrics::Metrics,
    problem::Refusal,
};

/// What the API works with.
pub(crate) struct Api {
    pub(crate) shared: Shared,
    pub(crate) store: ImageStore,
    pub(crate) fetcher: Fetcher,
    pub(crate) http: reqwest::Client,
    pub(crate) metrics: Metrics,
}

/// Serves the socket for ever.
pub(crate) async fn serve(listener: UnixListener, api: Api) -> std::io::Result<()> {
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/plan", get(plan))
        .route("/v1/claim", post(claim))
        .route("/v1/images", post(images))
        .route("/v1/images/fetch", post(fetch))
        .route("/v1/logs", post(log))
        .route("/metrics", get(metrics))
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(Arc::new(api));
    axum::serve(listener, router).await
}

async fn status(State(api): State<Arc<Api>>) -> Json<NodeStatus> {
    Json(api.shared.status())
}

async fn plan(State(api): State<Arc<Api>>) -> Json<Vec<PlanStep>> {
    Json(api.shared.plan())
}

async fn metrics(State(api): State<Arc<Api>>) -> String {
    let height = api.shared.verified.borrow().height;
    api.metrics.height.set(i64::try_from(height).unwrap_or(i64::MAX));
    api.metrics.workloads.clear();
    for record in api.shared.board.borrow().observed.records.values() {
        api.metrics.workloads.get_or_create(&crate::metrics::State { state: record.state() }).inc();
    }
    api.metrics.text()
}

async fn claim(State(api): State<Arc<Api>>, Json(request): Json<ClaimRequest>) -> Result<Json<SignedClaim>, Refusal> {
    let checked = &api.shared.checked;
    let Some(total) = checked.config.capacity else {
        return Err(Refusal::new(StatusCode::CONFLICT, "this node offers no capacity, so there is nothing to claim")
            .cure("set `capacity` in its configuration and start it again"));
    };
    let account = signer(&checked.secret)
        .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?
        .address();
    let claim = NodeClaim {
        id: checked.id,
        provider: request.provider,
        account,
        sealing_key: checked.secret.sealing_public(),
        total,
        labels: checked.config.labels.clone(),
    };
    let signature = hex::encode(claim.sign(checked.region, &checked.secret));
    Ok(Json(SignedClaim { claim, signature }))
}

async fn images(State(api): State<Arc<Api>>, Json(request): Json<ImportImage>) -> Result<Json<ImportedImage>, Refusal> {
    let path = PathBuf::from(&request.path);
    if !path.is_absolute() {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, format!("'{}' is not an absolute path", request.path)));
    }
    let expected = request.digest.as_deref().map(str::parse::<Digest>).transpose().map_err(|e| refuse(&e))?;
    let _busy = api.store.busy.read().await;
    let store = api.store.clone();
    let imported = blocking(move || import::import(&store, &path, request.tag.as_deref(), expected));
    let digest = imported.await.map_err(|e| refuse(&e))?;
    taken(&api, digest, digest).await
}

async fn fetch(State(api): State<Arc<Api>>, Json(request): Json<FetchImage>) -> Result<Json<ImportedImage>, Refusal> {
    let named: Digest = request.digest.parse().map_err(|e| refuse(&e))?;
    let image = ImageRef {
        digest: request.digest,
        name: format!("{}@{named}", request.repository),
        sources: vec![ImageSource::Registry(request.repository)],
    };
    // Before it comes, so that no part of it is collected meanwhile.
    let (store, now_ms) = (api.store.clone(), api.shared.verified.borrow().now_ms());
    blocking(move || store.refer(named, now_ms)).await.map_err(|e| refuse(&e))?;
    let digest = api.fetcher.fetch(&image, &[]).await.map_err(|e| refuse(&e))?;
    taken(&api, named, digest).await
}

/// Checks an image that is in the store, keeps it from being collected, and tells of it under the digest `named`.
async fn taken(api: &Api, named: Digest, digest: Digest) -> Result<Json<ImportedImage>, Refusal> {
    let (store, now_ms) = (api.store.clone(), api.shared.verified.borrow().now_ms());
    let checked = blocking(move || {
        let manifest = store.manifest(digest)?;
        store.image_config(&manifest)?;
        store.refer(digest, now_ms)?;
        Ok(store.image_size(digest, &manifest))
    });
    let size_bytes = checked.await.map_err(|e| refuse(&e))?;
    Ok(Json(ImportedImage { digest: named.to_string(), size_bytes, node: api.shared.checked.id }))
}

fn refuse(error: &ImageError) -> Refusal {
    let status = match error {
        ImageError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ImageError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            StatusCode::INSUFFICIENT_STORAGE
        }
        ImageError::Io { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    };
    Refusal::new(status, error.to_string())
}

async fn log(State(api): State<Arc<Api>>, Json(request): Json<LogsRequest>) -> Result<Response, Refusal> {
    logs::answer(&api.shared, Some(&api.http), &request).await
}
