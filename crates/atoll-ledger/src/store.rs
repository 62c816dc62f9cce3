//! The ledger's database: fjall, one folder, two keyspaces — the state's tables and all others.
//!
//! A column is the first byte of a key, so that keys are never empty, which fjall does not allow. A write is one batch
//! over both keyspaces, and on the disk when it returns. A view is a snapshot of fjall, so a reader is never disturbed.
//!
//! Two things of fjall are worth knowing. A write that fails half-way closes the database for all further ones, until
//! the process starts anew: so a disk that is nearly full is noticed before the write. And its journal is emptied only
//! when both keyspaces have been flushed: its bound, not the state's size, decides how much disk an idle ledger uses.

use std::{
    ops::{Bound, ControlFlow},
    path::{Path, PathBuf},
    sync::Arc,
};

use atoll_ledger_core::state::{BackendError, Batch, Column, StateBackend, StateView, Visit};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable as _, Snapshot};

use crate::limits::{
    STORE_CACHE_BYTES, STORE_FILES_MAX, STORE_JOURNAL_BYTES_MAX, STORE_MEMTABLE_BYTES_MAX, STORE_RESERVE_BYTES,
};

/// Why the database cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Two daemons, one folder.
    #[error("the ledger's data in {path} is in use by another process: stop that one first (`atoll down`)")]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// There is no room to go on.
    #[error(transparent)]
    Full(#[from] DiskFull),
    /// It cannot be created or read.
    #[error("cannot open the ledger's data in {path}")]
    Open {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A disk without room for more.
#[derive(Debug, thiserror::Error)]
#[error(
    "the disk of {path} has {} MiB left, and the ledger writes nothing below {} MiB: free some space, and it goes on by \
     itself", .free_bytes >> 20, .reserve_bytes >> 20
)]
pub struct DiskFull {
    path: PathBuf,
    free_bytes: u64,
    reserve_bytes: u64,
}

/// Whether a ledger may write to the disk of this folder. An error of the system that asks for it is no reason to stop.
pub fn check_room(path: &Path) -> Result<(), DiskFull> {
    room(path, STORE_RESERVE_BYTES)
}

fn room(path: &Path, reserve_bytes: u64) -> Result<(), DiskFull> {
    match atoll_os::disk::space(path) {
        Ok(space) if space.free_bytes < reserve_bytes => {
            Err(DiskFull { path: path.to_owned(), free_bytes: space.free_bytes, reserve_bytes })
        }
        _ => Ok(()),
    }
}

/// The database.
pub struct FjallBackend {
    path: PathBuf,
    reserve_bytes: u64,
    database: Database,
    tables: Tables,
}

#[derive(Clone)]
struct Tables {
    state: Keyspace,
    other: Keyspace,
}

impl Tables {
    fn of(&self, column: Column) -> &Keyspace {
        if column < Column::FREE { &self.state } else { &self.other }
    }
}

impl std::fmt::Debug for FjallBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FjallBackend").field("path", &self.path).finish_non_exhaustive()
    }
}

impl FjallBackend {
    /// Opens the database in this folder, which is made if it is not there.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |error: fjall::Error| match error {
            fjall::Error::Locked => StoreError::InUse { path: path.to_owned() },
            source => StoreError::Open { path: path.to_owned(), source: Box::new(source) },
        };
        std::fs::create_dir_all(path).map_err(|source| failed(source.into()))?;
        // The consensus engine does not survive a disk that is full.
        check_room(path)?;
        let database = Database::builder(path)
            .cache_size(STORE_CACHE_BYTES)
            .max_cached_files(Some(STORE_FILES_MAX))
            .max_journaling_size(STORE_JOURNAL_BYTES_MAX)
            // With more than one, fjall's first worker passes compactions on in a busy loop.
            .worker_threads(1)
            .open()
            .map_err(failed)?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(STORE_MEMTABLE_BYTES_MAX);
        let state = database.keyspace("state", options).map_err(failed)?;
        let other = database.keyspace("chain", options).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            reserve_bytes: STORE_RESERVE_BYTES,
            database,
            tables: Tables { state, other },
        })
    }

    /// Bytes that the database takes on the disk.
    pub fn disk_bytes(&self) -> Result<u64, BackendError> {
        self.database.disk_space().map_err(|e| failed("tell its size", e))
    }
}

impl StateBackend for FjallBackend {
    fn view(&self) -> Result<Arc<dyn StateView>, BackendError> {
        Ok(Arc::new(FjallView { snapshot: self.database.snapshot(), tables: self.tables.clone() }))
    }

    fn write(&self, batch: Batch) -> Result<(), BackendError> {
        room(&self.path, self.reserve_bytes).map_err(|full| BackendError {
            action: "write",
            retry: true,
            source: Box::new(full),
        })?;
        let mut writes = self.database.batch().durability(Some(PersistMode::SyncData));
        for (column, key, value) in batch.into_writes() {
            let table = self.tables.of(column);
            match value {
                Some(value) => writes.insert(table, full_key(column, &key), value),
                None => writes.remove(table, full_key(column, &key)),
            }
        }
        writes.commit().map_err(|e| failed("write", e))
    }
}

struct FjallView {
    snapshot: Snapshot,
    tables: Tables,
}

impl StateView for FjallView {
    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, BackendError> {
        let value = self.snapshot.get(self.tables.of(column), full_key(column, key)).map_err(|e| failed("read", e))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(&self, column: Column, prefix: &[u8], from: &[u8], visit: &mut Visit<'_>) -> Result<(), BackendError> {
        let start = full_key(column, from.max(prefix));
        let end = after_all(full_key(column, prefix));
        if end.as_ref().is_some_and(|end| start >= *end) {
            return Ok(());
        }
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        for entry in self.snapshot.range(self.tables.of(column), (Bound::Included(start), end)) {
            let (key, value) = entry.into_inner().map_err(|e| failed("read", e))?;
            if let ControlFlow::Break(()) = visit(&key[1..], &value) {
                break;
            }
        }
        Ok(())
    }
}

fn full_key(column: Column, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(1 + key.len());
    full.push(column.0);
    full.extend_from_slice(key);
    full
}

/// The least key that is greater than all that start with `prefix`; `None` when there is no such key.
fn after_all(mut prefix: Vec<u8>) -> Option<Vec<u8>> {
    while let Some(last) = prefix.pop() {
        if last < u8::MAX {
            prefix.push(last + 1);
            return Some(prefix);
        }
    }
    None
}

fn failed(action: &'static str, source: fjall::Error) -> BackendError {
    BackendError { action, retry: false, source: Box::new(source) }
}

#[cfg(test)]
mod tests;
