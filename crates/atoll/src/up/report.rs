//! What `atoll up` prints at its end, and `atoll status`.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use atoll_api::{
    UnixClient,
    ledger::LedgerStatus,
    mesh::MeshStatus,
    node::NodeStatus,
    supervisor::{Daemon, SupervisorStatus},
};
use atoll_base::{
    Charter,
    contracts::{CHARTER, DEPLOYMENTS, ICharter, IDeployments},
};
use serde::Serialize;
use serde_json::json;

use super::{layout::Layout, ready, settings::Settings};
use crate::{amount, wallet};

/// What `atoll up` ends with: everything that a person needs next.
pub(super) async fn summary(layout: &Layout, settings: &Settings, charter: &Charter) -> Result<()> {
    let rpc = ready::rpc(settings);
    let wallet = wallet::load(&layout.account_key("wallet"))?.address();
    let balance = rpc.balance(wallet).await?;
    let supply = rpc.call(CHARTER, &ICharter::supplyCall {}).await?;
    let symbol = &charter.currency.symbol;
    let mut text = format!(
        "\nRegion    {} ({})\nCurrency  {}, {symbol}: {} in all\nWallet    {wallet}: {}\nPage      http://localhost:{}/\nWallets   JSON-RPC at http://127.0.0.1:{}, chain id {}\nState     {}\n",
        charter.name,
        charter.region_id(),
        charter.currency.name,
        amount::with_symbol(supply, symbol),
        amount::with_symbol(balance, symbol),
        settings.ports.gateway,
        settings.ports.rpc,
        charter.chain_id,
        layout.root().display(),
    );
    for deployment in rpc.call(DEPLOYMENTS, &IDeployments::listCall { offset: 0, limit: 100 }).await? {
        if deployment.endedMs == 0 {
            text += &format!("App       {0}: http://{0}.localhost:{1}/\n", deployment.name, settings.ports.gateway);
        }
    }
    print(&text)
}

/// Everything that `atoll status` knows.
#[derive(Debug, Serialize)]
struct Status {
    region: String,
    name: String,
    supervisor: Option<SupervisorStatus>,
    ledger: Option<LedgerStatus>,
    meshes: Vec<(String, MeshStatus)>,
    nodes: Vec<(String, NodeStatus)>,
    problems: Vec<String>,
}

/// Prints what runs; answers whether nothing is wrong.
pub(super) async fn status(layout: &Layout, settings: &Settings, charter: &Charter, as_json: bool) -> Result<bool> {
    let status = gather(layout, settings, charter).await;
    if as_json {
        print(&format!("{}\n", serde_json::to_string_pretty(&status)?))?;
    } else {
        print(&render(&status))?;
    }
    Ok(status.problems.is_empty())
}

async fn gather(layout: &Layout, settings: &Settings, charter: &Charter) -> Status {
    let mut status = Status {
        region: charter.region_id().to_string(),
        name: charter.name.clone(),
        supervisor: None,
        ledger: None,
        meshes: Vec::new(),
        nodes: Vec::new(),
        problems: Vec::new(),
    };
    if let Err(full) = atoll_ledger::store::check_room(layout.root()) {
        status.problems.push(full.to_string());
    }
    match UnixClient::new(layout.supervisor_socket()).get::<SupervisorStatus>("/v1/status").await {
        Ok(supervisor) => status.supervisor = Some(supervisor),
        Err(error) => {
            status.problems.push(format!("the region does not run: {error}"));
            return status;
        }
    }
    match ready::rpc(settings).request::<LedgerStatus>("atoll_status", json!([])).await {
        Ok(ledger) => {
            status.problems.extend(ledger.problems.iter().map(|problem| format!("ledger: {problem}")));
            status.ledger = Some(ledger);
        }
        Err(error) => status.problems.push(error.to_string()),
    }
    let daemons = status.supervisor.iter().flat_map(|supervisor| supervisor.daemons.clone()).collect::<Vec<_>>();
    for daemon in daemons {
        gather_daemon(&mut status, &daemon).await;
    }
    status
}

async fn gather_daemon(status: &mut Status, daemon: &Daemon) {
    let name = format!("{} of {}", daemon.role, daemon.member);
    if daemon.pid.is_none() {
        let why = daemon.problem.as_deref().unwrap_or("it has not been started yet");
        status.problems.push(format!("the {name} does not run: {why}"));
    }
    let Some(socket) = &daemon.socket else { return };
    let client = UnixClient::new(socket);
    let result = match daemon.role.as_str() {
        "mesh" => client.get::<MeshStatus>("/v1/status").await.map(|mesh| {
            status.problems.extend(mesh.problems.iter().map(|problem| format!("{name}: {problem}")));
            status.meshes.push((daemon.member.clone(), mesh));
        }),
        _ => client.get::<NodeStatus>("/v1/status").await.map(|node| {
            status.problems.extend(node.problems.iter().map(|problem| format!("{name}: {problem}")));
            status.nodes.push((daemon.member.clone(), node));
        }),
    };
    if let Err(error) = result {
        status.problems.push(format!("{name}: {error}"));
    }
}

fn render(status: &Status) -> String {
    let mut text = format!("Region  {} ({})\n", status.name, status.region);
    if let Some(ledger) = &status.ledger {
        let finality = ledger.finality_ms.map(|ms| format!(", final after {ms} ms")).unwrap_or_default();
        text += &format!(
            "Ledger  height {}{finality}, {} validator peer(s), {} transaction(s) waiting\n",
            ledger.height,
            ledger.peers.len(),
            ledger.pending
        );
    }
    if let Some(supervisor) = &status.supervisor {
        text += "\nDAEMON            PID      RESTARTS  NAMESPACE\n";
        for daemon in &supervisor.daemons {
            let pid = daemon.pid.map_or("-".to_owned(), |pid| pid.to_string());
            text += &format!(
                "{:<17} {pid:<8} {:<9} {}\n",
                format!("{}-{}", daemon.member, daemon.role),
                daemon.restarts,
                daemon.namespace.as_deref().unwrap_or("-")
            );
        }
    }
    if !status.meshes.is_empty() {
        text += "\nMESH    ADDRESS                                  PEERS UP  ROUTES  REGIONS\n";
        for (member, mesh) in &status.meshes {
            let up = mesh.peers.iter().filter(|peer| peer.up).count();
            let (address, routes, regions) = (mesh.address.to_string(), mesh.routes.len(), mesh.regions.len());
            text += &format!("{member:<7} {address:<40} {up:<9} {routes:<7} {regions}\n");
        }
    }
    if !status.nodes.is_empty() {
        text += "\nNODE    ID        VERIFIED HEIGHT  WORKLOADS\n";
        for (member, node) in &status.nodes {
            let workloads: Vec<_> = node
                .workloads
                .iter()
                .map(|w| format!("{}/{} {} (lease {})", w.deployment_name, w.service, w.state, w.lease))
                .collect();
            text += &format!(
                "{member:<7} {:<9} {:<16} {}\n",
                node.node.short(),
                node.verified_height,
                if workloads.is_empty() { "-".to_owned() } else { workloads.join(", ") }
            );
        }
    }
    text += "\n";
    if status.problems.is_empty() {
        text += "Nothing is wrong.\n";
    }
    for problem in &status.problems {
        text += &format!("WRONG: {problem}\n");
    }
    text
}

fn print(text: &str) -> Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("cannot print")
}
