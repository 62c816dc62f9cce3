//! The pool against a naive model, and the mempool against restarts.

use std::collections::BTreeMap;

use alloy_consensus::{SignableTransaction as _, TxEip1559, TxLegacy};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{TxKind, U256};
use alloy_signer::SignerSync as _;
use alloy_signer_local::PrivateKeySigner;
use proptest::prelude::*;

use super::*;

const RULES: Rules = Rules { chain_id: 77, base_fee: 10, gas_limit: 30_000_000 };

fn key(index: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(index + 1)).expect("a valid key")
}

fn transfer(from: u8, nonce: u64, fee: u128, tip: u128, value: u64) -> Bytes {
    sign(
        from,
        TxEip1559 {
            chain_id: RULES.chain_id,
            nonce,
            gas_limit: 21_000,
            max_fee_per_gas: fee,
            max_priority_fee_per_gas: tip,
            to: TxKind::Call(Address::repeat_byte(9)),
            value: U256::from(value),
            ..TxEip1559::default()
        },
    )
}

fn sign(from: u8, tx: TxEip1559) -> Bytes {
    let signature = key(from).sign_hash_sync(&tx.signature_hash()).expect("signs");
    Transaction::Eip1559(tx.into_signed(signature)).encoded_2718().into()
}

fn parse(bytes: Bytes) -> Arc<PooledTx> {
    Arc::new(PooledTx::parse(bytes, &RULES).expect("valid"))
}

fn error(bytes: Bytes) -> String {
    PooledTx::parse(bytes, &RULES).expect_err("refused").to_string()
}

#[test]
fn the_door_refuses_in_the_words_that_wallets_know() {
    let good = TxEip1559 { chain_id: 77, gas_limit: 21_000, max_fee_per_gas: 10, ..TxEip1559::default() };
    let call = TxEip1559 { to: TxKind::Call(Address::ZERO), ..good.clone() };
    assert!(PooledTx::parse(sign(0, call.clone()), &RULES).is_ok());
    let cases = [
        (TxEip1559 { chain_id: 1, ..call.clone() }, "invalid chain id for signer: have 1 want 77"),
        (TxEip1559 { max_fee_per_gas: 9, ..call.clone() }, "max fee per gas less than block base fee"),
        (TxEip1559 { max_priority_fee_per_gas: 11, ..call.clone() }, "max priority fee per gas higher than max fee"),
        (TxEip1559 { gas_limit: 30_000_001, ..call.clone() }, "exceeds block gas limit"),
        (TxEip1559 { gas_limit: 20_999, ..call.clone() }, "intrinsic gas too low"),
        (good, "intrinsic gas too low: gas 21000, minimum needed 53000"),
        (
            TxEip1559 { input: vec![1; 10].into(), ..call.clone() },
            "intrinsic gas too low: gas 21000, minimum needed 21400",
        ),
        (TxEip1559 { gas_limit: 30_000_000, input: vec![0; 200_000].into(), ..call.clone() }, "oversized data"),
    ];
    for (tx, expected) in cases {
        let error = error(sign(0, tx));
        assert!(error.starts_with(expected), "{error}");
    }
    let unprotected =
        TxLegacy { gas_limit: 21_000, gas_price: 10, to: TxKind::Call(Address::ZERO), ..TxLegacy::default() };
    let signature = key(0).sign_hash_sync(&unprotected.signature_hash()).expect("signs");
    let unprotected = Transaction::Legacy(unprotected.into_signed(signature)).encoded_2718();
    assert!(error(unprotected.into()).starts_with("only replay-protected"));
    let mut trailing = sign(0, call).to_vec();
    trailing.push(0);
    assert!(error(trailing.into()).starts_with("rlp"));
    assert!(error(vec![0x02, 0xff].into()).starts_with("rlp"));
    assert!(error(Bytes::new()).starts_with("rlp"));
}

#[test]
fn free_calls_are_for_nodes_and_come_first() {
    let mut pool = Pool::new(Room::default(), RULES.base_fee);
    let rich = Account { nonce: 0, balance: U256::from(10).pow(U256::from(18)) };
    pool.insert(parse(transfer(0, 0, 100, 90, 1)), rich).expect("paid");
    let free = parse(transfer(1, 0, 0, 0, 0));
    pool.insert(Arc::clone(&free), Account::default()).expect("a node");
    assert_eq!(pool.select(&Ahead::new(), u64::MAX, usize::MAX)[0], free);
    // Nothing can replace a free call but a paid one.
    let other = parse(transfer(1, 0, 0, 0, 0));
    assert_eq!(pool.insert(other, Account::default()), Err(TxError::Known));
    let longer = TxEip1559 { chain_id: 77, gas_limit: 60_000, to: TxKind::Call(Address::ZERO), ..TxEip1559::default() };
    let underpriced = pool.insert(parse(sign(1, longer)), Account::default());
    assert_eq!(underpriced, Err(TxError::Underpriced { nonce: 0 }));
}

#[derive(Debug, Clone)]
enum Step {
    Insert { from: u8, nonce: u64, fee: u128, tip: u128, value: u64 },
    Final { from: u8, nonce: u64, balance: u64 },
    Remove { index: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let insert = (0..4u8, 0..8u64, 10..16u128, 0..6u128, 0..3u64)
        .prop_map(|(from, nonce, fee, tip, value)| Step::Insert { from, nonce, fee, tip, value: value * 100_000 });
    let done = (0..4u8, 0..3u64, 0..8u64).prop_map(|(from, nonce, balance)| Step::Final {
        from,
        nonce,
        balance: balance * 300_000,
    });
    let remove = (0..32usize).prop_map(|index| Step::Remove { index });
    proptest::collection::vec(prop_oneof![6 => insert, 2 => done, 1 => remove], 1..40)
}

/// The pool without bounds, written down as plainly as possible.
#[derive(Default)]
struct Model {
    accounts: BTreeMap<Address, Account>,
    txs: BTreeMap<(Address, u64), Arc<PooledTx>>,
}

impl Model {
    fn cost(&self, sender: Address, but: Option<u64>) -> U256 {
        let own = self.txs.iter().filter(|((address, nonce), _)| *address == sender && Some(*nonce) != but);
        own.map(|(_, tx)| tx.max_cost()).sum()
    }

    fn insert(&mut self, tx: &Arc<PooledTx>, window: u64) -> Result<(), TxError> {
        let account = self.accounts[&tx.sender()];
        let old = self.txs.get(&(tx.sender(), tx.nonce()));
        if old == Some(tx) {
            return Err(TxError::Known);
        }
        if tx.nonce() < account.nonce {
            return Err(TxError::NonceLow { next: account.nonce, nonce: tx.nonce() });
        }
        if tx.nonce() >= account.nonce + window {
            return Err(TxError::NonceHigh { next: account.nonce, nonce: tx.nonce(), window });
        }
        if let Some(old) = old {
            let price = |tx: &PooledTx| (tx.envelope().max_fee_per_gas(), tx.envelope().priority_fee_or_price());
            let ((old_fee, old_tip), (fee, tip)) = (price(old), price(tx));
            if fee * 100 < old_fee * 110 || tip * 100 < old_tip * 110 {
                return Err(TxError::Underpriced { nonce: tx.nonce() });
            }
        }
        let want = self.cost(tx.sender(), Some(tx.nonce())) + tx.max_cost();
        if want > account.balance {
            return Err(TxError::Funds { sender: tx.sender(), have: account.balance, want });
        }
        self.txs.insert((tx.sender(), tx.nonce()), Arc::clone(tx));
        Ok(())
    }

    fn finalize(&mut self, sender: Address, account: Account) {
        self.accounts.insert(sender, account);
        self.txs.retain(|(address, nonce), _| *address != sender || *nonce >= account.nonce);
        while self.cost(sender, None) > account.balance {
            let last = *self.txs.range((sender, 0)..=(sender, u64::MAX)).next_back().expect("costs something").0;
            self.txs.remove(&last);
        }
    }
}

fn run_steps(steps: Vec<Step>, room: Room, exact: bool) {
    let mut pool = Pool::new(room, RULES.base_fee);
    let mut model = Model::default();
    for from in 0..4 {
        model.accounts.insert(key(from).address(), Account { nonce: 0, balance: U256::from(1_500_000) });
    }
    for step in steps {
        match step {
            Step::Insert { from, nonce, fee, tip, value } => {
                let tx = parse(transfer(from, nonce, fee, tip, value));
                let result = pool.insert(Arc::clone(&tx), model.accounts[&tx.sender()]);
                if exact {
                    assert_eq!(result, model.insert(&tx, room.per_sender));
                } else {
                    assert_eq!(result.is_ok(), pool.by_hash(&tx.hash()).is_some() && result != Err(TxError::Known));
                }
            }
            Step::Final { from, nonce, balance } => {
                let sender = key(from).address();
                let nonce = model.accounts[&sender].nonce + nonce;
                let account = Account { nonce, balance: U256::from(balance) };
                pool.update(sender, account);
                model.finalize(sender, account);
            }
            Step::Remove { index } => {
                let Some(tx) = pool.iter().nth(index).cloned() else { continue };
                assert!(pool.remove(&tx.hash()));
                model.txs.remove(&(tx.sender(), tx.nonce()));
            }
        }
        check(&pool, &model, room);
        if exact {
            assert!(pool.iter().eq(model.txs.values()));
        }
    }
}

/// What holds after every step, whatever the bounds.
fn check(pool: &Pool, model: &Model, room: Room) {
    assert_eq!(pool.len(), pool.iter().count());
    assert_eq!(pool.bytes(), pool.iter().map(|tx| tx.bytes().len()).sum::<usize>());
    assert!(pool.len() <= room.paid && pool.bytes() <= room.bytes);
    let mut costs: BTreeMap<Address, U256> = BTreeMap::new();
    for tx in pool.iter() {
        let account = model.accounts[&tx.sender()];
        assert!((account.nonce..account.nonce + room.per_sender).contains(&tx.nonce()));
        assert_eq!(pool.by_hash(&tx.hash()), Some(tx));
        *costs.entry(tx.sender()).or_default() += tx.max_cost();
    }
    assert!(costs.iter().all(|(sender, cost)| *cost <= model.accounts[sender].balance));

    let selected = pool.select(&Ahead::new(), u64::MAX, usize::MAX);
    assert_eq!(pool.any_ready(&Ahead::new()), !selected.is_empty());
    let mut next: BTreeMap<Address, u64> = model.accounts.iter().map(|(a, account)| (*a, account.nonce)).collect();
    for tx in &selected {
        let expected = next.get_mut(&tx.sender()).expect("known");
        assert_eq!(tx.nonce(), *expected, "in order, without a gap");
        let best = next.iter().filter_map(|(sender, nonce)| {
            pool.iter().find(|tx| tx.sender() == *sender && tx.nonce() == *nonce).map(|tx| tx.tip(RULES.base_fee))
        });
        assert_eq!(best.max(), Some(tx.tip(RULES.base_fee)), "who pays most goes first");
        *next.get_mut(&tx.sender()).expect("known") += 1;
    }
    for (sender, nonce) in next {
        assert_eq!(pool.next_nonce(sender, model.accounts[&sender].nonce), nonce);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_roomy_pool_is_the_model(steps in steps()) {
        run_steps(steps, Room { per_sender: 5, ..Room::default() }, true);
    }

    #[test]
    fn a_small_pool_keeps_its_bounds(steps in steps()) {
        run_steps(steps, Room { paid: 5, bytes: 1_000, per_sender: 6, ..Room::default() }, false);
    }
}

#[test]
fn who_pays_more_gets_the_room() {
    let mut pool = Pool::new(Room { paid: 2, ..Room::default() }, RULES.base_fee);
    let rich = Account { nonce: 0, balance: U256::from(u64::MAX) };
    pool.insert(parse(transfer(0, 0, 50, 1, 0)), rich).expect("room");
    pool.insert(parse(transfer(1, 0, 50, 3, 0)), rich).expect("room");
    assert_eq!(pool.insert(parse(transfer(2, 0, 50, 1, 0)), rich), Err(TxError::Full));
    pool.insert(parse(transfer(2, 0, 50, 2, 0)), rich).expect("pays more than the first");
    let left: Vec<_> = pool.iter().map(|tx| tx.sender()).collect();
    assert!(!left.contains(&key(0).address()) && pool.len() == 2, "{left:?}");
}

struct Fixed(Mutex<BTreeMap<Address, Account>>);

impl Fixed {
    fn new() -> Arc<Self> {
        let rich = Account { nonce: 0, balance: U256::from(u64::MAX) };
        Arc::new(Self(Mutex::new((0..4).map(|from| (key(from).address(), rich)).collect())))
    }
}

impl Accounts for Fixed {
    fn account(&self, address: Address) -> Result<Account, String> {
        Ok(lock(&self.0).get(&address).copied().unwrap_or_default())
    }

    fn check_free(&self, tx: &SignedBy) -> Result<Result<(), String>, String> {
        let node = tx.signer() == key(3).address();
        Ok(if node { Ok(()) } else { Err("the sender is not the account of a registered node".into()) })
    }
}

#[tokio::test]
async fn a_restart_keeps_what_was_acknowledged_and_is_still_valid() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("mempool.journal");
    let accounts = Fixed::new();
    let open = || Mempool::open(&path, RULES, Room::default(), accounts.clone()).expect("opens");
    let mempool = open();
    let mut hashes = Vec::new();
    for nonce in 0..5 {
        hashes.push(mempool.submit(transfer(0, nonce, 20, 1, 1)).await.expect("taken"));
    }
    assert_eq!(mempool.submit(transfer(0, 0, 20, 1, 1)).await, Err(TxError::Known));
    drop(mempool); // As good as a kill: nothing is written on the way out.
    lock(&accounts.0).get_mut(&key(0).address()).expect("there").nonce = 2;
    let mempool = open();
    let there: Vec<_> = hashes.iter().map(|hash| mempool.by_hash(hash).is_some()).collect();
    assert_eq!(there, [false, false, true, true, true]);
    assert_eq!(mempool.next_nonce(key(0).address(), 2), 5);
}

#[tokio::test]
async fn free_calls_of_others_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let mempool = Mempool::open(&dir.path().join("j"), RULES, Room::default(), Fixed::new()).expect("opens");
    let refused = mempool.submit(transfer(0, 0, 0, 0, 0)).await.expect_err("not a node").to_string();
    assert!(refused.ends_with("baseFee: 10; the sender is not the account of a registered node"), "{refused}");
    mempool.submit(transfer(3, 0, 0, 0, 0)).await.expect("a node");
}

#[tokio::test]
async fn final_blocks_empty_the_pool_and_wake_the_proposer() {
    let dir = tempfile::tempdir().expect("a directory");
    let accounts = Fixed::new();
    let mempool = Mempool::open(&dir.path().join("j"), RULES, Room::default(), accounts.clone()).expect("opens");
    let mut watch = mempool.watch();
    mempool.submit(transfer(0, 0, 20, 1, 1)).await.expect("taken");
    watch.changed().await.expect("woken");
    let ready = mempool.select(&Ahead::new());
    assert_eq!(ready.len(), 1);
    // On top of a block that holds it there is nothing to do.
    let ahead = Ahead::from([(key(0).address(), 1)]);
    assert!(!mempool.any_ready(&ahead) && mempool.select(&ahead).is_empty());
    lock(&accounts.0).get_mut(&key(0).address()).expect("there").nonce = 1;
    mempool.finalized(1, 1_000, ready.iter().map(|tx| (tx.sender(), tx.envelope())));
    assert!(mempool.is_empty());
    watch.changed().await.expect("woken");
}

#[tokio::test]
async fn gossip_reaches_the_other_pool_in_messages_of_bounded_size() {
    use futures::StreamExt as _;
    let dir = tempfile::tempdir().expect("a directory");
    let open = |name| Mempool::open(&dir.path().join(name), RULES, Room::default(), Fixed::new()).expect("opens");
    let (a, b) = (open("a"), open("b"));
    let (gossip, mut messages) = Gossip::channel();
    a.connect(gossip);
    let mut hashes = Vec::new();
    for nonce in 0..20 {
        hashes.push(a.submit(transfer(0, nonce, 20, 1, 1)).await.expect("taken"));
    }
    b.gossiped(Bytes::from_static(b"anything"));
    let mut watch = b.watch();
    while b.len() < 20 {
        let message = messages.next().await.expect("a message");
        assert!(message.len() <= GOSSIP_BYTES_MAX);
        b.gossiped(message);
        watch.changed().await.expect("taken in");
    }
    assert!(hashes.iter().all(|hash| b.by_hash(hash).is_some()));
    // After a restart of `b` that lost the messages, the next round brings them again.
    let c = open("c");
    a.finalized(1, limits::GOSSIP_REPEAT_MS, []);
    c.gossiped(messages.next().await.expect("a message"));
    let mut watch = c.watch();
    while c.len() < 20 {
        watch.changed().await.expect("taken in");
    }
}

#[test]
fn packing_loses_nothing_and_keeps_the_bound() {
    let txs: Vec<Bytes> = (1..60usize).map(|n| vec![n as u8; n * 7].into()).collect();
    let messages = pack(txs.clone(), 1_000);
    assert!(messages.iter().all(|message| message.len() <= 1_000));
    let back: Vec<Bytes> =
        messages.iter().flat_map(|message| Vec::<Bytes>::decode(&mut message.as_ref()).expect("a list")).collect();
    assert_eq!(back, txs);
}
