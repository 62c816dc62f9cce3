//! A secure channel to one peer over its whole life: handshakes as initiator, keys in use, keys to come, keys that go.
//!
//! ```text
//!            start                  second message               first frame under the new keys
//!   (none) ────────▶ initiation ─────────────────▶ next ─────────────────────────────────────▶ current ──▶ previous
//!                                                        third message of the peer (accept) ──▶ current ──▶ previous
//! ```
//!
//! While `next` is unconfirmed, an existing `current` goes on being used, so that a rekey loses nothing: the peer
//! opens frames under all of its keys. Both ends starting at once is settled by the ephemeral keys (see
//! [`Channel::yields_to`]). Links and end-to-end sessions use the same channel.

use rand_chacha::ChaCha20Rng;

use crate::{
    Tuning,
    handshake::{HandshakeError, Initiator, Local, Proven, Scope},
    limits::{
        HANDSHAKE_ANSWER_PAUSE, HANDSHAKE_RETRY, HANDSHAKE_RETRY_MAX, HANDSHAKE_TRIES_MAX, HINT_PAUSE, PREVIOUS_KEEP,
    },
    time::Time,
    transport::{OpenError, Transport},
    wire::{Frame, NOISE_1_BYTES, RegionMac},
};

#[derive(Default)]
pub(crate) struct Channel {
    initiation: Option<Initiation>,
    next: Option<Unconfirmed>,
    current: Option<Transport>,
    previous: Option<(Transport, Time)>,
    /// The peer said that it does not know the current keys (which it could not prove).
    is_doubted: bool,
    last_hint: Option<Time>,
}

struct Initiation {
    state: Initiator,
    noise: [u8; NOISE_1_BYTES],
    frame: Vec<u8>,
    local_index: u32,
    tries: u32,
    sent: Time,
}

struct Unconfirmed {
    transport: Transport,
    finish: Vec<u8>,
    tries: u32,
    sent: Time,
}

/// What a frame was opened with.
pub(crate) struct Opened<T> {
    /// What was in it.
    pub(crate) content: T,
    /// Whether these keys just became the current ones.
    pub(crate) is_confirmed_now: bool,
}

impl Channel {
    /// Whether anything can be sealed now.
    pub(crate) fn can_send(&self, now: Time) -> bool {
        [self.current.as_ref(), self.next.as_ref().map(|next| &next.transport)]
            .into_iter()
            .flatten()
            .any(|transport| !transport.is_expired(now))
    }

    /// The keys for sending.
    pub(crate) fn sender(&mut self, now: Time) -> Option<&mut Transport> {
        let next = self.next.as_mut().map(|next| &mut next.transport);
        match (self.current.as_mut().filter(|current| !current.is_expired(now)), next) {
            (Some(_), Some(next)) if self.is_doubted => Some(next),
            (Some(current), _) => Some(current),
            (None, next) => next,
        }
    }

    /// Whether a handshake of ours is under way.
    pub(crate) const fn is_handshaking(&self) -> bool {
        self.initiation.is_some() || self.next.is_some()
    }

    /// Whether new keys are due.
    pub(crate) fn wants_rekey(&self, tuning: &Tuning, now: Time) -> bool {
        !self.is_handshaking() && self.current.as_ref().is_none_or(|current| current.wants_rekey(tuning, now))
    }

    /// When the current keys were made.
    pub(crate) fn established(&self) -> Option<Time> {
        self.current.as_ref().or(self.next.as_ref().map(|next| &next.transport)).map(Transport::created)
    }

    /// Indices under which the peer may send to this channel.
    pub(crate) fn indices(&self) -> impl Iterator<Item = u32> {
        let transports = [
            self.current.as_ref(),
            self.next.as_ref().map(|next| &next.transport),
            self.previous.as_ref().map(|(transport, _)| transport),
        ];
        let initiation = self.initiation.as_ref().map(|initiation| initiation.local_index);
        transports.into_iter().flatten().map(Transport::local_index).chain(initiation)
    }

    /// Starts a handshake (a running one is replaced); the frame to send.
    pub(crate) fn start(
        &mut self,
        local: &Local,
        mac: &RegionMac,
        rng: &mut ChaCha20Rng,
        scope: Scope,
        local_index: u32,
        now: Time,
    ) -> Vec<u8> {
        let (state, noise) = local.initiate(scope, rng);
        let frame = mac.build(&Frame::Init { sender: local_index, noise: &noise });
        self.initiation = Some(Initiation { state, noise, frame: frame.clone(), local_index, tries: 1, sent: now });
        frame
    }

    /// Both ends started: whether this end lets the other's handshake win. The lower ephemeral key wins; both ends
    /// see the same two keys. (The same key twice is this node calling itself, which the handshake brings to light.) An attacker who forges a low key gains nothing, for the own handshake goes on all the
    /// same until another is complete.
    pub(crate) fn yields_to(&self, noise: &[u8]) -> bool {
        self.initiation.as_ref().is_none_or(|initiation| noise <= initiation.noise.as_slice())
    }

    /// The other end's first message lost against ours: remind it of ours.
    pub(crate) fn remind(&mut self, now: Time) -> Option<Vec<u8>> {
        let initiation = self.initiation.as_mut()?;
        if now.since(initiation.sent) < HANDSHAKE_ANSWER_PAUSE {
            return None;
        }
        initiation.sent = now;
        Some(initiation.frame.clone())
    }

    /// Reads the second message of our handshake; on success also the third, to be sent.
    pub(crate) fn handle_response(
        &mut self,
        local: &Local,
        mac: &RegionMac,
        (sender, receiver, noise): (u32, u32, &[u8]),
        expect: impl FnOnce(&Proven) -> bool,
        now: Time,
    ) -> Result<(Proven, Vec<u8>), HandshakeError> {
        let initiation =
            self.initiation.as_mut().filter(|initiation| initiation.local_index == receiver).ok_or(HandshakeError)?;
        let (proven, third, keys) = initiation.state.finish(local, noise)?;
        self.initiation = None;
        if !expect(&proven) {
            return Err(HandshakeError);
        }
        let transport = Transport::new(&keys, receiver, sender, true, now);
        let finish = mac.build(&Frame::Finish { receiver: sender, noise: &third });
        self.next = Some(Unconfirmed { transport, finish: finish.clone(), tries: 1, sent: now });
        Ok((proven, finish))
    }

    /// Takes the keys of a handshake that the peer began and finished.
    pub(crate) fn accept(&mut self, transport: Transport, now: Time) {
        self.initiation = None;
        self.promote(transport, now);
    }

    /// The peer repeats its third message: whether it should be told that the keys work.
    pub(crate) fn awaits_confirmation(&self, index: u32) -> bool {
        self.current.as_ref().is_some_and(|current| current.local_index() == index && !current.has_heard())
    }

    /// Opens a frame by the keys with this index; nothing if there are none.
    pub(crate) fn open<T>(
        &mut self,
        index: u32,
        now: Time,
        open: impl FnOnce(&mut Transport) -> Result<T, OpenError>,
    ) -> Option<Result<Opened<T>, OpenError>> {
        let is_current = |transport: &&mut Transport| transport.local_index() == index;
        if let Some(transport) = self.current.as_mut().filter(is_current) {
            return Some(open(transport).map(|content| Opened { content, is_confirmed_now: false }));
        }
        if let Some(next) = self.next.as_mut().filter(|next| next.transport.local_index() == index) {
            let content = match open(&mut next.transport) {
                Ok(content) => content,
                Err(error) => return Some(Err(error)),
            };
            let confirmed = self.next.take().map(|next| next.transport)?;
            self.promote(confirmed, now);
            return Some(Ok(Opened { content, is_confirmed_now: true }));
        }
        let transport = self.previous.as_mut().map(|(transport, _)| transport).filter(is_current)?;
        Some(open(transport).map(|content| Opened { content, is_confirmed_now: false }))
    }

    /// The peer hints that it does not know the keys with this index; whether a handshake should start now.
    pub(crate) fn handle_hint(&mut self, index: u32, now: Time) -> bool {
        if self.current.as_ref().is_none_or(|current| current.remote_index() != index)
            || self.last_hint.is_some_and(|last| now.since(last) < HINT_PAUSE)
        {
            return false;
        }
        self.last_hint = Some(now);
        self.is_doubted = true;
        !self.is_handshaking()
    }

    /// Frames that are due for repetition. A handshake that was tried often enough is dropped.
    pub(crate) fn handle_timeout(&mut self, now: Time) -> Option<Vec<u8>> {
        if self.previous.as_ref().is_some_and(|(_, since)| now.since(*since) >= PREVIOUS_KEEP) {
            self.previous = None;
        }
        if self.current.as_ref().is_some_and(|current| current.is_expired(now)) {
            self.current = None;
        }
        if let Some(next) = &mut self.next
            && now >= next.sent + retry(next.tries)
        {
            if next.tries >= HANDSHAKE_TRIES_MAX {
                self.next = None;
                return None;
            }
            next.tries += 1;
            next.sent = now;
            return Some(next.finish.clone());
        }
        if let Some(initiation) = &mut self.initiation
            && now >= initiation.sent + retry(initiation.tries)
        {
            if initiation.tries >= HANDSHAKE_TRIES_MAX {
                self.initiation = None;
                return None;
            }
            initiation.tries += 1;
            initiation.sent = now;
            return Some(initiation.frame.clone());
        }
        None
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let next = self.next.as_ref().map(|next| next.sent + retry(next.tries));
        let initiation = self.initiation.as_ref().map(|initiation| initiation.sent + retry(initiation.tries));
        let previous = self.previous.as_ref().map(|(_, since)| *since + PREVIOUS_KEEP);
        [next, initiation, previous].into_iter().flatten().min()
    }

    fn promote(&mut self, transport: Transport, now: Time) {
        self.is_doubted = false;
        self.previous = self.current.replace(transport).map(|old| (old, now));
    }
}

fn retry(tries: u32) -> core::time::Duration {
    let doubled = HANDSHAKE_RETRY.saturating_mul(1 << tries.saturating_sub(1).min(8));
    doubled.min(HANDSHAKE_RETRY_MAX)
}
