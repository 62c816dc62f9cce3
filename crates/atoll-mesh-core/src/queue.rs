//! The queue before a link that takes less than comes in: FQ-CoDel (RFC 8290).
//!
//! Datagrams wait in the queues of their flows. These take turns by deficit round robin, new ones first, so that a
//! flow that sends little never waits for one that sends much; each has a CoDel of its own, which tells senders early
//! that they send too fast. A full queue drops from the flow that holds most. Buffers are used again and again: nothing is
//! allocated for a datagram once the queue was as full before.
//!
//! ```text
//! push ─▶ hash of the flow ─▶ [flow 0 ] ─┐  new flows first, then old ones, a quantum of bytes each
//!                             [flow 1 ] ─┼─▶ CoDel: pass, mark or drop ─▶ pop
//!                             [ ...   ] ─┘
//! ```

mod codel;

use core::hash::Hasher as _;
use std::collections::VecDeque;

use siphasher::sip::SipHasher24;

use crate::{
    limits::{
        QUEUE_BUFFER_BYTES, QUEUE_BYTES_MAX, QUEUE_DATAGRAMS_MAX, QUEUE_DROPS_MAX, QUEUE_FLOWS, QUEUE_QUANTUM_BYTES,
        STREAM_QUEUE_FLOWS,
    },
    time::Time,
};
use codel::{Codel, Verdict};

/// What was counted since the start. `pushed` is the sum of what was popped, dropped, and still waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// Datagrams that came in.
    pub pushed: u64,
    /// Datagrams that were handed out.
    pub popped: u64,
    /// Datagrams that were dropped because the queue was full.
    pub dropped_full: u64,
    /// Datagrams that CoDel dropped.
    pub dropped_late: u64,
    /// Datagrams that CoDel wanted to be marked; they are among the popped ones.
    pub marked: u64,
}

/// A datagram that leaves the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Popped<T> {
    /// What was said of it.
    pub about: T,
    /// It is to be marked "congestion experienced".
    pub is_marked: bool,
}

/// An FQ-CoDel queue. With each datagram it keeps a `T`.
pub struct FairQueue<T> {
    hasher: SipHasher24,
    slots: Vec<Slot<T>>,
    /// First of the slots that are free.
    free: Option<u16>,
    flows: Box<[Flow]>,
    /// Flows that just began to send, and those that went on.
    new: VecDeque<u16>,
    old: VecDeque<u16>,
    bytes: usize,
    datagrams: usize,
    counts: QueueCounts,
    /// Most bytes that may wait.
    bytes_max: usize,
    /// Buffers up to this size are used again.
    kept_bytes: usize,
}

struct Slot<T> {
    data: Vec<u8>,
    about: Option<T>,
    since: Time,
    can_mark: bool,
    /// The slot behind this one, in its flow or among the free ones.
    next: Option<u16>,
}

#[derive(Clone, Default)]
struct Flow {
    head: Option<u16>,
    tail: Option<u16>,
    bytes: usize,
    datagrams: usize,
    deficit: isize,
    is_listed: bool,
    codel: Codel,
}

impl<T> FairQueue<T> {
    /// An empty queue. The secret keeps strangers from choosing flows that share a queue with somebody else's.
    pub fn new(secret: &[u8; 16]) -> Self {
        Self::with_flows(secret, QUEUE_FLOWS, QUEUE_BUFFER_BYTES)
    }

    /// One of many, which keeps no memory that it does not need now, and tells fewer flows apart.
    pub fn small(secret: &[u8; 16]) -> Self {
        Self::with_flows(secret, STREAM_QUEUE_FLOWS, 0)
    }

    fn with_flows(secret: &[u8; 16], flows: usize, kept_bytes: usize) -> Self {
        Self {
            hasher: SipHasher24::new_with_key(secret),
            slots: Vec::new(),
            free: None,
            flows: vec![Flow::default(); flows].into_boxed_slice(),
            new: VecDeque::with_capacity(flows),
            old: VecDeque::with_capacity(flows),
            bytes: 0,
            datagrams: 0,
            counts: QueueCounts::default(),
            bytes_max: QUEUE_BYTES_MAX,
            kept_bytes,
        }
    }

    /// Lets at most so many bytes wait, and never more than [`QUEUE_BYTES_MAX`]; what is too much is dropped.
    pub fn limit(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max.min(QUEUE_BYTES_MAX);
        while self.bytes > self.bytes_max {
            self.drop_from_fattest();
        }
    }

    /// Takes a copy of a datagram of the flow that these bytes name; `can_mark` if a mark is understood. If that is too
    /// much for the queue, it drops something from the flow that holds most.
    pub fn push(&mut self, flow: &[u8], about: T, data: &[u8], can_mark: bool, now: Time) {
        self.counts.pushed += 1;
        if data.len() > self.bytes_max {
            self.counts.dropped_full += 1;
            return;
        }
        while self.datagrams >= QUEUE_DATAGRAMS_MAX || self.bytes + data.len() > self.bytes_max {
            self.drop_from_fattest();
        }
        let number = self.flow(flow);
        let index = self.take_slot();
        let slot = &mut self.slots[usize::from(index)];
        slot.data.clear();
        slot.data.extend_from_slice(data);
        (slot.about, slot.since, slot.can_mark, slot.next) = (Some(about), now, can_mark, None);
        let flow = &mut self.flows[usize::from(number)];
        flow.bytes += data.len();
        flow.datagrams += 1;
        self.bytes += data.len();
        self.datagrams += 1;
        if !flow.is_listed {
            flow.is_listed = true;
            flow.deficit = QUEUE_QUANTUM_BYTES as isize;
            self.new.push_back(number);
        }
        match flow.tail.replace(index) {
            Some(tail) => self.slots[usize::from(tail)].next = Some(index),
            None => flow.head = Some(index),
        }
    }

    /// Puts the next datagram in place of what is in `buffer`, which the queue keeps for later use. Nothing if none is
    /// left (RFC 8290 section 4.2).
    pub fn pop(&mut self, buffer: &mut Vec<u8>, now: Time) -> Option<Popped<T>> {
        loop {
            let is_new = !self.new.is_empty();
            let list = if is_new { &mut self.new } else { &mut self.old };
            let number = *list.front()?;
            let flow = &mut self.flows[usize::from(number)];
            if flow.deficit <= 0 {
                flow.deficit += QUEUE_QUANTUM_BYTES as isize;
                list.pop_front();
                self.old.push_back(number);
                continue;
            }
            if let Some((index, is_marked)) = self.next_of(number, now) {
                let slot = &mut self.slots[usize::from(index)];
                self.flows[usize::from(number)].deficit -= slot.data.len() as isize;
                core::mem::swap(buffer, &mut slot.data);
                let about = slot.about.take().expect("a slot in use says what it holds");
                self.release(index);
                self.counts.popped += 1;
                return Some(Popped { about, is_marked });
            }
            let list = if is_new { &mut self.new } else { &mut self.old };
            list.pop_front();
            // A new flow goes once through the old ones, so that it cannot be new again and again.
            if is_new && !self.old.is_empty() {
                self.old.push_back(number);
            } else {
                self.flows[usize::from(number)].is_listed = false;
            }
        }
    }

    /// Whether nothing waits.
    pub const fn is_empty(&self) -> bool {
        self.datagrams == 0
    }

    /// Bytes of the datagrams that wait.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Datagrams that wait.
    pub const fn datagrams(&self) -> usize {
        self.datagrams
    }

    /// Flows of which datagrams wait.
    pub fn flows(&self) -> usize {
        self.flows.iter().filter(|flow| flow.datagrams > 0).count()
    }

    /// What was counted.
    pub const fn counts(&self) -> QueueCounts {
        self.counts
    }

    fn flow(&self, name: &[u8]) -> u16 {
        let mut hasher = self.hasher;
        hasher.write(name);
        (hasher.finish() % self.flows.len() as u64) as u16
    }

    /// The next datagram of a flow that CoDel lets pass, taken out of the flow; and whether it is to be marked.
    fn next_of(&mut self, number: u16, now: Time) -> Option<(u16, bool)> {
        loop {
            let Some(index) = self.unlink_head(number) else {
                self.flows[usize::from(number)].codel.handle_empty();
                return None;
            };
            let slot = &self.slots[usize::from(index)];
            let flow = &mut self.flows[usize::from(number)];
            match flow.codel.judge(now.since(slot.since), flow.bytes, now) {
                Verdict::Pass => return Some((index, false)),
                Verdict::Signal if slot.can_mark => {
                    self.counts.marked += 1;
                    return Some((index, true));
                }
                Verdict::Signal => {
                    self.counts.dropped_late += 1;
                    self.release(index);
                }
            }
        }
    }

    /// Drops half of what the flow holds that has most bytes, up to [`QUEUE_DROPS_MAX`] datagrams, oldest first
    /// (RFC 8290 section 5.2: looking for it is dear, and so done once for many).
    fn drop_from_fattest(&mut self) {
        let fattest =
            (0..).zip(&self.flows).max_by_key(|(_, flow)| (flow.bytes, flow.datagrams)).map_or(0, |(number, _)| number);
        let half = self.flows[usize::from(fattest)].bytes / 2;
        for _ in 0..QUEUE_DROPS_MAX {
            let Some(index) = self.unlink_head(fattest) else { return };
            self.release(index);
            self.counts.dropped_full += 1;
            if self.flows[usize::from(fattest)].bytes <= half {
                return;
            }
        }
    }

    fn unlink_head(&mut self, number: u16) -> Option<u16> {
        let flow = &mut self.flows[usize::from(number)];
        let index = flow.head?;
        let slot = &mut self.slots[usize::from(index)];
        flow.head = slot.next.take();
        if flow.head.is_none() {
            flow.tail = None;
        }
        flow.bytes -= slot.data.len();
        flow.datagrams -= 1;
        self.bytes -= slot.data.len();
        self.datagrams -= 1;
        Some(index)
    }

    fn take_slot(&mut self) -> u16 {
        if let Some(index) = self.free {
            self.free = self.slots[usize::from(index)].next.take();
            return index;
        }
        self.slots.push(Slot {
            data: Vec::with_capacity(self.kept_bytes),
            about: None,
            since: Time::ZERO,
            can_mark: false,
            next: None,
        });
        (self.slots.len() - 1) as u16
    }

    fn release(&mut self, index: u16) {
        let slot = &mut self.slots[usize::from(index)];
        if slot.data.capacity() > self.kept_bytes {
            // Of jumbo frames nothing is kept, so that the bound on memory holds.
            slot.data = Vec::with_capacity(self.kept_bytes);
        }
        slot.about = None;
        slot.next = self.free.replace(index);
    }
}

#[cfg(test)]
mod tests;
