//! Final blocks, their receipts and certificates, and the tables to find them by. They share the state's database, so
//! that a block, its index and the state after it become durable in one atomic batch.
//!
//! ```text
//! META      "region" → region id · "head" → height of the newest committed block
//! BLOCKS    height → block                       CERTIFICATES  height → finality certificate
//! RECEIPTS  height → RLP [[sender, …], [receipt with bloom, …]]
//! BLOOMS    height → bloom, only of blocks with logs
//! HASHES    block hash → height                  TRANSACTIONS  transaction hash → height, index
//! ```
//! Numbers are big-endian, so that ranges of heights are ranges of keys.

use std::{ops::ControlFlow, sync::Arc};

use alloy_consensus::{ReceiptWithBloom, TxReceipt as _};
use alloy_primitives::{Address, B256, Bloom, Bytes};
use alloy_rlp::{Decodable as _, RlpDecodable, RlpEncodable};
use atoll_base::RegionId;
use atoll_ledger_core::{
    Receipt,
    state::{BackendError, Batch, Column, StateBackend},
};

use super::ExecutedBlock;
use crate::engine::Block;

const META: Column = Column(Column::FREE.0);
const BLOCKS: Column = Column(Column::FREE.0 + 1);
const CERTIFICATES: Column = Column(Column::FREE.0 + 2);
const RECEIPTS: Column = Column(Column::FREE.0 + 3);
const BLOOMS: Column = Column(Column::FREE.0 + 4);
const HASHES: Column = Column(Column::FREE.0 + 5);
const TRANSACTIONS: Column = Column(Column::FREE.0 + 6);

/// How many columns the chain uses, from [`Column::FREE`] on.
pub const COLUMNS: u8 = 7;

/// A table that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The database failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The database holds something that this program never writes.
    #[error(
        "the ledger's database holds {0} in an unknown form: it is damaged, or of another version of atoll; remove the \
         ledger's data folder and restart, and the ledger is fetched again from the validators"
    )]
    Damaged(&'static str),
}

/// The tables of final blocks.
#[derive(Clone)]
pub struct Index(Arc<dyn StateBackend>);

/// What a final block's transactions did.
#[derive(Debug, Clone, PartialEq, Eq, RlpEncodable, RlpDecodable)]
pub struct Outcome {
    /// Who sent them, in order.
    pub senders: Vec<Address>,
    /// One for each transaction, and the end of the block's behind them if it logged anything.
    pub receipts: Vec<ReceiptWithBloom<Receipt>>,
}

impl Outcome {
    /// Of a block that was just executed.
    pub fn of(block: &ExecutedBlock) -> Self {
        Self {
            senders: block.transactions.iter().map(|tx| tx.signer()).collect(),
            receipts: block.receipts.iter().cloned().map(ReceiptWithBloom::from).collect(),
        }
    }

    /// Bloom of all logs.
    pub fn bloom(&self) -> Bloom {
        self.receipts.iter().fold(Bloom::ZERO, |all, receipt| all | receipt.logs_bloom)
    }
}

impl Index {
    /// The tables in this database.
    pub fn new(backend: Arc<dyn StateBackend>) -> Self {
        Self(backend)
    }

    /// Whose region the database belongs to; `None` when it is empty.
    pub fn region(&self) -> Result<Option<RegionId>, IndexError> {
        let Some(bytes) = self.get(META, b"region")? else { return Ok(None) };
        let id: [u8; 32] = bytes.try_into().map_err(|_| IndexError::Damaged("its region id"))?;
        Ok(Some(RegionId(id)))
    }

    /// Height of the newest block in it.
    pub fn head(&self) -> Result<Option<u64>, IndexError> {
        self.get(META, b"head")?.map(|bytes| number(&bytes)).transpose()
    }

    /// The block at a height.
    pub fn block(&self, height: u64) -> Result<Option<Block>, IndexError> {
        let bytes = self.get(BLOCKS, &height.to_be_bytes())?;
        bytes.map(|bytes| Block::from_bytes(&bytes).map_err(|_| IndexError::Damaged("a block"))).transpose()
    }

    /// The finality certificate of the block at a height. Most blocks have one; others became final with a descendant.
    pub fn certificate(&self, height: u64) -> Result<Option<Bytes>, IndexError> {
        Ok(self.get(CERTIFICATES, &height.to_be_bytes())?.map(Bytes::from))
    }

    /// What the block at a height did.
    pub fn outcome(&self, height: u64) -> Result<Option<Outcome>, IndexError> {
        let bytes = self.get(RECEIPTS, &height.to_be_bytes())?;
        let decode = |bytes: Vec<u8>| {
            let mut rest = bytes.as_slice();
            Outcome::decode(&mut rest).map_err(|_| IndexError::Damaged("the receipts of a block"))
        };
        bytes.map(decode).transpose()
    }

    /// The height of the block with this hash.
    pub fn height(&self, hash: &B256) -> Result<Option<u64>, IndexError> {
        self.get(HASHES, hash.as_slice())?.map(|bytes| number(&bytes)).transpose()
    }

    /// Height and place of the transaction with this hash.
    pub fn transaction(&self, hash: &B256) -> Result<Option<(u64, u64)>, IndexError> {
        let Some(bytes) = self.get(TRANSACTIONS, hash.as_slice())? else { return Ok(None) };
        let (height, index) = bytes.split_at_checked(8).ok_or(IndexError::Damaged("the place of a transaction"))?;
        Ok(Some((number(height)?, number(index)?)))
    }

    /// Calls `visit` with the blooms of the blocks from `from` to `to` that have logs, in order, until told to stop.
    pub fn blooms(
        &self,
        from: u64,
        to: u64,
        visit: &mut dyn FnMut(u64, Bloom) -> ControlFlow<()>,
    ) -> Result<(), IndexError> {
        let mut damaged = false;
        self.0.view()?.scan(BLOOMS, &[], &from.to_be_bytes(), &mut |key, value| match (
            number(key),
            <&[u8; Bloom::len_bytes()]>::try_from(value),
        ) {
            (Ok(height), Ok(_)) if height > to => ControlFlow::Break(()),
            (Ok(height), Ok(bloom)) => visit(height, Bloom::new(*bloom)),
            _ => {
                damaged = true;
                ControlFlow::Break(())
            }
        })?;
        if damaged { Err(IndexError::Damaged("a bloom")) } else { Ok(()) }
    }

    fn get(&self, column: Column, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        Ok(self.0.view()?.get(column, key)?)
    }
}

/// Claims an empty database for a region.
pub(super) fn put_region(batch: &mut Batch, region: RegionId) {
    batch.put(META, b"region", region.0);
}

/// Adds a certificate.
pub(super) fn put_certificate(batch: &mut Batch, height: u64, certificate: &Bytes) {
    batch.put(CERTIFICATES, height.to_be_bytes(), certificate.to_vec());
}

/// Adds a block and all that leads to it, and makes it the head.
pub(super) fn put_block(batch: &mut Batch, executed: &ExecutedBlock) {
    let height = executed.block.number();
    let key = height.to_be_bytes();
    batch.put(META, b"head", key);
    batch.put(BLOCKS, key, executed.block.to_bytes());
    batch.put(HASHES, executed.block.hash().as_slice(), key);
    for (index, tx) in executed.transactions.iter().enumerate() {
        let place = [key, (index as u64).to_be_bytes()].concat();
        batch.put(TRANSACTIONS, tx.inner().tx_hash().as_slice(), place);
    }
    let outcome = Outcome::of(executed);
    batch.put(RECEIPTS, key, alloy_rlp::encode(&outcome));
    if outcome.receipts.iter().any(|receipt| !receipt.logs().is_empty()) {
        batch.put(BLOOMS, key, outcome.bloom().as_slice());
    }
}

fn number(bytes: &[u8]) -> Result<u64, IndexError> {
    bytes.try_into().map(u64::from_be_bytes).map_err(|_| IndexError::Damaged("a height"))
}
