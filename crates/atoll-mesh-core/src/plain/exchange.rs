//! What is told to neighbours on plain interfaces, and what is taken from what they tell.

use core::time::Duration;
use std::net::Ipv6Addr;

use super::{
    Interface, PlainRouter, PlainTransmit,
    neighbour::{Neighbour, hold},
    table::{Route, Source, Via},
};
use crate::{
    babel::{Ack, Hello, INFINITY, Ihu, Prefix, RouterId, Tlv, Update, Writer, decode},
    limits::{
        PLAIN_HELLO_INTERVAL, PLAIN_IHU_INTERVAL, PLAIN_NEIGHBOURS_MAX, PLAIN_PAUSE, PLAIN_ROUTES_MAX,
        PLAIN_SOURCE_KEEP, PLAIN_SOURCES_MAX, PLAIN_TRANSMITS_MAX, PLAIN_UPDATE_INTERVAL,
    },
    time::Time,
};

impl PlainRouter {
    /// Takes the payload of a datagram that came from port [`crate::babel::PORT`] of this link-local address. What is
    /// no packet of Babel, or comes from elsewhere, changes nothing.
    pub fn handle_packet(&mut self, index: u32, from: Ipv6Addr, packet: &[u8], now: Time) {
        let Some(interface) = self.interfaces.get(&index) else { return };
        if !from.is_unicast_link_local() || interface.config.addresses.contains(&from) {
            return;
        }
        let Ok(tlvs) = decode(packet) else { return };
        let via = (index, from);
        let mut next_hop = Some(from);
        for tlv in &tlvs {
            if let Tlv::Hello(hello) = tlv {
                self.handle_hello(via, *hello, now);
            }
            if !self.neighbours.contains_key(&via) {
                // It has to say hello first.
                continue;
            }
            match tlv {
                Tlv::Hello(_) | Tlv::Ack(_) => {}
                Tlv::AckRequest(ask) => {
                    if self.answers.allow(now) {
                        self.send(index, Some(from), &[Tlv::Ack(Ack { opaque: ask.opaque, number: None })]);
                    }
                }
                Tlv::Ihu(ihu) => self.handle_ihu(via, ihu, now),
                // A way that is not on this wire is none that could be checked.
                Tlv::NextHop(address) => next_hop = Some(*address).filter(Ipv6Addr::is_unicast_link_local),
                Tlv::Update(update) => {
                    if let Some(next_hop) = next_hop {
                        self.handle_update(via, next_hop, update, now);
                    }
                }
                Tlv::RouteRequest(prefix) => self.handle_route_request(via, *prefix, now),
                Tlv::SeqnoRequest(request) => self.handle_seqno_request(via, *request, now),
            }
        }
    }

    fn handle_hello(&mut self, via: Via, hello: Hello, now: Time) {
        // Unicast hellos are counted apart by their sender, and are no promise to this interface.
        if hello.is_unicast {
            return;
        }
        if !self.neighbours.contains_key(&via) && self.neighbours.len() >= PLAIN_NEIGHBOURS_MAX {
            return;
        }
        let neighbour = self.neighbours.entry(via).or_insert_with(|| Neighbour::new(now));
        let (rxcost, cost) = (neighbour.rxcost(), neighbour.cost());
        neighbour.handle_hello(hello, now);
        let is_new = neighbour.rxcost() != rxcost || neighbour.rxcost() == INFINITY;
        if let Some(interface) = self.interfaces.get_mut(&via.0).filter(|_| is_new) {
            interface.hurry(now);
        }
        self.handle_cost(via, cost, now);
    }

    fn handle_ihu(&mut self, via: Via, ihu: &Ihu, now: Time) {
        let is_for_me = |interface: &Interface| ihu.address.is_none_or(|a| interface.config.addresses.contains(&a));
        if !self.interfaces.get(&via.0).is_some_and(is_for_me) {
            return;
        }
        if let Some(neighbour) = self.neighbours.get_mut(&via) {
            let cost = neighbour.cost();
            neighbour.handle_ihu(ihu.rxcost, ihu.interval_cs, now);
            self.handle_cost(via, cost, now);
        }
    }

    /// A neighbour was heard: perhaps it can be used from now on, or not any more.
    fn handle_cost(&mut self, via: Via, before: u16, now: Time) {
        let Some(cost) = self.neighbours.get(&via).map(Neighbour::cost).filter(|cost| *cost != before) else { return };
        self.select_all_over(via, now);
        if before == INFINITY && cost != INFINITY {
            // It may know much that was said before, and know nothing of what was said here.
            self.send(via.0, Some(via.1), &[Tlv::RouteRequest(None)]);
            self.mark_everything(via.0, now);
        }
    }

    fn handle_update(&mut self, via: Via, next_hop: Ipv6Addr, update: &Update, now: Time) {
        let Some(prefix) = update.prefix else {
            // The decoder lets only retractions through.
            let lost: Vec<_> =
                self.entries.iter().filter(|(_, e)| e.routes.contains_key(&via)).map(|(prefix, _)| *prefix).collect();
            for prefix in lost {
                self.remove_route(prefix, via, now);
            }
            return;
        };
        let router_id = update.router_id.filter(|id| update.metric != INFINITY && *id != self.router_id);
        let Some(router_id) = router_id.filter(|_| self.accepts(via.0, prefix)) else {
            return self.remove_route(prefix, via, now);
        };
        self.satisfy(prefix, router_id, update.seqno);
        let is_new = self.entries.get(&prefix).is_none_or(|entry| !entry.routes.contains_key(&via));
        if is_new {
            if self.route_count >= PLAIN_ROUTES_MAX {
                return;
            }
            self.route_count += 1;
        }
        let route = Route {
            router_id,
            seqno: update.seqno,
            advertised: update.metric,
            next_hop,
            expiry: now + hold(update.interval_cs),
        };
        self.entries.entry(prefix).or_default().routes.insert(via, route);
        self.select(prefix, now);
    }

    /// Says hello and sends announcements where they are due.
    pub(super) fn speak(&mut self, index: u32, now: Time) {
        let Some(interface) = self.interfaces.get_mut(&index) else { return };
        if interface.next_hello <= now {
            interface.burst = interface.burst.saturating_sub(1);
            let pause = if interface.burst > 0 { PLAIN_PAUSE } else { PLAIN_HELLO_INTERVAL };
            interface.next_hello = now + pause;
            let hello = Hello {
                is_unicast: false,
                seqno: interface.hello_seqno,
                interval_cs: centiseconds(PLAIN_HELLO_INTERVAL),
                timestamp_us: None,
                link: None,
                grant: None,
            };
            interface.hello_seqno = interface.hello_seqno.wrapping_add(1);
            let heard = self.neighbours.iter().filter(|(via, _)| via.0 == index).map(|(via, neighbour)| {
                let interval_cs = centiseconds(PLAIN_IHU_INTERVAL);
                Tlv::Ihu(Ihu { address: Some(via.1), rxcost: neighbour.rxcost(), interval_cs, echo: None })
            });
            let tlvs: Vec<_> = core::iter::once(Tlv::Hello(hello)).chain(heard).collect();
            self.send(index, None, &tlvs);
        }
        let Some(interface) = self.interfaces.get_mut(&index) else { return };
        if interface.next_update <= now {
            interface.next_update = now + PLAIN_UPDATE_INTERVAL;
            self.mark_everything(index, now);
        }
        if self.interfaces.get(&index).and_then(|interface| interface.flush).is_some_and(|flush| flush <= now) {
            self.flush(index, now);
        }
    }

    /// All that is known is to be announced on an interface.
    pub(super) fn mark_everything(&mut self, index: u32, now: Time) {
        let Some(interface) = self.interfaces.get_mut(&index) else { return };
        let selected = self.entries.iter().filter(|(_, entry)| entry.selected.is_some()).map(|(prefix, _)| prefix);
        for prefix in self.own.keys().chain(selected) {
            interface.mark(*prefix, 1, now);
        }
    }

    fn flush(&mut self, index: u32, now: Time) {
        let Some(interface) = self.interfaces.get_mut(&index) else { return };
        interface.flushed = Some(now);
        interface.flush = None;
        let pending = core::mem::take(&mut interface.pending);
        let mut tlvs = Vec::with_capacity(pending.len());
        for (prefix, times) in pending {
            let Some(update) = self.announcement(index, prefix, now) else { continue };
            tlvs.push(Tlv::Update(Box::new(update)));
            if let Some(interface) = self.interfaces.get_mut(&index).filter(|_| times > 1) {
                interface.mark(prefix, times - 1, now);
            }
            if let Some(interface) = self.interfaces.get_mut(&index) {
                // A retraction is still repeated, from what is pending.
                let is_last = update.metric == INFINITY && times <= 1;
                if is_last {
                    interface.told.remove(&prefix)
                } else {
                    interface.told.insert(prefix)
                };
            }
        }
        self.send(index, None, &tlvs);
    }

    /// What neighbours on an interface are told of a prefix; nothing, if they never were told of it and need not be.
    pub(super) fn announcement(&mut self, index: u32, prefix: Prefix, now: Time) -> Option<Update> {
        if let Some(metric) = self.own_metric(index, prefix) {
            return Some(update(prefix, Some(self.router_id), self.seqno, metric));
        }
        let selected = self.entries.get(&prefix).and_then(|entry| entry.selected);
        let source = selected.filter(|route| route.via.0 != index).map(|route| (route, (prefix, route.router_id)));
        if let Some((route, key)) = source {
            // Without a feasibility distance nothing is promised.
            if self.sources.len() < PLAIN_SOURCES_MAX || self.sources.contains_key(&key) {
                let expiry = now + PLAIN_SOURCE_KEEP;
                let source = self.sources.entry(key).or_insert(Source { seqno: route.seqno, metric: INFINITY, expiry });
                source.lower(route.seqno, route.metric);
                source.expiry = expiry;
                return Some(update(prefix, Some(route.router_id), route.seqno, route.metric));
            }
        }
        let is_told = self.interfaces.get(&index).is_some_and(|interface| interface.told.contains(&prefix));
        is_told.then(|| update(prefix, None, self.seqno, INFINITY))
    }

    fn handle_route_request(&mut self, via: Via, prefix: Option<Prefix>, now: Time) {
        let Some(prefix) = prefix else { return self.mark_everything(via.0, now) };
        if !self.answers.allow(now) {
            return;
        }
        let answer = self.announcement(via.0, prefix, now).unwrap_or(update(prefix, None, self.seqno, INFINITY));
        if let Some(interface) = self.interfaces.get_mut(&via.0).filter(|_| answer.metric != INFINITY) {
            interface.told.insert(prefix);
        }
        self.send(via.0, Some(via.1), &[Tlv::Update(Box::new(answer))]);
    }

    /// Takes everything back, on all interfaces, twice: nobody will be here to repeat it.
    pub(super) fn send_goodbye(&mut self) {
        let nothing = Update { prefix: None, ..update(self.region, None, self.seqno, INFINITY) };
        for index in self.interfaces.keys().copied().collect::<Vec<_>>() {
            for _ in 0..2 {
                self.send(index, None, &[Tlv::Update(Box::new(nothing))]);
            }
        }
    }

    pub(super) fn send(&mut self, interface: u32, to: Option<Ipv6Addr>, tlvs: &[Tlv]) {
        let mut writer = Writer::default();
        for tlv in tlvs {
            if !writer.push(tlv) {
                self.queue(interface, to, core::mem::take(&mut writer));
                writer.push(tlv);
            }
        }
        self.queue(interface, to, writer);
    }

    fn queue(&mut self, interface: u32, to: Option<Ipv6Addr>, writer: Writer) {
        if !writer.is_empty() && self.outbox.len() < PLAIN_TRANSMITS_MAX {
            self.outbox.push_back(PlainTransmit { interface, to, data: writer.finish() });
        }
    }
}

fn update(prefix: Prefix, router_id: Option<RouterId>, seqno: u16, metric: u16) -> Update {
    let interval_cs = centiseconds(PLAIN_UPDATE_INTERVAL);
    Update { prefix: Some(prefix), router_id, interval_cs, seqno, metric, origin: None, grant: None, path: None }
}

fn centiseconds(time: Duration) -> u16 {
    u16::try_from(time.as_millis() / 10).unwrap_or(u16::MAX)
}
