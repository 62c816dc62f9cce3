//! Machines in namespaces that run the daemon as a program of its own. Needs root.
#![allow(dead_code)] // each laboratory uses a part of it

use std::{
    fs,
    net::Ipv6Addr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use atoll_api::{UnixClient, mesh::MeshStatus};
use atoll_base::{MeshAddr, NodeSecret, RegionId};
use atoll_os::{link::Links, netns::NetNs};
use tokio::runtime::Builder;

pub(crate) const REGION: RegionId = RegionId([0x3c; 32]);
pub(crate) const PORT: u16 = 4870;
/// How long the slowest machine may take for what takes two seconds on an idle one.
const PATIENCE: Duration = Duration::from_secs(30);

/// A machine.
pub(crate) struct Machine {
    pub(crate) namespace: NetNs,
    folder: tempfile::TempDir,
    pub(crate) secret: NodeSecret,
    daemon: Option<Child>,
}

impl Machine {
    pub(crate) fn new(name: &str, seed: u8) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = NetNs::ensure(&format!("atoll-look-{}-{number}-{name}", std::process::id()))
            .expect("a namespace (this test needs root)");
        let folder = tempfile::tempdir().expect("a folder");
        let secret = NodeSecret::from_seed([seed; 32]);
        let this = Self { namespace, folder, secret, daemon: None };
        fs::write(this.file("identity.key"), this.secret.to_text()).expect("written");
        fs::set_permissions(this.file("identity.key"), fs::Permissions::from_mode(0o600)).expect("changed");
        this
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn address(&self) -> Ipv6Addr {
        MeshAddr::of(REGION, self.secret.id()).node()
    }

    /// The text of a configuration; `more` is added at its end.
    pub(crate) fn config(&self, peers: &[&str], more: &str) -> String {
        let (identity, socket) = (self.file("identity.key"), self.file("run/mesh.sock"));
        format!(
            "identity = {identity:?}\nregion = \"{REGION}\"\ninterface = \"atoll0\"\nlisten = \"[::]:{PORT}\"\n\
             peers = {peers:?}\nsocket = {socket:?}\n{more}"
        )
    }

    /// Starts the daemon, and waits until it answers.
    pub(crate) fn start(&mut self, config: &str) {
        self.start_by(&[], config);
        wait("the daemon answers", || self.try_status().is_some());
    }

    /// Starts the daemon by another program, such as `setpriv`.
    pub(crate) fn start_by(&mut self, starter: &[&str], config: &str) {
        fs::write(self.file("mesh.toml"), config).expect("written");
        let mut command = self.command(starter);
        self.daemon = Some(command.spawn().expect("started"));
    }

    /// What the daemon says when it cannot start.
    pub(crate) fn fails(&self, starter: &[&str], config: &str) -> String {
        fs::write(self.file("mesh.toml"), config).expect("written");
        let mut child = self.command(starter).stderr(Stdio::piped()).spawn().expect("started");
        let begun = Instant::now();
        while child.try_wait().expect("asked").is_none() {
            if begun.elapsed() > PATIENCE {
                let _ = child.kill();
                panic!("it was to fail: {config}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let Output { status, stderr, .. } = child.wait_with_output().expect("read");
        assert!(!status.success());
        String::from_utf8(stderr).expect("text")
    }

    fn command(&self, starter: &[&str]) -> Command {
        let mut program = meshd();
        if !starter.is_empty() {
            // Others may not come to where it was built.
            fs::copy(&program, self.file("meshd")).expect("there is room");
            program = self.file("meshd");
        }
        let mut words = starter.iter().map(std::ffi::OsStr::new).chain([program.as_os_str()]);
        let mut command = Command::new(words.next().expect("at least one"));
        command.args(words).arg(self.file("mesh.toml")).stdin(Stdio::null());
        self.namespace.enter_on_spawn(&mut command).expect("the namespace is there");
        command
    }

    /// Runs a program inside.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        self.namespace.enter_on_spawn(&mut command).expect("the namespace is there");
        command.output().unwrap_or_else(|error| panic!("this test needs the program {program}: {error}"))
    }

    /// Whether a packet comes back.
    pub(crate) fn hears(&self, target: Ipv6Addr) -> bool {
        self.run("ping", &["-6", "-c1", "-W1", &target.to_string()]).status.success()
    }

    /// Process id of the daemon.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("it was started").id()
    }

    pub(crate) fn client(&self) -> UnixClient {
        UnixClient::new(self.file("run/mesh.sock"))
    }

    pub(crate) fn try_status(&self) -> Option<MeshStatus> {
        let client = self.client();
        block_on(async { client.get("/v1/status").await.ok() })
    }

    pub(crate) fn status(&self) -> MeshStatus {
        self.try_status().expect("the daemon answers")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        if let Err(error) = NetNs::remove(self.namespace.name()) {
            eprintln!("{error}");
        }
    }
}

/// The program, which cargo builds with the tests.
fn meshd() -> PathBuf {
    let own = std::env::current_exe().expect("known");
    let folder = own.parent().and_then(Path::parent).expect("target/PROFILE/deps");
    folder.join("examples/meshd")
}

pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

pub(crate) fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Joins two machines by a veth pair with IPv4 addresses.
pub(crate) fn join(a: &Machine, link_a: &str, ip_a: &str, b: &Machine, link_b: &str, ip_b: &str) {
    let work = || {
        block_on(async {
            let links = Links::here().expect("netlink");
            links.ensure_veth(link_a, &b.namespace, link_b).await.expect("a link");
            let far = Links::of(&b.namespace).expect("netlink");
            for (links, link, ip) in [(&links, link_a, ip_a), (&far, link_b, ip_b)] {
                links.ensure_address(link, ip.parse().expect("an address"), 24).await.expect("an address");
                links.ensure_up(link).await.expect("up");
            }
        });
    };
    a.namespace.run(work).expect("inside the namespace");
}

/// Machines in a line, each of which calls the next one. Their daemons do not run yet.
pub(crate) fn line(count: u8) -> Vec<Machine> {
    let machines: Vec<_> = (1..=count).map(|number| Machine::new(&format!("m{number}"), number)).collect();
    for (number, pair) in (1..).zip(machines.windows(2)) {
        let [near, far] = pair else { continue };
        let (near_ip, far_ip) = (format!("10.78.{number}.1"), format!("10.78.{number}.2"));
        join(near, "to-next", &near_ip, far, "to-last", &far_ip);
    }
    machines
}

/// Whom the machine with this index of such a line calls.
pub(crate) fn next_of(index: usize, count: usize) -> Vec<String> {
    if index + 1 < count { vec![format!("udp://10.78.{}.2:{PORT}", index + 1)] } else { Vec::new() }
}

/// Starts the daemons of a line; `more` is what is added to the configuration of each.
pub(crate) fn start(machines: &mut [Machine], more: impl Fn(usize) -> &'static str) {
    let count = machines.len();
    for (index, machine) in machines.iter_mut().enumerate() {
        let peers = next_of(index, count);
        let peers: Vec<_> = peers.iter().map(String::as_str).collect();
        let config = machine.config(&peers, more(index));
        machine.start(&config);
    }
    let far = machines[count - 1].secret.id();
    wait("the way is known", || machines[0].status().routes.iter().any(|route| route.node == far));
}
