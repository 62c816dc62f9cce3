//! Super-packets: one packet of the network stack that stands for a row of equal ones (segmentation offload).
//!
//! The stack of the sending machine hands over up to 64 KiB at once. [`Super`] splits it into the packets for which it
//! stands, one for each datagram; [`Merger`] puts those that come in together again, so that the receiving stack gets a
//! super-packet too. Neither computes a checksum over payload: the transport's checksum stays *partial* (the sum over
//! the pseudo header only, as the stacks expect it from hardware that does the rest), because the AEAD vouches for the
//! payload in between. Everything here is pure and works on slices. What comes from a peer is checked before it is
//! believed.

use core::ops::Range;

use crate::packet::HEADER_BYTES;

/// The TCP header without options (RFC 9293 section 3.1).
const TCP_HEADER_BYTES: usize = 20;
const TCP_HEADER_BYTES_MAX: usize = 60;
const UDP_HEADER_BYTES: usize = 8;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Headers of the largest packet that is merged: IPv6 without extensions, TCP with all options.
pub const HEADERS_BYTES_MAX: usize = HEADER_BYTES + TCP_HEADER_BYTES_MAX;
/// Packets that one super-packet may stand for.
pub const SEGMENTS_MAX: usize = 64;
/// Largest packet that is made: its payload also fits IPv4, whose length field counts the header of 20 bytes.
const PACKET_BYTES_MAX: usize = HEADER_BYTES + 0xffff - 20;

const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;

/// What a network stack says of a packet besides its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// Payload of each packet that it stands for, in bytes; zero: it stands for itself.
    pub segment_bytes: u16,
    /// The transport's checksum covers only the pseudo header.
    pub partial_checksum: bool,
}

/// A transport that can be split and merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Where its checksum lies within its header.
    pub const fn checksum_at(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::Tcp => TCP,
            Self::Udp => UDP,
        }
    }
}

/// A packet that does not hold what is said of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the packet is no row of TCP or UDP packets, or of too many")]
pub struct NotSplittable;

/// The headers of a packet whose transport follows IPv6 directly: which transport, and where its payload starts.
pub fn headers(packet: &[u8]) -> Option<(Transport, usize)> {
    match *packet.get(6)? {
        TCP => {
            let words = packet.get(HEADER_BYTES + 12)? >> 4;
            let length = HEADER_BYTES + 4 * usize::from(words);
            (length >= HEADER_BYTES + TCP_HEADER_BYTES && packet.len() >= length).then_some((Transport::Tcp, length))
        }
        UDP => {
            let length = HEADER_BYTES + UDP_HEADER_BYTES;
            (packet.len() >= length).then_some((Transport::Udp, length))
        }
        _ => None,
    }
}

/// A super-packet, or a packet that stands for itself.
#[derive(Debug, Clone, Copy)]
pub struct Super<'a> {
    packet: &'a [u8],
    /// Transport, length of all headers, payload of each segment.
    split: Option<(Transport, usize, usize)>,
    partial_checksum: bool,
}

impl<'a> Super<'a> {
    /// Looks at a packet that a network stack handed over.
    pub fn new(packet: &'a [u8], offload: Offload) -> Result<Self, NotSplittable> {
        let Offload { segment_bytes, partial_checksum } = offload;
        if segment_bytes == 0 {
            if partial_checksum && headers(packet).is_none() {
                return Err(NotSplittable);
            }
            return Ok(Self { packet, split: None, partial_checksum });
        }
        let (transport, header_bytes) = headers(packet).filter(|_| partial_checksum).ok_or(NotSplittable)?;
        let segment_bytes = usize::from(segment_bytes);
        let payload = packet.len() - header_bytes;
        if payload == 0 || payload.div_ceil(segment_bytes) > SEGMENTS_MAX {
            return Err(NotSplittable);
        }
        Ok(Self { packet, split: Some((transport, header_bytes, segment_bytes)), partial_checksum })
    }

    /// How many packets it stands for.
    pub fn count(&self) -> usize {
        self.split.map_or(1, |(_, headers, segment)| (self.packet.len() - headers).div_ceil(segment))
    }

    /// Bytes of the packet with this number.
    pub fn length(&self, number: usize) -> usize {
        match self.split {
            None => self.packet.len(),
            Some((_, headers, _)) => headers + self.payload(number).len(),
        }
    }

    /// Whether the packets' checksums cover only the pseudo header.
    pub const fn has_partial_checksum(&self) -> bool {
        self.partial_checksum
    }

    /// Writes the packet with this number into a buffer of [`Self::length`] bytes.
    pub fn write(&self, number: usize, buffer: &mut [u8]) {
        let Some((transport, headers, _)) = self.split else { return buffer.copy_from_slice(self.packet) };
        let payload = self.payload(number);
        let is_last = payload.end == self.packet.len();
        let sequence_offset = payload.start - headers;
        let (head, body) = buffer.split_at_mut(headers);
        head.copy_from_slice(&self.packet[..headers]);
        body.copy_from_slice(&self.packet[payload]);
        let transport_bytes = headers - HEADER_BYTES + body.len();
        set_length(head, transport, transport_bytes);
        if transport == Transport::Tcp {
            let at = HEADER_BYTES + 4;
            let sequence = u32_at(head, at).wrapping_add(u32::try_from(sequence_offset).unwrap_or(u32::MAX));
            head[at..at + 4].copy_from_slice(&sequence.to_be_bytes());
            let flags = &mut head[HEADER_BYTES + 13];
            if number > 0 {
                *flags &= !TCP_CWR;
            }
            if !is_last {
                *flags &= !(TCP_FIN | TCP_PSH);
            }
        }
    }

    fn payload(&self, number: usize) -> Range<usize> {
        let Some((_, headers, segment)) = self.split else { return 0..self.packet.len() };
        let start = headers + number * segment;
        start..(start + segment).min(self.packet.len())
    }
}

/// Writes all lengths of a packet's headers, and the partial checksum that belongs to them.
fn set_length(head: &mut [u8], transport: Transport, transport_bytes: usize) {
    let length = u16::try_from(transport_bytes).unwrap_or(u16::MAX);
    head[4..6].copy_from_slice(&length.to_be_bytes());
    if transport == Transport::Udp {
        head[HEADER_BYTES + 4..HEADER_BYTES + 6].copy_from_slice(&length.to_be_bytes());
    }
    let sum = pseudo_sum(head, transport.number(), length);
    let at = HEADER_BYTES + transport.checksum_at();
    head[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Sum over the pseudo header (RFC 8200 section 8.1), folded, not inverted.
fn pseudo_sum(head: &[u8], protocol: u8, length: u16) -> u16 {
    let words = head[8..HEADER_BYTES].chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    fold(words.sum::<u32>() + u32::from(protocol) + u32::from(length))
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Completes a partial checksum in place, for a stack that does not take one. Packets without [`headers`] stay as they
/// are.
pub fn complete_checksum(packet: &mut [u8]) {
    if let Some((transport, _)) = headers(packet) {
        complete_checksum_at(packet, HEADER_BYTES, transport.checksum_at());
    }
}

/// The same for a checksum that covers everything from `start`, and whose field lies `offset` bytes behind that. Does
/// nothing if the field lies outside of the packet.
pub fn complete_checksum_at(packet: &mut [u8], start: usize, offset: usize) {
    let at = start + offset;
    if packet.len() < at + 2 {
        return;
    }
    // The partial sum stands in the checksum's field and is part of the sum.
    let words = packet[start..].chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let mut sum: u64 = words.map(u64::from).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // Zero means "none" in UDP (RFC 768), and 0xffff is the same sum.
    let sum = match !(sum as u16) {
        0 => 0xffff,
        sum => sum,
    };
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Puts packets of one flow together, as they come.
#[derive(Debug, Clone)]
pub struct Merger {
    head: [u8; HEADERS_BYTES_MAX],
    transport: Transport,
    header_bytes: usize,
    segment_bytes: usize,
    payload_bytes: usize,
    count: usize,
    /// A packet shorter than the others ends the row.
    is_complete: bool,
}

impl Merger {
    /// Starts with a packet with a partial checksum; nothing if such a packet cannot have followers.
    pub fn begin(packet: &[u8]) -> Option<Self> {
        let (transport, header_bytes) = headers(packet).filter(|(_, bytes)| *bytes <= HEADERS_BYTES_MAX)?;
        let payload_bytes = packet.len() - header_bytes;
        if payload_bytes == 0 {
            return None;
        }
        let mut head = [0; HEADERS_BYTES_MAX];
        head[..header_bytes].copy_from_slice(&packet[..header_bytes]);
        Some(Self {
            head,
            transport,
            header_bytes,
            segment_bytes: payload_bytes,
            payload_bytes,
            count: 1,
            is_complete: false,
        })
    }

    /// Appends a packet: where its payload lies. Nothing if it does not continue the row.
    pub fn append(&mut self, packet: &[u8]) -> Option<Range<usize>> {
        let (transport, header_bytes) = headers(packet)?;
        let payload = packet.len() - header_bytes;
        let fits = !self.is_complete
            && transport == self.transport
            && header_bytes == self.header_bytes
            && (1..=self.segment_bytes).contains(&payload)
            && self.count < SEGMENTS_MAX
            && self.header_bytes + self.payload_bytes + payload <= PACKET_BYTES_MAX
            // A mark on one packet of a row must not get lost, nor spread.
            && packet[..4] == self.head[..4]
            // Addresses and ports.
            && packet[8..HEADER_BYTES + 4] == self.head[8..HEADER_BYTES + 4]
            && self.is_next(packet);
        if !fits {
            return None;
        }
        if transport == Transport::Tcp {
            self.head[HEADER_BYTES + 13] |= packet[HEADER_BYTES + 13] & (TCP_FIN | TCP_PSH);
        }
        self.is_complete = payload < self.segment_bytes;
        self.payload_bytes += payload;
        self.count += 1;
        Some(header_bytes..packet.len())
    }

    /// What it merges.
    pub const fn transport(&self) -> Transport {
        self.transport
    }

    /// The headers of the super-packet, and what to tell the stack of it.
    pub fn finish(&mut self) -> (&[u8], Transport, Offload) {
        let head = &mut self.head[..self.header_bytes];
        set_length(head, self.transport, self.header_bytes - HEADER_BYTES + self.payload_bytes);
        let segment_bytes = if self.count > 1 { u16::try_from(self.segment_bytes).unwrap_or(u16::MAX) } else { 0 };
        (head, self.transport, Offload { segment_bytes, partial_checksum: true })
    }

    /// Whether the TCP sequence number goes on where the row ends.
    fn is_next(&self, packet: &[u8]) -> bool {
        let at = HEADER_BYTES + 4;
        let expected = u32_at(&self.head, at).wrapping_add(u32::try_from(self.payload_bytes).unwrap_or(u32::MAX));
        self.transport == Transport::Udp || u32_at(packet, at) == expected
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests;
