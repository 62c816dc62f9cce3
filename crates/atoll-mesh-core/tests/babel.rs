//! Babel packets: golden vectors, round trips, and a decoder that survives anything.

use std::{net::Ipv6Addr, path::Path as FilePath};

use atoll_base::{NodeSecret, RegionId};
use atoll_mesh_core::{
    Announcement, Grant,
    babel::{
        Ack, AckRequest, BabelError, Batch, Echo, GrantBytes, Hello, INFINITY, Ihu, LinkState, Origin, Path, Prefix,
        SeqnoRequest, Tlv, Update, Writer, decode,
    },
    limits::{CONTROL_BYTES_MAX, TLVS_MAX},
};
use proptest::prelude::*;

const REGION: RegionId = RegionId([7; 32]);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let text: String = text.split_whitespace().collect();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal")).collect()
}

fn prefix(address: &str, length: u8) -> Prefix {
    Prefix::new(address.parse().expect("an address"), length).expect("short enough")
}

fn update(prefix: Prefix, router_id: [u8; 8], seqno: u16, metric: u16) -> Update {
    let (prefix, router_id) = (Some(prefix), (metric != INFINITY).then_some(router_id));
    Update { prefix, router_id, interval_cs: 400, seqno, metric, origin: None, grant: None, path: None }
}

fn packet(tlvs: &[Tlv]) -> Vec<u8> {
    let mut writer = Writer::default();
    for tlv in tlvs {
        assert!(writer.push(tlv));
    }
    writer.finish()
}

/// Every message, with every part of Atoll's own. Changing these bytes breaks every node that runs.
fn all() -> Vec<Tlv> {
    let secret = NodeSecret::from_seed([1; 32]);
    let grant = Grant::sign(&NodeSecret::from_seed([2; 32]), REGION, secret.id(), 1_900_000_000_000);
    let node = Announcement::sign(&secret, REGION, 0x0001_0203_0405_0607, false);
    let region = Announcement::sign_region(&secret, grant, 0x0001_0203_0405_0607, false);
    let carried = |word: &Announcement, grant: Option<&Grant>, prefix| {
        let origin = Origin {
            node: word.node.0,
            epoch: word.seqno >> 16,
            is_retraction: word.is_retraction,
            signature: word.signature,
        };
        let grant = grant.map(|g| GrantBytes { region: g.region.0, expiry_ms: g.expiry_ms, signature: g.signature });
        let path = Some(Path { mtu: 1446, hops: 2 });
        let base = update(prefix, [1, 2, 3, 4, 5, 6, 7, 8], 0x0607, 192);
        Tlv::Update(Box::new(Update { origin: Some(origin), grant, path, ..base }))
    };
    vec![
        Tlv::AckRequest(AckRequest {
            opaque: 6,
            interval_cs: 10,
            batch: Some(Batch { generation: 5, number: 0x0001_0006 }),
        }),
        Tlv::Ack(Ack { opaque: 6, number: Some(0x0001_0006) }),
        Tlv::Hello(Hello {
            is_unicast: true,
            seqno: 9,
            interval_cs: 0,
            timestamp_us: Some(0x0a0b_0c0d),
            link: Some(LinkState { is_probe: true, generation: 5, capacity: 17 }),
            grant: None,
        }),
        Tlv::Ihu(Ihu {
            address: None,
            rxcost: 96,
            interval_cs: 1000,
            echo: Some(Echo { origin_us: 0x0102_0304, receive_us: 0x0506_0708 }),
        }),
        carried(&node, None, prefix("fd07:707:707:1122:3344:5566:7788:0", 112)),
        carried(&region, Some(&grant), prefix("fd07:707:707::", 48)),
        Tlv::Update(Box::new(update(prefix("fd07:707:707:1122::", 112), [0; 8], 7, INFINITY))),
        Tlv::RouteRequest(None),
        Tlv::RouteRequest(Some(prefix("fd07:707:707::", 48))),
        Tlv::SeqnoRequest(SeqnoRequest {
            prefix: prefix("fd07:707:707:1122:3344:5566:7788:0", 112),
            router_id: [1, 2, 3, 4, 5, 6, 7, 8],
            seqno: 0x0607,
            epoch: Some(0x0001_0203_0405),
            hop_count: 64,
        }),
    ]
}

#[test]
fn golden_packet() {
    let bytes = packet(&all());
    let path = FilePath::new("tests/golden/babel.hex");
    if std::env::var_os("ATOLL_GOLDEN").is_some_and(|value| value == "write") {
        std::fs::write(path, format!("{}\n", hex(&bytes))).expect("the folder is there");
    }
    let expected = std::fs::read_to_string(path).expect("the file is committed");
    assert_eq!(hex(&bytes), expected.trim());
    assert_eq!(decode(&bytes), Ok(all()));
}

/// Decodes a body that was written by hand from RFC 8966 sections 4.6 and 4.7 and RFC 9616 section 4.
fn body(text: &str) -> Result<Vec<Tlv>, BabelError> {
    let body = unhex(text);
    let mut bytes = vec![42, 2];
    bytes.extend_from_slice(&(body.len() as u16).to_be_bytes());
    bytes.extend_from_slice(&body);
    decode(&bytes)
}

#[test]
fn each_tlv_of_the_rfcs_is_understood() {
    let hello = |seqno, timestamp_us| {
        Tlv::Hello(Hello { is_unicast: false, seqno, interval_cs: 400, timestamp_us, link: None, grant: None })
    };
    assert_eq!(body("00 01020000 0406 0000 0102 0190"), Ok(vec![hello(0x102, None)]));
    assert_eq!(body("040c 0000 0103 0190 0304 00000007"), Ok(vec![hello(0x103, Some(7))]));
    let ihu = |address: &str, echo| {
        let address = Some(address.parse().expect("an address"));
        Tlv::Ihu(Ihu { address, rxcost: 96, interval_cs: 1200, echo })
    };
    assert_eq!(
        body("0518 0300 0060 04b0 0000000000000001 0308 00000001 00000002"),
        Ok(vec![ihu("fe80::1", Some(Echo { origin_us: 1, receive_us: 2 }))])
    );
    assert_eq!(body("0516 0200 0060 04b0 20010db8000000000000000000000001"), Ok(vec![ihu("2001:db8::1", None)]));
    assert_eq!(body("050a 0100 0060 04b0 0a000001"), Ok(vec![]), "IPv4 is not for us");
    assert_eq!(
        body("020600000007000a"),
        Ok(vec![Tlv::AckRequest(AckRequest { opaque: 7, interval_cs: 10, batch: None })])
    );
    assert_eq!(body("03020007"), Ok(vec![Tlv::Ack(Ack { opaque: 7, number: None })]));
    assert_eq!(body("09020000"), Ok(vec![Tlv::RouteRequest(None)]));
    let request = SeqnoRequest {
        prefix: prefix("2001:db8:0:1::", 64),
        router_id: [0x11; 8],
        seqno: 5,
        epoch: None,
        hop_count: 3,
    };
    assert_eq!(body("0a16 02 40 0005 03 00 1111111111111111 20010db800000001"), Ok(vec![Tlv::SeqnoRequest(request)]));
    assert_eq!(body("c803 010203"), Ok(vec![]), "an unknown TLV is skipped");
}

#[test]
fn updates_are_resolved_as_the_rfc_says() {
    let route = |address: &str, length, router_id, seqno| {
        Tlv::Update(Box::new(update(prefix(address, length), router_id, seqno, 256)))
    };
    let id = "060a 0000 1122334455667788";
    let known = [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88];
    assert_eq!(
        body(&format!(
            "{id} 0712 0200 20010db8000000000000000000000009
             0812 02 80 40 00 0190 0001 0100 20010db800000001
             080c 02 00 40 06 0190 0002 0100 0002
             081a 02 c0 80 00 0190 0003 0100 20010db8000000000000000000000001
             080a 02 00 00 00 0190 0004 0100
             080d 01 80 18 00 0190 0005 0100 0a0001
             080b 01 00 18 02 0190 0006 0100 07
             0812 02 00 40 08 0190 0007 0100 f006 aabbccddeeff
             080c 02 00 40 08 0190 0008 0100 0b00"
        )),
        Ok(vec![
            Tlv::NextHop("2001:db8::9".parse().expect("an address")),
            route("2001:db8:0:1::", 64, known, 1),
            route("2001:db8:0:2::", 64, known, 2),
            route("2001:db8::1", 128, [0, 0, 0, 0, 0, 0, 0, 1], 3),
            route("::", 0, [0, 0, 0, 0, 0, 0, 0, 1], 4),
            // IPv4 is skipped, and so is what has a mandatory part that is not known (an optional one does not matter).
            route("2001:db8::", 64, [0, 0, 0, 0, 0, 0, 0, 1], 8),
        ])
    );
    let all = Update { prefix: None, ..update(prefix("::", 0), [0; 8], 0, INFINITY) };
    assert_eq!(body("080a 00 00 00 00 0190 0000 ffff"), Ok(vec![Tlv::Update(Box::new(all))]), "all is retracted");
}

/// A packet that Debian's babeld 1.12.1 sent, after it had learned three routes of nodes, signatures and all, from what
/// [`Writer`] wrote; it has no use for the signatures and passes on the routes. It also announces two prefixes of its own
/// and, in an encoding that is not for us, an IPv4 one.
#[test]
fn what_babeld_says_is_understood() {
    let bytes = unhex(
        "2a0200e3040c000011e2006403043f1b7af4051803000060012ca88433fffecdfed50308015b2a3e3f1081e2060a000069ec
         216dac3600000818028070000190000100c0fd0707070707c61969ec216dac36060a00009645ad07a1c30000081202807006
         0190000100c049b99645ad07a1c3060a0000a80e11ddb54a37f3081a02808000019025dd000020010db80001000000000000
         00000001081502808005019025dd00000200000000000000000001080e04002000019025dd0000c0000201060a0000f66814
         59700b00000818028070000190000100c0fd07070707071f8af6681459700b",
    );
    let tlvs = decode(&bytes).expect("well-formed");
    let [Tlv::Hello(hello), Tlv::Ihu(ihu), updates @ ..] = tlvs.as_slice() else { panic!("{tlvs:?}") };
    assert!(!hello.is_unicast && hello.interval_cs == 100 && hello.timestamp_us.is_some() && hello.link.is_none());
    assert!(ihu.address == "fe80::a884:33ff:fecd:fed5".parse().ok() && ihu.rxcost == 96 && ihu.echo.is_some());
    let learned: Vec<_> = updates
        .iter()
        .map(|tlv| match tlv {
            Tlv::Update(update) => (update.prefix, update.router_id, update.metric, update.interval_cs),
            other => panic!("{other:?}"),
        })
        .collect();
    let of_node = |address: &str| {
        let prefix = prefix(address, 112);
        let id = prefix.address().octets()[8..].try_into().ok();
        (Some(prefix), id, 192, 400)
    };
    let own = |address| (Some(prefix(address, 128)), Some([0xa8, 0x0e, 0x11, 0xdd, 0xb5, 0x4a, 0x37, 0xf3]), 0, 400);
    assert_eq!(
        learned,
        [
            of_node("fd07:707:707:c619:69ec:216d:ac36:0"),
            of_node("fd07:707:707:49b9:9645:ad07:a1c3:0"),
            own("2001:db8:1::1"),
            own("2001:db8:2::1"),
            of_node("fd07:707:707:1f8a:f668:1459:700b:0"),
        ]
    );
}

#[test]
fn what_the_rfcs_forbid_is_refused() {
    for (text, error) in [
        ("0406 0000 0102", BabelError::Length),
        ("04", BabelError::Length),
        ("0404 0000 0102", BabelError::Length),
        ("0408 0000 0102 0190 0305", BabelError::Length),
        ("060a 0000 0000000000000000", BabelError::Field),
        ("060a 0000 ffffffffffffffff", BabelError::Field),
        ("080a 02 00 00 00 0190 0004 0100", BabelError::Field),
        ("0812 02 40 40 00 0190 0001 0100 20010db800000000", BabelError::Field),
        ("080c 02 00 40 06 0190 0002 ffff 0002", BabelError::Field),
        ("080a 00 00 00 00 0190 0000 0100", BabelError::Field),
        ("080a 02 00 81 00 0190 0000 ffff", BabelError::Field),
        ("080a 02 00 00 01 0190 0000 ffff", BabelError::Field),
        ("080a 02 00 00 00 0000 0000 ffff", BabelError::Field),
        ("020600000007 0000", BabelError::Field),
        ("0506 0000 0060 0000", BabelError::Field),
        ("0a16 02 40 0005 00 00 1111111111111111 20010db800000001", BabelError::Field),
        ("0a0e 00 00 0005 03 00 1111111111111111", BabelError::Field),
        ("0902 0040", BabelError::Field),
        // Atoll's own have exactly one form.
        ("040d 0000 0102 0190 7405 0100000000", BabelError::Length),
        ("040f 0000 0102 0190 7407 01000000000000", BabelError::Length),
        ("040e 0000 0102 0190 7406 020000000000", BabelError::Field),
    ] {
        assert_eq!(body(text), Err(error), "{text}");
    }
    assert_eq!(decode(&[42, 3, 0, 0]), Err(BabelError::Kind));
    assert_eq!(decode(&[43, 2, 0, 0]), Err(BabelError::Kind));
    assert_eq!(decode(&[42, 2, 0]), Err(BabelError::Length));
    assert_eq!(decode(&[42, 2, 0, 1]), Err(BabelError::Length));
    assert_eq!(decode(&[42, 2, 0, 0, 9, 9, 9]), Ok(vec![]), "a trailer is ignored");
    assert_eq!(body(&"0902 0000 ".repeat(TLVS_MAX)).map(|tlvs| tlvs.len()), Ok(TLVS_MAX));
    assert_eq!(body(&"0902 0000 ".repeat(TLVS_MAX + 1)), Err(BabelError::TooMany));
}

fn prefixes() -> impl Strategy<Value = Prefix> {
    // Few different beginnings, so that they share octets.
    (0u8..3, any::<[u8; 8]>(), 0u8..=128).prop_map(|(start, end, length)| {
        let mut octets = [start; 16];
        octets[8..].copy_from_slice(&end);
        Prefix::new(Ipv6Addr::from(octets), length).expect("short enough")
    })
}

fn router_ids() -> impl Strategy<Value = [u8; 8]> {
    prop_oneof![Just([1; 8]), any::<[u8; 8]>().prop_filter("a name", |id| *id != [0; 8] && *id != [0xff; 8])]
}

fn signatures() -> impl Strategy<Value = [u8; 64]> {
    any::<[u8; 32]>().prop_map(|half| {
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&half);
        signature
    })
}

const EPOCHS: core::ops::Range<u64> = 0..1 << 48;

fn updates() -> impl Strategy<Value = Tlv> {
    let origin = (any::<[u8; 32]>(), EPOCHS, any::<bool>(), signatures())
        .prop_map(|(node, epoch, is_retraction, signature)| Origin { node, epoch, is_retraction, signature });
    let path = (any::<u16>(), any::<u8>()).prop_map(|(mtu, hops)| Path { mtu, hops });
    let base = (prefixes(), router_ids(), 1u16.., any::<u16>(), prop_oneof![Just(INFINITY), any::<u16>()]);
    (base, prop::option::of(origin), prop::option::of(grants()), prop::option::of(path)).prop_map(
        |((prefix, router_id, interval_cs, seqno, metric), origin, grant, path)| {
            let own = prefix.address().octets();
            // Often the name that follows from the prefix.
            let router_id = if seqno % 2 == 0 { router_id } else { own[8..].try_into().unwrap_or(router_id) };
            let is_name = router_id != [0; 8] && router_id != [0xff; 8];
            let router_id = if is_name { router_id } else { [9; 8] };
            let update = update(prefix, router_id, seqno, metric);
            Tlv::Update(Box::new(Update { interval_cs, origin, grant, path, ..update }))
        },
    )
}

fn grants() -> impl Strategy<Value = GrantBytes> {
    (any::<[u8; 32]>(), any::<u64>(), signatures()).prop_map(|(region, expiry_ms, signature)| GrantBytes {
        region,
        expiry_ms,
        signature,
    })
}

fn tlvs() -> impl Strategy<Value = Tlv> {
    let address = any::<[u8; 16]>().prop_map(Ipv6Addr::from);
    let address =
        prop_oneof![address, any::<u64>().prop_map(|host| Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(host)))];
    let batch = (any::<u32>(), any::<u32>()).prop_map(|(generation, number)| Batch { generation, number });
    let link = (any::<bool>(), any::<u32>(), any::<u8>()).prop_map(|(is_probe, generation, capacity)| LinkState {
        is_probe,
        generation,
        capacity,
    });
    let echo = (any::<u32>(), any::<u32>()).prop_map(|(origin_us, receive_us)| Echo { origin_us, receive_us });
    prop_oneof![
        (any::<u16>(), 1u16.., prop::option::of(batch))
            .prop_map(|(opaque, interval_cs, batch)| Tlv::AckRequest(AckRequest { opaque, interval_cs, batch })),
        (any::<u16>(), prop::option::of(any::<u32>())).prop_map(|(opaque, number)| Tlv::Ack(Ack { opaque, number })),
        (
            any::<bool>(),
            any::<u16>(),
            any::<u16>(),
            prop::option::of(any::<u32>()),
            prop::option::of(link),
            prop::option::of(grants())
        )
            .prop_map(|(is_unicast, seqno, interval_cs, timestamp_us, link, grant)| Tlv::Hello(Hello {
                is_unicast,
                seqno,
                interval_cs,
                timestamp_us,
                link,
                grant
            })),
        (prop::option::of(address.clone()), any::<u16>(), 1u16.., prop::option::of(echo))
            .prop_map(|(address, rxcost, interval_cs, echo)| Tlv::Ihu(Ihu { address, rxcost, interval_cs, echo })),
        address.prop_map(Tlv::NextHop),
        updates(),
        prop::option::of(prefixes()).prop_map(Tlv::RouteRequest),
        (prefixes(), router_ids(), any::<u16>(), prop::option::of(EPOCHS), 1u8..).prop_map(
            |(prefix, router_id, seqno, epoch, hop_count)| Tlv::SeqnoRequest(SeqnoRequest {
                prefix,
                router_id,
                seqno,
                epoch,
                hop_count
            })
        ),
    ]
}

/// Bytes that are nearly a packet: a written one, with some of them changed.
fn bent() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (prop::collection::vec(tlvs(), 0..8), changes).prop_map(|(tlvs, changes)| {
        let mut writer = Writer::default();
        for tlv in &tlvs {
            writer.push(tlv);
        }
        let mut bytes = writer.finish();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes
    })
}

fn rewritten(tlvs: &[Tlv]) -> Vec<Tlv> {
    let mut out = Vec::new();
    for tlv in tlvs {
        let mut writer = Writer::default();
        assert!(writer.push(tlv), "what was read can be written");
        out.extend(decode(&writer.finish()).expect("and read again"));
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(tlvs in prop::collection::vec(tlvs(), 0..12)) {
        let mut writer = Writer::default();
        let written: Vec<_> = tlvs.into_iter().filter(|tlv| writer.push(tlv)).collect();
        let bytes = writer.finish();
        prop_assert!(bytes.len() <= CONTROL_BYTES_MAX);
        prop_assert_eq!(decode(&bytes), Ok(written));
    }

    #[test]
    fn what_is_read_can_be_written(bytes in bent()) {
        if let Ok(tlvs) = decode(&bytes) {
            prop_assert_eq!(rewritten(&tlvs), tlvs);
        }
    }

    #[test]
    fn any_bytes_are_survived(mut bytes in prop::collection::vec(any::<u8>(), 0..300), is_framed in any::<bool>()) {
        if is_framed && bytes.len() >= 4 {
            let length = (bytes.len() as u16 - 4).to_be_bytes();
            bytes[..4].copy_from_slice(&[42, 2, length[0], length[1]]);
        }
        if let Ok(tlvs) = decode(&bytes) {
            prop_assert_eq!(rewritten(&tlvs), tlvs);
        }
    }
}
