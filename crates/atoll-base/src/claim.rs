//! A node's claim: what it says of itself when a provider registers it, signed with its identity key.

use alloy_primitives::{Address, B256};
use alloy_rlp::Encodable;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{NodeId, RegionId},
    keys::{self, NodeSecret},
    schema::Capacity,
};

/// Domain of the signature.
const DOMAIN: &str = "atoll node claim v1";

/// What a node offers and to whom it is bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeClaim {
    /// The node's identity.
    pub id: NodeId,
    /// The account of the provider who will be paid.
    pub provider: Address,
    /// The node's own account, which signs heartbeats.
    pub account: Address,
    /// X25519 key for sealed secrets.
    pub sealing_key: B256,
    /// What it offers.
    pub total: Capacity,
    /// `key=value` labels.
    pub labels: Vec<String>,
}

impl NodeClaim {
    /// Signs the claim for one region.
    pub fn sign(&self, region: RegionId, secret: &NodeSecret) -> [u8; 64] {
        secret.sign(DOMAIN, &self.message(region))
    }

    /// Whether the node signed this claim for this region.
    pub fn verify(&self, region: RegionId, signature: &[u8; 64]) -> bool {
        keys::verify(self.id, DOMAIN, &self.message(region), signature)
    }

    fn message(&self, region: RegionId) -> Vec<u8> {
        let mut out = Vec::new();
        let fields: [&dyn Encodable; 6] =
            [&region.word(), &self.provider, &self.account, &self.sealing_key, &self.total, &self.labels];
        alloy_rlp::encode_list::<_, dyn Encodable>(&fields, &mut out);
        out
    }
}
