//! Coins, fees, prices, nonces.

use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, Bytes, TxKind, U256};
use alloy_sol_types::SolCall as _;
use atoll_base::contracts::{INodes, NODES};
use atoll_ledger_core::{
    Env, Invalid, Mode, execute,
    execute::{ExecuteError, Skip},
    transaction,
};

use crate::world::*;

#[test]
fn a_transfer_pays_its_fee_to_the_treasury() {
    let mut world = World::new();
    let (from, to) = (user(1), user(9).address());
    world.send(&from, to, U256::from(5), Bytes::new());
    let done = world.ok(1_000);
    assert_eq!(done.gas_used, 21_000);
    let fee = U256::from(21_000 * 1_000);
    assert_eq!(world.balance(to), U256::from(5));
    assert_eq!(world.balance(TREASURY), fee);
    assert_eq!(world.balance(from.address()), COIN - fee - U256::from(5));
}

#[test]
fn a_proposal_skips_what_is_not_valid_and_a_block_with_it_is_refused() {
    let mut world = World::new();
    let good = world.sign(&user(1), TxKind::Call(user(9).address()), U256::from(1), Bytes::new(), 1_000);
    let cases = [
        (world.sign(&user(2), TxKind::Call(Address::ZERO), U256::ZERO, Bytes::new(), 999), "price"),
        (world.sign(&user(8), TxKind::Call(Address::ZERO), U256::ZERO, Bytes::new(), 1_000), "funds"),
        (good.clone(), "nonce"),
        (unbound(&user(2), 0), "chain"),
        (blob(&user(2), 4_870), "blobs"),
        (world.sign(&user(2), TxKind::Call(Address::ZERO), U256::ZERO, Bytes::new(), 0), "free"),
    ];
    for (bad, what) in cases {
        let charter = world.charter.clone();
        let env = Env::after(&charter, world.region, &world.tip, world.now() + 1);
        let input = [good.clone(), bad];
        let done = execute(&env, &world.state, &input, Mode::Propose).expect("usable");
        assert_eq!(done.transactions.len(), 1, "{what}");
        let skip = skipped(&done);
        let fits = match what {
            "price" => matches!(skip, Skip::Invalid(Invalid::GasPrice { price: 1_000, given: 999 })),
            "funds" => matches!(skip, Skip::Invalid(Invalid::Funds { .. })),
            "nonce" => matches!(skip, Skip::Invalid(Invalid::NonceTooLow { next: 1, given: 0 })),
            "chain" => matches!(skip, Skip::Invalid(Invalid::ChainId { want: 4_870, given: None })),
            "blobs" => matches!(skip, Skip::Invalid(Invalid::Blobs)),
            _ => matches!(skip, Skip::Invalid(Invalid::NotFree { .. })),
        };
        assert!(fits, "{what}: {skip}");
        let alone = execute(&env, &world.state, &input[..1], Mode::Propose).expect("usable");
        assert_eq!(done.diff, alone.diff, "{what}: what is skipped leaves no trace");
        match execute(&env, &world.state, &input, Mode::Verify) {
            Err(ExecuteError::Transaction { index: 1, .. }) => {}
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn a_nonce_from_the_future_is_kept_for_later() {
    let mut world = World::new();
    let first = world.sign(&user(1), TxKind::Call(Address::ZERO), U256::ZERO, Bytes::new(), 1_000);
    let second = world.sign(&user(1), TxKind::Call(Address::ZERO), U256::ZERO, Bytes::new(), 1_000);
    world.push(second);
    let done = world.propose(100);
    let Skip::Invalid(invalid) = skipped(&done) else { panic!("not full") };
    assert!(invalid.may_become_valid());
    assert_eq!(done.transactions.len(), 0);
    world.push(first);
    world.ok(100);
}

#[test]
fn a_block_is_full_by_gas() {
    let mut world = World::new();
    for _ in 0..5 {
        // Each asks for 8 M gas; what they leave unused is given back to the block.
        world.send(&user(1), user(9).address(), U256::from(1), Bytes::new());
    }
    assert_eq!(world.ok(100).transactions.len(), 5);
    // PUSH0 JUMPDEST… an endless loop uses all that it is given.
    let spin = Bytes::from_static(&[0x5b, 0x5f, 0x56]);
    for _ in 0..5 {
        let tx = world.sign(&user(1), TxKind::Create, U256::ZERO, spin.clone(), 1_000);
        world.push(tx);
    }
    let done = world.propose(100);
    assert_eq!(done.transactions.len(), 3);
    assert_eq!(done.gas_used, 24_000_000);
    assert!(done.skipped.iter().all(|(_, skip)| *skip == Skip::Full));
}

#[test]
fn transactions_from_outside_are_checked_at_the_edge() {
    let mut world = World::new();
    let tx = world.sign(&user(1), TxKind::Call(Address::ZERO), U256::ZERO, Bytes::new(), 1_000);
    let bytes = tx.inner().encoded_2718();
    assert_eq!(transaction::decode(&bytes, 4_870).as_ref(), Ok(&tx));
    assert!(matches!(transaction::decode(&bytes, 1), Err(Invalid::ChainId { want: 1, given: Some(4_870) })));
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(matches!(transaction::decode(&longer, 4_870), Err(Invalid::Encoding(_))));
    assert!(matches!(transaction::decode(&[], 4_870), Err(Invalid::Encoding(_))));
    assert!(matches!(transaction::decode(&vec![2; 200_000], 4_870), Err(Invalid::TooLong(200_000))));
    let blob = blob(&user(1), 4_870);
    assert_eq!(transaction::decode(&blob.inner().encoded_2718(), 4_870), Err(Invalid::Blobs));
}

#[test]
fn a_pool_admits_what_may_get_into_a_block() {
    let mut world = World::new();
    let heartbeat: Bytes = INodes::heartbeatCall {}.abi_encode().into();
    let good = world.sign(&user(1), TxKind::Call(Address::ZERO), U256::ZERO, Bytes::new(), 1_000);
    let poor = world.sign(&user(8), TxKind::Call(Address::ZERO), U256::ZERO, Bytes::new(), 1_000);
    let cheap = world.sign(&user(1), TxKind::Call(Address::ZERO), U256::ZERO, Bytes::new(), 999);
    let stranger = world.sign(&user(8), TxKind::Call(NODES), U256::ZERO, heartbeat, 0);
    let env = Env::after(&world.charter, world.region, &world.tip, world.now() + 1);
    let admit = |tx| transaction::admit(&env, &world.state, tx).expect("readable");
    assert_eq!(admit(&good), Ok(()));
    assert!(matches!(admit(&poor), Err(Invalid::Funds { .. })));
    assert!(matches!(admit(&cheap), Err(Invalid::GasPrice { .. })));
    assert!(matches!(admit(&stranger), Err(Invalid::NotFree { .. })));
    assert_eq!(env.number, 1);
}
