//! What the engine needs of a network between validators, real or simulated.

use commonware_consensus::marshal;
use commonware_cryptography::ed25519::PublicKey;
use commonware_p2p::{Blocker, Provider, Receiver, Recipients, Sender, max_message_size};
use futures::{StreamExt as _, channel::mpsc};

use super::{Application, Block, Status, adapter::node_id, limits::GOSSIP_BYTES_MAX};
use alloy_primitives::Bytes;
use atoll_light::certificate::Scheme;

/// A sender and a receiver of one channel.
pub(crate) type Pair<S, R> = (S, R);

/// The channels between validators, one for each purpose, and who takes part.
pub(crate) struct Network<P, B, S, R> {
    /// Knows the validators.
    pub(crate) peers: P,
    /// Shuts out those that misbehave.
    pub(crate) blocker: B,
    /// Votes on blocks.
    pub(crate) votes: Pair<S, R>,
    /// Certificates made of votes.
    pub(crate) certificates: Pair<S, R>,
    /// Requests for certificates that were missed.
    pub(crate) resolver: Pair<S, R>,
    /// New blocks.
    pub(crate) blocks: Pair<S, R>,
    /// Requests for blocks that were missed.
    pub(crate) backfill: Pair<S, R>,
    /// Messages of the application.
    pub(crate) gossip: Pair<S, R>,
}

/// Shorthand for what the engine needs of [`Network::peers`].
pub(crate) trait Peers: Provider<PublicKey = PublicKey> {}
impl<T: Provider<PublicKey = PublicKey>> Peers for T {}

/// Shorthand for what the engine needs of [`Network::blocker`].
pub(crate) trait Authority: Blocker<PublicKey = PublicKey> {}
impl<T: Blocker<PublicKey = PublicKey>> Authority for T {}

/// Longest message on any channel.
pub(crate) fn message_bytes_max(validators: usize) -> u32 {
    let validators = u32::try_from(validators).expect("a charter has at most VALIDATORS_MAX validators");
    max_message_size(&[
        marshal::max_payload_size::<marshal::standard::Standard<Block>, Scheme>(validators, &()),
        GOSSIP_BYTES_MAX,
    ])
}

/// Sends what the application gossips, until it drops its handle.
pub(crate) async fn send_gossip(mut queue: mpsc::Receiver<Bytes>, mut sender: impl Sender<PublicKey = PublicKey>) {
    while let Some(message) = queue.next().await {
        // Whom it does not reach asks for nothing: transactions are offered again with the next block.
        let _ = sender.send(Recipients::All, message.0, false);
    }
}

/// Hands received gossip to the application, until the network stops.
pub(crate) async fn receive_gossip(application: impl Application, mut receiver: impl Receiver<PublicKey = PublicKey>) {
    while let Ok((from, message)) = receiver.recv().await {
        if message.len() <= GOSSIP_BYTES_MAX {
            application.gossiped(node_id(&from), Bytes::copy_from_slice(message.as_ref()));
        }
    }
}

/// A receiver that notes who was heard.
#[derive(Debug)]
pub(crate) struct Heard<R> {
    pub(crate) receiver: R,
    pub(crate) status: Status,
}

impl<R: Receiver<PublicKey = PublicKey>> Receiver for Heard<R> {
    type Error = R::Error;
    type PublicKey = PublicKey;

    async fn recv(&mut self) -> Result<commonware_p2p::Message<PublicKey>, R::Error> {
        let message = self.receiver.recv().await?;
        self.status.heard(node_id(&message.0));
        Ok(message)
    }

    fn capacity(&self) -> core::num::NonZeroUsize {
        self.receiver.capacity()
    }
}
