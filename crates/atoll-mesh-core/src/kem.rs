//! ML-KEM-768 (FIPS 203), the post-quantum half of the key agreement.
//!
//! The library of the binary draws its randomness itself and cannot be given a seed. So it is not called from here but
//! handed in: the daemon brings [`AwsLcKem`], the simulation one that follows a seed.

use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768};
use zeroize::Zeroizing;

/// Bytes of an encapsulation key (FIPS 203 table 3).
pub const KEM_KEY_BYTES: usize = 1184;
/// Bytes of a ciphertext (FIPS 203 table 3).
pub const KEM_CIPHERTEXT_BYTES: usize = 1088;

/// The secret that both ends have afterwards. Wiped when dropped.
pub type KemSecret = Zeroizing<[u8; 32]>;

/// A key that is not one (FIPS 203 section 7.2), or a library without memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the encapsulation key is malformed, or the cryptographic library failed")]
pub struct KemError;

/// Makes keys and ciphertexts of ML-KEM-768, from randomness of its own.
pub trait Kem: Send {
    /// A fresh pair of keys (FIPS 203 algorithm 19).
    fn generate(&mut self) -> Result<KemPair, KemError>;

    /// A fresh secret, and the ciphertext by which the owner of the key gets it too (FIPS 203 algorithm 20).
    fn encapsulate(
        &mut self,
        key: &[u8; KEM_KEY_BYTES],
    ) -> Result<(Box<[u8; KEM_CIPHERTEXT_BYTES]>, KemSecret), KemError>;
}

/// A pair of keys, for one handshake.
pub struct KemPair {
    /// The secret half.
    pub secret: Box<dyn Decapsulate>,
    /// The public half.
    pub public: Box<[u8; KEM_KEY_BYTES]>,
}

/// The secret half of a pair of keys. It wipes itself when dropped.
pub trait Decapsulate: Send {
    /// The secret in a ciphertext (FIPS 203 algorithm 21); of one that was not made for this key, another secret.
    fn decapsulate(&self, ciphertext: &[u8; KEM_CIPHERTEXT_BYTES]) -> Result<KemSecret, KemError>;
}

/// ML-KEM-768 of AWS-LC, with the randomness of the operating system. AWS-LC wipes what it frees.
#[derive(Debug, Clone, Copy, Default)]
pub struct AwsLcKem;

impl Kem for AwsLcKem {
    fn generate(&mut self) -> Result<KemPair, KemError> {
        let secret = DecapsulationKey::generate(&ML_KEM_768).map_err(|_| KemError)?;
        let public = secret.encapsulation_key().and_then(|key| key.key_bytes()).map_err(|_| KemError)?;
        Ok(KemPair { public: boxed(public.as_ref())?, secret: Box::new(secret) })
    }

    fn encapsulate(
        &mut self,
        key: &[u8; KEM_KEY_BYTES],
    ) -> Result<(Box<[u8; KEM_CIPHERTEXT_BYTES]>, KemSecret), KemError> {
        let key = EncapsulationKey::new(&ML_KEM_768, key).map_err(|_| KemError)?;
        let (ciphertext, secret) = key.encapsulate().map_err(|_| KemError)?;
        Ok((boxed(ciphertext.as_ref())?, copied(secret.as_ref())?))
    }
}

impl Decapsulate for DecapsulationKey {
    fn decapsulate(&self, ciphertext: &[u8; KEM_CIPHERTEXT_BYTES]) -> Result<KemSecret, KemError> {
        let secret = Self::decapsulate(self, Ciphertext::from(ciphertext.as_slice())).map_err(|_| KemError)?;
        copied(secret.as_ref())
    }
}

fn boxed<const N: usize>(bytes: &[u8]) -> Result<Box<[u8; N]>, KemError> {
    Box::<[u8]>::from(bytes).try_into().map_err(|_| KemError)
}

fn copied(bytes: &[u8]) -> Result<KemSecret, KemError> {
    let mut secret = KemSecret::default();
    if bytes.len() != secret.len() {
        return Err(KemError);
    }
    secret.copy_from_slice(bytes);
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_get_the_same_secret_and_a_forger_another() {
        let pair = AwsLcKem.generate().expect("works");
        let (mut ciphertext, secret) = AwsLcKem.encapsulate(&pair.public).expect("works");
        assert_eq!(pair.secret.decapsulate(&ciphertext), Ok(secret.clone()));
        ciphertext[7] ^= 1;
        assert_ne!(pair.secret.decapsulate(&ciphertext), Ok(secret));
        assert_eq!(
            AwsLcKem.encapsulate(&[0xff; KEM_KEY_BYTES]).err(),
            Some(KemError),
            "coefficients above the modulus"
        );
    }
}
