//! What the ledger asks of this node.

use std::collections::BTreeMap;

use atoll_base::{
    DeploymentId, LeaseId, NodeId,
    schema::{Capacity, DeploymentRecord, Isolation, LeaseRecord, LeaseState, RegionView, ServiceRecord},
};
use serde::{Deserialize, Serialize};

/// The part of a verified view that concerns one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// Height of the final block at which it was read.
    pub height: u64,
    /// Leases that this node holds.
    pub leases: BTreeMap<LeaseId, Want>,
    /// Leases that this node may have to take over.
    pub standbys: BTreeMap<LeaseId, Want>,
}

/// What is to become of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Goal {
    /// Run it.
    Run,
    /// Do not run it, but keep its data.
    Hold,
}

/// One replica of a service, as the ledger asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Whether it runs.
    pub goal: Goal,
    /// The lease's fencing token.
    pub epoch: u64,
    /// Its deployment.
    pub deployment: DeploymentId,
    /// Name of the deployment.
    pub deployment_name: String,
    /// Number of the service in the deployment.
    pub service: u32,
    /// Name of the service.
    pub service_name: String,
    /// Container or virtual machine; absent when this program does not know the code on the ledger.
    pub isolation: Option<Isolation>,
    /// Index of its address in the node's /112.
    pub workload: u16,
    /// What it may use.
    pub needs: Capacity,
    /// The port of its web server; 0: none.
    pub http_port: u16,
    /// SHA-256 of its private part.
    pub spec_hash: [u8; 32],
    /// Why, in plain words.
    pub why: String,
}

impl Desired {
    /// Reads from a verified view what concerns `me`.
    pub fn of(view: &RegionView, me: NodeId, height: u64) -> Self {
        let deployments: BTreeMap<u64, &DeploymentRecord> = view.deployments.iter().map(|d| (d.id, d)).collect();
        let mut desired = Self { height, ..Self::default() };
        for lease in view.leases.values() {
            let Some(deployment) = deployments.get(&lease.deployment) else { continue };
            let Some(service) = view.services.get(&(lease.deployment, lease.service)) else { continue };
            let held = !matches!(lease.state(), LeaseState::Waiting | LeaseState::Ended);
            if lease.runner() == Some(me) && held {
                desired.leases.insert(LeaseId(lease.id), want(deployment, service, lease));
            } else if NodeId::from(lease.standby) == me && lease.state() != LeaseState::Ended {
                desired.standbys.insert(LeaseId(lease.id), want(deployment, service, lease));
            }
        }
        desired
    }

    /// For a node that has heard nothing from the ledger for longer than its grace: nothing of this may run any more,
    /// because others may long have been told to run it.
    #[must_use]
    pub fn after_grace(mut self, silent_ms: u64) -> Self {
        for want in self.leases.values_mut() {
            want.goal = Goal::Hold;
            want.why = format!("no word from the ledger for {} s, longer than the grace allows", silent_ms / 1000);
        }
        self.standbys.clear();
        self
    }
}

fn want(deployment: &DeploymentRecord, service: &ServiceRecord, lease: &LeaseRecord) -> Want {
    let suspended = deployment.suspended || lease.state() == LeaseState::Suspended;
    Want {
        goal: if suspended { Goal::Hold } else { Goal::Run },
        epoch: lease.epoch,
        deployment: DeploymentId(deployment.id),
        deployment_name: deployment.name.clone(),
        service: lease.service,
        service_name: service.name.clone(),
        isolation: Isolation::from_code(service.isolation),
        workload: lease.workload,
        needs: service.needs,
        http_port: service.http_port,
        spec_hash: service.spec_hash.0,
        why: if lease.why.is_empty() { "the ledger leased it to this node".to_owned() } else { lease.why.clone() },
    }
}
