//! The real daemon on real network interfaces, in namespaces that the tests make. Needs root.

mod support;

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv6Addr, SocketAddrV6, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use atoll_api::{
    UnixClient,
    mesh::{Endpoint, Peer},
};
use atoll_base::{MeshAddr, NodeId, NodeSecret};
use atoll_mesh::Config;
use atoll_os::{
    link::Links,
    tun::{Tun, TunConfig},
};
use support::{ECHO_PORT, How, PORT, Place, REGION, beside_a_flood, wait};

/// How long an echo is waited for.
const ECHO_PATIENCE: Duration = Duration::from_secs(2);

/// A daemon's configuration, with these peers and interfaces.
fn config(of: &Place, peers: &[&str], discovery: &[&str]) -> Config {
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    Config { peers: owned(peers), discovery: owned(discovery), ..of.config() }
}

/// What only this lab does in a place.
trait Lab {
    fn set_link(&self, link: &str, is_up: bool);
    fn hears(&self, target: Ipv6Addr, bytes: usize) -> bool;
    fn limit(&self, link: &str, rate: &str);
    fn round_trips(&self, target: Ipv6Addr, count: usize) -> Vec<Duration>;
    fn wait_until_hears(&self, target: &Self) -> Duration;
    fn packets_in(&self) -> usize;
}

impl Lab for Place {
    fn set_link(&self, link: &str, is_up: bool) {
        self.block_on(async || {
            let links = Links::here().expect("netlink");
            if is_up { links.ensure_up(link).await } else { links.ensure_down(link).await }.expect("changed");
        });
    }

    /// Whether one echo comes back from an address.
    fn hears(&self, target: Ipv6Addr, bytes: usize) -> bool {
        let exchange = || -> std::io::Result<bool> {
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
            socket.set_read_timeout(Some(Duration::from_millis(250)))?;
            socket.send_to(&vec![7; bytes], (target, ECHO_PORT))?;
            let mut buffer = [0; 2048];
            Ok(socket.recv(&mut buffer)? == bytes)
        };
        self.namespace.run(exchange).expect("inside").unwrap_or(false)
    }

    /// Limits what leaves over a link, with a deep plain queue before it, as many modems have.
    fn limit(&self, link: &str, rate: &str) {
        self.run(&format!("tc qdisc add dev {link} root tbf rate {rate} burst 16kb limit 16mb"));
    }

    /// Round trips of one echo after the other; [`ECHO_PATIENCE`] for one that does not come back.
    fn round_trips(&self, target: Ipv6Addr, count: usize) -> Vec<Duration> {
        let exchange = || -> std::io::Result<Vec<Duration>> {
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
            socket.set_read_timeout(Some(ECHO_PATIENCE))?;
            let mut trips = Vec::new();
            for number in 0..count {
                let start = Instant::now();
                socket.send_to(&[number as u8; 100], (target, ECHO_PORT))?;
                let mut buffer = [0; 128];
                let is_back = loop {
                    match socket.recv(&mut buffer) {
                        Ok(100) if buffer[0] == number as u8 => break true,
                        Ok(_) => {}
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break false,
                        Err(error) => return Err(error),
                    }
                };
                trips.push(if is_back { start.elapsed() } else { ECHO_PATIENCE });
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(trips)
        };
        self.namespace.run(exchange).expect("inside").expect("sockets work")
    }

    fn wait_until_hears(&self, target: &Self) -> Duration {
        wait("an echo comes back", || self.hears(target.address(), 100))
    }

    /// Packets and super-packets that its mesh handed over.
    fn packets_in(&self) -> usize {
        let words = self.run("ip -s link show dev atoll0");
        let received = words.lines().skip_while(|line| !line.contains("RX:")).nth(1).expect("a line of numbers");
        received.split_whitespace().nth(1).and_then(|count| count.parse().ok()).expect("a number")
    }
}

/// Three namespaces in a line. A calls B by its address; B and C find each other.
fn line() -> [Place; 3] {
    let mut members = [Place::new("a", 1), Place::new("b", 2), Place::new("c", 3)];
    let [a, b, c] = &members;
    a.join("to-b", "10.77.1.1", b, "to-a", "10.77.1.2");
    b.join("to-c", "10.77.2.2", c, "to-b", "10.77.2.3");
    let configs = [config(a, &["udp://10.77.1.2:4870"], &[]), config(b, &[], &["to-c"]), config(c, &[], &["to-b"])];
    for (member, config) in members.iter_mut().zip(configs) {
        member.start(config);
        member.echo();
    }
    members
}

#[test]
fn three_machines_in_a_line_talk_end_to_end() {
    let [mut a, b, c] = line();
    a.wait_until_hears(&c);
    c.wait_until_hears(&a);
    a.wait_until_hears(&b);
    // The largest packet that fits, and one that the kernel has to cut into pieces.
    for bytes in [atoll_mesh_core::limits::MTU - 48, 1800] {
        wait("a large echo comes back", || a.hears(c.address(), bytes));
    }

    let status = a.status();
    assert_eq!((status.node, status.address, status.port), (a.secret.id(), a.address(), PORT));
    assert_eq!(status.problems, Vec::<String>::new());
    assert_eq!(status.peers.len(), 1);
    assert!(status.peers[0].up && status.peers[0].node == Some(b.secret.id()) && status.peers[0].origin == "static");
    let far = status.routes.iter().find(|route| route.node == c.secret.id()).expect("a route to C");
    assert_eq!((far.hops, far.next_hop, far.address), (2, b.secret.id(), c.address()));
    assert!(status.sessions.iter().any(|session| session.node == c.secret.id() && session.rx_bytes > 0));
    let is_v6 = |peer: &Peer| matches!(peer.endpoint, Endpoint::Udp(endpoint) if endpoint.is_ipv6());
    assert!(b.status().peers.iter().any(|peer| peer.node == Some(c.secret.id()) && is_v6(peer)));

    transfer(&a, &c);
    // Where nothing puts datagrams together each comes alone, and still becomes a part of a super-packet.
    for (place, link) in [(&a, "to-b"), (&b, "to-a"), (&b, "to-c"), (&c, "to-b")] {
        place.run(&format!("ip link set {link} gso_max_segs 1"));
    }
    let before = c.packets_in();
    transfer(&a, &c);
    let packets = c.packets_in() - before;
    assert!(packets < TRANSFER_BYTES / atoll_mesh_core::limits::MTU / 4, "{packets} packets and super-packets");
    transfer(&c, &a);

    // Addresses of the own network that nobody has lead nowhere, and not in a circle through the mesh.
    let unused = MeshAddr::of(REGION, a.secret.id()).host(99);
    let attempt = a.namespace.run(|| UdpSocket::bind("[::]:0").and_then(|s| s.connect((unused, 1)))).expect("inside");
    assert!(attempt.is_err(), "unassigned addresses are unreachable");
    // Nobody has this network: the program is told, and does not wait.
    let nobody = MeshAddr::of(REGION, NodeSecret::from_seed([99; 32]).id()).node();
    let start = Instant::now();
    let refused = a.namespace.run(|| TcpStream::connect((nobody, 1)).is_err()).expect("inside");
    assert!(refused && start.elapsed() < Duration::from_secs(5));

    a.stop(How::Orderly);
    assert!(!a.socket().exists(), "the socket is gone");
    let gone = a.block_on(async || Links::here().expect("netlink").index("atoll0").await.expect("asked"));
    assert_eq!(gone, None);
}

const TRANSFER_BYTES: usize = 8 * 1024 * 1024;

/// Sends some megabytes over TCP, and compares what comes out.
fn transfer(source: &Place, target: &Place) {
    let listen = SocketAddrV6::new(target.address(), 5001, 0, 0);
    let listener = target.namespace.run(|| TcpListener::bind(listen)).expect("inside").expect("bound");
    let sent: Vec<u8> = (0..TRANSFER_BYTES).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut received = Vec::new();
        stream.read_to_end(&mut received).expect("read");
        received
    });
    let stream = source.namespace.run(|| TcpStream::connect(listen)).expect("inside");
    let mut stream = stream.expect("connected");
    stream.write_all(&sent).expect("written");
    drop(stream);
    assert!(receiver.join().expect("no panic") == sent, "the bytes came out as they went in");
}

#[test]
fn cuts_and_crashes_heal_by_themselves() {
    let [a, mut b, mut c] = line();
    a.wait_until_hears(&c);

    // The wire of a discovered neighbour is pulled, and plugged in again: from the far end and from the own.
    for (member, link) in [(&b, "to-c"), (&c, "to-b")] {
        member.set_link(link, false);
        wait("A learns that C is gone", || !a.status().routes.iter().any(|route| route.node == c.secret.id()));
        assert!(!a.hears(c.address(), 100));
        member.set_link(link, true);
        println!("after the wire to C is back: {:?}", a.wait_until_hears(&c));
    }
    // The wire of a static neighbour.
    a.set_link("to-b", false);
    wait("A learns that B is gone", || a.status().routes.is_empty());
    wait("A says what is wrong", || a.status().problems.iter().any(|problem| problem.contains("10.77.1.2")));
    a.set_link("to-b", true);
    println!("after the wire to B is back: {:?}", a.wait_until_hears(&c));
    wait("the problem is over", || a.status().problems.is_empty());

    // The relay crashes, then the far end does; both come back with the keys that they had.
    b.stop(How::Crash);
    b.start(config(&b, &[], &["to-c"]));
    println!("after B came back: {:?}", a.wait_until_hears(&c));
    c.stop(How::Crash);
    c.start(config(&c, &[], &["to-b"]));
    println!("after C came back: {:?}", a.wait_until_hears(&c));
    c.wait_until_hears(&a);
}

#[test]
fn a_closed_node_lets_in_whom_it_is_told_of() {
    let [a, mut b, c] = line();
    a.wait_until_hears(&c);
    b.stop(How::Orderly);
    b.start(Config { members: Some(vec![a.secret.id()]), ..config(&b, &[], &["to-c"]) });
    let has = |who: &Place| b.status().peers.iter().any(|peer| peer.up && peer.node == Some(who.secret.id()));
    let tell = |to: &Place, members: &[NodeId]| {
        to.block_on(async || UnixClient::new(to.socket()).post::<_, ()>("/v1/members", &members).await)
    };
    wait("the member is in", || has(&a));
    wait("the stranger is refused", || b.metric("refused_strangers_total") > 0);
    assert!(!has(&c));
    tell(&b, &[c.secret.id()]).expect("taken");
    wait("the new member is in", || has(&c));
    a.wait_until_hears(&c);
    tell(&b, &[]).expect("taken");
    wait("it is out again", || !has(&c));
    assert!(has(&a), "whom the configuration names stays");
    let refusal = tell(&a, &[c.secret.id()]).expect_err("everybody may join that one");
    assert!(refusal.to_string().contains("`members`"), "{refusal}");
}

#[test]
fn a_light_flow_passes_a_flood_at_a_slow_link() {
    let [a, b, c] = line();
    a.wait_until_hears(&c);
    b.limit("to-c", "20mbit");
    // Five times what the link carries.
    let (mut trips, bytes, buffer) = beside_a_flood(&a, &c, || {
        wait("the queue fills", || b.metric("queue_dropped_full_total") > 0);
        (a.round_trips(c.address(), 50), b.metric("queue_bytes"), b.metric("send_buffer_bytes"))
    });
    trips.sort_unstable();
    println!("beside the flood: median {:?}, worst {:?}; send buffer {buffer}", trips[25], trips[49]);
    // A plain queue of the flood's would be as long as the kernel's buffers: more than a second.
    assert!(trips[25] < Duration::from_millis(50), "{trips:?}");
    // A machine that is busy otherwise may lose one before the mesh sees it: the queue of its TUN device is full of the flood.
    assert!(trips[44] < ECHO_PATIENCE, "echoes get lost: {trips:?}");
    assert!(bytes > 0 && bytes <= atoll_mesh_core::limits::QUEUE_BYTES_MAX as u64, "{bytes}");
    assert!(buffer < 100_000, "the kernel's queue is short, too: {buffer}");
    // Control frames passed all the time, and the queue is empty soon after.
    assert!(b.status().peers.iter().all(|peer| peer.up), "no link went down");
    wait("the queue drains", || b.metric("queue_bytes") == 0);
    assert!(b.metric("queue_dropped_late_total") > 0);
}

#[test]
fn what_cannot_start_says_why_and_what_to_do() {
    let mut member = Place::new("bad", 9);
    let good = config(&member, &[], &[]);
    let fails = |member: &Place, config: Config| {
        let error = member.block_on(async || atoll_mesh::run(config, core::future::pending()).await);
        let error = error.expect_err("it cannot start");
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(inner) = source {
            text = format!("{text}: {inner}");
            source = inner.source();
        }
        text
    };
    let missing = fails(&member, Config { identity: "/nowhere/identity.key".into(), ..good.clone() });
    assert!(missing.contains("/nowhere/identity.key") && missing.contains("`identity`"), "{missing}");
    let garbage = member.file("garbage.key");
    std::fs::write(&garbage, "not a key").expect("written");
    let bad = fails(&member, Config { identity: garbage, ..good.clone() });
    assert!(bad.contains("64 hexadecimal digits"), "{bad}");
    let peer = fails(&member, Config { peers: vec!["10.0.0.1".to_owned()], ..good.clone() });
    assert!(peer.contains("'10.0.0.1'") && peer.contains("udp://host:port"), "{peer}");
    let inside = fails(&member, Config { peers: vec![format!("udp://[{}]:4870", member.address())], ..good.clone() });
    assert!(inside.contains("within the mesh itself"), "{inside}");
    let own = fails(&member, Config { discovery: vec!["atoll0".to_owned()], ..good.clone() });
    assert!(own.contains("the mesh's own interface"), "{own}");
    let listen = std::net::SocketAddr::from(([192, 0, 2, 1], PORT));
    let foreign = fails(&member, Config { listen, ..good.clone() });
    assert!(foreign.contains("is an address of this machine"), "{foreign}");
    let name = fails(&member, Config { interface: "much-too-long-for-linux".to_owned(), ..good.clone() });
    assert!(name.contains("1 to 15 bytes"), "{name}");

    let taken = member.namespace.run(|| UdpSocket::bind(("::", PORT)).expect("free")).expect("inside");
    let port = fails(&member, good.clone());
    assert!(port.contains("4870") && port.contains("in use") && port.contains("`listen`"), "{port}");
    drop(taken);

    let network = MeshAddr::of(REGION, member.secret.id());
    let busy = member.block_on(async || {
        let config = TunConfig {
            name: "atoll0".to_owned(),
            mtu: 1280,
            address: network.node(),
            network: network.network(),
            region: atoll_base::RegionPrefix::of(REGION).network(),
        };
        let _held = Tun::create(config).await.expect("a device");
        atoll_mesh::run(good.clone(), core::future::pending()).await.expect_err("it cannot start").to_string()
    });
    assert!(busy.contains("'atoll0' is in use"), "{busy}");

    member.start(good.clone());
    let twice = fails(&member, Config { interface: "atoll1".to_owned(), ..good });
    assert!(twice.contains("already answers"), "{twice}");
}
