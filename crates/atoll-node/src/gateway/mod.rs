//! The gateway: from a browser on this machine to an app, wherever it runs.
//!
//! An HTTP/1.1 reverse proxy that chooses by host name: `<deployment>.localhost` or `<deployment>.<region>`, optionally
//! with a service in front; `localhost` itself is the dashboard. Bodies stream, upgrades (web sockets) pass through.

pub(crate) mod page;
pub(crate) mod pool;
pub(crate) mod proxy;
pub(crate) mod route;

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use axum::{Router, body::Body};
use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};
use tower::ServiceExt as _;

use crate::{
    ledger::Verified,
    limits::{GATEWAY_CONNECTIONS_MAX, GATEWAY_HEAD, HEAD_BYTES_MAX, HEADERS_MAX},
    metrics::{Metrics, Outcome},
};
use page::Page;
use pool::Pool;
use route::{Route, route};

/// What a gateway needs to know.
pub(crate) struct Gateway {
    pub(crate) region: atoll_base::RegionId,
    pub(crate) region_name: String,
    pub(crate) verified: watch::Receiver<Verified>,
    pub(crate) dashboard: Option<Router>,
    pub(crate) metrics: Metrics,
    pub(crate) pool: Pool,
}

impl Gateway {
    /// Serves one listening socket for ever.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(GATEWAY_CONNECTIONS_MAX));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let (stream, client) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors or a client that left at once: neither ends the gateway.
                    tracing::debug!(%error, "cannot accept a connection");
                    tokio::time::sleep(crate::limits::LEDGER_RETRY / 10).await;
                    continue;
                }
            };
            let gateway = self.clone();
            tokio::spawn(async move {
                gateway.connection(stream, client).await;
                drop(place);
            });
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, client: SocketAddr) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::trace!(%error, "no TCP_NODELAY");
        }
        let service = service_fn(move |request: Request<Incoming>| {
            let gateway = self.clone();
            async move { Ok::<_, Infallible>(gateway.answer(request, client).await) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(GATEWAY_HEAD)
            .max_headers(HEADERS_MAX)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await;
        if let Err(error) = served {
            tracing::trace!(%error, "a client's connection ended");
        }
    }

    async fn answer(&self, request: Request<Incoming>, client: SocketAddr) -> Response<Body> {
        let host = host_of(&request);
        let verified = self.verified.borrow().clone();
        let route = route(&verified, self.region, &self.region_name, &host);
        let (outcome, response) = match route {
            Route::Dashboard => ("dashboard", self.dashboard(request).await),
            Route::Unknown(name) => ("unknown", page::unknown(&name, &verified).response()),
            Route::Waiting(page) => ("unavailable", page.response()),
            Route::App { name, backends } => {
                match proxy::forward(&self.pool, request, client, &host, &backends).await {
                    Ok(response) => ("forwarded", response),
                    Err(error) => {
                        tracing::debug!(app = name, %error, "cannot forward");
                        ("failed", page::failed(&name, &error).response())
                    }
                }
            }
        };
        self.metrics.gateway.get_or_create(&Outcome { outcome }).inc();
        response
    }

    async fn dashboard(&self, request: Request<Incoming>) -> Response<Body> {
        match &self.dashboard {
            Some(router) => match router.clone().oneshot(request.map(Body::new)).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
            None => Page::no_dashboard(&self.verified.borrow(), &self.region_name).response(),
        }
    }
}

/// The host that the client asked for, in lower case, without port.
fn host_of(request: &Request<Incoming>) -> String {
    let from_uri = request.uri().host();
    let header = request.headers().get(http::header::HOST).and_then(|value| value.to_str().ok());
    let host = from_uri.or(header).unwrap_or_default().trim();
    let host = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or_default(),
    };
    host.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
pub(crate) mod tests;
