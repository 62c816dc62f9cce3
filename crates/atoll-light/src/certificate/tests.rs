use atoll_base::charter::{CHARTER_VERSION, Currency, Prices, Timing};
use commonware_consensus::{
    simplex::types::{Finalize, Proposal},
    types::{Epoch, Round, View},
};
use commonware_cryptography::{
    bls12381::{certificate::multisig::Certificate, primitives::ops::aggregate::combine_signatures},
    certificate::Signers,
};
use commonware_utils::non_empty;

use super::*;

fn secrets(n: u8) -> Vec<NodeSecret> {
    let mut secrets: Vec<_> = (1..=n).map(|i| NodeSecret::from_seed([i; 32])).collect();
    secrets.sort_by_key(NodeSecret::id);
    secrets
}

fn charter(secrets: &[NodeSecret]) -> Charter {
    Charter {
        version: CHARTER_VERSION,
        name: "test".to_owned(),
        chain_id: 7,
        created_ms: 1_790_000_000_000,
        currency: Currency { name: "Shell".to_owned(), symbol: "SHL".to_owned() },
        prices: Prices {
            cpu_core_hour: Default::default(),
            memory_gib_hour: Default::default(),
            disk_gib_hour: Default::default(),
            gas: 1,
        },
        timing: Timing {
            block_min_ms: 50,
            block_idle_ms: 1000,
            heartbeat_ms: 1000,
            heartbeat_timeout_ms: 5000,
            settle_ms: 60_000,
        },
        validators: secrets.iter().map(|secret| validator_entry("v", secret)).collect(),
        allocations: vec![],
        treasury: Default::default(),
        closed: Some(false),
    }
}

fn header(number: u64) -> Header {
    Header {
        parent_hash: B256::repeat_byte(1),
        number,
        timestamp_ms: 1_790_000_000_123,
        proposer: B256::repeat_byte(2),
        state_root: B256::repeat_byte(3),
        transactions_root: B256::repeat_byte(4),
        receipts_root: B256::repeat_byte(5),
        gas_used: 21_000,
        gas_limit: 30_000_000,
        base_fee: 1,
        epoch: 0,
        view: 9,
        extra: Bytes::new(),
    }
}

fn certificate(charter: &Charter, signers: &[NodeSecret], header: &Header) -> Vec<u8> {
    let proposal = Proposal::new(
        Round::new(Epoch::new(header.epoch), View::new(header.view)),
        View::new(header.view - 1),
        sha256::Digest(header.hash().0),
    );
    let schemes: Vec<_> = signers.iter().map(|secret| signer_scheme(charter, secret).unwrap()).collect();
    let votes = schemes.iter().map(|scheme| Finalize::sign(scheme, proposal.clone()).unwrap());
    Finalization::from_owned_finalizes(&schemes[0], non_empty![@votes], &Sequential).unwrap().encode().to_vec()
}

#[test]
fn a_quorum_makes_a_block_final() {
    for (n, quorum) in [(1, 1), (4, 3), (7, 5)] {
        let secrets = secrets(n);
        let charter = charter(&secrets);
        let verifier = CertificateVerifier::new(&charter).unwrap();
        let header = header(7);
        for signers in [&secrets[..quorum], &secrets[usize::from(n) - quorum..], &secrets[..]] {
            let certificate = certificate(&charter, signers, &header);
            assert!(certificate.len() <= CERTIFICATE_BYTES_MAX);
            assert_eq!(verifier.verify(&header.to_bytes(), &certificate), Ok(header.clone()));
        }
    }
}

#[test]
fn what_is_not_final_is_refused() {
    let secrets = secrets(4);
    let ours = charter(&secrets);
    let verifier = CertificateVerifier::new(&ours).unwrap();
    let (block, other) = (header(7), header(8));
    let good = certificate(&ours, &secrets, &block);

    let (certified, given) = (block.hash(), other.hash());
    assert_eq!(verifier.verify(&other.to_bytes(), &good), Err(CertificateError::OtherBlock { certified, given }));
    let elsewhere = Charter { chain_id: 8, ..ours.clone() };
    assert_eq!(
        verifier.verify(&block.to_bytes(), &certificate(&elsewhere, &secrets, &block)),
        Err(CertificateError::Signature(block.hash())),
        "another region of the same validators",
    );
    let future = Header { epoch: 1, ..block.clone() };
    assert_eq!(
        verifier.verify(&future.to_bytes(), &certificate(&ours, &secrets, &future)),
        Err(CertificateError::Epoch(1))
    );
    assert!(matches!(verifier.verify(&block.to_bytes()[1..], &good), Err(CertificateError::Header(_))));
    assert!(matches!(verifier.verify(&block.to_bytes(), &[0; 513]), Err(CertificateError::Malformed(_))));
    assert!(verifier.verify(&block.to_bytes(), &good[1..]).is_err());
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            assert!(verifier.verify(&block.to_bytes(), &bad).is_err(), "bit {bit} of byte {at} flipped");
        }
    }
}

#[test]
fn fewer_than_a_quorum_is_refused() {
    let secrets = secrets(4);
    let ours = charter(&secrets);
    let block = header(7);
    let verifier = CertificateVerifier::new(&ours).unwrap();
    // The library refuses to assemble so few votes, so this does by hand what a minority of validators could do.
    let proposal = Proposal::new(Round::new(Epoch::new(0), View::new(9)), View::new(8), sha256::Digest(block.hash().0));
    for count in 1..=4 {
        let votes: Vec<_> = secrets[..count]
            .iter()
            .map(|secret| Finalize::sign(&signer_scheme(&ours, secret).unwrap(), proposal.clone()).unwrap().attestation)
            .collect();
        let signers = Signers::new(4, votes.iter().map(|vote| vote.signer)).unwrap();
        let signatures = votes.iter().map(|vote| vote.signature.get().unwrap());
        let signature = combine_signatures::<MinPk, _>(non_empty![@signatures]);
        let certificate = Certificate::<MinPk> { signers, signature: signature.into() };
        let bytes = Finalization::<Scheme, _> { proposal: proposal.clone(), certificate }.encode();
        assert_eq!(verifier.verify(&block.to_bytes(), &bytes).is_ok(), count >= 3, "{count} of 4 votes");
    }
}

#[test]
fn validators_must_prove_their_keys() {
    let secrets = secrets(4);
    let good = charter(&secrets);
    assert_eq!(check_validators(&good), Ok(()));

    let mut stolen = good.clone();
    stolen.validators.truncate(1);
    stolen.validators[0].bls_key = good.validators[1].bls_key.clone();
    stolen.validators[0].bls_proof = good.validators[1].bls_proof.clone();
    assert_eq!(check_validators(&stolen), Err(ValidatorError::BlsProof("v".to_owned())));

    let mut broken = good.clone();
    broken.validators[2].bls_key = vec![0; 48].into();
    assert_eq!(check_validators(&broken), Err(ValidatorError::BlsKey("v".to_owned())));

    let stranger = NodeSecret::from_seed([99; 32]);
    assert_eq!(signer_scheme(&good, &stranger).err(), Some(ValidatorError::NotAValidator(stranger.id())));
}
