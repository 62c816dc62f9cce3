//! Which neighbour leads to which node: a loop-avoiding distance vector in the manner of Babel (RFC 8966).
//!
//! * Each origin's announcement is signed by itself and carries a sequence number; relays add only the distance.
//! * A route is usable only if it is *feasible*: newer than, or nearer than, anything this node ever announced for that
//!   origin (RFC 8966 section 3.5.1). So no loop can form.
//! * If only infeasible routes remain, the origin is asked for a newer announcement (section 3.8.2.1).
//! * Updates go to one neighbour at a time, as acknowledged batches that are repeated with the *current* state, so
//!   there are no periodic updates and an idle network is silent.
//!
//! The router knows neither keys nor endpoints; it says what to send over which link ([`Router::poll_transmit`]).

mod table;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use atoll_base::{MeshAddr, NodeId, NodeSecret, RegionId};

use crate::{
    LinkId,
    announce::Announcement,
    control::{Batch, Control, ControlWriter, Request, Update},
    limits::{
        COST_HYSTERESIS, HOP_LIMIT, METRIC_INFINITY, ORIGIN_KEEP, ORIGINS_MAX, REQUEST_FORWARD_PAUSE, SEQNO_PAUSE,
        VERIFICATIONS_PER_SECOND_MAX,
    },
    rate::RateLimit,
    time::Time,
};
pub(crate) use table::Selected;
use table::{InFlight, Neighbour, Origin, Wanted, differs};

/// Routes, neighbours and what they still have to be told.
pub(crate) struct Router {
    secret: NodeSecret,
    region: RegionId,
    me: MeshAddr,
    own: Announcement,
    own_changed: Option<Time>,
    neighbours: BTreeMap<LinkId, Neighbour>,
    origins: BTreeMap<MeshAddr, Origin>,
    verifications: RateLimit,
    outbox: VecDeque<(LinkId, ControlWriter)>,
    /// Number of the last batch, over all links.
    batch: u32,
}

impl Router {
    pub(crate) fn new(secret: NodeSecret, region: RegionId, seqno: u64, now: Time) -> Self {
        let own = Announcement::sign(&secret, region, seqno);
        Self {
            me: own.network(region),
            secret,
            region,
            own,
            own_changed: None,
            neighbours: BTreeMap::new(),
            origins: BTreeMap::new(),
            verifications: RateLimit::new(VERIFICATIONS_PER_SECOND_MAX, now),
            outbox: VecDeque::new(),
            batch: 0,
        }
    }

    /// The route to a node.
    pub(crate) fn route(&self, network: MeshAddr) -> Option<&Selected> {
        self.origins.get(&network)?.selected.as_ref()
    }

    /// All routes in use.
    pub(crate) fn routes(&self) -> impl Iterator<Item = (NodeId, MeshAddr, &Selected)> {
        self.origins.iter().filter_map(|(network, origin)| Some((origin.node, *network, origin.selected.as_ref()?)))
    }

    /// A link came up (again): this end starts from nothing, under a new generation.
    pub(crate) fn handle_link_up(&mut self, link: LinkId, node: MeshAddr, cost: u32, generation: u32, now: Time) {
        self.handle_link_down(link, now);
        let neighbour = Neighbour {
            node,
            cost,
            dirty: BTreeSet::new(),
            dirty_since: now,
            generation,
            its_generation: 0,
            taken: 0,
            in_flight: None,
        };
        self.neighbours.insert(link, neighbour);
    }

    /// The neighbour names its table of our routes. A new name means that the table is empty.
    pub(crate) fn handle_generation(&mut self, link: LinkId, generation: u32, now: Time) {
        let known = self.origins.iter().filter(|(_, o)| o.selected.is_some()).map(|(network, _)| *network);
        let Some(neighbour) = self.neighbours.get_mut(&link).filter(|n| n.its_generation != generation) else { return };
        neighbour.its_generation = generation;
        neighbour.in_flight = None;
        neighbour.dirty = known.collect();
        neighbour.dirty.insert(self.me);
        neighbour.dirty_since = now;
    }

    /// A link went down.
    pub(crate) fn handle_link_down(&mut self, link: LinkId, now: Time) {
        if self.neighbours.remove(&link).is_none() {
            return;
        }
        self.outbox.retain(|(to, _)| *to != link);
        let affected: Vec<_> =
            self.origins.iter_mut().filter_map(|(n, o)| o.routes.remove(&link).map(|_| *n)).collect();
        for network in affected {
            self.select(network, now);
        }
    }

    /// The cost of a link changed.
    pub(crate) fn handle_cost(&mut self, link: LinkId, cost: u32, now: Time) {
        let Some(neighbour) = self.neighbours.get_mut(&link).filter(|neighbour| neighbour.cost != cost) else {
            return;
        };
        neighbour.cost = cost;
        let affected: Vec<_> =
            self.origins.iter().filter(|(_, o)| o.routes.contains_key(&link)).map(|(n, _)| *n).collect();
        for network in affected {
            self.select(network, now);
        }
    }

    /// Takes the routing messages of one control frame.
    pub(crate) fn handle_controls(&mut self, link: LinkId, controls: &[Control], now: Time) {
        if !self.neighbours.contains_key(&link) {
            return;
        }
        let mut batch = None;
        for control in controls {
            match control {
                Control::Hello(_) => {}
                Control::Batch(head) => batch = self.begin_batch(link, head),
                Control::BatchAck(number) => self.handle_ack(link, *number, now),
                Control::Request(request) => self.handle_request(link, request, now),
                Control::Update(_) | Control::Retract(_) if batch.is_none() => {}
                Control::Update(update) => {
                    if !self.handle_update(link, update, now) {
                        batch = None;
                    }
                }
                Control::Retract(network) => self.handle_retraction(link, *network, now),
            }
        }
        if let Some(number) = batch {
            if let Some(neighbour) = self.neighbours.get_mut(&link) {
                neighbour.taken = number;
            }
            self.push(link, &Control::BatchAck(number));
        }
    }

    /// Control payloads to be sent. Call again until it returns nothing.
    #[must_use]
    pub(crate) fn poll_transmit(&mut self) -> Option<(LinkId, Vec<u8>)> {
        self.outbox.pop_front().map(|(link, writer)| (link, writer.finish()))
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Time) {
        let due: Vec<_> =
            self.neighbours.iter().filter(|(_, n)| n.deadline().is_some_and(|d| d <= now)).map(|(l, _)| *l).collect();
        for link in due {
            self.send_batch(link, now);
        }
        let wanting: Vec<_> = self
            .origins
            .iter()
            .filter(|(_, o)| o.wanted.as_ref().is_some_and(|w| w.deadline() <= now))
            .map(|(n, _)| *n)
            .collect();
        for network in wanting {
            self.send_request(network, now);
        }
        self.origins.retain(|_, origin| origin.empty_since.is_none_or(|since| now.since(since) < ORIGIN_KEEP));
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let batches = self.neighbours.values().filter_map(Neighbour::deadline);
        let origins = self.origins.values().filter_map(|origin| {
            let forget = origin.empty_since.map(|since| since + ORIGIN_KEEP);
            let request = origin.wanted.as_ref().map(Wanted::deadline);
            forget.into_iter().chain(request).min()
        });
        batches.chain(origins).min()
    }

    /// Whether a batch is to be read: it must be meant for this generation and newer than the last one. The number
    /// to acknowledge once all of it is taken.
    fn begin_batch(&mut self, link: LinkId, head: &Batch) -> Option<u32> {
        let neighbour = self.neighbours.get(&link).filter(|n| n.generation == head.generation)?;
        if head.number == neighbour.taken {
            self.push(link, &Control::BatchAck(head.number));
            return None;
        }
        (head.number > neighbour.taken).then_some(head.number)
    }

    /// Takes a route; false if it could not be looked at now and should be repeated.
    fn handle_update(&mut self, link: LinkId, update: &Update, now: Time) -> bool {
        let announcement = &update.announcement;
        let network = announcement.network(self.region);
        if network == self.me {
            self.handle_own(announcement, now);
            return true;
        }
        let known = self.origins.get(&network);
        // The ledger binds addresses first-come; without it, the first key that was seen for an address keeps it.
        if known.is_some_and(|origin| origin.node != announcement.node) || update.hops >= HOP_LIMIT {
            self.handle_retraction(link, network, now);
            return true;
        }
        let is_known = known.is_some_and(|o| o.routes.values().any(|route| route.announcement == *announcement));
        if !is_known {
            if !self.verifications.allow(now) {
                return false;
            }
            if !announcement.is_authentic(self.region) {
                return true;
            }
        }
        if known.is_none() && self.origins.len() >= ORIGINS_MAX {
            return true;
        }
        let origin = self.origins.entry(network).or_insert_with(|| Origin::new(announcement.node));
        origin.routes.insert(link, *update);
        self.select(network, now);
        true
    }

    fn handle_retraction(&mut self, link: LinkId, network: MeshAddr, now: Time) {
        if self.origins.get_mut(&network).is_some_and(|origin| origin.routes.remove(&link).is_some()) {
            self.select(network, now);
        }
    }

    /// Somebody tells us of ourselves. If the network remembers a newer announcement than ours (the clock went
    /// backwards over a restart), ours must become newer still.
    fn handle_own(&mut self, announcement: &Announcement, now: Time) {
        if announcement.seqno > self.own.seqno
            && announcement.node == self.own.node
            && self.verifications.allow(now)
            && announcement.is_authentic(self.region)
        {
            self.announce(announcement.seqno.saturating_add(1), now);
        }
    }

    fn handle_request(&mut self, link: LinkId, request: &Request, now: Time) {
        if request.network == self.me {
            // One step suffices, whatever is asked: nobody can exhaust the numbers.
            if request.seqno > self.own.seqno && self.own_changed.is_none_or(|last| now.since(last) >= SEQNO_PAUSE) {
                self.announce(self.own.seqno + 1, now);
            }
            self.mark(link, self.me, now);
            return;
        }
        let Some(origin) = self.origins.get_mut(&request.network) else { return };
        if origin.selected.is_some_and(|selected| selected.announcement.seqno >= request.seqno) {
            self.mark(link, request.network, now);
            return;
        }
        let is_repeated =
            origin.forwarded.is_some_and(|(seqno, at)| seqno >= request.seqno && now.since(at) < REQUEST_FORWARD_PAUSE);
        let Some(hop_limit) = request.hop_limit.checked_sub(1).filter(|left| *left > 0 && !is_repeated) else { return };
        origin.forwarded = Some((request.seqno, now));
        let next: Option<LinkId> = match origin.selected {
            Some(selected) => Some(selected.link).filter(|to| *to != link),
            None => origin.routes.keys().copied().find(|to| *to != link),
        };
        if let Some(to) = next {
            self.push(to, &Control::Request(Request { hop_limit, ..*request }));
        }
    }

    fn handle_ack(&mut self, link: LinkId, number: u32, now: Time) {
        let Some(neighbour) = self.neighbours.get_mut(&link) else { return };
        if neighbour.in_flight.take_if(|batch| batch.number == number).is_some() {
            // What became dirty in the meantime goes out at once.
            neighbour.dirty_since = now;
        }
    }

    fn announce(&mut self, seqno: u64, now: Time) {
        self.own = Announcement::sign(&self.secret, self.region, seqno);
        self.own_changed = Some(now);
        self.mark_all(self.me, now);
    }

    /// Chooses the route to a network anew, and sees to it that neighbours learn of a change.
    fn select(&mut self, network: MeshAddr, now: Time) {
        let neighbours = &self.neighbours;
        let Some(origin) = self.origins.get_mut(&network) else { return };
        let total = |link: &LinkId, update: &Update| {
            let cost = neighbours.get(link).map_or(METRIC_INFINITY, |neighbour| neighbour.cost);
            update.metric.checked_add(cost).filter(|metric| *metric < METRIC_INFINITY)
        };
        let feasible = |update: &Update| {
            origin.feasible.is_none_or(|(seqno, metric)| {
                update.announcement.seqno > seqno || (update.announcement.seqno == seqno && update.metric < metric)
            })
        };
        let candidates = || {
            origin.routes.iter().filter(|(_, update)| feasible(update)).filter_map(|(link, update)| {
                Some(Selected {
                    link: *link,
                    announcement: update.announcement,
                    metric: total(link, update)?,
                    hops: update.hops.saturating_add(1),
                })
            })
        };
        let best = candidates().min_by_key(|route| (route.metric, route.link));
        let kept = origin.selected.and_then(|old| candidates().find(|route| route.link == old.link));
        let chosen = match (best, kept) {
            (Some(best), Some(kept)) if best.metric + COST_HYSTERESIS > kept.metric => Some(kept),
            (best, _) => best,
        };
        let old = core::mem::replace(&mut origin.selected, chosen);
        if let Some(chosen) = chosen {
            let distance = (chosen.announcement.seqno, chosen.metric);
            origin.feasible = Some(match origin.feasible {
                Some((seqno, metric)) if seqno == distance.0 => (seqno, metric.min(distance.1)),
                _ => distance,
            });
        }
        origin.empty_since = if origin.routes.is_empty() { origin.empty_since.or(Some(now)) } else { None };
        let starves = chosen.is_none() && !origin.routes.is_empty();
        match (&mut origin.wanted, starves, origin.feasible) {
            (wanted, true, Some((seqno, _))) if wanted.as_ref().is_none_or(|w| w.seqno != seqno.saturating_add(1)) => {
                *wanted = Some(Wanted { seqno: seqno.saturating_add(1), sent: now, tries: 0 });
            }
            (_, true, _) => {}
            (wanted, false, _) => *wanted = None,
        }
        if differs(old.as_ref(), chosen.as_ref()) {
            self.mark_all(network, now);
        }
    }

    fn mark_all(&mut self, network: MeshAddr, now: Time) {
        for neighbour in self.neighbours.values_mut() {
            neighbour.mark(network, now);
        }
    }

    fn mark(&mut self, link: LinkId, network: MeshAddr, now: Time) {
        if let Some(neighbour) = self.neighbours.get_mut(&link) {
            neighbour.mark(network, now);
        }
    }

    /// Sends what is dirty, or repeats the batch that was not acknowledged, with the state of now.
    fn send_batch(&mut self, link: LinkId, now: Time) {
        let Some(neighbour) = self.neighbours.get_mut(&link) else { return };
        let mut tries = 0;
        if let Some(lost) = neighbour.in_flight.take() {
            tries = lost.tries;
            neighbour.dirty.extend(lost.networks);
        }
        self.batch = self.batch.saturating_add(1);
        let number = self.batch;
        let mut writer = ControlWriter::default();
        writer.push(&Control::Batch(Batch { generation: neighbour.its_generation, number }));
        let mut networks = BTreeSet::new();
        while let Some(network) = neighbour.dirty.first().copied() {
            let control = if network == self.me {
                Control::Update(Update { announcement: self.own, metric: 0, hops: 0 })
            } else {
                let selected = self.origins.get(&network).and_then(|origin| origin.selected);
                // A route through this neighbour is of no use to it (split horizon, poisoned).
                let leads_back = |selected: &Selected| link == selected.link || neighbour.node == network;
                match selected.filter(|selected| !leads_back(selected)) {
                    Some(Selected { announcement, metric, hops, .. }) => {
                        Control::Update(Update { announcement, metric, hops })
                    }
                    None => Control::Retract(network),
                }
            };
            if !writer.push(&control) {
                break;
            }
            neighbour.dirty.remove(&network);
            networks.insert(network);
        }
        neighbour.in_flight = Some(InFlight { number, networks, sent: now, tries: tries + 1 });
        self.outbox.push_back((link, writer));
    }

    fn send_request(&mut self, network: MeshAddr, now: Time) {
        let Some(origin) = self.origins.get_mut(&network) else { return };
        let Some(wanted) = &mut origin.wanted else { return };
        wanted.tries = wanted.tries.saturating_add(1);
        wanted.sent = now;
        let request = Request { network, seqno: wanted.seqno, hop_limit: HOP_LIMIT };
        let links: Vec<_> = origin.routes.keys().copied().collect();
        for link in links {
            self.push(link, &Control::Request(request));
        }
    }

    fn push(&mut self, link: LinkId, control: &Control) {
        if let Some((to, writer)) = self.outbox.back_mut()
            && *to == link
            && writer.push(control)
        {
            return;
        }
        let mut writer = ControlWriter::default();
        writer.push(control);
        self.outbox.push_back((link, writer));
    }
}

#[cfg(test)]
mod tests;
