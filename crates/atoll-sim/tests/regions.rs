//! Several regions of real nodes, joined by links between their borders.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use atoll_base::{NodeSecret, RegionId, RegionPrefix};
use atoll_mesh_core::{
    Event, Grant, Tuning,
    limits::MTU_MIN,
    routing::{Federation, LinkPolicy, Regions},
};
use atoll_sim::mesh::{EPOCH_MS, LAN, Quality, ROUGH, World};

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);
/// A wire between two towns.
const LONG: Quality = Quality::clean(Duration::from_millis(20));
const FOR_EVER: u64 = u64::MAX / 2;

/// Several regions that recognise each other.
struct Land {
    world: World,
    /// Nodes of each region.
    nodes: Vec<Vec<usize>>,
    /// What each node was told.
    told: BTreeMap<usize, Federation>,
}

fn region(number: usize) -> RegionId {
    RegionId([number as u8 + 1; 32])
}

fn prefix(number: usize) -> RegionPrefix {
    RegionPrefix::of(region(number))
}

fn authority(number: usize) -> NodeSecret {
    NodeSecret::from_seed([200 + number as u8; 32])
}

/// What a node of one region believes of the others.
fn all_but(own: usize, regions: usize) -> Federation {
    let mut federation = Federation::default();
    for other in (0..regions).filter(|other| *other != own) {
        assert!(federation.trust(region(other), authority(other).id()));
    }
    federation
}

impl Land {
    /// So many regions, each a line of so many nodes, not joined yet.
    fn new(seed: u64, sizes: &[usize]) -> Self {
        let mut land = Self { world: World::new(seed), nodes: Vec::new(), told: BTreeMap::new() };
        for (number, size) in sizes.iter().enumerate() {
            let nodes: Vec<_> = (0..*size).map(|_| land.world.add(region(number))).collect();
            for pair in nodes.windows(2) {
                land.world.connect(pair[0], pair[1], LAN);
            }
            for node in &nodes {
                land.tell(*node, all_but(number, sizes.len()));
            }
            land.nodes.push(nodes);
        }
        land
    }

    fn tell(&mut self, node: usize, federation: Federation) {
        self.world.set_federation(node, federation.clone());
        self.told.insert(node, federation);
    }

    fn grant(&mut self, node: usize, by: &NodeSecret, expiry_ms: u64) {
        let grant = Grant::sign(by, self.world.region(node), self.world.id(node), expiry_ms);
        let mut federation = self.told.remove(&node).expect("told before");
        federation.grant = Some(grant);
        self.tell(node, federation);
    }

    /// Joins two regions by a wire between two of their nodes, which become borders.
    fn join(&mut self, (a, node_a): (usize, usize), (b, node_b): (usize, usize)) {
        let (x, y) = (self.nodes[a][node_a], self.nodes[b][node_b]);
        self.grant(x, &authority(a), FOR_EVER);
        self.grant(y, &authority(b), FOR_EVER);
        assert!(self.world.connect_regions(x, y, LONG));
    }

    /// The regions to which a node has a route.
    fn reaches(&mut self, node: usize) -> BTreeSet<RegionPrefix> {
        let mesh = self.world.mesh(node).expect("runs");
        mesh.region_route_status().into_iter().map(|route| route.region).collect()
    }

    fn counter(&mut self, node: usize, name: &str) -> u64 {
        let all = self.world.mesh(node).expect("runs").counters().all();
        all.into_iter().find(|(known, _)| *known == name).expect("is counted").1
    }

    /// Whether a node has a link to another region that works.
    fn has_foreign_link(&mut self, node: usize) -> bool {
        let links = self.world.mesh(node).expect("runs").link_status();
        links.iter().any(|link| link.region.is_some() && link.is_up)
    }

    /// Nothing of other regions' insides is known, and no more is kept than nodes of the region and regions.
    fn check_tables(&mut self) {
        for (number, nodes) in self.nodes.clone().into_iter().enumerate() {
            for node in nodes.iter().copied() {
                let Some(mesh) = self.world.mesh(node) else { continue };
                let routes = mesh.route_status();
                assert!(routes.iter().all(|route| prefix(number).contains(route.network.node())), "no /112 crosses");
                assert!(routes.len() < nodes.len());
                assert!(mesh.region_route_status().len() < self.nodes.len());
            }
        }
    }
}

#[test]
fn nodes_of_two_regions_talk_end_to_end_and_tables_stay_apart() {
    let mut land = Land::new(1, &[3, 3]);
    land.join((0, 2), (1, 0));
    land.world.run_for(2 * S);
    assert_eq!(land.world.unreachable_pairs(S), []);
    land.check_tables();
    let (inner, border, other) = (land.nodes[0][0], land.nodes[0][2], land.nodes[1][0]);
    assert_eq!(land.reaches(inner), BTreeSet::from([prefix(1)]));
    let other_id = land.world.id(other);
    let route = land.world.mesh(inner).expect("runs").region_route_status()[0];
    assert_eq!((route.border, route.hops), (other_id, 3));
    let links = land.world.mesh(border).expect("runs").link_status();
    let crossing: Vec<_> = links.iter().filter(|link| link.region.is_some()).collect();
    assert_eq!(crossing.len(), 1);
    assert_eq!((crossing[0].node, crossing[0].region, crossing[0].is_up), (Some(other_id), Some(region(1)), true));
    // The farthest two have a session of their own: nobody between them reads along.
    let (far, now) = (land.world.id(land.nodes[1][2]), land.world.now());
    assert!(land.world.mesh(inner).expect("runs").session_status(now).iter().any(|session| session.node == far));
}

#[test]
fn packets_between_regions_have_the_size_that_every_link_carries() {
    let mut land = Land::new(2, &[2, 2]);
    land.join((0, 1), (1, 0));
    land.world.run_for(5 * S);
    let (source, near, far) = (land.nodes[0][0], land.nodes[0][1], land.nodes[1][1]);
    for (target, bytes, is_refused) in [(near, MTU_MIN + 1, false), (far, MTU_MIN, false), (far, MTU_MIN + 1, true)] {
        let before = land.counter(source, "dropped_too_big");
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, 59, 64];
        packet[4..6].copy_from_slice(&((bytes - 40) as u16).to_be_bytes());
        packet.extend_from_slice(&land.world.network(source).node().octets());
        packet.extend_from_slice(&land.world.network(target).node().octets());
        packet.resize(bytes, 0);
        let now = land.world.now();
        // Only what becomes of it at its sender is of interest.
        land.world.mesh(source).expect("runs").handle_packet(&packet, false, now);
        assert_eq!(land.counter(source, "dropped_too_big") - before, u64::from(is_refused), "{bytes} to {target}");
    }
}

#[test]
fn a_region_between_carries_traffic_where_its_policy_permits_and_not_where_not() {
    let mut land = Land::new(3, &[2, 3, 2]);
    land.join((0, 1), (1, 0));
    land.join((1, 2), (2, 0));
    land.world.run_for(3 * S);
    assert_eq!(land.world.unreachable_pairs(S), []);
    land.check_tables();
    let (a, b, c) = (land.nodes[0][0], land.nodes[1].clone(), land.nodes[2][1]);
    let (to_a, to_c) = (prefix(0), prefix(2));
    assert_eq!(land.reaches(a), BTreeSet::from([prefix(1), to_c]));

    // From now on B carries for its own only. What A sends before it hears so is dropped at B's border.
    let mut federation = land.told[&b[0]].clone();
    federation.set_policy(region(0), LinkPolicy { announce: Regions::Only(BTreeSet::new()), ..LinkPolicy::default() });
    land.tell(b[0], federation);
    let late = land.world.send(a, c);
    land.world.run_for(S);
    assert!(!land.world.arrived(late));
    assert!(land.counter(b[0], "dropped_transit") > 0);
    assert_eq!(land.reaches(a), BTreeSet::from([prefix(1)]));
    assert_eq!(land.reaches(c), BTreeSet::from([to_a, prefix(1)]), "the way back is another border's to decide");
    assert_eq!(land.world.time_until_reachable(a, c, 2 * S), None);
    // B itself is as near as before.
    assert!(land.world.time_until_reachable(a, b[2], S).is_some());
    assert!(land.world.time_until_reachable(c, b[0], S).is_some());

    // And back again.
    let mut federation = land.told[&b[0]].clone();
    federation.set_policy(region(0), LinkPolicy::default());
    land.tell(b[0], federation);
    land.world.run_for(S);
    assert!(land.world.time_until_reachable(a, c, S).is_some());
}

#[test]
fn the_price_of_a_link_sends_traffic_elsewhere() {
    // A and C are joined directly, and over B; the direct way costs more than both others.
    let mut land = Land::new(4, &[1, 1, 1]);
    for (x, y) in [(0, 1), (1, 2), (0, 2)] {
        land.join((x, 0), (y, 0));
    }
    land.world.run_for(3 * S);
    let a = land.nodes[0][0];
    let metric = |land: &mut Land| {
        let routes = land.world.mesh(a).expect("runs").region_route_status();
        let route = routes.into_iter().find(|route| route.region == prefix(2)).expect("a route");
        (route.hops, route.metric)
    };
    let (hops, direct) = metric(&mut land);
    assert_eq!(hops, 1);
    let mut federation = land.told[&a].clone();
    federation.set_policy(region(2), LinkPolicy { price: 1000, ..LinkPolicy::default() });
    land.tell(a, federation);
    land.world.run_for(S);
    let (hops, over_b) = metric(&mut land);
    assert!(hops == 2 && over_b > direct && over_b < direct + 1000, "{over_b}");
}

#[test]
fn a_second_border_takes_over_within_two_seconds() {
    for seed in 0..5 {
        let mut land = Land::new(seed, &[3, 3]);
        land.join((0, 0), (1, 0));
        land.join((0, 2), (1, 2));
        land.world.run_for(3 * S);
        let (source, target) = (land.nodes[0][1], land.nodes[1][1]);
        assert!(land.world.time_until_reachable(source, target, S).is_some());
        let used = land.world.mesh(source).expect("runs").region_route_status()[0].border;
        let victim = [land.nodes[1][0], land.nodes[1][2]].into_iter().find(|node| land.world.id(*node) == used);
        let victim = victim.expect("one of the two borders");
        // Traffic before, so that the loss is noticed as it would be.
        for _ in 0..10 {
            land.world.send(source, target);
            land.world.run_for(20 * MS);
        }
        land.world.kill(victim);
        let took = land.world.time_until_reachable(source, target, 10 * S);
        assert!(took.is_some_and(|took| took < 2 * S), "seed {seed}: {took:?}");
        land.world.start(victim);
        land.world.run_for(20 * S);
        assert_eq!(land.world.unreachable_pairs(2 * S), [], "seed {seed}");
    }
}

#[test]
fn who_has_no_grant_or_is_not_recognised_attracts_nothing() {
    // What A is told of B, and by whom B's border is granted; nothing of it is good.
    let mut same_prefix = region(1);
    same_prefix.0[31] ^= 1;
    let mut wrong_id = Federation::default();
    assert!(wrong_id.trust(same_prefix, authority(1).id()));
    let mut wrong_key = Federation::default();
    assert!(wrong_key.trust(region(1), authority(7).id()));
    let cases = [
        ("forged grant", all_but(0, 2), authority(9), FOR_EVER),
        ("grant that has ended", all_but(0, 2), authority(1), EPOCH_MS + 2000),
        ("not recognised", Federation::default(), authority(1), FOR_EVER),
        ("another region of the same prefix", wrong_id, authority(1), FOR_EVER),
        ("another authority", wrong_key, authority(1), FOR_EVER),
    ];
    for (what, told, by, expiry_ms) in cases {
        let mut land = Land::new(5, &[2, 2]);
        let (inner, a, b) = (land.nodes[0][0], land.nodes[0][1], land.nodes[1][0]);
        for node in [inner, a] {
            land.tell(node, told.clone());
        }
        land.grant(a, &authority(0), FOR_EVER);
        land.grant(b, &by, expiry_ms);
        // Each may call the other, if it does not see by itself that this is in vain.
        land.world.connect_regions(b, a, LONG);
        land.world.connect_regions(a, b, LONG);
        land.world.run_for(20 * S);
        for node in [inner, a] {
            assert_eq!(land.reaches(node), BTreeSet::new(), "{what}");
        }
        assert!(!land.has_foreign_link(a), "{what}");
        let sent = land.world.send(inner, b);
        let back = land.world.send(b, inner);
        land.world.run_for(S);
        assert!(!land.world.arrived(sent) && !land.world.arrived(back), "{what}");
        let inside = [(inner, a), (a, inner)].map(|(x, y)| land.world.send(x, y));
        land.world.run_for(S);
        assert!(inside.iter().all(|number| land.world.arrived(*number)), "{what}");
    }
}

#[test]
fn only_borders_call_and_answer() {
    let mut land = Land::new(6, &[2, 2]);
    let (a, b) = (land.nodes[0][1], land.nodes[1][0]);
    land.grant(b, &authority(1), FOR_EVER);
    assert!(!land.world.connect_regions(a, b, LONG), "A has no border");
    assert!(land.world.connect_regions(b, a, LONG), "B has");
    land.world.run_for(5 * S);
    assert!(land.counter(a, "dropped_other_region") > 0 && !land.has_foreign_link(a) && !land.has_foreign_link(b));
    assert_eq!(land.world.mesh(a).expect("runs").half_open(), (0, 0), "nothing is kept of it");
    // Somebody else's grant does not help.
    let mut federation = land.told[&a].clone();
    federation.grant = Some(Grant::sign(&authority(0), region(0), land.world.id(land.nodes[0][0]), FOR_EVER));
    land.tell(a, federation);
    assert!(!land.world.connect_regions(a, b, LONG));
    // The own one does.
    land.grant(a, &authority(0), FOR_EVER);
    land.world.run_for(15 * S);
    assert!(land.has_foreign_link(a) && land.has_foreign_link(b));
}

#[test]
fn a_cut_between_regions_leaves_the_inside_untouched() {
    let mut land = Land::new(7, &[4, 4]);
    land.join((0, 3), (1, 0));
    land.world.run_for(3 * S);
    let (a, b) = (land.nodes[0].clone(), land.nodes[1].clone());
    let routes = |land: &mut Land| -> Vec<_> {
        a.iter().chain(&b).map(|node| land.world.mesh(*node).expect("runs").route_status()).collect()
    };
    let before = routes(&mut land);
    let inner = land.world.mesh(a[0]).expect("runs").counters().tx_datagrams;
    land.world.run_for(5 * S);
    let at_rest = land.world.mesh(a[0]).expect("runs").counters().tx_datagrams - inner;
    land.world.events.clear();
    land.world.cut(a[3], b[0]);
    land.world.run_for(20 * S);
    let down = land.world.events.iter().filter(|(_, _, event)| matches!(event, Event::LinkDown { .. }));
    let down: BTreeSet<_> = down.map(|(node, _, _)| *node).collect();
    assert_eq!(down, BTreeSet::from([a[3], b[0]]), "both ends of the wire, and nobody else");
    assert_eq!(routes(&mut land), before);
    assert!(a.iter().chain(&b).all(|node| land.reaches(*node).is_empty()));
    // One batch and its receipt more than at rest.
    let inner = land.world.mesh(a[0]).expect("runs").counters().tx_datagrams;
    land.world.run_for(5 * S);
    assert!(land.world.mesh(a[0]).expect("runs").counters().tx_datagrams - inner <= at_rest);
    let inside: Vec<_> = [(a[0], a[3]), (b[3], b[0])].map(|(x, y)| land.world.send(x, y)).to_vec();
    land.world.run_for(S);
    assert!(inside.iter().all(|number| land.world.arrived(*number)));
    land.world.mend(a[3], b[0], LONG);
    land.world.run_for(15 * S);
    assert_eq!(land.world.unreachable_pairs(S), []);
}

#[test]
fn a_region_that_is_not_recognised_any_more_is_gone_at_once() {
    let mut land = Land::new(8, &[2, 2]);
    land.join((0, 1), (1, 0));
    land.world.run_for(3 * S);
    assert_eq!(land.world.unreachable_pairs(S), []);
    let (inner, border, far) = (land.nodes[0][0], land.nodes[0][1], land.nodes[1][1]);
    let now = land.world.now();
    for node in [inner, border] {
        let mut federation = Federation::default();
        federation.grant = land.told[&node].grant;
        land.tell(node, federation);
        assert!(land.reaches(node).is_empty());
        let mesh = land.world.mesh(node).expect("runs");
        assert!(mesh.link_status().iter().all(|link| link.region.is_none()));
        assert_eq!(mesh.session_status(now).len(), 1, "with the other one of this region");
    }
    let sent = [(inner, far), (far, inner), (far, border)].map(|(x, y)| land.world.send(x, y));
    land.world.run_for(20 * S);
    assert!(sent.iter().all(|number| !land.world.arrived(*number)));
    assert!(land.counter(border, "dropped_unknown_session") > 0, "B still talked, and was not heard");
    // It is believed again: B's border calls, or is called by who is told to.
    for node in [inner, border] {
        let mut federation = all_but(0, 2);
        federation.grant = land.told[&node].grant;
        land.tell(node, federation);
    }
    assert!(land.world.connect_regions(border, land.nodes[1][0], LONG));
    land.world.run_for(15 * S);
    // B's nodes have keys from before: the first packet tells them that these are gone.
    land.world.unreachable_pairs(S);
    assert_eq!(land.world.unreachable_pairs(S), []);
}

#[test]
fn a_grant_ends_in_time_and_is_renewed_without_a_gap() {
    let mut land = Land::new(9, &[2, 2]);
    land.join((0, 1), (1, 0));
    let (inner, b) = (land.nodes[0][0], land.nodes[1][0]);
    let ends = |seconds: u64| EPOCH_MS + 1000 + seconds * 1000;
    land.grant(b, &authority(1), ends(20));
    land.world.run_for(10 * S);
    assert_eq!(land.reaches(inner).len(), 1);
    land.grant(b, &authority(1), ends(40));
    land.world.events.clear();
    land.world.run_for(25 * S);
    assert_eq!(land.reaches(inner).len(), 1);
    let is_down = |(_, _, event): &(usize, _, Event)| matches!(event, Event::LinkDown { .. });
    assert!(!land.world.events.iter().any(is_down), "renewal is no interruption");
    // Not renewed again.
    land.world.run_for(6 * S);
    assert!(land.reaches(inner).is_empty() && !land.has_foreign_link(land.nodes[0][1]) && !land.has_foreign_link(b));
    land.grant(b, &authority(1), FOR_EVER);
    assert!(land.world.connect_regions(b, land.nodes[0][1], LONG));
    land.world.run_for(15 * S);
    assert_eq!(land.world.unreachable_pairs(S), []);
}

#[test]
fn a_closed_region_decides_about_its_own_nodes_only() {
    let mut land = Land::new(10, &[2, 2]);
    land.join((0, 1), (1, 0));
    let members: BTreeSet<_> = land.nodes[1].iter().map(|node| land.world.id(*node)).collect();
    for node in land.nodes[1].clone() {
        land.world.set_members(node, Some(members.clone()));
    }
    land.world.run_for(3 * S);
    assert_eq!(land.world.unreachable_pairs(S), []);
    for node in land.nodes[1].clone() {
        land.world.set_members(node, Some(members.clone()));
    }
    assert!(land.has_foreign_link(land.nodes[1][0]), "saying it again ends nothing");
}

#[test]
fn keys_change_between_regions_over_rough_wires_and_everything_arrives_once() {
    let mut land = Land::new(11, &[1, 1]);
    land.world = World::new(11);
    land.world.tune(Tuning { rekey_after: 3 * S, ..Tuning::default() });
    for number in 0..2 {
        let node = land.world.add(region(number));
        land.tell(node, all_but(number, 2));
        land.grant(node, &authority(number), FOR_EVER);
    }
    assert!(land.world.connect_regions(0, 1, ROUGH));
    land.world.run_for(5 * S);
    let mut sent = Vec::new();
    for _ in 0..400 {
        sent.push(land.world.send(0, 1));
        sent.push(land.world.send(1, 0));
        land.world.run_for(50 * MS);
    }
    land.world.run_for(S);
    let lost = sent.iter().filter(|number| !land.world.arrived(**number)).count();
    // A tenth is lost on the wire; the changes of keys add nothing that would be seen.
    assert!(lost * 100 < sent.len() * 15, "{lost} of {}", sent.len());
    let ups = land.world.events.iter().filter(|(_, _, event)| matches!(event, Event::SessionUp { .. })).count();
    assert!(ups >= 8, "keys changed: {ups}");
}

#[test]
fn random_lands_connect_where_a_way_is_permitted_and_nowhere_else() {
    for seed in 0..30 {
        let mut dice = World::new(seed ^ 0xdead);
        let count = 2 + dice.random(3);
        let sizes: Vec<_> = (0..count).map(|_| 1 + dice.random(3)).collect();
        let mut land = Land::new(seed, &sizes);
        let mut joined = BTreeSet::new();
        for _ in 0..count {
            let (a, b) = (dice.random(count), dice.random(count));
            if a != b && joined.insert((a.min(b), a.max(b))) {
                let (x, y) = (dice.random(sizes[a]), dice.random(sizes[b]));
                land.join((a, x), (b, y));
            }
        }
        // Some regions carry nothing for others.
        let selfish: BTreeSet<_> = (0..count).filter(|_| dice.random(3) == 0).collect();
        for number in selfish.iter().copied() {
            for node in land.nodes[number].clone() {
                let mut federation = land.told[&node].clone();
                for other in 0..count {
                    let nothing = LinkPolicy { announce: Regions::Only(BTreeSet::new()), ..LinkPolicy::default() };
                    federation.set_policy(region(other), nothing);
                }
                land.tell(node, federation);
            }
        }
        land.world.run_for(8 * S);
        land.check_tables();
        for from in 0..count {
            let expected: BTreeSet<_> = reached(from, &joined, &selfish).into_iter().map(prefix).collect();
            for node in land.nodes[from].clone() {
                assert_eq!(land.reaches(node), expected, "seed {seed}, region {from}");
            }
        }
        let region_of: BTreeMap<_, _> =
            land.nodes.iter().enumerate().flat_map(|(r, nodes)| nodes.iter().map(move |node| (*node, r))).collect();
        let is_permitted = |(x, y): &(usize, usize)| {
            let (x, y) = (region_of[x], region_of[y]);
            x == y || reached(x, &joined, &selfish).contains(&y)
        };
        let unreachable = land.world.unreachable_pairs(2 * S);
        let all = region_of.keys().flat_map(|x| region_of.keys().map(move |y| (*x, *y))).filter(|(x, y)| x != y);
        let expected: Vec<_> = all.filter(|pair| !is_permitted(pair)).collect();
        assert_eq!(unreachable, expected, "seed {seed}");
    }
}

/// Regions to which one has a way over regions that carry for others.
fn reached(from: usize, joined: &BTreeSet<(usize, usize)>, selfish: &BTreeSet<usize>) -> BTreeSet<usize> {
    let mut known = BTreeSet::from([from]);
    let mut open = vec![from];
    while let Some(at) = open.pop() {
        if at != from && selfish.contains(&at) {
            continue;
        }
        for (a, b) in joined {
            let next = if *a == at {
                *b
            } else if *b == at {
                *a
            } else {
                continue;
            };
            if known.insert(next) {
                open.push(next);
            }
        }
    }
    known.remove(&from);
    known
}
