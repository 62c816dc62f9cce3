//! Namespaces, links and workload networks against the real kernel. Needs root.

mod support;

use std::{
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use atoll_os::{
    link::{LinkError, Links, Route, learned::LearnedHop},
    netns::{NetNs, NetnsError},
    workload::{WORKLOAD_LINK, WorkloadNetwork},
};
use support::{Scratch, runtime, scratch_name};

#[test]
fn namespaces_are_made_once_listed_and_removed() {
    let scratch = Scratch::new("life");
    let name = scratch.0.name();
    assert_eq!(NetNs::ensure(name).unwrap(), scratch.0);
    assert!(NetNs::list().unwrap().iter().any(|n| n == name));
    let (ok, links) = scratch.command("ip", &["-o", "link"]);
    assert!(ok && links.contains("lo:") && links.contains("LOOPBACK,UP"), "{links}");
    NetNs::remove(name).unwrap();
    NetNs::remove(name).unwrap();
    assert!(matches!(NetNs::open(name), Err(NetnsError::Missing(_))));
    assert!(matches!(NetNs::ensure("../etc"), Err(NetnsError::Name(_))));
}

#[test]
fn a_lab_of_two_namespaces_on_a_bridge() {
    let (hub, a, b) = (Scratch::new("hub"), Scratch::new("a"), Scratch::new("b"));
    hub.block_on(async || {
        let links = Links::here().unwrap();
        for _twice in 0..2 {
            links.ensure_bridge("lab0").await.unwrap();
            links.ensure_up("lab0").await.unwrap();
            for (port, member, address) in [("p-a", &a, "fd00::a"), ("p-b", &b, "fd00::b")] {
                links.ensure_veth(port, &member.0, "eth0").await.unwrap();
                links.ensure_port(port, "lab0").await.unwrap();
                links.ensure_up(port).await.unwrap();
                let inside = Links::of(&member.0).unwrap();
                inside.ensure_address("eth0", address.parse().unwrap(), 64).await.unwrap();
                inside.ensure_up("eth0").await.unwrap();
            }
        }
        let refused = links.ensure_up("absent").await;
        assert!(matches!(refused, Err(LinkError::Missing(_))), "{refused:?}");
        links.remove("absent").await.unwrap();
    });
    assert!(reaches(&a, &b, "fd00::b".parse().unwrap()));
    // Cutting a member off, as a lab does it.
    hub.block_on(async || Links::here().unwrap().ensure_down("p-b").await.unwrap());
    assert!(!reaches(&a, &b, "fd00::b".parse().unwrap()));
}

#[test]
fn a_workload_is_a_host_of_its_own() {
    let node = Scratch::new("node");
    let network = WorkloadNetwork {
        namespace: scratch_name("work"),
        host_link: "atw1".into(),
        address: "fd00:1::2".parse().unwrap(),
        mtu: 1300,
        micro_vm: false,
    };
    let node_address: Ipv6Addr = "fd00:1::1".parse().unwrap();
    let workload = node.block_on(async || {
        let namespace = network.ensure().await.unwrap();
        network.ensure().await.unwrap();
        let links = Links::here().unwrap();
        links.ensure_address("lo", node_address.into(), 128).await.unwrap();
        assert_eq!(links.mtu(&network.host_link).await.unwrap(), Some(1300));
        assert_eq!(links.mtu("absent").await.unwrap(), None);
        Scratch(namespace)
    });
    assert!(reaches(&node, &workload, network.address));
    assert!(reaches(&workload, &node, node_address));
    let (_, links) = workload.command("ip", &["-o", "link", "show", WORKLOAD_LINK]);
    assert!(links.contains("mtu 1300"), "{links}");
    let (_, forwarding) = node.command("cat", &["/proc/sys/net/ipv6/conf/all/forwarding"]);
    assert_eq!(forwarding.trim(), "1");

    node.block_on(async || {
        let links = Links::here().unwrap();
        let route = Route::host(network.address.into(), &network.host_link);
        links.remove_route(&route).await.unwrap();
        links.remove_route(&route).await.unwrap();
        network.remove().await.unwrap();
        network.remove().await.unwrap();
        assert_eq!(links.index(&network.host_link).await.unwrap(), None);
    });
    assert!(NetNs::open(&network.namespace).is_err());
}

#[test]
fn router_advertisements_are_heard_on_a_node_that_forwards() {
    let node = Scratch::new("ra");
    node.block_on(async || {
        let links = Links::here().unwrap();
        links.ensure_bridge("up0").await.unwrap();
        links.ensure_bridge("mute0").await.unwrap();
        links.set_sysctl("ipv6/conf/up0/accept_ra", "1").unwrap();
        links.set_sysctl("ipv6/conf/mute0/accept_ra", "0").unwrap();
        links.enable_forwarding().unwrap();
    });
    let accept_ra = |link: &str| node.command("cat", &[&format!("/proc/sys/net/ipv6/conf/{link}/accept_ra")]).1;
    assert_eq!(accept_ra("up0").trim(), "2");
    assert_eq!(accept_ra("mute0").trim(), "0");
}

#[test]
fn learned_routes_are_replaced_listed_and_removed_and_leave_others_alone() {
    let (node, far) = (Scratch::new("learn"), Scratch::new("far"));
    let shown = |prefix: &str| node.command("ip", &["-6", "route", "show", prefix]).1;
    let (network, prefix) = ("fd01:2::".parse().unwrap(), "fd01:2::/32");
    let (first, second): (Ipv6Addr, Ipv6Addr) = ("fe80::1".parse().unwrap(), "fe80::2".parse().unwrap());
    node.block_on(async || {
        let links = Links::here().unwrap();
        links.ensure_veth("wire", &far.0, "eth0").await.unwrap();
        links.ensure_up("wire").await.unwrap();
        Links::of(&far.0).unwrap().ensure_up("eth0").await.unwrap();
        let interface = links.index("wire").await.unwrap().unwrap();
        let via = |address| LearnedHop::Via { interface, address };
        for (hop, words) in [
            (via(first), "via fe80::1 dev wire proto babel"),
            (via(second), "via fe80::2 dev wire proto babel"),
            (LearnedHop::Unreachable, "unreachable fd01:2::/32"),
            (via(first), "via fe80::1 dev wire proto babel"),
        ] {
            links.ensure_learned(network, 32, hop).await.unwrap();
            assert!(shown(prefix).contains(words) && shown(prefix).lines().count() == 1, "{}", shown(prefix));
        }
        let own = Route {
            destination: network.into(),
            prefix_len: 32,
            via: Some(second.into()),
            link: "wire".to_owned(),
            source: None,
        };
        links.ensure_route(&own).await.unwrap();
        links.ensure_learned(network, 32, via(second)).await.unwrap();
        assert_eq!(shown(prefix).lines().count(), 2, "{}", shown(prefix));
        links.ensure_learned(Ipv6Addr::UNSPECIFIED, 0, via(first)).await.unwrap();
        let mut learned = links.learned().await.unwrap();
        learned.sort_unstable();
        assert_eq!(learned, [(Ipv6Addr::UNSPECIFIED, 0), (network, 32)]);
        for _twice in 0..2 {
            links.remove_learned(network, 32).await.unwrap();
            links.remove_learned(Ipv6Addr::UNSPECIFIED, 0).await.unwrap();
        }
        assert_eq!(links.learned().await.unwrap(), []);
        assert!(shown(prefix).contains("via fe80::2") && shown(prefix).lines().count() == 1, "{}", shown(prefix));
        links.ensure_learned(network, 32, LearnedHop::Unreachable).await.unwrap();
        links.remove_learned(network, 32).await.unwrap();
        assert_eq!(links.learned().await.unwrap(), [], "of either kind");
    });
}

#[test]
fn a_tap_link_outlives_its_maker() {
    let scratch = Scratch::new("tap");
    for _twice in 0..2 {
        runtime().block_on(async {
            let links = Links::of(&scratch.0).unwrap();
            links.ensure_tap("tap0").await.unwrap();
            links.ensure_up("tap0").await.unwrap();
            assert!(links.is_up("tap0").await.unwrap());
        });
    }
}

/// Whether a TCP connection from one namespace to an address in another succeeds.
fn reaches(from: &Scratch, to: &Scratch, address: Ipv6Addr) -> bool {
    let listener = to.0.run(|| TcpListener::bind((address, 0)).expect("listen")).expect("enter");
    let target = SocketAddr::new(address.into(), listener.local_addr().expect("its address").port());
    from.0.run(|| TcpStream::connect_timeout(&target, Duration::from_secs(2)).is_ok()).expect("enter")
}
