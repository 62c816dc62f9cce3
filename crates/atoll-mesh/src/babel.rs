//! Babel with ordinary routers on plain interfaces: socket, clock and kernel routes around [`PlainRouter`].
//!
//! It is a task of its own, with a socket of its own. It hears from the mesh which nodes are reached; the mesh hears
//! nothing from it, so that no unsigned route can get into the sealed mesh.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv6Addr, SocketAddr, SocketAddrV6},
    time::{SystemTime, UNIX_EPOCH},
};

use atoll_base::{MeshAddr, NodeId, RegionId, RegionPrefix};
use atoll_mesh_core::{
    Mesh, Time,
    babel::{INFINITY, PORT, Prefix},
    plain::{PlainAnnounce, PlainInterface, PlainNextHop, PlainRouter, PlainSettings},
    router_id,
};
use atoll_os::{
    addresses::link_local_of,
    link::{Links, learned::LearnedHop},
    link_watch::{LinkChange, LinkWatch},
    tun::interface_index,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::UdpSocket,
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout},
};

use crate::{
    MeshError,
    config::{Announce, Plain},
    limits::{PLAIN_LOOK_INTERVAL, PLAIN_PACKET_BYTES_MAX, PLAIN_STOP_MAX},
};

/// All Babel routers of a link (RFC 8966 section 4).
const GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 6);

/// The prefixes that this node announces itself, with their metric.
type Own = BTreeMap<Prefix, u16>;

/// The running task.
pub(crate) struct Babel {
    own: watch::Sender<Own>,
    others: watch::Sender<Vec<Prefix>>,
    region: RegionPrefix,
    network: MeshAddr,
    announces_region: bool,
    announces_nodes: bool,
    problems: watch::Receiver<Vec<String>>,
    kernel_problem: watch::Receiver<Option<String>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Babel {
    /// Starts it, if there is an interface for it. From then on this machine forwards packets.
    pub(crate) async fn start(
        interfaces: Vec<Plain>,
        region: RegionId,
        node: NodeId,
        others: &BTreeSet<Ipv6Addr>,
    ) -> Result<Option<Self>, MeshError> {
        if interfaces.is_empty() {
            return Ok(None);
        }
        let socket = open().map_err(MeshError::Babel)?;
        let links = Links::here()?;
        links.enable_forwarding()?;
        for (network, length) in links.learned().await? {
            // Of a process that could not clean up.
            links.remove_learned(network, length).await?;
        }
        let network = MeshAddr::of(region, node);
        let announces = |what| interfaces.iter().any(|plain| plain.announce == what);
        let (announces_region, announces_nodes) = (announces(Announce::Region), announces(Announce::Nodes));
        let (own, own_changes) = watch::channel(Own::new());
        let (problem, problems) = watch::channel(Vec::new());
        let (kernel_failure, kernel_problem) = watch::channel(None);
        let (table, table_changes) = watch::channel(Table::default());
        let kernel = Kernel { links, table: table_changes, installed: BTreeMap::new(), losses: 0 };
        let start = Instant::now();
        let settings = PlainSettings { router_id: router_id(region, node), seqno: first_seqno(), network };
        let mut router = PlainRouter::new(settings, Time::ZERO);
        router.set_other_regions(prefixes(others), Time::ZERO);
        let (others, others_changes) = watch::channel(Vec::new());
        let watch = LinkWatch::here()?;
        let task = Task { router, socket, start, watch, interfaces, up: BTreeMap::new(), table, problem };
        let (stop, stopped) = oneshot::channel();
        let kernel = tokio::spawn(kernel.run(kernel_failure));
        let task = tokio::spawn(async move {
            task.run(own_changes, others_changes, stopped).await;
            if timeout(PLAIN_STOP_MAX, kernel).await.is_err() {
                tracing::warn!("routes that were learned stay behind until the mesh is started again");
            }
        });
        let region = RegionPrefix::of(region);
        let babel = Self {
            own,
            others,
            region,
            network,
            announces_region,
            announces_nodes,
            problems,
            kernel_problem,
            stop,
            task,
        };
        Ok(Some(babel))
    }

    /// Announces what the mesh reaches now.
    pub(crate) fn tell(&self, mesh: &Mesh) {
        let mut own = Own::new();
        if self.announces_region {
            own.extend(Prefix::new(self.region.network(), 48).map(|prefix| (prefix, 0)));
        }
        if self.announces_nodes {
            let routes = mesh.route_status();
            let routes = routes.iter().map(|route| (route.network, u16::try_from(route.metric).unwrap_or(INFINITY)));
            let all = core::iter::once((self.network, 0)).chain(routes.filter(|(_, metric)| *metric != INFINITY));
            let prefix = |network: MeshAddr| Prefix::new(network.network(), MeshAddr::PREFIX_LEN);
            own.extend(all.filter_map(|(network, metric)| Some((prefix(network)?, metric))));
        }
        self.own.send_if_modified(|known| {
            let is_news = *known != own;
            *known = own;
            is_news
        });
    }

    /// Says which networks other regions have now.
    pub(crate) fn set_other_regions(&self, others: &BTreeSet<Ipv6Addr>) {
        self.others.send_replace(prefixes(others));
    }

    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = self.problems.borrow().clone();
        problems.extend(self.kernel_problem.borrow().clone());
        problems
    }

    /// Takes back what was announced and removes what was learned.
    pub(crate) async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

/// What the kernel should have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Table {
    routes: BTreeMap<Prefix, LearnedHop>,
    /// Grows when an interface goes down: then the kernel may have dropped routes by itself.
    losses: u64,
}

struct Task {
    router: PlainRouter,
    socket: UdpSocket,
    start: Instant,
    watch: LinkWatch,
    interfaces: Vec<Plain>,
    /// Index of each interface that is in use, by name.
    up: BTreeMap<String, u32>,
    table: watch::Sender<Table>,
    problem: watch::Sender<Vec<String>>,
}

impl Task {
    async fn run(
        mut self,
        mut own: watch::Receiver<Own>,
        mut others: watch::Receiver<Vec<Prefix>>,
        mut stopped: oneshot::Receiver<()>,
    ) {
        let mut look = interval(PLAIN_LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut buffer = vec![0; PLAIN_PACKET_BYTES_MAX];
        let timer = sleep_until(Instant::now());
        tokio::pin!(timer);
        loop {
            self.router.handle_timeout(self.now());
            self.settle();
            let deadline = self.router.deadline().map(|at| self.start + at.since(Time::ZERO));
            if let Some(deadline) = deadline {
                timer.as_mut().reset(deadline);
            }
            tokio::select! {
                // Also when nobody is left who could stop it.
                _ = &mut stopped => break,
                () = &mut timer, if deadline.is_some() => {}
                received = self.socket.recv_from(&mut buffer) => match received {
                    Ok((length, from)) => self.take(from, &buffer[..length]),
                    Err(error) => tracing::trace!(%error, "no packet of Babel"),
                },
                Some(change) = self.watch.next() => {
                    // Of new addresses `look` learns.
                    if let LinkChange::Lost(index) = change {
                        self.up.retain(|_, up| *up != index);
                        self.router.remove_interface(index, self.now());
                        self.table.send_modify(|table| table.losses += 1);
                    }
                }
                _ = look.tick() => {
                    self.look();
                    // Once more: what could not be announced a second ago.
                    let own = own.borrow().clone();
                    self.router.set_announced(own, self.now());
                }
                Ok(()) = others.changed() => {
                    let others = others.borrow_and_update().clone();
                    self.router.set_other_regions(others, self.now());
                }
                Ok(()) = own.changed() => {
                    let own = own.borrow_and_update().clone();
                    self.router.set_announced(own, self.now());
                }
            }
        }
        self.router.stop();
        self.settle();
    }

    fn now(&self) -> Time {
        Time::from_micros(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// A datagram: it counts if it comes from another router's port, of a link-local address of that interface.
    fn take(&mut self, from: SocketAddr, packet: &[u8]) {
        let SocketAddr::V6(from) = from else { return };
        if from.port() == PORT {
            self.router.handle_packet(from.scope_id(), *from.ip(), packet, self.now());
        }
    }

    /// Sends what is ready, and tells the kernel's keeper what changed.
    fn settle(&mut self) {
        while let Some(transmit) = self.router.poll_transmit() {
            let to = SocketAddrV6::new(transmit.to.unwrap_or(GROUP), PORT, 0, transmit.interface);
            // Babel expects losses.
            if let Err(error) = self.socket.try_send_to(&transmit.data, to.into()) {
                tracing::trace!(%error, %to, "a packet of Babel was not sent");
            }
        }
        let routes: BTreeMap<_, _> = self.router.routes().map(|(prefix, hop)| (prefix, learned(hop))).collect();
        self.table.send_if_modified(|table| {
            let is_news = table.routes != routes;
            table.routes = routes;
            is_news
        });
    }

    /// Looks up the interfaces, which may come and go, and their addresses.
    fn look(&mut self) {
        let now = self.now();
        let mut problems = Vec::new();
        for plain in &self.interfaces {
            let name = &plain.interface;
            let index = interface_index(name);
            let addresses = link_local_of(name);
            if let Some(old) = self.up.get(name).filter(|old| index != Some(**old) || addresses.is_empty()) {
                self.router.remove_interface(*old, now);
                self.up.remove(name);
            }
            let Some(index) = index else {
                problems.push(format!("babel: there is no interface '{name}'; correct `babel` or create it"));
                continue;
            };
            if addresses.is_empty() {
                problems.push(format!("babel: '{name}' has no link-local address; check that it is up and has IPv6"));
                continue;
            }
            if !self.up.contains_key(name) {
                // It fails if the group was joined before, when the interface was lost for a while.
                let _ = self.socket.join_multicast_v6(&GROUP, index);
                self.up.insert(name.clone(), index);
            }
            let announce = match plain.announce {
                Announce::None => PlainAnnounce::None,
                Announce::Region => PlainAnnounce::Region,
                Announce::Nodes => PlainAnnounce::Nodes,
            };
            let interface = PlainInterface { addresses, announce, accept: plain.accept.clone() };
            self.router.set_interface(index, interface, now);
        }
        self.problem.send_replace(problems);
    }
}

/// Keeps the kernel's routes as the table says.
struct Kernel {
    links: Links,
    table: watch::Receiver<Table>,
    installed: BTreeMap<Prefix, LearnedHop>,
    losses: u64,
}

impl Kernel {
    /// Until there is nobody who could change the table; then all routes are removed.
    async fn run(mut self, problem: watch::Sender<Option<String>>) {
        loop {
            let table = self.table.borrow_and_update().clone();
            let failure = self.apply(table).await;
            let is_failed = failure.is_some();
            problem.send_replace(failure);
            tokio::select! {
                changed = self.table.changed() => if changed.is_err() { break },
                () = sleep(PLAIN_LOOK_INTERVAL), if is_failed => {}
            }
        }
        if let Some(failure) = self.apply(Table::default()).await {
            tracing::warn!("{failure}");
        }
    }

    /// Makes the kernel have these routes; what failed last, if anything did.
    async fn apply(&mut self, table: Table) -> Option<String> {
        let mut failure = None;
        let is_lost = table.losses != self.losses;
        self.losses = table.losses;
        let gone: Vec<_> = self.installed.keys().filter(|prefix| !table.routes.contains_key(prefix)).copied().collect();
        for prefix in gone {
            match self.links.remove_learned(prefix.address(), prefix.length()).await {
                Ok(()) => {
                    self.installed.remove(&prefix);
                }
                Err(error) => failure = Some(format!("babel: {error}")),
            }
        }
        for (prefix, hop) in table.routes {
            if !is_lost && self.installed.get(&prefix) == Some(&hop) {
                continue;
            }
            match self.links.ensure_learned(prefix.address(), prefix.length(), hop).await {
                Ok(()) => {
                    self.installed.insert(prefix, hop);
                }
                Err(error) => {
                    // The old one may be there, or not.
                    failure = Some(format!("babel: {error}"));
                    self.installed.remove(&prefix);
                    let _ = self.links.remove_learned(prefix.address(), prefix.length()).await;
                }
            }
        }
        failure
    }
}

fn prefixes(networks: &BTreeSet<Ipv6Addr>) -> Vec<Prefix> {
    networks.iter().filter_map(|network| Prefix::new(*network, 48)).collect()
}

const fn learned(hop: PlainNextHop) -> LearnedHop {
    match hop {
        PlainNextHop::Via { interface, address } => LearnedHop::Via { interface, address },
        PlainNextHop::Unreachable => LearnedHop::Unreachable,
    }
}

/// The calendar in seconds: newer than any number of an earlier process, which took at most one a second.
fn first_seqno() -> u16 {
    let passed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (passed.as_secs() & 0xffff) as u16
}

fn open() -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_only_v6(true)?;
    // Nobody forwards these.
    socket.set_multicast_hops_v6(1)?;
    socket.set_unicast_hops_v6(1)?;
    socket.set_multicast_loop_v6(false)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)).into())?;
    UdpSocket::from_std(socket.into())
}
