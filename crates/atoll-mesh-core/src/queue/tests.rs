//! The queue against a simple model: who waits how long, what is dropped, how much it ever holds.

use core::time::Duration;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::limits::{QUEUE_INTERVAL, QUEUE_TARGET};

const MS: Duration = Duration::from_millis(1);

fn queue<T>() -> FairQueue<T> {
    FairQueue::new(&[7; 16])
}

/// A line that carries so many bytes a second, fed by flows that each send a datagram of a size every so often.
struct Line {
    queue: FairQueue<(usize, u64)>,
    now: Time,
    busy_until: Time,
    bytes_per_second: u64,
    /// Delays, in the order in which the datagrams came out, by flow.
    delays: BTreeMap<usize, Vec<Duration>>,
    marks: BTreeMap<usize, u64>,
}

struct Source {
    bytes: usize,
    every: Duration,
    can_mark: bool,
}

impl Line {
    fn new(bytes_per_second: u64) -> Self {
        let (delays, marks) = Default::default();
        Self { queue: queue(), now: Time::ZERO, busy_until: Time::ZERO, bytes_per_second, delays, marks }
    }

    fn run(&mut self, sources: &[Source], duration: Duration) {
        let end = self.now + duration;
        let mut due: Vec<Time> = vec![self.now; sources.len()];
        let mut buffer = Vec::new();
        while self.now < end {
            for (number, source) in sources.iter().enumerate() {
                while due[number] <= self.now {
                    let data = vec![number as u8; source.bytes];
                    let about = (number, self.now.as_micros());
                    self.queue.push(&[number as u8], about, &data, source.can_mark, self.now);
                    due[number] = due[number] + source.every;
                }
            }
            if self.busy_until <= self.now
                && let Some(popped) = self.queue.pop(&mut buffer, self.now)
            {
                let (flow, came) = popped.about;
                assert!(buffer.iter().all(|byte| usize::from(*byte) == flow), "another's bytes");
                self.delays.entry(flow).or_default().push(self.now.since(Time::from_micros(came)));
                *self.marks.entry(flow).or_default() += u64::from(popped.is_marked);
                let micros = buffer.len() as u64 * 1_000_000 / self.bytes_per_second;
                self.busy_until = self.now + Duration::from_micros(micros);
            }
            self.now = self.now + Duration::from_micros(50);
        }
    }

    fn check_counts(&self) {
        let counts = self.queue.counts();
        let waiting = self.queue.datagrams() as u64;
        assert_eq!(counts.pushed, counts.popped + counts.dropped_full + counts.dropped_late + waiting);
    }
}

const HEAVY: Source = Source { bytes: 1452, every: Duration::from_micros(100), can_mark: false };

#[test]
fn a_light_flow_does_not_wait_for_a_heavy_one() {
    // 100 Mb/s against 10 Mb/s, and a ping every 10 ms beside it.
    let mut line = Line::new(1_250_000);
    let ping = Source { bytes: 180, every: MS * 10, can_mark: false };
    line.run(&[HEAVY, ping], Duration::from_secs(3));
    let pings = &line.delays[&1];
    assert!(pings.len() >= 299, "no ping was dropped: {}", pings.len());
    // One datagram of the other may just be on the line.
    let worst = pings.iter().max().expect("there are some");
    assert!(*worst <= MS * 2, "{worst:?}");
    assert!(line.delays[&0].iter().max().expect("some") > &(MS * 50), "the heavy flow waits for itself");
    line.check_counts();
}

#[test]
fn heavy_flows_share_by_bytes() {
    let mut line = Line::new(1_250_000);
    let small = Source { bytes: 242, every: Duration::from_micros(100), can_mark: false };
    let medium = Source { bytes: 726, every: Duration::from_micros(100), can_mark: false };
    line.run(&[HEAVY, small, medium], Duration::from_secs(2));
    let bytes = |flow: usize, size: usize| line.delays[&flow].len() * size;
    let shares = [bytes(0, 1452), bytes(1, 242), bytes(2, 726)];
    let (least, most) = (shares.iter().min().expect("three"), shares.iter().max().expect("three"));
    assert!(most * 10 < least * 11, "{shares:?}");
    line.check_counts();
}

#[test]
fn a_queue_that_stays_is_told_and_a_burst_is_not() {
    // 20 % too much: the delay comes down to about the target only by signals.
    for can_mark in [false, true] {
        let mut line = Line::new(1_250_000);
        let source = Source { bytes: 1250, every: Duration::from_micros(850), can_mark };
        line.run(&[source], Duration::from_secs(4));
        let counts = line.queue.counts();
        let (marks, drops) = (counts.marked, counts.dropped_late);
        assert_eq!(marks, line.marks[&0]);
        if can_mark {
            assert!(marks > 20 && drops == 0, "{counts:?}");
        } else {
            assert!(drops > 100 && marks == 0, "{counts:?}");
        }
        line.check_counts();
    }
    // A burst of 60 ms that drains within the interval is let through.
    let mut queue = queue();
    let mut buffer = Vec::new();
    for number in 0..60 {
        queue.push(b"flow", number, &[0; 1250], false, Time::ZERO);
    }
    for number in 0..60 {
        let now = Time::ZERO + MS * number;
        assert_eq!(queue.pop(&mut buffer, now).map(|popped| popped.about), Some(number));
    }
    assert!(QUEUE_INTERVAL > MS * 60 && QUEUE_TARGET < MS * 60);
    assert_eq!(queue.counts().dropped_late, 0);
}

#[test]
fn a_million_flows_stay_within_the_bounds() {
    let mut queue = queue();
    let mut buffer = Vec::new();
    let data = [0; 1452];
    let mut out = 0_u64;
    for number in 0..1_000_000_u32 {
        let now = Time::from_micros(u64::from(number));
        let bytes = 60 + number as usize * 7919 % 1392;
        queue.push(&number.to_be_bytes(), (), &data[..bytes], number.is_multiple_of(2), now);
        assert!(queue.datagrams() <= QUEUE_DATAGRAMS_MAX && queue.bytes() <= QUEUE_BYTES_MAX);
        if number % 3 == 0 {
            out += u64::from(queue.pop(&mut buffer, now).is_some());
        }
    }
    assert!(queue.slots.len() <= QUEUE_DATAGRAMS_MAX && queue.flows() <= QUEUE_FLOWS);
    let memory: usize = queue.slots.iter().map(|slot| slot.data.capacity()).sum();
    assert!(memory <= QUEUE_DATAGRAMS_MAX * QUEUE_BUFFER_BYTES, "{memory}");
    let counts = queue.counts();
    assert_eq!((counts.pushed, counts.popped), (1_000_000, out));
    assert_eq!(counts.pushed, out + counts.dropped_full + counts.dropped_late + queue.datagrams() as u64);
    // What a slot holds beside its buffer, and a flow, as `QUEUE_MEMORY_BYTES_MAX` counts them.
    assert!(size_of::<Slot<Option<crate::LinkId>>>() <= 96 && size_of::<Flow>() + 4 <= 128);
}

#[test]
fn a_full_queue_takes_from_the_flow_that_has_most() {
    let mut queue = queue();
    for number in 0..4 {
        queue.push(b"light", number, &[1; 100], false, Time::ZERO);
    }
    for number in 0..10_000 {
        queue.push(b"heavy", number, &[2; 1452], false, Time::ZERO);
    }
    let mut buffer = Vec::new();
    let mut light = Vec::new();
    while let Some(popped) = queue.pop(&mut buffer, Time::ZERO) {
        if buffer[0] == 1 {
            light.push(popped.about);
        }
    }
    assert_eq!(light, [0, 1, 2, 3]);
    assert!(queue.counts().dropped_full > 8000);
    queue.push(b"giant", 0, &vec![0; QUEUE_BYTES_MAX + 1], false, Time::ZERO);
    assert!(queue.is_empty(), "what can never fit is dropped");
}

#[test]
fn buffers_go_round() {
    let mut queue = queue();
    let mut buffer = Vec::with_capacity(QUEUE_BUFFER_BYTES);
    for round in 0..10_000_u64 {
        let now = Time::from_micros(round);
        for flow in 0..3_u8 {
            queue.push(&[flow], flow, &[flow; 1452], false, now);
        }
        for _ in 0..3 {
            assert!(queue.pop(&mut buffer, now).is_some());
        }
    }
    assert_eq!(queue.slots.len(), 3);
    assert!(queue.slots.iter().all(|slot| slot.data.capacity() == QUEUE_BUFFER_BYTES));
    // A jumbo frame keeps its memory only while it waits.
    queue.push(b"jumbo", 9, &[9; 9000], false, Time::ZERO);
    assert!(queue.pop(&mut buffer, Time::ZERO).is_some() && buffer.len() == 9000);
    queue.push(b"small", 1, &[1; 10], false, Time::ZERO);
    assert!(queue.pop(&mut buffer, Time::ZERO).is_some() && buffer == [1; 10]);
    assert!(queue.slots.iter().all(|slot| slot.data.capacity() == QUEUE_BUFFER_BYTES));
}

proptest! {
    #[test]
    fn nothing_is_lost_uncounted_nor_reordered_within_a_flow(
        steps in prop::collection::vec((any::<bool>(), 0_u8..40, 1_usize..3000, 0_u64..3000), 1..3000)
    ) {
        let mut queue = queue();
        let mut buffer = Vec::new();
        // The model: what each flow sent and has not got back, in order.
        let mut sent: BTreeMap<u8, VecDeque<(u64, usize)>> = BTreeMap::new();
        let mut now = Time::ZERO;
        let mut skipped = 0;
        for (number, (is_push, flow, bytes, micros)) in (0..).zip(steps) {
            now = now + Duration::from_micros(micros);
            if is_push {
                queue.push(&[flow], (flow, number), &vec![flow; bytes], flow % 2 == 0, now);
                sent.entry(flow).or_default().push_back((number, bytes));
            } else if let Some(popped) = queue.pop(&mut buffer, now) {
                let (flow, number) = popped.about;
                prop_assert!(!popped.is_marked || flow % 2 == 0);
                let waiting = sent.get_mut(&flow).expect("it was sent");
                let at = waiting.iter().position(|(other, _)| *other == number).expect("sent once, and in order");
                prop_assert_eq!(buffer.len(), waiting[at].1);
                // Those before it must have been dropped.
                skipped += waiting.drain(..=at).count() as u64 - 1;
            } else {
                prop_assert!(queue.is_empty() && queue.bytes() == 0);
                skipped += sent.values_mut().map(|waiting| core::mem::take(waiting).len() as u64).sum::<u64>();
            }
            let counts = queue.counts();
            let (dropped, waiting) = (counts.dropped_full + counts.dropped_late, queue.datagrams() as u64);
            prop_assert_eq!(counts.pushed, counts.popped + dropped + waiting);
            prop_assert!(dropped >= skipped && waiting <= QUEUE_DATAGRAMS_MAX as u64);
            prop_assert!(queue.bytes() <= QUEUE_BYTES_MAX);
        }
    }
}
