//! Mesh daemons in a lab, as somebody runs them who only wants the network: `atoll mesh run`.

use std::{
    collections::BTreeSet,
    fs,
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};
use atoll_api::{UnixClient, mesh::MeshStatus};
use atoll_base::{MeshAddr, NodeId, NodeSecret, RegionId};
use tokio::{runtime::Builder, time::timeout};

use super::{Host, Lab, Process, probe};
use crate::{Turn, binary, eventually};

/// UDP port of every daemon.
pub const PORT: u16 = 4870;
const REGION: RegionId = RegionId([0xa7; 32]);
/// For what takes a second on an idle machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A lab with a daemon on every machine.
#[derive(Debug)]
pub struct Mesh {
    /// The daemons, by the machine's number. Before the lab, so that they end before their namespaces.
    pub nodes: Vec<Node>,
    /// The machines and wires.
    pub lab: Lab,
}

impl Mesh {
    /// Starts a daemon on every machine of a new lab; the first end of each edge calls the second. Does not wait until
    /// they have found each other.
    pub fn start(turn: &Turn, name: &str, hosts: usize, edges: &[(usize, usize)]) -> Result<Self> {
        let lab = Lab::new(turn, name, hosts, edges)?;
        let nodes = (0..hosts).map(|host| Node::start(&lab, host, &neighbours(&lab, host)));
        Ok(Self { nodes: nodes.collect::<Result<_>>()?, lab })
    }

    /// Waits until every wire is in use, every daemon has a route to every other, and a packet passes from the first
    /// to the last.
    pub fn wait_until_joined(&self) -> Result<()> {
        for (number, node) in self.nodes.iter().enumerate() {
            let wires = self.lab.wires().iter().filter(|wire| wire.ends().0 == number || wire.ends().1 == number);
            let neighbours = wires.count();
            eventually("all neighbours, and routes to all others", PATIENCE, || {
                let status = node.status()?;
                let up: BTreeSet<_> = status.peers.iter().filter(|peer| peer.up).filter_map(|peer| peer.node).collect();
                let others = status.routes.iter().filter(|route| route.node != node.id).count();
                Ok((up.len() >= neighbours && others + 1 >= self.nodes.len()).then_some(()))
            })?;
        }
        let [Some(first), Some(last)] = [self.nodes.first(), self.nodes.last()] else { return Ok(()) };
        eventually("an echo from the last machine", PATIENCE, || Ok(first.hears(last.address).then_some(())))
    }

    /// The number of the machine that `from` uses as next hop to `target`.
    pub fn next_hop(&self, from: usize, target: usize) -> Result<usize> {
        let status = self.nodes[from].status()?;
        let to = self.nodes[target].id;
        let route = status.routes.iter().find(|route| route.node == to);
        let hop = route.with_context(|| format!("machine {from} has no route to {target}"))?.next_hop;
        self.nodes.iter().position(|node| node.id == hop).context("a next hop that is not in the lab")
    }
}

/// Whom a machine calls.
fn neighbours(lab: &Lab, host: usize) -> Vec<SocketAddr> {
    let called = lab.wires().iter().filter(|wire| wire.ends().0 == host);
    called.map(|wire| SocketAddr::from((wire.ip(wire.far(host)), PORT))).collect()
}

/// One daemon.
#[derive(Debug)]
pub struct Node {
    /// Its address in the mesh.
    pub address: Ipv6Addr,
    /// Who it is.
    pub id: NodeId,
    host: Host,
    process: Option<Process>,
    config: PathBuf,
    socket: PathBuf,
    log: PathBuf,
}

impl Node {
    /// Starts a daemon that calls `peers`. Its identity follows from the machine's number.
    pub fn start(lab: &Lab, host: usize, peers: &[SocketAddr]) -> Result<Self> {
        let file = |name: &str| lab.scratch().join(format!("node{host}.{name}"));
        let mut seed = [0xa7; 32];
        seed[..8].copy_from_slice(&(host as u64).to_be_bytes());
        let secret = NodeSecret::from_seed(seed);
        fs::write(file("key"), secret.to_text())?;
        fs::set_permissions(file("key"), std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        let peers: Vec<_> = peers.iter().map(|peer| format!("\"udp://{peer}\"")).collect();
        let text = format!(
            "identity = {:?}\nregion = \"{REGION}\"\ninterface = \"atoll0\"\nlisten = \"[::]:{PORT}\"\npeers = [{}]\nsocket = {:?}\nopen = {:?}\n",
            file("key"),
            peers.join(", "),
            file("sock"),
            probe::open(),
        );
        fs::write(file("toml"), text)?;
        let mut node = Self {
            address: MeshAddr::of(REGION, secret.id()).node(),
            id: secret.id(),
            host: lab.host(host).clone(),
            process: None,
            config: file("toml"),
            socket: file("sock"),
            log: file("log"),
        };
        node.restart()?;
        Ok(node)
    }

    /// Starts it again with what it had.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        let config = self.config.display().to_string();
        self.process = Some(self.host.start(binary(), ["mesh", "run", "--config", &config], &self.log)?);
        Ok(())
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Process id of the daemon.
    pub fn pid(&self) -> Result<u32> {
        self.process.as_ref().map(Process::id).context("the daemon does not run")
    }

    /// The machine on which it runs.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// What it says of itself.
    pub fn status(&self) -> Result<MeshStatus> {
        let client = UnixClient::new(&self.socket);
        Builder::new_current_thread().enable_all().build()?.block_on(async {
            let answer = timeout(Duration::from_secs(5), client.get("/v1/status")).await;
            Ok(answer.context("the daemon does not answer within 5 s")??)
        })
    }

    /// To how many nodes it has a route.
    pub fn routes(&self) -> Result<usize> {
        let status = self.status()?;
        Ok(status.routes.iter().filter(|route| route.node != self.id).count())
    }

    /// Whether one ping is answered within a second.
    pub fn hears(&self, target: Ipv6Addr) -> bool {
        self.host.inside("ping", ["-c1", "-W1", "-q", &target.to_string()]).is_ok()
    }
}
