//! What the state store needs of a database: ordered keys, consistent views, atomic batches.

use std::{
    collections::BTreeMap,
    ops::{Bound, ControlFlow},
    sync::{Arc, PoisonError, RwLock},
};

/// A table of the database. Those below [`Column::FREE`] belong to the state store, the others to whoever shares its
/// database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Column(pub u8);

impl Column {
    /// Keccak-256 of an address → account.
    pub const ACCOUNTS: Self = Self(1);
    /// Keccak-256 of an address and of a slot → word.
    pub const STORAGE: Self = Self(2);
    /// Keccak-256 of code → code.
    pub const CODE: Self = Self(3);
    /// Trie and nibble path → branch node.
    pub const BRANCHES: Self = Self(4);
    /// A few values about the store itself.
    pub const META: Self = Self(5);
    /// The first column that the state store leaves to others.
    pub const FREE: Self = Self(16);
}

/// A database that failed.
#[derive(Debug, thiserror::Error)]
#[error("the ledger's database failed to {action}")]
pub struct BackendError {
    /// What was wanted of it.
    pub action: &'static str,
    /// Whether nothing was written, and the same may work later (a full disk). Otherwise the database is of no more use.
    pub retry: bool,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Writes that happen all or not at all. Of several writes to one key the last counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    writes: BTreeMap<(Column, Vec<u8>), Option<Vec<u8>>>,
}

impl Batch {
    /// Stores a value.
    pub fn put(&mut self, column: Column, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.writes.insert((column, key.into()), Some(value.into()));
    }

    /// Removes a key, if it is there.
    pub fn delete(&mut self, column: Column, key: impl Into<Vec<u8>>) {
        self.writes.insert((column, key.into()), None);
    }

    /// Turns all puts so far into deletes, for keys of `column` that start with `prefix`.
    pub fn delete_written(&mut self, column: Column, prefix: &[u8]) {
        for ((at, key), value) in self.writes.range_mut((column, prefix.to_vec())..) {
            if *at != column || !key.starts_with(prefix) {
                break;
            }
            *value = None;
        }
    }

    /// Adds all writes of `later`.
    pub fn append(&mut self, mut later: Self) {
        self.writes.append(&mut later.writes);
    }

    /// Whether it writes nothing.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// How many keys it writes.
    pub fn len(&self) -> usize {
        self.writes.len()
    }

    /// All writes in order of their keys; `None` removes.
    pub fn into_writes(self) -> impl Iterator<Item = (Column, Vec<u8>, Option<Vec<u8>>)> {
        self.writes.into_iter().map(|((column, key), value)| (column, key, value))
    }
}

/// What [`StateView::scan`] calls with a key and its value.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// One version of the database: never changes, whatever is written meanwhile.
pub trait StateView: Send + Sync {
    /// The value of a key.
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError>;

    /// Visits the keys that start with `prefix` and are not less than `from`, in ascending order, until told to stop.
    fn scan(&self, column: Column, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), BackendError>;
}

/// A database.
pub trait StateBackend: Send + Sync {
    /// What is stored now, as a version that stays.
    fn view(&self) -> Result<Arc<dyn StateView>, BackendError>;

    /// Writes all or nothing, and returns when it would survive a loss of power.
    fn write(&self, batch: Batch) -> Result<(), BackendError>;
}

type Map = BTreeMap<(Column, Vec<u8>), Vec<u8>>;

/// A database in memory, for tests and simulations. A write copies all of it while a view of the former version lives.
#[derive(Debug, Clone, Default)]
pub struct MemoryBackend {
    map: Arc<RwLock<Arc<Map>>>,
}

impl StateBackend for MemoryBackend {
    fn view(&self) -> Result<Arc<dyn StateView>, BackendError> {
        let map = self.map.read().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::new(MemoryView(Arc::clone(&map))))
    }

    fn write(&self, batch: Batch) -> Result<(), BackendError> {
        let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        let map = Arc::make_mut(&mut map);
        for (column, key, value) in batch.into_writes() {
            match value {
                Some(value) => map.insert((column, key), value),
                None => map.remove(&(column, key)),
            };
        }
        Ok(())
    }
}

struct MemoryView(Arc<Map>);

impl StateView for MemoryView {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError> {
        Ok(self.0.get(&(column, key.to_vec())).cloned())
    }

    fn scan(&self, column: Column, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), BackendError> {
        let start = Bound::Included((column, from.max(prefix).to_vec()));
        for ((at, key), value) in self.0.range((start, Bound::Unbounded)) {
            if *at != column || !key.starts_with(prefix) || visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}
