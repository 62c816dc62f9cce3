//! Packets that leave the mesh, or come from outside of it: see [`exit`](crate::exit).

use std::net::Ipv6Addr;

use atoll_base::{MeshAddr, NodeId};

use super::Mesh;
use crate::exit::Offer;

impl Mesh {
    /// Makes this node an exit, or ends that.
    pub fn set_exit_offer(&mut self, offer: Option<Offer>) {
        self.exits.set_offer(self.local.region, offer);
    }

    /// Says which addresses this machine has, for an exit: what shares a /64 with one of them is not let through.
    /// Call it after [`Self::set_exit_offer`], and when they change.
    pub fn set_exit_addresses(&mut self, addresses: impl IntoIterator<Item = Ipv6Addr>) {
        self.exits.set_own_addresses(addresses.into_iter());
    }

    /// Says over which node packets of this machine leave the mesh; `None`: over none.
    pub fn use_exit(&mut self, exit: Option<NodeId>) {
        self.exits.set_used(exit.map(|node| MeshAddr::of(self.local.region, node)));
    }

    /// Whether there is a way to the exit that is used; nothing if none is.
    pub fn reaches_exit(&self) -> Option<bool> {
        self.exits.used().map(|exit| self.router.route(exit).is_some())
    }

    /// To which node a packet of this machine goes; nothing if it does not belong into the mesh.
    pub(super) fn destination(&self, source: Ipv6Addr, target: Ipv6Addr) -> Option<MeshAddr> {
        let network = MeshAddr::containing(target);
        if self.realm_of(network).is_some() {
            let is_ours = self.network.contains(source) || self.exits.lets_back(source, network);
            return (is_ours && network != self.network).then_some(network);
        }
        self.exits.way_out(self.own_address(), source, target)
    }

    /// Whether a packet that a far node sent may come out here: nobody speaks in another's name, and nobody sends
    /// through us to a third, except to and from outside over an exit.
    pub(super) fn may_arrive(&self, sender: MeshAddr, source: Ipv6Addr, target: Ipv6Addr) -> bool {
        match (sender.contains(source), self.network.contains(target)) {
            (true, true) => true,
            (true, false) => self.exits.lets_out(sender, target),
            (false, true) => self.exits.lets_in(sender, source, self.own_address(), target),
            (false, false) => false,
        }
    }
}
