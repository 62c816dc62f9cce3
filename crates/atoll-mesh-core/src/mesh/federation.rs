//! Other regions: which are recognised, what may come from them, and links to their border nodes.
//!
//! A link to another region is of use only while the neighbour shows a grant of its region's authority; until then its
//! hellos are not heard, the router does not know of it, and it carries no data.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use atoll_base::{MeshAddr, NodeId, RegionId, RegionPrefix};

use super::{Event, Link, LinkId, Mesh, Origin};
use crate::{
    announce::{Grant, Target, region_of},
    babel::GrantBytes,
    handshake::Proven,
    limits::{DATAGRAM_BYTES_MIN, LINKS_MAX},
    routing::{Federation, LinkPolicy},
    time::Time,
    timers::Timer,
    wire::RegionMac,
};

/// A region, and the outer check of frames to its nodes.
#[derive(Clone)]
pub(super) struct Realm {
    pub(super) id: RegionId,
    pub(super) mac: RegionMac,
}

/// Another region of which this node wants to know.
pub(super) struct Recognised {
    pub(super) realm: Realm,
    authority: NodeId,
    policy: LinkPolicy,
}

/// The neighbour's right to speak for its region.
#[derive(Clone, Copy)]
pub(super) struct Granted {
    grant: Grant,
    /// When this or the own grant ends.
    pub(super) until: Time,
}

impl Mesh {
    /// Learns which other regions are recognised, what goes over links to them, and whether this node is a border of its
    /// own region. Links, routes and sessions of regions that are not recognised any more, or as another region or by
    /// another authority than before, end at once; so do all links to other regions if this node is no border any more.
    /// A region with the prefix of the own one is left out.
    pub fn set_federation(&mut self, federation: Federation, now: Time) {
        let others = federation.regions().map(|(id, authority)| (RegionPrefix::of(id), id, authority));
        let others = others.filter(|(prefix, ..)| *prefix != self.prefix);
        let recognised: BTreeMap<_, _> = others
            .map(|(prefix, id, authority)| {
                let realm = Realm::towards(id, self.local.region);
                (prefix, Recognised { realm, authority, policy: federation.policy(prefix) })
            })
            .collect();
        let is_kept = |prefix: &RegionPrefix, before: &Recognised| {
            recognised
                .get(prefix)
                .is_some_and(|now| (now.realm.id, now.authority) == (before.realm.id, before.authority))
        };
        let withdrawn = self.recognised.iter().filter(|(prefix, before)| !is_kept(prefix, before));
        let withdrawn: BTreeSet<_> = withdrawn.map(|(prefix, _)| *prefix).collect();
        self.recognised = recognised;
        self.router.set_federation(federation, now);
        let is_border = self.is_border(now);
        let ends =
            |link: &Link| link.realm.id != self.local.region && (!is_border || withdrawn.contains(&link.prefix()));
        let links: Vec<_> = self.links.iter().filter(|(_, link)| ends(link)).map(|(id, _)| *id).collect();
        for id in links {
            self.end_foreign_link(id, now);
        }
        let remotes = self.remotes.keys().copied().filter(|network| withdrawn.contains(&region_of(*network)));
        for network in remotes.collect::<Vec<_>>() {
            self.remotes.remove(&network);
            self.timers.set(Timer::Remote(network), None);
        }
        self.renew_links(now);
        self.flush_router(now);
    }

    /// Adds a border node of another region that is to be called, and called again, until it answers. False if the
    /// region is not recognised or this node no border, and where [`Mesh::add_peer`] says so.
    pub fn add_border_peer(&mut self, endpoint: SocketAddr, region: RegionId, now: Time) -> bool {
        let realm = self.recognised.get(&RegionPrefix::of(region)).map(|known| known.realm.clone());
        let is_border = self.is_border(now);
        let Some(realm) = realm.filter(|realm| realm.id == region && is_border && !self.is_inside(endpoint.ip()))
        else {
            return false;
        };
        let known = self.links.iter_mut().find(|(_, link)| link.is_at(endpoint) && link.realm.id == region);
        if let Some((id, link)) = known {
            link.promote(endpoint, Origin::Static);
            let id = *id;
            self.timers.no_later_than(Timer::Link(id), now);
            return true;
        }
        if self.links.len() >= LINKS_MAX {
            return false;
        }
        let id = self.insert_link(endpoint, Origin::Static, realm, now);
        self.timers.set(Timer::Link(id), Some(now));
        true
    }

    /// Whether this node has a grant for its own region that has not ended.
    pub fn is_border(&self, now: Time) -> bool {
        self.router.own_grant(now).is_some()
    }

    /// The region with this prefix, if it is the own one or recognised.
    pub(super) fn realm(&self, region: RegionPrefix) -> Option<&Realm> {
        if region == self.prefix { Some(&self.own) } else { self.recognised.get(&region).map(|known| &known.realm) }
    }

    /// The region of a network.
    pub(super) fn realm_of(&self, network: MeshAddr) -> Option<&Realm> {
        self.realm(region_of(network))
    }

    /// The region of whoever is at an endpoint, as far as a link tells.
    pub(super) fn realm_at(&self, endpoint: SocketAddr) -> &Realm {
        self.links.values().find(|link| link.endpoint == endpoint).map_or(&self.own, |link| &link.realm)
    }

    /// The region of who calls for a link; nothing if nobody of that region is to be answered.
    pub(super) fn caller(&self, region: Option<RegionPrefix>, now: Time) -> Option<&Realm> {
        match region {
            None => Some(&self.own),
            Some(region) => {
                let known = self.recognised.get(&region).filter(|_| self.is_border(now));
                known.map(|known| &known.realm)
            }
        }
    }

    /// The same at the end of its handshake: what held at the beginning may hold no more.
    pub(super) fn still_answered(&self, proven: &Proven, now: Time) -> Option<Realm> {
        let region = Some(proven.region).filter(|region| *region != self.local.region).map(RegionPrefix::of);
        self.caller(region, now).filter(|realm| realm.id == proven.region).cloned()
    }

    /// Whether a link carries data.
    pub(super) fn is_admitted(&self, link: &Link, now: Time) -> bool {
        link.realm.id == self.local.region || link.granted.is_some_and(|granted| granted.until > now)
    }

    /// Whether what came in over a link to another region may go on from here to its target. The other region carries no
    /// traffic of this one's nodes to each other, and this one only what it announced.
    pub(super) fn may_enter(&self, id: LinkId, source: MeshAddr, target: MeshAddr, now: Time) -> bool {
        let Some(link) = self.links.get(&id) else { return false };
        let (source, target) = (region_of(source), region_of(target));
        let is_for_us = target == self.prefix;
        let is_agreed = || target != link.prefix() && link.policy.announces(Target::Region(target));
        self.is_admitted(link, now) && source != self.prefix && (is_for_us || is_agreed())
    }

    /// Largest datagram to a network, if the way to it carries so much: what other regions carry inside is not known, but
    /// for what every link does.
    pub(super) fn datagram_bytes(&self, network: MeshAddr, way: u16) -> usize {
        let most = if region_of(network) == self.prefix { u16::MAX } else { DATAGRAM_BYTES_MIN };
        usize::from(way.min(most))
    }

    /// What a hello over a link carries beyond the usual.
    pub(super) fn own_grant_for(&self, id: LinkId, now: Time) -> Option<GrantBytes> {
        self.links.get(&id).filter(|link| link.realm.id != self.local.region)?;
        self.router.own_grant(now).map(Grant::to_wire)
    }

    /// Whether a hello may be heard: over a link to another region, with a grant only. The link counts for the router
    /// from the first one on.
    pub(super) fn handle_grant(&mut self, id: LinkId, grant: Option<&GrantBytes>, now: Time) -> bool {
        let Some(link) = self.links.get(&id) else { return false };
        if link.realm.id == self.local.region {
            return true;
        }
        let (Some(peer), Some(grant)) = (link.peer, grant) else { return false };
        let grant = Grant::of_wire(peer.node, grant);
        let is_known = link.granted.is_some_and(|granted| granted.grant == grant);
        let until = if is_known {
            self.router.end_of(&grant, now)
        } else {
            let is_ours = grant.region == link.realm.id && self.grant_rate.allow(now);
            if is_ours { self.router.grant_end(&grant, now) } else { None }
        };
        let own = self.router.own_grant(now).and_then(|own| self.router.end_of(&own, now));
        let (Some(until), Some(own)) = (until, own) else {
            self.counters.dropped_forged += 1;
            return false;
        };
        let until = until.min(own);
        let Some(link) = self.links.get_mut(&id) else { return false };
        let was_admitted = link.granted.replace(Granted { grant, until }).is_some();
        if !was_admitted && link.liveness.is_up() {
            self.handle_link_alive(id, now);
        }
        true
    }

    /// Takes a link from the router whose neighbour's grant has ended.
    pub(super) fn end_grant(&mut self, id: LinkId, now: Time) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.granted.take_if(|granted| granted.until <= now).is_none() {
            return;
        }
        self.router.handle_link_down(id, now);
        self.flush_router(now);
        let node = self.links.get(&id).and_then(|link| link.peer).map(|peer| peer.node);
        if let Some(node) = node {
            self.event(Event::LinkDown { link: id, node });
        }
    }

    fn end_foreign_link(&mut self, id: LinkId, now: Time) {
        let Some(link) = self.links.get(&id) else { return };
        if let Some(peer) = link.peer.filter(|_| link.liveness.is_up() && link.granted.is_some()) {
            self.event(Event::LinkDown { link: id, node: peer.node });
        }
        self.drop_link(id, now);
    }

    /// What goes over a link: between regions, what was said of the neighbour's.
    pub(super) fn policy_towards(&self, link: &Link) -> LinkPolicy {
        if link.realm.id == self.local.region {
            return link.policy.clone();
        }
        self.recognised.get(&link.prefix()).map(|known| known.policy.clone()).unwrap_or_default()
    }

    /// Neighbours of other regions are told of a new grant, and what is agreed with theirs holds.
    fn renew_links(&mut self, now: Time) {
        let foreign = self.links.iter().filter(|(_, link)| link.realm.id != self.local.region);
        for id in foreign.map(|(id, _)| *id).collect::<Vec<_>>() {
            let Some(link) = self.links.get(&id) else { continue };
            let (policy, is_up) = (self.policy_towards(link), link.liveness.is_up());
            if link.policy != policy {
                self.set_link_policy(id, policy, now);
            }
            if is_up {
                self.send_hello(id, true, now);
            }
        }
    }
}

impl Realm {
    /// `other`, as a node of `own` sees it.
    pub(super) fn towards(other: RegionId, own: RegionId) -> Self {
        Self { id: other, mac: RegionMac::towards(other, own) }
    }
}
