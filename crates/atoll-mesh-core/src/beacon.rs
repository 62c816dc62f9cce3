//! The beacon by which members of a region find each other on a local network. It proves nothing: it only says where
//! a handshake is worth a try.

use atoll_base::{MeshAddr, RegionPrefix};

const MAGIC: [u8; 4] = *b"ATOL";
const VERSION: u8 = 1;

/// Bytes of a beacon.
pub const BEACON_BYTES: usize = 4 + 1 + 6 + 2 + 8;

/// What a beacon says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beacon {
    /// Region of the sender.
    pub region: RegionPrefix,
    /// UDP port on which it listens.
    pub port: u16,
    /// The part of its mesh address that is the hash of its key, so that it knows its own beacons.
    pub hash: [u8; 8],
}

impl Beacon {
    /// The beacon of a node.
    pub fn of(network: MeshAddr, port: u16) -> Self {
        let octets = network.octets();
        let (mut region, mut hash) = ([0; 6], [0; 8]);
        region.copy_from_slice(&octets[..6]);
        hash.copy_from_slice(&octets[6..]);
        Self { region: RegionPrefix(region), port, hash }
    }

    /// As bytes.
    pub fn to_bytes(&self) -> [u8; BEACON_BYTES] {
        let mut bytes = [0; BEACON_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[5..11].copy_from_slice(&self.region.0);
        bytes[11..13].copy_from_slice(&self.port.to_be_bytes());
        bytes[13..].copy_from_slice(&self.hash);
        bytes
    }

    /// From bytes; nothing if they are no beacon of this version.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; BEACON_BYTES] = bytes.try_into().ok()?;
        let (mut region, mut hash) = ([0; 6], [0; 8]);
        region.copy_from_slice(&bytes[5..11]);
        hash.copy_from_slice(&bytes[13..]);
        let port = u16::from_be_bytes([bytes[11], bytes[12]]);
        (bytes[..4] == MAGIC && bytes[4] == VERSION && port != 0).then_some(Self {
            region: RegionPrefix(region),
            port,
            hash,
        })
    }
}
