//! Calls nodes of which somebody told where they are, see [`crate::learned`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use atoll_api::mesh::PublishedPeer;
use atoll_base::published::is_callable;
use atoll_mesh_core::{
    Origin,
    stream::{is_stream, stream_endpoint},
};
use tokio::{sync::watch, time::Instant};

use super::{Daemon, Whose, streams::Tls};
use crate::{
    config::{Host, Peer, Transport},
    learned::{Around, Step},
    limits::LEARNED_STREAMS_FIRST,
    tls::dial::dial,
};

impl Daemon {
    /// Replaces what was told before of other nodes.
    pub(super) fn set_learned(&mut self, list: &[PublishedPeer]) {
        let steps = self.learned.set(list);
        self.take_steps(steps);
    }

    /// Calls whom it is time to call, and ends what is of no use.
    pub(super) fn step_learned(&mut self) {
        let around = self.around();
        let steps = self.learned.step(&around, Instant::now());
        self.take_steps(steps);
    }

    fn around(&self) -> Around {
        let links = self.mesh.link_status();
        let learned: BTreeMap<_, _> =
            links.iter().filter(|link| link.origin == Origin::Learned).map(|link| (link.link, link)).collect();
        let others = links.iter().filter(|link| link.is_up && link.origin != Origin::Learned && link.region.is_none());
        let others: BTreeSet<_> = others.filter_map(|link| link.node).collect();
        let routes = self.mesh.route_status().into_iter();
        let reached = routes.map(|route| (route.node, !learned.contains_key(&route.link) || route.backup.is_some()));
        Around {
            links: learned.values().map(|link| (link.endpoint, link.is_up)).collect(),
            others,
            reached: reached.collect(),
        }
    }

    fn take_steps(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Call { number, peer } => self.call_learned(number, peer),
                Step::End(endpoint) => {
                    let now = self.io.now();
                    self.mesh.end_learned_peer(endpoint, now);
                    if is_stream(endpoint.ip()) {
                        self.io.streams().forget(endpoint);
                    }
                }
            }
        }
    }

    fn call_learned(&mut self, number: u32, peer: Peer) {
        tracing::debug!(%peer, "calls a place that was published");
        if let Host::Address(ip) = peer.host {
            return self.place_learned(number, SocketAddr::new(ip, peer.port));
        }
        let found = self.found.clone();
        tokio::spawn(async move {
            if let Some(endpoint) = peer.resolve().await {
                // Whoever stops needs no endpoint any more.
                let _ = found.send((Whose::Learned(number), endpoint)).await;
            }
        });
    }

    /// Calls a node where it was found to be now, if it still is to be called.
    pub(super) fn place_learned(&mut self, number: u32, remote: SocketAddr) {
        let Some(peer) = self.learned.peer(number).cloned().filter(|_| is_callable(remote.ip())) else { return };
        let now = self.io.now();
        if peer.transport == Transport::Udp {
            if let Some(node) = self.learned.place(number, remote, None) {
                self.mesh.add_learned_peer(remote, node, now);
            }
            return;
        }
        let endpoint = stream_endpoint(0, LEARNED_STREAMS_FIRST.saturating_add(number));
        let (sender, target) = watch::channel(remote);
        let Some(node) = self.learned.place(number, endpoint, Some(sender)) else { return };
        if let Some(told) = self.told.clone().filter(|_| self.tls.is_none()) {
            let tls = Tls::dialler(&self.config, self.mark, told);
            self.tls = tls.inspect_err(|error| tracing::warn!(%error, "there can be no links over TLS")).ok();
        }
        let Some(tls) = &self.tls else { return };
        tokio::spawn(dial(target, peer.server_name(), endpoint, tls.shared.clone()));
        self.io.streams().call(endpoint, remote);
        self.mesh.add_learned_peer(endpoint, node, now);
    }
}
