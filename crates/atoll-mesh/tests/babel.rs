//! The real daemon beside the real `babeld` of Debian, on real network interfaces in namespaces. Needs root.
//!
//! ```text
//!   host ── lan ── router (babeld) ── wire ── node (mesh daemon) ── link ── far (mesh daemon)
//!   fd01:2::2      fd01:2::1, :3::1          mesh address                  mesh address
//! ```

mod support;

use std::{
    fs,
    net::{Ipv6Addr, SocketAddrV6, UdpSocket},
    path::PathBuf,
    process::{Child, Stdio},
};

use atoll_base::{MeshAddr, NodeSecret, RegionPrefix};
use atoll_mesh::{Announce, BabelConfig, Config};
use atoll_os::{
    addresses::link_local_of,
    link::{Links, Route},
};
use support::{How, Place, REGION, wait};

/// A daemon's configuration, with discovery on one interface.
fn config(of: &Place, discovery: &str, babel: Vec<BabelConfig>) -> Config {
    Config { discovery: vec![discovery.to_owned()], babel, ..of.config() }
}

/// What `ip -6 route show` says of a destination.
fn route(of: &Place, destination: &str) -> String {
    let output = of.command("ip").args(["-6", "route", "show", destination]).output().expect("ip runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn pings(from: &Place, source: Ipv6Addr, target: Ipv6Addr) -> bool {
    let (source, target) = (source.to_string(), target.to_string());
    let args = ["-n", "-c", "1", "-W", "1", "-I", &source, &target];
    from.command("ping").args(args).stdout(Stdio::null()).status().expect("ping is installed").success()
}

fn add_address(place: &Place, link: &str, address: &str, length: u8) {
    let address = address.parse().expect("an address");
    place.block_on(async || {
        Links::here().expect("netlink").ensure_address(link, address, length).await.expect("an address");
    });
}

fn join(a: &Place, link_a: &str, b: &Place, link_b: &str) {
    a.block_on(async || {
        let links = Links::here().expect("netlink");
        links.ensure_veth(link_a, &b.namespace, link_b).await.expect("a link");
        let far = Links::of(&b.namespace).expect("netlink");
        links.ensure_up(link_a).await.expect("up");
        far.ensure_up(link_b).await.expect("up");
    });
}

/// Debian's router, which announces some of its kernel's routes.
struct Babeld {
    process: Child,
    folder: tempfile::TempDir,
}

impl Babeld {
    /// On the interface `wire`; it announces the prefixes that are given.
    fn start(place: &Place, wire: &str, announced: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str| folder.path().join(name);
        let mut config = format!("interface {wire} type wired hello-interval 1\n");
        for prefix in announced {
            config.push_str(&format!(
                "redistribute ip {prefix} eq {} allow\n",
                prefix.split_once('/').expect("a length").1
            ));
        }
        config.push_str("redistribute local deny\nredistribute deny\n");
        fs::write(file("config"), config).expect("written");
        let log = fs::File::create(file("log")).expect("a file");
        let process = place
            .command(babeld())
            .arg("-c")
            .arg(file("config"))
            .arg("-I")
            .arg(file("pid"))
            .arg("-S")
            .arg(file("state"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("babeld starts");
        Self { process, folder }
    }

    fn check(&mut self) {
        let log = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        assert!(matches!(self.process.try_wait(), Ok(None)), "babeld has ended: {}", log());
    }

    /// As a power cut does it: nothing is taken back.
    fn kill(mut self) {
        self.check();
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
    }
}

impl Drop for Babeld {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The program, from target/tools if `scripts/require` unpacked it there, else the system's.
fn babeld() -> PathBuf {
    let unpacked = PathBuf::from("../../target/tools/usr/sbin/babeld");
    let found = [unpacked, "/usr/sbin/babeld".into()].into_iter().find(|path| path.is_file());
    found.expect("babeld is missing: run `scripts/require test`")
}

/// Four namespaces in a line, with mesh daemons in the last two; babeld is not started.
struct Lab {
    node: Place,
    far: Place,
    host: Place,
    router: Place,
}

const HOST: &str = "fd01:2::2";

/// A host and its router, whose link `wire` ends at a link of the node; both have addresses in the /64 that is given.
fn network_behind(node: &Place, link: &str, network: &str) -> (Place, Place) {
    let (host, router) = (Place::new("host", 101), Place::new("router", 102));
    let gateway = format!("{network}:1");
    join(&host, "eth0", &router, "lan");
    join(&router, "wire", node, link);
    add_address(&host, "eth0", &format!("{network}:2"), 64);
    add_address(&router, "lan", &gateway, 64);
    router.block_on(async || Links::here().expect("netlink").enable_forwarding().expect("forwards"));
    host.block_on(async || {
        let gateway = Route::default_via(gateway.parse().expect("an address"), "eth0");
        Links::here().expect("netlink").ensure_route(&gateway).await.expect("a route");
    });
    (host, router)
}

impl Lab {
    fn new(announce: Announce, accept: &[&str]) -> Self {
        let (mut node, mut far) = (Place::new("node", 1), Place::new("far", 2));
        let (host, router) = network_behind(&node, "eth1", "fd01:2:");
        join(&node, "link", &far, "link");
        let accept = accept.iter().map(|prefix| (*prefix).to_owned()).collect();
        let babel = BabelConfig { interface: "eth1".to_owned(), announce, accept };
        node.start(config(&node, "link", vec![babel]));
        far.start(config(&far, "link", Vec::new()));
        Self { node, far, host, router }
    }

    fn config(&self) -> Config {
        let accept = vec!["fd01::/16".to_owned()];
        let babel = BabelConfig { interface: "eth1".to_owned(), announce: Announce::Region, accept };
        config(&self.node, "link", vec![babel])
    }
}

#[test]
fn a_host_behind_babeld_and_a_mesh_node_reach_each_other() {
    let mut lab = Lab::new(Announce::Region, &["fd01::/16"]);
    let region = format!("{}/48", RegionPrefix::of(REGION).network());
    let (host, node) = (HOST.parse().expect("an address"), lab.node.network().node());
    // What is learned is what the owner lists: the router has another prefix too.
    add_address(&lab.router, "lan", "fd02:7::1", 64);
    let mut babeld = Babeld::start(&lab.router, "wire", &["fd01:2::/64", "fd02:7::/64"]);
    let took = wait("the node learns the prefix of babeld", || route(&lab.node, "fd01:2::/64").contains("proto babel"));
    println!("learned after {took:?}: {}", route(&lab.node, "fd01:2::/64"));
    wait("babeld learns the region", || route(&lab.router, &region).contains("proto babel"));
    wait("the host reaches the node", || pings(&lab.host, host, node));
    wait("the node reaches the host", || pings(&lab.node, node, host));
    assert_eq!(route(&lab.node, "fd02:7::/64"), "", "not accepted");
    wait("no problem is left", || lab.node.status().problems.is_empty());

    garbage(&lab);
    babeld.check();

    // Its prefix is withdrawn.
    lab.router.block_on(async || {
        let address = "fd01:2::1".parse().expect("an address");
        Links::here().expect("netlink").remove_address("lan", address, 64).await.expect("removed");
    });
    println!("withdrawn after {:?}", wait("the route goes away", || route(&lab.node, "fd01:2::/64").is_empty()));
    add_address(&lab.router, "lan", "fd01:2::1", 64);
    wait("the route comes back", || route(&lab.node, "fd01:2::/64").contains("proto babel"));

    // The router dies.
    babeld.kill();
    println!("lost after {:?}", wait("the route goes away", || route(&lab.node, "fd01:2::/64").is_empty()));
    assert!(!pings(&lab.node, node, host));
    let _babeld = Babeld::start(&lab.router, "wire", &["fd01:2::/64"]);
    wait("the route comes back", || route(&lab.node, "fd01:2::/64").contains("proto babel"));
    wait("the host reaches the node", || pings(&lab.host, host, node));

    // The daemon dies, and comes back: what it left is cleaned up, and what it says is believed at once.
    lab.node.stop(How::Crash);
    assert!(route(&lab.node, "fd01:2::/64").contains("proto babel"), "a crash leaves it");
    let config = lab.config();
    lab.node.start(Config { babel: vec![BabelConfig { accept: Vec::new(), ..config.babel[0].clone() }], ..config });
    assert_eq!(route(&lab.node, "fd01:2::/64"), "", "what is not accepted any more is not kept");
    lab.node.stop(How::Crash);
    lab.node.start(lab.config());
    wait("the host reaches the node again", || pings(&lab.host, host, node));

    // It stops in good order, once it has been heard.
    lab.node.stop(How::Orderly);
    assert_eq!(route(&lab.node, "fd01:2::/64"), "", "nothing stays behind");
    println!(
        "taken back after {:?}",
        wait("babeld forgets the region", || {
            let route = route(&lab.router, &region);
            route.is_empty() || route.contains("unreachable")
        })
    );
}

/// Noise from a neighbour on the wire, from Babel's port and from others: the table of the node stays as it is.
fn garbage(lab: &Lab) {
    let intruder = Place::new("intruder", 103);
    lab.node.block_on(async || {
        let links = Links::here().expect("netlink");
        links.ensure_veth("eth2", &intruder.namespace, "eth0").await.expect("a link");
        links.ensure_up("eth2").await.expect("up");
        Links::of(&intruder.namespace).expect("netlink").ensure_up("eth0").await.expect("up");
    });
    // A route that would be accepted, from a router on the wire: hellos, "I hear you", an update.
    let lure: Vec<u8> = [
        &[42, 2, 0, 52][..],
        &[4, 6, 0, 0, 0, 1, 1, 144, 4, 6, 0, 0, 0, 2, 1, 144, 5, 6, 0, 0, 0, 96, 4, 176],
        &[6, 10, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9],
        &[8, 14, 2, 0, 32, 0, 6, 64, 0, 1, 0, 0, 0xfd, 1, 0, 9],
    ]
    .concat();
    let shout = |place: &Place, link: &str, port: u16, packets: &[Vec<u8>]| {
        wait("a link-local address", || !place.namespace.run(|| link_local_of(link)).expect("inside").is_empty());
        let index = place.namespace.run(|| atoll_os::tun::interface_index(link)).expect("inside").expect("it is there");
        let group = SocketAddrV6::new("ff02::1:6".parse().expect("an address"), 6696, 0, index);
        place
            .namespace
            .run(|| {
                let socket = UdpSocket::bind(("::", port)).expect("the port is free");
                for packet in packets {
                    // The address may still be tentative.
                    wait("it is sent", || socket.send_to(packet, group).is_ok());
                }
            })
            .expect("inside");
    };
    // On an interface that is not configured, from the right port.
    shout(&intruder, "eth0", 6696, std::slice::from_ref(&lure));
    // On the configured one, from another port, and bytes without sense.
    let mut packets = vec![lure; 3];
    let mut state = 1u32;
    for length in 0..200 {
        let noise = (0..length).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        });
        let mut packet: Vec<u8> = noise.collect();
        if length % 2 == 0 && length >= 4 {
            packet[..4].copy_from_slice(&[42, 2, 0, (length - 4) as u8]);
        }
        packets.push(packet);
    }
    shout(&lab.router, "wire", 0, &packets);
    wait("everything was read", || unread(&lab.node) == 0);
    let (host, node) = (HOST.parse().expect("an address"), lab.node.network().node());
    wait("the host still reaches the node", || pings(&lab.host, host, node));
    wait("no problem is left", || lab.node.status().problems.is_empty());
    lab.node.block_on(async || Links::here().expect("netlink").remove("eth2").await.expect("removed"));
    assert_eq!(route(&lab.node, "fd01:9::/32"), "", "nothing of that is believed");
    assert_eq!(route(&lab.node, "fd01:2::/64").lines().count(), 1);
}

/// Bytes that wait at Babel's port.
fn unread(place: &Place) -> u64 {
    let text =
        place.namespace.run(|| fs::read_to_string("/proc/thread-self/net/udp6")).expect("inside").expect("it is there");
    let port = format!(":{:04X}", atoll_mesh_core::babel::PORT);
    let line = text.lines().find(|line| line.split_whitespace().nth(1).is_some_and(|local| local.ends_with(&port)));
    let queues = line.and_then(|line| line.split_whitespace().nth(4)).expect("the socket is open");
    u64::from_str_radix(queues.split_once(':').expect("two of them").1, 16).expect("a number")
}

#[test]
fn hosts_behind_babeld_with_addresses_of_the_node_are_full_members_of_the_mesh() {
    let own = MeshAddr::of(REGION, NodeSecret::from_seed([1; 32]).id());
    // The upper half of the node's network is behind the router.
    let behind = format!("{}/113", own.host(0x8000));
    let lab = Lab::new(Announce::Nodes, &[&behind]);
    let guest = own.host(0x8002);
    add_address(&lab.router, "lan", &own.host(0x8001).to_string(), 113);
    add_address(&lab.host, "eth0", &guest.to_string(), 113);
    let mut babeld = Babeld::start(&lab.router, "wire", &[&behind, "fd01:2::/64"]);
    let far = lab.far.network();
    wait("babeld learns the way to the far node", || {
        route(&lab.router, &format!("{}/112", far.network())).contains("proto babel")
    });
    wait("the node learns its half", || route(&lab.node, &behind).contains("proto babel"));
    wait("the guest reaches the far node through the mesh", || pings(&lab.host, guest, far.node()));
    wait("and the far node the guest", || pings(&lab.far, far.node(), guest));
    assert_eq!(route(&lab.node, "fd01:2::/64"), "", "not accepted");
    let region = format!("{}/48", RegionPrefix::of(REGION).network());
    assert_eq!(route(&lab.router, &region), "", "nodes are announced, the region is not");
    // Nothing unsigned gets into the mesh: the far node knows one network more than its own, and that is signed.
    let status = lab.far.status();
    let nodes: Vec<_> = status.routes.iter().map(|route| route.node).collect();
    assert_eq!(nodes, [lab.node.secret.id()]);
    babeld.check();
}

#[test]
fn two_networks_behind_babeld_reach_each_other_through_the_node() {
    let mut here = Place::new("node", 4);
    let (left_host, left) = network_behind(&here, "eth1", "fd01:2:");
    let (right_host, right) = network_behind(&here, "eth2", "fd01:3:");
    let babel = |interface: &str, announce| BabelConfig {
        interface: interface.to_owned(),
        announce,
        accept: vec!["fd01::/16".to_owned()],
    };
    let interfaces = vec![babel("eth1", Announce::Region), babel("eth2", Announce::None)];
    here.start(config(&here, "eth1", interfaces));
    let _left_babeld = Babeld::start(&left, "wire", &["fd01:2::/64"]);
    let right_babeld = Babeld::start(&right, "wire", &["fd01:3::/64"]);
    let (left_address, right_address) = (HOST.parse().expect("an address"), "fd01:3::2".parse().expect("an address"));
    wait("the left host reaches the right one", || pings(&left_host, left_address, right_address));
    wait("and the right one the left one", || pings(&right_host, right_address, left_address));
    let region = format!("{}/48", RegionPrefix::of(REGION).network());
    wait("the left router knows the region", || route(&left, &region).contains("proto babel"));
    assert_eq!(route(&right, &region), "", "the right one is not told of it");

    right_babeld.kill();
    // What was announced to others is unreachable for a while, and so it is told to them.
    wait("the node has no way any more", || route(&here, "fd01:3::/64").starts_with("unreachable"));
    wait("the left router neither", || !route(&left, "fd01:3::/64").contains("via"));
    let _right_babeld = Babeld::start(&right, "wire", &["fd01:3::/64"]);
    wait("the left host reaches the right one again", || pings(&left_host, left_address, right_address));
    here.stop(How::Orderly);
    assert_eq!((route(&here, "fd01:2::/64"), route(&here, "fd01:3::/64")), (String::new(), String::new()));
}

#[test]
fn a_port_that_is_taken_and_an_interface_that_is_not_there_are_told() {
    let mut place = Place::new("alone", 3);
    let babel = BabelConfig { interface: "eth1".to_owned(), announce: Announce::Region, accept: Vec::new() };
    let config = config(&place, "eth0", vec![babel]);
    let taken = place.namespace.run(|| UdpSocket::bind(("::", 6696)).expect("free")).expect("inside");
    let error = place.block_on(async || atoll_mesh::run(config.clone(), core::future::pending()).await);
    let error = error.expect_err("it cannot start").to_string();
    assert!(error.contains("6696") && error.contains("other Babel router"), "{error}");
    drop(taken);
    place.start(config);
    wait("it says what is missing", || {
        let problems = place.status().problems;
        problems.iter().any(|problem| problem.contains("babel: there is no interface 'eth1'"))
    });
}
