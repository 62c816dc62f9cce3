//! Block format and validity, EVM execution, system contracts, state trie of the ledger: pure.

pub mod state;
