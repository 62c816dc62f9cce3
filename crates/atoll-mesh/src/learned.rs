//! Nodes of which somebody told where they can be called, and which of them this node calls: few, others than its
//! neighbours do, and only while it has too few neighbours or cannot reach somebody. No sockets, no clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use atoll_api::mesh::PublishedPeer;
use atoll_base::{
    NodeId,
    limits::PUBLISHED_LINKS_MAX,
    published::{PublishedLink, rank},
};
use tokio::{sync::watch, time::Instant};

use crate::{
    config::Peer,
    limits::{
        LEARNED_EXPLORE, LEARNED_GRACE, LEARNED_KEEP, LEARNED_PATIENCE, LEARNED_PAUSE, LEARNED_PAUSE_ALONE,
        LEARNED_PAUSE_MAX, NEIGHBOURS_WANTED,
    },
};
use atoll_mesh_core::limits::LEARNED_LINKS_MAX;

/// All such nodes, and the calls to them.
pub(crate) struct Learned {
    own: NodeId,
    /// By the order in which this node calls them.
    nodes: BTreeMap<(u64, NodeId), Told>,
    calls: BTreeMap<NodeId, Call>,
    /// Told places that cannot be used.
    ignored: usize,
    next_number: u32,
    /// Since when there are too few neighbours, or enough without those that were called here.
    lacks_since: Option<Instant>,
    enough_since: Option<Instant>,
    /// When a node was called last because it could not be reached.
    explored: Option<Instant>,
}

/// Where a node can be called.
struct Told {
    links: Vec<Peer>,
    /// Which of them is called next.
    next: usize,
    /// How often nobody answered at any of them, in a row, and when it was so last.
    failures: u32,
    failed: Option<Instant>,
}

/// A node that is called.
struct Call {
    number: u32,
    peer: Peer,
    /// When it was begun, or seen to be of use.
    useful: Instant,
    endpoint: Option<SocketAddr>,
    /// Where it is called over TLS, if it is; the calls end when this is dropped.
    target: Option<watch::Sender<SocketAddr>>,
}

/// What there is beside them.
#[derive(Default)]
pub(crate) struct Around {
    /// Links to nodes that were called here, and whether each is up.
    pub(crate) links: BTreeMap<SocketAddr, bool>,
    /// Neighbours with whom a link of another kind is up.
    pub(crate) others: BTreeSet<NodeId>,
    /// Nodes to which a route leads, and whether one would without the link that was called here.
    pub(crate) reached: BTreeMap<NodeId, bool>,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Call somebody there.
    Call { number: u32, peer: Peer },
    /// End the link there.
    End(SocketAddr),
}

impl Learned {
    pub(crate) fn new(own: NodeId) -> Self {
        Self {
            own,
            nodes: BTreeMap::new(),
            calls: BTreeMap::new(),
            ignored: 0,
            next_number: 0,
            lacks_since: None,
            enough_since: None,
            explored: None,
        }
    }

    /// Whether there is nobody who could be called, and so nothing to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.nodes.is_empty() && self.calls.is_empty()
    }

    /// Nodes that could be called, and told places that cannot be used.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.nodes.len(), self.ignored)
    }

    /// Replaces what was told before. The caller bounds the list.
    pub(crate) fn set(&mut self, list: &[PublishedPeer]) -> Vec<Step> {
        let mut before = core::mem::take(&mut self.nodes);
        self.ignored = 0;
        for told in list {
            let key = (rank(self.own, told.node), told.node);
            let usable: Vec<Peer> =
                told.links.iter().take(PUBLISHED_LINKS_MAX).filter_map(|text| parse(text)).collect();
            self.ignored += told.links.len() - usable.len();
            if usable.is_empty() || told.node == self.own {
                continue;
            }
            let known = before.remove(&key).filter(|known| known.links == usable);
            let fresh = || Told { links: usable, next: 0, failures: 0, failed: None };
            self.nodes.insert(key, known.unwrap_or_else(fresh));
        }
        let (nodes, own) = (&self.nodes, self.own);
        let is_told = |node: NodeId, call: &Call| {
            nodes.get(&(rank(own, node), node)).is_some_and(|told| told.links.contains(&call.peer))
        };
        let gone: Vec<_> = self.calls.iter().filter(|(node, call)| !is_told(**node, call)).map(|(id, _)| *id).collect();
        gone.into_iter().filter_map(|node| self.end(node)).collect()
    }

    /// Nobody answered because of where this machine was: all may be called anew.
    pub(crate) fn forgive(&mut self) {
        for told in self.nodes.values_mut() {
            (told.failures, told.failed) = (0, None);
        }
    }

    /// What is to be done now.
    pub(crate) fn step(&mut self, around: &Around, now: Instant) -> Vec<Step> {
        let mut steps = self.settle(around, now);
        let neighbours = around.others.len();
        self.enough_since = (neighbours >= NEIGHBOURS_WANTED).then(|| self.enough_since.unwrap_or(now));
        if self.enough_since.is_some_and(|since| now - since >= LEARNED_KEEP) {
            let is_spare = |node: &NodeId| around.reached.get(node) == Some(&true);
            let spare = self.calls.keys().copied().find(|node| is_spare(node) || around.others.contains(node));
            // One after the other: they may stand in for each other.
            steps.extend(spare.and_then(|node| self.end(node)));
        }
        let is_alone = around.others.is_empty() && !around.links.values().any(|is_up| *is_up);
        let calls = self.calls.keys().filter(|node| !around.others.contains(node)).count();
        let lacking = NEIGHBOURS_WANTED.saturating_sub(neighbours + calls);
        self.lacks_since = (lacking > 0).then(|| self.lacks_since.unwrap_or(now));
        if self.lacks_since.is_some_and(|since| now - since >= LEARNED_GRACE) {
            for _ in 0..lacking {
                steps.extend(self.begin(now, is_alone, |node| !around.others.contains(&node)));
            }
        }
        let explored = *self.explored.get_or_insert(now);
        if lacking == 0 && now - explored >= LEARNED_EXPLORE {
            self.explored = Some(now);
            steps.extend(self.begin(now, is_alone, |node| !around.reached.contains_key(&node)));
        }
        steps
    }

    /// Sees which calls are of use, and ends those that are not.
    fn settle(&mut self, around: &Around, now: Instant) -> Vec<Step> {
        let mut failed = Vec::new();
        for (node, call) in &mut self.calls {
            let link = call.endpoint.map(|endpoint| around.links.get(&endpoint));
            let told = self.nodes.get_mut(&(rank(self.own, *node), *node));
            match (link, told) {
                (Some(Some(true)), Some(told)) => {
                    call.useful = now;
                    (told.failures, told.failed) = (0, None);
                }
                // The link is gone: another node answered, or this one wants no link.
                (Some(None), _) | (_, None) => failed.push(*node),
                _ if now - call.useful >= LEARNED_PATIENCE => failed.push(*node),
                _ => {}
            }
        }
        let mut steps = Vec::new();
        for node in failed {
            steps.extend(self.end(node));
            let Some(told) = self.nodes.get_mut(&(rank(self.own, node), node)) else { continue };
            told.next = (told.next + 1) % told.links.len();
            if told.next == 0 {
                told.failures = told.failures.saturating_add(1);
                told.failed = Some(now);
            }
        }
        steps
    }

    /// Begins a call to the first node that may be called.
    fn begin(&mut self, now: Instant, is_alone: bool, is_wanted: impl Fn(NodeId) -> bool) -> Option<Step> {
        if self.calls.len() >= LEARNED_LINKS_MAX {
            return None;
        }
        let may = |(node, told): (NodeId, &Told)| {
            !self.calls.contains_key(&node) && is_wanted(node) && told.may_be_called(now, is_alone)
        };
        let ((_, node), told) = self.nodes.iter().find(|((_, node), told)| may((*node, told)))?;
        let (node, peer) = (*node, told.links.get(told.next)?.clone());
        let number = self.next_number;
        self.next_number = self.next_number.wrapping_add(1);
        self.calls.insert(node, Call { number, peer: peer.clone(), useful: now, endpoint: None, target: None });
        Some(Step::Call { number, peer })
    }

    fn end(&mut self, node: NodeId) -> Option<Step> {
        self.calls.remove(&node)?.endpoint.map(Step::End)
    }

    /// Notes under which endpoint the core has a call, and how it is told where to call over TLS; who is called, and
    /// where. Nothing if that call has ended or is placed already.
    pub(crate) fn place(
        &mut self,
        number: u32,
        endpoint: SocketAddr,
        target: Option<watch::Sender<SocketAddr>>,
    ) -> Option<NodeId> {
        let is_it = |call: &Call| call.number == number && call.endpoint.is_none();
        let (node, call) = self.calls.iter_mut().find(|(_, call)| is_it(call))?;
        (call.endpoint, call.target) = (Some(endpoint), target);
        Some(*node)
    }

    /// Whom a call goes to, if it has not ended.
    pub(crate) fn peer(&self, number: u32) -> Option<&Peer> {
        self.calls.values().find(|call| call.number == number).map(|call| &call.peer)
    }
}

impl Told {
    /// Not again at once, if nobody answered. Who has no neighbour at all tries more often.
    fn may_be_called(&self, now: Instant, is_alone: bool) -> bool {
        let longest = if is_alone { LEARNED_PAUSE_ALONE } else { LEARNED_PAUSE_MAX };
        let doublings = self.failures.saturating_sub(1).min(16);
        let pause: Duration = LEARNED_PAUSE.saturating_mul(1 << doublings).min(longest);
        self.failed.is_none_or(|failed| now - failed >= pause)
    }
}

/// A told place, if it can be used.
fn parse(text: &str) -> Option<Peer> {
    let link: PublishedLink = text.parse().ok()?;
    link.to_string().parse().ok()
}

#[cfg(test)]
mod tests;
