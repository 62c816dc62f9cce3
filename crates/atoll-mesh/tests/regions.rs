//! Real daemons of two regions, joined by their border nodes. Needs root and `ip`.

mod support;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddrV6, TcpListener, TcpStream},
    process::Stdio,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use atoll_base::{NodeSecret, RegionId, RegionPrefix};
use atoll_mesh::{Config, RegionConfig};
use atoll_mesh_core::Grant;
use support::{How, PATIENCE, PORT, wait};

const A: RegionId = RegionId([0x5c; 32]);
const B: RegionId = RegionId([0x5d; 32]);

support::place_of_lab!();

fn authority(region: RegionId) -> NodeSecret {
    NodeSecret::from_seed(region.0)
}

impl Place {
    fn new(name: &str, seed: u8, region: RegionId) -> Self {
        Self(support::Place::in_region(name, seed, region))
    }

    /// The other region, as this node recognises it.
    fn other(&self, peers: &[&str]) -> RegionConfig {
        let id = if self.region == A { B } else { A };
        let peers = peers.iter().map(|peer| format!("udp://{peer}:{PORT}")).collect();
        RegionConfig { id, authority: authority(id).id(), peers, announce: None, accept: None, price: 0 }
    }

    fn config(&self, peers: &[&str]) -> Config {
        Config {
            peers: peers.iter().map(|peer| format!("udp://{peer}:{PORT}")).collect(),
            regions: vec![self.other(&[])],
            ..self.0.config()
        }
    }

    /// The same as a border node for so many milliseconds.
    fn border_config(&self, life_ms: u64, border_peers: &[&str]) -> Config {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let expiry_ms = u64::try_from(now.as_millis()).expect("not too late") + life_ms;
        let grant = Grant::sign(&authority(self.region), self.region, self.secret.id(), expiry_ms);
        Config { grant: Some(grant.to_text()), regions: vec![self.other(border_peers)], ..self.config(&[]) }
    }

    fn start(&mut self, config: Config) {
        self.0.start(config);
    }

    fn stop(&mut self) {
        self.0.stop(How::Orderly);
    }

    /// Whether one echo of so many bytes comes back, uncut.
    fn pings(&self, other: &Self, bytes: usize) -> bool {
        let (bytes, target) = (bytes.to_string(), other.address().to_string());
        let mut command = self.command("ping");
        command.args(["-6", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", &bytes, &target]);
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().expect("ping is installed").success()
    }
}

/// A host and a border of A, a border and a host of B, in a line. Not started yet.
fn line() -> [Place; 4] {
    let places = [Place::new("a", 1, A), Place::new("x", 2, A), Place::new("y", 3, B), Place::new("b", 4, B)];
    let [a, x, y, b] = &places;
    a.join("to-x", "10.78.1.1", x, "to-a", "10.78.1.2");
    x.join("to-y", "10.78.2.2", y, "to-x", "10.78.2.3");
    y.join("to-b", "10.78.3.3", b, "to-y", "10.78.3.4");
    places
}

/// Sends some megabytes over TCP, and compares what comes out.
fn transfer(source: &Place, target: &Place) {
    const BYTES: usize = 4 * 1024 * 1024;
    let listen = SocketAddrV6::new(target.address(), 5001, 0, 0);
    let listener = target.namespace.run(|| TcpListener::bind(listen)).expect("inside").expect("bound");
    let sent: Vec<u8> = (0..BYTES).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let mut received = Vec::new();
        stream.read_to_end(&mut received).expect("read");
        received
    });
    let start = Instant::now();
    let stream = source.namespace.run(|| TcpStream::connect(listen)).expect("inside");
    let mut stream = stream.expect("connected");
    stream.set_write_timeout(Some(PATIENCE)).expect("set");
    stream.write_all(&sent).expect("written");
    drop(stream);
    assert!(receiver.join().expect("no panic") == sent, "the bytes came out as they went in");
    println!("{BYTES} bytes in {:?}", start.elapsed());
}

#[test]
fn hosts_of_two_regions_ping_and_talk_over_tcp_through_two_borders() {
    let [mut a, mut x, mut y, mut b] = line();
    let configs = [
        a.config(&["10.78.1.2"]),
        x.border_config(3_600_000, &["10.78.2.3"]),
        y.border_config(3_600_000, &[]),
        b.config(&["10.78.3.3"]),
    ];
    for (place, config) in [&mut a, &mut x, &mut y, &mut b].into_iter().zip(configs) {
        place.start(config);
    }
    wait("A's host reaches B's", || a.pings(&b, 56));
    assert!(b.pings(&a, 56) && a.pings(&y, 56) && x.pings(&b, 56));
    // Exactly IPv6's smallest MTU: 40 bytes of header, 8 of ICMPv6; and one byte more.
    assert!(a.pings(&b, 1280 - 48) && !a.pings(&b, 1281 - 48));
    transfer(&a, &b);
    transfer(&b, &a);

    let status = a.status();
    assert_eq!(status.routes.iter().map(|route| route.node).collect::<Vec<_>>(), [x.secret.id()], "no /112 of B");
    let [region] = status.regions.as_slice() else { panic!("one region: {:?}", status.regions) };
    assert_eq!(region.prefix, RegionPrefix::of(B).to_string());
    assert_eq!((region.border, region.next_hop, region.hops), (y.secret.id(), Some(x.secret.id()), 2));
    assert!(status.sessions.iter().any(|session| session.node == b.secret.id() && session.rx_bytes > 0));
    let crossing = x.status().peers.into_iter().find(|peer| peer.node == Some(y.secret.id())).expect("a link");
    assert!(crossing.up && crossing.region == Some(RegionPrefix::of(B).to_string()));
    assert!(status.peers.iter().all(|peer| peer.region.is_none()));

    // B's border starts anew without recognising A: nothing leads there any more, and B's own traffic goes on.
    y.stop();
    let closed = Config { grant: None, regions: Vec::new(), ..y.config(&[]) };
    y.start(closed);
    wait("A has no route to B", || a.status().regions.is_empty());
    wait("B's inside works", || b.pings(&y, 56));
    assert!(!a.pings(&b, 56));
    wait("X says what is wrong", || x.status().problems.iter().any(|problem| problem.contains("10.78.2.3")));
}

#[test]
fn a_border_whose_grant_ends_says_so_and_carries_nothing() {
    let [_a, mut x, mut y, _b] = line();
    let configs = [x.border_config(4_000, &["10.78.2.3"]), y.border_config(3_600_000, &[])];
    for (place, config) in [&mut x, &mut y].into_iter().zip(configs) {
        place.start(config);
    }
    wait("the borders reach each other", || x.pings(&y, 56));
    wait("the route ends with the grant", || x.status().regions.is_empty() && y.status().regions.is_empty());
    assert!(!x.pings(&y, 56));
    assert!(x.status().problems.iter().any(|problem| problem.contains("`grant` of this node has ended")));
    assert!(y.status().problems.is_empty());
}

/// Whether the kernel has a route to a region.
fn has_route(place: &Place, region: RegionId) -> bool {
    let network = RegionPrefix::of(region).network();
    !place.run(&format!("ip -6 route show {network}/48")).is_empty()
}

/// A line in which B recognises A, but nobody of A recognises B; all runs, from files.
fn one_sided() -> [Place; 4] {
    let mut places = line();
    let [a, x, y, b] = &places;
    let configs = [
        Config { regions: Vec::new(), ..a.config(&["10.78.1.2"]) },
        Config { regions: Vec::new(), ..x.border_config(3_600_000, &[]) },
        y.border_config(3_600_000, &[]),
        b.config(&["10.78.3.3"]),
    ];
    for (place, config) in places.iter_mut().zip(configs) {
        place.0.start_from_file(config);
    }
    let [a, x, y, b] = &places;
    wait("both regions work inside", || a.pings(x, 56) && b.pings(y, 56));
    places
}

#[test]
fn a_region_is_recognised_and_withdrawn_while_everything_runs() {
    let [a, x, y, b] = one_sided();
    assert!(!a.pings(&b, 56) && !has_route(&a, B) && !has_route(&x, B));

    let reloaded = x.reload(&x.border_config(3_600_000, &["10.78.2.3"])).expect("it is right");
    assert_eq!(reloaded.applied, ["grant", "regions"]);
    let reloaded = a.reload(&a.config(&["10.78.1.2"])).expect("it is right");
    assert_eq!((reloaded.applied, reloaded.restart.len()), (vec!["regions".to_owned()], 0));
    assert!(has_route(&a, B) && has_route(&x, B));
    wait("A's host reaches B's", || a.pings(&b, 56));

    // A bad file, in a place that has nothing to do with regions: what held before goes on.
    let bad = Config { open: vec!["22".to_owned()], regions: Vec::new(), ..x.border_config(3_600_000, &[]) };
    let error = x.reload(&bad).expect_err("the transport is missing");
    assert!(error.contains("transport is missing") && error.contains("goes on"), "{error}");
    assert!(a.pings(&b, 56) && has_route(&x, B));
    // What has to wait is named, and nothing else happens.
    let later = Config { metrics: Some("127.0.0.1:9871".parse().expect("right")), ..a.config(&["10.78.1.2"]) };
    let reloaded = a.reload(&later).expect("it is right");
    assert_eq!((reloaded.applied.len(), reloaded.restart), (0, vec!["metrics".to_owned()]));

    // Withdrawn at the border: everything that was of B ends there, and nobody of A has a way.
    let none = Config { regions: Vec::new(), ..x.border_config(3_600_000, &[]) };
    x.reload(&none).expect("it is right");
    assert!(!has_route(&x, B) && has_route(&a, B));
    let status = x.status();
    assert!(status.regions.is_empty() && status.peers.iter().all(|peer| peer.region.is_none()));
    assert!(status.sessions.iter().all(|session| session.node != b.secret.id()));
    wait("A has no way to B", || a.status().regions.is_empty());
    assert!(!a.pings(&b, 56) && a.pings(&x, 56) && b.pings(&y, 56));
    a.reload(&Config { regions: Vec::new(), ..a.config(&["10.78.1.2"]) }).expect("it is right");
    assert!(!has_route(&a, B) && a.status().sessions.iter().all(|session| session.node != b.secret.id()));
}

#[test]
fn a_grant_is_renewed_and_peers_and_members_change_while_everything_runs() {
    let [a, x, y, b] = one_sided();
    a.reload(&a.config(&["10.78.1.2"])).expect("it is right");
    x.reload(&x.border_config(3_000, &["10.78.2.3"])).expect("it is right");
    wait("A's host reaches B's", || a.pings(&b, 56));
    wait("the grant ends", || {
        a.status().regions.is_empty() && x.status().problems.iter().any(|problem| problem.contains("`grant`"))
    });
    x.reload(&x.border_config(3_600_000, &["10.78.2.3"])).expect("it is right");
    wait("the new one holds", || a.pings(&b, 56));
    assert!(x.status().problems.is_empty());

    // Nobody but itself may have links with B's host, and then everybody again.
    let closed = Config { members: Some(Vec::new()), ..b.config(&["10.78.3.3"]) };
    assert_eq!(b.reload(&closed).expect("it is right").applied, ["members"]);
    assert!(b.status().routes.is_empty());
    wait("B's border lost it", || !y.pings(&b, 56));
    b.reload(&b.config(&["10.78.3.3"])).expect("it is right");
    wait("B's border has it again", || y.pings(&b, 56));

    // A's host calls nobody any more: both ends forget the link.
    a.reload(&Config { peers: Vec::new(), ..a.config(&[]) }).expect("it is right");
    assert!(a.status().peers.is_empty());
    wait("the border forgets it too", || x.status().peers.iter().all(|peer| peer.node != Some(a.secret.id())));
    a.reload(&a.config(&["10.78.1.2"])).expect("it is right");
    wait("it calls again", || a.pings(&b, 56));

    // Ports are opened and closed.
    let closed = Config { open: Vec::new(), ..x.border_config(3_600_000, &["10.78.2.3"]) };
    assert!(x.reload(&closed).expect("it is right").applied.contains(&"open".to_owned()));
    assert!(x.run("nft list tables").contains("atoll-own-atoll0"));
    x.reload(&x.border_config(3_600_000, &["10.78.2.3"])).expect("it is right");
    assert!(!x.run("nft list tables").contains("atoll-own-atoll0"));
}
