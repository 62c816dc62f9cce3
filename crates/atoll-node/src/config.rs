//! What the daemon is told at its start, and what it makes of it.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use atoll_base::{
    Charter, MeshAddr, NodeId, NodeSecret, RegionId, charter::CharterError, keys::KeyError, schema::Capacity,
};
use serde::{Deserialize, Serialize};

use crate::limits::DNS_UPLINKS_MAX;

/// `node.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// File of the node's identity seed.
    pub identity: PathBuf,
    /// File of the region's charter.
    pub charter: PathBuf,
    /// Folder of journal, images and workloads.
    pub data: PathBuf,
    /// Where the daemon's API listens.
    pub socket: PathBuf,
    /// JSON-RPC addresses of ledger servers, the preferred one first. None of them is trusted.
    pub servers: Vec<String>,
    /// What the node offers; none: it runs nothing.
    #[serde(default)]
    pub capacity: Option<Capacity>,
    /// `key=value` labels of the node.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Where the gateway listens; empty: no gateway.
    #[serde(default)]
    pub gateway: Vec<SocketAddr>,
    /// Where connections for a ledger server are accepted and passed on to the one that is healthy.
    #[serde(default)]
    pub rpc_forward: Option<SocketAddr>,
    /// Resolvers that are asked for names outside the region, the preferred one first; empty: such names are refused.
    #[serde(default)]
    pub resolvers: Vec<SocketAddr>,
    /// Where the mesh daemon is told what the ledger says of other nodes; none: it is not told.
    #[serde(default)]
    pub mesh_socket: Option<PathBuf>,
    /// Whether the mesh daemon is told where other nodes can be called, as their owners published it.
    #[serde(default)]
    pub learn: bool,
    /// Whether the mesh daemon lets in registered nodes only, and so has to be told who is registered, also in a region
    /// whose charter does not say so.
    #[serde(default)]
    pub closed: bool,
    /// The mesh daemon's interface.
    pub interface: String,
}

/// Why the daemon cannot start with this configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {what} {path}")]
    Read {
        /// What the file is.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not a key.
    #[error("{path} is not an identity")]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// Not TOML of a charter.
    #[error("{path} is not a charter")]
    Form {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A charter that no region can live by.
    #[error("{path} holds an impossible charter")]
    Charter {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: CharterError,
    },
    /// No server to follow.
    #[error("the list `servers` is empty: name at least one JSON-RPC address of a ledger server")]
    NoServers,
    /// More than are ever asked.
    #[error("`resolvers` has {0} entries: name {DNS_UPLINKS_MAX} at most")]
    Resolvers(usize),
    /// Not a server's address.
    #[error("'{0}' in `servers` is not an http address, as in http://127.0.0.1:8545")]
    Server(String),
}

/// A configuration that was read and checked, with what follows from it.
#[derive(Debug)]
pub(crate) struct Checked {
    /// As given.
    pub(crate) config: Config,
    /// The node's keys.
    pub(crate) secret: NodeSecret,
    /// The node's identity.
    pub(crate) id: NodeId,
    /// The region's charter.
    pub(crate) charter: Charter,
    /// The region.
    pub(crate) region: RegionId,
    /// The node's /112.
    pub(crate) net: MeshAddr,
}

impl Checked {
    /// Reads the files that the configuration names.
    pub(crate) fn read(config: Config) -> Result<Self, ConfigError> {
        let secret = NodeSecret::from_text(&read("the identity", &config.identity)?)
            .map_err(|source| ConfigError::Key { path: config.identity.clone(), source })?;
        let path = config.charter.clone();
        let charter: Charter = toml::from_str(&read("the charter", &path)?)
            .map_err(|source| ConfigError::Form { path: path.clone(), source: Box::new(source) })?;
        charter.check().map_err(|source| ConfigError::Charter { path, source })?;
        if config.servers.is_empty() {
            return Err(ConfigError::NoServers);
        }
        for server in &config.servers {
            let parsed = server.parse::<http::Uri>().ok();
            if parsed.is_none_or(|uri| uri.scheme_str() != Some("http") || uri.authority().is_none()) {
                return Err(ConfigError::Server(server.clone()));
            }
        }
        if config.resolvers.len() > DNS_UPLINKS_MAX {
            return Err(ConfigError::Resolvers(config.resolvers.len()));
        }
        let (id, region) = (secret.id(), charter.region_id());
        Ok(Self { net: MeshAddr::of(region, id), config, secret, id, charter, region })
    }

    /// The node's own mesh address.
    pub(crate) fn address(&self) -> Ipv6Addr {
        self.net.node()
    }
}

fn read(what: &'static str, path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { what, path: path.to_owned(), source })
}
