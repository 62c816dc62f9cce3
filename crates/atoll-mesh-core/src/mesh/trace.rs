//! The way that packets take: who is told where one ran out of hops, and probes that do so on purpose.
//!
//! ```text
//!  sender ── record, hop limit 2 ──▶ relay 1 ── hop limit 1 ──▶ relay 2: nothing left
//!     ▲                                                             │
//!     └──────────── expired: index and counter of that record, signed by relay 2
//! ```
//!
//! A relay cannot quote a packet that it cannot read, but the record's index and counter name it to its sender, who
//! kept a note. A packet of the TUN device becomes the ICMPv6 error that any router sends (RFC 4443 section 3.3); a
//! probe becomes [`Event::Answered`]. Who is not on the way does not know index and counter, and cannot answer.

use std::{collections::VecDeque, net::Ipv6Addr};

use atoll_base::{MeshAddr, NodeId, keys::verify};
use rand_chacha::rand_core::Rng as _;

use super::{Event, Mesh};
use crate::{
    announce::Target,
    limits::{HOP_LIMIT, TRACE_ANSWERS_PER_SECOND_MAX, TRACE_HOPS_MAX, TRACE_NOTES_MAX, TRACE_QUOTE_BYTES},
    offload::complete_checksum,
    packet,
    rate::RateLimit,
    time::Time,
    wire::data::{Body, EXPIRED_BYTES, OVERHEAD_BYTES, RECORD_AT, Steering},
};

const DOMAIN: &str = "atoll mesh hop limit v1";
const SIGNATURE_BYTES: usize = EXPIRED_BYTES - RECORD_AT;
/// First byte of a message: a probe, which is to be answered.
const MESSAGE_PROBE: u8 = 4;
/// First byte of a message: the answer.
const MESSAGE_ANSWER: u8 = 5;
/// Length of either: the frame is as long as what a relay may have to say of it.
const PROBE_BYTES: usize = EXPIRED_BYTES - OVERHEAD_BYTES;
const TOKEN_AT: usize = 1;

/// Why a probe was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The target is this node itself.
    #[error("that is this node itself")]
    Own,
    /// The target lies outside of the mesh.
    #[error("that is no address of this region's mesh")]
    Outside,
    /// Nobody knows a way.
    #[error("no way to that node is known")]
    NoRoute,
    /// There are no keys yet; a handshake for them is under way.
    #[error("that node does not answer the handshake")]
    NoKeys,
}

/// What is kept for traces.
pub(super) struct Traces {
    /// What was sent and may run out of hops, oldest first.
    notes: VecDeque<Note>,
    expiry_rate: RateLimit,
    answer_rate: RateLimit,
}

/// A record that was sent and may run out of hops.
struct Note {
    target: MeshAddr,
    receiver: u32,
    counter: u64,
    sent: Time,
    about: About,
}

enum About {
    /// A packet: its sender, and its beginning.
    Packet(Ipv6Addr, Vec<u8>),
    /// A probe with this number.
    Probe(u64),
}

impl Traces {
    pub(super) const fn new(now: Time) -> Self {
        Self {
            notes: VecDeque::new(),
            expiry_rate: RateLimit::new(TRACE_ANSWERS_PER_SECOND_MAX, now),
            answer_rate: RateLimit::new(TRACE_ANSWERS_PER_SECOND_MAX, now),
        }
    }

    #[cfg(test)]
    pub(super) fn notes(&self) -> usize {
        self.notes.len()
    }

    /// What a relay saw of the newest record of which there is a note.
    #[cfg(test)]
    pub(super) fn last_noted(&self, source: MeshAddr, target: MeshAddr) -> Steering {
        let Note { receiver, counter, .. } = *self.notes.back().expect("there is one");
        let body = Body::Sealed(crate::wire::data::Cipher::Aes256Gcm);
        Steering { hop_limit: 1, ecn: 0, flow: 0, body, source, target, receiver, counter }
    }

    fn note(&mut self, note: Note) {
        if self.notes.len() >= TRACE_NOTES_MAX {
            self.notes.pop_front();
        }
        self.notes.push_back(note);
    }
}

impl Mesh {
    /// Sends a probe to the node of an address, which may take so many links. Whoever gets it last answers, if it
    /// likes to: [`Event::Answered`] has the number that this returns.
    pub fn probe(&mut self, target: Ipv6Addr, hop_limit: u8, now: Time) -> Result<u64, ProbeError> {
        let network = MeshAddr::containing(target);
        if network == self.network {
            return Err(ProbeError::Own);
        }
        if self.router.route(network).is_none() {
            return Err(if self.prefix.contains(target) { ProbeError::NoRoute } else { ProbeError::Outside });
        }
        let remote = self.remote(network, now).ok_or(ProbeError::NoKeys)?;
        if !remote.channel.can_send(now) {
            if !remote.channel.is_handshaking() {
                self.start_remote_handshake(network, now);
            }
            return Err(ProbeError::NoKeys);
        }
        let probe = self.rng.next_u64();
        let (receiver, counter) =
            self.send_message(network, &message(MESSAGE_PROBE, probe), hop_limit, now).ok_or(ProbeError::NoKeys)?;
        self.traces.note(Note { target: network, receiver, counter, sent: now, about: About::Probe(probe) });
        Ok(probe)
    }

    /// How many links the way to the node of an address has, as its announcement says; to a node of another region, the
    /// way to its border.
    pub fn links_to(&self, target: Ipv6Addr) -> Option<u8> {
        self.router.route(MeshAddr::containing(target)).map(|route| route.hops)
    }

    /// Keeps a note of a packet that may run out of hops.
    pub(super) fn note_packet(
        &mut self,
        (receiver, counter): (u32, u64),
        target: MeshAddr,
        packet: &[u8],
        partial_checksum: bool,
        now: Time,
    ) {
        if packet::hop_limit(packet) > TRACE_HOPS_MAX {
            return;
        }
        let Some(sender) = packet::who_may_be_told(packet) else { return };
        let mut quote = packet.to_vec();
        if partial_checksum {
            complete_checksum(&mut quote);
        }
        quote.truncate(TRACE_QUOTE_BYTES);
        self.traces.note(Note { target, receiver, counter, sent: now, about: About::Packet(sender, quote) });
    }

    /// Tells the sender of a frame that it ran out of hops here. What is told is never longer than the frame.
    pub(super) fn tell_expired(&mut self, steering: &Steering, frame_bytes: usize, now: Time) {
        let is_record = matches!(steering.body, Body::Sealed(_));
        if !is_record
            || frame_bytes < EXPIRED_BYTES
            || self.router.route(steering.source).is_none()
            || !self.traces.expiry_rate.allow(now)
        {
            return;
        }
        let signature = self.sign_expired(steering, self.network);
        let Steering { source, receiver, counter, .. } = *steering;
        let answer = Steering {
            hop_limit: HOP_LIMIT,
            ecn: 0,
            flow: 0,
            body: Body::Expired,
            source: self.network,
            target: source,
            receiver,
            counter,
        };
        self.counters.expiries_told += u64::from(self.send_steered(&answer, &signature, now));
    }

    pub(super) fn sign_expired(&self, record: &Steering, relay: MeshAddr) -> [u8; SIGNATURE_BYTES] {
        self.local.sign(DOMAIN, &self.expired(record, relay))
    }

    /// What a relay signs of a record that ran out of hops there.
    fn expired(&self, record: &Steering, relay: MeshAddr) -> Vec<u8> {
        let Steering { source, target, receiver, counter, .. } = record;
        let networks = [relay.octets(), source.octets(), target.octets()].concat();
        [&self.local.region.0, networks.as_slice(), &receiver.to_be_bytes(), &counter.to_be_bytes()].concat()
    }

    /// Takes what a relay says of a record of this node.
    pub(super) fn handle_expired(&mut self, steering: &Steering, contents: &[u8], now: Time) {
        let Ok(signature) = <&[u8; SIGNATURE_BYTES]>::try_from(contents) else {
            return self.counters.dropped_malformed += 1;
        };
        let Steering { source: relay, receiver, counter, .. } = *steering;
        let is_meant = |note: &Note| (note.receiver, note.counter) == (receiver, counter);
        let found = self.traces.notes.iter().position(is_meant).and_then(|at| self.traces.notes.remove(at));
        let Some(note) = found else { return self.counters.dropped_unknown_session += 1 };
        let record = Steering { source: self.network, target: note.target, ..*steering };
        let node = self.node_of(relay);
        if node.is_some_and(|node| !verify(node, DOMAIN, &self.expired(&record, relay), signature)) {
            return self.counters.dropped_forged += 1;
        }
        match note.about {
            About::Packet(sender, quote) => {
                self.deliver_error(packet::time_exceeded(relay.node(), sender, &quote), now);
            }
            About::Probe(probe) => {
                let round_trip = now.since(note.sent);
                self.event(Event::Answered { probe, network: relay, node, is_target: false, round_trip });
            }
        }
    }

    /// Who has a network, if its announcement or its keys have proven that.
    fn node_of(&self, network: MeshAddr) -> Option<NodeId> {
        let announced = self.router.route_to(Target::Node(network)).map(|route| route.announcement.node);
        announced.or_else(|| self.remotes.get(&network)?.node)
    }

    /// Takes a message of a far node in a record.
    pub(super) fn handle_message(&mut self, source: MeshAddr, bytes: &[u8], now: Time) {
        let Some((&kind @ (MESSAGE_PROBE | MESSAGE_ANSWER), rest)) = bytes.split_first() else {
            return self.handle_punch_message(source, bytes, now);
        };
        let Some(token) = rest.first_chunk().filter(|_| bytes.len() == PROBE_BYTES) else {
            return self.counters.dropped_malformed += 1;
        };
        let token = u64::from_be_bytes(*token);
        if kind == MESSAGE_PROBE {
            if self.traces.answer_rate.allow(now) {
                self.send_message(source, &message(MESSAGE_ANSWER, token), HOP_LIMIT, now);
            }
            return;
        }
        let is_meant = |note: &Note| note.target == source && matches!(note.about, About::Probe(n) if n == token);
        let Some(at) = self.traces.notes.iter().position(is_meant) else { return };
        let Some(note) = self.traces.notes.remove(at) else { return };
        let node = self.remotes.get(&source).and_then(|remote| remote.node);
        let round_trip = now.since(note.sent);
        self.event(Event::Answered { probe: token, network: source, node, is_target: true, round_trip });
    }
}

fn message(kind: u8, token: u64) -> [u8; PROBE_BYTES] {
    let mut bytes = [0; PROBE_BYTES];
    bytes[0] = kind;
    bytes[TOKEN_AT..TOKEN_AT + 8].copy_from_slice(&token.to_be_bytes());
    bytes
}
