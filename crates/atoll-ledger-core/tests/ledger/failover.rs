//! Nodes die, the ledger moves what they ran.

use alloy_primitives::{B256, U256};
use atoll_base::{
    contracts::{
        DEPLOYMENTS,
        IDeployments::{self, LeaseState as State},
        INodes, NODES,
    },
    schema::LeaseState,
};

use crate::world::*;

fn world() -> (World, [Machine; 3]) {
    let mut world = World::new();
    let machines = [Machine::new(1), Machine::new(2), Machine::new(3)];
    world.join(&[(&machines[0], capacity(4, 8)), (&machines[1], capacity(6, 8)), (&machines[2], capacity(8, 8))]);
    (world, machines)
}

#[test]
fn the_standby_takes_over_at_once() {
    let (mut world, [a, b, c]) = world();
    world.deploy("hello", vec![service("web", 2, 2)], 2);
    world.report(&a, 1, State::Running);
    world.pass(10_000, &[&a, &b, &c]);
    assert_eq!((world.lease(1).node, world.lease(1).standby), (a.id(), b.id()));
    let change = world.view().change;
    let provider = user(3).address();
    let before = world.balance(provider);

    world.pass(TIMEOUT_MS, &[&b, &c]);
    world.beat(&[&b, &c]);
    world.ok(250);
    let lease = world.lease(1);
    assert_eq!((lease.node, lease.standby, lease.epoch), (b.id(), c.id(), 2));
    assert_eq!((lease.state(), lease.since_ms), (LeaseState::Granted, world.now()));
    assert_eq!(lease.why, format!("node {} sent no heartbeat for 6.2 s", a.secret.id().short()));
    let moved = &world.events::<IDeployments::LeaseMoved>()[0];
    assert_eq!((moved.from, moved.to, moved.epoch), (a.id(), b.id(), 2));
    assert!(world.view().change > change);
    assert_eq!(world.node(&a).used, Default::default());
    // It is paid up to its last sign of life.
    let paid = world.balance(provider) - before;
    assert_eq!(paid, world.lease(1).price_per_hour * U256::from(6_000) / U256::from(3_600_000));

    // The dead node comes back: its report is stale, and it is nobody's standby but may become one.
    let report = IDeployments::reportCall { lease: 1, epoch: 1, state: State::Running, why: String::new() };
    world.beat(&[&a]);
    world.free(&a, DEPLOYMENTS, &report);
    let done = world.block(100);
    assert!(done.receipts[0].success && !done.receipts[1].success);
    assert_eq!(world.lease(1).node, b.id());
}

#[test]
fn without_a_fit_node_it_waits_and_is_placed_when_one_comes() {
    let mut world = World::new();
    let (a, b) = (Machine::new(1), Machine::new(2));
    world.join(&[(&a, capacity(4, 8)), (&b, capacity(1, 1))]);
    world.deploy("hello", vec![service("web", 2, 2)], 2);
    assert_eq!(world.lease(1).standby, B256::ZERO, "the other node is too small");
    world.report(&a, 1, State::Running);
    world.ok(100);
    world.pass(10_000, &[&b]);
    let lease = world.lease(1);
    assert_eq!((lease.state(), lease.node, lease.workload), (LeaseState::Waiting, B256::ZERO, 0));
    assert!(lease.why.ends_with("and no other node fits"), "{}", lease.why);
    let epoch = lease.epoch;
    world.pass(20_000, &[&b]);
    assert_eq!(world.lease(1), lease);

    world.beat(&[&a]);
    world.ok(100);
    let lease = world.lease(1);
    assert_eq!((lease.state(), lease.node), (LeaseState::Granted, a.id()));
    assert!(lease.epoch > epoch && lease.workload == 3, "a new fencing token and a new address");
    assert!(lease.why.contains("has room for it now"), "{}", lease.why);
}

#[test]
fn only_a_node_that_holds_the_key_takes_over() {
    let (mut world, [a, b, c]) = world();
    world.deploy("hello", vec![service("web", 3, 2)], 2);
    assert_eq!((world.lease(1).node, world.lease(1).standby), (a.id(), b.id()));
    let big = world.deploy("big", vec![service("web", 5, 2)], 1);
    assert_eq!(world.lease(2).node, b.id());
    world.pass(10_000, &[&b, &c]);
    let lease = world.lease(1);
    assert_eq!(lease.state(), LeaseState::Waiting, "the standby is full, and nobody can give the third node the key");
    assert!(lease.why.ends_with("and no node that fits holds its key"), "{}", lease.why);

    world.call(&user(1), DEPLOYMENTS, U256::ZERO, &IDeployments::removeCall { id: big });
    world.beat(&[&b, &c]);
    world.ok(100);
    let lease = world.lease(1);
    assert_eq!((lease.state(), lease.node, lease.standby), (LeaseState::Granted, b.id(), c.id()));
    // With the key handed on, the third node is a full standby.
    let share = IDeployments::shareKeyCall { lease: 1, epoch: lease.epoch, node: c.id(), key: vec![1; 80].into() };
    world.free(&b, DEPLOYMENTS, &share);
    world.beat(&[&c]);
    world.ok(100);
    world.pass(10_000, &[&c]);
    assert_eq!(world.lease(1).node, c.id());
}

#[test]
fn a_lost_standby_is_replaced() {
    let (mut world, [a, b, c]) = world();
    world.deploy("hello", vec![service("web", 2, 2)], 2);
    world.pass(10_000, &[&a, &c]);
    let lease = world.lease(1);
    assert_eq!((lease.node, lease.standby, lease.epoch), (a.id(), c.id(), 1));
    world.pass(10_000, &[&a]);
    assert_eq!(world.lease(1).standby, B256::ZERO);
    world.beat(&[&a, &b]);
    world.ok(100);
    assert_eq!(world.lease(1).standby, b.id());
}

#[test]
fn another_providers_node_is_the_better_standby() {
    let mut world = World::new();
    let (a, b, other) = (Machine::new(1), Machine::new(2), Machine::new(3));
    world.join(&[(&a, capacity(4, 8)), (&b, capacity(4, 8))]);
    let claim = other.claim(user(4).address(), capacity(64, 64), &[]);
    let call = other.register(world.region, &claim);
    world.call(&user(4), NODES, U256::ZERO, &call);
    world.ok(100);
    world.beat(&[&a, &b, &other]);
    world.ok(100);
    world.deploy("hello", vec![service("web", 2, 2)], 2);
    assert_eq!(world.lease(1).standby, other.id());
}

#[test]
fn when_all_nodes_die_at_once_everything_waits_and_comes_back() {
    let (mut world, [a, b, c]) = world();
    let mut web = service("web", 1, 1);
    web.replicas = 3;
    world.deploy("shop", vec![web], 2);
    world.pass(TIMEOUT_MS, &[]);
    assert_eq!(world.events::<INodes::NodeOffline>().len(), 3);
    assert!(world.view().leases.values().all(|lease| lease.state() == LeaseState::Waiting));
    world.beat(&[&a, &b, &c]);
    world.ok(100);
    let mut nodes: Vec<B256> = world.view().leases.values().map(|lease| lease.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    assert_eq!(nodes.len(), 3, "spread again");
}

#[test]
fn an_outage_of_the_ledger_moves_nothing_and_costs_nothing() {
    let (mut world, [a, b, c]) = world();
    world.deploy("hello", vec![service("web", 2, 2)], 1);
    world.report(&a, 1, State::Running);
    world.pass(8_000, &[&a, &b, &c]);
    let (before, provider) = (world.lease(1), user(3).address());
    let ran = world.now() - before.since_ms;
    let earned = world.balance(provider);

    // The whole region is switched off for a day. Its first block has no heartbeats yet.
    world.ok(24 * 3_600_000);
    let lease = world.lease(1);
    assert_eq!((lease.state(), lease.node, lease.epoch), (LeaseState::Running, a.id(), 1));
    let cost = before.price_per_hour * U256::from(ran) / U256::from(3_600_000);
    assert_eq!(world.balance(provider) - earned, cost, "paid up to the last block before it");
    assert!(!world.view().deployments[0].suspended);

    // Who comes back in time goes on, who does not is lost after the usual time.
    world.pass(TIMEOUT_MS, &[&b, &c]);
    assert_eq!(world.lease(1).node, a.id());
    world.beat(&[&b, &c]);
    world.ok(100);
    assert_eq!(world.lease(1).node, b.id());
    assert_eq!(
        world.events::<INodes::NodeOffline>()[0].why,
        format!("node {} sent no heartbeat for 6.1 s", a.secret.id().short())
    );
}
