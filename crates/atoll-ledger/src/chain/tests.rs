//! The chain over a database in memory, with real signed transactions.

use std::path::PathBuf;

use alloy_consensus::{SignableTransaction as _, TxEip1559, TxReceipt as _};
use alloy_primitives::{Address, B256, TxKind, U256};
use alloy_signer::SignerSync as _;
use alloy_signer_local::PrivateKeySigner;
use atoll_base::{
    Header,
    charter::{Allocation, CHARTER_VERSION, Currency, Prices, Timing, Validator},
};
use atoll_ledger_core::{
    Transaction,
    state::{BackendError, Batch, MemoryBackend, StateBackend, StateRead as _, StateView},
};
use futures::{FutureExt as _, future::join_all, stream};

use super::*;

const TREASURY: Address = Address::repeat_byte(0xfe);
pub(crate) const TARGET: Address = Address::repeat_byte(0x99);

pub(crate) fn key(index: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(index + 1)).expect("a valid key")
}

pub(crate) fn charter(name: &str) -> Charter {
    let coins = U256::from(10).pow(U256::from(18));
    Charter {
        version: CHARTER_VERSION,
        name: name.into(),
        chain_id: 4242,
        created_ms: 1_000,
        currency: Currency { name: "Shell".into(), symbol: "SHL".into() },
        prices: Prices { cpu_core_hour: coins, memory_gib_hour: coins, disk_gib_hour: coins, gas: 7 },
        timing: Timing {
            block_min_ms: 50,
            block_idle_ms: 1_000,
            heartbeat_ms: 1_000,
            heartbeat_timeout_ms: 5_000,
            settle_ms: 1_000,
        },
        validators: vec![Validator {
            name: "v1".into(),
            id: B256::repeat_byte(1),
            bls_key: vec![1; 48].into(),
            bls_proof: vec![1; 96].into(),
        }],
        allocations: (0..3).map(|index| Allocation { account: key(index).address(), amount: coins }).collect(),
        treasury: TREASURY,
        closed: Some(false),
    }
}

/// One validator's disk: what is left after a crash.
pub(crate) struct Disk {
    backend: MemoryBackend,
    dir: tempfile::TempDir,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self { backend: MemoryBackend::default(), dir: tempfile::tempdir().expect("a directory") }
    }

    fn journal(&self) -> PathBuf {
        self.dir.path().join("mempool.journal")
    }

    pub(crate) fn open(&self) -> Chain {
        Chain::open(charter("home"), Arc::new(self.backend.clone()), &self.journal()).expect("opens")
    }
}

pub(crate) fn transfer(from: u8, nonce: u64, value: u64) -> Bytes {
    sign(
        from,
        TxEip1559 {
            nonce,
            gas_limit: 21_000,
            to: TxKind::Call(TARGET),
            value: U256::from(value),
            ..TxEip1559::default()
        },
    )
}

pub(crate) fn sign(from: u8, tx: TxEip1559) -> Bytes {
    let tx = TxEip1559 { chain_id: 4242, max_fee_per_gas: 10, max_priority_fee_per_gas: 1, ..tx };
    let signature = key(from).sign_hash_sync(&tx.signature_hash()).expect("signs");
    Transaction::Eip1559(tx.into_signed(signature)).encoded_2718().into()
}

pub(crate) fn nothing() -> Ancestors {
    Ancestors::new(stream::empty())
}

pub(crate) fn proposal(view: u64) -> Proposal {
    Proposal { epoch: 0, view, proposer: NodeId([1; 32]), timestamp_ms: 1_000 + view * 100 }
}

pub(crate) async fn propose(chain: &Chain, parent: &Block, view: u64) -> Block {
    chain.propose(parent.clone(), nothing(), proposal(view)).await.expect("a block")
}

/// Writes a proposed block into the index as a commit does, and stops before the head moves to it.
pub(crate) fn write_ahead_of_the_head(chain: &Chain, block: &Block) {
    let executed = Arc::clone(lock(&chain.0.tree).get(&block.hash()).expect("was proposed here"));
    let mut batch = Batch::default();
    index::put_block(&mut batch, &executed);
    chain.0.state.commit(&chain.head().layer, batch).expect("written");
}

fn balance(chain: &Chain, address: Address) -> U256 {
    chain.head().layer.account(address).expect("readable").unwrap_or_default().balance
}

#[tokio::test]
async fn a_transfer_becomes_final_everywhere() {
    let (disk, other) = (Disk::new(), Disk::new());
    let (chain, follower) = (disk.open(), other.open());
    assert_eq!(chain.genesis(), follower.genesis());
    let hash = chain.mempool().submit(transfer(0, 0, 500)).await.expect("taken");
    chain.ready().await;
    let block = propose(&chain, &chain.genesis(), 1).await;
    assert_eq!(block.transactions().len(), 1);
    assert!(follower.verify(follower.genesis(), nothing(), block.clone()).await);

    for ledger in [&chain, &follower] {
        assert_eq!(balance(ledger, TARGET), U256::ZERO, "not final yet");
        ledger.finalized(block.clone(), Some(Bytes::from_static(b"certificate"))).await;
        assert_eq!(balance(ledger, TARGET), U256::from(500));
        assert_eq!(balance(ledger, TREASURY), U256::from(21_000 * 8), "the fee, whole");
        assert_eq!(ledger.head().block, block);
        let certified = ledger.certified().borrow().clone().expect("it has a certificate");
        assert_eq!(
            (certified.executed.block.hash(), certified.certificate.as_ref()),
            (block.hash(), &b"certificate"[..])
        );
        let index = ledger.index();
        assert_eq!(index.transaction(&hash).expect("readable"), Some((1, 0)));
        assert_eq!(index.height(&block.hash()).expect("readable"), Some(1));
        assert_eq!(index.block(1).expect("readable"), Some(block.clone()));
        let outcome = index.outcome(1).expect("readable").expect("there");
        assert_eq!(outcome.senders, [key(0).address()]);
        assert!(outcome.receipts[0].status() && outcome.receipts[0].cumulative_gas_used() == 21_000);
    }
    assert!(chain.mempool().is_empty());
}

#[tokio::test]
async fn a_block_waits_for_work_and_none_is_ordered_twice() {
    let disk = Disk::new();
    let chain = disk.open();
    assert!(chain.ready().now_or_never().is_none());
    chain.mempool().submit(transfer(0, 0, 1)).await.expect("taken");
    chain.mempool().submit(transfer(0, 2, 1)).await.expect("taken, though one is missing before it");
    chain.ready().await;
    let first = propose(&chain, &chain.genesis(), 1).await;
    assert!(chain.ready().now_or_never().is_none(), "all that can be ordered is in the block on top");
    assert!(propose(&chain, &first, 2).await.transactions().is_empty());
    chain.mempool().submit(transfer(0, 1, 1)).await.expect("taken");
    chain.ready().await;
    assert_eq!(propose(&chain, &first, 3).await.transactions().len(), 2);
}

#[tokio::test]
async fn what_a_losing_block_held_is_ordered_again() {
    let disk = Disk::new();
    let chain = disk.open();
    chain.mempool().submit(transfer(0, 0, 11)).await.expect("taken");
    let loser = propose(&chain, &chain.genesis(), 1).await;
    let on_loser = propose(&chain, &loser, 2).await;
    // Another validator's block on the same parent, with another transaction, wins.
    let other = Disk::new().open();
    other.mempool().submit(transfer(1, 0, 22)).await.expect("taken");
    let winner = propose(&other, &other.genesis(), 3).await;
    assert!(chain.verify(chain.genesis(), nothing(), winner.clone()).await);
    chain.finalized(winner.clone(), None).await;

    assert_eq!(balance(&chain, TARGET), U256::from(22));
    assert_eq!(chain.waiting_blocks(), 0, "the losers are forgotten");
    assert!(!chain.verify(loser.clone(), nothing(), on_loser.clone()).await, "a branch that lost stays lost");
    assert!(chain.verify(chain.genesis(), nothing(), winner.clone()).await);
    chain.ready().await;
    let next = propose(&chain, &winner, 4).await;
    assert_eq!(next.transactions(), loser.transactions());
    chain.finalized(next, None).await;
    assert_eq!(balance(&chain, TARGET), U256::from(33));
}

#[tokio::test]
async fn missing_ancestors_are_fetched_and_executed() {
    let disk = Disk::new();
    let chain = disk.open();
    let mut blocks = vec![chain.genesis()];
    for view in 1..=5 {
        chain.mempool().submit(transfer(0, view - 1, view)).await.expect("taken");
        let block = propose(&chain, blocks.last().expect("there"), view).await;
        blocks.push(block);
    }
    let behind = Disk::new();
    let late = behind.open();
    let older: Vec<_> = blocks[..4].iter().rev().cloned().collect();
    assert!(late.verify(blocks[4].clone(), Ancestors::new(stream::iter(older)), blocks[5].clone()).await);
    // All five become final at once: the engine does not wait for one before it tells the next.
    let all = blocks[1..].iter().map(|block| late.finalized(block.clone(), None));
    join_all(all).await;
    assert_eq!(late.head().block, blocks[5]);
    assert_eq!(balance(&late, TARGET), U256::from(1 + 2 + 3 + 4 + 5));
    for block in &blocks {
        assert_eq!(late.index().block(block.number()).expect("readable").as_ref(), Some(block));
    }
}

#[tokio::test]
async fn a_kill_loses_nothing_acknowledged() {
    let disk = Disk::new();
    let chain = disk.open();
    chain.mempool().submit(transfer(0, 0, 5)).await.expect("taken");
    let first = propose(&chain, &chain.genesis(), 1).await;
    chain.finalized(first.clone(), Some(Bytes::from_static(b"c1"))).await;
    let waiting = chain.mempool().submit(transfer(0, 1, 6)).await.expect("taken");
    let second = propose(&chain, &first, 2).await;
    assert_eq!(second.transactions().len(), 1);
    drop(chain); // Nothing is written on the way out: this is what `kill -9` leaves.

    let chain = disk.open();
    assert_eq!(chain.head().block, first);
    assert_eq!(chain.certified().borrow().as_ref().map(|c| c.certificate.clone()), Some(Bytes::from_static(b"c1")));
    assert!(chain.mempool().by_hash(&waiting).is_some());
    // The engine tells again what it is not sure of.
    chain.finalized(first.clone(), None).await;
    chain.finalized(second.clone(), None).await;
    assert_eq!(balance(&chain, TARGET), U256::from(11));
    assert!(chain.mempool().is_empty());
}

#[tokio::test]
async fn data_of_another_region_is_refused() {
    let disk = Disk::new();
    drop(disk.open());
    let refused = Chain::open(charter("away"), Arc::new(disk.backend.clone()), &disk.journal());
    let error = refused.expect_err("refused").to_string();
    assert!(error.contains("use another state directory"), "{error}");
    assert!(error.contains(&charter("home").region_id().to_string()), "{error}");
    assert!(error.contains(&charter("away").region_id().to_string()), "{error}");
}

#[tokio::test]
async fn a_header_that_lies_is_refused() {
    let disk = Disk::new();
    let chain = disk.open();
    chain.mempool().submit(transfer(0, 0, 5)).await.expect("taken");
    let good = propose(&chain, &chain.genesis(), 1).await;
    let lies: [fn(&mut Header); 5] = [
        |header| header.state_root = B256::repeat_byte(1),
        |header| header.receipts_root = B256::repeat_byte(1),
        |header| header.gas_used += 1,
        |header| header.gas_limit += 1,
        |header| header.base_fee -= 1,
    ];
    let judge = Disk::new().open();
    for lie in lies {
        let mut header = good.header().clone();
        lie(&mut header);
        let bad = Block::new(header, good.transactions().to_vec()).expect("well formed");
        assert!(!judge.verify(judge.genesis(), nothing(), bad).await);
    }
    for txs in [vec![transfer(0, 1, 5)], vec![transfer(0, 0, 5), transfer(0, 0, 5)], vec![Bytes::from_static(b"no")]] {
        let header = Header { transactions_root: Block::transactions_root(&txs), ..good.header().clone() };
        let bad = Block::new(header, txs).expect("well formed");
        assert!(!judge.verify(judge.genesis(), nothing(), bad).await);
    }
    assert!(judge.verify(judge.genesis(), nothing(), good).await);
}

#[tokio::test]
async fn forks_without_end_do_not_fill_the_memory() {
    let disk = Disk::new();
    let chain = disk.open();
    let first = propose(&chain, &chain.genesis(), 1).await;
    for view in 2..limits::TREE_BLOCKS_MAX as u64 + 50 {
        propose(&chain, &first, view).await;
    }
    assert!(chain.waiting_blocks() <= limits::TREE_BLOCKS_MAX);
    let last = propose(&chain, &first, 5_000).await;
    chain.finalized(first, None).await;
    chain.finalized(last.clone(), None).await;
    assert_eq!(chain.head().block, last);
}

#[tokio::test]
async fn a_block_that_two_tasks_execute_at_the_same_time_has_one_state() {
    let disk = Disk::new();
    let chain = disk.open();
    chain.mempool().submit(transfer(0, 0, 1)).await.expect("taken");
    let first = propose(&chain, &chain.genesis(), 1).await;
    chain.mempool().submit(transfer(0, 1, 1)).await.expect("taken");
    let second = propose(&chain, &first, 2).await;
    // Another task began before the first one was done, and ends now.
    let parent = chain.head();
    let transactions = chain.recover(&first).expect("transactions");
    let env = Env::after(&chain.0.charter, chain.0.region, parent.block.header(), first.header().timestamp_ms);
    let done = execute(&env, &parent.layer, &transactions, Mode::Verify).expect("executes");
    let (layer, _) = parent.layer.child(&done.diff).expect("a state");
    chain.keep(first.clone(), done.transactions, done.receipts, layer);
    for block in [first, second.clone()] {
        tokio::select! {
            () = chain.finalized(block, None) => {}
            why = chain.broken() => panic!("{why}"),
        }
    }
    assert_eq!((chain.head().block.clone(), balance(&chain, TARGET)), (second, U256::from(2)));
}

/// A database whose next writes fail in a given way.
#[derive(Default)]
struct Failing {
    inner: MemoryBackend,
    /// Whether the error says that it may work later.
    next: Mutex<VecDeque<bool>>,
}

impl StateBackend for Failing {
    fn view(&self) -> Result<Arc<dyn StateView>, BackendError> {
        self.inner.view()
    }

    fn write(&self, batch: Batch) -> Result<(), BackendError> {
        match lock(&self.next).pop_front() {
            Some(retry) => Err(BackendError { action: "write", retry, source: "the disk is sick".into() }),
            None => self.inner.write(batch),
        }
    }
}

#[tokio::test]
async fn a_full_disk_is_waited_for_and_a_broken_one_ends_the_ledger() {
    let disk = Disk::new();
    let backend = Arc::new(Failing::default());
    let chain = Chain::open(charter("home"), Arc::<Failing>::clone(&backend), &disk.journal()).expect("opens");
    let first = propose(&chain, &chain.genesis(), 1).await;
    lock(&backend.next).push_back(true);
    chain.finalized(first.clone(), None).await;
    assert_eq!(chain.head().block, first, "the second try works");
    assert_eq!(chain.problem(), None);
    assert!(chain.broken().now_or_never().is_none());

    let second = propose(&chain, &first, 2).await;
    lock(&backend.next).push_back(false);
    tokio::select! {
        () = chain.finalized(second, None) => panic!("acknowledged, but it is not on the disk"),
        why = chain.broken() => assert!(chain_of(&*why).contains("the disk is sick"), "{why}"),
    }
    assert_eq!(chain.head().block, first);
    drop(chain);
    let again = Chain::open(charter("home"), backend, &disk.journal()).expect("opens");
    assert_eq!(again.head().block, first, "what was acknowledged is there");
}
