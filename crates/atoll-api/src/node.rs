//! API of the node daemon.
//!
//! * `GET /v1/status` → [`NodeStatus`]
//! * `GET /v1/plan` → [`PlanStep`]s: what it would do next, and why
//! * `POST /v1/claim` [`ClaimRequest`] → [`SignedClaim`]: what a provider needs to register this node
//! * `POST /v1/images` [`ImportImage`] → [`ImportedImage`]: copies a local image into the node's store
//! * `POST /v1/images/fetch` [`FetchImage`] → [`ImportedImage`]: brings an image of a registry into the node's store
//! * `POST /v1/logs` [`LogsRequest`] → log lines as plain text, streamed while `follow` is set. A workload on another
//!   node is asked for over the mesh, with the owner's signature as the permission.
//! * `GET /metrics` → Prometheus text

use std::net::Ipv6Addr;

use alloy_primitives::Address;
use atoll_base::{
    DeploymentId, LeaseId, NodeId, RegionId,
    claim::NodeClaim,
    schema::{Capacity, Isolation},
};
use serde::{Deserialize, Serialize};

/// Where the daemon stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Version of the program.
    pub version: String,
    /// Who it is.
    pub node: NodeId,
    /// Which region it belongs to.
    pub region: RegionId,
    /// Its mesh address.
    pub address: Ipv6Addr,
    /// Height of the newest block whose finality it verified itself.
    pub verified_height: u64,
    /// Ledger time of that block, ms.
    pub verified_ms: u64,
    /// The ledger server that it follows now.
    pub server: Option<String>,
    /// Whether it offers capacity.
    pub capacity: Option<Capacity>,
    /// Addresses on which its gateway listens; empty when it has no gateway.
    pub gateway: Vec<String>,
    /// What it found out about this machine.
    pub capabilities: Vec<Capability>,
    /// What it runs.
    pub workloads: Vec<Workload>,
    /// What is wrong, in plain words; empty when all is well.
    pub problems: Vec<String>,
}

/// A feature of the machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Capability {
    /// `container`, `micro-vm`, `cgroup`, `overlayfs`, …
    pub name: String,
    /// Whether it works here.
    pub works: bool,
    /// How, or why not.
    pub detail: String,
}

/// A workload on this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Workload {
    /// Its lease.
    pub lease: LeaseId,
    /// The lease's epoch when it was started.
    pub epoch: u64,
    /// Its deployment.
    pub deployment: DeploymentId,
    /// Name of the deployment.
    pub deployment_name: String,
    /// Name of the service.
    pub service: String,
    /// Container or VM.
    pub isolation: Isolation,
    /// Its mesh address.
    pub address: Ipv6Addr,
    /// `accepted`, `fetching`, `preparing`, `starting`, `running`, `stopping`, `stopped` or `failed`.
    pub state: String,
    /// Why, in plain words.
    pub why: String,
    /// When it will be tried again, ledger time in ms.
    pub retry_at_ms: Option<u64>,
    /// How often it was started.
    pub starts: u32,
}

/// One step of the node's plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanStep {
    /// The lease that it is for.
    pub lease: LeaseId,
    /// What will be done.
    pub action: String,
    /// Why.
    pub why: String,
}

/// Asks a node to bind itself to a provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRequest {
    /// Who will be paid.
    pub provider: Address,
}

/// A claim with the node's signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedClaim {
    /// What the node says of itself.
    pub claim: NodeClaim,
    /// Ed25519 signature, 128 hexadecimal digits.
    pub signature: String,
}

/// A local image to copy into the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportImage {
    /// Absolute path of an OCI layout folder or of a `docker save` archive.
    pub path: String,
    /// Which image of it, when it holds several.
    #[serde(default)]
    pub tag: Option<String>,
    /// The manifest digest that it must have, `sha256:…`.
    #[serde(default)]
    pub digest: Option<String>,
}

/// Which image of a registry to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchImage {
    /// `host[:port]/path` of the repository.
    pub repository: String,
    /// Digest of its manifest or of its index of manifests, `sha256:…`.
    pub digest: String,
}

/// An image in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportedImage {
    /// Digest of its manifest, `sha256:…`.
    pub digest: String,
    /// Bytes of all its blobs.
    pub size_bytes: u64,
    /// The node that has it now: the source to name in the deployment.
    pub node: NodeId,
}

/// Which log to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsRequest {
    /// The lease whose workload it is.
    pub lease: LeaseId,
    /// How many of the last lines.
    pub tail: u32,
    /// Whether to stay and send what comes.
    pub follow: bool,
    /// Milliseconds since 1970 when it was signed: valid for a minute.
    pub signed_ms: u64,
    /// EIP-191 signature of the deployment's owner over [`LogsRequest::message`], 130 hexadecimal digits.
    pub signature: String,
}

impl LogsRequest {
    /// What the owner signs.
    pub fn message(region: RegionId, lease: LeaseId, signed_ms: u64) -> String {
        format!("Atoll: read the logs of lease {lease} in region {region} at {signed_ms}")
    }
}
