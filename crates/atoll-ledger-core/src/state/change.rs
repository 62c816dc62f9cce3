//! From one version to the next: applies a diff to the flat tables and to the touched paths of the tries.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{Bound, ControlFlow},
};

use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_trie::Nibbles;

use super::{
    StateDiff, StateError,
    backend::{Column, StateView},
    layer::{Chain, Layer},
    limits::LAYERS_MAX,
    node::{Branch, Child},
    overlay::{Account, Overlay, StorageOverlay, decode_word},
    trie::{self, Change, TrieRead},
};

impl Layer {
    /// The version after `diff`, and its state root.
    pub fn child(&self, diff: &StateDiff) -> Result<(Self, B256), StateError> {
        let chain = self.chain();
        if chain.layers.len() >= LAYERS_MAX {
            return Err(StateError::TooDeep);
        }
        let mut overlay = Overlay { code: diff.code.clone(), ..Overlay::default() };
        let touched: BTreeSet<Address> =
            diff.cleared.iter().chain(diff.accounts.keys()).chain(diff.storage.keys()).copied().collect();
        let mut changes = Vec::with_capacity(touched.len());
        for address in touched {
            changes.extend(self.change_account(address, diff, &mut overlay)?);
        }
        changes.sort_unstable_by_key(|change| change.key);
        let (root, nodes) = trie::update(&AccountTrie::of(self), self.root_child().cloned(), &changes)?;
        overlay.nodes = nodes;
        let layer = self.on_top(overlay, root);
        let root = layer.root();
        Ok((layer, root))
    }

    /// Applies the diff to one account and its storage; the change of its leaf, if there is any.
    fn change_account(
        &self,
        address: Address,
        diff: &StateDiff,
        overlay: &mut Overlay,
    ) -> Result<Option<Change>, StateError> {
        let hash = keccak256(address);
        let before = self.account_by_hash(&hash)?;
        let info = match diff.accounts.get(&address) {
            Some(info) => *info,
            None => before.as_ref().map(|account| account.info),
        };
        let had_storage = before.as_ref().is_some_and(|account| account.storage.is_some());
        let cleared = had_storage && (info.is_none() || diff.cleared.contains(&address));
        let storage = StorageOverlay { cleared, ..StorageOverlay::default() };
        let after = match info {
            None => None,
            Some(info) => {
                let root = before.as_ref().and_then(|account| account.storage.clone()).filter(|_| !cleared);
                let words = diff.storage.get(&address);
                let (root, storage) = self.change_storage(&hash, root, words, storage)?;
                if storage.cleared || !storage.words.is_empty() {
                    overlay.storage.insert(hash, storage);
                }
                Some(Account { info, storage: root })
            }
        };
        if after.is_none() && cleared {
            overlay.storage.insert(hash, StorageOverlay { cleared, ..StorageOverlay::default() });
        }
        if after == before {
            return Ok(None);
        }
        let value = after.as_ref().map(Account::leaf_value);
        overlay.accounts.insert(hash, after);
        Ok(Some(Change { key: Nibbles::unpack_array(&hash.0), value, existed: before.is_some() }))
    }

    /// Applies words to the storage trie with this root, that of `owner`.
    fn change_storage(
        &self,
        owner: &B256,
        root: Option<Child>,
        words: Option<&BTreeMap<B256, U256>>,
        mut storage: StorageOverlay,
    ) -> Result<(Option<Child>, StorageOverlay), StateError> {
        let mut changes = Vec::new();
        for (slot, word) in words.into_iter().flatten() {
            let slot = keccak256(slot);
            let before = if root.is_none() { U256::ZERO } else { self.word_by_hash(owner, &slot)? };
            if before != *word {
                let value = (!word.is_zero()).then(|| alloy_rlp::encode(word));
                let key = Nibbles::unpack_array(&slot.0);
                changes.push(Change { key, value, existed: !before.is_zero() });
                storage.words.insert(slot, *word);
            }
        }
        changes.sort_unstable_by_key(|change| change.key);
        let (root, nodes) = trie::update(&StorageTrie::of(self, *owner), root, &changes)?;
        storage.nodes = nodes;
        Ok((root, storage))
    }
}

/// The account trie of one version.
pub(super) struct AccountTrie<'a> {
    layer: &'a Layer,
}

impl<'a> AccountTrie<'a> {
    pub(super) fn of(layer: &'a Layer) -> Self {
        Self { layer }
    }
}

impl TrieRead for AccountTrie<'_> {
    fn branch(&self, path: &Nibbles) -> Result<Branch, StateError> {
        self.layer.branch(None, path)
    }

    fn leaf(&self, path: &Nibbles) -> Result<(Nibbles, Vec<u8>), StateError> {
        let chain = self.layer.chain();
        let (key, account) = search(
            path,
            &chain,
            |layer, range| {
                let (key, account) = layer.overlay().accounts.range(range).next()?;
                Some((*key, account.clone()))
            },
            |view, from| first(view, Column::ACCOUNTS, &[], from, Account::decode),
        )?;
        Ok((key, account.leaf_value()))
    }

    fn value(&self, key: &Nibbles) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.layer.account_by_hash(&packed(key, 0))?.map(|account| account.leaf_value()))
    }
}

/// The storage trie of one account in one version.
pub(super) struct StorageTrie<'a> {
    layer: &'a Layer,
    owner: B256,
}

impl<'a> StorageTrie<'a> {
    pub(super) fn of(layer: &'a Layer, owner: B256) -> Self {
        Self { layer, owner }
    }
}

impl TrieRead for StorageTrie<'_> {
    fn branch(&self, path: &Nibbles) -> Result<Branch, StateError> {
        self.layer.branch(Some(&self.owner), path)
    }

    fn leaf(&self, path: &Nibbles) -> Result<(Nibbles, Vec<u8>), StateError> {
        let mut chain = self.layer.chain();
        let cleared = |layer: &Layer| layer.overlay().storage.get(&self.owner).is_some_and(|storage| storage.cleared);
        let hidden = chain.layers.iter().position(cleared);
        chain.layers.truncate(hidden.map_or(usize::MAX, |place| place + 1));
        let (key, word) = search(
            path,
            &chain,
            |layer, range| {
                let (key, word) = layer.overlay().storage.get(&self.owner)?.words.range(range).next()?;
                Some((*key, (!word.is_zero()).then_some(*word)))
            },
            |view, from| match hidden {
                Some(_) => Ok(None),
                None => first(view, Column::STORAGE, self.owner.as_slice(), from, decode_word),
            },
        )?;
        Ok((key, alloy_rlp::encode(word)))
    }

    fn value(&self, key: &Nibbles) -> Result<Option<Vec<u8>>, StateError> {
        let word = self.layer.word_by_hash(&self.owner, &packed(key, 0))?;
        Ok((!word.is_zero()).then(|| alloy_rlp::encode(word)))
    }
}

/// A path as the least (`fill` 0) or greatest (`fill` 0xff) key that starts with it.
fn packed(path: &Nibbles, fill: u8) -> B256 {
    let mut key = B256::repeat_byte(fill);
    for (place, nibble) in path.iter().enumerate() {
        let byte = &mut key[place / 2];
        *byte = if place % 2 == 0 { (nibble << 4) | (*byte & 0x0f) } else { (*byte & 0xf0) | nibble };
    }
    key
}

/// The first entry of a flat table whose key is not less than `from`.
fn first<T>(
    view: &dyn StateView,
    column: Column,
    prefix: &[u8],
    from: &B256,
    decode: impl Fn(&[u8]) -> Result<T, StateError>,
) -> Result<Option<(B256, T)>, StateError> {
    let mut found = None;
    view.scan(column, prefix, &storage_key_of(prefix, from), &mut |key, value| {
        found = Some((key.to_vec(), value.to_vec()));
        ControlFlow::Break(())
    })?;
    let Some((key, value)) = found else { return Ok(None) };
    let key = B256::try_from(&key[prefix.len()..]).map_err(|_| StateError::Damaged("a key"))?;
    Ok(Some((key, decode(&value)?)))
}

fn storage_key_of(prefix: &[u8], key: &B256) -> Vec<u8> {
    [prefix, key.as_slice()].concat()
}

/// Finds the one live entry whose key starts with `path`: overlays newest first, then the database.
fn search<T>(
    path: &Nibbles,
    chain: &Chain,
    overlay: impl Fn(&Layer, (Bound<B256>, Bound<B256>)) -> Option<(B256, Option<T>)>,
    stored: impl Fn(&dyn StateView, &B256) -> Result<Option<(B256, T)>, StateError>,
) -> Result<(Nibbles, T), StateError> {
    let last = packed(path, 0xff);
    let mut from = packed(path, 0);
    loop {
        let mut best: Option<(B256, Option<T>)> = None;
        for layer in &chain.layers {
            let found = overlay(layer, (Bound::Included(from), Bound::Included(last)));
            best = nearer(best, found);
        }
        let found = stored(&*chain.view, &from)?.filter(|(key, _)| *key <= last);
        match nearer(best, found.map(|(key, value)| (key, Some(value)))) {
            Some((key, Some(value))) => return Ok((Nibbles::unpack_array(&key.0), value)),
            Some((key, None)) if key < last => from = B256::from(U256::from_be_bytes(key.0) + U256::from(1)),
            _ => return Err(StateError::Damaged("a leaf that is missing")),
        }
    }
}

/// The entry with the lesser key; of two with the same key the former, which is newer.
fn nearer<T>(newer: Option<(B256, T)>, older: Option<(B256, T)>) -> Option<(B256, T)> {
    match (newer, older) {
        (Some(newer), Some(older)) => Some(if older.0 < newer.0 { older } else { newer }),
        (newer, older) => newer.or(older),
    }
}
