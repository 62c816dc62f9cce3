//! CoDel (RFC 8289): whether a queue that does not go away is to give up one of its datagrams.

use core::time::Duration;

use crate::{
    limits::{QUEUE_INTERVAL, QUEUE_QUANTUM_BYTES, QUEUE_TARGET},
    time::Time,
};

/// What to do with the datagram at the head of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    /// The flow is to be told, by a mark or by this drop.
    Signal,
}

/// The state of one flow (RFC 8289 section 5.3).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Codel {
    /// When the delay will have been above the target for an interval.
    first_above: Option<Time>,
    drop_next: Time,
    count: u32,
    last_count: u32,
    is_dropping: bool,
}

impl Codel {
    /// Judges a datagram that waited for `sojourn`, and leaves so many bytes behind it (section 5.5).
    pub(super) fn judge(&mut self, sojourn: Duration, left_bytes: usize, now: Time) -> Verdict {
        let is_late = self.is_late(sojourn, left_bytes, now);
        if !is_late {
            self.is_dropping = false;
            return Verdict::Pass;
        }
        if self.is_dropping {
            if now < self.drop_next {
                return Verdict::Pass;
            }
            self.count = self.count.saturating_add(1);
            self.drop_next = next_after(self.drop_next, self.count);
            return Verdict::Signal;
        }
        self.is_dropping = true;
        // Congestion that comes back soon is met at the rate that controlled it last time.
        let delta = self.count - self.last_count;
        let is_recent = now.since(self.drop_next) < QUEUE_INTERVAL * 16;
        self.count = if delta > 1 && is_recent { delta } else { 1 };
        self.last_count = self.count;
        self.drop_next = next_after(now, self.count);
        Verdict::Signal
    }

    /// The flow has nothing left.
    pub(super) const fn handle_empty(&mut self) {
        self.first_above = None;
        self.is_dropping = false;
    }

    fn is_late(&mut self, sojourn: Duration, left_bytes: usize, now: Time) -> bool {
        if sojourn < QUEUE_TARGET || left_bytes <= QUEUE_QUANTUM_BYTES {
            self.first_above = None;
            return false;
        }
        match self.first_above {
            None => {
                self.first_above = Some(now + QUEUE_INTERVAL);
                false
            }
            Some(first) => now >= first,
        }
    }
}

/// The control law: an interval divided by the square root of the count.
fn next_after(time: Time, count: u32) -> Time {
    let micros = u64::try_from(QUEUE_INTERVAL.as_micros()).unwrap_or(u64::MAX);
    time + Duration::from_micros((micros * micros / u64::from(count.max(1))).isqrt())
}
