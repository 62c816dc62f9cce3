//! Tells the mesh daemon who is registered in the region, as the node verified it: in a closed region nobody else joins.

use std::path::PathBuf;

use atoll_base::NodeId;
use tokio::sync::watch;

use crate::{ledger::Verified, tell::tell};

/// Nobody is told without a socket, that is in an open region.
pub(crate) async fn run(socket: Option<PathBuf>, verified: watch::Receiver<Verified>) {
    tell(socket, "/v1/members", verified, registered, <[NodeId]>::to_vec).await;
}

/// All registered nodes. None before anything is verified: then those whom the mesh's configuration names must do, and
/// the ledger's servers are among these.
fn registered(verified: &Verified) -> Option<Vec<NodeId>> {
    Some(verified.view.as_ref()?.nodes.iter().map(|node| node.id.into()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        gateway::tests::node,
        tell::tests::{listener, with_nodes},
    };

    fn of(ids: &[u8]) -> Verified {
        with_nodes(ids.iter().map(|id| node(*id)).collect())
    }

    #[tokio::test]
    async fn each_change_of_the_registered_nodes_is_told_once_the_first_is_verified() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("mesh.sock");
        let mut heard = listener::<NodeId>(&socket, "/v1/members");
        let (verified_in, verified) = watch::channel(Verified::default());
        let task = tokio::spawn(run(Some(socket), verified));
        verified_in.send_replace(of(&[1, 2]));
        assert_eq!(heard.recv().await, Some(vec![NodeId([1; 32]), NodeId([2; 32])]));
        // Another block without a change of nodes, then one with.
        verified_in.send_replace(Verified { height: 9, ..of(&[1, 2]) });
        verified_in.send_replace(of(&[2]));
        assert_eq!(heard.recv().await, Some(vec![NodeId([2; 32])]));
        // The mesh daemon may have forgotten: it is told again.
        assert_eq!(heard.recv().await, Some(vec![NodeId([2; 32])]));
        drop(verified_in);
        task.await.expect("it ends with the ledger's follower");
    }
}
