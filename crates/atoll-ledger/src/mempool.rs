//! Transactions on their way into a block.
//!
//! [`Mempool::submit`] checks a transaction against the newest final state, puts it into the [`pool`], and returns when
//! the [`journal`] holds it durably: what was acknowledged survives `kill -9`. It is then gossiped to the other
//! validators, so that whoever proposes next can order it. It leaves the pool when it is in a final block, or when it can
//! no longer be valid.
//!
//! The pool is one mutex around a pure structure. The state is read under that mutex, and the chain calls
//! [`Mempool::finalized`] after it made a block's state visible: so no transaction can slip in with an old nonce.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use alloy_consensus::Transaction as _;
use alloy_primitives::{Address, B256, Bytes, keccak256};
use alloy_rlp::{Decodable as _, Encodable as _};
use atoll_ledger_core::{Transaction, transaction::SignedBy};
use tokio::sync::watch;

use self::journal::Journal;
pub use self::{
    journal::JournalError,
    pool::{Account, Ahead, Pool, Room},
    tx::{PooledTx, Rules, TxError},
};
use crate::{
    engine::{Gossip, limits::GOSSIP_BYTES_MAX},
    limits,
};

mod journal;
mod pool;
mod tx;

#[cfg(test)]
mod tests;

/// The newest final state, as far as the mempool needs it.
pub trait Accounts: Send + Sync + 'static {
    /// The account; the default for one that does not exist.
    fn account(&self, address: Address) -> Result<Account, String>;

    /// Whether this call, which offers no fee, may be free: one of the nodes' calls, from the account of a registered
    /// node. If not, why not.
    fn check_free(&self, tx: &SignedBy) -> Result<Result<(), String>, String>;
}

/// Handle to the mempool.
#[derive(Clone)]
pub struct Mempool(Arc<Inner>);

struct Inner {
    rules: Rules,
    accounts: Arc<dyn Accounts>,
    pool: Mutex<Pool>,
    journal: Journal,
    gossip: Arc<Mutex<Option<Gossip>>>,
    inbox: mpsc::SyncSender<Bytes>,
    changed: watch::Sender<u64>,
    doubted: Mutex<BTreeSet<Address>>,
    repeated_ms: AtomicU64,
    swept: AtomicU64,
}

impl Mempool {
    /// Opens the journal at `path` and takes in again what it holds, as far as it is still valid.
    pub fn open(path: &Path, rules: Rules, room: Room, accounts: Arc<dyn Accounts>) -> Result<Self, JournalError> {
        let gossip = Arc::new(Mutex::new(None));
        let sender = Arc::clone(&gossip);
        let (journal, kept) = Journal::open(path, Box::new(move |txs| send_all(&sender, txs)))?;
        let (inbox, messages) = mpsc::sync_channel::<Bytes>(limits::GOSSIP_INBOX_MAX);
        let mempool = Self(Arc::new(Inner {
            rules,
            accounts,
            pool: Mutex::new(Pool::new(room, rules.base_fee)),
            journal,
            gossip,
            inbox,
            changed: watch::Sender::new(0),
            doubted: Mutex::default(),
            repeated_ms: AtomicU64::new(0),
            swept: AtomicU64::new(0),
        }));
        let total = kept.len();
        let taken = kept.into_iter().filter(|bytes| mempool.insert(bytes.clone()).is_ok()).count();
        if total > 0 {
            tracing::info!(taken, total, "transactions that wait for a block were read from the journal");
        }
        let weak = Arc::downgrade(&mempool.0);
        let run = move || {
            while let Ok(message) = messages.recv() {
                let Some(inner) = weak.upgrade() else { return };
                Self(inner).handle_gossip(&message);
            }
        };
        thread::Builder::new().name("mempool-gossip".into()).spawn(run).map_err(|source| JournalError::Io {
            what: "start the gossip thread of",
            path: path.to_owned(),
            source,
        })?;
        Ok(mempool)
    }

    /// Gives the way to the other validators. Until then nothing is gossiped.
    pub fn connect(&self, gossip: Gossip) {
        *lock(&self.0.gossip) = Some(gossip);
    }

    /// Takes a transaction in. When this returns its hash, the transaction is durable.
    pub async fn submit(&self, bytes: Bytes) -> Result<B256, TxError> {
        let tx = self.insert(bytes)?;
        let hash = tx.hash();
        if let Err(error) = self.0.journal.append(tx.bytes().clone()).await {
            self.pool().remove(&hash);
            return Err(TxError::Journal(error));
        }
        Ok(hash)
    }

    /// A message that [`Gossip`] carried here. It is looked at later, by a thread; one too many is dropped.
    pub fn gossiped(&self, message: Bytes) {
        if self.0.inbox.try_send(message).is_err() {
            tracing::debug!("too much gossip at once: a message was dropped");
        }
    }

    /// What may go into a block on top of blocks that are not final yet, whose senders' next nonces are `ahead`.
    pub fn select(&self, ahead: &Ahead) -> Vec<Arc<PooledTx>> {
        let gas = self.0.rules.gas_limit.saturating_mul(limits::PROPOSAL_GAS_FACTOR);
        self.pool().select(ahead, gas, limits::PROPOSAL_BYTES_MAX)
    }

    /// Whether [`Self::select`] would give anything.
    pub fn any_ready(&self, ahead: &Ahead) -> bool {
        self.pool().any_ready(ahead)
    }

    /// Changes whenever something came in or the chain went on.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Tells those who watch to look again.
    pub fn wake(&self) {
        self.0.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Has these compared with the state at the next final block, because they could not be executed on a block that is
    /// not final yet.
    pub fn doubt(&self, senders: impl IntoIterator<Item = Address>) {
        lock(&self.0.doubted).extend(senders);
    }

    /// Drops transactions that cannot be executed on any state.
    pub fn reject(&self, hashes: impl IntoIterator<Item = B256>) {
        let mut pool = self.pool();
        for hash in hashes {
            pool.remove(&hash);
        }
    }

    /// A final block's state is visible to [`Accounts`] now: what it included goes. `time_ms` is the ledger's.
    pub fn finalized<'a>(&self, number: u64, time_ms: u64, txs: impl IntoIterator<Item = (Address, &'a Transaction)>) {
        let mut touched = std::mem::take(&mut *lock(&self.0.doubted));
        for (sender, tx) in txs {
            touched.insert(sender);
            let authorities = tx.authorization_list().unwrap_or_default();
            touched.extend(authorities.iter().filter_map(|authority| authority.recover_authority().ok()));
        }
        let mut pool = self.pool();
        let swept = self.0.swept.load(Ordering::Relaxed);
        if number.saturating_sub(swept) >= limits::POOL_SWEEP_BLOCKS {
            self.0.swept.store(number, Ordering::Relaxed);
            touched.extend(pool.senders());
        }
        for address in touched {
            if let Err(error) = self.compare(&mut pool, address) {
                tracing::warn!(%error, "cannot compare the mempool with the ledger's state");
            }
        }
        self.0.journal.compact(pool.bytes(), || pool.iter().map(|tx| tx.bytes().clone()).collect());
        drop(pool);
        self.repeat_gossip(time_ms);
        self.wake();
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.pool().len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.pool().is_empty()
    }

    /// Bytes of those that wait.
    pub fn bytes(&self) -> usize {
        self.pool().bytes()
    }

    /// The waiting one with this hash.
    pub fn by_hash(&self, hash: &B256) -> Option<Arc<PooledTx>> {
        self.pool().by_hash(hash).cloned()
    }

    /// The nonce that the sender's next transaction needs, counting those that wait; `next` is the account's.
    pub fn next_nonce(&self, sender: Address, next: u64) -> u64 {
        self.pool().next_nonce(sender, next)
    }

    /// Drops what of a sender's transactions was included, or can no longer be paid for or be free.
    fn compare(&self, pool: &mut Pool, address: Address) -> Result<(), String> {
        pool.update(address, self.0.accounts.account(address)?);
        if self.0.rules.base_fee == 0 {
            return Ok(());
        }
        let free: Vec<_> = pool.of(address).filter(|tx| tx.is_free()).cloned().collect();
        for tx in free {
            if self.0.accounts.check_free(tx.recovered())?.is_err() {
                pool.remove(&tx.hash());
            }
        }
        Ok(())
    }

    fn insert(&self, bytes: Bytes) -> Result<Arc<PooledTx>, TxError> {
        if self.pool().by_hash(&keccak256(&bytes)).is_some() {
            return Err(TxError::Known);
        }
        let tx = Arc::new(PooledTx::parse(bytes, &self.0.rules)?);
        let mut pool = self.pool();
        let account = self.0.accounts.account(tx.sender()).map_err(TxError::State)?;
        let base_fee = self.0.rules.base_fee;
        if tx.is_free() && base_fee > 0 {
            let checked = self.0.accounts.check_free(tx.recovered()).map_err(TxError::State)?;
            checked.map_err(|why| TxError::NotFree { base_fee, why })?;
        }
        pool.insert(Arc::clone(&tx), account)?;
        drop(pool);
        self.wake();
        Ok(tx)
    }

    fn handle_gossip(&self, message: &[u8]) {
        let mut rest = message;
        let Ok(txs) = Vec::<Bytes>::decode(&mut rest) else {
            tracing::debug!("gossip that is no list of transactions is ignored");
            return;
        };
        for bytes in txs {
            match self.insert(bytes) {
                Ok(tx) => self.0.journal.append_later(tx.bytes().clone()),
                Err(TxError::Known) => {}
                Err(error) => tracing::trace!(%error, "a gossiped transaction is not taken"),
            }
        }
    }

    fn repeat_gossip(&self, time_ms: u64) {
        let last = self.0.repeated_ms.load(Ordering::Relaxed);
        if time_ms.saturating_sub(last) < limits::GOSSIP_REPEAT_MS {
            return;
        }
        self.0.repeated_ms.store(time_ms, Ordering::Relaxed);
        let txs = self.pool().select(&Ahead::new(), u64::MAX, limits::GOSSIP_REPEAT_BYTES_MAX);
        send_all(&self.0.gossip, txs.iter().map(|tx| tx.bytes().clone()).collect());
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        lock(&self.0.pool)
    }
}

impl core::fmt::Debug for Mempool {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Mempool({} wait)", self.len())
    }
}

/// Gossips transactions, as many in one message as fit.
fn send_all(gossip: &Mutex<Option<Gossip>>, txs: Vec<Bytes>) {
    let guard = lock(gossip);
    let Some(gossip) = guard.as_ref() else { return };
    for message in pack(txs, GOSSIP_BYTES_MAX) {
        if !gossip.send(message) {
            tracing::debug!("the gossip queue is full: transactions are gossiped again later");
            return;
        }
    }
}

/// RLP lists of transactions, each at most `bytes_max` long.
fn pack(txs: Vec<Bytes>, bytes_max: usize) -> Vec<Bytes> {
    /// The longest head of an RLP list.
    const HEAD: usize = 9;
    let mut messages = Vec::new();
    let (mut group, mut length) = (Vec::new(), HEAD);
    let flush = |group: &mut Vec<Bytes>, messages: &mut Vec<Bytes>| {
        if !group.is_empty() {
            messages.push(Bytes::from(alloy_rlp::encode(&*group)));
            group.clear();
        }
    };
    for tx in txs {
        if length + tx.length() > bytes_max {
            flush(&mut group, &mut messages);
            length = HEAD;
        }
        length += tx.length();
        group.push(tx);
    }
    flush(&mut group, &mut messages);
    messages
}

/// No panic leaves the guarded data half changed in a way that matters more than stopping all transactions.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
