//! Verify a finality certificate, a header and a state proof, without trusting the server that sent them.
