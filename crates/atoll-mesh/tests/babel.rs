//! The real daemon beside the real `babeld` of Debian, on real network interfaces in namespaces. Needs root.
//!
//! ```text
//!   host ── lan ── router (babeld) ── wire ── node (mesh daemon) ── link ── far (mesh daemon)
//!   fd01:2::2      fd01:2::1, :3::1          mesh address                  mesh address
//! ```

use std::{
    fs,
    net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use atoll_api::{UnixClient, mesh::MeshStatus};
use atoll_base::{MeshAddr, NodeSecret, RegionId, RegionPrefix};
use atoll_mesh::{Announce, BabelConfig, Config, MeshError};
use atoll_os::{
    addresses::link_local_of,
    link::{Links, Route},
    netns::NetNs,
};
use tokio::{runtime::Builder, sync::oneshot};

const REGION: RegionId = RegionId([0x5b; 32]);
const PORT: u16 = 4870;
/// How long the slowest machine may take for what takes some seconds on an idle one.
const PATIENCE: Duration = Duration::from_secs(60);

/// A namespace, gone when dropped.
struct Place(NetNs);

impl Place {
    fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("atoll-babel-{}-{number}-{name}", std::process::id());
        Self(NetNs::ensure(&name).expect("a namespace (this test needs root)"))
    }

    /// Runs `work` on a thread inside the namespace, with a runtime of its own.
    fn block_on<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> T {
        let inside = || Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work());
        self.0.run(inside).expect("inside the namespace")
    }

    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.0.name()]).arg(program.as_ref());
        command
    }

    /// What `ip -6 route show` says of a destination.
    fn route(&self, destination: &str) -> String {
        let output = self.command("ip").args(["-6", "route", "show", destination]).output().expect("ip runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn pings(&self, source: Ipv6Addr, target: Ipv6Addr) -> bool {
        let (source, target) = (source.to_string(), target.to_string());
        let args = ["-n", "-c", "1", "-W", "1", "-I", &source, &target];
        self.command("ping").args(args).stdout(Stdio::null()).status().expect("ping is installed").success()
    }

    fn add_address(&self, link: &str, address: &str, length: u8) {
        let address = address.parse().expect("an address");
        self.block_on(async || {
            Links::here().expect("netlink").ensure_address(link, address, length).await.expect("an address");
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = NetNs::remove(self.0.name()) {
            eprintln!("{error}");
        }
    }
}

fn join(a: &Place, link_a: &str, b: &Place, link_b: &str) {
    a.block_on(async || {
        let links = Links::here().expect("netlink");
        links.ensure_veth(link_a, &b.0, link_b).await.expect("a link");
        let far = Links::of(&b.0).expect("netlink");
        links.ensure_up(link_a).await.expect("up");
        far.ensure_up(link_b).await.expect("up");
    });
}

fn wait(what: &str, mut done: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
    start.elapsed()
}

/// A mesh daemon.
struct Daemon {
    folder: tempfile::TempDir,
    secret: NodeSecret,
    running: Option<(oneshot::Sender<bool>, JoinHandle<Ended>)>,
}

/// How a daemon ended; nothing after a crash.
type Ended = Option<Result<(), MeshError>>;

impl Daemon {
    fn new(seed: u8) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let secret = NodeSecret::from_seed([seed; 32]);
        fs::write(folder.path().join("identity.key"), secret.to_text()).expect("written");
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(folder.path().join("identity.key"), private).expect("changed");
        Self { folder, secret, running: None }
    }

    fn network(&self) -> MeshAddr {
        MeshAddr::of(REGION, self.secret.id())
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("mesh.sock")
    }

    fn config(&self, discovery: &str, babel: Vec<BabelConfig>) -> Config {
        Config {
            identity: self.folder.path().join("identity.key"),
            region: REGION,
            interface: "atoll0".to_owned(),
            tun: atoll_mesh::TunMode::Create,
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)),
            peers: Vec::new(),
            discovery: vec![discovery.to_owned()],
            members: None,
            socket: self.socket(),
            babel,
            metrics: None,
        }
    }

    /// Starts it, and waits until it answers.
    fn start(&mut self, place: &Place, config: Config) {
        let (stop, stopped) = oneshot::channel::<bool>();
        let namespace = place.0.clone();
        let thread = std::thread::spawn(move || {
            let run = || {
                let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(async {
                    let (orderly, shutdown) = oneshot::channel::<()>();
                    let daemon = atoll_mesh::run(config, async {
                        let _ = shutdown.await;
                    });
                    tokio::pin!(daemon);
                    tokio::select! {
                        result = &mut daemon => return Some(result),
                        // A crash: nothing is cleaned up.
                        how = stopped => if how != Ok(true) { return None },
                    }
                    orderly.send(()).expect("the daemon listens");
                    Some(daemon.await)
                })
            };
            namespace.run(run).expect("inside the namespace")
        });
        self.running = Some((stop, thread));
        wait("the daemon answers", || self.status(place).is_some());
    }

    fn stop(&mut self, is_orderly: bool) {
        let (stop, thread) = self.running.take().expect("it was started");
        assert!(stop.send(is_orderly).is_ok(), "the daemon died before");
        match thread.join().expect("no panic") {
            None => assert!(!is_orderly),
            Some(result) => result.expect("an orderly end"),
        }
    }

    fn status(&self, place: &Place) -> Option<MeshStatus> {
        place.block_on(async || UnixClient::new(self.socket()).get("/v1/status").await.ok())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            let _ = stop.send(false);
            let _ = thread.join();
        }
    }
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
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/usr/sbin/babeld");
    let found = [unpacked, "/usr/sbin/babeld".into()].into_iter().find(|path| path.is_file());
    found.expect("babeld is missing: run `scripts/require test`")
}

/// Four namespaces in a line, with mesh daemons in the last two; babeld is not started.
struct Lab {
    node: Daemon,
    far: Daemon,
    host: Place,
    router: Place,
    here: Place,
    there: Place,
}

const HOST: &str = "fd01:2::2";

/// A host and its router, whose link `wire` ends at a link of the node; both have addresses in the /64 that is given.
fn network_behind(node: &Place, link: &str, network: &str) -> (Place, Place) {
    let (host, router) = (Place::new("host"), Place::new("router"));
    let gateway = format!("{network}:1");
    join(&host, "eth0", &router, "lan");
    join(&router, "wire", node, link);
    host.add_address("eth0", &format!("{network}:2"), 64);
    router.add_address("lan", &gateway, 64);
    router.block_on(async || Links::here().expect("netlink").enable_forwarding().expect("forwards"));
    host.block_on(async || {
        let gateway = Route::default_via(gateway.parse().expect("an address"), "eth0");
        Links::here().expect("netlink").ensure_route(&gateway).await.expect("a route");
    });
    (host, router)
}

impl Lab {
    fn new(announce: Announce, accept: &[&str]) -> Self {
        let (here, there) = (Place::new("node"), Place::new("far"));
        let (host, router) = network_behind(&here, "eth1", "fd01:2:");
        join(&here, "link", &there, "link");
        let (mut node, mut far) = (Daemon::new(1), Daemon::new(2));
        let accept = accept.iter().map(|prefix| (*prefix).to_owned()).collect();
        let babel = BabelConfig { interface: "eth1".to_owned(), announce, accept };
        let config = node.config("link", vec![babel]);
        node.start(&here, config);
        let config = far.config("link", Vec::new());
        far.start(&there, config);
        Self { node, far, host, router, here, there }
    }

    fn config(&self) -> Config {
        let accept = vec!["fd01::/16".to_owned()];
        let babel = BabelConfig { interface: "eth1".to_owned(), announce: Announce::Region, accept };
        self.node.config("link", vec![babel])
    }
}

#[test]
fn a_host_behind_babeld_and_a_mesh_node_reach_each_other() {
    let mut lab = Lab::new(Announce::Region, &["fd01::/16"]);
    let region = format!("{}/48", RegionPrefix::of(REGION).network());
    let (host, node) = (HOST.parse().expect("an address"), lab.node.network().node());
    // What is learned is what the owner lists: the router has another prefix too.
    lab.router.add_address("lan", "fd02:7::1", 64);
    let mut babeld = Babeld::start(&lab.router, "wire", &["fd01:2::/64", "fd02:7::/64"]);
    let took = wait("the node learns the prefix of babeld", || lab.here.route("fd01:2::/64").contains("proto babel"));
    println!("learned after {took:?}: {}", lab.here.route("fd01:2::/64"));
    wait("babeld learns the region", || lab.router.route(&region).contains("proto babel"));
    wait("the host reaches the node", || lab.host.pings(host, node));
    wait("the node reaches the host", || lab.here.pings(node, host));
    assert_eq!(lab.here.route("fd02:7::/64"), "", "not accepted");
    wait("no problem is left", || lab.node.status(&lab.here).is_some_and(|status| status.problems.is_empty()));

    garbage(&lab);
    babeld.check();

    // Its prefix is withdrawn.
    lab.router.block_on(async || {
        let address = "fd01:2::1".parse().expect("an address");
        Links::here().expect("netlink").remove_address("lan", address, 64).await.expect("removed");
    });
    println!("withdrawn after {:?}", wait("the route goes away", || lab.here.route("fd01:2::/64").is_empty()));
    lab.router.add_address("lan", "fd01:2::1", 64);
    wait("the route comes back", || lab.here.route("fd01:2::/64").contains("proto babel"));

    // The router dies.
    babeld.kill();
    println!("lost after {:?}", wait("the route goes away", || lab.here.route("fd01:2::/64").is_empty()));
    assert!(!lab.here.pings(node, host));
    let _babeld = Babeld::start(&lab.router, "wire", &["fd01:2::/64"]);
    wait("the route comes back", || lab.here.route("fd01:2::/64").contains("proto babel"));
    wait("the host reaches the node", || lab.host.pings(host, node));

    // The daemon dies, and comes back: what it left is cleaned up, and what it says is believed at once.
    lab.node.stop(false);
    assert!(lab.here.route("fd01:2::/64").contains("proto babel"), "a crash leaves it");
    let config = lab.config();
    lab.node.start(
        &lab.here,
        Config { babel: vec![BabelConfig { accept: Vec::new(), ..config.babel[0].clone() }], ..config },
    );
    assert_eq!(lab.here.route("fd01:2::/64"), "", "what is not accepted any more is not kept");
    lab.node.stop(true);
    println!(
        "taken back after {:?}",
        wait("babeld forgets the region", || {
            let route = lab.router.route(&region);
            route.is_empty() || route.contains("unreachable")
        })
    );
    let config = lab.config();
    lab.node.start(&lab.here, config);
    wait("the host reaches the node again", || lab.host.pings(host, node));
    lab.node.stop(true);
    assert_eq!(lab.here.route("fd01:2::/64"), "", "nothing stays behind");
}

/// Noise from a neighbour on the wire, from Babel's port and from others: the table of the node stays as it is.
fn garbage(lab: &Lab) {
    let intruder = Place::new("intruder");
    lab.here.block_on(async || {
        let links = Links::here().expect("netlink");
        links.ensure_veth("eth2", &intruder.0, "eth0").await.expect("a link");
        links.ensure_up("eth2").await.expect("up");
        Links::of(&intruder.0).expect("netlink").ensure_up("eth0").await.expect("up");
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
        wait("a link-local address", || !place.0.run(|| link_local_of(link)).expect("inside").is_empty());
        let index = place.0.run(|| atoll_os::tun::interface_index(link)).expect("inside").expect("it is there");
        let group = SocketAddrV6::new("ff02::1:6".parse().expect("an address"), 6696, 0, index);
        place
            .0
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
    wait("everything was read", || unread(&lab.here) == 0);
    let (host, node) = (HOST.parse().expect("an address"), lab.node.network().node());
    wait("the host still reaches the node", || lab.host.pings(host, node));
    wait("no problem is left", || lab.node.status(&lab.here).is_some_and(|status| status.problems.is_empty()));
    lab.here.block_on(async || Links::here().expect("netlink").remove("eth2").await.expect("removed"));
    assert_eq!(lab.here.route("fd01:9::/32"), "", "nothing of that is believed");
    assert_eq!(lab.here.route("fd01:2::/64").lines().count(), 1);
}

/// Bytes that wait at Babel's port.
fn unread(place: &Place) -> u64 {
    let text = place.0.run(|| fs::read_to_string("/proc/thread-self/net/udp6")).expect("inside").expect("it is there");
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
    lab.router.add_address("lan", &own.host(0x8001).to_string(), 113);
    lab.host.add_address("eth0", &guest.to_string(), 113);
    let mut babeld = Babeld::start(&lab.router, "wire", &[&behind, "fd01:2::/64"]);
    let far = lab.far.network();
    wait("babeld learns the way to the far node", || {
        lab.router.route(&format!("{}/112", far.network())).contains("proto babel")
    });
    wait("the node learns its half", || lab.here.route(&behind).contains("proto babel"));
    wait("the guest reaches the far node through the mesh", || lab.host.pings(guest, far.node()));
    wait("and the far node the guest", || lab.there.pings(far.node(), guest));
    assert_eq!(lab.here.route("fd01:2::/64"), "", "not accepted");
    let region = format!("{}/48", RegionPrefix::of(REGION).network());
    assert_eq!(lab.router.route(&region), "", "nodes are announced, the region is not");
    // Nothing unsigned gets into the mesh: the far node knows one network more than its own, and that is signed.
    let status = lab.there.block_on(async || UnixClient::new(lab.far.socket()).get::<MeshStatus>("/v1/status").await);
    let nodes: Vec<_> = status.expect("it answers").routes.iter().map(|route| route.node).collect();
    assert_eq!(nodes, [lab.node.secret.id()]);
    babeld.check();
}

#[test]
fn two_networks_behind_babeld_reach_each_other_through_the_node() {
    let here = Place::new("node");
    let (left_host, left) = network_behind(&here, "eth1", "fd01:2:");
    let (right_host, right) = network_behind(&here, "eth2", "fd01:3:");
    let mut node = Daemon::new(4);
    let babel = |interface: &str, announce| BabelConfig {
        interface: interface.to_owned(),
        announce,
        accept: vec!["fd01::/16".to_owned()],
    };
    let interfaces = vec![babel("eth1", Announce::Region), babel("eth2", Announce::None)];
    let config = node.config("eth1", interfaces);
    node.start(&here, config);
    let _left_babeld = Babeld::start(&left, "wire", &["fd01:2::/64"]);
    let right_babeld = Babeld::start(&right, "wire", &["fd01:3::/64"]);
    let (left_address, right_address) = (HOST.parse().expect("an address"), "fd01:3::2".parse().expect("an address"));
    wait("the left host reaches the right one", || left_host.pings(left_address, right_address));
    wait("and the right one the left one", || right_host.pings(right_address, left_address));
    let region = format!("{}/48", RegionPrefix::of(REGION).network());
    wait("the left router knows the region", || left.route(&region).contains("proto babel"));
    assert_eq!(right.route(&region), "", "the right one is not told of it");

    right_babeld.kill();
    // What was announced to others is unreachable for a while, and so it is told to them.
    wait("the node has no way any more", || here.route("fd01:3::/64").starts_with("unreachable"));
    wait("the left router neither", || !left.route("fd01:3::/64").contains("via"));
    let _right_babeld = Babeld::start(&right, "wire", &["fd01:3::/64"]);
    wait("the left host reaches the right one again", || left_host.pings(left_address, right_address));
    node.stop(true);
    assert_eq!((here.route("fd01:2::/64"), here.route("fd01:3::/64")), (String::new(), String::new()));
}

#[test]
fn a_port_that_is_taken_and_an_interface_that_is_not_there_are_told() {
    let place = Place::new("alone");
    let mut node = Daemon::new(3);
    let babel = BabelConfig { interface: "eth1".to_owned(), announce: Announce::Region, accept: Vec::new() };
    let config = node.config("eth0", vec![babel]);
    let taken = place.0.run(|| UdpSocket::bind(("::", 6696)).expect("free")).expect("inside");
    let error = place.block_on(async || atoll_mesh::run(config.clone(), core::future::pending()).await);
    let error = error.expect_err("it cannot start").to_string();
    assert!(error.contains("6696") && error.contains("other Babel router"), "{error}");
    drop(taken);
    node.start(&place, config);
    wait("it says what is missing", || {
        let problems = node.status(&place).expect("it answers").problems;
        problems.iter().any(|problem| problem.contains("babel: there is no interface 'eth1'"))
    });
}
