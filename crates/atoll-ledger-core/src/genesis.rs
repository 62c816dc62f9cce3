//! The first block of a region, from its charter alone.

use alloy_consensus::constants::KECCAK_EMPTY;
use alloy_eips::eip2935::{HISTORY_STORAGE_ADDRESS, HISTORY_STORAGE_CODE};
use alloy_primitives::{Address, B256, Bytes, U256, keccak256};
use atoll_base::{Charter, Header, charter::CharterError, contracts::CHARTER};

use crate::{
    block::{Block, receipts_root, transactions_root},
    limits,
    state::{AccountInfo, StateDiff},
    system,
};

/// What a region starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Genesis {
    /// On top of the empty state.
    pub diff: StateDiff,
    /// Height 0. Its `state_root` is still zero: see [`Genesis::block`].
    header: Header,
}

impl Genesis {
    /// The genesis block; `state_root` is that of [`Self::diff`] on top of the empty state.
    pub fn block(&self, state_root: B256) -> Block {
        Block { header: Header { state_root, ..self.header.clone() }, transactions: Vec::new() }
    }
}

/// A charter that gives no genesis.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenesisError {
    /// It breaks a rule of charters.
    #[error("the charter is not valid")]
    Charter(#[from] CharterError),
    /// Coins or fees for an account that is code of the ledger.
    #[error("the charter gives coins or fees to {0}, which is a system contract: name another account")]
    SystemAccount(Address),
}

/// The state and block from which a region grows. The parent hash is the region id.
pub fn genesis(charter: &Charter) -> Result<Genesis, GenesisError> {
    charter.check()?;
    let region = charter.region_id();
    let mut diff = StateDiff::default();
    for address in system::ADDRESSES {
        contract(&mut diff, address, Bytes::from_static(system::CODE));
    }
    contract(&mut diff, HISTORY_STORAGE_ADDRESS, HISTORY_STORAGE_CODE.clone());
    let holders = charter.allocations.iter().map(|a| a.account).chain([charter.treasury]);
    if let Some(address) = holders.into_iter().find(|address| diff.accounts.contains_key(address)) {
        return Err(GenesisError::SystemAccount(address));
    }
    for allocation in charter.allocations.iter().filter(|a| !a.amount.is_zero()) {
        let account = diff.accounts.entry(allocation.account).or_insert(Some(AccountInfo {
            nonce: 0,
            balance: U256::ZERO,
            code_hash: KECCAK_EMPTY,
        }));
        if let Some(account) = account {
            // `Charter::check` bounds the sum.
            account.balance = account.balance.saturating_add(allocation.amount);
        }
    }
    let region_word = U256::from_be_bytes(region.0);
    diff.storage.entry(CHARTER).or_default().insert(system::region_slot(), region_word);
    let header = Header {
        parent_hash: region.word(),
        number: 0,
        timestamp_ms: charter.created_ms,
        proposer: B256::ZERO,
        state_root: B256::ZERO,
        transactions_root: transactions_root(&[]),
        receipts_root: receipts_root(&[]),
        gas_used: 0,
        gas_limit: limits::BLOCK_GAS,
        base_fee: charter.prices.gas,
        epoch: 0,
        view: 0,
        extra: Bytes::new(),
    };
    Ok(Genesis { diff, header })
}

fn contract(diff: &mut StateDiff, address: Address, code: Bytes) {
    let code_hash = keccak256(&code);
    diff.accounts.insert(address, Some(AccountInfo { nonce: 1, balance: U256::ZERO, code_hash }));
    diff.code.insert(code_hash, code);
}
