//! `deploy`: checks, places, books and writes a new deployment.

use std::collections::BTreeSet;

use alloy_primitives::{B256, U256};
use alloy_sol_types::SolError as _;
use atoll_base::{
    charter::is_dns_label,
    contracts::{DEPLOYMENTS, IDeployments},
    limits as base,
    schema::{self, Capacity, DeploymentRecord, Isolation, LeaseRecord, LeaseState, ServiceRecord},
};

use super::{invalid, not_enough};
use crate::{
    limits,
    system::{
        Access, Call, Stop, billing, due,
        fleet::Fleet,
        leases, nodes,
        scheduler::{self, Placed, Request, short},
    },
};

pub(super) fn deploy(access: &mut Access<'_>, call: &Call<'_>, input: IDeployments::deployCall) -> Result<u64, Stop> {
    if !is_dns_label(&input.name) {
        return Err(invalid("the name must have 1 to 63 of a-z, 0-9 and '-', with a letter first and no '-' last"));
    }
    check_name_free(access, &input.name)?;
    let services = checked_services(&input.services)?;
    for (service, given) in services.iter().zip(&input.services) {
        if given.sealedSpec.is_empty() {
            return Err(invalid(&format!("service {} has no sealed spec", service.name)));
        }
    }
    let mut fleet = Fleet::default();
    let placed = place(access, &mut fleet, &services)?;
    if !same(&placed, &input.expected) {
        return Err(Stop::Revert(IDeployments::PlacementChanged {}.abi_encode().into()));
    }
    check_keys(&placed, &input.keys, &services)?;
    let prices = services.iter().map(|service| price(access, service)).collect::<Result<Vec<_>, _>>()?;
    let total = placed.iter().fold(U256::ZERO, |sum, p| sum.saturating_add(prices[p.service as usize]));
    let needed = billing::escrow_min(total);
    if call.value < needed {
        return Err(not_enough(needed, call.value));
    }
    let id = new_id(access, placed.len())?;
    write_services(access, id, &services, &input)?;
    let leases = grant(access, &mut fleet, id, &services, &prices, &placed)?;
    fleet.save(access)?;
    write_deployment(access, id, call, &input.name, services.len(), leases)?;
    if placed.iter().any(|place| place.standby.is_zero()) {
        due::wanting(access, true)?;
    }
    access.bump_change()?;
    Ok(id)
}

/// The services as records, each within its bounds.
pub(super) fn checked_services(services: &[IDeployments::Service]) -> Result<Vec<ServiceRecord>, Stop> {
    if services.is_empty() || services.len() > base::SERVICES_MAX {
        return Err(invalid(&format!("a deployment has 1 to {} services", base::SERVICES_MAX)));
    }
    let mut names = BTreeSet::new();
    let mut records = Vec::with_capacity(services.len());
    for service in services {
        records.push(checked_service(service).map_err(|why| invalid(&format!("service {}: {why}", service.name)))?);
        if !names.insert(&service.name) {
            return Err(invalid(&format!("two services are called {}", service.name)));
        }
    }
    let replicas: usize = records.iter().map(|service| service.replicas as usize).sum();
    if replicas > limits::LEASES_PER_DEPLOYMENT_MAX {
        return Err(invalid(&format!("all services together may have {} replicas", limits::LEASES_PER_DEPLOYMENT_MAX)));
    }
    Ok(records)
}

fn checked_service(service: &IDeployments::Service) -> Result<ServiceRecord, String> {
    let isolation = match service.isolation {
        IDeployments::Isolation::Container => Isolation::Container,
        IDeployments::Isolation::MicroVm => Isolation::MicroVm,
        _ => return Err("the isolation is neither Container nor MicroVm".to_owned()),
    };
    if !is_dns_label(&service.name) {
        return Err("its name is not a DNS label".to_owned());
    }
    if service.replicas == 0 || service.replicas > base::REPLICAS_MAX {
        return Err(format!("it must have 1 to {} replicas", base::REPLICAS_MAX));
    }
    if service.cpuMilli == 0 || service.memoryBytes == 0 {
        return Err("it needs some CPU and some memory".to_owned());
    }
    if service.openPorts.len() > base::LABELS_MAX || service.openPorts.contains(&0) {
        return Err(format!("it may open up to {} ports, none of them 0", base::LABELS_MAX));
    }
    if service.constraints.len() > base::LABELS_MAX || !service.constraints.iter().all(|c| nodes::is_label(c)) {
        return Err(format!("it may have up to {} constraints, each key=value", base::LABELS_MAX));
    }
    if service.sealedSpec.len() > base::SEALED_SPEC_BYTES_MAX {
        return Err(format!("its sealed spec is longer than {} bytes", base::SEALED_SPEC_BYTES_MAX));
    }
    Ok(ServiceRecord {
        name: service.name.clone(),
        replicas: service.replicas,
        isolation: isolation.code(),
        needs: Capacity {
            cpu_milli: service.cpuMilli,
            memory_bytes: service.memoryBytes,
            disk_bytes: service.diskBytes,
        },
        http_port: service.httpPort,
        open_ports: service.openPorts.clone(),
        constraints: service.constraints.clone(),
        spec_hash: service.specHash,
    })
}

/// Asks the scheduler.
pub(super) fn place(
    access: &mut Access<'_>,
    fleet: &mut Fleet,
    services: &[ServiceRecord],
) -> Result<Vec<Placed>, Stop> {
    let requests: Vec<Request> = services.iter().map(leases::request).collect();
    let nodes = fleet.all(access)?;
    // Each replica and its standby look at every node.
    let replicas: u64 = requests.iter().map(|request| u64::from(request.replicas)).sum();
    access.charge(2 * replicas * nodes.len() as u64 * limits::GAS_CANDIDATE)?;
    scheduler::place_all(nodes, &requests).map_err(|shortage| {
        let refusal = IDeployments::NoCapacity { service: shortage.service, why: shortage.why };
        Stop::Revert(refusal.abi_encode().into())
    })
}

/// What one replica costs an hour.
pub(super) fn price(access: &Access<'_>, service: &ServiceRecord) -> Result<U256, Stop> {
    billing::price_per_hour(&access.env.charter.prices, service.needs)
        .ok_or_else(|| invalid(&format!("service {} costs more than all coins there are", service.name)))
}

fn check_name_free(access: &mut Access<'_>, name: &str) -> Result<(), Stop> {
    let holder = access.read_u64(DEPLOYMENTS, schema::name_slot(name))?;
    if holder == 0 {
        return Ok(());
    }
    let owner = super::existing(access, holder)?.owner;
    Err(Stop::Revert(IDeployments::NameTaken { name: name.to_owned(), owner }.abi_encode().into()))
}

fn same(placed: &[Placed], expected: &[IDeployments::Placement]) -> bool {
    placed.len() == expected.len()
        && placed
            .iter()
            .zip(expected)
            .all(|(a, b)| (a.service, a.replica, a.node, a.standby) == (b.service, b.replica, b.node, b.standby))
}

/// Every node that runs a service or stands by for it gets its key, and nobody else.
fn check_keys(placed: &[Placed], keys: &[IDeployments::SealedKey], services: &[ServiceRecord]) -> Result<(), Stop> {
    let places = placed.iter().flat_map(|p| [(p.service, p.node), (p.service, p.standby)]);
    let wanted: BTreeSet<(u32, B256)> = places.filter(|(_, node)| !node.is_zero()).collect();
    let given: BTreeSet<(u32, B256)> = keys.iter().map(|key| (key.service, key.node)).collect();
    if let Some((service, node)) = wanted.difference(&given).next() {
        let name = &services[*service as usize].name;
        return Err(invalid(&format!("service {name} has no key for node {}, which is to run it", short(*node))));
    }
    if given.len() != keys.len() || given != wanted {
        return Err(invalid("there is a key for a node that does not run the service, or two for one"));
    }
    if keys.iter().any(|key| key.key.is_empty() || key.key.len() > base::SEALED_KEY_BYTES_MAX) {
        return Err(invalid("a sealed key has 1 to 128 bytes"));
    }
    Ok(())
}

/// Numbers the deployment and makes room for it.
fn new_id(access: &mut Access<'_>, replicas: usize) -> Result<u64, Stop> {
    let id = access.read_u64(DEPLOYMENTS, schema::deployment_count_slot())? + 1;
    let mut alive = schema::alive(access)?;
    let leases = access.read_u64(DEPLOYMENTS, leases::alive_count_slot())? + replicas as u64;
    if alive.len() >= limits::DEPLOYMENTS_ALIVE_MAX || leases > limits::LEASES_ALIVE_MAX {
        return Err(invalid("the region has as many deployments as its ledger can hold: remove one first"));
    }
    alive.push(id);
    access.store_record(DEPLOYMENTS, schema::alive_slot(), &alive)?;
    access.store_u64(DEPLOYMENTS, leases::alive_count_slot(), leases)?;
    access.store_u64(DEPLOYMENTS, schema::deployment_count_slot(), id)?;
    Ok(id)
}

fn write_services(
    access: &mut Access<'_>,
    id: u64,
    services: &[ServiceRecord],
    input: &IDeployments::deployCall,
) -> Result<(), Stop> {
    for (index, (record, given)) in (0u32..).zip(services.iter().zip(&input.services)) {
        access.store_record(DEPLOYMENTS, schema::service_slot(id, index), record)?;
        access.store_bytes(DEPLOYMENTS, schema::sealed_spec_slot(id, index), &given.sealedSpec)?;
    }
    for key in &input.keys {
        access.store_bytes(DEPLOYMENTS, schema::sealed_key_slot(id, key.service, key.node), &key.key)?;
    }
    Ok(())
}

fn grant(
    access: &mut Access<'_>,
    fleet: &mut Fleet,
    deployment: u64,
    services: &[ServiceRecord],
    prices: &[U256],
    placed: &[Placed],
) -> Result<Vec<u64>, Stop> {
    let mut number = access.read_u64(DEPLOYMENTS, schema::lease_count_slot())?;
    let mut numbers = Vec::with_capacity(placed.len());
    for place in placed {
        number += 1;
        let mut lease = LeaseRecord {
            id: number,
            deployment,
            service: place.service,
            replica: place.replica,
            node: B256::ZERO,
            standby: place.standby,
            epoch: 0,
            workload: 0,
            state: LeaseState::Waiting.code(),
            since_ms: access.now_ms(),
            price_per_hour: prices[place.service as usize],
            why: String::new(),
        };
        let needs = services[place.service as usize].needs;
        let why = format!("node {} is the best fit", short(place.node));
        leases::assign(access, fleet, &mut lease, needs, place.node, &why)?;
        leases::save(access, &lease)?;
        numbers.push(number);
    }
    access.store_u64(DEPLOYMENTS, schema::lease_count_slot(), number)?;
    Ok(numbers)
}

fn write_deployment(
    access: &mut Access<'_>,
    id: u64,
    call: &Call<'_>,
    name: &str,
    services: usize,
    leases: Vec<u64>,
) -> Result<(), Stop> {
    let now = access.now_ms();
    let record = DeploymentRecord {
        id,
        owner: call.caller,
        name: name.to_owned(),
        created_ms: now,
        ended_ms: 0,
        escrow: call.value,
        charged: U256::ZERO,
        settled_ms: now,
        suspended: false,
        services: services as u32,
        leases,
    };
    super::store(access, &record)?;
    access.store_u64(DEPLOYMENTS, schema::name_slot(name), id)?;
    access.emit(DEPLOYMENTS, &IDeployments::Deployed { deployment: id, owner: call.caller, name: name.to_owned() })
}
