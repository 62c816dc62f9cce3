//! JSON-RPC over HTTP to a ledger server.

use std::time::Duration;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{limits::LEDGER_ANSWER_BYTES_MAX, problem::http_client};

/// Why a server gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RpcError {
    /// Nobody listens, or not in time.
    #[error("ledger server {server} does not answer")]
    Silent {
        /// The server.
        server: String,
    },
    /// The connection broke, or it is no JSON-RPC server.
    #[error("ledger server {server} answers nonsense: {why}")]
    Nonsense {
        /// The server.
        server: String,
        /// What was odd.
        why: String,
    },
    /// The server's own words.
    #[error("ledger server {server} refuses {method}: {message}")]
    Refused {
        /// The server.
        server: String,
        /// What was asked.
        method: &'static str,
        /// Its words.
        message: String,
    },
}

/// The client.
#[derive(Debug, Clone)]
pub(crate) struct Rpc {
    http: reqwest::Client,
}

#[derive(Serialize)]
struct Call<'a, P> {
    jsonrpc: &'static str,
    id: u32,
    method: &'a str,
    params: P,
}

#[derive(Deserialize)]
struct Answer<T> {
    result: Option<T>,
    error: Option<Complaint>,
}

#[derive(Deserialize)]
struct Complaint {
    message: String,
}

impl Rpc {
    pub(crate) fn new() -> Result<Self, reqwest::Error> {
        let http = http_client().build()?;
        Ok(Self { http })
    }

    /// Asks one server.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        server: &str,
        method: &'static str,
        params: impl Serialize,
        patience: Duration,
    ) -> Result<T, RpcError> {
        let nonsense = |why: String| RpcError::Nonsense { server: server.to_owned(), why };
        let request =
            self.http.post(server).timeout(patience).json(&Call { jsonrpc: "2.0", id: 1, method, params }).send().await;
        let mut response = request.map_err(|_| RpcError::Silent { server: server.to_owned() })?;
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|_| RpcError::Silent { server: server.to_owned() })? {
            if body.len() + piece.len() > LEDGER_ANSWER_BYTES_MAX {
                return Err(nonsense(format!("more than {LEDGER_ANSWER_BYTES_MAX} bytes")));
            }
            body.extend_from_slice(&piece);
        }
        let answer: Answer<T> = serde_json::from_slice(&body).map_err(|e| nonsense(e.to_string()))?;
        match (answer.result, answer.error) {
            (Some(result), None) => Ok(result),
            (_, Some(error)) => Err(RpcError::Refused { server: server.to_owned(), method, message: error.message }),
            (None, None) => Err(nonsense("neither result nor error".into())),
        }
    }
}
