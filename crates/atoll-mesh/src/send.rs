//! The sending and receiving of rows of datagrams.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use tokio::{io::Interest, net::UdpSocket};

use crate::limits::ROW_BYTES_MAX;

/// The socket.
pub(crate) struct Sender {
    udp: UdpSocket,
    state: UdpSocketState,
    /// Whether the socket is an IPv6 one, which sees IPv4 addresses in their mapped form.
    is_ipv6: bool,
    /// Datagrams that the kernel did not take.
    pub(crate) errors: u64,
    /// The network said something of earlier datagrams.
    is_told: bool,
}

impl Sender {
    pub(crate) fn new(udp: UdpSocket, is_ipv6: bool) -> io::Result<Self> {
        let state = UdpSocketState::new((&udp).into())?;
        atoll_os::udp::keep_errors(&udp);
        Ok(Self { udp, state, is_ipv6, errors: 0, is_told: false })
    }

    pub(crate) const fn udp(&self) -> &UdpSocket {
        &self.udp
    }

    /// Receives rows of datagrams, one for each buffer; how many. `WouldBlock` if there are none.
    pub(crate) fn receive(&mut self, buffers: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> io::Result<usize> {
        let mut count = 0;
        let received = self.udp.try_io(Interest::READABLE, || {
            count = self.state.recv((&self.udp).into(), buffers, meta)?;
            // Fewer than there is room for: the socket is empty, and need not be asked once more to say so. It becomes
            // readable with the next datagram.
            if count < buffers.len() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(count) }
        });
        self.is_told |= received.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if count > 0 { Ok(count) } else { received }
    }

    /// The next neighbour of which the network says that nobody listens there.
    pub(crate) fn next_refused(&mut self) -> Option<SocketAddr> {
        if !self.is_told {
            return None;
        }
        let refused = atoll_os::udp::next_refused(&self.udp).map(canonical);
        self.is_told = refused.is_some();
        refused
    }

    /// Sends datagrams of `datagram_bytes` each, of which the last may be shorter.
    pub(crate) fn send(&mut self, to: SocketAddr, row: &[u8], datagram_bytes: usize) {
        let destination = if self.is_ipv6 { mapped(to) } else { to };
        let per_call = datagram_bytes * self.state.max_gso_segments();
        for contents in row.chunks(per_call.max(1)) {
            let segment_size = (contents.len() > datagram_bytes).then_some(datagram_bytes);
            let transmit = Transmit { destination, ecn: None, contents, segment_size, src_ip: None };
            let mut sent = self.try_send(&transmit);
            if sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
                // That is about an earlier datagram, and was told instead of sending this one.
                self.is_told = true;
                sent = self.try_send(&transmit);
            }
            if let Err(error) = sent {
                self.errors += contents.len().div_ceil(datagram_bytes.max(1)) as u64;
                tracing::trace!(%error, %to, "datagrams were not sent");
            }
        }
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.udp.try_io(Interest::WRITABLE, || self.state.try_send((&self.udp).into(), transmit))
    }

    /// Sends a row and empties it.
    pub(crate) fn send_row(&mut self, row: &mut Row) {
        if let Some(to) = row.to.take() {
            self.send(to, &row.bytes, row.datagram_bytes);
        }
        row.bytes.clear();
    }
}

/// Datagrams for one neighbour, side by side: all of one size, but the last, which may be shorter.
#[derive(Default)]
pub(crate) struct Row {
    to: Option<SocketAddr>,
    bytes: Vec<u8>,
    datagram_bytes: usize,
}

impl Row {
    /// Room for one more datagram. What does not belong into the same row as those before it lets them be sent first.
    pub(crate) fn extend(&mut self, sender: &mut Sender, to: SocketAddr, bytes: usize) -> &mut [u8] {
        let is_whole = self.datagram_bytes > 0 && self.bytes.len().is_multiple_of(self.datagram_bytes);
        let fits = self.to == Some(to)
            && is_whole
            && bytes <= self.datagram_bytes
            && self.bytes.len() + bytes <= ROW_BYTES_MAX
            && self.bytes.len() / self.datagram_bytes < sender.state.max_gso_segments();
        if !fits {
            sender.send_row(self);
            self.to = Some(to);
            self.datagram_bytes = bytes;
        }
        let start = self.bytes.len();
        self.bytes.resize(start + bytes, 0);
        &mut self.bytes[start..]
    }
}

/// The one form in which the core knows an address: IPv4 as IPv4, and scopes only where they matter.
pub(crate) fn canonical(from: SocketAddr) -> SocketAddr {
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
