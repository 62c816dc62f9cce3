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

use std::{collections::BTreeSet, net::Ipv6Addr};

use atoll_base::{MeshAddr, NodeId, RegionId};

use crate::babel::Prefix;

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
    /// Where to: only what lies in one of these, and outside of the mesh. None: everywhere outside.
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
}

impl Exits {
    /// Begins or ends to be an exit.
    pub(crate) fn set_offer(&mut self, region: RegionId, offer: Option<Offer>) {
        self.offer = offer.map(|Offer { guests, to }| OpenExit {
            guests: match guests {
                Guests::Region => None,
                Guests::Nodes(nodes) => Some(nodes.iter().map(|node| MeshAddr::of(region, *node)).collect()),
            },
            to,
            around: BTreeSet::new(),
        });
    }

    /// Says which addresses the exit has: what shares a /64 with one of them is never let through.
    pub(crate) fn set_own_addresses(&mut self, addresses: impl Iterator<Item = Ipv6Addr>) {
        if let Some(offer) = &mut self.offer {
            offer.around = addresses.map(local_network).collect();
        }
    }

    pub(crate) fn set_used(&mut self, exit: Option<MeshAddr>) {
        self.used = exit;
    }

    pub(crate) const fn used(&self) -> Option<MeshAddr> {
        self.used
    }

    /// To whom a packet goes that this machine, whose own address is `own`, sends from `source` to one outside.
    pub(crate) fn way_out(&self, own: Ipv6Addr, source: Ipv6Addr, target: Ipv6Addr) -> Option<MeshAddr> {
        self.used.filter(|_| source == own && is_outside(target))
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
        self.used == Some(sender) && target == own && is_outside(source)
    }
}

impl OpenExit {
    fn is_for(&self, node: MeshAddr) -> bool {
        self.guests.as_ref().is_none_or(|guests| guests.contains(&node))
    }

    fn lets_through(&self, target: Ipv6Addr) -> bool {
        let single = Prefix::new(target, 128);
        let is_named = || self.to.iter().any(|prefix| single.is_some_and(|single| prefix.covers(single)));
        is_outside(target) && !self.around.contains(&local_network(target)) && (self.to.is_empty() || is_named())
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
        exits.set_offer(REGION, Some(Offer { guests: Guests::Region, to: Vec::new() }));
        assert!(exits.lets_out(network(1), far) && exits.lets_back(far, network(1)));
        assert!(!exits.lets_out(network(1), address("fd00::1")) && !exits.lets_back(address("fe80::1"), network(1)));

        let guests = Guests::Nodes(BTreeSet::from([id(2)]));
        let to = ["2001:db8:5::", "2001:db8:6::"].map(|text| Prefix::new(address(text), 48).expect("a prefix"));
        exits.set_offer(REGION, Some(Offer { guests, to: to.to_vec() }));
        assert!(!exits.lets_out(network(1), far) && !exits.lets_back(far, network(1)), "not a guest");
        assert!(exits.lets_out(network(2), far) && exits.lets_back(far, network(2)));
        assert!(!exits.lets_out(network(2), address("2001:db8:7::1")), "not named");
        // An error of a router on the way may come from anywhere.
        assert!(exits.lets_back(address("2001:db8:7::1"), network(2)));

        exits.set_own_addresses([address("2001:db8:5:1::7"), address("fd00::1")].into_iter());
        for (target, passes) in [("2001:db8:5:1::7", false), ("2001:db8:5:1::8", false), ("2001:db8:5:2::7", true)] {
            assert_eq!(exits.lets_out(network(2), address(target)), passes, "{target}");
        }
        exits.set_offer(REGION, None);
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
}
