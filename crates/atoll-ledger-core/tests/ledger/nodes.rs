//! The node registry through its ABI.

use alloy_primitives::{B256, Bytes, TxKind, U256};
use alloy_sol_types::{SolCall as _, SolError as _};
use atoll_base::{
    contracts::{CHARTER, ICharter, INodes, NODES},
    schema::Capacity,
};
use atoll_ledger_core::{Invalid, execute::Skip, limits};

use crate::world::*;

#[test]
fn a_node_registers_and_comes_online_with_its_first_heartbeat() {
    let mut world = World::new();
    let machine = Machine::new(1);
    let claim = machine.claim(user(3).address(), capacity(4, 8), &["zone=attic"]);
    let call = machine.register(world.region, &claim);
    world.call(&user(3), NODES, U256::ZERO, &call);
    world.ok(1_000);
    assert_eq!(world.events::<INodes::NodeRegistered>().len(), 1);
    assert!(!world.node(&machine).online);
    let change = world.view().change;

    world.beat(&[&machine]);
    let done = world.ok(1_000);
    assert!(done.transactions.len() == 1 && done.gas_used > 0);
    assert_eq!(world.events::<INodes::NodeOnline>().len(), 1);
    let node = world.read(NODES, &INodes::getCall { id: machine.id() });
    assert!(node.online);
    assert_eq!((node.heartbeatMs, node.registeredMs), (world.now(), world.now() - 1_000));
    assert_eq!(node.labels, ["zone=attic"]);
    assert_eq!(world.balance(machine.account.address()), U256::ZERO, "it needs no coins for that");
    assert!(world.view().change > change);

    let change = world.view().change;
    world.pass(10_000, &[&machine]);
    assert!(world.node(&machine).online);
    assert_eq!(world.view().change, change, "heartbeats change nothing that anybody acts on");
    assert_eq!(world.read(NODES, &INodes::countCall {}), U256::from(1));
    assert_eq!(world.read(NODES, &INodes::listCall { offset: U256::ZERO, limit: U256::MAX }).len(), 1);
    assert_eq!(world.read(NODES, &INodes::listCall { offset: U256::from(1), limit: U256::MAX }).len(), 0);
}

#[test]
fn nobody_registers_a_machine_that_is_not_theirs() {
    let mut world = World::new();
    let (machine, other) = (Machine::new(1), Machine::new(2));
    let provider = user(3).address();
    let good = machine.register(world.region, &machine.claim(provider, capacity(4, 8), &[]));
    let refused = |world: &World, from, call: &INodes::registerCall| {
        let data = world.refusal(from, NODES, U256::ZERO, call);
        INodes::BadClaim::abi_decode(&data).expect("a BadClaim").why
    };
    // Another provider repeats the call.
    assert!(refused(&world, user(4).address(), &good).contains("signature"));
    let mut more = good.clone();
    more.total.cpuMilli += 1;
    assert!(refused(&world, provider, &more).contains("signature"));
    let mut foreign = good.clone();
    foreign.id = other.id();
    assert!(refused(&world, provider, &foreign).contains("signature"));
    let mut short = good.clone();
    short.idSignature = Bytes::from_static(&[1; 63]);
    assert!(refused(&world, provider, &short).contains("64 bytes"));
    let mut label = good.clone();
    label.labels = vec!["nothing".into()];
    assert!(refused(&world, provider, &label).contains("key=value"));
    let mut labels = good.clone();
    labels.labels = vec!["a=b".into(); 33];
    let data = world.refusal(provider, NODES, U256::ZERO, &labels);
    assert_eq!(INodes::TooMany::abi_decode(&data).expect("a TooMany").max, U256::from(32));

    world.call(&user(3), NODES, U256::ZERO, &good);
    world.ok(100);
    let stolen = machine.register(world.region, &machine.claim(user(4).address(), capacity(4, 8), &[]));
    let data = world.refusal(user(4).address(), NODES, U256::ZERO, &stolen);
    assert_eq!(INodes::NotYourNode::abi_decode(&data).expect("a NotYourNode").provider, provider);
    let mut claim = other.claim(provider, capacity(4, 8), &[]);
    claim.account = machine.account.address();
    assert!(refused(&world, provider, &other.register(world.region, &claim)).contains("another node"));
}

#[test]
fn a_provider_updates_what_its_node_offers() {
    let mut world = World::new();
    let machine = Machine::new(1);
    world.join(&[(&machine, capacity(4, 8))]);
    let mut claim = machine.claim(user(3).address(), capacity(2, 2), &["fast=no"]);
    claim.account = user(7).address();
    let call = machine.register(world.region, &claim);
    world.call(&user(3), NODES, U256::ZERO, &call);
    world.ok(100);
    let node = world.node(&machine);
    assert_eq!((node.total, node.online), (capacity(2, 2), true));
    assert_eq!(world.read(NODES, &INodes::countCall {}), U256::from(1));
    // The former account is nobody now.
    world.beat(&[&machine]);
    assert!(matches!(skipped(&world.propose(100)), Skip::Invalid(Invalid::NotFree { .. })));
}

#[test]
fn free_calls_are_few_and_only_those() {
    let mut world = World::new();
    let machine = Machine::new(1);
    world.join(&[(&machine, capacity(4, 8))]);
    for _ in 0..=limits::FREE_CALLS_MAX {
        world.beat(&[&machine]);
    }
    let done = world.propose(100);
    assert_eq!(done.transactions.len(), limits::FREE_CALLS_MAX as usize);
    assert!(matches!(skipped(&done), Skip::Invalid(Invalid::NotFree { .. })));
    let other = INodes::countCall {}.abi_encode();
    let tx = world.sign(&machine.account, TxKind::Call(NODES), U256::ZERO, other.into(), 0);
    world.push(tx);
    assert!(matches!(skipped(&world.propose(100)), Skip::Invalid(Invalid::NotFree { .. })));
    let tx = world.sign(&machine.account, TxKind::Create, U256::ZERO, Bytes::new(), 0);
    world.push(tx);
    assert!(matches!(skipped(&world.propose(100)), Skip::Invalid(Invalid::NotFree { .. })));
}

#[test]
fn a_silent_node_goes_offline_and_comes_back() {
    let mut world = World::new();
    let machine = Machine::new(1);
    world.join(&[(&machine, capacity(4, 8))]);
    world.pass(TIMEOUT_MS, &[]);
    assert!(world.node(&machine).online, "exactly at the limit it is still in time");
    let done = world.ok(250);
    let events = world.events::<INodes::NodeOffline>();
    let id = machine.secret.id().short();
    assert_eq!(events[0].why, format!("node {id} sent no heartbeat for 6.2 s"));
    assert_eq!(done.receipts.len(), 1, "the end of the block has a receipt of its own");
    assert!(!world.node(&machine).online);
    world.ok(1_000);
    assert_eq!(world.logs.len(), 0);
    world.beat(&[&machine]);
    world.ok(1_000);
    assert!(world.node(&machine).online);
    world.pass(TIMEOUT_MS + 1, &[]);
    assert!(!world.node(&machine).online);
}

#[test]
fn the_charter_tells_about_the_region() {
    let world = World::new();
    assert_eq!(world.read(CHARTER, &ICharter::regionIdCall {}), world.region.word());
    assert_eq!(world.read(CHARTER, &ICharter::nameCall {}), "home");
    assert_eq!(world.read(CHARTER, &ICharter::currencyCall {}).symbol, "SHL");
    assert_eq!(world.read(CHARTER, &ICharter::pricesCall {}).cpuCoreHour, U256::from(CORE_HOUR));
    assert_eq!(world.read(CHARTER, &ICharter::heartbeatCall {}).timeoutMs, TIMEOUT_MS);
    assert_eq!(world.read(CHARTER, &ICharter::supplyCall {}), COIN * U256::from(4));
}

#[test]
fn unknown_nodes_are_named() {
    let world = World::new();
    let id = B256::repeat_byte(3);
    let data = world.refusal(user(1).address(), NODES, U256::ZERO, &INodes::getCall { id });
    assert_eq!(INodes::UnknownNode::abi_decode(&data).expect("an UnknownNode").id, id);
    assert_eq!(capacity(1, 0), Capacity { cpu_milli: 1_000, memory_bytes: 0, disk_bytes: 100 * GIB });
}
