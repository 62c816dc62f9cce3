//! A world of many regions: how large its tables become, how soon it knows itself, and what it says at rest.
//!
//! Regions are alike: in each, two rings in random order give every node four neighbours. Regions are joined in two
//! random rings as well, one through the first node of each, one through the second; these two are its borders.
//! Everything starts within half a second, from nothing.
//!
//! Routers are simulated bare; what links say to keep themselves alive is measured on two whole nodes and added.

use core::{fmt, time::Duration};

use atoll_base::{NodeSecret, RegionId};
use atoll_mesh_core::limits::LINK_COST;

use crate::{
    mesh::{LAN, World, line},
    routing::{Quality, Routers},
};

/// Delay of a link within a region.
const NEAR: Duration = Duration::from_millis(2);
/// Delay of a link between regions.
const FAR: Duration = Duration::from_millis(10);
/// How finely the time of convergence is told.
const STEP: Duration = Duration::from_millis(50);
/// How long the world is watched at rest.
const REST: Duration = Duration::from_secs(60);
/// How long an idle link is watched: several changes of its keys.
const IDLE: Duration = Duration::from_secs(3600);

/// What is to be simulated.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Everything random follows from it.
    pub seed: u64,
    /// Regions; at least five, for the two rings.
    pub regions: usize,
    /// Nodes of each; at least five.
    pub nodes: usize,
    /// After how many steps, each time, it is checked that there are no circles and no forgeries.
    pub check_each: u64,
    /// Simulated time after which it should be done.
    pub patience: Duration,
}

/// Largest and mean value over all nodes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The largest.
    pub max: u64,
    /// The mean.
    pub mean: f64,
}

/// What came out.
#[derive(Debug, Clone)]
pub struct Report {
    /// What was simulated.
    pub plan: Plan,
    /// Simulated time from the start until every node has a route to every node of its region and to every other
    /// region; nothing if that did not happen in time.
    pub converged: Option<Duration>,
    /// Targets in a node's table.
    pub entries: Spread,
    /// Routes to them, over all neighbours.
    pub routes: Spread,
    /// Bytes of routing packets that a node sent until then.
    pub start_bytes: f64,
    /// Routing packets that a node sent until then.
    pub start_packets: f64,
    /// Bytes of routing packets that a node sends in a minute at rest.
    pub rest_bytes: f64,
    /// Bytes that a link carries in a minute when it is idle: probes, answers, changes of keys; both directions.
    pub idle_link_bytes: f64,
    /// Links of a node.
    pub links: f64,
}

/// Runs a plan.
pub fn run(plan: Plan) -> Report {
    let mut world = Routers::new(plan.seed);
    world.check_each(plan.check_each);
    let wires = build(&mut world, &plan);
    let count = plan.regions * plan.nodes;
    let complete = plan.nodes + plan.regions - 2;
    let is_complete =
        |world: &Routers, node: usize| world.router(node).is_some_and(|router| router.routes().count() == complete);
    // What is complete may become incomplete for a moment, so nobody is left out of the last look.
    let mut waiting: Vec<usize> = (0..count).collect();
    let mut converged = None;
    while converged.is_none() && world.now().since(atoll_mesh_core::Time::ZERO) < plan.patience {
        world.run_for(STEP);
        waiting.retain(|node| !is_complete(&world, *node));
        if waiting.is_empty() {
            waiting = (0..count).filter(|node| !is_complete(&world, *node)).collect();
            converged = waiting.is_empty().then(|| world.now().since(atoll_mesh_core::Time::ZERO));
        }
    }
    let per_node = |total: u64| total as f64 / count as f64;
    let (start_bytes, start_packets) = (per_node(world.bytes), per_node(world.packets));
    // Better ways are still found after there is any way at all.
    world.run_for(REST);
    let settled = world.bytes;
    world.run_for(REST);
    let sizes = || (0..count).filter_map(|node| Some(world.router(node)?.table_sizes()));
    Report {
        plan,
        converged,
        entries: spread(sizes().map(|(entries, _)| entries)),
        routes: spread(sizes().map(|(_, routes)| routes)),
        start_bytes,
        start_packets,
        rest_bytes: per_node(world.bytes - settled) * 60.0 / REST.as_secs_f64(),
        idle_link_bytes: idle_link_bytes(plan.seed),
        links: 2.0 * wires as f64 / count as f64,
    }
}

impl Report {
    /// Bytes that a node sends in a minute when nothing happens: its routing packets, and its half of each link.
    pub fn idle_node_bytes(&self) -> f64 {
        self.rest_bytes + self.links * self.idle_link_bytes / 2.0
    }

    /// The figures as one JSON object.
    pub fn to_json(&self) -> String {
        let converged = self.converged.map_or_else(|| "null".to_owned(), |time| format!("{:.2}", time.as_secs_f64()));
        format!(
            "{{\"seed\":{},\"regions\":{},\"nodes_per_region\":{},\"links_per_node\":{:.2},\"converged_s\":{converged},\
             \"entries_max\":{},\"entries_mean\":{:.1},\"routes_max\":{},\"routes_mean\":{:.1},\
             \"start_bytes_per_node\":{:.0},\"start_packets_per_node\":{:.0},\
             \"rest_routing_bytes_per_node_minute\":{:.1},\
             \"idle_bytes_per_link_minute\":{:.0},\"idle_bytes_per_node_minute\":{:.0}}}",
            self.plan.seed,
            self.plan.regions,
            self.plan.nodes,
            self.links,
            self.entries.max,
            self.entries.mean,
            self.routes.max,
            self.routes.mean,
            self.start_bytes,
            self.start_packets,
            self.rest_bytes,
            self.idle_link_bytes,
            self.idle_node_bytes(),
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { regions, nodes, .. } = self.plan;
        writeln!(f, "{} nodes: {regions} regions of {nodes}, {:.1} links a node", regions * nodes, self.links)?;
        match self.converged {
            Some(time) => {
                writeln!(f, "| every node knows its region and all others after | {:.2} s |", time.as_secs_f64())?
            }
            None => writeln!(f, "| NOT every node knows everything after | {} s |", self.plan.patience.as_secs())?,
        }
        writeln!(f, "| targets in a table, mean and max | {:.1} | {} |", self.entries.mean, self.entries.max)?;
        writeln!(f, "| routes to them, mean and max | {:.1} | {} |", self.routes.mean, self.routes.max)?;
        writeln!(
            f,
            "| routing bytes and packets of a node until then | {:.0} | {:.0} |",
            self.start_bytes, self.start_packets
        )?;
        writeln!(f, "| routing bytes of a node and minute at rest | {:.1} |", self.rest_bytes)?;
        writeln!(f, "| bytes of an idle link and minute | {:.0} |", self.idle_link_bytes)?;
        write!(f, "| all bytes of a node and minute at rest | {:.0} |", self.idle_node_bytes())
    }
}

/// Makes regions, nodes and wires; how many wires.
fn build(world: &mut Routers, plan: &Plan) -> usize {
    assert!(plan.regions >= 5 && plan.nodes >= 5, "two rings without a common wire need five");
    for region in 0..plan.regions {
        world.trust(id(region), &authority(region));
    }
    let mut wires = 0;
    for region in 0..plan.regions {
        let first = region * plan.nodes;
        for _ in 0..plan.nodes {
            world.add(id(region));
        }
        for (a, b) in two_rings(world, plan.nodes) {
            world.connect(first + a, first + b, Quality::clean(NEAR), LINK_COST);
            wires += 1;
        }
        for border in 0..2 {
            world.make_border(first + border, &authority(region));
        }
    }
    for (number, (a, b)) in two_rings(world, plan.regions).into_iter().enumerate() {
        let border = number / plan.regions;
        world.connect(a * plan.nodes + border, b * plan.nodes + border, Quality::clean(FAR), LINK_COST);
        wires += 1;
    }
    wires
}

/// Two rings over the same things in random orders, without a common wire.
fn two_rings(world: &mut Routers, count: usize) -> Vec<(usize, usize)> {
    loop {
        let mut wires = Vec::new();
        for _ in 0..2 {
            let mut order: Vec<usize> = (0..count).collect();
            for end in (1..count).rev() {
                order.swap(end, world.random(end + 1));
            }
            wires.extend((0..count).map(|at| (order[at], order[(at + 1) % count])));
        }
        let mut ends: Vec<_> = wires.iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
        ends.sort_unstable();
        ends.dedup();
        if ends.len() == wires.len() {
            return wires;
        }
    }
}

fn id(region: usize) -> RegionId {
    let mut id = [0x11; 32];
    id[..8].copy_from_slice(&(region as u64 + 1).to_be_bytes());
    // The first bytes name a region in addresses.
    id.rotate_left(4);
    RegionId(id)
}

fn authority(region: usize) -> NodeSecret {
    NodeSecret::from_seed(id(region).0)
}

/// Bytes that an idle link between two whole nodes carries in a minute.
fn idle_link_bytes(seed: u64) -> f64 {
    let mut world = World::new(seed);
    line(&mut world, 2, LAN);
    world.run_for(Duration::from_secs(60));
    world.record = Some(Vec::new());
    world.run_for(IDLE);
    let bytes: usize = world.record.iter().flatten().map(|sent| sent.data.len()).sum();
    bytes as f64 * 60.0 / IDLE.as_secs_f64()
}

fn spread(values: impl Iterator<Item = usize>) -> Spread {
    let (mut count, mut total, mut max) = (0u64, 0u64, 0u64);
    for value in values {
        let value = value as u64;
        (count, total, max) = (count + 1, total + value, max.max(value));
    }
    Spread { max, mean: total as f64 / count.max(1) as f64 }
}
