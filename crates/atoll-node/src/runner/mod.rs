//! Carries out the plan. One task owns the journal and all decisions; side effects run in tasks of their own, one for
//! each lease at a time, and send back how they ended.

pub(crate) mod firewall;
pub(crate) mod health;
pub(crate) mod journal;
pub(crate) mod machine;
pub(crate) mod vault;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use atoll_base::{LeaseId, NodeId};
use atoll_node_core::{
    Action, Desired, Event, Observed, Record, Stage, Step, limits::CUT_OFF_GRACE_TIMEOUTS, plan, plan::wake_at_ms,
};
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};

use crate::{
    board::Board,
    config::Checked,
    images::{Digest, ImageStore, fetch::Fetcher},
    ledger::{Verified, follow::Ledger, send::Records},
    limits::COLLECT_EVERY,
    probe::Found,
};
use journal::{Journal, JournalError};
use machine::Machine;
use vault::Vault;

/// Messages that wait for the runner.
const MESSAGES_MAX: usize = 256;
/// Longest sleep when nothing is known to be due.
const SLEEP_MAX: Duration = Duration::from_secs(10);

/// What comes back from side effects and health checks.
#[derive(Debug)]
pub(crate) enum Message {
    /// A side effect ended.
    Finished { lease: LeaseId, action: Action, outcome: Result<(), String> },
    /// News about the health of a workload, in its `starts`-th start.
    Health { lease: LeaseId, starts: u32, event: Event },
    /// The image that a lease needs, so that it is kept.
    Image { lease: LeaseId, digest: Digest },
}

/// Does what the plan says.
pub(crate) struct Runner {
    me: NodeId,
    grace_ms: u64,
    verified: watch::Receiver<Verified>,
    journal: Journal,
    observed: Observed,
    desired: Arc<Desired>,
    machine: Arc<Machine>,
    store: ImageStore,
    tasks: BTreeMap<LeaseId, AbortHandle>,
    watches: BTreeMap<LeaseId, (u32, AbortHandle)>,
    images: BTreeMap<LeaseId, Digest>,
    sender: mpsc::Sender<Message>,
    messages: mpsc::Receiver<Message>,
    board: watch::Sender<Board>,
    records: watch::Sender<Records>,
    problem: Option<String>,
    collected: Instant,
}

impl Runner {
    /// Reads the journal.
    #[allow(clippy::too_many_arguments, reason = "called once; a struct would only repeat the fields")]
    pub(crate) fn new(
        checked: &Arc<Checked>,
        ledger: &Ledger,
        store: ImageStore,
        fetcher: Fetcher,
        vault: Vault,
        found: watch::Receiver<Found>,
        board: watch::Sender<Board>,
        records: watch::Sender<Records>,
    ) -> Result<Self, JournalError> {
        let (journal, known) = Journal::open(checked.config.data.join("journal"))?;
        let (sender, messages) = mpsc::channel(MESSAGES_MAX);
        let machine = Machine::new(checked.clone(), ledger.clone(), store.clone(), fetcher, vault, found);
        Ok(Self {
            me: checked.id,
            grace_ms: checked.charter.timing.heartbeat_timeout_ms.saturating_mul(CUT_OFF_GRACE_TIMEOUTS),
            verified: ledger.verified(),
            journal,
            observed: Observed::restore(known),
            desired: Arc::default(),
            machine: Arc::new(machine),
            store,
            tasks: BTreeMap::new(),
            watches: BTreeMap::new(),
            images: BTreeMap::new(),
            sender,
            messages,
            board,
            records,
            problem: None,
            collected: Instant::now(),
        })
    }

    /// Runs until `stop` is set, then stops all workloads (their data and the journal stay) and returns.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut verified = self.verified.clone();
        self.machine.adopt(self.observed.records.values());
        self.watch_adopted();
        self.publish();
        let machine = self.machine.clone();
        let filter = tokio::spawn(async move { machine.keep_filter().await });
        loop {
            let now = verified.borrow_and_update().clone();
            self.look(&now);
            self.carry_out(now.now_ms());
            self.collect(&now);
            self.publish();
            let wake = wake_at_ms(&self.observed, now.now_ms())
                .map_or(SLEEP_MAX, |at_ms| Duration::from_millis(at_ms.saturating_sub(now.now_ms())).min(SLEEP_MAX));
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                Some(message) = self.messages.recv() => self.take(message),
                changed = verified.changed() => if changed.is_err() { break },
                () = tokio::time::sleep(wake) => {}
            }
        }
        filter.abort();
        self.stop_all().await;
    }

    /// Reads what the ledger asks for, if it is known.
    fn look(&mut self, now: &Verified) {
        let Some(view) = &now.view else { return };
        let silent_ms = now.silent_ms();
        let fresh = Desired::of(view, self.me, now.view_height);
        let desired = if silent_ms > self.grace_ms { fresh.after_grace(silent_ms) } else { fresh };
        if *self.desired != desired {
            self.desired = Arc::new(desired);
            self.machine.view_changed(view.clone());
        }
    }

    fn carry_out(&mut self, now_ms: u64) {
        // Steps without a side effect make the next step possible at once; there are at most a few of them in a row.
        for _ in 0..8 {
            let steps = plan(&self.desired, &self.observed, now_ms);
            let mut again = false;
            for step in steps {
                again |= !self.begin(&step, now_ms);
            }
            if !again {
                return;
            }
        }
    }

    /// Begins one step. Returns whether a side effect is under way.
    fn begin(&mut self, step: &Step, now_ms: u64) -> bool {
        let lease = step.lease;
        if let Some(task) = self.tasks.remove(&lease) {
            task.abort();
        }
        let side_effect = self.observed.begin(step, &self.desired, now_ms);
        if let Some(record) = self.observed.records.get(&lease).cloned() {
            if let Err(error) = self.journal.write(&record) {
                // Nothing is done that was not written down.
                self.problem = Some(error.to_string());
                self.observed.finish(lease, step.action, Err(error.to_string()), &self.desired, now_ms);
                return true;
            }
            self.problem = None;
        }
        if !side_effect {
            return false;
        }
        tracing::info!(lease = lease.0, epoch = step.epoch, action = step.action.name(), why = step.why);
        if step.action == Action::Stop {
            self.unwatch(lease);
        }
        let want = match self.observed.records.get(&lease) {
            Some(record) => record.want.clone(),
            None => match self.desired.standbys.get(&lease) {
                Some(want) => want.clone(),
                None => return true,
            },
        };
        let (machine, sender, action) = (self.machine.clone(), self.sender.clone(), step.action);
        let task = tokio::spawn(async move {
            let outcome = machine.act(lease, &want, action, &sender).await;
            if sender.send(Message::Finished { lease, action, outcome }).await.is_err() {
                tracing::trace!("the runner is gone");
            }
        });
        self.tasks.insert(lease, task.abort_handle());
        true
    }

    fn take(&mut self, message: Message) {
        let now_ms = self.verified.borrow().now_ms();
        match message {
            Message::Finished { lease, action, outcome } => {
                if let Err(why) = &outcome {
                    tracing::info!(lease = lease.0, action = action.name(), why, "failed");
                }
                self.tasks.remove(&lease);
                let started = action == Action::Start && outcome.is_ok();
                if self.observed.finish(lease, action, outcome, &self.desired, now_ms) {
                    self.write_down(lease);
                }
                if let Some(record) = self.observed.records.get(&lease).filter(|_| started) {
                    self.watch(&record.clone());
                }
            }
            Message::Health { lease, starts, event } => {
                let Some(record) = self.observed.records.get_mut(&lease) else { return };
                if record.starts == starts && record.apply(event, now_ms) {
                    tracing::info!(lease = lease.0, state = record.state(), why = record.why());
                    self.write_down(lease);
                }
            }
            Message::Image { lease, digest } => {
                self.images.insert(lease, digest);
            }
        }
    }

    /// Brings the journal up to what happened. If that fails the record in memory is right, and a restart finds out
    /// again by looking at the machine.
    fn write_down(&mut self, lease: LeaseId) {
        let outcome = match self.observed.records.get(&lease) {
            Some(record) => self.journal.write(record),
            None => self.journal.remove(lease),
        };
        self.problem = outcome.err().map(|error| error.to_string());
    }

    /// Goes on watching what ran before the daemon was restarted.
    fn watch_adopted(&mut self) {
        let started = |record: &&Record| {
            record.done && record.failure.is_none() && record.stage == Stage::Starting || record.stage == Stage::Running
        };
        let adopted: Vec<Record> = self.observed.records.values().filter(started).cloned().collect();
        for record in adopted {
            self.watch(&record);
        }
    }

    fn watch(&mut self, record: &Record) {
        self.unwatch(record.lease);
        let machine = self.machine.clone();
        let (record, sender) = (record.clone(), self.sender.clone());
        let (lease, starts) = (record.lease, record.starts);
        let task = tokio::spawn(async move { machine.watch(&record, sender).await });
        self.watches.insert(lease, (starts, task.abort_handle()));
    }

    fn unwatch(&mut self, lease: LeaseId) {
        if let Some((_, watch)) = self.watches.remove(&lease) {
            watch.abort();
        }
    }

    /// Deletes images that are of no use any more, from time to time.
    fn collect(&mut self, now: &Verified) {
        if self.collected.elapsed() < COLLECT_EVERY || now.view.is_none() {
            return;
        }
        self.collected = Instant::now();
        let wanted =
            |lease: &LeaseId| self.observed.records.contains_key(lease) || self.desired.standbys.contains_key(lease);
        self.images.retain(|lease, _| wanted(lease));
        let mut used: BTreeSet<Digest> = self.images.values().copied().collect();
        let records: Vec<Record> = self.observed.records.values().cloned().collect();
        let (machine, store, now_ms) = (self.machine.clone(), self.store.clone(), now.now_ms());
        tokio::task::spawn_blocking(move || {
            used.extend(records.iter().filter_map(|record| machine.image_of(record.lease, &record.want)));
            match store.collect(&used, now_ms) {
                Ok(0) => {}
                Ok(deleted) => tracing::info!(deleted, "deleted unused images"),
                Err(error) => tracing::warn!(%error, "cannot delete unused images"),
            }
        });
    }

    fn publish(&self) {
        self.board.send_replace(Board {
            desired: self.desired.clone(),
            observed: Arc::new(self.observed.clone()),
            problem: self.problem.clone().or_else(|| self.machine.problem()),
        });
        self.records.send_if_modified(|known| {
            let changed = **known != self.observed.records;
            if changed {
                *known = Arc::new(self.observed.records.clone());
            }
            changed
        });
    }

    /// An orderly end: processes and networks go, data and journal stay for the next start.
    async fn stop_all(&mut self) {
        for (_, task) in std::mem::take(&mut self.tasks) {
            task.abort();
        }
        let leases: Vec<LeaseId> = self.watches.keys().copied().collect();
        for lease in leases {
            self.unwatch(lease);
        }
        let now_ms = self.verified.borrow().now_ms();
        let mut stops = tokio::task::JoinSet::new();
        for record in self.observed.records.values_mut() {
            // The next start finds them stopped and starts them again, with the same lease.
            record.apply(Event::Began(Stage::Stopping), now_ms);
            if let Err(error) = self.journal.write(record) {
                tracing::warn!(%error, "cannot write the journal while stopping");
            }
            let (machine, lease, want) = (self.machine.clone(), record.lease, record.want.clone());
            let sender = self.sender.clone();
            stops.spawn(async move { (lease, machine.act(lease, &want, Action::Stop, &sender).await) });
        }
        while let Some(stopped) = stops.join_next().await {
            let Ok((lease, outcome)) = stopped else { continue };
            if let Err(why) = outcome {
                tracing::warn!(lease = lease.0, why, "could not be stopped; the next start tries again");
                continue;
            }
            if let Some(record) = self.observed.records.get_mut(&lease) {
                record.apply(Event::Done(Stage::Stopping), now_ms);
                if let Err(error) = self.journal.write(record) {
                    tracing::warn!(%error, "cannot write the journal while stopping");
                }
            }
        }
        self.machine.stop().await;
    }
}
