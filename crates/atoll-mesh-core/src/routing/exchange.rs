//! What is told to neighbours, and what is believed of what they tell.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Router, Selected,
    table::{Entry, InFlight, Neighbour, Route, is_better},
};
use crate::{
    LinkId,
    announce::{Announcement, Target},
    babel::{Ack, AckRequest, Batch, INFINITY, Path, Tlv, Update, Writer},
    limits::{ACK_INTERVAL_CS, BORDERS_MAX, HOP_LIMIT, LINK_COST, ORIGINS_MAX, REGIONS_MAX, UPDATE_INTERVAL_CS},
    time::Time,
};

impl Router {
    /// Takes the routing messages of one packet.
    pub fn handle_tlvs(&mut self, link: LinkId, tlvs: &[Tlv], now: Time) {
        if !self.neighbours.contains_key(&link) {
            return;
        }
        let mut batch = None;
        for tlv in tlvs {
            match tlv {
                Tlv::AckRequest(ask) => batch = self.begin_batch(link, ask),
                Tlv::Ack(ack) => self.handle_ack(link, ack, now),
                Tlv::SeqnoRequest(request) => self.handle_seqno_request(link, request, now),
                Tlv::RouteRequest(prefix) => match prefix.map(Target::of) {
                    None => self.handle_route_request(link, None, now),
                    Some(Some(target)) => self.handle_route_request(link, Some(target), now),
                    Some(None) => {}
                },
                // Nothing counts outside of a batch.
                Tlv::Update(update) if batch.is_some() => {
                    if !self.handle_update(link, update, now) {
                        batch = None;
                    }
                }
                Tlv::Update(_) | Tlv::Hello(_) | Tlv::Ihu(_) | Tlv::NextHop(_) => {}
            }
        }
        if let Some(number) = batch {
            if let Some(neighbour) = self.neighbours.get_mut(&link) {
                neighbour.taken = number;
            }
            self.push_ack(link, number);
        }
    }

    /// Whether a batch is to be read: it must be meant for this generation and newer than the last one. The number
    /// to acknowledge once all of it is taken.
    fn begin_batch(&mut self, link: LinkId, ask: &AckRequest) -> Option<u32> {
        let batch = ask.batch?;
        let neighbour = self.neighbours.get(&link).filter(|n| n.generation == batch.generation)?;
        if batch.number == neighbour.taken {
            self.push_ack(link, batch.number);
            return None;
        }
        (batch.number > neighbour.taken).then_some(batch.number)
    }

    /// Takes an update; false if it could not be looked at now and should be repeated.
    fn handle_update(&mut self, link: LinkId, update: &Update, now: Time) -> bool {
        let Some(prefix) = update.prefix else {
            self.retract_all(link, now);
            return true;
        };
        let Some(target) = Target::of(prefix) else { return true };
        let announcement =
            update.origin.map(|origin| Announcement::of_wire(update.seqno, &origin, update.grant.as_ref()));
        if self.own.contains_key(&target) {
            return announcement.is_none_or(|word| self.handle_own(target, word, now));
        }
        let Some(neighbour) = self.neighbours.get(&link).filter(|n| self.is_acceptable(n, target)) else {
            return true;
        };
        let is_retraction = update.metric == INFINITY;
        let Some(announcement) = announcement else {
            self.handle_retraction(link, target, now);
            return true;
        };
        let is_stranger = matches!(target, Target::Node(_)) && !self.members.has(announcement.node);
        if is_stranger || !is_retraction && !is_plausible(update, &announcement, neighbour) {
            self.handle_retraction(link, target, now);
            return true;
        }
        let announcement = match self.known(target, &announcement, now) {
            Some(known) => known,
            // What is not known at all cannot go away, and an older word is no news.
            None if is_retraction && !self.is_newer_word(target, &announcement) => {
                self.handle_retraction(link, target, now);
                return true;
            }
            None => {
                // A grant is a second signature.
                if !self.verifications.allow(now) {
                    return false;
                }
                if !announcement.is_authentic(self.region, target) || !self.is_granted(&announcement, target, now) {
                    self.handle_retraction(link, target, now);
                    return true;
                }
                Arc::new(announcement)
            }
        };
        if announcement.is_retraction {
            self.handle_goodbye(target, announcement, now);
            self.handle_retraction(link, target, now);
        } else if is_retraction {
            self.handle_retraction(link, target, now);
            self.handle_reminder(target, announcement, now);
        } else {
            self.take(link, target, update, announcement, now);
        }
        true
    }

    /// Puts an authentic route into the table.
    fn take(&mut self, link: LinkId, target: Target, update: &Update, announcement: Arc<Announcement>, now: Time) {
        if !self.has_room(target) {
            return;
        }
        let router_id = announcement.router_id(self.region);
        let Path { mtu, hops } = update.path.unwrap_or(Path { mtu: 0, hops: 0 });
        self.watch_expiry(&announcement);
        self.doubt_neighbour(link, target, announcement.seqno);
        let entry = self.entries.entry(target).or_default();
        if !entry.sources.contains_key(&router_id) && entry.sources.len() >= BORDERS_MAX {
            return;
        }
        // The ledger binds addresses first-come; without it, the first key that was seen for an address keeps it.
        let owner = entry.sources.get(&router_id).and_then(|source| source.word.as_ref());
        if owner.is_some_and(|word| word.node != announcement.node) {
            return;
        }
        let mut claim = (announcement.seqno, update.metric);
        if let Some(old) = entry.routes.get(&link).filter(|old| old.router_id == router_id)
            && is_better(old.claim, claim)
        {
            claim = old.claim;
        }
        // The origin restarted with a clock that went backwards: it must learn which number it used before.
        let known = entry.sources.get(&router_id).and_then(|source| source.word.as_ref());
        let is_behind = known.is_some_and(|word| word.seqno > announcement.seqno);
        entry.routes.insert(link, Route { announcement, router_id, metric: update.metric, hops, mtu, claim });
        self.select(target, now);
        if is_behind {
            self.mark(link, target, now);
        }
    }

    /// Takes note if somebody else brings newer word of a neighbour than that neighbour itself did.
    fn doubt_neighbour(&mut self, link: LinkId, target: Target, seqno: u64) {
        let Some(entry) = self.entries.get(&target) else { return };
        let Target::Node(network) = target else { return };
        let is_older = |other: &LinkId| entry.routes.get(other).is_some_and(|route| route.announcement.seqno < seqno);
        let older = self
            .neighbours
            .iter()
            .filter(|(other, neighbour)| **other != link && neighbour.network == network && is_older(other));
        self.doubted.extend(older.map(|(other, _)| *other));
    }

    /// The origin itself says that it is gone: so are all routes to it, through whomever.
    fn handle_goodbye(&mut self, target: Target, word: Arc<Announcement>, now: Time) {
        let router_id = word.router_id(self.region);
        let Some(entry) = self.entries.get_mut(&target) else { return };
        let Some(source) = entry.sources.get_mut(&router_id) else { return };
        let gone = (word.seqno, 0);
        if source.feasible.is_some_and(|feasible| !is_better(gone, feasible)) {
            return;
        }
        source.feasible = Some(gone);
        let seqno = word.seqno;
        source.word = Some(word);
        entry.routes.retain(|_, route| route.router_id != router_id || route.announcement.seqno > seqno);
        self.select(target, now);
        self.mark_all(target, now);
    }

    /// A neighbour shows a newer word of an origin than is in use here, with no route: the origin restarted with a clock
    /// that went backwards. The word goes on towards it.
    fn handle_reminder(&mut self, target: Target, word: Arc<Announcement>, now: Time) {
        let router_id = word.router_id(self.region);
        let Some(entry) = self.entries.get_mut(&target) else { return };
        let Some(source) = entry.sources.get_mut(&router_id) else { return };
        if source.word.as_ref().is_some_and(|known| known.seqno >= word.seqno || known.node != word.node) {
            return;
        }
        let seqno = word.seqno;
        source.word = Some(word);
        let behind =
            entry.routes.iter().filter(|(_, route)| route.router_id == router_id && route.announcement.seqno < seqno);
        for link in behind.map(|(link, _)| *link).collect::<Vec<_>>() {
            self.mark(link, target, now);
        }
    }

    fn handle_retraction(&mut self, link: LinkId, target: Target, now: Time) {
        if self.entries.get_mut(&target).is_some_and(|entry| entry.routes.remove(&link).is_some()) {
            self.select(target, now);
        }
    }

    fn retract_all(&mut self, link: LinkId, now: Time) {
        for target in self.entries.keys().copied().collect::<Vec<_>>() {
            self.handle_retraction(link, target, now);
        }
    }

    /// Somebody tells us of ourselves. If the network remembers a newer word than ours (the clock went backwards over
    /// a restart), ours must become newer still. False if it could not be looked at now.
    fn handle_own(&mut self, target: Target, word: Announcement, now: Time) -> bool {
        if word.node != self.secret.id() || word.seqno <= self.seqno {
            return true;
        }
        if !self.verifications.allow(now) {
            return false;
        }
        if word.is_authentic(self.region, target) {
            self.announce(word.seqno.saturating_add(1), now);
        }
        true
    }

    fn handle_ack(&mut self, link: LinkId, ack: &Ack, now: Time) {
        let Some(neighbour) = self.neighbours.get_mut(&link) else { return };
        if let Some(batch) = neighbour.in_flight.take_if(|batch| Some(batch.number) == ack.number) {
            for (target, _) in batch.targets.iter().filter(|(_, is_route)| !**is_route) {
                neighbour.told.remove(target);
            }
            neighbour.must_reset = false;
            // What became dirty in the meantime goes out at once.
            neighbour.dirty_since = now;
        }
    }

    /// The same word, if it is in the table already: it was checked then. Its grant may have ended since.
    fn known(&self, target: Target, word: &Announcement, now: Time) -> Option<Arc<Announcement>> {
        if word.grant.is_some_and(|grant| grant.expiry_ms <= self.calendar_ms(now)) {
            return None;
        }
        let entry = self.entries.get(&target)?;
        let words = entry.sources.values().filter_map(|source| source.word.as_ref());
        let mut known = entry.routes.values().map(|route| &route.announcement).chain(words);
        known.find(|known| ***known == *word).map(Arc::clone)
    }

    fn is_newer_word(&self, target: Target, word: &Announcement) -> bool {
        let source = self.entries.get(&target).and_then(|entry| entry.sources.get(&word.router_id(self.region)));
        source.is_some_and(|source| source.word.as_ref().is_none_or(|known| known.seqno < word.seqno))
    }

    fn has_room(&self, target: Target) -> bool {
        if self.entries.contains_key(&target) {
            return true;
        }
        let regions = || self.entries.range(Target::Region(atoll_base::RegionPrefix([0; 6]))..).count();
        match target {
            Target::Node(_) => self.entries.len() < ORIGINS_MAX || self.entries.len() - regions() < ORIGINS_MAX,
            Target::Region(_) => self.entries.len() < REGIONS_MAX || regions() < REGIONS_MAX,
        }
    }

    /// Sends what is dirty, or repeats the batch that was not acknowledged, with the state of now.
    pub(super) fn send_batch(&mut self, link: LinkId, now: Time) {
        let Some(neighbour) = self.neighbours.get_mut(&link) else { return };
        let mut tries = 0;
        if let Some(lost) = neighbour.in_flight.take() {
            tries = lost.tries;
            neighbour.dirty.extend(lost.targets.into_keys());
        }
        if neighbour.its_generation == 0 || neighbour.dirty.is_empty() {
            return;
        }
        self.batch = self.batch.saturating_add(1);
        let number = self.batch;
        let opaque = (number & 0xffff) as u16;
        let batch = Batch { generation: neighbour.its_generation, number };
        let mut writer = Writer::default();
        writer.push(&Tlv::AckRequest(AckRequest { opaque, interval_cs: ACK_INTERVAL_CS, batch: Some(batch) }));
        if neighbour.must_reset {
            writer.push(&Tlv::Update(Box::new(retraction(None))));
        }
        let mut targets = BTreeMap::new();
        loop {
            let Some(neighbour) = self.neighbours.get(&link) else { return };
            let Some(target) = neighbour.dirty.first().copied() else { break };
            let update = self.update_for(link, neighbour, target);
            let Some(neighbour) = self.neighbours.get_mut(&link) else { return };
            if let Some(update) = update {
                let is_route = update.metric != INFINITY;
                if !writer.push(&Tlv::Update(Box::new(update))) {
                    break;
                }
                // A retraction may get lost; until it is acknowledged, it may have to be said again.
                if is_route {
                    neighbour.told.insert(target);
                }
                targets.insert(target, is_route);
            }
            neighbour.dirty.remove(&target);
        }
        if targets.is_empty() {
            return;
        }
        let Some(neighbour) = self.neighbours.get_mut(&link) else { return };
        neighbour.in_flight = Some(InFlight { number, targets, sent: now, tries: tries + 1 });
        self.outbox.push_back((link, writer));
    }

    /// What to tell a neighbour of a target; nothing if there is nothing, and it knows that.
    fn update_for(&self, link: LinkId, neighbour: &Neighbour, target: Target) -> Option<Update> {
        let is_for_it = match target {
            Target::Node(_) => neighbour.region == self.region,
            // A region need not be told of itself.
            Target::Region(region) => region != atoll_base::RegionPrefix::of(neighbour.region),
        };
        if let Some(own) = self.own.get(&target) {
            let metric = if own.is_retraction { INFINITY } else { 0 };
            return is_for_it.then(|| self.update(target, own, metric, Path { mtu: u16::MAX, hops: 0 }));
        }
        let entry = self.entries.get(&target);
        let selected = entry.and_then(|entry| entry.selected.as_ref());
        // A route through this neighbour is of no use to it (split horizon).
        let usable = selected.filter(|selected| {
            is_for_it
                && selected.link != link
                && target != Target::Node(neighbour.network)
                && neighbour.policy.announces(target)
        });
        if let Some(Selected { announcement, metric, hops, mtu, .. }) = usable {
            return Some(self.update(target, announcement, *metric, Path { mtu: *mtu, hops: *hops }));
        }
        let word = entry.and_then(|entry| last_word(entry, link, is_for_it));
        if let Some(word) = word {
            return Some(self.update(target, &word, INFINITY, Path { mtu: 0, hops: 0 }));
        }
        neighbour.told.contains(&target).then(|| retraction(Some(target)))
    }

    fn update(&self, target: Target, word: &Announcement, metric: u16, path: Path) -> Update {
        let (origin, grant) = word.to_wire();
        Update {
            prefix: Some(target.prefix()),
            router_id: (metric != INFINITY).then(|| word.router_id(self.region)),
            interval_cs: UPDATE_INTERVAL_CS,
            seqno: (word.seqno & 0xffff) as u16,
            metric,
            origin: Some(origin),
            grant,
            path: Some(path),
        }
    }

    fn push_ack(&mut self, link: LinkId, number: u32) {
        self.push(link, &Tlv::Ack(Ack { opaque: (number & 0xffff) as u16, number: Some(number) }));
    }

    pub(super) fn push(&mut self, link: LinkId, tlv: &Tlv) {
        // What goes to one neighbour at one time goes in one packet, whatever others are told in between.
        let last = self.outbox.iter_mut().rev().find(|(to, _)| *to == link);
        if last.is_some_and(|(_, writer)| writer.push(tlv)) {
            return;
        }
        let mut writer = Writer::default();
        writer.push(tlv);
        self.outbox.push_back((link, writer));
    }
}

/// "No route here" to a target, or to anything.
fn retraction(target: Option<Target>) -> Update {
    Update {
        prefix: target.map(Target::prefix),
        router_id: None,
        interval_cs: UPDATE_INTERVAL_CS,
        seqno: 0,
        metric: INFINITY,
        origin: None,
        grant: None,
        path: None,
    }
}

/// A signed word that goes with "no route here": that the origin is gone, or, towards the origin, what it once said under
/// a higher number than it uses now.
fn last_word(entry: &Entry, link: LinkId, is_for_it: bool) -> Option<Arc<Announcement>> {
    let told = entry.routes.get(&link).map(|route| route.announcement.seqno);
    let words = entry.sources.values().filter_map(|source| source.word.as_ref());
    let useful = words.filter(|word| told.is_some_and(|told| told < word.seqno) || (word.is_retraction && is_for_it));
    useful.max_by_key(|word| word.seqno).cloned()
}

/// Whether an honest node can say this: only the origin is at distance zero, and every link costs at least
/// [`LINK_COST`]. So a liar is, in everybody's eyes, at least one link away from whom it pretends to reach.
fn is_plausible(update: &Update, word: &Announcement, neighbour: &Neighbour) -> bool {
    let Some(path) = update.path else { return false };
    let least = LINK_COST.saturating_mul(u16::from(path.hops));
    let is_origin = neighbour.node == word.node;
    !word.is_retraction && path.hops < HOP_LIMIT && update.metric >= least && (path.hops > 0 || is_origin)
}
