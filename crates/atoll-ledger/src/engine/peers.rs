//! The real network: authenticated, encrypted connections between the validators' mesh addresses.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use atoll_base::{Charter, MeshAddr, NodeSecret};
use commonware_actor::{Feedback, Unreliable};
use commonware_codec::{Copying, DecodeExt as _};
use commonware_cryptography::{ChaCha20Poly1305, ed25519};
use commonware_p2p::{
    Address, AddressableManager as _, BlockedSubscription, Blocker, CheckedSender, LimitedSender, Message,
    PeerSetSubscription, PeerSetUpdate, Provider, Receiver, Recipients, TrackedPeers, authenticated::lookup,
};
use commonware_runtime::{Clock, Handle, IoBufs, Metrics, Network as RuntimeNetwork, Quota, Resolver, Spawner};
use commonware_stream::{
    cups::{self, Cups},
    sake::{self, Sake},
};
use commonware_utils::{
    channel::{mpsc, ring},
    ordered::Map,
};

use super::{
    limits,
    network::{Network, message_bytes_max},
    wiring::{identity, public_key},
};

type Key = ed25519::PublicKey;
type LookupNetwork<E> =
    Network<lookup::Oracle<Key>, lookup::Oracle<Key>, lookup::Sender<Key, E>, lookup::Receiver<Key>>;

/// The address on which a validator listens.
pub(crate) fn address(charter: &Charter, node: atoll_base::NodeId, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(MeshAddr::of(charter.region_id(), node).node()), port)
}

/// Connects to the other validators. The own mesh address must be there already.
pub(crate) fn connect<E>(
    context: E,
    charter: &Charter,
    secret: &NodeSecret,
    port: u16,
) -> (LookupNetwork<E>, Handle<()>)
where
    E: Spawner + Clock + RuntimeNetwork + Resolver + Metrics + rand::CryptoRng,
{
    let peers = charter.validators.iter().map(|validator| {
        let key = Key::decode(Copying(&validator.id[..])).expect("the charter was checked");
        (key, Address::Symmetric(address(charter, validator.node(), port)))
    });
    let peers = Map::from_iter_dedup(peers);
    let (mut network, mut oracle) = lookup::Network::new(context, config(charter, secret, port));
    let votes = Quota::per_second(limits::VOTES_PER_SECOND);
    let requests = Quota::per_second(limits::REQUESTS_PER_SECOND);
    let gossip = Quota::per_second(limits::GOSSIP_PER_SECOND);
    let channels = Network {
        peers: oracle.clone(),
        blocker: oracle.clone(),
        votes: network.register(0, votes),
        certificates: network.register(1, votes),
        resolver: network.register(2, requests),
        blocks: network.register(3, requests),
        backfill: network.register(4, requests),
        gossip: network.register(5, gossip),
    };
    oracle.track(0, peers);
    (channels, network.start())
}

type Handshake = Cups<Sake<ed25519::PrivateKey>, ChaCha20Poly1305>;

fn config(charter: &Charter, secret: &NodeSecret, port: u16) -> lookup::Config<Handshake> {
    let sake = Sake {
        signer: identity(secret),
        synchrony_bound: limits::HANDSHAKE_AGE,
        max_handshake_age: limits::HANDSHAKE_AGE,
        version: sake::Version::V1,
    };
    let validators = charter.validators.len();
    lookup::Config {
        handshake: Cups::new(sake, cups::Version::V1),
        namespace: [b"atoll consensus network v1 ".as_slice(), &charter.region_id().0].concat(),
        listen: address(charter, secret.id(), port),
        // Mesh addresses are unique local ones.
        allow_private_ips: true,
        allow_dns: false,
        bypass_ip_check: false,
        max_message_size: message_bytes_max(validators),
        max_peers_per_set: core::num::NonZeroUsize::new(validators).expect("the charter was checked"),
        mailbox_size: limits::MAILBOX,
        send_batch_size: limits::SEND_BATCH,
        handshake_timeout: limits::DIAL_TIMEOUT,
        dial_timeout: limits::DIAL_TIMEOUT,
        peer_connection_cooldown: limits::DIAL_EVERY,
        max_concurrent_handshakes: limits::HANDSHAKES_PER_SECOND,
        allowed_handshake_rate_per_ip: Quota::per_second(limits::HANDSHAKES_PER_SECOND),
        allowed_handshake_rate_per_subnet: Quota::per_second(limits::HANDSHAKES_PER_SECOND),
        ping_frequency: limits::PING_EVERY,
        dial_frequency: limits::DIAL_EVERY,
        tracked_peer_sets: core::num::NonZeroUsize::MIN,
        block_duration: limits::BLOCK_FOR,
    }
}

/// The network of a region with a single validator: nobody is there to talk to, so it needs no mesh.
pub(crate) fn alone(secret: &NodeSecret) -> Network<Alone, Alone, Alone, Alone> {
    let alone = Alone { me: public_key(secret), open: Arc::default() };
    let pair = || (alone.clone(), alone.clone());
    Network {
        peers: alone.clone(),
        blocker: alone.clone(),
        votes: pair(),
        certificates: pair(),
        resolver: pair(),
        blocks: pair(),
        backfill: pair(),
        gossip: pair(),
    }
}

/// Every part of a network without others.
#[derive(Debug, Clone)]
pub(crate) struct Alone {
    me: Key,
    /// Ends of subscriptions. Nothing ever changes, but a closed one would say that the network has stopped.
    open: Arc<Mutex<Vec<Subscription>>>,
}

type Subscription = Box<dyn core::fmt::Debug + Send>;

impl Alone {
    fn set(&self) -> TrackedPeers<Key> {
        TrackedPeers::primary(commonware_utils::ordered::Set::from_iter_dedup([self.me.clone()]))
    }

    fn keep(&self, subscription: impl core::fmt::Debug + Send + 'static) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(subscription));
    }
}

impl Provider for Alone {
    type PublicKey = Key;

    async fn peer_set(&mut self, _: u64) -> Option<TrackedPeers<Key>> {
        Some(self.set())
    }

    async fn subscribe(&mut self) -> PeerSetSubscription<Key> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let _ = sender.send(PeerSetUpdate { index: 0, latest: self.set(), all: self.set() });
        self.keep(sender);
        receiver
    }
}

impl Blocker for Alone {
    type PublicKey = Key;

    fn block(&mut self, _: Key) -> Feedback {
        Feedback::Ok
    }

    fn blocked(&mut self) -> BlockedSubscription<Key> {
        let (sender, receiver) = ring::channel(core::num::NonZeroUsize::MIN);
        self.keep(sender);
        receiver
    }
}

impl LimitedSender for Alone {
    type PublicKey = Key;
    type Checked<'a> = Alone;

    fn check(&mut self, _: Recipients<Key>) -> Result<Alone, std::time::SystemTime> {
        Ok(self.clone())
    }
}

impl CheckedSender for Alone {
    type PublicKey = Key;

    fn recipients(&self) -> Vec<Key> {
        vec![]
    }

    fn send(self, _: impl Into<IoBufs> + Send, _: bool) -> Unreliable<Feedback> {
        Unreliable::new(Feedback::Ok)
    }
}

impl Receiver for Alone {
    type Error = core::convert::Infallible;
    type PublicKey = Key;

    async fn recv(&mut self) -> Result<Message<Key>, Self::Error> {
        core::future::pending().await
    }

    fn capacity(&self) -> core::num::NonZeroUsize {
        core::num::NonZeroUsize::MIN
    }
}
