//! JSON-RPC methods of the ledger beside Ethereum's.
//!
//! * `atoll_status()` → [`LedgerStatus`]
//! * `atoll_finality(min_height)` → [`Finality`]: the newest finalised header with its certificate. When it is not yet
//!   at `min_height`, waits for it for at most [`FINALITY_WAIT_MS`] and then answers with what there is.
//! * `atoll_regionView(change)` → [`Proven`] of `schema::region_view`; only the proof of the change counter when the
//!   region's counter still is `change`
//! * `atoll_sealedView(deployment, service, node)` → [`Proven`] of `schema::sealed_view`

use alloy_primitives::{Address, B256, Bytes, U256};
use atoll_base::{NodeId, RegionId};
use serde::{Deserialize, Serialize};

/// Longest wait of `atoll_finality`, milliseconds.
pub const FINALITY_WAIT_MS: u64 = 5_000;

/// Where the ledger stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LedgerStatus {
    /// Version of the program.
    pub version: String,
    /// Who it is.
    pub node: NodeId,
    /// Its region.
    pub region: RegionId,
    /// The region's name.
    pub region_name: String,
    /// Whether it votes.
    pub validator: bool,
    /// Height of the newest final block.
    pub height: u64,
    /// Hash of that block.
    pub hash: B256,
    /// Its time, milliseconds since 1970.
    pub timestamp_ms: u64,
    /// Newest time from proposal to finality, milliseconds.
    pub finality_ms: Option<u64>,
    /// Validators that it is connected to.
    pub peers: Vec<NodeId>,
    /// Transactions that wait for a block.
    pub pending: u64,
    /// What is wrong, in plain words; empty when all is well.
    pub problems: Vec<String>,
}

/// A header that the validators made final.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finality {
    /// RLP of the header.
    pub header: Bytes,
    /// The finality certificate, in the form that `atoll-light` verifies.
    pub certificate: Bytes,
}

/// Storage words with their proof, at a final block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proven {
    /// The block whose state root the proof leads to.
    pub finality: Finality,
    /// The words that the view read, in order of (contract, slot).
    pub words: Vec<ProvenWord>,
    /// All trie nodes that the proofs need, each once.
    pub nodes: Vec<Bytes>,
}

/// One word of a contract's storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvenWord {
    /// The contract.
    pub contract: Address,
    /// The slot, before hashing.
    pub slot: B256,
    /// Its value.
    pub value: U256,
}
