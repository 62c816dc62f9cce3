//! IPv4 over an exit: node 0 is a guest, node 1 its exit.

use super::*;
use crate::{
    exit::{Guests, Offer, pool_of},
    packet,
    translate::{SPARE_BYTES, addresses4, embed, icmp_to_ipv4, quoted_in_icmp6},
};

const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const NONE: [Vec<u8>; 0] = [];

/// A UDP packet with a checksum that is good for the translator: it may be any but zero.
fn datagram(source: Ipv6Addr, target: Ipv6Addr, hops: u8) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 12, 17, hops];
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&target.octets());
    packet.extend_from_slice(&[0x12, 0x34, 0, 53, 0, 12, 0xab, 0xcd, 1, 2, 3, 4]);
    packet
}

fn with_exit() -> Pair {
    let mut pair = Pair::new();
    let id = |seed| NodeSecret::from_seed([seed; 32]).id();
    pair.nodes[0].use_exit(Some(id(2)));
    pair.nodes[1].set_exit_offer(Some(Offer { guests: Guests::Nodes([id(1)].into()), to: Vec::new() }));
    pair.nodes[1].set_exit_addresses(&[([203, 0, 113, 2].into(), 24)]);
    pair
}

/// The guest's first address at the exit.
fn address(pair: &Pair) -> Ipv4Addr {
    (u32::from(pool_of(pair.nodes[1].network)) + 1).into()
}

/// What comes out at the guest after the exit's machine sent an IPv4 packet to it.
fn come_back(pair: &mut Pair, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut buffer = [&[0; SPARE_BYTES], packet].concat();
    if let Some((guest, start)) = pair.nodes[1].packet_to_ipv6(&mut buffer, false, pair.now) {
        pair.nodes[1].handle_packet_to(guest, &buffer[start..], false, pair.now);
    }
    pair.run(Duration::from_millis(10));
    core::mem::take(&mut pair.out[0])
}

/// The answer to an IPv4 packet: as far as it counts here.
fn answer(packet: &[u8], from: Ipv4Addr) -> Vec<u8> {
    let mut answer = packet.to_vec();
    answer[12..16].copy_from_slice(&from.octets());
    answer[16..20].copy_from_slice(&packet[12..16]);
    answer
}

#[test]
fn a_guest_talks_to_ipv4_under_an_address_of_its_own() {
    let mut pair = with_exit();
    let guest = pair.nodes[0].network.node();
    let packet = datagram(guest, embed(FAR), 64);
    assert_eq!(pair.exchange(0, &packet), core::slice::from_ref(&packet));
    let ipv4 = pair.nodes[1].packet_to_ipv4(&packet, pair.now).expect("translated");
    assert_eq!(addresses4(&ipv4), Some((address(&pair), FAR)));

    let back = come_back(&mut pair, &answer(&ipv4, FAR));
    assert_eq!(back, [datagram(embed(FAR), guest, 64)], "the sum of the addresses is the same both ways");
    // Also by the fast way, and with a hop limit that the mesh takes a note of.
    assert!(pair.nodes[1].sealer_to(pair.nodes[0].network, &back[0], 60, pair.now).is_some());
    let ipv4 = pair.nodes[1].packet_to_ipv4(&datagram(guest, embed(FAR), 3), pair.now).expect("translated");
    assert_eq!(come_back(&mut pair, &answer(&ipv4, FAR)).len(), 1);

    // From a private network, to nobody's address, without being IPv4, or to a node that is no exit.
    let counters = pair.nodes[1].counters.clone();
    assert_eq!(come_back(&mut pair, &answer(&ipv4, [10, 0, 0, 1].into())), NONE);
    let mut other = answer(&ipv4, FAR);
    other[19] += 1;
    assert_eq!(come_back(&mut pair, &other), NONE);
    assert_eq!(pair.nodes[1].counters.dropped_wrong_address, counters.dropped_wrong_address + 2);
    assert_eq!(come_back(&mut pair, &other[..27]), NONE);
    assert_eq!(pair.nodes[1].counters.dropped_not_ipv6, counters.dropped_not_ipv6 + 1);
    // An IPv6 packet with such a source does not come from the translator.
    let forged = datagram(embed(FAR), guest, 64);
    assert_eq!(pair.exchange(1, &forged), NONE);
    pair.nodes[1].set_exit_offer(None);
    assert_eq!(come_back(&mut pair, &answer(&ipv4, FAR)), NONE);
}

#[test]
fn what_an_exit_does_not_let_out_is_answered() {
    let mut pair = with_exit();
    let own = pair.nodes[0].network;
    for (target, code) in [([10, 0, 0, 1], 1), ([203, 0, 113, 9], 1), ([127, 0, 0, 1], 1)] {
        pair.nodes[0].handle_packet(&datagram(own.node(), embed(target.into()), 64), false, pair.now);
        pair.run(Duration::from_millis(10));
        assert_eq!(pair.out[1], NONE);
        let said = core::mem::take(&mut pair.out[0]);
        assert_eq!((said[0][6], &said[0][40..42]), (58, &[1, code][..]), "administratively prohibited");
        assert_eq!(quoted_in_icmp6(&said[0]), Some((own.node(), embed(target.into()))));
    }
    // A workload's packet is not even answered: its node should not have sent it.
    let other = pair.nodes[1].network;
    pair.nodes[0].send_sealed(other, &datagram(own.host(5), embed(FAR), 64), false, pair.now);
    pair.run(Duration::from_millis(10));
    assert_eq!((&pair.out[0], &pair.out[1]), (&NONE.to_vec(), &NONE.to_vec()));
    pair.nodes[1].set_exit_addresses(&[]);
    pair.nodes[0].handle_packet(&datagram(own.node(), embed(FAR), 64), false, pair.now);
    pair.run(Duration::from_millis(10));
    assert_eq!(pair.out[0][0][40..42], [1, 0], "no route: the exit has no IPv4");
}

#[test]
fn errors_find_their_way_in_both_directions() {
    let mut pair = with_exit();
    let (guest, exit) = (pair.nodes[0].network.node(), pair.nodes[1].network.node());
    let packet = datagram(guest, embed(FAR), 64);
    let ipv4 = pair.nodes[1].packet_to_ipv4(&packet, pair.now).expect("translated");
    let own = address(&pair);
    // A router says something of the guest's packet; one with a private address speaks as the exit.
    for (router, seen) in
        [([192, 0, 2, 1], embed([192, 0, 2, 1].into())), ([192, 168, 1, 1], exit), ([0, 0, 0, 0], exit)]
    {
        let told = packet::time_exceeded(exit, guest, &packet);
        let error = icmp_to_ipv4(&told, (router.into(), own), (own, FAR), None).expect("translated");
        let back = come_back(&mut pair, &error);
        assert_eq!(back.len(), 1, "{router:?}");
        assert_eq!(packet::addresses(&back[0]), Some((seen, guest)));
        assert_eq!((back[0][40], quoted_in_icmp6(&back[0])), (3, Some((guest, embed(FAR)))));
        // About somebody else's packet.
        let other = icmp_to_ipv4(&told, (router.into(), own), (FAR, FAR), None).expect("translated");
        assert_eq!(come_back(&mut pair, &other), NONE);
    }

    // The mesh is too narrow for an answer: its sender is told, under the guest's address.
    let mut large = answer(&ipv4, FAR);
    large.resize(LARGEST + 1 - SPARE_BYTES, 0);
    large[2..4].copy_from_slice(&((LARGEST + 1 - SPARE_BYTES) as u16).to_be_bytes());
    assert_eq!(come_back(&mut pair, &large), NONE);
    let told = pair.nodes[1].poll_packet().expect("an error");
    assert_eq!(addresses4(&told), Some((own, FAR)));
    assert_eq!((&told[20..22], &told[26..28]), (&[3, 4][..], &((LARGEST - SPARE_BYTES) as u16).to_be_bytes()[..]));

    // The guest may say something of what it got, and nothing of what others got.
    let answer = datagram(embed(FAR), guest, 64);
    for (about, passes) in [(answer, true), (datagram(embed(FAR), exit, 64), false)] {
        let error = packet::refusal(guest, &about, packet::Refusal::Port).expect("an error is due");
        assert_eq!(pair.nodes[1].packet_to_ipv4(&error, pair.now).is_some(), passes);
    }
}
