//! Which guest of an exit has which IPv4 address, out of a pool that never leaves the exit's machine.

use std::{collections::BTreeMap, net::Ipv4Addr};

use atoll_base::MeshAddr;

use crate::{
    limits::{IPV4_GUEST_IDLE, IPV4_GUESTS_MAX},
    time::Time,
};

/// Length of a pool's prefix.
pub const POOL_BITS: u8 = 20;

/// An exit's addresses, one of which each guest gets when it first needs one. It keeps that until it was idle for
/// [`IPV4_GUEST_IDLE`] and another needs it.
#[derive(Debug)]
pub(crate) struct Pool {
    network: u32,
    /// Which place of the list below each has.
    places: BTreeMap<MeshAddr, usize>,
    /// Who has each address, and when it was last used.
    guests: Vec<(MeshAddr, Time)>,
    /// No address becomes idle before, if all are given out.
    idle_at: Time,
}

/// The pool of an exit: 2^12 addresses in 240.0.0.0/4, which no network uses. Which ones follows from the node's own
/// network, so that two nodes on one machine have different ones.
pub fn pool_of(node: MeshAddr) -> Ipv4Addr {
    let octets = node.node().octets();
    // The last one would contain the broadcast address.
    let number = u32::from(u16::from_be_bytes([octets[12], octets[13]])) % 0xffff;
    (0xf000_0000 | number << (32 - POOL_BITS)).into()
}

impl Pool {
    pub(crate) fn new(node: MeshAddr) -> Self {
        Self { network: pool_of(node).into(), places: BTreeMap::new(), guests: Vec::new(), idle_at: Time::ZERO }
    }

    /// The address of a guest, which may get it now; nothing if all are in use.
    pub(crate) fn address_of(&mut self, guest: MeshAddr, now: Time) -> Option<Ipv4Addr> {
        let place = match self.places.get(&guest) {
            Some(place) => *place,
            None => self.free_place(guest, now)?,
        };
        self.guests[place].1 = now;
        Some((self.network + 1 + u32::try_from(place).ok()?).into())
    }

    /// Who has an address.
    pub(crate) fn guest_at(&mut self, address: Ipv4Addr, now: Time) -> Option<MeshAddr> {
        let place = u32::from(address).checked_sub(self.network + 1)?;
        let (guest, used) = self.guests.get_mut(usize::try_from(place).ok()?)?;
        *used = now;
        Some(*guest)
    }

    fn free_place(&mut self, guest: MeshAddr, now: Time) -> Option<usize> {
        let place = if self.guests.len() < IPV4_GUESTS_MAX {
            self.guests.push((guest, now));
            self.guests.len() - 1
        } else {
            if now < self.idle_at {
                return None;
            }
            let (place, (previous, used)) = self.guests.iter().enumerate().min_by_key(|(_, (_, used))| *used)?;
            if now < *used + IPV4_GUEST_IDLE {
                self.idle_at = *used + IPV4_GUEST_IDLE;
                return None;
            }
            self.places.remove(previous);
            self.guests[place] = (guest, now);
            place
        };
        self.places.insert(guest, place);
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::limits::IPV4_GUESTS_MAX as MAX;

    fn network(number: usize) -> MeshAddr {
        let number = u128::try_from(number).expect("fits");
        MeshAddr::containing((0xfd00_0000_0000_0000_0000_0000_0000_0000 | number << 16).into())
    }

    fn pool() -> Pool {
        Pool::new(network(0x1234))
    }

    #[test]
    fn a_guest_keeps_its_address_and_the_idlest_gives_way() {
        let mut pool = pool();
        let second = |number: usize| Time::ZERO + Duration::from_secs(number as u64);
        assert_eq!(pool.address_of(network(1), second(0)), Some(Ipv4Addr::new(241, 35, 64, 1)));
        for number in 0..MAX {
            let address = pool.address_of(network(number), second(number)).expect("one is free");
            assert_eq!(pool.guest_at(address, second(number)), Some(network(number)));
            assert_eq!(u32::from(address) >> 12, 0xf_1234, "of the pool");
            assert_ne!(u32::from(address) & 0xfff, 0xfff, "not the last one, which some take for a broadcast");
        }
        let first = pool.address_of(network(0), second(MAX)).expect("it has one");
        let is_full = second(MAX) + Duration::from_secs(1);
        assert_eq!(pool.address_of(network(MAX), is_full), None);
        // Of those, 1 was used first; 0 was used again.
        let before = second(1) + IPV4_GUEST_IDLE;
        let just_before = Time::from_micros(before.as_micros() - 1);
        assert_eq!(pool.address_of(network(MAX), just_before), None, "not idle for long enough");
        let given = pool.address_of(network(MAX), before).expect("idle");
        assert_eq!(pool.guest_at(given, before), Some(network(MAX)));
        assert_eq!(pool.address_of(network(1), before), None, "it lost its own");
        assert_eq!(pool.guest_at(first, before), Some(network(0)));
        assert_eq!(pool.places.len(), MAX);
    }

    #[test]
    fn addresses_outside_of_the_pool_are_nobodys() {
        let mut pool = pool();
        let own = pool.address_of(network(7), Time::ZERO).expect("one is free");
        for (distance, guest) in [(-1_i64, None), (0, Some(network(7))), (1, None), (0x1000, None), (-0x1000, None)] {
            let address = u32::try_from(i64::from(u32::from(own)) + distance).expect("an address");
            assert_eq!(pool.guest_at(address.into(), Time::ZERO), guest, "{distance}");
        }
        assert_eq!(pool.guest_at(Ipv4Addr::UNSPECIFIED, Time::ZERO), None);
        assert_eq!(pool.guest_at(Ipv4Addr::BROADCAST, Time::ZERO), None);
    }

    #[test]
    fn no_pool_contains_the_broadcast_address() {
        let last = MeshAddr::containing(u128::MAX.into());
        assert!(u32::from(pool_of(last)) >> (32 - POOL_BITS) < 0xf_ffff);
        assert_ne!(pool_of(network(1)), pool_of(network(2)));
    }
}
