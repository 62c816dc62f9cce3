//! Where packets run out of hops, and who says so.

use core::time::Duration;

use atoll_base::NodeId;
use atoll_mesh_core::{
    Event, ProbeError,
    limits::{TRACE_ANSWERS_PER_SECOND_MAX, TRACE_HOPS_MAX},
};
use atoll_sim::mesh::{LAN, REGION, World, line};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

/// Who answers a probe that may take so many links: its node, whether it is the target, and the round trip.
fn answer(world: &mut World, source: usize, target: usize, hop_limit: u8) -> Option<(Option<NodeId>, bool, Duration)> {
    let before = world.events.len();
    let sent = world.probe(source, target, hop_limit).expect("it is sent");
    world.run_for(100 * MS);
    world.events[before..].iter().find_map(|(index, _, event)| match event {
        Event::Answered { probe, node, is_target, round_trip, network } if *index == source && *probe == sent => {
            assert!(node.is_none_or(|node| atoll_base::MeshAddr::of(REGION, node) == *network));
            Some((*node, *is_target, *round_trip))
        }
        _ => None,
    })
}

/// A line of nodes, the ends of which have keys.
fn ready(seed: u64, count: usize) -> World {
    let mut world = World::new(seed);
    line(&mut world, count, LAN);
    world.run_for(S);
    let address = world.network(count - 1).node();
    assert_eq!(world.mesh(0).expect("runs").links_to(address), Some(count as u8 - 1));
    assert_eq!(world.probe(0, count - 1, 64), Err(ProbeError::NoKeys), "a handshake begins");
    world.run_for(100 * MS);
    world
}

#[test]
fn each_hop_of_a_line_answers_with_its_name_and_round_trip() {
    let mut world = ready(1, 6);
    for hop in 1..=5 {
        let (node, is_target, round_trip) = answer(&mut world, 0, 5, hop).expect("an answer");
        assert_eq!((node, is_target), (Some(world.id(usize::from(hop))), hop == 5));
        assert_eq!(round_trip, LAN.delay * 2 * u32::from(hop));
    }
    let (node, is_target, _) = answer(&mut world, 0, 5, TRACE_HOPS_MAX).expect("an answer");
    assert_eq!((node, is_target), (Some(world.id(5)), true));
    // A link further on is cut: whoever is before it still answers until the way is known to be gone.
    world.cut(3, 4);
    assert_eq!(answer(&mut world, 0, 5, 5), None);
    world.run_for(60 * S);
    assert_eq!(world.probe(0, 5, 5), Err(ProbeError::NoRoute));
    assert_eq!(world.probe(0, 0, 5), Err(ProbeError::Own));
}

#[test]
fn a_packet_that_runs_out_of_hops_is_answered_as_by_any_router() {
    let mut world = ready(2, 5);
    let [source, target] = [0, 4].map(|node| world.network(node).node());
    let mut packet = vec![0x60, 0, 0, 0, 0, 16, 17, 0];
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&target.octets());
    packet.extend_from_slice(&[0x82, 0x9a, 0x82, 0x9b, 0, 16, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
    for hop in 1..=3 {
        packet[7] = hop;
        world.icmp.clear();
        world.send_raw(0, &packet);
        world.run_for(100 * MS);
        let [(0, error)] = &world.icmp[..] else { panic!("one error for the sender: {:?}", world.icmp) };
        let relay = world.network(usize::from(hop)).node();
        assert_eq!((error[6], error[40], error[41]), (58, 3, 0), "time exceeded");
        assert_eq!((&error[8..24], &error[24..40]), (&relay.octets()[..], &source.octets()[..]));
        assert_eq!(error[48..], packet);
    }
    // Nobody is told of the end of an error, and not more often than it is good for.
    let told = world.mesh(1).expect("runs").counters().expiries_told;
    packet[6] = 58;
    packet[7] = 1;
    packet[40] = 1;
    world.icmp.clear();
    world.send_raw(0, &packet);
    world.run_for(100 * MS);
    assert_eq!(world.icmp, []);
    packet[40] = 128;
    for _ in 0..1000 {
        world.send_raw(0, &packet);
    }
    world.run_for(100 * MS);
    let counters = world.mesh(1).expect("runs").counters();
    assert_eq!(counters.dropped_hop_limit, 1 + 1 + 1000);
    let most = u64::from(TRACE_ANSWERS_PER_SECOND_MAX);
    assert!((most / 2..=most + most / 5).contains(&(counters.expiries_told - told)), "{counters:?}");
}

#[test]
fn no_answer_is_longer_than_what_it_answers() {
    let mut world = ready(3, 3);
    let [source, target] = [0, 2].map(|node| world.network(node).node());
    for payload in 0..12u8 {
        let mut packet = vec![0x60, 0, 0, 0, 0, payload, 59, 1];
        packet.extend_from_slice(&source.octets());
        packet.extend_from_slice(&target.octets());
        packet.resize(40 + usize::from(payload), 0);
        world.record = Some(Vec::new());
        world.icmp.clear();
        world.send_raw(0, &packet);
        world.run_for(MS);
        let sent = world.record.take().unwrap_or_default();
        let asked = sent.iter().filter(|sent| sent.source == 0).map(|sent| sent.data.len()).max().expect("sent");
        let answered = sent.iter().filter(|sent| sent.source == 1).map(|sent| sent.data.len()).max();
        assert!(answered.is_none_or(|bytes| bytes <= asked), "{asked}: {answered:?}");
        assert_eq!(world.icmp.len(), usize::from(payload >= 7), "a packet with ports is answered");
    }
}
