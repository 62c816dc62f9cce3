//! Bounds of the node daemon.

use std::time::Duration;

use atoll_api::ledger::FINALITY_WAIT_MS;

/// TCP port of a node's server for other nodes, on its mesh address.
pub const PEER_PORT: u16 = 4872;
/// UDP and TCP port of the node's name server, on its mesh address.
pub const DNS_PORT: u16 = 53;

/// Longest wait for a connection to a ledger server.
pub const LEDGER_CONNECT: Duration = Duration::from_secs(2);
/// Longest wait for a ledger server's answer that does not wait for a block itself.
pub const LEDGER_ANSWER: Duration = Duration::from_secs(5);
/// Largest answer of a ledger server.
pub const LEDGER_ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A ledger server whose newest block is older than so many idle block times is left for the next one.
pub const STALE_IDLE_BLOCKS: u64 = 4;
/// Least time after which a ledger server counts as stale.
pub const STALE_MIN: Duration = Duration::from_secs(3);
/// How often a node that follows another server looks whether its preferred one is back.
pub const PREFER_FIRST_EVERY: Duration = Duration::from_secs(20);
/// Wait between two rounds over all servers when none is any good.
pub const LEDGER_RETRY: Duration = Duration::from_millis(500);
/// Least time between two readings of the region's view.
pub const VIEW_EVERY: Duration = Duration::from_millis(50);

/// A report that the ledger did not take yet is sent again after so long.
pub const REPORT_AGAIN: Duration = Duration::from_secs(3);
/// Reports in one go.
pub const REPORTS_MAX: usize = 64;
/// Gas limit of the node's own free transactions.
pub const FREE_GAS: u64 = 500_000;

/// Connections that the gateway holds at once.
pub const GATEWAY_CONNECTIONS_MAX: usize = 4_096;
/// Longest wait for a request's head.
pub const GATEWAY_HEAD: Duration = Duration::from_secs(15);
/// Longest wait for a connection to a backend.
pub const BACKEND_CONNECT: Duration = Duration::from_millis(1_500);
/// A backend's machine that acknowledges nothing for so long is given up.
pub const BACKEND_UNACKED: Duration = Duration::from_secs(3);
/// Longest wait for the head of a backend's answer.
pub const BACKEND_HEAD: Duration = Duration::from_secs(60);
/// Unused connections kept for one backend.
pub const BACKEND_IDLE_MAX: usize = 32;
/// How long an unused connection is kept.
pub const BACKEND_IDLE: Duration = Duration::from_secs(20);
/// Headers of one request.
pub const HEADERS_MAX: usize = 100;
/// Size of a request's or answer's head.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Largest manifest, index or image configuration.
pub const MANIFEST_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Layers of one image.
pub const LAYERS_MAX: usize = 128;
/// Largest blob.
pub const BLOB_BYTES_MAX: u64 = 32 * 1024 * 1024 * 1024;
/// Files of one image.
pub const IMAGE_ENTRIES_MAX: u64 = 2_000_000;
/// Bytes of one image when unpacked.
pub const IMAGE_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;
/// Longest path in an image.
pub const IMAGE_PATH_BYTES_MAX: usize = 4_096;
/// Largest request to a node's API.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// An image that nothing refers to is kept for so long after it was imported, in ledger time.
pub const IMAGE_KEEP_MS: u64 = 3_600_000;
/// How often unused images are looked for.
pub const COLLECT_EVERY: Duration = Duration::from_secs(300);
/// Attempts to go on with one blob from one source.
pub const BLOB_ATTEMPTS: u32 = 3;
/// Longest silence while a blob is being fetched.
pub const BLOB_SILENCE: Duration = Duration::from_secs(20);
/// Blobs that are fetched at once for one image.
pub const BLOBS_AT_ONCE: usize = 3;

/// Connections that the servers for other nodes hold at once.
pub const PEER_CONNECTIONS_MAX: usize = 256;
/// Connections that the RPC forwarder holds at once.
pub const FORWARD_CONNECTIONS_MAX: usize = 512;

/// Pause between two health checks while a workload starts.
pub const HEALTH_STARTING_EVERY: Duration = Duration::from_millis(100);
/// Pause between two health checks while it runs.
pub const HEALTH_RUNNING_EVERY: Duration = Duration::from_secs(5);
/// Longest wait for a health check's answer.
pub const HEALTH_ANSWER: Duration = Duration::from_secs(5);
/// A container that is not healthy so long after its start has failed.
pub const HEALTH_START_CONTAINER: Duration = Duration::from_secs(60);
/// A micro-VM that is not healthy so long after its start has failed.
pub const HEALTH_START_VM: Duration = Duration::from_secs(180);
/// Failed checks in a row after which a running workload counts as failed.
pub const HEALTH_MISSES_MAX: u32 = 3;
/// A process without a port to ask counts as healthy when it lives for so long.
pub const HEALTH_ALIVE: Duration = Duration::from_millis(500);
/// How long a workload may take to end when it is asked to.
pub const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Wait before the packet filter is tried again.
pub const FIREWALL_AGAIN: Duration = Duration::from_secs(5);
/// Micro-VMs that start at once: each takes a core for seconds where there is no KVM.
pub const VM_STARTS_MAX: usize = 2;

/// Lines of a log that can be asked for.
pub const LOG_TAIL_MAX: u32 = 100_000;
/// A signature on a log request is valid for so long, in both directions.
pub const LOG_SIGNATURE_MS: u64 = 60_000;
/// How often a followed log is looked at.
pub const LOG_FOLLOW_EVERY: Duration = Duration::from_millis(200);
/// Time to live of the names that the node answers, seconds.
pub const DNS_TTL_S: u32 = 5;
/// Addresses in one DNS answer.
pub const DNS_ANSWERS_MAX: usize = 16;
/// How often the mesh daemon is told what the ledger says, at least.
pub const TELL_INTERVAL: Duration = Duration::from_secs(5);
/// Longest string in a TXT record (RFC 1035 section 3.3).
pub const DNS_TEXT_BYTES_MAX: usize = 255;
/// Longest wait for a resolver outside.
pub const DNS_UPLINK_TIMEOUT: Duration = Duration::from_secs(2);
/// Questions that may wait for resolvers outside at a time.
pub const DNS_UPLINK_QUESTIONS_MAX: usize = 256;
/// Resolvers outside.
pub const DNS_UPLINKS_MAX: usize = 8;
/// Longest wait for a DNS client on TCP.
pub const DNS_TCP: Duration = Duration::from_secs(5);

const _: () = assert!(FINALITY_WAIT_MS <= 10_000);
const _: () = assert!(BACKEND_CONNECT.as_millis() < BACKEND_HEAD.as_millis());
