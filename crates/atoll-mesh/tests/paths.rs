//! Real daemons behind real NATs, on the move, and with two links to one neighbour. Needs root, `ip` and `nft`.

use std::{
    fs,
    net::{Ipv6Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use atoll_api::{UnixClient, mesh::MeshStatus};
use atoll_base::{MeshAddr, NodeSecret, RegionId};
use atoll_mesh::Config;
use atoll_os::netns::NetNs;
use tokio::{runtime::Builder, sync::oneshot};

const REGION: RegionId = RegionId([0x5b; 32]);
const PORT: u16 = 4870;
const ECHO_PORT: u16 = 7;
/// How long the slowest machine may take for what takes two seconds on an idle one.
const PATIENCE: Duration = Duration::from_secs(20);

/// A namespace, and perhaps a daemon in it.
struct Place {
    namespace: NetNs,
    folder: tempfile::TempDir,
    secret: NodeSecret,
    daemon: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Place {
    fn new(name: &str, seed: u8) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = NetNs::ensure(&format!("atoll-paths-{}-{number}-{name}", std::process::id()))
            .expect("a namespace (this test needs root)");
        let folder = tempfile::tempdir().expect("a folder");
        let secret = NodeSecret::from_seed([seed; 32]);
        fs::write(folder.path().join("identity.key"), secret.to_text()).expect("written");
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(folder.path().join("identity.key"), private).expect("changed");
        Self { namespace, folder, secret, daemon: None }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("run/mesh.sock")
    }

    fn address(&self) -> Ipv6Addr {
        MeshAddr::of(REGION, self.secret.id()).node()
    }

    /// Runs commands inside, one a line.
    fn run(&self, lines: &str) {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let mut words = line.split_whitespace();
            let mut command = Command::new(words.next().expect("a program"));
            command.args(words);
            self.namespace.enter_on_spawn(&mut command).expect("inside");
            let output = command.output().expect("it starts");
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }

    fn forward(&self) {
        let write = || fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("written");
        self.namespace.run(write).expect("inside");
    }

    /// Joins this place to another by a wire with IPv4 addresses.
    fn join(&self, link: &str, ip: &str, other: &Self, far_link: &str, far_ip: &str) {
        let far = other.namespace.name();
        self.run(&format!(
            "ip link add {link} type veth peer name {far_link} netns {far}
             ip addr add {ip}/24 dev {link}
             ip link set {link} up"
        ));
        other.run(&format!("ip addr add {far_ip}/24 dev {far_link}\nip link set {far_link} up"));
    }

    fn start(&mut self, peers: &[&str]) {
        let config = Config {
            identity: self.folder.path().join("identity.key"),
            region: REGION,
            interface: "atoll0".to_owned(),
            tun: atoll_mesh::TunMode::Create,
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)),
            peers: peers.iter().map(|peer| format!("udp://{peer}:{PORT}")).collect(),
            discovery: Vec::new(),
            members: None,
            babel: Vec::new(),
            metrics: None,
            socket: self.socket(),
        };
        let (stop, stopped) = oneshot::channel();
        let namespace = self.namespace.clone();
        let thread = std::thread::spawn(move || {
            let run = || {
                let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
                let shutdown = async {
                    let _ = stopped.await;
                };
                runtime.block_on(atoll_mesh::run(config, shutdown)).expect("an orderly end");
            };
            namespace.run(run).expect("inside the namespace");
        });
        self.daemon = Some((stop, thread));
        wait("the daemon answers", || self.try_status().is_some());
        let socket = self.namespace.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, ECHO_PORT))).expect("inside");
        let socket = socket.expect("the port is free");
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], from);
            }
        });
    }

    fn get<T: Send>(&self, ask: impl AsyncFnOnce(UnixClient) -> T + Send) -> T {
        let ask = || {
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(ask(UnixClient::new(self.socket())))
        };
        self.namespace.run(ask).expect("inside the namespace")
    }

    fn try_status(&self) -> Option<MeshStatus> {
        self.get(async |client| client.get("/v1/status").await.ok())
    }

    fn status(&self) -> MeshStatus {
        self.try_status().expect("the daemon answers")
    }

    /// Links on the way to another.
    fn hops(&self, other: &Self) -> Option<u8> {
        self.status().routes.iter().find(|route| route.node == other.secret.id()).map(|route| route.hops)
    }

    /// Bytes that crossed the links of this node, both ways.
    fn link_bytes(&self) -> u64 {
        self.status().peers.iter().map(|peer| peer.rx_bytes + peer.tx_bytes).sum()
    }

    /// Exchanges echoes with another, one each 10 ms, while `during` runs; the longest time without any, and how many
    /// came back.
    fn talk(&self, other: &Self, duration: Duration, during: impl FnOnce() + Send) -> (Duration, u32) {
        let target = (other.address(), ECHO_PORT);
        let exchange = || {
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).expect("a socket");
            socket.set_read_timeout(Some(Duration::from_millis(10))).expect("set");
            let (start, mut last, mut longest, mut count) = (Instant::now(), Instant::now(), Duration::ZERO, 0);
            let mut buffer = [0; 2048];
            while start.elapsed() < duration {
                // While there is no route, the kernel says so.
                let _ = socket.send_to(&[7; 1000], target);
                let sent = Instant::now();
                while sent.elapsed() < Duration::from_millis(10) {
                    if socket.recv(&mut buffer).is_ok() {
                        count += 1;
                        longest = longest.max(last.elapsed());
                        last = Instant::now();
                    }
                }
            }
            (longest.max(last.elapsed()), count)
        };
        std::thread::scope(|scope| {
            let talking = scope.spawn(|| self.namespace.run(exchange).expect("inside"));
            during();
            talking.join().expect("no panic")
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.daemon.take() {
            let _ = stop.send(());
            let _ = thread.join();
        }
        if let Err(error) = NetNs::remove(self.namespace.name()) {
            eprintln!("{error}");
        }
    }
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Two nodes (1 and 2), each behind a NAT of its own (3 and 4), and a relay (0) that is also the router between them.
fn two_homes(drops: [bool; 2]) -> [Place; 5] {
    let mut places = [
        Place::new("relay", 10),
        Place::new("a", 11),
        Place::new("b", 12),
        Place::new("nat-a", 13),
        Place::new("nat-b", 14),
    ];
    {
        let [relay, a, b, nat_a, nat_b] = &places;
        relay.forward();
        let homes = [(a, nat_a, 1, drops[0]), (b, nat_b, 2, drops[1])];
        for (node, nat, number, drops) in homes {
            let wan = format!("to-{number}");
            let (here, there) = (format!("198.51.{number}.1"), format!("198.51.{number}.2"));
            relay.join(&wan, &here, nat, "wan", &there);
            nat.join("lan", &format!("10.{number}.0.1"), node, "eth", &format!("10.{number}.0.5"));
            nat.forward();
            nat.run(&format!(
                "ip route add default via {here}
                 nft add table ip nat
                 nft add chain ip nat post {{ type nat hook postrouting priority 100 ; }}
                 nft add rule ip nat post oifname wan masquerade
                 nft add chain ip nat in {{ type filter hook input priority 0 ; }}"
            ));
            if drops {
                nat.run("nft add rule ip nat in iifname wan ct state new drop");
            }
            node.run(&format!("ip route add default via 10.{number}.0.1"));
        }
    }
    let [relay, a, b, ..] = &mut places;
    relay.start(&[]);
    a.start(&["198.51.1.1"]);
    b.start(&["198.51.2.1"]);
    places
}

fn assert_direct_within_seconds(drops: [bool; 2]) {
    let places = two_homes(drops);
    let [relay, a, b, ..] = &places;
    wait("there is a way over the relay", || a.hops(b) == Some(2) && b.hops(a) == Some(2));
    let start = Instant::now();
    let mut direct = None;
    let (longest, count) = a.talk(b, Duration::from_secs(6), || {
        wait("there is a direct way", || a.hops(b) == Some(1) && b.hops(a) == Some(1));
        direct = Some(start.elapsed());
    });
    println!("NATs that drop: {drops:?}; direct after {direct:?}, {count} echoes, longest pause {longest:?}");
    assert!(count > 100 && longest < Duration::from_secs(1), "{count} echoes, {longest:?}");
    let link = a.status().peers.into_iter().find(|peer| peer.node == Some(b.secret.id())).expect("a link");
    assert_eq!((link.origin.as_str(), link.up), ("punched", true));
    // The relay carries nothing of it any more.
    let before = relay.link_bytes();
    let (longest, count) = a.talk(b, Duration::from_secs(2), || {});
    let relayed = relay.link_bytes() - before;
    println!("{count} echoes of 1000 bytes, longest pause {longest:?}; the relay's links carried {relayed} bytes");
    assert!(count > 40 && relayed < u64::from(count) * 100, "{count} echoes, {relayed} bytes");
}

#[test]
fn two_homes_whose_nats_drop_what_was_not_asked_for_find_a_direct_way() {
    assert_direct_within_seconds([true, true]);
}

#[test]
fn two_homes_of_which_one_drops_find_a_direct_way() {
    assert_direct_within_seconds([true, false]);
}

#[test]
fn two_homes_whose_nats_refuse_find_a_direct_way() {
    assert_direct_within_seconds([false, false]);
}

#[test]
fn a_node_whose_only_address_changes_goes_on() {
    let (mut a, mut b) = (Place::new("a", 21), Place::new("b", 22));
    a.join("eth", "10.9.0.1", &b, "eth", "10.9.0.2");
    b.start(&[]);
    a.start(&["10.9.0.2"]);
    wait("there is a way", || a.hops(&b) == Some(1));
    a.talk(&b, Duration::from_secs(1), || {});
    for number in 11..14 {
        let (old, new) = (if number == 11 { 1 } else { number - 1 }, number);
        let (longest, count) = a.talk(&b, Duration::from_secs(3), || {
            std::thread::sleep(Duration::from_secs(1));
            a.run(&format!("ip addr del 10.9.0.{old}/24 dev eth\nip addr add 10.9.0.{new}/24 dev eth"));
        });
        println!("after the address changed: longest pause {longest:?}, {count} echoes");
        assert!(longest < Duration::from_secs(1) && count > 60, "{longest:?}, {count} echoes");
        let links = b.status().peers;
        assert_eq!(links.len(), 1, "it is the link that it was");
        assert_eq!(links[0].endpoint, format!("10.9.0.{new}:{PORT}").parse().expect("an endpoint"));
    }
}

#[test]
fn two_links_to_one_neighbour_stand_ready() {
    let (mut a, mut b) = (Place::new("a", 31), Place::new("b", 32));
    a.join("one", "10.8.1.1", &b, "one", "10.8.1.2");
    a.join("two", "10.8.2.1", &b, "two", "10.8.2.2");
    b.start(&[]);
    a.start(&["10.8.1.2", "10.8.2.2"]);
    let up = |place: &Place| place.status().peers.iter().filter(|peer| peer.up).count();
    wait("both links are up at both ends", || up(&a) == 2 && up(&b) == 2);
    a.talk(&b, Duration::from_secs(1), || {});
    for link in ["one", "two", "one"] {
        let (longest, count) = a.talk(&b, Duration::from_secs(2), || {
            std::thread::sleep(Duration::from_secs(1));
            a.run(&format!("ip link set {link} down"));
        });
        println!("after link {link} was lost: longest pause {longest:?}, {count} echoes");
        assert!(longest < Duration::from_millis(600) && count > 40, "{longest:?}, {count} echoes");
        a.run(&format!("ip link set {link} up"));
        wait("both links are up again", || up(&a) == 2 && up(&b) == 2);
    }
}
