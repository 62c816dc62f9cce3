//! Many bare routers on links that delay, lose, reorder and double their packets: thousands of runs in little time.
//!
//! Links come up and go down at each end when that end notices, as the liveness of the real node does. After each step
//! it is checked that no next hops of honest nodes form a circle, that every route in use has its origin's signature,
//! and that tables hold no more than there is. A node may be made to lie ([`Lie`]).

mod checks;
mod lies;

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use atoll_base::{MeshAddr, NodeSecret, RegionId, RegionPrefix};
use atoll_mesh_core::{
    Grant, LinkId, Time,
    babel::{self, INFINITY, Update},
    routing::{Federation, LinkPolicy, Neighbourhood, Router, RouterSettings},
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;

use crate::deadlines::Deadlines;

pub use crate::mesh::Quality;
pub use lies::Lie;

/// Calendar at the start of the world, in milliseconds.
const CALENDAR_MS: u64 = 1_900_000_000_000;
/// Longest time that an end takes to notice what happened to its link.
const NOTICE_MAX: Duration = Duration::from_millis(500);

struct Node {
    secret: NodeSecret,
    region: RegionId,
    router: Option<Router>,
    /// Which of its lives this is.
    life: u32,
    ends: BTreeMap<usize, End>,
    lie: Option<Lie>,
}

#[derive(Default)]
struct End {
    is_up: bool,
    generation: u32,
    life_of_peer: u32,
}

#[derive(Clone, Copy)]
struct Wire {
    quality: Quality,
    cost: u16,
    is_cut: bool,
}

enum Event {
    Packet(Vec<u8>),
    Hello { life: u32, generation: u32 },
    Notice,
}

/// The world of routers.
pub struct Routers {
    seed: u64,
    rng: ChaCha20Rng,
    now: Time,
    nodes: Vec<Node>,
    wires: BTreeMap<(usize, usize), Wire>,
    queue: BTreeMap<(Time, u64), (usize, usize, Event)>,
    deadlines: Deadlines,
    next: u64,
    generation: u32,
    federation: Federation,
    by_network: BTreeMap<MeshAddr, usize>,
    by_region: BTreeMap<RegionPrefix, RegionId>,
    /// Signatures that were found to be good.
    verified: BTreeSet<[u8; 64]>,
    /// Updates that were sent by anybody, for [`Lie::Replay`].
    heard: Vec<Update>,
    steps: u64,
    check_each: u64,
    /// Bytes of packets so far.
    pub bytes: u64,
    /// Packets so far.
    pub packets: u64,
}

impl Routers {
    /// A world without nodes.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            rng: ChaCha20Rng::seed_from_u64(seed),
            now: Time::ZERO,
            nodes: Vec::new(),
            wires: BTreeMap::new(),
            queue: BTreeMap::new(),
            deadlines: Deadlines::default(),
            next: 0,
            generation: 0,
            federation: Federation::default(),
            by_network: BTreeMap::new(),
            by_region: BTreeMap::new(),
            verified: BTreeSet::new(),
            heard: Vec::new(),
            steps: 0,
            check_each: 1,
            bytes: 0,
            packets: 0,
        }
    }

    /// The time.
    pub const fn now(&self) -> Time {
        self.now
    }

    /// Checks what must hold only after each so many steps: of a world of thousands, every step is too much.
    pub fn check_each(&mut self, steps: u64) {
        self.check_each = steps.max(1);
    }

    /// A random number below `bound`.
    pub fn random(&mut self, bound: usize) -> usize {
        self.rng.random_range(0..bound)
    }

    /// Makes every node believe the word of a region's authority.
    pub fn trust(&mut self, region: RegionId, authority: &NodeSecret) {
        assert!(self.federation.trust(region, authority.id()), "room for a region");
        self.by_region.insert(RegionPrefix::of(region), region);
        let now = self.now;
        for index in 0..self.nodes.len() {
            let federation = self.federation_of(index);
            if let Some(router) = &mut self.nodes[index].router {
                router.set_federation(federation, now);
            }
            self.schedule(index);
        }
    }

    /// Adds a node; its number.
    pub fn add(&mut self, region: RegionId) -> usize {
        let index = self.nodes.len();
        let secret = NodeSecret::from_seed(self.rng.random());
        self.by_network.insert(MeshAddr::of(region, secret.id()), index);
        self.nodes.push(Node { secret, region, router: None, life: 0, ends: BTreeMap::new(), lie: None });
        self.start(index, true);
        index
    }

    /// Makes a node the border of its region, by the word of its authority.
    pub fn make_border(&mut self, index: usize, authority: &NodeSecret) {
        let node = &mut self.nodes[index];
        let grant = Grant::sign(authority, node.region, node.secret.id(), u64::MAX / 2);
        let mut federation = self.federation.clone();
        federation.grant = Some(grant);
        if let Some(router) = &mut node.router {
            router.set_federation(federation, self.now);
        }
        self.schedule(index);
    }

    /// Makes a node lie from now on.
    pub fn corrupt(&mut self, index: usize, lie: Lie) {
        self.nodes[index].lie = Some(lie);
    }

    /// A node's router.
    pub fn router(&self, index: usize) -> Option<&Router> {
        self.nodes[index].router.as_ref()
    }

    /// A node's network.
    pub fn network(&self, index: usize) -> MeshAddr {
        MeshAddr::of(self.nodes[index].region, self.nodes[index].secret.id())
    }

    /// Lays a wire, or gives one another quality and cost.
    pub fn connect(&mut self, a: usize, b: usize, quality: Quality, cost: u16) {
        self.wires.insert((a.min(b), a.max(b)), Wire { quality, cost, is_cut: false });
        self.nodes[a].ends.entry(b).or_default();
        self.nodes[b].ends.entry(a).or_default();
        self.notice(a, b);
        self.notice(b, a);
    }

    /// Cuts a wire, or mends it. Its ends notice a little later, each in its own time.
    pub fn set_cut(&mut self, a: usize, b: usize, is_cut: bool) {
        if let Some(wire) = self.wires.get_mut(&(a.min(b), a.max(b))) {
            wire.is_cut = is_cut;
        }
        self.notice(a, b);
        self.notice(b, a);
    }

    /// Kills a node: its memory is gone, its key stays.
    pub fn kill(&mut self, index: usize) {
        self.nodes[index].router = None;
        self.schedule(index);
        for peer in self.nodes[index].ends.keys().copied().collect::<Vec<_>>() {
            self.notice(peer, index);
        }
    }

    /// Stops a node in order.
    pub fn stop(&mut self, index: usize) {
        let now = self.now;
        if let Some(router) = &mut self.nodes[index].router {
            router.stop(now);
        }
        self.settle(index);
        self.kill(index);
    }

    /// Starts a node that was killed. Its clock may be an hour late.
    pub fn start(&mut self, index: usize, is_clock_right: bool) {
        let lag_ms = if is_clock_right { 0 } else { 3_600_000 };
        let calendar_ms = CALENDAR_MS + u64::try_from(self.now.since(Time::ZERO).as_millis()).unwrap_or(0) - lag_ms;
        let federation = self.federation_of(index);
        let node = &mut self.nodes[index];
        node.life += 1;
        node.ends.values_mut().for_each(|end| *end = End::default());
        let mut router =
            Router::new(RouterSettings { secret: node.secret.clone(), region: node.region, calendar_ms }, self.now);
        router.set_federation(federation, self.now);
        node.router = Some(router);
        self.schedule(index);
        for peer in self.nodes[index].ends.keys().copied().collect::<Vec<_>>() {
            self.notice(index, peer);
            self.notice(peer, index);
        }
    }

    /// Lets time pass, and checks after each step.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let event = self.queue.first_key_value().map(|((at, _), _)| *at);
            let timer = self.deadlines.next();
            match (event, timer) {
                (Some(at), timer) if at <= end && timer.is_none_or(|(due, _)| at <= due) => {
                    self.now = self.now.max(at);
                    let Some((_, (from, to, event))) = self.queue.pop_first() else { return };
                    self.handle(from, to, event);
                    self.settle(to);
                    self.check(to);
                }
                (_, Some((due, index))) if due <= end => {
                    self.now = self.now.max(due);
                    let now = self.now;
                    if let Some(router) = &mut self.nodes[index].router {
                        router.handle_timeout(now);
                    }
                    self.settle(index);
                    self.check(index);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// The nodes that a packet passes, from one node to another, both included; how far it gets if there is no way.
    pub fn path(&self, source: usize, target: usize) -> Vec<usize> {
        let network = self.network(target);
        let mut path = vec![source];
        let mut at = source;
        while at != target
            && path.len() <= self.nodes.len()
            && let Some(next) = self.next_hop(at, network)
        {
            path.push(next);
            at = next;
        }
        path
    }

    /// Pairs of running honest nodes of one region, of which one should reach the other but does not, or the other way
    /// round. Ways through liars do not count.
    pub fn wrong_pairs(&self) -> Vec<(usize, usize)> {
        let honest = |index: usize| self.nodes[index].router.is_some() && self.nodes[index].lie.is_none();
        let mut wrong = Vec::new();
        for source in (0..self.nodes.len()).filter(|index| honest(*index)) {
            let reached = self.distances(source, honest);
            for target in 0..self.nodes.len() {
                if target == source || self.nodes[target].lie.is_some() {
                    continue;
                }
                let path = self.path(source, target);
                let meets_liar = path.iter().any(|node| self.nodes[*node].lie.is_some());
                let arrives = path.last() == Some(&target);
                let has_route = path.len() > 1;
                let is_right = if reached.contains_key(&target) { arrives } else { !has_route };
                if !is_right && !meets_liar {
                    wrong.push((source, target));
                }
            }
        }
        wrong
    }

    /// Cost of the cheapest way from a node to each other, over nodes for which `is_way` holds.
    pub fn distances(&self, source: usize, is_way: impl Fn(usize) -> bool) -> BTreeMap<usize, u32> {
        let mut known = BTreeMap::new();
        let mut open = BTreeSet::from([(0, source)]);
        while let Some((distance, at)) = open.pop_first() {
            if known.contains_key(&at) {
                continue;
            }
            known.insert(at, distance);
            for to in self.nodes[at].ends.keys().copied().filter(|to| is_way(*to)) {
                if let Some(wire) = self.wire(at, to) {
                    open.insert((distance + u32::from(wire.cost), to));
                }
            }
        }
        known
    }

    fn federation_of(&self, _index: usize) -> Federation {
        self.federation.clone()
    }

    /// Where a packet goes next. A node that started anew does not take what is sealed for its former life.
    fn next_hop(&self, at: usize, network: MeshAddr) -> Option<usize> {
        let link = self.nodes[at].router.as_ref()?.route(network)?.link;
        let (peer, end) = self.nodes[at].ends.iter().find(|(peer, _)| link_to(**peer) == link)?;
        (end.life_of_peer == self.nodes[*peer].life).then_some(*peer)
    }

    fn wire(&self, a: usize, b: usize) -> Option<Wire> {
        self.wires.get(&(a.min(b), a.max(b))).copied().filter(|wire| !wire.is_cut)
    }

    fn notice(&mut self, node: usize, peer: usize) {
        let limit = u64::try_from(NOTICE_MAX.as_micros()).unwrap_or(0);
        let after = Duration::from_micros(self.rng.random_range(0..=limit));
        self.next += 1;
        self.queue.insert((self.now + after, self.next), (peer, node, Event::Notice));
    }

    fn send(&mut self, from: usize, to: usize, event: Event) {
        let Some(Wire { quality, .. }) = self.wire(from, to) else { return };
        let is_packet = matches!(event, Event::Packet(_));
        if is_packet && self.rng.random_bool(quality.loss) {
            return;
        }
        let copies = 1 + usize::from(is_packet && self.rng.random_bool(quality.duplication));
        let jitter_us = u64::try_from(quality.jitter.as_micros()).unwrap_or(0);
        let mut event = Some(event);
        for copy in 0..copies {
            let jitter = Duration::from_micros(self.rng.random_range(0..=jitter_us));
            let copied = match (&event, copy + 1 < copies) {
                (Some(Event::Packet(bytes)), true) => Some(Event::Packet(bytes.clone())),
                _ => event.take(),
            };
            let Some(copied) = copied else { return };
            self.next += 1;
            self.queue.insert((self.now + quality.delay + jitter, self.next), (from, to, copied));
        }
    }

    fn handle(&mut self, from: usize, to: usize, event: Event) {
        let now = self.now;
        match event {
            Event::Notice => self.handle_notice(to, from),
            Event::Hello { life, generation } => {
                if self.wire(from, to).is_none() || !self.nodes[to].ends.get(&from).is_some_and(|end| end.is_up) {
                    return;
                }
                let life_of_peer = self.nodes[to].ends.get(&from).map_or(0, |end| end.life_of_peer);
                if life_of_peer != life {
                    self.raise(to, from, life);
                }
                if let Some(router) = &mut self.nodes[to].router {
                    router.handle_generation(link_to(from), generation, now);
                }
            }
            Event::Packet(bytes) => {
                let is_up = self.nodes[to].ends.get(&from).is_some_and(|end| end.is_up);
                if self.wire(from, to).is_none() || !is_up {
                    return;
                }
                let tlvs = babel::decode(&bytes).expect("packets are not damaged");
                if let Some(router) = &mut self.nodes[to].router {
                    router.handle_tlvs(link_to(from), &tlvs, now);
                }
            }
        }
    }

    /// An end finds out how its link is.
    fn handle_notice(&mut self, node: usize, peer: usize) {
        let works = self.wire(node, peer).is_some() && self.nodes[peer].router.is_some();
        let life = self.nodes[peer].life;
        let was_up = self.nodes[node].ends.get(&peer).is_some_and(|end| end.is_up);
        let now = self.now;
        if self.nodes[node].router.is_none() {
            return;
        }
        match (was_up, works) {
            (false, true) => self.raise(node, peer, life),
            (true, false) => {
                if let Some(end) = self.nodes[node].ends.get_mut(&peer) {
                    end.is_up = false;
                }
                if let Some(router) = &mut self.nodes[node].router {
                    router.handle_link_down(link_to(peer), now);
                }
            }
            (true, true) => {
                // Costs may have changed; and if the other end was down in between, it needs to hear again.
                let cost = self.wire(node, peer).map_or(INFINITY, |wire| wire.cost);
                if let Some(router) = &mut self.nodes[node].router {
                    router.handle_link_cost(link_to(peer), cost, 1400, now);
                }
                self.hello(node, peer);
            }
            (false, false) => {}
        }
    }

    /// An end comes up, from nothing.
    fn raise(&mut self, node: usize, peer: usize, life_of_peer: u32) {
        self.generation += 1;
        let generation = self.generation;
        let Some(wire) = self.wire(node, peer) else { return };
        let (region, id) = (self.nodes[peer].region, self.nodes[peer].secret.id());
        let neighbourhood =
            Neighbourhood { region, node: id, cost: wire.cost, mtu: 1400, generation, policy: LinkPolicy::default() };
        let now = self.now;
        self.nodes[node].ends.insert(peer, End { is_up: true, generation, life_of_peer });
        if let Some(router) = &mut self.nodes[node].router {
            router.handle_link_up(link_to(peer), neighbourhood, now);
        }
        self.hello(node, peer);
        self.hello(peer, node);
    }

    fn hello(&mut self, node: usize, peer: usize) {
        let life = self.nodes[node].life;
        let end = self.nodes[node].ends.get(&peer);
        if let Some(generation) = end.filter(|end| end.is_up).map(|end| end.generation) {
            self.send(node, peer, Event::Hello { life, generation });
        }
    }

    /// Drains what a node has to say.
    fn settle(&mut self, index: usize) {
        while let Some((link, bytes)) = self.nodes[index].router.as_mut().and_then(Router::poll_transmit) {
            let peer = self.nodes[index].ends.keys().copied().find(|peer| link_to(*peer) == link);
            let Some(peer) = peer else { continue };
            let bytes = match self.nodes[index].lie {
                None => bytes,
                Some(lie) => self.bend(index, lie, &bytes),
            };
            self.packets += 1;
            self.bytes += bytes.len() as u64;
            self.send(index, peer, Event::Packet(bytes));
        }
        self.schedule(index);
    }

    /// Notes when a node has something to do; to be called after everything that happens to it.
    fn schedule(&mut self, index: usize) {
        let deadline = self.nodes[index].router.as_ref().and_then(Router::deadline);
        self.deadlines.set(index, deadline);
    }
}

fn link_to(peer: usize) -> LinkId {
    LinkId::of(u32::try_from(peer).expect("few nodes"))
}
