//! Proofs that hold, and every way in which a server may spoil them.

use std::collections::{BTreeMap, BTreeSet};

use alloy_trie::{
    HashBuilder,
    proof::{ProofRetainer, verify_proof},
};
use atoll_base::{
    contracts::{DEPLOYMENTS, NODES},
    schema::{self, Capacity, NodeRecord, StorageRead, encode_record, region_view, words_of},
};
use proptest::prelude::*;

use super::*;
use crate::{NotProven, ProvenState};

type Words = BTreeMap<(Address, B256), U256>;

/// A trie by the book, and the proof of some keys, which may be absent.
fn trie(leaves: &BTreeMap<B256, Vec<u8>>, keys: impl IntoIterator<Item = B256>) -> (B256, Vec<Bytes>) {
    let retainer = ProofRetainer::from_iter(keys.into_iter().map(|key| Nibbles::unpack_array(&key.0)));
    let mut builder = HashBuilder::default().with_proof_retainer(retainer);
    for (key, value) in leaves {
        builder.add_leaf(Nibbles::unpack_array(&key.0), value);
    }
    let root = builder.root();
    let nodes = builder.take_proof_nodes().into_nodes_sorted();
    (root, nodes.into_iter().map(|(_, node)| node).filter(|node| keccak256(node) != EMPTY_ROOT_HASH).collect())
}

/// A state of contracts with these words, and the proof of the slots.
fn state(words: &Words, slots: &BTreeSet<(Address, B256)>) -> (B256, Vec<Bytes>) {
    let mut accounts = BTreeMap::new();
    let mut nodes = Vec::new();
    for contract in words.keys().map(|(contract, _)| *contract).collect::<BTreeSet<_>>() {
        let of = |(address, _): &&(Address, B256)| *address == contract;
        let leaves = words.iter().filter(|(key, word)| of(key) && !word.is_zero());
        let leaves = leaves.map(|((_, slot), word)| (keccak256(slot), alloy_rlp::encode(word))).collect();
        let (root, proof) = trie(&leaves, slots.iter().filter(of).map(|(_, slot)| keccak256(slot)));
        if slots.iter().any(|key| of(&key)) {
            nodes.extend(proof);
        }
        let account = TrieAccount { nonce: 1, storage_root: root, ..TrieAccount::default() };
        accounts.insert(keccak256(contract), alloy_rlp::encode(account));
    }
    // Others that nobody asks for, so that the account trie has branches.
    for other in 0..50_u8 {
        accounts.insert(keccak256([other]), alloy_rlp::encode(TrieAccount::default()));
    }
    let (root, proof) = trie(&accounts, slots.iter().map(|(contract, _)| keccak256(contract)));
    nodes.extend(proof);
    let mut seen = BTreeSet::new();
    nodes.retain(|node| seen.insert(keccak256(node)));
    (root, nodes)
}

/// A reader that notes what a view reads.
struct Recorder<'a>(&'a Words, BTreeSet<(Address, B256)>);

impl StorageRead for Recorder<'_> {
    type Error = std::convert::Infallible;

    fn word(&mut self, contract: Address, slot: B256) -> Result<U256, Self::Error> {
        self.1.insert((contract, slot));
        Ok(self.0.get(&(contract, slot)).copied().unwrap_or_default())
    }
}

/// A region with two nodes: its words, the slots that its view reads, and the view.
fn region() -> (Words, BTreeSet<(Address, B256)>, schema::RegionView) {
    let mut words = Words::new();
    words.insert((NODES, schema::node_count_slot()), U256::from(2));
    words.insert((DEPLOYMENTS, schema::change_slot()), U256::from(9));
    for index in 0..2_u8 {
        let id = B256::repeat_byte(index + 1);
        let record = NodeRecord {
            id,
            provider: Address::repeat_byte(7),
            account: Address::repeat_byte(index),
            sealing_key: B256::repeat_byte(8),
            total: Capacity { cpu_milli: 1000, memory_bytes: 1 << 30, disk_bytes: 1 << 34 },
            used: Capacity::default(),
            labels: vec!["zone=a".into()],
            registered_ms: 5,
            online: true,
            next_workload: 2,
        };
        words.insert((NODES, schema::node_at_slot(index.into())), id.into());
        for (slot, word) in words_of(schema::node_slot(id), &encode_record(&record)) {
            words.insert((NODES, slot), word);
        }
    }
    let mut recorder = Recorder(&words, BTreeSet::new());
    let view = region_view(&mut recorder).expect("infallible");
    assert_eq!(view.nodes.len(), 2);
    let slots = recorder.1;
    (words, slots, view)
}

fn claims(words: &Words, slots: &BTreeSet<(Address, B256)>) -> Vec<(Address, B256, U256)> {
    slots.iter().map(|key| (key.0, key.1, words.get(key).copied().unwrap_or_default())).collect()
}

#[test]
fn a_view_out_of_proven_words_is_the_view() {
    let (words, slots, view) = region();
    let (root, nodes) = state(&words, &slots);
    let mut proven = ProvenState::new(root, &claims(&words, &slots), &nodes).expect("a good proof");
    assert_eq!(region_view(&mut proven).expect("all words are there"), view);
    assert_eq!(proven.len(), slots.len());
    let slot = B256::repeat_byte(0x77);
    assert_eq!(proven.word(NODES, slot), Err(NotProven { contract: NODES, slot }));
}

#[test]
fn a_spoiled_proof_is_refused() {
    let (words, slots, _) = region();
    let (root, nodes) = state(&words, &slots);
    let claims = claims(&words, &slots);
    let refused = |claims: &[_], nodes: &[Bytes]| ProvenState::new(root, claims, nodes).expect_err("spoiled");

    for (place, node) in nodes.iter().enumerate() {
        let hash = keccak256(node);
        let mut without = nodes.clone();
        without.remove(place);
        assert_eq!(refused(&claims, &without), ProofError::Missing(hash));
        let mut twice = nodes.clone();
        twice.push(node.clone());
        assert_eq!(refused(&claims, &twice), ProofError::Twice(hash));
        let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 1);
        let flip = |bytes: &mut Vec<u8>| bytes[5] ^= 1;
        for spoil in [cut as fn(&mut Vec<u8>), flip, Vec::clear] {
            let mut spoiled = nodes.clone();
            let mut bytes = node.to_vec();
            spoil(&mut bytes);
            spoiled[place] = bytes.into();
            assert_eq!(refused(&claims, &spoiled), ProofError::Missing(hash));
        }
    }
    let mut extra = nodes.clone();
    extra.push(Bytes::from_static(b"not a node at all"));
    assert!(matches!(refused(&claims, &extra), ProofError::Unneeded(_)));
    for place in 0..claims.len() {
        let mut lie = claims.clone();
        lie[place].2 += U256::from(1);
        assert!(matches!(refused(&lie, &nodes), ProofError::Mismatch { .. }));
        let mut swapped = claims.clone();
        let other = (place + 1) % claims.len();
        if claims[place].2 != claims[other].2 {
            (swapped[place].2, swapped[other].2) = (claims[other].2, claims[place].2);
            assert!(matches!(refused(&swapped, &nodes), ProofError::Mismatch { .. }));
        }
        let mut twice = claims.clone();
        twice.push(claims[place]);
        assert!(matches!(refused(&twice, &nodes), ProofError::WordTwice { .. }));
    }
    assert!(matches!(
        ProvenState::new(B256::repeat_byte(1), &claims, &nodes),
        Err(ProofError::Missing(hash)) if hash == B256::repeat_byte(1)
    ));
}

#[test]
fn absence_is_proven_too() {
    let (words, _, _) = region();
    let nobody = Address::repeat_byte(0xee);
    let slots = [(nobody, B256::ZERO), (NODES, B256::repeat_byte(0x31))].into();
    let (root, nodes) = state(&words, &slots);
    let claims = claims(&words, &slots);
    assert!(claims.iter().all(|(_, _, word)| word.is_zero()));
    ProvenState::new(root, &claims, &nodes).expect("both are absent");
    ProvenState::new(EMPTY_ROOT_HASH, &claims, &[]).expect("an empty state has nothing");
    assert_eq!(verify_account_proof(EMPTY_ROOT_HASH, nobody, &[Bytes::from_static(&[0x80])]), Ok(None));
    let (root, proof) = state(&Words::new(), &[(nobody, B256::ZERO)].into());
    assert_eq!(verify_account_proof(root, nobody, &proof), Ok(None));
}

#[test]
fn what_hashes_right_but_is_no_node_is_refused() {
    for bytes in [
        &b"\x01"[..],
        b"",
        b"\xc0",
        b"\xc1\x05",
        b"\xf8\x00",
        &[0xc2; 40],
        b"\xd1\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x05",
    ] {
        let (root, node) = (keccak256(bytes), Bytes::copy_from_slice(bytes));
        for byte in 0..=255 {
            let address = Address::repeat_byte(byte);
            let result = verify_account_proof(root, address, std::slice::from_ref(&node));
            assert!(matches!(result, Err(ProofError::Malformed(_))), "{bytes:?}: {result:?}");
        }
    }
}

#[test]
fn too_much_is_refused() {
    let words = vec![(Address::ZERO, B256::ZERO, U256::ZERO); PROOF_WORDS_MAX + 1];
    assert_eq!(ProvenState::new(EMPTY_ROOT_HASH, &words, &[]), Err(ProofError::TooLarge));
    let nodes = vec![Bytes::from(vec![0; 1 << 20]); PROOF_BYTES_MAX / (1 << 20) + 1];
    assert_eq!(ProvenState::new(EMPTY_ROOT_HASH, &[], &nodes), Err(ProofError::TooLarge));
}

proptest! {
    #[test]
    fn agrees_with_the_reference(
        stored in prop::collection::btree_map(any::<u16>(), 1..5_u64, 0..60),
        asked in prop::collection::btree_set(any::<u16>(), 1..6),
    ) {
        let slot = |n: u16| B256::from(U256::from(n));
        let asked: Vec<_> = asked.into_iter().chain(stored.keys().take(3).copied()).collect();
        let leaves = stored.iter().map(|(n, v)| (keccak256(slot(*n)), alloy_rlp::encode(v))).collect();
        for n in asked {
            let key = keccak256(slot(n));
            let (root, proof) = trie(&leaves, [key]);
            let word = verify_storage_proof(root, slot(n), &proof);
            prop_assert_eq!(&word, &Ok(U256::from(stored.get(&n).copied().unwrap_or(0))));
            verify_proof(root, Nibbles::unpack(key), leaves.get(&key).cloned(), &proof).expect("agrees");
        }
    }

    #[test]
    fn any_bytes_are_an_error_not_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let node = Bytes::from(bytes);
        // Whatever it decodes to, it is either refused or an honest answer about its own root.
        if let Ok(Some(account)) = verify_account_proof(keccak256(&node), Address::ZERO, &[node]) {
            prop_assert_ne!(account.storage_root, B256::ZERO);
        }
    }
}
