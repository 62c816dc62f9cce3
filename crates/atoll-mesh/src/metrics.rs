//! Metrics in Prometheus' text form.

use atoll_api::mesh::MeshStatus;
use prometheus_client::{
    encoding::text,
    metrics::{counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::Registry,
};

/// What a scrape sees.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) status: MeshStatus,
    pub(crate) counters: Vec<(&'static str, u64)>,
    /// Values of this moment: name, help, value.
    pub(crate) gauges: Vec<(&'static str, &'static str, usize)>,
}

/// Renders all metrics.
pub(crate) fn render(snapshot: &Snapshot) -> Result<String, core::fmt::Error> {
    let status = &snapshot.status;
    let mut registry = Registry::with_prefix("atoll_mesh");
    let build = vec![("version", status.version.clone())];
    registry.register("build", "The running program", Info::new(build));
    for (name, value) in &snapshot.counters {
        registry.register(
            *name,
            "Counted since the start, see the documentation of Counters",
            ConstCounter::new(*value),
        );
    }
    let mut gauge = |name: &str, help: &str, value: usize| {
        registry.register(name, help, ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)));
    };
    for (name, help, value) in &snapshot.gauges {
        gauge(name, help, *value);
    }
    gauge("links", "Links to neighbours", status.peers.len());
    gauge("links_up", "Links that work in both directions", status.peers.iter().filter(|peer| peer.up).count());
    gauge("routes", "Nodes that can be reached", status.routes.len());
    gauge("sessions", "Sessions end to end", status.sessions.len());
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}
