//! Frames that have to wait, because the socket, or a connection, is full.
//!
//! A frame waits with its steering open: it gets its link, its link's counter and its mark when it leaves. So waiting
//! and dropping look to the neighbour like nothing at all, and a route that changes meanwhile is followed.
//!
//! There is one queue for the socket, and one for each connection that is full: a slow one does not keep others waiting.

use std::{collections::BTreeMap, net::SocketAddr};

use super::{LinkId, Mesh};
use crate::{
    ecn::Ecn,
    limits::STREAM_QUEUES_BYTES_MAX,
    queue::{FairQueue, QueueCounts},
    stream::is_stream,
    time::Time,
    wire::data::{ECN_AT, target},
};

/// A datagram that waited.
#[derive(Debug, PartialEq, Eq)]
pub struct Held<'a> {
    /// Where to.
    pub to: SocketAddr,
    /// Congestion bits for its own IP header.
    pub ecn: Ecn,
    /// Its bytes.
    pub data: &'a [u8],
}

/// Frames that wait, and over which link each came; none: it is of this node.
pub(super) type Frames = FairQueue<Option<LinkId>>;

/// The queue in which frames for a neighbour's endpoint have to wait, if they have to.
pub(super) fn queue_of<'a>(
    streams: &'a mut BTreeMap<SocketAddr, Frames>,
    socket: &'a mut Frames,
    is_holding: bool,
    endpoint: SocketAddr,
) -> Option<&'a mut Frames> {
    if is_stream(endpoint.ip()) { streams.get_mut(&endpoint) } else { is_holding.then_some(socket) }
}

impl Mesh {
    /// Says whether the socket is full. From now on all frames with data wait in a queue that shares the socket fairly
    /// ([`FairQueue`]); what [`Self::poll_transmit`] gives goes before them. Only an empty queue lets frames pass again.
    pub fn hold(&mut self, is_full: bool) {
        self.is_holding = is_full || !self.queue.is_empty();
        self.count_queues();
    }

    /// Says the same of the connection for which `endpoint` stands; frames wait for it in a queue of their own.
    pub fn hold_stream(&mut self, endpoint: SocketAddr, is_full: bool) {
        if !is_full {
            if self.stream_queues.get(&endpoint).is_some_and(FairQueue::is_empty) {
                self.end_stream(endpoint);
            }
        } else if is_stream(endpoint.ip()) && !self.stream_queues.contains_key(&endpoint) {
            self.stream_queues.insert(endpoint, FairQueue::small(&self.queue_secret));
            self.share_streams();
        }
        self.count_queues();
    }

    /// The connection is gone, and what waited for it.
    pub fn end_stream(&mut self, endpoint: SocketAddr) {
        if let Some(queue) = self.stream_queues.remove(&endpoint) {
            let counts = queue.counts();
            self.queues_gone = sum(self.queues_gone, counts);
            self.queues_gone.dropped_full += queue.datagrams() as u64;
            self.share_streams();
        }
    }

    /// The next datagram that waited, when the socket takes more.
    #[must_use]
    pub fn poll_held(&mut self, now: Time) -> Option<Held<'_>> {
        self.poll_queue(None, now)
    }

    /// The same when the connection takes more. It may have to go elsewhere by now.
    #[must_use]
    pub fn poll_held_stream(&mut self, endpoint: SocketAddr, now: Time) -> Option<Held<'_>> {
        self.poll_queue(Some(endpoint), now)
    }

    fn poll_queue(&mut self, stream: Option<SocketAddr>, now: Time) -> Option<Held<'_>> {
        let mut frame = core::mem::take(&mut self.leaving);
        let next = loop {
            let queue = match stream {
                None => Some(&mut self.queue),
                Some(endpoint) => self.stream_queues.get_mut(&endpoint),
            };
            let Some(popped) = queue.and_then(|queue| queue.pop(&mut frame, now)) else { break None };
            if popped.is_marked {
                frame[ECN_AT] |= Ecn::Congested.bits();
            }
            let ecn = Ecn::of_bits(frame[ECN_AT]);
            if let Some(to) = self.forward(popped.about, target(&frame), &mut frame, now) {
                break Some((to, ecn));
            }
        };
        self.leaving = frame;
        if next.is_none() {
            self.count_queues();
        }
        next.map(|(to, ecn)| Held { to, ecn, data: &self.leaving })
    }

    /// Gives each connection that is full its part of what may wait.
    fn share_streams(&mut self) {
        let bytes_max = STREAM_QUEUES_BYTES_MAX / self.stream_queues.len().max(1);
        for queue in self.stream_queues.values_mut() {
            queue.limit(bytes_max);
        }
    }

    fn count_queues(&mut self) {
        let streams = self.stream_queues.values().map(FairQueue::counts);
        let counts = streams.fold(sum(self.queues_gone, self.queue.counts()), sum);
        self.counters.queue_pushed = counts.pushed;
        self.counters.queue_dropped_full = counts.dropped_full;
        self.counters.queue_dropped_late = counts.dropped_late;
        self.counters.queue_marked = counts.marked;
    }

    /// Bytes and datagrams that wait for the socket.
    pub const fn held(&self) -> (usize, usize) {
        (self.queue.bytes(), self.queue.datagrams())
    }

    /// The same for the connection for which `endpoint` stands.
    pub fn held_stream(&self, endpoint: SocketAddr) -> (usize, usize) {
        self.stream_queues.get(&endpoint).map_or((0, 0), |queue| (queue.bytes(), queue.datagrams()))
    }
}

const fn sum(a: QueueCounts, b: QueueCounts) -> QueueCounts {
    QueueCounts {
        pushed: a.pushed + b.pushed,
        popped: a.popped + b.popped,
        dropped_full: a.dropped_full + b.dropped_full,
        dropped_late: a.dropped_late + b.dropped_late,
        marked: a.marked + b.marked,
    }
}
