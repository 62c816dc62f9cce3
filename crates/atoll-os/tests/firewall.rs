//! The firewall between real namespaces. Needs root and `nft`.

mod support;

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use atoll_os::{
    firewall::{Firewall, FirewallError, WorkloadRules},
    link::{Links, Route},
    workload::WorkloadNetwork,
};
use support::{Scratch, scratch_name};

const HTTP: u16 = 8080;
const PRIVATE: u16 = 6379;
const HEALTH: u16 = 9000;
const DNS: u16 = 53;

/// A node with two workloads, and another machine in the mesh: its link stands for the TUN link.
struct World {
    node: Scratch,
    remote: Scratch,
    lan: Scratch,
    workloads: Vec<(WorkloadNetwork, Scratch)>,
}

fn address(text: &str) -> Ipv6Addr {
    text.parse().expect("an address")
}

const NODE: &str = "fd00:1::1";
const REMOTE: &str = "fd00:2::2";

fn world(name: &str) -> World {
    let (node, remote, lan) = (
        Scratch::new(&format!("{name}-node")),
        Scratch::new(&format!("{name}-remote")),
        Scratch::new(&format!("{name}-lan")),
    );
    let workloads = node.block_on(async || {
        let links = Links::here().expect("netlink");
        for (link, there, inside, outside) in
            [("mesh0", &remote, "fe80::2", "fe80::1"), ("lan0", &lan, "fe80::3", "fe80::1")]
        {
            links.ensure_veth(link, &there.0, "eth0").await.expect("a link");
            links.ensure_address(link, address(outside).into(), 64).await.expect("an address");
            links.ensure_up(link).await.expect("up");
            let far = Links::of(&there.0).expect("netlink");
            far.ensure_address("eth0", address(inside).into(), 64).await.expect("an address");
            far.ensure_up("eth0").await.expect("up");
            far.ensure_route(&Route::default_via(address(outside), "eth0")).await.expect("a route");
        }
        Links::of(&remote.0)
            .expect("netlink")
            .ensure_address("lo", address(REMOTE).into(), 128)
            .await
            .expect("an address");
        Links::of(&lan.0)
            .expect("netlink")
            .ensure_address("lo", address("fd00:9::9").into(), 128)
            .await
            .expect("an address");
        links.ensure_address("lo", address(NODE).into(), 128).await.expect("an address");
        let via = |to: &str, link: &str, hop: &str| Route {
            via: Some(address(hop).into()),
            ..Route::host(address(to).into(), link)
        };
        links.ensure_route(&via(REMOTE, "mesh0", "fe80::2")).await.expect("a route");
        links.ensure_route(&via("fd00:9::9", "lan0", "fe80::3")).await.expect("a route");
        let mut workloads = Vec::new();
        for index in [2, 3] {
            let network = WorkloadNetwork {
                namespace: scratch_name(&format!("{name}-w{index}")),
                host_link: format!("atw{index}"),
                address: address(&format!("fd00:1::{index}")),
                mtu: 1400,
                micro_vm: false,
            };
            let namespace = network.ensure().await.expect("a workload's network");
            workloads.push((network, Scratch(namespace)));
        }
        workloads
    });
    World { node, remote, lan, workloads }
}

impl World {
    fn rules(&self, peers: &[&str]) -> Firewall {
        let workloads = self.workloads.iter().map(|(network, _)| WorkloadRules {
            host_link: network.host_link.clone(),
            address: network.address,
            peers: peers.iter().map(|peer| address(peer)).collect(),
            open_ports: BTreeSet::from([HTTP]),
            node_only_ports: BTreeSet::from([HEALTH]),
        });
        Firewall {
            suffix: "test".into(),
            mesh_link: "mesh0".into(),
            node_ports: BTreeSet::from([DNS]),
            workloads: workloads.collect(),
        }
    }

    fn apply(&self, firewall: &Firewall) {
        self.node.block_on(async || firewall.apply().await.expect("apply"));
    }
}

/// Whether bytes can be exchanged over TCP.
fn talks(from: &Scratch, source: Option<&str>, to: &Scratch, target: Ipv6Addr, port: u16) -> bool {
    let listener = to.0.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).expect("listen")).expect("enter");
    listener.set_nonblocking(true).expect("a listener");
    let attempt = || {
        let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).expect("a socket");
        if let Some(source) = source {
            socket.bind(&SocketAddr::new(address(source).into(), 0).into()).expect("bind");
        }
        let target = SocketAddr::new(target.into(), port);
        socket.connect_timeout(&target.into(), Duration::from_millis(400)).ok()?;
        Some(TcpStream::from(socket))
    };
    let Some(mut client) = from.0.run(attempt).expect("enter") else { return false };
    let (mut server, _) = listener.accept().expect("the connection");
    server.write_all(b"!").expect("write");
    client.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    client.read_exact(&mut [0]).is_ok()
}

#[test]
fn only_what_was_declared_passes() {
    let world = world("pass");
    let (one, two) = (&world.workloads[0], &world.workloads[1]);
    let target = one.0.address;
    assert!(talks(&world.remote, Some(REMOTE), &one.1, target, PRIVATE), "without rules everything passes");
    world.apply(&world.rules(&[]));
    world.apply(&world.rules(&[]));
    assert!(talks(&world.remote, Some(REMOTE), &one.1, target, HTTP), "mesh to an open port");
    assert!(!talks(&world.remote, Some(REMOTE), &one.1, target, PRIVATE), "mesh to another port");
    assert!(!talks(&world.remote, Some(REMOTE), &one.1, target, HEALTH), "mesh to the health port");
    assert!(talks(&two.1, None, &one.1, target, HTTP), "neighbour to an open port");
    assert!(!talks(&two.1, None, &one.1, target, PRIVATE), "another tenant's workload to another port");
    assert!(talks(&world.node, Some(NODE), &one.1, target, HTTP), "gateway");
    assert!(talks(&world.node, Some(NODE), &one.1, target, HEALTH), "health check");
    assert!(!talks(&world.node, Some(NODE), &one.1, target, PRIVATE), "node to another port");
    assert!(talks(&one.1, None, &world.node, address(NODE), DNS), "workload to the node's DNS");
    assert!(!talks(&one.1, None, &world.node, address(NODE), 8545), "workload to the node's other ports");
    assert!(talks(&one.1, None, &world.remote, address(REMOTE), 443), "workload into the mesh");
}

#[test]
fn peers_share_a_private_network() {
    let world = world("peer");
    let (one, two) = (&world.workloads[0], &world.workloads[1]);
    world.apply(&world.rules(&["fd00:1::3"]));
    assert!(talks(&two.1, None, &one.1, one.0.address, PRIVATE), "a peer on the same node");
    assert!(!talks(&world.remote, Some(REMOTE), &one.1, one.0.address, PRIVATE), "not a peer");
    world.apply(&world.rules(&[REMOTE]));
    assert!(talks(&world.remote, Some(REMOTE), &one.1, one.0.address, PRIVATE), "a peer on another node");
    assert!(!talks(&two.1, None, &one.1, one.0.address, PRIVATE), "no longer a peer");
}

#[test]
fn the_owners_lan_is_another_world() {
    let world = world("lan");
    let one = &world.workloads[0];
    world.apply(&world.rules(&[]));
    let lan = "fd00:9::9";
    assert!(!talks(&world.lan, Some(lan), &one.1, one.0.address, HTTP), "LAN to a workload");
    assert!(!talks(&one.1, None, &world.lan, address(lan), HTTP), "workload to the LAN");
    assert!(!talks(&world.lan, Some(lan), &world.remote, address(REMOTE), HTTP), "LAN through the node into the mesh");
    assert!(!talks(&world.remote, Some(REMOTE), &world.lan, address(lan), HTTP), "mesh through the node to the LAN");
    assert!(
        talks(&world.lan, Some(lan), &world.node, address(NODE), 22),
        "the node's own ports are its owner's business"
    );
    // A node without workloads protects the mesh as well.
    world.apply(&Firewall { workloads: vec![], ..world.rules(&[]) });
    assert!(!talks(&world.lan, Some(lan), &world.remote, address(REMOTE), HTTP), "LAN through an idle node");
}

#[test]
fn nobody_borrows_an_address() {
    let world = world("spoof");
    let (one, two) = (&world.workloads[0], &world.workloads[1]);
    world.apply(&world.rules(&["fd00:1::3"]));
    let borrowed = "fd00:1::3";
    assert!(talks(&two.1, Some(borrowed), &one.1, one.0.address, PRIVATE));
    world.node.block_on(async || {
        let links = Links::of(&one.1.0).expect("netlink");
        links.ensure_address("eth0", address("fd00:7::7").into(), 128).await.expect("an address");
        let here = Links::here().expect("netlink");
        let back = Route::host(address("fd00:7::7").into(), &one.0.host_link);
        here.ensure_route(&back).await.expect("a route");
    });
    assert!(talks(&one.1, None, &world.remote, address(REMOTE), HTTP), "its own address");
    assert!(!talks(&one.1, Some("fd00:7::7"), &world.remote, address(REMOTE), HTTP), "an address that is not its own");
}

#[test]
fn tables_do_not_disturb_each_other_and_go_away() {
    let world = world("gone");
    let one = &world.workloads[0];
    world.apply(&world.rules(&[]));
    let other = Firewall { suffix: "other".into(), mesh_link: "mesh9".into(), workloads: vec![], ..world.rules(&[]) };
    world.apply(&other);
    world.node.block_on(async || {
        for _twice in 0..2 {
            Firewall::remove("test").await.expect("remove");
        }
    });
    assert!(talks(&world.remote, Some(REMOTE), &one.1, one.0.address, PRIVATE), "nothing is left of it");
    let (_, tables) = world.node.command("nft", &["list", "tables"]);
    assert_eq!(tables.trim(), "table inet atoll_other");
    let refused = world.node.block_on(async || Firewall { suffix: "a b".into(), ..other }.apply().await);
    assert!(matches!(refused, Err(FirewallError::Description { what: "suffix", .. })), "{refused:?}");
    let same = world.node.block_on(async || Firewall { mesh_link: "atw2".into(), ..world.rules(&[]) }.apply().await);
    assert!(matches!(same, Err(FirewallError::Description { what: "list of links", .. })), "{same:?}");
}
