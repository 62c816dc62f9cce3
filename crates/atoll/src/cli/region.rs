//! The region on this machine as a command sees it: its charter, its ledger, its node, the wallet.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use alloy_primitives::U256;
use alloy_signer_local::PrivateKeySigner;
use anyhow::Result;
use atoll_api::UnixClient;
use atoll_base::{Charter, NodeId, RegionId};

use super::failure::{Failure, OrFail as _, fail};
use crate::{
    amount,
    rpc::{ContractError, Rpc, RpcError},
    up::{layout::Layout, settings::Settings},
    wallet,
};

/// Name of a region that nobody named.
pub(crate) const DEFAULT_NAME: &str = "home";

/// A region that was founded or joined on this machine.
pub(crate) struct Region {
    layout: Layout,
    settings: Settings,
    /// What the region is.
    pub(crate) charter: Charter,
    /// Its id.
    pub(crate) id: RegionId,
    /// Its ledger.
    pub(crate) rpc: Rpc,
}

impl Region {
    /// Reads the state directory; asks nobody.
    pub(crate) fn open(state: Option<&Path>) -> Result<Self> {
        let layout = Layout::find(state, DEFAULT_NAME);
        let settings = crate::up::load(&layout)?;
        let path = layout.charter();
        let cure = || "restore it from a backup, or name another region with --state";
        let text = fs::read_to_string(&path).or_fail(|| format!("cannot read {}", path.display()), cure)?;
        let charter: Charter =
            toml::from_str(&text).or_fail(|| format!("{} is not a charter", path.display()), cure)?;
        let rpc = Rpc::new(format!("http://127.0.0.1:{}", settings.ports.rpc));
        Ok(Self { id: charter.region_id(), rpc, charter, settings, layout })
    }

    /// The charter's file.
    pub(crate) fn charter_path(&self) -> PathBuf {
        self.layout.charter()
    }

    /// The node through which people on this machine reach the region.
    pub(crate) fn node(&self) -> UnixClient {
        let member = if self.settings.size.is_single() { self.settings.region.name.as_str() } else { "host" };
        UnixClient::new(self.layout.daemon_socket(member, "node"))
    }

    /// The account that pays for deployments.
    pub(crate) fn wallet(&self) -> Result<PrivateKeySigner> {
        wallet::load(&self.layout.account_key("wallet"))
    }

    /// An amount with the currency's symbol.
    pub(crate) fn amount(&self, amount: U256) -> String {
        amount::with_symbol(amount, &self.charter.currency.symbol)
    }

    /// The port of the gateway on loopback.
    pub(crate) fn gateway_port(&self) -> u16 {
        self.settings.ports.gateway
    }

    /// Where an application answers on this machine.
    pub(crate) fn url(&self, name: &str) -> String {
        format!("http://{name}.localhost:{}/", self.gateway_port())
    }

    /// Puts what was being done, and the cure, around an error of the ledger.
    pub(crate) fn explain<T>(&self, what: &str, result: Result<T, RpcError>) -> Result<T> {
        result.map_err(|error| self.explained(what, error))
    }

    fn explained(&self, what: &str, error: RpcError) -> anyhow::Error {
        use atoll_base::contracts::IDeployments::IDeploymentsErrors as D;
        let (why, cure) = match &error {
            RpcError::Contract(contract) => match contract.as_ref() {
                ContractError::Deployments(D::NotEnoughEscrow(e)) => (
                    format!(
                        "the escrow of {} does not last an hour, which costs {}",
                        self.amount(e.given),
                        self.amount(e.needed)
                    ),
                    "give more: `--escrow AMOUNT` or `--hours H`".to_owned(),
                ),
                ContractError::Deployments(D::NameTaken(e)) => (
                    format!("the name '{}' is taken by {}", e.name, e.owner),
                    "choose another name: `--name NAME`".to_owned(),
                ),
                ContractError::Deployments(D::NoCapacity(_)) => (
                    contract.text(),
                    "ask for less, relax the constraints, or add a node; `atoll nodes` shows what is free".to_owned(),
                ),
                ContractError::Deployments(D::PlacementChanged(_)) => {
                    (contract.text(), "try again: the region is busy".to_owned())
                }
                ContractError::Deployments(_) | ContractError::Nodes(_) | ContractError::Text(_) => {
                    (contract.text(), "correct what the ledger names".to_owned())
                }
            },
            RpcError::Refused { message, .. } if message.to_lowercase().contains("funds") => {
                (message.clone(), "receive coins first: `atoll wallet` shows the address and the balance".to_owned())
            }
            RpcError::Unreachable { .. } => {
                return Err::<(), _>(error)
                    .or_fail(
                        || what.to_owned(),
                        || "start the region with `atoll up`; `atoll status` says what is wrong",
                    )
                    .expect_err("made of an error");
            }
            RpcError::Slow { .. } => (
                error.to_string(),
                "see with `atoll status` whether the ledger makes blocks; the transaction may still become final"
                    .to_owned(),
            ),
            _ => (error.to_string(), "`atoll status` says what is wrong with the region".to_owned()),
        };
        anyhow::Error::from(Failure::new(why, cure)).context(what.to_owned())
    }
}

/// Milliseconds since 1970 by this machine's clock.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Short form of a node's id in a contract's word; a dash for none.
pub(crate) fn short_node(word: alloy_primitives::B256) -> String {
    if word.is_zero() { "-".to_owned() } else { NodeId::from(word).short() }
}

/// Runs a command's asynchronous part.
pub(crate) fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .or_fail(
            || "cannot start the asynchronous runtime",
            || "close other programs: the machine is out of resources",
        )?
        .block_on(future)
}

/// An error for a name that the ledger does not know, with the names that it knows.
pub(crate) fn unknown_app(name: &str, known: &[String]) -> anyhow::Error {
    let cure = if known.is_empty() {
        "nothing is deployed: `atoll deploy FILE`".to_owned()
    } else {
        format!("deployed are: {}", known.join(", "))
    };
    fail(format!("no app is called '{name}'"), cure)
}
