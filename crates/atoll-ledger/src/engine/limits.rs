//! Bounds of the consensus engine.

use core::{
    num::{NonZeroU16, NonZeroU32, NonZeroU64, NonZeroUsize},
    time::Duration,
};

use atoll_base::limits::{BLOCK_BYTES_MAX, TRANSACTION_BYTES_MAX};

/// Blocks that the application may have under way in `finalized` at once.
pub const UNACKNOWLEDGED_MAX: usize = 8;
/// One message of gossip: a transaction, or a few small ones.
pub const GOSSIP_BYTES_MAX: usize = TRANSACTION_BYTES_MAX + 64;
/// Messages of gossip that wait to be sent.
pub const GOSSIP_QUEUE: usize = 1024;
/// How far ahead of the own clock a block may be before it is waited for, milliseconds.
pub const CLOCK_SKEW_MS: u64 = 2_000;

/// A leader has this long beyond the region's idle time to propose.
pub(crate) const LEADER_GRACE: Duration = Duration::from_millis(1_000);
/// A view that is stuck is given up this long after its leader's time is over.
pub(crate) const CERTIFICATION_GRACE: Duration = Duration::from_millis(1_000);
/// The vote to give up a view is repeated this often.
pub(crate) const NULLIFY_RETRY: Duration = Duration::from_millis(2_000);
/// A leader that was silent for so long beyond the time of a view is skipped at once.
pub(crate) const SKIP_GRACE: Duration = Duration::from_millis(1_000);
/// A request to another validator is repeated elsewhere after this time.
pub(crate) const FETCH_TIMEOUT: Duration = Duration::from_millis(1_000);
/// And not sooner than this after a failure.
pub(crate) const FETCH_RETRY: Duration = Duration::from_millis(100);

/// Messages that wait for one of the engine's actors.
pub(crate) const MAILBOX: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// Views behind the newest final one of which votes and blocks are kept.
pub(crate) const VIEWS_KEPT: u64 = 32;
/// Views whose blocks share a file.
pub(crate) const VIEWS_PER_FILE: NonZeroU64 = NonZeroU64::new(256).expect("not zero");
/// Heights whose blocks share a section of the archive.
pub(crate) const HEIGHTS_PER_SECTION: NonZeroU64 = NonZeroU64::new(16_384).expect("not zero");
/// Missing blocks that are fetched at once.
pub(crate) const REPAIRS_MAX: NonZeroUsize = NonZeroUsize::new(16).expect("not zero");
/// New blocks that are held per proposer until consensus asks for them.
pub(crate) const BUFFERED_PER_PROPOSER: usize = 8;
/// Bytes buffered before they are written to a file.
pub(crate) const WRITE_BUFFER: NonZeroUsize = NonZeroUsize::new(64 * 1024).expect("not zero");
/// Bytes read at once from a file at start.
pub(crate) const REPLAY_BUFFER: NonZeroUsize = NonZeroUsize::new(256 * 1024).expect("not zero");
/// A page of the file cache: with its checksum it fills one of the disk's.
pub(crate) const PAGE: NonZeroU16 = NonZeroU16::new(4096 - 12).expect("not zero");
/// Pages of the file cache.
pub(crate) const PAGES: NonZeroUsize = NonZeroUsize::new(512).expect("not zero");
/// Values of the archives share files of about this size.
pub(crate) const ARCHIVE_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// Slots of an archive's hash table at the beginning.
pub(crate) const ARCHIVE_TABLE: u32 = 4096;
/// Entries in a slot before the table grows.
pub(crate) const ARCHIVE_TABLE_GROWTH: u8 = 4;
/// Slots that are moved per write while the table grows.
pub(crate) const ARCHIVE_TABLE_STEP: u32 = 512;

/// A connection attempt to another validator is made this often, and not sooner again with the same one.
pub(crate) const DIAL_EVERY: Duration = Duration::from_millis(500);
/// A connection is probed when nothing else was said for so long.
pub(crate) const PING_EVERY: Duration = Duration::from_secs(5);
/// An attempt to connect is given up after this time.
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// A validator that sent what no honest one sends is shut out for so long.
pub(crate) const BLOCK_FOR: Duration = Duration::from_secs(600);
/// Handshakes accepted a second from one address, and from one subnet: all validators of a region are in one.
pub(crate) const HANDSHAKES_PER_SECOND: NonZeroU32 = NonZeroU32::new(256).expect("not zero");
/// Handshakes may carry any time of day: a machine without a clock has to get in to learn what time it is. What is
/// replayed gets nowhere, because the keys of a connection are made anew each time.
pub(crate) const HANDSHAKE_AGE: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// Messages to one validator that are sent with one system call.
pub(crate) const SEND_BATCH: NonZeroUsize = NonZeroUsize::new(8).expect("not zero");
/// The own mesh address is tried this often until the mesh daemon has made it.
pub(crate) const BIND_RETRY: Duration = Duration::from_millis(250);

/// Threads that poll tasks.
pub(crate) const WORKER_THREADS: usize = 2;
/// Threads for what blocks: files, above all.
pub(crate) const BLOCKING_THREADS_MAX: usize = 64;
/// Consensus gets this long to stop in order.
pub(crate) const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// A port that is taken is tried for so long, because the process before this one may still be on its way out.
pub(crate) const PORT_PATIENCE: Duration = Duration::from_secs(3);

/// Messages a second from one validator: votes, and certificates.
pub(crate) const VOTES_PER_SECOND: NonZeroU32 = NonZeroU32::new(256).expect("not zero");
/// Messages a second from one validator: requests and their answers, and new blocks.
pub(crate) const REQUESTS_PER_SECOND: NonZeroU32 = NonZeroU32::new(128).expect("not zero");
/// Messages a second from one validator: gossip.
pub(crate) const GOSSIP_PER_SECOND: NonZeroU32 = NonZeroU32::new(1024).expect("not zero");

const _: () = assert!(GOSSIP_BYTES_MAX < BLOCK_BYTES_MAX);
