//! Whom to believe, and what to pass on: decisions of people, not of the protocol.

use std::collections::{BTreeMap, BTreeSet};

use atoll_base::{NodeId, RegionId, RegionPrefix};

use super::Router;
use crate::{
    announce::{Announcement, Grant, Target},
    limits::REGIONS_MAX,
    time::Time,
};

/// Which other regions are believed, and by whose word.
#[derive(Debug, Clone, Default)]
pub struct Federation {
    authorities: BTreeMap<RegionPrefix, (RegionId, NodeId)>,
    policies: BTreeMap<RegionPrefix, LinkPolicy>,
    /// This node's right to announce its own region over links to other regions.
    pub grant: Option<Grant>,
}

impl Federation {
    /// Believes grants for a region that are signed by this Ed25519 key. False if there are [`REGIONS_MAX`] already,
    /// or another region with the same prefix.
    pub fn trust(&mut self, region: RegionId, authority: NodeId) -> bool {
        let prefix = RegionPrefix::of(region);
        let has_room = self.authorities.len() < REGIONS_MAX || self.authorities.contains_key(&prefix);
        let is_same = self.authorities.get(&prefix).is_none_or(|(known, _)| *known == region);
        if has_room && is_same {
            self.authorities.insert(prefix, (region, authority));
        }
        has_room && is_same
    }

    /// Sets what goes over links to a region that is believed; without this it is [`LinkPolicy::default`].
    pub fn set_policy(&mut self, region: RegionId, policy: LinkPolicy) {
        let prefix = RegionPrefix::of(region);
        if self.authorities.contains_key(&prefix) {
            self.policies.insert(prefix, policy);
        }
    }

    /// The regions that are believed, with the keys of their authorities, in the order of their prefixes.
    pub fn regions(&self) -> impl Iterator<Item = (RegionId, NodeId)> {
        self.authorities.values().copied()
    }

    /// What goes over links to a region.
    pub(crate) fn policy(&self, region: RegionPrefix) -> LinkPolicy {
        self.policies.get(&region).cloned().unwrap_or_default()
    }

    /// Whose word counts for a region.
    fn authority(&self, region: RegionPrefix) -> Option<(RegionId, NodeId)> {
        self.authorities.get(&region).copied()
    }
}

/// A choice of regions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Regions {
    /// Every region that is believed at all.
    #[default]
    All,
    /// These only.
    Only(BTreeSet<RegionPrefix>),
}

impl Regions {
    fn contains(&self, region: RegionPrefix) -> bool {
        match self {
            Self::All => true,
            Self::Only(some) => some.contains(&region),
        }
    }
}

/// What goes over a link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkPolicy {
    /// Other regions that are announced there: for these, this node is willing to carry the neighbour's traffic.
    pub announce: Regions,
    /// Other regions that are reached through there.
    pub accept: Regions,
    /// What the owner wants to be paid for it, in units of the metric (96 is one more link).
    pub price: u16,
}

impl LinkPolicy {
    pub(crate) fn announces(&self, target: Target) -> bool {
        match target {
            Target::Node(_) => true,
            Target::Region(region) => self.announce.contains(region),
        }
    }

    pub(super) fn accepts(&self, target: Target) -> bool {
        match target {
            Target::Node(_) => true,
            Target::Region(region) => self.accept.contains(region),
        }
    }
}

impl Router {
    /// Whether what a neighbour says of a target may be looked at: nodes only within the region, other regions only
    /// where the policy allows it.
    pub(super) fn is_acceptable(&self, neighbour: &super::Neighbour, target: Target) -> bool {
        match target {
            Target::Node(network) => self.target_of(network) == target && neighbour.region == self.region,
            Target::Region(region) => region != self.prefix && neighbour.policy.accepts(target),
        }
    }

    /// Whether the authority of its region lets the origin announce it now.
    pub(super) fn is_granted(&self, announcement: &Announcement, target: Target, now: Time) -> bool {
        match (target, &announcement.grant) {
            (Target::Node(_), None) => true,
            (Target::Region(prefix), Some(grant)) => {
                prefix == RegionPrefix::of(grant.region) && self.grant_end(grant, now).is_some()
            }
            _ => false,
        }
    }

    /// When a grant ends that its region's authority signed; nothing if it did not, or the grant has ended.
    pub(crate) fn grant_end(&self, grant: &Grant, now: Time) -> Option<Time> {
        let (region, key) = self.federation.authority(RegionPrefix::of(grant.region))?;
        let end = self.end_of(grant, now)?;
        (region == grant.region && grant.is_authentic(key)).then_some(end)
    }

    /// When a grant ends that was checked before; nothing if it has ended.
    pub(crate) fn end_of(&self, grant: &Grant, now: Time) -> Option<Time> {
        (grant.expiry_ms > self.calendar_ms(now)).then(|| self.time_of(grant.expiry_ms))
    }

    /// This node's right to speak for its region, if it has one now.
    pub(crate) fn own_grant(&self, now: Time) -> Option<Grant> {
        let grant = self.federation.grant?;
        (self.is_own_grant(&grant) && grant.expiry_ms > self.calendar_ms(now)).then_some(grant)
    }

    /// Removes routes to regions of which another authority decides than before, or none.
    pub(super) fn forget_changed(&mut self, before: &Federation, now: Time) {
        let is_changed = |prefix| self.federation.authority(prefix) != before.authority(prefix);
        let changed: Vec<_> = before.authorities.keys().copied().filter(|prefix| is_changed(*prefix)).collect();
        for target in changed.into_iter().map(Target::Region) {
            let Some(entry) = self.entries.get_mut(&target) else { continue };
            entry.routes.clear();
            // What was checked by the former word is not known any more; distances are, so that no circle forms.
            entry.sources.values_mut().for_each(|source| source.word = None);
            self.select(target, now);
        }
    }

    pub(super) fn is_own_grant(&self, grant: &Grant) -> bool {
        grant.region == self.region && grant.node == self.secret.id()
    }

    /// Removes routes whose grants have ended, and finds out when the next one does.
    pub(super) fn expire(&mut self, now: Time) {
        let calendar_ms = self.calendar_ms(now);
        let authorities = &self.federation.authorities;
        let mut next_ms = None;
        let mut affected = Vec::new();
        for (target, entry) in self.entries.range_mut(Target::Region(RegionPrefix([0; 6]))..) {
            let before = entry.routes.len();
            entry.routes.retain(|_, route| {
                let grant = route.announcement.grant;
                let valid = grant.filter(|grant| {
                    grant.expiry_ms > calendar_ms && authorities.contains_key(&RegionPrefix::of(grant.region))
                });
                next_ms = next_ms.into_iter().chain(valid.map(|grant| grant.expiry_ms)).min();
                valid.is_some()
            });
            if entry.routes.len() != before {
                affected.push(*target);
            }
        }
        self.expiry = next_ms.map(|ms| self.time_of(ms));
        for target in affected {
            self.select(target, now);
        }
    }

    /// Notes when a grant ends that has just been taken.
    pub(super) fn watch_expiry(&mut self, announcement: &Announcement) {
        let ends = announcement.grant.map(|grant| self.time_of(grant.expiry_ms));
        self.expiry = self.expiry.into_iter().chain(ends).min();
    }

    fn time_of(&self, calendar_ms: u64) -> Time {
        self.started + core::time::Duration::from_millis(calendar_ms.saturating_sub(self.calendar_ms))
    }
}
