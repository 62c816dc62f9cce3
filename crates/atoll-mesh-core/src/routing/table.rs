//! The router's tables: neighbours, origins, and what is under way for each.

use std::collections::{BTreeMap, BTreeSet};

use atoll_base::{MeshAddr, NodeId};

use crate::{
    LinkId,
    announce::Announcement,
    control::Update,
    limits::{REQUEST_RETRY, REQUEST_RETRY_MAX, UPDATE_BATCH, UPDATE_RETRY, UPDATE_RETRY_MAX},
    time::Time,
};

pub(super) struct Neighbour {
    pub(super) node: MeshAddr,
    pub(super) cost: u32,
    /// Networks about which it has to be told.
    pub(super) dirty: BTreeSet<MeshAddr>,
    pub(super) dirty_since: Time,
    /// Names our table of its routes.
    pub(super) generation: u32,
    /// Names its table of our routes; zero until it told.
    pub(super) its_generation: u32,
    /// Last batch of its that was taken.
    pub(super) taken: u32,
    pub(super) in_flight: Option<InFlight>,
}

pub(super) struct InFlight {
    pub(super) number: u32,
    pub(super) networks: BTreeSet<MeshAddr>,
    pub(super) sent: Time,
    pub(super) tries: u32,
}

pub(super) struct Origin {
    pub(super) node: NodeId,
    /// The nearest that was ever announced at the newest sequence number.
    pub(super) feasible: Option<(u64, u32)>,
    pub(super) routes: BTreeMap<LinkId, Update>,
    pub(super) selected: Option<Selected>,
    pub(super) wanted: Option<Wanted>,
    pub(super) forwarded: Option<(u64, Time)>,
    /// Since when there has been no route at all.
    pub(super) empty_since: Option<Time>,
}

/// The route in use to one origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Selected {
    pub(crate) link: LinkId,
    pub(crate) announcement: Announcement,
    /// Cost of the whole path.
    pub(crate) metric: u32,
    /// Links of the whole path.
    pub(crate) hops: u8,
}

pub(super) struct Wanted {
    pub(super) seqno: u64,
    pub(super) sent: Time,
    pub(super) tries: u32,
}

impl Neighbour {
    /// Has to be told of a network.
    pub(super) fn mark(&mut self, network: MeshAddr, now: Time) {
        if self.dirty.is_empty() {
            self.dirty_since = now;
        }
        self.dirty.insert(network);
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        match &self.in_flight {
            Some(in_flight) => {
                let doubled = UPDATE_RETRY.saturating_mul(1 << in_flight.tries.saturating_sub(1).min(8));
                Some(in_flight.sent + doubled.min(UPDATE_RETRY_MAX))
            }
            None if self.dirty.is_empty() || self.its_generation == 0 => None,
            None => Some(self.dirty_since + UPDATE_BATCH),
        }
    }
}

impl Origin {
    pub(super) const fn new(node: NodeId) -> Self {
        Self {
            node,
            feasible: None,
            routes: BTreeMap::new(),
            selected: None,
            wanted: None,
            forwarded: None,
            empty_since: None,
        }
    }
}

impl Wanted {
    pub(super) fn deadline(&self) -> Time {
        if self.tries == 0 {
            return self.sent;
        }
        let doubled = REQUEST_RETRY.saturating_mul(1 << self.tries.saturating_sub(1).min(8));
        self.sent + doubled.min(REQUEST_RETRY_MAX)
    }
}

/// Whether neighbours should hear of the difference.
pub(super) fn differs(old: Option<&Selected>, new: Option<&Selected>) -> bool {
    match (old, new) {
        (None, None) => false,
        (Some(old), Some(new)) => {
            old.link != new.link
                || old.announcement.seqno != new.announcement.seqno
                || old.metric != new.metric
                || old.hops != new.hops
        }
        _ => true,
    }
}
