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

use std::collections::VecDeque;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use zeroize::Zeroizing;

use crate::{
    Tuning,
    handshake::{FinishContents, HandshakeError, Initiator, InitiatorStep, Local, Proven, Scope, Sources},
    limits::{
        COOKIE_KEEP, HANDSHAKE_ANSWER_PAUSE, HANDSHAKE_RETRY, HANDSHAKE_RETRY_MAX, HANDSHAKE_TRIES_MAX, HINT_PAUSE,
        PREVIOUS_KEEP, PREVIOUS_KEYS_MAX, REFUSED_PAUSE, TWIN_KEEP,
    },
    time::Time,
    transport::{OpenError, Transport},
    wire::handshake::{
        Cookie, NOISE_1_BYTES, Part, RESPONSE_CONTENT_BYTES, RefuseReason, RegionMac, echo, refusal_tag,
    },
};

#[derive(Default)]
pub(crate) struct Channel {
    initiation: Option<Initiation>,
    next: Option<Unconfirmed>,
    current: Option<Transport>,
    /// Keys that still open late frames, the newest first, and since when. Two, because both ends may begin at once.
    previous: VecDeque<(Transport, Time)>,
    /// Who is at the other end of the current keys.
    peer: Option<Proven>,
    /// When something authentic came in last, under whichever keys.
    heard: Option<Time>,
    /// The peer said that it does not know the current keys (which it could not prove).
    is_doubted: bool,
    last_hint: Option<Time>,
    /// What the peer wants to see in first messages, and since when.
    cookie: Option<(Cookie, Time)>,
    /// One end refuses the other: no handshake of ours before this time.
    quiet_until: Option<Time>,
}

struct Initiation {
    state: Initiator,
    local_index: u32,
    tries: u32,
    sent: Time,
    /// When each part was sent last.
    sent_parts: [Time; 2],
}

struct Unconfirmed {
    transport: Transport,
    proven: Proven,
    finish: Vec<Vec<u8>>,
    /// By which the peer proves that a refusal is its own.
    refusal: Zeroizing<[u8; 16]>,
    tries: u32,
    sent: Time,
}

/// What a part of a second message led to.
pub(crate) enum Progress {
    /// The other part is missing; whose message it is, if that is known already.
    Wait(Option<Proven>),
    /// The handshake is done at this end; the third message is to be sent.
    Sent(Proven, Vec<Vec<u8>>),
}

/// What a frame was opened with.
pub(crate) struct Opened<T> {
    /// What was in it.
    pub(crate) content: T,
    /// Whether these keys just became the current ones.
    pub(crate) is_confirmed_now: bool,
}

impl Initiation {
    /// The parts of the first message that ask for what is missing.
    fn frames(&self, mac: &RegionMac, cookie: Option<&Cookie>) -> Vec<Vec<u8>> {
        let parts = self.state.missing().iter();
        parts.map(|part| mac.init(*part, self.local_index, self.state.first(), cookie)).collect()
    }
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
        let transports = [self.current.as_ref(), self.next.as_ref().map(|next| &next.transport)];
        let previous = self.previous.iter().map(|(transport, _)| transport);
        let initiation = self.initiation.as_ref().map(|initiation| initiation.local_index);
        transports.into_iter().flatten().chain(previous).map(Transport::local_index).chain(initiation)
    }

    /// Starts a handshake (a running one is replaced); the frames to send. None while one end refuses the other.
    pub(crate) fn start(
        &mut self,
        local: &Local,
        mac: &RegionMac,
        sources: &mut Sources,
        scope: Scope,
        local_index: u32,
        now: Time,
    ) -> Vec<Vec<u8>> {
        if self.quiet_until.is_some_and(|until| now < until) {
            return Vec::new();
        }
        let state = local.initiate(scope, local_index, sources);
        let initiation = Initiation { state, local_index, tries: 1, sent: now, sent_parts: [now; 2] };
        let frames = initiation.frames(mac, self.cookie(now).as_ref());
        self.initiation = Some(initiation);
        frames
    }

    /// Both ends started: whether this end lets the other's handshake win. The lower ephemeral key wins; both ends
    /// see the same two keys. (The same key twice is this node calling itself, which the handshake brings to light.)
    /// An attacker who forges a low key gains nothing, for the own handshake goes on all the same until another is
    /// complete.
    pub(crate) fn yields_to(&self, noise: &[u8; NOISE_1_BYTES]) -> bool {
        self.initiation.as_ref().is_none_or(|initiation| noise <= initiation.state.first())
    }

    /// The other end's first message lost against ours: remind it of ours.
    pub(crate) fn remind(&mut self, mac: &RegionMac, part: Part, now: Time) -> Option<Vec<u8>> {
        let cookie = self.cookie(now);
        let initiation = self.initiation.as_mut()?;
        // One part for each part of what the other end says, so that no answer is larger than what it answers.
        let sent = &mut initiation.sent_parts[usize::from(part.number())];
        if now.since(*sent) < HANDSHAKE_ANSWER_PAUSE {
            return None;
        }
        *sent = now;
        Some(mac.init(part, initiation.local_index, initiation.state.first(), cookie.as_ref()))
    }

    /// The responder wants proof that this end receives at its address: the frames that give it.
    pub(crate) fn handle_cookie(
        &mut self,
        mac: &RegionMac,
        (receiver, seen): (u32, [u8; 8]),
        cookie: Cookie,
        now: Time,
    ) -> Vec<Vec<u8>> {
        let old = self.cookie(now);
        let Some(initiation) = self.initiation.as_mut().filter(|initiation| initiation.local_index == receiver) else {
            return Vec::new();
        };
        // It must have seen what was sent, and a cookie that is used already brings nothing new.
        if initiation.frames(mac, old.as_ref()).iter().all(|frame| echo(frame) != seen) || old == Some(cookie) {
            return Vec::new();
        }
        self.cookie = Some((cookie, now));
        initiation.sent = now;
        initiation.frames(mac, Some(&cookie))
    }

    /// Reads a part of the second message of our handshake. If the node that it proves is not wanted, call
    /// [`Self::refuse`] instead of sending what comes out.
    pub(crate) fn handle_response(
        &mut self,
        (local, mac, sources): (&Local, &RegionMac, &mut Sources),
        (part, receiver): (Part, u32),
        content: &[u8; RESPONSE_CONTENT_BYTES],
        now: Time,
    ) -> Result<Progress, HandshakeError> {
        let initiation =
            self.initiation.as_mut().filter(|initiation| initiation.local_index == receiver).ok_or(HandshakeError)?;
        let InitiatorStep::Done { keys, remote_index, third } = initiation.state.read(local, sources, part, content)?
        else {
            return Ok(Progress::Wait(initiation.state.proven()));
        };
        self.initiation = None;
        let finish = finish_frames(mac, remote_index, &third);
        self.next = Some(Unconfirmed {
            transport: Transport::new(&keys.raw, receiver, remote_index, true, now),
            proven: keys.proven,
            finish: finish.clone(),
            refusal: keys.refusal,
            tries: 1,
            sent: now,
        });
        Ok(Progress::Sent(keys.proven, finish))
    }

    /// The peer refuses to talk to us after it knows who we are; who it is, if that is really its word.
    pub(crate) fn handle_refusal(
        &mut self,
        reason: RefuseReason,
        receiver: u32,
        tag: &[u8; 16],
        now: Time,
    ) -> Option<Proven> {
        let next = self.next.as_ref().filter(|next| next.transport.local_index() == receiver)?;
        let proven = next.proven;
        verify_slices_are_equal(&refusal_tag(&next.refusal, reason, receiver), tag).ok()?;
        self.refuse(now);
        Some(proven)
    }

    /// The handshake that is under way is given up.
    pub(crate) fn abandon(&mut self) {
        self.initiation = None;
        self.next = None;
    }

    /// One end does not want the other: handshakes of ours end, and rest for a while.
    pub(crate) fn refuse(&mut self, now: Time) {
        self.abandon();
        self.quiet_until = Some(now + REFUSED_PAUSE);
    }

    /// Handshakes may start again.
    pub(crate) fn end_pause(&mut self) {
        self.quiet_until = None;
    }

    /// Takes the keys of a handshake that the peer began and finished.
    pub(crate) fn accept(&mut self, transport: Transport, proven: Proven, now: Time) {
        self.initiation = None;
        self.quiet_until = None;
        self.heard = Some(now);
        self.promote(transport, proven, now);
    }

    /// Who is at the other end, as far as is proven and confirmed.
    pub(crate) const fn peer(&self) -> Option<Proven> {
        self.peer
    }

    /// Whether a process with the same identity as `other`, but started later, is alive at the other end.
    pub(crate) fn is_newer_twin_of(&self, other: &Proven, now: Time) -> bool {
        self.peer.is_some_and(|peer| peer.is_twin_of(other) && peer.epoch > other.epoch)
            && self.heard.is_some_and(|heard| now.since(heard) < TWIN_KEEP)
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
        let is_next = self.next.as_ref().is_some_and(|next| next.transport.local_index() == index);
        let next = self.next.iter_mut().map(|next| &mut next.transport);
        let previous = self.previous.iter_mut().map(|(transport, _)| transport);
        let mut transports = self.current.iter_mut().chain(next).chain(previous);
        let content = match open(transports.find(|transport| transport.local_index() == index)?) {
            Ok(content) => content,
            Err(error) => return Some(Err(error)),
        };
        self.heard = Some(now);
        if let Some(confirmed) = self.next.take_if(|_| is_next) {
            self.promote(confirmed.transport, confirmed.proven, now);
        }
        Some(Ok(Opened { content, is_confirmed_now: is_next }))
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
    pub(crate) fn handle_timeout(&mut self, mac: &RegionMac, now: Time) -> Vec<Vec<u8>> {
        self.previous.retain(|(_, since)| now.since(*since) < PREVIOUS_KEEP);
        if self.current.as_ref().is_some_and(|current| current.is_expired(now)) {
            self.current = None;
        }
        let cookie = self.cookie(now);
        if let Some(next) = &mut self.next
            && now >= next.sent + retry(next.tries)
        {
            if next.tries >= HANDSHAKE_TRIES_MAX {
                self.next = None;
                return Vec::new();
            }
            next.tries += 1;
            next.sent = now;
            return next.finish.clone();
        }
        if let Some(initiation) = &mut self.initiation
            && now >= initiation.sent + retry(initiation.tries)
        {
            if initiation.tries >= HANDSHAKE_TRIES_MAX {
                self.initiation = None;
                return Vec::new();
            }
            initiation.tries += 1;
            initiation.sent = now;
            initiation.sent_parts = [now; 2];
            return initiation.frames(mac, cookie.as_ref());
        }
        Vec::new()
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let next = self.next.as_ref().map(|next| next.sent + retry(next.tries));
        let initiation = self.initiation.as_ref().map(|initiation| initiation.sent + retry(initiation.tries));
        let previous = self.previous.back().map(|(_, since)| *since + PREVIOUS_KEEP);
        [next, initiation, previous].into_iter().flatten().min()
    }

    fn cookie(&self, now: Time) -> Option<Cookie> {
        self.cookie.filter(|(_, since)| now.since(*since) < COOKIE_KEEP).map(|(cookie, _)| cookie)
    }

    fn promote(&mut self, transport: Transport, proven: Proven, now: Time) {
        self.is_doubted = false;
        if let Some(old) = self.current.replace(transport) {
            self.previous.push_front((old, now));
            self.previous.truncate(PREVIOUS_KEYS_MAX);
        }
        if self.peer.replace(proven) != Some(proven) {
            // Another process than before: what its predecessor sent is not wanted any more.
            self.previous.clear();
        }
    }
}

fn finish_frames(mac: &RegionMac, remote_index: u32, third: &FinishContents) -> Vec<Vec<u8>> {
    Part::BOTH.iter().zip(third).map(|(part, content)| mac.finish(*part, remote_index, content)).collect()
}

fn retry(tries: u32) -> core::time::Duration {
    let doubled = HANDSHAKE_RETRY.saturating_mul(1 << tries.saturating_sub(1).min(8));
    doubled.min(HANDSHAKE_RETRY_MAX)
}
