//! Who may talk to a node's workloads, as one nftables table that is replaced as a whole.
//!
//! ```text
//! from                 to                    passes
//! ─────────────────────────────────────────────────────────────────────────────────────────────────────
//! mesh, workloads      workload              answers, ICMPv6, its deployment's peers, its open ports
//! the node itself      workload              the same, and the port of its health check
//! workload             the node itself       answers, ICMPv6, the node's ports for workloads (DNS)
//! workload             mesh, workloads       as the receiver allows; nowhere else (not the owner's LAN)
//! LAN                  mesh, workloads       nothing
//! workload                                   nothing at all with a source address that is not its own
//! ```
//!
//! [`Firewall`] describes the whole; [`Firewall::apply`] makes it so in one transaction. A restarted daemon describes
//! and applies it again, and nothing passes or breaks in between. It needs Debian's package `nftables`.
//!
//! Who may talk to the machine itself over the mesh is said by [`OwnFirewall`], in a table of its own; who may leave
//! the mesh here, by [`ExitFirewall`].

mod exit;
mod own;

pub use exit::ExitFirewall;
pub use own::{OwnFirewall, PortRange};

use std::{collections::BTreeSet, io, net::Ipv6Addr, process::Stdio};

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, process::Command};

use crate::limits::{FIREWALL_PEERS_MAX, FIREWALL_WORKLOADS_MAX};

/// The program that talks to the kernel.
pub(crate) const NFT: &str = "nft";

/// The rules could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// The program is missing.
    #[error("the program nft is missing: install the package nftables")]
    Missing(#[source] io::Error),
    /// It could not be run.
    #[error("cannot run nft")]
    Run(#[source] io::Error),
    /// It refused the rules.
    #[error("nft refused the rules of table {table}: {why}")]
    Refused {
        /// The table.
        table: String,
        /// Its words.
        why: String,
    },
    /// The description is not one that the kernel takes.
    #[error("the firewall's {what} is not usable: {why}")]
    Description {
        /// Which part.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

/// All rules of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firewall {
    /// Distinguishes this node's table from those of other nodes in the same namespace: letters, digits and `_`.
    pub suffix: String,
    /// The link to the mesh.
    pub mesh_link: String,
    /// Ports of the node itself that its workloads may reach, TCP and UDP.
    pub node_ports: BTreeSet<u16>,
    /// The workloads.
    pub workloads: Vec<WorkloadRules>,
}

/// The rules of one workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadRules {
    /// Its link in the node's namespace.
    pub host_link: String,
    /// Its address.
    pub address: Ipv6Addr,
    /// Who may reach all its ports: the other workloads of its deployment, on whichever nodes.
    pub peers: BTreeSet<Ipv6Addr>,
    /// Ports that the whole mesh may reach, TCP and UDP: its open ports, and the port that gateways forward to.
    pub open_ports: BTreeSet<u16>,
    /// Ports that the node itself may reach in addition: its health check.
    pub node_only_ports: BTreeSet<u16>,
}

impl Firewall {
    /// Replaces this node's table by these rules. Must be called in the node's network namespace, on a tokio runtime.
    pub async fn apply(&self) -> Result<(), FirewallError> {
        self.check()?;
        run(&self.table(), &self.transaction()).await
    }

    /// Removes the table of this suffix if there is one.
    pub async fn remove(suffix: &str) -> Result<(), FirewallError> {
        let table = table_name(suffix);
        let named = json!({ "table": { "family": "inet", "name": table } });
        run(&table, &json!({ "nftables": [{ "add": named }, { "delete": named }] })).await
    }

    fn table(&self) -> String {
        table_name(&self.suffix)
    }

    fn check(&self) -> Result<(), FirewallError> {
        let refuse = |what, why: String| Err(FirewallError::Description { what, why });
        if self.suffix.is_empty() || !self.suffix.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return refuse("suffix", format!("'{}' has other signs than letters, digits and _", self.suffix));
        }
        if self.workloads.len() > FIREWALL_WORKLOADS_MAX {
            return refuse("list of workloads", format!("it has more than {FIREWALL_WORKLOADS_MAX}"));
        }
        if self.workloads.iter().any(|workload| workload.peers.len() > FIREWALL_PEERS_MAX) {
            return refuse("list of peers", format!("it has more than {FIREWALL_PEERS_MAX}"));
        }
        let links: BTreeSet<&String> = self.workloads.iter().map(|workload| &workload.host_link).collect();
        if links.len() != self.workloads.len() || links.contains(&self.mesh_link) {
            return refuse("list of links", "two workloads, or one and the mesh, have the same".to_owned());
        }
        Ok(())
    }

    /// Everything as one transaction in the JSON of `libnftables-json(5)`.
    fn transaction(&self) -> Value {
        let table = json!({ "table": { "family": "inet", "name": self.table() } });
        // The first "add" makes sure that there is something to delete.
        let mut commands = vec![json!({ "add": table }), json!({ "delete": table }), json!({ "add": table })];
        let mut chain = |name: &str, hook: Option<(&str, i32)>, rules: Vec<Vec<Value>>| {
            let mut described = json!({ "family": "inet", "table": self.table(), "name": name });
            if let Some((hook, priority)) = hook {
                described["type"] = json!("filter");
                described["hook"] = json!(hook);
                described["prio"] = json!(priority);
                described["policy"] = json!("accept");
            }
            commands.push(json!({ "add": { "chain": described } }));
            commands.extend(rules.into_iter().map(|expr| {
                json!({ "add": { "rule": { "family": "inet", "table": self.table(), "chain": name, "expr": expr } } })
            }));
        };
        for (index, workload) in self.workloads.iter().enumerate() {
            chain(&inbound_chain(index), None, workload.inbound(&workload.open_ports));
            let ports = workload.open_ports.union(&workload.node_only_ports).copied().collect();
            chain(&node_chain(index), None, workload.inbound(&ports));
        }
        chain("node", None, inbound(&BTreeSet::new(), &self.node_ports));
        chain(
            "spoofing",
            Some(("prerouting", -300)),
            self.workloads.iter().flat_map(WorkloadRules::own_source).collect(),
        );
        chain("forwarding", Some(("forward", 0)), self.forwarding());
        chain("output", Some(("output", 0)), self.dispatch(node_chain));
        let links = self.links();
        let to_node = if links.is_empty() {
            vec![]
        } else {
            vec![vec![is("iifname", &links), json!({ "jump": { "target": "node" } })]]
        };
        chain("input", Some(("input", 0)), to_node);
        json!({ "nftables": commands })
    }

    fn forwarding(&self) -> Vec<Vec<Value>> {
        let links = self.links();
        let mesh = [self.mesh_link.as_str()];
        let inside: Vec<&str> = links.iter().copied().chain(mesh).collect();
        // What an exit lets out or back in is between the mesh and the uplink, and never of a workload.
        let over_exit = vec![exit::is_marked(), json!({ "accept": null })];
        if links.is_empty() {
            return vec![over_exit, vec![is("iifname", &mesh), drop_it()], vec![is("oifname", &mesh), drop_it()]];
        }
        let mut rules = vec![
            over_exit,
            vec![is("oifname", &inside), is_not("iifname", &inside), drop_it()],
            vec![is("iifname", &inside), is_not("oifname", &inside), drop_it()],
        ];
        rules.extend(self.dispatch(inbound_chain));
        rules
    }

    /// Sends what goes to a workload to its chain.
    fn dispatch(&self, chain: impl Fn(usize) -> String) -> Vec<Vec<Value>> {
        let targets: Vec<Value> = self
            .workloads
            .iter()
            .enumerate()
            .map(|(index, workload)| json!([workload.host_link, { "jump": { "target": chain(index) } }]))
            .collect();
        if targets.is_empty() {
            return vec![];
        }
        vec![vec![json!({ "vmap": { "key": { "meta": { "key": "oifname" } }, "data": { "set": targets } } })]]
    }

    fn links(&self) -> Vec<&str> {
        self.workloads.iter().map(|workload| workload.host_link.as_str()).collect()
    }
}

impl WorkloadRules {
    fn inbound(&self, ports: &BTreeSet<u16>) -> Vec<Vec<Value>> {
        inbound(&self.peers, ports)
    }

    /// Link-local and unspecified addresses are what neighbour discovery uses; they are never forwarded.
    fn own_source(&self) -> [Vec<Value>; 2] {
        let link_local = json!({ "prefix": { "addr": "fe80::", "len": 10 } });
        let own = json!({ "set": [self.address.to_string(), "::", link_local] });
        let source = json!({ "payload": { "protocol": "ip6", "field": "saddr" } });
        let from_it = is("iifname", &[self.host_link.as_str()]);
        [
            vec![from_it.clone(), matches("!=", json!({ "meta": { "key": "protocol" } }), json!("ip6")), drop_it()],
            vec![from_it, matches("!=", source, own), drop_it()],
        ]
    }
}

/// What may come in: answers, what IPv6 needs, everything from `peers`, and anything to `ports`.
fn inbound(peers: &BTreeSet<Ipv6Addr>, ports: &BTreeSet<u16>) -> Vec<Vec<Value>> {
    let accept = || json!({ "accept": null });
    let essential = [
        "destination-unreachable",
        "packet-too-big",
        "time-exceeded",
        "parameter-problem",
        "echo-request",
        "nd-router-solicit",
        "nd-neighbor-solicit",
        "nd-neighbor-advert",
    ];
    let kind = json!({ "payload": { "protocol": "icmpv6", "field": "type" } });
    let mut rules = vec![
        vec![matches("in", json!({ "ct": { "key": "state" } }), json!(["established", "related"])), accept()],
        vec![matches("==", kind, json!({ "set": essential })), accept()],
    ];
    if !peers.is_empty() {
        let source = json!({ "payload": { "protocol": "ip6", "field": "saddr" } });
        let peers: Vec<String> = peers.iter().map(Ipv6Addr::to_string).collect();
        rules.push(vec![matches("==", source, json!({ "set": peers })), accept()]);
    }
    if !ports.is_empty() {
        for protocol in ["tcp", "udp"] {
            let port = json!({ "payload": { "protocol": protocol, "field": "dport" } });
            rules.push(vec![matches("==", port, json!({ "set": ports })), accept()]);
        }
    }
    rules.push(vec![json!({ "counter": null }), drop_it()]);
    rules
}

fn table_name(suffix: &str) -> String {
    format!("atoll_{suffix}")
}

fn inbound_chain(index: usize) -> String {
    format!("to_workload_{index}")
}

fn node_chain(index: usize) -> String {
    format!("node_to_workload_{index}")
}

fn is(key: &str, names: &[&str]) -> Value {
    matches("==", json!({ "meta": { "key": key } }), json!({ "set": names }))
}

fn is_not(key: &str, names: &[&str]) -> Value {
    matches("!=", json!({ "meta": { "key": key } }), json!({ "set": names }))
}

fn matches(op: &str, left: Value, right: Value) -> Value {
    json!({ "match": { "op": op, "left": left, "right": right } })
}

fn drop_it() -> Value {
    json!({ "drop": null })
}

async fn run(table: &str, transaction: &Value) -> Result<(), FirewallError> {
    let spawned = Command::new(NFT)
        .args(["-j", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = spawned.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => FirewallError::Missing(e),
        _ => FirewallError::Run(e),
    })?;
    if let Some(mut input) = child.stdin.take() {
        let written = input.write_all(transaction.to_string().as_bytes()).await;
        // A program that refuses early closes its end; what it says about that counts more.
        if let Err(e) = written.and(input.shutdown().await)
            && e.kind() != io::ErrorKind::BrokenPipe
        {
            return Err(FirewallError::Run(e));
        }
    }
    let output = child.wait_with_output().await.map_err(FirewallError::Run)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let why: String = said.lines().take(3).collect::<Vec<_>>().join(" ").chars().take(300).collect();
    Err(FirewallError::Refused { table: table.to_owned(), why })
}
