//! What a ledger daemon is told when it starts.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use atoll_base::{Charter, NodeId, NodeSecret, keys::KeyError};
use atoll_light::certificate::{ValidatorError, check_validators};
use serde::{Deserialize, Serialize};

/// The daemon's configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The node's key file.
    pub identity: PathBuf,
    /// The region's charter.
    pub charter: PathBuf,
    /// Where everything is kept.
    pub data: PathBuf,
    /// TCP port of the consensus network, on the validators' mesh addresses.
    pub p2p_port: u16,
    /// Where JSON-RPC is served on this machine.
    pub rpc: Vec<SocketAddr>,
    /// Port on which JSON-RPC is also served on the own mesh address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpc_mesh_port: Option<u16>,
}

/// Why a daemon cannot start with this configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {what} {path}")]
    Read {
        /// What the file is for.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The key file holds no key.
    #[error("{path} is not a node's identity")]
    Identity {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: KeyError,
    },
    /// The charter is no charter.
    #[error("{path} is not a charter")]
    Charter {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: toml::de::Error,
    },
    /// The charter's validators cannot sign.
    #[error("the charter {path} cannot be used")]
    Validators {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ValidatorError,
    },
    /// This node does not vote.
    #[error(
        "node {node} is not a validator of region '{region}': only validators run a ledger so far; other nodes use the \
         validators' JSON-RPC, so leave `atoll ledger` out on this machine"
    )]
    NotAValidator {
        /// Who asks.
        node: NodeId,
        /// The region's name.
        region: String,
    },
}

/// A validator's secret and its region, both checked.
#[derive(Debug)]
pub struct Member {
    /// Who this is.
    pub secret: NodeSecret,
    /// The region.
    pub charter: Charter,
}

impl Config {
    /// Reads and checks the files that the configuration names.
    pub fn member(&self) -> Result<Member, ConfigError> {
        let identity = read("the node's identity", &self.identity)?;
        let secret = NodeSecret::from_text(&identity)
            .map_err(|source| ConfigError::Identity { path: self.identity.clone(), source })?;
        let charter: Charter = toml::from_str(&read("the charter", &self.charter)?)
            .map_err(|source| ConfigError::Charter { path: self.charter.clone(), source })?;
        check_validators(&charter).map_err(|source| ConfigError::Validators { path: self.charter.clone(), source })?;
        if !charter.validators.iter().any(|validator| validator.node() == secret.id()) {
            return Err(ConfigError::NotAValidator { node: secret.id(), region: charter.name });
        }
        Ok(Member { secret, charter })
    }
}

fn read(what: &'static str, path: &Path) -> Result<String, ConfigError> {
    fs::read_to_string(path).map_err(|source| ConfigError::Read { what, path: path.to_owned(), source })
}
