//! Whether a neighbour on a plain interface is heard, and hears: RFC 8966 sections 3.4 and appendix A, for wires.

use core::time::Duration;

use crate::{
    babel::{Hello, INFINITY},
    limits::{LINK_COST, PLAIN_HELLO_INTERVAL},
    time::Time,
};

/// Hellos may be so much out of step before the neighbour counts as a new one (appendix A.1).
const STEP_MAX: u16 = 16;

/// A router from which a hello came.
#[derive(Debug)]
pub(super) struct Neighbour {
    /// One bit for each hello that was due, the latest first; set if it came.
    history: u16,
    /// Number of the next hello.
    expected: u16,
    interval: Duration,
    /// When the next hello counts as lost.
    hello_due: Time,
    /// What it says that the direction towards it costs.
    txcost: u16,
    txcost_expiry: Time,
}

impl Neighbour {
    pub(super) const fn new(now: Time) -> Self {
        Self {
            history: 0,
            expected: 0,
            interval: PLAIN_HELLO_INTERVAL,
            hello_due: now,
            txcost: INFINITY,
            txcost_expiry: now,
        }
    }

    pub(super) fn handle_hello(&mut self, hello: Hello, now: Time) {
        let ahead = hello.seqno.wrapping_sub(self.expected);
        let behind = self.expected.wrapping_sub(hello.seqno);
        self.history = if ahead <= STEP_MAX {
            // Those between were lost.
            self.history.checked_shr(u32::from(ahead)).unwrap_or(0)
        } else if behind <= STEP_MAX {
            // They come faster than was promised: some were counted as lost too soon.
            self.history.checked_shl(u32::from(behind)).unwrap_or(0)
        } else {
            0
        };
        self.history = self.history >> 1 | 0x8000;
        self.expected = hello.seqno.wrapping_add(1);
        if hello.interval_cs > 0 {
            self.interval = centiseconds(hello.interval_cs);
        }
        self.hello_due = now + self.interval * 3 / 2;
    }

    pub(super) fn handle_ihu(&mut self, rxcost: u16, interval_cs: u16, now: Time) {
        self.txcost = rxcost;
        self.txcost_expiry = now + hold(interval_cs);
    }

    /// Counts what did not come; whether anything is left of the neighbour.
    pub(super) fn handle_timeout(&mut self, now: Time) -> bool {
        while self.history != 0 && self.hello_due <= now {
            self.history >>= 1;
            self.expected = self.expected.wrapping_add(1);
            self.hello_due = self.hello_due + self.interval;
        }
        if self.txcost_expiry <= now {
            self.txcost = INFINITY;
        }
        self.history != 0
    }

    pub(super) fn deadline(&self) -> Time {
        if self.txcost == INFINITY { self.hello_due } else { self.hello_due.min(self.txcost_expiry) }
    }

    /// Two of the last three hellos make a working wire (appendix A.2.1).
    pub(super) const fn rxcost(&self) -> u16 {
        if (self.history >> 13).count_ones() >= 2 { LINK_COST } else { INFINITY }
    }

    /// Never zero.
    pub(super) const fn cost(&self) -> u16 {
        match (self.rxcost(), self.txcost) {
            (INFINITY, _) => INFINITY,
            (_, 0) => 1,
            (_, txcost) => txcost,
        }
    }
}

/// How long something holds of which the next is promised after this time (appendix B).
pub(super) fn hold(interval_cs: u16) -> Duration {
    centiseconds(interval_cs) * 7 / 2
}

fn centiseconds(count: u16) -> Duration {
    Duration::from_millis(u64::from(count) * 10)
}
