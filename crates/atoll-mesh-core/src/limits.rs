//! Every bound of the mesh: sizes, tables, queues, timeouts, retries.

use core::time::Duration;

/// Largest IPv6 packet that the mesh carries: with every header it fits an Ethernet frame over IPv6 (1500 bytes).
pub const MTU: usize = 1370;
/// Smallest MTU of IPv6 (RFC 8200 section 5).
pub const MTU_MIN: usize = 1280;
/// What a link must carry at least, in bytes of a datagram: the smallest packet that IPv6 allows a network to be bound to.
pub const DATAGRAM_BYTES_MIN: u16 = (MTU_MIN + crate::wire::data::OVERHEAD_BYTES) as u16;
/// How often a link's largest datagram is confirmed while the link is used.
pub const MTU_PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// How often it is tried whether a path carries the least again that a link must.
pub const MTU_NARROW_INTERVAL: Duration = Duration::from_secs(10);
/// Every so many times larger sizes are tried too.
pub const MTU_PROBE_FULL_EVERY: u32 = 120;
/// Time between two tries of that.
pub const MTU_PROBE_RETRY: Duration = Duration::from_millis(500);
/// Tries: a link that loses a fifth each way fails them all once in 150 rounds.
pub const MTU_PROBE_TRIES_MAX: u32 = 5;
/// Largest control payload within a link frame; with all headers it fits the smallest IPv6 MTU.
pub const CONTROL_BYTES_MAX: usize = 1100;

/// Largest frame on a link over a connection: the largest datagram that is probed.
pub const STREAM_FRAME_BYTES_MAX: usize = 8952;

/// Babel TLVs in one packet, padding of one byte aside.
pub const TLVS_MAX: usize = 256;

/// Links to neighbours, in any state.
pub const LINKS_MAX: usize = 512;
/// Links of which only a beacon told, so that forged beacons cannot crowd out the others.
pub const DISCOVERED_LINKS_MAX: usize = 128;
/// Links to nodes that somebody told of, see [`crate::Mesh::add_learned_peer`].
pub const LEARNED_LINKS_MAX: usize = 8;
/// Links that one node may have called here; with more, the one that was silent for longest gives way.
pub const CALLED_LINKS_PER_NODE_MAX: usize = 4;
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
/// Endpoints that one node tells another for a direct link.
pub const CANDIDATES_MAX: usize = 8;
/// Endpoints that are probed for one direct link, with those from which its probes came.
pub const CANDIDATES_FOUND_MAX: usize = CANDIDATES_MAX + 4;
/// Neighbours whose word is taken for where this node is seen.
pub const OBSERVERS_MAX: usize = 3;
/// Bytes of packets that two nodes exchange, both ways together, before they are worth a direct link.
pub const PUNCH_BYTES_MIN: u64 = 4096;
/// Direct links that are tried for at the same time.
pub const PUNCHES_MAX: usize = 16;
/// Direct links that are begun to be tried for each second.
pub const PUNCHES_PER_SECOND_MAX: u32 = 2;
/// Probes that are answered each second.
pub const PUNCH_REPLIES_PER_SECOND_MAX: u32 = 100;
/// Probes that are sent to one endpoint, in one attempt, before it answers.
pub const PUNCH_ROUNDS_MAX: u32 = 8;
/// Direct links that were found this way.
pub const PUNCHED_LINKS_MAX: usize = 64;
/// Far nodes with which there is, or is about to be, a session.
pub const REMOTES_MAX: usize = 4096;
/// Packets for one far node that wait for its handshake.
pub const QUEUED_PACKETS_MAX: usize = 64;
/// Nodes of this region of which routes are kept.
pub const ORIGINS_MAX: usize = 8192;
/// Other regions of which routes are kept.
pub const REGIONS_MAX: usize = 4096;
/// Border nodes of one region that are told apart.
pub const BORDERS_MAX: usize = 8;
/// Grants of neighbours of other regions that are checked per second, over all links.
pub const GRANT_CHECKS_PER_SECOND_MAX: u32 = 50;
/// Datagrams that wait to be sent; more are dropped as a full queue of a router would.
pub const TRANSMITS_MAX: usize = 4096;
/// Packets that wait to be written to the TUN device.
pub const PACKETS_MAX: usize = 4096;
/// Delay that a flow's queue may have for longer than [`QUEUE_INTERVAL`] (RFC 8289 section 4.4).
pub const QUEUE_TARGET: Duration = Duration::from_millis(5);
/// Round trip within which a sender should have reacted to a mark or drop (RFC 8289 section 4.3).
pub const QUEUE_INTERVAL: Duration = Duration::from_millis(100);
/// Queues among which the flows that wait for the socket are shared out by hash (RFC 8290 section 5.1).
pub const QUEUE_FLOWS: usize = 1024;
/// Datagrams that wait for the socket. Fair queueing lets some overtake others: by less than a replay window.
pub const QUEUE_DATAGRAMS_MAX: usize = 1536;
/// Their bytes.
pub const QUEUE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// What a flow may send each time that it is its turn.
pub const QUEUE_QUANTUM_BYTES: usize = MTU + crate::wire::data::OVERHEAD_BYTES;
/// Datagrams that a full queue drops at once (RFC 8290 section 5.2).
pub const QUEUE_DROPS_MAX: usize = 64;
/// Buffers of that size are used again; larger datagrams have each its own.
pub const QUEUE_BUFFER_BYTES: usize = 2048;
/// How long what lies in the kernel's send buffer should take to leave, about.
pub const SEND_BUFFER_TIME: Duration = Duration::from_millis(3);
/// Time over which one value of the rate is taken for that, at least.
pub const SEND_BUFFER_WINDOW: Duration = Duration::from_millis(20);
/// Smallest send buffer: a few datagrams, so that the next is there when one has left.
pub const SEND_BUFFER_BYTES_MIN: usize = 4096;
/// Send buffer before any rate is known: two whole rows.
pub const SEND_BUFFER_BYTES_INITIAL: usize = 128 * 1024;
/// Largest send buffer: 3 ms of 10 Gb/s.
pub const SEND_BUFFER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Memory of the queue.
pub const QUEUE_MEMORY_BYTES_MAX: usize =
    QUEUE_DATAGRAMS_MAX * (QUEUE_BUFFER_BYTES + 96) + QUEUE_BYTES_MAX + QUEUE_FLOWS * 128;
/// Queues among which the flows that wait for one connection are shared out.
pub const STREAM_QUEUE_FLOWS: usize = 256;
/// Bytes that wait for all connections that are full, which have equal parts of it, each [`QUEUE_BYTES_MAX`] at most.
pub const STREAM_QUEUES_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Events that wait to be read.
pub const EVENTS_MAX: usize = 1024;
/// Hops that a datagram may take.
pub const HOP_LIMIT: u8 = 64;
/// Largest hop limit of a packet of which a sender keeps a note, should a relay say that it ran out there.
pub const TRACE_HOPS_MAX: u8 = 32;
/// Such notes.
pub const TRACE_NOTES_MAX: usize = 256;
/// How much of such a packet is kept, to be quoted: addresses and ports lie in it.
pub const TRACE_QUOTE_BYTES: usize = 128;
/// Senders that a relay tells each second that a frame ran out of hops; and probes that a target answers each second.
pub const TRACE_ANSWERS_PER_SECOND_MAX: u32 = 100;
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
/// How many times as long the keys of a link last that carried no data under them: they hide signs of life only.
pub const REKEY_IDLE_FACTOR: u32 = 2;
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

/// Silence after which a neighbour is probed while nothing is carried, at first.
pub const PROBE_IDLE: Duration = Duration::from_secs(3);
/// The same for a link that was left alone for long.
pub const PROBE_IDLE_MAX: Duration = Duration::from_secs(15);
/// By which part of the time since a link was used, or came up, the silence between its probes grows, as a divisor.
pub const PROBE_IDLE_DIVISOR: u32 = 4;
/// The same while there is traffic.
pub const PROBE_ACTIVE: Duration = Duration::from_millis(150);
/// How long a link counts as carrying traffic after the last data frame.
pub const ACTIVE_KEEP: Duration = Duration::from_millis(1500);
/// While there is traffic the round trip is measured this often, however much is heard.
pub const PROBE_RTT_INTERVAL: Duration = Duration::from_secs(1);
/// How long the first and the last probe of a row may take to be answered; longer if the round trip is longer.
pub const PROBE_PATIENCE: Duration = Duration::from_millis(70);
/// Time between the probes in between.
pub const PROBE_RETRY: Duration = Duration::from_millis(45);
/// Unanswered probes after which a link is dead.
pub const PROBE_TRIES_MAX: u32 = 6;
/// The same on a link that is known to lose more than [`LOSS_FREE_PERMILLE`] of its frames.
pub const PROBE_TRIES_LOSSY_MAX: u32 = 12;
/// The same if the operating system says that nobody listens there.
pub const PROBE_TRIES_SUSPECT_MAX: u32 = 3;
/// How often a dead neighbour is probed.
pub const PROBE_DEAD_INTERVAL: Duration = Duration::from_millis(500);
/// A neighbour that talks but has not confirmed any hello for this long after one was sent counts as dead: links are
/// used both ways.
pub const CONFIRM_MAX: Duration = Duration::from_secs(10);
/// A hello is echoed no later than this (RFC 9616 section 3.1: an older echo says nothing of the round trip).
pub const ECHO_MAX: Duration = Duration::from_secs(60);
/// A beacon of a neighbour that was silent for this long makes it be probed.
pub const HINT_SILENCE: Duration = Duration::from_secs(2);
/// A dead link that nobody configured is forgotten after this time.
pub const LINK_FORGET: Duration = Duration::from_secs(60);
/// Shortest time between two questions whether a neighbour is at another endpoint.
pub const PATH_CHECK_PAUSE: Duration = Duration::from_millis(100);
/// How long the new endpoint may take to answer, and the old one to say that the neighbour is still there; as long it is
/// then believed.
pub const PATH_OLD_KEEP: Duration = Duration::from_secs(1);
/// How often this node looks with whom it talks over others.
pub const PUNCH_SWEEP: Duration = Duration::from_millis(500);
/// Whoever was talked to within this time is worth a direct link.
pub const PUNCH_TALK: Duration = Duration::from_secs(5);
/// Time between two offers of one attempt.
pub const PUNCH_RETRY: Duration = Duration::from_millis(700);
/// The answerer of an offer waits for the other's word to begin for this long.
pub const PUNCH_START_MAX: Duration = Duration::from_millis(600);
/// Hops that probes of the first round take: past the next NAT, and not to the other end's.
pub const PUNCH_OPENING_HOPS: u8 = 2;
/// Time between the first round, which only opens the own NAT, and the second: by how much both may differ.
pub const PUNCH_OPENING: Duration = Duration::from_millis(150);
/// Time between two rounds of probes.
pub const PUNCH_ROUND: Duration = Duration::from_millis(200);
/// How long an attempt may take.
pub const PUNCH_LIFE: Duration = Duration::from_secs(5);
/// Time between two attempts with one node; doubles with each failure, up to [`PUNCH_PAUSE_MAX`].
pub const PUNCH_PAUSE: Duration = Duration::from_secs(10);
/// Longest time between two attempts.
pub const PUNCH_PAUSE_MAX: Duration = Duration::from_secs(640);
/// A direct link that was found this way and carried nothing for this time is given up.
pub const PUNCHED_IDLE: Duration = Duration::from_secs(180);
/// One that is down is forgotten after this time.
pub const PUNCHED_FORGET: Duration = Duration::from_secs(10);
/// A timer that fires this late says that the process did not run, and nothing about the neighbour.
pub const LATE_TIMER: Duration = Duration::from_millis(100);

/// A peer that turned out to be this node itself is called again after this time.
pub const SELF_PAUSE: Duration = Duration::from_secs(60);

/// Cost of a link without delay, loss or bottleneck (RFC 8966 section 3.4.3: the nominal cost of a wired link).
pub const LINK_COST: u16 = 96;
/// What a link over TLS costs on top: as much as some ten clean links, or 15 % loss in both directions. So it is used only
/// where no way over datagrams works, and stands by where one does.
pub const STREAM_COST: u16 = 1024;
/// Largest cost of a link: what is worse is all the same.
pub const LINK_COST_MAX: u16 = 0x4000;
/// Round trips below this add nothing to the cost (RFC 9616 section 3.3 `rtt-min`).
pub const RTT_FREE: Duration = Duration::from_millis(10);
/// Of so many round trips the shortest counts: what is longer waited, for the link or for a processor.
pub const RTT_SAMPLES: usize = 4;
/// Longest round trip that the cost tells apart.
pub const RTT_MAX: Duration = Duration::from_secs(4);
/// Loss below this, in thousandths of the frames of one direction, adds nothing to the cost.
pub const LOSS_FREE_PERMILLE: u16 = 20;
/// What each further thousandth adds.
pub const LOSS_COST: u16 = 4;
/// Frames from which one value of the loss is taken, at least.
pub const LOSS_FRAMES_MIN: u64 = 32;
/// Time over which one value of the loss is taken, at least.
pub const LOSS_WINDOW: Duration = Duration::from_secs(2);
/// Capacity from which on a link is no bottleneck: binary logarithm of kilobits a second (2^20 kbit/s is 1 Gb/s).
pub const CAPACITY_FREE: u8 = 20;
/// What each halving of the capacity below that adds.
pub const CAPACITY_COST: u16 = 16;
/// A change of cost below this is not announced, and a route is not changed for less.
pub const COST_HYSTERESIS: u16 = 16;
/// Costs and metrics must differ by this part of themselves at least, as a divisor.
pub const COST_HYSTERESIS_DIVISOR: u16 = 16;
/// What an update promises about the next one, in hundredths of a second: nothing, links are watched otherwise.
pub const UPDATE_INTERVAL_CS: u16 = u16::MAX;
/// Within which time an acknowledgement is expected, in hundredths of a second.
pub const ACK_INTERVAL_CS: u16 = 10;
/// Within which time another hello is due to be answered, in hundredths of a second.
pub const IHU_INTERVAL_CS: u16 = 1000;
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
/// Requests after which nobody seems to answer.
pub const REQUEST_EAGER_TRIES: u32 = 20;
/// Longest time between two of these: each is lost if any link on its way loses it.
pub const REQUEST_RETRY_EAGER_MAX: Duration = Duration::from_millis(500);
/// Requests for a newer announcement that would only make a working route better.
pub const REQUEST_BETTER_TRIES_MAX: u32 = 3;
/// New members to whom neighbours are asked for the way one by one; with more, they are asked for everything.
pub const NEW_MEMBERS_ASKED_MAX: usize = 256;
/// How often they are asked for each.
pub const WAY_REQUEST_TRIES_MAX: u32 = 8;
/// A request that was passed on is not passed on again within this time.
pub const REQUEST_FORWARD_PAUSE: Duration = Duration::from_millis(100);
/// Neighbours to which a request is passed on that was asked before; the first time it is one.
pub const REQUEST_WAYS_MAX: usize = 4;
/// Shortest time between two new announcements of one's own.
pub const SEQNO_PAUSE: Duration = Duration::from_millis(50);
/// How long the feasibility distance of an origin without any route is remembered (RFC 8966 section 3.7.3).
pub const ORIGIN_KEEP: Duration = Duration::from_secs(180);

/// Guests of an exit that use IPv4 over it; each has an address. Less than the pool has: its first and last are left
/// out.
pub const IPV4_GUESTS_MAX: usize = 4094;
/// An address whose guest did not use it for this long may become another's: as long as a TCP connection may be silent
/// (RFC 5382 section 5), so that no answer to the one gets to the other.
pub const IPV4_GUEST_IDLE: Duration = Duration::from_secs(2 * 3600 + 4 * 60);
/// Local IPv4 networks of an exit.
pub const IPV4_NETWORKS_MAX: usize = 256;

/// Routers on plain interfaces that are listened to, over all interfaces.
pub const PLAIN_NEIGHBOURS_MAX: usize = 64;
/// Routes that are kept of them.
pub const PLAIN_ROUTES_MAX: usize = 4096;
/// Sources of these of which the feasibility distance is kept.
pub const PLAIN_SOURCES_MAX: usize = 4096;
/// Requests for a newer sequence number that are open, and as many that were passed on lately.
pub const PLAIN_REQUESTS_MAX: usize = 256;
/// Prefixes that are announced on a plain interface.
pub const PLAIN_ANNOUNCED_MAX: usize = ORIGINS_MAX + 1;
/// Packets that wait to be sent on plain interfaces.
pub const PLAIN_TRANSMITS_MAX: usize = 1024;
/// Requests and acknowledgement requests on plain interfaces that are answered each second.
pub const PLAIN_ANSWERS_PER_SECOND_MAX: u32 = 200;
/// Time between two hellos on a plain interface (RFC 8966 appendix B).
pub const PLAIN_HELLO_INTERVAL: Duration = Duration::from_secs(4);
/// What an IHU promises about the next one: three hellos (appendix B). One goes with each hello.
pub const PLAIN_IHU_INTERVAL: Duration = Duration::from_secs(12);
/// Time between two complete announcements on a plain interface (appendix B).
pub const PLAIN_UPDATE_INTERVAL: Duration = Duration::from_secs(16);
/// Hellos that follow each other closely when an interface or a neighbour is new: two of three must be heard.
pub const PLAIN_BURST: u32 = 3;
/// Time between two of these, and between two sendings of a change.
pub const PLAIN_PAUSE: Duration = Duration::from_millis(200);
/// Changes are collected for this long.
pub const PLAIN_BATCH: Duration = Duration::from_millis(20);
/// How often a change is sent, because it may be lost.
pub const PLAIN_CHANGE_SENDINGS: u8 = 2;
/// How long a route without a way stays unreachable, if others may still send to this node for it (section 3.5.4).
pub const PLAIN_HOLD: Duration = Duration::from_secs(56);
/// How long a feasibility distance is kept that is not told any more (appendix B).
pub const PLAIN_SOURCE_KEEP: Duration = Duration::from_secs(180);
/// Sendings of a request for a newer sequence number, the first repetition after [`PLAIN_REQUEST_RETRY`] (appendix B).
pub const PLAIN_REQUEST_TRIES_MAX: u32 = 3;
/// First repetition of that; doubles.
pub const PLAIN_REQUEST_RETRY: Duration = Duration::from_secs(2);
/// A request is not passed on twice within this time.
pub const PLAIN_FORWARD_PAUSE: Duration = Duration::from_secs(1);
/// Shortest time between two own sequence numbers: the shell's first one is the calendar in seconds, and must be newer
/// after a restart.
pub const PLAIN_SEQNO_PAUSE: Duration = Duration::from_secs(1);

const _: () = assert!(STREAM_FRAME_BYTES_MAX == crate::link_mtu::SIZES[crate::link_mtu::SIZES.len() - 1] as usize);
const _: () = assert!(LINK_COST + STREAM_COST < LINK_COST_MAX);
const _: () = assert!(QUEUE_DATAGRAMS_MAX < crate::replay::WINDOW as usize);
const _: () = assert!(QUEUE_QUANTUM_BYTES <= QUEUE_BUFFER_BYTES);
const _: () = assert!(QUEUE_MEMORY_BYTES_MAX <= 6 * 1024 * 1024);
const _: () = assert!(PENDING_PER_SOURCE_MAX * 2 <= PENDING_STRANGERS_MAX);
const _: () = assert!(COOKIE_KEEP.as_secs() <= COOKIE_SECRET_LIFE.as_secs());
const _: () = assert!(DISCOVERED_LINKS_MAX * 2 <= LINKS_MAX);
const _: () = assert!(IPV4_GUESTS_MAX + 2 <= 1 << (32 - crate::exit::POOL_BITS));
const _: () = assert!(MTU >= MTU_MIN);
const _: () = assert!(TRACE_HOPS_MAX < HOP_LIMIT);
const _: () = assert!(MTU + crate::wire::data::OVERHEAD_BYTES + 48 <= 1500);
const _: () = assert!(CONTROL_BYTES_MAX + crate::wire::data::CONTROL_OVERHEAD_BYTES + 1 + 48 <= MTU_MIN);
const _: () = assert!(REKEY_AFTER.as_secs() + REKEY_RESPONDER_DELAY.as_secs() < REJECT_AFTER.as_secs());
const _: () = assert!(
    REKEY_AFTER.as_secs() * REKEY_IDLE_FACTOR as u64 + REKEY_RESPONDER_DELAY.as_secs() + PROBE_IDLE_MAX.as_secs()
        < REJECT_AFTER.as_secs()
);
const _: () = assert!(PROBE_IDLE_MAX.as_secs() * 2 < ECHO_MAX.as_secs());
const _: () = assert!(REKEY_AFTER_MESSAGES < REJECT_AFTER_MESSAGES);
const _: () = assert!(REMOTE_IDLE.as_secs() < REJECT_AFTER.as_secs());
