//! What the test program does inside a container.

use std::{
    fs,
    io::Write,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use nix::{
    libc,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        signal::{SigHandler, Signal, signal},
        stat::{Mode, SFlag, makedev, mknod},
    },
};

pub(crate) fn main(behaviour: &str) -> ExitCode {
    match behaviour {
        "look" => look(),
        "reopen-stdout" => reopen_stdout(),
        "misbehave" => misbehave(),
        "end-on-term" => wait_for_term(true),
        "ignore-term" => wait_for_term(false),
        "eat-memory" => eat_memory(),
        "start-threads" => start_threads(),
        "spin" => loop {
            std::hint::spin_loop();
        },
        "serve" => serve(),
        "chatter" => (0..50_000).for_each(|number| println!("line {number}")),
        other => panic!("no such behaviour: {other}"),
    }
    if behaviour == "look" { ExitCode::from(3) } else { ExitCode::SUCCESS }
}

fn identify() {
    println!("uid {} gid {}", nix::unistd::getuid(), nix::unistd::getgid());
    for (name, value) in std::env::vars() {
        println!("{name}={value}");
    }
}

fn look() {
    println!("pid {}", std::process::id());
    identify();
    println!("cwd {}", std::env::current_dir().expect("a directory").display());
    println!("hostname {}", nix::unistd::gethostname().expect("a name").to_string_lossy());
    let links = fs::read_to_string("/proc/net/dev").expect("links");
    let names: Vec<&str> = links.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim()).collect();
    println!("links {}", names.join(" "));
    for file in ["/etc/resolv.conf", "/etc/hosts"] {
        print!("{}", fs::read_to_string(file).expect(file));
    }
    println!("note {}", fs::read_to_string("/data/note").unwrap_or_default());
    // Only one of the tests gives it a place for a reply.
    let _ = fs::write("/data/reply", "from inside");
    eprintln!("this is standard error");
}

fn reopen_stdout() {
    identify();
    let mut stdout = fs::OpenOptions::new().append(true).open("/dev/stdout").expect("open /dev/stdout");
    stdout.write_all(b"reopened\n").expect("write");
}

fn misbehave() {
    let report = |what: &str, succeeded: bool| println!("{what}: {}", if succeeded { "done" } else { "refused" });
    fs::create_dir_all("/tmp").expect("a directory");
    report("mount", mount(Some("tmpfs"), "/tmp", Some("tmpfs"), MsFlags::empty(), None::<&str>).is_ok());
    report("unshare", unshare(CloneFlags::CLONE_NEWUSER).is_ok());
    report("mknod", mknod("/tmp/disk", SFlag::S_IFBLK, Mode::S_IRWXU, makedev(254, 0)).is_ok());
    report("sysctl", fs::write("/proc/sys/kernel/panic", "1").is_ok());
    // SAFETY: SYSLOG_ACTION_READ_ALL (3) writes at most the given length into the buffer.
    let log = unsafe { libc::klogctl(3, [0; 64].as_mut_ptr(), 64) };
    report("kernel log", log >= 0);
}

fn serve() {
    let listener = std::net::TcpListener::bind(("::", 8080)).expect("listen");
    println!("ready");
    for connection in listener.incoming() {
        connection.expect("a connection").write_all(b"served").expect("write");
    }
}

static TERM: AtomicBool = AtomicBool::new(false);

extern "C" fn remember(_: libc::c_int) {
    TERM.store(true, Ordering::SeqCst);
}

fn wait_for_term(obey: bool) {
    // SAFETY: the handler only stores into an atomic, which is async-signal-safe.
    unsafe { signal(Signal::SIGTERM, SigHandler::Handler(remember)) }.expect("a handler");
    println!("ready");
    while !(obey && TERM.load(Ordering::SeqCst)) {
        std::thread::sleep(Duration::from_millis(10));
    }
    std::process::exit(7);
}

fn eat_memory() {
    let mut kept = Vec::new();
    for _ in 0..512 {
        // Written to, so that it is really there.
        kept.push(vec![1u8; 1 << 20]);
    }
    println!("ate {} MiB", kept.len());
}

fn start_threads() {
    let mut threads = 1;
    let wait = || std::thread::sleep(Duration::from_secs(30));
    while threads < 100 && std::thread::Builder::new().stack_size(64 * 1024).spawn(wait).is_ok() {
        threads += 1;
    }
    println!("threads {threads}");
    std::process::exit(0);
}
