//! What the parts of the daemon show each other: the runner's newest state, problems, and facts about the machine.

use std::{path::PathBuf, sync::Arc};

use atoll_api::node::{NodeStatus, PlanStep, Workload};
use atoll_base::{DeploymentId, LeaseId, schema::Isolation};
use atoll_node_core::{Action, Desired, Observed, Record, plan};
use tokio::sync::watch;

use crate::{config::Checked, ledger::Verified, probe::Found};

/// The runner's newest state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Board {
    /// What the ledger asks for.
    pub(crate) desired: Arc<Desired>,
    /// What there is.
    pub(crate) observed: Arc<Observed>,
    /// What is wrong with the runner itself.
    pub(crate) problem: Option<String>,
}

/// Everything that the APIs read.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) checked: Arc<Checked>,
    pub(crate) verified: watch::Receiver<Verified>,
    pub(crate) board: watch::Receiver<Board>,
    /// Problems of the task that sends to the ledger.
    pub(crate) sending: watch::Receiver<Option<String>>,
    /// Problems of the sockets on the mesh address.
    pub(crate) mesh: watch::Receiver<Option<String>>,
    /// What the machine can do.
    pub(crate) found: watch::Receiver<Found>,
}

impl Shared {
    /// The answer to `GET /v1/status`.
    pub(crate) fn status(&self) -> NodeStatus {
        let verified = self.verified.borrow().clone();
        let board = self.board.borrow().clone();
        let checked = &self.checked;
        NodeStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: checked.id,
            region: checked.region,
            address: checked.address(),
            verified_height: verified.height,
            verified_ms: verified.time_ms,
            server: verified.server.clone(),
            capacity: checked.config.capacity,
            gateway: checked.config.gateway.iter().map(ToString::to_string).collect(),
            capabilities: self.found.borrow().capabilities.as_ref().clone(),
            workloads: board.observed.records.values().map(|record| self.workload(record)).collect(),
            problems: self.problems(&verified, &board),
        }
    }

    /// The answer to `GET /v1/plan`: what is under way and what comes next.
    pub(crate) fn plan(&self) -> Vec<PlanStep> {
        let board = self.board.borrow().clone();
        let now_ms = self.verified.borrow().now_ms();
        let under_way = board.observed.busy.iter().map(|(lease, action)| PlanStep {
            lease: *lease,
            action: action.name().to_owned(),
            why: "under way".to_owned(),
        });
        let next = plan(&board.desired, &board.observed, now_ms).into_iter().map(|step| PlanStep {
            lease: step.lease,
            action: step.action.name().to_owned(),
            why: step.why,
        });
        under_way.chain(next).collect()
    }

    /// The folder of a workload's shim and log.
    pub(crate) fn workload_folder(&self, lease: LeaseId) -> PathBuf {
        self.checked.config.data.join("workloads").join(lease.to_string())
    }

    fn workload(&self, record: &Record) -> Workload {
        Workload {
            lease: record.lease,
            epoch: record.want.epoch,
            deployment: DeploymentId(record.want.deployment.0),
            deployment_name: record.want.deployment_name.clone(),
            service: record.want.service_name.clone(),
            isolation: record.want.isolation.unwrap_or(Isolation::Container),
            address: self.checked.net.host(record.want.workload),
            state: record.state().to_owned(),
            why: record.why().to_owned(),
            retry_at_ms: record.failure.as_ref().map(|failure| failure.retry_at_ms),
            starts: record.starts,
        }
    }

    fn problems(&self, verified: &Verified, board: &Board) -> Vec<String> {
        let mut problems: Vec<String> = [
            verified.problem.clone(),
            self.sending.borrow().clone(),
            self.mesh.borrow().clone(),
            board.problem.clone(),
        ]
        .into_iter()
        .flatten()
        .collect();
        for (lease, stuck) in &board.observed.stuck {
            problems.push(format!("lease {lease} cannot be taken away: {}", stuck.why));
        }
        for (lease, prefetch) in &board.observed.prefetched {
            let fetching = board.observed.busy.get(lease) == Some(&Action::Prefetch);
            if let Some(why) = prefetch.why.as_ref().filter(|_| !prefetch.done && !fetching) {
                problems.push(format!("the image for lease {lease}, whose standby this is, is not here: {why}"));
            }
        }
        problems
    }
}
