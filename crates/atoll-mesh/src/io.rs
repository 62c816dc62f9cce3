//! Every side effect of the data path: the UDP socket and the TUN device, in batches.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
};

use atoll_mesh_core::{Mesh, Time, limits::DATAGRAM_BYTES_MAX};
use atoll_os::tun::Tun;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::UdpSocket, time::Instant};

use crate::{
    MeshError,
    limits::{BATCH_MAX, SOCKET_BUFFER_BYTES},
};

/// What became readable.
pub(crate) enum Ready {
    /// Datagrams.
    Udp,
    /// Packets.
    Tun,
}

/// The socket, the device and the clock.
pub(crate) struct Io {
    udp: UdpSocket,
    /// Whether the socket is an IPv6 one, which sees IPv4 addresses in their mapped form.
    is_ipv6: bool,
    tun: Tun,
    start: Instant,
    buffer: Box<[u8; DATAGRAM_BYTES_MAX]>,
    /// Datagrams that the kernel did not take.
    pub(crate) send_errors: u64,
    /// Packets that the kernel did not take.
    pub(crate) tun_errors: u64,
}

impl Io {
    pub(crate) fn new(udp: UdpSocket, is_ipv6: bool, tun: Tun) -> Self {
        let buffer = Box::new([0; DATAGRAM_BYTES_MAX]);
        Self { udp, is_ipv6, tun, start: Instant::now(), buffer, send_errors: 0, tun_errors: 0 }
    }

    pub(crate) fn now(&self) -> Time {
        Time::from_micros(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// The instant of a time of the core.
    pub(crate) fn instant(&self, time: Time) -> Instant {
        self.start + time.since(Time::ZERO)
    }

    /// Port on which the socket listens.
    pub(crate) fn port(&self) -> u16 {
        self.udp.local_addr().map_or(0, |address| address.port())
    }

    /// Waits until there is something to read.
    pub(crate) async fn ready(&self) -> Result<Ready, MeshError> {
        tokio::select! {
            // An error here is one of the reactor, and shows again when reading.
            _ = self.udp.readable() => Ok(Ready::Udp),
            result = self.tun.readable() => match result {
                Ok(()) => Ok(Ready::Tun),
                Err(source) => Err(MeshError::TunLost { name: self.tun.name().to_owned(), source }),
            },
        }
    }

    /// Feeds a batch of datagrams to the core.
    pub(crate) fn read_datagrams(&mut self, mesh: &mut Mesh) {
        for _ in 0..BATCH_MAX {
            let now = self.now();
            match self.udp.try_recv_from(self.buffer.as_mut_slice()) {
                Ok((length, from)) => mesh.handle_datagram(canonical(from), &mut self.buffer[..length], now),
                // Errors tell of earlier datagrams (no route, interface down): never a reason to stop.
                Err(_) => return,
            }
            self.flush(mesh);
        }
    }

    /// Feeds a batch of packets to the core.
    pub(crate) fn read_packets(&mut self, mesh: &mut Mesh) -> Result<(), MeshError> {
        for _ in 0..BATCH_MAX {
            let now = self.now();
            match self.tun.try_read(self.buffer.as_mut_slice()) {
                Ok(length) => mesh.handle_packet(&self.buffer[..length], now),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // EIO: the device was deleted. (One that is down blocks readers, and refuses writes only.)
                Err(source) => return Err(MeshError::TunLost { name: self.tun.name().to_owned(), source }),
            }
            self.flush(mesh);
        }
        Ok(())
    }

    /// Sends and writes all that the core has ready. What the kernel does not take is dropped, as a router would.
    pub(crate) fn flush(&mut self, mesh: &mut Mesh) {
        while let Some(transmit) = mesh.poll_transmit() {
            let to = if self.is_ipv6 { mapped(transmit.to) } else { transmit.to };
            if let Err(error) = self.udp.try_send_to(&transmit.data, to) {
                self.send_errors += 1;
                tracing::trace!(%error, to = %transmit.to, "a datagram was not sent");
            }
        }
        while let Some(packet) = mesh.poll_packet() {
            if let Err(error) = self.tun.try_write(&packet) {
                self.tun_errors += 1;
                tracing::trace!(%error, "a packet was not written");
            }
        }
    }

    /// Takes the device away in good order.
    pub(crate) async fn close(self) {
        if let Err(error) = self.tun.remove().await {
            tracing::info!(error = %error, "the route of the node's own network stays behind");
        }
    }
}

/// Opens the UDP socket of the links; also whether it is an IPv6 one.
pub(crate) fn open_udp(listen: SocketAddr) -> Result<(UdpSocket, bool), MeshError> {
    let fail = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => MeshError::PortInUse { listen },
        _ => MeshError::Listen { listen, source },
    };
    let is_ipv6 = listen.is_ipv6();
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP)).map_err(fail)?;
    if is_ipv6 {
        socket.set_only_v6(false).map_err(fail)?;
    }
    socket.set_nonblocking(true).map_err(fail)?;
    // Best effort: the kernel caps these for whoever may not raise its limits.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    socket.bind(&listen.into()).map_err(fail)?;
    let socket = UdpSocket::from_std(socket.into()).map_err(fail)?;
    Ok((socket, is_ipv6))
}

/// The one form in which the core knows an address: IPv4 as IPv4, and scopes only where they matter.
fn canonical(from: SocketAddr) -> SocketAddr {
    match from {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => {
                let scope = if v6.ip().is_unicast_link_local() { v6.scope_id() } else { 0 };
                SocketAddrV6::new(*v6.ip(), v6.port(), 0, scope).into()
            }
        },
        SocketAddr::V4(_) => from,
    }
}

fn mapped(to: SocketAddr) -> SocketAddr {
    match to.ip() {
        IpAddr::V4(v4) => {
            let v6: Ipv6Addr = v4.to_ipv6_mapped();
            SocketAddr::new(v6.into(), to.port())
        }
        IpAddr::V6(_) => to,
    }
}
