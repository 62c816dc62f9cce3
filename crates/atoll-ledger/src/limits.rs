//! Bounds of the daemon: every queue, table, message and retry.

use atoll_base::limits::{BLOCK_BYTES_MAX, TRANSACTION_BYTES_MAX};

/// Transactions that pay for gas and wait for a block.
pub const POOL_PAID_MAX: usize = 16_384;
/// Free calls of nodes that wait for a block: counted apart, so that no flood of paid ones silences the nodes.
pub const POOL_FREE_MAX: usize = 4_096;
/// Bytes of all waiting transactions.
pub const POOL_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Transactions of one sender that wait. Also how far a nonce may lie ahead of the account's.
pub const POOL_PER_SENDER_MAX: u64 = 64;
/// Free calls of one sender that wait.
pub const POOL_FREE_PER_SENDER_MAX: usize = 16;
/// A replacement must pay so much more, in percent.
pub const POOL_REPLACE_PERCENT: u128 = 10;
/// Gas of the transactions that one proposal looks at, in multiples of the block's gas limit: some use less than they ask for.
pub const PROPOSAL_GAS_FACTOR: u64 = 2;
/// Bytes of the transactions in one block; the rest is left for the header and the lengths.
pub const PROPOSAL_BYTES_MAX: usize = BLOCK_BYTES_MAX - 16 * 1024;

/// Requests that wait for the journal's next sync.
pub const JOURNAL_QUEUE_MAX: usize = 4_096;
/// Entries that one sync covers.
pub const JOURNAL_GROUP_MAX: usize = 1_024;
/// The journal is rewritten when it is at least this long and mostly dead.
pub const JOURNAL_COMPACT_BYTES: u64 = 4 * 1024 * 1024;

/// Gossip messages of other validators that wait to be looked at.
pub const GOSSIP_INBOX_MAX: usize = 256;
/// Bytes of pending transactions in one round of re-gossip.
pub const GOSSIP_REPEAT_BYTES_MAX: usize = 1024 * 1024;
/// Pending transactions are gossiped again this often, in case a message was lost or a validator was down.
pub const GOSSIP_REPEAT_MS: u64 = 10_000;

/// A commit that failed is tried again after this time.
pub const COMMIT_RETRY_MS: u64 = 1_000;
/// Blocks that one durable commit covers.
pub const COMMIT_GROUP_MAX: usize = 8;
/// Executed blocks that are kept above the committed one: beyond that the oldest fork is forgotten, and executed again if
/// it is asked for.
pub const TREE_BLOCKS_MAX: usize = 256;

/// After so many final blocks every sender in the pool is compared with the state, not only those of the block.
pub const POOL_SWEEP_BLOCKS: u64 = 64;

/// Connections of one RPC address.
pub const RPC_CONNECTIONS_MAX: u32 = 256;
/// Body of one RPC request: a transaction in hexadecimal, with room for a batch of small ones.
pub const RPC_REQUEST_BYTES_MAX: u32 = 2 * 1024 * 1024;
/// Body of one RPC answer.
pub const RPC_RESPONSE_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// Requests in one batch.
pub const RPC_BATCH_MAX: u32 = 128;
/// Heavy requests (execution, proofs, log search) at once.
pub const RPC_HEAVY_MAX: usize = 4;
/// Newest states that questions can be about.
pub const RECENT_STATES: usize = 16;
/// A ledger whose newest block is older has a problem.
pub const STALLED_MS: u64 = 10_000;
/// Block hashes that one poll of a filter gives.
pub const RPC_FILTER_BLOCKS_MAX: u64 = 1_024;
/// Blocks that one `eth_getLogs` may search; those without logs cost nothing.
pub const RPC_LOGS_BLOCKS_MAX: u64 = 1_000_000;
/// Logs that one answer may hold.
pub const RPC_LOGS_MAX: usize = 10_000;
/// Addresses, or topics at one position, in one log filter.
pub const RPC_FILTER_ITEMS_MAX: usize = 256;
/// Blocks in one `eth_feeHistory`.
pub const RPC_FEE_HISTORY_MAX: u64 = 1_024;
/// Storage slots in one `eth_getProof`.
pub const RPC_PROOF_SLOTS_MAX: usize = 1_024;
/// Polling filters of all clients; the one unused for longest makes room.
pub const RPC_FILTERS_MAX: usize = 1_024;
/// A polling filter that nobody asked for so long is dropped.
pub const RPC_FILTER_IDLE_MS: u64 = 300_000;
/// Requests of `atoll_finality` that wait at once.
pub const RPC_WAITERS_MAX: usize = 1_024;
/// An address that cannot be bound yet is tried again after this time.
pub const RPC_BIND_RETRY_MS: u64 = 250;

const _: () = assert!(TRANSACTION_BYTES_MAX <= PROPOSAL_BYTES_MAX);
const _: () = assert!(TRANSACTION_BYTES_MAX * 2 + 1024 <= RPC_REQUEST_BYTES_MAX as usize);

/// The database's cache of blocks that it read.
pub const STORE_CACHE_BYTES: u64 = 8 * 1024 * 1024;
/// What each of the database's two keyspaces gathers in memory before it goes into a sorted file.
pub const STORE_MEMTABLE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// The database's journals; the least that fjall accepts.
pub const STORE_JOURNAL_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Files of the database that are open at once.
pub const STORE_FILES_MAX: usize = 128;
/// Less free disk than this, and nothing is written: room for the database to flush and compact what it has.
pub const STORE_RESERVE_BYTES: u64 = 128 * 1024 * 1024;
