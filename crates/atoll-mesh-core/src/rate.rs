//! A bound on how often something may happen.

use core::time::Duration;

use crate::time::Time;

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
