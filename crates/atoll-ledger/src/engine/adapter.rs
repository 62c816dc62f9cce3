//! Between marshal's application interface and ours: pace, time and the header fields that consensus decides.

use std::time::Duration;

use atoll_base::{NodeId, charter::Timing};
use atoll_light::certificate::Scheme;
use commonware_consensus::{marshal::ancestry::Ancestry, simplex::types::Context};
use commonware_cryptography::{Digested, Digestible as _, ed25519, sha256};
use commonware_macros::select;
use commonware_runtime::Clock;
use futures::StreamExt as _;

use super::{Ancestors, Application, Block, Proposal, clock::LedgerClock, limits::CLOCK_SKEW_MS};

/// Consensus' word on a block: its round, leader and parent.
type Round = Context<sha256::Digest, ed25519::PublicKey>;

/// Presents an [`Application`] to marshal.
#[derive(Clone)]
pub(crate) struct Adapter<A> {
    pub(crate) application: A,
    pub(crate) clock: LedgerClock,
    pub(crate) block_min_ms: u64,
    pub(crate) block_idle_ms: u64,
}

impl<A: Application> Adapter<A> {
    pub(crate) fn new(application: A, clock: LedgerClock, timing: &Timing) -> Self {
        Self { application, clock, block_min_ms: timing.block_min_ms, block_idle_ms: timing.block_idle_ms }
    }

    /// Waits for something to order, within the region's pace: not before `block_min_ms` and not beyond `block_idle_ms`
    /// after the parent. Both waits are bounded, because the parent's time may lie in this clock's future.
    async fn pace(&self, context: &impl Clock, parent: &Block) {
        let age_ms = self.clock.now_ms(context.current()).saturating_sub(parent.header().timestamp_ms);
        context.sleep(Duration::from_millis(self.block_min_ms.saturating_sub(age_ms))).await;
        let age_ms = age_ms.max(self.block_min_ms);
        select! {
            () = self.application.ready() => {},
            () = context.sleep(Duration::from_millis(self.block_idle_ms.saturating_sub(age_ms))) => {},
        }
    }

    /// Checks what consensus knows of a block beside its contents. Marshal has checked height and parent.
    fn matches_round(&self, round: &Round, parent: &Block, block: &Block) -> bool {
        let header = block.header();
        let earliest_ms = parent.header().timestamp_ms.saturating_add(self.block_min_ms);
        header.epoch == round.round.epoch().get()
            && header.view == round.round.view().get()
            && header.proposer == node_id(&round.leader).word()
            && header.timestamp_ms >= earliest_ms
    }

    /// Waits while the block lies in the future: whether it still does is not the same on every machine, so it must not
    /// decide whether the block is valid.
    async fn await_time(&self, context: &impl Clock, block: &Block) {
        loop {
            let now_ms = self.clock.now_ms(context.current());
            let ahead_ms = block.header().timestamp_ms.saturating_sub(now_ms.saturating_add(CLOCK_SKEW_MS));
            if ahead_ms == 0 {
                return;
            }
            // The ledger's time may jump forward meanwhile, so this looks again soon.
            context.sleep(Duration::from_millis(ahead_ms.min(CLOCK_SKEW_MS))).await;
        }
    }
}

impl<E: Clock, A: Application> commonware_consensus::Application<E> for Adapter<A> {
    type SigningScheme = Scheme;
    type Context = Round;
    type Block = Block;
    type Input = ();

    async fn propose(
        &mut self,
        (context, round): (E, Round),
        mut ancestry: impl Ancestry<Block>,
        (): (),
    ) -> Option<Digested<Block>> {
        let parent = into_block(ancestry.next().await?);
        self.pace(&context, &parent).await;
        let earliest_ms = parent.header().timestamp_ms.saturating_add(self.block_min_ms);
        let proposal = Proposal {
            epoch: round.round.epoch().get(),
            view: round.round.view().get(),
            proposer: node_id(&round.leader),
            timestamp_ms: self.clock.now_ms(context.current()).max(earliest_ms),
        };
        let ancestors = Ancestors::new(ancestry.map(into_block));
        let block = self.application.propose(parent.clone(), ancestors, proposal).await?;
        let header = block.header();
        let linked = header.number == parent.number() + 1 && header.parent_hash == parent.hash();
        if !linked || !self.matches_round(&round, &parent, &block) {
            tracing::error!(?block, ?proposal, "the chain built a block that is not the one asked for; skipped");
            return None;
        }
        let digest = block.digest();
        Some(Digested::precomputed(block, digest))
    }

    async fn verify(&mut self, (context, round): (E, Round), mut ancestry: impl Ancestry<Block>) -> bool {
        // The stream ends early only when the engine stops; consensus must not take that for an answer.
        let Some(block) = ancestry.next().await.map(into_block) else {
            return core::future::pending().await;
        };
        let Some(parent) = ancestry.next().await.map(into_block) else {
            return core::future::pending().await;
        };
        if !self.matches_round(&round, &parent, &block) {
            tracing::warn!(?block, proposer = ?node_id(&round.leader), "a validator proposed a block with a wrong header");
            return false;
        }
        self.await_time(&context, &block).await;
        let ancestors = Ancestors::new(ancestry.map(into_block));
        self.application.verify(parent, ancestors, block).await
    }
}

/// The block itself; cheap, as blocks are shared.
pub(crate) fn into_block(digested: Digested<Block>) -> Block {
    digested.inner().clone()
}

/// The node that has this key on the consensus network.
pub(crate) fn node_id(key: &ed25519::PublicKey) -> NodeId {
    let mut id = [0; 32];
    id.copy_from_slice(key.as_ref());
    NodeId(id)
}
