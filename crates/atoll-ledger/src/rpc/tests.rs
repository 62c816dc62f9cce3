//! JSON-RPC over real HTTP, in front of a chain whose blocks become final as soon as they are built.

use std::net::Ipv6Addr;

use alloy_consensus::TxEip1559;
use alloy_primitives::{Address, B256, TxKind, hex};
use alloy_sol_types::SolCall as _;
use atoll_api::ledger::{Finality, LedgerStatus, Proven};
use atoll_base::{
    Header, NodeSecret,
    claim::NodeClaim,
    contracts::{INodes, NODES},
    schema::{self, Capacity, RegionView},
};
use atoll_light::{ProvenState, verify_account_proof};
use jsonrpsee::{
    core::{ClientError, client::ClientT as _},
    http_client::HttpClient,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::*;
use crate::chain::tests::{Disk, TARGET, key, propose, sign, transfer, write_ahead_of_the_head};

/// A chain with its server, a client, and a stand-in for consensus.
struct Solo {
    _disk: Disk,
    chain: Chain,
    client: HttpClient,
    address: SocketAddr,
    _servers: RpcServers,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Solo {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

fn start() -> Solo {
    let disk = Disk::new();
    let chain = disk.open();
    let address = free_port();
    let servers = serve(chain.clone(), Status::default(), NodeId([1; 32]), &[address]).expect("listens");
    let client = HttpClient::builder().build(format!("http://{address}")).expect("a client");
    let driver = tokio::spawn(drive(chain.clone()));
    Solo { _disk: disk, chain, client, address, _servers: servers, driver }
}

/// Makes a block whenever there is work, and makes it final at once.
async fn drive(chain: Chain) {
    use crate::engine::Application as _;
    for view in 1.. {
        chain.ready().await;
        let block = propose(&chain, &chain.head().block, view).await;
        chain.finalized(block, Some(b"certificate".into())).await;
    }
}

impl Solo {
    async fn ask(&self, method: &str, params: Value) -> Value {
        self.try_ask(method, params).await.unwrap_or_else(|error| panic!("{method}: {error:?}"))
    }

    async fn try_ask(&self, method: &str, params: Value) -> Result<Value, ClientError> {
        let Value::Array(params) = params else { panic!("parameters are a list") };
        let mut list = jsonrpsee::core::params::ArrayParams::new();
        params.into_iter().for_each(|param| list.insert(param).expect("serialises"));
        self.client.request(method, list).await
    }

    async fn error(&self, method: &str, params: Value) -> (i32, String, Value) {
        match self.try_ask(method, params).await {
            Err(ClientError::Call(error)) => {
                let data = error.data().map_or(Value::Null, |raw| serde_json::from_str(raw.get()).expect("JSON"));
                (error.code(), error.message().to_owned(), data)
            }
            other => panic!("{method} should be refused: {other:?}"),
        }
    }

    /// Sends a transaction and waits until it is final.
    async fn send(&self, raw: alloy_primitives::Bytes) -> Value {
        let hash = self.ask("eth_sendRawTransaction", json!([raw])).await;
        let mut heads = self.chain.heads();
        loop {
            let receipt = self.ask("eth_getTransactionReceipt", json!([hash])).await;
            if !receipt.is_null() {
                return receipt;
            }
            heads.changed().await.expect("the chain lives");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_sends_coins_and_sees_them_arrive() {
    let solo = start();
    let sender = key(0).address();
    assert_eq!(solo.ask("eth_chainId", json!([])).await, "0x1092");
    assert_eq!(solo.ask("net_version", json!([])).await, "4242");
    assert_eq!(solo.ask("eth_gasPrice", json!([])).await, "0x7");
    assert_eq!(solo.ask("eth_accounts", json!([])).await, json!([]));
    assert_eq!(solo.ask("eth_getBalance", json!([sender, "latest"])).await, "0xde0b6b3a7640000");
    let call = json!({ "from": sender, "to": TARGET, "value": "0x5" });
    assert_eq!(solo.ask("eth_estimateGas", json!([call])).await, "0x5208");

    let receipt = solo.send(transfer(0, 0, 5)).await;
    assert_eq!(receipt["status"], "0x1");
    assert_eq!(receipt["gasUsed"], "0x5208");
    assert_eq!(receipt["effectiveGasPrice"], "0x8");
    assert_eq!(receipt["type"], "0x2");
    assert_eq!(receipt["from"], json!(sender));
    let (hash, block_hash) = (&receipt["transactionHash"], &receipt["blockHash"]);
    assert_eq!(solo.ask("eth_blockNumber", json!([])).await, receipt["blockNumber"]);
    assert_eq!(solo.ask("eth_getBalance", json!([TARGET, "finalized"])).await, "0x5");
    assert_eq!(solo.ask("eth_getTransactionCount", json!([sender, "pending"])).await, "0x1");

    let tx = solo.ask("eth_getTransactionByHash", json!([hash])).await;
    assert_eq!((&tx["nonce"], &tx["value"], &tx["blockHash"]), (&json!("0x0"), &json!("0x5"), block_hash));
    let block = solo.ask("eth_getBlockByHash", json!([block_hash, true])).await;
    assert_eq!(block["transactions"][0], tx);
    assert_eq!(block["hash"], *block_hash);
    assert_eq!(block["baseFeePerGas"], "0x7");
    assert_eq!(block["timestamp"], "0x1");
    assert_eq!(block["timestampMs"], 1_100);
    let block = solo.ask("eth_getBlockByNumber", json!(["latest", false])).await;
    assert_eq!(block["transactions"], json!([hash]));
    assert_eq!(solo.ask("eth_getBlockReceipts", json!(["latest"])).await, json!([receipt]));
    assert_eq!(solo.ask("eth_getTransactionByBlockNumberAndIndex", json!(["0x1", "0x0"])).await, tx);
    assert_eq!(solo.ask("eth_getBlockByNumber", json!(["0x77", false])).await, Value::Null);

    let fees = solo.ask("eth_feeHistory", json!(["0x4", "latest", [10, 90]])).await;
    assert_eq!(fees["oldestBlock"], "0x0");
    assert_eq!(fees["baseFeePerGas"], json!(["0x7", "0x7", "0x7"]));
    assert_eq!(fees["reward"], json!([["0x0", "0x0"], ["0x1", "0x1"]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_in_the_form_that_libraries_expect() {
    let solo = start();
    solo.send(transfer(0, 0, 5)).await;
    let (code, message, _) = solo.error("eth_sendRawTransaction", json!([transfer(0, 0, 6)])).await;
    assert_eq!(code, -32_000);
    assert_eq!(message, "nonce too low: next nonce 1, tx nonce 0");
    let (_, message, _) = solo.error("eth_sendRawTransaction", json!([transfer(0, 1, u64::MAX)])).await;
    assert!(message.starts_with("insufficient funds for gas * price + value"), "{message}");

    let unknown = INodes::getCall { id: B256::repeat_byte(7) }.abi_encode();
    let call = json!({ "to": NODES, "data": hex::encode_prefixed(&unknown) });
    for method in ["eth_call", "eth_estimateGas"] {
        let (code, message, data) = solo.error(method, json!([call, "latest"])).await;
        assert_eq!(code, 3);
        assert!(message.starts_with("execution reverted: no node 0x0707"), "{message}");
        let data: alloy_primitives::Bytes = serde_json::from_value(data).expect("revert data");
        assert!(data.starts_with(&<INodes::UnknownNode as alloy_sol_types::SolError>::SELECTOR));
    }
    let (code, message, _) = solo.error("eth_getBalance", json!([TARGET, "0x9"])).await;
    assert_eq!((code, message.as_str()), (-32_000, "header not found: block 9 is not final yet, 1 is the newest"));
    let (code, message, _) = solo.error("eth_getBalance", json!(["nobody"])).await;
    assert_eq!(code, -32_602);
    assert!(message.starts_with("invalid argument 0: address"), "{message}");
    let (_, message, _) = solo.error("eth_call", json!([call, "latest", { "0x0": {} }])).await;
    assert!(message.contains("overrides are not supported"), "{message}");
    let (code, ..) = solo.error("eth_sign", json!([])).await;
    assert_eq!(code, -32_601);

    for nonce in 1..limits::RECENT_STATES as u64 + 2 {
        solo.send(transfer(0, nonce, 1)).await;
    }
    assert_eq!(solo.ask("eth_getBalance", json!([TARGET, "0x5"])).await, "0x9");
    let (_, message, _) = solo.error("eth_getBalance", json!([TARGET, "0x1"])).await;
    assert!(message.contains("the state of block 1 is no longer kept"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_is_shown_when_the_head_is_there() {
    use crate::engine::Application as _;
    let solo = start();
    solo.driver.abort();
    let hash = solo.ask("eth_sendRawTransaction", json!([transfer(0, 0, 5)])).await;
    solo.chain.ready().await;
    let block = propose(&solo.chain, &solo.chain.head().block, 1).await;
    write_ahead_of_the_head(&solo.chain, &block);

    let by_hash = json!([{ "blockHash": block.hash() }]);
    assert_eq!(solo.ask("eth_getTransactionReceipt", json!([hash])).await, Value::Null);
    assert_eq!(solo.ask("eth_getBlockByHash", json!([block.hash(), false])).await, Value::Null);
    assert!(solo.error("eth_getLogs", by_hash.clone()).await.1.contains("unknown block"));
    solo.chain.finalized(block, Some(b"certificate".into())).await;
    assert_eq!(solo.ask("eth_getTransactionReceipt", json!([hash])).await["status"], "0x1");
    assert_eq!(solo.ask("eth_getBalance", json!([TARGET, "latest"])).await, "0x5");
    assert_eq!(solo.ask("eth_getLogs", by_hash).await, json!([]));
}

fn registration(node: &NodeSecret, region: atoll_base::RegionId) -> alloy_primitives::Bytes {
    let total = Capacity { cpu_milli: 2_000, memory_bytes: 1 << 32, disk_bytes: 1 << 35 };
    let claim = NodeClaim {
        id: node.id(),
        provider: key(0).address(),
        account: Address::repeat_byte(5),
        sealing_key: node.sealing_public(),
        total,
        labels: vec!["zone=a".into()],
    };
    let call = INodes::registerCall {
        id: node.id().word(),
        account: claim.account,
        sealingKey: claim.sealing_key,
        total: INodes::Capacity {
            cpuMilli: total.cpu_milli,
            memoryBytes: total.memory_bytes,
            diskBytes: total.disk_bytes,
        },
        labels: claim.labels.clone(),
        idSignature: claim.sign(region, node).into(),
    };
    sign(
        0,
        TxEip1559 {
            gas_limit: 2_000_000,
            to: TxKind::Call(NODES),
            input: call.abi_encode().into(),
            ..TxEip1559::default()
        },
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_found_by_query_and_by_filter() {
    let solo = start();
    let node = NodeSecret::from_seed([9; 32]);
    let filter = json!({ "address": NODES, "topics": [null, node.id().word()], "fromBlock": "0x0" });
    let by_topic = solo.ask("eth_newFilter", json!([filter])).await;
    let by_block = solo.ask("eth_newBlockFilter", json!([])).await;
    let receipt = solo.send(registration(&node, solo.chain.region())).await;
    assert_eq!(receipt["status"], "0x1", "{receipt}");
    solo.send(transfer(1, 0, 5)).await;

    let logs = solo.ask("eth_getLogs", json!([filter])).await;
    assert_eq!(logs, receipt["logs"]);
    assert_eq!(logs.as_array().map(Vec::len), Some(1));
    assert_eq!(logs[0]["transactionHash"], receipt["transactionHash"]);
    let at_block = json!({ "blockHash": receipt["blockHash"] });
    assert_eq!(solo.ask("eth_getLogs", json!([at_block])).await, logs);
    let other = json!({ "address": TARGET, "fromBlock": "0x0" });
    assert_eq!(solo.ask("eth_getLogs", json!([other])).await, json!([]));

    assert_eq!(solo.ask("eth_getFilterChanges", json!([by_topic])).await, logs);
    assert_eq!(solo.ask("eth_getFilterChanges", json!([by_topic])).await, json!([]), "told once");
    assert_eq!(solo.ask("eth_getFilterLogs", json!([by_topic])).await, logs);
    assert_eq!(solo.ask("eth_getFilterChanges", json!([by_block])).await.as_array().map(Vec::len), Some(2));
    assert_eq!(solo.ask("eth_uninstallFilter", json!([by_block])).await, true);
    let (_, message, _) = solo.error("eth_getFilterChanges", json!([by_block])).await;
    assert_eq!(message, "filter not found");
    let (_, message, _) = solo.error("eth_getLogs", json!([{ "fromBlock": "0x9", "toBlock": "0x1" }])).await;
    assert!(message.contains("9"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn views_are_proven_under_a_certified_header() {
    let solo = start();
    let (_, message, _) = solo.error("atoll_regionView", json!([0])).await;
    assert!(message.contains("no block has become final"), "{message}");
    let waiting = solo.client.request::<Finality, _>("atoll_finality", jsonrpsee::rpc_params![1]);
    let node = NodeSecret::from_seed([9; 32]);
    let (finality, _) = tokio::join!(waiting, solo.send(registration(&node, solo.chain.region())));
    let finality = finality.expect("answers as soon as the block is final");
    let header = Header::from_bytes(&finality.header).expect("a header");
    assert_eq!((header.number, finality.certificate.as_ref()), (1, &b"certificate"[..]));

    let view = |change: Option<u64>| {
        let answer = solo.client.request::<Proven, _>("atoll_regionView", jsonrpsee::rpc_params![change]);
        async {
            let proven = answer.await.expect("a view");
            let header = Header::from_bytes(&proven.finality.header).expect("a header");
            let words: Vec<_> = proven.words.iter().map(|word| (word.contract, word.slot, word.value)).collect();
            ProvenState::new(header.state_root, &words, &proven.nodes).expect("proven")
        }
    };
    let region: RegionView = schema::region_view(&mut view(None).await).expect("complete");
    assert_eq!(region.nodes.len(), 1);
    assert_eq!(region.nodes[0].id, node.id().word());
    let mut unchanged = view(Some(region.change)).await;
    assert_eq!(unchanged.len(), 1, "only the counter");
    assert_eq!(
        schema::read_u64(&mut unchanged, atoll_base::contracts::DEPLOYMENTS, schema::change_slot()).expect("proven"),
        region.change
    );
    assert!(view(Some(region.change + 1)).await.len() > 1);

    let sealed: Proven = solo
        .client
        .request("atoll_sealedView", jsonrpsee::rpc_params![1, 0, node.id()])
        .await
        .expect("absence is proven as well");
    assert!(sealed.words.iter().all(|word| word.value.is_zero()));

    let proof = solo.ask("eth_getProof", json!([NODES, [schema::node_count_slot()], "latest"])).await;
    let nodes: Vec<alloy_primitives::Bytes> = serde_json::from_value(proof["accountProof"].clone()).expect("nodes");
    let root = solo.chain.head().block.header().state_root;
    let account = verify_account_proof(root, NODES, &nodes).expect("proven").expect("exists");
    assert_eq!(proof["storageHash"], json!(account.storage_root));
    assert_eq!(proof["storageProof"][0]["value"], "0x1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_says_what_is_wrong() {
    let solo = start();
    let status: LedgerStatus = solo.client.request("atoll_status", jsonrpsee::rpc_params![]).await.expect("a status");
    assert!(status.validator && status.region == solo.chain.region() && status.region_name == "home");
    assert!(status.problems[0].starts_with("no block became final for"), "{:?}", status.problems);
}

async fn http(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let request = format!("{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sends");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answers");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_and_prometheus_are_served() {
    let solo = start();
    let metrics = http(solo.address, "GET /metrics").await;
    assert!(metrics.starts_with("HTTP/1.1 200") && metrics.contains("\natoll_ledger_height 0\n"), "{metrics}");
    let preflight = http(solo.address, "OPTIONS /").await;
    assert!(
        preflight.starts_with("HTTP/1.1 200") && preflight.contains("access-control-allow-origin: *"),
        "{preflight}"
    );
    assert!(http(solo.address, "GET /other").await.starts_with("HTTP/1.1 405"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_is_an_error_and_one_that_does_not_exist_yet_is_waited_for() {
    let solo = start();
    let again = serve(solo.chain.clone(), Status::default(), NodeId([1; 32]), &[solo.address]);
    let error = again.expect_err("in use").to_string();
    assert!(error.contains("the port is in use; stop the program that uses it"), "{error}");
    let missing = SocketAddr::from((Ipv6Addr::new(0xfd12, 0, 0, 0, 0, 0, 0, 1), 8545));
    let fresh = free_port();
    let servers = serve(solo.chain.clone(), Status::default(), NodeId([1; 32]), &[missing, fresh]);
    assert!(servers.is_ok(), "{servers:?}");
    assert!(http(fresh, "GET /metrics").await.starts_with("HTTP/1.1 200"), "the other address answers meanwhile");
}
