//! Bounds of the planner.

/// First wait after a failure; each further failure doubles it.
pub const RETRY_FIRST_MS: u64 = 1_000;
/// Longest wait between two attempts.
pub const RETRY_MAX_MS: u64 = 300_000;
/// A workload that ran healthy for so long starts again from [`RETRY_FIRST_MS`] when it fails.
pub const HEALTHY_RESET_MS: u64 = 120_000;
/// A node that hears nothing from the ledger keeps its workloads running for so many heartbeat timeouts after the last
/// certified block: workloads outlive the control plane, but not for ever.
pub const CUT_OFF_GRACE_TIMEOUTS: u64 = 600;

const _: () = assert!(RETRY_FIRST_MS <= RETRY_MAX_MS && RETRY_MAX_MS < u64::MAX / 2);
