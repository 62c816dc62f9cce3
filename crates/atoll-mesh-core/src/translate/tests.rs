//! Golden packets, computed by another program, and properties of packets of all kinds.

use proptest::prelude::*;

use super::*;
use crate::offload::{Offload, Super, complete_checksum_at};

/// A name, the packet of IPv6 and that of IPv4, a line each.
const GOLDEN: &str = include_str!("../../tests/golden/translate.hex");

/// A guest and its IPv4 address, and a far host; as in the golden packets.
fn guest() -> (Ipv6Addr, Ipv4Addr) {
    ("fd01:203:405:607:809:a0b:c0d:1".parse().expect("an address"), [240, 17, 64, 1].into())
}

fn far() -> (Ipv6Addr, Ipv4Addr) {
    (embed(Ipv4Addr::new(198, 51, 100, 7)), [198, 51, 100, 7].into())
}

fn ends6() -> (Ipv6Addr, Ipv6Addr) {
    (guest().0, far().0)
}

fn ends4() -> (Ipv4Addr, Ipv4Addr) {
    (guest().1, far().1)
}

fn swapped<T>((a, b): (T, T)) -> (T, T) {
    (b, a)
}

fn to_ipv4(packet: &[u8], identification: Option<u16>) -> Result<Vec<u8>, Untranslatable> {
    if is_icmp6(packet) {
        return icmp_to_ipv4(packet, ends4(), swapped(ends4()), identification);
    }
    let mut whole = packet.to_vec();
    let done = head_to_ipv4(&mut whole, ends4(), false, identification);
    if done.is_err() {
        assert_eq!(whole, packet, "left as it was");
    }
    done.map(|()| whole.split_off(SPARE_BYTES))
}

fn to_ipv6(packet: &[u8]) -> Result<Vec<u8>, Untranslatable> {
    if is_icmp4(packet) {
        return icmp_to_ipv6(packet, ends6(), swapped(ends6()));
    }
    let mut buffer = [&[0xee; SPARE_BYTES], packet].concat();
    let done = head_to_ipv6(&mut buffer, ends6(), false);
    if done.is_err() {
        assert_eq!(buffer[SPARE_BYTES..], *packet, "left as it was");
    }
    done.map(|start| buffer.split_off(start))
}

/// Whether the checksum of a transport is right, computed over everything; its field is at `at` of the transport.
fn is_right(packet: &[u8]) -> bool {
    let (header_bytes, protocol, addresses) = match packet[0] >> 4 {
        6 => (HEADER_BYTES, packet[6], &packet[8..40]),
        _ => (HEADER4_BYTES, packet[9], &packet[12..20]),
    };
    let content = &packet[header_bytes..];
    let pseudo = addresses.iter().enumerate().map(|(at, byte)| u64::from(*byte) << if at % 2 == 0 { 8 } else { 0 });
    let mut total: u64 = pseudo.sum::<u64>() + u64::from(protocol) + content.len() as u64;
    for (at, byte) in content.iter().enumerate() {
        total += u64::from(*byte) << if at % 2 == 0 { 8 } else { 0 };
    }
    total.is_multiple_of(0xffff)
}

fn is_header4_right(packet: &[u8]) -> bool {
    let words = packet[..HEADER4_BYTES].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    words.sum::<u32>().is_multiple_of(0xffff)
}

/// A TCP or UDP packet of the guest to the far host with a complete checksum.
fn packet6(is_tcp: bool, class: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let head: &[u8] = match is_tcp {
        true => &[0x9c, 0x41, 1, 0xbb, 1, 2, 3, 4, 0, 0, 0, 9, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0],
        false => &[0x14, 0xe9, 0, 53, 0, 0, 0, 0],
    };
    let length = head.len() + payload.len();
    let header = Header6 {
        class,
        payload_bytes: length,
        next: if is_tcp { TCP } else { UDP },
        hops,
        source: guest().0,
        target: far().0,
    };
    let mut packet = vec![0; HEADER_BYTES];
    header.write(&mut packet);
    packet.extend_from_slice(head);
    packet.extend_from_slice(payload);
    if !is_tcp {
        packet[44..46].copy_from_slice(&(length as u16).to_be_bytes());
    }
    let pseudo = fold(address_sum6(&header) + length as u64 + u64::from(header.next));
    let offset = if is_tcp { 16 } else { 6 };
    packet[HEADER_BYTES + offset..HEADER_BYTES + offset + 2].copy_from_slice(&pseudo.to_be_bytes());
    complete_checksum_at(&mut packet, HEADER_BYTES, offset);
    packet
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
    (0..hex.len()).step_by(2).map(byte).collect()
}

#[test]
fn golden_packets_are_translated_both_ways() {
    let lines: Vec<&str> = GOLDEN.lines().collect();
    assert_eq!(lines.len() % 3, 0);
    for case in lines.chunks_exact(3) {
        let name = case[0];
        let [ipv6, ipv4] = [case[1], case[2]].map(bytes_of);
        assert_eq!(to_ipv4(&ipv6, Some(0x1234)), Ok(ipv4.clone()), "{name}");
        assert_eq!(to_ipv6(&ipv4), Ok(ipv6), "{name}");
        assert_eq!(addresses4(&ipv4), Some(ends4()), "{name}");
    }
    assert_eq!(lines.len() / 3, 6);
}

#[test]
fn an_ipv4_address_is_the_end_of_an_ipv6_address() {
    // The example of RFC 6052 section 2.4.
    let address: Ipv6Addr = "64:ff9b::192.0.2.33".parse().expect("an address");
    assert_eq!(embed([192, 0, 2, 33].into()), address);
    assert_eq!(embedded(address), Some([192, 0, 2, 33].into()));
    for other in ["64:ff9b:1::c000:221", "64:ff9b::1:c000:221", "::ffff:192.0.2.33", "2001:db8::1"] {
        assert_eq!(embedded(other.parse().expect("an address")), None, "{other}");
    }
}

#[test]
fn what_has_no_form_in_the_other_protocol_is_refused() {
    let udp = packet6(false, 0, 64, b"query");
    let with = |at: usize, byte: u8| {
        let mut packet = udp.clone();
        packet[at] = byte;
        packet
    };
    for (packet, why) in [
        (with(6, 44), Untranslatable::Fragment),
        (with(6, 0), Untranslatable::Protocol),
        (with(6, 132), Untranslatable::Protocol),
        (with(0, 0x50), Untranslatable::Malformed),
        (with(5, 7), Untranslatable::Malformed),
        (udp[..47].to_vec(), Untranslatable::Malformed),
        (vec![], Untranslatable::Malformed),
        (with(6, 58), Untranslatable::Malformed),
    ] {
        assert_eq!(to_ipv4(&packet, None), Err(why));
    }
    let mut without = udp.clone();
    without[46..48].fill(0);
    assert_eq!(to_ipv4(&without, None), Err(Untranslatable::Malformed), "no checksum");

    let ipv4 = to_ipv4(&udp, None).expect("translated");
    let with = |at: usize, byte: u8| {
        let mut packet = ipv4.clone();
        packet[at] = byte;
        packet
    };
    for (packet, why) in [
        (with(6, 0x20), Untranslatable::Fragment),
        (with(7, 1), Untranslatable::Fragment),
        (with(9, 47), Untranslatable::Protocol),
        (with(9, 1), Untranslatable::Malformed),
        (with(0, 0x44), Untranslatable::Malformed),
        (with(0, 0x4f), Untranslatable::Malformed),
        (with(3, 32), Untranslatable::Malformed),
        (ipv4[..27].to_vec(), Untranslatable::Malformed),
        (ipv4[..19].to_vec(), Untranslatable::Malformed),
    ] {
        assert_eq!(to_ipv6(&packet), Err(why), "{packet:?}");
    }
}

#[test]
fn options_are_left_out_and_a_missing_checksum_is_made() {
    let udp = packet6(false, 0, 64, b"query");
    let mut ipv4 = to_ipv4(&udp, None).expect("translated");
    ipv4[26..28].fill(0);
    assert_eq!(to_ipv6(&ipv4), Ok(udp.clone()), "made anew");
    let mut with_options = [&ipv4[..20], &[0x94, 4, 0, 0], &ipv4[20..]].concat();
    (with_options[0], with_options[3]) = (0x46, ipv4[3] + 4);
    assert_eq!(to_ipv6(&with_options), Ok(udp));
}

/// An error of ICMPv6 about a packet to the guest.
fn error6(kind: u8, code: u8, word: u32) -> Vec<u8> {
    let mut quoted = packet6(false, 0, 9, b"query");
    quoted[8..24].copy_from_slice(&far().0.octets());
    quoted[24..40].copy_from_slice(&guest().0.octets());
    let mut packet = vec![0; HEADER_BYTES];
    let payload_bytes = 8 + quoted.len();
    Header6 { class: 0, payload_bytes, next: 58, hops: 64, source: guest().0, target: far().0 }.write(&mut packet);
    packet.extend_from_slice(&[kind, code, 0, 0]);
    packet.extend_from_slice(&word.to_be_bytes());
    packet.extend_from_slice(&quoted);
    let header = Header6::parse(&packet).expect("a header");
    let pseudo = fold(address_sum6(&header) + payload_bytes as u64 + 58);
    packet[42..44].copy_from_slice(&pseudo.to_be_bytes());
    complete_checksum_at(&mut packet, HEADER_BYTES, 2);
    packet
}

#[test]
fn errors_have_the_types_and_codes_of_rfc_7915() {
    // Section 5.2; the word is that behind the checksum.
    for (from, to) in [
        ((1, 0, 0), Some((3, 1, 0))),
        ((1, 1, 0), Some((3, 10, 0))),
        ((1, 2, 0), Some((3, 1, 0))),
        ((1, 3, 0), Some((3, 1, 0))),
        ((1, 4, 0), Some((3, 3, 0))),
        ((1, 5, 0), None),
        ((2, 0, 1500), Some((3, 4, 1480))),
        ((2, 0, 1_000_000), Some((3, 4, 65_535))),
        ((2, 0, 0), Some((3, 4, 68))),
        ((3, 0, 0), Some((11, 0, 0))),
        ((3, 1, 0), Some((11, 1, 0))),
        ((4, 0, 7), Some((12, 0, 8 << 24))),
        ((4, 0, 24), Some((12, 0, 16 << 24))),
        ((4, 0, 2), None),
        ((4, 1, 6), Some((3, 2, 0))),
        ((4, 2, 0), None),
        ((133, 0, 0), None),
    ] {
        let translated = to_ipv4(&error6(from.0, from.1, from.2), None);
        let seen = translated.ok().map(|packet| {
            assert!(is_header4_right(&packet) && is_header4_right(&packet[28..]), "{from:?}");
            assert!(is_right(&packet[28..]), "the quoted packet's checksum");
            assert_eq!(fold(sum(&packet[20..])), 0xffff);
            assert_eq!((addresses4(&packet), quoted_in_icmp4(&packet)), (Some(ends4()), Some(swapped(ends4()))));
            (packet[20], packet[21], u32::from_be_bytes([packet[24], packet[25], packet[26], packet[27]]))
        });
        assert_eq!(seen, to, "{from:?}");
    }
    // Section 4.2, from a message that is right but for type, code and word.
    let base = to_ipv4(&error6(1, 4, 0), None).expect("translated");
    for (from, to) in [
        ((3, 0, 0), Some((1, 0, 0))),
        ((3, 2, 0), Some((4, 1, 6))),
        ((3, 3, 0), Some((1, 4, 0))),
        ((3, 4, 1480), Some((2, 0, 1500))),
        ((3, 4, 0), Some((2, 0, 1280))),
        ((3, 9, 0), Some((1, 1, 0))),
        ((3, 13, 0), Some((1, 1, 0))),
        ((3, 14, 0), None),
        ((4, 0, 0), None),
        ((5, 0, 0), None),
        ((11, 0, 0), Some((3, 0, 0))),
        ((12, 0, 8 << 24), Some((4, 0, 7))),
        ((12, 0, 4 << 24), None),
        ((12, 1, 0), None),
        ((13, 0, 0), None),
    ] {
        let mut packet = base.clone();
        (packet[20], packet[21]) = (from.0, from.1);
        packet[24..28].copy_from_slice(&u32::to_be_bytes(from.2));
        packet[22..24].fill(0);
        let checksum = !fold(sum(&packet[20..]));
        packet[22..24].copy_from_slice(&checksum.to_be_bytes());
        let seen = to_ipv6(&packet).ok().map(|packet| {
            assert!(is_right(&packet) && is_right(&packet[48..]), "{from:?}");
            assert_eq!(quoted_in_icmp6(&packet), Some(swapped(ends6())));
            (packet[40], packet[41], u32::from_be_bytes([packet[44], packet[45], packet[46], packet[47]]))
        });
        assert_eq!(seen, to, "{from:?}");
    }
}

#[test]
fn an_error_is_no_longer_than_its_protocol_lets_it() {
    let mut packet = vec![0; HEADER_BYTES];
    let mut quoted = packet6(true, 0, 9, &[7; 1400]);
    quoted.truncate(1232);
    Header6 { class: 0, payload_bytes: 8 + 1232, next: 58, hops: 64, source: guest().0, target: far().0 }
        .write(&mut packet);
    packet.extend_from_slice(&[1, 4, 0, 0, 0, 0, 0, 0]);
    packet.extend_from_slice(&quoted);
    let pseudo = fold(address_sum6(&Header6::parse(&packet).expect("a header")) + 8 + 1232 + 58);
    packet[42..44].copy_from_slice(&pseudo.to_be_bytes());
    complete_checksum_at(&mut packet, HEADER_BYTES, 2);
    let translated = to_ipv4(&packet, None).expect("translated");
    assert_eq!(translated.len(), 576);
    assert_eq!(fold(sum(&translated[20..])), 0xffff);
    let back = to_ipv6(&translated).expect("translated");
    assert_eq!(back.len(), 616, "both headers grow");
    assert!(is_right(&back));
}

proptest! {
    #[test]
    fn there_and_back_is_the_identity(
        is_tcp: bool,
        class: u8,
        hops: u8,
        identification: Option<u16>,
        payload in prop::collection::vec(any::<u8>(), 0..1400),
    ) {
        let packet = packet6(is_tcp, class, hops, &payload);
        prop_assert!(is_right(&packet));
        let ipv4 = to_ipv4(&packet, identification).expect("translated");
        prop_assert!(is_right(&ipv4) && is_header4_right(&ipv4));
        prop_assert_eq!(ipv4[6] & 0x40 != 0, identification.is_none());
        prop_assert_eq!(to_ipv6(&ipv4), Ok(packet));
    }

    #[test]
    fn a_wrong_checksum_stays_wrong(
        is_tcp: bool,
        payload in prop::collection::vec(any::<u8>(), 1..100),
        bit in 0_u8..8,
    ) {
        let mut packet = packet6(is_tcp, 0, 64, &payload);
        let last = packet.len() - 1;
        packet[last] ^= 1 << bit;
        prop_assert!(!is_right(&to_ipv4(&packet, None).expect("translated")));
    }

    #[test]
    fn a_super_packet_is_translated_as_a_whole(
        is_tcp: bool,
        payload in prop::collection::vec(any::<u8>(), 1..20_000),
        segment in 400u16..1400,
    ) {
        let offset = if is_tcp { 16 } else { 6 };
        let mut whole = packet6(is_tcp, 0, 64, &payload);
        let length = (whole.len() - HEADER_BYTES) as u64;
        let header = Header6::parse(&whole).expect("a header");
        let partial = fold(address_sum6(&header) + length + u64::from(header.next));
        whole[HEADER_BYTES + offset..HEADER_BYTES + offset + 2].copy_from_slice(&partial.to_be_bytes());
        let original = whole.clone();
        // Only the headers are there when it leaves the mesh.
        let (_, header_bytes) = headers(&whole).expect("headers");
        prop_assert_eq!(head_to_ipv4(&mut whole[..header_bytes], ends4(), true, None), Ok(()));
        let mut complete = whole[SPARE_BYTES..].to_vec();
        complete_checksum_at(&mut complete, HEADER4_BYTES, offset);
        prop_assert!(is_right(&complete) && is_header4_right(&complete));
        // And back: what is split then is right too.
        prop_assert_eq!(head_to_ipv6(&mut whole, ends6(), true), Ok(0));
        prop_assert_eq!(&whole, &original);
        let parts = Super::new(&whole, Offload { segment_bytes: segment, partial_checksum: true }).expect("splittable");
        for number in 0..parts.count() {
            let mut part = vec![0; parts.length(number)];
            parts.write(number, &mut part);
            complete_checksum_at(&mut part, HEADER_BYTES, offset);
            prop_assert!(is_right(&part));
        }
    }

    #[test]
    fn echoes_come_back_as_they_were(
        is_reply: bool,
        word: u32,
        payload in prop::collection::vec(any::<u8>(), 0..1400),
    ) {
        let mut packet = vec![0; HEADER_BYTES];
        let payload_bytes = 8 + payload.len();
        let header = Header6 { class: 0, payload_bytes, next: 58, hops: 64, source: guest().0, target: far().0 };
        header.write(&mut packet);
        packet.extend_from_slice(&[if is_reply { 129 } else { 128 }, 0, 0, 0]);
        packet.extend_from_slice(&word.to_be_bytes());
        packet.extend_from_slice(&payload);
        let pseudo = address_sum6(&header) + payload_bytes as u64 + 58;
        let checksum = !fold(pseudo + sum(&packet[HEADER_BYTES..]));
        packet[42..44].copy_from_slice(&checksum.to_be_bytes());
        let ipv4 = to_ipv4(&packet, None).expect("translated");
        prop_assert_eq!(ipv4[20], if is_reply { 0 } else { 8 });
        prop_assert_eq!(fold(sum(&ipv4[20..])), 0xffff);
        prop_assert_eq!(to_ipv6(&ipv4), Ok(packet.clone()));
        packet[45] ^= 1;
        prop_assert_eq!(to_ipv4(&packet, None), Err(Untranslatable::Malformed));
    }
}
