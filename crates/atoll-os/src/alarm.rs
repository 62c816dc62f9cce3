//! One alarm, for a loop that has one next thing to do.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
};

use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Duration, Instant},
};

/// How much too early it may ring rather than be set again.
const EARLY_MAX: Duration = Duration::from_millis(200);

/// Rings once, at the time for which it was set, to the microsecond (`timerfd_create(2)`). The runtime's own timers
/// have steps of a millisecond, and wake who waits for long two or three times: too much for a daemon that is idle.
pub struct Alarm {
    timer: AsyncFd<Timer>,
    at: Option<Instant>,
}

/// In the form that the runtime asks for.
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Alarm {
    /// An alarm that is not set. Must be called on a tokio runtime.
    pub fn new() -> io::Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
        // SAFETY: `timer` owns its descriptor, and the `AsyncFd` owns `timer`: it stays open and the same until dropped.
        let timer = unsafe { AsyncFd::register_with_interest(Timer(timer), Interest::READABLE) }?;
        Ok(Self { timer, at: None })
    }

    /// Lets it ring at `at`, or, if it is set already, a little earlier: to be woken once costs less than to set it with
    /// each of a thousand packets.
    pub fn set(&mut self, at: Instant) {
        if self.at.is_some_and(|set| set <= at && at.duration_since(set) <= EARLY_MAX) {
            return;
        }
        // Zero would mean never.
        let left = at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let once = Expiration::OneShot(TimeSpec::from_duration(left));
        // It fails only for times that do not exist.
        if self.timer.get_ref().0.set(once, TimerSetTimeFlags::empty()).is_ok() {
            self.at = Some(at);
        }
    }

    /// Waits until it rings; then it is not set any more. Dropped while it waits, it has not rung.
    pub async fn ring(&mut self) {
        // An error here would be one of the reactor, which ends with the runtime.
        if let Ok(mut guard) = self.timer.readable().await {
            // Not read: setting it anew makes it unread again.
            guard.clear_ready();
        }
        self.at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn rings_once_and_not_far_too_early() {
        let mut alarm = Alarm::new().expect("a timer");
        let start = Instant::now();
        let [early, late, hour] = [20, 100, 3_600_000].map(|ms| start + Duration::from_millis(ms));
        for (row, rings) in
            [([hour, early], early), ([early, late], early), ([hour, late], late), ([early, hour], hour)]
        {
            row.into_iter().for_each(|at| alarm.set(at));
            let is_rung = tokio::time::timeout_at(start + Duration::from_millis(500), alarm.ring()).await.is_ok();
            assert_eq!((is_rung, Instant::now() >= rings), (rings != hour, rings != hour));
        }
        alarm.set(start);
        alarm.ring().await;
        let again = tokio::time::timeout(Duration::from_millis(50), alarm.ring()).await;
        assert!(again.is_err(), "it is not set");
    }
}
