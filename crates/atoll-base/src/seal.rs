//! Sealing a secret to one node: HPKE (RFC 9180), base mode, X25519-HKDF-SHA256 and ChaCha20-Poly1305; and the
//! symmetric sealing of a service's private part under its content key.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use hpke::{Deserializable as _, Serializable as _};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng as _};
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::keys::NodeSecret;

/// The key of one service's private part. Used for exactly one plaintext, therefore with a constant nonce.
#[derive(Clone, Zeroize, ZeroizeOnDrop, PartialEq, Eq)]
pub struct ContentKey(pub [u8; 32]);

/// Why something could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The recipient's public key is not an X25519 point.
    #[error("the recipient's sealing key is not a valid X25519 public key")]
    Recipient,
    /// Not for this key, or changed on the way.
    #[error("the sealed data is not for this key, or was changed")]
    Open,
}

/// Encrypts the private part of a service. The content key must never be used again.
pub fn seal_content(key: &ContentKey, plaintext: &[u8]) -> Vec<u8> {
    let mut data = plaintext.to_vec();
    aead(key)
        .seal_in_place_append_tag(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), &mut data)
        .expect("specs are far below the cipher's length bound");
    data
}

/// The inverse of [`seal_content`].
pub fn open_content(key: &ContentKey, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
    let mut data = sealed.to_vec();
    let plain = aead(key)
        .open_in_place(Nonce::assume_unique_for_key([0; 12]), Aad::empty(), &mut data)
        .map_err(|_| SealError::Open)?;
    Ok(plain.to_vec())
}

/// SHA-256 of a plaintext: what the ledger holds as `specHash`.
pub fn content_hash(plaintext: &[u8]) -> [u8; 32] {
    Sha256::digest(plaintext).into()
}

fn aead(key: &ContentKey) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &key.0).expect("32 bytes are this cipher's key length"))
}

type Kem = hpke::kem::X25519HkdfSha256;
type Kdf = hpke::kdf::HkdfSha256;
type Aead = hpke::aead::ChaCha20Poly1305;

/// Context string: ties a sealed key to its purpose.
const INFO: &[u8] = b"atoll content key v1";
/// Length of the encapsulated key in front of the ciphertext.
const ENCAPSULATED_BYTES: usize = 32;

/// Seals a content key to a node. `entropy` is 32 fresh random bytes.
pub fn seal_key(recipient: &[u8; 32], key: &ContentKey, entropy: [u8; 32]) -> Result<Vec<u8>, SealError> {
    let public = <Kem as hpke::Kem>::PublicKey::from_bytes(recipient).map_err(|_| SealError::Recipient)?;
    let mut rng = ChaCha20Rng::from_seed(entropy);
    let (encapsulated, sealed) =
        hpke::single_shot_seal_with_rng::<Aead, Kdf, Kem>(&hpke::OpModeS::Base, &public, INFO, &key.0, &[], &mut rng)
            .map_err(|_| SealError::Recipient)?;
    Ok([encapsulated.to_bytes().as_slice(), &sealed].concat())
}

/// Opens a content key that was sealed to this node.
pub fn open_key(secret: &NodeSecret, sealed: &[u8]) -> Result<ContentKey, SealError> {
    let (encapsulated, ciphertext) = sealed.split_at_checked(ENCAPSULATED_BYTES).ok_or(SealError::Open)?;
    let private =
        <Kem as hpke::Kem>::PrivateKey::from_bytes(&secret.sealing()).expect("any 32 bytes are an X25519 secret");
    let encapsulated = <Kem as hpke::Kem>::EncappedKey::from_bytes(encapsulated).map_err(|_| SealError::Open)?;
    let mut plain =
        hpke::single_shot_open::<Aead, Kdf, Kem>(&hpke::OpModeR::Base, &private, &encapsulated, INFO, ciphertext, &[])
            .map_err(|_| SealError::Open)?;
    let key = plain.as_slice().try_into().map(ContentKey).map_err(|_| SealError::Open);
    plain.zeroize();
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_opens_only_for_its_node() {
        let node = NodeSecret::from_seed([1; 32]);
        let key = ContentKey([9; 32]);
        let mut sealed = seal_key(&node.sealing_public().0, &key, [5; 32]).expect("valid recipient");
        assert!(open_key(&node, &sealed) == Ok(key.clone()));
        assert!(open_key(&NodeSecret::from_seed([2; 32]), &sealed) == Err(SealError::Open));
        sealed[40] ^= 1;
        assert!(open_key(&node, &sealed) == Err(SealError::Open));
        assert!(open_key(&node, &[]) == Err(SealError::Open));
    }

    #[test]
    fn content_round_trips() {
        let key = ContentKey([9; 32]);
        let mut sealed = seal_content(&key, b"spec");
        assert_eq!(open_content(&key, &sealed).as_deref(), Ok(b"spec".as_slice()));
        sealed[0] ^= 1;
        assert_eq!(open_content(&key, &sealed), Err(SealError::Open));
    }
}
