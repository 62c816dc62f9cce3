//! The ledger's record of what happened to deployments, read from the events of its contracts.

use std::collections::{BTreeMap, btree_map::Entry};

use alloy_primitives::{B256, U64, U256};
use alloy_sol_types::{SolEvent as _, SolEventInterface as _};
use atoll_base::{
    NodeId,
    contracts::{DEPLOYMENTS, IDeployments, INodes, NODES},
    schema::LeaseState,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    amount,
    cli::apps::{state, state_word},
    rpc::{Log, Rpc, RpcError},
};

/// Blocks searched in one request: what a ledger allows.
const WINDOW_BLOCKS: u64 = 10_000;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Event {
    /// Height of its block.
    pub(crate) height: u64,
    /// Time of its block, milliseconds since 1970.
    pub(crate) time_ms: u64,
    /// The deployment that it is about.
    pub(crate) deployment: Option<u64>,
    /// The lease that it is about.
    pub(crate) lease: Option<u64>,
    /// The node that it is about; for a move, the new one.
    pub(crate) node: Option<NodeId>,
    /// What happened.
    #[serde(flatten)]
    pub(crate) what: What,
    /// The reason, in the ledger's words; may be empty.
    pub(crate) why: String,
}

/// Kinds of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum What {
    Deployed { name: String },
    Granted,
    Moved { from: Option<NodeId> },
    Changed { state: LeaseState },
    Charged { amount: String },
    Suspended,
    Resumed,
    Removed { refund: String },
    Registered,
    Online,
    Offline,
}

impl Event {
    /// In a few words, without the reason; `symbol` is the currency's.
    pub(crate) fn text(&self, symbol: &str) -> String {
        let lease = self.lease.map(|lease| format!("lease {lease} ")).unwrap_or_default();
        let node = self.node.map_or("no node".to_owned(), |node| format!("node {}", node.short()));
        match &self.what {
            What::Deployed { name } => format!("{name} deployed"),
            What::Granted => format!("{lease}granted to {node}"),
            What::Moved { from: Some(from) } => format!("{lease}moved from node {} to {node}", from.short()),
            What::Moved { from: None } => format!("{lease}moved to {node}"),
            What::Changed { state } => format!("{lease}{}", state_word(*state)),
            What::Charged { amount } => format!("{amount} {symbol} paid to {node}"),
            What::Suspended => "suspended".to_owned(),
            What::Resumed => "resumed".to_owned(),
            What::Removed { refund } => format!("removed, {refund} {symbol} came back"),
            What::Registered => format!("{node} registered"),
            What::Online => format!("{node} online"),
            What::Offline => format!("{node} offline"),
        }
    }

    fn new(log: &Log, what: What, why: String) -> Self {
        let time_ms = log.block_timestamp.unwrap_or_default().to::<u64>().saturating_mul(1000);
        Self { height: log.block_number.to(), time_ms, deployment: None, lease: None, node: None, what, why }
    }

    fn about(self, deployment: u64, lease: Option<u64>, node: B256) -> Self {
        Self { deployment: Some(deployment), lease, node: id(node), ..self }
    }

    /// Reads an event of a system contract; `None` for others.
    pub(crate) fn decode(log: &Log) -> Option<Self> {
        match log.address {
            DEPLOYMENTS => Self::of_deployments(log),
            NODES => Self::of_nodes(log),
            _ => None,
        }
    }

    fn of_deployments(log: &Log) -> Option<Self> {
        use IDeployments::IDeploymentsEvents as E;
        let new = |what, why: String| Self::new(log, what, why);
        Some(match E::decode_raw_log(&log.topics, &log.data).ok()? {
            E::Deployed(e) => new(What::Deployed { name: e.name }, String::new()).about(e.deployment, None, B256::ZERO),
            E::LeaseGranted(e) => new(What::Granted, e.why).about(e.deployment, Some(e.lease), e.node),
            E::LeaseMoved(e) => new(What::Moved { from: id(e.from) }, e.why).about(e.deployment, Some(e.lease), e.to),
            E::LeaseChanged(e) => {
                new(What::Changed { state: state(e.state) }, e.why).about(e.deployment, Some(e.lease), B256::ZERO)
            }
            E::Charged(e) => {
                new(What::Charged { amount: amount::exact(e.amount) }, String::new()).about(e.deployment, None, e.node)
            }
            E::Suspended(e) => new(What::Suspended, e.why).about(e.deployment, None, B256::ZERO),
            E::Resumed(e) => new(What::Resumed, e.why).about(e.deployment, None, B256::ZERO),
            E::Removed(e) => {
                new(What::Removed { refund: amount::exact(e.refund) }, e.why).about(e.deployment, None, B256::ZERO)
            }
        })
    }

    fn of_nodes(log: &Log) -> Option<Self> {
        use INodes::INodesEvents as E;
        let new = |what, node, why| Self { node: id(node), ..Self::new(log, what, why) };
        Some(match E::decode_raw_log(&log.topics, &log.data).ok()? {
            E::NodeRegistered(e) => new(What::Registered, e.id, String::new()),
            E::NodeOnline(e) => new(What::Online, e.id, String::new()),
            E::NodeOffline(e) => new(What::Offline, e.id, e.why),
            E::NodeUpdated(_) => return None,
        })
    }
}

fn id(word: B256) -> Option<NodeId> {
    (!word.is_zero()).then(|| word.into())
}

/// Events that tell a person why the region looks as it does: all but the charges.
fn telling() -> Value {
    json!([[
        IDeployments::Deployed::SIGNATURE_HASH,
        IDeployments::LeaseGranted::SIGNATURE_HASH,
        IDeployments::LeaseMoved::SIGNATURE_HASH,
        IDeployments::LeaseChanged::SIGNATURE_HASH,
        IDeployments::Suspended::SIGNATURE_HASH,
        IDeployments::Resumed::SIGNATURE_HASH,
        IDeployments::Removed::SIGNATURE_HASH,
        INodes::NodeRegistered::SIGNATURE_HASH,
        INodes::NodeOnline::SIGNATURE_HASH,
        INodes::NodeOffline::SIGNATURE_HASH,
    ]])
}

/// What happened in the region in the blocks from `first` to `last`, oldest first. The range is cut to what a ledger allows.
pub(crate) async fn of_region(rpc: &Rpc, first: u64, last: u64) -> Result<Vec<Event>, RpcError> {
    let first = first.max((last + 1).saturating_sub(WINDOW_BLOCKS));
    let logs = logs(rpc, json!([DEPLOYMENTS, NODES]), telling(), first, last).await?;
    let mut events: Vec<Event> = logs.iter().filter_map(Event::decode).collect();
    date(rpc, &mut events).await?;
    Ok(events)
}

/// Everything that happened to one deployment, oldest first.
pub(crate) async fn of_deployment(rpc: &Rpc, deployment: u64) -> Result<Vec<Event>, RpcError> {
    let number = B256::from(U256::from(deployment));
    let first = [
        IDeployments::Deployed::SIGNATURE_HASH,
        IDeployments::Charged::SIGNATURE_HASH,
        IDeployments::Suspended::SIGNATURE_HASH,
        IDeployments::Resumed::SIGNATURE_HASH,
        IDeployments::Removed::SIGNATURE_HASH,
    ];
    let second = [
        IDeployments::LeaseGranted::SIGNATURE_HASH,
        IDeployments::LeaseMoved::SIGNATURE_HASH,
        IDeployments::LeaseChanged::SIGNATURE_HASH,
    ];
    let mut last: u64 = rpc.request::<U64>("eth_blockNumber", json!([])).await?.to();
    let mut windows = Vec::new();
    loop {
        let from = (last + 1).saturating_sub(WINDOW_BLOCKS);
        let mut found = logs(rpc, json!(DEPLOYMENTS), json!([first, number]), from, last).await?;
        found.extend(logs(rpc, json!(DEPLOYMENTS), json!([second, null, number]), from, last).await?);
        found.sort_by_key(|log| (log.block_number, log.log_index));
        let events: Vec<Event> = found.iter().filter_map(Event::decode).collect();
        let birth = events.iter().any(|event| matches!(event.what, What::Deployed { .. }));
        windows.push(events);
        if birth || from == 0 {
            break;
        }
        last = from - 1;
    }
    let mut events: Vec<Event> = windows.into_iter().rev().flatten().collect();
    date(rpc, &mut events).await?;
    Ok(events)
}

async fn logs(rpc: &Rpc, address: Value, topics: Value, first: u64, last: u64) -> Result<Vec<Log>, RpcError> {
    let filter = json!({
        "address": address,
        "topics": topics,
        "fromBlock": U64::from(first),
        "toBlock": U64::from(last),
    });
    rpc.request("eth_getLogs", json!([filter])).await
}

/// Fills in the times that the ledger did not send with the events.
async fn date(rpc: &Rpc, events: &mut [Event]) -> Result<(), RpcError> {
    let mut times: BTreeMap<u64, u64> = BTreeMap::new();
    for event in events.iter_mut().filter(|event| event.time_ms == 0) {
        if let Entry::Vacant(entry) = times.entry(event.height) {
            let block: Value = rpc.request("eth_getBlockByNumber", json!([U64::from(event.height), false])).await?;
            let seconds = block.get("timestamp").and_then(Value::as_str).and_then(|text| text.parse::<U64>().ok());
            entry.insert(seconds.unwrap_or_default().to::<u64>().saturating_mul(1000));
        }
        event.time_ms = times.get(&event.height).copied().unwrap_or_default();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, Bytes};
    use alloy_sol_types::SolEvent;

    use super::*;

    fn log<E: SolEvent>(address: Address, event: &E) -> Log {
        let data = event.encode_log_data();
        Log {
            address,
            topics: data.topics().to_vec(),
            data: data.data.clone(),
            block_number: U64::from(7),
            log_index: U64::ZERO,
            block_timestamp: Some(U64::from(5)),
        }
    }

    fn check<E: SolEvent>(address: Address, event: &E, expect: &str) {
        let event = Event::decode(&log(address, event)).expect("known event");
        assert_eq!((event.height, event.time_ms), (7, 5000));
        assert_eq!(format!("{}: {}", event.text("HOME"), event.why), expect);
    }

    #[test]
    fn events_are_told_in_words() {
        let (from, to) = (B256::repeat_byte(0xab), B256::repeat_byte(0xcd));
        let why = "node abababab sent no heartbeat for 6.1 s".to_owned();
        check(
            DEPLOYMENTS,
            &IDeployments::LeaseMoved { lease: 3, deployment: 1, from, to, epoch: 2, why: why.clone() },
            "lease 3 moved from node abababab to node cdcdcdcd: node abababab sent no heartbeat for 6.1 s",
        );
        check(
            DEPLOYMENTS,
            &IDeployments::LeaseMoved { lease: 3, deployment: 1, from, to: B256::ZERO, epoch: 2, why },
            "lease 3 moved from node abababab to no node: node abababab sent no heartbeat for 6.1 s",
        );
        check(
            DEPLOYMENTS,
            &IDeployments::LeaseChanged {
                lease: 3,
                deployment: 1,
                state: IDeployments::LeaseState::Failed,
                why: "exit code 1".into(),
            },
            "lease 3 failed: exit code 1",
        );
        check(
            DEPLOYMENTS,
            &IDeployments::Removed { deployment: 1, refund: U256::from(5), why: String::new() },
            "removed, 0.000000000000000005 HOME came back: ",
        );
        check(NODES, &INodes::NodeOffline { id: to, why: "silent".into() }, "node cdcdcdcd offline: silent");
    }

    #[test]
    fn what_is_no_event_of_ours_is_left_out() {
        let mut other = log(NODES, &INodes::NodeOnline { id: B256::ZERO });
        other.data = Bytes::from_static(b"x");
        other.topics.clear();
        assert_eq!(Event::decode(&other), None);
        assert_eq!(Event::decode(&Log { address: Address::ZERO, ..other }), None);
    }
}
