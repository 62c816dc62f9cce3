//! Nodes that are told where others can be called, as a node daemon tells them what the ledger says. Needs root.

mod support;

use std::time::Duration;

use atoll_api::{
    UnixClient,
    mesh::{PUBLISHED_PEERS_MAX, Peer, PublishedPeer},
};
use atoll_base::{NodeId, NodeSecret};
use atoll_mesh::{Config, limits};
use support::{How, PORT, wait};

support::place_of_lab!();

impl Place {
    fn new(name: &str, seed: u8) -> Self {
        Self(support::Place::new(name, seed))
    }

    fn start(&mut self, change: impl FnOnce(Config) -> Config) {
        let config = change(self.config());
        self.0.start(config);
    }

    /// Says to its daemon where others can be called.
    fn tell(&self, peers: &[PublishedPeer]) -> Result<(), String> {
        let post = async || UnixClient::new(self.socket()).post::<_, ()>("/v1/peers", &peers).await;
        self.block_on(post).map_err(|error| error.to_string())
    }

    fn id(&self) -> NodeId {
        self.secret.id()
    }

    /// Its neighbours that are up, and how each was found.
    fn neighbours(&self) -> Vec<(Option<NodeId>, String)> {
        let up = self.status().peers.into_iter().filter(|peer| peer.up);
        up.map(|peer: Peer| (peer.node, peer.origin)).collect()
    }

    fn has(&self, other: &Self, origin: &str) -> bool {
        self.neighbours().iter().any(|(node, found)| *node == Some(other.id()) && found == origin)
    }
}

fn at(node: NodeId, links: &[&str]) -> PublishedPeer {
    PublishedPeer { node, links: links.iter().map(|link| (*link).to_owned()).collect() }
}

/// Two that can be called by a third, and each other by nobody.
fn star() -> [Place; 3] {
    let [home, left, right] = [Place::new("home", 1), Place::new("left", 2), Place::new("right", 3)];
    home.join("to-left", "10.8.1.1", &left, "eth", "10.8.1.2");
    home.join("to-right", "10.8.2.1", &right, "eth", "10.8.2.2");
    [home, left, right]
}

#[test]
fn a_node_without_peers_finds_those_that_it_is_told_of_also_after_a_restart() {
    let [mut home, mut left, mut right] = star();
    home.start(|config| config);
    left.start(|config| config);
    right.start(|config| Config { listen_tls: Some(([0, 0, 0, 0], 8443).into()), ..config });
    let both = [
        at(left.id(), &["udp://10.8.1.2:4870"]),
        // The first place is nobody's; the second one is over TLS, although this node has no such setting.
        at(right.id(), &["udp://10.8.2.9:4870", "tls://10.8.2.2:8443"]),
    ];
    home.tell(&both).expect("taken");
    wait("both are neighbours", || home.has(&left, "learned") && home.has(&right, "learned"));
    let peers = home.status().peers;
    assert!(peers.iter().any(|peer| peer.endpoint.to_string() == "tls://10.8.2.2:8443"), "{peers:?}");
    wait("they reach each other", || left.hops(&right) == Some(2) && right.hops(&left) == Some(2));
    assert_eq!(home.status().problems, Vec::<String>::new());
    assert!(left.has(&home, "incoming"));

    // The owner of one takes the place back.
    home.tell(&both[1..]).expect("taken");
    wait("it is called no more", || home.neighbours().len() == 1);
    wait("and knows it", || left.neighbours().is_empty());

    home.0.stop(How::Crash);
    home.start(|config| config);
    home.tell(&both).expect("taken");
    wait("both are neighbours again", || home.has(&left, "learned") && home.has(&right, "learned"));
    home.tell(&[]).expect("taken");
    wait("nor is the other", || home.neighbours().is_empty() && right.neighbours().is_empty());
}

#[test]
fn whoever_else_answers_there_and_what_cannot_be_called_is_nobody() {
    let [mut home, mut left, mut right] = star();
    home.start(|config| config);
    left.start(|config| config);
    right.start(|config| config);
    let stranger = NodeSecret::from_seed([99; 32]).id();
    let inside = format!("udp://[{}]:{PORT}", left.address());
    let told = [
        at(stranger, &["udp://10.8.1.2:4870"]),
        at(right.id(), &["udp://127.0.0.1:4870", "udp://[fe80::1%eth]:4870", "tcp://10.8.2.2:1", &inside]),
        at(home.id(), &["udp://10.8.2.2:4870"]),
    ];
    home.tell(&told).expect("taken");
    wait("the wrong node is refused", || home.metric("refused_wrong_node_total") > 0);
    assert_eq!((home.metric("learned_nodes"), home.metric("learned_ignored")), (2, 3));
    assert!(home.neighbours().is_empty() && left.neighbours().is_empty() && right.neighbours().is_empty());

    let many = vec![at(stranger, &[]); PUBLISHED_PEERS_MAX + 1];
    let refusal = home.tell(&many).expect_err("too many");
    assert!(refusal.contains(&PUBLISHED_PEERS_MAX.to_string()), "{refusal}");
    assert_eq!(home.metric("learned_nodes"), 2, "what was told before stays");
}

#[test]
fn with_enough_neighbours_nobody_is_called_until_one_is_lost() {
    let [mut home, mut left, mut right] = star();
    let mut third = Place::new("third", 4);
    home.join("to-third", "10.8.3.1", &third, "eth", "10.8.3.2");
    for place in [&mut left, &mut right, &mut third] {
        place.start(|config| config);
    }
    let peers = ["udp://10.8.1.2:4870", "udp://10.8.2.2:4870"].map(str::to_owned);
    home.start(|config| Config { peers: peers.into(), ..config });
    wait("it has those that its owner named", || home.neighbours().len() == limits::NEIGHBOURS_WANTED);
    home.tell(&[at(third.id(), &["udp://10.8.3.2:4870"]), at(left.id(), &["udp://10.8.1.2:4870"])]).expect("taken");
    let end = std::time::Instant::now() + limits::LEARNED_GRACE + Duration::from_secs(5);
    while std::time::Instant::now() < end {
        assert_eq!(home.status().peers.len(), limits::NEIGHBOURS_WANTED, "nobody else is called");
        std::thread::sleep(Duration::from_millis(100));
    }
    left.0.stop(How::Orderly);
    wait("another stands in", || home.has(&third, "learned"));
}
