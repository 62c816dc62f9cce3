//! `INodes`: providers' machines, what they offer and whether they are alive.

use alloy_primitives::{Address, B256, U256};
use alloy_sol_types::{SolCall as _, SolError as _};
use atoll_base::{
    MeshAddr, NodeId,
    claim::NodeClaim,
    contracts::{
        INodes::{self, INodesCalls},
        NODES,
    },
    limits as base,
    schema::{self, Capacity, NodeRecord, StorageRead as _},
};

use super::{Access, Call, Stop, due, no_value};
use crate::limits;

pub(super) fn call(access: &mut Access<'_>, input: INodesCalls, call: &Call<'_>) -> Result<Vec<u8>, Stop> {
    no_value(call)?;
    Ok(match input {
        INodesCalls::register(input) => {
            register(access, call.caller, input)?;
            Vec::new()
        }
        INodesCalls::heartbeat(_) => {
            heartbeat(access, call.caller)?;
            Vec::new()
        }
        INodesCalls::count(_) => {
            let count = access.read_u64(NODES, schema::node_count_slot())?;
            INodes::countCall::abi_encode_returns(&U256::from(count))
        }
        INodesCalls::get(input) => {
            let node = schema::node(access, input.id)?.ok_or_else(|| unknown(input.id))?;
            INodes::getCall::abi_encode_returns(&view(access, node)?)
        }
        INodesCalls::list(input) => {
            let listed = list(access, input.offset, input.limit)?;
            INodes::listCall::abi_encode_returns(&listed)
        }
    })
}

fn register(access: &mut Access<'_>, provider: Address, input: INodes::registerCall) -> Result<(), Stop> {
    let total = Capacity {
        cpu_milli: input.total.cpuMilli,
        memory_bytes: input.total.memoryBytes,
        disk_bytes: input.total.diskBytes,
    };
    check_labels(&input.labels)?;
    if input.account.is_zero() {
        return Err(bad_claim("the node has no account: name the one that signs its heartbeats"));
    }
    let signature: [u8; 64] =
        input.idSignature.as_ref().try_into().map_err(|_| bad_claim("the signature does not have 64 bytes"))?;
    access.charge(limits::GAS_SIGNATURE)?;
    let claim = NodeClaim {
        id: NodeId::from(input.id),
        provider,
        account: input.account,
        sealing_key: input.sealingKey,
        total,
        labels: input.labels,
    };
    if !claim.verify(access.env.region, &signature) {
        return Err(bad_claim("the signature is not the node's over this claim for this region and provider"));
    }
    let holder: B256 = access.word(NODES, schema::node_of_account_slot(claim.account))?.into();
    if !holder.is_zero() && holder != input.id {
        return Err(bad_claim("the account belongs to another node"));
    }
    match schema::node(access, input.id)? {
        Some(node) => update(access, node, claim),
        None => add(access, claim),
    }
}

fn add(access: &mut Access<'_>, claim: NodeClaim) -> Result<(), Stop> {
    let count = access.read_u64(NODES, schema::node_count_slot())?;
    if count >= limits::NODES_MAX {
        return Err(too_many("nodes in the region", limits::NODES_MAX));
    }
    let id = claim.id.word();
    let node = NodeRecord {
        id,
        provider: claim.provider,
        account: claim.account,
        sealing_key: claim.sealing_key,
        total: claim.total,
        used: Capacity::default(),
        labels: claim.labels,
        registered_ms: access.now_ms(),
        online: false,
        next_workload: MeshAddr::FIRST_WORKLOAD,
    };
    access.store(NODES, schema::node_at_slot(count), id.into())?;
    access.store_u64(NODES, schema::node_count_slot(), count + 1)?;
    access.store(NODES, schema::node_of_account_slot(node.account), id.into())?;
    access.store_record(NODES, schema::node_slot(id), &node)?;
    access.emit(NODES, &INodes::NodeRegistered { id, provider: node.provider, account: node.account })?;
    access.bump_change()
}

fn update(access: &mut Access<'_>, mut node: NodeRecord, claim: NodeClaim) -> Result<(), Stop> {
    if node.provider != claim.provider {
        let refusal = INodes::NotYourNode { id: node.id, provider: node.provider };
        return Err(Stop::Revert(refusal.abi_encode().into()));
    }
    if node.account != claim.account {
        access.store(NODES, schema::node_of_account_slot(node.account), U256::ZERO)?;
        access.store(NODES, schema::node_of_account_slot(claim.account), node.id.into())?;
    }
    node.account = claim.account;
    node.sealing_key = claim.sealing_key;
    node.total = claim.total;
    node.labels = claim.labels;
    access.store_record(NODES, schema::node_slot(node.id), &node)?;
    access.emit(NODES, &INodes::NodeUpdated { id: node.id })?;
    due::capacity_appeared(access)?;
    access.bump_change()
}

fn heartbeat(access: &mut Access<'_>, account: Address) -> Result<(), Stop> {
    let id = of_account(access, account)?;
    let now = access.now_ms();
    access.store_u64(NODES, schema::heartbeat_slot(id), now)?;
    let mut node: NodeRecord = access.record(NODES, schema::node_slot(id), "a node")?;
    if node.online {
        return Ok(());
    }
    node.online = true;
    access.store_record(NODES, schema::node_slot(id), &node)?;
    access.emit(NODES, &INodes::NodeOnline { id })?;
    due::by(access, due::nodes_slot(), now.saturating_add(access.env.charter.timing.heartbeat_timeout_ms))?;
    due::capacity_appeared(access)?;
    access.bump_change()
}

/// The node to which an account belongs.
pub(super) fn of_account(access: &mut Access<'_>, account: Address) -> Result<B256, Stop> {
    let id: B256 = access.word(NODES, schema::node_of_account_slot(account))?.into();
    if id.is_zero() { Err(unknown(B256::left_padding_from(account.as_slice()))) } else { Ok(id) }
}

fn list(access: &mut Access<'_>, offset: U256, limit: U256) -> Result<Vec<INodes::Node>, Stop> {
    let count = access.read_u64(NODES, schema::node_count_slot())?;
    let first = offset.saturating_to::<u64>().min(count);
    let last = first.saturating_add(limit.saturating_to::<u64>().min(limits::LIST_MAX)).min(count);
    let mut nodes = Vec::new();
    for index in first..last {
        let id: B256 = access.word(NODES, schema::node_at_slot(index))?.into();
        let node = access.record(NODES, schema::node_slot(id), "a node")?;
        nodes.push(view(access, node)?);
    }
    Ok(nodes)
}

fn view(access: &mut Access<'_>, node: NodeRecord) -> Result<INodes::Node, Stop> {
    let capacity =
        |c: Capacity| INodes::Capacity { cpuMilli: c.cpu_milli, memoryBytes: c.memory_bytes, diskBytes: c.disk_bytes };
    Ok(INodes::Node {
        id: node.id,
        provider: node.provider,
        account: node.account,
        sealingKey: node.sealing_key,
        total: capacity(node.total),
        used: capacity(node.used),
        labels: node.labels,
        registeredMs: node.registered_ms,
        heartbeatMs: access.read_u64(NODES, schema::heartbeat_slot(node.id))?,
        online: node.online,
    })
}

fn check_labels(labels: &[String]) -> Result<(), Stop> {
    if labels.len() > base::LABELS_MAX {
        return Err(too_many("labels", base::LABELS_MAX as u64));
    }
    match labels.iter().find(|label| !is_label(label)) {
        Some(_) => Err(bad_claim("a label must read key=value and have at most 128 bytes")),
        None => Ok(()),
    }
}

/// Whether a text reads `key=value` within the bound.
pub(super) fn is_label(text: &str) -> bool {
    text.len() <= base::LABEL_BYTES_MAX && text.split_once('=').is_some_and(|(key, _)| !key.is_empty())
}

fn unknown(id: B256) -> Stop {
    Stop::Revert(INodes::UnknownNode { id }.abi_encode().into())
}

fn bad_claim(why: &str) -> Stop {
    Stop::Revert(INodes::BadClaim { why: why.to_owned() }.abi_encode().into())
}

fn too_many(what: &str, max: u64) -> Stop {
    Stop::Revert(INodes::TooMany { what: what.to_owned(), max: U256::from(max) }.abi_encode().into())
}

const _: () = assert!(base::LABEL_BYTES_MAX == 128, "the message above names it");
