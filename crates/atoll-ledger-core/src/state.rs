//! The ledger's state: accounts, their storage and code under one Merkle-Patricia root, as in Ethereum.
//!
//! Everything that reads does so through [`StateRead`]; everything that executes answers with a [`StateDiff`]. Read these
//! two first. [`MemoryState`] is the plain model that tests compare against.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_trie::KECCAK_EMPTY;

mod backend;
mod change;
mod layer;
pub mod limits;
mod memory;
mod node;
mod overlay;
mod proof;
mod trie;

pub use backend::{BackendError, Batch, Column, MemoryBackend, StateBackend, StateView, Visit};
pub use layer::{Layer, StateTree};
pub use memory::{CodeMissing, MemoryState};
pub use proof::{AccountProof, MultiProof, RecordingReader, StorageProof};

/// Why the state cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The database failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The database holds something that this program never writes.
    #[error(
        "the ledger's database holds {0} in an unknown form: it is damaged, or of another version of atoll; \
             remove the ledger's data folder and restart, and the ledger is fetched again from the validators"
    )]
    Damaged(&'static str),
    /// Code that was never stored.
    #[error("the state has no code with hash {0}")]
    CodeMissing(B256),
    /// A fork was to be committed after its rival.
    #[error("the version to be committed does not descend from the committed one")]
    Stale,
    /// Nothing was committed for too long.
    #[error("{} blocks wait over the committed state: it must be committed before more are added", limits::LAYERS_MAX)]
    TooDeep,
    /// A proof of too much.
    #[error("a proof covers at most {} words", limits::PROOF_WORDS_MAX)]
    ProofTooLarge,
}

/// An account, without its storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccountInfo {
    /// Transactions sent, or contracts created.
    pub nonce: u64,
    /// In the smallest unit of the currency.
    pub balance: U256,
    /// Keccak-256 of the code; [`KECCAK_EMPTY`] when there is none.
    pub code_hash: B256,
}

impl Default for AccountInfo {
    fn default() -> Self {
        Self { nonce: 0, balance: U256::ZERO, code_hash: KECCAK_EMPTY }
    }
}

/// Read access to one version of the state.
pub trait StateRead {
    /// Why it cannot be read.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The account, if it exists.
    fn account(&self, address: Address) -> Result<Option<AccountInfo>, Self::Error>;

    /// The word in a slot; zero when it was never written or the account does not exist.
    fn storage(&self, address: Address, slot: B256) -> Result<U256, Self::Error>;

    /// Code by its Keccak-256; empty for [`KECCAK_EMPTY`], an error for code that was never stored.
    fn code(&self, hash: B256) -> Result<Bytes, Self::Error>;
}

impl<S: StateRead + ?Sized> StateRead for &S {
    type Error = S::Error;

    fn account(&self, address: Address) -> Result<Option<AccountInfo>, Self::Error> {
        (**self).account(address)
    }

    fn storage(&self, address: Address, slot: B256) -> Result<U256, Self::Error> {
        (**self).storage(address, slot)
    }

    fn code(&self, hash: B256) -> Result<Bytes, Self::Error> {
        (**self).code(hash)
    }
}

/// What a block (or a transaction) changes. It is applied in this order: `cleared`, `accounts`, `storage`, `code`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateDiff {
    /// Accounts that lose all their former storage, although they go on or are created anew.
    /// Accounts that are deleted need not be named here.
    pub cleared: BTreeSet<Address>,
    /// Accounts as they are afterwards; `None`: deleted with all their storage.
    pub accounts: BTreeMap<Address, Option<AccountInfo>>,
    /// Words as they are afterwards; zero removes. Words of an account that does not exist afterwards are dropped.
    pub storage: BTreeMap<Address, BTreeMap<B256, U256>>,
    /// New code by its Keccak-256.
    pub code: BTreeMap<B256, Bytes>,
}

impl StateDiff {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.cleared.is_empty() && self.accounts.is_empty() && self.storage.is_empty() && self.code.is_empty()
    }

    /// Makes this one do what it did and then what `later` does.
    pub fn merge(&mut self, later: Self) {
        for address in later.cleared {
            self.storage.remove(&address);
            self.cleared.insert(address);
        }
        for (address, account) in later.accounts {
            if account.is_none() {
                // Should a later diff create it anew, what it stored before must stay gone.
                self.storage.remove(&address);
                self.cleared.insert(address);
            }
            self.accounts.insert(address, account);
        }
        for (address, words) in later.storage {
            if self.accounts.get(&address) != Some(&None) {
                self.storage.entry(address).or_default().extend(words);
            }
        }
        self.code.extend(later.code);
    }
}

#[cfg(test)]
mod tests;
