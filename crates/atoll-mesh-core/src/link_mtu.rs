//! How large a datagram may be on one link, found out by asking (packetization layer path MTU discovery, RFC 8899).
//!
//! A link starts at what the smallest packets of IPv6 need. Probes of the usual sizes are sent side by side; each that is
//! acknowledged raises the bound. The bound of a link that is used is confirmed every few seconds: a path that shrinks is
//! noticed without any message from routers, which firewalls like to swallow. Now and then larger sizes are tried too. A
//! path on which not even the smallest packets of IPv6 fit is *narrow*, and nothing is routed over it.

use crate::{
    limits::{
        DATAGRAM_BYTES_MIN, MTU_NARROW_INTERVAL, MTU_PROBE_FULL_EVERY, MTU_PROBE_INTERVAL, MTU_PROBE_RETRY,
        MTU_PROBE_TRIES_MAX,
    },
    time::Time,
};

/// Datagram sizes that are worth a probe, ascending: the least that a link must carry; behind tunnels and PPPoE, Ethernet
/// over IPv6 and over IPv4, jumbo frames over IPv6.
pub(crate) const SIZES: [u16; 5] = [DATAGRAM_BYTES_MIN, 1392, 1452, 1472, 8952];

/// What is known of one link.
#[derive(Debug, Clone)]
pub(crate) struct LinkMtu {
    /// Largest that was acknowledged; before that, the least that a link must carry.
    confirmed: u16,
    /// Largest that was acknowledged in this round; a round that ends below `confirmed` lowers it.
    round: u16,
    /// Not even the least passes.
    is_narrow: bool,
    /// Rounds since one that tried all sizes.
    rounds: u32,
    tries: u32,
    /// End of the last round.
    known: Time,
    next: Time,
}

impl LinkMtu {
    pub(crate) const fn new(now: Time) -> Self {
        Self { confirmed: DATAGRAM_BYTES_MIN, round: 0, is_narrow: false, rounds: 0, tries: 0, known: now, next: now }
    }

    /// Bytes that a datagram may have.
    pub(crate) const fn datagram_bytes(&self) -> u16 {
        self.confirmed
    }

    /// Whether no larger size is worth a probe.
    pub(crate) const fn is_largest(&self) -> bool {
        self.confirmed == SIZES[SIZES.len() - 1]
    }

    /// Whether the path carries less than a link must.
    pub(crate) const fn is_narrow(&self) -> bool {
        self.is_narrow
    }

    /// The link came up, perhaps over another path than before.
    pub(crate) const fn handle_up(&mut self, now: Time) {
        *self = Self::new(now);
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(crate) const fn deadline(&self) -> Time {
        self.next
    }

    /// Since when the bound is known: it need not be confirmed before the link is used. Nothing during a round, or if the
    /// link cannot be used as it is.
    pub(crate) const fn known_since(&self) -> Option<Time> {
        if self.rounds > 0 && self.tries == 0 && !self.is_narrow { Some(self.known) } else { None }
    }

    /// The sizes to probe now; whether the bound became lower.
    pub(crate) fn handle_timeout(&mut self, now: Time) -> (Vec<u16>, bool) {
        if now < self.next {
            return (Vec::new(), false);
        }
        let mut is_lower = false;
        if self.tries >= MTU_PROBE_TRIES_MAX && self.round < self.confirmed {
            if self.confirmed > DATAGRAM_BYTES_MIN {
                is_lower = true;
                // From the beginning, at once.
                self.handle_up(now);
            } else {
                is_lower = !core::mem::replace(&mut self.is_narrow, true);
            }
        }
        let is_full = self.rounds.is_multiple_of(MTU_PROBE_FULL_EVERY) && !self.is_narrow;
        let wanted = |size: &u16| *size > self.round && (is_full || *size == self.confirmed);
        let sizes: Vec<_> = SIZES.into_iter().filter(wanted).collect();
        if sizes.is_empty() || self.tries >= MTU_PROBE_TRIES_MAX {
            self.round = 0;
            self.rounds += 1;
            self.tries = 0;
            self.known = now;
            self.next = now + if self.is_narrow { MTU_NARROW_INTERVAL } else { MTU_PROBE_INTERVAL };
            return (Vec::new(), is_lower);
        }
        self.tries += 1;
        self.next = now + MTU_PROBE_RETRY;
        (sizes, is_lower)
    }

    /// A probe of this size was acknowledged; whether the bound became higher.
    pub(crate) fn handle_acknowledgement(&mut self, size: u16) -> bool {
        if !SIZES.contains(&size) {
            return false;
        }
        self.round = self.round.max(size);
        let is_higher = size > self.confirmed || self.is_narrow;
        if core::mem::take(&mut self.is_narrow) {
            // Perhaps there is room for more.
            self.rounds = 0;
        }
        self.confirmed = self.confirmed.max(size);
        is_higher
    }

    /// The own machine cannot send a datagram of so many bytes there. Whether the bound became lower; that the path is
    /// narrow, only probes show.
    pub(crate) fn handle_too_large(&mut self, bytes: usize, now: Time) -> bool {
        let below = SIZES.into_iter().rfind(|size| usize::from(*size) < bytes).unwrap_or(DATAGRAM_BYTES_MIN);
        let is_lower = below < self.confirmed;
        if is_lower {
            *self = Self { confirmed: below, ..Self::new(now) };
        }
        is_lower
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    /// Lets time pass on a path that carries datagrams of so many bytes; how many probes were sent.
    fn pass(mtu: &mut LinkMtu, path: u16, from: Time, duration: Duration) -> usize {
        let mut probes = 0;
        while mtu.deadline() < from + duration {
            let (sizes, _) = mtu.handle_timeout(mtu.deadline());
            for size in sizes {
                probes += 1;
                if size <= path {
                    mtu.handle_acknowledgement(size);
                }
            }
        }
        probes
    }

    #[test]
    fn the_largest_size_of_the_path_is_found_at_once_and_a_smaller_path_is_noticed() {
        let mut mtu = LinkMtu::new(Time::ZERO);
        assert_eq!(mtu.datagram_bytes(), DATAGRAM_BYTES_MIN);
        pass(&mut mtu, 1472, Time::ZERO, Duration::from_millis(1));
        assert_eq!(mtu.datagram_bytes(), 1472, "after one round trip");
        let (hour, now) = (Duration::from_secs(3600), mtu.deadline());
        let probes = pass(&mut mtu, 1472, now, hour);
        assert_eq!(mtu.datagram_bytes(), 1472);
        assert!(probes < 3600 / 5 + 60, "a link is not flooded: {probes}");
        let now = mtu.deadline();
        pass(&mut mtu, 1400, now, MTU_PROBE_INTERVAL * 3);
        assert_eq!(mtu.datagram_bytes(), 1392);
        let now = mtu.deadline();
        pass(&mut mtu, 1362, now, MTU_PROBE_INTERVAL * 3);
        assert_eq!((mtu.datagram_bytes(), mtu.is_narrow()), (DATAGRAM_BYTES_MIN, false));
        mtu.handle_up(now);
        assert!(!mtu.handle_acknowledgement(9000), "nobody asked for this size");
    }

    #[test]
    fn a_path_that_carries_no_packet_of_ipv6_is_narrow_until_it_does() {
        let mut mtu = LinkMtu::new(Time::ZERO);
        pass(&mut mtu, 1361, Time::ZERO, MTU_PROBE_RETRY * MTU_PROBE_TRIES_MAX + Duration::from_millis(1));
        assert!(mtu.is_narrow() && mtu.known_since().is_none(), "it is asked again though nothing uses it");
        let now = mtu.deadline();
        let probes = pass(&mut mtu, 1361, now, Duration::from_secs(3600));
        assert!(mtu.is_narrow() && probes < 1500, "{probes}");
        let now = mtu.deadline();
        pass(&mut mtu, 1472, now, MTU_PROBE_RETRY * 2);
        assert_eq!((mtu.datagram_bytes(), mtu.is_narrow()), (1472, false));
    }

    #[test]
    fn what_the_own_machine_cannot_send_lowers_the_bound_at_once() {
        let mut mtu = LinkMtu::new(Time::ZERO);
        pass(&mut mtu, 8952, Time::ZERO, Duration::from_millis(1));
        let now = mtu.deadline();
        for (refused, expected, is_lower) in
            [(8952, 1472, true), (8952, 1472, false), (1450, 1392, true), (1392, 1362, true), (1362, 1362, false)]
        {
            assert_eq!(mtu.handle_too_large(refused, now), is_lower, "{refused}");
            assert_eq!(mtu.datagram_bytes(), expected, "{refused}");
            assert_eq!(mtu.deadline(), now, "it is asked anew at once");
        }
        pass(&mut mtu, 1361, now, MTU_PROBE_RETRY * MTU_PROBE_TRIES_MAX + Duration::from_millis(1));
        assert!(mtu.is_narrow());
    }
}
