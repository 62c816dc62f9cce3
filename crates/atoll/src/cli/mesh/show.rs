//! `atoll mesh status`, `peers`, `routes`, `sessions`.

use std::{net::Ipv6Addr, path::Path, process::ExitCode};

use anyhow::Result;
use atoll_api::mesh::{Choice, MeshStatus, Peer, Session};
use atoll_base::{MeshAddr, NodeId};
use serde::Serialize;

use super::{
    super::{failure::fail, output},
    Which, node_called,
};

/// `atoll mesh status`, `peers`, `sessions`.
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    which: Which,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// `atoll mesh routes`.
#[derive(Debug, clap::Args)]
pub(crate) struct RoutesArgs {
    /// Show every route known to this node, an address or the beginning of a node's id, and why one was chosen
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
    #[command(flatten)]
    show: ShowArgs,
}

pub(super) fn status(args: &ShowArgs, state: Option<&Path>) -> Result<ExitCode> {
    let status = args.which.status(state)?;
    #[derive(Serialize)]
    struct Short<'a> {
        node: NodeId,
        address: Ipv6Addr,
        region: String,
        interface: &'a str,
        port: u16,
        peers: usize,
        peers_up: usize,
        nodes: usize,
        regions: usize,
        sessions: usize,
        problems: &'a [String],
    }
    let short = Short {
        node: status.node,
        address: status.address,
        region: status.region.to_string(),
        interface: &status.interface,
        port: status.port,
        peers: status.peers.len(),
        peers_up: status.peers.iter().filter(|peer| peer.up).count(),
        nodes: status.routes.len(),
        regions: status.regions.len(),
        sessions: status.sessions.len(),
        problems: &status.problems,
    };
    if args.json {
        output::print_json(&short)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = format!(
        "Node       {}\nAddress    {} on {}\nRegion     {}\nLinks      {} of {} up, UDP port {}\nReachable  {} nodes, {} other regions\nSessions   {}\n",
        short.node,
        short.address,
        short.interface,
        short.region,
        short.peers_up,
        short.peers,
        short.port,
        short.nodes,
        short.regions,
        short.sessions,
    );
    for problem in &status.problems {
        text += &format!("Problem    {}\n", output::clean(problem));
    }
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn peers(args: &ShowArgs, state: Option<&Path>) -> Result<ExitCode> {
    let status = args.which.status(state)?;
    let row = |peer: &Peer| {
        vec![
            peer.node.map_or("?".to_owned(), NodeId::short),
            if peer.up { "up" } else { "down" }.to_owned(),
            peer.endpoint.to_string(),
            peer.region.as_ref().map_or_else(|| peer.origin.clone(), |region| format!("{} in {region}", peer.origin)),
            peer.rtt_us.map_or("-".to_owned(), milliseconds),
            format!("{}.{} %", peer.loss_permille / 10, peer.loss_permille % 10),
            peer.cost.to_string(),
            output::bytes(peer.rx_bytes),
            output::bytes(peer.tx_bytes),
        ]
    };
    let head = ["NODE", "STATE", "ENDPOINT", "FOUND", "ROUND TRIP", "LOSS", "COST", "RECEIVED", "SENT"];
    let none = "No neighbours. Name one with --peer or `peers`, or an interface with --discovery or `discovery`.\n";
    list(args.json, &status.peers, &head, row, none)
}

pub(super) fn sessions(args: &ShowArgs, state: Option<&Path>) -> Result<ExitCode> {
    let status = args.which.status(state)?;
    let row = |session: &Session| {
        vec![
            session.node.short(),
            output::duration(session.age_ms),
            output::bytes(session.rx_bytes),
            output::bytes(session.tx_bytes),
        ]
    };
    let none = "No sessions. They begin with the first packet between two nodes.\n";
    list(args.json, &status.sessions, &["NODE", "KEYS SINCE", "RECEIVED", "SENT"], row, none)
}

pub(super) fn routes(args: &RoutesArgs, state: Option<&Path>) -> Result<ExitCode> {
    let status = args.show.which.status(state)?;
    if let Some(to) = &args.to {
        let address = address_of(&status, to)?;
        let choices: Vec<Choice> = args.show.which.ask(state, &format!("/v1/choices/{address}"))?;
        let row = |choice: &Choice| {
            let total = u32::from(choice.told) + u32::from(choice.link_cost);
            vec![
                choice.next_hop.short(),
                choice.verdict.clone(),
                format!("{total} = {} + {}", choice.link_cost, choice.told),
                choice.hops.to_string(),
                choice.why.clone(),
            ]
        };
        let none = "No neighbour told a route there.\n";
        return list(args.show.json, &choices, &["NEXT HOP", "STATE", "METRIC", "LINKS", "WHY"], row, none);
    }
    #[derive(Serialize)]
    struct Routes<'a> {
        nodes: &'a [atoll_api::mesh::Route],
        regions: &'a [atoll_api::mesh::RegionRoute],
    }
    if args.show.json {
        output::print_json(&Routes { nodes: &status.routes, regions: &status.regions })?;
        return Ok(ExitCode::SUCCESS);
    }
    if status.routes.is_empty() && status.regions.is_empty() {
        output::print("No routes: this node sees nobody. `atoll mesh peers` says more.\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let nodes = status.routes.iter().map(|route| {
        vec![
            route.node.short(),
            route.address.to_string(),
            if route.hops == 1 { "direct".to_owned() } else { route.next_hop.short() },
            route.backup.map_or("-".to_owned(), NodeId::short),
            route.hops.to_string(),
            route.metric.to_string(),
            route.mtu.to_string(),
        ]
    });
    let regions = status.regions.iter().map(|route| {
        vec![
            format!("region by {}", route.border.short()),
            route.prefix.clone(),
            route.next_hop.map_or("-".to_owned(), NodeId::short),
            "-".to_owned(),
            route.hops.to_string(),
            route.metric.to_string(),
            "-".to_owned(),
        ]
    });
    let rows: Vec<Vec<String>> = nodes.chain(regions).collect();
    output::print(&output::table(&["NODE", "ADDRESS", "OVER", "BACKUP", "LINKS", "METRIC", "MTU"], &rows))?;
    Ok(ExitCode::SUCCESS)
}

/// The address that a person means.
pub(super) fn address_of(status: &MeshStatus, text: &str) -> Result<Ipv6Addr> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let node = node_called(status, text).ok_or_else(|| {
        fail(
            format!("no reachable node, or more than one, has an id that begins with '{}'", output::clean(text)),
            "`atoll mesh routes` lists them; write an address, or more of the id",
        )
    })?;
    Ok(MeshAddr::of(status.region, node).node())
}

fn list<T: Serialize>(
    json: bool,
    items: &[T],
    head: &[&str],
    row: impl Fn(&T) -> Vec<String>,
    none: &str,
) -> Result<ExitCode> {
    if json {
        output::print_json(&items)?;
    } else if items.is_empty() {
        output::print(none)?;
    } else {
        output::print(&output::table(head, &items.iter().map(row).collect::<Vec<_>>()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `0.123 ms`.
pub(super) fn milliseconds(us: u64) -> String {
    format!("{}.{:03} ms", us / 1000, us % 1000)
}
