//! API of the supervisor (`atoll up`). `GET /v1/status` → [`SupervisorStatus`]; `POST /v1/restart` of [`RestartRequest`]
//! stops one daemon and starts it again; `POST /v1/stop` stops everything in order.

use serde::{Deserialize, Serialize};

/// What the supervisor keeps running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupervisorStatus {
    /// Version of the program.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Every daemon.
    pub daemons: Vec<Daemon>,
}

/// One daemon of one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Daemon {
    /// The member (machine) that it belongs to: `home`, or in a lab `v1`, `n2`, `host`.
    pub member: String,
    /// `mesh`, `ledger` or `node`.
    pub role: String,
    /// Its process while it runs.
    pub pid: Option<u32>,
    /// How often it was started again.
    pub restarts: u32,
    /// Network namespace, when it is not the machine's own.
    pub namespace: Option<String>,
    /// Its log file.
    pub log: String,
    /// Its API socket.
    pub socket: Option<String>,
    /// Why it does not run.
    pub problem: Option<String>,
}

/// Which daemon starts again, with the configuration that its file has now. The answer comes when the old one has ended;
/// it is 404 for a daemon that the supervisor does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartRequest {
    /// The member that it belongs to.
    pub member: String,
    /// `mesh`, `ledger` or `node`.
    pub role: String,
}
