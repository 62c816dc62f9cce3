//! Byzantine fault tolerant agreement on one chain of blocks: commonware's simplex and marshal, wired to an
//! [`Application`] that builds and judges the blocks.
//!
//! The engine never executes a transaction; the application never sees a vote. Read [`Application`] and [`Block`] first.
//!
//! ```text
//!            votes, certificates                    finalizations          blocks in order
//!  network ◀─────────────────────▶ simplex ─────────────────────▶ marshal ─────────────────▶ delivery ─▶ application
//!     ▲                               │ propose, verify             ▲  │                                    ▲
//!     │                               └──▶ inline ──▶ adapter ──────┼──┼────────────────────────────────────┘
//!     └──────────── blocks (buffer, backfill) ──────────────────────┘  └ archives of blocks and certificates
//! ```
//!
//! *Inline* verification: a validator votes only for what its application has executed and found valid.

mod adapter;
mod application;
mod block;
mod clock;
mod delivery;
pub mod limits;
pub(crate) mod network;
pub(crate) mod peers;
mod status;
mod wiring;

pub use application::{Ancestors, Application, Gossip, Proposal};
pub use block::{Block, BlockError};
pub use status::Status;
pub use wiring::EngineError;
pub(crate) use wiring::{Setup, run};

#[cfg(test)]
mod tests;
