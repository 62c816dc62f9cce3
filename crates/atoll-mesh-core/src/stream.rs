//! Links over connections instead of datagrams (TLS over TCP): how the caller names a connection, and what lies in it.
//!
//! For this crate an endpoint is an address, so the caller gives each connection one of the prefix `100::/64`, which no
//! network delivers to (RFC 6666). Such an address means something to this process only: it is never told to others,
//! and what others say of one is not believed. The caller must not hand in datagrams that claim to come from there.

use core::ops::Range;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::limits::STREAM_FRAME_BYTES_MAX;

/// First half of the addresses: the discard-only prefix of RFC 6666.
const PREFIX: [u16; 4] = [0x0100, 0, 0, 0];
/// Any port but zero, which is no endpoint's.
const PORT: u16 = 1;
/// Bytes before each frame that say how long it is.
pub const LENGTH_BYTES: usize = 2;

/// The endpoint that stands for a connection. `group` is the same for all callers that are to share one caller's part of
/// what is bounded by address; `number` tells connections apart.
pub const fn stream_endpoint(group: u32, number: u32) -> SocketAddr {
    let [a, b, c, d] = PREFIX;
    let ip = Ipv6Addr::new(a, b, c, d, (group >> 16) as u16, group as u16, (number >> 16) as u16, number as u16);
    SocketAddr::new(IpAddr::V6(ip), PORT)
}

/// Whether an address is one of those that stand for connections.
pub const fn is_stream(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            a == PREFIX[0] && b == PREFIX[1] && c == PREFIX[2] && d == PREFIX[3]
        }
    }
}

/// A length that no frame has: the connection carries something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes, but a frame has 1 to {STREAM_FRAME_BYTES_MAX}")]
pub struct FrameLengthError(pub usize);

/// Where the first frame of these bytes lies, behind its length; nothing if it is not there whole yet.
pub fn next_frame(bytes: &[u8]) -> Result<Option<Range<usize>>, FrameLengthError> {
    let Some(length) = bytes.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes(*length));
    if length == 0 || length > STREAM_FRAME_BYTES_MAX {
        return Err(FrameLengthError(length));
    }
    let end = LENGTH_BYTES + length;
    Ok((bytes.len() >= end).then_some(LENGTH_BYTES..end))
}

/// How many of these bytes are whole frames with their lengths.
pub fn whole_frames(bytes: &[u8]) -> Result<usize, FrameLengthError> {
    let mut at = 0;
    while let Some(frame) = next_frame(&bytes[at..])? {
        at += frame.end;
    }
    Ok(at)
}

/// Appends a frame with its length; false, and nothing is appended, if no frame may be so long.
pub fn push_frame(bytes: &mut Vec<u8>, frame: &[u8]) -> bool {
    let Some(length) = u16::try_from(frame.len()).ok().filter(|length| {
        let length = usize::from(*length);
        (1..=STREAM_FRAME_BYTES_MAX).contains(&length)
    }) else {
        return false;
    };
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(frame);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cookie::Caller as _,
        punch::{endpoint_bytes, is_candidate, parse_endpoint},
    };

    #[test]
    fn connections_have_addresses_that_nobody_is_told_and_nobody_believes() {
        let endpoint = stream_endpoint(0x0102_0304, 0x0506_0708);
        assert_eq!(endpoint, "[100::102:304:506:708]:1".parse().expect("an endpoint"));
        assert!(is_stream(endpoint.ip()) && !is_candidate(endpoint));
        assert_eq!(parse_endpoint(&endpoint_bytes(endpoint)), None);
        for other in ["100:0:0:1::1", "101::1", "::1", "0.0.1.0", "2001:db8::1"] {
            assert!(!is_stream(other.parse().expect("an address")), "{other}");
        }
    }

    #[test]
    fn connections_of_one_caller_count_as_one_address_and_those_of_others_do_not() {
        let group = |group, number| stream_endpoint(group, number).group();
        assert_eq!(group(1, 1), group(1, u32::MAX));
        assert_ne!(group(1, 1), group(2, 1));
    }

    #[test]
    fn frames_are_found_however_the_stream_was_cut() {
        let frames: [&[u8]; 3] = [b"first", &[7; STREAM_FRAME_BYTES_MAX], b"x"];
        let mut bytes = Vec::new();
        assert!(frames.iter().all(|frame| push_frame(&mut bytes, frame)));
        let ends: Vec<_> = frames
            .iter()
            .scan(0, |end, frame| {
                *end += LENGTH_BYTES + frame.len();
                Some(*end)
            })
            .collect();
        for cut in 0..=bytes.len() {
            let whole = ends.iter().copied().filter(|end| *end <= cut).max().unwrap_or(0);
            assert_eq!(whole_frames(&bytes[..cut]), Ok(whole));
        }
        let first = next_frame(&bytes).expect("well-formed").expect("whole");
        assert_eq!(&bytes[first], b"first");
    }

    #[test]
    fn lengths_that_no_frame_has_end_the_stream() {
        assert_eq!(next_frame(&[0, 0, 1]), Err(FrameLengthError(0)));
        let long = STREAM_FRAME_BYTES_MAX + 1;
        assert_eq!(whole_frames(&(long as u16).to_be_bytes()), Err(FrameLengthError(long)));
        assert_eq!(next_frame(b"GET / HTTP/1.1\r\n"), Err(FrameLengthError(0x4745)));
        let mut bytes = Vec::new();
        assert!(!push_frame(&mut bytes, &vec![0; long]) && !push_frame(&mut bytes, &[]) && bytes.is_empty());
    }
}
