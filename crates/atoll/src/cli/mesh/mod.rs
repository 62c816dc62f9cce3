//! `atoll mesh`: the mesh daemon, and what it knows.

mod capture;
mod grant;
mod invite;
mod ping;
pub(crate) mod reload;
mod run;
mod show;
mod trace;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use atoll_api::{ClientError, UnixClient, mesh::MeshStatus};
use atoll_base::NodeId;
use clap::Subcommand;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    failure::{OrFail as _, fail},
    region::{DEFAULT_NAME, block_on},
};
use crate::up::layout::Layout;

/// `atoll mesh`.
#[derive(Debug, Subcommand)]
pub(crate) enum MeshCommand {
    /// Run the mesh daemon until SIGTERM; `atoll up` does this for a region, and this alone makes a network with just a
    /// name
    Run(Box<run::RunArgs>),
    /// Say who this node is in the mesh, and what is wrong
    Status(show::ShowArgs),
    /// List the neighbours and what the links to them are like
    Peers(show::ShowArgs),
    /// List what can be reached over whom; with --to, why that way
    Routes(show::RoutesArgs),
    /// List the sessions, encrypted from end to end
    Sessions(show::ShowArgs),
    /// Measure the round trip to a node or workload
    Ping(ping::PingArgs),
    /// Show the way to a node, hop by hop: who passes packets on, round trips and loss
    Trace(trace::TraceArgs),
    /// Show what goes through this machine's mesh daemon, or write it to a file for Wireshark
    Capture(capture::CaptureArgs),
    /// Print the line with which another machine joins
    Invite(invite::InviteArgs),
    /// Let the daemon read its configuration file again, without a restart
    Reload(reload::ReloadArgs),
    /// Make the key by which this region vouches for its border nodes, and print its public half
    Authority(grant::AuthorityArgs),
    /// Vouch for a border node of this region towards others: print what both sides write into their settings
    Grant(grant::GrantArgs),
}

/// Which mesh daemon of this machine is asked.
#[derive(Debug, clap::Args)]
struct Which {
    /// The network that `atoll mesh run --network NAME` runs, instead of the region
    #[arg(long, value_name = "NAME", conflicts_with = "member")]
    network: Option<String>,
    /// The member of a region that has several on this machine
    #[arg(long, value_name = "NAME")]
    member: Option<String>,
}

/// Carries out the command.
pub(crate) fn run(command: &MeshCommand, state: Option<&Path>) -> Result<ExitCode> {
    match command {
        MeshCommand::Run(args) => run::run(args, state),
        MeshCommand::Status(args) => show::status(args, state),
        MeshCommand::Peers(args) => show::peers(args, state),
        MeshCommand::Routes(args) => show::routes(args, state),
        MeshCommand::Sessions(args) => show::sessions(args, state),
        MeshCommand::Ping(args) => ping::run(args, state),
        MeshCommand::Trace(args) => trace::run(args, state),
        MeshCommand::Capture(args) => capture::run(args, state),
        MeshCommand::Invite(args) => invite::run(args, state),
        MeshCommand::Reload(args) => reload::run(args, state),
        MeshCommand::Authority(args) => grant::authority(args),
        MeshCommand::Grant(args) => grant::grant(args, state),
    }
}

/// Where a network with just a name has its state.
fn network_layout(network: &str, state: Option<&Path>) -> Layout {
    Layout::find(state, &format!("mesh-{network}"))
}

impl Which {
    fn ask<T: DeserializeOwned>(&self, state: Option<&Path>, uri: &str) -> Result<T> {
        let socket = self.socket(state)?;
        block_on(async {
            UnixClient::new(&socket).get(uri).await.or_fail(
                || "the mesh daemon does not answer",
                || match &self.network {
                    Some(network) => format!("start it with `atoll mesh run --network {network}`"),
                    None => "`atoll status` says whether the region runs; `atoll up` starts it".to_owned(),
                },
            )
        })
    }

    fn post<B: Serialize, T: DeserializeOwned>(&self, state: Option<&Path>, uri: &str, body: &B) -> Result<T> {
        let socket = self.socket(state)?;
        block_on(async { UnixClient::new(&socket).post(uri, body).await.map_err(refusal) })
    }

    fn status(&self, state: Option<&Path>) -> Result<MeshStatus> {
        self.ask(state, "/v1/status")
    }

    fn socket(&self, state: Option<&Path>) -> Result<PathBuf> {
        if let Some(network) = &self.network {
            let layout = network_layout(network, state);
            return Some(layout.mesh_socket()).filter(|socket| socket.exists()).ok_or_else(|| {
                fail(
                    format!("the network '{network}' does not run on this machine"),
                    format!("start it with `atoll mesh run --network {network}`"),
                )
            });
        }
        let layout = Layout::find(state, DEFAULT_NAME);
        let mut sockets = layout.mesh_sockets().or_fail(
            || format!("{} is not the state of a region", layout.root().display()),
            || "start one with `atoll up`, or name another with --state, or a network with --network",
        )?;
        let names: Vec<String> = sockets.iter().map(|(name, _)| name.clone()).collect();
        if let Some(member) = &self.member {
            sockets.retain(|(name, _)| name == member);
        } else if names.iter().any(|name| name == "host") {
            // A region of several members: the machine itself is one of them.
            sockets.retain(|(name, _)| name == "host");
        }
        match (sockets.pop(), sockets.is_empty(), names.is_empty()) {
            (Some((_, socket)), true, _) => Ok(socket),
            (None, _, true) => Err(fail("no mesh daemon runs here", "start the region with `atoll up`")),
            _ => Err(fail(
                "it is not clear which member's mesh daemon is meant",
                format!("name one with --member: {}", names.join(", ")),
            )),
        }
    }
}

/// What the daemon said, in its own words; or that it does not answer.
fn refusal(error: ClientError) -> anyhow::Error {
    match error {
        ClientError::Refused { problem, .. } => fail(problem.error, problem.cure.unwrap_or_default()),
        error => fail(error.to_string(), "`atoll status` says whether the region runs; `atoll up` starts it"),
    }
}

/// The one node of those known whose id begins like this.
fn node_called(status: &MeshStatus, text: &str) -> Option<NodeId> {
    let routes = status.routes.iter().map(|route| route.node);
    let mut known: Vec<NodeId> = routes.chain([status.node]).collect();
    known.sort_unstable();
    known.dedup();
    known.retain(|node| !text.is_empty() && node.to_string().starts_with(&text.to_lowercase()));
    match known[..] {
        [node] => Some(node),
        _ => None,
    }
}
