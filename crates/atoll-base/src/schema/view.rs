//! Views: what a node, gateway or client reads in one go, and therefore what a server proves in one go.

use std::collections::BTreeMap;

use alloy_primitives::{B256, Bytes};
use serde::{Deserialize, Serialize};

use super::{
    DeploymentRecord, LeaseRecord, NodeRecord, ReadError, ServiceRecord, StorageRead, alive, change_slot, deployment,
    lease, nodes, read_bytes, read_u64, sealed_key_slot, sealed_spec_slot, service,
};
use crate::contracts::DEPLOYMENTS;

/// Everything that lives in the region, without sealed parts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionView {
    /// The change counter that this view belongs to.
    pub change: u64,
    /// All nodes, in the order of registration.
    pub nodes: Vec<NodeRecord>,
    /// Living deployments, oldest first.
    pub deployments: Vec<DeploymentRecord>,
    /// Their services, by (deployment, service).
    #[serde(with = "pairs")]
    pub services: BTreeMap<(u64, u32), ServiceRecord>,
    /// Their leases, by number.
    pub leases: BTreeMap<u64, LeaseRecord>,
}

/// The sealed part of one service, as one node needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Ciphertext of the private part.
    pub sealed_spec: Bytes,
    /// Content key sealed to the node; empty when nobody sealed one to it yet.
    pub sealed_key: Bytes,
}

/// Reads [`RegionView`].
pub fn region_view<S: StorageRead>(storage: &mut S) -> Result<RegionView, ReadError<S::Error>> {
    let mut view = RegionView {
        change: read_u64(storage, DEPLOYMENTS, change_slot())?,
        nodes: nodes(storage)?,
        ..RegionView::default()
    };
    for id in alive(storage)? {
        let Some(record) = deployment(storage, id)? else { continue };
        for index in 0..record.services {
            if let Some(record) = service(storage, id, index)? {
                view.services.insert((id, index), record);
            }
        }
        for lease_id in &record.leases {
            if let Some(record) = lease(storage, *lease_id)? {
                view.leases.insert(*lease_id, record);
            }
        }
        view.deployments.push(record);
    }
    Ok(view)
}

/// Reads [`ServiceView`] for one node.
pub fn sealed_view<S: StorageRead>(
    storage: &mut S,
    deployment: u64,
    service: u32,
    node: B256,
) -> Result<ServiceView, ReadError<S::Error>> {
    Ok(ServiceView {
        sealed_spec: read_bytes(storage, DEPLOYMENTS, sealed_spec_slot(deployment, service))?,
        sealed_key: read_bytes(storage, DEPLOYMENTS, sealed_key_slot(deployment, service, node))?,
    })
}

/// JSON has no maps with pairs as keys.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::ServiceRecord;

    type Map = BTreeMap<(u64, u32), ServiceRecord>;

    pub(super) fn serialize<S: Serializer>(map: &Map, s: S) -> Result<S::Ok, S::Error> {
        map.iter().collect::<Vec<_>>().serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Map, D::Error> {
        Vec::<((u64, u32), ServiceRecord)>::deserialize(d).map(|v| v.into_iter().collect())
    }
}
