//! Bounds of the state store.

/// Blocks that may wait in memory over the committed state. Reads walk down all of them, so a ledger that gets here
/// has stopped committing and must not go on.
pub const LAYERS_MAX: usize = 1_024;
/// Words that one multi-proof covers.
pub const PROOF_WORDS_MAX: usize = 262_144;
