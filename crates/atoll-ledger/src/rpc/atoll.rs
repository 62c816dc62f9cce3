//! The methods of [`atoll_api::ledger`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alloy_primitives::{B256, Bytes};
use atoll_api::ledger::{FINALITY_WAIT_MS, Finality, LedgerStatus, Proven, ProvenWord};
use atoll_base::{NodeId, contracts::DEPLOYMENTS, schema};
use atoll_ledger_core::state::{MultiProof, RecordingReader};
use jsonrpsee::RpcModule;

use super::{
    Rpc,
    error::Failure,
    eth::{blocking, method, optional, quick, required},
};
use crate::{
    chain::{Certified, lock},
    limits,
};

/// The proof of the whole region at one block, which all nodes ask for.
pub(super) struct CachedView {
    hash: B256,
    proven: Proven,
}

pub(super) fn register(module: &mut RpcModule<Rpc>) {
    quick(module, "atoll_status", |rpc, _| Ok(rpc.status()));
    method(module, "atoll_finality", |rpc, params| async move {
        let min_height = optional(&params, 0, "min_height")?.unwrap_or(0);
        rpc.finality(min_height).await
    });
    blocking(module, "atoll_regionView", |rpc, params| rpc.region_view(optional(&params, 0, "change")?));
    blocking(module, "atoll_sealedView", |rpc, params| {
        let deployment = required(&params, 0, "deployment")?;
        let service = required(&params, 1, "service")?;
        rpc.sealed_view(deployment, service, required::<NodeId>(&params, 2, "node")?)
    });
}

impl Rpc {
    fn status(&self) -> LedgerStatus {
        let head = self.chain.head();
        let header = head.block.header();
        let charter = self.chain.charter();
        LedgerStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            node: self.node,
            region: self.chain.region(),
            region_name: charter.name.clone(),
            validator: charter.validators.iter().any(|validator| validator.node() == self.node),
            height: header.number,
            hash: head.block.hash(),
            timestamp_ms: header.timestamp_ms,
            finality_ms: self.status.finality_ms(),
            peers: self.status.peers(),
            pending: self.chain.mempool().len() as u64,
            problems: self.problems(header.timestamp_ms),
        }
    }

    fn problems(&self, newest_ms: u64) -> Vec<String> {
        let mut problems: Vec<String> = self.chain.problem().into_iter().collect();
        let others = self.chain.charter().validators.len().saturating_sub(1);
        let connected = self.status.peers().len();
        // A quorum is more than two thirds, this one included.
        if (connected + 1) * 3 <= (others + 1) * 2 {
            problems.push(format!("connected to {connected} of {others} other validators: too few to agree on blocks"));
        }
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis() as u64);
        let silent_ms = now_ms.saturating_sub(newest_ms);
        if silent_ms > limits::STALLED_MS {
            problems.push(format!("no block became final for {} s", silent_ms / 1_000));
        }
        problems
    }

    async fn finality(&self, min_height: u64) -> Result<Finality, Failure> {
        let _permit =
            self.waiters.try_acquire().map_err(|_| Failure::refused("too many requests wait: try again soon"))?;
        let mut certified = self.chain.certified();
        let wait = Duration::from_millis(FINALITY_WAIT_MS);
        let reached = certified
            .wait_for(|newest| newest.as_ref().is_some_and(|newest| newest.executed.block.number() >= min_height));
        // When the time is over, what there is will do.
        let _ = tokio::time::timeout(wait, reached).await;
        let newest = certified.borrow().clone();
        newest.map(|newest| finality_of(&newest)).ok_or_else(no_certificate)
    }

    fn region_view(&self, change: Option<u64>) -> Result<Proven, Failure> {
        let newest = self.chain.certified().borrow().clone().ok_or_else(no_certificate)?;
        let layer = &newest.executed.layer;
        if let Some(change) = change {
            let mut reader = RecordingReader::new(layer.clone());
            let current = schema::read_u64(&mut reader, DEPLOYMENTS, schema::change_slot());
            if current.map_err(|e| Failure::internal(&e))? == change {
                return Ok(proven(&newest, reader.into_proof()?));
            }
        }
        let hash = newest.executed.block.hash();
        if let Some(cached) = lock(&self.region_view).as_ref().filter(|cached| cached.hash == hash) {
            return Ok(cached.proven.clone());
        }
        let mut reader = RecordingReader::new(layer.clone());
        schema::region_view(&mut reader).map_err(|e| Failure::internal(&e))?;
        let proven = proven(&newest, reader.into_proof()?);
        *lock(&self.region_view) = Some(CachedView { hash, proven: proven.clone() });
        Ok(proven)
    }

    fn sealed_view(&self, deployment: u64, service: u32, node: NodeId) -> Result<Proven, Failure> {
        let newest = self.chain.certified().borrow().clone().ok_or_else(no_certificate)?;
        let mut reader = RecordingReader::new(newest.executed.layer.clone());
        let view = schema::sealed_view(&mut reader, deployment, service, node.word());
        view.map_err(|e| Failure::internal(&e))?;
        Ok(proven(&newest, reader.into_proof()?))
    }
}

fn no_certificate() -> Failure {
    Failure::refused("no block has become final since this ledger started: try again soon")
}

fn finality_of(certified: &Certified) -> Finality {
    let header = Bytes::from(certified.executed.block.header().to_bytes());
    Finality { header, certificate: certified.certificate.clone() }
}

fn proven(certified: &Certified, proof: MultiProof) -> Proven {
    let words = proof.words.into_iter().map(|(contract, slot, value)| ProvenWord { contract, slot, value });
    Proven { finality: finality_of(certified), words: words.collect(), nodes: proof.nodes }
}
