//! Translation between IPv6 and IPv4, without state (RFC 7915), of addresses in 64:ff9b::/96 (RFC 6052).
//!
//! ```text
//! IPv6                  IPv4                    checksum of the transport
//! ────────────────────────────────────────────────────────────────────────────────────────────
//! TCP, UDP              the same                by the difference of the addresses, payload unread
//! echo, echo reply      the same                verified and made anew
//! errors of ICMPv6      errors of ICMP          the same; the quoted packet is translated too
//! fragments, all else   refused                 –
//! ```
//!
//! Headers of TCP and UDP are rewritten where they lie, so that a super-packet ([`crate::offload`]) is translated as a
//! whole: its checksum is *partial* and stays so. Which IPv4 address stands for which node is not known here: see
//! [`crate::exit`]. Everything is pure, and nothing that comes in is believed before it is checked.

mod icmp;

use std::net::{Ipv4Addr, Ipv6Addr};

pub use icmp::{icmp_to_ipv4, icmp_to_ipv6, quoted_in_icmp4, quoted_in_icmp6};

use crate::{
    limits::MTU_MIN,
    offload::{Transport, headers},
    packet::HEADER_BYTES,
};

/// The IPv4 header without options (RFC 791).
pub const HEADER4_BYTES: usize = 20;
/// By how much a packet grows when it becomes one of IPv6.
pub const SPARE_BYTES: usize = HEADER_BYTES - HEADER4_BYTES;
/// The well-known prefix (RFC 6052 section 2.1), of 96 bits.
pub const PREFIX: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);
/// Bits of it.
pub const PREFIX_BITS: u8 = 96;
/// Larger IPv4 packets are not to be fragmented (RFC 7915 section 5.1): their senders can be told of a smaller MTU.
pub const FRAGMENTABLE_BYTES_MAX: usize = MTU_MIN - SPARE_BYTES;

const PREFIX_OCTETS: [u8; 12] = *PREFIX.octets().first_chunk().expect("16 are more than 12");
const TCP: u8 = 6;
const UDP: u8 = 17;
const DONT_FRAGMENT: u16 = 0x4000;
/// More fragments, and the fragment's place.
const IS_FRAGMENT: u16 = 0x3fff;

/// Why a packet has no form in the other protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Untranslatable {
    /// It is not well-formed.
    #[error("the packet is not well-formed, or its checksum is wrong")]
    Malformed,
    /// It is a fragment.
    #[error("the packet is a fragment")]
    Fragment,
    /// It is of another transport, or a message that the other protocol has not.
    #[error("the packet is neither TCP nor UDP, nor a message that both kinds of ICMP have")]
    Protocol,
}

/// The IPv6 address that stands for an IPv4 address (RFC 6052 section 2.2).
pub const fn embed(address: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = address.octets();
    Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

/// The IPv4 address for which an IPv6 address stands.
pub fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let octets = address.octets();
    let rest = octets.strip_prefix(&PREFIX_OCTETS)?;
    Some(Ipv4Addr::new(rest[0], rest[1], rest[2], rest[3]))
}

/// Whether an IPv6 packet goes to an address that stands for one of IPv4.
pub fn is_to_ipv4(packet: &[u8]) -> bool {
    packet.get(24..36).is_some_and(|network| network == PREFIX_OCTETS)
}

/// Whether an IPv4 address may be one of the Internet: none that RFC 6890 keeps for other uses, but those for
/// documentation, which nobody has.
pub fn is_global(address: Ipv4Addr) -> bool {
    const OTHERS: [([u8; 4], u32); 11] = [
        ([0, 0, 0, 0], 8),
        ([10, 0, 0, 0], 8),
        ([100, 64, 0, 0], 10),
        ([127, 0, 0, 0], 8),
        ([169, 254, 0, 0], 16),
        ([172, 16, 0, 0], 12),
        ([192, 0, 0, 0], 24),
        ([192, 88, 99, 0], 24),
        ([192, 168, 0, 0], 16),
        ([198, 18, 0, 0], 15),
        // Multicast, and 240.0.0.0/4 with the broadcast address.
        ([224, 0, 0, 0], 3),
    ];
    let lies_in =
        |(network, bits): ([u8; 4], u32)| (u32::from(address) ^ u32::from_be_bytes(network)) >> (32 - bits) == 0;
    !OTHERS.into_iter().any(lies_in)
}

/// Source and destination of a well-formed IPv4 packet; nothing if it is not one, or its length lies.
pub fn addresses4(packet: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let header = Header4::parse(packet)?;
    (header.total_bytes == packet.len()).then_some((header.source, header.target))
}

/// Whether this IPv4 packet holds ICMP.
pub(crate) fn is_icmp4(packet: &[u8]) -> bool {
    packet.get(9) == Some(&icmp::ICMP4)
}

/// Whether this IPv6 packet holds ICMPv6.
pub(crate) fn is_icmp6(packet: &[u8]) -> bool {
    packet.get(6) == Some(&icmp::ICMP6)
}

/// Rewrites the headers of a TCP or UDP packet of IPv6 to those of IPv4, whose first 20 bytes then end where the IPv6
/// header ended: they begin at [`SPARE_BYTES`]. The payload need not be there. `partial`: the checksum covers only the
/// pseudo header. `identification`: of a packet that may be fragmented on its way; none: it must not be. Left as it was
/// if it cannot be done.
pub fn head_to_ipv4(
    head: &mut [u8],
    ends: (Ipv4Addr, Ipv4Addr),
    partial: bool,
    identification: Option<u16>,
) -> Result<(), Untranslatable> {
    let header = Header6::parse(head).ok_or(Untranslatable::Malformed)?;
    let transport = transport_of(header.next)?;
    let (_, header_bytes) = headers(head).ok_or(Untranslatable::Malformed)?;
    if HEADER_BYTES + header.payload_bytes < header_bytes {
        return Err(Untranslatable::Malformed);
    }
    let new = Header4::new(&header, header.next, header.payload_bytes, ends).ok_or(Untranslatable::Malformed)?;
    let at = HEADER_BYTES + transport.checksum_at();
    let field = [head[at], head[at + 1]];
    if !partial && transport == Transport::Udp && field == [0, 0] {
        // IPv6 has none without one (RFC 8200 section 8.1).
        return Err(Untranslatable::Malformed);
    }
    let field = moved(field, partial, address_sum6(&header), address_sum4(ends));
    head[at..at + 2].copy_from_slice(&stored(field, partial, transport));
    new.write(identification, &mut head[SPARE_BYTES..HEADER_BYTES]);
    Ok(())
}

/// Rewrites the headers of a whole TCP or UDP packet of IPv4 to those of IPv6: where in `buffer` it begins. The packet
/// must lie behind [`SPARE_BYTES`]. Options are left out. Left as it was if it cannot be done.
pub fn head_to_ipv6(buffer: &mut [u8], ends: (Ipv6Addr, Ipv6Addr), partial: bool) -> Result<usize, Untranslatable> {
    let packet = buffer.get(SPARE_BYTES..).ok_or(Untranslatable::Malformed)?;
    let header = Header4::parse(packet).ok_or(Untranslatable::Malformed)?;
    if header.total_bytes != packet.len() {
        return Err(Untranslatable::Malformed);
    }
    if header.is_fragment {
        return Err(Untranslatable::Fragment);
    }
    let transport = transport_of(header.protocol)?;
    let content_at = SPARE_BYTES + header.header_bytes;
    let start = content_at - HEADER_BYTES;
    let new = Header6::new(&header, header.protocol, header.content_bytes(), ends);
    let least = match transport {
        Transport::Tcp => 20,
        Transport::Udp => 8,
    };
    if buffer.len() < content_at + least {
        return Err(Untranslatable::Malformed);
    }
    let at = content_at + transport.checksum_at();
    let field = [buffer[at], buffer[at + 1]];
    let is_missing = !partial && transport == Transport::Udp && field == [0, 0];
    let field = if is_missing {
        let content = &buffer[content_at..];
        let pseudo = address_sum6(&new) + content.len() as u64 + u64::from(UDP);
        (!fold(pseudo + sum(content))).to_be_bytes()
    } else {
        moved(field, partial, address_sum4((header.source, header.target)), address_sum6(&new))
    };
    buffer[at..at + 2].copy_from_slice(&stored(field, partial, transport));
    new.write(&mut buffer[start..content_at]);
    Ok(start)
}

fn transport_of(number: u8) -> Result<Transport, Untranslatable> {
    match number {
        TCP => Ok(Transport::Tcp),
        UDP => Ok(Transport::Udp),
        // The header of a fragment (RFC 8200 section 4.5).
        44 => Err(Untranslatable::Fragment),
        _ => Err(Untranslatable::Protocol),
    }
}

/// A checksum after what it covers changed from one sum to another (RFC 1624 equation 3).
fn moved(field: [u8; 2], partial: bool, from: u64, to: u64) -> [u8; 2] {
    let field = u16::from_be_bytes(field);
    let change = u64::from(!fold(from)) + to;
    let field = if partial { fold(u64::from(field) + change) } else { !fold(u64::from(!field) + change) };
    field.to_be_bytes()
}

/// Zero means "none" in UDP (RFC 768), and 0xffff is the same sum.
fn stored(field: [u8; 2], partial: bool, transport: Transport) -> [u8; 2] {
    if !partial && transport == Transport::Udp && field == [0, 0] { [0xff, 0xff] } else { field }
}

/// The part of an IPv4 header that counts here.
#[derive(Debug, Clone, Copy)]
struct Header4 {
    header_bytes: usize,
    total_bytes: usize,
    class: u8,
    hops: u8,
    protocol: u8,
    is_fragment: bool,
    source: Ipv4Addr,
    target: Ipv4Addr,
}

impl Header4 {
    /// Reads it from a packet, of which the end may be missing.
    fn parse(packet: &[u8]) -> Option<Self> {
        let fixed: &[u8; HEADER4_BYTES] = packet.first_chunk()?;
        let header_bytes = usize::from(fixed[0] & 0x0f) * 4;
        let total_bytes = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        if fixed[0] >> 4 != 4 || !(HEADER4_BYTES..=total_bytes.min(packet.len())).contains(&header_bytes) {
            return None;
        }
        Some(Self {
            header_bytes,
            total_bytes,
            class: fixed[1],
            hops: fixed[8],
            protocol: fixed[9],
            is_fragment: u16::from_be_bytes([fixed[6], fixed[7]]) & IS_FRAGMENT != 0,
            source: Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]),
            target: Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]),
        })
    }

    /// What becomes of an IPv6 header; nothing if there is too much behind it.
    fn new(from: &Header6, protocol: u8, content_bytes: usize, (source, target): (Ipv4Addr, Ipv4Addr)) -> Option<Self> {
        let total_bytes = HEADER4_BYTES + content_bytes;
        let (class, hops) = (from.class, from.hops);
        let is_fragment = false;
        let header_bytes = HEADER4_BYTES;
        u16::try_from(total_bytes).ok()?;
        Some(Self { header_bytes, total_bytes, class, hops, protocol, is_fragment, source, target })
    }

    fn content_bytes(&self) -> usize {
        self.total_bytes - self.header_bytes
    }

    /// Writes it into 20 bytes.
    fn write(&self, identification: Option<u16>, bytes: &mut [u8]) {
        let flags = if identification.is_some() { 0 } else { DONT_FRAGMENT };
        bytes[0] = 0x45;
        bytes[1] = self.class;
        bytes[2..4].copy_from_slice(&(self.total_bytes as u16).to_be_bytes());
        bytes[4..6].copy_from_slice(&identification.unwrap_or(0).to_be_bytes());
        bytes[6..8].copy_from_slice(&flags.to_be_bytes());
        bytes[8] = self.hops;
        bytes[9] = self.protocol;
        bytes[10..12].fill(0);
        bytes[12..16].copy_from_slice(&self.source.octets());
        bytes[16..20].copy_from_slice(&self.target.octets());
        let checksum = !fold(sum(&bytes[..HEADER4_BYTES]));
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// The part of an IPv6 header that counts here.
#[derive(Debug, Clone, Copy)]
struct Header6 {
    class: u8,
    payload_bytes: usize,
    next: u8,
    hops: u8,
    source: Ipv6Addr,
    target: Ipv6Addr,
}

impl Header6 {
    /// Reads it from a packet, of which the end may be missing.
    fn parse(packet: &[u8]) -> Option<Self> {
        let fixed: &[u8; HEADER_BYTES] = packet.first_chunk()?;
        let address = |at: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&fixed[at..at + 16]);
            Ipv6Addr::from(octets)
        };
        (fixed[0] >> 4 == 6).then(|| Self {
            class: fixed[0] << 4 | fixed[1] >> 4,
            payload_bytes: usize::from(u16::from_be_bytes([fixed[4], fixed[5]])),
            next: fixed[6],
            hops: fixed[7],
            source: address(8),
            target: address(24),
        })
    }

    /// What becomes of an IPv4 header.
    const fn new(from: &Header4, next: u8, payload_bytes: usize, (source, target): (Ipv6Addr, Ipv6Addr)) -> Self {
        Self { class: from.class, payload_bytes, next, hops: from.hops, source, target }
    }

    /// Writes it into 40 bytes. There is no flow label.
    fn write(&self, bytes: &mut [u8]) {
        bytes[..4].copy_from_slice(&[0x60 | self.class >> 4, self.class << 4, 0, 0]);
        bytes[4..6].copy_from_slice(&(self.payload_bytes as u16).to_be_bytes());
        bytes[6..8].copy_from_slice(&[self.next, self.hops]);
        bytes[8..24].copy_from_slice(&self.source.octets());
        bytes[24..40].copy_from_slice(&self.target.octets());
    }
}

fn address_sum6(header: &Header6) -> u64 {
    sum(&header.source.octets()) + sum(&header.target.octets())
}

fn address_sum4((source, target): (Ipv4Addr, Ipv4Addr)) -> u64 {
    sum(&source.octets()) + sum(&target.octets())
}

/// Sum of 16-bit words (RFC 1071), not folded.
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    words.map(u64::from).sum()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests;
