//! Reading from the ledger without trusting the server that answers: certificate, header, proof.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, Bytes, U64, U256};
use anyhow::Result;
use atoll_api::ledger::{Finality, Proven};
use atoll_base::{Charter, Header, schema};
use atoll_light::{CertificateError, CertificateVerifier, ProofError, ProvenState, verify_account_proof};
use serde::Deserialize;
use serde_json::json;

use super::{
    failure::{OrFail as _, fail},
    region::Region,
};
use crate::rpc::RpcError;

/// How often a proof is asked for again when the ledger has moved on between two requests.
const ATTEMPTS: u32 = 5;

/// A balance, and the block in which the account held it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Balance {
    pub(crate) units: U256,
    pub(crate) height: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AccountProof {
    account_proof: Vec<Bytes>,
}

/// What the account holds, proven under a block that the region's validators made final.
pub(crate) async fn balance(region: &Region, account: Address) -> Result<Balance> {
    let what = "cannot read the balance";
    let verifier = verifier(&region.charter)?;
    for _ in 0..ATTEMPTS {
        let finality = region.explain(what, region.rpc.request::<Finality>("atoll_finality", json!([0])).await)?;
        let header = certified(&verifier, &finality)?;
        let params = json!([account, [], U64::from(header.number)]);
        let proof = match region.rpc.request::<AccountProof>("eth_getProof", params).await {
            // The ledger keeps the newest state only; this block's is gone already.
            Err(RpcError::Refused { .. }) => continue,
            other => region.explain(what, other)?,
        };
        return of_proof(&header, account, &proof.account_proof).or_fail(|| what, distrust);
    }
    Err(fail(format!("{what}: the ledger moves on faster than it can be asked"), "try again"))
}

fn of_proof(header: &Header, account: Address, proof: &[Bytes]) -> Result<Balance, ProofError> {
    let account = verify_account_proof(header.state_root, account, proof)?;
    Ok(Balance { units: account.map(|account| account.balance).unwrap_or_default(), height: header.number })
}

/// The sealing keys of all nodes by id: secrets go to them, so no server is believed about them.
pub(crate) async fn sealing_keys(region: &Region) -> Result<BTreeMap<B256, B256>> {
    let what = "cannot learn the keys of the nodes";
    let verifier = verifier(&region.charter)?;
    let proven = region.rpc.request::<Proven>("atoll_regionView", json!([null])).await;
    let proven = region.explain(what, proven)?;
    let header = certified(&verifier, &proven.finality)?;
    let words: Vec<_> = proven.words.iter().map(|word| (word.contract, word.slot, word.value)).collect();
    let mut state = ProvenState::new(header.state_root, &words, &proven.nodes).or_fail(|| what, distrust)?;
    let nodes = schema::nodes(&mut state).or_fail(|| what, distrust)?;
    Ok(nodes.into_iter().map(|node| (node.id, node.sealing_key)).collect())
}

fn verifier(charter: &Charter) -> Result<CertificateVerifier> {
    CertificateVerifier::new(charter).or_fail(
        || "the region's charter names a validator that does not prove its key",
        || "get the true charter from the region's founders",
    )
}

fn certified(verifier: &CertificateVerifier, finality: &Finality) -> Result<Header> {
    let verified: Result<Header, CertificateError> = verifier.verify(&finality.header, &finality.certificate);
    verified.or_fail(|| "the ledger's answer is not certified by this region's validators", distrust)
}

fn distrust() -> &'static str {
    "do not trust this ledger server: it runs another version, belongs to another region, or cheats"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_a_certificate_is_not_believed() {
        let secret = atoll_base::NodeSecret::from_seed([1; 32]);
        let charter = crate::dashboard::tests::charter(vec![atoll_light::certificate::validator_entry("v1", &secret)]);
        let verifier = verifier(&charter).expect("a valid charter");
        let finality = Finality { header: Bytes::from_static(b"x"), certificate: Bytes::new() };
        let error = certified(&verifier, &finality).expect_err("no header");
        assert_eq!(error.to_string(), "the ledger's answer is not certified by this region's validators");
    }
}
