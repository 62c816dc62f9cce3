//! The one task that owns the mesh.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{SystemTime, UNIX_EPOCH},
};

use atoll_api::mesh::{self as api_types, MeshStatus};
use atoll_base::{NodeId, RegionPrefix};
use atoll_mesh_core::{Event, LinkId, Mesh, Origin, Settings, Tuning, beacon::Beacon, kem::AwsLcKem, limits::MTU};
use atoll_os::{
    link_watch::{LinkWatch, interface_of},
    tun::{Tun, TunConfig},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    Config, MeshError, api,
    config::{Host, Peer},
    discovery::{Discovery, Pace},
    io::{Io, Ready, open_udp},
    limits::{API_STOP_MAX, PEER_PATIENCE, REQUESTS_MAX, RESOLVE_INTERVAL, RESOLVE_KNOWN_INTERVAL},
    metrics::Snapshot,
};

/// Runs the daemon until `shutdown` completes.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), MeshError> {
    let (secret, peers) = config.check()?;
    let listener = api::listen(&config.socket).await?;
    let (udp, is_ipv6) = open_udp(config.listen)?;
    let discovery = Discovery::open(config.discovery.clone())?;
    let node = secret.id();
    let settings = Settings {
        secret,
        region: config.region,
        seed: rand::random(),
        kem: Box::new(AwsLcKem),
        epoch: calendar_ms(),
        tuning: Tuning::default(),
    };
    let mesh = Mesh::new(settings, atoll_mesh_core::Time::ZERO);
    let tun = Tun::create(TunConfig {
        name: config.interface.clone(),
        mtu: MTU as u32,
        address: mesh.network().node(),
        network: mesh.network().network(),
        region: RegionPrefix::of(config.region).network(),
    })
    .await?;
    let io = Io::new(udp, is_ipv6, tun)?;
    tracing::info!(node = %node.short(), interface = config.interface, port = io.port(), "the mesh is up");
    tracing::debug!(address = %mesh.network().node(), "own address");

    let (sender, requests) = mpsc::channel(REQUESTS_MAX);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = axum::serve(listener, api::router(sender)).with_graceful_shutdown(async {
        let _ = stopped.await;
    });
    let server = tokio::spawn(server.into_future());

    let (found, endpoints) = mpsc::channel(REQUESTS_MAX);
    let resolver = tokio::spawn(resolve(peers.clone(), found));
    let peers =
        peers.into_iter().map(|peer| StaticPeer { peer, endpoint: None, silent_since: Instant::now() }).collect();
    let socket = config.socket.clone();
    let watch = LinkWatch::here()?;
    let mut daemon = Daemon { config, node, mesh, io, discovery, peers, watch, behind: BTreeMap::new() };
    let result = daemon.run(requests, endpoints, shutdown).await;
    daemon.mesh.stop(daemon.io.now());
    daemon.io.flush(&mut daemon.mesh);
    resolver.abort();

    let _ = stop.send(());
    let _ = timeout(API_STOP_MAX, server).await;
    let _ = std::fs::remove_file(&socket);
    daemon.io.close().await;
    tracing::info!("the mesh has stopped");
    result
}

struct Daemon {
    config: Config,
    node: NodeId,
    mesh: Mesh,
    io: Io,
    discovery: Option<Discovery>,
    peers: Vec<StaticPeer>,
    watch: LinkWatch,
    /// Index of the interface over which each link that is up was reached when it came up.
    behind: BTreeMap<LinkId, u32>,
}

struct StaticPeer {
    peer: Peer,
    endpoint: Option<SocketAddr>,
    silent_since: Instant,
}

impl Daemon {
    async fn run(
        &mut self,
        mut requests: mpsc::Receiver<api::Request>,
        mut endpoints: mpsc::Receiver<(usize, SocketAddr)>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), MeshError> {
        tokio::pin!(shutdown);
        let beacon = sleep_until(Instant::now());
        tokio::pin!(beacon);
        let mut pace = Pace::default();
        let timer = sleep_until(Instant::now());
        tokio::pin!(timer);
        loop {
            self.settle();
            let deadline = self.mesh.poll_timeout().map(|(at, _)| self.io.instant(at));
            if let Some(deadline) = deadline.filter(|deadline| *deadline != timer.deadline()) {
                timer.as_mut().reset(deadline);
            }
            tokio::select! {
                () = &mut shutdown => return Ok(()),
                ready = self.io.ready() => match ready? {
                    Ready::Udp => self.io.read_datagrams(&mut self.mesh),
                    Ready::Tun => self.io.read_packets(&mut self.mesh)?,
                },
                () = &mut timer, if deadline.is_some() => {
                    // What lies unread is older than the timer: it may be the very answer that is waited for.
                    self.io.read_datagrams(&mut self.mesh);
                }
                Some(index) = self.watch.lost() => self.lose_interface(index),
                Some(request) = requests.recv() => {
                    // Whoever asked may have gone away.
                    let _ = request.send(self.snapshot());
                }
                Some((peer, endpoint)) = endpoints.recv() => self.place_peer(peer, endpoint),
                () = &mut beacon, if self.discovery.is_some() => {
                    if self.send_beacon() {
                        pace.hurry();
                    }
                    beacon.as_mut().reset(Instant::now() + pace.next());
                }
                (from, heard) = next_beacon(self.discovery.as_ref()) => {
                    if self.mesh.handle_beacon(from, &heard, self.io.now()) {
                        pace.hurry();
                    }
                }
            }
        }
    }

    /// Fires due timers, sends what is ready, logs what happened.
    fn settle(&mut self) {
        let now = self.io.now();
        if self.mesh.poll_timeout().is_some_and(|(at, _)| at <= now) {
            self.mesh.handle_timeout(now);
        }
        self.io.flush(&mut self.mesh);
        while let Some(event) = self.mesh.poll_event() {
            match event {
                Event::LinkUp { link, node, endpoint } => {
                    tracing::info!(%link, node = %node.short(), "neighbour is up");
                    tracing::debug!(%link, %endpoint, "its endpoint");
                    match interface_towards(endpoint) {
                        Some(index) => self.behind.insert(link, index),
                        None => self.behind.remove(&link),
                    };
                }
                Event::LinkDown { link, node } => {
                    self.behind.remove(&link);
                    tracing::info!(%link, node = %node.short(), "neighbour is down");
                }
                Event::SessionUp { node } => tracing::debug!(node = %node.short(), "session has new keys"),
                Event::Refused { node, reason } => tracing::info!(node = %node.short(), "refused a node: {reason}"),
                Event::RefusedBy { node, reason } => {
                    tracing::warn!(node = %node.short(), "refused by a node: {reason}")
                }
            }
        }
    }

    /// An interface stopped working: what went over it goes another way at once.
    fn lose_interface(&mut self, index: u32) {
        let now = self.io.now();
        let lost: Vec<_> = self.behind.iter().filter(|(_, behind)| **behind == index).map(|(link, _)| *link).collect();
        for link in lost {
            self.mesh.link_lost(link, now);
        }
        self.mesh.interface_lost(index, now);
    }

    /// Calls a static peer where it was found to be now.
    fn place_peer(&mut self, index: usize, endpoint: SocketAddr) {
        let now = self.io.now();
        let Some(peer) = self.peers.get_mut(index) else { return };
        if let Some(old) = peer.endpoint.replace(endpoint) {
            self.mesh.remove_peer(old, now);
        }
        self.mesh.add_peer(endpoint, Origin::Static, now);
    }

    /// Sends a beacon on every interface. Whether somebody is missing: no neighbour answers, or an interface is not
    /// there.
    fn send_beacon(&mut self) -> bool {
        let beacon = Beacon::of(self.mesh.network(), self.io.port());
        let Some(discovery) = &mut self.discovery else { return false };
        discovery.send(&beacon);
        discovery.problems().next().is_some() || !self.mesh.link_status().iter().any(|link| link.is_up)
    }

    fn snapshot(&mut self) -> Snapshot {
        let mut counters = self.mesh.counters().all();
        counters.push(("send_errors", self.io.send_errors()));
        counters.push(("tun_errors", self.io.tun_errors()));
        counters.push(("odd_packets", self.io.odd_packets));
        Snapshot { status: self.status(), counters }
    }

    fn status(&mut self) -> MeshStatus {
        let links = self.mesh.link_status();
        let peers = links.iter().map(|link| api_types::Peer {
            node: link.node,
            endpoint: link.endpoint,
            origin: match link.origin {
                Origin::Static => "static",
                Origin::Discovered => "discovered",
                Origin::Incoming => "incoming",
            }
            .to_owned(),
            up: link.is_up,
            rtt_us: link.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
            rx_bytes: link.rx_bytes,
            tx_bytes: link.tx_bytes,
        });
        let routes = self.mesh.route_status().into_iter().map(|route| api_types::Route {
            node: route.node,
            address: route.network.node(),
            next_hop: route.next_hop,
            metric: route.metric,
            hops: route.hops,
        });
        let sessions = self.mesh.session_status(self.io.now()).into_iter().map(|session| api_types::Session {
            node: session.node,
            age_ms: u64::try_from(session.age.as_millis()).unwrap_or(u64::MAX),
            rx_bytes: session.rx_bytes,
            tx_bytes: session.tx_bytes,
        });
        MeshStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.node,
            region: self.config.region,
            address: self.mesh.network().node(),
            interface: self.config.interface.clone(),
            port: self.io.port(),
            peers: peers.collect(),
            routes: routes.collect(),
            sessions: sessions.collect(),
            problems: self.problems(&links),
        }
    }

    /// What is wrong, in plain words.
    fn problems(&mut self, links: &[atoll_mesh_core::LinkStatus]) -> Vec<String> {
        let by_endpoint: BTreeMap<_, _> = links.iter().map(|link| (link.endpoint, link)).collect();
        let mut problems = Vec::new();
        for peer in &mut self.peers {
            let link = peer.endpoint.and_then(|endpoint| by_endpoint.get(&endpoint));
            if peer.endpoint.is_none() {
                problems
                    .push(format!("peer {}: its name or interface is not known here; check the spelling", peer.peer));
            } else if link.is_some_and(|link| link.is_self) {
                problems.push(format!("peer {} is this node itself; remove it from `peers`", peer.peer));
            } else if link.is_some_and(|link| !link.is_up) {
                if peer.silent_since.elapsed() >= PEER_PATIENCE {
                    problems.push(format!(
                        "peer {} does not answer; check that it runs, belongs to this region, and that UDP passes",
                        peer.peer
                    ));
                }
                continue;
            }
            peer.silent_since = Instant::now();
        }
        problems.extend(self.discovery.iter().flat_map(Discovery::problems).cloned());
        problems
    }
}

/// Looks up where static peers are, again and again for those that may move, and tells each change.
async fn resolve(peers: Vec<Peer>, found: mpsc::Sender<(usize, SocketAddr)>) {
    let mut known = vec![None; peers.len()];
    loop {
        for (index, peer) in peers.iter().enumerate() {
            let is_settled = known[index].is_some() && matches!(peer.host, Host::Address(_));
            if is_settled {
                continue;
            }
            let Some(endpoint) = peer.resolve().await.filter(|found| known[index] != Some(*found)) else { continue };
            known[index] = Some(endpoint);
            if found.send((index, endpoint)).await.is_err() {
                return;
            }
        }
        if peers.iter().all(|peer| matches!(peer.host, Host::Address(_))) {
            // Nothing to look up ever again; the other end of the channel stays open.
            core::future::pending::<()>().await;
        }
        let is_complete = known.iter().all(Option::is_some);
        sleep(if is_complete { RESOLVE_KNOWN_INTERVAL } else { RESOLVE_INTERVAL }).await;
    }
}

/// The next beacon; never, without discovery.
async fn next_beacon(discovery: Option<&Discovery>) -> (SocketAddr, Beacon) {
    match discovery {
        Some(discovery) => discovery.next().await,
        None => core::future::pending().await,
    }
}

/// Index of the interface over which the system sends to an endpoint now.
fn interface_towards(endpoint: SocketAddr) -> Option<u32> {
    let any: IpAddr = if endpoint.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let socket = std::net::UdpSocket::bind((any, 0)).ok()?;
    // Sends nothing: it only chooses the way.
    socket.connect(endpoint).ok()?;
    interface_of(socket.local_addr().ok()?.ip())
}

fn calendar_ms() -> u64 {
    // A clock before 1970 counts as zero; neighbours then tell what number is needed.
    let passed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
}
