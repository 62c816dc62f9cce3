//! Blocks, transactions and receipts in the form of Ethereum's JSON-RPC.

use std::sync::Arc;

use alloy_consensus::{Eip658Value, ReceiptEnvelope, ReceiptWithBloom, Transaction as _, TxReceipt as _, TxType};
use alloy_eips::{BlockHashOrNumber, BlockId, BlockNumberOrTag, eip2718::Encodable2718 as _};
use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_rpc_types_eth::{Block as EthBlock, BlockTransactions, Header as EthHeader, Log, TransactionReceipt};
use atoll_base::{Header, NodeId};
use atoll_ledger_core::{Transaction, block::end_of_block_id, transaction::SignedBy};
use serde::{Deserialize, Serialize};

use super::{Rpc, error::Failure};
use crate::{
    chain::{IndexError, Outcome, signed},
    engine::Block,
};

pub(super) type EthTransaction = alloy_rpc_types_eth::Transaction<Transaction>;
pub(super) type EthReceipt = TransactionReceipt<ReceiptEnvelope<Log>>;

/// A block, with what Ethereum's form has no place for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RpcBlock {
    #[serde(flatten)]
    block: EthBlock<EthTransaction>,
    /// Ledger time in milliseconds; `timestamp` is in seconds, as everywhere.
    timestamp_ms: u64,
    /// Who proposed it.
    proposer: NodeId,
    epoch: u64,
    view: u64,
}

/// A final block with its outcome.
pub(super) struct Full {
    pub(super) block: Block,
    pub(super) outcome: Outcome,
    transactions: Vec<SignedBy>,
}

impl Rpc {
    /// The height that a block id means; `None` if there is no such final block.
    pub(super) fn height(&self, id: BlockId) -> Result<Option<u64>, Failure> {
        let height = match id {
            BlockId::Hash(hash) => self.chain.index().height(&hash.block_hash)?,
            BlockId::Number(tag) => Some(self.height_of_tag(tag)),
        };
        Ok(height.filter(|height| self.is_shown(*height)))
    }

    /// Whether a block is shown: the index has one a moment before the head moves to it, and who sees a receipt must
    /// also see the balance that belongs to it.
    fn is_shown(&self, height: u64) -> bool {
        height <= self.chain.head().block.number()
    }

    /// The height that a tag means: everything shown is final, so all newest ones are the same.
    pub(super) fn height_of_tag(&self, tag: BlockNumberOrTag) -> u64 {
        match tag {
            BlockNumberOrTag::Earliest => 0,
            BlockNumberOrTag::Number(height) => height,
            _ => self.chain.head().block.number(),
        }
    }

    pub(super) fn header(&self, height: u64) -> Result<Option<Header>, IndexError> {
        Ok(self.chain.index().block(height)?.map(|block| block.header().clone()))
    }

    pub(super) fn full(&self, height: u64) -> Result<Option<Full>, Failure> {
        if !self.is_shown(height) {
            return Ok(None);
        }
        let (Some(block), Some(outcome)) = (self.chain.index().block(height)?, self.chain.index().outcome(height)?)
        else {
            return Ok(None);
        };
        let transactions = signed(&block, &outcome.senders)?;
        Ok(Some(Full { block, outcome, transactions }))
    }

    pub(super) fn block(&self, id: BlockHashOrNumber, with_transactions: bool) -> Result<Option<RpcBlock>, Failure> {
        let height = match id {
            BlockHashOrNumber::Hash(hash) => self.chain.index().height(&hash)?,
            BlockHashOrNumber::Number(height) => Some(height),
        };
        let Some(full) = height.map(|height| self.full(height)).transpose()?.flatten() else { return Ok(None) };
        Ok(Some(full.to_rpc(self.chain.charter().treasury, with_transactions)))
    }
}

impl Full {
    fn to_rpc(&self, beneficiary: Address, with_transactions: bool) -> RpcBlock {
        let header = self.block.header();
        let inner = alloy_consensus::Header {
            parent_hash: header.parent_hash,
            beneficiary,
            state_root: header.state_root,
            transactions_root: header.transactions_root,
            receipts_root: header.receipts_root,
            logs_bloom: self.outcome.bloom(),
            number: header.number,
            gas_limit: header.gas_limit,
            gas_used: header.gas_used,
            timestamp: seconds(header),
            extra_data: header.extra.clone(),
            base_fee_per_gas: Some(header.base_fee),
            ..alloy_consensus::Header::default()
        };
        let size = Some(U256::from(self.block.to_bytes().len()));
        let header_rpc = EthHeader { hash: self.block.hash(), inner, total_difficulty: None, size };
        let transactions = if with_transactions {
            BlockTransactions::Full((0..self.transactions.len()).filter_map(|i| self.transaction(i)).collect())
        } else {
            BlockTransactions::Hashes(self.transactions.iter().map(|tx| *tx.inner().tx_hash()).collect())
        };
        RpcBlock {
            block: EthBlock::new(header_rpc, transactions),
            timestamp_ms: header.timestamp_ms,
            proposer: header.proposer.into(),
            epoch: header.epoch,
            view: header.view,
        }
    }

    pub(super) fn transaction(&self, index: usize) -> Option<EthTransaction> {
        let header = self.block.header();
        let tx = self.transactions.get(index)?;
        Some(EthTransaction {
            effective_gas_price: Some(tx.effective_gas_price(Some(header.base_fee))),
            inner: tx.clone(),
            block_hash: Some(self.block.hash()),
            block_number: Some(header.number),
            transaction_index: Some(index as u64),
            block_timestamp: Some(seconds(header)),
        })
    }

    /// EIP-2718 bytes of a transaction.
    pub(super) fn raw(&self, index: usize) -> Option<Bytes> {
        self.transactions.get(index).map(|tx| tx.inner().encoded_2718().into())
    }

    pub(super) fn receipts(&self) -> Vec<EthReceipt> {
        (0..self.transactions.len()).filter_map(|index| self.receipt(index)).collect()
    }

    pub(super) fn receipt(&self, index: usize) -> Option<EthReceipt> {
        let header = self.block.header();
        let (tx, receipt) = (self.transactions.get(index)?, self.outcome.receipts.get(index)?);
        let before = index.checked_sub(1).and_then(|i| self.outcome.receipts.get(i));
        let gas_before = before.map_or(0, |receipt| receipt.cumulative_gas_used());
        let inner = ReceiptWithBloom {
            receipt: alloy_consensus::Receipt {
                status: Eip658Value::Eip658(receipt.status()),
                cumulative_gas_used: receipt.cumulative_gas_used(),
                logs: self.logs_of(index),
            },
            logs_bloom: receipt.logs_bloom,
        };
        let inner = match receipt.receipt.tx_type {
            TxType::Legacy => ReceiptEnvelope::Legacy(inner),
            TxType::Eip2930 => ReceiptEnvelope::Eip2930(inner),
            TxType::Eip1559 => ReceiptEnvelope::Eip1559(inner),
            TxType::Eip4844 => ReceiptEnvelope::Eip4844(inner),
            TxType::Eip7702 => ReceiptEnvelope::Eip7702(inner),
        };
        Some(TransactionReceipt {
            inner,
            transaction_hash: *tx.inner().tx_hash(),
            transaction_index: Some(index as u64),
            block_hash: Some(self.block.hash()),
            block_number: Some(header.number),
            gas_used: receipt.cumulative_gas_used() - gas_before,
            effective_gas_price: tx.effective_gas_price(Some(header.base_fee)),
            blob_gas_used: None,
            blob_gas_price: None,
            from: tx.signer(),
            to: tx.to(),
            contract_address: tx.is_create().then(|| tx.signer().create(tx.nonce())),
        })
    }

    /// All logs of the block, those of its end included.
    pub(super) fn logs(&self) -> impl Iterator<Item = Log> {
        (0..self.outcome.receipts.len()).flat_map(|index| self.logs_of(index))
    }

    fn logs_of(&self, index: usize) -> Vec<Log> {
        let header = self.block.header();
        let before: usize = self.outcome.receipts.iter().take(index).map(|receipt| receipt.logs().len()).sum();
        let hash = match self.transactions.get(index) {
            Some(tx) => *tx.inner().tx_hash(),
            None => end_of_block_id(header.number),
        };
        let receipt = self.outcome.receipts.get(index);
        let logs = receipt.into_iter().flat_map(|receipt| receipt.logs()).enumerate();
        let to_rpc = |(place, log): (usize, &alloy_primitives::Log)| Log {
            inner: log.clone(),
            block_hash: Some(self.block.hash()),
            block_number: Some(header.number),
            block_timestamp: Some(seconds(header)),
            transaction_hash: Some(hash),
            transaction_index: Some(index as u64),
            log_index: Some((before + place) as u64),
            removed: false,
        };
        logs.map(to_rpc).collect()
    }
}

/// A transaction that waits for a block.
pub(super) fn pending(tx: &Arc<crate::mempool::PooledTx>) -> EthTransaction {
    EthTransaction {
        inner: tx.recovered().clone(),
        block_hash: None,
        block_number: None,
        transaction_index: None,
        effective_gas_price: Some(tx.envelope().max_fee_per_gas()),
        block_timestamp: None,
    }
}

/// The place of a transaction, by block and hash.
pub(super) fn place(rpc: &Rpc, hash: &B256) -> Result<Option<(Full, usize)>, Failure> {
    let Some((height, index)) = rpc.chain.index().transaction(hash)? else { return Ok(None) };
    Ok(rpc.full(height)?.map(|full| (full, index as usize)))
}

fn seconds(header: &Header) -> u64 {
    header.timestamp_ms / 1_000
}
