//! What the node tells the ledger about its leases.

use std::collections::BTreeMap;

use atoll_base::{
    LeaseId, NodeId,
    limits::WHY_BYTES_MAX,
    schema::{LeaseState, RegionView},
};

use crate::record::{Record, Stage};

/// A report that the ledger should have and does not have yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The lease.
    pub lease: LeaseId,
    /// Its epoch.
    pub epoch: u64,
    /// `Starting`, `Running` or `Failed`.
    pub state: LeaseState,
    /// In plain words.
    pub why: String,
}

/// Reports by which the ledger's view of this node's leases becomes what the journal says.
pub fn reports(view: &RegionView, me: NodeId, records: &BTreeMap<LeaseId, Record>) -> Vec<Report> {
    let due = |record: &Record| {
        let lease = view.leases.get(&record.lease.0)?;
        let reportable = matches!(
            lease.state(),
            LeaseState::Granted | LeaseState::Starting | LeaseState::Running | LeaseState::Failed
        );
        if lease.runner() != Some(me) || lease.epoch != record.want.epoch || !reportable {
            return None;
        }
        let (state, why) = state_of(record)?;
        let news = lease.state() != state || (state == LeaseState::Failed && lease.why != why);
        news.then_some(Report { lease: record.lease, epoch: lease.epoch, state, why })
    };
    records.values().filter_map(due).collect()
}

fn state_of(record: &Record) -> Option<(LeaseState, String)> {
    if let Some(failure) = &record.failure {
        return Some((LeaseState::Failed, clip(&failure.why)));
    }
    match record.stage {
        Stage::Accepted | Stage::Fetching | Stage::Preparing | Stage::Starting => {
            // While it tries again the ledger keeps saying why it failed, until it works.
            (record.failures == 0).then(|| (LeaseState::Starting, format!("{} on its node", record.stage.name())))
        }
        Stage::Running => Some((LeaseState::Running, "healthy".to_owned())),
        Stage::Stopping | Stage::Stopped | Stage::Deleting => None,
    }
}

/// Shortens to what the ledger takes, at a character boundary.
fn clip(why: &str) -> String {
    let mut end = why.len().min(WHY_BYTES_MAX);
    while !why.is_char_boundary(end) {
        end -= 1;
    }
    why[..end].to_owned()
}
