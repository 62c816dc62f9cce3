//! The whole node: dispatches datagrams, packets and timers to links, sessions and the router.

pub(crate) mod data;
mod exits;
mod federation;
mod handshakes;
pub(crate) mod held;
mod learned;
mod links;
mod members;
mod paths;
mod punch;
mod remotes;
mod routes;
pub(crate) mod status;
pub(crate) mod trace;

use core::{fmt, time::Duration};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use atoll_base::{MeshAddr, NodeId, NodeSecret, RegionId, RegionPrefix};
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng as _, SeedableRng as _},
};
use zeroize::Zeroizing;

use crate::{
    accept::Acceptor,
    beacon::Beacon,
    ecn::Ecn,
    exit::Exits,
    handshake::{Local, Sources},
    kem::Kem,
    limits::{
        DISCOVERED_LINKS_MAX, EVENTS_MAX, GRANT_CHECKS_PER_SECOND_MAX, HANDSHAKE_ANSWERS_PER_SECOND_MAX,
        HINTS_PER_SECOND_MAX, ICMP_PER_SECOND_MAX, LINKS_MAX, PACKETS_MAX, REFUSAL_EVENTS_PER_SECOND_MAX, REKEY_AFTER,
        REKEY_AFTER_MESSAGES, TRANSMITS_MAX,
    },
    queue::{FairQueue, QueueCounts},
    rate::RateLimit,
    routing::{Router, RouterSettings},
    secrets::Secrets,
    time::Time,
    timers::{Timer, Timers},
    translate::is_to_ipv4,
    wire::{Frame, WireError, handshake::RefuseReason},
};
use data::Received;
use federation::{Realm, Recognised};
use links::Link;
use remotes::Remote;
use status::Counters;

/// One link, for as long as the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(u32);

impl LinkId {
    /// A name for a link, for who runs a [`Router`] alone.
    pub const fn of(number: u32) -> Self {
        Self(number)
    }
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How a link came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was configured.
    Static,
    /// A beacon was heard.
    Discovered,
    /// The neighbour called.
    Incoming,
    /// Both ends talked over a relay, and found a direct way.
    Punched,
    /// It was told where a certain node is, see [`Mesh::add_learned_peer`].
    Learned,
}

/// What a node needs to exist.
pub struct Settings {
    /// Its identity.
    pub secret: NodeSecret,
    /// Its region.
    pub region: RegionId,
    /// 32 bytes of fresh randomness, from which all others follow.
    pub seed: [u8; 32],
    /// What makes post-quantum keys; it has randomness of its own.
    pub kem: Box<dyn Kem>,
    /// The calendar in milliseconds (Unix time): larger after each restart, and what the expiry of grants is held
    /// against.
    pub epoch: u64,
    /// What may be tuned.
    pub tuning: Tuning,
}

/// What may be tuned; the defaults are in [`crate::limits`].
#[derive(Debug, Clone)]
pub struct Tuning {
    /// Age at which session keys are replaced.
    pub rekey_after: Duration,
    /// Messages after which session keys are replaced.
    pub rekey_after_messages: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { rekey_after: REKEY_AFTER, rekey_after_messages: REKEY_AFTER_MESSAGES }
    }
}

/// A datagram to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: SocketAddr,
    /// Its bytes.
    pub data: Vec<u8>,
    /// How many hops of the underlay it may take, if not as many as usual.
    pub hops_max: Option<u8>,
}

/// Something worth a line in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A neighbour answers.
    LinkUp {
        /// The link.
        link: LinkId,
        /// Who it is.
        node: NodeId,
        /// Where it is.
        endpoint: SocketAddr,
    },
    /// A neighbour answers from another endpoint than before.
    LinkMoved {
        /// The link.
        link: LinkId,
        /// Who it is.
        node: NodeId,
        /// Where it is now.
        endpoint: SocketAddr,
    },
    /// A neighbour does not answer any more.
    LinkDown {
        /// The link.
        link: LinkId,
        /// Who it was.
        node: NodeId,
    },
    /// A session has new keys.
    SessionUp {
        /// The other end.
        node: NodeId,
    },
    /// A probe was answered, see [`Mesh::probe`].
    Answered {
        /// Its number.
        probe: u64,
        /// Network of the node that says that it answers.
        network: MeshAddr,
        /// Who that is, if it has proven that with its key.
        node: Option<NodeId>,
        /// Whether it is the node that was asked for; otherwise a relay on the way, where the probe ran out of hops.
        is_target: bool,
        /// Time since the probe was sent.
        round_trip: Duration,
    },
    /// This node refused another that had proven who it is.
    Refused {
        /// The other.
        node: NodeId,
        /// Why.
        reason: RefuseReason,
    },
    /// Another node answered than the one that is said to be there; it was refused.
    WrongNode {
        /// Who answered.
        node: NodeId,
        /// Where.
        endpoint: SocketAddr,
    },
    /// This node was refused by another.
    RefusedBy {
        /// The other.
        node: NodeId,
        /// Why.
        reason: RefuseReason,
    },
}

/// A node of the mesh.
pub struct Mesh {
    local: Local,
    /// The own region.
    own: Realm,
    /// Other regions that are recognised.
    recognised: BTreeMap<RegionPrefix, Recognised>,
    network: MeshAddr,
    prefix: RegionPrefix,
    tuning: Tuning,
    /// Randomness that is not secret.
    rng: ChaCha20Rng,
    sources: Sources,
    /// Who may have links and sessions; all, if nothing is said.
    members: Option<BTreeSet<NodeId>>,
    links: BTreeMap<LinkId, Link>,
    /// Which link owns an index that neighbours name in data frames.
    link_indices: BTreeMap<u32, LinkId>,
    link_accepts: Acceptor<SocketAddr>,
    next_link: u32,
    remotes: BTreeMap<MeshAddr, Remote>,
    remote_accepts: Acceptor<MeshAddr>,
    router: Router,
    punches: punch::Punches,
    exits: Exits,
    traces: trace::Traces,
    timers: Timers,
    transmits: VecDeque<Transmit>,
    /// Frames that wait because the socket is full, and over which link each came; none: it is of this node.
    queue: held::Frames,
    /// Whether frames have to wait there.
    is_holding: bool,
    /// The same for connections that are full.
    stream_queues: BTreeMap<SocketAddr, held::Frames>,
    /// What the queues of connections counted that are gone.
    queues_gone: QueueCounts,
    queue_secret: [u8; 16],
    /// The frame that left the queue last.
    leaving: Vec<u8>,
    packets: VecDeque<Vec<u8>>,
    events: VecDeque<Event>,
    answer_rate: RateLimit,
    refusal_rate: RateLimit,
    hint_rate: RateLimit,
    /// Checks of neighbours' grants.
    grant_rate: RateLimit,
    icmp_rate: RateLimit,
    counters: Counters,
}

impl Mesh {
    /// A node without links.
    pub fn new(settings: Settings, now: Time) -> Self {
        let Settings { secret, region, seed, kem, epoch, tuning } = settings;
        let seed = Zeroizing::new(seed);
        let (mut secrets, public) = Secrets::new(&seed);
        let network = MeshAddr::of(region, secret.id());
        let rng = ChaCha20Rng::from_seed(public);
        let mut queue_secret = [0; 16];
        let mut other_stream = rng.clone();
        other_stream.set_stream(1);
        other_stream.fill_bytes(&mut queue_secret);
        Self {
            router: Router::new(RouterSettings { secret: secret.clone(), region, calendar_ms: epoch }, now),
            local: Local::new(secret, region, epoch),
            own: Realm::towards(region, region),
            recognised: BTreeMap::new(),
            network,
            prefix: RegionPrefix::of(region),
            tuning,
            rng,
            members: None,
            links: BTreeMap::new(),
            link_indices: BTreeMap::new(),
            link_accepts: Acceptor::new(&mut secrets, now),
            next_link: 0,
            remotes: BTreeMap::new(),
            remote_accepts: Acceptor::new(&mut secrets, now),
            sources: Sources { secrets, kem },
            punches: punch::Punches::new(now),
            exits: Exits::default(),
            traces: trace::Traces::new(now),
            timers: Timers::default(),
            transmits: VecDeque::new(),
            queue: FairQueue::new(&queue_secret),
            is_holding: false,
            stream_queues: BTreeMap::new(),
            queues_gone: QueueCounts::default(),
            queue_secret,
            leaving: Vec::new(),
            packets: VecDeque::new(),
            events: VecDeque::new(),
            answer_rate: RateLimit::new(HANDSHAKE_ANSWERS_PER_SECOND_MAX, now),
            refusal_rate: RateLimit::new(REFUSAL_EVENTS_PER_SECOND_MAX, now),
            hint_rate: RateLimit::new(HINTS_PER_SECOND_MAX, now),
            grant_rate: RateLimit::new(GRANT_CHECKS_PER_SECOND_MAX, now),
            icmp_rate: RateLimit::new(ICMP_PER_SECOND_MAX, now),
            counters: Counters::default(),
        }
    }

    /// The node's own network.
    pub const fn network(&self) -> MeshAddr {
        self.network
    }

    /// Adds a neighbour that is to be called, and called again, until it answers. False if the address cannot be one:
    /// it lies within the mesh itself, or there are too many links already.
    pub fn add_peer(&mut self, endpoint: SocketAddr, origin: Origin, now: Time) -> bool {
        if self.is_inside(endpoint.ip()) {
            return false;
        }
        let own = |link: &Link| link.realm.id == self.own.id;
        let known = self.links.iter().find(|(_, link)| link.is_at(endpoint) && own(link)).map(|(id, _)| *id);
        if let Some(id) = known {
            if let Some(link) = self.links.get_mut(&id) {
                link.promote(endpoint, origin);
            }
            self.timers.no_later_than(Timer::Link(id), now);
            return true;
        }
        let discovered = || self.links.values().filter(|link| link.origin == Origin::Discovered).count();
        if self.links.len() >= LINKS_MAX || (origin == Origin::Discovered && discovered() >= DISCOVERED_LINKS_MAX) {
            return false;
        }
        let id = self.insert_link(endpoint, origin, self.own.clone(), now);
        self.timers.set(Timer::Link(id), Some(now));
        true
    }

    /// Forgets a configured neighbour.
    pub fn remove_peer(&mut self, endpoint: SocketAddr, now: Time) {
        let id = self.links.iter().find(|(_, link)| link.is_at(endpoint)).map(|(id, _)| *id);
        if let Some(id) = id {
            self.drop_link(id, now);
        }
    }

    /// Takes a beacon that came from `from`. Whether it told of a neighbour of this region that is not one yet.
    pub fn handle_beacon(&mut self, from: SocketAddr, beacon: &Beacon, now: Time) -> bool {
        if beacon.region != self.prefix {
            self.counters.beacons_of_other_regions += 1;
            return false;
        }
        let mut endpoint = from;
        endpoint.set_port(beacon.port);
        if Beacon::of(self.network, 0).hash == beacon.hash {
            return false;
        }
        let up = self.links.iter_mut().find(|(_, link)| link.is_at(endpoint) && link.liveness.is_up());
        match up {
            // It may have started anew: a probe finds out, and soon.
            Some((id, link)) => {
                if link.liveness.handle_hint(now) {
                    let timer = Timer::Link(*id);
                    self.timers.no_later_than(timer, now);
                }
                false
            }
            None => self.add_peer(endpoint, Origin::Discovered, now),
        }
    }

    /// Takes a datagram. Its bytes are opened, or rewritten, in place.
    pub fn handle_datagram(&mut self, from: SocketAddr, data: &mut [u8], now: Time) -> Received {
        self.handle_datagram_ecn(from, Ecn::NotCapable, data, now)
    }

    /// The same for a datagram whose own IP header has these congestion bits.
    pub fn handle_datagram_ecn(&mut self, from: SocketAddr, ecn: Ecn, data: &mut [u8], now: Time) -> Received {
        self.counters.rx_datagrams += 1;
        match self.own.mac.parse(data) {
            Ok(Frame::Data { receiver, counter }) => {
                return self.handle_data(from, (receiver, counter), ecn, data, now);
            }
            Ok(Frame::Control { receiver, counter }) => self.handle_link_control(from, (receiver, counter), data, now),
            Ok(Frame::Handshake(frame)) => self.handle_link_handshake(from, &frame, now),
            Err(WireError::Region) => self.counters.dropped_other_region += 1,
            Err(WireError::Length | WireError::Kind | WireError::Field) => self.counters.dropped_malformed += 1,
        }
        Received::Done
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        // Bounded, so that a timer that sets itself to the past cannot hold the loop.
        for _ in 0..LINKS_MAX + 16 {
            let Some((scheduled, timer)) = self.timers.pop_due(now) else { return };
            match timer {
                Timer::Link(id) => self.handle_link_timeout(id, scheduled, now),
                Timer::Remote(network) => self.handle_remote_timeout(network, now),
                Timer::Punch => self.handle_punch_timeout(now),
                Timer::Routing => {
                    self.router.handle_timeout(now);
                    self.flush_router(now);
                }
            }
        }
    }

    /// The next datagram to send. Call again until it returns nothing, after each `handle_*`.
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next packet for the TUN device, of IPv6, or of IPv4 if this is an exit. Call again until it returns nothing,
    /// after each `handle_*`.
    #[must_use]
    pub fn poll_packet(&mut self) -> Option<Vec<u8>> {
        self.packets.pop_front()
    }

    /// The next event. Call again until it returns nothing, after each `handle_*`.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] is to be called, and what for. Ask again after each `handle_*`.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Time, Timer)> {
        self.timers.next()
    }

    /// Whether an underlay address lies within the overlay, of this region or a recognised one: a link through itself
    /// would feed on itself.
    fn is_inside(&self, ip: IpAddr) -> bool {
        matches!(ip, IpAddr::V6(ip) if self.realm_of(MeshAddr::containing(ip)).is_some())
    }

    fn transmit(&mut self, to: SocketAddr, data: Vec<u8>) {
        self.transmit_within(None, to, data);
    }

    fn transmit_within(&mut self, hops_max: Option<u8>, to: SocketAddr, data: Vec<u8>) {
        if self.transmits.len() >= TRANSMITS_MAX {
            self.counters.dropped_queue_full += 1;
            return;
        }
        self.counters.tx_datagrams += 1;
        self.transmits.push_back(Transmit { to, data, hops_max });
    }

    /// The same for a datagram that is counted already.
    fn queue_transmit(&mut self, to: SocketAddr, data: Vec<u8>) {
        self.counters.tx_datagrams -= 1;
        self.transmit(to, data);
    }

    /// Tells this machine, or an IPv4 address behind it, of an error.
    fn deliver_error(&mut self, error: Vec<u8>, now: Time) {
        let error = if is_to_ipv4(&error) { self.error_to_ipv4(&error, now) } else { Some(error) };
        if let Some(error) = error {
            self.deliver(error);
        }
    }

    fn deliver(&mut self, packet: Vec<u8>) {
        if self.packets.len() >= PACKETS_MAX {
            self.counters.dropped_queue_full += 1;
            return;
        }
        self.packets.push_back(packet);
    }

    fn event(&mut self, event: Event) {
        if self.events.len() < EVENTS_MAX {
            self.events.push_back(event);
        }
    }

    /// Sends what the router has to say, and sets its timer.
    fn flush_router(&mut self, now: Time) {
        while let Some((link, payload)) = self.router.poll_transmit() {
            self.send_control(link, &payload, now);
        }
        let deadline = self.router.deadline();
        self.timers.set(Timer::Routing, deadline);
    }

    /// An index that no key or handshake of this node uses.
    fn fresh_index(&mut self) -> u32 {
        loop {
            let index = self.rng.next_u32();
            if !self.link_indices.contains_key(&index)
                && !self.link_accepts.owns(index)
                && !self.remote_accepts.owns(index)
            {
                return index;
            }
        }
    }

    fn own_address(&self) -> Ipv6Addr {
        self.network.node()
    }
}

#[cfg(test)]
mod tests;
