//! What the owner and the operating system know of links and regions, and the orderly end.

use std::net::SocketAddr;

use super::{LinkId, Mesh};
use crate::{routing::LinkPolicy, time::Time, timers::Timer};

impl Mesh {
    /// The operating system says that a link is gone, because its interface went down. Whatever used it goes another
    /// way when this returns, and neighbours learn of it with what is to be sent now. If it works again, probes find
    /// out. False if the link was not up.
    pub fn link_lost(&mut self, id: LinkId, now: Time) -> bool {
        let was_up = self.links.get_mut(&id).is_some_and(|link| link.liveness.handle_lost(now));
        if was_up {
            self.handle_link_dead(id, now);
            self.schedule_link(id);
        }
        was_up
    }

    /// An interface went down: all links to link-local addresses behind it (by its index) are gone. Which others went
    /// over it, only the routes of the operating system tell; those are for [`Self::link_lost`].
    pub fn interface_lost(&mut self, index: u32, now: Time) {
        let is_behind = |endpoint: SocketAddr| match endpoint {
            SocketAddr::V6(v6) => v6.ip().is_unicast_link_local() && v6.scope_id() == index,
            SocketAddr::V4(_) => false,
        };
        let lost: Vec<_> = self.links.iter().filter(|(_, link)| is_behind(link.endpoint)).map(|(id, _)| *id).collect();
        for id in lost {
            self.link_lost(id, now);
        }
    }

    /// The operating system says that nobody listens at an endpoint (ICMP port unreachable). As anybody can forge that,
    /// the neighbour is asked first; it has 200 ms.
    pub fn handle_refused(&mut self, endpoint: SocketAddr, now: Time) {
        let links = self.links.iter_mut().filter(|(_, link)| link.endpoint == endpoint);
        for (id, link) in links {
            link.liveness.handle_refused();
            self.timers.no_later_than(Timer::Link(*id), link.liveness.deadline().max(now));
        }
    }

    /// The operating system cannot send a datagram of so many bytes to an endpoint: the interface there carries less.
    pub fn handle_too_large(&mut self, endpoint: SocketAddr, bytes: usize, now: Time) {
        let links = self.links.iter_mut().filter(|(_, link)| link.endpoint == endpoint);
        let lower = links.filter_map(|(id, link)| link.mtu.handle_too_large(bytes, now).then_some(*id));
        for id in lower.collect::<Vec<_>>() {
            self.settle_link(id, now);
            self.schedule_link(id);
        }
    }

    /// Sets what is announced and believed over a link, and its price.
    pub fn set_link_policy(&mut self, id: LinkId, policy: LinkPolicy, now: Time) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.policy.clone_from(&policy);
        self.router.handle_policy(id, policy, now);
        self.flush_router(now);
    }

    /// Sets the capacity of a link, in kilobits a second, as its owner or a measurement knows it.
    pub fn set_link_capacity(&mut self, id: LinkId, kbit_per_second: u64, now: Time) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.liveness.metric.set_capacity(kbit_per_second);
        self.settle_link(id, now);
    }

    /// This node goes away in order: what is to be sent now tells everybody, so that nobody waits for it. Call it
    /// once, drain `poll_transmit`, and drop the node.
    pub fn stop(&mut self, now: Time) {
        self.router.stop(now);
        self.flush_router(now);
    }

    /// Tells the router what a link is worth now.
    pub(super) fn settle_link(&mut self, id: LinkId, now: Time) {
        let Some(link) = self.links.get(&id) else { return };
        let (cost, mtu) = (link.cost(), link.mtu.datagram_bytes());
        self.router.handle_link_cost(id, cost, mtu, now);
        self.flush_router(now);
    }
}
