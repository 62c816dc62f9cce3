//! The handshake: Noise XX for a classical key and the proof of identity, ML-KEM-768 in its payloads for a
//! post-quantum secret, and the derivation of the session's keys from both.
//!
//! ```text
//! initiator                                                        responder
//!    e  ──────────────────────────────────────────────────────────▶
//!    ◀── e, ee, s, es, { proof, index, KEM key (head), its hash }   KEM key (rest)
//!    s, se, { proof, ciphertext (head), its hash }   ciphertext (rest) ──▶
//! keys = HKDF(salt: Noise's chaining key, input: KEM secret, info: Noise's hash)
//! ```
//!
//! XX, because neither end knows the other's static key beforehand; what an initiator may know is the mesh address,
//! and that is checked against the identity which the handshake proves. The proof is the node's Ed25519 signature over
//! its role, its region, its static key, its epoch, the handshake hash so far and the hash of the KEM key or
//! ciphertext, so that it is fresh and bound to this very handshake. Why so: `docs/rfd/0007-hybrid-handshake.md`.
//!
//! The rest of a KEM key or ciphertext is checked by itself against the hash that its head brought sealed. So a forged
//! part is recognised and dropped, and never spoils the genuine one.

use atoll_base::{MeshAddr, NodeId, NodeSecret, RegionId, ids::domain_hash, keys};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{
    kem::{Decapsulate, KEM_CIPHERTEXT_BYTES, KEM_KEY_BYTES, Kem, KemSecret},
    noise::{self, KeyPair},
    secrets::Secrets,
    transport::RawKeys,
    wire::handshake::{
        FINISH_CONTENT_BYTES, KEM_CIPHERTEXT_HEAD_BYTES, KEM_KEY_HEAD_BYTES, NOISE_1_BYTES, PROOF_BYTES, Part,
        RESPONSE_CONTENT_BYTES,
    },
};

const PROOF_DOMAIN: &str = "atoll mesh handshake v2";
const KEM_KEY_DOMAIN: &str = "atoll mesh kem key v2";
const KEM_CIPHERTEXT_DOMAIN: &str = "atoll mesh kem ciphertext v2";
const KEYS_LABEL: &[u8] = b"atoll mesh keys v2";
const INITIATOR: u8 = 0;
const RESPONDER: u8 = 1;

/// Proof, index of the responder, head of the KEM key, hash of the whole.
const PAYLOAD_2_BYTES: usize = PROOF_BYTES + 4 + KEM_KEY_HEAD_BYTES + 32;
/// Proof, head of the ciphertext, hash of the whole.
const PAYLOAD_3_BYTES: usize = PROOF_BYTES + KEM_CIPHERTEXT_HEAD_BYTES + 32;

const _: () = assert!(noise::FIRST_BYTES == NOISE_1_BYTES);
const _: () = assert!(noise::SECOND_OVERHEAD_BYTES + PAYLOAD_2_BYTES == RESPONSE_CONTENT_BYTES);
const _: () = assert!(KEM_KEY_HEAD_BYTES + RESPONSE_CONTENT_BYTES == KEM_KEY_BYTES);
const _: () = assert!(noise::THIRD_OVERHEAD_BYTES + PAYLOAD_3_BYTES == FINISH_CONTENT_BYTES);
const _: () = assert!(KEM_CIPHERTEXT_HEAD_BYTES + FINISH_CONTENT_BYTES == KEM_CIPHERTEXT_BYTES);

/// Both parts of the second message.
pub(crate) type ResponseContents = [Box<[u8; RESPONSE_CONTENT_BYTES]>; 2];
/// Both parts of the third message.
pub(crate) type FinishContents = [Box<[u8; FINISH_CONTENT_BYTES]>; 2];

/// Between whom a handshake is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scope {
    /// Region of the other end.
    pub(crate) region: RegionId,
    pub(crate) ends: Ends,
}

/// What a handshake is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
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

/// Who this node is in every handshake.
pub(crate) struct Local {
    secret: NodeSecret,
    pub(crate) node: NodeId,
    pub(crate) region: RegionId,
    /// Differs after each restart, so that neighbours notice a restart.
    epoch: u64,
    own: KeyPair,
}

/// From what the secrets of a handshake are drawn.
pub(crate) struct Sources {
    pub(crate) secrets: Secrets,
    pub(crate) kem: Box<dyn Kem>,
}

/// Whom a handshake proved to be at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Proven {
    pub(crate) node: NodeId,
    pub(crate) epoch: u64,
    /// Its region: as it was agreed on beforehand.
    pub(crate) region: RegionId,
}

impl Proven {
    /// Where packets to it go.
    pub(crate) fn network(&self) -> MeshAddr {
        MeshAddr::of(self.region, self.node)
    }

    /// Whether this is the same identity in the same region, be it another process.
    pub(crate) fn is_twin_of(&self, other: &Self) -> bool {
        (self.node, self.region) == (other.node, other.region)
    }
}

/// What a finished handshake yields.
pub(crate) struct Keys {
    pub(crate) proven: Proven,
    pub(crate) raw: RawKeys,
    /// By which a responder proves that a refusal comes from itself.
    pub(crate) refusal: Zeroizing<[u8; 16]>,
}

/// A handshake message that is not what it should be. One kind, because the peer learns nothing of it and an operator
/// can do nothing about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the handshake message is forged, damaged or out of place")]
pub(crate) struct HandshakeError;

impl From<noise::Forged> for HandshakeError {
    fn from(_: noise::Forged) -> Self {
        Self
    }
}

impl From<crate::kem::KemError> for HandshakeError {
    fn from(_: crate::kem::KemError) -> Self {
        Self
    }
}

impl Local {
    pub(crate) fn new(secret: NodeSecret, region: RegionId, epoch: u64) -> Self {
        let own = KeyPair::new(&Zeroizing::new(secret.noise_static()));
        Self { node: secret.id(), secret, region, epoch, own }
    }

    /// Signs with the node's identity.
    pub(crate) fn sign(&self, domain: &str, message: &[u8]) -> [u8; 64] {
        self.secret.sign(domain, message)
    }

    /// Starts a handshake. The peer's frames will name `index`.
    pub(crate) fn initiate(&self, scope: Scope, index: u32, sources: &mut Sources) -> Initiator {
        let ephemeral = KeyPair::new(&sources.secrets.draw());
        Initiator {
            noise: noise::Initiator::new(&prologue(scope.ends, (self.region, scope.region), index), ephemeral),
            region: scope.region,
            progress: InitiatorProgress::Head { early: None },
        }
    }

    /// Answers the first message of the peer with this index. The peer's frames will name `index`.
    pub(crate) fn respond(
        &self,
        scope: Scope,
        (remote_index, message): (u32, &[u8; NOISE_1_BYTES]),
        index: u32,
        sources: &mut Sources,
    ) -> Result<(Responder, ResponseContents), HandshakeError> {
        let prologue = prologue(scope.ends, (scope.region, self.region), remote_index);
        let noise = noise::Responder::read_first(&prologue, message);
        let kem = sources.kem.generate()?;
        let (head, rest) = kem.public.split_at(KEM_KEY_HEAD_BYTES);
        let hash = domain_hash(KEM_KEY_DOMAIN, &[kem.public.as_slice()]).0;
        let proof = self.proof(RESPONDER, noise.hash(), &hash);
        let payload = [proof.as_slice(), &index.to_be_bytes(), head, &hash].concat();
        let (noise, second) = noise.write_second(&self.own, KeyPair::new(&sources.secrets.draw()), &payload)?;
        let progress = ResponderProgress::Head { noise, early: None };
        Ok((Responder { kem: kem.secret, region: scope.region, progress }, [boxed(&second)?, boxed(rest)?]))
    }

    fn proof(&self, role: u8, hash: &[u8; 32], kem_hash: &[u8; 32]) -> [u8; PROOF_BYTES] {
        let message = proof_message(role, self.region, self.own.public(), self.epoch, hash, kem_hash);
        let mut proof = [0; PROOF_BYTES];
        proof[..32].copy_from_slice(&self.node.0);
        proof[32..40].copy_from_slice(&self.epoch.to_be_bytes());
        proof[40..].copy_from_slice(&self.secret.sign(PROOF_DOMAIN, &message));
        proof
    }
}

/// What both ends take for granted; the regions are the initiator's and the responder's.
fn prologue(ends: Ends, (caller, called): (RegionId, RegionId), initiator_index: u32) -> Vec<u8> {
    let mut prologue = b"atoll mesh v2".to_vec();
    prologue.extend_from_slice(&called.0);
    prologue.extend_from_slice(&initiator_index.to_be_bytes());
    match ends {
        Ends::Link => prologue.push(0),
        Ends::EndToEnd { initiator, responder } => {
            prologue.push(1);
            prologue.extend_from_slice(&initiator.octets());
            prologue.extend_from_slice(&responder.octets());
        }
    }
    if caller != called {
        prologue.extend_from_slice(&caller.0);
    }
    prologue
}

/// A handshake that waits for the second message.
pub(crate) struct Initiator {
    noise: noise::Initiator,
    /// The responder's.
    region: RegionId,
    progress: InitiatorProgress,
}

enum InitiatorProgress {
    /// The head is missing. A rest that overtook it cannot be checked yet: only the latest is kept.
    Head { early: Option<Box<[u8; RESPONSE_CONTENT_BYTES]>> },
    /// The rest is missing.
    Rest(Box<HeadRead>),
}

struct HeadRead {
    noise: noise::InitiatorSecond,
    proven: Proven,
    remote_index: u32,
    kem_head: [u8; KEM_KEY_HEAD_BYTES],
    kem_hash: [u8; 32],
}

/// What a part of the second message led to.
pub(crate) enum InitiatorStep {
    /// The other part is missing.
    Wait,
    /// Everything is there.
    Done {
        keys: Keys,
        /// Index that frames to the responder must name.
        remote_index: u32,
        /// The third message.
        third: FinishContents,
    },
}

impl Initiator {
    /// The first message.
    pub(crate) fn first(&self) -> &[u8; NOISE_1_BYTES] {
        self.noise.first()
    }

    /// Which parts of the second message are still missing.
    pub(crate) fn missing(&self) -> &'static [Part] {
        match self.progress {
            InitiatorProgress::Head { early: None } => &Part::BOTH,
            InitiatorProgress::Head { early: Some(_) } => &[Part::Head],
            InitiatorProgress::Rest(_) => &[Part::Rest],
        }
    }

    /// Whom the head of the second message proved to be there.
    pub(crate) fn proven(&self) -> Option<Proven> {
        match &self.progress {
            InitiatorProgress::Head { .. } => None,
            InitiatorProgress::Rest(read) => Some(read.proven),
        }
    }

    /// Reads a part of the second message. After one that does not authenticate the handshake goes on waiting: anybody
    /// could have sent it.
    pub(crate) fn read(
        &mut self,
        local: &Local,
        sources: &mut Sources,
        part: Part,
        content: &[u8; RESPONSE_CONTENT_BYTES],
    ) -> Result<InitiatorStep, HandshakeError> {
        match (&mut self.progress, part) {
            (InitiatorProgress::Head { early }, Part::Rest) => {
                *early = Some(Box::new(*content));
                Ok(InitiatorStep::Wait)
            }
            (InitiatorProgress::Head { early }, Part::Head) => {
                let read = HeadRead::parse(&self.noise, self.region, content)?;
                let early = early.take();
                self.progress = InitiatorProgress::Rest(Box::new(read));
                // One that does not fit was forged; the genuine one is asked for again.
                Ok(early.and_then(|rest| self.finish(local, sources, &rest).ok()).unwrap_or(InitiatorStep::Wait))
            }
            (InitiatorProgress::Rest(_), Part::Head) => Ok(InitiatorStep::Wait),
            (InitiatorProgress::Rest(_), Part::Rest) => self.finish(local, sources, content),
        }
    }

    fn finish(
        &mut self,
        local: &Local,
        sources: &mut Sources,
        rest: &[u8; RESPONSE_CONTENT_BYTES],
    ) -> Result<InitiatorStep, HandshakeError> {
        let InitiatorProgress::Rest(read) = &self.progress else { return Err(HandshakeError) };
        let key: Box<[u8; KEM_KEY_BYTES]> = joined(&read.kem_head, rest)?;
        if domain_hash(KEM_KEY_DOMAIN, &[key.as_slice()]).0 != read.kem_hash {
            return Err(HandshakeError);
        }
        let (ciphertext, shared) = sources.kem.encapsulate(&key)?;
        let (head, rest) = ciphertext.split_at(KEM_CIPHERTEXT_HEAD_BYTES);
        let hash = domain_hash(KEM_CIPHERTEXT_DOMAIN, &[ciphertext.as_slice()]).0;
        let proof = local.proof(INITIATOR, read.noise.hash(), &hash);
        let payload = [proof.as_slice(), head, &hash].concat();
        let (third, finished) = read.noise.write_third(&local.own, &payload)?;
        Ok(InitiatorStep::Done {
            keys: derive(&finished, &shared, INITIATOR, read.proven),
            remote_index: read.remote_index,
            third: [boxed(&third)?, boxed(rest)?],
        })
    }
}

impl HeadRead {
    fn parse(
        noise: &noise::Initiator,
        region: RegionId,
        content: &[u8; RESPONSE_CONTENT_BYTES],
    ) -> Result<Self, HandshakeError> {
        let (second, payload) = noise.read_second(content)?;
        let payload: &[u8; PAYLOAD_2_BYTES] = payload.as_slice().try_into().map_err(|_| HandshakeError)?;
        let (proof, rest) = payload.split_first_chunk().ok_or(HandshakeError)?;
        let (index, rest) = rest.split_first_chunk().ok_or(HandshakeError)?;
        let (kem_head, rest) = rest.split_first_chunk().ok_or(HandshakeError)?;
        let kem_hash: &[u8; 32] = rest.try_into().map_err(|_| HandshakeError)?;
        let proven = check(region, RESPONDER, &second.remote_static, noise.hash(), kem_hash, proof)?;
        Ok(Self {
            noise: second,
            proven,
            remote_index: u32::from_be_bytes(*index),
            kem_head: *kem_head,
            kem_hash: *kem_hash,
        })
    }
}

/// A handshake that waits for the third message.
pub(crate) struct Responder {
    kem: Box<dyn Decapsulate>,
    /// The initiator's.
    region: RegionId,
    progress: ResponderProgress,
}

enum ResponderProgress {
    /// The head is missing. A rest that overtook it cannot be checked yet: only the latest is kept.
    Head { noise: noise::ResponderSecond, early: Option<Box<[u8; FINISH_CONTENT_BYTES]>> },
    /// The rest is missing.
    Rest(Box<ThirdRead>),
}

struct ThirdRead {
    finished: noise::Finished,
    proven: Proven,
    kem_head: [u8; KEM_CIPHERTEXT_HEAD_BYTES],
    kem_hash: [u8; 32],
}

impl Responder {
    /// Reads a part of the third message; the keys, if everything is there. On failure the handshake goes on waiting.
    pub(crate) fn read(
        &mut self,
        part: Part,
        content: &[u8; FINISH_CONTENT_BYTES],
    ) -> Result<Option<Keys>, HandshakeError> {
        match (&mut self.progress, part) {
            (ResponderProgress::Head { early, .. }, Part::Rest) => {
                *early = Some(Box::new(*content));
                Ok(None)
            }
            (ResponderProgress::Head { noise, early }, Part::Head) => {
                let read = ThirdRead::parse(noise, self.region, content)?;
                let early = early.take();
                self.progress = ResponderProgress::Rest(Box::new(read));
                Ok(early.and_then(|rest| self.finish(&rest).ok()))
            }
            (ResponderProgress::Rest(_), Part::Head) => Ok(None),
            (ResponderProgress::Rest(_), Part::Rest) => self.finish(content).map(Some),
        }
    }

    fn finish(&self, rest: &[u8; FINISH_CONTENT_BYTES]) -> Result<Keys, HandshakeError> {
        let ResponderProgress::Rest(read) = &self.progress else { return Err(HandshakeError) };
        let ciphertext: Box<[u8; KEM_CIPHERTEXT_BYTES]> = joined(&read.kem_head, rest)?;
        if domain_hash(KEM_CIPHERTEXT_DOMAIN, &[ciphertext.as_slice()]).0 != read.kem_hash {
            return Err(HandshakeError);
        }
        let shared = self.kem.decapsulate(&ciphertext)?;
        Ok(derive(&read.finished, &shared, RESPONDER, read.proven))
    }
}

impl ThirdRead {
    fn parse(
        noise: &noise::ResponderSecond,
        region: RegionId,
        content: &[u8; FINISH_CONTENT_BYTES],
    ) -> Result<Self, HandshakeError> {
        let (remote_static, payload, finished) = noise.read_third(content)?;
        let payload: &[u8; PAYLOAD_3_BYTES] = payload.as_slice().try_into().map_err(|_| HandshakeError)?;
        let (proof, rest) = payload.split_first_chunk().ok_or(HandshakeError)?;
        let (kem_head, rest) = rest.split_first_chunk().ok_or(HandshakeError)?;
        let kem_hash: &[u8; 32] = rest.try_into().map_err(|_| HandshakeError)?;
        let proven = check(region, INITIATOR, &remote_static, noise.hash(), kem_hash, proof)?;
        Ok(Self { finished, proven, kem_head: *kem_head, kem_hash: *kem_hash })
    }
}

/// HKDF-SHA-256 (RFC 5869) with the classical secret as salt and the post-quantum one as input: the output is secret if
/// either is. The hash binds it to everything that was said.
fn derive(finished: &noise::Finished, shared: &KemSecret, role: u8, proven: Proven) -> Keys {
    let mut output = Zeroizing::new([0; 80]);
    Hkdf::<Sha256>::new(Some(finished.chain.as_ref()), shared.as_ref())
        .expand_multi_info(&[KEYS_LABEL, &finished.hash], output.as_mut())
        .expect("80 bytes are within HKDF's bound");
    let mut keys = Keys {
        proven,
        raw: RawKeys { send: Zeroizing::default(), receive: Zeroizing::default() },
        refusal: Zeroizing::default(),
    };
    let (to_responder, rest) = output.split_at(32);
    let (to_initiator, refusal) = rest.split_at(32);
    let (send, receive) = if role == INITIATOR { (to_responder, to_initiator) } else { (to_initiator, to_responder) };
    keys.raw.send.copy_from_slice(send);
    keys.raw.receive.copy_from_slice(receive);
    keys.refusal.copy_from_slice(refusal);
    keys
}

fn check(
    region: RegionId,
    role: u8,
    remote_static: &[u8; 32],
    hash: &[u8; 32],
    kem_hash: &[u8; 32],
    proof: &[u8; PROOF_BYTES],
) -> Result<Proven, HandshakeError> {
    let (node, rest) = proof.split_first_chunk().ok_or(HandshakeError)?;
    let (epoch, signature) = rest.split_first_chunk().ok_or(HandshakeError)?;
    let signature: &[u8; 64] = signature.try_into().map_err(|_| HandshakeError)?;
    let (node, epoch) = (NodeId(*node), u64::from_be_bytes(*epoch));
    let message = proof_message(role, region, remote_static, epoch, hash, kem_hash);
    if keys::verify(node, PROOF_DOMAIN, &message, signature) {
        Ok(Proven { node, epoch, region })
    } else {
        Err(HandshakeError)
    }
}

fn proof_message(
    role: u8,
    region: RegionId,
    noise_public: &[u8; 32],
    epoch: u64,
    hash: &[u8; 32],
    kem_hash: &[u8; 32],
) -> Vec<u8> {
    [&[role], region.0.as_slice(), noise_public, &epoch.to_be_bytes(), hash, kem_hash].concat()
}

fn boxed<const N: usize>(bytes: &[u8]) -> Result<Box<[u8; N]>, HandshakeError> {
    Box::<[u8]>::from(bytes).try_into().map_err(|_| HandshakeError)
}

fn joined<const N: usize>(head: &[u8], rest: &[u8]) -> Result<Box<[u8; N]>, HandshakeError> {
    [head, rest].concat().into_boxed_slice().try_into().map_err(|_| HandshakeError)
}

#[cfg(test)]
mod tests;
