//! The responder's side of handshakes until they are done: bounded tables of half-open ones.
//!
//! A caller that nobody knows is served as long as there are few of them (table *strangers*). Beyond that it is asked
//! for a cookie, for which nothing is kept, and with it comes into a table of its own (*proven*), which forged addresses
//! never reach. Half-open handshakes of strangers are never pushed out by others, only by time.

use std::collections::VecDeque;

use atoll_base::ids::domain_hash;

use crate::{
    cookie::{Caller, CookieJar},
    handshake::{HandshakeError, Keys, Local, Responder, ResponseContents, Scope, Sources},
    limits::{
        ACCEPT_TIMEOUT, EARLY_FRAMES_MAX, FINISHED_HANDSHAKES_MAX, PENDING_PER_SOURCE_MAX, PENDING_PROVEN_MAX,
        PENDING_STRANGERS_MAX, PROVEN_PER_SECOND_MAX, PROVEN_PER_SOURCE_AND_SECOND_MAX, PROVEN_PER_SOURCE_BURST,
        STRANGERS_PER_SECOND_MAX,
    },
    rate::{RateLimit, SourceRates},
    secrets::Secrets,
    time::Time,
    transport::Transport,
    wire::handshake::{FINISH_CONTENT_BYTES, Init, Part, RegionMac},
};

/// Half-open handshakes with peers that are told apart by `K` (an endpoint, or a network).
pub(crate) struct Acceptor<K> {
    strangers: VecDeque<Pending<K>>,
    proven: VecDeque<Pending<K>>,
    /// First messages of handshakes that were finished.
    finished: VecDeque<[u8; 32]>,
    jar: CookieJar,
    strangers_rate: RateLimit,
    proven_rate: RateLimit,
    source_rates: SourceRates,
}

struct Pending<K> {
    from: K,
    /// Hash of the first message: a repetition of it is answered with the same second message.
    first: [u8; 32],
    answer: ResponseContents,
    responder: Responder,
    local_index: u32,
    remote_index: u32,
    began: Time,
    /// Data frames that overtook the third message.
    early: Vec<Vec<u8>>,
}

/// How a first message is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// With a part of the second message.
    Response,
    /// With the demand for a cookie.
    Cookie,
}

/// Why a first message is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// It came again after its handshake was finished.
    Replayed,
    /// There are too many, of this address or of all.
    TooMany,
    /// It is not what it should be.
    Forged,
}

/// A handshake that is done.
pub(crate) struct Accepted<K> {
    pub(crate) from: K,
    pub(crate) keys: Keys,
    pub(crate) transport: Transport,
    pub(crate) remote_index: u32,
    /// Data frames that came before their time.
    pub(crate) early: Vec<Vec<u8>>,
}

/// This node, as a responder.
pub(crate) struct Host<'a> {
    pub(crate) local: &'a Local,
    /// For frames to the caller.
    pub(crate) mac: &'a RegionMac,
    pub(crate) sources: &'a mut Sources,
    /// An index that nobody uses.
    pub(crate) fresh_index: u32,
}

impl<K: Caller> Acceptor<K> {
    pub(crate) fn new(secrets: &mut Secrets, now: Time) -> Self {
        let jar = CookieJar::new(secrets, now);
        let mut keys = [[0; 16]; 2];
        for key in &mut keys {
            key.copy_from_slice(&secrets.draw()[..16]);
        }
        Self {
            strangers: VecDeque::new(),
            proven: VecDeque::new(),
            finished: VecDeque::new(),
            jar,
            strangers_rate: RateLimit::new(STRANGERS_PER_SECOND_MAX, now),
            proven_rate: RateLimit::new(PROVEN_PER_SECOND_MAX, now),
            source_rates: SourceRates::new(PROVEN_PER_SOURCE_AND_SECOND_MAX, PROVEN_PER_SOURCE_BURST, keys),
        }
    }

    /// Whether a half-open handshake owns this index.
    pub(crate) fn owns(&self, index: u32) -> bool {
        self.all().any(|pending| pending.local_index == index)
    }

    /// How many handshakes are half open: of strangers, and of callers that have proven their address.
    pub(crate) fn half_open(&self) -> (usize, usize) {
        (self.strangers.len(), self.proven.len())
    }

    /// Keeps a data frame until its handshake is done; false if there is no such handshake.
    pub(crate) fn keep_early(&mut self, index: u32, frame: &[u8]) -> bool {
        let mut all = self.strangers.iter_mut().chain(&mut self.proven);
        let Some(pending) = all.find(|pending| pending.local_index == index) else { return false };
        if pending.early.len() < EARLY_FRAMES_MAX {
            pending.early.push(frame.to_vec());
        }
        true
    }

    /// Answers a first message: how, and with which frame.
    pub(crate) fn answer(
        &mut self,
        host: Host<'_>,
        scope: Scope,
        from: K,
        init: &Init<'_>,
        now: Time,
    ) -> Result<(Answer, Vec<u8>), Dropped> {
        for table in [&mut self.strangers, &mut self.proven] {
            while table.front().is_some_and(|oldest| now.since(oldest.began) >= ACCEPT_TIMEOUT) {
                table.pop_front();
            }
        }
        let first = domain_hash("first", &[&init.sender.to_be_bytes(), init.noise]).0;
        if let Some(known) = self.all().find(|pending| pending.first == first && pending.from == from) {
            return Ok((Answer::Response, known.response(host.mac, init.part)));
        }
        if self.finished.contains(&first) {
            return Err(Dropped::Replayed);
        }
        let secrets = &mut host.sources.secrets;
        let is_proven = self.jar.accepts(&from, init, secrets, now);
        if !is_proven && (self.strangers.len() >= PENDING_STRANGERS_MAX || !self.has_room(&from, now)) {
            let cookie = self.jar.cookie(&from, secrets, now);
            return Ok((Answer::Cookie, host.mac.cookie(init.sender, init.echo(), &cookie)));
        }
        if is_proven && !self.admits(&from, now) {
            return Err(Dropped::TooMany);
        }
        let message = (init.sender, init.noise);
        let (responder, answer) = host
            .local
            .respond(scope, message, host.fresh_index, host.sources)
            .map_err(|HandshakeError| Dropped::Forged)?;
        let pending = Pending {
            from,
            first,
            answer,
            responder,
            local_index: host.fresh_index,
            remote_index: init.sender,
            began: now,
            early: Vec::new(),
        };
        let frame = pending.response(host.mac, init.part);
        if is_proven {
            if self.proven.len() >= PENDING_PROVEN_MAX {
                self.proven.pop_front();
            }
            self.proven.push_back(pending);
        } else {
            self.strangers.push_back(pending);
        }
        Ok((Answer::Response, frame))
    }

    /// Reads a part of a third message. `None` if no half-open handshake has this index, or the other part is missing.
    pub(crate) fn finish(
        &mut self,
        (index, part): (u32, Part),
        content: &[u8; FINISH_CONTENT_BYTES],
        now: Time,
    ) -> Option<Result<Accepted<K>, HandshakeError>> {
        let (table, at) = [&mut self.strangers, &mut self.proven]
            .into_iter()
            .find_map(|table| table.iter().position(|pending| pending.local_index == index).map(|at| (table, at)))?;
        let keys = match table[at].responder.read(part, content).transpose()? {
            Ok(keys) => keys,
            Err(error) => return Some(Err(error)),
        };
        let pending = table.remove(at)?;
        if self.finished.len() >= FINISHED_HANDSHAKES_MAX {
            self.finished.pop_front();
        }
        self.finished.push_back(pending.first);
        let transport = Transport::new(&keys.raw, pending.local_index, pending.remote_index, false, now);
        let Pending { from, early, remote_index, .. } = pending;
        Some(Ok(Accepted { from, keys, transport, remote_index, early }))
    }

    fn all(&self) -> impl Iterator<Item = &Pending<K>> {
        self.strangers.iter().chain(&self.proven)
    }

    /// Whether a stranger may still be served without a cookie.
    fn has_room(&mut self, from: &K, now: Time) -> bool {
        let same = self.strangers.iter().filter(|pending| pending.from.group() == from.group()).count();
        same < PENDING_PER_SOURCE_MAX && self.strangers_rate.allow(now)
    }

    /// Whether a caller with a cookie may begin one more.
    fn admits(&mut self, from: &K, now: Time) -> bool {
        let same = self.proven.iter().filter(|pending| pending.from.group() == from.group()).count();
        same < PENDING_PER_SOURCE_MAX && self.source_rates.allow(&from.group(), now) && self.proven_rate.allow(now)
    }
}

impl<K> Pending<K> {
    fn response(&self, mac: &RegionMac, part: Part) -> Vec<u8> {
        mac.response(part, self.remote_index, &self.answer[usize::from(part.number())])
    }
}
