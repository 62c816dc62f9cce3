//! The mesh as a pure state machine: handshakes, sessions, links, routing.
//!
//! This crate never reads a clock, opens a socket, awaits or draws randomness of its own: time, datagrams, packets and
//! a seed come in as arguments, datagrams, packets and events come out of `poll_*`. Read [`Mesh`] and [`wire`] first,
//! then `docs/spec/mesh.md`.
//!
//! ```text
//!        TUN packets                                             UDP datagrams
//!   handle_packet ──▶ session (end to end) ──▶ route ──▶ link (hop by hop) ──▶ poll_transmit
//!   poll_packet   ◀── session              ◀── for me? ◀── link             ◀── handle_datagram
//!                                               └─ for another: route ─▶ link ─▶ poll_transmit
//! ```
//!
//! After any `handle_*`, drain `poll_transmit`, `poll_packet` and `poll_event`, then ask [`Mesh::poll_timeout`].

#![forbid(unsafe_code)]

mod accept;
mod announce;
pub mod beacon;
mod channel;
pub mod control;
mod cookie;
mod handshake;
pub mod kem;
pub mod limits;
mod liveness;
mod mesh;
mod noise;
mod packet;
mod rate;
mod replay;
mod routing;
mod secrets;
mod time;
mod timers;
mod transport;
pub mod wire;

pub use announce::Announcement;
pub use mesh::{
    Event, LinkId, Mesh, Origin, Settings, Transmit, Tuning,
    status::{Counters, LinkStatus, RouteStatus, SessionStatus},
};
pub use time::Time;
pub use timers::Timer;
