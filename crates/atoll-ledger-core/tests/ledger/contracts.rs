//! System contracts and user contracts together: raw bytecode that forwards its input by each kind of call.

use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use alloy_sol_types::{SolCall as _, SolError as _, SolValue as _};
use atoll_base::contracts::{DEPLOYMENTS, IDeployments, INodes, NODES};
use atoll_ledger_core::{
    Env,
    execute::{Answer, Question, estimate_gas},
};

use crate::world::*;

const CALL: u8 = 0xf1;
const CALLCODE: u8 = 0xf2;
const DELEGATECALL: u8 = 0xf4;
const STATICCALL: u8 = 0xfa;

/// Code that passes its input (and for CALL its value) on to `target`, and answers as `target` does. With
/// `then_revert` it reverts afterwards in any case.
fn forwarder(target: Address, kind: u8, then_revert: bool) -> Bytes {
    let mut code = vec![0x36, 0x5f, 0x5f, 0x37]; // CALLDATACOPY(0, 0, CALLDATASIZE)
    code.extend([0x5f, 0x5f, 0x36, 0x5f]); // out size, out offset, in size, in offset
    if matches!(kind, CALL | CALLCODE) {
        code.push(0x34); // CALLVALUE
    }
    code.push(0x73);
    code.extend(target.as_slice());
    code.extend([0x5a, kind]); // GAS, the call
    code.extend([0x3d, 0x5f, 0x5f, 0x3e]); // RETURNDATACOPY(0, 0, RETURNDATASIZE)
    if then_revert {
        code.extend([0x3d, 0x5f, 0xfd]);
    } else {
        let ok = code.len() as u8 + 6;
        code.extend([0x60, ok, 0x57, 0x3d, 0x5f, 0xfd, 0x5b, 0x3d, 0x5f, 0xf3]);
    }
    code.into()
}

/// Puts code on the ledger.
fn install(world: &mut World, code: &Bytes) -> Address {
    let mut init = vec![0x60, code.len() as u8, 0x80, 0x60, 11, 0x5f, 0x39, 0x5f, 0xf3];
    init.resize(11, 0);
    init.extend_from_slice(code);
    let creator = user(4);
    let tx = world.sign(&creator, TxKind::Create, U256::ZERO, init.into(), 1_000);
    let nonce = alloy_consensus::Transaction::nonce(tx.inner());
    world.push(tx);
    world.ok(100);
    creator.address().create(nonce)
}

#[test]
fn contracts_read_and_write_system_contracts() {
    let mut world = World::new();
    let machine = Machine::new(1);
    world.join(&[(&machine, capacity(4, 8))]);
    let count = INodes::countCall {}.abi_encode();
    for kind in [CALL, STATICCALL] {
        let proxy = install(&mut world, &forwarder(NODES, kind, false));
        match world.ask(user(1).address(), proxy, U256::ZERO, count.clone()) {
            Answer::Returned { output, .. } => assert_eq!(U256::abi_decode(&output), Ok(U256::from(1))),
            other => panic!("{other:?}"),
        }
    }
    for kind in [DELEGATECALL, CALLCODE] {
        let proxy = install(&mut world, &forwarder(NODES, kind, false));
        match world.ask(user(1).address(), proxy, U256::ZERO, count.clone()) {
            Answer::Reverted { output, .. } => {
                let why = alloy_sol_types::Revert::abi_decode(&output).expect("a reason").reason;
                assert!(why.contains("another account"), "{why}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_contract_owns_a_deployment() {
    let mut world = World::new();
    let machine = Machine::new(1);
    world.join(&[(&machine, capacity(4, 8))]);
    let dao = install(&mut world, &forwarder(DEPLOYMENTS, CALL, false));
    let (deploy, price) = world.deploy_call("forever", vec![service("web", 1, 1)]);
    world.call(&user(1), dao, price * U256::from(3), &deploy);
    world.ok(100);
    assert_eq!(world.view().deployments[0].owner, dao);
    assert_eq!(world.balance(DEPLOYMENTS), price * U256::from(3));
    world.call(&user(2), dao, U256::ZERO, &IDeployments::removeCall { id: 1 });
    world.ok(100);
    assert_eq!(world.balance(dao), price * U256::from(3), "the contract got the refund");
}

#[test]
fn a_revert_outside_undoes_what_was_done_inside() {
    let mut world = World::new();
    let machine = Machine::new(1);
    world.join(&[(&machine, capacity(4, 8))]);
    let fickle = install(&mut world, &forwarder(DEPLOYMENTS, CALL, true));
    let (deploy, price) = world.deploy_call("never", vec![service("web", 1, 1)]);
    let before = world.view();
    world.call(&user(1), fickle, price, &deploy);
    let done = world.block(100);
    assert!(!done.receipts[0].success);
    assert_eq!(done.receipts[0].logs, vec![]);
    assert_eq!(world.view(), before);
    assert_eq!(world.balance(DEPLOYMENTS), U256::ZERO);
}

#[test]
fn a_static_call_changes_nothing() {
    let mut world = World::new();
    let machine = Machine::new(1);
    world.join(&[(&machine, capacity(4, 8))]);
    let watcher = install(&mut world, &forwarder(DEPLOYMENTS, STATICCALL, false));
    world.deploy("hello", vec![service("web", 1, 1)], 2);
    let before = world.view();
    // The owner's own call, but through STATICCALL: refused before the owner is even looked at.
    let (deploy, _) = world.deploy_call("other", vec![service("web", 1, 1)]);
    for input in [IDeployments::removeCall { id: 1 }.abi_encode(), deploy.abi_encode()] {
        world.send(&user(1), watcher, U256::ZERO, input);
        let done = world.block(100);
        assert!(!done.receipts[0].success);
        assert_eq!(world.view(), before);
    }
}

#[test]
fn running_out_of_gas_leaves_nothing_behind() {
    let mut world = World::new();
    let machine = Machine::new(1);
    world.join(&[(&machine, capacity(4, 8))]);
    let (deploy, price) = world.deploy_call("hello", vec![service("web", 1, 1)]);
    let env = Env::after(&world.charter, world.region, &world.tip, world.now() + 1);
    let question = Question {
        from: user(1).address(),
        to: Some(DEPLOYMENTS),
        value: price,
        input: deploy.abi_encode().into(),
        ..Question::default()
    };
    let enough = estimate_gas(&env, &world.state, &question).expect("usable").expect("it works");
    let ask = |gas_limit| {
        let question = Question { gas_limit, ..question.clone() };
        atoll_ledger_core::execute::call(&env, &world.state, &question).expect("usable")
    };
    assert!(matches!(ask(enough), Answer::Returned { .. }));
    for share in 1..20 {
        let gas = enough * share / 21;
        assert!(!matches!(ask(gas), Answer::Returned { .. }), "{gas} of {enough}");
    }
    assert!(enough < 1_000_000, "a small deployment costs {enough} gas");
}

#[test]
fn estimates_of_plain_transfers_are_exact_and_errors_are_told() {
    let world = World::new();
    let env = Env::after(&world.charter, world.region, &world.tip, world.now() + 1);
    let transfer =
        Question { from: user(1).address(), to: Some(user(9).address()), value: U256::from(1), ..Question::default() };
    assert_eq!(estimate_gas(&env, &world.state, &transfer).expect("usable"), Ok(21_000));
    let poor = Question { from: user(8).address(), ..transfer };
    assert!(estimate_gas(&env, &world.state, &poor).expect("usable").is_err());
    // The owner of nothing: revert data comes through.
    let remove = IDeployments::removeCall { id: 1 }.abi_encode();
    let refused = Question { value: U256::ZERO, to: Some(DEPLOYMENTS), input: remove.into(), ..poor };
    match estimate_gas(&env, &world.state, &refused).expect("usable") {
        Err(Answer::Reverted { output, .. }) => {
            assert_eq!(IDeployments::UnknownDeployment::abi_decode(&output).expect("typed").id, 1);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn contracts_see_the_hashes_of_ancestors() {
    let mut world = World::new();
    // BLOCKHASH(first word of the input), returned.
    let code = Bytes::from_static(&[0x5f, 0x35, 0x40, 0x5f, 0x52, 0x60, 0x20, 0x5f, 0xf3]);
    let oracle = install(&mut world, &code);
    world.ok(1_000);
    let (number, hash) = (world.tip.number, world.tip.hash());
    world.ok(1_000);
    match world.ask(Address::ZERO, oracle, U256::ZERO, U256::from(number).abi_encode()) {
        Answer::Returned { output, .. } => assert_eq!(B256::abi_decode(&output), Ok(hash)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn input_that_unfolds_without_end_is_refused() {
    let world = World::new();
    // quote(Service[]) whose 4,000 services all point at the same place.
    let mut input = IDeployments::quoteCall::SELECTOR.to_vec();
    input.extend(U256::from(32).to_be_bytes::<32>());
    input.extend(U256::from(4_000).to_be_bytes::<32>());
    for _ in 0..4_000 {
        input.extend(U256::from(4_000 * 32).to_be_bytes::<32>());
    }
    let services = IDeployments::quoteCall { services: vec![service("web", 1, 1)] }.abi_encode();
    input.extend(&services[4 + 96..]);
    match world.ask(Address::ZERO, DEPLOYMENTS, U256::ZERO, input) {
        Answer::Reverted { .. } => {}
        other => panic!("{other:?}"),
    }
}
