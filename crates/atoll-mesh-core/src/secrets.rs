//! Secret randomness that forgets: what was drawn cannot be computed from what is left.
//!
//! An ordinary generator keeps the key from which all of its past output follows, so that whoever reads a node's memory
//! later could compute the ephemeral keys of old handshakes, and there would be no forward secrecy. Here each draw
//! replaces the key by a hash of it.

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

/// A source of secrets, from a seed.
pub(crate) struct Secrets(Zeroizing<[u8; 32]>);

impl Secrets {
    /// Also a seed for randomness that is not secret, from which the secrets do not follow.
    pub(crate) fn new(seed: &[u8; 32]) -> (Self, [u8; 32]) {
        let mut secrets = Self(Zeroizing::new(*seed));
        let public = *secrets.draw();
        (secrets, public)
    }

    /// 32 bytes that were never drawn before.
    pub(crate) fn draw(&mut self) -> Zeroizing<[u8; 32]> {
        let mut output = Zeroizing::new([0; 64]);
        Hkdf::<Sha256>::new(None, self.0.as_ref())
            .expand(b"atoll mesh secret v2", output.as_mut())
            .expect("64 bytes are within HKDF's bound");
        self.0.copy_from_slice(&output[..32]);
        let mut drawn = Zeroizing::new([0; 32]);
        drawn.copy_from_slice(&output[32..]);
        drawn
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn draws_differ_and_follow_from_the_seed() {
        let draws = |seed| {
            let (mut secrets, public) = Secrets::new(&[seed; 32]);
            (0..100).map(|_| *secrets.draw()).chain([public]).collect::<BTreeSet<_>>()
        };
        assert_eq!(draws(1).len(), 101);
        assert_eq!(draws(1), draws(1));
        assert!(draws(1).is_disjoint(&draws(2)));
    }
}
