//! Closed regions: only members get links, sessions and routes.
//!
//! There is no password to leak: each node checks the identity that a handshake proved against the members that it was
//! told, which in a region with a ledger are the registered nodes.

use std::collections::BTreeSet;

use atoll_base::{MeshAddr, NodeId};

use super::{Link, LinkId, Mesh, Remote};
use crate::{time::Time, timers::Timer};

impl Mesh {
    /// Says which nodes of this region may have links and sessions with this one, and routes here; `None`: all that know
    /// the region. Those of others end at once.
    pub fn set_members(&mut self, members: Option<BTreeSet<NodeId>>, now: Time) {
        self.router.set_members(members.clone(), now);
        self.members = members;
        for link in self.links.values_mut() {
            link.channel.end_pause();
        }
        for remote in self.remotes.values_mut() {
            remote.channel.end_pause();
        }
        let stranger = |node: Option<NodeId>| node.is_some_and(|node| !self.is_member(node));
        let own = self.local.region;
        // Who is of another region is none of the members' business.
        let node = |link: &Link| {
            let peer = link.channel.peer().or(link.peer);
            peer.filter(|peer| peer.region == own).map(|peer| peer.node)
        };
        let links: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| stranger(node(link))).map(|(id, _)| *id).collect();
        let is_stranger = |remote: &Remote| remote.realm.id == own && stranger(remote.node);
        let remotes: Vec<MeshAddr> =
            self.remotes.iter().filter(|(_, remote)| is_stranger(remote)).map(|(network, _)| *network).collect();
        for id in links {
            self.end_link(id, now);
        }
        for network in remotes {
            self.remotes.remove(&network);
            self.timers.set(Timer::Remote(network), None);
        }
        self.flush_router(now);
    }

    /// Who may have links and sessions with this node, if not everybody.
    pub const fn members(&self) -> Option<&BTreeSet<NodeId>> {
        self.members.as_ref()
    }

    /// Whether a node of this region may have links and sessions with this one.
    pub fn is_member(&self, node: NodeId) -> bool {
        self.members.as_ref().is_none_or(|members| members.contains(&node))
    }

    /// Handshakes that are half open, as a responder: without proof of the caller's address, and with. Bounded by
    /// [`crate::limits::PENDING_STRANGERS_MAX`] and [`crate::limits::PENDING_PROVEN_MAX`], once for links and once for
    /// sessions.
    pub fn half_open(&self) -> (usize, usize) {
        let (links, remotes) = (self.link_accepts.half_open(), self.remote_accepts.half_open());
        (links.0 + remotes.0, links.1 + remotes.1)
    }
}
