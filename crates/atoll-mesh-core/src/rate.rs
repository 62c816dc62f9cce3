//! A bound on how often something may happen.

use core::time::Duration;

use crate::{limits::RATE_CELLS, time::Time, wire::handshake::tag};

/// So many times a second, evenly refilled; a second's worth may come at once.
pub(crate) struct RateLimit {
    per_second: u32,
    tokens: u32,
    refilled: Time,
}

impl RateLimit {
    pub(crate) const fn new(per_second: u32, now: Time) -> Self {
        Self { per_second, tokens: per_second, refilled: now }
    }

    /// Takes one token, if there is one.
    pub(crate) fn allow(&mut self, now: Time) -> bool {
        let passed = now.since(self.refilled);
        let earned = passed.as_micros().saturating_mul(u128::from(self.per_second)) / 1_000_000;
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.tokens = self.tokens.saturating_add(earned).min(self.per_second);
            self.refilled = if self.tokens == self.per_second {
                now
            } else {
                self.refilled + Duration::from_micros(u64::from(earned) * 1_000_000 / u64::from(self.per_second))
            };
        }
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }
}

/// A bound for each of any number of sources, in a fixed amount of memory (16 KiB).
///
/// Each source has one cell in each of two rows, chosen by a secret hash; a cell holds until when it is paid for, and
/// counts what the least loaded of a source's cells says. So a source is held back for others' sake only if both of its
/// cells are shared with busy ones, and nobody can choose with whom.
pub(crate) struct SourceRates {
    interval: Duration,
    burst: Duration,
    keys: [[u8; 16]; 2],
    rows: [Box<[Time]>; 2],
}

impl SourceRates {
    /// `per_second` each, `burst` at once.
    pub(crate) fn new(per_second: u32, burst: u32, keys: [[u8; 16]; 2]) -> Self {
        let interval = Duration::from_secs(1) / per_second;
        let row = || vec![Time::ZERO; RATE_CELLS].into_boxed_slice();
        Self { interval, burst: interval * burst, keys, rows: [row(), row()] }
    }

    /// Counts one of a source, if it has one left.
    pub(crate) fn allow(&mut self, source: &[u8; 16], now: Time) -> bool {
        let cells = self.keys.map(|key| {
            let hash = tag(&key, source);
            usize::from(u16::from_be_bytes([hash[0], hash[1]]))
        });
        let paid = cells.iter().zip(&self.rows).map(|(cell, row)| row[cell % RATE_CELLS]).min().unwrap_or(now).max(now);
        let next = paid + self.interval;
        if next.since(now) > self.burst {
            return false;
        }
        for (cell, row) in cells.iter().zip(&mut self.rows) {
            let paid = &mut row[cell % RATE_CELLS];
            *paid = next.max(*paid);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u32) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[12..].copy_from_slice(&number.to_be_bytes());
        bytes
    }

    #[test]
    fn each_source_has_its_own_rate() {
        let mut rates = SourceRates::new(10, 20, [[1; 16], [2; 16]]);
        let start = Time::from_micros(5_000_000);
        let allowed =
            |rates: &mut SourceRates, number, at| (0..100).filter(|_| rates.allow(&source(number), at)).count();
        assert_eq!(allowed(&mut rates, 1, start), 20);
        assert_eq!(allowed(&mut rates, 1, start + Duration::from_millis(500)), 5);
        assert_eq!(allowed(&mut rates, 2, start), 20, "another source is not held back");
        assert_eq!(allowed(&mut rates, 1, start + Duration::from_secs(60)), 20);
    }

    #[test]
    fn fifty_busy_sources_hold_nearly_nobody_back() {
        let mut rates = SourceRates::new(10, 20, [[1; 16], [2; 16]]);
        let now = Time::from_micros(5_000_000);
        for busy in 0..50 {
            while rates.allow(&source(busy), now) {}
        }
        let held = (1000..2000).filter(|other| !rates.allow(&source(*other), now)).count();
        assert!(held <= 10, "{held} of 1000");
    }

    #[test]
    fn a_limit_refills_evenly() {
        let mut limit = RateLimit::new(100, Time::ZERO);
        let at = |ms: u64| Time::from_micros(ms * 1000);
        assert_eq!((0..500).filter(|_| limit.allow(at(0))).count(), 100);
        assert_eq!((0..500).filter(|_| limit.allow(at(50))).count(), 5);
        assert_eq!((0..500).filter(|_| limit.allow(at(60_000))).count(), 100);
    }
}
