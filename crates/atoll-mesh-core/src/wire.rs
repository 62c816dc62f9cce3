//! The frames, as `docs/spec/mesh.md` describes them. Numbers are big endian.
//!
//! The frames of a handshake serve twice: as UDP datagrams between neighbours, and, inside an end-to-end datagram,
//! between the two ends of a session.

pub mod data;
pub mod handshake;

use data::LinkKind;
use handshake::HandshakeFrame;
pub use handshake::RegionMac;

/// Tag of the AEAD.
pub const TAG_BYTES: usize = 16;

const KIND_DATA: u8 = 4;
const KIND_CONTROL: u8 = 8;

/// First byte of a control frame's payload: a Babel packet follows.
pub const PAYLOAD_CONTROL: u8 = 0;
/// First byte of a control frame's payload: zeros follow, as many as the path is to be tried with.
pub const PAYLOAD_MTU_PROBE: u8 = 1;
/// First byte of a control frame's payload: the length of a frame with a probe follows.
pub const PAYLOAD_MTU_ACK: u8 = 2;
/// First byte of a control frame's payload: a token follows that is to be repeated, and zeros in place of an endpoint.
pub const PAYLOAD_PATH_CHALLENGE: u8 = 3;
/// First byte of a control frame's payload: the token follows, and the endpoint from which it came.
pub const PAYLOAD_PATH_RESPONSE: u8 = 4;
/// First byte of a control frame's payload, and all of it: the link is needed no longer.
pub const PAYLOAD_CLOSE: u8 = 5;

/// Whether a frame carries data, and so can be dropped where too many wait; all others keep links and keys alive.
pub fn is_data(frame: &[u8]) -> bool {
    frame.first() == Some(&KIND_DATA)
}

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
    /// An end-to-end datagram, for the neighbour or to be passed on: see [`data`].
    Data {
        /// Index of the receiver's keys.
        receiver: u32,
        /// Counter under these keys.
        counter: u64,
    },
    /// Sealed words between neighbours.
    Control {
        /// Index of the receiver's keys.
        receiver: u32,
        /// Counter under these keys, which is the nonce.
        counter: u64,
    },
}

impl RegionMac {
    /// Parses the outer form of a frame.
    pub fn parse<'a>(&self, frame: &'a [u8]) -> Result<Frame<'a>, WireError> {
        let (kind, length_min) = match *frame.first().ok_or(WireError::Length)? {
            KIND_DATA => (LinkKind::Data, data::OVERHEAD_BYTES),
            KIND_CONTROL => (LinkKind::Control, data::CONTROL_OVERHEAD_BYTES),
            _ => return self.parse_handshake(frame).map(Frame::Handshake),
        };
        if frame.len() < length_min {
            return Err(WireError::Length);
        }
        let (receiver, counter) = data::parse_link_header(frame);
        Ok(match kind {
            LinkKind::Data => Frame::Data { receiver, counter },
            LinkKind::Control => Frame::Control { receiver, counter },
        })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
