//! Every bound of the ledger's rules. They are part of the protocol: changing one changes which blocks are valid.

use atoll_base::limits as base;

/// Gas that all transactions of a block may use together; one transaction may use all of it.
pub const BLOCK_GAS: u64 = 30_000_000;
/// Transactions in one block.
pub const BLOCK_TRANSACTIONS_MAX: usize = 2_048;
/// Room that a block needs beside its transactions: the header and the lists' own lengths.
pub const BLOCK_OVERHEAD_BYTES: usize = 1_024;

/// Gas that one free call may use.
pub const FREE_CALL_GAS_MAX: u64 = 1_000_000;
/// Free calls of one account in one block.
pub const FREE_CALLS_MAX: u32 = 8;

/// What an `eth_call` may return or a system contract may be given, decoded.
pub const ABI_MEMORY_BYTES_MAX: usize = 1024 * 1024;
/// Records that one listing returns at most.
pub const LIST_MAX: u64 = 100;

/// Nodes that may register. Placement looks at all of them.
pub const NODES_MAX: u64 = 8_192;
/// Deployments that are alive at once. Their numbers fit one record.
pub const DEPLOYMENTS_ALIVE_MAX: usize = 4_096;
/// Leases that are alive at once. The end of a block may look at all of them.
pub const LEASES_ALIVE_MAX: u64 = 16_384;
/// Leases of one deployment.
pub const LEASES_PER_DEPLOYMENT_MAX: usize = 64;
/// Placements that the end of one block tries, over all nodes each; the others follow in the next block.
pub const PLACEMENTS_PER_BLOCK_MAX: usize = 1_024;

/// A deployment must be able to pay for so long when it is made or resumed.
pub const ESCROW_MIN_MS: u64 = 3_600_000;

/// Gas for entering a system contract.
pub const GAS_BASE: u64 = 700;
/// Gas for reading one word of a system contract's storage.
pub const GAS_READ: u64 = 200;
/// Gas for changing one word of a system contract's storage.
pub const GAS_WRITE: u64 = 2_000;
/// Gas for one word of input or output.
pub const GAS_COPY: u64 = 3;
/// Gas for a log, for each of its topics, and for each byte of its data.
pub const GAS_LOG: u64 = 375;
/// See [`GAS_LOG`].
pub const GAS_LOG_BYTE: u64 = 8;
/// Gas for checking a node's signature.
pub const GAS_SIGNATURE: u64 = 4_000;
/// Gas for moving coins.
pub const GAS_TRANSFER: u64 = 6_700;
/// Gas for looking at one node while placing one replica.
pub const GAS_CANDIDATE: u64 = 30;

const _: () = assert!(NODES_MAX <= base::NODES_MAX);
const _: () = assert!(DEPLOYMENTS_ALIVE_MAX as u64 <= base::DEPLOYMENTS_ALIVE_MAX);
// A list of numbers below 2^24 takes at most 4 bytes each, and a record holds at most 32 KiB.
const _: () = assert!(DEPLOYMENTS_ALIVE_MAX * 4 <= 32 * 1024 - 16);
const _: () = assert!(LEASES_PER_DEPLOYMENT_MAX <= base::SERVICES_MAX * base::REPLICAS_MAX as usize);
const _: () = assert!(FREE_CALL_GAS_MAX * FREE_CALLS_MAX as u64 <= BLOCK_GAS);
const _: () = assert!(base::TRANSACTION_BYTES_MAX * 2 + BLOCK_OVERHEAD_BYTES <= base::BLOCK_BYTES_MAX);
