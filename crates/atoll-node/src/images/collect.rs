//! Deleting images that nothing refers to any more.

use std::{collections::BTreeSet, fs, path::Path};

use super::{Digest, ImageError, ImageStore};
use crate::limits::IMAGE_KEEP_MS;

impl ImageStore {
    /// Deletes everything that belongs neither to a manifest in `used` nor to one that came in recently. Does nothing
    /// while blobs are coming in. Returns how many blobs and unpacked images it deleted. Blocking.
    pub(crate) fn collect(&self, used: &BTreeSet<Digest>, now_ms: u64) -> Result<usize, ImageError> {
        let Ok(_guard) = self.busy.try_write() else { return Ok(0) };
        let mut manifests = used.clone();
        for path in list(&self.folder("refs"))? {
            let Some(digest) = named(&path) else { continue };
            let at_ms = fs::read_to_string(&path).ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
            if now_ms.saturating_sub(at_ms) < IMAGE_KEEP_MS {
                manifests.insert(digest);
            } else if !used.contains(&digest) {
                fs::remove_file(&path).map_err(ImageError::io("delete", &path))?;
            }
        }
        let mut blobs = manifests.clone();
        for digest in &manifests {
            // One that cannot be read is being fetched, or damaged: its parts are found again by their digests.
            let Ok(manifest) = self.manifest(*digest) else { continue };
            blobs.extend(manifest.layers.iter().chain([&manifest.config]).filter_map(|d| d.digest().ok()));
        }
        let mut deleted = 0;
        for folder in ["blobs", "partial"] {
            for path in list(&self.folder(folder))? {
                if named(&path).is_some_and(|digest| !blobs.contains(&digest)) {
                    fs::remove_file(&path).map_err(ImageError::io("delete", &path))?;
                    deleted += 1;
                }
            }
        }
        for path in list(&self.folder("roots"))? {
            if path.is_dir() && named(&path).is_some_and(|digest| !manifests.contains(&digest)) {
                let marker = path.with_extension("ok");
                if marker.exists() {
                    fs::remove_file(&marker).map_err(ImageError::io("delete", &marker))?;
                }
                fs::remove_dir_all(&path).map_err(ImageError::io("delete", &path))?;
                deleted += 1;
            }
        }
        Ok(deleted)
    }
}

fn list(folder: &Path) -> Result<Vec<std::path::PathBuf>, ImageError> {
    let entries = fs::read_dir(folder).map_err(ImageError::io("list", folder))?;
    entries.map(|entry| entry.map(|e| e.path()).map_err(ImageError::io("list", folder))).collect()
}

fn named(path: &Path) -> Option<Digest> {
    path.file_name()?.to_str().and_then(Digest::from_hex)
}
