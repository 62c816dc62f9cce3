//! The local APIs of the daemons: versioned request and response types, and the client that speaks them.
//!
//! Each daemon serves HTTP with JSON on a unix socket of its own (paths under `/v1/`); the ledger speaks JSON-RPC
//! instead, as Ethereum does, with a few methods of its own ([`ledger`]). Daemons and the command line meet only here.

pub mod client;
pub mod ledger;
pub mod mesh;
pub mod node;
pub mod pcap;
pub mod supervisor;

pub use client::{ClientError, UnixClient};

use serde::{Deserialize, Serialize};

/// Body of every answer with a status of 400 or above.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What happened and why.
    pub error: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}
