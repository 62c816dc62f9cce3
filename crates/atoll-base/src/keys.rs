//! A node's identity key and the keys that follow from it.
//!
//! One 32-byte seed is the Ed25519 identity (RFC 8032). The others are derived with HKDF-SHA-256 (RFC 5869), each under
//! its own label, so that no key is ever used for two purposes.

use core::fmt;

use alloy_primitives::B256;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::ids::{NodeId, domain_hash};

/// The secret seed of a node. Wiped from memory when dropped, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct NodeSecret([u8; 32]);

/// A key file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is not a 32-byte seed.
    #[error("not a node key: expected 64 hexadecimal digits")]
    NotASeed,
}

impl NodeSecret {
    /// From 32 random bytes.
    pub const fn from_seed(seed: [u8; 32]) -> Self {
        Self(seed)
    }

    /// From the text of a key file: 64 hexadecimal digits, white space around them is ignored.
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        let mut seed = [0; 32];
        hex::decode_to_slice(text.trim(), &mut seed).map_err(|_| KeyError::NotASeed)?;
        Ok(Self(seed))
    }

    /// The text for a key file. The caller keeps it secret.
    pub fn to_text(&self) -> String {
        format!("{}\n", hex::encode(self.0))
    }

    /// The Ed25519 seed itself, for libraries that have their own key type.
    pub const fn seed(&self) -> &[u8; 32] {
        &self.0
    }

    /// The public identity.
    pub fn id(&self) -> NodeId {
        NodeId(self.signing().verifying_key().to_bytes())
    }

    /// Signs `message` under `domain`, see [`verify`].
    pub fn sign(&self, domain: &str, message: &[u8]) -> [u8; 64] {
        self.signing().sign(domain_hash(domain, &[message]).as_slice()).to_bytes()
    }

    /// The static X25519 key (RFC 7748) of the mesh's Noise handshake.
    pub fn noise_static(&self) -> [u8; 32] {
        self.derive("atoll noise static v1")
    }

    /// The X25519 secret to which secrets for this node are sealed.
    pub fn sealing(&self) -> [u8; 32] {
        self.derive("atoll sealing v1")
    }

    /// The X25519 public key that belongs to [`Self::sealing`].
    pub fn sealing_public(&self) -> B256 {
        let secret = x25519_dalek::StaticSecret::from(self.sealing());
        B256::new(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }

    /// The secp256k1 secret of the node's own ledger account.
    pub fn account(&self) -> [u8; 32] {
        self.derive("atoll ledger account v1")
    }

    /// Seed of the BLS12-381 key with which a validator votes.
    pub fn bls_seed(&self) -> [u8; 32] {
        self.derive("atoll validator bls v1")
    }

    fn signing(&self) -> SigningKey {
        SigningKey::from_bytes(&self.0)
    }

    fn derive(&self, label: &str) -> [u8; 32] {
        let mut out = [0; 32];
        Hkdf::<Sha256>::new(None, &self.0)
            .expand(label.as_bytes(), &mut out)
            .expect("32 bytes are within HKDF's bound");
        out
    }
}

impl fmt::Debug for NodeSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeSecret(of {:?})", self.id())
    }
}

/// Whether `signature` is the node's signature over `message` under `domain` (strict RFC 8032 verification).
pub fn verify(node: NodeId, domain: &str, message: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(&node.0).is_ok_and(|key| {
        key.verify_strict(domain_hash(domain, &[message]).as_slice(), &Signature::from_bytes(signature)).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_bound_to_key_domain_and_message() {
        let secret = NodeSecret::from_seed([3; 32]);
        let signature = secret.sign("d", b"m");
        assert!(verify(secret.id(), "d", b"m", &signature));
        assert!(!verify(secret.id(), "e", b"m", &signature));
        assert!(!verify(secret.id(), "d", b"n", &signature));
        assert!(!verify(NodeSecret::from_seed([4; 32]).id(), "d", b"m", &signature));
    }

    #[test]
    fn derived_keys_differ_and_the_file_round_trips() {
        let secret = NodeSecret::from_seed([3; 32]);
        let keys = [secret.noise_static(), secret.sealing(), secret.account(), secret.bls_seed(), *secret.seed()];
        for (i, a) in keys.iter().enumerate() {
            assert!(keys[i + 1..].iter().all(|b| a != b));
        }
        assert_eq!(NodeSecret::from_text(&secret.to_text()).map(|s| s.id()), Ok(secret.id()));
        assert_eq!(NodeSecret::from_text("zz").err(), Some(KeyError::NotASeed));
    }
}
