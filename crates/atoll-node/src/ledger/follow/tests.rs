//! The follower against servers on loopback that sign real certificates: honest, late, dead and lying ones.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use alloy_primitives::{U256, b256};
use atoll_api::ledger::ProvenWord;
use atoll_base::{
    NodeSecret,
    charter::{CHARTER_VERSION, Currency, Prices, Timing},
    contracts::{DEPLOYMENTS, NODES},
    schema::{alive_slot, change_slot, node_count_slot},
};
use atoll_light::certificate::{signer_scheme, validator_entry};
use axum::{Json, Router, extract::State, routing::post};
use commonware_codec::Encode as _;
use commonware_consensus::{
    simplex::types::{Finalization, Finalize, Proposal},
    types::{Epoch, Round, View},
};
use commonware_cryptography::sha256;
use commonware_parallel::Sequential;
use commonware_utils::non_empty;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::AbortHandle};

use super::*;

/// Root of the empty trie: a ledger without any state.
const EMPTY_ROOT: B256 = b256!("56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421");

fn charter(validator: &NodeSecret) -> Charter {
    Charter {
        version: CHARTER_VERSION,
        name: "test".to_owned(),
        chain_id: 7,
        created_ms: 1_790_000_000_000,
        currency: Currency { name: "Shell".to_owned(), symbol: "SHL".to_owned() },
        prices: Prices { cpu_core_hour: U256::ZERO, memory_gib_hour: U256::ZERO, disk_gib_hour: U256::ZERO, gas: 1 },
        timing: Timing {
            block_min_ms: 50,
            block_idle_ms: 100,
            heartbeat_ms: 1000,
            heartbeat_timeout_ms: 5000,
            settle_ms: 60_000,
        },
        validators: vec![validator_entry("v", validator)],
        allocations: vec![],
        treasury: Address::ZERO,
        closed: Some(false),
    }
}

/// A ledger server of one validator, whose height the test sets.
struct Server {
    address: SocketAddr,
    height: Arc<AtomicU64>,
    task: AbortHandle,
}

impl Server {
    async fn start(charter: Charter, signer: NodeSecret, height: u64) -> Self {
        let height = Arc::new(AtomicU64::new(height));
        let state = Arc::new((charter, signer, height.clone()));
        let router = Router::new().route("/", post(answer)).with_state(state);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let task = tokio::spawn(async move { axum::serve(listener, router).await }).abort_handle();
        Self { address, height, task }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn answer(
    State(state): State<Arc<(Charter, NodeSecret, Arc<AtomicU64>)>>,
    Json(call): Json<Value>,
) -> Json<Value> {
    let (charter, signer, height) = state.as_ref();
    let result = match call["method"].as_str() {
        Some("atoll_finality") => {
            let wanted = call["params"][0].as_u64().expect("a height");
            // Real servers wait longer; this one at most a fifth of a second.
            for _ in 0..20 {
                if height.load(Ordering::SeqCst) >= wanted {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            serde_json::to_value(finality(charter, signer, height.load(Ordering::SeqCst)))
        }
        Some("atoll_regionView") => {
            let word = |contract, slot| ProvenWord { contract, slot, value: U256::ZERO };
            let mut words =
                vec![word(NODES, node_count_slot()), word(DEPLOYMENTS, change_slot()), word(DEPLOYMENTS, alive_slot())];
            words.sort_by_key(|word| (word.contract, word.slot));
            let finality = finality(charter, signer, height.load(Ordering::SeqCst));
            serde_json::to_value(Proven { finality, words, nodes: vec![] })
        }
        other => panic!("nobody asks for {other:?}"),
    };
    Json(json!({"jsonrpc": "2.0", "id": 1, "result": result.expect("JSON")}))
}

fn finality(charter: &Charter, signer: &NodeSecret, number: u64) -> Finality {
    let header = Header {
        parent_hash: B256::repeat_byte(1),
        number,
        timestamp_ms: 1_790_000_000_000 + number * 100,
        proposer: signer.id().word(),
        state_root: EMPTY_ROOT,
        transactions_root: EMPTY_ROOT,
        receipts_root: EMPTY_ROOT,
        gas_used: 0,
        gas_limit: 30_000_000,
        base_fee: 1,
        epoch: 0,
        view: number + 1,
        extra: Bytes::new(),
    };
    let proposal = Proposal::new(
        Round::new(Epoch::new(0), View::new(number + 1)),
        View::new(number),
        sha256::Digest(header.hash().0),
    );
    let scheme = signer_scheme(charter, signer).expect("a validator");
    let votes = [Finalize::sign(&scheme, proposal).expect("a vote")];
    let certificate =
        Finalization::from_owned_finalizes(&scheme, non_empty![@votes.into_iter()], &Sequential).expect("a quorum");
    Finality { header: header.to_bytes().into(), certificate: certificate.encode().to_vec().into() }
}

/// A follower of these servers; the task ends with the returned guard.
fn follow(charter: &Charter, servers: &[&Server], folder: &tempfile::TempDir) -> (Ledger, AbortOnDrop) {
    let prover = Prover::new(charter).expect("validators");
    let urls = servers.iter().map(|server| server.url()).collect();
    let floor = folder.path().join("height");
    let (follower, ledger) = Follower::new(Rpc::new().expect("a client"), prover, charter, urls, floor);
    (ledger, AbortOnDrop(tokio::spawn(follower.run()).abort_handle()))
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn until(ledger: &Ledger, what: &str, reached: impl FnMut(&Verified) -> bool) -> Verified {
    let mut verified = ledger.verified();
    let waited = tokio::time::timeout(Duration::from_secs(30), verified.wait_for(reached)).await;
    waited.unwrap_or_else(|_| panic!("never: {what}")).expect("the follower runs").clone()
}

#[tokio::test]
async fn it_follows_and_changes_the_server_without_ever_going_back() {
    let secret = NodeSecret::from_seed([1; 32]);
    let charter = charter(&secret);
    let first = Server::start(charter.clone(), secret.clone(), 5).await;
    let second = Server::start(charter.clone(), secret, 4).await;
    let folder = tempfile::tempdir().expect("a folder");
    let (ledger, _task) = follow(&charter, &[&first, &second], &folder);
    let verified = until(&ledger, "height 5", |v| v.height == 5).await;
    assert_eq!(verified.server, Some(first.url()));
    assert_eq!(verified.view().deployments.len(), 0);
    first.height.store(9, Ordering::SeqCst);
    until(&ledger, "height 9", |v| v.height == 9).await;
    // The first dies; the second is behind, then catches up.
    first.task.abort();
    let cut = until(&ledger, "nobody to follow", |v| v.problem.is_some()).await;
    assert_eq!(cut.height, 9, "it went back");
    second.height.store(10, Ordering::SeqCst);
    let verified = until(&ledger, "height 10", |v| v.height == 10).await;
    assert_eq!(verified.server, Some(second.url()));
    assert_eq!(verified.problem, None);
}

#[tokio::test]
async fn a_server_of_other_validators_is_not_believed() {
    let secret = NodeSecret::from_seed([1; 32]);
    let charter = charter(&secret);
    let stranger = NodeSecret::from_seed([2; 32]);
    let liar = Server::start(self::charter(&stranger), stranger, 100).await;
    let honest = Server::start(charter.clone(), secret, 3).await;
    let folder = tempfile::tempdir().expect("a folder");
    let (ledger, _task) = follow(&charter, &[&liar, &honest], &folder);
    let verified = until(&ledger, "height 3", |v| v.view.is_some()).await;
    assert_eq!((verified.height, verified.server), (3, Some(honest.url())));
}

#[tokio::test]
async fn a_restart_does_not_go_back_behind_what_was_acted_on() {
    let secret = NodeSecret::from_seed([1; 32]);
    let charter = charter(&secret);
    let server = Server::start(charter.clone(), secret, 7).await;
    let folder = tempfile::tempdir().expect("a folder");
    {
        let (ledger, _task) = follow(&charter, &[&server], &folder);
        until(&ledger, "height 7", |v| v.view.is_some()).await;
    }
    server.height.store(6, Ordering::SeqCst);
    let (ledger, _task) = follow(&charter, &[&server], &folder);
    let verified =
        until(&ledger, "a complaint", |v| v.problem.as_ref().is_some_and(|p| p.contains("no new block"))).await;
    assert!(verified.view.is_none(), "an old view was believed");
    server.height.store(8, Ordering::SeqCst);
    until(&ledger, "height 8", |v| v.view.is_some() && v.height == 8).await;
}
