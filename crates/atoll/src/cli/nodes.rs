//! `atoll nodes`: the machines of the region, what they offer and what is free.

use std::{path::Path, process::ExitCode};

use alloy_primitives::U256;
use anyhow::Result;
use atoll_base::{
    MeshAddr, NodeId,
    contracts::{INodes, NODES},
    schema::Capacity,
};
use serde::Serialize;

use super::{
    output,
    region::{self, Region},
};
use crate::rpc::{Rpc, RpcError};

/// Nodes asked for at once.
const PAGE: u64 = 100;
/// Most nodes that are listed.
const NODES_MAX: usize = 10_000;

/// `atoll nodes`.
#[derive(Debug, clap::Args)]
pub(crate) struct NodesArgs {
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// A node as the ledger knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) address: std::net::Ipv6Addr,
    pub(crate) provider: alloy_primitives::Address,
    pub(crate) online: bool,
    pub(crate) total: Capacity,
    pub(crate) used: Capacity,
    pub(crate) labels: Vec<String>,
    pub(crate) registered_ms: u64,
    pub(crate) heartbeat_ms: u64,
}

pub(crate) fn run(args: &NodesArgs, state: Option<&Path>) -> Result<ExitCode> {
    let region = Region::open(state)?;
    let nodes =
        region::block_on(async { region.explain("cannot list the nodes", list(&region.rpc, region.id).await) })?;
    if args.json {
        output::print_json(&nodes)?;
    } else if nodes.is_empty() {
        output::print("No node is registered. `atoll up` registers this machine's.\n")?;
    } else {
        let rows: Vec<Vec<String>> = nodes.iter().map(|node| row(node, region::now_ms())).collect();
        output::print(&output::table(
            &["NODE", "STATE", "CORES FREE", "MEMORY FREE", "DISK FREE", "LABELS", "PROVIDER"],
            &rows,
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// All nodes in the order of registration.
pub(crate) async fn list(rpc: &Rpc, region: atoll_base::RegionId) -> Result<Vec<Node>, RpcError> {
    let mut nodes = Vec::new();
    while nodes.len() < NODES_MAX {
        let call = INodes::listCall { offset: U256::from(nodes.len()), limit: U256::from(PAGE) };
        let page = rpc.call(NODES, &call).await?;
        let last = page.is_empty();
        nodes.extend(page.into_iter().map(|node| Node {
            id: node.id.into(),
            address: MeshAddr::of(region, node.id.into()).node(),
            provider: node.provider,
            online: node.online,
            total: capacity(&node.total),
            used: capacity(&node.used),
            labels: node.labels,
            registered_ms: node.registeredMs,
            heartbeat_ms: node.heartbeatMs,
        }));
        if last {
            break;
        }
    }
    Ok(nodes)
}

fn capacity(capacity: &INodes::Capacity) -> Capacity {
    Capacity { cpu_milli: capacity.cpuMilli, memory_bytes: capacity.memoryBytes, disk_bytes: capacity.diskBytes }
}

fn row(node: &Node, now_ms: u64) -> Vec<String> {
    let free = |part: fn(&Capacity) -> u64| part(&node.total).saturating_sub(part(&node.used));
    let of = |free: String, total: String| format!("{free} of {total}");
    vec![
        node.id.short(),
        if node.online {
            "online".to_owned()
        } else {
            format!("silent for {}", output::duration(now_ms.saturating_sub(node.heartbeat_ms)))
        },
        of(output::cores(free(|c| c.cpu_milli)), output::cores(node.total.cpu_milli)),
        of(output::bytes(free(|c| c.memory_bytes)), output::bytes(node.total.memory_bytes)),
        of(output::bytes(free(|c| c.disk_bytes)), output::bytes(node.total.disk_bytes)),
        if node.labels.is_empty() { "-".to_owned() } else { output::clean(&node.labels.join(" ")) },
        node.provider.to_string(),
    ]
}
