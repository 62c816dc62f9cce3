//! ML-KEM-768 from a seed, so that runs replay: RustCrypto's implementation, which takes its randomness as an argument.
//!
//! The binary uses AWS-LC's, which does not. Both are the same standard (FIPS 203); a test lets them talk to each other.

use atoll_mesh_core::kem::{Decapsulate, KEM_CIPHERTEXT_BYTES, KEM_KEY_BYTES, Kem, KemError, KemPair, KemSecret};
use ml_kem::{
    DecapsulationKey, EncapsulationKey, MlKem768,
    kem::{Decapsulate as _, Encapsulate as _, Generate as _, KeyExport as _},
};
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;

/// Makes keys from a seed.
pub struct SeededKem(ChaCha20Rng);

impl SeededKem {
    /// The same seed makes the same keys.
    pub fn new(seed: [u8; 32]) -> Self {
        Self(ChaCha20Rng::from_seed(seed))
    }
}

struct Secret(DecapsulationKey<MlKem768>);

impl Kem for SeededKem {
    fn generate(&mut self) -> Result<KemPair, KemError> {
        let secret = DecapsulationKey::<MlKem768>::generate_from_rng(&mut self.0);
        let mut public = Box::new([0; KEM_KEY_BYTES]);
        public.copy_from_slice(&secret.encapsulation_key().to_bytes());
        Ok(KemPair { secret: Box::new(Secret(secret)), public })
    }

    fn encapsulate(
        &mut self,
        key: &[u8; KEM_KEY_BYTES],
    ) -> Result<(Box<[u8; KEM_CIPHERTEXT_BYTES]>, KemSecret), KemError> {
        let key = key.as_slice().try_into().map_err(|_| KemError)?;
        let key = EncapsulationKey::<MlKem768>::new(key).map_err(|_| KemError)?;
        let (made, shared) = key.encapsulate_with_rng(&mut self.0);
        let mut ciphertext = Box::new([0; KEM_CIPHERTEXT_BYTES]);
        ciphertext.copy_from_slice(&made);
        Ok((ciphertext, copied(&shared)))
    }
}

impl Decapsulate for Secret {
    fn decapsulate(&self, ciphertext: &[u8; KEM_CIPHERTEXT_BYTES]) -> Result<KemSecret, KemError> {
        let ciphertext = ciphertext.as_slice().try_into().map_err(|_| KemError)?;
        Ok(copied(&self.0.decapsulate(ciphertext)))
    }
}

fn copied(shared: &[u8]) -> KemSecret {
    let mut secret = KemSecret::default();
    secret.copy_from_slice(shared);
    secret
}

#[cfg(test)]
mod tests {
    use atoll_mesh_core::kem::AwsLcKem;

    use super::*;

    /// Two implementations of FIPS 203 that share no code: either may make the keys, either the ciphertexts.
    #[test]
    fn the_two_implementations_understand_each_other() {
        let mut seeded = SeededKem::new([1; 32]);
        for _ in 0..20 {
            let ours = seeded.generate().expect("works");
            let (ciphertext, secret) = AwsLcKem.encapsulate(&ours.public).expect("works");
            assert_eq!(ours.secret.decapsulate(&ciphertext), Ok(secret));
            let theirs = AwsLcKem.generate().expect("works");
            let (mut ciphertext, secret) = seeded.encapsulate(&theirs.public).expect("works");
            assert_eq!(theirs.secret.decapsulate(&ciphertext), Ok(secret.clone()));
            ciphertext[0] ^= 1;
            assert_ne!(theirs.secret.decapsulate(&ciphertext), Ok(secret));
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_keys() {
        let run = |seed| {
            let mut kem = SeededKem::new([seed; 32]);
            let pair = kem.generate().expect("works");
            let (ciphertext, secret) = kem.encapsulate(&pair.public).expect("works");
            (pair.public, ciphertext, secret)
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1).0, run(2).0);
    }
}
