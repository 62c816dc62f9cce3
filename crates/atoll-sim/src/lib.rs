//! A seeded world of many nodes: the real cores under a virtual clock and network.
//!
//! A run is a function of its seed: the same seed gives the same run, so a failing one replays.

#![forbid(unsafe_code)]

mod deadlines;
pub mod kem;
pub mod mesh;
pub mod nat;
pub mod routing;
pub mod scale;
