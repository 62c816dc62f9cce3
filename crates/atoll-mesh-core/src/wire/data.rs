//! Frames that carry data, as `docs/spec/mesh.md` describes them under "Data". Numbers are big endian.
//!
//! ```text
//!  0        12     20             65      66            -16
//!  | header | mac  | steering     | flags | IPv6 packet | tag |
//!            `-- over header, masked steering, tag, length
//!                   `-- masked for the link
//!                                  `-- sealed for the far end, with the steering's fixed part as additional data
//! ```
//!
//! All of it happens in place, in one buffer, which has [`HEADROOM_BYTES`] before the packet and [`TAG_BYTES`] after it.

use atoll_base::MeshAddr;

use super::{KIND_CONTROL, KIND_DATA, TAG_BYTES};

/// Kind, counter, receiver index: what starts every frame under a link's keys.
pub const LINK_HEADER_BYTES: usize = 12;
/// Authentication of header and steering between neighbours.
pub const LINK_MAC_BYTES: usize = 8;
/// Where the steering starts.
pub const STEERING_AT: usize = LINK_HEADER_BYTES + LINK_MAC_BYTES;
/// What neighbours need to pass a frame on.
pub const STEERING_BYTES: usize = 45;
/// Where the sealed record starts, with its flags.
pub const RECORD_AT: usize = STEERING_AT + STEERING_BYTES;
/// Room before the packet.
pub const HEADROOM_BYTES: usize = RECORD_AT + 1;
/// What a packet grows by between the TUN device and the UDP socket.
pub const OVERHEAD_BYTES: usize = HEADROOM_BYTES + TAG_BYTES;
/// What a control frame adds to its payload.
pub const CONTROL_OVERHEAD_BYTES: usize = LINK_HEADER_BYTES + TAG_BYTES;
/// Where the part of the steering begins that no relay changes.
const FIXED_AT: usize = 4;
const ADDITIONAL_BYTES: usize = (STEERING_BYTES - FIXED_AT).next_multiple_of(16);
/// The flags of a record that holds a message of the far node (see [`crate::punch`]) instead of a packet.
pub const RECORD_MESSAGE: u8 = 4;
/// Length of a frame with [`Body::Expired`]: a signature, and no tag of a session.
pub const EXPIRED_BYTES: usize = RECORD_AT + 64;
/// Counters have 56 bits.
pub const COUNTER_MAX: u64 = (1 << 56) - 1;

/// The AEAD of a session's records. The sender takes the one that its processor does faster; the receiver can do both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cipher {
    /// AES-256-GCM (NIST SP 800-38D).
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439).
    ChaCha20Poly1305,
}

/// What the two ends say of a record; sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecordFlags {
    /// The packet continues the one in the record before: both were one super-packet of the sender's network stack.
    pub continues: bool,
    /// The checksum of the transport covers only the pseudo header: the AEAD has vouched for the rest.
    pub partial_checksum: bool,
}

impl RecordFlags {
    pub(crate) const fn to_byte(self) -> u8 {
        (self.continues as u8) | (self.partial_checksum as u8) << 1
    }

    pub(crate) const fn of_byte(byte: u8) -> Option<Self> {
        if byte > 3 {
            return None;
        }
        Some(Self { continues: byte & 1 != 0, partial_checksum: byte & 2 != 0 })
    }
}

/// What travels in an end-to-end datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// A record under the keys of a session.
    Sealed(Cipher),
    /// A frame of a handshake between the two ends, or a hint.
    Handshake,
    /// A relay says that the record with this steering's receiver index and counter ran out of hops there: its
    /// signature.
    Expired,
}

/// What a relay sees of an end-to-end datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steering {
    /// Links that it may still take.
    pub hop_limit: u8,
    /// Explicit congestion notification (RFC 3168), the lower two bits: relays may set "congestion experienced".
    pub ecn: u8,
    /// Packets of one flow have the same number: what relays share their capacity by.
    pub flow: u16,
    /// What follows.
    pub body: Body,
    /// Node that sent it.
    pub source: MeshAddr,
    /// Node for which it is.
    pub target: MeshAddr,
    /// Keys of the target; zero for a handshake; those of the record that is meant by [`Body::Expired`].
    pub receiver: u32,
    /// Counter under these keys, which is the nonce; zero for a handshake; that of the record meant.
    pub counter: u64,
}

impl Steering {
    /// Its bytes.
    pub fn to_bytes(&self) -> [u8; STEERING_BYTES] {
        let mut bytes = [0; STEERING_BYTES];
        bytes[0] = self.hop_limit;
        bytes[1] = self.ecn;
        bytes[2..4].copy_from_slice(&self.flow.to_be_bytes());
        bytes[4] = match self.body {
            Body::Sealed(Cipher::Aes256Gcm) => 0,
            Body::Sealed(Cipher::ChaCha20Poly1305) => 1,
            Body::Handshake => 2,
            Body::Expired => 3,
        };
        bytes[5..19].copy_from_slice(&self.source.octets());
        bytes[19..33].copy_from_slice(&self.target.octets());
        bytes[33..37].copy_from_slice(&self.receiver.to_be_bytes());
        bytes[37..].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }

    /// Parses its bytes; nothing if a field has a value that it cannot have.
    pub fn parse(bytes: &[u8; STEERING_BYTES]) -> Option<Self> {
        let body = match bytes[4] {
            0 => Body::Sealed(Cipher::Aes256Gcm),
            1 => Body::Sealed(Cipher::ChaCha20Poly1305),
            2 => Body::Handshake,
            3 => Body::Expired,
            _ => return None,
        };
        let network = |at: usize| {
            let mut octets = [0; 14];
            octets.copy_from_slice(&bytes[at..at + 14]);
            MeshAddr::from_octets(octets)
        };
        let mut counter = [0; 8];
        counter.copy_from_slice(&bytes[37..]);
        Some(Self {
            hop_limit: bytes[0],
            ecn: bytes[1] & 3,
            flow: u16::from_be_bytes([bytes[2], bytes[3]]),
            body,
            source: network(5),
            target: network(19),
            receiver: super::u32_at(bytes, 33),
            counter: u64::from_be_bytes(counter),
        })
    }
}

/// The additional data of the record: the part of a steering's bytes that is the same at both ends, and zeros up to a
/// whole number of the cipher's blocks, which saves it a step.
pub(crate) fn additional_data(steering: &[u8]) -> [u8; ADDITIONAL_BYTES] {
    let mut data = [0; ADDITIONAL_BYTES];
    data[..STEERING_BYTES - FIXED_AT].copy_from_slice(&steering[FIXED_AT..STEERING_BYTES]);
    data
}

/// Where the congestion byte of a steering is in a frame.
pub(crate) const ECN_AT: usize = STEERING_AT + 1;

/// What names the flow of a frame whose steering is unmasked: source and target network, and the flow number.
pub(crate) fn flow_name(frame: &[u8]) -> [u8; 30] {
    let mut name = [0; 30];
    name[..2].copy_from_slice(&frame[STEERING_AT + 2..STEERING_AT + 4]);
    name[2..].copy_from_slice(&frame[STEERING_AT + 5..STEERING_AT + 33]);
    name
}

/// Target of a frame whose steering is unmasked.
pub(crate) fn target(frame: &[u8]) -> MeshAddr {
    let mut octets = [0; 14];
    octets.copy_from_slice(&frame[STEERING_AT + 19..STEERING_AT + 33]);
    MeshAddr::from_octets(octets)
}

/// Kind of a frame under a link's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkKind {
    Data,
    Control,
}

/// The first bytes of a frame under a link's keys.
pub(crate) fn link_header(kind: LinkKind, receiver: u32, counter: u64) -> [u8; LINK_HEADER_BYTES] {
    let mut header = [0; LINK_HEADER_BYTES];
    header[..8].copy_from_slice(&counter.to_be_bytes());
    header[0] = match kind {
        LinkKind::Data => KIND_DATA,
        LinkKind::Control => KIND_CONTROL,
    };
    header[8..].copy_from_slice(&receiver.to_be_bytes());
    header
}

/// Receiver index and counter of a frame under a link's keys, which must have the length of its header at least.
pub(crate) fn parse_link_header(frame: &[u8]) -> (u32, u64) {
    let counter = u64::from(super::u32_at(frame, 0)) << 32 | u64::from(super::u32_at(frame, 4));
    (super::u32_at(frame, 8), counter & COUNTER_MAX)
}
