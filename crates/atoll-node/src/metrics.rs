//! Everything that the daemon counts.

use std::sync::Arc;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::Registry,
};

/// How a request to the gateway ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Outcome {
    /// `forwarded`, `dashboard`, `unknown`, `unavailable` or `failed`.
    pub(crate) outcome: &'static str,
}

/// The state of a workload.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct State {
    /// As in the API.
    pub(crate) state: &'static str,
}

/// The daemon's metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    /// Requests to the gateway.
    pub(crate) gateway: Family<Outcome, Counter>,
    /// Heartbeats that the ledger accepted.
    pub(crate) heartbeats: Counter,
    /// Height of the newest verified block.
    pub(crate) height: Gauge,
    /// Workloads by state.
    pub(crate) workloads: Family<State, Gauge>,
    /// Names answered by the name server.
    pub(crate) names: Counter,
    /// Bytes of blobs sent to other nodes.
    pub(crate) blob_bytes: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("atoll_node");
        let gateway = Family::default();
        let (heartbeats, names, blob_bytes) = (Counter::default(), Counter::default(), Counter::default());
        let height = Gauge::default();
        let workloads = Family::default();
        registry.register("build", "Version of the program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        registry.register("gateway_requests", "Requests to the gateway", gateway.clone());
        registry.register("heartbeats", "Heartbeats that the ledger accepted", heartbeats.clone());
        registry.register("verified_height", "Height of the newest verified block", height.clone());
        registry.register("workloads", "Workloads by state", workloads.clone());
        registry.register("names", "Questions answered by the name server", names.clone());
        registry.register("blob_bytes", "Bytes of blobs sent to other nodes", blob_bytes.clone());
        Self { registry: Arc::new(registry), gateway, heartbeats, height, workloads, names, blob_bytes }
    }

    /// Prometheus text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            text.clear();
        }
        text
    }
}
