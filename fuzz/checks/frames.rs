//! Frames of handshakes: raw bytes, and the same bytes as the contents of frames whose outer check is right.

use atoll_base::RegionId;
use atoll_mesh_core::wire::{
    Frame, RegionMac,
    handshake::{Cookie, FINISH_CONTENT_BYTES, HandshakeFrame, Part, RESPONSE_CONTENT_BYTES, RefuseReason},
};

/// Checks one input.
pub(crate) fn check(data: &[u8]) {
    let mac = RegionMac::of(RegionId([7; 32]));
    parse(&mac, data);
    let mut contents = [0; RESPONSE_CONTENT_BYTES];
    for (byte, given) in contents.iter_mut().zip(data) {
        *byte = *given;
    }
    let [a, b, c, d, ..] = contents;
    let index = u32::from_be_bytes([a, b, c, d]);
    let part = Part::BOTH[usize::from(a & 1)];
    let noise: &[u8; 32] = contents[..32].try_into().expect("32 bytes");
    let sixteen: &[u8; 16] = contents[16..32].try_into().expect("16 bytes");
    let finish: &[u8; FINISH_CONTENT_BYTES] = contents[..FINISH_CONTENT_BYTES].try_into().expect("shorter");
    let reason = if b & 1 == 0 { RefuseReason::NotAMember } else { RefuseReason::NewerTwin };
    for frame in [
        mac.init(part, index, noise, None),
        mac.init(part, index, noise, Some(&Cookie(*sixteen))),
        mac.response(part, index, &contents),
        mac.finish(part, index, finish),
        mac.unknown(index),
        mac.cookie(index, contents[8..16].try_into().expect("8 bytes"), &Cookie(*sixteen)),
        mac.refuse(reason, index, sixteen),
        mac.probe(b & 1 == 1, contents[8..16].try_into().expect("8 bytes")),
    ] {
        assert!(parse(&mac, &frame), "its own frame");
        // One that was altered anywhere is none, but for the kinds under keys of a link, which have no outer check.
        let mut altered = frame;
        let at = usize::from(d) * 7 % altered.len();
        altered[at] ^= c.max(1);
        assert!(!parse(&mac, &altered) || matches!(altered[0], 4 | 8));
    }
}

/// Whether it is a frame; if so, it is what its fields are written as.
fn parse(mac: &RegionMac, bytes: &[u8]) -> bool {
    let Ok(frame) = mac.parse(bytes) else { return false };
    let rebuilt = match frame {
        Frame::Data { .. } | Frame::Control { .. } => return true,
        Frame::Handshake(HandshakeFrame::Init(init)) => {
            if init.has_cookie() {
                return true;
            }
            mac.init(init.part, init.sender, init.noise, None)
        }
        Frame::Handshake(HandshakeFrame::Response { part, receiver, content }) => mac.response(part, receiver, content),
        Frame::Handshake(HandshakeFrame::Finish { part, receiver, content }) => mac.finish(part, receiver, content),
        Frame::Handshake(HandshakeFrame::Unknown { index }) => mac.unknown(index),
        Frame::Handshake(HandshakeFrame::Cookie { receiver, echo, cookie }) => mac.cookie(receiver, echo, &cookie),
        Frame::Handshake(HandshakeFrame::Probe { is_reply, token }) => mac.probe(is_reply, token),
        // Only who has its key can build it.
        Frame::Handshake(HandshakeFrame::Refuse { .. }) => return true,
    };
    assert_eq!(rebuilt, bytes);
    true
}
