//! From a server's answer to something known: certificate first, then the proof against the certified state root.

use std::sync::{Arc, Mutex, PoisonError};

use alloy_primitives::B256;
use atoll_api::ledger::{Finality, Proven};
use atoll_base::{
    Charter, Header, NodeId,
    contracts::DEPLOYMENTS,
    schema::{self, ReadError, RegionView, ServiceView, StorageRead as _, change_slot},
};
use atoll_light::{
    CertificateError, CertificateVerifier, NotProven, ProofError, ProvenState, certificate::ValidatorError,
};

/// An answer that is not believed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProveError {
    /// The certificate is not one of this region's validators.
    #[error("its finality certificate is not valid: {0}")]
    Certificate(#[from] CertificateError),
    /// The proof does not lead to the certified state root.
    #[error("its proof is not valid: {0}")]
    Proof(#[from] ProofError),
    /// A record is missing from the proof, or of another version.
    #[error("its proof does not hold what was asked for: {0}")]
    Read(#[from] ReadError<NotProven>),
    /// Older than what is known already.
    #[error("it is at height {given}, this node has already verified {known}")]
    Old {
        /// Height of the answer.
        given: u64,
        /// Height that is known.
        known: u64,
    },
}

/// What a proof of the region's view says.
pub(crate) enum ViewNews {
    /// Nothing changed since.
    Same(Header),
    /// The new view.
    New(Header, Box<RegionView>),
}

/// Verifies answers.
#[derive(Clone)]
pub(crate) struct Prover {
    verifier: Arc<CertificateVerifier>,
    /// The header whose certificate was verified last: the proof that follows is often for the same block.
    last: Arc<Mutex<Option<(B256, Header)>>>,
}

impl Prover {
    pub(crate) fn new(charter: &Charter) -> Result<Self, ValidatorError> {
        Ok(Self { verifier: Arc::new(CertificateVerifier::new(charter)?), last: Arc::default() })
    }

    /// The certified header.
    pub(crate) fn finality(&self, finality: &Finality) -> Result<Header, ProveError> {
        let hash = alloy_primitives::keccak256(&finality.header);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, header)) = last.as_ref().filter(|(known, _)| *known == hash) {
            return Ok(header.clone());
        }
        let header = self.verifier.verify(&finality.header, &finality.certificate)?;
        *last = Some((hash, header.clone()));
        Ok(header)
    }

    /// The view, unless the change counter still is `change`.
    pub(crate) fn view(&self, proven: &Proven, change: Option<u64>, floor: u64) -> Result<ViewNews, ProveError> {
        let (header, mut state) = self.state(proven, floor)?;
        let word = state.word(DEPLOYMENTS, change_slot()).map_err(ReadError::Storage)?;
        if change.is_some_and(|change| word == alloy_primitives::U256::from(change)) {
            return Ok(ViewNews::Same(header));
        }
        let view = schema::region_view(&mut state)?;
        Ok(ViewNews::New(header, Box::new(view)))
    }

    /// The sealed part of a service.
    pub(crate) fn sealed(
        &self,
        proven: &Proven,
        deployment: u64,
        service: u32,
        node: NodeId,
        floor: u64,
    ) -> Result<ServiceView, ProveError> {
        let (_, mut state) = self.state(proven, floor)?;
        Ok(schema::sealed_view(&mut state, deployment, service, node.word())?)
    }

    fn state(&self, proven: &Proven, floor: u64) -> Result<(Header, ProvenState), ProveError> {
        let header = self.finality(&proven.finality)?;
        if header.number < floor {
            return Err(ProveError::Old { given: header.number, known: floor });
        }
        let words: Vec<_> = proven.words.iter().map(|word| (word.contract, word.slot, word.value)).collect();
        let state = ProvenState::new(header.state_root, &words, &proven.nodes)?;
        Ok((header, state))
    }
}
