//! Links: what happens between neighbours.

use std::net::SocketAddr;

use atoll_base::{NodeId, RegionPrefix};

use super::{
    Event, LinkId, Mesh, Origin, Tuning,
    federation::{Granted, Realm},
    paths::Paths,
};
use crate::{
    babel::{self, INFINITY, Tlv, Writer},
    channel::Channel,
    handshake::Proven,
    limits::{HANDSHAKE_RETRY_MAX, LINK_COST_MAX, LINK_FORGET, PUNCHED_FORGET, REKEY_IDLE_FACTOR, STREAM_COST},
    link_mtu::LinkMtu,
    liveness::{Action, Liveness},
    routing::{LinkPolicy, Neighbourhood},
    stream::is_stream,
    time::Time,
    timers::{Timer, Timers},
    wire::{
        PAYLOAD_CLOSE, PAYLOAD_CONTROL, PAYLOAD_MTU_ACK, PAYLOAD_MTU_PROBE, PAYLOAD_PATH_CHALLENGE,
        PAYLOAD_PATH_RESPONSE,
        data::{CONTROL_OVERHEAD_BYTES, LINK_HEADER_BYTES},
    },
};

pub(super) struct Link {
    /// Where the neighbour is: where its newest authentic datagram came from.
    pub(super) endpoint: SocketAddr,
    /// Where to call it, if it is this end that calls.
    dial: Option<SocketAddr>,
    pub(super) origin: Origin,
    pub(super) channel: Channel,
    pub(super) liveness: Liveness,
    pub(super) peer: Option<Proven>,
    /// Who is said to be there; nobody else is taken.
    pub(super) expected: Option<NodeId>,
    /// Whose region it is at the other end.
    pub(super) realm: Realm,
    /// By what right a neighbour of another region speaks for it.
    pub(super) granted: Option<Granted>,
    pub(super) policy: LinkPolicy,
    pub(super) mtu: LinkMtu,
    pub(super) paths: Paths,
    /// The handshake proved that the other end is this node itself: do not call before this time.
    pub(super) self_until: Option<Time>,
    pub(super) down_since: Time,
    pub(super) rx_bytes: u64,
    pub(super) tx_bytes: u64,
}

impl Link {
    fn new(endpoint: SocketAddr, origin: Origin, realm: Realm, now: Time) -> Self {
        Self {
            endpoint,
            dial: (origin != Origin::Incoming).then_some(endpoint),
            origin,
            channel: Channel::default(),
            liveness: Liveness::new(now),
            peer: None,
            expected: None,
            realm,
            granted: None,
            policy: LinkPolicy::default(),
            mtu: LinkMtu::new(now),
            paths: Paths::default(),
            self_until: None,
            down_since: now,
            rx_bytes: 0,
            tx_bytes: 0,
        }
    }

    /// Something leaves over it, so the neighbour is to show that it is there. `id` is its own.
    pub(super) fn note_sent(&mut self, id: LinkId, timers: &mut Timers, now: Time) {
        if self.liveness.is_up() && self.liveness.handle_sent(now) {
            timers.no_later_than(Timer::Link(id), self.liveness.deadline());
        }
    }

    /// What it costs: over a connection more, however good that is. Infinite, if not every packet of IPv6 fits.
    pub(super) fn cost(&self) -> u16 {
        if self.mtu.is_narrow() {
            return INFINITY;
        }
        let extra = if is_stream(self.endpoint.ip()) { STREAM_COST } else { 0 };
        self.liveness.metric.cost().saturating_add(extra).min(LINK_COST_MAX)
    }

    pub(super) fn is_at(&self, endpoint: SocketAddr) -> bool {
        self.endpoint == endpoint || self.dial == Some(endpoint)
    }

    /// The link is now wanted by this end too.
    pub(super) const fn promote(&mut self, endpoint: SocketAddr, origin: Origin) {
        if !matches!(self.origin, Origin::Static) {
            self.origin = origin;
        }
        self.dial = Some(endpoint);
        self.expected = None;
    }

    /// Whether this node may be at the other end.
    pub(super) fn may_lead_to(&self, node: NodeId) -> bool {
        self.expected.is_none_or(|expected| expected == node)
    }

    /// Whether the last handshake led to this node itself.
    pub(super) const fn is_self(&self) -> bool {
        self.self_until.is_some()
    }

    /// The /48 at the other end.
    pub(super) fn prefix(&self) -> RegionPrefix {
        RegionPrefix::of(self.realm.id)
    }

    /// Whether it is this end that calls.
    pub(super) const fn is_dialled(&self) -> bool {
        self.dial.is_some()
    }

    /// Whether new keys are due: later, if those in use hid nothing but signs of life.
    fn wants_rekey(&self, tuning: &Tuning, now: Time) -> bool {
        let is_used = self.channel.established().is_none_or(|since| self.liveness.is_used_since(since));
        let factor = if is_used { 1 } else { REKEY_IDLE_FACTOR };
        let tuning = Tuning { rekey_after: tuning.rekey_after.saturating_mul(factor), ..tuning.clone() };
        self.channel.wants_rekey(&tuning, now)
    }

    /// Whether it matters how large its datagrams may be: an idle link is not asked again before it is used, and a connection
    /// carries what it carried once.
    fn needs_mtu(&self) -> bool {
        if is_stream(self.endpoint.ip()) && self.mtu.is_largest() {
            return false;
        }
        let is_used = || self.mtu.known_since().is_none_or(|since| self.liveness.is_used_since(since));
        self.liveness.is_up() && is_used()
    }

    /// Where handshakes go: to where the neighbour was last heard, or, if it is not heard, to where it should be.
    pub(super) fn target(&self) -> SocketAddr {
        if self.liveness.is_up() { self.endpoint } else { self.dial.unwrap_or(self.endpoint) }
    }
}

impl Mesh {
    pub(super) fn insert_link(&mut self, endpoint: SocketAddr, origin: Origin, realm: Realm, now: Time) -> LinkId {
        let id = LinkId(self.next_link);
        self.next_link += 1;
        self.links.insert(id, Link::new(endpoint, origin, realm, now));
        id
    }

    pub(super) fn drop_link(&mut self, id: LinkId, now: Time) {
        self.router.handle_link_down(id, now);
        self.links.remove(&id);
        self.link_indices.retain(|_, link| *link != id);
        self.timers.set(Timer::Link(id), None);
        self.flush_router(now);
    }

    /// Ends the link with a neighbour that was configured and is no more. The neighbour is told: it forgets the link too,
    /// unless it is configured to call this node.
    pub fn close_peer(&mut self, endpoint: SocketAddr, now: Time) {
        let known = self.links.iter().find(|(_, link)| link.is_at(endpoint));
        let Some((id, peer)) = known.map(|(id, link)| (*id, link.peer.filter(|_| link.liveness.is_up()))) else {
            return;
        };
        self.send_link(id, &[PAYLOAD_CLOSE], now);
        if let Some(peer) = peer {
            self.event(Event::LinkDown { link: id, node: peer.node });
        }
        self.drop_link(id, now);
    }

    /// Takes a control frame.
    pub(super) fn handle_link_control(
        &mut self,
        from: SocketAddr,
        (index, counter): (u32, u64),
        data: &mut [u8],
        now: Time,
    ) {
        let owner = self.link_indices.get(&index).copied();
        let opened = owner.and_then(|id| {
            let link = self.links.get_mut(&id)?;
            Some((id, link.channel.open(index, now, |keys| keys.open_control(counter, data, now))?))
        });
        let Some((id, length)) = self.link_opened(from, index, opened, data, now) else { return };
        let payload = &data[LINK_HEADER_BYTES..LINK_HEADER_BYTES + length];
        if let Some(link) = self.links.get_mut(&id) {
            let is_size_probe = payload.first() == Some(&PAYLOAD_MTU_PROBE);
            link.liveness.handle_counter(index, counter, is_size_probe, now);
        }
        match payload.first() {
            // An empty frame only confirms keys.
            None => {}
            Some(&PAYLOAD_CONTROL) => self.handle_control(id, payload, now),
            // An empty one only ends a row.
            Some(&PAYLOAD_MTU_PROBE) if payload.len() == 1 => {}
            Some(&PAYLOAD_MTU_PROBE) => {
                if let Ok(size) = u16::try_from(data.len()) {
                    self.send_link(id, &[&[PAYLOAD_MTU_ACK][..], &size.to_be_bytes()].concat(), now);
                }
            }
            Some(&PAYLOAD_MTU_ACK) => self.handle_mtu_ack(id, payload, now),
            Some(&PAYLOAD_PATH_CHALLENGE) => self.handle_path_challenge(id, from, payload, now),
            Some(&PAYLOAD_CLOSE) => self.handle_close(id, now),
            Some(&PAYLOAD_PATH_RESPONSE) => self.handle_path_response(id, payload, now),
            Some(_) => self.counters.dropped_malformed += 1,
        }
    }

    pub(super) fn handle_link_timeout(&mut self, id: LinkId, scheduled: Time, now: Time) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if let Some(until) = link.self_until {
            if now < until {
                self.timers.set(Timer::Link(id), Some(until));
                return;
            }
            link.self_until = None;
        }
        let frames = link.channel.handle_timeout(&link.realm.mac, now);
        let to = link.target();
        self.transmit_all(to, frames);
        let Some(link) = self.links.get_mut(&id) else { return };
        match link.liveness.handle_timeout(scheduled, now) {
            Action::Wait => {}
            Action::Probe => self.send_hello(id, true, now),
            Action::Dead => self.handle_link_dead(id, now),
        }
        self.probe_mtu(id, now);
        self.end_grant(id, now);
        let Some(link) = self.links.get(&id) else { return };
        let is_up = link.liveness.is_up();
        let forget = if link.origin == Origin::Punched { PUNCHED_FORGET } else { LINK_FORGET };
        if !is_up && link.origin != Origin::Static && now.since(link.down_since) >= forget {
            self.drop_link(id, now);
            return;
        }
        if self.end_idle_punched(id, now) {
            return;
        }
        let Some(link) = self.links.get(&id) else { return };
        let silence = now.since(link.liveness.last_heard());
        let redial = link.dial.is_some() && (!link.channel.can_send(now) || silence > HANDSHAKE_RETRY_MAX * 3);
        let is_due = if is_up { link.wants_rekey(&self.tuning, now) } else { redial };
        if is_due && !link.channel.is_handshaking() {
            self.start_link_handshake(id, now);
        }
        self.schedule_link(id);
    }

    /// Sends a Babel packet to a neighbour, sealed.
    pub(super) fn send_control(&mut self, id: LinkId, packet: &[u8], now: Time) {
        let mut payload = vec![PAYLOAD_CONTROL];
        payload.extend_from_slice(packet);
        self.send_link(id, &payload, now);
    }

    /// Sends a hello and what goes with it, which asks for an answer or not.
    pub(super) fn send_hello(&mut self, id: LinkId, is_probe: bool, now: Time) {
        let own_grant = self.own_grant_for(id, now);
        let Some(link) = self.links.get_mut(&id) else { return };
        let mut writer = Writer::default();
        for mut tlv in link.liveness.greeting(is_probe, now) {
            if let Tlv::Hello(hello) = &mut tlv {
                hello.grant = own_grant;
            }
            writer.push(&tlv);
        }
        self.send_control(id, &writer.finish(), now);
    }

    /// Probes for the largest datagram, when it is time to.
    fn probe_mtu(&mut self, id: LinkId, now: Time) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.needs_mtu()) else { return };
        let (sizes, is_lower) = link.mtu.handle_timeout(now);
        let is_daring = sizes.iter().any(|size| *size > link.mtu.datagram_bytes());
        // The largest first: what is lost before an empty probe is known to have been too large.
        for size in sizes.into_iter().rev() {
            let mut payload = vec![0; usize::from(size) - CONTROL_OVERHEAD_BYTES];
            payload[0] = PAYLOAD_MTU_PROBE;
            self.send_link(id, &payload, now);
        }
        if is_daring {
            self.send_link(id, &[PAYLOAD_MTU_PROBE], now);
        }
        if is_lower {
            self.settle_link(id, now);
        }
    }

    fn handle_mtu_ack(&mut self, id: LinkId, payload: &[u8], now: Time) {
        let (Some(size), Some(link)) = (payload[1..].first_chunk(), self.links.get_mut(&id)) else { return };
        if link.mtu.handle_acknowledgement(u16::from_be_bytes(*size)) {
            self.settle_link(id, now);
        }
    }

    /// Seals a control payload for a neighbour and sends it.
    pub(super) fn send_link(&mut self, id: LinkId, payload: &[u8], now: Time) {
        let Some(to) = self.links.get(&id).map(|link| link.endpoint) else { return };
        self.send_link_to(id, to, payload, now);
    }

    /// The same, to where the neighbour may be too.
    pub(super) fn send_link_to(&mut self, id: LinkId, to: SocketAddr, payload: &[u8], now: Time) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(keys) = link.channel.sender(now) else {
            self.counters.dropped_no_session += 1;
            return;
        };
        let frame = keys.seal_control(payload);
        link.tx_bytes += frame.len() as u64;
        self.transmit(to, frame);
    }

    fn handle_control(&mut self, id: LinkId, payload: &[u8], now: Time) {
        let Ok(tlvs) = babel::decode(&payload[1..]) else {
            self.counters.dropped_malformed += 1;
            return;
        };
        self.handle_hello(id, &tlvs, now);
        self.router.handle_tlvs(id, &tlvs, now);
        while let Some(doubted) = self.router.poll_doubt() {
            if self.links.get_mut(&doubted).is_some_and(|link| link.liveness.handle_doubt()) {
                self.timers.no_later_than(Timer::Link(doubted), now);
            }
        }
        self.flush_router(now);
    }

    /// Takes the hello and the IHU of a packet, if it has them.
    fn handle_hello(&mut self, id: LinkId, tlvs: &[Tlv], now: Time) {
        let hello = tlvs.iter().find_map(|tlv| if let Tlv::Hello(hello) = tlv { Some(hello) } else { None });
        let ihu = tlvs.iter().find_map(|tlv| if let Tlv::Ihu(ihu) = tlv { Some(ihu) } else { None });
        let Some(hello) = hello.filter(|hello| self.handle_grant(id, hello.grant.as_ref(), now)) else { return };
        let Some(link) = self.links.get_mut(&id) else { return };
        let greeted = link.liveness.handle_greeting(hello, ihu, now);
        let (is_up, cost, mtu) = (link.liveness.is_up(), link.cost(), link.mtu.datagram_bytes());
        match (greeted.is_changed, is_up) {
            (true, true) => self.handle_link_alive(id, now),
            (true, false) => self.handle_link_dead(id, now),
            (false, _) => self.router.handle_link_cost(id, cost, mtu, now),
        }
        if let Some(state) = hello.link {
            self.router.handle_generation(id, state.generation, now);
        }
        if greeted.must_answer {
            self.send_hello(id, false, now);
        }
        self.schedule_link(id);
    }

    pub(super) fn handle_link_alive(&mut self, id: LinkId, now: Time) {
        let is_admitted = |link: &&Link| self.is_admitted(link, now);
        let Some(policy) = self.links.get(&id).filter(is_admitted).map(|link| self.policy_towards(link)) else {
            return;
        };
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(peer) = link.peer else { return };
        link.policy = policy;
        link.mtu.handle_up(now);
        let endpoint = link.endpoint;
        let neighbourhood = Neighbourhood {
            region: peer.region,
            node: peer.node,
            cost: link.cost(),
            mtu: link.mtu.datagram_bytes(),
            generation: link.liveness.generation(),
            policy: link.policy.clone(),
        };
        self.router.handle_link_up(id, neighbourhood, now);
        self.ask_observed(id, now);
        self.event(Event::LinkUp { link: id, node: peer.node, endpoint });
    }

    /// Takes a link out of use; the other end is told, and asked, in case it hears.
    pub(super) fn handle_link_dead(&mut self, id: LinkId, now: Time) {
        let is_known = self.links.get(&id).is_some_and(|link| self.is_admitted(link, now));
        self.router.handle_link_down(id, now);
        self.flush_router(now);
        let Some(link) = self.links.get_mut(&id) else { return };
        link.down_since = now;
        if let Some(peer) = link.peer.filter(|_| is_known) {
            self.event(Event::LinkDown { link: id, node: peer.node });
        }
        self.send_hello(id, true, now);
    }

    pub(super) fn schedule_link(&mut self, id: LinkId) {
        let Some(link) = self.links.get(&id) else { return };
        let deadline = link.liveness.deadline();
        let deadline = if link.needs_mtu() { deadline.min(link.mtu.deadline()) } else { deadline };
        let deadline = link.channel.deadline().map_or(deadline, |channel| channel.min(deadline));
        let deadline = link.granted.map_or(deadline, |granted| granted.until.min(deadline));
        self.timers.set(Timer::Link(id), Some(deadline));
    }
}
