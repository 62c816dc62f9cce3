//! The ledger as this node sees it: only what it verified itself.
//!
//! [`follow`] keeps a [`Verified`] in a watch channel: newest certified block, and the region's view with its proof
//! checked. [`send`] sends the node's own free transactions. Servers are interchangeable and not trusted.

pub(crate) mod follow;
pub(crate) mod prove;
pub(crate) mod rpc;
pub(crate) mod send;

use std::{sync::Arc, time::Instant};

use atoll_base::schema::RegionView;

/// What the node verified.
#[derive(Debug, Clone, Default)]
pub(crate) struct Verified {
    /// Height of the newest block with a good certificate.
    pub(crate) height: u64,
    /// Its ledger time, ms.
    pub(crate) time_ms: u64,
    /// Height at which the view was read.
    pub(crate) view_height: u64,
    /// Everything that lives in the region; none before the first proof.
    pub(crate) view: Option<Arc<RegionView>>,
    /// The server that is followed.
    pub(crate) server: Option<String>,
    /// When the newest block was verified, by this machine's monotonic clock.
    pub(crate) heard: Option<Instant>,
    /// Why the ledger cannot be followed now.
    pub(crate) problem: Option<String>,
}

impl Verified {
    /// Ledger time now: that of the newest block plus what has passed since.
    pub(crate) fn now_ms(&self) -> u64 {
        self.time_ms.saturating_add(self.silent_ms())
    }

    /// How long nothing new was verified, ms.
    pub(crate) fn silent_ms(&self) -> u64 {
        self.heard.map_or(0, |at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// The view, or an empty one.
    pub(crate) fn view(&self) -> Arc<RegionView> {
        self.view.clone().unwrap_or_default()
    }
}
