//! Direct links through NATs, nodes on the move, and two links to one neighbour, from seeds.

use core::time::Duration;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use atoll_mesh_core::{Event, Origin, limits::PUNCHED_IDLE};
use atoll_sim::nat::{KINDS, Kind, NatWorld};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
const RELAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// A relay (0), and two nodes (1 and 2) each behind a NAT of its own, or none; both call the relay.
fn two_sites(seed: u64, kinds: [Option<Kind>; 2]) -> NatWorld {
    let mut world = NatWorld::new(seed);
    world.add(&[RELAY]);
    for (number, kind) in (1..).zip(kinds) {
        let outer = Ipv4Addr::new(198, 51 + number, 100, number);
        let inside = Ipv4Addr::new(10, number, 0, 5);
        let address = if let Some(kind) = kind {
            world.add_nat(inside, outer, kind);
            inside
        } else {
            outer
        };
        let node = world.add(&[address]);
        world.call(node, RELAY);
    }
    world.run_for(S);
    world
}

/// Pairs of which no datagram of one can ever find the other's port.
fn is_hopeless(a: Option<Kind>, b: Option<Kind>) -> bool {
    let is_strict = |kind| matches!(kind, Some(Kind::PortRestricted | Kind::Symmetric));
    let is_symmetric = |kind| kind == Some(Kind::Symmetric);
    (is_symmetric(a) && is_strict(b)) || (is_symmetric(b) && is_strict(a))
}

#[test]
fn every_pair_of_nats_that_can_gets_a_direct_link_and_the_others_keep_the_relay() {
    let kinds = || KINDS.map(Some).into_iter().chain([None]);
    for (a, b) in kinds().flat_map(|a| kinds().map(move |b| (a, b))) {
        for seed in 0..8 {
            let mut world = two_sites(seed, [a, b]);
            let (gap, _) = world.talk(1, 2, 2 * S);
            assert!(gap <= 300 * MS, "{a:?} {b:?} seed {seed}: nothing for {gap:?} at the start");
            let (gap, lost) = world.talk(1, 2, 3 * S);
            assert_eq!((gap, lost), (Duration::ZERO, 0), "{a:?} {b:?} seed {seed}: the change costs no packet");
            let hops = [world.hops(1, 2), world.hops(2, 1)];
            let expected = if is_hopeless(a, b) { Some(2) } else { Some(1) };
            assert_eq!(hops, [expected; 2], "{a:?} {b:?} seed {seed}");
        }
    }
}

#[test]
fn lost_datagrams_do_not_keep_two_nodes_apart() {
    for seed in 0..20 {
        let kind = Some(Kind::PortRestricted);
        let mut world = two_sites(seed, [kind, kind]);
        world.loss = 0.1;
        world.talk(1, 2, 20 * S);
        // Which way is the better one is up to the losses that were seen.
        for node in [1, 2] {
            let links = world.mesh(node).link_status();
            assert!(links.iter().any(|link| link.origin == Origin::Punched && link.is_up), "seed {seed}: {links:?}");
        }
    }
}

#[test]
fn two_nodes_behind_the_same_nat_find_each_other_inside() {
    let mut world = NatWorld::new(3);
    world.add(&[RELAY]);
    let inside = [Ipv4Addr::new(10, 1, 0, 5), Ipv4Addr::new(10, 1, 0, 6)];
    world.add_nat(inside[0], Ipv4Addr::new(198, 51, 100, 1), Kind::Symmetric);
    for address in inside {
        let node = world.add(&[address]);
        world.call(node, RELAY);
    }
    world.run_for(S);
    world.talk(1, 2, 5 * S);
    assert_eq!([world.hops(1, 2), world.hops(2, 1)], [Some(1); 2]);
    let link = world.mesh(1).link_status().into_iter().find(|link| link.origin == Origin::Punched).expect("direct");
    assert_eq!(link.endpoint.ip(), IpAddr::from(inside[1]), "no NAT between them");
}

#[test]
fn a_direct_link_that_nobody_uses_ends_at_both_ends_and_one_that_dies_costs_little() {
    let kind = Some(Kind::PortRestricted);
    let mut world = two_sites(5, [kind, kind]);
    world.talk(1, 2, 5 * S);
    let punched = |world: &mut NatWorld, node| {
        world.mesh(node).link_status().iter().filter(|link| link.origin == Origin::Punched).count()
    };
    assert_eq!([punched(&mut world, 1), punched(&mut world, 2)], [1, 1]);
    world.run_for(PUNCHED_IDLE - 20 * S);
    assert_eq!([punched(&mut world, 1), punched(&mut world, 2)], [1, 1]);
    world.run_for(40 * S);
    assert_eq!([world.mesh(1).link_status().len(), world.mesh(2).link_status().len()], [1, 1], "the relay only");
    // It is there again when it is needed, and when the NAT forgets it, the relay goes on.
    world.talk(1, 2, 5 * S);
    assert_eq!(world.hops(1, 2), Some(1));
    let inside = Ipv4Addr::new(10, 1, 0, 5);
    world.add_nat(inside, Ipv4Addr::new(198, 52, 100, 1), Kind::Symmetric);
    let (gap, _) = world.talk(1, 2, 5 * S);
    assert!(gap < S, "nothing for {gap:?}");
}

#[test]
fn two_nodes_that_talk_more_after_a_pause_find_each_other_then() {
    let kind = Some(Kind::PortRestricted);
    let mut world = two_sites(11, [kind, kind]);
    world.talk(1, 2, 20 * MS);
    world.run_for(30 * S);
    assert_eq!(world.hops(1, 2), Some(2), "a few packets are not worth a link");
    world.talk(1, 2, 5 * S);
    assert_eq!([world.hops(1, 2), world.hops(2, 1)], [Some(1); 2]);
}

#[test]
fn nobody_can_be_flooded_by_naming_him() {
    let mut world = two_sites(7, [None, None]);
    let victim = Ipv4Addr::new(203, 0, 113, 9);
    let told: Vec<_> = (0..8).map(|port| SocketAddr::new(victim.into(), 53 + port)).collect();
    // Node 1 names the victim instead of itself, and nothing of its own ever gets to node 2.
    world.mesh(1).set_local_endpoints(&told);
    world.talk(1, 2, 60 * S);
    let (count, bytes) = world.sent_to.get(&IpAddr::from(victim)).copied().unwrap_or_default();
    assert!(count > 0, "it was tried");
    assert!(count <= 8 * 8 * 4 && bytes <= count * 28, "{count} datagrams, {bytes} bytes");
}

#[test]
fn a_node_that_moves_keeps_its_link_and_its_sessions() {
    for (seed, is_told) in [(1, true), (2, false), (3, true), (4, false), (5, true)] {
        let mut world = NatWorld::new(seed);
        // One of them is far away.
        let delay = if seed == 5 { 150 } else { 10 };
        world.delay = MS * delay;
        let (a, b) = (Ipv4Addr::new(198, 51, 100, 1), Ipv4Addr::new(198, 52, 100, 1));
        world.add(&[a]);
        world.add(&[b]);
        world.call(0, b);
        world.run_for(S);
        world.talk(0, 1, S);
        let sessions = world.events.iter().filter(|(_, _, event)| matches!(event, Event::SessionUp { .. })).count();
        for (number, node) in [(1, 0), (2, 0), (3, 1), (4, 1)] {
            world.events.clear();
            world.move_to(node, &[Ipv4Addr::new(203, 0, number, 9)], is_told);
            let (gap, _) = world.talk(0, 1, 3 * S);
            assert!(gap <= MS * (60 + 4 * delay), "seed {seed}: nothing for {gap:?}");
            let moved = world.events.iter().filter(|(_, _, event)| matches!(event, Event::LinkMoved { .. })).count();
            assert_eq!((moved, world.events.len()), (1, 1), "no link went down, no key changed: {:?}", world.events);
        }
        assert!(sessions > 0);
    }
}

#[test]
fn who_sends_datagrams_on_from_elsewhere_does_not_get_the_link() {
    let mut world = NatWorld::new(1);
    let (a, b) = (Ipv4Addr::new(198, 51, 100, 1), Ipv4Addr::new(198, 52, 100, 1));
    world.add(&[a]);
    world.add(&[b]);
    world.call(0, b);
    world.run_for(S);
    let (from_a, from_b) = (SocketAddr::new(a.into(), 4870), SocketAddr::new(b.into(), 4870));
    let attacker = SocketAddr::new(Ipv4Addr::new(203, 0, 113, 66).into(), 4870);
    // It is faster than the wire, and sends on what comes back too.
    world.forward = Some((from_a, attacker));
    let (_, lost) = world.talk(0, 1, 5 * S);
    assert_eq!(lost, 0);
    assert!(world.sent_to.contains_key(&attacker.ip()), "it was asked");
    world.forward = None;
    let (gap, _) = world.talk(0, 1, 2 * S);
    assert!(gap <= S, "nothing for {gap:?} after it stopped");
    assert_eq!(world.mesh(1).link_status()[0].endpoint, from_a);
    assert_eq!(world.mesh(0).link_status()[0].endpoint, from_b);
}

#[test]
fn two_links_to_one_neighbour_stand_side_by_side() {
    for seed in 0..10 {
        let mut world = NatWorld::new(seed);
        let net = |net: u8, host: u8| Ipv4Addr::new(10, net, 0, host);
        world.add(&[net(1, 1), net(2, 1)]);
        world.add(&[net(1, 2), net(2, 2)]);
        world.call(0, net(1, 2));
        world.call(0, net(2, 2));
        world.run_for(S);
        world.talk(0, 1, S);
        for node in [0, 1] {
            let up = world.mesh(node).link_status().iter().filter(|link| link.is_up).count();
            assert_eq!(up, 2, "seed {seed}");
            let backup = world.mesh(node).route_status()[0].backup;
            assert!(backup.is_some(), "the other link stands ready");
        }
        // One network after the other fails, and comes back.
        for alive in [2, 1, 2] {
            world.move_to(1, &[net(alive, 2)], false);
            let (gap, _) = world.talk(0, 1, 3 * S);
            assert!(gap <= 600 * MS, "seed {seed}: nothing for {gap:?}");
            world.move_to(1, &[net(1, 2), net(2, 2)], false);
            let (_, lost) = world.talk(0, 1, 3 * S);
            assert_eq!(lost, 0, "seed {seed}");
            let up = world.mesh(0).link_status().iter().filter(|link| link.is_up).count();
            assert_eq!(up, 2, "seed {seed}");
        }
        // The operating system says that a link is lost: not one packet is.
        let link = world.mesh(0).route_status()[0].link;
        let now = world.now();
        assert!(world.mesh(0).link_lost(link, now));
        let (_, lost) = world.talk(0, 1, S);
        assert_eq!(lost, 0, "seed {seed}");
    }
}
