//! Opening the chain: the first start writes the genesis, later ones find what was committed.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use alloy_consensus::transaction::Recovered;
use alloy_eips::eip2718::Decodable2718 as _;
use alloy_primitives::Address;
use atoll_base::{Charter, RegionId};
use atoll_ledger_core::{
    Env, Transaction, genesis,
    limits::BLOCK_GAS,
    state::{Batch, Layer, StateBackend, StateRead as _, StateTree},
    transaction::{self, Invalid, SignedBy},
};
use tokio::sync::{mpsc, watch};

use super::{
    Certified, Chain, ChainError, ExecutedBlock, Inner, commit,
    index::{self, Index, IndexError},
    tree::Tree,
};
use crate::{
    engine::{Block, limits::UNACKNOWLEDGED_MAX},
    mempool::{Account, Accounts, Mempool, Room, Rules},
};

impl Chain {
    /// Opens the chain in this database; `journal` is the mempool's file. An empty database gets the region's genesis,
    /// one of another region is refused.
    pub fn open(charter: Charter, backend: Arc<dyn StateBackend>, journal: &Path) -> Result<Self, ChainError> {
        let region = charter.region_id();
        let charter = Arc::new(charter);
        let state = StateTree::open(Arc::clone(&backend))?;
        let index = Index::new(backend);
        let genesis = prepare(&charter, region, &state, &index)?;
        let head = Arc::new(load_head(&index, state.head())?);
        let certified = index
            .certificate(head.block.number())?
            .map(|certificate| Arc::new(Certified { executed: Arc::clone(&head), certificate }));

        let height = head.block.number();
        let (head, heads) = watch::channel(head);
        let accounts = HeadAccounts { charter: Arc::clone(&charter), region, heads };
        let rules = Rules { chain_id: charter.chain_id, base_fee: charter.prices.gas, gas_limit: BLOCK_GAS };
        let mempool = Mempool::open(journal, rules, Room::default(), Arc::new(accounts))?;
        let (finals, inbox) = mpsc::channel(UNACKNOWLEDGED_MAX);
        let tree = Tree::new(Arc::clone(&head.borrow()));
        let chain = Self(Arc::new(Inner {
            charter,
            region,
            genesis,
            state,
            index,
            last_final: None.into(),
            recent: Mutex::new([Arc::clone(tree.root())].into()),
            tree: tree.into(),
            head,
            certified: watch::Sender::new(certified),
            mempool,
            finals,
            problem: None.into(),
            broken: watch::Sender::new(None),
        }));
        commit::start(chain.clone(), inbox)?;
        tracing::info!(%region, height, "the chain is open");
        Ok(chain)
    }
}

/// Makes sure that the database holds the genesis of this region and no other; returns the genesis block.
fn prepare(charter: &Charter, region: RegionId, state: &StateTree, index: &Index) -> Result<Block, ChainError> {
    if let Some(found) = index.region()? {
        if found != region {
            return Err(ChainError::OtherRegion { found, wanted: region });
        }
        return index.block(0)?.ok_or_else(|| IndexError::Damaged("no genesis block").into());
    }
    let genesis = genesis(charter)?;
    let (layer, root) = state.head().child(&genesis.diff)?;
    let block = Block::new(genesis.block(root).header, Vec::new()).map_err(ChainError::Block)?;
    let executed =
        ExecutedBlock { block: block.clone(), transactions: Vec::new(), receipts: Vec::new(), layer: layer.clone() };
    let mut batch = Batch::default();
    index::put_region(&mut batch, region);
    index::put_block(&mut batch, &executed);
    state.commit(&layer, batch)?;
    tracing::info!(%region, name = charter.name, "the region is born: its genesis block was written");
    Ok(block)
}

fn load_head(index: &Index, layer: Layer) -> Result<ExecutedBlock, ChainError> {
    let height = index.head()?.ok_or(IndexError::Damaged("no newest block"))?;
    let block = index.block(height)?.ok_or(IndexError::Damaged("no newest block"))?;
    if block.header().state_root != layer.root() {
        return Err(IndexError::Damaged("a newest block and a state that do not belong together").into());
    }
    let outcome = index.outcome(height)?.ok_or(IndexError::Damaged("no receipts of the newest block"))?;
    let transactions = signed(&block, &outcome.senders)?;
    let receipts = outcome.receipts.into_iter().map(|receipt| receipt.receipt).collect();
    Ok(ExecutedBlock { block, transactions, receipts, layer })
}

/// The transactions of a final block, whose senders are known.
pub(crate) fn signed(block: &Block, senders: &[Address]) -> Result<Vec<SignedBy>, IndexError> {
    if block.transactions().len() != senders.len() {
        return Err(IndexError::Damaged("a block and senders that do not belong together"));
    }
    let parse = |(bytes, sender): (&alloy_primitives::Bytes, &Address)| {
        let tx = Transaction::decode_2718_exact(bytes).map_err(|_| IndexError::Damaged("a transaction"))?;
        Ok(Recovered::new_unchecked(tx, *sender))
    };
    block.transactions().iter().zip(senders).map(parse).collect()
}

/// The newest committed state, for the mempool.
struct HeadAccounts {
    charter: Arc<Charter>,
    region: RegionId,
    heads: watch::Receiver<Arc<ExecutedBlock>>,
}

impl Accounts for HeadAccounts {
    fn account(&self, address: Address) -> Result<Account, String> {
        let head = Arc::clone(&self.heads.borrow());
        let account = head.layer.account(address).map_err(|e| super::chain_of(&e))?.unwrap_or_default();
        Ok(Account { nonce: account.nonce, balance: account.balance })
    }

    fn check_free(&self, tx: &SignedBy) -> Result<Result<(), String>, String> {
        let head = Arc::clone(&self.heads.borrow());
        let header = head.block.header();
        let env = Env::after(&self.charter, self.region, header, header.timestamp_ms + 1);
        Ok(match transaction::admit(&env, &head.layer, tx).map_err(|e| super::chain_of(&e))? {
            Err(Invalid::NotFree { why }) => Err(why.to_owned()),
            // Nonce and funds are the pool's to judge.
            _ => Ok(()),
        })
    }
}
