//! The reading half of `IDeployments`.

use alloy_primitives::U256;
use alloy_sol_types::SolCall as _;
use atoll_base::{
    contracts::{DEPLOYMENTS, IDeployments},
    schema::{self, DeploymentRecord, Isolation, LeaseRecord, ServiceRecord},
};

use super::{deploy, existing, services};
use crate::{
    limits,
    system::{Access, Stop, billing, fleet::Fleet, leases},
};

pub(super) fn quote(access: &mut Access<'_>, input: IDeployments::quoteCall) -> Result<Vec<u8>, Stop> {
    let services = deploy::checked_services(&input.services)?;
    let mut total = U256::ZERO;
    for service in &services {
        let replicas = U256::from(service.replicas);
        total = total.saturating_add(deploy::price(access, service)?.saturating_mul(replicas));
    }
    let placed = deploy::place(access, &mut Fleet::default(), &services)?;
    let placements = placed.into_iter().map(|p| IDeployments::Placement {
        service: p.service,
        replica: p.replica,
        node: p.node,
        standby: p.standby,
    });
    Ok(IDeployments::quoteCall::abi_encode_returns(&IDeployments::quoteReturn {
        placements: placements.collect(),
        pricePerHour: total,
    }))
}

pub(super) fn get(access: &mut Access<'_>, id: u64) -> Result<Vec<u8>, Stop> {
    let record = existing(access, id)?;
    let records = services(access, &record)?;
    let leases = leases::all(access, &record)?.into_iter().map(lease).collect();
    let price = price(access, &records);
    let mut services = Vec::with_capacity(records.len());
    for (index, record) in (0u32..).zip(records) {
        let sealed = schema::read_bytes(access, DEPLOYMENTS, schema::sealed_spec_slot(id, index))?;
        services.push(service(record, sealed));
    }
    Ok(IDeployments::getCall::abi_encode_returns(&IDeployments::getReturn {
        deployment: deployment(record, price),
        services,
        leases,
    }))
}

pub(super) fn list(access: &mut Access<'_>, offset: u64, limit: u64) -> Result<Vec<u8>, Stop> {
    let count = access.read_u64(DEPLOYMENTS, schema::deployment_count_slot())?;
    let last = count.saturating_sub(offset);
    let first = last.saturating_sub(limit.min(limits::LIST_MAX));
    let mut listed = Vec::new();
    for id in (first + 1..=last).rev() {
        let record = existing(access, id)?;
        let services = services(access, &record)?;
        let price = price(access, &services);
        listed.push(deployment(record, price));
    }
    Ok(IDeployments::listCall::abi_encode_returns(&listed))
}

/// What all replicas cost an hour when they run.
pub(super) fn price(access: &Access<'_>, services: &[ServiceRecord]) -> U256 {
    let one = |s: &ServiceRecord| billing::price_per_hour(&access.env.charter.prices, s.needs).unwrap_or(U256::MAX);
    services
        .iter()
        .fold(U256::ZERO, |sum, service| sum.saturating_add(one(service).saturating_mul(U256::from(service.replicas))))
}

pub(super) fn lease(lease: LeaseRecord) -> IDeployments::Lease {
    IDeployments::Lease {
        state: leases::contract_state(lease.state()),
        id: lease.id,
        deployment: lease.deployment,
        service: lease.service,
        replica: lease.replica,
        node: lease.node,
        standby: lease.standby,
        epoch: lease.epoch,
        workload: lease.workload,
        sinceMs: lease.since_ms,
        pricePerHour: lease.price_per_hour,
        why: lease.why,
    }
}

fn deployment(record: DeploymentRecord, price_per_hour: U256) -> IDeployments::Deployment {
    IDeployments::Deployment {
        id: record.id,
        owner: record.owner,
        name: record.name,
        createdMs: record.created_ms,
        endedMs: record.ended_ms,
        escrow: record.escrow,
        charged: record.charged,
        pricePerHour: price_per_hour,
        settledMs: record.settled_ms,
        suspended: record.suspended,
    }
}

fn service(record: ServiceRecord, sealed_spec: alloy_primitives::Bytes) -> IDeployments::Service {
    IDeployments::Service {
        name: record.name,
        replicas: record.replicas,
        isolation: match Isolation::from_code(record.isolation) {
            Some(Isolation::MicroVm) => IDeployments::Isolation::MicroVm,
            Some(Isolation::Container) | None => IDeployments::Isolation::Container,
        },
        cpuMilli: record.needs.cpu_milli,
        memoryBytes: record.needs.memory_bytes,
        diskBytes: record.needs.disk_bytes,
        httpPort: record.http_port,
        openPorts: record.open_ports,
        constraints: record.constraints,
        specHash: record.spec_hash,
        sealedSpec: sealed_spec,
    }
}
