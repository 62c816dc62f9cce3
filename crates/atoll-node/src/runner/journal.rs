//! The journal: one file for each workload, written before anything is done to it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use atoll_base::LeaseId;
use atoll_node_core::Record;
use serde::{Deserialize, Serialize};

use crate::images::store::{sync_folder, write_atomic};

/// The form that this version writes and reads.
const VERSION: u32 = 1;

/// A journal that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// The disk failed.
    #[error("cannot {doing} the journal {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another version wrote it, or it is damaged.
    #[error("the journal {path} cannot be understood ({why}): use the version of atoll that wrote it")]
    Form {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// The folder.
#[derive(Debug)]
pub(crate) struct Journal {
    folder: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Page<R> {
    version: u32,
    record: R,
}

impl Journal {
    /// Opens the journal and reads all of it.
    pub(crate) fn open(folder: PathBuf) -> Result<(Self, BTreeMap<LeaseId, Record>), JournalError> {
        fs::create_dir_all(&folder).map_err(error("make", &folder))?;
        let mut records = BTreeMap::new();
        for entry in fs::read_dir(&folder).map_err(error("list", &folder))? {
            let path = entry.map_err(error("list", &folder))?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue; // an unfinished write
            }
            let bytes = fs::read(&path).map_err(error("read", &path))?;
            let form = |why: String| JournalError::Form { path: path.clone(), why };
            let page: Page<Record> = serde_json::from_slice(&bytes).map_err(|e| form(e.to_string()))?;
            if page.version != VERSION {
                return Err(form(format!("it is of version {}, this is version {VERSION}", page.version)));
            }
            records.insert(page.record.lease, page.record);
        }
        Ok((Self { folder }, records))
    }

    /// Writes a record; when this returns it is on the disk.
    pub(crate) fn write(&self, record: &Record) -> Result<(), JournalError> {
        let path = self.path(record.lease);
        let bytes = serde_json::to_vec_pretty(&Page { version: VERSION, record })
            .map_err(|e| JournalError::Form { path: path.clone(), why: e.to_string() })?;
        write_atomic(&path, &bytes).map_err(error("write", &path))
    }

    /// Forgets a lease.
    pub(crate) fn remove(&self, lease: LeaseId) -> Result<(), JournalError> {
        let path = self.path(lease);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(JournalError::Io { doing: "delete", path, source })
            }
            _ => sync_folder(&self.folder).map_err(error("sync", &self.folder)),
        }
    }

    fn path(&self, lease: LeaseId) -> PathBuf {
        self.folder.join(format!("{lease}.json"))
    }
}

fn error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.to_owned();
    move |source| JournalError::Io { doing, path, source }
}
