//! The steering of a frame, and a grant as it is written in a configuration: what is accepted is what its fields are
//! written as.

use atoll_base::{NodeId, RegionId};
use atoll_mesh_core::{
    Grant,
    wire::data::{STEERING_BYTES, Steering},
};

/// Checks one input.
pub(crate) fn check(data: &[u8]) {
    if let Some(bytes) = data.first_chunk::<STEERING_BYTES>()
        && let Some(steering) = Steering::parse(bytes)
    {
        let mut expected = *bytes;
        // The upper bits of the second byte say nothing yet.
        expected[1] &= 3;
        assert_eq!(steering.to_bytes(), expected);
    }
    if let Ok(text) = core::str::from_utf8(data)
        && let Some(grant) = Grant::of_text(RegionId([7; 32]), NodeId([1; 32]), text)
    {
        assert_eq!(grant.to_text(), text.to_ascii_lowercase());
    }
}
