//! Two nodes with a link over datagrams and one over a connection.

use super::*;
use crate::{
    limits::{LINK_COST, QUEUE_BYTES_MAX, STREAM_COST, STREAM_FRAME_BYTES_MAX, STREAM_QUEUES_BYTES_MAX},
    stream::{is_stream, stream_endpoint},
};

/// What the node that calls has for the connection, whichever it is.
const CALLED: SocketAddr = stream_endpoint(0, 0);

/// Node 0 calls node 1 both ways.
struct World {
    nodes: [Mesh; 2],
    now: Time,
    udp_passes: bool,
    /// The connection's number at node 1; each new connection has another. None: there is none.
    connection: Option<u32>,
    packets: [usize; 2],
    /// Datagrams of node 0 that went over UDP last.
    seen: Vec<Vec<u8>>,
    new_keys: usize,
}

impl World {
    fn new() -> Self {
        let mut nodes = [node(1), node(2)];
        nodes[0].add_peer(endpoint(1), Origin::Static, Time::ZERO);
        nodes[0].add_peer(CALLED, Origin::Static, Time::ZERO);
        let mut world = Self {
            nodes,
            now: Time::ZERO,
            udp_passes: true,
            connection: Some(1),
            packets: [0; 2],
            seen: Vec::new(),
            new_keys: 0,
        };
        world.talk(Duration::from_secs(3));
        world
    }

    fn accepted(number: u32) -> SocketAddr {
        stream_endpoint(9, number)
    }

    /// Where a datagram of a node comes from at the other, if it gets there.
    fn carried(&self, sender: usize, to: SocketAddr) -> Option<SocketAddr> {
        if !is_stream(to.ip()) {
            return self.udp_passes.then(|| endpoint(sender));
        }
        let accepted = Self::accepted(self.connection?);
        match sender {
            0 if to == CALLED => Some(accepted),
            1 if to == accepted => Some(CALLED),
            _ => None,
        }
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            for sender in 0..2 {
                while let Some(transmit) = self.nodes[sender].poll_transmit() {
                    if sender == 0 && !is_stream(transmit.to.ip()) {
                        self.seen.push(transmit.data.clone());
                    }
                    let Some(from) = self.carried(sender, transmit.to) else { continue };
                    let mut data = transmit.data;
                    let received = self.nodes[1 - sender].handle_datagram(from, &mut data, self.now);
                    self.packets[1 - sender] += usize::from(matches!(received, Received::Packet(_)));
                }
            }
            if self.nodes.iter().any(|node| !node.transmits.is_empty()) {
                continue;
            }
            for node in &mut self.nodes {
                while let Some(event) = node.poll_event() {
                    self.new_keys += usize::from(matches!(event, Event::SessionUp { .. }));
                }
            }
            let due = self.nodes.iter().filter_map(|node| Some(node.poll_timeout()?.0)).min();
            let Some(due) = due.filter(|due| *due <= end) else { break };
            self.now = self.now.max(due);
            for node in &mut self.nodes {
                node.handle_timeout(self.now);
            }
        }
        self.now = end;
    }

    /// Lets both send a packet each 20 ms; the longest time in which nothing came to node 1.
    fn talk(&mut self, duration: Duration) -> Duration {
        let end = self.now + duration;
        let (mut last, mut longest) = (self.now, Duration::ZERO);
        while self.now < end {
            let before = self.packets[1];
            for node in 0..2 {
                let packet = packet(self.nodes[node].network.host(5), self.nodes[1 - node].network.host(6));
                self.nodes[node].handle_packet(&packet, false, self.now);
            }
            self.run(Duration::from_millis(20));
            if self.packets[1] > before {
                last = self.now;
            }
            longest = longest.max(self.now.since(last));
        }
        longest
    }

    fn link(&self, node: usize, over_stream: bool) -> &Link {
        self.nodes[node].links.values().find(|link| is_stream(link.endpoint.ip()) == over_stream).expect("a link")
    }

    /// Whether the routes of both nodes to each other go over the connection.
    fn uses_stream(&self) -> [bool; 2] {
        [0, 1].map(|node| {
            let route = self.nodes[node].route_status()[0];
            is_stream(self.nodes[node].links[&route.link].endpoint.ip())
        })
    }
}

#[test]
fn datagrams_are_used_while_they_pass_and_the_connection_as_long_as_they_do_not() {
    let mut world = World::new();
    assert_eq!(world.uses_stream(), [false, false]);
    for node in 0..2 {
        assert_eq!(world.link(node, true).cost(), LINK_COST + STREAM_COST);
        assert_eq!(usize::from(world.link(node, true).mtu.datagram_bytes()), STREAM_FRAME_BYTES_MAX);
        assert!(world.nodes[node].route_status()[0].backup.is_some(), "the connection stands by");
    }
    let keys = world.new_keys;
    for _ in 0..3 {
        world.udp_passes = false;
        let pause = world.talk(Duration::from_secs(5));
        assert!(pause < Duration::from_millis(600), "{pause:?}");
        assert_eq!(world.uses_stream(), [true, true]);
        world.udp_passes = true;
        let pause = world.talk(Duration::from_secs(5));
        assert!(pause <= Duration::from_millis(40), "{pause:?}");
        assert_eq!(world.uses_stream(), [false, false]);
    }
    assert_eq!(world.new_keys, keys, "the session is the same all the time");
}

#[test]
fn an_idle_connection_is_nearly_silent() {
    let mut world = World::new();
    // Data still flows over the other link.
    world.talk(Duration::from_secs(60));
    let bytes = |world: &World| world.link(0, true).rx_bytes + world.link(0, true).tx_bytes;
    let before = bytes(&world);
    world.talk(Duration::from_secs(60));
    let spent = bytes(&world) - before;
    assert!(spent > 0 && spent < 4000, "{spent} bytes in a minute");
}

#[test]
fn a_link_follows_to_the_next_connection_with_its_keys() {
    let mut world = World::new();
    world.udp_passes = false;
    world.talk(Duration::from_secs(3));
    let (keys, links) = (world.new_keys, world.nodes[1].links.len());
    let index = *world.nodes[1].link_indices.keys().next().expect("a link");
    for number in 2..5 {
        world.connection = None;
        world.talk(Duration::from_secs(1));
        world.connection = Some(number);
        world.talk(Duration::from_secs(2));
        assert_eq!(world.link(1, true).endpoint, World::accepted(number));
        assert!(world.link(1, true).liveness.is_up() && world.link(0, true).liveness.is_up());
        let pause = world.talk(Duration::from_secs(1));
        assert!(pause <= Duration::from_millis(40), "{pause:?}");
    }
    assert_eq!((world.new_keys, world.nodes[1].links.len()), (keys, links));
    assert!(world.nodes[1].link_indices.contains_key(&index));
}

#[test]
fn nobody_is_told_the_address_of_a_connection() {
    let world = World::new();
    for node in 0..2 {
        assert_eq!(world.link(node, true).paths.observed, None);
        assert_eq!(world.link(node, false).paths.observed, Some(endpoint(node)));
    }
}

#[test]
fn a_link_over_datagrams_is_not_moved_to_a_connection() {
    let mut world = World::new();
    let stranger = stream_endpoint(77, 77);
    world.seen.clear();
    // The newest frame is caught, and comes over somebody's connection instead.
    let packet = packet(world.nodes[0].network.host(5), world.nodes[1].network.host(6));
    world.nodes[0].handle_packet(&packet, false, world.now);
    let mut caught = world.nodes[0].poll_transmit().expect("a frame").data;
    assert!(matches!(world.nodes[1].handle_datagram(stranger, &mut caught, world.now), Received::Packet(_)));
    assert!(world.nodes[1].transmits.iter().all(|transmit| transmit.to != stranger));
    world.talk(Duration::from_secs(1));
    assert_eq!(world.link(1, false).endpoint, endpoint(0));
}

#[test]
fn data_waits_for_a_full_connection_and_for_no_other() {
    let mut world = World::new();
    let held = |world: &mut World, number: u8| {
        // Another flow with each number.
        let (source, target) = (world.nodes[0].network.host(5 + u16::from(number)), world.nodes[1].network.host(6));
        let mut frame = packet(source, target);
        frame[1] |= Ecn::Capable0.bits() << 4;
        let (_, is_held, _) = seal(&mut world.nodes[0], &frame, world.now);
        is_held
    };
    world.nodes[0].hold_stream(CALLED, true);
    assert!(!held(&mut world, 0), "the way over UDP is free");
    world.nodes[0].hold_stream(endpoint(1), true);
    assert!(!held(&mut world, 0), "this is no connection");
    world.nodes[0].hold(true);
    assert!(held(&mut world, 0));
    while world.nodes[0].poll_held(world.now).is_some() {}
    world.nodes[0].hold(false);

    world.udp_passes = false;
    world.nodes[0].hold_stream(CALLED, false);
    world.talk(Duration::from_secs(3));
    assert_eq!(world.uses_stream(), [true, true]);
    world.nodes[0].hold(true);
    assert!(!held(&mut world, 0), "a full socket is of no concern");
    world.nodes[0].hold(false);
    world.nodes[0].hold_stream(CALLED, true);
    // A hundred of one flow, then one of another, which passes nearly all of them.
    assert!((0..100).all(|_| held(&mut world, 0)) && held(&mut world, 1));
    assert_eq!(world.nodes[0].held_stream(CALLED).1, 101);
    let (mut came, mut light, mut marks) = (0, None, 0);
    loop {
        let World { nodes: [a, b], now, .. } = &mut world;
        let Some(next) = a.poll_held_stream(CALLED, *now) else { break };
        assert_eq!(next.to, CALLED);
        let mut frame = next.data.to_vec();
        let Received::Packet(record) = b.handle_datagram(World::accepted(1), &mut frame, *now) else {
            panic!("not opened")
        };
        let opened = &frame[record.start..record.end];
        marks += u32::from(crate::packet::ecn(opened) == Ecn::Congested);
        if crate::packet::addresses(opened).expect("a packet").0 == a.network.host(6) {
            light = Some(came);
        }
        came += 1;
        *now = *now + Duration::from_millis(10);
    }
    assert_eq!((came, world.nodes[1].counters.dropped_replayed), (101, 0));
    assert!(light.is_some_and(|before| before < 20), "{light:?}");
    assert!(marks > 0 && u64::from(marks) == world.nodes[0].counters.queue_marked);
    assert!(held(&mut world, 0));
    // What waits for a connection that ends is dropped, and counted.
    let dropped = world.nodes[0].counters.queue_dropped_full;
    world.nodes[0].end_stream(CALLED);
    world.nodes[0].hold_stream(CALLED, false);
    assert_eq!(world.nodes[0].counters.queue_dropped_full, dropped + 1);
    assert!(!held(&mut world, 0));
}

#[test]
fn what_waits_for_all_connections_together_is_bounded() {
    let mut world = World::new();
    world.udp_passes = false;
    world.talk(Duration::from_secs(3));
    let a = &mut world.nodes[0];
    a.hold_stream(CALLED, true);
    let large = {
        let mut large = packet(a.network.host(5), world.nodes[1].network.host(6));
        large.resize(1300, 0);
        large[4..6].copy_from_slice(&1260_u16.to_be_bytes());
        large
    };
    let a = &mut world.nodes[0];
    for _ in 0..1000 {
        assert!(seal(a, &large, world.now).1);
    }
    let before = a.held_stream(CALLED).0;
    assert!(before > 1_300_000 && before <= QUEUE_BYTES_MAX);
    // Many others fill up too: each has a part.
    for number in 0..63 {
        a.hold_stream(stream_endpoint(9, number), true);
    }
    let after = a.held_stream(CALLED).0;
    assert!(after > 0 && after <= STREAM_QUEUES_BYTES_MAX / 64, "{after}");
    for number in 0..63 {
        a.hold_stream(stream_endpoint(9, number), false);
    }
    assert_eq!(a.stream_queues.len(), 1);
}
