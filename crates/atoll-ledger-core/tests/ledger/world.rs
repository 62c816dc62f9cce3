//! A region in memory. Every block is proposed, checked, encoded, decoded and verified, and after every block the
//! invariants hold, whatever the test is about.

use std::collections::BTreeMap;

use alloy_consensus::{SignableTransaction as _, TxEip1559, TxEip4844, TxLegacy, transaction::Recovered};
use alloy_network::TxSignerSync as _;
use alloy_primitives::{Address, B256, Bytes, Log, TxKind, U256, address};
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::{SolCall, SolEvent};
use atoll_base::{
    Charter, Header, NodeSecret, RegionId,
    charter::{Allocation, Currency, Prices, Timing, Validator},
    claim::NodeClaim,
    contracts::{CHARTER, DEPLOYMENTS, IDeployments, INodes, NODES},
    schema::{self, Capacity, LeaseRecord, NodeRecord, RegionView, StorageRead},
};
use atoll_ledger_core::{
    Block, Env, Executed, Mode, Transaction, execute,
    execute::{Answer, Question, Skip},
    genesis, limits,
    state::{MemoryState, StateRead},
    system,
    transaction::SignedBy,
};

pub(crate) const COIN: U256 = U256::from_limbs([1_000_000_000_000_000_000, 0, 0, 0]);
pub(crate) const GIB: u64 = 1 << 30;
pub(crate) const TREASURY: Address = address!("00000000000000000000000000000000000000fe");
pub(crate) const HEARTBEAT_MS: u64 = 2_000;
pub(crate) const TIMEOUT_MS: u64 = 6_000;
pub(crate) const SETTLE_MS: u64 = 60_000;

/// What one core costs an hour in these tests: divides by nothing, so that rounding shows.
pub(crate) const CORE_HOUR: u64 = 1_000_000_007;

pub(crate) fn charter() -> Charter {
    let account = |n: u8| user(n).address();
    Charter {
        // Such a charter founds the same region for ever.
        version: 1,
        name: "home".into(),
        chain_id: 4_870,
        created_ms: 1_790_000_000_000,
        currency: Currency { name: "Shell".into(), symbol: "SHL".into() },
        prices: Prices {
            cpu_core_hour: U256::from(CORE_HOUR),
            memory_gib_hour: U256::from(3_000_001),
            disk_gib_hour: U256::from(11),
            gas: 1_000,
        },
        timing: Timing {
            block_min_ms: 50,
            block_idle_ms: 1_000,
            heartbeat_ms: HEARTBEAT_MS,
            heartbeat_timeout_ms: TIMEOUT_MS,
            settle_ms: SETTLE_MS,
        },
        validators: vec![Validator {
            name: "v1".into(),
            id: NodeSecret::from_seed([200; 32]).id().word(),
            bls_key: Bytes::from_static(&[1; 48]),
            bls_proof: Bytes::from_static(&[2; 96]),
        }],
        allocations: (1..=4).map(|n| Allocation { account: account(n), amount: COIN }).collect(),
        treasury: TREASURY,
        closed: None,
    }
}

/// The account number `n`; 1 to 4 hold a coin each.
pub(crate) fn user(n: u8) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(n)).expect("a valid key")
}

/// A machine: the node number `n`.
pub(crate) struct Machine {
    pub(crate) secret: NodeSecret,
    pub(crate) account: PrivateKeySigner,
}

impl Machine {
    pub(crate) fn new(n: u8) -> Self {
        let secret = NodeSecret::from_seed([n; 32]);
        let account = PrivateKeySigner::from_bytes(&B256::from(secret.account())).expect("a valid key");
        Self { secret, account }
    }

    pub(crate) fn id(&self) -> B256 {
        self.secret.id().word()
    }

    pub(crate) fn claim(&self, provider: Address, total: Capacity, labels: &[&str]) -> NodeClaim {
        NodeClaim {
            id: self.secret.id(),
            provider,
            account: self.account.address(),
            sealing_key: self.secret.sealing_public(),
            total,
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        }
    }

    pub(crate) fn register(&self, region: RegionId, claim: &NodeClaim) -> INodes::registerCall {
        INodes::registerCall {
            id: self.id(),
            account: claim.account,
            sealingKey: claim.sealing_key,
            total: INodes::Capacity {
                cpuMilli: claim.total.cpu_milli,
                memoryBytes: claim.total.memory_bytes,
                diskBytes: claim.total.disk_bytes,
            },
            labels: claim.labels.clone(),
            idSignature: claim.sign(region, &self.secret).into(),
        }
    }
}

pub(crate) fn capacity(cores: u64, gib: u64) -> Capacity {
    Capacity { cpu_milli: cores * 1_000, memory_bytes: gib * GIB, disk_bytes: 100 * GIB }
}

pub(crate) fn service(name: &str, cores: u64, gib: u64) -> IDeployments::Service {
    IDeployments::Service {
        name: name.into(),
        replicas: 1,
        isolation: IDeployments::Isolation::Container,
        cpuMilli: cores * 1_000,
        memoryBytes: gib * GIB,
        diskBytes: GIB,
        httpPort: 80,
        openPorts: vec![],
        constraints: vec![],
        specHash: B256::repeat_byte(7),
        sealedSpec: Bytes::from_static(&[9; 100]),
    }
}

/// The region.
pub(crate) struct World {
    pub(crate) charter: Charter,
    pub(crate) region: RegionId,
    pub(crate) state: MemoryState,
    pub(crate) tip: Header,
    /// Logs of the latest block, those of its end included.
    pub(crate) logs: Vec<Log>,
    pending: Vec<SignedBy>,
    nonces: BTreeMap<Address, u64>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(charter())
    }

    pub(crate) fn with(charter: Charter) -> Self {
        let genesis = genesis(&charter).expect("a valid charter");
        let mut state = MemoryState::default();
        state.apply(&genesis.diff);
        let tip = genesis.block(state.root()).header;
        let region = charter.region_id();
        Self { charter, region, state, tip, logs: vec![], pending: vec![], nonces: BTreeMap::new() }
    }

    pub(crate) fn now(&self) -> u64 {
        self.tip.timestamp_ms
    }

    pub(crate) fn balance(&self, account: Address) -> U256 {
        self.state.account(account).expect("readable").unwrap_or_default().balance
    }

    // ---- transactions ------------------------------------------------------------------------------------------

    pub(crate) fn sign(
        &mut self,
        from: &PrivateKeySigner,
        to: TxKind,
        value: U256,
        input: Bytes,
        price: u128,
    ) -> SignedBy {
        let state = self.state.account(from.address()).expect("readable").unwrap_or_default().nonce;
        let nonce = self.nonces.entry(from.address()).or_insert(state);
        let free = price == 0;
        let mut tx = TxEip1559 {
            chain_id: self.charter.chain_id,
            nonce: *nonce,
            gas_limit: if free { limits::FREE_CALL_GAS_MAX } else { 8_000_000 },
            max_fee_per_gas: price,
            max_priority_fee_per_gas: 0,
            to,
            value,
            access_list: Default::default(),
            input,
        };
        *nonce += 1;
        let signature = from.sign_transaction_sync(&mut tx).expect("signable");
        let tx: Transaction = tx.into_signed(signature).into();
        Recovered::new_unchecked(tx, from.address())
    }

    /// Puts a transaction into the next block.
    pub(crate) fn send(&mut self, from: &PrivateKeySigner, to: Address, value: U256, input: impl Into<Bytes>) {
        let price = u128::from(self.charter.prices.gas);
        let tx = self.sign(from, TxKind::Call(to), value, input.into(), price);
        self.pending.push(tx);
    }

    pub(crate) fn call<C: SolCall>(&mut self, from: &PrivateKeySigner, to: Address, value: U256, call: &C) {
        self.send(from, to, value, call.abi_encode());
    }

    /// A call that costs a node nothing.
    pub(crate) fn free<C: SolCall>(&mut self, machine: &Machine, to: Address, call: &C) {
        let tx = self.sign(&machine.account, TxKind::Call(to), U256::ZERO, call.abi_encode().into(), 0);
        self.pending.push(tx);
    }

    pub(crate) fn push(&mut self, tx: SignedBy) {
        self.pending.push(tx);
    }

    // ---- blocks ------------------------------------------------------------------------------------------------

    /// Makes a block of what was sent; all of it must be valid.
    pub(crate) fn block(&mut self, after_ms: u64) -> Executed {
        let done = self.propose(after_ms);
        assert_eq!(done.skipped, vec![], "nothing is skipped");
        done
    }

    /// Makes a block in which every transaction succeeds.
    pub(crate) fn ok(&mut self, after_ms: u64) -> Executed {
        let done = self.block(after_ms);
        for (index, receipt) in done.receipts.iter().enumerate() {
            assert!(receipt.success, "transaction {index} failed");
        }
        done
    }

    /// Makes a block of what was sent and is valid.
    pub(crate) fn propose(&mut self, after_ms: u64) -> Executed {
        let charter = self.charter.clone();
        let env = Env::after(&charter, self.region, &self.tip, self.now() + after_ms);
        let pending = std::mem::take(&mut self.pending);
        self.nonces.clear();
        let done = execute(&env, &self.state, &pending, Mode::Propose).expect("a usable state");
        let mut state = self.state.clone();
        state.apply(&done.diff);
        // The plain root over everything is slow, so only some blocks of the long tests carry the true one.
        let root = if env.number < 16 || env.number.is_multiple_of(16) { state.root() } else { B256::ZERO };
        let header = done.header(&env, root);
        let transactions = done.transactions.iter().map(|tx| tx.inner().clone()).collect();
        let block = Block { header, transactions };

        // Everybody else gets the same from the bytes.
        let received = Block::from_bytes(&block.to_bytes()).expect("a valid block");
        assert_eq!(received, block);
        let transactions = received.recover(charter.chain_id).expect("signed transactions");
        let env = Env::after(&charter, self.region, &self.tip, received.header.timestamp_ms);
        let again = execute(&env, &self.state, &transactions, Mode::Verify).expect("a valid block");
        again.check(&env, root, &received.header).expect("the header is right");
        assert_eq!(again.diff, done.diff);

        self.state = state;
        self.tip = received.header;
        self.logs = done.receipts.iter().flat_map(|receipt| receipt.logs.clone()).collect();
        self.check_invariants();
        done
    }

    /// Lets time pass, with a heartbeat of these machines in time.
    pub(crate) fn pass(&mut self, mut ms: u64, machines: &[&Machine]) {
        while ms > 0 {
            let step = ms.min(TIMEOUT_MS - HEARTBEAT_MS);
            self.beat(machines);
            self.ok(step);
            ms -= step;
        }
    }

    pub(crate) fn beat(&mut self, machines: &[&Machine]) {
        for machine in machines {
            self.free(machine, NODES, &INodes::heartbeatCall {});
        }
    }

    // ---- reading -----------------------------------------------------------------------------------------------

    pub(crate) fn ask(&self, from: Address, to: Address, value: U256, input: Vec<u8>) -> Answer {
        let env = Env::after(&self.charter, self.region, &self.tip, self.now() + 1);
        let question = Question { from, to: Some(to), value, input: input.into(), ..Question::default() };
        atoll_ledger_core::execute::call(&env, &self.state, &question).expect("a usable state")
    }

    /// Asks a system contract as anybody.
    pub(crate) fn read<C: SolCall>(&self, to: Address, call: &C) -> C::Return {
        match self.ask(Address::ZERO, to, U256::ZERO, call.abi_encode()) {
            Answer::Returned { output, .. } => C::abi_decode_returns_validate(&output).expect("the declared type"),
            other => panic!("{}: {other:?}", C::SIGNATURE),
        }
    }

    /// The revert data that a call would give now.
    pub(crate) fn refusal<C: SolCall>(&self, from: Address, to: Address, value: U256, call: &C) -> Bytes {
        match self.ask(from, to, value, call.abi_encode()) {
            Answer::Reverted { output, .. } => output,
            other => panic!("{} was not refused: {other:?}", C::SIGNATURE),
        }
    }

    pub(crate) fn view(&self) -> RegionView {
        schema::region_view(&mut Storage(&self.state)).expect("readable")
    }

    pub(crate) fn lease(&self, id: u64) -> LeaseRecord {
        schema::lease(&mut Storage(&self.state), id).expect("readable").expect("a lease")
    }

    pub(crate) fn node(&self, machine: &Machine) -> NodeRecord {
        schema::node(&mut Storage(&self.state), machine.id()).expect("readable").expect("a node")
    }

    pub(crate) fn events<E: SolEvent>(&self) -> Vec<E> {
        self.logs.iter().filter_map(|log| E::decode_log(log).ok()).map(|log| log.data).collect()
    }

    // ---- common steps ------------------------------------------------------------------------------------------

    /// Registers machines with provider `user(3)`, and lets them send their first heartbeat.
    pub(crate) fn join(&mut self, machines: &[(&Machine, Capacity)]) {
        for (machine, total) in machines {
            let claim = machine.claim(user(3).address(), *total, &[]);
            let call = machine.register(self.region, &claim);
            self.call(&user(3), NODES, U256::ZERO, &call);
        }
        self.ok(100);
        self.beat(&machines.iter().map(|(machine, _)| *machine).collect::<Vec<_>>());
        self.ok(100);
    }

    pub(crate) fn deploy_call(
        &self,
        name: &str,
        services: Vec<IDeployments::Service>,
    ) -> (IDeployments::deployCall, U256) {
        let quote = self.read(DEPLOYMENTS, &IDeployments::quoteCall { services: services.clone() });
        let mut keys = BTreeMap::new();
        for p in &quote.placements {
            for node in [p.node, p.standby] {
                keys.insert((p.service, node), Bytes::from_static(&[5; 80]));
            }
        }
        keys.retain(|(_, node), _| !node.is_zero());
        let keys = keys.into_iter().map(|((service, node), key)| IDeployments::SealedKey { service, node, key });
        let call =
            IDeployments::deployCall { name: name.into(), services, expected: quote.placements, keys: keys.collect() };
        (call, quote.pricePerHour)
    }

    /// `user(1)` deploys, with escrow for so many hours. Returns the deployment's number.
    pub(crate) fn deploy(&mut self, name: &str, services: Vec<IDeployments::Service>, hours: u64) -> u64 {
        let (call, price) = self.deploy_call(name, services);
        self.call(&user(1), DEPLOYMENTS, price * U256::from(hours), &call);
        self.ok(100);
        self.read(DEPLOYMENTS, &IDeployments::byNameCall { name: name.into() })
    }

    pub(crate) fn report(&mut self, machine: &Machine, lease: u64, state: IDeployments::LeaseState) {
        let epoch = self.lease(lease).epoch;
        let call = IDeployments::reportCall { lease, epoch, state, why: "as the test says".into() };
        self.free(machine, DEPLOYMENTS, &call);
    }

    // ---- invariants --------------------------------------------------------------------------------------------

    fn check_invariants(&self) {
        let supply: U256 = self.charter.allocations.iter().map(|a| a.amount).sum();
        let held: U256 = self.state.accounts().map(|(_, account)| account.balance).sum();
        assert_eq!(held, supply, "coins neither appear nor vanish");
        let view = self.view();
        let escrow: U256 = view.deployments.iter().map(|d| d.escrow).sum();
        assert_eq!(self.balance(DEPLOYMENTS), escrow, "the escrow is what DEPLOYMENTS holds");
        let mut used: BTreeMap<B256, Capacity> = view.nodes.iter().map(|n| (n.id, Capacity::default())).collect();
        for lease in view.leases.values() {
            let needs = view.services[&(lease.deployment, lease.service)].needs;
            let Some(node) = used.get_mut(&lease.node) else { continue };
            use schema::LeaseState as S;
            let active = matches!(lease.state(), S::Granted | S::Starting | S::Running | S::Failed);
            let disk = active || lease.state() == S::Suspended;
            node.cpu_milli += if active { needs.cpu_milli } else { 0 };
            node.memory_bytes += if active { needs.memory_bytes } else { 0 };
            node.disk_bytes += if disk { needs.disk_bytes } else { 0 };
            assert_ne!(lease.node, lease.standby, "a lease's standby is another node");
        }
        for node in &view.nodes {
            assert_eq!(node.used, used[&node.id], "a node is used as its leases say");
            let addresses: Vec<_> = view.leases.values().filter(|l| l.node == node.id).map(|l| l.workload).collect();
            let mut distinct = addresses.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(distinct.len(), addresses.len(), "no two workloads of a node share an address");
            assert!(distinct.first().is_none_or(|first| *first >= 2));
        }
        for address in system::ADDRESSES {
            let account = self.state.account(address).expect("readable").expect("system contracts are never erased");
            assert_eq!(account.nonce, 1);
        }
        assert_eq!(self.balance(CHARTER) + self.balance(NODES), U256::ZERO);
    }
}

/// The state as the schema reads it.
pub(crate) struct Storage<'a>(pub(crate) &'a MemoryState);

impl StorageRead for Storage<'_> {
    type Error = <MemoryState as StateRead>::Error;

    fn word(&mut self, contract: Address, slot: B256) -> Result<U256, Self::Error> {
        self.0.storage(contract, slot)
    }
}

/// Why the only skipped transaction was skipped.
pub(crate) fn skipped(done: &Executed) -> &Skip {
    assert_eq!(done.skipped.len(), 1, "one transaction is skipped");
    &done.skipped[0].1
}

/// A legacy transaction that is valid on any chain.
pub(crate) fn unbound(from: &PrivateKeySigner, nonce: u64) -> SignedBy {
    let mut tx = TxLegacy {
        chain_id: None,
        nonce,
        gas_price: 1_000,
        gas_limit: 21_000,
        to: TxKind::Call(Address::ZERO),
        value: U256::ZERO,
        input: Bytes::new(),
    };
    let signature = from.sign_transaction_sync(&mut tx).expect("signable");
    Recovered::new_unchecked(tx.into_signed(signature).into(), from.address())
}

/// A blob transaction.
pub(crate) fn blob(from: &PrivateKeySigner, chain_id: u64) -> SignedBy {
    let mut tx = TxEip4844 {
        chain_id,
        gas_limit: 21_000,
        max_fee_per_gas: 1_000,
        blob_versioned_hashes: vec![B256::with_last_byte(1)],
        ..TxEip4844::default()
    };
    let signature = from.sign_transaction_sync(&mut tx).expect("signable");
    Recovered::new_unchecked(tx.into_signed(signature).into(), from.address())
}
