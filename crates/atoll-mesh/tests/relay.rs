//! Nodes without privileges: relays without a network interface, and nodes in a namespace of their own. Needs root, to
//! make the machines; the daemons that are tested run as somebody else.

mod process;

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::{PermissionsExt as _, chown},
};

use atoll_api::mesh::{Trace, TraceRequest};
use process::{Machine, block_on, line, next_of, wait};

/// The user that is nobody.
const NOBODY: u32 = 65_534;
const AS_NOBODY: [&str; 6] =
    ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--no-new-privs"];

/// Gives a machine's files to nobody.
fn give_away(machine: &Machine) {
    for file in ["", "identity.key"] {
        chown(machine.file(file), Some(NOBODY), Some(NOBODY)).expect("root");
    }
}

fn user_of(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    status.lines().filter(|line| line.starts_with("Uid:") || line.starts_with("CapEff:")).collect()
}

#[test]
fn a_relay_needs_no_privileges_and_no_interface() {
    let mut machines = line(3);
    for (index, machine) in machines.iter_mut().enumerate() {
        let peers = next_of(index, 3);
        let peers: Vec<_> = peers.iter().map(String::as_str).collect();
        if index == 1 {
            give_away(machine);
            let config = machine.config(&peers, "tun = \"none\"\nmetrics = \"127.0.0.1:9871\"\n");
            machine.start_by(&AS_NOBODY, &config);
            wait("the relay answers", || machine.try_status().is_some());
        } else {
            let config = machine.config(&peers, "");
            machine.start(&config);
        }
    }
    let [a, relay, c] = &machines[..] else { panic!("three") };
    assert_eq!(user_of(relay.pid()), "Uid:\t65534\t65534\t65534\t65534CapEff:\t0000000000000000");
    assert_eq!(relay.status().interface, "none");
    assert!(!relay.run("ip", &["link", "show", "atoll0"]).status.success(), "there is no interface");

    // It passes packets on between the two that have interfaces, and answers for itself.
    wait("a ping passes the relay", || a.hears(c.address()));
    wait("the relay answers a ping itself", || a.hears(relay.address()));
    assert!(c.hears(relay.address()));
    let large = a.run("ping", &["-6", "-c1", "-W2", "-s1300", &relay.address().to_string()]);
    assert!(large.status.success(), "{large:?}");
    // Whoever wants something else of it is told at once.
    let begun = std::time::Instant::now();
    let refused = a.namespace.run(|| TcpStream::connect((relay.address(), 80))).expect("inside");
    assert!(refused.is_err() && begun.elapsed().as_secs() < 5, "{refused:?}");
    let request = TraceRequest { address: c.address(), probes: 2, timeout_ms: 1000 };
    let trace: Trace = block_on(async { a.client().post("/v1/trace", &request).await }).expect("a trace");
    let nodes: Vec<_> = trace.hops.iter().filter_map(|hop| hop.nodes.first()?.node).collect();
    assert_eq!(nodes, [relay.secret.id(), c.secret.id()]);
    let request = TraceRequest { address: relay.address(), ..request };
    let trace: Trace = block_on(async { a.client().post("/v1/trace", &request).await }).expect("a trace");
    assert!(trace.reached && trace.hops.len() == 1, "{trace:?}");

    // Its numbers are there over TCP, and nothing else is.
    let get = |path: &str| {
        let mut stream = relay.namespace.run(|| TcpStream::connect("127.0.0.1:9871")).expect("inside").expect("open");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: mesh\r\nConnection: close\r\n\r\n").expect("written");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("read");
        text
    };
    let metrics = get("/metrics");
    assert!(metrics.starts_with("HTTP/1.1 200") && metrics.contains("atoll_mesh_relayed_total"), "{metrics}");
    for path in ["/v1/status", "/v1/trace", "/v1/capture", "/"] {
        assert!(get(path).starts_with("HTTP/1.1 404"), "{path}");
    }
}

#[test]
fn a_user_namespace_is_enough_for_an_interface() {
    let mut machine = Machine::new("user", 7);
    give_away(&machine);
    std::fs::set_permissions(machine.file(""), std::fs::Permissions::from_mode(0o700)).expect("root");
    let starter = [&AS_NOBODY[..4], &["unshare", "--user", "--map-root-user", "--net"]].concat();
    let config = machine.config(&[], "");
    machine.start_by(&starter, &config);
    wait("the daemon answers", || machine.try_status().is_some());
    let status = machine.status();
    assert_eq!((status.interface.as_str(), status.address), ("atoll0", machine.address()));
    // Seen from inside; from outside there is no such interface.
    let pid = machine.pid().to_string();
    let address = machine.address().to_string();
    let inside =
        machine.run("nsenter", &["--target", &pid, "--user", "--net", "ip", "-6", "address", "show", "atoll0"]);
    let text = String::from_utf8(inside.stdout).expect("text");
    assert!(text.contains(&address), "{text} {:?}", inside.stderr);
    assert!(!machine.run("ip", &["link", "show", "atoll0"]).status.success());
}

#[test]
fn who_may_not_make_an_interface_is_told_what_to_do() {
    let machine = Machine::new("plain", 8);
    give_away(&machine);
    let said = machine.fails(&AS_NOBODY, &machine.config(&[], ""));
    for word in ["not allowed", "'atoll0'", "CAP_NET_ADMIN", "tun = \"none\"", "unshare"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    // Without the device's file, as in many containers: an empty folder in its place, for this program only.
    let hide = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /dev/net && exec \"$0\" \"$@\""];
    let said = machine.fails(&hide, &machine.config(&[], ""));
    for word in ["/dev/net/tun does not exist", "modprobe tun", "tun = \"none\""] {
        assert!(said.contains(word), "{word}: {said}");
    }
}
