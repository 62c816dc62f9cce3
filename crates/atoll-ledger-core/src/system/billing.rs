//! Billing: leases that run are paid by the millisecond, from their deployment's escrow to the provider.
//!
//! A lease that runs since `s` at price `p` an hour has cost `floor(p · (t - s) / 3,600,000)` until `t`. A charge for a
//! stretch of that time is the difference of two such values, so however often it is settled, the charges of a lease add
//! up to the exact cost of its run, cut below one smallest unit.

use alloy_primitives::U256;
use atoll_base::{
    charter::Prices,
    contracts::{DEPLOYMENTS, IDeployments},
    schema::{Capacity, DeploymentRecord, LeaseRecord, LeaseState},
};

use super::{Access, Stop, fleet::Fleet};
use crate::limits;

const HOUR_MS: u64 = 3_600_000;
const GIB: u64 = 1 << 30;

/// What a workload costs an hour; `None` if that is more coins than can exist.
pub fn price_per_hour(prices: &Prices, needs: Capacity) -> Option<U256> {
    let part = |price: U256, amount: u64, unit: u64| Some(price.checked_mul(U256::from(amount))? / U256::from(unit));
    part(prices.cpu_core_hour, needs.cpu_milli, 1000)?
        .checked_add(part(prices.memory_gib_hour, needs.memory_bytes, GIB)?)?
        .checked_add(part(prices.disk_gib_hour, needs.disk_bytes, GIB)?)
        .filter(|price| *price <= U256::from(u128::MAX))
}

/// What a run that began at `since_ms` costs between two instants of it.
pub fn cost(price_per_hour: U256, since_ms: u64, from_ms: u64, to_ms: u64) -> U256 {
    let until = |at: u64| {
        // Prices are below 2^128 and times below 2^64.
        price_per_hour.saturating_mul(U256::from(at.saturating_sub(since_ms))) / U256::from(HOUR_MS)
    };
    until(to_ms).saturating_sub(until(from_ms))
}

/// What an escrow must hold for a deployment to start or go on.
pub fn escrow_min(price_per_hour: U256) -> U256 {
    price_per_hour.saturating_mul(U256::from(limits::ESCROW_MIN_MS)) / U256::from(HOUR_MS)
}

/// Charges one lease up to `until_ms`, as far as the escrow goes. True if the escrow did not suffice.
pub(super) fn charge(
    access: &mut Access<'_>,
    fleet: &mut Fleet,
    deployment: &mut DeploymentRecord,
    lease: &LeaseRecord,
    until_ms: u64,
) -> Result<bool, Stop> {
    let from_ms = deployment.settled_ms.max(lease.since_ms);
    if lease.state() != LeaseState::Running || until_ms <= from_ms {
        return Ok(false);
    }
    let due = cost(lease.price_per_hour, lease.since_ms, from_ms, until_ms);
    let amount = due.min(deployment.escrow);
    deployment.escrow -= amount;
    deployment.charged = deployment.charged.saturating_add(amount);
    if !amount.is_zero() {
        let provider = fleet.node(access, lease.node)?.provider;
        access.pay(provider, amount)?;
        let event = IDeployments::Charged {
            deployment: deployment.id,
            node: lease.node,
            provider,
            amount,
            fromMs: from_ms,
            toMs: until_ms,
        };
        access.emit(DEPLOYMENTS, &event)?;
    }
    Ok(amount < due)
}

/// Charges all leases of a deployment up to now. True if the escrow did not suffice or is used up.
pub(super) fn settle(
    access: &mut Access<'_>,
    fleet: &mut Fleet,
    deployment: &mut DeploymentRecord,
    leases: &[LeaseRecord],
) -> Result<bool, Stop> {
    let now = access.now_ms();
    let mut short = false;
    for lease in leases {
        short |= charge(access, fleet, deployment, lease, now)?;
    }
    deployment.settled_ms = now;
    Ok(short || (deployment.escrow.is_zero() && !rate(leases).is_zero()))
}

/// What the leases that run now cost an hour together.
fn rate(leases: &[LeaseRecord]) -> U256 {
    let running = leases.iter().filter(|lease| lease.state() == LeaseState::Running);
    running.fold(U256::ZERO, |sum, lease| sum.saturating_add(lease.price_per_hour))
}

/// When the deployment is to be settled next: at the charter's interval, or when its escrow runs out.
pub(super) fn due_ms(access: &Access<'_>, deployment: &DeploymentRecord, leases: &[LeaseRecord]) -> u64 {
    due_at_least_ms(access, deployment, rate(leases))
}

/// The same for a rate that the deployment does not exceed: it is never due earlier.
pub(super) fn due_at_least_ms(access: &Access<'_>, deployment: &DeploymentRecord, rate: U256) -> u64 {
    let lasts = match deployment.escrow.saturating_mul(U256::from(HOUR_MS)).checked_div(rate) {
        Some(lasts) => lasts.saturating_to::<u64>(),
        None => return u64::MAX,
    };
    deployment.settled_ms.saturating_add(access.env.charter.timing.settle_ms.min(lasts))
}
