//! Tells the mesh daemon of this machine what the ledger says, as the node verified it.

use std::path::PathBuf;

use atoll_api::UnixClient;
use serde::Serialize;
use tokio::{sync::watch, time::timeout};

use crate::{ledger::Verified, limits::TELL_INTERVAL};

/// Tells it what `select` finds, as `render` writes it, at each change, and again every [`TELL_INTERVAL`]: the mesh daemon
/// may have been started anew. An empty list is told once: it is what the mesh daemon begins with. Nothing is told before
/// something is found, nor without a socket. With each block it is only asked what is found.
pub(crate) async fn tell<F: PartialEq, T: Serialize>(
    socket: Option<PathBuf>,
    path: &str,
    mut verified: watch::Receiver<Verified>,
    select: impl Fn(&Verified) -> Option<Vec<F>>,
    render: impl Fn(&[F]) -> Vec<T>,
) {
    let Some(socket) = socket else { return };
    let client = UnixClient::new(socket);
    let mut is_empty_told = false;
    loop {
        let found = select(&verified.borrow_and_update());
        let list = found.as_deref().map(&render);
        if let Some(list) = list.filter(|list| !list.is_empty() || !is_empty_told) {
            let told = client.post::<_, ()>(path, &list).await;
            if let Err(error) = &told {
                tracing::warn!(path, %error, "the mesh was not told what the ledger says");
            }
            is_empty_told = list.is_empty() && told.is_ok();
        }
        let change = verified.wait_for(|verified| select(verified) != found);
        if let Ok(Err(_)) = timeout(TELL_INTERVAL, change).await {
            return;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{path::Path, sync::Arc};

    use atoll_base::schema::{NodeRecord, RegionView};
    use axum::{Json, Router, routing::post};
    use serde::de::DeserializeOwned;
    use tokio::{net::UnixListener, sync::mpsc};

    use super::*;

    /// What was verified, with these nodes.
    pub(crate) fn with_nodes(nodes: Vec<NodeRecord>) -> Verified {
        Verified { view: Some(Arc::new(RegionView { nodes, ..RegionView::default() })), ..Verified::default() }
    }

    /// A mesh daemon that only listens: what it is told.
    pub(crate) fn listener<T: DeserializeOwned + Send + 'static>(socket: &Path, path: &str) -> mpsc::Receiver<Vec<T>> {
        let (heard_in, heard) = mpsc::channel::<Vec<T>>(16);
        let hear = async move |Json(list): Json<Vec<T>>| {
            // A test that has ended listens no more.
            let _ = heard_in.send(list).await;
            Json(())
        };
        let listener = UnixListener::bind(socket).expect("a socket");
        let app = Router::new().route(path, post(hear));
        tokio::spawn(async move { axum::serve(listener, app).await });
        heard
    }
}
