//! Handing packets to the TUN device, as super-packets where they were such.

use std::io::IoSlice;

use atoll_mesh_core::{
    Mesh, Record, Time,
    offload::{HEADERS_BYTES_MAX, Merger, Offload, Transport, complete_checksum, headers},
    translate::{HEADER4_BYTES, SPARE_BYTES, is_to_ipv4},
};
use atoll_os::tun::{Segmented, Tun, VnetHeader};

/// The IPv6 header without extensions (RFC 8200).
const HEADER6_BYTES: usize = 40;

/// Packets that lie in a buffer of received datagrams, in order.
pub(crate) struct Delivery {
    /// Where the datagram of each starts, and what lies in it.
    records: Vec<(usize, Record)>,
    takes_udp_segments: bool,
    /// Packets and super-packets that were written since [`Self::take_count`].
    count: usize,
    /// Packets that the kernel did not take.
    pub(crate) errors: u64,
}

impl Delivery {
    pub(crate) const fn new(takes_udp_segments: bool) -> Self {
        Self { records: Vec::new(), takes_udp_segments, count: 0, errors: 0 }
    }

    /// How many packets and super-packets were written since this was asked last.
    pub(crate) const fn take_count(&mut self) -> usize {
        core::mem::replace(&mut self.count, 0)
    }

    /// Adds a packet that lies in the datagram that starts at `at`.
    pub(crate) fn push(&mut self, at: usize, record: Record) {
        self.records.push((at, record));
    }

    /// Whether the last packet is a segment of a super-packet, of which more may follow.
    pub(crate) fn is_within_super(&self) -> bool {
        self.records.last().is_some_and(|(_, record)| record.flags.continues)
    }

    /// Writes all packets, which lie in `buffer`, and forgets them. Those to IPv4 addresses become packets of IPv4.
    pub(crate) fn write(&mut self, buffer: &[u8], tun: &Tun, mesh: &mut Mesh, now: Time) {
        let records = core::mem::take(&mut self.records);
        let mut rest = records.as_slice();
        while let Some((first, followers)) = rest.split_first() {
            let taken = self.write_row(first, followers, buffer, (tun, mesh, now));
            rest = &followers[taken..];
        }
        self.records = records;
        self.records.clear();
    }

    /// Lets the core answer all packets, which lie in `buffer`, as there is no device; and forgets them.
    pub(crate) fn answer(&mut self, buffer: &mut [u8], mesh: &mut Mesh, now: Time) {
        for (at, record) in self.records.drain(..) {
            mesh.handle_own_packet(&mut buffer[at + record.start..at + record.end], record.flags.partial_checksum, now);
        }
    }

    /// Writes one packet whose checksum is complete.
    pub(crate) fn write_one(&mut self, packet: &[u8], tun: &Tun) {
        let header = VnetHeader::default().to_bytes();
        self.put(&[IoSlice::new(&header), IoSlice::new(packet)], tun);
    }

    /// Writes a packet with as many followers as continue it; how many these were.
    fn write_row(
        &mut self,
        (at, record): &(usize, Record),
        followers: &[(usize, Record)],
        buffer: &[u8],
        (tun, mesh, now): (&Tun, &mut Mesh, Time),
    ) -> usize {
        let packet = &buffer[at + record.start..at + record.end];
        let is_to_ipv4 = is_to_ipv4(packet);
        if !record.flags.partial_checksum {
            match is_to_ipv4 {
                false => self.write_one(packet, tun),
                true => self.write_translated(packet, tun, mesh, now),
            }
            return 0;
        }
        let Some(mut merger) = Merger::begin(packet) else {
            // No payload, or a transport whose checksum this program cannot place: the kernel gets it complete.
            let mut packet = packet.to_vec();
            complete_checksum(&mut packet);
            match is_to_ipv4 {
                false => self.write_one(&packet, tun),
                true => self.write_translated(&packet, tun, mesh, now),
            }
            return 0;
        };
        let first_payload = headers(packet).map_or(packet.len(), |(_, bytes)| bytes);
        // Headers come first, but are known last.
        let mut pieces = Vec::with_capacity(followers.len().min(64) + 3);
        pieces.extend([IoSlice::new(&[]), IoSlice::new(&[]), IoSlice::new(&packet[first_payload..])]);
        let mut previous = record;
        let mut taken = 0;
        for (at, follower) in followers {
            let goes_on = follower.flags.continues
                && follower.flags.partial_checksum
                && follower.session == previous.session
                && follower.counter == previous.counter + 1
                && (self.takes_udp_segments || merger.transport() == Transport::Tcp);
            let packet = &buffer[at + follower.start..at + follower.end];
            let Some(payload) = goes_on.then(|| merger.append(packet)).flatten() else { break };
            pieces.push(IoSlice::new(&packet[payload]));
            previous = follower;
            taken += 1;
        }
        let (head, transport, offload) = merger.finish();
        let mut translated = [0; HEADERS_BYTES_MAX];
        let head = if is_to_ipv4 {
            let translated = &mut translated[..head.len()];
            translated.copy_from_slice(head);
            if !mesh.head_to_ipv4(translated, packet.len(), now) {
                return taken;
            }
            &translated[SPARE_BYTES..]
        } else {
            head
        };
        let vnet = vnet_of(head, transport, offload).to_bytes();
        pieces[0] = IoSlice::new(&vnet);
        pieces[1] = IoSlice::new(head);
        self.put(&pieces, tun);
        taken
    }

    /// Writes one packet to an IPv4 address, whose checksum is complete, if it can become one of IPv4.
    fn write_translated(&mut self, packet: &[u8], tun: &Tun, mesh: &mut Mesh, now: Time) {
        if let Some(translated) = mesh.packet_to_ipv4(packet, now) {
            self.write_one(&translated, tun);
        }
    }

    fn put(&mut self, pieces: &[IoSlice<'_>], tun: &Tun) {
        self.count += 1;
        if let Err(error) = tun.try_write(pieces) {
            self.errors += 1;
            tracing::trace!(%error, "a packet was not written");
        }
    }
}

/// What the kernel is told of a packet, or super-packet, with these headers.
fn vnet_of(head: &[u8], transport: Transport, offload: Offload) -> VnetHeader {
    let is_ipv4 = head[0] >> 4 == 4;
    let header_bytes = if is_ipv4 { HEADER4_BYTES } else { HEADER6_BYTES };
    let segmented = match transport {
        Transport::Tcp if is_ipv4 => Segmented::Tcp4,
        Transport::Tcp => Segmented::Tcp,
        Transport::Udp => Segmented::Udp,
    };
    VnetHeader {
        partial_checksum: Some((header_bytes as u16, transport.checksum_at() as u16)),
        segments: (offload.segment_bytes > 0).then_some((segmented, offload.segment_bytes)),
        headers_bytes: head.len() as u16,
    }
}
