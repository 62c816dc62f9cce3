//! What a node should run, what it does run, and the steps that join the two.
//!
//! This crate never touches a disk, a socket, a process or a clock: ledger time and the outcome of every side effect are
//! handed in. Read [`Desired`] and [`Record`] first: the one is what the ledger asks of this node, the other is what the
//! node wrote down about one workload before it touched anything. [`plan`] compares them.
//!
//! ```text
//! accepted → fetching → preparing → starting → running        (each stage is journalled before its side effect)
//!     │          │           │          │         │
//!     └──────────┴───────────┴──────────┴─────────┴──→ stopping → stopped → deleted
//!                │           │          │         │
//!                └───────────┴──────────┴─────────┴──→ failed{stage, why, retry_at} → fetching …
//! ```
//!
//! Invariants, tested as properties: at most one copy of a lease runs on this node; nothing is done for an epoch or a
//! height older than what was acted on before; from any observed state and any view, repeated planning converges.

#![forbid(unsafe_code)]

pub mod desired;
pub mod limits;
pub mod plan;
pub mod record;
pub mod report;

pub use desired::{Desired, Goal, Want};
pub use plan::{Action, Observed, Step, plan};
pub use record::{Event, Record, Stage};
pub use report::{Report, reports};
