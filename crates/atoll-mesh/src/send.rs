//! The sending and receiving of rows of datagrams.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
};

use atoll_mesh_core::{ecn::Ecn, stream::is_stream};
use atoll_os::udp::is_too_large;
use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSocketState};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    limits::{ROOM_PAUSE, ROW_BYTES_MAX},
    stuck::{Shape, Stuck},
    tls::Streams,
};

/// The socket.
pub(crate) struct Sender {
    /// Waited for only to be read: who waits for room is woken after each datagram that the network took.
    udp: AsyncFd<UdpSocket>,
    /// The same socket, to wait for room in it; there since it was full, until [`Self::forget_room`].
    room: Option<AsyncFd<UdpSocket>>,
    state: UdpSocketState,
    /// Whether the socket is an IPv6 one, which sees IPv4 addresses in their mapped form.
    is_ipv6: bool,
    /// Rows of data that were to be sent.
    pub(crate) sends: u64,
    /// Datagrams that the kernel did not take, and frames that a connection did not.
    pub(crate) errors: u64,
    /// The network said something of earlier datagrams.
    is_told: bool,
    /// A neighbour to which the interface carries no datagram of so many bytes.
    too_large: Option<(SocketAddr, usize)>,
    /// What the socket has not taken yet.
    stuck: Stuck,
    was_full: bool,
    /// Bytes that it took.
    taken: usize,
    /// What goes over connections instead.
    pub(crate) streams: Streams,
}

impl Sender {
    pub(crate) fn new(udp: UdpSocket, is_ipv6: bool) -> io::Result<Self> {
        let state = state_of(&udp)?;
        atoll_os::udp::keep_errors(&udp);
        Ok(Self {
            udp: atoll_os::udp::watch(udp, Interest::READABLE)?,
            room: None,
            state,
            is_ipv6,
            sends: 0,
            errors: 0,
            is_told: false,
            too_large: None,
            stuck: Stuck::default(),
            was_full: false,
            taken: 0,
            streams: Streams::default(),
        })
    }

    pub(crate) fn udp(&self) -> &UdpSocket {
        self.udp.get_ref()
    }

    /// Waits until there is something to receive.
    pub(crate) async fn readable(&self) {
        // An error here is one of the reactor, and shows again when receiving.
        let _ = self.udp.readable().await.map(|mut guard| guard.retain_ready());
    }

    /// Receives rows of datagrams, one for each buffer; how many. `WouldBlock` if there are none. `is_asked`: only if the
    /// socket is known to be readable; else it is tried in any case.
    pub(crate) fn receive(
        &mut self,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
        is_asked: bool,
    ) -> io::Result<usize> {
        let mut count = 0;
        let mut receive = |udp: &UdpSocket| {
            count = self.state.recv(udp.into(), buffers, meta)?;
            // Fewer than there is room for: the socket is empty, and need not be asked once more to say so. It becomes
            // readable with the next datagram.
            if count < buffers.len() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(count) }
        };
        let received = match is_asked {
            true => self.udp.try_io(Interest::READABLE, receive),
            false => receive(self.udp.get_ref()),
        };
        self.is_told |= received.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock);
        if count > 0 { Ok(count) } else { received }
    }

    /// The next neighbour of which the network says that nobody listens there.
    pub(crate) fn next_refused(&mut self) -> Option<SocketAddr> {
        if !self.is_told {
            return None;
        }
        let refused = atoll_os::udp::next_refused(self.udp.get_ref()).map(canonical);
        self.is_told = refused.is_some();
        refused
    }

    /// A neighbour, and the length of a datagram that was larger than what the interface towards it carries.
    pub(crate) const fn next_too_large(&mut self) -> Option<(SocketAddr, usize)> {
        self.too_large.take()
    }

    /// Sends a row of data. What the socket does not take waits, and is the first to go when it takes more.
    pub(crate) fn send(&mut self, shape: Shape, row: &[u8]) {
        self.sends += 1;
        self.send_any(shape, row);
    }

    fn send_any(&mut self, shape: Shape, row: &[u8]) {
        if is_stream(shape.to.ip()) {
            self.errors += self.streams.send(shape.to, row, shape.datagram_bytes) as u64;
            return;
        }
        let sent = if self.stuck.is_empty() { self.send_some(shape, row) } else { 0 };
        if sent < row.len() && !self.stuck.push(shape, &row[sent..]) {
            self.errors += (row.len() - sent).div_ceil(shape.datagram_bytes.max(1)) as u64;
        }
    }

    /// Sends a datagram of the core's own. One that must not travel far does not wait.
    pub(crate) fn send_one(&mut self, transmit: &atoll_mesh_core::Transmit) {
        let shape = Shape { to: transmit.to, ecn: Ecn::NotCapable, datagram_bytes: transmit.data.len() };
        let Some(hops) = transmit.hops_max else { return self.send_any(shape, &transmit.data) };
        atoll_os::udp::set_hops(self.udp.get_ref(), Some(hops));
        if !self.stuck.is_empty() || self.send_some(shape, &transmit.data) == 0 {
            self.errors += 1;
        }
        atoll_os::udp::set_hops(self.udp.get_ref(), None);
    }

    /// Sends what waits, as far as the socket takes it.
    pub(crate) fn retry(&mut self) {
        let mut stuck = core::mem::take(&mut self.stuck);
        while let Some((shape, row)) = stuck.front() {
            let (all, sent) = (row.len(), self.send_some(shape, row));
            stuck.advance(sent);
            if sent < all {
                break;
            }
        }
        self.stuck = stuck;
    }

    /// Waits until the socket may take more.
    pub(crate) async fn room(&self) {
        let Some(room) = &self.room else { return tokio::time::sleep(ROOM_PAUSE).await };
        let ready = room.ready(Interest::WRITABLE).await;
        if !ready.is_ok_and(|guard| !guard.ready().is_write_closed()) {
            // An ICMP error came once. Since then the reactor takes the socket for closed, and so always ready.
            tokio::time::sleep(ROOM_PAUSE).await;
        }
    }

    /// Whether the socket took less than it was given.
    pub(crate) fn is_full(&self) -> bool {
        !self.stuck.is_empty()
    }

    /// Whether it became full since this was asked last, and how many bytes it took meanwhile.
    pub(crate) fn next_full(&mut self) -> Option<usize> {
        core::mem::take(&mut self.was_full).then(|| core::mem::take(&mut self.taken))
    }

    /// Sends a row until the socket is full: how many bytes are done with.
    fn send_some(&mut self, shape: Shape, row: &[u8]) -> usize {
        let Shape { to, ecn, datagram_bytes } = shape;
        let destination = if self.is_ipv6 { mapped(to) } else { to };
        let per_call = datagram_bytes * self.state.max_gso_segments();
        let mut done = 0;
        for contents in row.chunks(per_call.max(1)) {
            let segment_size = (contents.len() > datagram_bytes).then_some(datagram_bytes);
            let ecn = EcnCodepoint::from_bits(ecn.bits());
            let transmit = Transmit { destination, ecn, contents, segment_size, src_ip: None };
            let mut sent = self.try_send(&transmit);
            if sent.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock) {
                // Perhaps that is about an earlier datagram, and was told instead of sending this one.
                self.is_told = true;
                sent = self.try_send(&transmit);
            }
            match sent {
                Ok(()) => self.taken += contents.len(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.was_full = true;
                    return done;
                }
                Err(error) => {
                    self.learn_size(shape, contents, &error);
                    self.errors += contents.len().div_ceil(datagram_bytes.max(1)) as u64;
                    tracing::trace!(%error, %to, "datagrams were not sent");
                }
            }
            done += contents.len();
        }
        done
    }

    /// Looks whether datagrams were not sent because they are too large. Of a row, older kernels say only that it is
    /// invalid, and the library then sends no more rows at all: one datagram alone shows what it is.
    fn learn_size(&mut self, shape: Shape, contents: &[u8], error: &io::Error) {
        let destination = if self.is_ipv6 { mapped(shape.to) } else { shape.to };
        let first = &contents[..shape.datagram_bytes.min(contents.len())];
        let alone = Transmit { destination, ecn: None, contents: first, segment_size: None, src_ip: None };
        let is_row = first.len() < contents.len();
        if is_too_large(error) || is_row && self.try_send(&alone).is_err_and(|error| is_too_large(&error)) {
            self.too_large = Some((shape.to, first.len()));
            if self.state.max_gso_segments() == 1
                && let Ok(state) = state_of(self.udp.get_ref())
            {
                self.state = state;
            }
        }
    }

    fn try_send(&mut self, transmit: &Transmit<'_>) -> io::Result<()> {
        if let Some(room) = &self.room {
            return room.try_io(Interest::WRITABLE, |udp| self.state.try_send(udp.into(), transmit));
        }
        let sent = self.state.try_send(self.udp.get_ref().into(), transmit);
        if sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            let clone = self.udp.get_ref().try_clone();
            // Without it, sending is tried again after a pause.
            self.room = clone.and_then(|clone| atoll_os::udp::watch(clone, Interest::WRITABLE)).ok();
        }
        sent
    }

    /// The socket has not been full for a while: nobody waits for room in it.
    pub(crate) fn forget_room(&mut self) {
        self.room = None;
    }

    /// Sends a row and empties it.
    pub(crate) fn send_row(&mut self, row: &mut Row) {
        if let Some(shape) = row.shape.take() {
            self.send(shape, &row.buffer[..row.bytes]);
        }
        row.bytes = 0;
    }
}

/// What the library has to know of the socket.
fn state_of(udp: &UdpSocket) -> io::Result<UdpSocketState> {
    let state = UdpSocketState::new(udp.into())?;
    // For which the library asks.
    atoll_os::udp::forget_destinations(udp);
    Ok(state)
}

/// Datagrams for one neighbour, side by side: all of one size, but the last, which may be shorter.
pub(crate) struct Row {
    shape: Option<Shape>,
    /// What was in it before is overwritten, never cleared.
    buffer: Box<[u8]>,
    /// How much of it is taken.
    bytes: usize,
    /// Largest row; at most [`ROW_BYTES_MAX`].
    pub(crate) bytes_max: usize,
}

impl Default for Row {
    fn default() -> Self {
        Self { shape: None, buffer: vec![0; ROW_BYTES_MAX].into_boxed_slice(), bytes: 0, bytes_max: ROW_BYTES_MAX }
    }
}

impl Row {
    /// Room for one more datagram. What does not belong into the same row as those before it lets them be sent first.
    pub(crate) fn extend(&mut self, sender: &mut Sender, to: SocketAddr, ecn: Ecn, bytes: usize) -> &mut [u8] {
        let fits = self.shape.is_some_and(|shape| {
            shape.to == to
                && shape.ecn == ecn
                && self.bytes.is_multiple_of(shape.datagram_bytes)
                && bytes <= shape.datagram_bytes
                && self.bytes + bytes <= self.bytes_max
                && self.bytes / shape.datagram_bytes < sender.state.max_gso_segments()
        });
        if !fits {
            sender.send_row(self);
            self.shape = Some(Shape { to, ecn, datagram_bytes: bytes });
        }
        let start = self.bytes;
        self.bytes += bytes;
        &mut self.buffer[start..self.bytes]
    }

    /// Whether another super-packet like the one that is in it would not fit as a whole.
    pub(crate) const fn is_most(&self) -> bool {
        self.bytes > self.bytes_max / 2
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
