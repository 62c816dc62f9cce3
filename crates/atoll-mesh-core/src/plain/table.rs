//! Routes that neighbours announce, and which of them is used (RFC 8966 sections 3.5 and 3.6).

use std::{collections::BTreeMap, net::Ipv6Addr};

use crate::{
    babel::{INFINITY, Prefix, RouterId},
    limits::COST_HYSTERESIS,
    time::Time,
};

use super::neighbour::Neighbour;

/// A neighbour: on which interface, and its link-local address there.
pub(super) type Via = (u32, Ipv6Addr);

/// What one neighbour announced of one prefix; never with an infinite metric.
#[derive(Debug, Clone, Copy)]
pub(super) struct Route {
    pub(super) router_id: RouterId,
    pub(super) seqno: u16,
    /// As the neighbour announced it, without the cost of the way to the neighbour.
    pub(super) advertised: u16,
    pub(super) next_hop: Ipv6Addr,
    pub(super) expiry: Time,
}

/// The route in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Selected {
    pub(super) via: Via,
    pub(super) next_hop: Ipv6Addr,
    pub(super) router_id: RouterId,
    pub(super) seqno: u16,
    pub(super) metric: u16,
}

/// The best that was told to others of a source (section 3.2.5).
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    pub(super) seqno: u16,
    pub(super) metric: u16,
    pub(super) expiry: Time,
}

pub(super) type Sources = BTreeMap<(Prefix, RouterId), Source>;
pub(super) type Neighbours = BTreeMap<Via, Neighbour>;

/// All that is known of one prefix.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) routes: BTreeMap<Via, Route>,
    pub(super) selected: Option<Selected>,
    /// Until then packets must not follow a shorter prefix (section 3.5.4).
    pub(super) hold: Option<Time>,
}

impl Entry {
    /// Chooses the route; whether it is another one, or differs in what is told of it. Also the router and number that
    /// somebody has to announce before the best route can be used (section 3.8.2).
    pub(super) fn select(
        &mut self,
        prefix: Prefix,
        neighbours: &Neighbours,
        sources: &Sources,
    ) -> (bool, Option<(RouterId, u16)>) {
        let mut best: Option<Selected> = None;
        let mut current = None;
        let mut refused: Option<(u16, RouterId, u16)> = None;
        for (via, route) in &self.routes {
            let cost = neighbours.get(via).map_or(INFINITY, Neighbour::cost);
            let metric = route.advertised.saturating_add(cost);
            if metric == INFINITY {
                continue;
            }
            let source = sources.get(&(prefix, route.router_id));
            if let Some(source) = source.filter(|source| !source.allows(route.seqno, route.advertised)) {
                if refused.is_none_or(|(least, ..)| metric < least) {
                    refused = Some((metric, route.router_id, source.seqno.wrapping_add(1)));
                }
                continue;
            }
            let Route { router_id, seqno, next_hop, .. } = *route;
            let candidate = Selected { via: *via, next_hop, router_id, seqno, metric };
            if self.selected.is_some_and(|selected| selected.via == *via) {
                current = Some(candidate);
            }
            if best.is_none_or(|best| metric < best.metric) {
                best = Some(candidate);
            }
        }
        // A little better is no reason to change.
        let kept = current.filter(|c| best.is_none_or(|best| c.metric - best.metric < COST_HYSTERESIS));
        let chosen = kept.or(best);
        let is_news = chosen != self.selected;
        self.selected = chosen;
        let wanted = refused
            .filter(|(metric, ..)| chosen.is_none_or(|chosen| metric.saturating_add(COST_HYSTERESIS) < chosen.metric));
        (is_news, wanted.map(|(_, router_id, seqno)| (router_id, seqno)))
    }
}

impl Source {
    /// Whether a route with these values cannot lead back here (section 3.5.1).
    pub(super) const fn allows(&self, seqno: u16, advertised: u16) -> bool {
        is_newer(seqno, self.seqno) || (seqno == self.seqno && advertised < self.metric)
    }

    /// Takes account of what is told to others now (section 3.7.3).
    pub(super) fn lower(&mut self, seqno: u16, metric: u16) {
        if is_newer(seqno, self.seqno) {
            (self.seqno, self.metric) = (seqno, metric);
        } else if seqno == self.seqno {
            self.metric = self.metric.min(metric);
        }
    }
}

/// Whether a sequence number is newer than another, in the circle of 2^16 (section 3.2.1).
pub(super) const fn is_newer(seqno: u16, than: u16) -> bool {
    let ahead = seqno.wrapping_sub(than);
    ahead != 0 && ahead < 0x8000
}
