//! One workload as the node's journal knows it, and how events change it.

use atoll_base::LeaseId;
use serde::{Deserialize, Serialize};

use crate::{
    desired::Want,
    limits::{HEALTHY_RESET_MS, RETRY_FIRST_MS, RETRY_MAX_MS},
};

/// How far a workload has come. A stage is written down before its side effect begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Known, nothing done yet.
    Accepted,
    /// Its image is being fetched.
    Fetching,
    /// Its root file system and network are being made.
    Preparing,
    /// Its process is being started, or runs and is not healthy yet.
    Starting,
    /// It is healthy.
    Running,
    /// Its process and network are being taken away.
    Stopping,
    /// It does not run; its data is kept.
    Stopped,
    /// It is being deleted with its data.
    Deleting,
}

impl Stage {
    /// The word for people and for the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Fetching => "fetching",
            Self::Preparing => "preparing",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Deleting => "deleting",
        }
    }
}

/// A stage that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// In plain words.
    pub why: String,
    /// Ledger time of the next attempt, ms.
    pub retry_at_ms: u64,
    /// Whether what it left behind (a process, a network) has been taken away.
    pub cleaned: bool,
}

/// What the journal holds about one workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The lease.
    pub lease: LeaseId,
    /// What the ledger asked for when it was accepted. Its epoch is this copy's fencing token.
    pub want: Want,
    /// Height of the newest block that was acted on for it.
    pub height: u64,
    /// How far it has come, or how far it was when it failed.
    pub stage: Stage,
    /// Whether the side effect of `stage` is complete.
    pub done: bool,
    /// Set while it waits for its next attempt.
    pub failure: Option<Failure>,
    /// Failures since it last ran healthy for a while.
    pub failures: u32,
    /// How often its process was started.
    pub starts: u32,
    /// Ledger time since when it is healthy, ms.
    pub healthy_since_ms: Option<u64>,
}

/// What happened to a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A side effect is about to begin.
    Began(Stage),
    /// The side effect of this stage is complete.
    Done(Stage),
    /// The health check passed.
    Healthy,
    /// A side effect failed, the process ended, or it stopped being healthy.
    Failed(String),
}

impl Record {
    /// A lease that was just seen for the first time.
    pub fn accept(lease: LeaseId, want: Want, height: u64) -> Self {
        Self {
            lease,
            want,
            height,
            stage: Stage::Accepted,
            done: true,
            failure: None,
            failures: 0,
            starts: 0,
            healthy_since_ms: None,
        }
    }

    /// Changes the record as the event says. Events that no longer fit its stage (they were on the way while it
    /// changed) are ignored; returns whether anything changed.
    pub fn apply(&mut self, event: Event, now_ms: u64) -> bool {
        let before = self.clone();
        match event {
            Event::Began(stage) => self.begin(stage),
            Event::Done(Stage::Stopping) if self.failure.is_some() => {
                if let Some(failure) = &mut self.failure {
                    failure.cleaned = true;
                }
            }
            Event::Done(Stage::Stopping) if self.stage == Stage::Stopping => {
                self.stage = Stage::Stopped;
                self.done = true;
            }
            Event::Done(stage) if self.stage == stage && self.failure.is_none() => self.done = true,
            Event::Healthy if self.stage == Stage::Starting && self.done && self.failure.is_none() => {
                self.stage = Stage::Running;
                self.healthy_since_ms = Some(now_ms);
            }
            Event::Failed(why) if self.may_fail() => self.fail(why, now_ms),
            Event::Done(_) | Event::Healthy | Event::Failed(_) => {}
        }
        *self != before
    }

    /// Whether its process may exist.
    pub fn may_have_process(&self) -> bool {
        match (&self.failure, self.stage) {
            (Some(failure), stage) => stage >= Stage::Starting && !failure.cleaned,
            (None, Stage::Starting | Stage::Running | Stage::Stopping) => true,
            (None, _) => false,
        }
    }

    /// The word for people and for the API.
    pub fn state(&self) -> &'static str {
        if self.failure.is_some() { "failed" } else { self.stage.name() }
    }

    /// Why it is as it is.
    pub fn why(&self) -> &str {
        match &self.failure {
            Some(failure) => &failure.why,
            None if self.stage == Stage::Running => "healthy",
            None => &self.want.why,
        }
    }

    fn begin(&mut self, stage: Stage) {
        // Cleaning up after a failure keeps the failure: that is what people want to read while it waits.
        if stage == Stage::Stopping && self.failure.is_some() {
            return;
        }
        if stage == Stage::Starting {
            self.starts = self.starts.saturating_add(1);
        }
        self.failure = None;
        self.healthy_since_ms = None;
        self.stage = stage;
        self.done = false;
    }

    fn may_fail(&self) -> bool {
        self.failure.is_none()
            && matches!(self.stage, Stage::Fetching | Stage::Preparing | Stage::Starting | Stage::Running)
    }

    fn fail(&mut self, why: String, now_ms: u64) {
        let ran_ms = self.healthy_since_ms.take().map_or(0, |since| now_ms.saturating_sub(since));
        self.failures = if ran_ms >= HEALTHY_RESET_MS { 1 } else { self.failures.saturating_add(1) };
        let retry_at_ms = now_ms.saturating_add(retry_ms(self.failures));
        self.failure = Some(Failure { why, retry_at_ms, cleaned: false });
    }
}

/// How long to wait after so many failures in a row.
pub fn retry_ms(failures: u32) -> u64 {
    let doublings = failures.saturating_sub(1).min(32);
    RETRY_FIRST_MS.saturating_mul(1 << doublings).min(RETRY_MAX_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_are_bounded() {
        assert_eq!([1, 2, 3, 4].map(retry_ms), [1_000, 2_000, 4_000, 8_000]);
        assert_eq!(retry_ms(0), RETRY_FIRST_MS);
        assert_eq!(retry_ms(u32::MAX), RETRY_MAX_MS);
    }
}
