//! The ledger's rules: what a block is, when it is valid, and what executing it does to the state.
//!
//! This crate never does I/O, never reads a clock, never draws randomness and never iterates over a hash map: the same
//! parent state and the same block give the same bytes on every machine. Read [`Env`] and [`execute`] first: the one is
//! all that a block knows of the world, the other is the whole transition; then [`system`], the contracts in native code
//! that place, move, bill and stop workloads.
//!
//! ```text
//! parent state ──▶ execute(env, txs) ──▶ StateDiff ──▶ state root ┐
//!                        │                                        ├──▶ Header ──▶ block hash (voted on)
//!                        └─▶ receipts ──▶ receipts root ──────────┘
//! ```

pub mod block;
pub mod execute;
pub mod genesis;
pub mod limits;
pub mod state;
pub mod system;
pub mod transaction;

pub use block::{Block, Receipt};
pub use execute::{Env, Executed, Mode, execute};
pub use genesis::genesis;
pub use transaction::{Invalid, Transaction};
