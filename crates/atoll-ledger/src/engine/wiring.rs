//! Puts simplex, marshal, the block buffer and the archives together and runs them.

use std::time::Duration;

use alloy_primitives::Bytes;
use atoll_base::{Charter, NodeSecret};
use atoll_light::certificate::{Scheme, ValidatorError, signer_scheme};
use commonware_broadcast::buffered;
use commonware_codec::{Copying, DecodeExt as _};
use commonware_consensus::{
    marshal::{
        self, Start,
        core::Actor as MarshalActor,
        resolver::p2p as backfill,
        standard::{Inline, Standard},
    },
    simplex::{
        self,
        config::{Floor, ForwardPolicy, SkipBudget, SkipPolicy},
        elector::RoundRobin,
        types::Finalization,
    },
    types::{Epoch, FixedEpocher, ViewDelta},
};
use commonware_cryptography::{
    Digested, Digestible as _, Sha256,
    certificate::{ConstantProvider, Verifier as _},
    ed25519, sha256,
};
use commonware_p2p::{Receiver, Sender};
use commonware_parallel::Sequential;
use commonware_runtime::{Clock, Handle, Metrics, Spawner, Storage, buffer::paged::CacheRef};
use commonware_storage::archive::{self, immutable};
use commonware_utils::NonZeroDuration;
use futures::{FutureExt as _, channel::mpsc};

use super::{
    Application, Block, Status,
    adapter::Adapter,
    clock::LedgerClock,
    delivery::{self, Delivery, Marshal},
    limits,
    network::{self, Authority, Heard, Network, Peers},
};

/// One epoch lasts for ever, until validator sets change.
const EPOCH: Epoch = Epoch::zero();

/// What a validator's engine needs beside a network and a runtime.
pub(crate) struct Setup<A> {
    /// The region.
    pub(crate) charter: Charter,
    /// Who this validator is.
    pub(crate) secret: NodeSecret,
    /// The chain.
    pub(crate) application: A,
    /// What the chain wants to tell the other validators' chains.
    pub(crate) gossip: mpsc::Receiver<Bytes>,
    /// Filled while the engine runs.
    pub(crate) status: Status,
    /// Put in front of the names of all its files: where several engines share a disk, as they do in the simulator.
    pub(crate) partition: String,
}

/// Everything the engine needs of a runtime.
pub(crate) trait Runtime: Spawner + Metrics + Clock + Storage + rand::CryptoRng {}
impl<E: Spawner + Metrics + Clock + Storage + rand::CryptoRng> Runtime for E {}

type Archive<E, V> = immutable::Archive<E, sha256::Digest, V>;

/// Why an engine cannot start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The charter does not make this node a validator.
    #[error(transparent)]
    Validator(#[from] ValidatorError),
    /// The disk failed.
    #[error("the consensus archive cannot be opened: {0}")]
    Archive(#[from] archive::Error),
    /// One of the engine's tasks ended. What it logged says why.
    #[error("a part of the consensus engine ({0}) has stopped")]
    Stopped(&'static str),
}

/// Runs a validator's engine for as long as `context` lives. Returns only when something is wrong.
pub(crate) async fn run<E, P, B, S, R, A>(
    context: E,
    setup: Setup<A>,
    network: Network<P, B, S, R>,
) -> Result<core::convert::Infallible, EngineError>
where
    E: Runtime,
    P: Peers,
    B: Authority,
    S: Sender<PublicKey = ed25519::PublicKey>,
    R: Receiver<PublicKey = ed25519::PublicKey>,
    A: Application,
{
    let Setup { charter, secret, application, gossip, status, partition } = setup;
    let scheme = signer_scheme(&charter, &secret)?;
    let me = public_key(&secret);
    let clock = LedgerClock::default();
    let cache = CacheRef::new(limits::PAGE, limits::PAGES);
    let genesis = application.genesis();
    let genesis_digest = genesis.digest();

    let (buffer_engine, buffer) = buffered::Engine::new(context.child("broadcast"), buffer_config(&me, &network.peers));
    let backfill = backfill::init(
        context.child("backfill"),
        backfill_config(&me, network.peers, network.blocker.clone()),
        network.backfill,
    );
    let genesis = Digested::precomputed(genesis, genesis_digest);
    let (marshal_actor, marshal) = open_marshal(&context, &scheme, &partition, genesis, &cache).await?;
    let inline = Inline::new(
        context.child("inline"),
        Adapter::new(application.clone(), clock.clone(), &charter.timing),
        marshal.clone(),
        FixedEpocher::new(core::num::NonZeroU64::MAX),
    );
    let consensus = simplex::Engine::new(
        context.child("simplex"),
        consensus_config(&charter, scheme, &partition, inline, network.blocker, genesis_digest, cache),
    );

    let (inbox, updates) = delivery::channel();
    let delivery = Delivery { application: application.clone(), marshal, clock, status: status.clone() };
    let votes = (network.votes.0, Heard { receiver: network.votes.1, status });
    let (gossip_sender, gossip_receiver) = network.gossip;
    let tasks = [
        ("delivery", context.child("delivery").spawn(|context| delivery.run(context, updates))),
        ("broadcast", buffer_engine.start(network.blocks)),
        ("marshal", marshal_actor.start(inbox, buffer, backfill)),
        ("simplex", consensus.start(votes, network.certificates, network.resolver)),
        ("gossip in", context.child("gossip_in").spawn(|_| network::receive_gossip(application, gossip_receiver))),
    ];
    // When the application drops its end of the gossip there is nothing more to say, which is no failure.
    let _gossip_out: Handle<()> = context.child("gossip_out").spawn(|_| network::send_gossip(gossip, gossip_sender));
    let ends = tasks.map(|(name, task)| task.map(move |_| name).boxed());
    let (name, _, _) = futures::future::select_all(ends).await;
    Err(EngineError::Stopped(name))
}

/// The key by which the other validators know this one.
pub(crate) fn public_key(secret: &NodeSecret) -> ed25519::PublicKey {
    use commonware_cryptography::Signer as _;
    identity(secret).public_key()
}

/// The identity as the consensus network wants it.
pub(crate) fn identity(secret: &NodeSecret) -> ed25519::PrivateKey {
    ed25519::PrivateKey::decode(Copying(&secret.seed()[..])).expect("any 32 bytes are an Ed25519 seed")
}

fn buffer_config<P: Peers>(
    me: &ed25519::PublicKey,
    peers: &P,
) -> buffered::Config<ed25519::PublicKey, (), P, Sequential> {
    buffered::Config {
        public_key: me.clone(),
        mailbox_size: limits::MAILBOX,
        deque_size: limits::BUFFERED_PER_PROPOSER,
        priority: true,
        codec_config: (),
        peer_provider: peers.clone(),
        strategy: Sequential,
    }
}

fn backfill_config<P: Peers, B: Authority>(
    me: &ed25519::PublicKey,
    peers: P,
    blocker: B,
) -> backfill::Config<ed25519::PublicKey, P, B> {
    backfill::Config {
        public_key: me.clone(),
        peer_provider: peers,
        blocker,
        mailbox_size: limits::MAILBOX,
        fetch_timeout: nonzero(limits::FETCH_TIMEOUT),
        fetch_retry_delay: limits::FETCH_RETRY,
        priority_requests: false,
        priority_responses: false,
    }
}

type Provider = ConstantProvider<Scheme, Epoch>;
type OpenMarshal<E> = MarshalActor<
    E,
    Standard<Block>,
    Provider,
    Archive<E, Finalization<Scheme, sha256::Digest>>,
    Archive<E, std::sync::Arc<Block>>,
    FixedEpocher,
    Sequential,
>;

async fn open_marshal<E: Runtime>(
    context: &E,
    scheme: &Scheme,
    partition: &str,
    genesis: Digested<Block>,
    cache: &CacheRef,
) -> Result<(OpenMarshal<E>, Marshal), EngineError> {
    let finalizations = Archive::init(
        context.child("finalizations"),
        archive_config(&format!("{partition}finalizations"), scheme.certificate_codec_config(), cache),
    )
    .await?;
    let blocks =
        Archive::init(context.child("blocks"), archive_config(&format!("{partition}blocks"), (), cache)).await?;
    let config = marshal::Config {
        provider: ConstantProvider::new(scheme.clone()),
        epocher: FixedEpocher::new(core::num::NonZeroU64::MAX),
        start: Start::Genesis(genesis),
        partition_prefix: format!("{partition}marshal"),
        mailbox_size: limits::MAILBOX,
        view_retention: ViewDelta::new(limits::VIEWS_KEPT),
        prunable_items_per_section: limits::VIEWS_PER_FILE,
        page_cache: cache.clone(),
        replay_buffer: limits::REPLAY_BUFFER,
        key_write_buffer: limits::WRITE_BUFFER,
        value_write_buffer: limits::WRITE_BUFFER,
        block_codec_config: (),
        max_repair: limits::REPAIRS_MAX,
        max_pending_acks: core::num::NonZeroUsize::new(limits::UNACKNOWLEDGED_MAX).expect("not zero"),
        strategy: Sequential,
    };
    let (actor, mailbox, floor) = MarshalActor::init(context.child("marshal"), finalizations, blocks, config).await;
    tracing::info!(height = ?floor.processed().map(|processed| processed.height()), "consensus opened");
    Ok((actor, mailbox))
}

fn archive_config<C>(name: &str, codec_config: C, cache: &CacheRef) -> immutable::Config<C> {
    immutable::Config {
        metadata_partition: format!("{name}-metadata"),
        freezer_table_partition: format!("{name}-table"),
        freezer_table_initial_size: limits::ARCHIVE_TABLE,
        freezer_table_resize_frequency: limits::ARCHIVE_TABLE_GROWTH,
        freezer_table_resize_chunk_size: limits::ARCHIVE_TABLE_STEP,
        freezer_key_partition: format!("{name}-keys"),
        freezer_key_page_cache: cache.clone(),
        freezer_value_partition: format!("{name}-values"),
        freezer_value_target_size: limits::ARCHIVE_FILE_BYTES,
        freezer_value_compression: None,
        ordinal_partition: format!("{name}-heights"),
        items_per_section: limits::HEIGHTS_PER_SECTION,
        freezer_key_write_buffer: limits::WRITE_BUFFER,
        freezer_value_write_buffer: limits::WRITE_BUFFER,
        ordinal_write_buffer: limits::WRITE_BUFFER,
        replay_buffer: limits::REPLAY_BUFFER,
        codec_config,
    }
}

type Consensus<I, B> = simplex::Config<Scheme, RoundRobin<Sha256>, B, sha256::Digest, I, I, I, Sequential>;

fn consensus_config<I, B>(
    charter: &Charter,
    scheme: Scheme,
    partition: &str,
    inline: I,
    blocker: B,
    genesis: sha256::Digest,
    cache: CacheRef,
) -> Consensus<I, B>
where
    I: commonware_consensus::CertifiableAutomaton<
            Context = simplex::types::Context<sha256::Digest, ed25519::PublicKey>,
        > + commonware_consensus::Relay
        + commonware_consensus::Reporter<Activity = simplex::types::Activity<Scheme, sha256::Digest>>,
    B: Authority,
{
    let leader_timeout = Duration::from_millis(charter.timing.block_idle_ms) + limits::LEADER_GRACE;
    let certification_timeout = leader_timeout + limits::CERTIFICATION_GRACE;
    let skip_timeout = certification_timeout.max(limits::NULLIFY_RETRY) + limits::SKIP_GRACE;
    simplex::Config {
        scheme,
        elector: RoundRobin::default(),
        blocker,
        automaton: inline.clone(),
        relay: inline.clone(),
        reporter: inline,
        track_historical_votes: false,
        strategy: Sequential,
        partition: format!("{partition}simplex-0"),
        mailbox_size: limits::MAILBOX,
        epoch: EPOCH,
        floor: Floor::Genesis(genesis),
        replay_buffer: limits::REPLAY_BUFFER,
        write_buffer: limits::WRITE_BUFFER,
        page_cache: cache,
        leader_timeout,
        certification_timeout,
        timeout_retry: limits::NULLIFY_RETRY,
        view_retention: ViewDelta::new(limits::VIEWS_KEPT),
        skip: SkipPolicy::Enabled { timeout: skip_timeout, budget: SkipBudget::Participants },
        fetch_timeout: nonzero(limits::FETCH_TIMEOUT),
        fetch_retry_delay: limits::FETCH_RETRY,
        forward: ForwardPolicy::Disabled,
    }
}

fn nonzero(duration: Duration) -> NonZeroDuration {
    NonZeroDuration::new(duration).expect("a constant that is not zero")
}
