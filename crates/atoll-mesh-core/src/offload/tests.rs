use proptest::prelude::*;

use super::*;

/// A packet with a partial checksum: IPv6, TCP with `options` or UDP, `payload`.
fn packet(transport: Transport, options: usize, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, transport.number(), 64];
    packet.extend((0..32).map(|byte| byte as u8 ^ 0xfd));
    match transport {
        Transport::Tcp => {
            packet.extend_from_slice(&[0x1f, 0x90, 0xc0, 0x01, 0xff, 0xff, 0xfe, 0x00, 0, 0, 0, 9]);
            packet.push(((5 + options / 4) << 4) as u8);
            packet.push(0x10 | TCP_PSH | TCP_FIN | TCP_CWR);
            packet.extend_from_slice(&[1, 2, 0, 0, 0, 0]);
            packet.resize(packet.len() + options, 1);
        }
        Transport::Udp => packet.extend_from_slice(&[0x1f, 0x90, 0xc0, 0x01, 0, 0, 0, 0]),
    }
    let head = packet.len();
    packet.extend_from_slice(payload);
    let length = packet.len() - HEADER_BYTES;
    set_length(&mut packet[..head], transport, length);
    packet
}

fn split(packet: &[u8], offload: Offload) -> Vec<Vec<u8>> {
    let whole = Super::new(packet, offload).expect("can be split");
    (0..whole.count())
        .map(|number| {
            let mut buffer = vec![0; whole.length(number)];
            whole.write(number, &mut buffer);
            buffer
        })
        .collect()
}

/// The checksum as any receiver checks it: zero when right (RFC 1071).
fn residue(packet: &[u8]) -> u16 {
    let (transport, _) = headers(packet).expect("has headers");
    let length = u16::try_from(packet.len() - HEADER_BYTES).expect("fits");
    let words = packet[HEADER_BYTES..].chunks(2);
    let body: u32 = words.map(|p| u32::from(u16::from_be_bytes([p[0], *p.get(1).unwrap_or(&0)]))).sum();
    !fold(body + u32::from(pseudo_sum(packet, transport.number(), length)))
}

proptest! {
    #[test]
    fn a_super_packet_that_is_split_and_merged_is_what_it_was(
        is_tcp: bool,
        options in 0usize..=10,
        payload in prop::collection::vec(any::<u8>(), 1..9000),
        segment in 200u16..1400,
    ) {
        let transport = if is_tcp { Transport::Tcp } else { Transport::Udp };
        let whole = packet(transport, options * 4, &payload);
        let offload = Offload { segment_bytes: segment, partial_checksum: true };
        let parts = split(&whole, offload);
        let mut merger = Merger::begin(&parts[0]).expect("begins a row");
        let (_, head) = headers(&parts[0]).expect("has headers");
        let mut merged = parts[0][head..].to_vec();
        for part in &parts[1..] {
            let payload = merger.append(part).expect("continues the row");
            merged.extend_from_slice(&part[payload]);
        }
        let count = parts.len();
        let (head, as_transport, as_offload) = merger.finish();
        prop_assert_eq!(as_transport, transport);
        prop_assert_eq!(as_offload.segment_bytes, if count > 1 { segment } else { 0 });
        let merged = [head, &merged].concat();
        prop_assert_eq!(merged, whole);
    }

    #[test]
    fn each_part_is_a_right_packet_of_its_own(
        is_tcp: bool, payload in prop::collection::vec(any::<u8>(), 1..4000), segment in 100u16..1400,
    ) {
        let transport = if is_tcp { Transport::Tcp } else { Transport::Udp };
        let whole = packet(transport, 12, &payload);
        for mut part in split(&whole, Offload { segment_bytes: segment, partial_checksum: true }) {
            prop_assert!(crate::packet::addresses(&part).is_some(), "the length is right");
            complete_checksum(&mut part);
            prop_assert_eq!(residue(&part), 0);
        }
    }

    #[test]
    fn what_a_peer_sends_never_panics(
        mut bytes in prop::collection::vec(any::<u8>(), 40..200),
        other in prop::collection::vec(any::<u8>(), 40..200),
        is_tcp: bool, segment: u16, partial_checksum: bool,
    ) {
        bytes[6] = if is_tcp { TCP } else { UDP };
        if let Some(mut merger) = Merger::begin(&bytes) {
            merger.append(&other);
            merger.append(&bytes);
            merger.finish();
        }
        if let Ok(whole) = Super::new(&bytes, Offload { segment_bytes: segment, partial_checksum }) {
            for number in 0..whole.count() {
                whole.write(number, &mut vec![0; whole.length(number)]);
            }
        }
        complete_checksum(&mut bytes);
    }
}

#[test]
fn only_what_continues_a_row_is_merged() {
    let whole = packet(Transport::Tcp, 0, &[7; 3000]);
    let parts = split(&whole, Offload { segment_bytes: 1000, partial_checksum: true });
    assert_eq!(parts.len(), 3);
    let fresh = || Merger::begin(&parts[0]).expect("begins a row");
    assert!(fresh().append(&parts[1]).is_some());
    assert!(fresh().append(&parts[2]).is_none(), "one is missing between");
    let mut other_port = parts[1].clone();
    other_port[HEADER_BYTES] ^= 1;
    assert!(fresh().append(&other_port).is_none(), "another flow");
    let mut marked = parts[1].clone();
    marked[1] |= 0x30;
    assert!(fresh().append(&marked).is_none(), "a mark of one packet is neither lost nor spread");
    let mut short = fresh();
    let mut shorter = parts[1].clone();
    shorter.truncate(shorter.len() - 10);
    assert!(short.append(&shorter).is_some() && short.append(&parts[2]).is_none(), "a short one ends the row");
    let longer = packet(Transport::Tcp, 0, &[7; 1001]);
    assert!(fresh().append(&longer).is_none());
}

#[test]
fn flags_that_may_stand_only_once_do() {
    let whole = packet(Transport::Tcp, 0, &[7; 3000]);
    let parts = split(&whole, Offload { segment_bytes: 1000, partial_checksum: true });
    let flags: Vec<_> = parts.iter().map(|part| part[HEADER_BYTES + 13] & (TCP_FIN | TCP_PSH | TCP_CWR)).collect();
    assert_eq!(flags, [TCP_CWR, 0, TCP_FIN | TCP_PSH]);
}

#[test]
fn nonsense_of_the_stack_is_refused() {
    let tcp = packet(Transport::Tcp, 0, &[1; 500]);
    let offload = |segment_bytes, partial_checksum| Offload { segment_bytes, partial_checksum };
    Super::new(&tcp, offload(5, true)).expect_err("a hundred packets");
    Super::new(&tcp, offload(100, false)).expect_err("segmentation without a partial checksum");
    let mut icmp = tcp.clone();
    icmp[6] = 58;
    Super::new(&icmp, offload(100, true)).expect_err("neither TCP nor UDP");
    Super::new(&icmp, offload(0, true)).expect_err("a checksum in a place that is not known");
    assert_eq!(Super::new(&icmp, offload(0, false)).expect("an ordinary packet").count(), 1);
}
