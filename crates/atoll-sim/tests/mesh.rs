//! The mesh under faults, from seeds. To replay a failure, look at the seed in its message.

use core::time::Duration;

use atoll_base::RegionId;
use atoll_mesh_core::{Event, Origin, Tuning};
use atoll_sim::mesh::{LAN, Quality, REGION, ROUGH, World, line};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

fn ring(world: &mut World, count: usize, quality: Quality) {
    line(world, count, quality);
    world.connect(count - 1, 0, quality);
}

/// A connected graph: a tree, and as many wires again at random.
fn graph(world: &mut World, count: usize, quality: Quality) -> Vec<(usize, usize)> {
    world.add_many(count);
    let mut wires = Vec::new();
    for node in 1..count {
        let to = world.random(node);
        wires.push((node, to));
    }
    for _ in 0..count {
        let (a, b) = (world.random(count), world.random(count));
        if a != b && !wires.contains(&(a, b)) && !wires.contains(&(b, a)) {
            wires.push((a, b));
        }
    }
    for (a, b) in &wires {
        world.connect(*a, *b, quality);
    }
    wires
}

#[test]
fn a_line_carries_packets_end_to_end_within_a_second() {
    let mut world = World::new(1);
    line(&mut world, 6, LAN);
    world.run_for(S);
    assert_eq!(world.unreachable_pairs(200 * MS), []);
    let routes = world.mesh(0).expect("runs").route_status();
    let mut hops: Vec<_> = routes.iter().map(|route| route.hops).collect();
    hops.sort_unstable();
    assert_eq!(hops, [1, 2, 3, 4, 5]);
    assert_eq!(world.loops(), []);
}

#[test]
fn rough_graphs_converge_without_loops_from_many_seeds() {
    for seed in 0..40 {
        let mut world = World::new(seed);
        graph(&mut world, 12, ROUGH);
        for _ in 0..40 {
            world.run_for(100 * MS);
            assert_eq!(world.loops(), [], "seed {seed}");
        }
        // A packet, or a handshake, may be lost on its way; a pair that loses twenty in a row is not connected.
        let mut unreachable = world.unreachable_pairs(S);
        for _ in 0..19 {
            let again = world.unreachable_pairs(S);
            unreachable.retain(|pair| again.contains(pair));
        }
        assert_eq!(unreachable, [], "seed {seed}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut world = World::new(seed);
        graph(&mut world, 8, ROUGH);
        world.run_for(3 * S);
        world.unreachable_pairs(S);
        (world.trace, world.datagrams)
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn a_silent_cut_in_a_ring_heals_within_a_second_without_loops() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        ring(&mut world, 6, LAN);
        world.run_for(2 * S);
        assert_eq!(world.unreachable_pairs(S), []);
        let victim = world.random(6);
        let next = (victim + 1) % 6;
        world.cut(victim, next);
        // Traffic over the cut wire.
        let outage = world.time_until_reachable(victim, next, 5 * S).expect("reachable the other way round");
        assert!(outage <= S, "seed {seed}: {outage:?}");
        // And all others, which did not send: silence is noticed too.
        world.run_for(4 * S);
        assert_eq!(world.unreachable_pairs(S), [], "seed {seed}");
        assert_eq!(world.loops(), []);
        world.mend(victim, next, LAN);
        world.run_for(2 * S);
        let routes = world.mesh(victim).expect("runs").route_status();
        assert_eq!(routes.iter().filter(|route| route.hops == 1).count(), 2, "seed {seed}: the wire is used again");
    }
}

#[test]
fn random_cuts_and_repairs_never_make_loops_and_always_heal() {
    for seed in 100..120 {
        let mut world = World::new(seed);
        let wires = graph(&mut world, 10, LAN);
        world.run_for(2 * S);
        for _ in 0..6 {
            let (a, b) = wires[world.random(wires.len())];
            world.cut(a, b);
            for _ in 0..15 {
                world.run_for(100 * MS);
                assert_eq!(world.loops(), [], "seed {seed}");
            }
            world.mend(a, b, LAN);
            for _ in 0..5 {
                world.run_for(100 * MS);
                assert_eq!(world.loops(), [], "seed {seed}");
            }
        }
        world.run_for(3 * S);
        assert_eq!(world.unreachable_pairs(S), [], "seed {seed}");
    }
}

#[test]
fn halves_that_were_apart_for_minutes_join_again() {
    let mut world = World::new(5);
    line(&mut world, 4, LAN);
    world.run_for(2 * S);
    assert_eq!(world.unreachable_pairs(S), []);
    world.cut(1, 2);
    world.run_for(10 * S);
    assert_eq!(world.mesh(0).expect("runs").route_status().len(), 1, "what is gone is not promised any more");
    world.run_for(400 * S);
    world.mend(1, 2, LAN);
    let outage = world.time_until_reachable(0, 3, 5 * S).expect("joined");
    assert!(outage <= 2 * S, "{outage:?}");
    assert_eq!(world.unreachable_pairs(S), []);
}

#[test]
fn a_restarted_node_is_reachable_both_ways_within_two_seconds() {
    for seed in 0..10 {
        for victim in 0..3 {
            let mut world = World::new(seed);
            line(&mut world, 3, LAN);
            world.run_for(2 * S);
            assert_eq!(world.unreachable_pairs(S), []);
            world.kill(victim);
            // Sometimes so short that nobody notices, sometimes long.
            let away = [20 * MS, 700 * MS, 5 * S][world.random(3)];
            world.run_for(away);
            world.start(victim);
            world.run_for(S);
            // The first packet under keys that the victim forgot is lost, and makes it say so.
            world.unreachable_pairs(S);
            assert_eq!(world.unreachable_pairs(100 * MS), [], "seed {seed}, node {victim}, away {away:?}");
            assert_eq!(world.loops(), []);
        }
    }
}

#[test]
fn a_restart_under_traffic_is_repaired_by_the_hint() {
    let mut world = World::new(3);
    line(&mut world, 2, LAN);
    world.run_for(S);
    assert_eq!(world.unreachable_pairs(S), []);
    // Node 1 is the one that is called: it cannot call back by itself.
    world.kill(1);
    world.start(1);
    let outage = world.time_until_reachable(0, 1, 2 * S).expect("back");
    assert!(outage <= 200 * MS, "{outage:?}");
    let outage = world.time_until_reachable(1, 0, 2 * S).expect("back");
    assert!(outage <= 200 * MS, "{outage:?}");
}

#[test]
fn both_ends_opening_at_once_end_up_with_one_link_and_one_session() {
    for seed in 0..30 {
        let mut world = World::new(seed);
        world.add_many(2);
        world.connect(0, 1, LAN);
        world.connect(1, 0, LAN);
        // Nobody may wait for a retry: settled within a few round trips.
        world.run_for(5 * MS);
        for node in 0..2 {
            let links = world.mesh(node).expect("runs").link_status();
            assert_eq!(links.iter().filter(|link| link.is_up).count(), 1, "seed {seed}");
            assert_eq!(links.len(), 1, "seed {seed}");
        }
        world.run_for(100 * MS);
        let (there, back) = (world.send(0, 1), world.send(1, 0));
        world.run_for(5 * MS);
        assert!(world.arrived(there) && world.arrived(back), "seed {seed}");
        for node in 0..2 {
            let now = world.now();
            assert_eq!(world.mesh(node).expect("runs").session_status(now).len(), 1, "seed {seed}");
        }
    }
}

#[test]
fn keys_change_by_volume_and_by_time_without_losing_a_packet() {
    let mut world = World::new(11);
    world.tune(Tuning { rekey_after: 3 * S, rekey_after_messages: 40 });
    line(&mut world, 3, Quality { jitter: 2 * MS, ..Quality::clean(MS) });
    world.run_for(2 * S);
    assert_eq!(world.unreachable_pairs(S), []);
    world.events.clear();
    let mut sent = Vec::new();
    for _ in 0..1000 {
        sent.push(world.send(0, 2));
        sent.push(world.send(2, 0));
        world.run_for(7 * MS);
    }
    world.run_for(S);
    let lost = sent.iter().filter(|number| !world.arrived(**number)).count();
    assert_eq!(lost, 0);
    let renewed = world.events.iter().filter(|(node, _, event)| *node == 0 && matches!(event, Event::SessionUp { .. }));
    assert!(renewed.count() >= 20, "the keys did change");
    assert!(!world.events.iter().any(|(_, _, event)| matches!(event, Event::LinkDown { .. })), "links stay up");
}

#[test]
fn recorded_and_altered_datagrams_change_nothing() {
    let mut world = World::new(21);
    line(&mut world, 3, LAN);
    world.record = Some(Vec::new());
    world.run_for(2 * S);
    for _ in 0..20 {
        assert_eq!(world.unreachable_pairs(50 * MS), []);
    }
    let recorded = world.record.take().expect("was recorded");
    assert!(recorded.len() > 200);
    let before = world.events.len();
    for (at, sent) in recorded.iter().enumerate() {
        // The world itself asserts that no packet comes out twice, or changed.
        world.inject(sent.source, sent.target, sent.data.clone());
        let mut altered = sent.data.clone();
        let byte = at % altered.len();
        altered[byte] ^= 1 << (at % 8);
        world.inject(sent.source, sent.target, altered);
        // A counter from the future, so that only the tag can tell.
        let mut future = sent.data.clone();
        if future.len() > 16 {
            future[4] |= 0x40;
        }
        world.inject(sent.source, sent.target, future);
        let cut = at % (sent.data.len() + 1);
        world.inject(sent.source, sent.target, sent.data[..cut].to_vec());
    }
    world.run_for(3 * S);
    let downs = world.events[before..].iter().filter(|(_, _, event)| matches!(event, Event::LinkDown { .. })).count();
    assert_eq!(downs, 0, "no link fell");
    assert_eq!(world.unreachable_pairs(100 * MS), []);
    let counters = world.mesh(1).expect("runs").counters().clone();
    assert!(counters.dropped_replayed > 50 && counters.dropped_forged > 50, "{counters:?}");
}

#[test]
fn a_node_of_another_region_is_refused() {
    let mut world = World::new(31);
    world.add_many(2);
    let stranger = world.add(RegionId([0xcd; 32]));
    world.connect(0, 1, LAN);
    world.connect(stranger, 0, LAN);
    world.run_for(5 * S);
    assert!(!world.mesh(stranger).expect("runs").link_status()[0].is_up);
    let node = world.mesh(0).expect("runs");
    assert_eq!(node.link_status().len(), 1, "no link for the stranger");
    assert!(node.counters().dropped_other_region > 3);
    assert_eq!(node.route_status().len(), 1);
}

#[test]
fn a_link_that_works_one_way_only_is_down_at_both_ends_and_recovers() {
    let mut world = World::new(41);
    line(&mut world, 2, LAN);
    world.run_for(S);
    world.cut_one_way(0, 1);
    world.run_for(4 * S);
    for node in 0..2 {
        assert!(!world.mesh(node).expect("runs").link_status()[0].is_up, "node {node}");
        assert_eq!(world.mesh(node).expect("runs").route_status(), [], "node {node}");
    }
    world.mend(0, 1, LAN);
    world.run_for(S);
    assert_eq!(world.unreachable_pairs(100 * MS), []);
}

#[test]
fn an_idle_mesh_is_nearly_silent() {
    let mut world = World::new(51);
    line(&mut world, 4, LAN);
    world.run_for(5 * S);
    assert_eq!(world.unreachable_pairs(S), []);
    world.run_for(2 * S);
    let before = world.datagrams;
    world.run_for(60 * S);
    let per_link_and_second = (world.datagrams - before) as f64 / 60.0 / 3.0;
    assert!(per_link_and_second <= 0.8, "{per_link_and_second}");
    assert!(!world.events.iter().any(|(_, _, event)| matches!(event, Event::LinkDown { .. })));
}

#[test]
fn idle_links_and_sessions_outlive_their_keys() {
    let mut world = World::new(61);
    line(&mut world, 3, LAN);
    world.run_for(S);
    assert_eq!(world.unreachable_pairs(S), []);
    world.run_for(1000 * S);
    assert!(
        !world.events.iter().any(|(_, _, event)| matches!(event, Event::LinkDown { .. })),
        "links renew their keys"
    );
    for node in 0..3 {
        let now = world.now();
        assert_eq!(world.mesh(node).expect("runs").session_status(now), [], "idle sessions are forgotten");
    }
    assert_eq!(world.unreachable_pairs(100 * MS), []);
}

#[test]
fn a_flood_of_handshakes_is_bounded_and_harmless() {
    let mut world = World::new(71);
    line(&mut world, 2, LAN);
    world.record = Some(Vec::new());
    world.add_many(1);
    world.connect(2, 0, LAN);
    world.run_for(10 * MS);
    let init = world.record.take().expect("recorded").into_iter().find(|sent| sent.source == 2).expect("it called");
    world.run_for(2 * S);
    let before = world.datagrams;
    for _ in 0..5000 {
        // Genuine first messages, as if from everywhere (two are known neighbours).
        let from = 5 + world.random(100);
        world.inject(from, 0, init.data.clone());
    }
    assert!(world.datagrams - before <= 600, "answers are rate limited: {}", world.datagrams - before);
    world.run_for(2 * S);
    assert_eq!(world.unreachable_pairs(100 * MS), []);
    assert_eq!(world.mesh(0).expect("runs").link_status().len(), 2, "half-open handshakes make no links");
}

#[test]
fn a_neighbour_inside_the_mesh_and_oneself_are_no_neighbours() {
    let mut world = World::new(81);
    world.add_many(1);
    let inside = std::net::SocketAddr::new(world.network(0).host(7).into(), 4870);
    let now = world.now();
    assert!(!world.mesh(0).expect("runs").add_peer(inside, Origin::Static, now));
    world.connect(0, 0, LAN);
    world.run_for(5 * S);
    let links = world.mesh(0).expect("runs").link_status();
    assert!(links.iter().all(|link| !link.is_up) && links.iter().any(|link| link.is_self), "{links:?}");
    assert_eq!(REGION, RegionId([0xab; 32]));
}

#[test]
fn a_node_whose_clock_went_years_back_is_reached_from_everywhere_within_seconds() {
    for seed in 0..12 {
        let mut world = World::new(seed);
        graph(&mut world, 10, if seed % 3 == 2 { ROUGH } else { LAN });
        world.run_for(8 * S);
        let node = world.random(10);
        // All have sessions with it, whose keys they keep.
        for other in (0..10).filter(|other| *other != node) {
            assert!(world.time_until_reachable(other, node, 10 * S).is_some(), "seed {seed}");
        }
        // It crashes, or says goodbye under a number that is greater still; for a moment, or for minutes.
        if seed % 2 == 0 {
            world.kill(node);
        } else {
            world.stop(node);
        }
        let pause = [0, 100, 30_000, 170_000][seed as usize % 4];
        world.run_for(MS * pause);
        // Its clock begins in 1970, as that of a machine without a battery.
        world.set_epoch(node, 0);
        world.start(node);
        let start = world.now();
        let mut slowest = Duration::ZERO;
        for other in (0..10).filter(|other| *other != node) {
            for (source, target) in [(other, node), (node, other)] {
                let waited = world.time_until_reachable(source, target, 30 * S);
                assert!(waited.is_some(), "seed {seed}: {source} to {target} after {pause} ms");
                slowest = world.now().since(start);
                assert_eq!(world.loops(), [], "seed {seed}");
            }
        }
        println!("seed {seed}, away for {pause} ms: reached by all after {slowest:?}");
        // Neighbours that heard the process before within 10 s take this one for an older twin.
        let refused = if pause >= 10_000 { Duration::ZERO } else { 10 * S };
        // Over rough wires each of the eighteen pairs may need several handshakes, one pair after the other.
        let patience = refused + if seed % 3 == 2 { 20 * S } else { 3 * S };
        assert!(slowest <= patience, "seed {seed}, away for {pause} ms: {slowest:?}");
    }
}
