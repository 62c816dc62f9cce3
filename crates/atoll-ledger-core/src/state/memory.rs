//! The state as plain maps.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_trie::{
    KECCAK_EMPTY, TrieAccount,
    root::{state_root_unhashed, storage_root_unhashed},
};

use super::{AccountInfo, StateDiff, StateRead};

/// The state as plain maps, with its root computed from scratch: the model that the real store is tested against, and a
/// small state for tests of execution.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryState {
    accounts: BTreeMap<Address, AccountInfo>,
    storage: BTreeMap<Address, BTreeMap<B256, U256>>,
    code: BTreeMap<B256, Bytes>,
}

/// Code that was never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the state has no code with hash {0}")]
pub struct CodeMissing(pub B256);

impl MemoryState {
    /// Makes it the state after `diff`.
    pub fn apply(&mut self, diff: &StateDiff) {
        for address in &diff.cleared {
            self.storage.remove(address);
        }
        for (address, account) in &diff.accounts {
            match account {
                Some(account) => {
                    self.accounts.insert(*address, *account);
                }
                None => {
                    self.accounts.remove(address);
                    self.storage.remove(address);
                }
            }
        }
        for (address, words) in &diff.storage {
            if !self.accounts.contains_key(address) {
                continue;
            }
            let stored = self.storage.entry(*address).or_default();
            for (slot, value) in words {
                if value.is_zero() {
                    stored.remove(slot);
                } else {
                    stored.insert(*slot, *value);
                }
            }
        }
        self.code.extend(diff.code.clone());
    }

    /// The state root, as Ethereum defines it.
    pub fn root(&self) -> B256 {
        state_root_unhashed(self.accounts.iter().map(|(address, account)| {
            let storage = self.storage.get(address).into_iter().flatten();
            let storage_root = storage_root_unhashed(storage.map(|(slot, value)| (*slot, *value)));
            let account = TrieAccount::new(account.nonce, account.balance, storage_root, account.code_hash);
            (*address, account)
        }))
    }

    /// All accounts, in order of their addresses.
    pub fn accounts(&self) -> impl Iterator<Item = (Address, AccountInfo)> + '_ {
        self.accounts.iter().map(|(address, account)| (*address, *account))
    }

    /// All words of an account that are not zero, in order of their slots.
    pub fn words(&self, address: Address) -> impl Iterator<Item = (B256, U256)> + '_ {
        self.storage.get(&address).into_iter().flatten().map(|(slot, value)| (*slot, *value))
    }
}

impl StateRead for MemoryState {
    type Error = CodeMissing;

    fn account(&self, address: Address) -> Result<Option<AccountInfo>, Self::Error> {
        Ok(self.accounts.get(&address).copied())
    }

    fn storage(&self, address: Address, slot: B256) -> Result<U256, Self::Error> {
        Ok(self.storage.get(&address).and_then(|words| words.get(&slot)).copied().unwrap_or_default())
    }

    fn code(&self, hash: B256) -> Result<Bytes, Self::Error> {
        if hash == KECCAK_EMPTY {
            return Ok(Bytes::new());
        }
        self.code.get(&hash).cloned().ok_or(CodeMissing(hash))
    }
}

#[cfg(test)]
mod tests {
    use alloy_trie::EMPTY_ROOT_HASH;

    use super::*;

    fn diff(accounts: &[(u8, Option<u64>)], words: &[(u8, u8, u64)]) -> StateDiff {
        let mut diff = StateDiff::default();
        for (address, nonce) in accounts {
            let account = nonce.map(|nonce| AccountInfo { nonce, ..AccountInfo::default() });
            diff.accounts.insert(Address::repeat_byte(*address), account);
        }
        for (address, slot, value) in words {
            let words = diff.storage.entry(Address::repeat_byte(*address)).or_default();
            words.insert(B256::repeat_byte(*slot), U256::from(*value));
        }
        diff
    }

    #[test]
    fn merged_diffs_do_what_they_did_one_after_the_other() {
        let steps = [
            diff(&[(1, Some(1)), (2, Some(1))], &[(1, 1, 7), (1, 2, 8), (2, 1, 9)]),
            diff(&[(1, None)], &[(1, 3, 1), (2, 1, 0)]),
            diff(&[(1, Some(5))], &[(1, 4, 4), (3, 1, 1)]),
        ];
        let (mut one_by_one, mut merged) = (MemoryState::default(), StateDiff::default());
        assert_eq!(one_by_one.root(), EMPTY_ROOT_HASH);
        one_by_one.apply(&diff(&[(1, Some(0))], &[(1, 9, 9)]));
        let mut at_once = one_by_one.clone();
        for step in steps {
            one_by_one.apply(&step);
            merged.merge(step);
        }
        at_once.apply(&merged);
        assert_eq!(one_by_one.root(), at_once.root());
        assert_eq!(at_once.storage(Address::repeat_byte(1), B256::repeat_byte(9)), Ok(U256::ZERO));
        assert_eq!(at_once.storage(Address::repeat_byte(1), B256::repeat_byte(4)), Ok(U256::from(4)));
    }
}
