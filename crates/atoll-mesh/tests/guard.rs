//! The firewall of a node's own address, with real daemons between real namespaces. Needs root and `nft`.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use atoll_api::{UnixClient, mesh::MeshStatus};
use atoll_base::{MeshAddr, NodeSecret, RegionId};
use atoll_mesh::{Config, MeshError};
use atoll_os::{
    firewall::{Firewall, WorkloadRules},
    netns::NetNs,
};
use tokio::{runtime::Builder, sync::oneshot};

const REGION: RegionId = RegionId([0x5d; 32]);
const PORT: u16 = 4870;
/// How long the slowest machine may take for what takes two seconds on an idle one.
const PATIENCE: Duration = Duration::from_secs(20);
/// In what time a caller learns that it is refused; without an answer it would take two minutes.
const AT_ONCE: Duration = Duration::from_secs(1);

/// How a daemon ended; nothing after a crash.
type Ended = Option<Result<(), MeshError>>;

/// A namespace, and perhaps a daemon in it.
struct Place {
    namespace: NetNs,
    folder: tempfile::TempDir,
    secret: NodeSecret,
    daemon: Option<(oneshot::Sender<bool>, JoinHandle<Ended>)>,
}

impl Place {
    fn new(name: &str, seed: u8) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = NetNs::ensure(&format!("atoll-guard-{}-{number}-{name}", std::process::id()))
            .expect("a namespace (this test needs root)");
        let folder = tempfile::tempdir().expect("a folder");
        let secret = NodeSecret::from_seed([seed; 32]);
        fs::write(folder.path().join("identity.key"), secret.to_text()).expect("written");
        Self { namespace, folder, secret, daemon: None }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("mesh.sock")
    }

    fn address(&self) -> Ipv6Addr {
        MeshAddr::of(REGION, self.secret.id()).node()
    }

    /// What a program says that must succeed.
    fn command(&self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words);
        self.namespace.enter_on_spawn(&mut command).expect("inside");
        let output = command.output().expect("it starts");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn tables(&self) -> Vec<String> {
        self.command("nft list tables").lines().map(str::to_owned).collect()
    }

    fn block_on<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> T {
        let inside = || Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work());
        self.namespace.run(inside).expect("inside the namespace")
    }

    /// Starts a daemon, and waits until it answers.
    fn start(&mut self, peers: &[&str], open: &[&str]) {
        let config = Config {
            identity: self.folder.path().join("identity.key"),
            region: REGION,
            interface: "atoll0".to_owned(),
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)),
            peers: peers.iter().map(|peer| format!("udp://{peer}:{PORT}")).collect(),
            discovery: Vec::new(),
            members: None,
            socket: self.socket(),
            babel: Vec::new(),
            open: open.iter().map(|entry| (*entry).to_owned()).collect(),
            exit: None,
        };
        let (stop, stopped) = oneshot::channel::<bool>();
        let namespace = self.namespace.clone();
        let thread = std::thread::spawn(move || {
            let run = || {
                Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(async {
                    let (orderly, shutdown) = oneshot::channel::<()>();
                    let daemon = atoll_mesh::run(config, async {
                        let _ = shutdown.await;
                    });
                    tokio::pin!(daemon);
                    tokio::select! {
                        result = &mut daemon => return Some(result),
                        is_orderly = stopped => if is_orderly != Ok(true) {
                            return None;
                        },
                    }
                    orderly.send(()).expect("the daemon listens");
                    Some(daemon.await)
                })
            };
            namespace.run(run).expect("inside the namespace")
        });
        self.daemon = Some((stop, thread));
        wait("the daemon answers", || {
            self.block_on(async || UnixClient::new(self.socket()).get::<MeshStatus>("/v1/status").await.is_ok())
        });
    }

    /// Stops the daemon in good order, or as SIGKILL does.
    fn stop(&mut self, is_orderly: bool) {
        let (stop, thread) = self.daemon.take().expect("it was started");
        stop.send(is_orderly).expect("the daemon runs");
        match thread.join().expect("no panic") {
            Some(result) => result.expect("an orderly end"),
            None => assert!(!is_orderly),
        }
    }

    /// Listens on a TCP port of every address, and says one byte to whoever calls, until the test ends.
    fn serve(&self, port: u16) {
        let listener = self.namespace.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))).expect("inside");
        let listener = listener.expect("the port is free");
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.write_all(b"!");
            }
        });
    }

    /// Answers datagrams on a UDP port until the test ends.
    fn echo(&self, port: u16) {
        let socket = self.namespace.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))).expect("inside");
        let socket = socket.expect("the port is free");
        std::thread::spawn(move || {
            let mut buffer = [0; 128];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], from);
            }
        });
    }

    /// Calls a TCP port: the byte that comes back, or why not, and after which time that was known.
    fn call(&self, target: Ipv6Addr, port: u16) -> (std::io::Result<u8>, Duration) {
        let attempt = || {
            let start = Instant::now();
            let attempt = || {
                let mut stream = TcpStream::connect_timeout(&(target, port).into(), PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                let mut byte = [0];
                stream.read_exact(&mut byte)?;
                Ok(byte[0])
            };
            (attempt(), start.elapsed())
        };
        self.namespace.run(attempt).expect("inside")
    }

    fn is_answered(&self, target: Ipv6Addr, port: u16) -> bool {
        self.call(target, port).0.is_ok_and(|byte| byte == b'!')
    }

    fn is_refused_at_once(&self, target: Ipv6Addr, port: u16) -> bool {
        let (answer, after) = self.call(target, port);
        answer.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused) && after < AT_ONCE
    }

    /// Sends one datagram, and waits for it to come back or be refused.
    fn exchange(&self, target: Ipv6Addr, port: u16) -> Result<(), ErrorKind> {
        let exchange = || {
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
            socket.set_read_timeout(Some(AT_ONCE))?;
            socket.connect((target, port))?;
            socket.send(b"?")?;
            socket.recv(&mut [0; 8]).map(drop)
        };
        self.namespace.run(exchange).expect("inside").map_err(|error: std::io::Error| error.kind())
    }

    fn pings(&self, target: Ipv6Addr) -> bool {
        let mut command = Command::new("ping");
        command.args(["-6", "-c", "1", "-W", "2", &target.to_string()]);
        self.namespace.enter_on_spawn(&mut command).expect("inside");
        command.output().expect("this test needs ping").status.success()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.daemon.take() {
            let _ = stop.send(false);
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

const TABLE: &str = "table ip6 atoll-own-atoll0";

/// Two machines on one wire, without daemons.
fn wire() -> [Place; 2] {
    let [a, b] = [Place::new("a", 1), Place::new("b", 2)];
    a.command(&format!("ip link add eth type veth peer name eth netns {}", b.namespace.name()));
    for (place, address) in [(&a, "10.6.0.1/24"), (&b, "10.6.0.2/24")] {
        place.command(&format!("ip addr add {address} dev eth"));
        place.command("ip link set eth up");
    }
    [a, b]
}

#[test]
fn only_what_is_open_is_reached_over_the_mesh() {
    let [mut a, mut b] = wire();
    a.start(&[], &["all"]);
    assert_eq!(a.tables(), Vec::<String>::new(), "nothing is filtered where everything is open");
    b.start(&["10.6.0.1"], &["tcp/22", "udp/53", "tcp/8000-8100"]);
    assert_eq!(b.tables(), [TABLE]);
    wait("a ping comes back", || a.pings(b.address()));
    assert!(b.pings(a.address()));

    for port in [22, 23, 8100, 8101] {
        b.serve(port);
    }
    a.serve(22);
    assert!(a.is_answered(b.address(), 22));
    assert!(a.is_answered(b.address(), 8100));
    assert!(a.is_refused_at_once(b.address(), 23), "a port that is not open");
    assert!(a.is_refused_at_once(b.address(), 8101), "a port beside an open range");
    assert!(b.is_answered(a.address(), 22), "a connection that it makes itself");
    assert!(b.is_answered(b.address(), 23), "its own programs reach it by its address");
    let aside = "::ffff:10.6.0.2".parse().expect("an address");
    assert!(a.is_answered(aside, 23), "what does not come over the mesh is not filtered");

    for port in [53, 54] {
        b.echo(port);
    }
    a.echo(54);
    assert_eq!(a.exchange(b.address(), 53), Ok(()));
    assert_eq!(a.exchange(b.address(), 54), Err(ErrorKind::ConnectionRefused), "a port that is not open");
    assert_eq!(b.exchange(a.address(), 54), Ok(()), "an answer");

    b.stop(true);
    assert_eq!(b.tables(), Vec::<String>::new(), "nothing is left of it");
}

#[test]
fn a_crash_leaves_no_hole_and_nothing_for_ever() {
    let [mut a, mut b] = wire();
    a.start(&[], &["all"]);
    b.start(&["10.6.0.1"], &["tcp/22"]);
    b.serve(22);
    b.serve(23);
    wait("the open port answers", || a.is_answered(b.address(), 22));
    b.stop(false);
    assert_eq!(b.tables(), [TABLE], "a crash leaves the table");
    b.start(&["10.6.0.1"], &["tcp/23"]);
    assert_eq!(b.tables(), [TABLE]);
    wait("the port that is open now answers", || a.is_answered(b.address(), 23));
    assert!(a.is_refused_at_once(b.address(), 22), "the port that was open before");
    b.stop(false);
    b.start(&["10.6.0.1"], &["all"]);
    assert_eq!(b.tables(), Vec::<String>::new(), "the table of before is gone");
    wait("everything is open", || a.is_answered(b.address(), 22) && a.is_answered(b.address(), 23));
}

#[test]
fn the_tables_of_workloads_and_of_the_machine_do_not_mind_each_other() {
    const WORKLOAD_PORT: u16 = 8080;
    let [mut a, mut b] = wire();
    a.start(&[], &["all"]);
    let workload = Place::new("w", 3);
    let address = MeshAddr::of(REGION, b.secret.id()).host(7);
    b.command(&format!("ip link add atw7 type veth peer name eth0 netns {}", workload.namespace.name()));
    for line in
        ["ip link set atw7 up", "ip addr add fe80::1/64 dev atw7 nodad", "sysctl -qw net.ipv6.conf.all.forwarding=1"]
    {
        b.command(line);
    }
    b.command(&format!("ip route add {address}/128 dev atw7"));
    workload.command("ip link set eth0 up");
    workload.command(&format!("ip addr add {address}/128 dev eth0 nodad"));
    workload.command("ip route add default via fe80::1 dev eth0");
    workload.serve(WORKLOAD_PORT);
    workload.serve(WORKLOAD_PORT + 1);
    b.serve(WORKLOAD_PORT);
    let rules = Firewall {
        suffix: "test".into(),
        mesh_link: "atoll0".into(),
        node_ports: [WORKLOAD_PORT].into(),
        workloads: vec![WorkloadRules {
            host_link: "atw7".into(),
            address,
            peers: [].into(),
            open_ports: [WORKLOAD_PORT].into(),
            node_only_ports: [].into(),
        }],
    };
    let apply = |b: &Place| b.block_on(async || rules.apply().await.expect("applied"));
    let check = |b: &Place, order: &str| {
        wait("the workload's open port answers", || a.is_answered(address, WORKLOAD_PORT));
        assert!(a.is_refused_at_once(b.address(), WORKLOAD_PORT), "{order}: not open to the mesh");
        assert!(workload.is_answered(b.address(), WORKLOAD_PORT), "{order}: open to workloads");
        let refused = workload.call(a.address(), 9).0.expect_err("nobody listens").kind();
        assert_eq!(refused, ErrorKind::ConnectionRefused, "{order}: a workload calls over the mesh");
    };
    apply(&b);
    b.start(&["10.6.0.1"], &[]);
    check(&b, "the workloads' table first");
    apply(&b);
    check(&b, "the machine's table first");
    assert_eq!(b.tables().len(), 2, "{:?}", b.tables());
    b.stop(true);
    assert_eq!(b.tables(), ["table inet atoll_test"], "the other stays");
}
