//! Which neighbour leads where: Babel (RFC 8966), with signed origins, reliable updates and regions.
//!
//! * Each announcement is signed by its origin and carries a sequence number; relays add only the distance.
//! * A route is usable only if it is *feasible*: newer than, or nearer than, anything this node ever took for that
//!   source (RFC 8966 section 3.5.1). So no loop can form. See [`table::Entry::select`].
//! * If only infeasible routes remain, the origin is asked for a newer announcement (section 3.8.2.1).
//! * Updates go to one neighbour at a time, as acknowledged batches that are repeated with the *current* state, so
//!   there are no periodic updates and an idle network is silent.
//! * An origin that stops takes its announcement back, signed: everybody forgets it at once. Nobody else can.
//! * Nodes of the own region are known one by one, other regions as a whole, by their border nodes' grants.
//!
//! The router knows neither keys of links nor endpoints; it says what to send over which link
//! ([`Router::poll_transmit`]). After any `handle_*`, drain that, then ask [`Router::deadline`].

mod exchange;
mod explain;
mod members;
mod policy;
mod requests;
mod table;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use atoll_base::{MeshAddr, NodeId, NodeSecret, RegionId, RegionPrefix};

use crate::{
    LinkId,
    announce::{Announcement, Target, region_of},
    babel::Writer,
    limits::{ORIGIN_KEEP, VERIFICATIONS_PER_SECOND_MAX},
    rate::RateLimit,
    time::Time,
};
pub use explain::{Choice, Verdict};
pub use policy::{Federation, LinkPolicy, Regions};
pub use table::Selected;
use table::{Entry, Neighbour, Wanted};

/// Who is at the other end of a link, and how good it is.
#[derive(Debug, Clone)]
pub struct Neighbourhood {
    /// Its region.
    pub region: RegionId,
    /// Its identity.
    pub node: NodeId,
    /// Cost of the link.
    pub cost: u16,
    /// Largest datagram that the link takes, in bytes.
    pub mtu: u16,
    /// Names this end's table of the neighbour's routes: another number than the last time.
    pub generation: u32,
    /// What is announced and believed here.
    pub policy: LinkPolicy,
}

/// What a router needs to exist.
pub struct RouterSettings {
    /// Identity of its node.
    pub secret: NodeSecret,
    /// Its region.
    pub region: RegionId,
    /// First sequence number: larger after each restart. It is the calendar in milliseconds (Unix time), by which the
    /// expiry of grants is judged too.
    pub calendar_ms: u64,
}

/// Routes, neighbours and what they still have to be told.
pub struct Router {
    secret: NodeSecret,
    region: RegionId,
    prefix: RegionPrefix,
    me: MeshAddr,
    seqno: u64,
    seqno_changed: Option<Time>,
    is_stopped: bool,
    /// What this node announces itself.
    own: BTreeMap<Target, Arc<Announcement>>,
    federation: Federation,
    members: members::Members,
    /// Calendar at `started`, in milliseconds.
    calendar_ms: u64,
    started: Time,
    neighbours: BTreeMap<LinkId, Neighbour>,
    entries: BTreeMap<Target, Entry>,
    /// Entries that wait for a time.
    waiting: BTreeSet<Target>,
    /// When the first grant that is in use ends.
    expiry: Option<Time>,
    verifications: RateLimit,
    outbox: VecDeque<(LinkId, Writer)>,
    /// Links whose other end seems to have started anew.
    doubted: BTreeSet<LinkId>,
    /// Number of the last batch, over all links.
    batch: u32,
}

impl Router {
    /// A router without neighbours.
    pub fn new(settings: RouterSettings, now: Time) -> Self {
        let RouterSettings { secret, region, calendar_ms } = settings;
        let mut router = Self {
            me: MeshAddr::of(region, secret.id()),
            secret,
            region,
            prefix: RegionPrefix::of(region),
            seqno: calendar_ms,
            seqno_changed: None,
            is_stopped: false,
            own: BTreeMap::new(),
            federation: Federation::default(),
            members: members::Members::default(),
            calendar_ms,
            started: now,
            neighbours: BTreeMap::new(),
            entries: BTreeMap::new(),
            waiting: BTreeSet::new(),
            expiry: None,
            verifications: RateLimit::new(VERIFICATIONS_PER_SECOND_MAX, now),
            outbox: VecDeque::new(),
            doubted: BTreeSet::new(),
            batch: 0,
        };
        router.sign_own();
        router
    }

    /// The node's own network.
    pub const fn network(&self) -> MeshAddr {
        self.me
    }

    /// The way to a network: to the node itself in this region, to its region elsewhere.
    pub fn route(&self, network: MeshAddr) -> Option<&Selected> {
        self.route_to(self.target_of(network))
    }

    /// The way to a target.
    pub fn route_to(&self, target: Target) -> Option<&Selected> {
        self.entries.get(&target)?.selected.as_ref()
    }

    /// All routes in use.
    pub fn routes(&self) -> impl Iterator<Item = (Target, &Selected)> {
        self.entries.iter().filter_map(|(target, entry)| Some((*target, entry.selected.as_ref()?)))
    }

    /// How many targets are known, usable or not, and how many routes to them.
    pub fn table_sizes(&self) -> (usize, usize) {
        (self.entries.len(), self.entries.values().map(|entry| entry.routes.len()).sum())
    }

    /// Learns which regions to believe, and whether this node is a border of its own.
    pub fn set_federation(&mut self, federation: Federation, now: Time) {
        let before = core::mem::replace(&mut self.federation, federation);
        self.forget_changed(&before, now);
        if before.grant.is_some() && before.grant != self.federation.grant {
            // A word under a number that is known already would not be passed on.
            self.seqno = self.seqno.saturating_add(1);
        }
        let removed: Vec<_> = self.own.keys().copied().collect();
        self.sign_own();
        for target in removed {
            self.mark_all(target, now);
        }
        let own: Vec<_> = self.own.keys().copied().collect();
        for target in own {
            self.mark_all(target, now);
        }
        self.expire(now);
        // What was refused until now is asked for again.
        for link in self.neighbours.keys().copied().collect::<Vec<_>>() {
            self.request_all(link);
        }
    }

    /// A link came up (again): this end starts from nothing, under a new generation.
    pub fn handle_link_up(&mut self, link: LinkId, neighbourhood: Neighbourhood, now: Time) {
        self.handle_link_down(link, now);
        self.neighbours.insert(link, Neighbour::new(neighbourhood, now));
    }

    /// The neighbour names its table of our routes. A newer name means that the table is empty; zero, and one that was
    /// overtaken by a newer one, say nothing.
    pub fn handle_generation(&mut self, link: LinkId, generation: u32, now: Time) {
        let known = self.entries.iter().filter(|(_, entry)| entry.selected.is_some()).map(|(target, _)| *target);
        let Some(neighbour) = self.neighbours.get_mut(&link).filter(|n| n.is_newer_generation(generation)) else {
            return;
        };
        neighbour.its_generation = generation;
        neighbour.in_flight = None;
        neighbour.told.clear();
        // Perhaps it kept that table while this end lost its own.
        neighbour.must_reset = true;
        neighbour.dirty = known.collect();
        neighbour.dirty.extend(self.own.keys());
        neighbour.dirty_since = now;
    }

    /// A link went down. Whatever used it uses its backup when this returns, where there is one.
    pub fn handle_link_down(&mut self, link: LinkId, now: Time) {
        if self.neighbours.remove(&link).is_none() {
            return;
        }
        self.outbox.retain(|(to, _)| *to != link);
        let affected: Vec<_> =
            self.entries.iter_mut().filter_map(|(t, entry)| entry.routes.remove(&link).map(|_| *t)).collect();
        for target in affected {
            self.select(target, now);
        }
    }

    /// The cost of a link, or what it can carry, changed.
    pub fn handle_link_cost(&mut self, link: LinkId, cost: u16, mtu: u16, now: Time) {
        let Some(neighbour) = self.neighbours.get_mut(&link) else { return };
        if (neighbour.cost, neighbour.mtu) == (cost, mtu) {
            return;
        }
        (neighbour.cost, neighbour.mtu) = (cost, mtu);
        self.select_all_over(link, now);
    }

    /// What is announced and believed over a link changed.
    pub fn handle_policy(&mut self, link: LinkId, policy: LinkPolicy, now: Time) {
        let Some(neighbour) = self.neighbours.get_mut(&link) else { return };
        neighbour.policy = policy;
        let policy = neighbour.policy.clone();
        neighbour.dirty.extend(self.entries.keys());
        neighbour.dirty_since = now;
        // What was refused until now is asked for again.
        self.request_all(link);
        for target in self.entries.keys().copied().collect::<Vec<_>>() {
            if policy.accepts(target) {
                continue;
            }
            if self.entries.get_mut(&target).is_some_and(|entry| entry.routes.remove(&link).is_some()) {
                self.select(target, now);
            }
        }
    }

    /// This node goes away in order: everybody is told at once that it is gone, and neighbours that nothing leads through
    /// it any more. It announces nothing after that.
    pub fn stop(&mut self, now: Time) {
        self.is_stopped = true;
        self.seqno = self.seqno.saturating_add(1);
        self.sign_own();
        self.entries.clear();
        self.waiting.clear();
        for neighbour in self.neighbours.values_mut() {
            neighbour.in_flight = None;
            neighbour.must_reset = true;
            neighbour.dirty = self.own.keys().copied().collect();
        }
        for link in self.neighbours.keys().copied().collect::<Vec<_>>() {
            self.send_batch(link, now);
        }
        // Nobody will be here to repeat it.
        self.outbox.extend(self.outbox.clone());
    }

    /// Packets to be sent (Babel, RFC 8966). Call again until it returns nothing.
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<(LinkId, Vec<u8>)> {
        self.outbox.pop_front().map(|(link, writer)| (link, writer.finish()))
    }

    /// The next link over whose other end somebody else brings newer word than itself: perhaps it started anew and
    /// does not know us, so ask. Call again until it returns nothing, after [`Self::handle_tlvs`].
    #[must_use]
    pub fn poll_doubt(&mut self) -> Option<LinkId> {
        self.doubted.pop_first()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        let due: Vec<_> =
            self.neighbours.iter().filter(|(_, n)| n.deadline().is_some_and(|d| d <= now)).map(|(l, _)| *l).collect();
        for link in due {
            self.send_batch(link, now);
        }
        for target in self.waiting.clone() {
            let Some(entry) = self.entries.get(&target) else { continue };
            if entry.wanted.as_ref().and_then(Wanted::deadline).is_some_and(|deadline| deadline <= now) {
                self.send_request(target, now);
            } else if entry.empty_since.is_some_and(|since| now.since(since) >= ORIGIN_KEEP) {
                self.entries.remove(&target);
                self.waiting.remove(&target);
            }
        }
        if self.expiry.is_some_and(|expiry| expiry <= now) {
            self.expire(now);
        }
        self.ask_ways(now);
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn deadline(&self) -> Option<Time> {
        let batches = self.neighbours.values().filter_map(Neighbour::deadline);
        let entries = self.waiting.iter().filter_map(|target| {
            let entry = self.entries.get(target)?;
            let forget = entry.empty_since.map(|since| since + ORIGIN_KEEP);
            let request = entry.wanted.as_ref().and_then(Wanted::deadline);
            forget.into_iter().chain(request).min()
        });
        batches.chain(entries).chain(self.expiry).chain(self.members.deadline()).min()
    }

    fn target_of(&self, network: MeshAddr) -> Target {
        let region = region_of(network);
        if region == self.prefix { Target::Node(network) } else { Target::Region(region) }
    }

    /// Signs what this node announces itself, under the number of now.
    fn sign_own(&mut self) {
        let is_gone = self.is_stopped;
        let word = Announcement::sign(&self.secret, self.region, self.seqno, is_gone);
        self.own = BTreeMap::from([(Target::Node(self.me), Arc::new(word))]);
        if let Some(grant) = self.federation.grant.filter(|grant| self.is_own_grant(grant)) {
            let word = Announcement::sign_region(&self.secret, grant, self.seqno, is_gone);
            self.own.insert(Target::Region(self.prefix), Arc::new(word));
        }
    }

    fn announce(&mut self, seqno: u64, now: Time) {
        self.seqno = seqno;
        self.seqno_changed = Some(now);
        self.sign_own();
        for target in self.own.keys().copied().collect::<Vec<_>>() {
            self.mark_all(target, now);
        }
    }

    /// The calendar as it was at the start, and the time since, in milliseconds.
    fn calendar_ms(&self, now: Time) -> u64 {
        let passed = u64::try_from(now.since(self.started).as_millis()).unwrap_or(u64::MAX);
        self.calendar_ms.saturating_add(passed)
    }

    /// Chooses the route to a target anew, and sees to it that neighbours learn of a change.
    fn select(&mut self, target: Target, now: Time) {
        let Some(entry) = self.entries.get_mut(&target) else { return };
        let is_news = entry.select(&self.neighbours, now);
        if entry.wanted.is_some() || entry.empty_since.is_some() {
            self.waiting.insert(target);
        } else {
            self.waiting.remove(&target);
        }
        if is_news {
            self.mark_all(target, now);
        }
    }

    fn select_all_over(&mut self, link: LinkId, now: Time) {
        let affected: Vec<_> =
            self.entries.iter().filter(|(_, entry)| entry.routes.contains_key(&link)).map(|(t, _)| *t).collect();
        for target in affected {
            self.select(target, now);
        }
    }

    fn mark_all(&mut self, target: Target, now: Time) {
        for neighbour in self.neighbours.values_mut() {
            neighbour.mark(target, now);
        }
    }

    fn mark(&mut self, link: LinkId, target: Target, now: Time) {
        if let Some(neighbour) = self.neighbours.get_mut(&link) {
            neighbour.mark(target, now);
        }
    }
}

#[cfg(test)]
mod tests;
