//! Tells the mesh daemon who is registered in the region, as the node verified it: in a closed region nobody else joins.

use std::path::PathBuf;

use atoll_api::UnixClient;
use atoll_base::NodeId;
use tokio::{sync::watch, time::timeout};

use crate::{ledger::Verified, limits::MEMBERS_INTERVAL};

/// Tells it at each change, and again every [`MEMBERS_INTERVAL`]: the mesh daemon may have been started anew. Nobody is
/// told without a socket, that is in an open region.
pub(crate) async fn tell(socket: Option<PathBuf>, mut verified: watch::Receiver<Verified>) {
    let Some(socket) = socket else { return };
    let client = UnixClient::new(socket);
    loop {
        let members = registered(&verified.borrow_and_update());
        if let Some(members) = &members
            && let Err(error) = client.post::<_, ()>("/v1/members", members).await
        {
            tracing::warn!(%error, "the mesh was not told who is registered");
        }
        let change = verified.wait_for(|verified| registered(verified) != members);
        if let Ok(Err(_)) = timeout(MEMBERS_INTERVAL, change).await {
            return;
        }
    }
}

/// All registered nodes. None before anything is verified: then those whom the mesh's configuration names must do, and
/// the ledger's servers are among these.
fn registered(verified: &Verified) -> Option<Vec<NodeId>> {
    Some(verified.view.as_ref()?.nodes.iter().map(|node| node.id.into()).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use atoll_base::schema::RegionView;
    use axum::{Json, Router, routing::post};
    use tokio::{net::UnixListener, sync::mpsc};

    use super::*;
    use crate::gateway::tests::node;

    fn of(ids: &[u8]) -> Verified {
        let view = RegionView { nodes: ids.iter().map(|id| node(*id)).collect(), ..RegionView::default() };
        Verified { view: Some(Arc::new(view)), ..Verified::default() }
    }

    #[tokio::test]
    async fn each_change_of_the_registered_nodes_is_told_once_the_first_is_verified() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("mesh.sock");
        let (heard_in, mut heard) = mpsc::channel::<Vec<NodeId>>(16);
        let hear = async move |Json(members): Json<Vec<NodeId>>| {
            heard_in.send(members).await.expect("the test listens");
            Json(())
        };
        let listener = UnixListener::bind(&socket).expect("a socket");
        let app = Router::new().route("/v1/members", post(hear));
        tokio::spawn(async move { axum::serve(listener, app).await });
        let (verified_in, verified) = watch::channel(Verified::default());
        let task = tokio::spawn(tell(Some(socket), verified));
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
