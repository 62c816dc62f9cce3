//! The transition: from a parent state and transactions to what changes.
//!
//! ```text
//! 1. the parent's hash enters the history contract (EIP-2935); after an outage, `system::begin_block`
//! 2. the transactions, in order; fees go to the treasury whole
//! 3. the end of the block: silent nodes, takeovers, charges (`system::end_block`)
//! ```

use alloy_consensus::{Transaction as _, Typed2718 as _};
use alloy_eips::{
    eip2718::Encodable2718 as _,
    eip2935::{HISTORY_SERVE_WINDOW, HISTORY_STORAGE_ADDRESS},
};
use alloy_primitives::{B256, U256};
use atoll_base::{Charter, Header, RegionId, limits::BLOCK_BYTES_MAX};
use revm::{
    context::{
        TxEnv,
        result::{EVMError, ExecutionResult, InvalidTransaction},
    },
    context_interface::either::Either,
};

use crate::{
    block::{self, Receipt},
    limits,
    state::{StateDiff, StateRead},
    system::{self, Access, Stop},
    transaction::{Invalid, NOT_A_NODE, SignedBy, check_price, is_free},
};

mod machine;
mod overlay;
mod simulate;

use machine::{Fee, Machine, MachineError};
pub(crate) use overlay::Overlay;
pub use overlay::StateError;
pub use simulate::{Answer, Question, call, estimate_gas};

/// All that a block knows of the world beside the parent state.
#[derive(Debug, Clone, Copy)]
pub struct Env<'a> {
    /// The region's parameters.
    pub charter: &'a Charter,
    /// The charter's hash.
    pub region: RegionId,
    /// Hash of the parent's header.
    pub parent_hash: B256,
    /// Ledger time of the parent.
    pub parent_ms: u64,
    /// Height of the block.
    pub number: u64,
    /// Ledger time of the block.
    pub timestamp_ms: u64,
}

impl<'a> Env<'a> {
    /// The environment of a block on top of `parent` at `timestamp_ms`: for proposals, for the blocks of others, and for
    /// questions (`eth_call`).
    pub fn after(charter: &'a Charter, region: RegionId, parent: &Header, timestamp_ms: u64) -> Self {
        Self {
            charter,
            region,
            parent_hash: parent.hash(),
            parent_ms: parent.timestamp_ms,
            number: parent.number + 1,
            timestamp_ms,
        }
    }
}

/// What to do about a transaction that is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Leave it out and say why: the proposer collects a block.
    Propose,
    /// Refuse the block.
    Verify,
}

/// Why a transaction was left out of a proposal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Skip {
    /// It is not valid on this state.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// There was no room left: it goes into a later block.
    #[error("the block is full")]
    Full,
}

/// What a block does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    /// Changes of the state.
    pub diff: StateDiff,
    /// The transactions that are in the block: in `Verify` mode all of them.
    pub transactions: Vec<SignedBy>,
    /// The others, by their place in the input.
    pub skipped: Vec<(usize, Skip)>,
    /// One for each transaction, and [`block::end_receipt`] behind them if the end of the block logged anything.
    pub receipts: Vec<Receipt>,
    /// Gas of all transactions.
    pub gas_used: u64,
}

impl Executed {
    /// The block's transactions root.
    pub fn transactions_root(&self) -> B256 {
        let transactions: Vec<_> = self.transactions.iter().map(|tx| tx.inner().clone()).collect();
        block::transactions_root(&transactions)
    }

    /// The block's receipts root.
    pub fn receipts_root(&self) -> B256 {
        block::receipts_root(&self.receipts)
    }

    /// The header of the block: `state_root` is that of the parent state with `diff` on top. The caller fills in
    /// `proposer`, `epoch`, `view` and `extra`.
    pub fn header(&self, env: &Env<'_>, state_root: B256) -> Header {
        Header {
            parent_hash: env.parent_hash,
            number: env.number,
            timestamp_ms: env.timestamp_ms,
            proposer: B256::ZERO,
            state_root,
            transactions_root: self.transactions_root(),
            receipts_root: self.receipts_root(),
            gas_used: self.gas_used,
            gas_limit: limits::BLOCK_GAS,
            base_fee: env.charter.prices.gas,
            epoch: 0,
            view: 0,
            extra: Default::default(),
        }
    }

    /// Whether `header` is what executing its block in `env` gives. Proposer, epoch, view and extra are free, and whether
    /// the time is a good one is for the caller to judge.
    pub fn check(&self, env: &Env<'_>, state_root: B256, header: &Header) -> Result<(), Mismatch> {
        let want = self.header(env, state_root);
        let differs = |field, want: String, found: String| Err(Mismatch { field, want, found });
        let hashes = [
            ("parent hash", want.parent_hash, header.parent_hash),
            ("state root", want.state_root, header.state_root),
            ("receipts root", want.receipts_root, header.receipts_root),
            ("transactions root", want.transactions_root, header.transactions_root),
        ];
        if let Some((field, want, found)) = hashes.into_iter().find(|(_, want, found)| want != found) {
            return differs(field, want.to_string(), found.to_string());
        }
        let numbers = [
            ("number", want.number, header.number),
            ("timestamp", want.timestamp_ms, header.timestamp_ms),
            ("gas used", want.gas_used, header.gas_used),
            ("gas limit", want.gas_limit, header.gas_limit),
            ("base fee", want.base_fee, header.base_fee),
        ];
        match numbers.into_iter().find(|(_, want, found)| want != found) {
            Some((field, want, found)) => differs(field, want.to_string(), found.to_string()),
            None => Ok(()),
        }
    }
}

/// A header that claims something else than execution gives.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the header's {field} is {found}, execution gives {want}")]
pub struct Mismatch {
    /// Which of its fields.
    pub field: &'static str,
    /// What execution gives.
    pub want: String,
    /// What the header says.
    pub found: String,
}

/// Why a block has no result.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError<E: std::error::Error + 'static> {
    /// `Verify` mode: the block is not valid.
    #[error("transaction {index} of the block is not valid")]
    Transaction {
        /// Its place.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: Invalid,
    },
    /// `Verify` mode: the block is too big.
    #[error("transaction {index} does not fit into the block")]
    Full {
        /// Its place.
        index: usize,
    },
    /// The state cannot be read. This says nothing about the block.
    #[error("the parent state cannot be read")]
    State(#[source] E),
    /// The state holds what no version wrote, or cannot be read from within a system contract. Says nothing about the
    /// block.
    #[error("the ledger's state is unusable: {0}")]
    Broken(String),
}

/// Executes a block on top of the state of its parent.
pub fn execute<S: StateRead>(
    env: &Env<'_>,
    parent: &S,
    transactions: &[SignedBy],
    mode: Mode,
) -> Result<Executed, ExecuteError<S::Error>> {
    let mut run = Run::new(env, parent)?;
    for (index, tx) in transactions.iter().enumerate() {
        let outcome = match (run.transaction(tx), mode) {
            // One transaction that the ledger chokes on must not keep all others out. Verifiers do not skip: for them it
            // is no verdict on the block.
            (Err(ExecuteError::Broken(why)), Mode::Propose) => Err(Invalid::Unusable(why).into()),
            (outcome, _) => outcome?,
        };
        match (outcome, mode) {
            (Ok(()), _) => {}
            (Err(skip), Mode::Propose) => run.done.skipped.push((index, skip)),
            (Err(Skip::Invalid(source)), Mode::Verify) => return Err(ExecuteError::Transaction { index, source }),
            (Err(Skip::Full), Mode::Verify) => return Err(ExecuteError::Full { index }),
        }
    }
    run.finish()
}

struct Run<'a, S: StateRead> {
    machine: Machine<'a, S>,
    env: &'a Env<'a>,
    done: Executed,
    bytes_left: usize,
    free_calls: std::collections::BTreeMap<alloy_primitives::Address, u32>,
}

impl<'a, S: StateRead> Run<'a, S> {
    fn new(env: &'a Env<'a>, parent: &'a S) -> Result<Self, ExecuteError<S::Error>> {
        let mut machine = Machine::new(env, parent);
        let slot = U256::from((env.number.saturating_sub(1)) % HISTORY_SERVE_WINDOW as u64);
        let parent_hash = env.parent_hash.into();
        let begin = |access: &mut Access<'_>| {
            access.store(HISTORY_STORAGE_ADDRESS, slot.into(), parent_hash)?;
            system::begin_block(access)
        };
        machine.native(begin).map_err(broken)?;
        let done = Executed {
            diff: StateDiff::default(),
            transactions: Vec::new(),
            skipped: Vec::new(),
            receipts: Vec::new(),
            gas_used: 0,
        };
        let bytes_left = BLOCK_BYTES_MAX - limits::BLOCK_OVERHEAD_BYTES;
        Ok(Self { machine, env, done, bytes_left, free_calls: Default::default() })
    }

    /// Executes one transaction, or says why not and leaves no trace.
    fn transaction(&mut self, tx: &SignedBy) -> Result<Result<(), Skip>, ExecuteError<S::Error>> {
        // Each transaction takes at most 5 bytes for its own length.
        let bytes = tx.inner().encode_2718_len() + 5;
        let gas_left = limits::BLOCK_GAS - self.done.gas_used;
        let full = bytes > self.bytes_left
            || self.done.transactions.len() == limits::BLOCK_TRANSACTIONS_MAX
            || (tx.gas_limit() > gas_left && tx.gas_limit() <= limits::BLOCK_GAS);
        if full {
            return Ok(Err(Skip::Full));
        }
        let fee = match self.fee(tx)? {
            Ok(fee) => fee,
            Err(invalid) => return Ok(Err(invalid.into())),
        };
        let result = match self.machine.run(tx_env(tx), fee) {
            Ok(result) => result,
            Err(error) => {
                self.machine.discard();
                return refuse(tx.gas_limit(), error).map(|invalid| Err(invalid.into()));
            }
        };
        self.machine.commit();
        if fee == Fee::Free {
            *self.free_calls.entry(tx.signer()).or_default() += 1;
        }
        self.bytes_left -= bytes;
        self.done.gas_used += result.tx_gas_used();
        self.done.receipts.push(receipt(tx, result, self.done.gas_used));
        self.done.transactions.push(tx.clone());
        Ok(Ok(()))
    }

    /// Who pays, or why the transaction may not be in this block.
    fn fee(&mut self, tx: &SignedBy) -> Result<Result<Fee, Invalid>, ExecuteError<S::Error>> {
        let chain_id = self.env.charter.chain_id;
        if tx.is_eip4844() {
            return Ok(Err(Invalid::Blobs));
        }
        if tx.chain_id() != Some(chain_id) {
            return Ok(Err(Invalid::ChainId { want: chain_id, given: tx.chain_id() }));
        }
        let price = self.env.charter.prices.gas;
        if let Err(invalid) = check_price(price, tx) {
            return Ok(Err(invalid));
        }
        if price == 0 || !is_free(tx) {
            return Ok(Ok(Fee::Sender));
        }
        let done = self.free_calls.get(&tx.signer()).copied().unwrap_or(0);
        if done >= limits::FREE_CALLS_MAX {
            return Ok(Err(Invalid::NotFree { why: "the node has used its free calls in this block" }));
        }
        let registered =
            system::is_node_account(self.machine.state(), tx.signer()).map_err(|e| ExecuteError::State(e.0))?;
        Ok(if registered { Ok(Fee::Free) } else { Err(Invalid::NotFree { why: NOT_A_NODE }) })
    }

    fn finish(mut self) -> Result<Executed, ExecuteError<S::Error>> {
        let ((), logs) = self.machine.native(system::end_block).map_err(broken)?;
        if !logs.is_empty() {
            self.done.receipts.push(block::end_receipt(self.done.gas_used, logs));
        }
        self.done.diff = self.machine.into_diff();
        Ok(self.done)
    }
}

fn broken<E: std::error::Error>(stop: Stop) -> ExecuteError<E> {
    ExecuteError::Broken(stop.to_string())
}

fn tx_env(tx: &SignedBy) -> TxEnv {
    TxEnv {
        tx_type: tx.ty(),
        caller: tx.signer(),
        gas_limit: tx.gas_limit(),
        gas_price: tx.max_fee_per_gas(),
        kind: tx.kind(),
        value: tx.value(),
        data: tx.input().clone(),
        nonce: tx.nonce(),
        chain_id: tx.chain_id(),
        access_list: tx.access_list().cloned().unwrap_or_default(),
        gas_priority_fee: tx.max_priority_fee_per_gas(),
        blob_hashes: Vec::new(),
        max_fee_per_blob_gas: 0,
        authorization_list: tx.authorization_list().unwrap_or_default().iter().cloned().map(Either::Left).collect(),
    }
}

fn receipt(tx: &SignedBy, result: ExecutionResult, cumulative_gas_used: u64) -> Receipt {
    let success = result.is_success();
    // Only what succeeded leaves logs behind.
    let logs = if success { result.into_logs() } else { Vec::new() };
    Receipt { tx_type: tx.tx_type(), success, cumulative_gas_used, logs }
}

/// Tells a bad transaction from a state that cannot be read.
fn refuse<E: std::error::Error>(gas_limit: u64, error: MachineError<E>) -> Result<Invalid, ExecuteError<E>> {
    use InvalidTransaction as I;
    let invalid = match error {
        EVMError::Transaction(invalid) => invalid,
        EVMError::Database(error) => return Err(ExecuteError::State(error.0)),
        EVMError::Header(error) => return Err(ExecuteError::Broken(error.to_string())),
        EVMError::Custom(why) => return Err(ExecuteError::Broken(why)),
        EVMError::CustomAny(error) => return Err(ExecuteError::Broken(error.to_string())),
    };
    Ok(match invalid {
        I::NonceTooHigh { tx, state } => Invalid::NonceTooHigh { next: state, given: tx },
        I::NonceTooLow { tx, state } => Invalid::NonceTooLow { next: state, given: tx },
        I::LackOfFundForMaxFee { fee, balance } => Invalid::Funds { balance: *balance, needed: *fee },
        I::CallerGasLimitMoreThanBlock | I::TxGasLimitGreaterThanCap { .. } => {
            Invalid::GasLimit { max: limits::BLOCK_GAS, given: gas_limit }
        }
        I::CallGasCostMoreThanGasLimit { initial_gas: needed, gas_limit: given }
        | I::GasFloorMoreThanGasLimit { gas_floor: needed, gas_limit: given } => {
            Invalid::IntrinsicGas { needed, given }
        }
        other => Invalid::Evm(other.to_string()),
    })
}
