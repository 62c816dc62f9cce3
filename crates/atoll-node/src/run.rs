//! Puts the parts together.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use axum::Router;
use hickory_server::Server;
use tokio::{
    net::{TcpListener, UdpSocket, UnixListener},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use crate::{
    api::{self, Api},
    board::{Board, Shared},
    config::{Checked, Config, ConfigError},
    dns::{Names, Uplink},
    forward,
    gateway::{Gateway, pool::Pool},
    images::{
        ImageError, ImageStore,
        fetch::{Fetcher, on_the_mesh},
    },
    ledger::{
        follow::Follower,
        prove::Prover,
        rpc::Rpc,
        send::{AccountError, Records, Sender, signer},
    },
    limits::{DNS_PORT, DNS_TCP, LEDGER_RETRY, PEER_PORT},
    members,
    metrics::Metrics,
    peer::{self, Blobs},
    peers,
    probe::{self, Found},
    problem::http_client,
    runner::{
        Runner,
        journal::JournalError,
        vault::{Vault, VaultKeys, private_folder},
    },
};

/// Why the daemon cannot run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The charter's validators.
    #[error("the charter cannot be used to verify the ledger")]
    Charter(#[from] atoll_light::certificate::ValidatorError),
    /// The image store.
    #[error("the image store cannot be used: {0}")]
    Images(String),
    /// The journal.
    #[error("the node's journal cannot be used: {0}")]
    Journal(String),
    /// The node's own account.
    #[error("{0}")]
    Account(String),
    /// The HTTP client.
    #[error("cannot make an HTTP client")]
    Http(#[from] reqwest::Error),
    /// A folder of the daemon.
    #[error("cannot make the folder {path}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A port or socket is taken, or not allowed.
    #[error("cannot listen on {place} for {what}{}", in_use(source))]
    Listen {
        /// For what.
        what: &'static str,
        /// Where.
        place: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn in_use(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => ": another program uses it; stop that one or choose another port",
        _ => "",
    }
}

impl From<ImageError> for NodeError {
    fn from(error: ImageError) -> Self {
        Self::Images(error.to_string())
    }
}

impl From<JournalError> for NodeError {
    fn from(error: JournalError) -> Self {
        Self::Journal(error.to_string())
    }
}

impl From<AccountError> for NodeError {
    fn from(error: AccountError) -> Self {
        Self::Account(error.to_string())
    }
}

/// Runs the daemon until `shutdown` is ready. An orderly end stops the workloads and keeps their data; when the daemon
/// is killed instead, the workloads go on and the next start adopts them. `dashboard` is what the gateway shows at
/// `localhost`. The executable that calls this must also serve `shim …` (see `atoll_os::shim::main`).
pub async fn run(
    config: Config,
    dashboard: Option<Router>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), NodeError> {
    let checked = Arc::new(Checked::read(config)?);
    let config = &checked.config;
    for folder in [config.data.clone(), config.data.join("workloads")] {
        private_folder(&folder).map_err(|source| NodeError::Folder { path: folder, source })?;
    }
    let metrics = Metrics::new();
    let store = ImageStore::open(config.data.join("images"))?;
    let fetcher = Fetcher::new(store.clone(), on_the_mesh(checked.region), checked.id)?;
    let http = http_client().build()?;
    let prover = Prover::new(&checked.charter)?;
    let floor_file = config.data.join("verified-height");
    let (follower, ledger) = Follower::new(Rpc::new()?, prover, &checked.charter, config.servers.clone(), floor_file);
    let (board_in, board) = watch::channel(Board::default());
    let (records_in, records) = watch::channel(Records::default());
    let (sending_in, sending) = watch::channel(None);
    let (mesh_in, mesh) = watch::channel(None);
    let (found_in, found) = watch::channel(Found::default());
    let shared =
        Shared { checked: checked.clone(), verified: ledger.verified(), board, sending, mesh, found: found.clone() };

    // Everything that can fail at the start does so before the first task runs.
    let socket = listen_unix(&config.socket)?;
    let mut tasks = JoinSet::new();
    serve_gateway(&mut tasks, &shared, dashboard, &metrics).await?;
    if let Some(address) = config.rpc_forward {
        let listener = listen(address, "the forwarding of JSON-RPC").await?;
        tasks.spawn(forward::serve(listener, ledger.clone()));
    }
    let vault = Vault::new(config.data.join("workloads"), checked.secret.clone());
    let (stop_in, stop) = watch::channel(false);
    let mut runner = None;
    if config.capacity.is_some() {
        let made =
            Runner::new(&checked, &ledger, store.clone(), fetcher.clone(), vault.clone(), found, board_in, records_in)?;
        tasks.spawn(probe::run(checked.clone(), found_in));
        let keys = VaultKeys { vault, records: records.clone() };
        let timing = &checked.charter.timing;
        let sender = Sender::new(
            ledger.clone(),
            checked.charter.chain_id,
            timing.heartbeat_ms,
            checked.id,
            signer(&checked.secret)?,
            records,
            keys,
            metrics.clone(),
            sending_in,
        );
        tasks.spawn(sender.run());
        runner = Some(tokio::spawn(made.run(stop)));
    }
    tasks.spawn(serve_mesh(shared.clone(), store.clone(), metrics.clone(), mesh_in));
    tell_mesh(&mut tasks, &shared);
    tasks.spawn(follower.run());
    let api = Api { shared, store, fetcher, http, metrics };
    tasks.spawn(async move {
        if let Err(error) = api::serve(socket, api).await {
            tracing::error!(%error, "the API ended");
        }
    });
    tracing::info!(node = %checked.id, region = %checked.charter.name, address = %checked.address(), "node runs");
    shutdown.await;
    stop_in.send_replace(true);
    finish(runner, tasks, &checked.config.socket).await;
    Ok(())
}

/// Tells the mesh daemon what it is to know of the ledger.
fn tell_mesh(tasks: &mut JoinSet<()>, shared: &Shared) {
    let Checked { config, charter, id, .. } = &*shared.checked;
    let socket = |is_used: bool| config.mesh_socket.clone().filter(|_| is_used);
    tasks.spawn(members::run(socket(config.closed || charter.is_closed()), shared.verified.clone()));
    tasks.spawn(peers::run(socket(config.learn), *id, shared.verified.clone()));
}

/// Waits for the workloads' orderly end, then ends everything else.
async fn finish(runner: Option<JoinHandle<()>>, mut tasks: JoinSet<()>, socket: &std::path::Path) {
    if let Some(runner) = runner
        && let Err(error) = runner.await
    {
        tracing::error!(%error, "the runner failed");
    }
    tasks.shutdown().await;
    if let Err(error) = std::fs::remove_file(socket) {
        tracing::debug!(%error, "the socket's file stays");
    }
}

fn listen_unix(path: &std::path::Path) -> Result<UnixListener, NodeError> {
    let error = |source| NodeError::Listen { what: "the API", place: path.display().to_string(), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(error)?;
    }
    // A socket that a killed daemon left behind is in the way; one that answers belongs to a daemon that lives.
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(error(io::ErrorKind::AddrInUse.into()));
    }
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(error(source)),
        _ => {}
    }
    UnixListener::bind(path).map_err(error)
}

async fn listen(address: SocketAddr, what: &'static str) -> Result<TcpListener, NodeError> {
    let error = |source| NodeError::Listen { what, place: address.to_string(), source };
    TcpListener::bind(address).await.map_err(error)
}

async fn serve_gateway(
    tasks: &mut JoinSet<()>,
    shared: &Shared,
    dashboard: Option<Router>,
    metrics: &Metrics,
) -> Result<(), NodeError> {
    let checked = &shared.checked;
    let gateway = Arc::new(Gateway {
        region: checked.region,
        region_name: checked.charter.name.clone(),
        verified: shared.verified.clone(),
        dashboard,
        metrics: metrics.clone(),
        pool: Pool::default(),
    });
    for address in &checked.config.gateway {
        let listener = listen(*address, "the gateway").await?;
        tasks.spawn(gateway.clone().serve(listener));
    }
    Ok(())
}

/// Serves on the own mesh address as soon as it exists: the mesh daemon may start after this one, or again.
async fn serve_mesh(shared: Shared, store: ImageStore, metrics: Metrics, problem: watch::Sender<Option<String>>) {
    let address = IpAddr::V6(shared.checked.address());
    let peers = async |listener| {
        let blobs = Blobs { store: store.clone(), metrics: metrics.clone() };
        peer::serve(listener, shared.clone(), blobs).await
    };
    let (listener, udp, tcp) = loop {
        match bind_mesh(address).await {
            Ok(bound) => break bound,
            Err(error) => {
                problem.send_replace(Some(format!(
                    "cannot listen on the mesh address {address}: {error}: is the mesh up?"
                )));
                tokio::time::sleep(LEDGER_RETRY).await;
            }
        }
    };
    problem.send_replace(None);
    let names = Names {
        region: shared.checked.region,
        region_name: shared.checked.charter.name.clone(),
        verified: shared.verified.clone(),
        uplink: Uplink::new(shared.checked.config.resolvers.clone()),
        metrics: metrics.clone(),
    };
    let mut server = Server::new(names);
    server.register_socket(udp);
    server.register_listener(tcp, DNS_TCP, 16);
    let served = tokio::select! {
        served = peers(listener) => served.map_err(|e| e.to_string()),
        served = server.block_until_done() => served.map_err(|e| e.to_string()),
    };
    let why = served.err().unwrap_or_else(|| "a server ended".to_owned());
    tracing::error!(why, "the servers on the mesh address ended");
    problem.send_replace(Some(format!("the servers on the mesh address ended: {why}; start the node again")));
}

async fn bind_mesh(address: IpAddr) -> io::Result<(TcpListener, UdpSocket, TcpListener)> {
    let listener = TcpListener::bind((address, PEER_PORT)).await?;
    let udp = UdpSocket::bind((address, DNS_PORT)).await?;
    let tcp = TcpListener::bind((address, DNS_PORT)).await?;
    Ok((listener, udp, tcp))
}
