//! Messages of ICMP (RFC 792) and ICMPv6 (RFC 4443), whole packets, with what they quote (RFC 7915 sections 4.2 to 4.5
//! and 5.2 to 5.5).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{
    HEADER4_BYTES, Header4, Header6, SPARE_BYTES, TCP, UDP, Untranslatable, address_sum4, address_sum6, fold, moved,
    sum,
};
use crate::{limits::MTU_MIN, offload::Transport, packet::HEADER_BYTES};

pub(super) const ICMP4: u8 = 1;
pub(super) const ICMP6: u8 = 58;
/// Type, code, checksum, and four bytes of which the type says the meaning.
const MESSAGE_BYTES: usize = 8;
/// Longest error of ICMP (RFC 1812 section 4.3.2.3).
const ERROR4_BYTES_MAX: usize = 576;
/// Smallest MTU of IPv4 (RFC 791).
const MTU4_MIN: u32 = 68;
/// Echo request and its reply.
const ECHO4: [u8; 2] = [8, 0];
const ECHO6: [u8; 2] = [128, 129];

/// Type, code, and the four bytes behind the checksum.
type Head = (u8, u8, [u8; 4]);

/// Translates a whole packet with an ICMPv6 message. `quoted`: source and destination that the packet gets which an
/// error quotes.
pub fn icmp_to_ipv4(
    packet: &[u8],
    ends: (Ipv4Addr, Ipv4Addr),
    quoted: (Ipv4Addr, Ipv4Addr),
    identification: Option<u16>,
) -> Result<Vec<u8>, Untranslatable> {
    let (header, message) = message6(packet).ok_or(Untranslatable::Malformed)?;
    let ((kind, code, word), contents) = split(message);
    let (head, contents) = match ECHO6.iter().position(|echo| *echo == kind) {
        Some(which) => ((ECHO4[which], code, word), contents.to_vec()),
        None => {
            let head = error_to_ipv4(kind, code, word)?;
            // Some errors say how long the quoted packet is, in words of 8 bytes (RFC 4884).
            let has_length = matches!(kind, 1 | 3) && word[0] > 0;
            let length = if has_length { usize::from(word[0]) * 8 } else { contents.len() };
            let mut translated = quoted_to_ipv4(&contents[..length.min(contents.len())], quoted)?;
            translated.truncate(ERROR4_BYTES_MAX - HEADER4_BYTES - MESSAGE_BYTES);
            (head, translated)
        }
    };
    let new = Header4::new(&header, ICMP4, MESSAGE_BYTES + contents.len(), ends).ok_or(Untranslatable::Malformed)?;
    let mut bytes = vec![0; HEADER4_BYTES];
    new.write(identification, &mut bytes);
    Ok(finish(bytes, head, &contents, 0))
}

/// Translates a whole packet with an ICMP message; see [`icmp_to_ipv4`].
pub fn icmp_to_ipv6(
    packet: &[u8],
    ends: (Ipv6Addr, Ipv6Addr),
    quoted: (Ipv6Addr, Ipv6Addr),
) -> Result<Vec<u8>, Untranslatable> {
    let (header, message) = message4(packet)?;
    let ((kind, code, word), contents) = split(message);
    let (head, contents) = match ECHO4.iter().position(|echo| *echo == kind) {
        Some(which) => ((ECHO6[which], code, word), contents.to_vec()),
        None => {
            let head = error_to_ipv6(kind, code, word)?;
            // The same length, in words of 4 bytes.
            let has_length = matches!(kind, 3 | 11 | 12) && word[1] > 0;
            let length = if has_length { usize::from(word[1]) * 4 } else { contents.len() };
            let mut translated = quoted_to_ipv6(&contents[..length.min(contents.len())], quoted)?;
            translated.truncate(MTU_MIN - HEADER_BYTES - MESSAGE_BYTES);
            (head, translated)
        }
    };
    let new = Header6::new(&header, ICMP6, MESSAGE_BYTES + contents.len(), ends);
    let mut bytes = vec![0; HEADER_BYTES];
    new.write(&mut bytes);
    let pseudo = address_sum6(&new) + new.payload_bytes as u64 + u64::from(ICMP6);
    Ok(finish(bytes, head, &contents, pseudo))
}

/// Source and destination of what an error of ICMP quotes.
pub fn quoted_in_icmp4(packet: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let (_, message) = message4(packet).ok()?;
    let header = Header4::parse(message.get(MESSAGE_BYTES..)?).filter(|_| !ECHO4.contains(&message[0]))?;
    Some((header.source, header.target))
}

/// Source and destination of what an error of ICMPv6 quotes.
pub fn quoted_in_icmp6(packet: &[u8]) -> Option<(Ipv6Addr, Ipv6Addr)> {
    let (_, message) = message6(packet)?;
    let header = Header6::parse(message.get(MESSAGE_BYTES..)?).filter(|_| message[0] < 128)?;
    Some((header.source, header.target))
}

/// Header and message of a packet with a right checksum.
fn message6(packet: &[u8]) -> Option<(Header6, &[u8])> {
    let header = Header6::parse(packet).filter(|header| header.next == ICMP6)?;
    let message = &packet[HEADER_BYTES..];
    let pseudo = address_sum6(&header) + header.payload_bytes as u64 + u64::from(ICMP6);
    let is_right = message.len() == header.payload_bytes && fold(sum(message) + pseudo) == 0xffff;
    (is_right && message.len() >= MESSAGE_BYTES).then_some((header, message))
}

fn message4(packet: &[u8]) -> Result<(Header4, &[u8]), Untranslatable> {
    let header = Header4::parse(packet).filter(|header| header.protocol == ICMP4 && header.total_bytes == packet.len());
    let header = header.ok_or(Untranslatable::Malformed)?;
    if header.is_fragment {
        return Err(Untranslatable::Fragment);
    }
    let message = &packet[header.header_bytes..];
    let is_right = message.len() >= MESSAGE_BYTES && fold(sum(message)) == 0xffff;
    if is_right { Ok((header, message)) } else { Err(Untranslatable::Malformed) }
}

fn split(message: &[u8]) -> (Head, &[u8]) {
    ((message[0], message[1], [message[4], message[5], message[6], message[7]]), &message[MESSAGE_BYTES..])
}

/// Appends the message to its packet's header.
fn finish(mut bytes: Vec<u8>, (kind, code, word): Head, contents: &[u8], pseudo: u64) -> Vec<u8> {
    let at = bytes.len();
    bytes.extend_from_slice(&[kind, code, 0, 0]);
    bytes.extend_from_slice(&word);
    bytes.extend_from_slice(contents);
    let checksum = !fold(pseudo + sum(&bytes[at..]));
    bytes[at + 2..at + 4].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// RFC 7915 section 5.2.
fn error_to_ipv4(kind: u8, code: u8, word: [u8; 4]) -> Result<Head, Untranslatable> {
    let none = [0; 4];
    Ok(match (kind, code) {
        (1, 0 | 2 | 3) => (3, 1, none),
        (1, 1) => (3, 10, none),
        (1, 4) => (3, 3, none),
        (2, 0) => {
            let mtu = u32::from_be_bytes(word).saturating_sub(SPARE_BYTES as u32).max(MTU4_MIN);
            let [high, low] = u16::try_from(mtu).unwrap_or(u16::MAX).to_be_bytes();
            (3, 4, [0, 0, high, low])
        }
        (3, _) => (11, code, none),
        (4, 1) => (3, 2, none),
        (4, 0) => {
            let pointer = match u32::from_be_bytes(word) {
                0 => 0,
                1 => 1,
                4 | 5 => 2,
                6 => 9,
                7 => 8,
                8..=23 => 12,
                24..=39 => 16,
                _ => return Err(Untranslatable::Protocol),
            };
            (12, 0, [pointer, 0, 0, 0])
        }
        _ => return Err(Untranslatable::Protocol),
    })
}

/// RFC 7915 section 4.2.
fn error_to_ipv6(kind: u8, code: u8, word: [u8; 4]) -> Result<Head, Untranslatable> {
    let none = [0; 4];
    Ok(match (kind, code) {
        (3, 0 | 1 | 5..=8 | 11 | 12) => (1, 0, none),
        (3, 2) => (4, 1, 6_u32.to_be_bytes()),
        (3, 3) => (1, 4, none),
        (3, 4) => {
            // Old routers do not say it: what IPv6 always can.
            let mtu = u32::from(u16::from_be_bytes([word[2], word[3]])) + SPARE_BYTES as u32;
            (2, 0, mtu.max(MTU_MIN as u32).to_be_bytes())
        }
        (3, 9 | 10 | 13 | 15) => (1, 1, none),
        (11, _) => (3, code, none),
        (12, 0 | 2) => {
            let pointer: u32 = match word[0] {
                0 => 0,
                1 => 1,
                2 | 3 => 4,
                8 => 7,
                9 => 6,
                12..=15 => 8,
                16..=19 => 24,
                _ => return Err(Untranslatable::Protocol),
            };
            (4, 0, pointer.to_be_bytes())
        }
        _ => return Err(Untranslatable::Protocol),
    })
}

/// Translates the beginning of a packet that an error quotes.
fn quoted_to_ipv4(bytes: &[u8], ends: (Ipv4Addr, Ipv4Addr)) -> Result<Vec<u8>, Untranslatable> {
    let header = Header6::parse(bytes).ok_or(Untranslatable::Malformed)?;
    let mut content = bytes[HEADER_BYTES..].to_vec();
    let next = if header.next == ICMP6 { ICMP4 } else { header.next };
    let pseudo = address_sum6(&header) + header.payload_bytes as u64 + u64::from(ICMP6);
    rewrite_quoted(&mut content, header.next, address_sum6(&header), address_sum4(ends), (pseudo, 0))?;
    let new = Header4::new(&header, next, header.payload_bytes, ends).ok_or(Untranslatable::Malformed)?;
    let mut translated = vec![0; HEADER4_BYTES];
    new.write(None, &mut translated);
    translated.append(&mut content);
    Ok(translated)
}

/// The same the other way.
fn quoted_to_ipv6(bytes: &[u8], ends: (Ipv6Addr, Ipv6Addr)) -> Result<Vec<u8>, Untranslatable> {
    let header = Header4::parse(bytes).ok_or(Untranslatable::Malformed)?;
    if header.is_fragment {
        return Err(Untranslatable::Fragment);
    }
    let mut content = bytes[header.header_bytes..].to_vec();
    let next = if header.protocol == ICMP4 { ICMP6 } else { header.protocol };
    let new = Header6::new(&header, next, header.content_bytes(), ends);
    let pseudo = address_sum6(&new) + new.payload_bytes as u64 + u64::from(ICMP6);
    let old = address_sum4((header.source, header.target));
    rewrite_quoted(&mut content, header.protocol, old, address_sum6(&new), (0, pseudo))?;
    let mut translated = vec![0; HEADER_BYTES];
    new.write(&mut translated);
    translated.append(&mut content);
    Ok(translated)
}

/// Rewrites the transport of a quoted packet, as far as it is there. `icmp`: sums over the pseudo headers of ICMP
/// before and after.
fn rewrite_quoted(
    content: &mut [u8],
    protocol: u8,
    from: u64,
    to: u64,
    icmp: (u64, u64),
) -> Result<(), Untranslatable> {
    let (at, from, to) = match protocol {
        TCP => (Transport::Tcp.checksum_at(), from, to),
        UDP => (Transport::Udp.checksum_at(), from, to),
        ICMP4 | ICMP6 => {
            let kinds = if protocol == ICMP4 { (ECHO4, ECHO6) } else { (ECHO6, ECHO4) };
            let kind = content.first().copied().ok_or(Untranslatable::Malformed)?;
            // No error quotes an error.
            let which = kinds.0.iter().position(|echo| *echo == kind).ok_or(Untranslatable::Protocol)?;
            content[0] = kinds.1[which];
            (2, icmp.0 + (u64::from(kind) << 8), icmp.1 + (u64::from(content[0]) << 8))
        }
        44 => return Err(Untranslatable::Fragment),
        _ => return Err(Untranslatable::Protocol),
    };
    let Some(field) = content.get(at..at + 2).map(|field| [field[0], field[1]]) else { return Ok(()) };
    // UDP without a checksum stays without one: it is a quotation only.
    if protocol != UDP || field != [0, 0] {
        let field = moved(field, false, from, to);
        let field = if protocol == UDP { super::stored(field, false, Transport::Udp) } else { field };
        content[at..at + 2].copy_from_slice(&field);
    }
    Ok(())
}
