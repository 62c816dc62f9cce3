//! Frames that have to wait, because the socket is full.
//!
//! A frame waits with its steering open: it gets its link, its link's counter and its mark when it leaves. So waiting
//! and dropping look to the neighbour like nothing at all, and a route that changes meanwhile is followed.

use std::net::SocketAddr;

use super::Mesh;
use crate::{
    ecn::Ecn,
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

impl Mesh {
    /// Says whether the socket is full. From now on all frames with data wait in a queue that shares the socket fairly
    /// ([`FairQueue`](crate::queue::FairQueue)); what [`Self::poll_transmit`] gives goes before them. Only an empty
    /// queue lets frames pass again.
    pub const fn hold(&mut self, is_full: bool) {
        self.is_holding = is_full || !self.queue.is_empty();
        self.count_queue();
    }

    /// The next datagram that waited, when the socket takes more.
    #[must_use]
    pub fn poll_held(&mut self, now: Time) -> Option<Held<'_>> {
        let mut frame = core::mem::take(&mut self.leaving);
        let next = loop {
            let Some(popped) = self.queue.pop(&mut frame, now) else { break None };
            if popped.is_marked {
                frame[ECN_AT] |= Ecn::Congested.bits();
            }
            let ecn = Ecn::of_bits(frame[ECN_AT]);
            if let Some(to) = self.forward(popped.about, target(&frame), &mut frame, now) {
                break Some((to, ecn));
            }
        };
        self.leaving = frame;
        self.count_queue();
        next.map(|(to, ecn)| Held { to, ecn, data: &self.leaving })
    }

    const fn count_queue(&mut self) {
        let counts = self.queue.counts();
        self.counters.queue_pushed = counts.pushed;
        self.counters.queue_dropped_full = counts.dropped_full;
        self.counters.queue_dropped_late = counts.dropped_late;
        self.counters.queue_marked = counts.marked;
    }

    /// Bytes and datagrams that wait.
    pub const fn held(&self) -> (usize, usize) {
        (self.queue.bytes(), self.queue.datagrams())
    }
}
