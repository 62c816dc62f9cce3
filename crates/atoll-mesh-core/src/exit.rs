//! Exits: nodes that let others out to addresses outside of the mesh, and back in what answers.
//!
//! ```text
//!            source                     destination
//! user   →   its own address            outside         taken by an exit, from those it is an exit for
//! exit   →   outside                    user's address  taken by a user, from its exit only
//! ```
//!
//! *Outside* is 2000::/3, the addresses that IANA gives out for the Internet (RFC 4291 section 2.4): nothing private, of
//! a mesh, link-local or multicast is ever let through. What answers a user's packets is known to the exit's kernel, not
//! here.
//!
//! IPv4 is outside too: an address of it is reached as one in 64:ff9b::/96 ([`translate`](crate::translate)), but for
//! those that are not of the Internet ([`is_global`]). Each guest has an IPv4 address of its own at the exit, of which
//! the exit's kernel makes one of the exit.

mod pool;

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
};

use atoll_base::{MeshAddr, NodeId, RegionId};

use crate::{
    babel::Prefix,
    limits::IPV4_NETWORKS_MAX,
    time::Time,
    translate::{embed, embedded, is_global},
};
use pool::Pool;
pub use pool::{POOL_BITS, pool_of};

/// Length of the prefix of a local network (RFC 4291 section 2.5.1).
const LOCAL_BITS: u32 = 64;

/// Whether an address is one of the Internet.
pub fn is_outside(address: Ipv6Addr) -> bool {
    address.octets()[0] >> 5 == 0b001
}

/// For whom a node is an exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guests {
    /// Every node of its region.
    Region,
    /// These.
    Nodes(BTreeSet<NodeId>),
}

/// What an exit lets through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// For whom.
    pub guests: Guests,
    /// Where to: only what lies in one of these, and outside of the mesh. None: everywhere outside. IPv4 addresses are
    /// meant by prefixes in 64:ff9b::/96.
    pub to: Vec<Prefix>,
}

/// A node's part in exits: as an exit, as a user, or none.
#[derive(Debug, Default)]
pub(crate) struct Exits {
    offer: Option<OpenExit>,
    /// Network of the exit that this node uses.
    used: Option<MeshAddr>,
}

#[derive(Debug)]
struct OpenExit {
    /// Networks of its guests; all of the region, if nothing is said.
    guests: Option<BTreeSet<MeshAddr>>,
    to: Vec<Prefix>,
    /// The local networks around the exit, and so itself: its owner's, not the Internet.
    around: BTreeSet<u128>,
    /// The same of IPv4: network and mask of each. Without any there is no way to the IPv4 Internet.
    around4: BTreeSet<(u32, u32)>,
    pool: Pool,
}

/// Why a packet to an IPv4 address is not let out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// It is not from the node itself of a guest, or not to where the owner lets.
    Prohibited,
    /// The exit has no IPv4.
    NoIpv4,
}

impl Exits {
    /// Begins or ends to be an exit, on the node with this network.
    pub(crate) fn set_offer(&mut self, region: RegionId, own: MeshAddr, offer: Option<Offer>) {
        self.offer = offer.map(|Offer { guests, to }| OpenExit {
            guests: match guests {
                Guests::Region => None,
                Guests::Nodes(nodes) => Some(nodes.iter().map(|node| MeshAddr::of(region, *node)).collect()),
            },
            to,
            around: BTreeSet::new(),
            around4: BTreeSet::new(),
            pool: Pool::new(own),
        });
    }

    /// Says which addresses the exit has: what shares a /64 with one of them is never let through.
    pub(crate) fn set_own_addresses(&mut self, addresses: impl Iterator<Item = Ipv6Addr>) {
        if let Some(offer) = &mut self.offer {
            offer.around = addresses.map(local_network).collect();
        }
    }

    /// Says which IPv4 addresses the exit has, and how many bits of each are its local network.
    pub(crate) fn set_own_networks(&mut self, networks: impl Iterator<Item = (Ipv4Addr, u8)>) {
        let Some(offer) = &mut self.offer else { return };
        let others = networks.filter(|(address, _)| !address.is_loopback());
        let masked = others.take(IPV4_NETWORKS_MAX).map(|(address, bits)| {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits.into())).unwrap_or(0);
            (u32::from(address) & mask, mask)
        });
        offer.around4 = masked.collect();
    }

    pub(crate) fn set_used(&mut self, exit: Option<MeshAddr>) {
        self.used = exit;
    }

    pub(crate) const fn used(&self) -> Option<MeshAddr> {
        self.used
    }

    /// To whom a packet goes that this machine, whose own address is `own`, sends from `source` to one outside.
    pub(crate) fn way_out(&self, own: Ipv6Addr, source: Ipv6Addr, target: Ipv6Addr) -> Option<MeshAddr> {
        self.used.filter(|_| source == own && (is_outside(target) || embedded(target).is_some()))
    }

    /// Whether the exit sends a packet that came from outside to a node of the region.
    pub(crate) fn lets_back(&self, source: Ipv6Addr, target: MeshAddr) -> bool {
        self.offer.as_ref().is_some_and(|offer| offer.is_for(target)) && is_outside(source)
    }

    /// Whether the exit lets a packet out that a node of the region sent.
    pub(crate) fn lets_out(&self, sender: MeshAddr, target: Ipv6Addr) -> bool {
        self.offer.as_ref().is_some_and(|offer| offer.is_for(sender) && offer.lets_through(target))
    }

    /// Whether a packet from outside that `sender` passed on may come in to `target`; this machine's own address is
    /// `own`.
    pub(crate) fn lets_in(&self, sender: MeshAddr, source: Ipv6Addr, own: Ipv6Addr, target: Ipv6Addr) -> bool {
        let is_beyond = || is_outside(source) || embedded(source).is_some_and(is_global);
        self.used == Some(sender) && target == own && is_beyond()
    }

    /// Whether the exit lets a packet out to an IPv4 address.
    pub(crate) fn lets_out_to_ipv4(&self, sender: MeshAddr, source: Ipv6Addr, target: Ipv4Addr) -> Result<(), Denied> {
        let guest = |offer: &&OpenExit| offer.is_for(sender) && source == sender.node();
        let offer = self.offer.as_ref().filter(guest).ok_or(Denied::Prohibited)?;
        if !offer.lets_through_to_ipv4(target) {
            return Err(Denied::Prohibited);
        }
        if offer.around4.is_empty() { Err(Denied::NoIpv4) } else { Ok(()) }
    }

    /// The IPv4 address of a guest; nothing if it is none, or all addresses are in use.
    pub(crate) fn address_of(&mut self, guest: MeshAddr, now: Time) -> Option<Ipv4Addr> {
        self.offer.as_mut().filter(|offer| offer.is_for(guest))?.pool.address_of(guest, now)
    }

    /// Which guest has an IPv4 address.
    pub(crate) fn guest_at(&mut self, address: Ipv4Addr, now: Time) -> Option<MeshAddr> {
        self.offer.as_mut()?.pool.guest_at(address, now)
    }

    /// Whether this node is an exit.
    pub(crate) const fn is_offered(&self) -> bool {
        self.offer.is_some()
    }
}

impl OpenExit {
    fn is_for(&self, node: MeshAddr) -> bool {
        self.guests.as_ref().is_none_or(|guests| guests.contains(&node))
    }

    fn lets_through(&self, target: Ipv6Addr) -> bool {
        is_outside(target) && !self.around.contains(&local_network(target)) && self.is_named(target)
    }

    fn lets_through_to_ipv4(&self, target: Ipv4Addr) -> bool {
        let is_around = || self.around4.iter().any(|(network, mask)| u32::from(target) & mask == *network);
        is_global(target) && !is_around() && self.is_named(embed(target))
    }

    fn is_named(&self, target: Ipv6Addr) -> bool {
        let single = Prefix::new(target, 128);
        self.to.is_empty() || self.to.iter().any(|prefix| single.is_some_and(|single| prefix.covers(single)))
    }
}

fn local_network(address: Ipv6Addr) -> u128 {
    u128::from(address) >> (128 - LOCAL_BITS)
}

#[cfg(test)]
mod tests {
    use atoll_base::NodeSecret;

    use super::*;

    const REGION: RegionId = RegionId([7; 32]);

    fn address(text: &str) -> Ipv6Addr {
        text.parse().expect("an address")
    }

    fn id(seed: u8) -> NodeId {
        NodeSecret::from_seed([seed; 32]).id()
    }

    fn network(seed: u8) -> MeshAddr {
        MeshAddr::of(REGION, id(seed))
    }

    #[test]
    fn only_what_the_internet_uses_is_outside() {
        for outside in ["2000::", "2001:4860:4860::8888", "3fff:ffff::1", "2a00::1"] {
            assert!(is_outside(address(outside)), "{outside}");
        }
        let own = network(1).node().to_string();
        for inside in [
            "::",
            "::1",
            "::ffff:192.0.2.1",
            "64:ff9b::1",
            "1fff:ffff::1",
            "4000::",
            "fc00::1",
            "fd00::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "ff0e::1",
            &own,
        ] {
            assert!(!is_outside(address(inside)), "{inside}");
        }
    }

    #[test]
    fn an_exit_is_one_for_its_guests_and_to_where_its_owner_lets() {
        let mut exits = Exits::default();
        let far = address("2001:db8:5::1");
        assert!(!exits.lets_out(network(1), far) && !exits.lets_back(far, network(1)), "nobody asked for an exit");
        exits.set_offer(REGION, network(9), Some(Offer { guests: Guests::Region, to: Vec::new() }));
        assert!(exits.lets_out(network(1), far) && exits.lets_back(far, network(1)));
        assert!(!exits.lets_out(network(1), address("fd00::1")) && !exits.lets_back(address("fe80::1"), network(1)));

        let guests = Guests::Nodes(BTreeSet::from([id(2)]));
        let to = ["2001:db8:5::", "2001:db8:6::"].map(|text| Prefix::new(address(text), 48).expect("a prefix"));
        exits.set_offer(REGION, network(9), Some(Offer { guests, to: to.to_vec() }));
        assert!(!exits.lets_out(network(1), far) && !exits.lets_back(far, network(1)), "not a guest");
        assert!(exits.lets_out(network(2), far) && exits.lets_back(far, network(2)));
        assert!(!exits.lets_out(network(2), address("2001:db8:7::1")), "not named");
        // An error of a router on the way may come from anywhere.
        assert!(exits.lets_back(address("2001:db8:7::1"), network(2)));

        exits.set_own_addresses([address("2001:db8:5:1::7"), address("fd00::1")].into_iter());
        for (target, passes) in [("2001:db8:5:1::7", false), ("2001:db8:5:1::8", false), ("2001:db8:5:2::7", true)] {
            assert_eq!(exits.lets_out(network(2), address(target)), passes, "{target}");
        }
        exits.set_offer(REGION, network(9), None);
        assert!(!exits.lets_out(network(2), far));
    }

    #[test]
    fn a_user_takes_what_is_outside_from_its_exit_only() {
        let (own, far) = (network(1).node(), address("2001:db8:5::1"));
        let mut exits = Exits::default();
        assert_eq!(exits.way_out(own, own, far), None);
        assert!(!exits.lets_in(network(2), far, own, own));
        exits.set_used(Some(network(2)));
        assert_eq!(exits.way_out(own, own, far), Some(network(2)));
        assert_eq!(exits.way_out(own, network(1).host(5), far), None, "workloads stay in the mesh");
        assert_eq!(exits.way_out(own, own, address("fd00::1")), None);
        assert!(exits.lets_in(network(2), far, own, own));
        assert!(!exits.lets_in(network(3), far, own, own), "another node");
        assert!(!exits.lets_in(network(2), far, own, network(1).host(5)), "a workload");
        assert!(!exits.lets_in(network(2), address("fd00::1"), own, own), "not outside");
        assert!(!exits.lets_out(network(3), far), "a user is no exit");
    }
    #[test]
    fn an_exit_leads_to_the_ipv4_internet_and_to_no_network_of_its_owner() {
        let far = Ipv4Addr::new(198, 51, 100, 7);
        let (guest, source) = (network(1), network(1).node());
        let mut exits = Exits::default();
        assert_eq!(exits.lets_out_to_ipv4(guest, source, far), Err(Denied::Prohibited), "nobody asked for an exit");
        let all = || Some(Offer { guests: Guests::Nodes(BTreeSet::from([id(1)])), to: Vec::new() });
        exits.set_offer(REGION, network(9), all());
        assert_eq!(exits.lets_out_to_ipv4(guest, source, far), Err(Denied::NoIpv4));
        exits.set_own_networks([(Ipv4Addr::LOCALHOST, 8)].into_iter());
        assert_eq!(exits.lets_out_to_ipv4(guest, source, far), Err(Denied::NoIpv4), "every machine has that one");
        let own = [([203, 0, 113, 9], 24), ([192, 0, 2, 1], 32), ([10, 0, 0, 1], 8)];
        exits.set_own_networks(own.map(|(octets, bits)| (octets.into(), bits)).into_iter());
        assert_eq!(exits.lets_out_to_ipv4(guest, source, far), Ok(()));
        assert_eq!(exits.lets_out_to_ipv4(guest, guest.host(5), far), Err(Denied::Prohibited), "a workload");
        assert_eq!(exits.lets_out_to_ipv4(network(2), network(2).node(), far), Err(Denied::Prohibited), "no guest");
        assert_eq!((exits.address_of(network(2), Time::ZERO), exits.lets_out(guest, embed(far))), (None, false));
        for (octets, passes) in [
            ([203, 0, 113, 9], false),
            ([203, 0, 113, 255], false),
            ([203, 0, 112, 255], true),
            ([192, 0, 2, 1], false),
            ([192, 0, 2, 2], true),
            ([10, 1, 2, 3], false),
            ([0, 0, 0, 1], false),
            ([100, 64, 0, 1], false),
            ([100, 128, 0, 1], true),
            ([127, 0, 0, 1], false),
            ([169, 254, 169, 254], false),
            ([172, 15, 255, 255], true),
            ([172, 16, 0, 0], false),
            ([172, 32, 0, 0], true),
            ([192, 0, 0, 170], false),
            ([192, 88, 99, 1], false),
            ([192, 168, 1, 1], false),
            ([198, 19, 0, 1], false),
            ([198, 20, 0, 1], true),
            ([223, 255, 255, 255], true),
            ([224, 0, 0, 1], false),
            ([240, 0, 0, 1], false),
            ([255, 255, 255, 255], false),
        ] {
            let passed = exits.lets_out_to_ipv4(guest, source, octets.into()).is_ok();
            assert_eq!(passed, passes, "{octets:?}");
        }
        let address = exits.address_of(guest, Time::ZERO).expect("a guest");
        assert!(!is_global(address));
        assert_eq!(exits.guest_at(address, Time::ZERO), Some(guest));

        // Restricted to one network of IPv4, it leads nowhere else, neither of IPv4 nor of IPv6; and the other way.
        for (to, bits, reaches) in [("64:ff9b::c633:6400", 120, [true, false]), ("2001:db8::", 32, [false, true])] {
            let to = vec![Prefix::new(self::address(to), bits).expect("a prefix")];
            exits.set_offer(REGION, network(9), Some(Offer { guests: Guests::Region, to }));
            exits.set_own_networks([([203, 0, 113, 9].into(), 24)].into_iter());
            let is_reached = exits.lets_out_to_ipv4(guest, source, far).is_ok();
            assert_eq!([is_reached, exits.lets_out(guest, self::address("2001:db8::1"))], reaches);
            assert!(exits.lets_out_to_ipv4(guest, source, [198, 51, 101, 7].into()).is_err());
        }
    }

    #[test]
    fn a_user_takes_ipv4_from_its_exit_only() {
        let own = network(1).node();
        let far = embed([198, 51, 100, 7].into());
        let mut exits = Exits::default();
        assert_eq!(exits.way_out(own, own, far), None);
        exits.set_used(Some(network(2)));
        assert_eq!(exits.way_out(own, own, far), Some(network(2)));
        // Refused by the exit, with a word to the program that asks.
        assert_eq!(exits.way_out(own, own, embed([10, 0, 0, 1].into())), Some(network(2)));
        assert!(exits.lets_in(network(2), far, own, own));
        assert!(!exits.lets_in(network(3), far, own, own), "another node");
        assert!(!exits.lets_in(network(2), far, own, network(1).host(5)), "a workload");
        assert!(!exits.lets_in(network(2), embed([10, 0, 0, 1].into()), own, own), "private");
        exits.set_offer(REGION, network(9), Some(Offer { guests: Guests::Region, to: Vec::new() }));
        assert!(!exits.lets_back(far, network(1)), "it can come from the translator only");
    }
}
