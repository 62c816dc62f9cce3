//! The responder's side of handshakes until they are done: a bounded table of half-open ones.

use std::collections::VecDeque;

use atoll_base::ids::domain_hash;
use rand_chacha::ChaCha20Rng;

use crate::{
    handshake::{HandshakeError, Local, Proven, Responder, Scope},
    limits::{ACCEPT_TIMEOUT, EARLY_FRAMES_MAX, PENDING_ACCEPTS_MAX},
    time::Time,
    transport::{RawKeys, Transport},
    wire::{Frame, RegionMac},
};

/// Half-open handshakes with peers that are told apart by `K` (an endpoint, or a network).
pub(crate) struct Acceptor<K> {
    pending: VecDeque<Pending<K>>,
}

struct Pending<K> {
    from: K,
    /// Hash of the first message: a repetition of it is answered with the same second message.
    first: [u8; 32],
    answer: Vec<u8>,
    responder: Responder,
    local_index: u32,
    remote_index: u32,
    began: Time,
    /// Data frames that overtook the third message.
    early: Vec<Vec<u8>>,
}

/// A handshake that is done.
pub(crate) struct Accepted<K> {
    pub(crate) from: K,
    pub(crate) proven: Proven,
    pub(crate) transport: Transport,
    /// Data frames that came before their time.
    pub(crate) early: Vec<Vec<u8>>,
}

impl<K: Copy + Eq> Acceptor<K> {
    pub(crate) const fn new() -> Self {
        Self { pending: VecDeque::new() }
    }

    /// Whether a half-open handshake owns this index.
    pub(crate) fn owns(&self, index: u32) -> bool {
        self.pending.iter().any(|pending| pending.local_index == index)
    }

    /// Keeps a data frame until its handshake is done; false if there is no such handshake.
    pub(crate) fn keep_early(&mut self, index: u32, frame: &[u8]) -> bool {
        let Some(pending) = self.pending.iter_mut().find(|pending| pending.local_index == index) else { return false };
        if pending.early.len() < EARLY_FRAMES_MAX {
            pending.early.push(frame.to_vec());
        }
        true
    }

    /// Answers a first message with the frame that is to be sent back.
    #[expect(clippy::too_many_arguments, reason = "the parts of one message and of this node")]
    pub(crate) fn answer(
        &mut self,
        local: &Local,
        mac: &RegionMac,
        rng: &mut ChaCha20Rng,
        scope: Scope,
        from: K,
        (sender, noise): (u32, &[u8]),
        fresh_index: u32,
        now: Time,
    ) -> Result<Vec<u8>, HandshakeError> {
        self.pending.retain(|pending| now.since(pending.began) < ACCEPT_TIMEOUT);
        let first = domain_hash("first", &[&sender.to_be_bytes(), noise]).0;
        if let Some(known) = self.pending.iter().find(|pending| pending.from == from && pending.first == first) {
            return Ok(known.answer.clone());
        }
        let (responder, second) = local.respond(scope, noise, rng)?;
        let answer = mac.build(&Frame::Response { sender: fresh_index, receiver: sender, noise: &second });
        if self.pending.len() >= PENDING_ACCEPTS_MAX {
            self.pending.pop_front();
        }
        self.pending.push_back(Pending {
            from,
            first,
            answer: answer.clone(),
            responder,
            local_index: fresh_index,
            remote_index: sender,
            began: now,
            early: Vec::new(),
        });
        Ok(answer)
    }

    /// Reads a third message. `None` if no half-open handshake has this index.
    pub(crate) fn finish(
        &mut self,
        local: &Local,
        index: u32,
        noise: &[u8],
        now: Time,
    ) -> Option<Result<Accepted<K>, HandshakeError>> {
        let at = self.pending.iter().position(|pending| pending.local_index == index)?;
        let pending = &mut self.pending[at];
        let (proven, keys): (Proven, RawKeys) = match pending.responder.finish(local, noise) {
            Ok(done) => done,
            Err(error) => return Some(Err(error)),
        };
        let transport = Transport::new(&keys, pending.local_index, pending.remote_index, false, now);
        let pending = self.pending.remove(at)?;
        Some(Ok(Accepted { from: pending.from, proven, transport, early: pending.early }))
    }
}
