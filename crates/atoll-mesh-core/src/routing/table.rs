//! The router's tables: neighbours, targets, and what is under way for each.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use atoll_base::{MeshAddr, NodeId, RegionId};

use super::{LinkPolicy, Neighbourhood};
use crate::{
    LinkId,
    announce::{Announcement, Target},
    babel::{INFINITY, RouterId},
    limits::{
        COST_HYSTERESIS, COST_HYSTERESIS_DIVISOR, REQUEST_BETTER_TRIES_MAX, REQUEST_EAGER_TRIES, REQUEST_RETRY,
        REQUEST_RETRY_EAGER_MAX, REQUEST_RETRY_MAX, UPDATE_BATCH, UPDATE_RETRY, UPDATE_RETRY_MAX,
    },
    time::Time,
};

/// What is known of a neighbour (RFC 8966 section 3.2.4).
pub(super) struct Neighbour {
    pub(super) region: RegionId,
    pub(super) node: NodeId,
    pub(super) network: MeshAddr,
    pub(super) cost: u16,
    pub(super) mtu: u16,
    pub(super) policy: LinkPolicy,
    /// Targets about which it has to be told.
    pub(super) dirty: BTreeSet<Target>,
    pub(super) dirty_since: Time,
    /// Targets for which it may hold a route through us.
    pub(super) told: BTreeSet<Target>,
    /// Names our table of its routes.
    pub(super) generation: u32,
    /// Names its table of our routes; zero until it told.
    pub(super) its_generation: u32,
    /// Its table may hold more than was told since: the next batch begins with a retraction of everything.
    pub(super) must_reset: bool,
    /// Last batch of its that was taken.
    pub(super) taken: u32,
    pub(super) in_flight: Option<InFlight>,
}

pub(super) struct InFlight {
    pub(super) number: u32,
    /// What it says, and whether that is a route or the end of one.
    pub(super) targets: BTreeMap<Target, bool>,
    pub(super) sent: Time,
    pub(super) tries: u32,
}

/// Seqno and metric, compared by [`is_better`] (RFC 8966 section 3.5.1).
pub(super) type Distance = (u64, u16);

/// All that is known of one target (RFC 8966 sections 3.2.5 and 3.2.6).
#[derive(Default)]
pub(super) struct Entry {
    pub(super) routes: BTreeMap<LinkId, Route>,
    pub(super) sources: BTreeMap<RouterId, Source>,
    pub(super) selected: Option<Selected>,
    /// What neighbours were last told: small changes of the metric are kept to oneself.
    announced: Option<Selected>,
    pub(super) wanted: Option<Wanted>,
    pub(super) forwarded: Option<(RouterId, u64, Time)>,
    /// Since when there has been no route at all.
    pub(super) empty_since: Option<Time>,
}

/// A route as a neighbour told it.
pub(super) struct Route {
    pub(super) announcement: Arc<Announcement>,
    pub(super) router_id: RouterId,
    pub(super) metric: u16,
    pub(super) hops: u8,
    pub(super) mtu: u16,
    /// The best distance that the neighbour ever told for this source since the link came up. Its own feasibility
    /// distance is no worse, and never gets worse; so as long as ours is, no loop leads through it, even if it has
    /// moved farther away in the meantime.
    pub(super) claim: Distance,
}

/// What was once taken from a source.
#[derive(Default)]
pub(super) struct Source {
    /// The feasibility distance: the best that was ever selected.
    pub(super) feasible: Option<Distance>,
    /// The origin's newest word that was taken, be it that it is gone.
    pub(super) word: Option<Arc<Announcement>>,
    /// A number that somebody needs: older routes are not used while there is one that is as new.
    pub(super) floor: u64,
}

/// The route in use to one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// The link taken.
    pub link: LinkId,
    /// The next best feasible link: free of loops, ready to be taken.
    pub backup: Option<LinkId>,
    /// The origin's word.
    pub announcement: Arc<Announcement>,
    /// Babel's name of the origin.
    pub router_id: RouterId,
    /// Cost of the whole path.
    pub metric: u16,
    /// Links of the whole path.
    pub hops: u8,
    /// Largest datagram between neighbours that every link of the path takes, in bytes.
    pub mtu: u16,
}

/// A newer announcement that is asked for.
pub(super) struct Wanted {
    pub(super) router_id: RouterId,
    pub(super) seqno: u64,
    pub(super) sent: Time,
    pub(super) tries: u32,
    /// There is no usable route at all.
    is_starving: bool,
}

impl Neighbour {
    pub(super) fn new(neighbourhood: Neighbourhood, now: Time) -> Self {
        let Neighbourhood { region, node, cost, mtu, generation, policy } = neighbourhood;
        Self {
            region,
            node,
            network: MeshAddr::of(region, node),
            cost,
            mtu,
            policy,
            dirty: BTreeSet::new(),
            dirty_since: now,
            told: BTreeSet::new(),
            generation,
            its_generation: 0,
            must_reset: true,
            taken: 0,
            in_flight: None,
        }
    }

    /// Has to be told of a target.
    pub(super) fn mark(&mut self, target: Target, now: Time) {
        if self.dirty.is_empty() {
            self.dirty_since = now;
        }
        self.dirty.insert(target);
    }

    /// Whether this names another table of its than the one that is known, by its clock.
    pub(super) const fn is_newer_generation(&self, generation: u32) -> bool {
        let ahead = generation.wrapping_sub(self.its_generation);
        generation != 0 && (self.its_generation == 0 || (ahead > 0 && ahead < u32::MAX / 2))
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        match &self.in_flight {
            Some(in_flight) => {
                let doubled = UPDATE_RETRY.saturating_mul(1 << in_flight.tries.saturating_sub(1).min(8));
                Some(in_flight.sent + doubled.min(UPDATE_RETRY_MAX))
            }
            None if self.dirty.is_empty() || self.its_generation == 0 => None,
            None => Some(self.dirty_since + UPDATE_BATCH),
        }
    }
}

impl Entry {
    /// Whether a distance is better than anything that was ever selected for its source (RFC 8966 section 3.5.1).
    pub(super) fn is_feasible(&self, router_id: RouterId, distance: Distance) -> bool {
        let known = self.sources.get(&router_id).and_then(|source| source.feasible);
        known.is_none_or(|feasible| is_better(distance, feasible))
    }

    /// Chooses among the feasible routes the best, with hysteresis, and its backup (RFC 8966 section 3.6). Whether
    /// neighbours should hear of it.
    pub(super) fn select(&mut self, neighbours: &BTreeMap<LinkId, Neighbour>, now: Time) -> bool {
        let candidates = self.preferred(self.candidates(neighbours, true));
        let best = candidates.iter().min_by_key(|route| (route.metric, route.link));
        let old = self.selected.as_ref();
        let kept = old
            .and_then(|old| candidates.iter().find(|route| route.link == old.link && route.router_id == old.router_id));
        let mut chosen = match (best, kept) {
            (Some(best), Some(kept)) if !is_worth(best.metric, kept.metric) => Some(kept.clone()),
            (best, _) => best.cloned(),
        };
        if let Some(chosen) = &mut chosen {
            let others = candidates.iter().filter(|route| route.link != chosen.link);
            chosen.backup = others.min_by_key(|route| (route.metric, route.link)).map(|route| route.link);
            let source = self.sources.entry(chosen.router_id).or_default();
            let distance = (chosen.announcement.seqno, chosen.metric);
            if source.word.as_ref().is_none_or(|word| word.seqno < chosen.announcement.seqno) {
                source.word = Some(Arc::clone(&chosen.announcement));
            }
            if source.feasible.is_none_or(|feasible| is_better(distance, feasible)) {
                source.feasible = Some(distance);
            }
        }
        self.selected = chosen;
        self.empty_since = if self.routes.is_empty() { self.empty_since.or(Some(now)) } else { None };
        self.want(neighbours, now);
        let is_news = differs(self.announced.as_ref(), self.selected.as_ref());
        if is_news {
            self.announced.clone_from(&self.selected);
        }
        is_news
    }

    /// Whether a usable route has at least this number; then older ones are not used any more. Whoever needs a newer
    /// number is not helped by a better route that never gets it, as one that a liar keeps repeating.
    pub(super) fn raise_floor(&mut self, router_id: RouterId, seqno: u64) -> bool {
        let is_new = |route: &Route| {
            route.router_id == router_id
                && route.announcement.seqno >= seqno
                && self.is_feasible(router_id, route.claim)
        };
        let is_met = self.routes.values().any(is_new);
        if is_met && let Some(source) = self.sources.get_mut(&router_id) {
            source.floor = source.floor.max(seqno);
        }
        is_met
    }

    /// Leaves out what is older than somebody needs, if something remains.
    fn preferred(&self, mut candidates: Vec<Selected>) -> Vec<Selected> {
        let is_new = |route: &Selected| {
            let floor = self.sources.get(&route.router_id).map_or(0, |source| source.floor);
            route.announcement.seqno >= floor
        };
        if candidates.iter().any(is_new) {
            candidates.retain(is_new);
        }
        candidates
    }

    /// Decides whether a newer announcement is to be asked for: because no route is usable, or because a much better
    /// one is not (RFC 8966 section 3.8.2.1).
    fn want(&mut self, neighbours: &BTreeMap<LinkId, Neighbour>, now: Time) {
        let unusable = self.candidates(neighbours, false);
        let best = unusable.iter().min_by_key(|route| (route.metric, route.link));
        let is_starving = self.selected.is_none();
        let best = best.filter(|best| self.selected.as_ref().is_none_or(|used| is_worth(best.metric, used.metric)));
        let wanted = best.and_then(|best| {
            let (seqno, _) = self.sources.get(&best.router_id)?.feasible?;
            Some(Wanted { router_id: best.router_id, seqno: seqno.saturating_add(1), sent: now, tries: 0, is_starving })
        });
        let is_same = |old: &Wanted, new: &Wanted| {
            (old.router_id, old.seqno, old.is_starving) == (new.router_id, new.seqno, new.is_starving)
        };
        match (&self.wanted, wanted) {
            (Some(old), Some(new)) if is_same(old, &new) => {}
            (_, new) => self.wanted = new,
        }
    }

    /// The routes that are feasible, or those that are not, with the whole path's figures.
    fn candidates(&self, neighbours: &BTreeMap<LinkId, Neighbour>, is_feasible: bool) -> Vec<Selected> {
        let candidate = |(link, route): (&LinkId, &Route)| {
            let neighbour = neighbours.get(link)?;
            let cost = neighbour.cost.saturating_add(neighbour.policy.price);
            let metric = route.metric.checked_add(cost).filter(|metric| *metric < INFINITY)?;
            (self.is_feasible(route.router_id, route.claim) == is_feasible).then(|| Selected {
                link: *link,
                backup: None,
                announcement: Arc::clone(&route.announcement),
                router_id: route.router_id,
                metric,
                hops: route.hops.saturating_add(1),
                mtu: route.mtu.min(neighbour.mtu),
            })
        };
        self.routes.iter().filter_map(candidate).collect()
    }
}

impl Wanted {
    pub(super) fn deadline(&self) -> Option<Time> {
        if self.tries == 0 {
            return Some(self.sent);
        }
        let doubled = REQUEST_RETRY.saturating_mul(1 << self.tries.saturating_sub(1).min(8));
        let longest = if self.tries < REQUEST_EAGER_TRIES { REQUEST_RETRY_EAGER_MAX } else { REQUEST_RETRY_MAX };
        (!self.is_done()).then(|| self.sent + doubled.min(longest))
    }

    /// Whether enough was asked for what would only be nice to have.
    const fn is_done(&self) -> bool {
        !self.is_starving && self.tries >= REQUEST_BETTER_TRIES_MAX
    }
}

/// Newer, or as new and nearer.
pub(super) const fn is_better(a: Distance, b: Distance) -> bool {
    a.0 > b.0 || (a.0 == b.0 && a.1 < b.1)
}

/// Whether a metric is so much smaller that it is worth a change.
pub(crate) fn is_worth(new: u16, old: u16) -> bool {
    let step = COST_HYSTERESIS.max(old / COST_HYSTERESIS_DIVISOR);
    new.saturating_add(step) <= old
}

/// Whether neighbours should hear of the difference.
fn differs(old: Option<&Selected>, new: Option<&Selected>) -> bool {
    match (old, new) {
        (None, None) => false,
        (Some(old), Some(new)) => {
            old.link != new.link
                || old.router_id != new.router_id
                || old.announcement.seqno != new.announcement.seqno
                || old.mtu != new.mtu
                || is_worth(new.metric, old.metric)
                || is_worth(old.metric, new.metric)
        }
        _ => true,
    }
}
