//! The store against the plain model: random blocks, forks and commits.

use std::{collections::BTreeSet, sync::Arc};

use alloy_primitives::{Address, B256, U256, keccak256};
use alloy_trie::{Nibbles, TrieAccount, proof::verify_proof};
use proptest::prelude::*;

use super::*;

/// Slots and addresses whose hashes start alike, so that few of them make a deep trie with extension nodes.
struct Universe {
    addresses: Vec<Address>,
    slots: Vec<B256>,
}

fn universe() -> &'static Universe {
    static UNIVERSE: std::sync::OnceLock<Universe> = std::sync::OnceLock::new();
    UNIVERSE.get_or_init(|| {
        let address = |n: u64| Address::left_padding_from(&n.to_be_bytes());
        let slot = |n: u64| B256::from(U256::from(n));
        let alike = |hash: B256| hash[0] == 0x5a && hash[1] >> 4 == 0x0c;
        let mut addresses: Vec<_> = (0..).map(address).filter(|a| alike(keccak256(a))).take(6).collect();
        addresses.extend((0..4).map(address));
        let mut slots: Vec<_> = (0..).map(slot).filter(|s| alike(keccak256(s))).take(8).collect();
        slots.extend((0..6).map(slot));
        Universe { addresses, slots }
    })
}

fn any_diff() -> impl Strategy<Value = StateDiff> {
    let address = || prop::sample::select(universe().addresses.clone());
    let slot = || prop::sample::select(universe().slots.clone());
    let account = prop_oneof![
        3 => (0..3_u64, 0..3_u64).prop_map(|(nonce, balance)| {
            Some(AccountInfo { nonce, balance: U256::from(balance), ..AccountInfo::default() })
        }),
        1 => Just(None),
    ];
    let word = prop_oneof![2 => Just(0_u64), 3 => 1..4_u64, 1 => Just(u64::MAX)].prop_map(U256::from);
    (
        prop::collection::btree_map(address(), account, 0..6),
        prop::collection::btree_map(address(), prop::collection::btree_map(slot(), word, 0..8), 0..4),
        prop::collection::btree_set(address(), 0..2),
        any::<[u8; 2]>(),
    )
        .prop_map(|(accounts, storage, cleared, code)| {
            let code = Bytes::copy_from_slice(&code);
            StateDiff { cleared, accounts, storage, code: [(keccak256(&code), code)].into() }
        })
}

#[derive(Debug, Clone)]
enum Step {
    /// A block on one of the versions that are held.
    Child { on: prop::sample::Index, diff: StateDiff },
    /// One of them is committed, if it still can be.
    Commit(prop::sample::Index),
    /// A version is forgotten.
    Forget(prop::sample::Index),
    /// The process restarts: all that is not committed is gone.
    Reopen,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (any::<prop::sample::Index>(), any_diff()).prop_map(|(on, diff)| Step::Child { on, diff }),
        3 => any::<prop::sample::Index>().prop_map(Step::Commit),
        2 => any::<prop::sample::Index>().prop_map(Step::Forget),
        1 => Just(Step::Reopen),
    ]
}

/// Everything that can be read of a version equals the model, and is proven.
fn check(layer: &Layer, model: &MemoryState) {
    let Universe { addresses, slots } = universe();
    assert_eq!(layer.root(), model.root());
    for address in addresses {
        let account = model.account(*address).expect("infallible");
        assert_eq!(layer.account(*address).expect("readable"), account);
        let proof = layer.proof(*address, slots).expect("provable");
        assert_eq!(proof.info, account);
        let leaf =
            account.map(|a| alloy_rlp::encode(TrieAccount::new(a.nonce, a.balance, proof.storage_root, a.code_hash)));
        verify_proof(layer.root(), Nibbles::unpack(keccak256(address)), leaf, &proof.proof).expect("account proof");
        for (slot, proven) in slots.iter().zip(&proof.storage) {
            let word = model.storage(*address, *slot).expect("infallible");
            assert_eq!(layer.storage(*address, *slot).expect("readable"), word);
            assert_eq!(proven.value, word);
            let leaf = (!word.is_zero()).then(|| alloy_rlp::encode(word));
            verify_proof(proof.storage_root, Nibbles::unpack(keccak256(slot)), leaf, &proven.proof)
                .expect("storage proof");
        }
    }
}

struct World {
    backend: Arc<MemoryBackend>,
    tree: StateTree,
    held: Vec<Version>,
    committed: Version,
}

/// A version, the model of it, and the code that it has.
type Version = (Layer, MemoryState, BTreeSet<B256>);

impl World {
    fn new() -> Self {
        let backend = Arc::new(MemoryBackend::default());
        let tree = StateTree::open(backend.clone()).expect("opens");
        let committed = (tree.head(), MemoryState::default(), BTreeSet::new());
        Self { backend, tree, held: vec![committed.clone()], committed }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Child { on, diff } => {
                let (layer, mut model, mut code) = on.get(&self.held).clone();
                let (layer, root) = layer.child(&diff).expect("applies");
                model.apply(&diff);
                code.extend(diff.code.keys());
                assert_eq!(root, model.root());
                self.held.push((layer, model, code));
            }
            Step::Commit(which) => {
                let (layer, model, code) = which.get(&self.held).clone();
                match self.tree.commit(&layer, Batch::default()) {
                    Ok(()) => self.committed = (layer.clone(), model, code.clone()),
                    Err(StateError::Stale) => assert_ne!(self.tree.head().chain().version, layer.chain().version),
                    Err(other) => panic!("{other}"),
                }
                for hash in code {
                    assert_eq!(keccak256(layer.code(hash).expect("stored")), hash);
                }
            }
            Step::Forget(which) => {
                if self.held.len() > 1 {
                    self.held.remove(which.index(self.held.len()));
                }
            }
            Step::Reopen => {
                self.tree = StateTree::open(self.backend.clone()).expect("opens");
                self.committed.0 = self.tree.head();
                self.held = vec![self.committed.clone()];
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 64 } else { 512 }))]

    #[test]
    fn the_store_is_the_model(steps in prop::collection::vec(any_step(), 1..40)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        for (layer, model, _) in &world.held {
            check(layer, model);
        }
        check(&world.tree.head(), &world.committed.1);
        check(&StateTree::open(world.backend.clone()).expect("opens").head(), &world.committed.1);
    }

    #[test]
    fn nothing_is_left_of_what_was_removed(diffs in prop::collection::vec(any_diff(), 1..12)) {
        let mut world = World::new();
        let mut layer = world.tree.head();
        for diff in diffs {
            layer = layer.child(&StateDiff { code: [].into(), ..diff }).expect("applies").0;
            world.tree.commit(&layer, Batch::default()).expect("commits");
        }
        let gone = universe().addresses.iter().map(|address| (*address, None)).collect();
        layer = layer.child(&StateDiff { accounts: gone, ..StateDiff::default() }).expect("applies").0;
        world.tree.commit(&layer, Batch::default()).expect("commits");
        prop_assert_eq!(layer.root(), alloy_trie::EMPTY_ROOT_HASH);
        let view = world.backend.view().expect("a view");
        for column in [Column::ACCOUNTS, Column::STORAGE, Column::BRANCHES] {
            view.scan(column, &[], &[], &mut |key, _| panic!("{column:?} still holds {key:?}")).expect("scans");
        }
        world.held.clear();
    }
}

#[test]
fn a_fork_is_refused_after_its_rival_was_committed_and_stays_readable() {
    let world = World::new();
    let address = Address::repeat_byte(1);
    let with = |nonce| StateDiff {
        accounts: [(address, Some(AccountInfo { nonce, ..AccountInfo::default() }))].into(),
        ..StateDiff::default()
    };
    let (one, _) = world.tree.head().child(&with(1)).expect("applies");
    let (other, _) = world.tree.head().child(&with(2)).expect("applies");
    let mut extra = Batch::default();
    extra.put(Column::FREE, *b"height", *b"1");
    world.tree.commit(&one, extra).expect("commits");
    assert!(matches!(world.tree.commit(&other, Batch::default()), Err(StateError::Stale)));
    assert_eq!(other.account(address).expect("readable").map(|a| a.nonce), Some(2));
    let view = world.backend.view().expect("a view");
    assert_eq!(view.get(Column::FREE, b"height").expect("readable").as_deref(), Some(b"1".as_slice()));
    assert!(matches!(one.code(B256::repeat_byte(9)), Err(StateError::CodeMissing(_))));
}

#[test]
fn layers_that_nobody_commits_are_bounded() {
    let mut layer = World::new().tree.head();
    for _ in 0..limits::LAYERS_MAX {
        layer = layer.child(&StateDiff::default()).expect("applies").0;
    }
    assert!(matches!(layer.child(&StateDiff::default()), Err(StateError::TooDeep)));
}
