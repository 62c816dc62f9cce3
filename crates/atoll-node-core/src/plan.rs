//! The plan: what to do next, and why, as data.

use std::collections::BTreeMap;

use atoll_base::LeaseId;

use crate::{
    desired::{Desired, Goal, Want},
    record::{Event, Record, Stage, retry_ms},
};

/// What the node knows about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Height of the newest block that was acted on. Views older than that are not acted on.
    pub height: u64,
    /// The journal.
    pub records: BTreeMap<LeaseId, Record>,
    /// Side effects that are under way now.
    pub busy: BTreeMap<LeaseId, Action>,
    /// Images for leases that others run.
    pub prefetched: BTreeMap<LeaseId, Prefetch>,
    /// Leases that could not be stopped or deleted, and when to try again.
    pub stuck: BTreeMap<LeaseId, Stuck>,
}

/// A lease that could not be stopped or deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// In plain words.
    pub why: String,
    /// Failures in a row.
    pub failures: u32,
    /// Ledger time of the next attempt.
    pub retry_at_ms: u64,
}

impl Observed {
    /// What a daemon finds in its journal when it starts.
    pub fn restore(records: BTreeMap<LeaseId, Record>) -> Self {
        let height = records.values().map(|record| record.height).max().unwrap_or_default();
        Self { height, records, ..Self::default() }
    }

    /// Takes note of a step that is about to be done. The caller writes the record to its journal before the side
    /// effect. Returns whether there is a side effect at all.
    pub fn begin(&mut self, step: &Step, desired: &Desired, now_ms: u64) -> bool {
        self.height = self.height.max(desired.height);
        let lease = step.lease;
        match (step.action, desired.leases.get(&lease), self.records.get_mut(&lease)) {
            (Action::Accept, Some(want), None) => {
                self.prefetched.remove(&lease);
                self.records.insert(lease, Record::accept(lease, want.clone(), desired.height));
                return false;
            }
            (Action::Renew, Some(want), Some(record)) => {
                record.want = want.clone();
                record.height = desired.height;
                return false;
            }
            (Action::Prefetch, _, None) => {}
            (action, _, Some(record)) => {
                let Some(stage) = action.stage() else { return false };
                record.height = desired.height;
                record.apply(Event::Began(stage), now_ms);
            }
            _ => return false,
        }
        self.busy.insert(lease, step.action);
        true
    }

    /// Takes note of how a side effect ended. Ends of interrupted ones are ignored. Returns whether the record changed.
    pub fn finish(
        &mut self,
        lease: LeaseId,
        action: Action,
        outcome: Result<(), String>,
        desired: &Desired,
        now_ms: u64,
    ) -> bool {
        if self.busy.get(&lease) != Some(&action) {
            return false;
        }
        self.busy.remove(&lease);
        match (action, outcome) {
            (Action::Prefetch, outcome) => {
                let before = self.prefetched.get(&lease).cloned().unwrap_or_default();
                if let Some(want) = desired.standbys.get(&lease) {
                    self.prefetched.insert(lease, before.after(want.spec_hash, outcome, now_ms));
                }
                false
            }
            (Action::Stop | Action::Delete, Err(why)) => {
                let failures = self.stuck.get(&lease).map_or(1, |stuck| stuck.failures.saturating_add(1));
                let retry_at_ms = now_ms.saturating_add(retry_ms(failures));
                self.stuck.insert(lease, Stuck { why, failures, retry_at_ms });
                false
            }
            (Action::Delete, Ok(())) => {
                self.stuck.remove(&lease);
                self.records.remove(&lease).is_some()
            }
            (action, outcome) => {
                self.stuck.remove(&lease);
                let (Some(record), Some(stage)) = (self.records.get_mut(&lease), action.stage()) else { return false };
                let event = outcome.map_or_else(Event::Failed, |()| Event::Done(stage));
                record.apply(event, now_ms)
            }
        }
    }
}

/// How far the image of a standby is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prefetch {
    /// Hash of the spec whose image is meant.
    pub spec_hash: [u8; 32],
    /// Whether it is complete.
    pub done: bool,
    /// Failures in a row.
    pub failures: u32,
    /// Ledger time of the next attempt.
    pub retry_at_ms: u64,
    /// Why the last attempt failed.
    pub why: Option<String>,
}

impl Prefetch {
    /// The outcome of an attempt.
    #[must_use]
    pub fn after(&self, spec_hash: [u8; 32], outcome: Result<(), String>, now_ms: u64) -> Self {
        let before = if self.spec_hash == spec_hash { self.failures } else { 0 };
        let failures = if outcome.is_ok() { 0 } else { before.saturating_add(1) };
        let retry_at_ms = now_ms.saturating_add(retry_ms(failures));
        Self { spec_hash, done: outcome.is_ok(), failures, retry_at_ms, why: outcome.err() }
    }
}

/// Something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Write a record for a new lease.
    Accept,
    /// Write down that the lease is suspended, or not any more.
    Renew,
    /// Fetch the image.
    Fetch,
    /// Make root file system and network.
    Prepare,
    /// Start the process, or adopt the one that runs.
    Start,
    /// Take process and network away, keep the data. Interrupts a fetch.
    Stop,
    /// Delete the data and the record.
    Delete,
    /// Fetch the image of a lease that another node runs.
    Prefetch,
}

impl Action {
    /// The word for people and for the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Renew => "renew",
            Self::Fetch => "fetch",
            Self::Prepare => "prepare",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Delete => "delete",
            Self::Prefetch => "prefetch",
        }
    }

    /// The stage that this side effect is.
    pub const fn stage(self) -> Option<Stage> {
        match self {
            Self::Accept | Self::Renew | Self::Prefetch => None,
            Self::Fetch => Some(Stage::Fetching),
            Self::Prepare => Some(Stage::Preparing),
            Self::Start => Some(Stage::Starting),
            Self::Stop => Some(Stage::Stopping),
            Self::Delete => Some(Stage::Deleting),
        }
    }
}

/// One step of the plan. Steps of different leases may be done at the same time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The lease that it is for.
    pub lease: LeaseId,
    /// Its epoch.
    pub epoch: u64,
    /// What to do.
    pub action: Action,
    /// In plain words.
    pub why: String,
}

/// At most one step for each lease, in the order of leases. Call again after anything changed, at the latest when
/// [`wake_at_ms`] says.
pub fn plan(desired: &Desired, observed: &Observed, now_ms: u64) -> Vec<Step> {
    if desired.height < observed.height {
        return Vec::new();
    }
    let mut steps = Vec::new();
    for (lease, record) in &observed.records {
        let want = desired.leases.get(lease);
        let busy = observed.busy.get(lease).copied();
        let Some((action, why)) = next(record, want, now_ms) else { continue };
        let interrupts = action == Action::Stop && busy == Some(Action::Fetch);
        let waits = observed.stuck.get(lease).is_some_and(|stuck| stuck.retry_at_ms > now_ms);
        if (busy.is_none() || interrupts) && !waits {
            steps.push(Step { lease: *lease, epoch: record.want.epoch, action, why });
        }
    }
    for (lease, want) in &desired.leases {
        if !observed.records.contains_key(lease) && !observed.busy.contains_key(lease) && want.goal == Goal::Run {
            steps.push(Step { lease: *lease, epoch: want.epoch, action: Action::Accept, why: want.why.clone() });
        }
    }
    for (lease, want) in &desired.standbys {
        let known = observed.prefetched.get(lease).filter(|p| p.spec_hash == want.spec_hash);
        let wanted = known.is_none_or(|p| !p.done && p.retry_at_ms <= now_ms);
        if wanted && !observed.busy.contains_key(lease) && !observed.records.contains_key(lease) {
            let why = format!("this node is the standby of {}/{}", want.deployment_name, want.service_name);
            steps.push(Step { lease: *lease, epoch: want.epoch, action: Action::Prefetch, why });
        }
    }
    steps.sort_by_key(|step| step.lease);
    steps
}

/// The next ledger time after `now_ms` at which waiting alone changes the plan.
pub fn wake_at_ms(observed: &Observed, now_ms: u64) -> Option<u64> {
    let failures = observed.records.values().filter_map(|r| r.failure.as_ref()).map(|f| f.retry_at_ms);
    let prefetches = observed.prefetched.values().filter(|p| !p.done).map(|p| p.retry_at_ms);
    let stuck = observed.stuck.values().map(|stuck| stuck.retry_at_ms);
    failures.chain(prefetches).chain(stuck).filter(|at_ms| *at_ms > now_ms).min()
}

/// The next step for one record.
fn next(record: &Record, want: Option<&Want>, now_ms: u64) -> Option<(Action, String)> {
    match want {
        // The ledger never lowers an epoch: a view that does so is not one to act on.
        Some(want) if want.epoch < record.want.epoch => None,
        Some(want) if want.epoch > record.want.epoch => {
            let why = format!("the lease is now at epoch {}, this copy is of epoch {}", want.epoch, record.want.epoch);
            Some(towards_deleted(record, why))
        }
        Some(want) if *want != record.want && same_terms(want, &record.want) => Some((Action::Renew, want.why.clone())),
        Some(want) => match want.goal {
            _ if !same_terms(want, &record.want) => Some(towards_deleted(record, "the lease's terms changed".into())),
            Goal::Run => towards_running(record, now_ms),
            Goal::Hold => towards_stopped(record).map(|action| (action, want.why.clone())),
        },
        None => Some(towards_deleted(record, "the lease ended or moved to another node".into())),
    }
}

/// Whether the same workload satisfies both.
fn same_terms(a: &Want, b: &Want) -> bool {
    let key = |w: &Want| (w.epoch, w.deployment, w.service, w.isolation, w.workload, w.needs, w.http_port, w.spec_hash);
    key(a) == key(b)
}

fn towards_running(record: &Record, now_ms: u64) -> Option<(Action, String)> {
    if let Some(failure) = &record.failure {
        return if !failure.cleaned {
            Some((Action::Stop, format!("clean up after a failure: {}", failure.why)))
        } else if failure.retry_at_ms <= now_ms {
            Some((Action::Fetch, format!("try again after: {}", failure.why)))
        } else {
            None
        };
    }
    let action = match (record.stage, record.done) {
        (Stage::Accepted | Stage::Stopped, _) | (Stage::Fetching, false) => Action::Fetch,
        (Stage::Fetching, true) | (Stage::Preparing, false) => Action::Prepare,
        (Stage::Preparing, true) | (Stage::Starting, false) => Action::Start,
        (Stage::Starting, true) | (Stage::Running, _) => return None,
        (Stage::Stopping, _) => Action::Stop,
        (Stage::Deleting, _) => Action::Delete,
    };
    Some((action, record.want.why.clone()))
}

fn towards_stopped(record: &Record) -> Option<Action> {
    match (&record.failure, record.stage) {
        (Some(failure), _) => (!failure.cleaned).then_some(Action::Stop),
        (None, Stage::Accepted | Stage::Stopped) => None,
        (None, Stage::Deleting) => Some(Action::Delete),
        (None, _) => Some(Action::Stop),
    }
}

fn towards_deleted(record: &Record, why: String) -> (Action, String) {
    (towards_stopped(record).unwrap_or(Action::Delete), why)
}

#[cfg(test)]
mod tests;
