//! Versions of the state: the committed one in the database, and unfinalised blocks as layers in memory over it.

use std::{
    ops::ControlFlow,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use alloy_trie::{KECCAK_EMPTY, Nibbles};

use super::{
    AccountInfo, StateError, StateRead,
    backend::{Batch, Column, StateBackend, StateView},
    node::{Branch, Child},
    overlay::{Account, Overlay, branch_key, decode_root, decode_word, encode_root, storage_key},
};

/// Key in [`Column::META`]: what stands at the root of the account trie.
const ROOT_KEY: &[u8] = b"root";

/// The state store: hands out the committed version and commits further ones.
pub struct StateTree {
    backend: Arc<dyn StateBackend>,
    head: Mutex<Layer>,
    committing: Mutex<()>,
}

impl std::fmt::Debug for StateTree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateTree").field("head", &self.head()).finish_non_exhaustive()
    }
}

impl StateTree {
    /// Opens what the database holds; an empty database is the empty state.
    pub fn open(backend: Arc<dyn StateBackend>) -> Result<Self, StateError> {
        let view = backend.view()?;
        let root = decode_root(&view.get(Column::META, ROOT_KEY)?.unwrap_or_default())?;
        let base = Parent::Committed { view, version: 0 };
        let head = Layer::new(base, Overlay::default(), root);
        Ok(Self { backend, head: Mutex::new(head), committing: Mutex::new(()) })
    }

    /// The committed version.
    pub fn head(&self) -> Layer {
        self.head.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes `layer` the committed version: writes it and all layers under it, and `extra`, in one atomic batch. Blocks
    /// until that is durable. Everybody may go on reading from any layer, and build on layers, meanwhile and after; but
    /// forks that left the chain below `layer` can no longer be committed.
    pub fn commit(&self, layer: &Layer, extra: Batch) -> Result<(), StateError> {
        let _committing = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.head().chain().version;
        let Chain { layers, view, version } = layer.chain();
        if version != current {
            return Err(StateError::Stale);
        }
        let mut batch = Batch::default();
        for layer in layers.iter().rev() {
            for (owner, storage) in &layer.0.overlay.storage {
                if storage.cleared {
                    clear_storage(&*view, owner, &mut batch)?;
                }
            }
            layer.0.overlay.write(&mut batch);
        }
        if !layers.is_empty() {
            batch.put(Column::META, ROOT_KEY, encode_root(layer.0.root.as_ref()));
        }
        batch.append(extra);
        self.backend.write(batch)?;
        if !layers.is_empty() {
            let parent = Parent::Committed { view: self.backend.view()?, version: current + 1 };
            *layer.0.parent.write().unwrap_or_else(PoisonError::into_inner) = parent;
            *self.head.lock().unwrap_or_else(PoisonError::into_inner) = layer.clone();
        }
        Ok(())
    }
}

/// Removes all words and branches of an account: those in the database, and those in the batch already.
fn clear_storage(view: &dyn StateView, owner: &B256, batch: &mut Batch) -> Result<(), StateError> {
    for (column, prefix) in
        [(Column::STORAGE, storage_key(owner, &[])), (Column::BRANCHES, branch_key(Some(owner), &Nibbles::new()))]
    {
        batch.delete_written(column, &prefix);
        view.scan(column, &prefix, &prefix, &mut |key, _| {
            batch.delete(column, key);
            ControlFlow::Continue(())
        })?;
    }
    Ok(())
}

/// One version of the state: that after a certain block. Cheap to clone; never changes.
#[derive(Clone)]
pub struct Layer(Arc<Inner>);

struct Inner {
    overlay: Overlay,
    root: Option<Child>,
    root_hash: B256,
    /// What it was built on. When it is committed, the database takes the place of all that is under it.
    parent: RwLock<Parent>,
}

#[derive(Clone)]
enum Parent {
    Layer(Layer),
    Committed { view: Arc<dyn StateView>, version: u64 },
}

impl std::fmt::Debug for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Layer").field("root", &self.0.root_hash).finish_non_exhaustive()
    }
}

/// What a version consists of.
pub(super) struct Chain {
    /// Layers that are not committed, newest first.
    pub(super) layers: Vec<Layer>,
    /// The database under them.
    pub(super) view: Arc<dyn StateView>,
    /// Which committed version that is.
    pub(super) version: u64,
}

impl Layer {
    fn new(parent: Parent, overlay: Overlay, root: Option<Child>) -> Self {
        let root_hash = Child::root_hash(root.as_ref());
        Self(Arc::new(Inner { overlay, root, root_hash, parent: RwLock::new(parent) }))
    }

    /// A version on top of this one.
    pub(super) fn on_top(&self, overlay: Overlay, root: Option<Child>) -> Self {
        Self::new(Parent::Layer(self.clone()), overlay, root)
    }

    /// The state root.
    pub fn root(&self) -> B256 {
        self.0.root_hash
    }

    /// What stands at the root of the account trie.
    pub(super) fn root_child(&self) -> Option<&Child> {
        self.0.root.as_ref()
    }

    pub(super) fn overlay(&self) -> &Overlay {
        &self.0.overlay
    }

    fn parent(&self) -> Parent {
        self.0.parent.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn chain(&self) -> Chain {
        let (mut layers, mut layer) = (Vec::new(), self.clone());
        loop {
            match layer.parent() {
                Parent::Layer(parent) => layers.push(std::mem::replace(&mut layer, parent)),
                Parent::Committed { view, version } => return Chain { layers, view, version },
            }
        }
    }

    /// Looks in the overlays from the newest down, then in the database.
    fn look<T>(
        &self,
        mut overlay: impl FnMut(&Overlay) -> Option<T>,
        stored: impl FnOnce(&dyn StateView) -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        let mut layer = self.clone();
        loop {
            if let Some(found) = overlay(&layer.0.overlay) {
                return Ok(found);
            }
            match layer.parent() {
                Parent::Layer(parent) => layer = parent,
                Parent::Committed { view, .. } => return stored(&*view),
            }
        }
    }

    /// The account whose address has this hash.
    pub(super) fn account_by_hash(&self, hash: &B256) -> Result<Option<Account>, StateError> {
        self.look(
            |overlay| overlay.accounts.get(hash).cloned(),
            |view| view.get(Column::ACCOUNTS, hash.as_slice())?.map(|bytes| Account::decode(&bytes)).transpose(),
        )
    }

    /// The word of the account and slot with these hashes.
    pub(super) fn word_by_hash(&self, owner: &B256, slot: &B256) -> Result<U256, StateError> {
        self.look(
            |overlay| {
                let storage = overlay.storage.get(owner)?;
                storage.words.get(slot).copied().or(storage.cleared.then_some(U256::ZERO))
            },
            |view| {
                let bytes = view.get(Column::STORAGE, &storage_key(owner, slot.as_slice()))?;
                bytes.map_or(Ok(U256::ZERO), |bytes| decode_word(&bytes))
            },
        )
    }

    /// A branch of the account trie, or of an account's storage trie.
    pub(super) fn branch(&self, owner: Option<&B256>, path: &Nibbles) -> Result<Branch, StateError> {
        let bytes = self.look(
            |overlay| match owner {
                None => overlay.nodes.get(path).cloned(),
                Some(owner) => {
                    let storage = overlay.storage.get(owner)?;
                    storage.nodes.get(path).cloned().or(storage.cleared.then_some(None))
                }
            },
            |view| Ok(view.get(Column::BRANCHES, &branch_key(owner, path))?),
        )?;
        Branch::decode(&bytes.ok_or(StateError::Damaged("a branch node that is missing"))?)
    }
}

impl StateRead for Layer {
    type Error = StateError;

    fn account(&self, address: Address) -> Result<Option<AccountInfo>, StateError> {
        Ok(self.account_by_hash(&keccak256(address))?.map(|account| account.info))
    }

    fn storage(&self, address: Address, slot: B256) -> Result<U256, StateError> {
        self.word_by_hash(&keccak256(address), &keccak256(slot))
    }

    fn code(&self, hash: B256) -> Result<Bytes, StateError> {
        if hash == KECCAK_EMPTY {
            return Ok(Bytes::new());
        }
        let code = self.look(
            |overlay| overlay.code.get(&hash).cloned().map(Some),
            |view| Ok(view.get(Column::CODE, hash.as_slice())?.map(Bytes::from)),
        )?;
        code.ok_or(StateError::CodeMissing(hash))
    }
}
