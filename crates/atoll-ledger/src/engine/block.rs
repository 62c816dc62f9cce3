//! The block as it travels between validators: a header and the raw transactions that it commits to.

use std::sync::Arc;

use alloy_primitives::{B256, Bytes};
use alloy_rlp::{Decodable, Encodable};
use alloy_trie::root::ordered_trie_root_with_encoder;
use atoll_base::{
    Header,
    header::EXTRA_BYTES_MAX,
    limits::{BLOCK_BYTES_MAX, TRANSACTION_BYTES_MAX},
};
use commonware_codec::{Buf, EncodeSize, FixedSize, Read, ReadExt as _, Write};
use commonware_consensus::{Heightable, types::Height};
use commonware_cryptography::{Digestible, sha256};

/// A block whose transactions match its header and which is within all bounds. Cheap to clone.
///
/// Whether the transactions mean anything is not known here.
#[derive(Clone, PartialEq, Eq)]
pub struct Block(Arc<Inner>);

#[derive(PartialEq, Eq)]
struct Inner {
    hash: B256,
    header: Header,
    transactions: Vec<Bytes>,
    /// See [`Block::to_bytes`]: the one encoding that this block has.
    rlp: Vec<u8>,
}

/// `[header, [transaction, …]]`, each member an RLP string of its own canonical bytes.
#[derive(alloy_rlp::RlpEncodable, alloy_rlp::RlpDecodable)]
struct Wire {
    header: Bytes,
    transactions: Vec<Bytes>,
}

/// A block that cannot exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Not canonical RLP.
    #[error("block is not canonical RLP: {0}")]
    Rlp(alloy_rlp::Error),
    /// Its header is none.
    #[error(transparent)]
    Header(atoll_base::header::HeaderError),
    /// Too long.
    #[error("block has {0} bytes, at most {BLOCK_BYTES_MAX} are allowed")]
    Size(usize),
    /// A transaction is too long.
    #[error("transaction {index} has {size} bytes, at most {TRANSACTION_BYTES_MAX} are allowed")]
    TransactionSize {
        /// Its place in the block.
        index: usize,
        /// Its length.
        size: usize,
    },
    /// The header's extra field is too long.
    #[error("block header's extra field has {0} bytes, at most {EXTRA_BYTES_MAX} are allowed")]
    Extra(usize),
    /// The transactions are not those of the header.
    #[error("header commits to transactions root {header}, but the transactions have root {body}")]
    TransactionsRoot {
        /// In the header.
        header: B256,
        /// Of the transactions.
        body: B256,
    },
}

impl Block {
    /// A block of these transactions, each in its EIP-2718 form.
    pub fn new(header: Header, transactions: Vec<Bytes>) -> Result<Self, BlockError> {
        if header.extra.len() > EXTRA_BYTES_MAX {
            return Err(BlockError::Extra(header.extra.len()));
        }
        let too_long = transactions.iter().enumerate().find(|(_, t)| t.len() > TRANSACTION_BYTES_MAX);
        if let Some((index, transaction)) = too_long {
            return Err(BlockError::TransactionSize { index, size: transaction.len() });
        }
        let root = Self::transactions_root(&transactions);
        if root != header.transactions_root {
            return Err(BlockError::TransactionsRoot { header: header.transactions_root, body: root });
        }
        let wire = Wire { header: header.to_bytes().into(), transactions };
        let mut rlp = Vec::with_capacity(wire.length());
        wire.encode(&mut rlp);
        if rlp.len() > BLOCK_BYTES_MAX {
            return Err(BlockError::Size(rlp.len()));
        }
        Ok(Self(Arc::new(Inner { hash: header.hash(), header, transactions: wire.transactions, rlp })))
    }

    /// The ordered trie root of transactions in their EIP-2718 form.
    pub fn transactions_root(transactions: &[Bytes]) -> B256 {
        ordered_trie_root_with_encoder(transactions, |transaction, out| out.extend_from_slice(transaction))
    }

    /// The inverse of [`Self::to_bytes`]: refuses anything that would encode differently.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BlockError> {
        if bytes.len() > BLOCK_BYTES_MAX {
            return Err(BlockError::Size(bytes.len()));
        }
        let mut rest = bytes;
        let wire = Wire::decode(&mut rest).map_err(BlockError::Rlp)?;
        if !rest.is_empty() {
            return Err(BlockError::Rlp(alloy_rlp::Error::UnexpectedLength));
        }
        let header = Header::from_bytes(&wire.header).map_err(BlockError::Header)?;
        let block = Self::new(header, wire.transactions)?;
        // RLP decoders differ in what they let pass; the hash must name one string of bytes only.
        if block.0.rlp != bytes {
            return Err(BlockError::Rlp(alloy_rlp::Error::Custom("another encoding of the same block")));
        }
        Ok(block)
    }

    /// Canonical bytes, the same as those of [`atoll_ledger_core::block::Block`].
    pub fn to_bytes(&self) -> &[u8] {
        &self.0.rlp
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.0.header
    }

    /// The transactions, each in its EIP-2718 form.
    pub fn transactions(&self) -> &[Bytes] {
        &self.0.transactions
    }

    /// The block hash.
    pub fn hash(&self) -> B256 {
        self.0.hash
    }

    /// The height.
    pub fn number(&self) -> u64 {
        self.0.header.number
    }
}

impl core::fmt::Debug for Block {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Block({} {:?}, {} transactions)", self.number(), self.hash(), self.0.transactions.len())
    }
}

impl Digestible for Block {
    type Digest = sha256::Digest;

    fn digest(&self) -> Self::Digest {
        sha256::Digest(self.0.hash.0)
    }
}

impl Heightable for Block {
    fn height(&self) -> Height {
        Height::new(self.number())
    }
}

impl commonware_consensus::Block for Block {
    fn parent(&self) -> Self::Digest {
        sha256::Digest(self.0.header.parent_hash.0)
    }
}

impl commonware_consensus::BoundedBlock for Block {
    fn max_encode_size((): &Self::Cfg) -> usize {
        u32::SIZE + BLOCK_BYTES_MAX
    }
}

impl Write for Block {
    fn write(&self, buf: &mut impl bytes::BufMut) {
        (self.0.rlp.len() as u32).write(buf);
        buf.put_slice(&self.0.rlp);
    }
}

impl EncodeSize for Block {
    fn encode_size(&self) -> usize {
        u32::SIZE + self.0.rlp.len()
    }
}

impl Read for Block {
    type Cfg = ();

    fn read_cfg(buf: &mut impl Buf, (): &Self::Cfg) -> Result<Self, commonware_codec::Error> {
        let length = u32::read(buf)? as usize;
        if length > BLOCK_BYTES_MAX {
            return Err(commonware_codec::Error::InvalidLength(length));
        }
        commonware_codec::util::at_least(buf, length)?;
        Self::from_bytes(&buf.copy_to_bytes(length))
            .map_err(|error| commonware_codec::Error::Wrapped("Block", Box::new(error)))
    }
}
