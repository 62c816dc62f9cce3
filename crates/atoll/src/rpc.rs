//! A small JSON-RPC client for what the command line asks of the ledger.

use std::time::{Duration, Instant};

use alloy_consensus::{SignableTransaction as _, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, B256, Bytes, TxKind, U64, U256};
use alloy_signer::SignerSync as _;
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::{SolCall, SolInterface};
use atoll_base::contracts::{IDeployments, INodes};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

/// How long one request may take; the ledger holds long polls for less than that.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a transaction may take until it is final.
const RECEIPT_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the receipt is asked for.
const RECEIPT_POLL: Duration = Duration::from_millis(50);
/// Gas that is added to an estimate, in percent: state may change until the block.
const GAS_MARGIN: u64 = 25;

/// Why the ledger did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RpcError {
    /// Nobody answers.
    #[error("no ledger answers at {url}")]
    Unreachable {
        /// Where it was looked for.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The answer is no JSON-RPC.
    #[error("the ledger at {url} answers in an unknown form ({what}): it runs another version")]
    Form {
        /// Who answered.
        url: String,
        /// What was expected.
        what: String,
    },
    /// The ledger refused.
    #[error("the ledger refuses: {message}")]
    Refused {
        /// JSON-RPC error code.
        code: i64,
        /// In its own words.
        message: String,
    },
    /// A system contract refused, with its own error.
    #[error("the ledger refuses: {}", .0.text())]
    Contract(Box<ContractError>),
    /// The transaction is in a block, but failed there.
    #[error("transaction {0} failed in its block")]
    Reverted(B256),
    /// Not final in time.
    #[error("transaction {hash} is not final after {} s", RECEIPT_TIMEOUT.as_secs())]
    Slow {
        /// Its hash.
        hash: B256,
    },
    /// The key cannot sign.
    #[error("cannot sign the transaction")]
    Sign(#[from] alloy_signer::Error),
}

/// A decoded error of a system contract.
#[derive(Debug)]
pub(crate) enum ContractError {
    /// Of `IDeployments`.
    Deployments(IDeployments::IDeploymentsErrors),
    /// Of `INodes`.
    Nodes(INodes::INodesErrors),
    /// `revert("…")` of any contract.
    Text(String),
}

impl ContractError {
    fn decode(data: &[u8]) -> Option<Self> {
        IDeployments::IDeploymentsErrors::abi_decode(data)
            .map(Self::Deployments)
            .or_else(|_| INodes::INodesErrors::abi_decode(data).map(Self::Nodes))
            .ok()
            .or_else(|| alloy_sol_types::decode_revert_reason(data).map(Self::Text))
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        use IDeployments::IDeploymentsErrors as D;
        use INodes::INodesErrors as N;
        match self {
            Self::Deployments(D::NoCapacity(e)) => e.why.clone(),
            Self::Deployments(D::PlacementChanged(_)) => "the placement changed since it was quoted".into(),
            Self::Deployments(D::NameTaken(e)) => format!("the name '{}' is taken by {}", e.name, e.owner),
            Self::Deployments(D::NotOwner(e)) => format!("only its owner {} may do that", e.owner),
            Self::Deployments(D::UnknownDeployment(e)) => format!("there is no deployment number {}", e.id),
            Self::Deployments(D::StaleEpoch(e)) => format!("lease {} has moved on to epoch {}", e.lease, e.epoch),
            Self::Deployments(D::NotEnoughEscrow(e)) => {
                format!("the escrow is too small: {} needed, {} given", e.needed, e.given)
            }
            Self::Deployments(D::Invalid(e)) => e.why.clone(),
            Self::Nodes(N::UnknownNode(e)) => format!("there is no node {}", e.id),
            Self::Nodes(N::NotYourNode(e)) => format!("node {} belongs to the provider {}", e.id, e.provider),
            Self::Nodes(N::BadClaim(e)) => format!("the node's claim is not valid: {}", e.why),
            Self::Nodes(N::TooMany(e)) => format!("too many {}: at most {}", e.what, e.max),
            Self::Text(text) => text.clone(),
        }
    }
}

/// What is read of a receipt.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Receipt {
    /// 1 when it succeeded.
    pub(crate) status: U64,
    /// The transaction.
    pub(crate) transaction_hash: B256,
    /// What it emitted.
    pub(crate) logs: Vec<Log>,
}

/// An event.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Log {
    /// Who emitted it.
    pub(crate) address: Address,
    /// Signature and indexed values.
    pub(crate) topics: Vec<B256>,
    /// The other values.
    pub(crate) data: Bytes,
    /// Height of its block.
    #[serde(default)]
    pub(crate) block_number: U64,
    /// Its place among the block's events.
    #[serde(default)]
    pub(crate) log_index: U64,
    /// Time of its block in seconds, where the server says it.
    #[serde(default)]
    pub(crate) block_timestamp: Option<U64>,
}

/// A client of one JSON-RPC server.
#[derive(Debug, Clone)]
pub(crate) struct Rpc {
    url: String,
    http: reqwest::Client,
}

impl Rpc {
    /// For the server at `url`; nothing is sent yet.
    pub(crate) fn new(url: impl Into<String>) -> Self {
        // Without certificate authorities of its own it would look for the machine's, and fail where there are none, as on a
        // bare Debian. Ledger servers are asked over loopback or the mesh, in plain HTTP.
        let http = reqwest::Client::builder()
            .tls_certs_only([])
            .timeout(REQUEST_TIMEOUT)
            .no_proxy()
            .build()
            .unwrap_or_default();
        Self { url: url.into(), http }
    }

    /// Any method.
    pub(crate) async fn request<T: DeserializeOwned>(&self, method: &str, params: Value) -> Result<T, RpcError> {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let unreachable = |source| RpcError::Unreachable { url: self.url.clone(), source };
        let response = self.http.post(&self.url).json(&body).send().await.map_err(unreachable)?;
        let bytes = response.bytes().await.map_err(unreachable)?;
        let form = |what: &str| RpcError::Form { url: self.url.clone(), what: format!("{method}: {what}") };
        let mut answer: Value = serde_json::from_slice(&bytes).map_err(|_| form("not JSON"))?;
        if let Some(error) = answer.get("error").filter(|error| !error.is_null()) {
            return Err(refused(error));
        }
        let result = answer.get_mut("result").map(Value::take).unwrap_or_default();
        serde_json::from_value(result).map_err(|error| form(&error.to_string()))
    }

    /// Reads from a contract at the newest final state.
    pub(crate) async fn call<C: SolCall>(&self, contract: Address, call: &C) -> Result<C::Return, RpcError> {
        let input = Bytes::from(call.abi_encode());
        let output: Bytes = self.request("eth_call", json!([{ "to": contract, "input": input }, "latest"])).await?;
        C::abi_decode_returns(&output)
            .map_err(|error| RpcError::Form { url: self.url.clone(), what: format!("{}: {error}", C::SIGNATURE) })
    }

    /// What an account holds, in the smallest unit.
    pub(crate) async fn balance(&self, account: Address) -> Result<U256, RpcError> {
        self.request("eth_getBalance", json!([account, "latest"])).await
    }

    /// Signs and sends a transaction, and waits until it is final and succeeded.
    pub(crate) async fn transact(
        &self,
        signer: &PrivateKeySigner,
        to: Address,
        value: U256,
        input: Bytes,
    ) -> Result<Receipt, RpcError> {
        let from = signer.address();
        let request = json!({ "from": from, "to": to, "value": value, "input": input });
        let gas: U64 = self.request("eth_estimateGas", json!([request])).await?;
        let chain_id: U64 = self.request("eth_chainId", json!([])).await?;
        let nonce: U64 = self.request("eth_getTransactionCount", json!([from, "pending"])).await?;
        let gas_price: U256 = self.request("eth_gasPrice", json!([])).await?;
        let gas = gas.to::<u64>();
        let transaction = TxEip1559 {
            chain_id: chain_id.to(),
            nonce: nonce.to(),
            gas_limit: gas.saturating_add(gas.saturating_mul(GAS_MARGIN) / 100),
            max_fee_per_gas: gas_price.saturating_to(),
            max_priority_fee_per_gas: 0,
            to: TxKind::Call(to),
            value,
            access_list: Default::default(),
            input,
        };
        let signature = signer.sign_hash_sync(&transaction.signature_hash())?;
        let raw = Bytes::from(TxEnvelope::from(transaction.into_signed(signature)).encoded_2718());
        let hash: B256 = self.request("eth_sendRawTransaction", json!([raw])).await?;
        self.receipt(hash).await
    }

    async fn receipt(&self, hash: B256) -> Result<Receipt, RpcError> {
        let started = Instant::now();
        loop {
            let receipt: Option<Receipt> = self.request("eth_getTransactionReceipt", json!([hash])).await?;
            match receipt {
                Some(receipt) if receipt.status.is_zero() => return Err(RpcError::Reverted(hash)),
                Some(receipt) => return Ok(receipt),
                None if started.elapsed() > RECEIPT_TIMEOUT => return Err(RpcError::Slow { hash }),
                None => tokio::time::sleep(RECEIPT_POLL).await,
            }
        }
    }
}

fn refused(error: &Value) -> RpcError {
    let data = error.get("data").and_then(|data| serde_json::from_value::<Bytes>(data.clone()).ok());
    if let Some(decoded) = data.as_deref().and_then(|data| ContractError::decode(data)) {
        return RpcError::Contract(Box::new(decoded));
    }
    RpcError::Refused {
        code: error.get("code").and_then(Value::as_i64).unwrap_or_default(),
        message: error.get("message").and_then(Value::as_str).unwrap_or("no reason given").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use alloy_sol_types::SolError as _;

    use super::*;

    #[test]
    fn contract_errors_are_told_in_words() {
        let data =
            Bytes::from(IDeployments::NoCapacity { service: 0, why: "service web needs 8 cores".into() }.abi_encode());
        let error = refused(&json!({ "code": 3, "message": "execution reverted", "data": data }));
        assert_eq!(error.to_string(), "the ledger refuses: service web needs 8 cores");
    }

    #[test]
    fn other_errors_keep_the_servers_words() {
        let error = refused(&json!({ "code": -32000, "message": "nonce too low" }));
        assert_eq!(error.to_string(), "the ledger refuses: nonce too low");
    }
}
