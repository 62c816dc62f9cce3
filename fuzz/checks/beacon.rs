//! A beacon that is accepted is what its fields are written as.

use atoll_mesh_core::beacon::Beacon;

/// Checks one input.
pub(crate) fn check(data: &[u8]) {
    if let Some(beacon) = Beacon::parse(data) {
        assert_eq!(beacon.to_bytes(), data);
    }
}
