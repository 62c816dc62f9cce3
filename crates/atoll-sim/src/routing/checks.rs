//! What must hold at any time.

use atoll_base::MeshAddr;
use atoll_mesh_core::{Target, routing::Selected};

use super::Routers;

impl Routers {
    /// What must hold after each step, as far as this node's step can have broken it.
    pub(super) fn check(&mut self, index: usize) {
        self.steps += 1;
        if self.nodes[index].lie.is_some() || !self.steps.is_multiple_of(self.check_each) {
            return;
        }
        let Some(router) = &self.nodes[index].router else { return };
        let region = self.nodes[index].region;
        let (entries, routes) = router.table_sizes();
        let bound = self.nodes.iter().filter(|node| node.region == region).count() + self.by_region.len();
        assert!(entries <= bound, "seed {}: node {index} keeps {entries} entries", self.seed);
        assert!(routes <= entries * self.nodes[index].ends.len(), "seed {}: node {index}", self.seed);
        let used: Vec<(Target, Selected)> = router.routes().map(|(target, route)| (target, route.clone())).collect();
        for (target, route) in used {
            let word = &route.announcement;
            if !self.verified.contains(&word.signature) {
                assert!(word.is_authentic(region, target), "seed {}: node {index} believes a forgery", self.seed);
                self.verified.insert(word.signature);
            }
            assert!(!word.is_retraction, "seed {}: node {index} uses a retraction", self.seed);
            self.check_circle(index, target);
        }
    }

    fn check_circle(&self, index: usize, target: Target) {
        let network = match target {
            Target::Node(network) => network,
            Target::Region(region) => match self.by_region.get(&region) {
                Some(region) => MeshAddr::of(*region, self.nodes[index].secret.id()),
                None => return,
            },
        };
        let mut at = index;
        for _ in 0..self.nodes.len() {
            let Some(next) = self.next_hop(at, network).filter(|next| self.nodes[*next].lie.is_none()) else { return };
            if next == index {
                panic!("seed {}: at {:?} node {index} is in a circle to {target:?}", self.seed, self.now);
            }
            at = next;
        }
    }
}
