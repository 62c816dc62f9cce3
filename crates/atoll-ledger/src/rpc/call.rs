//! `eth_call` and `eth_estimateGas`.

use alloy_eips::BlockId;
use alloy_primitives::{Bytes, TxKind, U64};
use alloy_rpc_types_eth::TransactionRequest;
use atoll_ledger_core::{
    Invalid,
    execute::{self, Answer, Question},
    limits::BLOCK_GAS,
};

use super::{Rpc, error::Failure, reason};

impl Rpc {
    pub(super) fn call(&self, request: TransactionRequest, id: Option<BlockId>) -> Result<Bytes, Failure> {
        let at = self.at(id)?;
        let env = self.chain.env_after(&at);
        match execute::call(&env, &at.layer, &question(request)?).map_err(|e| Failure::internal(&e))? {
            Answer::Returned { output, .. } => Ok(output),
            other => Err(refusal(other)),
        }
    }

    pub(super) fn estimate_gas(&self, request: TransactionRequest, id: Option<BlockId>) -> Result<U64, Failure> {
        let at = self.at(id)?;
        let env = self.chain.env_after(&at);
        // What a signed transaction carries beside the call costs extra (EIP-2930, EIP-7702).
        let list = request.access_list.as_ref();
        let lists = list.map_or(0, |list| 2_400 * list.len() as u64 + 1_900 * list.storage_keys_count() as u64);
        let authorizations = 25_000 * request.authorization_list.as_ref().map_or(0, Vec::len) as u64;
        match execute::estimate_gas(&env, &at.layer, &question(request)?).map_err(|e| Failure::internal(&e))? {
            Ok(gas) => Ok(U64::from(gas.saturating_add(lists).saturating_add(authorizations))),
            Err(other) => Err(refusal(other)),
        }
    }
}

fn question(request: TransactionRequest) -> Result<Question, Failure> {
    if let (Some(input), Some(data)) = (&request.input.input, &request.input.data)
        && input != data
    {
        return Err(Failure::params("both 'input' and 'data' are given and differ: use 'input'"));
    }
    Ok(Question {
        from: request.from.unwrap_or_default(),
        to: match request.to {
            Some(TxKind::Call(to)) => Some(to),
            Some(TxKind::Create) | None => None,
        },
        value: request.value.unwrap_or_default(),
        input: request.input.into_input().unwrap_or_default(),
        gas_limit: request.gas.unwrap_or(BLOCK_GAS).min(BLOCK_GAS),
    })
}

fn refusal(answer: Answer) -> Failure {
    match answer {
        Answer::Reverted { output, .. } => Failure::Reverted { message: reason::message(&output), data: output },
        Answer::Halted { out_of_gas: true, .. } => {
            Failure::refused("out of gas: the call needs more gas than it may use")
        }
        Answer::Halted { why, .. } => Failure::refused(format!("execution failed: {why}")),
        Answer::Refused(Invalid::Funds { balance, needed }) => Failure::refused(format!(
            "insufficient funds for gas * price + value: the sender has {balance}, the call needs {needed}"
        )),
        Answer::Refused(invalid) => Failure::refused(invalid.to_string()),
        Answer::Returned { .. } => Failure::Internal("the call returned after all".into()),
    }
}
