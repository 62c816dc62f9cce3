//! The way in: from datagrams, and frames of connections, to the core, and from there to the device or to the next hop.

use std::{io::IoSliceMut, net::SocketAddr, ops::Range};

use atoll_api::mesh::Way;
use atoll_mesh_core::{
    Mesh, Received, Time,
    ecn::Ecn,
    stream::{is_stream, next_frame},
};

use super::Io;
use crate::{
    capture::{Before, Tap},
    limits::{
        RECEIVE_BUFFERS, RECEIVE_BUFFERS_MIN, RECEIVE_CALL_MAX, RECEIVE_ROUNDS_MAX, RECEIVE_STRIDE_BYTES,
        SUPER_BYTES_MAX,
    },
    send::canonical,
    stuck::Shape,
};

impl Io {
    /// Feeds what has come in to the core, and passes on what it says.
    pub(crate) fn read_datagrams(&mut self, mesh: &mut Mesh) {
        // Buffers with packets that are not written yet.
        let mut taken = 0;
        let mut is_asked = true;
        for _ in 0..RECEIVE_ROUNDS_MAX {
            let offered = self.buffers.min(RECEIVE_BUFFERS - taken);
            let Some(count) = self.receive(taken, offered, is_asked) else { break };
            let now = self.now();
            for number in taken..taken + count {
                self.handle_row(mesh, number, now);
                if self.meta[number].len > SUPER_BYTES_MAX / 2
                    && let Some(tun) = &self.tun
                {
                    // Nothing that comes later fits into the same super-packet, and this lies in the processor's cache.
                    self.delivery.write(&self.received, tun, mesh, now);
                }
            }
            taken += count;
            let is_over = count < offered || self.sender.streams.is_crowded();
            let is_within_super = self.delivery.is_within_super();
            if is_over && !is_within_super {
                break;
            }
            // The rest of a super-packet whose segments come one by one is perhaps there by now.
            is_asked &= !is_over;
            if !is_within_super || taken + RECEIVE_BUFFERS_MIN > RECEIVE_BUFFERS {
                self.deliver(mesh);
                taken = 0;
            }
        }
        self.deliver(mesh);
    }

    /// Receives into so many buffers from `first` on; how many were filled, if any. `is_asked`: the socket is believed to
    /// be readable.
    fn receive(&mut self, first: usize, offered: usize, is_asked: bool) -> Option<usize> {
        let Self { sender, received, meta, .. } = self;
        let mut buffers = received.chunks_exact_mut(RECEIVE_STRIDE_BYTES).skip(first);
        let mut slices: [IoSliceMut<'_>; RECEIVE_CALL_MAX] = core::array::from_fn(|_| {
            IoSliceMut::new(buffers.next().map_or(&mut [], |buffer| &mut buffer[..SUPER_BYTES_MAX]))
        });
        // Errors tell of earlier datagrams: never a reason to stop.
        let count = sender.receive(&mut slices[..offered], &mut meta[first..first + offered], is_asked).ok()?;
        if count == offered {
            let row_bytes = meta[first..first + count].iter().map(|meta| meta.len).sum::<usize>() / count;
            let fitting = RECEIVE_BUFFERS_MIN * SUPER_BYTES_MAX / row_bytes.max(1);
            self.buffers = fitting.clamp(RECEIVE_BUFFERS_MIN, RECEIVE_CALL_MAX);
        }
        Some(count)
    }

    /// Hands over the packets that came in, passes on those for others, and all else that the core has ready.
    fn deliver(&mut self, mesh: &mut Mesh) {
        self.sender.send_row(&mut self.row);
        self.note_full(mesh);
        let now = self.now();
        match &self.tun {
            Some(tun) => self.delivery.write(&self.received, tun, mesh, now),
            None => self.delivery.answer(&mut self.received, mesh, now),
        }
        self.flush(mesh);
    }

    /// Feeds the row of datagrams in the buffer with this number to the core.
    fn handle_row(&mut self, mesh: &mut Mesh, number: usize, now: Time) {
        let meta = self.meta[number];
        let from = canonical(meta.addr);
        if is_stream(from.ip()) {
            // Somebody pretends to be one of our connections.
            return self.odd_datagrams += 1;
        }
        let start = number * RECEIVE_STRIDE_BYTES;
        let (end, stride) = (start + meta.len, meta.stride.max(1));
        let outer = Ecn::of_bits(meta.ecn.map_or(0, |ecn| ecn as u8));
        // Datagrams for one next hop lie side by side, and leave as they came: as one row.
        let mut onward: Option<(Shape, usize)> = None;
        let mut at = start;
        while at < end {
            let next = (at + stride).min(end);
            let datagram = &mut self.received[at..next];
            let outcome = match &mut self.tap {
                None => mesh.handle_datagram_ecn(from, outer, datagram, now),
                Some(tap) => handle_shown(tap, mesh, (from, outer), datagram, now),
            };
            let shape = match outcome {
                Received::Relay { to, ecn } if meta.len <= stride => {
                    // It came alone. With others like it, it leaves as a row.
                    self.row.extend(&mut self.sender, to, ecn, meta.len).copy_from_slice(&self.received[at..next]);
                    None
                }
                Received::Relay { to, ecn } => Some(Shape { to, ecn, datagram_bytes: stride }),
                Received::Done | Received::Packet(_) => None,
            };
            if let Some((previous, began)) = onward.filter(|(previous, _)| Some(*previous) != shape) {
                self.relay_row(mesh, previous, began..at);
                onward = None;
            }
            onward = onward.or(shape.map(|shape| (shape, at)));
            if let Received::Packet(record) = outcome {
                self.delivery.push(at, record);
            }
            at = next;
        }
        if let Some((shape, began)) = onward {
            self.relay_row(mesh, shape, began..end);
        }
    }

    /// Passes a row of datagrams on as it came.
    fn relay_row(&mut self, mesh: &mut Mesh, shape: Shape, bytes: Range<usize>) {
        self.sender.send_row(&mut self.row);
        self.sender.send(shape, &self.received[bytes]);
        self.note_full(mesh);
    }

    /// Feeds frames, each behind its length, that came in over a connection to the core.
    pub(crate) fn read_frames(&mut self, mesh: &mut Mesh, from: SocketAddr, mut bytes: Vec<u8>) {
        let now = self.now();
        let mut at = 0;
        while let Ok(Some(frame)) = next_frame(&bytes[at..]) {
            let (start, end) = (at + frame.start, at + frame.end);
            let frame = &mut bytes[start..end];
            let outcome = match &mut self.tap {
                None => mesh.handle_datagram_ecn(from, Ecn::NotCapable, frame, now),
                Some(tap) => handle_shown(tap, mesh, (from, Ecn::NotCapable), frame, now),
            };
            match outcome {
                Received::Done => {}
                Received::Packet(record) => self.delivery.push(start, record),
                Received::Relay { to, ecn } => {
                    self.row.extend(&mut self.sender, to, ecn, end - start).copy_from_slice(&bytes[start..end]);
                }
            }
            at = end;
        }
        self.sender.send_row(&mut self.row);
        self.note_full(mesh);
        match &self.tun {
            Some(tun) => self.delivery.write(&bytes, tun, mesh, now),
            None => self.delivery.answer(&mut bytes, mesh, now),
        }
        self.flush(mesh);
    }
}

/// Feeds a datagram to the core, and shows it to whoever looks.
fn handle_shown(
    tap: &mut Tap,
    mesh: &mut Mesh,
    (from, outer): (SocketAddr, Ecn),
    data: &mut [u8],
    now: Time,
) -> Received {
    let (what, before) = ((data.first().copied().unwrap_or(0), data.len()), Before::of(mesh));
    let outcome = mesh.handle_datagram_ecn(from, outer, data, now);
    tap.frame_in(what, from, &outcome, &before, mesh);
    match &outcome {
        Received::Done => {}
        Received::Packet(record) => {
            tap.packet(Way::In, &data[record.start..record.end], record.flags.partial_checksum, None);
        }
        Received::Relay { to, .. } => tap.frame_out(what.0, what.1, *to, true),
    }
    outcome
}
