//! Direct links to nodes that are talked to over a relay; the conversation is in [`crate::punch`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use atoll_base::{MeshAddr, NodeId};
use rand_chacha::rand_core::Rng as _;

use super::{LinkId, Mesh, Origin};
use crate::{
    limits::{
        CANDIDATES_FOUND_MAX, CANDIDATES_MAX, HOP_LIMIT, LINKS_MAX, OBSERVERS_MAX, PUNCH_BYTES_MIN, PUNCH_LIFE,
        PUNCH_OPENING, PUNCH_OPENING_HOPS, PUNCH_PAUSE, PUNCH_PAUSE_MAX, PUNCH_REPLIES_PER_SECOND_MAX, PUNCH_RETRY,
        PUNCH_ROUND, PUNCH_ROUNDS_MAX, PUNCH_START_MAX, PUNCH_SWEEP, PUNCH_TALK, PUNCHED_IDLE, PUNCHED_LINKS_MAX,
        PUNCHES_MAX, PUNCHES_PER_SECOND_MAX,
    },
    punch::{PunchMessage, PunchStep, PunchToken, is_candidate},
    rate::RateLimit,
    time::Time,
    timers::Timer,
    wire::PAYLOAD_CLOSE,
};

/// All attempts that are under way, and what bounds them.
pub(super) struct Punches {
    /// Addresses of this machine, with its port.
    local: Vec<SocketAddr>,
    by_network: BTreeMap<MeshAddr, Punch>,
    next_sweep: Time,
    begin_rate: RateLimit,
    reply_rate: RateLimit,
}

/// An attempt to get a direct link to one node.
struct Punch {
    node: NodeId,
    attempt: u32,
    is_offerer: bool,
    /// What its probes must carry.
    own: PunchToken,
    /// What ours must carry, once it is told.
    theirs: Option<PunchToken>,
    candidates: Vec<SocketAddr>,
    /// When the offer was sent last.
    offered: Time,
    /// Rounds of probes so far.
    rounds: u32,
    next: Time,
    until: Time,
    has_link: bool,
}

/// What became of earlier attempts with one node.
#[derive(Default)]
pub(super) struct PunchHistory {
    failures: u32,
    not_before: Option<Time>,
}

impl PunchHistory {
    fn allows(&self, now: Time) -> bool {
        self.not_before.is_none_or(|not_before| now >= not_before)
    }

    fn note(&mut self, has_failed: bool, now: Time) {
        self.failures = if has_failed { (self.failures + 1).min(16) } else { 0 };
        let pause = PUNCH_PAUSE.saturating_mul(1 << self.failures.saturating_sub(1)).min(PUNCH_PAUSE_MAX);
        self.not_before = Some(now + pause);
    }
}

impl Punches {
    pub(super) fn new(now: Time) -> Self {
        Self {
            local: Vec::new(),
            by_network: BTreeMap::new(),
            next_sweep: now,
            begin_rate: RateLimit::new(PUNCHES_PER_SECOND_MAX, now),
            reply_rate: RateLimit::new(PUNCH_REPLIES_PER_SECOND_MAX, now),
        }
    }

    fn of_token(&mut self, token: PunchToken) -> Option<(MeshAddr, &mut Punch)> {
        self.by_network.iter_mut().find(|(_, punch)| punch.own == token).map(|(network, punch)| (*network, punch))
    }
}

impl Mesh {
    /// Says under which addresses this machine can be reached by who is near; those that nobody else could use are left
    /// out.
    pub fn set_local_endpoints(&mut self, endpoints: &[SocketAddr]) {
        let usable = endpoints.iter().filter(|endpoint| is_candidate(**endpoint) && !self.is_inside(endpoint.ip()));
        self.punches.local = usable.copied().take(CANDIDATES_MAX).collect();
    }

    pub(super) fn handle_punch_timeout(&mut self, now: Time) {
        let due = |punch: &Punch| punch.next <= now || punch.until <= now;
        let due: Vec<_> = self.punches.by_network.iter().filter(|(_, p)| due(p)).map(|(n, _)| *n).collect();
        for network in due {
            self.advance_punch(network, now);
        }
        if now >= self.punches.next_sweep {
            self.punches.next_sweep = now + PUNCH_SWEEP;
            self.settle_punches(now);
            let wanted: Vec<_> =
                self.remotes.keys().filter(|network| self.wants_direct(**network, now)).copied().collect();
            for network in wanted {
                self.offer_punch(network, now);
            }
        }
        self.schedule_punches(now);
    }

    fn schedule_punches(&mut self, now: Time) {
        // While nobody talks there is nothing to look for: `Remote::touch` says when it begins again.
        let is_talking = self.remotes.values().any(|remote| now.since(remote.last_used) < PUNCH_TALK);
        let sweep = is_talking.then_some(self.punches.next_sweep);
        let steps = self.punches.by_network.values().map(|punch| punch.next.min(punch.until));
        self.timers.set(Timer::Punch, steps.chain(sweep).min());
    }

    /// Whether a node is talked to, in both directions, over others.
    fn wants_direct(&self, network: MeshAddr, now: Time) -> bool {
        let own = |remote: &&super::Remote| remote.realm.id == self.local.region;
        let Some(remote) = self.remotes.get(&network).filter(own) else { return false };
        let bytes = remote.rx_bytes.min(PUNCH_BYTES_MIN) + remote.tx_bytes.min(PUNCH_BYTES_MIN);
        let is_both_ways = remote.rx_bytes > 0 && remote.tx_bytes > 0 && bytes >= PUNCH_BYTES_MIN;
        let is_talking = is_both_ways && now.since(remote.last_used) < PUNCH_TALK;
        let is_far = || self.router.route(network).is_some_and(|route| route.hops > 1);
        let can_tell = remote.node.is_some_and(|node| self.is_member(node) && !self.has_link_to(node));
        is_talking && can_tell && remote.channel.can_send(now) && is_far()
    }

    fn has_link_to(&self, node: NodeId) -> bool {
        self.links.values().any(|link| link.peer.is_some_and(|peer| peer.node == node) && link.liveness.is_up())
    }

    /// Whether another attempt may begin with a node.
    fn may_punch(&mut self, network: MeshAddr, now: Time) -> bool {
        let punched = self.links.values().filter(|link| link.origin == Origin::Punched).count();
        self.punches.by_network.len() < PUNCHES_MAX
            && punched < PUNCHED_LINKS_MAX
            && self.remotes.get(&network).is_some_and(|remote| remote.punches.allows(now))
            && self.punches.begin_rate.allow(now)
    }

    fn offer_punch(&mut self, network: MeshAddr, now: Time) {
        if self.punches.by_network.contains_key(&network) || !self.may_punch(network, now) {
            return;
        }
        let attempt = self.rng.next_u32();
        if self.insert_punch(network, (attempt, true), (now, now + PUNCH_LIFE)) {
            self.advance_punch(network, now);
        }
    }

    fn insert_punch(
        &mut self,
        network: MeshAddr,
        (attempt, is_offerer): (u32, bool),
        (next, until): (Time, Time),
    ) -> bool {
        let own = self.token();
        let Some(node) = self.remotes.get(&network).and_then(|remote| remote.node) else { return false };
        let punch = Punch {
            node,
            attempt,
            is_offerer,
            own,
            theirs: None,
            candidates: Vec::new(),
            offered: next,
            rounds: 0,
            next,
            until,
            has_link: false,
        };
        self.punches.by_network.insert(network, punch);
        self.counters.punches += 1;
        true
    }

    /// Takes a message of the far end.
    pub(super) fn handle_punch_message(&mut self, source: MeshAddr, bytes: &[u8], now: Time) {
        let Some(message) = PunchMessage::parse(bytes) else { return self.counters.dropped_malformed += 1 };
        match message.step {
            PunchStep::Offer => self.handle_offer(source, &message, now),
            PunchStep::Answer => {
                let candidates = self.candidates_of(&message);
                let Some(punch) = self.punches.by_network.get_mut(&source) else { return };
                if !punch.is_offerer || punch.attempt != message.attempt || punch.theirs.is_some() {
                    return;
                }
                punch.theirs = Some(message.token);
                punch.candidates = candidates;
                // The other end begins when it hears so: at the same time as this one.
                punch.next = now + (now.since(punch.offered) / 2).min(PUNCH_START_MAX);
                self.send_punch(source, PunchStep::Start, now);
            }
            PunchStep::Start => {
                let Some(punch) = self.punches.by_network.get_mut(&source) else { return };
                if !punch.is_offerer && punch.attempt == message.attempt && punch.rounds == 0 {
                    punch.next = now;
                }
            }
        }
        self.schedule_punches(now);
    }

    fn handle_offer(&mut self, source: MeshAddr, message: &PunchMessage, now: Time) {
        let is_repeated = match self.punches.by_network.get(&source) {
            None => false,
            Some(punch) if punch.attempt == message.attempt && !punch.is_offerer => true,
            // Both offered: the offer of the lower network counts.
            Some(punch) if punch.is_offerer && punch.theirs.is_none() && source < self.network => {
                self.punches.by_network.remove(&source);
                false
            }
            Some(_) => return,
        };
        if !is_repeated {
            if !self.wants_direct(source, now) || !self.may_punch(source, now) {
                return;
            }
            let times = (now + PUNCH_START_MAX, now + PUNCH_LIFE);
            if !self.insert_punch(source, (message.attempt, false), times) {
                return;
            }
            let candidates = self.candidates_of(message);
            let Some(punch) = self.punches.by_network.get_mut(&source) else { return };
            punch.theirs = Some(message.token);
            punch.candidates = candidates;
        }
        self.send_punch(source, PunchStep::Answer, now);
    }

    fn candidates_of(&self, message: &PunchMessage) -> Vec<SocketAddr> {
        let told: BTreeSet<_> = message.endpoints.iter().filter(|told| !self.is_inside(told.ip())).collect();
        told.into_iter().copied().collect()
    }

    /// Goes on with an attempt: repeats the offer, sends a round of probes, or gives up.
    fn advance_punch(&mut self, network: MeshAddr, now: Time) {
        let Some(punch) = self.punches.by_network.get_mut(&network) else { return };
        if now >= punch.until {
            return self.end_punch(network, true, now);
        }
        let Some(theirs) = punch.theirs else {
            punch.offered = now;
            punch.next = now + PUNCH_RETRY;
            return self.send_punch(network, PunchStep::Offer, now);
        };
        if punch.rounds >= PUNCH_ROUNDS_MAX {
            punch.next = punch.until;
            return;
        }
        // The first round opens the own NAT and gets no farther: a NAT that first sees the far end's probes, and has to
        // refuse them, may give this end's another port.
        let is_opening = punch.rounds == 0;
        punch.rounds += 1;
        punch.next = now + if is_opening { PUNCH_OPENING } else { PUNCH_ROUND };
        let probe = self.own.mac.probe(false, theirs);
        for candidate in punch.candidates.clone() {
            self.transmit_within(is_opening.then_some(PUNCH_OPENING_HOPS), candidate, probe.clone());
        }
    }

    /// Takes a probe, or the answer to one.
    pub(super) fn handle_probe(&mut self, from: SocketAddr, is_reply: bool, token: PunchToken, now: Time) {
        if self.is_inside(from.ip()) {
            return;
        }
        let Some((network, punch)) = self.punches.of_token(token) else {
            return self.counters.dropped_unknown_session += 1;
        };
        let Some(theirs) = punch.theirs else { return };
        if is_reply {
            let (is_caller, has_link) = (self.network < network, punch.has_link);
            if is_caller && !has_link {
                punch.has_link = true;
                self.call_punched(from, now);
            }
            return;
        }
        // A NAT shows the other end at an endpoint of which nobody could tell.
        let is_new = punch.candidates.len() < CANDIDATES_FOUND_MAX && !punch.candidates.contains(&from);
        if is_new {
            punch.candidates.push(from);
        }
        if punch.rounds == 0 {
            punch.next = now;
        }
        if self.punches.reply_rate.allow(now) {
            let reply = self.own.mac.probe(true, theirs);
            self.transmit(from, reply);
            if is_new {
                let probe = self.own.mac.probe(false, theirs);
                self.transmit(from, probe);
            }
        }
        self.schedule_punches(now);
    }

    /// Calls a node at an endpoint that has answered.
    fn call_punched(&mut self, endpoint: SocketAddr, now: Time) {
        if self.links.values().any(|link| link.is_at(endpoint)) || self.links.len() >= LINKS_MAX {
            return;
        }
        let id = self.insert_link(endpoint, Origin::Punched, self.own.clone(), now);
        self.timers.set(Timer::Link(id), Some(now));
    }

    /// A link that a neighbour called is one of those that both ends wanted.
    pub(super) fn mark_punched(&mut self, id: LinkId, node: NodeId) {
        let is_wanted = self.punches.by_network.values().any(|punch| punch.node == node);
        if let Some(link) = self.links.get_mut(&id).filter(|link| is_wanted && link.origin == Origin::Incoming) {
            link.origin = Origin::Punched;
        }
    }

    /// Ends the attempts that have a link now.
    fn settle_punches(&mut self, now: Time) {
        let done = |punch: &Punch| self.has_link_to(punch.node);
        let done: Vec<_> = self.punches.by_network.iter().filter(|(_, punch)| done(punch)).map(|(n, _)| *n).collect();
        for network in done {
            self.end_punch(network, false, now);
        }
    }

    fn end_punch(&mut self, network: MeshAddr, has_failed: bool, now: Time) {
        let Some(punch) = self.punches.by_network.remove(&network) else { return };
        let has_failed = has_failed && !self.has_link_to(punch.node);
        if let Some(remote) = self.remotes.get_mut(&network) {
            remote.punches.note(has_failed, now);
        }
    }

    /// Ends a link that was made for two nodes which do not talk any more. Whether it did.
    pub(super) fn end_idle_punched(&mut self, id: LinkId, now: Time) -> bool {
        let Some(link) = self.links.get(&id).filter(|link| link.origin == Origin::Punched) else { return false };
        if !link.liveness.is_up() || now.since(link.liveness.last_used().max(link.down_since)) < PUNCHED_IDLE {
            return false;
        }
        self.send_link(id, &[PAYLOAD_CLOSE], now);
        self.drop_link(id, now);
        true
    }

    /// The neighbour needs a link no longer.
    pub(super) fn handle_close(&mut self, id: LinkId, now: Time) {
        let is_kept = |origin| matches!(origin, Origin::Static | Origin::Discovered);
        if self.links.get(&id).is_some_and(|link| !is_kept(link.origin)) {
            self.drop_link(id, now);
        }
    }

    /// Where this node may be reached: where neighbours see it, and what it knows itself.
    fn own_candidates(&mut self, now: Time) -> Vec<SocketAddr> {
        let up = || self.links.iter().filter(|(_, link)| link.liveness.is_up());
        // What they say now is for the next attempt: a NAT may have given this node another port since.
        let observers: Vec<_> = up().take(OBSERVERS_MAX).map(|(id, _)| *id).collect();
        let seen = up().filter_map(|(_, link)| link.paths.observed).take(OBSERVERS_MAX);
        let mut endpoints = Vec::new();
        for endpoint in seen.chain(self.punches.local.iter().copied()) {
            if endpoints.len() < CANDIDATES_MAX && !endpoints.contains(&endpoint) && !self.is_inside(endpoint.ip()) {
                endpoints.push(endpoint);
            }
        }
        for id in observers {
            self.ask_observed(id, now);
        }
        endpoints
    }

    /// Sends a message about an attempt to the far end, sealed for it alone.
    fn send_punch(&mut self, network: MeshAddr, step: PunchStep, now: Time) {
        let endpoints = if step == PunchStep::Start { Vec::new() } else { self.own_candidates(now) };
        let Some(punch) = self.punches.by_network.get(&network) else { return };
        let message = PunchMessage { step, attempt: punch.attempt, token: punch.own, endpoints }.to_bytes();
        self.send_message(network, &message, HOP_LIMIT, now);
    }
}
