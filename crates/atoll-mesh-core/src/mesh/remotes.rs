//! Sessions between the two ends of the mesh, and relaying for others.

use std::collections::VecDeque;

use atoll_base::{MeshAddr, NodeId};

use super::{LinkId, Mesh};
use crate::{
    channel::Channel,
    limits::{HOP_LIMIT, MTU, QUEUED_PACKETS_MAX, REMOTE_IDLE, REMOTES_MAX},
    packet,
    time::Time,
    timers::Timer,
    transport::{OpenError, begin_frame},
    wire::{DATA_HEADER_BYTES, DATA_OVERHEAD_BYTES, Frame, RELAY_HEADER_BYTES, RelayHeader},
};

pub(super) struct Remote {
    pub(super) channel: Channel,
    pub(super) node: Option<NodeId>,
    queue: VecDeque<Vec<u8>>,
    last_used: Time,
    pub(super) rx_bytes: u64,
    pub(super) tx_bytes: u64,
}

impl Remote {
    fn new(now: Time) -> Self {
        Self {
            channel: Channel::default(),
            node: None,
            queue: VecDeque::new(),
            last_used: now,
            rx_bytes: 0,
            tx_bytes: 0,
        }
    }

    /// Drops the packets that wait for keys; how many.
    pub(super) fn give_up(&mut self) -> u64 {
        let count = self.queue.len() as u64;
        self.queue.clear();
        count
    }
}

impl Mesh {
    /// Takes a packet from the TUN device.
    pub fn handle_packet(&mut self, packet: &[u8], now: Time) {
        let Some((source, target)) = packet::addresses(packet) else {
            return self.counters.dropped_not_ipv6 += 1;
        };
        if !self.network.contains(source) || !self.prefix.contains(target) || self.network.contains(target) {
            return self.counters.dropped_wrong_address += 1;
        }
        if packet.len() > MTU {
            return self.counters.dropped_too_big += 1;
        }
        let network = MeshAddr::containing(target);
        if self.router.route(network).is_none() {
            self.counters.dropped_no_route += 1;
            if self.icmp_rate.allow(now)
                && let Some(error) = packet::unreachable(self.own_address(), packet)
            {
                self.deliver(error);
            }
            return;
        }
        let Some(remote) = self.remote(network, now) else { return };
        remote.last_used = now;
        if remote.channel.can_send(now) {
            self.send_sealed(network, packet, now);
            self.rekey_remote(network, now);
            return;
        }
        if remote.queue.len() >= QUEUED_PACKETS_MAX {
            remote.queue.pop_front();
            self.counters.dropped_queue_full += 1;
        }
        let Some(remote) = self.remotes.get_mut(&network) else { return };
        remote.queue.push_back(packet.to_vec());
        if !remote.channel.is_handshaking() {
            self.start_remote_handshake(network, now);
        }
    }

    /// Takes an end-to-end datagram that came in over a link: for this node, or to be passed on.
    pub(super) fn handle_relay(&mut self, from: LinkId, payload: &mut [u8], now: Time) {
        let Ok(header) = RelayHeader::parse(payload) else {
            return self.counters.dropped_malformed += 1;
        };
        if header.target == self.network {
            self.handle_end_to_end(header.source, &mut payload[RELAY_HEADER_BYTES..], now);
            return;
        }
        let Some(hop_limit) = header.hop_limit.checked_sub(1).filter(|left| *left > 0) else {
            return self.counters.dropped_hop_limit += 1;
        };
        let Some(route) = self.router.route(header.target).filter(|route| route.link != from) else {
            return self.counters.dropped_no_route += 1;
        };
        let link = route.link;
        let mut frame = Vec::new();
        begin_frame(&mut frame, payload.len(), 1);
        RelayHeader { hop_limit, ..header }.write(&mut frame);
        frame.extend_from_slice(&payload[RELAY_HEADER_BYTES..]);
        self.counters.relayed += 1;
        self.seal_link(link, frame, now);
    }

    pub(super) fn handle_remote_timeout(&mut self, network: MeshAddr, now: Time) {
        let Some(remote) = self.remotes.get_mut(&network) else { return };
        let was_handshaking = remote.channel.is_handshaking();
        let frames = remote.channel.handle_timeout(&self.mac, now);
        if now.since(remote.last_used) >= REMOTE_IDLE {
            self.remotes.remove(&network);
            return;
        }
        if was_handshaking && !remote.channel.is_handshaking() && !remote.channel.can_send(now) {
            // Given up. Whoever still wants it starts again with the next packet.
            self.counters.dropped_no_session += remote.give_up();
        }
        self.send_all_end_to_end(network, frames, now);
        self.schedule_remote(network);
    }

    pub(super) fn handle_end_to_end(&mut self, source: MeshAddr, data: &mut [u8], now: Time) {
        match self.mac.parse(data) {
            Ok(Frame::Data { receiver, counter }) => self.handle_remote_data(source, receiver, counter, data, now),
            Ok(Frame::Handshake(frame)) => self.handle_remote_handshake(source, &frame, now),
            Err(_) => self.counters.dropped_malformed += 1,
        }
    }

    fn handle_remote_data(&mut self, source: MeshAddr, index: u32, counter: u64, data: &mut [u8], now: Time) {
        let opened = self.remotes.get_mut(&source).and_then(|remote| remote.channel.open(index, counter, data, now));
        let opened = match opened {
            Some(Ok(opened)) => opened,
            Some(Err(OpenError::Replayed)) => return self.counters.dropped_replayed += 1,
            Some(Err(OpenError::Forged)) => return self.counters.dropped_forged += 1,
            Some(Err(OpenError::Expired)) | None => {
                if self.remote_accepts.keep_early(index, data) {
                    return;
                }
                self.counters.dropped_unknown_session += 1;
                if self.hint_rate.allow(now) {
                    let hint = self.mac.unknown(index);
                    self.send_end_to_end(source, &hint, now);
                }
                return;
            }
        };
        if opened.is_confirmed_now {
            self.flush_queue(source, now);
        }
        if opened.length == 0 {
            return;
        }
        let packet = &data[DATA_HEADER_BYTES..DATA_HEADER_BYTES + opened.length];
        let Some((from, to)) = packet::addresses(packet) else {
            return self.counters.dropped_malformed += 1;
        };
        // Nobody speaks in another's name, and nobody sends through us to a third.
        if !source.contains(from) || !self.network.contains(to) {
            return self.counters.dropped_wrong_address += 1;
        }
        let packet = packet.to_vec();
        if let Some(remote) = self.remotes.get_mut(&source) {
            remote.rx_bytes += packet.len() as u64;
            remote.last_used = now;
        }
        self.deliver(packet);
        self.rekey_remote(source, now);
    }

    pub(super) fn flush_queue(&mut self, network: MeshAddr, now: Time) {
        let Some(remote) = self.remotes.get_mut(&network) else { return };
        for packet in core::mem::take(&mut remote.queue) {
            self.send_sealed(network, &packet, now);
        }
    }

    fn rekey_remote(&mut self, network: MeshAddr, now: Time) {
        if self.remotes.get(&network).is_some_and(|remote| remote.channel.wants_rekey(&self.tuning, now)) {
            self.start_remote_handshake(network, now);
        }
    }

    /// Seals a packet (or nothing, as a sign of life) for the far end.
    pub(super) fn send_sealed(&mut self, network: MeshAddr, packet: &[u8], now: Time) {
        let Some(route) = self.router.route(network) else {
            return self.counters.dropped_no_route += 1;
        };
        let link = route.link;
        let mut frame = self.begin_relay(network, DATA_OVERHEAD_BYTES + packet.len());
        let start = frame.len();
        begin_frame(&mut frame, packet.len(), 2);
        frame.extend_from_slice(packet);
        let Some(remote) = self.remotes.get_mut(&network) else { return };
        let Some(transport) = remote.channel.sender(now) else {
            return self.counters.dropped_no_session += 1;
        };
        transport.seal(&mut frame, start);
        remote.tx_bytes += packet.len() as u64;
        self.seal_link(link, frame, now);
    }

    /// Sends a frame of a handshake to the far end.
    pub(super) fn send_end_to_end(&mut self, network: MeshAddr, inner: &[u8], now: Time) {
        let Some(route) = self.router.route(network) else {
            return self.counters.dropped_no_route += 1;
        };
        let link = route.link;
        let mut frame = self.begin_relay(network, inner.len());
        frame.extend_from_slice(inner);
        self.seal_link(link, frame, now);
    }

    /// Begins a link frame that carries an end-to-end datagram of so many bytes.
    fn begin_relay(&self, target: MeshAddr, inner_bytes: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        begin_frame(&mut frame, RELAY_HEADER_BYTES + inner_bytes, 1);
        RelayHeader { hop_limit: HOP_LIMIT, source: self.network, target }.write(&mut frame);
        frame
    }

    /// The far end, known or new; nothing if there are too many in use.
    pub(super) fn remote(&mut self, network: MeshAddr, now: Time) -> Option<&mut Remote> {
        if !self.remotes.contains_key(&network) {
            if self.remotes.len() >= REMOTES_MAX {
                let idlest = self.remotes.iter().min_by_key(|(_, remote)| remote.last_used).map(|(n, _)| *n)?;
                self.remotes.remove(&idlest);
                self.timers.set(Timer::Remote(idlest), None);
            }
            self.remotes.insert(network, Remote::new(now));
            self.timers.set(Timer::Remote(network), Some(now + REMOTE_IDLE));
        }
        self.remotes.get_mut(&network)
    }

    pub(super) fn schedule_remote(&mut self, network: MeshAddr) {
        let Some(remote) = self.remotes.get(&network) else { return };
        let idle = remote.last_used + REMOTE_IDLE;
        let deadline = remote.channel.deadline().map_or(idle, |channel| channel.min(idle));
        self.timers.set(Timer::Remote(network), Some(deadline));
    }
}
