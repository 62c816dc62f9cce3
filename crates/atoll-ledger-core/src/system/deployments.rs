//! `IDeployments`: apps, their services and leases.

use alloy_primitives::{Address, U256};
use alloy_sol_types::{SolCall as _, SolError as _};
use atoll_base::{
    contracts::{
        DEPLOYMENTS,
        IDeployments::{self, IDeploymentsCalls},
    },
    limits as base,
    schema::{self, DeploymentRecord, LeaseRecord, LeaseState, ServiceRecord},
};

use super::{Access, Call, Stop, billing, due, fleet::Fleet, leases, no_value, nodes, scheduler::short};

mod deploy;
mod views;

pub(super) fn call(access: &mut Access<'_>, input: IDeploymentsCalls, call: &Call<'_>) -> Result<Vec<u8>, Stop> {
    use IDeploymentsCalls as C;
    if !matches!(input, C::deploy(_) | C::fund(_)) {
        no_value(call)?;
    }
    let nothing = Vec::new();
    Ok(match input {
        C::quote(input) => views::quote(access, input)?,
        C::deploy(input) => {
            let id = deploy::deploy(access, call, input)?;
            IDeployments::deployCall::abi_encode_returns(&id)
        }
        C::fund(input) => fund(access, input.id, call.value).map(|()| nothing)?,
        C::remove(input) => remove(access, input.id, call.caller).map(|()| nothing)?,
        C::report(input) => report(access, call.caller, input).map(|()| nothing)?,
        C::shareKey(input) => share_key(access, call.caller, input).map(|()| nothing)?,
        C::count(_) => {
            let count = access.read_u64(DEPLOYMENTS, schema::deployment_count_slot())?;
            IDeployments::countCall::abi_encode_returns(&count)
        }
        C::get(input) => views::get(access, input.id)?,
        C::byName(input) => {
            let id = access.read_u64(DEPLOYMENTS, schema::name_slot(&input.name))?;
            IDeployments::byNameCall::abi_encode_returns(&id)
        }
        C::list(input) => views::list(access, input.offset, input.limit)?,
        C::lease(input) => {
            let lease = existing_lease(access, input.id)?;
            IDeployments::leaseCall::abi_encode_returns(&views::lease(lease))
        }
    })
}

/// Adds to the escrow; a suspended deployment resumes if it can then pay for a while.
fn fund(access: &mut Access<'_>, id: u64, amount: U256) -> Result<(), Stop> {
    let mut deployment = living(access, id)?;
    deployment.escrow = deployment.escrow.saturating_add(amount);
    if deployment.suspended {
        let services = services(access, &deployment)?;
        let price = views::price(access, &services);
        let needed = billing::escrow_min(price).max(U256::from(1));
        if deployment.escrow < needed {
            return Err(not_enough(needed, deployment.escrow));
        }
        resume(access, &mut deployment, &services)?;
    }
    store(access, &deployment)
}

fn resume(access: &mut Access<'_>, deployment: &mut DeploymentRecord, services: &[ServiceRecord]) -> Result<(), Stop> {
    let why = "the escrow was funded";
    let mut fleet = Fleet::default();
    deployment.suspended = false;
    deployment.settled_ms = access.now_ms();
    for id in &deployment.leases {
        let mut lease = leases::load(access, *id)?;
        if lease.state() != LeaseState::Suspended {
            continue;
        }
        let service = service_of(services, &lease)?;
        // What it holds while suspended is its own, so it does not stand in its way.
        fleet.book(access, lease.node, leases::held(LeaseState::Suspended, service.needs), Default::default())?;
        let fits = super::scheduler::fits(fleet.node(access, lease.node)?, &leases::request(service));
        fleet.book(access, lease.node, Default::default(), leases::held(LeaseState::Suspended, service.needs))?;
        if fits {
            leases::change(access, &mut fleet, &mut lease, service.needs, LeaseState::Granted, why)?;
        } else {
            let why = format!("{why}, but node {} has no room for it any more", short(lease.node));
            leases::withdraw(access, &mut fleet, &mut lease, service.needs, &why)?;
        }
        leases::save(access, &lease)?;
    }
    fleet.save(access)?;
    let event = IDeployments::Resumed { deployment: deployment.id, why: why.to_owned() };
    access.emit(DEPLOYMENTS, &event)?;
    // The end of this block places what waits and chooses standbys.
    due::by(access, due::leases_slot(), 0)?;
    access.bump_change()
}

/// Ends everything, pays what is owed, and gives the rest back.
fn remove(access: &mut Access<'_>, id: u64, caller: Address) -> Result<(), Stop> {
    let mut deployment = owned(access, id, caller)?;
    let services = services(access, &deployment)?;
    let mut fleet = Fleet::default();
    let mut all = leases::all(access, &deployment)?;
    billing::settle(access, &mut fleet, &mut deployment, &all)?;
    let why = "its owner removed the deployment";
    for lease in &mut all {
        let service = service_of(&services, lease)?;
        for node in [lease.node, lease.standby] {
            let key = schema::sealed_key_slot(id, lease.service, node);
            access.store_bytes(DEPLOYMENTS, key, &[])?;
        }
        leases::end(access, &mut fleet, lease, service.needs, why)?;
        leases::save(access, lease)?;
    }
    fleet.save(access)?;
    for service in 0..deployment.services {
        access.store_bytes(DEPLOYMENTS, schema::sealed_spec_slot(id, service), &[])?;
    }
    access.store_u64(DEPLOYMENTS, schema::name_slot(&deployment.name), 0)?;
    let mut alive = schema::alive(access)?;
    alive.retain(|other| *other != id);
    access.store_record(DEPLOYMENTS, schema::alive_slot(), &alive)?;
    let count = access.read_u64(DEPLOYMENTS, leases::alive_count_slot())?;
    access.store_u64(DEPLOYMENTS, leases::alive_count_slot(), count.saturating_sub(all.len() as u64))?;
    let refund = core::mem::take(&mut deployment.escrow);
    deployment.ended_ms = access.now_ms();
    store(access, &deployment)?;
    access.pay(deployment.owner, refund)?;
    let event = IDeployments::Removed { deployment: id, refund, why: why.to_owned() };
    access.emit(DEPLOYMENTS, &event)?;
    due::capacity_appeared(access)?;
    access.bump_change()
}

/// A node says how its lease is.
fn report(access: &mut Access<'_>, account: Address, input: IDeployments::reportCall) -> Result<(), Stop> {
    let node = nodes::of_account(access, account)?;
    let mut lease = existing_lease(access, input.lease)?;
    if lease.epoch != input.epoch || lease.node != node {
        return Err(stale(&lease));
    }
    let state = match input.state {
        IDeployments::LeaseState::Starting => LeaseState::Starting,
        IDeployments::LeaseState::Running => LeaseState::Running,
        IDeployments::LeaseState::Failed => LeaseState::Failed,
        _ => return Err(invalid("a node reports Starting, Running or Failed")),
    };
    if !leases::is_active(&lease) {
        return Err(invalid(&format!("lease {} is not to run now: {}", lease.id, lease.why)));
    }
    if lease.state() == state && lease.why == leases::cut(&input.why) {
        return Ok(());
    }
    let mut fleet = Fleet::default();
    let mut deployment: DeploymentRecord =
        access.record(DEPLOYMENTS, schema::deployment_slot(lease.deployment), "a deployment")?;
    if lease.state() == state {
        // Another reason for the same state: it goes on, and so does its price.
        lease.why = leases::cut(&input.why).to_owned();
        leases::save(access, &lease)?;
        return access.bump_change();
    }
    let now = access.now_ms();
    billing::charge(access, &mut fleet, &mut deployment, &lease, now)?;
    // Each of these states holds the same on the node, so what the lease needs does not matter here.
    leases::change(access, &mut fleet, &mut lease, Default::default(), state, &input.why)?;
    leases::save(access, &lease)?;
    store(access, &deployment)?;
    if state == LeaseState::Running {
        let services = services(access, &deployment)?;
        let at = billing::due_at_least_ms(access, &deployment, views::price(access, &services));
        due::by(access, due::leases_slot(), at)?;
    }
    access.bump_change()
}

/// A node that can open a service's private part hands the key to the lease's node or standby.
fn share_key(access: &mut Access<'_>, account: Address, input: IDeployments::shareKeyCall) -> Result<(), Stop> {
    let node = nodes::of_account(access, account)?;
    let lease = existing_lease(access, input.lease)?;
    if lease.epoch != input.epoch {
        return Err(stale(&lease));
    }
    if input.key.is_empty() || input.key.len() > base::SEALED_KEY_BYTES_MAX {
        return Err(invalid("a sealed key has 1 to 128 bytes"));
    }
    if input.node.is_zero() || ![lease.node, lease.standby].contains(&input.node) {
        return Err(invalid("the key goes to the lease's node or standby only"));
    }
    if !leases::has_key(access, &lease, node)? {
        return Err(invalid("only a node that holds the key can share it"));
    }
    if leases::has_key(access, &lease, input.node)? {
        return Err(invalid("that node has the key already"));
    }
    let slot = schema::sealed_key_slot(lease.deployment, lease.service, input.node);
    access.store_bytes(DEPLOYMENTS, slot, &input.key)?;
    // Another replica of the service may wait for a node that holds its key.
    due::capacity_appeared(access)?;
    access.bump_change()
}

fn store(access: &mut Access<'_>, deployment: &DeploymentRecord) -> Result<(), Stop> {
    access.store_record(DEPLOYMENTS, schema::deployment_slot(deployment.id), deployment)
}

/// All services of a deployment.
fn services(access: &mut Access<'_>, deployment: &DeploymentRecord) -> Result<Vec<ServiceRecord>, Stop> {
    let slots = (0..deployment.services).map(|index| schema::service_slot(deployment.id, index));
    slots.map(|slot| access.record(DEPLOYMENTS, slot, "a service")).collect()
}

fn service_of<'a>(services: &'a [ServiceRecord], lease: &LeaseRecord) -> Result<&'a ServiceRecord, Stop> {
    services
        .get(lease.service as usize)
        .ok_or_else(|| Stop::Broken(format!("lease {} names a service that its deployment does not have", lease.id)))
}

fn existing(access: &mut Access<'_>, id: u64) -> Result<DeploymentRecord, Stop> {
    schema::deployment(access, id)?
        .ok_or_else(|| Stop::Revert(IDeployments::UnknownDeployment { id }.abi_encode().into()))
}

fn living(access: &mut Access<'_>, id: u64) -> Result<DeploymentRecord, Stop> {
    let deployment = existing(access, id)?;
    if deployment.ended_ms != 0 {
        return Err(invalid(&format!("deployment {id} ({}) was removed", deployment.name)));
    }
    Ok(deployment)
}

fn owned(access: &mut Access<'_>, id: u64, caller: Address) -> Result<DeploymentRecord, Stop> {
    let deployment = living(access, id)?;
    if deployment.owner != caller {
        let owner = deployment.owner;
        return Err(Stop::Revert(IDeployments::NotOwner { owner }.abi_encode().into()));
    }
    Ok(deployment)
}

fn existing_lease(access: &mut Access<'_>, id: u64) -> Result<LeaseRecord, Stop> {
    schema::lease(access, id)?.ok_or_else(|| invalid(&format!("there is no lease {id}")))
}

fn stale(lease: &LeaseRecord) -> Stop {
    Stop::Revert(IDeployments::StaleEpoch { lease: lease.id, epoch: lease.epoch }.abi_encode().into())
}

fn invalid(why: &str) -> Stop {
    Stop::Revert(IDeployments::Invalid { why: why.to_owned() }.abi_encode().into())
}

fn not_enough(needed: U256, given: U256) -> Stop {
    Stop::Revert(IDeployments::NotEnoughEscrow { needed, given }.abi_encode().into())
}

const _: () = assert!(base::SEALED_KEY_BYTES_MAX == 128, "the message above names it");
