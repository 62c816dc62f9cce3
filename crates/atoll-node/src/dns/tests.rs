//! The name server with a real socket and a client's messages.

use std::{net::SocketAddr, sync::Arc};

use alloy_primitives::Address;
use atoll_base::schema::{Capacity, NodeRecord, RegionView};
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
    gateway::tests::{lease, view},
    limits::DNS_TCP,
};

const REGION: RegionId = RegionId([9; 32]);

fn verified() -> Verified {
    let node = |n: u8| NodeRecord {
        id: [n; 32].into(),
        provider: Address::ZERO,
        account: Address::ZERO,
        sealing_key: Default::default(),
        total: Capacity::default(),
        used: Capacity::default(),
        labels: vec![],
        registered_ms: 0,
        online: true,
        next_workload: 2,
    };
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
    let (sender, receiver) = watch::channel(verified());
    let names = Names { region: REGION, region_name: "home".into(), verified: receiver, metrics: Metrics::new() };
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
