//! Bounds of what is shared between the parts. Each daemon's own bounds are in its own `limits.rs`.

/// Longest name of a region, deployment or service: a DNS label (RFC 1035 section 2.3.4).
pub const NAME_BYTES_MAX: usize = 63;
/// Links that an invite names.
pub const INVITE_LINKS_MAX: usize = 16;
/// A DNS name (RFC 1035 section 2.3.4), without the dot at its end.
pub const HOST_BYTES_MAX: usize = 253;
/// An invite as text, with room for line breaks.
pub const INVITE_TEXT_BYTES_MAX: usize = 8192;
/// Services in one deployment.
pub const SERVICES_MAX: usize = 16;
/// Replicas of one service.
pub const REPLICAS_MAX: u32 = 16;
/// Sealed private part of a service.
pub const SEALED_SPEC_BYTES_MAX: usize = 16 * 1024;
/// A sealed content key: HPKE encapsulation (32), key (32) and tag (16), with room to grow.
pub const SEALED_KEY_BYTES_MAX: usize = 128;
/// Labels of a node, and constraints or open ports of a service.
pub const LABELS_MAX: usize = 32;
/// One label, `key=value`.
pub const LABEL_BYTES_MAX: usize = 128;
/// Labels of a node that say where its mesh can be called, see [`crate::published`]; more are ignored.
pub const PUBLISHED_LINKS_MAX: usize = 4;
/// A plain-language reason.
pub const WHY_BYTES_MAX: usize = 256;
/// Nodes of one region.
pub const NODES_MAX: u64 = 65_536;
/// Deployments that are alive at once.
pub const DEPLOYMENTS_ALIVE_MAX: u64 = 65_536;
/// Validators of one region.
pub const VALIDATORS_MAX: usize = 100;
/// A block with everything in it.
pub const BLOCK_BYTES_MAX: usize = 1024 * 1024;
/// One transaction.
pub const TRANSACTION_BYTES_MAX: usize = 128 * 1024;

const _: () = assert!((38 + INVITE_LINKS_MAX * (4 + HOST_BYTES_MAX)) * 8 / 5 + 100 <= INVITE_TEXT_BYTES_MAX);
const _: () = assert!(PUBLISHED_LINKS_MAX < LABELS_MAX);
const _: () = assert!(TRANSACTION_BYTES_MAX * 2 <= BLOCK_BYTES_MAX);
const _: () = assert!(SEALED_SPEC_BYTES_MAX * 4 <= TRANSACTION_BYTES_MAX);
