//! Bounds of the daemon. The protocol's own are in [`atoll_mesh_core::limits`].

use core::time::Duration;

/// Each time after so many looks at packets, all else is asked first whether it is ready.
pub const REST_TURN: u32 = 8;
/// Largest super-packet, and longest row of datagrams that one buffer takes.
pub const SUPER_BYTES_MAX: usize = 65_536;
/// Longest row of datagrams in one send: what fits the length field of UDP over IPv4.
pub const ROW_BYTES_MAX: usize = 65_507;
/// Rows of datagrams that are received in one call of the kernel: as many as the library passes on.
pub const RECEIVE_CALL_MAX: usize = quinn_udp::BATCH_SIZE;
/// The same if rows are long: more would not stay in the processor's cache.
pub const RECEIVE_BUFFERS_MIN: usize = 8;
/// Rows that are kept until they are handed over. Where nothing below puts datagrams together each row is a single one, and
/// a super-packet for the TUN device is made of these.
pub const RECEIVE_BUFFERS: usize = 3 * RECEIVE_CALL_MAX;
/// From one buffer for a row to the next: with a power of two between them, single datagrams at their beginnings would
/// compete for the same few places of the processor's cache.
pub const RECEIVE_STRIDE_BYTES: usize = SUPER_BYTES_MAX + 1536;
/// Such calls in one go before anything else is looked at.
pub const RECEIVE_ROUNDS_MAX: usize = 4;
/// Packets that are read from the TUN device in one go.
pub const TUN_READS_MAX: usize = 16;
/// Datagrams that were ready when the socket turned out to be full, and are the first when it takes more.
pub const STUCK_BYTES_MAX: usize = 4 * ROW_BYTES_MAX;
/// When a full socket is tried again, if nothing tells that it takes more.
pub const ROOM_PAUSE: Duration = Duration::from_millis(1);
/// How long after the socket was full everything still goes through the queue, so that its order and sizes are ours.
pub const HOLD_KEEP: Duration = Duration::from_secs(1);
/// Kernel buffers of the UDP socket, each way; the one for sending is then fitted to what leaves in a few milliseconds.
pub const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of a key file that are read: more than a key has.
pub const KEY_BYTES_MAX: u64 = 1024;
/// Bytes of a configuration that is read again: more than one with all its lists full has.
pub const CONFIG_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Static peers in a configuration.
pub const PEERS_MAX: usize = 64;
/// Other regions in a configuration.
pub const REGIONS_MAX: usize = atoll_mesh_core::limits::REGIONS_MAX;
/// Members in a configuration.
pub const MEMBERS_MAX: usize = 10_000;
/// Neighbours below which nodes are called of which somebody told where they are.
pub const NEIGHBOURS_WANTED: usize = 2;
/// How often it is looked whether somebody of them should be called, while there are any.
pub const LEARNED_INTERVAL: Duration = Duration::from_secs(1);
/// How long there are too few neighbours before somebody is called: others may be about to come up.
pub const LEARNED_GRACE: Duration = Duration::from_secs(3);
/// A call that is not answered for so long is ended.
pub const LEARNED_PATIENCE: Duration = Duration::from_secs(10);
/// Pause before a node is called again that did not answer anywhere; doubles with each failure.
pub const LEARNED_PAUSE: Duration = Duration::from_secs(15);
/// Longest such pause.
pub const LEARNED_PAUSE_MAX: Duration = Duration::from_secs(3600);
/// The same for who has no neighbour at all.
pub const LEARNED_PAUSE_ALONE: Duration = Duration::from_secs(30);
/// How often one is called, with enough neighbours, that cannot be reached over them.
pub const LEARNED_EXPLORE: Duration = Duration::from_secs(60);
/// How long there are enough other neighbours before those that were called so are let go.
pub const LEARNED_KEEP: Duration = Duration::from_secs(60);
/// Number of the first connection over TLS to such a node; those before it are static peers'.
pub const LEARNED_STREAMS_FIRST: u32 = 1 << 16;
/// Entries of what is open to the mesh.
pub const OPEN_MAX: usize = 256;
/// Prefixes to which an exit leads.
pub const EXIT_PREFIXES_MAX: usize = 256;
/// Interfaces on which peers are discovered.
pub const DISCOVERY_INTERFACES_MAX: usize = 32;
/// Connections over TLS that others called, in any state after the TLS handshake; the oldest that carries no link gives
/// way.
pub const TLS_CONNECTIONS_MAX: usize = 256;
/// Connections of one address (IPv4) or network (IPv6 /64), in any state.
pub const TLS_CONNECTIONS_PER_SOURCE_MAX: usize = 32;
/// TLS handshakes that are answered at the same time; the oldest gives way.
pub const TLS_HALF_OPEN_MAX: usize = 64;
/// TLS handshakes that are begun for others each second.
pub const TLS_ACCEPTS_PER_SECOND_MAX: u32 = 100;
/// The same for one address or network.
pub const TLS_ACCEPTS_PER_SOURCE_AND_SECOND_MAX: u32 = 10;
/// Connections that are accepted by the kernel and wait for this program.
pub const TLS_BACKLOG: i32 = 128;
/// When the kernel cannot accept: pause before the next try.
pub const TLS_ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a connection may take, and after that its TLS handshake.
pub const TLS_HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// A connection over which no link is up for this long is closed.
pub const TLS_IDLE_MAX: Duration = Duration::from_secs(6);
/// How often connections are looked at for that.
pub const TLS_SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// What was sent and is not acknowledged for this long ends a connection (RFC 5482).
pub const TLS_USER_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before a connection that was useful is made again; doubles with each failure. A random part of up to a half is
/// taken off.
pub const TLS_DIAL_PAUSE: Duration = Duration::from_millis(250);
/// Longest such pause.
pub const TLS_DIAL_PAUSE_MAX: Duration = Duration::from_secs(10);
/// Frames that are written together: what one TLS record holds (RFC 8446 section 5.1).
pub const TLS_CHUNK_BYTES: usize = 16_384;
/// Most that the kernel may hold of a connection that it has not sent yet: enough for its next burst, and little to wait
/// for. On a slow connection it is less.
pub const TLS_UNSENT_BYTES: u32 = 128 * 1024;
/// Data that is ready for one connection before it counts as full and more waits in the core's queue: at first, and at
/// most. It is fitted to what the connection takes in a few milliseconds.
pub const TLS_ROOM_BYTES: usize = 128 * 1024;
/// Data that is ready for one connection, with the lengths of its frames: that, and the rows that were on their way when
/// it became full.
pub const TLS_READY_BYTES_MAX: usize = TLS_ROOM_BYTES + 2 * SUPER_BYTES_MAX;
/// The same for all connections.
pub const TLS_READY_BYTES_SUM_MAX: usize = 32 * 1024 * 1024;
/// Frames of links and handshakes that wait for one connection.
pub const TLS_URGENT_BYTES_MAX: usize = 64 * 1024;
/// Bytes that are read from a connection before they are handed on.
pub const TLS_READ_BYTES: usize = 64 * 1024;
/// Such batches that wait for the owner of the mesh; then connections wait.
pub const TLS_BATCHES_MAX: usize = 32;
/// How long connections may take to send their last words at shutdown.
pub const TLS_STOP_MAX: Duration = Duration::from_millis(500);
/// Questions to the local API that wait for an answer.
pub const REQUESTS_MAX: usize = 16;
/// How often names and interfaces of peers are looked up that are not known yet.
pub const RESOLVE_INTERVAL: Duration = Duration::from_secs(5);
/// The same of those that are.
pub const RESOLVE_KNOWN_INTERVAL: Duration = Duration::from_secs(30);
/// How often a beacon is sent on each interface, at first and while there is news.
pub const BEACON_INTERVAL: Duration = Duration::from_secs(2);
/// Longest time between two beacons, when nobody new is heard.
pub const BEACON_INTERVAL_MAX: Duration = Duration::from_secs(16);
/// Beacons after which, if nobody new is heard, the time between two doubles.
pub const BEACONS_EAGER: u32 = 5;
/// How long open API connections may take to end at shutdown.
pub const API_STOP_MAX: Duration = Duration::from_secs(1);
/// A static peer that does not answer for this long is shown as a problem.
pub const PEER_PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked what is wrong, to log it, and how long after a link came up or went down.
pub const REVIEW_INTERVAL: Duration = Duration::from_secs(5);
/// The same while nothing is.
pub const REVIEW_QUIET_INTERVAL: Duration = Duration::from_secs(60);
/// Headers of a datagram over IPv4.
pub const IPV4_UDP_BYTES: usize = 20 + 8;
/// Headers of a datagram over IPv6.
pub const IPV6_UDP_BYTES: usize = 40 + 8;
/// UDP port of the beacons.
pub const BEACON_PORT: u16 = 4869;
/// Shortest time between two questions whether the interfaces of links still have a carrier; asked only while something
/// is sent.
pub const CARRIER_INTERVAL: Duration = Duration::from_millis(20);
/// Plain interfaces, on which routes are exchanged with ordinary Babel routers.
pub const PLAIN_INTERFACES_MAX: usize = 16;
/// Prefixes of which routes are learned on one plain interface.
pub const PLAIN_ACCEPT_MAX: usize = 256;
/// How often plain interfaces and their addresses are looked up, and routes that the kernel refused are tried again.
pub const PLAIN_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Largest packet of Babel that is read: what an Ethernet frame holds, and jumbo frames.
pub const PLAIN_PACKET_BYTES_MAX: usize = 9216;
/// How long the removal of learned routes may take at shutdown.
pub const PLAIN_STOP_MAX: Duration = Duration::from_secs(5);

const _: () = assert!(NEIGHBOURS_WANTED < atoll_mesh_core::limits::LEARNED_LINKS_MAX);
const _: () = assert!(PEERS_MAX <= LEARNED_STREAMS_FIRST as usize);
const _: () = assert!(TLS_CHUNK_BYTES > atoll_mesh_core::limits::STREAM_FRAME_BYTES_MAX + 2);
const _: () = assert!(TLS_CHUNK_BYTES <= TLS_ROOM_BYTES / 2);
const _: () = assert!(TLS_CONNECTIONS_PER_SOURCE_MAX * 4 <= TLS_CONNECTIONS_MAX);
/// Traces at the same time.
pub const TRACES_MAX: usize = 4;
/// Probes for each hop of a trace.
pub const TRACE_PROBES_MAX: u16 = 100;
/// How long a probe is waited for, in milliseconds, at least and at most.
pub const TRACE_TIMEOUT_MS: core::ops::RangeInclusive<u64> = 10..=10_000;
/// Shortest time between two probes to one hop: relays answer a hundred a second, whoever asks.
pub const TRACE_PAUSE: Duration = Duration::from_millis(100);
/// How long the target of a trace may take for its handshake.
pub const TRACE_KEYS_MAX: Duration = Duration::from_secs(5);
/// How often it is looked whether that is done.
pub const TRACE_KEYS_INTERVAL: Duration = Duration::from_millis(50);
/// By how many hops a trace goes on that did not get to its target.
pub const TRACE_STEP: u8 = 4;
/// What was captured and is not read yet; more is left out, and counted.
pub const CAPTURED_MAX: usize = 1024;
/// Of these, how many are written in one go.
pub const CAPTURED_AT_ONCE: usize = 64;

const _: () = assert!(
    TRACES_MAX * atoll_mesh_core::limits::TRACE_HOPS_MAX as usize * 2 <= atoll_mesh_core::limits::TRACE_NOTES_MAX
);
