//! The daemon: opens what is on disk, answers JSON-RPC, takes part in consensus, and stops in order.
//!
//! It may be killed at any moment: what it acknowledged is durable, and the next start goes on from there.

use std::{
    future::Future,
    io,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use atoll_ledger_core::state::StateError;
use commonware_macros::select;
use commonware_runtime::{
    Clock as _, Runner as _, Spawner as _, Supervisor as _,
    tokio::{Config as RuntimeConfig, Context, Runner},
};

use crate::{
    chain::{Chain, ChainError},
    config::{Config, ConfigError, Member},
    engine::{self, EngineError, Gossip, Setup, Status, limits, peers},
    rpc::{self, RpcError},
    store::{FjallBackend, StoreError},
};

/// Why a ledger daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// It was told nonsense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its folder cannot be made.
    #[error("cannot make the ledger's folder {path}")]
    Data {
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The database cannot be opened.
    #[error("the ledger's database cannot be opened")]
    Store(#[from] StoreError),
    /// The chain cannot be opened.
    #[error("the ledger cannot be opened")]
    Chain(#[from] ChainError),
    /// The disk or the database failed.
    #[error("final blocks cannot be written: check the disk; the next start goes on from the last block on it")]
    Commit(#[source] Arc<StateError>),
    /// JSON-RPC cannot be served.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// An address is taken or not allowed.
    #[error("cannot listen on {address} for {what}; if another program uses this port, stop it or choose another port")]
    Listen {
        /// What would be served there.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Consensus has stopped.
    #[error("consensus has stopped")]
    Engine(#[from] EngineError),
}

/// Runs a validator's ledger until `shutdown` is ready. It brings its own runtime, so it must not be called from within
/// one; `shutdown` is polled inside of it and may use tokio.
pub fn run(config: Config, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), LedgerError> {
    run_until(config, Box::pin(shutdown))
}

type Shutdown = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Not generic, so that the engine is compiled with this crate and not again with each program that uses it.
fn run_until(config: Config, shutdown: Shutdown) -> Result<(), LedgerError> {
    let member = config.member()?;
    let consensus = config.data.join("consensus");
    std::fs::create_dir_all(&consensus).map_err(|source| LedgerError::Data { path: consensus.clone(), source })?;
    let runtime = RuntimeConfig::new()
        .with_worker_threads(limits::WORKER_THREADS)
        .with_max_blocking_threads(limits::BLOCKING_THREADS_MAX)
        .with_storage_directory(consensus);
    Runner::new(runtime).start(|context| serve(context, config, member, shutdown))
}

async fn serve(context: Context, config: Config, member: Member, shutdown: Shutdown) -> Result<(), LedgerError> {
    let backend = Arc::new(FjallBackend::open(&config.data.join("chain"))?);
    let chain = Chain::open(member.charter.clone(), backend, &config.data.join("mempool.journal"))?;
    let status = Status::default();
    let node = member.secret.id();
    let mesh = config.rpc_mesh_port.map(|port| peers::address(&member.charter, node, port));
    let addresses: Vec<_> = config.rpc.iter().copied().chain(mesh).collect();
    let _servers = rpc::serve(chain.clone(), status.clone(), node, &addresses)?;
    let validators = context.child("validator").spawn({
        let (chain, status) = (chain.clone(), status.clone());
        async move |context| take_part(context, member, config.p2p_port, chain, status).await
    });
    let ended = select! {
        () = shutdown => Ok(()),
        why = chain.broken() => Err(LedgerError::Commit(why)),
        ended = validators => ended.unwrap_or(Ok(())),
    };
    // Consensus gets the chance to write down what it has in hand; it needs none, as a crash is no different.
    if let Err(error) = context.stop(0, Some(limits::STOP_TIMEOUT)).await {
        tracing::debug!(%error, "consensus did not stop in time");
    }
    ended
}

/// Votes. Returns only when that is not possible.
async fn take_part(
    context: Context,
    member: Member,
    port: u16,
    chain: Chain,
    status: Status,
) -> Result<(), LedgerError> {
    let (gossip, queue) = Gossip::channel();
    chain.mempool().connect(gossip);
    let Member { charter, secret } = member;
    let setup = Setup {
        charter: charter.clone(),
        secret: secret.clone(),
        application: chain,
        gossip: queue,
        status,
        partition: String::new(),
    };
    if charter.validators.len() == 1 {
        match engine::run(context, setup, peers::alone(&secret)).await? {}
    }
    await_address(&context, peers::address(&charter, secret.id(), port)).await?;
    let (network, connections) = peers::connect(context.child("network"), &charter, &secret, port);
    select! {
        stopped = engine::run(context, setup, network) => match stopped? {},
        _ = connections => Err(EngineError::Stopped("network").into()),
    }
}

/// Waits until the mesh daemon has given this machine its address.
async fn await_address(context: &Context, address: SocketAddr) -> Result<(), LedgerError> {
    let mut waited = Duration::ZERO;
    loop {
        match TcpListener::bind(address) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                if waited.is_zero() {
                    tracing::info!(%address, "waiting for the mesh to bring up this node's address");
                }
            }
            // The process before this one may still be on its way out.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && waited < limits::PORT_PATIENCE => {}
            Err(source) => return Err(LedgerError::Listen { what: "consensus", address, source }),
        }
        context.sleep(limits::BIND_RETRY).await;
        waited += limits::BIND_RETRY;
    }
}
