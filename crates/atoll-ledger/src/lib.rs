//! The ledger daemon: consensus engine, storage, mempool, JSON-RPC around atoll-ledger-core.
//!
//! The consensus engine ([`engine`]) orders blocks and knows nothing of their contents; the chain behind
//! [`engine::Application`] builds, verifies, executes and keeps them. Start with [`run`].

pub mod chain;
pub mod config;
mod daemon;
pub mod engine;
pub mod limits;
pub mod mempool;
mod metrics;
pub mod rpc;
pub mod store;

pub use config::{Config, ConfigError};
pub use daemon::{LedgerError, run};
