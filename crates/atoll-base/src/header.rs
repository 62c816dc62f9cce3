//! The block header: what a finality certificate vouches for.

use alloy_primitives::{B256, Bytes, keccak256};
use alloy_rlp::{Decodable, Encodable, RlpDecodable, RlpEncodable};
use serde::{Deserialize, Serialize};

/// Header of a block. Its Keccak-256 over RLP is the block hash and the digest that validators vote on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, RlpEncodable, RlpDecodable)]
pub struct Header {
    /// Hash of the parent's header; for the genesis block the region id.
    pub parent_hash: B256,
    /// Height; the genesis block is 0.
    pub number: u64,
    /// Ledger time, milliseconds since 1970, strictly greater than the parent's.
    pub timestamp_ms: u64,
    /// Identity (Ed25519) of the validator that proposed it; zero in the genesis block.
    pub proposer: B256,
    /// Root of the state trie after this block.
    pub state_root: B256,
    /// Ordered trie root of the transactions, as in Ethereum.
    pub transactions_root: B256,
    /// Ordered trie root of the receipts, as in Ethereum.
    pub receipts_root: B256,
    /// Gas used by all transactions.
    pub gas_used: u64,
    /// Gas that the block may use.
    pub gas_limit: u64,
    /// Price of a unit of gas, in the smallest unit of the currency.
    pub base_fee: u64,
    /// Consensus epoch, as committed by simplex.
    pub epoch: u64,
    /// Consensus view within the epoch, as committed by simplex.
    pub view: u64,
    /// Free bytes of the proposer, at most 32.
    pub extra: Bytes,
}

/// Longest `extra` field.
pub const EXTRA_BYTES_MAX: usize = 32;

/// A header that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not canonical RLP.
    #[error("block header is not canonical RLP: {0}")]
    Rlp(alloy_rlp::Error),
    /// Bytes after the end.
    #[error("block header is followed by {0} unexpected bytes")]
    Trailing(usize),
    /// A field beyond its bound.
    #[error("block header's extra field has {0} bytes, at most {EXTRA_BYTES_MAX} are allowed")]
    Extra(usize),
}

impl Header {
    /// The block hash.
    pub fn hash(&self) -> B256 {
        keccak256(self.to_bytes())
    }

    /// Canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.length());
        self.encode(&mut out);
        out
    }

    /// The inverse of [`Self::to_bytes`]: refuses anything that would encode differently.
    pub fn from_bytes(mut bytes: &[u8]) -> Result<Self, HeaderError> {
        let header = Self::decode(&mut bytes).map_err(HeaderError::Rlp)?;
        if !bytes.is_empty() {
            return Err(HeaderError::Trailing(bytes.len()));
        }
        if header.extra.len() > EXTRA_BYTES_MAX {
            return Err(HeaderError::Extra(header.extra.len()));
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            parent_hash: B256::repeat_byte(1),
            number: 7,
            timestamp_ms: 1_790_000_000_123,
            proposer: B256::repeat_byte(2),
            state_root: B256::repeat_byte(3),
            transactions_root: B256::repeat_byte(4),
            receipts_root: B256::repeat_byte(5),
            gas_used: 21_000,
            gas_limit: 30_000_000,
            base_fee: 1,
            epoch: 0,
            view: 9,
            extra: Bytes::new(),
        }
    }

    #[test]
    fn round_trips_and_refuses_trailing_bytes() {
        let mut bytes = header().to_bytes();
        assert_eq!(Header::from_bytes(&bytes), Ok(header()));
        bytes.push(0);
        assert_eq!(Header::from_bytes(&bytes), Err(HeaderError::Trailing(1)));
    }

    #[test]
    fn encoding_is_pinned() {
        // A change of this hash changes the ledger's format: it needs a record in docs/rfd and a new charter version.
        assert_eq!(header().hash().to_string(), "0x7df8511a8d1eccfa34711cd58b0121c1f7a107a68920eacf0f80165acdcab346");
    }
}
