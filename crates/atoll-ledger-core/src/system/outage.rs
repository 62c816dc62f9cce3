//! After an outage of the ledger itself: whoever could not be heard was not silent, and what nobody could prove is not
//! paid.

use atoll_base::{
    contracts::DEPLOYMENTS,
    schema::{self, LeaseState},
};

use super::{Access, Stop, billing, due, fleet::Fleet, leases};
use crate::execute::Env;

/// Work at the begin of each block: almost always none.
pub(crate) fn begin_block(access: &mut Access<'_>) -> Result<(), Stop> {
    if !follows_outage(access.env) {
        return Ok(());
    }
    let now = access.now_ms();
    access.store_u64(DEPLOYMENTS, due::resumed_slot(), now)?;
    let mut fleet = Fleet::default();
    for id in schema::alive(access)? {
        skip(access, &mut fleet, id)?;
    }
    fleet.save(access)
}

/// Whether the parent is so long ago that a node which sent its heartbeats in time would count as silent.
fn follows_outage(env: &Env<'_>) -> bool {
    let gap_ms = env.timestamp_ms.saturating_sub(env.parent_ms);
    let timing = &env.charter.timing;
    gap_ms.saturating_add(timing.heartbeat_ms) > timing.heartbeat_timeout_ms
}

/// Charges a deployment up to the last block, and goes on from this one.
fn skip(access: &mut Access<'_>, fleet: &mut Fleet, id: u64) -> Result<(), Stop> {
    let (now, parent_ms) = (access.now_ms(), access.env.parent_ms);
    let at = schema::deployment_slot(id);
    let mut deployment = access.record(DEPLOYMENTS, at, "a deployment")?;
    let mut changed = false;
    for lease in leases::all(access, &deployment)? {
        if lease.state() != LeaseState::Running {
            continue;
        }
        // Should the escrow not suffice, the end of this block finds out.
        billing::charge(access, fleet, &mut deployment, &lease, parent_ms)?;
        leases::save(access, &schema::LeaseRecord { since_ms: now, ..lease })?;
        changed = true;
    }
    if changed {
        deployment.settled_ms = now;
        access.store_record(DEPLOYMENTS, at, &deployment)?;
    }
    Ok(())
}
