//! The frames, as `docs/spec/mesh.md` describes them. Numbers are big endian.
//!
//! The same frames serve twice: as UDP datagrams between neighbours, and, inside the payload of such a link frame,
//! between the two ends of a session.

pub mod handshake;

use atoll_base::MeshAddr;

use handshake::HandshakeFrame;
pub use handshake::RegionMac;

/// Header of a data frame: kind, three zero bytes, receiver index, counter.
pub const DATA_HEADER_BYTES: usize = 16;
/// Tag of the AEAD.
pub const TAG_BYTES: usize = 16;
/// What a data frame adds to its payload.
pub const DATA_OVERHEAD_BYTES: usize = DATA_HEADER_BYTES + TAG_BYTES;
/// Header of an end-to-end datagram within a link frame: kind, hop limit, source and destination network.
pub const RELAY_HEADER_BYTES: usize = 2 + 14 + 14;
/// What a packet grows by between the TUN device and the UDP socket.
pub const OVERHEAD_BYTES: usize = DATA_OVERHEAD_BYTES + RELAY_HEADER_BYTES + DATA_OVERHEAD_BYTES;

const KIND_DATA: u8 = 4;

/// First byte of a link frame's payload: control messages follow.
pub const PAYLOAD_CONTROL: u8 = 0;
/// First byte of a link frame's payload: an end-to-end datagram follows.
pub const PAYLOAD_RELAY: u8 = 1;

/// A frame that is not one of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Too short or too long for its kind.
    #[error("the frame has the wrong length for its kind")]
    Length,
    /// No such kind or version.
    #[error("the frame is of an unknown kind or version")]
    Kind,
    /// The outer check fails: it comes from another region, or from no member at all.
    #[error("the frame does not belong to this region")]
    Region,
    /// A field has a value that it cannot have.
    #[error("the frame has an impossible field")]
    Field,
}

/// A frame's outer form; the contents are not authenticated yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Part of a handshake, or a word about one.
    Handshake(HandshakeFrame<'a>),
    /// Sealed payload.
    Data {
        /// Index of the receiver's keys.
        receiver: u32,
        /// Counter, which is the nonce.
        counter: u64,
    },
}

impl RegionMac {
    /// Parses the outer form of a frame.
    pub fn parse<'a>(&self, frame: &'a [u8]) -> Result<Frame<'a>, WireError> {
        match *frame.first().ok_or(WireError::Length)? {
            KIND_DATA => {
                if frame.len() < DATA_OVERHEAD_BYTES {
                    return Err(WireError::Length);
                }
                if frame[1..4] != [0, 0, 0] {
                    return Err(WireError::Field);
                }
                let counter = u64::from(u32_at(frame, 8)) << 32 | u64::from(u32_at(frame, 12));
                Ok(Frame::Data { receiver: u32_at(frame, 4), counter })
            }
            _ => self.parse_handshake(frame).map(Frame::Handshake),
        }
    }
}

/// Header of a data frame; it is also the additional data of the AEAD.
pub fn data_header(receiver: u32, counter: u64) -> [u8; DATA_HEADER_BYTES] {
    let mut header = [0; DATA_HEADER_BYTES];
    header[0] = KIND_DATA;
    header[4..8].copy_from_slice(&receiver.to_be_bytes());
    header[8..].copy_from_slice(&counter.to_be_bytes());
    header
}

/// What a relay sees of an end-to-end datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayHeader {
    /// Links that it may still take.
    pub hop_limit: u8,
    /// Node that sent it.
    pub source: MeshAddr,
    /// Node for which it is.
    pub target: MeshAddr,
}

impl RelayHeader {
    /// Parses the payload of a link frame, its first byte ([`PAYLOAD_RELAY`]) included.
    pub fn parse(payload: &[u8]) -> Result<Self, WireError> {
        if payload.len() < RELAY_HEADER_BYTES {
            return Err(WireError::Length);
        }
        if payload[0] != PAYLOAD_RELAY {
            return Err(WireError::Kind);
        }
        let network = |at: usize| {
            let mut octets = [0; 14];
            octets.copy_from_slice(&payload[at..at + 14]);
            MeshAddr::from_octets(octets)
        };
        Ok(Self { hop_limit: payload[1], source: network(2), target: network(16) })
    }

    /// Appends its bytes, [`PAYLOAD_RELAY`] first.
    pub fn write(&self, buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(&[PAYLOAD_RELAY, self.hop_limit]);
        buffer.extend_from_slice(&self.source.octets());
        buffer.extend_from_slice(&self.target.octets());
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
