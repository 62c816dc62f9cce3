//! Where everything of a region lies on this machine.

use std::{
    env,
    path::{Path, PathBuf},
};

/// Environment variable that names the state directory.
pub(crate) const STATE_ENV: &str = "ATOLL_STATE";

/// The state directory of a region: paths only, nothing is touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// For an explicit directory, else the environment's, else the default for a region of this name.
    pub(crate) fn find(explicit: Option<&Path>, region: &str) -> Self {
        let root = explicit
            .map(Path::to_owned)
            .or_else(|| env::var_os(STATE_ENV).map(PathBuf::from))
            .unwrap_or_else(|| Path::new("/var/lib/atoll").join(region));
        // Sockets and daemons get absolute paths whatever directory the command was typed in.
        let root = if root.is_absolute() { root } else { env::current_dir().unwrap_or_default().join(root) };
        Self { root }
    }

    /// The directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The owner's configuration; its existence says that the region was founded completely.
    pub(crate) fn settings(&self) -> PathBuf {
        self.root.join("atoll.toml")
    }

    /// The charter.
    pub(crate) fn charter(&self) -> PathBuf {
        self.root.join("charter.toml")
    }

    /// Accounts of the people on this machine: `wallet`, `provider`.
    pub(crate) fn account_key(&self, name: &str) -> PathBuf {
        self.root.join("keys").join(format!("{name}.key"))
    }

    /// Identity key of a node that is only in the mesh.
    pub(crate) fn mesh_identity(&self) -> PathBuf {
        self.root.join("identity.key")
    }

    /// API socket of the daemon of such a node.
    pub(crate) fn mesh_socket(&self) -> PathBuf {
        self.root.join("run/mesh.sock")
    }

    /// API sockets of the mesh daemons of the members on this machine that were started, by name of the member.
    pub(crate) fn mesh_sockets(&self) -> std::io::Result<Vec<(String, PathBuf)>> {
        let mut sockets = Vec::new();
        for entry in std::fs::read_dir(self.root.join("members"))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let socket = self.daemon_socket(&name, "mesh");
            if socket.exists() {
                sockets.push((name, socket));
            }
        }
        sockets.sort();
        Ok(sockets)
    }

    /// The supervisor's API.
    pub(crate) fn supervisor_socket(&self) -> PathBuf {
        self.root.join("run/supervisor.sock")
    }

    /// Held by the running supervisor.
    pub(crate) fn supervisor_lock(&self) -> PathBuf {
        self.root.join("run/supervisor.lock")
    }

    /// Process ids of the daemons, so that a supervisor after a crash finds what the last one left.
    pub(crate) fn daemons_file(&self) -> PathBuf {
        self.root.join("run/daemons.json")
    }

    /// Logs.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    /// A member's own directory.
    pub(crate) fn member(&self, member: &str) -> PathBuf {
        self.root.join("members").join(member)
    }

    /// A member's identity key.
    pub(crate) fn identity(&self, member: &str) -> PathBuf {
        self.member(member).join("identity.key")
    }

    /// Configuration of one daemon, made anew at each start.
    pub(crate) fn daemon_config(&self, member: &str, role: &str) -> PathBuf {
        self.member(member).join(format!("{role}.toml"))
    }

    /// API socket of one daemon.
    pub(crate) fn daemon_socket(&self, member: &str, role: &str) -> PathBuf {
        self.member(member).join("run").join(format!("{role}.sock"))
    }

    /// Data of one daemon.
    pub(crate) fn daemon_data(&self, member: &str, role: &str) -> PathBuf {
        self.member(member).join(role)
    }
}
