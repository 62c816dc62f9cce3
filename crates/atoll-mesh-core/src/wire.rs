//! The frames, as `docs/spec/mesh.md` describes them. Numbers are big endian.
//!
//! The frames of a handshake serve twice: as UDP datagrams between neighbours, and, inside an end-to-end datagram,
//! between the two ends of a session.

use core::hash::Hasher as _;

use atoll_base::{RegionId, ids::domain_hash};
use data::LinkKind;
use siphasher::sip128::{Hasher128 as _, SipHasher24};

pub mod data;

/// Version of everything in this module.
pub const VERSION: u8 = 1;

/// Tag of the AEAD.
pub const TAG_BYTES: usize = 16;
/// First Noise message: an ephemeral key.
pub const NOISE_1_BYTES: usize = 32;
/// Second: ephemeral key, sealed static key, sealed proof.
pub const NOISE_2_BYTES: usize = 32 + 48 + PROOF_BYTES + TAG_BYTES;
/// Third: sealed static key, sealed proof.
pub const NOISE_3_BYTES: usize = 48 + PROOF_BYTES + TAG_BYTES;
/// The proof of identity: node id, epoch, signature.
pub const PROOF_BYTES: usize = 32 + 8 + 64;

/// First handshake frame. Padded to the size of the answer, so that nobody's answers amplify a forged flood.
pub const INIT_BYTES: usize = RESPONSE_BYTES;
/// Second handshake frame.
pub const RESPONSE_BYTES: usize = 12 + NOISE_2_BYTES + MAC_BYTES;
/// Third handshake frame.
pub const FINISH_BYTES: usize = 12 + NOISE_3_BYTES + MAC_BYTES;
/// The hint that a session is not known.
pub const UNKNOWN_BYTES: usize = 8 + MAC_BYTES;
const MAC_BYTES: usize = 16;

const KIND_INIT: u8 = 1;
const KIND_RESPONSE: u8 = 2;
const KIND_FINISH: u8 = 3;
const KIND_DATA: u8 = 4;
const KIND_UNKNOWN: u8 = 5;
const KIND_CONTROL: u8 = 6;

/// First byte of a control frame's payload: a Babel packet follows.
pub const PAYLOAD_CONTROL: u8 = 0;
/// First byte of a control frame's payload: zeros follow, as many as the path is to be tried with.
pub const PAYLOAD_MTU_PROBE: u8 = 1;
/// First byte of a control frame's payload: the length of a frame with a probe follows.
pub const PAYLOAD_MTU_ACK: u8 = 2;

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
    /// First message of a handshake.
    Init {
        /// Index that the answer must name.
        sender: u32,
        /// The first Noise message.
        noise: &'a [u8],
    },
    /// Second message of a handshake.
    Response {
        /// Index that data to the responder must name.
        sender: u32,
        /// Index of the initiator.
        receiver: u32,
        /// The second Noise message.
        noise: &'a [u8],
    },
    /// Third message of a handshake.
    Finish {
        /// Index of the responder.
        receiver: u32,
        /// The third Noise message.
        noise: &'a [u8],
    },
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
    /// "I do not know the session to which this index belongs."
    Unknown {
        /// The index that the data frame named.
        index: u32,
    },
}

/// The key of the outer check. Everyone who knows the region id has it: it keeps strangers' noise and other regions
/// away from the expensive part, and is no proof of anything.
#[derive(Clone)]
pub struct RegionMac([u8; 16]);

impl RegionMac {
    /// The key for a region.
    pub fn of(region: RegionId) -> Self {
        let hash = domain_hash("atoll mesh outer mac v1", &[&region.0]);
        let mut key = [0; 16];
        key.copy_from_slice(&hash[..16]);
        Self(key)
    }

    fn tag(&self, bytes: &[u8]) -> [u8; MAC_BYTES] {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(bytes);
        hasher.finish128().as_u128().to_be_bytes()
    }

    fn close(&self, mut frame: Vec<u8>) -> Vec<u8> {
        let tag = self.tag(&frame);
        frame.extend_from_slice(&tag);
        frame
    }

    fn check<'a>(&self, frame: &'a [u8], length: usize) -> Result<&'a [u8], WireError> {
        if frame.len() != length {
            return Err(WireError::Length);
        }
        let (body, tag) = frame.split_at(length - MAC_BYTES);
        if self.tag(body) != tag {
            return Err(WireError::Region);
        }
        if body[1..4] != [VERSION, 0, 0] {
            return Err(WireError::Kind);
        }
        Ok(body)
    }

    /// Parses the outer form of a frame.
    pub fn parse<'a>(&self, frame: &'a [u8]) -> Result<Frame<'a>, WireError> {
        match *frame.first().ok_or(WireError::Length)? {
            KIND_DATA if frame.len() < data::OVERHEAD_BYTES => Err(WireError::Length),
            KIND_DATA => {
                let (receiver, counter) = data::parse_link_header(frame);
                Ok(Frame::Data { receiver, counter })
            }
            KIND_CONTROL if frame.len() < data::CONTROL_OVERHEAD_BYTES => Err(WireError::Length),
            KIND_CONTROL => {
                let (receiver, counter) = data::parse_link_header(frame);
                Ok(Frame::Control { receiver, counter })
            }
            KIND_INIT => {
                let body = self.check(frame, INIT_BYTES)?;
                let (noise, padding) = body[8..].split_at(NOISE_1_BYTES);
                if padding.iter().any(|byte| *byte != 0) {
                    return Err(WireError::Field);
                }
                Ok(Frame::Init { sender: u32_at(body, 4), noise })
            }
            KIND_RESPONSE => {
                let body = self.check(frame, RESPONSE_BYTES)?;
                Ok(Frame::Response { sender: u32_at(body, 4), receiver: u32_at(body, 8), noise: &body[12..] })
            }
            KIND_FINISH => {
                let body = self.check(frame, FINISH_BYTES)?;
                if u32_at(body, 4) != 0 {
                    return Err(WireError::Field);
                }
                Ok(Frame::Finish { receiver: u32_at(body, 8), noise: &body[12..] })
            }
            KIND_UNKNOWN => {
                let body = self.check(frame, UNKNOWN_BYTES)?;
                Ok(Frame::Unknown { index: u32_at(body, 4) })
            }
            _ => Err(WireError::Kind),
        }
    }

    /// Builds any frame but those under a link's keys, which the keys build.
    pub fn build(&self, frame: &Frame<'_>) -> Vec<u8> {
        match *frame {
            Frame::Init { sender, noise } => {
                let mut bytes = head(KIND_INIT, INIT_BYTES, &[sender], noise);
                bytes.resize(INIT_BYTES - MAC_BYTES, 0);
                self.close(bytes)
            }
            Frame::Response { sender, receiver, noise } => {
                self.close(head(KIND_RESPONSE, RESPONSE_BYTES, &[sender, receiver], noise))
            }
            Frame::Finish { receiver, noise } => self.close(head(KIND_FINISH, FINISH_BYTES, &[0, receiver], noise)),
            Frame::Unknown { index } => self.close(head(KIND_UNKNOWN, UNKNOWN_BYTES, &[index], &[])),
            Frame::Data { receiver, counter } => data::link_header(LinkKind::Data, receiver, counter).to_vec(),
            Frame::Control { receiver, counter } => data::link_header(LinkKind::Control, receiver, counter).to_vec(),
        }
    }
}

fn head(kind: u8, length: usize, indices: &[u32], noise: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(&[kind, VERSION, 0, 0]);
    for index in indices {
        bytes.extend_from_slice(&index.to_be_bytes());
    }
    bytes.extend_from_slice(noise);
    bytes
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
