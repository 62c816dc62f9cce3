//! The Noise handshake `Noise_XX_25519_ChaChaPoly_BLAKE2s`, and the proof of identity that its payloads carry.
//!
//! XX, because neither end knows the other's static key beforehand; what an initiator may know is the mesh address,
//! and that is checked against the identity which the handshake proves. The proof is the node's Ed25519 signature over
//! its role, the region, its static key, its epoch and the handshake hash so far, so that it is fresh and bound to
//! this very handshake.

use atoll_base::{MeshAddr, NodeId, NodeSecret, RegionId, keys};
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng as _, SeedableRng as _},
};
use snow::{
    Builder, HandshakeState,
    params::{CipherChoice, DHChoice, HashChoice},
    resolvers::{CryptoResolver, DefaultResolver},
    types::{Cipher, Dh, Hash, Random},
};
use zeroize::Zeroizing;

use crate::{
    transport::RawKeys,
    wire::{NOISE_1_BYTES, NOISE_2_BYTES, NOISE_3_BYTES, PROOF_BYTES, TAG_BYTES},
};

const PATTERN: &str = "Noise_XX_25519_ChaChaPoly_BLAKE2s";
const PROOF_DOMAIN: &str = "atoll mesh handshake v1";
const INITIATOR: u8 = 0;
const RESPONDER: u8 = 1;

/// Between whom a handshake is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Between neighbours.
    Link,
    /// Between the two ends of a session.
    EndToEnd {
        /// Network of the initiator.
        initiator: MeshAddr,
        /// Network of the responder.
        responder: MeshAddr,
    },
}

/// What this node brings into every handshake.
pub(crate) struct Local {
    pub(crate) secret: NodeSecret,
    pub(crate) node: NodeId,
    pub(crate) region: RegionId,
    /// Differs after each restart, so that neighbours notice a restart.
    epoch: u64,
    noise_secret: Zeroizing<[u8; 32]>,
    noise_public: [u8; 32],
}

/// Whom a handshake proved to be at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Proven {
    pub(crate) node: NodeId,
    pub(crate) epoch: u64,
}

/// A handshake message that is not what it should be. One kind, because the peer learns nothing of it and an operator
/// can do nothing about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the handshake message is forged, damaged or out of place")]
pub(crate) struct HandshakeError;

impl Local {
    pub(crate) fn new(secret: NodeSecret, region: RegionId, epoch: u64) -> Self {
        let noise_secret = Zeroizing::new(secret.noise_static());
        let static_secret = x25519_dalek::StaticSecret::from(*noise_secret);
        let noise_public = x25519_dalek::PublicKey::from(&static_secret).to_bytes();
        Self { node: secret.id(), secret, region, epoch, noise_secret, noise_public }
    }

    /// Starts a handshake; also the first Noise message.
    pub(crate) fn initiate(&self, scope: Scope, rng: &mut ChaCha20Rng) -> (Initiator, [u8; NOISE_1_BYTES]) {
        let mut state = self
            .builder(&self.prologue(scope), rng)
            .and_then(Builder::build_initiator)
            .expect("the pattern and the keys are fixed and fit each other");
        // The library wants room for a tag even where it writes none.
        let mut buffer = [0; NOISE_1_BYTES + TAG_BYTES];
        let written = state.write_message(&[], &mut buffer).expect("an ephemeral key fits into the buffer");
        assert_eq!(written, NOISE_1_BYTES, "an ephemeral key and nothing else");
        let mut message = [0; NOISE_1_BYTES];
        message.copy_from_slice(&buffer[..written]);
        (Initiator { state }, message)
    }

    /// Answers the first Noise message; also the second one.
    pub(crate) fn respond(
        &self,
        scope: Scope,
        message: &[u8],
        rng: &mut ChaCha20Rng,
    ) -> Result<(Responder, Vec<u8>), HandshakeError> {
        let mut state = self
            .builder(&self.prologue(scope), rng)
            .and_then(Builder::build_responder)
            .expect("the pattern and the keys are fixed and fit each other");
        let mut nothing = [0; NOISE_1_BYTES];
        if message.len() != NOISE_1_BYTES || state.read_message(message, &mut nothing) != Ok(0) {
            return Err(HandshakeError);
        }
        let proof = self.proof(RESPONDER, state.get_handshake_hash());
        let mut answer = vec![0; NOISE_2_BYTES];
        // An all-zero shared secret (a low-order key) makes this fail.
        let written = state.write_message(&proof, &mut answer).map_err(|_| HandshakeError)?;
        assert_eq!(written, NOISE_2_BYTES, "the pattern and the proof have fixed lengths");
        Ok((Responder { state }, answer))
    }

    fn builder<'a>(&'a self, prologue: &'a [u8], rng: &mut ChaCha20Rng) -> Result<Builder<'a>, snow::Error> {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(seed.as_mut());
        let resolver = Box::new(Resolver(seed));
        let pattern = PATTERN.parse().expect("the pattern's name is fixed and known to the library");
        Builder::with_resolver(pattern, resolver).prologue(prologue)?.local_private_key(self.noise_secret.as_ref())
    }

    fn prologue(&self, scope: Scope) -> Vec<u8> {
        let mut prologue = b"atoll mesh v1".to_vec();
        prologue.extend_from_slice(&self.region.0);
        match scope {
            Scope::Link => prologue.push(0),
            Scope::EndToEnd { initiator, responder } => {
                prologue.push(1);
                prologue.extend_from_slice(&initiator.octets());
                prologue.extend_from_slice(&responder.octets());
            }
        }
        prologue
    }

    fn proof(&self, role: u8, hash: &[u8]) -> [u8; PROOF_BYTES] {
        let message = proof_message(role, self.region, &self.noise_public, self.epoch, hash);
        let mut proof = [0; PROOF_BYTES];
        proof[..32].copy_from_slice(&self.node.0);
        proof[32..40].copy_from_slice(&self.epoch.to_be_bytes());
        proof[40..].copy_from_slice(&self.secret.sign(PROOF_DOMAIN, &message));
        proof
    }
}

/// A handshake that waits for the second message.
pub(crate) struct Initiator {
    state: HandshakeState,
}

impl Initiator {
    /// Reads the second message. After a message that does not authenticate the handshake goes on waiting: anybody
    /// could have sent it. After one that does but proves no identity, only a new handshake helps.
    pub(crate) fn finish(
        &mut self,
        local: &Local,
        message: &[u8],
    ) -> Result<(Proven, Vec<u8>, RawKeys), HandshakeError> {
        let hash = self.state.get_handshake_hash().to_vec();
        let mut payload = [0; NOISE_2_BYTES];
        // The library restores its state when a message does not authenticate.
        let length = self.state.read_message(message, &mut payload).map_err(|_| HandshakeError)?;
        let proven = check(&self.state, local.region, RESPONDER, &hash, &payload[..length])?;
        let proof = local.proof(INITIATOR, self.state.get_handshake_hash());
        let mut answer = vec![0; NOISE_3_BYTES];
        let written = self.state.write_message(&proof, &mut answer).map_err(|_| HandshakeError)?;
        assert_eq!(written, NOISE_3_BYTES, "the pattern and the proof have fixed lengths");
        let (send, receive) = self.state.dangerously_get_raw_split();
        Ok((proven, answer, RawKeys { send: Zeroizing::new(send), receive: Zeroizing::new(receive) }))
    }
}

/// A handshake that waits for the third message.
pub(crate) struct Responder {
    state: HandshakeState,
}

impl Responder {
    /// Reads the third message. On failure the handshake goes on waiting.
    pub(crate) fn finish(&mut self, local: &Local, message: &[u8]) -> Result<(Proven, RawKeys), HandshakeError> {
        let hash = self.state.get_handshake_hash().to_vec();
        let mut payload = [0; NOISE_3_BYTES];
        let length = self.state.read_message(message, &mut payload).map_err(|_| HandshakeError)?;
        let proven = check(&self.state, local.region, INITIATOR, &hash, &payload[..length])?;
        let (receive, send) = self.state.dangerously_get_raw_split();
        Ok((proven, RawKeys { send: Zeroizing::new(send), receive: Zeroizing::new(receive) }))
    }
}

fn check(
    state: &HandshakeState,
    region: RegionId,
    role: u8,
    hash: &[u8],
    payload: &[u8],
) -> Result<Proven, HandshakeError> {
    let proof: &[u8; PROOF_BYTES] = payload.try_into().map_err(|_| HandshakeError)?;
    let (mut node, mut epoch, mut signature) = ([0; 32], [0; 8], [0; 64]);
    node.copy_from_slice(&proof[..32]);
    epoch.copy_from_slice(&proof[32..40]);
    signature.copy_from_slice(&proof[40..]);
    let (node, epoch) = (NodeId(node), u64::from_be_bytes(epoch));
    let remote_static = state.get_remote_static().ok_or(HandshakeError)?;
    let message = proof_message(role, region, remote_static, epoch, hash);
    if keys::verify(node, PROOF_DOMAIN, &message, &signature) {
        Ok(Proven { node, epoch })
    } else {
        Err(HandshakeError)
    }
}

fn proof_message(role: u8, region: RegionId, noise_public: &[u8], epoch: u64, hash: &[u8]) -> Vec<u8> {
    [&[role], region.0.as_slice(), noise_public, &epoch.to_be_bytes(), hash].concat()
}

/// The library's own primitives, but with randomness that the caller seeded.
struct Resolver(Zeroizing<[u8; 32]>);

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(SeededRandom(ChaCha20Rng::from_seed(*self.0))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

struct SeededRandom(ChaCha20Rng);

impl Random for SeededRandom {
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill_bytes(bytes);
        Ok(())
    }
}
