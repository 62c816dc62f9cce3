//! Sessions between the two ends of the mesh: their handshakes, and packets that have to wait for them.

use std::{collections::VecDeque, net::SocketAddr};

use atoll_base::{MeshAddr, NodeId};

use super::{
    Mesh,
    data::{Received, Record},
    federation::Realm,
    punch::PunchHistory,
};
use crate::{
    channel::Channel,
    limits::{HOP_LIMIT, PUNCH_SWEEP, PUNCH_TALK, QUEUED_PACKETS_MAX, REMOTE_IDLE, REMOTES_MAX},
    offload::complete_checksum,
    packet::{self, Refusal},
    time::Time,
    timers::Timer,
    translate::is_to_ipv4,
    wire::{
        Frame,
        data::{Body, HEADROOM_BYTES, OVERHEAD_BYTES, RECORD_AT, RECORD_MESSAGE, RecordFlags, STEERING_AT, Steering},
    },
};

pub(super) struct Remote {
    /// Its region.
    pub(super) realm: Realm,
    pub(super) channel: Channel,
    pub(super) node: Option<NodeId>,
    /// Packets that wait for keys, and whether their checksums are partial.
    queue: VecDeque<(Vec<u8>, bool)>,
    pub(super) last_used: Time,
    pub(super) rx_bytes: u64,
    pub(super) tx_bytes: u64,
    pub(super) punches: PunchHistory,
}

impl Remote {
    fn new(realm: Realm, now: Time) -> Self {
        Self {
            realm,
            channel: Channel::default(),
            node: None,
            queue: VecDeque::new(),
            last_used: now,
            rx_bytes: 0,
            tx_bytes: 0,
            punches: PunchHistory::default(),
        }
    }

    /// Notes that data goes to it or comes from it. Whether that begins after a pause, so that direct ways to it are to
    /// be looked for again.
    #[must_use]
    pub(super) fn touch(&mut self, now: Time) -> bool {
        let before = core::mem::replace(&mut self.last_used, now);
        now.since(before) >= PUNCH_TALK
    }

    /// Drops the packets that wait for keys; how many.
    pub(super) fn give_up(&mut self) -> u64 {
        let count = self.queue.len() as u64;
        self.queue.clear();
        count
    }
}

impl Mesh {
    /// Takes a packet from the TUN device the slow way: it may have to wait for a handshake, or its sender be told why
    /// it cannot go. Segmented packets must be split before.
    pub fn handle_packet(&mut self, packet: &[u8], partial_checksum: bool, now: Time) {
        let Some((source, target)) = packet::addresses(packet) else {
            return self.counters.dropped_not_ipv6 += 1;
        };
        let Some(network) = self.destination(source, target) else {
            return self.counters.dropped_wrong_address += 1;
        };
        self.handle_packet_to(network, packet, partial_checksum, now);
    }

    /// The same for a packet that goes to a node wherever it comes from: see [`Self::packet_to_ipv6`].
    pub fn handle_packet_to(&mut self, network: MeshAddr, packet: &[u8], partial_checksum: bool, now: Time) {
        let Some(route) = self.router.route(network) else {
            self.counters.dropped_no_route += 1;
            return self.refuse(packet, Refusal::NoRoute, now);
        };
        let mtu = self.datagram_bytes(network, route.mtu) - OVERHEAD_BYTES;
        if packet.len() > mtu {
            self.counters.dropped_too_big += 1;
            return self.refuse(packet, Refusal::TooBig(mtu), now);
        }
        let Some(remote) = self.remote(network, now) else { return };
        let (begins, can_send) = (remote.touch(now), remote.channel.can_send(now));
        if begins {
            self.timers.no_later_than(Timer::Punch, now + PUNCH_SWEEP);
        }
        if can_send {
            return self.send_sealed(network, packet, partial_checksum, now);
        }
        let Some(remote) = self.remotes.get_mut(&network) else { return };
        if remote.queue.len() >= QUEUED_PACKETS_MAX {
            remote.queue.pop_front();
            self.counters.dropped_queue_full += 1;
        }
        remote.queue.push_back((packet.to_vec(), partial_checksum));
        if !remote.channel.is_handshaking() {
            self.start_remote_handshake(network, now);
        }
    }

    /// Takes a packet that came out of the mesh, on a node whose programs take no part in it: it answers pings of its
    /// own address, and tells all other senders that nobody listens.
    pub fn handle_own_packet(&mut self, packet: &mut [u8], partial_checksum: bool, now: Time) {
        if partial_checksum {
            complete_checksum(packet);
        }
        let Some((_, target)) = packet::addresses(packet) else { return };
        let own = self.own_address();
        if target == own && packet::answer_echo(packet) {
            return self.handle_packet(packet, false, now);
        }
        let why = if target == own { Refusal::Port } else { Refusal::NoRoute };
        if self.icmp_rate.allow(now)
            && let Some(error) = packet::refusal(own, packet, why)
        {
            self.handle_packet(&error, false, now);
        }
    }

    /// Tells the sender of a packet why it does not go.
    fn refuse(&mut self, packet: &[u8], why: Refusal, now: Time) {
        if self.icmp_rate.allow(now)
            && let Some(error) = packet::refusal(self.own_address(), packet, why)
        {
            self.deliver_error(error, now);
        }
    }

    pub(super) fn handle_remote_timeout(&mut self, network: MeshAddr, now: Time) {
        let Some(remote) = self.remotes.get_mut(&network) else { return };
        let was_handshaking = remote.channel.is_handshaking();
        let frames = remote.channel.handle_timeout(&remote.realm.mac, now);
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

    /// Takes a frame of a handshake from a far node, or a word about one.
    pub(super) fn handle_far_frame(&mut self, source: MeshAddr, data: &[u8], now: Time) {
        match self.own.mac.parse(data) {
            Ok(Frame::Handshake(frame)) => self.handle_remote_handshake(source, &frame, now),
            Ok(Frame::Data { .. } | Frame::Control { .. }) | Err(_) => self.counters.dropped_malformed += 1,
        }
    }

    pub(super) fn flush_queue(&mut self, network: MeshAddr, now: Time) {
        let Some(remote) = self.remotes.get_mut(&network) else { return };
        for (packet, partial_checksum) in core::mem::take(&mut remote.queue) {
            self.send_sealed(network, &packet, partial_checksum, now);
        }
    }

    /// Takes a datagram that waited for the handshake of its link.
    pub(super) fn handle_early_datagram(&mut self, from: SocketAddr, mut data: Vec<u8>, now: Time) {
        match self.handle_datagram(from, &mut data, now) {
            Received::Done => {}
            Received::Packet(record) => self.deliver_record(&mut data, &record, now),
            Received::Relay { to, .. } => self.queue_transmit(to, data),
        }
    }

    /// Takes a record that waited for the handshake of its session.
    pub(super) fn handle_early(&mut self, mut frame: Vec<u8>, now: Time) {
        let steering = frame[STEERING_AT..].first_chunk().and_then(Steering::parse);
        let Some(steering) = steering else { return };
        if let Received::Packet(record) = self.handle_end_to_end(&steering, &mut frame, now) {
            self.deliver_record(&mut frame, &record, now);
        }
    }

    fn deliver_record(&mut self, frame: &mut [u8], record: &Record, now: Time) {
        let packet = &mut frame[record.start..record.end];
        if record.flags.partial_checksum {
            complete_checksum(packet);
        }
        let packet = if is_to_ipv4(packet) { self.packet_to_ipv4(packet, now) } else { Some(packet.to_vec()) };
        if let Some(packet) = packet {
            self.deliver(packet);
        }
    }

    pub(super) fn rekey_remote(&mut self, network: MeshAddr, now: Time) {
        if self.remotes.get(&network).is_some_and(|remote| remote.channel.wants_rekey(&self.tuning, now)) {
            self.start_remote_handshake(network, now);
        }
    }

    /// Seals a packet (or nothing, as a sign of life) for the far end.
    pub(super) fn send_sealed(&mut self, network: MeshAddr, packet: &[u8], partial_checksum: bool, now: Time) {
        let Some(mut sealer) = self.open_path(network, packet, packet.len(), now) else {
            return self.counters.dropped_no_session += 1;
        };
        let mut frame = vec![0; packet.len() + OVERHEAD_BYTES];
        frame[HEADROOM_BYTES..HEADROOM_BYTES + packet.len()].copy_from_slice(packet);
        sealer.seal(&mut frame, RecordFlags { continues: false, partial_checksum });
        let (to, is_held, sealed) = (sealer.to(), sealer.is_held(), sealer.last_sealed());
        self.note_packet(sealed, network, packet, partial_checksum, now);
        if !is_held {
            self.queue_transmit(to, frame);
        }
    }

    /// Sends a message to the far end, sealed for it alone: index of the keys and counter of the record. It is no
    /// traffic: it keeps no session alive.
    pub(super) fn send_message(
        &mut self,
        network: MeshAddr,
        message: &[u8],
        hop_limit: u8,
        now: Time,
    ) -> Option<(u32, u64)> {
        let (last_used, tx_bytes) = self.remotes.get(&network).map(|remote| (remote.last_used, remote.tx_bytes))?;
        let mut sealer = self.open_path(network, &[], message.len(), now)?;
        let mut frame = vec![0; message.len() + OVERHEAD_BYTES];
        frame[HEADROOM_BYTES..HEADROOM_BYTES + message.len()].copy_from_slice(message);
        sealer.limit_hops(hop_limit.clamp(1, HOP_LIMIT));
        sealer.seal_as(&mut frame, RECORD_MESSAGE);
        let (to, is_held, sealed) = (sealer.to(), sealer.is_held(), sealer.last_sealed());
        if !is_held {
            self.queue_transmit(to, frame);
        }
        if let Some(remote) = self.remotes.get_mut(&network) {
            (remote.last_used, remote.tx_bytes) = (last_used, tx_bytes);
        }
        Some(sealed)
    }

    /// Sends a frame of a handshake to the far end.
    pub(super) fn send_end_to_end(&mut self, network: MeshAddr, inner: &[u8], now: Time) {
        let steering = Steering {
            hop_limit: HOP_LIMIT,
            ecn: 0,
            flow: 0,
            body: Body::Handshake,
            source: self.network,
            target: network,
            receiver: 0,
            counter: 0,
        };
        self.send_steered(&steering, inner, now);
    }

    /// Sends what no session seals. Whether there is a way.
    pub(super) fn send_steered(&mut self, steering: &Steering, contents: &[u8], now: Time) -> bool {
        let Some(route) = self.router.route(steering.target) else {
            self.counters.dropped_no_route += 1;
            return false;
        };
        let id = route.link;
        let Some(link) = self.links.get_mut(&id) else { return false };
        let Some(keys) = link.channel.sender(now) else {
            self.counters.dropped_no_session += 1;
            return false;
        };
        let mut frame = vec![0; RECORD_AT + contents.len()];
        frame[STEERING_AT..RECORD_AT].copy_from_slice(&steering.to_bytes());
        frame[RECORD_AT..].copy_from_slice(contents);
        keys.close_steering(&mut frame);
        link.tx_bytes += frame.len() as u64;
        link.note_sent(id, &mut self.timers, now);
        let to = link.endpoint;
        self.transmit(to, frame);
        true
    }

    /// The far end, known or new; nothing if there are too many in use, or its region is not recognised.
    pub(super) fn remote(&mut self, network: MeshAddr, now: Time) -> Option<&mut Remote> {
        if !self.remotes.contains_key(&network) {
            let realm = self.realm_of(network)?.clone();
            if self.remotes.len() >= REMOTES_MAX {
                let idlest = self.remotes.iter().min_by_key(|(_, remote)| remote.last_used).map(|(n, _)| *n)?;
                self.remotes.remove(&idlest);
                self.timers.set(Timer::Remote(idlest), None);
            }
            self.remotes.insert(network, Remote::new(realm, now));
            self.timers.set(Timer::Remote(network), Some(now + REMOTE_IDLE));
            self.timers.no_later_than(Timer::Punch, now + PUNCH_SWEEP);
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
