//! IPv4 over an exit, with real daemons between real namespaces. Needs root, `ip`, `nft` and `ping`.

mod support;

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use atoll_base::NodeId;
use atoll_mesh::{Allow, AllowAll, Config, ExitConfig, ExitOffer};
use atoll_mesh_core::{exit::pool_of, translate::embed};
use support::{ECHO_PORT, How, PATIENCE, PORT, wait};

const SERVICE: u16 = 80;
const CLOSED: u16 = 81;
const DATAGRAMS: u16 = 9;
const CONTENT_BYTES: usize = 8 << 20;
/// How long a call may take that is to fail.
const IN_VAIN: Duration = Duration::from_millis(1500);

/// A server that has IPv4 only, under three addresses: one of them private.
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const OTHER_SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const PRIVATE_SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);
/// The router between that and the exit.
const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const EXIT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
/// What the link to the server carries: less than any IPv6 link.
const NARROW_MTU: u32 = 1200;

support::place_of_lab!();

fn content() -> Vec<u8> {
    (0..CONTENT_BYTES).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

impl Place {
    fn new(name: &str, seed: u8) -> Self {
        Self(support::Place::new(name, seed))
    }

    fn start(&mut self, peers: &[&str], exit: ExitConfig) {
        let peers = peers.iter().map(|peer| format!("udp://[{peer}]:{PORT}")).collect();
        let config = Config { peers, exit: Some(exit), ..self.config() };
        self.0.start(config);
    }

    /// Takes what each caller sends, tells it which address it came from, and sends the same back.
    fn serve(&self) {
        let listener = self.namespace.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, SERVICE))).expect("inside");
        let listener = listener.expect("the port is free");
        std::thread::spawn(move || {
            while let Ok((mut stream, SocketAddr::V4(from))) = listener.accept() {
                let mut received = Vec::new();
                let _ = stream.read_to_end(&mut received);
                let _ = stream.write_all(&from.ip().octets());
                let _ = stream.write_all(&received);
            }
        });
    }

    /// Under which address a service sees this machine, after much went to it and came back; why not, if not.
    fn is_seen_as(&self, service: impl Into<IpAddr>) -> Result<Ipv4Addr, ErrorKind> {
        let service = service.into();
        let call = || -> std::io::Result<Ipv4Addr> {
            let mut stream = TcpStream::connect_timeout(&(service, SERVICE).into(), IN_VAIN)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.write_all(&content())?;
            stream.shutdown(Shutdown::Write)?;
            let mut seen = [0; 4];
            stream.read_exact(&mut seen)?;
            let mut received = Vec::new();
            stream.read_to_end(&mut received)?;
            assert!(received == content(), "the bytes came back as they went out");
            Ok(seen.into())
        };
        self.namespace.run(call).expect("inside").map_err(|error| error.kind())
    }

    /// What a datagram to a port of a server gets: its bytes, or an error.
    fn asks(&self, server: Ipv6Addr, port: u16, bytes: usize) -> Result<usize, ErrorKind> {
        let ask = || -> std::io::Result<usize> {
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
            socket.connect((server, port))?;
            socket.set_read_timeout(Some(IN_VAIN))?;
            socket.send(&vec![7; bytes])?;
            let mut buffer = [0; 2048];
            let length = socket.recv(&mut buffer)?;
            assert!(buffer[..length].iter().all(|byte| *byte == 7));
            Ok(length)
        };
        self.namespace.run(ask).expect("inside").map_err(|error| error.kind())
    }

    /// How many packets each rule of an exit for IPv4 dropped.
    fn drops(&self) -> Vec<u64> {
        let rules = self.run("nft list table ip atoll-exit-atoll0");
        let counts = rules.split("counter packets ").skip(1).map(|rest| rest.split(' ').next().unwrap_or_default());
        counts.map(|count| count.parse().expect("a number")).collect()
    }

    /// What `ping` says of one echo request with this hop limit.
    fn ping(&self, target: Ipv6Addr, hops: u8) -> String {
        let arguments = ["-6", "-n", "-c1", "-W5", "-t", &hops.to_string(), &target.to_string()];
        let output = self.command("ping").args(arguments).output().expect("it starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// A user with IPv6 only, an exit with both, the router between them, and a server with IPv4 only behind that.
fn internet() -> [Place; 4] {
    let places = [Place::new("net", 1), Place::new("user", 2), Place::new("exit", 3), Place::new("server", 4)];
    let [net, user, exit, server] = &places;
    net.run("sysctl -qw net.ipv6.conf.all.forwarding=1\nsysctl -qw net.ipv4.ip_forward=1");
    for (number, place) in (1..).zip([user, exit, server]) {
        let far = place.namespace.name();
        net.run(&format!("ip link add to-{number} type veth peer name eth netns {far}\nip link set to-{number} up"));
        place.run("ip link set eth up\nip link set lo up");
    }
    for (number, place) in (1..).zip([user, exit]) {
        net.run(&format!("ip addr add 2001:db8:{number}::1/64 dev to-{number} nodad"));
        place.run(&format!(
            "ip addr add 2001:db8:{number}::2/64 dev eth nodad\nip route add default via 2001:db8:{number}::1"
        ));
    }
    net.run(&format!("ip addr add {ROUTER}/24 dev to-2"));
    exit.run(&format!("ip addr add {EXIT}/24 dev eth\nip route add default via {ROUTER}"));
    net.run(&format!("ip addr add 198.51.100.1/24 dev to-3\nip link set to-3 mtu {NARROW_MTU}"));
    // The server knows how narrow its link is, and does not say so: its callers have to learn it from the router.
    server.run(&format!(
        "ip addr add {SERVER}/24 dev eth\nip route add default via 198.51.100.1 mtu {NARROW_MTU} advmss 1460"
    ));
    for address in [OTHER_SERVER, PRIVATE_SERVER] {
        server.run(&format!("ip addr add {address}/32 dev lo"));
        net.run(&format!("ip route add {address}/32 via {SERVER}"));
    }
    server.serve();
    server.echo();
    places
}

fn offer(to: &[&str]) -> ExitConfig {
    let to = to.iter().map(|prefix| (*prefix).to_owned()).collect();
    ExitConfig::Offer(ExitOffer { allow: Allow::All(AllowAll::Region), to })
}

fn join(user: &mut Place, exit: &mut Place, to: &[&str]) {
    exit.start(&[], offer(to));
    let id: NodeId = exit.secret.id();
    user.start(&["2001:db8:2::2"], ExitConfig::Use(id));
    wait("there is a way to the exit", || user.hops(exit).is_some());
    assert_eq!(user.status().problems, Vec::<String>::new());
}

#[test]
fn a_user_without_ipv4_talks_to_a_server_without_ipv6() {
    let [net, mut user, mut exit, server] = internet();
    assert_eq!(exit.is_seen_as(SERVER), Ok(EXIT), "the lab's own way");
    join(&mut user, &mut exit, &[]);
    let far = embed(SERVER);
    // Both ways, over a link that is too narrow for IPv6: by what its router says, and by fragments behind it.
    assert_eq!(user.is_seen_as(far), Ok(EXIT));
    for bytes in [1, 1000, 1150] {
        assert_eq!(user.asks(far, ECHO_PORT, bytes), Ok(bytes));
    }
    assert_eq!(user.asks(far, CLOSED, 100), Err(ErrorKind::ConnectionRefused), "the server's own error");

    let said = user.ping(far, 64);
    assert!(said.contains(" 0% packet loss"), "{said}");
    for (hops, from) in [(1, EXIT), (2, ROUTER)] {
        let said = user.ping(far, hops);
        let expected = format!("From {} icmp_seq=1 Time exceeded: Hop limit", embed(from));
        assert!(said.contains(&expected), "{said}");
    }

    // The exit's own networks and private ones are refused with a word, however well the exit itself gets there.
    exit.serve();
    assert_eq!(exit.is_seen_as(PRIVATE_SERVER), Ok(EXIT));
    for refused in [PRIVATE_SERVER, EXIT, ROUTER, Ipv4Addr::LOCALHOST, Ipv4Addr::new(169, 254, 169, 254)] {
        assert_eq!(user.is_seen_as(embed(refused)), Err(ErrorKind::PermissionDenied), "{refused}");
    }

    // From outside nobody begins anything, also not the exit's own machine; the user's address is known to both.
    let pool = pool_of(exit.network());
    let guest = Ipv4Addr::from(u32::from(pool) + 1);
    net.run(&format!("ip route add {pool}/20 via {EXIT}"));
    server.run(&format!("ip route add {pool}/20 via 198.51.100.1"));
    let listen = || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, DATAGRAMS)).expect("the port is free");
    let socket = user.namespace.run(listen).expect("inside");
    let before = exit.drops();
    socket.set_read_timeout(Some(IN_VAIN)).expect("set");
    for place in [&server, &net, &exit] {
        let send = || {
            let sender = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
            // The exit's own rules refuse it at once.
            let _ = sender.send_to(b"!", (guest, DATAGRAMS));
        };
        place.namespace.run(send).expect("inside");
    }
    assert!(socket.recv(&mut [0; 8]).is_err(), "nobody comes in by the exit");
    let grown: Vec<u64> = exit.drops().iter().zip(&before).map(|(now, before)| now - before).collect();
    assert!(grown[0] >= 2 && grown[2] == 1, "of server and router, and of the exit itself: {grown:?}");

    // Without IPv4 the exit says that there is no way.
    exit.run(&format!("ip addr del {EXIT}/24 dev eth"));
    let is_unreachable = |seen| matches!(seen, Err(ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable));
    wait("the exit says so", || is_unreachable(user.is_seen_as(far)));
    exit.run(&format!("ip addr add {EXIT}/24 dev eth\nip route add default via {ROUTER}"));
    wait("the exit has IPv4 again", || user.asks(far, ECHO_PORT, 10) == Ok(10));

    exit.0.stop(How::Orderly);
    assert_eq!(exit.run("nft list tables").trim(), "");
    assert_eq!(exit.run("ip route show root 240.0.0.0/4").trim(), "");
    user.0.stop(How::Orderly);
    assert!(!user.run("ip -6 rule").contains("3000"), "{}", user.run("ip -6 rule"));
}

#[test]
fn an_exit_leads_to_the_ipv4_networks_that_its_owner_names() {
    let [_net, mut user, mut exit, _server] = internet();
    join(&mut user, &mut exit, &["198.51.100.0/24"]);
    assert_eq!(user.is_seen_as(embed(SERVER)), Ok(EXIT));
    assert_eq!(user.is_seen_as(embed(OTHER_SERVER)), Err(ErrorKind::PermissionDenied));
}
