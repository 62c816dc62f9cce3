//! What the daemon says of itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
};

use atoll_api::mesh::{self as api_types, CaptureRequest, Captured, MeshStatus};
use atoll_base::{MeshAddr, NodeId, RegionPrefix};
use atoll_mesh_core::{LinkId, Origin, limits::DATAGRAM_BYTES_MIN, routing::Verdict};
use tokio::{sync::mpsc, time::Instant};

use super::Daemon;
use crate::{
    api::{ProbeAnswer, Request},
    babel::Babel,
    capture::Tap,
    config::Transport,
    discovery::Discovery,
    limits::{IPV4_UDP_BYTES, IPV6_UDP_BYTES, PEER_PATIENCE, REVIEW_INTERVAL, REVIEW_QUIET_INTERVAL},
    metrics::Snapshot,
};

/// What is wrong, as the log says, and when that is looked at again.
pub(super) struct Review {
    logged: BTreeSet<String>,
    due: Instant,
}

impl Default for Review {
    /// At the start nobody can have answered.
    fn default() -> Self {
        Self { logged: BTreeSet::new(), due: Instant::now() + REVIEW_INTERVAL }
    }
}

impl Review {
    pub(super) const fn due(&self) -> Instant {
        self.due
    }

    /// A link came up or went down.
    pub(super) fn hurry(&mut self) {
        self.due = self.due.min(Instant::now() + REVIEW_INTERVAL);
    }
}

impl Daemon {
    /// Answers a question; whoever asked may have gone away.
    pub(super) fn answer(&mut self, request: Request) {
        match request {
            Request::Snapshot(answer) => drop(answer.send(self.snapshot())),
            Request::Choices(address, answer) => drop(answer.send(self.choices(address))),
            Request::Members(others, answer) => drop(answer.send(self.set_members(others))),
            Request::Peers(list, answer) => {
                self.set_learned(&list);
                let _ = answer.send(());
            }
            Request::Reload(change, answer) => drop(answer.send(self.reload(*change))),
            Request::Links(address, answer) => {
                let _ = answer.send(self.mesh.links_to(address));
            }
            Request::Probe(address, hop_limit, answer) => self.probe(address, hop_limit, answer),
            Request::Capture(request, answer) => drop(answer.send(self.capture(request))),
        }
    }

    /// Begins a capture, if none runs.
    fn capture(&mut self, request: CaptureRequest) -> Option<mpsc::Receiver<Captured>> {
        if self.io.tap.as_ref().is_some_and(|tap| !tap.is_closed()) {
            return None;
        }
        let (tap, captured) = Tap::new(request, self.config.region);
        self.io.tap = Some(tap);
        self.tell_neighbours();
        Some(captured)
    }

    /// Tells a capture who is at which endpoint.
    pub(super) fn tell_neighbours(&mut self) {
        let Some(tap) = &mut self.io.tap else { return };
        let links = self.mesh.link_status().into_iter();
        tap.set_neighbours(links.filter_map(|link| Some((link.endpoint, link.node?))).collect());
    }

    fn probe(&mut self, address: Ipv6Addr, hop_limit: u8, answer: ProbeAnswer) {
        // Those that nobody waits for any more go; so there are no more than requests under way.
        self.probes.retain(|_, waiting| !waiting.is_closed());
        match self.mesh.probe(address, hop_limit, self.io.now()) {
            Ok(probe) => {
                self.probes.insert(probe, answer);
            }
            Err(error) => {
                let _ = answer.send(Err(error));
            }
        }
    }

    fn snapshot(&mut self) -> Snapshot {
        let mut counters = self.mesh.counters().all();
        counters.push(("send_errors", self.io.send_errors()));
        counters.push(("tun_errors", self.io.tun_errors()));
        counters.push(("odd_packets", self.io.odd_packets));
        counters.push(("odd_datagrams", self.io.odd_datagrams));
        let (connections, ready) = self.io.streams().load();
        let held = self.io.streams().held();
        let waiting = ready + held.into_iter().map(|endpoint| self.mesh.held_stream(endpoint).0).sum::<usize>();
        let (queue_bytes, queue_datagrams) = self.mesh.held();
        let (learned_nodes, learned_ignored) = self.learned.counts();
        let gauges = vec![
            ("learned_nodes", "Nodes of which was told where they can be called", learned_nodes),
            ("learned_ignored", "Told places that cannot be used", learned_ignored),
            ("queue_bytes", "Bytes of datagrams that wait for the socket", queue_bytes),
            ("queue_datagrams", "Datagrams that wait for the socket", queue_datagrams),
            ("tls_connections", "Connections over TLS", connections),
            ("tls_queue_bytes", "Bytes of data that wait for connections", waiting),
            ("send_buffer_bytes", "What the kernel's send buffer may hold", self.io.send_buffer_bytes()),
        ];
        Snapshot { status: self.status(), counters, gauges }
    }

    fn status(&mut self) -> MeshStatus {
        let links = self.mesh.link_status();
        let peers: Vec<_> = links
            .iter()
            .map(|link| api_types::Peer {
                node: link.node,
                region: link.region.map(|region| RegionPrefix::of(region).to_string()),
                endpoint: self.shown(link.endpoint),
                origin: match link.origin {
                    Origin::Static => "static",
                    Origin::Discovered => "discovered",
                    Origin::Incoming => "incoming",
                    Origin::Punched => "punched",
                    Origin::Learned => "learned",
                }
                .to_owned(),
                up: link.is_up,
                rtt_us: link.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
                cost: link.cost,
                loss_permille: link.loss_permille,
                rx_bytes: link.rx_bytes,
                tx_bytes: link.tx_bytes,
            })
            .collect();
        let nodes = self.neighbours();
        let routes = self.mesh.route_status().into_iter().map(|route| api_types::Route {
            node: route.node,
            address: route.network.node(),
            next_hop: route.next_hop,
            metric: route.metric,
            hops: route.hops,
            mtu: route.mtu,
            backup: route.backup.and_then(|link| nodes.get(&link).copied()),
        });
        let regions = self.mesh.region_route_status().into_iter().map(|route| api_types::RegionRoute {
            prefix: route.region.to_string(),
            border: route.border,
            next_hop: nodes.get(&route.link).copied(),
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
            interface: self.io.interface().unwrap_or("none").to_owned(),
            port: self.io.port(),
            peers,
            routes: routes.collect(),
            regions: regions.collect(),
            sessions: sessions.collect(),
            problems: self.problems(&links),
        }
    }

    fn choices(&self, address: Ipv6Addr) -> Vec<api_types::Choice> {
        let nodes = self.neighbours();
        let choices = self.mesh.route_choices(MeshAddr::containing(address)).into_iter();
        let known = choices.filter_map(|choice| Some((choice, *nodes.get(&choice.link)?)));
        known
            .map(|(choice, next_hop)| {
                let (verdict, why) = in_words(choice.verdict);
                api_types::Choice {
                    next_hop,
                    link_cost: choice.cost,
                    told: choice.told,
                    hops: choice.hops,
                    verdict: verdict.to_owned(),
                    why: why.to_owned(),
                }
            })
            .collect()
    }

    /// Who is at the other end of each link.
    fn neighbours(&self) -> BTreeMap<LinkId, NodeId> {
        self.mesh.link_status().iter().filter_map(|link| Some((link.link, link.node?))).collect()
    }

    /// Logs what is wrong since the last time, and what is so no more.
    pub(super) fn review(&mut self) {
        let links = self.mesh.link_status();
        let problems = BTreeSet::from_iter(self.problems(&links));
        for problem in problems.difference(&self.review.logged) {
            tracing::warn!("{problem}");
        }
        for problem in self.review.logged.difference(&problems) {
            tracing::info!("no longer: {problem}");
        }
        // Who is silent is not called a problem at once.
        let is_well = problems.is_empty() && links.iter().all(|link| link.is_up);
        let pause = if is_well { REVIEW_QUIET_INTERVAL } else { REVIEW_INTERVAL };
        self.review = Review { logged: problems, due: Instant::now() + pause };
    }

    /// What is wrong, in plain words.
    fn problems(&mut self, links: &[atoll_mesh_core::LinkStatus]) -> Vec<String> {
        let by_endpoint: BTreeMap<_, _> = links.iter().map(|link| (link.endpoint, link)).collect();
        let mut problems = Vec::new();
        for peer in self.peers.values_mut() {
            let link = peer.endpoint.and_then(|endpoint| by_endpoint.get(&endpoint));
            if peer.endpoint.is_none() {
                problems
                    .push(format!("peer {}: its name or interface is not known here; check the spelling", peer.peer));
            } else if link.is_some_and(|link| link.is_self) {
                problems.push(format!("peer {} is this node itself; remove it from `peers`", peer.peer));
            } else if link.is_some_and(|link| !link.is_up && !link.is_narrow) {
                if peer.silent_since.elapsed() >= PEER_PATIENCE {
                    problems.push(format!(
                        "peer {} does not answer; check that it runs, belongs to this region, and that {} passes",
                        peer.peer,
                        match peer.peer.transport {
                            Transport::Udp => "UDP",
                            Transport::Tls => "TCP",
                        }
                    ));
                }
                continue;
            }
            peer.silent_since = Instant::now();
        }
        problems.extend(links.iter().filter(|link| link.is_narrow).map(|link| {
            let (endpoint, least) = (self.shown(link.endpoint), usize::from(DATAGRAM_BYTES_MIN));
            let headers = if link.endpoint.is_ipv4() { IPV4_UDP_BYTES } else { IPV6_UDP_BYTES };
            let mtu = least + headers;
            format!(
                "nothing is sent over the link to {endpoint}: too small an MTU on the way there, which must be at least \
                 {mtu}; raise it, or use a link over TLS"
            )
        }));
        if self.mesh.reaches_exit() == Some(false) {
            problems.push("exit: there is no way to it; check that it runs, or name another".to_owned());
        }
        if self.config.grant.is_some() && !self.mesh.is_border(self.io.now()) {
            problems.push("the `grant` of this node has ended: get a new one from the region's authority".to_owned());
        }
        problems.extend(self.babel.iter().flat_map(Babel::problems));
        problems.extend(self.discovery.iter().flat_map(Discovery::problems).cloned());
        problems
    }
}

fn in_words(verdict: Verdict) -> (&'static str, &'static str) {
    match verdict {
        Verdict::Used => {
            ("used", "the cheapest that cannot lead in a circle, or one that another is not much cheaper than")
        }
        Verdict::Backup => ("backup", "the next best: taken at once when the route in use is lost"),
        Verdict::Spare => ("spare", "usable, but costs more than the two above"),
        Verdict::NotFeasible => {
            ("not feasible", "might lead back here; used only once the node announces itself anew (RFC 8966, 3.5.1)")
        }
    }
}
