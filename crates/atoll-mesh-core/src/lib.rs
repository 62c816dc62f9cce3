//! The mesh as a pure state machine: handshakes, sessions, links, routing.
//!
//! This crate never reads a clock, opens a socket, awaits or draws randomness of its own: time, datagrams, packets and
//! a seed come in as arguments, datagrams, packets and events come out of `poll_*`. Read [`Mesh`] and [`wire`] first,
//! then `docs/spec/mesh.md`.
//!
//! ```text
//!      TUN packets                                            UDP datagrams
//!   sealer         ──▶ session (end to end) ──▶ link (hop by hop) ──▶ the caller's buffer
//!   Received::Packet ◀── session ◀── for me? ◀── link             ◀── handle_datagram
//!                                    └─ for another: route ─▶ link ─▶ Received::Relay
//!   handle_packet, poll_transmit, poll_packet: handshakes, control, and whatever has to wait
//! ```
//!
//! After any `handle_*`, drain `poll_transmit`, `poll_packet` and `poll_event`, then ask [`Mesh::poll_timeout`].

#![forbid(unsafe_code)]

mod accept;
mod announce;
pub mod babel;
pub mod beacon;
mod channel;
mod cookie;
pub mod ecn;
pub mod exit;
mod handshake;
pub mod kem;
pub mod limits;
mod link_mtu;
mod liveness;
mod mesh;
mod metric;
mod noise;
pub mod offload;
mod packet;
pub mod plain;
pub mod punch;
pub mod queue;
mod rate;
mod replay;
pub mod routing;
mod secrets;
pub mod send_buffer;
pub mod stream;
mod time;
mod timers;
pub mod translate;
mod transport;
pub mod wire;

pub use announce::{Announcement, Grant, Target, router_id};
pub use mesh::{
    Event, LinkId, Mesh, Origin, Settings, Transmit, Tuning,
    data::{Received, Record, Sealer},
    held::Held,
    status::{Counters, LinkStatus, RegionRouteStatus, RouteStatus, SessionStatus},
    trace::ProbeError,
};
pub use packet::addresses as packet_addresses;
pub use time::Time;
pub use timers::Timer;
