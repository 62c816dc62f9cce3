use alloy_primitives::{B256, Bytes};
use atoll_base::{Header, limits::TRANSACTION_BYTES_MAX};
use commonware_codec::{Copying, DecodeExt as _, Encode as _};
use commonware_cryptography::Digestible as _;

use crate::engine::{Block, BlockError};

fn header(transactions: &[Bytes]) -> Header {
    Header {
        parent_hash: B256::repeat_byte(1),
        number: 7,
        timestamp_ms: 1_790_000_000_123,
        proposer: B256::repeat_byte(2),
        state_root: B256::repeat_byte(3),
        transactions_root: Block::transactions_root(transactions),
        receipts_root: B256::repeat_byte(5),
        gas_used: 21_000,
        gas_limit: 30_000_000,
        base_fee: 1,
        epoch: 0,
        view: 9,
        extra: Bytes::new(),
    }
}

fn transactions() -> Vec<Bytes> {
    vec![Bytes::from_static(b"\x02first"), Bytes::from_static(b"\x02second")]
}

#[test]
fn blocks_round_trip_and_carry_the_hash_of_their_header() {
    for transactions in [vec![], transactions()] {
        let header = header(&transactions);
        let block = Block::new(header.clone(), transactions.clone()).unwrap();
        assert_eq!(block.digest().0, header.hash().0);
        assert_eq!((block.header(), block.transactions()), (&header, &transactions[..]));
        assert_eq!(Block::from_bytes(block.to_bytes()), Ok(block.clone()));
        assert_eq!(Block::decode(block.encode()).unwrap(), block);
    }
}

#[test]
fn the_ledgers_rules_read_the_same_bytes() {
    let header = header(&[]);
    let rules = atoll_ledger_core::Block { header: header.clone(), transactions: vec![] };
    let block = Block::new(header, vec![]).unwrap();
    assert_eq!(block.to_bytes(), rules.to_bytes());
    assert_eq!(block.hash(), rules.hash());
}

#[test]
fn a_digest_names_one_string_of_bytes() {
    let block = Block::new(header(&transactions()), transactions()).unwrap();
    let bytes = block.to_bytes().to_vec();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        if let Ok(other) = Block::from_bytes(&changed) {
            assert_ne!(other.hash(), block.hash(), "byte {at}");
        }
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(Block::from_bytes(&longer), Err(BlockError::Rlp(alloy_rlp::Error::UnexpectedLength)));
    assert!(Block::from_bytes(&bytes[..bytes.len() - 1]).is_err());
    assert!(Block::decode(Copying(&block.encode()[..9])).is_err());
}

#[test]
fn what_does_not_fit_together_is_no_block() {
    let swapped: Vec<_> = transactions().into_iter().rev().collect();
    assert!(matches!(Block::new(header(&transactions()), swapped), Err(BlockError::TransactionsRoot { .. })));

    let long = vec![Bytes::from(vec![0; TRANSACTION_BYTES_MAX + 1])];
    let size = TRANSACTION_BYTES_MAX + 1;
    assert_eq!(Block::new(header(&long), long), Err(BlockError::TransactionSize { index: 0, size }));

    let many = vec![Bytes::from(vec![0; TRANSACTION_BYTES_MAX]); 8];
    assert!(matches!(Block::new(header(&many), many), Err(BlockError::Size(_))));
}
