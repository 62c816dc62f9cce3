//! The configuration, read again while the daemon runs.
//!
//! A file that is wrong in any way is refused as a whole, and what held before goes on. Of one that is right, what can
//! change at once does; the rest is named, and waits for the next start. Files, the kernel's routes and its firewall are
//! looked after here, so that the task that carries packets waits for none of them.

use std::{fs::File, io::Read as _, path::PathBuf, sync::Arc};

use atoll_api::{Problem, mesh::Reloaded};
use atoll_base::NodeId;
use atoll_os::{firewall::FirewallError, tun::TunError};
use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{Mutex, mpsc},
};

use crate::{
    Config, ConfigError, MeshError,
    api::{Request, ask},
    daemon::{Change, Surroundings},
    limits::CONFIG_BYTES_MAX,
};

/// Reads the configuration again, one time after the other.
pub(crate) struct Reloader {
    file: Option<PathBuf>,
    requests: mpsc::Sender<Request>,
    /// Nothing when the daemon has stopped.
    state: Mutex<Option<Reloads>>,
}

/// What holds now.
struct Reloads {
    config: Config,
    node: NodeId,
    surroundings: Surroundings,
}

/// Why another configuration is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReloadError {
    /// There is none.
    #[error("this daemon was not started with a configuration file")]
    NoFile,
    /// The daemon is on its way out.
    #[error("the mesh daemon is stopping")]
    Stopping,
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is larger than any configuration.
    #[error("{0} has more than {CONFIG_BYTES_MAX} bytes")]
    TooLong(PathBuf),
    /// It is not a configuration.
    #[error("{path} is not a configuration of this daemon: {source}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// It says something that cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The firewall could not be changed.
    #[error("cannot change the firewall of this machine: {0}")]
    Firewall(FirewallError),
    /// The daemon could not start what it needs.
    #[error(transparent)]
    Mesh(MeshError),
    /// Everything else is as the file says.
    #[error("all but the routes of other regions is as the file says: {0}")]
    Routes(TunError),
}

impl Reloader {
    /// For a daemon that begins with this configuration, as this node.
    pub(crate) fn new(
        file: Option<PathBuf>,
        (config, node): (Config, NodeId),
        surroundings: Surroundings,
        requests: mpsc::Sender<Request>,
    ) -> Self {
        Self { file, requests, state: Mutex::new(Some(Reloads { config, node, surroundings })) }
    }

    /// Reads the file again, and does what it says.
    pub(crate) async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let result = match self.state.lock().await.as_mut() {
            Some(state) => self.change(state).await,
            None => Err(ReloadError::Stopping),
        };
        match &result {
            Ok(Reloaded { applied, restart }) => tracing::info!(?applied, ?restart, "the configuration was read again"),
            Err(error) => tracing::warn!(%error, "the configuration was read again, and is not used"),
        }
        result
    }

    async fn change(&self, state: &mut Reloads) -> Result<Reloaded, ReloadError> {
        let path = self.file.clone().ok_or(ReloadError::NoFile)?;
        let read = tokio::task::spawn_blocking(move || read(path)).await;
        let (written, key) = read.map_err(|_| ReloadError::Stopping)??;
        let (config, reloaded) = merge(written, &state.config, key != state.node);
        let parsed = config.parse_as(state.node)?;
        let (networks, before) = (parsed.others.networks(), state.surroundings.open().clone());
        state.surroundings.set_open(parsed.open.clone()).await.map_err(ReloadError::Firewall)?;
        let change = Box::new(Change { config: config.clone(), parsed });
        let answer = ask(&self.requests, |answer| Request::Reload(change, answer)).await;
        if let Err(error) = answer.map_err(|_| ReloadError::Stopping).and_then(|done| done.map_err(ReloadError::Mesh)) {
            state.surroundings.set_open(before).await.map_err(ReloadError::Firewall)?;
            return Err(error);
        }
        state.config = config;
        state.surroundings.set_regions(&networks).await.map_err(ReloadError::Routes)?;
        Ok(reloaded)
    }

    /// Removes what there is around the device. Nothing is read any more.
    pub(crate) async fn stop(&self) {
        if let Some(state) = self.state.lock().await.take() {
            state.surroundings.stop().await;
        }
    }
}

/// Reads a configuration that is right in itself, and whose key it names.
fn read(path: PathBuf) -> Result<(Config, NodeId), ReloadError> {
    let mut text = String::new();
    let file = File::open(&path).and_then(|file| file.take(CONFIG_BYTES_MAX + 1).read_to_string(&mut text));
    match file {
        Err(source) => return Err(ReloadError::Read { path, source }),
        Ok(bytes) if bytes as u64 > CONFIG_BYTES_MAX => return Err(ReloadError::TooLong(path)),
        Ok(_) => {}
    }
    let config: Config =
        toml::from_str(&text).map_err(|source| ReloadError::Syntax { path, source: Box::new(source) })?;
    let node = config.read_key()?.id();
    config.parse_as(node)?;
    Ok((config, node))
}

/// What holds from now on if `written` is to and `now` does: of the settings that need a new start those of now. And which
/// settings differ.
fn merge(written: Config, now: &Config, is_other_key: bool) -> (Config, Reloaded) {
    // All of them, so that a new setting cannot be forgotten here.
    let Config {
        identity,
        region,
        interface,
        tun,
        listen,
        listen_tls,
        peers,
        discovery,
        members,
        socket,
        babel,
        open,
        exit,
        grant,
        regions,
        metrics,
    } = written;
    let applied = [
        ("peers", peers != now.peers),
        ("members", members != now.members),
        ("open", open != now.open),
        ("grant", grant != now.grant),
        ("regions", regions != now.regions),
    ];
    let restart = [
        ("identity", is_other_key || identity != now.identity),
        ("region", region != now.region),
        ("interface", interface != now.interface),
        ("tun", tun != now.tun),
        ("listen", listen != now.listen),
        ("listen_tls", listen_tls != now.listen_tls),
        ("discovery", discovery != now.discovery),
        ("socket", socket != now.socket),
        ("babel", babel != now.babel),
        ("exit", exit != now.exit),
        ("metrics", metrics != now.metrics),
    ];
    let changed = |settings: &[(&str, bool)]| {
        settings.iter().filter(|(_, differs)| *differs).map(|(name, _)| (*name).to_owned()).collect()
    };
    let reloaded = Reloaded { applied: changed(&applied), restart: changed(&restart) };
    (Config { peers, members, open, grant, regions, ..now.clone() }, reloaded)
}

/// The signal at which the file is read again; nothing if it cannot be heard.
pub(crate) fn hangups() -> Option<Signal> {
    signal(SignalKind::hangup())
        .inspect_err(|error| tracing::warn!(%error, "cannot listen for SIGHUP: use `atoll mesh reload`"))
        .ok()
}

/// Reads the file again at each signal.
pub(crate) async fn at_hangups(mut hangups: Signal, reloader: Arc<Reloader>) {
    while hangups.recv().await.is_some() {
        // What became of it is in the log.
        let _ = reloader.reload().await;
    }
}

/// `POST /v1/reload`.
pub(crate) async fn handle(State(reloader): State<Arc<Reloader>>) -> Result<Json<Reloaded>, ReloadError> {
    reloader.reload().await.map(Json)
}

impl IntoResponse for ReloadError {
    fn into_response(self) -> axum::response::Response {
        let goes_on = "correct the file, and try again; what held before goes on";
        let (status, cure) = match &self {
            Self::NoFile => (StatusCode::CONFLICT, "start it with `atoll mesh run --config FILE`, or start it anew"),
            Self::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "try again when it runs"),
            Self::Read { .. } | Self::TooLong(_) | Self::Syntax { .. } | Self::Config(_) => {
                (StatusCode::UNPROCESSABLE_ENTITY, goes_on)
            }
            Self::Firewall(_) | Self::Mesh(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "try again when that is mended; what held before goes on")
            }
            Self::Routes(_) => (StatusCode::INTERNAL_SERVER_ERROR, "try again when that is mended"),
        };
        (status, Json(Problem { error: self.to_string(), cure: Some(cure.to_owned()) })).into_response()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

    use atoll_base::{NodeSecret, RegionId};

    use super::*;

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let key = folder.path().join("identity.key");
        fs::write(&key, NodeSecret::from_seed([1; 32]).to_text()).expect("written");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("changed");
        folder
    }

    fn text(folder: &Path, more: &str) -> String {
        let key = folder.join("identity.key");
        format!("identity = {key:?}\nregion = \"{}\"\nlisten = \"[::]:1\"\nsocket = \"s\"\n{more}", RegionId([1; 32]))
    }

    fn config(folder: &Path, more: &str) -> Config {
        toml::from_str(&text(folder, more)).expect("it is well-formed")
    }

    #[test]
    fn what_can_change_at_once_does_and_the_rest_is_named() {
        let folder = folder();
        let now = config(folder.path(), "peers = [\"udp://192.0.2.7:1\"]\nopen = [\"tcp/22\"]");
        let (same, nothing) = merge(now.clone(), &now, false);
        assert_eq!((same.peers, nothing), (now.peers.clone(), Reloaded::default()));
        let written =
            config(folder.path(), "open = \"all\"\nmembers = []\nmetrics = \"[::1]:1\"\ndiscovery = [\"eth0\"]");
        let (merged, reloaded) = merge(written, &now, true);
        assert_eq!(reloaded.applied, ["peers", "members", "open"]);
        assert_eq!(reloaded.restart, ["identity", "discovery", "metrics"]);
        assert_eq!((merged.open, merged.members, merged.peers.len()), (vec!["all".to_owned()], Some(Vec::new()), 0));
        assert!(merged.metrics.is_none() && merged.discovery.is_empty(), "these wait for a new start");
    }

    #[test]
    fn a_file_that_is_wrong_in_any_way_is_refused_with_the_reason() {
        let folder = folder();
        let file = folder.path().join("mesh.toml");
        for (more, reason) in [
            ("open = [\"22\"]", "transport is missing"),
            ("peers = [\"192.0.2.7\"]", "udp://"),
            ("gant = \"00\"", "gant"),
            ("grant = \"00\"", "144 hexadecimal digits"),
            ("identity", "line 5"),
        ] {
            fs::write(&file, text(folder.path(), more)).expect("written");
            let error = read(file.clone()).expect_err(more).to_string();
            assert!(error.contains(reason), "{error}");
        }
        assert!(read(folder.path().join("nothing")).is_err_and(|error| matches!(error, ReloadError::Read { .. })));
        fs::write(&file, " ".repeat(CONFIG_BYTES_MAX as usize + 1)).expect("written");
        assert!(read(file.clone()).is_err_and(|error| matches!(error, ReloadError::TooLong(_))));
        fs::write(&file, text(folder.path(), "")).expect("written");
        assert_eq!(read(file).expect("it is right").1, NodeSecret::from_seed([1; 32]).id());
    }
}
