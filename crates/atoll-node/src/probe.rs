//! What this machine can do, found out in the background: trying KVM may take seconds.

use std::sync::Arc;

use atoll_api::node::Capability;
use atoll_os::{probe, vm::Accelerator};
use tokio::sync::watch;

use crate::config::Checked;

/// What was found out so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    /// For the API.
    pub(crate) capabilities: Arc<Vec<Capability>>,
    /// How micro-VMs are executed; none until that is known.
    pub(crate) accelerator: Option<Accelerator>,
}

/// Looks once.
pub(crate) async fn run(checked: Arc<Checked>, out: watch::Sender<Found>) {
    let folder = checked.config.data.clone();
    match tokio::task::spawn_blocking(move || probe::all(&folder)).await {
        Ok(found) => {
            let accelerator = Some(probe::accelerator(&found));
            let told =
                found.into_iter().map(|c| Capability { name: c.name.to_owned(), works: c.works, detail: c.detail });
            out.send_replace(Found { capabilities: Arc::new(told.collect()), accelerator });
        }
        Err(error) => tracing::warn!(%error, "cannot find out what this machine can do"),
    }
}
