//! Babel (RFC 8966) with ordinary routers on *plain interfaces*: no encryption, no signatures, no Atoll at the other end.
//!
//! [`PlainRouter`] announces what its owner lets it announce (this node's part of the mesh) and learns what its owner
//! lets it learn. It knows nothing of the sealed mesh and the sealed mesh knows nothing of it: what anybody on a wire
//! may claim unsigned is never announced there. Between several plain interfaces it is a full router: what is learned
//! on one is announced on the others, under the feasibility condition (section 3.5.1); never back on the same one
//! (split horizon, section 3.7.4), because it is taken to be a wire on which everybody hears everybody.
//!
//! Pure as the rest of this crate: packets and time go in; packets ([`PlainRouter::poll_transmit`]) and the table that
//! the kernel should have ([`PlainRouter::routes`]) come out. After any `handle_*` or `set_*`, drain the packets, look at
//! the table, then ask [`PlainRouter::deadline`].

mod exchange;
mod neighbour;
mod requests;
mod table;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::Ipv6Addr,
};

use atoll_base::{MeshAddr, RegionPrefix};

use crate::{
    babel::{INFINITY, Prefix, RouterId},
    limits::{
        PLAIN_ANNOUNCED_MAX, PLAIN_ANSWERS_PER_SECOND_MAX, PLAIN_BATCH, PLAIN_BURST, PLAIN_CHANGE_SENDINGS, PLAIN_HOLD,
        PLAIN_PAUSE, PLAIN_SEQNO_PAUSE,
    },
    rate::RateLimit,
    time::Time,
};
use neighbour::Neighbour;
use requests::{Forwarded, Wanted};
use table::{Entry, Neighbours, Sources, Via};

/// What a [`PlainRouter`] needs to exist.
#[derive(Debug, Clone, Copy)]
pub struct PlainSettings {
    /// Its name among routers.
    pub router_id: RouterId,
    /// First sequence number: newer (in the circle of 2^16) than any that was used in the last minutes before a restart.
    pub seqno: u16,
    /// The node's own network in the mesh: the only part of the region of which routes may be learned.
    pub network: MeshAddr,
}

/// One plain interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlainInterface {
    /// This node's link-local addresses there.
    pub addresses: BTreeSet<Ipv6Addr>,
    /// What of this node's own is announced there.
    pub announce: PlainAnnounce,
    /// Routes are learned to what lies within one of these.
    pub accept: Vec<Prefix>,
}

/// Which of the prefixes that a node announces itself are announced on an interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PlainAnnounce {
    /// None of them.
    #[default]
    None,
    /// That of the region.
    Region,
    /// All others: those of nodes.
    Nodes,
}

/// Where packets to a learned prefix go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PlainNextHop {
    /// To a neighbour.
    Via {
        /// Index of the interface.
        interface: u32,
        /// Its link-local address.
        address: Ipv6Addr,
    },
    /// Nowhere for now, not even along a shorter prefix.
    Unreachable,
}

/// A packet for UDP port [`crate::babel::PORT`] of a plain interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainTransmit {
    /// Index of the interface.
    pub interface: u32,
    /// To whom; nobody: to all routers there (`ff02::1:6`).
    pub to: Option<Ipv6Addr>,
    /// Its bytes.
    pub data: Vec<u8>,
}

/// Neighbours on plain interfaces, and routes.
pub struct PlainRouter {
    router_id: RouterId,
    seqno: u16,
    seqno_changed: Option<Time>,
    network: MeshAddr,
    region: Prefix,
    /// Networks of other regions that the mesh reaches.
    others: Vec<Prefix>,
    interfaces: BTreeMap<u32, Interface>,
    neighbours: Neighbours,
    entries: BTreeMap<Prefix, Entry>,
    /// Routes of all entries.
    route_count: usize,
    sources: Sources,
    wanted: BTreeMap<(Prefix, RouterId), Wanted>,
    forwarded: BTreeMap<(Prefix, RouterId), Forwarded>,
    /// What this node announces itself, and how far it is.
    own: BTreeMap<Prefix, u16>,
    answers: RateLimit,
    outbox: VecDeque<PlainTransmit>,
}

/// This node's end of a plain interface.
struct Interface {
    config: PlainInterface,
    hello_seqno: u16,
    next_hello: Time,
    /// Hellos that are sent soon.
    burst: u32,
    next_update: Time,
    /// What is to be announced, and how often.
    pending: BTreeMap<Prefix, u8>,
    flush: Option<Time>,
    flushed: Option<Time>,
    /// What neighbours there may believe to lead here.
    told: BTreeSet<Prefix>,
}

impl PlainRouter {
    /// A router without interfaces.
    pub fn new(settings: PlainSettings, now: Time) -> Self {
        let PlainSettings { router_id, seqno, network } = settings;
        let mut region = [0; 6];
        region.copy_from_slice(&network.octets()[..6]);
        Self {
            router_id,
            seqno,
            seqno_changed: None,
            network,
            region: Prefix::new(RegionPrefix(region).network(), 48).expect("48 is at most 128"),
            others: Vec::new(),
            interfaces: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            entries: BTreeMap::new(),
            route_count: 0,
            sources: BTreeMap::new(),
            wanted: BTreeMap::new(),
            forwarded: BTreeMap::new(),
            own: BTreeMap::new(),
            answers: RateLimit::new(PLAIN_ANSWERS_PER_SECOND_MAX, now),
            outbox: VecDeque::new(),
        }
    }

    /// Names the networks of other regions, which are reached through the mesh: nothing within them is learned, and what
    /// was is forgotten.
    pub fn set_other_regions(&mut self, others: Vec<Prefix>, now: Time) {
        self.others = others;
        let is_theirs = |prefix: &Prefix| self.others.iter().any(|other| other.covers(*prefix));
        for prefix in self.entries.keys().copied().filter(is_theirs).collect::<Vec<_>>() {
            self.forget(prefix);
            self.mark_all(prefix, now);
        }
    }

    /// Starts to use an interface, or learns its addresses anew.
    pub fn set_interface(&mut self, index: u32, config: PlainInterface, now: Time) {
        if let Some(interface) = self.interfaces.get_mut(&index) {
            interface.config = config;
            return;
        }
        let interface = Interface {
            config,
            hello_seqno: self.seqno,
            next_hello: now,
            burst: PLAIN_BURST,
            next_update: now,
            pending: BTreeMap::new(),
            flush: None,
            flushed: None,
            told: BTreeSet::new(),
        };
        self.interfaces.insert(index, interface);
    }

    /// An interface went away, and its neighbours with it.
    pub fn remove_interface(&mut self, index: u32, now: Time) {
        if self.interfaces.remove(&index).is_none() {
            return;
        }
        self.outbox.retain(|transmit| transmit.interface != index);
        let gone: Vec<_> = self.neighbours.keys().filter(|via| via.0 == index).copied().collect();
        for via in gone {
            self.remove_neighbour(via, now);
        }
    }

    /// Sets what this node announces itself, with its metric: all of it, at most [`PLAIN_ANNOUNCED_MAX`]. A metric that
    /// grows needs a new sequence number, else nobody could believe it; if there was one just now, it is to be set
    /// again a second later, and stays as it was until then.
    pub fn set_announced(&mut self, mut own: BTreeMap<Prefix, u16>, now: Time) {
        while own.len() > PLAIN_ANNOUNCED_MAX {
            own.pop_last();
        }
        let grows = |own: &BTreeMap<Prefix, u16>, prefix, metric| own.get(&prefix).is_some_and(|old| metric > *old);
        let is_renewed = own.iter().any(|(prefix, metric)| grows(&self.own, *prefix, *metric)) && self.renew(now);
        if !is_renewed {
            for (prefix, metric) in &mut own {
                *metric = self.own.get(prefix).map_or(*metric, |old| (*metric).min(*old));
            }
        }
        let changed: BTreeSet<_> = self.own.keys().chain(own.keys()).copied().collect();
        let changed: Vec<_> = changed.into_iter().filter(|p| is_renewed || self.own.get(p) != own.get(p)).collect();
        self.own = own;
        for prefix in changed {
            // What is announced as one's own is not learned.
            if self.own.contains_key(&prefix) {
                self.forget(prefix);
            }
            self.mark_all(prefix, now);
        }
    }

    /// The table that the kernel should have.
    pub fn routes(&self) -> impl Iterator<Item = (Prefix, PlainNextHop)> {
        self.entries.iter().filter_map(|(prefix, entry)| {
            let next_hop = match (entry.selected, entry.hold) {
                (Some(route), _) => PlainNextHop::Via { interface: route.via.0, address: route.next_hop },
                (None, Some(_)) => PlainNextHop::Unreachable,
                (None, None) => return None,
            };
            Some((*prefix, next_hop))
        })
    }

    /// Neighbours that hear this node and are heard.
    pub fn neighbours(&self) -> impl Iterator<Item = (u32, Ipv6Addr)> {
        self.neighbours.iter().filter(|(_, neighbour)| neighbour.cost() != INFINITY).map(|(via, _)| *via)
    }

    /// Packets to be sent. Call again until it returns nothing.
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<PlainTransmit> {
        self.outbox.pop_front()
    }

    /// This node goes away in order: everybody is told that nothing leads through it any more, and the table is empty.
    pub fn stop(&mut self) {
        self.outbox.clear();
        self.send_goodbye();
        self.interfaces.clear();
        self.neighbours.clear();
        self.entries.clear();
        self.route_count = 0;
        self.wanted.clear();
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        let due: Vec<_> = self.neighbours.iter().filter(|(_, n)| n.deadline() <= now).map(|(via, _)| *via).collect();
        for via in due {
            let Some(neighbour) = self.neighbours.get_mut(&via) else { continue };
            let cost = neighbour.cost();
            if !neighbour.handle_timeout(now) {
                self.remove_neighbour(via, now);
            } else if neighbour.cost() != cost {
                self.select_all_over(via, now);
            }
        }
        self.expire(now);
        self.repeat_requests(now);
        for index in self.interfaces.keys().copied().collect::<Vec<_>>() {
            self.speak(index, now);
        }
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn deadline(&self) -> Option<Time> {
        let interfaces = self.interfaces.values();
        let interfaces = interfaces.flat_map(|i| [Some(i.next_hello), Some(i.next_update), i.flush]).flatten();
        let neighbours = self.neighbours.values().map(Neighbour::deadline);
        let entries = self.entries.values();
        let entries = entries.flat_map(|e| e.routes.values().map(|route| route.expiry).chain(e.hold));
        let sources = self.sources.values().map(|source| source.expiry);
        let wanted = self.wanted.values().map(|wanted| wanted.due);
        interfaces.chain(neighbours).chain(entries).chain(sources).chain(wanted).min()
    }

    /// Whether routes to a prefix may be learned on an interface: the owner says so, and it takes nothing of the mesh
    /// that is not this node's, and nothing that is not routed at all.
    fn accepts(&self, index: u32, prefix: Prefix) -> bool {
        let Some(interface) = self.interfaces.get(&index) else { return false };
        let address = prefix.address();
        let is_special = address.is_multicast()
            || address.is_unicast_link_local()
            || address.to_ipv4_mapped().is_some()
            || (prefix.length() > 0 && address.to_bits() >> 32 == 0);
        let is_own = self.network.contains(address) && prefix.length() > MeshAddr::PREFIX_LEN;
        !is_special
            && (is_own || !self.region.covers(prefix))
            && !self.others.iter().any(|other| other.covers(prefix))
            && !self.own.contains_key(&prefix)
            && interface.config.accept.iter().any(|accepted| accepted.covers(prefix))
    }

    /// The metric of a prefix that is this node's own, where it is announced.
    fn own_metric(&self, index: u32, prefix: Prefix) -> Option<u16> {
        let is_announced = match self.interfaces.get(&index)?.config.announce {
            PlainAnnounce::None => false,
            PlainAnnounce::Region => prefix == self.region,
            PlainAnnounce::Nodes => prefix != self.region,
        };
        self.own.get(&prefix).copied().filter(|_| is_announced)
    }

    /// Takes a new sequence number, if the last one is old enough.
    fn renew(&mut self, now: Time) -> bool {
        if self.seqno_changed.is_some_and(|changed| now.since(changed) < PLAIN_SEQNO_PAUSE) {
            return false;
        }
        self.seqno = self.seqno.wrapping_add(1);
        self.seqno_changed = Some(now);
        true
    }

    fn remove_neighbour(&mut self, via: Via, now: Time) {
        self.neighbours.remove(&via);
        let lost: Vec<_> =
            self.entries.iter().filter(|(_, e)| e.routes.contains_key(&via)).map(|(prefix, _)| *prefix).collect();
        for prefix in lost {
            self.remove_route(prefix, via, now);
        }
    }

    fn remove_route(&mut self, prefix: Prefix, via: Via, now: Time) {
        let Some(entry) = self.entries.get_mut(&prefix) else { return };
        if entry.routes.remove(&via).is_some() {
            self.route_count -= 1;
            self.select(prefix, now);
        }
    }

    fn forget(&mut self, prefix: Prefix) {
        if let Some(entry) = self.entries.remove(&prefix) {
            self.route_count -= entry.routes.len();
        }
    }

    /// Chooses the route to a prefix anew, tells everybody of a change, and asks for what is missing.
    fn select(&mut self, prefix: Prefix, now: Time) {
        let Some(entry) = self.entries.get_mut(&prefix) else { return };
        let (is_news, wanted) = entry.select(prefix, &self.neighbours, &self.sources);
        if entry.selected.is_some() {
            entry.hold = None;
        } else if is_news && self.interfaces.values().any(|interface| interface.told.contains(&prefix)) {
            entry.hold = Some(now + PLAIN_HOLD);
        }
        if entry.routes.is_empty() && entry.hold.is_none() {
            self.entries.remove(&prefix);
        }
        if is_news {
            self.mark_all(prefix, now);
        }
        if let Some((router_id, seqno)) = wanted {
            self.want(prefix, router_id, seqno, now);
        }
    }

    fn select_all_over(&mut self, via: Via, now: Time) {
        let affected: Vec<_> =
            self.entries.iter().filter(|(_, e)| e.routes.contains_key(&via)).map(|(prefix, _)| *prefix).collect();
        for prefix in affected {
            self.select(prefix, now);
        }
    }

    /// Forgets what is too old (sections 3.5.3 and 3.7.3).
    fn expire(&mut self, now: Time) {
        let routes = self.entries.iter().flat_map(|(prefix, entry)| entry.routes.iter().map(move |r| (*prefix, r)));
        let old: Vec<_> = routes.filter(|(_, (_, r))| r.expiry <= now).map(|(p, (via, _))| (p, *via)).collect();
        for (prefix, via) in old {
            self.remove_route(prefix, via, now);
        }
        for entry in self.entries.values_mut() {
            entry.hold = entry.hold.filter(|until| *until > now);
        }
        self.entries.retain(|_, entry| !entry.routes.is_empty() || entry.hold.is_some());
        self.sources.retain(|_, source| source.expiry > now);
    }

    fn mark_all(&mut self, prefix: Prefix, now: Time) {
        for interface in self.interfaces.values_mut() {
            interface.mark(prefix, PLAIN_CHANGE_SENDINGS, now);
        }
    }
}

impl Interface {
    /// A prefix is to be announced so often.
    fn mark(&mut self, prefix: Prefix, sendings: u8, now: Time) {
        let times = self.pending.entry(prefix).or_default();
        *times = sendings.max(*times);
        let earliest = self.flushed.map_or(now, |flushed| flushed + PLAIN_PAUSE);
        self.flush.get_or_insert(earliest.max(now + PLAIN_BATCH));
    }

    /// A neighbour is new: it hears hellos soon.
    fn hurry(&mut self, now: Time) {
        if self.burst == 0 {
            self.burst = PLAIN_BURST;
            self.next_hello = self.next_hello.min(now + PLAIN_PAUSE);
        }
    }
}

#[cfg(test)]
mod tests;
