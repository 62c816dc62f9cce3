//! Layers into a root file system, without ever leaving it.
//!
//! Paths in a layer are resolved as if the folder were the root: `..` stops there, absolute links begin there. Nobody
//! else writes below the folder while it is made, so what was looked at is what is written to.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File, Permissions},
    io::{self, BufReader, Read, Seek as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{PermissionsExt as _, lchown, symlink},
    },
    path::{Component, Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use super::{
    Digest, ImageError, ImageStore,
    import::decompress,
    manifest::Manifest,
    store::{sync_folder, write_atomic},
};
use crate::limits::{IMAGE_BYTES_MAX, IMAGE_ENTRIES_MAX, IMAGE_PATH_BYTES_MAX};

/// Links that one path may lead through.
const LINKS_MAX: usize = 40;
/// Tells one boot of the machine from another.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

impl ImageStore {
    /// The unpacked root file system of an image whose blobs are all here. Made when it is not there yet. Blocking.
    pub(crate) fn unpacked(&self, digest: Digest) -> Result<PathBuf, ImageError> {
        let lock = self.unpack_lock(digest);
        let _guard = lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let root = self.folder("roots").join(digest.hex());
        let marker = root.with_extension("ok");
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_default();
        if root.is_dir() && fs::read_to_string(&marker).is_ok_and(|made_in| made_in == boot) {
            return Ok(root);
        }
        if root.exists() {
            fs::remove_dir_all(&root).map_err(ImageError::io("delete", &root))?;
        }
        let manifest = self.manifest(digest)?;
        let temporary = self.temporary();
        fs::create_dir(&temporary).map_err(ImageError::io("make", &temporary))?;
        if let Err(error) = self.unpack_layers(&manifest, &temporary) {
            if let Err(error) = fs::remove_dir_all(&temporary) {
                tracing::debug!(%error, "a temporary folder stays until the next start");
            }
            return Err(error);
        }
        fs::set_permissions(&temporary, Permissions::from_mode(0o755))
            .map_err(ImageError::io("prepare", &temporary))?;
        fs::rename(&temporary, &root).map_err(ImageError::io("rename", &root))?;
        write_atomic(&marker, boot.as_bytes()).map_err(ImageError::io("write", &marker))?;
        sync_folder(&self.folder("roots")).map_err(ImageError::io("sync", &root))?;
        Ok(root)
    }

    fn unpack_layers(&self, manifest: &Manifest, root: &Path) -> Result<(), ImageError> {
        let mut budget = Budget { entries: IMAGE_ENTRIES_MAX, bytes: IMAGE_BYTES_MAX };
        for descriptor in &manifest.layers {
            let digest = descriptor.digest()?;
            let path = self.path(digest);
            let mut file = File::open(&path).map_err(ImageError::io("open", &path))?;
            let mut magic = [0; 4];
            let known = file.read(&mut magic).map_err(ImageError::io("read", &path))?;
            file.rewind().map_err(ImageError::io("read", &path))?;
            let reader = decompress(BufReader::with_capacity(128 * 1024, file), &magic[..known])
                .map_err(ImageError::io("read", &path))?;
            Layer { digest, root, written: BTreeSet::new() }.unpack(reader, &mut budget)?;
        }
        Ok(())
    }
}

/// What is left of the bounds.
struct Budget {
    entries: u64,
    bytes: u64,
}

/// One layer while it is unpacked.
struct Layer<'a> {
    digest: Digest,
    root: &'a Path,
    /// Paths that this layer wrote: its own whiteouts do not hide them.
    written: BTreeSet<PathBuf>,
}

impl Layer<'_> {
    fn unpack(mut self, reader: impl Read, budget: &mut Budget) -> Result<(), ImageError> {
        let mut archive = tar::Archive::new(reader);
        let entries = archive.entries().map_err(|e| self.bad("", e.to_string()))?;
        for entry in entries {
            let mut entry = entry.map_err(|e| self.bad("", format!("the archive is damaged: {e}")))?;
            let path = PathBuf::from(OsStr::from_bytes(&entry.path_bytes()));
            budget.entries = budget.entries.checked_sub(1).ok_or_else(|| {
                self.bad(&path.to_string_lossy(), format!("the image has more than {IMAGE_ENTRIES_MAX} files"))
            })?;
            budget.bytes = budget.bytes.checked_sub(entry.size()).ok_or_else(|| {
                self.bad(&path.to_string_lossy(), format!("the image has more than {IMAGE_BYTES_MAX} bytes"))
            })?;
            self.entry(&mut entry, &path)?;
        }
        Ok(())
    }

    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, path: &Path) -> Result<(), ImageError> {
        let shown = path.to_string_lossy().into_owned();
        if path.as_os_str().len() > IMAGE_PATH_BYTES_MAX {
            return Err(self.bad(&shown, "its path is too long"));
        }
        if path.components().any(|c| c == Component::ParentDir) {
            return Err(self.bad(&shown, "its path leads out of the image"));
        }
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            return Ok(()); // the root itself
        };
        let parent = self.resolve(path.parent().unwrap_or(Path::new("")), &shown)?;
        fs::create_dir_all(&parent).map_err(ImageError::io("make", &parent))?;
        if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
            return self.whiteout(&parent, hidden, &shown);
        }
        let target = parent.join(&name);
        let made = self.make(entry, &target, &shown)?;
        if made {
            self.written.insert(target);
        }
        Ok(())
    }

    /// Makes the file, folder or link. Returns false for kinds that are left out.
    fn make<R: Read>(&self, entry: &mut tar::Entry<'_, R>, target: &Path, shown: &str) -> Result<bool, ImageError> {
        let kind = entry.header().entry_type();
        let existing = fs::symlink_metadata(target).ok();
        match kind {
            tar::EntryType::Directory => {
                if existing.as_ref().is_none_or(|data| !data.is_dir()) {
                    clear(target, existing.as_ref())?;
                    fs::create_dir(target).map_err(ImageError::io("make", target))?;
                }
            }
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                clear(target, existing.as_ref())?;
                let mut file = File::create_new(target).map_err(ImageError::io("create", target))?;
                io::copy(entry, &mut file).map_err(ImageError::io("write", target))?;
                let modified = entry.header().mtime().ok().and_then(|s| UNIX_EPOCH.checked_add(Duration::from_secs(s)));
                if let Some(modified) = modified {
                    file.set_modified(modified).map_err(ImageError::io("date", target))?;
                }
            }
            tar::EntryType::Symlink => {
                let link = entry.link_name_bytes().ok_or_else(|| self.bad(shown, "a link without a target"))?;
                clear(target, existing.as_ref())?;
                // Where it points does not matter: it is only ever followed inside the image.
                symlink(OsStr::from_bytes(&link), target).map_err(ImageError::io("link", target))?;
            }
            tar::EntryType::Link => {
                let link = entry.link_name_bytes().ok_or_else(|| self.bad(shown, "a link without a target"))?;
                self.hard_link(Path::new(OsStr::from_bytes(&link)), target, existing.as_ref(), shown)?;
                return Ok(true);
            }
            // Device nodes come from the runtime, never from an image; FIFOs in images are leftovers of builds.
            tar::EntryType::Char | tar::EntryType::Block | tar::EntryType::Fifo => return Ok(false),
            other => return Err(self.bad(shown, format!("its kind {other:?} is unknown"))),
        }
        self.own(entry, target, shown)?;
        Ok(true)
    }

    fn hard_link(
        &self,
        link: &Path,
        target: &Path,
        existing: Option<&fs::Metadata>,
        shown: &str,
    ) -> Result<(), ImageError> {
        let name = link.file_name().ok_or_else(|| self.bad(shown, "a hard link to nothing"))?;
        let source = self.resolve(link.parent().unwrap_or(Path::new("")), shown)?.join(name);
        let data = fs::symlink_metadata(&source).map_err(|_| self.bad(shown, "a hard link to a missing file"))?;
        if data.is_dir() {
            return Err(self.bad(shown, "a hard link to a folder"));
        }
        if source == target {
            return Ok(());
        }
        clear(target, existing)?;
        fs::hard_link(&source, target).map_err(ImageError::io("link", target))
    }

    fn own<R: Read>(&self, entry: &tar::Entry<'_, R>, target: &Path, shown: &str) -> Result<(), ImageError> {
        let header = entry.header();
        let number = |n: io::Result<u64>| n.ok().and_then(|n| u32::try_from(n).ok());
        let (Some(user), Some(group)) = (number(header.uid()), number(header.gid())) else {
            return Err(self.bad(shown, "its owner is not a number that Linux knows"));
        };
        lchown(target, Some(user), Some(group)).map_err(ImageError::io("chown", target))?;
        if !header.entry_type().is_symlink() {
            let mode = header.mode().map_err(|e| self.bad(shown, e.to_string()))? & 0o7777;
            fs::set_permissions(target, Permissions::from_mode(mode)).map_err(ImageError::io("chmod", target))?;
        }
        Ok(())
    }

    /// Takes away what lower layers have here.
    fn whiteout(&self, parent: &Path, hidden: &[u8], shown: &str) -> Result<(), ImageError> {
        if hidden == b".wh..opq" {
            for child in fs::read_dir(parent).map_err(ImageError::io("list", parent))? {
                let child = child.map_err(ImageError::io("list", parent))?.path();
                let below = |path: &PathBuf| path.starts_with(&child);
                if !self.written.range(child.clone()..).next().is_some_and(below) {
                    clear(&child, fs::symlink_metadata(&child).ok().as_ref())?;
                }
            }
            return Ok(());
        }
        if hidden.is_empty() || hidden == b"." || hidden == b".." || hidden.contains(&b'/') {
            return Err(self.bad(shown, "a whiteout of nothing"));
        }
        let target = parent.join(OsStr::from_bytes(hidden));
        if self.written.contains(&target) {
            return Ok(());
        }
        clear(&target, fs::symlink_metadata(&target).ok().as_ref())
    }

    /// Where `path` leads when the image is the root: follows links, but never out of it.
    fn resolve(&self, path: &Path, shown: &str) -> Result<PathBuf, ImageError> {
        let mut todo: Vec<Vec<u8>> = parts(path);
        todo.reverse();
        let mut found: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == b".." {
                found.pop();
                continue;
            }
            found.push(part);
            let at = join(self.root, &found);
            match fs::symlink_metadata(&at) {
                Ok(data) if data.is_symlink() => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(self.bad(shown, "its path leads through too many links"));
                    }
                    let link = fs::read_link(&at).map_err(ImageError::io("read", &at))?;
                    found.pop();
                    if link.is_absolute() {
                        found.clear();
                    }
                    todo.extend(parts(&link).into_iter().rev());
                }
                Ok(data) if !data.is_dir() => {
                    // A lower layer has a file where this one has a folder: the newer layer wins.
                    clear(&at, Some(&data))?;
                }
                Ok(_) | Err(_) => {}
            }
        }
        Ok(join(self.root, &found))
    }

    fn bad(&self, path: &str, why: impl Into<String>) -> ImageError {
        ImageError::Layer { layer: self.digest, path: path.to_owned(), why: why.into() }
    }
}

fn parts(path: &Path) -> Vec<Vec<u8>> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(part) => Some(part.as_bytes().to_vec()),
            Component::ParentDir => Some(b"..".to_vec()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
        })
        .collect()
}

fn join(root: &Path, parts: &[Vec<u8>]) -> PathBuf {
    let mut path = root.to_owned();
    path.extend(parts.iter().map(|part| OsStr::from_bytes(part)));
    path
}

/// Removes what is at `path`, without following it.
fn clear(path: &Path, existing: Option<&fs::Metadata>) -> Result<(), ImageError> {
    match existing {
        None => Ok(()),
        Some(data) if data.is_dir() => fs::remove_dir_all(path).map_err(ImageError::io("replace", path)),
        Some(_) => fs::remove_file(path).map_err(ImageError::io("replace", path)),
    }
}
