//! What two ends of a session tell each other about a direct link: raw bytes.

use atoll_mesh_core::{
    limits::CANDIDATES_MAX,
    punch::{PunchMessage, is_candidate},
};

/// Checks one input.
pub(crate) fn check(data: &[u8]) {
    let Some(message) = PunchMessage::parse(data) else { return };
    assert!(message.endpoints.len() <= CANDIDATES_MAX);
    assert!(message.endpoints.iter().all(|endpoint| is_candidate(*endpoint)));
    let bytes = message.to_bytes();
    // Only endpoints that nobody may be sent to are left out, and an IPv6 address has one form.
    assert!(bytes.len() <= data.len());
    assert_eq!(bytes[..13], data[..13]);
    assert_eq!(PunchMessage::parse(&bytes), Some(message));
}
