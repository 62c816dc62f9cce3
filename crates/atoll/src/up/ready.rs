//! Waiting until a started region works, and enlisting the nodes of this machine in its ledger.

use std::time::{Duration, Instant};

use alloy_primitives::{Bytes, U256};
use alloy_sol_types::SolCall as _;
use anyhow::{Context as _, Result};
use atoll_api::{
    UnixClient,
    ledger::LedgerStatus,
    mesh::MeshStatus,
    node::{ClaimRequest, NodeStatus, SignedClaim},
    supervisor::SupervisorStatus,
};
use atoll_base::{
    Charter,
    contracts::{INodes, NODES},
};
use serde_json::json;
use tokio::time::sleep;

use super::{
    layout::Layout,
    members::{Member, Role, members},
    progress,
    settings::Settings,
};
use crate::{cli::failure::fail, rpc::Rpc, wallet};

/// How long one stage of the start may take.
const STAGE_PATIENCE: Duration = Duration::from_secs(90);
/// How often is asked.
const POLL: Duration = Duration::from_millis(50);

/// The JSON-RPC of the region on this machine.
pub(super) fn rpc(settings: &Settings) -> Rpc {
    Rpc::new(format!("http://127.0.0.1:{}", settings.ports.rpc))
}

/// Returns when the ledger makes blocks and all nodes of this machine are enlisted and online.
pub(super) async fn wait(layout: &Layout, settings: &Settings, charter: &Charter) -> Result<()> {
    let members = members(settings, settings.is_closed(charter));
    let rpc = rpc(settings);
    stage(layout, "starting the mesh", async || {
        for member in &members {
            daemon::<MeshStatus>(layout, member, Role::Mesh).await?;
        }
        Ok(())
    })
    .await?;
    stage(layout, "waiting for the ledger's first final block", async || {
        let status: LedgerStatus = rpc.request("atoll_status", json!([])).await?;
        if status.region != charter.region_id() {
            anyhow::bail!("the ledger at port {} is of another region", settings.ports.rpc);
        }
        if status.height == 0 { anyhow::bail!("no block is final yet") } else { Ok(()) }
    })
    .await?;
    for member in members.iter().filter(|member| member.capacity) {
        let what = format!("enlisting node {}", member.name);
        stage(layout, &what, async || enlist(layout, &rpc, member).await).await?;
    }
    stage(layout, "waiting for the nodes' heartbeats", async || {
        let call = INodes::listCall { offset: U256::ZERO, limit: U256::from(super::settings::MEMBERS_MAX) };
        let nodes = rpc.call(NODES, &call).await?;
        for member in members.iter().filter(|member| member.capacity) {
            let status = daemon::<NodeStatus>(layout, member, Role::Node).await?;
            if !nodes.iter().any(|node| node.id == status.node.word() && node.online) {
                anyhow::bail!("node {} is not online yet", member.name);
            }
            // The ledger may only remember it from before its daemon started again.
            if status.server.is_none() {
                anyhow::bail!("node {} follows no ledger server yet", member.name);
            }
        }
        Ok(())
    })
    .await
}

/// Registers the node for the provider of this machine, when it is not registered as it is now.
async fn enlist(layout: &Layout, rpc: &Rpc, member: &Member) -> Result<()> {
    let provider = wallet::load(&layout.account_key("provider"))?;
    let client = UnixClient::new(layout.daemon_socket(&member.name, Role::Node.name()));
    let request = ClaimRequest { provider: provider.address() };
    let SignedClaim { claim, signature } = client.post("/v1/claim", &request).await?;
    if let Ok(known) = rpc.call(NODES, &INodes::getCall { id: claim.id.word() }).await
        && known.account == claim.account
        && known.labels == claim.labels
        && known.total.cpuMilli == claim.total.cpu_milli
        && known.total.memoryBytes == claim.total.memory_bytes
    {
        // The free disk changes all the time: what was registered first stays.
        return Ok(());
    }
    let call = INodes::registerCall {
        id: claim.id.word(),
        account: claim.account,
        sealingKey: claim.sealing_key,
        total: INodes::Capacity {
            cpuMilli: claim.total.cpu_milli,
            memoryBytes: claim.total.memory_bytes,
            diskBytes: claim.total.disk_bytes,
        },
        labels: claim.labels,
        idSignature: signature.parse::<Bytes>().context("the node's signature is not hexadecimal")?,
    };
    rpc.transact(&provider, NODES, U256::ZERO, call.abi_encode().into()).await?;
    Ok(())
}

async fn daemon<T: serde::de::DeserializeOwned>(layout: &Layout, member: &Member, role: Role) -> Result<T> {
    UnixClient::new(layout.daemon_socket(&member.name, role.name()))
        .get("/v1/status")
        .await
        .with_context(|| format!("the {} of {} is not up", role.name(), member.name))
}

/// Repeats `attempt` until it succeeds; after the patience is over, says why it did not.
async fn stage(layout: &Layout, what: &str, mut attempt: impl AsyncFnMut() -> Result<()>) -> Result<()> {
    let progress = progress::spinner(what);
    let started = Instant::now();
    loop {
        match attempt().await {
            Ok(()) => break,
            Err(_) if started.elapsed() < STAGE_PATIENCE => sleep(POLL).await,
            Err(error) => {
                progress.failed();
                return Err(error.context(give_up(layout, what).await));
            }
        }
    }
    progress.done();
    Ok(())
}

/// What a person needs to find out why it hangs: which daemon fails, and its log.
async fn give_up(layout: &Layout, what: &str) -> anyhow::Error {
    let client = UnixClient::new(layout.supervisor_socket());
    let problem = match client.get::<SupervisorStatus>("/v1/status").await {
        Ok(status) => status.daemons.iter().find_map(|daemon| daemon.problem.clone()),
        Err(error) => Some(error.to_string()),
    };
    let cure = format!("look into the logs in {}, or try `atoll status`", layout.root().join("logs").display());
    match problem {
        Some(problem) => fail(format!("{what} took too long: {problem}"), cure),
        None => fail(format!("{what} took too long"), cure),
    }
}
