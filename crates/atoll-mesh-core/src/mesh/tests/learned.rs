//! Neighbours of which somebody told where they are and who.

use super::*;
use crate::limits::LEARNED_LINKS_MAX;

fn up(node: &Mesh) -> Vec<(Option<NodeId>, Origin)> {
    node.link_status().iter().filter(|link| link.is_up).map(|link| (link.node, link.origin)).collect()
}

#[test]
fn a_node_is_taken_where_it_is_said_to_be_and_told_when_it_is_not_needed() {
    let mut pair = Pair::strangers();
    let far = pair.nodes[1].local.node;
    assert!(pair.nodes[0].add_learned_peer(endpoint(1), far, pair.now));
    pair.run(Duration::from_secs(1));
    assert_eq!(up(&pair.nodes[0]), [(Some(far), Origin::Learned)]);
    assert_eq!(up(&pair.nodes[1]).len(), 1);
    pair.nodes[0].end_learned_peer(endpoint(1), pair.now);
    pair.run(Duration::from_millis(10));
    for node in &pair.nodes {
        assert!(node.link_status().is_empty(), "{:?}", node.link_status());
    }
}

#[test]
fn whoever_answers_in_its_stead_is_refused() {
    let mut pair = Pair::strangers();
    let (said, there) = (node(3).local.node, pair.nodes[1].local.node);
    assert!(pair.nodes[0].add_learned_peer(endpoint(1), said, pair.now));
    pair.run(Duration::from_secs(1));
    assert!(pair.nodes[0].link_status().is_empty() && up(&pair.nodes[1]).is_empty());
    assert_eq!(pair.nodes[0].counters.refused_wrong_node, 1);
    let refused = Event::WrongNode { node: there, endpoint: endpoint(1) };
    assert!(core::iter::from_fn(|| pair.nodes[0].poll_event()).any(|event| event == refused));
    // The owner's own word counts for more: whoever is there is taken.
    assert!(pair.nodes[0].add_learned_peer(endpoint(1), said, pair.now));
    assert!(pair.nodes[0].add_peer(endpoint(1), Origin::Static, pair.now));
    pair.run(Duration::from_secs(1));
    assert_eq!(up(&pair.nodes[0]), [(Some(there), Origin::Static)]);
    pair.nodes[0].end_learned_peer(endpoint(1), pair.now);
    assert_eq!(up(&pair.nodes[0]).len(), 1, "it is no learned one any more");
}

#[test]
fn whoever_calls_from_there_has_a_link_of_its_own() {
    let mut pair = Pair::strangers();
    let (said, there) = (node(3).local.node, pair.nodes[1].local.node);
    assert!(pair.nodes[0].add_learned_peer(endpoint(1), said, pair.now));
    assert!(pair.nodes[1].add_peer(endpoint(0), Origin::Static, pair.now));
    pair.run(Duration::from_secs(3));
    assert_eq!(up(&pair.nodes[0]), [(Some(there), Origin::Incoming)]);
}

#[test]
fn they_are_bounded_and_nobody_is_called_twice_or_within_the_mesh() {
    let mut alone = node(1);
    let (own, other) = (alone.local.node, node(2).local.node);
    assert!(!alone.add_learned_peer(endpoint(1), own, Time::ZERO));
    let inside = SocketAddr::new(alone.network.host(7).into(), 4870);
    assert!(!alone.add_learned_peer(inside, other, Time::ZERO));
    for index in 0..LEARNED_LINKS_MAX {
        assert!(alone.add_learned_peer(endpoint(index), other, Time::ZERO));
        assert!(!alone.add_learned_peer(endpoint(index), other, Time::ZERO));
    }
    assert!(!alone.add_learned_peer(endpoint(100), other, Time::ZERO));
    assert!(alone.add_peer(endpoint(100), Origin::Static, Time::ZERO));
}
