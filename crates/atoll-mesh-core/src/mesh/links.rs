//! Links: what happens between neighbours.

use std::net::SocketAddr;

use atoll_base::MeshAddr;

use super::{Event, LinkId, Mesh, Origin};
use crate::{
    channel::Channel,
    control::{self, Control, ControlWriter, Hello},
    handshake::Proven,
    limits::{HANDSHAKE_RETRY_MAX, LINK_FORGET},
    liveness::{Action, Liveness},
    time::Time,
    timers::Timer,
    transport::{OpenError, begin_frame},
    wire::{DATA_HEADER_BYTES, PAYLOAD_CONTROL, PAYLOAD_RELAY},
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
    /// The handshake proved that the other end is this node itself: do not call before this time.
    pub(super) self_until: Option<Time>,
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

    /// Whether it is this end that calls.
    pub(super) const fn is_dialled(&self) -> bool {
        self.dial.is_some()
    }

    /// Where handshakes go: to where the neighbour was last heard, or, if it is not heard, to where it should be.
    pub(super) fn target(&self) -> SocketAddr {
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

    pub(super) fn handle_link_data(&mut self, from: SocketAddr, index: u32, counter: u64, data: &mut [u8], now: Time) {
        let owner = self.link_indices.get(&index).copied();
        let opened = owner.and_then(|id| {
            let opened = self.links.get_mut(&id)?.channel.open(index, counter, data, now)?;
            Some((id, opened))
        });
        let (id, opened) = match opened {
            Some((id, Ok(opened))) => (id, opened),
            Some((_, Err(OpenError::Replayed))) => return self.counters.dropped_replayed += 1,
            Some((_, Err(OpenError::Forged))) => return self.counters.dropped_forged += 1,
            Some((_, Err(OpenError::Expired))) | None => {
                if self.link_accepts.keep_early(index, data) {
                    return;
                }
                self.counters.dropped_unknown_session += 1;
                if self.hint_rate.allow(now) {
                    let hint = self.mac.unknown(index);
                    self.transmit(from, hint);
                }
                return;
            }
        };
        if opened.is_confirmed_now {
            self.handle_link_established(id, now);
        }
        let Some(link) = self.links.get_mut(&id) else { return };
        link.rx_bytes += data.len() as u64;
        link.endpoint = from;
        link.liveness.handle_frame(now);
        let payload = &mut data[DATA_HEADER_BYTES..DATA_HEADER_BYTES + opened.length];
        match payload.first() {
            // An empty frame only confirms keys.
            None => {}
            Some(&PAYLOAD_CONTROL) => self.handle_control(id, payload, now),
            Some(&PAYLOAD_RELAY) => self.handle_relay(id, payload, now),
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
        let frames = link.channel.handle_timeout(&self.mac, now);
        let to = link.target();
        self.transmit_all(to, frames);
        let Some(link) = self.links.get_mut(&id) else { return };
        match link.liveness.handle_timeout(scheduled, now) {
            Action::Wait => {}
            Action::Probe(hello) => self.send_hello(id, hello, now),
            Action::Dead => self.handle_link_dead(id, now),
        }
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

    /// Sends a sealed control payload to a neighbour.
    pub(super) fn send_control(&mut self, id: LinkId, payload: &[u8], now: Time) {
        self.send_link(id, payload, now);
    }

    fn send_hello(&mut self, id: LinkId, hello: Hello, now: Time) {
        let mut writer = ControlWriter::default();
        writer.push(&Control::Hello(hello));
        self.send_link(id, &writer.finish(), now);
    }

    fn send_link(&mut self, id: LinkId, payload: &[u8], now: Time) {
        let mut frame = Vec::new();
        begin_frame(&mut frame, payload.len(), 1);
        frame.extend_from_slice(payload);
        self.seal_link(id, frame, now);
    }

    /// Seals a frame that was begun by [`begin_frame`], and sends it to a neighbour.
    pub(super) fn seal_link(&mut self, id: LinkId, mut frame: Vec<u8>, now: Time) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(transport) = link.channel.sender(now) else {
            self.counters.dropped_no_session += 1;
            return;
        };
        // Control messages look after their own answers.
        let is_data = frame.get(DATA_HEADER_BYTES) == Some(&PAYLOAD_RELAY);
        transport.seal(&mut frame, 0);
        link.tx_bytes += frame.len() as u64;
        let to = link.endpoint;
        if is_data && link.liveness.is_up() && link.liveness.handle_sent(now) {
            let deadline = link.liveness.deadline();
            self.timers.no_later_than(Timer::Link(id), deadline);
        }
        self.transmit(to, frame);
    }

    fn handle_control(&mut self, id: LinkId, payload: &[u8], now: Time) {
        let Ok(controls) = control::parse(payload) else {
            self.counters.dropped_malformed += 1;
            return;
        };
        for control in &controls {
            if let Control::Hello(hello) = control {
                self.handle_hello(id, hello, now);
            }
        }
        self.router.handle_controls(id, &controls, now);
        self.flush_router(now);
    }

    fn handle_hello(&mut self, id: LinkId, hello: &Hello, now: Time) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let was_up = link.liveness.is_up();
        let answer = link.liveness.handle_hello(hello, now);
        let cost = link.liveness.cost();
        match (was_up, link.liveness.is_up()) {
            (false, true) => self.handle_link_alive(id, now),
            (true, false) => self.handle_link_dead(id, now),
            _ => self.router.handle_cost(id, cost, now),
        }
        self.router.handle_generation(id, hello.generation, now);
        if let Some(answer) = answer {
            self.send_hello(id, answer, now);
        }
        self.schedule_link(id);
    }

    pub(super) fn handle_link_alive(&mut self, id: LinkId, now: Time) {
        let Some(link) = self.links.get(&id) else { return };
        let Some(peer) = link.peer else { return };
        let (endpoint, cost, generation) = (link.endpoint, link.liveness.cost(), link.liveness.generation());
        let network = MeshAddr::of(self.local.region, peer.node);
        self.router.handle_link_up(id, network, cost, generation, now);
        self.event(Event::LinkUp { link: id, node: peer.node, endpoint });
    }

    pub(super) fn handle_link_dead(&mut self, id: LinkId, now: Time) {
        self.router.handle_link_down(id, now);
        self.flush_router(now);
        let Some(link) = self.links.get_mut(&id) else { return };
        link.down_since = now;
        if let Some(peer) = link.peer {
            self.event(Event::LinkDown { link: id, node: peer.node });
        }
    }

    pub(super) fn schedule_link(&mut self, id: LinkId) {
        let Some(link) = self.links.get(&id) else { return };
        let deadline = link.liveness.deadline();
        let deadline = link.channel.deadline().map_or(deadline, |channel| channel.min(deadline));
        self.timers.set(Timer::Link(id), Some(deadline));
    }
}
