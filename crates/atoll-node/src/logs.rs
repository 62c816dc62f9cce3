//! Logs for the owner of a deployment: the signature is the permission, here and on every other node.

use std::path::PathBuf;

use alloy_primitives::{Address, Signature};
use atoll_api::node::LogsRequest;
use atoll_base::{MeshAddr, NodeId};
use atoll_os::log::LogReader;
use axum::{
    body::{Body, Bytes},
    response::Response,
};
use futures::{Stream, TryStreamExt as _, stream};
use http::{HeaderValue, StatusCode, header};

use crate::{
    board::Shared,
    limits::{LOG_FOLLOW_EVERY, LOG_SIGNATURE_MS, LOG_TAIL_MAX, PEER_PORT},
    problem::{Refusal, chain},
};

/// Answers a request for a log of this node, or passes it on to the node that has it.
pub(crate) async fn answer(
    shared: &Shared,
    http: Option<&reqwest::Client>,
    request: &LogsRequest,
) -> Result<Response, Refusal> {
    let (runner, owner) = lease_of(shared, request)?;
    check(shared, request, owner)?;
    let me = shared.checked.id;
    match (runner, http) {
        (Some(node), Some(http)) if node != me => pass_on(shared, http, node, request).await,
        // Not leased to this node any more: its log may still be here.
        _ if shared.workload_folder(request.lease).is_dir() => local(shared, request).await,
        (Some(node), None) if node != me => {
            let why = format!("lease {} is on node {}, not on this one", request.lease, node.short());
            Err(Refusal::new(StatusCode::NOT_FOUND, why))
        }
        (None, _) => Err(Refusal::new(StatusCode::NOT_FOUND, format!("lease {} runs on no node now", request.lease))
            .cure("`atoll ps` says why; ask again when it runs")),
        (Some(_), _) => Ok(text(Body::empty())),
    }
}

fn lease_of(shared: &Shared, request: &LogsRequest) -> Result<(Option<NodeId>, Address), Refusal> {
    let view = shared.verified.borrow().view();
    let lease = view.leases.get(&request.lease.0);
    let deployment = lease.and_then(|lease| view.deployments.iter().find(|d| d.id == lease.deployment));
    match (lease, deployment) {
        (Some(lease), Some(deployment)) => Ok((lease.runner(), deployment.owner)),
        _ => Err(Refusal::new(StatusCode::NOT_FOUND, format!("there is no living lease {}", request.lease))
            .cure("`atoll ps` lists what lives")),
    }
}

fn check(shared: &Shared, request: &LogsRequest, owner: Address) -> Result<(), Refusal> {
    let now_ms = shared.verified.borrow().now_ms();
    if now_ms.abs_diff(request.signed_ms) > LOG_SIGNATURE_MS {
        let why = format!(
            "the request was signed {} s away from the ledger's time",
            now_ms.abs_diff(request.signed_ms) / 1000
        );
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, why).cure("set this machine's clock and ask again"));
    }
    let message = LogsRequest::message(shared.checked.region, request.lease, request.signed_ms);
    let signer = request
        .signature
        .parse::<Signature>()
        .ok()
        .and_then(|signature| signature.recover_address_from_msg(message.as_bytes()).ok());
    match signer {
        Some(signer) if signer == owner => Ok(()),
        Some(signer) => {
            let why = format!("only the deployment's owner {owner} may read its logs, this was signed by {signer}");
            Err(Refusal::new(StatusCode::FORBIDDEN, why).cure("use the wallet that deployed it"))
        }
        None => Err(Refusal::new(StatusCode::UNAUTHORIZED, "the request's signature is not one")),
    }
}

async fn pass_on(
    shared: &Shared,
    http: &reqwest::Client,
    node: NodeId,
    request: &LogsRequest,
) -> Result<Response, Refusal> {
    let address = MeshAddr::of(shared.checked.region, node).node();
    let away = |why: String| {
        Refusal::new(
            StatusCode::BAD_GATEWAY,
            format!("node {}, which runs lease {}, {why}", node.short(), request.lease),
        )
        .cure("if that node is gone the ledger moves the lease within seconds; ask again then")
    };
    let answer = http
        .post(format!("http://[{address}]:{PEER_PORT}/v1/logs"))
        .json(request)
        .send()
        .await
        .map_err(|e| away(format!("does not answer ({})", chain(&e))))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(text(Body::from_stream(answer.bytes_stream())));
    }
    let problem = answer.json::<atoll_api::Problem>().await;
    let why = problem.map_or_else(|_| format!("answers {status}"), |problem| format!("says: {}", problem.error));
    Err(away(why))
}

async fn local(shared: &Shared, request: &LogsRequest) -> Result<Response, Refusal> {
    let folder = shared.workload_folder(request.lease);
    let tail = usize::try_from(request.tail.min(LOG_TAIL_MAX)).unwrap_or(usize::MAX);
    let (reader, lines) = open(folder, tail)
        .await
        .map_err(|e| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot read the log: {e}")))?;
    if !request.follow {
        return Ok(text(Body::from(join(&lines))));
    }
    let body = stream::iter([Ok(Bytes::from(join(&lines)))]);
    Ok(text(Body::from_stream(futures::StreamExt::chain(body, follow(reader)))))
}

/// New lines as they come.
fn follow(reader: LogReader) -> impl Stream<Item = std::io::Result<Bytes>> + Send {
    stream::try_unfold(reader, |mut reader| async move {
        loop {
            tokio::time::sleep(LOG_FOLLOW_EVERY).await;
            let polled = tokio::task::spawn_blocking(move || reader.poll().map(|lines| (lines, reader))).await;
            let (lines, back) = polled.map_err(std::io::Error::other)??;
            if !lines.is_empty() {
                return Ok(Some((Bytes::from(join(&lines)), back)));
            }
            reader = back;
        }
    })
    .into_stream()
}

async fn open(folder: PathBuf, tail: usize) -> std::io::Result<(LogReader, Vec<String>)> {
    tokio::task::spawn_blocking(move || LogReader::open(&folder, tail)).await.map_err(std::io::Error::other)?
}

fn join(lines: &[String]) -> String {
    lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
}

fn text(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
