//! The name server with a real socket and a client's messages.

use std::{
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
};

use atoll_base::{
    MeshAddr, NodeId,
    schema::{LeaseState, RegionView},
};
use hickory_proto::{
    op::{Message, MessageType, Query},
    serialize::binary::{BinDecodable as _, BinEncodable as _},
};
use hickory_server::Server;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
};

use super::*;
use crate::{
    gateway::tests::{lease, node, view},
    limits::DNS_TCP,
};

const REGION: RegionId = RegionId([9; 32]);

fn verified() -> Verified {
    let mut db = lease(3, 3, LeaseState::Running, "");
    db.service = 1;
    let web = [lease(1, 1, LeaseState::Running, ""), lease(2, 2, LeaseState::Failed, "")];
    let mut known = view([web[0].clone(), web[1].clone(), db].to_vec());
    let view = RegionView { nodes: vec![node(1)], ..(*known.view()).clone() };
    known.view = Some(Arc::new(view));
    known
}

/// A running server: its UDP and its TCP address.
async fn serve() -> (SocketAddr, SocketAddr, watch::Sender<Verified>) {
    serve_zone("home", Vec::new()).await
}

async fn serve_zone(name: &str, resolvers: Vec<SocketAddr>) -> (SocketAddr, SocketAddr, watch::Sender<Verified>) {
    let (sender, receiver) = watch::channel(verified());
    let names = Names {
        region: REGION,
        region_name: name.into(),
        verified: receiver,
        uplink: Uplink::new(resolvers),
        metrics: Metrics::new(),
    };
    let udp = UdpSocket::bind("[::1]:0").await.expect("a port");
    let tcp = TcpListener::bind("[::1]:0").await.expect("a port");
    let addresses = (udp.local_addr().expect("an address"), tcp.local_addr().expect("an address"));
    let mut server = Server::new(names);
    server.register_socket(udp);
    server.register_listener(tcp, DNS_TCP, 16);
    tokio::spawn(async move { server.block_until_done().await });
    (addresses.0, addresses.1, sender)
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message.to_bytes().expect("bytes")
}

async fn ask(server: SocketAddr, name: &str, kind: RecordType) -> Message {
    let socket = UdpSocket::bind("[::1]:0").await.expect("a port");
    socket.send_to(&question(name, kind), server).await.expect("sent");
    let mut buffer = [0; 1500];
    let (length, _) = socket.recv_from(&mut buffer).await.expect("an answer");
    Message::from_bytes(&buffer[..length]).expect("a message")
}

fn addresses(message: &Message) -> Vec<Ipv6Addr> {
    let address = |record: &Record| match &record.data {
        RData::AAAA(address) => Some(address.0),
        _ => None,
    };
    message.answers.iter().filter_map(address).collect()
}

#[tokio::test]
async fn names_of_apps_services_and_nodes_are_answered() {
    let (udp, tcp, _sender) = serve().await;
    let of = |node: u8| MeshAddr::of(REGION, NodeId([node; 32]));
    for (name, expected) in [
        ("shop.home.", of(1).host(2)),
        ("SHOP.home.", of(1).host(2)),
        ("web.shop.home.", of(1).host(2)),
        ("db.shop.home.", of(3).host(2)),
        ("01010101.node.home.", of(1).node()),
    ] {
        let answer = ask(udp, name, RecordType::AAAA).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError, "{name}");
        assert!(answer.metadata.authoritative, "{name}");
        assert_eq!(addresses(&answer), [expected], "{name}");
    }
    let bytes = question("shop.home.", RecordType::AAAA);
    let mut stream = TcpStream::connect(tcp).await.expect("connected");
    stream.write_u16(u16::try_from(bytes.len()).expect("short")).await.expect("written");
    stream.write_all(&bytes).await.expect("written");
    let length = stream.read_u16().await.expect("a length");
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(addresses(&Message::from_bytes(&answer).expect("a message")), [of(1).host(2)]);
}

#[tokio::test]
async fn other_names_are_denied_and_foreign_ones_refused() {
    let (udp, _tcp, sender) = serve().await;
    for name in ["cafe.home.", "x.shop.home.", "02020202.node.home.", "a.b.c.home."] {
        let answer = ask(udp, name, RecordType::AAAA).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain, "{name}");
        assert_eq!(answer.authorities.len(), 1, "a denial carries the zone's SOA");
    }
    for name in ["example.org.", "home.org.", "xhome.", "."] {
        let answer = ask(udp, name, RecordType::AAAA).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused, "{name}");
    }
    // A name that exists, but not in this form: no error, no address. Programs that ask for A first depend on it.
    let answer = ask(udp, "shop.home.", RecordType::A).await;
    assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 0));
    // What the ledger changes is answered at once.
    sender.send_modify(|verified| {
        let mut view = (*verified.view()).clone();
        view.leases.get_mut(&1).expect("the lease").state = LeaseState::Failed.code();
        verified.view = Some(Arc::new(view));
    });
    assert_eq!(addresses(&ask(udp, "shop.home.", RecordType::AAAA).await), Vec::<Ipv6Addr>::new());
}

fn records(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

#[tokio::test]
async fn services_say_where_they_listen_and_facts_are_text() {
    let (udp, _tcp, sender) = serve().await;
    let replica = MeshAddr::of(REGION, NodeId([1; 32])).host(2);
    for name in ["_http._tcp.shop.home.", "_http._tcp.web.shop.home."] {
        let answer = ask(udp, name, RecordType::SRV).await;
        assert_eq!(records(&answer), ["0 0 8000 0.web.shop.home."], "{name}");
        let [target] = &answer.additionals[..] else { panic!("{answer:?}") };
        assert_eq!(
            (target.name.to_string().as_str(), &target.data),
            ("0.web.shop.home.", &RData::AAAA(replica.into()))
        );
    }
    assert_eq!(addresses(&ask(udp, "0.web.shop.home.", RecordType::AAAA).await), [replica]);
    for name in ["_http._tcp.db.shop.home.", "_tcp.cafe.home.", "1.web.shop.home.", "00.web.shop.home."] {
        let answer = ask(udp, name, RecordType::ANY).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain, "{name}");
    }
    let answer = ask(udp, "_tcp.shop.home.", RecordType::SRV).await;
    assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 0));

    assert_eq!(records(&ask(udp, "home.", RecordType::TXT).await), [format!("region={REGION}")]);
    let node = NodeId([1; 32]);
    assert_eq!(records(&ask(udp, "01010101.node.home.", RecordType::TXT).await), [format!("node={node}online=true")]);
    assert_eq!(records(&ask(udp, "db.shop.home.", RecordType::TXT).await), ["service=dbreplicas=1"]);
    sender.send_modify(|verified| {
        let mut view = (*verified.view()).clone();
        // Longer than a string of a TXT record may be, and the limit lies within a character.
        view.nodes[0].labels = vec!["zone=school".into(), format!("x{}", "é".repeat(200))];
        verified.view = Some(Arc::new(view));
    });
    let answer = ask(udp, "01010101.node.home.", RecordType::TXT).await;
    let labels = [records(&answer)[1].clone(), records(&answer)[2].clone()];
    assert_eq!(labels, ["zone=school".to_owned(), format!("x{}", "é".repeat(127))]);
}

#[tokio::test]
async fn addresses_have_names() {
    let (udp, _tcp, _sender) = serve().await;
    let of = |address: Ipv6Addr| Name::from(std::net::IpAddr::V6(address)).to_string();
    let node = MeshAddr::of(REGION, NodeId([1; 32]));
    let answer = ask(udp, &of(node.node()), RecordType::PTR).await;
    assert_eq!(records(&answer), ["01010101.node.home."]);
    assert_eq!(records(&ask(udp, &of(node.host(2)), RecordType::PTR).await), ["0.web.shop.home."]);
    let unknown = MeshAddr::of(REGION, NodeId([7; 32]));
    for address in [node.host(3), unknown.node()] {
        let answer = ask(udp, &of(address), RecordType::PTR).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain, "{address}");
    }
    // The zone itself, and what is between it and an address.
    let all = of(node.node());
    for digits in [20, 12] {
        let name = all.split_inclusive('.').skip(32 - digits).collect::<String>();
        let answer = ask(udp, &name, RecordType::PTR).await;
        assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 0), "{name}");
        let zone = all.split_inclusive('.').skip(20).collect::<String>();
        assert_eq!(answer.authorities[0].name.to_string(), zone, "{name}");
    }
    for name in ["1.0.0.127.in-addr.arpa.", "ip6.arpa.", &of(Ipv6Addr::LOCALHOST)] {
        let answer = ask(udp, name, RecordType::PTR).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::Refused, "{name}");
    }
}

#[tokio::test]
async fn other_names_are_asked_where_the_owner_says() {
    let (resolver, _tcp, _resolver_sender) = serve().await;
    // Nobody is there: an answer that this port is closed comes at once.
    let closed = UdpSocket::bind("[::1]:0").await.expect("a port").local_addr().expect("an address");
    let (server, _tcp, _sender) = serve_zone("elsewhere", vec![closed, resolver]).await;
    let ask_for = async |name: &str, recursion| {
        let mut message = Message::new(78, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = recursion;
        message.add_query(Query::query(Name::from_ascii(name).expect("a name"), RecordType::AAAA));
        let socket = UdpSocket::bind("[::1]:0").await.expect("a port");
        socket.send_to(&message.to_bytes().expect("bytes"), server).await.expect("sent");
        let mut buffer = [0; 1500];
        let (length, _) = socket.recv_from(&mut buffer).await.expect("an answer");
        Message::from_bytes(&buffer[..length]).expect("a message")
    };
    let answer = ask_for("shop.home.", true).await;
    assert_eq!(addresses(&answer), [MeshAddr::of(REGION, NodeId([1; 32])).host(2)]);
    assert!(answer.metadata.recursion_available && !answer.metadata.authoritative);
    let answer = ask_for("cafe.home.", true).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    // Who does not want others to be asked is not served by others, and own names need nobody.
    assert_eq!(ask_for("shop.home.", false).await.metadata.response_code, ResponseCode::Refused);
    assert!(ask_for("shop.elsewhere.", true).await.metadata.authoritative);
}
