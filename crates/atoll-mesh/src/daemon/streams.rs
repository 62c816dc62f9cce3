//! Connections: what they bring, and when they end.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use atoll_api::mesh as api_types;
use atoll_base::RegionPrefix;
use atoll_mesh_core::{
    Origin,
    stream::{is_stream, stream_endpoint},
};
use atoll_os::link_watch::local_addresses;
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
    time::{Instant, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{Daemon, StaticPeer};
use crate::{
    Config, MeshError,
    limits::{TLS_BATCHES_MAX, TLS_STOP_MAX},
    tls::{News, Shared, TlsError, accept, dial::dial, server_config},
};

/// What makes connections. Without it none are taken any more.
pub(super) struct Tls {
    pub(super) shared: Shared,
    acceptor: Option<AbortHandle>,
}

impl Tls {
    /// Listens, if the configuration says so; nothing if it neither does that nor `calls` peers over TLS.
    /// `mark` is that of the links' packets, if there is one.
    pub(super) fn start(
        config: &Config,
        calls: bool,
        mark: Option<u32>,
        news: mpsc::Sender<News>,
    ) -> Result<Option<Self>, MeshError> {
        let listener = config.listen_tls.map(|listen| accept::listen(listen, mark)).transpose()?;
        if listener.is_none() && !calls {
            return Ok(None);
        }
        let shared = Shared::new(RegionPrefix::of(config.region), mark, news)?;
        let acceptor = match listener {
            Some(listener) => {
                let acceptor = TlsAcceptor::from(Arc::new(server_config()?));
                Some(tokio::spawn(accept::accept(listener, acceptor, shared.clone())).abort_handle())
            }
            None => None,
        };
        Ok(Some(Self { shared, acceptor }))
    }

    /// Only calls others.
    pub(super) fn dialler(config: &Config, mark: Option<u32>, news: mpsc::Sender<News>) -> Result<Self, TlsError> {
        Ok(Self { shared: Shared::new(RegionPrefix::of(config.region), mark, news)?, acceptor: None })
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        if let Some(acceptor) = &self.acceptor {
            acceptor.abort();
        }
    }
}

impl Daemon {
    /// Takes what a connection told, and what else is there.
    pub(super) fn handle_news(&mut self, first: News, news: &mut mpsc::Receiver<News>) {
        let mut next = Some(first);
        for _ in 0..TLS_BATCHES_MAX {
            let Some(news) = next.take().or_else(|| news.try_recv().ok()) else { return };
            match news {
                News::Frames { endpoint, bytes } => {
                    // What comes after this node ended a connection is nobody's.
                    if self.io.streams().has(endpoint) {
                        self.io.read_frames(&mut self.mesh, endpoint, bytes);
                    }
                }
                News::Connected { endpoint, remote, local, outbox } => {
                    tracing::debug!(%remote, "TLS connection");
                    self.io.streams().connected(endpoint, (remote, local), outbox);
                }
                News::Closed { endpoint, outbox } => {
                    if self.io.streams().closed(endpoint, &outbox) {
                        self.lose_stream(endpoint);
                    }
                }
            }
            if self.io.streams().is_crowded() {
                return;
            }
        }
    }

    /// Ends connections that are of no use.
    pub(super) fn sweep_streams(&mut self) {
        if self.io.streams().is_empty() {
            return;
        }
        let links: BTreeMap<_, _> = self.mesh.link_status().iter().map(|link| (link.endpoint, link.is_up)).collect();
        self.io.streams().sweep(&links, Instant::now());
    }

    /// Ends connections from addresses that this machine has no more, so that they are made anew at once.
    pub(super) fn drop_orphans(&mut self) {
        if self.io.streams().is_empty() {
            return;
        }
        for endpoint in self.io.streams().orphans(&local_addresses()) {
            self.io.streams().end(endpoint);
            self.lose_stream(endpoint);
        }
    }

    /// The links over a connection are gone with it.
    fn lose_stream(&mut self, endpoint: SocketAddr) {
        let now = self.io.now();
        let links = self.mesh.link_status();
        for link in links.iter().filter(|link| link.endpoint == endpoint) {
            self.mesh.link_lost(link.link, now);
        }
    }

    /// Calls a static peer over TLS where it was found to be now.
    pub(super) fn place_tls_peer(&mut self, number: u32, remote: SocketAddr) {
        let now = self.io.now();
        let Some(StaticPeer { peer, region, endpoint, target, .. }) = self.peers.get_mut(&number) else { return };
        let own = *endpoint.get_or_insert(stream_endpoint(0, number));
        self.io.streams().call(own, remote);
        if let Some(target) = target {
            // It is called there when the connection that it has, if any, ends.
            target.send_replace(remote);
            return;
        }
        let (sender, receiver) = watch::channel(remote);
        *target = Some(sender);
        let Some(tls) = &self.tls else { return };
        tokio::spawn(dial(receiver, peer.server_name(), own, tls.shared.clone()));
        match *region {
            None => self.mesh.add_peer(own, Origin::Static, now),
            Some(region) => self.mesh.add_border_peer(own, region, now),
        };
    }

    /// Lets connections send what waits in them, and ends them.
    pub(super) async fn stop_streams(&mut self, news: &mut mpsc::Receiver<News>) {
        (self.tls, self.told) = (None, None);
        self.io.streams().stop();
        let all_closed = async {
            while !self.io.streams().is_empty() {
                match news.recv().await {
                    Some(News::Closed { endpoint, outbox }) => drop(self.io.streams().closed(endpoint, &outbox)),
                    Some(News::Frames { .. } | News::Connected { .. }) => {}
                    None => return,
                }
            }
        };
        let _ = timeout(TLS_STOP_MAX, all_closed).await;
    }

    /// Where an endpoint of the core is for the network.
    pub(super) fn underlay(&mut self, endpoint: SocketAddr) -> SocketAddr {
        self.io.streams().remote(endpoint).unwrap_or(endpoint)
    }

    /// An endpoint of the core, as people know it.
    pub(super) fn shown(&mut self, endpoint: SocketAddr) -> api_types::Endpoint {
        let address = self.underlay(endpoint);
        if is_stream(endpoint.ip()) { api_types::Endpoint::Tls(address) } else { api_types::Endpoint::Udp(address) }
    }
}
