//! What the engine tells about itself while it runs.

use std::sync::{Arc, Mutex, PoisonError};

use atoll_base::NodeId;

/// A handle on the engine's state, for reports to people. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Status(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    finality_ms: Option<u64>,
    peers: Vec<NodeId>,
}

impl Status {
    /// Newest time from proposal to finality, milliseconds.
    pub fn finality_ms(&self) -> Option<u64> {
        self.with(|inner| inner.finality_ms)
    }

    /// The other validators that this one is connected to.
    pub fn peers(&self) -> Vec<NodeId> {
        self.with(|inner| inner.peers.clone())
    }

    pub(crate) fn set_finality_ms(&self, milliseconds: u64) {
        self.with(|inner| inner.finality_ms = Some(milliseconds));
    }

    pub(crate) fn set_peers(&self, peers: Vec<NodeId>) {
        self.with(|inner| inner.peers = peers);
    }

    fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
