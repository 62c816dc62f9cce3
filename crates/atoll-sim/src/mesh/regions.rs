//! Several regions in one world.

use atoll_base::RegionId;
use atoll_mesh_core::routing::Federation;

use super::{Quality, World};

impl World {
    /// Tells a node which regions to recognise, and whether it is a border.
    pub fn set_federation(&mut self, node: usize, federation: Federation) {
        self.nodes[node].federation = federation.clone();
        let now = self.now;
        if let Some(mesh) = &mut self.nodes[node].mesh {
            mesh.set_federation(federation, now);
        }
        self.settle(node);
    }

    /// Region of a node.
    pub fn region(&self, node: usize) -> RegionId {
        self.nodes[node].region
    }

    /// Lays a wire between two border nodes of two regions; the first one calls the second. Whether it may.
    pub fn connect_regions(&mut self, caller: usize, called: usize, quality: Quality) -> bool {
        self.mend(caller, called, quality);
        self.nodes[caller].border_peers.push(called);
        let (now, region) = (self.now, self.nodes[called].region);
        let mesh = self.nodes[caller].mesh.as_mut();
        let may_call = mesh.is_some_and(|mesh| mesh.add_border_peer(Self::endpoint(called), region, now));
        self.settle(caller);
        may_call
    }
}
