//! The firewall of a node's own address, with real daemons between real namespaces. Needs root and `nft`.

mod support;

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use atoll_base::MeshAddr;
use atoll_mesh::Config;
use atoll_os::firewall::{Firewall, WorkloadRules};
use support::{How, PATIENCE, PORT, REGION, wait};

/// In what time a caller learns that it is refused; without an answer it would take two minutes.
const AT_ONCE: Duration = Duration::from_secs(1);

support::place_of_lab!();

impl Place {
    fn new(name: &str, seed: u8) -> Self {
        Self(support::Place::new(name, seed))
    }

    fn tables(&self) -> Vec<String> {
        self.run("nft list tables").lines().map(str::to_owned).collect()
    }

    /// Starts a daemon, and waits until it answers.
    fn start(&mut self, peers: &[&str], open: &[&str]) {
        let config = Config {
            peers: peers.iter().map(|peer| format!("udp://{peer}:{PORT}")).collect(),
            open: open.iter().map(|entry| (*entry).to_owned()).collect(),
            ..self.config()
        };
        self.0.start(config);
    }

    fn stop(&mut self, how: How) {
        self.0.stop(how);
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
        let mut ping = self.command("ping");
        ping.args(["-6", "-c", "1", "-W", "2", &target.to_string()])
            .output()
            .expect("this test needs ping")
            .status
            .success()
    }
}

const TABLE: &str = "table ip6 atoll-own-atoll0";

/// Two machines on one wire, without daemons.
fn wire() -> [Place; 2] {
    let [a, b] = [Place::new("a", 1), Place::new("b", 2)];
    a.run(&format!("ip link add eth type veth peer name eth netns {}", b.namespace.name()));
    for (place, address) in [(&a, "10.6.0.1/24"), (&b, "10.6.0.2/24")] {
        place.run(&format!("ip addr add {address} dev eth"));
        place.run("ip link set eth up");
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
        b.echo_at(port);
    }
    a.echo_at(54);
    assert_eq!(a.exchange(b.address(), 53), Ok(()));
    assert_eq!(a.exchange(b.address(), 54), Err(ErrorKind::ConnectionRefused), "a port that is not open");
    assert_eq!(b.exchange(a.address(), 54), Ok(()), "an answer");

    b.stop(How::Orderly);
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
    b.stop(How::Crash);
    assert_eq!(b.tables(), [TABLE], "a crash leaves the table");
    b.start(&["10.6.0.1"], &["tcp/23"]);
    assert_eq!(b.tables(), [TABLE]);
    wait("the port that is open now answers", || a.is_answered(b.address(), 23));
    assert!(a.is_refused_at_once(b.address(), 22), "the port that was open before");
    b.stop(How::Crash);
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
    b.run(&format!("ip link add atw7 type veth peer name eth0 netns {}", workload.namespace.name()));
    for line in
        ["ip link set atw7 up", "ip addr add fe80::1/64 dev atw7 nodad", "sysctl -qw net.ipv6.conf.all.forwarding=1"]
    {
        b.run(line);
    }
    b.run(&format!("ip route add {address}/128 dev atw7"));
    workload.run("ip link set eth0 up");
    workload.run(&format!("ip addr add {address}/128 dev eth0 nodad"));
    workload.run("ip route add default via fe80::1 dev eth0");
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
    b.stop(How::Orderly);
    assert_eq!(b.tables(), ["table inet atoll_test"], "the other stays");
}
