//! Blocks: a header and Ethereum transactions. The block hash is the header's, so decoding checks that the transactions
//! are those that the header names, and that the bytes are the only ones that could carry this block.
//!
//! ```text
//! block   = RLP [ header, [ transaction, … ] ]        transaction = RLP string of its EIP-2718 bytes
//! receipt = one a transaction, and one more when the end of the block itself had something to log
//! ```

use alloy_consensus::{EthereumReceipt, TxType, proofs};
use alloy_eips::eip2718::{Decodable2718 as _, Encodable2718 as _};
use alloy_primitives::{B256, Bytes, Log};
use alloy_rlp::{Decodable as _, Encodable as _, RlpDecodable, RlpEncodable};
use atoll_base::{
    Header,
    header::HeaderError,
    ids::domain_hash,
    limits::{BLOCK_BYTES_MAX, TRANSACTION_BYTES_MAX},
};

use crate::{
    limits,
    transaction::{self, Invalid, SignedBy, Transaction},
};

/// What a transaction did: Ethereum's receipt (EIP-658).
pub type Receipt = EthereumReceipt<TxType>;

/// A block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Names all the rest.
    pub header: Header,
    /// In the order of execution.
    pub transactions: Vec<Transaction>,
}

/// Bytes that are no block.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// Beyond the bound.
    #[error("the block has {0} bytes, at most {BLOCK_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// Beyond the bound.
    #[error("the block has {0} transactions, at most {max} are allowed", max = limits::BLOCK_TRANSACTIONS_MAX)]
    TooMany(usize),
    /// Not RLP of a block, or not the canonical one.
    #[error("the block is not canonical RLP: {0}")]
    Rlp(alloy_rlp::Error),
    /// Bytes that another encoder would not have written.
    #[error("the block does not encode to the same bytes")]
    NotCanonical,
    /// The header is none.
    #[error("the block's header is not valid")]
    Header(#[source] HeaderError),
    /// One of its transactions is none.
    #[error("transaction {index} of the block is not valid")]
    Transaction {
        /// Its place.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: Invalid,
    },
    /// The header names other transactions.
    #[error("the block's transactions have the root {found}, its header names {named}")]
    TransactionsRoot {
        /// Of the transactions.
        found: B256,
        /// In the header.
        named: B256,
    },
}

#[derive(RlpEncodable, RlpDecodable)]
struct Wire {
    header: Bytes,
    transactions: Vec<Bytes>,
}

impl Block {
    /// The block hash: the digest that validators vote on.
    pub fn hash(&self) -> B256 {
        self.header.hash()
    }

    /// Canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let wire = Wire {
            header: self.header.to_bytes().into(),
            transactions: self.transactions.iter().map(|tx| tx.encoded_2718().into()).collect(),
        };
        let mut out = Vec::with_capacity(wire.length());
        wire.encode(&mut out);
        out
    }

    /// The inverse of [`Self::to_bytes`]. What it returns has the transactions that its header names, within all bounds.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BlockError> {
        if bytes.len() > BLOCK_BYTES_MAX {
            return Err(BlockError::TooLong(bytes.len()));
        }
        let mut rest = bytes;
        let wire = Wire::decode(&mut rest).map_err(BlockError::Rlp)?;
        if !rest.is_empty() {
            return Err(BlockError::Rlp(alloy_rlp::Error::UnexpectedLength));
        }
        if wire.transactions.len() > limits::BLOCK_TRANSACTIONS_MAX {
            return Err(BlockError::TooMany(wire.transactions.len()));
        }
        let header = Header::from_bytes(&wire.header).map_err(BlockError::Header)?;
        let mut transactions = Vec::with_capacity(wire.transactions.len());
        for (index, bytes) in wire.transactions.iter().enumerate() {
            let tx = parse(bytes).map_err(|source| BlockError::Transaction { index, source })?;
            transactions.push(tx);
        }
        let found = transactions_root(&transactions);
        if found != header.transactions_root {
            return Err(BlockError::TransactionsRoot { found, named: header.transactions_root });
        }
        let block = Self { header, transactions };
        if block.to_bytes() != bytes {
            return Err(BlockError::NotCanonical);
        }
        Ok(block)
    }

    /// The transactions with their senders, as [`crate::execute`] takes them. Costs one signature recovery each.
    pub fn recover(&self, chain_id: u64) -> Result<Vec<SignedBy>, BlockError> {
        let recover = |(index, tx): (usize, &Transaction)| {
            transaction::recover(tx.clone(), chain_id).map_err(|source| BlockError::Transaction { index, source })
        };
        self.transactions.iter().enumerate().map(recover).collect()
    }
}

fn parse(bytes: &[u8]) -> Result<Transaction, Invalid> {
    if bytes.len() > TRANSACTION_BYTES_MAX {
        return Err(Invalid::TooLong(bytes.len()));
    }
    let tx = Transaction::decode_2718_exact(bytes).map_err(|e| Invalid::Encoding(e.to_string()))?;
    if tx.is_eip4844() { Err(Invalid::Blobs) } else { Ok(tx) }
}

/// Ordered trie root of transactions, as in Ethereum.
pub fn transactions_root(transactions: &[Transaction]) -> B256 {
    proofs::calculate_transaction_root(transactions)
}

/// Ordered trie root of receipts with their blooms, as in Ethereum.
pub fn receipts_root(receipts: &[Receipt]) -> B256 {
    let with_bloom: Vec<_> = receipts.iter().map(alloy_consensus::TxReceipt::with_bloom_ref).collect();
    proofs::calculate_receipt_root(&with_bloom)
}

/// The receipt of the end of a block: takeovers, charges and suspensions that no transaction caused. It stands behind the
/// receipts of the transactions, and only in blocks where there is something to log.
pub fn end_receipt(gas_used: u64, logs: Vec<Log>) -> Receipt {
    Receipt { tx_type: TxType::Legacy, success: true, cumulative_gas_used: gas_used, logs }
}

/// What JSON-RPC names as the transaction of logs that belong to the end of a block.
pub fn end_of_block_id(number: u64) -> B256 {
    domain_hash("atoll end of block v1", &[&number.to_be_bytes()])
}
