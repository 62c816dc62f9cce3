//! Ethereum's methods.

use std::{future::Future, sync::Arc};

use alloy_consensus::{Transaction as _, TxReceipt as _};
use alloy_eips::{BlockId, BlockNumberOrTag};
use alloy_primitives::{Address, B256, Bytes, U64, U128, U256};
use alloy_rpc_types_eth::{FeeHistory, Filter, TransactionRequest};
use jsonrpsee::{
    RpcModule,
    types::{ErrorObjectOwned, Params},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{Rpc, blocks, error::Failure};
use crate::limits;

/// Adds the methods. Their names are fixed here, so that registering cannot fail.
pub(super) fn register(module: &mut RpcModule<Rpc>) {
    chain(module);
    accounts(module);
    history(module);
    fees(module);
    filters(module);
}

fn chain(module: &mut RpcModule<Rpc>) {
    quick(module, "eth_chainId", |rpc, _| Ok(U64::from(rpc.chain.charter().chain_id)));
    quick(module, "net_version", |rpc, _| Ok(rpc.chain.charter().chain_id.to_string()));
    quick(module, "net_listening", |_, _| Ok(true));
    quick(module, "net_peerCount", |rpc, _| Ok(U64::from(rpc.status.peers().len())));
    quick(module, "web3_clientVersion", |_, _| Ok(concat!("atoll/v", env!("CARGO_PKG_VERSION"))));
    quick(module, "eth_syncing", |_, _| Ok(false));
    quick(module, "eth_blockNumber", |rpc, _| Ok(U64::from(rpc.chain.head().block.number())));
    quick(module, "eth_accounts", |_, _| Ok(Vec::<Address>::new()));
}

fn accounts(module: &mut RpcModule<Rpc>) {
    blocking(module, "eth_getBalance", |rpc, params| {
        let (address, id) = (required(&params, 0, "address")?, optional(&params, 1, "block")?);
        rpc.balance(address, id)
    });
    blocking(module, "eth_getTransactionCount", |rpc, params| {
        let (address, id) = (required(&params, 0, "address")?, optional(&params, 1, "block")?);
        rpc.nonce(address, id)
    });
    blocking(module, "eth_getCode", |rpc, params| {
        let (address, id) = (required(&params, 0, "address")?, optional(&params, 1, "block")?);
        rpc.code(address, id)
    });
    blocking(module, "eth_getStorageAt", |rpc, params| {
        let (address, slot) = (required(&params, 0, "address")?, required(&params, 1, "storage key")?);
        rpc.storage(address, slot, optional(&params, 2, "block")?)
    });
    blocking(module, "eth_getProof", |rpc, params| {
        let (address, slots) = (required(&params, 0, "address")?, required::<Vec<U256>>(&params, 1, "storage keys")?);
        rpc.proof(address, &slots, optional(&params, 2, "block")?)
    });
    blocking(module, "eth_call", |rpc, params| {
        no_overrides(&params)?;
        rpc.call(required::<TransactionRequest>(&params, 0, "call")?, optional(&params, 1, "block")?)
    });
    blocking(module, "eth_estimateGas", |rpc, params| {
        no_overrides(&params)?;
        rpc.estimate_gas(required::<TransactionRequest>(&params, 0, "call")?, optional(&params, 1, "block")?)
    });
    method(module, "eth_sendRawTransaction", |rpc, params| async move {
        let bytes: Bytes = required(&params, 0, "transaction")?;
        Ok(rpc.chain.mempool().submit(bytes).await?)
    });
}

fn history(module: &mut RpcModule<Rpc>) {
    blocking(module, "eth_getBlockByNumber", |rpc, params| {
        let tag = required::<BlockNumberOrTag>(&params, 0, "block")?;
        rpc.block(rpc.height_of_tag(tag).into(), optional(&params, 1, "flag")?.unwrap_or(false))
    });
    blocking(module, "eth_getBlockByHash", |rpc, params| {
        let hash = required::<B256>(&params, 0, "block hash")?;
        rpc.block(hash.into(), optional(&params, 1, "flag")?.unwrap_or(false))
    });
    blocking(module, "eth_getBlockReceipts", |rpc, params| Ok(full(rpc, &params)?.map(|full| full.receipts())));
    for name in ["eth_getBlockTransactionCountByNumber", "eth_getBlockTransactionCountByHash"] {
        blocking(module, name, |rpc, params| {
            Ok(full(rpc, &params)?.map(|full| U64::from(full.block.transactions().len())))
        });
    }
    for name in ["eth_getUncleCountByBlockNumber", "eth_getUncleCountByBlockHash"] {
        blocking(module, name, |rpc, params| Ok(full(rpc, &params)?.map(|_| U64::ZERO)));
    }
    for name in ["eth_getTransactionByBlockNumberAndIndex", "eth_getTransactionByBlockHashAndIndex"] {
        blocking(module, name, |rpc, params| {
            let index: U64 = required(&params, 1, "index")?;
            Ok(full(rpc, &params)?.and_then(|full| full.transaction(usize::try_from(index).ok()?)))
        });
    }
    blocking(module, "eth_getTransactionByHash", |rpc, params| {
        let hash: B256 = required(&params, 0, "transaction hash")?;
        if let Some((full, index)) = blocks::place(rpc, &hash)? {
            return Ok(full.transaction(index));
        }
        Ok(rpc.chain.mempool().by_hash(&hash).as_ref().map(blocks::pending))
    });
    blocking(module, "eth_getRawTransactionByHash", |rpc, params| {
        let hash: B256 = required(&params, 0, "transaction hash")?;
        if let Some((full, index)) = blocks::place(rpc, &hash)? {
            return Ok(full.raw(index));
        }
        Ok(rpc.chain.mempool().by_hash(&hash).map(|tx| tx.bytes().clone()))
    });
    blocking(module, "eth_getTransactionReceipt", |rpc, params| {
        let hash: B256 = required(&params, 0, "transaction hash")?;
        Ok(blocks::place(rpc, &hash)?.and_then(|(full, index)| full.receipt(index)))
    });
}

fn fees(module: &mut RpcModule<Rpc>) {
    quick(module, "eth_gasPrice", |rpc, _| Ok(U64::from(rpc.chain.charter().prices.gas)));
    quick(module, "eth_maxPriorityFeePerGas", |_, _| Ok(U128::ZERO));
    blocking(module, "eth_feeHistory", |rpc, params| {
        let count = quantity(&params, 0, "block count")?;
        let newest: BlockNumberOrTag = required(&params, 1, "newest block")?;
        fee_history(rpc, count, newest, optional::<Vec<f64>>(&params, 2, "percentiles")?.as_deref())
    });
}

fn filters(module: &mut RpcModule<Rpc>) {
    blocking(module, "eth_getLogs", |rpc, params| rpc.logs(&required::<Filter>(&params, 0, "filter")?));
    quick(module, "eth_newBlockFilter", |rpc, _| Ok(rpc.new_block_filter()));
    quick(module, "eth_newFilter", |rpc, params| rpc.new_filter(required(&params, 0, "filter")?));
    quick(module, "eth_uninstallFilter", |rpc, params| Ok(rpc.drop_filter(required(&params, 0, "filter id")?)));
    blocking(module, "eth_getFilterChanges", |rpc, params| rpc.filter_changes(required(&params, 0, "filter id")?));
    blocking(module, "eth_getFilterLogs", |rpc, params| rpc.filter_logs(required(&params, 0, "filter id")?));
}

fn full(rpc: &Rpc, params: &[serde_json::Value]) -> Result<Option<blocks::Full>, Failure> {
    let height = rpc.height(required::<BlockId>(params, 0, "block")?)?;
    Ok(height.map(|height| rpc.full(height)).transpose()?.flatten())
}

fn fee_history(
    rpc: &Rpc,
    count: u64,
    newest: BlockNumberOrTag,
    percentiles: Option<&[f64]>,
) -> Result<FeeHistory, Failure> {
    let head = rpc.chain.head().block.number();
    let newest = rpc.height_of_tag(newest);
    if newest > head {
        return Err(Failure::refused(format!("request beyond head block: requested {newest}, head {head}")));
    }
    let percentiles = percentiles.filter(|list| !list.is_empty());
    let rising = percentiles.is_none_or(|list| list.is_sorted() && list.iter().all(|p| (0.0..=100.0).contains(p)));
    if !rising || percentiles.is_some_and(|list| list.len() > 100) {
        return Err(Failure::params("invalid reward percentile: give at most 100 from 0 to 100, in rising order"));
    }
    let count = count.min(limits::RPC_FEE_HISTORY_MAX).min(newest + 1);
    let oldest = newest + 1 - count;
    let mut history = FeeHistory { oldest_block: oldest, ..FeeHistory::default() };
    let mut rewards = Vec::new();
    for height in oldest..=newest {
        if count == 0 {
            break;
        }
        let header = rpc.header(height)?.ok_or_else(|| Failure::Internal(format!("block {height} is missing")))?;
        history.base_fee_per_gas.push(header.base_fee.into());
        history.gas_used_ratio.push(header.gas_used as f64 / header.gas_limit as f64);
        if let Some(percentiles) = percentiles {
            rewards.push(tips(rpc, height, header.base_fee, header.gas_used, percentiles)?);
        }
    }
    history.base_fee_per_gas.push(rpc.chain.charter().prices.gas.into());
    history.reward = percentiles.map(|_| rewards);
    Ok(history)
}

/// The tips at percentiles of the gas used in a block.
fn tips(rpc: &Rpc, height: u64, base_fee: u64, gas_used: u64, percentiles: &[f64]) -> Result<Vec<u128>, Failure> {
    let Some(full) = rpc.full(height)?.filter(|_| gas_used > 0) else { return Ok(vec![0; percentiles.len()]) };
    let mut before = 0;
    let mut paid: Vec<(u128, u64)> = Vec::new();
    for (index, receipt) in full.outcome.receipts.iter().enumerate() {
        let Some(tx) = full.transaction(index) else { break };
        paid.push((tx.inner.effective_tip_per_gas(base_fee).unwrap_or(0), receipt.cumulative_gas_used() - before));
        before = receipt.cumulative_gas_used();
    }
    paid.sort_unstable();
    let at = |percentile: &f64| {
        let threshold = gas_used as f64 * percentile / 100.0;
        let mut sum = 0;
        let reached = paid.iter().find(|(_, gas)| {
            sum += gas;
            sum as f64 >= threshold
        });
        reached.or(paid.last()).map_or(0, |(tip, _)| *tip)
    };
    Ok(percentiles.iter().map(at).collect())
}

fn no_overrides(params: &[serde_json::Value]) -> Result<(), Failure> {
    if params.iter().skip(2).any(|value| !value.is_null()) {
        return Err(Failure::params("state and block overrides are not supported by this ledger"));
    }
    Ok(())
}

/// A method that answers from memory at once.
pub(super) fn quick<T, F>(module: &mut RpcModule<Rpc>, name: &'static str, answer: F)
where
    T: Serialize + Clone + 'static,
    F: Fn(&Rpc, Vec<serde_json::Value>) -> Result<T, Failure> + Send + Sync + 'static,
{
    let added = module.register_method(name, move |params, rpc, _| {
        parse(&params).and_then(|params| answer(rpc, params)).map_err(ErrorObjectOwned::from)
    });
    debug_assert!(added.is_ok(), "{name} is registered once");
}

/// A method that reads the database or executes: a few of them at a time, off the threads that do I/O.
pub(super) fn blocking<T, F>(module: &mut RpcModule<Rpc>, name: &'static str, answer: F)
where
    T: Serialize + Clone + Send + 'static,
    F: Fn(&Rpc, Vec<serde_json::Value>) -> Result<T, Failure> + Copy + Send + Sync + 'static,
{
    method(module, name, move |rpc, params| async move {
        let _permit = rpc.heavy.acquire().await.map_err(|e| Failure::internal(&e))?;
        let worker = Arc::clone(&rpc);
        let answered = tokio::task::spawn_blocking(move || answer(&worker, params)).await;
        answered.map_err(|e| Failure::internal(&e))?
    });
}

/// A method that may wait.
pub(super) fn method<T, F, Fut>(module: &mut RpcModule<Rpc>, name: &'static str, answer: F)
where
    T: Serialize + Clone + 'static,
    F: Fn(Arc<Rpc>, Vec<serde_json::Value>) -> Fut + Copy + Send + Sync + 'static,
    Fut: Future<Output = Result<T, Failure>> + Send + 'static,
{
    let added = module.register_async_method(name, move |params, rpc, _| async move {
        let params = parse(&params).map_err(ErrorObjectOwned::from)?;
        answer(rpc, params).await.map_err(ErrorObjectOwned::from)
    });
    debug_assert!(added.is_ok(), "{name} is registered once");
}

fn parse(params: &Params<'_>) -> Result<Vec<serde_json::Value>, Failure> {
    Ok(params.parse::<Option<Vec<serde_json::Value>>>()?.unwrap_or_default())
}

/// The parameter at a place, which must be there.
pub(super) fn required<T: DeserializeOwned>(params: &[serde_json::Value], at: usize, what: &str) -> Result<T, Failure> {
    optional(params, at, what)?
        .ok_or_else(|| Failure::params(format!("missing value for required argument {at}: {what}")))
}

/// The parameter at a place; `None` if it is missing or null.
pub(super) fn optional<T: DeserializeOwned>(
    params: &[serde_json::Value],
    at: usize,
    what: &str,
) -> Result<Option<T>, Failure> {
    let Some(value) = params.get(at).filter(|value| !value.is_null()) else { return Ok(None) };
    let parsed = T::deserialize(value);
    parsed.map(Some).map_err(|error| Failure::params(format!("invalid argument {at}: {what}: {error}")))
}

/// A number, in hexadecimal text or as JSON number.
fn quantity(params: &[serde_json::Value], at: usize, what: &str) -> Result<u64, Failure> {
    match params.get(at).and_then(serde_json::Value::as_u64) {
        Some(number) => Ok(number),
        None => required::<U64>(params, at, what).map(|number| number.to()),
    }
}
