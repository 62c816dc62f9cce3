//! The daemons: `atoll ledger run`, `atoll node run`; `atoll mesh run` is in [`super::mesh`]. `atoll up` starts them; people rarely do.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use clap::Subcommand;
use serde::de::DeserializeOwned;
use tokio::signal::unix::{SignalKind, signal};

use super::failure::OrFail as _;
use crate::dashboard::{self, Source};

/// `atoll ledger`, `atoll node`.
#[derive(Debug, Subcommand)]
pub(crate) enum DaemonCommand {
    /// Run the daemon until SIGTERM; `atoll up` does this for you
    Run {
        /// Its configuration, TOML
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

impl DaemonCommand {
    fn config<T: DeserializeOwned>(&self) -> Result<T> {
        let Self::Run { config } = self;
        read(config)
    }
}

/// Orders transactions. It brings its own runtime.
pub(crate) fn ledger(command: &DaemonCommand) -> Result<ExitCode> {
    atoll_ledger::run(command.config()?, stop()).or_fail(|| "the ledger daemon ended", logs)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs leases, forwards browsers, answers names; shows the region's page on the gateway.
pub(crate) fn node(command: &DaemonCommand) -> Result<ExitCode> {
    let config: atoll_node::Config = command.config()?;
    let charter: atoll_base::Charter = read(&config.charter)?;
    let source = Source::new(charter, &config.servers, atoll_api::UnixClient::new(config.socket.clone()));
    runtime(&mut tokio::runtime::Builder::new_multi_thread())?
        .block_on(async { atoll_node::run(config, Some(dashboard::router(source)), stop()).await })
        .or_fail(|| "the node daemon ended", logs)?;
    Ok(ExitCode::SUCCESS)
}

/// What to do when a daemon ended.
pub(super) fn logs() -> &'static str {
    "correct what is named above and start it again; ATOLL_LOG=debug says more"
}

/// Reads the configuration of a daemon.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let cure = || "correct it, or name another file; those of a region are written by `atoll up`";
    let text = std::fs::read_to_string(path).or_fail(|| format!("cannot read {}", path.display()), cure)?;
    toml::from_str(&text).or_fail(|| format!("{} is not a configuration of this daemon", path.display()), cure)
}

/// The runtime of a daemon.
pub(super) fn runtime(builder: &mut tokio::runtime::Builder) -> Result<tokio::runtime::Runtime> {
    builder
        .enable_all()
        .build()
        .or_fail(|| "cannot start the asynchronous runtime", || "close other programs: the machine is out of resources")
}

/// Ready when the daemon is asked to stop.
pub(super) async fn stop() {
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("asked to stop");
        }
        (Err(error), _) | (_, Err(error)) => {
            // The signals then end the process at once, which every daemon survives.
            tracing::warn!(%error, "cannot listen for signals");
            std::future::pending::<()>().await;
        }
    }
}
