//! The node's own transactions: heartbeats, reports, and content keys for standbys. All are free of gas and signed with
//! the node's own account key.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use alloy_consensus::{SignableTransaction as _, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_network::TxSignerSync as _;
use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::SolCall as _;
use atoll_base::{
    LeaseId, NodeId, NodeSecret,
    contracts::{DEPLOYMENTS, IDeployments, INodes, NODES},
    schema::{LeaseRecord, RegionView},
    seal::{self, ContentKey},
};
use atoll_node_core::{Record, Report, reports};
use rand::Rng as _;
use tokio::sync::watch;

use super::{
    Verified,
    follow::{Ledger, LedgerError},
};
use crate::{
    limits::{FREE_GAS, REPORT_AGAIN, REPORTS_MAX},
    metrics::Metrics,
};

/// The journal's records, as everyone in the daemon may see them.
pub(crate) type Records = Arc<BTreeMap<LeaseId, Record>>;

/// Gives the content keys that this node can open, to hand them on to standbys.
pub(crate) trait Keys: Send + Sync + 'static {
    /// The content key of a lease that this node runs.
    fn content_key(&self, lease: LeaseId) -> Option<ContentKey>;
}

/// The account key is not one (cannot happen with a derived key but for one seed in 2^128).
#[derive(Debug, thiserror::Error)]
#[error("the node's account key cannot be used: {0}; make a new identity")]
pub(crate) struct AccountError(String);

/// The task that sends.
pub(crate) struct Sender<K> {
    ledger: Ledger,
    chain_id: u64,
    me: NodeId,
    signer: PrivateKeySigner,
    records: watch::Receiver<Records>,
    keys: K,
    heartbeat: Duration,
    metrics: Metrics,
    /// When each report was sent last.
    sent: BTreeMap<LeaseId, (Report, Instant)>,
    /// Standbys that are known to have the key, by (deployment, service, node).
    shared: BTreeMap<(u64, u32, B256), Instant>,
    problem: watch::Sender<Option<String>>,
}

/// A call to a system contract.
struct Call {
    to: Address,
    input: Bytes,
}

/// The account that belongs to a node.
pub(crate) fn signer(secret: &NodeSecret) -> Result<PrivateKeySigner, AccountError> {
    PrivateKeySigner::from_bytes(&secret.account().into()).map_err(|e| AccountError(e.to_string()))
}

impl<K: Keys> Sender<K> {
    #[allow(clippy::too_many_arguments, reason = "called once; a struct would only repeat the fields")]
    pub(crate) fn new(
        ledger: Ledger,
        chain_id: u64,
        heartbeat_ms: u64,
        me: NodeId,
        signer: PrivateKeySigner,
        records: watch::Receiver<Records>,
        keys: K,
        metrics: Metrics,
        problem: watch::Sender<Option<String>>,
    ) -> Self {
        let heartbeat = Duration::from_millis(heartbeat_ms);
        let (sent, shared) = (BTreeMap::new(), BTreeMap::new());
        Self { ledger, chain_id, me, signer, records, keys, heartbeat, metrics, sent, shared, problem }
    }

    /// Sends for ever: a heartbeat in every interval, reports as soon as they are due.
    pub(crate) async fn run(mut self) {
        let mut verified = self.ledger.verified();
        let mut beat = tokio::time::interval(self.heartbeat);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let beat_due = tokio::select! {
                _ = beat.tick() => true,
                changed = verified.changed() => { if changed.is_err() { return } false }
                changed = self.records.changed() => { if changed.is_err() { return } false }
            };
            let now = verified.borrow_and_update().clone();
            if !self.is_registered(&now) {
                continue;
            }
            let outcome = self.send_due(&now, beat_due).await;
            let problem = outcome.err().map(|error| format!("the ledger takes no word from this node: {error}"));
            self.problem.send_if_modified(|known| {
                let changed = *known != problem;
                *known = problem;
                changed
            });
        }
    }

    fn is_registered(&self, now: &Verified) -> bool {
        let Some(view) = &now.view else { return false };
        let me = self.me.word();
        view.nodes.iter().any(|node| node.id == me && node.account == self.signer.address())
    }

    async fn send_due(&mut self, now: &Verified, beat_due: bool) -> Result<(), LedgerError> {
        let view = now.view();
        let mut calls = Vec::new();
        if beat_due {
            calls.push(Call { to: NODES, input: INodes::heartbeatCall {}.abi_encode().into() });
        }
        calls.extend(self.due_reports(&view));
        if beat_due {
            calls.extend(self.due_keys(&view).await?);
        }
        if calls.is_empty() {
            return Ok(());
        }
        let mut nonce = self.ledger.nonce(self.signer.address()).await?;
        for call in calls.into_iter().take(REPORTS_MAX) {
            let Some(raw) = self.sign(call, nonce) else { continue };
            self.ledger.submit(raw).await?;
            nonce += 1;
        }
        if beat_due {
            self.metrics.heartbeats.inc();
        }
        Ok(())
    }

    fn due_reports(&mut self, view: &RegionView) -> Vec<Call> {
        let records = self.records.borrow().clone();
        let due = reports(view, self.me, &records);
        self.sent.retain(|lease, _| records.contains_key(lease));
        let mut calls = Vec::new();
        for report in due {
            let again = self.sent.get(&report.lease);
            if again.is_some_and(|(old, at)| *old == report && at.elapsed() < REPORT_AGAIN) {
                continue;
            }
            tracing::info!(lease = report.lease.0, state = ?report.state, why = report.why, "reports");
            let input = IDeployments::reportCall {
                lease: report.lease.0,
                epoch: report.epoch,
                state: report.state.code().try_into().unwrap_or(IDeployments::LeaseState::Failed),
                why: report.why.clone(),
            };
            calls.push(Call { to: DEPLOYMENTS, input: input.abi_encode().into() });
            self.sent.insert(report.lease, (report, Instant::now()));
        }
        calls
    }

    /// Keys for standbys that have none yet.
    async fn due_keys(&mut self, view: &RegionView) -> Result<Vec<Call>, LedgerError> {
        let mine = |lease: &&LeaseRecord| lease.runner() == Some(self.me) && !lease.standby.is_zero();
        let mut calls = Vec::new();
        for lease in view.leases.values().filter(mine) {
            let place = (lease.deployment, lease.service, lease.standby);
            if self.shared.contains_key(&place) {
                continue;
            }
            let Some(key) = self.keys.content_key(LeaseId(lease.id)) else { continue };
            let Some(standby) = view.nodes.iter().find(|node| node.id == lease.standby) else { continue };
            let sealed = self.ledger.sealed(lease.deployment, lease.service, lease.standby.into()).await?;
            if !sealed.sealed_key.is_empty() {
                self.shared.insert(place, Instant::now());
                continue;
            }
            let mut entropy = [0; 32];
            rand::rng().fill_bytes(&mut entropy);
            let Ok(sealed) = seal::seal_key(&standby.sealing_key.0, &key, entropy) else {
                // A standby with an impossible key can never take over; asking again would not change that.
                self.shared.insert(place, Instant::now());
                continue;
            };
            tracing::info!(lease = lease.id, standby = NodeId::from(lease.standby).short(), "hands the key on");
            let input = IDeployments::shareKeyCall {
                lease: lease.id,
                epoch: lease.epoch,
                node: lease.standby,
                key: sealed.into(),
            };
            calls.push(Call { to: DEPLOYMENTS, input: input.abi_encode().into() });
        }
        Ok(calls)
    }

    fn sign(&self, call: Call, nonce: u64) -> Option<Bytes> {
        let mut tx = TxEip1559 {
            chain_id: self.chain_id,
            nonce,
            gas_limit: FREE_GAS,
            max_fee_per_gas: 0,
            max_priority_fee_per_gas: 0,
            to: TxKind::Call(call.to),
            value: U256::ZERO,
            input: call.input,
            ..TxEip1559::default()
        };
        match self.signer.sign_transaction_sync(&mut tx) {
            Ok(signature) => Some(TxEnvelope::from(tx.into_signed(signature)).encoded_2718().into()),
            Err(error) => {
                tracing::warn!(%error, "cannot sign with the node's own key");
                None
            }
        }
    }
}
