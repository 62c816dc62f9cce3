//! Every side effect of the data path: the UDP socket and the TUN device, in batches.
//!
//! One call of the kernel moves up to 64 KiB in either direction: super-packets to and from the TUN device
//! ([`atoll_mesh_core::offload`]), rows of datagrams of one size to and from the socket (UDP segmentation offload). A
//! frame is sealed, opened or rewritten where it lies; nothing is allocated for a packet.

mod receive;

use std::{
    io::{self},
    net::{Ipv6Addr, SocketAddr, UdpSocket},
};

use atoll_api::mesh::Way;
use atoll_mesh_core::{
    Mesh, Time,
    offload::{Offload, Super, complete_checksum_at},
    send_buffer::SendBuffer,
    stream::LENGTH_BYTES,
    translate::SPARE_BYTES,
    wire::data::{HEADROOM_BYTES, OVERHEAD_BYTES, RecordFlags},
};
use atoll_os::tun::{Tun, VNET_HEADER_BYTES, VnetHeader};
use quinn_udp::RecvMeta;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::Instant;

use crate::{
    MeshError,
    capture::{Before, Tap},
    deliver::Delivery,
    limits::{
        HOLD_KEEP, RECEIVE_BUFFERS, RECEIVE_CALL_MAX, RECEIVE_STRIDE_BYTES, ROW_BYTES_MAX, SOCKET_BUFFER_BYTES,
        SUPER_BYTES_MAX, TUN_READS_MAX,
    },
    send::{Row, Sender},
    tls::Streams,
};

/// First byte of a frame with data.
const DATA: u8 = 4;

/// What became readable.
pub(crate) enum Ready {
    /// Datagrams.
    Udp,
    /// Packets.
    Tun,
    /// The socket, or a connection, takes datagrams again.
    Room,
}

/// The socket, the device and the clock.
pub(crate) struct Io {
    sender: Sender,
    /// The device; none: this node only passes packets on, and answers pings itself.
    tun: Option<Tun>,
    start: Instant,
    /// [`RECEIVE_BUFFERS`] buffers of [`SUPER_BYTES_MAX`] for rows of datagrams, [`RECEIVE_STRIDE_BYTES`] apart.
    received: Box<[u8]>,
    meta: [RecvMeta; RECEIVE_BUFFERS],
    /// How many of the buffers are offered to the kernel.
    buffers: usize,
    delivery: Delivery,
    /// A super-packet of the TUN device, behind [`SPARE_BYTES`].
    packet: Box<[u8]>,
    /// A part of it that takes the slow way.
    part: Vec<u8>,
    row: Row,
    /// Whether there was only one packet to read when there was one last.
    comes_alone: bool,
    send_buffer: SendBuffer,
    /// Until when everything goes through the queue.
    held_until: Option<Time>,
    /// Whoever looks at what goes through.
    pub(crate) tap: Option<Tap>,
    /// Packets that the kernel handed over in a form that was not agreed on.
    pub(crate) odd_packets: u64,
    /// Datagrams from an address that no machine has.
    pub(crate) odd_datagrams: u64,
}

impl Io {
    pub(crate) fn new(udp: UdpSocket, is_ipv6: bool, tun: Option<Tun>) -> Result<Self, MeshError> {
        let port = udp.local_addr();
        let sender = Sender::new(udp, is_ipv6).map_err(|source| match port {
            Ok(listen) => MeshError::Listen { listen, source },
            Err(source) => MeshError::Listen { listen: SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0), source },
        })?;
        Ok(Self {
            sender,
            delivery: Delivery::new(tun.as_ref().is_some_and(Tun::takes_udp_segments)),
            tun,
            start: Instant::now(),
            received: vec![0; RECEIVE_BUFFERS * RECEIVE_STRIDE_BYTES].into_boxed_slice(),
            meta: [RecvMeta::default(); RECEIVE_BUFFERS],
            buffers: RECEIVE_CALL_MAX,
            packet: vec![0; SPARE_BYTES + VNET_HEADER_BYTES + SUPER_BYTES_MAX].into_boxed_slice(),
            part: Vec::new(),
            row: Row::default(),
            comes_alone: true,
            send_buffer: SendBuffer::default(),
            held_until: None,
            tap: None,
            odd_packets: 0,
            odd_datagrams: 0,
        })
    }

    pub(crate) fn now(&self) -> Time {
        Time::from_micros(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// The instant of a time of the core.
    pub(crate) fn instant(&self, time: Time) -> Instant {
        self.start + time.since(Time::ZERO)
    }

    /// Name of the network interface, if there is one.
    pub(crate) fn interface(&self) -> Option<&str> {
        self.tun.as_ref().map(Tun::name)
    }

    /// Port on which the socket listens.
    pub(crate) fn port(&self) -> u16 {
        self.sender.udp().local_addr().map_or(0, |address| address.port())
    }

    /// Rows of data that were sent.
    pub(crate) const fn sends(&self) -> u64 {
        self.sender.sends
    }

    /// Datagrams that the kernel did not take.
    pub(crate) const fn send_errors(&self) -> u64 {
        self.sender.errors
    }

    /// Size of the kernel's send buffer, in bytes of datagrams.
    pub(crate) const fn send_buffer_bytes(&self) -> usize {
        self.send_buffer.bytes()
    }

    /// Packets that the kernel did not take.
    pub(crate) const fn tun_errors(&self) -> u64 {
        self.delivery.errors
    }

    /// Stops to show what goes through, if nobody looks any more.
    pub(crate) fn drop_closed_tap(&mut self) {
        if self.tap.as_ref().is_some_and(Tap::is_closed) {
            self.tap = None;
        }
    }

    /// Waits until there is something to read, or room for what waits to be sent.
    pub(crate) async fn ready(&self) -> Result<Ready, MeshError> {
        tokio::select! {
            () = self.sender.readable() => Ok(Ready::Udp),
            () = self.sender.room(), if self.sender.is_full() => Ok(Ready::Room),
            () = self.sender.streams.taken(), if self.sender.streams.is_holding() => Ok(Ready::Room),
            result = self.packets() => result.map(|()| Ready::Tun),
        }
    }

    /// Waits until there is a packet to read; forever, if there is no device.
    async fn packets(&self) -> Result<(), MeshError> {
        let Some(tun) = &self.tun else { return core::future::pending().await };
        tun.readable().await.map_err(|source| MeshError::TunLost { name: tun.name().to_owned(), source })
    }

    /// What is known of connections.
    pub(crate) const fn streams(&mut self) -> &mut Streams {
        &mut self.sender.streams
    }

    /// Feeds packets of this machine to the core, which were heard of.
    pub(crate) fn read_packets(&mut self, mesh: &mut Mesh) -> Result<(), MeshError> {
        self.read_packets_by(mesh, Tun::try_read)
    }

    /// Feeds the answer to the core that a packet may have got while it was handed over: a ping has one at once.
    pub(crate) fn read_answer(&mut self, mesh: &mut Mesh) -> Result<(), MeshError> {
        if self.delivery.take_count() != 1 {
            return Ok(());
        }
        self.read_packets_by(mesh, Tun::try_read_unasked)
    }

    fn read_packets_by(
        &mut self,
        mesh: &mut Mesh,
        read: impl Fn(&Tun, &mut [u8]) -> io::Result<usize>,
    ) -> Result<(), MeshError> {
        let now = self.now();
        let mut count = 0;
        for _ in 0..TUN_READS_MAX {
            let Some(tun) = &self.tun else { break };
            match read(tun, &mut self.packet[SPARE_BYTES..]) {
                Ok(length) => {
                    count += 1;
                    self.handle_super(mesh, length, now);
                    if self.row.is_most() || self.comes_alone {
                        // A super-packet leaves as one row: the far end writes it as one, too, and gets to work while
                        // the next is sealed. And what comes alone need not wait until it is known to.
                        self.sender.send_row(&mut self.row);
                    }
                    self.comes_alone &= count == 1;
                    self.note_full(mesh);
                    if self.sender.streams.is_crowded() || self.sender.streams.is_holding() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // EIO: the device was deleted. (One that is down blocks readers, and refuses writes only.)
                Err(source) => return Err(MeshError::TunLost { name: tun.name().to_owned(), source }),
            }
        }
        if count > 0 {
            self.comes_alone = count == 1;
        }
        self.sender.send_row(&mut self.row);
        self.note_full(mesh);
        self.flush(mesh);
        Ok(())
    }

    /// Splits and seals a packet that the device handed over, or gives its parts to the core.
    fn handle_super(&mut self, mesh: &mut Mesh, length: usize, now: Time) {
        // The header is read before the room before the packet is used, in which it lies.
        let read = &mut self.packet[..SPARE_BYTES + length];
        let Some(header) = read[SPARE_BYTES..].first_chunk::<VNET_HEADER_BYTES>().and_then(VnetHeader::parse) else {
            return self.odd_packets += 1;
        };
        let (mut packet, mut guest) = (&mut read[SPARE_BYTES + VNET_HEADER_BYTES..], None);
        if packet.first().is_some_and(|byte| byte >> 4 == 4) {
            let whole = &mut read[VNET_HEADER_BYTES..];
            let translated = mesh.packet_to_ipv6(whole, header.partial_checksum.is_some(), now);
            let Some((network, start)) = translated else { return };
            (packet, guest) = (&mut whole[start..], Some(network));
        }
        let whole = match Super::new(packet, offload_of(&header)) {
            Ok(whole) => whole,
            // A transport that this program does not know: its checksum is completed here.
            Err(_) => {
                let Some((start, offset)) = header.partial_checksum.filter(|_| header.segments.is_none()) else {
                    return self.odd_packets += 1;
                };
                complete_checksum_at(packet, usize::from(start), usize::from(offset));
                match Super::new(packet, Offload::default()) {
                    Ok(whole) => whole,
                    Err(_) => return self.odd_packets += 1,
                }
            }
        };
        let partial_checksum = whole.has_partial_checksum();
        let sealer = match guest {
            None => mesh.sealer(packet, whole.length(0), now),
            Some(guest) => mesh.sealer_to(guest, packet, whole.length(0), now),
        };
        if let Some(mut sealer) = sealer {
            for number in 0..whole.count() {
                let bytes = whole.length(number);
                let frame = if sealer.is_held() {
                    self.part.resize(bytes + OVERHEAD_BYTES, 0);
                    self.part.as_mut_slice()
                } else {
                    self.row.extend(&mut self.sender, sealer.to(), sealer.ecn(), bytes + OVERHEAD_BYTES)
                };
                whole.write(number, &mut frame[HEADROOM_BYTES..HEADROOM_BYTES + bytes]);
                if let Some(tap) = &mut self.tap {
                    tap.packet(Way::Out, &frame[HEADROOM_BYTES..HEADROOM_BYTES + bytes], partial_checksum, None);
                    if !sealer.is_held() {
                        tap.frame_out(DATA, frame.len(), sealer.to(), false);
                    }
                }
                sealer.seal(frame, RecordFlags { continues: number > 0, partial_checksum });
            }
        } else {
            for number in 0..whole.count() {
                self.part.resize(whole.length(number), 0);
                whole.write(number, &mut self.part);
                let before = self.tap.as_ref().map(|_| Before::of(mesh));
                match guest {
                    None => mesh.handle_packet(&self.part, partial_checksum, now),
                    Some(guest) => mesh.handle_packet_to(guest, &self.part, partial_checksum, now),
                }
                if let (Some(tap), Some(before)) = (&mut self.tap, before) {
                    tap.packet(Way::Out, &self.part, partial_checksum, Some((&before, mesh)));
                }
            }
        }
    }

    /// Sends and writes all that the core has ready. What the socket does not take waits: first what was ready when it
    /// became full, then the core's own frames, then data in the order of its queue.
    pub(crate) fn flush(&mut self, mesh: &mut Mesh) {
        if self.sender.is_full() {
            self.sender.retry();
            self.note_full(mesh);
        }
        while !self.sender.is_full()
            && let Some(transmit) = mesh.poll_transmit()
        {
            if let Some(tap) = &mut self.tap {
                tap.frame_out(transmit.data.first().copied().unwrap_or(0), transmit.data.len(), transmit.to, false);
            }
            self.sender.send_one(&transmit);
            self.note_full(mesh);
        }
        if self.held_until.is_some() {
            self.flush_held(mesh);
        }
        if self.sender.streams.is_holding() {
            self.flush_streams(mesh);
        }
        while let Some(packet) = mesh.poll_packet() {
            if let Some(tap) = &mut self.tap {
                tap.packet(Way::In, &packet, false, None);
            }
            if let Some(tun) = &self.tun {
                self.delivery.write_one(&packet, tun);
            }
        }
        while let Some(endpoint) = self.sender.next_refused() {
            mesh.handle_refused(endpoint, self.now());
        }
        if let Some((endpoint, bytes)) = self.sender.next_too_large() {
            mesh.handle_too_large(endpoint, bytes, self.now());
        }
    }

    /// Sends what waited, and ends the time of waiting when the socket was never full for long enough.
    fn flush_held(&mut self, mesh: &mut Mesh) {
        let now = self.now();
        self.row.bytes_max = self.send_buffer.row_bytes().min(ROW_BYTES_MAX);
        while !self.sender.is_full() {
            let Some(held) = mesh.poll_held(now) else { break };
            if let Some(tap) = &mut self.tap {
                tap.frame_out(DATA, held.data.len(), held.to, false);
            }
            self.row.extend(&mut self.sender, held.to, held.ecn, held.data.len()).copy_from_slice(held.data);
        }
        self.sender.send_row(&mut self.row);
        self.row.bytes_max = ROW_BYTES_MAX;
        self.note_full(mesh);
        if !self.sender.is_full() {
            self.send_buffer.handle_idle();
            if self.held_until.is_some_and(|until| now >= until) {
                self.held_until = None;
                self.sender.forget_room();
            }
        }
        mesh.hold(self.held_until.is_some());
    }

    /// Gives connections that were full what waited for them, as far as they take it.
    fn flush_streams(&mut self, mesh: &mut Mesh) {
        let now = self.now();
        for endpoint in self.sender.streams.held() {
            let Some(mut room) = self.sender.streams.room(endpoint) else {
                mesh.end_stream(endpoint);
                let _ = self.sender.streams.handle_refilled(endpoint, 0, now);
                continue;
            };
            while room > 0 {
                let Some(held) = mesh.poll_held_stream(endpoint, now) else { break };
                if let Some(tap) = &mut self.tap {
                    tap.frame_out(DATA, held.data.len(), held.to, false);
                }
                room = room.saturating_sub(held.data.len() + LENGTH_BYTES);
                self.row.extend(&mut self.sender, held.to, held.ecn, held.data.len()).copy_from_slice(held.data);
            }
            self.sender.send_row(&mut self.row);
            self.note_full(mesh);
            let (left_bytes, _) = mesh.held_stream(endpoint);
            let is_over = self.sender.streams.handle_refilled(endpoint, left_bytes, now);
            mesh.hold_stream(endpoint, !is_over);
        }
    }

    /// Lets data wait from now on, if the socket or a connection became full.
    fn note_full(&mut self, mesh: &mut Mesh) {
        while let Some(endpoint) = self.sender.streams.next_full() {
            mesh.hold_stream(endpoint, true);
        }
        let Some(taken) = self.sender.next_full() else { return };
        let now = self.now();
        self.held_until = Some(now + HOLD_KEEP);
        self.send_buffer.handle_taken(taken);
        if let Some(bytes) = self.send_buffer.handle_full(now) {
            atoll_os::udp::set_send_buffer(self.sender.udp(), bytes);
        }
        mesh.hold(true);
    }

    /// Takes the device away in good order.
    pub(crate) async fn close(self) {
        if let Some(tun) = self.tun
            && let Err(error) = tun.remove().await
        {
            tracing::info!(error = %error, "the route of the node's own network stays behind");
        }
    }
}

fn offload_of(header: &VnetHeader) -> Offload {
    Offload {
        segment_bytes: header.segments.map_or(0, |(_, bytes)| bytes),
        partial_checksum: header.partial_checksum.is_some(),
    }
}

/// Opens the UDP socket of the links, whose datagrams carry this mark; also whether it is an IPv6 one.
pub(crate) fn open_udp(listen: SocketAddr, mark: Option<u32>) -> Result<(UdpSocket, bool), MeshError> {
    let fail = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => MeshError::PortInUse { listen },
        _ => MeshError::Listen { listen, source },
    };
    let is_ipv6 = listen.is_ipv6();
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP)).map_err(fail)?;
    if is_ipv6 {
        socket.set_only_v6(false).map_err(fail)?;
    }
    if let Some(mark) = mark {
        atoll_os::udp::set_mark(&socket, mark).map_err(fail)?;
    }
    socket.set_nonblocking(true).map_err(fail)?;
    atoll_os::udp::enlarge_buffers(&socket, SOCKET_BUFFER_BYTES);
    atoll_os::udp::set_send_buffer(&socket, SendBuffer::default().bytes());
    socket.bind(&listen.into()).map_err(fail)?;
    Ok((socket.into(), is_ipv6))
}
