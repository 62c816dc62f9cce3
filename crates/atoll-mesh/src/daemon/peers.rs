//! What changes when the configuration does: other regions, members, and whom this node calls.

use atoll_base::RegionId;
use tokio::{sync::mpsc, time::Instant};

use super::{Daemon, StaticPeer, resolve, streams::Tls};
use crate::{
    Config, MeshError,
    config::{Parsed, Peer, Transport},
    tls::News,
};

/// A configuration that holds from now on, and what it says.
pub(crate) struct Change {
    pub(crate) config: Config,
    pub(crate) parsed: Parsed,
}

/// Neighbours to call, with their region, if it is another.
type Wanted = Vec<(Peer, Option<RegionId>)>;

impl Parsed {
    /// All neighbours to call.
    pub(super) fn wanted(&self) -> Wanted {
        let borders = self.others.peers.iter().map(|(peer, region)| (peer.clone(), Some(*region)));
        self.peers.iter().map(|peer| (peer.clone(), None)).chain(borders).collect()
    }
}

/// Whether one of them is called over TLS.
pub(super) fn calls_over_tls(wanted: &Wanted) -> bool {
    wanted.iter().any(|(peer, _)| peer.transport == Transport::Tls)
}

impl Daemon {
    /// Goes on with another configuration. What cannot change while the daemon runs is the same in it; after an error
    /// everything is as before.
    pub(super) fn reload(&mut self, Change { config, parsed }: Change) -> Result<(), MeshError> {
        let (now, wanted) = (self.io.now(), parsed.wanted());
        if let Some(told) = self.told.clone().filter(|_| self.tls.is_none()) {
            self.tls = Tls::start(&config, calls_over_tls(&wanted), self.mark, told)?;
        }
        let before = std::mem::replace(&mut self.config, config);
        if (&before.grant, &before.regions) != (&self.config.grant, &self.config.regions) {
            if let Some(babel) = &self.babel {
                babel.set_other_regions(&parsed.others.networks());
            }
            self.mesh.set_federation(parsed.others.federation, now);
        }
        if before.members != self.config.members {
            let others = std::mem::take(&mut self.others);
            if !self.set_members(others) {
                self.mesh.set_members(None, now);
            }
        }
        self.set_peers(wanted);
        Ok(())
    }

    /// Tells everybody that this node stops, and looks nobody up any more.
    pub(super) async fn say_goodbye(&mut self, news: &mut mpsc::Receiver<News>) {
        if let Some(babel) = self.babel.take() {
            babel.stop().await;
        }
        self.mesh.stop(self.io.now());
        self.io.flush(&mut self.mesh);
        self.stop_streams(news).await;
        if let Some(resolver) = self.resolver.take() {
            resolver.abort();
        }
        self.io.tap = None;
    }

    /// Calls these neighbours, and no others. Links with those that are left out end.
    pub(super) fn set_peers(&mut self, wanted: Wanted) {
        let now = self.io.now();
        let is_wanted = |known: &StaticPeer| wanted.iter().any(|(peer, to)| (peer, to) == (&known.peer, &known.region));
        let gone: Vec<_> =
            self.peers.iter().filter(|(_, known)| !is_wanted(known)).map(|(number, _)| *number).collect();
        for peer in gone.iter().filter_map(|number| self.peers.remove(number)) {
            let Some(endpoint) = peer.endpoint else { continue };
            self.mesh.close_peer(endpoint, now);
            // A connection takes the last word along.
            self.io.flush(&mut self.mesh);
            self.io.streams().dismiss(endpoint);
        }
        // Links that ended because this node was no border are wanted again when it is one.
        for peer in self.peers.values_mut() {
            peer.call(&mut self.mesh, now);
            peer.silent_since = Instant::now();
        }
        let mut is_news = !gone.is_empty();
        for (peer, region) in wanted {
            if !self.peers.values().any(|known| (&known.peer, &known.region) == (&peer, &region)) {
                self.peers.insert(self.peers_ever, StaticPeer::new((peer, region)));
                self.peers_ever += 1;
                is_news = true;
            }
        }
        if is_news || self.resolver.is_none() {
            let peers = self.peers.iter().map(|(number, known)| (*number, known.peer.clone())).collect();
            let resolver = tokio::spawn(resolve(peers, self.found.clone()));
            if let Some(before) = self.resolver.replace(resolver) {
                before.abort();
            }
        }
    }
}
