//! A transaction at the door: decoding, and the checks that need no state.

use alloy_consensus::{
    Transaction as _,
    transaction::{Recovered, SignerRecoverable as _},
};
use alloy_eips::eip2718::{Decodable2718 as _, Encodable2718 as _};
use alloy_primitives::{Address, B256, Bytes, U256};
use atoll_base::limits::TRANSACTION_BYTES_MAX;
use atoll_ledger_core::{Transaction, transaction::SignedBy};

/// Why a transaction is refused. The texts begin as Ethereum's clients write them, because wallets recognise them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TxError {
    /// Not a transaction.
    #[error("rlp: the bytes are no signed transaction: {0}")]
    Encoding(String),
    /// Too long.
    #[error("oversized data: transaction size {size}, limit {TRANSACTION_BYTES_MAX}")]
    Size {
        /// Its length.
        size: usize,
    },
    /// Blobs.
    #[error("transaction type not supported: a region keeps no blobs, put the data into the call")]
    Blobs,
    /// Without chain id.
    #[error("only replay-protected (EIP-155) transactions allowed over RPC")]
    Unprotected,
    /// For another chain.
    #[error("invalid chain id for signer: have {have} want {want}")]
    ChainId {
        /// The transaction's.
        have: u64,
        /// This region's.
        want: u64,
    },
    /// The signature does not recover to an account.
    #[error("invalid sender: the signature belongs to no account")]
    Signature,
    /// Tip above fee.
    #[error("max priority fee per gas higher than max fee per gas: maxPriorityFeePerGas: {tip}, maxFeePerGas: {fee}")]
    TipAboveFee {
        /// The tip.
        tip: u128,
        /// The fee.
        fee: u128,
    },
    /// Too cheap.
    #[error("max fee per gas less than block base fee: address {sender}, maxFeePerGas: {fee}, baseFee: {base_fee}")]
    Fee {
        /// The sender.
        sender: Address,
        /// What it offers.
        fee: u128,
        /// What is asked.
        base_fee: u64,
    },
    /// Price zero, and not one of the free calls.
    #[error("max fee per gas less than block base fee: maxFeePerGas: 0, baseFee: {base_fee}; {why}")]
    NotFree {
        /// What is asked.
        base_fee: u64,
        /// Which rule of free calls it breaks.
        why: String,
    },
    /// More gas than a block has.
    #[error("exceeds block gas limit: gas {gas}, limit {limit}")]
    GasLimit {
        /// The transaction's.
        gas: u64,
        /// The block's.
        limit: u64,
    },
    /// Less gas than the transaction needs before it runs.
    #[error("intrinsic gas too low: gas {gas}, minimum needed {needed}")]
    IntrinsicGas {
        /// The transaction's.
        gas: u64,
        /// The least.
        needed: u64,
    },
    /// Already included.
    #[error("nonce too low: next nonce {next}, tx nonce {nonce}")]
    NonceLow {
        /// The account's.
        next: u64,
        /// The transaction's.
        nonce: u64,
    },
    /// Too far ahead.
    #[error("nonce too high: next nonce {next}, tx nonce {nonce}, at most {window} ahead are kept")]
    NonceHigh {
        /// The account's.
        next: u64,
        /// The transaction's.
        nonce: u64,
        /// How far ahead is allowed.
        window: u64,
    },
    /// Cannot pay.
    #[error("insufficient funds for gas * price + value: address {sender} have {have} want {want}")]
    Funds {
        /// The sender.
        sender: Address,
        /// Its balance.
        have: U256,
        /// What this and its waiting transactions may cost.
        want: U256,
    },
    /// Known.
    #[error("already known")]
    Known,
    /// Another one has the nonce, and pays nearly as much.
    #[error("replacement transaction underpriced: nonce {nonce} waits already, pay at least 10 % more to replace it")]
    Underpriced {
        /// The nonce.
        nonce: u64,
    },
    /// No room.
    #[error("txpool is full: try again soon, or offer a higher priority fee")]
    Full,
    /// The journal could not be written.
    #[error("the transaction could not be kept: {0}")]
    Journal(String),
    /// The state could not be read.
    #[error("the ledger's state could not be read: {0}")]
    State(String),
}

/// A transaction with valid encoding, signature, chain and size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PooledTx {
    tx: SignedBy,
    bytes: Bytes,
}

/// What a transaction is checked against when no state is at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The region's EIP-155 chain id.
    pub chain_id: u64,
    /// Price of gas.
    pub base_fee: u64,
    /// Gas of a block.
    pub gas_limit: u64,
}

impl PooledTx {
    /// Parses EIP-2718 bytes and checks all that needs no state.
    pub fn parse(bytes: Bytes, rules: &Rules) -> Result<Self, TxError> {
        if bytes.len() > TRANSACTION_BYTES_MAX {
            return Err(TxError::Size { size: bytes.len() });
        }
        let mut rest = bytes.as_ref();
        let tx = Transaction::decode_2718(&mut rest).map_err(|e| TxError::Encoding(e.to_string()))?;
        if !rest.is_empty() {
            return Err(TxError::Encoding(format!("{} bytes follow it", rest.len())));
        }
        if tx.encoded_2718() != bytes {
            return Err(TxError::Encoding("another encoding of the same transaction is the canonical one".into()));
        }
        if tx.is_eip4844() {
            return Err(TxError::Blobs);
        }
        match tx.chain_id() {
            Some(id) if id == rules.chain_id => {}
            Some(have) => return Err(TxError::ChainId { have, want: rules.chain_id }),
            None => return Err(TxError::Unprotected),
        }
        let (fee, tip) = (tx.max_fee_per_gas(), tx.max_priority_fee_per_gas().unwrap_or(0));
        if tip > fee {
            return Err(TxError::TipAboveFee { tip, fee });
        }
        if tx.gas_limit() > rules.gas_limit {
            return Err(TxError::GasLimit { gas: tx.gas_limit(), limit: rules.gas_limit });
        }
        let needed = intrinsic_gas(&tx);
        if tx.gas_limit() < needed {
            return Err(TxError::IntrinsicGas { gas: tx.gas_limit(), needed });
        }
        let sender = tx.recover_signer().map_err(|_| TxError::Signature)?;
        if fee != 0 && fee < u128::from(rules.base_fee) {
            return Err(TxError::Fee { sender, fee, base_fee: rules.base_fee });
        }
        Ok(Self { tx: Recovered::new_unchecked(tx, sender), bytes })
    }

    /// The transaction with its sender.
    pub const fn recovered(&self) -> &SignedBy {
        &self.tx
    }

    /// The transaction.
    pub const fn envelope(&self) -> &Transaction {
        self.tx.inner()
    }

    /// EIP-2718 bytes.
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Its hash.
    pub fn hash(&self) -> B256 {
        *self.envelope().tx_hash()
    }

    /// Who signed it.
    pub const fn sender(&self) -> Address {
        self.tx.signer()
    }

    /// Its nonce.
    pub fn nonce(&self) -> u64 {
        self.envelope().nonce()
    }

    /// Whether it offers nothing for gas: only nodes may, see [`TxError::NotFree`].
    pub fn is_free(&self) -> bool {
        self.envelope().max_fee_per_gas() == 0
    }

    /// What it pays per gas above `base_fee`.
    pub fn tip(&self, base_fee: u64) -> u128 {
        self.envelope().effective_tip_per_gas(base_fee).unwrap_or(0)
    }

    /// The most that it can cost its sender.
    pub fn max_cost(&self) -> U256 {
        let tx = self.envelope();
        U256::from(tx.gas_limit()).saturating_mul(U256::from(tx.max_fee_per_gas())).saturating_add(tx.value())
    }
}

/// Gas that a transaction needs before its first instruction (Yellow Paper appendix G; EIP-2930, 3860, 7623, 7702).
fn intrinsic_gas(tx: &Transaction) -> u64 {
    const WORD: u64 = 32;
    let input = tx.input();
    let length = input.len() as u64;
    let nonzero = input.iter().filter(|byte| **byte != 0).count() as u64;
    let tokens = (length - nonzero) + 4 * nonzero;
    let mut gas = 21_000 + 4 * tokens;
    if tx.is_create() {
        gas += 32_000 + 2 * length.div_ceil(WORD);
    }
    if let Some(list) = tx.access_list() {
        gas += 2_400 * list.len() as u64 + 1_900 * list.storage_keys_count() as u64;
    }
    gas += 25_000 * tx.authorization_list().map_or(0, <[_]>::len) as u64;
    gas.max(21_000 + 10 * tokens)
}
