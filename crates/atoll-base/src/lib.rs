//! What every part of Atoll agrees on: typed ids, keys, mesh addresses, the charter, block headers, the system contracts'
//! interfaces and storage layout, and the bounds of all of these.
//!
//! This crate never does I/O, never reads a clock and never draws randomness of its own. Read [`Charter`] and
//! [`schema`] first: the one is what a region *is*, the other is what its ledger *knows*.

pub mod addr;
pub mod charter;
pub mod claim;
pub mod contracts;
pub mod header;
pub mod ids;
pub mod invite;
pub mod keys;
pub mod limits;
pub mod network;
pub mod published;
pub mod schema;
pub mod seal;
pub mod spec;

pub use addr::{MeshAddr, RegionPrefix};
pub use charter::Charter;
pub use header::Header;
pub use ids::{DeploymentId, LeaseId, NodeId, RegionId};
pub use keys::NodeSecret;
