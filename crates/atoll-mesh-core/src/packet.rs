//! The little that the mesh knows of IPv6 (RFC 8200) and ICMPv6 (RFC 4443).

use std::net::Ipv6Addr;

use crate::{ecn::Ecn, limits::MTU_MIN};

/// The IPv6 header without extensions.
pub(crate) const HEADER_BYTES: usize = 40;
const NEXT_HEADER_ICMP: u8 = 58;
const ICMP_HEADER_BYTES: usize = 8;
const ICMP_UNREACHABLE: u8 = 1;
const ICMP_TOO_BIG: u8 = 2;

/// Source and destination of a well-formed IPv6 packet; nothing if it is not one, or its length lies.
pub(crate) fn addresses(packet: &[u8]) -> Option<(Ipv6Addr, Ipv6Addr)> {
    let header: &[u8; HEADER_BYTES] = packet.first_chunk()?;
    let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if header[0] >> 4 != 6 || packet.len() != HEADER_BYTES + payload {
        return None;
    }
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&header[at..at + 16]);
        Ipv6Addr::from(octets)
    };
    Some((address(8), address(24)))
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
    /// It is larger than this (section 3.2).
    TooBig(usize),
}

/// The ICMPv6 error for a packet, from `own`. Nothing if the packet is itself an error (RFC 4443 section 2.4 e).
pub(crate) fn refusal(own: Ipv6Addr, packet: &[u8], why: Refusal) -> Option<Vec<u8>> {
    let (source, _) = addresses(packet)?;
    let is_error = packet[6] == NEXT_HEADER_ICMP && packet.get(HEADER_BYTES).is_none_or(|kind| *kind < 128);
    if is_error || source.is_multicast() || source.is_unspecified() {
        return None;
    }
    let (kind, parameter) = match why {
        Refusal::NoRoute => (ICMP_UNREACHABLE, 0),
        Refusal::TooBig(mtu) => (ICMP_TOO_BIG, u32::try_from(mtu).unwrap_or(u32::MAX)),
    };
    let quoted = &packet[..packet.len().min(MTU_MIN - HEADER_BYTES - ICMP_HEADER_BYTES)];
    let length = u16::try_from(ICMP_HEADER_BYTES + quoted.len()).ok()?;
    let mut answer = Vec::with_capacity(HEADER_BYTES + usize::from(length));
    answer.extend_from_slice(&[0x60, 0, 0, 0]);
    answer.extend_from_slice(&length.to_be_bytes());
    answer.extend_from_slice(&[NEXT_HEADER_ICMP, 64]);
    answer.extend_from_slice(&own.octets());
    answer.extend_from_slice(&source.octets());
    // Code 0 of either kind.
    answer.extend_from_slice(&[kind, 0, 0, 0]);
    answer.extend_from_slice(&parameter.to_be_bytes());
    answer.extend_from_slice(quoted);
    let sum = checksum(&answer, length);
    answer[HEADER_BYTES + 2..HEADER_BYTES + 4].copy_from_slice(&sum.to_be_bytes());
    Some(answer)
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
