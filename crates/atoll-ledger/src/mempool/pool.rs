//! The waiting transactions: a pure data structure, without clock, locks or I/O.
//!
//! Each sender has a queue by nonce. What may go into the next block is the run of consecutive nonces from the account's
//! own on. Paid transactions and the nodes' free calls have separate room, so that neither starves the other.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap},
    sync::Arc,
};

use alloy_primitives::{Address, B256, U256};

use super::tx::{PooledTx, TxError};
use crate::limits;

/// What the pool needs to know of an account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    /// Its next nonce.
    pub nonce: u64,
    /// What it holds.
    pub balance: U256,
}

/// How much the pool may hold. [`Room::default`] is what the daemon uses, tests use less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Paid transactions.
    pub paid: usize,
    /// Free calls.
    pub free: usize,
    /// Bytes of both.
    pub bytes: usize,
    /// Nonces of one sender.
    pub per_sender: u64,
    /// Free calls of one sender.
    pub free_per_sender: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            paid: limits::POOL_PAID_MAX,
            free: limits::POOL_FREE_MAX,
            bytes: limits::POOL_BYTES_MAX,
            per_sender: limits::POOL_PER_SENDER_MAX,
            free_per_sender: limits::POOL_FREE_PER_SENDER_MAX,
        }
    }
}

/// Next nonces of the senders of blocks that are not final yet.
pub type Ahead = BTreeMap<Address, u64>;

/// The pool.
#[derive(Debug)]
pub struct Pool {
    room: Room,
    base_fee: u64,
    senders: BTreeMap<Address, Sender>,
    by_hash: HashMap<B256, (Address, u64)>,
    /// Paid ones, the first to be evicted first: lowest tip, and of equals the newest.
    cheapest: BTreeSet<(u128, Reverse<u64>, Address)>,
    free: usize,
    bytes: usize,
    arrivals: u64,
}

#[derive(Debug, Default)]
struct Sender {
    account: Account,
    txs: BTreeMap<u64, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    tx: Arc<PooledTx>,
    free: bool,
    tip: u128,
    arrival: u64,
}

impl Entry {
    /// Free calls first (they are few, and nodes live by them), then who pays more, then who came first.
    const fn rank(&self) -> (bool, u128, Reverse<u64>) {
        (self.free, self.tip, Reverse(self.arrival))
    }
}

impl Sender {
    fn next(&self, address: Address, ahead: &Ahead) -> u64 {
        ahead.get(&address).map_or(self.account.nonce, |next| self.account.nonce.max(*next))
    }

    fn cost(&self) -> U256 {
        self.txs.values().fold(U256::ZERO, |sum, entry| sum.saturating_add(entry.tx.max_cost()))
    }
}

impl Pool {
    /// An empty pool.
    pub fn new(room: Room, base_fee: u64) -> Self {
        Self {
            room,
            base_fee,
            senders: BTreeMap::new(),
            by_hash: HashMap::new(),
            cheapest: BTreeSet::new(),
            free: 0,
            bytes: 0,
            arrivals: 0,
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }

    /// Their bytes.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The one with this hash.
    pub fn by_hash(&self, hash: &B256) -> Option<&Arc<PooledTx>> {
        let (sender, nonce) = self.by_hash.get(hash)?;
        self.senders.get(sender)?.txs.get(nonce).map(|entry| &entry.tx)
    }

    /// All of them, by sender and nonce.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<PooledTx>> {
        self.senders.values().flat_map(|sender| sender.txs.values().map(|entry| &entry.tx))
    }

    /// Those of one sender, by nonce.
    pub fn of(&self, sender: Address) -> impl Iterator<Item = &Arc<PooledTx>> {
        self.senders.get(&sender).into_iter().flat_map(|sender| sender.txs.values().map(|entry| &entry.tx))
    }

    /// Who has something waiting.
    pub fn senders(&self) -> impl Iterator<Item = Address> {
        self.senders.keys().copied()
    }

    /// The nonce after the run of consecutive ones that wait, starting at the account's `next`.
    pub fn next_nonce(&self, sender: Address, next: u64) -> u64 {
        self.senders.get(&sender).map_or(next, |s| run(s, next).last().map_or(next, |entry| entry.tx.nonce() + 1))
    }

    /// Takes a transaction in. `account` is its sender at the newest final block; that a free call may be free was
    /// checked.
    pub fn insert(&mut self, tx: Arc<PooledTx>, account: Account) -> Result<(), TxError> {
        let (hash, sender, nonce) = (tx.hash(), tx.sender(), tx.nonce());
        if self.by_hash.contains_key(&hash) {
            return Err(TxError::Known);
        }
        let free = tx.is_free() && self.base_fee > 0;
        self.check_nonce(nonce, account)?;
        let replaced = self.replaceable(&tx)?;
        self.check_funds(&tx, account, replaced.as_ref())?;
        let victims = self.make_room(&tx, free, replaced.as_ref())?;

        if replaced.is_some() {
            self.take(sender, nonce);
        }
        for victim in victims {
            self.take_last(victim);
        }
        let entry = Entry { tip: tx.tip(self.base_fee), free, arrival: self.arrivals, tx };
        self.arrivals += 1;
        self.put(sender, account, entry);
        Ok(())
    }

    /// Removes one; whether it was there.
    pub fn remove(&mut self, hash: &B256) -> bool {
        let Some((sender, nonce)) = self.by_hash.get(hash).copied() else { return false };
        self.take(sender, nonce).is_some()
    }

    /// Takes note of an account at a new final block: what was included goes, and what it cannot pay for any more.
    pub fn update(&mut self, address: Address, account: Account) {
        let Some(sender) = self.senders.get_mut(&address) else { return };
        sender.account = account;
        let old: Vec<_> = sender.txs.range(..account.nonce).map(|(nonce, _)| *nonce).collect();
        for nonce in old {
            self.take(address, nonce);
        }
        while self.senders.get(&address).is_some_and(|sender| sender.cost() > account.balance) {
            self.take_last(address);
        }
    }

    /// What may go into a block, best first, within `gas` and `bytes`. `ahead` holds the next nonces of the senders of
    /// blocks that are not final yet, on top of which it goes.
    pub fn select(&self, ahead: &Ahead, gas: u64, bytes: usize) -> Vec<Arc<PooledTx>> {
        let mut heads = BinaryHeap::new();
        for (address, sender) in &self.senders {
            let mut run = run(sender, sender.next(*address, ahead));
            if let Some(head) = run.next() {
                heads.push(Head { rank: head.rank(), tx: &head.tx, rest: run });
            }
        }
        let (mut gas_left, mut bytes_left) = (gas, bytes);
        let mut selected = Vec::new();
        while let Some(mut head) = heads.pop() {
            let length = head.tx.bytes().len();
            let wanted = alloy_consensus::Transaction::gas_limit(head.tx.envelope());
            if wanted > gas_left || length > bytes_left {
                continue; // The sender's later nonces depend on this one; other senders may still fit.
            }
            gas_left -= wanted;
            bytes_left -= length;
            selected.push(Arc::clone(head.tx));
            if let Some(next) = head.rest.next() {
                head.rank = next.rank();
                head.tx = &next.tx;
                heads.push(head);
            }
        }
        selected
    }

    /// Whether [`Self::select`] would give anything.
    pub fn any_ready(&self, ahead: &Ahead) -> bool {
        self.senders.iter().any(|(address, sender)| sender.txs.contains_key(&sender.next(*address, ahead)))
    }

    fn check_nonce(&self, nonce: u64, account: Account) -> Result<(), TxError> {
        let next = account.nonce;
        if nonce < next {
            return Err(TxError::NonceLow { next, nonce });
        }
        if nonce - next >= self.room.per_sender {
            return Err(TxError::NonceHigh { next, nonce, window: self.room.per_sender });
        }
        Ok(())
    }

    /// The transaction that `tx` replaces, if any, provided that it pays enough more.
    fn replaceable(&self, tx: &PooledTx) -> Result<Option<Entry>, TxError> {
        let Some(old) = self.senders.get(&tx.sender()).and_then(|sender| sender.txs.get(&tx.nonce())) else {
            return Ok(None);
        };
        let raised = |old: u128| {
            let raise = old.saturating_mul(limits::POOL_REPLACE_PERCENT).div_ceil(100);
            old.saturating_add(raise.max(1))
        };
        let fee = |tx: &PooledTx| alloy_consensus::Transaction::max_fee_per_gas(tx.envelope());
        let tip = |tx: &PooledTx| alloy_consensus::Transaction::priority_fee_or_price(tx.envelope());
        let tip_needed = if tip(&old.tx) == 0 { 0 } else { raised(tip(&old.tx)) };
        if fee(tx) < raised(fee(&old.tx)) || tip(tx) < tip_needed {
            return Err(TxError::Underpriced { nonce: tx.nonce() });
        }
        Ok(Some(old.clone()))
    }

    fn check_funds(&self, tx: &PooledTx, account: Account, replaced: Option<&Entry>) -> Result<(), TxError> {
        let waiting = self.senders.get(&tx.sender()).map_or(U256::ZERO, Sender::cost);
        let waiting = waiting.saturating_sub(replaced.map_or(U256::ZERO, |old| old.tx.max_cost()));
        let want = waiting.saturating_add(tx.max_cost());
        if want > account.balance {
            return Err(TxError::Funds { sender: tx.sender(), have: account.balance, want });
        }
        Ok(())
    }

    /// Senders whose last transaction must go so that `tx` fits, one mention for each; refuses if it is not worth it.
    fn make_room(&self, tx: &PooledTx, free: bool, replaced: Option<&Entry>) -> Result<Vec<Address>, TxError> {
        let gone = replaced.map_or((0, 0, 0), |old| {
            let (free, paid) = if old.free { (1, 0) } else { (0, 1) };
            (free, paid, old.tx.bytes().len())
        });
        let mut bytes = self.bytes - gone.2 + tx.bytes().len();
        if free {
            let own = self.senders.get(&tx.sender()).map_or(0, |s| s.txs.values().filter(|entry| entry.free).count());
            let fits = self.free - gone.0 < self.room.free && own - gone.0 < self.room.free_per_sender;
            // Free calls pay for nothing, so nothing makes room for them; paid ones leave them a share of the bytes.
            return if fits && bytes <= self.room.bytes { Ok(Vec::new()) } else { Err(TxError::Full) };
        }
        let bytes_max = self.room.bytes - self.room.bytes / 8;
        let mut count = self.by_hash.len() - self.free - gone.1 + 1;
        let mut victims: BTreeMap<Address, usize> = BTreeMap::new();
        let mut order = self.cheapest.iter();
        while count > self.room.paid || bytes > bytes_max {
            let Some((tip, _, address)) = order.next() else { return Err(TxError::Full) };
            if *tip >= tx.tip(self.base_fee) {
                return Err(TxError::Full);
            }
            if *address == tx.sender() {
                continue; // An account does not cut its own queue.
            }
            let taken = victims.entry(*address).or_default();
            let Some(last) = self.senders.get(address).and_then(|s| s.txs.values().rev().nth(*taken)) else { continue };
            *taken += 1;
            bytes -= last.tx.bytes().len();
            count -= usize::from(!last.free);
        }
        Ok(victims.into_iter().flat_map(|(address, times)| std::iter::repeat_n(address, times)).collect())
    }

    fn put(&mut self, address: Address, account: Account, entry: Entry) {
        self.by_hash.insert(entry.tx.hash(), (address, entry.tx.nonce()));
        self.bytes += entry.tx.bytes().len();
        if entry.free {
            self.free += 1;
        } else {
            self.cheapest.insert((entry.tip, Reverse(entry.arrival), address));
        }
        let sender = self.senders.entry(address).or_default();
        sender.account = account;
        sender.txs.insert(entry.tx.nonce(), entry);
    }

    fn take(&mut self, address: Address, nonce: u64) -> Option<Entry> {
        let sender = self.senders.get_mut(&address)?;
        let entry = sender.txs.remove(&nonce)?;
        if sender.txs.is_empty() {
            self.senders.remove(&address);
        }
        self.by_hash.remove(&entry.tx.hash());
        self.bytes -= entry.tx.bytes().len();
        if entry.free {
            self.free -= 1;
        } else {
            self.cheapest.remove(&(entry.tip, Reverse(entry.arrival), address));
        }
        Some(entry)
    }

    fn take_last(&mut self, address: Address) -> Option<Entry> {
        let nonce = *self.senders.get(&address)?.txs.last_key_value()?.0;
        self.take(address, nonce)
    }
}

/// Consecutive nonces of one sender, starting at `next`.
fn run(sender: &Sender, next: u64) -> impl Iterator<Item = &Entry> {
    sender.txs.range(next..).zip(next..).take_while(|((nonce, _), expected)| **nonce == *expected).map(|((_, e), _)| e)
}

/// The next transaction of one sender, ordered by rank.
struct Head<'a, I> {
    rank: (bool, u128, Reverse<u64>),
    tx: &'a Arc<PooledTx>,
    rest: I,
}

impl<I> PartialEq for Head<'_, I> {
    fn eq(&self, other: &Self) -> bool {
        self.rank == other.rank
    }
}

impl<I> Eq for Head<'_, I> {}

impl<I> PartialOrd for Head<'_, I> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<I> Ord for Head<'_, I> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank.cmp(&other.rank)
    }
}
