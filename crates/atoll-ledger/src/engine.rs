//! Byzantine fault tolerant agreement on one chain of blocks: commonware's simplex and marshal, wired to an
//! [`Application`] that builds and judges the blocks.
//!
//! The engine never executes a transaction; the application never sees a vote. Read [`Application`] and [`Block`] first.

mod application;
mod block;
pub mod limits;
mod status;

pub use application::{Ancestors, Application, Gossip, Proposal};
pub use block::{Block, BlockError};
pub use status::Status;
