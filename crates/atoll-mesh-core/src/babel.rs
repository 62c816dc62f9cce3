//! Messages of the Babel routing protocol: packets of TLVs after RFC 8966 section 4, timestamps after RFC 9616, and
//! Atoll's own sub-TLVs in the range for experiments. Bytes only: what they mean is up to [`crate::routing`].
//!
//! [`Writer`] builds packets and compresses, [`decode`] takes them apart. What the decoder returns is *resolved*: an
//! update names its whole prefix and its router, whatever was abbreviated on the wire. TLVs that are not known or not
//! of use here (padding, IPv4) are skipped; a TLV with an unknown mandatory sub-TLV is skipped too (section 4.4).

mod decode;
mod encode;

use std::net::Ipv6Addr;

pub use decode::decode;
pub use encode::Writer;

/// UDP port of Babel (RFC 8966 section 4).
pub const PORT: u16 = 6696;
/// First byte of a packet (RFC 8966 section 4.2).
pub const MAGIC: u8 = 42;
/// Second byte of a packet.
pub const VERSION: u8 = 2;
/// Magic, version, length of the body.
pub const HEADER_BYTES: usize = 4;
/// Metric of a retraction (RFC 8966 section 2.1).
pub const INFINITY: u16 = u16::MAX;

/// Names a router (RFC 8966 section 4.1.3); all zeros and all ones are no names.
pub type RouterId = [u8; 8];

/// TLV types (RFC 8966 section 4.6).
mod tlv {
    pub(super) const PAD_1: u8 = 0;
    pub(super) const ACK_REQUEST: u8 = 2;
    pub(super) const ACK: u8 = 3;
    pub(super) const HELLO: u8 = 4;
    pub(super) const IHU: u8 = 5;
    pub(super) const ROUTER_ID: u8 = 6;
    pub(super) const NEXT_HOP: u8 = 7;
    pub(super) const UPDATE: u8 = 8;
    pub(super) const ROUTE_REQUEST: u8 = 9;
    pub(super) const SEQNO_REQUEST: u8 = 10;
}

/// Sub-TLV types (RFC 8966 section 4.7, RFC 9616 section 4); from 112 on those for experiments, which are Atoll's.
mod sub {
    pub(super) const PAD_1: u8 = 0;
    pub(super) const TIMESTAMP: u8 = 3;
    pub(super) const ORIGIN: u8 = 112;
    pub(super) const GRANT: u8 = 113;
    pub(super) const PATH: u8 = 114;
    pub(super) const BATCH: u8 = 115;
    pub(super) const LINK: u8 = 116;
    pub(super) const EPOCH: u8 = 117;
    /// Whoever does not know a sub-TLV with this bit must ignore the TLV.
    pub(super) const MANDATORY: u8 = 0x80;
}

/// Address encodings (RFC 8966 section 4.1.4).
mod ae {
    pub(super) const WILDCARD: u8 = 0;
    pub(super) const IPV4: u8 = 1;
    pub(super) const IPV6: u8 = 2;
    pub(super) const LINK_LOCAL: u8 = 3;
    /// IPv4 with an IPv6 next hop (RFC 9229).
    pub(super) const IPV4_VIA_IPV6: u8 = 4;
}

const FLAG_UNICAST: u16 = 0x8000;
const FLAG_PREFIX: u8 = 0x80;
const FLAG_ROUTER_ID: u8 = 0x40;

/// A packet that is not well-formed; all of it is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BabelError {
    /// Shorter than it says, or a TLV is longer than its packet, or shorter than its type needs.
    #[error("a part of the packet is longer than what holds it, or shorter than it must be")]
    Length,
    /// Not Babel, version 2.
    #[error("the packet does not begin with magic 42 and version 2")]
    Kind,
    /// A field has a value that it cannot have.
    #[error("a field has an impossible value")]
    Field,
    /// More TLVs than [`crate::limits::TLVS_MAX`].
    #[error("the packet has too many parts")]
    TooMany,
}

/// An IPv6 prefix; the bits behind its length are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: Ipv6Addr,
    length: u8,
}

impl Prefix {
    /// The prefix of this length around an address; nothing if the length is above 128.
    pub fn new(address: Ipv6Addr, length: u8) -> Option<Self> {
        let mask = match length {
            0 => 0,
            1..=128 => u128::MAX << (128 - length),
            129.. => return None,
        };
        Some(Self { address: Ipv6Addr::from_bits(address.to_bits() & mask), length })
    }

    /// Its first address.
    pub const fn address(self) -> Ipv6Addr {
        self.address
    }

    /// How many bits are fixed.
    pub const fn length(self) -> u8 {
        self.length
    }

    /// Whether every address of the other one is in this one too.
    pub fn covers(self, other: Self) -> bool {
        self.length <= other.length && Self::new(other.address, self.length) == Some(self)
    }

    /// The octets that are written at all.
    fn octets(self) -> usize {
        usize::from(self.length).div_ceil(8)
    }
}

/// One message, in the order of the packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tlv {
    /// Asks for an [`Tlv::Ack`] (section 4.6.3).
    AckRequest(AckRequest),
    /// Everything up to the request arrived (section 4.6.4).
    Ack(Ack),
    /// "I am here" (section 4.6.5).
    Hello(Hello),
    /// "I hear you" (section 4.6.6).
    Ihu(Ihu),
    /// Where packets go that follow the updates after it; without it, to where the packet came from (section 4.6.8).
    NextHop(Ipv6Addr),
    /// A route, or the end of one (section 4.6.9).
    Update(Box<Update>),
    /// Asks for an update of this prefix, or of all (section 4.6.10).
    RouteRequest(Option<Prefix>),
    /// Asks for a newer sequence number (section 4.6.11).
    SeqnoRequest(SeqnoRequest),
}

/// Asks for an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AckRequest {
    /// Comes back in the acknowledgement.
    pub opaque: u16,
    /// Within which time, in hundredths of a second; not zero.
    pub interval_cs: u16,
    /// Own: the updates of this packet are a batch.
    pub batch: Option<Batch>,
}

/// Head of a batch of updates that counts as a whole (sub-TLV 115 of an acknowledgement request).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// The receiver's generation for which it is meant; otherwise it is void.
    pub generation: u32,
    /// Grows: what comes after a higher number is stale.
    pub number: u32,
}

/// An acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// As in the request.
    pub opaque: u16,
    /// Own: the number of the batch (sub-TLV 115).
    pub number: Option<u32>,
}

/// "I am here."
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Counted apart from the hellos to everybody.
    pub is_unicast: bool,
    /// Grows by one with each.
    pub seqno: u16,
    /// Time until the next one, in hundredths of a second; zero promises nothing.
    pub interval_cs: u16,
    /// The sender's clock when it was sent, in microseconds (RFC 9616 section 4.1).
    pub timestamp_us: Option<u32>,
    /// Own: the sender's end of the link.
    pub link: Option<LinkState>,
    /// Own: the sender's right to speak for its region, to a neighbour of another one.
    pub grant: Option<GrantBytes>,
}

/// The sender's end of a link (sub-TLV 116 of a hello).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkState {
    /// An answer is wanted at once.
    pub is_probe: bool,
    /// Names the sender's table of routes over this link: a new number each time the link comes up, zero while it is
    /// down. A number that the receiver has not seen asks for all its routes.
    pub generation: u32,
    /// What the sender knows of the link's capacity: binary logarithm of its kilobits a second, zero if nothing.
    pub capacity: u8,
}

/// "I hear you."
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ihu {
    /// Whom; nobody named means the receiver.
    pub address: Option<Ipv6Addr>,
    /// Cost of the direction towards the sender; infinite if it hears nothing.
    pub rxcost: u16,
    /// Time until the next one, in hundredths of a second; not zero.
    pub interval_cs: u16,
    /// Timestamp of the last hello that was heard, in its sender's clock (RFC 9616 section 4.2).
    pub echo: Option<Echo>,
}

/// The last hello that was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// The timestamp that it carried, in microseconds.
    pub origin_us: u32,
    /// When it arrived, by the clock of whoever sends the echo, in microseconds.
    pub receive_us: u32,
}

/// A route, or its end if the metric is infinite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Update {
    /// Of what; nothing in a retraction retracts everything.
    pub prefix: Option<Prefix>,
    /// Who originates it; nobody in a retraction.
    pub router_id: Option<RouterId>,
    /// Time until the next one, in hundredths of a second; not zero.
    pub interval_cs: u16,
    /// Of the originator.
    pub seqno: u16,
    /// Distance from the sender.
    pub metric: u16,
    /// Own: the originator's signature.
    pub origin: Option<Origin>,
    /// Own: the right to announce a region.
    pub grant: Option<GrantBytes>,
    /// Own: what the path can carry.
    pub path: Option<Path>,
}

/// The originator's word (sub-TLV 112 of an update).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Ed25519 public key of the originator.
    pub node: [u8; 32],
    /// The upper 48 bits of the sequence number, whose lower 16 are those of the update.
    pub epoch: u64,
    /// The originator itself goes away.
    pub is_retraction: bool,
    /// Its signature.
    pub signature: [u8; 64],
}

/// The right of the originator to announce a whole region (sub-TLV 113 of an update), or of a neighbour to speak for its
/// own (of a hello).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrantBytes {
    /// The region.
    pub region: [u8; 32],
    /// Until when, in milliseconds of the calendar.
    pub expiry_ms: u64,
    /// Signature of the region's authority.
    pub signature: [u8; 64],
}

/// What the path can carry (sub-TLV 114 of an update).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// Largest datagram between neighbours that every link takes, in bytes.
    pub mtu: u16,
    /// Links of the path.
    pub hops: u8,
}

/// Asks for a newer sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeqnoRequest {
    /// Of which prefix.
    pub prefix: Prefix,
    /// Of which originator.
    pub router_id: RouterId,
    /// The smallest that helps.
    pub seqno: u16,
    /// Own: its upper 48 bits (sub-TLV 117).
    pub epoch: Option<u64>,
    /// How far the request may still travel; not zero.
    pub hop_count: u8,
}

/// The last 8 octets of an address, where they can be a router id (RFC 8966 section 4.6.9, flag R).
fn router_id_of(address: [u8; 16]) -> Option<RouterId> {
    let (_, id) = address.split_last_chunk::<8>()?;
    (*id != [0; 8] && *id != [0xff; 8]).then_some(*id)
}
