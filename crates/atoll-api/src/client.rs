//! HTTP over a unix socket, with JSON bodies.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use crate::Problem;

/// Largest answer that is read into memory.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Why a daemon did not answer as asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no daemon answers on {path}: is the region running? (`atoll up` starts it)")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("the daemon on {path} broke off")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The daemon refused, in its own words.
    #[error("{}{}", .problem.error, .problem.cure.as_ref().map(|cure| format!(": {cure}")).unwrap_or_default())]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// What it said.
        problem: Problem,
    },
    /// The answer has an unexpected form.
    #[error("the daemon on {path} answers in an unknown form: it runs another version of atoll")]
    Form {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// A client of one daemon. Opens a connection for each request: local sockets are cheap.
#[derive(Debug, Clone)]
pub struct UnixClient {
    path: PathBuf,
}

impl UnixClient {
    /// For the daemon that listens at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `GET`, with a JSON answer.
    pub async fn get<T: DeserializeOwned>(&self, uri: &str) -> Result<T, ClientError> {
        let body = self.send(Method::GET, uri, Bytes::new()).await?;
        self.parse(body).await
    }

    /// `POST` of a JSON body, with a JSON answer.
    pub async fn post<B: Serialize, T: DeserializeOwned>(&self, uri: &str, body: &B) -> Result<T, ClientError> {
        let body = self.stream(uri, body).await?;
        self.parse(body).await
    }

    /// `POST` of a JSON body, with an answer to be read as it comes.
    pub async fn stream<B: Serialize>(&self, uri: &str, body: &B) -> Result<Incoming, ClientError> {
        let json = serde_json::to_vec(body).map_err(|source| self.form(source))?;
        self.send(Method::POST, uri, json.into()).await
    }

    /// `POST` of a JSON body, with an answer of one JSON value in each line, read as they come.
    pub async fn lines<B: Serialize>(&self, uri: &str, body: &B) -> Result<Lines, ClientError> {
        let body = self.stream(uri, body).await?;
        Ok(Lines { client: self.clone(), body, pending: Vec::new() })
    }

    async fn send(&self, method: Method, uri: &str, body: Bytes) -> Result<Incoming, ClientError> {
        let stream = UnixStream::connect(&self.path)
            .await
            .map_err(|source| ClientError::Connect { path: self.path.clone(), source })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.broken(e))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(http::header::HOST, "atoll")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|e| self.broken(e))?;
        let response = sender.send_request(request).await.map_err(|e| self.broken(e))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let text = self.collect(response.into_body()).await?;
        let problem = serde_json::from_slice(&text).unwrap_or_else(|_| Problem {
            error: format!("the daemon answers {status}: {}", String::from_utf8_lossy(&text)),
            cure: None,
        });
        Err(ClientError::Refused { status, problem })
    }

    async fn parse<T: DeserializeOwned>(&self, body: Incoming) -> Result<T, ClientError> {
        let bytes = self.collect(body).await?;
        serde_json::from_slice(&bytes).map_err(|source| self.form(source))
    }

    async fn collect(&self, body: Incoming) -> Result<Bytes, ClientError> {
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|e| self.broken(e))?;
        Ok(body.to_bytes())
    }

    fn broken(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
        ClientError::Broken { path: self.path.clone(), source: source.into() }
    }

    fn form(&self, source: serde_json::Error) -> ClientError {
        ClientError::Form { path: self.path.clone(), source }
    }
}

/// Largest line that is read into memory: a packet of 64 KiB in hexadecimal digits, and some more.
const LINE_BYTES_MAX: usize = 256 * 1024;

/// An answer of one JSON value in each line.
#[derive(Debug)]
pub struct Lines {
    client: UnixClient,
    body: Incoming,
    pending: Vec<u8>,
}

impl Lines {
    /// The next value; nothing at the end.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(|source| self.client.form(source));
            }
            if self.pending.len() > LINE_BYTES_MAX {
                return Err(self.client.broken("a line of the answer is too long"));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(self.client.broken(error)),
                Some(Ok(frame)) => self.pending.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..])),
            }
        }
    }
}
