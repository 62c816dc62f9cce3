//! Exits to a make-believe Internet, with real daemons between real namespaces. Needs root, `ip` and `nft`.

mod support;

use std::{
    io::{Read as _, Write as _},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use atoll_base::{MeshAddr, RegionPrefix};
use atoll_mesh::{Allow, AllowAll, Config, ExitConfig, ExitOffer};
use atoll_os::firewall::Firewall;
use support::{How, PATIENCE, PORT, REGION, wait};

const SERVICE: u16 = 80;
const DATAGRAMS: u16 = 9;
/// What a service says after the address of its caller.
const CONTENT_BYTES: usize = 4 << 20;
/// How long a call may take that is to fail.
const IN_VAIN: Duration = Duration::from_millis(1500);

/// A service of the Internet, and a router of it.
const SERVER: &str = "2001:db8:beef::1";
const ROUTER_AT_EXIT: &str = "2001:db8:2::1";

support::place_of_lab!();

fn address(text: &str) -> Ipv6Addr {
    text.parse().expect("an address")
}

impl Place {
    fn new(name: &str, seed: u8) -> Self {
        Self(support::Place::new(name, seed))
    }

    fn start(&mut self, peers: &[&str], open: &[&str], exit: Option<ExitConfig>) {
        let config = Config {
            peers: peers.iter().map(|peer| format!("udp://[{peer}]:{PORT}")).collect(),
            open: open.iter().map(|entry| (*entry).to_owned()).collect(),
            exit,
            ..self.config()
        };
        self.0.start(config);
    }

    fn stop(&mut self) {
        self.0.stop(How::Orderly);
    }

    fn reaches(&self, other: &Self) -> bool {
        self.hops(other).is_some()
    }

    /// Tells each caller of every address which one it came from, and much more, until the test ends.
    fn serve(&self) {
        let listener = self.namespace.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, SERVICE))).expect("inside");
        let listener = listener.expect("the port is free");
        std::thread::spawn(move || {
            while let Ok((mut stream, SocketAddr::V6(from))) = listener.accept() {
                let _ = stream.write_all(&from.ip().octets());
                let _ = stream.write_all(&content());
            }
        });
    }

    /// Whether a datagram gets here from an address of another place, in a second.
    fn hears(&self, from: Ipv6Addr, place: &Self) -> bool {
        let listen = || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, DATAGRAMS)).expect("the port is free");
        let socket = self.namespace.run(listen).expect("inside");
        socket.set_read_timeout(Some(Duration::from_secs(1))).expect("set");
        let send = || {
            let sender = UdpSocket::bind((from, 0)).expect("its address");
            sender.send_to(b"!", (self.address(), DATAGRAMS)).expect("sent");
        };
        place.namespace.run(send).expect("inside");
        socket.recv_from(&mut [0; 8]).is_ok_and(|(_, source)| source.ip() == from)
    }

    /// Under which address a service sees this machine; nothing if it does not answer.
    fn is_seen_as(&self, service: Ipv6Addr) -> Option<Ipv6Addr> {
        let call = || -> std::io::Result<Ipv6Addr> {
            let mut stream = TcpStream::connect_timeout(&(service, SERVICE).into(), IN_VAIN)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut seen = [0; 16];
            stream.read_exact(&mut seen)?;
            let mut received = Vec::new();
            stream.read_to_end(&mut received)?;
            assert!(received == content(), "the bytes came out as they went in");
            Ok(seen.into())
        };
        self.namespace.run(call).expect("inside").ok()
    }
}

fn content() -> Vec<u8> {
    (0..CONTENT_BYTES).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// The address of a machine of which the Internet knows.
fn native(number: usize) -> String {
    format!("2001:db8:{number}::2")
}

/// The Internet, and three machines with a native way into it each: a user, an exit and another.
fn internet() -> [Place; 4] {
    let places = [Place::new("net", 1), Place::new("user", 2), Place::new("exit", 3), Place::new("other", 4)];
    let [net, machines @ ..] = &places;
    net.run(&format!("sysctl -qw net.ipv6.conf.all.forwarding=1\nip addr add {SERVER}/128 dev lo"));
    net.serve();
    for (number, machine) in (1..).zip(machines) {
        let far = machine.namespace.name();
        net.run(&format!(
            "ip link add to-{number} type veth peer name eth netns {far}
             ip addr add 2001:db8:{number}::1/64 dev to-{number} nodad
             ip link set to-{number} up"
        ));
        machine.run(&format!(
            "ip addr add {}/64 dev eth nodad
             ip link set eth up
             ip route add default via 2001:db8:{number}::1",
            native(number)
        ));
    }
    places
}

fn offer(allow: Allow) -> Option<ExitConfig> {
    Some(ExitConfig::Offer(ExitOffer { allow, to: Vec::new() }))
}

#[test]
fn a_user_is_seen_as_its_exit_and_the_mesh_goes_on_below() {
    let [net, mut user, mut exit, mut other] = internet();
    let server = address(SERVER);
    let (own, shared) = (address(&native(1)), address(&native(2)));
    wait("the native way works", || user.is_seen_as(server) == Some(own));
    exit.start(&[], &["all"], offer(Allow::Nodes(vec![user.secret.id()])));
    // The exit is beyond the user's default route: the mesh's own datagrams must not go into the mesh.
    user.start(&[&native(2)], &["all"], Some(ExitConfig::Use(exit.secret.id())));
    wait("there is a way to the exit", || user.reaches(&exit));
    wait("the way out works", || user.is_seen_as(server) == Some(shared));
    assert_eq!(user.status().problems, Vec::<String>::new());

    // What is around the exit is its owner's; services of the user's own are reached and answer as ever.
    assert_eq!(user.is_seen_as(address(ROUTER_AT_EXIT)), None, "the exit's local network");
    exit.serve();
    assert_eq!(user.is_seen_as(shared), None, "the exit itself");
    assert_eq!(user.is_seen_as(exit.address()), Some(user.address()), "the mesh is not concerned");
    user.serve();
    net.run(&format!("ip route add {own}/128 dev to-1 src {SERVER}"));
    assert_eq!(net.is_seen_as(own), Some(server), "the user's own native address");
    let region = RegionPrefix::of(REGION).network();
    net.run(&format!("ip route add {region}/48 via {}", native(2)));
    assert_eq!(net.is_seen_as(user.address()), None, "nobody comes in by the exit");
    let borrowed = MeshAddr::of(REGION, exit.secret.id()).host(9);
    net.run(&format!("ip addr add {borrowed}/128 dev lo"));
    assert!(user.hears(exit.address(), &exit), "a datagram comes over the mesh");
    assert!(!user.hears(borrowed, &net), "nobody borrows an address of the exit's network from outside");
    assert_eq!(exit.is_seen_as(server), Some(shared), "the exit's own way");

    // Beside the table of workloads, which lets nothing out of the mesh to the uplink.
    let rules =
        Firewall { suffix: "test".into(), mesh_link: "atoll0".into(), node_ports: [].into(), workloads: Vec::new() };
    exit.block_on(async || rules.apply().await.expect("applied"));
    assert_eq!(user.is_seen_as(server), Some(shared), "beside the workloads' table");

    // Somebody else is not let out.
    other.start(&[&native(2)], &["all"], Some(ExitConfig::Use(exit.secret.id())));
    wait("there is a way to the exit", || other.reaches(&exit));
    assert_eq!(other.is_seen_as(server), None, "no guest of this exit");
    other.stop();
    assert_eq!(other.is_seen_as(server), Some(address(&native(3))), "the native way is back");

    exit.stop();
    assert_eq!(exit.run("nft list tables").trim(), "table inet atoll_test");
    wait("the user notices", || user.status().problems.iter().any(|problem| problem.starts_with("exit:")));
    assert_eq!(user.is_seen_as(server), None, "without its exit it does not go out by itself");
    user.stop();
    assert_eq!(user.is_seen_as(server), Some(own), "the native way is back");
    assert!(!user.run("ip -6 rule").contains("3000"), "{}", user.run("ip -6 rule"));
}

#[test]
fn an_exit_for_the_region_takes_everybody_to_where_its_owner_lets() {
    let [net, mut user, mut exit, mut other] = internet();
    const OTHER_SERVER: &str = "2001:db8:cafe::1";
    net.run(&format!("ip addr add {OTHER_SERVER}/128 dev lo"));
    let to = vec!["2001:db8:beef::/48".to_owned()];
    exit.start(&[], &["all"], Some(ExitConfig::Offer(ExitOffer { allow: Allow::All(AllowAll::Region), to })));
    let shared = Some(address(&native(2)));
    for place in [&mut user, &mut other] {
        place.start(&[&native(2)], &[], Some(ExitConfig::Use(exit.secret.id())));
        wait("the way out works", || place.is_seen_as(address(SERVER)) == shared);
        assert_eq!(place.is_seen_as(address(OTHER_SERVER)), None, "the owner did not name it");
    }
    // Started anew without an exit, it goes out by itself.
    user.stop();
    user.start(&[&native(2)], &[], None);
    assert_eq!(user.is_seen_as(address(OTHER_SERVER)), Some(address(&native(1))));
}
