//! API of the mesh daemon. `GET /v1/status` answers [`MeshStatus`]; `GET /metrics` answers Prometheus text.

use std::net::{Ipv6Addr, SocketAddr};

use atoll_base::{NodeId, RegionId};
use serde::{Deserialize, Serialize};

/// Where the daemon stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeshStatus {
    /// Version of the program.
    pub version: String,
    /// Who it is.
    pub node: NodeId,
    /// Which region it belongs to.
    pub region: RegionId,
    /// Its own address.
    pub address: Ipv6Addr,
    /// Name of its network interface.
    pub interface: String,
    /// UDP port on which it listens.
    pub port: u16,
    /// Direct neighbours.
    pub peers: Vec<Peer>,
    /// Nodes that can be reached, and how.
    pub routes: Vec<Route>,
    /// End-to-end sessions.
    pub sessions: Vec<Session>,
    /// What is wrong, in plain words; empty when all is well.
    pub problems: Vec<String>,
}

/// A direct neighbour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Who it is; absent until its handshake is done.
    pub node: Option<NodeId>,
    /// Where its datagrams come from.
    pub endpoint: SocketAddr,
    /// How it was found: `static`, `discovered`, `incoming` or `punched` (a direct way past a relay).
    pub origin: String,
    /// Whether it answers.
    pub up: bool,
    /// Round trip, in microseconds.
    pub rtt_us: Option<u64>,
    /// Bytes received from it and sent to it.
    pub rx_bytes: u64,
    /// Bytes sent to it.
    pub tx_bytes: u64,
}

/// A selected route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// Where it leads.
    pub node: NodeId,
    /// Its address.
    pub address: Ipv6Addr,
    /// The neighbour that forwards.
    pub next_hop: NodeId,
    /// Cost of the whole path.
    pub metric: u32,
    /// Number of links on the path.
    pub hops: u8,
}

/// An end-to-end session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// The other end.
    pub node: NodeId,
    /// Milliseconds since its last handshake.
    pub age_ms: u64,
    /// Payload bytes received.
    pub rx_bytes: u64,
    /// Payload bytes sent.
    pub tx_bytes: u64,
}
