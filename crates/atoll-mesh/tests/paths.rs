//! Real daemons behind real NATs, on the move, and with two links to one neighbour. Needs root, `ip` and `nft`.

mod support;

use std::{
    fs,
    time::{Duration, Instant},
};

use support::{PORT, Place, wait};

fn forward(place: &Place) {
    let write = || fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("written");
    place.namespace.run(write).expect("inside");
}

/// Starts a daemon that calls these peers, and a server of echoes.
fn start(place: &mut Place, peers: &[&str]) {
    let config = place.config();
    place.start(atoll_mesh::Config {
        peers: peers.iter().map(|peer| format!("udp://{peer}:{PORT}")).collect(),
        ..config
    });
    place.echo();
}

/// Two nodes side by side, 10.`net`.1 and 10.`net`.2, of which the first calls the second.
fn neighbours(seed: u8, net: &str) -> [Place; 2] {
    let (mut a, mut b) = (Place::new("a", seed), Place::new("b", seed + 1));
    a.join("eth", &format!("10.{net}.1"), &b, "eth", &format!("10.{net}.2"));
    start(&mut b, &[]);
    start(&mut a, &[&format!("10.{net}.2")]);
    [a, b]
}

/// Bytes that crossed the links of this node, both ways.
fn link_bytes(of: &Place) -> u64 {
    of.status().peers.iter().map(|peer| peer.rx_bytes + peer.tx_bytes).sum()
}

/// Two nodes (1 and 2), each behind a NAT of its own (3 and 4), and a relay (0) that is also the router between them.
fn two_homes(drops: [bool; 2]) -> [Place; 5] {
    let mut places = [
        Place::new("relay", 10),
        Place::new("a", 11),
        Place::new("b", 12),
        Place::new("nat-a", 13),
        Place::new("nat-b", 14),
    ];
    {
        let [relay, a, b, nat_a, nat_b] = &places;
        forward(relay);
        let homes = [(a, nat_a, 1, drops[0]), (b, nat_b, 2, drops[1])];
        for (node, nat, number, drops) in homes {
            let wan = format!("to-{number}");
            let (here, there) = (format!("198.51.{number}.1"), format!("198.51.{number}.2"));
            relay.join(&wan, &here, nat, "wan", &there);
            nat.join("lan", &format!("10.{number}.0.1"), node, "eth", &format!("10.{number}.0.5"));
            forward(nat);
            nat.run(&format!(
                "ip route add default via {here}
                 nft add table ip nat
                 nft add chain ip nat post {{ type nat hook postrouting priority 100 ; }}
                 nft add rule ip nat post oifname wan masquerade
                 nft add chain ip nat in {{ type filter hook input priority 0 ; }}"
            ));
            if drops {
                nat.run("nft add rule ip nat in iifname wan ct state new drop");
            }
            node.run(&format!("ip route add default via 10.{number}.0.1"));
        }
    }
    let [relay, a, b, ..] = &mut places;
    start(relay, &[]);
    start(a, &["198.51.1.1"]);
    start(b, &["198.51.2.1"]);
    places
}

fn assert_direct_within_seconds(drops: [bool; 2]) {
    let places = two_homes(drops);
    let [relay, a, b, ..] = &places;
    wait("there is a way over the relay", || a.hops(b) == Some(2) && b.hops(a) == Some(2));
    let start = Instant::now();
    let mut direct = None;
    let (longest, count) = a.talk(b, Duration::from_secs(6), || {
        wait("there is a direct way", || a.hops(b) == Some(1) && b.hops(a) == Some(1));
        direct = Some(start.elapsed());
    });
    println!("NATs that drop: {drops:?}; direct after {direct:?}, {count} echoes, longest pause {longest:?}");
    assert!(count > 100 && longest < Duration::from_secs(1), "{count} echoes, {longest:?}");
    let link = a.status().peers.into_iter().find(|peer| peer.node == Some(b.secret.id())).expect("a link");
    assert_eq!((link.origin.as_str(), link.up), ("punched", true));
    // The relay carries nothing of it any more.
    let before = link_bytes(relay);
    let (longest, count) = a.talk(b, Duration::from_secs(2), || {});
    let relayed = link_bytes(relay) - before;
    println!("{count} echoes of 1000 bytes, longest pause {longest:?}; the relay's links carried {relayed} bytes");
    assert!(count > 40 && relayed < u64::from(count) * 100, "{count} echoes, {relayed} bytes");
}

#[test]
fn two_homes_whose_nats_drop_what_was_not_asked_for_find_a_direct_way() {
    assert_direct_within_seconds([true, true]);
}

#[test]
fn two_homes_of_which_one_drops_find_a_direct_way() {
    assert_direct_within_seconds([true, false]);
}

#[test]
fn two_homes_whose_nats_refuse_find_a_direct_way() {
    assert_direct_within_seconds([false, false]);
}

#[test]
fn a_node_whose_only_address_changes_goes_on() {
    let [a, b] = neighbours(21, "9.0");
    wait("there is a way", || a.hops(&b) == Some(1));
    a.talk(&b, Duration::from_secs(1), || {});
    for number in 11..14 {
        let (old, new) = (if number == 11 { 1 } else { number - 1 }, number);
        let (longest, count) = a.talk(&b, Duration::from_secs(3), || {
            std::thread::sleep(Duration::from_secs(1));
            a.run(&format!("ip addr del 10.9.0.{old}/24 dev eth\nip addr add 10.9.0.{new}/24 dev eth"));
        });
        println!("after the address changed: longest pause {longest:?}, {count} echoes");
        assert!(longest < Duration::from_secs(1) && count > 60, "{longest:?}, {count} echoes");
        let links = b.status().peers;
        assert_eq!(links.len(), 1, "it is the link that it was");
        assert_eq!(links[0].endpoint, format!("10.9.0.{new}:{PORT}").parse().expect("an endpoint"));
    }
}

#[test]
fn two_links_to_one_neighbour_stand_ready() {
    let (mut a, mut b) = (Place::new("a", 31), Place::new("b", 32));
    a.join("one", "10.8.1.1", &b, "one", "10.8.1.2");
    a.join("two", "10.8.2.1", &b, "two", "10.8.2.2");
    start(&mut b, &[]);
    start(&mut a, &["10.8.1.2", "10.8.2.2"]);
    let up = |place: &Place| place.status().peers.iter().filter(|peer| peer.up).count();
    wait("both links are up at both ends", || up(&a) == 2 && up(&b) == 2);
    a.talk(&b, Duration::from_secs(1), || {});
    for link in ["one", "two", "one"] {
        let (longest, count) = a.talk(&b, Duration::from_secs(2), || {
            std::thread::sleep(Duration::from_secs(1));
            a.run(&format!("ip link set {link} down"));
        });
        println!("after link {link} was lost: longest pause {longest:?}, {count} echoes");
        assert!(longest < Duration::from_millis(600) && count > 40, "{longest:?}, {count} echoes");
        a.run(&format!("ip link set {link} up"));
        wait("both links are up again", || up(&a) == 2 && up(&b) == 2);
    }
}

#[test]
fn a_path_that_takes_less_all_of_a_sudden_carries_on_or_says_what_it_lacks() {
    let [a, b] = neighbours(41, "7.0");
    let set_mtu = |place: &Place, mtu: u16| drop(place.run(&format!("ip link set eth mtu {mtu}")));
    // More than fits when the path takes less: then the kernel must know, and send it in two pieces.
    let address = b.address().to_string();
    let passes = || {
        let mut ping = a.command("ping");
        ping.args(["-6", "-n", "-q", "-c1", "-W1", "-s1300", &address]).output().expect("it starts").status.success()
    };
    wait("large packets arrive", || a.hops(&b) == Some(1) && passes());

    for place in [&a, &b] {
        set_mtu(place, 1450);
    }
    let took = wait("large packets arrive over smaller interfaces", passes);
    println!("large packets arrive {took:?} after the interfaces became smaller");
    // Of each way one is lost, and one is what the kernel learns it from.
    assert!(took < Duration::from_secs(5), "{took:?}");
    // What is too large for its interface at the other end is dropped without a word.
    set_mtu(&b, 1400);
    let took = wait("large packets arrive over the smaller path", passes);
    println!("large packets arrive {took:?} after the path became smaller");
    assert!(took < Duration::from_secs(12), "{took:?}");

    for place in [&a, &b] {
        set_mtu(place, 1380);
    }
    // That shows when it is used.
    wait("the link is not used any more", || !passes() && a.hops(&b).is_none() && b.hops(&a).is_none());
    let problems = a.status().problems.join("\n");
    assert!(problems.contains("10.7.0.2") && problems.contains("at least 1390"), "{problems}");
    for place in [&a, &b] {
        set_mtu(place, 1500);
    }
    wait("the link is used again", || a.hops(&b) == Some(1) && b.hops(&a) == Some(1) && passes());
}
