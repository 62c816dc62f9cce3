//! Is the neighbour there, in both directions, and how far away?
//!
//! Anything authentic that is heard counts as a sign of life. A silent neighbour is probed after a second, one that
//! does not answer data after a third of that, and it is dead after a few unanswered probes. Each hello also says how
//! long ago its sender heard the receiver: a link that works in one direction only is down at both ends.

use core::time::Duration;

use crate::{
    control::Hello,
    limits::{
        COST_HYSTERESIS, HEARD_MAX, LATE_TIMER, LINK_COST, PROBE_AFTER_SILENCE, PROBE_AFTER_UNANSWERED,
        PROBE_DEAD_INTERVAL, PROBE_RETRY, PROBE_RTT_INTERVAL, PROBE_TRIES_MAX, RTT_FREE, RTT_MAX,
    },
    time::Time,
};

pub(crate) struct Liveness {
    is_up: bool,
    heard: Time,
    /// Whether the peer says that it hears us.
    is_heard: bool,
    /// Since when data that was sent waits for any sign of life.
    unanswered_since: Option<Time>,
    probes: u32,
    probed: Time,
    nonce: u32,
    measured: Time,
    rtt: Option<Duration>,
    cost: u32,
    /// Names the table of routes over this link, see [`Hello::generation`].
    generation: u32,
    /// The link just came up: the other end must learn the generation at once.
    must_greet: bool,
}

/// What a timer asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing yet.
    Wait,
    /// Send this.
    Probe(Hello),
    /// The link just died.
    Dead,
}

impl Liveness {
    pub(crate) const fn new(now: Time) -> Self {
        Self {
            is_up: false,
            heard: now,
            is_heard: false,
            unanswered_since: None,
            probes: 0,
            probed: now,
            nonce: 0,
            measured: now,
            rtt: None,
            cost: LINK_COST,
            generation: 0,
            must_greet: false,
        }
    }

    pub(crate) const fn is_up(&self) -> bool {
        self.is_up
    }

    pub(crate) const fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    pub(crate) const fn cost(&self) -> u32 {
        self.cost
    }

    pub(crate) const fn generation(&self) -> u32 {
        self.generation
    }

    pub(crate) const fn last_heard(&self) -> Time {
        self.heard
    }

    /// A handshake is done: the link works in both directions.
    pub(crate) fn handle_established(&mut self, now: Time) {
        self.is_heard = true;
        self.handle_frame(now);
        self.set_up(true, now);
    }

    /// The process at the other end is another one than before: what it knew is gone.
    pub(crate) const fn handle_restart(&mut self) {
        self.is_up = false;
    }

    /// An authentic frame came in.
    pub(crate) fn handle_frame(&mut self, now: Time) {
        self.heard = now;
        self.unanswered_since = None;
        self.probes = 0;
    }

    /// Something hints that the other end may have changed; whether it is to be probed at once.
    pub(crate) fn handle_hint(&mut self, now: Time) -> bool {
        let is_silent = self.is_up && now.since(self.heard) >= PROBE_AFTER_UNANSWERED;
        self.must_greet |= is_silent;
        is_silent
    }

    /// Data goes out; whether the deadline came closer.
    pub(crate) fn handle_sent(&mut self, now: Time) -> bool {
        let is_first = self.unanswered_since.is_none();
        self.unanswered_since.get_or_insert(now);
        is_first
    }

    /// Takes a hello; the answer to it, if it asks for one.
    pub(crate) fn handle_hello(&mut self, hello: &Hello, now: Time) -> Option<Hello> {
        self.is_heard = u128::from(hello.heard_ms) <= HEARD_MAX.as_millis();
        let answers_probe = !hello.is_probe && hello.nonce == self.nonce && self.measured < self.probed;
        if answers_probe {
            // Whoever answers has heard the probe, whatever its report says.
            self.is_heard = true;
            self.measure(now.since(self.probed), now);
        } else if hello.rtt_us > 0 && self.rtt.is_none() {
            self.measure(Duration::from_micros(u64::from(hello.rtt_us)), self.measured);
        }
        let was_up = self.is_up;
        self.set_up(self.is_heard, now);
        if hello.is_probe || was_up != self.is_up {
            let mut answer = self.hello(now);
            answer.is_probe = false;
            answer.nonce = if hello.is_probe { hello.nonce } else { 0 };
            return Some(answer);
        }
        None
    }

    /// Does what is due at `scheduled`.
    pub(crate) fn handle_timeout(&mut self, scheduled: Time, now: Time) -> Action {
        if now < self.deadline() {
            return Action::Wait;
        }
        if self.is_up && self.probes >= PROBE_TRIES_MAX {
            if now.since(scheduled) < LATE_TIMER {
                self.set_up(false, now);
                self.probes = 0;
                self.unanswered_since = None;
                return Action::Dead;
            }
            // This process slept; answers may lie unread. Ask again before judging.
            self.probes = 1;
        }
        self.must_greet = false;
        self.probes = self.probes.saturating_add(1);
        self.probed = now;
        self.nonce = self.nonce.wrapping_add(1).max(1);
        Action::Probe(self.hello(now))
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(crate) fn deadline(&self) -> Time {
        if !self.is_up {
            return self.probed + PROBE_DEAD_INTERVAL;
        }
        if self.must_greet {
            return self.heard;
        }
        if self.probes > 0 {
            let patience = self.rtt.map_or(PROBE_RETRY, |rtt| PROBE_RETRY.max(rtt * 3 / 2));
            return self.probed + patience;
        }
        let silence = self.heard + PROBE_AFTER_SILENCE;
        let measure = self.measured.max(self.probed) + PROBE_RTT_INTERVAL;
        let unanswered = self.unanswered_since.map(|since| since + PROBE_AFTER_UNANSWERED);
        silence.min(measure).min(unanswered.unwrap_or(silence))
    }

    fn hello(&self, now: Time) -> Hello {
        Hello {
            is_probe: true,
            nonce: self.nonce,
            heard_ms: u16::try_from(now.since(self.heard).as_millis()).unwrap_or(u16::MAX),
            rtt_us: self.rtt.map_or(0, |rtt| u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX)),
            generation: if self.is_up { self.generation } else { 0 },
        }
    }

    fn set_up(&mut self, is_up: bool, now: Time) {
        if is_up && !self.is_up {
            // Later than any before, and never zero.
            let clock = u32::try_from(now.as_micros() / 1000 % u64::from(u32::MAX)).unwrap_or(0) + 1;
            self.generation = if clock == self.generation { clock.wrapping_add(1).max(1) } else { clock };
            self.must_greet = true;
        }
        self.is_up = is_up;
    }

    fn measure(&mut self, sample: Duration, now: Time) {
        self.measured = now;
        let sample = sample.min(RTT_MAX);
        let rtt = self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8);
        self.rtt = Some(rtt);
        let cost = link_cost(rtt);
        if cost.abs_diff(self.cost) >= COST_HYSTERESIS {
            self.cost = cost;
        }
    }
}

/// Cost of a link with this round trip: short ones are alike, above that it grows with the delay (RFC 9616).
fn link_cost(rtt: Duration) -> u32 {
    let excess_us = rtt.saturating_sub(RTT_FREE).as_micros();
    LINK_COST + u32::try_from(excess_us * 3 / 2000).unwrap_or(u32::MAX / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_micros(ms * 1000)
    }

    /// Runs the timers until the link dies; when that was.
    fn dies_at(liveness: &mut Liveness) -> Time {
        for _ in 0..100 {
            let due = liveness.deadline();
            if liveness.handle_timeout(due, due) == Action::Dead {
                return due;
            }
        }
        panic!("never dies");
    }

    /// A link that came up at zero, and whose greeting was answered at once.
    fn greeted() -> Liveness {
        let mut liveness = Liveness::new(at(0));
        liveness.handle_established(at(0));
        let Action::Probe(greeting) = liveness.handle_timeout(at(0), at(0)) else { panic!("greets at once") };
        assert_ne!(greeting.generation, 0);
        liveness.handle_frame(at(0));
        liveness.handle_hello(&Hello { is_probe: false, heard_ms: 0, ..greeting }, at(0));
        liveness
    }

    #[test]
    fn silence_kills_within_a_second_and_a_half_and_unanswered_data_within_one() {
        let mut liveness = greeted();
        let died = dies_at(&mut liveness);
        assert!(died > at(1200) && died <= at(1500), "{died:?}");
        assert!(!liveness.is_up());

        let mut liveness = greeted();
        assert!(liveness.handle_sent(at(10)) && !liveness.handle_sent(at(20)));
        assert!(dies_at(&mut liveness) <= at(820));
    }

    #[test]
    fn answers_keep_it_alive_and_measure_the_round_trip() {
        let mut liveness = greeted();
        for _ in 0..20 {
            let due = liveness.deadline();
            let Action::Probe(probe) = liveness.handle_timeout(due, due) else { panic!("a probe is due") };
            let answered = due + Duration::from_millis(40);
            liveness.handle_frame(answered);
            let answer = Hello { is_probe: false, heard_ms: 0, ..probe };
            assert_eq!(liveness.handle_hello(&answer, answered), None);
        }
        assert!(liveness.is_up());
        assert_eq!(liveness.rtt(), Some(Duration::from_millis(40)));
        assert_eq!(liveness.cost(), LINK_COST + 45);
    }

    #[test]
    fn a_late_timer_asks_again_before_it_judges() {
        let mut liveness = greeted();
        for _ in 0..PROBE_TRIES_MAX {
            let due = liveness.deadline();
            assert!(matches!(liveness.handle_timeout(due, due), Action::Probe(_)));
        }
        let due = liveness.deadline();
        assert!(matches!(liveness.handle_timeout(due, due + LATE_TIMER), Action::Probe(_)));
        assert!(liveness.is_up());
    }

    #[test]
    fn a_peer_that_does_not_hear_us_is_down_until_it_does() {
        let mut liveness = Liveness::new(at(0));
        liveness.handle_established(at(0));
        let deaf = Hello { is_probe: true, nonce: 9, heard_ms: 60_000, rtt_us: 0, generation: 0 };
        liveness.handle_frame(at(100));
        assert!(liveness.handle_hello(&deaf, at(100)).is_some_and(|answer| !answer.is_probe && answer.nonce == 9));
        assert!(!liveness.is_up());
        liveness.handle_frame(at(200));
        liveness.handle_hello(&Hello { heard_ms: 3, ..deaf }, at(200));
        assert!(liveness.is_up());
    }
}
