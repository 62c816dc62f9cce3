//! Closed regions whose members learn at different times who belongs to them, from seeds.

use core::time::Duration;
use std::collections::BTreeSet;

use atoll_base::NodeId;
use atoll_sim::mesh::{LAN, ROUGH, World, line};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

/// Nodes to which a node has a route.
fn known(world: &mut World, node: usize) -> BTreeSet<NodeId> {
    world.mesh(node).expect("runs").route_status().iter().map(|route| route.node).collect()
}

fn ids(world: &World, nodes: &[usize]) -> BTreeSet<NodeId> {
    nodes.iter().map(|node| world.id(*node)).collect()
}

#[test]
fn who_relays_for_a_stranger_brings_it_into_no_table() {
    for seed in 0..10 {
        let mut world = World::new(seed);
        // Node 3 lets everybody in, and node 4 behind it is no member.
        line(&mut world, 5, if seed % 2 == 0 { LAN } else { ROUGH });
        let members = ids(&world, &[0, 1, 2, 3]);
        for node in 0..3 {
            world.set_members(node, Some(members.clone()));
        }
        world.run_for(15 * S);
        assert!(known(&mut world, 3).contains(&world.id(4)), "seed {seed}");
        for node in 0..3 {
            let others = &members - &ids(&world, &[node]);
            assert_eq!(known(&mut world, node), others, "seed {seed}, node {node}");
            assert_eq!(world.mesh(node).expect("runs").route_status().len(), 3);
        }
        let number = world.send(0, 4);
        world.run_for(2 * S);
        assert!(!world.arrived(number), "seed {seed}: nobody leads there");
    }
}

#[test]
fn a_member_that_is_none_any_more_loses_its_routes_at_once_and_a_new_one_has_them_soon() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        line(&mut world, 6, if seed % 2 == 0 { LAN } else { ROUGH });
        let all = ids(&world, &[0, 1, 2, 3, 4, 5]);
        for node in 0..6 {
            world.set_members(node, Some(all.clone()));
        }
        world.run_for(15 * S);
        assert_eq!(known(&mut world, 0).len(), 5, "seed {seed}");
        let without = &all - &ids(&world, &[5]);
        // Only those that are told: the neighbour of the stranger is not, and goes on announcing it.
        for node in 0..4 {
            world.set_members(node, Some(without.clone()));
            assert!(!known(&mut world, node).contains(&world.id(5)), "seed {seed}, node {node}: at once");
        }
        world.run_for(5 * S);
        for node in 0..4 {
            assert_eq!(known(&mut world, node), &without - &ids(&world, &[node]), "seed {seed}, node {node}");
        }
        assert!(known(&mut world, 4).contains(&world.id(5)), "seed {seed}");
        // It is one again, and each node hears of it at another time, the far ones first.
        for node in 0..4 {
            world.set_members(node, Some(all.clone()));
            world.run_for(700 * MS);
        }
        let mut waited = Duration::ZERO;
        while !(0..4).all(|node| known(&mut world, node).contains(&world.id(5))) {
            world.run_for(100 * MS);
            waited += 100 * MS;
            assert!(waited < 5 * S, "seed {seed}: no route");
        }
        // A handshake over five rough wires may need many tries.
        assert!(world.time_until_reachable(0, 5, 30 * S).is_some(), "seed {seed}");
        assert_eq!(world.loops(), [], "seed {seed}");
    }
}

#[test]
fn many_new_members_at_once_are_found_too() {
    let mut world = World::new(3);
    line(&mut world, 4, LAN);
    let [few, all] = [&[0, 1][..], &[0, 1, 2, 3]].map(|nodes| ids(&world, nodes));
    world.set_members(0, Some(few));
    world.run_for(5 * S);
    assert_eq!(known(&mut world, 0), ids(&world, &[1]));
    // More than are asked for one by one.
    let strangers =
        (0..300_u16).map(|number| NodeId([(number % 250) as u8; 32].map(|byte| byte ^ (number / 250) as u8)));
    world.set_members(0, Some(strangers.chain(all.clone()).collect()));
    world.run_for(2 * S);
    assert_eq!(known(&mut world, 0), &all - &ids(&world, &[0]));
}
