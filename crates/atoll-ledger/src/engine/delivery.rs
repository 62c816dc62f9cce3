//! Hands final blocks to the application in order, and tells marshal when their effects are durable.

use core::{future::Future, pin::Pin};

use alloy_primitives::Bytes;
use atoll_light::certificate::Scheme;
use commonware_actor::Feedback;
use commonware_codec::Encode as _;
use commonware_consensus::{
    Heightable as _, Reporter,
    marshal::{Update, core::Mailbox, standard::Standard},
};
use commonware_cryptography::Digested;
use commonware_macros::select;
use commonware_runtime::Clock;
use commonware_utils::{Acknowledgement as _, acknowledgement::Exact};
use futures::{
    StreamExt as _,
    channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded},
    stream::FuturesUnordered,
};

use super::{Application, Block, Status, adapter::into_block, clock::LedgerClock};

pub(crate) type Marshal = Mailbox<Scheme, Standard<Block>>;

/// The end into which marshal reports. Its queue is bounded by `UNACKNOWLEDGED_MAX`, which marshal keeps.
#[derive(Clone)]
pub(crate) struct Inbox(UnboundedSender<Update<Block>>);

impl Reporter for Inbox {
    type Activity = Update<Block>;

    fn report(&mut self, update: Self::Activity) -> Feedback {
        if self.0.unbounded_send(update).is_ok() { Feedback::Ok } else { Feedback::Closed }
    }
}

/// The end that works.
pub(crate) struct Delivery<A> {
    pub(crate) application: A,
    pub(crate) marshal: Marshal,
    pub(crate) clock: LedgerClock,
    pub(crate) status: Status,
}

pub(crate) fn channel() -> (Inbox, UnboundedReceiver<Update<Block>>) {
    let (sender, receiver) = unbounded();
    (Inbox(sender), receiver)
}

type Commit = Pin<Box<dyn Future<Output = ()> + Send>>;

impl<A: Application> Delivery<A> {
    /// Runs until marshal stops.
    pub(crate) async fn run(self, context: impl Clock, mut updates: UnboundedReceiver<Update<Block>>) {
        let started_ms = self.clock.now_ms(context.current());
        let mut commits = FuturesUnordered::<Commit>::new();
        loop {
            // A committed block is acknowledged before another is taken: that frees marshal's window.
            select! {
                Some(()) = commits.next() => {},
                update = updates.next() => match update {
                    None => return,
                    Some(Update::Tip(..)) => {}
                    Some(Update::Block(block, acknowledgement)) => {
                        self.observe(&context, &block, started_ms);
                        let mut commit = self.commit(block, acknowledgement).await;
                        // The first poll is the call: it happens here, so that calls come in order of height.
                        if futures::poll!(&mut commit).is_pending() {
                            commits.push(commit);
                        }
                    }
                },
            }
        }
    }

    fn observe(&self, context: &impl Clock, block: &Digested<Block>, started_ms: u64) {
        let timestamp_ms = block.inner().header().timestamp_ms;
        let now_ms = self.clock.now_ms(context.current());
        self.clock.observe(timestamp_ms, context.current());
        tracing::debug!(block = ?block.inner(), after_ms = now_ms.saturating_sub(timestamp_ms), "final");
        if timestamp_ms >= started_ms {
            self.status.set_finality_ms(now_ms.saturating_sub(timestamp_ms));
        }
    }

    async fn commit(&self, block: Digested<Block>, acknowledgement: Exact) -> Commit {
        let finalization = self.marshal.get_finalization(block.height()).await;
        let certificate = finalization.map(|finalization| Bytes::from(finalization.encode()));
        let application = self.application.clone();
        Box::pin(async move {
            application.finalized(into_block(block), certificate).await;
            acknowledgement.acknowledge();
        })
    }
}
