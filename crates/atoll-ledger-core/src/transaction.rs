//! Transactions: Ethereum's typed envelopes without blobs, parsed once at the edge into a type that carries its sender.

use alloy_consensus::{
    EthereumTxEnvelope, Transaction as _, TxEip4844,
    transaction::{Recovered, SignerRecoverable as _},
};
use alloy_eips::eip2718::{Decodable2718 as _, Encodable2718 as _};
use alloy_primitives::{Address, U256};
use alloy_sol_types::SolCall as _;
use atoll_base::{
    contracts::{DEPLOYMENTS, IDeployments, INodes, NODES},
    limits::TRANSACTION_BYTES_MAX,
    schema,
};

use crate::{execute::Env, limits, state::StateRead};

/// A signed transaction: legacy, EIP-2930, EIP-1559 or EIP-7702. Blobs are refused by [`decode`].
pub type Transaction = EthereumTxEnvelope<TxEip4844>;

/// A transaction with the account that signed it.
pub type SignedBy = Recovered<Transaction>;

/// Why a transaction can not be in a block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Not an encoding of a transaction.
    #[error("the transaction is not canonical EIP-2718: {0}")]
    Encoding(String),
    /// Beyond the bound.
    #[error("the transaction has {0} bytes, at most {TRANSACTION_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// EIP-4844.
    #[error("this ledger carries no blobs: send a transaction of type 0, 1, 2 or 4")]
    Blobs,
    /// Signed for another ledger, or for any.
    #[error("the transaction is signed for {}, this region's chain id is {want}", match given { Some(id) => format!("chain id {id}"), None => "any chain".to_owned() })]
    ChainId {
        /// The region's.
        want: u64,
        /// The transaction's.
        given: Option<u64>,
    },
    /// The signature names no account.
    #[error("the transaction's signature is not valid")]
    Signature,
    /// Less than the region's fixed price.
    #[error("the transaction offers {given} a unit of gas, the price is {price}")]
    GasPrice {
        /// The region's price.
        price: u64,
        /// The most that the transaction pays.
        given: u128,
    },
    /// More than a block holds.
    #[error("the transaction asks for {given} gas, at most {max} is allowed")]
    GasLimit {
        /// The bound.
        max: u64,
        /// What it asks for.
        given: u64,
    },
    /// Used up before it starts.
    #[error("the transaction's gas limit of {given} is below the {needed} that its size alone costs")]
    IntrinsicGas {
        /// The least.
        needed: u64,
        /// What it gives.
        given: u64,
    },
    /// Another transaction has this nonce.
    #[error("the transaction's nonce {given} was used already, the account's next is {next}")]
    NonceTooLow {
        /// The account's next nonce.
        next: u64,
        /// The transaction's.
        given: u64,
    },
    /// An earlier transaction is missing.
    #[error("the transaction's nonce {given} is too high, the account's next is {next}")]
    NonceTooHigh {
        /// The account's next nonce.
        next: u64,
        /// The transaction's.
        given: u64,
    },
    /// The account cannot pay.
    #[error("the account holds {balance}, the transaction needs up to {needed}")]
    Funds {
        /// What the account holds.
        balance: U256,
        /// Value and the most of its fee.
        needed: U256,
    },
    /// A gas price of zero where none is allowed.
    #[error("the transaction offers no fee, and {why}")]
    NotFree {
        /// The rule that it breaks.
        why: &'static str,
    },
    /// Executing it meets a record of the ledger that cannot be read: a fault of the ledger, not of the sender.
    #[error("the ledger cannot execute the transaction: {0}")]
    Unusable(String),
    /// Any other rule of the EVM.
    #[error("the transaction breaks a rule of the EVM: {0}")]
    Evm(String),
}

impl Invalid {
    /// Whether a later state may make it valid, so that a pool keeps it.
    pub const fn may_become_valid(&self) -> bool {
        matches!(self, Self::NonceTooHigh { .. } | Self::Funds { .. } | Self::NotFree { .. })
    }
}

/// Parses a transaction from outside: bounds, canonical form, chain id and signature.
pub fn decode(bytes: &[u8], chain_id: u64) -> Result<SignedBy, Invalid> {
    if bytes.len() > TRANSACTION_BYTES_MAX {
        return Err(Invalid::TooLong(bytes.len()));
    }
    let transaction = Transaction::decode_2718_exact(bytes).map_err(|e| Invalid::Encoding(e.to_string()))?;
    if transaction.encoded_2718() != bytes {
        return Err(Invalid::Encoding("it does not encode to the same bytes".to_owned()));
    }
    recover(transaction, chain_id)
}

/// Finds out who signed a transaction, and refuses what [`decode`] refuses.
pub fn recover(transaction: Transaction, chain_id: u64) -> Result<SignedBy, Invalid> {
    if transaction.is_eip4844() {
        return Err(Invalid::Blobs);
    }
    let length = transaction.encode_2718_len();
    if length > TRANSACTION_BYTES_MAX {
        return Err(Invalid::TooLong(length));
    }
    if transaction.chain_id() != Some(chain_id) {
        return Err(Invalid::ChainId { want: chain_id, given: transaction.chain_id() });
    }
    let signer = transaction.recover_signer().map_err(|_| Invalid::Signature)?;
    Ok(Recovered::new_unchecked(transaction, signer))
}

/// Checks what can be checked without execution, for a transaction pool: price, gas limit, nonce and funds against a
/// state. A nonce above the account's is no reason to refuse here; the pool decides how far ahead it looks.
pub fn admit<S: StateRead>(env: &Env<'_>, state: &S, tx: &SignedBy) -> Result<Result<(), Invalid>, S::Error> {
    let account = state.account(tx.signer())?.unwrap_or_default();
    if let Err(invalid) = check_price(env.charter.prices.gas, tx) {
        return Ok(Err(invalid));
    }
    if env.charter.prices.gas > 0
        && is_free(tx)
        && state.storage(NODES, schema::node_of_account_slot(tx.signer()))?.is_zero()
    {
        return Ok(Err(Invalid::NotFree { why: NOT_A_NODE }));
    }
    if tx.gas_limit() > limits::BLOCK_GAS {
        return Ok(Err(Invalid::GasLimit { max: limits::BLOCK_GAS, given: tx.gas_limit() }));
    }
    if tx.nonce() < account.nonce {
        return Ok(Err(Invalid::NonceTooLow { next: account.nonce, given: tx.nonce() }));
    }
    let needed = U256::from(tx.gas_limit()).saturating_mul(U256::from(tx.max_fee_per_gas())).saturating_add(tx.value());
    if needed > account.balance {
        return Ok(Err(Invalid::Funds { balance: account.balance, needed }));
    }
    Ok(Ok(()))
}

/// Whether the transaction claims to be one of the calls that cost a node nothing.
pub fn is_free(tx: &Transaction) -> bool {
    tx.max_fee_per_gas() == 0
}

pub(crate) const NOT_A_NODE: &str = "the sender is not the account of a registered node";

/// The price rule. For a free call everything but the sender's registration.
pub(crate) fn check_price(price: u64, tx: &Transaction) -> Result<(), Invalid> {
    let given = tx.max_fee_per_gas();
    if given == 0 && price > 0 {
        return check_free(tx);
    }
    if given < u128::from(price) {
        return Err(Invalid::GasPrice { price, given });
    }
    Ok(())
}

fn check_free(tx: &Transaction) -> Result<(), Invalid> {
    let refuse = |why| Err(Invalid::NotFree { why });
    if tx.is_eip7702() || !tx.value().is_zero() {
        return refuse("a free call carries neither value nor authorizations");
    }
    let Some(selector) = tx.input().first_chunk::<4>() else {
        return refuse("only a node's heartbeat, report and shareKey are free");
    };
    let free: &[(Address, [u8; 4])] = &[
        (NODES, INodes::heartbeatCall::SELECTOR),
        (DEPLOYMENTS, IDeployments::reportCall::SELECTOR),
        (DEPLOYMENTS, IDeployments::shareKeyCall::SELECTOR),
    ];
    if !free.iter().any(|(to, wanted)| tx.to() == Some(*to) && selector == wanted) {
        return refuse("only a node's heartbeat, report and shareKey are free");
    }
    if tx.gas_limit() > limits::FREE_CALL_GAS_MAX {
        return refuse("a free call may use at most 1000000 gas");
    }
    Ok(())
}

const _: () = assert!(limits::FREE_CALL_GAS_MAX == 1_000_000, "the message above names it");
