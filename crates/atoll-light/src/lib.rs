//! Verify a finality certificate, a header and a state proof, without trusting the server that sent them.
//!
//! Nothing here does I/O or reads a clock. Start with [`CertificateVerifier`].

pub mod certificate;

pub use certificate::{CertificateError, CertificateVerifier};
