//! From a host name to the replicas that answer for it.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use atoll_base::{
    MeshAddr, RegionId,
    schema::{LeaseRecord, LeaseState, RegionView, ServiceRecord},
};

use super::page::{self, Page};
use crate::ledger::Verified;

/// Where a request goes.
#[derive(Debug)]
pub(crate) enum Route {
    /// The region's own page.
    Dashboard,
    /// An app with healthy replicas.
    App {
        /// Its name, as asked for.
        name: String,
        /// Where it answers, in the order in which they are tried.
        backends: Vec<SocketAddr>,
    },
    /// An app that cannot answer now, and why.
    Waiting(Page),
    /// No such app.
    Unknown(String),
}

/// Chooses by host name.
pub(crate) fn route(verified: &Verified, region: RegionId, region_name: &str, host: &str) -> Route {
    if host.is_empty() || host == "localhost" || host == region_name || host.parse::<std::net::IpAddr>().is_ok() {
        return Route::Dashboard;
    }
    let inner = host.strip_suffix(".localhost").or_else(|| host.strip_suffix(region_name)?.strip_suffix('.'));
    let Some(name) = inner else { return Route::Unknown(host.to_owned()) };
    let Some(view) = &verified.view else { return Route::Waiting(page::no_view(name, verified)) };
    let (service_name, deployment_name) = match name.split_once('.') {
        Some((service, deployment)) => (Some(service), deployment),
        None => (None, name),
    };
    let Some(deployment) = view.deployments.iter().find(|d| d.name == deployment_name) else {
        return Route::Unknown(name.to_owned());
    };
    let Some((index, service)) = web_service(view, deployment.id, service_name) else {
        return match service_name {
            Some(_) => Route::Unknown(name.to_owned()),
            None => Route::Waiting(page::no_web(name)),
        };
    };
    let leases: Vec<&LeaseRecord> =
        view.leases.values().filter(|lease| lease.deployment == deployment.id && lease.service == index).collect();
    let backends: Vec<SocketAddr> = leases
        .iter()
        .filter(|lease| lease.state() == LeaseState::Running)
        .filter_map(|lease| Some(socket(address(region, lease)?, service.http_port)))
        .collect();
    if backends.is_empty() {
        return Route::Waiting(page::not_running(name, deployment, &leases));
    }
    Route::App { name: name.to_owned(), backends }
}

/// The mesh address of a lease's workload.
pub(crate) fn address(region: RegionId, lease: &LeaseRecord) -> Option<Ipv6Addr> {
    lease.runner().map(|node| MeshAddr::of(region, node).host(lease.workload))
}

/// The service of a deployment that has a web port: the named one, or the first.
pub(crate) fn web_service<'a>(
    view: &'a RegionView,
    deployment: u64,
    name: Option<&str>,
) -> Option<(u32, &'a ServiceRecord)> {
    view.services
        .range((deployment, 0)..=(deployment, u32::MAX))
        .find(|(_, service)| service.http_port != 0 && name.is_none_or(|name| service.name == name))
        .map(|((_, index), service)| (*index, service))
}

fn socket(address: Ipv6Addr, port: u16) -> SocketAddr {
    SocketAddrV6::new(address, port, 0, 0).into()
}
