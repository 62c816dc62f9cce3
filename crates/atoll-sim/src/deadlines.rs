//! Who has something to do next: at most one deadline for each node, in order of time.
//!
//! A world asks a node for its deadline after each thing that happened to that node, and to no other; so a step costs
//! the same whether ten nodes sleep or ten thousand.

use std::collections::BTreeSet;

use atoll_mesh_core::Time;

#[derive(Default)]
pub(crate) struct Deadlines {
    by_time: BTreeSet<(Time, usize)>,
    by_node: Vec<Option<Time>>,
}

impl Deadlines {
    /// Sets or clears the deadline of a node.
    pub(crate) fn set(&mut self, node: usize, at: Option<Time>) {
        if node >= self.by_node.len() {
            self.by_node.resize(node + 1, None);
        }
        let old = core::mem::replace(&mut self.by_node[node], at);
        if old == at {
            return;
        }
        if let Some(old) = old {
            self.by_time.remove(&(old, node));
        }
        if let Some(at) = at {
            self.by_time.insert((at, node));
        }
    }

    /// The first of all, of those at the same time that of the node with the lowest number.
    pub(crate) fn next(&self) -> Option<(Time, usize)> {
        self.by_time.first().copied()
    }
}
