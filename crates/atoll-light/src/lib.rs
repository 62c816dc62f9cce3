//! Verify a finality certificate, a header and a state proof, without trusting the server that sent them.
//!
//! Nothing here does I/O or reads a clock. Start with [`CertificateVerifier`], which tells that a header is final, and
//! [`ProvenState`], which tells what the ledger holds under that header's state root.

pub mod certificate;
pub mod limits;
pub mod proof;
pub mod view;

pub use certificate::{CertificateError, CertificateVerifier};
pub use proof::{ProofError, verify_account_proof, verify_storage_proof};
pub use view::{NotProven, ProvenState};
