//! API of the mesh daemon. `GET /v1/status` answers [`MeshStatus`]; `GET /v1/choices/ADDRESS` answers a list of
//! [`Choice`]; `POST /v1/peers` takes a list of [`PublishedPeer`]; `POST /v1/trace` of a [`TraceRequest`] answers a
//! [`Trace`]; `POST /v1/capture` of a [`CaptureRequest`] answers one line of JSON for each [`Captured`], until the
//! connection ends; `POST /v1/reload` answers [`Reloaded`]; `GET /metrics` answers Prometheus text.

use core::{fmt, str::FromStr};
use std::net::{AddrParseError, Ipv6Addr, SocketAddr};

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
    /// Nodes of the region that can be reached, and how.
    pub routes: Vec<Route>,
    /// Other regions that can be reached, and how.
    pub regions: Vec<RegionRoute>,
    /// End-to-end sessions.
    pub sessions: Vec<Session>,
    /// What is wrong, in plain words; empty when all is well.
    pub problems: Vec<String>,
}

/// What became of a configuration that was read again while the daemon runs. One that is wrong is refused as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Settings that have changed, and hold from now on.
    pub applied: Vec<String>,
    /// Settings that have changed in the file, and hold when the daemon is started again.
    pub restart: Vec<String>,
}

/// Where a neighbour is: `192.0.2.7:4870` over UDP, `tls://192.0.2.7:443` over TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Endpoint {
    /// Datagrams go there.
    Udp(SocketAddr),
    /// A connection leads there.
    Tls(SocketAddr),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(address) => write!(f, "{address}"),
            Self::Tls(address) => write!(f, "tls://{address}"),
        }
    }
}

impl FromStr for Endpoint {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        match text.strip_prefix("tls://") {
            Some(address) => address.parse().map(Self::Tls),
            None => text.parse().map(Self::Udp),
        }
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

impl TryFrom<String> for Endpoint {
    type Error = AddrParseError;

    fn try_from(text: String) -> Result<Self, AddrParseError> {
        text.parse()
    }
}

/// A direct neighbour.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    /// Who it is; absent until its handshake is done.
    pub node: Option<NodeId>,
    /// Network of its region, a /48, if that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Where its datagrams or its connection come from.
    pub endpoint: Endpoint,
    /// How it was found: `static`, `discovered`, `incoming`, `punched` (a direct way past a relay) or `learned` (its owner
    /// published where it can be called).
    pub origin: String,
    /// Whether it answers.
    pub up: bool,
    /// Round trip, in microseconds.
    pub rtt_us: Option<u64>,
    /// What the link to it costs: 96, and more for delay, loss and lack of capacity.
    pub cost: u16,
    /// What gets lost on the way from it, in thousandths.
    pub loss_permille: u16,
    /// Bytes received from it.
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
    /// Largest datagram that every link of the path takes, in bytes.
    pub mtu: u16,
    /// The neighbour that forwards at once when that one is lost.
    pub backup: Option<NodeId>,
}

/// A selected route to another region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegionRoute {
    /// The region's network, a /48.
    pub prefix: String,
    /// The border node to which the route leads.
    pub border: NodeId,
    /// The neighbour that forwards.
    pub next_hop: Option<NodeId>,
    /// Cost of the whole path.
    pub metric: u32,
    /// Number of links up to the border node.
    #[serde(default)]
    pub hops: u8,
}

/// A route that a neighbour told, whether it is used or not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The neighbour.
    pub next_hop: NodeId,
    /// What the link to it costs.
    pub link_cost: u16,
    /// Cost from there on, as it said.
    pub told: u16,
    /// Number of links on the whole path.
    pub hops: u8,
    /// `used`, `backup`, `spare` or `not feasible`.
    pub verdict: String,
    /// The verdict in plain words.
    pub why: String,
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

/// A node that publishes where its mesh can be called. A list of them replaces the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishedPeer {
    /// Who it is; nobody else is taken there.
    pub node: NodeId,
    /// Where, as `udp://host:port` or `tls://host:port`, the preferred place first. What cannot be used is ignored.
    pub links: Vec<String>,
}

/// Nodes in such a list.
pub const PUBLISHED_PEERS_MAX: usize = 1024;

/// Asks for the way to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceRequest {
    /// An address of the node.
    pub address: Ipv6Addr,
    /// Probes for each hop, 1 to 100.
    pub probes: u16,
    /// How long each is waited for, in milliseconds: 10 to 10000.
    pub timeout_ms: u64,
}

/// The way to a node, as its probes found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// The address that was asked for.
    pub address: Ipv6Addr,
    /// Whether its node answered.
    pub reached: bool,
    /// What is known of each hop, the nearest first.
    pub hops: Vec<Hop>,
}

/// Whoever answered probes that may take so many links.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// The number of links.
    pub hop: u8,
    /// Probes that were sent.
    pub sent: u16,
    /// Who answered, who answered most first. More than one if the way changed meanwhile; nobody if all answers are
    /// missing.
    pub nodes: Vec<HopNode>,
}

/// A node on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HopNode {
    /// Its address in the mesh.
    pub address: Ipv6Addr,
    /// Who it is, if it has proven with its key that it saw the probe. Of relays in other regions there is no proof.
    pub node: Option<NodeId>,
    /// Whether it is the node that was asked for.
    pub is_target: bool,
    /// Round trips of the answers, in microseconds.
    pub rtt_us: Vec<u64>,
}

impl Hop {
    /// Probes that were answered.
    pub fn received(&self) -> usize {
        self.nodes.iter().map(|node| node.rtt_us.len()).sum()
    }
}

/// Asks for what goes through the daemon. One capture runs at a time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureRequest {
    /// Whether packets of this machine are wanted, as its programs see them.
    pub packets: bool,
    /// Whether frames on the links are wanted. Their contents are sealed: kind, size and neighbour are all there is.
    pub frames: bool,
    /// Only packets from or to this address, and frames of the neighbour to which it belongs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Ipv6Addr>,
    /// Only packets from or to the network of this node, and frames of this neighbour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
}

/// Which way something goes, seen from this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// It comes in from the mesh.
    In,
    /// It goes out into the mesh.
    Out,
}

/// Something that went through the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "lowercase")]
pub enum Captured {
    /// A packet of this machine.
    Packet {
        /// When, Unix time in microseconds.
        at_us: u64,
        /// Which way.
        way: Way,
        /// All of its bytes in hexadecimal digits; its checksums are complete.
        bytes: String,
        /// Why it was dropped, by the name of the counter; absent if it was not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dropped: Option<String>,
    },
    /// A frame on a link.
    Frame {
        /// When, Unix time in microseconds.
        at_us: u64,
        /// Which way.
        way: Way,
        /// `init`, `response`, `finish`, `data`, `unknown`, `cookie`, `refuse`, `control`, `probe`, or `other`.
        kind: String,
        /// Bytes of the datagram.
        length: usize,
        /// The neighbour, if it is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<NodeId>,
        /// Where it is.
        endpoint: SocketAddr,
        /// Whether it is passed on for others: one that comes in so goes out at once.
        relayed: bool,
        /// Why it was dropped, by the name of the counter; absent if it was not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        dropped: Option<String>,
    },
    /// So many were left out here, because they were not read quickly enough.
    Missed {
        /// How many.
        count: u64,
    },
}
