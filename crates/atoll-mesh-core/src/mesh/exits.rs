//! Packets that leave the mesh, or come from outside of it: see [`exit`](crate::exit).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use atoll_base::{MeshAddr, NodeId};
use rand_chacha::rand_core::Rng as _;

use super::Mesh;
use crate::{
    exit::{Denied, Offer},
    packet::{self, Refusal},
    time::Time,
    translate::{
        FRAGMENTABLE_BYTES_MAX, SPARE_BYTES, Untranslatable, addresses4, embed, embedded, head_to_ipv4, head_to_ipv6,
        icmp_to_ipv4, icmp_to_ipv6, is_global, is_icmp4, is_icmp6, quoted_in_icmp4, quoted_in_icmp6,
    },
};

impl Mesh {
    /// Makes this node an exit, or ends that.
    pub fn set_exit_offer(&mut self, offer: Option<Offer>) {
        self.exits.set_offer(self.local.region, self.network, offer);
    }

    /// Says which addresses this machine has, for an exit, and how many bits of each are its local network: what shares
    /// that with one of them is not let through, of IPv6 what shares a /64. Call it after [`Self::set_exit_offer`], and
    /// when they change.
    pub fn set_exit_addresses(&mut self, addresses: &[(IpAddr, u8)]) {
        let ipv6 = addresses.iter().filter_map(|(address, _)| match address {
            IpAddr::V6(v6) => Some(*v6),
            IpAddr::V4(_) => None,
        });
        self.exits.set_own_addresses(ipv6);
        let ipv4 = addresses.iter().filter_map(|(address, bits)| match address {
            IpAddr::V4(v4) => Some((*v4, *bits)),
            IpAddr::V6(_) => None,
        });
        self.exits.set_own_networks(ipv4);
    }

    /// Says over which node packets of this machine leave the mesh; `None`: over none.
    pub fn use_exit(&mut self, exit: Option<NodeId>) {
        self.exits.set_used(exit.map(|node| MeshAddr::of(self.local.region, node)));
    }

    /// Whether there is a way to the exit that is used; nothing if none is.
    pub fn reaches_exit(&self) -> Option<bool> {
        self.exits.used().map(|exit| self.router.route(exit).is_some())
    }

    /// To which node a packet of this machine goes; nothing if it does not belong into the mesh.
    pub(super) fn destination(&self, source: Ipv6Addr, target: Ipv6Addr) -> Option<MeshAddr> {
        let network = MeshAddr::containing(target);
        if self.realm_of(network).is_some() {
            let is_ours = self.network.contains(source) || self.exits.lets_back(source, network);
            return (is_ours && network != self.network).then_some(network);
        }
        self.exits.way_out(self.own_address(), source, target)
    }

    /// Whether a packet that a far node sent may come out here: nobody speaks in another's name, and nobody sends
    /// through us to a third, except to and from outside over an exit.
    pub(super) fn may_arrive(&self, sender: MeshAddr, source: Ipv6Addr, target: Ipv6Addr) -> bool {
        match (sender.contains(source), self.network.contains(target)) {
            (true, true) => true,
            (true, false) => match embedded(target) {
                Some(ipv4) => self.exits.lets_out_to_ipv4(sender, source, ipv4).is_ok(),
                None => self.exits.lets_out(sender, target),
            },
            (false, true) => self.exits.lets_in(sender, source, self.own_address(), target),
            (false, false) => false,
        }
    }

    /// Tells the sender of a packet to an IPv4 address that it is not let out: its programs may know other addresses.
    pub(super) fn refuse_ipv4(&mut self, sender: MeshAddr, packet: &[u8], now: Time) {
        let Some((source, target)) = packet::addresses(packet) else { return };
        let Some(target) = embedded(target).filter(|_| source == sender.node() && self.exits.is_offered()) else {
            return;
        };
        let why = match self.exits.lets_out_to_ipv4(sender, source, target) {
            Ok(()) => return,
            Err(Denied::Prohibited) => Refusal::Prohibited,
            Err(Denied::NoIpv4) => Refusal::NoRoute,
        };
        if self.icmp_rate.allow(now)
            && let Some(error) = packet::refusal(self.own_address(), packet, why)
        {
            self.handle_packet(&error, false, now);
        }
    }

    /// Rewrites the headers of a TCP or UDP packet, or of a super-packet, that a guest sent to an IPv4 address and that
    /// came out of the mesh here, with a partial checksum; the largest packet for which it stands has `largest` bytes.
    /// Whether they are those of IPv4 now: these begin at [`SPARE_BYTES`].
    pub fn head_to_ipv4(&mut self, head: &mut [u8], largest: usize, now: Time) -> bool {
        let ends = packet::ends(head).and_then(|(source, target)| self.ipv4_ends(source, target, now));
        let Some(ends) = ends else { return false };
        let identification = self.identification(largest);
        let done = head_to_ipv4(head, ends, true, identification);
        self.count_translation(done).is_some()
    }

    /// The same for any such packet, with a complete checksum: what it becomes.
    pub fn packet_to_ipv4(&mut self, packet: &[u8], now: Time) -> Option<Vec<u8>> {
        let (source, target) = packet::addresses(packet)?;
        let ends = self.ipv4_ends(source, target, now)?;
        if let Some((_, quoted)) = quoted_in_icmp6(packet)
            && quoted != source
        {
            // It would be about a connection of somebody else.
            self.counters.dropped_wrong_address += 1;
            return None;
        }
        self.translate_to_ipv4(packet, ends)
    }

    /// The same for an error that a node of the mesh sends to an IPv4 address: it goes under the address of whom the
    /// packet was for that could not go on.
    pub(super) fn error_to_ipv4(&mut self, packet: &[u8], now: Time) -> Option<Vec<u8>> {
        let (_, target) = packet::addresses(packet)?;
        let (_, quoted) = quoted_in_icmp6(packet)?;
        let ends = self.ipv4_ends(quoted, target, now)?;
        self.translate_to_ipv4(packet, ends)
    }

    fn translate_to_ipv4(&mut self, packet: &[u8], ends: (Ipv4Addr, Ipv4Addr)) -> Option<Vec<u8>> {
        let identification = self.identification(packet.len());
        let done = if is_icmp6(packet) {
            icmp_to_ipv4(packet, ends, (ends.1, ends.0), identification)
        } else {
            let mut whole = packet.to_vec();
            head_to_ipv4(&mut whole, ends, false, identification).map(|()| whole.split_off(SPARE_BYTES))
        };
        self.count_translation(done)
    }

    /// Rewrites an IPv4 packet that the exit's machine sends to a guest, in place; it lies in `buffer` behind
    /// [`SPARE_BYTES`]. Where the IPv6 packet begins, and to whom it goes by [`Self::sealer_to`]; nothing if there is
    /// nothing more to be done.
    pub fn packet_to_ipv6(&mut self, buffer: &mut [u8], partial: bool, now: Time) -> Option<(MeshAddr, usize)> {
        let packet = buffer.get(SPARE_BYTES..)?;
        let Some((source, target)) = addresses4(packet).filter(|_| self.exits.is_offered()) else {
            self.counters.dropped_not_ipv6 += 1;
            return None;
        };
        let Some(guest) = self.exits.guest_at(target, now) else {
            self.counters.dropped_wrong_address += 1;
            return None;
        };
        let ends = (embed(source), guest.node());
        if is_icmp4(packet) {
            self.icmp_to_guest(guest, packet, ends, now);
            return None;
        }
        if !is_global(source) {
            self.counters.dropped_wrong_address += 1;
            return None;
        }
        let done = head_to_ipv6(buffer, ends, partial);
        self.count_translation(done).map(|start| (guest, start))
    }

    fn icmp_to_guest(&mut self, guest: MeshAddr, packet: &[u8], (source, target): (Ipv6Addr, Ipv6Addr), now: Time) {
        let quoted = quoted_in_icmp4(packet);
        let is_known = embedded(source).is_some_and(is_global);
        // Routers may have private addresses; what they say of a guest's packet comes under the exit's own address.
        let source = match quoted {
            Some((from, _)) if self.exits.guest_at(from, now) != Some(guest) => {
                return self.counters.dropped_wrong_address += 1;
            }
            Some(_) if !is_known => self.own_address(),
            None if !is_known => return self.counters.dropped_wrong_address += 1,
            Some(_) | None => source,
        };
        let quoted = (target, quoted.map_or(source, |(_, to)| embed(to)));
        let done = icmp_to_ipv6(packet, (source, target), quoted);
        if let Some(translated) = self.count_translation(done) {
            self.handle_packet_to(guest, &translated, false, now);
        }
    }

    /// The two ends of a packet to an IPv4 address.
    fn ipv4_ends(&mut self, source: Ipv6Addr, target: Ipv6Addr, now: Time) -> Option<(Ipv4Addr, Ipv4Addr)> {
        let target = embedded(target)?;
        let address = self.exits.address_of(MeshAddr::containing(source), now);
        if address.is_none() {
            self.counters.dropped_no_ipv4_address += 1;
        }
        Some((address?, target))
    }

    /// What names the fragments of a packet of this size; none: it is not to be fragmented.
    fn identification(&mut self, ipv6_bytes: usize) -> Option<u16> {
        (ipv6_bytes <= FRAGMENTABLE_BYTES_MAX + SPARE_BYTES).then(|| self.rng.next_u32() as u16)
    }

    fn count_translation<T>(&mut self, done: Result<T, Untranslatable>) -> Option<T> {
        match done {
            Ok(done) => return Some(done),
            Err(Untranslatable::Fragment) => self.counters.dropped_fragments += 1,
            Err(Untranslatable::Malformed | Untranslatable::Protocol) => self.counters.dropped_untranslatable += 1,
        }
        None
    }
}
