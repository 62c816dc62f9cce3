//! A lease's life: what it holds on its node, and every step from one state or node to the next.
//!
//! ```text
//!            ┌──────────────── no node fits ◀───────────────┐
//!            ▼                                              │
//!         Waiting ──▶ Granted ──▶ Starting ──▶ Running ──▶ node lost: Granted elsewhere, epoch + 1
//!                        ▲           ▲  │        │  ▲
//!                        │           │  ▼        ▼  │         as the node reports
//!                        │          Failed ◀────────┘
//!                        └── funded ── Suspended ◀── escrow empty, from any state with a node
//!         removed: Ended, from any state
//! ```

use alloy_primitives::B256;
use atoll_base::{
    MeshAddr,
    contracts::{DEPLOYMENTS, IDeployments, NODES},
    ids::domain_hash,
    limits::WHY_BYTES_MAX,
    schema::{self, Capacity, DeploymentRecord, LeaseRecord, LeaseState, ServiceRecord, StorageRead as _},
};

use super::{
    Access, Stop,
    fleet::Fleet,
    scheduler::{Replicas, Request},
};

/// A word in `NODES`: which lease has this workload index on this node; zero when it is free.
fn workload_slot(node: B256, index: u16) -> B256 {
    domain_hash("nodes.workload", &[node.as_slice(), &index.to_be_bytes()])
}

/// A word in `DEPLOYMENTS`: how many leases have not ended.
pub(super) fn alive_count_slot() -> B256 {
    domain_hash("deployments.leases.alive", &[])
}

/// What a lease in this state holds on its node: while suspended only the disk, for its data.
pub(super) fn held(state: LeaseState, needs: Capacity) -> Capacity {
    match state {
        LeaseState::Granted | LeaseState::Starting | LeaseState::Running | LeaseState::Failed => needs,
        LeaseState::Suspended => Capacity { disk_bytes: needs.disk_bytes, ..Capacity::default() },
        LeaseState::Waiting | LeaseState::Ended => Capacity::default(),
    }
}

/// Whether somebody runs the lease, or is about to.
pub(super) fn is_active(lease: &LeaseRecord) -> bool {
    !matches!(lease.state(), LeaseState::Waiting | LeaseState::Suspended | LeaseState::Ended)
}

/// What the scheduler is asked for one replica.
pub(super) fn request(service: &ServiceRecord) -> Request {
    Request {
        name: service.name.clone(),
        replicas: service.replicas,
        needs: service.needs,
        constraints: service.constraints.clone(),
    }
}

/// Whether a node can open the private part of the lease's service.
pub(super) fn has_key(access: &mut Access<'_>, lease: &LeaseRecord, node: B256) -> Result<bool, Stop> {
    let slot = schema::sealed_key_slot(lease.deployment, lease.service, node);
    Ok(access.read_u64(DEPLOYMENTS, slot)? != 0)
}

/// Where the other replicas of a lease's service are.
pub(super) fn siblings(leases: &[LeaseRecord], of: &LeaseRecord) -> Replicas {
    let mut on = Replicas::new();
    for lease in leases {
        if lease.service == of.service && lease.id != of.id && is_active(lease) {
            *on.entry(lease.node).or_default() += 1;
        }
    }
    on
}

/// Puts a lease without a node, or with a lost one, on a node. The caller has made sure that it fits.
pub(super) fn assign(
    access: &mut Access<'_>,
    fleet: &mut Fleet,
    lease: &mut LeaseRecord,
    needs: Capacity,
    node: B256,
    why: &str,
) -> Result<(), Stop> {
    let source = lease.node;
    release(access, fleet, lease, needs)?;
    lease.node = node;
    lease.workload = take_workload(access, fleet, node, lease.id)?;
    lease.epoch += 1;
    set(access, lease, LeaseState::Granted, why);
    fleet.book(access, node, Capacity::default(), needs)?;
    let why = lease.why.clone();
    if source.is_zero() {
        let (lease, deployment, epoch) = (lease.id, lease.deployment, lease.epoch);
        return access.emit(DEPLOYMENTS, &IDeployments::LeaseGranted { lease, deployment, node, epoch, why });
    }
    let event = IDeployments::LeaseMoved {
        lease: lease.id,
        deployment: lease.deployment,
        from: source,
        to: node,
        epoch: lease.epoch,
        why,
    };
    access.emit(DEPLOYMENTS, &event)
}

/// Takes a lease from its node: it waits until one fits. The epoch grows, so that the node's reports no longer count.
pub(super) fn withdraw(
    access: &mut Access<'_>,
    fleet: &mut Fleet,
    lease: &mut LeaseRecord,
    needs: Capacity,
    why: &str,
) -> Result<(), Stop> {
    release(access, fleet, lease, needs)?;
    lease.node = B256::ZERO;
    lease.standby = B256::ZERO;
    lease.workload = 0;
    lease.epoch += 1;
    set(access, lease, LeaseState::Waiting, why);
    announce(access, lease)
}

/// Ends a lease. It keeps the name of its node, for the record.
pub(super) fn end(
    access: &mut Access<'_>,
    fleet: &mut Fleet,
    lease: &mut LeaseRecord,
    needs: Capacity,
    why: &str,
) -> Result<(), Stop> {
    release(access, fleet, lease, needs)?;
    set(access, lease, LeaseState::Ended, why);
    announce(access, lease)
}

/// Another state on the same node.
pub(super) fn change(
    access: &mut Access<'_>,
    fleet: &mut Fleet,
    lease: &mut LeaseRecord,
    needs: Capacity,
    state: LeaseState,
    why: &str,
) -> Result<(), Stop> {
    fleet.book(access, lease.node, held(lease.state(), needs), held(state, needs))?;
    set(access, lease, state, why);
    announce(access, lease)
}

/// Gives back what the lease holds on its node, if it has one.
fn release(access: &mut Access<'_>, fleet: &mut Fleet, lease: &LeaseRecord, needs: Capacity) -> Result<(), Stop> {
    if lease.node.is_zero() {
        return Ok(());
    }
    fleet.book(access, lease.node, held(lease.state(), needs), Capacity::default())?;
    access.store_u64(NODES, workload_slot(lease.node, lease.workload), 0)
}

/// The next free index of the node. Indices go round, so that an address is not used again for as long as possible.
fn take_workload(access: &mut Access<'_>, fleet: &mut Fleet, node: B256, lease: u64) -> Result<u16, Stop> {
    let record = fleet.change(access, node)?;
    let first = record.next_workload.max(MeshAddr::FIRST_WORKLOAD);
    let mut index = first;
    loop {
        let next = index.checked_add(1).unwrap_or(MeshAddr::FIRST_WORKLOAD);
        if access.word(NODES, workload_slot(node, index))?.is_zero() {
            access.store_u64(NODES, workload_slot(node, index), lease)?;
            fleet.change(access, node)?.next_workload = next;
            return Ok(index);
        }
        index = next;
        if index == first {
            // There are fewer leases than indices, see `limits`.
            return Err(Stop::Broken(format!("all workload indices of node {node} are taken")));
        }
    }
}

fn set(access: &Access<'_>, lease: &mut LeaseRecord, state: LeaseState, why: &str) {
    lease.state = state.code();
    lease.since_ms = access.now_ms();
    lease.why = cut(why).to_owned();
}

fn announce(access: &mut Access<'_>, lease: &LeaseRecord) -> Result<(), Stop> {
    let event = IDeployments::LeaseChanged {
        lease: lease.id,
        deployment: lease.deployment,
        state: contract_state(lease.state()),
        why: lease.why.clone(),
    };
    access.emit(DEPLOYMENTS, &event)
}

/// The state as the contract's enum.
pub(super) fn contract_state(state: LeaseState) -> IDeployments::LeaseState {
    match state {
        LeaseState::Waiting => IDeployments::LeaseState::Waiting,
        LeaseState::Granted => IDeployments::LeaseState::Granted,
        LeaseState::Starting => IDeployments::LeaseState::Starting,
        LeaseState::Running => IDeployments::LeaseState::Running,
        LeaseState::Failed => IDeployments::LeaseState::Failed,
        LeaseState::Suspended => IDeployments::LeaseState::Suspended,
        LeaseState::Ended => IDeployments::LeaseState::Ended,
    }
}

/// A reason within its bound.
pub(super) fn cut(why: &str) -> &str {
    &why[..why.floor_char_boundary(WHY_BYTES_MAX)]
}

/// Writes a lease.
pub(super) fn save(access: &mut Access<'_>, lease: &LeaseRecord) -> Result<(), Stop> {
    access.store_record(DEPLOYMENTS, schema::lease_slot(lease.id), lease)
}

/// All leases of a deployment.
pub(super) fn all(access: &mut Access<'_>, deployment: &DeploymentRecord) -> Result<Vec<LeaseRecord>, Stop> {
    deployment.leases.iter().map(|id| load(access, *id)).collect()
}

/// Reads a lease that must exist.
pub(super) fn load(access: &mut Access<'_>, id: u64) -> Result<LeaseRecord, Stop> {
    access.record(DEPLOYMENTS, schema::lease_slot(id), "a lease")
}

const _: () = assert!(crate::limits::LEASES_ALIVE_MAX < (u16::MAX - MeshAddr::FIRST_WORKLOAD) as u64);
