//! The mesh daemon: sockets, TUN device, clock and tasks around [`atoll_mesh_core`].
//!
//! It decides nothing about the protocol: bytes and time go into the core, bytes come out of it. [`run`] is all of it;
//! one task owns the core and everything that it touches ([`io`](self) holds every side effect of the data path), and
//! the local API asks that task.

#![forbid(unsafe_code)]

mod api;
mod babel;
mod capture;
mod config;
mod daemon;
mod deliver;
mod discovery;
mod exit;
mod guard;
mod io;
mod learned;
pub mod limits;
mod metrics;
mod reload;
mod send;
mod stuck;
mod tls;
mod trace;

pub use atoll_mesh_core::Grant;
pub use config::{
    Allow, AllowAll, Announce, BabelConfig, Config, ConfigError, ExitConfig, ExitOffer, RegionConfig, TunMode,
    read_open,
};
pub use daemon::{run, run_file};
pub use tls::TlsError;

use std::{net::SocketAddr, path::PathBuf};

use atoll_os::{firewall::FirewallError, link::LinkError, tun::TunError};

/// Why the daemon cannot start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The network interface could not be made.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// The firewall of the own address could not be made.
    #[error(
        "cannot protect this machine from the mesh: {0}; or, if everybody there may reach every port, set `open` to all"
    )]
    Firewall(FirewallError),
    /// What an exit needs of the system could not be made.
    #[error("cannot be an exit to the Internet: {0}; or take `exit` out of the configuration")]
    Exit(FirewallError),
    /// The system's interfaces cannot be followed.
    #[error(transparent)]
    Links(#[from] LinkError),
    /// There is no timer.
    #[error("cannot make a timer: let this program have more open files (`ulimit -n`)")]
    Timer(#[source] std::io::Error),
    /// The UDP port is taken.
    #[error("UDP port {0} is in use by another program: stop that program, or set another port in `listen`", .listen.port())]
    PortInUse {
        /// Where it should have listened.
        listen: SocketAddr,
    },
    /// The UDP socket could not be made.
    #[error("cannot listen on {listen}: check that `listen` is an address of this machine")]
    Listen {
        /// Where it should have listened.
        listen: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The TCP port is taken.
    #[error(
        "TCP port {0} is in use by another program: stop that program, or set another port in `listen_tls`, or leave it out",
        .listen.port()
    )]
    TlsPortInUse {
        /// Where it should have listened.
        listen: SocketAddr,
    },
    /// The TCP port is one that this user may not have.
    #[error(
        "not permitted to listen on TCP port {0}: run this as root or with CAP_NET_BIND_SERVICE, or set a port above 1023 \
         in `listen_tls`",
        .listen.port()
    )]
    TlsNotPermitted {
        /// Where it should have listened.
        listen: SocketAddr,
    },
    /// The TCP socket could not be made.
    #[error("cannot listen for TLS on {listen}: check that `listen_tls` is an address of this machine")]
    ListenTls {
        /// Where it should have listened.
        listen: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// TLS does not work at all.
    #[error("cannot use TLS: leave out `listen_tls` and peers that begin with tls://")]
    Tls(#[from] TlsError),
    /// The socket for beacons could not be made.
    #[error(
        "cannot look for neighbours on the local network (UDP port {}): free the port, or leave `discovery` empty",
        limits::BEACON_PORT
    )]
    Discovery(#[source] std::io::Error),
    /// The socket for Babel could not be made.
    #[error(
        "cannot exchange routes on plain interfaces (UDP port {}): stop the other Babel router of this machine, or leave \
         `babel` empty",
        atoll_mesh_core::babel::PORT
    )]
    Babel(#[source] std::io::Error),
    /// The TCP port for metrics is taken.
    #[error(
        "TCP port {0} is in use by another program: stop that program, or set another port in `metrics`",
        .listen.port()
    )]
    MetricsInUse {
        /// Where it should have listened.
        listen: SocketAddr,
    },
    /// The socket for metrics could not be made.
    #[error("cannot serve metrics on {listen}: check that `metrics` is an address of this machine")]
    Metrics {
        /// Where it should have listened.
        listen: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another daemon answers there already.
    #[error("another mesh daemon already answers on {0}: stop it first, or set another `socket`")]
    AlreadyRuns(PathBuf),
    /// The local API could not be served.
    #[error("cannot serve the local API on {path}: check that its folder can be written")]
    Socket {
        /// The unix socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The network interface went away under us.
    #[error("the network interface '{name}' was removed or broke: it is made anew when the daemon is started again")]
    TunLost {
        /// Its name.
        name: String,
        /// What reading it said.
        #[source]
        source: std::io::Error,
    },
}
