//! A region of simulated validators on a simulated network.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use alloy_primitives::Bytes;
use atoll_base::{
    Charter, NodeSecret,
    charter::{CHARTER_VERSION, Currency, Prices, Timing},
};
use atoll_light::certificate::validator_entry;
use commonware_cryptography::ed25519::PublicKey;
use commonware_p2p::simulated::{self, Link, Oracle};
use commonware_runtime::{Clock as _, Handle, Quota, Spawner as _, Supervisor as _, deterministic::Context};
use commonware_utils::{NZUsize, Probability};
use rand::RngExt as _;

use super::toy::{Toy, ToyChain};
use crate::engine::{
    Gossip, Setup, Status, limits,
    network::{Network, message_bytes_max},
    run,
    wiring::public_key,
};

/// How to make a region.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) validators: u8,
    /// Share of messages that get lost.
    pub(super) loss: f64,
    /// Disks with what an earlier life left on them.
    pub(super) toys: Option<Vec<Toy>>,
}

impl Default for Plan {
    fn default() -> Self {
        Self { validators: 4, loss: 0.1, toys: None }
    }
}

impl Plan {
    fn secrets(&self) -> Vec<NodeSecret> {
        let mut secrets: Vec<_> = (1..=self.validators).map(|i| NodeSecret::from_seed([i; 32])).collect();
        secrets.sort_by_key(NodeSecret::id);
        secrets
    }

    fn charter(&self) -> Charter {
        Charter {
            version: CHARTER_VERSION,
            name: "toy".to_owned(),
            chain_id: 7,
            created_ms: 0,
            currency: Currency { name: "Shell".to_owned(), symbol: "SHL".to_owned() },
            prices: Prices {
                cpu_core_hour: Default::default(),
                memory_gib_hour: Default::default(),
                disk_gib_hour: Default::default(),
                gas: 1,
            },
            timing: Timing {
                block_min_ms: 50,
                block_idle_ms: 1000,
                heartbeat_ms: 1000,
                heartbeat_timeout_ms: 5000,
                settle_ms: 60_000,
            },
            validators: self.secrets().iter().map(|secret| validator_entry("v", secret)).collect(),
            allocations: vec![],
            treasury: Default::default(),
            closed: Some(false),
        }
    }

    /// Empty disks.
    pub(super) fn toys(&self) -> Vec<Toy> {
        let charter = self.charter();
        (0..self.validators).map(|_| Toy::new(&charter)).collect()
    }
}

pub(super) struct Region {
    context: Context,
    started: SystemTime,
    charter: Charter,
    secrets: Vec<NodeSecret>,
    toys: Vec<Toy>,
    oracle: Oracle<PublicKey, Context>,
    running: Vec<Option<Running>>,
}

struct Running {
    task: Handle<()>,
    gossip: Gossip,
    status: Status,
}

impl Region {
    pub(super) async fn new(context: Context, plan: Plan) -> Self {
        let secrets = plan.secrets();
        let keys: Vec<_> = secrets.iter().map(public_key).collect();
        let config = simulated::Config {
            max_size: message_bytes_max(keys.len()),
            max_peers_per_set: NZUsize!(8),
            disconnect_on_block: true,
            tracked_peer_sets: NZUsize!(1),
        };
        let (network, oracle) =
            simulated::Network::new_with_peers(context.child("network"), config, keys.clone()).await;
        network.start();
        let link = Link {
            latency: Duration::from_millis(10),
            jitter: Duration::from_millis(5),
            success_rate: Probability::try_from(1.0 - plan.loss).unwrap(),
        };
        for a in &keys {
            for b in keys.iter().filter(|b| *b != a) {
                oracle.add_link(a.clone(), b.clone(), link.clone()).await.unwrap();
            }
        }
        Self {
            started: context.current(),
            charter: plan.charter(),
            toys: plan.toys.clone().unwrap_or_else(|| plan.toys()),
            running: secrets.iter().map(|_| None).collect(),
            secrets,
            oracle,
            context,
        }
    }

    pub(super) fn run_all(&mut self) {
        for i in 0..self.secrets.len() {
            self.run(i);
        }
    }

    /// Starts a validator on what its disk holds.
    pub(super) fn run(&mut self, i: usize) {
        let (gossip, queue) = Gossip::channel();
        let status = Status::default();
        let chain = ToyChain { toy: self.toys[i].clone(), context: Arc::new(self.context.child("toy")) };
        let setup = Setup {
            charter: self.charter.clone(),
            secret: self.secrets[i].clone(),
            application: chain,
            gossip: queue,
            status: status.clone(),
            partition: format!("v{i}-"),
        };
        let (oracle, key) = (self.oracle.clone(), public_key(&self.secrets[i]));
        let task = self.context.child("validator").with_attribute("index", i).spawn(async move |context| {
            let control = oracle.control(key);
            let quota = Quota::per_second(limits::GOSSIP_PER_SECOND);
            let network = Network {
                peers: oracle.manager(),
                blocker: control.clone(),
                votes: control.register(0, quota).await.unwrap(),
                certificates: control.register(1, quota).await.unwrap(),
                resolver: control.register(2, quota).await.unwrap(),
                blocks: control.register(3, quota).await.unwrap(),
                backfill: control.register(4, quota).await.unwrap(),
                gossip: control.register(5, quota).await.unwrap(),
            };
            let Err(error) = run(context, setup, network).await;
            panic!("validator {i}: {error}");
        });
        let before = self.running[i].replace(Running { task, gossip, status });
        assert!(before.is_none(), "validator {i} runs already");
    }

    /// Stops a validator between two of its steps, whatever it is doing.
    pub(super) fn crash(&mut self, i: usize) {
        self.running[i].take().unwrap().task.abort();
    }

    /// A victim, how long it runs before it falls and how long it lies.
    pub(super) fn draw_crash(&mut self) -> (usize, Duration, Duration) {
        let victim = self.context.random_range(0..self.secrets.len());
        let up = Duration::from_millis(self.context.random_range(0..4_000));
        let down = Duration::from_millis(self.context.random_range(0..6_000));
        (victim, up, down)
    }

    pub(super) fn toy(&self, i: usize) -> &Toy {
        &self.toys[i]
    }

    pub(super) fn status(&self, i: usize) -> &Status {
        &self.running[i].as_ref().unwrap().status
    }

    pub(super) fn gossip(&self, from: usize, message: &[u8]) -> bool {
        self.running[from].as_ref().unwrap().gossip.send(Bytes::copy_from_slice(message))
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.context.current().duration_since(self.started).unwrap()
    }

    pub(super) async fn sleep(&self, duration: Duration) {
        self.context.sleep(duration).await;
    }

    /// The height that every validator has.
    pub(super) fn lowest(&self) -> u64 {
        self.toys.iter().map(Toy::height).min().unwrap()
    }

    pub(super) async fn wait_for_height(&self, height: u64) {
        self.wait_for(|region| region.lowest() >= height).await;
    }

    /// Waits until `condition` holds, for at most five minutes of the region's time.
    pub(super) async fn wait_for(&self, condition: impl Fn(&Self) -> bool) {
        let deadline = self.context.current() + Duration::from_secs(300);
        while !condition(self) {
            let heights: Vec<_> = self.toys.iter().map(Toy::height).collect();
            assert!(self.context.current() < deadline, "no progress: heights {heights:?} after {:?}", self.elapsed());
            self.context.sleep(Duration::from_millis(10)).await;
        }
    }

    /// All validators have the same chain, and nearly all its blocks came with a certificate of their own.
    pub(super) fn check(&self) {
        for height in 0..=self.lowest() {
            let blocks: Vec<_> = self.toys.iter().map(|toy| toy.block(height).unwrap()).collect();
            assert!(blocks.windows(2).all(|pair| pair[0] == pair[1]), "two blocks at height {height}: {blocks:?}");
        }
        for toy in &self.toys {
            assert!(2 * toy.certified() >= toy.height(), "{} of {} certified", toy.certified(), toy.height());
        }
    }
}
