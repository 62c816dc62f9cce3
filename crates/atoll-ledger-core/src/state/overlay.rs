//! What one block changes, by hashed keys, and how it becomes writes.

use std::collections::BTreeMap;

use alloy_primitives::{B256, Bytes, U256};
use alloy_rlp::{Decodable as _, RlpDecodable, RlpEncodable};
use alloy_trie::{KECCAK_EMPTY, Nibbles, TrieAccount};

use super::{
    AccountInfo, StateError,
    backend::{Batch, Column},
    node::Child,
    trie::Nodes,
};

/// An account as the flat table holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) info: AccountInfo,
    /// What stands at the root of its storage trie.
    pub(super) storage: Option<Child>,
}

#[derive(RlpEncodable, RlpDecodable)]
struct AccountRecord {
    nonce: u64,
    balance: U256,
    /// Empty for an account without code.
    code_hash: Bytes,
    /// Empty for an account without storage.
    storage: Bytes,
}

impl Account {
    /// RLP of the account as its leaf in the trie holds it.
    pub(super) fn leaf_value(&self) -> Vec<u8> {
        let AccountInfo { nonce, balance, code_hash } = self.info;
        alloy_rlp::encode(TrieAccount::new(nonce, balance, self.storage_root(), code_hash))
    }

    pub(super) fn storage_root(&self) -> B256 {
        Child::root_hash(self.storage.as_ref())
    }

    fn encode(&self) -> Vec<u8> {
        let AccountInfo { nonce, balance, code_hash } = self.info;
        let code_hash = if code_hash == KECCAK_EMPTY { Bytes::new() } else { Bytes::copy_from_slice(&code_hash[..]) };
        alloy_rlp::encode(AccountRecord {
            nonce,
            balance,
            code_hash,
            storage: encode_root(self.storage.as_ref()).into(),
        })
    }

    pub(super) fn decode(mut bytes: &[u8]) -> Result<Self, StateError> {
        let damaged = || StateError::Damaged("an account");
        let record = AccountRecord::decode(&mut bytes).map_err(|_| damaged())?;
        let code_hash = match record.code_hash.len() {
            0 => KECCAK_EMPTY,
            32 => B256::from_slice(&record.code_hash),
            _ => return Err(damaged()),
        };
        let info = AccountInfo { nonce: record.nonce, balance: record.balance, code_hash };
        Ok(Self { info, storage: decode_root(&record.storage)? })
    }
}

/// Bytes of what stands at the root of a trie; none for an empty one.
pub(super) fn encode_root(root: Option<&Child>) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(root) = root {
        root.encode(&mut out);
    }
    out
}

/// The inverse of [`encode_root`].
pub(super) fn decode_root(mut bytes: &[u8]) -> Result<Option<Child>, StateError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let root = Child::decode(&mut bytes)?;
    if bytes.is_empty() { Ok(Some(root)) } else { Err(StateError::Damaged("the root of a trie")) }
}

/// The inverse of how a word is stored: big-endian, without leading zeros.
pub(super) fn decode_word(bytes: &[u8]) -> Result<U256, StateError> {
    U256::try_from_be_slice(bytes).ok_or(StateError::Damaged("a storage word"))
}

/// Changes of one account's storage.
#[derive(Debug, Default)]
pub(super) struct StorageOverlay {
    /// Whether nothing of what it stored before is left.
    pub(super) cleared: bool,
    /// Words as they are now; zero: removed.
    pub(super) words: BTreeMap<B256, U256>,
    /// Branches as they are now.
    pub(super) nodes: Nodes,
}

/// Changes of one block.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    pub(super) accounts: BTreeMap<B256, Option<Account>>,
    pub(super) storage: BTreeMap<B256, StorageOverlay>,
    pub(super) nodes: Nodes,
    pub(super) code: BTreeMap<B256, Bytes>,
}

impl Overlay {
    /// Adds its writes to a batch; storage that it cleared must have been removed before.
    pub(super) fn write(&self, batch: &mut Batch) {
        for (hash, account) in &self.accounts {
            set(batch, Column::ACCOUNTS, hash.to_vec(), account.as_ref().map(Account::encode));
        }
        for (owner, storage) in &self.storage {
            for (slot, word) in &storage.words {
                let word = (!word.is_zero()).then(|| word.to_be_bytes_trimmed_vec());
                set(batch, Column::STORAGE, storage_key(owner, slot.as_slice()), word);
            }
            for (path, node) in &storage.nodes {
                set(batch, Column::BRANCHES, branch_key(Some(owner), path), node.clone());
            }
        }
        for (path, node) in &self.nodes {
            set(batch, Column::BRANCHES, branch_key(None, path), node.clone());
        }
        for (hash, code) in &self.code {
            batch.put(Column::CODE, hash.to_vec(), code.to_vec());
        }
    }
}

fn set(batch: &mut Batch, column: Column, key: Vec<u8>, value: Option<Vec<u8>>) {
    match value {
        Some(value) => batch.put(column, key, value),
        None => batch.delete(column, key),
    }
}

/// Key of a word, or with less than a hashed slot a prefix of such keys.
pub(super) fn storage_key(owner: &B256, slot: &[u8]) -> Vec<u8> {
    [owner.as_slice(), slot].concat()
}

/// Key of a branch: of the account trie, or of an account's storage trie. One byte a nibble, so that a path comes before
/// all that it is a prefix of.
pub(super) fn branch_key(owner: Option<&B256>, path: &Nibbles) -> Vec<u8> {
    let mut key = Vec::with_capacity(33 + path.len());
    match owner {
        None => key.push(0),
        Some(owner) => {
            key.push(1);
            key.extend_from_slice(owner.as_slice());
        }
    }
    key.extend(path.iter());
    key
}
