//! Many mesh nodes on a virtual network that delays, loses, reorders and duplicates datagrams.
//!
//! Invariants are checked as the world runs: a packet that comes out of a node went in at the node that its source
//! address names, for that node, and comes out once.

mod regions;

use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
};

use atoll_base::{MeshAddr, NodeId, NodeSecret, RegionId};
use atoll_mesh_core::{Event, Mesh, Origin, ProbeError, Received, Settings, Time, Tuning, routing::Federation};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;

use crate::{deadlines::Deadlines, kem::SeededKem};

/// How a direction of a link treats datagrams.
#[derive(Debug, Clone, Copy)]
pub struct Quality {
    /// Shortest delay.
    pub delay: Duration,
    /// What is added to it at random; datagrams overtake each other.
    pub jitter: Duration,
    /// Share of datagrams that are lost.
    pub loss: f64,
    /// Share of datagrams that arrive twice.
    pub duplication: f64,
}

impl Quality {
    /// Everything arrives, in order, after this delay.
    pub const fn clean(delay: Duration) -> Self {
        Self { delay, jitter: Duration::ZERO, loss: 0.0, duplication: 0.0 }
    }
}

/// A local network.
pub const LAN: Quality = Quality::clean(Duration::from_micros(200));
/// 10 % lost, 5 % doubled, up to 30 ms out of order.
pub const ROUGH: Quality =
    Quality { delay: Duration::from_millis(5), jitter: Duration::from_millis(30), loss: 0.1, duplication: 0.05 };

/// Adds a line of nodes, each calling the next.
pub fn line(world: &mut World, count: usize, quality: Quality) {
    world.add_many(count);
    for node in 1..count {
        world.connect(node - 1, node, quality);
    }
}

/// A datagram that was sent.
#[derive(Debug, Clone)]
pub struct Sent {
    /// By whom.
    pub source: usize,
    /// To whom.
    pub target: usize,
    /// Its bytes.
    pub data: Vec<u8>,
}

struct Node {
    secret: NodeSecret,
    region: RegionId,
    network: MeshAddr,
    mesh: Option<Mesh>,
    peers: Vec<usize>,
    /// Border nodes of other regions that it calls.
    border_peers: Vec<usize>,
    federation: Federation,
    epoch: u64,
}

/// The world.
pub struct World {
    rng: ChaCha20Rng,
    now: Time,
    tuning: Tuning,
    nodes: Vec<Node>,
    wires: BTreeMap<(usize, usize), Quality>,
    in_flight: BTreeMap<(Time, u64), (usize, usize, Vec<u8>)>,
    deadlines: Deadlines,
    /// Nodes that a test may have done something to.
    touched: BTreeSet<usize>,
    next: u64,
    /// Packets by their number: sender, receiver, whether it came out.
    packets: BTreeMap<u64, (usize, usize, bool)>,
    /// Datagrams so far.
    pub datagrams: u64,
    /// Every datagram, if they are recorded.
    pub record: Option<Vec<Sent>>,
    /// A hash over everything that happened, to compare runs.
    pub trace: u64,
    /// ICMPv6 packets that came out of each node.
    pub icmp: Vec<(usize, Vec<u8>)>,
    /// Events of each node.
    pub events: Vec<(usize, Time, Event)>,
}

impl World {
    /// A world without nodes.
    pub fn new(seed: u64) -> Self {
        Self {
            rng: ChaCha20Rng::seed_from_u64(seed),
            now: Time::ZERO,
            tuning: Tuning::default(),
            nodes: Vec::new(),
            wires: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            deadlines: Deadlines::default(),
            touched: BTreeSet::new(),
            next: 0,
            packets: BTreeMap::new(),
            datagrams: 0,
            record: None,
            trace: 0,
            icmp: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Nodes that are added from now on use this tuning.
    pub fn tune(&mut self, tuning: Tuning) {
        self.tuning = tuning;
    }

    /// The time.
    pub const fn now(&self) -> Time {
        self.now
    }

    /// A random number below `bound`.
    pub fn random(&mut self, bound: usize) -> usize {
        self.rng.random_range(0..bound)
    }

    /// Adds a node of a region; its number.
    pub fn add(&mut self, region: RegionId) -> usize {
        let index = self.nodes.len();
        let secret = NodeSecret::from_seed(self.rng.random());
        let network = MeshAddr::of(region, secret.id());
        self.nodes.push(Node {
            secret,
            region,
            network,
            mesh: None,
            peers: Vec::new(),
            border_peers: Vec::new(),
            federation: Federation::default(),
            epoch: EPOCH_MS,
        });
        self.start(index);
        index
    }

    /// Adds a node with the key of another, as if the key had been copied; its number.
    pub fn add_twin(&mut self, of: usize) -> usize {
        let index = self.nodes.len();
        let Node { secret, region, network, federation, epoch, .. } = &self.nodes[of];
        let twin = Node {
            secret: secret.clone(),
            region: *region,
            network: *network,
            mesh: None,
            peers: Vec::new(),
            border_peers: Vec::new(),
            federation: federation.clone(),
            epoch: epoch + 500,
        };
        self.nodes.push(twin);
        self.start(index);
        index
    }

    /// Adds so many nodes of the region of the tests.
    pub fn add_many(&mut self, count: usize) {
        for _ in 0..count {
            self.add(REGION);
        }
    }

    /// A node.
    pub fn mesh(&mut self, node: usize) -> Option<&mut Mesh> {
        self.touched.insert(node);
        self.nodes[node].mesh.as_mut()
    }

    /// Identity of a node.
    pub fn id(&self, node: usize) -> NodeId {
        self.nodes[node].secret.id()
    }

    /// Tells a node who the members of its region are.
    pub fn set_members(&mut self, node: usize, members: Option<BTreeSet<NodeId>>) {
        let now = self.now;
        if let Some(mesh) = &mut self.nodes[node].mesh {
            mesh.set_members(members, now);
        }
        self.settle(node);
    }

    /// The next start of a node takes its epoch from a clock that was set anew.
    pub fn set_epoch(&mut self, node: usize, epoch: u64) {
        self.nodes[node].epoch = epoch;
    }

    /// A node calls nobody at its next start.
    pub fn forget_peers(&mut self, node: usize) {
        self.nodes[node].peers.clear();
    }

    /// Network of a node.
    pub fn network(&self, node: usize) -> MeshAddr {
        self.nodes[node].network
    }

    /// Endpoint of a node.
    pub fn endpoint(node: usize) -> SocketAddr {
        let low = u32::try_from(node).expect("few nodes");
        SocketAddr::new(Ipv4Addr::from_bits(FIRST_ADDRESS + low).into(), 4870)
    }

    /// The node with this endpoint.
    fn node_at(&self, endpoint: SocketAddr) -> Option<usize> {
        let SocketAddr::V4(v4) = endpoint else { return None };
        let node = usize::try_from(v4.ip().to_bits().checked_sub(FIRST_ADDRESS)?).ok()?;
        (node < self.nodes.len() && Self::endpoint(node) == endpoint).then_some(node)
    }

    /// Lays a wire between two nodes, with the same quality both ways; the first one calls the second.
    pub fn connect(&mut self, caller: usize, called: usize, quality: Quality) {
        self.mend(caller, called, quality);
        self.nodes[caller].peers.push(called);
        let now = self.now;
        if let Some(mesh) = &mut self.nodes[caller].mesh {
            mesh.add_peer(Self::endpoint(called), Origin::Static, now);
        }
        self.settle(caller);
    }

    /// Sets the quality of a wire both ways, or lays it anew.
    pub fn mend(&mut self, a: usize, b: usize, quality: Quality) {
        self.wires.insert((a, b), quality);
        self.wires.insert((b, a), quality);
    }

    /// Cuts a wire both ways.
    pub fn cut(&mut self, a: usize, b: usize) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// Cuts a wire in one direction.
    pub fn cut_one_way(&mut self, source: usize, target: usize) {
        self.wires.remove(&(source, target));
    }

    /// Kills a node: its memory is gone, its key stays.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].mesh = None;
        self.schedule(node);
    }

    /// Stops a node in order: it says so, and then it is gone.
    pub fn stop(&mut self, node: usize) {
        let now = self.now;
        if let Some(mesh) = &mut self.nodes[node].mesh {
            mesh.stop(now);
        }
        self.settle(node);
        self.kill(node);
    }

    /// Starts a node that was killed, with the key that it had.
    pub fn start(&mut self, index: usize) {
        let seed = self.rng.random();
        let now = self.now;
        let tuning = self.tuning.clone();
        let node = &mut self.nodes[index];
        node.epoch += 1000;
        let settings = Settings {
            secret: node.secret.clone(),
            region: node.region,
            seed,
            kem: Box::new(SeededKem::new(self.rng.random())),
            epoch: node.epoch,
            tuning,
        };
        let mut mesh = Mesh::new(settings, now);
        mesh.set_federation(node.federation.clone(), now);
        for peer in &node.peers {
            mesh.add_peer(Self::endpoint(*peer), Origin::Static, now);
        }
        let borders = node.border_peers.clone();
        for border in borders {
            mesh.add_border_peer(Self::endpoint(border), self.nodes[border].region, now);
        }
        self.nodes[index].mesh = Some(mesh);
        self.settle(index);
    }

    /// Sends a packet from one node to another; its number.
    pub fn send(&mut self, source: usize, target: usize) -> u64 {
        let number = self.packets.len() as u64;
        let packet = packet(self.nodes[source].network, self.nodes[target].network, number);
        self.packets.insert(number, (source, target, false));
        let now = self.now;
        if let Some(mesh) = &mut self.nodes[source].mesh {
            mesh.handle_packet(&packet, false, now);
        }
        self.settle(source);
        number
    }

    /// Sends a probe that may take so many links.
    pub fn probe(&mut self, source: usize, target: usize, hop_limit: u8) -> Result<u64, ProbeError> {
        let (address, now) = (self.nodes[target].network.node(), self.now);
        let sent = self.nodes[source]
            .mesh
            .as_mut()
            .map_or(Err(ProbeError::NoRoute), |mesh| mesh.probe(address, hop_limit, now));
        self.settle(source);
        sent
    }

    /// Sends a packet that is none of the world's own.
    pub fn send_raw(&mut self, source: usize, packet: &[u8]) {
        let now = self.now;
        if let Some(mesh) = &mut self.nodes[source].mesh {
            mesh.handle_packet(packet, false, now);
        }
        self.settle(source);
    }

    /// Whether a packet came out.
    pub fn arrived(&self, number: u64) -> bool {
        self.packets[&number].2
    }

    /// Sends packets from `source` to `target` until one arrives; how long that took, if not longer than `patience`.
    pub fn time_until_reachable(&mut self, source: usize, target: usize, patience: Duration) -> Option<Duration> {
        let start = self.now;
        let mut sent = Vec::new();
        loop {
            sent.push(self.send(source, target));
            self.run_for(Duration::from_millis(50));
            if sent.iter().any(|number| self.arrived(*number)) {
                return Some(self.now.since(start));
            }
            if self.now.since(start) > patience {
                return None;
            }
        }
    }

    /// Whether a packet sent now arrives in time, for each ordered pair of nodes that run; the pairs for which not.
    pub fn unreachable_pairs(&mut self, patience: Duration) -> Vec<(usize, usize)> {
        let alive: Vec<_> = (0..self.nodes.len()).filter(|n| self.nodes[*n].mesh.is_some()).collect();
        let pairs = alive.iter().flat_map(|a| alive.iter().map(move |b| (*a, *b))).filter(|(a, b)| a != b);
        let sent: Vec<_> = pairs.collect::<Vec<_>>().into_iter().map(|(a, b)| (a, b, self.send(a, b))).collect();
        self.run_for(patience);
        sent.into_iter().filter(|(_, _, number)| !self.arrived(*number)).map(|(a, b, _)| (a, b)).collect()
    }

    /// Injects a datagram at a node as if it came from another.
    pub fn inject(&mut self, source: usize, target: usize, mut data: Vec<u8>) {
        let now = self.now;
        if let Some(mesh) = &mut self.nodes[target].mesh {
            match mesh.handle_datagram(Self::endpoint(source), &mut data, now) {
                Received::Done => {}
                Received::Packet(record) => self.deliver(target, &data[record.start..record.end]),
                Received::Relay { to, .. } => self.transmit(target, to, data),
            }
        }
        self.settle(target);
    }

    /// Lets time pass.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        for node in core::mem::take(&mut self.touched) {
            self.schedule(node);
        }
        loop {
            let arrival = self.in_flight.first_key_value().map(|((at, _), _)| *at);
            let timer = self.deadlines.next();
            // What arrives at the moment of a timer is handled first.
            match (arrival, timer) {
                (Some(at), timer) if at <= end && timer.is_none_or(|(due, _)| at <= due) => {
                    self.now = self.now.max(at);
                    self.arrive();
                }
                (_, Some((due, index))) if due <= end => {
                    self.now = self.now.max(due);
                    let now = self.now;
                    if let Some(mesh) = &mut self.nodes[index].mesh {
                        mesh.handle_timeout(now);
                    }
                    self.settle(index);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// Nodes that see a circle when they follow the next hops to a target.
    pub fn loops(&self) -> Vec<(usize, usize)> {
        let by_id: BTreeMap<_, _> =
            self.nodes.iter().enumerate().map(|(index, node)| (node.secret.id(), index)).collect();
        let next: Vec<BTreeMap<_, _>> = self
            .nodes
            .iter()
            .map(|node| {
                let routes = node.mesh.as_ref().map(Mesh::route_status).unwrap_or_default();
                routes.into_iter().filter_map(|r| Some((*by_id.get(&r.node)?, *by_id.get(&r.next_hop)?))).collect()
            })
            .collect();
        let mut found = Vec::new();
        for source in 0..self.nodes.len() {
            for target in 0..self.nodes.len() {
                let mut seen = BTreeSet::new();
                let mut at = source;
                while at != target
                    && let Some(hop) = next[at].get(&target)
                {
                    if !seen.insert(at) {
                        found.push((source, target));
                        break;
                    }
                    at = *hop;
                }
            }
        }
        found
    }

    fn arrive(&mut self) {
        let Some((_, (source, target, data))) = self.in_flight.pop_first() else { return };
        // A wire that was cut in the meantime delivers nothing.
        if self.wires.contains_key(&(source, target)) {
            self.inject(source, target, data);
        }
    }

    /// Drains what a node has to say, and notes when it has something to do.
    fn settle(&mut self, index: usize) {
        self.drain(index);
        self.schedule(index);
    }

    fn schedule(&mut self, index: usize) {
        let deadline = self.nodes[index].mesh.as_ref().and_then(|mesh| Some(mesh.poll_timeout()?.0));
        self.deadlines.set(index, deadline);
    }

    fn drain(&mut self, index: usize) {
        loop {
            let Some(mesh) = &mut self.nodes[index].mesh else { return };
            if let Some(transmit) = mesh.poll_transmit() {
                self.transmit(index, transmit.to, transmit.data);
            } else if let Some(packet) = mesh.poll_packet() {
                self.deliver(index, &packet);
            } else if let Some(event) = mesh.poll_event() {
                self.events.push((index, self.now, event));
            } else {
                return;
            }
        }
    }

    fn transmit(&mut self, source: usize, to: SocketAddr, data: Vec<u8>) {
        self.datagrams += 1;
        self.note(source as u64, &data);
        let Some(target) = self.node_at(to) else { return };
        if let Some(record) = &mut self.record {
            record.push(Sent { source, target, data: data.clone() });
        }
        let Some(quality) = self.wires.get(&(source, target)).copied() else { return };
        if data.len() > DATAGRAM_BYTES_MAX {
            return;
        }
        if self.rng.random_bool(quality.loss) {
            return;
        }
        let copies = 1 + usize::from(self.rng.random_bool(quality.duplication));
        for _ in 0..copies {
            let jitter_us = u64::try_from(quality.jitter.as_micros()).unwrap_or(u64::MAX);
            let jitter = Duration::from_micros(self.rng.random_range(0..=jitter_us));
            let at = self.now + quality.delay + jitter;
            self.next += 1;
            self.in_flight.insert((at, self.next), (source, target, data.clone()));
        }
    }

    fn deliver(&mut self, node: usize, bytes: &[u8]) {
        if bytes[6] == ICMP {
            self.icmp.push((node, bytes.to_vec()));
            return;
        }
        let number = u64::from_be_bytes(bytes[40..48].try_into().expect("the packets of this world are longer"));
        let (source, target, arrived) = self.packets[&number];
        assert_eq!(bytes, packet(self.nodes[source].network, self.nodes[target].network, number), "came out changed");
        assert_eq!(target, node, "packet {number} came out at another node");
        assert!(!arrived, "packet {number} came out twice");
        self.packets.insert(number, (source, target, true));
        self.note(node as u64, bytes);
    }

    fn note(&mut self, node: u64, bytes: &[u8]) {
        let mut hash = self.trace ^ node ^ self.now.as_micros();
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.trace = hash;
    }
}

/// Calendar at the first start of a node, in milliseconds.
pub const EPOCH_MS: u64 = 1_000_000;
/// The region of the tests.
pub const REGION: RegionId = RegionId([0xab; 32]);
/// What a wire carries: Ethernet, over IPv4 and UDP.
const DATAGRAM_BYTES_MAX: usize = 1500 - 28;
/// Address of the first node, 10.0.0.1.
const FIRST_ADDRESS: u32 = 0x0a00_0001;
const UDP: u8 = 17;
const ICMP: u8 = 58;

/// A packet with a number.
fn packet(source: MeshAddr, target: MeshAddr, number: u64) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 64, UDP, 64];
    packet.extend_from_slice(&source.node().octets());
    packet.extend_from_slice(&target.node().octets());
    packet.extend_from_slice(&number.to_be_bytes());
    packet.resize(40 + 64, 0x5a);
    packet
}
