//! Links: what happens between neighbours.

use std::net::SocketAddr;

use super::{Event, LinkId, Mesh, Origin};
use crate::{
    accept::Accepted,
    babel::{self, Tlv, Writer},
    channel::Channel,
    handshake::{Proven, Scope},
    limits::{HANDSHAKE_RETRY_MAX, LINK_FORGET, LINKS_MAX, SELF_PAUSE},
    link_mtu::LinkMtu,
    liveness::{Action, Liveness},
    routing::{LinkPolicy, Neighbourhood},
    time::Time,
    timers::Timer,
    wire::{
        PAYLOAD_CONTROL, PAYLOAD_MTU_ACK, PAYLOAD_MTU_PROBE,
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
    pub(super) policy: LinkPolicy,
    pub(super) mtu: LinkMtu,
    /// The handshake proved that the other end is this node itself: do not call before this time.
    self_until: Option<Time>,
    down_since: Time,
    pub(super) rx_bytes: u64,
    pub(super) tx_bytes: u64,
}

impl Link {
    fn new(endpoint: SocketAddr, origin: Origin, now: Time) -> Self {
        Self {
            endpoint,
            dial: (origin != Origin::Incoming).then_some(endpoint),
            origin,
            channel: Channel::default(),
            liveness: Liveness::new(now),
            peer: None,
            policy: LinkPolicy::default(),
            mtu: LinkMtu::new(now),
            self_until: None,
            down_since: now,
            rx_bytes: 0,
            tx_bytes: 0,
        }
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
    }

    /// Whether the last handshake led to this node itself.
    pub(super) const fn is_self(&self) -> bool {
        self.self_until.is_some()
    }

    /// Where handshakes go: to where the neighbour was last heard, or, if it is not heard, to where it should be.
    fn target(&self) -> SocketAddr {
        if self.liveness.is_up() { self.endpoint } else { self.dial.unwrap_or(self.endpoint) }
    }
}

impl Mesh {
    pub(super) fn insert_link(&mut self, endpoint: SocketAddr, origin: Origin, now: Time) -> LinkId {
        let id = LinkId(self.next_link);
        self.next_link += 1;
        self.links.insert(id, Link::new(endpoint, origin, now));
        id
    }

    pub(super) fn drop_link(&mut self, id: LinkId, now: Time) {
        self.router.handle_link_down(id, now);
        self.links.remove(&id);
        self.link_indices.retain(|_, link| *link != id);
        self.timers.set(Timer::Link(id), None);
        self.flush_router(now);
    }

    pub(super) fn handle_link_init(&mut self, from: SocketAddr, sender: u32, noise: &[u8], now: Time) {
        if self.is_inside(from.ip()) || !self.handshake_rate.allow(now) {
            self.counters.dropped_handshakes += 1;
            return;
        }
        let ours = self.links.values_mut().find(|link| link.is_at(from));
        if let Some(link) = ours.filter(|link| !link.channel.yields_to(noise)) {
            if let Some(frame) = link.channel.remind(now) {
                self.transmit(from, frame);
            }
            return;
        }
        let index = self.fresh_index();
        let answer = self.link_accepts.answer(
            &self.local,
            &self.mac,
            &mut self.rng,
            Scope::Link,
            from,
            (sender, noise),
            index,
            now,
        );
        match answer {
            Ok(frame) => self.transmit(from, frame),
            Err(_) => self.counters.dropped_forged += 1,
        }
    }

    pub(super) fn handle_link_response(&mut self, from: SocketAddr, message: (u32, u32, &[u8]), now: Time) {
        let own = self.local.node;
        let id = self.link_indices.get(&message.1).copied();
        let Some((id, link)) = id.and_then(|id| Some((id, self.links.get_mut(&id)?))) else {
            self.counters.dropped_unknown_session += 1;
            return;
        };
        let mut is_self = false;
        let expect = |proven: &Proven| {
            is_self = proven.node == own;
            !is_self
        };
        let result = link.channel.handle_response(&self.local, &self.mac, message, expect, now);
        if is_self {
            link.self_until = Some(now + SELF_PAUSE);
            self.timers.set(Timer::Link(id), link.self_until);
        }
        match result {
            Ok((proven, frame)) => {
                link.endpoint = from;
                self.transmit(from, frame);
                self.handle_link_established(id, proven, now);
            }
            Err(_) => self.counters.dropped_forged += 1,
        }
    }

    pub(super) fn handle_link_finish(&mut self, index: u32, noise: &[u8], now: Time) {
        match self.link_accepts.finish(&self.local, index, noise, now) {
            Some(Ok(accepted)) if accepted.proven.node == self.local.node => {}
            Some(Ok(Accepted { from, proven, transport, early: _ })) => {
                let Some(id) = self.link_for(from, &proven, now) else { return };
                let Some(link) = self.links.get_mut(&id) else { return };
                link.endpoint = from;
                link.channel.accept(transport, now);
                self.handle_link_established(id, proven, now);
                self.send_link(id, &[], now);
            }
            Some(Err(_)) => self.counters.dropped_forged += 1,
            // A repetition: our confirmation was lost.
            None => {
                let id = self.link_indices.get(&index).copied();
                if let Some(id) =
                    id.filter(|id| self.links.get(id).is_some_and(|l| l.channel.awaits_confirmation(index)))
                {
                    self.send_link(id, &[], now);
                }
            }
        }
    }

    pub(super) fn handle_link_hint(&mut self, from: SocketAddr, index: u32, now: Time) {
        let hinted = self.links.iter_mut().find(|(_, link)| link.endpoint == from);
        let Some((id, link)) = hinted else { return };
        let id = *id;
        if link.channel.handle_hint(index, now) {
            self.start_link_handshake(id, now);
        }
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
            let opened = link.channel.open(index, now, |keys| keys.open_control(counter, data, now))?;
            Some((id, opened.map(|opened| opened.content)))
        });
        let Some((id, length)) = self.link_opened(from, (index, counter), opened, data.len(), now) else { return };
        let payload = &data[LINK_HEADER_BYTES..LINK_HEADER_BYTES + length];
        match payload.first() {
            // An empty frame only confirms keys.
            None => {}
            Some(&PAYLOAD_CONTROL) => self.handle_control(id, payload, now),
            Some(&PAYLOAD_MTU_PROBE) => {
                if let Ok(size) = u16::try_from(data.len()) {
                    self.send_link(id, &[&[PAYLOAD_MTU_ACK][..], &size.to_be_bytes()].concat(), now);
                }
            }
            Some(&PAYLOAD_MTU_ACK) => self.handle_mtu_ack(id, payload, now),
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
        if let Some(frame) = link.channel.handle_timeout(now) {
            let to = link.target();
            self.transmit(to, frame);
        }
        let Some(link) = self.links.get_mut(&id) else { return };
        match link.liveness.handle_timeout(scheduled, now) {
            Action::Wait => {}
            Action::Probe => self.send_hello(id, true, now),
            Action::Dead => self.handle_link_dead(id, now),
        }
        self.probe_mtu(id, now);
        let Some(link) = self.links.get(&id) else { return };
        let is_up = link.liveness.is_up();
        if !is_up && link.origin != Origin::Static && now.since(link.down_since) >= LINK_FORGET {
            self.drop_link(id, now);
            return;
        }
        let silence = now.since(link.liveness.last_heard());
        let redial = link.dial.is_some() && (!link.channel.can_send(now) || silence > HANDSHAKE_RETRY_MAX * 3);
        let is_due = if is_up { link.channel.wants_rekey(&self.tuning, now) } else { redial };
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
    fn send_hello(&mut self, id: LinkId, is_probe: bool, now: Time) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let mut writer = Writer::default();
        for tlv in link.liveness.greeting(is_probe, now) {
            writer.push(&tlv);
        }
        self.send_control(id, &writer.finish(), now);
    }

    /// Probes for the largest datagram, when it is time to.
    fn probe_mtu(&mut self, id: LinkId, now: Time) {
        let Some(link) = self.links.get_mut(&id).filter(|link| link.liveness.is_up()) else { return };
        let (sizes, is_lower) = link.mtu.handle_timeout(now);
        for size in sizes {
            let mut payload = vec![0; usize::from(size) - CONTROL_OVERHEAD_BYTES];
            payload[0] = PAYLOAD_MTU_PROBE;
            self.send_link(id, &payload, now);
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
    fn send_link(&mut self, id: LinkId, payload: &[u8], now: Time) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(keys) = link.channel.sender(now) else {
            self.counters.dropped_no_session += 1;
            return;
        };
        let frame = keys.seal_control(payload);
        link.tx_bytes += frame.len() as u64;
        let to = link.endpoint;
        self.transmit(to, frame);
    }

    fn handle_control(&mut self, id: LinkId, payload: &[u8], now: Time) {
        let Ok(tlvs) = babel::decode(&payload[1..]) else {
            self.counters.dropped_malformed += 1;
            return;
        };
        self.handle_hello(id, &tlvs, now);
        self.router.handle_tlvs(id, &tlvs, now);
        self.flush_router(now);
    }

    /// Takes the hello and the IHU of a packet, if it has them.
    fn handle_hello(&mut self, id: LinkId, tlvs: &[Tlv], now: Time) {
        let hello = tlvs.iter().find_map(|tlv| if let Tlv::Hello(hello) = tlv { Some(hello) } else { None });
        let ihu = tlvs.iter().find_map(|tlv| if let Tlv::Ihu(ihu) = tlv { Some(ihu) } else { None });
        let (Some(hello), Some(link)) = (hello, self.links.get_mut(&id)) else { return };
        let greeted = link.liveness.handle_greeting(hello, ihu, now);
        let (is_up, cost, mtu) = (link.liveness.is_up(), link.liveness.metric.cost(), link.mtu.datagram_bytes());
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

    /// The link on which a caller belongs: one that is there already, or a new one.
    fn link_for(&mut self, from: SocketAddr, proven: &Proven, now: Time) -> Option<LinkId> {
        let same_node = |link: &Link| link.peer.is_some_and(|peer| peer.node == proven.node);
        let known = self.links.iter().find(|(_, link)| link.is_at(from)).or_else(|| {
            // It called from another address before; that link is of no use any more.
            self.links.iter().find(|(_, link)| same_node(link) && link.dial.is_none() && !link.liveness.is_up())
        });
        if let Some((id, _)) = known {
            return Some(*id);
        }
        if self.links.len() >= LINKS_MAX {
            self.counters.dropped_handshakes += 1;
            return None;
        }
        Some(self.insert_link(from, Origin::Incoming, now))
    }

    fn handle_link_established(&mut self, id: LinkId, proven: Proven, now: Time) {
        let Some(link) = self.links.get_mut(&id) else { return };
        self.link_indices.retain(|_, owner| *owner != id);
        for index in link.channel.indices() {
            self.link_indices.insert(index, id);
        }
        if link.peer != Some(proven) && link.liveness.is_up() {
            // Another process (or node) than before: it knows nothing of what we told its predecessor.
            link.liveness.handle_restart(now);
            self.router.handle_link_down(id, now);
        }
        let Some(link) = self.links.get_mut(&id) else { return };
        link.peer = Some(proven);
        let was_up = link.liveness.is_up();
        link.liveness.handle_established(now);
        if !was_up {
            self.handle_link_alive(id, now);
        }
        self.flush_router(now);
        self.schedule_link(id);
    }

    fn handle_link_alive(&mut self, id: LinkId, now: Time) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(peer) = link.peer else { return };
        link.mtu.handle_up(now);
        let endpoint = link.endpoint;
        let neighbourhood = Neighbourhood {
            region: self.local.region,
            node: peer.node,
            cost: link.liveness.metric.cost(),
            mtu: link.mtu.datagram_bytes(),
            generation: link.liveness.generation(),
            policy: link.policy.clone(),
        };
        self.router.handle_link_up(id, neighbourhood, now);
        self.event(Event::LinkUp { link: id, node: peer.node, endpoint });
    }

    /// Takes a link out of use; the other end is told, and asked, in case it hears.
    pub(super) fn handle_link_dead(&mut self, id: LinkId, now: Time) {
        self.router.handle_link_down(id, now);
        self.flush_router(now);
        let Some(link) = self.links.get_mut(&id) else { return };
        link.down_since = now;
        if let Some(peer) = link.peer {
            self.event(Event::LinkDown { link: id, node: peer.node });
        }
        self.send_hello(id, true, now);
    }

    fn start_link_handshake(&mut self, id: LinkId, now: Time) {
        let index = self.fresh_index();
        let Some(link) = self.links.get_mut(&id) else { return };
        let frame = link.channel.start(&self.local, &self.mac, &mut self.rng, Scope::Link, index, now);
        let to = link.target();
        self.link_indices.insert(index, id);
        self.transmit(to, frame);
        self.schedule_link(id);
    }

    pub(super) fn schedule_link(&mut self, id: LinkId) {
        let Some(link) = self.links.get(&id) else { return };
        let deadline = link.liveness.deadline();
        let deadline = if link.liveness.is_up() { deadline.min(link.mtu.deadline()) } else { deadline };
        let deadline = link.channel.deadline().map_or(deadline, |channel| channel.min(deadline));
        self.timers.set(Timer::Link(id), Some(deadline));
    }
}
