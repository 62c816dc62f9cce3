//! Bounds of what is taken from a server.

/// Storage words in one proof.
pub const PROOF_WORDS_MAX: usize = 262_144;
/// Bytes of all trie nodes of one proof.
pub const PROOF_BYTES_MAX: usize = 64 * 1024 * 1024;
