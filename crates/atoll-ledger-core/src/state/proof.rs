//! Proofs that a version holds a value, or holds none: what `atoll-light` and Ethereum's tools verify.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_trie::{EMPTY_ROOT_HASH, Nibbles};
use atoll_base::schema::StorageRead;

use super::{
    AccountInfo, StateError, StateRead as _,
    change::{AccountTrie, StorageTrie},
    layer::Layer,
    limits::PROOF_WORDS_MAX,
    trie,
};

/// An account with its proof, in the form of `eth_getProof`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountProof {
    /// Whose.
    pub address: Address,
    /// The account; `None` when the proof shows that there is none.
    pub info: Option<AccountInfo>,
    /// Root of its storage.
    pub storage_root: B256,
    /// Nodes from the state root to the account.
    pub proof: Vec<Bytes>,
    /// The words that were asked for, in the order of the question.
    pub storage: Vec<StorageProof>,
}

/// A word with its proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageProof {
    /// The slot, before hashing.
    pub slot: B256,
    /// Its value.
    pub value: U256,
    /// Nodes from the account's storage root to the word.
    pub proof: Vec<Bytes>,
}

/// Words of several accounts, with all nodes that prove them, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MultiProof {
    /// (contract, slot, value), in order of contract and slot.
    pub words: Vec<(Address, B256, U256)>,
    /// Trie nodes; a parent comes before its children.
    pub nodes: Vec<Bytes>,
}

impl Layer {
    /// The account and some of its words, each with its proof, as `eth_getProof` answers.
    pub fn proof(&self, address: Address, slots: &[B256]) -> Result<AccountProof, StateError> {
        let hash = keccak256(address);
        let account = self.account_by_hash(&hash)?;
        let mut nodes = Vec::new();
        trie::prove(&AccountTrie::of(self), self.root_child(), &[unpack(hash)], &mut nodes)?;
        let root = account.as_ref().and_then(|account| account.storage.as_ref());
        let mut storage = Vec::with_capacity(slots.len());
        for slot in slots {
            let mut nodes = Vec::new();
            trie::prove(&StorageTrie::of(self, hash), root, &[unpack(keccak256(slot))], &mut nodes)?;
            let value = self.storage(address, *slot)?;
            storage.push(StorageProof { slot: *slot, value, proof: to_bytes(nodes) });
        }
        Ok(AccountProof {
            address,
            info: account.as_ref().map(|account| account.info),
            storage_root: account.as_ref().map_or(EMPTY_ROOT_HASH, |account| account.storage_root()),
            proof: to_bytes(nodes),
            storage,
        })
    }

    /// The values of many slots with one proof for all.
    pub fn multi_proof(&self, slots: &BTreeSet<(Address, B256)>) -> Result<MultiProof, StateError> {
        if slots.len() > PROOF_WORDS_MAX {
            return Err(StateError::ProofTooLarge);
        }
        let mut proof = MultiProof::default();
        let mut owners: BTreeMap<B256, Vec<Nibbles>> = BTreeMap::new();
        for (address, slot) in slots {
            proof.words.push((*address, *slot, self.storage(*address, *slot)?));
            owners.entry(keccak256(address)).or_default().push(unpack(keccak256(slot)));
        }
        let mut nodes = Vec::new();
        let accounts: Vec<_> = owners.keys().map(|hash| unpack(*hash)).collect();
        trie::prove(&AccountTrie::of(self), self.root_child(), &accounts, &mut nodes)?;
        for (owner, mut keys) in owners {
            keys.sort_unstable();
            let account = self.account_by_hash(&owner)?;
            let root = account.as_ref().and_then(|account| account.storage.as_ref());
            trie::prove(&StorageTrie::of(self, owner), root, &keys, &mut nodes)?;
        }
        // Two accounts with the same storage share their nodes.
        let mut seen = BTreeSet::new();
        nodes.retain(|node| seen.insert(keccak256(node)));
        proof.nodes = to_bytes(nodes);
        Ok(proof)
    }
}

/// Reads a version for one of `atoll_base::schema`'s views, and notes what the view read.
#[derive(Debug, Clone)]
pub struct RecordingReader {
    layer: Layer,
    words: BTreeSet<(Address, B256)>,
}

impl RecordingReader {
    /// Over this version.
    pub fn new(layer: Layer) -> Self {
        Self { layer, words: BTreeSet::new() }
    }

    /// The proof of everything that was read.
    pub fn into_proof(self) -> Result<MultiProof, StateError> {
        self.layer.multi_proof(&self.words)
    }
}

impl StorageRead for RecordingReader {
    type Error = StateError;

    fn word(&mut self, contract: Address, slot: B256) -> Result<U256, StateError> {
        if self.words.len() >= PROOF_WORDS_MAX {
            return Err(StateError::ProofTooLarge);
        }
        self.words.insert((contract, slot));
        self.layer.storage(contract, slot)
    }
}

fn unpack(hash: B256) -> Nibbles {
    Nibbles::unpack_array(&hash.0)
}

fn to_bytes(nodes: Vec<Vec<u8>>) -> Vec<Bytes> {
    nodes.into_iter().map(Bytes::from).collect()
}
