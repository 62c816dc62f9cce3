//! All timers in one table: each has at most one time at which it fires.

use std::collections::{BTreeMap, BTreeSet};

use atoll_base::MeshAddr;

use crate::{LinkId, time::Time};

/// Whose time it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// Liveness and handshakes of one link.
    Link(LinkId),
    /// Handshakes and keys of one session.
    Remote(MeshAddr),
    /// Direct links to nodes that are talked to over others.
    Punch,
    /// Batches and requests of the router.
    Routing,
}

#[derive(Default)]
pub(crate) struct Timers {
    by_time: BTreeSet<(Time, Timer)>,
    times: BTreeMap<Timer, Time>,
}

impl Timers {
    /// Sets or clears the time of a timer.
    pub(crate) fn set(&mut self, timer: Timer, at: Option<Time>) {
        let old = match at {
            Some(at) => self.times.insert(timer, at),
            None => self.times.remove(&timer),
        };
        if old == at {
            return;
        }
        if let Some(old) = old {
            self.by_time.remove(&(old, timer));
        }
        if let Some(at) = at {
            self.by_time.insert((at, timer));
        }
    }

    /// Lets a timer fire no later than `at`.
    pub(crate) fn no_later_than(&mut self, timer: Timer, at: Time) {
        if self.times.get(&timer).is_none_or(|set| *set > at) {
            self.set(timer, Some(at));
        }
    }

    /// The next to fire.
    pub(crate) fn next(&self) -> Option<(Time, Timer)> {
        self.by_time.first().copied()
    }

    /// Takes the next one that is due.
    pub(crate) fn pop_due(&mut self, now: Time) -> Option<(Time, Timer)> {
        let due = self.next().filter(|(at, _)| *at <= now)?;
        self.set(due.1, None);
        Some(due)
    }
}
