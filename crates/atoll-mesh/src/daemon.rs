//! The one task that owns the mesh.

mod learned;
mod peers;
mod setup;
mod status;
mod streams;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use atoll_base::{NodeId, RegionId};
use atoll_mesh_core::{Event, LinkId, Mesh, Origin, Time, beacon::Beacon, stream::is_stream};
use atoll_os::{
    alarm::Alarm,
    link::detour::DETOUR_MARK,
    link_watch::{LinkChange, LinkWatch, interface_of, local_networks},
    tun::Tun,
    udp::set_mark,
};
pub(crate) use peers::Change;
use peers::calls_over_tls;
pub(crate) use setup::Surroundings;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, Interval, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};

use crate::{
    Config, MeshError,
    api::{self, ProbeAnswer},
    babel::Babel,
    config::{Exit, Host, Parsed, Peer, Transport},
    discovery::{Discovery, Pace},
    io::{Io, Ready, open_udp},
    learned::Learned,
    limits::{
        API_STOP_MAX, CARRIER_INTERVAL, LEARNED_INTERVAL, PLAIN_LOOK_INTERVAL, REQUESTS_MAX, RESOLVE_INTERVAL,
        RESOLVE_KNOWN_INTERVAL, REST_TURN, TLS_BATCHES_MAX, TLS_SWEEP_INTERVAL,
    },
    reload::{Reloader, at_hangups, hangups},
    tls::News,
    trace::Answered,
};
use status::Review;
use streams::Tls;

/// Runs the daemon until `shutdown` completes. Its configuration stays as it is.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), MeshError> {
    start(config, None, shutdown).await
}

/// The same for a configuration that was read from `file`: it is read again at SIGHUP, and when the local API says so.
pub async fn run_file(config: Config, file: &Path, shutdown: impl Future<Output = ()>) -> Result<(), MeshError> {
    start(config, Some(file.to_owned()), shutdown).await
}

async fn start(config: Config, file: Option<PathBuf>, shutdown: impl Future<Output = ()>) -> Result<(), MeshError> {
    let secret = config.read_key()?;
    let node = secret.id();
    let parsed = config.parse_as(node)?;
    let (networks, wanted) = (parsed.others.networks(), parsed.wanted());
    let Parsed { plain, open, exit, others, .. } = parsed;
    let hangups = file.as_ref().and_then(|_| hangups());
    let listener = api::listen(&config.socket).await?;
    let metrics = api::listen_metrics(config.metrics).await?;
    let mark = matches!(exit, Some(Exit::Use(_))).then_some(DETOUR_MARK);
    let (udp, is_ipv6) = open_udp(config.listen, mark)?;
    let (told, mut news) = mpsc::channel(TLS_BATCHES_MAX);
    let tls = Tls::start(&config, calls_over_tls(&wanted), mark, told.clone())?;
    let discovery = Discovery::open(config.discovery.clone())?;
    let babel = Babel::start(plain, config.region, node, &networks).await?;
    let mesh = setup::mesh(&config, secret, exit.as_ref(), others.federation);
    let tun = setup::device(&config, mesh.network()).await?;
    let routes = tun.as_ref().map(Tun::region_routes);
    let io = Io::new(udp, is_ipv6, tun)?;
    let watch = LinkWatch::here()?;
    // Nothing comes out of the mesh before the loop below.
    let surroundings = match Surroundings::start(routes, (open, exit.as_ref()), mesh.network(), &networks).await {
        Ok(surroundings) => surroundings,
        Err(error) => {
            io.close().await;
            return Err(error);
        }
    };
    let interface = io.interface().unwrap_or("none");
    tracing::info!(node = %node.short(), interface, port = io.port(), "the mesh is up");
    tracing::debug!(address = %mesh.network().node(), "own address");

    let (sender, requests) = mpsc::channel(REQUESTS_MAX);
    let reloader = Arc::new(Reloader::new(file, (config.clone(), node), surroundings, sender.clone()));
    let reloads = hangups.map(|hangups| tokio::spawn(at_hangups(hangups, Arc::clone(&reloader))));
    let (stop, servers) = serve(listener, metrics, sender, Arc::clone(&reloader));
    let (found, endpoints) = mpsc::channel(REQUESTS_MAX);
    let socket = config.socket.clone();
    let mut daemon = Daemon {
        config,
        node,
        mesh,
        io,
        discovery,
        babel,
        others: Vec::new(),
        peers: BTreeMap::new(),
        peers_ever: 0,
        found,
        resolver: None,
        mark,
        watch,
        tls,
        learned: Learned::new(node),
        told: Some(told),
        behind: BTreeMap::new(),
        sent_before_look: 0,
        probes: BTreeMap::new(),
        review: Review::default(),
    };
    daemon.set_peers(wanted);
    let result = daemon.run(requests, endpoints, &mut news, shutdown).await;
    daemon.say_goodbye(&mut news).await;
    if let Some(reloads) = reloads {
        reloads.abort();
    }

    drop(stop);
    let _ = timeout(API_STOP_MAX, servers.join_all()).await;
    let _ = std::fs::remove_file(&socket);
    daemon.io.close().await;
    reloader.stop().await;
    tracing::info!("the mesh has stopped");
    result
}

/// Serves the local API, and metrics over TCP, until what this returns first is dropped.
fn serve(
    listener: UnixListener,
    metrics: Option<TcpListener>,
    requests: mpsc::Sender<api::Request>,
    reloader: Arc<Reloader>,
) -> (watch::Sender<()>, JoinSet<std::io::Result<()>>) {
    let (stop, stopped) = watch::channel(());
    let mut servers = JoinSet::new();
    if let Some(metrics) = metrics {
        let server = axum::serve(metrics, api::metrics_router(requests.clone()));
        servers.spawn(server.with_graceful_shutdown(ended(stopped.clone())).into_future());
    }
    let server = axum::serve(listener, api::router(requests, reloader));
    servers.spawn(server.with_graceful_shutdown(ended(stopped)).into_future());
    (stop, servers)
}

/// Ready when the other end is gone.
async fn ended(mut stopped: watch::Receiver<()>) {
    while stopped.changed().await.is_ok() {}
}

struct Daemon {
    config: Config,
    node: NodeId,
    mesh: Mesh,
    io: Io,
    discovery: Option<Discovery>,
    babel: Option<Babel>,
    /// Who else may join, as the local API was told.
    others: Vec<NodeId>,
    /// Configured neighbours, by numbers that no two ever have.
    peers: BTreeMap<u32, StaticPeer>,
    /// The next such number.
    peers_ever: u32,
    /// Where to tell where they are.
    found: mpsc::Sender<(Whose, SocketAddr)>,
    /// Looks them up.
    resolver: Option<JoinHandle<()>>,
    /// Mark of the links' datagrams, if there is one.
    mark: Option<u32>,
    watch: LinkWatch,
    /// What makes connections, if there can be any.
    tls: Option<Tls>,
    /// Where connections tell their news; nothing when they come to their end.
    told: Option<mpsc::Sender<News>>,
    /// Nodes of which was told where they can be called.
    learned: Learned,
    /// Index of the interface over which each link that is up was reached when it came up.
    behind: BTreeMap<LinkId, u32>,
    /// How much had been sent when the carriers of those were last looked at.
    sent_before_look: u64,
    /// Who waits for the answer to a probe.
    probes: BTreeMap<u64, ProbeAnswer>,
    /// What is wrong, as the log says.
    review: Review,
}

/// Whose endpoint was found.
#[derive(Debug, Clone, Copy)]
enum Whose {
    /// That of the static peer with this number.
    Static(u32),
    /// That of the call with this number to a node that was told of.
    Learned(u32),
}

struct StaticPeer {
    peer: Peer,
    /// Its region, if it is another.
    region: Option<RegionId>,
    endpoint: Option<SocketAddr>,
    /// Where it is called over TLS, if it is.
    target: Option<watch::Sender<SocketAddr>>,
    silent_since: Instant,
}

impl StaticPeer {
    fn new((peer, region): (Peer, Option<RegionId>)) -> Self {
        Self { peer, region, endpoint: None, target: None, silent_since: Instant::now() }
    }

    /// Calls it where it was found, if it was; nothing changes if it is called there already.
    fn call(&self, mesh: &mut Mesh, now: Time) {
        let Some(endpoint) = self.endpoint else { return };
        match self.region {
            None => mesh.add_peer(endpoint, Origin::Static, now),
            Some(region) => mesh.add_border_peer(endpoint, region, now),
        };
    }
}

impl Daemon {
    async fn run(
        &mut self,
        mut requests: mpsc::Receiver<api::Request>,
        mut endpoints: mpsc::Receiver<(Whose, SocketAddr)>,
        news: &mut mpsc::Receiver<News>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), MeshError> {
        self.tell_addresses();
        let [mut tell, mut sweep, mut learn] = [PLAIN_LOOK_INTERVAL, TLS_SWEEP_INTERVAL, LEARNED_INTERVAL].map(every);
        let mut pace = Pace::default();
        let beacon = sleep_until(Instant::now());
        tokio::pin!(shutdown, beacon);
        let mut alarm = Alarm::new().map_err(MeshError::Timer)?;
        let (mut look, mut turn) = (None, 0_u32);
        loop {
            turn = turn.wrapping_add(1);
            self.settle();
            if self.io.streams().is_crowded() {
                self.io.streams().relieve();
                tokio::task::yield_now().await;
            }
            // Not at once: what was sent may be answered now.
            if look.is_none() && self.io.sends() != self.sent_before_look {
                look = Some(Instant::now() + CARRIER_INTERVAL);
            }
            let deadline = self.mesh.poll_timeout().map(|(at, _)| self.io.instant(at));
            alarm.set(deadline.into_iter().chain(look).fold(self.review.due(), Instant::min));
            // A packet that comes in finds all the rest not even looked at; but that has its turns, too.
            let is_turn_of_rest = turn.is_multiple_of(REST_TURN);
            tokio::select! {
                biased;
                ready = self.io.ready(), if !is_turn_of_rest => self.read(ready?)?,
                () = &mut shutdown => return Ok(()),
                () = alarm.ring() => {
                    // What lies unread is older than the alarm: it may be the very answer that is waited for.
                    self.io.read_datagrams(&mut self.mesh);
                    if look.take_if(|at| *at <= Instant::now()).is_some() {
                        self.look_at_carriers()?;
                    }
                    if self.review.due() <= Instant::now() {
                        self.review();
                    }
                }
                Some(change) = self.watch.next() => match change {
                    LinkChange::Lost(index) => self.lose_interface(index),
                    LinkChange::Addresses => self.change_addresses(),
                },
                Some(request) = requests.recv() => self.answer(request),
                Some((whose, endpoint)) = endpoints.recv() => self.place(whose, endpoint),
                Some(told) = news.recv(), if self.tls.is_some() => self.handle_news(told, news),
                _ = sweep.tick(), if self.tls.is_some() => self.sweep_streams(),
                _ = learn.tick(), if !self.learned.is_idle() => self.step_learned(),
                _ = tell.tick(), if self.babel.is_some() => {
                    if let Some(babel) = &self.babel {
                        babel.tell(&self.mesh);
                    }
                }
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
                ready = self.io.ready(), if is_turn_of_rest => self.read(ready?)?,
            }
        }
    }

    /// Passes on what can be read.
    fn read(&mut self, ready: Ready) -> Result<(), MeshError> {
        match ready {
            Ready::Udp => {
                self.io.read_datagrams(&mut self.mesh);
                self.io.read_answer(&mut self.mesh)?;
            }
            Ready::Tun => self.io.read_packets(&mut self.mesh)?,
            // What waits is sent by `settle`.
            Ready::Room => {}
        }
        Ok(())
    }

    /// Fires due timers, sends what is ready, logs what happened.
    fn settle(&mut self) {
        let now = self.io.now();
        if self.mesh.poll_timeout().is_some_and(|(at, _)| at <= now) {
            self.mesh.handle_timeout(now);
        }
        self.io.flush(&mut self.mesh);
        self.io.drop_closed_tap();
        while let Some(event) = self.mesh.poll_event() {
            if matches!(event, Event::LinkUp { .. } | Event::LinkMoved { .. } | Event::LinkDown { .. }) {
                self.tell_neighbours();
                self.review.hurry();
            }
            match event {
                Event::LinkUp { link, node, endpoint } => {
                    tracing::info!(%link, node = %node.short(), "neighbour is up");
                    tracing::debug!(%link, endpoint = %self.shown(endpoint), "its endpoint");
                    self.place_link(link, endpoint);
                }
                Event::LinkMoved { link, node, endpoint } => {
                    tracing::info!(%link, node = %node.short(), "neighbour has moved");
                    tracing::debug!(%link, endpoint = %self.shown(endpoint), "its endpoint");
                    self.place_link(link, endpoint);
                }
                Event::LinkDown { link, node } => {
                    self.behind.remove(&link);
                    tracing::info!(%link, node = %node.short(), "neighbour is down");
                }
                Event::SessionUp { node } => tracing::debug!(node = %node.short(), "session has new keys"),
                Event::Answered { probe, network, node, is_target, round_trip } => {
                    if let Some(answer) = self.probes.remove(&probe) {
                        let answered = Answered { address: network.node(), node, is_target, round_trip };
                        let _ = answer.send(Ok(answered));
                    }
                }
                Event::Refused { node, reason } => tracing::info!(node = %node.short(), "refused a node: {reason}"),
                Event::WrongNode { node, endpoint } => {
                    let endpoint = self.shown(endpoint);
                    tracing::info!(node = %node.short(), %endpoint, "refused a node: another one is said to be there");
                }
                Event::RefusedBy { node, reason } => {
                    tracing::warn!(node = %node.short(), "refused by a node: {reason}")
                }
            }
        }
    }

    /// Asks for the carriers while something is sent: the kernel may take a second to tell by itself.
    fn look_at_carriers(&mut self) -> Result<(), MeshError> {
        // What came in meanwhile shall not wait for it.
        self.io.read_packets(&mut self.mesh)?;
        self.sent_before_look = self.io.sends();
        let mut indexes: Vec<_> = self.behind.values().copied().collect();
        indexes.sort_unstable();
        indexes.dedup();
        for index in indexes {
            if self.watch.is_dead(index) {
                self.lose_interface(index);
            }
        }
        Ok(())
    }

    /// Notes over which interface a link goes.
    fn place_link(&mut self, link: LinkId, endpoint: SocketAddr) {
        self.io.streams().note_up(endpoint);
        match interface_towards(self.underlay(endpoint), self.mark) {
            Some(index) => self.behind.insert(link, index),
            None => self.behind.remove(&link),
        };
    }

    /// Addresses of this machine changed: links may go over other interfaces, and neighbours are to learn of it at once.
    fn change_addresses(&mut self) {
        let up: Vec<_> = self.mesh.link_status().into_iter().filter(|link| link.is_up).collect();
        for link in up {
            // Without any way there, it is the interface of before that is about to be lost.
            if let Some(index) = interface_towards(self.underlay(link.endpoint), self.mark) {
                self.behind.insert(link.link, index);
            }
        }
        self.drop_orphans();
        self.tell_addresses();
        self.learned.forgive();
        self.mesh.handle_address_change(self.io.now());
    }

    fn tell_addresses(&mut self) {
        let port = self.io.port();
        let listen = self.config.listen.ip();
        let is_heard = |address: &IpAddr| match listen {
            IpAddr::V6(v6) => v6.is_unspecified() || *address == listen,
            IpAddr::V4(v4) => (v4.is_unspecified() && address.is_ipv4()) || *address == listen,
        };
        let networks = local_networks();
        self.mesh.set_exit_addresses(&networks);
        let addresses = networks.into_iter().map(|(address, _)| address);
        let endpoints: Vec<_> = addresses.filter(is_heard).map(|address| SocketAddr::new(address, port)).collect();
        self.mesh.set_local_endpoints(&endpoints);
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

    /// Lets these join too, if not everybody may; whether that is so.
    fn set_members(&mut self, others: Vec<NodeId>) -> bool {
        let Some(members) = &self.config.members else { return false };
        self.others = others;
        let all = members.iter().chain(&self.others).chain([&self.node]).copied().collect();
        if self.mesh.members() != Some(&all) {
            tracing::info!(members = all.len(), "the members have changed");
            self.mesh.set_members(Some(all), self.io.now());
        }
        true
    }

    fn place(&mut self, whose: Whose, endpoint: SocketAddr) {
        match whose {
            Whose::Static(number) => self.place_peer(number, endpoint),
            Whose::Learned(number) => self.place_learned(number, endpoint),
        }
    }

    /// Calls a static peer where it was found to be now.
    fn place_peer(&mut self, number: u32, endpoint: SocketAddr) {
        let now = self.io.now();
        let Some(peer) = self.peers.get_mut(&number) else { return };
        if peer.peer.transport == Transport::Tls {
            return self.place_tls_peer(number, endpoint);
        }
        if is_stream(endpoint.ip()) {
            // A name that leads nowhere.
            return;
        }
        if let Some(old) = peer.endpoint.replace(endpoint).filter(|old| *old != endpoint) {
            self.mesh.remove_peer(old, now);
        }
        peer.call(&mut self.mesh, now);
    }

    /// Sends a beacon on every interface. Whether somebody is missing: no neighbour answers, or an interface is not
    /// there.
    fn send_beacon(&mut self) -> bool {
        let beacon = Beacon::of(self.mesh.network(), self.io.port());
        let Some(discovery) = &mut self.discovery else { return false };
        discovery.send(&beacon);
        discovery.problems().next().is_some() || !self.mesh.link_status().iter().any(|link| link.is_up)
    }
}

/// Looks up where static peers are, again and again for those that may move, and tells each change.
async fn resolve(peers: Vec<(u32, Peer)>, found: mpsc::Sender<(Whose, SocketAddr)>) {
    let mut known = vec![None; peers.len()];
    loop {
        for (index, (number, peer)) in peers.iter().enumerate() {
            let is_settled = known[index].is_some() && matches!(peer.host, Host::Address(_));
            if is_settled {
                continue;
            }
            let Some(endpoint) = peer.resolve().await.filter(|found| known[index] != Some(*found)) else { continue };
            known[index] = Some(endpoint);
            if found.send((Whose::Static(*number), endpoint)).await.is_err() {
                return;
            }
        }
        if peers.iter().all(|(_, peer)| matches!(peer.host, Host::Address(_))) {
            // Nothing to look up ever again; the other end of the channel stays open.
            core::future::pending::<()>().await;
        }
        let is_complete = known.iter().all(Option::is_some);
        sleep(if is_complete { RESOLVE_KNOWN_INTERVAL } else { RESOLVE_INTERVAL }).await;
    }
}

/// Ticks that are never closer than this.
fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// The next beacon; never, without discovery.
async fn next_beacon(discovery: Option<&Discovery>) -> (SocketAddr, Beacon) {
    match discovery {
        Some(discovery) => discovery.next().await,
        None => core::future::pending().await,
    }
}

/// Index of the interface over which the system sends datagrams with this mark to an endpoint now.
fn interface_towards(endpoint: SocketAddr, mark: Option<u32>) -> Option<u32> {
    let any: IpAddr = if endpoint.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let socket = std::net::UdpSocket::bind((any, 0)).ok()?;
    if let Some(mark) = mark {
        set_mark(&socket, mark).ok()?;
    }
    // Sends nothing: it only chooses the way.
    socket.connect(endpoint).ok()?;
    interface_of(socket.local_addr().ok()?.ip())
}
