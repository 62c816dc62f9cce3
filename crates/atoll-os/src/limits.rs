//! Bounds of what this crate does to a machine.

use core::time::Duration;

/// Longest name of a network link (`IFNAMSIZ` without its end).
pub const LINK_NAME_BYTES_MAX: usize = 15;
/// Longest name of a network namespace or of a workload: it becomes a file name and a cgroup's name.
pub const NAME_BYTES_MAX: usize = 128;
/// How long creating a workload may take before its shim is given up.
pub const SHIM_START_MAX: Duration = Duration::from_secs(60);
