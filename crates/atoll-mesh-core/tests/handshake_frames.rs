//! Frames of the handshake: golden vectors, round trips, and what an altered one is taken for.

use std::path::Path;

use atoll_base::{RegionId, RegionPrefix};
use atoll_mesh_core::wire::{
    Frame, RegionMac, WireError,
    handshake::{
        COOKIE_BYTES, Cookie, FINISH_BYTES, FINISH_CONTENT_BYTES, HandshakeFrame, INIT_BYTES, PROBE_BYTES, Part,
        REFUSE_BYTES, RESPONSE_BYTES, RESPONSE_CONTENT_BYTES, RefuseReason, UNKNOWN_BYTES, refusal_tag,
    },
};
use proptest::prelude::*;

const REGION: RegionId = RegionId([7; 32]);
const OTHER: RegionId = RegionId([8; 32]);

/// Compares with the file of this name. `ATOLL_GOLDEN=write` writes the file instead, which is a decision, not a fix.
fn golden(name: &str, frame: &[u8]) {
    let actual: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
    let path = Path::new("tests/golden").join(name).with_extension("hex");
    if std::env::var_os("ATOLL_GOLDEN").is_some_and(|value| value == "write") {
        std::fs::write(&path, format!("{actual}\n")).expect("the folder is there");
    }
    let expected = std::fs::read_to_string(&path).expect("the file is committed");
    assert_eq!(actual, expected.trim(), "{name}");
}

/// One frame of each kind.
fn frames() -> Vec<(&'static str, Vec<u8>)> {
    let mac = RegionMac::of(REGION);
    let cookie = Cookie([0xbb; 16]);
    vec![
        ("init", mac.init(Part::Head, 5, &[0xee; 32], None)),
        ("init-cookie", mac.init(Part::Rest, 5, &[0xee; 32], Some(&cookie))),
        ("response", mac.response(Part::Head, 5, &[0xdd; RESPONSE_CONTENT_BYTES])),
        ("finish", mac.finish(Part::Rest, 6, &[0xcc; FINISH_CONTENT_BYTES])),
        ("unknown", mac.unknown(0x0102_0304)),
        ("cookie", mac.cookie(5, [1, 2, 3, 4, 5, 6, 7, 8], &cookie)),
        ("refuse", mac.refuse(RefuseReason::NewerTwin, 5, &[0xaa; 16])),
        ("probe", mac.probe(true, *b"a token!")),
    ]
}

/// Changing any of these breaks every node that runs: it takes a new version.
#[test]
fn golden_frames() {
    for (name, frame) in frames() {
        golden(name, &frame);
    }
}

#[test]
fn lengths_are_those_of_the_specification() {
    assert_eq!([INIT_BYTES, RESPONSE_BYTES, FINISH_BYTES], [734, 734, 668]);
    assert_eq!([UNKNOWN_BYTES, COOKIE_BYTES, REFUSE_BYTES, PROBE_BYTES], [24, 48, 40, 28]);
}

#[test]
fn what_is_built_is_what_is_parsed() {
    let mac = RegionMac::of(REGION);
    let parsed: Vec<_> = frames();
    let parsed: Vec<_> = parsed.iter().map(|(_, frame)| mac.parse(frame).expect("its own frame")).collect();
    let [Frame::Handshake(HandshakeFrame::Init(plain)), Frame::Handshake(HandshakeFrame::Init(proven)), rest @ ..] =
        parsed.as_slice()
    else {
        panic!("two first messages: {parsed:?}")
    };
    assert_eq!((plain.part, plain.sender, plain.noise, plain.has_cookie()), (Part::Head, 5, &[0xee; 32], false));
    assert_eq!((proven.part, proven.sender, proven.has_cookie()), (Part::Rest, 5, true));
    assert!(proven.proves(&Cookie([0xbb; 16])) && !proven.proves(&Cookie([0xbc; 16])));
    assert!(!plain.proves(&Cookie([0; 16])) && plain.echo() != proven.echo());
    let expected = [
        HandshakeFrame::Response { part: Part::Head, receiver: 5, content: &[0xdd; RESPONSE_CONTENT_BYTES] },
        HandshakeFrame::Finish { part: Part::Rest, receiver: 6, content: &[0xcc; FINISH_CONTENT_BYTES] },
        HandshakeFrame::Unknown { index: 0x0102_0304 },
        HandshakeFrame::Cookie { receiver: 5, echo: [1, 2, 3, 4, 5, 6, 7, 8], cookie: Cookie([0xbb; 16]) },
        HandshakeFrame::Refuse {
            reason: RefuseReason::NewerTwin,
            receiver: 5,
            tag: refusal_tag(&[0xaa; 16], RefuseReason::NewerTwin, 5),
        },
        HandshakeFrame::Probe { is_reply: true, token: *b"a token!" },
    ];
    assert_eq!(rest, expected.map(Frame::Handshake));
}

/// A first message from one region to another names the caller's; nothing else differs.
#[test]
fn a_caller_of_another_region_is_named_in_its_first_message() {
    let build = |mac: &RegionMac| mac.init(Part::Head, 5, &[0xee; 32], None);
    let within = RegionMac::towards(REGION, REGION);
    assert_eq!(build(&within), frames()[0].1, "within a region nobody is named");
    let across = RegionMac::towards(REGION, OTHER);
    let frame = build(&across);
    golden("init-region", &frame);
    let Ok(HandshakeFrame::Init(init)) = within.parse_handshake(&frame) else { panic!("a first message") };
    assert_eq!((init.caller, init.sender, init.noise), (Some(RegionPrefix::of(OTHER)), 5, &[0xee; 32]));
    assert_eq!(RegionMac::of(OTHER).parse(&frame).err(), Some(WireError::Region), "the receiver's check counts");
    for (answer, plain) in
        [(across.unknown(9), within.unknown(9)), (across.probe(true, [1; 8]), within.probe(true, [1; 8]))]
    {
        assert_eq!(answer, plain);
    }
    // What is no region's prefix is no name of one.
    let mut odd = RegionId([9; 32]);
    odd.0[..5].fill(0);
    let named = build(&RegionMac::towards(REGION, odd));
    let Ok(HandshakeFrame::Init(init)) = within.parse_handshake(&named) else { panic!("a first message") };
    assert_eq!(init.caller, Some(RegionPrefix([0xfd, 0, 0, 0, 0, 0])));
}

proptest! {
    #[test]
    fn an_altered_frame_is_not_of_this_region(which in 0usize..8, at: prop::sample::Index, bit in 0u8..8) {
        let (_, mut frame) = frames().swap_remove(which);
        prop_assert!(RegionMac::of(OTHER).parse(&frame).is_err());
        let at = at.index(frame.len());
        frame[at] ^= 1 << bit;
        // In the first byte another kind may be named, of another length, or one under a link's keys, without this check.
        let parsed = RegionMac::of(REGION).parse(&frame);
        let is_data = matches!(parsed, Ok(Frame::Data { .. } | Frame::Control { .. }));
        prop_assert!(parsed.is_err() || (at == 0 && is_data));
    }

    #[test]
    fn a_frame_of_another_length_is_refused(which in 0usize..8, length in 0usize..1600) {
        let (_, mut frame) = frames().swap_remove(which);
        prop_assume!(length != frame.len());
        frame.resize(length, 0);
        prop_assert_eq!(RegionMac::of(REGION).parse(&frame).err(), Some(WireError::Length));
    }

    #[test]
    fn the_decoder_survives_any_bytes(kind in 0u8..10, bytes in prop::collection::vec(any::<u8>(), 0..1600)) {
        let frame: Vec<u8> = core::iter::once(kind).chain(bytes).collect();
        let parsed = RegionMac::of(REGION).parse_handshake(&frame);
        prop_assert!(parsed.is_err(), "random bytes have no valid check");
    }
}
