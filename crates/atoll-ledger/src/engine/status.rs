//! What the engine tells about itself while it runs.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use atoll_base::NodeId;

/// A validator that was not heard for so long is not connected: each votes at least once a view.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// A handle on the engine's state, for reports to people. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Status(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    finality_ms: Option<u64>,
    heard: BTreeMap<NodeId, Instant>,
}

impl Status {
    /// Newest time from proposal to finality, milliseconds.
    pub fn finality_ms(&self) -> Option<u64> {
        self.with(|inner| inner.finality_ms)
    }

    /// The other validators that this one is connected to.
    pub fn peers(&self) -> Vec<NodeId> {
        self.with(|inner| inner.heard.iter().filter(|(_, at)| at.elapsed() < SILENCE_MAX).map(|(id, _)| *id).collect())
    }

    pub(crate) fn set_finality_ms(&self, milliseconds: u64) {
        self.with(|inner| inner.finality_ms = Some(milliseconds));
    }

    /// A message of this validator arrived. Only validators can send any, so this is bounded by their number.
    pub(crate) fn heard(&self, from: NodeId) {
        self.with(|inner| inner.heard.insert(from, Instant::now()));
    }

    fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
