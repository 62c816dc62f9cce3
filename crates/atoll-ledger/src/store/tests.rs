//! The database behind the state: against a plain map, against the plain state, and against a disk that is full.

use std::{collections::BTreeMap, ops::ControlFlow};

use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use atoll_base::{
    contracts::{DEPLOYMENTS, NODES},
    schema::{self, StorageRead as _, encode_record, region_view, words_of},
};
use atoll_ledger_core::state::{
    AccountInfo, MemoryBackend, MemoryState, RecordingReader, StateDiff, StateRead as _, StateTree,
};
use atoll_light::ProvenState;
use proptest::prelude::*;

use super::*;

fn open(dir: &tempfile::TempDir) -> Arc<FjallBackend> {
    Arc::new(FjallBackend::open(dir.path()).expect("opens"))
}

fn any_batch() -> impl Strategy<Value = Batch> {
    let column = prop::sample::select(vec![1_u8, 2, 5, 16, 17, 255]).prop_map(Column);
    let key = prop::collection::vec(prop::sample::select(vec![0_u8, 1, 254, 255]), 0..4);
    let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..3));
    prop::collection::vec((column, key, value), 0..30).prop_map(|writes| {
        let mut batch = Batch::default();
        for (column, key, value) in writes {
            match value {
                Some(value) => batch.put(column, key, value),
                None => batch.delete(column, key),
            }
        }
        batch
    })
}

/// Everything that a view shows from somewhere on.
fn entries(view: &dyn StateView, column: Column, prefix: &[u8], from: &[u8], most: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut entries = Vec::new();
    view.scan(column, prefix, from, &mut |key, value| {
        entries.push((key.to_vec(), value.to_vec()));
        if entries.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })
    .expect("scans");
    entries
}

fn any_diff() -> impl Strategy<Value = StateDiff> {
    let address = || (0..8_u8).prop_map(Address::repeat_byte);
    let account = prop::option::weighted(0.8, 0..5_u64)
        .prop_map(|nonce| nonce.map(|nonce| AccountInfo { nonce, ..AccountInfo::default() }));
    let words =
        prop::collection::btree_map((0..40_u8).prop_map(B256::repeat_byte), (0..3_u64).prop_map(U256::from), 0..12);
    (
        prop::collection::btree_map(address(), account, 0..6),
        prop::collection::btree_map(address(), words, 0..4),
        prop::collection::btree_set(address(), 0..2),
    )
        .prop_map(|(accounts, storage, cleared)| StateDiff { cleared, accounts, storage, code: BTreeMap::new() })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn is_an_ordered_map_with_views_that_stay(
        batches in prop::collection::vec(any_batch(), 1..6),
        questions in prop::collection::vec((any_batch(), any_batch(), 1..9_usize), 1..4),
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, model) = (open(&dir), MemoryBackend::default());
        let mut views = Vec::new();
        for batch in batches {
            store.write(batch.clone()).expect("writes");
            model.write(batch).expect("writes");
            views.push((store.view().expect("a view"), model.view().expect("a view")));
        }
        for (prefixes, froms, most) in questions {
            for ((column, prefix, _), (_, from, _)) in prefixes.into_writes().zip(froms.into_writes()) {
                for (view, model) in &views {
                    prop_assert_eq!(view.get(column, &from).expect("reads"), model.get(column, &from).expect("reads"));
                    let wanted = entries(&**model, column, &prefix, &from, most);
                    prop_assert_eq!(entries(&**view, column, &prefix, &from, most), wanted);
                }
            }
        }
    }

    #[test]
    fn keeps_the_state_over_restarts(diffs in prop::collection::vec((any_diff(), any::<bool>()), 1..20)) {
        let dir = tempfile::tempdir().expect("a directory");
        let mut model = MemoryState::default();
        let mut tree = StateTree::open(open(&dir)).expect("opens");
        for (diff, reopen) in diffs {
            let (layer, root) = tree.head().child(&diff).expect("applies");
            model.apply(&diff);
            prop_assert_eq!(root, model.root());
            tree.commit(&layer, Batch::default()).expect("commits");
            if reopen {
                drop((layer, tree));
                tree = StateTree::open(open(&dir)).expect("opens");
            }
        }
        drop(tree);
        let head = StateTree::open(open(&dir)).expect("opens").head();
        prop_assert_eq!(head.root(), model.root());
        for byte in 0..8 {
            let address = Address::repeat_byte(byte);
            let slots: Vec<_> = (0..40).map(B256::repeat_byte).collect();
            let proof = head.proof(address, &slots).expect("provable");
            prop_assert_eq!(proof.info, model.account(address).expect("infallible"));
            let account = atoll_light::verify_account_proof(head.root(), address, &proof.proof).expect("proven");
            prop_assert_eq!(account.map(|a| a.nonce), proof.info.map(|a| a.nonce));
            for proven in proof.storage {
                let word = atoll_light::verify_storage_proof(proof.storage_root, proven.slot, &proven.proof);
                prop_assert_eq!(word, model.storage(address, proven.slot).map_err(|_| unreachable!("infallible")));
            }
        }
    }
}

#[test]
fn a_view_of_the_region_travels_with_its_proof() {
    let dir = tempfile::tempdir().expect("a directory");
    let tree = StateTree::open(open(&dir)).expect("opens");
    let mut diff = StateDiff::default();
    for contract in [NODES, DEPLOYMENTS] {
        diff.accounts.insert(contract, Some(AccountInfo { nonce: 1, ..AccountInfo::default() }));
    }
    let nodes = diff.storage.entry(NODES).or_default();
    nodes.insert(schema::node_count_slot(), U256::from(30));
    for index in 0..30_u64 {
        let id = keccak256(index.to_be_bytes());
        let record = schema::NodeRecord {
            id,
            provider: Address::repeat_byte(1),
            account: Address::repeat_byte(2),
            sealing_key: id,
            total: schema::Capacity::default(),
            used: schema::Capacity::default(),
            labels: vec!["disk=ssd".into()],
            registered_ms: index,
            online: index % 2 == 0,
            next_workload: 2,
        };
        nodes.insert(schema::node_at_slot(index), id.into());
        nodes.extend(words_of(schema::node_slot(id), &encode_record(&record)));
    }
    let (layer, root) = tree.head().child(&diff).expect("applies");
    tree.commit(&layer, Batch::default()).expect("commits");

    let mut server = RecordingReader::new(tree.head());
    let view = region_view(&mut server).expect("readable");
    assert_eq!(view.nodes.len(), 30);
    let proof = server.into_proof().expect("provable");
    let mut client = ProvenState::new(root, &proof.words, &proof.nodes).expect("proven");
    assert_eq!(region_view(&mut client).expect("all words are proven"), view);
    client.word(NODES, schema::node_at_slot(99)).expect_err("nobody read it");
}

#[test]
fn a_folder_belongs_to_one_process() {
    let dir = tempfile::tempdir().expect("a directory");
    let _first = open(&dir);
    assert!(matches!(FjallBackend::open(dir.path()), Err(StoreError::InUse { .. })));
    let file = dir.path().join("file");
    std::fs::write(&file, b"").expect("writable");
    let refused = FjallBackend::open(&file).expect_err("not a folder");
    assert!(matches!(refused, StoreError::Open { .. }), "{refused}");
}

#[test]
fn a_full_disk_refuses_writes_and_recovers() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = FjallBackend::open(dir.path()).expect("opens");
    let mut batch = Batch::default();
    batch.put(Column::FREE, *b"key", *b"value");
    store.reserve_bytes = u64::MAX;
    let refused = store.write(batch.clone()).expect_err("no disk is that large");
    let why = std::error::Error::source(&refused).expect("a cause").to_string();
    assert!(why.contains("MiB left") && why.contains("free some space"), "{why}");
    assert_eq!(store.view().expect("a view").get(Column::FREE, b"key").expect("reads"), None);
    store.reserve_bytes = 0;
    store.write(batch).expect("writes again");
    let value = store.view().expect("a view").get(Column::FREE, b"key").expect("reads");
    assert_eq!(value.map(Bytes::from), Some(Bytes::from_static(b"value")));
}
