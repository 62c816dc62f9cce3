//! Sessions between the two ends of the mesh: their handshakes, and packets that have to wait for them.

use std::{collections::VecDeque, net::Ipv6Addr};

use atoll_base::{MeshAddr, NodeId};

use super::{Event, Mesh, Received};
use crate::{
    accept::Accepted,
    channel::Channel,
    handshake::{Proven, Scope},
    limits::{HOP_LIMIT, QUEUED_PACKETS_MAX, REMOTE_IDLE, REMOTES_MAX},
    offload::complete_checksum,
    packet::{self, Refusal},
    time::Time,
    timers::Timer,
    wire::{
        Frame,
        data::{Body, HEADROOM_BYTES, OVERHEAD_BYTES, RECORD_AT, RecordFlags, STEERING_AT, Steering},
    },
};

pub(super) struct Remote {
    pub(super) channel: Channel,
    pub(super) node: Option<NodeId>,
    /// Packets that wait for keys, and whether their checksums are partial.
    queue: VecDeque<(Vec<u8>, bool)>,
    pub(super) last_used: Time,
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
}

impl Mesh {
    /// Takes a packet from the TUN device the slow way: it may have to wait for a handshake, or its sender be told why
    /// it cannot go. Segmented packets must be split before.
    pub fn handle_packet(&mut self, packet: &[u8], partial_checksum: bool, now: Time) {
        let Some((source, target)) = packet::addresses(packet) else {
            return self.counters.dropped_not_ipv6 += 1;
        };
        if !self.may_leave(source, target) {
            return self.counters.dropped_wrong_address += 1;
        }
        let network = MeshAddr::containing(target);
        let Some(route) = self.router.route(network) else {
            self.counters.dropped_no_route += 1;
            return self.refuse(packet, Refusal::NoRoute, now);
        };
        let mtu = usize::from(route.mtu).saturating_sub(OVERHEAD_BYTES);
        if packet.len() > mtu {
            self.counters.dropped_too_big += 1;
            return self.refuse(packet, Refusal::TooBig(mtu), now);
        }
        let Some(remote) = self.remote(network, now) else { return };
        remote.last_used = now;
        if remote.channel.can_send(now) {
            return self.send_sealed(network, packet, partial_checksum, now);
        }
        if remote.queue.len() >= QUEUED_PACKETS_MAX {
            remote.queue.pop_front();
            self.counters.dropped_queue_full += 1;
        }
        let Some(remote) = self.remotes.get_mut(&network) else { return };
        remote.queue.push_back((packet.to_vec(), partial_checksum));
        if !remote.channel.is_handshaking() {
            self.start_remote_handshake(network, now);
        }
    }

    /// Whether a packet of this machine belongs into the mesh.
    pub(super) fn may_leave(&self, source: Ipv6Addr, target: Ipv6Addr) -> bool {
        self.network.contains(source) && self.prefix.contains(target) && !self.network.contains(target)
    }

    /// Tells the sender of a packet why it does not go.
    fn refuse(&mut self, packet: &[u8], why: Refusal, now: Time) {
        if self.icmp_rate.allow(now)
            && let Some(error) = packet::refusal(self.own_address(), packet, why)
        {
            self.deliver(error);
        }
    }

    pub(super) fn handle_remote_timeout(&mut self, network: MeshAddr, now: Time) {
        let Some(remote) = self.remotes.get_mut(&network) else { return };
        let was_handshaking = remote.channel.is_handshaking();
        let frame = remote.channel.handle_timeout(now);
        if now.since(remote.last_used) >= REMOTE_IDLE {
            self.remotes.remove(&network);
            return;
        }
        if was_handshaking && !remote.channel.is_handshaking() && !remote.channel.can_send(now) {
            // Given up. Whoever still wants it starts again with the next packet.
            self.counters.dropped_no_session += remote.queue.len() as u64;
            remote.queue.clear();
        }
        if let Some(frame) = frame {
            self.send_end_to_end(network, &frame, now);
        }
        self.schedule_remote(network);
    }

    /// Takes a frame of a handshake from a far node, or a hint.
    pub(super) fn handle_far_frame(&mut self, source: MeshAddr, data: &[u8], now: Time) {
        match self.mac.parse(data) {
            Ok(Frame::Init { sender, noise }) => self.handle_remote_init(source, sender, noise, now),
            Ok(Frame::Response { sender, receiver, noise }) => {
                self.handle_remote_response(source, (sender, receiver, noise), now);
            }
            Ok(Frame::Finish { receiver, noise }) => self.handle_remote_finish(source, receiver, noise, now),
            Ok(Frame::Unknown { index }) => {
                let hinted = self.remotes.get_mut(&source);
                if hinted.is_some_and(|remote| remote.channel.handle_hint(index, now)) {
                    self.start_remote_handshake(source, now);
                }
            }
            Ok(Frame::Data { .. } | Frame::Control { .. }) | Err(_) => self.counters.dropped_malformed += 1,
        }
    }

    fn handle_remote_init(&mut self, source: MeshAddr, sender: u32, noise: &[u8], now: Time) {
        if source == self.network || !self.handshake_rate.allow(now) {
            return self.counters.dropped_handshakes += 1;
        }
        let ours = self.remotes.get_mut(&source);
        if let Some(remote) = ours.filter(|remote| !remote.channel.yields_to(noise)) {
            if let Some(frame) = remote.channel.remind(now) {
                self.send_end_to_end(source, &frame, now);
            }
            return;
        }
        let scope = Scope::EndToEnd { initiator: source, responder: self.network };
        let index = self.fresh_index();
        let message = (sender, noise);
        let answer =
            self.remote_accepts.answer(&self.local, &self.mac, &mut self.rng, scope, source, message, index, now);
        match answer {
            Ok(frame) => self.send_end_to_end(source, &frame, now),
            Err(_) => self.counters.dropped_forged += 1,
        }
    }

    fn handle_remote_response(&mut self, source: MeshAddr, message: (u32, u32, &[u8]), now: Time) {
        let Some(remote) = self.remotes.get_mut(&source) else {
            return self.counters.dropped_unknown_session += 1;
        };
        let region = self.local.region;
        // The identity must be the one to which the address belongs: that is what makes addresses self-certifying.
        let expect = |proven: &Proven| MeshAddr::of(region, proven.node) == source;
        match remote.channel.handle_response(&self.local, &self.mac, message, expect, now) {
            Ok((proven, frame)) => {
                self.send_end_to_end(source, &frame, now);
                self.handle_remote_established(source, proven, now);
            }
            Err(_) => self.counters.dropped_forged += 1,
        }
    }

    fn handle_remote_finish(&mut self, source: MeshAddr, index: u32, noise: &[u8], now: Time) {
        match self.remote_accepts.finish(&self.local, index, noise, now) {
            Some(Ok(Accepted { from, proven, transport, early })) => {
                if from != source || MeshAddr::of(self.local.region, proven.node) != source {
                    return self.counters.dropped_forged += 1;
                }
                let Some(remote) = self.remote(source, now) else { return };
                remote.channel.accept(transport, now);
                self.handle_remote_established(source, proven, now);
                self.send_sealed(source, &[], false, now);
                for frame in early {
                    self.handle_early(frame, now);
                }
            }
            Some(Err(_)) => self.counters.dropped_forged += 1,
            None => {
                let waiting = self.remotes.get(&source).is_some_and(|r| r.channel.awaits_confirmation(index));
                if waiting {
                    self.send_sealed(source, &[], false, now);
                }
            }
        }
    }

    fn handle_remote_established(&mut self, network: MeshAddr, proven: Proven, now: Time) {
        if let Some(remote) = self.remotes.get_mut(&network) {
            remote.node = Some(proven.node);
        }
        self.event(Event::SessionUp { node: proven.node });
        self.flush_queue(network, now);
        self.schedule_remote(network);
    }

    pub(super) fn flush_queue(&mut self, network: MeshAddr, now: Time) {
        let Some(remote) = self.remotes.get_mut(&network) else { return };
        for (packet, partial_checksum) in core::mem::take(&mut remote.queue) {
            self.send_sealed(network, &packet, partial_checksum, now);
        }
    }

    /// Takes a data frame that waited for its handshake.
    fn handle_early(&mut self, mut frame: Vec<u8>, now: Time) {
        let steering = frame[STEERING_AT..].first_chunk().and_then(Steering::parse);
        let Some(steering) = steering else { return };
        if let Received::Packet(record) = self.handle_end_to_end(&steering, &mut frame, now) {
            let packet = &mut frame[record.start..record.end];
            if record.flags.partial_checksum {
                complete_checksum(packet);
            }
            let packet = packet.to_vec();
            self.deliver(packet);
        }
    }

    pub(super) fn rekey_remote(&mut self, network: MeshAddr, now: Time) {
        if self.remotes.get(&network).is_some_and(|remote| remote.channel.wants_rekey(&self.tuning, now)) {
            self.start_remote_handshake(network, now);
        }
    }

    fn start_remote_handshake(&mut self, network: MeshAddr, now: Time) {
        let index = self.fresh_index();
        let scope = Scope::EndToEnd { initiator: self.network, responder: network };
        let Some(remote) = self.remotes.get_mut(&network) else { return };
        let frame = remote.channel.start(&self.local, &self.mac, &mut self.rng, scope, index, now);
        self.send_end_to_end(network, &frame, now);
        self.schedule_remote(network);
    }

    /// Seals a packet (or nothing, as a sign of life) for the far end.
    pub(super) fn send_sealed(&mut self, network: MeshAddr, packet: &[u8], partial_checksum: bool, now: Time) {
        let Some(mut sealer) = self.open_path(network, packet, packet.len(), now) else {
            return self.counters.dropped_no_session += 1;
        };
        let mut frame = vec![0; packet.len() + OVERHEAD_BYTES];
        frame[HEADROOM_BYTES..HEADROOM_BYTES + packet.len()].copy_from_slice(packet);
        sealer.seal(&mut frame, RecordFlags { continues: false, partial_checksum });
        let to = sealer.to();
        self.queue_transmit(to, frame);
    }

    /// Sends a frame of a handshake to the far end.
    pub(super) fn send_end_to_end(&mut self, network: MeshAddr, inner: &[u8], now: Time) {
        let Some(route) = self.router.route(network) else {
            return self.counters.dropped_no_route += 1;
        };
        let id = route.link;
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(keys) = link.channel.sender(now) else {
            return self.counters.dropped_no_session += 1;
        };
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
        let mut frame = vec![0; RECORD_AT + inner.len()];
        frame[STEERING_AT..RECORD_AT].copy_from_slice(&steering.to_bytes());
        frame[RECORD_AT..].copy_from_slice(inner);
        keys.close_steering(&mut frame);
        link.tx_bytes += frame.len() as u64;
        let to = link.endpoint;
        self.transmit(to, frame);
    }

    /// The far end, known or new; nothing if there are too many in use.
    fn remote(&mut self, network: MeshAddr, now: Time) -> Option<&mut Remote> {
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

    fn schedule_remote(&mut self, network: MeshAddr) {
        let Some(remote) = self.remotes.get(&network) else { return };
        let idle = remote.last_used + REMOTE_IDLE;
        let deadline = remote.channel.deadline().map_or(idle, |channel| channel.min(idle));
        self.timers.set(Timer::Remote(network), Some(deadline));
    }
}
