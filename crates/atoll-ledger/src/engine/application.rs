//! What the engine asks of the chain.

use core::{future::Future, pin::Pin};

use alloy_primitives::Bytes;
use atoll_base::NodeId;
use futures::{Stream, StreamExt as _};

use super::Block;

/// The chain, as the engine sees it.
///
/// No method may sleep on tokio's clock, because the engine also runs in a simulator that has a clock of its own.
/// Every future except that of [`Self::finalized`] may be dropped at any await point.
pub trait Application: Clone + Send + Sync + 'static {
    /// The genesis block: height 0, the same on every validator.
    fn genesis(&self) -> Block;

    /// Resolves as soon as there is at least one transaction to order. The engine waits on it before it asks for a
    /// block, for as long as the region's pace allows.
    fn ready(&self) -> impl Future<Output = ()> + Send;

    /// Builds a block on `parent`, with the header fields of `proposal`. It may be empty of transactions. `None` passes
    /// the turn to the next validator after a timeout, so only what cannot be helped answers so.
    fn propose(
        &self,
        parent: Block,
        ancestors: Ancestors,
        proposal: Proposal,
    ) -> impl Future<Output = Option<Block>> + Send;

    /// Whether `block` is valid on `parent`: every validator must come to the same answer.
    ///
    /// `false` is final. Whatever is only missing for the moment is waited for instead. The engine has checked height,
    /// parent hash, transactions root, epoch, view, proposer and timestamp.
    fn verify(&self, parent: Block, ancestors: Ancestors, block: Block) -> impl Future<Output = bool> + Send;

    /// `block` is final. Called in order of height without gaps, at least once for each block (after a restart from the
    /// first one that was not acknowledged); a height that is already committed is ignored.
    ///
    /// Returns when the block's effects are durable: only then does the engine forget it. To commit in groups, let the
    /// future wait: the engine has up to [`super::limits::UNACKNOWLEDGED_MAX`] of them under way at once.
    ///
    /// `certificate` is `None` when the block became final with a descendant.
    fn finalized(&self, block: Block, certificate: Option<Bytes>) -> impl Future<Output = ()> + Send;

    /// A message of another validator's application, see [`Gossip::send`]. Anything may be in it.
    fn gossiped(&self, from: NodeId, message: Bytes);
}

/// The header fields of a block that the engine decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proposal {
    /// Consensus epoch.
    pub epoch: u64,
    /// Consensus view within the epoch.
    pub view: u64,
    /// Who proposes: this validator.
    pub proposer: NodeId,
    /// Time of the block, milliseconds since 1970.
    pub timestamp_ms: u64,
}

/// The parent's parent, its parent and so on, newest first. An application walks back until a block whose state it has.
///
/// Blocks that are not at hand are fetched from other validators, so the next one may take a while.
pub struct Ancestors(Pin<Box<dyn Stream<Item = Block> + Send>>);

impl Ancestors {
    /// From any stream of blocks, newest first.
    pub fn new(stream: impl Stream<Item = Block> + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }

    /// The next older block; `None` after the genesis block, or when the engine is about to stop.
    pub async fn next(&mut self) -> Option<Block> {
        self.0.next().await
    }
}

/// Sends messages to the other validators' applications, without any guarantee.
#[derive(Clone, Debug)]
pub struct Gossip(futures::channel::mpsc::Sender<Bytes>);

impl Gossip {
    /// A handle and the queue that it fills, which holds `limits::GOSSIP_QUEUE` messages.
    pub fn channel() -> (Self, futures::channel::mpsc::Receiver<Bytes>) {
        let (sender, receiver) = futures::channel::mpsc::channel(super::limits::GOSSIP_QUEUE);
        (Self(sender), receiver)
    }

    /// Queues `message`, at most `limits::GOSSIP_BYTES_MAX` long, for all other validators. Returns whether there was
    /// room: it is never waited for.
    pub fn send(&self, message: Bytes) -> bool {
        message.len() <= super::limits::GOSSIP_BYTES_MAX && self.0.clone().try_send(message).is_ok()
    }
}
