//! Any sequence of what people and machines may do: the invariants of [`World`] after each block, and a plain model of
//! what running costs and who may wait.

use std::collections::BTreeMap;

use alloy_primitives::{B256, U256};
use atoll_base::{
    contracts::{
        DEPLOYMENTS,
        IDeployments::{self, LeaseState as State},
        NODES,
    },
    schema::{self, LeaseRecord, LeaseState, NodeRecord, RegionView, ServiceRecord},
};
use proptest::{collection::vec, prelude::*};

use crate::world::*;

const MACHINES: usize = 4;

#[derive(Debug, Clone)]
enum Step {
    /// Cores, replicas, escrow in per cent of an hour.
    Deploy(u64, u32, u64),
    Report(usize, u8),
    Fund(usize, u64),
    Remove(usize),
    /// A machine changes what it offers.
    Offer(usize, u64),
    /// Time in seconds, and who sends heartbeats meanwhile, as a bit set.
    Pass(u64, u8),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..=4u64, 1..=3u32, 100..=150u64).prop_map(|(cores, n, escrow)| Step::Deploy(cores, n, escrow)),
        6 => (0..8usize, 0..4u8).prop_map(|(lease, state)| Step::Report(lease, state)),
        1 => (0..4usize, 1..=200u64).prop_map(|(at, share)| Step::Fund(at, share)),
        1 => (0..4usize).prop_map(Step::Remove),
        1 => (0..MACHINES, 1..=8u64).prop_map(|(machine, cores)| Step::Offer(machine, cores)),
        6 => (1..=1_500u64, prop::bits::u8::masked(0b1111)).prop_map(|(s, who)| Step::Pass(s, who | 1)),
    ]
}

/// A stretch of time in which a lease ran, as the model saw it.
struct Run {
    since_ms: u64,
    node: B256,
    price: U256,
}

/// What each deployment must have paid: no less than `least`, no more than `most`.
#[derive(Default)]
struct Model {
    running: BTreeMap<u64, Run>,
    least: BTreeMap<u64, U256>,
    most: BTreeMap<u64, U256>,
    heard_ms: BTreeMap<B256, u64>,
}

impl Model {
    /// Follows what became visible after a block.
    fn observe(&mut self, view: &RegionView, now_ms: u64) {
        let mut running = BTreeMap::new();
        for lease in view.leases.values().filter(|lease| lease.state() == LeaseState::Running) {
            let run = Run { since_ms: lease.since_ms, node: lease.node, price: lease.price_per_hour };
            running.insert(lease.id, (lease.deployment, run));
        }
        let ended: Vec<u64> = self.running.keys().copied().collect();
        for id in ended {
            let goes_on = running.get(&id).is_some_and(|(_, run)| run.since_ms == self.running[&id].since_ms);
            if goes_on {
                continue;
            }
            let run = self.running.remove(&id).expect("listed");
            // Removed deployments are not in the view; their money is checked by the supply.
            if let Some(lease) = view.leases.get(&id) {
                let until = if lease.node == run.node { now_ms } else { self.heard_ms[&run.node] };
                *self.least.entry(lease.deployment).or_default() += cost(&run, until);
                *self.most.entry(lease.deployment).or_default() += cost(&run, now_ms);
            }
        }
        for (id, (_, run)) in running {
            self.running.entry(id).or_insert(run);
        }
    }

    fn check(&self, view: &RegionView, now_ms: u64) {
        for deployment in &view.deployments {
            let of = |map: &BTreeMap<u64, U256>| map.get(&deployment.id).copied().unwrap_or_default();
            let leases = deployment.leases.iter().filter_map(|id| self.running.get(id));
            let so_far: U256 = leases.clone().map(|run| cost(run, now_ms)).sum();
            let settled: U256 = leases.map(|run| cost(run, deployment.settled_ms)).sum();
            assert!(deployment.charged <= of(&self.most) + so_far, "never more than what ran");
            if !deployment.suspended && !was_suspended(view, deployment.id) {
                assert!(deployment.charged >= of(&self.least) + settled, "never less than what ran and was settled");
            }
            let behind = now_ms.saturating_sub(deployment.settled_ms);
            assert!(behind <= SETTLE_MS + 10_000 || so_far.is_zero(), "settled in time");
        }
    }
}

/// A deployment that was once suspended may have stopped paying a moment before it stopped running.
fn was_suspended(view: &RegionView, id: u64) -> bool {
    view.deployments.iter().any(|d| d.id == id && d.escrow.is_zero())
}

fn cost(run: &Run, until_ms: u64) -> U256 {
    run.price * U256::from(until_ms.saturating_sub(run.since_ms)) / U256::from(3_600_000)
}

fn fits(node: &NodeRecord, service: &ServiceRecord) -> bool {
    node.online
        && node.used.cpu_milli + service.needs.cpu_milli <= node.total.cpu_milli
        && node.used.memory_bytes + service.needs.memory_bytes <= node.total.memory_bytes
        && node.used.disk_bytes + service.needs.disk_bytes <= node.total.disk_bytes
}

/// Nobody waits who need not, and nobody is on a dead node.
fn check_placement(world: &World, view: &RegionView) {
    let holds_key = |lease: &LeaseRecord, node: &NodeRecord| {
        let sealed = schema::sealed_view(&mut Storage(&world.state), lease.deployment, lease.service, node.id);
        !sealed.expect("readable").sealed_key.is_empty()
    };
    let service = |lease: &LeaseRecord| &view.services[&(lease.deployment, lease.service)];
    for lease in view.leases.values() {
        if view.deployments.iter().any(|d| d.id == lease.deployment && d.suspended) {
            assert!(matches!(lease.state(), LeaseState::Suspended | LeaseState::Waiting));
            continue;
        }
        match lease.state() {
            LeaseState::Waiting => {
                let mut fit = view.nodes.iter().filter(|node| fits(node, service(lease)));
                assert!(!fit.any(|node| holds_key(lease, node)), "lease {} waits in vain", lease.id);
            }
            LeaseState::Suspended | LeaseState::Ended => panic!("lease {} is {:?}", lease.id, lease.state()),
            _ => {
                let node = view.nodes.iter().find(|node| node.id == lease.node).expect("a registered node");
                assert!(node.online, "lease {} is on a dead node", lease.id);
                let others = || view.nodes.iter().filter(|other| other.id != lease.node);
                if lease.standby.is_zero() {
                    assert!(!others().any(|other| fits(other, service(lease))), "lease {} needs a standby", lease.id);
                } else {
                    assert!(others().any(|other| other.id == lease.standby && other.online));
                }
            }
        }
    }
}

struct Play {
    world: World,
    machines: Vec<Machine>,
    model: Model,
    names: usize,
}

impl Play {
    fn new() -> Self {
        let mut world = World::new();
        let machines: Vec<Machine> = (1..=MACHINES as u8).map(Machine::new).collect();
        let list: Vec<_> = machines.iter().map(|machine| (machine, capacity(6, 64))).collect();
        world.join(&list);
        let heard_ms = machines.iter().map(|machine| (machine.id(), world.now())).collect();
        Self { world, machines, model: Model { heard_ms, ..Model::default() }, names: 0 }
    }

    fn block(&mut self, ms: u64) {
        self.world.block(ms);
        self.model.observe(&self.world.view(), self.world.now());
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Deploy(cores, replicas, escrow) => self.deploy(cores, replicas, escrow),
            Step::Report(lease, state) => self.report(lease, state),
            Step::Fund(at, share) => {
                let Some(id) = self.pick(at) else { return };
                let price = self.world.read(DEPLOYMENTS, &IDeployments::getCall { id }).deployment.pricePerHour;
                let amount = price * U256::from(share) / U256::from(100);
                self.world.call(&user(2), DEPLOYMENTS, amount, &IDeployments::fundCall { id });
            }
            Step::Remove(at) => {
                let Some(id) = self.pick(at) else { return };
                self.world.call(&user(1), DEPLOYMENTS, U256::ZERO, &IDeployments::removeCall { id });
            }
            Step::Offer(machine, cores) => {
                let machine = &self.machines[machine];
                let claim = machine.claim(user(3).address(), capacity(cores, 64), &[]);
                let call = machine.register(self.world.region, &claim);
                self.world.call(&user(3), NODES, U256::ZERO, &call);
            }
            Step::Pass(seconds, who) => return self.pass(seconds, who),
        }
        self.block(500);
    }

    fn pick(&self, at: usize) -> Option<u64> {
        let alive: Vec<u64> = self.world.view().deployments.iter().map(|d| d.id).collect();
        (!alive.is_empty()).then(|| alive[at % alive.len()])
    }

    fn deploy(&mut self, cores: u64, replicas: u32, escrow: u64) {
        let mut web = service("web", cores, 1);
        web.replicas = replicas;
        let quote = IDeployments::quoteCall { services: vec![web.clone()] };
        let input = alloy_sol_types::SolCall::abi_encode(&quote);
        let answer = self.world.ask(user(1).address(), DEPLOYMENTS, U256::ZERO, input);
        if !matches!(answer, atoll_ledger_core::execute::Answer::Returned { .. }) {
            return;
        }
        self.names += 1;
        let (call, price) = self.world.deploy_call(&format!("app-{}", self.names), vec![web]);
        self.world.call(&user(1), DEPLOYMENTS, price * U256::from(escrow) / U256::from(100), &call);
    }

    fn report(&mut self, lease: usize, state: u8) {
        let view = self.world.view();
        let leases: Vec<&LeaseRecord> = view.leases.values().collect();
        let Some(lease) = leases.get(lease % leases.len().max(1)) else { return };
        let Some(machine) = self.machines.iter().find(|machine| machine.id() == lease.node) else { return };
        let state = [State::Starting, State::Failed, State::Running, State::Running][usize::from(state)];
        // Refused while suspended, which is fine: then nothing changes.
        self.world.report(machine, lease.id, state);
    }

    fn pass(&mut self, seconds: u64, who: u8) {
        let mut left = seconds * 1_000;
        while left > 0 {
            let step = left.min(TIMEOUT_MS - HEARTBEAT_MS);
            left -= step;
            let alive: Vec<&Machine> =
                self.machines.iter().enumerate().filter(|(at, _)| who & (1 << at) != 0).map(|(_, m)| m).collect();
            self.world.beat(&alive);
            let heard: Vec<B256> = alive.iter().map(|machine| machine.id()).collect();
            self.block(step);
            for id in heard {
                self.model.heard_ms.insert(id, self.world.now());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(16) })]

    #[test]
    fn whatever_happens_money_and_places_add_up(steps in vec(any_step(), 1..24)) {
        let mut play = Play::new();
        for step in &steps {
            play.step(step);
            // One more block: what one deployment gave back, another gets in the next.
            play.block(1);
            let view = play.world.view();
            check_placement(&play.world, &view);
            play.model.check(&view, play.world.now());
        }
    }
}
