//! The frames of a handshake, as `docs/spec/mesh.md` describes them.
//!
//! A handshake has three messages. Each takes two datagrams (the *parts*), because the post-quantum key and ciphertext do
//! not fit one that every path carries. Each part of the first message asks for the part of the second with the same
//! number and is as long as it, so that no answer is larger than what it answers.

use core::hash::Hasher as _;

use atoll_base::{RegionId, RegionPrefix, ids::domain_hash};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use siphasher::sip128::{Hasher128 as _, SipHasher24};

use super::WireError;
use crate::kem::{KEM_CIPHERTEXT_BYTES, KEM_KEY_BYTES};

/// Version of the handshake, and so of everything that is said under its keys.
pub const VERSION: u8 = 2;

/// The first Noise message: an ephemeral key.
pub const NOISE_1_BYTES: usize = 32;
/// The proof of identity: node id, epoch, signature.
pub const PROOF_BYTES: usize = 32 + 8 + 64;
/// What the second Noise message holds besides its part of the encapsulation key: ephemeral key, sealed static key, and
/// sealed the proof, the responder's index, the hash of the whole key; tag.
const NOISE_2_FIXED_BYTES: usize = 32 + 48 + PROOF_BYTES + 4 + 32 + 16;
/// What the third Noise message holds besides its part of the ciphertext: sealed static key, and sealed the proof and
/// the hash of the whole ciphertext; tag.
const NOISE_3_FIXED_BYTES: usize = 48 + PROOF_BYTES + 32 + 16;

/// Contents of one part of the second message: both parts are equally long.
pub const RESPONSE_CONTENT_BYTES: usize = (NOISE_2_FIXED_BYTES + KEM_KEY_BYTES) / 2;
/// Bytes of the encapsulation key in its first part; the second part is the rest.
pub const KEM_KEY_HEAD_BYTES: usize = RESPONSE_CONTENT_BYTES - NOISE_2_FIXED_BYTES;
/// Contents of one part of the third message.
pub const FINISH_CONTENT_BYTES: usize = (NOISE_3_FIXED_BYTES + KEM_CIPHERTEXT_BYTES) / 2;
/// Bytes of the ciphertext in its first part; the second part is the rest.
pub const KEM_CIPHERTEXT_HEAD_BYTES: usize = FINISH_CONTENT_BYTES - NOISE_3_FIXED_BYTES;

/// One part of the first message.
pub const INIT_BYTES: usize = RESPONSE_BYTES;
/// One part of the second message.
pub const RESPONSE_BYTES: usize = HEAD_BYTES + RESPONSE_CONTENT_BYTES + CHECK_BYTES;
/// One part of the third message.
pub const FINISH_BYTES: usize = HEAD_BYTES + FINISH_CONTENT_BYTES + CHECK_BYTES;
/// The hint that a session is not known.
pub const UNKNOWN_BYTES: usize = HEAD_BYTES + CHECK_BYTES;
/// The demand to prove one's address.
pub const COOKIE_BYTES: usize = HEAD_BYTES + ECHO_BYTES + 16 + CHECK_BYTES;
/// The refusal of a proven identity.
pub const REFUSE_BYTES: usize = HEAD_BYTES + CHECK_BYTES + CHECK_BYTES;

/// A probe of a possible path, or the answer to one.
pub const PROBE_BYTES: usize = HEAD_BYTES + 4 + CHECK_BYTES;

/// Kind, version, part or reason, zero, index.
const HEAD_BYTES: usize = 8;
const CHECK_BYTES: usize = 16;
const ECHO_BYTES: usize = 8;
/// By which an init names a region: its /48.
const REGION_BYTES: usize = 6;
/// Where the tag under the cookie begins within an init.
const COOKIE_TAG_AT: usize = INIT_BYTES - CHECK_BYTES - 16;

const KIND_INIT: u8 = 1;
const KIND_RESPONSE: u8 = 2;
const KIND_FINISH: u8 = 3;
const KIND_UNKNOWN: u8 = 5;
const KIND_COOKIE: u8 = 6;
const KIND_REFUSE: u8 = 7;
const KIND_PROBE: u8 = 9;

const _: () = assert!((NOISE_2_FIXED_BYTES + KEM_KEY_BYTES).is_multiple_of(2));
const _: () = assert!((NOISE_3_FIXED_BYTES + KEM_CIPHERTEXT_BYTES).is_multiple_of(2));
const _: () = assert!(COOKIE_BYTES < INIT_BYTES);
const _: () = assert!(FINISH_BYTES <= RESPONSE_BYTES);
// Room for the link frame around an end-to-end handshake, and for IPv6 and UDP around that.
const _: () = assert!(RESPONSE_BYTES + 100 + 48 <= crate::limits::MTU_MIN);

/// Which datagram of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The one with the Noise message.
    Head,
    /// The rest of the post-quantum key or ciphertext.
    Rest,
}

impl Part {
    /// Both, in the order in which they are sent.
    pub const BOTH: [Self; 2] = [Self::Head, Self::Rest];

    /// 0 or 1, as on the wire.
    pub const fn number(self) -> u8 {
        match self {
            Self::Head => 0,
            Self::Rest => 1,
        }
    }

    const fn parse(number: u8) -> Result<Self, WireError> {
        match number {
            0 => Ok(Self::Head),
            1 => Ok(Self::Rest),
            _ => Err(WireError::Field),
        }
    }
}

/// Why a proven identity is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RefuseReason {
    /// The region is closed, and the node is not one of its members.
    NotAMember,
    /// A process with the same identity that was started later is alive.
    NewerTwin,
}

impl core::fmt::Display for RefuseReason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::NotAMember => "the region is closed, and the caller is not one of its members",
            Self::NewerTwin => {
                "a process with the same node key was started later and is alive: each machine needs its own key"
            }
        })
    }
}

impl RefuseReason {
    const fn number(self) -> u8 {
        match self {
            Self::NotAMember => 1,
            Self::NewerTwin => 2,
        }
    }

    const fn parse(number: u8) -> Result<Self, WireError> {
        match number {
            1 => Ok(Self::NotAMember),
            2 => Ok(Self::NewerTwin),
            _ => Err(WireError::Field),
        }
    }
}

/// What proves to a responder under load that the caller receives at its address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cookie(pub [u8; 16]);

impl core::fmt::Debug for Cookie {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Cookie(…)")
    }
}

/// The first message of a handshake; which part it is says which part of the answer it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Init<'a> {
    /// Which part of the answer it asks for.
    pub part: Part,
    /// Index that the answer must name.
    pub sender: u32,
    /// The first Noise message.
    pub noise: &'a [u8; NOISE_1_BYTES],
    /// The initiator's region, if it is not the responder's.
    pub caller: Option<RegionPrefix>,
    bytes: &'a [u8; INIT_BYTES],
}

impl Init<'_> {
    /// Whether it was made with this cookie.
    pub fn proves(&self, cookie: &Cookie) -> bool {
        let tag = tag(&cookie.0, &self.bytes[..COOKIE_TAG_AT]);
        verify_slices_are_equal(&tag, &self.bytes[COOKIE_TAG_AT..COOKIE_TAG_AT + 16]).is_ok()
    }

    /// Whether it claims to have a cookie at all.
    pub fn has_cookie(&self) -> bool {
        self.bytes[COOKIE_TAG_AT..COOKIE_TAG_AT + 16] != [0; 16]
    }

    /// What a demand for a cookie repeats, to show that its sender has seen this very frame.
    pub fn echo(&self) -> [u8; ECHO_BYTES] {
        echo(self.bytes)
    }
}

/// A frame of a handshake; only its outer check has been made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeFrame<'a> {
    /// First message.
    Init(Init<'a>),
    /// Second message.
    Response {
        /// Which part.
        part: Part,
        /// Index of the initiator.
        receiver: u32,
        /// The part's contents.
        content: &'a [u8; RESPONSE_CONTENT_BYTES],
    },
    /// Third message.
    Finish {
        /// Which part.
        part: Part,
        /// Index of the responder.
        receiver: u32,
        /// The part's contents.
        content: &'a [u8; FINISH_CONTENT_BYTES],
    },
    /// "I do not know the session to which this index belongs."
    Unknown {
        /// The index that the data frame named.
        index: u32,
    },
    /// "Begin again with this cookie, so that I see that you receive what I send to you."
    Cookie {
        /// Index of the initiator.
        receiver: u32,
        /// [`Init::echo`] of the frame that it answers.
        echo: [u8; ECHO_BYTES],
        /// The cookie.
        cookie: Cookie,
    },
    /// "I know who you are, and do not talk to you."
    Refuse {
        /// Why.
        reason: RefuseReason,
        /// Index of the initiator.
        receiver: u32,
        /// Proof of the responder, see [`refusal_tag`].
        tag: [u8; 16],
    },
    /// "Do you hear me here?" See [`crate::punch`].
    Probe {
        /// Whether it answers one.
        is_reply: bool,
        /// The word of its receiver.
        token: [u8; 8],
    },
}

/// The key of the outer check. Everyone who knows the region id has it: it keeps strangers' noise and other regions
/// away from the expensive part, and is no proof of anything.
#[derive(Clone)]
pub struct RegionMac {
    key: [u8; 16],
    /// How first messages name their sender's region: not at all within one.
    caller: [u8; REGION_BYTES],
}

impl RegionMac {
    /// The key for a region.
    pub fn of(region: RegionId) -> Self {
        let hash = domain_hash("atoll mesh outer mac v2", &[&region.0]);
        let mut key = [0; 16];
        key.copy_from_slice(&hash[..16]);
        Self { key, caller: [0; REGION_BYTES] }
    }

    /// For frames that a node of `own` builds for one of `other`: the check is that of the receiver's region.
    pub fn towards(other: RegionId, own: RegionId) -> Self {
        let caller = if other == own { [0; REGION_BYTES] } else { RegionPrefix::of(own).0 };
        Self { caller, ..Self::of(other) }
    }

    /// Parses a frame of any kind but data.
    pub fn parse_handshake<'a>(&self, frame: &'a [u8]) -> Result<HandshakeFrame<'a>, WireError> {
        match *frame.first().ok_or(WireError::Length)? {
            KIND_INIT => {
                let bytes: &[u8; INIT_BYTES] = self.check(frame)?;
                let (noise, padding) = bytes[HEAD_BYTES..COOKIE_TAG_AT].split_first_chunk().ok_or(WireError::Length)?;
                let (caller, padding) = padding.split_first_chunk::<REGION_BYTES>().ok_or(WireError::Length)?;
                if padding.iter().any(|byte| *byte != 0) {
                    return Err(WireError::Field);
                }
                let caller = match caller {
                    [0, 0, 0, 0, 0, 0] => None,
                    [0xfd, ..] => Some(RegionPrefix(*caller)),
                    _ => return Err(WireError::Field),
                };
                let (part, sender) = (Part::parse(bytes[2])?, index(bytes));
                Ok(HandshakeFrame::Init(Init { part, sender, noise, caller, bytes }))
            }
            KIND_RESPONSE => {
                let bytes: &[u8; RESPONSE_BYTES] = self.check(frame)?;
                let content = content(bytes)?;
                Ok(HandshakeFrame::Response { part: Part::parse(bytes[2])?, receiver: index(bytes), content })
            }
            KIND_FINISH => {
                let bytes: &[u8; FINISH_BYTES] = self.check(frame)?;
                let content = content(bytes)?;
                Ok(HandshakeFrame::Finish { part: Part::parse(bytes[2])?, receiver: index(bytes), content })
            }
            KIND_UNKNOWN => {
                let bytes: &[u8; UNKNOWN_BYTES] = self.check(frame)?;
                if bytes[2] != 0 {
                    return Err(WireError::Field);
                }
                Ok(HandshakeFrame::Unknown { index: index(bytes) })
            }
            KIND_COOKIE => {
                let bytes: &[u8; COOKIE_BYTES] = self.check(frame)?;
                if bytes[2] != 0 {
                    return Err(WireError::Field);
                }
                let (echo, cookie) = (array(&bytes[8..16]), Cookie(array(&bytes[16..32])));
                Ok(HandshakeFrame::Cookie { receiver: index(bytes), echo, cookie })
            }
            KIND_REFUSE => {
                let bytes: &[u8; REFUSE_BYTES] = self.check(frame)?;
                let (reason, tag) = (RefuseReason::parse(bytes[2])?, array(&bytes[8..24]));
                Ok(HandshakeFrame::Refuse { reason, receiver: index(bytes), tag })
            }
            KIND_PROBE => {
                let bytes: &[u8; PROBE_BYTES] = self.check(frame)?;
                if bytes[2] > 1 {
                    return Err(WireError::Field);
                }
                Ok(HandshakeFrame::Probe { is_reply: bytes[2] == 1, token: array(&bytes[4..12]) })
            }
            _ => Err(WireError::Kind),
        }
    }

    /// One part of the first message.
    pub fn init(&self, part: Part, sender: u32, noise: &[u8; NOISE_1_BYTES], cookie: Option<&Cookie>) -> Vec<u8> {
        let mut frame = head(KIND_INIT, INIT_BYTES, part.number(), sender);
        frame.extend_from_slice(noise);
        frame.extend_from_slice(&self.caller);
        frame.resize(COOKIE_TAG_AT, 0);
        let tag = cookie.map_or([0; 16], |cookie| tag(&cookie.0, &frame));
        frame.extend_from_slice(&tag);
        self.close(frame)
    }

    /// One part of the second message.
    pub fn response(&self, part: Part, receiver: u32, content: &[u8; RESPONSE_CONTENT_BYTES]) -> Vec<u8> {
        let mut frame = head(KIND_RESPONSE, RESPONSE_BYTES, part.number(), receiver);
        frame.extend_from_slice(content);
        self.close(frame)
    }

    /// One part of the third message.
    pub fn finish(&self, part: Part, receiver: u32, content: &[u8; FINISH_CONTENT_BYTES]) -> Vec<u8> {
        let mut frame = head(KIND_FINISH, FINISH_BYTES, part.number(), receiver);
        frame.extend_from_slice(content);
        self.close(frame)
    }

    /// The hint that the session with this index is not known.
    pub fn unknown(&self, index: u32) -> Vec<u8> {
        self.close(head(KIND_UNKNOWN, UNKNOWN_BYTES, 0, index))
    }

    /// The answer to an init under load.
    pub fn cookie(&self, receiver: u32, echo: [u8; ECHO_BYTES], cookie: &Cookie) -> Vec<u8> {
        let mut frame = head(KIND_COOKIE, COOKIE_BYTES, 0, receiver);
        frame.extend_from_slice(&echo);
        frame.extend_from_slice(&cookie.0);
        self.close(frame)
    }

    /// The refusal of a node that has proven who it is.
    pub fn refuse(&self, reason: RefuseReason, receiver: u32, key: &[u8; 16]) -> Vec<u8> {
        let mut frame = head(KIND_REFUSE, REFUSE_BYTES, reason.number(), receiver);
        frame.extend_from_slice(&refusal_tag(key, reason, receiver));
        self.close(frame)
    }

    /// A probe of a possible path, or the answer to one.
    pub fn probe(&self, is_reply: bool, token: [u8; 8]) -> Vec<u8> {
        let mut frame = vec![KIND_PROBE, VERSION, u8::from(is_reply), 0];
        frame.extend_from_slice(&token);
        self.close(frame)
    }

    fn close(&self, mut frame: Vec<u8>) -> Vec<u8> {
        let tag = tag(&self.key, &frame);
        frame.extend_from_slice(&tag);
        frame
    }

    fn check<'a, const N: usize>(&self, frame: &'a [u8]) -> Result<&'a [u8; N], WireError> {
        let bytes: &[u8; N] = frame.try_into().map_err(|_| WireError::Length)?;
        let (body, check) = bytes.split_at(N - CHECK_BYTES);
        if verify_slices_are_equal(&tag(&self.key, body), check).is_err() {
            return Err(WireError::Region);
        }
        if (body[1], body[3]) != (VERSION, 0) {
            return Err(WireError::Kind);
        }
        Ok(bytes)
    }
}

/// [`Init::echo`] of an init that this node built.
pub(crate) fn echo(init: &[u8]) -> [u8; ECHO_BYTES] {
    let mut echo = [0; ECHO_BYTES];
    if let Some(tail) = init.last_chunk::<CHECK_BYTES>() {
        echo.copy_from_slice(&tail[..ECHO_BYTES]);
    }
    echo
}

/// By what a refusal proves that it comes from whoever finished the handshake: a key that both derived from it.
pub fn refusal_tag(key: &[u8; 16], reason: RefuseReason, receiver: u32) -> [u8; 16] {
    let mut message = [reason.number(), 0, 0, 0, 0];
    message[1..].copy_from_slice(&receiver.to_be_bytes());
    tag(key, &message)
}

/// SipHash-2-4 with 128 bits of output.
pub(crate) fn tag(key: &[u8; 16], bytes: &[u8]) -> [u8; 16] {
    let mut hasher = SipHasher24::new_with_key(key);
    hasher.write(bytes);
    hasher.finish128().as_u128().to_be_bytes()
}

fn head(kind: u8, length: usize, third: u8, index: u32) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(&[kind, VERSION, third, 0]);
    bytes.extend_from_slice(&index.to_be_bytes());
    bytes
}

fn index(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(array(&bytes[4..8]))
}

fn content<const N: usize>(bytes: &[u8]) -> Result<&[u8; N], WireError> {
    bytes[HEAD_BYTES..].first_chunk().ok_or(WireError::Length)
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(bytes);
    array
}
