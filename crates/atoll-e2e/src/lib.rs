//! Network-namespace labs with the real binary.
