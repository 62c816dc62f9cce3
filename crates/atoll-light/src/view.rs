//! Views of the region out of proven storage words.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, Bytes, U256};
use atoll_base::schema::StorageRead;

use crate::{
    limits::PROOF_WORDS_MAX,
    proof::{ProofError, ProofNodes},
};

/// Storage words that were proven under one state root. Give it to the views of [`atoll_base::schema`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenState {
    words: BTreeMap<(Address, B256), U256>,
}

/// A view wanted a word that the server did not prove: it is of another version, or withholds something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server did not prove slot {slot} of {contract}: ask another server")]
pub struct NotProven {
    /// Whose storage.
    pub contract: Address,
    /// The slot, before hashing.
    pub slot: B256,
}

impl ProvenState {
    /// Checks that every word of (contract, slot, value) is what the state with this root holds, as `nodes` show: the trie
    /// nodes from the state root to the contracts and from their storage roots to the slots, each once, in any order.
    pub fn new(state_root: B256, words: &[(Address, B256, U256)], nodes: &[Bytes]) -> Result<Self, ProofError> {
        if words.len() > PROOF_WORDS_MAX {
            return Err(ProofError::TooLarge);
        }
        let mut nodes = ProofNodes::new(nodes)?;
        let mut roots: BTreeMap<Address, Option<B256>> = BTreeMap::new();
        let mut proven = BTreeMap::new();
        for &(contract, slot, claimed) in words {
            let root = match roots.get(&contract) {
                Some(root) => *root,
                None => {
                    let root = nodes.account(state_root, contract)?.map(|account| account.storage_root);
                    roots.insert(contract, root);
                    root
                }
            };
            let actual = root.map_or(Ok(U256::ZERO), |root| nodes.word(root, slot))?;
            if actual != claimed {
                return Err(ProofError::Mismatch { contract, slot, claimed, actual });
            }
            if proven.insert((contract, slot), actual).is_some() {
                return Err(ProofError::WordTwice { contract, slot });
            }
        }
        nodes.finish()?;
        Ok(Self { words: proven })
    }

    /// How many words it holds.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }
}

impl StorageRead for ProvenState {
    type Error = NotProven;

    fn word(&mut self, contract: Address, slot: B256) -> Result<U256, NotProven> {
        self.words.get(&(contract, slot)).copied().ok_or(NotProven { contract, slot })
    }
}
