//! Translation between IPv6 and IPv4: raw packets of either, perhaps with a partial checksum (the last bit).

use std::net::{Ipv4Addr, Ipv6Addr};

use atoll_mesh_core::{
    packet_addresses,
    translate::{
        HEADER4_BYTES, SPARE_BYTES, Untranslatable, addresses4, embed, head_to_ipv4, head_to_ipv6, icmp_to_ipv4,
        icmp_to_ipv6,
    },
};

const GUEST4: Ipv4Addr = Ipv4Addr::new(240, 17, 64, 1);
const GUEST6: Ipv6Addr = Ipv6Addr::new(0xfd01, 0x203, 0x405, 0x607, 0x809, 0xa0b, 0xc0d, 1);
const FAR4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// Checks one input.
pub(crate) fn check(data: &[u8]) {
    let partial = data.last().is_some_and(|byte| byte & 1 == 1);
    let far = embed(FAR4);
    if packet_addresses(data).is_some() {
        let mut head = data.to_vec();
        match head_to_ipv4(&mut head, (GUEST4, FAR4), partial, None) {
            Ok(()) => {
                let packet = &head[SPARE_BYTES..];
                assert_eq!(addresses4(packet), Some((GUEST4, FAR4)));
                assert_eq!(head.len(), data.len());
                let mut back = head.clone();
                assert_eq!(head_to_ipv6(&mut back, (GUEST6, far), partial), Ok(0));
                // Addresses, the flow label and the checksum that follows from them are others; nothing else.
                assert_eq!((&back[4..8], &back[58.min(back.len())..]), (&data[4..8], &data[58.min(data.len())..]));
            }
            Err(_) => assert_eq!(head, data),
        }
        if let Ok(packet) = icmp_to_ipv4(data, (GUEST4, FAR4), (FAR4, GUEST4), Some(7)) {
            assert_eq!(addresses4(&packet), Some((GUEST4, FAR4)));
            assert!(packet.len() < data.len());
            assert!(icmp_to_ipv6(&packet, (GUEST6, far), (far, GUEST6)).is_ok());
        }
        return;
    }
    let mut buffer = [&[0; SPARE_BYTES], data].concat();
    match head_to_ipv6(&mut buffer, (far, GUEST6), partial) {
        Ok(start) => {
            assert_eq!(packet_addresses(&buffer[start..]), Some((far, GUEST6)));
            assert!(addresses4(data).is_some());
        }
        Err(why) => {
            assert_eq!(buffer[SPARE_BYTES..], *data);
            assert!(data.len() >= HEADER4_BYTES || why == Untranslatable::Malformed);
        }
    }
    if let Ok(packet) = icmp_to_ipv6(data, (far, GUEST6), (GUEST6, far)) {
        assert_eq!(packet_addresses(&packet), Some((far, GUEST6)));
        assert!(packet.len() <= 1280 || data[20] == 0 || data[20] == 8 || data[0] != 0x45);
        assert!(icmp_to_ipv4(&packet, (FAR4, GUEST4), (GUEST4, FAR4), None).is_ok());
    }
}
