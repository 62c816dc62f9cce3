//! Encodings: what decodes is canonical and what its header says; the formats are pinned.

use alloy_primitives::{B256, Bytes, U256};
use atoll_base::contracts::CHARTER;
use atoll_ledger_core::{
    Block, Env, Mode,
    block::{self, BlockError},
    execute,
    genesis::{self, GenesisError},
    state::MemoryState,
};

use crate::world::*;

fn sample() -> Block {
    let mut world = World::new();
    world.send(&user(1), user(9).address(), U256::from(5), Bytes::new());
    world.send(&user(2), user(9).address(), U256::from(6), Bytes::from_static(b"hi"));
    let before = (world.state.clone(), world.tip.clone());
    let done = world.ok(1_000);
    let charter = charter();
    let env = Env::after(&charter, world.region, &before.1, world.now());
    let mut header = done.header(&env, world.state.root());
    header.view = 3;
    Block { header, transactions: done.transactions.iter().map(|tx| tx.inner().clone()).collect() }
}

#[test]
fn genesis_is_pinned() {
    // These hashes change only together with the charter's version: see docs/rfd.
    let genesis = genesis::genesis(&charter()).expect("valid");
    let mut state = MemoryState::default();
    state.apply(&genesis.diff);
    let block = genesis.block(state.root());
    assert_eq!(block.header.parent_hash, charter().region_id().word());
    assert_eq!(block.header.timestamp_ms, charter().created_ms);
    assert_eq!(state.root().to_string(), "0xfe549d5de77215d6458ece01c8e27988b69a5a461f4665d2d834bbf72010434d");
    assert_eq!(block.hash().to_string(), "0x0656266029be99e2e68c1925228e9221eeef1c1a7ed5eeab06934f110c68ec80");
}

#[test]
fn blocks_are_pinned() {
    let block = sample();
    assert_eq!(
        alloy_primitives::keccak256(block.to_bytes()).to_string(),
        "0xfc70d58a9525ec17ddd04c6e3c27ad445c18204b8fc2ca1a2615038fafaac828"
    );
    assert_eq!(
        block.header.state_root.to_string(),
        "0xdf33e27928c2b1378f2da6f685861b45ccc9c1974296bb83815ecba63798c28e"
    );
    assert_eq!(
        block.header.receipts_root.to_string(),
        "0x8dc370700aeeadefeff13418c7ccee02ed53dc7bb0d6f511d7d50a83757edc66"
    );
}

#[test]
fn decoding_refuses_all_other_bytes() {
    let block = sample();
    let bytes = block.to_bytes();
    assert_eq!(Block::from_bytes(&bytes).expect("valid"), block);
    for cut in 0..bytes.len() {
        assert!(Block::from_bytes(&bytes[..cut]).is_err());
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(matches!(Block::from_bytes(&longer), Err(BlockError::Rlp(_))));
    let fewer = Block { transactions: block.transactions[..1].to_vec(), ..block.clone() };
    assert!(matches!(Block::from_bytes(&fewer.to_bytes()), Err(BlockError::TransactionsRoot { .. })));
    let swapped = Block { transactions: block.transactions.iter().rev().cloned().collect(), ..block };
    assert!(matches!(Block::from_bytes(&swapped.to_bytes()), Err(BlockError::TransactionsRoot { .. })));
    assert!(matches!(Block::from_bytes(&vec![0; 2_000_000]), Err(BlockError::TooLong(_))));
}

#[test]
fn every_changed_bit_is_noticed() {
    let block = sample();
    let bytes = block.to_bytes();
    for at in 0..bytes.len() {
        let mut other = bytes.clone();
        other[at] ^= 1;
        if let Ok(decoded) = Block::from_bytes(&other) {
            assert_ne!(decoded.hash(), block.hash(), "byte {at}");
            assert_eq!(decoded.to_bytes(), other, "byte {at}");
        }
    }
}

type Lie = (&'static str, fn(&mut atoll_base::Header));

#[test]
fn a_header_with_a_lie_is_refused() {
    let mut world = World::new();
    world.send(&user(1), user(9).address(), U256::from(5), Bytes::new());
    let charter = world.charter.clone();
    let parent = world.tip.clone();
    let before = world.state.clone();
    let done = world.ok(1_000);
    let env = Env::after(&charter, world.region, &parent, world.now());
    let again = execute(&env, &before, &done.transactions, Mode::Verify).expect("valid");
    let root = world.state.root();
    let good = done.header(&env, root);
    assert_eq!(again.check(&env, root, &good), Ok(()));
    let lies: [Lie; 9] = [
        ("parent hash", |h| h.parent_hash = B256::repeat_byte(1)),
        ("number", |h| h.number += 1),
        ("timestamp", |h| h.timestamp_ms += 1),
        ("state root", |h| h.state_root = B256::repeat_byte(1)),
        ("receipts root", |h| h.receipts_root = B256::repeat_byte(1)),
        ("transactions root", |h| h.transactions_root = B256::repeat_byte(1)),
        ("gas used", |h| h.gas_used += 1),
        ("gas limit", |h| h.gas_limit += 1),
        ("base fee", |h| h.base_fee -= 1),
    ];
    for (field, lie) in lies {
        let mut header = good.clone();
        lie(&mut header);
        assert_eq!(again.check(&env, root, &header).expect_err(field).field, field);
    }
}

#[test]
fn no_coins_for_system_contracts_at_birth() {
    let mut charter = charter();
    charter.allocations[0].account = CHARTER;
    assert_eq!(genesis::genesis(&charter), Err(GenesisError::SystemAccount(CHARTER)));
    let mut charter = crate::world::charter();
    charter.treasury = CHARTER;
    assert_eq!(genesis::genesis(&charter), Err(GenesisError::SystemAccount(CHARTER)));
}

#[test]
fn the_end_of_a_block_has_a_name_of_its_own() {
    assert_ne!(block::end_of_block_id(1), block::end_of_block_id(2));
}
