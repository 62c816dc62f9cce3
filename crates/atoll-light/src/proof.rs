//! Trie proofs: what an account or a storage word is under a state root, shown by trie nodes.
//!
//! Nodes are looked up by their hash, so they may come in any order, and one set of nodes proves many keys. A node that is
//! not on the way to any of them is refused: a proof has no room for anything else.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_trie::{
    EMPTY_ROOT_HASH, Nibbles,
    nodes::{RlpNode, TrieNode},
};

pub use alloy_trie::TrieAccount;

use crate::limits::{PROOF_BYTES_MAX, PROOF_WORDS_MAX};

/// Why a proof proves nothing. The server that sent it is broken, or lies: ask another one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// A node is not among those sent.
    #[error("the proof lacks the trie node {0}")]
    Missing(B256),
    /// A node was sent that is not needed.
    #[error("the proof contains a trie node that proves nothing, with hash {0}")]
    Unneeded(B256),
    /// A node was sent twice.
    #[error("the proof contains the trie node {0} twice")]
    Twice(B256),
    /// A node that is not one.
    #[error("the proof contains a malformed trie node: {0}")]
    Malformed(alloy_rlp::Error),
    /// Another value is stored.
    #[error("the server says that slot {slot} of {contract} holds {claimed}, but it holds {actual}")]
    Mismatch {
        /// Whose storage.
        contract: Address,
        /// The slot, before hashing.
        slot: B256,
        /// What the server said.
        claimed: U256,
        /// What the proof shows.
        actual: U256,
    },
    /// A word was sent twice.
    #[error("the proof lists slot {slot} of {contract} twice")]
    WordTwice {
        /// Whose storage.
        contract: Address,
        /// The slot, before hashing.
        slot: B256,
    },
    /// More than this program takes.
    #[error("the proof is too large: at most {PROOF_WORDS_MAX} words and {PROOF_BYTES_MAX} bytes of nodes are taken")]
    TooLarge,
}

/// The account under `state_root`, as `eth_getProof` proves it; `None` when the proof shows that there is none.
pub fn verify_account_proof(
    state_root: B256,
    address: Address,
    proof: &[Bytes],
) -> Result<Option<TrieAccount>, ProofError> {
    let mut nodes = ProofNodes::new(proof)?;
    let account = nodes.account(state_root, address)?;
    nodes.finish()?;
    Ok(account)
}

/// The word in `slot` under an account's `storage_root`, as `eth_getProof` proves it.
pub fn verify_storage_proof(storage_root: B256, slot: B256, proof: &[Bytes]) -> Result<U256, ProofError> {
    let mut nodes = ProofNodes::new(proof)?;
    let word = nodes.word(storage_root, slot)?;
    nodes.finish()?;
    Ok(word)
}

/// The nodes of a proof, by their hashes.
pub(crate) struct ProofNodes<'a> {
    nodes: BTreeMap<B256, Node<'a>>,
}

struct Node<'a> {
    bytes: &'a [u8],
    /// Filled when it is first needed.
    decoded: Option<TrieNode>,
}

impl<'a> ProofNodes<'a> {
    pub(crate) fn new(proof: &'a [Bytes]) -> Result<Self, ProofError> {
        let bytes = proof.iter().try_fold(0_usize, |sum, node| sum.checked_add(node.len()));
        if bytes.is_none_or(|bytes| bytes > PROOF_BYTES_MAX) {
            return Err(ProofError::TooLarge);
        }
        let mut nodes = BTreeMap::new();
        for bytes in proof {
            let hash = keccak256(bytes);
            if hash == EMPTY_ROOT_HASH && proof.len() == 1 {
                // Some servers show an empty trie by its root node instead of by no node.
                continue;
            }
            if nodes.insert(hash, Node { bytes, decoded: None }).is_some() {
                return Err(ProofError::Twice(hash));
            }
        }
        Ok(Self { nodes })
    }

    pub(crate) fn account(&mut self, state_root: B256, address: Address) -> Result<Option<TrieAccount>, ProofError> {
        let value = self.value(state_root, keccak256(address))?;
        value.map(|value| alloy_rlp::decode_exact(value).map_err(ProofError::Malformed)).transpose()
    }

    pub(crate) fn word(&mut self, storage_root: B256, slot: B256) -> Result<U256, ProofError> {
        let value = self.value(storage_root, keccak256(slot))?;
        value.map_or(Ok(U256::ZERO), |value| alloy_rlp::decode_exact(value).map_err(ProofError::Malformed))
    }

    /// All nodes must have been needed.
    pub(crate) fn finish(self) -> Result<(), ProofError> {
        match self.nodes.iter().find(|(_, node)| node.decoded.is_none()) {
            Some((hash, _)) => Err(ProofError::Unneeded(*hash)),
            None => Ok(()),
        }
    }

    /// The value of the leaf with this hashed key in the trie with this root.
    fn value(&mut self, root: B256, key: B256) -> Result<Option<Vec<u8>>, ProofError> {
        if root == EMPTY_ROOT_HASH {
            return Ok(None);
        }
        let mut rest = Nibbles::unpack_array(&key.0);
        let mut reference = RlpNode::word_rlp(&root);
        loop {
            let inline;
            let node = match reference.as_hash() {
                Some(hash) => self.node(hash)?,
                None => {
                    inline = decode(&reference)?;
                    &inline
                }
            };
            reference = match node {
                TrieNode::EmptyRoot => return Ok(None),
                TrieNode::Leaf(leaf) => return Ok((leaf.key == rest).then(|| leaf.value.clone())),
                TrieNode::Extension(extension) => {
                    if !rest.starts_with(&extension.key) {
                        return Ok(None);
                    }
                    rest = rest.slice(extension.key.len()..);
                    extension.child.clone()
                }
                TrieNode::Branch(branch) => {
                    let nibble = rest.get(0).ok_or(malformed("a path that is too long"))?;
                    rest = rest.slice(1..);
                    if !branch.state_mask.is_bit_set(nibble) {
                        return Ok(None);
                    }
                    let before = branch.state_mask.get() & ((1 << nibble) - 1);
                    let child = branch.stack.get(before.count_ones() as usize);
                    child.ok_or(malformed("a branch without its child"))?.clone()
                }
            };
        }
    }

    fn node(&mut self, hash: B256) -> Result<&TrieNode, ProofError> {
        let node = self.nodes.get_mut(&hash).ok_or(ProofError::Missing(hash))?;
        match &mut node.decoded {
            Some(decoded) => Ok(decoded),
            empty => Ok(empty.insert(decode(node.bytes)?)),
        }
    }
}

fn decode(bytes: &[u8]) -> Result<TrieNode, ProofError> {
    alloy_rlp::decode_exact(bytes).map_err(ProofError::Malformed)
}

fn malformed(what: &'static str) -> ProofError {
    ProofError::Malformed(alloy_rlp::Error::Custom(what))
}

#[cfg(test)]
mod tests;
