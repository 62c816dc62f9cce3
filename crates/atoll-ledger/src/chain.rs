//! The chain of blocks: builds, verifies and executes them, and keeps the final ones.
//!
//! ```text
//!             propose / verify                         finalized
//! committed ◀── a ◀── b ◀── c   executed, in memory  ──────────▶  commit thread: state, index and certificate in one
//!     (database)    ◀── b'      (layers over the state)           durable batch of up to 8 blocks; then mempool, watch
//! ```
//!
//! [`Chain`] implements the engine's [`Application`] and answers what JSON-RPC asks; everybody reads the newest committed
//! block through [`Chain::head`], so what is shown is final and durable. A block is executed once, by whichever of the
//! three calls comes first.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Bytes, keccak256};
use atoll_base::{Charter, NodeId, RegionId};
use atoll_ledger_core::{
    Env, Invalid, Mode, execute,
    execute::{ExecuteError, Skip},
    genesis::GenesisError,
    state::{Layer, StateError, StateTree},
    transaction::{self, SignedBy},
};
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use self::open::signed;
use self::{commit::Final, tree::Tree};
pub use self::{
    index::{Index, IndexError, Outcome},
    tree::ExecutedBlock,
};
use crate::{
    engine::{Ancestors, Application, Block, BlockError, Proposal},
    limits,
    mempool::{JournalError, Mempool},
};

mod commit;
pub mod index;
mod open;
mod tree;

#[cfg(test)]
pub(crate) mod tests;

/// Why the chain cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The data belongs to another region.
    #[error(
        "the ledger's data belongs to region {found}, but the charter is that of region {wanted}: use another state \
         directory, or the charter that belongs to this one"
    )]
    OtherRegion {
        /// In the database.
        found: RegionId,
        /// Of the charter.
        wanted: RegionId,
    },
    /// The charter gives no genesis.
    #[error("the charter gives no genesis block")]
    Genesis(#[from] GenesisError),
    /// The state cannot be read or written.
    #[error("the ledger's state cannot be used")]
    State(#[from] StateError),
    /// The blocks cannot be read.
    #[error("the ledger's blocks cannot be used")]
    Index(#[from] IndexError),
    /// A block is none.
    #[error("the ledger made a block that is none")]
    Block(#[source] BlockError),
    /// The mempool cannot be opened.
    #[error("the mempool cannot be opened")]
    Mempool(#[from] JournalError),
    /// The system gives no thread.
    #[error("the ledger's commit thread cannot be started")]
    Thread(#[source] io::Error),
}

/// Why a block was not built or found valid.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    /// Every validator must come to the same answer: it breaks a rule.
    #[error("{0}")]
    Invalid(String),
    /// It is on a branch that lost against a final block.
    #[error("it does not descend from the newest final block")]
    Lost,
    /// Says nothing about the block.
    #[error("{0}")]
    Broken(String),
}

/// A final block with the certificate that says so.
#[derive(Debug)]
pub struct Certified {
    /// The block, and the state after it.
    pub executed: Arc<ExecutedBlock>,
    /// In the form that `atoll-light` verifies.
    pub certificate: Bytes,
}

/// Handle to the chain. Cheap to clone.
#[derive(Clone)]
pub struct Chain(Arc<Inner>);

struct Inner {
    charter: Arc<Charter>,
    region: RegionId,
    genesis: Block,
    state: StateTree,
    index: Index,
    tree: Mutex<Tree>,
    head: watch::Sender<Arc<ExecutedBlock>>,
    certified: watch::Sender<Option<Arc<Certified>>>,
    last_final: Mutex<Option<Arc<ExecutedBlock>>>,
    recent: Mutex<VecDeque<Arc<ExecutedBlock>>>,
    mempool: Mempool,
    finals: mpsc::Sender<Final>,
    problem: Mutex<Option<String>>,
    broken: watch::Sender<Option<Arc<StateError>>>,
}

impl Chain {
    /// The region's charter.
    pub fn charter(&self) -> &Charter {
        &self.0.charter
    }

    /// The region.
    pub fn region(&self) -> RegionId {
        self.0.region
    }

    /// The transactions that wait.
    pub fn mempool(&self) -> &Mempool {
        &self.0.mempool
    }

    /// Final blocks of the past.
    pub fn index(&self) -> &Index {
        &self.0.index
    }

    /// The newest block that is final and durable.
    pub fn head(&self) -> Arc<ExecutedBlock> {
        Arc::clone(&self.0.head.borrow())
    }

    /// The final block at this height, while its state can still be read.
    pub fn recent(&self, height: u64) -> Option<Arc<ExecutedBlock>> {
        lock(&self.0.recent).iter().find(|block| block.block.number() == height).cloned()
    }

    /// Follows [`Self::head`].
    pub fn heads(&self) -> watch::Receiver<Arc<ExecutedBlock>> {
        self.0.head.subscribe()
    }

    /// Follows the newest final and durable block that has a certificate; `None` before the first one.
    pub fn certified(&self) -> watch::Receiver<Option<Arc<Certified>>> {
        self.0.certified.subscribe()
    }

    /// How many executed blocks wait in memory to become final, forks included.
    pub fn waiting_blocks(&self) -> usize {
        lock(&self.0.tree).len()
    }

    /// What is wrong, in plain words.
    pub fn problem(&self) -> Option<String> {
        lock(&self.0.problem).clone()
    }

    /// Waits until final blocks can no longer be written. Only a new process helps.
    pub async fn broken(&self) -> Arc<StateError> {
        let mut broken = self.0.broken.subscribe();
        match broken.wait_for(Option::is_some).await.map(|why| why.clone()) {
            Ok(Some(why)) => why,
            // The sender lives as long as this handle.
            _ => std::future::pending().await,
        }
    }

    /// How a question about the newest state sees the world: as a transaction of the next block would.
    pub fn env_after<'a>(&'a self, head: &ExecutedBlock) -> Env<'a> {
        let header = head.block.header();
        Env::after(&self.0.charter, self.0.region, header, header.timestamp_ms + self.0.charter.timing.block_min_ms)
    }

    /// The executed `parent`; executes what is missing between it and a block that is here.
    async fn base(&self, parent: Block, ancestors: &mut Ancestors) -> Result<Arc<ExecutedBlock>, Refusal> {
        let mut missing: Vec<Block> = Vec::new();
        let mut next = parent;
        let mut base = loop {
            match self.find(&next, &mut missing)? {
                Some(found) => break found,
                None if missing.len() >= limits::TREE_BLOCKS_MAX => {
                    return Err(Refusal::Broken("too many blocks are missing".into()));
                }
                None => missing.push(next),
            }
            next = ancestors.next().await.ok_or_else(|| Refusal::Broken("its ancestors are not at hand".into()))?;
        };
        while let Some(block) = missing.pop() {
            base = self.execute(&base, block)?;
        }
        Ok(base)
    }

    /// The block if it is in the tree. While ancestors were fetched the root may have moved up, beyond `next`: then the
    /// newest of the `missing` that is in the tree by now will do.
    fn find(&self, next: &Block, missing: &mut Vec<Block>) -> Result<Option<Arc<ExecutedBlock>>, Refusal> {
        let tree = lock(&self.0.tree);
        if let Some(found) = tree.get(&next.hash()) {
            return Ok(Some(Arc::clone(found)));
        }
        if next.number() > tree.root().block.number() {
            return Ok(None);
        }
        let known = missing.iter().enumerate().find_map(|(i, block)| Some((i, tree.get(&block.hash())?)));
        let (index, found) = known.ok_or(Refusal::Lost)?;
        missing.truncate(index);
        Ok(Some(Arc::clone(found)))
    }

    /// Executes a block on its parent, compares every field of its header, and keeps the result.
    fn execute(&self, parent: &ExecutedBlock, block: Block) -> Result<Arc<ExecutedBlock>, Refusal> {
        if let Some(known) = lock(&self.0.tree).get(&block.hash()) {
            return Ok(Arc::clone(known));
        }
        let transactions = self.recover(&block)?;
        let env = Env::after(&self.0.charter, self.0.region, parent.block.header(), block.header().timestamp_ms);
        let done = execute(&env, &parent.layer, &transactions, Mode::Verify).map_err(|error| match &error {
            ExecuteError::Transaction { .. } | ExecuteError::Full { .. } => Refusal::Invalid(chain_of(&error)),
            ExecuteError::State(_) | ExecuteError::Broken(_) => Refusal::Broken(chain_of(&error)),
        })?;
        let (layer, root) = parent.layer.child(&done.diff).map_err(|e| Refusal::Broken(chain_of(&e)))?;
        done.check(&env, root, block.header()).map_err(|e| Refusal::Invalid(e.to_string()))?;
        Ok(self.keep(block, done.transactions, done.receipts, layer))
    }

    /// The transactions with their senders; those that wait in the mempool are known already.
    fn recover(&self, block: &Block) -> Result<Vec<SignedBy>, Refusal> {
        let recover = |(index, bytes): (usize, &Bytes)| match self.0.mempool.by_hash(&keccak256(bytes)) {
            Some(pooled) => Ok(pooled.recovered().clone()),
            None => transaction::decode(bytes, self.0.charter.chain_id)
                .map_err(|error| Refusal::Invalid(format!("transaction {index}: {error}"))),
        };
        block.transactions().iter().enumerate().map(recover).collect()
    }

    fn keep(
        &self,
        block: Block,
        transactions: Vec<SignedBy>,
        receipts: Vec<atoll_ledger_core::Receipt>,
        layer: Layer,
    ) -> Arc<ExecutedBlock> {
        let executed = Arc::new(ExecutedBlock { block, transactions, receipts, layer });
        lock(&self.0.tree).insert(Arc::clone(&executed), limits::TREE_BLOCKS_MAX).unwrap_or_else(|| {
            tracing::debug!(block = ?executed.block, "executed on a branch that lost meanwhile");
            executed
        })
    }

    fn build(&self, parent: &ExecutedBlock, proposal: Proposal) -> Result<Block, Refusal> {
        let broken = |error: &dyn std::error::Error| Refusal::Broken(chain_of(error));
        let ahead = lock(&self.0.tree).ahead(&parent.block.hash());
        let pooled = self.0.mempool.select(&ahead);
        let wanted: Vec<_> = pooled.iter().map(|tx| tx.recovered().clone()).collect();
        let env = Env::after(&self.0.charter, self.0.region, parent.block.header(), proposal.timestamp_ms);
        let done = execute(&env, &parent.layer, &wanted, Mode::Propose).map_err(|e| broken(&e))?;
        for (index, skip) in &done.skipped {
            let (Skip::Invalid(invalid), Some(tx)) = (skip, pooled.get(*index)) else { continue };
            tracing::debug!(hash = %tx.hash(), %invalid, "a waiting transaction cannot be executed now");
            match invalid {
                // Only a final state says so for good.
                Invalid::NonceTooLow { .. } => self.0.mempool.doubt([tx.sender()]),
                invalid if invalid.may_become_valid() => self.0.mempool.doubt([tx.sender()]),
                _ => self.0.mempool.reject([tx.hash()]),
            }
        }
        let (layer, root) = parent.layer.child(&done.diff).map_err(|e| broken(&e))?;
        let mut header = done.header(&env, root);
        header.proposer = proposal.proposer.word();
        header.epoch = proposal.epoch;
        header.view = proposal.view;
        let bytes = done.transactions.iter().map(|tx| tx.inner().encoded_2718().into()).collect();
        let block = Block::new(header, bytes).map_err(|e| broken(&e))?;
        self.keep(block.clone(), done.transactions, done.receipts, layer);
        Ok(block)
    }

    /// The executed parent of a final block: the committed one, or the one that was told to be final just before.
    fn final_parent(&self, block: &Block) -> Option<Arc<ExecutedBlock>> {
        let hash = block.header().parent_hash;
        let known = lock(&self.0.tree).get(&hash).cloned();
        // The tree may have dropped it to make room while it waits to be committed.
        known.or_else(|| lock(&self.0.last_final).clone().filter(|last| last.block.hash() == hash))
    }

    /// Nothing can be said about a block now. The engine goes on without an answer; people read it in the status.
    async fn give_up<T>(&self, what: &str, why: String) -> T {
        tracing::error!(%why, "{what}");
        *lock(&self.0.problem) = Some(format!("{what}: {why}"));
        std::future::pending().await
    }
}

impl Application for Chain {
    fn genesis(&self) -> Block {
        self.0.genesis.clone()
    }

    async fn ready(&self) {
        let mut changes = self.0.mempool.watch();
        loop {
            changes.borrow_and_update();
            let ahead = {
                let tree = lock(&self.0.tree);
                tree.ahead(&tree.tip().block.hash())
            };
            if self.0.mempool.any_ready(&ahead) || changes.changed().await.is_err() {
                return;
            }
        }
    }

    async fn propose(&self, parent: Block, mut ancestors: Ancestors, proposal: Proposal) -> Option<Block> {
        let built = self.base(parent, &mut ancestors).await.and_then(|base| self.build(&base, proposal));
        built.inspect_err(|why| tracing::warn!(%why, "no block is proposed")).ok()
    }

    async fn verify(&self, parent: Block, mut ancestors: Ancestors, block: Block) -> bool {
        if lock(&self.0.tree).get(&block.hash()).is_some() {
            return true;
        }
        let executed = match self.base(parent, &mut ancestors).await {
            Ok(base) => self.execute(&base, block.clone()),
            Err(refusal) => Err(refusal),
        };
        match executed {
            Ok(_) => true,
            Err(why @ (Refusal::Invalid(_) | Refusal::Lost)) => {
                // What was final before the root is no longer in the tree.
                let known = self.0.index.height(&block.hash()).ok().flatten().is_some();
                if !known {
                    tracing::warn!(?block, %why, "a block was refused");
                }
                known
            }
            Err(Refusal::Broken(why)) => self.give_up("a block cannot be verified", why).await,
        }
    }

    async fn finalized(&self, block: Block, certificate: Option<Bytes>) {
        if block.number() <= self.head().block.number() {
            return;
        }
        let executed = match self.final_parent(&block) {
            Some(parent) => self.execute(&parent, block.clone()).map_err(|why| why.to_string()),
            None => Err("its parent is not known".into()),
        };
        let executed = match executed {
            Ok(executed) => executed,
            Err(why) => return self.give_up("a final block cannot be executed: this ledger stands still", why).await,
        };
        *lock(&self.0.last_final) = Some(Arc::clone(&executed));
        let (done, committed) = oneshot::channel();
        let sent = self.0.finals.send(Final { executed, certificate, done }).await;
        if sent.is_err() || committed.await.is_err() {
            self.give_up("a final block cannot be committed", "the commit thread has ended".into()).await
        }
    }

    fn gossiped(&self, _from: NodeId, message: Bytes) {
        self.0.mempool.gossiped(message);
    }
}

impl core::fmt::Debug for Chain {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Chain(at {:?})", self.head().block)
    }
}

/// An error and its causes, in one line.
pub(crate) fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// A thread that panicked leaves nothing half done behind these locks: all changes under them are single steps.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
