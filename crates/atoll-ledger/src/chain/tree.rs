//! Executed blocks that are not committed yet: a tree over the newest committed block. Pure, without locks or I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use alloy_consensus::Transaction as _;
use alloy_primitives::B256;
use atoll_ledger_core::{Receipt, state::Layer, transaction::SignedBy};

use crate::{engine::Block, mempool::Ahead};

/// A block with everything that executing it gave.
#[derive(Debug)]
pub struct ExecutedBlock {
    /// The block.
    pub block: Block,
    /// Its transactions with their senders.
    pub transactions: Vec<SignedBy>,
    /// One for each transaction, and the end of the block's behind them if it logged anything.
    pub receipts: Vec<Receipt>,
    /// The state after it.
    pub layer: Layer,
}

/// The tree. All its blocks descend from `root`.
#[derive(Debug)]
pub(super) struct Tree {
    root: Arc<ExecutedBlock>,
    blocks: BTreeMap<B256, Arc<ExecutedBlock>>,
}

impl Tree {
    pub(super) fn new(root: Arc<ExecutedBlock>) -> Self {
        Self { root, blocks: BTreeMap::new() }
    }

    /// The newest committed block.
    pub(super) fn root(&self) -> &Arc<ExecutedBlock> {
        &self.root
    }

    /// The block with this hash, if it is in the tree or its root.
    pub(super) fn get(&self, hash: &B256) -> Option<&Arc<ExecutedBlock>> {
        if *hash == self.root.block.hash() { Some(&self.root) } else { self.blocks.get(hash) }
    }

    /// How many blocks are over the root.
    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Adds a block, unless it is here already: what was executed twice at the same time must not have two states, of
    /// which one is committed and the other built upon. Answers the one that is here from now on; nothing if its parent is
    /// not, so that it could not be added. Beyond `max` blocks the leaf of the oldest view makes room: while no block becomes
    /// final, each leader that fails leaves one behind.
    pub(super) fn insert(&mut self, block: Arc<ExecutedBlock>, max: usize) -> Option<Arc<ExecutedBlock>> {
        if let Some(known) = self.get(&block.block.hash()) {
            return Some(Arc::clone(known));
        }
        self.get(&block.block.header().parent_hash)?;
        self.blocks.insert(block.block.hash(), Arc::clone(&block));
        if self.blocks.len() > max {
            let parents: BTreeSet<_> = self.blocks.values().map(|b| b.block.header().parent_hash).collect();
            let leaves = self.blocks.values().filter(|b| !parents.contains(&b.block.hash()));
            if let Some(oldest) = leaves.min_by_key(|b| b.block.header().view).map(|b| b.block.hash()) {
                self.blocks.remove(&oldest);
            }
        }
        Some(block)
    }

    /// The next nonces of the senders of the block with this hash and of its ancestors down to the root.
    pub(super) fn ahead(&self, hash: &B256) -> Ahead {
        let mut ahead = Ahead::new();
        let mut next = self.blocks.get(hash);
        while let Some(block) = next {
            for tx in &block.transactions {
                let nonce = ahead.entry(tx.signer()).or_default();
                *nonce = (*nonce).max(tx.nonce() + 1);
            }
            next = self.blocks.get(&block.block.header().parent_hash);
        }
        ahead
    }

    /// The block that consensus most likely builds on next: the highest one, of these that of the latest view.
    pub(super) fn tip(&self) -> &Arc<ExecutedBlock> {
        let order = |block: &&Arc<ExecutedBlock>| (block.block.number(), block.block.header().view);
        self.blocks.values().max_by_key(order).unwrap_or(&self.root)
    }

    /// Makes `block` the root, and forgets all that does not descend from it. Returns how many were forgotten that were
    /// neither it nor one of its ancestors.
    pub(super) fn commit(&mut self, block: Arc<ExecutedBlock>) -> usize {
        let mut ancestors = 0;
        let mut next = self.blocks.get(&block.block.hash());
        while let Some(ancestor) = next {
            ancestors += 1;
            next = self.blocks.get(&ancestor.block.header().parent_hash);
        }
        let mut by_height: Vec<_> = std::mem::take(&mut self.blocks).into_values().collect();
        let before = by_height.len();
        by_height.sort_by_key(|block| block.block.number());
        self.root = block;
        for block in by_height {
            if block.block.number() > self.root.block.number() {
                self.insert(block, usize::MAX);
            }
        }
        before - self.blocks.len() - ancestors
    }
}
