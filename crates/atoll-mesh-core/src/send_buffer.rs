//! How large the kernel's send buffer is to be, so that what stands in it leaves within [`SEND_BUFFER_TIME`].
//!
//! The kernel's buffer is a plain queue before ours: whatever lies there, a ping has to wait for. It must hold just
//! enough that the network never waits for us. So the rate at which the network takes is measured, between two
//! moments at which the buffer was full, and the buffer made as large as what leaves in a few milliseconds. If it is
//! too small and runs dry before we are woken, we still see a rate of a buffer for each wake; as that takes less than
//! [`SEND_BUFFER_TIME`], the buffer grows.

use crate::{
    limits::{
        QUEUE_QUANTUM_BYTES, SEND_BUFFER_BYTES_INITIAL, SEND_BUFFER_BYTES_MAX, SEND_BUFFER_BYTES_MIN, SEND_BUFFER_TIME,
        SEND_BUFFER_WINDOW,
    },
    time::Time,
};

/// The size of a send buffer.
#[derive(Debug, Clone)]
pub struct SendBuffer {
    bytes: usize,
    /// Since when there was always something to send, and what was taken since.
    window: Option<(Time, u64)>,
}

impl Default for SendBuffer {
    fn default() -> Self {
        Self { bytes: SEND_BUFFER_BYTES_INITIAL, window: None }
    }
}

impl SendBuffer {
    /// Its size, in bytes of datagrams.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// How much to hand to the kernel at once: small parts, where all of it would take long to leave.
    pub fn row_bytes(&self) -> usize {
        (self.bytes / 4).max(QUEUE_QUANTUM_BYTES)
    }

    /// The kernel took so many bytes.
    pub const fn handle_taken(&mut self, bytes: usize) {
        if let Some((_, taken)) = &mut self.window {
            *taken += bytes as u64;
        }
    }

    /// The buffer is full: its new size, if that changes.
    pub fn handle_full(&mut self, now: Time) -> Option<usize> {
        let Some((since, taken)) = self.window else {
            self.window = Some((now, 0));
            return None;
        };
        let passed = now.since(since);
        if passed < SEND_BUFFER_WINDOW {
            return None;
        }
        self.window = Some((now, 0));
        let wanted = u128::from(taken) * SEND_BUFFER_TIME.as_micros() / passed.as_micros();
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        let wanted = wanted.clamp(SEND_BUFFER_BYTES_MIN, SEND_BUFFER_BYTES_MAX).max(self.bytes / 2);
        let is_change = wanted.abs_diff(self.bytes) > self.bytes / 8;
        is_change.then(|| self.bytes = wanted).map(|()| wanted)
    }

    /// There is nothing to send: what is taken from now on says nothing of what could be.
    pub const fn handle_idle(&mut self) {
        self.window = None;
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    /// A kernel that sends at a constant rate, and wakes us when half of its buffer is free, some time later.
    fn settle(bytes_per_second: u64, wake: Duration) -> usize {
        let mut buffer = SendBuffer::default();
        let mut now = Time::ZERO;
        let mut filled = 0_u64;
        for _ in 0..2000 {
            let room = (buffer.bytes() as u64).saturating_sub(filled);
            filled += room;
            buffer.handle_taken(room as usize);
            let _ = buffer.handle_full(now);
            // A shrunk buffer may have to drain for longer.
            let surplus = filled.saturating_sub(buffer.bytes() as u64 / 2);
            let passed = Duration::from_micros(surplus * 1_000_000 / bytes_per_second) + wake;
            now = now + passed;
            filled = filled.saturating_sub(bytes_per_second * passed.as_micros() as u64 / 1_000_000);
        }
        buffer.bytes()
    }

    #[test]
    fn it_holds_a_few_milliseconds_of_any_rate() {
        for megabits in [1_u64, 10, 100, 1000, 10_000] {
            let rate = megabits * 125_000;
            let ideal = (rate * 3 / 1000) as usize;
            let expected = ideal.clamp(SEND_BUFFER_BYTES_MIN, SEND_BUFFER_BYTES_MAX);
            for wake in [20, 200, 1000] {
                let bytes = settle(rate, Duration::from_micros(wake));
                assert!(
                    bytes.abs_diff(expected) <= expected / 4,
                    "{megabits} Mb/s, woken after {wake} us: {bytes}, not {expected}"
                );
            }
        }
    }

    #[test]
    fn an_idle_time_says_nothing_of_the_rate() {
        let mut buffer = SendBuffer::default();
        assert_eq!(buffer.handle_full(Time::from_micros(0)), None);
        buffer.handle_taken(1000);
        buffer.handle_idle();
        assert_eq!(buffer.handle_full(Time::from_micros(1_000_000)), None, "no rate of a window with a pause");
        buffer.handle_taken(1000);
        assert_eq!(buffer.handle_full(Time::from_micros(1_001_000)), None, "too short");
        assert_eq!(buffer.handle_full(Time::from_micros(2_000_000)), Some(SEND_BUFFER_BYTES_INITIAL / 2));
        assert_eq!(buffer.row_bytes(), SEND_BUFFER_BYTES_INITIAL / 8);
    }
}
