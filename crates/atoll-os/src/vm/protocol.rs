//! What the guest and the shim say to each other on the control port: one JSON value a line.

use serde::{Deserialize, Serialize};

use crate::spec::ShimSpec;

/// Names of the ports, as the guest finds them.
pub(crate) const OUT_PORT: &str = "atoll.out";
/// Standard error.
pub(crate) const ERR_PORT: &str = "atoll.err";
/// This protocol.
pub(crate) const CONTROL_PORT: &str = "atoll.control";
/// Where the guest finds its [`ShimSpec`]; without one it is the probe's guest.
pub(crate) const SPEC_FILE: &str = "/spec.json";
/// One file name a line, in the order to load them.
pub(crate) const MODULES_FILE: &str = "/modules.list";
/// What the probe's guest prints.
pub(crate) const PROBE_GREETING: &str = "atoll guest: it works";
/// The wish that the workload should end.
pub(crate) const STOP: &str = "stop\n";

/// What the guest reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// The workload executes.
    Running,
    /// The workload has ended, and the guest is about to.
    Exited {
        /// Its exit code.
        code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
        /// How often the guest's kernel killed in it for want of memory.
        oom_kills: u64,
    },
    /// The workload could not be started, and the guest is about to end.
    Failed {
        /// Why.
        why: String,
    },
}

/// The specification as the guest reads it.
pub(crate) fn encode(spec: &ShimSpec) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(spec)
}
