//! Images: a store of blobs by digest, how blobs come into it, and how an image is unpacked.
//!
//! ```text
//! <data>/images/
//!   blobs/<64 hex>      complete and verified: the name is the content's SHA-256
//!   partial/<64 hex>    being fetched; an interrupted fetch goes on from here
//!   tmp/                emptied at start
//!   roots/<64 hex>/     unpacked root file system of the image with this manifest
//!   roots/<64 hex>.ok   the boot in which it was unpacked: after a power cut it is unpacked again
//!   refs/<64 hex>       ledger time (ms) at which the image with this manifest was last imported or fetched
//! ```

pub(crate) mod collect;
pub(crate) mod fetch;
pub(crate) mod import;
pub(crate) mod manifest;
pub(crate) mod store;
pub(crate) mod unpack;

use std::{io, path::PathBuf};

pub(crate) use manifest::ImageConfig;
pub(crate) use store::{Digest, ImageStore};

/// What can go wrong with an image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    /// The disk failed.
    #[error("cannot {doing} {path}: {source}{}", full_hint(source))]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A digest in another form.
    #[error("'{0}' is not a digest that this program knows: expected sha256: and 64 hexadecimal digits")]
    NotADigest(String),
    /// Content that is not what its name says.
    #[error("{what} should have digest {expected} but has {actual}: it was changed or damaged; export it again")]
    Mismatch {
        /// Which content.
        what: String,
        /// The digest that was asked for.
        expected: Digest,
        /// The digest that it has.
        actual: Digest,
    },
    /// Content of another size than its description says.
    #[error("{what} should have {expected} bytes but has {actual}")]
    Size {
        /// Which content.
        what: String,
        /// As described.
        expected: u64,
        /// As found.
        actual: u64,
    },
    /// Something is not an image.
    #[error("{path} is not an OCI layout folder and not a `docker save` archive: {why}")]
    NotAnImage {
        /// What was given.
        path: PathBuf,
        /// What is missing or wrong.
        why: String,
    },
    /// A manifest, index or configuration that cannot be used.
    #[error("{what} cannot be used: {why}")]
    Form {
        /// Which document.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A layer that would write outside the image's own folder, or is damaged.
    #[error("layer {layer} of the image is unsafe or damaged at '{path}': {why}")]
    Layer {
        /// The layer.
        layer: Digest,
        /// The entry.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// No source has it.
    #[error("image '{name}' ({digest}) was found in none of its sources: {tried}")]
    NotFound {
        /// What the user called it.
        name: String,
        /// The content that is missing.
        digest: Digest,
        /// What each source said.
        tried: String,
    },
}

impl ImageError {
    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }
}

fn full_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": the disk is full; make room, the node tries again by itself"
        }
        _ => "",
    }
}

#[cfg(test)]
pub(crate) mod tests;
