//! What goes through the daemon, for its owner to look at.
//!
//! Packets of this machine are shown whole. Of frames there is only what an observer of the link sees, and what became
//! of them: contents of others are sealed, and own ones are shown as packets. While nobody looks, nothing of this runs.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use atoll_api::mesh::{CaptureRequest, Captured, Way};
use atoll_base::{MeshAddr, NodeId, RegionId};
use atoll_mesh_core::{Mesh, Received, offload::complete_checksum, packet_addresses};
use tokio::sync::mpsc::{self, error::TrySendError};

use crate::limits::CAPTURED_MAX;

/// Kinds of frames, by their first byte.
const KINDS: [&str; 10] =
    ["other", "init", "response", "finish", "data", "unknown", "cookie", "refuse", "control", "probe"];

/// A capture that runs.
pub(crate) struct Tap {
    request: CaptureRequest,
    /// Network of the node that is asked for.
    network: Option<MeshAddr>,
    region: RegionId,
    neighbours: BTreeMap<SocketAddr, NodeId>,
    sender: mpsc::Sender<Captured>,
    /// What was left out since the last that was not.
    missed: u64,
}

/// What was counted before something was given to the core.
pub(crate) struct Before(Vec<(&'static str, u64)>);

impl Before {
    pub(crate) fn of(mesh: &Mesh) -> Self {
        Self(mesh.counters().all())
    }

    /// Why something was dropped since then.
    fn dropped(&self, mesh: &Mesh) -> Option<String> {
        let now = mesh.counters().all().into_iter();
        let mut grown = now.zip(&self.0).filter(|((_, now), (_, before))| now > before).map(|((name, _), _)| name);
        grown.find_map(|name| Some(name.strip_prefix("dropped_").or(name.strip_prefix("refused_"))?.to_owned()))
    }
}

impl Tap {
    /// A capture of what is asked for, and where it comes out.
    pub(crate) fn new(request: CaptureRequest, region: RegionId) -> (Self, mpsc::Receiver<Captured>) {
        let (sender, receiver) = mpsc::channel(CAPTURED_MAX);
        let network = request.node.map(|node| MeshAddr::of(region, node));
        (Self { request, network, region, neighbours: BTreeMap::new(), sender, missed: 0 }, receiver)
    }

    /// Whether nobody looks any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(crate) fn set_neighbours(&mut self, neighbours: BTreeMap<SocketAddr, NodeId>) {
        self.neighbours = neighbours;
    }

    /// A packet that comes out of the mesh, or goes into it; `before` is of before it was given to the core.
    pub(crate) fn packet(&mut self, way: Way, packet: &[u8], partial_checksum: bool, before: Option<(&Before, &Mesh)>) {
        if !self.request.packets || !self.wants_packet(packet) {
            return;
        }
        let dropped = before.and_then(|(before, mesh)| before.dropped(mesh));
        let bytes = if partial_checksum {
            let mut whole = packet.to_vec();
            complete_checksum(&mut whole);
            hex::encode(whole)
        } else {
            hex::encode(packet)
        };
        self.put(Captured::Packet { at_us: now_us(), way, bytes, dropped });
    }

    /// A datagram that came in, of this kind and length, and what became of it.
    pub(crate) fn frame_in(
        &mut self,
        (kind, length): (u8, usize),
        from: SocketAddr,
        outcome: &Received,
        before: &Before,
        mesh: &Mesh,
    ) {
        let relayed = matches!(outcome, Received::Relay { .. });
        self.frame(Way::In, (kind, length), from, relayed, before.dropped(mesh));
    }

    /// A datagram that goes out.
    pub(crate) fn frame_out(&mut self, kind: u8, length: usize, to: SocketAddr, relayed: bool) {
        self.frame(Way::Out, (kind, length), to, relayed, None);
    }

    fn frame(
        &mut self,
        way: Way,
        (kind, length): (u8, usize),
        endpoint: SocketAddr,
        relayed: bool,
        dropped: Option<String>,
    ) {
        let node = self.neighbours.get(&endpoint).copied();
        if !self.request.frames || !self.wants_neighbour(node) {
            return;
        }
        let kind = (*KINDS.get(usize::from(kind)).unwrap_or(&KINDS[0])).to_owned();
        self.put(Captured::Frame { at_us: now_us(), way, kind, length, node, endpoint, relayed, dropped });
    }

    fn wants_packet(&self, packet: &[u8]) -> bool {
        if self.request.address.is_none() && self.network.is_none() {
            return true;
        }
        let Some((source, target)) = packet_addresses(packet) else { return false };
        let is_end = |wanted| source == wanted || target == wanted;
        self.request.address.is_none_or(is_end)
            && self.network.is_none_or(|network| network.contains(source) || network.contains(target))
    }

    fn wants_neighbour(&self, node: Option<NodeId>) -> bool {
        let has_address = |address| node.is_some_and(|node| MeshAddr::of(self.region, node).contains(address));
        self.request.node.is_none_or(|wanted| node == Some(wanted)) && self.request.address.is_none_or(has_address)
    }

    fn put(&mut self, captured: Captured) {
        if self.missed > 0 {
            match self.sender.try_send(Captured::Missed { count: self.missed }) {
                Ok(()) => self.missed = 0,
                Err(_) => return self.missed += 1,
            }
        }
        if let Err(TrySendError::Full(_)) = self.sender.try_send(captured) {
            self.missed += 1;
        }
    }
}

fn now_us() -> u64 {
    let passed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(passed.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_read_is_left_out_and_counted() {
        let request = CaptureRequest { frames: true, ..CaptureRequest::default() };
        let (mut tap, mut captured) = Tap::new(request, RegionId([1; 32]));
        let endpoint = "192.0.2.1:4870".parse().expect("an endpoint");
        for _ in 0..CAPTURED_MAX + 7 {
            tap.frame_out(8, 100, endpoint, false);
        }
        for _ in 0..CAPTURED_MAX {
            let Ok(Captured::Frame { kind, length, .. }) = captured.try_recv() else { panic!("a frame") };
            assert_eq!((kind.as_str(), length), ("control", 100));
        }
        assert!(captured.try_recv().is_err());
        tap.frame_out(99, 100, endpoint, false);
        assert_eq!(captured.try_recv(), Ok(Captured::Missed { count: 7 }));
        let Ok(Captured::Frame { kind, .. }) = captured.try_recv() else { panic!("a frame") };
        assert_eq!(kind, "other");
        assert!(!tap.is_closed());
        drop(captured);
        assert!(tap.is_closed());
    }

    #[test]
    fn only_what_is_asked_for_is_shown() {
        let region = RegionId([1; 32]);
        let [near, far] = [7, 8].map(|byte| NodeId([byte; 32]));
        let packet = |source: MeshAddr, target: MeshAddr| {
            let mut packet = vec![0x60, 0, 0, 0, 0, 0, 59, 64];
            packet.extend_from_slice(&source.host(5).octets());
            packet.extend_from_slice(&target.host(6).octets());
            packet
        };
        let own = MeshAddr::of(region, NodeId([9; 32]));
        let packets = [near, far].map(|node| packet(own, MeshAddr::of(region, node)));
        let endpoints = ["192.0.2.1:4870", "192.0.2.2:4870"].map(|text| text.parse().expect("an endpoint"));
        let count = |request: CaptureRequest| {
            let (mut tap, mut captured) = Tap::new(request, region);
            tap.set_neighbours(endpoints.into_iter().zip([near, far]).collect());
            for (packet, endpoint) in packets.iter().zip(endpoints) {
                tap.packet(Way::Out, packet, false, None);
                tap.frame_out(4, 82, endpoint, false);
            }
            tap.frame_out(1, 734, "192.0.2.3:1".parse().expect("an endpoint"), false);
            let mut counts = (0, 0);
            while let Ok(one) = captured.try_recv() {
                match one {
                    Captured::Packet { .. } => counts.0 += 1,
                    Captured::Frame { .. } => counts.1 += 1,
                    Captured::Missed { .. } => panic!("nothing was missed"),
                }
            }
            counts
        };
        let all = CaptureRequest { packets: true, frames: true, ..CaptureRequest::default() };
        assert_eq!(count(all.clone()), (2, 3));
        assert_eq!(count(CaptureRequest { packets: false, ..all.clone() }), (0, 3));
        assert_eq!(count(CaptureRequest { node: Some(far), ..all.clone() }), (1, 1));
        let address = Some(MeshAddr::of(region, near).host(6));
        assert_eq!(count(CaptureRequest { address, ..all.clone() }), (1, 1));
        let another = Some(MeshAddr::of(region, near).host(9));
        assert_eq!(count(CaptureRequest { address: another, ..all }), (0, 1), "frames have no addresses to be seen");
    }
}
