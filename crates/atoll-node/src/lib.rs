//! The node daemon: follows the ledger without trusting any server of it, runs the leases that are this node's, serves
//! images and logs to other nodes, answers names, and forwards people's browsers to apps.
//!
//! What to run is decided in `atoll-node-core`; this crate only knows and does. Read [`Config`] and [`run()`] first.
//!
//! ```text
//! ledger servers ──certificates, proofs──▶ follow ──watch──▶ runner ──▶ containers   (capacity)
//!        ▲                                   │                 │
//!        └── heartbeats, reports ── send ◀───┼── journal ◀─────┘
//!                                            ├──▶ gateway ──▶ apps     (browsers of this machine)
//!                                            └──▶ names, blobs, logs   (other nodes, over the mesh)
//! ```

#![forbid(unsafe_code)]

mod api;
mod board;
mod config;
mod dns;
mod forward;
mod gateway;
mod images;
mod ledger;
pub mod limits;
mod logs;
mod members;
mod metrics;
mod peer;
mod peers;
mod probe;
mod problem;
mod run;
mod runner;
mod tell;

pub use config::{Config, ConfigError};
pub use run::{NodeError, run};
