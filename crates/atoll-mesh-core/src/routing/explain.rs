//! Why a route was chosen: all that is known of a target, for people.

use super::Router;
use crate::{LinkId, announce::Target};

/// A route that a neighbour told, and what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The link over which it was told.
    pub link: LinkId,
    /// Cost from that neighbour on, as it said.
    pub told: u16,
    /// Cost of the link to that neighbour, with the owner's price.
    pub cost: u16,
    /// Links of the whole path.
    pub hops: u8,
    /// What became of it.
    pub verdict: Verdict,
}

/// What became of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// In use.
    Used,
    /// Taken at once when the one in use fails.
    Backup,
    /// Usable, but costs more, or not so much less that a change is worth it.
    Spare,
    /// Might lead back here (RFC 8966 section 3.5.1): not used until its origin announces itself anew.
    NotFeasible,
}

impl Router {
    /// All routes to a target that neighbours told, the one in use first.
    pub fn choices(&self, target: Target) -> Vec<Choice> {
        let Some(entry) = self.entries.get(&target) else { return Vec::new() };
        let choice = |(link, route): (&LinkId, &super::table::Route)| {
            let neighbour = self.neighbours.get(link)?;
            let verdict = match &entry.selected {
                Some(used) if used.link == *link => Verdict::Used,
                Some(used) if used.backup == Some(*link) => Verdict::Backup,
                _ if entry.is_feasible(route.router_id, route.claim) => Verdict::Spare,
                _ => Verdict::NotFeasible,
            };
            Some(Choice {
                link: *link,
                told: route.metric,
                cost: neighbour.cost.saturating_add(neighbour.policy.price),
                hops: route.hops.saturating_add(1),
                verdict,
            })
        };
        let mut choices: Vec<_> = entry.routes.iter().filter_map(choice).collect();
        choices.sort_by_key(|choice| (choice.verdict, choice.told.saturating_add(choice.cost), choice.link));
        choices
    }
}
