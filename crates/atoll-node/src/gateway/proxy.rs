//! One request to one of several backends.

use std::net::SocketAddr;

use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::{Body as _, Incoming};
use hyper_util::rt::TokioIo;

use super::pool::{Connection, Pool};
use crate::limits::BACKEND_HEAD;

/// Why no backend answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    /// None of them takes connections.
    #[error("none of its {count} replicas can be reached (the last said: {why})")]
    Unreachable {
        /// How many were tried.
        count: usize,
        /// The last reason.
        why: String,
    },
    /// It took the request and broke off.
    #[error("it broke off while it answered ({why})")]
    Broken {
        /// Why.
        why: String,
    },
    /// It took the request and says nothing.
    #[error("it said nothing for {} s", BACKEND_HEAD.as_secs())]
    Silent,
}

/// Headers that belong to one connection, not to the message (RFC 9110 section 7.6.1).
const HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
];

/// Forwards to the first backend that takes the request. A request that a backend may already have acted on is sent
/// again only when its method allows it (RFC 9110 section 9.2.2).
pub(crate) async fn forward(
    pool: &Pool,
    mut request: Request<Incoming>,
    client: SocketAddr,
    host: &str,
    backends: &[SocketAddr],
) -> Result<Response<Body>, ForwardError> {
    let upgrade = upgrade_of(request.headers());
    let client_upgrade = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    let repeatable = request.body().is_end_stream()
        && matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE);
    let mut request = prepare(request, client, host, upgrade.as_ref());
    let mut last = String::from("none is known");
    for backend in backends {
        let mut pooled = upgrade.is_none().then(|| pool.take(*backend)).flatten();
        loop {
            let was_pooled = pooled.is_some();
            let mut connection = match pooled.take() {
                Some(connection) => connection,
                None => match Pool::connect(*backend).await {
                    Ok(connection) => connection,
                    Err(why) => {
                        last = why;
                        break;
                    }
                },
            };
            let spare = repeatable.then(|| copy(&request));
            match send(&mut connection, request).await {
                Ok(response) => {
                    return Ok(finish(pool, *backend, connection, response, client_upgrade, upgrade.as_ref()));
                }
                Err((error, unsent)) => match unsent.or(spare) {
                    // A kept connection that was closed meanwhile says nothing about the backend: ask it afresh.
                    Some(again) if was_pooled => request = again,
                    Some(again) if !matches!(error, ForwardError::Silent) => {
                        request = again;
                        last = error.to_string();
                        break;
                    }
                    _ => return Err(error),
                },
            }
        }
    }
    Err(ForwardError::Unreachable { count: backends.len(), why: last })
}

/// Sends; gives the request back when it certainly did not leave.
async fn send(
    connection: &mut Connection,
    request: Request<Body>,
) -> Result<Response<Incoming>, (ForwardError, Option<Request<Body>>)> {
    match tokio::time::timeout(BACKEND_HEAD, connection.try_send_request(request)).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(mut error)) => {
            let unsent = error.take_message();
            Err((ForwardError::Broken { why: error.into_error().to_string() }, unsent))
        }
        Err(_) => Err((ForwardError::Silent, None)),
    }
}

/// The request as the backend gets it.
fn prepare(request: Request<Incoming>, client: SocketAddr, host: &str, upgrade: Option<&HeaderValue>) -> Request<Body> {
    let (mut parts, body) = request.into_parts();
    let original_host = parts.headers.get(header::HOST).cloned();
    strip(&mut parts.headers);
    if let Some(protocol) = upgrade {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(header::UPGRADE, protocol.clone());
    }
    let known = parts.headers.get("x-forwarded-for").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let client = client.ip().to_canonical();
    let chain = known.map_or_else(|| client.to_string(), |known| format!("{known}, {client}"));
    set(&mut parts.headers, "x-forwarded-for", &chain);
    set(&mut parts.headers, "x-forwarded-proto", "http");
    match original_host {
        Some(value) => {
            parts.headers.insert(HeaderName::from_static("x-forwarded-host"), value.clone());
            parts.headers.insert(header::HOST, value);
        }
        None => set(&mut parts.headers, "host", host),
    }
    // A backend gets the path alone, also when the client sent a whole address.
    let path = parts.uri.path_and_query().cloned();
    parts.uri = path.map_or_else(|| http::Uri::from_static("/"), http::Uri::from);
    parts.version = Version::HTTP_11;
    Request::from_parts(parts, Body::new(body))
}

fn copy(request: &Request<Body>) -> Request<Body> {
    let mut copy = Request::new(Body::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// The answer as the client gets it; joins both ends when the backend agreed to an upgrade.
fn finish(
    pool: &Pool,
    backend: SocketAddr,
    connection: Connection,
    mut response: Response<Incoming>,
    client_upgrade: Option<hyper::upgrade::OnUpgrade>,
    upgrade: Option<&HeaderValue>,
) -> Response<Body> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        if let Some(client_upgrade) = client_upgrade {
            tokio::spawn(join(client_upgrade, hyper::upgrade::on(&mut response)));
        }
        let protocol = response.headers().get(header::UPGRADE).or(upgrade).cloned();
        strip(response.headers_mut());
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        if let Some(protocol) = protocol {
            response.headers_mut().insert(header::UPGRADE, protocol);
        }
    } else {
        pool.give_back(backend, connection);
        strip(response.headers_mut());
        response.headers_mut().remove(header::UPGRADE);
    }
    response.map(Body::new)
}

async fn join(client: hyper::upgrade::OnUpgrade, backend: hyper::upgrade::OnUpgrade) {
    let (Ok(client), Ok(backend)) = (client.await, backend.await) else { return };
    let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut backend).await {
        tracing::trace!(%error, "an upgraded connection ended");
    }
}

/// Takes out what belongs to the connection, the headers that `Connection` names included.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.into_iter().chain(HOP).chain([HeaderName::from_static("keep-alive")]) {
        headers.remove(name);
    }
}

/// The protocol to which the client wants to change.
fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let asks = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|name| name.trim().eq_ignore_ascii_case("upgrade")));
    headers.get(header::UPGRADE).filter(|_| asks).cloned()
}

fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}
