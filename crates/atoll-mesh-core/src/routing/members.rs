//! Closed regions: only members have routes.
//!
//! A member that relays for a stranger, or makes some up, fills no table and draws no traffic: what it says of nodes that
//! are no members is not looked at, and so not passed on. Each node is told of new members at its own time; who learns of
//! one asks for the way there, because neighbours have told it already and do not repeat themselves.

use std::collections::{BTreeMap, BTreeSet};

use atoll_base::{MeshAddr, NodeId};

use super::Router;
use crate::{
    announce::Target,
    babel::Tlv,
    limits::{NEW_MEMBERS_ASKED_MAX, REQUEST_RETRY, REQUEST_RETRY_MAX, WAY_REQUEST_TRIES_MAX},
    time::Time,
};

/// Who may have routes.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// All; everybody, if nothing is said.
    all: Option<BTreeSet<NodeId>>,
    /// New members to whom neighbours are asked for the way, when they were asked last, and how often.
    asked: BTreeMap<MeshAddr, (Time, u32)>,
}

impl Members {
    pub(super) fn has(&self, node: NodeId) -> bool {
        self.all.as_ref().is_none_or(|all| all.contains(&node))
    }

    /// When neighbours are to be asked again.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.asked.values().map(|(sent, tries)| *sent + pause(*tries)).min()
    }
}

fn pause(tries: u32) -> core::time::Duration {
    REQUEST_RETRY.saturating_mul(1 << tries.min(16)).min(REQUEST_RETRY_MAX)
}

impl Router {
    /// Says which nodes of this region have routes; `None`: all. Routes to others end at once.
    pub fn set_members(&mut self, members: Option<BTreeSet<NodeId>>, now: Time) {
        let before = core::mem::replace(&mut self.members.all, members);
        let mut strangers = Vec::new();
        for (target, entry) in &mut self.entries {
            let count = entry.routes.len();
            // Who is of another region is none of the members' business.
            if matches!(target, Target::Node(_)) {
                entry.routes.retain(|_, route| self.members.has(route.announcement.node));
            }
            if entry.routes.len() < count {
                strangers.push(*target);
            }
        }
        for target in strangers {
            self.select(target, now);
        }
        // What was refused until now is asked for.
        let Some(before) = before else { return };
        let new: Option<Vec<_>> = self.members.all.as_ref().map(|all| {
            let new = all.difference(&before).map(|node| MeshAddr::of(self.region, *node));
            new.filter(|network| *network != self.me).collect()
        });
        match new {
            Some(new) if new.len() + self.members.asked.len() <= NEW_MEMBERS_ASKED_MAX => {
                for network in new {
                    self.members.asked.insert(network, (now, 0));
                    self.ask_way(network);
                }
            }
            _ => {
                for link in self.neighbours.keys().copied().collect::<Vec<_>>() {
                    self.request_all(link);
                }
            }
        }
    }

    /// Asks again for ways to new members that are not known yet.
    pub(super) fn ask_ways(&mut self, now: Time) {
        let due = |(sent, tries): &(Time, u32)| *sent + pause(*tries) <= now;
        let due: Vec<_> =
            self.members.asked.iter().filter(|(_, ask)| due(ask)).map(|(n, (_, tries))| (*n, *tries)).collect();
        for (network, tries) in due {
            let has_way = self.entries.get(&Target::Node(network)).is_some_and(|entry| !entry.routes.is_empty());
            if has_way || tries + 1 >= WAY_REQUEST_TRIES_MAX {
                self.members.asked.remove(&network);
                continue;
            }
            self.members.asked.insert(network, (now, tries + 1));
            self.ask_way(network);
        }
    }

    fn ask_way(&mut self, network: MeshAddr) {
        let near: Vec<_> = self.neighbours.iter().filter(|(_, n)| n.region == self.region).map(|(l, _)| *l).collect();
        for link in near {
            self.push(link, &Tlv::RouteRequest(Some(Target::Node(network).prefix())));
        }
    }
}
