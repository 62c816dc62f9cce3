//! Tells the mesh daemon where other nodes of the region can be called, as their owners published it on the ledger.

use std::path::PathBuf;

use atoll_api::mesh::{PUBLISHED_PEERS_MAX, PublishedPeer};
use atoll_base::{
    NodeId,
    published::{self, is_link},
};
use tokio::sync::watch;

use crate::{ledger::Verified, tell::tell};

/// Nobody is told without a socket.
pub(crate) async fn run(socket: Option<PathBuf>, own: NodeId, verified: watch::Receiver<Verified>) {
    tell(socket, "/v1/peers", verified, labelled, |nodes| published(own, nodes)).await;
}

/// What nodes say of themselves, if they say where they can be called. None before anything is verified.
fn labelled(verified: &Verified) -> Option<Vec<(NodeId, Vec<String>)>> {
    let nodes = verified.view.as_ref()?.nodes.iter().filter(|node| node.labels.iter().any(|label| is_link(label)));
    Some(nodes.map(|node| (node.id.into(), node.labels.clone())).collect())
}

/// The nodes that this one may call, those first that it should prefer.
fn published(own: NodeId, nodes: &[(NodeId, Vec<String>)]) -> Vec<PublishedPeer> {
    let mut ignored = 0;
    let with_links = nodes.iter().filter(|(node, _)| *node != own).filter_map(|(node, labels)| {
        let (links, bad) = published::links(labels);
        ignored += bad;
        let links: Vec<_> = links.iter().map(ToString::to_string).collect();
        (!links.is_empty()).then_some(PublishedPeer { node: *node, links })
    });
    let mut peers: Vec<_> = with_links.collect();
    peers.sort_by_cached_key(|peer| (published::rank(own, peer.node), peer.node));
    peers.truncate(PUBLISHED_PEERS_MAX);
    if ignored > 0 {
        tracing::debug!(ignored, "labels on the ledger name places that nobody can call");
    }
    peers
}

#[cfg(test)]
mod tests {
    use atoll_base::schema::NodeRecord;

    use super::*;
    use crate::{
        gateway::tests::node,
        tell::tests::{listener, with_nodes},
    };

    fn with_labels(id: u8, labels: &[&str]) -> NodeRecord {
        NodeRecord { labels: labels.iter().map(|label| (*label).to_owned()).collect(), ..node(id) }
    }

    fn peer(id: u8, links: &[&str]) -> PublishedPeer {
        PublishedPeer { node: NodeId([id; 32]), links: links.iter().map(|link| (*link).to_owned()).collect() }
    }

    #[tokio::test]
    async fn others_that_publish_a_place_are_told_and_taken_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("mesh.sock");
        let mut heard = listener::<PublishedPeer>(&socket, "/v1/peers");
        let (verified_in, verified) = watch::channel(Verified::default());
        let task = tokio::spawn(run(Some(socket), NodeId([1; 32]), verified));
        verified_in.send_replace(with_nodes(vec![
            with_labels(1, &["link=udp://203.0.113.1:4870"]),
            with_labels(
                2,
                &["zone=a", "link=udp://203.0.113.2:4870", "link=udp://127.0.0.1:1", "link=tls://gw.example"],
            ),
            with_labels(3, &["link=udp://localhost:1", "link=nonsense"]),
        ]));
        let two = peer(2, &["udp://203.0.113.2:4870", "tls://gw.example:443"]);
        assert_eq!(heard.recv().await, Some(vec![two.clone()]));
        // The mesh daemon may have forgotten: it is told again.
        assert_eq!(heard.recv().await, Some(vec![two]));
        verified_in.send_replace(with_nodes(vec![with_labels(2, &["zone=a"])]));
        assert_eq!(heard.recv().await, Some(vec![]));
        drop(verified_in);
        task.await.expect("it ends with the ledger's follower");
    }

    #[test]
    fn of_too_many_each_node_is_told_others() {
        let nodes = (0..2 * PUBLISHED_PEERS_MAX).map(|number| {
            let mut record = with_labels(0, &["link=tls://gw.example"]);
            record.id.0[..8].copy_from_slice(&(number as u64 + 1).to_be_bytes());
            record
        });
        let nodes = labelled(&with_nodes(nodes.collect())).expect("verified");
        let told = |own: u8| published(NodeId([own; 32]), &nodes);
        let (one, two) = (told(1), told(2));
        assert_eq!((one.len(), two.len()), (PUBLISHED_PEERS_MAX, PUBLISHED_PEERS_MAX));
        assert_eq!(one, told(1));
        let both = one.iter().filter(|peer| two.contains(peer)).count();
        assert!((PUBLISHED_PEERS_MAX / 4..PUBLISHED_PEERS_MAX * 3 / 4).contains(&both), "{both}");
    }
}
