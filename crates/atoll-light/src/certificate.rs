//! Finality certificates, and the validators' keys with which they are made.
//!
//! A certificate is simplex' finalization: a proposal (round, parent view, block hash), a bitmap of the validators that
//! signed it, and one BLS12-381 signature, the sum of theirs (MinPk: 48-byte keys, 96-byte signatures). At least
//! n - ⌊(n-1)/3⌋ of n validators must have signed. The signed bytes start with a namespace that contains the region id,
//! so that no region's certificate means anything in another.

use alloy_primitives::{B256, Bytes};
use atoll_base::{
    Charter, Header, NodeId, NodeSecret, RegionId,
    charter::{CharterError, Validator},
    header::HeaderError,
};
use commonware_codec::{Copying, Decode as _, DecodeExt as _, Encode as _};
use commonware_consensus::{
    Epochable as _,
    simplex::{scheme::bls12381_multisig, types::Finalization},
};
use commonware_cryptography::{
    bls12381::primitives::{
        group::{Private, Scalar},
        ops::{compute_public, sign_proof_of_possession, verify_proof_of_possession},
        variant::{MinPk, Variant},
    },
    certificate::Verifier as _,
    ed25519, sha256,
};
use commonware_parallel::Sequential;
use commonware_utils::ordered::BiMap;
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng as _};

/// How the validators of a region sign: BLS12-381 multi-signatures of members known by their Ed25519 identity.
pub type Scheme = bls12381_multisig::Scheme<ed25519::PublicKey, MinPk>;

type BlsPublic = <MinPk as Variant>::Public;
type BlsSignature = <MinPk as Variant>::Signature;

/// Longest certificate that is looked at: 100 validators need 200 bytes.
pub const CERTIFICATE_BYTES_MAX: usize = 512;

/// A charter whose validators cannot sign for a region.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValidatorError {
    /// The charter itself is wrong.
    #[error(transparent)]
    Charter(#[from] CharterError),
    /// An identity that is no Ed25519 key.
    #[error("validator '{0}': its id is not an Ed25519 public key; make its entry anew on that machine")]
    Identity(String),
    /// A BLS key that is none.
    #[error("validator '{0}': its bls_key is not a BLS12-381 public key; make its entry anew on that machine")]
    BlsKey(String),
    /// A proof of possession that proves nothing.
    #[error("validator '{0}': its bls_proof does not prove that it holds bls_key; make its entry anew on that machine")]
    BlsProof(String),
    /// The key of a node that is not among the validators.
    #[error("node {0:?} is not a validator of this region")]
    NotAValidator(NodeId),
}

/// A certificate that does not make this block final.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// The header is none.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// Not a certificate at all.
    #[error("finality certificate cannot be read: {0}")]
    Malformed(String),
    /// For another block.
    #[error("finality certificate is for block {certified}, not for block {given}")]
    OtherBlock {
        /// What the certificate is for.
        certified: B256,
        /// The hash of the header.
        given: B256,
    },
    /// For a validator set that is not known.
    #[error("finality certificate is of epoch {0}, whose validators are not known here")]
    Epoch(u64),
    /// Not signed by enough validators of this region.
    #[error("finality certificate of block {0} is not signed by a quorum of this region's validators")]
    Signature(B256),
}

/// Checks finality certificates of one region, starting from nothing but its charter.
#[derive(Debug, Clone)]
pub struct CertificateVerifier {
    scheme: Scheme,
}

impl CertificateVerifier {
    /// For the region of `charter`. Refuses a charter with a validator that does not prove to hold its key.
    pub fn new(charter: &Charter) -> Result<Self, ValidatorError> {
        Ok(Self { scheme: verifier_scheme(charter)? })
    }

    /// The header, if `certificate` makes it final.
    pub fn verify(&self, header: &[u8], certificate: &[u8]) -> Result<Header, CertificateError> {
        let header = Header::from_bytes(header)?;
        let hash = header.hash();
        if certificate.len() > CERTIFICATE_BYTES_MAX {
            return Err(CertificateError::Malformed(format!("it has {} bytes", certificate.len())));
        }
        let finalization = Finalization::<Scheme, sha256::Digest>::decode_cfg(
            Copying(certificate),
            &self.scheme.certificate_codec_config(),
        )
        .map_err(|error| CertificateError::Malformed(error.to_string()))?;
        let certified = B256::new(finalization.proposal.payload.0);
        if certified != hash {
            return Err(CertificateError::OtherBlock { certified, given: hash });
        }
        let epoch = finalization.epoch().get();
        if epoch != 0 || header.epoch != epoch {
            return Err(CertificateError::Epoch(epoch));
        }
        // The interface asks for randomness because other schemes check many signatures at once; this one draws none.
        let mut randomness = ChaCha20Rng::from_seed(hash.0);
        if !finalization.verify(&mut randomness, &self.scheme, &Sequential) {
            return Err(CertificateError::Signature(hash));
        }
        Ok(header)
    }
}

/// The charter's entry for the validator that holds `secret`.
pub fn validator_entry(name: &str, secret: &NodeSecret) -> Validator {
    let private = bls_private(secret);
    let proof = sign_proof_of_possession::<MinPk>(&private, &proof_namespace(secret.id()));
    Validator {
        name: name.to_owned(),
        id: secret.id().word(),
        bls_key: Bytes::from(compute_public::<MinPk>(&private).encode()),
        bls_proof: Bytes::from(proof.encode()),
    }
}

/// Checks the charter, and that each of its validators holds the BLS key that it claims.
pub fn check_validators(charter: &Charter) -> Result<(), ValidatorError> {
    verifier_scheme(charter).map(drop)
}

/// The scheme with which the validator that holds `secret` votes.
pub fn signer_scheme(charter: &Charter, secret: &NodeSecret) -> Result<Scheme, ValidatorError> {
    let participants = participants(charter)?;
    let namespace = consensus_namespace(charter.region_id());
    Scheme::signer(&namespace, participants, bls_private(secret)).ok_or(ValidatorError::NotAValidator(secret.id()))
}

/// The scheme with which anyone checks the validators' certificates.
pub fn verifier_scheme(charter: &Charter) -> Result<Scheme, ValidatorError> {
    Ok(Scheme::verifier(&consensus_namespace(charter.region_id()), participants(charter)?))
}

fn participants(charter: &Charter) -> Result<BiMap<ed25519::PublicKey, BlsPublic>, ValidatorError> {
    charter.check()?;
    let participants = charter.validators.iter().map(participant).collect::<Result<Vec<_>, _>>()?;
    BiMap::try_from(participants).map_err(|_| {
        let why = "two validators have the same id or the same bls_key".to_owned();
        CharterError::Field { field: "validators", why }.into()
    })
}

fn participant(validator: &Validator) -> Result<(ed25519::PublicKey, BlsPublic), ValidatorError> {
    let name = || validator.name.clone();
    let id = ed25519::PublicKey::decode(Copying(&validator.id[..])).map_err(|_| ValidatorError::Identity(name()))?;
    let key = BlsPublic::decode(Copying(&validator.bls_key[..])).map_err(|_| ValidatorError::BlsKey(name()))?;
    let proof =
        BlsSignature::decode(Copying(&validator.bls_proof[..])).map_err(|_| ValidatorError::BlsProof(name()))?;
    verify_proof_of_possession::<MinPk>(&key, &proof_namespace(validator.node()), &proof)
        .map_err(|_| ValidatorError::BlsProof(name()))?;
    Ok((id, key))
}

fn bls_private(secret: &NodeSecret) -> Private {
    Private::new(Scalar::map(b"atoll validator bls v1", &secret.bls_seed()))
}

fn consensus_namespace(region: RegionId) -> Vec<u8> {
    [b"atoll consensus v1 ".as_slice(), &region.0].concat()
}

/// The identity is in the namespace: otherwise a validator could enter another's key and proof as its own.
fn proof_namespace(node: NodeId) -> Vec<u8> {
    [b"atoll bls proof v1 ".as_slice(), &node.0].concat()
}

#[cfg(test)]
mod tests;
