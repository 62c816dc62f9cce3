//! Origin announcements: a node's signed word that its network is alive, at a sequence number.

use atoll_base::{MeshAddr, NodeId, NodeSecret, RegionId, keys};

const DOMAIN: &str = "atoll mesh announcement v1";

/// "I, this node, announce my own network, for the n-th time." Distance is not part of it: it changes at every hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announcement {
    /// Who announces itself.
    pub node: NodeId,
    /// Grows with each new announcement, over restarts too.
    pub seqno: u64,
    /// The node's signature over region, node and sequence number.
    pub signature: [u8; 64],
}

impl Announcement {
    /// Signs a new one.
    pub fn sign(secret: &NodeSecret, region: RegionId, seqno: u64) -> Self {
        let node = secret.id();
        Self { node, seqno, signature: secret.sign(DOMAIN, &message(region, node, seqno)) }
    }

    /// Whether the node itself signed it, for this region.
    pub fn is_authentic(&self, region: RegionId) -> bool {
        keys::verify(self.node, DOMAIN, &message(region, self.node, self.seqno), &self.signature)
    }

    /// The network that it announces.
    pub fn network(&self, region: RegionId) -> MeshAddr {
        MeshAddr::of(region, self.node)
    }
}

fn message(region: RegionId, node: NodeId, seqno: u64) -> [u8; 72] {
    let mut message = [0; 72];
    message[..32].copy_from_slice(&region.0);
    message[32..64].copy_from_slice(&node.0);
    message[64..].copy_from_slice(&seqno.to_be_bytes());
    message
}
