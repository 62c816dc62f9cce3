//! JSON-RPC: what wallets, libraries, nodes and gateways ask the ledger.
//!
//! Ethereum's methods ([`eth`]) are enough for viem, ethers and MetaMask; [`atoll`] has those of
//! [`atoll_api::ledger`], whose answers carry proofs. Everything shown is final and durable. Nobody has to trust this
//! server: the proofs lead to a header that a certificate vouches for.
//!
//! A single version of the state exists, so questions about the state are answered at the newest final block and a few
//! before it; blocks, receipts and logs are kept for ever.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    time::Duration,
};

use atoll_base::NodeId;
use jsonrpsee::{
    Methods, RpcModule,
    server::{BatchRequestConfig, ServerConfig, ServerHandle},
};
use tokio::sync::Semaphore;

use crate::{chain::Chain, engine::Status, limits};

mod atoll;
mod blocks;
mod call;
mod error;
mod eth;
mod http;
mod logs;
mod reason;
mod state;

#[cfg(test)]
mod tests;

/// An RPC server that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// Somebody else listens there.
    #[error(
        "JSON-RPC cannot listen on {address}: the port is in use; stop the program that uses it, or choose another"
    )]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// Any other reason.
    #[error("JSON-RPC cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What the methods answer from.
pub(crate) struct Rpc {
    pub(crate) chain: Chain,
    pub(crate) status: Status,
    pub(crate) node: NodeId,
    heavy: Semaphore,
    waiters: Semaphore,
    filters: Mutex<logs::Filters>,
    region_view: Mutex<Option<atoll::CachedView>>,
}

/// Running servers. They stop when this is dropped.
#[derive(Debug)]
pub struct RpcServers {
    _handles: Arc<Mutex<Vec<ServerHandle>>>,
    retries: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for RpcServers {
    fn drop(&mut self) {
        for retry in &self.retries {
            retry.abort();
        }
    }
}

/// Serves on all `addresses`, from within a tokio runtime. One that does not exist yet (the mesh may not be up) is tried
/// again until it does; one that is in use is an error. Metrics are shown on loopback addresses only.
pub fn serve(chain: Chain, status: Status, node: NodeId, addresses: &[SocketAddr]) -> Result<RpcServers, RpcError> {
    let rpc = Arc::new(Rpc {
        chain,
        status,
        node,
        heavy: Semaphore::new(limits::RPC_HEAVY_MAX),
        waiters: Semaphore::new(limits::RPC_WAITERS_MAX),
        filters: Mutex::default(),
        region_view: Mutex::default(),
    });
    let mut module = RpcModule::from_arc(Arc::clone(&rpc));
    eth::register(&mut module);
    atoll::register(&mut module);

    let handles = Arc::new(Mutex::new(Vec::new()));
    let mut retries = Vec::new();
    for address in addresses.iter().copied() {
        let listen =
            Listen { address, rpc: Arc::clone(&rpc), methods: Methods::clone(&module), handles: Arc::clone(&handles) };
        match listen.start() {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                tracing::info!(%address, "JSON-RPC waits for its address to exist");
                retries.push(tokio::spawn(listen.retry()));
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(RpcError::InUse { address }),
            Err(source) => return Err(RpcError::Listen { address, source }),
        }
    }
    Ok(RpcServers { _handles: handles, retries })
}

struct Listen {
    address: SocketAddr,
    rpc: Arc<Rpc>,
    methods: Methods,
    handles: Arc<Mutex<Vec<ServerHandle>>>,
}

impl Listen {
    fn start(&self) -> io::Result<()> {
        let listener = TcpListener::bind(self.address)?;
        listener.set_nonblocking(true)?;
        let config = ServerConfig::builder()
            .http_only()
            .max_connections(limits::RPC_CONNECTIONS_MAX)
            .max_request_body_size(limits::RPC_REQUEST_BYTES_MAX)
            .max_response_body_size(limits::RPC_RESPONSE_BYTES_MAX)
            .set_batch_request_config(BatchRequestConfig::Limit(limits::RPC_BATCH_MAX))
            .build();
        let metrics = self.address.ip().is_loopback().then(|| Arc::clone(&self.rpc));
        let server = jsonrpsee::server::Server::builder()
            .set_config(config)
            .set_http_middleware(tower::ServiceBuilder::new().layer(http::WebLayer::new(metrics)))
            .build_from_tcp(listener)?;
        let handle = server.start(self.methods.clone());
        self.handles.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(handle);
        tracing::info!(address = %self.address, "JSON-RPC answers");
        Ok(())
    }

    async fn retry(self) {
        let mut told = false;
        while let Err(error) = self.start() {
            if error.kind() != io::ErrorKind::AddrNotAvailable && !told {
                told = true;
                tracing::warn!(address = %self.address, %error, "JSON-RPC cannot listen here yet");
            }
            tokio::time::sleep(Duration::from_millis(limits::RPC_BIND_RETRY_MS)).await;
        }
    }
}
