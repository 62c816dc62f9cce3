//! Files that survive a crash, and how much room there is.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nix::sys::statvfs::statvfs;
use serde::{Serialize, de::DeserializeOwned};

/// A file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The disk has no room.
    #[error("no space left on the disk of {0}: free some and try again")]
    Full(PathBuf),
    /// Anything else.
    #[error("cannot {what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The content is not what it should be.
    #[error("{path} does not hold what it should; remove it if it was edited by hand")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

impl DiskError {
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull => Self::Full(path),
            _ => Self::Io { what, path, source },
        }
    }
}

/// Room on the file system of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Its size.
    pub total_bytes: u64,
    /// What an ordinary process can still write.
    pub free_bytes: u64,
}

/// How much room there is where `path` (which must exist) lies.
pub fn space(path: &Path) -> Result<Space, DiskError> {
    let stat = statvfs(path).map_err(|e| DiskError::io("ask for the free space of", path)(e.into()))?;
    let unit = stat.fragment_size();
    Ok(Space {
        total_bytes: stat.blocks().saturating_mul(unit),
        free_bytes: stat.blocks_available().saturating_mul(unit),
    })
}

/// Replaces a file so that after a crash it has either the old or the new content, and when this returns, the new.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> Result<(), DiskError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = write_new(&temporary, content, mode).and_then(|()| fs::rename(&temporary, path));
    if let Err(source) = written {
        // The temporary file is of no use to anyone; the write's own error is what matters.
        let _ = fs::remove_file(&temporary);
        return Err(DiskError::io("write", path)(source));
    }
    sync_directory(path.parent().unwrap_or(Path::new("/")))
}

/// Makes the names in a directory durable.
pub fn sync_directory(path: &Path) -> Result<(), DiskError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(DiskError::io("flush the directory", path))
}

/// Removes a file or a whole directory if it is there.
pub fn remove(path: &Path) -> Result<(), DiskError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(DiskError::io("remove", path)),
    }
}

/// Writes a value as JSON, see [`write_atomic`]; only the owner may read it.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), DiskError> {
    let text = serde_json::to_vec_pretty(value).map_err(|source| DiskError::Content { path: path.into(), source })?;
    write_atomic(path, &text, 0o600)
}

/// Reads a value that [`write_json`] wrote, if the file is there.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, DiskError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(DiskError::io("read", path)(e)),
    };
    serde_json::from_slice(&text).map(Some).map_err(|source| DiskError::Content { path: path.into(), source })
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_with_its_mode() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("secret");
        for content in ["first, and longer", "second"] {
            write_atomic(&path, content.as_bytes(), 0o600).expect("write");
            assert_eq!(fs::read_to_string(&path).expect("read"), content);
        }
        let mode = fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 1, "no temporary file is left");
        let refused = write_atomic(&dir.path().join("no/such/place"), b"", 0o600).expect_err("no directory");
        assert!(refused.to_string().contains("no/such/place"), "{refused}");
    }

    #[test]
    fn removing_twice_is_fine() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a/b");
        fs::create_dir_all(&path).expect("directories");
        remove(&dir.path().join("a")).expect("remove");
        remove(&dir.path().join("a")).expect("remove again");
    }

    #[test]
    fn there_is_less_free_space_than_space() {
        let space = space(Path::new("/")).expect("the root's space");
        assert!(space.total_bytes > 0 && space.free_bytes <= space.total_bytes);
    }
}
