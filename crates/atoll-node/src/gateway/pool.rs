//! Connections to backends, kept for a while after use.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use axum::body::Body;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::limits::{BACKEND_CONNECT, BACKEND_IDLE, BACKEND_IDLE_MAX, BACKEND_UNACKED, HEAD_BYTES_MAX, HEADERS_MAX};

/// A connection that takes a request.
pub(crate) type Connection = SendRequest<Body>;

/// Connections that wait, and since when, by backend.
type Idle = BTreeMap<SocketAddr, Vec<(Connection, Instant)>>;

/// Idle connections by backend. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Pool {
    idle: Arc<Mutex<Idle>>,
}

impl Pool {
    /// An unused connection, if one is left.
    pub(crate) fn take(&self, backend: SocketAddr) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = idle.get_mut(&backend)?;
        while let Some((connection, since)) = connections.pop() {
            if since.elapsed() < BACKEND_IDLE && connection.is_ready() {
                return Some(connection);
            }
        }
        idle.remove(&backend);
        None
    }

    /// Keeps a connection once its answer is complete.
    pub(crate) fn give_back(&self, backend: SocketAddr, mut connection: Connection) {
        let pool = self.clone();
        tokio::spawn(async move {
            if connection.ready().await.is_err() {
                return;
            }
            let mut idle = pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|_, connections| {
                connections.retain(|(connection, since)| since.elapsed() < BACKEND_IDLE && !connection.is_closed());
                !connections.is_empty()
            });
            let connections = idle.entry(backend).or_default();
            if connections.len() < BACKEND_IDLE_MAX {
                connections.push((connection, Instant::now()));
            }
        });
    }

    /// A new connection.
    pub(crate) async fn connect(backend: SocketAddr) -> Result<Connection, String> {
        let stream = match tokio::time::timeout(BACKEND_CONNECT, TcpStream::connect(backend)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err(format!("no answer within {} ms", BACKEND_CONNECT.as_millis())),
        };
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        // A node that is cut off must not hold requests until they time out: the kernel gives up on unanswered data.
        SockRef::from(&stream).set_tcp_user_timeout(Some(BACKEND_UNACKED)).map_err(|e| e.to_string())?;
        let (sender, connection) = Builder::new()
            .max_headers(HEADERS_MAX)
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| e.to_string())?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::trace!(%error, "a backend's connection ended");
            }
        });
        Ok(sender)
    }
}
