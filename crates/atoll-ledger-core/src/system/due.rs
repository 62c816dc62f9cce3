//! When the end of a block has something to do, so that most blocks end at once.
//!
//! Each word is a lower bound: work that turns out to be not due yet sets it anew. They are this module's own, and part
//! of the state like everything else.

use alloy_primitives::B256;
use atoll_base::{contracts::DEPLOYMENTS, ids::domain_hash};

use super::{Access, Stop};

/// Ledger time before which no node can be found silent.
pub(super) fn nodes_slot() -> B256 {
    domain_hash("due.nodes", &[])
}

/// Ledger time before which no lease needs anything.
pub(super) fn leases_slot() -> B256 {
    domain_hash("due.leases", &[])
}

/// 1 when some lease waits for a node or a standby, and may get it when capacity appears.
pub(super) fn wanting_slot() -> B256 {
    domain_hash("due.wanting", &[])
}

/// Ledger time at which the ledger came back from its latest outage: nobody could be heard before.
pub(super) fn resumed_slot() -> B256 {
    domain_hash("due.resumed", &[])
}

/// Brings a bound forward.
pub(super) fn by(access: &mut Access<'_>, slot: B256, at_ms: u64) -> Result<(), Stop> {
    let bound = access.read_u64(DEPLOYMENTS, slot)?;
    access.store_u64(DEPLOYMENTS, slot, bound.min(at_ms))
}

/// Capacity has appeared: whoever waits for some is looked at in this block.
pub(super) fn capacity_appeared(access: &mut Access<'_>) -> Result<(), Stop> {
    if access.read_u64(DEPLOYMENTS, wanting_slot())? != 0 {
        access.store_u64(DEPLOYMENTS, leases_slot(), 0)?;
    }
    Ok(())
}

/// Some lease lacks a node or a standby.
pub(super) fn wanting(access: &mut Access<'_>, wanting: bool) -> Result<(), Stop> {
    access.store_u64(DEPLOYMENTS, wanting_slot(), wanting.into())
}
