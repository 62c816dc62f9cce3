//! The planner against a model of the world: a ledger that changes its mind, side effects that fail, a daemon that dies.

use alloy_primitives::{Address, B256, U256};
use atoll_base::{
    NodeId,
    schema::{Capacity, DeploymentRecord, LeaseRecord, LeaseState, RegionView, ServiceRecord},
};
use proptest::prelude::*;

use super::*;

const ME: NodeId = NodeId([1; 32]);
const OTHER: NodeId = NodeId([2; 32]);
const LEASES: u64 = 3;

/// What can happen between two looks at the plan.
#[derive(Debug, Clone)]
enum Op {
    /// The ledger gives the lease to a node, with or without another as standby.
    Move { lease: u64, to_me: bool },
    /// The ledger changes the lease's state.
    Mark { lease: u64, state: LeaseState },
    /// The ledger forgets the lease.
    Drop { lease: u64 },
    /// The node is shown the view of some height, old ones included.
    Show { age: usize },
    /// The node begins everything that is planned.
    Begin,
    /// The oldest side effect ends.
    End { ok: bool },
    /// A workload gets healthy, or dies.
    Health { lease: u64, ok: bool },
    /// The daemon dies and starts again; side effects under way were done, or not.
    Crash { done: bool },
    /// Time passes.
    Wait { ms: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let lease = 1..=LEASES;
    let states = prop::sample::select(vec![
        LeaseState::Waiting,
        LeaseState::Granted,
        LeaseState::Running,
        LeaseState::Failed,
        LeaseState::Suspended,
        LeaseState::Ended,
    ]);
    prop_oneof![
        2 => (lease.clone(), any::<bool>()).prop_map(|(lease, to_me)| Op::Move { lease, to_me }),
        1 => (lease.clone(), states).prop_map(|(lease, state)| Op::Mark { lease, state }),
        1 => lease.clone().prop_map(|lease| Op::Drop { lease }),
        3 => (0usize..4).prop_map(|age| Op::Show { age }),
        5 => Just(Op::Begin),
        6 => prop::bool::weighted(0.8).prop_map(|ok| Op::End { ok }),
        2 => (lease, any::<bool>()).prop_map(|(lease, ok)| Op::Health { lease, ok }),
        1 => any::<bool>().prop_map(|done| Op::Crash { done }),
        2 => (0u64..20_000).prop_map(|ms| Op::Wait { ms }),
    ]
}

/// Ledger, daemon and machine together.
struct World {
    views: Vec<RegionView>,
    desired: Desired,
    shown: usize,
    observed: Observed,
    queue: Vec<Step>,
    /// Epochs of the processes that exist, by lease: what the machine really runs.
    processes: BTreeMap<LeaseId, Vec<u64>>,
    /// Newest epoch that ever had a process.
    newest: BTreeMap<LeaseId, u64>,
    now_ms: u64,
}

impl World {
    fn new() -> Self {
        Self {
            views: vec![RegionView::default()],
            desired: Desired::default(),
            shown: 0,
            observed: Observed::default(),
            queue: Vec::new(),
            processes: BTreeMap::new(),
            newest: BTreeMap::new(),
            now_ms: 1_000,
        }
    }

    fn step(&mut self, op: &Op) {
        match op {
            Op::Move { lease, to_me } => {
                let (node, standby) = if *to_me { (ME, OTHER) } else { (OTHER, ME) };
                self.change(*lease, |record| {
                    record.node = node.word();
                    record.standby = standby.word();
                    record.epoch += 1;
                    record.state = LeaseState::Granted.code();
                });
            }
            Op::Mark { lease, state } => self.change(*lease, |record| record.state = state.code()),
            Op::Drop { lease } => {
                let mut view = self.newest_view();
                view.leases.remove(lease);
                self.views.push(view);
            }
            Op::Show { age } => {
                self.shown = self.views.len() - 1 - age.min(&(self.views.len() - 1));
                self.desired = Desired::of(&self.views[self.shown], ME, self.shown as u64);
            }
            Op::Begin => self.begin(),
            Op::End { ok } => self.end(*ok),
            Op::Health { lease, ok } => self.health(LeaseId(*lease), *ok),
            Op::Crash { done } => self.crash(*done),
            Op::Wait { ms } => self.now_ms += ms,
        }
        self.check();
    }

    fn newest_view(&self) -> RegionView {
        self.views.last().cloned().unwrap_or_default()
    }

    fn change(&mut self, lease: u64, with: impl FnOnce(&mut LeaseRecord)) {
        let mut view = self.newest_view();
        add_deployment(&mut view);
        // A lease's number is never used again with a lower epoch: heights grow, so they make a fresh floor.
        let floor = self.views.len() as u64;
        with(view.leases.entry(lease).or_insert_with(|| lease_record(lease, floor)));
        self.views.push(view);
    }

    fn begin(&mut self) {
        for step in plan(&self.desired, &self.observed, self.now_ms) {
            assert!(self.desired.height >= self.observed.height, "acted on an old view");
            if let Some(record) = self.observed.records.get(&step.lease) {
                assert!(record.height <= self.desired.height, "acted on a view older than the record's");
            }
            if step.action == Action::Stop {
                self.queue.retain(|queued| queued.lease != step.lease);
            }
            if self.observed.begin(&step, &self.desired, self.now_ms) {
                self.queue.push(step);
            }
        }
    }

    fn end(&mut self, ok: bool) {
        if self.queue.is_empty() {
            return;
        }
        let step = self.queue.remove(0);
        if ok {
            self.effect(&step);
        }
        let outcome = if ok { Ok(()) } else { Err("the model said so".to_owned()) };
        self.observed.finish(step.lease, step.action, outcome, &self.desired, self.now_ms);
    }

    /// What the machine does: start adopts a process of the same epoch, and never finds one of another.
    fn effect(&mut self, step: &Step) {
        let copies = self.processes.entry(step.lease).or_default();
        match step.action {
            Action::Start => {
                let newest = self.newest.entry(step.lease).or_default();
                assert!(step.epoch >= *newest, "started epoch {} after epoch {newest}", step.epoch);
                *newest = step.epoch;
                if !copies.contains(&step.epoch) {
                    copies.push(step.epoch);
                }
            }
            Action::Stop => copies.clear(),
            Action::Delete => assert!(copies.is_empty(), "deleted a workload that runs"),
            Action::Accept | Action::Renew | Action::Fetch | Action::Prepare | Action::Prefetch => {}
        }
    }

    fn health(&mut self, lease: LeaseId, ok: bool) {
        let runs = self.processes.get(&lease).is_some_and(|copies| !copies.is_empty());
        let Some(record) = self.observed.records.get_mut(&lease) else { return };
        if ok && runs {
            record.apply(Event::Healthy, self.now_ms);
        } else if !ok {
            self.processes.remove(&lease);
            record.apply(Event::Failed("it ended with code 1".into()), self.now_ms);
        }
    }

    fn crash(&mut self, done: bool) {
        for step in std::mem::take(&mut self.queue) {
            if done {
                self.effect(&step);
            }
        }
        self.observed = Observed::restore(std::mem::take(&mut self.observed.records));
    }

    fn check(&self) {
        for (lease, copies) in &self.processes {
            assert!(copies.len() <= 1, "two copies of lease {lease}: epochs {copies:?}");
            if let Some(epoch) = copies.first() {
                let record = self.observed.records.get(lease).expect("a process without a record");
                assert_eq!(record.want.epoch, *epoch, "the record is of another epoch than the process");
            }
        }
    }

    /// Shows the newest view and lets everything succeed until nothing is planned.
    fn settle(&mut self) {
        self.step(&Op::Show { age: 0 });
        for _ in 0..200 {
            self.step(&Op::Begin);
            if self.queue.is_empty() {
                let leases: Vec<_> = self.observed.records.keys().copied().collect();
                for lease in leases {
                    self.health(lease, true);
                }
                if plan(&self.desired, &self.observed, self.now_ms).is_empty() {
                    match wake_at_ms(&self.observed, self.now_ms) {
                        Some(at_ms) => self.now_ms = at_ms,
                        None => break,
                    }
                }
            }
            self.step(&Op::End { ok: true });
        }
        assert_eq!(plan(&self.desired, &self.observed, self.now_ms), []);
    }
}

fn add_deployment(view: &mut RegionView) {
    if !view.deployments.is_empty() {
        return;
    }
    view.deployments.push(DeploymentRecord {
        id: 1,
        owner: Address::ZERO,
        name: "shop".into(),
        created_ms: 1,
        ended_ms: 0,
        escrow: U256::ZERO,
        charged: U256::ZERO,
        settled_ms: 1,
        suspended: false,
        services: 1,
        leases: (1..=LEASES).collect(),
    });
    let service = ServiceRecord {
        name: "web".into(),
        replicas: 1,
        isolation: 0,
        needs: Capacity::default(),
        http_port: 80,
        open_ports: vec![],
        constraints: vec![],
        spec_hash: B256::repeat_byte(7),
    };
    view.services.insert((1, 0), service);
}

fn lease_record(id: u64, epoch: u64) -> LeaseRecord {
    LeaseRecord {
        id,
        deployment: 1,
        service: 0,
        replica: 0,
        node: B256::ZERO,
        standby: B256::ZERO,
        epoch,
        workload: 2,
        state: LeaseState::Granted.code(),
        since_ms: 0,
        price_per_hour: U256::ZERO,
        why: String::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn planning_converges_with_one_copy_of_each_lease(ops in prop::collection::vec(op(), 0..60)) {
        let mut world = World::new();
        for op in &ops {
            world.step(op);
        }
        world.settle();
        let running: BTreeMap<LeaseId, u64> = world.desired.leases.iter()
            .filter(|(_, want)| want.goal == Goal::Run).map(|(lease, want)| (*lease, want.epoch)).collect();
        let processes: BTreeMap<LeaseId, u64> = world.processes.iter()
            .filter_map(|(lease, copies)| Some((*lease, *copies.first()?))).collect();
        prop_assert_eq!(processes, running);
        for lease in world.observed.records.keys() {
            prop_assert!(world.desired.leases.contains_key(lease), "a record that nobody wants was kept");
        }
        for lease in world.desired.standbys.keys() {
            prop_assert!(world.observed.prefetched.get(lease).is_some_and(|p| p.done));
        }
    }
}

#[test]
fn failures_wait_longer_each_time_and_forget_after_health() {
    let mut world = World::new();
    world.step(&Op::Move { lease: 1, to_me: true });
    world.settle();
    let record = |world: &World| world.observed.records[&LeaseId(1)].clone();
    assert_eq!(record(&world).stage, Stage::Running);
    let mut waits = Vec::new();
    for _ in 0..4 {
        world.step(&Op::Health { lease: 1, ok: false });
        waits.push(record(&world).failure.expect("it failed").retry_at_ms - world.now_ms);
        world.settle();
    }
    assert_eq!(waits, [1_000, 2_000, 4_000, 8_000]);
    world.now_ms += crate::limits::HEALTHY_RESET_MS;
    world.step(&Op::Health { lease: 1, ok: false });
    assert_eq!(record(&world).failures, 1);
}

#[test]
fn a_suspended_lease_stops_and_keeps_its_record() {
    let mut world = World::new();
    world.step(&Op::Move { lease: 1, to_me: true });
    world.settle();
    world.step(&Op::Mark { lease: 1, state: LeaseState::Suspended });
    world.settle();
    assert_eq!(world.observed.records[&LeaseId(1)].stage, Stage::Stopped);
    world.step(&Op::Mark { lease: 1, state: LeaseState::Granted });
    world.settle();
    assert_eq!(world.observed.records[&LeaseId(1)].stage, Stage::Running);
}

#[test]
fn beyond_the_grace_nothing_runs() {
    let mut world = World::new();
    world.step(&Op::Move { lease: 1, to_me: true });
    world.settle();
    world.desired = world.desired.clone().after_grace(3_600_000);
    let steps = plan(&world.desired, &world.observed, world.now_ms);
    assert_eq!(steps.iter().map(|step| step.action).collect::<Vec<_>>(), [Action::Renew]);
    world.observed.begin(&steps[0], &world.desired, world.now_ms);
    let steps = plan(&world.desired, &world.observed, world.now_ms);
    assert_eq!(steps.iter().map(|step| step.action).collect::<Vec<_>>(), [Action::Stop]);
}

#[test]
fn the_ledger_is_told_once_what_it_does_not_know() {
    let mut world = World::new();
    world.step(&Op::Move { lease: 1, to_me: true });
    world.settle();
    let mut view = world.newest_view();
    let told = crate::reports(&view, ME, &world.observed.records);
    assert_eq!(told.iter().map(|report| report.state).collect::<Vec<_>>(), [LeaseState::Running]);
    view.leases.get_mut(&1).expect("the lease").state = LeaseState::Running.code();
    assert_eq!(crate::reports(&view, ME, &world.observed.records), []);
    view.leases.get_mut(&1).expect("the lease").epoch += 1;
    view.leases.get_mut(&1).expect("the lease").state = LeaseState::Granted.code();
    assert_eq!(crate::reports(&view, ME, &world.observed.records), [], "a report of an old epoch");
}
