//! Packets of ordinary routers on a plain interface, one after the other: tables stay within their bounds, only what is
//! accepted is learned, and whatever the router sends can be read.

use core::time::Duration;
use std::{collections::BTreeSet, net::Ipv6Addr};

use atoll_base::{MeshAddr, NodeId, RegionId};
use atoll_mesh_core::{
    Time,
    babel::{Prefix, decode},
    limits::{PLAIN_NEIGHBOURS_MAX, PLAIN_TRANSMITS_MAX},
    plain::{PlainAnnounce, PlainInterface, PlainRouter, PlainSettings},
};

/// Checks one input: pieces of `from 1 | pause 1 | length 1 | body of a packet`.
pub(crate) fn check(data: &[u8]) {
    let network = MeshAddr::of(RegionId([7; 32]), NodeId([1; 32]));
    let mut now = Time::ZERO;
    let mut router = PlainRouter::new(PlainSettings { router_id: [1; 8], seqno: 7, network }, now);
    let accepted = Prefix::new(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 0), 16).expect("short enough");
    let own = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xffff);
    for (index, announce) in [(1, PlainAnnounce::Nodes), (2, PlainAnnounce::Region)] {
        let interface = PlainInterface { addresses: BTreeSet::from([own]), announce, accept: vec![accepted] };
        router.set_interface(index, interface, now);
    }
    let mut left = data;
    while let Some(([from, pause, length], rest)) = left.split_first_chunk::<3>() {
        let (body, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        left = rest;
        let address = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, u16::from(from >> 1));
        let packet = [&[42, 2, 0, body.len() as u8], body].concat();
        router.handle_packet(1 + u32::from(from & 1), address, &packet, now);
        drain(&mut router);
        now = now + Duration::from_millis(u64::from(*pause) * 50);
        if router.deadline().is_some_and(|deadline| deadline <= now) {
            router.handle_timeout(now);
            drain(&mut router);
        }
        assert!(router.neighbours().count() <= PLAIN_NEIGHBOURS_MAX);
        assert!(router.routes().all(|(prefix, _)| accepted.covers(prefix)));
    }
    router.stop();
    drain(&mut router);
}

fn drain(router: &mut PlainRouter) {
    let mut count = 0;
    while let Some(transmit) = router.poll_transmit() {
        assert!(decode(&transmit.data).is_ok_and(|tlvs| !tlvs.is_empty()), "{transmit:?}");
        count += 1;
    }
    assert!(count <= PLAIN_TRANSMITS_MAX);
}
