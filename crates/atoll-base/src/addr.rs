//! Self-certifying mesh addresses (`design`: RFC 4193 unique local addresses).
//!
//! ```text
//! | 8 bits | 40 bits        | 64 bits                          | 16 bits        |
//! | 0xfd   | region id[..5] | hash(region id, node key)[..8]   | workload index |
//! ```
//!
//! A node owns the /112; index 0 is not used, index 1 is the node itself, the ledger assigns the others to workloads.

use core::{fmt, net::Ipv6Addr};

use crate::ids::{NodeId, RegionId, domain_hash};

/// The /48 of a region.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionPrefix(pub [u8; 6]);

impl RegionPrefix {
    /// The prefix that follows from the region's id.
    pub fn of(region: RegionId) -> Self {
        let mut prefix = [0xfd; 6];
        prefix[1..].copy_from_slice(&region.0[..5]);
        Self(prefix)
    }

    /// Whether `addr` lies in this region.
    pub fn contains(self, addr: Ipv6Addr) -> bool {
        addr.octets()[..6] == self.0
    }

    /// The network address, for routes: use it with a prefix length of 48.
    pub fn network(self) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets[..6].copy_from_slice(&self.0);
        octets.into()
    }
}

impl fmt::Display for RegionPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/48", self.network())
    }
}

impl fmt::Debug for RegionPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A node's /112 in a region: the base from which the addresses of the node and its workloads are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MeshAddr([u8; 14]);

impl MeshAddr {
    /// Prefix length of a node's own network.
    pub const PREFIX_LEN: u8 = 112;
    /// Index of the node itself within its /112.
    pub const NODE_INDEX: u16 = 1;
    /// Lowest index that a workload may have.
    pub const FIRST_WORKLOAD: u16 = 2;

    /// The network of the node with this key in this region.
    pub fn of(region: RegionId, node: NodeId) -> Self {
        let mut base = [0; 14];
        base[..6].copy_from_slice(&RegionPrefix::of(region).0);
        let hash = domain_hash("atoll mesh address v1", &[&region.0, &node.0]);
        base[6..].copy_from_slice(&hash[..8]);
        Self(base)
    }

    /// The network to which `addr` belongs, whoever owns it.
    pub fn containing(addr: Ipv6Addr) -> Self {
        let mut base = [0; 14];
        base.copy_from_slice(&addr.octets()[..14]);
        Self(base)
    }

    /// The address with the given index.
    pub fn host(self, index: u16) -> Ipv6Addr {
        let mut octets = [0; 16];
        octets[..14].copy_from_slice(&self.0);
        octets[14..].copy_from_slice(&index.to_be_bytes());
        octets.into()
    }

    /// The node's own address.
    pub fn node(self) -> Ipv6Addr {
        self.host(Self::NODE_INDEX)
    }

    /// The network address, for routes: use it with [`Self::PREFIX_LEN`].
    pub fn network(self) -> Ipv6Addr {
        self.host(0)
    }

    /// Whether `addr` belongs to this node or one of its workloads.
    pub fn contains(self, addr: Ipv6Addr) -> bool {
        addr.octets()[..14] == self.0
    }

    /// The first 14 bytes that all its addresses share.
    pub const fn octets(self) -> [u8; 14] {
        self.0
    }

    /// From the first 14 bytes.
    pub const fn from_octets(octets: [u8; 14]) -> Self {
        Self(octets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_from_region_and_key() {
        let region = RegionId([0xab; 32]);
        let a = MeshAddr::of(region, NodeId([1; 32]));
        let b = MeshAddr::of(region, NodeId([2; 32]));
        assert_ne!(a, b);
        assert!(RegionPrefix::of(region).contains(a.node()));
        assert_eq!(RegionPrefix::of(region).to_string(), "fdab:abab:abab::/48");
        assert!(a.contains(a.host(9)) && !a.contains(b.host(9)));
        assert_eq!(MeshAddr::containing(a.host(77)), a);
    }
}
