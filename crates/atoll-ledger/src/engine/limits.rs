//! Bounds of the consensus engine.

use atoll_base::limits::{BLOCK_BYTES_MAX, TRANSACTION_BYTES_MAX};

/// Blocks that the application may have under way in `finalized` at once.
pub const UNACKNOWLEDGED_MAX: usize = 8;
/// One message of gossip: a transaction, or a few small ones.
pub const GOSSIP_BYTES_MAX: usize = TRANSACTION_BYTES_MAX + 64;
/// Messages of gossip that wait to be sent.
pub const GOSSIP_QUEUE: usize = 1024;
/// How far ahead of the own clock a block may be before it is waited for, milliseconds.
pub const CLOCK_SKEW_MS: u64 = 2_000;

const _: () = assert!(GOSSIP_BYTES_MAX < BLOCK_BYTES_MAX);
