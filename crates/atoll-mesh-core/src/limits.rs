//! Every bound of the mesh: sizes, tables, queues, timeouts, retries.

use core::time::Duration;

/// Largest IPv6 packet that the mesh carries: with every header it fits an Ethernet frame over IPv6 (1500 bytes).
pub const MTU: usize = 1352;
/// Smallest MTU of IPv6 (RFC 8200 section 5).
pub const MTU_MIN: usize = 1280;
/// Largest datagram that is read: one Ethernet jumbo frame is more than a peer ever sends.
pub const DATAGRAM_BYTES_MAX: usize = 2048;
/// Largest control payload within a link frame; with all headers it fits the smallest IPv6 MTU.
pub const CONTROL_BYTES_MAX: usize = 1100;

/// Links to neighbours, in any state.
pub const LINKS_MAX: usize = 512;
/// Links of which only a beacon told, so that forged beacons cannot crowd out the others.
pub const DISCOVERED_LINKS_MAX: usize = 128;
/// Handshakes that wait for their last message, of callers that have proven their address by a cookie.
pub const PENDING_PROVEN_MAX: usize = 256;
/// The same of callers that have not: further ones are asked for a cookie, and nothing is kept of them.
pub const PENDING_STRANGERS_MAX: usize = 64;
/// Handshakes that one address (an IPv4 address, an IPv6 /64, a node's network) may have in either table.
pub const PENDING_PER_SOURCE_MAX: usize = 32;
/// Handshakes that were finished lately and are not begun again by a copy of their first message.
pub const FINISHED_HANDSHAKES_MAX: usize = 512;
/// Data frames that overtook the last message of their handshake, and wait for it.
pub const EARLY_FRAMES_MAX: usize = 4;
/// Handshakes without a cookie that are begun each second (a flood must not eat the processor).
pub const STRANGERS_PER_SECOND_MAX: u32 = 50;
/// Handshakes with a cookie that are begun each second.
pub const PROVEN_PER_SECOND_MAX: u32 = 500;
/// Handshakes with a cookie of one address that are begun each second.
pub const PROVEN_PER_SOURCE_AND_SECOND_MAX: u32 = 16;
/// How many of these may come at once.
pub const PROVEN_PER_SOURCE_BURST: u32 = 64;
/// Cells of each of the two rows in which the handshakes of addresses are counted.
pub const RATE_CELLS: usize = 1024;
/// Second and third messages of handshakes that are examined each second.
pub const HANDSHAKE_ANSWERS_PER_SECOND_MAX: u32 = 2000;
/// Refusals that are told by an event each second; more are only counted.
pub const REFUSAL_EVENTS_PER_SECOND_MAX: u32 = 10;
/// "I do not know this session" hints that are sent each second.
pub const HINTS_PER_SECOND_MAX: u32 = 50;
/// Far nodes with which there is, or is about to be, a session.
pub const REMOTES_MAX: usize = 4096;
/// Packets for one far node that wait for its handshake.
pub const QUEUED_PACKETS_MAX: usize = 64;
/// Nodes of which routes are kept.
pub const ORIGINS_MAX: usize = 8192;
/// Datagrams that wait to be sent; more are dropped as a full queue of a router would.
pub const TRANSMITS_MAX: usize = 4096;
/// Packets that wait to be written to the TUN device.
pub const PACKETS_MAX: usize = 4096;
/// Events that wait to be read.
pub const EVENTS_MAX: usize = 1024;
/// Hops that a datagram may take.
pub const HOP_LIMIT: u8 = 64;
/// ICMPv6 errors sent to local programs each second.
pub const ICMP_PER_SECOND_MAX: u32 = 100;
/// Signatures of announcements that are checked each second.
pub const VERIFICATIONS_PER_SECOND_MAX: u32 = 3000;

/// First retransmission of a handshake message; doubles up to [`HANDSHAKE_RETRY_MAX`].
pub const HANDSHAKE_RETRY: Duration = Duration::from_millis(250);
/// Longest time between two tries of a handshake.
pub const HANDSHAKE_RETRY_MAX: Duration = Duration::from_millis(1000);
/// Tries with one ephemeral key; after that the handshake starts afresh, or is given up if nobody wants it any more.
pub const HANDSHAKE_TRIES_MAX: u32 = 6;
/// How long a responder waits for the last message of a handshake.
pub const ACCEPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Shortest time between two answers to one unfinished handshake.
pub const HANDSHAKE_ANSWER_PAUSE: Duration = Duration::from_millis(100);
/// Age at which the secret behind the cookies is replaced; the one before it is good for as long again.
pub const COOKIE_SECRET_LIFE: Duration = Duration::from_secs(120);
/// How long a caller keeps a cookie.
pub const COOKIE_KEEP: Duration = Duration::from_secs(120);
/// How long a node that was refused, or refuses the other, does not call again.
pub const REFUSED_PAUSE: Duration = Duration::from_secs(10);
/// A process that was heard within this time is alive: an older one with the same identity is refused.
pub const TWIN_KEEP: Duration = Duration::from_secs(10);
/// Shortest time between two handshakes that were provoked by an unauthenticated hint.
pub const HINT_PAUSE: Duration = Duration::from_millis(500);

/// Age at which the initiator of a session makes a new one, if there is traffic.
pub const REKEY_AFTER: Duration = Duration::from_secs(120);
/// By how much later the responder would do it, so that usually only one does.
pub const REKEY_RESPONDER_DELAY: Duration = Duration::from_secs(15);
/// Messages under one key after which it is replaced.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 32;
/// Age at which a key is no longer used at all.
pub const REJECT_AFTER: Duration = Duration::from_secs(300);
/// Messages under one key after which it is no longer used at all.
pub const REJECT_AFTER_MESSAGES: u64 = 1 << 48;
/// How long the key before the current one still opens late datagrams.
pub const PREVIOUS_KEEP: Duration = Duration::from_secs(20);
/// How many such keys a link or session has.
pub const PREVIOUS_KEYS_MAX: usize = 2;
/// A session without traffic is forgotten after this time.
pub const REMOTE_IDLE: Duration = Duration::from_secs(180);

/// Silence after which a neighbour is probed.
pub const PROBE_AFTER_SILENCE: Duration = Duration::from_millis(1000);
/// The same when something was sent to it in the meantime and nothing came back.
pub const PROBE_AFTER_UNANSWERED: Duration = Duration::from_millis(300);
/// A neighbour that is heard all the time is probed this often, to measure the round trip.
pub const PROBE_RTT_INTERVAL: Duration = Duration::from_secs(3);
/// Time between the probes of a neighbour that does not answer; longer if its round trip is longer.
pub const PROBE_RETRY: Duration = Duration::from_millis(100);
/// Unanswered probes after which a link is dead.
pub const PROBE_TRIES_MAX: u32 = 5;
/// How often a dead neighbour is probed.
pub const PROBE_DEAD_INTERVAL: Duration = Duration::from_millis(500);
/// A neighbour that reports not to have heard us for this long counts as dead: links are used in both directions.
pub const HEARD_MAX: Duration = Duration::from_millis(2500);
/// A dead link that nobody configured is forgotten after this time.
pub const LINK_FORGET: Duration = Duration::from_secs(60);
/// A timer that fires this late says that the process did not run, and nothing about the neighbour.
pub const LATE_TIMER: Duration = Duration::from_millis(100);

/// A peer that turned out to be this node itself is called again after this time.
pub const SELF_PAUSE: Duration = Duration::from_secs(60);

/// Cost of a link besides its delay.
pub const LINK_COST: u32 = 96;
/// Round trips below this add nothing to the cost (RFC 9616 section 3.1 `rtt-min`).
pub const RTT_FREE: Duration = Duration::from_millis(10);
/// Longest round trip that the cost tells apart.
pub const RTT_MAX: Duration = Duration::from_secs(4);
/// A change of cost below this is not announced, and a route is not changed for less.
pub const COST_HYSTERESIS: u32 = 16;
/// Metric of what cannot be reached.
pub const METRIC_INFINITY: u32 = u32::MAX;
/// Changes are collected for this long before they are announced.
pub const UPDATE_BATCH: Duration = Duration::from_millis(5);
/// First repetition of an announcement that is not acknowledged; doubles up to [`UPDATE_RETRY_MAX`].
pub const UPDATE_RETRY: Duration = Duration::from_millis(100);
/// Longest time between two repetitions.
pub const UPDATE_RETRY_MAX: Duration = Duration::from_millis(1000);
/// First repetition of a request for a newer announcement; doubles up to [`REQUEST_RETRY_MAX`].
pub const REQUEST_RETRY: Duration = Duration::from_millis(150);
/// Longest time between two repetitions.
pub const REQUEST_RETRY_MAX: Duration = Duration::from_secs(4);
/// A request that was passed on is not passed on again within this time.
pub const REQUEST_FORWARD_PAUSE: Duration = Duration::from_millis(100);
/// Shortest time between two new announcements of one's own.
pub const SEQNO_PAUSE: Duration = Duration::from_millis(50);
/// How long the feasibility distance of an origin without any route is remembered (RFC 8966 section 3.7.3).
pub const ORIGIN_KEEP: Duration = Duration::from_secs(180);

const _: () = assert!(PENDING_PER_SOURCE_MAX * 2 <= PENDING_STRANGERS_MAX);
const _: () = assert!(COOKIE_KEEP.as_secs() <= COOKIE_SECRET_LIFE.as_secs());
const _: () = assert!(DISCOVERED_LINKS_MAX * 2 <= LINKS_MAX);
const _: () = assert!(MTU >= MTU_MIN);
const _: () = assert!(MTU + crate::wire::OVERHEAD_BYTES + 48 <= 1500);
const _: () = assert!(MTU + crate::wire::OVERHEAD_BYTES <= DATAGRAM_BYTES_MAX);
const _: () = assert!(CONTROL_BYTES_MAX + crate::wire::DATA_OVERHEAD_BYTES + 1 + 48 <= MTU_MIN);
const _: () = assert!(REKEY_AFTER.as_secs() + REKEY_RESPONDER_DELAY.as_secs() < REJECT_AFTER.as_secs());
const _: () = assert!(REKEY_AFTER_MESSAGES < REJECT_AFTER_MESSAGES);
const _: () = assert!(REMOTE_IDLE.as_secs() < REJECT_AFTER.as_secs());
