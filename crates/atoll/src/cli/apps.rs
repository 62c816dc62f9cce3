//! Deployments as the ledger has them, in the form that commands and the dashboard show.

use std::net::Ipv6Addr;

use alloy_primitives::U256;
use anyhow::Result;
use atoll_base::{
    MeshAddr, NodeId, RegionId,
    contracts::{DEPLOYMENTS, IDeployments},
    schema::{Capacity, Isolation, LeaseState},
};
use serde::{Serialize, Serializer};

use super::region::{Region, unknown_app};
use crate::{
    amount,
    rpc::{Rpc, RpcError},
};

/// Deployments asked for at once.
const PAGE: u64 = 100;
/// Pages read at most: more than this no person reads.
const PAGES_MAX: u64 = 64;

/// A deployment with its leases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct App {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) owner: alloy_primitives::Address,
    pub(crate) created_ms: u64,
    pub(crate) ended_ms: u64,
    pub(crate) suspended: bool,
    #[serde(serialize_with = "coins")]
    pub(crate) escrow: U256,
    #[serde(serialize_with = "coins")]
    pub(crate) charged: U256,
    #[serde(serialize_with = "coins")]
    pub(crate) price_per_hour: U256,
    pub(crate) services: Vec<Service>,
    pub(crate) leases: Vec<Lease>,
}

/// The public part of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) replicas: u32,
    pub(crate) isolation: Isolation,
    pub(crate) needs: Capacity,
    pub(crate) http_port: u16,
    pub(crate) open_ports: Vec<u16>,
    pub(crate) constraints: Vec<String>,
    pub(crate) spec_hash: alloy_primitives::B256,
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Lease {
    pub(crate) id: u64,
    pub(crate) service: String,
    pub(crate) replica: u32,
    pub(crate) node: Option<NodeId>,
    pub(crate) standby: Option<NodeId>,
    pub(crate) address: Option<Ipv6Addr>,
    pub(crate) epoch: u64,
    pub(crate) state: LeaseState,
    pub(crate) since_ms: u64,
    pub(crate) why: String,
}

/// Amounts for programs: exact, in whole coins, as text because JSON numbers are floats to many.
fn coins<S: Serializer>(amount: &U256, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&amount::exact(*amount))
}

impl App {
    /// Whether everything runs.
    pub(crate) fn runs(&self) -> bool {
        self.ended_ms == 0 && self.leases.iter().all(|lease| lease.state == LeaseState::Running)
    }

    /// In one word or two.
    pub(crate) fn state(&self) -> String {
        let running = self.leases.iter().filter(|lease| lease.state == LeaseState::Running).count();
        if self.ended_ms != 0 {
            "removed".to_owned()
        } else if self.suspended {
            "suspended".to_owned()
        } else if running == self.leases.len() {
            "running".to_owned()
        } else {
            format!("{running} of {} running", self.leases.len())
        }
    }

    /// Whether gateways forward to it.
    pub(crate) fn has_page(&self) -> bool {
        self.services.iter().any(|service| service.http_port != 0)
    }

    /// How long the escrow lasts when everything runs, milliseconds.
    pub(crate) fn lasts_ms(&self) -> Option<u64> {
        if self.price_per_hour.is_zero() {
            return None;
        }
        let hour_ms = U256::from(3_600_000_u64);
        u64::try_from(self.escrow.saturating_mul(hour_ms) / self.price_per_hour).ok()
    }

    fn of(region: RegionId, answer: IDeployments::getReturn) -> Self {
        let IDeployments::getReturn { deployment: d, services, leases } = answer;
        let names: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
        let leases = leases.into_iter().map(|lease| Lease::of(region, lease, &names)).collect();
        Self {
            services: services.iter().map(Service::of).collect(),
            leases,
            id: d.id,
            name: d.name,
            owner: d.owner,
            created_ms: d.createdMs,
            ended_ms: d.endedMs,
            suspended: d.suspended,
            escrow: d.escrow,
            charged: d.charged,
            price_per_hour: d.pricePerHour,
        }
    }
}

impl Service {
    /// As the contract's interface has it, without the sealed part.
    pub(crate) fn of(service: &IDeployments::Service) -> Self {
        Self {
            name: service.name.clone(),
            replicas: service.replicas,
            isolation: Isolation::from_code(service.isolation as u8).unwrap_or(Isolation::Container),
            needs: Capacity {
                cpu_milli: service.cpuMilli,
                memory_bytes: service.memoryBytes,
                disk_bytes: service.diskBytes,
            },
            http_port: service.httpPort,
            open_ports: service.openPorts.clone(),
            constraints: service.constraints.clone(),
            spec_hash: service.specHash,
        }
    }
}

impl Lease {
    fn of(region: RegionId, lease: IDeployments::Lease, services: &[&str]) -> Self {
        let node = (!lease.node.is_zero()).then(|| NodeId::from(lease.node));
        let service = usize::try_from(lease.service).ok().and_then(|index| services.get(index)).copied();
        Self {
            id: lease.id,
            service: service.unwrap_or("?").to_owned(),
            replica: lease.replica,
            node,
            standby: (!lease.standby.is_zero()).then(|| lease.standby.into()),
            address: node.map(|node| MeshAddr::of(region, node).host(lease.workload)),
            epoch: lease.epoch,
            state: state(lease.state),
            since_ms: lease.sinceMs,
            why: lease.why,
        }
    }
}

/// The contract's enum as ours.
pub(crate) fn state(state: IDeployments::LeaseState) -> LeaseState {
    LeaseState::from_code(state as u8).unwrap_or(LeaseState::Waiting)
}

/// A state in a word.
pub(crate) const fn state_word(state: LeaseState) -> &'static str {
    match state {
        LeaseState::Waiting => "waiting",
        LeaseState::Granted => "granted",
        LeaseState::Starting => "starting",
        LeaseState::Running => "running",
        LeaseState::Failed => "failed",
        LeaseState::Suspended => "suspended",
        LeaseState::Ended => "ended",
    }
}

/// One deployment.
pub(crate) async fn get(rpc: &Rpc, region: RegionId, id: u64) -> Result<App, RpcError> {
    Ok(App::of(region, rpc.call(DEPLOYMENTS, &IDeployments::getCall { id }).await?))
}

/// Deployments, newest first; only the living ones unless `all`. At most `max` of them.
pub(crate) async fn list(rpc: &Rpc, region: RegionId, all: bool, max: usize) -> Result<Vec<App>, RpcError> {
    let mut apps = Vec::new();
    for page in 0..PAGES_MAX {
        let call = IDeployments::listCall { offset: page * PAGE, limit: PAGE };
        let deployments = rpc.call(DEPLOYMENTS, &call).await?;
        let last = deployments.len() < usize::try_from(PAGE).unwrap_or(usize::MAX);
        for deployment in deployments.into_iter().filter(|d| all || d.endedMs == 0) {
            if apps.len() == max {
                return Ok(apps);
            }
            apps.push(get(rpc, region, deployment.id).await?);
        }
        if last {
            break;
        }
    }
    Ok(apps)
}

/// The number of the living deployment with this name.
pub(crate) async fn by_name(rpc: &Rpc, name: &str) -> Result<Option<u64>, RpcError> {
    let id = rpc.call(DEPLOYMENTS, &IDeployments::byNameCall { name: name.to_owned() }).await?;
    Ok((id != 0).then_some(id))
}

/// The living deployment with this name, or an error that says which there are.
pub(crate) async fn find(region: &Region, name: &str) -> Result<App> {
    let what = format!("cannot find '{name}'");
    if let Some(id) = region.explain(&what, by_name(&region.rpc, name).await)? {
        return region.explain(&what, get(&region.rpc, region.id, id).await);
    }
    let known = region.explain(&what, list(&region.rpc, region.id, false, 20).await)?;
    Err(unknown_app(name, &known.into_iter().map(|app| app.name).collect::<Vec<_>>()))
}
