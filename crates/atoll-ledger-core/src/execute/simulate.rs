//! Questions to a state: `eth_call` and `eth_estimateGas`.

use alloy_primitives::{Address, Bytes, TxKind, U256};
use revm::{
    context::{
        TxEnv,
        result::{ExecutionResult, HaltReason},
    },
    context_interface::transaction::AccessList,
};

use super::{Env, ExecuteError, Fee, Machine, refuse};
use crate::{limits, state::StateRead, transaction::Invalid};

/// A call that nobody signed. It pays no fee, and the sender may be anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// On whose behalf.
    pub from: Address,
    /// Whom; `None`: create a contract.
    pub to: Option<Address>,
    /// Coins that go along; the sender must hold them.
    pub value: U256,
    /// The input.
    pub input: Bytes,
    /// Gas that it may use, at most [`limits::BLOCK_GAS`].
    pub gas_limit: u64,
}

impl Default for Question {
    fn default() -> Self {
        Self { from: Address::ZERO, to: None, value: U256::ZERO, input: Bytes::new(), gas_limit: limits::BLOCK_GAS }
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It returned.
    Returned {
        /// What it returned; for a creation the code.
        output: Bytes,
        /// What it used, after refunds.
        gas_used: u64,
    },
    /// It reverted.
    Reverted {
        /// The revert data.
        output: Bytes,
        /// What it used.
        gas_used: u64,
    },
    /// It broke a rule of the EVM, or ran out of gas.
    Halted {
        /// The EVM's name for it.
        why: String,
        /// Whether more gas might have helped.
        out_of_gas: bool,
    },
    /// It could not even start.
    Refused(Invalid),
}

/// Answers a question on top of a state, as if it were the only transaction of the block that `env` describes.
pub fn call<S: StateRead>(env: &Env<'_>, state: &S, question: &Question) -> Result<Answer, ExecuteError<S::Error>> {
    ask(&mut Machine::new(env, state), question)
}

/// The least gas limit with which the transaction does what it would do with [`Question::gas_limit`], to within 1.5 %.
/// Anything but [`Answer::Returned`] says why there is none.
pub fn estimate_gas<S: StateRead>(
    env: &Env<'_>,
    state: &S,
    question: &Question,
) -> Result<Result<u64, Answer>, ExecuteError<S::Error>> {
    let mut machine = Machine::new(env, state);
    let used = match ask(&mut machine, question)? {
        Answer::Returned { gas_used, .. } => gas_used,
        other => return Ok(Err(other)),
    };
    // Calls keep a 64th of their gas back (EIP-150) and refunds come at the end, so what was used need not suffice.
    let mut enough = question.gas_limit.min(limits::BLOCK_GAS);
    let mut short = used - 1;
    let mut attempt = used;
    while short + 1 < enough && (enough - short) * 64 > enough {
        let works =
            matches!(ask(&mut machine, &Question { gas_limit: attempt, ..question.clone() })?, Answer::Returned { .. });
        if works {
            enough = attempt
        } else {
            short = attempt
        }
        // Mostly the answer is near the low end.
        attempt = (short + (enough - short) / 2).min(short.saturating_mul(2));
    }
    Ok(Ok(enough))
}

fn ask<S: StateRead>(machine: &mut Machine<'_, S>, question: &Question) -> Result<Answer, ExecuteError<S::Error>> {
    let tx = TxEnv {
        tx_type: 0,
        caller: question.from,
        gas_limit: question.gas_limit.min(limits::BLOCK_GAS),
        gas_price: 0,
        kind: question.to.map_or(TxKind::Create, TxKind::Call),
        value: question.value,
        data: question.input.clone(),
        nonce: 0,
        chain_id: None,
        access_list: AccessList::default(),
        gas_priority_fee: None,
        blob_hashes: Vec::new(),
        max_fee_per_blob_gas: 0,
        authorization_list: Vec::new(),
    };
    let given = tx.gas_limit;
    let result = machine.run(tx, Fee::Question);
    machine.discard();
    Ok(match result {
        Ok(ExecutionResult::Success { gas, output, .. }) => {
            Answer::Returned { output: output.into_data(), gas_used: gas.tx_gas_used() }
        }
        Ok(ExecutionResult::Revert { gas, output, .. }) => Answer::Reverted { output, gas_used: gas.tx_gas_used() },
        Ok(ExecutionResult::Halt { reason, .. }) => {
            Answer::Halted { out_of_gas: matches!(reason, HaltReason::OutOfGas(_)), why: format!("{reason:?}") }
        }
        Err(error) => Answer::Refused(refuse(given, error)?),
    })
}
