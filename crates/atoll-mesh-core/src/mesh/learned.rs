//! Neighbours of which somebody told where they are and who: only that node is taken there.

use std::net::SocketAddr;

use atoll_base::NodeId;

use super::{Event, Link, LinkId, Mesh, Origin};
use crate::{
    handshake::Proven,
    limits::{LEARNED_LINKS_MAX, LINKS_MAX},
    time::Time,
    timers::Timer,
    wire::PAYLOAD_CLOSE,
};

impl Mesh {
    /// Calls a neighbour of this region that is said to be `node`. If another answers there, it is refused, and the link
    /// is gone. False if the address cannot be one, has a link already, or there are too many.
    pub fn add_learned_peer(&mut self, endpoint: SocketAddr, node: NodeId, now: Time) -> bool {
        let learned = self.links.values().filter(|link| link.origin == Origin::Learned).count();
        let is_known = self.links.values().any(|link| link.is_at(endpoint));
        let is_full = self.links.len() >= LINKS_MAX || learned >= LEARNED_LINKS_MAX;
        if is_known || is_full || self.is_inside(endpoint.ip()) || node == self.local.node {
            return false;
        }
        let id = self.insert_link(endpoint, Origin::Learned, self.own.clone(), now);
        if let Some(link) = self.links.get_mut(&id) {
            link.expected = Some(node);
        }
        self.timers.set(Timer::Link(id), Some(now));
        true
    }

    /// Ends the link to such a neighbour and tells it so, unless something else wants that link by now.
    pub fn end_learned_peer(&mut self, endpoint: SocketAddr, now: Time) {
        let is_it = |link: &Link| link.origin == Origin::Learned && link.is_at(endpoint);
        let found = self.links.iter().find(|(_, link)| is_it(link)).map(|(id, link)| (*id, link.liveness.is_up()));
        let Some((id, is_up)) = found else { return };
        if is_up {
            self.send_link(id, &[PAYLOAD_CLOSE], now);
        }
        self.drop_link(id, now);
    }

    /// Whether another node answered on a link than the one that is said to be there; the link is gone then.
    pub(super) fn ends_as_wrong(&mut self, id: LinkId, proven: &Proven, now: Time) -> bool {
        let Some(link) = self.links.get(&id).filter(|link| !link.may_lead_to(proven.node)) else { return false };
        let endpoint = link.endpoint;
        self.drop_link(id, now);
        self.counters.refused_wrong_node += 1;
        self.refusal_event(Event::WrongNode { node: proven.node, endpoint }, now);
        true
    }
}
