//! The parent state with the changes of this block on top: what the EVM reads and where its changes are collected.

use std::collections::BTreeMap;

use alloy_eips::eip2935::{HISTORY_SERVE_WINDOW, HISTORY_STORAGE_ADDRESS};
use alloy_primitives::{Address, B256, Bytes, U256};
use revm::{
    bytecode::Bytecode,
    database_interface::{DBErrorMarker, Database},
    primitives::AddressMap,
    state::{Account, AccountInfo as EvmAccount},
};

use crate::state::{AccountInfo, StateDiff, StateRead};

/// The state could not be read. Fatal: it says nothing about the block.
#[derive(Debug, thiserror::Error)]
#[error("the parent state cannot be read")]
pub struct StateError<E: std::error::Error>(#[source] pub E);

impl<E: std::error::Error + Send + Sync + 'static> DBErrorMarker for StateError<E> {}

/// Reads fall through to the parent state and are remembered; the changes are in `diff`.
pub(crate) struct Overlay<'a, S: StateRead> {
    parent: &'a S,
    diff: StateDiff,
    accounts: BTreeMap<Address, Option<AccountInfo>>,
    words: BTreeMap<(Address, B256), U256>,
}

impl<'a, S: StateRead> Overlay<'a, S> {
    pub(crate) fn new(parent: &'a S) -> Self {
        Self { parent, diff: StateDiff::default(), accounts: BTreeMap::new(), words: BTreeMap::new() }
    }

    pub(crate) fn into_diff(self) -> StateDiff {
        self.diff
    }

    pub(crate) fn account(&mut self, address: Address) -> Result<Option<AccountInfo>, StateError<S::Error>> {
        if let Some(account) = self.diff.accounts.get(&address) {
            return Ok(*account);
        }
        if let Some(account) = self.accounts.get(&address) {
            return Ok(*account);
        }
        let account = self.parent.account(address).map_err(StateError)?;
        self.accounts.insert(address, account);
        Ok(account)
    }

    pub(crate) fn word(&mut self, address: Address, slot: B256) -> Result<U256, StateError<S::Error>> {
        if let Some(word) = self.diff.storage.get(&address).and_then(|words| words.get(&slot)) {
            return Ok(*word);
        }
        let gone = self.diff.cleared.contains(&address) || self.diff.accounts.get(&address) == Some(&None);
        if gone {
            return Ok(U256::ZERO);
        }
        if let Some(word) = self.words.get(&(address, slot)) {
            return Ok(*word);
        }
        let word = self.parent.storage(address, slot).map_err(StateError)?;
        self.words.insert((address, slot), word);
        Ok(word)
    }

    /// Takes over what a transaction changed.
    pub(crate) fn commit(&mut self, changes: AddressMap<Account>) {
        let mut step = StateDiff::default();
        // The order does not matter: every address occurs once and the diff is sorted.
        for (address, account) in changes {
            if !account.is_touched() {
                continue;
            }
            if account.is_selfdestructed() || account.is_empty() {
                step.accounts.insert(address, None);
                continue;
            }
            if account.is_created() {
                step.cleared.insert(address);
            }
            let info = &account.info;
            let now = AccountInfo { nonce: info.nonce, balance: info.balance, code_hash: info.code_hash };
            step.accounts.insert(address, Some(now));
            if let Some(code) = info.code.as_ref().filter(|code| !code.is_empty()) {
                step.code.insert(info.code_hash, code.original_bytes());
            }
            let changed: std::collections::BTreeMap<_, _> =
                account.changed_storage_slots().map(|(slot, value)| (B256::from(*slot), value.present_value)).collect();
            if !changed.is_empty() {
                step.storage.insert(address, changed);
            }
        }
        self.drop_unchanged(&mut step);
        self.diff.merge(step);
    }

    /// Leaves out accounts that were touched but are as before, and code that was only loaded, so that a diff names
    /// changes and nothing else.
    fn drop_unchanged(&self, step: &mut StateDiff) {
        let before = |address: &Address| {
            self.diff.accounts.get(address).or_else(|| self.accounts.get(address)).copied().flatten()
        };
        let mut new_code = std::collections::BTreeSet::new();
        for (address, account) in &step.accounts {
            if let Some(account) = account
                && before(address).is_none_or(|old| old.code_hash != account.code_hash)
            {
                new_code.insert(account.code_hash);
            }
        }
        step.code.retain(|hash, _| new_code.contains(hash));
        step.accounts.retain(|address, account| before(address) != *account);
        // An account that did not exist had no storage.
        step.cleared.retain(|address| before(address).is_some());
    }

    fn code(&self, hash: B256) -> Result<Bytes, StateError<S::Error>> {
        match self.diff.code.get(&hash) {
            Some(code) => Ok(code.clone()),
            None => self.parent.code(hash).map_err(StateError),
        }
    }
}

impl<S: StateRead> Database for Overlay<'_, S> {
    type Error = StateError<S::Error>;

    fn basic(&mut self, address: Address) -> Result<Option<EvmAccount>, Self::Error> {
        let account = self.account(address)?;
        Ok(account.map(|a| EvmAccount {
            nonce: a.nonce,
            balance: a.balance,
            code_hash: a.code_hash,
            code: None,
            ..EvmAccount::default()
        }))
    }

    fn code_by_hash(&mut self, hash: B256) -> Result<Bytecode, Self::Error> {
        // What is in the state was checked when it was written; a form that revm refuses runs as plain code, which halts.
        let code = self.code(hash)?;
        Ok(Bytecode::new_raw_checked(code.clone()).unwrap_or_else(|_| Bytecode::new_legacy(code)))
    }

    fn storage(&mut self, address: Address, index: U256) -> Result<U256, Self::Error> {
        self.word(address, index.into())
    }

    fn block_hash(&mut self, number: u64) -> Result<B256, Self::Error> {
        // The EVM asks only for the 256 latest ancestors, all of which are within the window.
        let slot = U256::from(number % HISTORY_SERVE_WINDOW as u64);
        Ok(self.word(HISTORY_STORAGE_ADDRESS, slot.into())?.into())
    }
}
