//! `atoll mesh run`: from a file, or for a network that has just a name.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use atoll_base::{
    NodeId, NodeSecret, RegionId,
    invite::{Invite, LinkTransport},
};
use atoll_mesh::{Config, TunMode};

use super::{
    super::{
        daemon,
        failure::{OrFail as _, fail},
    },
    network_layout,
};
use crate::up::{found, layout::Layout};

/// UDP port of links, unless somebody chose another.
const PORT: u16 = 4870;
/// Name of the interface, unless somebody chose another.
const INTERFACE: &str = "atoll0";

/// `atoll mesh run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Two machines, one network, no ledger:
  first:   atoll mesh run --network my-town
  second:  atoll mesh run --network my-town --peer udp://192.0.2.7:4870
On one LAN, --discovery eth0 on both finds the other without an address. `atoll mesh status --network my-town` says the \
address of a machine, `atoll mesh invite` a line for the next one.")]
pub(crate) struct RunArgs {
    /// Its configuration, TOML; or use the options below
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Join the network of this name: whoever is told the name can join, unless --only says who
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    network: Option<String>,
    /// Join with the line that `atoll mesh invite` printed elsewhere
    #[arg(long, value_name = "LINE", conflicts_with = "config")]
    invite: Option<Invite>,
    /// A machine to call, udp://HOST:PORT, or tls://HOST where no UDP passes; again for more
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    peer: Vec<String>,
    /// A network interface on which to look for neighbours; again for more
    #[arg(long, value_name = "INTERFACE", conflicts_with = "config")]
    discovery: Vec<String>,
    /// A node that may join, by its id; all others are refused. Again for more; all members should name the same
    #[arg(long, value_name = "NODE", conflicts_with = "config")]
    only: Vec<NodeId>,
    /// What others may reach of this machine over the network: tcp/22, udp/53, tcp/8000-8100, or all; again for more.
    /// Without it nothing but pings
    #[arg(long, value_name = "PORT", conflicts_with = "config")]
    open: Vec<String>,
    /// Where to listen for links
    #[arg(long, value_name = "ADDRESS", default_value_t = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), PORT), conflicts_with = "config")]
    listen: SocketAddr,
    /// Where to take links over TLS too, such as [::]:443, for machines to which no UDP passes
    #[arg(long, value_name = "ADDRESS", conflicts_with = "config")]
    listen_tls: Option<SocketAddr>,
    /// Name of the network interface to make
    #[arg(long, value_name = "NAME", default_value = INTERFACE, conflicts_with = "config")]
    interface: String,
    /// Make no network interface: only pass on packets of others. Needs no root, if --state can be written
    #[arg(long, conflicts_with = "config")]
    relay: bool,
    /// Where Prometheus may scrape /metrics over TCP, such as 127.0.0.1:9871
    #[arg(long, value_name = "ADDRESS", conflicts_with = "config")]
    metrics: Option<SocketAddr>,
}

pub(super) fn run(args: &RunArgs, state: Option<&Path>) -> Result<ExitCode> {
    let config = match &args.config {
        Some(path) => daemon::read(path)?,
        None => standalone(args, state)?,
    };
    // One thread: a packet that changes hands between two costs more than all that is done with it.
    daemon::runtime(&mut tokio::runtime::Builder::new_current_thread())?
        .block_on(async {
            match &args.config {
                Some(file) => atoll_mesh::run_file(config, file, daemon::stop()).await,
                None => atoll_mesh::run(config, daemon::stop()).await,
            }
        })
        .or_fail(|| "the mesh daemon ended", daemon::logs)?;
    Ok(ExitCode::SUCCESS)
}

/// The configuration that the options describe; the first time, a new identity is made.
fn standalone(args: &RunArgs, state: Option<&Path>) -> Result<Config> {
    let named = args
        .network
        .as_deref()
        .map(RegionId::of_network)
        .transpose()
        .or_fail(|| "--network cannot be used", || "choose a name like that, and use the same on every machine")?;
    let invited = args.invite.as_ref().map(Invite::region);
    let region = match (named, invited) {
        (Some(named), Some(invited)) if named != invited => {
            return Err(fail("the invite leads to another network than --network names", "leave one of the two out"));
        }
        (named, invited) => named.or(invited).ok_or_else(|| {
            fail("it is not said which network to join", "name it with --network, or use --invite or --config")
        })?,
    };
    let mut peers = args.peer.clone();
    for link in args.invite.iter().flat_map(Invite::links) {
        match link.transport() {
            LinkTransport::Udp => peers.push(format!("udp://{link}")),
            LinkTransport::Tls => peers.push(format!("tls://{link}")),
        }
    }
    let name = args.network.clone().unwrap_or_else(|| region.to_string()[..8].to_owned());
    let layout = network_layout(&name, state);
    make_identity(&layout)?;
    tracing::info!(network = name, state = %layout.root().display(), "a network without a ledger");
    Ok(Config {
        identity: layout.mesh_identity(),
        region,
        interface: args.interface.clone(),
        tun: if args.relay { TunMode::None } else { TunMode::Create },
        listen: args.listen,
        listen_tls: args.listen_tls,
        peers,
        discovery: args.discovery.clone(),
        members: (!args.only.is_empty()).then(|| args.only.clone()),
        socket: layout.mesh_socket(),
        babel: Vec::new(),
        open: args.open.clone(),
        exit: None,
        grant: None,
        regions: Vec::new(),
        metrics: args.metrics,
    })
}

fn make_identity(layout: &Layout) -> Result<()> {
    let path = layout.mesh_identity();
    let cure = || "run this as root, or choose another directory with --state";
    if path.try_exists().or_fail(|| format!("cannot look for {}", path.display()), cure)? {
        return Ok(());
    }
    let make = || {
        found::make_dir(layout.root(), 0o700)?;
        found::write_secret(&path, &NodeSecret::from_seed(rand::random()).to_text())
    };
    make().or_fail(|| "cannot keep an identity for this node", cure)
}
