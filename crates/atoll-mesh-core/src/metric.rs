//! What a link costs: a nominal value, its delay (RFC 9616), the frames that it loses in each direction, its capacity.
//!
//! ```text
//! rxcost = 96 + loss(of what this end receives)             told to the neighbour, whose txcost it is
//! cost   = rxcost + txcost - 96 + delay(round trip) + narrow(capacity)
//!
//! loss(x)   = 4 for each thousandth above 20: a link that loses 20 % costs 720 more, as much as 7 clean links
//! delay(t)  = 1.5 for each millisecond above 10
//! narrow(c) = 16 for each halving below 1 Gb/s, as far as either end knows the capacity
//! ```
//!
//! Loss is counted from the counters of all frames of the link, data included, so it costs no packets of its own.

use core::time::Duration;
use std::collections::VecDeque;

use crate::{
    babel::INFINITY,
    limits::{
        CAPACITY_COST, CAPACITY_FREE, COST_HYSTERESIS, COST_HYSTERESIS_DIVISOR, LINK_COST, LINK_COST_MAX, LOSS_COST,
        LOSS_FRAMES_MIN, LOSS_FREE_PERMILLE, LOSS_WINDOW, RTT_FREE, RTT_MAX, RTT_SAMPLES,
    },
    link_mtu::SIZES,
    time::Time,
};

/// Figures of one link, and its cost.
#[derive(Debug)]
pub(crate) struct LinkMetric {
    /// Smoothed.
    rtt: Option<Duration>,
    /// The last round trips, newest first.
    samples: VecDeque<Duration>,
    /// What the round trip takes if nothing has to wait: what the cost follows.
    rtt_base: Duration,
    loss: LossMeter,
    /// What the neighbour says that our direction costs.
    txcost: u16,
    /// What this end was told of the capacity, as binary logarithm of kilobits a second; zero if nothing.
    capacity: u8,
    its_capacity: u8,
    /// The cost that is in use: the current one, but for small changes.
    cost: u16,
}

impl Default for LinkMetric {
    fn default() -> Self {
        Self {
            rtt: None,
            samples: VecDeque::with_capacity(RTT_SAMPLES),
            rtt_base: Duration::ZERO,
            loss: LossMeter::default(),
            txcost: LINK_COST,
            capacity: 0,
            its_capacity: 0,
            cost: LINK_COST,
        }
    }
}

impl LinkMetric {
    pub(crate) const fn cost(&self) -> u16 {
        self.cost
    }

    pub(crate) const fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// Share of the frames towards this end that get lost, in thousandths.
    pub(crate) const fn loss_permille(&self) -> u16 {
        self.loss.permille
    }

    pub(crate) const fn capacity(&self) -> u8 {
        self.capacity
    }

    /// Whether either direction loses so much that silence says little.
    pub(crate) const fn is_lossy(&self) -> bool {
        self.loss.permille > LOSS_FREE_PERMILLE || self.txcost > LINK_COST
    }

    /// What the direction towards this end costs, for the neighbour to know.
    pub(crate) fn rxcost(&self) -> u16 {
        LINK_COST.saturating_add(self.loss.cost())
    }

    /// A frame came in under this index of keys, with this counter.
    pub(crate) fn handle_frame(&mut self, index: u32, counter: u64, is_size_probe: bool, now: Time) {
        if self.loss.handle_frame(index, counter, is_size_probe, now) {
            self.settle();
        }
    }

    /// The link is used anew: what was lost while it was down does not count.
    pub(crate) fn handle_up(&mut self) {
        self.loss.begin();
    }

    /// A round trip was measured.
    pub(crate) fn handle_rtt(&mut self, sample: Duration) {
        let sample = sample.min(RTT_MAX);
        self.samples.truncate(RTT_SAMPLES - 1);
        self.samples.push_front(sample);
        let shortest = self.samples.iter().copied().min().unwrap_or(sample);
        // A shorter one is the truth at once; that all became longer has to be seen for a while.
        let smoothed = self.rtt.map_or(shortest, |_| (self.rtt_base * 7 + shortest) / 8);
        self.rtt_base = shortest.min(smoothed);
        self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
        self.settle();
    }

    /// The neighbour tells what our direction costs.
    pub(crate) fn handle_txcost(&mut self, txcost: u16) {
        if txcost != INFINITY {
            self.txcost = txcost.clamp(LINK_COST, LINK_COST_MAX);
            self.settle();
        }
    }

    /// The neighbour tells what it knows of the capacity.
    pub(crate) fn handle_capacity(&mut self, capacity: u8) {
        self.its_capacity = capacity;
        self.settle();
    }

    /// The owner tells the capacity, in kilobits a second.
    pub(crate) fn set_capacity(&mut self, kbit_per_second: u64) {
        self.capacity = u8::try_from(kbit_per_second.max(1).ilog2()).unwrap_or(u8::MAX).max(1);
        self.settle();
    }

    fn settle(&mut self) {
        let known = [self.capacity, self.its_capacity].into_iter().filter(|capacity| *capacity > 0).min();
        let halvings = CAPACITY_FREE.saturating_sub(known.unwrap_or(CAPACITY_FREE));
        let cost = self
            .rxcost()
            .saturating_add(self.txcost - LINK_COST)
            .saturating_add(delay_cost(self.rtt_base))
            .saturating_add(u16::from(halvings) * CAPACITY_COST)
            .min(LINK_COST_MAX);
        let step = COST_HYSTERESIS.max(self.cost / COST_HYSTERESIS_DIVISOR);
        if cost.abs_diff(self.cost) >= step {
            self.cost = cost;
        }
    }
}

/// What the round trip adds: short ones are alike, above that it grows with the delay. RFC 9616 section 3.3 stops at
/// `rtt-max`; here it does not, so that of two far links the nearer is taken too.
fn delay_cost(rtt: Duration) -> u16 {
    let excess_us = rtt.saturating_sub(RTT_FREE).as_micros();
    u16::try_from(excess_us * 3 / 2000).unwrap_or(LINK_COST_MAX)
}

/// Counts what does not arrive, from the gaps between the counters of what does.
#[derive(Debug, Default)]
struct LossMeter {
    index: Option<u32>,
    first: u64,
    highest: u64,
    received: u64,
    since: Time,
    /// Smoothed.
    permille: u16,
    is_known: bool,
}

impl LossMeter {
    fn begin(&mut self) {
        self.index = None;
    }

    /// Takes a frame; whether there is a new value.
    fn handle_frame(&mut self, index: u32, counter: u64, is_size_probe: bool, now: Time) -> bool {
        if self.index != Some(index) {
            *self = Self {
                index: Some(index),
                first: counter,
                highest: counter,
                received: 0,
                since: now,
                permille: self.permille,
                is_known: self.is_known,
            };
            return false;
        }
        let missing = counter.saturating_sub(self.highest).saturating_sub(1);
        // Probes for the largest datagram come largest first: those that were too large are no loss.
        let excused = if is_size_probe { missing.min(SIZES.len() as u64) } else { 0 };
        self.received = self.received.saturating_add(1 + excused);
        self.highest = self.highest.max(counter);
        let expected = self.highest.saturating_sub(self.first);
        if expected < LOSS_FRAMES_MIN || now.since(self.since) < LOSS_WINDOW {
            return false;
        }
        // Frames that overtook others count for the window in which they arrive.
        let lost = u128::from(expected.saturating_sub(self.received));
        let sample = u16::try_from(lost * 1000 / u128::from(expected)).unwrap_or(1000);
        self.permille = if self.is_known { (self.permille * 3 + sample) / 4 } else { sample };
        self.is_known = true;
        (self.first, self.received, self.since) = (self.highest, 0, now);
        true
    }

    const fn cost(&self) -> u16 {
        self.permille.saturating_sub(LOSS_FREE_PERMILLE).saturating_mul(LOSS_COST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_micros(ms * 1000)
    }

    /// One frame each 10 ms, of which those are lost that the closure names.
    fn fed(frames: u64, is_lost: impl Fn(u64) -> bool) -> LinkMetric {
        let mut metric = LinkMetric::default();
        for counter in (0..frames).filter(|counter| !is_lost(*counter)) {
            metric.handle_frame(1, counter, false, at(counter * 10));
        }
        metric
    }

    #[test]
    fn a_clean_near_link_costs_the_nominal_value_and_delay_adds() {
        let mut metric = fed(1000, |_| false);
        metric.handle_rtt(Duration::from_millis(8));
        assert_eq!((metric.cost(), metric.rxcost(), metric.is_lossy()), (LINK_COST, LINK_COST, false));
        let mut far = LinkMetric::default();
        far.handle_rtt(Duration::from_millis(110));
        assert_eq!(far.cost(), LINK_COST + 150);
        far.handle_rtt(Duration::from_millis(118));
        assert_eq!(far.cost(), LINK_COST + 150, "small changes are kept to oneself");
    }

    #[test]
    fn a_round_trip_that_waited_for_a_processor_does_not_make_a_link_far() {
        let mut metric = LinkMetric::default();
        metric.handle_rtt(Duration::from_millis(500));
        assert!(metric.cost() > LINK_COST);
        metric.handle_rtt(Duration::from_millis(1));
        assert_eq!(metric.cost(), LINK_COST, "the next one tells");
        for round in 0..40 {
            metric.handle_rtt(Duration::from_millis(if round % 4 == 0 { 1 } else { 300 }));
            assert_eq!(metric.cost(), LINK_COST);
        }
        // A way that became longer is one.
        for _ in 0..40 {
            metric.handle_rtt(Duration::from_millis(110));
        }
        assert!(metric.cost().abs_diff(LINK_COST + 150) <= COST_HYSTERESIS, "{}", metric.cost());
    }

    #[test]
    fn a_link_that_loses_a_fifth_costs_more_than_six_clean_ones() {
        let mut metric = fed(2000, |counter| counter % 5 == 0);
        assert!(metric.loss_permille().abs_diff(200) <= 5, "{}", metric.loss_permille());
        assert!(metric.is_lossy() && metric.cost() > 7 * LINK_COST, "{}", metric.cost());
        metric.handle_txcost(LINK_COST + 700);
        assert!(metric.cost() > 14 * LINK_COST, "the other direction counts as well");
        metric.handle_txcost(INFINITY);
        assert!(metric.cost() < INFINITY);
    }

    #[test]
    fn new_keys_a_pause_and_reordering_are_no_loss() {
        let mut metric = LinkMetric::default();
        for counter in 0..500u64 {
            metric.handle_frame(1, counter ^ 1, false, at(counter * 10));
        }
        metric.handle_frame(2, 9000, false, at(6000));
        for counter in 1..500u64 {
            metric.handle_frame(2, 9000 + counter, false, at(6000 + counter * 10));
        }
        metric.handle_up();
        for counter in 0..500u64 {
            metric.handle_frame(2, 20_000 + counter, false, at(20_000 + counter * 10));
        }
        assert!(metric.loss_permille() <= 2, "{}", metric.loss_permille());
    }

    #[test]
    fn probes_that_are_too_large_are_no_loss() {
        let mut metric = LinkMetric::default();
        // Of each eight frames one is a probe that arrives, after one or two that were too large.
        for counter in (0..2000).filter(|counter| ![5, 6].contains(&(counter % 8))) {
            metric.handle_frame(1, counter, counter % 8 == 7, at(counter * 10));
        }
        assert_eq!((metric.loss_permille(), metric.cost()), (0, LINK_COST));
    }

    #[test]
    fn the_narrower_end_says_what_the_capacity_is() {
        let mut metric = LinkMetric::default();
        metric.set_capacity(10_000_000);
        assert_eq!(metric.cost(), LINK_COST);
        metric.handle_capacity(14);
        assert_eq!(metric.cost(), LINK_COST + 6 * CAPACITY_COST);
    }
}
