//! The thread that makes final blocks durable, in groups.

use std::{sync::Arc, thread, time::Duration};

use alloy_primitives::Bytes;
use atoll_ledger_core::state::{BackendError, Batch, StateError};
use tokio::sync::{mpsc, oneshot};

use super::{Certified, Chain, ChainError, ExecutedBlock, index, lock};
use crate::limits;

/// A final block on its way to the disk.
pub(super) struct Final {
    pub(super) executed: Arc<ExecutedBlock>,
    pub(super) certificate: Option<Bytes>,
    /// Told when it is durable.
    pub(super) done: oneshot::Sender<()>,
}

/// Starts the thread; it ends when the sender is dropped.
pub(super) fn start(chain: Chain, mut inbox: mpsc::Receiver<Final>) -> Result<(), ChainError> {
    let weak = Arc::downgrade(&chain.0);
    drop(chain);
    let run = move || {
        while let Some(first) = inbox.blocking_recv() {
            let mut group = vec![first];
            while group.len() < limits::COMMIT_GROUP_MAX {
                let Ok(next) = inbox.try_recv() else { break };
                group.push(next);
            }
            let Some(inner) = weak.upgrade() else { return };
            let chain = Chain(inner);
            if let Err(error) = chain.commit_until_done(group) {
                chain.0.broken.send_replace(Some(Arc::new(error)));
                return;
            }
        }
    };
    thread::Builder::new().name("ledger-commit".into()).spawn(run).map_err(ChainError::Thread)?;
    Ok(())
}

impl Chain {
    /// A full disk stops the ledger here but loses nothing: consensus is not told that the blocks are done, and the
    /// commit is tried again until it works. Any other error is the end of this process: the next one reads what is on
    /// the disk, and consensus tells it again what is missing there.
    fn commit_until_done(&self, group: Vec<Final>) -> Result<(), StateError> {
        while let Err(error) = self.commit_group(&group) {
            if !matches!(&error, StateError::Backend(BackendError { retry: true, .. })) {
                return Err(error);
            }
            let why = format!("final blocks cannot be committed: {}", super::chain_of(&error));
            // Once, so that the log does not fill what is left of the disk.
            if lock(&self.0.problem).replace(why.clone()).is_none() {
                tracing::error!(%why, "the ledger waits");
            }
            thread::sleep(Duration::from_millis(limits::COMMIT_RETRY_MS));
        }
        *lock(&self.0.problem) = None;
        for last in group {
            // Whoever waited may have been dropped; the block is durable all the same.
            let _ = last.done.send(());
        }
        Ok(())
    }

    fn commit_group(&self, group: &[Final]) -> Result<(), StateError> {
        let committed = self.head().block.number();
        let mut batch = Batch::default();
        let mut newest = None;
        for last in group {
            if let Some(certificate) = &last.certificate {
                index::put_certificate(&mut batch, last.executed.block.number(), certificate);
            }
            if last.executed.block.number() > committed {
                index::put_block(&mut batch, &last.executed);
                newest = Some(&last.executed);
            }
        }
        let layer = newest.map_or_else(|| self.head().layer.clone(), |executed| executed.layer.clone());
        self.0.state.commit(&layer, batch)?;
        let Some(newest) = newest else { return Ok(()) };
        let forgotten = lock(&self.0.tree).commit(Arc::clone(newest));
        if forgotten > 0 {
            tracing::debug!(forgotten, "blocks that lost against a final one were dropped");
        }
        {
            let mut recent = lock(&self.0.recent);
            recent.extend(group.iter().map(|last| Arc::clone(&last.executed)));
            let surplus = recent.len().saturating_sub(limits::RECENT_STATES);
            recent.drain(..surplus);
        }
        self.0.head.send_replace(Arc::clone(newest));
        let certified = group.iter().rev().find_map(|last| {
            let certificate = last.certificate.clone()?;
            Some(Arc::new(Certified { executed: Arc::clone(&last.executed), certificate }))
        });
        if certified.is_some() {
            self.0.certified.send_replace(certified);
        }
        let txs = group.iter().flat_map(|last| &last.executed.transactions).map(|tx| (tx.signer(), tx.inner()));
        let header = newest.block.header();
        self.0.mempool.finalized(header.number, header.timestamp_ms, txs);
        Ok(())
    }
}
