//! Deploying, reporting, paying, removing.

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::SolError as _;
use atoll_base::{
    contracts::{
        DEPLOYMENTS,
        IDeployments::{self, LeaseState as State},
    },
    schema::{self, LeaseState},
};
use atoll_ledger_core::system::billing;

use crate::world::*;

fn world() -> (World, Machine, Machine) {
    let mut world = World::new();
    let (a, b) = (Machine::new(1), Machine::new(2));
    world.join(&[(&a, capacity(4, 8)), (&b, capacity(8, 16))]);
    (world, a, b)
}

#[test]
fn a_deployment_is_placed_best_fit_with_a_standby() {
    let (mut world, a, b) = world();
    let change = world.view().change;
    let id = world.deploy("hello", vec![service("web", 2, 2)], 2);
    let view = world.view();
    assert!(view.change > change);
    let (deployment, lease) = (&view.deployments[0], &view.leases[&1]);
    assert_eq!((id, deployment.id, deployment.name.as_str()), (1, 1, "hello"));
    assert_eq!(deployment.owner, user(1).address());
    assert_eq!(lease.runner(), Some(a.secret.id()), "the smaller gap is filled first");
    assert_eq!(lease.standby, b.id());
    assert_eq!((lease.state(), lease.epoch, lease.workload), (LeaseState::Granted, 1, 2));
    assert_eq!(world.node(&a).used.cpu_milli, 2_000);
    assert_eq!(world.node(&b).used.cpu_milli, 0, "a standby reserves nothing");
    assert_eq!(world.events::<IDeployments::LeaseGranted>().len(), 1);

    let sealed = schema::sealed_view(&mut Storage(&world.state), 1, 0, b.id()).expect("readable");
    assert_eq!((sealed.sealed_spec.len(), sealed.sealed_key.len()), (100, 80));
    let got = world.read(DEPLOYMENTS, &IDeployments::getCall { id });
    assert_eq!(got.services[0].sealedSpec, Bytes::from_static(&[9; 100]));
    assert_eq!(got.leases[0].node, a.id());
    assert_eq!(world.read(DEPLOYMENTS, &IDeployments::listCall { offset: 0, limit: 10 }).len(), 1);
    assert_eq!(world.read(DEPLOYMENTS, &IDeployments::leaseCall { id: 1 }).standby, b.id());
}

#[test]
fn running_is_paid_and_nothing_else() {
    let (mut world, a, b) = world();
    world.deploy("hello", vec![service("web", 2, 2)], 2);
    let provider = user(3).address();
    let before = world.balance(provider);
    world.report(&a, 1, State::Starting);
    world.pass(20_000, &[&a, &b]);
    assert_eq!(world.balance(provider), before, "starting is free");

    world.report(&a, 1, State::Running);
    world.ok(1_000);
    let start = world.now();
    world.pass(30 * 60_000, &[&a, &b]);
    world.report(&a, 1, State::Failed);
    world.ok(777);
    let price = world.lease(1).price_per_hour;
    assert_eq!(price, U256::from(2 * CORE_HOUR + 2 * 3_000_001 + 11));
    let cost = price * U256::from(world.now() - start) / U256::from(3_600_000);
    assert_eq!(world.balance(provider) - before, cost, "exact, however often it was settled");
    let deployment = &world.view().deployments[0];
    assert_eq!(deployment.charged, cost);
    let charged: U256 = world.events::<IDeployments::Charged>().iter().map(|e| e.amount).sum();
    assert!(charged > U256::ZERO && charged <= cost);

    let before = world.balance(provider);
    world.pass(10 * 60_000, &[&a, &b]);
    assert_eq!(world.balance(provider), before, "what failed is free");
}

#[test]
fn an_empty_escrow_suspends_and_funding_resumes() {
    let (mut world, a, b) = world();
    let id = world.deploy("hello", vec![service("web", 2, 2)], 1);
    world.report(&a, 1, State::Running);
    world.ok(1_000);
    world.pass(3_600_000 - 4_000, &[&a, &b]);
    assert_eq!(world.lease(1).state(), LeaseState::Running);
    world.pass(10_000, &[&a, &b]);
    let (lease, deployment) = (world.lease(1), world.view().deployments[0].clone());
    assert_eq!(lease.state(), LeaseState::Suspended);
    assert!(lease.why.contains("fund it"), "{}", lease.why);
    assert!(deployment.suspended && deployment.escrow.is_zero());
    assert_eq!((lease.node, lease.epoch), (a.id(), 1), "its data stays where it is");
    assert_eq!(world.node(&a).used.cpu_milli, 0);
    assert_eq!(world.node(&a).used.disk_bytes, GIB);

    let report = IDeployments::reportCall { lease: 1, epoch: 1, state: State::Running, why: String::new() };
    let data = world.refusal(a.account.address(), DEPLOYMENTS, U256::ZERO, &report);
    assert!(IDeployments::Invalid::abi_decode(&data).expect("Invalid").why.contains("not to run now"));

    let fund = IDeployments::fundCall { id };
    let little = world.refusal(user(2).address(), DEPLOYMENTS, U256::from(1), &fund);
    let refusal = IDeployments::NotEnoughEscrow::abi_decode(&little).expect("NotEnoughEscrow");
    assert_eq!((refusal.needed, refusal.given), (lease.price_per_hour, U256::from(1)));
    world.call(&user(2), DEPLOYMENTS, lease.price_per_hour, &fund);
    world.ok(1_000);
    assert_eq!(world.events::<IDeployments::Resumed>().len(), 1);
    let lease = world.lease(1);
    assert_eq!((lease.state(), lease.node, lease.epoch, lease.standby), (LeaseState::Granted, a.id(), 1, b.id()));
    assert_eq!(world.node(&a).used.cpu_milli, 2_000);
    assert!(!world.view().deployments[0].suspended);
}

#[test]
fn a_suspended_app_whose_place_is_taken_resumes_elsewhere() {
    let (mut world, a, b) = world();
    let id = world.deploy("hello", vec![service("web", 4, 2)], 1);
    world.report(&a, 1, State::Running);
    world.pass(3_700_000, &[&a, &b]);
    assert_eq!(world.lease(1).state(), LeaseState::Suspended);
    world.deploy("other", vec![service("web", 3, 2)], 1);
    assert_eq!(world.lease(2).node, a.id());
    world.call(&user(1), DEPLOYMENTS, COIN / U256::from(2), &IDeployments::fundCall { id });
    world.ok(1_000);
    let lease = world.lease(1);
    assert_eq!((lease.state(), lease.node), (LeaseState::Granted, b.id()));
    assert!(lease.epoch > 1, "another node: another epoch");
}

#[test]
fn removing_refunds_and_frees_the_name() {
    let (mut world, a, b) = world();
    let id = world.deploy("hello", vec![service("web", 2, 2)], 5);
    world.report(&a, 1, State::Running);
    world.pass(600_000, &[&a, &b]);
    let remove = IDeployments::removeCall { id };
    let data = world.refusal(user(2).address(), DEPLOYMENTS, U256::ZERO, &remove);
    assert_eq!(IDeployments::NotOwner::abi_decode(&data).expect("NotOwner").owner, user(1).address());

    let before = world.balance(user(1).address());
    world.call(&user(1), DEPLOYMENTS, U256::ZERO, &remove);
    let done = world.ok(1_000);
    let refund = world.events::<IDeployments::Removed>()[0].refund;
    let fee = U256::from(done.gas_used * 1_000);
    assert_eq!(world.balance(user(1).address()), before + refund - fee);
    assert_eq!(world.balance(DEPLOYMENTS), U256::ZERO);
    assert_eq!(world.view().deployments.len(), 0);
    assert_eq!(world.lease(1).state(), LeaseState::Ended);
    assert_eq!(world.node(&a).used, Default::default());
    let sealed = schema::sealed_view(&mut Storage(&world.state), id, 0, a.id()).expect("readable");
    assert_eq!(sealed, Default::default(), "its secrets are gone");
    assert_eq!(world.read(DEPLOYMENTS, &IDeployments::byNameCall { name: "hello".into() }), 0);
    let data = world.refusal(user(1).address(), DEPLOYMENTS, U256::ZERO, &remove);
    assert!(IDeployments::Invalid::abi_decode(&data).expect("Invalid").why.contains("was removed"));
    assert_eq!(world.deploy("hello", vec![service("web", 2, 2)], 1), 2);
}

#[test]
fn every_refusal_says_why() {
    let (mut world, _, b) = world();
    let owner = user(1).address();
    world.deploy("hello", vec![service("web", 1, 1)], 1);
    let (good, price) = world.deploy_call("other", vec![service("web", 1, 1)]);
    let invalid = |call: &IDeployments::deployCall, wanted: &str| {
        let data = world.refusal(owner, DEPLOYMENTS, price, call);
        let why = IDeployments::Invalid::abi_decode(&data).expect("Invalid").why;
        assert!(why.contains(wanted), "{why}");
    };
    let with = |change: &dyn Fn(&mut IDeployments::deployCall)| {
        let mut call = good.clone();
        change(&mut call);
        call
    };
    invalid(&with(&|c| c.name = "-x".into()), "the name must have");
    invalid(&with(&|c| c.services.clear()), "1 to 16 services");
    invalid(&with(&|c| c.services[0].replicas = 0), "1 to 16 replicas");
    invalid(&with(&|c| c.services[0].name = "W".into()), "not a DNS label");
    invalid(&with(&|c| c.services[0].cpuMilli = 0), "needs some CPU");
    invalid(&with(&|c| c.services[0].openPorts = vec![0]), "ports");
    invalid(&with(&|c| c.services[0].constraints = vec!["x".into()]), "key=value");
    invalid(&with(&|c| c.services[0].sealedSpec = Bytes::new()), "no sealed spec");
    invalid(&with(&|c| c.services[0].sealedSpec = vec![0; 16_385].into()), "longer than");
    invalid(&with(&|c| c.services = vec![c.services[0].clone(); 2]), "two services are called web");
    invalid(&with(&|c| c.keys.truncate(1)), "no key for node");
    invalid(&with(&|c| c.keys.push(c.keys[0].clone())), "two for one");
    invalid(&with(&|c| c.keys[0].key = Bytes::new()), "1 to 128 bytes");

    let data = world.refusal(owner, DEPLOYMENTS, price, &with(&|c| c.name = "hello".into()));
    assert_eq!(IDeployments::NameTaken::abi_decode(&data).expect("NameTaken").owner, owner);
    let data = world.refusal(owner, DEPLOYMENTS, price, &with(&|c| c.expected[0].node = b.id()));
    assert!(IDeployments::PlacementChanged::abi_decode(&data).is_ok());
    let data = world.refusal(owner, DEPLOYMENTS, price - U256::from(1), &good);
    let refusal = IDeployments::NotEnoughEscrow::abi_decode(&data).expect("NotEnoughEscrow");
    assert_eq!((refusal.needed, refusal.given), (price, price - U256::from(1)));
    let data = world.refusal(owner, DEPLOYMENTS, U256::ZERO, &IDeployments::getCall { id: 9 });
    assert_eq!(IDeployments::UnknownDeployment::abi_decode(&data).expect("UnknownDeployment").id, 9);

    let quote = IDeployments::quoteCall { services: vec![service("web", 9, 1)] };
    let data = world.refusal(owner, DEPLOYMENTS, U256::ZERO, &quote);
    let refusal = IDeployments::NoCapacity::abi_decode(&data).expect("NoCapacity");
    let b = b.secret.id().short();
    let why = format!("service web needs 9 cores; the nearest fit is node {b} with 8 of 8 cores free");
    assert_eq!((refusal.service, refusal.why), (0, why));
}

#[test]
fn only_the_leases_node_reports_and_only_with_its_epoch() {
    let (mut world, a, b) = world();
    world.deploy("hello", vec![service("web", 2, 2)], 2);
    let call = |epoch, state| IDeployments::reportCall { lease: 1, epoch, state, why: "w".repeat(1_000) };
    for (from, epoch) in [(&b, 1), (&a, 2), (&a, 0)] {
        let call = call(epoch, State::Running);
        let data = world.refusal(from.account.address(), DEPLOYMENTS, U256::ZERO, &call);
        assert_eq!(IDeployments::StaleEpoch::abi_decode(&data).expect("StaleEpoch").epoch, 1);
    }
    let data = world.refusal(a.account.address(), DEPLOYMENTS, U256::ZERO, &call(1, State::Ended));
    assert!(IDeployments::Invalid::abi_decode(&data).is_ok());
    world.free(&a, DEPLOYMENTS, &call(1, State::Starting));
    world.ok(100);
    let lease = world.lease(1);
    assert_eq!((lease.state(), lease.why.len(), lease.since_ms), (LeaseState::Starting, 256, world.now()));
    let change = world.view().change;
    world.free(&a, DEPLOYMENTS, &call(1, State::Starting));
    world.ok(100);
    assert_eq!(world.view().change, change, "the same again is nothing new");
}

#[test]
fn keys_are_shared_by_those_who_hold_them_with_those_who_need_them() {
    let mut world = World::new();
    let (a, b, c) = (Machine::new(1), Machine::new(2), Machine::new(3));
    world.join(&[(&a, capacity(4, 8))]);
    world.deploy("hello", vec![service("web", 2, 2)], 2);
    assert_eq!(world.lease(1).standby, B256::ZERO);
    world.join(&[(&b, capacity(4, 8)), (&c, capacity(4, 8))]);
    let standby = world.lease(1).standby;
    assert!(standby == b.id() || standby == c.id(), "whoever came got the place");
    let (standby, other) = if standby == b.id() { (&b, &c) } else { (&c, &b) };
    let share = |node: &Machine, epoch| IDeployments::shareKeyCall {
        lease: 1,
        epoch,
        node: node.id(),
        key: Bytes::from_static(&[1; 80]),
    };
    let refused = |world: &World, from: &Machine, call: &IDeployments::shareKeyCall| {
        world.refusal(from.account.address(), DEPLOYMENTS, U256::ZERO, call)
    };
    assert!(IDeployments::StaleEpoch::abi_decode(&refused(&world, &a, &share(standby, 2))).is_ok());
    for (from, to) in [(&a, other), (standby, standby), (&a, &a)] {
        assert!(IDeployments::Invalid::abi_decode(&refused(&world, from, &share(to, 1))).is_ok());
    }
    world.free(&a, DEPLOYMENTS, &share(standby, 1));
    world.ok(100);
    let sealed = schema::sealed_view(&mut Storage(&world.state), 1, 0, standby.id()).expect("readable");
    assert_eq!(sealed.sealed_key.len(), 80);
    assert!(IDeployments::Invalid::abi_decode(&refused(&world, &a, &share(standby, 1))).is_ok(), "it has it");
}

#[test]
fn replicas_spread_and_several_services_share_a_node() {
    let (mut world, a, b) = world();
    let mut web = service("web", 1, 1);
    web.replicas = 2;
    world.deploy("shop", vec![web, service("db", 1, 1)], 1);
    let view = world.view();
    let nodes: Vec<B256> = view.leases.values().map(|lease| lease.node).collect();
    assert_eq!(nodes, [a.id(), b.id(), a.id()]);
    let workloads: Vec<u16> = view.leases.values().map(|lease| lease.workload).collect();
    assert_eq!(workloads, [2, 2, 3]);
}

#[test]
fn coins_sent_to_a_system_contract_without_a_purpose_come_back() {
    let (mut world, ..) = world();
    world.send(&user(1), DEPLOYMENTS, COIN / U256::from(4), Bytes::new());
    let done = world.block(100);
    assert!(!done.receipts[0].success);
    assert_eq!(world.balance(DEPLOYMENTS), U256::ZERO);
    let data = world.refusal(user(1).address(), DEPLOYMENTS, U256::from(1), &IDeployments::countCall {});
    assert_eq!(alloy_sol_types::Revert::abi_decode(&data).expect("a reason").reason, "this function takes no coins");
    assert_eq!(world.balance(Address::ZERO), U256::ZERO);
}

#[test]
fn prices_are_those_of_the_charter() {
    let prices = charter().prices;
    let needs = capacity(2, 2);
    let disk = U256::from(11 * 100);
    assert_eq!(
        billing::price_per_hour(&prices, needs),
        Some(U256::from(2 * CORE_HOUR) + U256::from(2 * 3_000_001) + disk)
    );
    let dear = atoll_base::charter::Prices { cpu_core_hour: U256::MAX, ..prices };
    assert_eq!(billing::price_per_hour(&dear, needs), None);
}

#[test]
fn a_shorter_record_leaves_nothing_of_the_longer_one() {
    let (mut world, a, _) = world();
    world.deploy("hello", vec![service("web", 2, 2)], 2);
    let words = |world: &World| world.state.words(DEPLOYMENTS).count();
    let report = |why: &str| IDeployments::reportCall { lease: 1, epoch: 1, state: State::Failed, why: why.into() };
    world.free(&a, DEPLOYMENTS, &report("short"));
    world.ok(100);
    let short = words(&world);
    world.free(&a, DEPLOYMENTS, &report(&"long".repeat(60)));
    world.ok(100);
    assert!(words(&world) > short + 5);
    world.free(&a, DEPLOYMENTS, &report("short"));
    world.ok(100);
    assert_eq!(words(&world), short);
}

#[test]
fn the_largest_deployment_fits_a_transaction_and_its_nodes_report_for_free() {
    let mut world = World::new();
    let (a, b) = (Machine::new(1), Machine::new(2));
    world.join(&[(&a, capacity(400, 800)), (&b, capacity(400, 800))]);
    let services = (0..16).map(|n| IDeployments::Service {
        replicas: 4,
        sealedSpec: vec![3; 1_000].into(),
        constraints: vec![],
        ..service(&format!("s{n}"), 1, 1)
    });
    world.deploy("huge", services.collect(), 1);
    assert_eq!(world.view().leases.len(), 64);
    for lease in 1..=64 {
        let machine = if world.lease(lease).node == a.id() { &a } else { &b };
        world.report(machine, lease, State::Running);
        if lease % 8 == 0 {
            world.ok(100);
        }
    }
    assert!(world.view().leases.values().all(|lease| lease.state() == LeaseState::Running));
    world.call(&user(1), DEPLOYMENTS, U256::ZERO, &IDeployments::removeCall { id: 1 });
    world.ok(100);
    assert_eq!(world.view().leases.len(), 0);
}
