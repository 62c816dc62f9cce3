//! Packets of a network stack that are split, and packets of a peer that are put together: whatever their headers say,
//! no byte of payload is lost, added or moved.

use atoll_mesh_core::offload::{
    Merger, Offload, SEGMENTS_MAX, Super, complete_checksum, complete_checksum_at, headers,
};

/// Checks one input: `flags 1 | segment bytes 2 | start 2 | offset 2 | length 2 | packet | packets of a peer`.
pub(crate) fn check(data: &[u8]) {
    let Some((head, rest)) = data.split_first_chunk::<9>() else { return };
    let [flags, a, b, c, d, e, f, g, h] = *head;
    let (segment_bytes, cut) = (u16::from_be_bytes([a, b]), usize::from(u16::from_be_bytes([g, h])).min(rest.len()));
    let (packet, peer) = rest.split_at(cut);
    let offload = Offload { segment_bytes, partial_checksum: flags & 1 == 1 };
    if let Ok(whole) = Super::new(packet, offload) {
        let parts = split(&whole);
        check_parts(packet, &parts, offload);
        merge(&parts);
    }
    // A peer may send what it likes, each packet as long as it likes.
    let pieces: Vec<_> = peer.chunks(usize::from(flags).max(40)).map(<[u8]>::to_vec).collect();
    merge(&pieces);
    let mut altered = packet.to_vec();
    complete_checksum(&mut altered);
    complete_checksum_at(
        &mut altered,
        usize::from(u16::from_be_bytes([c, d])),
        usize::from(u16::from_be_bytes([e, f])),
    );
    assert_eq!(altered.len(), packet.len());
}

fn split(whole: &Super<'_>) -> Vec<Vec<u8>> {
    let write = |number| {
        let mut buffer = vec![0; whole.length(number)];
        whole.write(number, &mut buffer);
        buffer
    };
    (0..whole.count()).map(write).collect()
}

fn check_parts(packet: &[u8], parts: &[Vec<u8>], offload: Offload) {
    assert!((1..=SEGMENTS_MAX).contains(&parts.len()));
    if offload.segment_bytes == 0 {
        return assert_eq!(parts, [packet]);
    }
    let (_, at) = headers(packet).expect("it was split");
    let payload: Vec<u8> = parts.iter().flat_map(|part| part[at..].iter().copied()).collect();
    assert_eq!(payload, packet[at..]);
    let (last, others) = parts.split_last().expect("at least one");
    assert!(others.iter().all(|part| part.len() == at + usize::from(offload.segment_bytes)));
    assert!(last.len() <= at + usize::from(offload.segment_bytes));
}

/// Puts packets together as they come in; each row is split into what it was made of.
fn merge(packets: &[Vec<u8>]) {
    let mut left = packets.iter().peekable();
    while let Some(first) = left.next() {
        let Some(mut merger) = Merger::begin(first) else { continue };
        let (_, at) = headers(first).expect("it began a row");
        let (mut payload, mut lengths) = (first[at..].to_vec(), vec![first.len()]);
        while let Some(next) = left.peek() {
            let Some(range) = merger.append(next) else { break };
            assert_eq!(range, at..next.len());
            payload.extend_from_slice(&next[range]);
            lengths.push(next.len());
            left.next();
        }
        let (head, transport, offload) = merger.finish();
        let super_packet = [head, &payload].concat();
        // Only what would fit an IPv6 packet is put together; a single one stays what it was.
        assert!(lengths.len() == 1 || super_packet.len() <= 40 + 0xffff);
        let whole = Super::new(&super_packet, offload).expect("a row can be split");
        assert_eq!(headers(&super_packet).map(|(found, _)| found), Some(transport));
        assert_eq!(split(&whole).iter().map(Vec::len).collect::<Vec<_>>(), lengths);
    }
}
