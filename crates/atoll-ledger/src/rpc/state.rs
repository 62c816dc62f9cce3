//! Questions about accounts and storage, at the newest final block and a few before it.

use std::sync::Arc;

use alloy_eips::{BlockId, BlockNumberOrTag};
use alloy_primitives::{Address, B256, Bytes, U64, U256};
use alloy_rpc_types_eth::{EIP1186AccountProofResponse, EIP1186StorageProof};
use atoll_ledger_core::state::StateRead as _;

use super::{Rpc, error::Failure};
use crate::{chain::ExecutedBlock, limits};

impl Rpc {
    /// The block whose state a question is about.
    pub(super) fn at(&self, id: Option<BlockId>) -> Result<Arc<ExecutedBlock>, Failure> {
        let head = self.chain.head();
        let wanted = match id {
            None => return Ok(head),
            Some(BlockId::Number(BlockNumberOrTag::Number(height))) => height,
            Some(BlockId::Number(BlockNumberOrTag::Earliest)) => 0,
            Some(BlockId::Number(_)) => return Ok(head),
            Some(BlockId::Hash(hash)) => match self.chain.index().height(&hash.block_hash)? {
                Some(height) => height,
                None => {
                    return Err(Failure::refused(format!(
                        "header not found: no final block has hash {}",
                        hash.block_hash
                    )));
                }
            },
        };
        let newest = head.block.number();
        if wanted > newest {
            return Err(Failure::refused(format!(
                "header not found: block {wanted} is not final yet, {newest} is the newest"
            )));
        }
        self.chain.recent(wanted).ok_or_else(|| {
            Failure::refused(format!(
                "missing trie node: the state of block {wanted} is no longer kept, this ledger keeps only the newest \
                 ({newest}) and a few before it; ask for 'latest'"
            ))
        })
    }

    pub(super) fn balance(&self, address: Address, id: Option<BlockId>) -> Result<U256, Failure> {
        Ok(self.at(id)?.layer.account(address)?.unwrap_or_default().balance)
    }

    pub(super) fn nonce(&self, address: Address, id: Option<BlockId>) -> Result<U64, Failure> {
        let pending = id == Some(BlockId::Number(BlockNumberOrTag::Pending));
        let next = self.at(id)?.layer.account(address)?.unwrap_or_default().nonce;
        Ok(U64::from(if pending { self.chain.mempool().next_nonce(address, next) } else { next }))
    }

    pub(super) fn code(&self, address: Address, id: Option<BlockId>) -> Result<Bytes, Failure> {
        let layer = &self.at(id)?.layer;
        Ok(layer.code(layer.account(address)?.unwrap_or_default().code_hash)?)
    }

    pub(super) fn storage(&self, address: Address, slot: U256, id: Option<BlockId>) -> Result<B256, Failure> {
        Ok(self.at(id)?.layer.storage(address, slot.into())?.into())
    }

    pub(super) fn proof(
        &self,
        address: Address,
        slots: &[U256],
        id: Option<BlockId>,
    ) -> Result<EIP1186AccountProofResponse, Failure> {
        if slots.len() > limits::RPC_PROOF_SLOTS_MAX {
            let max = limits::RPC_PROOF_SLOTS_MAX;
            return Err(Failure::params(format!("a proof covers at most {max} storage keys")));
        }
        let slots: Vec<B256> = slots.iter().map(|slot| B256::from(*slot)).collect();
        let proof = self.at(id)?.layer.proof(address, &slots)?;
        let info = proof.info.unwrap_or_default();
        let storage = proof.storage.into_iter();
        Ok(EIP1186AccountProofResponse {
            address,
            balance: info.balance,
            code_hash: info.code_hash,
            nonce: info.nonce,
            storage_hash: proof.storage_root,
            account_proof: proof.proof,
            storage_proof: storage
                .map(|word| EIP1186StorageProof { key: word.slot.into(), value: word.value, proof: word.proof })
                .collect(),
        })
    }
}
