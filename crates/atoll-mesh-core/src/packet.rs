//! The little that the mesh knows of IPv6 (RFC 8200) and ICMPv6 (RFC 4443).

use std::net::Ipv6Addr;

use crate::limits::MTU_MIN;

const HEADER_BYTES: usize = 40;
const NEXT_HEADER_ICMP: u8 = 58;
const ICMP_HEADER_BYTES: usize = 8;
const ICMP_UNREACHABLE: u8 = 1;
const ICMP_CODE_NO_ROUTE: u8 = 0;

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

/// The ICMPv6 error "no route to destination" for a packet, from `own`. Nothing if the packet is itself an error
/// (RFC 4443 section 2.4 e).
pub(crate) fn unreachable(own: Ipv6Addr, packet: &[u8]) -> Option<Vec<u8>> {
    let (source, _) = addresses(packet)?;
    let is_error = packet[6] == NEXT_HEADER_ICMP && packet.get(HEADER_BYTES).is_none_or(|kind| *kind < 128);
    if is_error || source.is_multicast() || source.is_unspecified() {
        return None;
    }
    let quoted = &packet[..packet.len().min(MTU_MIN - HEADER_BYTES - ICMP_HEADER_BYTES)];
    let length = u16::try_from(ICMP_HEADER_BYTES + quoted.len()).ok()?;
    let mut answer = Vec::with_capacity(HEADER_BYTES + usize::from(length));
    answer.extend_from_slice(&[0x60, 0, 0, 0]);
    answer.extend_from_slice(&length.to_be_bytes());
    answer.extend_from_slice(&[NEXT_HEADER_ICMP, 64]);
    answer.extend_from_slice(&own.octets());
    answer.extend_from_slice(&source.octets());
    answer.extend_from_slice(&[ICMP_UNREACHABLE, ICMP_CODE_NO_ROUTE, 0, 0, 0, 0, 0, 0]);
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
    fn unreachable_quotes_the_packet_with_a_right_checksum() {
        let (a, b, own): (Ipv6Addr, Ipv6Addr, Ipv6Addr) = (1.into(), 2.into(), 3.into());
        let mut packet = vec![0x60, 0, 0, 0, 0, 3, 17, 64];
        packet.extend_from_slice(&a.octets());
        packet.extend_from_slice(&b.octets());
        packet.extend_from_slice(&[1, 2, 3]);
        assert_eq!(addresses(&packet), Some((a, b)));
        let answer = unreachable(own, &packet).expect("an error is due");
        assert_eq!(addresses(&answer), Some((own, a)));
        assert_eq!(answer[48..], packet);
        assert_eq!(checksum(&answer, 51), 0, "a sum over a right checksum is zero");
        assert_eq!(unreachable(own, &answer), None, "no error about an error");
        packet.pop();
        assert_eq!(addresses(&packet), None, "the length lies");
    }
}
