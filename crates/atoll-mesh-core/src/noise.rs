//! `Noise_XX_25519_ChaChaPoly_SHA256` of the Noise Protocol Framework, revision 34 (noiseprotocol.org), and nothing else
//! of it. Every secret that it holds is wiped when dropped, and a message that does not authenticate changes nothing.
//!
//! ```text
//! -> e
//! <- e, ee, s, es, payload
//! -> s, se, payload
//! ```
//!
//! Each state of a handshake is a type of its own. Tests hold it against the `snow` library, byte for byte.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use hkdf::Hkdf;
use sha2::{Digest as _, Sha256};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// Name of the protocol; as long as a hash, so it is the first hash (section 5.2).
const PROTOCOL: &[u8; 32] = b"Noise_XX_25519_ChaChaPoly_SHA256";
/// A public key of X25519 (RFC 7748).
pub(crate) const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
/// First message: an ephemeral key.
pub(crate) const FIRST_BYTES: usize = KEY_BYTES;
/// What the second message adds to its payload: ephemeral key, sealed static key, tag.
pub(crate) const SECOND_OVERHEAD_BYTES: usize = KEY_BYTES + KEY_BYTES + TAG_BYTES + TAG_BYTES;
/// What the third message adds to its payload: sealed static key, tag.
pub(crate) const THIRD_OVERHEAD_BYTES: usize = KEY_BYTES + TAG_BYTES + TAG_BYTES;

/// A message that does not authenticate, or an ephemeral or static key of low order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forged;

/// A long-lived key pair.
pub(crate) struct KeyPair {
    secret: StaticSecret,
    public: PublicKey,
}

impl KeyPair {
    pub(crate) fn new(secret: &Zeroizing<[u8; 32]>) -> Self {
        let secret = StaticSecret::from(**secret);
        let public = PublicKey::from(&secret);
        Self { secret, public }
    }

    pub(crate) fn public(&self) -> &[u8; KEY_BYTES] {
        self.public.as_bytes()
    }

    /// X25519, refusing a result that the other end does not contribute to (RFC 7748 section 6.1).
    fn agree(&self, other: &PublicKey) -> Result<Zeroizing<[u8; 32]>, Forged> {
        let shared = self.secret.diffie_hellman(other);
        if shared.was_contributory() { Ok(Zeroizing::new(shared.to_bytes())) } else { Err(Forged) }
    }
}

/// What both ends have in common when the handshake is done.
pub(crate) struct Finished {
    /// The chaining key: secret, and different for each handshake.
    pub(crate) chain: Zeroizing<[u8; 32]>,
    /// The hash over everything that was said: not secret.
    pub(crate) hash: [u8; 32],
}

/// Initiator, after its first message.
pub(crate) struct Initiator {
    symmetric: Symmetric,
    ephemeral: KeyPair,
}

/// Initiator, after the second message.
pub(crate) struct InitiatorSecond {
    symmetric: Symmetric,
    remote_ephemeral: PublicKey,
    pub(crate) remote_static: [u8; KEY_BYTES],
}

/// Responder, after the first message.
pub(crate) struct Responder {
    symmetric: Symmetric,
    remote_ephemeral: PublicKey,
}

/// Responder, after its second message.
pub(crate) struct ResponderSecond {
    symmetric: Symmetric,
    ephemeral: KeyPair,
}

impl Initiator {
    /// Starts; the first message is the ephemeral public key.
    pub(crate) fn new(prologue: &[u8], ephemeral: KeyPair) -> Self {
        let mut symmetric = Symmetric::new(prologue);
        symmetric.mix_hash(ephemeral.public());
        symmetric.mix_hash(&[]);
        Self { symmetric, ephemeral }
    }

    /// The first message.
    pub(crate) fn first(&self) -> &[u8; FIRST_BYTES] {
        self.ephemeral.public()
    }

    /// The hash before the second message.
    pub(crate) const fn hash(&self) -> &[u8; 32] {
        &self.symmetric.hash
    }

    /// Reads the second message; also its payload.
    pub(crate) fn read_second(&self, message: &[u8]) -> Result<(InitiatorSecond, Vec<u8>), Forged> {
        let (remote_ephemeral, rest) = message.split_first_chunk::<KEY_BYTES>().ok_or(Forged)?;
        let (sealed_static, sealed_payload) = rest.split_at_checked(KEY_BYTES + TAG_BYTES).ok_or(Forged)?;
        let mut symmetric = self.symmetric.clone();
        symmetric.mix_hash(remote_ephemeral);
        let remote_ephemeral = PublicKey::from(*remote_ephemeral);
        symmetric.mix_key(&self.ephemeral.agree(&remote_ephemeral)?);
        let remote_static = symmetric.open_static(sealed_static)?;
        symmetric.mix_key(&self.ephemeral.agree(&PublicKey::from(remote_static))?);
        let payload = symmetric.open(sealed_payload)?;
        Ok((InitiatorSecond { symmetric, remote_ephemeral, remote_static }, payload))
    }
}

impl InitiatorSecond {
    /// The hash before the third message.
    pub(crate) const fn hash(&self) -> &[u8; 32] {
        &self.symmetric.hash
    }

    /// Writes the third message.
    pub(crate) fn write_third(&self, own: &KeyPair, payload: &[u8]) -> Result<(Vec<u8>, Finished), Forged> {
        let mut symmetric = self.symmetric.clone();
        let mut message = symmetric.seal(own.public());
        symmetric.mix_key(&own.agree(&self.remote_ephemeral)?);
        message.extend_from_slice(&symmetric.seal(payload));
        Ok((message, symmetric.finish()))
    }
}

impl Responder {
    /// Reads the first message.
    pub(crate) fn read_first(prologue: &[u8], message: &[u8; FIRST_BYTES]) -> Self {
        let mut symmetric = Symmetric::new(prologue);
        symmetric.mix_hash(message);
        symmetric.mix_hash(&[]);
        Self { symmetric, remote_ephemeral: PublicKey::from(*message) }
    }

    /// The hash before the second message.
    pub(crate) const fn hash(&self) -> &[u8; 32] {
        &self.symmetric.hash
    }

    /// Writes the second message.
    pub(crate) fn write_second(
        mut self,
        own: &KeyPair,
        ephemeral: KeyPair,
        payload: &[u8],
    ) -> Result<(ResponderSecond, Vec<u8>), Forged> {
        let mut message = ephemeral.public().to_vec();
        self.symmetric.mix_hash(ephemeral.public());
        self.symmetric.mix_key(&ephemeral.agree(&self.remote_ephemeral)?);
        message.extend_from_slice(&self.symmetric.seal(own.public()));
        self.symmetric.mix_key(&own.agree(&self.remote_ephemeral)?);
        message.extend_from_slice(&self.symmetric.seal(payload));
        Ok((ResponderSecond { symmetric: self.symmetric, ephemeral }, message))
    }
}

impl ResponderSecond {
    /// The hash before the third message.
    pub(crate) const fn hash(&self) -> &[u8; 32] {
        &self.symmetric.hash
    }

    /// Reads the third message; also the initiator's static key and the payload.
    pub(crate) fn read_third(&self, message: &[u8]) -> Result<([u8; KEY_BYTES], Vec<u8>, Finished), Forged> {
        let (sealed_static, sealed_payload) = message.split_at_checked(KEY_BYTES + TAG_BYTES).ok_or(Forged)?;
        let mut symmetric = self.symmetric.clone();
        let remote_static = symmetric.open_static(sealed_static)?;
        symmetric.mix_key(&self.ephemeral.agree(&PublicKey::from(remote_static))?);
        let payload = symmetric.open(sealed_payload)?;
        Ok((remote_static, payload, symmetric.finish()))
    }
}

/// The symmetric state of section 5.2 with the cipher state of section 5.1 inside.
#[derive(Clone)]
struct Symmetric {
    hash: [u8; 32],
    chain: Zeroizing<[u8; 32]>,
    key: Zeroizing<[u8; 32]>,
    nonce: u64,
}

impl Symmetric {
    fn new(prologue: &[u8]) -> Self {
        // No message is sealed before the first key is mixed in.
        let mut symmetric =
            Self { hash: *PROTOCOL, chain: Zeroizing::new(*PROTOCOL), key: Zeroizing::default(), nonce: 0 };
        symmetric.mix_hash(prologue);
        symmetric
    }

    fn mix_hash(&mut self, data: &[u8]) {
        self.hash = Sha256::new().chain_update(self.hash).chain_update(data).finalize().into();
    }

    fn mix_key(&mut self, input: &Zeroizing<[u8; 32]>) {
        let mut output = Zeroizing::new([0; 64]);
        Hkdf::<Sha256>::new(Some(self.chain.as_ref()), input.as_ref())
            .expand(&[], output.as_mut())
            .expect("64 bytes are within HKDF's bound");
        self.chain.copy_from_slice(&output[..32]);
        self.key.copy_from_slice(&output[32..]);
        self.nonce = 0;
    }

    fn seal(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut sealed = plain.to_vec();
        self.cipher()
            .seal_in_place_append_tag(self.next_nonce(), Aad::from(self.hash), &mut sealed)
            .expect("a message is far below the cipher's bound on lengths");
        self.mix_hash(&sealed);
        sealed
    }

    fn open(&mut self, sealed: &[u8]) -> Result<Vec<u8>, Forged> {
        let mut plain = sealed.to_vec();
        let nonce = self.next_nonce();
        let length = self.cipher().open_in_place(nonce, Aad::from(self.hash), &mut plain).map_err(|_| Forged)?.len();
        plain.truncate(length);
        self.mix_hash(sealed);
        Ok(plain)
    }

    fn open_static(&mut self, sealed: &[u8]) -> Result<[u8; KEY_BYTES], Forged> {
        self.open(sealed)?.try_into().map_err(|_| Forged)
    }

    fn finish(self) -> Finished {
        Finished { chain: self.chain, hash: self.hash }
    }

    fn cipher(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, self.key.as_ref()).expect("the key has the right length"))
    }

    /// 32 zero bits, then the counter in little endian (section 12.3).
    fn next_nonce(&mut self) -> Nonce {
        let mut bytes = [0; 12];
        bytes[4..].copy_from_slice(&self.nonce.to_le_bytes());
        self.nonce += 1;
        Nonce::assume_unique_for_key(bytes)
    }
}

#[cfg(test)]
mod tests;
