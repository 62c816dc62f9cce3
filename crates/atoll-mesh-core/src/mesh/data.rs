//! The path of data: from packets to datagrams, from datagrams to packets, and from link to link for others.
//!
//! It works in place, in buffers of the caller, and allocates nothing: see [`wire::data`](crate::wire::data) for their
//! form. What cannot go this way at once (no session yet, no route) takes the slow way of [`Mesh::handle_packet`].

use std::net::SocketAddr;

use atoll_base::MeshAddr;

use super::{LinkId, Mesh, held};
use crate::{
    channel::Opened,
    ecn::Ecn,
    limits::{PUNCH_SWEEP, TRACE_HOPS_MAX},
    packet,
    queue::FairQueue,
    time::Time,
    timers::Timer,
    transport::{OpenError, Transport},
    wire::{
        TAG_BYTES,
        data::{
            Body, ECN_AT, HEADROOM_BYTES, OVERHEAD_BYTES, RECORD_AT, RECORD_MESSAGE, RecordFlags, STEERING_AT,
            Steering, flow_name,
        },
    },
};

/// What became of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Received {
    /// Nothing is left to be done with it.
    Done,
    /// A packet for the TUN device lies in the datagram's buffer.
    Packet(Record),
    /// The datagram's buffer was rewritten and is to be sent on.
    Relay {
        /// Where to.
        to: SocketAddr,
        /// Congestion bits for its own IP header.
        ecn: Ecn,
    },
}

/// A packet that was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Where the packet starts in the datagram.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    /// What its sender says of it.
    pub flags: RecordFlags,
    /// Index of the keys, to tell sessions apart.
    pub session: u32,
    /// Grows by one with each record of a session.
    pub counter: u64,
}

/// Seals packets for one far node, one after the other.
pub struct Sealer<'a> {
    session: &'a mut Transport,
    session_bytes: &'a mut u64,
    link: &'a mut Transport,
    link_bytes: &'a mut u64,
    tx_datagrams: &'a mut u64,
    to: SocketAddr,
    steering: Steering,
    /// Where frames wait, if they have to.
    queue: Option<&'a mut FairQueue<Option<LinkId>>>,
    now: Time,
}

impl Sealer<'_> {
    /// The neighbour to whom the datagrams go.
    pub const fn to(&self) -> SocketAddr {
        self.to
    }

    /// Congestion bits for the IP headers of the datagrams: those of the packet (RFC 6040 section 4.1, normal mode).
    pub const fn ecn(&self) -> Ecn {
        Ecn::of_bits(self.steering.ecn)
    }

    /// Whether what is sealed goes to a queue: it is not to be sent, but comes out of [`Mesh::poll_held`] later.
    pub const fn is_held(&self) -> bool {
        self.queue.is_some()
    }

    /// Makes a datagram in place, or what will become one if [`Self::is_held`]. The packet must lie between the first
    /// [`HEADROOM_BYTES`] and the last [`TAG_BYTES`] of `frame`, and belong to the flow for which this was made.
    pub fn seal(&mut self, frame: &mut [u8], flags: RecordFlags) {
        self.seal_as(frame, flags.to_byte());
    }

    /// Lets what is sealed take so many links.
    pub(super) const fn limit_hops(&mut self, hop_limit: u8) {
        self.steering.hop_limit = hop_limit;
    }

    /// Index of the keys and counter of what was sealed last.
    pub(super) const fn last_sealed(&self) -> (u32, u64) {
        (self.steering.receiver, self.steering.counter)
    }

    pub(super) fn seal_as(&mut self, frame: &mut [u8], flags: u8) {
        let counter = self.session.take_counter();
        self.steering.counter = counter;
        frame[STEERING_AT..RECORD_AT].copy_from_slice(&self.steering.to_bytes());
        frame[RECORD_AT] = flags;
        self.session.seal_record(counter, frame);
        *self.session_bytes += (frame.len() - OVERHEAD_BYTES) as u64;
        if let Some(queue) = &mut self.queue {
            queue.push(&flow_name(frame), None, frame, Ecn::of_bits(self.steering.ecn).is_capable(), self.now);
            return;
        }
        self.link.close_steering(frame);
        *self.link_bytes += frame.len() as u64;
        *self.tx_datagrams += 1;
    }
}

impl Mesh {
    /// What seals packets of the flow of `packet`, if that can be done at once; `largest` is the length of the longest
    /// of them. Otherwise each is to be given to [`Self::handle_packet`].
    pub fn sealer(&mut self, packet: &[u8], largest: usize, now: Time) -> Option<Sealer<'_>> {
        let (source, target) = packet::addresses(packet)?;
        // Of a packet that may run out of hops a note is to be kept.
        if packet::hop_limit(packet) <= TRACE_HOPS_MAX {
            return None;
        }
        let network = self.destination(source, target)?;
        self.open_path(network, packet, largest, now)
    }

    /// The same for packets that go to a node wherever they come from: see [`Self::packet_to_ipv6`].
    pub fn sealer_to(&mut self, network: MeshAddr, packet: &[u8], largest: usize, now: Time) -> Option<Sealer<'_>> {
        if packet::hop_limit(packet) <= TRACE_HOPS_MAX {
            return None;
        }
        self.open_path(network, packet, largest, now)
    }

    /// The same for any packet, allowed or not.
    pub(super) fn open_path(
        &mut self,
        network: MeshAddr,
        packet: &[u8],
        largest: usize,
        now: Time,
    ) -> Option<Sealer<'_>> {
        let route = self.router.route(network)?;
        if largest + OVERHEAD_BYTES > self.datagram_bytes(network, route.mtu) {
            return None;
        }
        let id = route.link;
        if self.remotes.get(&network)?.channel.wants_rekey(&self.tuning, now) {
            self.rekey_remote(network, now);
        }
        let link = self.links.get_mut(&id)?;
        link.note_sent(id, &mut self.timers, now);
        let remote = self.remotes.get_mut(&network)?;
        if remote.touch(now) {
            self.timers.no_later_than(Timer::Punch, now + PUNCH_SWEEP);
        }
        let session = remote.channel.sender(now)?;
        let steering = Steering {
            hop_limit: packet::hop_limit(packet),
            ecn: packet::ecn(packet).bits(),
            flow: packet::flow(packet),
            body: Body::Sealed(session.cipher()),
            source: self.network,
            target: network,
            receiver: session.remote_index(),
            counter: 0,
        };
        Some(Sealer {
            session,
            session_bytes: &mut remote.tx_bytes,
            link: link.channel.sender(now)?,
            link_bytes: &mut link.tx_bytes,
            tx_datagrams: &mut self.counters.tx_datagrams,
            to: link.endpoint,
            steering,
            queue: held::queue_of(&mut self.stream_queues, &mut self.queue, self.is_holding, link.endpoint),
            now,
        })
    }

    /// Takes a data frame under the keys of a link.
    pub(super) fn handle_data(
        &mut self,
        from: SocketAddr,
        (index, counter): (u32, u64),
        outer: Ecn,
        data: &mut [u8],
        now: Time,
    ) -> Received {
        let owner = self.link_indices.get(&index).copied();
        let opened = owner.and_then(|id| {
            let link = self.links.get_mut(&id)?;
            Some((id, link.channel.open(index, now, |keys| keys.open_steering(counter, data, now))?))
        });
        let Some((id, steering)) = self.link_opened(from, index, opened, data, now) else {
            return Received::Done;
        };
        let Some(mut steering) = steering else {
            self.counters.dropped_malformed += 1;
            return Received::Done;
        };
        self.counters.rx_congested += u64::from(outer == Ecn::Congested);
        let Some(ecn) = Ecn::of_bits(steering.ecn).out_of(outer) else {
            self.counters.dropped_wrong_mark += 1;
            return Received::Done;
        };
        steering.ecn = ecn.bits();
        let own = self.local.region;
        let is_foreign = self.links.get_mut(&id).is_some_and(|link| {
            link.liveness.handle_counter(index, counter, false, now);
            link.liveness.handle_received(now);
            link.realm.id != own
        });
        if is_foreign && !self.may_enter(id, steering.source, steering.target, now) {
            self.counters.dropped_transit += 1;
            return Received::Done;
        }
        if steering.target == self.network {
            return self.handle_end_to_end(&steering, data, now);
        }
        match self.relay(id, &steering, data, now) {
            Some(to) => Received::Relay { to, ecn },
            None => Received::Done,
        }
    }

    /// Books a frame that came in over a link, or says why it did not open.
    pub(super) fn link_opened<T>(
        &mut self,
        from: SocketAddr,
        index: u32,
        opened: Option<(LinkId, Result<Opened<T>, OpenError>)>,
        data: &[u8],
        now: Time,
    ) -> Option<(LinkId, T)> {
        match opened {
            Some((id, Ok(opened))) => {
                if opened.is_confirmed_now {
                    self.handle_link_established(id, now);
                }
                let link = self.links.get_mut(&id)?;
                link.rx_bytes += data.len() as u64;
                link.liveness.handle_frame(now);
                if link.endpoint != from {
                    self.handle_new_path(id, from, now);
                }
                return Some((id, opened.content));
            }
            Some((_, Err(OpenError::Replayed))) => self.counters.dropped_replayed += 1,
            Some((_, Err(OpenError::Forged))) => self.counters.dropped_forged += 1,
            Some((_, Err(OpenError::Expired))) | None => {
                if self.link_accepts.keep_early(index, data) {
                    return None;
                }
                self.counters.dropped_unknown_session += 1;
                if self.hint_rate.allow(now) {
                    let hint = self.realm_at(from).mac.unknown(index);
                    self.transmit(from, hint);
                }
            }
        }
        None
    }

    /// Rewrites a frame for the next hop in place: where it goes, if it need not wait.
    fn relay(&mut self, from: LinkId, steering: &Steering, data: &mut [u8], now: Time) -> Option<SocketAddr> {
        let Some(hop_limit) = steering.hop_limit.checked_sub(1).filter(|left| *left > 0) else {
            self.counters.dropped_hop_limit += 1;
            self.tell_expired(steering, data.len(), now);
            return None;
        };
        data[STEERING_AT] = hop_limit;
        data[ECN_AT] = data[ECN_AT] & !3 | steering.ecn;
        if self.is_holding || !self.stream_queues.is_empty() {
            // Without a way there is nothing to wait for.
            let route = self.router.route(steering.target);
            let endpoint = route.and_then(|route| self.links.get(&route.link)).map(|link| link.endpoint);
            let queue = endpoint.and_then(|endpoint| {
                held::queue_of(&mut self.stream_queues, &mut self.queue, self.is_holding, endpoint)
            });
            if let Some(queue) = queue {
                let can_mark = Ecn::of_bits(steering.ecn).is_capable();
                queue.push(&flow_name(data), Some(from), data, can_mark, now);
                return None;
            }
        }
        self.forward(Some(from), steering.target, data, now)
    }

    /// Closes a frame for the next hop: where it goes. `from` is the link over which it came; none: it is this node's.
    pub(super) fn forward(
        &mut self,
        from: Option<LinkId>,
        target: MeshAddr,
        data: &mut [u8],
        now: Time,
    ) -> Option<SocketAddr> {
        let Some(route) = self.router.route(target).filter(|route| Some(route.link) != from) else {
            self.counters.dropped_no_route += 1;
            return None;
        };
        let id = route.link;
        let link = self.links.get_mut(&id)?;
        let Some(keys) = link.channel.sender(now) else {
            self.counters.dropped_no_session += 1;
            return None;
        };
        keys.close_steering(data);
        link.tx_bytes += data.len() as u64;
        link.note_sent(id, &mut self.timers, now);
        self.counters.relayed += u64::from(from.is_some());
        self.counters.tx_datagrams += 1;
        Some(link.endpoint)
    }

    /// Takes an end-to-end datagram for this node, whose steering is unmasked.
    pub(super) fn handle_end_to_end(&mut self, steering: &Steering, data: &mut [u8], now: Time) -> Received {
        let Steering { source, receiver, counter, .. } = *steering;
        let cipher = match steering.body {
            Body::Sealed(cipher) => cipher,
            Body::Handshake => {
                self.handle_far_frame(source, &data[RECORD_AT..], now);
                return Received::Done;
            }
            Body::Expired => {
                self.handle_expired(steering, &data[RECORD_AT..], now);
                return Received::Done;
            }
        };
        let opened = self
            .remotes
            .get_mut(&source)
            .and_then(|remote| remote.channel.open(receiver, now, |keys| keys.open_record(counter, cipher, data, now)));
        match opened {
            Some(Ok(opened)) => {
                if opened.is_confirmed_now {
                    self.flush_queue(source, now);
                }
                self.handle_record(steering, data, now)
            }
            failed => {
                match failed {
                    Some(Err(OpenError::Replayed)) => self.counters.dropped_replayed += 1,
                    Some(Err(OpenError::Forged)) => self.counters.dropped_forged += 1,
                    _ => self.handle_unknown_keys(source, receiver, data, now),
                }
                Received::Done
            }
        }
    }

    /// Looks at a record that was opened.
    fn handle_record(&mut self, steering: &Steering, data: &mut [u8], now: Time) -> Received {
        let source = steering.source;
        let end = data.len() - TAG_BYTES;
        if data[RECORD_AT] == RECORD_MESSAGE {
            self.handle_message(source, &data[HEADROOM_BYTES..end], now);
            return Received::Done;
        }
        let Some(flags) = RecordFlags::of_byte(data[RECORD_AT]) else {
            self.counters.dropped_malformed += 1;
            return Received::Done;
        };
        let packet = &mut data[HEADROOM_BYTES..end];
        if packet.is_empty() {
            // It only confirms keys.
            return Received::Done;
        }
        let Some((from, to)) = packet::addresses(packet) else {
            self.counters.dropped_malformed += 1;
            return Received::Done;
        };
        if !self.may_arrive(source, from, to) {
            self.counters.dropped_wrong_address += 1;
            self.refuse_ipv4(source, packet, now);
            return Received::Done;
        }
        if !packet::copy_ecn(packet, Ecn::of_bits(steering.ecn)) {
            self.counters.dropped_wrong_mark += 1;
            return Received::Done;
        }
        if let Some(remote) = self.remotes.get_mut(&source) {
            remote.rx_bytes += packet.len() as u64;
            if remote.touch(now) {
                self.timers.no_later_than(Timer::Punch, now + PUNCH_SWEEP);
            }
        }
        self.rekey_remote(source, now);
        let Steering { receiver, counter, .. } = *steering;
        Received::Packet(Record { start: HEADROOM_BYTES, end, flags, session: receiver, counter })
    }

    fn handle_unknown_keys(&mut self, source: MeshAddr, index: u32, data: &[u8], now: Time) {
        if self.remote_accepts.keep_early(index, data) {
            return;
        }
        self.counters.dropped_unknown_session += 1;
        if let Some(realm) = self.realm_of(source).cloned()
            && self.hint_rate.allow(now)
        {
            let hint = realm.mac.unknown(index);
            self.send_end_to_end(source, &hint, now);
        }
    }
}
