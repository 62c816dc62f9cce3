//! The ledger daemon as a process of its own, with one validator: killed at random moments, asked over JSON-RPC.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use alloy_consensus::{SignableTransaction as _, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, TxKind, U64, U256, keccak256};
use alloy_signer::SignerSync as _;
use alloy_signer_local::PrivateKeySigner;
use atoll_api::ledger::{Finality, LedgerStatus, Proven};
use atoll_base::{
    Charter, Header, NodeSecret,
    charter::{Allocation, CHARTER_VERSION, Currency, Prices, Timing},
    schema,
};
use atoll_ledger::Config;
use atoll_light::{CertificateVerifier, ProvenState, certificate::validator_entry};
use jsonrpsee::{core::client::ClientT as _, http_client::HttpClient, rpc_params};
use serde_json::Value;

/// Names the folder of the region whose daemon this process shall be.
const FOLDER: &str = "ATOLL_TEST_LEDGER_FOLDER";
const CHAIN_ID: u64 = 90_210;
const TARGET: Address = Address::repeat_byte(0x77);
const PATIENCE: Duration = Duration::from_secs(30);

fn wallet() -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(0x11)).expect("a valid key")
}

fn charter() -> Charter {
    let coin = U256::from(10).pow(U256::from(18));
    let created_ms = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64;
    Charter {
        version: CHARTER_VERSION,
        name: "lone".into(),
        chain_id: CHAIN_ID,
        created_ms,
        currency: Currency { name: "Shell".into(), symbol: "SHL".into() },
        prices: Prices { cpu_core_hour: coin, memory_gib_hour: coin, disk_gib_hour: coin, gas: 1_000_000_000 },
        timing: Timing {
            block_min_ms: 50,
            block_idle_ms: 1_000,
            heartbeat_ms: 2_000,
            heartbeat_timeout_ms: 6_000,
            settle_ms: 10_000,
        },
        validators: vec![validator_entry("v1", &NodeSecret::from_seed([1; 32]))],
        allocations: vec![Allocation { account: wallet().address(), amount: coin * U256::from(1_000_000) }],
        treasury: Address::repeat_byte(0xfe),
        closed: Some(true),
    }
}

/// Not a test of its own: the others start this program again with [`FOLDER`] set, to be the daemon.
#[test]
fn daemon_process() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let config = fs::read_to_string(Path::new(&folder).join("ledger.toml")).expect("readable");
    let config: Config = toml::from_str(&config).expect("a configuration");
    let stop = async {
        let kind = tokio::signal::unix::SignalKind::terminate();
        tokio::signal::unix::signal(kind).expect("a handler").recv().await;
    };
    atoll_ledger::run(config, stop).expect("runs");
}

struct Region {
    folder: tempfile::TempDir,
    charter: Charter,
    address: SocketAddr,
    client: HttpClient,
}

impl Region {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path();
        let charter = charter();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let config = Config {
            identity: path.join("identity.key"),
            charter: path.join("charter.toml"),
            data: path.join("data"),
            p2p_port: 4871,
            rpc: vec![address],
            rpc_mesh_port: None,
        };
        fs::write(&config.identity, NodeSecret::from_seed([1; 32]).to_text()).expect("written");
        fs::write(&config.charter, toml::to_string(&charter).expect("serialises")).expect("written");
        fs::write(path.join("ledger.toml"), toml::to_string(&config).expect("serialises")).expect("written");
        let client = HttpClient::builder().build(format!("http://{address}")).expect("a client");
        Self { folder, charter, address, client }
    }

    /// Starts the daemon and waits until it answers.
    async fn start(&self) -> Daemon {
        let program = std::env::current_exe().expect("this program");
        let child = Command::new(program)
            .args(["--exact", "daemon_process", "--nocapture"])
            .env(FOLDER, self.folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("starts");
        let mut daemon = Daemon(child);
        let begun = Instant::now();
        while self.try_ask::<U64>("eth_blockNumber", rpc_params![]).await.is_none() {
            assert!(daemon.0.try_wait().expect("its state").is_none(), "the daemon ended");
            assert!(begun.elapsed() < PATIENCE, "the daemon does not answer on {}", self.address);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        daemon
    }

    async fn try_ask<T: serde::de::DeserializeOwned>(
        &self,
        method: &str,
        params: jsonrpsee::core::params::ArrayParams,
    ) -> Option<T> {
        self.client.request(method, params).await.ok()
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        method: &str,
        params: jsonrpsee::core::params::ArrayParams,
    ) -> T {
        self.client.request(method, params).await.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// Right after a start: what was acknowledged is there, and at most one more, which was kept although the daemon
    /// died before it could say so; that one counts as acknowledged from here on.
    async fn count_what_was_kept(&self, acknowledged: &mut Vec<B256>) {
        let pending: U64 = self.ask("eth_getTransactionCount", rpc_params![wallet().address(), "pending"]).await;
        if pending.to::<usize>() == acknowledged.len() + 1 {
            acknowledged.push(keccak256(transfer(acknowledged.len() as u64)));
        }
        assert_eq!(pending.to::<usize>(), acknowledged.len(), "what was acknowledged is there");
    }

    /// The height at which a transaction is final.
    async fn included(&self, hash: B256) -> u64 {
        let begun = Instant::now();
        loop {
            let receipt: Value = self.ask("eth_getTransactionReceipt", rpc_params![hash]).await;
            if !receipt.is_null() {
                assert_eq!(receipt["status"], "0x1");
                return serde_json::from_value::<U64>(receipt["blockNumber"].clone()).expect("a height").to();
            }
            assert!(begun.elapsed() < PATIENCE, "acknowledged transaction {hash} is lost");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

struct Daemon(Child);

impl Daemon {
    /// `kill -9`.
    fn kill(mut self) {
        self.0.kill().and_then(|()| self.0.wait()).map(drop).expect("dies");
    }

    /// SIGTERM; it must end by itself, and in order.
    fn stop(mut self) {
        let sent = Command::new("kill").arg(self.0.id().to_string()).status().expect("kill runs");
        assert!(sent.success());
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.0.try_wait().expect("its state") {
                break status;
            }
            assert!(begun.elapsed() < PATIENCE, "the daemon does not stop");
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(status.success(), "{status}");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let dead: io::Result<_> = self.0.kill().and_then(|()| self.0.wait());
        drop(dead);
    }
}

fn transfer(nonce: u64) -> Bytes {
    let tx = TxEip1559 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: 21_000,
        max_fee_per_gas: 2_000_000_000,
        to: TxKind::Call(TARGET),
        value: U256::from(1),
        ..TxEip1559::default()
    };
    let signature = wallet().sign_hash_sync(&tx.signature_hash()).expect("signs");
    TxEnvelope::from(tx.into_signed(signature)).encoded_2718().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_at_any_moment_loses_nothing_acknowledged_and_never_forks() {
    let region = Region::new();
    let mut acknowledged: Vec<B256> = Vec::new();
    let mut seen: BTreeMap<u64, Value> = BTreeMap::new();
    for round in 0..10u64 {
        let daemon = region.start().await;
        region.count_what_was_kept(&mut acknowledged).await;
        let height: U64 = region.ask("eth_blockNumber", rpc_params![]).await;
        let (made, makes) = std::sync::mpsc::channel();
        // Moments from right after the start to well into making blocks; every other time, however slow the machine is,
        // after at least one was made.
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(7 + round * round * 40));
            let block = if round % 2 == 1 { makes.recv_timeout(PATIENCE) } else { Ok(()) };
            daemon.kill();
            block.expect("a block is made in time");
        });
        while !killer.is_finished() {
            let raw = transfer(acknowledged.len() as u64);
            // Refused, because too many wait, or because the daemon is dead.
            if let Some(hash) = region.try_ask("eth_sendRawTransaction", rpc_params![raw]).await {
                acknowledged.push(hash);
            }
            let latest = region.try_ask::<Value>("eth_getBlockByNumber", rpc_params!["latest", false]).await;
            let Some(block) = latest else { continue };
            let number = serde_json::from_value::<U64>(block["number"].clone()).expect("a height");
            assert_eq!(*seen.entry(number.to()).or_insert(block["hash"].clone()), block["hash"], "a fork");
            if number > height {
                // It may have been told already.
                let _ = made.send(());
            }
        }
        killer.join().expect("kills");
    }
    assert!(acknowledged.len() > 20 && seen.len() > 5, "{} in {} blocks", acknowledged.len(), seen.len());

    let daemon = region.start().await;
    region.count_what_was_kept(&mut acknowledged).await;
    for hash in &acknowledged {
        region.included(*hash).await;
    }
    let balance: U256 = region.ask("eth_getBalance", rpc_params![TARGET, "latest"]).await;
    assert_eq!(balance, U256::from(acknowledged.len()), "each exactly once");
    for (height, hash) in &seen {
        let block: Value = region.ask("eth_getBlockByNumber", rpc_params![U64::from(*height), false]).await;
        assert_eq!(block["hash"], *hash, "block {height} is another one than before a kill");
    }
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_says_is_verified_from_the_charter_alone() {
    let region = Region::new();
    let daemon = region.start().await;
    let hash: B256 = region.ask("eth_sendRawTransaction", rpc_params![transfer(0)]).await;
    let height = region.included(hash).await;

    let verifier = CertificateVerifier::new(&region.charter).expect("a set of validators");
    let finality: Finality = region.ask("atoll_finality", rpc_params![height + 1]).await;
    let header = verifier.verify(&finality.header, &finality.certificate).expect("certified");
    assert!(header.number > height, "it waited for the next block");
    let other = Header { number: header.number + 1, ..header };
    assert!(verifier.verify(&other.to_bytes(), &finality.certificate).is_err());

    let view: Proven = region.ask("atoll_regionView", rpc_params![]).await;
    let header = verifier.verify(&view.finality.header, &view.finality.certificate).expect("certified");
    let words: Vec<_> = view.words.iter().map(|word| (word.contract, word.slot, word.value)).collect();
    let mut proven = ProvenState::new(header.state_root, &words, &view.nodes).expect("proven");
    assert!(schema::region_view(&mut proven).expect("complete").nodes.is_empty());

    let status: LedgerStatus = region.ask("atoll_status", rpc_params![]).await;
    assert!(status.validator && status.problems.is_empty(), "{status:?}");
    assert_eq!(status.region, region.charter.region_id());
    daemon.stop();
}
