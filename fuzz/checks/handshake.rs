//! Two nodes and an attacker between them who does what the input says: lets through, drops, repeats, alters, forges. When
//! the attacker stops, the nodes have a link within seconds.

use core::time::Duration;
use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
};

use atoll_base::{NodeSecret, RegionId};
use atoll_mesh_core::{
    Mesh, Origin, Settings, Time, Tuning,
    wire::{
        RegionMac,
        handshake::{Cookie, FINISH_CONTENT_BYTES, Part, RESPONSE_CONTENT_BYTES, RefuseReason},
    },
};
use atoll_sim::kem::SeededKem;

const REGION: RegionId = RegionId([7; 32]);

struct Wire {
    nodes: [Mesh; 2],
    /// Datagrams under way: to whom, and what.
    queue: VecDeque<(usize, Vec<u8>)>,
    old: Vec<(usize, Vec<u8>)>,
    now: Time,
}

/// Checks one input.
pub(crate) fn check(data: &[u8]) {
    let mut wire = Wire { nodes: [node(1), node(2)], queue: VecDeque::new(), old: Vec::new(), now: Time::ZERO };
    wire.nodes[0].add_peer(endpoint(1), Origin::Static, Time::ZERO);
    if data.first().is_some_and(|first| first & 1 == 1) {
        wire.nodes[1].add_peer(endpoint(0), Origin::Static, Time::ZERO);
    }
    wire.tick(Duration::ZERO);
    let mac = RegionMac::of(REGION);
    for step in data.chunks(3).take(400) {
        let (a, b) = (step.get(1).copied().unwrap_or(0), step.get(2).copied().unwrap_or(0));
        wire.attack(&mac, step[0], a, b);
    }
    for _ in 0..200 {
        wire.tick(Duration::from_millis(100));
        while let Some((target, datagram)) = wire.queue.pop_front() {
            wire.deliver(target, datagram);
        }
    }
    assert!(wire.nodes.iter().all(|node| node.link_status().iter().any(|link| link.is_up)), "no link after 20 s");
}

impl Wire {
    fn attack(&mut self, mac: &RegionMac, what: u8, a: u8, b: u8) {
        let target = usize::from(a & 1);
        let index = self.queue.front().map_or(0, |(_, data)| u32::from_be_bytes([data[4], data[5], data[6], data[7]]));
        let part = Part::BOTH[usize::from(b & 1)];
        match what % 12 {
            0..=3 => {
                if let Some((target, datagram)) = self.queue.pop_front() {
                    self.deliver(target, datagram);
                }
            }
            4 => drop(self.queue.pop_front()),
            5 => {
                if let Some(front) = self.queue.pop_front() {
                    self.queue.push_back(front);
                }
            }
            6 => {
                if let Some((target, mut datagram)) = self.queue.front().cloned() {
                    let at = usize::from(a) * 3 % datagram.len();
                    datagram[at] ^= b.max(1);
                    self.deliver(target, datagram);
                }
            }
            7 => {
                if let Some((target, datagram)) = self.old.get(usize::from(a) % self.old.len().max(1)).cloned() {
                    self.deliver(target, datagram);
                }
            }
            8 => self.tick(Duration::from_millis(u64::from(a) * 4)),
            9 => self.deliver(target, mac.response(part, index, &[b; RESPONSE_CONTENT_BYTES])),
            10 => self.deliver(target, mac.finish(part, index, &[b; FINISH_CONTENT_BYTES])),
            _ => self.deliver(
                target,
                match b % 4 {
                    0 => mac.unknown(index),
                    1 => mac.cookie(index, [b; 8], &Cookie([a; 16])),
                    2 => mac.refuse(RefuseReason::NotAMember, index, &[a; 16]),
                    _ => mac.init(part, index, &[a; 32], None),
                },
            ),
        }
    }

    fn deliver(&mut self, target: usize, mut datagram: Vec<u8>) {
        if self.old.len() < 64 {
            self.old.push((target, datagram.clone()));
        }
        let _ = self.nodes[target].handle_datagram(endpoint(1 - target), &mut datagram, self.now);
        self.drain();
    }

    fn tick(&mut self, duration: Duration) {
        self.now = self.now + duration;
        for node in &mut self.nodes {
            node.handle_timeout(self.now);
        }
        self.drain();
    }

    fn drain(&mut self) {
        for (sender, node) in self.nodes.iter_mut().enumerate() {
            while let Some(transmit) = node.poll_transmit() {
                if self.queue.len() < 256 {
                    self.queue.push_back((1 - sender, transmit.data));
                }
            }
            while node.poll_event().is_some() || node.poll_packet().is_some() {}
            let (strangers, proven) = node.half_open();
            assert!(strangers <= 128 && proven <= 512);
        }
    }
}

fn endpoint(node: usize) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(192, 0, 2, 1 + node as u8).into(), 4870)
}

fn node(seed: u8) -> Mesh {
    let settings = Settings {
        secret: NodeSecret::from_seed([seed; 32]),
        region: REGION,
        seed: [seed; 32],
        kem: Box::new(SeededKem::new([seed; 32])),
        epoch: 1,
        tuning: Tuning::default(),
    };
    Mesh::new(settings, Time::ZERO)
}
