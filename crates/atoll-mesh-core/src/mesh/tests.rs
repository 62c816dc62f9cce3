//! Two nodes, one of which lies: what only the inside of a node can send.

mod ipv4;
mod learned;
mod streams;

use std::net::Ipv4Addr;

use super::*;
use crate::wire::data::{Body, HEADROOM_BYTES, OVERHEAD_BYTES, RecordFlags, Steering};

const REGION: RegionId = RegionId([7; 32]);
/// Largest packet between two nodes whose wire takes everything.
const LARGEST: usize = 8952 - OVERHEAD_BYTES;

struct Pair {
    nodes: [Mesh; 2],
    now: Time,
    /// Packets that came out of each.
    out: [Vec<Vec<u8>>; 2],
}

fn endpoint(index: usize) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(192, 0, 2, index as u8).into(), 4870)
}

fn node(seed: u8) -> Mesh {
    let settings = Settings {
        secret: NodeSecret::from_seed([seed; 32]),
        region: REGION,
        seed: [seed; 32],
        kem: Box::new(crate::kem::AwsLcKem),
        epoch: 1,
        tuning: Tuning::default(),
    };
    Mesh::new(settings, Time::ZERO)
}

impl Pair {
    /// Two nodes that never met.
    fn strangers() -> Self {
        Self { nodes: [node(1), node(2)], now: Time::ZERO, out: Default::default() }
    }

    /// Two nodes with a link, and no session yet.
    fn neighbours() -> Self {
        let mut pair = Self::strangers();
        pair.nodes[0].add_peer(endpoint(1), Origin::Static, Time::ZERO);
        pair.run(Duration::from_millis(100));
        pair
    }

    /// Two nodes with a link and a session.
    fn new() -> Self {
        let mut pair = Self::neighbours();
        let packet = pair.packet(0, 1);
        assert_eq!(pair.exchange(0, &packet), [packet]);
        pair
    }

    fn packet(&self, source: usize, target: usize) -> Vec<u8> {
        packet(self.nodes[source].network.host(5), self.nodes[target].network.host(6))
    }

    /// What comes out at the other node after a packet went in at this one.
    fn exchange(&mut self, node: usize, packet: &[u8]) -> Vec<Vec<u8>> {
        self.nodes[node].handle_packet(packet, false, self.now);
        self.run(Duration::from_millis(100));
        core::mem::take(&mut self.out[1 - node])
    }

    /// Lets both exchange datagrams, without loss or delay.
    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            for sender in 0..2 {
                while let Some(transmit) = self.nodes[sender].poll_transmit() {
                    let mut data = transmit.data;
                    let received = self.nodes[1 - sender].handle_datagram(endpoint(sender), &mut data, self.now);
                    if let Received::Packet(record) = received {
                        self.out[1 - sender].push(data[record.start..record.end].to_vec());
                    }
                }
            }
            if self.nodes.iter().any(|node| !node.transmits.is_empty()) {
                continue;
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
}

fn packet(source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 4, 17, 64];
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&target.octets());
    packet.extend_from_slice(&[1, 2, 3, 4]);
    packet
}

#[test]
fn nobody_speaks_in_anothers_name_or_to_a_third() {
    let mut pair = Pair::new();
    let (own, other) = (pair.nodes[0].network, pair.nodes[1].network);
    let third = node(3).network;
    // The liar's own check is what an honest node has; here it is passed by.
    for lie in [
        packet(other.host(5), other.host(6)),
        packet(third.host(1), other.host(6)),
        packet("2001:db8::1".parse().expect("an address"), other.host(6)),
        packet(own.host(5), third.host(6)),
        packet(own.host(5), own.host(6)),
        packet(own.host(5), "ff02::1".parse().expect("an address")),
    ] {
        let before = pair.nodes[1].counters.dropped_wrong_address;
        let now = pair.now;
        pair.nodes[0].send_sealed(other, &lie, false, now);
        pair.run(Duration::from_millis(10));
        assert_eq!(pair.out[1], Vec::<Vec<u8>>::new());
        assert_eq!(pair.nodes[1].counters.dropped_wrong_address, before + 1);
    }
    let now = pair.now;
    pair.nodes[0].send_sealed(other, &[0x45; 40], false, now);
    pair.run(Duration::from_millis(10));
    assert_eq!((pair.out[1].len(), pair.nodes[1].counters.dropped_malformed), (0, 1));
}

#[test]
fn an_exit_takes_and_brings_back_what_is_outside() {
    let mut pair = Pair::new();
    let (user, exit) = (pair.nodes[0].network, pair.nodes[1].network);
    let far: Ipv6Addr = "2001:db8::1".parse().expect("an address");
    let id = |seed| NodeSecret::from_seed([seed; 32]).id();
    let (out, back) = (packet(user.node(), far), packet(far, user.node()));
    let none: [Vec<u8>; 0] = [];
    assert_eq!(pair.exchange(0, &out), none, "no exit is used");
    assert_eq!(pair.nodes[0].reaches_exit(), None);
    pair.nodes[0].use_exit(Some(id(2)));
    assert_eq!(pair.nodes[0].reaches_exit(), Some(true));
    let before = pair.nodes[1].counters.dropped_wrong_address;
    assert_eq!(pair.exchange(0, &out), none, "the other is no exit");
    assert_eq!(pair.nodes[1].counters.dropped_wrong_address, before + 1);

    let offer = |guests| Some(crate::exit::Offer { guests, to: Vec::new() });
    pair.nodes[1].set_exit_offer(offer(crate::exit::Guests::Nodes(BTreeSet::from([id(3)]))));
    assert_eq!(pair.exchange(0, &out), none, "an exit for another");
    assert_eq!(pair.exchange(1, &back), none);
    pair.nodes[1].set_exit_offer(offer(crate::exit::Guests::Nodes(BTreeSet::from([id(1)]))));
    assert_eq!(pair.exchange(0, &out), core::slice::from_ref(&out));
    assert_eq!(pair.exchange(1, &back), core::slice::from_ref(&back));
    let now = pair.now;
    assert!(pair.nodes[0].sealer(&out, out.len(), now).is_some(), "also the fast way");
    let borrowed = packet(node(3).network.node(), far);
    assert!(pair.nodes[0].sealer(&borrowed, borrowed.len(), now).is_none());

    // What a dishonest end sends.
    for (sender, network, lie) in [
        (0, exit, borrowed),
        (0, exit, packet(user.node(), "fd00::1".parse().expect("an address"))),
        (0, exit, packet(far, exit.node())),
        (1, user, packet(far, user.host(5))),
        (1, user, packet("fd00::1".parse().expect("an address"), user.node())),
    ] {
        let before = pair.nodes[1 - sender].counters.dropped_wrong_address;
        let now = pair.now;
        pair.nodes[sender].send_sealed(network, &lie, false, now);
        pair.run(Duration::from_millis(10));
        assert_eq!(pair.out[1 - sender], none);
        assert_eq!(pair.nodes[1 - sender].counters.dropped_wrong_address, before + 1);
    }
    pair.nodes[0].use_exit(None);
    assert_eq!(pair.exchange(1, &back), none, "a user that has left its exit");
}

#[test]
fn what_should_not_enter_the_mesh_is_dropped_at_once() {
    let mut pair = Pair::new();
    let own = pair.nodes[0].network;
    let other = pair.nodes[1].network;
    for wrong in [
        packet(other.host(1), other.host(6)),
        packet(own.host(1), own.host(6)),
        packet(own.host(1), "2001:db8::1".parse().expect("an address")),
        b"\x45not six".to_vec(),
        vec![],
    ] {
        assert_eq!(pair.exchange(0, &wrong), Vec::<Vec<u8>>::new());
    }
    let mut big = packet(own.host(1), other.host(6));
    // These two find the largest size that is worth a probe.
    big.resize(LARGEST + 1, 0);
    let length = u16::try_from(big.len() - 40).expect("fits");
    big[4..6].copy_from_slice(&length.to_be_bytes());
    assert_eq!(pair.exchange(0, &big), Vec::<Vec<u8>>::new());
    assert_eq!(pair.nodes[0].counters.dropped_too_big, 1);
    let error = pair.nodes[0].poll_packet().expect("an ICMPv6 error");
    assert_eq!((error[40], &error[44..48]), (2, &(LARGEST as u32).to_be_bytes()[..]));
    // No route: the program is told at once.
    let nowhere = packet(own.host(1), node(9).network.host(1));
    pair.nodes[0].handle_packet(&nowhere, false, pair.now);
    let error = pair.nodes[0].poll_packet().expect("an ICMPv6 error");
    assert_eq!((error[6], error[40]), (58, 1));
}

#[test]
fn packets_that_wait_for_a_handshake_are_bounded() {
    let mut pair = Pair::neighbours();
    let packet = pair.packet(0, 1);
    let now = pair.now;
    for _ in 0..1000 {
        pair.nodes[0].handle_packet(&packet, false, now);
    }
    pair.run(Duration::from_millis(10));
    assert_eq!(pair.out[1].len(), crate::limits::QUEUED_PACKETS_MAX);
}

#[test]
fn a_link_that_carries_the_handshake_of_a_session_is_watched() {
    let mut pair = Pair::neighbours();
    pair.run(Duration::from_secs(60));
    let packet = pair.packet(0, 1);
    let (caller, begun) = (&mut pair.nodes[0], pair.now);
    caller.handle_packet(&packet, false, begun);
    // From here on nothing arrives any more.
    while caller.link_status().iter().any(|link| link.is_up) {
        while caller.poll_transmit().is_some() {}
        pair.now = caller.poll_timeout().expect("it waits for something").0;
        caller.handle_timeout(pair.now);
    }
    assert!(pair.now.since(begun) < Duration::from_millis(500), "it took {:?}", pair.now.since(begun));
}

#[test]
fn forged_beacons_leave_room_for_configured_neighbours() {
    let mut node = node(1);
    let beacon = Beacon { region: RegionPrefix::of(REGION), port: 4870, hash: [1; 8] };
    for from in 0..10_000u32 {
        let forged = SocketAddr::new(Ipv4Addr::from_bits(from).into(), 4869);
        node.handle_beacon(forged, &beacon, Time::ZERO);
    }
    assert_eq!(node.link_status().len(), DISCOVERED_LINKS_MAX);
    assert!(node.add_peer(endpoint(1), Origin::Static, Time::ZERO));
    node.handle_beacon(endpoint(9), &Beacon { region: RegionPrefix([0xfd, 0, 0, 0, 0, 0]), ..beacon }, Time::ZERO);
    assert_eq!(node.counters.beacons_of_other_regions, 1);
}

#[test]
fn a_neighbour_that_is_configured_no_more_forgets_the_link_unless_it_calls_itself() {
    let mut pair = Pair::new();
    assert_eq!(pair.nodes.each_ref().map(|node| node.link_status().len()), [1, 1]);
    pair.nodes[0].close_peer(endpoint(1), pair.now);
    assert!(pair.nodes[0].link_status().is_empty());
    pair.run(Duration::from_millis(100));
    assert!(pair.nodes[1].link_status().is_empty(), "it was called, and is told");
    pair.run(Duration::from_secs(60));
    assert!(pair.nodes.iter().all(|node| node.link_status().is_empty()), "nobody calls any more");

    let mut pair = Pair::new();
    pair.nodes[1].add_peer(endpoint(0), Origin::Static, pair.now);
    pair.run(Duration::from_millis(100));
    pair.nodes[0].close_peer(endpoint(1), pair.now);
    pair.run(Duration::from_secs(20));
    assert!(pair.nodes[1].link_status().iter().any(|link| link.is_up), "it wants the link itself");
    // Whom nobody knows cannot be forgotten.
    pair.nodes[0].close_peer(endpoint(7), pair.now);
    assert!(!pair.nodes[0].link_status().is_empty());
}

#[test]
fn the_fast_path_and_the_slow_one_make_the_same_packets() {
    let mut pair = Pair::new();
    let packet = pair.packet(0, 1);
    let now = pair.now;
    let Pair { nodes: [a, b], .. } = &mut pair;
    let mut sealer = a.sealer(&packet, packet.len(), now).expect("there is a session");
    assert_eq!(sealer.to(), endpoint(1));
    let mut counters = Vec::new();
    for continues in [false, true] {
        let mut frame = vec![0; packet.len() + OVERHEAD_BYTES];
        frame[HEADROOM_BYTES..][..packet.len()].copy_from_slice(&packet);
        let flags = RecordFlags { continues, partial_checksum: true };
        sealer.seal(&mut frame, flags);
        let (mut again, mut cut) = (frame.clone(), frame.clone());
        let Received::Packet(record) = b.handle_datagram(endpoint(0), &mut frame, now) else { panic!("not opened") };
        assert_eq!((&frame[record.start..record.end], record.flags), (&packet[..], flags));
        counters.push(record.counter);
        let before = b.counters.clone();
        assert_eq!(b.handle_datagram(endpoint(0), &mut again, now), Received::Done);
        cut.truncate(cut.len() - 1);
        cut[8] ^= 1; // A counter that is fresh.
        assert_eq!(b.handle_datagram(endpoint(0), &mut cut, now), Received::Done);
        assert_eq!(b.counters.dropped_replayed, before.dropped_replayed + 1);
    }
    assert_eq!(counters[1], counters[0] + 1);
    assert!(a.sealer(&packet, LARGEST + 1, now).is_none(), "too large for the path");
    assert!(a.sealer(&[0x45; 60], 60, now).is_none(), "no IPv6");
}

#[test]
fn every_bit_of_a_data_frame_counts() {
    let mut pair = Pair::new();
    let packet = pair.packet(0, 1);
    let now = pair.now;
    let [a, b] = &mut pair.nodes;
    let mut sealer = a.sealer(&packet, packet.len(), now).expect("there is a session");
    let mut frame = vec![0; packet.len() + OVERHEAD_BYTES];
    frame[HEADROOM_BYTES..][..packet.len()].copy_from_slice(&packet);
    sealer.seal(&mut frame, RecordFlags::default());
    for bit in 0..frame.len() * 8 {
        let mut flipped = frame.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(b.handle_datagram(endpoint(0), &mut flipped, now), Received::Done, "bit {bit}");
        while b.poll_transmit().is_some() {}
    }
}

/// A packet of a TCP-like flow with these congestion bits, which has `bytes` in all.
fn packet_ecn(pair: &Pair, ecn: Ecn, bytes: usize) -> Vec<u8> {
    let mut packet = pair.packet(0, 1);
    packet.resize(bytes, 0);
    packet[1] |= ecn.bits() << 4;
    packet[4..6].copy_from_slice(&u16::try_from(bytes - 40).expect("short").to_be_bytes());
    packet
}

/// Seals a packet at the first node into a frame of the caller's.
fn seal(node: &mut Mesh, packet: &[u8], now: Time) -> (Vec<u8>, bool, Ecn) {
    let mut sealer = node.sealer(packet, packet.len(), now).expect("there is a session");
    let mut frame = vec![0; packet.len() + OVERHEAD_BYTES];
    frame[HEADROOM_BYTES..][..packet.len()].copy_from_slice(packet);
    sealer.seal(&mut frame, RecordFlags::default());
    let (is_held, ecn) = (sealer.is_held(), sealer.ecn());
    (frame, is_held, ecn)
}

#[test]
fn marks_of_the_network_below_reach_the_packet() {
    let all = [Ecn::NotCapable, Ecn::Capable1, Ecn::Capable0, Ecn::Congested];
    let mut pair = Pair::new();
    for inner in all {
        for outer in all {
            let packet = packet_ecn(&pair, inner, 100);
            let now = pair.now;
            let [a, b] = &mut pair.nodes;
            let (mut frame, _, ecn) = seal(a, &packet, now);
            assert_eq!(ecn, inner, "the outer header has what the inner one has");
            let dropped = b.counters.dropped_wrong_mark;
            let received = b.handle_datagram_ecn(endpoint(0), outer, &mut frame, now);
            match inner.out_of(outer) {
                Some(expected) => {
                    let Received::Packet(record) = received else { panic!("not opened") };
                    let opened = &frame[record.start..record.end];
                    assert_eq!(crate::packet::ecn(opened), expected);
                    assert_eq!((opened[0], opened[1] & !0x30, &opened[2..]), (0x60, 0, &packet[2..]));
                }
                None => assert_eq!((received, b.counters.dropped_wrong_mark), (Received::Done, dropped + 1)),
            }
        }
    }
}

#[test]
fn data_waits_for_a_full_socket_and_control_does_not() {
    let mut pair = Pair::new();
    let packets: Vec<_> = (0..400).map(|_| packet_ecn(&pair, Ecn::Capable0, 1300)).collect();
    let Pair { nodes: [a, b], now, .. } = &mut pair;
    let sent = a.counters.tx_datagrams;
    a.hold(true);
    for packet in &packets {
        assert!(seal(a, packet, *now).1, "it waits");
    }
    assert_eq!((a.held().1, a.poll_transmit(), a.counters.tx_datagrams), (400, None, sent));
    a.handle_refused(endpoint(1), *now);
    // A probe becomes due meanwhile, and is there at once.
    *now = *now + Duration::from_secs(4);
    a.handle_timeout(*now);
    assert!(a.poll_transmit().is_some(), "a probe does not wait");
    // The socket takes a frame each 2 ms: the flow is told to slow down by marks, and nothing is dropped.
    let mut marks = 0;
    let mut count = 0;
    while let Some(held) = a.poll_held(*now) {
        assert_eq!(held.to, endpoint(1));
        let (mut frame, ecn) = (held.data.to_vec(), held.ecn);
        // The steering's own bits carry the mark, whatever the network below does with the outer ones.
        let Received::Packet(record) = b.handle_datagram(endpoint(0), &mut frame, *now) else { panic!("not opened") };
        let inner = crate::packet::ecn(&frame[record.start..record.end]);
        assert_eq!(inner, ecn);
        marks += u64::from(inner == Ecn::Congested);
        count += 1;
        *now = *now + Duration::from_millis(2);
    }
    assert_eq!((count, marks), (400, a.counters.queue_marked));
    assert!(marks > 3, "{marks}");
    assert_eq!((a.counters.queue_dropped_late, b.counters.dropped_replayed, a.held()), (0, 0, (0, 0)));
    assert!(a.counters.tx_datagrams >= sent + 400);
    a.hold(false);
    let (mut frame, is_held, _) = seal(a, &packets[0], *now);
    assert!(!is_held && matches!(b.handle_datagram(endpoint(0), &mut frame, *now), Received::Packet(_)));
}

#[test]
fn a_message_between_nodes_waits_for_a_full_socket_like_data() {
    let mut pair = Pair::new();
    let network = pair.nodes[1].network();
    let Pair { nodes: [a, b], now, .. } = &mut pair;
    a.hold(true);
    a.send_message(network, &[9; 40], crate::limits::HOP_LIMIT, *now).expect("there are keys");
    assert_eq!(a.poll_transmit(), None, "nothing goes past the queue");
    let mut frame = a.poll_held(*now).expect("it waits").data.to_vec();
    let _ = b.handle_datagram(endpoint(0), &mut frame, *now);
    assert_eq!((b.counters.dropped_forged, b.counters.dropped_malformed), (0, 1), "it opened, and means nothing");
}

#[test]
fn only_who_saw_a_record_says_that_it_ran_out_of_hops_there() {
    let mut pair = Pair::new();
    let (own, other, third) = (pair.nodes[0].network, pair.nodes[1].network, node(3).network);
    let mut packet = pair.packet(0, 1);
    packet[7] = 3;
    assert!(pair.nodes[0].sealer(&packet, packet.len(), pair.now).is_none(), "a note is to be kept of it");
    // The other end tells lies, and then the truth, each of a packet of its own.
    let mut tell = |relay: MeshAddr, is_known: bool, is_signed: bool| {
        assert_eq!(pair.exchange(0, &packet), [packet.clone()]);
        let record = pair.nodes[0].traces.last_noted(own, other);
        let record = if is_known { record } else { Steering { counter: record.counter + 9, ..record } };
        let signature = if is_signed { pair.nodes[1].sign_expired(&record, relay) } else { [7; 64] };
        let said = Steering { source: relay, target: own, body: Body::Expired, ..record };
        let now = pair.now;
        assert!(pair.nodes[1].send_steered(&said, &signature, now));
        pair.run(Duration::from_millis(1));
        let counters = &pair.nodes[0].counters;
        (pair.nodes[0].packets.pop_front(), counters.dropped_forged, counters.dropped_unknown_session)
    };
    assert_eq!(tell(other, true, false), (None, 1, 0), "a signature that is none");
    assert_eq!(tell(other, false, true), (None, 1, 1), "no such record was sent");
    // Nobody announced that network here (it may be of another region): there is no key to check.
    let (error, ..) = tell(third, true, false);
    assert_eq!(crate::packet::addresses(&error.expect("an ICMPv6 error")), Some((third.node(), own.host(5))));
    let (error, ..) = tell(other, true, true);
    let error = error.expect("an ICMPv6 error");
    assert_eq!(crate::packet::addresses(&error), Some((other.node(), own.host(5))));
    assert_eq!((error[40], error[41], &error[48..]), (3, 0, &packet[..]));
    // Nothing is said of what may go as far as it likes.
    packet[7] = 64;
    let before = pair.nodes[0].traces.notes();
    assert_eq!(pair.exchange(0, &packet), [packet]);
    assert_eq!(pair.nodes[0].traces.notes(), before);
}

#[test]
fn notes_of_packets_are_bounded() {
    let mut pair = Pair::new();
    let mut packet = pair.packet(0, 1);
    packet[7] = 1;
    let now = pair.now;
    for _ in 0..1000 {
        pair.nodes[0].handle_packet(&packet, false, now);
        while pair.nodes[0].poll_transmit().is_some() {}
    }
    assert_eq!(pair.nodes[0].traces.notes(), crate::limits::TRACE_NOTES_MAX);
}
