//! Routers under faults and among liars, from many seeds.
//!
//! `ATOLL_SIM_SEEDS=20000` runs more of them; a failure names its seed, which `ATOLL_SIM_SEED=17` runs alone.

use core::{cell::Cell, time::Duration};

use atoll_base::{MeshAddr, NodeId, NodeSecret, RegionId};
use atoll_mesh_core::limits::LINK_COST;
use atoll_sim::{
    mesh::REGION,
    routing::{Lie, Quality, Routers},
};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
/// Time after the last fault within which everything must be right again.
const HEAL: Duration = Duration::from_secs(15);

/// Runs a scenario from each seed. `share` of the seeds that were asked for, in thousandths.
fn from_seeds(share: u64, scenario: impl Fn(u64)) {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    if let Some(seed) = number("ATOLL_SIM_SEED") {
        return scenario(seed);
    }
    let seeds = number("ATOLL_SIM_SEEDS").unwrap_or(1000) * share / 1000;
    for seed in 0..seeds {
        scenario(seed);
    }
}

fn quality(world: &mut Routers) -> Quality {
    let loss = [0.0, 0.0, 0.1, 0.3][world.random(4)];
    let jitter = [0, 3, 40][world.random(3)];
    Quality { delay: MS * (1 + world.random(20) as u32), jitter: MS * jitter, loss, duplication: 0.05 }
}

/// A connected graph of one region: a tree, and some wires more.
fn graph(world: &mut Routers, count: usize) -> Vec<(usize, usize)> {
    let mut wires = Vec::new();
    for node in 0..count {
        world.add(REGION);
        if node > 0 {
            wires.push((world.random(node), node));
        }
    }
    for _ in 0..count {
        let (a, b) = (world.random(count), world.random(count));
        if a < b && !wires.contains(&(a, b)) {
            wires.push((a, b));
        }
    }
    for (a, b) in wires.clone() {
        let quality = quality(world);
        let cost = LINK_COST + 30 * world.random(5) as u16;
        world.connect(a, b, quality, cost);
    }
    wires
}

/// One thing that happens to a network.
fn fault(world: &mut Routers, wires: &[(usize, usize)], count: usize) {
    let (a, b) = wires[world.random(wires.len())];
    let node = world.random(count);
    match world.random(8) {
        0..=2 => world.set_cut(a, b, true),
        3 | 4 => world.set_cut(a, b, false),
        5 => {
            let quality = quality(world);
            let cost = LINK_COST + 200 * world.random(4) as u16;
            world.connect(a, b, quality, cost);
        }
        6 if world.router(node).is_some() => {
            if world.random(2) == 0 {
                world.kill(node)
            } else {
                world.stop(node)
            }
        }
        _ => {
            if world.router(node).is_none() {
                let is_clock_right = world.random(4) > 0;
                world.start(node, is_clock_right);
            }
        }
    }
}

#[test]
fn faults_of_all_kinds_make_no_circle_and_heal() {
    from_seeds(1000, |seed| {
        let mut world = Routers::new(seed);
        let count = 3 + world.random(7);
        let wires = graph(&mut world, count);
        world.run_for(S);
        for _ in 0..10 {
            fault(&mut world, &wires, count);
            let pause = MS * world.random(800) as u32;
            world.run_for(pause);
        }
        world.run_for(HEAL);
        assert_eq!(world.wrong_pairs(), [], "seed {seed}");
        // Nothing is said any more when nothing happens.
        let before = world.packets;
        world.run_for(10 * S);
        assert!(world.packets - before <= 2, "seed {seed}: {} packets at rest", world.packets - before);
    });
}

#[test]
fn who_forges_or_replays_is_not_believed_and_others_do_not_suffer() {
    from_seeds(1000, |seed| {
        let mut world = Routers::new(seed);
        let count = 4 + world.random(4);
        let wires = graph(&mut world, count);
        let liar = world.random(count);
        let lie = [Lie::Forge, Lie::Replay][world.random(2)];
        world.corrupt(liar, lie);
        world.run_for(S);
        for _ in 0..6 {
            fault(&mut world, &wires, count);
            world.run_for(500 * MS);
        }
        world.run_for(HEAL);
        // Circles and forgeries would have been noticed; who does not meet the liar arrives.
        assert_eq!(world.wrong_pairs(), [], "seed {seed}");
    });
}

#[test]
fn who_lies_about_its_distance_attracts_only_what_is_nearer_to_it() {
    let (pairs, attracted) = (Cell::new(0), Cell::new(0));
    from_seeds(500, |seed| {
        let mut world = Routers::new(seed);
        let count = 6 + world.random(4);
        graph(&mut world, count);
        let liar = world.random(count);
        world.corrupt(liar, Lie::Near);
        world.run_for(HEAL);
        let to_liar = world.distances(liar, |_| true);
        for source in (0..count).filter(|node| *node != liar) {
            let honest = world.distances(source, |node| node != liar);
            for target in (0..count).filter(|node| *node != liar && *node != source) {
                let Some(distance) = honest.get(&target).copied() else { continue };
                let lure = to_liar.get(&source).copied().unwrap_or(u32::MAX / 2) + u32::from(LINK_COST);
                // Whoever is used to a path changes it only for something better by this.
                let slack = 16 + distance / 8;
                let path = world.path(source, target);
                pairs.set(pairs.get() + 1);
                attracted.set(attracted.get() + u32::from(path.contains(&liar)));
                if distance + slack <= lure {
                    assert!(path.last() == Some(&target), "seed {seed}: {source} to {target}: {path:?}");
                    assert!(!path.contains(&liar), "seed {seed}: {source} to {target} is attracted: {path:?}");
                }
            }
        }
    });
    println!("{} of {} pairs go through the liar", attracted.get(), pairs.get());
}

#[test]
fn who_stops_in_order_is_forgotten_everywhere_within_a_tenth_of_a_second() {
    for seed in 0..20 {
        let mut world = Routers::new(seed);
        let count = 10;
        for node in 0..count {
            world.add(REGION);
            if node > 0 {
                world.connect(node - 1, node, Quality::clean(2 * MS), LINK_COST);
            }
        }
        world.connect(0, count - 1, Quality::clean(2 * MS), LINK_COST);
        world.run_for(5 * S);
        assert_eq!(world.wrong_pairs(), []);
        let gone = world.random(count);
        let network = world.network(gone);
        world.stop(gone);
        world.run_for(100 * MS);
        let know = (0..count).filter(|node| world.router(*node).is_some_and(|router| router.route(network).is_some()));
        assert_eq!(know.count(), 0, "seed {seed}");
    }
}

/// Regions of some nodes each, in rings; each region is linked to the next, and to one at random, by border nodes.
fn regions(world: &mut Routers, regions: usize, nodes: usize) -> Vec<Vec<usize>> {
    let id = |region: usize| {
        let mut id = [0x11; 32];
        id[..8].copy_from_slice(&(region as u64 + 1).to_be_bytes());
        id.rotate_left(4);
        RegionId(id)
    };
    let authority = |region: usize| NodeSecret::from_seed(id(region).0);
    for region in 0..regions {
        world.trust(id(region), &authority(region));
    }
    let mut members = Vec::new();
    for region in 0..regions {
        let all: Vec<_> = (0..nodes).map(|_| world.add(id(region))).collect();
        for at in 0..nodes {
            world.connect(all[at], all[(at + 1) % nodes], Quality::clean(2 * MS), LINK_COST);
            let across = all[world.random(nodes)];
            if across != all[at] {
                world.connect(all[at], across, Quality::clean(2 * MS), LINK_COST);
            }
        }
        members.push(all);
    }
    for region in 0..regions {
        for other in [(region + 1) % regions, world.random(regions)] {
            if other == region {
                continue;
            }
            let (a, b) = (members[region][world.random(nodes)], members[other][world.random(nodes)]);
            world.connect(a, b, Quality::clean(10 * MS), LINK_COST);
            world.make_border(a, &authority(region));
            world.make_border(b, &authority(other));
        }
    }
    members
}

#[test]
fn tables_grow_with_nodes_of_the_region_and_regions_not_with_the_world() {
    let number =
        |name, default| std::env::var(name).ok().map_or(default, |text| text.parse::<usize>().expect("a number"));
    let (count, nodes) = (number("ATOLL_SIM_REGIONS", 6), number("ATOLL_SIM_REGION_NODES", 8));
    let mut world = Routers::new(1);
    let members = regions(&mut world, count, nodes);
    let start = std::time::Instant::now();
    let mut steps = 0;
    let complete = nodes - 1 + count - 1;
    let is_complete = |world: &Routers| {
        members
            .iter()
            .flatten()
            .all(|node| world.router(*node).is_some_and(|router| router.routes().count() == complete))
    };
    while !is_complete(&world) {
        world.run_for(100 * MS);
        steps += 1;
        assert!(steps < 300, "every node knows its region and all others within 30 s");
    }
    println!(
        "{count} regions of {nodes} nodes: {complete} entries a node, complete after {} s, {} bytes and {} packets a node \
         until then ({:.1} s of real time)",
        f64::from(steps) / 10.0,
        world.bytes / (count * nodes) as u64,
        world.packets / (count * nodes) as u64,
        start.elapsed().as_secs_f64(),
    );
    let (bytes, node) = (world.bytes, members[0][0]);
    world.run_for(60 * S);
    println!("at rest: {} bytes a node and minute", (world.bytes - bytes) / (count * nodes) as u64);
    let (entries, routes) = world.router(node).map(|router| router.table_sizes()).expect("runs");
    println!("node 0 keeps {entries} entries and {routes} routes");
    // A packet for anybody abroad is on its way to the border of that region.
    let stranger = MeshAddr::of(RegionId([0x77; 32]), NodeId([1; 32]));
    assert!(world.router(node).is_some_and(|router| router.route(stranger).is_none()));
    for other in &members[1..] {
        let network = world.network(other[0]);
        assert!(world.router(node).is_some_and(|router| router.route(network).is_some()));
        assert_eq!(world.path(node, other[0]).last(), Some(&other[0]), "arrives across regions");
    }
}
