//! The nodes as a call or the end of a block works on them: loaded when needed, written back once.

use std::collections::BTreeSet;

use alloy_primitives::B256;
use atoll_base::schema::{Capacity, NodeRecord};
use atoll_base::{contracts::NODES, schema};

use super::{
    Access, Stop,
    scheduler::{self, Nodes},
};
use crate::limits;

#[derive(Default)]
pub(super) struct Fleet {
    nodes: Nodes,
    changed: BTreeSet<B256>,
    complete: bool,
}

impl Fleet {
    /// All nodes.
    pub(super) fn all(&mut self, access: &mut Access<'_>) -> Result<&Nodes, Stop> {
        if !self.complete {
            for node in schema::nodes(access)? {
                access.charge(limits::GAS_CANDIDATE)?;
                // What was changed here already is newer than the record.
                self.nodes.entry(node.id).or_insert(node);
            }
            self.complete = true;
        }
        Ok(&self.nodes)
    }

    /// One node, which must exist.
    pub(super) fn node(&mut self, access: &mut Access<'_>, id: B256) -> Result<&NodeRecord, Stop> {
        self.load(access, id)?;
        self.nodes.get(&id).ok_or_else(|| missing(id))
    }

    /// One node, to be changed.
    pub(super) fn change(&mut self, access: &mut Access<'_>, id: B256) -> Result<&mut NodeRecord, Stop> {
        self.load(access, id)?;
        self.changed.insert(id);
        self.nodes.get_mut(&id).ok_or_else(|| missing(id))
    }

    /// Books what a lease holds on a node: `before` is given back, `after` taken.
    pub(super) fn book(
        &mut self,
        access: &mut Access<'_>,
        id: B256,
        before: Capacity,
        after: Capacity,
    ) -> Result<(), Stop> {
        if before != after {
            let node = self.change(access, id)?;
            node.used = scheduler::sum(scheduler::less(node.used, before), after);
        }
        Ok(())
    }

    /// Writes back what changed.
    pub(super) fn save(self, access: &mut Access<'_>) -> Result<(), Stop> {
        for id in self.changed {
            if let Some(node) = self.nodes.get(&id) {
                access.store_record(NODES, schema::node_slot(id), node)?;
            }
        }
        Ok(())
    }

    fn load(&mut self, access: &mut Access<'_>, id: B256) -> Result<(), Stop> {
        if !self.nodes.contains_key(&id)
            && let Some(node) = schema::node(access, id)?
        {
            self.nodes.insert(id, node);
        }
        Ok(())
    }
}

fn missing(id: B256) -> Stop {
    Stop::Broken(format!("a lease names node {id}, which is not registered"))
}
