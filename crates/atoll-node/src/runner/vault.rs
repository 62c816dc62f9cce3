//! Private parts of services, as the ledger gave them: still sealed on disk, opened only when needed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use atoll_base::{
    LeaseId, NodeSecret,
    schema::ServiceView,
    seal::{self, ContentKey, SealError},
    spec::PrivateSpec,
};

use crate::{images::store::write_atomic, ledger::send::Keys};

/// Why a private part cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VaultError {
    /// It was never stored, or the disk failed.
    #[error("cannot read or write the sealed specification: {0}")]
    Io(#[from] io::Error),
    /// Nobody sealed the content key to this node yet.
    #[error("nobody has sealed the deployment's key to this node yet: the node that ran it hands it on when it can")]
    NoKey,
    /// Not for this node.
    #[error("the deployment's key cannot be opened: {0}")]
    Seal(#[from] SealError),
    /// The owner published the hash of something else.
    #[error("the sealed specification is not the one whose hash is on the ledger: its owner must deploy it again")]
    Hash,
    /// Another version wrote it.
    #[error("the specification has an unknown form: {0}: its owner must deploy it again")]
    Form(serde_json::Error),
}

/// A private part that was opened.
pub(crate) struct Opened {
    /// Its key, for standbys.
    pub(crate) key: ContentKey,
    /// What it says.
    pub(crate) spec: PrivateSpec,
}

/// The folder of sealed parts. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Vault {
    workloads: PathBuf,
    secret: NodeSecret,
}

impl Vault {
    pub(crate) fn new(workloads: PathBuf, secret: NodeSecret) -> Self {
        Self { workloads, secret }
    }

    /// Opens what was stored for a lease.
    pub(crate) fn open(&self, lease: LeaseId, spec_hash: [u8; 32]) -> Result<Opened, VaultError> {
        let text = fs::read(self.file(lease))?;
        let view: ServiceView = serde_json::from_slice(&text).map_err(VaultError::Form)?;
        self.open_view(&view, spec_hash)
    }

    /// Opens what the ledger gave.
    pub(crate) fn open_view(&self, view: &ServiceView, spec_hash: [u8; 32]) -> Result<Opened, VaultError> {
        if view.sealed_key.is_empty() {
            return Err(VaultError::NoKey);
        }
        let key = seal::open_key(&self.secret, &view.sealed_key)?;
        let plain = seal::open_content(&key, &view.sealed_spec)?;
        if seal::content_hash(&plain) != spec_hash {
            return Err(VaultError::Hash);
        }
        let spec = serde_json::from_slice(&plain).map_err(VaultError::Form)?;
        Ok(Opened { key, spec })
    }

    /// Stores what the ledger gave.
    pub(crate) fn save(&self, lease: LeaseId, view: &ServiceView) -> Result<(), VaultError> {
        let path = self.file(lease);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        let text = serde_json::to_vec(view).map_err(VaultError::Form)?;
        Ok(write_atomic(&path, &text)?)
    }

    /// The folder of a workload.
    pub(crate) fn folder(&self, lease: LeaseId) -> PathBuf {
        self.workloads.join(lease.to_string())
    }

    fn file(&self, lease: LeaseId) -> PathBuf {
        self.folder(lease).join("sealed.json")
    }
}

/// The vault of a node whose leases' hashes are known.
pub(crate) struct VaultKeys {
    pub(crate) vault: Vault,
    pub(crate) records: tokio::sync::watch::Receiver<crate::ledger::send::Records>,
}

impl Keys for VaultKeys {
    fn content_key(&self, lease: LeaseId) -> Option<ContentKey> {
        let spec_hash = self.records.borrow().get(&lease)?.want.spec_hash;
        self.vault.open(lease, spec_hash).ok().map(|opened| opened.key)
    }
}

/// Makes a folder that only this daemon may look into.
pub(crate) fn private_folder(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}
