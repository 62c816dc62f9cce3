//! Requests for a newer sequence number on plain interfaces (RFC 8966 section 3.8).

use super::{
    PlainRouter,
    table::{Via, is_newer},
};
use crate::{
    babel::{Prefix, RouterId, SeqnoRequest, Tlv},
    limits::{HOP_LIMIT, PLAIN_FORWARD_PAUSE, PLAIN_REQUEST_RETRY, PLAIN_REQUEST_TRIES_MAX, PLAIN_REQUESTS_MAX},
    time::Time,
};

/// A request of this node that is open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    seqno: u16,
    tries: u32,
    pub(super) due: Time,
}

/// A request that was passed on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Forwarded {
    seqno: u16,
    at: Time,
}

impl PlainRouter {
    /// A route could be used if its originator announced it anew: everybody is asked (section 3.8.2.1).
    pub(super) fn want(&mut self, prefix: Prefix, router_id: RouterId, seqno: u16, now: Time) {
        let key = (prefix, router_id);
        let is_asked = self.wanted.get(&key).is_some_and(|wanted| !is_newer(seqno, wanted.seqno));
        if is_asked || (self.wanted.len() >= PLAIN_REQUESTS_MAX && !self.wanted.contains_key(&key)) {
            return;
        }
        self.wanted.insert(key, Wanted { seqno, tries: 0, due: now });
        self.repeat_requests(now);
    }

    /// An update arrived.
    pub(super) fn satisfy(&mut self, prefix: Prefix, router_id: RouterId, seqno: u16) {
        let key = (prefix, router_id);
        if self.wanted.get(&key).is_some_and(|wanted| !is_newer(wanted.seqno, seqno)) {
            self.wanted.remove(&key);
        }
    }

    pub(super) fn repeat_requests(&mut self, now: Time) {
        let due: Vec<_> = self.wanted.iter().filter(|(_, w)| w.due <= now).map(|(key, w)| (*key, *w)).collect();
        for ((prefix, router_id), mut wanted) in due {
            if wanted.tries >= PLAIN_REQUEST_TRIES_MAX {
                self.wanted.remove(&(prefix, router_id));
                continue;
            }
            wanted.due = now + PLAIN_REQUEST_RETRY * (1 << wanted.tries);
            wanted.tries += 1;
            self.wanted.insert((prefix, router_id), wanted);
            let request = SeqnoRequest { prefix, router_id, seqno: wanted.seqno, epoch: None, hop_count: HOP_LIMIT };
            for index in self.interfaces.keys().copied().collect::<Vec<_>>() {
                self.send(index, None, &[Tlv::SeqnoRequest(request)]);
            }
        }
    }

    /// Answers a request, or passes it on along the route in use (section 3.8.1.2).
    pub(super) fn handle_seqno_request(&mut self, via: Via, request: SeqnoRequest, now: Time) {
        let SeqnoRequest { prefix, router_id, seqno, hop_count, .. } = request;
        if !self.answers.allow(now) {
            return;
        }
        if self.own.contains_key(&prefix) {
            // Another router's name is asked for: that this one has the prefix is answer enough.
            let is_news = router_id == self.router_id && is_newer(seqno, self.seqno) && self.renew(now);
            if is_news {
                for own in self.own.keys().copied().collect::<Vec<_>>() {
                    self.mark_all(own, now);
                }
            } else if let Some(interface) = self.interfaces.get_mut(&via.0) {
                interface.mark(prefix, 1, now);
            }
            return;
        }
        let Some(selected) = self.entries.get(&prefix).and_then(|entry| entry.selected) else { return };
        if selected.router_id != router_id || !is_newer(seqno, selected.seqno) {
            if let Some(interface) = self.interfaces.get_mut(&via.0) {
                interface.mark(prefix, 1, now);
            }
            return;
        }
        if hop_count < 2 || selected.via == via {
            return;
        }
        self.forwarded.retain(|_, forwarded| now.since(forwarded.at) < PLAIN_FORWARD_PAUSE);
        let key = (prefix, router_id);
        let is_repeated = self.forwarded.get(&key).is_some_and(|forwarded| !is_newer(seqno, forwarded.seqno));
        if is_repeated || self.forwarded.len() >= PLAIN_REQUESTS_MAX {
            return;
        }
        self.forwarded.insert(key, Forwarded { seqno, at: now });
        let request = SeqnoRequest { hop_count: hop_count - 1, ..request };
        self.send(selected.via.0, Some(selected.via.1), &[Tlv::SeqnoRequest(request)]);
    }
}
