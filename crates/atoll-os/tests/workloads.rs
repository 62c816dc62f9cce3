//! Containers under their shims, against the real kernel. Needs root.
//!
//! The program is three things: the test runner, the shim (`workloads shim DIR`), and what runs in the containers
//! (`/workload BEHAVIOUR`), for which its own file and libraries are copied into a root directory.

#![allow(unsafe_code)] // what the program does in a container needs raw system calls

#[path = "workloads/behaviour.rs"]
mod behaviour;
#[path = "workloads/runner.rs"]
mod runner;
mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use atoll_os::{
    cgroup::{Cgroup, Limits},
    limits::LOG_FILE_BYTES_MIN,
    log::LogReader,
    netns::NetNs,
    rootfs,
    shim::{ExitRecord, Running, Shim, Status},
    spec::{Bind, Engine, ProcessSpec, ShimSpec},
    vm::{self, Accelerator},
    workload::WorkloadNetwork,
};
use support::{Scratch, runtime, scratch_name};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.first().and_then(|first| first.to_str()) {
        Some("shim") => atoll_os::shim::main(arguments.into_iter().skip(1)),
        Some("guest-init") => atoll_os::guest::main(),
        Some("behave") => behaviour::main(arguments[1].to_str().expect("a behaviour")),
        _ => runner::run(
            &[
                ("a_container_sees_what_it_should", a_container_sees_what_it_should),
                ("a_user_of_the_image_may_write_to_standard_output", a_user_of_the_image_may_write_to_standard_output),
                ("a_container_may_not_touch_the_machine", a_container_may_not_touch_the_machine),
                ("what_cannot_be_started_says_why", what_cannot_be_started_says_why),
                ("a_stop_is_asked_for_first", a_stop_is_asked_for_first),
                ("who_does_not_stop_is_killed", who_does_not_stop_is_killed),
                ("memory_is_limited_and_the_record_says_so", memory_is_limited_and_the_record_says_so),
                ("processes_are_limited", processes_are_limited),
                ("processor_time_is_limited", processor_time_is_limited),
                ("a_log_stays_bounded", a_log_stays_bounded),
                ("a_new_daemon_finds_the_workload_again", a_new_daemon_finds_the_workload_again),
                ("a_killed_shim_leaves_nothing_running", a_killed_shim_leaves_nothing_running),
                ("a_guest_sees_what_it_should", a_guest_sees_what_it_should),
                ("a_guest_is_a_host_of_the_mesh", a_guest_is_a_host_of_the_mesh),
                ("a_guests_memory_is_limited", a_guests_memory_is_limited),
                ("a_killed_shim_takes_its_guest_along", a_killed_shim_takes_its_guest_along),
            ],
            &arguments,
        ),
    }
}

/// A directory, a network namespace and a shim, all gone at the end.
struct World {
    dir: tempfile::TempDir,
    network: Scratch,
    shim: Shim,
    name: String,
}

impl World {
    fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let shim = Shim::at(dir.path().join("shim"));
        Self { network: Scratch::new(name), shim, name: scratch_name(name), dir }
    }

    fn spec(&self, behaviour: &str) -> ShimSpec {
        let root = rootfs::prepare(image(), &self.dir.path().join("rootfs")).expect("a root directory");
        ShimSpec {
            name: self.name.clone(),
            engine: Engine::Container { root: root.path, binds: vec![] },
            process: ProcessSpec {
                args: vec!["workload".into(), "behave".into(), behaviour.into()],
                env: vec![("PATH".into(), "/bin".into()), ("GREETING".into(), "hello = world".into())],
                working_dir: "/srv/new".into(),
                user: None,
            },
            hostname: "box".into(),
            network_namespace: self.network.0.name().into(),
            dns: vec!["fd00::53".parse().expect("an address")],
            dns_search: vec!["home".into()],
            hosts: vec![("fd00::db".parse().expect("an address"), "db".into())],
            limits: Limits { cpu_milli: 2000, memory_bytes: 256 << 20, pids_max: 64 },
            stop_grace_ms: 10_000,
            log_file_bytes: 1 << 20,
        }
    }

    /// Starts it and waits for its end.
    fn run(&self, spec: &ShimSpec) -> ExitRecord {
        self.shim.start(spec).expect("start");
        self.record()
    }

    fn record(&self) -> ExitRecord {
        let ended = runtime().block_on(async {
            tokio::time::timeout(Duration::from_secs(60), self.shim.ended()).await.expect("it ends within a minute")
        });
        match ended.expect("status") {
            Status::Exited(record) => record,
            other => panic!("{other:?}, shim says: {}", self.shim_log()),
        }
    }

    fn running(&self) -> Running {
        match self.shim.status().expect("status") {
            Status::Running(running) => running,
            other => panic!("{other:?}, shim says: {}, log: {:?}", self.shim_log(), self.log()),
        }
    }

    fn log(&self) -> Vec<String> {
        LogReader::open(self.shim.dir(), 10_000).expect("its log").1
    }

    /// The text of its log without times.
    fn printed(&self) -> String {
        self.log().iter().filter_map(|line| Some(format!("{}\n", line.split_once(' ')?.1))).collect()
    }

    /// Waits until it has printed a line with this text.
    fn wait_for(&self, text: &str) {
        let patience = Instant::now() + Duration::from_secs(20);
        while !self.printed().contains(text) {
            assert!(Instant::now() < patience, "never printed '{text}', but: {}", self.printed());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn kill_shim(&self) {
        let file = fs::read(self.shim.dir().join("shim.json")).expect("its identity");
        let shim: serde_json::Value = serde_json::from_slice(&file).expect("JSON");
        let pid = nix::unistd::Pid::from_raw(shim["pid"].as_i64().expect("a number") as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("kill the shim");
    }

    fn shim_log(&self) -> String {
        fs::read_to_string(self.shim.dir().join("shim.log")).unwrap_or_default()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shim.remove().expect("remove the shim");
        rootfs::remove(&self.dir.path().join("rootfs")).expect("remove the root directory");
        assert_eq!(Cgroup::of(&self.name).expect("cgroups").pids(), [0; 0]);
    }
}

/// The image: this program, what it is linked to, and two users.
fn image() -> &'static Path {
    static IMAGE: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
    IMAGE
        .get_or_init(|| {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let copy = |from: &Path, to: PathBuf| {
                fs::create_dir_all(to.parent().expect("a parent")).expect("directories");
                fs::copy(from, &to).unwrap_or_else(|e| panic!("copy {}: {e}", from.display()));
                fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).expect("a mode");
            };
            copy(Path::new("/proc/self/exe"), dir.path().join("bin/workload"));
            let maps = fs::read_to_string("/proc/self/maps").expect("maps");
            let libraries =
                maps.lines().filter_map(|line| line.split_whitespace().nth(5)).filter(|path| path.contains(".so"));
            for library in libraries {
                copy(Path::new(library), dir.path().join(library.trim_start_matches('/')));
                // Where the program's header says the linker is, and where the linker looks.
                let name = Path::new(library).file_name().expect("a name");
                copy(Path::new(library), dir.path().join("lib64").join(name));
            }
            fs::create_dir_all(dir.path().join("etc")).expect("directories");
            fs::write(dir.path().join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:101:102::/srv/web:/bin/sh\n")
                .expect("passwd");
            fs::write(dir.path().join("etc/group"), "root:x:0:\nweb:x:102:\n").expect("group");
            fs::write(dir.path().join("etc/not-a-program"), "text").expect("a file");
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
            dir
        })
        .path()
}

fn a_container_sees_what_it_should() {
    let world = World::new("sees");
    let shared = world.dir.path().join("shared");
    fs::create_dir(&shared).expect("a directory");
    fs::write(shared.join("note"), "from outside").expect("a file");
    let mut spec = world.spec("look");
    spec.engine = match spec.engine {
        Engine::Container { root, .. } => {
            let bind = Bind { source: shared.clone(), target: "/data".into(), writable: true };
            Engine::Container { root, binds: vec![bind] }
        }
        other @ Engine::MicroVm { .. } => other,
    };
    let record = world.run(&spec);
    let printed = world.printed();
    assert_eq!((record.code, record.signal, record.stopped), (Some(3), None, false), "{printed}");
    for expected in [
        "out pid 1\n",
        "out uid 0 gid 0\n",
        "out cwd /srv/new\n",
        "out hostname box\n",
        "out GREETING=hello = world\n",
        "out HOSTNAME=box\n",
        "out HOME=/root\n",
        "out links lo\n",
        "out note from outside\n",
        "err this is standard error\n",
    ] {
        assert!(printed.contains(expected), "no '{expected}' in:\n{printed}");
    }
    assert!(printed.contains("nameserver fd00::53") && printed.contains("fd00::db db"), "{printed}");
    assert!(!printed.contains("CARGO"), "the environment is its own:\n{printed}");
    assert_eq!(fs::read_to_string(shared.join("reply")).expect("the reply"), "from inside");
}

fn a_user_of_the_image_may_write_to_standard_output() {
    let world = World::new("user");
    let mut spec = world.spec("reopen-stdout");
    spec.process.user = Some("web".into());
    let record = world.run(&spec);
    assert_eq!(record.code, Some(0), "{}", world.printed());
    assert!(world.printed().contains("out uid 101 gid 102\n"), "{}", world.printed());
    assert!(world.printed().contains("out reopened\n"), "{}", world.printed());
    assert!(world.printed().contains("out HOME=/srv/web\n"), "{}", world.printed());
}

fn a_container_may_not_touch_the_machine() {
    let world = World::new("touch");
    let record = world.run(&world.spec("misbehave"));
    assert_eq!(record.code, Some(0), "{}", world.printed());
    for what in ["mount", "unshare", "mknod", "sysctl", "kernel log"] {
        assert!(world.printed().contains(&format!("out {what}: refused\n")), "{what}:\n{}", world.printed());
    }
}

fn what_cannot_be_started_says_why() {
    let world = World::new("why");
    let attempt = |program: &str, user: Option<&str>| {
        let mut spec = world.spec("look");
        spec.process.args[0] = program.into();
        spec.process.user = user.map(str::to_owned);
        world.run(&spec).error.unwrap_or_else(|| panic!("{program} was started: {}", world.printed()))
    };
    let absent = attempt("absent", None);
    assert!(absent.contains("the image has no program 'absent' in /bin"), "{absent}");
    let text = attempt("/etc/not-a-program", None);
    assert!(text.contains("/etc/not-a-program is not an executable file"), "{text}");
    let nobody = attempt("workload", Some("nobody"));
    assert!(nobody.contains("no 'nobody'"), "{nobody}");
    assert!(world.printed().contains("--- could not be started:"), "{}", world.printed());
    assert_eq!(world.run(&world.spec("look")).code, Some(3), "and then it can");
}

fn a_stop_is_asked_for_first() {
    let world = World::new("ask");
    world.shim.start(&world.spec("end-on-term")).expect("start");
    world.wait_for("ready");
    assert!(world.shim.stop().expect("stop"));
    let record = world.record();
    assert_eq!((record.code, record.stopped), (Some(7), true), "{}", world.printed());
}

fn who_does_not_stop_is_killed() {
    let world = World::new("deaf");
    let spec = ShimSpec { stop_grace_ms: 300, ..world.spec("ignore-term") };
    world.shim.start(&spec).expect("start");
    world.wait_for("ready");
    let asked = Instant::now();
    world.shim.stop().expect("stop");
    let record = world.record();
    assert_eq!((record.signal, record.stopped), (Some(9), true));
    assert!(asked.elapsed() >= Duration::from_millis(300), "it had its grace");

    world.shim.start(&world.spec("ignore-term")).expect("start again");
    world.wait_for("ready");
    let asked = Instant::now();
    world.shim.kill().expect("kill");
    assert_eq!(world.record().signal, Some(9));
    assert!(asked.elapsed() < Duration::from_secs(9), "without its grace of ten seconds");
}

fn memory_is_limited_and_the_record_says_so() {
    let world = World::new("memory");
    let mut spec = world.spec("eat-memory");
    spec.limits.memory_bytes = 64 << 20;
    let record = world.run(&spec);
    assert_eq!(record.signal, Some(9), "{record:?} {}", world.printed());
    assert!(record.oom_kills >= 1 && record.why().contains("memory limit"), "{record:?}");
}

fn processes_are_limited() {
    let world = World::new("pids");
    let mut spec = world.spec("start-threads");
    spec.limits.pids_max = 20;
    let record = world.run(&spec);
    assert_eq!(record.code, Some(0), "{}", world.printed());
    assert!(world.printed().contains("out threads 20\n"), "{}", world.printed());
}

fn processor_time_is_limited() {
    let world = World::new("cpu");
    let mut spec = world.spec("spin");
    spec.limits.cpu_milli = 200;
    world.shim.start(&spec).expect("start");
    let begin = (Instant::now(), world.shim.usage().expect("usage").cpu_us);
    std::thread::sleep(Duration::from_secs(2));
    let used_us = world.shim.usage().expect("usage").cpu_us - begin.1;
    let share = used_us as f64 / begin.0.elapsed().as_micros() as f64;
    assert!(share > 0.01 && share < 0.3, "a fifth of a core was allowed, {share:.2} was used");
}

fn a_log_stays_bounded() {
    let world = World::new("log");
    let spec = ShimSpec { log_file_bytes: LOG_FILE_BYTES_MIN, ..world.spec("chatter") };
    assert_eq!(world.run(&spec).code, Some(0));
    for name in ["output.log", "output.log.1"] {
        let size = fs::metadata(world.shim.dir().join(name)).expect(name).len();
        assert!(size > 0 && size <= LOG_FILE_BYTES_MIN, "{name} has {size} bytes");
    }
    assert!(world.log().last().expect("a line").ends_with("out line 49999"), "{:?}", world.log().last());
}

fn a_new_daemon_finds_the_workload_again() {
    let world = World::new("adopt");
    let spec = world.spec("end-on-term");
    world.shim.start(&spec).expect("start");
    let before = world.running();
    let usage = world.shim.usage().expect("usage");
    assert!(usage.pids >= 1 && usage.memory_bytes > 0, "{usage:?}");
    // A daemon knows nothing but the directory.
    let adopted = Shim::at(world.shim.dir());
    assert_eq!(adopted.status().expect("status"), Status::Running(before.clone()));
    assert_eq!(adopted.spec().expect("spec"), Some(spec.clone()));
    adopted.start(&spec).expect("starting what runs changes nothing");
    assert_eq!(world.running(), before);
    world.wait_for("ready");
    adopted.stop().expect("stop");
    assert_eq!(world.record().code, Some(7));
}

fn a_killed_shim_leaves_nothing_running() {
    let world = World::new("killed");
    let spec = world.spec("ignore-term");
    world.shim.start(&spec).expect("start");
    world.wait_for("ready");
    let workload = world.running().process;
    world.kill_shim();
    let ended = runtime().block_on(async {
        let both = async { (world.shim.ended().await, workload.gone().await) };
        tokio::time::timeout(Duration::from_secs(10), both).await.expect("both end")
    });
    assert_eq!(ended.0.expect("status"), Status::Lost);
    assert!(!workload.is_alive(), "the kernel killed it with its shim");
    world.shim.start(&spec).expect("start again");
    assert_ne!(world.running().process, workload);
}

/// A workload's network as a node makes it, for a guest.
struct GuestNetwork {
    node: Scratch,
    network: WorkloadNetwork,
}

impl GuestNetwork {
    fn new(name: &str) -> Self {
        let node = Scratch::new(&format!("{name}-node"));
        let network = WorkloadNetwork {
            namespace: scratch_name(&format!("{name}-guest")),
            host_link: "atguest".into(),
            address: "fd00:1::2".parse().expect("an address"),
            mtu: 1300,
            micro_vm: true,
        };
        node.block_on(async || {
            for _twice in 0..2 {
                network.ensure().await.expect("a network");
            }
            let links = atoll_os::link::Links::here().expect("netlink");
            links.ensure_address("lo", "fd00:1::1".parse().expect("an address"), 128).await.expect("an address");
        });
        Self { node, network }
    }
}

impl Drop for GuestNetwork {
    fn drop(&mut self) {
        NetNs::remove(&self.network.namespace).expect("remove the namespace");
    }
}

impl World {
    fn guest_spec(&self, network: &GuestNetwork, behaviour: &str) -> ShimSpec {
        let disk = self.dir.path().join("disk.ext4");
        vm::ensure_disk(image(), &disk, 256 << 20).expect("a disk");
        vm::ensure_disk(image(), &disk, 256 << 20).expect("the same disk");
        let engine =
            Engine::MicroVm { disk, address: network.network.address, mtu: 1300, accelerator: Accelerator::Tcg };
        let limits = Limits { cpu_milli: 2000, memory_bytes: 128 << 20, pids_max: 64 };
        let network_namespace = network.network.namespace.clone();
        ShimSpec { engine, limits, network_namespace, ..self.spec(behaviour) }
    }
}

fn a_guest_sees_what_it_should() {
    let network = GuestNetwork::new("vm-sees");
    let world = World::new("vm-sees");
    let mut spec = world.guest_spec(&network, "look");
    let begin = Instant::now();
    let record = world.run(&spec);
    let printed = world.printed();
    println!("a guest ran from start to end in {:.1} s", begin.elapsed().as_secs_f64());
    assert_eq!((record.code, record.error.clone()), (Some(3), None), "{record:?} {printed}");
    for expected in [
        "out uid 0 gid 0\n",
        "out cwd /srv/new\n",
        "out hostname box\n",
        "out GREETING=hello = world\n",
        "out HOME=/root\n",
        "out fd00:1::2 box\n",
        "out nameserver fd00::53\n",
        "err this is standard error\n",
    ] {
        assert!(printed.contains(expected), "no '{expected}' in:\n{printed}");
    }
    spec.process.args[0] = "absent".into();
    let error = world.run(&spec).error.expect("it cannot be started");
    assert!(error.contains("the image has no program 'absent'"), "{error}");
}

fn a_guest_is_a_host_of_the_mesh() {
    let network = GuestNetwork::new("vm-host");
    let world = World::new("vm-host");
    let spec = ShimSpec { stop_grace_ms: 60_000, ..world.guest_spec(&network, "serve") };
    world.shim.start(&spec).expect("start");
    world.wait_for("ready");
    let target = std::net::SocketAddr::new(network.network.address.into(), 8080);
    let answer = network.node.0.run(|| {
        let mut stream = std::net::TcpStream::connect_timeout(&target, Duration::from_secs(5)).expect("connect");
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).expect("read");
        answer
    });
    assert_eq!(answer.expect("enter"), "served");
    let usage = world.shim.usage().expect("usage");
    assert!(usage.memory_bytes > 64 << 20, "{usage:?}");
    assert!(world.shim.stop().expect("stop"));
    let record = world.record();
    assert_eq!((record.signal, record.stopped), (Some(15), true), "{record:?} {}", world.printed());
}

fn a_guests_memory_is_limited() {
    let network = GuestNetwork::new("vm-memory");
    let world = World::new("vm-memory");
    let record = world.run(&world.guest_spec(&network, "eat-memory"));
    assert_eq!(record.signal, Some(9), "{record:?} {}", world.printed());
    assert!(record.oom_kills >= 1, "{record:?}");
}

fn a_killed_shim_takes_its_guest_along() {
    let network = GuestNetwork::new("vm-killed");
    let world = World::new("vm-killed");
    let spec = world.guest_spec(&network, "serve");
    world.shim.start(&spec).expect("start");
    let hypervisor = world.running().process;
    world.kill_shim();
    let gone = async { tokio::time::timeout(Duration::from_secs(10), hypervisor.gone()).await };
    runtime().block_on(gone).expect("it ends").expect("its end is seen");
    assert_eq!(world.shim.status().expect("status"), Status::Lost);
}
