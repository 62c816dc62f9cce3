//! Whom a node calls of those that it was told of, second by second.

use super::*;

const OWN: NodeId = NodeId([1; 32]);

fn node(number: u8) -> NodeId {
    NodeId([number; 32])
}

fn told(number: u8) -> PublishedPeer {
    PublishedPeer { node: node(number), links: vec![format!("udp://192.0.2.{number}:4870")] }
}

/// A node among others that publish where they are; only those that live answer.
struct World {
    learned: Learned,
    now: Instant,
    around: Around,
    alive: BTreeSet<SocketAddr>,
    /// All that was called, and when.
    called: Vec<(SocketAddr, Instant)>,
}

impl World {
    fn new(own: NodeId, told_of: impl IntoIterator<Item = u8>) -> Self {
        let mut learned = Learned::new(own);
        assert!(learned.set(&told_of.into_iter().map(told).collect::<Vec<_>>()).is_empty());
        let around = Around::default();
        Self { learned, now: Instant::now(), around, alive: BTreeSet::new(), called: Vec::new() }
    }

    fn revive(&mut self, numbers: impl IntoIterator<Item = u8>) {
        self.alive.extend(numbers.into_iter().map(|number| SocketAddr::from(([192, 0, 2, number], 4870))));
    }

    fn take(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Call { number, peer } => {
                    let crate::config::Host::Address(ip) = peer.host else { panic!("{peer} is no address") };
                    let endpoint = SocketAddr::new(ip, peer.port);
                    assert!(self.learned.place(number, endpoint, None).is_some());
                    assert_eq!(self.learned.place(number, endpoint, None), None, "it is placed already");
                    self.called.push((endpoint, self.now));
                    self.around.links.insert(endpoint, false);
                }
                Step::End(endpoint) => {
                    self.around.links.remove(&endpoint);
                }
            }
        }
    }

    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds {
            for (endpoint, is_up) in &mut self.around.links {
                *is_up = self.alive.contains(endpoint);
            }
            let steps = self.learned.step(&self.around, self.now);
            self.take(steps);
            assert!(self.around.links.len() <= LEARNED_LINKS_MAX);
            self.now += Duration::from_secs(1);
        }
    }

    fn up(&self) -> usize {
        self.around.links.values().filter(|is_up| **is_up).count()
    }
}

#[test]
fn who_has_too_few_neighbours_calls_as_many_as_are_missing() {
    let mut world = World::new(OWN, 2..20);
    world.revive(2..20);
    world.run(LEARNED_GRACE.as_secs());
    assert!(world.called.is_empty(), "others may come up by themselves");
    world.run(10);
    assert_eq!((world.up(), world.called.len()), (NEIGHBOURS_WANTED, NEIGHBOURS_WANTED));
    // One of them falls silent: it is given up, and another found.
    let lost = *world.around.links.keys().next().expect("a link");
    world.alive.remove(&lost);
    world.run(LEARNED_PATIENCE.as_secs() + LEARNED_GRACE.as_secs() + 5);
    assert_eq!((world.up(), world.called.len()), (NEIGHBOURS_WANTED, NEIGHBOURS_WANTED + 1));
    assert!(!world.around.links.contains_key(&lost));
}

#[test]
fn with_enough_neighbours_nobody_is_called_and_those_that_were_are_let_go_one_by_one() {
    let mut world = World::new(OWN, 2..6);
    world.revive(2..6);
    world.around.others = [node(100), node(101)].into();
    world.around.reached = (2..6).map(|number| (node(number), true)).collect();
    world.run(300);
    assert!(world.called.is_empty());
    world.around.others.clear();
    world.run(10);
    assert_eq!(world.up(), NEIGHBOURS_WANTED);
    // Without a second way to them they are kept.
    world.around.others = [node(100), node(101)].into();
    world.around.reached = (2..6).map(|number| (node(number), false)).collect();
    world.run(LEARNED_KEEP.as_secs() + 10);
    assert_eq!(world.up(), NEIGHBOURS_WANTED);
    world.around.reached = (2..6).map(|number| (node(number), true)).collect();
    world.run(1);
    assert_eq!(world.up(), NEIGHBOURS_WANTED - 1);
    world.run(10);
    assert_eq!((world.up(), world.called.len()), (0, NEIGHBOURS_WANTED));
}

#[test]
fn who_cannot_be_reached_is_called_now_and_then_even_with_enough_neighbours() {
    let mut world = World::new(OWN, [2, 3]);
    world.revive([3]);
    world.around.others = [node(100), node(101)].into();
    world.around.reached = [(node(2), true)].into();
    world.run(LEARNED_EXPLORE.as_secs() + 5);
    assert_eq!(world.called.iter().map(|(endpoint, _)| *endpoint).collect::<Vec<_>>(), [([192, 0, 2, 3], 4870).into()]);
    world.around.reached.insert(node(3), false);
    world.run(600);
    assert_eq!((world.up(), world.called.len()), (1, 1), "the way to the other part is kept");
}

#[test]
fn who_does_not_answer_is_called_ever_more_seldom_and_sooner_by_who_is_alone() {
    let mut calls = Vec::new();
    for others in [BTreeSet::new(), [node(100)].into()] {
        let mut world = World::new(OWN, [2]);
        world.around.others = others;
        world.run(4 * 3600);
        let pauses: Vec<_> = world.called.windows(2).map(|pair| (pair[1].1 - pair[0].1).as_secs()).collect();
        assert!(pauses.is_sorted(), "{pauses:?}");
        calls.push(pauses.len());
        // The machine is elsewhere now.
        let before = world.called.len();
        world.learned.forgive();
        world.run(60);
        assert!(world.called.len() > before);
    }
    assert!(calls[0] > 200 && (8..20).contains(&calls[1]), "{calls:?}");
}

#[test]
fn the_next_place_of_a_node_is_tried_before_the_next_node() {
    let mut world = World::new(OWN, []);
    let links = ["udp://192.0.2.2:4870", "udp://198.51.100.2:4870", "udp://127.0.0.1:1", "what?"];
    let two = PublishedPeer { node: node(2), links: links.map(str::to_owned).into() };
    assert!(world.learned.set(core::slice::from_ref(&two)).is_empty());
    assert_eq!(world.learned.counts(), (1, 2));
    world.alive.insert(([198, 51, 100, 2], 4870).into());
    world.run(LEARNED_PATIENCE.as_secs() + LEARNED_GRACE.as_secs() + 10);
    assert_eq!((world.up(), world.called.len()), (1, 2));
    // It is told again and again, and nothing follows; then it moves, and then it is told no more.
    assert!(world.learned.set(core::slice::from_ref(&two)).is_empty());
    let moved = PublishedPeer { links: vec!["udp://192.0.2.2:4870".to_owned()], ..two };
    assert_eq!(world.learned.set(&[moved]), [Step::End(([198, 51, 100, 2], 4870).into())]);
    assert!(world.learned.set(&[]).is_empty() && world.learned.is_idle());
}

#[test]
fn a_link_that_is_gone_counts_as_a_failure() {
    let mut world = World::new(OWN, [2]);
    world.revive([2]);
    world.run(LEARNED_GRACE.as_secs() + 1);
    assert_eq!(world.called.len(), 1);
    // Another node answered there: the core has dropped the link.
    world.around.links.clear();
    world.run(LEARNED_PAUSE.as_secs() - 1);
    assert_eq!(world.called.len(), 1);
    world.run(LEARNED_PAUSE.as_secs());
    assert_eq!(world.called.len(), 2);
}

#[test]
fn many_nodes_do_not_call_the_same_few() {
    let mut loads = BTreeMap::new();
    for own in 0..1000u16 {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&own.to_be_bytes());
        id[31] = 7;
        let mut world = World::new(NodeId(id), 2..102);
        world.revive(2..102);
        world.run(10);
        assert_eq!(world.called.len(), NEIGHBOURS_WANTED);
        for (endpoint, _) in world.called {
            *loads.entry(endpoint).or_insert(0) += 1;
        }
    }
    // 20 each on average.
    let busiest = loads.values().max().copied().unwrap_or(0);
    assert!(loads.len() == 100 && busiest < 50, "{} are called, one by {busiest}", loads.len());
}
