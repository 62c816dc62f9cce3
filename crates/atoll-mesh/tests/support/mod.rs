//! What the labs share: namespaces, and the real daemon in them. Needs root.

// Each lab is a program of its own and uses a part of it.
#![allow(dead_code)]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv6Addr, SocketAddr, UdpSocket},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use atoll_api::{
    UnixClient,
    mesh::{MeshStatus, Reloaded},
};
use atoll_base::{MeshAddr, NodeSecret, RegionId};
use atoll_mesh::{Config, MeshError, TunMode};
use atoll_os::netns::NetNs;
use tokio::{runtime::Builder, sync::oneshot};

pub(crate) const REGION: RegionId = RegionId([0x5a; 32]);
/// UDP port of links.
pub(crate) const PORT: u16 = 4870;
pub(crate) const ECHO_PORT: u16 = 7;
/// How long the slowest machine may take for what takes some seconds on an idle one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A namespace, gone when dropped, and perhaps a daemon in it.
pub(crate) struct Place {
    pub(crate) namespace: NetNs,
    pub(crate) secret: NodeSecret,
    pub(crate) region: RegionId,
    folder: tempfile::TempDir,
    daemon: Option<Daemon>,
}

struct Daemon {
    stop: oneshot::Sender<How>,
    thread: JoinHandle<Option<Result<(), MeshError>>>,
}

/// How a daemon ends.
pub(crate) enum How {
    /// As SIGTERM does.
    Orderly,
    /// As SIGKILL does: nothing is cleaned up.
    Crash,
}

impl Place {
    /// The node's key follows from the seed.
    pub(crate) fn new(name: &str, seed: u8) -> Self {
        Self::in_region(name, seed, REGION)
    }

    /// The same for a node of some region.
    pub(crate) fn in_region(name: &str, seed: u8, region: RegionId) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = NetNs::ensure(&format!("atoll-mesh-{}-{number}-{name}", std::process::id()))
            .expect("a namespace (this test needs root)");
        let folder = tempfile::tempdir().expect("a folder");
        let secret = NodeSecret::from_seed([seed; 32]);
        let place = Self { namespace, secret, region, folder, daemon: None };
        fs::write(place.file("identity.key"), place.secret.to_text()).expect("written");
        fs::set_permissions(place.file("identity.key"), fs::Permissions::from_mode(0o600)).expect("changed");
        place
    }

    /// Path of a file of this place.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A daemon that calls nobody and looks for nobody.
    pub(crate) fn config(&self) -> Config {
        Config {
            identity: self.file("identity.key"),
            region: self.region,
            interface: "atoll0".to_owned(),
            tun: TunMode::Create,
            listen: SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)),
            peers: Vec::new(),
            discovery: Vec::new(),
            members: None,
            listen_tls: None,
            socket: self.socket(),
            babel: Vec::new(),
            open: vec!["all".to_owned()],
            exit: None,
            grant: None,
            regions: Vec::new(),
            metrics: None,
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.file("run/mesh.sock")
    }

    pub(crate) fn network(&self) -> MeshAddr {
        MeshAddr::of(self.region, self.secret.id())
    }

    pub(crate) fn address(&self) -> Ipv6Addr {
        self.network().node()
    }

    /// Runs `work` on a thread inside the namespace, with a runtime of its own.
    pub(crate) fn block_on<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> T {
        let inside = || Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work());
        self.namespace.run(inside).expect("inside the namespace")
    }

    /// A program that will run inside.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        self.namespace.enter_on_spawn(&mut command).expect("inside");
        command
    }

    /// Runs commands inside, one a line; all must succeed. What they say.
    pub(crate) fn run(&self, lines: &str) -> String {
        let mut said = String::new();
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let mut words = line.split_whitespace();
            let output = self.command(words.next().expect("a program")).args(words).output().expect("it starts");
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
            said += &String::from_utf8_lossy(&output.stdout);
        }
        said
    }

    /// Joins this place to another by a wire with IPv4 addresses.
    pub(crate) fn join(&self, link: &str, ip: &str, other: &Self, far_link: &str, far_ip: &str) {
        let far = other.namespace.name();
        self.run(&format!(
            "ip link add {link} type veth peer name {far_link} netns {far}
             ip addr add {ip}/24 dev {link}
             ip link set {link} up"
        ));
        other.run(&format!("ip addr add {far_ip}/24 dev {far_link}\nip link set {far_link} up"));
    }

    /// Starts the daemon, and waits until it answers.
    pub(crate) fn start(&mut self, config: Config) {
        self.start_with(config, None);
    }

    /// The same with a configuration file, which the daemon reads again when it is told to.
    pub(crate) fn start_from_file(&mut self, config: Config) {
        self.start_with(config, Some(self.file("mesh.toml")));
    }

    /// Writes that file, and lets the daemon read it; what it says.
    pub(crate) fn reload(&self, config: &Config) -> Result<Reloaded, String> {
        fs::write(self.file("mesh.toml"), toml::to_string(config).expect("it can be written")).expect("written");
        let asked = self.block_on(async || UnixClient::new(self.socket()).post("/v1/reload", &()).await);
        asked.map_err(|error| error.to_string())
    }

    fn start_with(&mut self, config: Config, file: Option<PathBuf>) {
        let (stop, stopped) = oneshot::channel();
        let namespace = self.namespace.clone();
        let thread = std::thread::spawn(move || {
            let run = || {
                let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(async {
                    let (orderly, shutdown) = oneshot::channel::<()>();
                    let shutdown = async {
                        let _ = shutdown.await;
                    };
                    let daemon = async {
                        match file {
                            Some(file) => atoll_mesh::run_file(config, &file, shutdown).await,
                            None => atoll_mesh::run(config, shutdown).await,
                        }
                    };
                    tokio::pin!(daemon);
                    tokio::select! {
                        result = &mut daemon => return Some(result),
                        how = stopped => if matches!(how, Ok(How::Crash) | Err(_)) {
                            return None;
                        },
                    }
                    orderly.send(()).expect("the daemon listens");
                    Some(daemon.await)
                })
            };
            namespace.run(run).expect("inside the namespace")
        });
        wait("the daemon answers", || thread.is_finished() || self.try_status().is_some());
        assert!(!thread.is_finished(), "the daemon ended at once: {:?}", thread.join());
        self.daemon = Some(Daemon { stop, thread });
    }

    /// Stops the daemon, which must still run.
    pub(crate) fn stop(&mut self, how: How) {
        let daemon = self.daemon.take().expect("it was started");
        let is_crash = matches!(how, How::Crash);
        assert!(daemon.stop.send(how).is_ok(), "the daemon died before: {:?}", daemon.thread.join());
        match daemon.thread.join().expect("no panic") {
            None => assert!(is_crash),
            Some(result) => result.expect("an orderly end"),
        }
        // Another lab of this process may just start a program, whose copy of what was open here lives until it runs.
        wait("its socket and its device are closed", || {
            let device = self.namespace.run(|| atoll_os::tun::interface_index("atoll0")).expect("inside");
            device.is_none() && UnixStream::connect(self.socket()).is_err()
        });
    }

    pub(crate) fn try_status(&self) -> Option<MeshStatus> {
        self.block_on(async || UnixClient::new(self.socket()).get("/v1/status").await.ok())
    }

    pub(crate) fn status(&self) -> MeshStatus {
        self.try_status().expect("the daemon answers")
    }

    /// A value of the daemon's metrics.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let mut stream = UnixStream::connect(self.socket()).expect("the daemon answers");
        let request = b"GET /metrics HTTP/1.1\r\nHost: mesh\r\nConnection: close\r\n\r\n";
        stream.write_all(request).expect("written");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("read");
        let value = text.lines().find_map(|line| line.strip_prefix(&format!("atoll_mesh_{name} ")));
        value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().expect("a number")
    }

    /// Exchanges echoes with another, one each 10 ms, while `during` runs; the longest time without any, and how many
    /// came back.
    pub(crate) fn talk(&self, other: &Self, duration: Duration, during: impl FnOnce() + Send) -> (Duration, u32) {
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

    /// Links on the way to another node.
    pub(crate) fn hops(&self, other: &Self) -> Option<u8> {
        self.status().routes.iter().find(|route| route.node == other.secret.id()).map(|route| route.hops)
    }

    /// Answers each datagram on the echo port until the test ends.
    pub(crate) fn echo(&self) {
        self.echo_at(ECHO_PORT);
    }

    /// The same on any port.
    pub(crate) fn echo_at(&self, port: u16) {
        let socket = self.namespace.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))).expect("inside");
        let socket = socket.expect("the port is free");
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], from);
            }
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            let _ = daemon.stop.send(How::Crash);
            let _ = daemon.thread.join();
        }
        if let Err(error) = NetNs::remove(self.namespace.name()) {
            eprintln!("{error}");
        }
    }
}

/// Makes `Place` in a lab that has more to do there: one of these, with methods of the lab's own.
#[allow(unused_macros)]
macro_rules! place_of_lab {
    () => {
        /// A place, and what only this lab does there.
        struct Place(support::Place);

        impl std::ops::Deref for Place {
            type Target = support::Place;

            fn deref(&self) -> &support::Place {
                &self.0
            }
        }
    };
}
#[allow(unused_imports)]
pub(crate) use place_of_lab;

/// Ends a thread also when the test fails.
pub(crate) struct Ends<'a>(pub(crate) &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What `work` says while `source` sends `target` some 100 Mbit/s in UDP, and listens to nobody.
pub(crate) fn beside_a_flood<T>(source: &Place, target: &Place, work: impl FnOnce() -> T) -> T {
    const DISCARD_PORT: u16 = 9;
    let open = |place: &Place, port| {
        place.namespace.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))).expect("inside").expect("free")
    };
    let (_sink, flood) = (open(target, DISCARD_PORT), open(source, 0));
    let (target, is_over) = (target.address(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                for _ in 0..10 {
                    let _ = flood.send_to(&[7; 1300], (target, DISCARD_PORT));
                }
                // The pace of the sender.
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let _end = Ends(&is_over);
        work()
    })
}

/// Waits until it is done; how long that took.
pub(crate) fn wait(what: &str, mut done: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    start.elapsed()
}
