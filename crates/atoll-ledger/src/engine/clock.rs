//! The time by which blocks are paced: the machine's clock, unless the ledger is ahead of it.
//!
//! A machine without a clock chip starts in 1970. It takes the time from the newest final block, and counts on from there.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

/// How far ledger time is counted on from the newest final block, milliseconds.
const COUNT_ON_MS: u64 = 10_000;

/// Ledger time as this validator knows it. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct LedgerClock(Arc<Mutex<Option<Final>>>);

#[derive(Debug, Clone, Copy)]
struct Final {
    timestamp_ms: u64,
    seen: SystemTime,
}

impl LedgerClock {
    /// Milliseconds since 1970, given what the machine's clock says.
    pub(crate) fn now_ms(&self, machine: SystemTime) -> u64 {
        let newest = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let by_ledger = newest.map_or(0, |newest| {
            let since = machine.duration_since(newest.seen).unwrap_or_default();
            // A clock that is set while the program runs makes this look long, so only a little of it is believed.
            newest.timestamp_ms.saturating_add(milliseconds(since).min(COUNT_ON_MS))
        });
        milliseconds(machine.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()).max(by_ledger)
    }

    /// A block with this timestamp became final.
    pub(crate) fn observe(&self, timestamp_ms: u64, machine: SystemTime) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Final { timestamp_ms, seen: machine });
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_leads_a_clock_that_is_behind_and_follows_one_that_is_ahead() {
        let clock = LedgerClock::default();
        let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        assert_eq!(clock.now_ms(at(7)), 7);
        clock.observe(1_000_000, at(10));
        assert_eq!(clock.now_ms(at(10)), 1_000_000);
        assert_eq!(clock.now_ms(at(25)), 1_000_015, "it counts on");
        assert_eq!(clock.now_ms(at(5)), 1_000_000, "a clock set back does not turn time back");
        assert_eq!(clock.now_ms(at(2_000_000)), 2_000_000, "a clock that was set");
        clock.observe(2_000_100, at(2_000_500));
        assert_eq!(clock.now_ms(at(2_000_500)), 2_000_500);
    }
}
