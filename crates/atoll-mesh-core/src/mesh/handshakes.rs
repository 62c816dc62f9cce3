//! Handshakes of links and of sessions: who is answered, who is refused, and what follows when one is done.

use std::net::SocketAddr;

use atoll_base::MeshAddr;

use super::{Event, Link, LinkId, Mesh, Origin, federation::Realm, status::Counters};
use crate::{
    accept::{Accepted, Answer, Dropped, Host},
    announce::region_of,
    channel::Progress,
    handshake::{Ends, HandshakeError, Proven, Scope},
    limits::{CALLED_LINKS_PER_NODE_MAX, LINKS_MAX, SELF_PAUSE},
    stream::is_stream,
    time::Time,
    timers::Timer,
    wire::handshake::{FINISH_CONTENT_BYTES, HandshakeFrame, Init, Part, RESPONSE_CONTENT_BYTES, RefuseReason},
};

/// Between neighbours.
impl Mesh {
    pub(super) fn handle_link_handshake(&mut self, from: SocketAddr, frame: &HandshakeFrame<'_>, now: Time) {
        match *frame {
            HandshakeFrame::Init(ref init) => self.handle_link_init(from, init, now),
            HandshakeFrame::Response { part, receiver, content } => {
                self.handle_link_response(from, (part, receiver), content, now);
            }
            HandshakeFrame::Finish { part, receiver, content } => {
                self.handle_link_finish(receiver, part, content, now);
            }
            HandshakeFrame::Unknown { index } => {
                let hinted = self.links.iter_mut().find(|(_, link)| link.endpoint == from);
                let Some((id, link)) = hinted else { return };
                let id = *id;
                if link.channel.handle_hint(index, now) {
                    self.start_link_handshake(id, now);
                }
            }
            HandshakeFrame::Cookie { receiver, echo, cookie } => {
                let Some(link) = self.link_indices.get(&receiver).and_then(|id| self.links.get_mut(id)) else { return };
                let to = link.target();
                let frames = link.channel.handle_cookie(&link.realm.mac, (receiver, echo), cookie, now);
                self.transmit_all(to, frames);
            }
            HandshakeFrame::Refuse { reason, receiver, tag } => {
                let Some(link) = self.link_indices.get(&receiver).and_then(|id| self.links.get_mut(id)) else { return };
                let Some(by) = link.channel.handle_refusal(reason, receiver, &tag, now) else { return };
                self.count_refused_by(&by, reason, now);
            }
            HandshakeFrame::Probe { is_reply, token } => self.handle_probe(from, is_reply, token, now),
        }
    }

    fn handle_link_init(&mut self, from: SocketAddr, init: &Init<'_>, now: Time) {
        if self.is_inside(from.ip()) {
            self.counters.dropped_handshakes += 1;
            return;
        }
        let Some(realm) = self.caller(init.caller, now).cloned() else {
            self.counters.dropped_other_region += 1;
            return;
        };
        let ours = self.links.values_mut().find(|link| link.is_at(from) && link.realm.id == realm.id);
        if let Some(link) = ours.filter(|link| !link.channel.yields_to(init.noise)) {
            if let Some(frame) = link.channel.remind(&realm.mac, init.part, now) {
                self.transmit(from, frame);
            }
            return;
        }
        let fresh_index = self.fresh_index();
        let host = Host { local: &self.local, mac: &realm.mac, sources: &mut self.sources, fresh_index };
        let scope = Scope { region: realm.id, ends: Ends::Link };
        let answer = self.link_accepts.answer(host, scope, from, init, now);
        if let Some(frame) = self.counters.counted(answer) {
            self.transmit(from, frame);
        }
    }

    fn handle_link_response(
        &mut self,
        from: SocketAddr,
        (part, receiver): (Part, u32),
        content: &[u8; RESPONSE_CONTENT_BYTES],
        now: Time,
    ) {
        let id = self.link_indices.get(&receiver).copied();
        let Some((id, link)) = id.and_then(|id| Some((id, self.links.get_mut(&id)?))) else {
            self.counters.dropped_unknown_session += 1;
            return;
        };
        if is_stream(from.ip()) != is_stream(link.target().ip()) {
            // Somebody carried it over to another kind of link.
            return self.counters.dropped_forged += 1;
        }
        if !self.answer_rate.allow(now) {
            self.counters.dropped_handshakes += 1;
            return;
        }
        let own = (&self.local, &link.realm.mac, &mut self.sources);
        let (proven, frames) = match link.channel.handle_response(own, (part, receiver), content, now) {
            Ok(Progress::Wait(None)) => return,
            Ok(Progress::Wait(Some(proven))) => (proven, Vec::new()),
            Ok(Progress::Sent(proven, frames)) => {
                link.endpoint = from;
                (proven, frames)
            }
            Err(HandshakeError) => return self.counters.dropped_forged += 1,
        };
        if self.is_self(&proven) {
            let Some(link) = self.links.get_mut(&id) else { return };
            link.channel.refuse(now);
            link.self_until = Some(now + SELF_PAUSE);
            let until = link.self_until;
            self.timers.set(Timer::Link(id), until);
        } else if self.ends_as_wrong(id, &proven, now) {
            // Nothing is left of the link.
        } else if let Some(reason) = self.unwanted(&proven, now) {
            if let Some(link) = self.links.get_mut(&id) {
                link.channel.refuse(now);
            }
            self.count_refused(&proven, reason, now);
        } else {
            self.transmit_all(from, frames);
            self.schedule_link(id);
        }
    }

    fn handle_link_finish(&mut self, index: u32, part: Part, content: &[u8; FINISH_CONTENT_BYTES], now: Time) {
        if !self.link_accepts.owns(index) {
            // A repetition: our confirmation was lost.
            let id = self.link_indices.get(&index).copied();
            let waits = |id: &LinkId| self.links.get(id).is_some_and(|l| l.channel.awaits_confirmation(index));
            if let Some(id) = id.filter(waits).filter(|_| part == Part::Rest) {
                self.send_control(id, &[], now);
            }
            return;
        }
        if !self.answer_rate.allow(now) {
            self.counters.dropped_handshakes += 1;
            return;
        }
        match self.link_accepts.finish((index, part), content, now) {
            None => {}
            Some(Ok(accepted)) if self.is_self(&accepted.keys.proven) => {}
            Some(Ok(Accepted { from, keys, transport, remote_index, early })) => {
                let Some(realm) = self.still_answered(&keys.proven, now) else {
                    self.counters.dropped_other_region += 1;
                    return;
                };
                if let Some(reason) = self.unwanted(&keys.proven, now) {
                    let frame = realm.mac.refuse(reason, remote_index, &keys.refusal);
                    self.transmit(from, frame);
                    return self.count_refused(&keys.proven, reason, now);
                }
                let Some(id) = self.link_for(from, &keys.proven, realm, now) else { return };
                self.mark_punched(id, keys.proven.node);
                let Some(link) = self.links.get_mut(&id) else { return };
                link.endpoint = from;
                link.channel.accept(transport, keys.proven, now);
                self.handle_link_established(id, now);
                self.send_link(id, &[], now);
                for frame in early {
                    self.handle_early_datagram(from, frame, now);
                }
            }
            Some(Err(HandshakeError)) => self.counters.dropped_forged += 1,
        }
    }

    pub(super) fn start_link_handshake(&mut self, id: LinkId, now: Time) {
        let is_foreign = self.links.get(&id).is_some_and(|link| link.realm.id != self.local.region);
        if is_foreign && !self.is_border(now) {
            return;
        }
        let index = self.fresh_index();
        let Some(link) = self.links.get_mut(&id) else { return };
        let scope = Scope { region: link.realm.id, ends: Ends::Link };
        let frames = link.channel.start(&self.local, &link.realm.mac, &mut self.sources, scope, index, now);
        let to = link.target();
        self.index_link(id);
        self.transmit_all(to, frames);
        self.schedule_link(id);
    }

    /// The link has keys that both ends know.
    pub(super) fn handle_link_established(&mut self, id: LinkId, now: Time) {
        self.index_link(id);
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(proven) = link.channel.peer() else { return };
        if link.peer != Some(proven) && link.liveness.is_up() {
            // Another process (or node) than before: it knows nothing of what we told its predecessor.
            link.liveness.handle_restart(now);
            self.router.handle_link_down(id, now);
        }
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.peer.is_some_and(|peer| peer.node != proven.node) {
            link.granted = None;
        }
        link.peer = Some(proven);
        let was_up = link.liveness.is_up();
        link.liveness.handle_established(now);
        if !was_up {
            self.handle_link_alive(id, now);
        }
        let is_older = |link: &Link| link.peer.is_some_and(|p| p.is_twin_of(&proven) && p.epoch < proven.epoch);
        let older: Vec<_> = self.links.iter().filter(|(_, link)| is_older(link)).map(|(id, _)| *id).collect();
        for id in older {
            self.end_link(id, now);
        }
        self.flush_router(now);
        self.schedule_link(id);
    }

    /// Takes the keys from a link: the other end is not wanted any more, or is another process now.
    pub(super) fn end_link(&mut self, id: LinkId, now: Time) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let was_up = link.liveness.is_up();
        link.channel = crate::channel::Channel::default();
        link.liveness.handle_restart(now);
        if was_up {
            self.handle_link_dead(id, now);
        }
        let Some(link) = self.links.get_mut(&id) else { return };
        link.peer = None;
        link.granted = None;
        if !link.is_dialled() {
            self.drop_link(id, now);
        } else {
            self.index_link(id);
            self.schedule_link(id);
        }
    }

    /// The link on which a caller belongs: one that is there already, or a new one.
    fn link_for(&mut self, from: SocketAddr, proven: &Proven, realm: Realm, now: Time) -> Option<LinkId> {
        let same_node = |link: &Link| link.peer.is_some_and(|peer| peer.is_twin_of(proven));
        let mut theirs: Vec<_> =
            self.links.iter().filter(|(_, link)| same_node(link) && !link.is_dialled()).map(|(id, _)| *id).collect();
        theirs.sort_by_key(|id| self.links.get(id).map(|link| link.liveness.last_heard()));
        let is_there = |link: &Link| link.is_at(from) && link.realm.id == realm.id && link.may_lead_to(proven.node);
        let known = self.links.iter().find(|(_, link)| is_there(link)).map(|(id, _)| *id);
        // A second link is a second way, not a new place of the first: its keys and its neighbour's stay apart.
        let silent = theirs.first().copied().filter(|_| theirs.len() >= CALLED_LINKS_PER_NODE_MAX);
        if let Some(id) = known.or(silent) {
            return Some(id);
        }
        if self.links.len() >= LINKS_MAX {
            self.counters.dropped_handshakes += 1;
            return None;
        }
        Some(self.insert_link(from, Origin::Incoming, realm, now))
    }

    /// Notes under which indices the link is spoken to, and forgets those of handshakes that led to nothing.
    fn index_link(&mut self, id: LinkId) {
        self.link_indices.retain(|_, owner| *owner != id);
        let Some(link) = self.links.get(&id) else { return };
        for index in link.channel.indices() {
            self.link_indices.insert(index, id);
        }
    }

    pub(super) fn transmit_all(&mut self, to: SocketAddr, frames: Vec<Vec<u8>>) {
        for frame in frames {
            self.transmit(to, frame);
        }
    }
}

/// Between the two ends of a session.
impl Mesh {
    pub(super) fn handle_remote_handshake(&mut self, source: MeshAddr, frame: &HandshakeFrame<'_>, now: Time) {
        match *frame {
            HandshakeFrame::Init(ref init) => self.handle_remote_init(source, init, now),
            HandshakeFrame::Response { part, receiver, content } => {
                self.handle_remote_response(source, (part, receiver), content, now);
            }
            HandshakeFrame::Finish { part, receiver, content } => {
                self.handle_remote_finish(source, (receiver, part), content, now);
            }
            HandshakeFrame::Unknown { index } => {
                let hinted = self.remotes.get_mut(&source);
                if hinted.is_some_and(|remote| remote.channel.handle_hint(index, now)) {
                    self.start_remote_handshake(source, now);
                }
            }
            HandshakeFrame::Cookie { receiver, echo, cookie } => {
                let Some(remote) = self.remotes.get_mut(&source) else { return };
                let frames = remote.channel.handle_cookie(&remote.realm.mac, (receiver, echo), cookie, now);
                self.send_all_end_to_end(source, frames, now);
            }
            HandshakeFrame::Refuse { reason, receiver, tag } => {
                let Some(remote) = self.remotes.get_mut(&source) else { return };
                let Some(by) = remote.channel.handle_refusal(reason, receiver, &tag, now) else { return };
                self.counters.dropped_no_session += remote.give_up();
                self.count_refused_by(&by, reason, now);
            }
            // Only neighbours probe.
            HandshakeFrame::Probe { .. } => self.counters.dropped_malformed += 1,
        }
    }

    fn handle_remote_init(&mut self, source: MeshAddr, init: &Init<'_>, now: Time) {
        if source == self.network {
            return self.counters.dropped_handshakes += 1;
        }
        // The source names the region; the init must agree.
        let named = Some(region_of(source)).filter(|region| *region != self.prefix);
        let Some(realm) = self.realm_of(source).filter(|_| init.caller == named).cloned() else {
            return self.counters.dropped_other_region += 1;
        };
        let ours = self.remotes.get_mut(&source);
        if let Some(remote) = ours.filter(|remote| !remote.channel.yields_to(init.noise)) {
            if let Some(frame) = remote.channel.remind(&realm.mac, init.part, now) {
                self.send_end_to_end(source, &frame, now);
            }
            return;
        }
        let ends = Ends::EndToEnd { initiator: source, responder: self.network };
        let scope = Scope { region: realm.id, ends };
        let fresh_index = self.fresh_index();
        let host = Host { local: &self.local, mac: &realm.mac, sources: &mut self.sources, fresh_index };
        let answer = self.remote_accepts.answer(host, scope, source, init, now);
        if let Some(frame) = self.counters.counted(answer) {
            self.send_end_to_end(source, &frame, now);
        }
    }

    fn handle_remote_response(
        &mut self,
        source: MeshAddr,
        message: (Part, u32),
        content: &[u8; RESPONSE_CONTENT_BYTES],
        now: Time,
    ) {
        let Some(remote) = self.remotes.get_mut(&source) else {
            return self.counters.dropped_unknown_session += 1;
        };
        if !self.answer_rate.allow(now) {
            return self.counters.dropped_handshakes += 1;
        }
        let own = (&self.local, &remote.realm.mac, &mut self.sources);
        let (proven, frames) = match remote.channel.handle_response(own, message, content, now) {
            Ok(Progress::Wait(None)) => return,
            Ok(Progress::Wait(Some(proven))) => (proven, None),
            Ok(Progress::Sent(proven, frames)) => (proven, Some(frames)),
            Err(HandshakeError) => return self.counters.dropped_forged += 1,
        };
        // The identity must be the one to which the address belongs: that is what makes addresses self-certifying.
        if proven.network() != source {
            remote.channel.abandon();
            return self.counters.dropped_forged += 1;
        }
        if let Some(reason) = self.unwanted(&proven, now) {
            if let Some(remote) = self.remotes.get_mut(&source) {
                remote.channel.refuse(now);
                self.counters.dropped_no_session += remote.give_up();
            }
            return self.count_refused(&proven, reason, now);
        }
        if let Some(frames) = frames {
            self.send_all_end_to_end(source, frames, now);
            self.handle_remote_established(source, proven, now);
        }
    }

    fn handle_remote_finish(
        &mut self,
        source: MeshAddr,
        (index, part): (u32, Part),
        content: &[u8; FINISH_CONTENT_BYTES],
        now: Time,
    ) {
        if !self.remote_accepts.owns(index) {
            let waits = self.remotes.get(&source).is_some_and(|r| r.channel.awaits_confirmation(index));
            if waits && part == Part::Rest {
                self.send_sealed(source, &[], false, now);
            }
            return;
        }
        if !self.answer_rate.allow(now) {
            return self.counters.dropped_handshakes += 1;
        }
        match self.remote_accepts.finish((index, part), content, now) {
            None => {}
            Some(Ok(Accepted { from, keys, transport, remote_index, early })) => {
                if from != source || keys.proven.network() != source {
                    return self.counters.dropped_forged += 1;
                }
                let Some(realm) = self.realm_of(source).filter(|realm| realm.id == keys.proven.region).cloned() else {
                    return self.counters.dropped_other_region += 1;
                };
                if let Some(reason) = self.unwanted(&keys.proven, now) {
                    let frame = realm.mac.refuse(reason, remote_index, &keys.refusal);
                    self.send_end_to_end(source, &frame, now);
                    return self.count_refused(&keys.proven, reason, now);
                }
                let Some(remote) = self.remote(source, now) else { return };
                remote.channel.accept(transport, keys.proven, now);
                self.handle_remote_established(source, keys.proven, now);
                self.send_sealed(source, &[], false, now);
                for frame in early {
                    self.handle_early(frame, now);
                }
            }
            Some(Err(HandshakeError)) => self.counters.dropped_forged += 1,
        }
    }

    pub(super) fn start_remote_handshake(&mut self, network: MeshAddr, now: Time) {
        let index = self.fresh_index();
        let ends = Ends::EndToEnd { initiator: self.network, responder: network };
        let Some(remote) = self.remotes.get_mut(&network) else { return };
        let scope = Scope { region: remote.realm.id, ends };
        let frames = remote.channel.start(&self.local, &remote.realm.mac, &mut self.sources, scope, index, now);
        self.send_all_end_to_end(network, frames, now);
        self.schedule_remote(network);
    }

    fn handle_remote_established(&mut self, network: MeshAddr, proven: Proven, now: Time) {
        if let Some(remote) = self.remotes.get_mut(&network) {
            remote.node = Some(proven.node);
        }
        self.event(Event::SessionUp { node: proven.node });
        self.flush_queue(network, now);
        self.schedule_remote(network);
    }

    pub(super) fn send_all_end_to_end(&mut self, network: MeshAddr, frames: Vec<Vec<u8>>, now: Time) {
        for frame in frames {
            self.send_end_to_end(network, &frame, now);
        }
    }
}

/// Who is refused.
impl Mesh {
    /// Whether a handshake led to this node itself.
    fn is_self(&self, proven: &Proven) -> bool {
        (proven.node, proven.region) == (self.local.node, self.local.region)
    }

    /// Why nothing is to be had with a node that has proven who it is.
    fn unwanted(&self, proven: &Proven, now: Time) -> Option<RefuseReason> {
        if proven.region == self.local.region && !self.is_member(proven.node) {
            return Some(RefuseReason::NotAMember);
        }
        let network = proven.network();
        let links = self.links.values().map(|link| &link.channel);
        let mut channels = links.chain(self.remotes.get(&network).map(|remote| &remote.channel));
        channels.any(|channel| channel.is_newer_twin_of(proven, now)).then_some(RefuseReason::NewerTwin)
    }

    fn count_refused(&mut self, proven: &Proven, reason: RefuseReason, now: Time) {
        match reason {
            RefuseReason::NotAMember => self.counters.refused_strangers += 1,
            RefuseReason::NewerTwin => self.counters.refused_twins += 1,
        }
        self.refusal_event(Event::Refused { node: proven.node, reason }, now);
    }

    fn count_refused_by(&mut self, by: &Proven, reason: RefuseReason, now: Time) {
        self.counters.refused_by_others += 1;
        self.refusal_event(Event::RefusedBy { node: by.node, reason }, now);
    }

    pub(super) fn refusal_event(&mut self, event: Event, now: Time) {
        if self.refusal_rate.allow(now) {
            self.event(event);
        }
    }
}

impl Counters {
    /// Counts what became of a first message; the frame to send.
    fn counted(&mut self, answer: Result<(Answer, Vec<u8>), Dropped>) -> Option<Vec<u8>> {
        match answer {
            Ok((answer, frame)) => {
                self.cookies_demanded += u64::from(answer == Answer::Cookie);
                Some(frame)
            }
            Err(Dropped::Replayed) => {
                self.dropped_replayed += 1;
                None
            }
            Err(Dropped::TooMany) => {
                self.dropped_handshakes += 1;
                None
            }
            Err(Dropped::Forged) => {
                self.dropped_forged += 1;
                None
            }
        }
    }
}
