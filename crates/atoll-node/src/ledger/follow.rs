//! Follows the ledger: long-polls one server for certified blocks, verifies each itself, never goes back in height, and
//! changes the server when it fails, falls behind, or lies.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use alloy_primitives::{Address, B256, Bytes};
use atoll_api::ledger::{FINALITY_WAIT_MS, Finality, Proven};
use atoll_base::{Charter, Header, NodeId, schema::ServiceView};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::{
    Verified,
    prove::{ProveError, Prover, ViewNews},
    rpc::{Rpc, RpcError},
};
use crate::{
    images::store::write_atomic,
    limits::{LEDGER_ANSWER, LEDGER_RETRY, PREFER_FIRST_EVERY, STALE_IDLE_BLOCKS, STALE_MIN, VIEW_EVERY},
};

/// Why the ledger could not be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LedgerError {
    /// No answer.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// An answer that is not believed.
    #[error("ledger server {server} is not believed: {source}")]
    Lie {
        /// The server.
        server: String,
        /// What was wrong.
        source: ProveError,
    },
    /// The server stands still while time goes on.
    #[error("ledger server {server} has had no new block for {silent_s} s")]
    Stale {
        /// The server.
        server: String,
        /// For how long.
        silent_s: u64,
    },
}

/// The way to the ledger, for everyone in this daemon. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Ledger {
    rpc: Rpc,
    prover: Prover,
    servers: Arc<Vec<String>>,
    verified: watch::Receiver<Verified>,
}

impl Ledger {
    /// What was verified so far; changes with every block.
    pub(crate) fn verified(&self) -> watch::Receiver<Verified> {
        self.verified.clone()
    }

    /// The sealed part of a service as `node` needs it, proven.
    pub(crate) async fn sealed(&self, deployment: u64, service: u32, node: NodeId) -> Result<ServiceView, LedgerError> {
        let floor = self.verified.borrow().view_height;
        let server = self.server();
        let params = (deployment, service, node.word());
        let proven: Proven = self.rpc.call(&server, "atoll_sealedView", params, LEDGER_ANSWER).await?;
        self.prover
            .sealed(&proven, deployment, service, node, floor)
            .map_err(|source| LedgerError::Lie { server, source })
    }

    /// The next nonce of an account, counting what waits for a block.
    pub(crate) async fn nonce(&self, account: Address) -> Result<u64, LedgerError> {
        let count: alloy_primitives::U64 = self.ask("eth_getTransactionCount", (account, "pending")).await?;
        Ok(count.to())
    }

    /// Hands a signed transaction to the ledger.
    pub(crate) async fn submit(&self, raw: Bytes) -> Result<B256, LedgerError> {
        self.ask("eth_sendRawTransaction", (raw,)).await
    }

    /// The server that is followed, or the preferred one.
    pub(crate) fn server(&self) -> String {
        self.verified.borrow().server.clone().unwrap_or_else(|| self.servers[0].clone())
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: &'static str,
        params: impl serde::Serialize,
    ) -> Result<T, LedgerError> {
        Ok(self.rpc.call(&self.server(), method, params, LEDGER_ANSWER).await?)
    }
}

/// The task that follows.
pub(crate) struct Follower {
    rpc: Rpc,
    prover: Prover,
    servers: Arc<Vec<String>>,
    out: watch::Sender<Verified>,
    /// Holds the height of the newest view that was acted on, so that no restart goes back behind it.
    floor_file: PathBuf,
    stale_after: Duration,
    idle: Duration,
}

impl Follower {
    /// A follower and the handle for everyone else.
    pub(crate) fn new(
        rpc: Rpc,
        prover: Prover,
        charter: &Charter,
        servers: Vec<String>,
        floor_file: PathBuf,
    ) -> (Self, Ledger) {
        let floor = fs::read_to_string(&floor_file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default();
        let (out, verified) = watch::channel(Verified {
            height: floor,
            view_height: floor,
            problem: Some("no ledger server has answered yet".to_owned()),
            ..Verified::default()
        });
        let servers = Arc::new(servers);
        let ledger = Ledger { rpc: rpc.clone(), prover: prover.clone(), servers: servers.clone(), verified };
        let idle = Duration::from_millis(charter.timing.block_idle_ms);
        let stale_after = STALE_MIN.max(idle * u32::try_from(STALE_IDLE_BLOCKS).unwrap_or(u32::MAX));
        (Self { rpc, prover, servers, out, floor_file, stale_after, idle }, ledger)
    }

    /// Follows for ever.
    pub(crate) async fn run(self) {
        let mut index = 0;
        let mut failures = 0;
        loop {
            let server = self.servers[index].clone();
            let before = self.out.borrow().height;
            let error = self.stay_with(&server, index > 0).await;
            let Some(error) = error else {
                tracing::info!(server = self.servers[0], "the preferred ledger server is back");
                index = 0;
                continue;
            };
            let progressed = self.out.borrow().height > before;
            failures = if progressed { 1 } else { failures + 1 };
            tracing::debug!(%error, "looks for another ledger server");
            if failures >= self.servers.len() {
                self.out.send_modify(|verified| {
                    verified.server = None;
                    verified.problem = Some(format!("the ledger cannot be reached: {error}"));
                });
                tokio::time::sleep(LEDGER_RETRY).await;
            }
            index = (index + 1) % self.servers.len();
        }
    }

    /// Follows one server until it fails. `None`: the preferred server can be followed again.
    async fn stay_with(&self, server: &str, substitute: bool) -> Option<LedgerError> {
        let joined = Instant::now();
        let mut progress = Instant::now();
        let mut prefer = tokio::time::interval(PREFER_FIRST_EVERY);
        prefer.reset();
        loop {
            let known = self.out.borrow().height;
            let poll = self.finality(server, known + 1, self.poll_patience());
            let polled = tokio::select! {
                polled = poll => polled,
                _ = prefer.tick(), if substitute => {
                    if self.is_good(&self.servers[0]).await {
                        return None;
                    }
                    continue;
                }
            };
            let header = match polled {
                Ok(header) => header,
                Err(error) => return Some(error),
            };
            // A server that has just been joined may stand exactly where this node is: that is as good as news.
            let first = self.out.borrow().view.is_none();
            if header.number > known || (first && header.number == known) {
                progress = Instant::now();
                if let Err(error) = self.take(server, &header).await {
                    return Some(error);
                }
            } else if progress.elapsed() > self.stale_after {
                let silent_s = joined.elapsed().min(progress.elapsed()).as_secs();
                return Some(LedgerError::Stale { server: server.to_owned(), silent_s });
            } else {
                // It answered at once with something old: do not ask in a tight loop.
                tokio::time::sleep(self.idle.min(LEDGER_RETRY)).await;
            }
        }
    }

    /// How long one poll may take: a hung server is noticed as soon as a stale one.
    fn poll_patience(&self) -> Duration {
        self.stale_after.min(Duration::from_millis(FINALITY_WAIT_MS) + LEDGER_ANSWER)
    }

    async fn finality(&self, server: &str, at_least: u64, patience: Duration) -> Result<Header, LedgerError> {
        let finality: Finality = self.rpc.call(server, "atoll_finality", (at_least,), patience).await?;
        self.prover.finality(&finality).map_err(|source| LedgerError::Lie { server: server.to_owned(), source })
    }

    /// Whether a server is up to date.
    async fn is_good(&self, server: &str) -> bool {
        let known = self.out.borrow().height;
        self.finality(server, known, LEDGER_ANSWER).await.is_ok_and(|header| header.number >= known)
    }

    /// Takes note of a certified block, and of the view when it changed.
    async fn take(&self, server: &str, header: &Header) -> Result<(), LedgerError> {
        let (change, floor) = {
            let verified = self.out.borrow();
            (verified.view.as_ref().map(|view| view.change), verified.view_height)
        };
        // A counter that no region has makes the server send everything.
        let asked = change.unwrap_or(u64::MAX);
        let proven: Proven = self.rpc.call(server, "atoll_regionView", (asked,), LEDGER_ANSWER).await?;
        let news = self
            .prover
            .view(&proven, change, floor)
            .map_err(|source| LedgerError::Lie { server: server.to_owned(), source })?;
        let (view_header, view) = match news {
            ViewNews::Same(header) => (header, None),
            ViewNews::New(header, view) => (header, Some(Arc::new(*view))),
        };
        if view.is_some() {
            let floor = view_header.number.to_string();
            if let Err(error) = write_atomic(&self.floor_file, floor.as_bytes()) {
                tracing::warn!(%error, path = %self.floor_file.display(), "cannot write down the verified height");
            }
        }
        let newest = if view_header.number > header.number { &view_header } else { header };
        self.out.send_modify(|verified| {
            verified.height = verified.height.max(newest.number);
            verified.time_ms = verified.time_ms.max(newest.timestamp_ms);
            verified.heard = Some(Instant::now());
            verified.server = Some(server.to_owned());
            verified.problem = None;
            verified.view_height = verified.view_height.max(view_header.number);
            if view.is_some() {
                verified.view = view.clone();
            }
        });
        if view.is_some() {
            tokio::time::sleep(VIEW_EVERY).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
