//! What comes in over a connection, in pieces of any size: the same frames are found however it was cut, and they are
//! written as they were read.

use atoll_mesh_core::{
    limits::STREAM_FRAME_BYTES_MAX,
    stream::{LENGTH_BYTES, next_frame, push_frame, whole_frames},
};

/// Checks one input: its first byte says into pieces of which size the rest was cut.
pub(crate) fn check(data: &[u8]) {
    let Some((piece, bytes)) = data.split_first() else { return };
    let whole = whole_frames(bytes);
    let (mut at, mut written) = (0, Vec::new());
    let end = loop {
        match next_frame(&bytes[at..]) {
            Ok(Some(frame)) => {
                assert!(frame.start == LENGTH_BYTES && (1..=STREAM_FRAME_BYTES_MAX).contains(&frame.len()));
                assert!(push_frame(&mut written, &bytes[at + frame.start..at + frame.end]));
                at += frame.end;
            }
            Ok(None) => break Ok(at),
            Err(error) => break Err(error),
        }
    };
    assert_eq!(whole, end);
    assert_eq!(written, bytes[..at]);
    // As a connection's task reads it.
    let (mut buffer, mut taken) = (Vec::new(), 0);
    for piece in bytes.chunks(usize::from(*piece).max(1)) {
        buffer.extend_from_slice(piece);
        let Ok(whole) = whole_frames(&buffer) else {
            assert!(end.is_err());
            return;
        };
        buffer.drain(..whole);
        taken += whole;
        assert!(buffer.len() < LENGTH_BYTES + STREAM_FRAME_BYTES_MAX, "a frame that is not whole is shorter than one");
    }
    assert_eq!(end, Ok(taken));
}
