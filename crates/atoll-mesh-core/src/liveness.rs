//! Is the neighbour there, in both directions? Hellos and IHUs of Babel (RFC 8966 section 3.4), sent when they are of
//! use instead of by the clock.
//!
//! Anything authentic that is heard counts as a sign of life. While there is traffic, 150 ms of silence make this end
//! probe, and a row of unanswered probes means that the link is dead, after less than half a second; without traffic,
//! silence of 3 s is what an idle link is like, and of 15 s if it was idle for a minute. Each hello goes with an IHU that says whether its sender hears the
//! receiver, and echoes the receiver's last hello: a link that works in one direction only is down at both ends, and
//! only a hello that was sent since it went down, and was heard, brings it up again.

use core::time::Duration;

use crate::{
    babel::{Echo, Hello, INFINITY, Ihu, LinkState, Tlv},
    limits::{
        ACTIVE_KEEP, CONFIRM_MAX, ECHO_MAX, HINT_SILENCE, IHU_INTERVAL_CS, LATE_TIMER, PROBE_ACTIVE,
        PROBE_DEAD_INTERVAL, PROBE_IDLE, PROBE_IDLE_DIVISOR, PROBE_IDLE_MAX, PROBE_PATIENCE, PROBE_RETRY,
        PROBE_RTT_INTERVAL, PROBE_TRIES_LOSSY_MAX, PROBE_TRIES_MAX, PROBE_TRIES_SUSPECT_MAX, RTT_MAX,
    },
    metric::LinkMetric,
    time::Time,
};

/// One end's view of a link.
pub(crate) struct Liveness {
    pub(crate) metric: LinkMetric,
    is_up: bool,
    /// Nothing is heard at all, and the neighbour is told so.
    is_deaf: bool,
    heard: Time,
    /// When the newest hello was sent that the neighbour is known to have heard.
    confirmed: Time,
    /// When the first hello was sent after the last that is known to have been heard.
    unconfirmed_since: Option<Time>,
    came_up: Time,
    went_down: Time,
    /// Last data frame in either direction.
    used: Option<Time>,
    /// Since when data that was sent waits for any sign of life.
    unanswered_since: Option<Time>,
    /// Probes since the last sign of life.
    probes: u32,
    probed: Time,
    /// The operating system says that nobody listens there.
    is_suspect: bool,
    /// The last hello that was heard: its timestamp, and when that was.
    last_hello: Option<(u32, Time)>,
    /// Number of the newest hello that was heard.
    last_seqno: Option<u16>,
    seqno: u16,
    /// Names the table of routes over this link, see [`LinkState::generation`].
    generation: u32,
    /// The link just came up: the other end must learn the generation at once.
    must_greet: bool,
}

/// What a timer asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing yet.
    Wait,
    /// Send a hello that asks for an answer.
    Probe,
    /// The link just died.
    Dead,
}

/// What a neighbour's greeting asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Greeted {
    /// Send a hello that asks for nothing.
    pub(crate) must_answer: bool,
    /// The link came up, or went down.
    pub(crate) is_changed: bool,
}

impl Liveness {
    pub(crate) fn new(now: Time) -> Self {
        Self {
            metric: LinkMetric::default(),
            is_up: false,
            is_deaf: true,
            heard: now,
            confirmed: now,
            unconfirmed_since: None,
            came_up: now,
            went_down: now,
            used: None,
            unanswered_since: None,
            probes: 0,
            probed: now,
            is_suspect: false,
            last_hello: None,
            last_seqno: None,
            seqno: 0,
            generation: 0,
            must_greet: false,
        }
    }

    pub(crate) const fn is_up(&self) -> bool {
        self.is_up
    }

    pub(crate) const fn generation(&self) -> u32 {
        self.generation
    }

    pub(crate) const fn last_heard(&self) -> Time {
        self.heard
    }

    /// When data was carried last.
    pub(crate) fn last_used(&self) -> Time {
        self.used.unwrap_or(Time::ZERO)
    }

    /// A handshake is done: the link works in both directions.
    pub(crate) fn handle_established(&mut self, now: Time) {
        self.handle_frame(now);
        self.confirmed = now;
        self.unconfirmed_since = None;
        self.last_seqno = None;
        self.set_up(true, now);
    }

    /// The process at the other end is another one than before: what it knew is gone.
    pub(crate) fn handle_restart(&mut self, now: Time) {
        self.set_up(false, now);
        self.last_hello = None;
    }

    /// An authentic frame came in.
    pub(crate) const fn handle_frame(&mut self, now: Time) {
        self.heard = now;
        self.is_deaf = false;
        self.is_suspect = false;
        self.unanswered_since = None;
        self.probes = 0;
    }

    /// The frame that came in had this counter under this index of keys. Before a probe for the largest datagram others
    /// went that were perhaps too large.
    pub(crate) fn handle_counter(&mut self, index: u32, counter: u64, is_size_probe: bool, now: Time) {
        // What was sent while nothing could arrive says nothing of what happens when it can.
        if self.is_up {
            self.metric.handle_frame(index, counter, is_size_probe, now);
        }
    }

    /// The frame that came in carried data.
    pub(crate) const fn handle_received(&mut self, now: Time) {
        self.used = Some(now);
    }

    /// Data was sent. Whether the deadline may have come closer.
    pub(crate) fn handle_sent(&mut self, now: Time) -> bool {
        let is_first = self.unanswered_since.is_none();
        self.used = Some(now);
        self.unanswered_since.get_or_insert(now);
        is_first
    }

    /// Something hints that the other end may have changed; whether it is to be probed at once.
    pub(crate) fn handle_hint(&mut self, now: Time) -> bool {
        let is_silent = self.is_up && now.since(self.heard) >= HINT_SILENCE;
        self.must_greet |= is_silent;
        is_silent
    }

    /// One end is elsewhere than before: the other is asked at once.
    pub(crate) fn handle_moved(&mut self) {
        self.must_greet |= self.is_up;
        // What was asked before could not be answered there.
        self.probes = 0;
    }

    /// Others bring newer word of the other end than it did itself: it is asked at once. Whether it is up at all.
    pub(crate) fn handle_doubt(&mut self) -> bool {
        self.must_greet |= self.is_up && self.probes == 0;
        self.is_up
    }

    /// The operating system says that nobody listens there. Anybody on the path can forge that, so it only makes this
    /// end ask, and be less patient.
    pub(crate) fn handle_refused(&mut self) {
        if self.is_up && !self.is_suspect {
            self.is_suspect = true;
            self.must_greet |= self.probes == 0;
        }
    }

    /// The operating system says that the link is gone. Whether it was up.
    pub(crate) fn handle_lost(&mut self, now: Time) -> bool {
        let was_up = self.is_up;
        self.is_deaf = true;
        self.set_up(false, now);
        was_up
    }

    /// Takes the hello and the IHU of one packet.
    pub(crate) fn handle_greeting(&mut self, hello: &Hello, ihu: Option<&Ihu>, now: Time) -> Greeted {
        let must_answer = hello.link.is_some_and(|link| link.is_probe);
        // What was overtaken on its way tells how things were.
        if self.last_seqno.is_some_and(|last| hello.seqno.wrapping_sub(last).wrapping_sub(1) >= u16::MAX / 2) {
            return Greeted { must_answer, is_changed: false };
        }
        self.last_seqno = Some(hello.seqno);
        let was_up = self.is_up;
        let received = hello.timestamp_us.map(|timestamp_us| (timestamp_us, now));
        self.last_hello = received.or(self.last_hello);
        if let Some(link) = hello.link {
            self.metric.handle_capacity(link.capacity);
        }
        if let Some(ihu) = ihu {
            self.metric.handle_txcost(ihu.rxcost);
            let echoed = ihu.echo.and_then(|echo| self.take_echo(hello, &echo, now));
            if ihu.rxcost == INFINITY {
                self.set_up(false, now);
            } else if !self.is_up && echoed.is_some_and(|sent| sent >= self.went_down) {
                self.set_up(true, now);
            }
        }
        let is_changed = was_up != self.is_up;
        Greeted { must_answer: must_answer || is_changed, is_changed }
    }

    /// Does what is due at `scheduled`.
    pub(crate) fn handle_timeout(&mut self, scheduled: Time, now: Time) -> Action {
        if now < self.deadline() {
            return Action::Wait;
        }
        if self.is_up && self.probes >= self.tries_max() {
            if now.since(scheduled) < LATE_TIMER {
                self.is_deaf = true;
                self.set_up(false, now);
                return Action::Dead;
            }
            // This process slept; answers may lie unread. Ask again before judging.
            self.probes = 0;
        }
        let is_unheard = self.unconfirmed_since.is_some_and(|since| now.since(since) >= CONFIRM_MAX);
        if self.is_up && is_unheard && now.since(scheduled) < LATE_TIMER {
            self.set_up(false, now);
            return Action::Dead;
        }
        self.must_greet = false;
        self.probes = self.probes.saturating_add(1);
        self.probed = now;
        self.unconfirmed_since.get_or_insert(now);
        Action::Probe
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
            let rtt = self.metric.rtt().unwrap_or_default();
            let is_between = self.probes > 1 && self.probes < self.tries_max();
            let patience = if is_between { PROBE_RETRY.max(rtt / 4) } else { PROBE_PATIENCE.max(rtt * 3 / 2) };
            return self.probed + patience;
        }
        let idle = self.heard + self.idle_silence();
        let Some(used) = self.used else { return idle };
        let active = self.unanswered_since.unwrap_or(self.heard) + PROBE_ACTIVE;
        let measure = self.confirmed.max(self.probed) + PROBE_RTT_INTERVAL;
        let due = active.min(measure);
        if due <= used + ACTIVE_KEEP { due.min(idle) } else { idle }
    }

    /// A hello, and an IHU with the echo of the neighbour's last (RFC 8966 section 3.4, RFC 9616 section 3.2).
    pub(crate) fn greeting(&mut self, is_probe: bool, now: Time) -> [Tlv; 2] {
        self.seqno = self.seqno.wrapping_add(1);
        let generation = if self.is_up { self.generation } else { 0 };
        let link = LinkState { is_probe, generation, capacity: self.metric.capacity() };
        let hello = Hello {
            is_unicast: true,
            seqno: self.seqno,
            interval_cs: 0,
            timestamp_us: Some(low_us(now)),
            link: Some(link),
            grant: None,
        };
        let last = self.last_hello.filter(|(_, at)| now.since(*at) < ECHO_MAX);
        let ihu = Ihu {
            address: None,
            rxcost: if self.is_deaf { INFINITY } else { self.metric.rxcost() },
            interval_cs: IHU_INTERVAL_CS,
            echo: last.map(|(origin_us, at)| Echo { origin_us, receive_us: low_us(at) }),
        };
        [Tlv::Hello(hello), Tlv::Ihu(ihu)]
    }

    /// Takes the echo of one of our hellos: measures the round trip (RFC 9616 section 3.1). When the hello was sent.
    fn take_echo(&mut self, hello: &Hello, echo: &Echo, now: Time) -> Option<Time> {
        let age_us = low_us(now).wrapping_sub(echo.origin_us);
        let age = Duration::from_micros(u64::from(age_us));
        if age >= ECHO_MAX {
            return None;
        }
        let sent = Time::from_micros(now.as_micros().checked_sub(u64::from(age_us))?);
        self.confirmed = self.confirmed.max(sent);
        self.unconfirmed_since = self.unconfirmed_since.filter(|since| sent < *since);
        if let Some(timestamp_us) = hello.timestamp_us {
            let kept = Duration::from_micros(u64::from(timestamp_us.wrapping_sub(echo.receive_us)));
            if let Some(rtt) = age.checked_sub(kept).filter(|rtt| *rtt <= RTT_MAX) {
                self.metric.handle_rtt(rtt);
            }
        }
        Some(sent)
    }

    /// How long nothing may be heard of a link that carries nothing: longer, the longer it was left alone.
    fn idle_silence(&self) -> Duration {
        let idle_since = self.used.map_or(self.came_up, |used| used.max(self.came_up));
        (self.heard.since(idle_since) / PROBE_IDLE_DIVISOR).clamp(PROBE_IDLE, PROBE_IDLE_MAX)
    }

    /// Whether data was carried since a time.
    pub(crate) fn is_used_since(&self, since: Time) -> bool {
        self.used.is_some_and(|used| used >= since)
    }

    const fn tries_max(&self) -> u32 {
        match (self.is_suspect, self.metric.is_lossy()) {
            (true, _) => PROBE_TRIES_SUSPECT_MAX,
            (false, true) => PROBE_TRIES_LOSSY_MAX,
            (false, false) => PROBE_TRIES_MAX,
        }
    }

    fn set_up(&mut self, is_up: bool, now: Time) {
        if is_up == self.is_up {
            return;
        }
        self.is_up = is_up;
        self.is_suspect = false;
        self.unanswered_since = None;
        self.probes = 0;
        if is_up {
            // Later than any before, and never zero.
            let clock = u32::try_from(now.as_micros() / 1000 % u64::from(u32::MAX)).unwrap_or(0) + 1;
            self.generation = if clock == self.generation { clock.wrapping_add(1).max(1) } else { clock };
            self.must_greet = true;
            self.confirmed = now;
            self.unconfirmed_since = None;
            self.came_up = now;
            self.metric.handle_up();
        } else {
            self.must_greet = false;
            self.went_down = now;
            // Tell, and ask, soon.
            self.probed = now;
        }
    }
}

/// The clock of the timestamps: microseconds, the lower 32 bits.
fn low_us(time: Time) -> u32 {
    (time.as_micros() & u64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests;
