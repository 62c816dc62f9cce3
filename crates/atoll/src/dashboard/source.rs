//! Where the page's data comes from: the ledger's JSON-RPC and the node's own socket, asked at most once a second.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use atoll_api::{UnixClient, ledger::LedgerStatus, node::NodeStatus};
use atoll_base::{
    Charter, RegionId,
    contracts::{CHARTER, ICharter},
};
use serde_json::json;
use tokio::sync::Mutex;

use super::snapshot::{EVENTS_MAX, Ledger, Snapshot};
use crate::{
    cli::{apps, nodes, region::now_ms},
    history::{self, Event},
    rpc::{Rpc, RpcError},
};

/// All viewers within this time see the same.
const FRESH: Duration = Duration::from_secs(1);
/// How long one server may take to answer everything.
const PATIENCE: Duration = Duration::from_secs(3);
/// Apps read from the ledger: one more than the page shows would do, the rest is for the count.
const APPS_READ_MAX: usize = 100;

/// Gathers snapshots and keeps the newest for a second.
pub(crate) struct Source {
    charter: Charter,
    region: RegionId,
    servers: Vec<Rpc>,
    node: UnixClient,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    snapshot: Option<(Instant, Arc<Snapshot>)>,
    /// Which server answered last.
    server: usize,
    /// Newest first.
    events: Vec<Event>,
    /// Blocks up to this height were searched for events.
    searched: Option<u64>,
}

impl Source {
    /// For a region, the ledger servers to ask in this order, and the node's socket.
    pub(crate) fn new(charter: Charter, servers: &[String], node: UnixClient) -> Self {
        let servers = servers.iter().map(Rpc::new).collect();
        Self { region: charter.region_id(), charter, servers, node, kept: Mutex::default() }
    }

    /// The newest snapshot. Whoever comes while it is gathered waits for it instead of asking again.
    pub(super) async fn snapshot(&self) -> Arc<Snapshot> {
        let mut kept = self.kept.lock().await;
        if let Some((at, snapshot)) = &kept.snapshot
            && at.elapsed() < FRESH
        {
            return snapshot.clone();
        }
        let snapshot = Arc::new(self.gather(&mut kept).await);
        kept.snapshot = Some((Instant::now(), snapshot.clone()));
        snapshot
    }

    async fn gather(&self, kept: &mut Kept) -> Snapshot {
        let mut snapshot = Snapshot::of(&self.charter);
        let mut why = "the list of servers is empty".to_owned();
        for attempt in 0..self.servers.len() {
            let index = (kept.server + attempt) % self.servers.len();
            let Some(rpc) = self.servers.get(index) else { break };
            let mut fresh = snapshot.clone();
            match tokio::time::timeout(PATIENCE, self.ask(rpc, &mut fresh, kept)).await {
                Ok(Ok(())) => {
                    kept.server = index;
                    snapshot = fresh;
                    break;
                }
                Ok(Err(error)) => why = error.to_string(),
                Err(_) => why = format!("it does not answer within {} s", PATIENCE.as_secs()),
            }
        }
        if snapshot.ledger.is_none() {
            snapshot.problems.push(format!("no ledger answers: {why}"));
            // What was last known is better than nothing; the page says that the ledger is away.
            if let Some((_, old)) = &kept.snapshot {
                snapshot.nodes.clone_from(&old.nodes);
                snapshot.apps.clone_from(&old.apps);
            }
        }
        match tokio::time::timeout(PATIENCE, self.node.get::<NodeStatus>("/v1/status")).await {
            Ok(Ok(status)) => snapshot.problems.extend(status.problems),
            Ok(Err(error)) => snapshot.problems.push(error.to_string()),
            Err(_) => snapshot.problems.push("the node's own daemon does not answer".to_owned()),
        }
        snapshot.events.clone_from(&kept.events);
        snapshot.now_ms = now_ms();
        snapshot
    }

    async fn ask(&self, rpc: &Rpc, snapshot: &mut Snapshot, kept: &mut Kept) -> Result<(), RpcError> {
        let status: LedgerStatus = rpc.request("atoll_status", json!([])).await?;
        snapshot.nodes = nodes::list(rpc, self.region).await?;
        snapshot.apps = apps::list(rpc, self.region, false, APPS_READ_MAX).await?;
        let supply = rpc.call(CHARTER, &ICharter::supplyCall {}).await?;
        self.search(rpc, kept, status.height).await?;
        snapshot.problems.extend(status.problems);
        snapshot.ledger = Some(Ledger {
            height: status.height,
            block_ms: status.timestamp_ms,
            finality_ms: status.finality_ms,
            pending: status.pending,
            supply,
        });
        Ok(())
    }

    /// Adds the events of the blocks since the last search.
    async fn search(&self, rpc: &Rpc, kept: &mut Kept, height: u64) -> Result<(), RpcError> {
        let first = kept.searched.map_or(0, |searched| searched.saturating_add(1));
        if first > height {
            return Ok(());
        }
        let mut events = history::of_region(rpc, first, height).await?;
        events.reverse();
        events.append(&mut kept.events);
        events.truncate(EVENTS_MAX);
        kept.events = events;
        kept.searched = Some(height);
        Ok(())
    }
}
