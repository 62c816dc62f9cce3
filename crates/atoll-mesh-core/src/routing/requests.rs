//! Asking for newer announcements (RFC 8966 section 3.8).

use super::Router;
use crate::{
    LinkId,
    announce::Target,
    babel::{SeqnoRequest, Tlv},
    limits::{HOP_LIMIT, REQUEST_FORWARD_PAUSE, REQUEST_WAYS_MAX, SEQNO_PAUSE},
    time::Time,
};

impl Router {
    /// Asks a neighbour for all its routes.
    pub(super) fn request_all(&mut self, link: LinkId) {
        self.push(link, &Tlv::RouteRequest(None));
    }

    /// A neighbour asks for our route to a target, or for all (section 3.8.1.1).
    pub(super) fn handle_route_request(&mut self, link: LinkId, target: Option<Target>, now: Time) {
        match target {
            Some(target) => self.mark(link, target, now),
            None => {
                for target in self.own.keys().chain(self.entries.keys()).copied().collect::<Vec<_>>() {
                    self.mark(link, target, now);
                }
            }
        }
    }

    /// A neighbour asks for a newer announcement (section 3.8.1.2).
    pub(super) fn handle_seqno_request(&mut self, link: LinkId, request: &SeqnoRequest, now: Time) {
        let Some(target) = Target::of(request.prefix) else { return };
        // Without the upper bits nothing is said that would be of use.
        let Some(seqno) = request.epoch.map(|epoch| epoch << 16 | u64::from(request.seqno)) else { return };
        if let Some(own) = self.own.get(&target)
            && own.router_id(self.region) == request.router_id
        {
            // One step suffices, whatever is asked: nobody can exhaust the numbers.
            if seqno > self.seqno && self.seqno_changed.is_none_or(|last| now.since(last) >= SEQNO_PAUSE) {
                self.announce(self.seqno.saturating_add(1), now);
            }
            self.mark(link, target, now);
            return;
        }
        let Some(entry) = self.entries.get_mut(&target) else { return };
        let suffices = entry
            .selected
            .as_ref()
            .is_some_and(|selected| selected.router_id != request.router_id || selected.announcement.seqno >= seqno);
        if suffices {
            self.mark(link, target, now);
            return;
        }
        if entry.raise_floor(request.router_id, seqno) {
            self.select(target, now);
            self.mark(link, target, now);
            return;
        }
        let asked_before =
            entry.forwarded.filter(|(router_id, asked, _)| *router_id == request.router_id && *asked >= seqno);
        let is_too_soon = asked_before.is_some_and(|(_, _, at)| now.since(at) < REQUEST_FORWARD_PAUSE);
        let Some(hop_count) = request.hop_count.checked_sub(1).filter(|left| *left > 0 && !is_too_soon) else { return };
        entry.forwarded = Some((request.router_id, seqno, now));
        let used = entry.selected.as_ref().map(|selected| selected.link);
        let others = entry.routes.iter().filter(|(to, route)| **to != link && route.router_id == request.router_id);
        let mut others: Vec<_> = others.map(|(to, route)| (Some(*to) != used, route.metric, *to)).collect();
        others.sort_unstable();
        // Whoever asks again did not get an answer that way: perhaps there is a liar on it.
        others.truncate(if asked_before.is_some() { REQUEST_WAYS_MAX } else { 1 });
        for (_, _, to) in others {
            self.push(to, &Tlv::SeqnoRequest(SeqnoRequest { hop_count, ..*request }));
        }
    }

    /// Asks all neighbours that have a route for a newer one.
    pub(super) fn send_request(&mut self, target: Target, now: Time) {
        let Some(entry) = self.entries.get_mut(&target) else { return };
        let Some(wanted) = &mut entry.wanted else { return };
        wanted.tries = wanted.tries.saturating_add(1);
        wanted.sent = now;
        let request = SeqnoRequest {
            prefix: target.prefix(),
            router_id: wanted.router_id,
            seqno: (wanted.seqno & 0xffff) as u16,
            epoch: Some(wanted.seqno >> 16),
            hop_count: HOP_LIMIT,
        };
        let routes = entry.routes.iter().filter(|(_, route)| route.router_id == wanted.router_id);
        for link in routes.map(|(link, _)| *link).collect::<Vec<_>>() {
            self.push(link, &Tlv::SeqnoRequest(request));
        }
    }
}
