//! The little that the mesh knows of IPv6 (RFC 8200) and ICMPv6 (RFC 4443).

use std::net::Ipv6Addr;

use crate::{
    ecn::Ecn,
    limits::{HOP_LIMIT, MTU_MIN},
};

/// The IPv6 header without extensions.
pub(crate) const HEADER_BYTES: usize = 40;
const NEXT_HEADER_ICMP: u8 = 58;
const ICMP_HEADER_BYTES: usize = 8;
const ICMP_UNREACHABLE: u8 = 1;
const ICMP_TOO_BIG: u8 = 2;
const ICMP_TIME_EXCEEDED: u8 = 3;
const ICMP_ECHO: u8 = 128;
const ICMP_ECHO_REPLY: u8 = 129;
/// The way there is prohibited (RFC 4443 section 3.1).
const ICMP_CODE_PROHIBITED: u8 = 1;
/// Nobody listens there (the same section).
const ICMP_CODE_PORT: u8 = 4;

/// Source and destination of a well-formed IPv6 packet; nothing if it is not one, or its length lies.
pub fn addresses(packet: &[u8]) -> Option<(Ipv6Addr, Ipv6Addr)> {
    let payload = usize::from(u16::from_be_bytes([*packet.get(4)?, *packet.get(5)?]));
    ends(packet).filter(|_| packet.len() == HEADER_BYTES + payload)
}

/// Source and destination of an IPv6 packet of which only the beginning is there.
pub(crate) fn ends(packet: &[u8]) -> Option<(Ipv6Addr, Ipv6Addr)> {
    let header: &[u8; HEADER_BYTES] = packet.first_chunk()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&header[at..at + 16]);
        Ipv6Addr::from(octets)
    };
    Some((address(8), address(24)))
}

/// Links of the mesh that a packet may take: as many as its own hop limit says, up to [`HOP_LIMIT`].
pub(crate) fn hop_limit(packet: &[u8]) -> u8 {
    packet.get(7).map_or(HOP_LIMIT, |hops| (*hops).clamp(1, HOP_LIMIT))
}

/// Explicit congestion notification of a packet (RFC 3168).
pub(crate) fn ecn(packet: &[u8]) -> Ecn {
    Ecn::of_bits(packet.get(1).map_or(0, |byte| byte >> 4))
}

/// Carries a mark over from the outside (RFC 6040); false if the packet is to be dropped. No checksum covers these bits.
pub(crate) fn copy_ecn(packet: &mut [u8], outer: Ecn) -> bool {
    let Some(ecn) = ecn(packet).out_of(outer) else { return false };
    if let Some(byte) = packet.get_mut(1) {
        *byte = *byte & !0x30 | ecn.bits() << 4;
    }
    true
}

/// A number that is the same for packets of one flow: addresses, protocol and ports, hashed (FNV-1a) to 16 bits.
pub(crate) fn flow(packet: &[u8]) -> u16 {
    let has_ports = matches!(packet.get(6), Some(6 | 17));
    let end = if has_ports { HEADER_BYTES + 4 } else { HEADER_BYTES };
    let words = packet.get(8..end).unwrap_or_default().chunks_exact(4);
    let hash = words.fold(0x811c_9dc5_u32, |hash, word| {
        (hash ^ u32::from_be_bytes([word[0], word[1], word[2], word[3]])).wrapping_mul(0x0100_0193)
    });
    (hash >> 16) as u16 ^ hash as u16
}

/// Why a packet does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is no route to its destination (RFC 4443 section 3.1).
    NoRoute,
    /// Whoever could let it go on does not (the same section).
    Prohibited,
    /// Nobody listens there (the same section).
    Port,
    /// It is larger than this (section 3.2).
    TooBig(usize),
}

/// The ICMPv6 error for a packet, from `own`. Nothing if the packet is itself an error (RFC 4443 section 2.4 e).
pub(crate) fn refusal(own: Ipv6Addr, packet: &[u8], why: Refusal) -> Option<Vec<u8>> {
    let source = who_may_be_told(packet)?;
    let (kind, parameter) = match why {
        Refusal::NoRoute => ((ICMP_UNREACHABLE, 0), 0),
        Refusal::Prohibited => ((ICMP_UNREACHABLE, ICMP_CODE_PROHIBITED), 0),
        Refusal::Port => ((ICMP_UNREACHABLE, ICMP_CODE_PORT), 0),
        Refusal::TooBig(mtu) => ((ICMP_TOO_BIG, 0), u32::try_from(mtu).unwrap_or(u32::MAX)),
    };
    let quoted = &packet[..packet.len().min(MTU_MIN - HEADER_BYTES - ICMP_HEADER_BYTES)];
    Some(icmp((own, source), kind, parameter, quoted))
}

/// Who is to be told if a packet does not go on.
pub(crate) fn who_may_be_told(packet: &[u8]) -> Option<Ipv6Addr> {
    let (source, _) = addresses(packet)?;
    let is_error = packet[6] == NEXT_HEADER_ICMP && packet.get(HEADER_BYTES).is_none_or(|kind| *kind < 128);
    (!is_error && !source.is_multicast() && !source.is_unspecified()).then_some(source)
}

/// "Time exceeded" (RFC 4443 section 3.3), from a relay to the sender of a packet, of which this is the beginning.
pub(crate) fn time_exceeded(relay: Ipv6Addr, sender: Ipv6Addr, quoted: &[u8]) -> Vec<u8> {
    icmp((relay, sender), (ICMP_TIME_EXCEEDED, 0), 0, quoted)
}

/// A whole packet with an ICMPv6 message; `contents` has 1232 bytes at most.
fn icmp((source, target): (Ipv6Addr, Ipv6Addr), (kind, code): (u8, u8), parameter: u32, contents: &[u8]) -> Vec<u8> {
    let contents = &contents[..contents.len().min(MTU_MIN - HEADER_BYTES - ICMP_HEADER_BYTES)];
    let length = (ICMP_HEADER_BYTES + contents.len()) as u16;
    let mut packet = Vec::with_capacity(HEADER_BYTES + usize::from(length));
    packet.extend_from_slice(&[0x60, 0, 0, 0]);
    packet.extend_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(&[NEXT_HEADER_ICMP, 64]);
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&target.octets());
    packet.extend_from_slice(&[kind, code, 0, 0]);
    packet.extend_from_slice(&parameter.to_be_bytes());
    packet.extend_from_slice(contents);
    let sum = checksum(&packet, length);
    packet[HEADER_BYTES + 2..HEADER_BYTES + 4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Turns an ICMPv6 echo request in place into its reply (RFC 4443 section 4.2); false if the packet is something else,
/// or its checksum is wrong.
pub(crate) fn answer_echo(packet: &mut [u8]) -> bool {
    let Some((source, target)) = addresses(packet) else { return false };
    let length = (packet.len() - HEADER_BYTES) as u16;
    let is_echo = packet[6] == NEXT_HEADER_ICMP
        && packet.get(HEADER_BYTES..HEADER_BYTES + ICMP_HEADER_BYTES).is_some_and(|head| head[..2] == [ICMP_ECHO, 0]);
    if !is_echo || checksum(packet, length) != 0 {
        return false;
    }
    packet[7] = 64;
    packet[8..24].copy_from_slice(&target.octets());
    packet[24..40].copy_from_slice(&source.octets());
    packet[HEADER_BYTES] = ICMP_ECHO_REPLY;
    packet[HEADER_BYTES + 2..HEADER_BYTES + 4].fill(0);
    let sum = checksum(packet, length);
    packet[HEADER_BYTES + 2..HEADER_BYTES + 4].copy_from_slice(&sum.to_be_bytes());
    true
}

/// Checksum over the pseudo header and the ICMPv6 message of a whole packet.
fn checksum(packet: &[u8], length: u16) -> u16 {
    let words = packet[8..].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum = words.sum::<u32>() + u32::from(length) + u32::from(NEXT_HEADER_ICMP);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_is_answered_and_nothing_else() {
        let (a, b): (Ipv6Addr, Ipv6Addr) = (1.into(), 2.into());
        let mut request = icmp((a, b), (ICMP_ECHO, 0), 0x0102_0003, b"odd");
        let original = request.clone();
        assert!(answer_echo(&mut request));
        assert_eq!(addresses(&request), Some((b, a)));
        assert_eq!((request[40], &request[44..]), (ICMP_ECHO_REPLY, &original[44..]));
        assert_eq!(checksum(&request, 11), 0);
        for at in [6, 40, 41, 42, 50] {
            let mut wrong = original.clone();
            wrong[at] ^= 1;
            let before = wrong.clone();
            assert!(!answer_echo(&mut wrong) && wrong == before, "{at}");
        }
        assert!(!answer_echo(&mut original[..44].to_vec()) && !answer_echo(&mut []));
    }

    #[test]
    fn a_refusal_quotes_the_packet_with_a_right_checksum() {
        let (a, b, own): (Ipv6Addr, Ipv6Addr, Ipv6Addr) = (1.into(), 2.into(), 3.into());
        let mut packet = vec![0x60, 0, 0, 0, 0, 3, 17, 64];
        packet.extend_from_slice(&a.octets());
        packet.extend_from_slice(&b.octets());
        packet.extend_from_slice(&[1, 2, 3]);
        assert_eq!(addresses(&packet), Some((a, b)));
        let answer = refusal(own, &packet, Refusal::NoRoute).expect("an error is due");
        assert_eq!(addresses(&answer), Some((own, a)));
        assert_eq!(answer[48..], packet);
        assert_eq!(checksum(&answer, 51), 0, "a sum over a right checksum is zero");
        assert_eq!(refusal(own, &answer, Refusal::NoRoute), None, "no error about an error");
        let answer = refusal(own, &packet, Refusal::TooBig(1280)).expect("an error is due");
        assert_eq!((answer[40], &answer[44..48]), (2, &[0, 0, 5, 0][..]));
        assert_eq!(checksum(&answer, 51), 0);
        packet.pop();
        assert_eq!(addresses(&packet), None, "the length lies");
    }
}
