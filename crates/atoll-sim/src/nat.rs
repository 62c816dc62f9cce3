//! Nodes behind NATs, with more than one address, and on the move.
//!
//! Every node has addresses; the first two bytes of an IPv4 address are its local network. What leaves such a network
//! for another goes through its NAT, if it has one. Translations follow RFC 4787: how the outer port is chosen, and who
//! may answer to it.

use core::time::Duration;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use atoll_base::{MeshAddr, NodeId, NodeSecret};
use atoll_mesh_core::{Event, Mesh, Origin, Received, Settings, Time, Transmit, Tuning};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;

use crate::{kem::SeededKem, mesh::REGION};

/// How a NAT translates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One outer port for each inner endpoint; whoever sends there gets in.
    FullCone,
    /// The same; only those addresses get in to which something was sent.
    AddressRestricted,
    /// The same; only those endpoints get in to which something was sent.
    PortRestricted,
    /// Another random outer port for each far endpoint, which alone gets in.
    Symmetric,
}

/// All kinds.
pub const KINDS: [Kind; 4] = [Kind::FullCone, Kind::AddressRestricted, Kind::PortRestricted, Kind::Symmetric];

/// What stands for the far endpoint in a table, as far as the outer port depends on it.
type Far = Option<SocketAddr>;

struct Nat {
    kind: Kind,
    outer: Ipv4Addr,
    /// Outer port of an inner endpoint.
    ports: BTreeMap<(SocketAddr, Far), u16>,
    inner: BTreeMap<u16, SocketAddr>,
    /// Far endpoints to which something was sent from an outer port.
    sent: BTreeSet<(u16, SocketAddr)>,
}

struct Node {
    secret: NodeSecret,
    network: MeshAddr,
    mesh: Mesh,
    addresses: Vec<Ipv4Addr>,
}

/// A datagram on its way.
#[derive(Debug, Clone)]
struct Flying {
    from: SocketAddr,
    to: SocketAddr,
    data: Vec<u8>,
}

/// The world.
pub struct NatWorld {
    rng: ChaCha20Rng,
    now: Time,
    nodes: Vec<Node>,
    nats: BTreeMap<[u8; 2], Nat>,
    /// Share of datagrams that are lost.
    pub loss: f64,
    /// How long a datagram takes between two local networks, at least.
    pub delay: Duration,
    in_flight: BTreeMap<(Time, u64), Flying>,
    next: u64,
    packets: BTreeMap<u64, (usize, usize, bool)>,
    /// Datagrams that were sent to an address: how many, and their bytes.
    pub sent_to: BTreeMap<IpAddr, (u64, u64)>,
    /// Datagrams that are sent on to this endpoint from another address, as by somebody on the wire.
    pub forward: Option<(SocketAddr, SocketAddr)>,
    /// What happened.
    pub events: Vec<(usize, Time, Event)>,
}

const PORT: u16 = 4870;

fn site(address: Ipv4Addr) -> [u8; 2] {
    [address.octets()[0], address.octets()[1]]
}

fn v4(endpoint: SocketAddr) -> Option<Ipv4Addr> {
    if let IpAddr::V4(v4) = endpoint.ip() { Some(v4) } else { None }
}

impl Nat {
    /// Translates what leaves; the outer endpoint.
    fn leave(&mut self, inner: SocketAddr, far: SocketAddr, rng: &mut ChaCha20Rng) -> SocketAddr {
        let key = (inner, (self.kind == Kind::Symmetric).then_some(far));
        let port = *self.ports.entry(key).or_insert_with(|| {
            loop {
                let port = rng.random_range(1024..=u16::MAX);
                if !self.inner.contains_key(&port) {
                    break port;
                }
            }
        });
        self.inner.insert(port, inner);
        self.sent.insert((port, far));
        SocketAddr::new(self.outer.into(), port)
    }

    /// Translates what comes in; the inner endpoint, if it is let in.
    fn enter(&self, port: u16, far: SocketAddr) -> Option<SocketAddr> {
        let inner = *self.inner.get(&port)?;
        let is_allowed = match self.kind {
            Kind::FullCone => true,
            Kind::AddressRestricted => self.sent.iter().any(|(own, to)| *own == port && to.ip() == far.ip()),
            Kind::PortRestricted | Kind::Symmetric => self.sent.contains(&(port, far)),
        };
        is_allowed.then_some(inner)
    }
}

impl NatWorld {
    /// A world without nodes.
    pub fn new(seed: u64) -> Self {
        Self {
            rng: ChaCha20Rng::seed_from_u64(seed),
            now: Time::ZERO,
            nodes: Vec::new(),
            nats: BTreeMap::new(),
            loss: 0.0,
            delay: Duration::from_millis(10),
            in_flight: BTreeMap::new(),
            next: 0,
            packets: BTreeMap::new(),
            sent_to: BTreeMap::new(),
            forward: None,
            events: Vec::new(),
        }
    }

    /// The time.
    pub const fn now(&self) -> Time {
        self.now
    }

    /// A random number below `bound`.
    pub fn random(&mut self, bound: u32) -> u32 {
        self.rng.random_range(0..bound)
    }

    /// Adds a node with these addresses; its number.
    pub fn add(&mut self, addresses: &[Ipv4Addr]) -> usize {
        let secret = NodeSecret::from_seed(self.rng.random());
        let settings = Settings {
            secret: secret.clone(),
            region: REGION,
            seed: self.rng.random(),
            kem: Box::new(SeededKem::new(self.rng.random())),
            epoch: 1_000_000,
            tuning: Tuning::default(),
        };
        let mesh = Mesh::new(settings, self.now);
        let network = MeshAddr::of(REGION, secret.id());
        self.nodes.push(Node { secret, network, mesh, addresses: addresses.to_vec() });
        let node = self.nodes.len() - 1;
        self.tell_addresses(node);
        node
    }

    /// Puts a NAT before a local network.
    pub fn add_nat(&mut self, inside: Ipv4Addr, outer: Ipv4Addr, kind: Kind) {
        let (ports, inner, sent) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        self.nats.insert(site(inside), Nat { kind, outer, ports, inner, sent });
    }

    /// A node has other addresses from now on; its operating system says so, or not.
    pub fn move_to(&mut self, node: usize, addresses: &[Ipv4Addr], is_told: bool) {
        self.nodes[node].addresses = addresses.to_vec();
        if is_told {
            self.tell_addresses(node);
            let now = self.now;
            self.nodes[node].mesh.handle_address_change(now);
            self.settle(node);
        }
    }

    /// A node calls an address.
    pub fn call(&mut self, node: usize, address: Ipv4Addr) {
        let now = self.now;
        self.nodes[node].mesh.add_peer(SocketAddr::new(address.into(), PORT), Origin::Static, now);
        self.settle(node);
    }

    /// A node.
    pub fn mesh(&mut self, node: usize) -> &mut Mesh {
        &mut self.nodes[node].mesh
    }

    /// Identity of a node.
    pub fn id(&self, node: usize) -> NodeId {
        self.nodes[node].secret.id()
    }

    /// Links over which a node goes to another; one if it is direct.
    pub fn hops(&self, source: usize, target: usize) -> Option<u8> {
        let target = self.id(target);
        let routes = self.nodes[source].mesh.route_status();
        routes.iter().find(|route| route.node == target).map(|route| route.hops)
    }

    /// Sends a packet; its number.
    pub fn send(&mut self, source: usize, target: usize) -> u64 {
        let number = self.packets.len() as u64;
        self.packets.insert(number, (source, target, false));
        let packet = packet(self.nodes[source].network, self.nodes[target].network, number);
        let now = self.now;
        self.nodes[source].mesh.handle_packet(&packet, false, now);
        self.settle(source);
        number
    }

    /// Whether a packet came out.
    pub fn arrived(&self, number: u64) -> bool {
        self.packets[&number].2
    }

    /// Sends a packet each way every 20 ms; the longest time for which none arrived that was sent, and how many did not.
    pub fn talk(&mut self, a: usize, b: usize, duration: Duration) -> (Duration, usize) {
        let step = Duration::from_millis(20);
        let start = self.now;
        let mut sent = Vec::new();
        while self.now.since(start) < duration {
            sent.push((self.now, self.send(a, b), self.send(b, a)));
            self.run_for(step);
        }
        self.run_for(Duration::from_millis(300));
        let (mut gap, mut longest, mut lost) = (Duration::ZERO, Duration::ZERO, 0);
        for (_, there, back) in sent {
            let count = usize::from(!self.arrived(there)) + usize::from(!self.arrived(back));
            lost += count;
            gap = if count > 0 { gap + step } else { Duration::ZERO };
            longest = longest.max(gap);
        }
        (longest, lost)
    }

    /// Lets time pass.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let arrival = self.in_flight.first_key_value().map(|((at, _), _)| *at);
            let timers = self.nodes.iter().enumerate();
            let timer = timers.filter_map(|(index, node)| Some((node.mesh.poll_timeout()?.0, index))).min();
            match (arrival, timer) {
                (Some(at), timer) if at <= end && timer.is_none_or(|(due, _)| at <= due) => {
                    self.now = self.now.max(at);
                    if let Some((_, flying)) = self.in_flight.pop_first() {
                        self.arrive(flying);
                    }
                }
                (_, Some((due, index))) if due <= end => {
                    self.now = self.now.max(due);
                    let now = self.now;
                    self.nodes[index].mesh.handle_timeout(now);
                    self.settle(index);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    fn tell_addresses(&mut self, node: usize) {
        let Node { mesh, addresses, .. } = &mut self.nodes[node];
        let endpoints: Vec<_> = addresses.iter().map(|ip| SocketAddr::new((*ip).into(), PORT)).collect();
        mesh.set_local_endpoints(&endpoints);
    }

    fn transmit(&mut self, source: usize, transmit: &Transmit) {
        let Transmit { to, ref data, hops_max } = *transmit;
        let Some(target) = v4(to) else { return };
        let count = self.sent_to.entry(to.ip()).or_default();
        *count = (count.0 + 1, count.1 + data.len() as u64);
        let addresses = &self.nodes[source].addresses;
        let near = addresses.iter().find(|own| site(**own) == site(target)).copied();
        let Some(own) = near.or(addresses.first().copied()) else { return };
        let mut from = SocketAddr::new(own.into(), PORT);
        // Private networks that are not the own one lead nowhere.
        let is_private = |ip: Ipv4Addr| ip.is_private();
        if near.is_none() {
            match self.nats.get_mut(&site(own)) {
                Some(nat) if !is_private(target) => from = nat.leave(from, to, &mut self.rng),
                _ if is_private(own) || is_private(target) => return,
                _ => {}
            }
        }
        if near.is_none() && hops_max.is_some() {
            return;
        }
        if let Some((victim, attacker)) = self.forward
            && from == victim
        {
            // Faster than the wire.
            self.fly(Flying { from: attacker, to, data: data.clone() }, Duration::from_millis(1));
        }
        if self.rng.random_bool(self.loss) {
            return;
        }
        let delay = if near.is_some() { Duration::from_millis(1) } else { self.delay };
        let jitter = Duration::from_micros(self.rng.random_range(0..2000));
        self.fly(Flying { from, to, data: data.clone() }, delay + jitter);
    }

    fn fly(&mut self, flying: Flying, delay: Duration) {
        self.next += 1;
        self.in_flight.insert((self.now + delay, self.next), flying);
    }

    fn arrive(&mut self, Flying { from, to, mut data }: Flying) {
        if let Some((victim, attacker)) = self.forward
            && to == attacker
        {
            // Sent on to whom it is for.
            return self.fly(Flying { from, to: victim, data }, Duration::from_millis(1));
        }
        let nat = self.nats.values().find(|nat| IpAddr::from(nat.outer) == to.ip());
        let Some(to) = nat.map_or(Some(to), |nat| nat.enter(to.port(), from)) else { return };
        let here = |node: &Node| node.addresses.iter().any(|own| IpAddr::from(*own) == to.ip()) && to.port() == PORT;
        let Some(target) = self.nodes.iter().position(here) else { return };
        let now = self.now;
        match self.nodes[target].mesh.handle_datagram(from, &mut data, now) {
            Received::Done => {}
            Received::Packet(record) => self.deliver(target, &data[record.start..record.end]),
            Received::Relay { to, .. } => self.transmit(target, &Transmit { to, data, hops_max: None }),
        }
        self.settle(target);
    }

    /// Drains what a node has to say.
    fn settle(&mut self, index: usize) {
        loop {
            let mesh = &mut self.nodes[index].mesh;
            if let Some(transmit) = mesh.poll_transmit() {
                self.transmit(index, &transmit);
            } else if let Some(packet) = mesh.poll_packet() {
                self.deliver(index, &packet);
            } else if let Some(event) = mesh.poll_event() {
                self.events.push((index, self.now, event));
            } else {
                return;
            }
        }
    }

    fn deliver(&mut self, node: usize, bytes: &[u8]) {
        const ICMP: u8 = 58;
        if bytes[6] == ICMP {
            return;
        }
        let number = u64::from_be_bytes(bytes[40..48].try_into().expect("the packets of this world are longer"));
        let (source, target, arrived) = self.packets[&number];
        assert_eq!(bytes, packet(self.nodes[source].network, self.nodes[target].network, number), "came out changed");
        assert!(target == node && !arrived, "packet {number} came out twice, or elsewhere");
        self.packets.insert(number, (source, target, true));
    }
}

/// A packet with a number.
fn packet(source: MeshAddr, target: MeshAddr, number: u64) -> Vec<u8> {
    const UDP: u8 = 17;
    let mut packet = vec![0x60, 0, 0, 0, 0, 64, UDP, 64];
    packet.extend_from_slice(&source.node().octets());
    packet.extend_from_slice(&target.node().octets());
    packet.extend_from_slice(&number.to_be_bytes());
    packet.resize(40 + 64, 0x5a);
    packet
}
